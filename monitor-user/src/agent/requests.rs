//! People's requests that wait for the supervisor's answers.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::control::{Response, ServiceResult};
use crate::supervisor::{DeniedReason, Reply, RequestId};

/// All that wait.
#[derive(Default)]
pub(super) struct Requests {
    last: u64,
    /// Which group a request belongs to, and its service.
    waiting: HashMap<RequestId, (u64, Option<String>)>,
    groups: HashMap<u64, Group>,
}

/// The services of one command, answered together.
struct Group {
    missing: usize,
    results: Vec<ServiceResult>,
    reply: oneshot::Sender<Response>,
}

/// The requests of one command.
pub(super) struct Asked {
    /// For `release`.
    pub(super) id: u64,
    /// To ask the supervisor with, in the order of the services.
    pub(super) requests: Vec<RequestId>,
}

impl Requests {
    /// A command for each of `services`. With none, it is answered at once.
    pub(super) fn group(
        &mut self,
        services: &[String],
        reply: oneshot::Sender<Response>,
    ) -> Asked {
        let id = self.new_group(services.len(), reply);
        let requests =
            services.iter().map(|service| self.new_request(id, Some(service.clone()))).collect();
        if services.is_empty() {
            self.release(id);
        }
        Asked { id, requests }
    }

    /// Answers a command for which nobody wants to wait: what was not denied by now is under way.
    pub(super) fn release(&mut self, id: u64) {
        let Some(mut group) = self.groups.remove(&id) else {
            return;
        };
        for (_, (_, service)) in self.waiting.extract_if(|_, (of, _)| *of == id) {
            let done = |service| ServiceResult { service, ok: true, error: None };
            group.results.extend(service.map(done));
        }
        answer(group.reply, Response::Done { results: group.results });
    }

    /// A command that is not about single services.
    pub(super) fn single(&mut self, reply: oneshot::Sender<Response>) -> RequestId {
        let group = self.new_group(1, reply);
        self.new_request(group, None)
    }

    /// A request that nobody waits for.
    pub(super) fn nobody(&mut self) -> RequestId {
        self.last += 1;
        RequestId(self.last)
    }

    fn new_group(&mut self, missing: usize, reply: oneshot::Sender<Response>) -> u64 {
        self.last += 1;
        self.groups.insert(self.last, Group { missing, results: Vec::new(), reply });
        self.last
    }

    fn new_request(&mut self, group: u64, service: Option<String>) -> RequestId {
        self.last += 1;
        self.waiting.insert(RequestId(self.last), (group, service));
        RequestId(self.last)
    }

    /// Takes the supervisor's answer; the last one of a group answers the command.
    pub(super) fn answer(&mut self, request: RequestId, reply: Reply) {
        let Some((id, service)) = self.waiting.remove(&request) else {
            return;
        };
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let error = match reply {
            Reply::Done => None,
            Reply::Denied(reason) => Some(words(&reason)),
            Reply::Reloaded(summary) => {
                if let Some(group) = self.groups.remove(&id) {
                    answer(group.reply, Response::Reloaded { summary });
                }
                return;
            }
        };
        if let Some(service) = service {
            group.results.push(ServiceResult { service, ok: error.is_none(), error });
        }
        group.missing -= 1;
        if group.missing == 0
            && let Some(group) = self.groups.remove(&id)
        {
            answer(group.reply, Response::Done { results: group.results });
        }
    }
}

/// Answers a command; its client may have gone.
pub(super) fn answer(reply: oneshot::Sender<Response>, response: Response) {
    let _ = reply.send(response);
}

fn words(reason: &DeniedReason) -> String {
    match reason {
        DeniedReason::UnknownService(service) => format!("there is no service {service}"),
        DeniedReason::NotRunning(service) => format!("{service} is not running"),
        DeniedReason::StartFailed { failure, .. } => failure.to_string(),
        DeniedReason::Overtaken { by, .. } => format!("overtaken by a {by}"),
    }
}

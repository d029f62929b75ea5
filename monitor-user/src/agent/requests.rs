//! People's requests that wait for the supervisor's answers.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::config::Problem;
use crate::control::{Response, ServiceResult};
use crate::model::Reply;
use crate::supervisor::RequestId;

/// All that wait.
#[derive(Default)]
pub(super) struct Requests {
    last: u64,
    waiting: HashMap<RequestId, Waiting>,
    groups: HashMap<u64, Group>,
}

/// One request to the supervisor.
struct Waiting {
    group: u64,
    /// Its place among the group's results; `None` if it is not about a single service.
    result: Option<usize>,
}

/// The services of one command, answered together.
struct Group {
    missing: usize,
    /// As long as nothing else is known of a service, all is well.
    results: Vec<ServiceResult>,
    /// Of the config that is being taken up.
    warnings: Vec<Problem>,
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
    pub(super) fn group(&mut self, services: &[String], reply: oneshot::Sender<Response>) -> Asked {
        let id = self.new_group(services, services.len(), reply);
        let requests = (0..services.len())
            .map(|index| self.new_request(id, Some(index)))
            .collect();
        if services.is_empty() {
            self.release(id);
        }
        Asked { id, requests }
    }

    /// Answers a command for which nobody wants to wait: what was not denied by now is under way.
    pub(super) fn release(&mut self, id: u64) {
        if let Some(group) = self.groups.remove(&id) {
            self.waiting.retain(|_, waiting| waiting.group != id);
            answer(
                group.reply,
                Response::Done {
                    results: group.results,
                },
            );
        }
    }

    /// A command that is not about single services.
    pub(super) fn single(&mut self, reply: oneshot::Sender<Response>) -> RequestId {
        let group = self.new_group(&[], 1, reply);
        self.new_request(group, None)
    }

    /// A reload of a config that is good, but for these warnings.
    pub(super) fn reload(
        &mut self,
        warnings: Vec<Problem>,
        reply: oneshot::Sender<Response>,
    ) -> RequestId {
        let group = self.new_group(&[], 1, reply);
        if let Some(group) = self.groups.get_mut(&group) {
            group.warnings = warnings;
        }
        self.new_request(group, None)
    }

    /// A request that nobody waits for.
    pub(super) fn nobody(&mut self) -> RequestId {
        self.last += 1;
        RequestId(self.last)
    }

    fn new_group(
        &mut self,
        services: &[String],
        missing: usize,
        reply: oneshot::Sender<Response>,
    ) -> u64 {
        self.last += 1;
        let results = services
            .iter()
            .map(|service| ServiceResult::new(service, &Reply::Done))
            .collect();
        self.groups.insert(
            self.last,
            Group {
                missing,
                results,
                warnings: Vec::new(),
                reply,
            },
        );
        self.last
    }

    fn new_request(&mut self, group: u64, result: Option<usize>) -> RequestId {
        self.last += 1;
        self.waiting
            .insert(RequestId(self.last), Waiting { group, result });
        RequestId(self.last)
    }

    /// Has something said with the answer to a request, whatever that is.
    pub(super) fn note(&mut self, request: RequestId, note: String) {
        if let Some(Waiting { group, result }) = self.waiting.get(&request)
            && let Some(group) = self.groups.get_mut(group)
            && let Some(result) = result.and_then(|index| group.results.get_mut(index))
        {
            result.note = Some(note);
        }
    }

    /// The service that a request is about, if it is about one.
    pub(super) fn service_of(&self, request: RequestId) -> Option<&str> {
        let waiting = self.waiting.get(&request)?;
        let group = self.groups.get(&waiting.group)?;
        let result = group.results.get(waiting.result?)?;
        Some(&result.service)
    }

    /// Takes the supervisor's answer; the last one of a group answers the command.
    pub(super) fn answer(&mut self, request: RequestId, reply: Reply) {
        let Some(Waiting { group: id, result }) = self.waiting.remove(&request) else {
            return;
        };
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.missing -= 1;
        if let Some(result) = result.and_then(|index| group.results.get_mut(index)) {
            let note = result.note.take();
            *result = ServiceResult::new(&result.service, &reply);
            result.note = note.or(result.note.take());
        }
        if group.missing > 0 {
            return;
        }
        if let Some(Group {
            results,
            warnings,
            reply: sender,
            ..
        }) = self.groups.remove(&id)
        {
            answer(
                sender,
                match reply {
                    Reply::Reloaded(summary) => Response::Reloaded { summary, warnings },
                    _ => Response::Done { results },
                },
            );
        }
    }
}

/// Answers a command; its client may have gone.
pub(super) fn answer(reply: oneshot::Sender<Response>, response: Response) {
    let _ = reply.send(response);
}

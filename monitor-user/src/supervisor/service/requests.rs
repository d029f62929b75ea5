//! What people ask of a service, by themselves or through another one, and the answers that they wait for.
//!
//! `one_reply`: a request waits in one of the service's lists, and leaves it with its reply.

use std::mem;
use std::time::Duration;

use super::{Action, RequestId, Service, ServiceState, Step, after};
use crate::model::{
    DeniedReason, Desired, DownReason, Notice, Reply, ServiceName, Signal, SpawnFailure,
};

impl Service {
    pub(crate) fn start(&mut self, request: RequestId, step: &mut Step<'_>) {
        self.desired = Desired::Up;
        self.is_held = false;
        self.overtake_down("start", step);
        self.waiting_up.push(request);
        if self.is_done() {
            self.pass(step);
        } else if matches!(self.state, ServiceState::Running { .. }) {
            self.await_pass(step);
        } else {
            self.start_with_reset_limits(step);
        }
    }

    pub(crate) fn restart(&mut self, request: RequestId, step: &mut Step<'_>) {
        self.desired = Desired::Up;
        self.is_held = false;
        self.overtake_down("restart", step);
        self.waiting_up.push(request);
        self.starts_behind = self.live_instance().is_none();
        self.end_start(false, step);
        self.replace_or_start(step);
    }

    pub(crate) fn stop(&mut self, request: RequestId, step: &mut Step<'_>) {
        self.waiting_down.push(request);
        self.stop_too(step);
    }

    /// A service that it requires is stopped, or it is itself.
    pub(crate) fn stop_too(&mut self, step: &mut Step<'_>) {
        self.desired = Desired::Down;
        self.overtake_up("stop", step);
        match &mut self.state {
            ServiceState::Down(rest) => {
                if matches!(rest, DownReason::Failed { .. } | DownReason::Skipped { .. }) {
                    step.publish(Notice::Stopped {
                        service: self.name.clone(),
                    });
                    self.since = step.now;
                }
                if *rest != DownReason::Finished {
                    *rest = DownReason::Stopped;
                }
            }
            ServiceState::Ending(rest) => *rest = DownReason::Stopped,
            _ => {}
        }
        self.bring_down(step);
        if let ServiceState::Down(rest) = &mut self.state {
            *rest = DownReason::Stopped;
        }
    }

    /// A service that requires or wants it is started. One that has done its work has done it.
    pub(crate) fn pull(&mut self, step: &mut Step<'_>) {
        let was_wanted = self.is_wanted();
        self.desired = Desired::Up;
        if !self.is_wanted() {
            return;
        }
        if !was_wanted {
            self.overtake_down("start", step);
        }
        match &self.state {
            ServiceState::Down(DownReason::Finished)
            | ServiceState::Ending(DownReason::Finished) => {}
            _ => self.start_with_reset_limits(step),
        }
    }

    /// A service that it requires is restarted, or stops although it is wanted.
    pub(crate) fn restart_too(&mut self, step: &mut Step<'_>) {
        if !self.is_wanted() {
            return;
        }
        match &mut self.state {
            ServiceState::Running { instance } => {
                let instance = *instance;
                self.backoff.reset();
                self.close(instance, step);
            }
            ServiceState::Starting { is_stale, .. } => {
                *is_stale = true;
                self.abandon_start(step);
            }
            _ => {}
        }
    }

    /// The start of a service that it requires has failed, in these words.
    pub(crate) fn deny_for_requirement(&mut self, message: String, step: &mut Step<'_>) {
        self.deny_up(&SpawnFailure { message }, step);
    }

    /// Sends a signal to the main process, if there is one.
    pub(crate) fn signal(&self, signal: Signal, request: RequestId, step: &mut Step<'_>) {
        let service = self.name.clone();
        let Some(instance) = self.live_instance() else {
            return step.reply(request, Reply::Denied(DeniedReason::NotRunning(service)));
        };
        step.actions.push_back(Action::Signal {
            service,
            instance,
            signal,
            request: Some(request),
        });
    }

    /// Has it read its configuration again; answered when it has said that it is done.
    pub(crate) fn reload(
        &mut self,
        signal: Signal,
        at: Duration,
        request: RequestId,
        step: &mut Step<'_>,
    ) {
        let service = self.name.clone();
        let ServiceState::Running { instance } = self.state else {
            return step.reply(request, Reply::Denied(DeniedReason::NotRunning(service)));
        };
        if !self.is_ready {
            let why = "it is not ready yet".to_owned();
            let reason = DeniedReason::NotReloaded { service, why };
            return step.reply(request, Reply::Denied(reason));
        }
        self.reload.begin(request, at);
        self.reload.by = Some(after(step.now, self.spec.policy.start_timeout));
        step.actions.push_back(Action::Signal {
            service,
            instance,
            signal,
            request: None,
        });
    }

    /// Answers who waits for the running instance, or will when it has run long enough.
    pub(super) fn await_pass(&mut self, step: &mut Step<'_>) {
        let passes_at = after(self.since, self.spec.policy.start_check);
        if !self.is_up() {
            // Its end is what they wait for.
        } else if passes_at <= step.now || self.becomes_ready() || self.is_forking() {
            self.pass(step);
        } else if !self.waiting_up.is_empty() {
            self.passes_at = Some(passes_at);
        }
    }

    pub(super) fn pass(&mut self, step: &mut Step<'_>) {
        self.passes_at = None;
        for request in mem::take(&mut self.waiting_up) {
            step.reply(request, Reply::Done);
        }
    }

    pub(super) fn overtake_up(&mut self, by: &'static str, step: &mut Step<'_>) {
        self.waiting_up.append(&mut self.roll_waiting);
        overtake(&self.name, mem::take(&mut self.waiting_up), by, step);
    }

    pub(super) fn overtake_down(&mut self, by: &'static str, step: &mut Step<'_>) {
        overtake(&self.name, mem::take(&mut self.waiting_down), by, step);
    }

    pub(super) fn deny_up(&mut self, failure: &SpawnFailure, step: &mut Step<'_>) {
        for request in mem::take(&mut self.waiting_up) {
            let reason = DeniedReason::StartFailed {
                service: self.name.clone(),
                failure: failure.clone(),
            };
            step.reply(request, Reply::Denied(reason));
        }
    }
}

fn overtake(
    service: &ServiceName,
    requests: Vec<RequestId>,
    by: &'static str,
    step: &mut Step<'_>,
) {
    for request in requests {
        let service = service.clone();
        let reason = DeniedReason::Overtaken { service, by };
        step.reply(request, Reply::Denied(reason));
    }
}

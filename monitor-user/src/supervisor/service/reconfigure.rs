//! What follows for a service from a newer config, from its being gone from that, and from the agent's going.

use std::sync::Arc;

use super::{RequestId, Service, ServiceState, Step};
use crate::model::{Desired, DownReason, Policy, Reply, RestartPolicy, Spec};

/// What a newer config changes of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// What runs goes on.
    InPlace,
    /// It is started anew.
    Restart,
}

impl Service {
    /// The first start of a service that was not known before.
    pub(crate) fn begin(&mut self, step: &mut Step<'_>) {
        if self.is_wanted() {
            self.start_with_reset_limits(step);
        }
    }

    /// What the service's spec of a newer config changes. A changed policy holds from the next
    /// decision on; a changed exec restarts what is wanted.
    pub(crate) fn change(&self, spec: &Arc<Spec>) -> Change {
        if Arc::ptr_eq(&self.spec, spec) || self.spec == *spec {
            Change::None
        } else if self.is_wanted() && (self.is_new_exec(spec) || self.is_new_try(spec)) {
            Change::Restart
        } else {
            Change::InPlace
        }
    }

    /// Takes that spec, whose change is known.
    pub(crate) fn reconfigure(&mut self, spec: Arc<Spec>, change: Change, step: &mut Step<'_>) {
        match change {
            Change::None => {}
            Change::InPlace => {
                self.spec = spec;
                if !self.is_outdated() {
                    self.watchdog = self.spec.exec.watchdog;
                }
                if matches!(self.state, ServiceState::Running { .. }) {
                    self.passes_at = None;
                    self.await_pass(step);
                }
                self.settle(step);
            }
            Change::Restart => {
                self.spec = spec;
                self.abandon_start(step);
                self.replace_or_start(step);
            }
        }
    }

    /// A reload is about to start it, once others have stopped; `request` waits for that.
    pub(crate) fn hold(&mut self, request: Option<RequestId>, step: &mut Step<'_>) {
        self.is_held = true;
        match request {
            // It will not be wanted before the agent goes.
            Some(request) if self.shutdown => step.reply(request, Reply::Done),
            request => self.waiting_up.extend(request),
        }
    }

    /// The others have stopped.
    pub(crate) fn release(&mut self, step: &mut Step<'_>) {
        self.is_held = false;
        self.settle(step);
    }

    /// Whether a spec runs something else than what runs. Nothing is known of what an unusable
    /// one ran, but by its fingerprint.
    fn is_new_exec(&self, spec: &Spec) -> bool {
        if self.spec.unusable.is_none() {
            return spec.unusable.is_none() && self.spec.exec != spec.exec;
        }
        let is_running = matches!(self.state, ServiceState::Running { .. });
        let is_same = |exec| exec == spec.exec.fingerprint();
        !is_running || !self.exec.is_none_or(is_same)
    }

    /// Whether a spec has other commands before a start that is under way, or has failed.
    fn is_new_try(&self, spec: &Spec) -> bool {
        let is_tried = matches!(
            self.state,
            ServiceState::Down(DownReason::Failed { .. } | DownReason::Skipped { .. })
                | ServiceState::Backoff { .. }
                | ServiceState::Starting { .. }
        );
        is_tried && self.spec.begins_otherwise(spec)
    }

    /// Gone from the config.
    pub(crate) fn remove(&mut self, step: &mut Step<'_>) {
        self.removed = true;
        self.overtake_up("reload", step);
        self.bring_down(step);
    }

    /// Back in the config before its removal was through.
    pub(crate) fn add_again(&mut self, spec: Arc<Spec>, step: &mut Step<'_>) {
        self.removed = false;
        self.desired = initially(&spec);
        self.spec = spec;
        if self.is_wanted() {
            self.overtake_down("reload", step);
        } else if let ServiceState::Ending(rest) = &mut self.state {
            *rest = DownReason::Stopped;
        }
        self.begin(step);
    }

    /// The agent is going.
    pub(crate) fn shut_down(&mut self, step: &mut Step<'_>) {
        self.shutdown = true;
        self.overtake_up("shutdown", step);
        self.bring_down(step);
    }
}

/// Whether a spec says what to run.
pub(super) fn is_described(spec: &Spec) -> bool {
    spec.unusable.is_none() && !spec.exec.arguments.is_empty()
}

/// What is desired of a service that nobody has asked for.
pub(super) fn initially(spec: &Spec) -> Desired {
    match spec.relations.autostart {
        true => Desired::Up,
        false => Desired::Down,
    }
}

/// How to stop a service that no config describes any more: as one that says nothing of it.
pub(super) fn last_resort_spec() -> Spec {
    Spec {
        policy: Policy {
            restart: RestartPolicy::No,
            ..Policy::default()
        },
        ..Spec::nothing()
    }
}

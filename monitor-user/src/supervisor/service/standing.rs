//! How far a service is, as those that come before and after it have to know, and for whom of them it waits.
//! Changes nothing but that.

use std::collections::BTreeSet;

use super::{Service, ServiceState, Standing};
use crate::model::{DownReason, ServiceName};

impl Service {
    /// How far it is, for services that come after it and are to start.
    pub(crate) fn standing(&self) -> Standing {
        match &self.state {
            ServiceState::Starting { .. }
            | ServiceState::StopDue { .. }
            | ServiceState::Stopping { .. }
                if !self.is_wanted() =>
            {
                Standing::Going
            }
            _ if !self.is_wanted() => Standing::Clear,
            ServiceState::Down(DownReason::Failed { .. })
            | ServiceState::Ending(DownReason::Failed { .. }) => Standing::Failed,
            ServiceState::Running { .. } if !self.is_up() => Standing::Coming,
            ServiceState::Down(_) | ServiceState::Ending(_) | ServiceState::Running { .. } => {
                Standing::Clear
            }
            ServiceState::Backoff { .. } => Standing::Failing,
            ServiceState::Due(_)
            | ServiceState::Starting { .. }
            | ServiceState::StopDue { .. }
            | ServiceState::Stopping { .. } => Standing::Coming,
        }
    }

    /// Whether it is on its way down, to stay there or to be started again, and still there: what
    /// comes before it does not stop until it is gone.
    pub(crate) fn is_closing(&self) -> bool {
        match &self.state {
            ServiceState::Running { .. } => false,
            ServiceState::StopDue { .. } | ServiceState::Stopping { .. } => true,
            ServiceState::Starting { spec, is_stale, .. } => {
                *is_stale || !self.is_wanted() || spec.exec != self.spec.exec
            }
            ServiceState::Down(_)
            | ServiceState::Ending(_)
            | ServiceState::Due(_)
            | ServiceState::Backoff { .. } => !self.leaving.is_empty() || self.next.is_some(),
        }
    }

    /// Whether its instance, or the one that a start under way makes, is to be stopped, and is not
    /// stopped yet.
    pub(crate) fn is_stop_due(&self) -> bool {
        match &self.state {
            ServiceState::StopDue { .. } => true,
            ServiceState::Starting { .. } => self.is_closing(),
            _ => false,
        }
    }

    /// The same, to be replaced by another one.
    pub(crate) fn is_to_restart(&self) -> bool {
        self.is_stop_due() && self.is_wanted()
    }

    /// The same, or its stop is under way.
    pub(crate) fn is_restarting(&self) -> bool {
        let is_stopping = matches!(self.state, ServiceState::Stopping { .. });
        self.is_to_restart() || is_stopping && self.is_wanted()
    }

    /// Whether it is being replaced while it runs.
    pub(crate) fn is_rolling(&self) -> bool {
        self.roll_due || self.next.as_ref().is_some_and(|next| !next.is_abandoned)
    }

    /// Whether it has something to do that may depend on others.
    pub(crate) fn is_pending(&self) -> bool {
        match self.state {
            ServiceState::Due(_) | ServiceState::StopDue { .. } => true,
            ServiceState::Ending(_) => self.is_undo_due || self.leaving.is_empty(),
            ServiceState::Running { .. } => self.roll_due,
            _ => false,
        }
    }

    /// Whether its start waits for that service, or for any.
    pub(crate) fn waits_for(&self, service: &str) -> bool {
        matches!(self.state, ServiceState::Due(_)) && self.start_waits.contains(service)
    }

    /// Whether somebody waits for it to be up.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.waiting_up.is_empty()
    }

    /// Why it does not run, as far as that is known.
    pub(crate) fn trouble(&self) -> Option<String> {
        match (&self.state, &self.last_failure, &self.last_exit) {
            (ServiceState::Down(DownReason::Failed { reason }), ..)
            | (ServiceState::Ending(DownReason::Failed { reason }), ..) => Some(reason.clone()),
            (_, Some(failure), _) => Some(failure.to_string()),
            (_, None, last) => last.as_ref().map(|last| last.cause.to_string()),
        }
    }

    /// The services that it waits for at the moment.
    pub(super) fn waits(&self) -> Option<&BTreeSet<ServiceName>> {
        match self.state {
            ServiceState::Due(_) if self.start_waits.is_empty() && self.starts_behind => {
                Some(&self.stop_waits)
            }
            ServiceState::Due(_) => Some(&self.start_waits),
            ServiceState::StopDue { .. } => Some(&self.stop_waits),
            ServiceState::Ending(_) if self.is_undo_due => Some(&self.stop_waits),
            _ => None,
        }
    }

    /// A service ahead of it stands in the way of its start, or does not. `true`: nothing more does.
    pub(crate) fn wait_to_start(&mut self, ahead: &ServiceName, waits: bool) -> bool {
        change(&mut self.start_waits, ahead, waits)
    }

    /// A service behind it is on its way down and still there, or is not. `true`: none more is.
    pub(crate) fn wait_to_stop(&mut self, behind: &ServiceName, waits: bool) -> bool {
        change(&mut self.stop_waits, behind, waits)
    }

    /// For whom it waits, whatever was known before.
    pub(crate) fn set_waits(&mut self, start: BTreeSet<ServiceName>, stop: BTreeSet<ServiceName>) {
        (self.start_waits, self.stop_waits) = (start, stop);
    }

    /// For whom it has to wait to start, and to stop.
    #[cfg(test)]
    pub(crate) fn all_waits(&self) -> (&BTreeSet<ServiceName>, &BTreeSet<ServiceName>) {
        (&self.start_waits, &self.stop_waits)
    }

    /// Whether something is left of what had to stop; with `overlap` that is the instance alone.
    pub(crate) fn is_left(&self) -> bool {
        let lives = match &self.state {
            _ if self.next.is_some() && self.removed => true,
            ServiceState::StopDue { .. } | ServiceState::Stopping { .. } => true,
            // It is stopped once it is there.
            ServiceState::Starting { spec, is_stale, .. } => {
                *is_stale || self.removed || spec.exec != self.spec.exec
            }
            _ => false,
        };
        let is_beside = self.spec.policy.overlap && !self.removed;
        lives || !self.leaving.is_empty() && !is_beside
    }
}

/// Puts a name into a set, or takes it out; `true`: it was the last one.
pub(super) fn change(set: &mut BTreeSet<ServiceName>, name: &ServiceName, is_in: bool) -> bool {
    match is_in {
        true => {
            set.insert(name.clone());
            false
        }
        false => set.remove(name) && set.is_empty(),
    }
}

//! What follows when an essential service has ended for good: all others stop, in order, and then the
//! agent ends with that service's exit status.
//!
//! A service has *ended for good* when it comes to rest by itself: its restart policy leaves it down, or
//! it was given up, or a condition does not hold. A stop, a removal and a shutdown are no such ends. The
//! first such end counts.
//!
//! Invariant, by the name under which `simulation.rs` checks it:
//! - `essential_ends`: once an essential service has ended for good, nothing is started any more, by this
//!   agent or a later one, until all services are down and the agent was told to end; and it is told
//!   that for no other reason.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Supervisor;
use super::action::Action;
use super::service::Legacy;
use crate::model::{Cause, DownReason, ServiceName, Signal};

/// How far an essential service's own end has led.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum End {
    /// It has none.
    #[default]
    None,
    /// It has ended for good: the others are to stop.
    Came,
    /// They have stopped, and the agent ends. A later one has no memory of it.
    LastNotice,
}

/// Of a service that has failed without an exit status that says so.
const FAILURE: u8 = 1;

/// The exit status of an agent whose essential service has come to rest in this way: its own one, as a
/// shell tells it. `last`: how its last instance ended; `None` if its last start failed.
pub(super) fn exit_status(rest: &DownReason, last: Option<&Cause>) -> u8 {
    let by_signal = |number: i32| u8::try_from(128 + number).unwrap_or(FAILURE);
    match (last, rest) {
        (_, DownReason::Skipped { .. }) => 0,
        (Some(Cause::Exited { code: 0 }), DownReason::Failed { .. }) => FAILURE,
        (Some(Cause::Exited { code }), _) => *code,
        (Some(Cause::Signaled { signal, .. }), _) => by_signal(signal.number()),
        (Some(Cause::OomKilled(_)), _) => by_signal(Signal::KILL.number()),
        (Some(Cause::Unknown) | None, _) => FAILURE,
    }
}

impl Supervisor {
    /// Has all services stop and the agent end when an essential one has ended for good.
    #[must_use]
    pub(crate) fn ending_with_essential(mut self) -> Self {
        self.ends_with_essential = true;
        self
    }

    /// Goes on where an earlier agent had begun to stop all services, whatever the config says by now.
    pub(super) fn go_on_with_end(&mut self, legacies: &BTreeMap<ServiceName, Legacy>) {
        let has_ended = legacies.values().any(|it| it.memory.has_ended);
        self.is_shutting_down |= self.ends_with_essential && has_ended;
    }

    /// Has all services stop, if an essential one has ended for good.
    pub(super) fn heed_end(&mut self, now: Instant) {
        if self.ended.is_some() && !self.is_shutting_down {
            self.together(|it| it.bring_all_down(now));
        }
    }

    /// Has the agent end, once all services are down.
    pub(super) fn end_agent(&mut self, now: Instant) {
        let Some((service, status)) = self.ended.take() else {
            return;
        };
        // Others may have ended meanwhile.
        let ended = self.services.values().filter(|it| it.has_ended_for_good());
        for name in ended.map(|it| it.name().clone()).collect::<Vec<_>>() {
            self.visit(&name, now, |it, _| it.end_is_told());
        }
        self.actions.push_back(Action::End { service, status });
    }
}

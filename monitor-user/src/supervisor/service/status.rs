//! What is known of a service outside: its status, what the next agent is to remember of it, and of an essential
//! one how it has ended. Decides nothing.

use std::time::Instant;

use super::{End, Service, ServiceState, Start, essential};
use crate::model::{
    Desired, Doing, DownReason, Instance, Memory, Phase, Reach, State, Status, StopMemory,
};

impl Service {
    pub(crate) fn status(&self) -> Status<'_> {
        Status {
            service: &self.name,
            state: self.shown_state(),
            desired: if self.removed {
                Desired::Down
            } else {
                self.desired
            },
            instance: self.live_instance(),
            waits_for: self.waits(),
            since: self.since,
            restarts: self.starts.saturating_sub(1),
            last_exit: self.last_exit.as_ref(),
            last_failure: self.last_failure.as_ref(),
            failed: match &self.state {
                ServiceState::Down(DownReason::Failed { reason })
                | ServiceState::Ending(DownReason::Failed { reason }) => Some(reason),
                _ => None,
            },
            skipped: match &self.state {
                ServiceState::Down(DownReason::Skipped { reason }) => Some(reason),
                _ => None,
            },
            phase: self.phase(),
            doing: match self.ends_by {
                _ if self.is_rolling() => Some(Doing::Rolling),
                Some(_) => Some(Doing::Stopping),
                None => self.reload.is_under_way.then_some(Doing::Reloading),
            },
            beside: self
                .next_instance()
                .into_iter()
                .chain(self.replaced())
                .collect(),
            background: self.background.as_deref(),
            next_start: match self.state {
                ServiceState::Backoff { until, .. } => Some(until),
                _ => None,
            },
            standby: self.standby(),
        }
    }

    /// Whether it is essential, and its own end is one for good that nothing has followed from yet.
    pub(crate) fn has_ended_for_good(&self) -> bool {
        self.end == End::Came
    }

    /// That of an agent which ends with it.
    pub(crate) fn exit_status(&self) -> u8 {
        let last = self.last_exit.as_ref().map(|death| &death.cause);
        let last = last.filter(|_| self.last_failure.is_none());
        match &self.state {
            ServiceState::Down(rest) => essential::exit_status(rest, last),
            _ => essential::exit_status(&DownReason::Stopped, last),
        }
    }

    /// The agent ends with it: a later one has no memory of it.
    pub(crate) fn end_is_told(&mut self) {
        self.end = End::LastNotice;
        self.backoff.reset();
    }

    /// The commands around its run that are under way.
    fn phase(&self) -> Option<Phase> {
        match &self.state {
            ServiceState::Starting { spec, .. } if spec.steps.precede_a_start() => {
                Some(Phase::BeforeStart)
            }
            _ => self.steps.first().map(|(_, phase)| *phase),
        }
    }

    pub(crate) fn memory(&self, now: Instant) -> Memory {
        Memory {
            desired: self.desired,
            last_attempt: self.last_attempt,
            exec: self.exec,
            instance: self.live_instance(),
            former_main: self.former_main,
            next: self.next_memory(),
            replaced: self.replaced().collect(),
            unready: self
                .live_instance()
                .filter(|_| !self.is_ready && !self.is_finishing),
            finishing: self.live_instance().filter(|_| self.is_finishing),
            undoing: self
                .leaving
                .iter()
                .any(|old| old.instance == Instance::NONE),
            overdue: self.overdue.clone(),
            starts: self.starts,
            failures: self.backoff.failures(),
            storm: self.backoff.storm(),
            starts_ago: self.backoff.starts_ago(now),
            ends_ago: self.backoff.ends_ago(now),
            next_start_in: match self.state {
                ServiceState::Backoff { until, .. } => Some(until.saturating_duration_since(now)),
                _ => None,
            },
            next_start_is_free: matches!(
                self.state,
                ServiceState::Due(Start::Free)
                    | ServiceState::Backoff {
                        start: Start::Free,
                        ..
                    }
                    | ServiceState::Starting { .. }
            ),
            stopping: !self.shutdown && self.is_to_stop(),
            has_ended: self.end == End::Came,
            rest: match &self.state {
                _ if self.end == End::LastNotice => None,
                ServiceState::Down(DownReason::Stopped)
                | ServiceState::Ending(DownReason::Stopped) => None,
                ServiceState::Down(rest) | ServiceState::Ending(rest) => Some(rest.clone()),
                _ => None,
            },
            at_rest: self.is_down(),
            last_exit: self.last_exit.clone(),
            leaving: self.left().collect(),
            stops: self.stops(now),
            stop_mode: self.stop_mode(),
            last_failure: self.last_failure.clone(),
            state_age: now.saturating_duration_since(self.since),
        }
    }

    /// The instances that have not let go of everything.
    fn left(&self) -> impl Iterator<Item = Instance> {
        let leaving = self.leaving.iter().map(|old| old.instance);
        leaving.filter(|instance| *instance != Instance::NONE)
    }

    /// Those of them whose end has not been told.
    fn replaced(&self) -> impl Iterator<Item = Instance> {
        let leaving = self.leaving.iter().filter(|old| old.lives);
        leaving.map(|old| old.instance)
    }

    /// Whether its instance, or the one that a start under way makes, does not stay.
    fn is_to_stop(&self) -> bool {
        matches!(
            self.state,
            ServiceState::StopDue { .. }
                | ServiceState::Stopping { .. }
                | ServiceState::Starting { is_stale: true, .. }
        )
    }

    /// The stops that the next agent goes on with. One that was not sent it begins itself.
    fn stops(&self, now: Instant) -> Vec<StopMemory> {
        let own = match self.state {
            ServiceState::Stopping { instance, stop } => Some((instance, stop)),
            _ => None,
        };
        let rests = self.leaving.iter();
        let rests = rests.filter_map(|old| Some((old.instance, old.stop?)));
        let sent = own.into_iter().chain(rests).filter(|(_, it)| it.is_sent);
        let remembered = sent.map(|(instance, stop)| StopMemory {
            instance,
            kill_in: stop.kill_at.map(|at| at.saturating_duration_since(now)),
            whole_tree: stop.reach == Reach::Tree,
        });
        remembered.collect()
    }

    fn shown_state(&self) -> State {
        match &self.state {
            ServiceState::Down(DownReason::Failed { .. }) => State::Failed,
            ServiceState::Down(DownReason::Skipped { .. }) => State::Skipped,
            ServiceState::Down(DownReason::Finished) if self.is_oneshot() => State::Done,
            ServiceState::Down(_) => State::Stopped,
            ServiceState::Due(_) if self.waits().is_some_and(|it| !it.is_empty()) => State::Waiting,
            ServiceState::Due(_) => State::Starting,
            ServiceState::Backoff { .. } => State::Backoff,
            ServiceState::Starting { .. } if self.is_wanted() => State::Starting,
            ServiceState::Running { .. } if !self.is_up() => State::Starting,
            ServiceState::Running { .. } => State::Running,
            ServiceState::Ending(_)
            | ServiceState::Starting { .. }
            | ServiceState::StopDue { .. }
            | ServiceState::Stopping { .. } => State::Stopping,
        }
    }
}

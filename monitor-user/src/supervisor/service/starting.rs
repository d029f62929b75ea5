//! From Due to Running: when a start may be tried, and what follows from each answer to it.

use std::mem;
use std::sync::Arc;

use super::reconfigure::is_described;
use super::{Action, End, Service, ServiceState, Start, Step};
use crate::model::{
    Attempt, BackoffReason, DownReason, Instance, Notice, Reply, RestartPolicy, SpawnFailure, Spec,
};

impl Service {
    pub(crate) fn spawned(&mut self, attempt: Attempt, instance: Instance, step: &mut Step<'_>) {
        if self.is_next(attempt) {
            return self.next_spawned(instance, step);
        }
        let Some((spec, is_stale)) = self.answered(attempt) else {
            return;
        };
        let outdated = is_stale || spec.exec != self.spec.exec;
        self.starts = self.starts.saturating_add(1);
        self.last_failure = None;
        self.enter(ServiceState::Running { instance }, step);
        step.publish(Notice::Started {
            service: self.name.clone(),
            instance,
            restarts: self.starts.saturating_sub(1),
        });
        if !self.is_wanted() || outdated {
            self.close(instance, step);
        } else {
            // A reload that had it wait has taken back what it was to be started anew for.
            self.is_held = false;
            self.is_ready = !self.becomes_ready();
            self.is_finishing = !self.is_ready && !self.says_ready();
            self.await_ready(instance, step);
            self.await_pass(step);
        }
    }

    /// Ends a start that is not to come to anything.
    pub(super) fn abandon_start(&self, step: &mut Step<'_>) {
        self.end_start(true, step);
    }

    /// Ends a start under way: one whose process hangs, or what precedes that, too.
    pub(super) fn end_start(&self, with_prelude: bool, step: &mut Step<'_>) {
        if let ServiceState::Starting { attempt, .. } = &self.state {
            step.actions.push_back(Action::AbandonStart {
                service: self.name.clone(),
                attempt: *attempt,
                with_prelude,
            });
        }
    }

    pub(crate) fn spawn_failed(
        &mut self,
        attempt: Attempt,
        failure: SpawnFailure,
        step: &mut Step<'_>,
    ) {
        if self.is_next(attempt) {
            return self.next_not_spawned(Some(failure.message), step);
        }
        let Some((spec, _)) = self.answered(attempt) else {
            return;
        };
        let outdated = spec.exec != self.spec.exec;
        self.last_failure = Some(failure.clone());
        if !self.is_wanted() {
            self.enter(ServiceState::Ending(DownReason::Stopped), step);
        } else if outdated {
            self.backoff.reset();
            self.enter(ServiceState::Due(Start::Counted), step);
        } else {
            self.deny_up(&failure, step);
            if self.spec.policy.restart == RestartPolicy::No {
                let reason = failure.message;
                self.enter(ServiceState::Ending(DownReason::Failed { reason }), step);
            } else {
                self.back_off(BackoffReason::SpawnFailed(failure), step);
            }
        }
        self.settle(step);
    }

    /// The start was not tried, as its spec said nothing; now there is one that does.
    pub(crate) fn described(&mut self, attempt: Attempt, spec: Arc<Spec>, step: &mut Step<'_>) {
        if self.answered(attempt).is_none() {
            return;
        }
        if self.spec.unusable.is_some() {
            self.spec = spec;
        }
        if self.is_wanted() {
            self.enter(ServiceState::Due(Start::Free), step);
        } else {
            self.enter(ServiceState::Ending(DownReason::Stopped), step);
        }
        self.settle(step);
    }

    /// The start was not tried, as a condition does not hold.
    pub(crate) fn skipped(&mut self, attempt: Attempt, reason: String, step: &mut Step<'_>) {
        if self.is_next(attempt) {
            return self.next_not_spawned(Some(reason), step);
        }
        let Some((spec, is_stale)) = self.answered(attempt) else {
            return;
        };
        self.last_failure = None;
        if !self.is_wanted() {
            self.enter(ServiceState::Ending(DownReason::Stopped), step);
        } else if is_stale || spec != self.spec {
            self.enter(ServiceState::Due(Start::Free), step);
        } else {
            for request in mem::take(&mut self.waiting_up) {
                let reason = reason.clone();
                step.reply(request, Reply::Skipped { reason });
            }
            self.enter(ServiceState::Ending(DownReason::Skipped { reason }), step);
        }
        self.settle(step);
    }

    /// What precedes the start was ended before there was a process.
    pub(crate) fn start_abandoned(&mut self, attempt: Attempt, step: &mut Step<'_>) {
        if self.is_next(attempt) {
            return self.next_not_spawned(None, step);
        }
        if self.answered(attempt).is_none() {
            return;
        }
        if self.is_wanted() {
            self.backoff.reset();
            self.enter(ServiceState::Due(Start::Counted), step);
        } else {
            self.enter(ServiceState::Ending(DownReason::Stopped), step);
        }
        self.settle(step);
    }

    /// The spec that the start under way was made from, and whether what comes of it is stale, if
    /// `attempt` is that start.
    fn answered(&self, attempt: Attempt) -> Option<(Arc<Spec>, bool)> {
        match &self.state {
            ServiceState::Starting {
                attempt: current,
                spec,
                is_stale,
            } if *current == attempt => Some((Arc::clone(spec), *is_stale)),
            _ => None,
        }
    }

    /// Whether the old instances permit a start, and the other services.
    pub(super) fn may_spawn(&self, step: &Step<'_>) -> bool {
        let is_undone = self
            .leaving
            .iter()
            .all(|old| old.instance != Instance::NONE);
        let lives = self.leaving.iter().any(|old| old.lives) || self.next.is_some();
        let is_beside = self.spec.policy.overlap && !self.alone && is_undone;
        let is_free = self.leaving.len() <= usize::from(is_beside) && !lives;
        let is_free = is_free && !self.is_held && !step.is_held;
        let is_in_order = self.start_waits.is_empty();
        is_free && is_in_order && (!self.starts_behind || self.stop_waits.is_empty())
    }

    /// Starts without a delay, whatever came before; joins a start or a restart under way.
    pub(super) fn start_with_reset_limits(&mut self, step: &mut Step<'_>) {
        match self.state {
            ServiceState::Running { .. } | ServiceState::Starting { .. } => {}
            ServiceState::StopDue { .. } | ServiceState::Stopping { .. } => {
                self.backoff.reset();
                self.overdue = None;
            }
            ServiceState::Down(_)
            | ServiceState::Ending(_)
            | ServiceState::Due(_)
            | ServiceState::Backoff { .. } => {
                self.backoff.reset();
                self.enter(ServiceState::Due(Start::Counted), step);
            }
        }
        self.settle(step);
    }

    /// Has the running instance replaced by a new one; starts one where none runs.
    pub(super) fn replace_or_start(&mut self, step: &mut Step<'_>) {
        if let ServiceState::Running { instance } = self.state {
            self.backoff.reset();
            match self.can_roll() {
                true => self.roll(step),
                false => self.close(instance, step),
            }
            return;
        }
        if self.is_done() && self.can_undo() {
            self.begin_undo();
        }
        self.start_with_reset_limits(step);
    }

    pub(super) fn spawn(&mut self, start: Start, step: &mut Step<'_>) {
        let limit = self.spec.policy.start_limit;
        if start == Start::Counted {
            if !self.backoff.admits(limit, step.now) {
                return self.give_up(step);
            }
            self.backoff.record_start(limit, step.now);
        }
        self.alone = false;
        self.starts_behind = false;
        self.end = End::None;
        let attempt = step.next_attempt();
        self.note_attempt(attempt, &Arc::clone(&self.spec));
        step.actions.push_back(Action::Spawn {
            service: self.name.clone(),
            attempt,
        });
        let spec = Arc::clone(&self.spec);
        let is_stale = false;
        self.enter(
            ServiceState::Starting {
                attempt,
                spec,
                is_stale,
            },
            step,
        );
    }

    /// What runs from now on, or is being started, is of that attempt and of that spec.
    pub(super) fn note_attempt(&mut self, attempt: Attempt, spec: &Spec) {
        self.last_attempt = attempt;
        self.former_main = None;
        self.watchdog = spec.exec.watchdog;
        if is_described(spec) {
            self.exec = Some(spec.exec.fingerprint());
            self.stop_mode = spec.policy.stop_mode;
        }
    }

    /// One more start would exceed the limit.
    fn give_up(&mut self, step: &mut Step<'_>) {
        let reason = self.limit_reason();
        let message = reason.clone();
        self.deny_up(&SpawnFailure { message }, step);
        self.enter(ServiceState::Ending(DownReason::Failed { reason }), step);
    }

    /// "start limit reached: 5 starts within 10s; last: exited with 1"
    fn limit_reason(&self) -> String {
        let mut reason = String::from("start limit reached");
        if let Some(limit) = self.spec.policy.start_limit {
            let plural = if limit.burst == 1 { "" } else { "s" };
            reason += &format!(
                ": {} start{plural} within {:?}",
                limit.burst, limit.interval
            );
        }
        let last = match (&self.last_failure, &self.last_exit) {
            (Some(failure), _) => failure.to_string(),
            (None, Some(last)) => last.cause.to_string(),
            (None, None) => return reason,
        };
        reason + "; last: " + &last
    }
}

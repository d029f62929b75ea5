//! `restart_mode = "rolling"`: the next instance starts beside the one that runs, which is stopped once the
//! next one is ready. If that fails, the old one goes on.
//!
//! ```text
//! Running{old} ─restart, new exec─▶ due ─nothing is leaving─▶ next: Spawn ─▶ starting ─ready─▶ Running{next}
//!      ▲                                                       │ failed, ended, too late     old: leaving,
//!      └───────────────────────────────────────────────────────┘                            and lives
//! ```
//!
//! The service is up all the time, as the old instance. If that ends meanwhile, the next one is the service,
//! and has to become ready as after any start. Whatever else brings the service down gives the next instance
//! up: an answer to its `Spawn` that is still to come finds it abandoned.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::{Action, Service, ServiceState, Start, Step, Stop, after};
use crate::model::{
    Attempt, Circumstances, Death, Instance, NextMemory, Notice, Phase, RestartMode, SpawnFailure,
    Spec,
};

/// The instance that is to replace the one that runs.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) attempt: Attempt,
    pub(super) spec: Arc<Spec>,
    /// `None`: `Spawn` is not answered yet.
    pub(super) instance: Option<Instance>,
    /// Until when it has to be ready, once it runs.
    pub(super) by: Option<Instant>,
    /// It is not needed any more, and is stopped as soon as it is there.
    pub(super) is_abandoned: bool,
}

impl Service {
    /// Whether a restart leaves the running instance in place until the next one is ready.
    pub(super) fn can_roll(&self) -> bool {
        let is_whole = |phase| self.has_steps(phase);
        let is_rolling = self.spec.policy.restart_mode == RestartMode::Rolling
            && self.says_ready()
            && ![Phase::AfterStart, Phase::BeforeStop, Phase::Stop]
                .into_iter()
                .any(is_whole);
        let runs = matches!(self.state, ServiceState::Running { .. });
        is_rolling && runs && self.is_up() && self.ends_by.is_none() && self.is_wanted()
    }

    /// The instance that is to replace the one that runs, if it is there.
    pub(super) fn next_instance(&self) -> Option<Instance> {
        self.next.as_ref()?.instance
    }

    /// Has the running instance replaced. Who waits for that is answered when it is done.
    pub(super) fn roll(&mut self, step: &mut Step<'_>) {
        let is_under_way = self
            .next
            .as_ref()
            .is_some_and(|next| !next.is_abandoned && next.spec.exec == self.spec.exec);
        if !is_under_way {
            self.abandon_next(step);
            self.roll_due = true;
        }
        self.roll_waiting.append(&mut self.waiting_up);
        self.settle(step);
    }

    /// Starts the next instance as soon as nothing stands in the way.
    pub(super) fn settle_roll(&mut self, step: &mut Step<'_>) {
        let is_free = self.next.is_none() && self.leaving.is_empty() && !self.is_held;
        if !self.roll_due || !is_free || step.is_held || !self.start_waits.is_empty() {
            return;
        }
        self.roll_due = false;
        let attempt = step.next_attempt();
        self.next = Some(Next {
            attempt,
            spec: Arc::clone(&self.spec),
            instance: None,
            by: None,
            is_abandoned: false,
        });
        step.actions.push_back(Action::Spawn {
            service: self.name.clone(),
            attempt,
        });
    }

    /// Whether that start is the next instance's.
    pub(super) fn is_next(&self, attempt: Attempt) -> bool {
        self.next
            .as_ref()
            .is_some_and(|next| next.attempt == attempt && next.instance.is_none())
    }

    /// The next instance runs.
    pub(super) fn next_spawned(&mut self, instance: Instance, step: &mut Step<'_>) {
        let until = after(step.now, self.spec.policy.start_timeout);
        let Some(next) = &mut self.next else {
            return;
        };
        next.instance = Some(instance);
        next.by = Some(until);
        let is_needed = !next.is_abandoned && next.spec.exec == self.spec.exec;
        step.publish(Notice::NextStarted {
            service: self.name.clone(),
            instance,
        });
        if is_needed {
            self.await_word(instance, step);
        } else {
            self.abandon_next(step);
        }
        self.settle(step);
    }

    /// The next instance could not be started, for that reason; `None`: it was not needed any more.
    pub(super) fn next_not_spawned(&mut self, failure: Option<String>, step: &mut Step<'_>) {
        let was_abandoned = self.next.take().is_some_and(|next| next.is_abandoned);
        if let Some(message) = failure.filter(|_| !was_abandoned) {
            self.next_failed(message, step);
        }
        self.settle(step);
    }

    /// The old instance goes on.
    fn next_failed(&mut self, message: String, step: &mut Step<'_>) {
        let failure = SpawnFailure { message };
        step.publish(Notice::NotReplaced {
            service: self.name.clone(),
            failure: failure.clone(),
        });
        self.waiting_up.append(&mut self.roll_waiting);
        self.deny_up(&failure, step);
        self.last_failure = Some(failure);
    }

    /// The next instance is ready: it is the service from now on, and the old one is stopped.
    pub(super) fn replace(&mut self, step: &mut Step<'_>) {
        let ServiceState::Running { instance: old } = self.state else {
            return;
        };
        if self.take_next(old, step).is_some() {
            self.is_ready = true;
            self.await_sign_of_life(step.now);
            self.waiting_up.append(&mut self.roll_waiting);
            self.pass(step);
            self.retire(old, None, step);
        }
    }

    /// The old instance has ended while the next one was on its way: that one is the service now, ready or
    /// not. `false`: there is none.
    pub(super) fn promote_next(&mut self, old: Instance, step: &mut Step<'_>) -> bool {
        if !self.is_rolling() {
            return false;
        }
        self.waiting_up.append(&mut self.roll_waiting);
        if self.roll_due {
            self.enter(ServiceState::Due(Start::Counted), step);
            return true;
        }
        if self.next_instance().is_some() {
            if let Some(by) = self.take_next(old, step) {
                self.is_ready = false;
                self.ready_by = Some(by);
            }
        } else if let Some(next) = self.next.take() {
            self.note_attempt(next.attempt, &next.spec);
            let state = ServiceState::Starting {
                attempt: next.attempt,
                spec: next.spec,
                is_stale: false,
            };
            self.enter(state, step);
        }
        true
    }

    /// The next instance is the one that runs from now on; returns until when it has to be ready.
    fn take_next(&mut self, old: Instance, step: &mut Step<'_>) -> Option<Instant> {
        let next = self.next.take()?;
        let instance = next.instance?;
        self.enter(ServiceState::Running { instance }, step);
        self.note_attempt(next.attempt, &next.spec);
        self.starts = self.starts.saturating_add(1);
        self.last_failure = None;
        step.publish(Notice::Replaced {
            service: self.name.clone(),
            instance,
            former: old,
            restarts: self.starts.saturating_sub(1),
        });
        next.by
    }

    /// Stops an instance that is not the service's any more, beside the one that is.
    pub(super) fn retire(
        &mut self,
        instance: Instance,
        reason: Option<String>,
        step: &mut Step<'_>,
    ) {
        step.publish(Notice::Stopping {
            service: self.name.clone(),
            instance,
            signal: Some(self.spec.policy.stop_signal),
            reason,
        });
        self.send_stop(instance, step);
        let stop = self.new_stop(self.reach(), step.now);
        self.leave_alive(instance, stop);
    }

    fn leave_alive(&mut self, instance: Instance, stop: Stop) {
        self.leave(instance, Some(stop));
        if let Some(old) = self.leaving.last_mut() {
            old.lives = true;
        }
    }

    /// There is no use for a next instance any more.
    pub(super) fn abandon_next(&mut self, step: &mut Step<'_>) {
        self.roll_due = false;
        self.waiting_up.append(&mut self.roll_waiting);
        let Some(next) = &mut self.next else {
            return;
        };
        if let Some(instance) = next.instance {
            self.next = None;
            return self.retire(instance, None, step);
        }
        let was_abandoned = mem::replace(&mut next.is_abandoned, true);
        if !was_abandoned {
            step.actions.push_back(Action::AbandonStart {
                service: self.name.clone(),
                attempt: next.attempt,
                with_prelude: true,
            });
        }
    }

    /// It was not ready in time.
    pub(super) fn end_late_next(&mut self, step: &mut Step<'_>) {
        let timeout = self.spec.policy.start_timeout;
        let Some(next) = &self.next else {
            return;
        };
        let (Some(instance), true) = (next.instance, next.by.is_some_and(|by| by <= step.now))
        else {
            return;
        };
        self.end_next(
            instance,
            format!("not ready within start_timeout ({timeout:?})"),
            step,
        );
    }

    /// It does not work: it is stopped, and the old one goes on.
    pub(super) fn end_next(&mut self, instance: Instance, reason: String, step: &mut Step<'_>) {
        self.next = None;
        self.retire(instance, Some(reason.clone()), step);
        self.next_failed(reason, step);
    }

    /// An instance has ended that is not the service's: `true`, if it is known.
    pub(super) fn count_death_beside(
        &mut self,
        instance: Instance,
        death: &Death,
        circumstances: Option<Box<Circumstances>>,
        step: &mut Step<'_>,
    ) -> bool {
        let exited = Notice::Exited {
            service: self.name.clone(),
            instance,
            death: death.clone(),
            circumstances,
        };
        if self.next_instance() == Some(instance) {
            step.publish(exited);
            self.next = None;
            self.leave(instance, None);
            let message = format!("{} before it was ready", death.cause);
            self.next_failed(message, step);
            return true;
        }
        let mut leaving = self.leaving.iter_mut();
        let old = leaving.find(|old| old.instance == instance && old.lives);
        if let Some(old) = old {
            old.lives = false;
            step.publish(exited);
            return true;
        }
        false
    }

    /// For the next agent.
    pub(super) fn next_memory(&self) -> Option<NextMemory> {
        let next = self.next.as_ref().filter(|next| !next.is_abandoned)?;
        Some(NextMemory {
            attempt: next.attempt,
            instance: next.instance,
            exec: next.spec.exec.fingerprint(),
        })
    }

    /// Goes on with the next instance of an earlier agent, if it is still the one that is wanted.
    pub(super) fn resume_next(
        &mut self,
        remembered: NextMemory,
        instance: Instance,
        step: &mut Step<'_>,
    ) {
        let is_wanted = self.can_roll() && remembered.exec == self.spec.exec.fingerprint();
        let is_told = remembered.instance == Some(instance);
        match (is_wanted, is_told) {
            (false, true) => return self.retire(instance, None, step),
            (false, false) => return self.kill_surplus(instance, step),
            (true, true) => {}
            (true, false) => step.publish(Notice::NextStarted {
                service: self.name.clone(),
                instance,
            }),
        }
        self.roll_due = false;
        self.next = Some(Next {
            attempt: remembered.attempt,
            spec: Arc::clone(&self.spec),
            instance: Some(instance),
            // Time without an agent is not held against it.
            by: Some(after(step.now, self.spec.policy.start_timeout)),
            is_abandoned: false,
        });
        self.await_word(instance, step);
    }

    /// Goes on with an instance that an earlier agent had replaced, and that has not ended since.
    pub(super) fn resume_retired(
        &mut self,
        instance: Instance,
        stop: Option<Stop>,
        step: &mut Step<'_>,
    ) {
        let Some(stop) = stop else {
            return self.retire(instance, None, step);
        };
        self.leave_alive(instance, stop);
        if stop.kill_at.is_none() {
            self.kill(instance, stop.reach, step);
        }
    }
}

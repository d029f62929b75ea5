//! What a running instance says of itself, or is found to be: ready, alive, reading its configuration again,
//! ending, not working; and the time that it has for each.

use std::mem;
use std::time::{Duration, Instant};

use super::{Action, Service, ServiceState, Step, after};
use crate::model::{DeniedReason, Instance, Notice, Phase, Reply, SpawnFailure};

impl Service {
    /// An instance runs: it is ready, or has to be in time.
    pub(super) fn await_ready(&mut self, instance: Instance, step: &mut Step<'_>) {
        if self.is_ready {
            self.await_sign_of_life(step.now);
        } else {
            self.ready_by = Some(after(step.now, self.spec.policy.start_timeout));
            if self.is_finishing {
                return self.run_steps(instance, Phase::AfterStart, step);
            }
            self.await_word(instance, step);
        }
    }

    /// Has it found out when an instance is ready.
    pub(super) fn await_word(&self, instance: Instance, step: &mut Step<'_>) {
        step.actions.push_back(Action::AwaitReady {
            service: self.name.clone(),
            instance,
        });
    }

    pub(crate) fn became_ready(&mut self, instance: Instance, step: &mut Step<'_>) {
        if self.next_instance() == Some(instance) {
            return self.replace(step);
        }
        if self.runs(instance) && self.is_ready {
            return self.reloaded(step);
        }
        if !self.runs(instance) || self.is_finishing {
            return;
        }
        if self.has_steps(Phase::AfterStart) {
            self.is_finishing = true;
            self.run_steps(instance, Phase::AfterStart, step);
        } else {
            self.serve(instance, step);
        }
    }

    /// From now on it is up.
    pub(super) fn serve(&mut self, instance: Instance, step: &mut Step<'_>) {
        self.is_ready = true;
        self.is_finishing = false;
        self.ready_by = None;
        step.publish(Notice::Ready {
            service: self.name.clone(),
            instance,
        });
        self.await_sign_of_life(step.now);
        self.await_pass(step);
    }

    /// It has `watchdog` from now on.
    pub(super) fn await_sign_of_life(&mut self, now: Instant) {
        self.alive_by = self.watchdog.map(|time| after(now, time));
    }

    /// A probe has met this.
    pub(crate) fn not_ready_yet(&mut self, instance: Instance, reason: String) {
        if self.runs(instance) && !self.is_ready {
            self.met = Some(reason);
        }
    }

    /// It has said that it is alive.
    pub(crate) fn lives(&mut self, instance: Instance, now: Instant) {
        if self.runs(instance) && self.is_ready && self.ends_by.is_none() {
            self.await_sign_of_life(now);
        }
    }

    /// It has said that it reads its configuration again.
    pub(crate) fn reloading(&mut self, instance: Instance, at: Option<Duration>) {
        if self.runs(instance) && self.is_ready {
            self.reload.heard(at);
        }
    }

    /// It has said that it is ready again.
    fn reloaded(&mut self, step: &mut Step<'_>) {
        for request in self.reload.end() {
            step.reply(request, Reply::Done);
        }
    }

    pub(super) fn deny_reload(&mut self, why: &str, step: &mut Step<'_>) {
        self.reload.by = None;
        for request in mem::take(&mut self.reload.waiting) {
            let (service, why) = (self.name.clone(), why.to_owned());
            let reason = DeniedReason::NotReloaded { service, why };
            step.reply(request, Reply::Denied(reason));
        }
    }

    /// It has said that it ends: it need not say that it is alive any more, and has the time of a stop.
    pub(crate) fn ending(&mut self, instance: Instance, now: Instant) {
        if self.runs(instance) && self.ends_by.is_none() {
            self.alive_by = None;
            self.ends_by = Some(after(now, self.spec.policy.stop_timeout));
        }
    }

    /// Another process of its tree is its main process from now on: the same run goes on.
    pub(crate) fn main_changed(&mut self, from: Instance, to: Instance, step: &mut Step<'_>) {
        match &mut self.state {
            ServiceState::Running { instance } if *instance == from && from != to => {
                *instance = to;
            }
            _ => return,
        }
        self.former_main = Some(from);
        let steps = mem::take(&mut self.steps).into_iter();
        self.steps = steps
            .map(|(of, phase)| (if of == from { to } else { of }, phase))
            .collect();
        step.publish(Notice::MainChanged {
            service: self.name.clone(),
            instance: to,
            former: from,
        });
    }

    /// It has asked for so much time from now on, for what it is doing: its start or its stop.
    pub(crate) fn extend(&mut self, instance: Instance, by: Duration, now: Instant) {
        let until = after(now, by);
        if let Some(next) = &mut self.next
            && next.instance == Some(instance)
        {
            next.by = next.by.map(|at| at.max(until));
            return;
        }
        let mut leaving = self.leaving.iter_mut();
        if let Some(old) = leaving.find(|old| old.instance == instance && old.lives) {
            if let Some(stop) = &mut old.stop {
                stop.kill_at = stop.kill_at.map(|at| at.max(until));
            }
            return;
        }
        let deadline = match &mut self.state {
            ServiceState::Running { instance: of } if *of == instance => {
                match self.ends_by.is_some() {
                    true => &mut self.ends_by,
                    false if self.is_ready => &mut self.reload.by,
                    false => &mut self.ready_by,
                }
            }
            ServiceState::Stopping { instance: of, stop } if *of == instance => &mut stop.kill_at,
            _ => return,
        };
        *deadline = deadline.map(|at| at.max(until));
    }

    /// It is found not to work, for that reason: it is stopped, and that is its own failure.
    pub(crate) fn fail(&mut self, instance: Instance, reason: String, step: &mut Step<'_>) {
        if self.next_instance() == Some(instance) {
            self.end_next(instance, reason, step);
        } else if self.runs(instance) && self.ends_by.is_none() {
            self.stop_for(reason, instance, step);
        }
    }

    /// It was not ready in time, or does not work: it is stopped, and that is its own failure.
    pub(super) fn stop_for(&mut self, message: String, instance: Instance, step: &mut Step<'_>) {
        let failure = SpawnFailure {
            message: message.clone(),
        };
        self.abandon_next(step);
        self.deny_up(&failure, step);
        self.last_failure = Some(failure);
        self.overdue = Some(message);
        self.end_steps(Phase::AfterStart, instance, step);
        self.begin_stop(instance, step);
    }

    /// Why it is to be stopped now, if its time is over.
    pub(super) fn is_overdue(&self, now: Instant) -> Option<String> {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_over(self.ready_by) {
            let timeout = self.spec.policy.start_timeout;
            if self.is_finishing {
                return Some(format!(
                    "after_start did not end within start_timeout ({timeout:?})"
                ));
            }
            let met = self.met.as_ref().map(|met| format!("; {met}"));
            let met = met.unwrap_or_default();
            Some(format!("not ready within start_timeout ({timeout:?}){met}"))
        } else if is_over(self.alive_by) {
            let watchdog = self.watchdog.unwrap_or_default();
            Some(format!("no sign of life within watchdog ({watchdog:?})"))
        } else if is_over(self.ends_by) {
            let timeout = self.spec.policy.stop_timeout;
            Some(format!(
                "it has sent STOPPING=1 and not ended within stop_timeout ({timeout:?})"
            ))
        } else {
            None
        }
    }
}

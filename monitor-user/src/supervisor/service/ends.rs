//! What follows from the end of an instance: first for the service, by its policy, and then for what is left of
//! its tree.

use std::time::Duration;

use super::{Action, Leaving, Service, ServiceState, Start, Step, Stop, after, background};
use crate::model::{
    Attempt, BackoffReason, Blame, Cause, Child, Circumstances, Clear, Death, DownReason, Instance,
    Notice, Phase, Reach, RestartPolicy, ServiceType, SpawnFailure, StopMode,
};

/// What the restart policy says of a death.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Start again, after the delay.
    Restart,
    /// Start again at once, at nobody's cost.
    Mend,
    /// Start again at once: nobody saw whose doing it was. The start counts towards the start limit.
    Retry,
    /// Leave it: it has done its work.
    Finish,
    /// Leave it: it failed.
    Fail,
}

impl Service {
    /// Another process of the tree of that start has ended. What ends when the main process is gone,
    /// or is being stopped, ends for that.
    pub(crate) fn child_exited(&self, attempt: Attempt, child: Box<Child>, step: &mut Step<'_>) {
        let runs = matches!(self.state, ServiceState::Running { .. });
        if runs && attempt == self.last_attempt {
            step.publish(Notice::ChildExited {
                service: self.name.clone(),
                child,
            });
        }
    }

    pub(crate) fn exited(
        &mut self,
        instance: Instance,
        death: Death,
        circumstances: Option<Box<Circumstances>>,
        step: &mut Step<'_>,
    ) {
        self.count_death(instance, death, circumstances, step);
        self.settle(step);
    }

    pub(crate) fn released(&mut self, instance: Instance, death: Death, step: &mut Step<'_>) {
        self.count_death(instance, death, None, step);
        let leaving = self
            .leaving
            .iter_mut()
            .find(|old| old.instance == instance && !old.released);
        if let Some(old) = leaving {
            old.released = true;
            self.clear(instance, step);
        }
        self.settle(step);
    }

    pub(crate) fn tree_gone(&mut self, instance: Instance, step: &mut Step<'_>) {
        let mut leaving = self.leaving.iter_mut();
        let gone = leaving.find(|old| old.instance == instance && old.released && !old.is_cleared);
        if let Some(old) = gone {
            old.is_cleared = true;
            old.stop = None;
            if self.has_steps(Phase::AfterStop) {
                self.run_steps(instance, Phase::AfterStop, step);
            }
        }
        self.let_go();
        self.settle(step);
    }

    /// Forgets the instances of which nothing is left, and for which nothing runs any more.
    pub(super) fn let_go(&mut self) {
        let steps = &self.steps;
        let is_due = |of: Instance| self.is_undo_due && of == Instance::NONE;
        let is_busy = |of| is_due(of) || steps.iter().any(|(instance, _)| *instance == of);
        self.leaving
            .retain(|old| !old.is_cleared || is_busy(old.instance));
    }

    /// What follows from a death, by policy alone.
    fn verdict(&self, death: &Death) -> Verdict {
        let policy = &self.spec.policy;
        let code = match death.cause {
            Cause::Exited { code } => Some(code),
            _ => None,
        };
        let success = code.is_some_and(|code| policy.success_exit_status.contains(&code));
        let is_final = code.is_some_and(|code| policy.restart_prevent_exit_status.contains(&code));
        match (policy.restart, death.blame) {
            // Its policy is not known: it is started again, if its file can be used by then.
            _ if self.spec.unusable.is_some() => Verdict::Mend,
            (RestartPolicy::No, _) if success => Verdict::Finish,
            (RestartPolicy::No, _) => Verdict::Fail,
            // Whoever asked it to end, it has said that it is not to run.
            _ if is_final && success => Verdict::Finish,
            _ if is_final => Verdict::Fail,
            // It may have done its work, and is not to do it twice.
            _ if death.cause == Cause::Unknown && self.is_oneshot() => Verdict::Fail,
            _ if death.cause == Cause::Unknown => Verdict::Retry,
            (_, Blame::SomeoneElse) => Verdict::Mend,
            (RestartPolicy::Always, Blame::Itself) => Verdict::Restart,
            (_, Blame::Itself) if success => Verdict::Finish,
            (RestartPolicy::OnAbnormal | RestartPolicy::OnAbort, Blame::Itself)
                if code.is_some() =>
            {
                Verdict::Fail
            }
            (_, Blame::Itself) => Verdict::Restart,
        }
    }

    pub(super) fn leave(&mut self, instance: Instance, stop: Option<Stop>) {
        self.leaving.push(Leaving {
            instance,
            released: false,
            stop,
            went: false,
            lives: false,
            is_cleared: false,
        });
    }

    /// Something outlives an instance's main process.
    pub(crate) fn tree_remains(&mut self, instance: Instance, step: &mut Step<'_>) {
        let went = |old: &Leaving| old.instance == instance && old.went;
        let Some(old) = self.leaving.iter_mut().find(|old| went(old)) else {
            return;
        };
        old.went = false;
        let advice = background::advice(&self.spec.exec.program);
        self.background = Some(advice.clone());
        step.publish(Notice::WentToBackground {
            service: self.name.clone(),
            instance,
            advice,
        });
    }

    /// Whether an end is that of a process which has put its work into the background.
    fn is_to_background(&self, death: &Death, step: &Step<'_>) -> bool {
        let uptime = death.uptime;
        let uptime = uptime.unwrap_or_else(|| step.now.saturating_duration_since(self.since));
        let is_simple = self.spec.policy.kind == ServiceType::Simple;
        let is_early = uptime < background::WITHIN && is_simple;
        death.cause == Cause::Exited { code: 0 } && is_early
    }

    /// Sees to what an instance has left behind, now that it is gone.
    fn clear(&mut self, instance: Instance, step: &mut Step<'_>) {
        let (mode, signal) = (self.stop_mode(), self.spec.policy.stop_signal);
        let new = self.new_stop(Reach::Tree, step.now);
        let Some(old) = self.leaving.iter_mut().find(|it| it.instance == instance) else {
            return;
        };
        let how = match (mode, &mut old.stop) {
            (StopMode::Main, stop) => {
                *stop = None;
                Clear::Leave
            }
            (StopMode::Mixed, stop) => {
                *stop = Some(Stop::KILLED);
                Clear::Kill
            }
            (StopMode::Group, Some(Stop { kill_at: None, .. })) => Clear::Kill,
            (StopMode::Group, Some(stop)) if stop.reach == Reach::Tree => Clear::Await,
            (StopMode::Group, stop) => {
                let kill_at = stop.and_then(|stop| stop.kill_at).or(new.kill_at);
                *stop = Some(Stop { kill_at, ..new });
                Clear::Stop(signal)
            }
        };
        step.actions.push_back(Action::ClearTree {
            service: self.name.clone(),
            instance,
            how,
        });
    }

    /// Counts a death once, whichever fact tells it first.
    fn count_death(
        &mut self,
        instance: Instance,
        death: Death,
        circumstances: Option<Box<Circumstances>>,
        step: &mut Step<'_>,
    ) {
        if self.live_instance() != Some(instance) {
            self.count_death_beside(instance, &death, circumstances, step);
            return;
        }
        let (stop, is_stopping) = match self.state {
            ServiceState::Stopping { stop, .. } => (Some(stop), true),
            ServiceState::StopDue { .. } => (None, true),
            _ => (None, false),
        };
        step.publish(Notice::Exited {
            service: self.name.clone(),
            instance,
            death: death.clone(),
            circumstances,
        });
        let went = !is_stopping && self.is_to_background(&death, step);
        self.end_steps(Phase::AfterStart, instance, step);
        self.leave(instance, stop);
        if let Some(old) = self.leaving.last_mut() {
            old.went = went;
        }
        self.background = None;
        let overdue = self
            .overdue
            .take()
            .filter(|_| is_stopping && self.is_wanted());
        if let Some(reason) = overdue {
            self.follow_overdue(reason, &death, step);
        } else if !is_stopping && self.promote_next(instance, step) {
            // That one is on its way.
        } else if !is_stopping {
            self.follow_policy(&death, step);
        } else if self.is_wanted() {
            self.enter(ServiceState::Due(Start::Counted), step);
        } else {
            self.enter(ServiceState::Ending(DownReason::Stopped), step);
        }
        self.last_exit = Some(death);
    }

    /// Goes on after a death that nobody asked for here.
    fn follow_policy(&mut self, death: &Death, step: &mut Step<'_>) {
        let uptime = death
            .uptime
            .unwrap_or_else(|| step.now.saturating_duration_since(self.since));
        self.backoff.ran_for(uptime, &self.spec.policy);
        let verdict = self.verdict(death);
        if verdict == Verdict::Restart && self.has_failed_beside_another(uptime) {
            self.alone = true;
            return self.mend(Start::Free, step);
        }
        match &verdict {
            // They wait until nothing is left of it.
            Verdict::Finish if self.is_oneshot() => {}
            Verdict::Finish => self.pass(step),
            _ => self.deny_early_end(death, step),
        }
        match verdict {
            Verdict::Restart => self.back_off(BackoffReason::Exited, step),
            Verdict::Mend => self.mend(Start::Free, step),
            Verdict::Retry => self.mend(Start::Counted, step),
            Verdict::Finish => self.enter(ServiceState::Ending(DownReason::Finished), step),
            Verdict::Fail => {
                let reason = death.cause.to_string();
                self.enter(ServiceState::Ending(DownReason::Failed { reason }), step);
            }
        }
    }

    /// Goes on after the end of an instance that was not ready in time, or did not work.
    fn follow_overdue(&mut self, reason: String, death: &Death, step: &mut Step<'_>) {
        let uptime = death.uptime;
        let uptime = uptime.unwrap_or_else(|| step.now.saturating_duration_since(self.since));
        self.backoff.ran_for(uptime, &self.spec.policy);
        match self.spec.policy.restart {
            RestartPolicy::No | RestartPolicy::OnAbort => {
                self.enter(ServiceState::Ending(DownReason::Failed { reason }), step);
            }
            RestartPolicy::Always | RestartPolicy::OnFailure | RestartPolicy::OnAbnormal => {
                self.back_off(BackoffReason::Exited, step);
            }
        }
    }

    /// Whether an instance that has just ended by itself may have done so for what its predecessor
    /// still held. Its own tree is leaving, too.
    fn has_failed_beside_another(&self, uptime: Duration) -> bool {
        self.leaving.len() > 1 && uptime < self.spec.policy.stable_after
    }

    /// Whoever waits for the instance waits in vain: it has not run long enough.
    fn deny_early_end(&mut self, death: &Death, step: &mut Step<'_>) {
        let check = self.spec.policy.start_check;
        let message = match (self.is_up(), self.is_oneshot()) {
            (true, _) => format!("{} within start_check ({check:?})", death.cause),
            (false, false) => format!("{} before it was ready", death.cause),
            (false, true) => death.cause.to_string(),
        };
        self.deny_up(&SpawnFailure { message }, step);
    }

    /// Goes on after an end of its own, or a start that failed.
    pub(super) fn back_off(&mut self, reason: BackoffReason, step: &mut Step<'_>) {
        let own = self.backoff.fail(&self.spec.policy);
        match self.backoff.count_end(step.now) {
            Some(storm) if storm > own => {
                self.wait(storm, BackoffReason::TooOften, Start::Counted, step);
            }
            _ => self.wait(own, reason, Start::Counted, step),
        }
    }

    /// Goes on after what is not known to be its own doing: at once, unless it happens all the time.
    fn mend(&mut self, start: Start, step: &mut Step<'_>) {
        let delay = self.backoff.count_end(step.now).unwrap_or_default();
        self.wait(delay, BackoffReason::TooOften, start, step);
    }

    /// Waits for the next start, or not at all where the delay is zero.
    fn wait(&mut self, delay: Duration, reason: BackoffReason, start: Start, step: &mut Step<'_>) {
        // A start that has failed is told of nowhere else.
        if !delay.is_zero() || matches!(reason, BackoffReason::SpawnFailed(_)) {
            step.publish(Notice::Backoff {
                service: self.name.clone(),
                delay,
                reason,
            });
        }
        if delay.is_zero() {
            return self.enter(ServiceState::Due(start), step);
        }
        let until = after(step.now, delay);
        self.enter(ServiceState::Backoff { until, start }, step);
    }
}

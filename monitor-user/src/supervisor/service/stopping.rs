//! From Running to the end: when an instance may be stopped, by which signal or command, whom that reaches, and
//! when SIGKILL follows.

use std::time::Instant;

use super::reconfigure::is_described;
use super::{Action, Leaving, Service, ServiceState, Step, Stop, after};
use crate::model::{DownReason, Instance, Notice, Phase, Reach, Signal, StopMode};

impl Service {
    /// Whom a stop is for. What nothing is known of now goes by what was known last.
    pub(super) fn stop_mode(&self) -> StopMode {
        match is_described(&self.spec) {
            true => self.spec.policy.stop_mode,
            false => self.stop_mode,
        }
    }

    pub(super) fn reach(&self) -> Reach {
        match self.stop_mode() {
            StopMode::Group => Reach::Tree,
            StopMode::Mixed | StopMode::Main => Reach::Main,
        }
    }

    /// Whom SIGKILL is for once the stop signal has had its time: all whom that was for, whatever
    /// the config says by now.
    pub(super) fn kill_reach(&self, stop: Reach) -> Reach {
        match (stop, self.stop_mode()) {
            (Reach::Main, StopMode::Main) => Reach::Main,
            _ => Reach::Tree,
        }
    }

    /// The stop signal was sent to it, or to what is left of it.
    pub(crate) fn stop_sent(&mut self, instance: Instance) {
        match &mut self.state {
            ServiceState::Stopping { instance: of, stop } if *of == instance => {
                stop.is_sent = true;
            }
            _ => {
                let mut rests = self.leaving.iter_mut();
                let rest = rests.find(|old| old.instance == instance);
                if let Some(stop) = rest.and_then(|old| old.stop.as_mut()) {
                    stop.is_sent = true;
                }
            }
        }
    }

    /// Kills what is left of trees and has had its time.
    pub(super) fn kill_rests(&mut self, step: &mut Step<'_>) {
        let is_due = |old: &Leaving| old.stop.is_some_and(|stop| stop.is_due(step.now));
        let due = self.leaving.iter_mut().filter(|old| is_due(old));
        let due = due.filter_map(|old| {
            let stop = old.stop.replace(Stop::KILLED)?;
            Some((old.instance, stop.reach))
        });
        for (instance, reach) in due.collect::<Vec<_>>() {
            self.kill(instance, reach, step);
        }
    }

    /// Whether the other services permit a stop.
    pub(super) fn may_stop(&self, step: &Step<'_>) -> bool {
        !step.is_held && self.stop_waits.is_empty()
    }

    /// `stop`: whom the stop signal was for.
    pub(super) fn kill(&self, instance: Instance, stop: Reach, step: &mut Step<'_>) {
        step.actions.push_back(Action::Kill {
            service: self.name.clone(),
            instance,
            reach: self.kill_reach(stop),
        });
    }

    /// A stop that begins now.
    pub(super) fn new_stop(&self, reach: Reach, now: Instant) -> Stop {
        Stop {
            kill_at: Some(after(now, self.spec.policy.stop_timeout)),
            reach,
            is_sent: false,
        }
    }

    /// Stops the instance as soon as those that come after it permit it.
    pub(super) fn close(&mut self, instance: Instance, step: &mut Step<'_>) {
        self.abandon_next(step);
        self.end_steps(Phase::AfterStart, instance, step);
        self.enter(ServiceState::StopDue { instance }, step);
        if self.may_stop(step) {
            self.prepare_stop(instance, step);
        }
    }

    /// Stops it, after its `before_stop`.
    pub(super) fn prepare_stop(&mut self, instance: Instance, step: &mut Step<'_>) {
        if self.steps.contains(&(instance, Phase::BeforeStop)) {
            return;
        }
        if self.has_steps(Phase::BeforeStop) && !self.is_stop_prepared {
            self.run_steps(instance, Phase::BeforeStop, step);
        } else {
            self.begin_stop(instance, step);
        }
    }

    pub(super) fn begin_stop(&mut self, instance: Instance, step: &mut Step<'_>) {
        let signal = self.stop_signal();
        step.publish(Notice::Stopping {
            service: self.name.clone(),
            instance,
            signal,
            reason: self.overdue.clone(),
        });
        let reach = match signal {
            Some(_) => {
                self.send_stop(instance, step);
                self.reach()
            }
            None => {
                self.run_steps(instance, Phase::Stop, step);
                // Nobody was sent a signal.
                Reach::Main
            }
        };
        let stop = self.new_stop(reach, step.now);
        self.enter(ServiceState::Stopping { instance, stop }, step);
    }

    /// What a stop begins with; `None`: a command. What does not work is not asked by a command.
    pub(super) fn stop_signal(&self) -> Option<Signal> {
        let is_asked = self.has_steps(Phase::Stop) && self.overdue.is_none();
        (!is_asked).then_some(self.spec.policy.stop_signal)
    }

    pub(super) fn send_stop(&self, instance: Instance, step: &mut Step<'_>) {
        step.actions.push_back(Action::Stop {
            service: self.name.clone(),
            instance,
            signal: self.spec.policy.stop_signal,
            reach: self.reach(),
        });
    }

    /// On the way down from any state. A start under way is dealt with when it is answered.
    pub(super) fn bring_down(&mut self, step: &mut Step<'_>) {
        match self.state {
            ServiceState::Running { instance } => self.close(instance, step),
            ServiceState::Due(_) | ServiceState::Backoff { .. } => {
                self.enter(ServiceState::Ending(DownReason::Stopped), step);
            }
            ServiceState::Starting { .. } => self.abandon_start(step),
            ServiceState::Down(DownReason::Finished) if self.can_undo() => {
                self.begin_undo();
                self.enter(ServiceState::Ending(DownReason::Stopped), step);
            }
            ServiceState::Down(_)
            | ServiceState::Ending(_)
            | ServiceState::StopDue { .. }
            | ServiceState::Stopping { .. } => {}
        }
        self.settle(step);
    }
}

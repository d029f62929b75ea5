//! The commands around a run: which phase is run when, and what follows from its end.

use super::{Action, Service, ServiceState, Step};
use crate::model::{Instance, Notice, Phase};

impl Service {
    /// Has the commands of a phase run; `steps_done` follows.
    pub(super) fn run_steps(&mut self, instance: Instance, phase: Phase, step: &mut Step<'_>) {
        self.steps.insert((instance, phase));
        step.actions.push_back(Action::RunSteps {
            service: self.name.clone(),
            instance,
            phase,
        });
    }

    /// The commands of a phase have ended.
    pub(crate) fn steps_done(
        &mut self,
        instance: Instance,
        phase: Phase,
        failure: Option<String>,
        step: &mut Step<'_>,
    ) {
        if !self.steps.remove(&(instance, phase)) {
            return;
        }
        match phase {
            Phase::BeforeStart => {}
            Phase::AfterStart => {
                if self.runs(instance) && self.is_finishing {
                    match failure {
                        None => self.serve(instance, step),
                        Some(reason) => self.stop_for(reason, instance, step),
                    }
                }
            }
            Phase::BeforeStop => {
                self.tell_failure(phase, failure, step);
                if matches!(self.state, ServiceState::StopDue { instance: of } if of == instance) {
                    self.is_stop_prepared = true;
                }
            }
            Phase::Stop => self.stop_command_done(instance, failure, step),
            Phase::AfterStop => self.tell_failure(phase, failure, step),
        }
        self.let_go();
        self.settle(step);
    }

    /// Where the command in place of the stop signal has failed, the signal follows after all.
    fn stop_command_done(
        &mut self,
        instance: Instance,
        failure: Option<String>,
        step: &mut Step<'_>,
    ) {
        let (has_failed, reach) = (failure.is_some(), self.reach());
        let lives = match &mut self.state {
            ServiceState::Stopping { instance: of, stop } if *of == instance => {
                match has_failed {
                    true => stop.reach = reach,
                    // The next agent does not do it again.
                    false => stop.is_sent = true,
                }
                stop.kill_at.is_some()
            }
            _ => false,
        };
        if lives {
            self.tell_failure(Phase::Stop, failure, step);
        }
        if lives && has_failed {
            self.send_stop(instance, step);
        }
    }

    fn tell_failure(&self, phase: Phase, failure: Option<String>, step: &mut Step<'_>) {
        if let Some(message) = failure {
            step.publish(Notice::StepFailed {
                service: self.name.clone(),
                phase,
                message,
            });
        }
    }

    /// Ends commands that have lost their sense.
    pub(super) fn end_steps(&self, phase: Phase, instance: Instance, step: &mut Step<'_>) {
        if self.steps.contains(&(instance, phase)) {
            step.actions.push_back(Action::EndSteps {
                service: self.name.clone(),
                instance,
                phase,
            });
        }
    }

    /// Whether something is to be done when a oneshot service stops that has done its work.
    pub(super) fn can_undo(&self) -> bool {
        self.is_oneshot() && self.has_steps(Phase::BeforeStop)
    }

    /// Has its `before_stop` run before anything else is done: it is leaving until then.
    pub(super) fn begin_undo(&mut self) {
        if self
            .leaving
            .iter()
            .any(|old| old.instance == Instance::NONE)
        {
            return;
        }
        self.is_undo_due = true;
        self.leave(Instance::NONE, None);
        if let Some(old) = self.leaving.last_mut() {
            (old.released, old.is_cleared) = (true, true);
        }
    }
}

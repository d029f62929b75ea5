//! How a service goes on where an earlier agent was. Time without an agent is held against nothing.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Action, Backoff, End, Service, ServiceState, Start, Step, Stop, after};
use crate::model::{
    Attempt, Desired, DownReason, Instance, Memory, Notice, Phase, Reach, RestartMode, ServiceName,
};

/// What an earlier agent left of one service.
#[derive(Default)]
pub(crate) struct Legacy {
    pub(crate) memory: Memory,
    /// Those that had not let go of everything.
    pub(crate) instances: Vec<(Attempt, Instance)>,
}

/// Instances that are told to be dead before the first config.
pub(crate) type Dead = BTreeSet<(ServiceName, Instance)>;

impl Service {
    /// Goes on where an earlier agent was.
    pub(crate) fn resume(&mut self, legacy: Legacy, dead: &Dead, step: &mut Step<'_>) {
        let memory = legacy.memory;
        self.desired = memory.desired;
        self.last_attempt = memory.last_attempt;
        self.exec = memory.exec;
        self.former_main = memory.former_main;
        self.stop_mode = memory.stop_mode;
        self.starts = memory.starts;
        self.backoff = Backoff::restore(&memory, step.now);
        self.last_exit = memory.last_exit.clone();
        self.last_failure = memory.last_failure.clone();
        if memory.has_ended {
            self.end = End::Came;
        }
        let (leaving, mut own): (Vec<_>, Vec<_>) = legacy
            .instances
            .into_iter()
            .partition(|(_, instance)| memory.leaving.contains(instance));
        for (_, instance) in leaving {
            let stop = remembered_stop(&memory, instance, step.now);
            match memory.replaced.contains(&instance) {
                true => self.resume_retired(instance, stop, step),
                false => self.leave(instance, stop),
            }
        }
        own.sort_unstable();
        let next = memory.next.and_then(|next| {
            let runs = |(_, instance): &(Attempt, Instance)| memory.instance == Some(*instance);
            own.iter().find(|it| runs(it))?;
            let index = own
                .iter()
                .position(|(attempt, _)| *attempt == next.attempt)?;
            Some((next, own.remove(index).1))
        });
        match own.pop() {
            Some((attempt, instance)) => {
                self.last_attempt = self.last_attempt.max(attempt);
                if attempt > memory.last_attempt {
                    self.exec = None;
                }
                let is_dead = dead.contains(&(self.name.clone(), instance));
                self.adopt(instance, is_dead, &memory, step);
            }
            None => self.resume_down(&memory, step.now),
        }
        if memory.undoing && self.live_instance().is_none() {
            self.begin_undo();
        }
        for (_, instance) in own {
            self.kill_surplus(instance, step);
        }
        if let Some((next, instance)) = next {
            self.resume_next(next, instance, step);
        }
        self.settle(step);
    }

    /// An instance that should not be: the service has a later one.
    pub(super) fn kill_surplus(&mut self, instance: Instance, step: &mut Step<'_>) {
        step.actions.push_back(Action::Kill {
            service: self.name.clone(),
            instance,
            reach: self.kill_reach(Reach::Main),
        });
        self.leave(instance, Some(Stop::KILLED));
    }

    /// Goes on with an instance whose end has not been counted. A dead one is adopted only in
    /// name, and told of only if nobody was ever told of it. One that runs what the config does
    /// not have any more is replaced.
    fn adopt(&mut self, instance: Instance, is_dead: bool, memory: &Memory, step: &mut Step<'_>) {
        let is_untold = memory.instance != Some(instance);
        if is_untold {
            self.starts = self.starts.saturating_add(1);
            self.last_failure = None;
        }
        if is_untold || !is_dead {
            step.publish(Notice::Adopted {
                service: self.name.clone(),
                instance,
            });
        }
        self.overdue = memory.overdue.clone();
        let is_outdated = self.is_outdated();
        self.watchdog = self.spec.exec.watchdog.filter(|_| !is_outdated);
        let is_stopping = memory.stopping || !self.is_wanted();
        let is_rolling = self.spec.policy.restart_mode == RestartMode::Rolling;
        if !is_stopping && is_outdated && !is_dead && !is_rolling {
            self.backoff.reset();
            self.close(instance, step);
        } else if !is_stopping {
            self.enter(ServiceState::Running { instance }, step);
            if !is_untold {
                self.since = memory.since(step.now);
            }
            // Time without an agent is not held against it.
            self.is_finishing = match is_untold {
                true => !self.says_ready() && self.has_steps(Phase::AfterStart),
                false => memory.finishing == Some(instance),
            };
            self.is_ready = match is_untold {
                true => !self.becomes_ready(),
                false => memory.unready != Some(instance) && !self.is_finishing,
            };
            self.roll_due = is_outdated && self.can_roll();
            if is_outdated && !is_dead && !self.roll_due {
                self.backoff.reset();
                self.close(instance, step);
            } else if !is_dead {
                self.await_ready(instance, step);
            }
        } else {
            let stop = remembered_stop(memory, instance, step.now);
            self.adopt_stopping(instance, is_dead, stop, step);
        }
    }

    /// Goes on with a stop where the earlier agent was: a second signal may mean something else, and
    /// the time runs on.
    fn adopt_stopping(
        &mut self,
        instance: Instance,
        is_dead: bool,
        stop: Option<Stop>,
        step: &mut Step<'_>,
    ) {
        let Some(stop) = stop else {
            if !is_dead {
                return self.close(instance, step);
            }
            // What it has left has had no signal.
            let stop = self.new_stop(Reach::Main, step.now);
            return self.enter(ServiceState::Stopping { instance, stop }, step);
        };
        if !is_dead {
            step.publish(Notice::Stopping {
                service: self.name.clone(),
                instance,
                signal: self.stop_signal(),
                reason: self.overdue.clone(),
            });
            if stop.kill_at.is_none() {
                self.kill(instance, stop.reach, step);
            }
        }
        self.enter(ServiceState::Stopping { instance, stop }, step);
    }

    /// Whether the last attempt ran what the config does not have any more. What it has while it
    /// cannot be used is not known.
    pub(super) fn is_outdated(&self) -> bool {
        let is_known = self.spec.unusable.is_none();
        let is_other = |exec| exec != self.spec.exec.fingerprint();
        is_known && self.exec.is_some_and(is_other)
    }

    /// Goes on without a live instance.
    fn resume_down(&mut self, memory: &Memory, now: Instant) {
        let rest = match &memory.rest {
            Some(rest) if self.end == End::Came => Some(rest.clone()),
            _ if self.desired == Desired::Down || self.removed => Some(DownReason::Stopped),
            Some(DownReason::Stopped) | None if self.shutdown => Some(DownReason::Stopped),
            Some(DownReason::Stopped) | None => None,
            Some(rest) => Some(rest.clone()),
        };
        self.since = memory.since(now);
        let start = if memory.next_start_is_free && !self.is_outdated() {
            Start::Free
        } else {
            Start::Counted
        };
        self.state = match (rest, memory.next_start_in) {
            // It was told when it happened.
            (Some(rest), _) if memory.at_rest && self.leaving.is_empty() => {
                ServiceState::Down(rest)
            }
            (Some(rest), _) => ServiceState::Ending(rest),
            (None, Some(delay)) => ServiceState::Backoff {
                until: after(now, delay),
                start,
            },
            (None, None) => ServiceState::Due(start),
        };
    }
}

/// How far an earlier agent had come with the stop of an instance, if it had sent the signal.
fn remembered_stop(memory: &Memory, instance: Instance, now: Instant) -> Option<Stop> {
    let stop = memory.stops.iter().find(|stop| stop.instance == instance)?;
    Some(Stop {
        kill_at: stop.kill_in.map(|left| after(now, left)),
        reach: match stop.whole_tree {
            true => Reach::Tree,
            false => Reach::Main,
        },
        is_sent: true,
    })
}

//! One service's state machine: what is (`ServiceState`) beside what is desired (`Desired`).
//!
//! Knows nothing of other services, of deadlines' order, or of how an action is performed.
//!
//! A service is *wanted* while it is desired up, in the config, and the agent is not going.
//! An instance has two ends: it *exits* (early, perhaps untold), and then *lets go*: released,
//! and its tree cleared. From exit to tree gone it is in `leaving`, beside the state.
//!
//! ```text
//!            start,       stop        new exec,   spawned      spawn    exited     timeout   old ones
//! state      restart                  wanted                   failed                        let go
//! ---------  -----------  ----------  ----------  -----------  -------  ---------  --------  --------
//! Down       Due          done        Due         -            -        -          -         -
//! Ending     Due          join        Due         -            -        -          -         Down
//! Due        join         Ending      Due         -            -        -          -         Starting
//! Backoff    Due          Ending      Due         -            -        -          Due       -
//! Starting   join         (1)         (1)         Running (2)  next(3)  -          -         -
//! Running    (5); Stop-   Stopping    Stopping    -            -        next (3)   -         -
//!            ping if restart
//! Stopping   join         join        -           -            -        next (4)   Kill      -
//! ```
//!
//! - `-`: the fact is about something unknown, twice told or late: nothing happens. "join": the
//!   request waits for what goes on already.
//! - A service whose file cannot be used has an *unusable* spec. Its starts are tried like any other's,
//!   for each begins with another look at the file: `described` has the spec to start by, and it is
//!   Due; else the start has failed. An instance of an earlier agent is left alone meanwhile.
//! - (1) Nothing can be done to a start under way. Its answer decides: an instance that is not
//!   wanted any more, or was started from an exec that has changed, is stopped at once.
//! - (2) or straight on to Stopping, by (1).
//! - (3) by restart policy: Due, Backoff, or Ending with success or failure; Backoff instead of Due
//!   in a storm of ends. An end that nobody saw may have been anybody's doing: Due, and no failure
//!   is counted, but its start is. A failed start that is not wanted any more: Ending. One whose
//!   exec has changed: Due.
//!   With `overlap`, an instance that fails while its predecessor's tree lives may have failed for
//!   what that still holds: Due, at no cost, once nothing is left of either.
//! - (4) Due if wanted, else Ending.
//! - (5) done once the instance has run for `start_check`; failed if it ends sooner.
//! - What outlives its main process is stopped by `stop_mode`, beside the state: "group" gives it
//!   what is left of the stop's time, or after an end of its own the stop signal and a time of
//!   its own, and then SIGKILL; "mixed" kills it at once; "main" counts it as gone.
//! - Due becomes Starting as soon as no old instance is leaving (with `overlap`: at most one
//!   is), or Ending where the start limit forbids it. Ending becomes Down when none is leaving.
//! - The end of another process of its tree is told while it is Running, and changes nothing.
//! - Removal and shutdown act like stop, but leave `Desired` as it is; back in the config is
//!   like start.
//!
//! Invariants, by the names under which `simulation.rs` checks them:
//! - `one_live`: at most one instance has not exited.
//! - `one_predecessor`: nothing is spawned while more than one old instance is leaving; without
//!   `overlap`, while any is.
//! - `up_is_pursued`: a wanted service runs, is being started, is being stopped for a restart,
//!   has a timer armed, or has been ended by its policy.
//! - `stop_ends`: a stop needs no more than its timeout and the facts that answer its actions.
//! - `one_stop_signal`: an instance whose stop signal was sent is sent no other, by no agent.
//! - `no_start_while_down`: nothing is spawned while it is not wanted.
//! - `one_reply`: each request is replied to once, with the words that are true at that moment.
//! - `journal_agrees`: the notices, read in order, tell the state.
//! - `no_storm`: whoever ends a service all the time, it is not started all the time.
//! - `timers_ahead`: after a timeout was handled, the next one is ahead: no busy loop.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::action::Action;
use super::background;
use super::backoff::{Backoff, after};
use super::fact::RequestId;
use crate::model::{
    Attempt, BackoffReason, Blame, Cause, Child, Clear, Death, DeniedReason, Desired, Exec, Hooks,
    Instance, Memory, Notice, Policy, Reach, Reply, Rest, RestartPolicy, ServiceName, Signal,
    SpawnFailure, Spec, State, Status, StopMemory, StopMode,
};

/// What a service is told along with each fact, and where it leaves its actions.
pub(super) struct Step<'a> {
    pub(super) now: Instant,
    pub(super) actions: &'a mut VecDeque<Action>,
    /// The last attempt of all services: one count for all, so that a service that is removed
    /// and added again never uses a number twice.
    pub(super) last_attempt: &'a mut Attempt,
}

impl Step<'_> {
    fn publish(&mut self, notice: Notice) {
        self.actions.push_back(Action::Publish(notice));
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        self.actions.push_back(Action::Reply { request, reply });
    }
}

/// What an earlier agent left of one service.
#[derive(Default)]
pub(super) struct Legacy {
    pub(super) memory: Memory,
    /// Those that had not let go of everything.
    pub(super) instances: Vec<(Attempt, Instance)>,
}

/// Instances that are told to be dead before the first config.
pub(super) type Dead = BTreeSet<(ServiceName, Instance)>;

/// Whether a start counts towards the start limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Counted,
    /// It mends what someone else broke, or was counted when an earlier agent tried it.
    Free,
}

/// What a service does. The table is in the module's head.
#[derive(Debug)]
enum ServiceState {
    /// Nothing of it is left, and nothing is under way.
    Down(Rest),
    /// Nothing is to be started; old instances are still letting go.
    Ending(Rest),
    /// To be started as soon as the old instances permit it.
    Due(Start),
    /// To be started then.
    Backoff {
        until: Instant,
        start: Start,
    },
    /// `Spawn` is not answered yet.
    Starting {
        attempt: Attempt,
        spec: Arc<Spec>,
    },
    Running {
        instance: Instance,
    },
    /// The stop signal is on its way, and SIGKILL follows in its time.
    Stopping {
        instance: Instance,
        stop: Stop,
    },
}

/// How far the stop of an instance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stop {
    /// When SIGKILL follows, once; `None`: that has been asked for.
    kill_at: Option<Instant>,
    /// Whom the stop signal was for.
    reach: Reach,
    /// Whether it has been sent, for an agent that knows only what this one remembered.
    is_sent: bool,
}

impl Stop {
    /// Nothing of it may live any more.
    const KILLED: Self = Self {
        kill_at: None,
        reach: Reach::Tree,
        is_sent: true,
    };

    /// SIGKILL is due.
    fn is_due(&self, now: Instant) -> bool {
        self.kill_at.is_some_and(|at| at <= now)
    }
}

/// An instance that has exited, but has not let go of everything.
#[derive(Debug)]
struct Leaving {
    instance: Instance,
    /// Told so, and `ClearTree` is not answered yet.
    released: bool,
    /// How far what is left of its tree has been stopped; `None`: it was not.
    stop: Option<Stop>,
    /// It ended by itself as one does that has put its work into the background.
    went: bool,
}

/// What a newer config changes of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// What runs goes on.
    InPlace,
    /// It is started anew.
    Restart,
}

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

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    name: ServiceName,
    spec: Arc<Spec>,
    desired: Desired,
    /// Gone from the config: forgotten once it is down.
    removed: bool,
    /// The agent is going.
    shutdown: bool,
    state: ServiceState,
    /// When `state` became what it is.
    since: Instant,
    leaving: Vec<Leaving>,
    /// Whether the next start must wait until no old instance is leaving: the last one failed beside
    /// one.
    alone: bool,
    /// Whether a reload has it wait until others have stopped.
    is_held: bool,
    backoff: Backoff,
    last_attempt: Attempt,
    /// The fingerprint of what the last attempt ran; `None`: not known.
    exec: Option<u64>,
    /// Whom a stop is for, where the spec does not say it.
    stop_mode: StopMode,
    starts: u64,
    last_exit: Option<Death>,
    last_failure: Option<SpawnFailure>,
    /// What to do about its going into the background, if the last instance did.
    background: Option<String>,
    /// Starts and restarts, replied to when an instance is there and has passed its `start_check`.
    waiting_up: Vec<RequestId>,
    /// When the running instance has passed it, if somebody waits for that.
    passes_at: Option<Instant>,
    /// Stops, replied to when nothing is left.
    waiting_down: Vec<RequestId>,
}

impl Service {
    /// A service that is desired up and still down; `begin` or `resume` follows.
    pub(super) fn new(name: ServiceName, spec: Arc<Spec>, shutdown: bool, now: Instant) -> Self {
        Self {
            name,
            spec,
            desired: Desired::Up,
            removed: false,
            shutdown,
            state: ServiceState::Down(Rest::Stopped),
            since: now,
            leaving: Vec::new(),
            alone: false,
            is_held: false,
            backoff: Backoff::default(),
            last_attempt: Attempt::default(),
            exec: None,
            stop_mode: StopMode::default(),
            starts: 0,
            last_exit: None,
            last_failure: None,
            background: None,
            waiting_up: Vec::new(),
            passes_at: None,
            waiting_down: Vec::new(),
        }
    }

    /// A service that is not in the config: known only to be stopped.
    pub(super) fn unlisted(name: ServiceName, shutdown: bool, now: Instant) -> Self {
        let mut service = Self::new(name, Arc::new(last_resort_spec()), shutdown, now);
        service.removed = true;
        service
    }

    // ---- reading ----

    pub(super) fn name(&self) -> &ServiceName {
        &self.name
    }

    pub(super) fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed
    }

    /// Whether nothing is left of it and nothing is under way.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, ServiceState::Down(_))
    }

    /// When `timeout` has to be called, if ever.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let own = match self.state {
            ServiceState::Backoff { until, .. } => Some(until),
            ServiceState::Stopping { stop, .. } => stop.kill_at,
            _ => None,
        };
        let rests = self.leaving.iter().filter_map(|old| old.stop?.kill_at);
        own.into_iter().chain(self.passes_at).chain(rests).min()
    }

    pub(super) fn status(&self) -> Status<'_> {
        Status {
            service: &self.name,
            state: self.contract_state(),
            desired: if self.removed {
                Desired::Down
            } else {
                self.desired
            },
            instance: self.live_instance(),
            since: self.since,
            restarts: self.starts.saturating_sub(1),
            last_exit: self.last_exit.as_ref(),
            last_failure: self.last_failure.as_ref(),
            failed: match &self.state {
                ServiceState::Down(Rest::Failed { reason })
                | ServiceState::Ending(Rest::Failed { reason }) => Some(reason),
                _ => None,
            },
            background: self.background.as_deref(),
            next_start: match self.state {
                ServiceState::Backoff { until, .. } => Some(until),
                _ => None,
            },
        }
    }

    pub(super) fn memory(&self, now: Instant) -> Memory {
        Memory {
            desired: self.desired,
            last_attempt: self.last_attempt,
            exec: self.exec,
            instance: self.live_instance(),
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
            stopping: matches!(self.state, ServiceState::Stopping { .. }) && !self.shutdown,
            rest: match &self.state {
                ServiceState::Down(Rest::Stopped) | ServiceState::Ending(Rest::Stopped) => None,
                ServiceState::Down(rest) | ServiceState::Ending(rest) => Some(rest.clone()),
                _ => None,
            },
            at_rest: self.is_down(),
            last_exit: self.last_exit.clone(),
            leaving: self.leaving.iter().map(|old| old.instance).collect(),
            stops: self.stops(now),
            stop_mode: self.stop_mode(),
            last_failure: self.last_failure.clone(),
            state_age: now.saturating_duration_since(self.since),
        }
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

    /// Whom a stop is for. What nothing is known of now goes by what was known last.
    fn stop_mode(&self) -> StopMode {
        match self.is_described() {
            true => self.spec.policy.stop_mode,
            false => self.stop_mode,
        }
    }

    fn is_described(&self) -> bool {
        self.spec.unusable.is_none() && !self.spec.exec.arguments.is_empty()
    }

    fn reach(&self) -> Reach {
        match self.stop_mode() {
            StopMode::Group => Reach::Tree,
            StopMode::Mixed | StopMode::Main => Reach::Main,
        }
    }

    /// Whom SIGKILL is for once the stop signal has had its time: all whom that was for, whatever
    /// the config says by now.
    fn kill_reach(&self, stop: Reach) -> Reach {
        match (stop, self.stop_mode()) {
            (Reach::Main, StopMode::Main) => Reach::Main,
            _ => Reach::Tree,
        }
    }

    fn contract_state(&self) -> State {
        match &self.state {
            ServiceState::Down(Rest::Failed { .. }) => State::Failed,
            ServiceState::Down(_) => State::Stopped,
            ServiceState::Due(_) => State::Starting,
            ServiceState::Backoff { .. } => State::Backoff,
            ServiceState::Starting { .. } if self.is_wanted() => State::Starting,
            ServiceState::Running { .. } => State::Running,
            ServiceState::Ending(_)
            | ServiceState::Starting { .. }
            | ServiceState::Stopping { .. } => State::Stopping,
        }
    }

    fn live_instance(&self) -> Option<Instance> {
        match self.state {
            ServiceState::Running { instance } | ServiceState::Stopping { instance, .. } => {
                Some(instance)
            }
            _ => None,
        }
    }

    fn is_wanted(&self) -> bool {
        self.desired == Desired::Up && !self.removed && !self.shutdown
    }

    // ---- what people ask ----

    pub(super) fn start(&mut self, request: RequestId, step: &mut Step<'_>) {
        self.desired = Desired::Up;
        self.is_held = false;
        self.overtake_down("start", step);
        self.waiting_up.push(request);
        if matches!(self.state, ServiceState::Running { .. }) {
            self.await_pass(step);
        } else {
            self.start_afresh(step);
        }
    }

    pub(super) fn restart(&mut self, request: RequestId, step: &mut Step<'_>) {
        self.desired = Desired::Up;
        self.is_held = false;
        self.overtake_down("restart", step);
        self.waiting_up.push(request);
        self.replace_or_start(step);
    }

    pub(super) fn stop(&mut self, request: RequestId, step: &mut Step<'_>) {
        self.desired = Desired::Down;
        self.overtake_up("stop", step);
        self.waiting_down.push(request);
        match &mut self.state {
            ServiceState::Down(rest) => {
                if matches!(rest, Rest::Failed { .. }) {
                    step.publish(Notice::Stopped {
                        service: self.name.clone(),
                    });
                    self.since = step.now;
                }
                *rest = Rest::Stopped;
            }
            ServiceState::Ending(rest) => *rest = Rest::Stopped,
            _ => {}
        }
        self.bring_down(step);
    }

    /// Sends a signal to the main process, if there is one.
    pub(super) fn signal(&self, signal: Signal, request: RequestId, step: &mut Step<'_>) {
        let service = self.name.clone();
        let Some(instance) = self.live_instance() else {
            return step.reply(request, Reply::Denied(DeniedReason::NotRunning(service)));
        };
        step.actions.push_back(Action::Signal {
            service,
            instance,
            signal,
            request,
        });
    }

    // ---- what the config says ----

    /// The first start of a service that was not known before.
    pub(super) fn begin(&mut self, step: &mut Step<'_>) {
        if self.is_wanted() {
            self.start_afresh(step);
        }
    }

    /// What the service's spec of a newer config changes. A changed policy holds from the next
    /// decision on; a changed exec restarts what is wanted.
    pub(super) fn change(&self, spec: &Arc<Spec>) -> Change {
        if Arc::ptr_eq(&self.spec, spec) || self.spec == *spec {
            Change::None
        } else if self.is_wanted() && self.is_new_exec(spec) {
            Change::Restart
        } else {
            Change::InPlace
        }
    }

    /// Takes that spec, whose change is known.
    pub(super) fn reconfigure(&mut self, spec: Arc<Spec>, change: Change, step: &mut Step<'_>) {
        match change {
            Change::None => {}
            Change::InPlace => {
                self.spec = spec;
                self.settle(step);
            }
            Change::Restart => {
                self.spec = spec;
                self.replace_or_start(step);
            }
        }
    }

    /// A reload is about to start it, once others have stopped; `request` waits for that.
    pub(super) fn hold(&mut self, request: Option<RequestId>, step: &mut Step<'_>) {
        self.is_held = true;
        match request {
            // It will not be wanted before the agent goes.
            Some(request) if self.shutdown => step.reply(request, Reply::Done),
            request => self.waiting_up.extend(request),
        }
    }

    /// The others have stopped.
    pub(super) fn release(&mut self, step: &mut Step<'_>) {
        self.is_held = false;
        self.settle(step);
    }

    /// Whether something is left of what had to stop; with `overlap` that is the instance alone.
    pub(super) fn is_left(&self) -> bool {
        let lives = match &self.state {
            ServiceState::Stopping { .. } => true,
            // It is stopped once it is there.
            ServiceState::Starting { spec, .. } => self.removed || spec.exec != self.spec.exec,
            _ => false,
        };
        let is_beside = self.spec.policy.overlap && !self.removed;
        lives || !self.leaving.is_empty() && !is_beside
    }

    /// Whether a spec runs something else than what runs. Nothing is known of what an unusable
    /// one ran, but by its fingerprint.
    fn is_new_exec(&self, spec: &Spec) -> bool {
        if self.spec.unusable.is_none() {
            return spec.unusable.is_none() && self.spec.exec != spec.exec;
        }
        let is_running = matches!(self.state, ServiceState::Running { .. });
        let is_same = |exec| exec == spec.exec.fingerprint();
        !is_running || !self.exec.is_none_or(is_same)
    }

    /// Gone from the config.
    pub(super) fn remove(&mut self, step: &mut Step<'_>) {
        self.removed = true;
        self.overtake_up("reload", step);
        self.bring_down(step);
    }

    /// Back in the config before its removal was through.
    pub(super) fn add_again(&mut self, spec: Arc<Spec>, step: &mut Step<'_>) {
        self.removed = false;
        self.spec = spec;
        self.desired = Desired::Up;
        if self.is_wanted() {
            self.overtake_down("reload", step);
        }
        self.begin(step);
    }

    /// The agent is going.
    pub(super) fn shut_down(&mut self, step: &mut Step<'_>) {
        self.shutdown = true;
        self.overtake_up("shutdown", step);
        self.bring_down(step);
    }

    /// Goes on where an earlier agent was.
    pub(super) fn resume(&mut self, legacy: Legacy, dead: &Dead, step: &mut Step<'_>) {
        let memory = legacy.memory;
        self.desired = memory.desired;
        self.last_attempt = memory.last_attempt;
        self.exec = memory.exec;
        self.stop_mode = memory.stop_mode;
        self.starts = memory.starts;
        self.backoff = Backoff::restore(&memory, step.now);
        self.last_exit = memory.last_exit.clone();
        self.last_failure = memory.last_failure.clone();
        let (leaving, mut own): (Vec<_>, Vec<_>) = legacy
            .instances
            .into_iter()
            .partition(|(_, instance)| memory.leaving.contains(instance));
        for (_, instance) in leaving {
            let stop = remembered_stop(&memory, instance, step.now);
            self.leave(instance, stop);
        }
        own.sort_unstable();
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
        for (_, instance) in own {
            self.kill_surplus(instance, step);
        }
        self.settle(step);
    }

    /// An instance that should not be: the service has a later one.
    fn kill_surplus(&mut self, instance: Instance, step: &mut Step<'_>) {
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
        }
        if is_untold || !is_dead {
            step.publish(Notice::Adopted {
                service: self.name.clone(),
                instance,
            });
        }
        let is_outdated = self.is_outdated();
        let is_stopping = memory.stopping || !self.is_wanted();
        if !is_stopping && is_outdated && !is_dead {
            self.backoff.reset();
            self.begin_stop(instance, step);
        } else if !is_stopping {
            self.enter(ServiceState::Running { instance }, step);
            if !is_untold {
                self.since = memory.since(step.now);
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
                return self.begin_stop(instance, step);
            }
            // What it has left has had no signal.
            let stop = self.new_stop(Reach::Main, step.now);
            return self.enter(ServiceState::Stopping { instance, stop }, step);
        };
        if !is_dead {
            step.publish(Notice::Stopping {
                service: self.name.clone(),
                instance,
                signal: self.spec.policy.stop_signal,
            });
            if stop.kill_at.is_none() {
                self.kill(instance, stop.reach, step);
            }
        }
        self.enter(ServiceState::Stopping { instance, stop }, step);
    }

    /// Whether the last attempt ran what the config does not have any more. What it has while it
    /// cannot be used is not known.
    fn is_outdated(&self) -> bool {
        let is_known = self.spec.unusable.is_none();
        let is_other = |exec| exec != self.spec.exec.fingerprint();
        is_known && self.exec.is_some_and(is_other)
    }

    /// Goes on without a live instance.
    fn resume_down(&mut self, memory: &Memory, now: Instant) {
        let rest = match &memory.rest {
            _ if !self.is_wanted() => Some(Rest::Stopped),
            Some(Rest::Stopped) | None => None,
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

    // ---- what happened ----

    pub(super) fn spawned(&mut self, attempt: Attempt, instance: Instance, step: &mut Step<'_>) {
        let Some(spec) = self.answered(attempt) else {
            return;
        };
        let outdated = spec.exec != self.spec.exec;
        self.starts = self.starts.saturating_add(1);
        self.last_failure = None;
        self.enter(ServiceState::Running { instance }, step);
        step.publish(Notice::Started {
            service: self.name.clone(),
            instance,
            restarts: self.starts.saturating_sub(1),
        });
        if !self.is_wanted() || outdated {
            self.begin_stop(instance, step);
        } else {
            // A reload that had it wait has taken back what it was to be started anew for.
            self.is_held = false;
            self.await_pass(step);
        }
    }

    /// Answers who waits for the running instance, or will when it has run long enough.
    fn await_pass(&mut self, step: &mut Step<'_>) {
        let passes_at = after(self.since, self.spec.policy.start_check);
        if passes_at <= step.now {
            self.pass(step);
        } else if !self.waiting_up.is_empty() {
            self.passes_at = Some(passes_at);
        }
    }

    fn pass(&mut self, step: &mut Step<'_>) {
        self.passes_at = None;
        for request in mem::take(&mut self.waiting_up) {
            step.reply(request, Reply::Done);
        }
    }

    pub(super) fn spawn_failed(
        &mut self,
        attempt: Attempt,
        failure: SpawnFailure,
        step: &mut Step<'_>,
    ) {
        let Some(spec) = self.answered(attempt) else {
            return;
        };
        let outdated = spec.exec != self.spec.exec;
        self.last_failure = Some(failure.clone());
        if !self.is_wanted() {
            self.enter(ServiceState::Ending(Rest::Stopped), step);
        } else if outdated {
            self.backoff.reset();
            self.enter(ServiceState::Due(Start::Counted), step);
        } else {
            self.deny_up(&failure, step);
            if self.spec.policy.restart == RestartPolicy::No {
                let reason = failure.message;
                self.enter(ServiceState::Ending(Rest::Failed { reason }), step);
            } else {
                self.back_off(BackoffReason::SpawnFailed(failure), step);
            }
        }
        self.settle(step);
    }

    /// The start was not tried, as its spec said nothing; now there is one that does.
    pub(super) fn described(&mut self, attempt: Attempt, spec: Arc<Spec>, step: &mut Step<'_>) {
        if self.answered(attempt).is_none() {
            return;
        }
        if self.spec.unusable.is_some() {
            self.spec = spec;
        }
        if self.is_wanted() {
            self.enter(ServiceState::Due(Start::Free), step);
        } else {
            self.enter(ServiceState::Ending(Rest::Stopped), step);
        }
        self.settle(step);
    }

    /// Another process of the tree of that start has ended. What ends when the main process is gone,
    /// or is being stopped, ends for that.
    pub(super) fn child_exited(&self, attempt: Attempt, child: Box<Child>, step: &mut Step<'_>) {
        let runs = matches!(self.state, ServiceState::Running { .. });
        if runs && attempt == self.last_attempt {
            step.publish(Notice::ChildExited {
                service: self.name.clone(),
                child,
            });
        }
    }

    pub(super) fn exited(&mut self, instance: Instance, death: Death, step: &mut Step<'_>) {
        self.count_death(instance, death, step);
        self.settle(step);
    }

    pub(super) fn released(&mut self, instance: Instance, death: Death, step: &mut Step<'_>) {
        self.count_death(instance, death, step);
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

    /// The stop signal was sent to it, or to what is left of it.
    pub(super) fn stop_sent(&mut self, instance: Instance) {
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

    pub(super) fn tree_gone(&mut self, instance: Instance, step: &mut Step<'_>) {
        self.leaving
            .retain(|old| !(old.instance == instance && old.released));
        self.settle(step);
    }

    pub(super) fn timeout(&mut self, step: &mut Step<'_>) {
        match &mut self.state {
            ServiceState::Backoff { until, start } if *until <= step.now => {
                let start = *start;
                self.enter(ServiceState::Due(start), step);
            }
            ServiceState::Stopping { instance, stop } if stop.is_due(step.now) => {
                stop.kill_at = None;
                let (instance, reach) = (*instance, stop.reach);
                self.kill(instance, reach, step);
            }
            _ => {}
        }
        if self.passes_at.is_some_and(|at| at <= step.now) {
            self.pass(step);
        }
        self.kill_rests(step);
        self.settle(step);
    }

    /// Kills what is left of trees and has had its time.
    fn kill_rests(&mut self, step: &mut Step<'_>) {
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

    // ---- deciding ----

    /// The spec that the start under way was made from, if `attempt` is that start.
    fn answered(&self, attempt: Attempt) -> Option<Arc<Spec>> {
        match &self.state {
            ServiceState::Starting {
                attempt: current,
                spec,
            } if *current == attempt => Some(Arc::clone(spec)),
            _ => None,
        }
    }

    /// What follows from a death, by policy alone.
    fn verdict(&self, death: &Death) -> Verdict {
        let policy = &self.spec.policy;
        let success = matches!(
            death.cause,
            Cause::Exited { code } if policy.success_exit_status.contains(&code)
        );
        match (policy.restart, death.blame) {
            // Its policy is not known: it is started again, if its file can be used by then.
            _ if self.spec.unusable.is_some() => Verdict::Mend,
            (RestartPolicy::No, _) if success => Verdict::Finish,
            (RestartPolicy::No, _) => Verdict::Fail,
            _ if death.cause == Cause::Unknown => Verdict::Retry,
            (_, Blame::SomeoneElse) => Verdict::Mend,
            (RestartPolicy::OnFailure, Blame::Itself) if success => Verdict::Finish,
            (_, Blame::Itself) => Verdict::Restart,
        }
    }

    /// Whether the old instances permit a start.
    fn may_spawn(&self) -> bool {
        let most = usize::from(self.spec.policy.overlap && !self.alone);
        !self.is_held && self.leaving.len() <= most
    }

    // ---- doing ----

    fn enter(&mut self, state: ServiceState, step: &Step<'_>) {
        self.state = state;
        self.since = step.now;
        self.passes_at = None;
    }

    fn leave(&mut self, instance: Instance, stop: Option<Stop>) {
        self.leaving.push(Leaving {
            instance,
            released: false,
            stop,
            went: false,
        });
    }

    /// Something outlives an instance's main process.
    pub(super) fn tree_remains(&mut self, instance: Instance, step: &mut Step<'_>) {
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
        death.cause == Cause::Exited { code: 0 } && uptime < background::WITHIN
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

    /// `stop`: whom the stop signal was for.
    fn kill(&self, instance: Instance, stop: Reach, step: &mut Step<'_>) {
        step.actions.push_back(Action::Kill {
            service: self.name.clone(),
            instance,
            reach: self.kill_reach(stop),
        });
    }

    /// A stop that begins now.
    fn new_stop(&self, reach: Reach, now: Instant) -> Stop {
        Stop {
            kill_at: Some(after(now, self.spec.policy.stop_timeout)),
            reach,
            is_sent: false,
        }
    }

    /// Counts a death once, whichever fact tells it first.
    fn count_death(&mut self, instance: Instance, death: Death, step: &mut Step<'_>) {
        if self.live_instance() != Some(instance) {
            return;
        }
        let stop = match self.state {
            ServiceState::Stopping { stop, .. } => Some(stop),
            _ => None,
        };
        step.publish(Notice::Exited {
            service: self.name.clone(),
            instance,
            death: death.clone(),
        });
        let went = stop.is_none() && self.is_to_background(&death, step);
        self.leave(instance, stop);
        if let Some(old) = self.leaving.last_mut() {
            old.went = went;
        }
        self.background = None;
        if stop.is_none() {
            self.follow_policy(&death, step);
        } else if self.is_wanted() {
            self.enter(ServiceState::Due(Start::Counted), step);
        } else {
            self.enter(ServiceState::Ending(Rest::Stopped), step);
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
            Verdict::Finish => self.pass(step),
            _ => self.deny_early_end(death, step),
        }
        match verdict {
            Verdict::Restart => self.back_off(BackoffReason::Exited, step),
            Verdict::Mend => self.mend(Start::Free, step),
            Verdict::Retry => self.mend(Start::Counted, step),
            Verdict::Finish => self.enter(ServiceState::Ending(Rest::Finished), step),
            Verdict::Fail => {
                let reason = death.cause.to_string();
                self.enter(ServiceState::Ending(Rest::Failed { reason }), step);
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
        let message = format!("{} within start_check ({check:?})", death.cause);
        self.deny_up(&SpawnFailure { message }, step);
    }

    /// Goes on after an end of its own, or a start that failed.
    fn back_off(&mut self, reason: BackoffReason, step: &mut Step<'_>) {
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
        if delay.is_zero() {
            return self.enter(ServiceState::Due(start), step);
        }
        step.publish(Notice::Backoff {
            service: self.name.clone(),
            delay,
            reason,
        });
        let until = after(step.now, delay);
        self.enter(ServiceState::Backoff { until, start }, step);
    }

    /// Starts without a delay, whatever came before; joins a start or a restart under way.
    fn start_afresh(&mut self, step: &mut Step<'_>) {
        match self.state {
            ServiceState::Running { .. } | ServiceState::Starting { .. } => {}
            ServiceState::Stopping { .. } => self.backoff.reset(),
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
    fn replace_or_start(&mut self, step: &mut Step<'_>) {
        if let ServiceState::Running { instance } = self.state {
            self.backoff.reset();
            self.begin_stop(instance, step);
        } else {
            self.start_afresh(step);
        }
    }

    fn begin_stop(&mut self, instance: Instance, step: &mut Step<'_>) {
        let signal = self.spec.policy.stop_signal;
        step.publish(Notice::Stopping {
            service: self.name.clone(),
            instance,
            signal,
        });
        let reach = self.reach();
        step.actions.push_back(Action::Stop {
            service: self.name.clone(),
            instance,
            signal,
            reach,
        });
        let stop = self.new_stop(reach, step.now);
        self.enter(ServiceState::Stopping { instance, stop }, step);
    }

    /// On the way down from any state. A start under way is dealt with when it is answered.
    fn bring_down(&mut self, step: &mut Step<'_>) {
        match self.state {
            ServiceState::Running { instance } => self.begin_stop(instance, step),
            ServiceState::Due(_) | ServiceState::Backoff { .. } => {
                self.enter(ServiceState::Ending(Rest::Stopped), step);
            }
            ServiceState::Down(_)
            | ServiceState::Ending(_)
            | ServiceState::Starting { .. }
            | ServiceState::Stopping { .. } => {}
        }
        self.settle(step);
    }

    /// Does what the state has waited for, if it may be done now.
    fn settle(&mut self, step: &mut Step<'_>) {
        if let ServiceState::Due(start) = self.state
            && self.may_spawn()
        {
            self.spawn(start, step);
        }
        if let ServiceState::Ending(rest) = &self.state
            && self.leaving.is_empty()
        {
            let rest = rest.clone();
            self.come_to_rest(rest, step);
        }
        if self.is_down() {
            for request in mem::take(&mut self.waiting_down) {
                step.reply(request, Reply::Done);
            }
        }
    }

    fn spawn(&mut self, start: Start, step: &mut Step<'_>) {
        let limit = self.spec.policy.start_limit;
        if start == Start::Counted {
            if !self.backoff.admits(limit, step.now) {
                return self.give_up(step);
            }
            self.backoff.record_start(limit, step.now);
        }
        self.alone = false;
        let attempt = Attempt(step.last_attempt.0.saturating_add(1));
        *step.last_attempt = attempt;
        self.last_attempt = attempt;
        if self.is_described() {
            self.exec = Some(self.spec.exec.fingerprint());
            self.stop_mode = self.spec.policy.stop_mode;
        }
        step.actions.push_back(Action::Spawn {
            service: self.name.clone(),
            attempt,
        });
        let spec = Arc::clone(&self.spec);
        self.enter(ServiceState::Starting { attempt, spec }, step);
    }

    /// One more start would exceed the limit.
    fn give_up(&mut self, step: &mut Step<'_>) {
        let reason = self.limit_reason();
        let message = reason.clone();
        self.deny_up(&SpawnFailure { message }, step);
        self.enter(ServiceState::Ending(Rest::Failed { reason }), step);
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

    fn come_to_rest(&mut self, rest: Rest, step: &mut Step<'_>) {
        let service = self.name.clone();
        step.publish(match &rest {
            Rest::Stopped | Rest::Finished => Notice::Stopped { service },
            Rest::Failed { reason } => Notice::Failed {
                service,
                reason: reason.clone(),
            },
        });
        self.enter(ServiceState::Down(rest), step);
    }

    fn overtake_up(&mut self, by: &'static str, step: &mut Step<'_>) {
        overtake(&self.name, mem::take(&mut self.waiting_up), by, step);
    }

    fn overtake_down(&mut self, by: &'static str, step: &mut Step<'_>) {
        overtake(&self.name, mem::take(&mut self.waiting_down), by, step);
    }

    fn deny_up(&mut self, failure: &SpawnFailure, step: &mut Step<'_>) {
        for request in mem::take(&mut self.waiting_up) {
            let reason = DeniedReason::StartFailed {
                service: self.name.clone(),
                failure: failure.clone(),
            };
            step.reply(request, Reply::Denied(reason));
        }
    }
}

fn overtake(
    service: &ServiceName,
    requests: Vec<RequestId>,
    by: &'static str,
    step: &mut Step<'_>,
) {
    for request in requests {
        let service = service.clone();
        let reason = DeniedReason::Overtaken { service, by };
        step.reply(request, Reply::Denied(reason));
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

/// How to stop a service that no config describes any more: as one that says nothing of it.
fn last_resort_spec() -> Spec {
    Spec {
        policy: Policy {
            restart: RestartPolicy::No,
            ..Policy::default()
        },
        exec: Exec::nothing(),
        hooks: Hooks::default(),
        unusable: None,
    }
}

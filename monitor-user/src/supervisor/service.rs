//! One service's state machine: what is (`ServiceState`) beside what is desired (`Desired`). The table and the
//! invariants are here, with the state itself and what it waits for (`settle`); what is done in it stands in
//! modules by what belongs together:
//!
//! - `requests`: what people ask; `reconfigure`: what the config says; `resume`: what an earlier agent left
//! - `starting`: from Due to Running; `running`: what an instance says of itself; `stopping`: its way down;
//!   `ends`: what follows from its end; `steps`: the commands around its run
//! - `rolling`: the instance that replaces another one; `standby`: the one that is loaded already
//! - `standing`: what those that come before and after it have to know; `status`: what is known outside
//!
//! Knows of other services only for which ones it has to wait (`order.rs`), and nothing of deadlines'
//! order, or of how an action is performed.
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
//! Starting   join (1)     (1)         (1)         Running (2)  next(3)  -          -         -
//! Running    (5); Stop-   StopDue     StopDue     -            -        next (3)   -         -
//!            Due if restart
//! StopDue    join         join        -           -            -        next (4)   -         (6)
//! Stopping   join         join        -           -            -        next (4)   Kill      -
//! ```
//!
//! - `-`: the fact is about something unknown, twice told or late: nothing happens. "join": the
//!   request waits for what goes on already.
//! - A service whose file cannot be used has an *unusable* spec. Its starts are tried like any other's,
//!   for each begins with another look at the file: `described` has the spec to start by, and it is
//!   Due; else the start has failed. An instance of an earlier agent is left alone meanwhile.
//! - (1) A start under way is ended if its process hangs on its way to its program, by a restart too, but not
//!   by a start. Then the answer is that it was abandoned: Due or Ending. Else its answer decides: an instance
//!   that is not wanted any more, or was started from an exec that has changed, is stopped at once.
//! - (2) or straight on to Stopping, by (1).
//! - (3) by restart policy: Due, Backoff, or Ending with success or failure; Backoff instead of Due
//!   in a storm of ends. An end that nobody saw may have been anybody's doing: Due, and no failure
//!   is counted, but its start is. A failed start that is not wanted any more: Ending. One whose
//!   exec has changed: Due.
//!   With `overlap`, an instance that fails while its predecessor's tree lives may have failed for
//!   what that still holds: Due, at no cost, once nothing is left of either.
//! - (4) Due if wanted, else Ending.
//! - (5) done once the instance has run for `start_check`; failed if it ends sooner. Of a oneshot
//!   service, done at its end; one that is done is up, and only a restart runs it again.
//! - (6) StopDue becomes Stopping, and the stop signal is sent, as soon as no service that comes after
//!   this one is on its way down and still there: at once, where none is.
//! - What precedes a start (conditions, `before_start`, the command of a forking service until its main
//!   process is known) is part of Starting. A stop, and a reload with other
//!   commands, asks for its end, too, as in (1); a restart joins it. Where a condition does not hold, Starting
//!   becomes Ending, and then Down as skipped.
//! - `after_start` is part of becoming ready, `before_stop` of StopDue, `stop_command` of Stopping. An
//!   instance is leaving until its `after_stop`, and every other command of it, has ended. The next agent
//!   begins a phase again that this one has not seen the end of.
//! - A service that says when it is ready is up from then on, and (5) is done then, whatever
//!   `start_check` says. One that is not ready within `start_timeout` is stopped at once, whoever comes
//!   after it; its end then is like one of its own (3). Readiness is the instance's, for all agents.
//! - One that is ready may say that it reads its configuration again, and is done when it says once more
//!   that it is ready. It stays up meanwhile. One that says that it ends has `stop_timeout` for that.
//! - The same holds for one that runs and has not said for `watchdog` that it is alive, or that is found
//!   not to work. Time without an agent counts for neither.
//! - What outlives its main process is stopped by `stop_mode`, beside the state: "group" gives it
//!   what is left of the stop's time, or after an end of its own the stop signal and a time of
//!   its own, and then SIGKILL; "mixed" kills it at once; "main" counts it as gone.
//! - Due becomes Starting as soon as no old instance is leaving (with `overlap`: at most one
//!   is) and no service ahead of it stands in the way, or Ending where the start limit forbids it.
//!   Ending becomes Down when none is leaving.
//! - A stop, restart or removal carries to the services that require this one: a stop as a stop, the
//!   others as a restart, which replaces what runs or is being started and starts nothing else.
//! - The end of another process of its tree is told while it is Running, and changes nothing. Another
//!   process of its tree may become the main one while it is Running: the run goes on as that one's.
//! - With `restart_mode = "rolling"` what would make StopDue of Running to replace it does not: another
//!   instance starts beside it, in `next`, and takes its place once it is ready: `rolling.rs`.
//! - An essential service that comes to rest by itself is followed by a shutdown: `essential.rs`.
//! - Removal and shutdown act like stop, but leave `Desired` as it is; back in the config is
//!   like start.
//!
//! Invariants, by the names under which `simulation.rs` checks them:
//! - `one_live`: at most one instance has not exited, but for the one that is to replace it, or that it
//!   has replaced.
//! - `one_predecessor`: nothing is spawned while more than one old instance is leaving; without
//!   `overlap`, while any is.
//! - `up_is_pursued`: a wanted service runs, is being started, is being stopped for a restart,
//!   has a timer armed, or has been ended by its policy.
//! - `stop_ends`: a stop needs no more than its timeout and the facts that answer its actions.
//! - `one_stop_signal`: an instance whose stop signal was sent is sent no other, by no agent.
//! - `no_start_while_down`: nothing is spawned while it is not wanted.
//! - `checks_count`: no agent stops an instance twice for not working, and its end counts towards the delay and
//!   the start limit, whatever agents die meanwhile.
//! - `heard_in_time`: nothing that says in time that it is alive is stopped for its watchdog.
//! - `steps_in_order`: the commands of a phase are run at its time, and never twice at once.
//! - `one_reply`: each request is replied to once, with the words that are true at that moment.
//! - `journal_agrees`: the notices, read in order, tell the state.
//! - `standby_has_room`: the next instance is to be loaded only beside an instance that is up, of which
//!   nothing earlier is left.
//! - `ready_is_told`, `ready_is_sticky`: nothing is up that has to say so and has not, or whose `after_start` has
//!   not ended; what is up stays so, whatever agents die.
//! - `start_limit`: nothing is started more often than that allows, and what somebody else has ended costs none.
//! - `start_in_order`, `stop_in_order`: nothing starts before what it requires is ready, or stops before what
//!   requires it has stopped; with `no_cycle` and `waits_agree` of `order.rs`.
//! - `essential_ends`: of `essential.rs`.
//! - `no_storm`: whoever ends a service all the time, it is not started all the time.
//! - `timers_ahead`: after a timeout was handled, the next one is ahead: no busy loop.

mod ends;
mod reconfigure;
mod requests;
mod resume;
mod rolling;
mod running;
mod standby;
mod standing;
mod starting;
mod status;
mod steps;
mod stopping;

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use reconfigure::Change;
use reconfigure::{initially, last_resort_spec};
pub(super) use resume::{Dead, Legacy};
use rolling::Next;

use super::action::Action;
use super::background;
use super::backoff::{Backoff, after};
use super::essential::{self, End};
use super::fact::RequestId;
use super::order::Standing;
use super::own_reload::Reload;
use crate::model::{
    Attempt, Death, Desired, DownReason, Instance, Notice, Phase, Reach, Reply, ServiceName,
    ServiceType, SpawnFailure, Spec, StopMode,
};

/// What a service is told along with each fact, and where it leaves its actions.
pub(super) struct Step<'a> {
    pub(super) now: Instant,
    pub(super) actions: &'a mut VecDeque<Action>,
    /// The last attempt of all services: one count for all, so that a service that is removed
    /// and added again never uses a number twice.
    pub(super) last_attempt: &'a mut Attempt,
    /// Several services are told something together: nobody starts or stops before all have heard it.
    pub(super) is_held: bool,
}

impl Step<'_> {
    fn publish(&mut self, notice: Notice) {
        self.actions.push_back(Action::Publish(notice));
    }

    fn next_attempt(&mut self) -> Attempt {
        self.last_attempt.0 = self.last_attempt.0.saturating_add(1);
        *self.last_attempt
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        self.actions.push_back(Action::Reply { request, reply });
    }
}

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
    Down(DownReason),
    /// Nothing is to be started; old instances are still letting go.
    Ending(DownReason),
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
        /// What comes of it is to be replaced: a service that it requires is restarted.
        is_stale: bool,
    },
    Running {
        instance: Instance,
    },
    /// To be stopped as soon as those that come after it permit it, and its `before_stop` is done.
    StopDue {
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
    /// Its end has not been told: it was replaced while it ran, and is being stopped.
    lives: bool,
    /// Nothing is left of its tree. It stays until all commands around its run have ended.
    is_cleared: bool,
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
    /// Services ahead of it that stand in the way of a start.
    start_waits: BTreeSet<ServiceName>,
    /// Services behind it that are on their way down, and still there.
    stop_waits: BTreeSet<ServiceName>,
    /// Whether its next start waits for those, too: somebody has asked for a restart while nothing of
    /// it ran that could be stopped after them.
    starts_behind: bool,
    backoff: Backoff,
    last_attempt: Attempt,
    /// The fingerprint of what the last attempt ran; `None`: not known.
    exec: Option<u64>,
    /// The main process of the last attempt before the present one, if it has changed.
    former_main: Option<Instance>,
    /// Whom a stop is for, where the spec does not say it.
    stop_mode: StopMode,
    starts: u64,
    last_exit: Option<Death>,
    last_failure: Option<SpawnFailure>,
    /// What to do about its going into the background, if the last instance did.
    background: Option<String>,
    /// Starts and restarts, replied to when an instance is there and has passed its `start_check`.
    waiting_up: Vec<RequestId>,
    /// Whether the instance is ready, or need not say so.
    is_ready: bool,
    /// It need not say so any more, and is ready when its `after_start` is done.
    is_finishing: bool,
    /// Its `before_stop` is done.
    is_stop_prepared: bool,
    /// It has done its work, and its `before_stop` is to be run as soon as those that come after it permit
    /// that.
    is_undo_due: bool,
    /// The commands around its runs that are under way.
    steps: BTreeSet<(Instance, Phase)>,
    /// When it has to be, if it is not.
    ready_by: Option<Instant>,
    /// What a probe of its readiness has met last.
    met: Option<String>,
    /// How often what runs has to say that it is alive: not always what the spec says, which what replaces it
    /// goes by.
    watchdog: Option<Duration>,
    /// When it has to have said again that it is alive, if it has to.
    alive_by: Option<Instant>,
    /// What it has been asked to read again, and says of that.
    reload: Reload,
    /// When it has to have ended, as it has said that it does.
    ends_by: Option<Instant>,
    /// The next instance, which is to replace the one that runs.
    next: Option<Next>,
    /// There is to be one.
    roll_due: bool,
    /// Who waits for it to have replaced the one that runs.
    roll_waiting: Vec<RequestId>,
    /// Why the instance on its way down counts as failed: it was not ready in time, or does not work.
    overdue: Option<String>,
    /// When the running instance has passed it, if somebody waits for that.
    passes_at: Option<Instant>,
    /// Stops, replied to when nothing is left.
    waiting_down: Vec<RequestId>,
    /// Of an essential service: whether it has ended for good.
    end: End,
}

impl Service {
    /// A service that is still down, and desired up if it starts with the agent; `begin` or `resume`
    /// follows.
    pub(super) fn new(name: ServiceName, spec: Arc<Spec>, shutdown: bool, now: Instant) -> Self {
        Self {
            name,
            desired: initially(&spec),
            spec,
            removed: false,
            shutdown,
            state: ServiceState::Down(DownReason::Stopped),
            since: now,
            leaving: Vec::new(),
            alone: false,
            is_held: false,
            start_waits: BTreeSet::new(),
            stop_waits: BTreeSet::new(),
            starts_behind: false,
            backoff: Backoff::default(),
            last_attempt: Attempt::default(),
            exec: None,
            former_main: None,
            stop_mode: StopMode::default(),
            starts: 0,
            last_exit: None,
            last_failure: None,
            background: None,
            waiting_up: Vec::new(),
            is_ready: true,
            is_finishing: false,
            is_stop_prepared: false,
            is_undo_due: false,
            steps: BTreeSet::new(),
            ready_by: None,
            met: None,
            watchdog: None,
            alive_by: None,
            reload: Reload::default(),
            ends_by: None,
            next: None,
            roll_due: false,
            roll_waiting: Vec::new(),
            overdue: None,
            passes_at: None,
            waiting_down: Vec::new(),
            end: End::None,
        }
    }

    /// A service that is not in the config: known only to be stopped.
    pub(super) fn unlisted(name: ServiceName, shutdown: bool, now: Instant) -> Self {
        let mut service = Self::new(name, Arc::new(last_resort_spec()), shutdown, now);
        service.removed = true;
        service
    }

    pub(super) fn name(&self) -> &ServiceName {
        &self.name
    }

    pub(super) fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// The attempt that what runs is of, or what is being started.
    pub(super) fn attempt(&self) -> Attempt {
        self.last_attempt
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
        let of_start = self.passes_at.into_iter().chain(self.ready_by);
        let of_run = of_start.chain(self.alive_by).chain(self.ends_by);
        let next = self.next.as_ref().and_then(|next| next.by);
        let of_run = of_run.chain(self.reload.by).chain(next);
        own.into_iter().chain(of_run).chain(rests).min()
    }

    fn is_oneshot(&self) -> bool {
        self.spec.policy.kind == ServiceType::Oneshot
    }

    /// Whether its instance has gone into the background, and was known to run then.
    fn is_forking(&self) -> bool {
        self.spec.policy.kind == ServiceType::Forking
    }

    /// Whether it is up, if an instance runs.
    fn is_up(&self) -> bool {
        !self.is_oneshot() && self.is_ready
    }

    /// Whether it says when it is ready.
    fn says_ready(&self) -> bool {
        self.spec.exec.ready.is_some()
    }

    fn has_steps(&self, phase: Phase) -> bool {
        !self.spec.steps.of(phase).is_empty()
    }

    /// Whether it is up only some time after its start, and that becomes known.
    fn becomes_ready(&self) -> bool {
        self.says_ready() || self.has_steps(Phase::AfterStart)
    }

    /// Whether it has done its work, once and for all.
    fn is_done(&self) -> bool {
        let is_finished = matches!(
            self.state,
            ServiceState::Down(DownReason::Finished) | ServiceState::Ending(DownReason::Finished)
        );
        is_finished && self.is_oneshot()
    }

    fn live_instance(&self) -> Option<Instance> {
        match self.state {
            ServiceState::Running { instance }
            | ServiceState::StopDue { instance }
            | ServiceState::Stopping { instance, .. } => Some(instance),
            _ => None,
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.desired == Desired::Up && !self.removed && !self.shutdown
    }

    fn runs(&self, instance: Instance) -> bool {
        matches!(self.state, ServiceState::Running { instance: of } if of == instance)
    }

    pub(super) fn timeout(&mut self, step: &mut Step<'_>) {
        if self.passes_at.is_some_and(|at| at <= step.now) {
            self.pass(step);
        }
        self.end_late_next(step);
        if self.reload.by.is_some_and(|at| at <= step.now) {
            let timeout = self.spec.policy.start_timeout;
            let why = format!(
                "it has not sent RELOADING=1 and then READY=1 within start_timeout ({timeout:?})"
            );
            self.deny_reload(&why, step);
        }
        match &mut self.state {
            ServiceState::Backoff { until, start } if *until <= step.now => {
                let start = *start;
                self.enter(ServiceState::Due(start), step);
            }
            ServiceState::Stopping { instance, stop } if stop.is_due(step.now) => {
                stop.kill_at = None;
                let (instance, reach) = (*instance, stop.reach);
                self.end_steps(Phase::Stop, instance, step);
                self.kill(instance, reach, step);
            }
            ServiceState::Running { instance } => {
                let instance = *instance;
                if let Some(reason) = self.is_overdue(step.now) {
                    self.stop_for(reason, instance, step);
                }
            }
            _ => {}
        }
        self.kill_rests(step);
        self.settle(step);
    }

    fn enter(&mut self, state: ServiceState, step: &mut Step<'_>) {
        self.deny_reload("it has ended, or is being stopped", step);
        self.reload.is_under_way = false;
        self.ends_by = None;
        self.roll_due = false;
        self.state = state;
        self.since = step.now;
        self.passes_at = None;
        self.ready_by = None;
        self.met = None;
        self.alive_by = None;
        self.is_finishing = false;
        self.is_stop_prepared = false;
    }

    /// Does what the state has waited for, if it may be done now.
    pub(super) fn settle(&mut self, step: &mut Step<'_>) {
        if let ServiceState::StopDue { instance } = self.state
            && self.may_stop(step)
        {
            self.prepare_stop(instance, step);
        }
        if self.is_undo_due && self.may_stop(step) {
            self.is_undo_due = false;
            self.run_steps(Instance::NONE, Phase::BeforeStop, step);
        }
        if let ServiceState::Due(start) = self.state
            && self.may_spawn(step)
        {
            self.spawn(start, step);
        }
        if matches!(self.state, ServiceState::Running { .. }) {
            self.settle_roll(step);
        }
        if let ServiceState::Ending(rest) = &self.state
            && self.leaving.is_empty()
            && self.next.is_none()
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

    fn come_to_rest(&mut self, rest: DownReason, step: &mut Step<'_>) {
        if self.spec.policy.essential && rest != DownReason::Stopped && !self.removed {
            self.end = End::Came;
        }
        let is_finished = rest == DownReason::Finished;
        if let DownReason::Failed { reason } = &rest {
            // A reload may have begun to wait for it since it was told why.
            let message = reason.clone();
            self.deny_up(&SpawnFailure { message }, step);
        }
        let service = self.name.clone();
        step.publish(match &rest {
            DownReason::Finished if self.is_oneshot() => Notice::Done { service },
            DownReason::Stopped | DownReason::Finished => Notice::Stopped { service },
            DownReason::Failed { reason } => Notice::Failed {
                service,
                reason: reason.clone(),
            },
            DownReason::Skipped { reason } => Notice::Skipped {
                service,
                reason: reason.clone(),
            },
        });
        self.enter(ServiceState::Down(rest), step);
        if is_finished {
            self.pass(step);
        }
    }
}

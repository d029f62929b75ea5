//! One service's state machine: what is (`ServiceState`) beside what is desired (`Desired`).
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
//! - `heard_in_time`: nothing that says in time that it is alive is stopped for its watchdog.
//! - `steps_in_order`: the commands of a phase are run at its time, and never twice at once.
//! - `one_reply`: each request is replied to once, with the words that are true at that moment.
//! - `journal_agrees`: the notices, read in order, tell the state.
//! - `standby_has_room`: the next instance is to be loaded only beside an instance that is up, of which
//!   nothing earlier is left.
//! - `no_storm`: whoever ends a service all the time, it is not started all the time.
//! - `timers_ahead`: after a timeout was handled, the next one is ahead: no busy loop.

mod rolling;
mod standby;

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rolling::Next;

use super::action::Action;
use super::background;
use super::backoff::{Backoff, after};
use super::essential::{self, End};
use super::fact::RequestId;
use super::order::Standing;
use super::own_reload::Reload;
use crate::model::{
    Attempt, BackoffReason, Blame, Cause, Child, Clear, Death, DeniedReason, Desired, Doing, Exec,
    Hooks, Instance, Kind, Memory, Notice, Phase, Policy, Reach, Relations, Reply, Rest,
    RestartMode, RestartPolicy, ServiceName, Signal, SpawnFailure, Spec, State, Status, Steps,
    StopMemory, StopMode,
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
            state: ServiceState::Down(Rest::Stopped),
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

    // ---- reading ----

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

    /// How far it is, for services that come after it and are to start.
    pub(super) fn standing(&self) -> Standing {
        match &self.state {
            ServiceState::Starting { .. }
            | ServiceState::StopDue { .. }
            | ServiceState::Stopping { .. }
                if !self.is_wanted() =>
            {
                Standing::Going
            }
            _ if !self.is_wanted() => Standing::Clear,
            ServiceState::Down(Rest::Failed { .. }) | ServiceState::Ending(Rest::Failed { .. }) => {
                Standing::Failed
            }
            ServiceState::Running { .. } if !self.is_up() => Standing::Coming,
            ServiceState::Down(_) | ServiceState::Ending(_) | ServiceState::Running { .. } => {
                Standing::Clear
            }
            ServiceState::Backoff { .. } => Standing::Failing,
            ServiceState::Due(_)
            | ServiceState::Starting { .. }
            | ServiceState::StopDue { .. }
            | ServiceState::Stopping { .. } => Standing::Coming,
        }
    }

    /// Whether it is on its way down, to stay there or to be started again, and still there: what
    /// comes before it does not stop until it is gone.
    pub(super) fn is_closing(&self) -> bool {
        match &self.state {
            ServiceState::Running { .. } => false,
            ServiceState::StopDue { .. } | ServiceState::Stopping { .. } => true,
            ServiceState::Starting { spec, is_stale, .. } => {
                *is_stale || !self.is_wanted() || spec.exec != self.spec.exec
            }
            ServiceState::Down(_)
            | ServiceState::Ending(_)
            | ServiceState::Due(_)
            | ServiceState::Backoff { .. } => !self.leaving.is_empty() || self.next.is_some(),
        }
    }

    fn is_oneshot(&self) -> bool {
        self.spec.policy.kind == Kind::Oneshot
    }

    /// Whether its instance has gone into the background, and was known to run then.
    fn is_forking(&self) -> bool {
        self.spec.policy.kind == Kind::Forking
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
            ServiceState::Down(Rest::Finished) | ServiceState::Ending(Rest::Finished)
        );
        is_finished && self.is_oneshot()
    }

    /// Whether its instance, or the one that a start under way makes, is to be stopped, and is not
    /// stopped yet.
    pub(super) fn is_stop_due(&self) -> bool {
        match &self.state {
            ServiceState::StopDue { .. } => true,
            ServiceState::Starting { .. } => self.is_closing(),
            _ => false,
        }
    }

    /// The same, to be replaced by another one.
    pub(super) fn is_to_restart(&self) -> bool {
        self.is_stop_due() && self.is_wanted()
    }

    /// The same, or its stop is under way.
    pub(super) fn is_restarting(&self) -> bool {
        let is_stopping = matches!(self.state, ServiceState::Stopping { .. });
        self.is_to_restart() || is_stopping && self.is_wanted()
    }

    /// Whether it is being replaced while it runs.
    pub(super) fn is_rolling(&self) -> bool {
        self.roll_due || self.next.as_ref().is_some_and(|next| !next.is_abandoned)
    }

    /// Whether it has something to do that may depend on others.
    pub(super) fn is_pending(&self) -> bool {
        match self.state {
            ServiceState::Due(_) | ServiceState::StopDue { .. } => true,
            ServiceState::Ending(_) => self.is_undo_due || self.leaving.is_empty(),
            ServiceState::Running { .. } => self.roll_due,
            _ => false,
        }
    }

    /// Whether its start waits for that service, or for any.
    pub(super) fn waits_for(&self, service: &str) -> bool {
        matches!(self.state, ServiceState::Due(_)) && self.start_waits.contains(service)
    }

    /// Whether somebody waits for it to be up.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting_up.is_empty()
    }

    /// Why it does not run, as far as that is known.
    pub(super) fn trouble(&self) -> Option<String> {
        match (&self.state, &self.last_failure, &self.last_exit) {
            (ServiceState::Down(Rest::Failed { reason }), ..)
            | (ServiceState::Ending(Rest::Failed { reason }), ..) => Some(reason.clone()),
            (_, Some(failure), _) => Some(failure.to_string()),
            (_, None, last) => last.as_ref().map(|last| last.cause.to_string()),
        }
    }

    /// The services that it waits for at the moment.
    fn waits(&self) -> Option<&BTreeSet<ServiceName>> {
        match self.state {
            ServiceState::Due(_) if self.start_waits.is_empty() && self.starts_behind => {
                Some(&self.stop_waits)
            }
            ServiceState::Due(_) => Some(&self.start_waits),
            ServiceState::StopDue { .. } => Some(&self.stop_waits),
            ServiceState::Ending(_) if self.is_undo_due => Some(&self.stop_waits),
            _ => None,
        }
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
            waits_for: self.waits(),
            since: self.since,
            restarts: self.starts.saturating_sub(1),
            last_exit: self.last_exit.as_ref(),
            last_failure: self.last_failure.as_ref(),
            failed: match &self.state {
                ServiceState::Down(Rest::Failed { reason })
                | ServiceState::Ending(Rest::Failed { reason }) => Some(reason),
                _ => None,
            },
            skipped: match &self.state {
                ServiceState::Down(Rest::Skipped { reason }) => Some(reason),
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
    pub(super) fn has_ended_for_good(&self) -> bool {
        self.end == End::Came
    }

    /// That of an agent which ends with it.
    pub(super) fn exit_status(&self) -> u8 {
        let last = self.last_exit.as_ref().map(|death| &death.cause);
        let last = last.filter(|_| self.last_failure.is_none());
        match &self.state {
            ServiceState::Down(rest) => essential::exit_status(rest, last),
            _ => essential::exit_status(&Rest::Stopped, last),
        }
    }

    /// The agent ends with it: a later one begins afresh.
    pub(super) fn end_is_told(&mut self) {
        self.end = End::Told;
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

    pub(super) fn memory(&self, now: Instant) -> Memory {
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
                _ if self.end == End::Told => None,
                ServiceState::Down(Rest::Stopped) | ServiceState::Ending(Rest::Stopped) => None,
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

    /// Whom a stop is for. What nothing is known of now goes by what was known last.
    fn stop_mode(&self) -> StopMode {
        match is_described(&self.spec) {
            true => self.spec.policy.stop_mode,
            false => self.stop_mode,
        }
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
            ServiceState::Down(Rest::Skipped { .. }) => State::Skipped,
            ServiceState::Down(Rest::Finished) if self.is_oneshot() => State::Done,
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

    // ---- what people ask ----

    pub(super) fn start(&mut self, request: RequestId, step: &mut Step<'_>) {
        self.desired = Desired::Up;
        self.is_held = false;
        self.overtake_down("start", step);
        self.waiting_up.push(request);
        if self.is_done() {
            self.pass(step);
        } else if matches!(self.state, ServiceState::Running { .. }) {
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
        self.starts_behind = self.live_instance().is_none();
        self.end_start(false, step);
        self.replace_or_start(step);
    }

    pub(super) fn stop(&mut self, request: RequestId, step: &mut Step<'_>) {
        self.waiting_down.push(request);
        self.stop_too(step);
    }

    /// A service that it requires is stopped, or it is itself.
    pub(super) fn stop_too(&mut self, step: &mut Step<'_>) {
        self.desired = Desired::Down;
        self.overtake_up("stop", step);
        match &mut self.state {
            ServiceState::Down(rest) => {
                if matches!(rest, Rest::Failed { .. } | Rest::Skipped { .. }) {
                    step.publish(Notice::Stopped {
                        service: self.name.clone(),
                    });
                    self.since = step.now;
                }
                if *rest != Rest::Finished {
                    *rest = Rest::Stopped;
                }
            }
            ServiceState::Ending(rest) => *rest = Rest::Stopped,
            _ => {}
        }
        self.bring_down(step);
        if let ServiceState::Down(rest) = &mut self.state {
            *rest = Rest::Stopped;
        }
    }

    /// A service that requires or wants it is started. One that has done its work has done it.
    pub(super) fn pull(&mut self, step: &mut Step<'_>) {
        let was_wanted = self.is_wanted();
        self.desired = Desired::Up;
        if !self.is_wanted() {
            return;
        }
        if !was_wanted {
            self.overtake_down("start", step);
        }
        match &self.state {
            ServiceState::Down(Rest::Finished) | ServiceState::Ending(Rest::Finished) => {}
            _ => self.start_afresh(step),
        }
    }

    /// A service that it requires is restarted, or stops although it is wanted.
    pub(super) fn restart_too(&mut self, step: &mut Step<'_>) {
        if !self.is_wanted() {
            return;
        }
        match &mut self.state {
            ServiceState::Running { instance } => {
                let instance = *instance;
                self.backoff.reset();
                self.close(instance, step);
            }
            ServiceState::Starting { is_stale, .. } => {
                *is_stale = true;
                self.abandon_start(step);
            }
            _ => {}
        }
    }

    /// A service ahead of it stands in the way of its start, or does not. `true`: nothing more does.
    pub(super) fn wait_to_start(&mut self, ahead: &ServiceName, waits: bool) -> bool {
        change(&mut self.start_waits, ahead, waits)
    }

    /// A service behind it is on its way down and still there, or is not. `true`: none more is.
    pub(super) fn wait_to_stop(&mut self, behind: &ServiceName, waits: bool) -> bool {
        change(&mut self.stop_waits, behind, waits)
    }

    /// For whom it waits, whatever was known before.
    pub(super) fn set_waits(&mut self, start: BTreeSet<ServiceName>, stop: BTreeSet<ServiceName>) {
        (self.start_waits, self.stop_waits) = (start, stop);
    }

    /// For whom it has to wait to start, and to stop.
    #[cfg(test)]
    pub(super) fn all_waits(&self) -> (&BTreeSet<ServiceName>, &BTreeSet<ServiceName>) {
        (&self.start_waits, &self.stop_waits)
    }

    /// The start of a service that it requires has failed, in these words.
    pub(super) fn deny_for_requirement(&mut self, message: String, step: &mut Step<'_>) {
        self.deny_up(&SpawnFailure { message }, step);
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
            request: Some(request),
        });
    }

    /// Has it read its configuration again; answered when it has said that it is done.
    pub(super) fn reload(
        &mut self,
        signal: Signal,
        at: Duration,
        request: RequestId,
        step: &mut Step<'_>,
    ) {
        let service = self.name.clone();
        let ServiceState::Running { instance } = self.state else {
            return step.reply(request, Reply::Denied(DeniedReason::NotRunning(service)));
        };
        if !self.is_ready {
            let why = "it is not ready yet".to_owned();
            let reason = DeniedReason::NotReloaded { service, why };
            return step.reply(request, Reply::Denied(reason));
        }
        self.reload.begin(request, at);
        self.reload.by = Some(after(step.now, self.spec.policy.start_timeout));
        step.actions.push_back(Action::Signal {
            service,
            instance,
            signal,
            request: None,
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
        } else if self.is_wanted() && (self.is_new_exec(spec) || self.is_new_try(spec)) {
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
                if !self.is_outdated() {
                    self.watchdog = self.spec.exec.watchdog;
                }
                if matches!(self.state, ServiceState::Running { .. }) {
                    self.passes_at = None;
                    self.await_pass(step);
                }
                self.settle(step);
            }
            Change::Restart => {
                self.spec = spec;
                self.abandon_start(step);
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
            _ if self.next.is_some() && self.removed => true,
            ServiceState::StopDue { .. } | ServiceState::Stopping { .. } => true,
            // It is stopped once it is there.
            ServiceState::Starting { spec, is_stale, .. } => {
                *is_stale || self.removed || spec.exec != self.spec.exec
            }
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

    /// Whether a spec has other commands before a start that is under way, or has failed.
    fn is_new_try(&self, spec: &Spec) -> bool {
        let is_tried = matches!(
            self.state,
            ServiceState::Down(Rest::Failed { .. } | Rest::Skipped { .. })
                | ServiceState::Backoff { .. }
                | ServiceState::Starting { .. }
        );
        is_tried && self.spec.begins_otherwise(spec)
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
        self.desired = initially(&spec);
        self.spec = spec;
        if self.is_wanted() {
            self.overtake_down("reload", step);
        } else if let ServiceState::Ending(rest) = &mut self.state {
            *rest = Rest::Stopped;
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
    fn is_outdated(&self) -> bool {
        let is_known = self.spec.unusable.is_none();
        let is_other = |exec| exec != self.spec.exec.fingerprint();
        is_known && self.exec.is_some_and(is_other)
    }

    /// Goes on without a live instance.
    fn resume_down(&mut self, memory: &Memory, now: Instant) {
        let rest = match &memory.rest {
            Some(rest) if self.end == End::Came => Some(rest.clone()),
            _ if self.desired == Desired::Down || self.removed => Some(Rest::Stopped),
            Some(Rest::Stopped) | None if self.shutdown => Some(Rest::Stopped),
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

    /// An instance runs: it is ready, or has to be in time.
    fn await_ready(&mut self, instance: Instance, step: &mut Step<'_>) {
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
    fn await_word(&self, instance: Instance, step: &mut Step<'_>) {
        step.actions.push_back(Action::AwaitReady {
            service: self.name.clone(),
            instance,
        });
    }

    pub(super) fn became_ready(&mut self, instance: Instance, step: &mut Step<'_>) {
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
    fn serve(&mut self, instance: Instance, step: &mut Step<'_>) {
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

    /// Has the commands of a phase run; `steps_done` follows.
    fn run_steps(&mut self, instance: Instance, phase: Phase, step: &mut Step<'_>) {
        self.steps.insert((instance, phase));
        step.actions.push_back(Action::RunSteps {
            service: self.name.clone(),
            instance,
            phase,
        });
    }

    /// The commands of a phase have ended.
    pub(super) fn steps_done(
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
    fn end_steps(&self, phase: Phase, instance: Instance, step: &mut Step<'_>) {
        if self.steps.contains(&(instance, phase)) {
            step.actions.push_back(Action::EndSteps {
                service: self.name.clone(),
                instance,
                phase,
            });
        }
    }

    /// Ends a start that is not to come to anything.
    fn abandon_start(&self, step: &mut Step<'_>) {
        self.end_start(true, step);
    }

    /// Ends a start under way: one whose process hangs, or what precedes that, too.
    fn end_start(&self, with_prelude: bool, step: &mut Step<'_>) {
        if let ServiceState::Starting { attempt, .. } = &self.state {
            step.actions.push_back(Action::AbandonStart {
                service: self.name.clone(),
                attempt: *attempt,
                with_prelude,
            });
        }
    }

    /// It has `watchdog` from now on.
    fn await_sign_of_life(&mut self, now: Instant) {
        self.alive_by = self.watchdog.map(|time| after(now, time));
    }

    /// A probe has met this.
    pub(super) fn not_ready_yet(&mut self, instance: Instance, reason: String) {
        if self.runs(instance) && !self.is_ready {
            self.met = Some(reason);
        }
    }

    /// It has said that it is alive.
    pub(super) fn lives(&mut self, instance: Instance, now: Instant) {
        if self.runs(instance) && self.is_ready && self.ends_by.is_none() {
            self.await_sign_of_life(now);
        }
    }

    /// It has said that it reads its configuration again.
    pub(super) fn reloading(&mut self, instance: Instance, at: Option<Duration>) {
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

    fn deny_reload(&mut self, why: &str, step: &mut Step<'_>) {
        self.reload.by = None;
        for request in mem::take(&mut self.reload.waiting) {
            let (service, why) = (self.name.clone(), why.to_owned());
            let reason = DeniedReason::NotReloaded { service, why };
            step.reply(request, Reply::Denied(reason));
        }
    }

    /// It has said that it ends: it need not say that it is alive any more, and has the time of a stop.
    pub(super) fn ending(&mut self, instance: Instance, now: Instant) {
        if self.runs(instance) && self.ends_by.is_none() {
            self.alive_by = None;
            self.ends_by = Some(after(now, self.spec.policy.stop_timeout));
        }
    }

    /// Another process of its tree is its main process from now on: the same run goes on.
    pub(super) fn main_changed(&mut self, from: Instance, to: Instance, step: &mut Step<'_>) {
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
    pub(super) fn extend(&mut self, instance: Instance, by: Duration, now: Instant) {
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
    pub(super) fn fail(&mut self, instance: Instance, reason: String, step: &mut Step<'_>) {
        if self.runs(instance) && self.ends_by.is_none() {
            self.stop_for(reason, instance, step);
        }
    }

    fn runs(&self, instance: Instance) -> bool {
        matches!(self.state, ServiceState::Running { instance: of } if of == instance)
    }

    /// It was not ready in time, or does not work: it is stopped, and that is its own failure.
    fn stop_for(&mut self, message: String, instance: Instance, step: &mut Step<'_>) {
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
    fn is_overdue(&self, now: Instant) -> Option<String> {
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

    /// Answers who waits for the running instance, or will when it has run long enough.
    fn await_pass(&mut self, step: &mut Step<'_>) {
        let passes_at = after(self.since, self.spec.policy.start_check);
        if !self.is_up() {
            // Its end is what they wait for.
        } else if passes_at <= step.now || self.becomes_ready() || self.is_forking() {
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
        if self.is_next(attempt) {
            return self.next_not_spawned(Some(failure.message), step);
        }
        let Some((spec, _)) = self.answered(attempt) else {
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

    /// The start was not tried, as a condition does not hold.
    pub(super) fn skipped(&mut self, attempt: Attempt, reason: String, step: &mut Step<'_>) {
        if self.is_next(attempt) {
            return self.next_not_spawned(Some(reason), step);
        }
        let Some((spec, is_stale)) = self.answered(attempt) else {
            return;
        };
        self.last_failure = None;
        if !self.is_wanted() {
            self.enter(ServiceState::Ending(Rest::Stopped), step);
        } else if is_stale || spec != self.spec {
            self.enter(ServiceState::Due(Start::Free), step);
        } else {
            for request in mem::take(&mut self.waiting_up) {
                let reason = reason.clone();
                step.reply(request, Reply::Skipped { reason });
            }
            self.enter(ServiceState::Ending(Rest::Skipped { reason }), step);
        }
        self.settle(step);
    }

    /// What precedes the start was ended before there was a process.
    pub(super) fn start_abandoned(&mut self, attempt: Attempt, step: &mut Step<'_>) {
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
    fn let_go(&mut self) {
        let steps = &self.steps;
        let is_due = |of: Instance| self.is_undo_due && of == Instance::NONE;
        let is_busy = |of| is_due(of) || steps.iter().any(|(instance, _)| *instance == of);
        self.leaving
            .retain(|old| !old.is_cleared || is_busy(old.instance));
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

    /// Whether the old instances permit a start, and the other services.
    fn may_spawn(&self, step: &Step<'_>) -> bool {
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

    /// Whether the other services permit a stop.
    fn may_stop(&self, step: &Step<'_>) -> bool {
        !step.is_held && self.stop_waits.is_empty()
    }

    // ---- doing ----

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

    fn leave(&mut self, instance: Instance, stop: Option<Stop>) {
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
        let is_simple = self.spec.policy.kind == Kind::Simple;
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
            self.count_death_beside(instance, &death, step);
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
            // They wait until nothing is left of it.
            Verdict::Finish if self.is_oneshot() => {}
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

    /// Goes on after the end of an instance that was not ready in time, or did not work.
    fn follow_overdue(&mut self, reason: String, death: &Death, step: &mut Step<'_>) {
        let uptime = death.uptime;
        let uptime = uptime.unwrap_or_else(|| step.now.saturating_duration_since(self.since));
        self.backoff.ran_for(uptime, &self.spec.policy);
        match self.spec.policy.restart {
            RestartPolicy::No | RestartPolicy::OnAbort => {
                self.enter(ServiceState::Ending(Rest::Failed { reason }), step);
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

    /// Starts without a delay, whatever came before; joins a start or a restart under way.
    fn start_afresh(&mut self, step: &mut Step<'_>) {
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
    fn replace_or_start(&mut self, step: &mut Step<'_>) {
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
        self.start_afresh(step);
    }

    /// Whether something is to be done when a oneshot service stops that has done its work.
    fn can_undo(&self) -> bool {
        self.is_oneshot() && self.has_steps(Phase::BeforeStop)
    }

    /// Has its `before_stop` run before anything else is done: it is leaving until then.
    fn begin_undo(&mut self) {
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

    /// Stops the instance as soon as those that come after it permit it.
    fn close(&mut self, instance: Instance, step: &mut Step<'_>) {
        self.abandon_next(step);
        self.end_steps(Phase::AfterStart, instance, step);
        self.enter(ServiceState::StopDue { instance }, step);
        if self.may_stop(step) {
            self.prepare_stop(instance, step);
        }
    }

    /// Stops it, after its `before_stop`.
    fn prepare_stop(&mut self, instance: Instance, step: &mut Step<'_>) {
        if self.steps.contains(&(instance, Phase::BeforeStop)) {
            return;
        }
        if self.has_steps(Phase::BeforeStop) && !self.is_stop_prepared {
            self.run_steps(instance, Phase::BeforeStop, step);
        } else {
            self.begin_stop(instance, step);
        }
    }

    fn begin_stop(&mut self, instance: Instance, step: &mut Step<'_>) {
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
    fn stop_signal(&self) -> Option<Signal> {
        let is_asked = self.has_steps(Phase::Stop) && self.overdue.is_none();
        (!is_asked).then_some(self.spec.policy.stop_signal)
    }

    fn send_stop(&self, instance: Instance, step: &mut Step<'_>) {
        step.actions.push_back(Action::Stop {
            service: self.name.clone(),
            instance,
            signal: self.spec.policy.stop_signal,
            reach: self.reach(),
        });
    }

    /// On the way down from any state. A start under way is dealt with when it is answered.
    fn bring_down(&mut self, step: &mut Step<'_>) {
        match self.state {
            ServiceState::Running { instance } => self.close(instance, step),
            ServiceState::Due(_) | ServiceState::Backoff { .. } => {
                self.enter(ServiceState::Ending(Rest::Stopped), step);
            }
            ServiceState::Starting { .. } => self.abandon_start(step),
            ServiceState::Down(Rest::Finished) if self.can_undo() => {
                self.begin_undo();
                self.enter(ServiceState::Ending(Rest::Stopped), step);
            }
            ServiceState::Down(_)
            | ServiceState::Ending(_)
            | ServiceState::StopDue { .. }
            | ServiceState::Stopping { .. } => {}
        }
        self.settle(step);
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

    fn spawn(&mut self, start: Start, step: &mut Step<'_>) {
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
    fn note_attempt(&mut self, attempt: Attempt, spec: &Spec) {
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
        if self.spec.policy.essential && rest != Rest::Stopped && !self.removed {
            self.end = End::Came;
        }
        let is_finished = rest == Rest::Finished;
        if let Rest::Failed { reason } = &rest {
            // A reload may have begun to wait for it since it was told why.
            let message = reason.clone();
            self.deny_up(&SpawnFailure { message }, step);
        }
        let service = self.name.clone();
        step.publish(match &rest {
            Rest::Finished if self.is_oneshot() => Notice::Done { service },
            Rest::Stopped | Rest::Finished => Notice::Stopped { service },
            Rest::Failed { reason } => Notice::Failed {
                service,
                reason: reason.clone(),
            },
            Rest::Skipped { reason } => Notice::Skipped {
                service,
                reason: reason.clone(),
            },
        });
        self.enter(ServiceState::Down(rest), step);
        if is_finished {
            self.pass(step);
        }
    }

    fn overtake_up(&mut self, by: &'static str, step: &mut Step<'_>) {
        self.waiting_up.append(&mut self.roll_waiting);
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

/// Puts a name into a set, or takes it out; `true`: it was the last one.
fn change(set: &mut BTreeSet<ServiceName>, name: &ServiceName, is_in: bool) -> bool {
    match is_in {
        true => {
            set.insert(name.clone());
            false
        }
        false => set.remove(name) && set.is_empty(),
    }
}

/// Whether a spec says what to run.
fn is_described(spec: &Spec) -> bool {
    spec.unusable.is_none() && !spec.exec.arguments.is_empty()
}

/// What is desired of a service that nobody has asked for.
fn initially(spec: &Spec) -> Desired {
    match spec.relations.autostart {
        true => Desired::Up,
        false => Desired::Down,
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
        relations: Relations::default(),
        log: None,
        check: None,
        reload: None,
        steps: Steps::default(),
        unusable: None,
    }
}

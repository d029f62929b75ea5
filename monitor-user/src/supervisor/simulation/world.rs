//! The world around the supervisor: processes that obey late or not at all, facts that come
//! late, twice, in the wrong order or never, people, and an agent that dies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::tests::{default_spec, some_step};
use super::super::*;
use super::shadow::{LastNotice, Shadow, initially};
use super::{Check, Random};
use crate::model::*;

/// Of each service that has one: such that no other timer is due at the same moment.
const WATCHDOG: Duration = Duration::from_micros(7_000_013);

/// No timer of the supervisor is further ahead.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Nothing that the world owes takes longer, jumps of the clock aside.
const LONGEST_LATENCY: Duration = Duration::from_secs(2);

/// `stop_ends`: the longest stop timeout (that of an unlisted service), and an answer each to
/// the spawn, the signal or kill, the release and the clearing, and the commands before and after it;
/// twice, for a predecessor.
/// As often as there are services, for each may have to wait for the others.
const LONGEST_STOP: Duration = Duration::from_secs((10 + 2 * 6 * 2) * 4);

const NAMES: [&str; 4] = ["a", "b", "c", "e"];

struct Process {
    service: ServiceName,
    instance: Instance,
    attempt: Attempt,
    exec: Exec,
    ignores_stop: bool,
    /// What its main process leaves behind stays until it is killed.
    leaves_stubborn: bool,
    /// An agent was told that the stop signal was sent to it, and to all of its tree or not.
    stop_sent: Option<Reach>,
    /// The present one has asked for it.
    stop_asked: Option<Reach>,
    /// The command in place of the stop signal has failed.
    is_signal_due: bool,
    is_killed: bool,
    is_adopted: bool,
    born: Instant,
    /// The truth, which the supervisor does not know yet.
    exited: bool,
    /// The cause that was told first.
    told: Option<Death>,
    is_published: bool,
    /// An agent was told that it is ready, while it ran.
    is_ready_told: bool,
    /// When its watchdog began, or it last said to the present agent that it is alive.
    heard: Instant,
    /// An agent was told that it does not work.
    is_broken: bool,
    /// A status has said so.
    was_up: bool,
    is_release_told: bool,
    /// By the present agent.
    is_clear_asked: bool,
}

/// What the world will do at its time.
enum Happening {
    Tell(Fact),
    /// The spawn that was asked for comes through, or fails.
    Spawn {
        service: ServiceName,
        attempt: Attempt,
        exec: Box<Exec>,
    },
    Die(Instance, Cause, Blame),
    /// It has done its work.
    Finish(Instance),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Start,
    Stop,
    Restart,
    Signal,
    /// Of one service.
    Reread,
    Reload,
    Shutdown,
}

struct Request {
    kind: Asked,
    service: ServiceName,
    /// Which instance a restart is to replace.
    instance: Option<Instance>,
}

pub(super) struct Simulation {
    random: Random,
    /// Everything takes a thousandth of the time, and somebody kills all the time.
    is_hasty: bool,
    /// The agent ends with an essential service.
    is_container: bool,
    supervisor: Supervisor,
    now: Instant,
    begun: Instant,
    /// How far the clock has jumped so far.
    jumped: Duration,
    queue: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    processes: Vec<Process>,
    spawning: BTreeMap<ServiceName, Attempt>,
    /// Starts of instances that are to replace the one that runs.
    rolling: BTreeSet<Attempt>,
    /// The commands around runs that are under way.
    commands: BTreeSet<(ServiceName, Instance, Phase)>,
    shadows: BTreeMap<ServiceName, Shadow>,
    requests: BTreeMap<RequestId, Request>,
    last_request: u64,
    expected_reloads: BTreeMap<RequestId, ReloadSummary>,
    /// Facts that may be told again.
    recent: VecDeque<Fact>,
    is_going: bool,
    /// The essential service whose end has the agent end, and whether that was told to end.
    ended: Option<(ServiceName, u8)>,
    is_over: bool,
    /// Nothing from outside any more, and no process ends by itself.
    is_quiet: bool,
    /// Between an agent's start and its first config there is nothing to see.
    is_held: bool,
    /// The actions of a new agent's first config are being read.
    is_resuming: bool,
    /// Instances that the last agent remembered.
    known: BTreeSet<Instance>,
    /// Those of a timeout are.
    is_timeout: bool,
    steps: u64,
    trace: Option<VecDeque<String>>,
}

macro_rules! ensure {
    ($holds:expr, $($broken:tt)+) => {
        if !$holds {
            return Err(format!($($broken)+));
        }
    };
}

// ---- the course of a world ----

impl Simulation {
    pub(super) fn new(seed: u64, traces: bool) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "any Instant will do to begin with"
        )]
        let now = Instant::now();
        let mut random = Random(seed);
        let is_container = seed % 5 == 4;
        Self {
            is_hasty: random.chance(10),
            random,
            is_container,
            supervisor: supervisor(is_container),
            now,
            begun: now,
            jumped: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            processes: Vec::new(),
            spawning: BTreeMap::new(),
            rolling: BTreeSet::new(),
            commands: BTreeSet::new(),
            shadows: BTreeMap::new(),
            requests: BTreeMap::new(),
            last_request: 0,
            expected_reloads: BTreeMap::new(),
            recent: VecDeque::new(),
            is_going: false,
            ended: None,
            is_over: false,
            is_quiet: false,
            is_held: false,
            is_resuming: false,
            known: BTreeSet::new(),
            is_timeout: false,
            steps: 0,
            trace: traces.then(VecDeque::new),
        }
    }

    /// The last facts and actions, if this world keeps them.
    pub(super) fn trace(&self) -> String {
        self.trace
            .iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Random steps, then quiet, then a shutdown. Returns how many steps were taken.
    pub(super) fn run(&mut self, steps: u64) -> Result<u64, String> {
        self.reload(None)?;
        while self.steps < steps {
            if self.random.chance(70) {
                self.advance()?;
            } else {
                self.interfere()?;
            }
        }
        self.is_quiet = true;
        let living = self.processes.iter();
        let living: Vec<_> = living.map(|it| (it.service.clone(), it.instance)).collect();
        for (service, instance) in living {
            self.let_finish(&service, instance);
            self.let_be_ready(service, instance);
        }
        self.settle("up_is_pursued")?;
        self.check_quiet()?;
        self.request(Asked::Shutdown)?;
        self.settle("stop_ends")?;
        self.check_end()?;
        Ok(self.steps)
    }

    /// Until nothing is under way and no timer is armed.
    fn settle(&mut self, invariant: &str) -> Check {
        let mut idle = Duration::ZERO;
        for _ in 0..1_000 {
            self.let_all_say_that_they_live()?;
            let timer = self.supervisor.poll_timeout();
            if !self.queue.is_empty() || timer.is_some_and(|at| at != self.now + WATCHDOG) {
                idle = Duration::ZERO;
                self.advance()?;
            } else if timer.is_none() || idle > LONGEST_DELAY {
                return Ok(());
            } else {
                // Behind the watchdogs there may be other timers.
                idle += WATCHDOG / 2;
                self.now += WATCHDOG / 2;
            }
        }
        Err(format!(
            "{invariant}: no rest after 1,000 steps without interference"
        ))
    }

    /// Lets the next thing happen, whenever that is.
    fn advance(&mut self) -> Check {
        let fact = self.queue.first_key_value().map(|((time, _), _)| *time);
        let timer = self.supervisor.poll_timeout();
        let is_timer = match (fact, timer) {
            (None, None) => return Ok(()),
            (Some(fact), Some(timer)) if fact.max(timer) <= self.now => self.random.chance(50),
            (Some(fact), Some(timer)) => timer <= fact,
            (fact, _) => fact.is_none(),
        };
        if is_timer {
            self.now = self.now.max(timer.unwrap_or(self.now));
            return self.time_out();
        }
        let Some(((time, _), happening)) = self.queue.pop_first() else {
            return Ok(());
        };
        self.now = self.now.max(time);
        match happening {
            Happening::Tell(fact) => self.tell(fact),
            Happening::Spawn {
                service,
                attempt,
                exec,
            } => self.come_through(service, attempt, *exec),
            Happening::Die(instance, cause, blame) => {
                self.die(instance, cause, blame);
                Ok(())
            }
            Happening::Finish(instance) => {
                self.end(instance, Cause::Exited { code: 0 }, Blame::Itself);
                Ok(())
            }
        }
    }

    fn time_out(&mut self) -> Check {
        self.note(|_| "timeout".into());
        self.is_timeout = true;
        self.supervisor.handle_timeout(self.now);
        let next = self.supervisor.poll_timeout();
        ensure!(
            next.is_none_or(|next| next > self.now),
            "timers_ahead: {next:?} is not after {:?}",
            self.now
        );
        let checked = self.after_step();
        self.is_timeout = false;
        checked
    }

    /// Something from outside.
    fn interfere(&mut self) -> Check {
        if self.is_hasty && self.random.chance(99) {
            self.kill_someone();
            return Ok(());
        }
        match self.random.below(100) {
            0..12 => self.request(Asked::Start),
            12..26 => self.request(Asked::Stop),
            26..36 => self.request(Asked::Restart),
            36..39 => self.request(Asked::Signal),
            39..42 => self.request(Asked::Reread),
            42..54 => self.request(Asked::Reload),
            54..72 => {
                self.kill_someone();
                Ok(())
            }
            72..82 => self.tell_again(),
            82..90 => self.tell_nonsense(),
            90..93 => self.tell(Fact::EventsLost { count: 1 }),
            93..95 => {
                let jump = self.random.duration(Duration::from_secs(3600));
                self.now += jump;
                self.jumped += jump;
                Ok(())
            }
            95..96 => self.time_out(),
            96..97 if self.random.chance(40) => self.change_main(),
            96..97 => self.say_something(),
            97..99 => self.replace_agent(),
            _ if self.random.chance(10) => self.request(Asked::Shutdown),
            _ => Ok(()),
        }
    }

    /// A process says that it is alive, or is found not to work.
    fn say_something(&mut self) -> Check {
        if self.processes.is_empty() || self.random.chance(50) {
            return self.let_all_say_that_they_live();
        }
        let who = self.processes.iter();
        let who: Vec<_> = who.map(|it| (it.service.clone(), it.instance)).collect();
        let (service, instance) = self.random.pick(&who);
        let reason = "check: no answer".to_owned();
        let ago = self.random.duration(Duration::from_secs(2));
        let at = (self.now - self.begun).saturating_sub(ago);
        match self.random.below(4) {
            0 => self.tell(Fact::DoesNotWork {
                service,
                instance,
                reason,
            }),
            1 => self.tell(Fact::Ending { service, instance }),
            _ => {
                self.tell(Fact::Reloading {
                    service: service.clone(),
                    instance,
                    at: Some(at),
                })?;
                let ready = Fact::BecameReady { service, instance };
                self.later(LONGEST_LATENCY, Happening::Tell(ready));
                Ok(())
            }
        }
    }

    /// A process of a service that runs becomes its main process, and takes all of it over.
    fn change_main(&mut self) -> Check {
        let running = self.processes.iter().filter(|it| {
            let status = self.supervisor.status(&it.service);
            status.is_some_and(|status| {
                let runs = matches!(status.state, State::Running | State::Starting);
                runs && status.instance == Some(it.instance)
            })
        });
        let running: Vec<_> = running
            .map(|it| (it.service.clone(), it.instance))
            .collect();
        if running.is_empty() {
            return Ok(());
        }
        let (service, instance) = self.random.pick(&running);
        self.sequence += 1;
        let main = Instance {
            pid: u32::try_from(self.random.below(20)).unwrap() + 2,
            start_time_ns: self.sequence * 10_000_000,
        };
        let Some(process) = self.find(instance) else {
            return Ok(());
        };
        process.instance = main;
        if process.exited {
            // It has not been told, and never will be.
            (process.exited, process.told) = (false, None);
        }
        let rename = |it: &mut Instance| {
            if *it == instance {
                *it = main;
            }
        };
        for request in self.requests.values_mut() {
            request.instance.iter_mut().for_each(rename);
        }
        let commands = std::mem::take(&mut self.commands).into_iter();
        self.commands = commands
            .map(|(service, mut of, phase)| {
                rename(&mut of);
                (service, of, phase)
            })
            .collect();
        self.queue.retain(|_, happening| match happening {
            Happening::Die(of, ..) | Happening::Finish(of) => {
                rename(of);
                true
            }
            Happening::Tell(
                Fact::BecameReady { instance: of, .. } | Fact::StepsDone { instance: of, .. },
            ) => {
                rename(of);
                true
            }
            Happening::Tell(
                Fact::ProcessExited { instance: of, .. }
                | Fact::ProcessReleased { instance: of, .. },
            ) => *of != instance,
            _ => true,
        });
        self.tell(Fact::MainChanged {
            service,
            instance,
            main,
        })
    }

    fn let_all_say_that_they_live(&mut self) -> Check {
        let who = self.processes.iter().filter(|it| !it.exited);
        let who: Vec<_> = who.map(|it| (it.service.clone(), it.instance)).collect();
        for (service, instance) in who {
            self.tell(Fact::Lives { service, instance })?;
        }
        Ok(())
    }

    fn later(&mut self, longest: Duration, happening: Happening) {
        let time = self.now + self.latency(longest);
        self.at(time, happening);
    }

    fn latency(&mut self, longest: Duration) -> Duration {
        let longest = longest.min(LONGEST_LATENCY);
        self.random.duration(if self.is_hasty {
            longest / 1000
        } else {
            longest
        })
    }

    fn at(&mut self, time: Instant, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((time, self.sequence), happening);
    }

    fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>6} {}", self.steps, line(self));
            let trace = self.trace.get_or_insert_default();
            trace.push_back(line);
            if trace.len() > 200 {
                trace.pop_front();
            }
        }
    }
}

// ---- processes ----

impl Simulation {
    fn come_through(&mut self, service: ServiceName, attempt: Attempt, exec: Exec) -> Check {
        if exec == Exec::nothing() {
            return self.look_at_file(service, attempt);
        }
        let shadow = self.shadows.get(&service);
        let is_looked_at = shadow.is_some_and(|it| it.spec.steps.precede_a_start());
        if is_looked_at && self.random.chance(15) {
            let reason = "no such path".into();
            return self.tell(Fact::Skipped {
                service,
                attempt,
                reason,
            });
        }
        if !self.is_quiet && self.random.chance(15) {
            let failure = SpawnFailure {
                message: "cannot run".into(),
            };
            return self.tell(Fact::SpawnFailed {
                service,
                attempt,
                failure,
            });
        }
        let instance = self.bear(&service, attempt, exec)?;
        let spawned = Fact::Spawned {
            service,
            attempt,
            instance,
        };
        if self.random.chance(70) {
            return self.tell(spawned);
        }
        self.later(Duration::from_millis(20), Happening::Tell(spawned));
        Ok(())
    }

    /// Before a start by an unusable spec.
    fn look_at_file(&mut self, service: ServiceName, attempt: Attempt) -> Check {
        let mut spec = self.random_spec();
        while spec.unusable.is_some() {
            spec = self.random_spec();
        }
        // `a_file_that_would_close_a_cycle_cannot_be_used` is about the others.
        spec.relations = Relations::default();
        let failure = SpawnFailure {
            message: "still unusable".into(),
        };
        let answer = if self.is_quiet || self.random.chance(50) {
            Fact::Described {
                service,
                attempt,
                spec: Arc::new(spec),
            }
        } else {
            Fact::SpawnFailed {
                service,
                attempt,
                failure,
            }
        };
        self.tell(answer)
    }

    fn bear(
        &mut self,
        service: &ServiceName,
        attempt: Attempt,
        exec: Exec,
    ) -> Result<Instance, String> {
        let twins = self.of(service).filter(|process| !process.exited).count();
        ensure!(
            twins <= usize::from(self.rolling.contains(&attempt)),
            "one_live: {service} lives already at attempt {attempt:?}"
        );
        self.sequence += 1;
        let instance = Instance {
            // Few enough that they are reused all the time.
            pid: u32::try_from(self.random.below(20)).unwrap() + 2,
            start_time_ns: self.sequence * 10_000_000,
        };
        let ignores_stop = self.random.chance(25);
        let leaves_stubborn = self.random.chance(25);
        self.processes.push(Process {
            service: service.clone(),
            instance,
            attempt,
            exec,
            ignores_stop,
            leaves_stubborn,
            stop_sent: None,
            stop_asked: None,
            is_signal_due: false,
            is_killed: false,
            is_adopted: false,
            born: self.now,
            exited: false,
            told: None,
            is_published: false,
            is_ready_told: false,
            heard: self.now,
            is_broken: false,
            was_up: false,
            is_release_told: false,
            is_clear_asked: false,
        });
        if !self.is_quiet && self.random.chance(60) {
            let longest = self.random.pick(&[5, 200, 2_000, 20_000]);
            let lifetime = self.random.duration(Duration::from_millis(longest));
            let cause = self.own_cause();
            let happening = Happening::Die(instance, cause, Blame::Itself);
            self.at(self.now + lifetime, happening);
        }
        if self.is_quiet {
            self.let_finish(service, instance);
        }
        Ok(instance)
    }

    fn own_cause(&mut self) -> Cause {
        let segv = Cause::Signaled {
            signal: Signal::from_number(11).unwrap(),
            core_dumped: true,
            origin: Origin::default(),
        };
        let clean = Cause::Exited { code: 0 };
        let failure = Cause::Exited { code: 1 };
        self.random.pick(&[
            clean.clone(),
            clean,
            failure,
            segv,
            Cause::OomKilled(OomKill::default()),
        ])
    }

    /// A oneshot service does its work, however quiet it is.
    fn let_finish(&mut self, service: &ServiceName, instance: Instance) {
        let shadow = self.shadows.get(service);
        if shadow.is_some_and(|it| it.spec.policy.kind == ServiceType::Oneshot) {
            self.later(LONGEST_LATENCY, Happening::Finish(instance));
        }
    }

    /// It is ready in time, or not; in quiet, soon.
    fn let_be_ready(&mut self, service: ServiceName, instance: Instance) {
        let ready = Happening::Tell(Fact::BecameReady { service, instance });
        if self.is_quiet {
            self.later(Duration::from_millis(500), ready);
        } else if self.random.chance(85) {
            let latency = self.random.duration(Duration::from_secs(3));
            self.at(self.now + latency, ready);
        }
    }

    fn die(&mut self, instance: Instance, cause: Cause, blame: Blame) {
        if !self.is_quiet || blame == Blame::SomeoneElse {
            self.end(instance, cause, blame);
        }
    }

    /// The exit becomes final; the facts of it are on their way.
    fn end(&mut self, instance: Instance, cause: Cause, blame: Blame) {
        let knows_uptime = self.random.chance(50);
        let now = self.now;
        let Some(process) = self.alive(instance) else {
            return;
        };
        let Some(process) = self.processes.get_mut(process) else {
            return;
        };
        process.exited = true;
        let uptime = knows_uptime.then(|| now.duration_since(process.born));
        let comm = None;
        let death = Death {
            cause,
            blame,
            comm,
            uptime,
            time: None,
            since_boot: None,
        };
        let service = process.service.clone();
        for _ in 0..self.random.pick(&[0, 1, 1, 1, 2]) {
            let (service, death) = (service.clone(), death.clone());
            let early = Fact::ProcessExited {
                service,
                instance,
                death,
                circumstances: None,
            };
            self.later(Duration::from_secs(1), Happening::Tell(early));
        }
        self.owe_release(service, instance, death);
    }

    /// The authoritative fact: it comes in any case, but never before `Spawned`.
    fn owe_release(&mut self, service: ServiceName, instance: Instance, death: Death) {
        let spawned = self.queue.iter().find_map(|((time, _), happening)| {
            let Happening::Tell(Fact::Spawned { instance: born, .. }) = happening else {
                return None;
            };
            (*born == instance).then_some(*time)
        });
        let death = Death {
            cause: if self.random.chance(50) {
                death.cause
            } else {
                Cause::Unknown
            },
            ..death
        };
        let time = self.now + self.latency(LONGEST_LATENCY);
        let released = Fact::ProcessReleased {
            service,
            instance,
            death,
        };
        self.at(time.max(spawned.unwrap_or(time)), Happening::Tell(released));
    }

    fn alive(&self, instance: Instance) -> Option<usize> {
        self.processes
            .iter()
            .position(|process| process.instance == instance && !process.exited)
    }

    fn of(&self, service: &str) -> impl Iterator<Item = &Process> {
        self.processes
            .iter()
            .filter(move |process| &*process.service == service)
    }

    fn find(&mut self, instance: Instance) -> Option<&mut Process> {
        self.processes
            .iter_mut()
            .find(|process| process.instance == instance)
    }

    fn kill_someone(&mut self) {
        let alive = self.processes.iter().filter(|process| !process.exited);
        let alive: Vec<Instance> = alive.map(|process| process.instance).collect();
        if !alive.is_empty() {
            let victim = self.random.pick(&alive);
            self.die(victim, killed_by(Signal::KILL), Blame::SomeoneElse);
        }
    }
}

fn supervisor(is_container: bool) -> Supervisor {
    match is_container {
        true => Supervisor::new().ending_with_essential(),
        false => Supervisor::new(),
    }
}

/// Nothing of it is there, and nothing is under way.
fn is_at_rest(state: State) -> bool {
    matches!(
        state,
        State::Stopped | State::Failed | State::Done | State::Skipped
    )
}

/// Its last instance has ended with success, and it rests for that, or is about to.
fn has_finished(status: &Status<'_>) -> bool {
    let ends = [State::Stopping, State::Stopped, State::Done];
    let cause = status.last_exit.map(|death| &death.cause);
    ends.contains(&status.state) && cause == Some(&Cause::Exited { code: 0 })
}

fn killed_by(signal: Signal) -> Cause {
    Cause::Signaled {
        signal,
        core_dumped: false,
        origin: Origin::default(),
    }
}

// ---- people ----

impl Simulation {
    fn request(&mut self, kind: Asked) -> Check {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let service: ServiceName = self
            .random
            .pick(&["a", "b", "c", "e", "a", "b", "d"])
            .into();
        let status = self.supervisor.status(&service);
        let instance = status.and_then(|status| status.instance);
        let entry = Request {
            kind,
            service: service.clone(),
            instance,
        };
        self.requests.insert(request, entry);
        let is_going = self.is_going;
        let shadow = self.shadows.get_mut(&service);
        match (kind, shadow) {
            (Asked::Start | Asked::Restart, Some(shadow)) if shadow.is_listed && !is_going => {
                shadow.desired = Desired::Up;
                if kind == Asked::Restart || shadow.told != Some(LastNotice::Started) {
                    shadow.forget_starts();
                }
                self.pull(&service);
                if kind == Asked::Restart {
                    self.forget_starts_of_followers(&service);
                }
            }
            (Asked::Stop, Some(shadow)) => {
                shadow.desired = Desired::Down;
                for follower in self.followers(&service) {
                    if let Some(shadow) = self.shadows.get_mut(&follower) {
                        shadow.desired = Desired::Down;
                    }
                }
            }
            (Asked::Reload, _) => return self.reload(Some(request)),
            (Asked::Shutdown, _) => self.is_going = true,
            _ => {}
        }
        let signal = self.random.pick(&[Signal::HUP, Signal::KILL]);
        let fact = match kind {
            Asked::Start => Fact::StartRequested { service, request },
            Asked::Stop => Fact::StopRequested { service, request },
            Asked::Restart => Fact::RestartRequested { service, request },
            Asked::Signal => Fact::SignalRequested {
                service,
                signal,
                request,
            },
            Asked::Reread => Fact::ReloadRequested {
                service,
                signal: Signal::HUP,
                at: self.now - self.begun,
                request,
            },
            Asked::Reload | Asked::Shutdown => Fact::ShutdownRequested { request },
        };
        self.tell(fact)
    }

    /// A config that mostly resembles the last one.
    fn reload(&mut self, request: Option<RequestId>) -> Check {
        let services = self.next_config();
        let expected = self.take_config(&services);
        if let Some(request) = request {
            self.expected_reloads.insert(request, expected);
        }
        self.tell(Fact::Configured { services, request })
    }

    fn reload_same(&mut self) -> Check {
        let listed = self.shadows.iter().filter(|(_, it)| it.is_listed);
        let services = listed.map(|(name, it)| (name.clone(), Arc::clone(&it.spec)));
        let services = services.collect();
        self.take_config(&services);
        self.tell(Fact::Configured {
            services,
            request: None,
        })
    }

    fn next_config(&mut self) -> BTreeMap<ServiceName, Arc<Spec>> {
        let mut services = self.any_config();
        // Most configs have no cycle: `check` would have refused it.
        while self.random.chance(95) && !cycles(&ties_of(&services)).is_empty() {
            for spec in services.values_mut() {
                let relations = random_relations(&mut self.random);
                let spec = Arc::make_mut(spec);
                spec.relations = match spec.unusable {
                    Some(_) => Relations::default(),
                    None => relations,
                };
            }
        }
        services
    }

    fn any_config(&mut self) -> BTreeMap<ServiceName, Arc<Spec>> {
        let is_first = self.shadows.is_empty();
        let mut services = BTreeMap::new();
        for name in NAMES {
            let name: ServiceName = name.into();
            let old = self.shadows.get(&name).filter(|shadow| shadow.is_listed);
            let old = old.map(|shadow| Arc::clone(&shadow.spec));
            match (self.random.below(10), old) {
                (0, Some(_)) => {}
                (1, _) | (_, None) if is_first || self.random.chance(70) => {
                    services.insert(name, Arc::new(self.random_spec()));
                }
                (2, Some(old)) if old.unusable.is_none() => {
                    let policy = self.random_spec().policy;
                    let exec = old.exec.clone();
                    let hooks = Hooks::default();
                    let relations = old.relations.clone();
                    services.insert(
                        name,
                        Arc::new(Spec {
                            policy,
                            exec,
                            hooks,
                            relations,
                            log: None,
                            check: None,
                            reload: None,
                            steps: old.steps.clone(),
                            unusable: None,
                        }),
                    );
                }
                (_, Some(old)) => {
                    services.insert(name, old);
                }
                (_, None) => {}
            }
        }
        services
    }

    fn random_spec(&mut self) -> Spec {
        let mut spec = default_spec();
        let random = &mut self.random;
        if random.chance(10) {
            let unusable = Unusable {
                why: "no such user".into(),
                may_end: random.chance(50),
            };
            return Spec::unusable(unusable, Hooks::default());
        }
        let limit = |burst, seconds| {
            let interval = Duration::from_secs(seconds);
            Some(StartLimit { burst, interval })
        };
        spec.policy.essential = self.is_container && random.chance(10);
        spec.exec.arguments = vec![random.pick(&["x", "y", "z"]).to_owned()];
        spec.steps = random_steps(random);
        spec.relations = random_relations(random);
        spec.policy = Policy {
            restart: random.pick(&[
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::OnFailure,
                RestartPolicy::OnAbnormal,
                RestartPolicy::OnAbort,
                RestartPolicy::No,
            ]),
            restart_delay: Duration::from_millis(random.pick(&[0, 0, 50, 1_000])),
            restart_max_delay: Duration::from_millis(random.pick(&[500, 5_000, 30_000])),
            stable_after: Duration::from_secs(random.pick(&[1, 10])),
            start_limit: random.pick(&[None, None, limit(1, 1), limit(3, 5), limit(5, 10)]),
            success_exit_status: vec![0],
            restart_prevent_exit_status: random.pick(&[vec![], vec![], vec![0], vec![1]]),
            stop_signal: random.pick(&[Signal::TERM, Signal::INT, Signal::KILL]),
            stop_timeout: Duration::from_secs(random.pick(&[0, 1, 5])),
            stop_mode: random.pick(&[
                StopMode::Group,
                StopMode::Group,
                StopMode::Mixed,
                StopMode::Main,
            ]),
            start_check: Duration::from_secs(random.pick(&[0, 1])),
            start_timeout: Duration::from_secs(random.pick(&[1, 5])),
            overlap: random.chance(50),
            // It changes nothing but what the status says.
            standby: true,
            essential: spec.policy.essential,
            ..Policy::default()
        };
        if random.chance(30) {
            spec.exec.ready = Some(Ready::Fd(3));
        } else if random.chance(20) {
            spec.policy.kind = ServiceType::Oneshot;
            spec.policy.restart = random.pick(&[RestartPolicy::OnFailure, RestartPolicy::No]);
        }
        if may_roll(&spec) && random.chance(60) {
            spec.policy.restart_mode = RestartMode::Rolling;
        }
        if spec.policy.kind == ServiceType::Simple && random.chance(30) {
            spec.exec.watchdog = Some(WATCHDOG);
        } else if spec.policy.kind == ServiceType::Simple && random.chance(20) {
            spec.policy.kind = ServiceType::Forking;
        }
        spec
    }

    /// What the shadows make of a config; returns what a reload has to say of it.
    fn take_config(&mut self, services: &BTreeMap<ServiceName, Arc<Spec>>) -> ReloadSummary {
        let mut summary = ReloadSummary::default();
        let begun = self.begun(services);
        let known: BTreeSet<ServiceName> = self.shadows.keys().cloned().collect();
        let restarted: BTreeSet<ServiceName> = services
            .iter()
            .filter(|(name, spec)| self.is_new_exec(name, spec))
            .map(|(name, _)| name.clone())
            .collect();
        for (name, shadow) in &mut self.shadows {
            if shadow.is_listed && !services.contains_key(name) {
                shadow.is_listed = false;
                shadow.is_free = false;
                summary.removed.push(name.to_string());
            }
        }
        for (name, spec) in services {
            match self.shadows.get_mut(name) {
                Some(shadow) if shadow.is_listed => {
                    if shadow.spec != *spec {
                        summary.changed.push(name.to_string());
                    }
                    if restarted.contains(name) && shadow.is_wanted(self.is_going) {
                        summary.restarted.push(name.to_string());
                        if !self.is_resuming {
                            shadow.forget_starts();
                        }
                    }
                    let is_free = shadow.is_free;
                    let was_unusable = shadow.spec.unusable.is_some();
                    shadow.take_spec(Arc::clone(spec));
                    if self.is_resuming {
                        // What it had run is known by what was tried, not by a file that was of no use.
                        shadow.is_free |= is_free && was_unusable;
                        shadow.resume();
                    }
                }
                Some(shadow) => {
                    summary.added.push(name.to_string());
                    shadow.is_listed = true;
                    if !self.is_resuming {
                        shadow.desired = initially(spec);
                        shadow.forget_starts();
                    }
                    shadow.take_spec(Arc::clone(spec));
                }
                None => {
                    summary.added.push(name.to_string());
                    let shadow = Shadow::new(Arc::clone(spec));
                    self.shadows.insert(name.clone(), shadow);
                }
            }
        }
        self.take_for_ready();
        self.pull_for_config(&begun, &known);
        for shadow in self.shadows.values_mut() {
            shadow.may_restart_with_another();
        }
        summary
    }

    /// An instance of which the next agent knows nothing, by a file that it cannot use: it may never say
    /// that it is ready, and counts as such.
    fn take_for_ready(&mut self) {
        let (is_resuming, shadows) = (self.is_resuming, &self.shadows);
        for process in self.processes.iter_mut().filter(|_| is_resuming) {
            let shadow = shadows.get(&process.service);
            let is_unusable = shadow.is_some_and(|it| it.spec.unusable.is_some());
            process.is_ready_told |= is_unusable && !self.known.contains(&process.instance);
        }
    }

    /// What each service of a config has started before that.
    fn begun(
        &self,
        services: &BTreeMap<ServiceName, Arc<Spec>>,
    ) -> BTreeMap<ServiceName, BTreeSet<ServiceName>> {
        let of = |name: &ServiceName, spec: &Spec| match self.shadows.get(name) {
            Some(_) if self.is_resuming => spec.relations.starts().cloned().collect(),
            Some(shadow) if shadow.is_listed => shadow.spec.relations.starts().cloned().collect(),
            _ => BTreeSet::new(),
        };
        services
            .iter()
            .map(|(name, spec)| (name.clone(), of(name, spec)))
            .collect()
    }

    /// Whatever is up starts what it has not started so far.
    fn pull_for_config(
        &mut self,
        begun: &BTreeMap<ServiceName, BTreeSet<ServiceName>>,
        known: &BTreeSet<ServiceName>,
    ) {
        for (name, so_far) in begun {
            let Some(shadow) = self.shadows.get(name) else {
                continue;
            };
            if !shadow.is_wanted(self.is_going) {
                continue;
            }
            let starts: Vec<_> = shadow.spec.relations.starts().cloned().collect();
            let mut new = starts.into_iter();
            let new = new.find(|it| {
                let is_new = !so_far.contains(it) || !known.contains(it);
                let target = self.shadows.get(it);
                is_new && target.is_some_and(|it| it.is_listed && it.desired == Desired::Down)
            });
            if let Some(new) = new {
                if let Some(shadow) = self.shadows.get_mut(&new) {
                    shadow.desired = Desired::Up;
                    shadow.forget_starts();
                }
                // What it starts is new to it, too.
                let mut begun = begun.clone();
                begun.insert(new, BTreeSet::new());
                return self.pull_for_config(&begun, known);
            }
        }
    }

    /// What a service requires or wants is to be up.
    fn pull(&mut self, service: &ServiceName) {
        let mut rest = vec![service.clone()];
        let mut seen = BTreeSet::from([service.clone()]);
        while let Some(next) = rest.pop() {
            let Some(shadow) = self.shadows.get(&next) else {
                continue;
            };
            let starts: Vec<_> = shadow.spec.relations.starts().cloned().collect();
            for start in starts {
                if let Some(shadow) = self.shadows.get_mut(&start)
                    && shadow.is_listed
                    && seen.insert(start.clone())
                {
                    shadow.desired = Desired::Up;
                    if shadow.told != Some(LastNotice::Started) {
                        shadow.forget_starts();
                    }
                    rest.push(start.clone());
                }
            }
        }
        for service in seen {
            self.forget_starts_of_followers(&service);
        }
    }

    fn forget_starts_of_followers(&mut self, service: &ServiceName) {
        for follower in self.followers(service) {
            if let Some(shadow) = self.shadows.get_mut(&follower) {
                shadow.may_restart_with_another();
            }
        }
    }

    /// Those that require a service or are part of it, directly or not.
    fn followers(&self, service: &ServiceName) -> BTreeSet<ServiceName> {
        let mut found = BTreeSet::new();
        let mut rest = vec![service.clone()];
        while let Some(next) = rest.pop() {
            for name in NAMES {
                let tie = self.supervisor.ties(name).get(&next).copied();
                if tie >= Some(Tie::PartOf) && found.insert(name.into()) {
                    rest.push(name.into());
                }
            }
        }
        found
    }
}

fn ties_of(services: &BTreeMap<ServiceName, Arc<Spec>>) -> BTreeMap<ServiceName, Ties> {
    let of = services.iter();
    of.map(|(name, spec)| (name.clone(), spec.relations.ties()))
        .collect()
}

fn random_steps(random: &mut Random) -> Steps {
    let mut steps = || match random.chance(15) {
        true => vec![some_step()],
        false => Vec::new(),
    };
    Steps {
        conditions: Vec::new(),
        before_start: steps(),
        after_start: steps(),
        before_stop: steps(),
        stop_command: steps(),
        after_stop: steps(),
    }
}

/// Whether `restart_mode = "rolling"` is allowed for it.
fn may_roll(spec: &Spec) -> bool {
    let steps = &spec.steps;
    spec.exec.ready.is_some()
        && steps.after_start.is_empty()
        && steps.before_stop.is_empty()
        && steps.stop_command.is_empty()
}

/// Of any service to any other, and now and then to itself or to one that does not exist.
fn random_relations(random: &mut Random) -> Relations {
    let mut relations = Relations {
        autostart: random.chance(85),
        ..Relations::default()
    };
    if random.chance(40) {
        return relations;
    }
    for name in ["a", "b", "c", "e", "none"] {
        let name: ServiceName = name.into();
        match random.below(12) {
            0 => relations.after.insert(name),
            1 | 2 => relations.requires.insert(name),
            3 => relations.binds.insert(name),
            4 => relations.wants.insert(name),
            5 => relations.part_of.insert(name),
            _ => true,
        };
    }
    relations
}

impl Simulation {
    /// Whether a listed service is to be started anew for this spec.
    fn is_new_exec(&self, name: &ServiceName, spec: &Spec) -> bool {
        let Some(shadow) = self.shadows.get(name) else {
            return false;
        };
        if shadow.spec.unusable.is_none() {
            return spec.unusable.is_none() && shadow.spec.exec != spec.exec
                || shadow.spec.begins_otherwise(spec) && self.is_tried(name);
        }
        // What an instance ran of which nothing else is known is known by its fingerprint.
        let memory = self.supervisor.memory(name, self.now);
        let ran = memory.and_then(|memory| memory.exec);
        let status = self.supervisor.status(name);
        let runs = status.is_some_and(|status| status.state == State::Running);
        *shadow.spec != *spec && !(runs && ran.is_none_or(|ran| ran == spec.exec.fingerprint()))
    }

    /// Whether a start of it is under way, or has not come to anything.
    fn is_tried(&self, name: &ServiceName) -> bool {
        let state = self.supervisor.status(name).map(|status| status.state);
        let states = [State::Failed, State::Skipped, State::Backoff];
        self.spawning.contains_key(name) || state.is_some_and(|state| states.contains(&state))
    }
}

// ---- what the supervisor is told ----

impl Simulation {
    /// One step: a fact, all that follows, and every invariant.
    fn tell(&mut self, fact: Fact) -> Check {
        self.note(|_| format!("{fact:?}"));
        self.learn(&fact);
        if matches!(
            fact,
            Fact::Spawned { .. }
                | Fact::SpawnFailed { .. }
                | Fact::Skipped { .. }
                | Fact::StartAbandoned { .. }
                | Fact::StepsDone { .. }
                | Fact::ProcessExited { .. }
                | Fact::ProcessReleased { .. }
                | Fact::TreeGone { .. }
        ) {
            self.recent.push_back(fact.clone());
            if self.recent.len() > 16 {
                self.recent.pop_front();
            }
        }
        self.supervisor.handle_fact(fact, self.now);
        self.after_step()
    }

    /// What follows for world and shadows from a fact that is about to be told.
    #[expect(clippy::too_many_lines, reason = "a line a fact")]
    fn learn(&mut self, fact: &Fact) {
        match fact {
            Fact::Spawned {
                service,
                attempt,
                instance,
            } if self.spawning.get(service) == Some(attempt) => {
                self.spawning.remove(service);
                let now = self.now;
                if let Some(process) = self.find(*instance) {
                    // The supervisor counts from here.
                    process.born = now;
                }
            }
            Fact::SpawnFailed {
                service, attempt, ..
            } if self.spawning.get(service) == Some(attempt) => {
                self.spawning.remove(service);
            }
            Fact::StartAbandoned { service, attempt }
                if self.spawning.get(service) == Some(attempt) =>
            {
                self.spawning.remove(service);
                if let Some(shadow) = self.shadows.get_mut(service) {
                    shadow.forget_starts();
                }
            }
            Fact::Skipped {
                service, attempt, ..
            } if self.spawning.get(service) == Some(attempt) => {
                self.spawning.remove(service);
                if let Some(shadow) = self.shadows.get_mut(service) {
                    // If it is to be started by another spec by now.
                    shadow.is_free = true;
                }
            }
            Fact::StepsDone {
                service,
                instance,
                phase,
                failure,
            } => self.learn_steps(service, *instance, *phase, failure.is_some()),
            Fact::Described {
                service,
                attempt,
                spec,
            } if self.spawning.get(service) == Some(attempt) => {
                self.spawning.remove(service);
                if let Some(shadow) = self.shadows.get_mut(service) {
                    if shadow.spec.unusable.is_some() {
                        shadow.take_spec(Arc::clone(spec));
                    }
                    shadow.is_free = true;
                }
            }
            Fact::ProcessExited {
                service,
                instance,
                death,
                ..
            } => self.learn_death(service, *instance, death),
            Fact::ProcessReleased {
                service,
                instance,
                death,
            } => {
                self.learn_death(service, *instance, death);
                if let Some(process) = self.find(*instance)
                    && process.service == *service
                {
                    process.is_release_told = true;
                }
            }
            Fact::BecameReady { instance, .. }
            | Fact::Lives { instance, .. }
            | Fact::Ending { instance, .. }
            | Fact::DoesNotWork { instance, .. } => {
                let now = self.now;
                let Some(process) = self.find(*instance) else {
                    return;
                };
                match fact {
                    Fact::DoesNotWork { .. } | Fact::Ending { .. } => process.is_broken = true,
                    // To say it unasked, or again, is no sign of life.
                    Fact::BecameReady { .. }
                        if process.exec.ready.is_none() || process.is_ready_told => {}
                    Fact::BecameReady { .. } => {
                        process.is_ready_told = true;
                        process.heard = process.heard.max(now);
                    }
                    _ => process.heard = now,
                }
            }
            Fact::StopSent { instance, .. } => {
                if let Some(process) = self.find(*instance) {
                    process.stop_sent = process.stop_asked.or(process.stop_sent);
                }
            }
            Fact::TreeGone { service, instance } => self.processes.retain(|process| {
                process.instance != *instance
                    || process.service != *service
                    || !process.is_clear_asked
            }),
            _ => {}
        }
    }

    /// The commands of a phase have ended.
    fn learn_steps(
        &mut self,
        service: &ServiceName,
        instance: Instance,
        phase: Phase,
        has_failed: bool,
    ) {
        if !self.commands.remove(&(service.clone(), instance, phase)) {
            return;
        }
        let Some(process) = self.find(instance) else {
            return;
        };
        match phase {
            Phase::AfterStart => process.is_broken |= has_failed,
            Phase::Stop if has_failed => process.is_signal_due = true,
            Phase::Stop if process.told.is_none() => {
                (process.stop_asked, process.stop_sent) = (Some(Reach::Main), Some(Reach::Main));
                self.signal(instance, Signal::TERM);
            }
            _ => {}
        }
    }

    /// The first fact of a death that the supervisor can know of decides.
    fn learn_death(&mut self, service: &ServiceName, instance: Instance, death: &Death) {
        let (now, is_held) = (self.now, self.is_held);
        let Some(process) = self.find(instance) else {
            return;
        };
        if process.service != *service || process.told.is_some() {
            return;
        }
        let uptime = death.uptime.unwrap_or(now.duration_since(process.born));
        let (is_published, attempt) = (process.is_published, process.attempt);
        // Before `Spawned` it is nobody's.
        if self.spawning.get(service) == Some(&attempt) || is_published {
            return;
        }
        if let Some(process) = self.find(instance) {
            process.told = Some(death.clone());
        }
        let shadow = self.shadows.get(service);
        if shadow.is_some_and(|it| it.beside.contains(&instance)) {
            return;
        }
        let is_beside = self.left_of(service) > 1;
        let status = self.supervisor.status(service);
        // Its stop has been decided on, and waits for others.
        let is_stop_due = status
            .as_ref()
            .is_some_and(|it| it.state == State::Stopping);
        let is_rolling = status.is_some_and(|it| it.doing == Some(Doing::Rolling));
        let Some(shadow) = self.shadows.get_mut(service) else {
            return;
        };
        // Between two agents it is not known yet which policy it will be judged by.
        if is_held || is_stop_due || uptime >= shadow.spec.policy.stable_after {
            shadow.forget_starts();
        }
        let was_stable = |uptime| uptime >= shadow.spec.policy.stable_after;
        shadow.is_fresh = !is_held && death.uptime.is_some_and(was_stable);
        let is_counted = shadow.told == Some(LastNotice::Started) && !is_stop_due;
        shadow.is_unseen = is_counted && death.cause == Cause::Unknown;
        let is_mended = death.blame == Blame::SomeoneElse || is_beside && !was_stable(uptime);
        // Of one whose policy is not known, every end is mended.
        let is_unknown = is_counted && shadow.spec.unusable.is_some();
        shadow.is_unseen &= !is_unknown;
        shadow.is_free = is_counted && !shadow.is_unseen && is_mended || is_unknown;
        if is_rolling {
            // What comes now was asked for.
            shadow.forget_starts();
            (shadow.is_free, shadow.is_unseen) = (false, false);
        }
    }

    fn tell_again(&mut self) -> Check {
        if self.recent.is_empty() {
            return Ok(());
        }
        let recent: Vec<Fact> = self.recent.iter().cloned().collect();
        let fact = self.random.pick(&recent);
        self.tell(fact)
    }

    /// A fact about something that never was: a reused pid, another's service, a lost attempt.
    fn tell_nonsense(&mut self) -> Check {
        let service: ServiceName = self.random.pick(&NAMES).into();
        let known: Vec<Instance> = self.processes.iter().map(|it| it.instance).collect();
        let mut instance = Instance {
            pid: u32::try_from(self.random.below(20)).unwrap() + 2,
            start_time_ns: self.random.below(1_000),
        };
        if !known.is_empty() && self.random.chance(50) {
            instance = self.random.pick(&known);
            if self
                .of(&service)
                .any(|process| process.instance == instance)
            {
                instance.start_time_ns += 1;
            }
        }
        if self.random.chance(20) {
            return self.tell_gone_too_early(service);
        }
        let attempt = Attempt(1_000_000 + self.random.below(10));
        let death = Death {
            cause: Cause::Unknown,
            blame: self.random.pick(&[Blame::Itself, Blame::SomeoneElse]),
            comm: None,
            uptime: None,
            time: None,
            since_boot: None,
        };
        let failure = SpawnFailure {
            message: "nonsense".into(),
        };
        let choice = self.random.below(6);
        self.tell(match choice {
            0 => Fact::Spawned {
                service,
                attempt,
                instance,
            },
            1 => Fact::SpawnFailed {
                service,
                attempt,
                failure,
            },
            2 => Fact::ProcessExited {
                service,
                instance,
                death,
                circumstances: None,
            },
            3 => Fact::ProcessReleased {
                service,
                instance,
                death,
            },
            4 => Fact::ChildExited {
                service,
                attempt,
                child: Box::new(Child {
                    process: instance,
                    death,
                    circumstances: Circumstances::default(),
                    left_out: 0,
                }),
            },
            _ => Fact::TreeGone { service, instance },
        })
    }

    /// Of an instance that really is, but has not been cleared.
    fn tell_gone_too_early(&mut self, service: ServiceName) -> Check {
        let early = self.of(&service).filter(|it| !it.is_clear_asked);
        let early: Vec<Instance> = early.map(|process| process.instance).collect();
        if early.is_empty() {
            return Ok(());
        }
        let instance = self.random.pick(&early);
        self.tell(Fact::TreeGone { service, instance })
    }

    /// The agent dies; the next one finds what the kernel and the memory have.
    fn replace_agent(&mut self) -> Check {
        // The next one goes on with an essential service's end, and with no shutdown.
        let was_asked = || self.requests.values().any(|it| it.kind == Asked::Shutdown);
        // One that is gone from the config since is remembered by nobody, or it is not essential any more.
        let is_forgotten = self.ended.as_ref().is_some_and(|(service, _)| {
            let memory = self.supervisor.memory(service, self.now);
            let shadow = self.shadows.get(service);
            let is_essential = shadow.is_some_and(|it| it.spec.policy.essential);
            !is_essential || memory.is_none_or(|memory| !memory.has_ended)
        });
        let is_shutdown = self.is_going && (self.ended.is_none() || was_asked());
        if self.is_over || is_shutdown || is_forgotten {
            return Ok(());
        }
        self.note(|_| "the agent dies".into());
        let names: BTreeSet<ServiceName> = self.shadows.keys().cloned().collect();
        let memories: BTreeMap<ServiceName, Memory> = names
            .iter()
            .filter_map(|name| Some((name.clone(), self.supervisor.memory(name, self.now)?)))
            .collect();
        self.known = memories.values().filter_map(|it| it.instance).collect();
        self.supervisor = supervisor(self.is_container);
        let is_unsent = |it: &&Process| {
            it.stop_sent.is_none() || it.stop_asked.is_some() && it.stop_asked != it.stop_sent
        };
        for process in self.processes.iter().filter(is_unsent) {
            if let Some(shadow) = self.shadows.get_mut(&process.service) {
                shadow.forget_stop(process.instance);
            }
        }
        self.requests.clear();
        self.recent.clear();
        self.commands.clear();
        let tried = std::mem::take(&mut self.spawning);
        self.lose_what_was_under_way()?;
        for (service, attempt) in tried {
            let has_come = self.of(&service).any(|process| process.attempt == attempt);
            let ran = memories.get(&service).and_then(|memory| memory.exec);
            if let Some(shadow) = self.shadows.get_mut(&service)
                && !has_come
                && !self.rolling.contains(&attempt)
            {
                let wanted = shadow.spec.exec.fingerprint();
                // It was counted, or was free; that of another exec is a start of its own.
                shadow.is_free =
                    shadow.spec.unusable.is_some() || ran.is_none_or(|it| it == wanted);
            }
        }
        let mut facts = self.remembered(&memories);
        facts.extend(self.deaths_in_between());
        self.is_held = true;
        for fact in facts {
            self.tell(fact)?;
        }
        self.is_held = false;
        self.is_resuming = true;
        for shadow in self.shadows.values_mut() {
            shadow.unwanted_since = None;
        }
        let resumed = match self.ended {
            // Another config may have no such service.
            Some(_) => self.reload_same(),
            None => self.reload(None),
        };
        self.is_resuming = false;
        resumed
    }

    /// Facts on their way are lost; a spawn under way comes through unseen, or never.
    fn lose_what_was_under_way(&mut self) -> Check {
        for (key, happening) in std::mem::take(&mut self.queue) {
            match happening {
                Happening::Tell(_) => {}
                Happening::Spawn {
                    service,
                    attempt,
                    exec,
                } => {
                    if self.random.chance(50) {
                        self.bear(&service, attempt, *exec)?;
                    }
                }
                end @ (Happening::Die(..) | Happening::Finish(_)) => {
                    self.queue.insert(key, end);
                }
            }
        }
        Ok(())
    }

    fn remembered(&mut self, memories: &BTreeMap<ServiceName, Memory>) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (service, memory) in memories {
            let instances = self.of(service).map(|it| Some((it.attempt, it.instance)));
            let mut instances: Vec<_> = instances.collect();
            if instances.is_empty() {
                instances.push(None);
            }
            if self.random.chance(50) {
                instances.reverse();
            }
            facts.extend(instances.into_iter().map(|instance| Fact::Remembered {
                service: service.clone(),
                memory: Box::new(memory.clone()),
                instance,
            }));
        }
        facts
    }

    /// What has died is told to the new agent: some at once, the others when it is at work.
    fn deaths_in_between(&mut self) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut processes = std::mem::take(&mut self.processes);
        for process in &mut processes {
            process.is_adopted = true;
            process.stop_asked = None;
            process.is_killed = false;
            process.is_clear_asked = false;
            process.is_release_told = false;
            if !process.is_published {
                process.told = None;
            }
            if !process.exited {
                continue;
            }
            let (service, instance) = (process.service.clone(), process.instance);
            let cause = Cause::Unknown;
            let death = Death {
                cause,
                blame: Blame::Itself,
                comm: None,
                uptime: None,
                time: None,
                since_boot: None,
            };
            if self.random.chance(50) {
                self.owe_release(service, instance, death);
            } else {
                facts.push(Fact::ProcessReleased {
                    service,
                    instance,
                    death,
                });
            }
        }
        self.processes = processes;
        facts
    }
}

// ---- what the supervisor does, and what must hold after it ----

impl Simulation {
    fn after_step(&mut self) -> Check {
        self.steps += 1;
        while let Some(action) = self.supervisor.next_action() {
            self.note(|_| format!("    -> {action:?}"));
            self.act(action)?;
        }
        while self.supervisor.next_changed().is_some() {}
        if self.is_held {
            return Ok(());
        }
        for name in NAMES {
            self.check_service(name)?;
        }
        self.supervisor.check_order()?;
        let mut states = self.supervisor.statuses().map(|status| status.state);
        ensure!(
            self.supervisor.poll_timeout().is_none()
                || states.any(|state| {
                    matches!(
                        state,
                        State::Backoff | State::Stopping | State::Running | State::Starting
                    )
                })
                || self.processes.iter().any(|process| process.exited),
            "timers_ahead: a timer is armed that nobody needs"
        );
        let supervisor = &self.supervisor;
        self.shadows
            .retain(|name, _| supervisor.status(name).is_some());
        Ok(())
    }

    fn act(&mut self, action: Action) -> Check {
        match action {
            Action::Spawn { service, attempt } => self.spawn(service, attempt),
            Action::Signal {
                instance,
                signal,
                request,
                ..
            } => {
                if let Some(request) = request {
                    self.replied(request, &Reply::Done)?;
                }
                self.signal(instance, signal);
                Ok(())
            }
            Action::Stop {
                service,
                instance,
                signal,
                reach,
            } => {
                let process = self.find(instance);
                let is_due = process.is_some_and(|it| std::mem::take(&mut it.is_signal_due));
                if !is_due {
                    self.check_stop(&service, instance)?;
                }
                self.signal(instance, signal);
                self.stop(service, instance, reach)
            }
            Action::AwaitReady { service, instance } => {
                self.let_be_ready(service, instance);
                Ok(())
            }
            Action::AbandonStart {
                service, attempt, ..
            } => {
                self.abandon_start(&service, attempt);
                Ok(())
            }
            Action::RunSteps {
                service,
                instance,
                phase,
            } => self.run_steps(service, instance, phase),
            Action::EndSteps {
                service,
                instance,
                phase,
            } => self.end_steps(service, instance, phase),
            Action::Kill {
                service,
                instance,
                reach,
            } => self.kill(&service, instance, reach),
            Action::ClearTree {
                service,
                instance,
                how,
            } => self.clear(service, instance, how),
            Action::Reply { request, reply } => self.replied(request, &reply),
            Action::End { service, status } => self.end_agent(&service, status),
            Action::Publish(notice) => {
                self.note_end(&notice);
                self.published(&notice)
            }
        }
    }

    /// `essential_ends`: from the moment when an essential service has come to rest by itself, no other
    /// is wanted.
    fn note_end(&mut self, notice: &Notice) {
        let (Notice::Failed { service, .. }
        | Notice::Skipped { service, .. }
        | Notice::Done { service }
        | Notice::Stopped { service }) = notice
        else {
            return;
        };
        let Some(shadow) = self.shadows.get(service).filter(|_| self.is_container) else {
            return;
        };
        let has_failed = matches!(notice, Notice::Failed { .. });
        let is_own = has_failed && shadow.is_listed || shadow.is_wanted(self.is_going);
        if is_own && shadow.spec.policy.essential && self.ended.is_none() {
            self.ended = Some((service.clone(), u8::from(has_failed)));
            self.is_going = true;
        }
    }

    /// `essential_ends`: the agent ends once, for that service, with its status, and when all is gone.
    fn end_agent(&mut self, service: &ServiceName, status: u8) -> Check {
        let is_essential = self.shadows.get(service);
        let is_essential = is_essential.is_some_and(|it| it.spec.policy.essential);
        let is_it = match &self.ended {
            Some((ended, failed)) => ended == service && (*failed == 0) == (status == 0),
            // It was on its way to its end when a shutdown came.
            None => self.is_going && is_essential,
        };
        ensure!(
            is_it && self.is_container && !self.is_over,
            "essential_ends: the agent is to end with {service}, {status}, not for {:?}",
            self.ended
        );
        ensure!(
            self.processes.is_empty() && self.spawning.is_empty(),
            "essential_ends: something still lives"
        );
        self.is_over = true;
        Ok(())
    }

    /// It may be too late for that.
    fn abandon_start(&mut self, service: &ServiceName, attempt: Attempt) {
        let is_it = |happening: &Happening| matches!(happening, Happening::Spawn { service: of, attempt: by, .. } if of == service && *by == attempt);
        let found = self.queue.iter().find(|(_, happening)| is_it(happening));
        let Some(key) = found.map(|(key, _)| *key) else {
            return;
        };
        if self.random.chance(70) {
            self.queue.remove(&key);
            let abandoned = Fact::StartAbandoned {
                service: service.clone(),
                attempt,
            };
            self.later(LONGEST_LATENCY, Happening::Tell(abandoned));
        }
    }

    /// `steps_in_order`: each at its time, and never twice at once.
    fn run_steps(&mut self, service: ServiceName, instance: Instance, phase: Phase) -> Check {
        let key = (service.clone(), instance, phase);
        ensure!(
            self.commands.insert(key),
            "steps_in_order: {phase} of {instance:?} runs already"
        );
        let process = self.processes.iter().find(|it| it.instance == instance);
        let is_told_dead = process.is_none_or(|it| it.told.is_some());
        let is_unready = process.is_some_and(|it| it.exec.ready.is_some() && !it.is_ready_told);
        let is_asked = process.is_some_and(|it| it.stop_asked.is_some());
        let fits = match phase {
            Phase::BeforeStart => false,
            Phase::AfterStart => !is_told_dead && !is_unready && !is_asked,
            Phase::BeforeStop if instance == Instance::NONE => {
                self.of(&service).all(|it| it.exited)
            }
            Phase::BeforeStop | Phase::Stop => !is_told_dead && !is_asked,
            Phase::AfterStop => process.is_none(),
        };
        ensure!(fits, "steps_in_order: {phase} of {instance:?} at that time");
        match phase {
            Phase::BeforeStop | Phase::Stop => self.check_stop(&service, instance)?,
            _ => {}
        }
        let failure = (!self.is_quiet || phase != Phase::AfterStart) && self.random.chance(20);
        let done = Fact::StepsDone {
            service,
            instance,
            phase,
            failure: failure.then(|| "exited with 1".to_owned()),
        };
        self.later(LONGEST_LATENCY, Happening::Tell(done));
        Ok(())
    }

    fn end_steps(&mut self, service: ServiceName, instance: Instance, phase: Phase) -> Check {
        let is_it = |happening: &Happening| matches!(happening, Happening::Tell(Fact::StepsDone { service: of, instance: by, phase: in_phase, .. }) if *of == service && *by == instance && *in_phase == phase);
        let found = self.queue.iter().find(|(_, happening)| is_it(happening));
        let Some(key) = found.map(|(key, _)| *key) else {
            return Err(format!(
                "steps_in_order: {phase} of {instance:?} does not run"
            ));
        };
        self.queue.remove(&key);
        let done = Fact::StepsDone {
            service,
            instance,
            phase,
            failure: None,
        };
        self.later(Duration::from_millis(20), Happening::Tell(done));
        Ok(())
    }

    /// How many instances there are, those of which only commands are left included.
    fn left_of(&self, service: &ServiceName) -> usize {
        let commands = self.commands.iter().filter(|it| it.0 == *service);
        let all = commands.map(|it| it.1);
        let all = all.chain(self.of(service).map(|it| it.instance));
        all.collect::<BTreeSet<_>>().len()
    }

    /// Whether commands around its runs are under way.
    fn is_busy(&self, service: &str) -> bool {
        self.commands.iter().any(|(of, ..)| &**of == service)
    }

    /// Whether it runs and is ready, but for its `after_start`.
    fn is_finishing(&self, process: &Process) -> bool {
        let key = (process.service.clone(), process.instance, Phase::AfterStart);
        self.commands.contains(&key)
    }

    fn signal(&mut self, instance: Instance, signal: Signal) {
        let ignores = self.find(instance).is_some_and(|it| it.ignores_stop);
        if signal == Signal::KILL || !ignores {
            let happening = Happening::Die(instance, killed_by(signal), Blame::SomeoneElse);
            self.later(LONGEST_LATENCY, happening);
        }
    }

    /// `one_stop_signal`: none after one that an agent could know of.
    fn stop(&mut self, service: ServiceName, instance: Instance, reach: Reach) -> Check {
        let sent = self.find(instance).and_then(|process| process.stop_sent);
        let is_second = sent == Some(Reach::Tree) || sent == Some(reach);
        ensure!(!is_second, "one_stop_signal: a second one to {instance:?}");
        if let Some(process) = self.find(instance) {
            process.stop_asked = Some(reach);
        }
        let happening = Happening::Tell(Fact::StopSent { service, instance });
        self.later(Duration::from_millis(20), happening);
        Ok(())
    }

    fn kill(&mut self, service: &ServiceName, instance: Instance, reach: Reach) -> Check {
        if !self.is_resuming
            && let Some(shadow) = self.shadows.get(service)
        {
            shadow.killing(instance, self.now)?;
        }
        let cause = killed_by(Signal::KILL);
        let happening = Happening::Die(instance, cause, Blame::SomeoneElse);
        self.later(Duration::from_millis(100), happening);
        if reach == Reach::Main {
            return Ok(());
        }
        let mut is_awaited = false;
        if let Some(process) = self.find(instance) {
            let was_killed = std::mem::replace(&mut process.is_killed, true);
            is_awaited = process.leaves_stubborn && process.is_clear_asked && !was_killed;
        }
        if is_awaited {
            let service = service.clone();
            let gone = Fact::TreeGone { service, instance };
            self.later(LONGEST_LATENCY, Happening::Tell(gone));
        }
        Ok(())
    }

    fn clear(&mut self, service: ServiceName, instance: Instance, how: Clear) -> Check {
        let Some(process) = self.find(instance) else {
            return Err(format!("ClearTree of {instance:?}, which is not known"));
        };
        let is_first = !std::mem::replace(&mut process.is_clear_asked, true);
        let is_due = is_first && process.is_release_told && process.exited;
        ensure!(is_due, "ClearTree of {instance:?} comes untimely");
        let is_known = process.stop_sent == Some(Reach::Tree);
        match how {
            // Whatever it was told, it is left alone now.
            Clear::Leave => (process.stop_sent, process.stop_asked) = (None, None),
            Clear::Stop(_) => process.stop_asked = Some(Reach::Tree),
            Clear::Await | Clear::Kill => {}
        }
        let stays = process.leaves_stubborn && !process.is_killed;
        let stays = stays && matches!(how, Clear::Stop(_) | Clear::Await);
        if self.random.chance(20) {
            let service = service.clone();
            self.later(
                Duration::from_millis(20),
                Happening::Tell(Fact::TreeRemains { service, instance }),
            );
        }
        if let Clear::Stop(_) = how {
            ensure!(!is_known, "one_stop_signal: a second one to {instance:?}");
            if let Some(shadow) = self.shadows.get_mut(&service) {
                shadow.stopping(instance, self.now);
            }
            if stays {
                self.stop(service.clone(), instance, Reach::Tree)?;
            }
        }
        if !stays {
            let gone = Fact::TreeGone { service, instance };
            self.later(LONGEST_LATENCY, Happening::Tell(gone));
        }
        Ok(())
    }

    fn spawn(&mut self, service: ServiceName, attempt: Attempt) -> Check {
        let is_going = self.is_going;
        let Some(shadow) = self.shadows.get_mut(&service) else {
            return Err(format!("no_start_while_down: {service} is not known"));
        };
        ensure!(
            shadow.is_wanted(is_going),
            "no_start_while_down: {service} is not wanted"
        );
        let status = self.supervisor.status(&service);
        if status.is_some_and(|it| it.state == State::Running) {
            self.rolling.insert(attempt);
        } else {
            shadow.spawning(self.now)?;
        }
        let is_rolling = self.rolling.contains(&attempt);
        let (exec, overlap) = (shadow.spec.exec.clone(), shadow.spec.policy.overlap);
        let old = self.left_of(&service);
        ensure!(
            old <= usize::from(overlap || is_rolling),
            "one_predecessor: {service} has {old} old instances, overlap {overlap}"
        );
        ensure!(
            is_rolling || self.of(&service).all(|process| process.exited),
            "one_live: {service} is spawned while it lives"
        );
        ensure!(
            self.spawning.insert(service.clone(), attempt).is_none(),
            "one_live: {service} is spawned twice"
        );
        self.check_start(&service)?;
        let happening = Happening::Spawn {
            service,
            attempt,
            exec: Box::new(exec),
        };
        self.later(Duration::from_millis(50), happening);
        Ok(())
    }

    /// `start_in_order`: nothing starts before what comes before it is there, or does not come.
    fn check_start(&self, service: &ServiceName) -> Check {
        for (ahead, tie) in self.supervisor.ties(service) {
            let Some(status) = self.supervisor.status(&ahead) else {
                continue;
            };
            let shadow = self.shadows.get(&ahead);
            if !shadow.is_some_and(|it| it.is_wanted(self.is_going)) {
                continue;
            }
            let stands_in_the_way = match status.state {
                State::Running | State::Failed | State::Stopped | State::Done | State::Skipped => {
                    false
                }
                State::Backoff => tie >= Tie::Requires,
                State::Waiting | State::Starting => tie >= Tie::Requires || !self.is_timeout,
                // It is down, but for what is left of it, or is to be replaced.
                // It began to stop in the same moment, for a failure of its own or of what it binds.
                State::Stopping
                    if self.is_timeout && self.processes.iter().any(|it| self.is_late(it)) =>
                {
                    false
                }
                State::Stopping => {
                    let ends = status.instance.is_none() && !self.spawning.contains_key(&ahead);
                    !ends && (tie >= Tie::Requires || !self.is_timeout)
                }
            };
            ensure!(
                !stands_in_the_way,
                "start_in_order: {service} starts, and {ahead} is {}",
                status.state
            );
        }
        Ok(())
    }

    /// It has to say that it is alive, and has not for as long as it may.
    fn is_silent(&self, process: &Process) -> bool {
        let since = self.now.saturating_duration_since(process.heard);
        process
            .exec
            .watchdog
            .is_some_and(|longest| since >= longest)
    }

    /// It is not ready yet, or has not said for too long that it is alive.
    fn is_late(&self, process: &Process) -> bool {
        self.is_unready(process) || self.is_silent(process)
    }

    fn is_unready(&self, process: &Process) -> bool {
        process.exec.ready.is_some() && !process.is_ready_told || self.is_finishing(process)
    }

    /// `stop_in_order`: nothing stops before what comes after it has stopped, if that has to.
    fn check_stop(&self, service: &ServiceName, instance: Instance) -> Check {
        let is_failing = |it: &Process| self.is_timeout && self.is_late(it) || it.is_broken;
        let status = self.supervisor.status(service);
        let is_replaced = status.is_some_and(|it| it.instance != Some(instance));
        if self.of(service).any(is_failing) || is_replaced {
            // Its own failure, as a crash would be; or another instance goes on.
            return Ok(());
        }
        for name in NAMES {
            let Some(tie) = self.supervisor.ties(name).get(service).copied() else {
                continue;
            };
            let is_stopping = |it: &Process| {
                let shadow = self.shadows.get(name);
                !it.exited && shadow.is_some_and(|it| it.told == Some(LastNotice::Stopping))
            };
            let is_there = self.of(name).any(|it| !it.exited && tie >= Tie::Requires);
            let is_left = self.of(name).any(is_stopping);
            ensure!(
                !is_there && !is_left,
                "stop_in_order: {service} stops, and {name} is still there"
            );
        }
        Ok(())
    }

    fn published(&mut self, notice: &Notice) -> Check {
        let Some(service) = notice.service().cloned() else {
            return Ok(());
        };
        let now = self.now;
        match notice {
            Notice::Started { instance, .. }
            | Notice::Adopted { instance, .. }
            | Notice::Replaced { instance, .. }
            | Notice::Ready { instance, .. } => {
                if let Some(process) = self.find(*instance) {
                    process.heard = process.heard.max(now);
                }
            }
            Notice::Stopping {
                instance,
                reason: Some(reason),
                ..
            } if reason.starts_with("no sign of life") => {
                let mut processes = self.processes.iter();
                let process = processes.find(|it| it.instance == *instance);
                // The next agent goes on with it.
                let is_true = process.is_some_and(|it| it.is_broken || self.is_silent(it));
                ensure!(
                    is_true,
                    "heard_in_time: {service} is stopped, and has said that it lives"
                );
                if let Some(process) = self.find(*instance) {
                    process.is_broken = true;
                }
            }
            _ => {}
        }
        if let Notice::Exited {
            instance, death, ..
        } = notice
        {
            let process = self.find(*instance);
            let Some(process) = process.filter(|process| process.exited) else {
                return Err(format!("journal_agrees: {instance:?} has not exited"));
            };
            ensure!(
                !std::mem::replace(&mut process.is_published, true),
                "journal_agrees: the exit of {instance:?} is told twice"
            );
            ensure!(
                process.told.as_ref() == Some(death),
                "journal_agrees: {death:?}, but first told was {:?}",
                process.told
            );
        }
        let now = self.now;
        match self.shadows.get_mut(&service) {
            Some(shadow) => shadow.read(notice, now),
            None => Err(format!("journal_agrees: {service} is not known")),
        }
    }

    /// `one_reply`: once each, and true.
    fn replied(&mut self, request: RequestId, reply: &Reply) -> Check {
        let Some(asked) = self.requests.remove(&request) else {
            return Err(format!(
                "one_reply: {request:?} was answered already: {reply:?}"
            ));
        };
        let service = &asked.service;
        let status = self.supervisor.status(service);
        let live = status.as_ref().and_then(|status| status.instance);
        let is_empty = self.of(service).next().is_none()
            && !self.spawning.contains_key(service)
            && !self.is_busy(service);
        let is_wanted = self
            .shadows
            .get(service)
            .is_some_and(|shadow| shadow.is_wanted(self.is_going));
        let is_finished = status.as_ref().is_some_and(has_finished);
        let shadow = self.shadows.get(service);
        let is_oneshot = shadow.is_some_and(|it| it.spec.policy.kind == ServiceType::Oneshot);
        let of_it = self.of(service).find(|it| Some(it.instance) == live);
        let is_unready = of_it.is_some_and(|it| self.is_unready(it));
        let is_failing = of_it.is_some_and(|it| it.is_broken || self.is_silent(it));
        let is_stopping = status
            .as_ref()
            .is_some_and(|it| it.state == State::Stopping);
        let is_true = match (reply, asked.kind) {
            (Reply::Done, Asked::Start | Asked::Restart) if is_unready => is_finished,
            // Whoever starts it waits for its end.
            (Reply::Done, Asked::Start | Asked::Restart) if is_oneshot => is_finished,
            (Reply::Done, Asked::Start) => live.is_some() || is_finished,
            (Reply::Done, Asked::Restart) => {
                live.is_some() && live != asked.instance || is_finished
            }
            (Reply::Skipped { .. }, Asked::Start | Asked::Restart) => live.is_none(),
            (Reply::Done, Asked::Stop) => is_empty && !is_wanted,
            (Reply::Done, Asked::Signal | Asked::Reread) => live.is_some(),
            (Reply::Done, Asked::Shutdown) => self.processes.is_empty() && self.spawning.is_empty(),
            (Reply::Reloaded(summary), Asked::Reload) => {
                let failed = summary.failed.clone();
                let expected = self.expected_reloads.remove(&request);
                expected.is_some_and(|expected| *summary == ReloadSummary { failed, ..expected })
            }
            (Reply::Denied(reason), kind) => match reason {
                DeniedReason::UnknownService(_) => {
                    let shadow = self.shadows.get(service);
                    shadow.is_none_or(|shadow| !shadow.is_listed)
                }
                DeniedReason::NotRunning(_) => match kind {
                    Asked::Reread => live.is_none() || is_stopping,
                    _ => kind == Asked::Signal && live.is_none(),
                },
                DeniedReason::NotReloaded { .. } => kind == Asked::Reread,
                DeniedReason::StartFailed { failure, .. } => {
                    // The one that was to replace it has failed.
                    let is_rolling = status
                        .as_ref()
                        .is_some_and(|it| it.last_failure == Some(failure));
                    let is_start = matches!(kind, Asked::Start | Asked::Restart);
                    // One that is not ready in time, or does not work, still runs.
                    is_start && (live.is_none() || is_unready || is_failing || is_rolling)
                }
                DeniedReason::Overtaken { .. } => (kind == Asked::Stop) == is_wanted,
                // Of the agent alone.
                _ => false,
            },
            _ => false,
        };
        ensure!(
            is_true,
            "one_reply: {:?} of {service} got {reply:?}, wanted {is_wanted}, status {status:?}",
            asked.kind
        );
        Ok(())
    }

    fn check_service(&mut self, name: &str) -> Check {
        let (is_going, now, jumped) = (self.is_going, self.now, self.jumped);
        let Some(status) = self.supervisor.status(name) else {
            let is_forgotten = self.shadows.get(name).is_none_or(|it| !it.is_listed);
            let is_empty = self.of(name).next().is_none() && !self.spawning.contains_key(name);
            ensure!(
                is_forgotten && is_empty,
                "stop_ends: {name} is forgotten before its end"
            );
            return Ok(());
        };
        let Some(shadow) = self.shadows.get(name) else {
            return Err(format!("{name} should not be known"));
        };
        shadow.agree(&status)?;
        let (state, instance) = (status.state, status.instance);
        let is_oneshot = shadow.spec.policy.kind == ServiceType::Oneshot;
        let of_it = self
            .processes
            .iter()
            .find(|it| Some(it.instance) == instance);
        if let Some(process) = of_it.filter(|it| it.exec.ready.is_some()) {
            ensure!(
                state != State::Running || process.is_ready_told,
                "ready_is_told: {name} is up, and nobody has said so"
            );
            ensure!(
                state != State::Running || !self.is_finishing(process),
                "ready_is_told: {name} is up before its after_start"
            );
            ensure!(
                state != State::Starting || !process.was_up || is_oneshot,
                "ready_is_sticky: {name} is not ready any more"
            );
        }
        let is_up = state == State::Running;
        let desired = if shadow.is_listed {
            shadow.desired
        } else {
            Desired::Down
        };
        ensure!(status.desired == desired, "{name}: desired is {desired:?}");
        self.check_pursuit(shadow, &status)?;
        self.check_standby(shadow, &status)?;
        let is_down = is_at_rest(status.state);
        let is_wanted = shadow.is_wanted(is_going);
        let since = shadow.unwanted_since.unwrap_or((now, jumped));
        let took = (now - since.0).saturating_sub(jumped - since.1);
        ensure!(
            is_wanted || is_down || took <= LONGEST_STOP,
            "stop_ends: {name} has been stopping for {took:?}: {status:?}"
        );
        if let Some(shadow) = self.shadows.get_mut(name) {
            shadow.unwanted_since = (!is_wanted).then_some(since);
        }
        if is_up && let Some(process) = instance.and_then(|it| self.find(it)) {
            process.was_up = true;
        }
        Ok(())
    }

    /// `standby_has_room`: one is made only beside an instance that is up, and of which nothing earlier is
    /// left; and it stays only where a start may come.
    fn check_standby(&self, shadow: &Shadow, status: &Status<'_>) -> Check {
        let name: &str = status.service;
        let is_alone = self.of(name).all(|it| Some(it.instance) == status.instance);
        let is_wanted = shadow.is_wanted(self.is_going) && shadow.spec.policy.standby;
        let holds = match status.standby {
            StandbyWish::Unwanted => true,
            StandbyWish::Kept => is_wanted && !is_at_rest(status.state),
            StandbyWish::Wanted => {
                let is_up = status.state == State::Running && status.instance.is_some();
                is_wanted && is_up && is_alone && !self.spawning.contains_key(name)
            }
        };
        ensure!(holds, "standby_has_room: {status:?}");
        Ok(())
    }

    /// `up_is_pursued`, and its like for what is on its way down: what the status says is
    /// under way is under way in the world.
    fn check_pursuit(&self, shadow: &Shadow, status: &Status<'_>) -> Check {
        let name: &str = status.service;
        let is_spawning = self.spawning.contains_key(name);
        let spawn = self.spawning.get(name);
        let is_aside = spawn.is_none_or(|attempt| self.rolling.contains(attempt));
        let mut old = self
            .of(name)
            .filter(|it| Some(it.instance) != status.instance);
        let is_leaving = old.next().is_some() || self.is_busy(name);
        let lives = self
            .of(name)
            .any(|it| Some(it.instance) == status.instance && !it.is_release_told);
        let timer = self.supervisor.poll_timeout();
        let holds = match status.state {
            State::Running => lives && is_aside,
            State::Starting if status.instance.is_some() => lives && is_aside,
            State::Waiting => is_aside && self.is_worth_waiting(status),
            State::Starting => is_spawning || is_leaving || self.is_anything_stopping(),
            State::Stopping => {
                let waits = status.waits_for.is_some_and(|names| !names.is_empty());
                lives || is_spawning || is_leaving || waits
            }
            State::Backoff => is_aside && status.next_start.is_some_and(|it| timer <= Some(it)),
            State::Stopped | State::Done | State::Failed | State::Skipped => {
                !is_spawning && !is_leaving && !lives
            }
        };
        ensure!(holds, "up_is_pursued: nothing is behind {status:?}");
        ensure!(
            !shadow.is_wanted(self.is_going) || shadow.may_rest(status),
            "up_is_pursued: no policy allows {status:?}"
        );
        Ok(())
    }

    /// Whether all for which a service waits are on their way up.
    fn is_worth_waiting(&self, status: &Status<'_>) -> bool {
        let mut waits_for = status.waits_for.into_iter().flatten();
        waits_for.all(|name| {
            let status = self.supervisor.status(name);
            let state = status.map(|status| status.state);
            state.is_some_and(|it| it != State::Running && !is_at_rest(it))
        })
    }

    /// Whether a reload may have to wait for something: for all of what was removed or is restarted.
    fn is_anything_stopping(&self) -> bool {
        let mut statuses = self.supervisor.statuses();
        let is_stopping = statuses.any(|status| status.state == State::Stopping);
        let is_leaving =
            self.processes.iter().any(|process| process.exited) || !self.commands.is_empty();
        is_stopping || is_leaving || !self.spawning.is_empty()
    }

    /// Left alone, everything that is wanted runs, from the exec that is wanted.
    fn check_quiet(&self) -> Check {
        for status in self.supervisor.statuses() {
            let Some(shadow) = self.shadows.get(status.service) else {
                return Err(format!("{} should not be known", status.service));
            };
            let process = self
                .of(status.service)
                .find(|process| Some(process.instance) == status.instance);
            let fits = match process {
                Some(process) => {
                    process.is_adopted
                        // The one that was to replace it has failed.
                        || status.last_failure.is_some()
                        || shadow.spec.unusable.is_some()
                        || process.exec == shadow.spec.exec
                }
                None => true,
            };
            ensure!(fits, "up_is_pursued: {status:?} runs an old exec");
            let rests = is_at_rest(status.state);
            ensure!(
                rests || (status.state == State::Running && shadow.is_wanted(self.is_going)),
                "up_is_pursued: left alone, {status:?}"
            );
        }
        ensure!(
            self.requests.is_empty(),
            "one_reply: {} requests were not answered",
            self.requests.len()
        );
        Ok(())
    }

    fn check_end(&self) -> Check {
        ensure!(
            self.requests.is_empty(),
            "one_reply: {} requests were not answered",
            self.requests.len()
        );
        ensure!(
            self.processes.is_empty(),
            "stop_ends: something still lives"
        );
        let mut states = self.supervisor.statuses().map(|status| status.state);
        ensure!(states.all(is_at_rest), "stop_ends: not everything is down");
        ensure!(
            self.ended.is_none() || self.is_over,
            "essential_ends: {:?} has ended, and the agent was not told",
            self.ended
        );
        Ok(())
    }
}

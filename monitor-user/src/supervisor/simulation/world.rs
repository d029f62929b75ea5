//! The world around the supervisor: processes that obey late or not at all, facts that come
//! late, twice, in the wrong order or never, people, and an agent that dies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::tests::default_spec;
use super::super::*;
use super::shadow::{Shadow, Told};
use super::{Check, Random};
use crate::model::*;

/// Nothing that the world owes takes longer, jumps of the clock aside.
const LONGEST_LATENCY: Duration = Duration::from_secs(2);

/// `stop_ends`: the longest stop timeout (that of an unlisted service), and an answer each to
/// the spawn, the signal or kill, the release and the clearing; twice, for a predecessor.
const LONGEST_STOP: Duration = Duration::from_secs(10 + 2 * 4 * 2);

const NAMES: [&str; 3] = ["a", "b", "c"];

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
    is_killed: bool,
    is_adopted: bool,
    born: Instant,
    /// The truth, which the supervisor does not know yet.
    exited: bool,
    /// The cause that was told first.
    told: Option<Death>,
    is_published: bool,
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
        exec: Exec,
    },
    Die(Instance, Cause, Blame),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Start,
    Stop,
    Restart,
    Signal,
    Reload,
    Shutdown,
}

struct Request {
    kind: Kind,
    service: ServiceName,
    /// Which instance a restart is to replace.
    instance: Option<Instance>,
}

pub(super) struct Simulation {
    random: Random,
    /// Everything takes a thousandth of the time, and somebody kills all the time.
    is_hasty: bool,
    supervisor: Supervisor,
    now: Instant,
    /// How far the clock has jumped so far.
    jumped: Duration,
    queue: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    processes: Vec<Process>,
    spawning: BTreeMap<ServiceName, Attempt>,
    shadows: BTreeMap<ServiceName, Shadow>,
    requests: BTreeMap<RequestId, Request>,
    last_request: u64,
    expected_reloads: BTreeMap<RequestId, ReloadSummary>,
    /// Facts that may be told again.
    recent: VecDeque<Fact>,
    is_going: bool,
    /// Nothing from outside any more, and no process ends by itself.
    is_quiet: bool,
    /// Between an agent's start and its first config there is nothing to see.
    is_held: bool,
    /// The actions of a new agent's first config are being read.
    is_resuming: bool,
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
        Self {
            is_hasty: random.chance(10),
            random,
            supervisor: Supervisor::new(),
            now,
            jumped: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            processes: Vec::new(),
            spawning: BTreeMap::new(),
            shadows: BTreeMap::new(),
            requests: BTreeMap::new(),
            last_request: 0,
            expected_reloads: BTreeMap::new(),
            recent: VecDeque::new(),
            is_going: false,
            is_quiet: false,
            is_held: false,
            is_resuming: false,
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
        self.settle("up_is_pursued")?;
        self.check_quiet()?;
        self.request(Kind::Shutdown)?;
        self.settle("stop_ends")?;
        self.check_end()?;
        Ok(self.steps)
    }

    /// Until nothing is under way and no timer is armed.
    fn settle(&mut self, invariant: &str) -> Check {
        for _ in 0..1_000 {
            if self.queue.is_empty() && self.supervisor.poll_timeout().is_none() {
                return Ok(());
            }
            self.advance()?;
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
            } => self.come_through(service, attempt, exec),
            Happening::Die(instance, cause, blame) => {
                self.die(instance, cause, blame);
                Ok(())
            }
        }
    }

    fn time_out(&mut self) -> Check {
        self.note(|_| "timeout".into());
        self.supervisor.handle_timeout(self.now);
        let next = self.supervisor.poll_timeout();
        ensure!(
            next.is_none_or(|next| next > self.now),
            "timers_ahead: {next:?} is not after {:?}",
            self.now
        );
        self.after_step()
    }

    /// Something from outside.
    fn interfere(&mut self) -> Check {
        if self.is_hasty && self.random.chance(99) {
            self.kill_someone();
            return Ok(());
        }
        match self.random.below(100) {
            0..12 => self.request(Kind::Start),
            12..26 => self.request(Kind::Stop),
            26..36 => self.request(Kind::Restart),
            36..42 => self.request(Kind::Signal),
            42..54 => self.request(Kind::Reload),
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
            95..97 => self.time_out(),
            97..99 => self.replace_agent(),
            _ if self.random.chance(10) => self.request(Kind::Shutdown),
            _ => Ok(()),
        }
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
        let twin = self.of(service).find(|process| !process.exited);
        ensure!(
            twin.is_none(),
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
            is_killed: false,
            is_adopted: false,
            born: self.now,
            exited: false,
            told: None,
            is_published: false,
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

    /// The exit becomes final; the facts of it are on their way.
    fn die(&mut self, instance: Instance, cause: Cause, blame: Blame) {
        let knows_uptime = self.random.chance(50);
        let now = self.now;
        let Some(process) = self.alive(instance) else {
            return;
        };
        if self.is_quiet && blame == Blame::Itself {
            return;
        }
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

fn killed_by(signal: Signal) -> Cause {
    Cause::Signaled {
        signal,
        core_dumped: false,
        origin: Origin::default(),
    }
}

// ---- people ----

impl Simulation {
    fn request(&mut self, kind: Kind) -> Check {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let service: ServiceName = self.random.pick(&["a", "b", "c", "a", "b", "d"]).into();
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
            (Kind::Start | Kind::Restart, Some(shadow)) if shadow.is_listed && !is_going => {
                shadow.desired = Desired::Up;
                if kind == Kind::Restart || shadow.told != Some(Told::Started) {
                    shadow.forget_starts();
                }
            }
            (Kind::Stop, Some(shadow)) => shadow.desired = Desired::Down,
            (Kind::Reload, _) => return self.reload(Some(request)),
            (Kind::Shutdown, _) => self.is_going = true,
            _ => {}
        }
        let signal = self.random.pick(&[Signal::HUP, Signal::KILL]);
        let fact = match kind {
            Kind::Start => Fact::StartRequested { service, request },
            Kind::Stop => Fact::StopRequested { service, request },
            Kind::Restart => Fact::RestartRequested { service, request },
            Kind::Signal => Fact::SignalRequested {
                service,
                signal,
                request,
            },
            Kind::Reload | Kind::Shutdown => Fact::ShutdownRequested { request },
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

    fn next_config(&mut self) -> BTreeMap<ServiceName, Arc<Spec>> {
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
                    services.insert(
                        name,
                        Arc::new(Spec {
                            policy,
                            exec,
                            hooks,
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
        spec.exec.arguments = vec![random.pick(&["x", "y", "z"]).to_owned()];
        spec.policy = Policy {
            restart: random.pick(&[
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::OnFailure,
                RestartPolicy::No,
            ]),
            restart_delay: Duration::from_millis(random.pick(&[0, 0, 50, 1_000])),
            restart_max_delay: Duration::from_millis(random.pick(&[500, 5_000, 30_000])),
            stable_after: Duration::from_secs(random.pick(&[1, 10])),
            start_limit: random.pick(&[None, None, limit(1, 1), limit(3, 5), limit(5, 10)]),
            success_exit_status: vec![0],
            stop_signal: random.pick(&[Signal::TERM, Signal::INT, Signal::KILL]),
            stop_timeout: Duration::from_secs(random.pick(&[0, 1, 5])),
            stop_mode: random.pick(&[
                StopMode::Group,
                StopMode::Group,
                StopMode::Mixed,
                StopMode::Main,
            ]),
            start_check: Duration::from_secs(random.pick(&[0, 1])),
            overlap: random.chance(50),
            ..Policy::default()
        };
        spec
    }

    /// What the shadows make of a config; returns what a reload has to say of it.
    fn take_config(&mut self, services: &BTreeMap<ServiceName, Arc<Spec>>) -> ReloadSummary {
        let mut summary = ReloadSummary::default();
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
                    }
                    shadow.take_spec(Arc::clone(spec));
                    if self.is_resuming {
                        shadow.resume();
                    }
                }
                Some(shadow) => {
                    summary.added.push(name.to_string());
                    shadow.is_listed = true;
                    if !self.is_resuming {
                        shadow.desired = Desired::Up;
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
        summary
    }
}

impl Simulation {
    /// Whether a listed service is to be started anew for this spec.
    fn is_new_exec(&self, name: &ServiceName, spec: &Spec) -> bool {
        let Some(shadow) = self.shadows.get(name) else {
            return false;
        };
        if shadow.spec.unusable.is_none() {
            return spec.unusable.is_none() && shadow.spec.exec != spec.exec;
        }
        // What an instance ran of which nothing else is known is known by its fingerprint.
        let memory = self.supervisor.memory(name, self.now);
        let ran = memory.and_then(|memory| memory.exec);
        let status = self.supervisor.status(name);
        let runs = status.is_some_and(|status| status.state == State::Running);
        *shadow.spec != *spec && !(runs && ran.is_none_or(|ran| ran == spec.exec.fingerprint()))
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
    fn learn(&mut self, fact: &Fact) {
        match fact {
            Fact::Spawned {
                service, attempt, ..
            }
            | Fact::SpawnFailed {
                service, attempt, ..
            } if self.spawning.get(service) == Some(attempt) => {
                self.spawning.remove(service);
            }
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
        let is_beside = self.of(service).count() > 1;
        let Some(shadow) = self.shadows.get_mut(service) else {
            return;
        };
        // Between two agents it is not known yet which policy it will be judged by.
        if is_held || uptime >= shadow.spec.policy.stable_after {
            shadow.forget_starts();
        }
        let was_stable = |uptime| uptime >= shadow.spec.policy.stable_after;
        shadow.is_fresh = !is_held && death.uptime.is_some_and(was_stable);
        let is_counted = shadow.told == Some(Told::Started);
        shadow.is_unseen = is_counted && death.cause == Cause::Unknown;
        let is_mended = death.blame == Blame::SomeoneElse || is_beside && !was_stable(uptime);
        shadow.is_free = is_counted && !shadow.is_unseen && is_mended;
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
        if self.is_going {
            return Ok(());
        }
        self.note(|_| "the agent dies".into());
        let names: BTreeSet<ServiceName> = self.shadows.keys().cloned().collect();
        let memories: BTreeMap<ServiceName, Memory> = names
            .iter()
            .filter_map(|name| Some((name.clone(), self.supervisor.memory(name, self.now)?)))
            .collect();
        self.supervisor = Supervisor::new();
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
        let tried = std::mem::take(&mut self.spawning);
        self.lose_what_was_under_way()?;
        for (service, attempt) in tried {
            let has_come = self.of(&service).any(|process| process.attempt == attempt);
            let ran = memories.get(&service).and_then(|memory| memory.exec);
            if let Some(shadow) = self.shadows.get_mut(&service)
                && !has_come
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
        let resumed = self.reload(None);
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
                        self.bear(&service, attempt, exec)?;
                    }
                }
                die @ Happening::Die(..) => drop(self.queue.insert(key, die)),
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
        let mut states = self.supervisor.statuses().map(|status| status.state);
        ensure!(
            self.supervisor.poll_timeout().is_none()
                || states.any(|state| {
                    matches!(state, State::Backoff | State::Stopping | State::Running)
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
                self.replied(request, &Reply::Done)?;
                self.signal(instance, signal);
                Ok(())
            }
            Action::Stop {
                service,
                instance,
                signal,
                reach,
            } => {
                self.signal(instance, signal);
                self.stop(service, instance, reach)
            }
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
            Action::Publish(notice) => self.published(&notice),
        }
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
            Clear::Leave => process.stop_sent = None,
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
        shadow.spawning(self.now)?;
        let (exec, overlap) = (shadow.spec.exec.clone(), shadow.spec.policy.overlap);
        let old = self.of(&service).count();
        ensure!(
            old <= usize::from(overlap),
            "one_predecessor: {service} has {old} old instances, overlap {overlap}"
        );
        ensure!(
            self.of(&service).all(|process| process.exited),
            "one_live: {service} is spawned while it lives"
        );
        ensure!(
            self.spawning.insert(service.clone(), attempt).is_none(),
            "one_live: {service} is spawned twice"
        );
        let happening = Happening::Spawn {
            service,
            attempt,
            exec,
        };
        self.later(Duration::from_millis(50), happening);
        Ok(())
    }

    fn published(&mut self, notice: &Notice) -> Check {
        let service = match notice {
            Notice::EventsLost { .. } => return Ok(()),
            Notice::Started { service, .. }
            | Notice::Adopted { service, .. }
            | Notice::Exited { service, .. }
            | Notice::ChildExited { service, .. }
            | Notice::Stopping { service, .. }
            | Notice::Stopped { service }
            | Notice::Backoff { service, .. }
            | Notice::WentToBackground { service, .. }
            | Notice::Failed { service, .. } => service.clone(),
        };
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
        let is_empty = self.of(service).next().is_none() && !self.spawning.contains_key(service);
        let is_wanted = self
            .shadows
            .get(service)
            .is_some_and(|shadow| shadow.is_wanted(self.is_going));
        let is_finished = status.as_ref().is_some_and(|status| {
            let is_ending = matches!(status.state, State::Stopping | State::Stopped);
            let cause = status.last_exit.map(|death| &death.cause);
            is_ending && cause == Some(&Cause::Exited { code: 0 })
        });
        let is_true = match (reply, asked.kind) {
            (Reply::Done, Kind::Start) => live.is_some() || is_finished,
            (Reply::Done, Kind::Restart) => live.is_some() && live != asked.instance || is_finished,
            (Reply::Done, Kind::Stop) => is_empty && !is_wanted,
            (Reply::Done, Kind::Signal) => live.is_some(),
            (Reply::Done, Kind::Shutdown) => self.processes.is_empty() && self.spawning.is_empty(),
            (Reply::Reloaded(summary), Kind::Reload) => {
                let failed = summary.failed.clone();
                let expected = self.expected_reloads.remove(&request);
                expected.is_some_and(|expected| *summary == ReloadSummary { failed, ..expected })
            }
            (Reply::Denied(reason), kind) => match reason {
                DeniedReason::UnknownService(_) => {
                    let shadow = self.shadows.get(service);
                    shadow.is_none_or(|shadow| !shadow.is_listed)
                }
                DeniedReason::NotRunning(_) => kind == Kind::Signal && live.is_none(),
                DeniedReason::StartFailed { .. } => {
                    matches!(kind, Kind::Start | Kind::Restart) && live.is_none()
                }
                DeniedReason::Overtaken { .. } => (kind == Kind::Stop) == is_wanted,
                // Of the agent alone.
                DeniedReason::NotLoaded { .. }
                | DeniedReason::NotSent { .. }
                | DeniedReason::NotRemembered(_) => false,
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
        let desired = if shadow.is_listed {
            shadow.desired
        } else {
            Desired::Down
        };
        ensure!(status.desired == desired, "{name}: desired is {desired:?}");
        self.check_pursuit(shadow, &status)?;
        let is_down = matches!(status.state, State::Stopped | State::Failed);
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
        Ok(())
    }

    /// `up_is_pursued`, and its like for what is on its way down: what the status says is
    /// under way is under way in the world.
    fn check_pursuit(&self, shadow: &Shadow, status: &Status<'_>) -> Check {
        let name: &str = status.service;
        let is_spawning = self.spawning.contains_key(name);
        let mut old = self
            .of(name)
            .filter(|it| Some(it.instance) != status.instance);
        let is_leaving = old.next().is_some();
        let lives = self
            .of(name)
            .any(|it| Some(it.instance) == status.instance && !it.is_release_told);
        let timer = self.supervisor.poll_timeout();
        let holds = match status.state {
            State::Running => lives && !is_spawning,
            State::Starting => is_spawning || is_leaving || self.is_anything_stopping(),
            State::Stopping => lives || is_spawning || is_leaving,
            State::Backoff => !is_spawning && status.next_start.is_some_and(|it| timer <= Some(it)),
            State::Stopped | State::Failed => !is_spawning && !is_leaving && !lives,
        };
        ensure!(holds, "up_is_pursued: nothing is behind {status:?}");
        ensure!(
            !shadow.is_wanted(self.is_going) || shadow.may_rest(status),
            "up_is_pursued: no policy allows {status:?}"
        );
        Ok(())
    }

    /// Whether a reload may have to wait for something: for all of what was removed or is restarted.
    fn is_anything_stopping(&self) -> bool {
        let mut statuses = self.supervisor.statuses();
        let is_stopping = statuses.any(|status| status.state == State::Stopping);
        let is_leaving = self.processes.iter().any(|process| process.exited);
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
                        || shadow.spec.unusable.is_some()
                        || process.exec == shadow.spec.exec
                }
                None => true,
            };
            ensure!(fits, "up_is_pursued: {status:?} runs an old exec");
            let rests = matches!(status.state, State::Stopped | State::Failed);
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
        ensure!(
            states.all(|state| matches!(state, State::Stopped | State::Failed)),
            "stop_ends: not everything is down"
        );
        Ok(())
    }
}

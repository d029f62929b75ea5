//! The agent: joins the parts in one loop on one thread.
//!
//! What becomes of a service is the supervisor's to decide. The agent decides how its own work is done: how many
//! deaths and starts it handles in a turn (`ends`, `start_queue`), when it tries again what failed, when its logger is
//! started again (`output`), and which process may speak for a service (`hearing`).
//!
//! ```text
//! ring ─▶ decode ─┐                        ┌─▶ instances (start, signal, kill)
//! pidfds, SIGCHLD ─┼─▶ supervisor ─actions─┼─▶ journal
//! control, timer ──┘        │              └─▶ requests (answers)
//!                           └─changed──▶ memory (for the next agent)
//! config ─▶ supervisor, and last_good (for the next agent, if it cannot be loaded then)
//! ```
//!
//! Woken by these, and by nothing else: it never polls.

mod children;
mod commands;
mod due;
mod ends;
mod fd_store;
mod hearing;
mod hooks;
mod instances;
mod last_good;
mod late;
mod lock;
mod memory;
mod notices;
mod notify;
mod output;
mod pool;
mod probes;
mod publish;
mod readiness;
mod records;
mod recovery;
mod reloads;
mod requests;
mod restore;
mod runtime_dir;
mod service_files;
mod show;
mod sockets;
mod spare;
mod standby;
mod start_queue;
mod starts;
mod steps;
mod unwatched;
mod upgrade;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use self::due::Due;
use self::ends::{DEATHS_AT_ONCE, Forgettable};
use self::fd_store::FdStore;
use self::hooks::HookRunner;
use self::instances::{Ground, Instances};
use self::last_good::LastGood;
use self::late::LateStarts;
use self::lock::Lock;
pub(crate) use self::lock::is_locked;
use self::memory::MemoryDir;
use self::notices::Notices;
use self::notify::Notify;
use self::output::Outputs;
use self::pool::Pool;
use self::probes::{Job, Probes};
use self::readiness::Readiness;
use self::reloads::Reloads;
use self::requests::Requests;
use self::restore::Restoring;
use self::service_files::ServiceFiles;
use self::sockets::{Donors, Sockets};
use self::standby::Standbys;
use self::start_queue::StartQueue;
use self::steps::Steps;
use self::unwatched::Unwatched;
use crate::clock::{self};
use crate::config::{self, AgentConfig, Config, Essential, Invalid, Surroundings};
use crate::control::{self, Groups, Server};
use crate::decode::{self, Birth};
use crate::init::rearm::SpareKeeper;
use crate::journal::Journal;
use crate::manager::{self, Manager};
use crate::model::{
    DeniedReason, Desired, Event, Exec, Instance, Memory, Notice, Ready, Reply, Request,
    ServiceName, Signal, State, Status, Unusable, What,
};
use crate::os::cgroup::{self, Refused};
use crate::os::spawn::raise_fd_limit;
use crate::os::{self, pidfd, proc, progress};
use crate::probe::{self, KernelProbe, PinDir, sets};
use crate::prober::Order;
use crate::supervisor::{Action, Fact, RequestId, Supervisor};
use crate::text;

/// Until what could not be done is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// For so many processes of each service the kernel is to have room: an instance may start while
/// another one ends, and a reload may add services.
const WATCHED_PER_SERVICE: usize = 4;

/// What `respawn agent` was told.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The config directory.
    pub(crate) config: PathBuf,
    /// Where socket, lock, journal and state are.
    pub(crate) runtime_dir: PathBuf,
    /// Where the kernel side is pinned.
    pub(crate) pin_dir: PathBuf,
    /// The kernel's BTF, if it is elsewhere.
    pub(crate) btf: Option<PathBuf>,
    /// Another kernel object than the binary's.
    pub(crate) object: Option<PathBuf>,
    /// Size of the kernel's ring in bytes, if another than usual.
    pub(crate) ring_bytes: Option<u32>,
    /// How many processes the kernel may watch at most.
    pub(crate) most_watched: u32,
    /// Whether this one ends with an essential service, and with its services at a signal.
    pub(crate) exit_with_essential: bool,
}

impl Options {
    /// Whether the agent's end is that of its services: always, where it is PID 1 of a container.
    fn ends_with_services(&self) -> bool {
        self.exit_with_essential || std::process::id() == 1
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            essential: match self.ends_with_services() {
                true => Essential::Heeded,
                false => Essential::Refused,
            },
            ..Surroundings::of_this_process()
        }
    }
}

/// How often an agent that finds another at work without a lock waits for that one to take it, and
/// how long each time: longer than the other one takes to try again.
const MOST_REFUSALS: u32 = 5;
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(2500);

/// Runs the agent until it is told to end, or an error at its start.
///
/// # Errors
/// Why it cannot start.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    manager::end_late(start_and_work(options))
}

fn start_and_work(options: &Options) -> Result<ExitCode> {
    let manager = Manager::of_this_process();
    let mut refusals = 0;
    let mut pool = Pool::of(&options.runtime_dir);
    loop {
        let mut has_waited = false;
        let waits = |holder: Option<&lock::Holder>| {
            let words = waiting(&options.runtime_dir, holder);
            tracing::info!("{words}");
            tell_terminal(&words);
            manager.ready("the spare");
            has_waited = true;
        };
        let (dir, config) = (&options.runtime_dir, &options.config);
        let lock = lock::take(dir, config, &manager, &mut pool, waits)?;
        let Some(lock) = lock else {
            return Ok(end_with_the_agent());
        };
        if has_waited {
            upgrade::become_the_new_one(&pool);
        }
        let error = match claim_ground(options) {
            Ok(ground) => return work_on(options, lock, ground, manager, pool),
            Err(error) => error,
        };
        if !error.is::<Refused>() {
            return Err(error);
        }
        if refusals == MOST_REFUSALS {
            bail!(
                "{error:#}, and does not hold the lock in {}; end that agent first",
                options.runtime_dir.display()
            );
        }
        // Its lock was removed. It takes this one as soon as it sees that, if it is not too old.
        refusals += 1;
        tracing::warn!("{error:#}, and its lock was removed: waiting for it to take this one");
        let look = lock.look();
        drop(lock);
        std::thread::sleep(PAUSE_AFTER_REFUSAL);
        if look.is_some_and(|look| look.was_shut_down()) {
            return Ok(end_with_the_agent());
        }
    }
}

fn end_with_the_agent() -> ExitCode {
    let words = "the agent was shut down, and its spare ends with it";
    tracing::info!("{words}");
    tell_terminal(words);
    ExitCode::SUCCESS
}

fn work_on(
    options: &Options,
    lock: Lock,
    ground: Ground,
    manager: Manager,
    pool: Pool,
) -> Result<ExitCode> {
    if let Err(error) = progress::begin(&options.runtime_dir, myself()?) {
        tracing::warn!("a spare will not see it if this agent is stopped or stuck: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_unpark(|| {
            due::begin_work();
            progress::count();
        })
        .on_thread_park(due::end_work)
        .build()?;
    runtime.block_on(async {
        let mut agent = Agent::start(options, lock, ground, manager, pool)?;
        tell_terminal(&agent.about());
        agent.work().await;
        let (was_shut_down, status) = (agent.ended, agent.status);
        tell_terminal(match was_shut_down {
            true => "the agent ends, and no service runs any more",
            false => "the agent ends; its services keep running, for the next agent to adopt",
        });
        let lock = agent.finish().await;
        if was_shut_down {
            lock.retire();
        }
        Ok(ExitCode::from(status))
    })
}

/// Says something to a person who has started an agent or a recorder by hand. Elsewhere standard error is a log.
pub(crate) fn tell_terminal(words: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // Nobody is left to tell if that fails.
        let _ = writeln!(stderr, "respawn: {}", text::printable_lines(words));
    }
}

/// What a spare says that waits.
fn waiting(runtime_dir: &Path, holder: Option<&lock::Holder>) -> String {
    // A connection would be something due for an agent that is stopped.
    let known = holder.map(|holder| holder.pid);
    let agent = match known.map_or_else(|| control::client::reach(runtime_dir).map(|it| it.1), Ok) {
        Ok(pid @ 1..) => format!("pid {pid}"),
        _ => "an agent that is not known yet".to_owned(),
    };
    format!(
        "spare of {agent}: another agent works in {}; this one is its spare, and waits for its end",
        runtime_dir.display()
    )
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    End,
}

struct Agent {
    options: Options,
    lock: Lock,
    /// What to do when somebody removes the runtime directory.
    restoring: Restoring,
    surroundings: Surroundings,
    /// The config in use.
    config: Config,
    /// Its files, as they were.
    service_files: ServiceFiles,
    /// There may be more in its files than it has.
    config_has_grown: bool,
    supervisor: Supervisor,
    instances: Instances,
    probe: Option<KernelProbe>,
    /// Nobody else uses the pins.
    pins: Option<PinDir>,
    unwatched: Unwatched,
    /// This process, as the kernel's mark names it.
    myself: Instance,
    lost: u64,
    /// How many records beside the ring had been looked for.
    spilled: u64,
    /// How often the kernel had skipped the exit programs when the instances were last compared.
    skipped: u64,
    memory: MemoryDir,
    last_good: LastGood,
    journal: Journal,
    journal_failed: bool,
    /// The cgroups that the kernel watches for each instance's other processes.
    trees: HashMap<Instance, u64>,
    /// Whose they are, by the numbers of the kernel's records.
    families: HashMap<u64, ServiceName>,
    /// What is still to be done, in order.
    actions: VecDeque<Action>,
    /// Starts for a later turn of the loop.
    start_queue: StartQueue,
    /// Starts that take their time.
    late: LateStarts,
    hooks: HookRunner,
    probes: Probes,
    reloads: Reloads,
    steps: Steps,
    readiness: Readiness,
    outputs: Outputs,
    notify: Notify,
    sockets: Sockets,
    fd_store: FdStore,
    standbys: Standbys,
    /// What instances say of themselves, in words.
    says: BTreeMap<ServiceName, (Instance, String)>,
    notices: Notices,
    told: Forgettable,
    server: Server,
    requests: Requests,
    signals: Signals,
    /// Under an init that puts aside what dies too often.
    spares: Option<SpareKeeper>,
    /// Services whose memory could not be written.
    unremembered: BTreeSet<ServiceName>,
    /// When to try again what could not be done.
    try_again_at: Option<Instant>,
    /// For the spare.
    due: Due,
    /// For who started this process.
    manager: Manager,
    /// The request whose answer ends the agent.
    shutdown: Option<RequestId>,
    ended: bool,
    /// The exit status.
    status: u8,
}

/// Who may use the control socket, beside root and the agent's own user.
fn groups(config: &AgentConfig) -> Groups {
    Groups {
        access: config.access_group,
        status: config.status_group,
    }
}

struct Signals {
    child: SignalStream,
    hangup: SignalStream,
    interrupt: SignalStream,
    terminate: SignalStream,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

impl Agent {
    #[allow(clippy::too_many_lines, reason = "a line for each part of the agent")]
    fn start(
        options: &Options,
        lock: Lock,
        ground: Ground,
        manager: Manager,
        pool: Pool,
    ) -> Result<Self> {
        let signals = Signals::listen()?;
        let surroundings = options.surroundings();
        let last_good = LastGood::of(&options.runtime_dir);
        let config = config::load(&options.config, &surroundings)
            .or_else(|invalid| last_good.instead_of(invalid))
            .or_else(usable_part)?;
        log_warnings(&config);
        let fd_limit = ground.fd_limit();
        pidfd::become_subreaper().context("cannot become the reaper of orphans")?;
        let (group, groups) = (config.agent.access_group, groups(&config.agent));
        let runtime_dir = &options.runtime_dir;
        let (probe, pins) = load_probe(options, config.services.len());
        // To read the kernel's types takes much for a moment.
        os::give_back_memory();
        let mut notices = Notices::default();
        notices.set(&config.agent.notices);
        let environment = surroundings.for_services();
        let settings = &config.agent;
        let hooks = HookRunner::new(environment, runtime_dir, settings.max_hooks, fd_limit)?;
        let journal = Journal::open(runtime_dir, settings.journal_max_size, group)?;
        let (lost, skipped) = figures(probe.as_ref());
        let mut agent = Self {
            surroundings,
            service_files: ServiceFiles::of(&config, &options.config),
            config,
            config_has_grown: false,
            supervisor: supervisor(options),
            instances: Instances::new(ground, place(runtime_dir))?,
            lost,
            // Before they are looked at: who comes meanwhile is looked for again.
            spilled: probe.as_ref().map_or(0, KernelProbe::spilled),
            skipped,
            probe,
            pins,
            unwatched: Unwatched::default(),
            myself: myself()?,
            memory: MemoryDir::open(runtime_dir)?,
            last_good,
            journal,
            journal_failed: false,
            trees: HashMap::new(),
            families: HashMap::new(),
            actions: VecDeque::new(),
            start_queue: StartQueue::default(),
            late: LateStarts::default(),
            hooks,
            probes: Probes::new(fd_limit)?,
            reloads: Reloads::new(fd_limit)?,
            steps: Steps::new(fd_limit)?,
            readiness: Readiness::of(runtime_dir),
            outputs: Outputs::of(runtime_dir, fd_limit)?,
            notify: Notify::of(runtime_dir, pool.notify)?,
            fd_store: FdStore::of(runtime_dir, pool.stored)?,
            sockets: Sockets::of(runtime_dir, pool.sockets),
            standbys: Standbys::new(),
            says: BTreeMap::new(),
            notices,
            told: Forgettable::default(),
            server: Server::bind(&control::socket(runtime_dir), groups)?,
            requests: Requests::default(),
            signals,
            spares: SpareKeeper::new(runtime_dir, Self::now()),
            unremembered: BTreeSet::new(),
            try_again_at: None,
            due: Due::new()?,
            manager,
            shutdown: None,
            ended: false,
            status: 0,
            restoring: Restoring::of(runtime_dir),
            lock,
            options: options.clone(),
        };
        agent.record(Event::new(
            clock::now(),
            None,
            What::AgentStarted {
                pid: std::process::id(),
                version: Cow::Borrowed(env!("CARGO_PKG_VERSION")),
            },
        ));
        // Nobody has it until the services are known.
        agent.told = agent.recover()?;
        // Before an instance is stopped that has them open.
        agent.adopt_sockets();
        agent.adopt_stored();
        agent.set_outputs(&agent.config.services.clone());
        agent.tell(Fact::Configured {
            services: agent.config.services.clone(),
            request: None,
        });
        let supervisor = &agent.supervisor;
        let is_there = |service: &str| supervisor.status(service).is_some();
        agent.outputs.forget_others(is_there);
        let services = agent.config.services.keys();
        agent.instances.prune_cgroups(services);
        agent.adopt_notify_sockets();
        agent.hear_first();
        agent.release_unwanted_sockets();
        // The kernel wakes nobody for a record that came after one that was not taken out.
        agent.drain_ring();
        agent.check_loss();
        agent.last_good.keep(&agent.config);
        agent.show();
        Ok(agent)
    }

    /// From now on a spare sees what is due.
    fn show(&self) {
        let due = &self.due;
        let ring = self.probe.as_ref().map(|probe| due.add(probe));
        let added = ring
            .unwrap_or(Ok(()))
            .and_then(|()| due.add_loop())
            .and_then(|()| due.add(&self.instances))
            .and_then(|()| due.add(&self.server));
        if let Err(error) = added {
            tracing::warn!("a spare does not see all that is due: {error}");
        }
        progress::started(due.as_fd());
        self.manager.ready("the agent");
    }

    /// What an agent says that takes up work.
    fn about(&self) -> String {
        let services = match self.supervisor.statuses().count() {
            1 => "1 service".to_owned(),
            count => format!("{count} services"),
        };
        let config = self.options.config.display();
        let dir = self.options.runtime_dir.display();
        let end = match self.options.ends_with_services() {
            true => "SIGTERM stops them and ends it",
            false => "Ctrl-C ends it and leaves them running, `respawn shutdown` stops them first",
        };
        let pid = std::process::id();
        format!("agent started, pid {pid}: {services} of {config}, controlled through {dir}; {end}")
    }

    /// Has the kernel report an instance's exit. Without it the pidfd tells.
    fn watch(&mut self, instance: Instance, birth: Birth) {
        if let Some(probe) = &mut self.probe
            && let Err(error) = probe.watch(instance, birth)
        {
            match error.downcast_ref() {
                Some(room) => self.unwatched.add(instance, *room),
                None => tracing::warn!(pid = instance.pid, "{error:#}"),
            }
        }
    }

    /// Until it is told to end.
    async fn work(&mut self) {
        let mut flow = Flow::GoOn;
        while flow == Flow::GoOn && !self.ended && !self.restoring.gives_way {
            progress::count();
            if std::mem::take(&mut self.config_has_grown) {
                self.reload_usable();
            }
            self.notices.flush();
            let more_hooks = self.start_hook();
            let more_standbys = self.make_standby();
            let more_starts = !self.start_queue.is_empty();
            let deadlines = [
                self.supervisor.poll_timeout(),
                self.hooks.poll_timeout(),
                self.probes.poll_timeout(),
                self.reloads.poll_timeout(),
                self.steps.poll_timeout(),
                self.standbys.poll_timeout(),
                self.late.poll_timeout(),
                self.next_try(),
                self.outputs.poll_timeout(),
                self.manager.poll_timeout(Self::now()),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            self.due.set_deadline(deadline, Self::now());
            let timer = async {
                match deadline {
                    _ if more_hooks || more_standbys || more_starts => (),
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let ring = async {
                match &mut self.probe {
                    Some(probe) => probe.readable().await,
                    None => std::future::pending().await,
                }
            };
            let spares = async {
                match &mut self.spares {
                    Some(spares) => spares.work(Self::now).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ready = ring => self.read_ring(ready),
                ready = self.instances.ready() => self.read_pidfds(ready),
                _ = self.signals.child.recv() => self.reap(),
                () = timer => self.handle_timeout(),
                incoming = self.server.next() => self.obey(incoming),
                () = self.notices.writable() => (),
                () = self.restoring.needed() => self.restore(),
                written = self.readiness.needed() => self.read_readiness(written),
                () = self.outputs.logger_ended() => self.outputs.replace_logger(Self::now()),
                ready = self.notify.needed() => self.read_notifications(ready),
                ready = self.fd_store.needed() => self.drop_hung_up(ready),
                changed = self.standbys.needed() => self.standbys.changed(changed, Self::now()),
                _ = self.signals.hangup.recv() => self.reload_unasked(),
                _ = self.signals.interrupt.recv() => flow = self.end(),
                _ = self.signals.terminate.recv() => flow = self.end(),
                () = spares => {}
            }
        }
    }

    /// Lets the last answers out. The services stay.
    async fn finish(mut self) -> Lock {
        let pid = std::process::id();
        self.record(Event::new(clock::now(), None, What::AgentStopped { pid }));
        self.hooks.finish(Self::now());
        if self.ended {
            self.unpin();
            self.instances.remove_cgroups();
            self.outputs.finish(Self::now()).await;
        }
        drop(self.requests);
        self.notices.finish().await;
        self.server.finish().await;
        self.lock
    }

    /// After a shutdown there is nothing left to remember.
    fn unpin(&mut self) {
        self.probe = None;
        if let Some(Err(error)) = self.pins.take().map(|pins| pins.clear()) {
            tracing::warn!("{error:#}");
        }
        // An agent before this one may have had another pin directory.
        let dir = canonical(&self.options.runtime_dir);
        if let Err(error) =
            sets::of_agent(&dir, place(&dir), &self.options.pin_dir).and_then(sets::remove_all)
        {
            tracing::warn!("{error:#}");
        }
    }

    /// PID 1 of a container takes its services with it, so they are stopped in order first.
    fn end(&mut self) -> Flow {
        if !self.options.ends_with_services() {
            return Flow::End;
        }
        self.record_requested(None, &Request::Shutdown, None, None);
        let request = self.requests.nobody();
        self.shut_down(request);
        Flow::GoOn
    }

    fn end_with(&mut self, service: &ServiceName, status: u8) -> Option<Fact> {
        tracing::info!(%service, "it is essential and has ended: the agent ends with {status}");
        (self.ended, self.status) = (true, status);
        None
    }

    fn shut_down(&mut self, request: RequestId) {
        self.shutdown = Some(request);
        self.tell(Fact::ShutdownRequested { request });
    }

    /// Goes on holding the sockets that an earlier agent has held for services.
    fn adopt_sockets(&mut self) {
        for service in self.sockets.recorded() {
            progress::count();
            let donors = Donors::of(&self.instances, &service);
            self.sockets.adopt(&service, &donors);
        }
        self.sockets.forget_pool();
    }

    /// Closes the sockets of services that are down, or not there.
    fn release_unwanted_sockets(&mut self) {
        for service in self.sockets.services() {
            self.tend_sockets(&service);
        }
        for service in self.fd_store.services() {
            self.tend_stored(&service);
        }
    }

    /// Whether a service is to be up, now or before long.
    fn is_up(&self, service: &ServiceName) -> bool {
        self.supervisor.status(service).is_some_and(|status| {
            status.desired == Desired::Up
                && !matches!(
                    status.state,
                    State::Stopped | State::Done | State::Failed | State::Skipped
                )
        })
    }

    /// Closes the sockets of a service that is to be down, or will not be started again.
    fn tend_sockets(&mut self, service: &ServiceName) {
        if !self.sockets.has(service) {
            return;
        }
        if !self.is_up(service) {
            let status = self.supervisor.status(service);
            let lives = status.is_some_and(|status| status.instance.is_some());
            self.release_sockets(service, lives);
        }
    }

    fn release_sockets(&mut self, service: &ServiceName, lives: bool) {
        if self.sockets.has(service) {
            // What is laid out for the next start has them open too.
            self.instances.lay_out_again(service);
            self.sockets.release(service, lives);
        }
    }

    /// Starts a hook, if one waits and may run; `true`: there may be more. Those come first who have
    /// died meanwhile, so that no service's start is delayed by more than one of a hook.
    fn start_hook(&mut self) -> bool {
        if !self.hooks.has_room() {
            return false;
        }
        self.read_pidfds(Ok(()));
        let supervisor = &self.supervisor;
        let is_coming_back = |service: &ServiceName| {
            let status = supervisor.status(service);
            let is_between = |it: Status<'_>| it.state == State::Starting && it.instance.is_none();
            status.is_some_and(is_between)
        };
        self.hooks.start_next(Self::now(), is_coming_back)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the agent's loop is where time is read"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    fn handle_timeout(&mut self) {
        // What has been said in time counts, whatever kept this agent from reading it.
        self.read_notifications(Ok(()));
        let now = Self::now();
        if self.supervisor.poll_timeout().is_some_and(|at| at <= now) {
            // It may be the time of one that is not ready, and then it is told why.
            for fact in self.probes.not_ready() {
                self.supervisor.handle_fact(fact, now);
            }
        }
        self.manager.handle_timeout(now);
        self.hooks.handle_timeout(now);
        self.outputs.handle_timeout(now);
        self.probes.handle_timeout(now);
        self.reloads.handle_timeout(now);
        self.steps.handle_timeout(now);
        self.standbys.handle_timeout(now);
        self.finish_late();
        self.supervisor.handle_timeout(now);
        self.settle();
        if self.try_again_at.is_some_and(|at| at <= now) {
            self.try_again();
        }
    }

    /// Tells the supervisor several facts, and what the kernel may forget after each. Of different
    /// services, many are told before anything that follows from them is done, so that those that
    /// ended together are started side by side.
    fn tell_together(&mut self, facts: Vec<(Option<Fact>, Forgettable)>) {
        let mut services = BTreeSet::new();
        for (fact, told) in facts {
            let service = fact.as_ref().and_then(Fact::service);
            if service.is_some_and(|service| services.contains(service))
                || services.len() >= DEATHS_AT_ONCE
            {
                self.settle();
                services.clear();
            }
            services.extend(service.cloned());
            self.told.add(told);
            if let Some(fact) = fact {
                let exited = match &fact {
                    Fact::ProcessExited { instance, .. } => Some(*instance),
                    _ => None,
                };
                self.supervisor.handle_fact(fact, Self::now());
                if let Some(instance) = exited {
                    self.look_for_release(instance);
                }
            }
        }
        self.settle();
        // Nothing may follow from the last one.
        self.let_kernel_forget();
    }

    /// Tells the supervisor a fact, and does all that follows from it.
    fn tell(&mut self, fact: Fact) {
        self.supervisor.handle_fact(fact, Self::now());
        self.settle();
    }

    /// What is to be remembered is written before what follows from it is done: the next agent
    /// then knows of everything that was answered. In between the journal is written, and the
    /// kernel forgets: whenever this agent dies, an exit is known to the next one until it is in
    /// the journal, and not told again by it. Starts alone do not wait for the journal.
    fn settle(&mut self) {
        self.start_queue.begin_turn();
        // Whose memory was written, and which exits it says are not in the journal.
        let mut changed = BTreeMap::new();
        // What is published after the next starts, and what is published first.
        let (mut later, mut notices) = (Vec::new(), Vec::new());
        loop {
            self.take_actions(&mut notices);
            let may_wait = notices.iter().all(|notice| self.may_be_told_later(notice));
            // On the way from an exit to the next start, one write is enough: a tree that is cleared away is
            // no answer to anybody, and is cleared again by the next agent. It needs an exit's record for that.
            if (notices.is_empty() || may_wait && self.probe.is_some())
                && let Some(Action::ClearTree { .. }) = self.actions.front()
                && let Some(action) = self.actions.pop_front()
            {
                self.perform(action);
                continue;
            }
            let is_start = matches!(self.actions.front(), Some(Action::Spawn { .. })) && may_wait;
            if !is_start {
                // In memory since before the start.
                self.publish_all(&mut later);
            }
            later.append(&mut notices);
            let mut untold = untold(&later);
            while let Some(service) = self.supervisor.next_changed() {
                let of_service = untold.remove(&service).unwrap_or_default();
                self.remember(&service, &of_service);
                // Before anybody is told that the service is down.
                self.tend_standby(&service);
                changed.insert(service, of_service);
            }
            if !is_start {
                self.publish_all(&mut later);
                self.let_kernel_forget();
            }
            let Some(action) = self.actions.pop_front() else {
                break;
            };
            self.perform(action);
        }
        for (service, told) in changed {
            // At the release of the process the file is written anyway. Until then the next agent finds in
            // the journal what was told.
            if !told.iter().all(|it| self.instances.is_main(*it)) {
                self.remember(&service, &[]);
            }
            self.tend_probes(&service);
            self.tend_sockets(&service);
            self.tend_stored(&service);
        }
        if let Some(pins) = &mut self.pins {
            pins.is_at_work();
        }
    }

    /// Has that looked at of a service which is to be looked at now.
    fn tend_probes(&mut self, service: &ServiceName) {
        let spec = self.supervisor.spec(service);
        let exec = spec.map(|spec| &spec.exec);
        let probe = exec.and_then(|exec| match &exec.ready {
            Some(Ready::Probe(probe)) => Some(probe),
            _ => None,
        });
        let check = spec.and_then(|spec| spec.check.as_ref());
        if probe.is_none() && check.is_none() && !self.probes.has(service) {
            return;
        }
        let status = self.supervisor.status(service);
        let job = status.and_then(|status| {
            let order = match status.state {
                State::Starting => Order::Ready(probe?.clone()),
                State::Running => Order::Check(check?.clone()),
                _ => return None,
            };
            let instance = status.instance?;
            Some(Job { instance, order })
        });
        let instances = &self.instances;
        let exec = || {
            let exec = exec.cloned().unwrap_or_else(Exec::nothing);
            let known = instances.environment_now(service, &exec, Instance::NONE);
            let environment = known.unwrap_or_else(|failure| {
                let why = failure.message;
                tracing::warn!(%service, "it is looked at without its files' variables: {why}");
                exec.environment.clone()
            });
            Exec {
                environment,
                ..exec
            }
        };
        self.probes.set(service, job, exec, Self::now());
    }

    fn publish_all(&mut self, notices: &mut Vec<Notice>) {
        for notice in notices.drain(..) {
            self.publish(notice);
        }
    }

    /// Takes what the supervisor wants done: what is to be published comes to `notices`. Of many starts
    /// some are left for later turns of the loop.
    fn take_actions(&mut self, notices: &mut Vec<Notice>) {
        while let Some(action) = self.supervisor.next_action() {
            match action {
                Action::Publish(notice) => notices.push(notice),
                Action::Spawn { service, attempt } => {
                    self.actions.extend(self.start_queue.add(service, attempt));
                }
                other => self.actions.push_back(other),
            }
        }
        if self.actions.is_empty() {
            self.actions.extend(self.start_queue.take());
        }
    }

    /// `untold`: instances whose exits are known to the supervisor, and not to the journal.
    fn remember(&mut self, service: &ServiceName, untold: &[Instance]) {
        progress::count();
        let memory: Option<Memory> = self.supervisor.memory(service, Self::now());
        if memory.is_none() {
            self.instances.forget(service);
            self.readiness.forget(service);
            self.outputs.forget(service);
            self.notify.forget(service);
            self.release_sockets(service, false);
            self.release_stored(service);
            self.says.remove(service);
        }
        match self.memory.write(service, memory, untold) {
            Ok(()) => drop(self.unremembered.remove(service)),
            Err(error) => {
                if self.unremembered.insert(service.clone()) {
                    tracing::error!(%service, "cannot remember it: {error}");
                }
            }
        }
    }

    /// Does what could not be done when it was due: for want of room on the disk, of descriptors or
    /// of memory.
    fn try_again(&mut self) {
        self.try_again_at = None;
        if self.restoring.again {
            self.restore();
        }
        for service in self.unremembered.clone() {
            self.remember(&service, &[]);
        }
        for fact in self.instances.try_again() {
            self.tell(fact);
        }
    }

    /// When something is to be tried again, if anything is.
    fn next_try(&mut self) -> Option<Instant> {
        let wants = self.restoring.again
            || !self.unremembered.is_empty()
            || self.instances.wants_another_try();
        if !wants {
            self.try_again_at = None;
        } else if self.try_again_at.is_none() {
            self.try_again_at = Some(Self::now() + TRY_AGAIN_AFTER);
        }
        self.try_again_at
    }

    /// Does what the supervisor wants, and tells it at once what has become of that.
    fn perform(&mut self, action: Action) {
        progress::count();
        let fact = match action {
            Action::Spawn { service, attempt } => return self.start_next(service, attempt),
            Action::Stop {
                instance,
                signal,
                reach,
                ..
            } => self.instances.stop(instance, signal, reach),
            Action::Signal {
                service,
                instance,
                signal,
                request,
            } => {
                let sent = self.instances.signal(instance, signal);
                self.signal_sent(service, signal, request, sent);
                None
            }
            Action::AwaitReady { service, instance } => self.await_ready(service, instance),
            action @ (Action::AbandonStart { .. }
            | Action::RunSteps { .. }
            | Action::EndSteps { .. }) => self.see_to_steps(action),
            Action::Kill {
                instance, reach, ..
            } => {
                self.instances.kill(instance, reach);
                None
            }
            Action::ClearTree {
                service,
                instance,
                how,
            } => {
                if self.instances.remains(instance) {
                    let service = service.clone();
                    let remains = Fact::TreeRemains { service, instance };
                    self.supervisor.handle_fact(remains, Self::now());
                }
                self.instances.clear_tree(&service, instance, how)
            }
            Action::Reply { request, reply } => {
                self.ended |= self.shutdown == Some(request);
                let forgotten = self.requests.service_of(request);
                let forgotten = forgotten.filter(|it| self.unremembered.contains(*it));
                let reply = match (reply, forgotten) {
                    (Reply::Done, Some(service)) => {
                        Reply::Denied(DeniedReason::NotRemembered(service.into()))
                    }
                    (reply, _) => reply,
                };
                self.requests.answer(request, reply);
                None
            }
            Action::End { service, status } => self.end_with(&service, status),
            Action::Publish(notice) => {
                self.publish(notice);
                None
            }
        };
        if let Some(fact) = fact {
            self.supervisor.handle_fact(fact, Self::now());
        }
    }

    /// Answers who waits for that; what goes wrong for nobody is logged.
    fn signal_sent(
        &mut self,
        service: ServiceName,
        signal: Signal,
        request: Option<RequestId>,
        sent: io::Result<bool>,
    ) {
        let reply = match sent {
            Ok(true) => Reply::Done,
            Ok(false) => Reply::Denied(DeniedReason::NotRunning(service)),
            Err(error) => {
                if request.is_none() {
                    tracing::error!(%service, %signal, "cannot send a signal: {error}");
                }
                let why = error.to_string();
                Reply::Denied(DeniedReason::NotSent { service, why })
            }
        };
        if let Some(request) = request {
            self.requests.answer(request, reply);
        }
    }
}

/// A number of the runtime directory's own.
pub(crate) fn place(runtime_dir: &Path) -> u64 {
    decode::service_number(&canonical(runtime_dir).to_string_lossy())
}

/// One that knows nothing yet.
fn supervisor(options: &Options) -> Supervisor {
    match options.ends_with_services() {
        true => Supervisor::new().ending_with_essential(),
        false => Supervisor::new(),
    }
}

/// The agent's own identity.
fn myself() -> Result<Instance> {
    let pid = std::process::id();
    let start_time_ns = proc::start_time_ns(pid).context("cannot read /proc/self/stat")?;
    Ok(Instance { pid, start_time_ns })
}

/// Finds the cgroups, if no other agent of this runtime directory is at work.
fn claim_ground(options: &Options) -> Result<Ground> {
    let fd_limit = raise_fd_limit()
        .map_err(|error| tracing::warn!("cannot raise the limit on open files: {error}"))
        .ok();
    let runtime_dir = &options.runtime_dir;
    let place = place(runtime_dir);
    let name = cgroup::Name::of_runtime_dir(runtime_dir, place)
        .with_context(|| format!("cannot find {}", runtime_dir.display()))?;
    let ground = Ground::claim(&name, fd_limit)?;
    if !ground.has_cgroups() && PinDir::is_in_use_by(&options.pin_dir, place) {
        return Err(Refused::InUse(options.pin_dir.clone()).into());
    }
    Ok(ground)
}

/// The kernel side: pinned if that can be, else for the agent's own lifetime, else not at all.
fn load_probe(options: &Options, services: usize) -> (Option<KernelProbe>, Option<PinDir>) {
    let mut settings = probe::Options {
        btf: options.btf.clone(),
        object: options.object.clone(),
        ring_bytes: options.ring_bytes,
        watched: Some(probe::room_for(
            services * WATCHED_PER_SERVICE,
            options.most_watched,
        )),
        agent: true,
        known: probe::KnownIn::At(options.runtime_dir.clone()),
        ..probe::Options::default()
    };
    let owner = place(&options.runtime_dir);
    let pinned = PinDir::open(&options.pin_dir).and_then(|mut pins| {
        match KernelProbe::resume(&mut settings, &pins, owner) {
            Ok(probe) => {
                pins.name_holder(&canonical(&options.runtime_dir));
                Ok((probe, pins))
            }
            Err(error) => {
                pins.remove_if_empty();
                Err(error)
            }
        }
    });
    match pinned {
        Ok((probe, pins)) => return (Some(probe), Some(pins)),
        Err(error) => tracing::warn!(
            "nothing is pinned: {error:#}; exits while no agent is running will not be recorded"
        ),
    }
    match KernelProbe::load(&settings) {
        Ok(probe) => (Some(probe), None),
        Err(error) => {
            tracing::warn!(
                "without eBPF: {error:#}; exits are detected through pidfds, later than with eBPF; \
                 `respawn doctor` tells more"
            );
            (None, None)
        }
    }
}

/// What was told of lost exits, and how many were skipped.
fn figures(probe: Option<&KernelProbe>) -> (u64, u64) {
    let lost = probe.and_then(|probe| probe.lost_told().ok());
    let skipped = probe.and_then(|probe| probe.skipped().ok());
    (lost.unwrap_or(0), skipped.unwrap_or(0))
}

/// The instances of whose exit these notices tell.
fn untold(notices: &[Notice]) -> BTreeMap<ServiceName, Vec<Instance>> {
    let mut untold: BTreeMap<ServiceName, Vec<Instance>> = BTreeMap::new();
    for notice in notices {
        if let Notice::Exited {
            service, instance, ..
        } = notice
        {
            untold.entry(service.clone()).or_default().push(*instance);
        }
    }
    untold
}

/// Reads what is in the state directory, as an agent does that starts.
#[cfg(test)]
pub(crate) fn read_state(runtime_dir: &Path) -> Result<()> {
    MemoryDir::open(runtime_dir)?.read().map(drop)
}

/// A directory without links, as far as it is there.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// At boot, one bad file costs one service.
///
/// # Errors
/// It is not even known which services there are: what was given.
fn usable_part(mut invalid: Invalid) -> Result<Config, Invalid> {
    let Some(config) = invalid.usable.take() else {
        return Err(invalid);
    };
    log_problems(&invalid);
    for (service, spec) in &config.services {
        match &spec.unusable {
            Some(Unusable { may_end: true, .. }) => {
                tracing::warn!(%service, "not started: its file cannot be used yet; it is tried again");
            }
            Some(Unusable { may_end: false, .. }) => {
                tracing::warn!(%service, "not started: its file cannot be used");
            }
            None => {}
        }
    }
    Ok(*config)
}

fn log_problems(invalid: &Invalid) {
    for problem in &invalid.problems {
        tracing::error!("{problem}");
    }
    for warning in &invalid.warnings {
        tracing::warn!("{warning}");
    }
}

fn log_warnings(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

//! The agent: joins the parts in one loop on one thread, and decides nothing.
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
mod fd_store;
mod hooks;
mod instances;
mod last_good;
mod lock;
mod memory;
mod notices;
mod notify;
mod output;
mod probes;
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
mod steps;
mod unwatched;
mod upgrade;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use self::children::Children;
use self::due::Due;
use self::fd_store::FdStore;
use self::hooks::HookRunner;
use self::instances::{Ground, Instances, Places};
use self::last_good::LastGood;
use self::lock::Lock;
pub(crate) use self::lock::is_locked;
use self::memory::MemoryDir;
use self::notices::Notices;
use self::notify::{Message, Notify, Said};
use self::output::Outputs;
use self::probes::{Job, Probes};
use self::readiness::Readiness;
use self::reloads::Reloads;
use self::requests::Requests;
use self::restore::Restoring;
use self::service_files::ServiceFiles;
use self::sockets::{Donors, Pool, Sockets};
use self::steps::{Purpose, Steps};
use self::unwatched::Unwatched;
use crate::aftermath::{self, OutputStart};
use crate::clock::{self, WallClock};
use crate::config::{self, AgentConfig, Config, Essential, Invalid, Surroundings, Variables};
use crate::control::{self, Groups, Server};
use crate::decode::{self, Birth, OfTree, ProcessExit};
use crate::init::rearm::SpareKeeper;
use crate::journal::{Journal, Line};
use crate::manager::{self, Manager};
use crate::model::{
    Attempt, Cause, Child, Circumstances, Death, DeniedReason, Desired, Event, Exec, ExtraFacts,
    Instance, Kind, Log, Memory, Notice, Output, Ready, Reply, Request, ServiceName, Signal,
    SpawnFailure, Spec, State, Status, Unusable, What,
};
use crate::os::cgroup::{self, Refused};
use crate::os::spawn::{Flight, raise_fd_limit};
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

/// How many deaths are told before anything is done about them: more would delay the first start.
const DEATHS_AT_ONCE: usize = 16;

/// How many starts are under way at a time: enough to keep a few processors busy.
const STARTS_AT_ONCE: usize = 8;

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
    /// What the kernel's records of exits that are not published yet tell beside the deaths.
    circumstances: HashMap<Instance, Circumstances>,
    /// How long the output files were, whose ends are kept, when these were started.
    output_starts: HashMap<Instance, OutputStart>,
    /// The cgroups that the kernel watches for each instance's other processes.
    trees: HashMap<Instance, u64>,
    /// Whose they are, by the numbers of the kernel's records.
    families: HashMap<u64, ServiceName>,
    /// What is still to be done, in order.
    actions: VecDeque<Action>,
    hooks: HookRunner,
    probes: Probes,
    reloads: Reloads,
    steps: Steps,
    readiness: Readiness,
    outputs: Outputs,
    notify: Notify,
    sockets: Sockets,
    fd_store: FdStore,
    /// What instances say of themselves, in words.
    says: BTreeMap<ServiceName, (Instance, String)>,
    notices: Notices,
    told: Told,
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

/// A start that has begun.
struct Start {
    service: ServiceName,
    birth: Birth,
    /// The kernel records its birth.
    marked: bool,
    /// How long its output was before.
    output_start: Option<OutputStart>,
    flight: Flight,
}

/// What the kernel need not keep any longer, once memory and journal have it.
#[derive(Debug, Default)]
struct Told {
    /// So many records at the ring's beginning.
    records: usize,
    /// Records beside the ring, by their keys.
    spilled: Vec<u32>,
    /// Entries of the watch map.
    instances: Vec<Instance>,
    /// All that other ABI versions have left.
    previous: bool,
}

impl Told {
    const RECORD: Self = Self {
        records: 1,
        spilled: Vec::new(),
        instances: Vec::new(),
        previous: false,
    };

    fn spilled(key: u32) -> Self {
        Self {
            spilled: vec![key],
            ..Self::default()
        }
    }

    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.spilled.extend(other.spilled);
        self.instances.extend(other.instances);
        self.previous |= other.previous;
    }
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
        mut pool: Pool,
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
            circumstances: HashMap::new(),
            output_starts: HashMap::new(),
            trees: HashMap::new(),
            families: HashMap::new(),
            actions: VecDeque::new(),
            hooks,
            probes: Probes::new(fd_limit)?,
            reloads: Reloads::new(fd_limit)?,
            steps: Steps::new(fd_limit)?,
            readiness: Readiness::of(runtime_dir),
            outputs: Outputs::of(runtime_dir, fd_limit)?,
            notify: Notify::of(runtime_dir)?,
            fd_store: FdStore::of(runtime_dir, std::mem::take(&mut pool.stored))?,
            sockets: Sockets::of(runtime_dir, pool),
            says: BTreeMap::new(),
            notices,
            told: Told::default(),
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
        agent.circumstances.clear();
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
        format!("agent started, pid {pid}: {services} of {config}, steered through {dir}; {end}")
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
            let deadlines = [
                self.supervisor.poll_timeout(),
                self.hooks.poll_timeout(),
                self.probes.poll_timeout(),
                self.reloads.poll_timeout(),
                self.steps.poll_timeout(),
                self.next_try(),
                self.outputs.poll_timeout(),
                self.manager.poll_timeout(Self::now()),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            self.due.set_deadline(deadline, Self::now());
            let timer = async {
                match deadline {
                    _ if more_hooks => (),
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

    fn read_ring(&mut self, ready: Result<()>) {
        if let Err(error) = ready {
            return self.lose_sight(&error);
        }
        self.drain_ring();
        self.check_loss();
    }

    fn drain_ring(&mut self) {
        while let Some(probe) = &self.probe {
            let records = match probe.peek(DEATHS_AT_ONCE, decode::exit) {
                Ok(records) if records.is_empty() => break,
                Ok(records) => records,
                Err(error) => return self.lose_sight(&error),
            };
            // Who has ended has said before that another process is the main one.
            self.hear_first();
            let records = records.into_iter().map(|record| (record, Told::RECORD));
            self.take_records(records.collect());
        }
        self.take_spilled();
    }

    /// The kernel tells no more: the pidfds do.
    fn lose_sight(&mut self, error: &anyhow::Error) {
        tracing::error!("the kernel's ring cannot be read any more: {error:#}");
        self.probe = None;
    }

    /// Takes the records that found the ring full, if there are new ones.
    fn take_spilled(&mut self) {
        let Some(probe) = self.probe.as_ref() else {
            return;
        };
        let count = probe.spilled();
        if count == self.spilled {
            return;
        }
        self.spilled = count;
        let spilled = probe.peek_spilled(decode::exit).into_iter();
        let spilled = spilled.map(|(key, record)| (record, Told::spilled(key)));
        self.take_records(spilled.collect());
    }

    fn take_records(&mut self, records: Vec<(Option<ProcessExit>, Told)>) {
        let mut facts = Vec::new();
        for (exit, told) in records {
            facts.push((self.fact_of(exit), told));
        }
        self.tell_together(facts);
        self.circumstances.clear();
    }

    /// What a record says to the supervisor; what else is in it is kept for the journal.
    fn fact_of(&mut self, exit: Option<ProcessExit>) -> Option<Fact> {
        let Some(mut exit) = exit else {
            tracing::error!("the ring holds a record that is not of this build");
            return None;
        };
        if let Some(service) = self.instances.service_of(&exit.instance).cloned() {
            self.complete(&mut exit);
            return Some(self.fact_of_exit(service, &exit));
        }
        let tree = exit.tree?;
        let service = self.families.get(&tree.birth.service).cloned()?;
        aftermath::complete(&mut exit);
        self.circumstances
            .insert(exit.instance, Circumstances::of(&exit));
        Some(Fact::ChildExited {
            service,
            attempt: Attempt(tree.birth.attempt),
            child: Box::new(child_of(tree, &exit)),
        })
    }

    /// Adds to the record of an instance's exit what the kernel program does not know.
    fn complete(&self, exit: &mut ProcessExit) {
        aftermath::complete(exit);
        if self.instances.has_own_cgroup(&exit.instance) {
            exit.cgroup_is_its_own();
        }
    }

    /// What the kernel's record of an exit says to the supervisor; what else is in it is kept for the
    /// journal.
    fn fact_of_exit(&mut self, service: ServiceName, exit: &ProcessExit) -> Fact {
        let instance = exit.instance;
        self.instances.told(&instance);
        let circumstances = Circumstances {
            children_left_out: self.unwatch_tree(instance),
            ..Circumstances::of(exit)
        };
        self.circumstances.insert(instance, circumstances);
        Fact::ProcessExited {
            service,
            instance,
            death: death_of(Some(exit)),
        }
    }

    /// Has the kernel report the ends by signals of what runs beside a main process.
    fn watch_tree(&mut self, instance: Instance, birth: Birth) {
        let (Some(probe), Some(id)) = (&mut self.probe, self.instances.cgroup_id(&instance)) else {
            return;
        };
        match probe.watch_tree(id, birth) {
            Ok(()) => self.keep_tree(instance, id, birth),
            Err(error) => tracing::warn!(pid = instance.pid, "{error:#}"),
        }
    }

    /// The same of one that was taken over: what an earlier agent has set, with its counts, stays.
    fn watch_adopted_tree(&mut self, instance: Instance, birth: Birth) {
        let id = self.instances.cgroup_id(&instance);
        let is_watched = |probe: &KernelProbe| id.is_some_and(|id| probe.has_tree(id));
        match (self.probe.as_ref().is_some_and(is_watched), id) {
            (true, Some(id)) => self.keep_tree(instance, id, birth),
            _ => self.watch_tree(instance, birth),
        }
    }

    fn keep_tree(&mut self, instance: Instance, id: u64, birth: Birth) {
        self.trees.insert(instance, id);
        if let Some(service) = self.instances.service_of(&instance) {
            self.families.insert(birth.service, service.clone());
        }
    }

    /// The main process is gone: the rest of its tree is about to be. So many of it have ended that
    /// are not told.
    fn unwatch_tree(&mut self, instance: Instance) -> Option<u64> {
        let id = self.trees.remove(&instance)?;
        Some(self.probe.as_mut()?.unwatch_tree(id))
    }

    /// Tells of a release, or of a tree that is gone.
    fn tell_ends(&mut self, ends: Vec<Fact>) {
        let mut facts = Vec::new();
        for fact in ends {
            let mut told = Told::default();
            if let Fact::ProcessReleased { instance, .. } = &fact {
                self.unwatch_tree(*instance);
                // It is still in the watch map if the ring had no room for its exit, or if it ended
                // before it was put there.
                told.instances.push(*instance);
            }
            facts.push((Some(fact), told));
        }
        self.tell_together(facts);
    }

    /// Takes out of ring and watch map what is in memory and journal by now.
    fn let_kernel_forget(&mut self) {
        let told = std::mem::take(&mut self.told);
        let Some(probe) = &mut self.probe else {
            return;
        };
        if told.previous {
            probe.forget_previous();
        }
        let Told {
            records,
            spilled,
            instances,
            ..
        } = told;
        for _ in 0..records {
            probe.forget_next();
        }
        for key in spilled {
            probe.forget_spilled(key);
        }
        for instance in instances {
            self.unwatched.remove(&instance);
            probe.unwatch(instance);
        }
    }

    /// After a loss every instance is compared with its pidfd; and when the kernel has skipped the
    /// exit programs, for whatever process that was.
    fn check_loss(&mut self) {
        let figures = self
            .probe
            .as_ref()
            .map(|probe| (probe.lost(), probe.skipped()));
        let Some((lost, Ok(skipped))) = figures else {
            return;
        };
        let count = lost.saturating_sub(self.lost);
        if count == 0 && skipped == self.skipped {
            return;
        }
        (self.lost, self.skipped) = (lost.max(self.lost), skipped);
        let ends = self.instances.look_at_all();
        self.tell_ends(ends);
        if count == 0 {
            tracing::debug!("the kernel has skipped the exit programs {skipped} times so far");
            return;
        }
        self.tell(Fact::EventsLost { count });
        if let Some(Err(error)) = self.probe.as_mut().map(|probe| probe.set_lost_told(lost)) {
            tracing::error!("{error:#}");
        }
    }

    fn read_pidfds(&mut self, ready: std::io::Result<()>) {
        if let Err(error) = ready {
            tracing::error!("cannot wait for pidfds: {error}");
        }
        let ready = self.instances.take_ready();
        // The ring's record comes before the pidfd's end, and tells more.
        self.drain_ring();
        self.hear_first();
        let ends = self.instances.look_at(ready);
        self.tell_ends(ends);
    }

    fn reap(&mut self) {
        match self.notify.is_used() {
            // A main process that has ended may have named another one.
            true => self.read_pidfds(Ok(())),
            false => self.drain_ring(),
        }
        let mut children = Children {
            hooks: &mut self.hooks,
            probes: &mut self.probes,
            reloads: &mut self.reloads,
            steps: &mut self.steps,
            answers: Vec::new(),
            outcomes: Vec::new(),
        };
        let ends = self.instances.reap(&mut children, Self::now());
        let outcomes = children.outcomes;
        for (request, reply) in children.answers {
            self.requests.answer(request, reply);
        }
        self.tell_ends(ends);
        for outcome in outcomes {
            if let Some(fact) = self.steps_ended(outcome) {
                self.tell(fact);
            }
        }
    }

    fn read_readiness(&mut self, written: Vec<Option<String>>) {
        for fact in self.readiness.ready(written) {
            self.tell(fact);
        }
    }

    fn read_notifications(&mut self, ready: io::Result<()>) {
        if let Err(error) = ready {
            tracing::error!("cannot wait for notifications: {error}");
        }
        for message in self.notify.take() {
            self.hear(message);
        }
    }

    /// Before the ends of processes are told: what they have said before.
    fn hear_first(&mut self) {
        if self.notify.is_used() {
            self.read_notifications(Ok(()));
        }
    }

    /// Tells the supervisor what an instance has said of itself.
    fn hear(&mut self, message: Message) {
        let Message {
            service,
            instance,
            sender,
            said,
            order,
        } = message;
        let mut instance = self.speaker(&service, instance, sender.0);
        if !self.is_of_service(&service, &instance, sender) {
            let (pid, uid) = sender;
            tracing::warn!(%service, pid, uid, "a notification of a process that is not of the service was dropped");
            return;
        }
        if let Some(order) = order {
            self.store(&service, order);
        }
        for said in said {
            let service = service.clone();
            self.tell(match said {
                Said::Ready => Fact::BecameReady { service, instance },
                Said::Watchdog => Fact::Lives { service, instance },
                Said::Extend(time) => Fact::NeedsTime {
                    service,
                    instance,
                    time,
                },
                Said::Reloading(at) => Fact::Reloading {
                    service,
                    instance,
                    at,
                },
                Said::Stopping => Fact::Ending { service, instance },
                Said::WatchdogTrigger => Fact::DoesNotWork {
                    service,
                    instance,
                    reason: "it has sent WATCHDOG=trigger".to_owned(),
                },
                Said::Status(text) => {
                    self.says.insert(service, (instance, text));
                    continue;
                }
                Said::MainPid(pid) => {
                    match self.change_main(&service, instance, pid) {
                        Ok(main) => instance = main,
                        Err(why) => tracing::warn!(%service, pid, "MAINPID is ignored: {why}"),
                    }
                    continue;
                }
            });
        }
    }

    /// Which instance a process speaks for: of two that run side by side, that whose tree it is in. One
    /// that has ended is taken to be of the newest, `latest`, if that still runs.
    fn speaker(&self, service: &ServiceName, latest: Instance, pid: u32) -> Instance {
        let Some(status) = self.supervisor.status(service) else {
            return latest;
        };
        if status.next.is_none() && status.instance == Some(latest) {
            return latest;
        }
        let is_in = |it: &Instance| self.instances.has_in_tree(it, pid) == Some(true);
        let mut running = status.next.into_iter().chain(status.instance);
        let found = running.clone().find(is_in);
        let latest_runs = running.any(|it| it == latest);
        let fallback = status.instance.filter(|_| !latest_runs);
        found.or(fallback).unwrap_or(latest)
    }

    /// Goes on with another process of its tree as the main process of an instance that runs.
    ///
    /// # Errors
    /// Why it cannot be that one.
    fn change_main(
        &mut self,
        service: &ServiceName,
        from: Instance,
        pid: u32,
    ) -> Result<Instance, String> {
        if pid == from.pid {
            return Ok(from);
        }
        let status = self.supervisor.status(service);
        let runs = status.is_some_and(|status| {
            status.instance == Some(from)
                && matches!(status.state, State::Starting | State::Running)
        });
        if !runs {
            return Err("the service does not run, or is being stopped".to_owned());
        }
        let to = self.instances.change_main(service, from, pid)?;
        let memory = self.supervisor.memory(service, Self::now());
        let attempt = memory.unwrap_or_default().last_attempt;
        self.watch(to, Birth::of(service, attempt));
        if let Some(tree) = self.trees.remove(&from) {
            self.trees.insert(to, tree);
        }
        if let Some(start) = self.output_starts.remove(&from) {
            self.output_starts.insert(to, start);
        }
        if let Some((of, _)) = self.says.get_mut(service) {
            *of = to;
        }
        self.steps.change_main(from, to);
        self.notify.listen(service, to);
        self.told.instances.push(from);
        self.tell(Fact::MainChanged {
            service: service.clone(),
            instance: from,
            main: to,
        });
        Ok(to)
    }

    /// Whether a notification is from the tree of the instance; of a sender that has ended, whether it
    /// was of its user.
    fn is_of_service(&self, service: &ServiceName, of: &Instance, (pid, uid): (u32, u32)) -> bool {
        self.instances.has_in_tree(of, pid).unwrap_or_else(|| {
            let spec = self.supervisor.spec(service);
            let identity = spec.and_then(|spec| spec.exec.identity.as_ref());
            uid == identity.map_or_else(runtime_dir::own_uid, |identity| identity.uid)
        })
    }

    /// Goes on hearing what the instances of an earlier agent say.
    fn adopt_notify_sockets(&mut self) {
        let instances = self.supervisor.statuses();
        let instances = instances.filter_map(|it| Some((it.service.clone(), it.instance?)));
        for (service, instance) in instances.collect::<Vec<_>>() {
            let Some(spec) = self.supervisor.spec(&service) else {
                continue;
            };
            if spec.exec.notifies() {
                let identity = spec.exec.identity.as_ref();
                let process = self.instances.process(&instance);
                self.notify.adopt(&service, identity, instance, process);
            }
        }
    }

    /// Goes on holding the sockets that an earlier agent has held for services.
    fn adopt_sockets(&mut self) {
        for service in self.sockets.recorded() {
            progress::count();
            let instances = &self.instances;
            let others = || {
                let processes = instances.processes(&service).unwrap_or_default();
                processes.into_iter().flatten().collect()
            };
            let donors = Donors {
                instances: instances.living(&service),
                others: &others,
            };
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
        self.supervisor.handle_timeout(now);
        self.settle();
        if self.try_again_at.is_some_and(|at| at <= now) {
            self.try_again();
        }
    }

    /// Tells the supervisor several facts, and what the kernel may forget after each. Of different
    /// services, many are told before anything that follows from them is done, so that those that
    /// ended together are started side by side.
    fn tell_together(&mut self, facts: Vec<(Option<Fact>, Told)>) {
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
                self.supervisor.handle_fact(fact, Self::now());
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
    /// the journal, and not told again by it.
    fn settle(&mut self) {
        let mut told = BTreeSet::new();
        let mut changed = BTreeSet::new();
        loop {
            let notices = self.take_actions();
            // On the way from a release to the next start, one write is enough: a tree that is
            // cleared away is no answer to anybody, and is cleared again by the next agent.
            if notices.is_empty()
                && let Some(Action::ClearTree { .. }) = self.actions.front()
                && let Some(action) = self.actions.pop_front()
            {
                self.perform(action);
                continue;
            }
            let untold = untold(&notices);
            while let Some(service) = self.supervisor.next_changed() {
                told.remove(&service);
                self.remember(&service, untold.get(&service).map_or(&[], Vec::as_slice));
                changed.insert(service);
            }
            for notice in notices {
                self.publish(&notice);
            }
            self.let_kernel_forget();
            told.extend(untold.into_keys());
            let Some(action) = self.actions.pop_front() else {
                break;
            };
            self.perform(action);
        }
        for service in told {
            self.remember(&service, &[]);
        }
        for service in changed {
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

    /// Takes what the supervisor wants done: what is to be published is returned.
    fn take_actions(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        while let Some(action) = self.supervisor.next_action() {
            match action {
                Action::Publish(notice) => notices.push(notice),
                other => self.actions.push_back(other),
            }
        }
        notices
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
                self.publish(&notice);
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

    /// Starts a service, and beside it those that are to be started next: while one is in its exec,
    /// on another processor, the next one is made.
    fn start_next(&mut self, service: ServiceName, attempt: Attempt) {
        let mut begun = vec![self.begin_start(service, attempt)];
        while begun.len() < STARTS_AT_ONCE
            && let Some(Action::Spawn { .. }) = self.actions.front()
            && let Some(Action::Spawn { service, attempt }) = self.actions.pop_front()
        {
            progress::count();
            begun.push(self.begin_start(service, attempt));
        }
        for begun in begun {
            let fact = match begun {
                Ok(start) => self.finish_start(start),
                Err(Some(fact)) => *fact,
                Err(None) => continue,
            };
            self.supervisor.handle_fact(fact, Self::now());
        }
    }

    /// `Err`: what has become of it without a process; `None` if that is not known yet.
    fn begin_start(
        &mut self,
        service: ServiceName,
        attempt: Attempt,
    ) -> Result<Start, Option<Box<Fact>>> {
        if let Some(fact) = self.read_again(&service, attempt) {
            return Err(Some(Box::new(fact)));
        }
        let spec = self.supervisor.spec(&service);
        let is_preceded = |spec: &Arc<Spec>| {
            spec.steps.precede_a_start() || instances::may_hang(&spec.exec).is_some()
        };
        if spec.is_some_and(is_preceded) {
            let outcome = self.run_steps(&service, Purpose::Start(attempt));
            return Err(outcome
                .and_then(|outcome| self.steps_ended(outcome))
                .map(Box::new));
        }
        self.launch(service, attempt, None)
    }

    /// Makes the process of a start, once all that precedes it is done. `Err`: what has become of it
    /// without one; `None` if that is not known yet.
    fn launch(
        &mut self,
        service: ServiceName,
        attempt: Attempt,
        files: Option<Vec<Variables>>,
    ) -> Result<Start, Option<Box<Fact>>> {
        let birth = Birth::of(&service, attempt);
        let failure = self.prepare_output(&service);
        let places = match failure.map_or_else(|| self.prepare_places(&service), Err) {
            Ok(places) => Places { files, ..places },
            Err(failure) => {
                return Err(Some(Box::new(Fact::SpawnFailed {
                    service,
                    attempt,
                    failure,
                })));
            }
        };
        let spec = self.supervisor.spec(&service).cloned();
        if let Some(spec) = spec.filter(|spec| spec.policy.kind == Kind::Forking) {
            let fact = self.launch_forking(&service, attempt, &spec, &places);
            return Err(fact.map(Box::new));
        }
        let output_start = self.output_length(&service);
        let marked = self.mark(birth);
        let flight = match self.supervisor.spec(&service).cloned() {
            Some(spec) => self.recording(&service, birth, marked, |instances, record| {
                instances.begin(&service, &spec, attempt, &places, record)
            }),
            None => Err(SpawnFailure {
                message: format!("{service} is gone from the config"),
            }),
        };
        if marked {
            // The next fork may be of something else.
            self.unmark();
        }
        match flight {
            Ok(flight) => Ok(Start {
                service,
                birth,
                marked,
                output_start,
                flight,
            }),
            Err(failure) => {
                let fact = self.start_failed(service, birth, marked, failure);
                Err(Some(Box::new(fact)))
            }
        }
    }

    /// Has it found out when the instance is ready.
    fn await_ready(&mut self, service: ServiceName, instance: Instance) -> Option<Fact> {
        match self.supervisor.spec(&service)?.exec.ready.clone()? {
            Ready::Fd(_) => self.readiness.wait(service, instance),
            // It is heard, or looked at, anyway.
            Ready::Notify | Ready::Probe(_) => None,
        }
    }

    /// Has a place where the next instance says how it is, if it does.
    fn prepare_places(&mut self, service: &ServiceName) -> Result<Places, SpawnFailure> {
        let cannot = |path: &Path, error: io::Error| SpawnFailure {
            message: format!("cannot prepare {}: {error} (ready)", path.display()),
        };
        let mut places = Places {
            fifo: self.outputs.fifo(service),
            ready: self.readiness.file(service),
            notify: None,
            notify_path: self.notify.path(service),
            sockets: Vec::new(),
            files: None,
            stored: Vec::new(),
        };
        let status = self.supervisor.status(service);
        if status.is_none_or(|status| status.instance.is_none()) {
            // Before what the last instance has sent is dropped.
            self.store_last(service);
        }
        let Some(spec) = self.supervisor.spec(service) else {
            return Ok(places);
        };
        if let Some(Ready::Fd(_)) = spec.exec.ready {
            let begun = self.readiness.begin(service);
            begun.map_err(|error| cannot(&places.ready, error))?;
        }
        if spec.exec.notifies() {
            let status = self.supervisor.status(service);
            let is_beside = status.is_some_and(|status| status.instance.is_some());
            let identity = spec.exec.identity.as_ref();
            let socket = self.notify.begin(service, identity, is_beside);
            let socket = socket.map_err(|error| cannot(&places.notify_path, error))?;
            places.notify = Some(socket);
        }
        if !spec.exec.listen.is_empty() || self.sockets.has(service) {
            let sockets = self.sockets.begin(service, &spec.exec.listen);
            places.sockets = sockets.map_err(|message| SpawnFailure { message })?;
        }
        places.stored = self.fd_store.begin(service, spec.exec.fd_store);
        Ok(places)
    }

    /// Has a place where the next instance's output goes, if it has a log.
    fn prepare_output(&mut self, service: &ServiceName) -> Option<SpawnFailure> {
        let spec = self.supervisor.spec(service)?.clone();
        if spec.log.is_none() {
            // The instance before may have had one.
            self.outputs.forget(service);
            return None;
        }
        let error = self.outputs.set(service, &spec, Self::now()).err()?;
        let fifo = self.outputs.fifo(service);
        let message = format!("cannot prepare {}: {error} (log)", fifo.display());
        Some(SpawnFailure { message })
    }

    /// Before services are known, or described in another way.
    fn set_outputs(&mut self, services: &BTreeMap<ServiceName, Arc<Spec>>) {
        for (service, spec) in services {
            progress::count();
            if let Err(error) = self.outputs.set(service, spec, Self::now()) {
                // Its start tries it again, and fails if that fails.
                tracing::error!(%service, "cannot prepare for its output: {error}");
            }
        }
    }

    fn finish_start(&mut self, start: Start) -> Fact {
        progress::count();
        let Start {
            service,
            birth,
            mut marked,
            output_start,
            flight,
        } = start;
        let landed = match self.instances.finish(flight) {
            Err(aborted) if aborted.is_of_cgroup() => {
                marked = self.mark(birth);
                let attempt = Attempt(birth.attempt);
                let landed = self.recording(&service, birth, marked, |instances, record| {
                    instances.retry(aborted, attempt, record)
                });
                if marked {
                    self.unmark();
                }
                landed
            }
            landed => landed.map_err(|aborted| aborted.error.into()),
        };
        let started = landed.and_then(|landed| self.instances.hold_started(&service, landed));
        let instance = match started {
            Ok(instance) => instance,
            Err(failure) => return self.start_failed(service, birth, marked, failure),
        };
        if !marked {
            self.memory.knows_birth(&service, instance);
            self.watch(instance, birth);
        }
        self.notify.listen(&service, instance);
        self.spawned(service, birth, instance, output_start)
    }

    /// The rest of what every new instance needs; `output_start`: where its output begins.
    fn spawned(
        &mut self,
        service: ServiceName,
        birth: Birth,
        instance: Instance,
        output_start: Option<OutputStart>,
    ) -> Fact {
        if let Some(start) = output_start {
            self.output_starts.insert(instance, start);
        }
        self.watch_tree(instance, birth);
        Fact::Spawned {
            service,
            attempt: Attempt(birth.attempt),
            instance,
        }
    }

    fn start_failed(
        &self,
        service: ServiceName,
        birth: Birth,
        marked: bool,
        failure: SpawnFailure,
    ) -> Fact {
        if !marked {
            self.memory.drop_birth(&service);
        }
        Fact::SpawnFailed {
            service,
            attempt: Attempt(birth.attempt),
            failure,
        }
    }

    /// Before a service is started whose file could not be used: reads that again. `None`: it is
    /// no such service.
    fn read_again(&mut self, service: &ServiceName, attempt: Attempt) -> Option<Fact> {
        let unusable = self.supervisor.spec(service)?.unusable.clone()?;
        let read = match self.config.files.get(service) {
            Some(file) => {
                let dir = &self.options.config;
                config::load_again(dir, file, service, &self.config, &self.surroundings)
            }
            None => Ok(None),
        };
        let read = read.and_then(|spec| {
            // A file of several services could not be told from one of a single one.
            self.config_has_grown |= spec.is_none() && self.config.is_partial;
            let again = spec.ok_or(unusable)?;
            self.config.lines.insert(service.clone(), again.lines);
            match again.drop_ins {
                Some(drop_ins) => drop(self.config.drop_ins.insert(service.clone(), drop_ins)),
                None => drop(self.config.drop_ins.remove(service)),
            }
            Ok(again.spec)
        });
        let service = service.clone();
        let failed = |Unusable { why, .. }| SpawnFailure { message: why };
        Some(match read.map_err(failed) {
            Ok(spec) => {
                tracing::info!(%service, "its file can be used now");
                let services = &mut self.config.services;
                services.insert(service.clone(), Arc::clone(&spec));
                self.service_files = ServiceFiles::of(&self.config, &self.options.config);
                self.last_good.keep(&self.config);
                Fact::Described {
                    service,
                    attempt,
                    spec,
                }
            }
            Err(failure) => Fact::SpawnFailed {
                service,
                attempt,
                failure,
            },
        })
    }

    /// Makes a process, by `start`, in a way that its birth is recorded: by the kernel, if that was
    /// `marked`, else in a file. Where the kernel may skip a birth, the process waits until it is seen
    /// to be in the watch map, or is entered there.
    fn recording<T>(
        &mut self,
        service: &ServiceName,
        birth: Birth,
        marked: bool,
        start: impl FnOnce(&mut Instances, Option<instances::Record<'_>>) -> T,
    ) -> T {
        if !marked {
            let memory = &self.memory;
            return start(
                &mut self.instances,
                Some(&mut |instance| {
                    // On a full disk a service that nobody may know of is better than none.
                    let attempt = Attempt(birth.attempt);
                    if let Err(error) = memory.record_birth(service, attempt, instance) {
                        tracing::error!(%service, "its birth cannot be recorded: {error}");
                        memory.drop_birth(service);
                    }
                    Ok(())
                }),
            );
        }
        let probe = self.probe.as_mut().filter(|probe| probe.may_skip_births());
        let Some(probe) = probe else {
            return start(&mut self.instances, None);
        };
        start(
            &mut self.instances,
            Some(&mut |instance| {
                // A service of which only this agent knows is better than none.
                if let Err(error) = probe.watch(instance, birth) {
                    tracing::error!(%service, "its birth cannot be recorded: {error:#}");
                }
                Ok(())
            }),
        )
    }

    /// Has the kernel record the next forks as births; `false` where it cannot, or may have no room.
    fn mark(&mut self, birth: Birth) -> bool {
        let held = self.instances.count();
        let Some(probe) = self.probe.as_mut().filter(|it| it.records_births()) else {
            return false;
        };
        let is_marked = !probe.is_nearly_full(held);
        let marked = match is_marked {
            true => probe.mark(self.myself, birth),
            // This fork must not be taken for that of another service, whose mark may be there.
            false => probe.unmark(),
        };
        match marked {
            Ok(()) => is_marked,
            Err(error) => {
                tracing::error!("{error:#}");
                false
            }
        }
    }

    /// Ends what `mark` has begun.
    fn unmark(&mut self) {
        if let Some(Err(error)) = self.probe.as_mut().map(KernelProbe::unmark) {
            tracing::error!("{error:#}");
        }
    }

    fn publish(&mut self, notice: &Notice) {
        tracing::debug!("{notice:?}");
        if let Notice::WentToBackground {
            service, advice, ..
        } = notice
        {
            tracing::warn!(%service, "{advice}");
        }
        let mut facts = ExtraFacts::at(clock::now());
        if let Notice::ChildExited { child, .. } = notice {
            let known = self.circumstances.get(&child.process).cloned();
            facts.circumstances = known.unwrap_or_default();
        }
        if let Notice::Exited {
            service, instance, ..
        } = notice
        {
            let known = self.circumstances.get(instance).cloned();
            let start = self.output_starts.remove(instance).unwrap_or_default();
            facts.circumstances = Circumstances {
                last_output: self.last_output(service, start),
                ..known.unwrap_or_default()
            };
            self.outputs.end_line(service);
        }
        let spec = notice.service().and_then(|it| self.supervisor.spec(it));
        let spec = spec.cloned();
        self.tell_all(notice, facts, spec.as_deref());
    }

    /// The end of a service's output, if its config asks for that and it goes to a file.
    fn last_output(&self, service: &ServiceName, since: OutputStart) -> Option<String> {
        let (path, bytes) = self.kept_output(service)?;
        let spec = self.supervisor.spec(service)?;
        let owner = spec.exec.identity.as_ref();
        let read = match spec.log {
            Some(_) => {
                let progress = self.outputs.progress(service)?;
                aftermath::tail_of_log(path, bytes, since, &progress, owner)
            }
            None => aftermath::tail(path, bytes, since.length, owner),
        };
        read.map_err(|error| tracing::warn!(%service, "cannot read {}: {error}", path.display()))
            .ok()
    }

    /// How long the file is now whose end is to be kept; one that is not there yet is empty.
    fn output_length(&self, service: &ServiceName) -> Option<OutputStart> {
        let (path, _) = self.kept_output(service)?;
        let progress = self.outputs.progress(service).unwrap_or_default();
        let length = progress.length;
        Some(OutputStart {
            length: length.unwrap_or_else(|| path.metadata().map_or(0, |metadata| metadata.len())),
            pending: progress.pending.len(),
        })
    }

    /// The file, and how much of it is to be kept.
    fn kept_output(&self, service: &ServiceName) -> Option<(&Path, u64)> {
        let spec = self.supervisor.spec(service)?;
        let path = match &spec.exec.stdout {
            Output::File(path) => path,
            Output::Log => spec.log.as_ref().and_then(Log::path)?,
            Output::Null | Output::Inherit => return None,
        };
        let bytes = spec.policy.last_output.min(self.journal.most_output());
        (bytes > 0).then_some((path, bytes))
    }

    /// Tells the journal and all others, the hooks of this spec among them.
    fn tell_all(&mut self, notice: &Notice, facts: ExtraFacts, spec: Option<&Spec>) {
        let line = self.record(Event::from_notice(notice, facts));
        if let (Some(spec), Some(service)) = (spec, notice.service())
            && let Some(hook) = hooks::called_by(notice, &spec.hooks)
        {
            self.hooks.call(service, hook, line, Self::now());
        }
    }

    /// Tells the journal, and who else is told of every event; returns the journal's line.
    fn record(&mut self, mut event: Event) -> Line {
        let text = match self.journal.append(&mut event) {
            Ok(()) => {
                self.journal_failed = false;
                self.journal.last_line().to_owned()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.journal_failed, true) {
                    tracing::error!("the journal cannot be written: {error}");
                }
                text::json(&event).unwrap_or_default()
            }
        };
        self.notices.tell(&event);
        Line { text, event }
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
        known: probe::Place::At(options.runtime_dir.clone()),
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
            "nothing is pinned: {error:#}; exits while no agent lives are not remembered"
        ),
    }
    match KernelProbe::load(&settings) {
        Ok(probe) => (Some(probe), None),
        Err(error) => {
            tracing::warn!(
                "without eBPF: {error:#}; exits are seen by pidfds alone, and later; \
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

/// The death that a record tells of, or nobody.
fn death_of(exit: Option<&ProcessExit>) -> Death {
    let cause = exit.map_or(Cause::Unknown, |exit| exit.cause.clone());
    let asked = exit.and_then(|exit| exit.last_signal.as_ref());
    Death {
        blame: decode::blame(&cause, asked),
        cause,
        comm: exit.map(|exit| exit.comm.clone()),
        uptime: exit.map(|exit| exit.uptime),
        time: exit.map(|exit| WallClock::read().at(exit.exited_at)),
        since_boot: exit.map(|exit| exit.exited_at),
    }
}

/// What a record tells of a process in a service's tree.
fn child_of(tree: OfTree, exit: &ProcessExit) -> Child {
    Child {
        process: exit.instance,
        death: death_of(Some(exit)),
        left_out: tree.left_out,
    }
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

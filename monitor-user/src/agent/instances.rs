//! The processes that the agent holds: from their start, or adoption, until nothing of their tree
//! is left. Performs what the supervisor wants done with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use tokio::io::unix::AsyncFd;

use super::children::Children;
use super::steps::Laid;
use crate::aftermath::OutputStart;
use crate::clock;
use crate::config::{self, Variables};
use crate::decode;
use crate::model::{
    Attempt, Cause, Clear, Death, EnvironmentFile, Exec, Instance, Reach, Ready, ServiceName,
    Signal, SpawnFailure, Spec,
};
use crate::os::cgroup::{Cgroups, Name, Refused, ServiceCgroup, Slot};
use crate::os::cgroup_limits;
use crate::os::marker::{self, Marked, Marker};
use crate::os::mounts;
use crate::os::notify::NotifySocket;
use crate::os::pidfd::{self, Reaped};
use crate::os::process;
use crate::os::spawn::{self, Aborted, FdLimit, Flight, Landed, Prepared, Spawner};
use crate::os::tree::{self, Leftover, RemainingTree, Tree};
use crate::os::waiter::{Interest, Waiter};
use crate::os::{self, proc, progress, signal};
use crate::prober::Launch;
use crate::supervisor::Fact;

/// Notes down a process before it may go on.
pub(super) type Record<'a> = &'a mut dyn FnMut(Instance) -> io::Result<()>;

/// How many descriptors a start holds open for a moment, beside the one that stays.
const LOW_NUMBERS: usize = 4;

/// Instances, and what it takes to start more.
pub(super) struct Instances {
    /// Tells agents on one host apart, in the markers.
    place: u64,
    spawner: Spawner,
    cgroups: Option<Cgroups>,
    // Each on its own: a map that has grown has room for twice as many.
    services: HashMap<ServiceName, Box<Prelude>>,
    held: HashMap<Instance, Box<HeldInstance>>,
    by_service: HashMap<ServiceName, Vec<Instance>>,
    /// Main processes that have not been released, by pid.
    main: HashMap<u32, Instance>,
    /// What a token of the waiter means.
    tokens: HashMap<u64, Instance>,
    last_token: u64,
    waiter: AsyncFd<Waiter>,
    /// The last descriptor was one of the reserve.
    is_tight: bool,
    /// What was to be done with these could not be done: see [`Instances::try_again`].
    unsettled: BTreeSet<Instance>,
    /// When those were let go on, since boot, that had stood by.
    released: HashMap<Instance, u64>,
}

/// Where a service's files of the runtime directory are.
pub(super) struct Places {
    /// Where it says that it is ready.
    pub(super) ready: PathBuf,
    /// Where its output goes, if it has a log.
    pub(super) fifo: PathBuf,
    /// The socket for notifications, if it has one.
    pub(super) notify: Option<Arc<NotifySocket>>,
    /// Where that is.
    pub(super) notify_path: PathBuf,
    /// Those that are held for it, in the order of their descriptors.
    pub(super) sockets: Vec<Arc<OwnedFd>>,
    /// What its environment files say; `None`: the agent itself is to read them.
    pub(super) files: Option<Vec<Variables>>,
    /// What it has left with the agent, by name: its descriptors come next.
    pub(super) stored: Vec<(String, Arc<OwnedFd>)>,
}

/// What is laid out before a service's next start.
struct Prelude {
    /// What it was laid out from.
    spec: Arc<Spec>,
    /// As well as this: what each of its environment files said.
    variables: Vec<Variables>,
    /// `None`: it has to be laid out again.
    command: Option<Arc<Prepared>>,
    cgroup: Option<ServiceCgroup>,
    /// Which limits have no effect, and why.
    without_effect: Vec<String>,
}

impl Places {
    /// What the service's environment files say.
    fn files(&self, exec: &Exec) -> Result<Vec<Variables>, SpawnFailure> {
        self.files.clone().map_or_else(|| variables(exec), Ok)
    }

    /// What the environment says of it.
    fn variables(&self, service: &str, exec: &Exec) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        let names = exec.listen.iter();
        let names = names.map(|listen| listen.name.as_deref().unwrap_or(service));
        let stored = self.stored.iter().map(|(name, _)| &**name);
        let names: Vec<&str> = names.chain(stored).collect();
        if !names.is_empty() {
            variables.push(("LISTEN_FDS".to_owned(), names.len().to_string()));
            variables.push(("LISTEN_FDNAMES".to_owned(), names.join(":")));
        }
        if exec.fd_store > 0 {
            variables.push(("FDSTORE".to_owned(), exec.fd_store.to_string()));
        }
        if self.notify.is_some() {
            let path = self.notify_path.to_string_lossy().into_owned();
            variables.push(("NOTIFY_SOCKET".to_owned(), path));
        }
        if let Some(watchdog) = exec.watchdog {
            let time = watchdog.as_micros().to_string();
            variables.push(("WATCHDOG_USEC".to_owned(), time));
        }
        variables
    }

    /// What the instance has from descriptor 3 on.
    fn handed(&self) -> Vec<Arc<OwnedFd>> {
        let stored = self.stored.iter().map(|(_, file)| file);
        self.sockets.iter().chain(stored).cloned().collect()
    }
}

/// One instance.
struct HeldInstance {
    service: ServiceName,
    tree: Tree,
    state: HeldState,
    /// The supervisor waits to hear that its tree is gone, and this is to be done with it.
    asked: Option<Clear>,
    /// Something outlived its main process.
    remains: bool,
    /// The kernel's record has told of its exit, and all that a look would.
    is_told: bool,
    /// It was to be sent the stop signal, and could not be.
    owed_signal: Option<(Signal, Reach)>,
    /// It was to be killed, and could not be.
    owed_kill: Option<Reach>,
    /// What tells of it.
    tokens: Vec<u64>,
    /// How long its output file was when it was started, if the end of that is kept.
    output_start: Option<OutputStart>,
}

enum HeldState {
    /// Of an earlier agent; whether it lives could not be found out, or no descriptor was left to
    /// hold it by. It counts as living until that is known.
    Unheld,
    /// Its main process has not been released.
    Main(OwnedFd),
    /// Its main process is gone; nothing has been done with what is left of its tree.
    Dead,
    /// Its main process is gone, and what is left of its tree has been stopped.
    Leftover(RemainingTree),
    /// Nothing is left of it.
    Gone,
}

/// Where an agent can start services, and no other one does.
pub(super) struct Ground {
    spawner: Spawner,
    cgroups: Option<Cgroups>,
    fd_limit: Option<FdLimit>,
}

impl Ground {
    /// Finds the cgroups, and keeps other agents out of them.
    ///
    /// # Errors
    /// [`Refused::InUse`]; the kernel's.
    pub(super) fn claim(name: &Name, fd_limit: Option<FdLimit>) -> Result<Self> {
        let mut spawner = Spawner::new(fd_limit)?;
        let cgroups = match Cgroups::open(name, &mut spawner) {
            Ok(cgroups) => Some(cgroups),
            Err(error @ Refused::InUse(_)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(
                    "without cgroups: {error}; descendants with sessions of their own are not killed with their service"
                );
                None
            }
        };
        Ok(Self {
            spawner,
            cgroups,
            fd_limit,
        })
    }

    /// The limit on open files that services get.
    pub(super) fn fd_limit(&self) -> Option<FdLimit> {
        self.fd_limit
    }

    /// Whether instances will have cgroups of their own.
    pub(super) fn has_cgroups(&self) -> bool {
        self.cgroups.is_some()
    }
}

impl Instances {
    /// `place` tells agents on one host apart, in the markers.
    pub(super) fn new(ground: Ground, place: u64) -> io::Result<Self> {
        let Ground {
            spawner, cgroups, ..
        } = ground;
        let waiter = os::async_fd(Waiter::new()?, tokio::io::Interest::READABLE)?;
        Ok(Self {
            place,
            spawner,
            cgroups,
            services: HashMap::new(),
            held: HashMap::new(),
            by_service: HashMap::new(),
            main: HashMap::new(),
            tokens: HashMap::new(),
            last_token: 0,
            waiter,
            is_tight: false,
            unsettled: BTreeSet::new(),
            released: HashMap::new(),
        })
    }

    /// How many there are, those of which something is left included.
    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    /// Whose instance it is, if it is held.
    pub(super) fn service_of(&self, instance: &Instance) -> Option<&ServiceName> {
        self.held.get(instance).map(|held| &held.service)
    }

    /// Whether instances have cgroups of their own.
    pub(super) fn has_cgroups(&self) -> bool {
        self.cgroups.is_some()
    }

    /// An instance stood by, and was let go on then, in nanoseconds since boot.
    pub(super) fn released(&mut self, instance: Instance, at_ns: u64) {
        self.released.insert(instance, at_ns);
    }

    /// When it was let go on, in nanoseconds since boot, if it had stood by.
    pub(super) fn released_ns(&self, instance: &Instance) -> Option<u64> {
        self.released.get(instance).copied()
    }

    /// Since when it runs, in nanoseconds since boot.
    pub(super) fn began_ns(&self, instance: &Instance) -> u64 {
        self.released_ns(instance).unwrap_or(instance.start_time_ns)
    }

    /// What was laid out for the last start of a service, or its standby.
    pub(super) fn laid_out(&self, service: &ServiceName) -> Option<Arc<Prepared>> {
        self.services.get(service)?.command.clone()
    }

    /// What its next start needs: that of the last one, if nothing has changed.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub(super) fn lay_out_start(
        &mut self,
        service: &ServiceName,
        spec: &Arc<Spec>,
        places: &Places,
    ) -> Result<Arc<Prepared>, SpawnFailure> {
        self.prepare(service, spec, places)?;
        self.laid_out(service).ok_or_else(|| SpawnFailure {
            message: "not prepared".to_owned(),
        })
    }

    /// Living processes that tell of themselves, by their environment, that an agent like this one
    /// has started them.
    pub(super) fn marked(&self) -> io::Result<Vec<Marked>> {
        marker::find(self.place)
    }

    /// Begins to start a service; with a `record`, so that no process goes on before it is recorded.
    pub(super) fn begin(
        &mut self,
        service: &ServiceName,
        spec: &Arc<Spec>,
        attempt: Attempt,
        places: &Places,
        record: Option<Record<'_>>,
    ) -> Result<Flight, SpawnFailure> {
        if !self.has_room() {
            return Err(SpawnFailure {
                message: spawn::out_of_descriptors(),
            });
        }
        let command = self.lay_out_start(service, spec, places)?;
        let prelude = self.services.get(service);
        let cgroup = prelude.and_then(|it| it.cgroup.as_ref());
        let mut slot = cgroup.map(|cgroup| self.free_slot(service, cgroup));
        let limits = &spec.exec.confinement.cgroup;
        let without_effect = match &mut slot {
            Some(slot) => slot.limit(limits),
            None => cgroup_limits::keys(limits)
                .into_iter()
                .map(|key| format!("{key} has no effect: no cgroups are available"))
                .collect(),
        };
        for what in &without_effect {
            tracing::warn!(%service, "{what}");
        }
        if let Some(prelude) = self.services.get_mut(service) {
            prelude.without_effect = without_effect;
        }
        let marked = Arc::clone(&command);
        let flight = with_instances(&marked, attempt, record, |record| {
            self.spawner.begin(command, slot, record)
        });
        self.is_tight |= flight.pidfd().is_some_and(|fd| !spawn::leaves_reserve(fd));
        Ok(flight)
    }

    /// Waits until a start has come to its end; [`Instances::hold_started`] is to follow.
    ///
    /// # Errors
    /// The start has failed; `retry` may help.
    pub(super) fn finish(&mut self, flight: Flight) -> Result<Landed, Box<Aborted>> {
        self.spawner.finish(flight)
    }

    /// The same, but gives up after about a second.
    ///
    /// # Errors
    /// As [`Instances::finish`].
    pub(super) fn finish_soon(&mut self, flight: Flight) -> Result<Landed, Box<Aborted>> {
        self.spawner.finish_soon(flight)
    }

    /// Tries a start again that has failed, if that may help.
    pub(super) fn retry(
        &mut self,
        aborted: Box<Aborted>,
        attempt: Attempt,
        record: Option<Record<'_>>,
    ) -> Result<Landed, SpawnFailure> {
        let command = Arc::clone(aborted.command());
        let landed = with_instances(&command, attempt, record, |record| {
            self.spawner.retry(aborted, record)
        })?;
        Ok(landed)
    }

    /// Holds the instance that a start has come to.
    ///
    /// # Errors
    /// It cannot be waited for, and was killed.
    pub(super) fn hold_started(
        &mut self,
        service: &ServiceName,
        landed: Landed,
    ) -> Result<Instance, SpawnFailure> {
        let Landed { child, slot } = landed;
        let instance = Instance {
            pid: child.pid,
            start_time_ns: child.start_time_ns,
        };
        let tree = Tree::new(child.pid, child.start_time_ns, slot);
        self.hold(service, instance, tree, child.pidfd)
            .map_err(|(error, pidfd)| {
                // Without a way to see its end it must not live. As an orphan it will be reaped.
                let _ = signal::send(pidfd.as_fd(), Signal::KILL);
                SpawnFailure {
                    message: format!("cannot wait for the new process: {error}"),
                }
            })?;
        Ok(instance)
    }

    /// Whether one more descriptor leaves enough of them for other purposes.
    fn has_room(&mut self) -> bool {
        if self.is_tight {
            // Some low numbers may be free, which a start takes for a moment.
            let next = [(); LOW_NUMBERS].map(|()| self.waiter.as_fd().try_clone_to_owned());
            let leave_reserve =
                |next: &io::Result<OwnedFd>| next.as_ref().is_ok_and(spawn::leaves_reserve);
            self.is_tight = !next.iter().all(leave_reserve);
        }
        !self.is_tight
    }

    /// One of a service's cgroups that no instance is in, not even one that is on its way out.
    fn free_slot(&self, service: &ServiceName, cgroup: &ServiceCgroup) -> Slot {
        let mut slots = cgroup.slots().iter();
        slots
            .find(|slot| !self.is_taken(service, slot))
            .unwrap_or_else(|| cgroup.slot(0))
            .clone()
    }

    /// Which one an instance is in that is not held yet is not known.
    fn is_taken(&self, service: &ServiceName, slot: &Slot) -> bool {
        let instances = self.by_service.get(service).into_iter().flatten();
        let mut held = instances.filter_map(|instance| self.held.get(instance));
        held.any(|held| {
            let cgroup = held.tree.cgroup();
            matches!(held.state, HeldState::Unheld)
                || cgroup.is_some_and(|of| of.path() == slot.path())
        })
    }

    /// Takes over what an earlier agent started; of those that are gone only what is left of
    /// their trees is held. Of which that cannot be told now counts as living.
    pub(super) fn adopt(
        &mut self,
        service: &ServiceName,
        instances: impl IntoIterator<Item = Instance>,
    ) {
        let mut dead = Vec::new();
        for instance in instances {
            progress::count();
            match pidfd::identify(instance.pid, instance.start_time_ns) {
                Ok(Some(pidfd)) if is_alive(&pidfd) => {
                    let held = self.adopt_process(service, instance, pidfd);
                    self.settle_later(service, instance, held);
                }
                Ok(found) => dead.push((instance, found)),
                Err(error) => self.settle_later(service, instance, Err(error)),
            }
        }
        // Only now is known which cgroups the living ones are in.
        for (instance, zombie) in dead {
            if let Some(pidfd) = zombie {
                let held = self.adopt_process(service, instance, pidfd);
                self.settle_later(service, instance, held);
            } else {
                let slot = self.slot_left(service);
                let tree = Tree::new(instance.pid, instance.start_time_ns, slot);
                self.insert(service, instance, tree, HeldState::Dead, Vec::new());
            }
        }
    }

    /// Holds one that could not be taken over without a descriptor of it, until it can be.
    fn settle_later(&mut self, service: &ServiceName, instance: Instance, held: io::Result<()>) {
        if let Err(error) = held {
            tracing::error!(%service, pid = instance.pid, "cannot take it over yet: {error}");
            let tree = Tree::new(instance.pid, instance.start_time_ns, None);
            self.insert(service, instance, tree, HeldState::Unheld, Vec::new());
            self.unsettled.insert(instance);
        }
    }

    /// Takes over one that lives, or has ended and was not reaped. The cgroup of such a zombie may be
    /// the next instance's by now, and then what is in it is that one's.
    fn adopt_process(
        &mut self,
        service: &ServiceName,
        instance: Instance,
        pidfd: OwnedFd,
    ) -> io::Result<()> {
        if !spawn::leaves_reserve(&pidfd) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let cgroup = match &self.cgroups {
            Some(cgroups) => Some(cgroups.for_service(service)?),
            None => None,
        };
        let slot = cgroup.and_then(|cgroup| cgroup.holding(instance.pid).cloned());
        let slot = slot.filter(|slot| !self.is_taken(service, slot) || is_alive(&pidfd));
        let slot = slot.or_else(|| self.slot_left(service));
        let tree = Tree::new(instance.pid, instance.start_time_ns, slot);
        self.hold(service, instance, tree, pidfd)
            .map_err(|(error, _)| error)
    }

    /// Whether something could not be done, and is to be tried again before long.
    pub(super) fn wants_another_try(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Tries again what could not be done: for want of descriptors or memory, as a rule.
    pub(super) fn try_again(&mut self) -> Vec<Fact> {
        let unsettled = std::mem::take(&mut self.unsettled);
        unsettled
            .into_iter()
            .filter_map(|instance| self.settle(instance))
            .collect()
    }

    fn settle(&mut self, instance: Instance) -> Option<Fact> {
        let held = self.held.get(&instance)?;
        let service = held.service.clone();
        match held.state {
            HeldState::Unheld => {
                match pidfd::identify(instance.pid, instance.start_time_ns) {
                    Ok(Some(pidfd)) => match self.adopt_process(&service, instance, pidfd) {
                        Ok(()) => tracing::info!(%service, pid = instance.pid, "taken over now"),
                        Err(_) => drop(self.unsettled.insert(instance)),
                    },
                    Ok(None) => return Some(self.found_dead(service, instance)),
                    Err(_) => drop(self.unsettled.insert(instance)),
                }
                self.pay(instance);
                self.look(instance)
            }
            HeldState::Main(_) => {
                self.pay(instance);
                self.look(instance)
            }
            HeldState::Dead => {
                let how = held.asked?;
                self.clear_tree(&service, instance, how)
            }
            HeldState::Leftover(_) => {
                self.pay(instance);
                let fact = self.look(instance);
                // Nothing may tell of it: see `keep`.
                if let Some(HeldState::Leftover(_)) = self.held.get(&instance).map(|it| &it.state) {
                    self.unsettled.insert(instance);
                }
                fact
            }
            HeldState::Gone => None,
        }
    }

    /// Does what was owed to an instance.
    fn pay(&mut self, instance: Instance) {
        let Some(held) = self.held.get_mut(&instance) else {
            return;
        };
        if matches!(held.state, HeldState::Unheld) {
            return;
        }
        let kill = held.owed_kill.take();
        if let Some((signal, reach)) = held.owed_signal.take() {
            // An agent that starts after this one may not know of it, and send it again.
            self.stop(instance, signal, reach);
        }
        if let Some(reach) = kill {
            self.kill(instance, reach);
        }
    }

    /// One of an earlier agent that nothing was known of has ended meanwhile.
    fn found_dead(&mut self, service: ServiceName, instance: Instance) -> Fact {
        self.main.remove(&instance.pid);
        if let Some(held) = self.held.get_mut(&instance) {
            // Else its place would count as taken.
            held.state = HeldState::Dead;
        }
        let slot = self.slot_left(&service);
        if let Some(held) = self.held.get_mut(&instance) {
            held.tree = Tree::new(instance.pid, instance.start_time_ns, slot);
        }
        Fact::ProcessReleased {
            service,
            instance,
            death: super::ends::death_of(None),
        }
    }

    /// Where the rest of a tree may be: a cgroup of the service's that is no other instance's, one
    /// with something in it if there is one.
    fn slot_left(&self, service: &ServiceName) -> Option<Slot> {
        let cgroup = self.cgroups.as_ref()?.for_service(service).ok()?;
        let slots = cgroup.all();
        let left: Vec<&Slot> = slots.filter(|slot| !self.is_taken(service, slot)).collect();
        let populated =
            |slot: &&&Slot| slot.is_populated().unwrap_or(false) && slot.is_ours().unwrap_or(false);
        let slot = left.iter().find(populated).or(left.first());
        slot.map(|slot| (*slot).clone())
    }

    /// Whether it is held and its main process has not been released.
    pub(super) fn is_main(&self, instance: Instance) -> bool {
        self.main.get(&instance.pid) == Some(&instance)
    }

    /// Whether its main process has ended.
    pub(super) fn has_ended(&self, instance: Instance) -> bool {
        match self.held.get(&instance).map(|held| &held.state) {
            Some(HeldState::Main(pidfd)) => pidfd::has_exited(pidfd.as_fd()).unwrap_or(true),
            Some(HeldState::Unheld) => false,
            _ => true,
        }
    }

    /// Kills what lives in those of a service's cgroups that no held instance is in, and returns
    /// a process of each, to be adopted: its end, and then that of its cgroup, are waited for.
    pub(super) fn kill_unknown(&self, service: &ServiceName) -> Vec<Instance> {
        let Some(cgroups) = &self.cgroups else {
            return Vec::new();
        };
        let killed = cgroups.for_service(service).and_then(|cgroup| {
            let unknown = cgroup.all().filter(|slot| !self.is_taken(service, slot));
            unknown.map(kill_all_in).collect::<io::Result<Vec<_>>>()
        });
        match killed {
            Ok(killed) => killed.into_iter().flatten().collect(),
            Err(error) => {
                tracing::error!(%service, "cannot look at its cgroups: {error}");
                Vec::new()
            }
        }
    }

    /// Lays out what the next start of a service needs, if its spec is another than the last one.
    fn prepare(
        &mut self,
        service: &ServiceName,
        spec: &Arc<Spec>,
        places: &Places,
    ) -> Result<(), SpawnFailure> {
        let variables = places.files(&spec.exec)?;
        let handed = places.handed();
        if self.services.get(service).is_some_and(|prelude| {
            Arc::ptr_eq(&prelude.spec, spec)
                // What is mounted may be something else by now.
                && spec.exec.confinement.sandbox.is_nothing()
                && prelude.variables == variables
                && prelude.command.as_ref().is_some_and(|command| {
                    command.notifies(places.notify.as_ref()) && command.has_sockets(&handed)
                })
        }) {
            return Ok(());
        }
        let marker = Marker::new(self.place, service);
        let own = places.variables(service, &spec.exec);
        let command = self
            .spawner
            .prepare(&complete(&spec.exec, &variables, own)?)?;
        for what in command.lowered() {
            tracing::warn!(%service, "{what}");
        }
        let command = match spec.exec.ready {
            Some(Ready::Fd(fd)) => command.with_ready(&places.ready, fd)?,
            _ => command,
        };
        let command = match spec.log {
            Some(_) => command.with_log(&places.fifo)?,
            None => command,
        };
        let command = command
            .with_notify(places.notify.clone())
            .with_sockets(handed);
        let command = Arc::new(command.with_marker(marker));
        let prelude = Prelude {
            spec: spec.clone(),
            variables,
            command: Some(command),
            cgroup: self.cgroup_of(service)?,
            without_effect: Vec::new(),
        };
        self.services.insert(service.clone(), Box::new(prelude));
        Ok(())
    }

    /// The cgroup of a service; `None`: there are none to use.
    fn cgroup_of(&self, service: &ServiceName) -> Result<Option<ServiceCgroup>, SpawnFailure> {
        let Some(cgroups) = &self.cgroups else {
            return Ok(None);
        };
        let cgroup = cgroups.for_service(service);
        cgroup.map(Some).map_err(|error| SpawnFailure {
            message: format!("cannot make its cgroup: {error} (cgroup)"),
        })
    }

    /// Lays out the start of a forking service, whose command does not become its instance.
    ///
    /// # Errors
    /// What is not there; without cgroups nobody would know of its main process if the agent died
    /// meanwhile.
    pub(super) fn lay_out(
        &mut self,
        service: &ServiceName,
        spec: &Arc<Spec>,
        places: &Places,
    ) -> Result<Laid, SpawnFailure> {
        let cgroup = self.cgroup_of(service)?.ok_or_else(|| SpawnFailure {
            message:
                "type = \"forking\" needs cgroup v2, which cannot be used here (see `respawn doctor`)"
                    .to_owned(),
        })?;
        let variables = places.files(&spec.exec)?;
        let own = places.variables(service, &spec.exec);
        let exec = complete(&spec.exec, &variables, own)?;
        let mut slot = self.free_slot(service, &cgroup);
        let without_effect = slot.limit(&spec.exec.confinement.cgroup);
        for what in &without_effect {
            tracing::warn!(%service, "{what}");
        }
        let prelude = Prelude {
            spec: Arc::clone(spec),
            variables,
            command: None,
            cgroup: Some(cgroup),
            without_effect,
        };
        self.services.insert(service.clone(), Box::new(prelude));
        let launch = Launch {
            program: exec.program.clone(),
            arguments: exec.arguments.clone(),
            pid_file: spec.policy.pid_file.clone(),
            timeout: spec.policy.start_timeout,
        };
        Ok(Laid { exec, slot, launch })
    }

    /// Holds the main process that the command of a forking service has left.
    ///
    /// # Errors
    /// It has ended, or has left the service's cgroup, or cannot be waited for.
    pub(super) fn hold_launched(
        &mut self,
        service: &ServiceName,
        pid: Option<u32>,
    ) -> Result<Instance, SpawnFailure> {
        let failed = |message: String| SpawnFailure { message };
        let pid = pid.ok_or_else(|| failed("its main process is not known".to_owned()))?;
        let ended = || failed(format!("its main process, {pid}, ended at once"));
        let start_time_ns = proc::start_time_ns(pid).map_err(|_| ended())?;
        let instance = Instance { pid, start_time_ns };
        let pidfd =
            pidfd::identify(pid, start_time_ns).map_err(|error| failed(error.to_string()))?;
        let pidfd = pidfd.filter(is_alive).ok_or_else(ended)?;
        let cgroup = self.services.get(service).and_then(|it| it.cgroup.as_ref());
        if cgroup.and_then(|cgroup| cgroup.holding(pid)).is_none() {
            return Err(failed(format!(
                "its main process, {pid}, has left the service's cgroup"
            )));
        }
        self.adopt_process(service, instance, pidfd)
            .map_err(|error| failed(format!("cannot wait for the new process: {error}")))?;
        Ok(instance)
    }

    /// Holds another process of its tree as the main process of an instance. The one before it is a
    /// process of the tree as any other, from then on.
    ///
    /// # Errors
    /// In words: it is not one of the tree, or has ended, or nothing may be known of it.
    pub(super) fn change_main(
        &mut self,
        service: &ServiceName,
        from: Instance,
        pid: u32,
    ) -> Result<Instance, String> {
        let held = self.held.get(&from);
        let held = held.filter(|held| matches!(held.state, HeldState::Main(_)));
        let held = held.ok_or("its main process has ended")?;
        let slot = held.tree.cgroup().cloned();
        let slot = slot.ok_or("that needs cgroup v2, which cannot be used here")?;
        let ended = || "that process has ended".to_owned();
        let start_time_ns = proc::start_time_ns(pid).map_err(|_| ended())?;
        let to = Instance { pid, start_time_ns };
        let pidfd = pidfd::identify(pid, start_time_ns).map_err(|error| error.to_string())?;
        let pidfd = pidfd.filter(is_alive).ok_or_else(ended)?;
        if self.has_in_tree(&from, pid) != Some(true) {
            return Err("that process is not of the service".to_owned());
        }
        if !spawn::leaves_reserve(&pidfd) {
            return Err(spawn::out_of_descriptors());
        }
        let tree = Tree::new(pid, start_time_ns, Some(slot));
        self.hold(service, to, tree, pidfd)
            .map_err(|(error, _)| format!("cannot wait for it: {error}"))?;
        self.main.remove(&from.pid);
        if let Some(old) = self.held.remove(&from) {
            for token in &old.tokens {
                self.tokens.remove(token);
            }
            if let Some(new) = self.held.get_mut(&to) {
                (new.owed_signal, new.owed_kill) = (old.owed_signal, old.owed_kill);
                new.output_start = old.output_start;
            }
        }
        if let Some(of_service) = self.by_service.get_mut(service) {
            of_service.retain(|other| *other != from);
        }
        Ok(to)
    }

    /// Its output begins there.
    pub(super) fn note_output_start(&mut self, instance: &Instance, start: OutputStart) {
        if let Some(held) = self.held.get_mut(instance) {
            held.output_start = Some(start);
        }
    }

    /// Where its output began, if this agent has started it.
    pub(super) fn output_start(&self, instance: &Instance) -> Option<OutputStart> {
        self.held.get(instance)?.output_start
    }

    /// The environment of what is run on behalf of a service: with what its files say now, or said at its
    /// last start where they may be read at starts alone.
    ///
    /// # Errors
    /// They cannot be read, or were not by this agent.
    pub(super) fn environment_now(
        &self,
        service: &str,
        exec: &Exec,
        instance: Instance,
    ) -> Result<BTreeMap<String, String>, SpawnFailure> {
        match self.services.get(service) {
            Some(prelude) if may_hang(exec).is_some() => {
                Ok(environment_with(exec, &prelude.variables, instance))
            }
            _ => environment_now(exec, instance),
        }
    }

    /// Which limits of a service's last start have no effect.
    pub(super) fn without_effect(&self, service: &str) -> Option<String> {
        let without = &self.services.get(service)?.without_effect;
        (!without.is_empty()).then(|| without.join("; "))
    }

    /// Lets go of what was laid out for a service's next start.
    pub(super) fn lay_out_again(&mut self, service: &ServiceName) {
        if let Some(prelude) = self.services.get_mut(service) {
            prelude.command = None;
        }
    }

    /// Lets go of what was laid out for a service that is no more.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        self.by_service.remove(service);
        let prelude = self.services.remove(service);
        if let Some(cgroup) = prelude.and_then(|prelude| prelude.cgroup) {
            // Busy, if something is in it after all: the next agent prunes it.
            let _ = cgroup.remove();
        }
    }

    /// Removes what earlier agents have left of cgroups, but for those of these services.
    pub(super) fn prune_cgroups<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) {
        if let Some(cgroups) = &self.cgroups {
            cgroups.prune(services.map(|service| &**service));
        }
    }

    /// After a shutdown nothing is in them.
    pub(super) fn remove_cgroups(&mut self) {
        if let Some(cgroups) = self.cgroups.take() {
            cgroups.remove();
        }
    }

    fn hold(
        &mut self,
        service: &ServiceName,
        instance: Instance,
        tree: Tree,
        pidfd: OwnedFd,
    ) -> Result<(), (io::Error, OwnedFd)> {
        let token = self.token(instance);
        if let Err(error) = self.waiter.get_ref().add(&pidfd, Interest::Readable, token) {
            self.tokens.remove(&token);
            return Err((error, pidfd));
        }
        self.insert(service, instance, tree, HeldState::Main(pidfd), vec![token]);
        Ok(())
    }

    fn insert(
        &mut self,
        service: &ServiceName,
        instance: Instance,
        tree: Tree,
        state: HeldState,
        tokens: Vec<u64>,
    ) {
        if matches!(state, HeldState::Main(_) | HeldState::Unheld) {
            self.main.insert(instance.pid, instance);
        }
        if let Some(held) = self.held.get_mut(&instance) {
            (held.tree, held.state, held.tokens) = (tree, state, tokens);
            return;
        }
        self.by_service
            .entry(service.clone())
            .or_default()
            .push(instance);
        let service = service.clone();
        self.held.insert(
            instance,
            Box::new(HeldInstance {
                service,
                tree,
                state,
                asked: None,
                remains: false,
                is_told: false,
                owed_signal: None,
                owed_kill: None,
                tokens,
                output_start: None,
            }),
        );
    }

    fn token(&mut self, instance: Instance) -> u64 {
        self.last_token += 1;
        self.tokens.insert(self.last_token, instance);
        self.last_token
    }

    /// Waits until `take_ready` has something to say. Cancellation loses nothing.
    pub(super) async fn ready(&mut self) -> io::Result<()> {
        self.waiter.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// Of which instances something is known by now, by their tokens, for `look_at`.
    pub(super) fn take_ready(&mut self) -> Vec<u64> {
        let mut ready = Vec::new();
        if let Err(error) = self.waiter.get_mut().drain(&mut ready) {
            tracing::error!("cannot read the epoll instance: {error}");
        }
        ready.into_iter().map(|(token, _)| token).collect()
    }

    /// What has become of the instances: releases, and trees that are gone.
    pub(super) fn look_at(&mut self, ready: Vec<u64>) -> Vec<Fact> {
        ready
            .into_iter()
            .filter_map(|token| self.look(*self.tokens.get(&token)?))
            .collect()
    }

    /// Reaps children that are no instance's main process, hooks among them; tells of those that
    /// are.
    pub(super) fn reap(
        &mut self,
        children: &mut Children<'_>,
        is_starting: impl Fn(u32) -> bool,
        now: Instant,
    ) -> Vec<Fact> {
        let mut facts = Vec::new();
        loop {
            let is_known =
                |pid| self.main.contains_key(&pid) || children.has(pid) || is_starting(pid);
            match pidfd::reap_orphans(is_known) {
                Ok(Some(pid)) if children.has(pid) => facts.extend(children.reap(pid, now)),
                Ok(Some(pid)) => match self
                    .main
                    .get(&pid)
                    .copied()
                    .and_then(|instance| self.look(instance))
                {
                    Some(fact) => facts.push(fact),
                    None => return facts,
                },
                Ok(None) => return facts,
                Err(error) => {
                    tracing::error!("cannot reap: {error}");
                    return facts;
                }
            }
        }
    }

    /// The kernel's record of its exit has come.
    pub(super) fn told(&mut self, instance: &Instance) {
        if let Some(held) = self.held.get_mut(instance) {
            held.is_told = true;
        }
    }

    /// Whether it is in a cgroup in which nobody else's processes are.
    pub(super) fn has_own_cgroup(&self, instance: &Instance) -> bool {
        let held = self.held.get(instance);
        held.is_some_and(|held| held.tree.cgroup().is_some())
    }

    /// Its main process, while that is held.
    pub(super) fn process(&self, instance: &Instance) -> Option<BorrowedFd<'_>> {
        match &self.held.get(instance)?.state {
            HeldState::Main(pidfd) => Some(pidfd.as_fd()),
            _ => None,
        }
    }

    /// Whether that process is one of its tree; `None`: that cannot be told, as it has ended or there
    /// are no cgroups.
    pub(super) fn has_in_tree(&self, instance: &Instance, pid: u32) -> Option<bool> {
        if pid == instance.pid {
            return Some(true);
        }
        let cgroup = self.held.get(instance)?.tree.cgroup()?;
        Some(cgroup.contains(&proc::cgroup_path(pid)?))
    }

    /// The ID of its own cgroup, if it has one.
    pub(super) fn cgroup_id(&self, instance: &Instance) -> Option<u64> {
        self.held.get(instance)?.tree.cgroup()?.id()
    }

    /// The directory of its own cgroup, if it has one.
    pub(super) fn cgroup_path(&self, instance: &Instance) -> Option<&Path> {
        Some(self.held.get(instance)?.tree.cgroup()?.path())
    }

    /// The processes of a service: those of its trees, and those that earlier ones have left alone.
    pub(super) fn processes(&self, service: &ServiceName) -> io::Result<[BTreeSet<u32>; 2]> {
        let held: BTreeSet<u32> = self.mains_of(service).map(|main| main.pid).collect();
        let Some(cgroups) = &self.cgroups else {
            return Ok([tree::members_of_sessions(&held)?, BTreeSet::new()]);
        };
        let cgroup = cgroups.place_of(service);
        let mut processes = held;
        for slot in cgroup.all() {
            if slot.is_ours()? {
                processes.extend(slot.pids()?);
            }
        }
        Ok([processes, cgroup.left_alone()?.into_iter().collect()])
    }

    /// The main processes of a service that live, with what they are held by.
    pub(super) fn living(&self, service: &ServiceName) -> Vec<(u32, BorrowedFd<'_>)> {
        let mains = self.mains_of(service);
        let mains = mains.filter(|instance| !self.has_ended(*instance));
        mains
            .filter_map(|instance| Some((instance.pid, self.process(&instance)?)))
            .collect()
    }

    /// The main processes that have not been released.
    fn mains_of(&self, service: &ServiceName) -> impl Iterator<Item = Instance> {
        let held = self.by_service.get(service).into_iter().flatten();
        held.copied().filter(|instance| self.is_main(*instance))
    }

    /// Looks at one instance of which something was told.
    pub(super) fn look(&mut self, instance: Instance) -> Option<Fact> {
        progress::count();
        let held = self.held.get_mut(&instance)?;
        match &mut held.state {
            HeldState::Main(pidfd) => {
                if !pidfd::has_exited(pidfd.as_fd()).unwrap_or(true) {
                    return None;
                }
                let (service, death) = (held.service.clone(), self.release(instance)?);
                Some(Fact::ProcessReleased {
                    service,
                    instance,
                    death,
                })
            }
            HeldState::Leftover(rest) => match rest.is_gone() {
                Ok(false) => None,
                Ok(true) => {
                    held.state = HeldState::Gone;
                    held.asked.and_then(|_| self.tree_gone(instance))
                }
                Err(error) => {
                    tracing::error!(service = %held.service, "cannot look at its tree: {error}");
                    self.unsettled.insert(instance);
                    None
                }
            },
            HeldState::Unheld | HeldState::Dead | HeldState::Gone => None,
        }
    }

    /// Reaps an ended main process, and looks whether anything is left of its tree.
    fn release(&mut self, instance: Instance) -> Option<Death> {
        let began_ns = self.began_ns(&instance);
        let held = self.held.get_mut(&instance)?;
        let HeldState::Main(pidfd) = &held.state else {
            return None;
        };
        let stat = (!held.is_told).then(|| proc::stat(instance.pid).ok());
        let comm = stat.flatten().filter(proc::Stat::is_zombie);
        let released = held.tree.release(pidfd.as_fd());
        if let Some(problem) = released.problem {
            tracing::error!(service = %held.service, "its tree may not be gone: {problem}");
        }
        let status = match released.main {
            Reaped::Status(status) => Some(status),
            Reaped::Running | Reaped::NotOurChild => None,
        };
        let status = status.or_else(|| process::exit_status(pidfd.as_fd()));
        let cause = status.map_or(Cause::Unknown, Cause::from_wait_status);
        let uptime = proc::since_boot_ns().saturating_sub(began_ns);
        held.remains = released.remains;
        held.state = match released.remains {
            true => HeldState::Dead,
            false => HeldState::Gone,
        };
        self.main.remove(&instance.pid);
        Some(Death {
            blame: decode::blame(&cause, None),
            cause,
            comm: comm.map(|stat| stat.comm),
            uptime: Some(Duration::from_nanos(uptime)),
            time: Some(clock::now()),
            since_boot: Some(clock::since_boot()),
        })
    }

    /// Waits for what is left of a tree.
    fn keep(&mut self, instance: Instance, leftover: Leftover) {
        let mut tokens = Vec::new();
        let state = match leftover {
            Leftover::None | Leftover::Alone => HeldState::Gone,
            Leftover::Some(rest) => {
                let token = self.token(instance);
                tokens.push(token);
                if let Err(error) = self.waiter.get_ref().add(&rest, Interest::Readable, token) {
                    tracing::error!("cannot wait for the rest of a tree: {error}");
                }
                // Looked at again by time too: what the kernel tells late of a cgroup, it does not
                // tell at all if somebody removes the cgroup meanwhile (CGROUP_FILE_NOTIFY_MIN_INTV).
                self.unsettled.insert(instance);
                HeldState::Leftover(rest)
            }
        };
        if let Some(held) = self.held.get_mut(&instance) {
            held.state = state;
            held.tokens.append(&mut tokens);
        }
    }

    /// Whether something of an instance's tree lives on, as far as that is known without a look.
    pub(super) fn remains(&self, instance: Instance) -> bool {
        let held = self.held.get(&instance);
        held.is_some_and(|held| held.remains && matches!(held.state, HeldState::Dead))
    }

    /// Answers `Action::ClearTree`, now or by a later `take_ready`. Those that are left and have got
    /// the stop signal now are told of first.
    pub(super) fn clear_tree(
        &mut self,
        service: &ServiceName,
        instance: Instance,
        how: Clear,
    ) -> Option<Fact> {
        let Some(held) = self.held.get_mut(&instance) else {
            return Some(Fact::TreeGone {
                service: service.clone(),
                instance,
            });
        };
        held.asked = Some(how);
        if matches!(held.state, HeldState::Dead) {
            let leftover = match held.tree.clear(how) {
                Ok(leftover) => leftover,
                Err(error) => {
                    tracing::error!(%service, "cannot clear its tree: {error}");
                    if is_passing(&error) {
                        self.unsettled.insert(instance);
                        return None;
                    }
                    Leftover::None
                }
            };
            self.keep(instance, leftover);
        }
        let service = service.clone();
        match (&self.held.get(&instance)?.state, how) {
            (HeldState::Gone, _) => self.tree_gone(instance),
            (_, Clear::Stop(_)) => Some(Fact::StopSent { service, instance }),
            _ => None,
        }
    }

    fn tree_gone(&mut self, instance: Instance) -> Option<Fact> {
        let held = *self.held.remove(&instance)?;
        self.released.remove(&instance);
        for token in &held.tokens {
            self.tokens.remove(token);
        }
        if let Some(of_service) = self.by_service.get_mut(&held.service) {
            of_service.retain(|other| *other != instance);
        }
        Some(Fact::TreeGone {
            service: held.service,
            instance,
        })
    }

    /// Sends a signal to an instance's main process. `false`: that has ended.
    ///
    /// # Errors
    /// The kernel's: it is another user's, and the agent is not root. It is not held yet.
    pub(super) fn signal(&self, instance: Instance, signal: Signal) -> io::Result<bool> {
        match self.held.get(&instance).map(|held| &held.state) {
            Some(HeldState::Main(pidfd)) => signal::send(pidfd.as_fd(), signal),
            Some(HeldState::Unheld) => Err(io::Error::other("it is not taken over yet")),
            _ => Ok(false),
        }
    }

    /// Sends the stop signal. One that is not held yet gets it later.
    pub(super) fn stop(
        &mut self,
        instance: Instance,
        signal: Signal,
        reach: Reach,
    ) -> Option<Fact> {
        let held = self.held.get_mut(&instance)?;
        let sent = match (&held.state, reach) {
            (HeldState::Unheld, _) => {
                held.owed_signal = Some((signal, reach));
                return None;
            }
            (HeldState::Main(pidfd), Reach::Tree) => held.tree.stop_all(pidfd.as_fd(), signal),
            (HeldState::Main(pidfd), Reach::Main) => tree::stop_main(pidfd.as_fd(), signal),
            // What is left will be stopped by itself.
            (HeldState::Dead | HeldState::Leftover(_) | HeldState::Gone, _) => return None,
        };
        if let Err(error) = sent {
            tracing::error!(service = %held.service, pid = instance.pid, %signal, "cannot send a signal: {error}");
        }
        let service = held.service.clone();
        Some(Fact::StopSent { service, instance })
    }

    /// SIGKILL to what lives of an instance.
    pub(super) fn kill(&mut self, instance: Instance, reach: Reach) {
        let Some(held) = self.held.get_mut(&instance) else {
            return;
        };
        let killed = match (&mut held.state, reach) {
            (HeldState::Main(pidfd), Reach::Tree) => held.tree.kill_all(pidfd.as_fd()),
            (HeldState::Main(pidfd), Reach::Main) => {
                signal::send(pidfd.as_fd(), Signal::KILL).map(drop)
            }
            (HeldState::Leftover(rest), Reach::Tree) => rest.kill(),
            (HeldState::Unheld, _) => {
                held.owed_kill = Some(reach);
                return;
            }
            (HeldState::Dead, Reach::Tree) => {
                // It could not be seen to so far.
                held.asked = held.asked.map(|_| Clear::Kill);
                return;
            }
            (HeldState::Leftover(_) | HeldState::Dead, Reach::Main) | (HeldState::Gone, _) => {
                return;
            }
        };
        if let Err(error) = killed {
            tracing::error!(service = %held.service, pid = instance.pid, "cannot kill its tree: {error}");
            if is_passing(&error) {
                held.owed_kill = Some(reach);
                self.unsettled.insert(instance);
            }
        }
    }

    /// Those whose main process has ended by now, whether or not that was told.
    pub(super) fn look_at_all(&mut self) -> Vec<Fact> {
        let all: Vec<Instance> = self.held.keys().copied().collect();
        all.into_iter()
            .filter_map(|instance| self.look(instance))
            .collect()
    }
}

/// Readable while `take_ready` has something to tell.
impl AsFd for Instances {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiter.get_ref().as_fd()
    }
}

/// What is run: with what the environment files say, and with the variables of `command` replaced.
fn complete(
    exec: &Exec,
    variables: &[Variables],
    own: Vec<(String, String)>,
) -> Result<Exec, SpawnFailure> {
    let mut environment = environment(exec, variables);
    if !exec.listen.is_empty() {
        // The child itself says that they are for it.
        environment.remove("LISTEN_PID");
    }
    environment.extend(own);
    let arguments = config::expand(&exec.arguments, &environment);
    Ok(Exec {
        arguments: arguments.map_err(|unset| SpawnFailure {
            message: format!("cannot expand its command: {unset}"),
        })?,
        environment,
        ..exec.clone()
    })
}

fn environment(exec: &Exec, variables: &[Variables]) -> BTreeMap<String, String> {
    let mut environment = exec.environment.clone();
    for (file, variables) in exec.environment_file.iter().zip(variables) {
        file.lay_under(&mut environment, variables.clone());
    }
    environment
}

/// The environment of what is run on behalf of a service: its own, with what its files say now, and the pid
/// of that instance's main process.
///
/// # Errors
/// One of the files cannot be read, or may be where nobody answers.
pub(super) fn environment_now(
    exec: &Exec,
    instance: Instance,
) -> Result<BTreeMap<String, String>, SpawnFailure> {
    if let Some(file) = may_hang(exec) {
        return Err(SpawnFailure {
            message: format!(
                "cannot read its environment_file: {} is on a mount whose server may be gone, and is only read at starts",
                file.path.display()
            ),
        });
    }
    Ok(environment_with(exec, &variables(exec)?, instance))
}

/// The same, with what its files say known.
pub(super) fn environment_with(
    exec: &Exec,
    variables: &[Variables],
    instance: Instance,
) -> BTreeMap<String, String> {
    let mut environment = environment(exec, variables);
    if instance != Instance::NONE {
        environment.insert("MAINPID".to_owned(), instance.pid.to_string());
    }
    environment
}

/// The first of a service's environment files that the agent cannot read itself without waiting for
/// somebody who may never answer.
pub(super) fn may_hang(exec: &Exec) -> Option<&EnvironmentFile> {
    let mut files = exec.environment_file.iter();
    files.find(|file| mounts::may_hang(&file.path))
}

/// What each of the environment files says now.
fn variables(exec: &Exec) -> Result<Vec<Variables>, SpawnFailure> {
    config::read_environment_files(&exec.environment_file, exec.identity.as_ref())
        .map_err(|message| SpawnFailure { message })
}

/// Whether it may be otherwise before long: something has run out.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC | libc::EAGAIN | libc::EINTR
        )
    )
}

/// Whether the process has not ended, as far as can be told.
fn is_alive(pidfd: &OwnedFd) -> bool {
    !pidfd::has_exited(pidfd.as_fd()).unwrap_or(false)
}

/// Calls the spawner with a `record` that gets the instance, and marks that before.
fn with_instances<T>(
    command: &Prepared,
    attempt: Attempt,
    record: Option<Record<'_>>,
    call: impl FnOnce(Option<&mut spawn::Record<'_>>) -> T,
) -> T {
    let Some(record) = record else {
        return call(None);
    };
    call(Some(&mut |pid, start_time_ns| {
        let instance = Instance { pid, start_time_ns };
        command.mark(attempt, instance);
        record(instance)
    }))
}

/// How often, and how long each time, it is waited for the end of processes that are dying.
const DYING_LOOKS: u32 = 50;
const DYING_PAUSE: Duration = Duration::from_millis(2);

/// Whether something lives in a cgroup that has not been killed already, as what stood by was together with
/// the agent before this one.
fn has_living(slot: &Slot) -> io::Result<bool> {
    let mut has_living = Ok(true);
    wait_for_end(|| {
        has_living = slot.is_populated();
        let pids = slot.pids().unwrap_or_default();
        matches!(has_living, Ok(true)) && pids.into_iter().all(proc::is_dying)
    });
    has_living
}

/// Waits as long as something is dying, but for a tenth of a second at most.
pub(super) fn wait_for_end(mut is_dying: impl FnMut() -> bool) {
    for _ in 0..DYING_LOOKS {
        if !is_dying() {
            return;
        }
        progress::count();
        std::thread::sleep(DYING_PAUSE);
    }
}

/// Kills all that lives in a cgroup, and returns one of it, if anything does.
fn kill_all_in(slot: &Slot) -> io::Result<Option<Instance>> {
    if !has_living(slot)? || !slot.is_ours()? {
        return Ok(None);
    }
    let found = slot.pids()?.into_iter().find_map(|pid| {
        let start_time_ns = proc::start_time_ns(pid).ok()?;
        Some(Instance { pid, start_time_ns })
    });
    slot.kill()?;
    Ok(found)
}

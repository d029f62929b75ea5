//! Standbys: of a service with `standby = true` the next instance, loaded and stopped before its program's
//! first instruction (`os/trace.rs`), so that a start is no more than letting it run.
//!
//! ```text
//! the supervisor wants one ─▶ due ─make─▶ loading ─look─▶ ready ─release─▶ an instance
//!                              ▲             │              │
//!                              └─ again ─────┴── outdated, killed, sent a signal: killed here
//! ```
//!
//! A standby is no instance: no memory, no birth and no event knows of it before its release, and the kernel
//! kills it when this agent ends. It is released only if a start would run the same: it was made from what is
//! laid out for that start (`Instances::lay_out_start`), and program, libraries, output and directories are
//! those on disk. It is made in the cgroup that the service's instance is not in, and only while no earlier
//! one is left.
//!
//! When one is wanted is the supervisor's to say (`Status::standby`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};

use super::instances::{self, Places};
use super::{Agent, Instances};
use crate::control::{self, StandbyState};
use crate::decode::Birth;
use crate::model::{
    Attempt, Exec, Instance, Output, Ready, ServiceName, Signal, Spec, StandbyWish,
};
use crate::os::cgroup::Slot;
use crate::os::inotify::Watch;
use crate::os::spawn::{self, Child, Landed, Prepared};
use crate::os::standby_files::{Files, Snapshot};
use crate::os::trace::{self, Seen, Traced};
use crate::os::{mounts, pidfd, proc, progress, signal, trust};
use crate::supervisor::Fact;

/// So many load at a time.
const AT_ONCE: usize = 4;

/// So long one may take to load.
const LOADS_WITHIN: Duration = Duration::from_secs(10);

/// Until one is made again: after a disturbance, or after the last change of a file.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, if it fails again and again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// So long it is waited for the end of one that was killed.
const ENDS_WITHIN: Duration = Duration::from_millis(20);

/// Of a file that is in use: it is written to, or is not what is at its path any more.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF);

/// All standbys, and those to come.
pub(super) struct Standbys {
    made: HashMap<ServiceName, Standby>,
    by_pid: HashMap<u32, ServiceName>,
    due: BTreeSet<ServiceName>,
    /// Until when those that are being loaded have to be.
    loading: BTreeMap<ServiceName, Instant>,
    /// When those are due again that have failed.
    again: BTreeMap<ServiceName, Instant>,
    /// Why there is none, of services that are to have one.
    troubles: BTreeMap<ServiceName, Trouble>,
    /// `None`: a change is seen when it would be released.
    watch: Option<Watch>,
    watched: HashMap<WatchDescriptor, BTreeSet<ServiceName>>,
}

struct Standby {
    child: Child,
    slot: Option<Slot>,
    traced: Traced,
    /// What it was made from.
    spec: Arc<Spec>,
    command: Arc<Prepared>,
    /// What was mounted then.
    mounts: Option<u64>,
    /// What it runs and has open, as that was before it was made.
    snapshots: Vec<Snapshot>,
    /// The same of all that it has loaded; `None`: it is loading.
    files: Option<Files>,
    /// Which of them the kernel tells changes of.
    watched: Vec<WatchDescriptor>,
}

/// Why there is no standby.
struct Trouble {
    why: String,
    failures: u32,
    spec: Arc<Spec>,
}

impl Standby {
    fn is_loading(&self) -> bool {
        self.files.is_none()
    }

    /// Whether a start would still run and open what it does, if it has loaded these files.
    fn is_up_to_date(&self, files: &Files) -> bool {
        let same_mounts = self.mounts.is_some() && self.mounts == mounts::version();
        let mut snapshots = self.snapshots.iter();
        snapshots.all(|it| it.is_as_it_was(same_mounts)) && files.are_as_they_were(same_mounts)
    }

    /// Ends it, with what its libraries have started. Nobody is told.
    fn kill(self) {
        let Child { pid, pidfd, .. } = &self.child;
        // It leads its group until it is reaped.
        let _ = signal::send_to_group(pidfd.as_fd(), *pid, Signal::KILL);
        let _ = signal::send(pidfd.as_fd(), Signal::KILL);
        reap_soon(pidfd);
        if let Some(slot) = &self.slot
            && slot.is_populated().unwrap_or(false)
            && let Err(error) = slot.kill()
        {
            tracing::warn!("cannot kill what is in {}: {error}", slot.path().display());
        }
    }
}

/// Reaps one that was killed, so that its cgroup is empty. One that hangs in the kernel is reaped as any
/// orphan is.
fn reap_soon(pidfd: &OwnedFd) {
    if pidfd::ends_within(pidfd.as_fd(), ENDS_WITHIN) {
        let _ = pidfd::reap(pidfd.as_fd());
    }
}

impl Standbys {
    pub(super) fn new() -> Self {
        let watch = Watch::new()
            .map_err(|error| tracing::warn!("changes of loaded programs are seen late: {error}"))
            .ok();
        Self {
            made: HashMap::new(),
            by_pid: HashMap::new(),
            due: BTreeSet::new(),
            loading: BTreeMap::new(),
            again: BTreeMap::new(),
            troubles: BTreeMap::new(),
            watch,
            watched: HashMap::new(),
        }
    }

    /// Whether this process is one, and has not been reaped.
    pub(super) fn is_standby(&self, pid: u32) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// The process of a service that stands by.
    pub(super) fn pid(&self, service: &str) -> Option<u32> {
        self.made.get(service).map(|standby| standby.child.pid)
    }

    /// For people and programs. `None`: the service is to have none.
    pub(super) fn shown(&self, service: &str, spec: &Spec) -> Option<control::Standby> {
        if !spec.policy.standby {
            return None;
        }
        let none = |why| control::Standby {
            state: StandbyState::None,
            pid: None,
            memory_bytes: None,
            why,
        };
        let Some(standby) = self.made.get(service) else {
            return Some(none(self.troubles.get(service).map(|it| it.why.clone())));
        };
        Some(control::Standby {
            state: match standby.is_loading() {
                true => StandbyState::Loading,
                false => StandbyState::Ready,
            },
            pid: Some(standby.child.pid),
            memory_bytes: proc::resident_bytes(standby.child.pid),
            why: None,
        })
    }

    fn forget(&mut self, service: &ServiceName) {
        self.due.remove(service);
        self.forgive(service);
        if let Some(standby) = self.take(service) {
            self.unwatch(service, &standby.watched);
            standby.kill();
        }
    }

    /// What has failed counts no more.
    fn forgive(&mut self, service: &ServiceName) {
        self.again.remove(service);
        self.troubles.remove(service);
    }

    fn take(&mut self, service: &ServiceName) -> Option<Standby> {
        let standby = self.made.remove(service)?;
        self.loading.remove(service);
        self.by_pid.remove(&standby.child.pid);
        Some(standby)
    }

    /// The files of one that was taken are of no more interest.
    fn unwatch(&mut self, service: &ServiceName, files: &[WatchDescriptor]) {
        for descriptor in files {
            let Some(services) = self.watched.get_mut(descriptor) else {
                continue;
            };
            services.remove(service);
            if services.is_empty() {
                self.watched.remove(descriptor);
                if let Some(watch) = &self.watch {
                    watch.remove(*descriptor);
                }
            }
        }
    }

    /// There is none, and this is why. `again`: whether it may be otherwise before long.
    fn fail(
        &mut self,
        service: &ServiceName,
        spec: &Arc<Spec>,
        why: String,
        again: bool,
        now: Instant,
    ) {
        let failures = self.troubles.get(service).map_or(0, |it| it.failures);
        let pause = PAUSE
            .saturating_mul(1 << failures.min(6))
            .min(LONGEST_PAUSE);
        if failures == 0 {
            tracing::info!(%service, "no standby: {why}");
        }
        self.due.remove(service);
        match now.checked_add(pause).filter(|_| again) {
            Some(at) => drop(self.again.insert(service.clone(), at)),
            None => drop(self.again.remove(service)),
        }
        let trouble = Trouble {
            why,
            failures: failures.saturating_add(1),
            spec: Arc::clone(spec),
        };
        self.troubles.insert(service.clone(), trouble);
    }

    /// What it was made from has changed, or may have: another one is made, a while later.
    fn outdate(&mut self, service: &ServiceName, why: &str, now: Instant) {
        if self.made.contains_key(service) {
            self.forgive(service);
            self.end(service, why.to_owned(), true, now);
        } else if let Some(at) = self.again.get_mut(service) {
            *at = now + PAUSE;
        }
    }

    /// When something is to be done without being told.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let loading = self.loading.values();
        loading.chain(self.again.values()).min().copied()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for service in over(&self.loading, now) {
            let why = "it was not loaded within ten seconds".to_owned();
            self.end(&service, why, true, now);
        }
        for service in over(&self.again, now) {
            self.again.remove(&service);
            self.due.insert(service);
        }
    }

    /// It is of no use.
    fn end(&mut self, service: &ServiceName, why: String, again: bool, now: Instant) {
        let Some(standby) = self.take(service) else {
            return;
        };
        self.unwatch(service, &standby.watched);
        let spec = Arc::clone(&standby.spec);
        standby.kill();
        self.fail(service, &spec, why, again, now);
    }

    /// Whether one may be made now.
    fn may_make(&self) -> bool {
        !self.due.is_empty() && self.loading.len() < AT_ONCE
    }

    /// Something has become of one of these processes.
    pub(super) fn look(&mut self, pid: u32, now: Instant) {
        let Some(service) = self.by_pid.get(&pid).cloned() else {
            return;
        };
        let Some(standby) = self.made.get_mut(&service) else {
            return;
        };
        match standby.traced.look() {
            Seen::UnderWay => {}
            Seen::Loaded => self.loaded(&service, now),
            Seen::Unfit(why) => self.end(&service, why.to_owned(), false, now),
            Seen::Disturbed => {
                self.end(&service, "it was sent a signal".to_owned(), true, now);
            }
            Seen::Ended => {
                let why = match standby.is_loading() {
                    true => "it ended while it was loaded",
                    false => "it was killed",
                };
                self.end(&service, why.to_owned(), true, now);
            }
        }
    }

    /// From now on it may be released.
    fn loaded(&mut self, service: &ServiceName, now: Instant) {
        let Some(standby) = self.made.get_mut(service) else {
            return;
        };
        let files = match Files::of(standby.child.pid) {
            Ok(Some(files)) if standby.is_up_to_date(&files) => files,
            Ok(_) => {
                let why = "what it runs changed while it was loaded".to_owned();
                return self.end(service, why, true, now);
            }
            Err(error) => {
                let why = format!("cannot find out what it has loaded: {error}");
                return self.end(service, why, true, now);
            }
        };
        if !trace::leaves_rights() && files.paths().any(trust::gives_rights) {
            let why = "its program gives it rights (set-uid, set-gid, capabilities of the file), and the \
                       kernel gives none of them to what an agent without CAP_SYS_PTRACE traces";
            return self.end(service, why.to_owned(), false, now);
        }
        let whole = standby.snapshots.iter().filter(|it| it.is_whole());
        for path in whole.map(Snapshot::path).chain(files.paths()) {
            if let Some(watch) = &self.watch
                && let Ok(descriptor) = watch.add(path, CHANGES)
            {
                let services = self.watched.entry(descriptor).or_default();
                services.insert(service.clone());
                standby.watched.push(descriptor);
            }
        }
        standby.files = Some(files.beside(&standby.snapshots));
        tracing::debug!(%service, pid = standby.child.pid, "its next instance stands by");
        self.loading.remove(service);
        self.forgive(service);
    }

    /// Waits until a file changes that a standby has loaded. Cancellation loses nothing.
    pub(super) async fn needed(&self) -> Vec<WatchDescriptor> {
        let Some(watch) = &self.watch else {
            return std::future::pending().await;
        };
        match watch.next().await {
            Ok(events) => events.into_iter().map(|event| event.wd).collect(),
            Err(error) => {
                tracing::error!("changes of loaded programs are not seen: {error}");
                std::future::pending().await
            }
        }
    }

    /// These have changed.
    pub(super) fn changed(&mut self, files: Vec<WatchDescriptor>, now: Instant) {
        let services: BTreeSet<ServiceName> = files
            .iter()
            .filter_map(|file| self.watched.get(file))
            .flatten()
            .cloned()
            .collect();
        for service in services {
            self.outdate(&service, "what it runs has changed", now);
        }
    }
}

/// Whose time is over.
fn over(times: &BTreeMap<ServiceName, Instant>, now: Instant) -> Vec<ServiceName> {
    let over = times.iter().filter(|(_, at)| **at <= now);
    over.map(|(service, _)| service.clone()).collect()
}

/// Why a service cannot have one, whatever the machine is like.
fn refusal(exec: &Exec) -> Option<String> {
    if matches!(exec.ready, Some(Ready::Fd(_))) {
        return Some("its instances say by a descriptor when they are ready".to_owned());
    }
    if !exec.confinement.sandbox.is_nothing() {
        return Some("its sandbox is set up at each start".to_owned());
    }
    let file = instances::may_hang(exec)?;
    Some(format!(
        "its environment_file {} is on a mount whose server may be gone",
        file.path.display()
    ))
}

/// What a start opens or enters by its path.
fn snapshots(exec: &Exec, log: Option<&Path>) -> Vec<Snapshot> {
    let streams = [&exec.stdout, &exec.stderr].into_iter();
    let streams = streams.filter_map(|output| match output {
        Output::File(path) => Some(path.as_path()),
        Output::Log => log,
        Output::Null | Output::Inherit => None,
    });
    let directories = exec.confinement.directories.paths();
    let directories: Vec<PathBuf> = directories.map(|(_, path)| path).collect();
    let directories = directories.iter().map(PathBuf::as_path);
    let entered = directories.chain([exec.working_directory.as_path()]);
    let whole = [
        exec.program.as_path(),
        Path::new("/etc/ld.so.cache"),
        Path::new("/etc/ld.so.preload"),
    ];
    let whole = whole.into_iter().map(Snapshot::whole);
    whole
        .chain(streams.chain(entered).map(Snapshot::itself))
        .collect()
}

impl Agent {
    /// Has a service have a standby or none, as it is to be now.
    pub(super) fn tend_standby(&mut self, service: &ServiceName) {
        let spec = self.supervisor.spec(service);
        let Some(spec) = spec.filter(|spec| spec.policy.standby) else {
            return self.standbys.forget(service);
        };
        let wish = self.supervisor.status(service).map(|it| it.standby);
        let is_of_another = |of: &Arc<Spec>| !Arc::ptr_eq(of, spec);
        let made = self.standbys.made.get(service).map(|it| &it.spec);
        let failed = self.standbys.troubles.get(service).map(|it| &it.spec);
        if made.into_iter().chain(failed).any(is_of_another) {
            self.standbys.forget(service);
        }
        match wish {
            None | Some(StandbyWish::Unwanted) => self.standbys.forget(service),
            Some(StandbyWish::Kept) => {
                if self.standbys.due.remove(service) {
                    self.standbys.forgive(service);
                }
            }
            Some(StandbyWish::Wanted) => {
                let standbys = &mut self.standbys;
                if !standbys.made.contains_key(service) && !standbys.troubles.contains_key(service)
                {
                    standbys.due.insert(service.clone());
                }
            }
        }
    }

    /// Makes a standby, if one is due; `true`: there may be more. Those come first who have died
    /// meanwhile, so that no start is delayed by more than the making of one.
    pub(super) fn make_standby(&mut self) -> bool {
        // A standby is made by a child that shares the agent's memory until its exec, and is traced from before that.
        if !self.standbys.may_make() || spawn::shares_memory() {
            return false;
        }
        self.read_pidfds(Ok(()));
        let Some(service) = self.standbys.due.pop_first() else {
            return false;
        };
        let wish = self.supervisor.status(&service).map(|it| it.standby);
        if wish == Some(StandbyWish::Wanted)
            && let Some(spec) = self.supervisor.spec(&service).cloned()
        {
            let now = Self::now();
            match self.begin_standby(&service, &spec) {
                Ok(standby) => {
                    let pid = standby.child.pid;
                    let by = now + LOADS_WITHIN;
                    self.standbys.loading.insert(service.clone(), by);
                    self.standbys.by_pid.insert(pid, service.clone());
                    self.standbys.made.insert(service, standby);
                    // It may have come to a stop before it was known.
                    self.standbys.look(pid, now);
                }
                Err((why, again)) => self.standbys.fail(&service, &spec, why, again, now),
            }
        } else {
            // It is due again when it is wanted again.
            self.standbys.forgive(&service);
        }
        self.standbys.may_make()
    }

    /// Why there is none, and whether it may be otherwise before long.
    fn begin_standby(
        &mut self,
        service: &ServiceName,
        spec: &Arc<Spec>,
    ) -> Result<Standby, (String, bool)> {
        if let Some(why) = refusal(&spec.exec) {
            return Err((why, false));
        }
        if let Some(failure) = self.prepare_output(service) {
            return Err((failure.message, true));
        }
        let at = self.prepare_places(service);
        let at = at.map_err(|failure| (failure.message, true))?;
        let log = spec.log.is_some().then_some(at.fifo.as_path());
        let mounts = mounts::version();
        let snapshots = snapshots(&spec.exec, log);
        if let Some(hidden) = snapshots.iter().find(|it| it.is_hidden()) {
            let path = hidden.path().display();
            return Err((
                format!("{path} is on a mount whose server may be gone"),
                true,
            ));
        }
        let mut denied = None;
        let mut seize = |instance: Instance| match trace::seize(instance.pid) {
            // It was killed as soon as it was made, which may be for its cgroup: that is found out next.
            Err(_) if proc::stat(instance.pid).is_ok_and(|stat| stat.is_zombie()) => Ok(()),
            seized => seized.inspect_err(|error| denied = Some(error.to_string())),
        };
        let made = make(&mut self.instances, service, spec, &at, &mut seize);
        let landed = made.map_err(|why| match denied {
            Some(error) => (
                format!("it cannot be traced: {error}; see kernel.yama.ptrace_scope, and whether the agent has CAP_SYS_PTRACE"),
                false,
            ),
            None => (why, true),
        })?;
        let command = self.instances.laid_out(service);
        let traced = Traced::new(landed.child.pid);
        let (Some(command), Ok(traced)) = (command, traced) else {
            let _ = signal::send(landed.child.pidfd.as_fd(), Signal::KILL);
            return Err(("it is not laid out".to_owned(), true));
        };
        let standby = Standby {
            child: landed.child,
            slot: landed.slot,
            traced,
            spec: Arc::clone(spec),
            command,
            mounts,
            snapshots,
            files: None,
            watched: Vec::new(),
        };
        if !spawn::leaves_reserve(&standby.child.pidfd) {
            standby.kill();
            return Err((spawn::out_of_descriptors(), true));
        }
        Ok(standby)
    }

    /// Starts a service by letting its standby run. `None`: there is none that may; what there was is gone.
    pub(super) fn release_standby(
        &mut self,
        service: &ServiceName,
        birth: Birth,
        at: &Places,
    ) -> Option<Fact> {
        self.standbys.due.remove(service);
        let standby = self.standbys.take(service)?;
        if let Err(why) = self.may_release(service, &standby, at) {
            tracing::debug!(%service, "its standby is not used: {why}");
            self.standbys.unwatch(service, &standby.watched);
            standby.kill();
            return None;
        }
        let output_start = self.output_length(service);
        let Standby {
            child,
            slot,
            traced,
            watched,
            ..
        } = standby;
        let instance = Instance {
            pid: child.pid,
            start_time_ns: child.start_time_ns,
        };
        let now_ns = proc::since_boot_ns();
        self.instances.released(instance, now_ns);
        self.memory.released(service, instance, now_ns);
        // Before it runs.
        let marked = self.has_room_for_births();
        if !marked {
            let attempt = Attempt(birth.attempt);
            let memory = &mut self.memory;
            memory.record_birth_if_possible(service, attempt, instance, true);
            memory.knows_birth(service, instance);
        }
        self.watch(instance, birth);
        if let Err(error) = traced.release() {
            // It has been killed this moment: its end is told like any other's.
            tracing::debug!(%service, pid = instance.pid, "cannot be released: {error}");
        }
        self.standbys.unwatch(service, &watched);
        let held = self.instances.hold_started(service, Landed { child, slot });
        if let Err(failure) = held {
            return Some(self.start_failed(service.clone(), birth, marked, failure));
        }
        self.notify.listen(service, instance);
        Some(self.spawned(service.clone(), birth, instance, output_start))
    }

    /// Why a start would not run what stands by.
    fn may_release(
        &mut self,
        service: &ServiceName,
        standby: &Standby,
        at: &Places,
    ) -> Result<(), &'static str> {
        let spec = self.supervisor.spec(service).cloned();
        let spec = spec.ok_or("the service is gone")?;
        let laid_out = self.instances.lay_out_start(service, &spec, at);
        if !laid_out.is_ok_and(|command| Arc::ptr_eq(&command, &standby.command)) {
            return Err("the next start is another one");
        }
        let files = standby.files.as_ref().ok_or("it is not loaded yet")?;
        if !standby.is_up_to_date(files) {
            return Err("what it runs has changed");
        }
        if !standby.traced.is_ready() {
            return Err("a signal waits for it");
        }
        Ok(())
    }

    /// Other things are laid out for the next start than before.
    pub(super) fn outdate_standby(&mut self, service: &ServiceName) {
        let why = "what it is given has changed";
        self.standbys.outdate(service, why, Self::now());
    }
}

/// Makes a process that `seize` traces before it is let go on. Its exec takes a millisecond; where it opens or
/// runs what is on a dead mount, it is given up after a second.
fn make(
    instances: &mut Instances,
    service: &ServiceName,
    spec: &Arc<Spec>,
    at: &Places,
    seize: instances::Record<'_>,
) -> Result<Landed, String> {
    progress::count();
    let attempt = Attempt::default();
    let flight = instances.begin(service, spec, attempt, at, Some(&mut *seize));
    let flight = flight.map_err(|failure| failure.message)?;
    let landed = match instances.finish_soon(flight) {
        Err(aborted) if aborted.is_of_cgroup() => instances
            .retry(aborted, attempt, Some(seize))
            .map_err(|failure| failure.message),
        landed => landed.map_err(|aborted| aborted.error.message),
    };
    progress::count();
    landed
}

//! A cgroup (v2) of its own for each instance, so that its whole tree can be found and killed.
//! Limits resources where a service's file does (`cgroup_limits`); only then are controllers enabled.
//!
//! ```text
//! <mount>/respawn/<agent's name>/<service>.0     attempts 0, 2, 4 …
//!                               /<service>.1     attempts 1, 3, 5 …
//!                               /<service>.left  what `stop_mode = "main"` leaves alone
//! ```
//! The agent's name is made of where its runtime directory is ([`Name`]), and is no other agent's.
//! Services that an earlier version has started may be in a directory with a name of its kind: they
//! stay there until they end, and nothing is started there any more.
//!
//! The place is directly below the root of the mount, so that a restarted agent finds it again
//! whatever cgroup init has started it in; only where that root cannot be written, it is below
//! the agent's own cgroup. Two slots for each service keep an instance that starts apart from
//! one that still dies, and both are made beforehand: no `mkdir` on the way to a restart.
//!
//! Only the agent's directory is kept open, and by a `tree::Tree` the `cgroup.events` of its
//! instance: descriptors are a scarce good of an agent with thousands of services.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, eaccess};

use super::mounts::{self, Mount};
use super::pidfd::is_gone;
use super::place::Place;
use super::spawn::{Spawner, UNBORN};
use super::tree::stop_signals;
use super::{cgroup_limits, descriptor};
use super::{marker, pidfd, proc, progress, signal};
use crate::model::{CgroupLimits, Signal, fnv1a};

/// The agents' common directory.
const COMMON: &str = "respawn";
/// Longer names are cut and numbered: NAME_MAX is 255.
const LONGEST_NAME: usize = 200;
/// How often, and after how long each time, a lock is tried that another agent holds.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(1);
/// Rounds of the slow kill; each kills all that the one before has left or missed.
const KILL_ROUNDS: u32 = 64;
/// The ending of the cgroup for what is left alone of a service.
const ASIDE: &str = ".left";

/// Why there are no cgroups to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// "The process group alone is killed" then, and `doctor` says why.
    Unavailable(String),
    /// Another living agent of the same runtime directory has its services in this directory, or its
    /// pins.
    InUse(PathBuf),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => f.write_str(why),
            Self::InUse(path) => write!(
                f,
                "another agent of this runtime directory works, and uses {}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Refused {}

/// What an agent's directory is called.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    current: String,
    /// What versions up to 0.1.0 called it. Two agents may have had one such name.
    earlier: Option<String>,
    /// What marks the processes that the agent has started.
    mark: u64,
}

impl Name {
    /// After an agent's runtime directory; `mark` is what marks its processes.
    ///
    /// # Errors
    /// The directory is not there.
    pub(crate) fn of_runtime_dir(path: &Path, mark: u64) -> io::Result<Self> {
        Ok(Self {
            current: Place::of(path)?.word(),
            earlier: Some(earlier_name(&path.canonicalize()?)),
            mark,
        })
    }

    /// For a short time.
    pub(crate) fn passing(name: String) -> Self {
        Self {
            current: name,
            earlier: None,
            mark: 0,
        }
    }
}

/// `/run/x.y`, `/run/x-y` and `/run/x/y` had one.
fn earlier_name(runtime_dir: &Path) -> String {
    let path = runtime_dir.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name: String = path
        .trim_matches('/')
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    match name.as_str() {
        "run-respawn" => "respawn".to_owned(),
        name => format!("respawn-{name}"),
    }
}

/// An agent's part of the cgroup hierarchy.
#[derive(Debug)]
pub(crate) struct Cgroups {
    base: PathBuf,
    directory: Arc<OwnedFd>,
    /// `base` as `/proc/PID/cgroup` names it.
    name: String,
    /// Whether there is `cgroup.kill` (Linux 5.14).
    kill_file: bool,
    /// Where an earlier version may have started services of this agent.
    earlier: Option<Earlier>,
    /// Held, and read by nobody.
    lock: RefCell<Option<File>>,
}

/// A directory of the kind that versions up to 0.1.0 made.
#[derive(Debug, Clone)]
struct Earlier {
    base: PathBuf,
    directory: Arc<OwnedFd>,
    name: String,
    mark: u64,
}

impl Cgroups {
    /// Finds the hierarchy, makes or finds again the agent's directory in it, tries to start a
    /// process there, and keeps other agents out of it.
    ///
    /// # Errors
    /// What is missing: no mount, no right to write, a hierarchy that takes no processes. Another
    /// agent uses it.
    pub(crate) fn open(name: &Name, spawner: &mut Spawner) -> Result<Self, Refused> {
        Self::find(name, spawner)?.locked()
    }

    fn find(name: &Name, spawner: &mut Spawner) -> Result<Self, Refused> {
        let mounts = mounts::mounts().map_err(|error| {
            Refused::Unavailable(format!("cannot read {}: {error}", mounts::TABLE))
        })?;
        let Some(mount) = best_mount(&mounts) else {
            let why = "no cgroup2 file system is mounted".to_owned();
            return Err(Refused::Unavailable(why));
        };
        // The cgroup that is seen there.
        let root = mount.root.to_string_lossy();
        let error = match Self::below(&mount.point, &root, name, spawner) {
            Ok(cgroups) => return Ok(cgroups),
            Err(error) => error,
        };
        let own = proc::own_cgroup_path();
        if let Some(own) = &own
            && let Some(inside) = inside_mount(own, &root)
            && let Ok(cgroups) = Self::below(&mount.point.join(inside), own, name, spawner)
        {
            return Ok(cgroups);
        }
        Err(Refused::Unavailable(format!(
            "cannot use the cgroups at {}: {error}",
            mount.point.display()
        )))
    }

    fn below(
        parent: &Path,
        parent_name: &str,
        called: &Name,
        spawner: &mut Spawner,
    ) -> io::Result<Self> {
        // Asked before anything is made: without it no process may be moved to below here.
        // https://docs.kernel.org/admin-guide/cgroup-v2.html#delegation-containment
        eaccess(&parent.join("cgroup.procs"), AccessFlags::W_OK)?;
        let name = escape(&called.current);
        let base = parent.join(COMMON).join(&name);
        fs::create_dir_all(&base)?;
        let directory = open_directory(&base)?;
        match spawner.try_cgroup(directory.as_fd()) {
            // Somebody has killed all that is below: no matter for the services' new cgroups.
            Err(error) if error.raw_os_error() == Some(UNBORN) => {}
            // Controllers are enabled for what is below: only there are processes then. The kernel
            // has seen to the right to put one here before (`cgroup_attach_permissions`).
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            result => result?,
        }
        let in_full = |name: &str| format!("{}/{COMMON}/{name}", parent_name.trim_end_matches('/'));
        let earlier = called.earlier.as_deref().map(escape).and_then(|name| {
            let base = parent.join(COMMON).join(&name);
            Some(Earlier {
                directory: Arc::new(open_directory(&base).ok()?),
                name: in_full(&name),
                mark: called.mark,
                base,
            })
        });
        Ok(Self {
            kill_file: base.join("cgroup.kill").exists(),
            name: in_full(&name),
            directory: Arc::new(directory),
            base,
            earlier,
            lock: RefCell::default(),
        })
    }

    /// Keeps other agents out, as long as the value lives. The runtime directory's lock may have been
    /// removed.
    fn locked(self) -> Result<Self, Refused> {
        for _ in 0..LOCK_TRIES {
            match lock(&self.base) {
                Ok(Some(file)) => {
                    self.lock.replace(Some(file));
                    return Ok(self);
                }
                // One that dies lets go of one lock after the other.
                Ok(None) => std::thread::sleep(LOCK_PAUSE),
                // Somebody holds a lock who may only read. It keeps nobody from work.
                Err(_) => return Ok(self),
            }
        }
        Err(Refused::InUse(self.base))
    }

    /// The directory that holds the services' cgroups.
    pub(crate) fn path(&self) -> &Path {
        &self.base
    }

    /// The service's two cgroups, made if they are not there.
    ///
    /// # Errors
    /// The kernel's, ENOSPC at `cgroup.max.descendants` among them.
    pub(crate) fn for_service(&self, service: &str) -> io::Result<ServiceCgroup> {
        let cgroup = self.place_of(service);
        let make = || cgroup.slots.iter().try_for_each(Slot::make);
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_again()?;
                make()?;
            }
            made => made?,
        }
        Ok(cgroup)
    }

    /// Somebody has removed the agent's directory, while no service had a cgroup in it.
    fn make_again(&self) -> io::Result<()> {
        tracing::warn!("{} was removed, and is made again", self.base.display());
        fs::create_dir_all(&self.base)?;
        match lock(&self.base) {
            Ok(Some(file)) => drop(self.lock.replace(Some(file))),
            Ok(None) => return Err(io::Error::other("another agent uses it")),
            // As at the start.
            Err(_) => {}
        }
        Ok(())
    }

    /// Where they are, made or not.
    pub(crate) fn place_of(&self, service: &str) -> ServiceCgroup {
        let service = escape(service);
        let slots = [0, 1].map(|number| {
            let leaf = format!("{service}.{number}");
            Slot {
                path: self.base.join(&leaf),
                name: format!("{}/{leaf}", self.name),
                kill_file: self.kill_file,
                parent: Arc::clone(&self.directory),
                leaf,
                earlier: None,
                limits: Arc::default(),
                is_unlimited: Arc::default(),
            }
        });
        let earlier = self.earlier.as_ref();
        let earlier = earlier.map(|earlier| earlier.slots(&service, self.kill_file));
        ServiceCgroup {
            slots,
            earlier: earlier.unwrap_or_default(),
        }
    }

    /// Removes the cgroups that no process is in, but those of these services.
    pub(crate) fn prune<'a>(&self, services: impl Iterator<Item = &'a str>) {
        let services: HashSet<String> = services.map(escape).collect();
        let is_kept = |directory: &Path| {
            let name = directory.file_name().and_then(|name| name.to_str());
            let service = name.and_then(|name| name.rsplit_once('.'));
            service.is_some_and(|(service, _)| services.contains(service))
        };
        prune(&self.base, is_kept);
        if let Some(earlier) = &self.earlier {
            prune(&earlier.base, |_| false);
            let _ = fs::remove_dir(&earlier.base);
        }
    }

    /// Removes all that is empty, and the agent's own directory if nothing is left in it.
    pub(crate) fn remove(self) {
        self.prune([].into_iter());
        let _ = fs::remove_dir(&self.base);
        if let Some(common) = self.base.parent() {
            let _ = fs::remove_dir(common);
        }
    }
}

/// Removes the cgroups in a directory that no process is in, and that are not to be kept.
fn prune(base: &Path, is_kept: impl Fn(&Path) -> bool) {
    for child in subdirectories(base) {
        progress::count();
        if !is_kept(&child) && matches!(is_populated(&child), Ok(false)) {
            let _ = remove_nested(&child);
        }
    }
}

/// Has the kernel keep other agents out of a directory; `None` if one is in it.
///
/// A lock for writing, for which a file has to be opened for writing: whoever may only read the
/// directory cannot pretend to be an agent. It works across mount namespaces.
///
/// # Errors
/// The kernel's; EAGAIN if somebody who may only read is in the way.
fn lock(base: &Path) -> io::Result<Option<File>> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(base.join("cgroup.procs"))?;
    let file = descriptor::first_to_close(file);
    let flock = |kind: libc::c_int| -> io::Result<libc::flock> {
        let narrow = |number| i16::try_from(number).map_err(io::Error::other);
        Ok(libc::flock {
            l_type: narrow(kind)?,
            l_whence: narrow(libc::SEEK_SET)?,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        })
    };
    let mut wanted = flock(libc::F_WRLCK)?;
    let Err(error) = fcntl(&file, FcntlArg::F_OFD_SETLK(&wanted)) else {
        return Ok(Some(file));
    };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut wanted))?;
    if wanted.l_type == flock(libc::F_WRLCK)?.l_type {
        return Ok(None);
    }
    Err(error.into())
}

impl Earlier {
    /// Those of a service's that are there.
    fn slots(&self, service: &str, kill_file: bool) -> Vec<Slot> {
        let slots = [0, 1].map(|number| {
            let leaf = format!("{service}.{number}");
            Slot {
                path: self.base.join(&leaf),
                name: format!("{}/{leaf}", self.name),
                kill_file,
                parent: Arc::clone(&self.directory),
                leaf,
                earlier: Some(self.mark),
                limits: Arc::default(),
                is_unlimited: Arc::default(),
            }
        });
        slots
            .into_iter()
            .filter(|slot| slot.path.exists())
            .collect()
    }
}

/// A service's two cgroups, used in turn.
#[derive(Debug, Clone)]
pub(crate) struct ServiceCgroup {
    slots: [Slot; 2],
    /// What an earlier version has made for it.
    earlier: Vec<Slot>,
}

impl ServiceCgroup {
    /// The cgroup for that attempt.
    pub(crate) fn slot(&self, attempt: u64) -> &Slot {
        let [even, odd] = &self.slots;
        if attempt.is_multiple_of(2) { even } else { odd }
    }

    /// The cgroup that a process is in, if it is one of these or below: for adoption.
    pub(crate) fn holding(&self, pid: u32) -> Option<&Slot> {
        let path = proc::cgroup_path(pid)?;
        self.all().find(|slot| slot.contains(&path))
    }

    /// Both, and those of an earlier version.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().chain(&self.earlier)
    }

    /// Both.
    pub(crate) fn slots(&self) -> &[Slot; 2] {
        &self.slots
    }

    /// The processes that [`Slot::set_aside`] has moved out of both.
    ///
    /// # Errors
    /// As [`Slot::pids`].
    pub(crate) fn left_alone(&self) -> io::Result<Vec<u32>> {
        let [slot, _] = &self.slots;
        pids_below(slot.aside())
    }

    /// Removes both, as far as no process is in them.
    ///
    /// # Errors
    /// EBUSY if one still is.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.all().try_for_each(Slot::remove)
    }
}

/// One cgroup, in which one instance lives with all that descends from it.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    path: PathBuf,
    /// The agent's directory, and the slot's name in it: shorter than the whole path.
    parent: Arc<OwnedFd>,
    leaf: String,
    /// As `/proc/PID/cgroup` names it.
    name: String,
    kill_file: bool,
    /// In a directory that may be another agent's too: what marks this agent's processes.
    earlier: Option<u64>,
    /// What it is limited to.
    limits: Arc<CgroupLimits>,
    /// No agent has limited it.
    is_unlimited: Arc<AtomicBool>,
}

impl Slot {
    /// Limits it to so much. Returns what has no effect, and why.
    pub(crate) fn limit(&mut self, limits: &CgroupLimits) -> Vec<String> {
        let are_none = *limits == CgroupLimits::default();
        if are_none && self.is_unlimited.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.limits = Arc::new(*limits);
        self.apply_limits()
    }

    fn apply_limits(&self) -> Vec<String> {
        let are_none = *self.limits == CgroupLimits::default();
        self.is_unlimited.store(are_none, Ordering::Relaxed);
        // The mount or the agent's own cgroup, the agents' common directory, and the agent's.
        let mut ways: Vec<&Path> = self.path.ancestors().skip(1).take(3).collect();
        ways.reverse();
        cgroup_limits::apply(&self.limits, &self.path, &ways)
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its ID, by which the kernel's records name it: the number of its directory's inode
    /// (`cgroup_id`, include/linux/cgroup.h). Another one after [`Slot::reset`].
    pub(crate) fn id(&self) -> Option<u64> {
        Some(fs::metadata(&self.path).ok()?.ino())
    }

    /// Opens it, for CLONE_INTO_CGROUP. Cgroups that an earlier instance has made in it go first,
    /// if they are empty.
    ///
    /// # Errors
    /// The kernel's; `NotFound` if it was removed.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = openat(&self.parent, self.leaf.as_str(), flags, Mode::empty())
            // The agent's directory may be another by now.
            .or_else(|_| open_directory(&self.path))?;
        let directory = File::from(directory);
        // A directory has a link for itself, one in its parent, and one in each child.
        if directory.metadata()?.nlink() > 2 && !self.is_populated()? {
            self.reset()?;
            return Ok(open_directory(&self.path)?);
        }
        Ok(directory.into())
    }

    /// Makes it anew, unless processes are in it: with no cgroups below, and no controllers.
    ///
    /// # Errors
    /// EBUSY if processes are in it, and the kernel's others.
    pub(crate) fn reset(&self) -> io::Result<()> {
        self.remove()?;
        if self.earlier.is_some() {
            return Ok(());
        }
        // The agent's own directory may have been removed with it.
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)?;
        }
        self.make()?;
        if *self.limits != CgroupLimits::default() {
            // What has no effect was told before.
            self.apply_limits();
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn for_test(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            parent: Arc::new(open_directory(path.parent().unwrap()).unwrap()),
            leaf: path.file_name().unwrap().to_str().unwrap().to_owned(),
            name: String::new(),
            kill_file: true,
            earlier: None,
            limits: Arc::default(),
            is_unlimited: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn with_kill_file(&self, kill_file: bool) -> Self {
        Self {
            kill_file,
            ..self.clone()
        }
    }

    /// Whether what is in it is this agent's: always, but in an earlier version's directory.
    ///
    /// # Errors
    /// If the kernel's file cannot be read.
    pub(crate) fn is_ours(&self) -> io::Result<bool> {
        let Some(mark) = self.earlier else {
            return Ok(true);
        };
        Ok(self.pids()?.into_iter().any(|pid| marker::has(mark, pid)))
    }

    fn make(&self) -> io::Result<()> {
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                self.is_unlimited.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Removes it, and whatever empty cgroups are below.
    ///
    /// # Errors
    /// EBUSY if processes are in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match remove_nested(&self.path) {
            Err(error) if is_gone(&error) => Ok(()),
            result => result,
        }
    }

    /// Whether a process that is not a zombie is in it or below.
    ///
    /// # Errors
    /// If the kernel's file cannot be read; a cgroup that is gone is empty.
    pub(crate) fn is_populated(&self) -> io::Result<bool> {
        is_populated(&self.path)
    }

    /// Opens `cgroup.events`, which is ready with `Interest::Priority` after each change.
    ///
    /// # Errors
    /// `NotFound` if the cgroup was removed.
    pub(super) fn open_events(&self) -> io::Result<File> {
        File::open(self.path.join("cgroup.events"))
    }

    /// SIGKILL to all that is in it and below. They end soon after: `is_populated` tells.
    ///
    /// # Errors
    /// If the kernel's file cannot be written; a cgroup that is gone needs no kill.
    pub(crate) fn kill(&self) -> io::Result<()> {
        if !self.kill_file {
            return self.kill_one_by_one();
        }
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Err(error) if is_removed(&error) => Ok(()),
            result => result,
        }
    }

    /// The stop signal to all that is in it and below, but to `except`, which has had it. Who is
    /// stopped goes on, and sees it. A process that forks meanwhile is met in the next round.
    ///
    /// # Errors
    /// The first, after all has been tried. A cgroup that is gone is empty.
    pub(super) fn stop(&self, stop: Signal, except: Option<u32>) -> io::Result<()> {
        let mut told: HashSet<u32> = except.into_iter().collect();
        let mut result = Ok(());
        for _ in 0..KILL_ROUNDS {
            let mut pids = self.pids()?;
            pids.retain(|pid| told.insert(*pid));
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                for signal in stop_signals(stop) {
                    result = result.and(self.signal_member(pid, signal).map(drop));
                }
            }
        }
        result
    }

    /// Moves all that is in it and below to where no instance of the service will be, and nothing
    /// is ever killed.
    ///
    /// # Errors
    /// The kernel's; something may be left in it then.
    pub(super) fn set_aside(&self) -> io::Result<()> {
        let aside = self.aside();
        fs::create_dir_all(&aside)?;
        let members = aside.join("cgroup.procs");
        for _ in 0..KILL_ROUNDS {
            for pid in self.pids()? {
                match fs::write(&members, pid.to_string()) {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    result => result?,
                }
            }
            if !self.is_populated()? {
                return Ok(());
            }
        }
        Err(io::Error::other("it forks faster than it can be moved"))
    }

    /// What is left alone of the service's earlier instances.
    fn aside(&self) -> PathBuf {
        let service = self
            .leaf
            .rsplit_once('.')
            .map_or("", |(service, _)| service);
        self.path.with_file_name(format!("{service}{ASIDE}"))
    }

    /// Whether one [`Slot::kill`] is enough, whatever forks meanwhile.
    pub(super) fn kills_at_once(&self) -> bool {
        self.kill_file
    }

    /// Before Linux 5.14. A process that forks meanwhile is met in the next round.
    fn kill_one_by_one(&self) -> io::Result<()> {
        for _ in 0..KILL_ROUNDS {
            let mut killed = 0;
            for pid in self.pids()? {
                if self.signal_member(pid, Signal::KILL)? {
                    killed += 1;
                }
            }
            if killed == 0 || !self.is_populated()? {
                break;
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Sends the process a signal if it is in here, whatever else has had its pid.
    fn signal_member(&self, pid: u32, signal: Signal) -> io::Result<bool> {
        let pidfd = match pidfd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
            Err(error) => return Err(error),
        };
        let inside = proc::cgroup_path(pid).is_some_and(|path| self.contains(&path));
        if !inside || pidfd::has_exited(pidfd.as_fd())? {
            return Ok(false);
        }
        signal::send(pidfd.as_fd(), signal)
    }

    /// The processes in it and below.
    ///
    /// # Errors
    /// If the kernel's file cannot be read; a cgroup that is gone is empty.
    pub(crate) fn pids(&self) -> io::Result<Vec<u32>> {
        pids_below(self.path.clone())
    }

    /// Whether a path of `/proc/PID/cgroup` is this cgroup or one below.
    pub(crate) fn contains(&self, path: &str) -> bool {
        match path.strip_prefix(self.name.as_str()) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

/// The processes in a cgroup and below.
fn pids_below(directory: PathBuf) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    let mut directories = vec![directory];
    while let Some(directory) = directories.pop() {
        match fs::read_to_string(directory.join("cgroup.procs")) {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
            // One of a threaded kind; its processes are listed above it.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) if is_removed(&error) => continue,
            Err(error) => return Err(error),
        }
        directories.extend(subdirectories(&directory));
    }
    Ok(pids)
}

fn is_populated(path: &Path) -> io::Result<bool> {
    match fs::read(path.join("cgroup.events")) {
        Ok(events) => Ok(says_populated(&events)),
        Err(error) if is_removed(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether `cgroup.events` says so.
pub(super) fn says_populated(events: &[u8]) -> bool {
    events
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"populated 1")
}

/// ENODEV is what an open file of a removed cgroup says.
pub(super) fn is_removed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn open_directory(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// `rmdir`, children first. The kernel's files in a cgroup need no removal.
fn remove_nested(path: &Path) -> io::Result<()> {
    for child in subdirectories(path) {
        remove_nested(&child)?;
    }
    fs::remove_dir(path)
}

/// A name as one component of a path: what is neither a letter, a digit, nor one of `_-.:@` is
/// written as `\xHH`, as systemd does; a name that gets too long keeps its head and a hash.
fn escape(name: &str) -> String {
    use fmt::Write;

    let mut escaped = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-:@".contains(&byte);
        if plain || (byte == b'.' && index > 0) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    if escaped.len() > LONGEST_NAME {
        let hash = fnv1a(name.bytes());
        escaped.truncate(LONGEST_NAME - 17);
        let _ = write!(escaped, "-{hash:016x}");
    }
    escaped
}

/// The cgroup2 file system to use: at a usual place first; one that is read-only last.
fn best_mount(mounts: &[Mount]) -> Option<&Mount> {
    let hierarchies = mounts.iter().filter(|mount| mount.kind == "cgroup2");
    hierarchies.min_by_key(|mount| {
        let usual = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let rank = usual.iter().position(|path| mount.point == Path::new(path));
        (mount.is_read_only(), rank.unwrap_or(usual.len()))
    })
}

/// A cgroup's path below the mount that shows the cgroup `root`.
fn inside_mount<'a>(path: &'a str, root: &str) -> Option<&'a Path> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then(|| Path::new(rest.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Running, TestCgroups, readable_within, shell, until};
    use crate::os::waiter::{Interest, Waiter};

    fn start(slot: &Slot, script: &str) -> Running {
        let mut spawner = Spawner::new(None).unwrap();
        Running::start_with(&mut spawner, &shell(script), Some(slot)).unwrap()
    }

    #[test]
    fn the_best_mount_is_found() {
        let text = b"24 30 0:22 / /proc rw - proc proc rw\n\
            41 31 0:38 / /a\\040b\\134c rw,nosuid shared:5 master:2 - cgroup2 none rw\n\
            42 31 0:38 /x /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            43 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\n1 2 torn";
        let mounts = mounts::parse(text);
        let points: Vec<_> = mounts.iter().map(|m| m.point.to_str().unwrap()).collect();
        let expected = [
            "/proc",
            "/a b\\c",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/unified",
        ];
        assert_eq!(points, expected);
        assert_eq!(mounts[2].root, Path::new("/x"));
        assert!(mounts[2].is_read_only() && !mounts[1].is_read_only());
        assert_eq!(best_mount(&mounts), Some(&mounts[4]));
        assert_eq!(best_mount(&mounts[..4]), Some(&mounts[1]));
        assert_eq!(best_mount(&mounts[..1]), None);
        assert_eq!(best_mount(&[]), None);
    }

    #[test]
    fn own_place_is_found_below_the_mount() {
        let inside = |path, root| inside_mount(path, root).and_then(Path::to_str);
        assert_eq!(inside("/a/b", "/"), Some("a/b"));
        assert_eq!(inside("/", "/"), Some(""));
        assert_eq!(inside("/a/b", "/a"), Some("b"));
        assert_eq!(inside("/a", "/a"), Some(""));
        assert_eq!(inside("/ab", "/a"), None);
        assert_eq!(inside("/b", "/a"), None);
    }

    #[test]
    fn names_become_one_component() {
        assert_eq!(escape("web-1_a.b@c:d"), "web-1_a.b@c:d");
        assert_eq!(escape("a/b\n\\ü"), "a\\x2fb\\x0a\\x5c\\xc3\\xbc");
        assert_eq!(escape("..") + escape(".x").as_str(), "\\x2e.\\x2ex");
        let long = |last: &str| escape(&("x".repeat(240) + last));
        assert_eq!(long("a").len(), LONGEST_NAME);
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn two_slots_in_turn_and_found_again() {
        let Some(cgroups) = TestCgroups::open("turn") else {
            return;
        };
        let service = cgroups.for_service("a/b").unwrap();
        let path = |attempt| service.slot(attempt).path();
        let again = cgroups.for_service("a/b").unwrap();
        assert_eq!(again.slot(0).path(), path(0));
        assert_eq!(path(0), path(2));
        assert_ne!(path(0), path(1));
        let child = start(service.slot(1), "sleep 60 & wait");
        assert_eq!(service.holding(child.pid).map(Slot::path), Some(path(1)));
        assert!(!service.slot(0).is_populated().unwrap());
        assert!(service.holding(std::process::id()).is_none());
        // Not emptied by removing: EBUSY, and all as before.
        let error = service.slot(1).remove().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        cgroups.prune(["a/b"].into_iter());
        assert!(service.slot(0).path().exists());
        cgroups.prune(["a"].into_iter());
        assert!(service.slot(1).is_populated().unwrap());
        assert!(!service.slot(0).path().exists());
        service.slot(1).kill().unwrap();
        child.wait_readable();
        until("empty", || !service.slot(1).is_populated().unwrap());
    }

    #[test]
    fn a_directory_that_somebody_has_removed_is_made_again() {
        let Some(cgroups) = TestCgroups::open("removed") else {
            return;
        };
        fs::remove_dir(cgroups.path()).unwrap();
        let service = cgroups.for_service("web").unwrap();
        let child = start(service.slot(0), "exec sleep 60");
        assert!(service.slot(0).is_populated().unwrap());
        // Nobody else takes it.
        assert!(lock(cgroups.path()).unwrap().is_none());
        service.slot(0).kill().unwrap();
        child.wait_readable();
        until("empty", || !service.slot(0).is_populated().unwrap());
    }

    #[test]
    fn all_that_is_nested_is_killed_with_and_without_the_kernels_help() {
        let Some(cgroups) = TestCgroups::open("nested") else {
            return;
        };
        let service = cgroups.for_service("web").unwrap();
        for kill_file in [true, false] {
            let slot = Slot {
                kill_file: kill_file && cgroups.kill_file,
                ..service.slot(0).clone()
            };
            let script = format!(
                "mkdir -p {0}; (echo 0 > {0}/cgroup.procs; exec setsid sleep 60) & \
                 trap '' TERM; sleep 60 & wait",
                slot.path().join("a/b").display()
            );
            let child = start(&slot, &script);
            until("all", || {
                let nested = fs::read_to_string(slot.path().join("a/b/cgroup.procs"));
                nested.is_ok_and(|text| text.lines().count() == 1)
                    && slot.pids().unwrap().len() == 3
            });
            let mut waiter = Waiter::new().unwrap();
            let events = slot.open_events().unwrap();
            waiter.add(&events, Interest::Priority, 1).unwrap();
            waiter.drain(&mut Vec::new()).unwrap();
            slot.kill().unwrap();
            assert_eq!(child.status(), libc::SIGKILL);
            until("empty", || {
                readable_within(&waiter, 1000);
                waiter.drain(&mut Vec::new()).unwrap();
                !slot.is_populated().unwrap()
            });
            assert_eq!(slot.pids().unwrap(), [0; 0]);
            // The next start finds a slot with nothing of the last one in it.
            let next = start(&slot, "exit 0");
            assert!(!slot.path().join("a").exists());
            assert_eq!(next.status(), 0);
            slot.kill().unwrap();
        }
    }

    #[test]
    fn what_is_gone_is_empty() {
        let Some(cgroups) = TestCgroups::open("gone") else {
            return;
        };
        let service = cgroups.for_service("web").unwrap();
        service.remove().unwrap();
        service.remove().unwrap();
        for kill_file in [true, false] {
            let slot = Slot {
                kill_file,
                ..service.slot(0).clone()
            };
            assert!(!slot.is_populated().unwrap());
            assert_eq!(slot.pids().unwrap(), [0; 0]);
            slot.kill().unwrap();
        }
    }
}

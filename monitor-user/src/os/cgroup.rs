//! A cgroup (v2) of its own for each instance, so that its whole tree can be found and killed.
//! Limits no resources, and enables no controllers.
//!
//! ```text
//! <mount>/respawn/<agent's name>/<service>.0     attempts 0, 2, 4 …
//!                               /<service>.1     attempts 1, 3, 5 …
//! ```
//! The place is directly below the root of the mount, so that a restarted agent finds it again
//! whatever cgroup init has started it in; only where that root cannot be written, it is below
//! the agent's own cgroup. Two slots for each service keep an instance that starts apart from
//! one that still dies, and both are made beforehand: no `mkdir` on the way to a restart.
//!
//! Nothing is kept open: two directories and two files for each of thousands of services would
//! be most of the agent's descriptors, and opening one costs about a microsecond or two.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, eaccess};

use super::pidfd::is_gone;
use super::spawn::Spawner;
use super::{pidfd, proc, signal};
use crate::supervisor::Signal;

/// The agents' common directory.
const COMMON: &str = "respawn";
/// Longer names are cut and numbered: NAME_MAX is 255.
const LONGEST_NAME: usize = 200;
/// Rounds of the slow kill; each kills all that the one before has left or missed.
const KILL_ROUNDS: u32 = 64;

/// Why there are no cgroups to use: "the process group alone is killed" then, and `doctor` says
/// why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// An agent's part of the cgroup hierarchy.
#[derive(Debug)]
pub(crate) struct Cgroups {
    base: PathBuf,
    /// `base` as `/proc/PID/cgroup` names it.
    name: String,
    /// Whether there is `cgroup.kill` (Linux 5.14).
    kill_file: bool,
}

impl Cgroups {
    /// Finds the hierarchy, makes or finds again the agent's directory in it, and tries to start
    /// a process there. `name` tells agents apart: something made of the runtime dir.
    ///
    /// # Errors
    /// What is missing: no mount, no right to write, a hierarchy that takes no processes.
    pub(crate) fn open(name: &str, spawner: &mut Spawner) -> Result<Self, Unavailable> {
        let mountinfo = fs::read("/proc/self/mountinfo")
            .map_err(|error| Unavailable(format!("cannot read /proc/self/mountinfo: {error}")))?;
        let mounts = parse_mounts(&mountinfo);
        let Some(mount) = best_mount(&mounts) else {
            return Err(Unavailable("no cgroup2 file system is mounted".to_owned()));
        };
        let error = match Self::below(&mount.point, &mount.root, name, spawner) {
            Ok(cgroups) => return Ok(cgroups),
            Err(error) => error,
        };
        let own = proc::own_cgroup_path();
        if let Some(own) = &own
            && let Some(inside) = inside_mount(own, &mount.root)
            && let Ok(cgroups) = Self::below(&mount.point.join(inside), own, name, spawner)
        {
            return Ok(cgroups);
        }
        Err(Unavailable(format!(
            "cannot use the cgroups at {}: {error}",
            mount.point.display()
        )))
    }

    fn below(
        parent: &Path,
        parent_name: &str,
        name: &str,
        spawner: &mut Spawner,
    ) -> io::Result<Self> {
        // Asked before anything is made: without it no process may be moved to below here.
        // https://docs.kernel.org/admin-guide/cgroup-v2.html#delegation-containment
        eaccess(&parent.join("cgroup.procs"), AccessFlags::W_OK)?;
        let name = escape(name);
        let base = parent.join(COMMON).join(&name);
        fs::create_dir_all(&base)?;
        let directory = open_directory(&base)?;
        spawner.try_cgroup(directory.as_fd())?;
        Ok(Self {
            kill_file: base.join("cgroup.kill").exists(),
            name: format!("{}/{COMMON}/{name}", parent_name.trim_end_matches('/')),
            base,
        })
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
        let service = escape(service);
        let slots = [0, 1].map(|number| Slot {
            path: self.base.join(format!("{service}.{number}")),
            name: format!("{}/{service}.{number}", self.name),
            kill_file: self.kill_file,
        });
        for slot in &slots {
            slot.make()?;
        }
        Ok(ServiceCgroup { slots })
    }

    /// Removes the cgroups that no process is in: of services that are no longer configured. Call
    /// it before the first [`Cgroups::for_service`], or leave out what it has made.
    pub(crate) fn prune(&self) {
        for child in subdirectories(&self.base) {
            let slot = Slot {
                name: String::new(),
                path: child,
                kill_file: self.kill_file,
            };
            if matches!(slot.is_populated(), Ok(false)) {
                let _ = remove_nested(&slot.path);
            }
        }
    }

    /// Removes all that is empty, and the agent's own directory if nothing is left in it.
    pub(crate) fn remove(self) {
        self.prune();
        let _ = fs::remove_dir(&self.base);
        if let Some(common) = self.base.parent() {
            let _ = fs::remove_dir(common);
        }
    }
}

/// A service's two cgroups, used in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceCgroup {
    slots: [Slot; 2],
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
        self.slots.iter().find(|slot| slot.contains(&path))
    }

    /// Both.
    pub(crate) fn slots(&self) -> &[Slot; 2] {
        &self.slots
    }

    /// Removes both, as far as no process is in them.
    ///
    /// # Errors
    /// EBUSY if one still is.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.slots.iter().try_for_each(|slot| slot.remove())
    }
}

/// One cgroup, in which one instance lives with all that descends from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    path: PathBuf,
    /// As `/proc/PID/cgroup` names it.
    name: String,
    kill_file: bool,
}

impl Slot {
    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, for CLONE_INTO_CGROUP. Cgroups that an earlier instance has made in it go first,
    /// if they are empty.
    ///
    /// # Errors
    /// The kernel's; `NotFound` if it was removed.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let directory = File::from(open_directory(&self.path)?);
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
        // The agent's own directory may have been removed with it.
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)?;
        }
        self.make()
    }

    #[cfg(test)]
    pub(super) fn for_test(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            name: String::new(),
            kill_file: true,
        }
    }

    fn make(&self) -> io::Result<()> {
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
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
        match fs::read(self.path.join("cgroup.events")) {
            Ok(events) => Ok(says_populated(&events)),
            Err(error) if is_removed(&error) => Ok(false),
            Err(error) => Err(error),
        }
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

    /// Before Linux 5.14. A process that forks meanwhile is met in the next round.
    fn kill_one_by_one(&self) -> io::Result<()> {
        for _ in 0..KILL_ROUNDS {
            let mut killed = 0;
            for pid in self.pids()? {
                if self.kill_member(pid)? {
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

    /// Kills the process if it is in here, whatever else has had its pid.
    fn kill_member(&self, pid: u32) -> io::Result<bool> {
        let pidfd = match pidfd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
            Err(error) => return Err(error),
        };
        let inside = proc::cgroup_path(pid).is_some_and(|path| self.contains(&path));
        if !inside || pidfd::has_exited(pidfd.as_fd())? {
            return Ok(false);
        }
        signal::send(pidfd.as_fd(), Signal::KILL)
    }

    /// The processes in it and below.
    ///
    /// # Errors
    /// If the kernel's file cannot be read; a cgroup that is gone is empty.
    pub(crate) fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        let mut directories = vec![self.path.clone()];
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

    /// Whether a path of `/proc/PID/cgroup` is this cgroup or one below.
    fn contains(&self, path: &str) -> bool {
        match path.strip_prefix(self.name.as_str()) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
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
        // FNV-1a
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        escaped.truncate(LONGEST_NAME - 17);
        let _ = write!(escaped, "-{hash:016x}");
    }
    escaped
}

/// A mounted cgroup2 file system.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    /// Which cgroup is seen at `point`.
    root: String,
    read_only: bool,
}

/// The usual places first; one that is read-only last.
fn best_mount(mounts: &[Mount]) -> Option<&Mount> {
    mounts.iter().min_by_key(|mount| {
        let usual = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let rank = usual.iter().position(|path| mount.point == Path::new(path));
        (mount.read_only, rank.unwrap_or(usual.len()))
    })
}

/// Reads mountinfo: `31 23 0:28 ROOT POINT OPTIONS … - TYPE SOURCE SUPER`.
fn parse_mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let parse = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let root = unescape(fields.nth(3)?);
        let point = unescape(fields.next()?);
        let options = fields.next()?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"cgroup2").then(|| Mount {
            point: PathBuf::from(std::ffi::OsString::from_vec(point)),
            root: String::from_utf8_lossy(&root).into_owned(),
            read_only: options.split(|byte| *byte == b',').any(|o| o == b"ro"),
        })
    };
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect()
}

/// Space, tab, newline and backslash stand as three octal digits in mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match (first, octal) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// A cgroup's path below the mount that shows the cgroup `root`.
fn inside_mount<'a>(path: &'a str, root: &str) -> Option<&'a Path> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then(|| Path::new(rest.trim_start_matches('/')))
}

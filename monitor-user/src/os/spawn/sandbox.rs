//! A service's own view of the host, laid out for the child: a mount namespace in which parts of the file
//! system are read-only, empty or its own, and perhaps a network of its own. [`Sandboxed::enter`] and what
//! it calls run between clone and exec: as in `child`.
//!
//! Mounts are made read-only one by one, as the mount table has them at the start, and not by
//! `mount_setattr` for a whole tree: that came with Linux 5.12, and it cannot leave parts out without
//! making writable again what was read-only before, as in a container.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, c_int, c_ulong};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::prepared::c_path;
use super::{SpawnError, Stage};
use crate::model::{DirectoryKind, Exec, Sandbox};
use crate::os::mounts;
use crate::os::sys::{self, Errno};

/// What stays writable under a read-only root.
pub(super) const KERNEL_PLACES: [&str; 3] = ["/dev", "/proc", "/sys"];
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// What a `/dev` of its own has; those that are not there are left out.
const DEVICES: [(&CStr, &CStr); 7] = [
    (c"/dev/null", c"null"),
    (c"/dev/zero", c"zero"),
    (c"/dev/full", c"full"),
    (c"/dev/random", c"random"),
    (c"/dev/urandom", c"urandom"),
    (c"/dev/tty", c"tty"),
    (c"/dev/log", c"log"),
];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"pts/ptmx", c"/dev/ptmx"),
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

const NO_GAIN: c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Sandboxed {
    namespaces: c_int,
    operations: Vec<Operation>,
    /// What is not the host's.
    covered: Vec<PathBuf>,
    /// What cannot be done is left out.
    is_optional: bool,
}

#[derive(Debug)]
enum Operation {
    /// Mounts that are made in here stay in here.
    Part,
    /// Has a network with a loopback interface alone.
    Loopback,
    /// Mounts an empty file system there.
    Cover(CString, &'static CStr, c_ulong),
    /// Mounts a `/dev` with what every program needs.
    Devices,
    /// Makes a mount of what is there.
    Keep(CString),
    /// With the flags that the mount has.
    ReadOnly(CString, c_ulong),
}

impl Sandboxed {
    /// `None`: there is nothing to do.
    ///
    /// # Errors
    /// A path that is not there.
    pub(super) fn new(exec: &Exec) -> Result<Option<Self>, SpawnError> {
        let sandbox = &exec.confinement.sandbox;
        if sandbox.is_nothing() {
            return Ok(None);
        }
        let mut operations = vec![Operation::Part];
        let mut namespaces = libc::CLONE_NEWNS;
        if !sandbox.network {
            namespaces |= libc::CLONE_NEWNET;
            operations.push(Operation::Loopback);
        }
        let mut own = Vec::new();
        if sandbox.private_tmp {
            cover(&TEMPORARY, c"mode=1777", NO_GAIN, &mut operations, &mut own)?;
        }
        if sandbox.protect_home {
            let flags = NO_GAIN | libc::MS_NOEXEC | libc::MS_RDONLY;
            cover(&HOMES, c"mode=0", flags, &mut operations, &mut own)?;
        }
        if sandbox.private_devices {
            operations.push(Operation::Devices);
            own.push(PathBuf::from("/dev"));
        }
        let covered = own.clone();
        let directories = exec.confinement.directories.names.iter();
        let directories = directories.map(|(place, name): &(DirectoryKind, String)| {
            // They are made before.
            Path::new(place.parent()).join(name)
        });
        own.extend(directories);
        read_only(sandbox, &covered, &own, &mut operations)?;
        Ok(Some(Self {
            namespaces,
            operations,
            covered,
            is_optional: sandbox.optional,
        }))
    }

    /// Does all of it, with the agent's rights.
    pub(super) fn enter(&self, reach: impl Fn(Stage, u32)) -> Result<(), Errno> {
        // 0 is for the namespaces.
        reach(Stage::Sandbox, 0);
        match sys::unshare(self.namespaces) {
            // What follows would be done to the host.
            Err(_) if self.is_optional => return Ok(()),
            unshared => unshared?,
        }
        for (index, operation) in self.operations.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            reach(Stage::Sandbox, index.saturating_add(1));
            match (operation.perform(), operation) {
                // Mounts would reach the host.
                (Err(_), Operation::Part) if self.is_optional => return Ok(()),
                (Err(_), _) if self.is_optional => {}
                (done, _) => done?,
            }
        }
        Ok(())
    }

    /// Whether the service does not see what is there.
    pub(super) fn hides(&self, path: &Path) -> bool {
        self.covered.iter().any(|covered| path.starts_with(covered))
    }

    /// What was being done, in words.
    pub(super) fn action(&self, detail: u32) -> String {
        let index = usize::try_from(detail).unwrap_or(0).checked_sub(1);
        let shown = |path: &CString| path.to_string_lossy().into_owned();
        match index.and_then(|index| self.operations.get(index)) {
            None => "make namespaces for it".to_owned(),
            Some(Operation::Part) => "keep its mounts apart".to_owned(),
            Some(Operation::Loopback) => "set up its loopback interface".to_owned(),
            Some(Operation::Cover(path, ..)) => {
                format!("mount an empty file system at {}", shown(path))
            }
            Some(Operation::Devices) => "make a /dev for it".to_owned(),
            Some(Operation::Keep(path)) => format!("keep {} apart", shown(path)),
            Some(Operation::ReadOnly(path, _)) => format!("make {} read-only", shown(path)),
        }
    }
}

impl Operation {
    fn perform(&self) -> Result<(), Errno> {
        match self {
            Self::Part => sys::mount(None, c"/", None, libc::MS_REC | libc::MS_SLAVE, None),
            Self::Loopback => sys::bring_up_loopback(),
            Self::Cover(path, data, flags) => {
                sys::mount(Some(c"tmpfs"), path, Some(c"tmpfs"), *flags, Some(data))
            }
            Self::Devices => make_devices(),
            Self::Keep(path) => {
                sys::mount(Some(path), path, None, libc::MS_BIND | libc::MS_REC, None)
            }
            Self::ReadOnly(path, flags) => {
                let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | flags;
                match sys::mount(None, path, None, flags, None) {
                    // Another mount is over it, so that it cannot be reached.
                    Err(libc::ENOENT | libc::EINVAL | libc::ENOTDIR) => Ok(()),
                    done => done,
                }
            }
        }
    }
}

fn make_devices() -> Result<(), Errno> {
    const FILE_FLAGS: c_int = libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC;
    let mut devices = [-1; DEVICES.len()];
    for (fd, (path, _)) in devices.iter_mut().zip(DEVICES) {
        *fd = match sys::clone_tree(path) {
            Ok(fd) => fd,
            Err(libc::ENOENT) => continue,
            Err(errno) => return Err(errno),
        };
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount(
        Some(c"tmpfs"),
        c"/dev",
        Some(c"tmpfs"),
        flags,
        Some(c"mode=755"),
    )?;
    let dev = sys::open(
        c"/dev",
        libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        0,
    )?;
    for (fd, (path, name)) in devices.into_iter().zip(DEVICES) {
        if fd < 0 {
            continue;
        }
        sys::close(sys::open_at(dev, name, FILE_FLAGS, 0o644)?);
        sys::move_tree(fd, path)?;
        sys::close(fd);
    }
    for (target, link) in LINKS {
        sys::make_link(target, link)?;
    }
    sys::make_directory_at(dev, c"shm", 0o755)?;
    sys::make_directory_at(dev, c"pts", 0o755)?;
    sys::close(dev);
    let (shm, pts) = (c"/dev/shm", c"/dev/pts");
    sys::mount(
        Some(c"tmpfs"),
        shm,
        Some(c"tmpfs"),
        NO_GAIN,
        Some(c"mode=1777"),
    )?;
    // Terminals of its own, which every user may make.
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    let data = c"newinstance,ptmxmode=0666,mode=620";
    sys::mount(Some(c"devpts"), pts, Some(c"devpts"), flags, Some(data))
}

/// Those of these directories that are there.
fn cover(
    paths: &[&str],
    data: &'static CStr,
    flags: c_ulong,
    operations: &mut Vec<Operation>,
    own: &mut Vec<PathBuf>,
) -> Result<(), SpawnError> {
    for path in paths {
        if let Ok(path) = fs::canonicalize(path)
            && !own.contains(&path)
        {
            let target = c_path(&path, Stage::Sandbox, "cover")?;
            operations.push(Operation::Cover(target, data, flags));
            own.push(path);
        }
    }
    Ok(())
}

/// `covered`: what is not the host's; `own`: that, and what is the service's own already.
fn read_only(
    sandbox: &Sandbox,
    covered: &[PathBuf],
    own: &[PathBuf],
    operations: &mut Vec<Operation>,
) -> Result<(), SpawnError> {
    let reals = |paths: &[PathBuf]| -> Result<Vec<PathBuf>, SpawnError> {
        let paths = paths.iter().map(|path| real(path, own));
        let mut found: Vec<PathBuf> = paths
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        // What is covered is not there any more, and what covers it needs neither.
        found.retain(|path| !covered.iter().any(|covered| path.starts_with(covered)));
        Ok(found)
    };
    let (read_only, mut writable) = (reals(&sandbox.read_only)?, reals(&sandbox.writable)?);
    if read_only.is_empty() {
        return Ok(());
    }
    writable.extend(own.iter().cloned());
    let mounts = mounts();
    let c_path = |path: &Path| c_path(path, Stage::Sandbox, "mount");
    let mut kept = Vec::new();
    let mut closed = BTreeMap::new();
    for path in &read_only {
        let mut open: Vec<&Path> = writable.iter().map(PathBuf::as_path).collect();
        if path == Path::new("/") {
            open.extend(KERNEL_PLACES.map(Path::new));
        }
        open.retain(|open| open.starts_with(path) && open != path);
        for apart in [path.as_path()].into_iter().chain(open.iter().copied()) {
            // What was covered is a mount by then.
            if !mounts.contains_key(apart) && !covered.iter().any(|it| it == apart) {
                kept.push(apart.to_owned());
            }
        }
        let is_open = |mount: &Path| open.iter().any(|open| mount.starts_with(open));
        let own_flags = flags_at(&mounts, path);
        closed.insert(path.clone(), own_flags);
        let below = mounts
            .iter()
            .filter(|(mount, _)| mount.starts_with(path) && !is_open(mount));
        closed.extend(below.map(|(mount, flags)| (mount.clone(), *flags)));
    }
    kept.sort();
    kept.dedup();
    for path in kept {
        operations.push(Operation::Keep(c_path(&path)?));
    }
    for (path, flags) in closed {
        operations.push(Operation::ReadOnly(c_path(&path)?, flags));
    }
    Ok(())
}

/// Where a path leads. `None`: it is not there, and need not be.
pub(super) fn real(path: &Path, own: &[PathBuf]) -> Result<Option<PathBuf>, SpawnError> {
    let text = path.as_os_str().as_bytes();
    let (path, is_optional) = match text.strip_prefix(b"-") {
        Some(rest) => (Path::new(OsStr::from_bytes(rest)), true),
        None => (path, false),
    };
    match fs::canonicalize(path) {
        Ok(path) => Ok(Some(path)),
        // It is made before.
        Err(_) if own.iter().any(|own| own == path) => Ok(Some(path.to_owned())),
        Err(_) if is_optional => Ok(None),
        Err(error) => Err(SpawnError {
            stage: Stage::Sandbox,
            errno: error.raw_os_error().unwrap_or(libc::ENOENT),
            message: format!(
                "cannot find {}: {error} ({})",
                path.display(),
                Stage::Sandbox
            ),
        }),
    }
}

/// The flags of the mount that a path is on.
fn flags_at(mounts: &BTreeMap<PathBuf, c_ulong>, path: &Path) -> c_ulong {
    let found = path.ancestors().find_map(|path| mounts.get(path));
    found.copied().unwrap_or_default()
}

/// The mounts that this process sees, and their flags; of several at one place the last one.
fn mounts() -> BTreeMap<PathBuf, c_ulong> {
    let mounts = mounts::mounts().unwrap_or_default().into_iter();
    mounts
        .map(|mount| (mount.point, flags_of(&mount.options)))
        .collect()
}

/// The flags that stand for a mount's options.
fn flags_of(options: &str) -> c_ulong {
    let flags = options.split(',').map(|option| match option {
        "nosuid" => libc::MS_NOSUID,
        "nodev" => libc::MS_NODEV,
        "noexec" => libc::MS_NOEXEC,
        "noatime" => libc::MS_NOATIME,
        "nodiratime" => libc::MS_NODIRATIME,
        "relatime" => libc::MS_RELATIME,
        _ => 0,
    });
    flags.fold(0, |all, flag| all | flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags() {
        let flags = libc::MS_NOATIME | libc::MS_NOSUID;
        assert_eq!(flags_of("rw,noatime,nosuid"), flags);
        assert_eq!(flags_of(""), 0);
    }

    #[test]
    fn the_root_is_on_a_mount() {
        assert!(mounts().contains_key(Path::new("/")));
    }
}

//! Which file systems are mounted where, as this process sees it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::poll::{PollFd, PollFlags};

/// The kernel's table: proc_pid_mountinfo(5).
pub(crate) const TABLE: &str = "/proc/self/mountinfo";

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Tells it from all others.
    pub(crate) id: u64,
    /// The file system's number: "0:25".
    pub(crate) device: String,
    /// What of the file system is seen. Of a namespace, which has no directories: "net:[…]".
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// Of the mount, not of the file system: "rw,nosuid".
    pub(crate) options: String,
    /// "ext4"
    pub(crate) kind: String,
}

impl Mount {
    pub(crate) fn is_read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
    }

    /// Whether what is on it waits for nobody but this host's disks.
    fn is_local(&self) -> bool {
        LOCAL.contains(&&*self.kind)
    }
}

/// All of them.
///
/// # Errors
/// The kernel's: /proc is not mounted.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(TABLE)?))
}

/// Kinds of file systems that wait for nobody but this host's disks.
const LOCAL: [&str; 38] = [
    "bcachefs",
    "binfmt_misc",
    "bpf",
    "btrfs",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "erofs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "jfs",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "vfat",
    "xfs",
    "zfs",
];

/// The table as it was when it was read last.
struct Known {
    /// The kernel tells by it when the table has changed: `mounts_poll` in fs/proc_namespace.c.
    table: File,
    mounts: Vec<Mount>,
    /// Of all that were read, this is the so many-th.
    version: u64,
}

impl Known {
    fn read() -> io::Result<Self> {
        let mut known = Self {
            table: File::open(TABLE)?,
            mounts: Vec::new(),
            version: 0,
        };
        known.read_again()?;
        Ok(known)
    }

    fn read_again(&mut self) -> io::Result<()> {
        self.table.rewind()?;
        let mut bytes = Vec::new();
        self.table.read_to_end(&mut bytes)?;
        self.mounts = parse(&bytes);
        static READ: AtomicU64 = AtomicU64::new(0);
        self.version = READ.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The question is the answer to the change: the next one is about what changes after it.
    fn has_changed(&self) -> bool {
        let mut table = [PollFd::new(self.table.as_fd(), PollFlags::POLLPRI)];
        let polled = super::poll_now(&mut table);
        let [table] = table;
        polled.is_err() || table.revents().is_none_or(|events| !events.is_empty())
    }
}

/// Asks of the table as it is now. It is read only if it has changed since it was last asked of.
///
/// # Errors
/// As [`mounts`].
fn ask<T>(question: impl FnOnce(&Known) -> T) -> io::Result<T> {
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let mut slot = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = match slot.take() {
        Some(mut known) => {
            if known.has_changed() {
                known.read_again()?;
            }
            known
        }
        None => Known::read()?,
    };
    Ok(question(slot.insert(known)))
}

/// A number that is another one whenever the table has changed; `None`: it cannot be read.
pub(crate) fn version() -> Option<u64> {
    ask(|known| known.version).ok()
}

/// Whether opening this path may wait for somebody who never answers: a server that is gone, a process of
/// FUSE, an automounter. Looks at no file system that may, but for the root's own.
pub(crate) fn may_hang(path: &Path) -> bool {
    let may_hang = ask(|known| {
        let mounts = &known.mounts;
        mounts.iter().any(|mount| !mount.is_local())
            && !is_within(Path::new("/"), path)
            && !is_on_a_local_one(path, mounts)
    });
    may_hang.unwrap_or_else(|_| !is_within(Path::new("/"), path))
}

/// Whether one of these mounts holds this path, and only local ones are on the way to it.
fn is_on_a_local_one(path: &Path, mounts: &[Mount]) -> bool {
    let on_the_way = mounts.iter().filter(|it| path.starts_with(&it.point));
    let length = |mount: &&Mount| mount.point.as_os_str().len();
    on_the_way.clone().all(Mount::is_local)
        && on_the_way
            .max_by_key(length)
            .is_some_and(|mount| is_within(&mount.point, path))
}

/// Whether no other mount is on the way from this one to the path, its links followed. `point` is where it
/// is mounted, without links.
fn is_within(point: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(point) else {
        return false;
    };
    let how = || OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    let links = ResolveFlag::RESOLVE_NO_SYMLINKS;
    let Ok(mount) = openat2(AT_FDCWD, point, how().resolve(links)) else {
        return false;
    };
    let below = match below.as_os_str().is_empty() {
        true => Path::new("."),
        false => below,
    };
    let same_mount = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    match openat2(&mount, below, how().resolve(same_mount)) {
        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => true,
        // EXDEV; or this kernel or a filter of system calls does not know the call.
        Err(_) => false,
    }
}

/// Reads the table: `31 23 0:28 ROOT POINT OPTIONS … - TYPE SOURCE SUPER`. Torn lines are left out.
pub(super) fn parse(table: &[u8]) -> Vec<Mount> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let path = |field| PathBuf::from(OsString::from_vec(unescape(field)));
    let mut fields = line.split(|byte| *byte == b' ');
    Some(Mount {
        id: text(fields.next()?).parse().ok()?,
        device: text(fields.nth(1)?),
        root: path(fields.next()?),
        point: path(fields.next()?),
        options: text(fields.next()?),
        kind: text(fields.skip_while(|field| *field != b"-").nth(1)?),
    })
}

/// Blanks, tabs, newlines and backslashes are written as octal numbers: `\040`.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_of_the_mount_table_is_read() {
        let line = b"36 35 98:0 /mnt\\0111 /mnt\\0402 rw,noatime,nosuid master:1 shared:3 - ext3 /dev/root \
                     rw,errors=continue";
        let mount = Mount {
            id: 36,
            device: "98:0".to_owned(),
            root: PathBuf::from("/mnt\t1"),
            point: PathBuf::from("/mnt 2"),
            options: "rw,noatime,nosuid".to_owned(),
            kind: "ext3".to_owned(),
        };
        assert_eq!(parse_line(line), Some(mount));
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"1 2 torn"), None);
        assert_eq!(unescape(b"a\\"), b"a\\");
        assert_eq!(unescape(b"\\134x\\011"), b"\\x\t");
    }

    #[test]
    fn a_path_that_is_not_utf_8_loses_nothing() {
        let table = b"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /\xff ro - tmpfs x rw\n";
        let mounts = parse(table);
        assert_eq!(mounts[1].point.as_os_str().as_encoded_bytes(), b"/\xff");
        assert!(mounts[1].is_read_only() && !mounts[0].is_read_only());
    }

    #[test]
    fn a_local_mount_is_looked_at_and_no_other_on_the_way_or_behind_a_link() {
        let table = b"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /proc rw - proc x rw\n";
        let mut mounts = parse(table);
        let is_local = |path: &str, mounts: &[Mount]| is_on_a_local_one(Path::new(path), mounts);
        assert!(is_local("/proc/self/status", &mounts));
        assert!(is_local("/proc/is/not/there", &mounts));
        assert!(is_local("/proc", &mounts));
        // To another mount.
        assert!(!is_local("/proc/self/root/etc", &mounts));
        mounts.extend(parse(b"3 2 0:3 / /proc/self rw - fuse x rw\n"));
        assert!(!is_local("/proc/self/status", &mounts));
        assert!(is_local("/proc/uptime", &mounts));
        mounts.extend(parse(b"4 1 0:4 / /proc rw - autofs x rw\n"));
        assert!(!is_local("/proc/uptime", &mounts));
    }

    #[test]
    fn the_root_is_mounted() {
        let mounts = mounts().unwrap();
        assert!(mounts.iter().any(|mount| mount.point == Path::new("/")));
    }
}

//! Whether what a process has loaded and has open is still what its paths lead to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, fstatat, stat};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};

use super::mounts;

/// What looks like a path in a list of mappings, and is memory: `memfd_create(2)`, System V's, shared memory
/// without a name.
const MEMORY: [&[u8]; 4] = [b"/memfd:", b"/SYSV", b"/dev/zero", b"/anon_hugepage"];

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Nothing,
    /// Whoever looks may wait for somebody who never answers.
    Hidden,
    File(Stamp),
}

/// What a file is, and when it was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    owner: (u32, u32),
    mode: u32,
    /// Size and times, which a file that is written to changes at any time.
    content: Option<(i64, [i64; 4])>,
}

impl Stamp {
    fn of(file: &FileStat, is_whole: bool) -> Self {
        let times = [
            file.st_mtime,
            file.st_mtime_nsec,
            file.st_ctime,
            file.st_ctime_nsec,
        ];
        Self {
            device: file.st_dev,
            inode: file.st_ino,
            owner: (file.st_uid, file.st_gid),
            mode: file.st_mode,
            content: is_whole.then_some((file.st_size, times)),
        }
    }
}

/// A path, and what was there.
#[derive(Debug)]
pub(crate) struct Snapshot {
    path: PathBuf,
    is_whole: bool,
    was: Look,
}

impl Snapshot {
    /// A file whose content counts, as it is now.
    pub(crate) fn whole(path: &Path) -> Self {
        Self::new(path, true)
    }

    /// A file or directory whose content may change.
    pub(crate) fn itself(path: &Path) -> Self {
        Self::new(path, false)
    }

    fn new(path: &Path, is_whole: bool) -> Self {
        Self {
            path: path.to_owned(),
            is_whole,
            was: look(path, is_whole),
        }
    }

    /// Whether the content counts.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was not looked at, as nobody may answer there.
    pub(crate) fn is_hidden(&self) -> bool {
        self.was == Look::Hidden
    }

    /// Whether the same is there, unchanged, as far as that can be seen without waiting for anybody.
    /// `same_mounts`: nothing has been mounted or unmounted since, so that it can be told sooner.
    pub(crate) fn is_as_it_was(&self, same_mounts: bool) -> bool {
        if self.is_hidden() {
            return false;
        }
        let seen = same_mounts.then(|| glance(&self.path, self.is_whole));
        seen.flatten()
            .unwrap_or_else(|| look(&self.path, self.is_whole))
            == self.was
    }
}

fn look(path: &Path, is_whole: bool) -> Look {
    if mounts::may_hang(path) {
        return Look::Hidden;
    }
    stat(path).map_or(Look::Nothing, |it| Look::File(Stamp::of(&it, is_whole)))
}

/// What the kernel knows of a path without asking any file system; `None`: not enough, or the kernel is
/// older than 5.12.
fn glance(path: &Path, is_whole: bool) -> Option<Look> {
    let cached = ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED);
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    let file = match openat2(AT_FDCWD, path, how.resolve(cached)) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Some(Look::Nothing),
        Err(_) => return None,
    };
    let known = AtFlags::AT_EMPTY_PATH | AtFlags::from_bits_retain(libc::AT_STATX_DONT_SYNC);
    let file = fstatat(&file, c"", known).ok()?;
    Some(Look::File(Stamp::of(&file, is_whole)))
}

/// The files that a process has mapped.
#[derive(Debug)]
pub(crate) struct Files(Vec<Snapshot>);

impl Files {
    /// Those of a process that is stopped; `None`: the path of one leads to another file by now.
    ///
    /// # Errors
    /// `/proc/PID/maps` cannot be read, or one of them may be looked at only by who can wait.
    pub(crate) fn of(pid: u32) -> io::Result<Option<Self>> {
        let maps = fs::read(format!("/proc/{pid}/maps"))?;
        let mut snapshots = Vec::new();
        for (path, inode) in mapped(&maps) {
            let snapshot = Snapshot::whole(&path);
            let is_it = match &snapshot.was {
                Look::File(was) => was.inode == inode || is_on_overlay(&path),
                Look::Nothing => false,
                Look::Hidden => {
                    let why = format!("{} is on a mount whose server may be gone", path.display());
                    return Err(io::Error::other(why));
                }
            };
            if !is_it {
                return Ok(None);
            }
            snapshots.push(snapshot);
        }
        Ok(Some(Self(snapshots)))
    }

    /// Where they are.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(Snapshot::path)
    }

    /// Without those of which there are snapshots anyway.
    pub(crate) fn beside(self, snapshots: &[Snapshot]) -> Self {
        let is_there = |path: &Path| {
            snapshots
                .iter()
                .any(|it| it.is_whole() && it.path() == path)
        };
        let files = self.0.into_iter();
        Self(files.filter(|file| !is_there(file.path())).collect())
    }

    /// Whether none of them has changed; see [`Snapshot::is_as_it_was`].
    pub(crate) fn are_as_they_were(&self, same_mounts: bool) -> bool {
        self.0.iter().all(|file| file.is_as_it_was(same_mounts))
    }
}

/// The path of each file that is mapped, with the number of its inode.
///
/// A line is "start-end rights offset device inode path": `show_map_vma` in fs/proc/task_mmu.c.
fn mapped(maps: &[u8]) -> BTreeMap<PathBuf, u64> {
    let lines = maps.split(|byte| *byte == b'\n');
    let files = lines.filter_map(|line| {
        let slash = line.iter().position(|byte| *byte == b'/')?;
        let (head, path) = line.split_at_checked(slash)?;
        if MEMORY.iter().any(|name| path.starts_with(name)) {
            return None;
        }
        let head = std::str::from_utf8(head).ok()?;
        let inode = head.split_ascii_whitespace().nth(4)?.parse().ok()?;
        Some((PathBuf::from(std::ffi::OsStr::from_bytes(path)), inode))
    });
    files.collect()
}

/// There the kernel may show the inode of a layer.
fn is_on_overlay(path: &Path) -> bool {
    statfs(path).is_ok_and(|it| it.filesystem_type() == OVERLAYFS_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_files_are_told_with_their_inodes() {
        let maps = b"55d0-55d1 r--p 00000000 fe:00 1234   /usr/bin/a b\n\
            7f00-7f01 rw-p 00000000 00:00 0 \n\
            7f01-7f02 r-xp 00001000 fe:00 77 /usr/lib/libc.so.6\n\
            7f02-7f03 r-xp 00002000 fe:00 77 /usr/lib/libc.so.6\n\
            7ffd-7ffe rw-p 00000000 00:00 0 [stack]\n";
        let files: Vec<_> = mapped(maps).into_iter().collect();
        assert_eq!(
            files,
            [
                ("/usr/bin/a b".into(), 1234),
                ("/usr/lib/libc.so.6".into(), 77)
            ]
        );
    }

    #[test]
    fn a_process_is_seen_to_run_what_is_on_disk_until_that_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program)
            .arg("60")
            .spawn()
            .unwrap();
        let of = || Files::of(child.id()).unwrap();
        // Before its exec is through, it has the files of this process.
        let runs_it = |files: &Files| files.paths().any(|path| path == program);
        crate::os::testing::until("it runs the program", || {
            of().is_some_and(|it| runs_it(&it))
        });
        let files = of().unwrap();
        assert!(files.paths().count() > 1, "{files:?}");
        assert!(files.are_as_they_were(true) && files.are_as_they_were(false));
        let new = dir.path().join("new");
        fs::copy("/bin/sleep", &new).unwrap();
        fs::rename(&new, &program).unwrap();
        assert!(!files.are_as_they_were(true) && !files.are_as_they_were(false));
        assert!(of().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_is_written_to_a_log_changes_nothing() {
        let is_same = |it: &Snapshot| {
            let [sooner, later] = [true, false].map(|same_mounts| it.is_as_it_was(same_mounts));
            assert_eq!(sooner, later);
            sooner
        };
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "a").unwrap();
        let (itself, whole) = (Snapshot::itself(&log), Snapshot::whole(&log));
        assert!(is_same(&itself) && is_same(&whole));
        fs::write(&log, "ab").unwrap();
        assert!(is_same(&itself) && !is_same(&whole));
        fs::rename(&log, dir.path().join("log.1")).unwrap();
        assert!(!is_same(&itself));
        let absent = Snapshot::whole(&log);
        assert!(is_same(&absent));
    }
}

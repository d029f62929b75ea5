//! Descriptors of any kind: which file is behind one, whether two are the same, and how one is found
//! and taken over in another process. For descriptors that outlive an agent. Reads and writes nothing
//! through them.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};

use super::{pidfd, socket};
use crate::model::fnv1a;

/// So many descriptors of another process are looked at.
const MOST_LOOKED_AT: usize = 4096;

/// `KCMP_FILE` of `kcmp(2)`.
const SAME_FILE: usize = 0;

/// Higher than the numbers of what an agent opens at its start.
const HIGH_NUMBER: RawFd = 200;

/// Has the kernel close this file before most others when this process dies: it closes those with high numbers first
/// (`task_work_run`, kernel/task_work.c: what was added last). For locks that the next agent waits for: to close an
/// inotify instance takes the kernel tens of milliseconds (`fsnotify_destroy_group`, fs/notify/group.c). Of several locks
/// the one that was taken last goes first.
pub(crate) fn first_to_close(file: File) -> File {
    match fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(HIGH_NUMBER)) {
        // SAFETY: fcntl(2) has just made this descriptor, and nobody else has it.
        Ok(number) => File::from(unsafe { OwnedFd::from_raw_fd(number) }),
        // So many may not be open.
        Err(_) => file,
    }
}

/// What tells a file from the others that are open, and where to look for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    #[serde(flatten)]
    file: Traits,
    /// Of what `/proc/PID/fd` says, which changes when somebody renames the file.
    target: u64,
}

/// Of sockets they are certain. Of other files a new one may get the inode of one that is gone; then it was
/// born at another time, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Traits {
    device: (u32, u32),
    inode: u64,
    /// Seconds and nanoseconds since 1970; `None`: the file system does not keep it.
    born: Option<(i64, u32)>,
    /// Whether it is open for reading, writing or both (`O_ACCMODE`): the ends of a pipe have one inode.
    access: i32,
    /// What the kernel names it by (`SO_COOKIE`), if it is a socket.
    cookie: Option<u64>,
    /// It shares its inode with others: an eventfd, a timerfd, an epoll.
    is_shared: bool,
}

impl Identity {
    /// Of the file that is open there.
    ///
    /// # Errors
    /// No `/proc`, and the kernel's.
    pub(crate) fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        let (device, inode, born) = look(file)?;
        let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
        let target = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let text = target.as_os_str().as_encoded_bytes();
        Ok(Self {
            file: Traits {
                device,
                inode,
                born,
                access: (flags & OFlag::O_ACCMODE).bits(),
                cookie: socket::cookie(file).ok(),
                is_shared: text.starts_with(b"anon_inode:"),
            },
            target: hash_of(text),
        })
    }

    /// Whether both are of one file.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.file == other.file
    }

    /// The same file in another process, wherever among its `open` files that is; `None`: it has it no
    /// more, or that cannot be told.
    ///
    /// # Errors
    /// The right to trace that process is missing, or a descriptor.
    pub(crate) fn take_from(
        &self,
        process: BorrowedFd<'_>,
        open: &OpenFiles,
    ) -> io::Result<Option<OwnedFd>> {
        if self.file.is_shared {
            return Ok(None);
        }
        let alike = open.0.iter().filter(|(target, _)| *target == self.target);
        for (_, number) in alike {
            match taken_from(process, *number, self) {
                Ok(file) => return Ok(Some(file)),
                // It is another one, or has been closed.
                Err(error) if error.raw_os_error().is_none_or(|it| it == libc::EBADF) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// What a process has open, by its numbers.
pub(crate) struct OpenFiles(Vec<(u64, RawFd)>);

impl OpenFiles {
    /// Follows no link there: that may wait for whoever serves the file system.
    ///
    /// # Errors
    /// The process is gone, or the right to trace it is missing.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
        let open = entries.take(MOST_LOOKED_AT).filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((hash_of(target.as_os_str().as_encoded_bytes()), number))
        });
        Ok(Self(open.collect()))
    }
}

/// The same whether or not the file has been removed: `d_path`, fs/d_path.c.
fn hash_of(target: &[u8]) -> u64 {
    let target = target.strip_suffix(b" (deleted)").unwrap_or(target);
    fnv1a(target.iter().copied())
}

/// Device, inode and time of birth.
type Looks = ((u32, u32), u64, Option<(i64, u32)>);

/// `statx(2)`, without asking whoever serves the file system: it may not answer.
fn look(file: BorrowedFd<'_>) -> io::Result<Looks> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path ends in a NUL, and the kernel fills in a `statx`, which is what the pointer leads to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_INO | libc::STATX_BTIME,
            found.as_mut_ptr(),
        )
    };
    Errno::result(result)?;
    // SAFETY: all bit patterns, zeros among them, are a `statx`.
    let found = unsafe { found.assume_init() };
    let is_born = found.stx_mask & libc::STATX_BTIME != 0;
    let born = (found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    Ok((
        (found.stx_dev_major, found.stx_dev_minor),
        found.stx_ino,
        is_born.then_some(born),
    ))
}

/// What another process has open as that number, if it is this file.
///
/// # Errors
/// EBADF if it has none of that number; an error without a number if it is another one; EPERM without the
/// right to trace it.
pub(crate) fn taken_from(
    process: BorrowedFd<'_>,
    number: RawFd,
    identity: &Identity,
) -> io::Result<OwnedFd> {
    let file = pidfd::descriptor_of(process, number)?;
    match Identity::of(file.as_fd())?.is(identity) {
        true => Ok(file),
        false => Err(io::Error::other("it has another file there")),
    }
}

/// Whether two of this process's descriptors are one open file: the same position, the same flags.
/// Where the kernel does not say (`kcmp(2)`), whether they are of one file.
pub(crate) fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let own = std::process::id();
    // SAFETY: touches no memory.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            own,
            own,
            SAME_FILE,
            one.as_raw_fd(),
            other.as_raw_fd(),
        )
    };
    if order >= 0 {
        return order == 0;
    }
    match (Identity::of(one), Identity::of(other)) {
        (Ok(one), Ok(other)) => one.is(&other) && !one.file.is_shared,
        _ => false,
    }
}

/// A descriptor that this process has had open since before it became this program, and that nothing
/// else in it knows of. `None`: none of that number is open.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: touches no memory, and a number that is not open is an error.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the caller says that nothing else in this process has it.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    socket::set_inherited(file.as_fd(), false).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn a_file_is_known_again_and_no_other_is_taken_for_it() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let again = tempfile::tempfile().unwrap();
        let files = [
            reader.as_fd(),
            writer.as_fd(),
            one.as_fd(),
            other.as_fd(),
            file.as_fd(),
            again.as_fd(),
        ];
        let own = pidfd::open(std::process::id()).unwrap();
        for file in files {
            let identity = Identity::of(file).unwrap();
            let alike = files
                .iter()
                .filter(|it| Identity::of(**it).unwrap().is(&identity));
            assert_eq!(alike.count(), 1);
            let open = OpenFiles::of(std::process::id()).unwrap();
            let taken = identity.take_from(own.as_fd(), &open);
            assert!(is_same(taken.unwrap().unwrap().as_fd(), file));
            let taken = taken_from(own.as_fd(), file.as_raw_fd(), &identity).unwrap();
            assert!(is_same(taken.as_fd(), file));
            let text = serde_json::to_string(&identity).unwrap();
            assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), identity);
        }
        let wrong = taken_from(
            own.as_fd(),
            reader.as_raw_fd(),
            &Identity::of(writer.as_fd()).unwrap(),
        );
        assert_eq!(wrong.unwrap_err().raw_os_error(), None);
        // One that is closed is not found any more.
        let identity = Identity::of(one.as_fd()).unwrap();
        drop(one);
        let open = OpenFiles::of(std::process::id()).unwrap();
        assert!(identity.take_from(own.as_fd(), &open).unwrap().is_none());
    }

    #[test]
    fn one_open_file_is_told_from_another_of_the_same_file() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let one = File::open(path.path()).unwrap();
        let other = File::open(path.path()).unwrap();
        assert!(is_same(one.as_fd(), one.try_clone().unwrap().as_fd()));
        assert!(!is_same(one.as_fd(), other.as_fd()));
    }

    #[test]
    fn a_removed_file_is_found_and_a_renamed_one_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let [removed, renamed] = ["a", "b"].map(|name| dir.path().join(name));
        let files = [&removed, &renamed].map(|path| File::create(path).unwrap());
        let identities = files
            .each_ref()
            .map(|file| Identity::of(file.as_fd()).unwrap());
        std::fs::remove_file(&removed).unwrap();
        std::fs::rename(&renamed, dir.path().join("c")).unwrap();
        let own = pidfd::open(std::process::id()).unwrap();
        let open = OpenFiles::of(std::process::id()).unwrap();
        let found = identities.map(|it| it.take_from(own.as_fd(), &open).unwrap());
        assert!(is_same(
            found[0].as_ref().unwrap().as_fd(),
            files[0].as_fd()
        ));
        assert!(found[1].is_none());
        for (file, identity) in files.iter().zip(&identities) {
            assert!(taken_from(own.as_fd(), file.as_raw_fd(), identity).is_ok());
        }
    }

    #[test]
    fn what_shares_its_inode_is_not_taken_for_another() {
        let (one, other) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        assert!(!is_same(one.as_fd(), other.as_fd()));
        let identity = Identity::of(one.as_fd()).unwrap();
        let own = pidfd::open(std::process::id()).unwrap();
        let open = OpenFiles::of(std::process::id()).unwrap();
        assert!(identity.take_from(own.as_fd(), &open).unwrap().is_none());
        assert!(taken_from(own.as_fd(), one.as_raw_fd(), &identity).is_ok());
    }

    #[test]
    fn what_is_not_open_is_not_inherited() {
        let file = tempfile::tempfile().unwrap();
        let number = nix::unistd::dup(&file).unwrap();
        let raw = std::os::fd::IntoRawFd::into_raw_fd(number);
        drop(inherited(raw).unwrap());
        assert!(inherited(2).is_none());
        assert!(inherited(RawFd::MAX).is_none());
    }
}

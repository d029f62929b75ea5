//! Performs one action at a time; the only user-space home of `unsafe`.
//!
//! Decides nothing: when to start, signal or kill is the supervisor's.

pub(crate) mod answer;
pub(crate) mod bpf;
pub(crate) mod cgroup;
pub(crate) mod cgroup_id;
pub(crate) mod cgroup_limits;
pub(crate) mod descriptor;
pub(crate) mod effort;
pub(crate) mod inotify;
pub(crate) mod listen;
pub(crate) mod marker;
pub(crate) mod mounts;
#[cfg(target_feature = "crt-static")]
mod no_accounts;
pub(crate) mod notify;
pub(crate) mod open;
pub(crate) mod peer;
pub(crate) mod pidfd;
pub(crate) mod pipe;
pub(crate) mod place;
pub(crate) mod proc;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod ring;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod standby_files;
mod sys;
pub(crate) mod trace;
pub(crate) mod tracefs;
pub(crate) mod tree;
pub(crate) mod trust;
pub(crate) mod waiter;

#[cfg(test)]
pub(crate) mod testing;

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollTimeout, poll};
use nix::unistd::{SysconfVar, sysconf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Size of a page of memory, in bytes.
pub(crate) fn page_size() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

/// The kernel's version: "6.18.44-generic" is (6, 18).
pub(crate) fn kernel_version() -> Option<(u32, u32)> {
    let kernel = nix::sys::utsname::uname().ok()?;
    version_of(&kernel.release().to_string_lossy())
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Gives memory that is free by now back to the kernel.
pub(crate) fn give_back_memory() {
    // SAFETY: takes nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// The bytes of a record as the kernel writes it.
#[cfg(test)]
pub(crate) fn bytes_of_record(
    record: monitor_ebpf::ExitRecord,
) -> [u8; size_of::<monitor_ebpf::ExitRecord>()] {
    // SAFETY: numbers and bytes without padding: its size is the sum of its fields'.
    unsafe { std::mem::transmute(record) }
}

/// Device and inode number: no other file has both while this one is there.
pub(crate) fn identity(of: &Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

/// Removes a file, if there is one.
///
/// # Errors
/// The kernel's.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Looks at these descriptors without waiting: how many are ready, and for what, in them.
///
/// Where none is, `poll(2)` says EINTR if a signal has just come, though it has nothing to wait for
/// (`do_poll`, fs/select.c). Then it looks again.
///
/// # Errors
/// The kernel's, without memory for instance.
pub(crate) fn poll_now(fds: &mut [PollFd<'_>]) -> nix::Result<i32> {
    poll_within(fds, PollTimeout::ZERO)
}

/// The same, and waits so long; longer where signals come between.
///
/// # Errors
/// The kernel's, without memory for instance.
pub(crate) fn poll_within(fds: &mut [PollFd<'_>], wait: PollTimeout) -> nix::Result<i32> {
    loop {
        match poll(fds, wait) {
            Err(Errno::EINTR) => {}
            looked => return looked,
        }
    }
}

/// Makes a directory with this mode, if there is none.
///
/// # Errors
/// The kernel's.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Whether somebody has locked a file or directory by `flock(2)` for himself alone. The look is a
/// lock that others may share, for a moment, so that two who look do not see each other.
pub(crate) fn is_locked(file: File) -> bool {
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// Has the runtime wait for a descriptor that `owner` keeps open.
///
/// # Errors
/// The descriptor cannot be waited for: that of a regular file, for instance.
pub(crate) fn async_fd<T: AsFd + AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsFd` says that the descriptor stays open while `owner` lives, which the returned
    // value holds; both traits name the same descriptor for every type that implements them.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        for (release, expected) in [
            ("6.18.44", Some((6, 18))),
            ("5.10.0-30-cloud-amd64", Some((5, 10))),
            ("7.2-rc1", Some((7, 2))),
            ("6", None),
            ("", None),
            ("x.y", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(version_of(release), expected, "{release}");
        }
    }
}

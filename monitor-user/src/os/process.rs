//! A process that someone else started, held by a pidfd so that a reused pid is never taken for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;

use super::pidfd;
use super::proc::{self, Stat};
use crate::model::Instance;

/// A process, alive when it was opened.
#[derive(Debug)]
pub(crate) struct Process {
    /// Who it is.
    pub(crate) instance: Instance,
    /// Its name when it was opened.
    pub(crate) comm: Option<String>,
    pidfd: OwnedFd,
}

/// Why a process cannot be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// There is no such process any more.
    Gone,
    /// The pid is a thread's; the process has another one.
    NotAProcess,
    /// Anything else.
    Other(io::Error),
}

impl Process {
    /// Opens process `pid` of the caller's PID namespace.
    pub(crate) fn open(pid: u32) -> Result<Self, OpenError> {
        let pidfd = pidfd::open(pid).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => OpenError::Gone,
            // EINVAL up to 6.8, ENOENT since: the task leads no thread group (kernel/pid.c).
            Some(libc::EINVAL | libc::ENOENT) => OpenError::NotAProcess,
            _ => OpenError::Other(error),
        })?;
        let stat = read_stat(pidfd.as_fd());
        match stat {
            Ok(stat) => {
                let instance = Instance {
                    pid,
                    start_time_ns: stat.start_time_ns,
                };
                Ok(Self {
                    instance,
                    comm: Some(stat.comm),
                    pidfd,
                })
            }
            Err(_) if pidfd::has_exited(pidfd.as_fd()).unwrap_or(false) => Err(OpenError::Gone),
            Err(error) => Err(OpenError::Other(error)),
        }
    }

    /// Whether all its threads have ended and it has let go of what it held.
    pub(crate) fn has_ended(&self) -> bool {
        pidfd::has_exited(self.pidfd.as_fd()).unwrap_or(false)
    }

    /// Its wait status, as [`exit_status`] tells it.
    pub(crate) fn exit_status(&self) -> Option<i32> {
        exit_status(self.pidfd.as_fd())
    }
}

/// What has become of a child that an agent had recorded, and perhaps not let go on, when it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orphan {
    /// It runs its program, or has run it.
    Program,
    /// It ended before that: it depended on the agent.
    Nothing,
    /// It is gone, as one or the other.
    Gone,
}

/// Finds out what has become of such a child; waits while that is open, which it is for an instant
/// only, unless opening a log takes long: then it is taken to become the program.
pub(crate) fn orphan(instance: Instance) -> Orphan {
    const PATIENCE_MS: u32 = 2000;
    for waited in 0..PATIENCE_MS {
        match proc::stat(instance.pid) {
            Ok(stat) if stat.start_time_ns == instance.start_time_ns => {
                if stat.has_executed {
                    return Orphan::Program;
                }
                if stat.is_zombie() {
                    return Orphan::Nothing;
                }
            }
            _ if waited == 0 => return Orphan::Gone,
            _ => return Orphan::Nothing,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Orphan::Program
}

/// The wait status of an ended process that is not our child, if anybody still knows it: the
/// kernel by the pidfd once it is reaped (6.15 and later), `/proc` before that if the caller may
/// look.
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // It may be reaped between the two looks, so the first look comes twice.
    exit_info(pidfd)
        .or_else(|| zombie_status(pidfd))
        .or_else(|| exit_info(pidfd))
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// Reads the process's stat by way of the pidfd, whose `fdinfo` names the pid that it has in the
/// PID namespace of this `/proc`.
fn read_stat(pidfd: BorrowedFd<'_>) -> io::Result<Stat> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok())
        .ok_or_else(|| io::Error::other("no Pid in the pidfd's fdinfo"))?;
    // -1 once it is reaped, 0 if this /proc cannot see it.
    match u32::try_from(pid) {
        Ok(pid) if pid > 0 => proc::stat(pid),
        _ => Err(Errno::ESRCH.into()),
    }
}

fn zombie_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let stat = read_stat(pidfd).ok()?;
    // Zero may also mean that the caller may not know.
    (stat.is_zombie() && stat.wait_status != 0).then_some(stat.wait_status)
}

/// `struct pidfd_info` as of 6.15, include/uapi/linux/pidfd.h.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`
const INFO_EXIT: u64 = 1 << 3;

nix::ioctl_readwrite!(pidfd_get_info, 0xff, 11, PidfdInfo);

fn exit_info(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo {
        mask: INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the ioctl's number carries the size of `info`, and the kernel writes no more.
    unsafe { pidfd_get_info(pidfd.as_raw_fd(), &raw mut info) }.ok()?;
    (info.mask & INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    use std::process::Command;

    #[test]
    fn a_dead_process_tells_its_status_before_and_after_reaping() {
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let process = match Process::open(child.id()) {
            Ok(process) => process,
            Err(error) => panic!("{error:?}"),
        };
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, PollTimeout::NONE).unwrap();
        assert!(process.has_ended());
        assert_eq!(process.exit_status(), Some(3 << 8));
        child.wait().unwrap();
        assert!(matches!(process.exit_status(), Some(0x300) | None));
        assert!(matches!(Process::open(child.id()), Err(OpenError::Gone)));
    }

    #[test]
    fn a_thread_is_no_process() {
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(nix::unistd::gettid()).unwrap();
            let _ = ended.recv();
        });
        let tid = receive.recv().unwrap().as_raw().cast_unsigned();
        assert!(matches!(Process::open(tid), Err(OpenError::NotAProcess)));
        drop(end);
        thread.join().unwrap();
    }
}

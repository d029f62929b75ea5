//! A process that someone else started, held by a pidfd so that a reused pid is never taken for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use monitor_ebpf::TICK_NS;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::supervisor::Instance;

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
        let pidfd = pidfd_open(pid)?;
        let stat = read_stat(pidfd.as_fd());
        match stat {
            Ok(stat) => {
                let instance = Instance {
                    pid,
                    start_time_ns: stat.start_ticks * TICK_NS,
                };
                Ok(Self {
                    instance,
                    comm: Some(stat.comm),
                    pidfd,
                })
            }
            Err(_) if has_ended(pidfd.as_fd()) => Err(OpenError::Gone),
            Err(error) => Err(OpenError::Other(error)),
        }
    }

    /// Whether all its threads have ended and it has let go of what it held.
    pub(crate) fn has_ended(&self) -> bool {
        has_ended(self.pidfd.as_fd())
    }

    /// The wait status of an ended process, if anybody still knows it: the kernel by the pidfd
    /// once it is reaped (6.15 and later), `/proc` before that if the caller may look.
    pub(crate) fn exit_status(&self) -> Option<i32> {
        // It may be reaped between the two looks, so the first look comes twice.
        exit_info(self.pidfd.as_fd())
            .or_else(|| read_stat(self.pidfd.as_fd()).ok()?.exit_status())
            .or_else(|| exit_info(self.pidfd.as_fd()))
    }
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

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

fn pidfd_open(pid: u32) -> Result<OwnedFd, OpenError> {
    let pid = i32::try_from(pid).map_err(|_| OpenError::Gone)?;
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if let Ok(fd) = i32::try_from(fd)
        && fd >= 0
    {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Err(match Errno::last() {
        Errno::ESRCH => OpenError::Gone,
        // EINVAL to 6.8, ENOENT since: the task is not a thread group's leader (kernel/pid.c).
        Errno::EINVAL | Errno::ENOENT => OpenError::NotAProcess,
        errno => OpenError::Other(errno.into()),
    })
}

/// What `/proc/PID/stat` tells.
struct Stat {
    comm: String,
    state: char,
    start_ticks: u64,
    status: i32,
}

impl Stat {
    fn exit_status(&self) -> Option<i32> {
        // Zero may also mean that the caller may not know.
        (self.state == 'Z' && self.status != 0).then_some(self.status)
    }
}

/// Reads the process's stat by way of the pidfd, whose `fdinfo` names the pid that it has in the
/// PID namespace of this `/proc`.
fn read_stat(pidfd: BorrowedFd<'_>) -> io::Result<Stat> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid: i32 = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .ok_or_else(|| invalid("no Pid in the pidfd's fdinfo"))?;
    if pid <= 0 {
        return Err(Errno::ESRCH.into());
    }
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may itself contain spaces and parentheses.
    let (head, rest) = text
        .rsplit_once(')')
        .ok_or_else(|| invalid("no name in stat"))?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index).copied().unwrap_or_default();
    // Fields 3, 22 and 52 of proc_pid_stat(5), counted from the one after the name.
    Ok(Stat {
        comm: head
            .split_once('(')
            .map(|(_, comm)| comm.to_owned())
            .unwrap_or_default(),
        state: number(0).chars().next().unwrap_or('?'),
        start_ticks: number(19)
            .parse()
            .map_err(|_| invalid("no start time in stat"))?,
        status: number(49).parse().unwrap_or(0),
    })
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

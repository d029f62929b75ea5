//! Sends signals: to a process by its pidfd, and to the process group that it leads.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::supervisor::Signal;

/// Sends to the process group of the pidfd's process (Linux 6.9).
/// <https://github.com/torvalds/linux/blob/v6.9/include/uapi/linux/pidfd.h#L21>
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Sends a signal to the process; `false` if it has been reaped.
///
/// A zombie takes any signal, and nothing comes of it.
///
/// # Errors
/// EPERM for another's process, EINVAL for what is no signal.
pub(crate) fn send(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<bool> {
    told(pidfd_send_signal(pidfd, signal.number(), 0))
}

/// Sends a signal to the process group that the process leads; `false` if nobody is in it.
///
/// Before Linux 6.9 the group can only be named by number, and a number may be someone else's
/// once the leader is reaped: then this does nothing and returns `false`, also if other members
/// of the group live. So call it before reaping (see `tree`).
///
/// # Errors
/// EPERM if no member may be signalled.
pub(crate) fn send_to_group(
    pidfd: BorrowedFd<'_>,
    leader: u32,
    signal: Signal,
) -> io::Result<bool> {
    let sent = pidfd_send_signal(pidfd, signal.number(), PIDFD_SIGNAL_PROCESS_GROUP);
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            send_to_group_by_number(pidfd, leader, signal)
        }
        sent => told(sent),
    }
}

fn send_to_group_by_number(pidfd: BorrowedFd<'_>, leader: u32, signal: Signal) -> io::Result<bool> {
    // Signal 0 asks whether the leader, dead or alive, still holds its number.
    if !told(pidfd_send_signal(pidfd, 0, 0))? {
        return Ok(false);
    }
    let group = libc::pid_t::try_from(leader).map_err(io::Error::other)?;
    // -0 would be our own group, -1 everybody.
    if group <= 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: touches no memory.
    if unsafe { libc::kill(-group, signal.number()) } == 0 {
        return Ok(true);
    }
    told(Err(io::Error::last_os_error()))
}

fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32, flags: libc::c_uint) -> io::Result<()> {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo_t the kernel touches no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            flags,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether there was someone to tell.
fn told(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

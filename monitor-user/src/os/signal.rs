//! Sends signals: to a process by its pidfd, and to the process group that it leads. Receives none.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::sys::signal::{SigHandler, SigSet};

use crate::model::Signal;

/// Undoes what a parent may have left to this process: a signal mask, which every command would keep
/// for good, and an ignored SIGCHLD, with which no child can be waited for.
///
/// Other ignored signals stay so: `nohup` and shells mean it.
pub(crate) fn forget_inherited() {
    // Neither can fail with these arguments.
    let _ = SigSet::empty().thread_set_mask();
    // SAFETY: installs no handler.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGCHLD, SigHandler::SigDfl) };
}

/// Sends to the process group of the pidfd's process (Linux 6.9).
/// <https://github.com/torvalds/linux/blob/v6.9/include/uapi/linux/pidfd.h>
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::os::pidfd;
    use crate::os::testing::{Running, exec, shell, until};

    #[test]
    fn every_signal_arrives() {
        for number in (1..=31).chain(34..=64) {
            let child = Running::start(&exec(&["/bin/sleep", "60"]));
            child.signal(Signal::from_number(number).unwrap());
            let ignored = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
            let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
            if ignored.contains(&number) || stops.contains(&number) {
                assert!(!pidfd::has_exited(child.pidfd.as_fd()).unwrap(), "{number}");
            } else {
                assert_eq!(child.status() & 0x7f, number);
            }
        }
    }

    #[test]
    fn a_real_time_signal_can_be_handled() {
        let child = Running::start(&shell("trap 'exit 7' 36; while :; do sleep 0.01; done"));
        let caught = || u64::from_str_radix(&child.status_line("SigCgt"), 16).unwrap();
        until("a trap", || caught() & 1 << 35 != 0);
        child.signal(Signal::from_number(36).unwrap());
        assert_eq!(child.status(), 7 << 8);
    }

    #[test]
    fn a_group_is_signalled_whole_until_its_leader_is_reaped() {
        type Send = fn(BorrowedFd<'_>, u32, Signal) -> io::Result<bool>;
        for send in [send_to_group as Send, send_to_group_by_number] {
            let child = Running::start(&shell("sleep 60 & wait"));
            let children = format!("/proc/{0}/task/{0}/children", child.pid);
            let read = || std::fs::read_to_string(&children).unwrap_or_default();
            until("a child", || !read().is_empty());
            let member = pidfd::open(read().trim().parse().unwrap()).unwrap();
            assert!(send(child.pidfd.as_fd(), child.pid, Signal::TERM).unwrap());
            until("its end", || pidfd::has_exited(member.as_fd()).unwrap());
            child.wait_readable();
            assert!(send(child.pidfd.as_fd(), child.pid, Signal::TERM).unwrap());
            assert_eq!(child.status(), libc::SIGTERM);
        }
    }

    #[test]
    fn a_group_by_number_is_not_signalled_once_the_number_is_free() {
        let child = Running::start(&exec(&["/bin/true"]));
        child.status();
        let sent = send_to_group_by_number(child.pidfd.as_fd(), child.pid, Signal::KILL);
        assert!(!sent.unwrap());
        assert!(!send_to_group(child.pidfd.as_fd(), child.pid, Signal::KILL).unwrap());
        let living = Running::start(&exec(&["/bin/sleep", "60"]));
        for leader in [0, 1] {
            let sent = send_to_group_by_number(living.pidfd.as_fd(), leader, Signal::HUP);
            assert_eq!(sent.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }
}

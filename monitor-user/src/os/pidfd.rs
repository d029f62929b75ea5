//! Processes by pidfd: opening, telling them apart by start time, reaping. Sends no signal.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::proc;

/// What reaping one process came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// It is reaped; the status as `wait(2)` returns it.
    Status(i32),
    /// It still runs.
    Running,
    /// It is not our child (adopted), or somebody has reaped it: its status is not ours to read.
    NotOurChild,
}

/// Opens a pidfd (close-on-exec) of the process that has this pid now.
///
/// # Errors
/// ESRCH if there is none, EINVAL or ENOENT if it is a thread that leads no process.
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Another process's descriptor of that number, as one of ours (Linux 5.6); close-on-exec.
///
/// # Errors
/// EPERM without the right to trace it, EBADF if it has none of that number, ESRCH if it is gone.
pub(crate) fn descriptor_of(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a pidfd of the process that has this pid **and** this start time; `None` if it is gone,
/// or the pid is another's by now.
///
/// The pidfd is opened first and compared after: were the process replaced between, the start
/// time would differ and the pidfd is let go, untouched. A zombie is still itself.
///
/// # Errors
/// What keeps the question from being answered: no descriptors left, no `/proc`.
pub(crate) fn identify(pid: u32, start_time_ns: u64) -> io::Result<Option<OwnedFd>> {
    let pidfd = match open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ESRCH | libc::EINVAL | libc::ENOENT) => Ok(None),
                _ => Err(error),
            };
        }
    };
    match proc::start_time_ns(pid) {
        Ok(found) => Ok((found == start_time_ns).then_some(pidfd)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error of `/proc/PID` means that the process is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Whether the process has ended (its pidfd is readable), reaped or not.
///
/// # Errors
/// If the descriptor cannot be polled.
pub(crate) fn has_exited(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    Ok(super::poll_now(&mut fds)? > 0)
}

/// Whether a process that was killed has ended by then, rounded to milliseconds.
pub(crate) fn ends_within(pidfd: BorrowedFd<'_>, wait: Duration) -> bool {
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    super::poll_within(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// Reaps one child, without waiting.
///
/// # Errors
/// If `pidfd` is none.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Reaped> {
    wait_for(pidfd, libc::WEXITED | libc::WNOHANG | libc::__WALL)
}

/// Reaps one child whose end is certain and near: waits for it.
pub(super) fn reap_blocking(pidfd: BorrowedFd<'_>) -> io::Result<Reaped> {
    wait_for(pidfd, libc::WEXITED | libc::__WALL)
}

fn wait_for(pidfd: BorrowedFd<'_>, options: i32) -> io::Result<Reaped> {
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).map_err(io::Error::other)?;
    match waitid(libc::P_PIDFD, id, options) {
        Ok(Some((_, status))) => Ok(Reaped::Status(status)),
        Ok(None) => Ok(Reaped::Running),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Reaped::NotOurChild),
        Err(error) => Err(error),
    }
}

/// Reaps all dead children that nobody else waits for: orphans that became ours, as PID 1 or as
/// a subreaper.
///
/// Stops at the first zombie of which `known` says that it is an instance, and returns its pid:
/// its tree must be cleared before it is reaped (see `tree`). Handle it as if its pidfd had told
/// of it, then call again. `Ok(None)`: no dead child is left.
///
/// # Errors
/// If the kernel refuses to wait; ECHILD is none.
pub(crate) fn reap_orphans(mut known: impl FnMut(u32) -> bool) -> io::Result<Option<u32>> {
    let peek = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let take = libc::WEXITED | libc::WNOHANG | libc::__WALL;
    loop {
        let pid = match waitid(libc::P_ALL, 0, peek) {
            Ok(Some((pid, _))) => pid,
            Ok(None) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(error) => return Err(error),
        };
        if known(pid) {
            return Ok(Some(pid));
        }
        match waitid(libc::P_PID, pid, take) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `waitid` → pid and wait status, `None` if nothing has ended yet.
fn waitid(kind: libc::idtype_t, id: u32, options: i32) -> io::Result<Option<(u32, i32)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: the kernel fills in a siginfo_t, which is what the pointer leads to.
        if unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) } == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: all bit patterns, zeros among them, are a siginfo_t.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid has filled in the SIGCHLD members, or has left all zeros.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let status = match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    };
    Ok(u32::try_from(pid)
        .ok()
        .filter(|pid| *pid != 0)
        .map(|pid| (pid, status)))
}

/// Makes orphaned descendants ours, as if we were PID 1.
///
/// # Errors
/// None on a kernel from 3.4 on, unless a seccomp filter forbids it.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use crate::model::Signal;
    use crate::os::proc::TICK_NS;
    use crate::os::signal;
    use crate::os::testing::{Running, alone, exec, is_root, shell, until};

    #[test]
    fn a_status_is_what_wait_would_tell() {
        assert_eq!(Running::start(&shell("exit 3")).status(), 3 << 8);
        assert_eq!(Running::start(&shell("exit 255")).status(), 255 << 8);
        for number in [9, 15, 34, 64] {
            let status = Running::start(&shell(&format!("kill -{number} $$"))).status();
            assert_eq!(status, number);
        }
        let core = Running::start(&shell("ulimit -c unlimited; cd /tmp; kill -ABRT $$")).status();
        assert_eq!(core & 0x7f, libc::SIGABRT);
    }

    #[test]
    fn one_that_runs_is_seen_to_run_whatever_signals_come() {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
        use std::sync::atomic::{AtomicBool, Ordering};

        extern "C" fn nothing(_: i32) {}
        let action = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::empty(),
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing, and nobody else here uses that signal.
        unsafe { sigaction(Signal::SIGWINCH, &action) }.unwrap();
        let child = Running::start(&exec(&["/bin/sleep", "60"]));
        let is_done = AtomicBool::new(false);
        // SAFETY: asks for this thread's number.
        let thread = unsafe { libc::pthread_self() };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    // SAFETY: that thread waits for this one.
                    assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGWINCH) }, 0);
                }
            });
            let looks: Vec<_> = (0..200_000)
                .map(|_| has_exited(child.pidfd.as_fd()))
                .filter(|look| !matches!(look, Ok(false)))
                .collect();
            is_done.store(true, Ordering::Relaxed);
            assert!(looks.is_empty(), "{} of them: {:?}", looks.len(), looks[0]);
        });
    }

    #[test]
    fn running_reaped_and_not_ours_are_told_apart() {
        let child = Running::start(&exec(&["/bin/sleep", "60"]));
        assert_eq!(reap(child.pidfd.as_fd()).unwrap(), Reaped::Running);
        assert!(!has_exited(child.pidfd.as_fd()).unwrap());
        child.signal(Signal::KILL);
        child.wait_readable();
        assert!(has_exited(child.pidfd.as_fd()).unwrap());
        let other = child.pidfd.try_clone().unwrap();
        assert_eq!(reap(other.as_fd()).unwrap(), Reaped::Status(libc::SIGKILL));
        assert_eq!(reap(other.as_fd()).unwrap(), Reaped::NotOurChild);
        assert!(has_exited(other.as_fd()).unwrap());
        assert!(!signal::send(other.as_fd(), Signal::KILL).unwrap());
        let init = open(1).unwrap();
        assert_eq!(reap(init.as_fd()).unwrap(), Reaped::NotOurChild);
    }

    #[test]
    fn only_the_same_process_is_identified() {
        let child = Running::start(&exec(&["/bin/sleep", "60"]));
        assert_eq!(proc::start_time_ns(child.pid).unwrap(), child.start_time_ns);
        assert!(identify(child.pid, child.start_time_ns).unwrap().is_some());
        let later = child.start_time_ns + TICK_NS;
        assert!(identify(child.pid, later).unwrap().is_none());
        child.signal(Signal::KILL);
        child.wait_readable();
        assert!(proc::stat(child.pid).unwrap().is_zombie());
        assert!(identify(child.pid, child.start_time_ns).unwrap().is_some());
        reap(child.pidfd.as_fd()).unwrap();
        assert!(identify(child.pid, child.start_time_ns).unwrap().is_none());
        assert!(identify(u32::MAX, 0).unwrap().is_none());
    }

    /// Gives one pid to two processes, by setting the next pid of this PID namespace.
    #[test]
    fn a_reused_pid_is_not_touched() {
        if !is_root() {
            return;
        }
        let first = Running::start(&exec(&["/bin/sleep", "60"]));
        first.signal(Signal::KILL);
        first.status();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let second = (0..200).find_map(|_| {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (first.pid - 1).to_string()).ok()?;
            let second = Running::start(&exec(&["/bin/sleep", "60"]));
            (second.pid == first.pid).then_some(second)
        });
        let Some(second) = second else {
            eprintln!("SKIPPED: the next pid cannot be set here, or others were always faster");
            return;
        };
        assert!(identify(first.pid, first.start_time_ns).unwrap().is_none());
        assert!(
            identify(second.pid, second.start_time_ns)
                .unwrap()
                .is_some()
        );
        assert!(!signal::send(first.pidfd.as_fd(), Signal::KILL).unwrap());
        assert!(!signal::send_to_group(first.pidfd.as_fd(), first.pid, Signal::KILL).unwrap());
        assert!(!has_exited(second.pidfd.as_fd()).unwrap());
    }

    #[test]
    fn orphans_are_reaped_and_instances_left() {
        if !alone("os::pidfd::tests::orphans_are_reaped_and_instances_left") {
            return;
        }
        become_subreaper().unwrap();
        assert_eq!(reap_orphans(|_| true).unwrap(), None);
        let parent = Running::start(&shell("sleep 0.1 & sleep 0.1 & exit 0"));
        assert_eq!(parent.status(), 0);
        let own = std::process::id();
        let ours = || {
            let stats = proc::pids().unwrap().into_iter().map(proc::stat);
            let ours: Vec<_> = stats.flatten().filter(|stat| stat.parent == own).collect();
            ours
        };
        until("two orphans", || {
            let ours = ours();
            ours.len() == 2 && ours.iter().all(proc::Stat::is_zombie)
        });
        let instance = Running::start(&exec(&["/bin/true"]));
        instance.wait_readable();
        let known = |pid| pid == instance.pid;
        // The kernel tells of zombies in an order of its own, so there may be one call, or two.
        while reap_orphans(known).unwrap() == Some(instance.pid) {
            assert_eq!(reap(instance.pidfd.as_fd()).unwrap(), Reaped::Status(0));
        }
        assert!(ours().is_empty());
        assert_eq!(reap(instance.pidfd.as_fd()).unwrap(), Reaped::NotOurChild);
    }
}

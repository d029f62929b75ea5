//! Bounds the CPU time of a system call that a signal can interrupt.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The time is over.
static OVER: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    OVER.store(true, Ordering::Relaxed);
}

/// Makes a call, and again when a signal other than the time's end has interrupted it (EAGAIN).
/// The time is that of the whole process on a CPU. Not to be used by two threads at a time.
///
/// # Errors
/// The call's; `TimedOut` if it took longer than `limit`.
pub(crate) fn bounded<T>(
    limit: Duration,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    OVER.store(false, Ordering::Relaxed);
    // Without SA_RESTART. It is left in place: a late signal ends nothing.
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only writes to an atomic.
    unsafe { sigaction(Signal::SIGPROF, &action) }?;
    set_timer(limit)?;
    let result = loop {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                if OVER.load(Ordering::Relaxed) {
                    break Err(io::ErrorKind::TimedOut.into());
                }
            }
            result => break result,
        }
    };
    set_timer(Duration::ZERO)?;
    result
}

/// Has SIGPROF come after so much time on a CPU, or with zero not any more.
fn set_timer(after: Duration) -> io::Result<()> {
    let zero = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let timer = libc::itimerval {
        it_interval: zero,
        it_value: libc::timeval {
            tv_sec: after.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_usec: after.subsec_micros().into(),
        },
    };
    // SAFETY: the kernel reads one timer, and writes none.
    let result =
        unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not two tests, for two threads must not use it.
    #[test]
    fn a_call_ends_with_its_time_and_is_repeated_until_then() {
        let mut calls = 0;
        let result = bounded(Duration::from_secs(1000), || {
            calls += 1;
            if calls < 3 {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            Ok(calls)
        });
        assert_eq!(result.unwrap(), 3);
        // The time on a CPU goes by in the calls themselves.
        let result: io::Result<()> = bounded(Duration::from_millis(50), || {
            Err(io::Error::from_raw_os_error(libc::EAGAIN))
        });
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let result: io::Result<()> = bounded(Duration::from_secs(1000), || {
            Err(io::Error::from_raw_os_error(libc::EACCES))
        });
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
}

//! All that the agent's loop waits for, behind one descriptor: from it the spare sees that something
//! is due, without being told. Takes nothing out; the loop itself waits elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// So much later than the loop's own, the timer rings: a loop that turns sets it on before, and its
/// spare sleeps on.
const LATER: Duration = Duration::from_millis(50);

/// Readable while the loop is at work: what it has taken out is not waiting any more, and not done
/// yet. An agent that is stopped in that moment has something due.
static AT_WORK: OnceLock<EventFd> = OnceLock::new();

/// The loop has woken up. To be called by its runtime.
pub(super) fn begin_work() {
    if let Some(at_work) = AT_WORK.get() {
        // It cannot overflow.
        let _ = at_work.write(1);
    }
}

/// The loop goes to sleep. To be called by its runtime.
pub(super) fn end_work() {
    if let Some(at_work) = AT_WORK.get() {
        // It does not wait where nothing is written.
        let _ = at_work.read();
    }
}

/// Readable while something waits for the loop, and while that is at work.
pub(super) struct Due {
    epoll: Epoll,
    timer: TimerFd,
    deadline: Option<Instant>,
}

impl Due {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let due = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            // It stands still in suspend.
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            deadline: None,
        };
        due.add(&due.timer)?;
        Ok(due)
    }

    /// Watches the loop of this process itself too.
    pub(super) fn add_loop(&self) -> io::Result<()> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        // It is at work now.
        let at_work = EventFd::from_value_and_flags(1, flags)?;
        self.add(AT_WORK.get_or_init(|| at_work))
    }

    /// Something more that the loop waits for, until it is closed.
    pub(super) fn add(&self, fd: &impl AsFd) -> io::Result<()> {
        // Level-triggered: nobody takes events out of this one.
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        Ok(self.epoll.add(fd, event)?)
    }

    /// When the loop wakes by itself.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>, now: Instant) {
        if deadline == self.deadline {
            return;
        }
        self.deadline = deadline;
        let set = match deadline {
            None => self.timer.unset(),
            Some(deadline) => {
                let after = deadline.saturating_duration_since(now) + LATER;
                let after = Expiration::OneShot(TimeSpec::from_duration(after));
                self.timer.set(after, TimerSetTimeFlags::empty())
            }
        };
        if let Err(error) = set {
            tracing::warn!("the spare cannot see when the agent's timer is due: {error}");
        }
    }
}

impl AsFd for Due {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::eventfd::EventFd;

    use super::*;

    fn is_due(due: &Due, within_ms: u16) -> bool {
        let mut fds = [PollFd::new(due.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(within_ms)).unwrap() > 0
    }

    #[test]
    fn is_readable_while_something_waits() {
        let due = Due::new().unwrap();
        let event = EventFd::new().unwrap();
        due.add(&event).unwrap();
        assert!(!is_due(&due, 0));
        event.write(1).unwrap();
        assert!(is_due(&due, 0) && is_due(&due, 0));
        event.read().unwrap();
        assert!(!is_due(&due, 0));
    }

    #[test]
    fn is_readable_while_the_loop_is_at_work() {
        let due = Due::new().unwrap();
        due.add_loop().unwrap();
        assert!(is_due(&due, 0));
        for _ in 0..2 {
            end_work();
            assert!(!is_due(&due, 0));
            begin_work();
            assert!(is_due(&due, 0) && is_due(&due, 0));
        }
    }

    #[test]
    fn a_deadline_is_due_until_another_is_set() {
        #[expect(clippy::disallowed_methods, reason = "some moment to count from")]
        let now = Instant::now();
        let mut due = Due::new().unwrap();
        due.set_deadline(Some(now), now);
        assert!(is_due(&due, 10_000));
        due.set_deadline(Some(now + Duration::from_secs(1000)), now);
        assert!(!is_due(&due, 0));
        due.set_deadline(Some(now), now);
        assert!(is_due(&due, 10_000));
        due.set_deadline(None, now);
        assert!(!is_due(&due, 0));
    }
}

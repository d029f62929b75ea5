//! Many descriptors behind one: an epoll instance whose own descriptor the agent's loop waits on.
//!
//! Edge-triggered: each readiness is told once, so an instance whose handling takes a while does
//! not keep the loop awake. Something that is ready when it is added is told, too.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Ready descriptors taken from the kernel in one call.
const BATCH: usize = 256;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// A pidfd whose process ends, a `Leftover` to look at.
    Readable,
    /// A changed `cgroup.events`.
    Priority,
    /// The other end is gone, or there is an error, which is told of every descriptor that can be waited
    /// for.
    HangUp,
}

/// Waits for thousands of descriptors at the price of those that are ready.
#[derive(Debug)]
pub(crate) struct Waiter {
    epoll: Epoll,
    batch: Vec<EpollEvent>,
}

impl Waiter {
    /// # Errors
    /// If no descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            batch: vec![EpollEvent::empty(); BATCH],
        })
    }

    /// Begins to wait for `fd`; what is told of it carries `token`.
    ///
    /// # Errors
    /// `AlreadyExists` if it is in already, ENOSPC at `/proc/sys/fs/epoll/max_user_watches`.
    pub(crate) fn add(&self, fd: impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        let flags = match interest {
            Interest::Readable => EpollFlags::EPOLLIN,
            Interest::Priority => EpollFlags::EPOLLPRI,
            Interest::HangUp => EpollFlags::empty(),
        };
        let event = EpollEvent::new(flags | EpollFlags::EPOLLET, token);
        Ok(self.epoll.add(fd, event)?)
    }

    /// No longer waits for `fd`.
    ///
    /// # Errors
    /// `NotFound` if it is not in.
    pub(crate) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Appends all that is ready now, with its token, without waiting.
    ///
    /// # Errors
    /// None that is known, but the kernel's word is passed on.
    pub(crate) fn drain(&mut self, ready: &mut Vec<(u64, EpollFlags)>) -> io::Result<()> {
        loop {
            let count = match self.epoll.wait(&mut self.batch, EpollTimeout::ZERO) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            ready.extend(
                self.batch
                    .iter()
                    .take(count)
                    .map(|event| (event.data(), event.events())),
            );
            if count < BATCH {
                return Ok(());
            }
        }
    }
}

impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl AsRawFd for Waiter {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;
    use crate::model::Signal;
    use crate::os::testing::{Running, exec, readable_within, until};

    fn drained(waiter: &mut Waiter) -> Vec<u64> {
        let mut ready = Vec::new();
        waiter.drain(&mut ready).unwrap();
        ready.into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn thousands_are_told_once_each() {
        let mut waiter = Waiter::new().unwrap();
        let events: Vec<_> = (0..3000).map(|_| EventFd::new().unwrap()).collect();
        for (token, event) in (0..).zip(&events) {
            waiter.add(event, Interest::Readable, token).unwrap();
        }
        assert!(!readable_within(&waiter, 0));
        for event in &events {
            event.write(1).unwrap();
        }
        assert!(readable_within(&waiter, 0));
        let mut tokens = drained(&mut waiter);
        tokens.sort_unstable();
        assert_eq!(tokens, (0..3000).collect::<Vec<_>>());
        assert!(!readable_within(&waiter, 0));
        assert!(drained(&mut waiter).is_empty());
        events[7].write(1).unwrap();
        assert_eq!(drained(&mut waiter), [7]);
    }

    #[test]
    fn a_process_that_has_ended_before_is_told() {
        let mut waiter = Waiter::new().unwrap();
        let child = Running::start(&exec(&["/bin/sleep", "60"]));
        waiter.add(&child.pidfd, Interest::Readable, 1).unwrap();
        assert!(drained(&mut waiter).is_empty());
        child.signal(Signal::KILL);
        assert!(readable_within(&waiter, 10_000));
        assert_eq!(drained(&mut waiter), [1]);
        let mut waiter = Waiter::new().unwrap();
        waiter.add(&child.pidfd, Interest::Readable, 2).unwrap();
        until("told", || drained(&mut waiter) == [2]);
    }

    #[test]
    fn an_end_without_another_is_told_and_what_can_be_read_is_not() {
        let mut waiter = Waiter::new().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        waiter.add(&reader, Interest::HangUp, 1).unwrap();
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        assert!(drained(&mut waiter).is_empty());
        drop(writer);
        assert_eq!(drained(&mut waiter), [1]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        waiter.add(&writer, Interest::HangUp, 2).unwrap();
        assert_eq!(drained(&mut waiter), [2]);
    }

    #[test]
    fn what_is_closed_is_not_told() {
        let mut waiter = Waiter::new().unwrap();
        let (first, second) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        waiter.add(&first, Interest::Readable, 1).unwrap();
        waiter.add(&second, Interest::Readable, 2).unwrap();
        second.write(1).unwrap();
        drop(second);
        assert!(drained(&mut waiter).is_empty());
        assert!(waiter.add(&first, Interest::Readable, 1).is_err());
    }
}

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
        };
        let event = EpollEvent::new(flags | EpollFlags::EPOLLET, token);
        Ok(self.epoll.add(fd, event)?)
    }

    /// Waits for `fd` no longer. What is already drained may still tell of it.
    ///
    /// # Errors
    /// `NotFound` if it is not in. (Closing the last descriptor of a file takes it out, too.)
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

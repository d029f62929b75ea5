//! Performs one action at a time; the only user-space home of `unsafe`.
//!
//! Decides nothing: when to start, signal or kill is the supervisor's.

pub(crate) mod bpf;
pub(crate) mod cgroup;
pub(crate) mod marker;
pub(crate) mod peer;
pub(crate) mod pidfd;
pub(crate) mod proc;
pub(crate) mod process;
pub(crate) mod ring;
pub(crate) mod signal;
pub(crate) mod spawn;
mod sys;
pub(crate) mod tree;
pub(crate) mod waiter;

#[cfg(test)]
mod testing;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime wait for a descriptor that `owner` keeps open.
///
/// # Errors
/// The descriptor cannot be waited for: that of a regular file, for instance.
pub(crate) fn async_fd<T: AsFd + AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsFd` says that the descriptor stays open while `owner` lives, which the returned
    // value holds; both traits name the same descriptor for every type that implements them.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}

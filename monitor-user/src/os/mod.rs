//! Performs one action at a time; the only user-space home of `unsafe`.
//!
//! Decides nothing: when to start, signal or kill is the supervisor's.
#![allow(
    dead_code,
    reason = "the agent's loop, which calls all of this, is written beside it"
)]

pub(crate) mod cgroup;
pub(crate) mod pidfd;
pub(crate) mod proc;
pub(crate) mod signal;
pub(crate) mod spawn;
mod sys;
pub(crate) mod tree;
pub(crate) mod waiter;

#[cfg(test)]
mod testing;

//! The agent's children that are no services: hooks, probes, reload commands, commands around their runs,
//! standbys.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::hooks::HookRunner;
use super::probes::Probes;
use super::reloads::Reloads;
use super::standby::Standbys;
use super::steps::{Outcome, Steps};
use crate::model::{Cause, Reply, Signal};
use crate::os::pidfd::{self, Reaped};
use crate::os::signal;
use crate::os::spawn;
use crate::supervisor::{Fact, RequestId};

/// One of them. It leads a process group, which ends with it.
pub(super) struct Child {
    pid: u32,
    pidfd: OwnedFd,
    /// `None`: it has all the time that it needs, or was killed.
    kill_at: Option<Instant>,
    was_killed: bool,
}

impl Child {
    /// One that was started now, and is killed after so long.
    pub(super) fn new(child: spawn::Child, timeout: Option<Duration>, now: Instant) -> Self {
        Self {
            pid: child.pid,
            pidfd: child.pidfd,
            kill_at: timeout.and_then(|timeout| now.checked_add(timeout)),
            was_killed: false,
        }
    }

    pub(super) fn kill_at(&self) -> Option<Instant> {
        self.kill_at
    }

    /// Whether it took too long.
    pub(super) fn was_killed(&self) -> bool {
        self.was_killed
    }

    /// Kills it if its time is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.was_killed = true;
            self.kill_group();
        }
    }

    /// Asks it to end within so long.
    pub(super) fn end(&mut self, patience: Duration, now: Instant) {
        self.kill_at = now.checked_add(patience);
        self.warn(signal::send(self.pidfd.as_fd(), Signal::TERM));
    }

    /// The wait status of one that has ended. What is left of its group is killed.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn reap(self) -> io::Result<i32> {
        // While it is not reaped, its group's number is its own.
        self.kill_group();
        match pidfd::reap(self.pidfd.as_fd())? {
            Reaped::Status(status) => Ok(status),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// The exit status of one that has ended, which is reaped; `None`: it was killed, or is not known.
    pub(super) fn exit_code(self) -> Option<u8> {
        match Cause::from_wait_status(self.reap().ok()?) {
            Cause::Exited { code } => Some(code),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(super) fn has_exited(&self) -> bool {
        pidfd::has_exited(self.pidfd.as_fd()).unwrap()
    }

    fn kill_group(&self) {
        self.warn(signal::send_to_group(
            self.pidfd.as_fd(),
            self.pid,
            Signal::KILL,
        ));
    }

    fn warn(&self, sent: io::Result<bool>) {
        if let Err(error) = sent {
            tracing::warn!(pid = self.pid, "cannot be ended: {error}");
        }
    }
}

/// Whoever has started them.
pub(super) struct Children<'a> {
    pub(super) hooks: &'a mut HookRunner,
    pub(super) probes: &'a mut Probes,
    pub(super) reloads: &'a mut Reloads,
    pub(super) steps: &'a mut Steps,
    pub(super) standbys: &'a mut Standbys,
    /// What is to be answered, of those that were reaped.
    pub(super) answers: Vec<(RequestId, Reply)>,
    /// What has become of commands around a run, of those too.
    pub(super) outcomes: Vec<Outcome>,
}

impl Children<'_> {
    /// Whether this process is one of them, and has not been reaped.
    pub(super) fn has(&self, pid: u32) -> bool {
        self.hooks.is_hook(pid)
            || self.probes.is_probe(pid)
            || self.reloads.is_reload(pid)
            || self.steps.is_step(pid)
            || self.standbys.is_standby(pid)
    }

    /// Reaps one that has ended, and says what it has found. A standby may merely have stopped.
    pub(super) fn reap(&mut self, pid: u32, now: Instant) -> Option<Fact> {
        if self.probes.is_probe(pid) {
            return self.probes.reap(pid, now);
        }
        if self.standbys.is_standby(pid) {
            self.standbys.look(pid, now);
        } else if self.steps.is_step(pid) {
            self.outcomes.extend(self.steps.reap(pid, now));
        } else if self.reloads.is_reload(pid) {
            self.answers.extend(self.reloads.reap(pid));
        } else {
            self.hooks.reap(pid);
        }
        None
    }
}

//! The agent's children that are no services: hooks, probes, reload commands, commands around their runs,
//! standbys.
//!
//! ```text
//! start ── PATIENCE ──▶ starting ── has become its program ──▶ running ── ended ─▶ reaped
//!   │                      │ every LOOK_AFTER: SIGCONT            └ at its time: SIGKILL to its group
//!   │                      └ START_TIME, its time, or not needed ─▶ killed ─ ended ─▶ reaped: not started
//!   └─ failed
//! ```
//!
//! One that takes its time between fork and exec, as on a mount whose server is gone, holds up nothing: the agent
//! goes on with all else, and hears of its failure by its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hooks::HookRunner;
use super::probes::Probes;
use super::reloads::Reloads;
use super::standby::Standbys;
use super::steps::{Outcome, Steps};
use crate::model::{Cause, Reply, Signal};
use crate::os::cgroup::Slot;
use crate::os::pidfd::{self, Reaped};
use crate::os::signal;
use crate::os::spawn::{Flight, Prepared, SpawnError, Spawner};
use crate::supervisor::{Fact, RequestId};

/// How long the loop waits for a start: an exec takes a millisecond.
const PATIENCE: Duration = Duration::from_millis(50);

/// Until the next look at one that has not become its program.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// How long it may take to become that.
const START_TIME: Duration = Duration::from_secs(10);

/// One of them. It leads a process group, which ends with it.
pub(super) struct Child {
    pid: u32,
    process: Process,
    /// `None`: it has all the time that it needs, or was killed.
    kill_at: Option<Instant>,
    was_killed: bool,
}

enum Process {
    Running(OwnedFd),
    /// It has not become its program, as far as is known.
    Starting {
        flight: Box<Flight>,
        look_at: Instant,
        give_up_at: Instant,
    },
}

/// How one has ended.
pub(super) enum ChildEnd {
    /// With this wait status.
    Status(i32),
    /// It has never been its program.
    NotStarted(SpawnError),
    /// It cannot be reaped.
    Unknown(io::Error),
}

impl ChildEnd {
    /// Its exit status; `None`: it was killed, or is not known.
    pub(super) fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Status(status) => match Cause::from_wait_status(*status) {
                Cause::Exited { code } => Some(code),
                _ => None,
            },
            Self::NotStarted(_) | Self::Unknown(_) => None,
        }
    }

    /// Why the process below which a command was run did not do what it was to, in words that follow the
    /// command's name. `said`: what it has left of that.
    pub(super) fn failure(&self, was_killed: bool, said: impl FnOnce() -> String) -> String {
        match self {
            Self::NotStarted(error) => format!("cannot be run: {error}"),
            _ if self.exit_code() == Some(1) => said(),
            _ if was_killed => "did not end in time, and was killed".to_owned(),
            _ => "was not run to its end, for the process that runs it ended too early".to_owned(),
        }
    }
}

impl Child {
    /// Starts one, which is killed after so long.
    ///
    /// # Errors
    /// Why it cannot be started, if that is known at once.
    pub(super) fn start(
        spawner: &mut Spawner,
        command: Arc<Prepared>,
        slot: Option<Slot>,
        timeout: Option<Duration>,
        now: Instant,
    ) -> Result<Self, SpawnError> {
        let flight = spawner.begin(command, slot, None);
        let (pid, process) = match flight.pid() {
            Some(pid) if !flight.has_landed(PATIENCE) => (
                pid,
                Process::Starting {
                    flight: Box::new(flight),
                    look_at: now + LOOK_AFTER,
                    give_up_at: now + START_TIME,
                },
            ),
            _ => {
                let child = spawner.finish_or_retry(flight)?;
                (child.pid, Process::Running(child.pidfd))
            }
        };
        Ok(Self {
            pid,
            process,
            kill_at: timeout.and_then(|timeout| now.checked_add(timeout)),
            was_killed: false,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// When `handle_timeout` is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let look_at = match &self.process {
            Process::Running(_) => None,
            Process::Starting { look_at, .. } => Some(*look_at),
        };
        self.kill_at.into_iter().chain(look_at).min()
    }

    /// Whether it took too long.
    pub(super) fn was_killed(&self) -> bool {
        self.was_killed
    }

    /// Kills it if its time is over. `spawner`: that which has started it.
    pub(super) fn handle_timeout(&mut self, spawner: &mut Spawner, now: Instant) {
        self.look(spawner, now);
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.was_killed = true;
            self.kill();
        }
    }

    /// Looks whether it has become its program. Where that has failed, it ends.
    fn look(&mut self, spawner: &mut Spawner, now: Instant) {
        let Process::Starting {
            flight,
            look_at,
            give_up_at,
        } = &mut self.process
        else {
            return;
        };
        let is_due = *look_at <= now;
        if is_due {
            *look_at = now + LOOK_AFTER;
        }
        if !flight.has_become_its_program() {
            if is_due {
                flight.prod();
            }
            if *give_up_at <= now {
                flight.give_up();
            }
        } else if let Some(pidfd) = flight.pidfd().and_then(|it| it.try_clone().ok()) {
            let started = std::mem::replace(&mut self.process, Process::Running(pidfd));
            if let Process::Starting { flight, .. } = started
                && let Err(aborted) = spawner.finish(*flight)
            {
                tracing::warn!(pid = self.pid, "{}", aborted.error);
            }
        }
    }

    /// Asks it to end within so long.
    pub(super) fn end(&mut self, patience: Duration, now: Instant) {
        match &mut self.process {
            Process::Running(pidfd) => {
                self.kill_at = now.checked_add(patience);
                warn(self.pid, signal::send(pidfd.as_fd(), Signal::TERM));
            }
            // It has done nothing yet.
            Process::Starting { flight, .. } => flight.give_up(),
        }
    }

    /// How one has ended, which is reaped. What is left of its group is killed.
    pub(super) fn reap(self, spawner: &mut Spawner) -> ChildEnd {
        let pidfd = match self.process {
            Process::Running(pidfd) => pidfd,
            Process::Starting { flight, .. } => match spawner.finish(*flight) {
                Ok(landed) => landed.child.pidfd,
                Err(aborted) => return ChildEnd::NotStarted(aborted.error),
            },
        };
        // While it is not reaped, its group's number is its own.
        kill_group(self.pid, pidfd.as_fd());
        match pidfd::reap(pidfd.as_fd()) {
            Ok(Reaped::Status(status)) => ChildEnd::Status(status),
            Ok(other) => ChildEnd::Unknown(io::Error::other(format!("{other:?}"))),
            Err(error) => ChildEnd::Unknown(error),
        }
    }

    #[cfg(test)]
    pub(super) fn has_exited(&self) -> bool {
        match &self.process {
            Process::Running(pidfd) => pidfd::has_exited(pidfd.as_fd()).unwrap(),
            Process::Starting { flight, .. } => flight.has_landed(Duration::ZERO),
        }
    }

    fn kill(&mut self) {
        match &mut self.process {
            Process::Running(pidfd) => kill_group(self.pid, pidfd.as_fd()),
            Process::Starting { flight, .. } => flight.give_up(),
        }
    }
}

fn kill_group(pid: u32, pidfd: BorrowedFd<'_>) {
    warn(pid, signal::send_to_group(pidfd, pid, Signal::KILL));
}

fn warn(pid: u32, sent: io::Result<bool>) {
    if let Err(error) = sent {
        tracing::warn!(pid, "cannot be ended: {error}");
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

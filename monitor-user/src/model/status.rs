//! What `status` shows of a service: a view, in the words of docs/stability.md.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::cause::Death;
use super::instance::{Instance, ServiceName, SpawnFailure};
use super::memory::Desired;
use super::steps::Phase;

/// What a service does, as users see it. Coarser than the machine in `service.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// An instance runs, and the service is up.
    Running,
    /// A start waits for other services.
    Waiting,
    /// A start is under way, or waits only for the old instance to let go; or an instance runs, and the
    /// service is not up yet.
    Starting,
    /// Something of it is on its way out, to stay down or to be started again.
    Stopping,
    /// Down: stopped, or ended with success.
    Stopped,
    /// Down: a oneshot service that has ended with success, and so is up.
    Done,
    /// The next start waits for its time.
    Backoff,
    /// Down: given up.
    Failed,
    /// Down: not started, as a condition does not hold.
    Skipped,
}

impl State {
    /// Each of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Running,
        Self::Waiting,
        Self::Starting,
        Self::Stopping,
        Self::Stopped,
        Self::Done,
        Self::Backoff,
        Self::Failed,
        Self::Skipped,
    ];

    /// "running", "waiting", "starting", "stopping", "stopped", "done", "backoff", "failed" or "skipped".
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a service has said that it does, while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Its next instance starts, and replaces the one that runs.
    Rolling,
    /// It reads its configuration again.
    Reloading,
    /// It ends.
    Stopping,
}

impl Doing {
    /// "replacement", "reload" or "stop".
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Rolling => "replacement",
            Self::Reloading => "reload",
            Self::Stopping => "stop",
        }
    }
}

/// Whether the next instance of a service is to be loaded already, and wait for its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandbyWish {
    /// There is to be none.
    Unwanted,
    /// One that is there stays, for the start that comes. None is made now.
    Kept,
    /// There is to be one.
    Wanted,
}

/// One service as it is now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status<'a> {
    /// Its name.
    pub(crate) service: &'a ServiceName,
    /// What it does.
    pub(crate) state: State,
    /// What is wanted of it; down for a service that is gone from the config.
    pub(crate) desired: Desired,
    /// The instance that has not exited yet.
    pub(crate) instance: Option<Instance>,
    /// The services that its start or its stop waits for; `None`: neither is under way.
    pub(crate) waits_for: Option<&'a BTreeSet<ServiceName>>,
    /// Since when it has been in this state.
    pub(crate) since: Instant,
    /// Starts so far, less one.
    pub(crate) restarts: u64,
    /// The last death.
    pub(crate) last_exit: Option<&'a Death>,
    /// Why the last start failed, until one succeeds.
    pub(crate) last_failure: Option<&'a SpawnFailure>,
    /// Why it was given up, if it was.
    pub(crate) failed: Option<&'a str>,
    /// Which condition does not hold, if it was not started for that.
    pub(crate) skipped: Option<&'a str>,
    /// The commands around its run that are under way.
    pub(crate) phase: Option<Phase>,
    /// What it has said that it does, while it runs.
    pub(crate) doing: Option<Doing>,
    /// Those that run beside it: the one that is to replace it, and then those that were replaced and are
    /// being stopped.
    pub(crate) beside: Vec<Instance>,
    /// What to do about a program that keeps going into the background.
    pub(crate) background: Option<&'a str>,
    /// In backoff: when the next start is due.
    pub(crate) next_start: Option<Instant>,
    /// Whether its next instance is to be loaded already.
    pub(crate) standby: StandbyWish,
}

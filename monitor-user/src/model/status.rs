//! What `status` shows of a service: a view, in the words of the contract.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::cause::Death;
use super::instance::{Instance, ServiceName, SpawnFailure};
use super::memory::Desired;

/// The contract's words for what a service does. Coarser than the machine in `service.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// An instance runs.
    Running,
    /// A start is under way, or waits only for the old instance to let go.
    Starting,
    /// Something of it is on its way out, to stay down or to be started again.
    Stopping,
    /// Down: stopped, or ended with success.
    Stopped,
    /// The next start waits for its time.
    Backoff,
    /// Down: given up.
    Failed,
}

impl State {
    /// "running", "starting", "stopping", "stopped", "backoff" or "failed".
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
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
    /// What to do about a program that keeps going into the background.
    pub(crate) background: Option<&'a str>,
    /// In backoff: when the next start is due.
    pub(crate) next_start: Option<Instant>,
}

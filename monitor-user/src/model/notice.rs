//! What the supervisor tells the journal.

use std::time::Duration;

use super::cause::Death;
use super::instance::{Child, Instance, ServiceName, SpawnFailure};
use super::signal::Signal;

/// What happened to a service, for people and programs that follow along.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "where many are held, they are exits; a box for each would cost more"
)]
pub(crate) enum Notice {
    /// An instance runs. `restarts` counts the starts since the agent's first, less one.
    Started {
        service: ServiceName,
        instance: Instance,
        restarts: u64,
    },
    /// An instance of an earlier agent was taken over. One that died in between is told of so
    /// only if its start never was.
    Adopted {
        service: ServiceName,
        instance: Instance,
    },
    /// An instance ended.
    Exited {
        service: ServiceName,
        instance: Instance,
        death: Death,
    },
    /// A signal ended another process of a service that runs.
    ChildExited {
        service: ServiceName,
        child: Box<Child>,
    },
    /// A stop began.
    Stopping {
        service: ServiceName,
        instance: Instance,
        signal: Signal,
    },
    /// The service is down and stays down.
    Stopped { service: ServiceName },
    /// The next start waits.
    Backoff {
        service: ServiceName,
        delay: Duration,
        reason: BackoffReason,
    },
    /// The service is given up until someone starts it.
    Failed {
        service: ServiceName,
        reason: String,
    },
    /// An instance's main process has put the rest into the background, where nobody supervises it.
    WentToBackground {
        service: ServiceName,
        instance: Instance,
        /// What to do.
        advice: String,
    },
    /// The kernel could not report this many exits.
    EventsLost { count: u64 },
}

impl Notice {
    /// Whose event it is.
    pub(crate) fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Started { service, .. }
            | Self::Adopted { service, .. }
            | Self::Exited { service, .. }
            | Self::ChildExited { service, .. }
            | Self::Stopping { service, .. }
            | Self::Stopped { service }
            | Self::Backoff { service, .. }
            | Self::WentToBackground { service, .. }
            | Self::Failed { service, .. } => Some(service),
            Self::EventsLost { .. } => None,
        }
    }
}

/// Why a start waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackoffReason {
    /// The service keeps ending by itself, or wants a delay.
    Exited,
    /// The start itself failed.
    SpawnFailed(SpawnFailure),
    /// It ended more than 20 times within a second, by itself or not.
    TooOften,
}

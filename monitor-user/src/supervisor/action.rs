//! What the supervisor wants done: verbs, performed one at a time by `os` and the agent.

use std::path::PathBuf;
use std::time::Duration;

use super::cause::Death;
use super::event::{Attempt, Child, Instance, RequestId, ServiceName, SpawnFailure};
use super::signal::Signal;

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Start the service. Answered by `Spawned` or `SpawnFailed` with the same attempt.
    Spawn {
        service: ServiceName,
        attempt: Attempt,
    },
    /// Send a signal to the instance's main process, if it still is that process. Who asked for it
    /// is answered by whether it was sent.
    Signal {
        service: ServiceName,
        instance: Instance,
        signal: Signal,
        request: RequestId,
    },
    /// Send the stop signal, and have who is stopped go on to see it. Answered by `StopSent` once
    /// that is done.
    Stop {
        service: ServiceName,
        instance: Instance,
        signal: Signal,
        reach: Reach,
    },
    /// SIGKILL to what lives of the instance. Said once.
    Kill {
        service: ServiceName,
        instance: Instance,
        reach: Reach,
    },
    /// The main process has been released: see to what is left of its tree, and of no other: with
    /// `overlap`, the service's next instance may live already. Answered by `TreeGone` once nothing
    /// is left, which may take a `Kill`.
    ClearTree {
        service: ServiceName,
        instance: Instance,
        how: Clear,
    },
    /// Answer a request. Exactly one for each, unless a `Signal` names it.
    Reply { request: RequestId, reply: Reply },
    /// Tell the journal and whoever follows it.
    Publish(Notice),
}

/// Which processes of an instance something is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of its tree, the main process too, if it lives.
    Tree,
    /// The main process alone.
    Main,
}

/// What becomes of those that outlive their main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clear {
    /// Send them the stop signal, answered by `StopSent`, and wait for their end.
    Stop(Signal),
    /// They have had the stop signal: wait for their end.
    Await,
    /// SIGKILL.
    Kill,
    /// Leave them alone, where nothing of the service's next instances will be: then they count as
    /// gone.
    Leave,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It is so.
    Done,
    /// What a reload did.
    Reloaded(ReloadSummary),
    /// It could not be done, or was overtaken by another request.
    Denied(DeniedReason),
}

/// What a reload did, names sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ReloadSummary {
    /// New services, started.
    pub(crate) added: Vec<String>,
    /// Services whose file changed.
    pub(crate) changed: Vec<String>,
    /// Those of them that are started anew for it; the others only go by another policy from now
    /// on, or are down and stay so.
    #[serde(default)]
    pub(crate) restarted: Vec<String>,
    /// Services that are gone from the config, stopped.
    pub(crate) removed: Vec<String>,
    /// Those of the started ones that do not run.
    #[serde(default)]
    pub(crate) failed: Vec<FailedStart>,
}

/// A service that does not run after a reload.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct FailedStart {
    pub(crate) service: String,
    /// Why.
    pub(crate) error: String,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeniedReason {
    /// No such service.
    UnknownService(ServiceName),
    /// No such service in the config that was loaded, but its file is there.
    NotLoaded { file: PathBuf },
    /// There is no process to send a signal to.
    NotRunning(ServiceName),
    /// The signal could not be sent.
    NotSent { service: ServiceName, why: String },
    /// It is so, but an agent that starts after this one would not know it.
    NotRemembered(ServiceName),
    /// The start failed.
    StartFailed {
        service: ServiceName,
        failure: SpawnFailure,
    },
    /// Another request took its place: a stop during a start, for instance.
    Overtaken {
        service: ServiceName,
        by: &'static str,
    },
}

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

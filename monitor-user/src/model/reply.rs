//! The answer to what somebody asked of the supervisor: done, or why not.

use std::path::PathBuf;

use super::instance::{ServiceName, SpawnFailure};

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It is so.
    Done,
    /// A start was not tried, as a condition of the service does not hold.
    Skipped {
        /// Which, in words.
        reason: String,
    },
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
    /// No such service, but a template that could have such an instance.
    NoInstance { template: PathBuf },
    /// There is no process to send a signal to.
    NotRunning(ServiceName),
    /// The signal could not be sent.
    NotSent { service: ServiceName, why: String },
    /// It could not be had read its own configuration again.
    NotReloaded { service: ServiceName, why: String },
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

//! Who is meant: a service, one run of it, one attempt to start it, a process of its tree.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cause::Death;
use super::exit::Circumstances;

/// The name of a service, as its file is named.
pub(crate) type ServiceName = Arc<str>;

/// One run of a service: a pid alone may be anybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// Process ID, as the agent's PID namespace has it.
    pub(crate) pid: u32,
    /// Start time since boot, in nanoseconds at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: u64,
}

impl Instance {
    /// No process: of a oneshot service that has done its work.
    pub(crate) const NONE: Self = Self {
        pid: 0,
        start_time_ns: 0,
    };
}

/// Which start of a service is meant: counted up for each `Spawn`, never reused.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub(crate) struct Attempt(pub u64);

/// A process of a service's tree, beside its main process, that a signal has ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Child {
    /// Who it was.
    pub(crate) process: Instance,
    /// How it ended.
    pub(crate) death: Death,
    /// What else the kernel's record tells of it.
    pub(crate) circumstances: Circumstances,
    /// So many others of the tree that ended so before it are not told.
    pub(crate) left_out: u64,
}

/// Where a start failed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpawnFailure {
    /// "cannot run /usr/bin/x: No such file or directory (exec)"
    pub(crate) message: String,
}

impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

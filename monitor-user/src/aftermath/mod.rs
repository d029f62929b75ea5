//! What the host tells of a death beside the kernel program's record: where a core went, whose
//! memory ran out, and what the service wrote last.
//!
//! Reads files only, after the fact; whatever cannot be read is not told.

mod core_dump;
mod kernel_log;
mod output;

pub(crate) use output::tail;

use serde::Serialize;

pub(crate) use self::core_dump::CoreDump;
use crate::decode::{LastSignal, ProcessExit, Usage};
use crate::model::Cause;

/// What is told of an exit beside the death; nothing of it is known without the kernel's record.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Circumstances {
    /// The pid in the initial PID namespace.
    pub(crate) host_pid: Option<u32>,
    /// The parent's pid.
    pub(crate) parent_pid: Option<u32>,
    /// Real user ID.
    pub(crate) uid: Option<u32>,
    /// ID of its cgroup in the v2 hierarchy, if that says where it belongs.
    pub(crate) cgroup_id: Option<u64>,
    /// The last signal before, by which another process had asked it to end.
    pub(crate) last_signal: Option<LastSignal>,
    /// What it had used.
    pub(crate) usage: Option<Usage>,
    /// Of a core dump: where it went.
    pub(crate) core: Option<CoreDump>,
    /// The end of its output, where the config asks for it.
    pub(crate) last_output: Option<String>,
    /// Of a service's main process: so many others of it that a signal ended are not told.
    pub(crate) children_left_out: Option<u64>,
}

impl Circumstances {
    /// What the record tells, and where a core went.
    pub(crate) fn of(exit: &ProcessExit) -> Self {
        Self {
            host_pid: Some(exit.host_pid),
            parent_pid: Some(exit.parent_pid),
            uid: Some(exit.uid),
            cgroup_id: exit.cgroup_id,
            last_signal: exit.last_signal.clone(),
            usage: Some(exit.usage),
            core: core_dump::of(exit),
            last_output: None,
            children_left_out: None,
        }
    }
}

/// Adds to an out-of-memory kill whose memory it was that ran out.
pub(crate) fn complete(exit: &mut ProcessExit) {
    if let Cause::OomKilled(kill) = &mut exit.cause {
        let victim = kill.victim_host_pid.unwrap_or(exit.host_pid);
        kill.scope = kernel_log::oom_scope(victim, exit.exited_at, exit.uptime);
    }
}

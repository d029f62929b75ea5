//! What the host tells of a death beside the kernel program's record: where a core went, whose
//! memory ran out, and what the service wrote last.
//!
//! Reads files only, after the fact; whatever cannot be read is not told.

mod core_dump;
mod kernel_log;
mod output;

pub(crate) use output::{OutputStart, tail, tail_of_log};

use crate::decode::ProcessExit;
use crate::model::{Cause, Circumstances};

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

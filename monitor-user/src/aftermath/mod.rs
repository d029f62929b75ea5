//! What the host tells of a death beside the kernel program's record: where a core went, whose
//! memory ran out, and what the service wrote last.
//!
//! Reads files only, after the fact; whatever cannot be read is not told.

pub(crate) mod core_dump;
mod kernel_log;
mod output;

pub(crate) use core_dump::CoreDump;
pub(crate) use output::tail;

use crate::decode::ProcessExit;
use crate::supervisor::Cause;

/// Adds to an out-of-memory kill whose memory it was that ran out.
pub(crate) fn complete(exit: &mut ProcessExit) {
    if let Cause::OomKilled(kill) = &mut exit.cause {
        kill.scope = kernel_log::oom_scope(exit.host_pid);
    }
}

/// Where the core of a process went, if it has dumped one.
pub(crate) fn core_of(exit: &ProcessExit) -> Option<CoreDump> {
    core_dump::of(
        &exit.cause,
        exit.instance,
        exit.host_pid,
        exit.uid,
        &exit.comm,
    )
}

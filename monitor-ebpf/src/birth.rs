//! The birth program: writes an instance into the watch map before its first instruction, so that
//! an agent that dies between its fork and its own book-keeping leaves no unknown child.
//!
//! Runs at every fork of the host; only those of a process that has marked itself are recorded.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::warn;
use monitor_ebpf::{TICK_NS, WATCHING, WatchEntry, hints};

use crate::{
    object::{HINTS, MARK, WATCHED},
    task::Task,
};

/// Records `child` if `parent`, the current task, has marked its forks.
#[inline(always)]
pub(crate) fn record<C: EbpfContext>(ctx: &C, parent: Task, child: Task) {
    let Some(mark) = MARK.get(0) else {
        return;
    };
    if mark.agent_pid == 0 {
        return;
    }
    if u64::from(parent.process_id()) != mark.agent_pid
        || parent.leader().start_time() / TICK_NS != mark.agent_start_ticks
        // A thread is no birth.
        || parent.host_process_id() == child.host_process_id()
    {
        return;
    }
    let entry = WatchEntry {
        start_ticks: child.start_time() / TICK_NS,
        state: WATCHING,
        service: mark.service,
        attempt: mark.attempt,
        threads: 0,
    };
    let pid = child.process_id();
    let (word, bit) = hints::place(pid);
    if let Some(word) = HINTS.get_ptr_mut(word) {
        // SAFETY: the map returned it, and only the agent's thread writes it, which is this one.
        unsafe { *word |= bit };
    }
    if let Err(errno) = WATCHED.insert(&pid, &entry, 0) {
        warn!(ctx, "cannot record a birth: errno {}", -errno);
    }
}

//! The exit program of a recorder: a record for each death of the host that is to be kept, with all
//! that is known of the dead and of who sent the signal.
//!
//! Most exits of a host are not kept, and cost no more than it takes to find that out.

use aya_ebpf::{EbpfContext, helpers::bpf_get_current_pid_tgid};
use aya_log_ebpf::debug;
use monitor_ebpf::{DeathRecord, ExitRecord, Filter, KEEP_ALL, SignalledDeathRecord, losses};

use crate::{
    details,
    exit::{self, Exit, Thread},
    object::{EVENTS, SIGNALS},
    task::{Process, Task},
};

/// Of a wait status: the signal, and the flag of a core.
const SIGNAL_AND_CORE: u32 = 0xff;

/// Sees `task`, the current one, end.
#[inline(always)]
pub(crate) fn see<C: EbpfContext>(ctx: &C, task: Task, thread: Thread, filter: Filter) {
    if !thread.is_last(task) {
        return;
    }
    let host_pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let leader = task.leader();
    let process = task.process();
    let signals = SIGNALS.get_ptr(&host_pid);
    // What every exit of the host costs ends here.
    if is_kept(process.wait_status(leader), leader, process, filter) {
        keep(
            ctx,
            task,
            leader,
            process,
            host_pid,
            signals.is_some(),
            filter,
        );
    }
    if signals.is_some() {
        exit::forget_signals(host_pid);
    }
}

/// Writes the record, unless another program has, or the process is outside the recorder's PID
/// namespace.
#[inline(always)]
fn keep<C: EbpfContext>(
    ctx: &C,
    task: Task,
    leader: Task,
    process: Process,
    host_pid: u32,
    is_signalled: bool,
    filter: Filter,
) {
    let pid = task.process_id_of(host_pid);
    let start_time_ns = leader.start_time();
    if pid != 0 && (filter.claim == 0 || exit::claim(host_pid, start_time_ns)) {
        let exit = Exit {
            task,
            leader,
            process,
            start_time_ns,
            pid,
            host_pid,
            parent_pid: leader.parent().process_id(),
            comm: leader.comm(),
        };
        let is_sent = if is_signalled {
            send_signalled(&exit)
        } else {
            send(&exit)
        };
        if !is_sent {
            exit::count_loss(losses::LOST);
            debug!(ctx, "ring full: death of pid {} not recorded", pid);
        }
    }
}

/// Whether the death is abnormal, or all are kept.
#[inline(always)]
fn is_kept(status: u32, leader: Task, process: Process, filter: Filter) -> bool {
    if filter.keep == KEEP_ALL || status & SIGNAL_AND_CORE != 0 {
        return true;
    }
    status != 0 && (process.is_first() || leader.parent().process().is_first())
}

/// False if the ring is full.
#[inline(always)]
fn send(exit: &Exit) -> bool {
    let Some(mut slot) = EVENTS.reserve::<DeathRecord>(0) else {
        return false;
    };
    let record = slot.as_mut_ptr();
    // SAFETY: the ring has reserved it, and all that is read of it is written.
    unsafe {
        write(&raw mut (*record).exit, exit);
        details::write(&raw mut (*record).details, exit.task);
    }
    slot.submit(0);
    true
}

/// The same of a process that had been sent signals.
#[inline(always)]
fn send_signalled(exit: &Exit) -> bool {
    let Some(mut slot) = EVENTS.reserve::<SignalledDeathRecord>(0) else {
        return false;
    };
    let record = slot.as_mut_ptr();
    // SAFETY: as above.
    unsafe {
        write(&raw mut (*record).exit, exit);
        details::write(&raw mut (*record).details, exit.task);
        let (sent, asked) = (&(*record).exit.sent, &(*record).exit.asked);
        let (sent_start, sent_pid) = (sent.sender_start_time_ns, sent.sender_host_pid);
        let (asked_start, asked_pid) = (asked.sender_start_time_ns, asked.sender_host_pid);
        details::copy_sender(&raw mut (*record).sender, sent_start, sent_pid);
        details::copy_sender(&raw mut (*record).asker, asked_start, asked_pid);
    }
    slot.submit(0);
    true
}

/// # Safety
/// There is room for a record.
#[inline(always)]
unsafe fn write(record: *mut ExitRecord, exit: &Exit) {
    // SAFETY: the caller's promise.
    unsafe {
        exit::write(record, exit);
        exit::write_signal(record, exit);
        (*record).service = 0;
        (*record).attempt = 0;
        (*record).threads = exit.process.threads();
        (*record).left_out = 0;
    }
}

//! The exit program of a recorder: a record for each death of the host that is to be kept, with all
//! that is known of the dead and of who sent the signal.
//!
//! Most exits of a host are not kept, and cost no more than it takes to find that out.

use core::{hint, ptr};

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    },
};
use aya_log_ebpf::debug;
use monitor_ebpf::{
    DeathRecord, EXIT_WATCHED, ExitRecord, Filter, KEEP_ALL, KEEP_WANTED, MOST_WANTED,
    SignalledDeathRecord, TICK_NS, Wanted, losses,
};

use crate::{
    details,
    exit::{self, Exit, Thread},
    object::{EVENTS, SIGNALS, WANTED, WATCHED},
    task::{Process, Task, Typed},
};

/// Of a wait status: the signal, and the flag of a core.
const SIGNAL_AND_CORE: u32 = 0xff;
/// The signal alone.
const SIGNAL: u32 = 0x7f;

/// Sees `task`, the current one, end.
#[inline(always)]
pub(crate) fn see<C: EbpfContext>(ctx: &C, task: Task, thread: Thread, filter: Filter) {
    let (host_pid, status) = match Typed::current() {
        Some(typed) => {
            let is_last = match thread {
                Thread::Unknown => typed.live_threads() == 0,
                told => told == Thread::Last,
            };
            if !is_last {
                return;
            }
            (typed.process_id(), typed.wait_status())
        }
        None => {
            if !thread.is_last(task) {
                return;
            }
            let host_pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            (host_pid, task.process().wait_status(task))
        }
    };
    // What every exit of the host costs ends here.
    let is_kept = match filter.keep {
        KEEP_WANTED => is_reported(status, task, host_pid),
        _ => is_kept(status, task, filter),
    };
    if is_kept && !keep(task, task.process(), host_pid, filter.claim != 0) {
        exit::count_loss(losses::LOST);
        debug!(ctx, "ring full: death of pid {} not recorded", host_pid);
    }
    // The bit may be missing; who is ended by a signal has been sent one.
    if is_kept || exit::is_signalled(host_pid) {
        exit::forget_signalled(host_pid);
        exit::forget_signals(host_pid);
    }
}

/// Writes the record, unless another program has, or the process is outside the recorder's PID
/// namespace. False if the ring is full.
///
/// A function of its own, so that the exit programs share it.
#[inline(never)]
fn keep(task: Task, process: Process, host_pid: u32, must_claim: bool) -> bool {
    let leader = task.leader();
    let pid = task.process_id_of(host_pid);
    let start_time_ns = leader.start_time();
    if pid == 0 || must_claim && !exit::claim(host_pid, start_time_ns) {
        return true;
    }
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
    if SIGNALS.get_ptr(&host_pid).is_some() {
        send_signalled(&exit)
    } else {
        send(&exit)
    }
}

/// Whether a process is watched, or its death is one of those that are asked for.
///
/// A function of its own: whichever way the verifier has come through it, it goes on only once.
#[inline(never)]
fn is_reported(status: u32, task: Task, host_pid: u32) -> bool {
    is_watched(task, host_pid) || is_wanted(status, task, exit::filter())
}

#[inline(always)]
fn is_watched(task: Task, host_pid: u32) -> bool {
    let pid = task.process_id_of(host_pid);
    exit::is_hinted(pid) && is_in_map(pid, task.leader().start_time())
}

#[inline(always)]
fn is_in_map(pid: u32, start_time_ns: u64) -> bool {
    WATCHED
        .get_ptr(&pid)
        // SAFETY: the map returned it, and its values live as long as the program runs.
        .is_some_and(|entry| unsafe { (*entry).start_ticks == start_time_ns / TICK_NS })
}

/// Whether the death is abnormal, or all are kept.
#[inline(always)]
fn is_kept(status: u32, task: Task, filter: Filter) -> bool {
    if filter.keep == KEEP_ALL || status & SIGNAL_AND_CORE != 0 {
        return true;
    }
    status != 0 && (task.process().is_first() || task.leader().parent().process().is_first())
}

/// Whether all conditions hold.
#[inline(always)]
fn is_wanted(status: u32, task: Task, filter: Filter) -> bool {
    // SAFETY: initialised read-only data. Not copied, so that nothing is read but what is asked for.
    let wanted = hint::black_box(unsafe { &*ptr::from_ref(&WANTED).cast::<Wanted>() });
    if !is_wanted_cause(status, wanted) || filter.all == 0 && filter.names == 0 {
        return false;
    }
    if wanted.uids != 0 {
        let uid = u64::from(bpf_get_current_uid_gid() as u32);
        if !(0..MOST_WANTED).any(|at| (at as u64) < wanted.uids && wanted.uid[at] == uid) {
            return false;
        }
    }
    if wanted.cgroups != 0 && !is_in_wanted_cgroup(wanted) {
        return false;
    }
    filter.all != 0 || exit::matches(&task.leader().comm())
}

#[inline(always)]
fn is_wanted_cause(status: u32, wanted: &Wanted) -> bool {
    if wanted.failed != 0 && status == 0 {
        return false;
    }
    let signal = status & SIGNAL;
    if signal != 0 {
        return wanted.by_code == 0 && (wanted.by_signal == 0 || wanted.signals >> signal & 1 != 0);
    }
    let code = status >> 8;
    let bits = wanted.codes[(code >> 6 & 3) as usize];
    wanted.by_signal == 0 && (wanted.by_code == 0 || bits >> (code & 63) & 1 != 0)
}

#[inline(always)]
fn is_in_wanted_cgroup(wanted: &Wanted) -> bool {
    (0..MOST_WANTED).any(|at| {
        // SAFETY: it takes a number, and is allowed in tracing programs.
        (at as u64) < wanted.cgroups
            && unsafe { bpf_get_current_ancestor_cgroup_id(wanted.level[at] as i32) }
                == wanted.cgroup[at]
    })
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
    // Here, where no more follows that the verifier would have to look at twice.
    if exit::filter().keep == KEEP_WANTED && is_in_map(exit.pid, exit.start_time_ns) {
        // SAFETY: as above.
        unsafe { (*record).flags |= EXIT_WATCHED };
        let _ = WATCHED.remove(&exit.pid);
    }
}

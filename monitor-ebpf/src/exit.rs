//! The exit program: one record for each watched process, when its last thread goes.
//!
//! Runs for every thread of the host that ends, so what is not watched leaves as early as it can.

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_ktime_get_boot_ns,
    },
};
use aya_log_ebpf::{debug, warn};
use monitor_ebpf::{
    ClaimKey, EXIT_WATCHED, ExitRecord, LOST as STATE_LOST, TICK_NS, WatchEntry, hints,
};

use crate::{
    object::{CLAIMED, EVENTS, FILTER, HINTS, LOST, NAMES, WATCHED},
    task::{Result, Task},
};

/// How sure it is that no other thread reports the same process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastThread {
    /// The kernel said so.
    Certain,
    /// Two threads that end at once may both see no one left: the first to claim it reports.
    Claimed,
}

/// Reports the process of `task`, the current task, if it is watched.
#[inline(always)]
pub(crate) fn report<C: EbpfContext>(ctx: &C, task: Task, last: LastThread) {
    if let Err(errno) = try_report(ctx, task, last) {
        count_lost();
        warn!(ctx, "cannot read an exiting task: errno {}", -errno);
    }
}

#[inline(always)]
fn try_report<C: EbpfContext>(ctx: &C, task: Task, last: LastThread) -> Result<()> {
    // SAFETY: initialised read-only data; volatile because user space rewrites it before loading.
    let filter = unsafe { ptr::read_volatile(&raw const FILTER) };
    let host_pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let pid = if filter.pid_namespace == 0 {
        host_pid
    } else {
        task.process_id()?
    };
    if pid == 0 {
        return Ok(());
    }
    let some_unwatched = filter.all != 0 || filter.names != 0;
    if !some_unwatched && !is_hinted(pid) {
        return Ok(());
    }
    let entry = WATCHED.get_ptr_mut(&pid);
    if entry.is_none() && !some_unwatched {
        return Ok(());
    }

    let leader = task.leader()?;
    let start_time_ns = leader.start_time()?;
    let entry = entry.filter(|entry| {
        // SAFETY: the map returned it, and its values live as long as the program runs.
        unsafe { (**entry).start_ticks == start_time_ns / TICK_NS }
    });
    let comm = leader.comm()?;
    if entry.is_none() && filter.all == 0 && !(filter.names != 0 && matches(&comm)) {
        return Ok(());
    }
    if last == LastThread::Claimed {
        let key = ClaimKey {
            start_time_ns,
            host_pid: host_pid.into(),
        };
        if CLAIMED.insert(&key, &0, BPF_NOEXIST.into()).is_err() {
            return Ok(());
        }
    }
    // SAFETY: the map returned it.
    let (service, attempt) = entry.map_or((0, 0), |entry| unsafe {
        ((*entry).service, (*entry).attempt)
    });
    let record = ExitRecord {
        start_time_ns,
        // SAFETY: these helpers take nothing and are allowed in tracing programs.
        exit_time_ns: unsafe { bpf_ktime_get_boot_ns() },
        // SAFETY: as above.
        cgroup_id: unsafe { bpf_get_current_cgroup_id() },
        service,
        attempt,
        pid,
        host_pid,
        parent_pid: leader.parent()?.process_id()?,
        uid: bpf_get_current_uid_gid() as u32,
        wait_status: leader.wait_status()?,
        flags: if entry.is_some() { EXIT_WATCHED } else { 0 },
        comm,
    };
    send(ctx, &record, entry);
    Ok(())
}

/// Whether the pid may be in the watch map.
#[inline(always)]
fn is_hinted(pid: u32) -> bool {
    let (word, bit) = hints::place(pid);
    HINTS.get(word).is_some_and(|word| word & bit != 0)
}

/// Writes the record, if this run of the program is the one that takes the watch entry out.
/// Without room in the ring the entry stays, marked lost.
#[inline(always)]
fn send<C: EbpfContext>(ctx: &C, record: &ExitRecord, entry: Option<*mut WatchEntry>) {
    let Some(mut slot) = EVENTS.reserve::<ExitRecord>(0) else {
        if let Some(entry) = entry {
            // SAFETY: the map returned it; a racing write can only write the same value.
            unsafe { (*entry).state = STATE_LOST };
        }
        count_lost();
        debug!(ctx, "ring full: exit of pid {} not reported", record.pid);
        return;
    };
    if entry.is_some() && WATCHED.remove(&record.pid).is_err() {
        slot.discard(0);
        return;
    }
    slot.write(*record);
    slot.submit(0);
}

#[inline(always)]
fn matches(comm: &[u8; monitor_ebpf::COMM_LEN]) -> bool {
    // SAFETY: initialised read-only data. Not copied: it is larger than the stack.
    let names = unsafe { &*ptr::from_ref(&NAMES).cast::<monitor_ebpf::NameMatcher>() };
    core::hint::black_box(names).matches(comm)
}

/// Plain addition: on one CPU the kernel runs a tracing program once at a time
/// (`prog->active` in `__bpf_trace_run`, kernel/trace/bpf_trace.c).
#[inline(always)]
fn count_lost() {
    if let Some(counter) = LOST.get_ptr_mut(0) {
        // SAFETY: the map returned it: aligned, valid while the program runs, and of this CPU.
        unsafe { *counter += 1 };
    }
}

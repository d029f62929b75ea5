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
    COMM_LEN, ClaimKey, EXIT_IO_COUNTED, EXIT_OOM_FIGURES, EXIT_OOM_VICTIM, EXIT_SECCOMP,
    EXIT_WATCHED, ExitRecord, FIRST_REAL_TIME, LOST as STATE_LOST, SENT_AMBIGUOUS, SENT_BY_ITSELF,
    SENT_TO_GROUP, SIGNALS_KEPT, SentSignal, SentSignals, TICK_NS, WatchEntry, hints,
};

use crate::{
    object::{CLAIMED, EVENTS, FILTER, HINTS, LOST, NAMES, SIGNALS, WATCHED},
    task::{Result, Task, Usage},
};

/// Signals that ask a process to end: SIGHUP, SIGINT, SIGQUIT and SIGTERM, as [`bit`]s.
const REQUESTS: u64 = bit(1) | bit(2) | bit(3) | bit(15);

/// One of 64, for signals 1 to 64; none for 0.
#[inline(always)]
const fn bit(signal: u32) -> u64 {
    match signal {
        1..=64 => 1 << (signal - 1),
        _ => 0,
    }
}

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
    let host_pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if let Err(errno) = try_report(ctx, task, host_pid, last) {
        forget_signals(host_pid);
        count_lost();
        warn!(ctx, "cannot read an exiting task: errno {}", -errno);
    }
}

#[inline(always)]
fn try_report<C: EbpfContext>(ctx: &C, task: Task, host_pid: u32, last: LastThread) -> Result<()> {
    let pid = task.process_id_of(host_pid)?;
    if pid == 0 {
        return Ok(());
    }
    // SAFETY: initialised read-only data; volatile because user space rewrites it before loading.
    let filter = unsafe { ptr::read_volatile(&raw const FILTER) };
    let some_unwatched = filter.all != 0 || filter.names != 0;
    if !some_unwatched && !is_hinted(pid) {
        return Ok(());
    }
    let entry = WATCHED.get_ptr_mut(&pid);
    if entry.is_none() && !some_unwatched {
        forget_signals(host_pid);
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
        forget_signals(host_pid);
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
    let exit = Exit {
        task,
        leader,
        start_time_ns,
        pid,
        host_pid,
        parent_pid: leader.parent()?.process_id()?,
        wait_status: leader.wait_status()?,
        usage: leader.usage(task)?,
        comm,
    };
    if send(ctx, &exit, entry) {
        forget_signals(host_pid);
    }
    Ok(())
}

/// Makes room for the signals of another process. The signal program keeps them also where this one
/// finds that nobody asked: of every process, if there is a name to watch for.
#[inline(always)]
fn forget_signals(host_pid: u32) {
    let _ = SIGNALS.remove(&host_pid);
}

/// What is known of an exit before there is room for its record.
struct Exit {
    task: Task,
    leader: Task,
    start_time_ns: u64,
    pid: u32,
    host_pid: u32,
    parent_pid: u32,
    wait_status: u32,
    usage: Usage,
    comm: [u8; COMM_LEN],
}

/// Counts the threads of a watched process when the first of them goes with it.
#[inline(always)]
pub(crate) fn count_threads(task: Task) {
    let _ = try_count_threads(task);
}

#[inline(always)]
fn try_count_threads(task: Task) -> Result<()> {
    let pid = task.process_id_of((bpf_get_current_pid_tgid() >> 32) as u32)?;
    if pid == 0 || !is_hinted(pid) {
        return Ok(());
    }
    let Some(entry) = WATCHED.get_ptr_mut(&pid) else {
        return Ok(());
    };
    if !task.group_exits()? {
        return Ok(());
    }
    let threads = task.threads()?.into();
    // SAFETY: the map returned it. The first thread sees them all; whichever write wins of two at
    // the same moment, it is of one that saw as many.
    unsafe {
        if (*entry).threads < threads {
            (*entry).threads = threads;
        }
    }
    Ok(())
}

/// Whether the pid may be in the watch map.
#[inline(always)]
pub(crate) fn is_hinted(pid: u32) -> bool {
    let (word, bit) = hints::place(pid);
    HINTS.get(word).is_some_and(|word| word & bit != 0)
}

/// Writes the record, if this run of the program is the one that takes the watch entry out.
/// Without room in the ring the entry stays, marked lost. False if another run has written it.
#[inline(always)]
fn send<C: EbpfContext>(ctx: &C, exit: &Exit, entry: Option<*mut WatchEntry>) -> bool {
    let Some(mut slot) = EVENTS.reserve::<ExitRecord>(0) else {
        if let Some(entry) = entry {
            // SAFETY: the map returned it; a racing write can only write the same value.
            unsafe { (*entry).state = STATE_LOST };
        }
        count_lost();
        debug!(ctx, "ring full: exit of pid {} not reported", exit.pid);
        return true;
    };
    let record = slot.as_mut_ptr();
    // SAFETY: room for a record, in the ring; every field is written, here or in `write_signal`.
    unsafe {
        write(record, exit);
        write_signal(record, exit);
    }
    // SAFETY: the record's place is valid as above, and `entry` is the map's.
    unsafe {
        (*record).service = 0;
        (*record).attempt = 0;
        (*record).threads = 0;
        if let Some(entry) = entry {
            (*record).service = (*entry).service;
            (*record).attempt = (*entry).attempt;
            (*record).threads = ((*entry).threads as u32).max(1);
            (*record).flags |= EXIT_WATCHED;
        }
    }
    if entry.is_some() && WATCHED.remove(&exit.pid).is_err() {
        slot.discard(0);
        return false;
    }
    slot.submit(0);
    true
}

/// # Safety
/// There is room for a record.
#[inline(always)]
unsafe fn write(record: *mut ExitRecord, exit: &Exit) {
    let mut flags = 0;
    if exit.leader.is_oom_victim() == Ok(true) {
        flags |= EXIT_OOM_VICTIM;
    }
    if exit.task.is_seccomp_bound() {
        flags |= EXIT_SECCOMP;
    }
    if Usage::counts_bytes() {
        flags |= EXIT_IO_COUNTED;
    }
    // SAFETY: the caller's promise; the helpers take nothing and are allowed in tracing programs.
    unsafe {
        (*record).start_time_ns = exit.start_time_ns;
        (*record).exit_time_ns = bpf_ktime_get_boot_ns();
        (*record).cgroup_id = bpf_get_current_cgroup_id();
        (*record).user_time_ns = exit.usage.user_time_ns;
        (*record).system_time_ns = exit.usage.system_time_ns;
        (*record).run_time_ns = exit.usage.run_time_ns;
        (*record).max_rss_pages = exit.usage.max_rss_pages;
        (*record).read_bytes = exit.usage.read_bytes;
        (*record).written_bytes = exit.usage.written_bytes;
        (*record).pid = exit.pid;
        (*record).host_pid = exit.host_pid;
        (*record).parent_pid = exit.parent_pid;
        (*record).uid = bpf_get_current_uid_gid() as u32;
        (*record).wait_status = exit.wait_status;
        (*record).flags = flags;
        (*record).comm = exit.comm;
    }
}

/// Joins the signal that ended the process, and the last one that had asked it to end.
///
/// # Safety
/// There is room for a record, and all but this is in it.
#[inline(always)]
unsafe fn write_signal(record: *mut ExitRecord, exit: &Exit) {
    let signals = SIGNALS.get_ptr(&exit.host_pid).filter(|signals| {
        // SAFETY: the map returned it, and its values live as long as the program runs.
        unsafe { (**signals).start_time_ns == exit.start_time_ns }
    });
    // SAFETY: the caller's promise, and as above.
    unsafe {
        (*record).oom_total_vm_pages = 0;
        (*record).oom_anon_pages = 0;
        (*record).oom_score_adj = 0;
        let Some(signals) = signals else {
            (*record).sent = SentSignal::NONE;
            (*record).asked = SentSignal::NONE;
            return;
        };
        if (*signals).oom != 0 {
            (*record).flags |= EXIT_OOM_FIGURES;
            (*record).oom_total_vm_pages = (*signals).oom_total_vm_pages;
            (*record).oom_anon_pages = (*signals).oom_anon_pages;
            (*record).oom_score_adj = (*signals).oom_score_adj;
        }
        let ended_by = exit.wait_status & 0x7f;
        (*record).sent = match last_of(&*signals, bit(ended_by), true) {
            Some(sent) => *sent,
            None => SentSignal::NONE,
        };
        if has_rival(&*signals, &(*record).sent) {
            (*record).sent.flags |= SENT_AMBIGUOUS;
        }
        // The one that ended it is no request beside that.
        let ended_at = (*record).sent.time_ns;
        (*record).asked = match last_of(&*signals, REQUESTS, false) {
            Some(sent) if sent.time_ns != ended_at => *sent,
            _ => SentSignal::NONE,
        };
    }
}

/// The last one of these signals, given as [`bit`]s.
#[inline(always)]
fn last_of(signals: &SentSignals, which: u64, or_by_itself: bool) -> Option<&SentSignal> {
    let mut found = None;
    let mut latest = 0;
    for index in 0..SIGNALS_KEPT {
        let sent = &signals.sent[index];
        let is_one = which & bit(sent.signal) != 0;
        let counts = or_by_itself || sent.flags & SENT_BY_ITSELF == 0;
        if is_one && counts && sent.time_ns > latest {
            latest = sent.time_ns;
            found = Some(sent);
        }
    }
    found
}

/// Whether the process itself and another one have both sent the signal that ended it, and the
/// earlier one may have waited until then, and have been taken first: real-time signals queue, and
/// those of a thread are taken before those of its process.
#[inline(always)]
fn has_rival(signals: &SentSignals, sent: &SentSignal) -> bool {
    for index in 0..SIGNALS_KEPT {
        let other = &signals.sent[index];
        let is_earlier = other.time_ns != 0 && other.time_ns < sent.time_ns;
        let comes_first = other.flags & SENT_TO_GROUP == 0 && sent.flags & SENT_TO_GROUP != 0;
        if is_earlier
            && other.signal == sent.signal
            && (comes_first || sent.signal >= FIRST_REAL_TIME)
        {
            return true;
        }
    }
    false
}

#[inline(always)]
fn matches(comm: &[u8; COMM_LEN]) -> bool {
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

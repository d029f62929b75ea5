//! The exit program: one record for each watched process, when its last thread goes; and some for
//! those in the same cgroup that a signal ends.
//!
//! Runs for every thread of the host that ends, so what is not watched leaves as early as it can.

use core::{arch::asm, hint, ptr};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_ktime_get_boot_ns, bpf_ringbuf_discard, bpf_ringbuf_submit,
    },
};
use aya_log_ebpf::{debug, warn};
use monitor_ebpf::{
    CHILDREN_TIME_NS, CHILDREN_TOLD, COMM_LEN, ClaimKey, EXIT_CHILD, EXIT_IO_COUNTED,
    EXIT_OOM_FIGURES, EXIT_OOM_VICTIM, EXIT_SECCOMP, EXIT_WATCHED, ExitRecord, FIRST_REAL_TIME,
    Filter, LOST as STATE_LOST, SENT_AMBIGUOUS, SENT_BY_ITSELF, SENT_TO_GROUP, SentSignal,
    SentSignals, TICK_NS, Tree, WatchEntry, hints, losses,
};

use crate::{
    death,
    object::{
        CLAIMED, EVENTS, FILTER, HINTS, LOST, NAMES, SIGNALLED, SIGNALS, SPILLED, TREES, WATCHED,
    },
    task::{Process, Task, Usage},
};

/// Signals that ask a process to end: SIGHUP, SIGINT, SIGQUIT and SIGTERM, as [`bit`]s.
pub(crate) const REQUESTS: u64 = bit(1) | bit(2) | bit(3) | bit(15);

/// One of 64, for signals 1 to 64. That of 0, for none, is 64's too.
#[inline(always)]
const fn bit(signal: u32) -> u64 {
    1 << (signal & 63)
}

/// What is known of the thread that ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thread {
    /// The last one of its process, so the kernel says.
    Last,
    /// Not the last one.
    NotLast,
    /// It is the last one if the process counts no living ones. Two threads that end at once may
    /// both see none.
    Unknown,
}

impl Thread {
    /// What the kernel says of it.
    #[inline(always)]
    pub(crate) fn told(is_last: bool) -> Self {
        if is_last { Self::Last } else { Self::NotLast }
    }

    /// Whether its process ends with `task`.
    #[inline(always)]
    pub(crate) fn is_last(self, task: Task) -> bool {
        match self {
            Self::Last => true,
            Self::NotLast => false,
            Self::Unknown => task.process().live_threads() == 0,
        }
    }
}

/// Sees `task`, the current one, end: reports its process if it is watched, or in the tree of one
/// that is, and goes with it.
#[inline(always)]
pub(crate) fn see<C: EbpfContext>(ctx: &C, task: Task, thread: Thread) {
    let filter = filter();
    if filter.keep != 0 {
        death::see(ctx, task, thread, filter);
        return;
    }
    let host_pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let pid = task.process_id_of(host_pid);
    if pid == 0 {
        return;
    }
    let some_unwatched = filter.all != 0 || filter.names != 0;
    let is_signalled = filter.agent != 0 && is_signalled(pid);
    if !some_unwatched && !is_hinted(pid) && !is_signalled {
        return;
    }
    if thread.is_last(task) {
        if is_signalled {
            forget_signalled(pid);
        }
        report(ctx, task, pid, host_pid);
    } else if is_hinted(pid) {
        count_threads(task.process(), pid);
    }
}

#[inline(always)]
pub(crate) fn filter() -> Filter {
    // SAFETY: initialised read-only data; volatile because user space rewrites it before loading.
    unsafe { ptr::read_volatile(&raw const FILTER) }
}

/// Whether a process of a service's tree, or for a recorder any, may have been sent a signal that may
/// have ended it.
#[inline(always)]
pub(crate) fn is_signalled(pid: u32) -> bool {
    let (word, bit) = hints::place(pid);
    SIGNALLED.get(word).is_some_and(|word| word & bit != 0)
}

/// Whoever has that pid next has been sent none.
#[inline(always)]
pub(crate) fn forget_signalled(pid: u32) {
    let (word, bit) = hints::place(pid);
    if let Some(word) = SIGNALLED.get_ptr_mut(word) {
        // SAFETY: the map returned it. Of two writes at the same moment one may be lost, which costs a
        // look or a report.
        unsafe { *word &= !bit };
    }
}

/// Whether the process is to be reported if it is in the cgroup of a service.
#[inline(always)]
fn may_be_child(task: Task) -> bool {
    filter().agent != 0 && task.ended_by_signal()
}

#[inline(always)]
fn report<C: EbpfContext>(ctx: &C, task: Task, pid: u32, host_pid: u32) {
    let filter = filter();
    let entry = WATCHED.get_ptr_mut(&pid);
    if entry.is_none() && filter.all == 0 && filter.names == 0 && !may_be_child(task) {
        forget_signals(host_pid);
        return;
    }
    let leader = task.leader();
    let start_time_ns = leader.start_time();
    if start_time_ns == 0 {
        forget_signals(host_pid);
        count_loss(losses::LOST);
        warn!(ctx, "cannot read the exiting process {}", pid);
        return;
    }
    let entry = entry.filter(|entry| {
        // SAFETY: the map returned it, and its values live as long as the program runs.
        unsafe { (**entry).start_ticks == start_time_ns / TICK_NS }
    });
    if let Some(entry) = entry
        // SAFETY: as above.
        && unsafe { (*entry).state } == STATE_LOST
    {
        // Another program found no room for its record, and has counted it.
        return;
    }
    let comm = leader.comm();
    let tree = match entry {
        None if may_be_child(task) => current_tree(),
        _ => None,
    };
    let is_wanted = filter.all != 0 || filter.names != 0 && matches(&comm);
    if entry.is_none() && tree.is_none() && !is_wanted {
        forget_signals(host_pid);
        return;
    }
    // Where nothing but watched processes is reported, taking the entry out is claim enough.
    let some_unwatched = filter.all != 0 || filter.names != 0 || filter.agent != 0;
    if some_unwatched && filter.claim != 0 && !claim(host_pid, start_time_ns) {
        return;
    }
    if let Some(tree) = tree
        && !may_be_told(tree)
    {
        return;
    }
    let exit = Exit {
        task,
        leader,
        process: leader.process(),
        start_time_ns,
        pid,
        host_pid,
        parent_pid: leader.parent().process_id(),
        comm,
    };
    if send(ctx, &exit, entry, tree) {
        forget_signals(host_pid);
    }
}

/// The tree that the current process is in.
#[inline(always)]
fn current_tree() -> Option<*mut Tree> {
    // SAFETY: it takes nothing and is allowed in tracing programs.
    let cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    TREES.get_ptr_mut(&cgroup_id)
}

/// Whether one more of that tree may be reported: not too many in a time, and none in the part of
/// the ring that is kept for the services themselves. Counts it either way.
#[inline(always)]
fn may_be_told(tree: *mut Tree) -> bool {
    let is_filling =
        EVENTS.query(BPF_RB_AVAIL_DATA.into()) > EVENTS.query(BPF_RB_RING_SIZE.into()) / 4;
    // SAFETY: the map returned it. Of writes at the same moment on several CPUs one may be lost:
    // then one more is reported.
    unsafe {
        let now = bpf_ktime_get_boot_ns();
        if now - (*tree).since_ns > CHILDREN_TIME_NS {
            (*tree).since_ns = now;
            (*tree).told = 0;
        }
        if is_filling || (*tree).told >= CHILDREN_TOLD {
            count(&raw mut (*tree).left_out);
            return false;
        }
        (*tree).told += 1;
    }
    true
}

/// Whether no other program, and no other run of this one, has claimed the process.
#[inline(always)]
pub(crate) fn claim(host_pid: u32, start_time_ns: u64) -> bool {
    let key = ClaimKey {
        start_time_ns,
        host_pid: host_pid.into(),
    };
    CLAIMED.insert(&key, &0, BPF_NOEXIST.into()).is_ok()
}

/// Makes room for the signals of another process. The signal program keeps them also where this one
/// finds that nobody asked: of every process, if there is a name to watch for.
#[inline(always)]
pub(crate) fn forget_signals(host_pid: u32) {
    let _ = SIGNALS.remove(&host_pid);
}

/// What is known of an exit before there is room for its record.
pub(crate) struct Exit {
    pub(crate) task: Task,
    pub(crate) leader: Task,
    pub(crate) process: Process,
    pub(crate) start_time_ns: u64,
    pub(crate) pid: u32,
    pub(crate) host_pid: u32,
    /// Found out before it is known where the record goes: the verifier goes through what comes after
    /// that once for each place.
    pub(crate) parent_pid: u32,
    pub(crate) comm: [u8; COMM_LEN],
}

/// Counts the threads of a watched process when the first of them goes with it.
#[inline(always)]
fn count_threads(process: Process, pid: u32) {
    let Some(entry) = WATCHED.get_ptr_mut(&pid) else {
        return;
    };
    if !process.exits() {
        return;
    }
    let threads = process.threads().into();
    // SAFETY: the map returned it. The first thread sees them all; whichever write wins of two at
    // the same moment, it is of one that saw as many.
    unsafe {
        if (*entry).threads < threads {
            (*entry).threads = threads;
        }
    }
}

/// Whether the pid may be in the watch map.
#[inline(always)]
pub(crate) fn is_hinted(pid: u32) -> bool {
    let (word, bit) = hints::place(pid);
    HINTS.get(word).is_some_and(|word| word & bit != 0)
}

/// Writes the record, if this run of the program is the one that takes the watch entry out.
/// Without room in the ring it is written to a map; without room there as well, the entry stays,
/// marked lost. False if another run has written it.
#[inline(always)]
fn send<C: EbpfContext>(
    ctx: &C,
    exit: &Exit,
    entry: Option<*mut WatchEntry>,
    tree: Option<*mut Tree>,
) -> bool {
    let (record, place) = match EVENTS.reserve::<ExitRecord>(0) {
        Some(mut slot) => (slot.as_mut_ptr(), hint::black_box(IN_RING)),
        None => match room_beside(exit.pid, entry) {
            Some(record) => (record, hint::black_box(BESIDE)),
            None => {
                leave(ctx, exit.pid, entry, tree);
                return true;
            }
        },
    };
    // SAFETY: room for a record, in the ring or in a map; every field is written, here or in `write_signal`.
    unsafe {
        write(record, exit);
        write_signal(record, exit);
    }
    let of = match (entry, tree) {
        // SAFETY: the map returned it.
        (Some(entry), _) => unsafe { Of::entry(&*entry) },
        // SAFETY: as above.
        (None, Some(tree)) => unsafe { Of::tree(&mut *tree) },
        (None, None) => Of::NOBODY,
    };
    // SAFETY: the record's place is valid as above.
    unsafe {
        (*record).service = of.service;
        (*record).attempt = of.attempt;
        (*record).threads = of.threads;
        (*record).flags |= of.flags;
        (*record).left_out = of.left_out;
    }
    let is_taken = entry.is_none() || WATCHED.remove(&exit.pid).is_ok();
    if place != IN_RING {
        // Whoever has taken the entry out has written the same record.
        count_loss(losses::SPILLED);
    } else if is_taken {
        // SAFETY: the ring has reserved it, and this is the one end of the reservation.
        unsafe { bpf_ringbuf_submit(record.cast(), 0) };
    } else {
        // SAFETY: as above.
        unsafe { bpf_ringbuf_discard(record.cast(), 0) };
    }
    is_taken
}

/// Where a record is. Hidden from the compiler, which would look at the pointer a second time instead:
/// the verifiers of Linux 5.10 and 6.1 then take a reservation for one that may be null, and refuse the
/// program. As wide as a register, since Linux 5.10 remembers nothing narrower on the stack.
const IN_RING: u64 = 1;
const BESIDE: u64 = 0;

/// Where a record is kept that found the ring full: of a watched process, for an agent. None while an
/// earlier record of the same pid is there.
#[inline(always)]
fn room_beside(pid: u32, entry: Option<*mut WatchEntry>) -> Option<*mut ExitRecord> {
    if filter().agent == 0 || entry.is_none() {
        return None;
    }
    SPILLED.insert(&pid, &EMPTY, BPF_NOEXIST.into()).ok()?;
    SPILLED.get_ptr_mut(&pid)
}

static EMPTY: ExitRecord = ExitRecord::NONE;

/// Leaves an exit without a record: a watched process in the watch map, marked lost.
#[inline(always)]
fn leave<C: EbpfContext>(
    ctx: &C,
    pid: u32,
    entry: Option<*mut WatchEntry>,
    tree: Option<*mut Tree>,
) {
    if let Some(tree) = tree {
        // SAFETY: the map returned it.
        unsafe { count(&raw mut (*tree).left_out) };
        return;
    }
    if let Some(entry) = entry {
        // SAFETY: the map returned it; a racing write can only write the same value.
        unsafe { (*entry).state = STATE_LOST };
    }
    count_loss(losses::LOST);
    debug!(ctx, "ring full: exit of pid {} not reported", pid);
}

/// Whose process it was, for its record.
struct Of {
    service: u64,
    attempt: u64,
    threads: u32,
    flags: u32,
    left_out: u64,
}

impl Of {
    const NOBODY: Self = Self {
        service: 0,
        attempt: 0,
        threads: 0,
        flags: 0,
        left_out: 0,
    };

    #[inline(always)]
    fn entry(entry: &WatchEntry) -> Self {
        Self {
            service: entry.service,
            attempt: entry.attempt,
            threads: (entry.threads as u32).max(1),
            flags: EXIT_WATCHED,
            left_out: 0,
        }
    }

    /// The next record counts anew what had none.
    #[inline(always)]
    fn tree(tree: &mut Tree) -> Self {
        let of = Self {
            service: tree.service,
            attempt: tree.attempt,
            threads: 0,
            flags: EXIT_CHILD,
            left_out: tree.left_out,
        };
        tree.left_out = 0;
        of
    }
}

/// # Safety
/// There is room for a record.
#[inline(always)]
pub(crate) unsafe fn write(record: *mut ExitRecord, exit: &Exit) {
    let usage = exit.leader.usage(exit.process, exit.task);
    // SAFETY: the caller's promise; the helpers take nothing and are allowed in tracing programs.
    unsafe {
        (*record).start_time_ns = exit.start_time_ns;
        (*record).exit_time_ns = bpf_ktime_get_boot_ns();
        (*record).cgroup_id = bpf_get_current_cgroup_id();
        (*record).user_time_ns = usage.user_time_ns;
        (*record).system_time_ns = usage.system_time_ns;
        (*record).run_time_ns = usage.run_time_ns;
        (*record).max_rss_pages = usage.max_rss_pages;
        (*record).read_bytes = usage.read_bytes;
        (*record).written_bytes = usage.written_bytes;
        (*record).pid = exit.pid;
        (*record).host_pid = exit.host_pid;
        (*record).parent_pid = exit.parent_pid;
        (*record).uid = bpf_get_current_uid_gid() as u32;
        (*record).wait_status = exit.process.wait_status(exit.leader);
        (*record).comm = exit.comm;
    }
    let mut flags = 0;
    if exit.process.is_oom_victim() {
        flags |= EXIT_OOM_VICTIM;
    }
    if exit.task.is_seccomp_bound() {
        flags |= EXIT_SECCOMP;
    }
    if Usage::counts_bytes() {
        flags |= EXIT_IO_COUNTED;
    }
    // SAFETY: the caller's promise.
    unsafe { (*record).flags = flags };
}

/// Joins the signal that ended the process, and the last one that had asked it to end.
///
/// # Safety
/// There is room for a record, and all but this is in it.
#[inline(always)]
pub(crate) unsafe fn write_signal(record: *mut ExitRecord, exit: &Exit) {
    let signals = SIGNALS.get_ptr(&exit.host_pid).filter(|signals| {
        // SAFETY: the map returned it, and its values live as long as the program runs.
        unsafe { (**signals).start_time_ns == exit.start_time_ns }
    });
    // SAFETY: the caller's promise, and as above.
    unsafe {
        let (total_vm, anon, score_adj, figures) = match signals {
            Some(signals) if (*signals).oom != 0 => (
                (*signals).oom_total_vm_pages,
                (*signals).oom_anon_pages,
                (*signals).oom_score_adj,
                EXIT_OOM_FIGURES,
            ),
            _ => (0, 0, 0, 0),
        };
        (*record).oom_total_vm_pages = total_vm;
        (*record).oom_anon_pages = anon;
        (*record).oom_score_adj = score_adj;
        (*record).flags |= figures;
        let Some(signals) = signals else {
            copy(&raw mut (*record).sent, None);
            copy(&raw mut (*record).asked, None);
            return;
        };
        let signals = &*signals;
        let ended_by = match (*record).wait_status & 0x7f {
            0 => 0,
            signal => bit(signal),
        };
        copy(
            &raw mut (*record).sent,
            last_of(signals, ended_by, 0, NEVER),
        );
        if has_rival(signals, &(*record).sent) {
            (*record).sent.flags |= SENT_AMBIGUOUS;
        }
        // The one that ended it is no request beside that.
        let ended_at = (*record).sent.time_ns;
        copy(
            &raw mut (*record).asked,
            last_of(signals, REQUESTS, SENT_BY_ITSELF, ended_at),
        );
    }
}

/// A time at which no signal was sent.
const NEVER: u64 = 0;

/// The last one of these signals, given as [`bit`]s, that has none of these flags, unless that was
/// sent at a time that does not count.
#[inline(always)]
fn last_of(
    signals: &SentSignals,
    which: u64,
    but_flags: u32,
    but_time_ns: u64,
) -> Option<&SentSignal> {
    let mut found = None;
    let mut latest = 0;
    for sent in &signals.sent {
        let counts = which & bit(sent.signal) != 0 && sent.flags & but_flags == 0;
        if counts && sent.time_ns > latest {
            latest = sent.time_ns;
            found = Some(sent);
        }
    }
    found.filter(|_| latest != but_time_ns)
}

/// Writes a signal, or none. Word by word, and volatile, as the compiler would make a call of it
/// that writes byte by byte, each of which the verifier goes through.
///
/// # Safety
/// `to` is valid for writes.
#[inline(always)]
unsafe fn copy(to: *mut SentSignal, from: Option<&SentSignal>) {
    const WORDS: usize = size_of::<SentSignal>() / size_of::<u64>();
    let to = to.cast::<u64>();
    for index in 0..WORDS {
        // SAFETY: the caller's promise; both are made of whole words without padding.
        unsafe {
            let word = match from {
                Some(from) => *ptr::from_ref(from).cast::<u64>().add(index),
                None => 0,
            };
            to.add(index).write_volatile(word);
        }
    }
}

/// Whether the process itself and another one have both sent the signal that ended it, and the
/// earlier one may have waited until then, and have been taken first: real-time signals queue, and
/// those of a thread are taken before those of its process.
#[inline(always)]
fn has_rival(signals: &SentSignals, sent: &SentSignal) -> bool {
    let mut found = false;
    for other in &signals.sent {
        let is_earlier = other.time_ns != 0 && other.time_ns < sent.time_ns;
        let comes_first = other.flags & SENT_TO_GROUP == 0 && sent.flags & SENT_TO_GROUP != 0;
        found |= is_earlier
            && other.signal == sent.signal
            && (comes_first || sent.signal >= FIRST_REAL_TIME);
    }
    found
}

#[inline(always)]
pub(crate) fn matches(comm: &[u8; COMM_LEN]) -> bool {
    // SAFETY: initialised read-only data. Not copied: it is larger than the stack.
    let names = unsafe { &*ptr::from_ref(&NAMES).cast::<monitor_ebpf::NameMatcher>() };
    core::hint::black_box(names).matches(comm)
}

#[inline(always)]
pub(crate) fn count_loss(kind: u32) {
    if let Some(counter) = LOST.get_ptr_mut(kind) {
        // SAFETY: the map returned it.
        unsafe { count(counter) };
    }
}

/// Adds one. Other CPUs, and another program on this one, may add to it at the same time: hence in
/// one instruction.
///
/// # Safety
/// It is in a map's value: aligned, and valid while the program runs.
#[inline(always)]
unsafe fn count(counter: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) counter, in(reg) 1_u64) };
}

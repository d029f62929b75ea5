//! The signal program: keeps who sent a watched process which signal, for the exit program to join
//! to the exit; and the figures of the out-of-memory killer's victims.
//!
//! Runs at every signal of the host, in the sender's context, with the receiver's signal lock held:
//! what it keeps of one receiver is written by one CPU at a time, and before the receiver can see
//! the signal (`__send_signal_locked`, kernel/signal.c). Judges nothing, and wakes nobody.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns},
};
use aya_log_ebpf::warn;
use monitor_ebpf::{
    FIRST_REAL_TIME, SENT_AMBIGUOUS, SENT_BY_ENDED_THREAD, SENT_BY_EXITING, SENT_BY_ITSELF,
    SENT_BY_KERNEL, SENT_BY_NAMESPACE_INIT, SENT_CPU_LIMITED, SENT_FOR_SHARED_MEMORY,
    SENT_IN_SESSION, SENT_PARENT_DEATH, SENT_TO_GROUP, SENT_WITHOUT_INFO, SIGNALS_KEPT, SentSignal,
    SentSignals, TICK_NS, hints,
};

use crate::{
    details::keep_sender,
    exit::{REQUESTS, filter, is_hinted},
    object::{SIGNALLED, SIGNALS, TREES, VICTIM, WATCHED},
    task::{Process, Task, read, syscall_number},
};

/// `enum { TRACE_SIGNAL_DELIVERED, …, TRACE_SIGNAL_LOSE_INFO }`, include/trace/events/signal.h: the
/// results of a signal that will be taken. One that is ignored, or pending already, is not.
const DELIVERED: i32 = 0;
const LOSE_INFO: i32 = 4;

/// Signals that end no process: `sig_kernel_ignore` and `sig_kernel_stop` in
/// include/linux/signal.h, as bits of their numbers.
const HARMLESS: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 28;

/// `struct kernel_siginfo` (include/uapi/asm-generic/siginfo.h): `si_code`, and the union's begin.
const SI_CODE: usize = 8;
const SI_FIELDS: usize = 16;
/// `SEND_SIG_PRIV`, include/linux/sched/signal.h.
const BY_KERNEL: usize = 1;
const KILL: u32 = 9;
/// `si_code` as the kernel fills it in for the two special pointers.
const SI_USER: i32 = 0;
const SI_KERNEL: i32 = 0x80;

static EMPTY: SentSignals = SentSignals::NONE;

/// Keeps a signal for `task`, if that is of a watched process and may end by it.
#[inline(always)]
pub(crate) fn keep<C: EbpfContext>(
    ctx: &C,
    signal: i32,
    info: *const u8,
    task: Task,
    group: bool,
    result: i32,
) {
    let number = signal as u32;
    if result != DELIVERED && result != LOSE_INFO || number > 64 || HARMLESS >> number & 1 != 0 {
        return;
    }
    let host_pid = task.host_process_id();
    let by_kernel = || number == KILL && info as usize == BY_KERNEL && group;
    let Some(start_time_ns) = start_if_wanted(task, host_pid) else {
        // Others may die with it.
        if by_kernel() {
            chosen_instead_of(task, host_pid);
        }
        return;
    };
    let thread = Task::current();
    let sender = Sender::of(thread);
    let itself = sender.host_pid == host_pid;
    let mut flags = relation(number, task, thread);
    if itself {
        flags |= SENT_BY_ITSELF;
    }
    if group {
        flags |= SENT_TO_GROUP;
    }
    // After what goes through PID namespaces: the verifier goes through what comes after this once
    // for each outcome.
    let victim = if by_kernel() {
        chosen_instead_of(task, host_pid)
    } else {
        0
    };
    if filter().keep != 0 && !itself && may_be_told(number, task) && info as usize != BY_KERNEL {
        keep_sender(thread, sender.start_time_ns, sender.host_pid);
    }
    let sent = match slot(host_pid, start_time_ns, number, itself) {
        Ok(sent) => sent,
        Err(errno) => {
            warn!(ctx, "cannot keep a signal's sender: errno {}", -errno);
            return;
        }
    };
    // SAFETY: a map returned it, and the receiver's signal lock keeps other writers away.
    let sent = unsafe { &mut *sent };
    write(sent, number, itself, flags, info, &sender);
    // Without a branch, for the same reason.
    sent.address |= victim;
    sent.flags |= ((victim | victim.wrapping_neg()) >> 63) as u32 * SENT_FOR_SHARED_MEMORY;
}

/// Whether a recorder may have to say who sent it: it may end the process, or asks it to end.
#[inline(always)]
fn may_be_told(number: u32, task: Task) -> bool {
    number == KILL || REQUESTS >> (number & 63) & 1 != 0 || task.has_default_action(number)
}

/// Whether the out-of-memory killer kills `task` only because it has its memory in common with the
/// process that it has chosen: that one's process ID, else 0. It kills that one first and marks it,
/// and then the others, all in one go (`__oom_kill_process`, mm/oom_kill.c).
#[inline(always)]
fn chosen_instead_of(task: Task, host_pid: u32) -> u64 {
    let Some(last) = VICTIM.get_ptr_mut(0) else {
        return 0;
    };
    let killer = Task::current().0 as u64;
    // SAFETY: the map returned it. Another kill on another CPU may change it at the same time: then
    // this one is told as the kernel's, and no more.
    unsafe {
        let shared = Process::at((*last).process).memory_of_victim();
        let memory = task.memory();
        if (*last).killer == killer && !memory.is_none() && shared == memory {
            return (*last).host_pid;
        }
        (*last).killer = killer;
        (*last).process = task.process().address();
        (*last).host_pid = host_pid.into();
    }
    0
}

/// The process that sends, found out before there is a place for the signal: the verifier goes
/// through what comes after that once for each place.
struct Sender {
    leader: Task,
    parent: Task,
    start_time_ns: u64,
    pid: u32,
    host_pid: u32,
    parent_pid: u32,
}

impl Sender {
    #[inline(always)]
    fn of(thread: Task) -> Self {
        let leader = thread.leader();
        let parent = leader.parent();
        Self {
            leader,
            parent,
            start_time_ns: leader.start_time(),
            pid: leader.process_id(),
            host_pid: leader.host_process_id(),
            parent_pid: parent.process_id(),
        }
    }
}

/// Writes what `sender` has sent over an earlier one of the same kind, or over one that is free.
///
/// `itself` is among the flags too; but a branch on those would have the verifier tell all their
/// combinations apart from there on.
#[inline(always)]
fn write(
    sent: &mut SentSignal,
    signal: u32,
    itself: bool,
    mut flags: u32,
    info: *const u8,
    sender: &Sender,
) {
    let (code, address) = match info as usize {
        0 => {
            flags |= SENT_WITHOUT_INFO;
            (SI_USER, 0)
        }
        BY_KERNEL => {
            flags |= SENT_BY_KERNEL;
            (SI_KERNEL, 0)
        }
        _ => (
            read(info.wrapping_add(SI_CODE)),
            read(info.wrapping_add(SI_FIELDS)),
        ),
    };
    if sent.signal == signal && (sent.flags & SENT_BY_ITSELF != 0) == itself {
        let is_same_way = sent.code == code || itself && signal < FIRST_REAL_TIME;
        let is_same = is_same_way
            && sent.sender_host_pid == sender.host_pid
            && sent.sender_start_time_ns == sender.start_time_ns;
        // One of the same kind is not taken while another waits: only these do beside each other.
        let may_wait = signal >= FIRST_REAL_TIME || (sent.flags ^ flags) & SENT_TO_GROUP != 0;
        if may_wait && !is_same {
            flags |= SENT_AMBIGUOUS;
        }
        flags |= sent.flags & SENT_AMBIGUOUS;
    }
    // SAFETY: these helpers take nothing and are allowed in tracing programs.
    unsafe {
        sent.time_ns = bpf_ktime_get_boot_ns();
        sent.sender_cgroup_id = bpf_get_current_cgroup_id();
    }
    sent.sender_start_time_ns = sender.start_time_ns;
    sent.address = address;
    sent.signal = signal;
    sent.code = code;
    sent.flags = flags;
    sent.syscall = syscall_number();
    sent.sender_pid = sender.pid;
    sent.sender_host_pid = sender.host_pid;
    sent.sender_uid = bpf_get_current_uid_gid() as u32;
    sent.sender_parent_pid = sender.parent_pid;
    sent.sender_comm = sender.leader.comm();
    sent.sender_parent_comm = sender.parent.comm();
}

/// When the process started, if the exit program may want the signal: most of a host end here.
#[inline(always)]
fn start_if_wanted(task: Task, host_pid: u32) -> Option<u64> {
    let pid = task.process_id_of(host_pid);
    if pid == 0 {
        return None;
    }
    let filter = filter();
    if filter.keep != 0 {
        mark_signalled(host_pid);
    }
    if filter.all != 0 || filter.names != 0 || filter.keep != 0 {
        return Some(task.leader().start_time());
    }
    if !is_hinted(pid) {
        if filter.agent != 0 {
            note_child(task, pid);
        }
        return None;
    }
    let entry = WATCHED.get_ptr(&pid)?;
    let start_time_ns = task.leader().start_time();
    // SAFETY: the map returned it, and its values live as long as the program runs.
    let start_ticks = unsafe { (*entry).start_ticks };
    (start_time_ns / TICK_NS == start_ticks).then_some(start_time_ns)
}

/// Has the exit program look at a process of a service's tree when it ends.
#[inline(always)]
fn note_child(task: Task, pid: u32) {
    if TREES.get_ptr(&task.cgroup_id()).is_none() {
        return;
    }
    mark_signalled(pid);
}

/// Has the exit program look at what is kept of a process.
#[inline(always)]
fn mark_signalled(pid: u32) {
    let (word, bit) = hints::place(pid);
    if let Some(word) = SIGNALLED.get_ptr_mut(word) {
        // SAFETY: the map returned it. Of two writes at the same moment one may be lost, which costs a
        // report.
        unsafe { *word |= bit };
    }
}

/// Where the signal belongs: the place of an earlier one of its kind, or the oldest.
#[inline(always)]
fn slot(
    host_pid: u32,
    start_time_ns: u64,
    signal: u32,
    itself: bool,
) -> Result<*mut SentSignal, i32> {
    let entry = match SIGNALS.get_ptr_mut(&host_pid) {
        Some(entry) => entry,
        None => {
            SIGNALS.insert(&host_pid, &EMPTY, 0)?;
            SIGNALS.get_ptr_mut(&host_pid).ok_or(-1)?
        }
    };
    // SAFETY: the map returned it, and the receiver's signal lock keeps other writers away.
    let entry = unsafe { &mut *entry };
    if entry.start_time_ns != start_time_ns {
        entry.start_time_ns = start_time_ns;
        entry.oom = 0;
        for sent in &mut entry.sent {
            sent.time_ns = 0;
            sent.signal = 0;
        }
    }
    let mut oldest = 0;
    let mut oldest_time = u64::MAX;
    for index in 0..SIGNALS_KEPT {
        let sent = &entry.sent[index];
        if sent.signal == signal && (sent.flags & SENT_BY_ITSELF != 0) == itself {
            oldest = index;
            break;
        }
        if sent.time_ns < oldest_time {
            oldest = index;
            oldest_time = sent.time_ns;
        }
    }
    Ok(match oldest {
        0 => &raw mut entry.sent[0],
        1 => &raw mut entry.sent[1],
        2 => &raw mut entry.sent[2],
        _ => &raw mut entry.sent[3],
    })
}

/// What the sender is to the receiver, as flags.
#[inline(always)]
fn relation(signal: u32, task: Task, sender: Task) -> u32 {
    let (process, senders) = (task.process(), sender.process());
    let mut flags = 0;
    if senders.session() == process.session() {
        flags |= SENT_IN_SESSION;
    }
    if sender.is_exiting() {
        flags |= SENT_BY_EXITING;
        if senders.is_namespace_init() {
            flags |= SENT_BY_NAMESPACE_INIT;
        }
        if senders.lives_on() {
            flags |= SENT_BY_ENDED_THREAD;
        }
    }
    if task.parent_death_signal() == signal {
        flags |= SENT_PARENT_DEATH;
    }
    if process.has_cpu_limit() {
        flags |= SENT_CPU_LIMITED;
    }
    flags
}

/// Keeps what the out-of-memory killer knew of its victim, which has been sent SIGKILL just before
/// (`__oom_kill_process`, mm/oom_kill.c).
#[inline(always)]
pub(crate) fn keep_victim(victim: Task) {
    let host_pid = victim.host_process_id();
    let Some(entry) = SIGNALS.get_ptr_mut(&host_pid) else {
        return;
    };
    let memory = victim.memory();
    // SAFETY: the map returned it; these fields have no other writer while the process lives.
    let entry = unsafe { &mut *entry };
    entry.oom_total_vm_pages = memory.total_vm_pages();
    entry.oom_anon_pages = memory.anon_pages();
    entry.oom_score_adj = victim.process().oom_score_adj();
    entry.oom = 1;
}

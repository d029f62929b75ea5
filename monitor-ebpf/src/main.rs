//! The kernel programs: maps and entry points. What they do is in one module for each hook.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod birth;
#[cfg(target_arch = "bpf")]
mod death;
#[cfg(target_arch = "bpf")]
mod details;
#[cfg(target_arch = "bpf")]
mod exit;
#[cfg(target_arch = "bpf")]
mod signal;
#[cfg(target_arch = "bpf")]
mod task;

/// Maps, globals and programs.
#[cfg(target_arch = "bpf")]
mod object {
    use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
    use aya_ebpf::{
        EbpfContext,
        macros::{btf_tracepoint, fentry, map, tracepoint},
        maps::{Array, HashMap, LruHashMap, RingBuf},
        programs::{BtfTracePointContext, FEntryContext, TracePointContext},
    };
    use monitor_ebpf::{
        ClaimKey, Details, ExitRecord, Filter, Mark, NameMatcher, Offsets, SenderKey, SentSignals,
        Tree, Victim, Wanted, WatchEntry, hints, losses, maps, notes,
    };

    use crate::{
        birth, exit, signal,
        task::{Task, event_group_dead},
    };

    #[map]
    pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

    #[map]
    pub(crate) static WATCHED: HashMap<u32, WatchEntry> =
        HashMap::with_max_entries(maps::WATCHED_ENTRIES, 0);

    /// See [`losses`]. Mapped, so that it is read without a system call: from 7.0
    /// on the kernel skips `exit_event` while a map's system call is under way on that CPU.
    #[map]
    pub(crate) static LOST: Array<u64> = Array::with_max_entries(losses::COUNT, BPF_F_MMAPABLE);

    /// Takes memory only for records that find the ring full.
    #[map]
    pub(crate) static SPILLED: HashMap<u32, ExitRecord> =
        HashMap::with_max_entries(maps::WATCHED_ENTRIES, BPF_F_NO_PREALLOC);

    /// Which processes have been reported, where two programs see the same exit, or two threads may
    /// both take themselves for the last.
    #[map]
    pub(crate) static CLAIMED: LruHashMap<ClaimKey, u8> =
        LruHashMap::with_max_entries(maps::CLAIMED_ENTRIES, 0);

    /// Takes memory only for processes that have been sent a signal that may end them.
    #[map]
    pub(crate) static SIGNALS: HashMap<u32, SentSignals> =
        HashMap::with_max_entries(maps::SIGNALS_ENTRIES, BPF_F_NO_PREALLOC);

    /// Who has sent signals lately, for a recorder; else it has no size to speak of.
    #[map]
    pub(crate) static SENDERS: LruHashMap<SenderKey, Details> =
        LruHashMap::with_max_entries(maps::SENDERS_ENTRIES, 0);

    /// Takes memory only for services that run.
    #[map]
    pub(crate) static TREES: HashMap<u64, Tree> =
        HashMap::with_max_entries(maps::TREES_ENTRIES, BPF_F_NO_PREALLOC);

    /// Who was killed by the kernel, for those who die with it.
    #[map]
    pub(crate) static VICTIM: Array<Victim> = Array::with_max_entries(1, 0);

    /// See [`hints`].
    #[map]
    pub(crate) static HINTS: Array<u64> = Array::with_max_entries(hints::WORDS, 0);

    /// Which processes of services may be about to end by a signal: most exits of a host end at a
    /// clear bit here too. Bits are set and cleared with no care for others that do so at the same
    /// moment: one that gets lost costs the report of one process.
    #[map]
    pub(crate) static SIGNALLED: Array<u64> = Array::with_max_entries(hints::WORDS, 0);

    #[map]
    pub(crate) static MARK: Array<Mark> = Array::with_max_entries(1, 0);

    /// For user space alone.
    #[map]
    static NOTES: Array<u64> = Array::with_max_entries(notes::COUNT, 0);

    #[unsafe(no_mangle)]
    pub(crate) static OFFSETS: Offsets = ZERO_OFFSETS;
    #[unsafe(no_mangle)]
    pub(crate) static FILTER: Filter = Filter {
        pid_namespace: 0,
        all: 0,
        names: 0,
        claim: 0,
        agent: 0,
        keep: 0,
    };
    #[unsafe(no_mangle)]
    pub(crate) static NAMES: NameMatcher = NameMatcher::NONE;
    #[unsafe(no_mangle)]
    pub(crate) static WANTED: Wanted = ANYTHING;

    // SAFETY: as below.
    const ANYTHING: Wanted = unsafe { core::mem::zeroed() };

    // SAFETY: an all-zero `Offsets` is a valid one, and it is plain integers throughout.
    const ZERO_OFFSETS: Offsets = unsafe { core::mem::zeroed() };

    /// Kernels from 6.16 on: `sched_process_exit(struct task_struct *task, bool group_dead)`.
    #[btf_tracepoint(function = "sched_process_exit")]
    pub(crate) fn exit_group_dead(ctx: BtfTracePointContext) -> i32 {
        let thread = exit::Thread::told(ctx.arg::<u8>(1) != 0);
        exit::see(&ctx, Task(ctx.arg(0)), thread);
        0
    }

    /// Kernels from 7.0 on: the same as an event of perf, for which the kernel still forbids that
    /// the thread is preempted (`perf_trace_##call`, include/trace/perf.h).
    #[tracepoint(category = "sched", name = "sched_process_exit")]
    pub(crate) fn exit_event(ctx: TracePointContext) -> u32 {
        let thread = exit::Thread::told(event_group_dead(ctx.as_ptr().cast()));
        exit::see(&ctx, Task::current(), thread);
        0
    }

    /// Kernels before 6.16: `taskstats_exit(struct task_struct *tsk, int group_dead)`, which
    /// `do_exit` calls when the status is final and the memory is still there (kernel/exit.c).
    #[fentry(function = "taskstats_exit")]
    pub(crate) fn exit_early(ctx: FEntryContext) -> i32 {
        let thread = exit::Thread::told(ctx.arg::<i32>(1) != 0);
        exit::see(&ctx, Task(ctx.arg(0)), thread);
        0
    }

    /// Kernels before 6.16: `sched_process_exit(struct task_struct *task)`, for every thread, when
    /// its memory is gone.
    #[btf_tracepoint(function = "sched_process_exit")]
    pub(crate) fn exit_live_zero(ctx: BtfTracePointContext) -> i32 {
        exit::see(&ctx, Task(ctx.arg(0)), exit::Thread::Unknown);
        0
    }

    /// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`: before the child
    /// runs (kernel/fork.c, kernel_clone).
    #[btf_tracepoint(function = "sched_process_fork")]
    pub(crate) fn birth(ctx: BtfTracePointContext) -> i32 {
        birth::record(&ctx, Task(ctx.arg(0)), Task(ctx.arg(1)));
        0
    }

    /// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group,
    /// int result)`: in the sender's context (include/trace/events/signal.h).
    #[btf_tracepoint(function = "signal_generate")]
    pub(crate) fn signal(ctx: BtfTracePointContext) -> i32 {
        signal::keep(
            &ctx,
            ctx.arg(0),
            ctx.arg(1),
            Task(ctx.arg(2)),
            ctx.arg::<i32>(3) != 0,
            ctx.arg(4),
        );
        0
    }

    /// Kernels from 6.9 on: `mark_victim(struct task_struct *task, uid_t uid)`.
    #[btf_tracepoint(function = "mark_victim")]
    pub(crate) fn oom(ctx: BtfTracePointContext) -> i32 {
        signal::keep_victim(Task(ctx.arg(0)));
        0
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// Required of programs that call GPL-only helpers.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

/// On the host the object's binary is empty: there is only the library to build and to check.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

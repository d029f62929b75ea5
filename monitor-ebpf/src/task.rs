//! Reads of the kernel's task structures, at the offsets that user space found in its BTF.
//!
//! A read that fails gives zeros, and none is followed by a branch on whether it failed: before
//! 6.9 the verifier goes through the rest of a program twice for each such branch, and refuses the
//! program in the end (the stack slots that a helper wrote and those that the program wrote count
//! as different states). What is read are structures that the kernel holds while the program runs,
//! so nothing fails but a read of a field that does not exist; a caller who must know asks whether
//! something that is never 0 is 0, as [`Task::start_time`].

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs,
    generated::bpf_probe_read_kernel,
};
use monitor_ebpf::{COMM_LEN, MAX_PID_NAMESPACE_LEVEL, NO_FIELD, SYSCALL_NONE, SYSCALL_UNKNOWN};

use crate::object::FILTER;

/// A `struct task_struct *`.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const u8);

/// A `struct signal_struct *`: what the threads of one process share.
#[derive(Clone, Copy)]
pub(crate) struct Process(*const u8);

/// The current task, as a pointer whose type the verifier knows: what it leads to is read by plain
/// loads, without a helper. Exits are so rare that each helper's code is in no cache by then, which
/// costs more than what it does.
#[derive(Clone, Copy)]
pub(crate) struct Typed {
    task: *const u8,
    /// Its `struct signal_struct`.
    signal: *const u8,
}

/// `SIGNAL_GROUP_EXIT`, include/linux/sched/signal.h: the group's exit code is set.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// `PF_EXITING`, include/linux/sched.h.
const PF_EXITING: u32 = 4;

/// `RLIM_INFINITY`, include/uapi/linux/resource.h.
const RLIM_INFINITY: u64 = u64::MAX;

/// `SECCOMP_MODE_STRICT`, and `SECCOMP_MODE_DEAD` of kernel/seccomp.c.
const SECCOMP_STRICT: u32 = 1;
const SECCOMP_DEAD: u32 = 3;

/// One of [`Offsets`].
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: `OFFSETS` is initialised read-only data. Volatile, because user space rewrites it
        // in the object before it is loaded, which the compiler must not see as constant zeros.
        unsafe { ptr::read_volatile(&raw const $crate::object::OFFSETS.$field) }
    };
}

pub(crate) use offset;

/// What may be read from the kernel.
///
/// # Safety
/// Any bytes are a value of it.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),*) => { $(
        // SAFETY: an integer, a raw pointer, or an array of such.
        unsafe impl Plain for $type {}
    )* };
}
plain!(i16, i32, i64, u8, u32, u64, *const u8, [u8; COMM_LEN]);

/// Reads a `T` of kernel memory; zeros if that cannot be read.
#[inline(always)]
pub(crate) fn read<T: Plain>(address: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address itself, and writes all of the value in any case: what
    // it cannot read is 0 (`bpf_probe_read_kernel_common`, kernel/trace/bpf_trace.c).
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address.cast(),
        );
        value.assume_init()
    }
}

/// Reads a `T` at `base + offset` of kernel memory.
#[inline(always)]
pub(crate) fn field<T: Plain>(base: *const u8, offset: u32) -> T {
    read(base.wrapping_add(offset as usize))
}

/// The same of a field that the kernel may lack: `missing` then. The verifier knows the offset, and
/// sees one side of this branch only.
#[inline(always)]
pub(crate) fn optional<T: Plain>(base: *const u8, offset: u32, missing: T) -> T {
    if offset == NO_FIELD {
        return missing;
    }
    field(base, offset)
}

/// The number of the system call that the current task is in.
#[inline(always)]
pub(crate) fn syscall_number() -> i32 {
    let offset = offset!(pt_regs_syscall);
    if offset == NO_FIELD {
        return syscall_on_stack(Task::current());
    }
    // SAFETY: user space sets the offset only where the kernel has both helpers.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    none_if_negative(field(registers as *const u8, offset))
}

/// Whoever is interrupted outside of a system call has -1 there (arch/x86/entry/entry_64.S,
/// arch/arm64/include/asm/processor.h). Without a branch, for the reason at the head of this file.
#[inline(always)]
fn none_if_negative(number: i32) -> i32 {
    const { assert!(SYSCALL_NONE == -2) };
    let sign = number >> 31;
    number & !sign | sign << 1
}

/// The same before 5.15: the registers are at the end of the task's stack, which is as large as
/// its area says (`task_pt_regs`, arch/x86/include/asm/processor.h and the like for arm64).
#[inline(always)]
fn syscall_on_stack(task: Task) -> i32 {
    let below = offset!(stack_syscall);
    if below == NO_FIELD {
        return SYSCALL_UNKNOWN;
    }
    let area: *const u8 = field(task.0, offset!(task_stack_area));
    let pages: u32 = field(area, offset!(area_pages));
    if pages == 0 {
        return SYSCALL_UNKNOWN;
    }
    let stack: *const u8 = field(task.0, offset!(task_stack));
    let size = u64::from(pages) * u64::from(offset!(page_size));
    none_if_negative(read(stack.wrapping_add((size - u64::from(below)) as usize)))
}

/// Whether the event `sched_process_exit` says that it is about the last thread.
#[inline(always)]
pub(crate) fn event_group_dead(event: *const u8) -> bool {
    field::<u8>(event, offset!(event_group_dead)) != 0
}

impl Typed {
    /// `None` before Linux 5.15: 5.11 and later would do, but this is what user space looks for.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        if offset!(pt_regs_syscall) == NO_FIELD {
            return None;
        }
        // SAFETY: user space sets the offset only where the kernel has the helper.
        let task = unsafe { bpf_get_current_task_btf() } as *const u8;
        let signal = load(task, offset!(task_signal));
        Some(Self { task, signal })
    }

    /// As [`Process::live_threads`].
    #[inline(always)]
    pub(crate) fn live_threads(self) -> i32 {
        load(self.signal, offset!(signal_live))
    }

    /// As [`Process::wait_status`].
    #[inline(always)]
    pub(crate) fn wait_status(self) -> u32 {
        if load::<u32>(self.signal, offset!(signal_flags)) & SIGNAL_GROUP_EXIT != 0 {
            return load(self.signal, offset!(signal_group_exit_code));
        }
        let leader = load(self.task, offset!(task_group_leader));
        load(leader, offset!(task_exit_code))
    }

    /// The process's ID in the initial PID namespace.
    #[inline(always)]
    pub(crate) fn process_id(self) -> u32 {
        load(self.task, offset!(task_tgid))
    }
}

/// Reads a `T` at `base + offset`, which the verifier knows to be a field of that size.
#[inline(always)]
fn load<T: Plain>(base: *const u8, offset: u32) -> T {
    let address = base.wrapping_add(offset as usize).cast::<T>();
    // SAFETY: the verifier has checked type and field; where a pointer on the way is of something that
    // is gone, the kernel's own handler puts zeros in its place (`PROBE_MEM`).
    unsafe { ptr::read_volatile(address) }
}

impl Task {
    /// The one that runs.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: it takes nothing, and is allowed in tracing programs.
        Task(unsafe { bpf_get_current_task() } as *const u8)
    }

    #[inline(always)]
    pub(crate) fn leader(self) -> Task {
        Task(field(self.0, offset!(task_group_leader)))
    }

    #[inline(always)]
    pub(crate) fn parent(self) -> Task {
        Task(field(self.0, offset!(task_real_parent)))
    }

    #[inline(always)]
    pub(crate) fn process(self) -> Process {
        Process(field(self.0, offset!(task_signal)))
    }

    /// Nanoseconds on `CLOCK_BOOTTIME`. Never 0 but of the idle tasks, which neither end nor are
    /// sent signals.
    #[inline(always)]
    pub(crate) fn start_time(self) -> u64 {
        field(self.0, offset!(task_start_boottime))
    }

    #[inline(always)]
    pub(crate) fn comm(self) -> [u8; COMM_LEN] {
        field(self.0, offset!(task_comm))
    }

    /// The process ID in the initial PID namespace.
    #[inline(always)]
    pub(crate) fn host_process_id(self) -> u32 {
        field(self.0, offset!(task_tgid))
    }

    /// The process ID in the observer's PID namespace, 0 if it has none there.
    #[inline(always)]
    pub(crate) fn process_id(self) -> u32 {
        match observer() {
            0 => self.host_process_id(),
            observer => self.process().id_in(observer),
        }
    }

    /// The same where the ID in the initial PID namespace is known.
    #[inline(always)]
    pub(crate) fn process_id_of(self, host_pid: u32) -> u32 {
        match observer() {
            0 => host_pid,
            observer => self.process().id_in(observer),
        }
    }

    /// Whether a signal ended this thread, which is about to go.
    #[inline(always)]
    pub(crate) fn ended_by_signal(self) -> bool {
        field::<u32>(self.0, offset!(task_exit_code)) & 0x7f != 0
    }

    #[inline(always)]
    pub(crate) fn is_exiting(self) -> bool {
        optional::<u32>(self.0, offset!(task_flags), 0) & PF_EXITING != 0
    }

    /// The signal that this thread asked for at its parent's death; 0 for none.
    #[inline(always)]
    pub(crate) fn parent_death_signal(self) -> u32 {
        optional(self.0, offset!(task_pdeath_signal), 0)
    }

    /// Whether this thread is in seccomp's strict mode, or was ended by seccomp.
    #[inline(always)]
    pub(crate) fn is_seccomp_bound(self) -> bool {
        let mode: u32 = optional(self.0, offset!(task_seccomp_mode), 0);
        mode == SECCOMP_STRICT || mode == SECCOMP_DEAD
    }

    /// The ID of its cgroup in the v2 hierarchy, as `bpf_get_current_cgroup_id` tells it of the current
    /// task; 0 if the kernel has none.
    #[inline(always)]
    pub(crate) fn cgroup_id(self) -> u64 {
        optional(self.cgroup_node(), offset!(node_id), 0)
    }

    /// Where the kernel keeps the name of that; null if it has none.
    #[inline(always)]
    pub(crate) fn cgroup_node(self) -> *const u8 {
        let set: *const u8 = optional(self.0, offset!(task_cgroups), ptr::null());
        let cgroup: *const u8 = optional(set, offset!(css_set_cgroup), ptr::null());
        optional(cgroup, offset!(cgroup_node), ptr::null())
    }

    /// Whether a signal, from 1 to 64, has no handler and is not ignored. True where the kernel does
    /// not say.
    #[inline(always)]
    pub(crate) fn has_default_action(self, signal: u32) -> bool {
        let first = offset!(sighand_first);
        let actions: *const u8 = optional(self.0, offset!(task_sighand), ptr::null());
        let size = offset!(sighand_second).wrapping_sub(first);
        let place = first.wrapping_add(signal.wrapping_sub(1).wrapping_mul(size));
        field::<u64>(actions, place) == 0
    }

    /// Null if it has none any more.
    #[inline(always)]
    pub(crate) fn memory(self) -> Memory {
        Memory(optional(self.0, offset!(task_mm), ptr::null()))
    }

    /// What the process of this leader has used. `last` is its last thread: those that ended before
    /// are in `signal_struct` by now, but for the leader (`__exit_signal`, kernel/exit.c).
    #[inline(always)]
    pub(crate) fn usage(self, process: Process, last: Task) -> Usage {
        let mut usage = process.usage();
        // `signal_struct` also has the memory that the process had before its exec, which was its
        // parent's; but before 6.16 its own is gone by now.
        let resident = last.memory().max_resident_pages();
        if resident != 0 {
            usage.max_rss_pages = resident;
        }
        usage.add_thread(self);
        if last.0 != self.0 {
            usage.add_thread(last);
        }
        usage
    }
}

impl Process {
    /// The one at an address that was kept: whatever is there by now is read.
    #[inline(always)]
    pub(crate) fn at(address: u64) -> Self {
        Process(address as *const u8)
    }

    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// What a victim of the out-of-memory killer had when it was chosen; null for any other.
    #[inline(always)]
    pub(crate) fn memory_of_victim(self) -> Memory {
        Memory(optional(self.0, offset!(signal_oom_mm), ptr::null()))
    }

    /// Threads that have not begun to exit, as a thread sees it after its own beginning.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> i32 {
        field(self.0, offset!(signal_live))
    }

    /// Whether it goes on without the thread that ends: a parent-death signal comes then too, to
    /// the children that this thread has forked (`reparent_leader`, kernel/exit.c).
    #[inline(always)]
    pub(crate) fn lives_on(self) -> bool {
        self.live_threads() > 0 && !self.exits()
    }

    /// Threads that have not been released.
    #[inline(always)]
    pub(crate) fn threads(self) -> u32 {
        optional(self.0, offset!(signal_nr_threads), 0)
    }

    /// Whether the whole process is going.
    #[inline(always)]
    pub(crate) fn exits(self) -> bool {
        field::<u32>(self.0, offset!(signal_flags)) & SIGNAL_GROUP_EXIT != 0
    }

    /// What `wait` will return for the process, to which this thread belongs, as `wait_task_zombie`
    /// in kernel/exit.c computes it.
    #[inline(always)]
    pub(crate) fn wait_status(self, thread: Task) -> u32 {
        if self.exits() {
            field(self.0, offset!(signal_group_exit_code))
        } else {
            field(thread.leader().0, offset!(task_exit_code))
        }
    }

    #[inline(always)]
    fn id_in(self, observer: u32) -> u32 {
        let pid: *const u8 = field(self.0, offset!(signal_tgid_pid));
        let level: u32 = field(pid, offset!(pid_level));
        for depth in 0..=MAX_PID_NAMESPACE_LEVEL {
            if depth > level {
                break;
            }
            let upid = upid(pid, depth);
            let namespace: *const u8 = field(upid, offset!(upid_ns));
            if field::<u32>(namespace, offset!(pid_namespace_inum)) == observer {
                return field(upid, offset!(upid_nr));
            }
        }
        0
    }

    /// Whether it is PID 1 of a PID namespace other than the initial one.
    #[inline(always)]
    pub(crate) fn is_namespace_init(self) -> bool {
        let pid: *const u8 = field(self.0, offset!(signal_tgid_pid));
        let level: u32 = field(pid, offset!(pid_level));
        level != 0 && level <= MAX_PID_NAMESPACE_LEVEL && self.is_first()
    }

    /// Whether it is PID 1 of its own PID namespace, the initial one included.
    #[inline(always)]
    pub(crate) fn is_first(self) -> bool {
        let pid: *const u8 = field(self.0, offset!(signal_tgid_pid));
        let level: u32 = field(pid, offset!(pid_level));
        field::<u32>(upid(pid, level), offset!(upid_nr)) == 1
    }

    /// Its terminal; null if it has none.
    #[inline(always)]
    pub(crate) fn tty(self) -> *const u8 {
        optional(self.0, offset!(signal_tty), ptr::null())
    }

    /// Its session, by an address.
    #[inline(always)]
    pub(crate) fn session(self) -> u64 {
        field(self.0, offset!(signal_session_pid))
    }

    /// Whether its time on the CPU is limited, and it has no other limit that is told by the same
    /// signals (`check_rlimit`, kernel/time/posix-cpu-timers.c).
    #[inline(always)]
    pub(crate) fn has_cpu_limit(self) -> bool {
        let cpu: u64 = optional(self.0, offset!(signal_cpu_limit), RLIM_INFINITY);
        let real_time: u64 = optional(self.0, offset!(signal_real_time_limit), 0);
        cpu != RLIM_INFINITY && real_time == RLIM_INFINITY
    }

    /// Whether the out-of-memory killer has chosen it (`mark_oom_victim`, mm/oom_kill.c).
    #[inline(always)]
    pub(crate) fn is_oom_victim(self) -> bool {
        optional::<u64>(self.0, offset!(signal_oom_mm), 0) != 0
    }

    #[inline(always)]
    pub(crate) fn oom_score_adj(self) -> i32 {
        optional::<i16>(self.0, offset!(signal_oom_score_adj), 0).into()
    }

    /// Of the threads that have been released.
    #[inline(always)]
    fn usage(self) -> Usage {
        Usage {
            user_time_ns: optional(self.0, offset!(signal_utime), 0),
            system_time_ns: optional(self.0, offset!(signal_stime), 0),
            run_time_ns: optional(self.0, offset!(signal_sum_sched_runtime), 0),
            read_bytes: optional(self.0, offset!(signal_read_bytes), 0),
            written_bytes: optional(self.0, offset!(signal_write_bytes), 0),
            max_rss_pages: optional(self.0, offset!(signal_maxrss), 0),
        }
    }
}

/// The inode number of the PID namespace whose process IDs are told; 0 for the initial one.
#[inline(always)]
fn observer() -> u32 {
    // SAFETY: initialised read-only data, volatile for the reason given in `offset!`.
    unsafe { ptr::read_volatile(&raw const FILTER.pid_namespace) }
}

#[inline(always)]
fn upid(pid: *const u8, depth: u32) -> *const u8 {
    pid.wrapping_add(offset!(pid_numbers) as usize)
        .wrapping_add((depth * offset!(upid_size)) as usize)
}

/// A `struct mm_struct *`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) *const u8);

impl Memory {
    /// To be compared, and never told.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub(crate) fn is_none(self) -> bool {
        self.0.is_null()
    }

    #[inline(always)]
    pub(crate) fn total_vm_pages(self) -> u64 {
        optional(self.0, offset!(mm_total_vm), 0)
    }

    #[inline(always)]
    pub(crate) fn anon_pages(self) -> u64 {
        self.count(offset!(mm_anon_pages))
    }

    /// The most that was resident at any time, by `hiwater_rss` and `get_mm_rss` (linux/mm.h).
    /// 0 without memory.
    #[inline(always)]
    pub(crate) fn max_resident_pages(self) -> u64 {
        if self.is_none() {
            return 0;
        }
        let before: u64 = optional(self.0, offset!(mm_hiwater_rss), 0);
        let now = self.count(offset!(mm_file_pages))
            + self.anon_pages()
            + self.count(offset!(mm_shmem_pages));
        if before > now { before } else { now }
    }

    /// Of pages. It may be below zero for a moment.
    #[inline(always)]
    fn count(self, offset: u32) -> u64 {
        let pages: i64 = optional(self.0, offset, 0);
        if pages < 0 { 0 } else { pages as u64 }
    }
}

/// What a process has used, in the units of [`ExitRecord`](monitor_ebpf::ExitRecord).
pub(crate) struct Usage {
    pub(crate) user_time_ns: u64,
    pub(crate) system_time_ns: u64,
    pub(crate) run_time_ns: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) max_rss_pages: u64,
}

impl Usage {
    /// Whether the kernel counts bytes read and written.
    #[inline(always)]
    pub(crate) fn counts_bytes() -> bool {
        offset!(signal_read_bytes) != NO_FIELD
    }

    #[inline(always)]
    fn add_thread(&mut self, thread: Task) {
        self.user_time_ns += optional::<u64>(thread.0, offset!(task_utime), 0);
        self.system_time_ns += optional::<u64>(thread.0, offset!(task_stime), 0);
        self.run_time_ns += optional::<u64>(thread.0, offset!(task_sum_exec_runtime), 0);
        self.read_bytes += optional::<u64>(thread.0, offset!(task_read_bytes), 0);
        self.written_bytes += optional::<u64>(thread.0, offset!(task_write_bytes), 0);
    }
}

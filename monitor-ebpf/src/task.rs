//! Reads of the kernel's task structures, at the offsets that user space found in its BTF.

use core::ptr;

use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs};
use monitor_ebpf::{COMM_LEN, MAX_PID_NAMESPACE_LEVEL, NO_FIELD};

use crate::object::{FILTER, OFFSETS};

/// A `struct task_struct *`.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const u8);

/// Why a read failed: the helper's negative errno.
pub(crate) type Result<T> = core::result::Result<T, i32>;

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
        unsafe { ptr::read_volatile(&raw const OFFSETS.$field) }
    };
}

/// Reads a `T` of kernel memory.
#[inline(always)]
pub(crate) fn read<T>(address: *const u8) -> Result<T> {
    // SAFETY: the helper checks the address itself and fails with -EFAULT.
    unsafe { bpf_probe_read_kernel(address.cast::<T>()) }
}

/// Reads a `T` at `base + offset` of kernel memory.
#[inline(always)]
fn field<T>(base: *const u8, offset: u32) -> Result<T> {
    read(base.wrapping_add(offset as usize))
}

/// The same of a field that the kernel may lack: 0 then.
#[inline(always)]
fn optional<T: Default>(base: *const u8, offset: u32) -> T {
    if offset == NO_FIELD {
        return T::default();
    }
    field(base, offset).unwrap_or_default()
}

/// The number of the system call that the current task is in, -1 if that is not known.
#[inline(always)]
pub(crate) fn syscall_number() -> i32 {
    let offset = offset!(pt_regs_syscall);
    if offset == NO_FIELD {
        return -1;
    }
    // SAFETY: user space sets the offset only where the kernel has both helpers.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    field(registers as *const u8, offset).unwrap_or(-1)
}

impl Task {
    /// Threads that have not begun to exit, as this thread sees it after its own beginning.
    pub(crate) fn live_threads(self) -> Result<i32> {
        field(self.signal()?, offset!(signal_live))
    }

    pub(crate) fn leader(self) -> Result<Task> {
        field(self.0, offset!(task_group_leader)).map(Task)
    }

    pub(crate) fn parent(self) -> Result<Task> {
        field(self.0, offset!(task_real_parent)).map(Task)
    }

    /// Nanoseconds on `CLOCK_BOOTTIME`.
    pub(crate) fn start_time(self) -> Result<u64> {
        field(self.0, offset!(task_start_boottime))
    }

    pub(crate) fn comm(self) -> Result<[u8; COMM_LEN]> {
        field(self.0, offset!(task_comm))
    }

    /// What `wait` will return for the process of this leader, as `wait_task_zombie` in
    /// kernel/exit.c computes it.
    pub(crate) fn wait_status(self) -> Result<u32> {
        let signal = self.signal()?;
        let flags: u32 = field(signal, offset!(signal_flags))?;
        if flags & SIGNAL_GROUP_EXIT != 0 {
            field(signal, offset!(signal_group_exit_code))
        } else {
            field(self.0, offset!(task_exit_code))
        }
    }

    /// The process ID in the initial PID namespace.
    pub(crate) fn host_process_id(self) -> Result<u32> {
        field(self.0, offset!(task_tgid))
    }

    /// The process ID in the observer's PID namespace, 0 if it has none there.
    #[inline(always)]
    pub(crate) fn process_id(self) -> Result<u32> {
        match observer() {
            0 => self.host_process_id(),
            observer => self.process_id_in(observer),
        }
    }

    /// The same where the ID in the initial PID namespace is known.
    #[inline(always)]
    pub(crate) fn process_id_of(self, host_pid: u32) -> Result<u32> {
        match observer() {
            0 => Ok(host_pid),
            observer => self.process_id_in(observer),
        }
    }

    fn process_id_in(self, observer: u32) -> Result<u32> {
        let pid: *const u8 = field(self.signal()?, offset!(signal_tgid_pid))?;
        let level: u32 = field(pid, offset!(pid_level))?;
        for depth in 0..=MAX_PID_NAMESPACE_LEVEL {
            if depth > level {
                break;
            }
            let upid = upid(pid, depth);
            let namespace: *const u8 = field(upid, offset!(upid_ns))?;
            if field::<u32>(namespace, offset!(pid_namespace_inum))? == observer {
                return field(upid, offset!(upid_nr));
            }
        }
        Ok(0)
    }

    /// Whether it is PID 1 of a PID namespace other than the initial one.
    #[inline(always)]
    pub(crate) fn is_namespace_init(self) -> Result<bool> {
        let pid: *const u8 = field(self.signal()?, offset!(signal_tgid_pid))?;
        let level: u32 = field(pid, offset!(pid_level))?;
        if level == 0 || level > MAX_PID_NAMESPACE_LEVEL {
            return Ok(false);
        }
        Ok(field::<u32>(upid(pid, level), offset!(upid_nr))? == 1)
    }

    /// Its session, by an address.
    #[inline(always)]
    pub(crate) fn session(self) -> Result<u64> {
        field(self.signal()?, offset!(signal_session_pid))
    }

    #[inline(always)]
    pub(crate) fn is_exiting(self) -> bool {
        optional::<u32>(self.0, offset!(task_flags)) & PF_EXITING != 0
    }

    /// The signal that this thread asked for at its parent's death; 0 for none.
    #[inline(always)]
    pub(crate) fn parent_death_signal(self) -> u32 {
        optional(self.0, offset!(task_pdeath_signal))
    }

    /// Whether its time on the CPU is limited, and it has no other limit that is told by the same
    /// signals (`check_rlimit`, kernel/time/posix-cpu-timers.c).
    #[inline(always)]
    pub(crate) fn has_cpu_limit(self) -> bool {
        self.has_limit(offset!(signal_cpu_limit)) == Some(true)
            && self.has_limit(offset!(signal_real_time_limit)) == Some(false)
    }

    #[inline(always)]
    fn has_limit(self, offset: u32) -> Option<bool> {
        if offset == NO_FIELD {
            return None;
        }
        let limit: u64 = field(self.signal().ok()?, offset).ok()?;
        Some(limit != RLIM_INFINITY)
    }

    /// Whether this thread is in seccomp's strict mode, or was ended by seccomp.
    #[inline(always)]
    pub(crate) fn is_seccomp_bound(self) -> bool {
        let mode: u32 = optional(self.0, offset!(task_seccomp_mode));
        mode == SECCOMP_STRICT || mode == SECCOMP_DEAD
    }

    /// Whether the whole process is going.
    #[inline(always)]
    pub(crate) fn group_exits(self) -> Result<bool> {
        let flags: u32 = field(self.signal()?, offset!(signal_flags))?;
        Ok(flags & SIGNAL_GROUP_EXIT != 0)
    }

    /// Threads that have not been released.
    #[inline(always)]
    pub(crate) fn threads(self) -> Result<u32> {
        Ok(optional(self.signal()?, offset!(signal_nr_threads)))
    }

    /// Whether the out-of-memory killer has chosen it (`mark_oom_victim`, mm/oom_kill.c).
    #[inline(always)]
    pub(crate) fn is_oom_victim(self) -> Result<bool> {
        Ok(optional::<u64>(self.signal()?, offset!(signal_oom_mm)) != 0)
    }

    #[inline(always)]
    pub(crate) fn oom_score_adj(self) -> Result<i32> {
        Ok(optional::<i16>(self.signal()?, offset!(signal_oom_score_adj)).into())
    }

    #[inline(always)]
    pub(crate) fn memory(self) -> Result<Memory> {
        field(self.0, offset!(task_mm)).map(Memory)
    }

    /// What the process of this leader has used. `last` is its last thread: those that ended before
    /// are in `signal_struct` by now, but for the leader (`__exit_signal`, kernel/exit.c).
    #[inline(always)]
    pub(crate) fn usage(self, last: Task) -> Result<Usage> {
        let signal = self.signal()?;
        let mut usage = Usage {
            user_time_ns: optional(signal, offset!(signal_utime)),
            system_time_ns: optional(signal, offset!(signal_stime)),
            run_time_ns: optional(signal, offset!(signal_sum_sched_runtime)),
            read_bytes: optional(signal, offset!(signal_read_bytes)),
            written_bytes: optional(signal, offset!(signal_write_bytes)),
            max_rss_pages: 0,
        };
        // `signal_struct` also has the memory that the process had before its exec, which was its
        // parent's; but before 6.16 its own is gone by now.
        usage.max_rss_pages = match last.memory()?.max_resident_pages() {
            0 => optional(signal, offset!(signal_maxrss)),
            pages => pages,
        };
        usage.add_thread(self);
        if last.0 != self.0 {
            usage.add_thread(last);
        }
        Ok(usage)
    }

    fn signal(self) -> Result<*const u8> {
        field(self.0, offset!(task_signal))
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
#[derive(Clone, Copy)]
pub(crate) struct Memory(*const u8);

impl Memory {
    #[inline(always)]
    pub(crate) fn total_vm_pages(self) -> u64 {
        optional(self.0, offset!(mm_total_vm))
    }

    #[inline(always)]
    pub(crate) fn anon_pages(self) -> u64 {
        self.count(offset!(mm_anon_pages))
    }

    /// The most that was resident at any time, by `hiwater_rss` and `get_mm_rss` (linux/mm.h).
    /// 0 without memory.
    #[inline(always)]
    pub(crate) fn max_resident_pages(self) -> u64 {
        if self.0.is_null() {
            return 0;
        }
        let before: u64 = optional(self.0, offset!(mm_hiwater_rss));
        let now = self.count(offset!(mm_file_pages))
            + self.anon_pages()
            + self.count(offset!(mm_shmem_pages));
        if before > now { before } else { now }
    }

    /// Of pages. It may be below zero for a moment.
    #[inline(always)]
    fn count(self, offset: u32) -> u64 {
        let pages: i64 = optional(self.0, offset);
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
        self.user_time_ns += optional::<u64>(thread.0, offset!(task_utime));
        self.system_time_ns += optional::<u64>(thread.0, offset!(task_stime));
        self.run_time_ns += optional::<u64>(thread.0, offset!(task_sum_exec_runtime));
        self.read_bytes += optional::<u64>(thread.0, offset!(task_read_bytes));
        self.written_bytes += optional::<u64>(thread.0, offset!(task_write_bytes));
    }
}

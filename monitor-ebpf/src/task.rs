//! Reads of the kernel's task structures, at the offsets that user space found in its BTF.

use core::ptr;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use monitor_ebpf::{COMM_LEN, MAX_PID_NAMESPACE_LEVEL, Offsets};

use crate::object::{FILTER, OFFSETS};

/// A `struct task_struct *`.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const u8);

/// Why a read failed: the helper's negative errno.
pub(crate) type Result<T> = core::result::Result<T, i32>;

/// `SIGNAL_GROUP_EXIT`, include/linux/sched/signal.h: the group's exit code is set.
const SIGNAL_GROUP_EXIT: u32 = 4;

fn offsets() -> Offsets {
    // SAFETY: `OFFSETS` is initialised read-only data. Volatile, because user space rewrites it in
    // the object before it is loaded, which the compiler must not see as constant zeros.
    unsafe { ptr::read_volatile(&raw const OFFSETS) }
}

/// Reads a `T` at `base + offset` of kernel memory.
fn field<T>(base: *const u8, offset: u32) -> Result<T> {
    // SAFETY: the helper checks the address itself and fails with -EFAULT.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }
}

impl Task {
    /// Threads that have not begun to exit, as this thread sees it after its own beginning.
    pub(crate) fn live_threads(self) -> Result<i32> {
        field(self.signal()?, offsets().signal_live)
    }

    pub(crate) fn leader(self) -> Result<Task> {
        field(self.0, offsets().task_group_leader).map(Task)
    }

    pub(crate) fn parent(self) -> Result<Task> {
        field(self.0, offsets().task_real_parent).map(Task)
    }

    /// Nanoseconds on `CLOCK_BOOTTIME`.
    pub(crate) fn start_time(self) -> Result<u64> {
        field(self.0, offsets().task_start_boottime)
    }

    pub(crate) fn comm(self) -> Result<[u8; COMM_LEN]> {
        field(self.0, offsets().task_comm)
    }

    /// What `wait` will return for the process of this leader, as `wait_task_zombie` in
    /// kernel/exit.c computes it.
    pub(crate) fn wait_status(self) -> Result<u32> {
        let signal = self.signal()?;
        let flags: u32 = field(signal, offsets().signal_flags)?;
        if flags & SIGNAL_GROUP_EXIT != 0 {
            field(signal, offsets().signal_group_exit_code)
        } else {
            field(self.0, offsets().task_exit_code)
        }
    }

    /// The process ID in the initial PID namespace.
    pub(crate) fn host_process_id(self) -> Result<u32> {
        field(self.0, offsets().task_tgid)
    }

    /// The process ID in the observer's PID namespace, 0 if it has none there.
    pub(crate) fn process_id(self) -> Result<u32> {
        // SAFETY: initialised read-only data, volatile for the reason given in `offsets`.
        let observer = unsafe { ptr::read_volatile(&raw const FILTER.pid_namespace) };
        if observer == 0 {
            return self.host_process_id();
        }
        let offsets = offsets();
        let pid: *const u8 = field(self.signal()?, offsets.signal_tgid_pid)?;
        let level: u32 = field(pid, offsets.pid_level)?;
        for depth in 0..=MAX_PID_NAMESPACE_LEVEL {
            if depth > level {
                break;
            }
            let upid = pid
                .wrapping_add(offsets.pid_numbers as usize)
                .wrapping_add((depth * offsets.upid_size) as usize);
            let namespace: *const u8 = field(upid, offsets.upid_ns)?;
            if field::<u32>(namespace, offsets.pid_namespace_inum)? == observer {
                return field(upid, offsets.upid_nr);
            }
        }
        Ok(0)
    }

    fn signal(self) -> Result<*const u8> {
        field(self.0, offsets().task_signal)
    }
}

//! Which process the current one is, beside its numbers: its program, arguments, cgroup, ancestors
//! and login. Written for a recorder alone, and only of deaths that are kept and of senders of signals.
//!
//! Names are written from the innermost outwards, as the kernel links them; user space turns them
//! round.

use core::{arch::asm, ptr};

use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user,
};
use monitor_ebpf::{
    ANCESTORS, ARGV_BYTES, CGROUP_BYTES, CUT_CGROUP, CUT_EXE, Details, EXE_BYTES, NO_FIELD,
    SenderKey, TTY_BYTES,
};

use crate::{
    object::SENDERS,
    task::{Memory, Task, field, offset, optional},
};

/// A name longer than this is cut.
const NAME_BYTES: u32 = 256;

/// So many cgroups above each other are named.
const MOST_CGROUPS: u32 = 16;

/// So many directories above each other are named, mount points counted too.
const MOST_DIRECTORIES: u32 = 24;

/// Nobody has logged in (`INVALID_UID`, include/linux/uidgid.h).
const NO_LOGIN: u32 = u32::MAX;

static EMPTY: Details = Details::NONE;

/// Writes what there is of the current process, whose `thread` runs.
///
/// # Safety
/// `to` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn write(to: *mut Details, thread: Task) {
    let leader = thread.leader();
    let memory = thread.memory();
    let login_uid = optional(leader.0, offset!(task_login_uid), NO_LOGIN);
    let login_session = optional(leader.0, offset!(task_login_session), NO_LOGIN);
    // A name that begins near the end of its room goes on in what comes after that, which is written
    // later: hence the order.
    // SAFETY: the caller's promise.
    unsafe {
        let (cgroup_len, cut_cgroup) = write_cgroup((&raw mut (*to).cgroup).cast(), thread);
        let (exe_len, cut_exe) = write_exe((&raw mut (*to).exe).cast(), memory);
        (*to).argv_len = write_argv((&raw mut (*to).argv).cast(), memory);
        write_ancestors(to, leader);
        write_tty((&raw mut (*to).tty).cast(), leader);
        (*to).memory = memory.address();
        (*to).login_uid = login_uid;
        (*to).login_session = login_session;
        (*to).cgroup_len = cgroup_len;
        (*to).exe_len = exe_len;
        (*to).cut = cut_cgroup | cut_exe;
    }
}

/// All ones, or 0 for 0. The compiler would make a branch of it, and the verifier goes through what
/// comes after each branch of a loop twice.
#[inline(always)]
fn ones_unless_zero(value: u64) -> u64 {
    ones_if_negative(value | value.wrapping_neg())
}

/// All ones, or 0 for what is not negative.
#[inline(always)]
fn ones_if_negative(mut value: u64) -> u64 {
    // SAFETY: it changes one register.
    unsafe { asm!("{0} s>>= 63", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

#[inline(always)]
fn masked(pointer: *const u8, mask: u64) -> *const u8 {
    (pointer as u64 & mask) as *const u8
}

/// Names that are written one after the other, each with its NUL.
struct Names<const SIZE: u64> {
    /// There are `SIZE + NAME_BYTES` bytes.
    room: *mut u8,
    /// Where the next one begins.
    at: u64,
}

impl<const SIZE: u64> Names<SIZE> {
    /// All ones while one more may begin.
    #[inline(always)]
    fn has_room(&self) -> u64 {
        ones_if_negative(self.at.wrapping_sub(SIZE))
    }

    /// Appends a name; nothing for null, or one that cannot be read.
    ///
    /// # Safety
    /// There is room.
    #[inline(always)]
    unsafe fn append(&mut self, name: *const u8) {
        // For the verifier.
        let at = self.at & (SIZE - 1);
        // SAFETY: the caller's promise; the helper checks `name` itself.
        let read = unsafe {
            bpf_probe_read_kernel_str(self.room.add(at as usize).cast(), NAME_BYTES, name.cast())
        };
        let read = read as u64;
        self.at += read & !ones_if_negative(read);
    }

    /// How many bytes there are, and `cut` if there are more names.
    #[inline(always)]
    fn end(self, next: *const u8, cut: u32) -> (u32, u32) {
        let fits = self.has_room();
        let length = self.at & fits | SIZE & !fits;
        (length as u32, cut & ones_unless_zero(next as u64) as u32)
    }
}

/// Returns how many bytes it took, and whether names are missing.
///
/// # Safety
/// `room` is valid for writes of `CGROUP_BYTES + NAME_BYTES` bytes.
#[inline(always)]
unsafe fn write_cgroup(room: *mut u8, task: Task) -> (u32, u32) {
    let mut node = task.cgroup_node();
    if node.is_null() || offset!(node_name) == NO_FIELD || offset!(node_parent) == NO_FIELD {
        return (0, CUT_CGROUP);
    }
    let mut names = Names::<{ CGROUP_BYTES as u64 }> { room, at: 0 };
    for _ in 0..MOST_CGROUPS {
        if node as u64 & names.has_room() == 0 {
            break;
        }
        let parent: *const u8 = field(node, offset!(node_parent));
        // The root's name is empty.
        let name = masked(
            field(node, offset!(node_name)),
            ones_unless_zero(parent as u64),
        );
        // SAFETY: the caller's promise.
        unsafe { names.append(name) };
        node = parent;
    }
    names.end(node, CUT_CGROUP)
}

/// As `d_path` goes (fs/d_path.c), to the root of the mount namespace.
///
/// # Safety
/// `room` is valid for writes of `EXE_BYTES + NAME_BYTES` bytes.
#[inline(always)]
unsafe fn write_exe(room: *mut u8, memory: Memory) -> (u32, u32) {
    let file: *const u8 = optional(memory.0, offset!(mm_exe_file), ptr::null());
    let mut entry: *const u8 = optional(file, offset!(file_dentry), ptr::null());
    let mut mount: *const u8 = optional(file, offset!(file_mount), ptr::null());
    if entry.is_null() || offset!(dentry_name) == NO_FIELD || offset!(mount_point) == NO_FIELD {
        return (0, CUT_EXE);
    }
    let mut names = Names::<{ EXE_BYTES as u64 }> { room, at: 0 };
    for _ in 0..MOST_DIRECTORIES {
        if entry as u64 & names.has_room() == 0 {
            break;
        }
        let root: *const u8 = field(mount, offset!(vfsmount_root));
        let parent: *const u8 = field(entry, offset!(dentry_parent));
        let own = mount.wrapping_sub(offset!(mount_vfsmount) as usize);
        let above: *const u8 = field(own, offset!(mount_parent));
        let point: *const u8 = field(own, offset!(mount_point));
        let name: *const u8 = field(entry, offset!(dentry_name));
        // At the root of a file system it goes on where that is mounted, if it is.
        let within = ones_unless_zero(entry as u64 ^ root as u64);
        let has_above = ones_unless_zero(above as u64 ^ own as u64);
        // A file in memory is in no directory.
        let has_parent = ones_unless_zero(parent as u64 ^ entry as u64);
        // SAFETY: the caller's promise.
        unsafe { names.append(masked(name, within)) };
        let outside = point as u64 & has_above & !within;
        entry = (parent as u64 & has_parent & within | outside) as *const u8;
        let above = above.wrapping_add(offset!(mount_vfsmount) as usize);
        mount = (mount as u64 & within | above as u64 & !within) as *const u8;
    }
    names.end(entry, CUT_EXE)
}

/// Returns how many bytes the arguments have all told, 0 if they cannot be read.
///
/// # Safety
/// `room` is valid for writes of `ARGV_BYTES` bytes.
#[inline(always)]
unsafe fn write_argv(room: *mut u8, memory: Memory) -> u32 {
    let start: u64 = optional(memory.0, offset!(mm_arg_start), 0);
    let end: u64 = optional(memory.0, offset!(mm_arg_end), 0);
    let all = end.wrapping_sub(start);
    let some = if all > ARGV_BYTES as u64 {
        ARGV_BYTES as u64
    } else {
        all
    };
    // SAFETY: the caller's promise; the helper checks the address itself, and does not wait for a page.
    let failed = unsafe { bpf_probe_read_user(room.cast(), some as u32, start as *const _) };
    if failed != 0 { 0 } else { all as u32 }
}

/// # Safety
/// `to` is valid for writes.
#[inline(always)]
unsafe fn write_ancestors(to: *mut Details, leader: Task) {
    let mut task = leader;
    for index in 0..ANCESTORS {
        task = task.parent().leader();
        // SAFETY: the caller's promise.
        unsafe {
            (*to).ancestor_pids[index] = task.host_process_id();
            (*to).ancestor_comms[index] = task.comm();
        }
    }
}

/// # Safety
/// `room` is valid for writes of `TTY_BYTES` bytes.
#[inline(always)]
unsafe fn write_tty(room: *mut u8, leader: Task) {
    let tty = leader.process().tty();
    // What cannot be read is empty (`bpf_probe_read_kernel_str_common`, kernel/trace/bpf_trace.c).
    let name = tty.wrapping_add(offset!(tty_name) as usize);
    // SAFETY: the caller's promise; the helper checks the address itself.
    unsafe { bpf_probe_read_kernel_str(room.cast(), TTY_BYTES as u32, name.cast()) };
}

/// Keeps who the current process is, as it sends a signal. Once for each program that it runs.
#[inline(always)]
pub(crate) fn keep_sender(thread: Task, start_time_ns: u64, host_pid: u32) {
    let key = SenderKey {
        start_time_ns,
        host_pid: host_pid.into(),
    };
    if let Some(known) = SENDERS.get_ptr(&key)
        // SAFETY: the map returned it.
        && unsafe { (*known).memory } == thread.memory().address()
    {
        return;
    }
    if SENDERS.insert(&key, &EMPTY, 0).is_err() {
        return;
    }
    if let Some(to) = SENDERS.get_ptr_mut(&key) {
        // SAFETY: the map returned it. Two threads of one process may write the same at once.
        unsafe { write(to, thread) };
    }
}

/// Copies what is kept of a sender, or nobody.
///
/// # Safety
/// `to` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn copy_sender(to: *mut Details, start_time_ns: u64, host_pid: u32) {
    let key = SenderKey {
        start_time_ns,
        host_pid: host_pid.into(),
    };
    let from = SENDERS.get_ptr(&key).unwrap_or(&raw const EMPTY);
    // SAFETY: the caller's promise; both are as large as this.
    unsafe { bpf_probe_read_kernel(to.cast(), size_of::<Details>() as u32, from.cast()) };
}

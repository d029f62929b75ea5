//! Raw system calls for the moment between clone and exec, and the clone itself.
//!
//! A child that shares the agent's memory also shares its thread-local `errno` and its heap, so
//! nothing here goes through the C library, allocates, locks or panics. glibc's `setuid` and
//! friends are out for another reason: they signal every thread that glibc knows of, and those
//! are the agent's.

use std::arch::asm;
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::AtomicU32;

/// A kernel error number, positive.
pub(super) type Errno = i32;

/// `struct clone_args`, as of Linux 5.7.
/// <https://github.com/torvalds/linux/blob/v5.10/include/uapi/linux/sched.h>
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct CloneArgs {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    pub(super) cgroup: u64,
}

/// What a cloned process runs. It must not return, and must not unwind.
pub(super) type EntryPoint = extern "C" fn(*const c_void) -> !;

/// A limit as `prlimit64` takes it; `u64::MAX` is unlimited.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit64 {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// The kernel's `struct sigaction` (not the C library's), zeroed: SIG_DFL, no flags, empty mask.
/// Its members differ in order between architectures; its size does not.
#[repr(C)]
struct DefaultAction([u64; 4]);

/// The bytes of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;

/// # Safety
/// As for the system call of that number with these arguments.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn invoke(number: c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the register convention of the x86-64 kernel: number in rax, arguments in these
    // six, rcx and r11 lost, the stack untouched. The call's own effects are the caller's.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack, preserves_flags)
        );
    }
    result
}

/// # Safety
/// As for the system call of that number with these arguments.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn invoke(number: c_long, args: [usize; 6]) -> isize {
    let result: usize;
    // SAFETY: the register convention of the arm64 kernel: number in x8, arguments in x0 to x5,
    // all but x0 kept, the stack untouched. The call's own effects are the caller's.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack, preserves_flags)
        );
    }
    result.cast_signed()
}

/// # Safety
/// The arguments are those of `clone` or `clone3`: a stack that nobody else uses, CLONE_VM, and
/// whatever the child reads and writes stays valid until it has left this memory.
#[cfg(target_arch = "x86_64")]
unsafe fn invoke_clone(
    number: c_long,
    args: [usize; 5],
    entry: EntryPoint,
    argument: *const c_void,
) -> isize {
    let result: isize;
    // SAFETY: in the parent this is one system call. In the child, which starts behind it with
    // the same registers and its own 16-byte aligned stack, `entry` is called as the C ABI wants
    // it and never comes back, so no frame of the parent is seen twice.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// # Safety
/// The arguments are those of `clone` or `clone3`: a stack that nobody else uses, CLONE_VM, and
/// whatever the child reads and writes stays valid until it has left this memory.
#[cfg(target_arch = "aarch64")]
unsafe fn invoke_clone(
    number: c_long,
    args: [usize; 5],
    entry: EntryPoint,
    argument: *const c_void,
) -> isize {
    let result: usize;
    // SAFETY: in the parent this is one system call. In the child, which starts behind it with
    // the same registers and its own 16-byte aligned stack, `entry` is called as the C ABI wants
    // it and never comes back, so no frame of the parent is seen twice.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x10",
            "blr x11",
            "brk #1",
            "2:",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x10") argument,
            in("x11") entry,
            options(nostack)
        );
    }
    result.cast_signed()
}

fn outcome(result: isize) -> Result<usize, Errno> {
    if result < 0 {
        Err(Errno::try_from(-result).unwrap_or(libc::EINVAL))
    } else {
        Ok(result.cast_unsigned())
    }
}

/// # Safety
/// As for the system call of that number with these arguments.
#[inline(always)]
unsafe fn call(number: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller's promise, passed on.
    outcome(unsafe { invoke(number, args) })
}

/// The register that holds a C `int`.
fn word(value: c_int) -> usize {
    (value as isize).cast_unsigned()
}

/// Whether the kernel (and a seccomp filter before it) lets `clone3` be called at all.
///
/// An argument size of 0 is refused with EINVAL before anything is read.
/// `copy_clone_args_from_user` in <https://github.com/torvalds/linux/blob/v5.10/kernel/fork.c>
pub(super) fn has_clone3() -> bool {
    // SAFETY: with a size of 0 the kernel reads no argument and makes no process.
    let result = unsafe { call(libc::SYS_clone3, [0; 6]) };
    result == Err(libc::EINVAL)
}

/// Whether `close_range` (Linux 5.9) can be called.
pub(super) fn has_close_range() -> bool {
    let last = u32::MAX as usize;
    // SAFETY: no process can have a file descriptor of that number, so nothing is closed.
    unsafe { call(libc::SYS_close_range, [last, last, 0, 0, 0, 0]) }.is_ok()
}

/// Makes a process by `clone3`; returns its pid to the parent.
///
/// # Safety
/// `args` names CLONE_VM, a stack that nobody else uses, and words that stay valid, as does all
/// that `argument` leads to, until the child has left this memory (by exec or exit).
pub(super) unsafe fn clone3(
    args: &CloneArgs,
    entry: EntryPoint,
    argument: *const c_void,
) -> Result<usize, Errno> {
    let words = [
        ptr::from_ref(args) as usize,
        size_of::<CloneArgs>(),
        0,
        0,
        0,
    ];
    // SAFETY: `args` is a valid structure of that size; the rest is the caller's promise.
    outcome(unsafe { invoke_clone(libc::SYS_clone3, words, entry, argument) })
}

/// The same by the older `clone`, which knows no cgroup and no flag beyond 32 bits.
///
/// # Safety
/// As for [`clone3`].
pub(super) unsafe fn clone(
    args: &CloneArgs,
    entry: EntryPoint,
    argument: *const c_void,
) -> Result<usize, Errno> {
    let register = |value: u64| usize::try_from(value).unwrap_or(0);
    let flags = register((args.flags & u64::from(u32::MAX)) | args.exit_signal);
    let stack = register(args.stack + args.stack_size);
    // CLONE_PIDFD puts the pidfd where CLONE_PARENT_SETTID would put the pid.
    // `copy_process` in https://github.com/torvalds/linux/blob/v5.10/kernel/fork.c
    let pidfd = register(args.pidfd);
    let child_tid = register(args.child_tid);
    // The last two arguments are the other way round on arm64 (CONFIG_CLONE_BACKWARDS).
    // The same file, above its `SYSCALL_DEFINE5(clone)`.
    let words = if cfg!(target_arch = "aarch64") {
        [flags, stack, pidfd, 0, child_tid]
    } else {
        [flags, stack, pidfd, child_tid, 0]
    };
    // SAFETY: the caller's promise, passed on.
    outcome(unsafe { invoke_clone(libc::SYS_clone, words, entry, argument) })
}

/// Waits while the word has this value, at most so long; may come back for no reason.
///
/// Not FUTEX_PRIVATE_FLAG: the kernel, which clears a word when a child leaves the memory, wakes
/// through the shared kind.
/// `mm_release` in <https://github.com/torvalds/linux/blob/v5.10/kernel/fork.c>
pub(super) fn wait_while(address: &AtomicU32, value: u32, milliseconds: u32) {
    let timeout = libc::timespec {
        tv_sec: i64::from(milliseconds / 1000),
        tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
    };
    let args = [
        address.as_ptr() as usize,
        word(libc::FUTEX_WAIT),
        value as usize,
        ptr::from_ref(&timeout) as usize,
        0,
        0,
    ];
    // Woken, timed out or changed before: the word alone tells.
    // SAFETY: word and timeout outlive the call; a FUTEX_WAIT writes to neither.
    let _ = unsafe { call(libc::SYS_futex, args) };
}

/// Wakes the one who waits in [`wait_while`].
pub(super) fn wake(address: &AtomicU32) {
    let args = [
        address.as_ptr() as usize,
        word(libc::FUTEX_WAKE),
        1,
        0,
        0,
        0,
    ];
    // SAFETY: a FUTEX_WAKE takes the address as a name only.
    let _ = unsafe { call(libc::SYS_futex, args) };
}

/// Has the kernel send the caller this signal when the thread that made it ends; 0: none.
pub(super) fn set_parent_death_signal(signal: c_int) -> Result<(), Errno> {
    let args = [word(libc::PR_SET_PDEATHSIG), word(signal), 0, 0, 0, 0];
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_prctl, args) }.map(drop)
}

/// `getppid`: the parent as the caller's PID namespace has it; 0 if it is outside of that.
pub(super) fn parent() -> u32 {
    // SAFETY: touches no memory.
    let parent = unsafe { call(libc::SYS_getppid, [0; 6]) };
    parent.map_or(0, |pid| u32::try_from(pid).unwrap_or(0))
}

/// `getpid`: the caller as its own PID namespace has it.
pub(super) fn process_id() -> u32 {
    // SAFETY: touches no memory.
    let pid = unsafe { call(libc::SYS_getpid, [0; 6]) };
    pid.map_or(0, |pid| u32::try_from(pid).unwrap_or(0))
}

/// Replaces the calling thread's signal mask (bit n−1 is signal n); returns the old one.
///
/// Unlike the C library's, it leaves out no signal.
pub(super) fn set_signal_mask(mask: u64) -> u64 {
    let mut old = 0_u64;
    // SAFETY: both pointers lead to eight bytes, the size that is passed.
    let result = unsafe {
        call(
            libc::SYS_rt_sigprocmask,
            [
                word(libc::SIG_SETMASK),
                ptr::from_ref(&mask) as usize,
                ptr::from_mut(&mut old) as usize,
                SIGNAL_SET_BYTES,
                0,
                0,
            ],
        )
    };
    // It cannot fail with a valid `how`, size and pointers.
    debug_assert!(result.is_ok());
    old
}

/// Sets every signal to its default, the ignored ones too (which CLONE_CLEAR_SIGHAND leaves).
/// `flush_signal_handlers` in <https://github.com/torvalds/linux/blob/v5.10/kernel/signal.c>
pub(super) fn default_dispositions(signals: u64) {
    let action = DefaultAction([0; 4]);
    for signal in (1..=64).filter(|signal| signals >> (signal - 1) & 1 != 0) {
        // SAFETY: the structure is as large as the kernel's; no old one is asked for. SIGKILL
        // and SIGSTOP are refused, and are as wanted.
        let _ = unsafe {
            call(
                libc::SYS_rt_sigaction,
                [
                    word(signal),
                    ptr::from_ref(&action) as usize,
                    0,
                    SIGNAL_SET_BYTES,
                    0,
                    0,
                ],
            )
        };
    }
}

/// Gives the caller a file table of its own, with nothing above `last` in it where the kernel
/// can do that in one go (5.9), else a whole copy. stderr stays in any case.
///
/// With all higher descriptors closed the kernel does not even copy them.
/// `__close_range` in <https://github.com/torvalds/linux/blob/v5.10/fs/file.c>
pub(super) fn own_file_table(last: c_int) -> Result<(), Errno> {
    let first = word(last.max(libc::STDERR_FILENO)) + 1;
    let unshare = libc::CLOSE_RANGE_UNSHARE as usize;
    // SAFETY: closes descriptors of the caller's own table only; the caller, a fresh child, uses
    // none of them.
    let closed = unsafe {
        call(
            libc::SYS_close_range,
            [first, u32::MAX as usize, unshare, 0, 0, 0],
        )
    };
    if closed.is_ok() {
        return Ok(());
    }
    // SAFETY: changes nothing but whose the file table is.
    unsafe { call(libc::SYS_unshare, [word(libc::CLONE_FILES), 0, 0, 0, 0, 0]) }.map(drop)
}

/// Closes these and all between, in a file table that is the caller's own; where the kernel cannot, exec
/// does it.
pub(super) fn close_from_to(first: c_int, last: c_int) {
    // SAFETY: as above.
    let _ = unsafe { call(libc::SYS_close_range, [word(first), word(last), 0, 0, 0, 0]) };
}

/// `setsid`: a session and a process group of its own.
pub(super) fn new_session() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_setsid, [0; 6]) }.map(drop)
}

/// `umask`, which cannot fail.
pub(super) fn set_umask(mask: u32) {
    // SAFETY: touches no memory.
    let _ = unsafe { call(libc::SYS_umask, [mask as usize, 0, 0, 0, 0, 0]) };
}

/// `openat` from the working directory.
pub(super) fn open(path: &CStr, flags: c_int, mode: u32) -> Result<c_int, Errno> {
    open_at(libc::AT_FDCWD, path, flags, mode)
}

/// `openat`
pub(super) fn open_at(
    directory: c_int,
    path: &CStr,
    flags: c_int,
    mode: u32,
) -> Result<c_int, Errno> {
    // SAFETY: the path ends in a NUL and outlives the call.
    let fd = unsafe {
        call(
            libc::SYS_openat,
            [
                word(directory),
                path.as_ptr() as usize,
                word(flags),
                mode as usize,
                0,
                0,
            ],
        )
    }?;
    c_int::try_from(fd).map_err(|_| libc::EMFILE)
}

/// `close`; nothing for a number below 0.
pub(super) fn close(fd: c_int) {
    if fd >= 0 {
        // SAFETY: the caller's own descriptor, which it uses no more.
        let _ = unsafe { call(libc::SYS_close, [word(fd), 0, 0, 0, 0, 0]) };
    }
}

/// What of a file counts for who may use it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u64,
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// `fstatat` of a name in a directory, or of the descriptor itself with an empty name; follows no link.
pub(super) fn status(fd: c_int, name: &CStr) -> Result<Status, Errno> {
    let mut found = MaybeUninit::<libc::stat>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    let args = [
        word(fd),
        name.as_ptr() as usize,
        found.as_mut_ptr() as usize,
        word(flags),
        0,
        0,
    ];
    // SAFETY: the name ends in a NUL; the structure is the kernel's on both architectures.
    unsafe { call(libc::SYS_newfstatat, args) }?;
    // SAFETY: all zeros is one, and the kernel has filled it.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::useless_conversion, reason = "it has 32 bits on aarch64")]
    let links = found.st_nlink.into();
    Ok(Status {
        mode: found.st_mode,
        uid: found.st_uid,
        gid: found.st_gid,
        links,
        device: found.st_dev,
        inode: found.st_ino,
    })
}

/// `readlinkat` of a link that is open with O_PATH; how many bytes it has.
pub(super) fn read_link(fd: c_int, target: &mut [u8]) -> Result<usize, Errno> {
    let empty = c"".as_ptr() as usize;
    let bytes = target.as_mut_ptr() as usize;
    let args = [word(fd), empty, bytes, target.len(), 0, 0];
    // SAFETY: pointer and length are those of one slice.
    unsafe { call(libc::SYS_readlinkat, args) }
}

/// Whether a directory is on the file system of processes.
pub(super) fn is_on_proc(fd: c_int) -> bool {
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    let args = [word(fd), found.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the structure is the kernel's on both architectures.
    let is_known = unsafe { call(libc::SYS_fstatfs, args) }.is_ok();
    // SAFETY: all zeros is one.
    is_known && unsafe { found.assume_init() }.f_type == libc::PROC_SUPER_MAGIC
}

/// Has the calling task reach files as this user and group, without what root may do.
pub(super) fn set_file_ids(uid: u32, gid: u32) {
    for (number, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
        // SAFETY: touches no memory. It says nothing of a failure: see `has_file_ids`.
        let _ = unsafe { call(number, [id as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Whether it does: an ID that is none changes nothing, and both calls return the one before.
pub(super) fn has_file_ids(uid: u32, gid: u32) -> bool {
    let none = u32::MAX as usize;
    let now = |number| {
        // SAFETY: touches no memory.
        unsafe { call(number, [none, 0, 0, 0, 0, 0]) }
    };
    now(libc::SYS_setfsuid) == Ok(uid as usize) && now(libc::SYS_setfsgid) == Ok(gid as usize)
}

/// Has it reach files as what it is.
pub(super) fn reset_file_ids() {
    let own = |number| {
        // SAFETY: touches no memory.
        let id = unsafe { call(number, [0; 6]) };
        id.ok().and_then(|id| u32::try_from(id).ok())
    };
    if let (Some(uid), Some(gid)) = (own(libc::SYS_geteuid), own(libc::SYS_getegid)) {
        set_file_ids(uid, gid);
    }
}

/// Makes `target` a second name of `fd`, open across exec.
pub(super) fn duplicate(fd: c_int, target: c_int) -> Result<(), Errno> {
    // dup3 refuses to do nothing.
    let (number, args) = if fd == target {
        (libc::SYS_fcntl, [word(fd), word(libc::F_SETFD), 0, 0, 0, 0])
    } else {
        (libc::SYS_dup3, [word(fd), word(target), 0, 0, 0, 0])
    };
    // SAFETY: touches no memory; the descriptors are those of the caller's own file table.
    unsafe { call(number, args) }.map(drop)
}

/// Makes `target` a second name of `fd`, another number, until exec.
pub(super) fn duplicate_for_now(fd: c_int, target: c_int) -> Result<(), Errno> {
    let args = [word(fd), word(target), word(libc::O_CLOEXEC), 0, 0, 0];
    // SAFETY: touches no memory; the descriptors are those of the caller's own file table.
    unsafe { call(libc::SYS_dup3, args) }.map(drop)
}

/// `fcntl(F_SETFL)`: sets the status flags.
pub(super) fn set_status_flags(fd: c_int, flags: c_int) -> Result<(), Errno> {
    let args = [word(fd), word(libc::F_SETFL), word(flags), 0, 0, 0];
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_fcntl, args) }.map(drop)
}

/// `fchown`: gives a file to a user and a group.
pub(super) fn change_owner(fd: c_int, uid: u32, gid: u32) -> Result<(), Errno> {
    let args = [word(fd), uid as usize, gid as usize, 0, 0, 0];
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_fchown, args) }.map(drop)
}

/// `fchmod`
pub(super) fn change_mode(fd: c_int, mode: u32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_fchmod, [word(fd), mode as usize, 0, 0, 0, 0]) }.map(drop)
}

/// `mkdirat`
pub(super) fn make_directory_at(directory: c_int, name: &CStr, mode: u32) -> Result<(), Errno> {
    let name = name.as_ptr() as usize;
    let args = [word(directory), name, mode as usize, 0, 0, 0];
    // SAFETY: the name ends in a NUL and outlives the call.
    unsafe { call(libc::SYS_mkdirat, args) }.map(drop)
}

/// `unshare`
pub(super) fn unshare(namespaces: c_int) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_unshare, [word(namespaces), 0, 0, 0, 0, 0]) }.map(drop)
}

/// `mount`
pub(super) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: c_ulong,
    data: Option<&CStr>,
) -> Result<(), Errno> {
    let address = |text: Option<&CStr>| text.map_or(0, |text| text.as_ptr() as usize);
    let flags = usize::try_from(flags).unwrap_or(0);
    let target = target.as_ptr() as usize;
    let args = [
        address(source),
        target,
        address(kind),
        flags,
        address(data),
        0,
    ];
    // SAFETY: null, or strings that end in a NUL and outlive the call.
    unsafe { call(libc::SYS_mount, args) }.map(drop)
}

/// `open_tree` of a copy of what is mounted there (Linux 5.2).
pub(super) fn clone_tree(path: &CStr) -> Result<c_int, Errno> {
    const FLAGS: c_uint =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.cast_unsigned();
    let path = path.as_ptr() as usize;
    let args = [word(libc::AT_FDCWD), path, FLAGS as usize, 0, 0, 0];
    // SAFETY: the path ends in a NUL and outlives the call.
    let fd = unsafe { call(libc::SYS_open_tree, args) }?;
    c_int::try_from(fd).map_err(|_| libc::EMFILE)
}

/// `move_mount` of such a copy.
pub(super) fn move_tree(fd: c_int, path: &CStr) -> Result<(), Errno> {
    const FLAGS: usize = libc::MOVE_MOUNT_F_EMPTY_PATH as usize;
    let (from, to) = (c"".as_ptr() as usize, path.as_ptr() as usize);
    let args = [word(fd), from, word(libc::AT_FDCWD), to, FLAGS, 0];
    // SAFETY: both paths end in a NUL and outlive the call.
    unsafe { call(libc::SYS_move_mount, args) }.map(drop)
}

/// `symlinkat`
pub(super) fn make_link(target: &CStr, link: &CStr) -> Result<(), Errno> {
    let (target, link) = (target.as_ptr() as usize, link.as_ptr() as usize);
    let args = [target, word(libc::AT_FDCWD), link, 0, 0, 0];
    // SAFETY: both paths end in a NUL and outlive the call.
    unsafe { call(libc::SYS_symlinkat, args) }.map(drop)
}

/// Sets the interface `lo` of the caller's network namespace up.
pub(super) fn bring_up_loopback() -> Result<(), Errno> {
    /// `struct ifreq` with flags, in include/uapi/linux/if.h
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: u16,
        rest: [u8; 22],
    }
    const KIND: c_int = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let args = [word(libc::AF_INET), word(KIND), 0, 0, 0, 0];
    // SAFETY: touches no memory.
    let socket = unsafe { call(libc::SYS_socket, args) }?;
    let socket = c_int::try_from(socket).map_err(|_| libc::EMFILE)?;
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: 1, // IFF_UP
        rest: [0; 22],
    };
    request.name[0] = b'l';
    request.name[1] = b'o';
    let set_flags = usize::try_from(libc::SIOCSIFFLAGS).unwrap_or(0);
    let args = [
        word(socket),
        set_flags,
        ptr::from_ref(&request) as usize,
        0,
        0,
        0,
    ];
    // SAFETY: as large as the kernel's own structure, and outlives the call.
    let done = unsafe { call(libc::SYS_ioctl, args) }.map(drop);
    close(socket);
    done
}

/// `sched_setaffinity` of the caller itself: one bit for each processor.
pub(super) fn set_affinity(cpus: &[u64]) -> Result<(), Errno> {
    let args = [0, size_of_val(cpus), cpus.as_ptr() as usize, 0, 0, 0];
    // SAFETY: length and pointer are those of one slice.
    unsafe { call(libc::SYS_sched_setaffinity, args) }.map(drop)
}

fn control(option: c_int, args: [usize; 4]) -> Result<usize, Errno> {
    let [first, second, third, fourth] = args;
    // SAFETY: only for options whose arguments are numbers.
    unsafe {
        call(
            libc::SYS_prctl,
            [word(option), first, second, third, fourth, 0],
        )
    }
}

/// Takes all capabilities but these out of the calling task's bounding set: one bit each.
pub(super) fn limit_capabilities(set: u64) -> Result<(), Errno> {
    for number in 0..64_usize {
        // The kernel has no more of them.
        let Ok(is_in) = control(libc::PR_CAPBSET_READ, [number, 0, 0, 0]) else {
            break;
        };
        if is_in != 0 && set >> number & 1 == 0 {
            control(libc::PR_CAPBSET_DROP, [number, 0, 0, 0])?;
        }
    }
    Ok(())
}

/// Has the calling task keep its capabilities when it becomes another user, until it runs a program.
pub(super) fn keep_capabilities() -> Result<(), Errno> {
    control(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]).map(drop)
}

/// `struct __user_cap_data_struct`, twice.
/// <https://github.com/torvalds/linux/blob/v5.10/include/uapi/linux/capability.h>
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct CapabilitySets([[u32; 3]; 2]);

impl CapabilitySets {
    /// The same as effective, permitted and inheritable ones.
    pub(super) fn all(set: u64) -> Self {
        let low = u32::try_from(set & u64::from(u32::MAX)).unwrap_or(0);
        let high = u32::try_from(set >> 32).unwrap_or(0);
        Self([[low; 3], [high; 3]])
    }
}

/// Version 3, and the calling task.
const CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];

/// `capset` of the calling task alone.
pub(super) fn set_capabilities(sets: &CapabilitySets) -> Result<(), Errno> {
    let header = CAPABILITY_HEADER;
    let args = [
        header.as_ptr() as usize,
        ptr::from_ref(sets) as usize,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: both are as the kernel has them in this version, and outlive the call.
    unsafe { call(libc::SYS_capset, args) }.map(drop)
}

/// Whether the caller has a capability that it can use.
pub(super) fn has_capability(number: u32) -> bool {
    let header = CAPABILITY_HEADER;
    let mut sets = CapabilitySets::default();
    let sets_at = ptr::from_mut(&mut sets) as usize;
    let args = [header.as_ptr() as usize, sets_at, 0, 0, 0, 0];
    // SAFETY: both are as the kernel has them in this version, and outlive the call.
    let is_read = unsafe { call(libc::SYS_capget, args) }.is_ok();
    let [[low, ..], [high, ..]] = sets.0;
    let effective = u64::from(low) | u64::from(high) << 32;
    is_read && effective >> number & 1 != 0
}

/// Has the program that the calling task runs next have these, whoever its user is.
pub(super) fn make_ambient(set: u64) -> Result<(), Errno> {
    for number in (0..64_usize).filter(|number| set >> number & 1 != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE as usize;
        control(libc::PR_CAP_AMBIENT, [raise, number, 0, 0])?;
    }
    Ok(())
}

/// No program gives the calling task, and what descends from it, more rights.
pub(super) fn set_no_new_privileges() -> Result<(), Errno> {
    control(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map(drop)
}

/// Restricts the calling task, and what descends from it, by a ruleset of Landlock.
pub(super) fn restrict_self(ruleset: c_int) -> Result<(), Errno> {
    let args = [word(ruleset), 0, 0, 0, 0, 0];
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_landlock_restrict_self, args) }.map(drop)
}

/// Whether a process shares the caller's memory; `None`: the kernel does not say.
pub(super) fn shares_memory(pid: u32) -> Option<bool> {
    /// `KCMP_VM` in include/uapi/linux/kcmp.h
    const MEMORY: usize = 1;
    let own = usize::try_from(std::process::id()).ok()?;
    let args = [own, usize::try_from(pid).ok()?, MEMORY, 0, 0, 0];
    // SAFETY: touches no memory.
    let compared = unsafe { call(libc::SYS_kcmp, args) };
    compared.ok().map(|order| order == 0)
}

/// Writes, once.
pub(super) fn write(fd: c_int, bytes: &[u8]) -> Result<(), Errno> {
    let args = [word(fd), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0];
    // SAFETY: pointer and length are those of one slice.
    unsafe { call(libc::SYS_write, args) }.map(drop)
}

/// `prlimit64` of the caller itself.
pub(super) fn set_limit(resource: u32, limit: &Limit64) -> Result<(), Errno> {
    let args = [0, resource as usize, ptr::from_ref(limit) as usize, 0, 0, 0];
    // SAFETY: the structure is the kernel's `rlimit64`; no old one is asked for.
    unsafe { call(libc::SYS_prlimit64, args) }.map(drop)
}

/// The caller's own limit.
pub(super) fn limit(resource: u32) -> Result<Limit64, Errno> {
    let mut limit = Limit64 { soft: 0, hard: 0 };
    let old = ptr::from_mut(&mut limit) as usize;
    // SAFETY: the structure is the kernel's `rlimit64`, which it fills in; no new one is given.
    unsafe { call(libc::SYS_prlimit64, [0, resource as usize, 0, old, 0, 0]) }?;
    Ok(limit)
}

/// `setpriority` of the caller itself.
pub(super) fn set_nice(nice: i32) -> Result<(), Errno> {
    let args = [libc::PRIO_PROCESS as usize, 0, word(nice), 0, 0, 0];
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_setpriority, args) }.map(drop)
}

/// `chdir`
pub(super) fn change_directory(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the path ends in a NUL and outlives the call.
    unsafe { call(libc::SYS_chdir, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// `setgroups` of the calling task alone.
pub(super) fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    let args = [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: length and pointer are those of one slice; gid_t is 32 bits wide in these calls.
    unsafe { call(libc::SYS_setgroups, args) }.map(drop)
}

/// `setresgid` of the calling task alone: real, effective and saved.
pub(super) fn set_gid(gid: u32) -> Result<(), Errno> {
    let gid = gid as usize;
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0]) }.map(drop)
}

/// `setresuid` of the calling task alone: real, effective and saved.
pub(super) fn set_uid(uid: u32) -> Result<(), Errno> {
    let uid = uid as usize;
    // SAFETY: touches no memory.
    unsafe { call(libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0]) }.map(drop)
}

/// Forbids core dumps of, and ptrace to, all who share the caller's memory.
pub(super) fn forbid_dumps() {
    let args = [word(libc::PR_SET_DUMPABLE), 0, 0, 0, 0, 0];
    // SAFETY: touches no user memory. It cannot fail with that value.
    let _ = unsafe { call(libc::SYS_prctl, args) };
}

/// `execve`; returns only its error.
///
/// # Safety
/// `argv` and `envp` are arrays of pointers to strings that end in a NUL, and end in a null.
pub(super) unsafe fn execute(
    program: &CStr,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> Errno {
    let args = [
        program.as_ptr() as usize,
        argv as usize,
        envp as usize,
        0,
        0,
        0,
    ];
    // SAFETY: `program` ends in a NUL, and the arrays are as the caller promises.
    match unsafe { call(libc::SYS_execve, args) } {
        Ok(_) => libc::EINVAL,
        Err(errno) => errno,
    }
}

/// `exit_group`, with nothing run or flushed before it.
pub(super) fn exit(status: c_int) -> ! {
    loop {
        // SAFETY: touches no memory, and does not come back.
        let _ = unsafe { call(libc::SYS_exit_group, [word(status), 0, 0, 0, 0, 0]) };
    }
}

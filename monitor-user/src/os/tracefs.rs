//! tracefs without a place where it is mounted: many hosts without systemd mount none.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::libc;

/// `FSCONFIG_CMD_CREATE`, include/uapi/linux/mount.h.
const CREATE: libc::c_int = 6;
/// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`, in the same place.
const CLOEXEC: libc::c_int = 1;

/// Mounts tracefs nowhere: it is found through the descriptor alone, and ends with it.
///
/// # Errors
/// The kernel has none, or no right to mount (CAP_SYS_ADMIN).
pub(crate) fn detached() -> io::Result<OwnedFd> {
    const TYPE: &CStr = c"tracefs";
    // SAFETY: the kernel reads a string that ends in a NUL and outlives the call.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, TYPE.as_ptr(), CLOEXEC) })?;
    let none = ptr::null::<libc::c_char>();
    // SAFETY: with this command the kernel reads neither key nor value, which are null.
    let made = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CREATE,
            none,
            none,
            0,
        )
    };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it leads to no memory.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, 0) })
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

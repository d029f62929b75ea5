//! What the kernel says of pinned maps and links, asked by `bpf(2)` itself.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Commands of `bpf(2)`, include/uapi/linux/bpf.h.
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const ENABLE_STATS: libc::c_long = 32;

/// The first fields of `union bpf_attr`, whatever they are called; the rest may be left out.
#[repr(C)]
struct Attributes {
    first: u64,
    second: u64,
}

/// An object in the kernel, held open.
pub struct Object(OwnedFd);

impl Object {
    /// What is pinned there.
    pub fn pinned(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        bpf(OBJ_GET, path.as_ptr() as u64)
    }

    /// The program with this ID.
    pub fn program(id: u64) -> io::Result<Self> {
        bpf(PROG_GET_FD_BY_ID, id)
    }

    /// Of a ring buffer: how many bytes have ever been reserved in it.
    pub fn produced(&self) -> io::Result<u64> {
        // SAFETY: a number, and a constant.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let length = usize::try_from(page).map_err(io::Error::other)?;
        // The second page, which is for reading alone: kernel/bpf/ringbuf.c.
        // SAFETY: a new mapping, of a file that this value holds.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                self.0.as_raw_fd(),
                page,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the page begins with the position, and is mapped until the next line.
        let position = unsafe { address.cast::<u64>().read_volatile() };
        // SAFETY: mapped above, and not used any more.
        unsafe { libc::munmap(address, length) };
        Ok(position)
    }

    /// A figure of it, as `/proc` has it.
    pub fn figure(&self, key: &str) -> Option<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = fs::read_to_string(path).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?
            .trim()
            .parse()
            .ok()
    }
}

/// Has the kernel count the runs of programs while the value lives.
pub fn statistics() -> io::Result<Object> {
    bpf(ENABLE_STATS, 0)
}

fn bpf(command: libc::c_long, first: u64) -> io::Result<Object> {
    let attributes = Attributes { first, second: 0 };
    // SAFETY: the attributes are as long as is said, and what they lead to outlives the call. All
    // of these commands return a new descriptor and write nothing.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd @ 0..) => Ok(Object(unsafe { OwnedFd::from_raw_fd(fd) })),
        _ => Err(io::Error::last_os_error()),
    }
}

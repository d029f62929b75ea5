//! What `bpf(2)` tells of one pinned link and its program, without a look at all others.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Commands, include/uapi/linux/bpf.h.
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// `union bpf_attr` of OBJ_GET and of PROG_GET_FD_BY_ID, as far as it is not zero.
#[repr(C)]
union Subject {
    path: u64,
    id: u32,
    all: [u64; 2],
}

/// `union bpf_attr` of OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoRequest {
    fd: u32,
    bytes: u32,
    info: u64,
}

/// `struct bpf_link_info`, as far as the program.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    end: u32,
}

/// `struct bpf_prog_info`, as far as the name.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    start: [u64; 6],
    created_by_uid: u32,
    /// Room at `map_ids`, and then how many there are.
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// More maps than any program of ours uses.
const MOST_MAPS: usize = 64;

/// A program in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// IDs of the maps that it uses.
    pub(crate) maps: Vec<u32>,
}

/// The program that a pinned link holds.
///
/// # Errors
/// It is no link: `InvalidInput`. There is no such pin, or no right to look.
pub(crate) fn program_of_link(pin: &Path) -> io::Result<Program> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut subject = Subject { all: [0; 2] };
    subject.path = path.as_ptr() as u64;
    // SAFETY: the address of a string that ends in a NUL, and outlives the call.
    let link = unsafe { open(OBJ_GET, &subject) }?;
    // `bpf_link_new_fd` in https://github.com/torvalds/linux/blob/v5.10/kernel/bpf/syscall.c
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", link.as_raw_fd()))?;
    let kinds = ["anon_inode:bpf-link", "anon_inode:bpf_link"];
    if !kinds.iter().any(|name| kind == Path::new(name)) {
        let message = format!("{}, not a link", kind.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut info = LinkInfo::default();
    // SAFETY: plain numbers, whatever the kernel writes there.
    unsafe { read_info(&link, &mut info) }?;
    let mut subject = Subject { all: [0; 2] };
    subject.id = info.program;
    // SAFETY: it leads to no memory.
    let program = unsafe { open(PROG_GET_FD_BY_ID, &subject) }?;
    let mut maps = vec![0_u32; MOST_MAPS];
    let mut of = ProgramInfo {
        maps: u32::try_from(MOST_MAPS).unwrap_or(0),
        map_ids: maps.as_mut_ptr() as u64,
        ..ProgramInfo::default()
    };
    // SAFETY: as above; `map_ids` leads to room for so many numbers, which outlives the call.
    unsafe { read_info(&program, &mut of) }?;
    maps.truncate(usize::try_from(of.maps).unwrap_or(0));
    let name = of.name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(Program {
        id: info.program,
        name: String::from_utf8_lossy(name).into_owned(),
        maps,
    })
}

/// # Safety
/// The subject is what the command wants: the address of a string, or an ID.
unsafe fn open(command: libc::c_long, subject: &Subject) -> io::Result<OwnedFd> {
    // SAFETY: the union is as long as is said; the rest is the caller's promise.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(subject),
            size_of::<Subject>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// # Safety
/// Every pattern of bits is a valid `T`.
unsafe fn read_info<T>(of: &OwnedFd, info: &mut T) -> io::Result<()> {
    let request = InfoRequest {
        fd: of.as_raw_fd().cast_unsigned(),
        bytes: u32::try_from(size_of::<T>()).unwrap_or(0),
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the kernel writes no more than `bytes` to `info`, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJ_GET_INFO_BY_FD,
            &raw const request,
            size_of::<InfoRequest>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

//! `bpf(2)`: what aya does not do as respawn needs it. Loads and attaches one program, pins what
//! a descriptor holds, and shows what is behind a link.
//!
//! Knows nothing of objects, maps' contents and what the programs are for: that is `probe`'s.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Commands, include/uapi/linux/bpf.h.
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BTF_LOAD: libc::c_long = 18;
const MAP_FREEZE: libc::c_long = 22;
const LINK_CREATE: libc::c_long = 28;

/// `BPF_PERF_EVENT` of `enum bpf_attach_type`.
const ATTACH_PERF_EVENT: u32 = 41;

/// What the verifier is to write in its log: errors, and at the end how much work it was.
pub(crate) const LOG_STATISTICS: u32 = 4;
/// The same, and each instruction on the way to the error.
pub(crate) const LOG_INSTRUCTIONS: u32 = 1 | LOG_STATISTICS;

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

/// `union bpf_attr` of PROG_LOAD, as far as Linux 5.10 knows it.
#[repr(C)]
#[derive(Default)]
struct ProgramRequest {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
    types: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    line_size: u32,
    lines: u64,
    line_count: u32,
    attach_id: u32,
    attach_to: u32,
    end: u32,
}
const _: () = assert!(size_of::<ProgramRequest>() == 120);

/// `union bpf_attr` of RAW_TRACEPOINT_OPEN.
#[repr(C)]
struct RawTracepointRequest {
    name: u64,
    program: u32,
    end: u32,
}

/// `union bpf_attr` of LINK_CREATE, as far as it is not zero.
#[repr(C)]
struct LinkRequest {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `union bpf_attr` of OBJ_PIN.
#[repr(C)]
struct PinRequest {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` of BTF_LOAD.
#[repr(C)]
struct TypesRequest {
    bytes: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    end: u32,
}

/// `union bpf_attr` of MAP_CREATE, as far as the name.
#[repr(C)]
#[derive(Default)]
struct MapRequest {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// `union bpf_attr` of MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM and of MAP_FREEZE.
#[repr(C)]
#[derive(Default)]
struct ElementRequest {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `struct bpf_map_info`, as far as the size of values.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
}

/// `BPF_MAP_TYPE_ARRAY`
const ARRAY: u32 = 2;

/// `struct bpf_link_info`, as far as the program.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    end: u32,
}

/// `struct bpf_prog_info`, as far as the number of runs.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    start: [u64; 5],
    created_by_uid: u32,
    /// Room at `map_ids`, and then how many there are.
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
    /// Of interface, network namespace, symbols, functions, types and lines.
    middle: [u64; 14],
    run_time_ns: u64,
    run_count: u64,
    /// Linux 5.12; older kernels leave it as it is.
    recursion_misses: u64,
}
const _: () = assert!(std::mem::offset_of!(ProgramInfo, map_ids) == 56);
const _: () = assert!(std::mem::offset_of!(ProgramInfo, run_time_ns) == 192);

/// More maps than any program of ours uses.
const MOST_MAPS: usize = 64;

/// A program in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// IDs of the maps that it uses.
    pub(crate) maps: Vec<u32>,
    /// Nanoseconds that it ran for; 0 unless the kernel's BPF statistics are on.
    pub(crate) run_time_ns: u64,
    /// Times that it ran; 0 unless the same.
    pub(crate) runs: u64,
    /// Times that the kernel should have run it and did not, as it was at work on that CPU; 0
    /// before 5.12, which does not count.
    pub(crate) skipped: u64,
}

/// Records of one size about a program's instructions, as `.BTF.ext` has them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Records<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) size: usize,
}

/// A program to load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewProgram<'a> {
    /// `enum bpf_prog_type`
    pub(crate) kind: u32,
    /// `enum bpf_attach_type`
    pub(crate) attach_type: u32,
    /// Of the kernel's BTF: what it is to be attached to; 0 for nothing.
    pub(crate) attach_id: u32,
    /// Cut to 15 bytes.
    pub(crate) name: &'a str,
    pub(crate) instructions: &'a [[u8; 8]],
    pub(crate) license: &'a CStr,
    /// The object's own types, and what they say of functions and lines.
    pub(crate) types: Option<(BorrowedFd<'a>, Records<'a>, Records<'a>)>,
}

/// Loads a program. The verifier writes to `log`, if it is not empty, what `level` asks for; what
/// it has written ends in a NUL.
///
/// # Errors
/// The kernel's. EAGAIN: a signal came meanwhile. ENOSPC: the log had no room.
pub(crate) fn load_program(
    program: &NewProgram<'_>,
    level: u32,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let mut request = ProgramRequest {
        kind: program.kind,
        attach_type: program.attach_type,
        attach_id: program.attach_id,
        instruction_count: length(program.instructions.len())?,
        instructions: program.instructions.as_ptr() as u64,
        license: program.license.as_ptr() as u64,
        name: short_name(program.name),
        ..ProgramRequest::default()
    };
    if !log.is_empty() {
        request.log_level = level;
        request.log_size = length(log.len())?;
        request.log = log.as_mut_ptr() as u64;
    }
    if let Some((types, functions, lines)) = &program.types {
        request.types = number(types);
        (request.function_size, request.function_count) = functions.shape()?;
        request.functions = functions.bytes.as_ptr() as u64;
        (request.line_size, request.line_count) = lines.shape()?;
        request.lines = lines.bytes.as_ptr() as u64;
    }
    // SAFETY: every address is that of a slice or string that outlives the call, with as many
    // elements as is said beside it; the kernel writes to `log` alone.
    unsafe { descriptor(PROG_LOAD, &request) }
}

impl Records<'_> {
    /// Size and number.
    fn shape(&self) -> io::Result<(u32, u32)> {
        let count = self.bytes.len().checked_div(self.size).unwrap_or(0);
        Ok((length(self.size)?, length(count)?))
    }
}

/// Hands the types of a kernel object to the kernel.
pub(crate) fn load_types(bytes: &[u8]) -> io::Result<OwnedFd> {
    let request = TypesRequest {
        bytes: bytes.as_ptr() as u64,
        size: length(bytes.len())?,
        log: 0,
        log_size: 0,
        log_level: 0,
        end: 0,
    };
    // SAFETY: the address is that of so many bytes, which outlive the call.
    unsafe { descriptor(BTF_LOAD, &request) }
}

/// Attaches a program: one of the kind raw tracepoint to the tracepoint of this name, and one that
/// has been loaded for one place (`attach_id`) to that, with no name. Closing the link ends it,
/// unless it is pinned.
///
/// # Errors
/// ENOENT: there is no such tracepoint. EINVAL: the program reads more arguments than it has.
pub(crate) fn attach(program: BorrowedFd<'_>, tracepoint: Option<&CStr>) -> io::Result<OwnedFd> {
    let request = RawTracepointRequest {
        name: tracepoint.map_or(0, |name| name.as_ptr() as u64),
        program: number(&program),
        end: 0,
    };
    // SAFETY: the address is that of a string that outlives the call, or none.
    unsafe { descriptor(RAW_TRACEPOINT_OPEN, &request) }
}

/// Attaches a program of the kind tracepoint to the one of this number, as tracefs shows it. The
/// link holds the event (Linux 5.15).
pub(crate) fn attach_to_event(program: BorrowedFd<'_>, tracepoint: u64) -> io::Result<OwnedFd> {
    let event = open_event(tracepoint)?;
    let request = LinkRequest {
        program: number(&program),
        target: number(&event),
        attach_type: ATTACH_PERF_EVENT,
        flags: 0,
    };
    // SAFETY: it leads to no memory.
    unsafe { descriptor(LINK_CREATE, &request) }
}

/// An event that counts a tracepoint's hits. On which CPU is of no matter for a program.
fn open_event(tracepoint: u64) -> io::Result<OwnedFd> {
    /// `struct perf_event_attr` of the first kernels that had it.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        size: u32,
        config: u64,
        rest: [u64; 6],
    }
    const _: () = assert!(size_of::<Attributes>() == 64);
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    let attributes = Attributes {
        kind: PERF_TYPE_TRACEPOINT,
        size: 64,
        config: tracepoint,
        rest: [0; 6],
    };
    let (every_process, cpu, no_group) = (-1, 0, -1);
    // SAFETY: the kernel reads as much as `size` says, and writes `size` alone.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            every_process,
            cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { owned(fd) }
}

/// Pins a map, program or link.
///
/// # Errors
/// EEXIST: there is something.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let request = PinRequest {
        path: path.as_ptr() as u64,
        fd: number(&object),
        flags: 0,
    };
    // SAFETY: the address is that of a string that outlives the call.
    unsafe { call(OBJ_PIN, &request) }.map(drop)
}

/// Opens what is pinned.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut subject = Subject { all: [0; 2] };
    subject.path = path.as_ptr() as u64;
    // SAFETY: the address of a string that ends in a NUL, and outlives the call.
    unsafe { descriptor(OBJ_GET, &subject) }
}

/// Makes an array with one value of so many bytes, all zero.
pub(crate) fn make_array(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let request = MapRequest {
        kind: ARRAY,
        key_size: 4,
        value_size: length(bytes)?,
        entries: 1,
        name: short_name(name),
        ..MapRequest::default()
    };
    // SAFETY: it leads to no memory.
    unsafe { descriptor(MAP_CREATE, &request) }
}

/// The request about the first value of an array, which is so long and at that address.
///
/// # Errors
/// `InvalidInput`: the map is no array, or its values have another length.
fn first_value(map: BorrowedFd<'_>, address: u64, bytes: usize) -> io::Result<ElementRequest> {
    static INDEX: u32 = 0;
    let mut info = MapInfo::default();
    // SAFETY: plain numbers, whatever the kernel writes there.
    unsafe { read_info(map, &mut info) }?;
    if (info.kind, info.key_size, info.value_size) != (ARRAY, 4, length(bytes)?) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(ElementRequest {
        map: number(&map),
        key: &raw const INDEX as u64,
        value: address,
        ..ElementRequest::default()
    })
}

/// Reads the first value of an array, whose length is that of `value`.
///
/// # Errors
/// `InvalidInput`: the map is no array, or its values have another length.
pub(crate) fn read_value(array: BorrowedFd<'_>, value: &mut [u8]) -> io::Result<()> {
    let request = first_value(array, value.as_mut_ptr() as u64, value.len())?;
    // SAFETY: the kernel reads a key of 4 bytes and writes a value as long as the map's, which is
    // `value`'s length; both outlive the call. A file descriptor of no map is an error.
    unsafe { call(MAP_LOOKUP_ELEM, &request) }.map(drop)
}

/// Writes the first value of an array, whose length is that of `value`.
///
/// # Errors
/// `InvalidInput`: the map is no array, or its values have another length.
pub(crate) fn write_value(array: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let request = first_value(array, value.as_ptr() as u64, value.len())?;
    // SAFETY: the kernel reads a key of 4 bytes and a value as long as the map's, which is
    // `value`'s length; both outlive the call.
    unsafe { call(MAP_UPDATE_ELEM, &request) }.map(drop)
}

/// Makes a map read-only for everybody.
pub(crate) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let request = ElementRequest {
        map: number(&map),
        ..ElementRequest::default()
    };
    // SAFETY: it leads to no memory.
    unsafe { call(MAP_FREEZE, &request) }.map(drop)
}

/// Opens a pinned link.
///
/// # Errors
/// It is no link: `InvalidInput`. There is no such pin, or no right to look.
pub(crate) fn open_link(pin: &Path) -> io::Result<OwnedFd> {
    open_pin_of(pin, "link", &["anon_inode:bpf-link", "anon_inode:bpf_link"])
}

/// Opens a pinned program.
///
/// # Errors
/// It is no program: `InvalidInput`. There is no such pin, or no right to look.
pub(crate) fn open_program_pin(pin: &Path) -> io::Result<OwnedFd> {
    open_pin_of(pin, "program", &["anon_inode:bpf-prog"])
}

/// `kinds` are the names of such a descriptor: `bpf_link_new_fd` and `bpf_prog_new_fd` in
/// <https://github.com/torvalds/linux/blob/v5.10/kernel/bpf/syscall.c>.
fn open_pin_of(pin: &Path, what: &str, kinds: &[&str]) -> io::Result<OwnedFd> {
    let object = open_pin(pin)?;
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    if !kinds.iter().any(|name| kind == Path::new(name)) {
        let message = format!("{}, not a {what}", kind.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(object)
}

/// The number of the program that a link holds.
pub(crate) fn program_id_of_link(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    // SAFETY: plain numbers, whatever the kernel writes there.
    unsafe { read_info(link, &mut info) }?;
    Ok(info.program)
}

/// The program that a link holds. Needs CAP_SYS_ADMIN.
pub(crate) fn program_of_link(link: BorrowedFd<'_>) -> io::Result<Program> {
    let mut subject = Subject { all: [0; 2] };
    subject.id = program_id_of_link(link)?;
    // SAFETY: it leads to no memory.
    let program = unsafe { descriptor(PROG_GET_FD_BY_ID, &subject) }?;
    self::program(program.as_fd())
}

/// What the kernel says of a program.
pub(crate) fn program(program: BorrowedFd<'_>) -> io::Result<Program> {
    let mut maps = vec![0_u32; MOST_MAPS];
    let mut of = ProgramInfo {
        maps: u32::try_from(MOST_MAPS).unwrap_or(0),
        map_ids: maps.as_mut_ptr() as u64,
        ..ProgramInfo::default()
    };
    // SAFETY: as above; `map_ids` leads to room for so many numbers, which outlives the call.
    unsafe { read_info(program, &mut of) }?;
    maps.truncate(usize::try_from(of.maps).unwrap_or(0));
    let name = of.name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(Program {
        id: of.id,
        name: String::from_utf8_lossy(name).into_owned(),
        maps,
        run_time_ns: of.run_time_ns,
        runs: of.run_count,
        skipped: of.recursion_misses,
    })
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(io::Error::other)
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// The kernel's names have 15 bytes and a NUL.
fn short_name(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    short
}

/// A command that makes a descriptor.
///
/// # Safety
/// As of [`call`].
unsafe fn descriptor<T>(command: libc::c_long, request: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise, and the kernel has just made this descriptor for us.
    unsafe { owned(call(command, request)?) }
}

/// # Safety
/// The request is what the command wants; where it has addresses, there is as much memory as the
/// kernel reads or writes there.
unsafe fn call<T>(command: libc::c_long, request: &T) -> io::Result<libc::c_long> {
    // SAFETY: the request is as long as is said; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(request),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// # Safety
/// A number that is no error is that of a descriptor which nobody else knows.
unsafe fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the caller's promise.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// # Safety
/// Every pattern of bits is a valid `T`.
unsafe fn read_info<T>(of: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let request = InfoRequest {
        fd: number(&of),
        bytes: u32::try_from(size_of::<T>()).unwrap_or(0),
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the kernel writes no more than `bytes` to `info`, which outlives the call.
    unsafe { call(OBJ_GET_INFO_BY_FD, &request) }.map(drop)
}

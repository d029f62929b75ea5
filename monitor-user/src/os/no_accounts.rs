//! Stands in for a function of libc in a static binary, where libc's own would load modules of the
//! host and crash.
//!
//! Nothing here calls it: Rust's `home_dir` does, where `HOME` is not set, and a library calls
//! that. Users are looked up by [`crate::accounts`].

use std::ffi::{c_char, c_int};
use std::ptr;

/// getpwuid_r(3) on a host that has no users.
#[unsafe(no_mangle)]
unsafe extern "C" fn getpwuid_r(
    _uid: libc::uid_t,
    _entry: *mut libc::passwd,
    _buffer: *mut c_char,
    _length: libc::size_t,
    result: *mut *mut libc::passwd,
) -> c_int {
    // SAFETY: the callers of getpwuid_r(3) pass where its result goes.
    unsafe { result.write(ptr::null_mut()) };
    0
}

//! A wall clock that a test sets back, for a binary that takes its own from a shared library.

use std::path::Path;
use std::process::Command;

/// A library, to be preloaded, whose wall clock goes back by an hour as long as there is the file `flag`. `None`:
/// there is no C compiler.
pub fn wall_clock(dir: &Path, flag: &Path) -> Option<String> {
    let source = dir.join("clock.c").to_str()?.to_owned();
    std::fs::write(
        &source,
        "struct timespec { long seconds, nanoseconds; };
        long syscall(long, ...);
        int access(const char *, int);
        int clock_gettime(int clock, struct timespec *time) {
            int result = syscall(NUMBER, clock, time);
            if (result == 0 && clock == 0 && access(FLAG, 0) == 0) time->seconds -= 3600;
            return result;
        }",
    )
    .ok()?;
    let library = dir.join("clock.so").to_str()?.to_owned();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &library, &source])
        .arg(format!("-DNUMBER={}", libc::SYS_clock_gettime))
        .arg(format!("-DFLAG={:?}", flag.to_str()?))
        .status()
        .ok()?;
    status.success().then_some(library)
}

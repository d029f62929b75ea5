//! Who holds a lock, and who waits for it: `/proc/locks`, as proc_locks(5) has it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The processes that wait for a `flock` that process `holder` has.
///
/// By the holder and not by the file: the device numbers of `/proc/locks` are not those of `stat`
/// on every file system (overlayfs, btrfs).
///
/// # Errors
/// `/proc/locks` cannot be read.
pub(crate) fn waiters(holder: u32) -> io::Result<Vec<u32>> {
    Ok(parse(&fs::read_to_string("/proc/locks")?, holder))
}

/// The process that has a `flock` of a file with this number, on a file system with that one.
///
/// `None` too where `/proc/locks` does not show it: the process is of another PID namespace, or the
/// file system is one of those of which [`waiters`] tells.
fn holder(device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    holder_of(&fs::read_to_string("/proc/locks").ok()?, &file)
}

/// The process that has a `flock` of this directory, as far as [`holder`] sees it.
pub(crate) fn holder_of_directory(path: &Path) -> Option<u32> {
    let directory = fs::metadata(path).ok()?;
    holder(directory.dev(), directory.ino())
}

fn holder_of(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "WRITE", pid, of, ..] if of == file => pid.parse().ok(),
            _ => None,
        }
    })
}

/// A lock's line begins with its number, and so does the line of each that waits for it, followed
/// by an arrow.
fn parse(locks: &str, holder: u32) -> Vec<u32> {
    let lines = locks.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let number = words.next()?;
        let mut kind = words.next()?;
        let waits = kind == "->";
        if waits {
            kind = words.next()?;
        }
        let pid: u32 = words.nth(2)?.parse().ok()?;
        (kind == "FLOCK").then_some((number, waits, pid))
    });
    let lines: Vec<(&str, bool, u32)> = lines.collect();
    let is_held = |number: &str| {
        lines
            .iter()
            .any(|(other, waits, pid)| *other == number && !waits && *pid == holder)
    };
    lines
        .iter()
        .filter(|(number, waits, _)| *waits && is_held(number))
        .map(|(_, _, pid)| *pid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_those_who_wait_for_a_process() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 500 00:1a:77 0 EOF
2: FLOCK  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF
2: -> FLOCK  ADVISORY  WRITE 3571 fd:00:2531452 0 EOF
2: -> FLOCK  ADVISORY  WRITE 3572 fd:00:2531452 0 EOF
3: FLOCK  ADVISORY  WRITE 600 fd:00:1 0 EOF
3: -> FLOCK  ADVISORY  WRITE 601 fd:00:1 0 EOF
4: POSIX  ADVISORY  WRITE 3568 00:1a:78 0 EOF
4: -> POSIX  ADVISORY  WRITE 700 00:1a:78 0 EOF
";
        assert_eq!(parse(locks, 3568), [3571, 3572]);
        assert_eq!(parse(locks, 600), [601]);
        assert!(parse(locks, 601).is_empty());
        assert!(parse("", 1).is_empty());
        assert_eq!(holder_of(locks, "fd:00:2531452"), Some(3568));
        assert_eq!(holder_of(locks, "00:1a:77"), None);
    }

    #[test]
    fn the_kernel_writes_them_so() {
        use std::process::{Command, Stdio};

        let file = tempfile::NamedTempFile::new().unwrap();
        let open = file.reopen().unwrap();
        open.lock().unwrap();
        let mut waiting = Command::new("flock")
            .arg(file.path())
            .arg("true")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let own = std::process::id();
        let deadline = 10_000;
        let found = (0..deadline).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            waiters(own).unwrap().contains(&waiting.id())
        });
        assert!(found);
        open.unlock().unwrap();
        assert!(waiting.wait().unwrap().success());
        assert!(!waiters(own).unwrap().contains(&waiting.id()));
    }
}

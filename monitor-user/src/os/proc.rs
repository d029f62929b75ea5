//! What `/proc` tells of a process. Acts on none.

use std::fs;
use std::io::{self, Read};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds in one tick of `/proc` (USER_HZ is 100 on x86-64 and aarch64).
pub(crate) use monitor_ebpf::TICK_NS;

/// <https://github.com/torvalds/linux/blob/v5.10/include/linux/sched.h>
const PF_FORKNOEXEC: u64 = 0x40;
const PF_EXITING: u64 = 0x4;

/// What respawn needs of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The process's name, at most 15 bytes, made valid UTF-8.
    pub(crate) comm: String,
    /// The kernel's letter: `R`, `S`, `D`, `T`, `Z` …
    pub(crate) state: char,
    /// The parent's pid; 0 if it is outside of this PID namespace.
    pub(crate) parent: u32,
    /// Process group.
    pub(crate) group: u32,
    /// Session.
    pub(crate) session: u32,
    /// Whether it has become another program since it was forked.
    pub(crate) has_executed: bool,
    /// Whether it is on its way out.
    pub(crate) is_exiting: bool,
    /// Start time since boot, in nanoseconds at the resolution of [`TICK_NS`].
    pub(crate) start_time_ns: u64,
    /// As `wait` will return it, once it is a zombie; 0 also if the caller may not know.
    pub(crate) wait_status: i32,
}

impl Stat {
    /// Whether it has ended and waits to be reaped.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The command line of a process, a word each; bytes that are not UTF-8 replaced. Empty for one
/// that is being torn down.
pub(crate) fn command_line(pid: u32) -> io::Result<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = text.strip_suffix(b"\0").unwrap_or(&text);
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let words = words.split(|byte| *byte == 0);
    Ok(words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect())
}

/// Whether a process has been killed, and is about to end: SIGKILL waits for it.
pub(crate) fn is_dying(pid: u32) -> bool {
    const KILLED: u64 = 1 << (libc::SIGKILL - 1);
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    let mut pending = text.lines().filter_map(|line| {
        let mask = line
            .strip_prefix("SigPnd:")
            .or(line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    pending.any(|mask| mask & KILLED != 0)
        || stat(pid).map_or(true, |stat| stat.is_exiting || stat.is_zombie())
}

/// So many bytes of memory a process has, those that it shares with others included; `None`: it is gone.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(super::page_size())
}

/// Reads `/proc/PID/stat`.
///
/// # Errors
/// `NotFound` (or ESRCH) if there is no such process, `InvalidData` if the kernel's text is not
/// understood.
pub(crate) fn stat(pid: u32) -> io::Result<Stat> {
    // One read tells all: `/proc` knows no size beforehand.
    let mut text = [0; 1024];
    let length = fs::File::open(format!("/proc/{pid}/stat"))?.read(&mut text)?;
    parse_stat(text.get(..length).unwrap_or_default()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("cannot understand /proc/{pid}/stat"),
        )
    })
}

/// The fields are numbered as in proc_pid_stat(5): comm is field 2, and may hold any byte, so
/// the rest begins behind the last parenthesis.
/// `do_task_stat` in <https://github.com/torvalds/linux/blob/v5.10/fs/proc/array.c>
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let comm = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse::<i64>().ok();
    let parent = number()?;
    let group = number()?;
    let session = number()?;
    let flags = fields.nth(9 - 7)?.parse::<u64>().ok()?;
    let ticks = fields.nth(22 - 10)?.parse::<u64>().ok()?;
    let wait_status = fields.nth(52 - 23).and_then(|text| text.parse().ok());
    // Group and session are -1 or 0 for one that is being torn down.
    let id = |value: i64| u32::try_from(value).unwrap_or(0);
    Some(Stat {
        comm,
        state,
        parent: id(parent),
        group: id(group),
        session: id(session),
        has_executed: flags & PF_FORKNOEXEC == 0,
        is_exiting: flags & PF_EXITING != 0,
        start_time_ns: ticks.checked_mul(TICK_NS)?,
        wait_status: wait_status.unwrap_or(0),
    })
}

/// A process's start time since boot, in nanoseconds at the resolution of [`TICK_NS`].
///
/// # Errors
/// As [`stat`].
pub(crate) fn start_time_ns(pid: u32) -> io::Result<u64> {
    stat(pid).map(|stat| stat.start_time_ns)
}

/// A process's real user ID; `None` if there is no such process.
pub(crate) fn real_uid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Time since boot, suspend included: what start times are told in.
pub(crate) fn since_boot_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else {
        return 0;
    };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds * 1_000_000_000 + nanoseconds
}

/// The signals that this process ignores: bit n - 1 for signal n.
///
/// # Errors
/// If `/proc/self/status` cannot be read or understood.
pub(crate) fn ignored_signals() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("no SigIgn in /proc/self/status"))
}

/// The kernel's random ID of this boot.
///
/// # Errors
/// If `/proc/sys` cannot be read.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim_end()
        .to_owned())
}

/// A random ID, another one each time.
///
/// # Errors
/// If `/proc/sys` cannot be read.
pub(crate) fn random_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/uuid")
}

/// The host's name.
///
/// # Errors
/// If `/proc/sys` cannot be read.
pub(crate) fn host_name() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?
        .trim_end()
        .to_owned())
}

/// The pids in `/proc`, in no order; those that come and go meanwhile may be missing.
///
/// # Errors
/// If `/proc` cannot be read.
pub(crate) fn pids() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// A process's place in the cgroup v2 hierarchy, as `/proc/PID/cgroup` tells it ("/a/b");
/// `None` if there is no such process or no such hierarchy.
pub(crate) fn cgroup_path(pid: u32) -> Option<String> {
    parse_cgroup(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The same of the caller.
pub(crate) fn own_cgroup_path() -> Option<String> {
    parse_cgroup(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn parse_cgroup(text: &str) -> Option<String> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A removed cgroup is marked so.
    Some(path.strip_suffix(" (deleted)").unwrap_or(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &str = "S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 3";

    #[test]
    fn a_name_may_hold_anything() {
        for comm in ["sh", "a b", ") Z 1 (", "((", "))", ""] {
            let stat = parse_stat(format!("42 ({comm}) {FIELDS}").as_bytes()).unwrap();
            assert_eq!(stat.comm, comm);
            assert_eq!(stat.state, 'S');
            assert_eq!((stat.parent, stat.group, stat.session), (7, 8, 9));
            assert_eq!(stat.start_time_ns, 123_450_000_000);
            // 4194560 is 0x400100.
            assert!(stat.has_executed);
        }
        let torn = parse_stat(b"1 (x) Z 0 -1 -1 0 -1").map(|stat| stat.comm);
        assert_eq!(torn, None);
        assert_eq!(parse_stat(b""), None);
        let odd = [b"42 (\xff\n) ", FIELDS.as_bytes()].concat();
        assert_eq!(parse_stat(&odd).unwrap().comm, "\u{fffd}\n");
    }

    #[test]
    fn own_process() {
        let own = stat(std::process::id()).unwrap();
        assert!(!own.is_zombie());
        assert!(own.start_time_ns < since_boot_ns());
        assert_eq!(own.start_time_ns % TICK_NS, 0);
        assert!(stat(u32::MAX).is_err());
        assert!(pids().unwrap().contains(&std::process::id()));
        assert_eq!(boot_id().unwrap().len(), 36);
    }

    #[test]
    fn only_the_unified_hierarchy_counts() {
        let text = "9:name=systemd:/x\n4:memory:/y\n0::/a/b\n";
        assert_eq!(parse_cgroup(text).as_deref(), Some("/a/b"));
        assert_eq!(parse_cgroup("4:memory:/y\n"), None);
        assert_eq!(parse_cgroup("0::/a (deleted)\n").as_deref(), Some("/a"));
    }
}

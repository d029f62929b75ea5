//! Where the kernel puts a core dump: what `core_pattern` says of it (core(5)).
//!
//! Looks for no file: by the time that anybody asks, it may have been moved.

use std::fs;

use crate::decode::ProcessExit;
use crate::model::{Cause, CoreDump, Instance};

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";
const CORE_USES_PID: &str = "/proc/sys/kernel/core_uses_pid";

/// What the pattern may ask for.
#[derive(Debug, Clone, Copy)]
struct Facts<'a> {
    instance: Instance,
    host_pid: u32,
    uid: u32,
    comm: &'a str,
    signal: i32,
}

/// Where the core of a process went, if it has dumped one.
pub(super) fn of(exit: &ProcessExit) -> Option<CoreDump> {
    let Cause::Signaled {
        signal,
        core_dumped: true,
        ..
    } = exit.cause
    else {
        return None;
    };
    let pattern = fs::read_to_string(CORE_PATTERN).ok()?;
    let uses_pid = fs::read_to_string(CORE_USES_PID).is_ok_and(|text| text.trim() != "0");
    let facts = Facts {
        instance: exit.instance,
        host_pid: exit.host_pid,
        uid: exit.uid,
        comm: &exit.comm,
        signal: signal.number(),
    };
    Some(by_pattern(pattern.trim_end_matches('\n'), uses_pid, facts))
}

fn by_pattern(pattern: &str, uses_pid: bool, facts: Facts<'_>) -> CoreDump {
    let piped_to = pattern.strip_prefix('|').map(|command| {
        let program = command.split_whitespace().next().unwrap_or_default();
        program.to_owned()
    });
    let file = match piped_to {
        Some(_) => None,
        None => expand(pattern, uses_pid, facts),
    };
    CoreDump {
        pattern: pattern.to_owned(),
        piped_to,
        file,
    }
}

/// `format_corename` in fs/coredump.c, for what is known here.
fn expand(pattern: &str, uses_pid: bool, facts: Facts<'_>) -> Option<String> {
    let mut name = String::new();
    let mut has_pid = false;
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            name.push(c);
            continue;
        }
        match rest.next() {
            None => break,
            Some('%') => name.push('%'),
            Some('p') => {
                has_pid = true;
                name += &facts.instance.pid.to_string();
            }
            Some('P') => name += &facts.host_pid.to_string(),
            Some('u') => name += &facts.uid.to_string(),
            Some('s') => name += &facts.signal.to_string(),
            Some('e') => name += &facts.comm.replace('/', "!"),
            Some('h') => name += nix::unistd::gethostname().ok()?.to_str()?,
            // Anything else is known to the kernel alone.
            Some(_) => return None,
        }
    }
    if uses_pid && !has_pid {
        name += &format!(".{}", facts.instance.pid);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pattern: &str, uses_pid: bool) -> (Option<String>, Option<String>) {
        let facts = Facts {
            instance: Instance {
                pid: 7,
                start_time_ns: 0,
            },
            host_pid: 77,
            uid: 1000,
            comm: "a/b",
            signal: 11,
        };
        let core = by_pattern(pattern, uses_pid, facts);
        assert_eq!(core.pattern, pattern);
        (core.file, core.piped_to)
    }

    #[test]
    fn a_file_is_named_if_all_of_it_is_known() {
        let file = |pattern, uses_pid| told(pattern, uses_pid).0;
        assert_eq!(file("core", false).as_deref(), Some("core"));
        assert_eq!(file("core", true).as_deref(), Some("core.7"));
        let long = "/var/crash/%e.%p.%P.%u.%s%%";
        let expected = "/var/crash/a!b.7.77.1000.11%";
        assert_eq!(file(long, true).as_deref(), Some(expected));
        assert_eq!(file("core.%t", false), None);
        assert_eq!(file("core%", false).as_deref(), Some("core"));
    }

    #[test]
    fn a_pipe_is_named_by_its_program() {
        let (file, program) = told("|/usr/lib/systemd/systemd-coredump %P %u", true);
        assert_eq!(file, None);
        assert_eq!(
            program.as_deref(),
            Some("/usr/lib/systemd/systemd-coredump")
        );
    }
}

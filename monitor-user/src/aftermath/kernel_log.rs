//! The kernel's own log, for what none of its tracepoints tells.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

use crate::supervisor::OomScope;

const KERNEL_LOG: &str = "/dev/kmsg";

/// A record of the log is no longer (`PRINTKRB_RECORD_MAX`, kernel/printk/internal.h).
const LONGEST_RECORD: usize = 8192;

/// Whose memory ran out when the kernel killed that process, as its log says. `None` if it does
/// not: the log has no line for every kill when there are many, and not everybody may read it.
pub(super) fn oom_scope(host_pid: u32) -> Option<OomScope> {
    let log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(KERNEL_LOG)
        .ok()?;
    scope_in(Records(log), host_pid)
}

/// The last line of that process's counts: pids come again.
fn scope_in(records: impl Iterator<Item = String>, host_pid: u32) -> Option<OomScope> {
    let pid = format!(",pid={host_pid},");
    let scopes = records.filter_map(|record| {
        // dump_oom_victim in mm/oom_kill.c
        let (_, line) = record.split_once("oom-kill:constraint=")?;
        if !line.contains(&pid) {
            return None;
        }
        match line.split(',').next()? {
            "CONSTRAINT_MEMCG" => Some(OomScope::Cgroup),
            "CONSTRAINT_NONE" => Some(OomScope::Global),
            _ => None,
        }
    });
    scopes.last()
}

/// One record for each `read(2)`, until there are no more.
struct Records(File);

impl Iterator for Records {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut record = [0; LONGEST_RECORD];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let record = record.get(..length)?;
                    return Some(String::from_utf8_lossy(record).into_owned());
                }
                // EPIPE: the oldest records went while they were read.
                Err(error)
                    if [ErrorKind::Interrupted, ErrorKind::BrokenPipe].contains(&error.kind()) => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_pid_counts() {
        let line = |constraint: &str, pid: u32| {
            format!(
                "6,900,5,-;oom-kill:constraint={constraint},nodemask=(null),cpuset=/,\
                 mems_allowed=0,oom_memcg=/a,task_memcg=/a,task=x,pid={pid},uid=0\n"
            )
        };
        let log = [
            line("CONSTRAINT_NONE", 7),
            line("CONSTRAINT_MEMCG", 7),
            line("CONSTRAINT_NONE", 77),
            line("CONSTRAINT_CPUSET", 8),
            "6,901,5,-;something else, pid=7,\n".to_owned(),
        ];
        let scope = |pid| scope_in(log.clone().into_iter(), pid);
        assert_eq!(scope(7), Some(OomScope::Cgroup));
        assert_eq!(scope(77), Some(OomScope::Global));
        assert_eq!(scope(8), None);
        assert_eq!(scope(9), None);
    }
}

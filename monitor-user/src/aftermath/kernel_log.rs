//! The kernel's own log, for what none of its tracepoints tells.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::libc;

use crate::clock;
use crate::model::OomScope;

const KERNEL_LOG: &str = "/dev/kmsg";

/// A record of the log is no longer (`PRINTKRB_RECORD_MAX`, kernel/printk/internal.h).
const LONGEST_RECORD: usize = 8192;

/// The log's clock is not adjusted, others are, by up to 500 ppm (`MAXFREQ`, kernel/time/ntp.c): of
/// the time since boot they may be apart by a part in so many.
const DRIFT: u32 = 2000;
/// And by so much more, as they do not start at the same moment.
const APART: Duration = Duration::from_secs(10);

/// Whose memory ran out when the kernel killed that process, as its log says. `None` if it does
/// not: the log has no line for every kill when there are many, and not everybody may read it.
pub(super) fn oom_scope(host_pid: u32, exited_at: Duration, uptime: Duration) -> Option<OomScope> {
    let log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(KERNEL_LOG)
        .ok()?;
    let life = life_in_log(exited_at, uptime, clock::suspended());
    scope_in(Records(log), host_pid, &life)
}

/// From the process's start to its exit, by the log's clock. That stands still while the host is
/// suspended, which it may have been for so long, nobody knows when.
fn life_in_log(
    exited_at: Duration,
    uptime: Duration,
    suspended: Duration,
) -> RangeInclusive<Duration> {
    let apart = exited_at / DRIFT + APART;
    let start = exited_at.saturating_sub(uptime);
    start.saturating_sub(suspended + apart)..=exited_at + apart
}

/// The last line of that process's counts: pids come again. What is older than the process, or
/// younger, is of another one.
fn scope_in(
    records: impl Iterator<Item = String>,
    host_pid: u32,
    life: &RangeInclusive<Duration>,
) -> Option<OomScope> {
    let pid = format!(",pid={host_pid},");
    let scopes = records.filter_map(|record| {
        // dump_oom_victim in mm/oom_kill.c
        let (head, line) = record.split_once("oom-kill:constraint=")?;
        if !line.contains(&pid) || !life.contains(&time_of(head)?) {
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

/// When a record was written: "priority,number,microseconds,…;"
/// (Documentation/ABI/testing/dev-kmsg).
fn time_of(head: &str) -> Option<Duration> {
    let microseconds = head.split(',').nth(2)?.parse().ok()?;
    Some(Duration::from_micros(microseconds))
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

    fn line(seconds: u64, constraint: &str, pid: u32) -> String {
        format!(
            "6,900,{seconds}000000,-;oom-kill:constraint={constraint},nodemask=(null),cpuset=/,\
             mems_allowed=0,oom_memcg=/a,task_memcg=/a,task=x,pid={pid},uid=0\n"
        )
    }

    #[test]
    fn the_last_line_of_a_pid_counts() {
        let log = [
            line(5, "CONSTRAINT_NONE", 7),
            line(5, "CONSTRAINT_MEMCG", 7),
            line(5, "CONSTRAINT_NONE", 77),
            line(5, "CONSTRAINT_CPUSET", 8),
            "6,901,5000000,-;something else, pid=7,\n".to_owned(),
        ];
        let life = Duration::ZERO..=Duration::from_secs(10);
        let scope = |pid| scope_in(log.clone().into_iter(), pid, &life);
        assert_eq!(scope(7), Some(OomScope::Cgroup));
        assert_eq!(scope(77), Some(OomScope::Global));
        assert_eq!(scope(8), None);
        assert_eq!(scope(9), None);
    }

    #[test]
    fn lines_of_others_that_had_the_pid_do_not_count() {
        let life = Duration::from_secs(100)..=Duration::from_secs(200);
        let scope = |lines: &[String]| scope_in(lines.iter().cloned(), 7, &life);
        let before = line(99, "CONSTRAINT_NONE", 7);
        let own = line(150, "CONSTRAINT_MEMCG", 7);
        let after = line(201, "CONSTRAINT_NONE", 7);
        assert_eq!(
            scope(&[before.clone(), own, after.clone()]),
            Some(OomScope::Cgroup)
        );
        assert_eq!(scope(&[before, after]), None);
        assert_eq!(
            scope(&[line(150, "CONSTRAINT_MEMCG", 7).replace(',', ";")]),
            None
        );
    }

    #[test]
    fn a_life_is_told_by_the_logs_clock() {
        let life = |suspended| {
            let seconds = Duration::from_secs;
            let life = life_in_log(seconds(20_000), seconds(10_000), seconds(suspended));
            (life.start().as_secs(), life.end().as_secs())
        };
        assert_eq!(life(0), (9_980, 20_020));
        assert_eq!(life(500), (9_480, 20_020));
        assert_eq!(life(30_000), (0, 20_020));
    }
}

//! Processes below a process, and what they take.

use std::{collections::HashMap, fs};

use anyhow::{Context as _, Result};

/// All processes of the host, by their parents.
pub(super) struct Tree(HashMap<u32, Vec<u32>>);

impl Tree {
    pub(super) fn read() -> Result<Self> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in fs::read_dir("/proc").context("read /proc")?.flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(pid) = pid else {
                continue;
            };
            if let Some(parent) = parent(pid) {
                children.entry(parent).or_default().push(pid);
            }
        }
        Ok(Self(children))
    }

    /// A process and all below it that is no service: it does not run the actor, nor is it the shell that keeps
    /// a supervisor.
    pub(super) fn supervisors(&self, first: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut waiting = vec![first];
        while let Some(pid) = waiting.pop() {
            waiting.extend(self.0.get(&pid).into_iter().flatten());
            let program = fs::read_link(format!("/proc/{pid}/exe"));
            let is_service = program.is_ok_and(|path| path.ends_with("actor"));
            if !is_service && !is_keeper(pid) {
                found.push(pid);
            }
        }
        found
    }
}

/// The parent of a process, while it is there.
pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may have blanks and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// What the shell that starts a supervisor is called, as its `$0`.
pub(super) const KEEPER: &str = "respawn-bench-keeper";

fn is_keeper(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .any(|word| word == KEEPER.as_bytes())
}

/// What processes have taken.
#[derive(Clone, Copy, Default)]
pub(super) struct Taken {
    /// Times that a thread was switched away from.
    pub(super) switches: u64,
    pub(super) cpu_ns: u64,
}

/// Of these processes so far.
pub(super) fn taken(pids: &[u32]) -> Taken {
    let mut sum = Taken::default();
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let status = text("status");
            let switches = status.lines().filter(|line| line.contains("ctxt_switches"));
            sum.switches += switches.filter_map(number).sum::<u64>();
            let schedule = text("schedstat");
            let running = schedule
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok());
            sum.cpu_ns += running.unwrap_or(0u64);
        }
    }
    sum
}

/// The memory of these processes, each page shared by its users, in KiB.
pub(super) fn pss_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        text.lines()
            .find(|line| line.starts_with("Pss:"))
            .and_then(number)
    };
    pids.iter().filter_map(of).sum()
}

/// `Pss:    16644 kB`
fn number(line: &str) -> Option<u64> {
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_this_process_below_its_parent() {
        let own = std::process::id();
        let parent = parent(own).unwrap();
        assert!(Tree::read().unwrap().supervisors(parent).contains(&own));
        assert!(pss_kib(&[own]) > 0);
        assert!(taken(&[own]).cpu_ns > 0);
    }
}

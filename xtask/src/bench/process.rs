//! Processes that a benchmark starts; none outlives it.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::Value;

use super::{
    Bench,
    wait::{Interrupt, Lines},
};
use crate::workspace::shown;

/// A process of the benchmark, killed when the value goes.
pub(super) struct Started {
    child: Child,
    pidfd: OwnedFd,
}

impl Started {
    /// Starts a command of [`tethered_command`](crate::demo::tethered_command), which the kernel
    /// kills should the benchmark itself be killed.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        // A group of its own: Ctrl-C reaches the benchmark alone, which ends things in order.
        let spawned = command.process_group(0).spawn();
        let mut child = spawned.with_context(|| format!("start {}", shown(command)))?;
        let pid = rustix::process::Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { child, pidfd }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error).context("open a pidfd")
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Not waited for before the value goes, so the pid is still its own.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
    }

    pub(super) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, which the command has piped.
    pub(super) fn stdout(&mut self) -> Result<Lines> {
        Lines::of(self.child.stdout.take().context("no piped output")?)
    }

    /// Waits for its end.
    pub(super) fn wait(mut self, interrupt: &Interrupt) -> Result<ExitStatus> {
        interrupt.readable([self.as_fd()])?;
        self.child.wait().context("wait for a process")
    }
}

/// Its pidfd, readable once it has ended.
impl AsFd for Started {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Both fail only for one that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `respawn watch --json --stats`.
pub(super) struct Watch {
    process: Started,
    pub(super) lines: Lines,
    /// Read no more, and kept open.
    _errors: Lines,
}

/// What a watch says of itself at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) shown: u64,
    pub(super) lost: u64,
    pub(super) wakeups: u64,
    pub(super) hook_runs: u64,
    pub(super) hook_run_time_ns: u64,
    pub(super) signal_hook_runs: u64,
    pub(super) signal_hook_run_time_ns: u64,
}

impl Watch {
    /// Starts one with these arguments; returns when it watches.
    pub(super) fn start(bench: &Bench, arguments: &[String]) -> Result<Self> {
        let mut command = bench.command(&bench.respawn)?;
        command
            .args(["watch", "--json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Started::start(&mut command)?;
        let lines = process.stdout()?;
        let stderr = process.child.stderr.take().context("no piped stderr")?;
        let mut errors = Lines::of(stderr)?;
        let mut said = Vec::new();
        while let Some(line) = errors.next(&bench.interrupt)? {
            if line.contains("watching ") && line.contains("Ctrl-C") {
                return Ok(Self {
                    process,
                    lines,
                    _errors: errors,
                });
            }
            said.push(line);
        }
        bail!("respawn watch ended at once:\n{}", said.join("\n"))
    }

    /// Reads its output, and forgets it, until a process ends.
    pub(super) fn read_until_end_of(
        &mut self,
        other: &Started,
        interrupt: &Interrupt,
    ) -> Result<()> {
        loop {
            let [read, ended] = interrupt.readable([self.lines.as_fd(), other.as_fd()])?;
            if read {
                self.lines.fill()?;
                self.lines.keep_last();
            }
            if ended {
                return Ok(());
            }
            if self.lines.has_ended() {
                bail!("respawn watch ended too early");
            }
        }
    }

    /// Ends it the way Ctrl-C does.
    pub(super) fn stop(self, interrupt: &Interrupt) -> Result<Summary> {
        self.process.signal(Signal::SIGINT)?;
        self.finish(interrupt)
    }

    /// Reads its output to the end.
    pub(super) fn finish(mut self, interrupt: &Interrupt) -> Result<Summary> {
        while !self.lines.has_ended() {
            interrupt.readable([self.lines.as_fd()])?;
            self.lines.fill()?;
            self.lines.keep_last();
        }
        let line = self.lines.take().context("respawn watch said nothing")?;
        let status = self.process.wait(interrupt)?;
        if !status.success() {
            bail!("respawn watch ended with {status}");
        }
        Summary::read(&line)
    }
}

impl Summary {
    fn read(line: &str) -> Result<Self> {
        let summary: Value = serde_json::from_str(line).context(line.to_string())?;
        let number = |key: &str| {
            let number = summary[key].as_u64();
            number.with_context(|| format!("no {key} in respawn watch's last line {line}"))
        };
        let optional = |key: &str| summary[key].as_u64().unwrap_or(0);
        Ok(Self {
            shown: number("shown")?,
            lost: number("lost")?,
            wakeups: number("wakeups")?,
            hook_runs: optional("hook_runs"),
            hook_run_time_ns: optional("hook_run_time_ns"),
            signal_hook_runs: optional("signal_hook_runs"),
            signal_hook_run_time_ns: optional("signal_hook_run_time_ns"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary() {
        let line = r#"{"event":"summary","shown":1,"lost":2,"wakeups":3,"hook_runs":4,"hook_run_time_ns":5}"#;
        let summary = Summary {
            shown: 1,
            lost: 2,
            wakeups: 3,
            hook_runs: 4,
            hook_run_time_ns: 5,
            ..Summary::default()
        };
        assert_eq!(Summary::read(line).unwrap(), summary);
        assert!(Summary::read(r#"{"event":"exited"}"#).is_err());
    }
}

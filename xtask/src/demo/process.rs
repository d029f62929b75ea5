//! Processes of the demo and of the benchmarks: none outlives the one that started it.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, getppid},
};

use crate::{Verdict, workspace::shown};

/// Run a program that is killed when the demo ends
#[derive(clap::Args)]
pub(crate) struct TetheredArgs {
    /// The demo's pid
    #[arg(long)]
    to: i32,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// A command that begins as `cargo xtask tethered`.
pub(crate) fn tethered_command(program: &Path) -> Result<Command> {
    let mut command = own_command();
    let own = std::process::id().to_string();
    command.args(["tethered", "--to", &own, "--"]).arg(program);
    Ok(command)
}

/// A command of this very xtask. Not by its path: cargo may have put a newer one there.
pub(super) fn own_command() -> Command {
    Command::new("/proc/self/exe")
}

/// Becomes the program, which the kernel kills when the demo dies: a parent-death signal outlives
/// `exec`, and to set it here takes no unsafe code between fork and exec.
///
/// # Errors
/// When the demo is gone already, or the program cannot be run. It returns in no other case.
pub(crate) fn tethered(args: &TetheredArgs) -> Result<Verdict> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("set the parent-death signal")?;
    if getppid().as_raw() != args.to {
        bail!("the demo is gone");
    }
    let mut command = Command::new(&args.command[0]);
    let error = command.args(&args.command[1..]).exec();
    Err(error).with_context(|| format!("run {}", shown(&command)))
}

/// A process that the demo started. It does not outlive this value.
pub(super) struct Started(Child);

impl Started {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        // A group of its own: Ctrl-C reaches the demo alone, which ends things in order.
        let child = command.process_group(0).spawn();
        child
            .map(Self)
            .with_context(|| format!("start {}", shown(command)))
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(super) fn stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    pub(super) fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("wait for a process of the demo")
    }

    /// Not yet waited for, so the pid is still its own.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Both fail only for one that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_does_not_outlive_its_handle() {
        let mut command = Command::new("sleep");
        let process = Started::start(command.arg("600")).unwrap();
        let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap());
        assert_eq!(kill(pid, None), Ok(()));
        drop(process);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}

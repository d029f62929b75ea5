//! Runs the command of a forking service, and finds the process that it leaves in the background.
//!
//! All that the command has started is a descendant of this process, which is the reaper of orphans: so
//! a pid file cannot name a process that is not the service's, whoever has written it.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::look::{Started, children};
use crate::model::Cause;
use crate::os::proc;

/// Between two looks at the pid file: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The only process that is left is the main one if it is so for that long.
const SETTLING: Duration = Duration::from_millis(100);

/// The first line of a pid file is no longer than that.
const LONGEST_LINE: u64 = 64;

/// So far up is looked for the ancestors of a process.
const MOST_ANCESTORS: u32 = 64;

/// A command that goes into the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The program's absolute path, looked up already.
    pub(crate) program: PathBuf,
    /// `argv`, `argv[0]` included, with its variables replaced.
    pub(crate) arguments: Vec<String>,
    /// Where the pid of the main process will be; `None`: it is the only one that is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid_file: Option<PathBuf>,
    /// How long all of it may take: `start_timeout`.
    pub(crate) timeout: Duration,
}

/// Runs it, and returns the pid of the main process. If there is none, all that it has started is killed.
///
/// # Errors
/// The command has failed, or its main process was not known in time.
pub(super) async fn run(launch: &Launch) -> Result<u32> {
    if let Some(pid_file) = &launch.pid_file {
        remove_stale(pid_file);
    }
    let started = Started;
    let mut met = anyhow!("its command has not ended");
    let found = timeout(launch.timeout, main_process(launch, &mut met)).await;
    let pid = found.unwrap_or_else(|_| {
        let time = launch.timeout;
        Err(anyhow!(
            "did not start within start_timeout ({time:?}): {met:#}"
        ))
    })?;
    // They are to stay.
    std::mem::forget(started);
    Ok(pid)
}

/// `met`: what was in the way last.
async fn main_process(launch: &Launch, met: &mut anyhow::Error) -> Result<u32> {
    let mut command = Command::new(&launch.program);
    command
        .args(launch.arguments.iter().skip(1))
        .stdin(Stdio::null())
        // Who stays in the group of this process ends with it.
        .process_group(0);
    if let Some(name) = launch.arguments.first() {
        command.arg0(name);
    }
    let status = command.spawn().context("cannot be run")?.wait().await?;
    let cause = Cause::from_wait_status(status.into_raw());
    if cause != (Cause::Exited { code: 0 }) {
        bail!("{cause}");
    }
    match &launch.pid_file {
        Some(pid_file) => named(pid_file, met).await,
        None => only_one(met).await,
    }
}

/// Waits until the pid file names the process.
async fn named(pid_file: &Path, met: &mut anyhow::Error) -> Result<u32> {
    let mut pause = FIRST_PAUSE;
    loop {
        // Who has gone by the time of the second look may have been there at the first.
        let is_left = !left().is_empty();
        match named_in(pid_file) {
            Ok(pid) => return Ok(pid),
            Err(why) if is_left => *met = why,
            Err(why) => bail!("exited with 0 and left no process behind; {why:#}"),
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Waits until one process is left, beside those that it has started itself. Most daemons fork twice: the
/// one between is there for a moment only.
async fn only_one(met: &mut anyhow::Error) -> Result<u32> {
    let mut before = Vec::new();
    loop {
        let now = left();
        match now.as_slice() {
            [] => bail!("exited with 0 and left no process behind"),
            [pid] if before == now => return Ok(*pid),
            [_] => {}
            several => {
                *met = anyhow!(
                    "it has left several processes behind ({several:?}); name the file with the pid of the \
                     main one (pid_file)"
                );
            }
        }
        before = now;
        sleep(SETTLING).await;
    }
}

/// The process that the pid file names, if it is one that this process has started, and lives.
fn named_in(path: &Path) -> Result<u32> {
    let shown = path.display();
    let pid = read(path).with_context(|| format!("{shown} (pid_file)"))?;
    let stat = proc::stat(pid).ok().filter(|stat| !stat.is_zombie());
    let stat = stat.with_context(|| format!("{shown} names {pid}, which does not run"))?;
    ensure!(
        is_descendant(stat.parent),
        "{shown} names {pid} ({}), which is not a process of this service",
        stat.comm
    );
    Ok(pid)
}

/// The number in the first line.
fn read(path: &Path) -> Result<u32> {
    // A FIFO does not hold it up.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    ensure!(file.metadata()?.is_file(), "not a file");
    let mut line = String::new();
    file.take(LONGEST_LINE).read_to_string(&mut line)?;
    let line = line.lines().next().unwrap_or_default().trim();
    let pid = line.parse().ok().filter(|pid| *pid > 1);
    pid.context("its first line is not a pid")
}

fn is_descendant(parent: u32) -> bool {
    let mut parent = parent;
    for _ in 0..MOST_ANCESTORS {
        if parent == std::process::id() {
            return true;
        }
        match proc::stat(parent) {
            Ok(stat) if parent > 1 => parent = stat.parent,
            _ => return false,
        }
    }
    false
}

/// The children of this process that run: orphans of the command's, by now. Empty only if it has none: who
/// ends between two looks has left its own children to this process before it could be reaped.
fn left() -> Vec<u32> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Vec::new(),
            Ok(WaitStatus::StillAlive) => {}
            _ => continue,
        }
        let pids = children().into_iter().map(|it| it.as_raw().cast_unsigned());
        let runs = |pid: &u32| proc::stat(*pid).is_ok_and(|stat| !stat.is_zombie());
        let running: Vec<u32> = pids.filter(runs).collect();
        if !running.is_empty() {
            return running;
        }
    }
}

/// Removes what an earlier instance has left: some daemons do not start beside it. Whatever does not look
/// like a pid file stays.
fn remove_stale(path: &Path) {
    let is_file = fs::symlink_metadata(path).is_ok_and(|it| it.is_file());
    if is_file && read(path).is_ok() {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::alone;

    const MODULE: &str = "prober::launch::tests";

    fn shell(script: &str, pid_file: &Path) -> Launch {
        Launch {
            program: "/bin/sh".into(),
            arguments: ["sh", "-c", script].map(str::to_owned).to_vec(),
            pid_file: Some(pid_file.to_owned()),
            timeout: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn the_process_in_the_pid_file_is_found() {
        if !alone(&format!("{MODULE}::the_process_in_the_pid_file_is_found")) {
            return;
        }
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.pid");
        // A stale file, and one that is written late.
        fs::write(&file, "1234567\n").unwrap();
        let script = format!(
            "[ -e {0} ] && exit 7; (sleep 0.2; sleep 20 & echo $! > {0}) &",
            file.display()
        );
        let pid = run(&shell(&script, &file)).await.unwrap();
        assert_eq!(proc::stat(pid).unwrap().comm, "sleep");
        drop(Started);
    }

    #[tokio::test]
    async fn without_a_file_it_is_the_only_one_that_is_left() {
        if !alone(&format!(
            "{MODULE}::without_a_file_it_is_the_only_one_that_is_left"
        )) {
            return;
        }
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let launch = |script: &str| Launch {
            pid_file: None,
            timeout: Duration::from_secs(1),
            ..shell(script, Path::new(""))
        };
        // One between, and a worker.
        let script = "(sh -c 'sleep 20 & wait' &) & exit 0";
        let pid = run(&launch(script)).await.unwrap();
        assert_eq!(proc::stat(pid).unwrap().comm, "sh");
        drop(Started);
        let error = run(&launch("sleep 20 & sleep 20 &")).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("several processes"), "{error}");
        let error = run(&launch("exit 0")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "exited with 0 and left no process behind"
        );
    }

    #[tokio::test]
    async fn who_forks_twice_is_never_missed() {
        if !alone(&format!("{MODULE}::who_forks_twice_is_never_missed")) {
            return;
        }
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.pid");
        let inner = format!(
            "setsid sh -c 'echo $$ > {}; exec sleep 20' &",
            file.display()
        );
        for _ in 0..100 {
            let launch = shell(&format!("( {inner} ) &"), &file);
            let pid = run(&launch).await.unwrap();
            assert!(proc::stat(pid).is_ok());
            drop(Started);
        }
    }

    #[tokio::test]
    async fn what_is_no_process_of_it_is_refused() {
        if !alone(&format!("{MODULE}::what_is_no_process_of_it_is_refused")) {
            return;
        }
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.pid");
        let shown = file.display();
        let parent = nix::unistd::getppid();
        for (script, expected) in [
            ("exit 3".to_owned(), "exited with 3".to_owned()),
            ("kill -9 $$".to_owned(), "killed by SIGKILL".to_owned()),
            (
                format!("echo $$ > {shown}"),
                "exited with 0 and left no process behind".to_owned(),
            ),
            (
                format!("echo {parent} > {shown}; sleep 20 &"),
                format!("{shown} names {parent}"),
            ),
            (
                format!("echo > {shown}; sleep 20 &"),
                format!("{shown} (pid_file): its first line is not a pid"),
            ),
            (
                format!("rm -f {shown}; mkfifo {shown}; sleep 20 &"),
                format!("{shown} (pid_file): not a file"),
            ),
        ] {
            // On a busy host the command itself may take longer than that.
            let mut told = String::new();
            for seconds in [0.5, 5.0, 50.0] {
                let launch = Launch {
                    timeout: Duration::from_secs_f64(seconds),
                    ..shell(&script, &file)
                };
                told = format!("{:#}", run(&launch).await.unwrap_err());
                assert!(children().is_empty(), "{script}");
                if told.contains(&expected) {
                    break;
                }
            }
            assert!(told.contains(&expected), "{script}: {told}");
        }
    }
}

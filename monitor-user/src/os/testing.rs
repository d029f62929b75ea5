//! What the tests of `os` share: real processes, ended whatever becomes of the test.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::cgroup::{Cgroups, Name, Slot};
use super::pidfd::{self, Reaped};
use super::spawn::{Child, SpawnError, Spawner};
use super::{proc, signal};
use crate::model::{Exec, Signal};

/// A program with no output and a small environment.
pub(super) fn exec(arguments: &[&str]) -> Exec {
    Exec {
        program: PathBuf::from(arguments[0]),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        ..Exec::nothing()
    }
}

pub(super) fn shell(script: &str) -> Exec {
    exec(&["/bin/sh", "-c", script])
}

/// A started process, killed and reaped at the end.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) start_time_ns: u64,
}

impl Running {
    pub(super) fn start(exec: &Exec) -> Self {
        let mut spawner = Spawner::new(None).unwrap();
        Self::start_with(&mut spawner, exec, None).unwrap()
    }

    pub(super) fn start_with(
        spawner: &mut Spawner,
        exec: &Exec,
        slot: Option<&Slot>,
    ) -> Result<Self, SpawnError> {
        let prepared = Arc::new(spawner.prepare(exec)?);
        spawner.spawn(prepared, slot.cloned()).map(Self::from)
    }

    /// Waits for its end, at most 10 s, and reaps it.
    pub(super) fn status(&self) -> i32 {
        self.wait_readable();
        match pidfd::reap(self.pidfd.as_fd()).unwrap() {
            Reaped::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn wait_readable(&self) {
        assert!(readable_within(&self.pidfd, 10_000), "still running");
    }

    pub(super) fn signal(&self, signal: Signal) {
        assert!(signal::send(self.pidfd.as_fd(), signal).unwrap());
    }

    /// A line of `/proc/PID/status`, without its name.
    pub(super) fn status_line(&self, name: &str) -> String {
        status_line(&self.pid.to_string(), name)
    }

    /// Waits until exec is through: `/proc` shows the new name.
    pub(super) fn wait_for_name(&self, name: &str) {
        until(name, || proc::stat(self.pid).unwrap().comm == name);
    }
}

impl From<Child> for Running {
    fn from(child: Child) -> Self {
        Self {
            pid: child.pid,
            pidfd: child.pidfd,
            start_time_ns: child.start_time_ns,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = signal::send_to_group(self.pidfd.as_fd(), self.pid, Signal::KILL);
        let _ = signal::send(self.pidfd.as_fd(), Signal::KILL);
        readable_within(&self.pidfd, 10_000);
        let _ = pidfd::reap(self.pidfd.as_fd());
    }
}

pub(super) fn status_line(pid: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap()
        .trim()
        .to_owned()
}

pub(super) fn readable_within(fd: impl AsFd, milliseconds: u16) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(milliseconds)).unwrap() > 0
}

/// Waits until it is so, at most about 10 s.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("never happened: {what}");
}

/// Whether the test may go on with what needs root; says so if not.
pub(super) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// Cgroups of the test's own, removed at the end.
pub(super) struct TestCgroups(Option<Cgroups>);

impl TestCgroups {
    pub(super) fn open(test: &str) -> Option<Self> {
        let name = format!("test-{}-{test}", std::process::id());
        match Cgroups::open(&Name::passing(name), &mut Spawner::new(None).unwrap()) {
            Ok(cgroups) => Some(Self(Some(cgroups))),
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    }
}

impl std::ops::Deref for TestCgroups {
    type Target = Cgroups;

    fn deref(&self) -> &Cgroups {
        self.0.as_ref().unwrap()
    }
}

impl Drop for TestCgroups {
    fn drop(&mut self) {
        if let Some(cgroups) = self.0.take() {
            cgroups.remove();
        }
    }
}

/// Runs the test in a process of its own; `true` in there. The tests of one process share its
/// children and descriptors.
pub(crate) fn alone(test: &str) -> bool {
    const MARK: &str = "RESPAWN_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "no such test: {test}\n{text}");
    false
}

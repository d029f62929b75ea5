//! The harness of the black-box tests: finds the binary, starts processes, waits for events.
//!
//! Waits for what is to happen, with a generous deadline, never for a time. Kills only what it
//! started.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails by panicking"
)]
#![expect(
    clippy::should_implement_trait,
    reason = "what `next` returns here is no iterator's item"
)]

mod agent;

pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod dead_mount;
pub mod debian;
pub mod journald;
pub mod recorder;
pub mod rig;
pub mod scene;
pub mod shipper;
pub mod tmux;
pub mod tools;
pub mod tracer;
pub mod yaml;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub use agent::{
    Agent, Follow, SIGHTS, Setup, Sight, is_alive, pid_of, proc_status, shell, signal_to, sleeping,
    timed,
};

/// How long anything may take before a test gives up: far longer than it ever takes.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The present moment.
#[expect(
    clippy::disallowed_methods,
    reason = "tests measure, and give up in time"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// A process, as a descriptor that can be polled for its end.
pub fn pidfd_open(pid: u32) -> std::io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is a new descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Between two kills of a service: one that ends more than 20 times within a second is delayed, by the
/// next agent too.
pub fn rest() {
    std::thread::sleep(Duration::from_millis(60));
}

/// Waits until there is something.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_or(what, look, String::new)
}

/// The same, with more to say if it does not come.
pub fn eventually_or<T>(
    what: &str,
    mut look: impl FnMut() -> Option<T>,
    describe: impl FnOnce() -> String,
) -> T {
    let start = now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}\n{}",
            describe()
        );
        thread::sleep(Duration::from_micros(200));
    }
}

/// Appends to a file, and makes it where it is missing.
pub fn append(path: &Path, text: &str) {
    let file = fs::File::options().append(true).create(true).open(path);
    let mut file = file.expect("the file");
    file.write_all(text.as_bytes())
        .expect("to append to the file");
}

/// The host's mount of cgroup2.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(2) == Some(&"cgroup2")).then(|| words[1].into())
    })
}

/// The binary under test: `RESPAWN_BIN`, or the release build of this checkout.
pub fn respawn() -> Command {
    let path = std::env::var_os("RESPAWN_BIN").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/release/respawn"
            ))
        },
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "no {}: run `cargo xtask build`, or set RESPAWN_BIN",
        path.display()
    );
    Command::new(path)
}

/// The binary of the last release, 0.1.0, which `cargo xtask test` builds: for tests of upgrades.
///
/// # Errors
/// Why there is none here.
pub fn previous() -> Result<PathBuf, String> {
    let built = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/previous/0.1.0/respawn"
    );
    let path = std::env::var_os("RESPAWN_PREVIOUS_BIN").map_or(PathBuf::from(built), PathBuf::from);
    if path.exists() {
        return Ok(path);
    }
    Err(std::env::var("RESPAWN_NO_PREVIOUS")
        .unwrap_or_else(|_| "no binary of 0.1.0: `cargo xtask test` builds it".to_owned()))
}

/// Says that a test cannot run on this host, and why; `cargo xtask test` counts these.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    add_line("RESPAWN_SKIPS", &format!("{test}\t{reason}"));
}

/// Adds a line to the file that a variable names, if it is set.
pub(crate) fn add_line(variable: &str, line: &str) {
    if let Some(path) = std::env::var_os(variable) {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect(variable);
        // In one write: other tests add lines at the same time.
        let line = format!("{line}\n");
        file.write_all(line.as_bytes()).expect(variable);
    }
}

/// Whether the test may go on: only root may load kernel programs and make namespaces.
pub fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(test, "needs root");
    }
    root
}

/// Ends the test as skipped unless it runs as root.
#[macro_export]
macro_rules! needs_root {
    ($test:expr) => {
        if !$crate::is_root($test) {
            return;
        }
    };
}

/// Copies a program that is to be run.
///
/// By another process: what this one has open for writing, a child has too that another of the tests'
/// threads makes at that moment, until its exec, and as long nobody can run it ("Text file busy").
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut copy = Command::new("cp");
    copy.arg(from.as_ref()).arg(to.as_ref());
    assert!(copy.status().expect("cp").success(), "{copy:?}");
}

/// A process's environment.
pub fn environment(pid: u32) -> BTreeMap<String, String> {
    let pairs = words(pid, "environ").into_iter().map(|pair| {
        let (key, value) = pair.split_once('=').expect("a variable");
        (key.to_owned(), value.to_owned())
    });
    pairs.collect()
}

/// A process's arguments, its name first.
pub fn arguments(pid: u32) -> Vec<String> {
    words(pid, "cmdline")
}

fn words(pid: u32, file: &str) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).expect("a process");
    let text = String::from_utf8(bytes).expect("UTF-8");
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// The name of a task, by its directory in `/proc`.
fn comm(task: &str) -> String {
    fs::read_to_string(format!("/proc/{task}/comm")).expect("comm")
}

/// A process that the test started; killed when the value goes.
pub struct Victim {
    child: Child,
    lines: Lines,
}

impl Victim {
    /// Starts `program`.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        Self::from_command(Command::new(program).args(arguments))
    }

    /// Starts a command with its standard input and output piped. Returns when it has its own name.
    ///
    /// `spawn` returns somewhat earlier: the kernel wakes the parent, then waits for the old memory's
    /// lock, and only then gives the process its name (`exec_mmap` and `begin_new_exec`, fs/exec.c). A
    /// process that is killed meanwhile dies under the name of the thread that started it.
    pub fn from_command(command: &mut Command) -> Self {
        let before = comm("thread-self");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = child.id().to_string();
        eventually("a process has its own name", || {
            (comm(&pid) != before).then_some(())
        });
        let lines = Lines::of(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line of output.
    pub fn line(&mut self) -> String {
        self.lines
            .next()
            .expect("the process ended without the expected line")
    }

    /// Its standard input.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("kill");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("wait")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of a stream, read by a thread so that waiting for them has a deadline.
pub struct Lines(Receiver<String>);

impl Lines {
    /// Reads `stream` to its end.
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let (send, receive) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self(receive)
    }

    /// The next line; `None` at the end.
    pub fn next(&mut self) -> Option<String> {
        match self.0.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {DEADLINE:?}"),
        }
    }
}

/// A running `respawn watch`.
pub struct Watch {
    child: Child,
    events: Lines,
    errors: Lines,
    stdout: Option<ChildStdout>,
}

/// How a watch ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Exit events that had not been asked for.
    pub exits: Vec<Value>,
    /// The `summary` event.
    pub summary: Value,
    /// What it said on standard error since it started to watch.
    pub stderr: Vec<String>,
}

impl Watch {
    /// Starts `respawn watch --json` with more arguments; returns when it watches.
    pub fn start(arguments: &[&str]) -> Self {
        let mut watch = Self::start_unread(arguments);
        watch.read();
        watch
    }

    /// The same, with a standard output that nobody reads yet.
    pub fn start_unread(arguments: &[&str]) -> Self {
        Self::from_command_unread(respawn().args(["watch", "--json"]).args(arguments))
    }

    /// Starts a command that ends up as `respawn watch --json`.
    pub fn from_command(command: &mut Command) -> Self {
        let mut watch = Self::from_command_unread(command);
        watch.read();
        watch
    }

    fn from_command_unread(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr: ChildStderr = child.stderr.take().expect("piped");
        let mut errors = Lines::of(stderr);
        loop {
            match errors.next() {
                Some(line) if line.contains("watching ") && line.contains("Ctrl-C") => break,
                Some(line) => eprintln!("{line}"),
                None => panic!("the watch ended before it watched: {:?}", child.wait()),
            }
        }
        let stdout = child.stdout.take();
        Self {
            child,
            events: Lines(channel().1),
            errors,
            stdout,
        }
    }

    /// Starts reading its standard output.
    pub fn read(&mut self) {
        if let Some(stdout) = self.stdout.take() {
            self.events = Lines::of(stdout);
        }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next event.
    pub fn next(&mut self) -> Value {
        let line = self
            .events
            .next()
            .expect("the watch ended before the expected event");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// The next exit of that process.
    pub fn exit_of(&mut self, pid: u32) -> Value {
        loop {
            let event = self.next();
            if event["event"] == "exited" && event["pid"] == pid {
                return event;
            }
        }
    }

    /// Ends it by SIGINT.
    pub fn stop(self) -> Ended {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGINT).expect("kill");
        self.wait()
    }

    /// Waits for its own end.
    pub fn wait(mut self) -> Ended {
        self.read();
        let mut exits = Vec::new();
        let mut summary = Value::Null;
        while let Some(line) = self.events.next() {
            let event: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            match event["event"].as_str() {
                Some("summary") => summary = event,
                Some("exited") => exits.push(event),
                _ => {}
            }
        }
        let status = self.child.wait().expect("wait");
        let mut stderr = Vec::new();
        while let Some(line) = self.errors.next() {
            stderr.push(line);
        }
        Ended {
            status,
            exits,
            summary,
            stderr,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What runs a command in PID and mount namespaces of its own, with their own `/proc`.
pub const IN_PID_NAMESPACE: [&str; 5] = [
    "unshare",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
];

/// Runs a script so.
pub fn in_pid_namespace(shell_script: &str) -> Command {
    let [program, words @ ..] = IN_PID_NAMESPACE;
    let mut command = Command::new(program);
    command.args(words).args(["sh", "-c", shell_script]);
    command
}

/// Has `command` run by an unprivileged user (nobody).
pub fn unprivileged(command: &mut Command) -> &mut Command {
    command.uid(65534).gid(65534)
}

/// A copy of the command's program that any user may run, in a folder that goes with the value.
pub fn readable_by_all(command: &Command) -> Option<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir().ok()?;
    let all = Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), all.clone()).ok()?;
    let copy = folder.path().join("respawn");
    std::fs::copy(command.get_program(), &copy).ok()?;
    std::fs::set_permissions(&copy, all).ok()?;
    let works = unprivileged(Command::new(&copy).arg("--version"))
        .output()
        .ok()?
        .status
        .success();
    works.then_some((folder, copy))
}

/// Start time in nanoseconds since boot, from `/proc`.
pub fn start_time_ns(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, rest) = stat.rsplit_once(')').expect("stat");
    let ticks: u64 = rest
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|text| text.parse().ok())
        .expect("stat");
    ticks * 10_000_000
}

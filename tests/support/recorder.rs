//! A recorder of a test's own: its directory, its pins, and what it has recorded.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{eventually, respawn, signal_to};

/// Directories that outlive the recorders of one test.
pub struct RecorderDirs {
    dir: TempDir,
    pin_dir: PathBuf,
}

/// A recorder that runs.
pub struct Recorder(Child);

impl Default for RecorderDirs {
    /// New directories.
    fn default() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let token = format!("{}-{number}", std::process::id());
        Self {
            dir: tempfile::Builder::new()
                .prefix("respawn-recorder-")
                .tempdir()
                .expect("a temporary directory"),
            pin_dir: PathBuf::from(format!("/sys/fs/bpf/respawn-test-recorder-{token}")),
        }
    }
}

impl RecorderDirs {
    /// New directories.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the deaths are recorded.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("records")
    }

    /// The temporary directory that it is in.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The binary with these arguments, in these directories.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = respawn();
        command
            .args(arguments)
            .env("RESPAWN_PIN_DIR", &self.pin_dir)
            .env("RESPAWN_RECORDER_DIR", self.dir())
            .env("RESPAWN_RUNTIME_DIR", self.path().join("run"))
            .stdin(Stdio::null());
        command
    }

    /// What recorders have pinned under that name.
    pub fn pinned(&self, name: &str) -> Option<PathBuf> {
        let sets = fs::read_dir(self.pin_dir.join("recorder")).ok()?.flatten();
        let mut there = sets.map(|set| set.path().join(name));
        there.find(|path| path.exists())
    }

    /// Starts a recorder, with more arguments, and waits until it records.
    pub fn start(&self, arguments: &[&str]) -> Recorder {
        self.start_with(arguments, &[])
    }

    /// The same, with more variables.
    pub fn start_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Recorder {
        let before = self.log().matches(RECORDING).count();
        let mut command = self.command(&["recorder"]);
        command.env("RESPAWN_LOG", "info");
        command.envs(variables.iter().copied());
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path().join("log"))
            .expect("a log");
        command.args(arguments).stdout(Stdio::null()).stderr(log);
        let mut recorder = Recorder(command.spawn().expect("the binary"));
        eventually("the recorder records", || {
            let ended = recorder.0.try_wait().expect("its status");
            assert!(ended.is_none(), "{ended:?}: {}", self.log());
            (self.log().matches(RECORDING).count() > before).then_some(())
        });
        recorder
    }

    /// What the recorders have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Every line, oldest first.
    pub fn lines(&self) -> Vec<Value> {
        let read = |name| fs::read(self.dir().join(name)).unwrap_or_default();
        let bytes = [read("deaths.1"), read("deaths")].concat();
        // Damage may be anything.
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().filter(|line| !line.is_empty());
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The deaths of a process, by its pid in the initial PID namespace.
    pub fn deaths_of(&self, pid: u32) -> Vec<Value> {
        let is_of = |line: &Value| line["event"] == "exited" && line["host_pid"] == pid;
        self.lines().into_iter().filter(is_of).collect()
    }

    /// The death of a process, once it is recorded.
    pub fn death_of(&self, pid: u32) -> Value {
        eventually("the death is recorded", || self.deaths_of(pid).pop())
    }
}

const RECORDING: &str = "recording deaths in";

impl Drop for RecorderDirs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the recorder's log:\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.pin_dir);
    }
}

impl Recorder {
    /// Kills it.
    pub fn kill(mut self) {
        self.0.kill().expect("to kill the recorder");
        self.0.wait().expect("its status");
    }

    /// Asks it to end.
    pub fn stop(mut self) -> ExitStatus {
        signal_to(self.0.id(), Signal::SIGTERM);
        self.0.wait().expect("its status")
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

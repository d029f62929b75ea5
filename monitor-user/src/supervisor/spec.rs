//! A service as it is wanted: validated, complete, with no default left to fill in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::signal::Signal;

/// One service, validated by `config`.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// When to start again, and how to stop. A change of it alone restarts nothing.
    pub policy: Policy,
    /// How to run it. A change of it restarts the service.
    pub exec: Exec,
}

/// When a service is started again after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After an end that is not a success.
    OnFailure,
    /// Never.
    No,
}

/// At most `burst` starts within `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartLimit {
    /// Starts, at least 1.
    pub burst: u32,
    /// The sliding window.
    pub interval: Duration,
}

/// What the supervisor decides by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub restart: RestartPolicy,
    /// Before the first restart; the later ones double from `max(restart_delay, 100 ms)`.
    pub restart_delay: Duration,
    /// The longest delay.
    pub restart_max_delay: Duration,
    /// Up this long, a service has its delay and its start limit afresh.
    pub stable_after: Duration,
    /// `None`: never give up.
    pub start_limit: Option<StartLimit>,
    /// Exit codes that are a success.
    pub success_exit_status: Vec<u8>,
    pub stop_signal: Signal,
    /// From `stop_signal` to SIGKILL.
    pub stop_timeout: Duration,
    /// Start the next instance on the early event, beside the dying one's teardown.
    pub overlap: bool,
}

/// Where one of the standard streams goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `/dev/null`
    Null,
    /// The agent's own.
    Inherit,
    /// A file, opened by the child for appending, created with mode 0640.
    File(PathBuf),
}

/// A user or group ID with all that `exec` needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The kernel's `RLIMIT_…` number.
    pub resource: u32,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// What the child needs to become the service.
#[derive(Debug, Clone, PartialEq)]
pub struct Exec {
    /// The program's absolute path, looked up already.
    pub program: PathBuf,
    /// argv, argv[0] included; never empty.
    pub arguments: Vec<String>,
    /// The complete environment.
    pub environment: BTreeMap<String, String>,
    /// `None`: the agent's own identity.
    pub identity: Option<Identity>,
    pub working_directory: PathBuf,
    /// `None`: 0022.
    pub umask: Option<u32>,
    /// -20 to 19; `None`: the agent's own.
    pub nice: Option<i32>,
    pub limits: Vec<Limit>,
    pub stdout: Output,
    pub stderr: Output,
}

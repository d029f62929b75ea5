//! A service as it is wanted: validated, complete, with no default left to fill in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::signal::Signal;

/// One service, validated by `config`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    /// When to start again, and how to stop. A change of it alone restarts nothing.
    pub(crate) policy: Policy,
    /// How to run it. A change of it restarts the service.
    pub(crate) exec: Exec,
}

/// When a service is started again after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    /// After every end.
    Always,
    /// After an end that is not a success.
    OnFailure,
    /// Never.
    No,
}

/// At most `burst` starts within `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartLimit {
    /// Starts, at least 1.
    pub(crate) burst: u32,
    /// The sliding window.
    pub(crate) interval: Duration,
}

/// What the supervisor decides by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) restart: RestartPolicy,
    /// Before the first restart; the later ones double from `max(restart_delay, 100 ms)`.
    pub(crate) restart_delay: Duration,
    /// The longest delay.
    pub(crate) restart_max_delay: Duration,
    /// Up this long, a service has its delay and its start limit afresh.
    pub(crate) stable_after: Duration,
    /// `None`: never give up.
    pub(crate) start_limit: Option<StartLimit>,
    /// Exit codes that are a success.
    pub(crate) success_exit_status: Vec<u8>,
    pub(crate) stop_signal: Signal,
    /// From `stop_signal` to SIGKILL.
    pub(crate) stop_timeout: Duration,
    /// Start the next instance on the early event, beside the dying one's teardown.
    pub(crate) overlap: bool,
}

/// Where one of the standard streams goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// `/dev/null`
    Null,
    /// The agent's own.
    Inherit,
    /// A file, opened by the child for appending, created with mode 0640.
    File(PathBuf),
}

/// A user or group ID with all that `exec` needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// A resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The kernel's `RLIMIT_…` number.
    pub(crate) resource: u32,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

/// What the child needs to become the service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exec {
    /// The program's absolute path, looked up already.
    pub(crate) program: PathBuf,
    /// `argv`, `argv[0]` included; never empty.
    pub(crate) arguments: Vec<String>,
    /// The complete environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// `None`: the agent's own identity.
    pub(crate) identity: Option<Identity>,
    pub(crate) working_directory: PathBuf,
    /// `None`: 0022.
    pub(crate) umask: Option<u32>,
    /// -20 to 19; `None`: the agent's own.
    pub(crate) nice: Option<i32>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

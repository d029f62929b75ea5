//! A service as it is wanted: validated, complete, with no default left to fill in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::signal::Signal;

/// One service, validated by `config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// When to start again, and how to stop. A change of it alone restarts nothing.
    pub(crate) policy: Policy,
    /// How to run it. A change of it restarts the service.
    pub(crate) exec: Exec,
    /// Whom to tell. A change of it restarts nothing.
    pub(crate) hooks: Hooks,
    /// Why its file cannot be used, if it cannot: then `exec` says nothing, and whoever is to start
    /// the service reads the file again first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unusable: Option<Unusable>,
}

/// A service of which no more is known than that it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unusable {
    /// What is wrong with its file, in one line.
    pub(crate) why: String,
    /// Whether that may end by itself.
    pub(crate) may_end: bool,
}

impl Spec {
    /// That of a service whose file cannot be used. What may end by itself is tried again from
    /// time to time.
    pub(crate) fn unusable(unusable: Unusable, hooks: Hooks) -> Self {
        let policy = Policy {
            restart: match unusable.may_end {
                true => RestartPolicy::Always,
                false => RestartPolicy::No,
            },
            restart_delay: Duration::from_secs(1),
            ..Policy::default()
        };
        Self {
            policy,
            exec: Exec::nothing(),
            hooks,
            unusable: Some(unusable),
        }
    }
}

/// Commands that are run after a service's events; the supervisor itself knows nothing of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hooks {
    /// After each end of an instance.
    pub(crate) on_exit: Option<Hook>,
    /// After each start but the first.
    pub(crate) on_restart: Option<Hook>,
    /// When the service is given up.
    pub(crate) on_failed: Option<Hook>,
}

/// One such command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hook {
    /// The program's absolute path, looked up already.
    pub(crate) program: PathBuf,
    /// `argv`, `argv[0]` included; never empty.
    pub(crate) arguments: Vec<String>,
    /// After this it is killed.
    pub(crate) timeout: Duration,
}

/// When a service is started again after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RestartPolicy {
    /// After every end.
    Always,
    /// After an end that is not a success.
    OnFailure,
    /// Never.
    No,
}

/// At most `burst` starts within `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartLimit {
    /// Starts, at least 1.
    pub(crate) burst: u32,
    /// The sliding window.
    pub(crate) interval: Duration,
}

/// Which of a service's processes a stop reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopMode {
    /// All of them, with the stop signal first; the same for what outlives the main process.
    #[default]
    Group,
    /// The main process. SIGKILL ends the others when it is gone.
    Mixed,
    /// The main process. The others are left alone, for ever.
    Main,
}

/// What the supervisor decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whom both are for.
    #[serde(default)]
    pub(crate) stop_mode: StopMode,
    /// A start that somebody waits for has failed if the instance ends sooner than that.
    #[serde(default = "default_start_check")]
    pub(crate) start_check: Duration,
    /// Start the next instance on the early event, beside the dying one's teardown.
    pub(crate) overlap: bool,
    /// So many bytes of the end of its output are kept with each exit; 0 for none.
    pub(crate) last_output: u64,
}

fn default_start_check() -> Duration {
    Duration::from_secs(1)
}

/// What holds where a file says nothing.
impl Default for Policy {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::Always,
            restart_delay: Duration::ZERO,
            restart_max_delay: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            start_limit: None,
            success_exit_status: vec![0],
            stop_signal: Signal::TERM,
            stop_timeout: Duration::from_secs(10),
            stop_mode: StopMode::Group,
            start_check: default_start_check(),
            overlap: false,
            last_output: 0,
        }
    }
}

/// Where one of the standard streams goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Output {
    /// `/dev/null`
    Null,
    /// The agent's own.
    Inherit,
    /// A file, opened by the child for appending, created with mode 0640.
    File(PathBuf),
}

/// A user or group ID with all that `exec` needs of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// A resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limit {
    /// The kernel's `RLIMIT_…` number.
    pub(crate) resource: u32,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

/// What the child needs to become the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exec {
    /// The program's absolute path, looked up already.
    pub(crate) program: PathBuf,
    /// `argv`, `argv[0]` included; never empty.
    pub(crate) arguments: Vec<String>,
    /// The environment, but for what `environment_file` adds.
    pub(crate) environment: BTreeMap<String, String>,
    /// Read at every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) environment_file: Option<EnvironmentFile>,
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

/// A file with variables that are added to the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EnvironmentFile {
    pub(crate) path: PathBuf,
    /// The variables that the service's own table sets, which those of the file do not replace.
    pub(crate) beneath: BTreeSet<String>,
}

impl EnvironmentFile {
    /// The environment with what the file says added.
    pub(crate) fn lay_under(
        &self,
        mut environment: BTreeMap<String, String>,
        variables: Vec<(String, String)>,
    ) -> BTreeMap<String, String> {
        let variables = variables.into_iter();
        environment.extend(variables.filter(|(key, _)| !self.beneath.contains(key)));
        environment
    }
}

impl Exec {
    /// Of a service that nobody knows how to run.
    pub(crate) fn nothing() -> Self {
        Self {
            program: "/".into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            environment_file: None,
            identity: None,
            working_directory: "/".into(),
            umask: None,
            nice: None,
            limits: Vec::new(),
            stdout: Output::Null,
            stderr: Output::Null,
        }
    }

    /// Tells one way to run a service from another, over the agent's death and in later versions:
    /// a field that one of those adds must count only where it is set. What the agent's own
    /// environment gives to services does not count: it may be started from elsewhere. Nor does what
    /// is in the environment file, which each start reads for itself.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hash = Fingerprint(0xcbf2_9ce4_8422_2325);
        for word in &self.arguments {
            hash.add("argument", word.as_bytes());
        }
        for (key, value) in &self.environment {
            if !["PATH", "LANG"].contains(&key.as_str()) {
                hash.add(key, value.as_bytes());
            }
        }
        if let Some(file) = &self.environment_file {
            hash.add_path("environment file", &file.path);
        }
        if let Some(identity) = &self.identity {
            hash.add("uid", &identity.uid.to_le_bytes());
            hash.add("gid", &identity.gid.to_le_bytes());
            for group in &identity.groups {
                hash.add("group", &group.to_le_bytes());
            }
        }
        hash.add_path("directory", &self.working_directory);
        if let Some(umask) = self.umask {
            hash.add("umask", &umask.to_le_bytes());
        }
        if let Some(nice) = self.nice {
            hash.add("nice", &nice.to_le_bytes());
        }
        for limit in &self.limits {
            hash.add("limit", &limit.resource.to_le_bytes());
            for value in [limit.soft, limit.hard] {
                hash.add("value", &value.unwrap_or(u64::MAX).to_le_bytes());
            }
        }
        for (name, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            match output {
                Output::Null => hash.add(name, b"null"),
                Output::Inherit => hash.add(name, b"inherit"),
                Output::File(path) => hash.add_path(name, path),
            }
        }
        hash.0
    }
}

/// FNV-1a, 64 bits.
struct Fingerprint(u64);

impl Fingerprint {
    fn add(&mut self, name: &str, value: &[u8]) {
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes();
        for byte in name.bytes().chain(length).chain(value.iter().copied()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn add_path(&mut self, name: &str, path: &Path) {
        self.add(name, path.as_os_str().as_encoded_bytes());
    }
}

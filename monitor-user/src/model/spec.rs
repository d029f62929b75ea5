//! A service as it is wanted: validated, complete, with no default left to fill in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::confinement::Confinement;
use super::hash;
use super::listen::Listen;
use super::log::Log;
use super::relations::Relations;
use super::signal::Signal;
use super::steps::{Step, Steps};

/// One service, validated by `config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// When to start again, and how to stop. A change of it alone restarts nothing.
    pub(crate) policy: Policy,
    /// How to run it. A change of it restarts the service.
    pub(crate) exec: Exec,
    /// Whom to tell. A change of it restarts nothing.
    pub(crate) hooks: Hooks,
    /// Which services it waits for, follows, and has started. A change of it alone restarts nothing.
    #[serde(default, skip_serializing_if = "Relations::is_default")]
    pub(crate) relations: Relations,
    /// Where the logger writes its output, if `exec` has it go there. A change of it alone restarts
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<Log>,
    /// What shows that it works as long as it runs. A change of it restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) check: Option<Check>,
    /// How it reads its own configuration again. A change of it restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reload: Option<Reload>,
    /// What is done around its run. A change of it restarts nothing.
    #[serde(default, skip_serializing_if = "Steps::is_default")]
    pub(crate) steps: Steps,
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
            hooks,
            unusable: Some(unusable),
            ..Self::nothing()
        }
    }

    /// One that says nothing.
    pub(crate) fn nothing() -> Self {
        Self {
            policy: Policy::default(),
            exec: Exec::nothing(),
            hooks: Hooks::default(),
            relations: Relations::default(),
            log: None,
            check: None,
            reload: None,
            steps: Steps::default(),
            unusable: None,
        }
    }

    /// Whether what is done until its instance is there is not the same as of another one.
    pub(crate) fn begins_otherwise(&self, than: &Self) -> bool {
        let policies = [&self.policy, &than.policy];
        let [own, other] = policies.map(|policy| (policy.kind, &policy.pid_file));
        self.steps != than.steps || own != other
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

/// When a service counts as up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceType {
    /// While it runs.
    #[default]
    Simple,
    /// Once it has ended with success.
    Oneshot,
    /// While the process runs that its command has left in the background.
    Forking,
}

impl ServiceType {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When a service is started again after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RestartPolicy {
    /// After every end.
    Always,
    /// After an end that is not a success.
    OnFailure,
    /// After an end by a signal, or because it was not ready in time or did not work; after an exit
    /// only if somebody else asked it to end.
    OnAbnormal,
    /// The same, but not because it was not ready in time or did not work.
    OnAbort,
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

/// What a restart does with an instance that runs and is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RestartMode {
    /// It is stopped, and then the next one starts.
    #[default]
    StopFirst,
    /// The next one starts, and once that is ready it is stopped.
    Rolling,
}

impl RestartMode {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What the supervisor decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policy {
    #[serde(default, skip_serializing_if = "ServiceType::is_default")]
    pub(crate) kind: ServiceType,
    /// Of a forking service: where it writes the pid of its main process; `None`: that is the only one left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) restart: RestartPolicy,
    /// Before the first restart; the later ones double from `max(restart_delay, 100 ms)`.
    pub(crate) restart_delay: Duration,
    /// The longest delay.
    pub(crate) restart_max_delay: Duration,
    /// Up this long, the delay and the start limit of a service are reset.
    pub(crate) stable_after: Duration,
    /// `None`: never give up.
    pub(crate) start_limit: Option<StartLimit>,
    /// Exit codes that are a success.
    pub(crate) success_exit_status: Vec<u8>,
    /// Exit codes after which it is not started again, whatever `restart` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) restart_prevent_exit_status: Vec<u8>,
    pub(crate) stop_signal: Signal,
    /// From `stop_signal` to SIGKILL.
    pub(crate) stop_timeout: Duration,
    /// Whom both are for.
    #[serde(default)]
    pub(crate) stop_mode: StopMode,
    /// A start that somebody waits for has failed if the instance ends sooner than that.
    #[serde(default = "default_start_check")]
    pub(crate) start_check: Duration,
    /// From a start until the service is ready; then it is stopped, and has failed.
    #[serde(
        default = "default_start_timeout",
        skip_serializing_if = "is_default_start_timeout"
    )]
    pub(crate) start_timeout: Duration,
    #[serde(default, skip_serializing_if = "NotifyAccess::is_default")]
    pub(crate) notify_access: NotifyAccess,
    /// What a restart does that somebody asks for.
    #[serde(default, skip_serializing_if = "RestartMode::is_default")]
    pub(crate) restart_mode: RestartMode,
    /// Start the next instance on the early event, beside the dying one's teardown.
    pub(crate) overlap: bool,
    /// Have the next instance loaded while this one runs, so that it need only be let go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) standby: bool,
    /// When it has ended for good, the agent stops the others and ends with its exit status.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) essential: bool,
    /// So many bytes of the end of its output are kept with each exit; 0 for none.
    pub(crate) last_output: u64,
}

fn default_start_check() -> Duration {
    Duration::from_secs(1)
}

fn default_start_timeout() -> Duration {
    Duration::from_secs(90)
}

fn is_default_start_timeout(timeout: &Duration) -> bool {
    *timeout == default_start_timeout()
}

/// What holds where a file says nothing.
impl Default for Policy {
    fn default() -> Self {
        Self {
            kind: ServiceType::Simple,
            pid_file: None,
            restart: RestartPolicy::Always,
            restart_delay: Duration::ZERO,
            restart_max_delay: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            start_limit: None,
            success_exit_status: vec![0],
            restart_prevent_exit_status: Vec::new(),
            stop_signal: Signal::TERM,
            stop_timeout: Duration::from_secs(10),
            stop_mode: StopMode::Group,
            start_check: default_start_check(),
            start_timeout: default_start_timeout(),
            notify_access: NotifyAccess::All,
            restart_mode: RestartMode::StopFirst,
            overlap: false,
            standby: false,
            essential: false,
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
    /// The FIFO that the logger reads.
    Log,
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
    /// Read at every start; a later one replaces what an earlier one sets.
    #[serde(
        default,
        serialize_with = "put_one_or_several",
        deserialize_with = "one_or_several",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) environment_file: Vec<EnvironmentFile>,
    /// Which variables of the agent are the service's too: names, with `*` for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pass_environment: Vec<String>,
    /// Those that `environment` has for that reason.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) passed: BTreeSet<String>,
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
    /// How it becomes known that it is ready; `None`: it is, as soon as it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<Ready>,
    /// What it may do and use.
    #[serde(default, skip_serializing_if = "Confinement::is_default")]
    pub(crate) confinement: Confinement,
    /// How often it has to send `WATCHDOG=1`, as `sd_notify(3)` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) watchdog: Option<Duration>,
    /// The sockets that are held for it, in the order of their descriptors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listen: Vec<Listen>,
    /// How many descriptors of its own are kept for its next instance (`FDSTORE=1`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) fd_store: u16,
}

/// The highest `fd_store`. Together with the sockets of `listen` they end below the notify socket.
pub(crate) const MOST_STORED: u16 = 512;

fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// How a service says that it serves, or how that is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ready {
    /// It writes a line to this descriptor.
    Fd(u8),
    /// It sends `READY=1` to the socket in `$NOTIFY_SOCKET`, as `sd_notify(3)` has it.
    Notify,
    /// A probe succeeds.
    Probe(Probe),
}

/// Whose notifications count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotifyAccess {
    /// Those of all processes of the service.
    #[default]
    All,
    /// Those of its main process.
    Main,
}

impl NotifyAccess {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What shows from outside that a service works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Probe {
    /// A TCP connection to this address and port is accepted.
    Tcp(SocketAddr),
    /// A connection to this Unix socket is accepted.
    Unix(PathBuf),
    /// A GET request to this URL is answered with a status from 200 to 399.
    Http(String),
    /// There is such a file.
    File(PathBuf),
    /// A program, by its absolute path, exits with 0.
    Command {
        program: PathBuf,
        arguments: Vec<String>,
    },
}

/// How a service is had read its own configuration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reload {
    /// Its main process gets this signal.
    Signal(Signal),
    /// The same, and it notifies when it begins and when it is done.
    Notify(Signal),
    /// This is run, with the pid of its main process in `MAINPID`.
    Command(Step),
}

/// What is looked at as long as a service runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) probe: Probe,
    /// From one look to the next.
    pub(crate) interval: Duration,
    /// How long a look may take.
    pub(crate) timeout: Duration,
    /// How many have to fail in a row.
    pub(crate) failures: u32,
}

/// A file with variables that are added to the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EnvironmentFile {
    pub(crate) path: PathBuf,
    /// It need not be there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) optional: bool,
    /// The variables that the service's own table sets, which those of the file do not replace.
    pub(crate) beneath: BTreeSet<String>,
}

impl EnvironmentFile {
    /// The environment with what the file says added.
    pub(crate) fn lay_under(
        &self,
        environment: &mut BTreeMap<String, String>,
        variables: Vec<(String, String)>,
    ) {
        let variables = variables.into_iter();
        environment.extend(variables.filter(|(key, _)| !self.beneath.contains(key)));
    }
}

/// Earlier versions have one at most.
fn put_one_or_several<S>(files: &[EnvironmentFile], serializer: S) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
{
    match files {
        [file] => file.serialize(serializer),
        files => files.serialize(serializer),
    }
}

fn one_or_several<'de, D>(deserializer: D) -> Result<Vec<EnvironmentFile>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Files {
        One(EnvironmentFile),
        Several(Vec<EnvironmentFile>),
    }
    Ok(match Files::deserialize(deserializer)? {
        Files::One(file) => vec![file],
        Files::Several(files) => files,
    })
}

impl Exec {
    /// Of a service that nobody knows how to run.
    pub(crate) fn nothing() -> Self {
        Self {
            program: "/".into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            environment_file: Vec::new(),
            pass_environment: Vec::new(),
            passed: BTreeSet::new(),
            identity: None,
            working_directory: "/".into(),
            umask: None,
            nice: None,
            limits: Vec::new(),
            stdout: Output::Null,
            stderr: Output::Null,
            ready: None,
            confinement: Confinement::default(),
            watchdog: None,
            listen: Vec::new(),
            fd_store: 0,
        }
    }

    /// With the rights of this one, and nothing else of it: for what is run on its behalf.
    pub(crate) fn with_its_rights(&self) -> Self {
        Self {
            identity: self.identity.clone(),
            working_directory: self.working_directory.clone(),
            umask: self.umask,
            nice: self.nice,
            limits: self.limits.clone(),
            confinement: self.confinement.rights(),
            ..Self::nothing()
        }
    }

    /// Whether it has a socket to send notifications to.
    pub(crate) fn notifies(&self) -> bool {
        self.ready == Some(Ready::Notify) || self.watchdog.is_some() || self.fd_store > 0
    }

    /// Tells one way to run a service from another, over the agent's death and in later versions:
    /// a field that one of those adds must count only where it is set. What the agent's own
    /// environment gives to services does not count: it may be started from elsewhere. Nor does what
    /// is in the environment file, which each start reads for itself.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hash = Fingerprint(hash::BEGIN);
        for word in &self.arguments {
            hash.add("argument", word.as_bytes());
        }
        for (key, value) in &self.environment {
            if !["PATH", "LANG"].contains(&key.as_str()) && !self.passed.contains(key) {
                hash.add(key, value.as_bytes());
            }
        }
        for file in &self.environment_file {
            let name = match file.optional {
                true => "optional environment file",
                false => "environment file",
            };
            hash.add_path(name, &file.path);
        }
        for pattern in &self.pass_environment {
            hash.add("passed", pattern.as_bytes());
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
                Output::Log => hash.add(name, b"log"),
            }
        }
        match &self.ready {
            Some(Ready::Fd(fd)) => hash.add("ready fd", &[*fd]),
            Some(Ready::Notify) => hash.add("ready", b"notify"),
            // It is not told of.
            Some(Ready::Probe(_)) | None => {}
        }
        if let Some(watchdog) = self.watchdog {
            hash.add("watchdog", &watchdog.as_nanos().to_le_bytes());
        }
        for listen in &self.listen {
            listen.add_to(&mut hash);
        }
        if self.fd_store > 0 {
            hash.add("fd store", &self.fd_store.to_le_bytes());
        }
        self.confinement.add_to(&mut hash);
        hash.0
    }
}

/// Of named values.
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    pub(super) fn add(&mut self, name: &str, value: &[u8]) {
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes();
        let bytes = name.bytes().chain(length).chain(value.iter().copied());
        self.0 = hash::fnv1a_on(self.0, bytes);
    }

    fn add_path(&mut self, name: &str, path: &Path) {
        self.add(name, path.as_os_str().as_encoded_bytes());
    }
}

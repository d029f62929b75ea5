//! A place of its own for agents that are killed at will: config, runtime and pin directories, a
//! marker in the environment of all services, and a ledger of what the journal tells.
//!
//! Unlike a test that asks an agent, a test with a rig trusts only the journal, `/proc` and the
//! kernel's own words.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::stands_by;
use crate::{eventually, respawn};

/// Whether the long form of the tests is asked for, by `RESPAWN_SOAK=1`.
pub fn is_soak() -> bool {
    std::env::var_os("RESPAWN_SOAK").is_some_and(|value| value == "1")
}

/// What outlives the agents of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Files, and what the kernel has pinned.
    Kernel,
    /// Files alone: the kernel's BTF is not found.
    FilesAlone,
}

/// The directories of the agents of one test.
pub struct Rig {
    dir: TempDir,
    token: String,
    pin_dir: PathBuf,
    /// The one that goes with the value.
    own_pin_dir: PathBuf,
    environment: Vec<(String, String)>,
    run_by: Option<(PathBuf, u32)>,
    memory: Memory,
}

impl Rig {
    /// New directories, with no service yet.
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let token = format!("{}-{number}", std::process::id());
        let dir = tempfile::Builder::new()
            .prefix("respawn-rig-")
            .tempdir()
            .expect("a temporary directory");
        fs::create_dir_all(dir.path().join("config/services")).expect("config");
        // So that no test sees the journal turned over.
        let settings = "journal_max_size = \"1GiB\"\n";
        fs::write(dir.path().join("config/agent.toml"), settings).expect("agent.toml");
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/respawn-test-{token}"));
        Self {
            pin_dir: pin_dir.clone(),
            own_pin_dir: pin_dir,
            dir,
            token,
            environment: Vec::new(),
            run_by: None,
            memory: Memory::Kernel,
        }
    }

    /// The same, for agents that have this memory.
    pub fn with(memory: Memory) -> Self {
        let mut rig = Self::new();
        rig.memory = memory;
        if memory == Memory::FilesAlone {
            rig.set("RESPAWN_BTF", "/nonexistent");
        }
        rig
    }

    /// What outlives its agents.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Has the agents that are started from now on know this variable.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.environment.retain(|(known, _)| known != key);
        self.environment.push((key.to_owned(), value.into()));
    }

    /// Has them not know it any more.
    pub fn unset(&mut self, key: &str) {
        self.environment.retain(|(known, _)| known != key);
    }

    /// Has this binary run by this user from now on.
    pub fn run_by(&mut self, binary: &Path, user: u32) {
        self.run_by = Some((binary.to_owned(), user));
    }

    /// Has the binary under test run again from now on.
    pub fn run_this_build(&mut self) {
        self.run_by = None;
    }

    /// Has the agents that are started from now on pin elsewhere.
    pub fn set_pin_dir(&mut self, path: impl Into<PathBuf>) {
        self.pin_dir = path.into();
    }

    /// The temporary directory that all but the pins is in.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The directory of the memory files.
    pub fn state_dir(&self) -> PathBuf {
        self.runtime_dir().join("state")
    }

    /// A service's memory file.
    pub fn memory_file(&self, service: &str) -> PathBuf {
        self.state_dir().join(format!("{service}.json"))
    }

    /// The pin directory.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Where a map or link is pinned.
    pub fn pin(&self, name: &str) -> PathBuf {
        let version = fs::read_dir(&self.pin_dir)
            .expect("the pin directory")
            .flatten()
            .find(|entry| entry.file_name().as_encoded_bytes().starts_with(b"v"))
            .expect("pins");
        version.path().join(name)
    }

    /// Writes the file of a service that runs `command` (an array in TOML), with more keys.
    pub fn service(&self, name: &str, command: &str, keys: &str) {
        let marker = self.marker(name);
        let (key, value) = marker.split_once('=').expect("a marker");
        let text = format!("environment.{key} = {value:?}\ncommand = {command}\n{keys}\n");
        let path = self.path().join(format!("config/services/{name}.toml"));
        fs::write(path, text).expect("a service file");
    }

    /// A service that lives on, and comes back at once however it ends.
    pub fn sleeper(&self, name: &str) {
        self.service(
            name,
            r#"["/usr/bin/sleep", "100000"]"#,
            "restart_max_delay = \"0s\"",
        );
    }

    /// A command line of `respawn` for these directories.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.run_by {
            None => respawn(),
            Some((binary, user)) => {
                let mut command = Command::new(binary);
                command.uid(*user).gid(*user);
                command
            }
        };
        command
            .args(arguments)
            .env("RESPAWN_RUNTIME_DIR", self.runtime_dir())
            .env("RESPAWN_CONFIG", self.path().join("config"))
            .env("RESPAWN_PIN_DIR", &self.pin_dir)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs such a command line to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("respawn")
    }

    /// The agent's command line, its words on standard error kept in the log.
    pub fn agent_command(&self) -> Command {
        let mut command = self.command(&["agent", "--log=info"]);
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path().join("log"))
            .expect("the log");
        command.stdout(Stdio::null()).stderr(log);
        command
    }

    /// Starts an agent.
    pub fn agent(&self) -> AgentProcess {
        AgentProcess(self.agent_command().spawn().expect("respawn"))
    }

    /// Starts an agent that has to wait, and returns when it does.
    pub fn spare(&self) -> AgentProcess {
        let waits = |log: &str| log.matches("another agent works in").count();
        let before = waits(&self.log());
        let spare = self.agent();
        eventually("the spare waits", || {
            (waits(&self.log()) > before).then_some(())
        });
        spare
    }

    /// Sends the agent a request, and waits for no answer.
    pub fn send(&self, request: &Value) -> UnixStream {
        let mut socket = UnixStream::connect(self.runtime_dir().join("control.sock"))
            .expect("the agent's socket");
        let mut request = request.clone();
        request["version"] = 1.into();
        socket
            .write_all(format!("{request}\n").as_bytes())
            .expect("a request");
        socket
    }

    /// Removes a service's file.
    pub fn remove_service(&self, name: &str) {
        let path = self.path().join(format!("config/services/{name}.toml"));
        fs::remove_file(path).expect("a service file");
    }

    /// Removes what the agents have left, so that the next one finds nothing.
    pub fn clear(&self) {
        let _ = fs::remove_dir_all(self.runtime_dir());
        let _ = fs::remove_dir_all(&self.pin_dir);
    }

    /// What the agents have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// The ledger, from the journal's beginning.
    pub fn ledger(&self) -> Ledger {
        Ledger {
            path: self.runtime_dir().join("journal"),
            may_lack_causes: self.memory == Memory::FilesAlone,
            ..Ledger::default()
        }
    }

    /// Living processes of a service, but not what stands by for it; of all services with "".
    pub fn live(&self, service: &str) -> Vec<u32> {
        let mut marker = self.marker(service).into_bytes();
        if !service.is_empty() {
            marker.push(0);
        }
        let mut live = marked(&marker);
        live.retain(|pid| !stands_by(*pid));
        live
    }

    /// What stands by for a service.
    pub fn standing_by(&self, service: &str) -> Vec<u32> {
        let marker = format!("{}\0", self.marker(service));
        let mut all = marked(marker.as_bytes());
        all.retain(|pid| stands_by(*pid));
        all
    }

    /// What is in the environment of the agents, and not in that of the services.
    fn agent_marker(&self) -> String {
        format!("RESPAWN_RUNTIME_DIR={}\0", self.runtime_dir().display())
    }

    /// Asserts that a service is one process, this one.
    pub fn assert_single(&self, service: &str, instance: Instance) {
        // For a moment of its exec a process has no environment.
        let live = eventually("the environment of the process is there", || {
            Some(self.live(service)).filter(|live| live.contains(&instance.0))
        });
        assert_eq!(live, [instance.0], "{service}");
    }

    fn marker(&self, service: &str) -> String {
        format!("RESPAWN_RIG={}:{service}", self.token)
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if thread::panicking() {
            let journal = fs::read_to_string(self.runtime_dir().join("journal"));
            eprintln!("the log ends with:\n{}", last_lines(&self.log()));
            let journal = journal.unwrap_or_default();
            eprintln!("the journal ends with:\n{}", last_lines(&journal));
        }
        // The agents first, which would start the services again.
        kill_all(self.agent_marker().as_bytes());
        kill_all(self.marker("").as_bytes());
        for cgroups in cgroups_of(self.path()) {
            remove_folders(&cgroups);
        }
        let _ = fs::remove_dir_all(&self.own_pin_dir);
    }
}

/// How often a process has been scheduled, all of its threads together.
pub fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("/proc");
    let count = |text: String| -> u64 {
        let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
        lines
            .map(|line| {
                line.rsplit_once('\t')
                    .expect("/proc")
                    .1
                    .parse::<u64>()
                    .expect("/proc")
            })
            .sum()
    };
    tasks
        .map(|task| {
            count(fs::read_to_string(task.expect("/proc").path().join("status")).expect("/proc"))
        })
        .sum()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn marked(marker: &[u8]) -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| has_in_environment(*pid, marker))
        .collect();
    pids.sort_unstable();
    pids
}

fn kill_all(marker: &[u8]) {
    loop {
        let left = marked(marker);
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn has_in_environment(pid: u32, marker: &[u8]) -> bool {
    // A zombie has none.
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.windows(marker.len()).any(|part| part == marker))
}

/// The cgroups of agents whose runtime directory is in a temporary directory: of any version.
pub(crate) fn cgroups_of(dir: &Path) -> Vec<PathBuf> {
    let unique = dir.file_name().unwrap_or_default().to_string_lossy();
    let unique = unique.trim_start_matches('.');
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let of_agents = mounts.iter().flat_map(|mount| {
        let entries = fs::read_dir(Path::new(mount).join("respawn"));
        entries.into_iter().flatten().flatten()
    });
    let paths = of_agents.map(|entry| entry.path());
    paths
        .filter(|path| path.to_string_lossy().contains(unique))
        .collect()
}

/// The kernel removes a cgroup's files with it, and refuses while a process is in it.
pub(crate) fn remove_folders(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_folders(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// An agent that the test started; killed when the value goes.
pub struct AgentProcess(Child);

impl AgentProcess {
    /// Starts a command that ends up as an agent.
    pub fn from_command(command: &mut Command) -> Self {
        Self(command.spawn().expect("respawn"))
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.0.wait().expect("wait")
    }

    /// Waits for its end, as long as anything may take.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        eventually("the agent ends", || self.0.try_wait().expect("wait"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("kill");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.0.kill().expect("kill");
        self.wait();
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An instance of a service: pid and start time.
pub type Instance = (u32, u64);

/// What the journal tells of one instance.
#[derive(Debug, Default)]
pub struct InstanceEvents {
    /// Events `started`.
    pub started: usize,
    /// Events `adopted`.
    pub adopted: usize,
    /// Events `exited`.
    pub exits: Vec<Value>,
}

/// What the journal tells, summed up as it grows.
#[derive(Default)]
pub struct Ledger {
    path: PathBuf,
    /// Nobody knows how one ended whose parent died with it.
    may_lack_causes: bool,
    file: Option<File>,
    rest: Vec<u8>,
    /// By service and instance.
    pub instances: BTreeMap<(String, Instance), InstanceEvents>,
    /// For each service, the last instance that was started or adopted, and by how many agents'
    /// starts that was preceded.
    pub last: BTreeMap<String, (Instance, usize)>,
    /// All events `started`.
    pub starts: usize,
    /// Pids of the agents that took up work.
    pub agents: Vec<u32>,
    /// The sum of all `events_lost`.
    pub lost: u64,
    /// The `seq` of the last line.
    pub seq: u64,
    /// All other events.
    pub others: Vec<Value>,
}

impl Ledger {
    /// Reads what has come.
    pub fn read(&mut self) {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return };
        file.read_to_end(&mut self.rest).expect("the journal");
        let whole = self.rest.iter().rposition(|&byte| byte == b'\n');
        let lines: Vec<u8> = self.rest.drain(..whole.map_or(0, |end| end + 1)).collect();
        for line in lines.split(|&byte| byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(event) => self.enter(event),
                // Torn by the death of an agent, and ended by the next one, which writes it again.
                Err(error) if error.is_eof() => {}
                Err(error) => panic!("{error}: {line:?}"),
            }
        }
    }

    /// Reads on until there is something.
    pub fn wait<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        eventually(what, || {
            self.read();
            look(self)
        })
    }

    /// Waits until one more agent than `before` has taken up work; returns its pid.
    pub fn next_agent(&mut self, before: usize) -> u32 {
        self.wait("an agent takes up work", |ledger| {
            ledger.agents.get(before).copied()
        })
    }

    /// Waits until the latest agent has told of a service's instance, whose exit is not told.
    pub fn current(&mut self, service: &str) -> Instance {
        let what = format!("the latest agent has {service}");
        self.wait(&what, |ledger| ledger.has_current(service))
    }

    /// The service's instance, if the latest agent has told of it, and not of its exit.
    pub fn has_current(&self, service: &str) -> Option<Instance> {
        let (instance, agents) = *self.last.get(service)?;
        let told = self.instances.get(&(service.to_owned(), instance))?;
        (agents == self.agents.len() && told.exits.is_empty()).then_some(instance)
    }

    /// All instances of a service that were told of.
    pub fn instances_of(&self, service: &str) -> impl Iterator<Item = (Instance, &InstanceEvents)> {
        let first = (service.to_owned(), (0, 0));
        let last = (service.to_owned(), (u32::MAX, u64::MAX));
        let of = self.instances.range(first..=last);
        of.map(|((_, instance), told)| (*instance, told))
    }

    /// What is told of an instance.
    pub fn told(&self, service: &str, instance: Instance) -> &InstanceEvents {
        &self.instances[&(service.to_owned(), instance)]
    }

    /// Whether an instance's exit is told.
    pub fn has_exited(&self, service: &str, instance: Instance) -> bool {
        self.instances
            .get(&(service.to_owned(), instance))
            .is_some_and(|told| !told.exits.is_empty())
    }

    /// Asserts that no exit is told twice.
    pub fn assert_no_exit_twice(&self, service: &str) {
        for (instance, told) in self.instances_of(service) {
            assert!(told.exits.len() <= 1, "{service} {instance:?}: {told:?}");
        }
    }

    /// Asserts that each instance but the last one of a service exited once, by `signal`;
    /// returns how many did.
    pub fn assert_each_exited_once(&self, service: &str, signal: &str) -> usize {
        let last = self.last.get(service).map(|(instance, _)| *instance);
        let mut exited = 0;
        for (instance, told) in self.instances_of(service) {
            if Some(instance) == last {
                continue;
            }
            exited += 1;
            assert_eq!(told.exits.len(), 1, "{service} {instance:?}: {told:?}");
            let cause = &told.exits[0]["cause"];
            if !(self.may_lack_causes && cause["kind"] == "unknown") {
                assert_eq!(cause["signal"], signal, "{service} {instance:?}: {told:?}");
            }
        }
        exited
    }

    /// How often each kind of cause was told of a service.
    pub fn causes_of(&self, service: &str) -> BTreeMap<String, usize> {
        let mut causes = BTreeMap::new();
        for exit in self.instances_of(service).flat_map(|(_, told)| &told.exits) {
            let kind = exit["cause"]["kind"].as_str().unwrap_or_default();
            *causes.entry(kind.to_owned()).or_default() += 1;
        }
        causes
    }

    fn enter(&mut self, event: Value) {
        self.seq += 1;
        assert_eq!(event["seq"], self.seq, "a line is lost before {event}");
        let number = |key: &str| event[key].as_u64().unwrap_or_default();
        let pid = u32::try_from(number("pid")).unwrap_or_default();
        let instance = (pid, number("start_time_ns"));
        let service = event["service"].as_str().unwrap_or_default().to_owned();
        let kind = event["event"].as_str().unwrap_or_default();
        match kind {
            "agent_started" => self.agents.push(pid),
            "events_lost" => self.lost += number("count"),
            "started" | "adopted" | "exited" => {
                let told = self
                    .instances
                    .entry((service.clone(), instance))
                    .or_default();
                match kind {
                    "started" => {
                        self.starts += 1;
                        told.started += 1;
                    }
                    "adopted" => told.adopted += 1,
                    _ => return told.exits.push(event),
                }
                self.last.insert(service, (instance, self.agents.len()));
            }
            _ => self.others.push(event),
        }
    }
}

/// Figures of one kind.
#[derive(Default)]
pub struct Distribution(Vec<Duration>);

impl Distribution {
    /// One more.
    pub fn add(&mut self, value: Duration) {
        self.0.push(value);
    }

    /// "min 1ms, median …" of all.
    pub fn summary(&mut self) -> String {
        self.0.sort_unstable();
        let at = |part: usize| {
            let index = (self.0.len() * part / 100).min(self.0.len().saturating_sub(1));
            self.0.get(index).copied().unwrap_or_default()
        };
        format!(
            "min {:.2?}, median {:.2?}, p90 {:.2?}, p99 {:.2?}, max {:.2?} of {}",
            at(0),
            at(50),
            at(90),
            at(99),
            at(100),
            self.0.len()
        )
    }
}

/// Says a test's figures, past the capture of its output; `cargo xtask vm` keeps them.
pub fn report(line: &str) {
    crate::add_line("RESPAWN_FIGURES", line);
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Numbers that look random and are the same in every run of one seed (SplitMix64).
pub struct Seeded(pub u64);

impl Seeded {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

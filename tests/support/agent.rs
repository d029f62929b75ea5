//! An agent of the test's own: in a temporary directory, with its own config and runtime dir, and
//! with a marker in the environment of all that it starts, by which its processes are known.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{DEADLINE, IN_PID_NAMESPACE, eventually, respawn, rig};

/// How the agent sees exits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sight {
    /// By the kernel's ring and by pidfds; by pidfds alone where the test is not run by root.
    #[default]
    Best,
    /// By pidfds alone: the kernel's BTF is not found.
    PidfdsAlone,
}

/// What an agent and its spares have in their environment, and services do not.
const AGENT: &str = "RESPAWN_TEST_AGENT";

/// Both ways to see exits.
pub const SIGHTS: [Sight; 2] = [Sight::Best, Sight::PidfdsAlone];

/// How an agent is started.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// How it sees exits.
    pub sight: Sight,
    /// What its environment has beside the test's.
    pub environment: Vec<(String, String)>,
    /// What runs it: a command that takes the agent's command line as its last arguments.
    pub wrapper: Vec<String>,
    /// More words of its command line.
    pub arguments: Vec<String>,
}

impl Setup {
    /// Of the binary that is at that path whenever an agent is started.
    pub fn of_binary(path: &Path) -> Self {
        let script = format!("shift; exec {} \"$@\"", path.display());
        Self {
            wrapper: ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).into(),
            ..Self::default()
        }
    }

    /// As PID 1 of a PID namespace.
    pub fn as_pid_1() -> Self {
        Self {
            wrapper: IN_PID_NAMESPACE.map(str::to_owned).to_vec(),
            ..Self::default()
        }
    }
}

/// A running agent. All that it has started goes with the value.
pub struct Agent {
    dir: TempDir,
    setup: Setup,
    child: Child,
}

impl Agent {
    /// Starts an agent with these services, each a name and its file; returns when it answers.
    pub fn start(services: &[(&str, &str)]) -> Self {
        Self::seeing(Sight::Best, services)
    }

    /// The same, with exits seen so.
    pub fn seeing(sight: Sight, services: &[(&str, &str)]) -> Self {
        let setup = Setup {
            sight,
            ..Setup::default()
        };
        Self::with(&setup, services)
    }

    /// The same, started so.
    pub fn with(setup: &Setup, services: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self::within(dir, setup, services)
    }

    /// The same, in a directory that the test has made.
    pub fn within(dir: TempDir, setup: &Setup, services: &[(&str, &str)]) -> Self {
        fs::create_dir_all(dir.path().join("config/services")).expect("config");
        for (name, text) in services {
            write_service(dir.path(), name, text);
        }
        let child = spawn(&mut command(dir.path(), setup));
        let mut agent = Self {
            dir,
            setup: setup.clone(),
            child,
        };
        agent.wait_until_it_answers(None);
        agent
    }

    /// Starts one more agent on the same directories; the caller waits for its end.
    pub fn another(&self) -> Child {
        spawn(&mut command(self.dir(), &self.setup))
    }

    /// Starts the next agent after this one has ended.
    pub fn start_again(&mut self) {
        let before = self.latest_agent();
        self.child = self.another();
        self.wait_until_it_answers(before.as_ref());
    }

    /// Goes on with an agent that nothing wraps, and returns the old one's wrapper.
    pub fn unwrap_next(&mut self) -> Child {
        let before = self.latest_agent();
        self.setup.wrapper.clear();
        let next = self.another();
        let wrapper = std::mem::replace(&mut self.child, next);
        self.wait_until_it_answers(before.as_ref());
        wrapper
    }

    /// Goes on with the spare as this agent, which is killed.
    pub fn replace_by(&mut self, spare: Child) {
        // It has taken over already, if this agent was killed before.
        let own = format!("\"pid\":{},", spare.id());
        let before = self.latest_agent().filter(|it| !it.contains(&own));
        self.kill();
        self.child = spare;
        self.wait_until_it_answers(before.as_ref());
    }

    /// Kills a process of a service while this agent is stopped, and then the agent: nobody but the spare, which this
    /// agent goes on as, can have seen to it.
    pub fn dies_with(&mut self, service: u32, spare: Child) {
        self.signal(Signal::SIGSTOP);
        signal_to(service, Signal::SIGKILL);
        eventually("the service is dead", || (!is_alive(service)).then_some(()));
        self.replace_by(spare);
    }

    /// Kills some of these at random, but not all: this agent, its spare, and a process of a service. Goes on
    /// with what is left. Returns the spare, and whether the process was killed.
    pub fn kill_some(
        &mut self,
        mut spare: Child,
        service: u32,
        random: &mut rig::Seeded,
    ) -> (Child, bool) {
        const AGENT: u64 = 1;
        const SPARE: u64 = 2;
        const SERVICE: u64 = 4;
        let killed = 1 + random.below(6);
        let mut pids = [(AGENT, self.pid()), (SPARE, spare.id()), (SERVICE, service)];
        pids.rotate_left(usize::try_from(random.below(3)).expect("a small number"));
        for (_, pid) in pids.into_iter().filter(|(who, _)| killed & who != 0) {
            signal_to(pid, Signal::SIGKILL);
            thread::sleep(Duration::from_micros(random.below(2000)));
        }
        if killed & SPARE != 0 {
            spare.wait().expect("the spare was killed");
        }
        let spare = match (killed & AGENT != 0, killed & SPARE != 0) {
            (true, true) => {
                self.wait();
                self.start_again();
                self.another()
            }
            (true, false) => {
                self.replace_by(spare);
                self.another()
            }
            (false, true) => self.another(),
            (false, false) => spare,
        };
        (spare, killed & SERVICE != 0)
    }

    /// How many agents have taken up work so far.
    pub fn agents(&self) -> usize {
        let events = self.events();
        let started = events
            .iter()
            .filter(|event| event["event"] == "agent_started");
        started.count()
    }

    /// The event of the agent that took up work last, also where the journal was turned over since.
    fn latest_agent(&self) -> Option<String> {
        let read = |name| fs::read(self.runtime_dir().join(name)).unwrap_or_default();
        let text = [read("journal.1"), read("journal")].concat();
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let line = lines.rfind(|line| line.contains("\"event\":\"agent_started\""));
        line.map(str::to_owned)
    }

    fn wait_until_it_answers(&mut self, before: Option<&String>) {
        eventually("the agent answers", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the agent ended: {status}; {}", self.log());
            }
            let latest = self.latest_agent();
            let works = latest.is_some() && latest.as_ref() != before;
            (works && self.try_ask(&json!({"command": "status"})).is_some()).then_some(())
        });
    }

    /// The agent's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The temporary directory: `config`, `run`, and what the test puts there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    /// Writes a service's file, marked so that its processes are known.
    pub fn write_service(&self, name: &str, text: &str) {
        write_service(self.dir(), name, text);
    }

    /// Where a service's file is.
    pub fn service_file(&self, name: &str) -> PathBuf {
        service_file(self.dir(), name)
    }

    /// A `respawn` command line that speaks to this agent.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = respawn();
        command
            .args(arguments)
            .env("RESPAWN_RUNTIME_DIR", self.runtime_dir())
            .env("RESPAWN_CONFIG", self.dir().join("config"))
            .env("RESPAWN_PIN_DIR", pin_dir(self.dir()))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("respawn")
    }

    /// Sends a request over the socket, and returns the answer.
    pub fn ask(&self, request: &Value) -> Value {
        self.try_ask(request)
            .unwrap_or_else(|| panic!("no answer to {request}; {}", self.log()))
    }

    /// Has the command line do something about a service, and returns whether it was done.
    pub fn tell(&self, command: &str, service: &str) -> bool {
        self.run(&[command, service]).status.success()
    }

    /// As `tell`, and it has to be done.
    pub fn must(&self, command: &str, service: &str) {
        let output = self.run(&[command, service]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command} {service}: {said}");
    }

    fn try_ask(&self, request: &Value) -> Option<Value> {
        let mut request = request.clone();
        request["version"] = json!(1);
        let mut socket = self.connect()?;
        socket.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// A connection to the socket.
    pub fn connect(&self) -> Option<UnixStream> {
        let socket = UnixStream::connect(self.runtime_dir().join("control.sock")).ok()?;
        socket.set_read_timeout(Some(DEADLINE)).ok()?;
        Some(socket)
    }

    /// A service's status.
    pub fn status(&self, service: &str) -> Value {
        self.ask(&json!({"command": "status", "services": [service]}))["services"][0].clone()
    }

    /// All services' status.
    pub fn statuses(&self) -> Vec<Value> {
        let answer = self.ask(&json!({"command": "status"}));
        answer["services"].as_array().expect("services").clone()
    }

    /// Waits until a service is in this state, and returns its status.
    pub fn wait_state(&self, service: &str, state: &str) -> Value {
        eventually(&format!("{service} is {state}"), || {
            Some(self.status(service)).filter(|status| status["state"] == state)
        })
    }

    /// The pid of a service that runs its own program.
    pub fn running(&self, service: &str) -> u32 {
        self.executed(pid_of(&self.wait_state(service, "running")))
    }

    /// The same, of a service that ignores SIGTERM, once it has come so far.
    pub fn stubborn(&self, service: &str) -> u32 {
        let pid = self.running(service);
        eventually("it ignores SIGTERM", || {
            let ignored = u64::from_str_radix(&proc_status(pid, "SigIgn"), 16).ok()?;
            (ignored & 1 << (Signal::SIGTERM as u64 - 1) != 0).then_some(pid)
        })
    }

    /// Waits until a service runs as another process than `old`.
    pub fn replaced(&self, service: &str, old: u32) -> u32 {
        self.executed(eventually(
            &format!("{service} has another pid than {old}"),
            || {
                let status = self.status(service);
                (status["state"] == "running")
                    .then(|| pid_of(&status))
                    .filter(|pid| *pid != old)
            },
        ))
    }

    /// Waits until a process runs its own program, where its pid is one of the test's own namespace.
    fn executed(&self, pid: u32) -> u32 {
        match self.setup.wrapper.is_empty() {
            true => executed(pid),
            false => pid,
        }
    }

    /// The journal as it is.
    pub fn events(&self) -> Vec<Value> {
        let mut follow = self.follow();
        std::iter::from_fn(|| follow.next_now()).collect()
    }

    /// The journal's events of one service.
    pub fn events_of(&self, service: &str) -> Vec<Value> {
        let mut events = self.events();
        events.retain(|event| event["service"] == service);
        events
    }

    /// How many such events of a service there are.
    pub fn count(&self, service: &str, kind: &str) -> usize {
        let events = self.events_of(service);
        events.iter().filter(|event| event["event"] == kind).count()
    }

    /// The journal from its beginning, event by event.
    pub fn follow(&self) -> Follow {
        Follow {
            path: self.runtime_dir().join("journal"),
            file: None,
            rest: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// All living processes that were started for a service, its descendants included, but not what stands
    /// by for it.
    pub fn live(&self, service: &str) -> Vec<u32> {
        let mut live = marked(&format!("{}\0", marker(self.dir(), service)));
        live.retain(|pid| !stands_by(*pid));
        live
    }

    /// All living processes of all services.
    pub fn live_all(&self) -> Vec<u32> {
        marked(&marker(self.dir(), ""))
    }

    /// Asserts that a service is one process, which is the one that its status names.
    pub fn assert_single(&self, service: &str) -> u32 {
        let pid = self.running(service);
        // For a moment of its exec a process has no environment.
        let live = eventually("the environment of the process is there", || {
            Some(self.live(service)).filter(|live| live.contains(&pid))
        });
        assert_eq!(live, [pid], "{service}");
        pid
    }

    /// What the agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("agent.log")).unwrap_or_default()
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// Waits for the agent's end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the agent ends", || {
            self.child.try_wait().expect("try_wait")
        })
    }

    /// Kills the agent.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let log = self.log();
        if thread::panicking() {
            eprintln!("the agent's log:\n{log}");
            for event in self.events().iter().rev().take(30).rev() {
                eprintln!("{event}");
            }
        }
        // A test that has failed may have left anything: then nothing is asked any more.
        if !thread::panicking() && matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.try_ask(&json!({"command": "shutdown"}));
            let _ = self.wait();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let agents = format!("{AGENT}={}\0", unique(self.dir()));
        for pid in marked(&agents) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        while let pids @ [_, ..] = marked(&marker(self.dir(), "")).as_slice() {
            for pid in pids {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        }
        for cgroups in rig::cgroups_of(self.dir()) {
            rig::remove_folders(&cgroups);
        }
        let _ = fs::remove_dir_all(pin_dir(self.dir()));
        assert!(
            thread::panicking() || !log.contains("panicked"),
            "the agent panicked: {log}"
        );
    }
}

/// The journal, read as it grows.
pub struct Follow {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
    events: VecDeque<Value>,
}

impl Follow {
    /// The next event, once it is there.
    pub fn event(&mut self) -> Value {
        eventually("an event in the journal", || self.next_now())
    }

    /// The next event of this kind of a service, once it is there.
    pub fn next_of(&mut self, service: &str, kind: &str) -> Value {
        loop {
            let event = self.event();
            if event["service"] == service && event["event"] == kind {
                return event;
            }
        }
    }

    /// The next event, if it is there.
    pub fn next_now(&mut self) -> Option<Value> {
        if self.events.is_empty() {
            self.read();
        }
        self.events.pop_front()
    }

    /// Passes over all that is there.
    pub fn skip_to_end(&mut self) {
        while self.next_now().is_some() {}
    }

    fn read(&mut self) {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return };
        file.read_to_end(&mut self.rest).expect("the journal");
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let event = serde_json::from_slice(&line)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)));
            self.events.push_back(event);
        }
        let position = file.stream_position().expect("the journal");
        let length = file.seek(SeekFrom::End(0)).expect("the journal");
        assert!(position <= length, "the journal has shrunk");
        file.seek(SeekFrom::Start(position)).expect("the journal");
    }
}

/// How long something takes.
#[expect(clippy::disallowed_methods, reason = "measures a duration")]
pub fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = what();
    (value, start.elapsed())
}

/// A service that lives on, with more keys.
pub fn sleeping(keys: &str) -> String {
    format!("command = [\"sleep\", \"1000\"]\n{keys}")
}

/// A service that runs a shell script, with more keys.
pub fn shell(script: &str, keys: &str) -> String {
    // TOML's basic strings escape as JSON's do.
    format!("command = [\"/bin/sh\", \"-c\", {}]\n{keys}", json!(script))
}

/// The `pid` of a status or an event.
pub fn pid_of(value: &Value) -> u32 {
    value["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or_else(|| panic!("no pid in {value}"))
}

/// Waits until a process that an agent has started runs its own program, or has ended.
///
/// The agent goes on, and may report the service as running, somewhat earlier: the kernel wakes it
/// at the beginning of `exec_mmap` (fs/exec.c), while the child still has the agent's memory and
/// with it the agent's command line. After that it has none until the new program's is in place,
/// which is later than its credentials and its name.
fn executed(pid: u32) -> u32 {
    eventually("the process runs its own program", || {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0);
        let agents = words.nth(1) == Some(b"agent");
        (!is_alive(pid) || !command.is_empty() && !agents).then_some(pid)
    })
}

/// Sends a signal to a process that the test's agent has started.
pub fn signal_to(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap_or_else(|error| {
        panic!("{signal} to {pid}: {error}");
    });
}

/// Whether a process lives: is there, and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

/// A line of `/proc/PID/status`, without its key.
pub fn proc_status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {key} in {text}"))
        .trim()
        .to_owned()
}

fn spawn(command: &mut Command) -> Child {
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn command(dir: &Path, setup: &Setup) -> Command {
    let open = |name: &str| {
        let mut options = File::options();
        let file = options.append(true).create(true).open(dir.join(name));
        file.expect("a log file")
    };
    let mut words = setup.wrapper.clone();
    words.push(respawn().get_program().to_str().expect("a path").to_owned());
    let mut command = Command::new(words.remove(0));
    command
        .args(words)
        .arg("agent")
        .arg("--config")
        .arg(dir.join("config"))
        .arg("--runtime-dir")
        .arg(dir.join("run"))
        .arg("--pin-dir")
        .arg(pin_dir(dir))
        .arg("--log=info")
        .args(&setup.arguments)
        .env(AGENT, unique(dir))
        .envs(setup.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(open("agent.out"))
        .stderr(open("agent.log"));
    if setup.sight == Sight::PidfdsAlone {
        command.env("RESPAWN_BTF", "/nonexistent");
    }
    command
}

fn service_file(dir: &Path, name: &str) -> PathBuf {
    dir.join("config/services").join(format!("{name}.toml"))
}

fn write_service(dir: &Path, name: &str, text: &str) {
    let (key, value) = marker(dir, name)
        .split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .expect("a marker");
    // Most tests see for themselves what becomes of a start. At the end, so that lines keep their
    // numbers, unless a table there would swallow it.
    let is_said = text.contains("start_check") || text.contains("\n[");
    let check = match is_said {
        true => "",
        false => "start_check = \"0s\"\n",
    };
    // First, so that a table at the end of the text does not swallow it.
    let text = format!("environment.{key} = {value:?}\n{text}\n{check}");
    fs::write(service_file(dir, name), text).expect("a service file");
}

/// Where the agent pins its kernel side: a folder of the test's own.
fn pin_dir(dir: &Path) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("respawn-test-{}", unique(dir)))
}

/// What no other test's directory has in its name.
fn unique(dir: &Path) -> &str {
    let name = dir.file_name().and_then(|name| name.to_str());
    name.expect("a name").trim_start_matches('.')
}

/// What is in the environment of a service's processes, as far as the service's name.
fn marker(dir: &Path, service: &str) -> String {
    format!("RESPAWN_TEST={}-{service}", unique(dir))
}

/// Whether a process waits, traced by its agent, for the start of its service, or has been killed with it.
pub(crate) fn stands_by(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let is_killed = |mask: &str| u64::from_str_radix(mask, 16).is_ok_and(|it| it & 0x100 != 0);
    status.lines().any(|line| match line.split_once(":\t") {
        Some(("TracerPid", pid)) => pid != "0",
        Some(("SigPnd" | "ShdPnd", mask)) => is_killed(mask),
        _ => false,
    })
}

/// Living processes with this in their environment.
fn marked(marker: &str) -> Vec<u32> {
    let marker = marker.as_bytes();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment.windows(marker.len()).any(|part| part == marker)
            })
        })
        .collect();
    pids.sort_unstable();
    pids
}

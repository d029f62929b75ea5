//! From the last release, 0.1.0, to this build and back, while services run and die: none is
//! restarted that lives, none runs twice, and whatever died in between is reported with its cause.
//!
//! These tests stay for every later change of the kernel's records and of the state files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;
use support::rig::{AgentProcess, Instance, Ledger, Memory, Rig, Seeded, report};
use support::scene::Scene;
use support::{eventually, is_alive, needs_root, now, previous, respawn, signal_to, skip};

/// How what the kernel and the files remember outlives the agents.
const MEMORIES: [Memory; 2] = [Memory::Kernel, Memory::FilesAlone];

/// The release's binary, or the end of the test as skipped.
macro_rules! release_or_skip {
    ($test:expr) => {{
        needs_root!($test);
        match previous() {
            Ok(path) => path,
            Err(reason) => return skip($test, &reason),
        }
    }};
}

/// Which of the two binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Release,
    ThisBuild,
}

/// Directories whose agents are of either version.
struct Upgrade {
    rig: Rig,
    release: PathBuf,
}

impl Upgrade {
    fn new(release: &Path, memory: Memory) -> Self {
        let mut upgrade = Self {
            rig: Rig::with(memory),
            release: release.to_owned(),
        };
        upgrade.set(Version::Release);
        upgrade
    }

    /// Has the agents be of this version from now on.
    fn set(&mut self, version: Version) {
        match version {
            Version::Release => self.rig.run_by(&self.release, 0),
            Version::ThisBuild => self.rig.run_this_build(),
        }
    }
}

/// Which program a process runs.
fn inode_of(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn program_of(pid: u32) -> u64 {
    inode_of(format!("/proc/{pid}/exe"))
}

/// What `status --json` says and does not change by itself.
fn lasting(rig: &Rig) -> Vec<Value> {
    let output = rig.run(&["status", "--json"]);
    let statuses: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let keys = ["service", "state", "pid", "restarts", "last_exit", "error"];
    let kept = |status: &Value| {
        let pairs = keys.map(|key| (key.to_owned(), status[key].clone()));
        Value::Object(pairs.into_iter().collect())
    };
    statuses.iter().map(kept).collect()
}

fn wait_state(rig: &Rig, service: &str, state: &str) {
    eventually(&format!("{service} is {state}"), || {
        let statuses = lasting(rig);
        let of = |status: &&Value| status["service"] == service && status["state"] == state;
        statuses.iter().find(of).map(|_| ())
    });
}

#[test]
fn an_upgrade_and_a_downgrade_restart_no_service() {
    const NAME: &str = "an upgrade and a downgrade";
    let release = release_or_skip!(NAME);
    for memory in MEMORIES {
        let mut upgrade = Upgrade::new(&release, memory);
        let rig = &upgrade.rig;
        rig.sleeper("web");
        rig.sleeper("restarted");
        rig.sleeper("stopped");
        rig.service("failed", r#"["/bin/false"]"#, "restart = \"no\"");
        rig.service("finished", r#"["/bin/true"]"#, "restart = \"no\"");
        rig.service("waiting", r#"["/bin/false"]"#, "restart_delay = \"1h\"");
        let mut ledger = rig.ledger();
        let mut agent = rig.agent();
        let web = ledger.current("web");
        let killed = ledger.current("restarted");
        signal_to(killed.0, Signal::SIGKILL);
        ledger.wait("it is back", |ledger| {
            let now = ledger.has_current("restarted")?;
            (now != killed).then_some(())
        });
        assert!(rig.run(&["stop", "stopped"]).status.success());
        wait_state(rig, "failed", "failed");
        wait_state(rig, "finished", "stopped");
        wait_state(rig, "waiting", "backoff");
        let before = lasting(rig);
        ledger.read();
        let starts = ledger.starts;
        // Each version takes over from each, and from itself.
        for version in [
            Version::ThisBuild,
            Version::ThisBuild,
            Version::Release,
            Version::ThisBuild,
            Version::Release,
            Version::Release,
        ] {
            upgrade.set(version);
            let agents = ledger.agents.len();
            agent.kill();
            agent = upgrade.rig.agent();
            ledger.next_agent(agents);
            assert_eq!(ledger.current("web"), web);
            wait_state(&upgrade.rig, "web", "running");
            assert_eq!(lasting(&upgrade.rig), before, "{memory:?} {version:?}");
            assert_eq!(ledger.starts, starts, "{memory:?} {version:?}");
            for service in ["web", "restarted"] {
                let instance = ledger.current(service);
                upgrade.rig.assert_single(service, instance);
            }
            for service in ["stopped", "failed", "finished", "waiting"] {
                assert_eq!(upgrade.rig.live(service), [0; 0], "{service}");
            }
        }
        assert_eq!(ledger.lost, 0);
    }
}

#[test]
fn what_died_between_the_two_agents_is_reported_with_its_cause() {
    const NAME: &str = "deaths between two versions";
    let release = release_or_skip!(NAME);
    let mut upgrade = Upgrade::new(&release, Memory::Kernel);
    // It ends by itself, once somebody writes to its FIFO.
    let fifo = upgrade.rig.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let script = format!("read line < {}; exit 3", fifo.display());
    let command = format!("[\"/bin/sh\", \"-c\", {script:?}]");
    let at_once = "restart_max_delay = \"0s\"";
    upgrade.rig.service("itself", &command, at_once);
    let signals = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGUSR1];
    for signal in signals {
        upgrade.rig.sleeper(signal.as_str());
    }
    let mut ledger = upgrade.rig.ledger();
    let mut agent = upgrade.rig.agent();
    let old = signals.map(|signal| ledger.current(signal.as_str()));
    let itself = ledger.current("itself");
    agent.kill();
    for (instance, signal) in old.iter().zip(signals) {
        signal_to(instance.0, signal);
    }
    fs::write(&fifo, "\n").unwrap();
    for instance in old.iter().chain([&itself]) {
        eventually("it is dead", || (!is_alive(instance.0)).then_some(()));
    }
    upgrade.set(Version::ThisBuild);
    let _agent = upgrade.rig.agent();
    let exit_of = |service: &str, old: Instance, ledger: &mut Ledger| {
        let new = ledger.wait("it is back", |ledger| {
            ledger.has_current(service).filter(|now| *now != old)
        });
        upgrade.rig.assert_single(service, new);
        let exits = &ledger.told(service, old).exits;
        assert_eq!(exits.len(), 1, "{exits:?}");
        exits[0].clone()
    };
    for (instance, signal) in old.into_iter().zip(signals) {
        let exit = exit_of(signal.as_str(), instance, &mut ledger);
        let cause = &exit["cause"];
        assert_eq!(cause["signal"], signal.as_str(), "{exit}");
        assert_eq!(cause["sender"]["pid"], std::process::id(), "{exit}");
        assert!(exit["host_pid"].is_number(), "{exit}");
    }
    let exit = exit_of("itself", itself, &mut ledger);
    assert_eq!(exit["cause"]["code"], 3, "{exit}");
    assert_eq!(ledger.lost, 0);
    let log = upgrade.rig.log();
    assert!(!log.contains("left by another version"), "{log}");
    assert_one_version_is_pinned(&upgrade.rig);
}

/// What the version before has left is gone.
fn assert_one_version_is_pinned(rig: &Rig) {
    eventually("one version is pinned", || {
        let versions = fs::read_dir(rig.pin_dir()).unwrap().count();
        (versions == 1).then_some(())
    });
}

#[test]
fn services_of_the_release_are_watched_stopped_and_cleared_as_ever() {
    const NAME: &str = "services of the release under this build";
    let release = release_or_skip!(NAME);
    for memory in MEMORIES {
        let upgrade = Upgrade::new(&release, memory);
        let script = "setsid sleep 100000 & sleep 100000 & wait";
        let command = format!("[\"/bin/sh\", \"-c\", {script:?}]");
        upgrade
            .rig
            .service("tree", &command, "restart_max_delay = \"0s\"");
        let mut scene = Scene::with(upgrade.rig);
        eventually("the tree is there", || {
            (scene.rig.live("tree").len() == 3).then_some(())
        });
        scene.between_agents(Rig::run_this_build);
        scene.assert_same();
        if memory == Memory::Kernel {
            scene.assert_watched();
        } else {
            scene.assert_mended();
        }
        // All of it goes before the next one comes.
        let old = scene.rig.live("tree");
        let main = scene.ledger.current("tree");
        signal_to(main.0, Signal::SIGKILL);
        scene.ledger.wait("it is back", |ledger| {
            ledger.has_current("tree").filter(|now| *now != main)
        });
        assert!(old.iter().all(|pid| !is_alive(*pid)), "{old:?}");
        assert!(scene.rig.run(&["stop", "tree"]).status.success());
        assert_eq!(scene.rig.live("tree"), [0; 0]);
    }
}

/// A binary that init starts agents from, and that an upgrade replaces.
struct Installed(PathBuf);

impl Installed {
    fn new(upgrade: &mut Upgrade) -> Self {
        let path = upgrade.rig.path().join("respawn");
        fs::copy(&upgrade.release, &path).unwrap();
        upgrade.rig.run_by(&path, 0);
        Self(path)
    }

    /// As `mv` does.
    fn replace_by(&self, binary: &Path) {
        let new = self.0.with_extension("new");
        fs::copy(binary, &new).unwrap();
        fs::rename(&new, &self.0).unwrap();
    }
}

#[test]
fn a_spare_of_the_release_takes_over_as_this_build() {
    const NAME: &str = "a spare of the release whose file is replaced";
    let release = release_or_skip!(NAME);
    for memory in MEMORIES {
        let mut upgrade = Upgrade::new(&release, memory);
        let installed = Installed::new(&mut upgrade);
        let mut scene = Scene::with(upgrade.rig);
        let spare = scene.rig.spare();
        installed.replace_by(Path::new(respawn().get_program()));
        let agents = scene.ledger.agents.len();
        let dead = scene.web;
        // The service dies with its agent.
        scene.agent.signal(Signal::SIGKILL);
        scene.kill_web();
        scene.agent.wait();
        let pid = scene.ledger.next_agent(agents);
        assert_eq!(pid, spare.pid());
        assert_eq!(program_of(pid), inode_of(&installed.0));
        scene.agent = spare;
        scene.web = scene.ledger.wait("it is back", |ledger| {
            ledger.has_current("web").filter(|now| *now != dead)
        });
        let exits = &scene.ledger.told("web", dead).exits;
        assert_eq!(exits.len(), 1, "{exits:?}");
        if memory == Memory::Kernel {
            assert_eq!(exits[0]["cause"]["signal"], "SIGKILL", "{exits:?}");
        }
        scene.assert_same();
        scene.assert_mended();
        assert_eq!(scene.ledger.instances_of("web").count(), 3);
    }
}

#[test]
fn a_spare_of_this_build_takes_over_from_the_release_and_the_other_way() {
    const NAME: &str = "spares of another version";
    let release = release_or_skip!(NAME);
    for memory in MEMORIES {
        let upgrade = Upgrade::new(&release, memory);
        let mut scene = Scene::with(upgrade.rig);
        for round in 0..4 {
            if round % 2 == 0 {
                scene.rig.run_this_build();
            } else {
                scene.rig.run_by(&release, 0);
            }
            let mut spare = scene.rig.spare();
            let agents = scene.ledger.agents.len();
            scene.agent.kill();
            assert_eq!(scene.ledger.next_agent(agents), spare.pid());
            std::mem::swap(&mut scene.agent, &mut spare);
            scene.assert_same();
            scene.assert_mended();
        }
        // One of this build waits when an agent of the release is told to shut down.
        scene.rig.run_this_build();
        let mut spare = scene.rig.spare();
        assert!(scene.rig.run(&["shutdown"]).status.success());
        assert!(scene.agent.ended().success());
        assert!(spare.ended().success());
        assert_eq!(scene.rig.live("web"), [0; 0]);
    }
}

/// Services that die while agents come and go.
struct Crowd {
    upgrade: Upgrade,
    names: Vec<String>,
    ledger: Ledger,
    agent: AgentProcess,
    /// Those whose exits may not be in the journal yet.
    dead: Vec<Option<Instance>>,
    /// How long the last takeover took.
    takeover: Duration,
}

impl Crowd {
    fn start(release: &Path, memory: Memory, services: usize) -> Self {
        let upgrade = Upgrade::new(release, memory);
        let names: Vec<String> = (0..services).map(|n| format!("web-{n}")).collect();
        for name in &names {
            upgrade.rig.sleeper(name);
        }
        let ledger = upgrade.rig.ledger();
        let agent = upgrade.rig.agent();
        Self {
            dead: vec![None; names.len()],
            upgrade,
            names,
            ledger,
            agent,
            takeover: Duration::from_millis(100),
        }
    }

    /// Waits until all run again.
    fn all_are_back(&mut self) {
        for (name, dead) in self.names.iter().zip(&mut self.dead) {
            self.ledger.wait("it is back", |ledger| {
                let now = ledger.has_current(name)?;
                (Some(now) != *dead && is_alive(now.0)).then_some(())
            });
            *dead = None;
        }
    }

    /// Kills one after the other while a takeover of the usual length goes on.
    fn kill_during_takeover(&mut self) {
        let start = now();
        let count = u32::try_from(self.names.len()).unwrap();
        for (number, (name, dead)) in (0..).zip(self.names.iter().zip(&mut self.dead)) {
            while start.elapsed() < self.takeover * number / count {
                thread::sleep(Duration::from_micros(100));
            }
            self.ledger.read();
            if let Some(instance) = self.ledger.has_current(name) {
                signal_to(instance.0, Signal::SIGKILL);
                *dead = Some(instance);
            }
        }
    }

    /// Another agent, of this version, takes over while services die.
    fn take_over(&mut self, version: Version) {
        self.upgrade.set(version);
        let agents = self.ledger.agents.len();
        self.agent.kill();
        let start = now();
        self.agent = self.upgrade.rig.agent();
        self.kill_during_takeover();
        self.ledger.next_agent(agents);
        self.takeover = start.elapsed();
    }

    /// Another agent, of this version, takes over while nothing dies.
    fn take_over_quietly(&mut self, version: Version) {
        self.upgrade.set(version);
        let agents = self.ledger.agents.len();
        self.agent.kill();
        self.agent = self.upgrade.rig.agent();
        self.ledger.next_agent(agents);
        self.all_are_back();
    }

    /// Asserts that each is one process, and that each exit was told once; returns how many.
    fn assert_none_lost_or_doubled(&mut self) -> usize {
        self.all_are_back();
        assert_eq!(self.ledger.lost, 0);
        let mut told = 0;
        for name in &self.names {
            let current = self.ledger.current(name);
            self.upgrade.rig.assert_single(name, current);
            for (instance, of) in self.ledger.instances_of(name) {
                let expected = usize::from(instance != current);
                assert_eq!(of.exits.len(), expected, "{name} {instance:?}: {of:?}");
                told += expected;
            }
        }
        told
    }
}

/// Exits whose cause is not the SIGKILL that it was.
fn without_cause(ledger: &Ledger, names: &[String]) -> Vec<Value> {
    let exits = names.iter().flat_map(|name| ledger.instances_of(name));
    let exits = exits.flat_map(|(_, told)| told.exits.iter());
    let exits = exits.filter(|exit| exit["cause"]["signal"] != "SIGKILL");
    exits.cloned().collect()
}

#[test]
fn an_upgrade_while_services_die_loses_and_doubles_nothing() {
    const NAME: &str = "an upgrade while services die";
    const ROUNDS: usize = 12;
    let release = release_or_skip!(NAME);
    let mut crowd = Crowd::start(&release, Memory::Kernel, 16);
    for _ in 0..ROUNDS {
        crowd.all_are_back();
        crowd.take_over(Version::ThisBuild);
        crowd.all_are_back();
        crowd.take_over_quietly(Version::Release);
    }
    let told = crowd.assert_none_lost_or_doubled();
    let unknown = without_cause(&crowd.ledger, &crowd.names);
    let (count, first) = (unknown.len(), unknown.first());
    assert_eq!(count, 0, "without their cause; the first: {first:?}");
    report(&format!(
        "upgrade from 0.1.0: {ROUNDS} times with 16 services being killed; {told} exits, each told \
         once with its cause"
    ));
}

#[test]
fn versions_that_take_turns_while_services_die_double_nothing() {
    const NAME: &str = "versions that take turns";
    const ROUNDS: usize = 12;
    let release = release_or_skip!(NAME);
    for memory in MEMORIES {
        let mut crowd = Crowd::start(&release, memory, 16);
        for round in 0..ROUNDS {
            crowd.all_are_back();
            crowd.take_over(if round % 2 == 0 {
                Version::ThisBuild
            } else {
                Version::Release
            });
        }
        let told = crowd.assert_none_lost_or_doubled();
        let unknown = without_cause(&crowd.ledger, &crowd.names).len();
        report(&format!(
            "turns of 0.1.0 and this build, {memory:?}: {ROUNDS} with 16 services being killed; \
             {told} exits, each told once, {unknown} with an unknown cause"
        ));
    }
}

#[test]
fn agents_that_die_in_the_middle_of_an_upgrade_lose_and_double_nothing() {
    const NAME: &str = "agents that die in the middle of an upgrade";
    const ROUNDS: usize = 8;
    let release = release_or_skip!(NAME);
    let mut random = Seeded(9);
    let mut crowd = Crowd::start(&release, Memory::Kernel, 8);
    let mut died = 0;
    for _ in 0..ROUNDS {
        crowd.all_are_back();
        crowd.take_over_quietly(Version::Release);
        let usual = u64::try_from(crowd.takeover.as_micros()).unwrap();
        crowd.agent.kill();
        crowd.upgrade.set(Version::ThisBuild);
        for _ in 0..4 {
            // It dies somewhere between its start and the end of its work with what was there.
            let mut agent = crowd.upgrade.rig.agent();
            crowd.kill_some(&mut random);
            thread::sleep(Duration::from_micros(random.below(usual)));
            agent.kill();
            died += 1;
            crowd.kill_some(&mut random);
        }
        crowd.ledger.read();
        let agents = crowd.ledger.agents.len();
        crowd.agent = crowd.upgrade.rig.agent();
        crowd.ledger.next_agent(agents);
    }
    let told = crowd.assert_none_lost_or_doubled();
    let unknown = without_cause(&crowd.ledger, &crowd.names);
    let (count, first) = (unknown.len(), unknown.first());
    assert_eq!(count, 0, "without their cause; the first: {first:?}");
    report(&format!(
        "upgrade from 0.1.0 with {died} agents killed in the middle: {told} exits, each told once \
         with its cause"
    ));
}

impl Crowd {
    /// Kills about half of the services that are known to run.
    fn kill_some(&mut self, random: &mut Seeded) {
        for (name, dead) in self.names.iter().zip(&mut self.dead) {
            for pid in self.upgrade.rig.live(name) {
                // An agent may have killed it meanwhile, if no agent had recorded it.
                let pid = Pid::from_raw(pid.cast_signed());
                if random.below(2) == 0 && kill(pid, Signal::SIGKILL).is_ok() {
                    *dead = self.ledger.has_current(name);
                }
            }
        }
    }
}

/// A service that ends while its agent starts it again, and the next agent is of another version.
#[test]
fn a_birth_that_the_release_had_no_time_to_write_down_is_adopted() {
    const NAME: &str = "births that nobody has written down";
    const ROUNDS: u64 = 20;
    let release = release_or_skip!(NAME);
    for memory in MEMORIES {
        let upgrade = Upgrade::new(&release, memory);
        let mut scene = Scene::with(upgrade.rig);
        for round in 0..ROUNDS {
            let old = scene.web;
            scene.kill_web();
            thread::sleep(Duration::from_micros(round * 200));
            scene.between_agents(Rig::run_this_build);
            scene.web = scene.ledger.wait("it is back", |ledger| {
                ledger.has_current("web").filter(|now| *now != old)
            });
            scene.rig.assert_single("web", scene.web);
            scene.ledger.assert_no_exit_twice("web");
            // Where the host's init has not reaped the old one, 0.1.0 takes the cgroup of that zombie for
            // its own, although the new one is in it, and clears it.
            let process = PathBuf::from(format!("/proc/{}", old.0));
            eventually("the old one is reaped", || {
                (!process.exists()).then_some(())
            });
            scene.between_agents(|rig| rig.run_by(&release, 0));
            scene.assert_same();
        }
    }
}

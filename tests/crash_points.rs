//! The agent is killed before and after each of its system calls, in everything that it does with
//! a service. Whatever it had and had not done, the next agent comes to one instance.
//!
//! Every point where time allows, else a sample that another seed (`RESPAWN_SEED`) makes another;
//! every point with `RESPAWN_SOAK=1`, but for those of the first agent of all, which are mostly the
//! reads of one file.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::eventually;
use support::rig::{AgentProcess, Instance, Ledger, Memory, Rig, Seeded, is_soak, report};
use support::tracer::{Traced, Went};
use support::{needs_root, rest};

/// How many points of one phase are tried, about.
#[derive(Clone, Copy)]
struct Sample {
    usual: usize,
    soak: usize,
}

const SAMPLE: Sample = Sample {
    usual: 400,
    soak: usize::MAX,
};
/// The same where a point takes long: kernel programs are loaded and unloaded for each.
const SLOW_SAMPLE: Sample = Sample {
    usual: 60,
    soak: 1500,
};
/// The same where the agent lets a second pass at each.
const PAUSING_SAMPLE: Sample = Sample {
    usual: 15,
    soak: 1500,
};

/// One service that things are done with, one that nothing may happen to.
struct Scene {
    rig: Rig,
    ledger: Ledger,
    bystander: Instance,
    /// More keys of the service.
    keys: &'static str,
}

impl Scene {
    /// An agent with the bystander alone.
    fn new(memory: Memory) -> (Self, AgentProcess) {
        let rig = Rig::with(memory);
        rig.sleeper("bystander");
        let mut ledger = rig.ledger();
        let agent = rig.agent();
        let bystander = ledger.current("bystander");
        let scene = Self {
            rig,
            ledger,
            bystander,
            keys: "",
        };
        (scene, agent)
    }

    /// Writes the file of the service, so that a reload makes another instance of it.
    fn write(&self, seconds: usize) {
        let command = format!(r#"["/usr/bin/sleep", "{seconds}"]"#);
        let keys = format!("restart_max_delay = \"0s\"\n{}", self.keys);
        self.rig.service("subject", &command, &keys);
    }

    /// Waits until the next instance of the service stands by.
    fn stands_by(&self) {
        eventually("its next instance stands by", || {
            let output = self.rig.run(&["status", "--json", "subject"]);
            let statuses: Value = serde_json::from_slice(&output.stdout).ok()?;
            (statuses[0]["standby"]["state"] == "ready").then_some(())
        });
    }

    /// The next agent, once it has taken up work.
    fn next_agent(&mut self) -> AgentProcess {
        self.ledger.read();
        let before = self.ledger.agents.len();
        let agent = self.rig.agent();
        self.ledger.next_agent(before);
        agent
    }

    /// Waits until the latest agent has come to rest with an instance that runs `sleep seconds`
    /// and is not `old`, and asserts that it is the only one.
    fn settled(&mut self, seconds: usize, old: Option<Instance>) -> Instance {
        let command = format!("/usr/bin/sleep\0{seconds}\0");
        let instance = self.ledger.wait("the right instance", |ledger| {
            let instance = ledger.has_current("subject")?;
            let path = format!("/proc/{}/cmdline", instance.0);
            let words = fs::read_to_string(path).unwrap_or_default();
            (words == command && Some(instance) != old).then_some(instance)
        });
        self.rig.assert_single("subject", instance);
        let bystander = self.ledger.current("bystander");
        assert_eq!(bystander, self.bystander);
        self.rig.assert_single("bystander", bystander);
        instance
    }

    /// Has a service that runs `sleep seconds` done away with.
    fn remove(&mut self) {
        self.rig.remove_service("subject");
        let output = self.rig.run(&["reload"]);
        assert!(output.status.success(), "{output:?}");
        eventually("the service is gone", || {
            self.rig.live("subject").is_empty().then_some(())
        });
    }
}

/// Tries a phase at its points: `attempt` is told at which stop to kill, and returns how far the
/// agent went.
fn try_points(phase: &str, memory: Memory, sample: Sample, mut attempt: impl FnMut(usize) -> Went) {
    let count = match attempt(usize::MAX) {
        Went::Done(count) => count,
        Went::There => usize::MAX,
    };
    let sample = if is_soak() { sample.soak } else { sample.usual };
    let step = count.div_ceil(sample);
    let seed = std::env::var("RESPAWN_SEED").map_or(1, |seed| seed.parse().unwrap());
    let offset = Seeded(seed).below(u64::try_from(step).unwrap());
    let mut tried = 0;
    let mut beyond = 0;
    // A few more: a run may take a system call more than another.
    for point in (1 + usize::try_from(offset).unwrap()..count + 10).step_by(step) {
        tried += 1;
        if attempt(point) != Went::There {
            beyond += 1;
        }
    }
    // Else the point was not where it was thought to be.
    assert!(
        count >= 10 && beyond <= 10 + tried / 10,
        "{phase}: of {tried} points {beyond} came after the end of {count} calls"
    );
    report(&format!(
        "crash points of {phase}, memory {memory:?}: {tried} tried of {count} ({beyond} after its end), each left one instance"
    ));
}

#[test]
fn of_a_first_start() {
    needs_root!("crash points of a first start");
    a_first_start(Memory::Kernel);
}

#[test]
fn of_a_first_start_without_ebpf() {
    a_first_start(Memory::FilesAlone);
}

#[test]
fn of_the_making_of_a_standby() {
    needs_root!("crash points of the making of a standby");
    the_making_of_a_standby(Memory::Kernel);
}

#[test]
fn of_the_making_of_a_standby_without_ebpf() {
    the_making_of_a_standby(Memory::FilesAlone);
}

/// Whatever becomes of its agent, what was to stand by never runs.
fn the_making_of_a_standby(memory: Memory) {
    let (mut scene, mut first) = Scene::new(memory);
    scene.keys = "standby = true";
    scene.write(100_000);
    assert!(scene.rig.run(&["reload"]).status.success());
    let instance = scene.settled(100_000, None);
    first.kill();
    let mut agent = Some(scene.next_agent());
    try_points("the making of a standby", memory, PAUSING_SAMPLE, |point| {
        scene.stands_by();
        let traced = Traced::seize(agent.take().unwrap());
        // It is killed, and another one is made a while later.
        for pid in scene.rig.standing_by("subject") {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        }
        let mut was_gone = false;
        let went = traced.run(point, || {
            let is_there = scene.rig.standing_by("subject").into_iter().any(|pid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.contains(") t ")
            });
            was_gone |= !is_there;
            was_gone && is_there
        });
        traced.kill();
        agent = Some(scene.next_agent());
        assert_eq!(scene.settled(100_000, None), instance);
        went
    });
    assert_eq!(scene.ledger.assert_each_exited_once("subject", ""), 0);
}

fn a_first_start(memory: Memory) {
    let (mut scene, agent) = Scene::new(memory);
    let mut agent = Some(agent);
    try_points("a first start", memory, SAMPLE, |point| {
        scene.write(100_000);
        let traced = Traced::seize(agent.take().unwrap());
        let _answer = scene.rig.send(&json!({"command": "reload"}));
        let ledger = &mut scene.ledger;
        let went = traced.run(point, || {
            ledger.read();
            ledger.has_current("subject").is_some()
        });
        traced.kill();
        agent = Some(scene.next_agent());
        scene.settled(100_000, None);
        scene.remove();
        went
    });
    scene.ledger.read();
    scene.ledger.assert_no_exit_twice("subject");
}

#[test]
fn of_a_restart() {
    needs_root!("crash points of a restart");
    a_restart(Memory::Kernel);
}

#[test]
fn of_a_restart_without_ebpf() {
    a_restart(Memory::FilesAlone);
}

#[test]
fn of_a_restart_by_a_standby() {
    needs_root!("crash points of a restart by a standby");
    restarts("a restart by a standby", Memory::Kernel, "standby = true");
}

#[test]
fn of_a_restart_by_a_standby_without_ebpf() {
    restarts(
        "a restart by a standby",
        Memory::FilesAlone,
        "standby = true",
    );
}

#[test]
fn of_a_restart_with_overlap() {
    needs_root!("crash points of a restart with overlap");
    restarts("a restart with overlap", Memory::Kernel, "overlap = true");
}

#[test]
fn of_a_restart_with_overlap_without_ebpf() {
    restarts(
        "a restart with overlap",
        Memory::FilesAlone,
        "overlap = true",
    );
}

fn a_restart(memory: Memory) {
    restarts("a restart", memory, "");
}

fn restarts(phase: &str, memory: Memory, keys: &'static str) {
    let (mut scene, mut first) = Scene::new(memory);
    scene.keys = keys;
    scene.write(100_000);
    assert!(scene.rig.run(&["reload"]).status.success());
    let mut instance = scene.settled(100_000, None);
    first.kill();
    let mut agent = Some(scene.next_agent());
    try_points(phase, memory, SAMPLE, |point| {
        rest();
        if keys.contains("standby") {
            scene.stands_by();
        }
        let old = instance;
        let traced = Traced::seize(agent.take().unwrap());
        kill(Pid::from_raw(old.0.cast_signed()), Signal::SIGKILL).unwrap();
        let ledger = &mut scene.ledger;
        let went = traced.run(point, || {
            ledger.read();
            ledger.has_current("subject").is_some_and(|new| new != old)
        });
        traced.kill();
        agent = Some(scene.next_agent());
        instance = scene.settled(100_000, Some(old));
        assert!(scene.ledger.has_exited("subject", old));
        went
    });
    scene.ledger.assert_each_exited_once("subject", "SIGKILL");
}

#[test]
fn of_an_adoption() {
    needs_root!("crash points of an adoption");
    an_adoption(Memory::Kernel);
}

#[test]
fn of_an_adoption_without_ebpf() {
    an_adoption(Memory::FilesAlone);
}

fn an_adoption(memory: Memory) {
    let (mut scene, mut first) = Scene::new(memory);
    scene.write(100_000);
    assert!(scene.rig.run(&["reload"]).status.success());
    let instance = scene.settled(100_000, None);
    first.kill();
    try_points("an adoption", memory, SAMPLE, |point| {
        scene.ledger.read();
        let before = scene.ledger.agents.len();
        let traced = Traced::start(scene.rig.agent_command());
        let ledger = &mut scene.ledger;
        let went = traced.run(point, || {
            ledger.read();
            ledger.agents.len() > before && ledger.has_current("bystander").is_some()
        });
        traced.kill();
        let mut next = scene.next_agent();
        assert_eq!(scene.settled(100_000, None), instance);
        next.kill();
        went
    });
    assert_eq!(scene.ledger.assert_each_exited_once("subject", ""), 0);
}

#[test]
fn of_an_adoption_of_a_dead_service() {
    needs_root!("crash points of an adoption of a dead service");
    an_adoption_of_a_dead_service(Memory::Kernel);
}

#[test]
fn of_an_adoption_of_a_dead_service_without_ebpf() {
    an_adoption_of_a_dead_service(Memory::FilesAlone);
}

fn an_adoption_of_a_dead_service(memory: Memory) {
    let (mut scene, mut first) = Scene::new(memory);
    scene.write(100_000);
    assert!(scene.rig.run(&["reload"]).status.success());
    let mut instance = scene.settled(100_000, None);
    first.kill();
    try_points("an adoption of a dead service", memory, SAMPLE, |point| {
        rest();
        let old = instance;
        kill(Pid::from_raw(old.0.cast_signed()), Signal::SIGKILL).unwrap();
        let traced = Traced::start(scene.rig.agent_command());
        let ledger = &mut scene.ledger;
        let went = traced.run(point, || {
            ledger.read();
            ledger.has_current("subject").is_some_and(|new| new != old)
        });
        traced.kill();
        let mut next = scene.next_agent();
        instance = scene.settled(100_000, Some(old));
        next.kill();
        went
    });
    scene.ledger.assert_each_exited_once("subject", "SIGKILL");
}

#[test]
fn of_a_reload_that_changes_a_service() {
    needs_root!("crash points of a reload");
    a_reload_that_changes_a_service(Memory::Kernel);
}

#[test]
fn of_a_reload_that_changes_a_service_without_ebpf() {
    a_reload_that_changes_a_service(Memory::FilesAlone);
}

fn a_reload_that_changes_a_service(memory: Memory) {
    let (mut scene, agent) = Scene::new(memory);
    let mut agent = Some(agent);
    let mut seconds = 100_000;
    scene.write(seconds);
    assert!(scene.rig.run(&["reload"]).status.success());
    let mut instance = scene.settled(seconds, None);
    try_points("a reload that changes a service", memory, SAMPLE, |point| {
        let old = instance;
        seconds += 1;
        scene.write(seconds);
        let traced = Traced::seize(agent.take().unwrap());
        let _answer = scene.rig.send(&json!({"command": "reload"}));
        let ledger = &mut scene.ledger;
        let went = traced.run(point, || {
            ledger.read();
            ledger.has_current("subject").is_some_and(|new| new != old)
        });
        traced.kill();
        agent = Some(scene.next_agent());
        instance = scene.settled(seconds, Some(old));
        went
    });
    scene.ledger.assert_each_exited_once("subject", "SIGTERM");
}

#[test]
fn of_the_first_agent_of_all() {
    needs_root!("crash points of the first agent");
    the_first_agent_of_all(Memory::Kernel);
}

#[test]
fn of_the_first_agent_of_all_without_ebpf() {
    the_first_agent_of_all(Memory::FilesAlone);
}

fn the_first_agent_of_all(memory: Memory) {
    let rig = Rig::with(memory);
    rig.sleeper("subject");
    try_points("the first agent of all", memory, SLOW_SAMPLE, |point| {
        let mut ledger = rig.ledger();
        let traced = Traced::start(rig.agent_command());
        let went = traced.run(point, || {
            ledger.read();
            ledger.has_current("subject").is_some()
        });
        traced.kill();
        ledger.read();
        let mut next = rig.agent();
        ledger.next_agent(ledger.agents.len());
        let instance = ledger.current("subject");
        rig.assert_single("subject", instance);
        if memory == Memory::Kernel {
            assert!(rig.pin("exit_group_dead").exists() || rig.pin("exit_live_zero").exists());
        }
        assert!(rig.run(&["shutdown"]).status.success());
        next.ended();
        rig.clear();
        went
    });
}

//! Deaths of a service's other processes: told if a signal ended them while the service ran, bounded
//! in number, and with the main process's own end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::rig::{AgentProcess, Rig};
use support::{eventually, is_alive, needs_root, skip};

/// A service that runs children, whose pids are in the file `children` of the rig's directory.
struct Family {
    rig: Rig,
    agent: AgentProcess,
}

impl Family {
    /// A service named `family` that runs this script, with `$DIR` the rig's directory.
    fn start(script: &str, keys: &str) -> Self {
        let rig = Rig::new();
        let script = script.replace("$DIR", rig.path().to_str().unwrap());
        rig.service("family", &format!("[\"bash\", \"-c\", {script:?}]"), keys);
        let agent = rig.agent();
        Self { rig, agent }
    }

    /// The pids, when there are so many, and each runs its program.
    fn children(&self, count: usize) -> Vec<u32> {
        let runs = |pid: &u32| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
            // Of an earlier instance it may be gone.
            comm.map_or(true, |comm| comm.trim() == "sleep")
        };
        eventually("the children run", || {
            let text = fs::read_to_string(self.rig.path().join("children")).ok()?;
            let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            (pids.len() >= count && pids.iter().all(runs)).then_some(pids)
        })
    }

    fn events(&self) -> Vec<Value> {
        let output = self.rig.run(&["events", "family", "--json"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn named(&self, name: &str) -> Vec<Value> {
        let mut events = self.events();
        events.retain(|event| event["event"] == name);
        events
    }

    /// Waits until there are so many events of this name.
    fn wait(&self, name: &str, count: usize) -> Vec<Value> {
        eventually(name, || {
            let events = self.named(name);
            (events.len() >= count).then_some(events)
        })
    }

    /// The main process that was started last.
    fn main(&self) -> u32 {
        let started = self.wait("started", 1);
        let last = started.last().unwrap();
        u32::try_from(last["pid"].as_u64().unwrap()).unwrap()
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Whether the agents here can know: by cgroups of version 2.
fn has_cgroups(name: &str) -> bool {
    let rig = Rig::new();
    let output = rig.run(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let works =
        text.contains("services get cgroups below") || text.contains("trees are killed one");
    if !works {
        skip(name, "no cgroup v2 hierarchy for services");
    }
    works
}

/// Forty children.
const WORKERS: &str = "for n in $(seq 40); do sleep 1000 & echo $! >> $DIR/children; done; wait; \
                       while :; do sleep 1000; done";

#[test]
fn a_worker_that_a_signal_ends_is_told() {
    const NAME: &str = "a_worker_that_a_signal_ends_is_told";
    needs_root!(NAME);
    if !has_cgroups(NAME) {
        return;
    }
    let family = Family::start(WORKERS, "");
    let children = family.children(40);
    let main = family.main();
    signal(children[0], Signal::SIGSEGV);
    let told = family.wait("child_exited", 1);
    assert_eq!(told[0]["pid"], children[0], "{told:?}");
    assert_eq!(told[0]["service"], "family");
    assert_eq!(told[0]["comm"], "sleep");
    assert_eq!(told[0]["parent_pid"], main);
    assert_eq!(told[0]["cause"]["signal"], "SIGSEGV");
    assert_eq!(told[0]["left_out"], 0);
    // The service goes on.
    assert_eq!(family.named("exited"), [json!(null); 0]);

    // More than ten in ten seconds are counted.
    for child in &children[1..30] {
        signal(*child, Signal::SIGKILL);
    }
    let told = family.wait("child_exited", 10);
    for child in &children[1..30] {
        eventually("it is dead", || (!is_alive(*child)).then_some(()));
    }
    signal(main, Signal::SIGKILL);
    let exited = family.wait("exited", 1);
    assert_eq!(family.named("child_exited").len(), told.len());
    assert_eq!(told.len(), 10);
    assert_eq!(exited[0]["children_left_out"], 20, "{exited:?}");
    let text = family.rig.run(&["why", "family"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("  before  its process sleep killed by SIGKILL"),
        "{text}"
    );
    assert!(family.rig.run(&["stop", "family"]).status.success());
}

#[test]
fn neither_a_normal_end_nor_a_stop_is_told_of_a_child() {
    const NAME: &str = "neither_a_normal_end_nor_a_stop_is_told_of_a_child";
    needs_root!(NAME);
    if !has_cgroups(NAME) {
        return;
    }
    let script = "for n in $(seq 50); do /bin/true; /bin/false; done; sleep 1000 & \
                  echo $! >> $DIR/children; wait";
    let family = Family::start(script, "");
    family.children(1);
    assert!(family.rig.run(&["restart", "family"]).status.success());
    family.children(2);
    // The children die with it, and before the next one starts.
    signal(family.main(), Signal::SIGKILL);
    family.wait("exited", 2);
    family.children(3);
    assert!(family.rig.run(&["stop", "family"]).status.success());
    assert_eq!(family.named("child_exited"), [json!(null); 0]);
}

#[test]
fn the_end_of_a_child_is_told_with_the_services_own() {
    const NAME: &str = "the_end_of_a_child_is_told_with_the_services_own";
    needs_root!(NAME);
    if !has_cgroups(NAME) {
        return;
    }
    let script = "sleep 1000 & echo $! >> $DIR/children; wait; exit 0";
    let family = Family::start(script, "restart = \"no\"");
    let child = family.children(1)[0];
    // By then the kernel knows whose cgroup it is.
    family.main();
    signal(child, Signal::SIGKILL);
    let exited = family.wait("exited", 1);
    assert_eq!(exited[0]["cause"]["code"], 0);
    let text = family.rig.run(&["why", "family"]).stdout;
    let text = String::from_utf8(text).unwrap();
    let words = "before  its process sleep killed by SIGKILL";
    assert!(
        text.contains(words) && text.contains(&format!("pid {child}")),
        "{text}"
    );
}

#[test]
fn a_child_that_ends_while_no_agent_lives_is_told_by_the_next() {
    const NAME: &str = "a_child_that_ends_while_no_agent_lives_is_told_by_the_next";
    needs_root!(NAME);
    if !has_cgroups(NAME) {
        return;
    }
    let mut family = Family::start(WORKERS, "");
    let children = family.children(40);
    family.wait("started", 1);
    family.agent.kill();
    signal(children[0], Signal::SIGABRT);
    eventually("it is gone", || {
        let path = format!("/proc/{}", children[0]);
        (!std::path::Path::new(&path).exists()).then_some(())
    });
    family.agent = family.rig.agent();
    let told = family.wait("child_exited", 1);
    assert_eq!(told[0]["pid"], children[0], "{told:?}");
    // And of those that it sees itself, once.
    signal(children[1], Signal::SIGABRT);
    let told = family.wait("child_exited", 2);
    assert_eq!(told[1]["pid"], children[1], "{told:?}");
    family.agent.kill();
    let agents = family.rig.ledger().agents.len();
    family.agent = family.rig.agent();
    family.rig.ledger().next_agent(agents);
    assert_eq!(family.named("child_exited").len(), 2);
    assert!(family.rig.run(&["stop", "family"]).status.success());
}

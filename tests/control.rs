//! The command line does what was asked by the time that it returns, and says so by its status.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Agent, SIGHTS, eventually, is_alive, needs_root, shell, signal_to, sleeping};

fn json_of(agent: &Agent, arguments: &[&str]) -> Value {
    let output = agent.run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A service that takes a second to stop.
fn slow() -> String {
    shell(
        "trap '' TERM; sleep 1000; sleep 1000",
        "stop_timeout = \"1s\"",
    )
}

fn in_background(agent: &Agent, arguments: &[&str]) -> Child {
    let mut command = agent.command(arguments);
    command.stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn status_has_what_the_contract_promises() {
    let agent = Agent::start(&[("b", &sleeping("")), ("a", &sleeping(""))]);
    let pid = agent.assert_single("a");
    signal_to(pid, Signal::SIGKILL);
    let pid = agent.replaced("a", pid);
    agent.must("stop", "b");
    let statuses = json_of(&agent, &["status", "--json"]);
    let [a, b] = statuses.as_array().unwrap().as_slice() else {
        panic!("{statuses}");
    };
    assert_eq!(a["service"], "a");
    assert_eq!(a["state"], "running");
    assert_eq!(a["desired"], "up");
    assert_eq!(a["pid"], pid);
    assert_eq!(a["start_time_ns"], support::start_time_ns(pid));
    assert_eq!(a["restarts"], 1);
    assert_eq!(a["last_exit"]["kind"], "signaled");
    assert_eq!(a["last_exit"]["signal"], "SIGKILL");
    let exited = agent.events_of("a");
    let exited = exited.iter().find(|event| event["event"] == "exited");
    assert_eq!(a["last_exit_time"], exited.unwrap()["time"]);
    assert_eq!(b["state"], "stopped");
    assert_eq!(b["desired"], "down");
    assert_eq!(
        (&b["pid"], &b["start_time_ns"]),
        (&Value::Null, &Value::Null)
    );
    let only = json_of(&agent, &["status", "b", "--json"]);
    assert_eq!(only.as_array().unwrap().len(), 1);
    let text = String::from_utf8(agent.run(&["status"]).stdout).unwrap();
    assert!(
        text.contains(&pid.to_string())
            && text.contains("killed by SIGKILL from ")
            && text.contains(" ago\n"),
        "{text}"
    );
}

#[test]
fn events_tells_the_journal() {
    let agent = Agent::start(&[("a", &sleeping("")), ("b", &sleeping(""))]);
    let pid = agent.assert_single("a");
    signal_to(pid, Signal::SIGSEGV);
    agent.replaced("a", pid);
    let output = agent.run(&["events", "--json"]);
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    let told: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told, agent.events());
    let output = agent.run(&["events", "--json", "--service", "a"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), agent.events_of("a").len());
}

#[test]
fn several_services_at_once_and_all() {
    let agent = Agent::start(&[
        ("a", &sleeping("")),
        ("b", &sleeping("")),
        ("c", &sleeping("")),
    ]);
    let pids = ["a", "b", "c"].map(|name| agent.assert_single(name));
    assert!(agent.run(&["restart", "a", "b", "a"]).status.success());
    assert_ne!(agent.assert_single("a"), pids[0]);
    assert_ne!(agent.assert_single("b"), pids[1]);
    assert_eq!(agent.assert_single("c"), pids[2]);
    assert_eq!(agent.count("a", "started"), 2);
    let answer = json_of(&agent, &["stop", "--all", "--json"]);
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(answer["results"].as_array().unwrap().len(), 3);
    assert_eq!(agent.live_all(), [0; 0]);
    assert!(agent.run(&["start", "a", "b", "c"]).status.success());
    for name in ["a", "b", "c"] {
        agent.assert_single(name);
    }
}

#[test]
fn without_waiting_it_returns_at_once() {
    let agent = Agent::start(&[("slow", &slow())]);
    let pid = agent.stubborn("slow");
    let answer = json_of(&agent, &["stop", "slow", "--no-wait", "--json"]);
    assert_eq!(answer["ok"], true);
    assert_eq!(agent.status("slow")["state"], "stopping");
    assert!(is_alive(pid));
    agent.wait_state("slow", "stopped");
}

#[test]
fn a_stop_survives_the_death_of_the_agent() {
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("slow", &slow())]);
        let pid = agent.stubborn("slow");
        let mut stop = in_background(&agent, &["stop", "slow"]);
        agent.wait_state("slow", "stopping");
        agent.kill();
        agent.start_again();
        assert!(stop.wait().unwrap().success());
        assert!(!is_alive(pid));
        assert_eq!(agent.live("slow"), [0; 0]);
        assert_eq!(agent.status("slow")["state"], "stopped");
    }
}

#[test]
fn of_a_restart_nobody_knows_when_the_agent_dies() {
    let mut agent = Agent::start(&[("slow", &slow())]);
    let pid = agent.stubborn("slow");
    let mut restart = in_background(&agent, &["restart", "slow"]);
    agent.wait_state("slow", "stopping");
    agent.kill();
    agent.start_again();
    assert_eq!(restart.wait().unwrap().code(), Some(1));
    // It is gone on with all the same.
    agent.replaced("slow", pid);
}

#[test]
fn a_shutdown_leaves_nothing() {
    needs_root!("a_shutdown_leaves_nothing");
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("a", &sleeping("")), ("slow", &slow())]);
        agent.must("stop", "a");
        let pid = agent.stubborn("slow");
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let own = cgroup
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap();
        let own = Path::new(own).parent().unwrap();
        assert!(agent.run(&["shutdown"]).status.success());
        assert_eq!(agent.live_all(), [0; 0]);
        assert!(agent.wait().success());
        assert_eq!(agent.run(&["status"]).status.code(), Some(3));
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let left = Path::new(mount).join(own.strip_prefix("/").unwrap());
            assert!(
                own == Path::new("/") || !left.exists(),
                "{}",
                left.display()
            );
        }
        // What was desired before is desired again.
        agent.start_again();
        agent.stubborn("slow");
        assert_eq!(agent.status("a")["state"], "stopped");
    }
}

#[test]
fn a_shutdown_ends_the_spare_as_well() {
    let mut agent = Agent::start(&[("a", &sleeping(""))]);
    agent.assert_single("a");
    let mut spare = agent.another();
    eventually("the spare waits", || {
        agent.log().contains("another agent works in").then_some(())
    });
    assert!(agent.run(&["shutdown"]).status.success());
    assert!(agent.wait().success());
    let ended = eventually("the spare ends", || spare.try_wait().unwrap());
    assert!(ended.success());
    assert_eq!(agent.live_all(), [0; 0]);
    assert_eq!(agent.agents(), 1);
}

/// What an agent remembers of a death has both times as well.
#[test]
fn how_long_ago_a_service_ended_does_not_change_when_the_clock_is_set() {
    let text = "command = [\"sleep\", \"1000\"]\nrestart = \"no\"";
    let mut agent = Agent::start(&[("a", text)]);
    let pid = agent.running("a");
    signal_to(pid, Signal::SIGKILL);
    eventually("it has ended", || {
        let status = agent.status("a");
        (status["last_exit"].is_object() && status["pid"].is_null()).then_some(())
    });
    agent.kill();
    // As if the clock had been five years slow, and were set right now.
    let path = agent.runtime_dir().join("state/a.json");
    // Its last line counts.
    let text = std::fs::read_to_string(&path).unwrap();
    let mut memory: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let death = &mut memory["memory"]["last_exit"];
    assert!(death["time"].is_string(), "{memory:#}");
    death["time"] = "2020-01-01T00:00:00Z".into();
    std::fs::write(&path, format!("{memory}\n")).unwrap();
    agent.start_again();
    let said = agent.run(&["status", "a"]);
    let said = String::from_utf8(said.stdout).unwrap();
    let ago = said
        .split(" ago")
        .next()
        .unwrap()
        .rsplit(", ")
        .next()
        .unwrap();
    assert!(ago.ends_with('s') && !ago.contains('h'), "{said}");
    assert!(
        !agent.status("a")["last_exit_time"]
            .as_str()
            .unwrap()
            .starts_with("2020")
    );
}

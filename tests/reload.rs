//! A reload touches what has changed and nothing else; a bad one touches nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Agent, SIGHTS, eventually, sleeping};

fn four() -> Agent {
    Agent::start(&[
        ("a", &sleeping("")),
        ("b", &sleeping("")),
        ("c", &sleeping("")),
        ("d", &sleeping("")),
    ])
}

fn pids(agent: &Agent) -> BTreeMap<String, u32> {
    let names = agent.statuses().into_iter().map(|status| {
        let name = status["service"].as_str().unwrap().to_owned();
        let pid = agent.assert_single(&name);
        (name, pid)
    });
    names.collect()
}

/// A process's command line; for a moment of its exec it has none.
fn command_of(pid: u32) -> String {
    eventually("a command line", || {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        (!command.is_empty()).then_some(command)
    })
}

fn reload(agent: &Agent) -> Value {
    agent.ask(&json!({"command": "reload"}))
}

#[test]
fn with_nothing_changed_no_pid_changes() {
    let agent = four();
    let before = pids(&agent);
    for _ in 0..5 {
        let answer = reload(&agent);
        assert_eq!(answer["ok"], true, "{answer}");
        for kind in ["added", "changed", "restarted", "removed", "warnings"] {
            assert_eq!(answer[kind], json!([]), "{answer}");
        }
    }
    // The same in other words is the same.
    agent.write_service(
        "a",
        "# a comment\nrestart = \"always\"\ncommand = [\"sleep\",\n \"1000\"]",
    );
    assert_eq!(reload(&agent)["changed"], json!([]));
    agent.signal(Signal::SIGHUP);
    eventually("the agent has seen SIGHUP", || {
        agent.log().contains("SIGHUP").then_some(())
    });
    assert_eq!(pids(&agent), before);
    assert!(
        !agent
            .events()
            .iter()
            .any(|event| event["event"] == "exited")
    );
}

#[test]
fn one_changed_service_is_restarted_alone() {
    let agent = four();
    let before = pids(&agent);
    agent.write_service("b", "command = [\"sleep\", \"2000\"]");
    let answer = reload(&agent);
    assert_eq!(answer["changed"], json!(["b"]), "{answer}");
    assert_eq!(answer["restarted"], json!(["b"]), "{answer}");
    agent.replaced("b", before["b"]);
    let after = pids(&agent);
    for name in ["a", "c", "d"] {
        assert_eq!(after[name], before[name]);
        assert_eq!(agent.count(name, "started"), 1);
    }
    assert_eq!(agent.count("b", "exited"), 1);
    assert_eq!(command_of(after["b"]), "sleep\x002000\0");
}

#[test]
fn added_services_start_and_removed_ones_stop() {
    let agent = four();
    let before = pids(&agent);
    std::fs::remove_file(agent.service_file("c")).unwrap();
    agent.write_service("e", &sleeping(""));
    let answer = reload(&agent);
    assert_eq!(answer["added"], json!(["e"]), "{answer}");
    assert_eq!(answer["removed"], json!(["c"]), "{answer}");
    agent.running("e");
    eventually("c is forgotten", || {
        (agent.status("c") == Value::Null).then_some(())
    });
    assert_eq!(agent.live("c"), [0; 0]);
    let after = pids(&agent);
    assert_eq!(after.keys().collect::<Vec<_>>(), ["a", "b", "d", "e"]);
    for name in ["a", "b", "d"] {
        assert_eq!(after[name], before[name]);
    }
    // Back again it is a service as any other.
    agent.write_service("c", &sleeping(""));
    assert_eq!(reload(&agent)["added"], json!(["c"]));
    agent.assert_single("c");
}

#[test]
fn a_bad_file_changes_nothing() {
    for sight in SIGHTS {
        let agent = Agent::seeing(sight, &[("a", &sleeping("")), ("b", &sleeping(""))]);
        let before = pids(&agent);
        // All else that the new config says is left undone, too.
        agent.write_service("b", "command = [\"sleep\", \"2000\"]");
        agent.write_service("new", &sleeping(""));
        agent.write_service("bad", "command = [\"sleep\"]\nstop_timout = \"3s\"");
        let answer = reload(&agent);
        assert_eq!(answer["ok"], false);
        assert_eq!(answer["kind"], "invalid", "{answer}");
        let problem = &answer["problems"][0];
        assert!(problem["file"].as_str().unwrap().ends_with("/bad.toml"));
        assert_eq!(problem["line"], 3);
        assert_eq!(problem["key"], "stop_timout");
        agent.signal(Signal::SIGHUP);
        eventually("SIGHUP's reload is refused", || {
            agent
                .log()
                .contains("the config stays as it was")
                .then_some(())
        });
        assert_eq!(pids(&agent), before);
        assert_eq!(agent.status("new"), Value::Null);

        // A death meanwhile is mended by the config that holds.
        support::signal_to(before["b"], Signal::SIGKILL);
        let pid = agent.replaced("b", before["b"]);
        assert_eq!(command_of(pid), "sleep\x001000\0");
    }
}

#[test]
fn a_changed_policy_holds_without_a_restart() {
    let agent = four();
    let before = pids(&agent);
    agent.write_service(
        "a",
        &sleeping("stop_signal = \"SIGINT\"\nstop_timeout = \"1s\"\nrestart_delay = \"1ms\""),
    );
    let answer = reload(&agent);
    assert_eq!(answer["changed"], json!(["a"]), "{answer}");
    assert_eq!(answer["restarted"], json!([]), "{answer}");
    assert_eq!(pids(&agent), before);
    agent.must("stop", "a");
    assert_eq!(agent.status("a")["last_exit"]["signal"], "SIGINT");
}

#[test]
fn a_stopped_service_stays_stopped_and_a_failed_one_is_tried_with_its_new_command() {
    let agent = Agent::start(&[
        ("down", &sleeping("")),
        ("failing", "command = [\"false\"]\nrestart = \"no\""),
    ]);
    agent.must("stop", "down");
    agent.wait_state("failing", "failed");
    assert_eq!(reload(&agent)["changed"], json!([]));
    assert_eq!(agent.status("failing")["state"], "failed");
    agent.write_service("down", "command = [\"sleep\", \"2000\"]");
    agent.write_service("failing", &sleeping(""));
    let answer = reload(&agent);
    assert_eq!(answer["changed"], json!(["down", "failing"]));
    assert_eq!(answer["restarted"], json!(["failing"]));
    agent.assert_single("failing");
    assert_eq!(agent.status("down")["state"], "stopped");
    agent.must("start", "down");
    agent.assert_single("down");
}

#[test]
fn a_good_config_is_taken_up_and_its_warnings_told() {
    let agent = four();
    let keys = "working_directory = \"/no/such\"\nrestart_delay = \"1s\"";
    agent.write_service("a", &sleeping(keys));
    agent.write_service("b", &sleeping("stop_timeout = \"1s\""));
    let output = agent.run(&["reload"]);
    let (said, warned) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{warned}");
    assert_eq!(said, "changed: a (restarted), b (updated in place)\n");
    assert!(warned.starts_with("warning: "), "{warned}");
    assert!(warned.contains("/a.toml:"), "{warned}");
    assert!(warned.contains("working_directory"), "{warned}");
    let output = agent.run(&["reload", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["warnings"][0]["key"], "working_directory");
}

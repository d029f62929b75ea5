//! A thousand services in one agent: all start, all come back once, and then nothing stirs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::rig::switches;
use support::{Agent, eventually, pid_of, proc_status, signal_to, timed};

const SERVICES: usize = 1000;

/// The statuses by service, once all run and have been restarted so often.
fn all_running(agent: &Agent, restarts: u64) -> BTreeMap<String, Value> {
    eventually("all run", || {
        let statuses = agent.statuses();
        let done = statuses
            .iter()
            .all(|status| status["state"] == "running" && status["restarts"] == restarts);
        let by_name = statuses.into_iter().map(|status| {
            let name = status["service"].as_str().unwrap().to_owned();
            (name, status)
        });
        done.then(|| by_name.collect())
    })
}

#[test]
fn a_thousand_services_die_at_once_come_back_once_and_then_nothing_stirs() {
    let text = "command = [\"sleep\", \"1000\"]\nstdout = \"null\"";
    let names: Vec<String> = (0..SERVICES).map(|n| format!("service-{n:04}")).collect();
    let services: Vec<_> = names.iter().map(|name| (name.as_str(), text)).collect();
    let (agent, time) = timed(|| Agent::start(&services));
    eprintln!("started after {time:?}");
    let before = all_running(&agent, 0);
    assert_eq!(before.len(), SERVICES);

    let (after, time) = timed(|| {
        for status in before.values() {
            signal_to(pid_of(status), Signal::SIGKILL);
        }
        all_running(&agent, 1)
    });
    eprintln!("all killed and back after {time:?}");
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in agent.events() {
        if let Some(service) = event["service"].as_str() {
            let kind = event["event"].as_str().unwrap().to_owned();
            *counts.entry((service.to_owned(), kind)).or_default() += 1;
        }
    }
    for name in &names {
        assert_ne!(before[name]["pid"], after[name]["pid"]);
        for (kind, expected) in [("started", 2), ("exited", 1)] {
            let key = (name.clone(), kind.to_owned());
            assert_eq!(counts.get(&key), Some(&expected), "{key:?}");
        }
    }
    assert_eq!(counts.len(), 2 * SERVICES);
    eventually("each service is one process", || {
        (agent.live_all().len() == SERVICES).then_some(())
    });
    eprintln!("resident: {}", proc_status(agent.pid(), "VmRSS"));

    // The last answer's connection is closed by now; after that only time passes.
    thread::sleep(Duration::from_millis(500));
    let idle = switches(agent.pid());
    thread::sleep(Duration::from_secs(30));
    assert_eq!(switches(agent.pid()) - idle, 0, "wakeups of an idle agent");

    let answer = agent.ask(&json!({"command": "stop", "all": true}));
    assert_eq!(answer["ok"], true);
    assert_eq!(agent.live_all(), [0; 0]);
}

/// Its restart does not wait for the starts of all others, nor does a client.
#[test]
fn one_that_dies_while_many_are_started_is_back_before_the_last_of_them() {
    let marker = tempfile::tempdir().unwrap();
    let path = marker.path().join("has-run").display().to_string();
    let script = format!("[ -e {path} ] && exec sleep 1000; touch {path}; exit 1");
    let first = format!("command = [\"sh\", \"-c\", \"{script}\"]");
    let text = "command = [\"sleep\", \"1000\"]\nstdout = \"null\"";
    let names: Vec<String> = (0..1500).map(|n| format!("service-{n:04}")).collect();
    let mut services = vec![("a-first", first.as_str())];
    services.extend(names.iter().map(|name| (name.as_str(), text)));
    let agent = Agent::start(&services);
    eventually("all run", || {
        let statuses = agent.statuses();
        let runs = |status: &Value| status["state"] == "running";
        (statuses.len() == services.len() && statuses.iter().all(runs)).then_some(())
    });
    let events = agent.events();
    let last_start = |service: &str| {
        let is_start = |event: &&Value| event["event"] == "started" && event["service"] == service;
        events.iter().rposition(|event| is_start(&event)).unwrap()
    };
    let [back, last] = ["a-first", "service-1499"].map(last_start);
    assert!(back < last, "{back} of {last}: {:?}", events.get(back));
    assert_eq!(agent.status("a-first")["restarts"], 1);
}

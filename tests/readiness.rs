//! Services that say when they are ready: who waits for it, what comes of lateness, and that no agent's
//! death loses it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Agent, eventually, is_alive, is_root, pid_of, shell, signal_to, sleeping};

/// A service that says so on descriptor 3, as soon as `go` is there, and notes that in `said`.
fn saying(dir: &Path, keys: &str) -> String {
    let dir = dir.display();
    let script = format!(
        "while ! [ -e {dir}/go ]; do sleep 0.02; done; echo >&3; exec 3>&-; echo >> {dir}/said; \
         while :; do sleep 1; done"
    );
    shell(&script, &format!("ready = {{ fd = 3 }}\n{keys}"))
}

fn go(dir: &Path) {
    fs::write(dir.join("go"), "").unwrap();
}

fn said(dir: &Path) {
    eventually("it has said so", || dir.join("said").exists().then_some(()));
}

#[test]
fn what_requires_it_starts_when_it_is_ready_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[
        ("app", &sleeping("requires = [\"db\"]")),
        ("db", &saying(dir.path(), "")),
    ]);
    let pid = pid_of(&agent.wait_state("db", "starting"));
    assert_eq!(
        agent.wait_state("app", "waiting")["waits_for"],
        json!(["db"])
    );
    assert_eq!(agent.run(&["is-up", "db"]).status.code(), Some(1));
    let mut start = agent.command(&["start", "app"]).spawn().unwrap();
    go(dir.path());
    assert!(start.wait().unwrap().success());
    assert_eq!(agent.running("db"), pid);
    assert_eq!(agent.run(&["is-up", "db", "app"]).status.code(), Some(0));
    // A restart waits until it is ready again.
    fs::remove_file(dir.path().join("go")).unwrap();
    let mut restart = agent.command(&["restart", "db"]).spawn().unwrap();
    eventually("the next one starts", || {
        let status = agent.status("db");
        (status["state"] == "starting" && status["pid"].is_number() && pid_of(&status) != pid)
            .then_some(())
    });
    agent.wait_state("app", "waiting");
    go(dir.path());
    assert!(restart.wait().unwrap().success());
    agent.running("app");
}

#[test]
fn what_it_says_while_no_agent_lives_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&[
        ("app", &sleeping("requires = [\"db\"]")),
        ("db", &saying(dir.path(), "")),
    ]);
    let pid = pid_of(&agent.wait_state("db", "starting"));
    agent.kill();
    go(dir.path());
    said(dir.path());
    agent.start_again();
    agent.running("app");
    assert_eq!(agent.running("db"), pid);
    // It says so once, and counts as ready for every agent.
    for _ in 0..2 {
        agent.kill();
        agent.start_again();
        let status = agent.status("db");
        assert_eq!(status["state"], "running", "{status}");
        assert_eq!(pid_of(&status), pid);
    }
    assert_eq!(agent.count("app", "started"), 1);
}

#[test]
fn twenty_services_that_are_starting_outlive_agent_and_spare() {
    let dir = tempfile::tempdir().unwrap();
    let mut services = vec![("app".to_owned(), String::new())];
    let mut names = Vec::new();
    for number in 0..20 {
        let name = format!("db{number:02}");
        services.push((name.clone(), saying(dir.path(), "")));
        names.push(name);
    }
    services[0].1 = sleeping(&format!("requires = {names:?}"));
    let services: Vec<(&str, &str)> = services
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let mut agent = Agent::start(&services);
    for name in &names {
        agent.wait_state(name, "starting");
    }
    let pids: Vec<u32> = eventually("all of them run", || {
        let pid = |name: &String| agent.status(name)["pid"].as_u64();
        names
            .iter()
            .map(pid)
            .map(|pid| pid.and_then(|it| it.try_into().ok()))
            .collect()
    });
    let mut spare = agent.another();
    agent.kill();
    // The spare may be at work by now, or not.
    spare.kill().unwrap();
    spare.wait().unwrap();
    go(dir.path());
    agent.start_again();
    agent.running("app");
    for (name, pid) in names.iter().zip(pids) {
        assert_eq!(agent.running(name), pid);
    }
}

#[test]
fn one_that_is_not_ready_in_time_is_stopped_and_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let keys = "start_timeout = \"300ms\"\nrestart_delay = \"50ms\"\nautostart = false";
    let agent = Agent::start(&[
        ("app", &sleeping("requires = [\"db\"]\nautostart = false")),
        ("db", &saying(dir.path(), keys)),
    ]);
    let output = agent.run(&["start", "app"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("app: it waits for db, which failed: not ready within start_timeout (300ms)"),
        "{text}"
    );
    let output = agent.run(&["start", "db"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("db: not ready within start_timeout (300ms)"),
        "{text}"
    );
    // It is tried again, and what waits for it goes on waiting.
    go(dir.path());
    agent.running("app");
    let exits = agent.count("db", "exited");
    assert!(exits >= 2, "{exits}");
}

#[test]
fn an_end_before_it_is_ready_fails_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[("db", &saying(dir.path(), "autostart = false"))]);
    let start = agent
        .command(&["start", "db"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = eventually("it runs", || {
        let status = agent.status("db");
        status["pid"].is_number().then(|| pid_of(&status))
    });
    signal_to(pid, Signal::SIGKILL);
    let output = start.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("db: killed by SIGKILL") && text.contains(" before it was ready"),
        "{text}"
    );
    eventually("it ends", || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_service_of_another_user_can_say_so() {
    if !is_root("a_service_of_another_user_can_say_so") {
        return;
    }
    let text = shell(
        "echo ready >&7; exec sleep 1000",
        "user = 65534\nready = { fd = 7 }",
    );
    let agent = Agent::start(&[("db", &text)]);
    let pid = agent.running("db");
    assert!(is_alive(pid));
    // What is in the runtime directory is not for that user.
    let output = agent.runtime_dir().join("ready");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(output).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_runtime_directory_that_is_removed_loses_no_later_readiness() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[("db", &saying(dir.path(), ""))]);
    agent.wait_state("db", "starting");
    fs::remove_dir_all(agent.runtime_dir().join("ready")).unwrap();
    go(dir.path());
    // That one's word is gone with the file; the next start has a place again.
    said(dir.path());
    agent.must("restart", "db");
    agent.running("db");
}

//! Services whose own end ends the agent, as a container wants it.
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use support::{Agent, Setup, eventually, needs_root, shell, signal_to, sleeping};

/// How an agent is started that ends with a service.
fn flagged() -> Setup {
    Setup {
        arguments: vec!["--exit-with-essential".to_owned()],
        ..Setup::default()
    }
}

/// A service that does this once there is a file.
fn once_told(go: &Path, then: &str, keys: &str) -> String {
    let script = format!("until [ -e {} ]; do sleep 0.01; done; {then}", go.display());
    shell(&script, keys)
}

/// A service that notes when it is stopped.
fn noting(name: &str, said: &Path, keys: &str) -> String {
    let said = said.display();
    let script = format!(
        "trap 'echo {name} >>{said}; exit 0' TERM; : >{said}.{name}; while :; do sleep 0.01; done"
    );
    shell(&script, keys)
}

/// Waits until that service notes it.
fn has_begun(name: &str, said: &Path) {
    let file = format!("{}.{name}", said.display());
    eventually("it has begun", || Path::new(&file).exists().then_some(()));
}

/// A service that is not down before its `stop_timeout` is over.
fn stubborn() -> String {
    shell(
        "trap '' TERM; sleep 1000; sleep 1000",
        "stop_timeout = \"2s\"",
    )
}

/// The agent's pid in the test's own namespace.
fn pid_of_first(agent: &Agent) -> u32 {
    let wrapper = agent.pid();
    let children = format!("/proc/{wrapper}/task/{wrapper}/children");
    eventually("the wrapper has a child", || {
        let children = fs::read_to_string(&children).ok()?;
        children.split_whitespace().next()?.parse().ok()
    })
}

#[test]
fn pid_1_ends_with_its_exit_status_when_all_others_have_stopped() {
    needs_root!("pid_1_ends_with_its_exit_status_when_all_others_have_stopped");
    let place = tempfile::tempdir().unwrap();
    for (index, (then, keys, status)) in [
        ("exit 0", "restart = \"on-failure\"", 0),
        ("exit 7", "restart = \"no\"", 7),
        ("kill -SEGV $$; sleep 10", "restart = \"no\"", 139),
        ("exit 0", "type = \"oneshot\"", 0),
        ("exit 5", "type = \"oneshot\"", 5),
        (
            "exit 9",
            "restart_delay = \"10ms\"\nstart_limit = { burst = 3, interval = \"1m\" }",
            9,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (go, said) = (
            place.path().join(format!("go.{index}")),
            place.path().join(format!("said.{index}")),
        );
        let main = once_told(&go, then, &format!("essential = true\n{keys}"));
        let front = noting("front", &said, "requires = [\"back\"]");
        let back = noting("back", &said, "");
        let services = [("main", main.as_str()), ("front", &front), ("back", &back)];
        let mut agent = Agent::with(&Setup::as_pid_1(), &services);
        for name in ["front", "back"] {
            has_begun(name, &said);
        }
        fs::write(&go, "").unwrap();
        let ended = agent.wait();
        assert_eq!(
            ended.code(),
            Some(status),
            "{then}; {keys}: {}",
            agent.log()
        );
        assert_eq!(fs::read_to_string(&said).unwrap(), "front\nback\n");
        assert_eq!(agent.events().last().unwrap()["event"], "agent_stopped");
        assert_eq!(agent.live_all(), [0; 0]);
    }
}

#[test]
fn pid_1_stops_all_in_order_at_sigterm() {
    needs_root!("pid_1_stops_all_in_order_at_sigterm");
    let place = tempfile::tempdir().unwrap();
    let said = place.path().join("said");
    let app = noting("app", &said, "essential = true\nrequires = [\"db\"]");
    let db = noting("db", &said, "");
    let mut agent = Agent::with(&Setup::as_pid_1(), &[("app", &app), ("db", &db)]);
    for name in ["app", "db"] {
        has_begun(name, &said);
    }
    signal_to(pid_of_first(&agent), Signal::SIGTERM);
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.log());
    assert_eq!(fs::read_to_string(&said).unwrap(), "app\ndb\n");
}

#[test]
fn a_flag_has_an_agent_beneath_another_init_do_the_same() {
    let place = tempfile::tempdir().unwrap();
    let (go, said) = (place.path().join("go"), place.path().join("said"));
    let main = once_told(&go, "exit 3", "essential = true\nrestart = \"no\"");
    let beside = noting("beside", &said, "");
    let services = [("main", main.as_str()), ("beside", &beside)];
    let mut agent = Agent::with(&flagged(), &services);
    has_begun("beside", &said);
    fs::write(&go, "").unwrap();
    assert_eq!(agent.wait().code(), Some(3), "{}", agent.log());
    assert_eq!(fs::read_to_string(&said).unwrap(), "beside\n");
    // The next one begins afresh, and stops its services at SIGTERM.
    fs::remove_file(&go).unwrap();
    agent.start_again();
    agent.running("main");
    agent.running("beside");
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.log());
    assert_eq!(agent.live_all(), [0; 0]);
}

#[test]
fn the_next_agent_goes_on_with_the_end() {
    let place = tempfile::tempdir().unwrap();
    let go = place.path().join("go");
    let main = once_told(&go, "exit 4", "essential = true\nrestart = \"no\"");
    let services = [("main", main.as_str()), ("stubborn", &stubborn())];
    let mut agent = Agent::with(&flagged(), &services);
    agent.stubborn("stubborn");
    fs::write(&go, "").unwrap();
    agent.wait_state("stubborn", "stopping");
    agent.kill();
    agent.start_again();
    assert_eq!(agent.wait().code(), Some(4), "{}", agent.log());
    assert_eq!(agent.count("stubborn", "started"), 1);
    assert_eq!(agent.count("main", "started"), 1);
}

#[test]
fn a_container_that_was_killed_while_it_ended_begins_afresh() {
    needs_root!("a_container_that_was_killed_while_it_ended_begins_afresh");
    let place = tempfile::tempdir().unwrap();
    let go = place.path().join("go");
    let main = once_told(&go, "exit 4", "essential = true\nrestart = \"no\"");
    let calm = place.path().join("calm");
    let stubborn = shell(
        &format!(
            "trap '[ ! -e {} ] || exit 0' TERM; while :; do sleep 0.01; done",
            calm.display()
        ),
        "stop_timeout = \"1m\"",
    );
    let services = [("main", main.as_str()), ("stubborn", &stubborn)];
    let mut agent = Agent::with(&Setup::as_pid_1(), &services);
    agent.wait_state("stubborn", "running");
    fs::write(&go, "").unwrap();
    agent.wait_state("stubborn", "stopping");
    agent.kill();
    eventually("nothing of it is left", || {
        agent.live_all().is_empty().then_some(())
    });
    fs::remove_file(&go).unwrap();
    agent.start_again();
    agent.wait_state("main", "running");
    agent.wait_state("stubborn", "running");
    fs::write(&calm, "").unwrap();
}

#[test]
fn a_stop_a_restart_and_a_reload_are_no_end() {
    let main = sleeping("essential = true\nrestart = \"no\"");
    let agent = Agent::with(&flagged(), &[("main", &main), ("beside", &sleeping(""))]);
    let before = agent.running("beside");
    agent.must("stop", "main");
    agent.must("start", "main");
    agent.must("restart", "main");
    agent.write_service("main", &format!("{main}\nnice = 1"));
    assert!(agent.run(&["reload"]).status.success());
    fs::remove_file(agent.service_file("main")).unwrap();
    assert!(agent.run(&["reload"]).status.success());
    assert_eq!(agent.running("beside"), before);
}

#[test]
fn its_last_words_are_in_the_containers_log() {
    needs_root!("its_last_words_are_in_the_containers_log");
    for setup in [Setup::as_pid_1(), flagged()] {
        let place = tempfile::tempdir().unwrap();
        let go = place.path().join("go");
        let main = once_told(
            &go,
            "echo first; echo last >&2; exit 2",
            "essential = true\nrestart = \"no\"\nlog = { stdout = true }",
        );
        let mut agent = Agent::with(&setup, &[("main", &main)]);
        agent.wait_state("main", "running");
        fs::write(&go, "").unwrap();
        assert_eq!(agent.wait().code(), Some(2), "{}", agent.log());
        let log = fs::read_to_string(agent.dir().join("agent.out")).unwrap();
        assert_eq!(log, "main: first\nmain: last\n");
    }
}

#[test]
fn a_spare_ends_with_its_agent() {
    let place = tempfile::tempdir().unwrap();
    let go = place.path().join("go");
    let main = once_told(&go, "exit 6", "essential = true\nrestart = \"no\"");
    let mut agent = Agent::with(&flagged(), &[("main", &main)]);
    agent.running("main");
    let mut spare = agent.another();
    eventually("the spare waits", || {
        agent.log().contains("spare of pid").then_some(())
    });
    fs::write(&go, "").unwrap();
    assert_eq!(agent.wait().code(), Some(6), "{}", agent.log());
    let ended = eventually("the spare ends", || spare.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
    assert_eq!(agent.agents(), 1);
}

#[test]
fn a_spare_goes_on_with_the_end() {
    let place = tempfile::tempdir().unwrap();
    let go = place.path().join("go");
    let main = once_told(&go, "exit 8", "essential = true\nrestart = \"no\"");
    let services = [("main", main.as_str()), ("stubborn", &stubborn())];
    let mut agent = Agent::with(&flagged(), &services);
    agent.stubborn("stubborn");
    let spare = agent.another();
    eventually("the spare waits", || {
        agent.log().contains("spare of pid").then_some(())
    });
    fs::write(&go, "").unwrap();
    agent.wait_state("stubborn", "stopping");
    agent.replace_by(spare);
    assert_eq!(agent.wait().code(), Some(8), "{}", agent.log());
    assert_eq!(agent.count("main", "started"), 1);
    assert_eq!(agent.live_all(), [0; 0]);
}

#[test]
fn an_essential_service_that_cannot_be_used_is_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let services = dir.path().join("config/services");
    fs::create_dir_all(&services).unwrap();
    let file = services.join("main.toml");
    fs::write(&file, "command = [\"true\"]\nessential = true\nnice = 99\n").unwrap();
    let output = support::respawn()
        .args(["agent", "--exit-with-essential", "--config"])
        .arg(dir.path().join("config"))
        .arg("--runtime-dir")
        .arg(dir.path().join("run"))
        .env("RESPAWN_PIN_DIR", dir.path().join("pins"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("main.toml:3:8: nice: "), "{said}");
}

#[test]
fn another_agent_refuses_it_and_runs_the_others() {
    let main = sleeping("essential = true");
    let agent = Agent::start(&[("main", &main), ("beside", &sleeping(""))]);
    let pid = agent.running("beside");
    let status = agent.wait_state("main", "failed");
    let error = status["error"].as_str().unwrap();
    assert!(error.contains("main.toml:3:13: essential: "), "{error}");
    assert!(error.contains("--exit-with-essential"), "{error}");
    let output = agent.run(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("essential: expected false"), "{said}");
    assert_eq!(agent.running("beside"), pid);
    let check = Command::new(support::respawn().get_program())
        .arg("check")
        .arg(agent.service_file("main"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{said}");
    assert!(
        said.contains("warning: ") && said.contains("essential: "),
        "{said}"
    );
}

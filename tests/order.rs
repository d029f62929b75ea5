//! Services that wait for each other: order of start and stop, requirements, what is told of it, and
//! that none of it hangs on one agent.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Agent, SIGHTS, Sight, eventually, is_root, shell, signal_to, sleeping};

/// A service that takes its time to stop.
fn slow_to_stop(keys: &str) -> String {
    let script = "trap 'sleep 0.3; exit' TERM; while :; do sleep 0.02; done";
    shell(script, keys)
}

/// A service whose program is not there until `appears`.
fn absent(dir: &Path, name: &str, keys: &str) -> String {
    let program = dir.join(name);
    let retry = "restart_delay = \"100ms\"\nrestart_max_delay = \"100ms\"";
    format!(
        "command = [\"{}\", \"1000\"]\n{retry}\n{keys}",
        program.display()
    )
}

fn appears(dir: &Path, name: &str) {
    symlink("/bin/sleep", dir.join(name)).unwrap();
}

/// The events of these kinds, as "started db", in the journal's order.
fn told(agent: &Agent, kinds: &[&str]) -> Vec<String> {
    let events = agent.events().into_iter();
    let events = events.filter(|event| kinds.iter().any(|kind| event["event"] == *kind));
    let line = |event: Value| {
        let (kind, service) = (event["event"].as_str(), event["service"].as_str());
        format!("{} {}", kind.unwrap(), service.unwrap_or("-"))
    };
    events.map(line).collect()
}

/// Of one kind, the services alone.
fn services(agent: &Agent, kind: &str) -> Vec<String> {
    let told = told(agent, &[kind]).into_iter();
    told.map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect()
}

fn reload(agent: &Agent) -> Value {
    agent.ask(&json!({"command": "reload"}))
}

#[test]
fn a_chain_starts_from_one_end_and_stops_from_the_other() {
    let mut agent = Agent::start(&[
        ("a-app", &slow_to_stop("requires = [\"m-db\"]")),
        ("m-db", &slow_to_stop("after = [\"z-net\"]")),
        ("z-net", &slow_to_stop("")),
    ]);
    agent.running("a-app");
    assert_eq!(services(&agent, "started"), ["z-net", "m-db", "a-app"]);
    let mut follow = agent.follow();
    assert!(agent.run(&["shutdown"]).status.success());
    let events: Vec<Value> = std::iter::from_fn(|| follow.next_now()).collect();
    let ends: Vec<String> = events
        .iter()
        .filter(|event| event["event"] == "stopping" || event["event"] == "exited")
        .map(|event| format!("{} {}", event["event"], event["service"]).replace('"', ""))
        .collect();
    assert_eq!(
        ends,
        [
            "stopping a-app",
            "exited a-app",
            "stopping m-db",
            "exited m-db",
            "stopping z-net",
            "exited z-net"
        ]
    );
    agent.wait();
}

#[test]
fn a_requirement_that_is_not_up_is_waited_for_by_every_agent() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&[
        ("app", &sleeping("requires = [\"db\"]")),
        ("db", &absent(dir.path(), "db", "")),
        ("other", &sleeping("after = [\"db\"]")),
        ("top", &sleeping("requires = [\"app\"]")),
    ]);
    // The order alone does not wait for a success.
    let other = agent.running("other");
    let waits = |agent: &Agent| {
        let status = agent.wait_state("app", "waiting");
        assert_eq!(status["waits_for"], json!(["db"]), "{status}");
        assert_eq!(status["pid"], Value::Null);
        eventually("the chain is told", || {
            let output = agent.run(&["status"]);
            let text = String::from_utf8(output.stdout).unwrap();
            let is_told = text.contains("waits for app, which waits for db, which is in backoff: ");
            is_told.then_some(())
        });
        assert_eq!(agent.run(&["is-up", "app"]).status.code(), Some(1));
    };
    waits(&agent);
    agent.kill();
    agent.start_again();
    waits(&agent);
    let spare = agent.another();
    eventually("the spare waits", || {
        agent.log().contains("spare of").then_some(())
    });
    agent.replace_by(spare);
    waits(&agent);
    appears(dir.path(), "db");
    agent.running("top");
    assert_eq!(services(&agent, "started"), ["other", "db", "app", "top"]);
    assert_eq!(agent.running("other"), other);
}

#[test]
fn a_stop_and_a_restart_carry_and_a_crash_does_not() {
    let agent = Agent::start(&[
        ("app", &slow_to_stop("requires = [\"db\"]")),
        ("db", &sleeping("")),
        ("bound", &sleeping("binds = [\"db\"]")),
        ("loose", &sleeping("after = [\"db\"]")),
    ]);
    let (app, db) = (agent.running("app"), agent.running("db"));
    let (bound, loose) = (agent.running("bound"), agent.running("loose"));
    signal_to(db, Signal::SIGKILL);
    let db = agent.replaced("db", db);
    let bound = agent.replaced("bound", bound);
    assert_eq!(agent.running("app"), app);
    agent.must("restart", "db");
    let (app, db) = (agent.replaced("app", app), agent.replaced("db", db));
    agent.replaced("bound", bound);
    assert_eq!(agent.running("loose"), loose);
    let before = told(&agent, &["stopping", "exited", "started"]);
    let last = |line: &str| before.iter().rposition(|it| it == line).unwrap();
    assert!(last("exited app") < last("stopping db"), "{before:?}");
    assert!(last("started db") < last("started app"), "{before:?}");
    agent.must("stop", "db");
    for service in ["app", "bound", "db"] {
        assert_eq!(agent.status(service)["state"], "stopped", "{service}");
        assert_eq!(agent.status(service)["desired"], "down", "{service}");
    }
    assert!(!support::is_alive(app) && !support::is_alive(db));
    assert_eq!(agent.running("loose"), loose);
    // What was stopped with it does not come back with it.
    agent.must("start", "db");
    assert_eq!(agent.status("app")["state"], "stopped");
    agent.must("start", "app");
    agent.running("app");
}

#[test]
fn a_start_brings_up_what_is_needed_and_nothing_else() {
    let off = |keys: &str| sleeping(&format!("autostart = false\n{keys}"));
    let mut agent = Agent::start(&[
        (
            "app",
            &off("requires = [\"db\"]\nwants = [\"cache\", \"none\"]"),
        ),
        ("cache", &off("")),
        ("db", &off("")),
        ("idle", &off("")),
    ]);
    for service in ["app", "cache", "db", "idle"] {
        let status = agent.status(service);
        assert_eq!(status["state"], "stopped", "{status}");
        assert_eq!(status["desired"], "down", "{status}");
    }
    agent.must("start", "app");
    agent.running("app");
    agent.running("db");
    let cache = agent.running("cache");
    assert_eq!(agent.status("idle")["state"], "stopped");
    agent.must("stop", "cache");
    agent.kill();
    agent.start_again();
    // What somebody has stopped stays so, whoever wants it.
    assert_eq!(agent.status("cache")["desired"], "down");
    assert!(!support::is_alive(cache));
    agent.running("app");
    assert_eq!(agent.status("idle")["state"], "stopped");
}

#[test]
fn a_start_whose_requirement_fails_says_which_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[
        ("app", &sleeping("autostart = false\nrequires = [\"db\"]")),
        ("db", &absent(dir.path(), "db", "autostart = false")),
    ]);
    let output = agent.run(&["start", "app"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("it waits for db, which failed"), "{said}");
    assert!(said.contains("No such file"), "{said}");
    appears(dir.path(), "db");
    agent.running("app");
}

#[test]
fn a_failed_requirement_is_told_with_its_chain() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[
        ("app", &sleeping("autostart = false\nrequires = [\"mid\"]")),
        ("mid", &sleeping("autostart = false\nrequires = [\"db\"]")),
        ("db", &absent(dir.path(), "db", "autostart = false")),
    ]);
    let output = agent.run(&["start", "app"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let chain = "it waits for mid, which waits for db, which failed";
    assert!(
        said.contains(chain) && said.contains("No such file"),
        "{said}"
    );
    appears(dir.path(), "db");
    agent.running("app");
}

#[test]
fn a_cycle_and_a_requirement_that_does_not_exist_are_refused() {
    let agent = Agent::start(&[("app", &sleeping("")), ("db", &sleeping(""))]);
    let before = (agent.running("app"), agent.running("db"));
    agent.write_service("app", &sleeping("requires = [\"db\"]"));
    agent.write_service("db", &sleeping("after = [\"app\"]"));
    let answer = reload(&agent);
    let problem = &answer["problems"][0];
    assert_eq!(problem["key"], "requires", "{answer}");
    let message = problem["message"].as_str().unwrap();
    assert!(
        message.contains("app requires db, db after app"),
        "{message}"
    );
    let output = agent.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    agent.write_service("db", &sleeping("after = [\"none\"]\nwants = [\"nobody\"]"));
    assert_eq!(reload(&agent)["ok"], true);
    agent.write_service("app", &sleeping("requires = [\"dbs\"]"));
    let answer = reload(&agent);
    let message = answer["problems"][0]["message"].as_str().unwrap();
    assert_eq!(
        message, "no service is named \"dbs\"; did you mean db?",
        "{answer}"
    );
    assert_eq!(before, (agent.running("app"), agent.running("db")));
}

#[test]
fn at_boot_a_bad_file_costs_its_service_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("config/services")).unwrap();
    let agent = Agent::within(
        dir,
        &support::Setup::default(),
        &[
            ("app", &sleeping("requires = [\"bad\"]")),
            ("bad", "x = = 1"),
            ("lost", &sleeping("requires = [\"nobody\"]")),
            ("one", &sleeping("after = [\"two\"]")),
            ("two", &sleeping("after = [\"one\"]")),
            ("well", &sleeping("requires = [\"app\"]")),
        ],
    );
    agent.running("well");
    agent.running("one");
    let hint = agent.status("app")["hint"].as_str().unwrap().to_owned();
    assert!(
        hint.contains("bad, which it requires, has failed"),
        "{hint}"
    );
    for (service, why) in [
        ("bad", "not valid TOML"),
        ("lost", "no service is named \"nobody\""),
        ("two", "one after two, two after one"),
    ] {
        let status = agent.wait_state(service, "failed");
        let error = status["error"].as_str().unwrap();
        assert!(error.contains(why), "{service}: {error}");
    }
    // Put right, all of it comes up.
    agent.write_service("bad", &sleeping(""));
    agent.write_service("lost", &sleeping(""));
    agent.write_service("two", &sleeping(""));
    assert_eq!(reload(&agent)["ok"], true);
    for service in ["app", "bad", "lost", "one", "two", "well"] {
        agent.running(service);
    }
}

#[test]
fn several_services_are_stopped_and_started_in_their_order() {
    let agent = Agent::start(&[
        ("app", &slow_to_stop("after = [\"db\"]")),
        ("db", &slow_to_stop("")),
    ]);
    agent.running("app");
    assert!(agent.run(&["stop", "db", "app"]).status.success());
    assert!(agent.run(&["start", "app", "db"]).status.success());
    assert!(agent.run(&["restart", "--all"]).status.success());
    assert_eq!(
        told(&agent, &["stopping", "started", "exited"]),
        [
            "started db",
            "started app",
            "stopping app",
            "exited app",
            "stopping db",
            "exited db",
            "started db",
            "started app",
            "stopping app",
            "exited app",
            "stopping db",
            "exited db",
            "started db",
            "started app"
        ]
    );
}

#[test]
fn an_agent_that_dies_in_the_middle_of_a_restart_has_it_go_on() {
    let mut agent = Agent::start(&[
        (
            "app",
            &slow_to_stop("requires = [\"db\"]\nstop_timeout = \"30s\""),
        ),
        ("db", &sleeping("")),
    ]);
    let (app, db) = (agent.running("app"), agent.running("db"));
    let _socket = agent.connect();
    let restart = agent.command(&["restart", "--no-wait", "db"]).output();
    assert!(restart.unwrap().status.success());
    agent.kill();
    agent.start_again();
    let (new_app, new_db) = (agent.replaced("app", app), agent.replaced("db", db));
    assert_eq!(
        (agent.count("app", "started"), agent.count("db", "started")),
        (2, 2)
    );
    assert!(support::is_alive(new_app) && support::is_alive(new_db));
    let events = told(&agent, &["exited", "started"]);
    let last = |line: &str| events.iter().rposition(|it| it == line).unwrap();
    assert!(last("exited app") < last("exited db"), "{events:?}");
    assert!(last("started db") < last("started app"), "{events:?}");
}

// ---- oneshot ----

/// A oneshot that says in a file that it runs, and ends once `go` is there.
fn oneshot(dir: &Path, code: u8, keys: &str) -> String {
    let dir = dir.display();
    let script =
        format!("echo >> {dir}/runs; while ! [ -e {dir}/go ]; do sleep 0.02; done; exit {code}");
    shell(&script, &format!("type = \"oneshot\"\n{keys}"))
}

/// How often it has run.
fn runs(dir: &Path) -> usize {
    fs::read_to_string(dir.join("runs")).map_or(0, |text| text.len())
}

#[test]
fn a_oneshot_is_up_when_it_is_done_and_does_not_run_again() {
    for sight in SIGHTS {
        if sight == Sight::Best && !is_root("a_oneshot_is_up_when_it_is_done") {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Agent::seeing(
            sight,
            &[
                ("app", &sleeping("requires = [\"migrate\"]")),
                ("migrate", &oneshot(dir.path(), 0, "")),
            ],
        );
        let starting = agent.wait_state("migrate", "starting");
        eventually("it runs", || (runs(dir.path()) == 1).then_some(()));
        assert_eq!(
            agent.wait_state("app", "waiting")["waits_for"],
            json!(["migrate"])
        );
        assert_eq!(agent.run(&["is-up", "migrate"]).status.code(), Some(1));
        if sight == Sight::Best {
            // The next agent goes on with the one that runs; without eBPF it is no child of its own, and
            // nobody knows how it ends.
            agent.kill();
            agent.start_again();
            let status = agent.wait_state("migrate", "starting");
            assert_eq!(status["pid"], starting["pid"]);
            agent.wait_state("app", "waiting");
        }
        fs::write(dir.path().join("go"), "").unwrap();
        let app = agent.running("app");
        agent.wait_state("migrate", "done");
        assert_eq!(
            agent.run(&["is-up", "migrate", "app"]).status.code(),
            Some(0)
        );
        agent.kill();
        agent.start_again();
        agent.wait_state("migrate", "done");
        assert_eq!(agent.running("app"), app);
        agent.must("start", "migrate");
        agent.must("start", "app");
        assert_eq!(runs(dir.path()), 1);
        agent.must("restart", "migrate");
        assert_eq!(runs(dir.path()), 2);
        agent.replaced("app", app);
    }
}

#[test]
fn a_start_of_a_oneshot_returns_its_result() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("go"), "").unwrap();
    let agent = Agent::start(&[
        ("app", &sleeping("requires = [\"bad\"]\nautostart = false")),
        ("bad", &oneshot(dir.path(), 3, "autostart = false")),
        ("good", &oneshot(dir.path(), 0, "autostart = false")),
    ]);
    agent.must("start", "good");
    assert_eq!(agent.status("good")["state"], "done");
    assert_eq!(runs(dir.path()), 1);
    let output = agent.run(&["start", "bad"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("bad: exited with 3\n"), "{said}");
    agent.wait_state("bad", "failed");
    // It is tried again for the one that requires it, and that goes on without it.
    agent.must("start", "app");
    assert_eq!(runs(dir.path()), 3);
    let hint = agent.status("app")["hint"].as_str().unwrap().to_owned();
    assert_eq!(hint, "bad, which it requires, has failed: exited with 3");
    agent.must("stop", "good");
    assert_eq!(agent.status("good")["state"], "stopped");
}

#[test]
fn a_oneshot_that_ends_while_no_agent_lives_is_done() {
    if !is_root("a_oneshot_that_ends_while_no_agent_lives_is_done") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&[
        ("app", &sleeping("requires = [\"migrate\"]")),
        (
            "migrate",
            &oneshot(dir.path(), 0, "restart = \"on-failure\""),
        ),
    ]);
    eventually("it runs", || (runs(dir.path()) == 1).then_some(()));
    let pid = support::pid_of(&agent.status("migrate"));
    agent.kill();
    fs::write(dir.path().join("go"), "").unwrap();
    eventually("it ends", || (!support::is_alive(pid)).then_some(()));
    agent.start_again();
    agent.running("app");
    agent.wait_state("migrate", "done");
    assert_eq!(runs(dir.path()), 1);
}

/// What a boot leaves: nothing that an earlier agent remembered.
fn boot(agent: &mut Agent) {
    assert!(agent.run(&["shutdown"]).status.success());
    fs::remove_dir_all(agent.runtime_dir()).unwrap();
    agent.start_again();
}

#[test]
fn what_is_enabled_starts_at_boot_whatever_its_file_says() {
    let mut agent = Agent::start(&[
        ("late", &sleeping("autostart = false")),
        ("web", &sleeping("")),
    ]);
    agent.running("web");
    // Nothing is started or stopped now.
    for (command, service) in [("enable", "late"), ("disable", "web")] {
        let output = agent.run(&[command, service]);
        assert!(output.status.success(), "{output:?}");
    }
    agent.wait_state("late", "stopped");
    agent.running("web");
    boot(&mut agent);
    agent.running("late");
    agent.wait_state("web", "stopped");
    let shown = agent.run(&["show", "web", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let mut settings = shown[0]["settings"].as_array().unwrap().iter();
    let setting = settings.find(|it| it["key"] == "autostart").unwrap();
    assert_eq!(setting["value"], false);
    assert!(
        setting["file"]
            .as_str()
            .unwrap()
            .ends_with("/autostart.toml"),
        "{setting}"
    );
    // What is not meant to run is not missed.
    assert_eq!(agent.run(&["is-up", "--all"]).status.code(), Some(0));
    assert_eq!(agent.run(&["is-up", "web"]).status.code(), Some(1));
    let output = agent.run(&["enable", "web", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        object["services"][0],
        json!({ "service": "web", "autostart": true })
    );
    boot(&mut agent);
    agent.running("web");
    agent.running("late");
    assert!(agent.run(&["stop", "late"]).status.success());
    // `late` is meant to run: it is enabled.
    assert_eq!(agent.run(&["is-up", "--all"]).status.code(), Some(1));
}

#[test]
fn what_cannot_be_enabled_changes_nothing() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let file = agent.dir().join("config/autostart.toml");
    let output = agent.run(&["disable", "web", "nobody"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("is named \"nobody\""), "{text}");
    assert!(!file.exists());
    // A file that somebody has damaged is left alone, and named.
    for (damage, why) in [
        (
            "web = \"no\"\n",
            "autostart.toml:1:7: web: expected true or false",
        ),
        ("web = [\n", "autostart.toml:"),
    ] {
        fs::write(&file, damage).unwrap();
        for command in [&["disable", "web"][..], &["check"]] {
            let output = agent.run(command);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            assert!(text.contains(why), "{command:?}: {text}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), damage);
    }
    fs::write(&file, "gone = true\n").unwrap();
    let output = agent.run(&["check"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("gone: no service has this name"), "{text}");
}

#[test]
fn a_name_that_nobody_has_is_warned_of_where_it_does_no_harm() {
    let agent = Agent::start(&[
        ("app", &sleeping("after = [\"dbs\"]\nwants = [\"cache\"]")),
        ("db", &sleeping("")),
    ]);
    agent.running("app");
    let output = agent.run(&["check"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for words in [
        "after: no service is named \"dbs\"; did you mean db?",
        "wants: no service is named \"cache\"",
    ] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_start_that_outlives_its_agent_runs_a_oneshot_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let script =
        format!("printf x >> {path}/runs; while ! [ -e {path}/go ]; do sleep 0.02; done; exit 5");
    let job = shell(&script, "type = \"oneshot\"\nautostart = false");
    let mut agent = Agent::start(&[("job", &job)]);
    let mut start = agent.command(&["start", "job"]);
    let start = start.stderr(std::process::Stdio::piped()).spawn().unwrap();
    agent.wait_state("job", "starting");
    eventually("it runs", || (runs(dir.path()) == 1).then_some(()));
    agent.kill();
    fs::write(dir.path().join("go"), "").unwrap();
    agent.start_again();
    let output = start.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("exited with 5"), "{text}");
    assert_eq!(agent.status("job")["state"], "failed");
    assert_eq!(runs(dir.path()), 1);
}

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
fn status_has_the_documented_keys() {
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
fn a_restart_that_the_agents_death_interrupts_is_reported_as_unknown() {
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

fn shown(agent: &Agent, arguments: &[&str]) -> Value {
    let shown = json_of(agent, &[&["show", "--json"], arguments].concat());
    assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
    shown[0].clone()
}

/// Value, default, file and line of a key.
fn setting<'v>(shown: &'v Value, key: &str) -> &'v Value {
    let mut settings = shown["settings"].as_array().unwrap().iter();
    settings.find(|setting| setting["key"] == key).unwrap()
}

#[test]
fn show_has_every_setting_and_where_it_is_from() {
    let mut agent = Agent::start(&[("web", &sleeping("nice = 3\n\nstop_timeout = \"1m 30s\""))]);
    let file = agent.service_file("web");
    let agent_file = agent.dir().join("config/agent.toml");
    std::fs::write(&agent_file, "on_exit = [\"true\"]\n").unwrap();
    assert!(agent.run(&["reload"]).status.success());
    let text = std::fs::read_to_string(&file).unwrap();
    let line_of = |key: &str| {
        text.lines()
            .take_while(|line| !line.starts_with(key))
            .count()
            + 1
    };
    let in_file = |shown: &Value, key: &str, value: Value| {
        let setting = setting(shown, key);
        assert_eq!(setting["value"], value, "{setting}");
        assert_eq!(setting["default"], false, "{setting}");
        assert_eq!(setting["file"], file.to_str().unwrap(), "{setting}");
        assert_eq!(setting["line"], line_of(key), "{setting}");
    };
    let assert_settings = |shown: &Value| {
        assert_eq!(shown["file"], file.to_str().unwrap());
        assert_eq!(shown["program"], "/usr/bin/sleep");
        in_file(shown, "nice", 3.into());
        in_file(shown, "stop_timeout", "1m 30s".into());
        let on_exit = setting(shown, "on_exit");
        assert_eq!(on_exit["value"][0], "true");
        assert_eq!(on_exit["file"], agent_file.to_str().unwrap());
        assert_eq!(on_exit["line"], 1);
        let restart = setting(shown, "restart");
        assert_eq!(restart["value"], "always");
        assert_eq!(restart["default"], true);
        assert_eq!(restart["line"], Value::Null);
    };
    assert_settings(&shown(&agent, &["web"]));
    let text = String::from_utf8(agent.run(&["show", "w*"]).stdout).unwrap();
    for (line, origin) in [
        ("nice = 3 ", &*format!("# line {}", line_of("nice"))),
        ("restart = \"always\" ", "# default"),
        ("on_exit = [\"true\"] ", "config/agent.toml:1"),
        ("# start_limit is not set ", "# default"),
    ] {
        let mut lines = text.lines();
        let found = lines.any(|it| it.trim().starts_with(line) && it.ends_with(origin));
        assert!(found, "{line}: {text}");
    }
    // The next agent knows as much, and without one the files say it.
    agent.kill();
    agent.start_again();
    assert_settings(&shown(&agent, &["web"]));
    agent.must("stop", "web");
    agent.kill();
    let config = agent.dir().join("config");
    let arguments = [
        "show",
        "--json",
        "web",
        "--config",
        config.to_str().unwrap(),
    ];
    let output = agent.run(&arguments);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no agent to talk to"));
    let without: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_settings(&without[0]);
    assert_eq!(
        (&without[0]["agent"], &without[0]["state"]),
        (&false.into(), &Value::Null)
    );
    let output = agent.run(&["show", "db", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn show_has_what_a_service_is_at_the_moment() {
    for sight in SIGHTS {
        let script = "trap 'exit 3' USR1; sleep 1000 & echo; wait";
        let agent = Agent::seeing(
            sight,
            &[(
                "web",
                &shell(script, "restart_delay = \"1h\"\nstop_mode = \"mixed\""),
            )],
        );
        let pid = agent.running("web");
        // Until each is the program that it becomes.
        let now = eventually("both processes are shown", || {
            let shown = shown(&agent, &["web"]);
            let processes = shown["processes"].as_array()?.iter();
            let mut names: Vec<_> = processes.map(|process| &process["comm"]).collect();
            names.sort_by_key(|name| name.to_string());
            (names == ["sh", "sleep"]).then_some(shown)
        });
        assert_eq!(now["pid"], pid);
        assert_eq!(
            (&now["agent"], &now["state"]),
            (&true.into(), &"running".into())
        );
        assert_eq!(now["file_differs"], false);
        let mut processes = now["processes"].as_array().unwrap().iter();
        let main = processes.find(|process| process["pid"] == pid).unwrap();
        assert_eq!(main["start_time_ns"], support::start_time_ns(pid));
        assert_eq!(main["start_time"], now["since"]);
        assert_eq!(main["comm"], "sh");
        if let Some(cgroup) = now["cgroup"].as_str() {
            let inside = std::fs::read_to_string(Path::new(cgroup).join("cgroup.procs")).unwrap();
            assert!(
                inside.lines().any(|line| line == pid.to_string()),
                "{inside}"
            );
        }
        // It ends by itself, and the file changes.
        agent.write_service("web", &shell(script, "nice = 3"));
        let changed = shown(&agent, &["web"]);
        assert_eq!(changed["file_differs"], true, "{changed}");
        signal_to(pid, Signal::SIGUSR1);
        agent.wait_state("web", "backoff");
        let ended = eventually("nothing is left of it", || {
            let shown = shown(&agent, &["web"]);
            (shown["processes"] == serde_json::json!([])).then_some(shown)
        });
        assert_eq!(ended["last_exit"]["code"], 3);
        assert!(ended["next_start_in_ns"].as_u64() > Some(0), "{ended}");
        assert!(ended["since"].as_str() > now["since"].as_str());
        let text = String::from_utf8(agent.run(&["show", "web"]).stdout).unwrap();
        for words in [
            "web: backoff since ",
            "exited with 3",
            "next start in ",
            "differs from",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let unknown = agent.run(&["show", "web", "db"]);
        assert_eq!(unknown.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&unknown.stderr).contains("db: no service has this name"));
        assert!(!unknown.stdout.is_empty());
    }
}

#[test]
fn show_lists_what_a_stop_leaves_alone() {
    needs_root!("what a stop leaves alone");
    let script = "sleep 1000 & echo; wait";
    let agent = Agent::start(&[("web", &shell(script, "stop_mode = \"main\""))]);
    let child = eventually("its child is shown", || {
        let shown = shown(&agent, &["web"]);
        let processes = shown["processes"].as_array()?;
        let child = processes
            .iter()
            .find(|process| process["pid"] != shown["pid"])?;
        (child["comm"] == "sleep").then(|| child.clone())
    });
    agent.must("stop", "web");
    let stopped = shown(&agent, &["web"]);
    assert_eq!(stopped["processes"], serde_json::json!([]), "{stopped}");
    let [left_alone] = stopped["left_alone"].as_array().unwrap().as_slice() else {
        panic!("{stopped}");
    };
    for key in ["pid", "comm", "start_time_ns"] {
        assert_eq!(left_alone[key], child[key], "{stopped}");
    }
    assert_eq!(stopped["cgroup"], Value::Null);
}

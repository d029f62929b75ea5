//! A reload touches what has changed and nothing else; a bad one touches nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Agent, SIGHTS, arguments, eventually, needs_root, shell, signal_to, sleeping};

/// A service's file with a problem in its third line.
const BAD: &str = "command = [\"sleep\"]\nstop_timout = \"3s\"";

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
    assert_eq!(arguments(after["b"]), ["sleep", "2000"]);
}

#[test]
fn a_renamed_service_finds_free_what_it_held_under_its_old_name() {
    // It holds the lock as one holds a port, and lets go of it late.
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("lock");
    let script = format!(
        "exec 9>{}; flock -n 9 || exit 1; trap 'sleep 0.5; exit' TERM; \
         while :; do sleep 0.01 9>&-; done",
        lock.display()
    );
    let keys = "start_check = \"300ms\"\nstart_limit = { burst = 1, interval = \"1h\" }";
    let web = shell(&script, keys);
    for sight in SIGHTS {
        let agent = Agent::seeing(sight, &[("web", &web), ("other", &sleeping(""))]);
        let other = agent.running("other");
        agent.running("web");
        fs::remove_file(agent.service_file("web")).unwrap();
        agent.write_service("website", &web);
        let output = agent.run(&["reload"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        // It is all done.
        assert_eq!(agent.status("web"), Value::Null);
        assert_eq!(agent.status("website")["state"], "running");
        assert_eq!(agent.count("website", "exited"), 0);
        assert_eq!(agent.running("other"), other);
    }
}

#[test]
fn a_file_that_has_changed_since_it_was_loaded_is_told_of() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let pid = agent.running("web");
    let ask = |arguments: &[&str]| {
        let output = agent.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let hint = || agent.status("web")["hint"].clone();
    // The same again is no change.
    let file = agent.service_file("web");
    fs::write(&file, fs::read(&file).unwrap()).unwrap();
    assert_eq!(hint(), Value::Null);
    assert_eq!(ask(&["restart", "web"]), (Some(0), String::new()));
    let pid = agent.replaced("web", pid);
    agent.write_service("web", &sleeping("nice = 1"));
    let words = "web.toml has changed since it was loaded; `respawn reload` takes that up";
    assert!(hint().as_str().unwrap().contains(words), "{}", hint());
    let text = agent.run(&["status"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains(words));
    for command in ["start", "restart"] {
        let (status, said) = ask(&[command, "web"]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains(words), "{command}: {said}");
    }
    agent.replaced("web", pid);
    assert_eq!(reload(&agent)["changed"], json!(["web"]));
    assert_eq!(hint(), Value::Null);
    fs::remove_file(&file).unwrap();
    let (_, said) = ask(&["restart", "web"]);
    assert!(
        said.contains("web.toml is gone or cannot be read"),
        "{said}"
    );

    agent.write_service("new", &sleeping(""));
    for command in ["start", "restart"] {
        let (status, said) = ask(&[command, "new"]);
        assert_eq!(status, Some(1));
        let words = "new.toml exists, but was not loaded; run `respawn reload`";
        assert!(said.contains(words), "{said}");
    }
    let (status, said) = ask(&["start", "../web"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("no service has this name"), "{said}");
}

#[test]
fn a_reload_fails_when_something_that_it_starts_does_not_run() {
    let agent = four();
    let bad = shell("exit 9", "start_check = \"1s\"\nrestart_delay = \"1h\"");
    agent.write_service("bad", &bad);
    let output = agent.run(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "added: bad\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("bad: exited with 9"), "{said}");
    agent.write_service("bad", &(bad + "\nnice = 1"));
    let output = agent.run(&["reload", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], false, "{answer}");
    assert_eq!(answer["failed"][0]["service"], "bad", "{answer}");
}

#[test]
fn a_reload_does_not_stop_everything_because_the_directory_is_gone() {
    let agent = four();
    let before = pids(&agent);
    let services = agent.dir().join("config/services");
    let aside = agent.dir().join("config/aside");
    fs::rename(&services, &aside).unwrap();
    let output = agent.run(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--allow-empty"), "{said}");
    agent.signal(Signal::SIGHUP);
    eventually("the agent has refused", || {
        agent.log().contains("nothing was changed").then_some(())
    });
    assert_eq!(pids(&agent), before);
    assert!(agent.run(&["reload", "--allow-empty"]).status.success());
    assert!(agent.statuses().is_empty());
    assert!(agent.live_all().is_empty());
}

#[test]
fn added_services_start_and_removed_ones_stop() {
    let agent = four();
    let before = pids(&agent);
    fs::remove_file(agent.service_file("c")).unwrap();
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
        agent.write_service("bad", BAD);
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
        signal_to(before["b"], Signal::SIGKILL);
        let pid = agent.replaced("b", before["b"]);
        assert_eq!(arguments(pid), ["sleep", "1000"]);
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
    // It does not run, as it warns.
    assert_eq!(output.status.code(), Some(1), "{warned}");
    assert!(warned.contains("\na: cannot enter /no/such: "), "{warned}");
    assert_eq!(said, "changed: a (restarted), b (updated in place)\n");
    assert!(warned.starts_with("warning: "), "{warned}");
    assert!(warned.contains("/a.toml:"), "{warned}");
    assert!(warned.contains("working_directory"), "{warned}");
    let output = agent.run(&["reload", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["warnings"][0]["key"], "working_directory");
}

fn assert_refused(agent: &Agent) {
    let output = agent.run(&["reload"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn the_next_agent_goes_on_with_the_last_good_config() {
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("a", &sleeping("")), ("b", &sleeping(""))]);
        let before = pids(&agent);
        agent.write_service("more", BAD);
        assert_refused(&agent);
        agent.kill();
        signal_to(before["b"], Signal::SIGKILL);
        agent.start_again();
        agent.replaced("b", before["b"]);
        let after = pids(&agent);
        assert_eq!(after.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(after["a"], before["a"]);
        assert_eq!(agent.count("a", "adopted"), 1);
        assert_eq!(agent.count("b", "exited"), 1);
        let log = agent.log();
        let problem = format!(
            "{}:3:1: stop_timout: ",
            agent.service_file("more").display()
        );
        assert!(log.contains(&problem), "{log}");
        assert!(
            log.contains("going on with the last good config of "),
            "{log}"
        );

        // The broken one is refused as before, and the mended one taken.
        assert_refused(&agent);
        agent.write_service("more", &sleeping(""));
        assert_eq!(reload(&agent)["added"], json!(["more"]));
        let before = pids(&agent);
        assert_eq!(before["a"], after["a"]);

        // That is the last good one now, for the spare as well.
        let spare = agent.another();
        agent.write_service("more", BAD);
        agent.replace_by(spare);
        assert_eq!(pids(&agent), before);
    }
}

#[test]
fn a_last_good_config_that_may_be_wrong_is_not_used() {
    let mut agent = Agent::start(&[("a", &sleeping(""))]);
    let pid = agent.assert_single("a");
    let file = agent.runtime_dir().join("state/last-good-config");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let kept = fs::read_to_string(&file).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let (boot_id, other) = (boot_id.trim_end(), "00000000-0000-0000-0000-000000000000");
    agent.write_service("bad", BAD);
    for (text, why) in [
        ("", "damaged, not used"),
        (&kept[..kept.len() / 2], "damaged, not used"),
        (&kept.replace(boot_id, other), "of another boot, not used"),
        (
            &kept.replace("\"version\":2,", "\"version\":0,"),
            "of another version of respawn, not used",
        ),
    ] {
        agent.kill();
        fs::write(&file, text).unwrap();
        let before = agent.log().len();
        agent.start_again();
        // As at boot, all but the bad one is used.
        assert_eq!(agent.assert_single("a"), pid);
        agent.wait_state("bad", "failed");
        let said = &agent.log()[before..];
        let said_why = format!("{}: {why}", file.display());
        assert!(said.contains(&said_why), "{said}");
        assert!(said.contains("bad.toml:3:1: stop_timout: "), "{said}");
    }
    agent.kill();
    fs::write(&file, kept).unwrap();
    agent.start_again();
    assert_eq!(agent.assert_single("a"), pid);
    assert_eq!(agent.status("bad"), Value::Null);
}

#[test]
fn the_journal_takes_another_size_and_group() {
    needs_root!("another group's journal");
    let agent = Agent::start(&[("a", &sleeping(""))]);
    let pid = agent.assert_single("a");
    let in_runtime_dir = |name: &str| agent.runtime_dir().join(name);
    let (journal, older) = (in_runtime_dir("journal"), in_runtime_dir("journal.1"));
    let rights = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.gid())
    };
    let set = |settings: &str| {
        fs::write(agent.dir().join("config/agent.toml"), settings).unwrap();
        let answer = reload(&agent);
        assert_eq!(answer["ok"], true, "{answer}");
    };
    assert_eq!(rights(&journal).0, 0o600);
    set("access_group = 54321\njournal_max_size = \"64KiB\"");
    assert_eq!(rights(&journal), (0o640, 54321));
    assert_eq!(rights(&in_runtime_dir("control.sock")).1, 54321);
    // Each reload is an event.
    for _ in 0..1000 {
        if older.exists() {
            break;
        }
        reload(&agent);
    }
    let length = fs::metadata(&older).unwrap().len();
    assert!((15 << 10..=16 << 10).contains(&length), "{length} bytes");
    assert_eq!(rights(&older), (0o640, 54321));
    set("access_group = 54322\njournal_max_size = \"1GiB\"");
    for file in [&journal, &older] {
        assert_eq!(rights(file), (0o640, 54322));
    }
    for _ in 0..400 {
        reload(&agent);
    }
    assert_eq!(fs::metadata(&older).unwrap().len(), length);
    set("");
    for file in [&journal, &older] {
        assert_eq!(rights(file).0, 0o600);
    }
    assert_eq!(agent.assert_single("a"), pid);
}

#[test]
fn a_service_reads_its_own_configuration_by_its_signal() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("read");
    let script = format!(
        "trap 'echo again >> {0}' HUP; echo once >> {0}; while :; do sleep 0.05; done",
        file.display()
    );
    let agent = Agent::start(&[
        ("web", &shell(&script, "reload = \"SIGHUP\"")),
        ("plain", &sleeping("")),
        ("off", &sleeping("reload = 1\nautostart = false")),
    ]);
    let pid = agent.running("web");
    eventually("it has its trap", || file.exists().then_some(()));
    let output = agent.run(&["reload", "we*"]);
    assert!(output.status.success(), "{output:?}");
    eventually("it has read it again", || {
        (fs::read_to_string(&file).unwrap() == "once\nagain\n").then_some(())
    });
    assert_eq!(agent.running("web"), pid);
    let events = agent.events_of("web");
    let asked = events.iter().find(|it| it["event"] == "requested");
    assert_eq!(asked.unwrap()["command"], "reload");
    for (service, why) in [
        ("plain", "its file has no `reload`"),
        ("off", "it is not running"),
        ("nobody", "no service has this name"),
    ] {
        let output = agent.run(&["reload", service, "--json"]);
        assert_eq!(output.status.code(), Some(1), "{service}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let error = object["results"][0]["error"].as_str().unwrap();
        assert!(error.contains(why), "{service}: {error}");
    }
    // The agent's own reload is another matter.
    let output = agent.run(&["reload", "web", "--allow-empty"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(agent.run(&["reload"]).status.success());
    assert_eq!(agent.running("web"), pid);
}

#[test]
fn a_part_of_a_service_is_reloaded_restarted_and_stopped_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("read");
    let appends = |name: &str| {
        let script = format!("echo {name} >> {}", file.display());
        format!("reload = {}", json!(["/bin/sh", "-c", script]))
    };
    let part = |of: &str, name: &str| sleeping(&format!("part_of = [\"{of}\"]\n{}", appends(name)));
    let agent = Agent::start(&[
        ("db", &sleeping(&appends("db"))),
        ("a", &part("db", "a")),
        ("b", &part("a", "b")),
        // It has nothing to reload, it does not run, it is part of something else.
        ("plain", &sleeping("part_of = [\"db\"]")),
        ("off", &format!("{}\nautostart = false", part("db", "off"))),
        ("other", &part("gone", "other")),
    ]);
    let all = ["db", "a", "b", "plain", "other"];
    let pids = all.map(|name| agent.running(name));
    let output = agent.run(&["reload", "db"]);
    assert!(output.status.success(), "{output:?}");
    let mut read: Vec<_> = fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    read.sort();
    assert_eq!(read, ["a", "b", "db"]);
    assert_eq!(all.map(|name| agent.running(name)), pids);
    agent.must("restart", "db");
    for (name, pid) in all.into_iter().zip(pids) {
        let now = match name {
            "other" => pid,
            _ => agent.replaced(name, pid),
        };
        assert_eq!(agent.running(name), now);
    }
    assert_eq!(agent.status("off")["state"], "stopped");
    agent.must("stop", "db");
    for name in ["db", "a", "b", "plain"] {
        assert_eq!(agent.status(name)["state"], "stopped", "{name}");
    }
    agent.must("start", "db");
    assert_eq!(agent.status("a")["state"], "stopped");
}

#[test]
fn a_service_reads_its_own_configuration_by_its_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let variables = dir.path().join("file");
    fs::write(&variables, "FROM=/proc/version\n").unwrap();
    let reload = |script: &str| {
        let command = json!(["/bin/sh", "-c", script]);
        sleeping(&format!("reload = {command}\nstart_timeout = \"500ms\""))
    };
    let agent = Agent::start(&[
        (
            "good",
            &reload(&format!("echo $MAINPID $0 > {path}/good; exit 0")),
        ),
        (
            "words",
            &sleeping(&format!(
                "reload = [\"/bin/cp\", \"${{FROM}}\", \"{path}/words\"]\nenvironment_file = \"{path}/file\""
            )),
        ),
        ("bad", &reload("echo; echo unknown directive; exit 3")),
        (
            "slow",
            &reload(&format!("sleep 1000 & echo $! > {path}/slow; wait")),
        ),
        ("gone", &sleeping("reload = [\"/no/such/program\"]")),
    ]);
    let pid = agent.running("good");
    assert!(agent.run(&["reload", "good"]).status.success());
    let said = fs::read_to_string(dir.path().join("good")).unwrap();
    assert_eq!(said, format!("{pid} /bin/sh\n"));
    // The variables of its files are those of now.
    agent.running("words");
    fs::write(&variables, "FROM=/proc/cmdline\n").unwrap();
    agent.must("reload", "words");
    let copied = fs::read(dir.path().join("words")).unwrap();
    assert_eq!(copied, fs::read("/proc/cmdline").unwrap());
    fs::remove_file(&variables).unwrap();
    for (service, why) in [
        ("words", "cannot read its environment_file: "),
        (
            "bad",
            "its command exited with 3; its last output: unknown directive",
        ),
        (
            "slow",
            "its command did not end within 500ms, and was killed",
        ),
        (
            "gone",
            "its command cannot be run: No such file or directory",
        ),
    ] {
        let pid = agent.running(service);
        let output = agent.run(&["reload", service]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("{service}: {why}")), "{text}");
        assert_eq!(agent.running(service), pid);
    }
    // With all that it had started.
    let left = fs::read_to_string(dir.path().join("slow")).unwrap();
    let left: u32 = left.trim().parse().unwrap();
    eventually("nothing is left of it", || {
        (!support::is_alive(left)).then_some(())
    });
}

#[test]
fn a_command_that_reloads_has_its_user_its_time_and_its_output_where_the_services_goes() {
    support::needs_root!("a reload with a user of its own");
    let dir = tempfile::tempdir().unwrap();
    let (out, log) = (dir.path().join("out"), dir.path().join("log"));
    let script = |text: &str| json!(["/bin/sh", "-c", text]);
    let whoami = script("echo reloaded as $(id -u); echo and more >&2");
    let slow = script("exec sleep 1000");
    let agent = Agent::start(&[
        (
            "file",
            &sleeping(&format!(
                "user = \"nobody\"\nreload = {{ run = {whoami}, user = \"root\" }}\nstdout = \"{}\"",
                out.display()
            )),
        ),
        (
            "log",
            &sleeping(&format!(
                "user = \"nobody\"\nreload = {whoami}\nlog = {{ path = \"{}\" }}",
                log.display()
            )),
        ),
        (
            "slow",
            &sleeping(&format!("reload = {{ run = {slow}, timeout = \"300ms\" }}")),
        ),
        (
            "ignored",
            &sleeping(&format!(
                "reload = {{ run = {}, ignore_failure = true }}",
                script("exit 3")
            )),
        ),
    ]);
    for service in ["file", "log", "slow", "ignored"] {
        agent.running(service);
    }

    for (service, path, uid) in [("file", &out, 0), ("log", &log, 65_534)] {
        agent.must("reload", service);
        eventually("what it wrote is there", || {
            let text = fs::read_to_string(path).unwrap_or_default();
            let is_there = text.contains(&format!("reloaded as {uid}\n"));
            (is_there && text.contains("and more\n")).then_some(())
        });
    }
    agent.must("reload", "ignored");
    let output = agent.run(&["reload", "slow"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let why = "its command did not end within 300ms, and was killed";
    assert!(text.contains(why), "{text}");
}

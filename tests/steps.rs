//! Commands around the run of a service: `before_start` and its like, `stop_command`, `conditions`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Agent, eventually, is_alive, needs_root, shell, signal_to, sleeping};

/// A command that runs a script, as a TOML array.
fn script(text: &str) -> String {
    json!(["/bin/sh", "-c", text]).to_string()
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn error(status: &Value) -> String {
    status["error"].as_str().unwrap_or_default().to_owned()
}

/// The last event of a kind.
fn last(agent: &Agent, service: &str, kind: &str) -> Value {
    let mut events = agent.events_of(service).into_iter();
    events.rfind(|event| event["event"] == kind).unwrap()
}

/// The pid that a script has written to a file.
fn written_pid(path: &Path) -> u32 {
    eventually("a pid is written", || {
        let text = fs::read_to_string(path).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
}

fn gone(pid: u32) {
    eventually("it is gone", || (!is_alive(pid)).then_some(()));
}

#[test]
fn each_has_its_time_and_knows_of_the_instance() {
    let dir = tempfile::tempdir().unwrap();
    let (out, variables) = (dir.path().join("out"), dir.path().join("variables"));
    fs::write(&variables, "NAME=value\n").unwrap();
    let says = |what: &str| script(&format!("echo {what} >> {}", out.display()));
    let keys = format!(
        "before_start = [{}, {}]\nafter_start = [{}]\nbefore_stop = [{}]\nstop_command = {}\n\
         after_stop = [{}]\nenvironment_file = \"{}\"",
        says("before $NAME $0"),
        says("second"),
        says("after $MAINPID"),
        says("stopping $MAINPID"),
        script(&format!(
            "echo command $MAINPID >> {}; kill -USR1 $MAINPID",
            out.display()
        )),
        says("stopped $RESPAWN_EVENT $RESPAWN_SIGNAL $MAINPID"),
        variables.display()
    );
    let agent = Agent::start(&[("web", &sleeping(&keys))]);
    let pid = agent.assert_single("web");
    agent.must("stop", "web");
    assert_eq!(
        lines(&out),
        [
            "before value /bin/sh",
            "second",
            &format!("after {pid}"),
            &format!("stopping {pid}"),
            &format!("command {pid}"),
            &format!("stopped exited SIGUSR1 {pid}"),
        ]
    );
    assert_eq!(agent.status("web")["last_exit"]["signal"], "SIGUSR1");
    assert_eq!(last(&agent, "web", "stopping")["signal"], Value::Null);
    // One that ends by itself is not asked to.
    fs::remove_file(&out).unwrap();
    agent.must("start", "web");
    let pid = agent.running("web");
    signal_to(pid, Signal::SIGKILL);
    agent.replaced("web", pid);
    let said = eventually("the next one is up", || {
        Some(lines(&out)).filter(|lines| lines.len() == 7)
    });
    assert_eq!(said[3], format!("stopped exited SIGKILL {pid}"));
    assert_eq!(said[4], "before value /bin/sh");
}

#[test]
fn a_start_fails_with_the_words_of_the_command_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (out, tidied) = (dir.path().join("out"), dir.path().join("tidied"));
    let test = "echo line 3; echo unknown directive >&2; exit 1";
    let web = sleeping(&format!(
        "before_start = [{}, {}]\nafter_stop = [{}]\nrestart_delay = \"30s\"\nstdout = \"{}\"",
        script(test),
        script("echo never"),
        script(&format!("echo tidied > {}", tidied.display())),
        out.display()
    ));
    let agent = Agent::start(&[
        ("web", &web),
        ("app", &sleeping("requires = [\"web\"]\nautostart = false")),
    ]);
    let status = agent.wait_state("web", "backoff");
    let why = error(&status);
    assert!(
        why.starts_with("before_start: /bin/sh -c echo line 3;"),
        "{why}"
    );
    assert!(
        why.contains("exited with 1; its last output: ") && why.contains("unknown directive"),
        "{why}"
    );
    assert_eq!(status["pid"], Value::Null);
    let mut said = lines(&out);
    said.sort();
    assert_eq!(said, ["line 3", "unknown directive"]);
    assert_eq!(lines(&tidied), ["tidied"]);
    let failed = agent.run(&["start", "web"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("unknown directive"), "{failed:?}");
    // Mended, it starts at once.
    let mended = sleeping(&format!("before_start = [{}]", script("exit 0")));
    agent.write_service("web", &mended);
    assert!(agent.run(&["reload"]).status.success());
    agent.running("web");
}

#[test]
fn a_failure_may_be_ignored_and_a_program_that_is_not_there_fails() {
    let keys = "before_start = [{ run = [\"/bin/false\"], ignore_failure = true }]";
    let agent = Agent::start(&[
        ("web", &sleeping(keys)),
        (
            "none",
            &sleeping("before_start = [[\"/nonexistent/program\"]]\nrestart = \"no\""),
        ),
    ]);
    agent.running("web");
    assert!(
        agent
            .log()
            .contains("before_start: /bin/false exited with 1")
    );
    let why = error(&agent.wait_state("none", "failed"));
    assert!(
        why.contains("before_start: /nonexistent/program cannot be run: No such file"),
        "{why}"
    );
}

#[test]
fn they_run_as_the_service_or_as_whom_they_name() {
    needs_root!("they_run_as_the_service_or_as_whom_they_name");
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let out = dir.path().join("out");
    fs::write(&out, "").unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).unwrap();
    let name = format!("respawn-test-{}", std::process::id());
    let says = |what: &str| script(&format!("echo {what} >> {}", out.display()));
    let keys = format!(
        "user = 65534\ngroup = 65534\ndirectories = {{ runtime = [\"{name}\"] }}\n\
         capabilities = [\"CAP_NET_BIND_SERVICE\"]\n\
         before_start = [{}, {{ run = {}, user = \"root\" }}]\nafter_stop = [{}]",
        says(&format!("$(id -u) $(stat -c %u /run/{name})")),
        says("$(id -u) $(grep CapEff /proc/self/status | cut -f 2)"),
        says("$(id -u) $(grep CapEff /proc/self/status | cut -f 2)"),
    );
    let agent = Agent::start(&[("web", &sleeping(&keys))]);
    agent.running("web");
    agent.must("stop", "web");
    let said = lines(&out);
    fs::remove_dir_all(Path::new("/run").join(&name)).unwrap();
    assert_eq!(said[0], "65534 65534");
    assert!(said[1].starts_with("0 ") && !said[1].ends_with(" 0000000000000400"));
    assert_eq!(said[2], "65534 0000000000000400");
}

#[test]
fn one_that_never_ends_is_killed_with_all_that_it_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pid");
    let hangs = script(&format!(
        "setsid sleep 1000 & echo $! > {}; wait",
        pids.display()
    ));
    let keys = format!(
        "before_start = [{{ run = {hangs}, timeout = \"300ms\" }}]\nrestart = \"no\"\nautostart = false"
    );
    let agent = Agent::start(&[("web", &sleeping(&keys))]);
    let failed = agent.run(&["start", "web"]);
    assert_eq!(failed.status.code(), Some(1));
    let said = stderr(&failed);
    assert!(
        said.contains("did not end within 300ms, and was killed"),
        "{said}"
    );
    gone(written_pid(&pids));
    agent.must("stop", "web");
    // A stop does not wait for it.
    let keys = format!("before_start = [{hangs}]\nautostart = false");
    agent.write_service("web", &sleeping(&keys));
    assert!(agent.run(&["reload"]).status.success());
    fs::remove_file(&pids).unwrap();
    assert!(agent.run(&["start", "--no-wait", "web"]).status.success());
    let pid = written_pid(&pids);
    let status = agent.status("web");
    assert_eq!(status["state"], "starting");
    assert_eq!(status["step"], "before_start");
    agent.must("stop", "web");
    gone(pid);
    assert_eq!(agent.status("web")["state"], "stopped");
    assert_eq!(agent.count("web", "started"), 0);
}

#[test]
fn the_next_agent_begins_with_them_again_and_nothing_is_left_of_the_dead_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (pids, go) = (dir.path().join("pid"), dir.path().join("go"));
    let waits = script(&format!(
        "echo $$ > {}; while ! [ -e {} ]; do sleep 0.02; done",
        pids.display(),
        go.display()
    ));
    let keys = format!("before_start = [{waits}]\nafter_stop = [{waits}]");
    let mut agent = Agent::start(&[("web", &sleeping(&keys))]);
    let first = written_pid(&pids);
    fs::remove_file(&pids).unwrap();
    agent.kill();
    agent.start_again();
    gone(first);
    let second = written_pid(&pids);
    assert_ne!(first, second);
    fs::write(&go, "").unwrap();
    let pid = agent.assert_single("web");
    gone(second);
    assert_eq!(agent.count("web", "started"), 1);
    // The same after its end: it is not started before that is done.
    fs::remove_file(&go).unwrap();
    fs::remove_file(&pids).unwrap();
    signal_to(pid, Signal::SIGKILL);
    let third = written_pid(&pids);
    fs::remove_file(&pids).unwrap();
    agent.kill();
    agent.start_again();
    gone(third);
    written_pid(&pids);
    assert_eq!(agent.status("web")["pid"], Value::Null);
    assert_eq!(agent.status("web")["step"], "after_stop");
    fs::write(&go, "").unwrap();
    agent.replaced("web", pid);
    agent.assert_single("web");
}

#[test]
fn a_service_whose_conditions_do_not_hold_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("conf");
    let web = sleeping(&format!(
        "conditions = {{ file_not_empty = \"{0}\", path_exists = [\"/\", \"!{0}.off\"] }}",
        conf.display()
    ));
    let agent = Agent::start(&[
        ("web", &web),
        ("app", &sleeping("requires = [\"web\"]")),
        (
            "asks",
            &sleeping("conditions = { command = [\"/bin/false\"] }"),
        ),
    ]);
    let why = format!("file_not_empty = \"{}\" does not hold", conf.display());
    let status = agent.wait_state("web", "skipped");
    assert_eq!(error(&status), why);
    agent.wait_state("asks", "skipped");
    agent.running("app");
    assert_eq!(last(&agent, "web", "skipped")["reason"], why);
    let started = agent.run(&["start", "web"]);
    assert!(started.status.success());
    assert!(stderr(&started).contains(&why), "{started:?}");
    assert_eq!(agent.run(&["is-up", "web"]).status.code(), Some(1));
    assert_eq!(agent.count("web", "started"), 0);
    fs::write(&conf, "x").unwrap();
    agent.must("start", "web");
    agent.assert_single("web");
    fs::write(dir.path().join("conf.off"), "").unwrap();
    agent.must("restart", "web");
    let status = agent.wait_state("web", "skipped");
    assert!(error(&status).contains("\"!"), "{status}");
}

#[test]
fn a_service_is_up_when_its_after_start_is_done_and_fails_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let waits = script(&format!(
        "while ! [ -e {} ]; do sleep 0.02; done",
        go.display()
    ));
    let agent = Agent::start(&[
        ("web", &sleeping(&format!("after_start = [{waits}]"))),
        ("app", &sleeping("requires = [\"web\"]")),
        (
            "bad",
            &sleeping("after_start = [[\"/bin/false\"]]\nrestart = \"no\""),
        ),
    ]);
    agent.wait_state("app", "waiting");
    let status = agent.wait_state("web", "starting");
    assert_eq!(status["step"], "after_start");
    fs::write(&go, "").unwrap();
    agent.running("app");
    assert_eq!(agent.count("web", "ready"), 1);
    let why = error(&agent.wait_state("bad", "failed"));
    assert_eq!(why, "after_start: /bin/false exited with 1");
    assert_eq!(agent.live("bad"), Vec::<u32>::new());
}

#[test]
fn a_stop_goes_on_whatever_fails() {
    let keys = "before_stop = [[\"/bin/false\"]]\nstop_command = [\"/bin/false\"]\n\
                after_stop = [[\"/bin/false\"], [\"/bin/false\"]]";
    let agent = Agent::start(&[
        ("web", &sleeping(keys)),
        (
            "hangs",
            &sleeping("stop_command = [\"sleep\", \"1000\"]\nstop_timeout = \"300ms\""),
        ),
        // What the command leaves of the tree gets the stop signal.
        (
            "tree",
            &shell(
                "sleep 1000 & sleep 1000 & wait",
                "stop_command = [\"/bin/sh\", \"-c\", \"kill $MAINPID\"]",
            ),
        ),
    ]);
    for service in ["web", "hangs", "tree"] {
        agent.running(service);
        agent.must("stop", service);
        assert_eq!(agent.live(service), Vec::<u32>::new());
    }
    assert_eq!(agent.status("web")["last_exit"]["signal"], "SIGTERM");
    assert_eq!(agent.status("hangs")["last_exit"]["signal"], "SIGKILL");
    let failed = agent.events_of("web").into_iter();
    let failed = failed.filter(|event| event["event"] == "step_failed");
    let failed: Vec<_> = failed.map(|event| event["step"].clone()).collect();
    assert_eq!(failed, ["before_stop", "stop_command", "after_stop"]);
}

#[test]
fn a_shutdown_has_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let says = |what: &str| script(&format!("echo {what} >> {}", out.display()));
    let keys = format!(
        "before_stop = [{}]\nafter_stop = [{}]",
        says("before"),
        says("after")
    );
    let mut agent = Agent::start(&[("web", &sleeping(&keys))]);
    agent.running("web");
    assert!(agent.run(&["shutdown"]).status.success());
    assert!(agent.wait().success());
    assert_eq!(lines(&out), ["before", "after"]);
}

#[test]
fn what_a_oneshot_has_done_is_undone_when_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (out, go) = (dir.path().join("out"), dir.path().join("go"));
    let undo = script(&format!(
        "echo undo >> {0}; while ! [ -e {1} ]; do sleep 0.02; done; echo undone >> {0}",
        out.display(),
        go.display()
    ));
    let rules = shell(
        &format!("echo done >> {}", out.display()),
        &format!(
            "type = \"oneshot\"\nbefore_stop = [{undo}]\nreload = {}",
            script(&format!("echo \"again$MAINPID\" >> {}", out.display()))
        ),
    );
    let mut agent = Agent::start(&[
        ("rules", &rules),
        ("app", &sleeping("requires = [\"rules\"]")),
    ]);
    agent.wait_state("rules", "done");
    agent.running("app");
    agent.must("reload", "rules");
    assert!(agent.run(&["stop", "--no-wait", "rules"]).status.success());
    let begun = |lines: &[String]| lines.iter().filter(|line| *line == "undo").count();
    eventually("it is being undone", || {
        (begun(&lines(&out)) == 1).then_some(())
    });
    // What requires it has stopped before.
    assert_eq!(agent.status("app")["state"], "stopped");
    agent.kill();
    agent.start_again();
    eventually("the next agent goes on with it", || {
        (begun(&lines(&out)) == 2).then_some(())
    });
    fs::write(&go, "").unwrap();
    agent.wait_state("rules", "stopped");
    let said = ["done", "again", "undo", "undo", "undone"];
    assert_eq!(lines(&out), said);
    agent.must("start", "rules");
    agent.must("restart", "rules");
    let said = ["done", "undo", "undone", "done"];
    assert_eq!(lines(&out)[5..], said);
}

#[test]
fn a_condition_asks_a_command_as_the_others_are_run() {
    let dir = tempfile::tempdir().unwrap();
    let variables = dir.path().join("variables");
    fs::write(&variables, "WORD=it is\n").unwrap();
    let asks = |keys: &str, more: &str| {
        sleeping(&format!(
            "conditions = {{ command = {{ {keys} }} }}\nenvironment_file = {variables:?}\n{more}"
        ))
    };
    let agent = Agent::start(&[
        (
            "word",
            &asks(
                "run = [\"/usr/bin/test\", \"${WORD}\", \"=\", \"it is\"]",
                "",
            ),
        ),
        (
            "other",
            &asks("run = [\"/usr/bin/test\", \"${WORD}\", \"=\", \"not\"]", ""),
        ),
        (
            "unset",
            &asks(
                "run = [\"/usr/bin/test\", \"${NO_SUCH}\"]",
                "restart = \"no\"",
            ),
        ),
        // Longer than `start_timeout`, and the time until it is killed.
        (
            "slow",
            &asks(
                "run = [\"/bin/sleep\", \"6\"], timeout = \"1m\"",
                "ready = { notify = true }\nstart_timeout = \"100ms\"\nrestart = \"no\"",
            ),
        ),
        (
            "ignored",
            &asks("run = [\"/bin/false\"], ignore_failure = true", ""),
        ),
        (
            "missing",
            &asks(
                "run = [\"/nonexistent\", \"${NO_SUCH}\"], ignore_failure = true",
                "",
            ),
        ),
    ]);
    for service in ["word", "ignored", "missing"] {
        agent.running(service);
    }
    // What is told names it as its file does, without what the variable holds.
    let why = error(&agent.wait_state("other", "skipped"));
    assert!(why.contains("/usr/bin/test ${WORD} = not"), "{why}");
    let why = error(&agent.wait_state("unset", "failed"));
    assert!(
        why.contains("conditions: ") && why.contains("${NO_SUCH} is not set"),
        "{why}"
    );
    let why = error(&agent.wait_state("slow", "failed"));
    assert!(why.starts_with("not ready within start_timeout"), "{why}");
}

#[test]
fn a_condition_asks_as_the_service_or_as_whom_it_names() {
    needs_root!("a_condition_asks_as_the_service_or_as_whom_it_names");
    let asks = |user: &str, uid: u32| {
        let test = script(&format!("test $(id -u) = {uid}"));
        sleeping(&format!(
            "user = 65534\ngroup = 65534\nconditions = {{ command = {{ run = {test}{user} }} }}"
        ))
    };
    let agent = Agent::start(&[
        ("own", &asks("", 65534)),
        ("root", &asks(", user = \"root\"", 0)),
    ]);
    agent.running("own");
    agent.running("root");
}

//! At boot one bad file costs one service, and what is not there yet is tried again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    Agent, Setup, eventually, is_root, needs_root, proc_status, respawn, shell, signal_to, skip,
    sleeping,
};
use tempfile::TempDir;

/// A config directory, before an agent is on it.
fn prepared() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("config/services")).unwrap();
    dir
}

fn file_of(dir: &TempDir, service: &str) -> std::path::PathBuf {
    dir.path().join(format!("config/services/{service}.toml"))
}

/// What `status` says is wrong with a service.
fn error_of(status: &Value) -> String {
    status["error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn one_bad_file_costs_one_service() {
    let sleep = "command = [\"sleep\", \"1000\"]";
    type Make<'a> = &'a dyn Fn(&Path);
    let text = |text: &'static str| move |path: &Path| fs::write(path, text).unwrap();
    let (empty, key, toml) = (text(""), text("comand = [\"sleep\"]"), text("x = = 1"));
    let twice = text("command = [\"sleep\"]\nnice = 1\nnice = 2\n");
    let cases: [(&str, Make<'_>, &str); 7] = [
        ("an empty file", &empty, "command: is missing"),
        ("an unknown key", &key, "did you mean command?"),
        ("no TOML", &toml, "not valid TOML"),
        ("a key that is there twice", &twice, "defined twice"),
        (
            "bytes that are no text",
            &|path| fs::write(path, b"\xff").unwrap(),
            "UTF-8",
        ),
        (
            "a directory",
            &|path| fs::create_dir(path).unwrap(),
            "found a directory",
        ),
        (
            "a FIFO",
            &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "found a FIFO",
        ),
    ];
    for (what, make, why) in cases {
        let dir = prepared();
        let bad = file_of(&dir, "bad");
        make(&bad);
        let agent = Agent::within(dir, &Setup::default(), &[("web", &sleeping(""))]);
        agent.assert_single("web");
        let status = agent.wait_state("bad", "failed");
        let error = error_of(&status);
        assert!(error.contains(why), "{what}: {error}");
        assert!(error.contains(bad.to_str().unwrap()), "{what}: {error}");
        let log = agent.log();
        assert!(log.contains(why), "{what}: {log}");
        assert_eq!(agent.count("bad", "failed"), 1, "{what}");

        // Someone who starts it has it read again.
        let output = agent.run(&["start", "bad"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(said.contains(why), "{what}: {said}");
        // A reload with a problem changes nothing, now as ever.
        assert_eq!(agent.ask(&json!({"command": "reload"}))["ok"], false);
        let _ = fs::remove_file(&bad).or_else(|_| fs::remove_dir(&bad));
        agent.write_service("bad", sleep);
        agent.must("start", "bad");
        let pid = agent.assert_single("bad");
        let reloaded = agent.ask(&json!({"command": "reload"}));
        assert_eq!(reloaded["ok"], true, "{reloaded}");
        assert_eq!(reloaded["changed"], json!([]), "{reloaded}");
        assert_eq!(agent.assert_single("bad"), pid);
    }
}

/// Starts an agent beside a good service; `bad` is to wait for something, until `mend`.
fn is_tried_again(text: &dyn Fn(&Path) -> String, why: &str, mend: &dyn Fn(&Path)) {
    let dir = prepared();
    let text = text(dir.path());
    let agent = Agent::within(
        dir,
        &Setup::default(),
        &[("web", &sleeping("")), ("bad", &text)],
    );
    let pid = agent.assert_single("web");
    let status = agent.wait_state("bad", "backoff");
    assert!(error_of(&status).contains(why), "{status}");
    mend(agent.dir());
    agent.assert_single("bad");
    assert_eq!(agent.status("bad")["error"], Value::Null);
    assert_eq!(agent.assert_single("web"), pid);
}

#[test]
fn an_environment_file_that_is_not_there_yet_is_waited_for() {
    let file = |dir: &Path| dir.join("web.env");
    is_tried_again(
        &|dir| {
            let script = "test \"$FROM_FILE\" = yes && exec sleep 1000";
            shell(script, &format!("environment_file = {:?}", file(dir)))
        },
        "web.env: does not exist",
        &|dir| fs::write(file(dir), "FROM_FILE=yes\n").unwrap(),
    );
}

#[test]
fn a_program_that_is_not_there_yet_is_waited_for() {
    is_tried_again(
        &|dir| {
            let keys = format!("environment.PATH = \"{}:/bin\"", dir.display());
            format!("command = [\"own-program\"]\n{keys}")
        },
        "no program \"own-program\" is in PATH",
        &|dir| {
            let program = dir.join("own-program");
            let temporary = dir.join("temporary");
            fs::write(&temporary, "#!/bin/sh\nexec sleep 1000\n").unwrap();
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(temporary, program).unwrap();
        },
    );
}

#[test]
fn a_link_to_a_file_that_is_not_there_yet_is_waited_for() {
    let dir = prepared();
    let target = dir.path().join("mount/bad.toml");
    symlink(&target, file_of(&dir, "bad")).unwrap();
    let agent = Agent::within(dir, &Setup::default(), &[("web", &sleeping(""))]);
    let status = agent.wait_state("bad", "backoff");
    assert!(error_of(&status).contains("dangling"), "{status}");
    fs::create_dir(target.parent().unwrap()).unwrap();
    fs::write(&target, "command = [\"sleep\", \"1000\"]").unwrap();
    let pid = agent.running("bad");
    agent.running("web");
    agent.must("stop", "bad");
    assert!(!support::is_alive(pid));
}

#[test]
fn a_link_to_a_file_of_several_services_is_waited_for() {
    let dir = prepared();
    let target = dir.path().join("many");
    symlink(&target, file_of(&dir, "many")).unwrap();
    let agent = Agent::within(dir, &Setup::default(), &[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    agent.wait_state("many", "backoff");
    // A file that has become bad meanwhile costs nothing that runs.
    fs::write(agent.service_file("web"), "x").unwrap();
    let table = |name: &str| format!("[service.{name}]\ncommand = [\"sleep\", \"1000\"]\n");
    let temporary = agent.dir().join("temporary");
    fs::write(&temporary, table("a") + &table("b")).unwrap();
    fs::rename(temporary, target).unwrap();
    agent.running("a");
    agent.running("b");
    eventually("many is forgotten", || {
        (agent.status("many") == Value::Null).then_some(())
    });
    assert_eq!(agent.running("web"), pid);
    for service in ["a", "b"] {
        agent.must("stop", service);
    }
}

#[test]
fn a_user_that_is_not_known_yet_is_waited_for() {
    let test = "a_user_that_is_not_known_yet_is_waited_for";
    needs_root!(test);
    let dir = prepared();
    let passwd = dir.path().join("passwd");
    let known = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(&passwd, &known).unwrap();
    let script = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
    let words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        passwd.to_str().unwrap(),
    ];
    let setup = Setup {
        wrapper: words.map(str::to_owned).to_vec(),
        ..Setup::default()
    };
    let user = "respawn-test-late";
    let agent = Agent::within(
        dir,
        &setup,
        &[
            ("web", &sleeping("")),
            ("bad", &sleeping(&format!("user = {user:?}"))),
        ],
    );
    agent.assert_single("web");
    let status = agent.wait_state("bad", "backoff");
    assert!(error_of(&status).contains("no user is named"), "{status}");
    fs::write(
        &passwd,
        format!("{known}{user}:x:54321:54321::/nonexistent:/bin/sh\n"),
    )
    .unwrap();
    let pid = agent.running("bad");
    assert!(proc_status(pid, "Uid").starts_with("54321"));
}

#[test]
fn a_bad_agent_file_costs_what_is_bad_in_it() {
    let dir = prepared();
    fs::write(dir.path().join("config/agent.toml"), "max_hoks = 3\n").unwrap();
    let agent = Agent::within(dir, &Setup::default(), &[("web", &sleeping(""))]);
    agent.assert_single("web");
    assert!(agent.log().contains("did you mean max_hooks?"));
}

#[test]
fn what_runs_is_left_alone_when_its_file_cannot_be_read() {
    let dir = prepared();
    let table = |name: &str| format!("[service.{name}]\ncommand = [\"sleep\", \"1000\"]\n");
    let many = file_of(&dir, "many");
    let good = table("a") + &table("b");
    fs::write(&many, &good).unwrap();
    let mut agent = Agent::within(dir, &Setup::default(), &[("web", &sleeping(""))]);
    let pids = ["a", "b", "web"].map(|service| agent.running(service));
    agent.kill();
    fs::write(&many, "[service.a\n").unwrap();
    agent.write_service("web", "comand = [\"sleep\"]");
    // As after a change to another version of respawn.
    fs::remove_file(agent.runtime_dir().join("state/last-good-config")).unwrap();
    agent.start_again();
    for (service, pid) in ["a", "b", "web"].into_iter().zip(pids) {
        assert_eq!(agent.running(service), pid, "{service}");
    }
    // They are mended when their files are.
    signal_to(pids[2], Signal::SIGKILL);
    agent.wait_state("web", "failed");
    fs::write(&many, &good).unwrap();
    agent.write_service("web", "command = [\"sleep\", \"1000\"]");
    let answer = agent.ask(&json!({"command": "reload"}));
    assert_eq!(answer["ok"], true, "{answer}");
    agent.running("web");
    assert_eq!(
        ["a", "b"].map(|service| agent.running(service)),
        [pids[0], pids[1]]
    );
    for service in ["a", "b"] {
        agent.must("stop", service);
    }
}

/// A little init, PID 1 of its own namespace, that starts the agent as soon as it has ended.
struct Init(Child);

impl Init {
    fn start(dir: &Path) -> Self {
        let script = format!(
            "while :; do echo >>{0}/starts; {1} agent --config {0}/nowhere --runtime-dir {0}/run \
             --pin-dir {0}/pins & echo $! >{0}/pid; wait; done",
            dir.display(),
            respawn().get_program().to_str().unwrap()
        );
        let child = Command::new("unshare")
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
            ])
            .arg(script)
            .stdin(Stdio::null())
            .stderr(fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn init_does_not_start_an_agent_that_cannot_start_in_a_tight_loop() {
    let test = "init_does_not_start_an_agent_that_cannot_start_in_a_tight_loop";
    if !is_root(test) {
        return;
    }
    let namespace = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "true"])
        .status();
    if !namespace.is_ok_and(|status| status.success()) {
        return skip(test, "no PID namespace can be made");
    }
    let dir = tempfile::tempdir().unwrap();
    let _init = Init::start(dir.path());
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    eventually("its words", || {
        read("log").contains("does not exist").then_some(())
    });
    thread::sleep(Duration::from_secs(2));
    let starts = read("starts").len();
    assert!(starts <= 2, "{starts} starts; {}", read("log"));
}

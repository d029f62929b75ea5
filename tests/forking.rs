//! Services that go into the background: `type = "forking"` with `pid_file`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::json;
use support::{
    Agent, eventually, is_alive, needs_root, pid_of, respawn, signal_to, skip, sleeping,
};
use tempfile::TempDir;

/// A service whose command leaves the process that `daemon` describes in the background, with its pid in
/// the file. `before` is run in the foreground.
struct Service {
    dir: TempDir,
}

impl Service {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.path().join("web.pid")
    }

    /// Of a program that does what `before` says, and then leaves a shell with `daemon` behind.
    fn text(&self, before: &str, daemon: &str, keys: &str) -> String {
        let file = self.pid_file();
        let file = file.display();
        let script = format!("{before}\nsetsid sh -c 'echo $$ > {file}; {daemon}' &");
        format!(
            "type = \"forking\"\npid_file = \"{file}\"\ncommand = {}\n{keys}",
            json!(["/bin/sh", "-c", script])
        )
    }

    fn sleeping(&self, keys: &str) -> String {
        self.text("", "exec sleep 1000", keys)
    }

    fn written(&self) -> u32 {
        read_pid(&self.pid_file()).unwrap()
    }
}

fn read_pid(path: &Path) -> Option<u32> {
    fs::read_to_string(path)
        .ok()?
        .strip_suffix('\n')?
        .parse()
        .ok()
}

/// `false`: there are no cgroups that an agent may use, which such a service needs.
fn has_cgroups(agent: &Agent, test: &str) -> bool {
    let log = agent.log();
    let has = !log.contains("without cgroups");
    if !has {
        skip(test, "there are no cgroups to use");
    }
    has
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_process_that_is_left_is_the_service() {
    needs_root!("the_process_that_is_left_is_the_service");
    let web = Service::new();
    let agent = Agent::start(&[("web", &web.sleeping("autostart = false"))]);
    if !has_cgroups(&agent, "the_process_that_is_left_is_the_service") {
        return;
    }
    agent.must("start", "web");
    // It was known before the answer came.
    let status = agent.status("web");
    assert_eq!(status["state"], "running");
    let pid = pid_of(&status);
    assert_eq!(pid, web.written());
    assert_eq!(agent.assert_single("web"), pid);
    // It is no child of the program that was started, which is gone: how it ends is known all the same.
    signal_to(pid, Signal::SIGKILL);
    let next = agent.replaced("web", pid);
    assert_eq!(next, web.written());
    let exit = &agent.status("web")["last_exit"];
    assert_eq!(exit["signal"], "SIGKILL");
    assert_eq!(
        exit["sender"]["pid"].as_u64(),
        Some(u64::from(std::process::id()))
    );
    agent.must("restart", "web");
    assert_ne!(agent.assert_single("web"), next);
    agent.must("stop", "web");
    assert!(agent.live("web").is_empty());
    assert_eq!(agent.count("web", "started"), 3);
    assert_eq!(agent.count("web", "exited"), 3);
}

#[test]
fn its_exit_status_is_known_under_the_next_agent_too() {
    needs_root!("its_exit_status_is_known_under_the_next_agent_too");
    let web = Service::new();
    let end = web.dir.path().join("end");
    let daemon = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; exit 7",
        end.display()
    );
    let text = web.text("", &daemon, "restart = \"no\"");
    let mut agent = Agent::start(&[("web", &text)]);
    if !has_cgroups(&agent, "its_exit_status_is_known_under_the_next_agent_too") {
        return;
    }
    let pid = agent.running("web");
    agent.kill();
    agent.start_again();
    assert_eq!(agent.running("web"), pid);
    fs::write(&end, "").unwrap();
    let status = agent.wait_state("web", "failed");
    assert_eq!(status["last_exit"]["code"], 7, "{status}");
    fs::remove_file(&end).unwrap();
    agent.must("start", "web");
    fs::write(&end, "").unwrap();
    let status = agent.wait_state("web", "failed");
    assert_eq!(status["last_exit"]["code"], 7, "{status}");
}

#[test]
fn a_launch_that_fails_says_why_and_leaves_nothing() {
    needs_root!("a_launch_that_fails_says_why_and_leaves_nothing");
    let of_init = "echo 1 > FILE; setsid sleep 1000 &";
    let of_nobody = "setsid sleep 1000 &";
    let of_another = "echo PID > FILE; setsid sleep 1000 &";
    let link_to_another = "echo PID > FILE.real; ln -sf FILE.real FILE; setsid sleep 1000 &";
    let link_to_device = "ln -sf /dev/zero FILE; setsid sleep 1000 &";
    let link_to_nothing = "ln -sf FILE.none FILE; setsid sleep 1000 &";
    let cases = [
        ("exit 3", "/bin/sh exited with 3"),
        ("kill -KILL $$", "/bin/sh killed by SIGKILL"),
        ("exit 0", "exited with 0 and left no process behind"),
        (of_nobody, "FILE (pid_file): No such file or directory"),
        (of_init, "its first line is not a pid"),
        (of_another, "which is not a process of this service"),
        ("exec sleep 1000", "its command has not ended"),
        (link_to_another, "which is not a process of this service"),
        (link_to_device, "not a file"),
        (
            link_to_nothing,
            "FILE (pid_file): No such file or directory",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let services: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(number, (script, _))| {
            let file = dir.path().join(format!("{number}.pid"));
            let script = script
                .replace("FILE", &file.to_string_lossy())
                .replace("PID", &std::process::id().to_string());
            let text = format!(
                "type = \"forking\"\npid_file = {}\ncommand = {}\nautostart = false\n\
                 restart = \"no\"\nstart_timeout = \"1s\"",
                json!(file),
                json!(["/bin/sh", "-c", script])
            );
            (format!("s{number}"), text)
        })
        .collect();
    let services: Vec<_> = services.iter().map(|(a, b)| (&**a, &**b)).collect();
    let agent = Agent::start(&services);
    if !has_cgroups(&agent, "a_launch_that_fails_says_why_and_leaves_nothing") {
        return;
    }
    for (number, (script, expected)) in cases.iter().enumerate() {
        let name = format!("s{number}");
        let file = dir.path().join(format!("{number}.pid"));
        let expected = expected.replace("FILE", &file.to_string_lossy());
        let output = agent.run(&["start", &name]);
        assert_eq!(output.status.code(), Some(1), "{script}");
        let said = stderr(&output);
        assert!(said.contains(&expected), "{script}: {said}");
        assert_eq!(agent.wait_state(&name, "failed")["pid"], json!(null));
        assert!(agent.live(&name).is_empty(), "{script}");
    }
    // What a link leads to is read, and never removed.
    let real = dir.path().join("7.pid.real");
    agent.run(&["start", "s7"]);
    assert_eq!(read_pid(&real), Some(std::process::id()));
}

#[test]
fn a_launch_that_fails_tells_its_last_output() {
    needs_root!("a_launch_that_fails_tells_its_last_output");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::write(&out, "of an earlier run\n").unwrap();
    let text = format!(
        "type = \"forking\"\ncommand = {}\nautostart = false\nrestart = \"no\"\nstdout = {}\n\
         last_output = \"1KiB\"",
        json!(["/bin/sh", "-c", "echo cannot bind >&2; exit 3"]),
        json!(out)
    );
    let web = Service::new();
    let slow = web.text(
        "sleep 1000",
        "exec sleep 1000",
        "before_start = [[\"/bin/true\"]]",
    );
    let agent = Agent::start(&[("web", &text), ("slow", &slow)]);
    if !has_cgroups(&agent, "a_launch_that_fails_tells_its_last_output") {
        return;
    }
    let said = stderr(&agent.run(&["start", "web"]));
    assert!(
        said.contains("/bin/sh exited with 3; its last output: cannot bind"),
        "{said}"
    );
    assert!(!said.contains("earlier"), "{said}");
    eventually("its command runs", || {
        let status = agent.status("slow");
        (!agent.live("slow").is_empty() && status["step"] == json!(null)).then_some(())
    });
    agent.must("stop", "slow");
}

#[test]
fn a_launch_is_given_up_when_it_is_stopped() {
    needs_root!("a_launch_is_given_up_when_it_is_stopped");
    let web = Service::new();
    let text = web.text("sleep 1000", "exec sleep 1000", "");
    let agent = Agent::start(&[("web", &text)]);
    if !has_cgroups(&agent, "a_launch_is_given_up_when_it_is_stopped") {
        return;
    }
    agent.wait_state("web", "starting");
    eventually("its command runs", || {
        (!agent.live("web").is_empty()).then_some(())
    });
    agent.must("stop", "web");
    assert_eq!(agent.status("web")["state"], "stopped");
    assert!(agent.live("web").is_empty());
    // A changed file replaces a launch that would go on for long.
    let output = agent.command(&["start", "web"]).spawn();
    agent.wait_state("web", "starting");
    agent.write_service("web", &web.sleeping(""));
    assert!(agent.run(&["reload"]).status.success());
    output.unwrap().wait().unwrap();
    assert_eq!(agent.assert_single("web"), web.written());
}

#[test]
fn what_requires_it_waits_for_its_pid_file() {
    needs_root!("what_requires_it_waits_for_its_pid_file");
    let web = Service::new();
    let go = web.dir.path().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.01; done", go.display());
    let text = web.text(&wait, "exec sleep 1000", "");
    let app = sleeping("requires = [\"web\"]");
    let agent = Agent::start(&[("web", &text), ("app", &app)]);
    if !has_cgroups(&agent, "what_requires_it_waits_for_its_pid_file") {
        return;
    }
    let status = agent.wait_state("app", "waiting");
    assert_eq!(status["waits_for"], json!(["web"]), "{status}");
    assert_eq!(agent.status("web")["state"], "starting");
    fs::write(&go, "").unwrap();
    agent.running("app");
    assert_eq!(agent.status("web")["state"], "running");
}

#[test]
fn agents_may_die_at_any_moment_of_a_launch() {
    needs_root!("agents_may_die_at_any_moment_of_a_launch");
    let web = Service::new();
    let keys = "restart_delay = \"0s\"";
    // The launcher takes a moment, and has a child meanwhile.
    let text = web.text("(sleep 0.01)", "exec sleep 1000", keys);
    let mut agent = Agent::start(&[("web", &text)]);
    if !has_cgroups(&agent, "agents_may_die_at_any_moment_of_a_launch") {
        return;
    }
    for round in 0..40 {
        let pid = agent.running("web");
        // More than 20 ends within a second would be a storm, and delay its starts.
        std::thread::sleep(std::time::Duration::from_millis(60));
        signal_to(pid, Signal::SIGKILL);
        // From at once to after the whole of it.
        std::thread::sleep(std::time::Duration::from_millis(round * 2));
        agent.kill();
        agent.start_again();
        let next = agent.replaced("web", pid);
        assert_eq!(next, web.written());
        assert_eq!(agent.assert_single("web"), next, "round {round}");
        assert!(!is_alive(pid));
    }
    let adopted = agent.count("web", "adopted");
    println!("40 agents killed in launches, {adopted} of them when it had been done");
    assert_eq!(agent.count("web", "exited"), 40);
}

#[test]
fn a_file_that_cannot_mean_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let services = dir.path().join("services");
    fs::create_dir(&services).unwrap();
    let forking = "command = [\"/bin/true\"]\ntype = \"forking\"\n";
    for (text, expected) in [
        (
            "command = [\"/bin/true\"]\npid_file = \"/run/x.pid\"".to_owned(),
            "pid_file: this only has a meaning for type = \"forking\"",
        ),
        (
            format!("{forking}pid_file = \"x.pid\""),
            "expected an absolute path",
        ),
        (
            format!("{forking}pid_file = \"/run/x.pid\"\nready = {{ notify = true }}"),
            "ready: this needs a program that stays in the foreground",
        ),
        (
            format!("{forking}pid_file = \"/run/x.pid\"\nwatchdog = \"1s\""),
            "watchdog: this needs a program that stays in the foreground",
        ),
        (
            format!("{forking}pid_file = \"/run/x.pid\"\nlisten = [{{ tcp = \"127.0.0.1:1\" }}]"),
            "listen: this needs a program that stays in the foreground",
        ),
    ] {
        fs::write(services.join("web.toml"), &text).unwrap();
        let mut command = respawn();
        let output = command.arg("check").arg(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let said = stderr(&output);
        assert!(said.contains(expected), "{text}: {said}");
    }
}

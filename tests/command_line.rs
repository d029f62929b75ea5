//! What the command line understands, and what it shows: to a person, and to a program.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::tools::{NOT_HERE, tool};
use support::{
    Agent, Lines, Watch, eventually, is_alive, needs_root, readable_by_all, respawn, shell,
    signal_to, skip, sleeping, unprivileged,
};

/// Runs a command to its end; it must not panic.
fn run(command: &mut Command) -> (Output, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output, stderr)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A name that turns a line round, colours it, hides in it, and is a process's in full.
const HOSTILE: &str = "x\u{202e}\u{9b}m\u{200b}y";

/// The same as it is shown.
const SHOWN: &str = r"x\u{202e}\u{9b}m\u{200b}y";

/// A copy of a program with that name, in a folder that goes with the first value.
fn named(program: &str, name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join(name);
    let found = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
    let original = found.iter().find(|path| path.exists()).unwrap();
    fs::copy(original, &copy).unwrap();
    (folder, copy)
}

/// Nothing in a text that a terminal obeys, turns round or does not show.
fn assert_harmless(what: &str, text: &str) {
    let harmless = |c: char| {
        c == '\n'
            || !c.is_control()
                && !('\u{200b}'..='\u{200f}').contains(&c)
                && !('\u{202a}'..='\u{202e}').contains(&c)
    };
    assert!(text.chars().all(harmless), "{what}: {text:?}");
}

#[test]
fn check_looks_at_the_service_files_of_the_directory_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let services = dir.path().join("services");
    fs::create_dir(&services).unwrap();
    let check = |path: &Path| run(respawn().arg("check").arg(path));
    let (output, stderr) = check(&services);
    let expected = format!(
        "0 services ok: no *.toml file is in {}\n",
        services.display()
    );
    assert_eq!((stdout(&output), stderr.as_str()), (expected, ""));
    fs::write(services.join("web.toml"), "command = [\"/bin/sh\"]").unwrap();
    for path in [dir.path(), services.as_path()] {
        let (output, stderr) = check(path);
        assert_eq!(
            (stdout(&output).as_str(), stderr.as_str()),
            ("1 service ok: web\n", "")
        );
    }
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&services, &elsewhere).unwrap();
    assert_eq!(stdout(&check(&elsewhere).0), "1 service ok: web\n");
    fs::write(elsewhere.join("bad.toml"), "comand = 1").unwrap();
    let (output, stderr) = check(&elsewhere);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("bad.toml:1:1"), "{stderr}");
    // Beside the directory of services nothing is read, which is said.
    fs::create_dir(&services).unwrap();
    fs::rename(elsewhere.join("web.toml"), dir.path().join("web.toml")).unwrap();
    let (_, stderr) = check(dir.path());
    assert!(stderr.contains("web.toml: is not read"), "{stderr}");
}

#[test]
fn check_warns_of_what_is_probably_not_meant() {
    let dir = tempfile::tempdir().unwrap();
    let (script, file) = (dir.path().join("windows"), dir.path().join("web.toml"));
    fs::write(&script, "#!/bin/sh\r\nexec sleep 1000\r\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let command = format!("command = [{}]", json!(script));
    fs::write(&file, format!("{command}\nstop_timeout = \"0s\"")).unwrap();
    let (output, stderr) = run(respawn().arg("check").arg(&file));
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr.contains("carriage return"), "{stderr}");
    assert!(stderr.contains("stop_timeout: SIGKILL follows"), "{stderr}");
    fs::write(
        &file,
        format!("{command}\nstop_timeout = \"infinity\"\nhook_timeout = \"infinity\""),
    )
    .unwrap();
    let (_, stderr) = run(respawn().arg("check").arg(&file));
    assert!(!stderr.contains("timeout"), "{stderr}");
    // It fails at its start, and that says why.
    let agent = Agent::start(&[("windows", &format!("{command}\nrestart_delay = \"1h\""))]);
    agent.wait_state("windows", "backoff");
    let (output, stderr) = run(&mut agent.command(&["start", "windows"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("carriage return"), "{stderr}");
    assert!(stderr.contains(r#""/bin/sh\r""#), "{stderr}");
}

#[test]
fn a_limit_above_the_hard_limit_is_lowered_to_it() {
    let test = "a_limit_above_the_hard_limit_is_lowered_to_it";
    needs_root!(test);
    // Without the right to raise limits, as in most containers.
    let Some(setpriv) = ["/usr/bin/setpriv", "/bin/setpriv"]
        .into_iter()
        .find(|it| Path::new(it).exists())
    else {
        return skip(test, "no setpriv, with which a right is taken away");
    };
    let words = [
        setpriv,
        "--bounding-set=-sys_resource",
        "--inh-caps=-sys_resource",
        "/bin/sh",
        "-c",
        "ulimit -n 4096 && exec \"$@\"",
        "sh",
    ];
    let setup = support::Setup {
        wrapper: words.map(str::to_owned).to_vec(),
        ..support::Setup::default()
    };
    let text = sleeping("limits = { nofile = 65536, nproc = [10, 20], core = \"unlimited\" }");
    let agent = Agent::with(&setup, &[("db", &text)]);
    let pid = agent.running("db");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let of = |name: &str| {
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(of("Max open files"), "4096 4096");
    assert_eq!(of("Max processes"), "10 20");
    assert!(
        agent.log().contains("the limit NOFILE of 65536 is above"),
        "{}",
        agent.log()
    );
}

#[test]
fn what_would_deceive_a_reader_is_visible_everywhere() {
    let (_folder, program) = named("sleep", HOSTILE);
    let missing = program.with_file_name(format!("{HOSTILE}z"));
    let command = |path: &Path| format!("command = [{}, \"1000\"]", json!(path));
    let gone = format!("{}\nrestart_delay = \"1h\"", command(&missing));
    let agent = Agent::start(&[("evil", &command(&program)), ("gone", &gone)]);
    let pid = agent.running("evil");
    let mut watch = Watch::start(&["--pid", &pid.to_string()]);
    signal_to(pid, Signal::SIGKILL);
    agent.replaced("evil", pid);
    let by_watch = watch.exit_of(pid);
    for (arguments, is_shown) in [
        (&["status"][..], true),
        (&["events"], true),
        (&["why", "evil"], true),
        (&["start", "gone"], true),
        (&["check"], true),
    ] {
        let (output, stderr) = run(&mut agent.command(arguments));
        let text = stdout(&output) + &stderr;
        assert_harmless(&arguments.join(" "), &text);
        assert_eq!(text.contains(SHOWN), is_shown, "{arguments:?}: {text}");
    }
    // JSON has it as it is, with nothing in it that a terminal obeys.
    for arguments in [
        &["status", "--json"][..],
        &["events", "--json"],
        &["why", "evil", "--json"],
        &["start", "gone", "--json"],
        &["check", "--json"],
    ] {
        let text = stdout(&run(&mut agent.command(arguments)).0);
        let controls = text.chars().filter(|c| c.is_control() && *c != '\n');
        assert_eq!(controls.count(), 0, "{arguments:?}: {text:?}");
        let values: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        // A message of `check` quotes a path as it is shown.
        let has_name = json!(values).to_string().contains(HOSTILE);
        assert_eq!(has_name, arguments[0] != "check", "{arguments:?}");
    }
    if nix::unistd::geteuid().is_root() {
        assert_eq!(by_watch["comm"], HOSTILE);
    }
}

#[test]
fn an_error_shows_what_it_quotes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(HOSTILE);
    let path = path.to_str().unwrap();
    let good = folder.path().join("good");
    fs::create_dir(&good).unwrap();
    let service = good.join(format!("{HOSTILE}.toml"));
    fs::write(&service, format!("\"{HOSTILE}\" = \"{HOSTILE}\"")).unwrap();
    let service = service.to_str().unwrap();
    for arguments in [
        &["check", path][..],
        &["check", service],
        &["--runtime-dir", path, "status"],
        &["--runtime-dir", path, "events"],
        &["--runtime-dir", path, "why", HOSTILE],
        &["man", "--dir", service],
        &[HOSTILE],
        &["signal", HOSTILE, "web"],
        &["help", HOSTILE],
    ] {
        let (output, stderr) = run(respawn().args(arguments));
        assert!(!output.status.success(), "{arguments:?}");
        assert!(stderr.contains(SHOWN), "{arguments:?}: {stderr}");
        assert_harmless("an error", &stderr);
    }
}

#[test]
fn lines_of_watch_that_are_kept_have_date_zone_and_header() {
    needs_root!("lines_of_watch_that_are_kept_have_date_zone_and_header");
    let (_folder, program) = named("sleep", "日本");
    let mut child = Command::new(program).arg("1000").spawn().unwrap();
    let pid = child.id().to_string();
    let mut watch = respawn()
        .env("TZ", "UTC-5:30")
        .args(["watch", "--pid", &pid])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = Lines::of(watch.stderr.take().unwrap());
    while !errors.next().unwrap().contains("watching ") {}
    child.kill().unwrap();
    child.wait().unwrap();
    let text = stdout(&watch.wait_with_output().unwrap());
    let [header, line] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    let (time, rest) = line.split_once("  ").unwrap();
    let is_digit = |c: char| if c.is_ascii_digit() { '9' } else { c };
    let shape: String = time.chars().map(is_digit).collect();
    assert_eq!(shape, "9999-99-99 99:99:99.999+99:99");
    assert!(time.ends_with("+05:30"), "{time}");
    assert!(rest.contains("日本"), "{line}");
    // Each of the two takes two columns.
    let column = line.find("killed").unwrap() - "日本".len() + 4;
    assert_eq!(header.find("CAUSE"), Some(column), "{text}");
}

#[test]
fn help_and_usage_are_the_same_in_every_environment() {
    let mut variables = vec![("RESPAWN_LOG".to_owned(), "info")];
    for name in ["RUNTIME_DIR", "PIN_DIR", "BTF", "CONFIG"] {
        variables.push((format!("RESPAWN_{name}"), "/somewhere"));
    }
    for arguments in [
        &["--help"][..],
        &["start"],
        &["start", "--help"],
        &["stop", "--dance"],
        &["agent", "--help"],
        &["check", "a", "b"],
        &["signal", "HUP"],
        &["watch"],
        &["help", "check"],
        &["help", "dance"],
        &["man", "agent"],
    ] {
        let (plain, said) = run(respawn().args(arguments));
        let mut command = respawn();
        command.args(arguments).envs(variables.clone());
        let (set, said_then) = run(&mut command);
        assert_eq!(said, said_then, "{arguments:?}");
        assert_eq!(stdout(&plain), stdout(&set), "{arguments:?}");
        assert_eq!(plain.status.code(), set.status.code(), "{arguments:?}");
    }
    // What is set is taken, and a wrong value is an error.
    let (output, said) = run(respawn()
        .args(["check", "--json"])
        .env("RESPAWN_CONFIG", "/nowhere"));
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("/nowhere"), "{said}");
    let (output, said) = run(respawn().arg("agent").env("RESPAWN_RING_BYTES", "5"));
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("power of two"), "{said}");
}

#[test]
fn help_and_version_are_commands() {
    let (by_option, _) = run(respawn().args(["watch", "--help"]));
    let (by_command, _) = run(respawn().args(["help", "watch"]));
    assert!(stdout(&by_command).contains("Usage: respawn watch "));
    let options = |output: &Output| {
        let text = stdout(output);
        text.split_once("Options:").unwrap().1.to_owned()
    };
    assert_eq!(options(&by_option), options(&by_command));
    let (output, _) = run(respawn().arg("help"));
    assert!(output.status.success());
    assert!(stdout(&output).contains("Usage: respawn [OPTIONS] <COMMAND>"));
    let (output, said) = run(respawn().args(["help", "dance"]));
    assert_eq!(output.status.code(), Some(2), "{said}");
    let (by_command, _) = run(respawn().arg("version"));
    let (by_option, _) = run(respawn().arg("--version"));
    assert_eq!(stdout(&by_command), stdout(&by_option));
    let (output, _) = run(respawn().args(["version", "--json"]));
    let version: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = format!("respawn {}\n", version["version"].as_str().unwrap());
    assert_eq!(stdout(&by_command), text);
}

#[test]
fn patterns_and_all_mean_the_services_that_there_are() {
    let agent = Agent::start(&[
        ("db", &sleeping("")),
        ("web-1", &sleeping("")),
        ("web-2", &sleeping("")),
    ]);
    let names = ["db", "web-1", "web-2"];
    let pids = || names.map(|name| agent.assert_single(name));
    let before = pids();
    let status = |arguments: &[&str]| {
        let (output, said) = run(&mut agent.command(arguments));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        stdout(&output)
    };
    status(&["restart", "web-*"]);
    let after = pids();
    assert_eq!(before[0], after[0]);
    assert!(before[1] != after[1] && before[2] != after[2]);
    status(&["stop", "web-[2-9]", "web-2"]);
    assert_eq!(agent.status("web-2")["state"], "stopped");
    assert_eq!(agent.status("web-1")["state"], "running");
    status(&["stop", "--all"]);
    assert_eq!(agent.live_all(), [0; 0]);
    let answer = status(&["start", "--all", "--json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let started: Vec<&Value> = answer["results"].as_array().unwrap().iter().collect();
    let started: Vec<&str> = started
        .iter()
        .map(|it| it["service"].as_str().unwrap())
        .collect();
    assert_eq!(started, names);
    let before = pids();
    status(&["restart", "--all"]);
    assert!(before.iter().zip(pids()).all(|(old, new)| *old != new));
    let shown = status(&["status", "web-?"]);
    assert!(shown.contains("web-1") && shown.contains("web-2") && !shown.contains("db"));
    // A pattern that matches nothing does nothing, and what cannot be read is wrong usage.
    let before = pids();
    for (arguments, code, named) in [
        (&["restart", "db", "x*"][..], 1, "no service matches \"x*\""),
        (&["status", "x*"], 1, "no service matches"),
        (&["stop", "web["], 2, "at character"),
    ] {
        let (output, said) = run(&mut agent.command(arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
    assert_eq!(before, pids());
}

#[test]
fn a_signal_is_given_as_to_kill_and_to_several() {
    let agent = Agent::start(&[("a", &sleeping("")), ("b", &sleeping(""))]);
    let pids = || [agent.running("a"), agent.running("b")];
    for (arguments, signal, both) in [
        (&["signal", "-9", "a"][..], "SIGKILL", false),
        (&["signal", "-TERM", "a", "--json"], "SIGTERM", false),
        (&["signal", "--json", "-SIGKILL", "a", "b"], "SIGKILL", true),
        (&["signal", "SIGRTMIN+2", "--all"], "SIGRTMIN+2", true),
        (&["signal", "15", "?"], "SIGTERM", true),
    ] {
        let before = pids();
        let (output, said) = run(&mut agent.command(arguments));
        assert!(output.status.success(), "{arguments:?}: {said}");
        agent.replaced("a", before[0]);
        let exited = |service: &str| {
            let events = agent.events_of(service);
            let last = events.iter().rfind(|event| event["event"] == "exited");
            last.map(|event| event["cause"]["signal"].clone())
        };
        assert_eq!(exited("a"), Some(json!(signal)), "{arguments:?}");
        if both {
            agent.replaced("b", before[1]);
            assert_eq!(exited("b"), Some(json!(signal)), "{arguments:?}");
        } else {
            assert_eq!(before[1], agent.running("b"));
        }
    }
    let (output, said) = run(&mut agent.command(&["signal", "-HUP", "a", "nothing"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("nothing: no service has this name"), "{said}");
}

#[test]
fn events_are_of_services_and_so_many() {
    let agent = Agent::start(&[
        ("a", &sleeping("")),
        ("b", &sleeping("")),
        ("off", &sleeping("")),
    ]);
    for name in ["a", "b"] {
        let pid = agent.running(name);
        signal_to(pid, Signal::SIGKILL);
        agent.replaced(name, pid);
    }
    let seen = |arguments: &[&str]| -> Vec<(String, String)> {
        let (output, said) = run(agent.command(arguments).arg("--json"));
        assert!(
            output.status.success() && said.is_empty(),
            "{arguments:?}: {said}"
        );
        let text = stdout(&output);
        let event = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let events = text.lines().map(event);
        events
            .map(|it| (word(&it["service"]), word(&it["event"])))
            .collect()
    };
    let of_a = seen(&["events", "a"]);
    assert_eq!(of_a, seen(&["events", "--service", "a"]));
    assert!(of_a.iter().all(|(service, _)| service == "a"));
    assert_eq!(of_a.len(), 3);
    assert_eq!(seen(&["events", "a", "b"]), seen(&["events", "[ab]"]));
    assert_eq!(seen(&["events", "a", "-n", "2"]), of_a[1..]);
    assert_eq!(seen(&["events", "a", "-n", "1000000"]), of_a);
    assert_eq!(seen(&["events", "-n", "0"]), []);
    let (output, said) = run(&mut agent.command(&["events", "a", "nothing", "x*"]));
    assert_eq!(output.status.code(), Some(1), "{said}");
    let unknown = |name: &str| {
        format!("respawn: the journal has no event of {name}, and no agent knows such a service\n")
    };
    assert_eq!(said, unknown("nothing") + &unknown("x*"));
    assert_eq!(stdout(&output).lines().count(), 3);
}

#[test]
fn a_shell_is_offered_services_and_signals() {
    let agent = Agent::start(&[
        ("web-1", &sleeping("")),
        ("web-2", &sleeping("")),
        ("db", &sleeping("")),
    ]);
    let binary = respawn();
    let binary = Path::new(binary.get_program());
    if binary.file_name() != Some(OsStr::new("respawn")) {
        return skip(
            "a_shell_is_offered_services_and_signals",
            "the binary has another name",
        );
    }
    let offered = |line: &str| -> Vec<String> {
        let script = "source <(respawn completions bash)
            COMP_WORDS=($LINE) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
            _clap_complete_respawn respawn \"${COMP_WORDS[COMP_CWORD]}\" ''
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        let path = std::env::var("PATH").unwrap();
        let mut command = agent.command(&[]);
        let environment: Vec<_> = command
            .get_envs()
            .map(|(key, value)| (key.to_owned(), value.unwrap().to_owned()))
            .collect();
        command = Command::new("bash");
        command
            .args(["--norc", "-c", script])
            .envs(environment)
            .env("LINE", line)
            .env(
                "PATH",
                format!("{}:{path}", binary.parent().unwrap().display()),
            );
        let (output, said) = run(&mut command);
        assert_eq!(said, "", "{line}");
        stdout(&output)
            .lines()
            .map(|word| word.trim().to_owned())
            .collect()
    };
    assert_eq!(offered("respawn stop we"), ["web-1", "web-2"]);
    assert_eq!(offered("respawn signal SIGHU"), ["SIGHUP"]);
    assert_eq!(offered("respawn signal HUP d"), ["db"]);
    assert_eq!(offered("respawn events d"), ["db"]);
    assert_eq!(offered("respawn why web-1"), ["web-1"]);
    assert_eq!(offered("respawn restar"), ["restart"]);
    assert_eq!(offered("respawn watch --live"), [""]);
    assert_eq!(
        offered("respawn status --runtime-dir /nonexistent d"),
        ["db"]
    );
}

#[test]
fn who_has_no_right_is_told_what_to_join() {
    const NAME: &str = "who_has_no_right_is_told_what_to_join";
    /// On every Linux.
    const DAEMON: u32 = 1;
    needs_root!(NAME);
    let Some((_folder, copy)) = readable_by_all(&respawn()) else {
        return skip(NAME, "no place that any user may run a program from");
    };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dir.path().join("config")).unwrap();
    let settings = dir.path().join("config/agent.toml");
    let mut agent = Agent::within(dir, &support::Setup::default(), &[("a", &sleeping(""))]);
    let refused = |agent: &Agent, arguments: &[&str]| {
        let mut command = Command::new(&copy);
        command
            .args(arguments)
            .env("RESPAWN_RUNTIME_DIR", agent.runtime_dir());
        let (output, said) = run(unprivileged(&mut command));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(!said.contains("os error"), "{arguments:?}: {said}");
        said
    };
    let commands = [&["status"][..], &["stop", "a"], &["events"], &["why", "a"]];
    for arguments in commands {
        let said = refused(&agent, arguments);
        let advice = "for root only; you are uid 65534: run this as root, or have access_group \
                      in agent.toml name a group that you are in\n";
        assert!(said.ends_with(advice), "{arguments:?}: {said}");
    }
    fs::write(settings, "access_group = \"daemon\"").unwrap();
    assert!(agent.run(&["reload"]).status.success());
    for arguments in commands {
        let said = refused(&agent, arguments);
        let advice = "for root and the members of group daemon; you are uid 65534: join that \
                      group (usermod -aG daemon NAME) and log in again, or run this as root\n";
        assert!(said.ends_with(advice), "{arguments:?}: {said}");
    }
    // A member of the group may steer, and not read what only root may.
    let mut command = Command::new(&copy);
    let command = command.args(["show", "a", "--json"]);
    let command = command.env("RESPAWN_RUNTIME_DIR", agent.runtime_dir());
    let (output, said) = run(command.uid(65534).gid(DAEMON));
    assert!(output.status.success(), "{said}");
    let own = agent.run(&["show", "a", "--json"]);
    for (output, hidden) in [(output, true), (own, false)] {
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut settings = shown[0]["settings"].as_array().unwrap().iter();
        let environment = settings.find(|setting| setting["key"] == "environment");
        let environment = environment.unwrap();
        assert_eq!(environment["hidden"], hidden);
        assert_eq!(environment["value"].is_null(), hidden);
    }
    let closed = Permissions::from_mode(0o700);
    fs::set_permissions(agent.dir(), closed).unwrap();
    let said = refused(&agent, &["status"]);
    assert!(
        said.contains("members of its access_group; you are uid 65534"),
        "{said}"
    );
    agent.kill();
}

#[test]
fn a_request_whose_agent_ends_has_one_answer() {
    let slow = shell(
        "trap '' TERM; sleep 1000; sleep 1000",
        "stop_timeout = \"1h\"",
    );
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        for command in [&["stop", "slow"][..], &["restart", "slow"]] {
            let mut agent = Agent::start(&[("slow", &slow)]);
            agent.stubborn("slow");
            let mut asking = agent.command(command);
            let asking = asking.stdout(Stdio::null()).stderr(Stdio::piped());
            let asking: Child = asking.spawn().unwrap();
            agent.wait_state("slow", "stopping");
            let pid = agent.pid();
            agent.signal(signal);
            agent.wait();
            let output = asking.wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(
                output.status.code(),
                Some(1),
                "{signal} {command:?}: {said}"
            );
            let told = format!(
                "respawn: the agent (pid {pid}) ended before it answered, so whether it was done \
                 is not known; `respawn status` shows how the services are, `respawn events` what \
                 was done\n"
            );
            assert_eq!(said, told, "{signal} {command:?}");
        }
    }
}

/// Starts an agent by hand on a terminal.
fn on_terminal(agent: &Agent) -> (Child, File) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = agent.command(&["agent"]);
    let child = command
        .stdout(Stdio::null())
        .stderr(pty.slave)
        .spawn()
        .unwrap();
    (child, File::from(pty.master))
}

/// What has come from a terminal once it has these words.
fn read_until(terminal: &mut File, words: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&text).contains(words) {
        match terminal.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            // The other end is closed.
            _ => break,
        }
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(words), "{text}");
    text
}

#[test]
fn an_agent_on_a_terminal_says_what_it_does() {
    let mut agent = Agent::start(&[("a", &sleeping("")), ("b", &sleeping(""))]);
    let (mut spare, mut terminal) = on_terminal(&agent);
    let told = format!(
        "respawn: spare of pid {}: another agent works in ",
        agent.pid()
    );
    read_until(&mut terminal, &told);
    read_until(
        &mut terminal,
        "this one is its spare, and waits for its end",
    );
    let pid = agent.running("a");
    agent.kill();
    let told = format!("respawn: agent started, pid {}: 2 services of ", spare.id());
    read_until(&mut terminal, &told);
    eventually("the spare answers", || {
        agent.run(&["status"]).status.success().then_some(())
    });
    signal_to(spare.id(), Signal::SIGINT);
    assert!(spare.wait().unwrap().success());
    read_until(&mut terminal, "the agent ends; its services keep running");
    assert!(is_alive(pid));
    // Not on a terminal nothing of it is said.
    agent.start_again();
    assert!(
        !agent.log().contains("respawn: agent started"),
        "{}",
        agent.log()
    );
}

#[test]
fn a_shutdown_leaves_nothing_in_the_pin_directory() {
    needs_root!("a_shutdown_leaves_nothing_in_the_pin_directory");
    for sight in support::SIGHTS {
        let mut agent = Agent::seeing(sight, &[("a", &sleeping(""))]);
        agent.running("a");
        let command = agent.command(&[]);
        let mut variables = command.get_envs();
        let pin_dir = variables.find_map(|(key, value)| {
            (key == "RESPAWN_PIN_DIR").then(|| PathBuf::from(value.unwrap()))
        });
        let pin_dir = pin_dir.unwrap();
        assert_eq!(pin_dir.exists(), sight == support::Sight::Best);
        assert!(agent.run(&["shutdown"]).status.success());
        assert!(agent.wait().success());
        assert!(!pin_dir.exists(), "{}", pin_dir.display());
    }
}

#[test]
fn manual_pages_fit_a_terminal_of_80_columns() {
    let test = "manual_pages_fit_a_terminal_of_80_columns";
    let Some(mut groff) = tool("groff-base", "groff") else {
        return skip(test, &format!("groff: {NOT_HERE}"));
    };
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man8");
    let written = respawn().args(["man", "--dir"]).arg(&pages).output();
    assert!(written.unwrap().status.success());
    // What man(1) does, with all of groff's warnings.
    groff.args([
        "-K", "utf8", "-man", "-T", "utf8", "-P-c", "-ww", "-rLL=80n",
    ]);
    let mut files = Vec::new();
    for section in ["man8", "man5"] {
        let entries = fs::read_dir(dir.path().join(section)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    assert!(files.len() > 30, "{files:?}");
    let shown = groff.args(&files).output().unwrap();
    let warnings = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success() && warnings.is_empty(), "{warnings}");
    let text = String::from_utf8(shown.stdout).unwrap();
    for line in text.lines() {
        // A bold character is one, a backspace, and the same again.
        let columns = line.chars().count() - 2 * line.matches('\u{8}').count();
        assert!(columns <= 80, "{columns} columns: {line}");
    }
}

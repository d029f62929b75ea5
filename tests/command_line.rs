//! What the command line understands, and what it shows: to a person, and to a program.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Agent, Lines, Watch, needs_root, respawn, signal_to};

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

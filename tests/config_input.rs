//! Whatever a config says, it is used whole or refused with file, line and key; and a refusal
//! touches no service.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::{Agent, respawn, sleeping};

/// Broken files, the line of the first problem, and what its message has to name.
const BROKEN: [(&str, usize, &[&str]); 23] = [
    ("", 0, &["command"]),
    ("command = [", 1, &[]),
    ("command = []", 1, &["command", "array of words"]),
    ("command = \"sleep 1000\"", 1, &["command", "/bin/sh"]),
    ("command = [\"sleep\", 1000]", 1, &["command[1]", "string"]),
    ("command = [\"\"]", 1, &["command[0]"]),
    (
        "command = [\"./sleep\"]",
        1,
        &["command[0]", "absolute path"],
    ),
    (
        "command = [\"no-such-program\"]",
        1,
        &["no-such-program", "PATH"],
    ),
    (
        "command = [\"sleep\"]\n\nstop_timout = \"3s\"",
        3,
        &["stop_timout", "stop_timeout"],
    ),
    (
        "command = [\"sleep\"]\ncommand = [\"sleep\"]",
        2,
        &["command"],
    ),
    (
        "command = [\"sleep\"]\nstop_timeout = 10",
        2,
        &["stop_timeout", "\"10s\""],
    ),
    (
        "command = [\"sleep\"]\nrestart_delay = \"3 lightyears\"",
        2,
        &["restart_delay"],
    ),
    (
        "command = [\"sleep\"]\nrestart_delay = \"-3s\"",
        2,
        &["restart_delay"],
    ),
    (
        "command = [\"sleep\"]\nrestart = \"sometimes\"",
        2,
        &["restart", "on-failure"],
    ),
    (
        "command = [\"sleep\"]\nstart_limit = { burst = 0, interval = \"1s\" }",
        2,
        &["start_limit.burst"],
    ),
    (
        "command = [\"sleep\"]\nstart_limit = { burst = 3 }",
        2,
        &["start_limit", "interval"],
    ),
    (
        "command = [\"sleep\"]\nstop_signal = \"SIGNONE\"",
        2,
        &["stop_signal", "SIGNONE"],
    ),
    (
        "command = [\"sleep\"]\nuser = \"no-such-user\"",
        2,
        &["user", "no-such-user"],
    ),
    (
        "command = [\"sleep\"]\nsuccess_exit_status = [0, 256]",
        2,
        &["success_exit_status[1]", "255"],
    ),
    (
        "command = [\"sleep\"]\nstdout = \"log/here\"",
        2,
        &["stdout", "absolute path"],
    ),
    ("command = [\"sleep\"]\numask = 27", 2, &["umask", "octal"]),
    ("command = [\"sleep\"]\nnice = 99", 2, &["nice", "19"]),
    (
        "command = [\"sleep\"]\nenvironment = \"A=b\"",
        2,
        &["environment", "table"],
    ),
];

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The agent on a config that it must refuse; it ends by itself.
fn agent_on(dir: &Path) -> Output {
    let mut command = respawn();
    command.arg("agent").arg("--config").arg(dir.join("config"));
    command.arg("--runtime-dir").arg(dir.join("other-run"));
    command.output().unwrap()
}

/// What `reload` on the command line says to it, and that no service is touched.
fn reload_is_refused(agent: &Agent, pid: u32, named: &str) {
    let output = agent.run(&["reload"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(named), "{named}: {text}");
    assert_eq!(agent.assert_single("web"), pid);
}

#[test]
fn a_broken_service_file_is_refused_with_its_place() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    let file = agent.service_file("broken");
    for (text, line, named) in BROKEN {
        fs::write(&file, text).unwrap();
        let config = agent.dir().join("config");
        let place = match line {
            0 => file.display().to_string(),
            line => format!("{}:{line}:", file.display()),
        };
        for path in [&file, &config] {
            let output = agent.run(&["check", path.to_str().unwrap()]);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}: {said}");
            assert!(said.contains(&place), "{text}: {said}");
            for name in named {
                assert!(said.contains(name), "{name} in {text}: {said}");
            }
            assert_eq!(output.stdout, b"");
        }
        reload_is_refused(&agent, pid, &place);
    }
    fs::remove_file(&file).unwrap();
    let output = agent.run(&["check"]);
    assert!(output.status.success());
    assert_eq!(output.stdout, b"1 service ok: web\n");
    assert!(
        !agent
            .events()
            .iter()
            .any(|event| event["event"] == "exited")
    );
}

#[test]
fn all_problems_are_told_in_one_go() {
    let dir = tempfile::tempdir().unwrap();
    let services = dir.path().join("config/services");
    fs::create_dir_all(&services).unwrap();
    fs::write(
        services.join("a.toml"),
        "command = [\"sleep\"]\nnice = 99\numask = 9",
    )
    .unwrap();
    fs::write(services.join("b.toml"), "commando = [\"sleep\"]").unwrap();
    let output = respawn()
        .args(["check", "--json"])
        .arg(dir.path().join("config"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    let problems = answer["problems"].as_array().unwrap();
    let places: Vec<_> = problems
        .iter()
        .map(|problem| {
            let file = problem["file"]
                .as_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap();
            (file, problem["line"].as_u64(), problem["key"].as_str())
        })
        .collect();
    assert!(
        places.contains(&("a.toml", Some(2), Some("nice"))),
        "{places:?}"
    );
    assert!(
        places.contains(&("a.toml", Some(3), Some("umask"))),
        "{places:?}"
    );
    assert!(
        places.contains(&("b.toml", Some(1), Some("commando"))),
        "{places:?}"
    );
}

#[test]
fn a_service_file_that_is_no_file_is_refused_and_not_waited_for() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    let file = agent.service_file("odd");
    let mkfifo = |path: &Path| {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    type Make = dyn Fn(&Path);
    let cases: [(&str, &Make); 5] = [
        ("a FIFO", &mkfifo),
        ("a directory", &|path| fs::create_dir(path).unwrap()),
        ("a device", &|path| {
            std::os::unix::fs::symlink("/dev/zero", path).unwrap()
        }),
        ("a link to nowhere", &|path| {
            std::os::unix::fs::symlink("/no/where", path).unwrap()
        }),
        ("bytes that are no text", &|path| {
            fs::write(path, b"command = [\"\xff\"]").unwrap()
        }),
    ];
    for (what, make) in cases {
        make(&file);
        let place = file.display().to_string();
        let mut outputs = vec![agent.run(&["check"])];
        // A directory by itself is taken for a config directory.
        if what != "a directory" {
            outputs.push(agent.run(&["check", file.to_str().unwrap()]));
        }
        for output in outputs {
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{what}: {said}");
            assert!(said.contains(&place), "{what}: {said}");
        }
        reload_is_refused(&agent, pid, &place);
        let _ = fs::remove_file(&file).or_else(|_| fs::remove_dir(&file));
    }
}

#[test]
fn a_name_that_is_none_is_refused() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    let services = agent.dir().join("config/services");
    let long = "x".repeat(65);
    for name in ["a b", "-a", "a\nb", "ä", long.as_str()] {
        let file = services.join(format!("{name}.toml"));
        fs::write(&file, sleeping("")).unwrap();
        reload_is_refused(&agent, pid, "expected a service name");
        fs::remove_file(&file).unwrap();
    }
    let file = services.join(std::ffi::OsStr::from_bytes(b"\xff.toml"));
    if fs::write(&file, sleeping("")).is_ok() {
        reload_is_refused(&agent, pid, "expected a service name");
    }
}

#[test]
fn a_config_that_is_not_there_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent_on(dir.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("does not exist"), "{said}");
}

//! Whatever comes over the socket, and whoever it comes from: the others are served, and no
//! service is touched.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Agent, Sight, copy_program, needs_root, respawn, skip, sleeping, timed, unprivileged,
};

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Sends bytes on a connection of their own, and returns all that is answered; what is no
/// object closes the connection, and so does its end.
fn send(agent: &Agent, bytes: &[u8]) -> String {
    let mut socket = agent.connect().unwrap();
    // The agent may hang up before it has read all of it.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn garbage_is_refused() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    let deep = format!("{}\n", "[".repeat(60_000));
    let cases: [(&[u8], &str); 14] = [
        (b"GET / HTTP/1.1\r\n\r\n", "expected a JSON object"),
        (b"\0\xff\xfe\x01garbage\n", "expected a JSON object"),
        (b"[]\n", "expected a JSON object"),
        (b"{\"version\":1,\n", "expected a JSON object"),
        (deep.as_bytes(), "expected a JSON object"),
        (b"{}\n", "no version"),
        (b"{\"version\":2,\"command\":\"status\"}\n", "version 2"),
        (b"{\"version\":1}\n", "command"),
        (b"{\"version\":1,\"command\":\"dance\"}\n", "dance"),
        (b"{\"version\":1,\"command\":\"stop\"}\n", "all"),
        (
            b"{\"version\":1,\"command\":\"stop\",\"services\":7}\n",
            "sequence",
        ),
        (
            b"{\"version\":1,\"command\":\"start\",\"services\":[]}\n",
            "no service is named",
        ),
        (
            b"{\"version\":1,\"command\":\"reload\",\"now\":1}\n",
            "unknown field `now`",
        ),
        (
            b"{\"version\":1,\"command\":\"signal\",\"service\":\"web\",\"signal\":\"SIGFOO\"}\n",
            "SIGFOO",
        ),
    ];
    for (bytes, named) in cases {
        let text = send(&agent, bytes);
        let answer: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(answer["ok"], false, "{text}");
        assert_eq!(answer["kind"], "error", "{text}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(named), "{named}: {message}");
    }
    // A connection that has asked for nothing that there is may go on.
    let text = send(
        &agent,
        b"{\"version\":1}\n{\"version\":1,\"command\":\"status\"}\n",
    );
    assert_eq!(text.lines().count(), 2);
    assert_eq!(agent.assert_single("web"), pid);
}

#[test]
fn a_line_of_ten_megabytes_is_refused_and_not_kept() {
    // Without the kernel program, whose loading takes more memory than what follows.
    let agent = Agent::seeing(Sight::PidfdsAlone, &[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    let mut line = vec![b'x'; 10 << 20];
    for newline in [false, true] {
        if newline {
            line.push(b'\n');
        }
        let text = send(&agent, &line);
        // The answer may be lost to the part of the line that nobody has read.
        assert!(text.is_empty() || text.contains("longer than"), "{text}");
        assert_eq!(agent.status("web")["pid"], pid);
    }
    let peak = support::proc_status(agent.pid(), "VmHWM");
    let kib: u64 = peak.split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 20 << 10, "{peak}");
    assert_eq!(agent.assert_single("web"), pid);
}

/// How long `status` takes, in the median of several.
fn time_of_status(agent: &Agent) -> Duration {
    let times = (0..20).map(|_| {
        let (output, time) = timed(|| agent.run(&["status", "web", "--json"]));
        assert!(output.status.success(), "{}", stderr(&output));
        let statuses: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(statuses[0]["state"], "running");
        time
    });
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn two_hundred_idle_connections_hold_nobody_up() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    agent.assert_single("web");
    let alone = time_of_status(&agent);
    let mut idle = Vec::new();
    for number in 0..200 {
        let mut socket = agent.connect().unwrap();
        // Some have said half of something, and some do not read what they are answered.
        match number % 4 {
            0 => socket.write_all(b"{\"version\":1,").unwrap(),
            1 => socket
                .write_all(b"{\"version\":1,\"command\":\"status\"}\n")
                .unwrap(),
            _ => {}
        }
        idle.push(socket);
    }
    let time = time_of_status(&agent);
    assert!(
        time <= 3 * alone + Duration::from_millis(50),
        "{time:?}, and {alone:?} without idle connections"
    );
    agent.must("restart", "web");
    agent.assert_single("web");
    // Nobody was cut off to make room.
    let last = idle.last_mut().unwrap();
    last.write_all(b"{\"version\":1,\"command\":\"status\"}\n")
        .unwrap();
    let mut line = String::new();
    BufReader::new(last).read_line(&mut line).unwrap();
    assert!(line.contains("\"running\""), "{line}");
}

#[test]
fn more_connections_than_there_may_be_do_not_lock_anyone_out() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let idle: Vec<_> = (0..600).map(|_| agent.connect()).collect();
    let (output, time) = timed(|| agent.run(&["status", "web", "--json"]));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(time < Duration::from_secs(5), "{time:?}");
    assert!(idle.iter().filter(|socket| socket.is_some()).count() > 200);
}

#[test]
fn a_client_that_hangs_up_harms_nobody() {
    let text = support::shell(
        "trap '' TERM; sleep 1000; sleep 1000",
        "stop_timeout = \"500ms\"",
    );
    let agent = Agent::start(&[("slow", &text)]);
    let pid = agent.stubborn("slow");
    let mut socket = agent.connect().unwrap();
    let request = json!({"version": 1, "command": "restart", "services": ["slow"]});
    socket.write_all(format!("{request}\n").as_bytes()).unwrap();
    agent.wait_state("slow", "stopping");
    drop(socket);
    // What was asked for goes on.
    agent.replaced("slow", pid);
}

#[test]
fn an_unprivileged_user_is_refused() {
    let test = "an_unprivileged_user_is_refused";
    needs_root!(test);
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    // The socket alone is what stops them.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(agent.dir(), open.clone()).unwrap();
    let copy = agent.dir().join("respawn");
    copy_program(respawn().get_program(), &copy);
    fs::set_permissions(&copy, open).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&copy);
        command
            .args(arguments)
            .env("RESPAWN_RUNTIME_DIR", agent.runtime_dir());
        unprivileged(&mut command).output()
    };
    if !run(&["--version"]).is_ok_and(|output| output.status.success()) {
        return skip(
            test,
            "no folder that an unprivileged user may run programs from",
        );
    }
    let mode = fs::metadata(agent.runtime_dir().join("control.sock")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    for open_socket in [false, true] {
        if open_socket {
            // Even where somebody opens the socket to all, the agent looks who calls.
            let all = fs::Permissions::from_mode(0o777);
            fs::set_permissions(agent.runtime_dir().join("control.sock"), all).unwrap();
        }
        for arguments in [
            &["status"][..],
            &["stop", "web"],
            &["reload"],
            &["shutdown"],
        ] {
            let output = run(arguments).unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(
                said.contains("uid 65534") && said.contains("root"),
                "{said}"
            );
        }
    }
    assert_eq!(agent.assert_single("web"), pid);
}

#[test]
fn the_socket_of_a_dead_agent_is_told_from_no_agent_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = respawn();
        command
            .args(arguments)
            .env("RESPAWN_RUNTIME_DIR", dir.path());
        command.output().unwrap()
    };
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["start", "web"],
        &["stop", "--all"],
        &["restart", "web"],
        &["signal", "HUP", "web"],
        &["reload"],
        &["shutdown"],
        &["events"],
    ] {
        let output = run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {said}");
        assert!(said.contains("no agent"), "{arguments:?}: {said}");
    }
    let mut agent = Agent::start(&[("web", &sleeping(""))]);
    agent.kill();
    let output = agent.run(&["status"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    agent.start_again();
    assert!(agent.run(&["status"]).status.success());
}

#[test]
fn what_is_not_there_is_status_1_and_wrong_usage_2() {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    for (arguments, status, named) in [
        (&["status", "nothing"][..], 1, "nothing"),
        (&["start", "nothing"], 1, "nothing"),
        (&["stop", "web2"], 1, "web2"),
        (&["restart", "nothing"], 1, "nothing"),
        (&["signal", "HUP", "nothing"], 1, "nothing"),
        (&["signal", "SIGNONE", "web"], 2, "SIGNONE"),
        (&["signal", "0", "web"], 2, "0"),
        (&["signal", "65", "web"], 2, "65"),
        (&["stop"], 2, "SERVICE"),
        (&["start"], 2, "SERVICE"),
        (&["stop", "--all", "web"], 2, "--all"),
        (&["dance"], 2, "dance"),
        (&["status", "--dance"], 2, "--dance"),
        (&["events", "--since", "yesteryear"], 2, "yesteryear"),
    ] {
        let output = agent.run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
    // What can be done of a command is done.
    let output = agent.run(&["restart", "nothing", "web"]);
    assert_eq!(output.status.code(), Some(1));
    agent.replaced("web", pid);
}

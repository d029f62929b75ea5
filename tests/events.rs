//! `events` shows the journal, the past and what comes, with no agent at all.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds of this boot fit"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::shipper::Shipped;
use support::{Agent, Lines, Setup, respawn, signal_to, sleeping};

fn line(seq: u64, time: &str, service: &str) -> String {
    let event = json!({
        "seq": seq, "time": time, "service": service, "event": "started", "pid": 100 + seq,
        "start_time_ns": 0, "restarts": 0, "a key of a newer agent": [1],
    });
    format!("{event}\n")
}

const LONG_AGO: &str = "2001-02-03T04:05:06.789Z";
const FAR_AHEAD: &str = "2999-01-01T00:00:00Z";

fn events(dir: &Path) -> Command {
    let mut command = respawn();
    command
        .env("TZ", "UTC")
        .arg("--runtime-dir")
        .arg(dir)
        .arg("events");
    command
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(!stdout.contains('\u{1b}'), "{stdout}");
    (output, stderr)
}

fn append(dir: &Path, text: &str) {
    support::append(&dir.join("journal"), text);
}

#[test]
fn without_journal_and_agent_it_is_status_3() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for dir in [folder.path(), &missing] {
        for follow in [&[][..], &["--follow"]] {
            let (output, stderr) = run(events(dir).args(follow));
            assert_eq!(output.status.code(), Some(3), "{stderr}");
            assert!(stderr.contains(dir.to_str().unwrap()), "{stderr}");
        }
    }
}

#[test]
fn nonsense_is_status_2() {
    let folder = tempfile::tempdir().unwrap();
    for since in ["", "10", "-10m", "yesterday", "10 parsecs"] {
        let (output, stderr) = run(events(folder.path()).arg(format!("--since={since}")));
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("--since"), "{stderr}");
    }
    for cursor in ["", "7", "7-1a-9", "null", "7-0000001a-9-1"] {
        let (output, stderr) = run(events(folder.path()).arg(format!("--after={cursor}")));
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("such as 17-0a1b2c3d-4e5f60"), "{stderr}");
    }
}

#[test]
fn the_past_is_shown_whole_or_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let lines = [
        line(1, LONG_AGO, "web"),
        line(2, LONG_AGO, "db"),
        line(3, FAR_AHEAD, "web"),
    ];
    fs::write(dir.join("journal.1"), &lines[0]).unwrap();
    append(
        dir,
        &format!("{}damage\n{}{{\"seq\":4,\"ti", lines[1], lines[2]),
    );
    let shown = |arguments: &[&str]| {
        let (output, stderr) = run(events(dir).args(arguments));
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains("1 damaged line"), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    // As it was written, byte by byte.
    assert_eq!(shown(&["--json"]), lines.concat());
    assert_eq!(shown(&["--json", "--service", "db"]), lines[1]);
    assert_eq!(shown(&["--json", "--since", "1h 30m"]), lines[2]);
    let (output, said) =
        run(events(dir).args(["--service", "db", "--service", "none", "--since", "0s"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("the journal has no event of none, and no agent knows such a service\n"),
        "{said}"
    );
    assert!(!said.contains("no event of db"), "{said}");
    assert_eq!(
        shown(&["--service", "db"]),
        "2001-02-03 04:05:06.789+00:00  db            started pid 102\n"
    );
}

#[test]
fn what_comes_follows_on_the_past_across_files() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    append(dir, &line(1, LONG_AGO, "web"));
    let mut child = events(dir)
        .args(["--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut shown = Lines::of(child.stdout.take().unwrap());
    let mut expect = |seq: u64| {
        let event: Value = serde_json::from_str(&shown.next().unwrap()).unwrap();
        assert_eq!(event["seq"], seq, "{event}");
    };
    expect(1);
    for seq in 2..50 {
        let text = line(seq, LONG_AGO, "web");
        let (begin, end) = text.split_at(usize::try_from(seq).unwrap());
        if seq % 10 == 0 {
            fs::rename(dir.join("journal"), dir.join("journal.1")).unwrap();
        }
        append(dir, begin);
        append(dir, end);
        expect(seq);
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(shown.next(), None);
}

#[test]
fn signals_and_a_closed_output_end_it_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    append(dir, &line(1, LONG_AGO, "web"));
    for signal in [
        Some(Signal::SIGINT),
        Some(Signal::SIGTERM),
        Some(Signal::SIGHUP),
        None,
    ] {
        let mut child = events(dir)
            .arg("--follow")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        match signal {
            Some(signal) => kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap(),
            None => drop(stdout),
        }
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{signal:?}: {output:?}"
        );
    }
}

#[test]
fn what_is_no_journal_is_an_error_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (output, stderr) = run(&mut events(folder.path()));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
}

/// Two times are in each line: what the wall clock said, which somebody has set since, and the time
/// since boot.
#[test]
fn how_long_ago_something_was_does_not_change_when_the_clock_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let stamped = |seq: u64, time: &str, service: &str, ago: f64, boot_id: &str| {
        let mut event: Value = serde_json::from_str(&line(seq, time, service)).unwrap();
        event["event"] = json!("exited");
        event["cause"] = json!({"kind": "exited", "code": 1});
        event["since_boot_ns"] = json!(((uptime - ago).max(0.0) * 1e9) as u64);
        event["boot_id"] = json!(boot_id.trim());
        append(dir, &format!("{event}\n"));
    };
    // The clock was wrong then.
    stamped(1, LONG_AGO, "slow", 20.0, &boot_id);
    stamped(2, FAR_AHEAD, "fast", 20.0, &boot_id);
    stamped(3, FAR_AHEAD, "old", uptime, &boot_id);
    // Of another boot, whose time since boot means nothing now.
    stamped(
        4,
        LONG_AGO,
        "other",
        20.0,
        "11111111-2222-3333-4444-555555555555",
    );
    let (output, _) = run(events(dir).args(["--json", "--since", "10s"]));
    assert_eq!(output.stdout, b"");
    let (output, _) = run(events(dir).args(["--json", "--since", "40s"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let services: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["service"].clone())
        .collect();
    assert_eq!(services, ["slow", "fast"]);
    for service in ["slow", "fast"] {
        let mut why = respawn();
        why.env("TZ", "UTC").arg("--runtime-dir").arg(dir);
        let (output, _) = run(why.args(["why", service]));
        let text = String::from_utf8(output.stdout).unwrap();
        let ago = text
            .split(" ago")
            .next()
            .unwrap()
            .rsplit(", ")
            .next()
            .unwrap();
        let seconds: f64 = ago.strip_suffix('s').unwrap().parse().unwrap();
        assert!((19.0..40.0).contains(&seconds), "{text}");
    }
}

/// What `events --json` shows: events, and how many are missing.
fn told(agent: &Agent) -> (Vec<Value>, u64) {
    let output = agent.run(&["events", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let (missed, events): (Vec<Value>, Vec<Value>) =
        lines.partition(|event: &Value| event["event"] == "events_missed");
    let missed = missed.iter().map(|event| event["count"].as_u64().unwrap());
    (events, missed.sum())
}

#[test]
fn a_service_that_ends_in_a_loop_leaves_the_others_their_history() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("config")).unwrap();
    let settings = dir.path().join("config/agent.toml");
    fs::write(settings, "journal_max_size = \"64KiB\"").unwrap();
    let services = [("db", sleeping("")), ("loop", sleeping(""))];
    let services = services
        .each_ref()
        .map(|(name, text)| (*name, text.as_str()));
    let mut agent = Agent::within(dir, &Setup::default(), &services);
    let killed = agent.running("db");
    signal_to(killed, Signal::SIGKILL);
    agent.replaced("db", killed);
    let mut restarts = 0;
    for _ in 0..2 {
        for _ in 0..200 {
            agent.must("restart", "loop");
        }
        restarts += 200;
        let why = agent.run(&["why", "db", "--json"]);
        let why: Value = serde_json::from_slice(&why.stdout).unwrap();
        assert_eq!(why["exited"]["pid"], killed, "{why}");
        // Of the one in a loop the first events and the newest; of what is between, how many.
        let (events, missed) = told(&agent);
        let last = events.last().unwrap()["seq"].as_u64().unwrap();
        assert!(missed > 0);
        assert_eq!(events.len() as u64 + missed, last);
        let of_loop = |kind: &str| {
            let events = events.iter();
            let of_it = events.filter(|event| event["service"] == "loop" && event["event"] == kind);
            of_it.collect::<Vec<_>>()
        };
        let started = of_loop("started");
        assert_eq!(started[0]["restarts"], 0);
        assert_eq!(started.last().unwrap()["restarts"], restarts);
        assert_eq!(of_loop("journal_share").len(), 1);
        let exits = of_loop("exited");
        let pids: std::collections::HashSet<_> =
            exits.iter().map(|exit| exit["pid"].as_u64()).collect();
        assert_eq!(pids.len(), exits.len(), "each is told once");
        let text = String::from_utf8(agent.run(&["events"]).stdout).unwrap();
        for words in [
            "loop          exceeded its share of the journal: ",
            " events missing here",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let files = fs::read_dir(agent.runtime_dir()).unwrap().flatten();
        let journal =
            files.filter(|file| file.file_name().to_string_lossy().starts_with("journal"));
        let size: u64 = journal.map(|file| file.metadata().unwrap().len()).sum();
        assert!(size <= 64 << 10, "{size}");
        // The next agent knows what has been told, and who has used what.
        agent.kill();
        agent.start_again();
    }
}

/// What `events --json` shows with these arguments, and on standard error.
fn after(agent: &Agent, arguments: &[&str]) -> (Vec<Value>, String) {
    let output = agent.run(&[&["events", "--json"], arguments].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.collect(), said)
}

#[test]
fn each_line_says_where_and_when_it_was_written() {
    let mut agent = Agent::start(&[("web", &sleeping("")), ("db", &sleeping(""))]);
    agent.running("web");
    agent.running("db");
    agent.must("stop", "db");
    agent.kill();
    let (events, said) = after(&agent, &[]);
    assert_eq!(said, "");
    let read = |path: &str| fs::read_to_string(path).unwrap().trim_end().to_owned();
    for event in &events {
        assert_eq!(event["host"], read("/proc/sys/kernel/hostname"), "{event}");
        assert_eq!(event["boot_id"], read("/proc/sys/kernel/random/boot_id"));
    }
    for (index, event) in events.iter().enumerate() {
        let cursor = event["cursor"].as_str().unwrap();
        assert_eq!(
            after(&agent, &["--after", cursor]),
            (events[index + 1..].to_vec(), String::new())
        );
    }
    // A service of which there is nothing new is no unknown service.
    let last = events.last().unwrap()["cursor"].as_str().unwrap();
    assert_eq!(
        after(&agent, &["--after", last, "web"]),
        (Vec::new(), String::new())
    );
}

/// Begins to ship the agent's events.
fn ship(shipped: &Shipped, agent: &Agent) -> std::process::Child {
    shipped.start(agent.command(&["events", "--follow", "--json"]))
}

fn last_seq(agent: &Agent) -> Option<u64> {
    after(agent, &[]).0.last()?["seq"].as_u64()
}

fn restart(agent: &Agent, service: &str) -> std::process::Child {
    let mut command = agent.command(&["restart", service]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Agent and shipper are killed again and again, in the midst of their work, while files are turned over.
#[test]
fn a_shipper_gets_each_event_once_whoever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("config")).unwrap();
    let settings = dir.path().join("config/agent.toml");
    fs::write(settings, "journal_max_size = \"128KiB\"").unwrap();
    let service = sleeping("");
    let services = ["a", "b", "c", "d", "e"].map(|name| (name, service.as_str()));
    let mut agent = Agent::within(dir, &Setup::default(), &services);
    let shipped = Shipped::new(agent.dir().join("shipped"));
    let undisturbed = Shipped::new(agent.dir().join("undisturbed"));
    let witness = ship(&undisturbed, &agent);
    let mut random = support::rig::Seeded(7);
    let mut turned_over = std::collections::HashSet::new();
    for round in 0..50 {
        let mut shipper = ship(&shipped, &agent);
        // However slow the machine is, no file is removed before it is shipped.
        if round % 3 == 0 {
            shipped.wait_for_all(|| last_seq(&agent));
        }
        let asked = [services[round % 5].0, services[round / 10].0, "a"];
        let clients = asked.map(|name| restart(&agent, name));
        std::thread::sleep(std::time::Duration::from_micros(random.below(30_000)));
        if round % 2 == 0 {
            agent.kill();
        }
        std::thread::sleep(std::time::Duration::from_micros(random.below(10_000)));
        shipper.kill().unwrap();
        shipper.wait().unwrap();
        if round % 2 == 0 {
            agent.start_again();
        }
        for mut client in clients {
            client.wait().unwrap();
        }
        for name in ["journal.1", "journal.busy.1"] {
            // A file is known by its first line: the next one may have its inode.
            let file = fs::read_to_string(agent.runtime_dir().join(name)).unwrap_or_default();
            turned_over.extend(file.lines().next().map(str::to_owned));
        }
    }
    agent.must("stop", "a");
    let shipper = ship(&shipped, &agent);
    let lines = shipped.assert_same(&undisturbed, [shipper, witness], || last_seq(&agent));
    let mut cursors: Vec<&str> = lines
        .iter()
        .map(|line| line["cursor"].as_str().unwrap())
        .collect();
    cursors.sort_unstable();
    cursors.dedup();
    assert_eq!(cursors.len(), lines.len());
    assert!(turned_over.len() > 2, "{turned_over:?}");
}

/// Of a service in a loop the newest lines are kept apart from those of all others.
#[test]
fn a_cursor_whose_line_is_gone_shows_later_lines_once_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("config")).unwrap();
    let settings = dir.path().join("config/agent.toml");
    fs::write(settings, "journal_max_size = \"64KiB\"").unwrap();
    let agent = Agent::within(dir, &Setup::default(), &[("loop", &sleeping(""))]);
    for _ in 0..15 {
        agent.must("restart", "loop");
    }
    let (events, _) = after(&agent, &[]);
    let cursor = events.last().unwrap()["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let seq = events.last().unwrap()["seq"].as_u64().unwrap();
    for _ in 0..90 {
        agent.must("restart", "loop");
    }
    let (events, said) = after(&agent, &["--after", &cursor]);
    assert!(
        said.contains(&format!(
            "no line with the cursor \"{cursor}\" is kept any more: showing all later ones that are\n"
        )),
        "{said}"
    );
    let missed = &events[0];
    assert_eq!(missed["event"], "events_missed", "{missed}");
    let next = events[1]["seq"].as_u64().unwrap();
    assert_eq!(missed["count"].as_u64().unwrap(), next - seq - 1);
    for key in ["host", "boot_id"] {
        assert_eq!(missed[key], events[1][key]);
    }
    // Who has seen that some are missing is not told again.
    let cursor = missed["cursor"].as_str().unwrap();
    let rest = after(&agent, &["--after", cursor]);
    assert_eq!(rest, (events[1..].to_vec(), String::new()));
}

//! The configurations of `docs/fleet.md`, run by the programs that they are for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::journald::Journal;
use support::recorder::RecorderDirs;
use support::rig::report;
use support::tools::{NOT_HERE, tool};
use support::{Agent, Victim, eventually, needs_root, respawn, signal_to, skip};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/fleet")
        .join(name)
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn promtool_accepts_the_rules_and_they_fire_when_they_should() {
    const NAME: &str = "promtool_accepts_the_rules_and_they_fire_when_they_should";
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "respawn.rules.yml"],
        ["test", "rules", "respawn.rules.test.yml"],
    ] {
        let Some(mut promtool) = tool("prometheus", "promtool") else {
            return skip(NAME, NOT_HERE);
        };
        let output = promtool.args(arguments).current_dir(example("")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn the_metrics_are_a_service_as_any_other() {
    let program = respawn().get_program().to_str().unwrap().to_owned();
    let port = free_port();
    let text = fs::read_to_string(example("metrics.toml")).unwrap();
    let text = text
        .replace("\"/usr/sbin/respawn\"", &format!("{program:?}"))
        .replace("9550", &port.to_string());
    let agent = Agent::start(&[]);
    let records = agent.dir().join("records");
    // It looks for an agent and a recorder of its own.
    let places = format!(
        "\"metrics\", \"--runtime-dir\", {:?}, \"--dir\", {records:?}",
        agent.runtime_dir()
    );
    let text = text.replace("\"metrics\"", &places);
    agent.write_service("metrics", &text);
    let output = agent.run(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    eventually("it serves", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    assert!(records.join("metrics.json").exists());
}

/// Lines that come over TCP.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<u64>>>);

impl Received {
    /// Listens; where.
    fn listen(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = received.clone();
                std::thread::spawn(move || {
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        let line: Value = serde_json::from_str(&line).unwrap();
                        received
                            .0
                            .lock()
                            .unwrap()
                            .push(line["seq"].as_u64().unwrap());
                    }
                });
            }
        });
        port
    }

    fn seqs(&self) -> Vec<u64> {
        let mut seqs = self.0.lock().unwrap().clone();
        seqs.sort_unstable();
        seqs
    }
}

/// A recorder's directory, to which the test writes as a recorder does.
struct Records {
    dir: PathBuf,
    seq: u64,
}

impl Records {
    fn append(&mut self, count: u64) {
        for _ in 0..count {
            self.seq += 1;
            // As a recorder does, with the number first: by the first bytes rsyslog knows a file again.
            let more = json!({"event": "exited", "argv": "x".repeat(500)}).to_string();
            let line = format!("{{\"seq\":{},{}\n", self.seq, &more[1..]);
            support::append(&self.dir.join("deaths"), &line);
        }
    }

    fn turn_over(&self) {
        fs::rename(self.dir.join("deaths"), self.dir.join("deaths.1")).unwrap();
    }
}

/// rsyslogd, with its configuration and its log in `folder`.
fn start(folder: &Path) -> Child {
    let mut rsyslogd = tool("rsyslog", "rsyslogd").unwrap();
    rsyslogd.args(["-n", "-f"]).arg(folder.join("rsyslog.conf"));
    rsyslogd.arg("-i").arg(folder.join("pid"));
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(folder.join("log"));
    rsyslogd
        .stderr(log.unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Ends when rsyslogd does: it writes what it has on its way.
fn stop(mut child: Child) {
    signal_to(child.id(), Signal::SIGTERM);
    child.wait().unwrap();
}

/// It is stopped and started again, and files are turned over while it runs and while it does not. Stopped just after
/// that, rsyslogd may forget how far it had read the file that was renamed, and sends it once more: twice in some 40 runs.
#[test]
fn rsyslog_ships_each_line() {
    const NAME: &str = "rsyslog_ships_each_line";
    if tool("rsyslog", "rsyslogd").is_none() {
        return skip(NAME, NOT_HERE);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["spool", "records", "run"] {
        fs::create_dir(path(name)).unwrap();
    }
    let received = Received::default();
    let config = fs::read_to_string(example("rsyslog.conf")).unwrap();
    let config = config
        .replace("logs.example.net", "127.0.0.1")
        .replace("10514", &received.listen().to_string())
        .replace("/var/spool/rsyslog", path("spool").to_str().unwrap())
        .replace("/var/lib/respawn", path("records").to_str().unwrap())
        .replace("/run/respawn", path("run").to_str().unwrap());
    fs::write(path("rsyslog.conf"), config).unwrap();
    let mut records = Records {
        dir: path("records"),
        seq: 0,
    };
    let all_come = |records: &Records| {
        let log = || {
            format!(
                "{:?}\n{:?}",
                received.seqs(),
                fs::read_to_string(path("log"))
            )
        };
        let all: BTreeSet<u64> = (1..=records.seq).collect();
        let are_there = || (BTreeSet::from_iter(received.seqs()) == all).then_some(());
        support::eventually_or("all lines come", are_there, log);
    };
    for round in 0..5 {
        records.append(20);
        let rsyslogd = start(folder.path());
        all_come(&records);
        records.append(20);
        records.turn_over();
        records.append(20);
        let is_read = round % 2 == 0;
        if is_read {
            all_come(&records);
        }
        stop(rsyslogd);
        records.append(20);
        if is_read {
            records.turn_over();
        }
    }
    records.append(1);
    let rsyslogd = start(folder.path());
    all_come(&records);
    stop(rsyslogd);
    let repeated = received.seqs().len() as u64 - records.seq;
    report(&format!(
        "{} lines shipped, {repeated} of them twice",
        records.seq
    ));
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `journalctl --unit` shows on the other host.
#[test]
fn journald_ships_the_deaths_of_units() {
    const NAME: &str = "journald_ships_the_deaths_of_units";
    const PACKAGE: &str = "systemd-journal-remote";
    needs_root!(NAME);
    let programs = ["systemd-journal-remote", "systemd-journal-upload"];
    let [Some(mut remote), Some(_)] = programs.map(|name| tool(PACKAGE, name)) else {
        return skip(NAME, NOT_HERE);
    };
    let journal = match Journal::start() {
        Ok(journal) => journal,
        Err(reason) => return skip(NAME, reason),
    };
    let place = RecorderDirs::new();
    let socket = journal.path("systemd/journal/socket");
    let _recorder = place.start(&["--journald-socket", socket.to_str().unwrap()]);
    let there = place.path().join("there");
    fs::create_dir(&there).unwrap();
    let port = free_port();
    remote.arg(format!("--listen-http=127.0.0.1:{port}"));
    remote.arg(format!("--output={}/", there.display()));
    let _remote = Running::start(&mut remote);
    eventually("it listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let upload = || {
        let mut upload = tool(PACKAGE, "systemd-journal-upload").unwrap();
        let here = fs::read_dir(journal.path("log/journal")).unwrap();
        let here = here.flatten().next().unwrap().path();
        upload.arg(format!("--url=http://127.0.0.1:{port}"));
        upload.arg(format!("--directory={}", here.display()));
        upload.arg(format!(
            "--save-state={}",
            place.path().join("state").display()
        ));
        Running::start(&mut upload)
    };
    let mut pids = Vec::new();
    for _ in 0..2 {
        pids.push(kill_one(&journal).to_string());
        let uploading = upload();
        pids.push(kill_one(&journal).to_string());
        let have_come = || {
            let entries = journal.entries_in(&there);
            let shown: Vec<&str> = entries
                .iter()
                .filter_map(|it| it["OBJECT_PID"].as_str())
                .collect();
            pids.iter()
                .all(|pid| shown.contains(&pid.as_str()))
                .then_some(())
        };
        eventually("all deaths have come", have_come);
        drop(uploading);
        pids.push(kill_one(&journal).to_string());
    }
}

/// Kills a process of the unit, and waits until the journal here has that.
fn kill_one(journal: &Journal) -> u32 {
    let mut victim = Victim::start("/usr/bin/sleep", &["100000"]);
    let pid = victim.pid();
    journal.take(pid);
    victim.signal(Signal::SIGKILL);
    victim.wait();
    let shown = pid.to_string();
    let is_it = |entry: &Value| entry["OBJECT_PID"] == shown;
    eventually("journald has it", || {
        journal.entries().iter().any(is_it).then_some(())
    });
    pid
}

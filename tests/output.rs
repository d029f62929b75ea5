//! What services with `log` write reaches their files once and whole, whoever is killed meanwhile: the
//! logger, the agent, both, or the service and the logger. With `RESPAWN_SOAK=1` there are 500 kills.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use support::journald::Journal;
use support::rig::AgentProcess;
use support::tools::{NOT_HERE, tool};
use support::tracer::{Traced, Went};
use support::{Agent, Lines, Setup, eventually, is_alive, shell, signal_to, sleeping};

use crate::sockets::{Clients, free, holds, inode};

const CULPRIT: &str = env!("CARGO_BIN_EXE_culprit");
const SERVER: &str = env!("CARGO_BIN_EXE_server");
const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

/// How long a stamp is, its blank included.
const STAMP: usize = 28;

fn kills() -> usize {
    match support::rig::is_soak() {
        true => 500,
        false => 40,
    }
}

/// A service that writes to a log with these keys.
fn logged(command: &str, path: &Path, keys: &str) -> String {
    format!("command = {command}\nlog = {{ path = {path:?}{keys} }}\nrestart_max_delay = \"0s\"\n")
}

/// The pid of the logger that works.
fn logger(agent: &Agent) -> u32 {
    eventually("a logger", || {
        logger_named(agent).filter(|pid| is_alive(*pid))
    })
}

fn logger_named(agent: &Agent) -> Option<u32> {
    let text = fs::read(agent.runtime_dir().join("output/lock")).ok()?;
    let lock: Value = serde_json::from_slice(&text).ok()?;
    u32::try_from(lock["pid"].as_u64()?).ok()
}

fn kill(pid: u32) {
    signal_to(pid, Signal::SIGKILL);
    eventually("it is dead", || (!is_alive(pid)).then_some(()));
}

/// The rotated files, the oldest first, and the one that is written.
fn files(path: &Path) -> Vec<PathBuf> {
    let rotated = |age: usize| {
        let plain = PathBuf::from(format!("{}.{age}", path.display()));
        match plain.exists() {
            true => plain,
            false => PathBuf::from(format!("{}.{age}.gz", path.display())),
        }
    };
    let ages = (1..).map(rotated).take_while(|file| file.exists());
    let mut files: Vec<_> = ages.collect();
    files.reverse();
    files.push(path.to_owned());
    files
}

/// What is in a file, compressed or not.
fn content(file: &Path) -> Vec<u8> {
    if file.extension().is_none_or(|extension| extension != "gz") {
        return fs::read(file).unwrap_or_default();
    }
    let output = Command::new("gzip").arg("-dc").arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Waits until all rotated files are compressed.
fn compressed(path: &Path) {
    eventually("all are compressed", || {
        let mut files = files(path);
        files.pop();
        let is_compressed = |file: &PathBuf| file.extension().is_some_and(|it| it == "gz");
        files.iter().all(is_compressed).then_some(())
    });
}

/// All that is in them.
fn text(path: &Path) -> Vec<u8> {
    let files = files(path);
    let read = files.iter().map(|file| content(file));
    read.collect::<Vec<_>>().concat()
}

/// Pseudo-random numbers, the same for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// How many lines each writer has got into the log. Fails if one is missing, doubled, torn or out of
/// its order.
fn counted(path: &Path) -> BTreeMap<String, usize> {
    let text = text(path);
    let mut counts = BTreeMap::new();
    let mut last = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        assert_eq!(
            line.last(),
            Some(&b'\n'),
            "{}",
            String::from_utf8_lossy(line)
        );
        let (stamp, line) = line.split_at(STAMP);
        assert!(last.as_slice() <= stamp, "a stamp goes back");
        last = stamp.to_owned();
        let line = std::str::from_utf8(line).unwrap().trim_end();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), 4, "torn: {line}");
        let [name, number, length, rest] = words.as_slice() else {
            continue;
        };
        assert_eq!(rest.len(), length.parse::<usize>().unwrap(), "torn: {line}");
        assert!(rest.bytes().all(|byte| byte == b'x'), "torn: {line}");
        let count = counts.entry((*name).to_owned()).or_insert(0);
        let number: usize = number.parse().unwrap();
        assert_eq!(number, *count, "of {name}");
        *count += 1;
    }
    counts
}

/// How many lines each writer has written.
fn written(dir: &Path) -> BTreeMap<String, usize> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let count = |entry: fs::DirEntry| {
        let bytes = fs::read(entry.path()).unwrap();
        let number = bytes.try_into().map_or(0, usize::from_ne_bytes);
        (entry.file_name().into_string().unwrap(), number)
    };
    entries.map(count).collect()
}

/// Stops all, and compares what was written with the log. Returns what that is.
fn assert_whole(agent: &mut Agent, counts: &Path, log: &Path) -> BTreeMap<String, usize> {
    agent.must("stop", "web");
    let written = written(counts);
    agent.run(&["shutdown"]);
    agent.wait();
    // A killed one may have left a file for the next rotation to compress.
    eventually("nobody renames any more", || {
        (!is_alive(logger_named(agent)?)).then_some(())
    });
    let counted = counted(log);
    for (name, count) in &written {
        let found = counted.get(name).copied().unwrap_or(0);
        // It may have been killed between the last line and its count.
        assert!(
            found == *count || found == count + 1,
            "{name}: {found} of {count}"
        );
    }
    written
}

#[test]
fn no_line_is_lost_doubled_or_torn_whoever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let counts = dir.path().join("counts");
    fs::create_dir(&counts).unwrap();
    let log = dir.path().join("web.log");
    let command = format!("[{VICTIM:?}, \"number\", {counts:?}]");
    // None of the files may go.
    let size = if kills() > 100 { "1MiB" } else { "128KiB" };
    let keys = format!(", max_size = {size:?}, keep = 1000, compress = true");
    let mut agent = Agent::start(&[("web", &logged(&command, &log, &keys))]);
    let seed = RandomState::new().build_hasher().finish();
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    for _ in 0..kills() {
        let web = agent.running("web");
        let pid = logger(&agent);
        thread::sleep(Duration::from_micros(random.below(100_000)));
        match random.below(4) {
            0 => kill(pid),
            1 => {
                agent.kill();
                agent.start_again();
            }
            2 => {
                kill(pid);
                agent.kill();
                thread::sleep(Duration::from_micros(random.below(20_000)));
                agent.start_again();
            }
            _ => {
                signal_to(web, Signal::SIGKILL);
                kill(pid);
                agent.replaced("web", web);
            }
        }
    }
    let written = assert_whole(&mut agent, &counts, &log);
    let total: usize = written.values().sum();
    let rotated = files(&log).len() - 1;
    assert!((10..1000).contains(&rotated), "{rotated} files");
    eprintln!(
        "{} kills: {total} lines of {} instances in {} files, 0 lost, 0 doubled, 0 torn",
        kills(),
        written.len(),
        rotated + 1
    );
}

/// A service that writes, serves, notifies and has stored something. It says "meanwhile" once there is a file "go",
/// and then makes a file "said".
fn busy(dir: &Path, address: SocketAddr) -> String {
    let script = format!(
        "{VICTIM} number {dir}/counts & \
         {CULPRIT} say 'FDSTORE=1\\nFDNAME=kept\\n@open {dir}/kept'; {CULPRIT} say 'READY=1\\nSTATUS=before'; \
         (while ! [ -e {dir}/go ]; do sleep 0.02; done; {CULPRIT} say STATUS=meanwhile && touch {dir}/said) & \
         exec {SERVER}",
        dir = dir.display()
    );
    let command = serde_json::json!(["/bin/sh", "-c", script]).to_string();
    let keys = ", max_size = \"128KiB\", keep = 1000, compress = true";
    let web = logged(&command, &dir.join("web.log"), keys);
    format!(
        "{web}listen = [{{ tcp = \"{address}\" }}]\nready = {{ notify = true }}\nfd_store = 4\n"
    )
}

/// A service that writes, serves, notifies and has stored something, all the time.
#[test]
fn an_upgrade_costs_no_line_request_message_or_descriptor() {
    support::needs_root!("an_upgrade_costs_no_line_request_message_or_descriptor");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (counts, log, kept) = (at("counts"), at("web.log"), at("kept"));
    fs::create_dir(&counts).unwrap();
    let (binary, new) = (at("respawn"), at("new"));
    support::copy_program(support::respawn().get_program(), &binary);
    let setup = Setup::of_binary(&binary);
    let address = free();
    let web = busy(dir.path(), address);
    let mut agent = Agent::with(&setup, &[("web", &web)]);
    let pid = agent.running("web");
    let clients = Clients::of(address, 3);
    let spare = agent.another();
    let (socket, notify) = (inode(pid, 3), inode(pid, 900));
    for held in [&*socket, &notify, kept.to_str().unwrap()] {
        holds(spare.id(), held);
    }
    let first_logger = logger(&agent);
    clients.go_on();
    fs::copy(&binary, &new).unwrap();
    fs::rename(&new, &binary).unwrap();
    agent.signal(Signal::SIGSTOP);
    fs::write(at("go"), "").unwrap();
    eventually("it has said so", || at("said").exists().then_some(()));
    agent.replace_by(spare);
    let text = agent.log();
    assert!(
        text.contains("was replaced: going on as the new one"),
        "{text}"
    );
    eventually("the message is heard", || {
        (agent.status("web")["says"] == "meanwhile").then_some(())
    });
    assert_eq!(agent.running("web"), pid);
    assert_eq!(agent.status("web")["stored"], serde_json::json!(["kept"]));
    for held in [&*socket, &notify, kept.to_str().unwrap()] {
        holds(agent.pid(), held);
    }
    // The logger becomes the new one, too.
    let next_logger = eventually("another logger", || {
        logger_named(&agent).filter(|pid| *pid != first_logger)
    });
    let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    eventually("it is the new program", || {
        (program(next_logger)? == binary).then_some(())
    });
    let lines = || written(&counts).values().sum::<usize>();
    let before = lines();
    clients.go_on();
    eventually("it writes on", || (lines() > before + 100).then_some(()));
    // Nobody was killed who served them.
    clients.end().assert_held(3, 0);
    assert_whole(&mut agent, &counts, &log);
}

/// Nobody holds a FIFO after a shutdown: what is in it then has to be written before.
#[test]
fn a_logger_that_is_killed_right_before_a_shutdown_costs_nothing() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let (log, done) = (dir.path().join("web.log"), dir.path().join("done"));
        let script = format!(
            "[\"sh\", \"-c\", \"seq 1 5000; touch {}; exec sleep 1000\"]",
            done.display()
        );
        let mut agent = Agent::start(&[("web", &logged(&script, &log, ""))]);
        kill(logger(&agent));
        eventually("all is in the FIFO", || done.exists().then_some(()));
        kill_if_there(&agent);
        agent.run(&["shutdown"]);
        agent.wait();
        let text = String::from_utf8(text(&log)).unwrap();
        let numbers = text
            .lines()
            .map(|line| line[STAMP..].parse::<usize>().unwrap());
        assert!(numbers.eq(1..=5000), "{} lines", text.lines().count());
    }
}

/// Another logger may be on its way, and not have said so yet.
fn kill_if_there(agent: &Agent) {
    if let Some(pid) = logger_named(agent).filter(|pid| is_alive(*pid)) {
        kill(pid);
    }
}

#[test]
fn both_streams_get_stamps_and_a_line_without_end_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("web.log");
    let script = "[\"sh\", \"-c\", \"echo out; echo err >&2; printf last; exit 3\"]";
    let text = logged(script, &log, "")
        .replace("restart_max_delay", "restart = \"no\"\nrestart_max_delay");
    let text = text + "last_output = \"1KiB\"\n";
    let agent = Agent::start(&[("web", &text)]);
    agent.wait_state("web", "failed");
    let text = eventually("three lines", || {
        let text = fs::read_to_string(&log).ok()?;
        (text.lines().count() == 3).then_some(text)
    });
    let lines: Vec<&str> = text.lines().map(|line| &line[STAMP..]).collect();
    assert_eq!(lines, ["out", "err", "last"]);
    let exited = agent.follow().next_of("web", "exited");
    assert_eq!(exited["last_output"], "out\nerr\nlast");
    // The next one's output is told of the next one alone.
    agent.run(&["start", "web"]);
    let mut journal = agent.follow();
    journal.next_of("web", "exited");
    let exited = journal.next_of("web", "exited");
    assert_eq!(exited["last_output"], "out\nerr\nlast");
}

#[test]
fn a_file_is_rotated_and_only_so_many_stay() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("web.log");
    let script = "[\"sh\", \"-c\", \"seq 1 100000; exec sleep 1000\"]";
    let keys = ", max_size = \"64KiB\", keep = 2, timestamps = false";
    let agent = Agent::start(&[("web", &logged(script, &log, keys))]);
    eventually("the last line", || {
        fs::read_to_string(&log)
            .ok()?
            .ends_with("\n100000\n")
            .then_some(())
    });
    let files = files(&log);
    assert_eq!(files.len(), 3);
    let lengths: Vec<u64> = files
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .collect();
    assert!(
        lengths.iter().all(|length| *length <= 64 << 10),
        "{lengths:?}"
    );
    let text = String::from_utf8(text(&log)).unwrap();
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one + 1 == *next));
    agent.must("stop", "web");
}

#[test]
fn a_log_that_is_moved_away_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (log, moved) = (dir.path().join("web.log"), dir.path().join("moved"));
    let go = dir.path().join("go");
    let script = format!(
        "[\"sh\", \"-c\", \"n=0; while :; do until [ -e {go} ]; do sleep 0.01; done; rm {go}; n=$((n+1)); echo $n; done\"]",
        go = go.display()
    );
    let agent = Agent::start(&[("web", &logged(&script, &log, ", timestamps = false"))]);
    let say = |expected: &str| {
        fs::write(&go, "").unwrap();
        eventually("the line", || {
            (fs::read_to_string(&log).ok()? == expected).then_some(())
        });
    };
    agent.running("web");
    say("1\n");
    fs::rename(&log, &moved).unwrap();
    say("2\n");
    assert_eq!(fs::read_to_string(&moved).unwrap(), "1\n");
    fs::write(&log, "").unwrap();
    say("3\n");
    // What cannot be written waits, and is told once.
    let pid = logger(&agent);
    fs::write(&go, "").unwrap();
    eventually("the line", || {
        (fs::read_to_string(&log).ok()? == "3\n4\n").then_some(())
    });
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    fs::write(&go, "").unwrap();
    eventually("the trouble is told", || {
        agent.log().contains("cannot write").then_some(())
    });
    assert_eq!(logger(&agent), pid);
    fs::remove_dir(&log).unwrap();
    eventually("the line", || {
        (fs::read_to_string(&log).ok()? == "5\n").then_some(())
    });
}

#[test]
fn a_service_that_closes_its_output_and_one_without_a_log_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("web.log");
    let script = "[\"sh\", \"-c\", \"echo first; exec >&- 2>&-; exec sleep 1000\"]";
    let agent = Agent::start(&[("web", &logged(script, &log, "")), ("other", &sleeping(""))]);
    agent.running("other");
    agent.running("web");
    eventually("the line", || {
        fs::read_to_string(&log)
            .ok()?
            .ends_with("first\n")
            .then_some(())
    });
    agent.must("restart", "web");
    eventually("two lines", || {
        (fs::read_to_string(&log).ok()?.lines().count() == 2).then_some(())
    });
    assert!(!agent.runtime_dir().join("output/fifo/other").exists());
    // Without the key the FIFO goes.
    agent.write_service("web", &sleeping(""));
    assert!(agent.run(&["reload"]).status.success());
    agent.running("web");
}

#[test]
fn without_services_to_log_the_files_go_and_a_shutdown_ends_the_logger() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("web.log");
    let mut agent = Agent::start(&[
        (
            "web",
            &logged(
                "[\"sh\", \"-c\", \"echo words; exec sleep 1000\"]",
                &log,
                "",
            ),
        ),
        ("rest", &shell("sleep 1000", "")),
    ]);
    agent.running("web");
    let pid = logger(&agent);
    let fifo = agent.runtime_dir().join("output/fifo/web");
    assert!(fifo.exists());
    agent.write_service("web", &sleeping(""));
    assert!(agent.run(&["reload"]).status.success());
    eventually("the FIFO is gone", || (!fifo.exists()).then_some(()));
    agent.run(&["shutdown"]);
    agent.wait();
    eventually("the logger ends", || (!is_alive(pid)).then_some(()));
    assert!(fs::read_to_string(&log).unwrap().ends_with("words\n"));
}

/// What `respawn logs` prints, without stamps.
fn shown(agent: &Agent, arguments: &[&str]) -> Vec<String> {
    let output = agent.run(&[&["logs"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let without = |line: &str| match line.starts_with("20") {
        true => line[STAMP..].to_owned(),
        false => line.to_owned(),
    };
    text.lines().map(without).collect()
}

#[test]
fn logs_are_shown_from_all_files_merged_and_followed_through_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let go = at("go");
    // It counts on whenever it is told to.
    let script = format!(
        "[\"sh\", \"-c\", \"seq 1 30000; n=30000; while :; do until [ -e {go} ]; do sleep 0.01; done; rm {go}; \
         n=$((n+30000)); seq $((n-29999)) $n; done\"]",
        go = go.display()
    );
    let keys = ", max_size = \"64KiB\", keep = 100";
    let plain = format!(
        "command = [\"sh\", \"-c\", \"echo plain; printf rest; exec sleep 1000\"]\nstdout = {:?}\n",
        at("plain.log")
    );
    let other = "[\"sh\", \"-c\", \"echo other; exec sleep 1000\"]";
    let mut agent = Agent::start(&[
        ("web", &logged(&script, &at("web.log"), keys)),
        ("plain", &plain),
        ("other", &logged(other, &at("other.log"), "")),
    ]);
    let numbers = |range: std::ops::RangeInclusive<usize>| {
        range.map(|number| number.to_string()).collect::<Vec<_>>()
    };
    eventually("all lines", || {
        (shown(&agent, &["web"]).len() == 30_000).then_some(())
    });
    assert_eq!(shown(&agent, &["web"]), numbers(1..=30_000));
    assert_eq!(shown(&agent, &["web", "-n", "3"]), numbers(29_998..=30_000));
    assert_eq!(shown(&agent, &["web", "-n", "0"]), [""; 0]);
    assert_eq!(shown(&agent, &["web", "--since", "1h"]).len(), 30_000);
    eventually("both lines", || {
        (shown(&agent, &["plain"]) == ["plain", "rest"]).then_some(())
    });
    eventually("the other", || {
        (shown(&agent, &["other"]) == ["other"]).then_some(())
    });
    let merged = shown(&agent, &["web", "other"]);
    assert_eq!(merged.len(), 30_001);
    assert!(merged.contains(&"other: other".to_owned()));
    let output = agent.run(&["logs", "o*", "--json"]);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&line["service"], &line["message"]),
        (&"other".into(), &"other".into())
    );
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    assert_eq!(agent.run(&["logs", "none"]).status.code(), Some(1));

    let mut command = agent.command(&["logs", "web", "--follow", "-n", "1"]);
    let mut follow = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = Lines::of(follow.stdout.take().unwrap());
    let mut next = || lines.next().map(|line| line[STAMP..].to_owned());
    assert_eq!(next().unwrap(), "30000");
    let rotated = files(&at("web.log")).len();
    fs::write(&go, "").unwrap();
    let followed: Vec<_> = (0..30_000).map_while(|_| next()).collect();
    assert_eq!(followed, numbers(30_001..=60_000));
    assert!(files(&at("web.log")).len() > rotated);
    // The agent may go.
    agent.kill();
    assert_eq!(shown(&agent, &["web", "-n", "1"]), ["60000"]);
    fs::write(&go, "").unwrap();
    assert_eq!(next().unwrap(), "60001");
    follow.kill().unwrap();
    follow.wait().unwrap();
    agent.start_again();
}

/// A file system of this size, for as long as the value lives.
struct Disk(PathBuf);

impl Disk {
    fn new(path: &Path, size: &str) -> Self {
        fs::create_dir(path).unwrap();
        let disk = Self(path.to_owned());
        disk.mount(size, MsFlags::empty());
        disk
    }

    fn enlarge(&self) {
        self.mount("64m", MsFlags::MS_REMOUNT);
    }

    fn mount(&self, size: &str, flags: MsFlags) {
        let options = format!("size={size}");
        mount(
            Some("tmpfs"),
            &self.0,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// What a log says that was dropped, and the numbers that are in it.
fn dropped_and_numbers(path: &Path) -> (usize, Vec<usize>) {
    let text = String::from_utf8(content(path)).unwrap();
    // On a full disk there may be half a line for a moment.
    let text = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let (mut dropped, mut numbers) = (0, Vec::new());
    for line in text.lines().map(|line| &line[STAMP..]) {
        match line.strip_prefix("respawn: ") {
            Some(rest) => dropped += rest.split(' ').next().unwrap().parse::<usize>().unwrap(),
            None => numbers.push(line.parse().unwrap()),
        }
    }
    (dropped, numbers)
}

#[test]
fn a_full_disk_delays_one_service_or_costs_it_counted_lines() {
    support::needs_root!("a_full_disk_delays_one_service_or_costs_it_counted_lines");
    const LINES: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(&dir.path().join("disk"), "256k");
    let at = |name: &str| disk.0.join(name);
    let other = dir.path().join("other.log");
    let script = format!("[\"sh\", \"-c\", \"seq 1 {LINES}; exec sleep 1000\"]");
    let ticks = "[\"sh\", \"-c\", \"while :; do echo tick; sleep 0.05; done\"]";
    let agent = Agent::start(&[
        ("wait", &logged(&script, &at("wait.log"), "")),
        (
            "drop",
            &logged(&script, &at("drop.log"), ", on_full = \"drop\""),
        ),
        ("other", &logged(ticks, &other, "")),
    ]);
    for what in [
        "the output waits in the FIFO",
        "lines are dropped and counted",
    ] {
        eventually(what, || agent.log().contains(what).then_some(()));
    }
    let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let before = length(&other);
    eventually("the other goes on", || {
        (length(&other) > before + 200).then_some(())
    });
    disk.enlarge();
    eventually("nothing is lost", || {
        let (_, numbers) = dropped_and_numbers(&at("wait.log"));
        (numbers.len() == LINES).then_some(())
    });
    let (dropped, numbers) = dropped_and_numbers(&at("wait.log"));
    assert_eq!((dropped, numbers), (0, (1..=LINES).collect()));
    eventually("what is lost is counted", || {
        let (dropped, numbers) = dropped_and_numbers(&at("drop.log"));
        (dropped > 0 && dropped + numbers.len() == LINES).then_some(())
    });
    let (_, numbers) = dropped_and_numbers(&at("drop.log"));
    assert!(numbers.is_sorted_by(|one, next| one < next));
}

#[test]
fn old_files_are_rotated_compressed_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("web.log");
    let script = "[\"sh\", \"-c\", \"n=0; while [ $n -lt 40 ]; do n=$((n+1)); echo $n; sleep 0.1; done; exec sleep 1000\"]";
    let keys = ", max_age = \"1s\", compress = true, keep = 100";
    let agent = Agent::start(&[("web", &logged(script, &log, keys))]);
    let mut follow = agent.command(&["logs", "web", "--follow"]);
    let mut follow = follow.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufReader::new(follow.stdout.take().unwrap());
    let lines = std::io::BufRead::lines(lines).map(|line| line.unwrap()[STAMP..].to_owned());
    let followed: Vec<_> = lines.take(40).collect();
    follow.kill().unwrap();
    follow.wait().unwrap();
    let all: Vec<_> = (1..=40).map(|number| number.to_string()).collect();
    assert_eq!(followed, all);
    compressed(&log);
    let files = files(&log);
    assert!((2..=6).contains(&files.len()), "{files:?}");
    assert_eq!(shown(&agent, &["web"]), all);
    assert_eq!(shown(&agent, &["web", "-n", "25"]), all[15..]);
    let names = fs::read_dir(dir.path()).unwrap();
    assert_eq!(names.count(), files.len(), "nothing else is left");
}

#[test]
fn what_goes_to_syslog_journald_and_standard_output_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let script = |words: &str| format!("[\"sh\", \"-c\", \"echo {words}; exec sleep 1000\"]");
    let log =
        |words: &str, target: &str| format!("command = {}\nlog = {{ {target} }}\n", script(words));
    let (syslog, journald) = (at("syslog"), at("journald"));
    let [to_syslog, to_journald] = [&syslog, &journald].map(|path| {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(support::DEADLINE)).unwrap();
        socket
    });
    let agent = Agent::start(&[
        ("one", &log("first", &format!("syslog = {syslog:?}"))),
        ("two", &log("second", &format!("journald = {journald:?}"))),
        ("three", &log("third", "stdout = true")),
    ]);
    let received = |socket: &UnixDatagram| {
        let mut buffer = [0; 10_000];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let text = received(&to_syslog);
    assert!(
        text.starts_with("<30>") && text.ends_with(" one: first"),
        "{text}"
    );
    let text = received(&to_journald);
    assert_eq!(text, "PRIORITY=6\nSYSLOG_IDENTIFIER=two\nMESSAGE=second\n");
    eventually("the line on standard output", || {
        let out = fs::read_to_string(agent.dir().join("agent.out")).ok()?;
        out.contains("three: third\n").then_some(())
    });
    // Nobody is there for a while: it waits, and is not lost.
    drop(to_syslog);
    fs::remove_file(&syslog).unwrap();
    agent.must("restart", "one");
    eventually("the trouble is told", || {
        agent.log().contains("cannot write to syslog").then_some(())
    });
    let socket = UnixDatagram::bind(&syslog).unwrap();
    assert!(received(&socket).ends_with(" one: first"));
    assert_eq!(agent.run(&["logs", "one"]).status.code(), Some(1));
}

/// A logger without an agent, which reads so many FIFOs.
struct Alone {
    dir: tempfile::TempDir,
    process: std::process::Child,
}

impl Alone {
    fn start(services: usize, keys: &Value) -> Self {
        let dir = Self::place(services, keys);
        let process = Self::command(dir.path()).spawn().unwrap();
        Self { dir, process }
    }

    fn command(dir: &Path) -> Command {
        let mut command = support::respawn();
        command.arg("logger").arg("--runtime-dir").arg(dir);
        command
    }

    /// What an agent makes for it.
    fn place(services: usize, keys: &Value) -> tempfile::TempDir {
        // In memory, as `/run` is.
        let in_memory = tempfile::tempdir_in("/dev/shm");
        let dir = in_memory.or_else(|_| tempfile::tempdir()).unwrap();
        let output = dir.path().join("output");
        for name in ["fifo", "settings", "record", "even", "odd"] {
            fs::create_dir_all(output.join(name)).unwrap();
        }
        for number in 0..services {
            let name = number.to_string();
            let path = dir.path().join(format!("{name}.log"));
            let mut log = serde_json::json!({
                "target": {"file": path}, "max_size": 1_u64 << 40, "keep": 5, "timestamps": true,
                "max_age": null, "compress": false, "on_full": "wait",
            });
            log.as_object_mut()
                .unwrap()
                .extend(keys.as_object().unwrap().clone());
            let settings = serde_json::json!({"log": log, "owner": null});
            mkfifo(&output.join("fifo").join(&name), Mode::S_IRWXU).unwrap();
            fs::write(output.join("settings").join(&name), settings.to_string()).unwrap();
        }
        dir
    }

    fn fifo(&self, number: usize) -> fs::File {
        let path = self.dir.path().join(format!("output/fifo/{number}"));
        eventually("the logger has it open", || {
            let mut options = fs::File::options();
            options
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
                .ok()
        });
        let fifo = fs::File::options().write(true).open(path).unwrap();
        // As an agent has it.
        let _ = fcntl(&fifo, FcntlArg::F_SETPIPE_SZ(1 << 20));
        fifo
    }

    fn log(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("{number}.log"))
    }

    /// A line of its status, as a number.
    fn status(&self, key: &str) -> u64 {
        let text = support::proc_status(self.process.id(), key);
        text.split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A logger is killed before and after each of its system calls while it writes and rotates, and the next one
/// goes on: at every such point.
#[test]
fn a_logger_killed_at_any_point_of_a_rotation_loses_and_doubles_nothing() {
    const LINES: usize = 8;
    // As many as fill a file.
    let keys = serde_json::json!({"timestamps": false, "max_size": 8 * LINES, "keep": 3});
    let dir = Alone::place(1, &keys);
    let log = dir.path().join("0.log");
    let fifo = dir.path().join("output/fifo/0");
    let mut options = fs::File::options();
    // It stays while no logger lives.
    let mut fifo = options.read(true).write(true).open(fifo).unwrap();
    let mut last = 0;
    let mut attempt = |point| {
        let traced = Traced::seize(AgentProcess::from_command(&mut Alone::command(dir.path())));
        let lines = (last + 1..=last + LINES).map(|number| format!("{number:07}\n"));
        fifo.write_all(lines.collect::<String>().as_bytes())
            .unwrap();
        last += LINES;
        let end = format!("{last:07}\n");
        let is_there = || fs::read_to_string(&log).is_ok_and(|text| text.ends_with(&end));
        let went = traced.run(point, is_there);
        traced.kill();
        let next = Alone::command(dir.path()).arg("--drain").status();
        assert!(next.unwrap().success());
        let text = String::from_utf8(text(&log)).unwrap();
        let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
        let expected: Vec<usize> = (last + 1 - numbers.len()..=last).collect();
        assert_eq!(numbers, expected, "at {point}");
        assert!(numbers.len() >= LINES.min(last), "at {point}: {numbers:?}");
        went
    };
    // So that there are files to rotate.
    for _ in 0..4 {
        assert_ne!(attempt(usize::MAX), Went::There);
    }
    let Went::Done(count) = attempt(usize::MAX) else {
        panic!("it has no end");
    };
    let beyond = (1..count + 4).filter(|point| attempt(*point) != Went::There);
    let beyond = beyond.count();
    support::rig::report(&format!(
        "crash points of a rotation: {count}, {beyond} runs were done before"
    ));
    assert!(
        count > 20 && beyond <= 4 + count / 10,
        "{beyond} of {count}"
    );
}

#[test]
fn a_thousand_silent_services_wake_nobody() {
    const SERVICES: usize = 1000;
    let logger = Alone::start(SERVICES, &serde_json::json!({}));
    // The last one it has come to is read.
    for number in 0..SERVICES {
        let mut fifo = logger.fifo(number);
        fifo.write_all(b"words\n").unwrap();
    }
    eventually("all are written", || {
        let written = |number| fs::metadata(logger.log(number)).is_ok_and(|found| found.len() > 0);
        (0..SERVICES).all(written).then_some(())
    });
    let switches = || logger.status("voluntary_ctxt_switches");
    let mut before = switches();
    eventually("it sleeps", || {
        thread::sleep(Duration::from_millis(300));
        let now = switches();
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
    thread::sleep(Duration::from_secs(2));
    assert_eq!(switches() - before, 0);
    let kib = logger.status("VmRSS");
    eprintln!("{SERVICES} silent services: 0 wakeups in 2 s, {kib} KiB of memory");
    assert!(kib < 64 << 10, "{kib} KiB");
}

/// What the machine does meanwhile varies: each is measured in turn, five times, and the ratio in the middle
/// counts. The files are in memory, as the disk's speed is not the logger's. With 64 MiB; or with `RESPAWN_SOAK=1`
/// 1 GiB and a bound for a release build. The other one holds for a debug build on a busy machine, too.
#[test]
fn the_logger_moves_about_half_of_what_cat_moves() {
    let (bytes, least) = match support::rig::is_soak() {
        true => (1 << 30, 0.4),
        false => (64 << 20, 0.03),
    };
    for (what, timestamps) in [("without timestamps", false), ("with timestamps", true)] {
        let mut rounds: Vec<[Duration; 3]> = (0..5)
            .map(|_| {
                let [to_pipe, to_file] = [false, true].map(|to_file| through_cat(bytes, to_file));
                [to_pipe, to_file, through_logger(bytes, timestamps)]
            })
            .collect();
        let ratio = |[_, to_file, logger]: &[Duration; 3]| to_file.div_duration_f64(*logger);
        rounds.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
        let [to_pipe, to_file, logger] = rounds[2];
        let ratio = ratio(&rounds[2]);
        support::rig::report(&format!(
            "{} MiB {what}: the logger {logger:.2?}, {ratio:.2} of cat to a file ({to_file:.2?}), {:.2} of cat to a pipe ({to_pipe:.2?})",
            bytes >> 20,
            to_pipe.div_duration_f64(logger)
        ));
        assert!(ratio >= least, "{what}: {rounds:?}");
    }
}

/// Lines of 120 bytes, many in one write.
fn chunk() -> String {
    format!("{}\n", "x".repeat(119)).repeat(546)
}

/// Writes at least so many bytes, and returns how many lines that were.
fn pour(mut to: impl Write, bytes: usize) -> usize {
    let chunk = chunk();
    let chunks = bytes.div_ceil(chunk.len());
    for _ in 0..chunks {
        to.write_all(chunk.as_bytes()).unwrap();
    }
    chunks * chunk.lines().count()
}

fn through_cat(bytes: usize, to_file: bool) -> Duration {
    let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile());
    let file = file.unwrap();
    let mut cat = Command::new("cat");
    let to = match to_file {
        true => file.try_clone().unwrap().into(),
        false => std::process::Stdio::piped(),
    };
    cat.stdin(std::process::Stdio::piped()).stdout(to);
    let mut cat = cat.spawn().unwrap();
    let from = cat.stdout.take();
    let reader = from.map(|mut from| {
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            let mut total = 0;
            loop {
                match std::io::Read::read(&mut from, &mut buffer).unwrap() {
                    0 => return total,
                    length => total += length,
                }
            }
        })
    });
    let start = support::now();
    let lines = pour(cat.stdin.take().unwrap(), bytes);
    cat.wait().unwrap();
    let read = reader.map(|reader| reader.join().unwrap());
    let time = start.elapsed();
    let written = usize::try_from(file.metadata().unwrap().len()).unwrap();
    assert_eq!(read.unwrap_or(written), lines * 120);
    time
}

fn through_logger(bytes: usize, timestamps: bool) -> Duration {
    let logger = Alone::start(1, &serde_json::json!({"timestamps": timestamps}));
    let fifo = logger.fifo(0);
    let start = support::now();
    let lines = pour(fifo, bytes);
    let length = lines * (120 + if timestamps { STAMP } else { 0 });
    eventually("all is written", || {
        (fs::metadata(logger.log(0)).ok()?.len() == length as u64).then_some(())
    });
    start.elapsed()
}

/// Numbers up to this, each on a line of its own.
fn counting(last: usize) -> String {
    format!("[\"sh\", \"-c\", \"seq 1 {last}; exec sleep 1000\"]")
}

/// Adds up what was dropped by what a target has got.
#[derive(Default)]
struct Got {
    dropped: usize,
    numbers: Vec<usize>,
}

impl Got {
    fn add(&mut self, message: &str) {
        match message.strip_prefix("respawn: ") {
            Some(rest) => self.dropped += rest.split(' ').next().unwrap().parse::<usize>().unwrap(),
            None => self.numbers.push(message.parse().unwrap()),
        }
    }

    fn count(&self) -> usize {
        self.dropped + self.numbers.len()
    }
}

/// Syslogd and journald that do not read for a while: the kernel takes some messages, and no more.
#[test]
fn a_target_that_stops_reading_costs_one_service_time_or_counted_lines() {
    const LINES: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let bound = |name: &str| {
        let socket = UnixDatagram::bind(at(name)).unwrap();
        socket.set_read_timeout(Some(support::DEADLINE)).unwrap();
        socket
    };
    let service = |log: &str| {
        let command = counting(LINES);
        format!("command = {command}\nlog = {{ {log} }}\n")
    };
    let ticks = "[\"sh\", \"-c\", \"while :; do echo tick; sleep 0.05; done\"]";
    let sockets = ["a", "b", "c", "d"].map(bound);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(at);
    let agent = Agent::start(&[
        ("a", &service(&format!("syslog = {a:?}"))),
        (
            "b",
            &service(&format!("syslog = {b:?}, on_full = \"drop\"")),
        ),
        ("c", &service(&format!("journald = {c:?}"))),
        (
            "d",
            &service(&format!("journald = {d:?}, on_full = \"drop\"")),
        ),
        ("other", &logged(ticks, &at("other.log"), "")),
    ]);
    for service in ["a", "b", "c", "d"] {
        eventually("the trouble is told", || {
            let log = agent.log();
            let mut lines = log.lines();
            let told = |line: &str| {
                line.contains("cannot write") && line.contains(&format!("service={service}"))
            };
            lines.any(told).then_some(())
        });
    }
    let length = || fs::metadata(at("other.log")).map_or(0, |found| found.len());
    let before = length();
    eventually("the other goes on", || {
        (length() > before + 200).then_some(())
    });
    for (socket, service) in sockets.iter().zip(["a", "b", "c", "d"]) {
        let mut got = Got::default();
        let mut buffer = [0; 10_000];
        while got.count() < LINES {
            let length = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let text = text.trim_end();
            let head = format!(" {service}: ");
            let message = match text.split_once("MESSAGE=") {
                Some((_, message)) => message,
                None => text.split_once(&head).unwrap().1,
            };
            got.add(message);
        }
        let drops = service == "b" || service == "d";
        assert_eq!(got.dropped > 0, drops, "{service}: {}", got.dropped);
        assert_eq!(got.count(), LINES, "{service}");
        assert!(
            got.numbers.is_sorted_by(|one, next| one < next),
            "{service}"
        );
    }
}

/// The agent's standard output is a pipe that nobody reads for a while.
#[test]
fn a_reader_of_standard_output_that_stops_costs_one_service_time_or_counted_lines() {
    const LINES: usize = 200_000;
    for drops in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        mkfifo(&at("out"), Mode::S_IRWXU).unwrap();
        // So that there is somebody, who reads nothing.
        let mut options = fs::File::options();
        let reader = options.read(true).write(true).open(at("out")).unwrap();
        let script = format!("exec \"$@\" > {}", at("out").display());
        let setup = Setup {
            wrapper: ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).into(),
            ..Setup::default()
        };
        let on_full = if drops { ", on_full = \"drop\"" } else { "" };
        let web = format!(
            "command = {}\nlog = {{ stdout = true{on_full} }}\n",
            counting(LINES)
        );
        let ticks = "[\"sh\", \"-c\", \"while :; do echo tick; sleep 0.05; done\"]";
        let services = [
            ("web", &*web),
            ("other", &*logged(ticks, &at("other.log"), "")),
        ];
        let agent = Agent::with(&setup, &services);
        eventually("the trouble is told", || {
            agent.log().contains("cannot write").then_some(())
        });
        let length = || fs::metadata(at("other.log")).map_or(0, |found| found.len());
        let before = length();
        eventually("the other goes on", || {
            (length() > before + 200).then_some(())
        });
        let mut got = Got::default();
        for line in std::io::BufRead::lines(std::io::BufReader::new(reader)) {
            got.add(line.unwrap().strip_prefix("web: ").unwrap());
            if got.count() >= LINES {
                break;
            }
        }
        assert_eq!(got.count(), LINES);
        assert_eq!(got.dropped > 0, drops, "{}", got.dropped);
        assert!(got.numbers.is_sorted_by(|one, next| one < next));
    }
}

/// Tells each time how many lines of a service that is no more could not be written.
#[test]
fn what_a_service_leaves_behind_that_is_gone_from_the_config_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("web.log");
    fs::create_dir(&log).unwrap();
    let script = "[\"sh\", \"-c\", \"echo one; echo two; printf three; exec sleep 1000\"]";
    let agent = Agent::start(&[("web", &logged(script, &log, "")), ("other", &sleeping(""))]);
    agent.running("web");
    eventually("the trouble is told", || {
        agent.log().contains("cannot write").then_some(())
    });
    fs::remove_file(agent.service_file("web")).unwrap();
    assert!(agent.run(&["reload"]).status.success());
    eventually("it is counted", || {
        let told = agent
            .log()
            .contains("it is gone, and 3 lines of its output are lost");
        told.then_some(())
    });
}

/// Somebody removes the directory with all that is in it, and makes it again later.
#[test]
fn a_log_directory_that_vanishes_costs_no_line_that_was_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    let log = logs.join("web.log");
    let script = "[\"sh\", \"-c\", \"n=0; while :; do n=$((n+1)); echo $n; sleep 0.002; done\"]";
    fs::create_dir(&logs).unwrap();
    let mut agent = Agent::start(&[("web", &logged(script, &log, ", timestamps = false"))]);
    let mut all = String::new();
    for _ in 0..3 {
        fs::create_dir_all(&logs).unwrap();
        let mut held = eventually("the log", || fs::File::open(&log).ok());
        eventually("some lines", || {
            (held.metadata().unwrap().len() > 200).then_some(())
        });
        fs::remove_dir_all(&logs).unwrap();
        let told = agent.log().matches("cannot write").count();
        eventually("the trouble is told", || {
            (agent.log().matches("cannot write").count() > told).then_some(())
        });
        std::io::Read::read_to_string(&mut held, &mut all).unwrap();
    }
    fs::create_dir(&logs).unwrap();
    eventually("the log", || log.exists().then_some(()));
    // The logger writes the rest before it ends.
    agent.run(&["shutdown"]);
    agent.wait();
    eventually("the logger has ended", || {
        (!is_alive(logger_named(&agent)?)).then_some(())
    });
    all += &fs::read_to_string(&log).unwrap();
    let numbers: Vec<usize> = all.lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<usize> = (1..=numbers.len()).collect();
    assert!(numbers == expected, "of {}", numbers.len());
}

#[test]
fn a_real_journald_has_each_line() {
    const NAME: &str = "a_real_journald_has_each_line";
    support::needs_root!(NAME);
    let journal = match Journal::start() {
        Ok(journal) => journal,
        Err(reason) => return support::skip(NAME, reason),
    };
    let socket = journal.path("systemd/journal/socket");
    let web = format!(
        "command = {}\nlog = {{ journald = {socket:?} }}\n",
        counting(500)
    );
    let agent = Agent::start(&[("web", &web)]);
    agent.running("web");
    let shown = || {
        let mut command = Command::new("journalctl");
        command.arg("--directory").arg(journal.path("log/journal"));
        command.args(["--identifier=web", "--output=cat", "--no-pager", "--quiet"]);
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let expected: String = (1..=500).map(|number| format!("{number}\n")).collect();
    eventually("all lines", || (shown() == expected).then_some(()));
}

#[test]
fn a_real_rsyslogd_has_each_line_and_what_was_written_while_it_was_down() {
    const NAME: &str = "a_real_rsyslogd_has_each_line_and_what_was_written_while_it_was_down";
    if tool("rsyslog", "rsyslogd").is_none() {
        return support::skip(NAME, NOT_HERE);
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = format!(
        "global(workDirectory=\"{dir}\")\nmodule(load=\"imuxsock\" SysSock.Use=\"off\")\n\
         input(type=\"imuxsock\" Socket=\"{dir}/log\" RateLimit.Interval=\"0\")\n\
         template(name=\"plain\" type=\"string\" string=\"%syslogfacility-text%.%syslogseverity-text% %programname%:%msg%\\n\")\n\
         action(type=\"omfile\" file=\"{dir}/got\" template=\"plain\")\n",
        dir = dir.path().display()
    );
    fs::write(at("rsyslog.conf"), config).unwrap();
    let start = || {
        let mut rsyslogd = tool("rsyslog", "rsyslogd").unwrap();
        rsyslogd.arg("-n").arg("-f").arg(at("rsyslog.conf"));
        rsyslogd.arg("-i").arg(at("pid"));
        rsyslogd.stderr(fs::File::create(at("err")).unwrap());
        rsyslogd.spawn().unwrap()
    };
    let stop = |mut rsyslogd: std::process::Child| {
        signal_to(rsyslogd.id(), Signal::SIGTERM);
        rsyslogd.wait().unwrap();
    };
    let go = at("go");
    let script = format!(
        "[\"sh\", \"-c\", \"n=0; while :; do until [ -e {go} ]; do sleep 0.01; done; rm {go}; n=$((n+200)); seq $((n-199)) $n; done\"]",
        go = go.display()
    );
    let rsyslogd = start();
    eventually("it listens", || at("log").exists().then_some(()));
    let web = format!("command = {script}\nlog = {{ syslog = {:?} }}\n", at("log"));
    let agent = Agent::start(&[("web", &web)]);
    agent.running("web");
    let has = |last: usize| {
        let expected: String = (1..=last)
            .map(|number| format!("daemon.info web: {number}\n"))
            .collect();
        eventually("all lines", || {
            (fs::read_to_string(at("got")).ok()? == expected).then_some(())
        });
    };
    fs::write(&go, "").unwrap();
    has(200);
    stop(rsyslogd);
    fs::write(&go, "").unwrap();
    eventually("the trouble is told", || {
        agent.log().contains("cannot write").then_some(())
    });
    let rsyslogd = start();
    has(400);
    stop(rsyslogd);
}

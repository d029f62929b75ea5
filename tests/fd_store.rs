//! Descriptors that services leave with the agent (`FDSTORE=1` of sd_notify(3)): the next instance gets them
//! back, whoever dies meanwhile, and nobody keeps them longer than that.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;
use support::rig::{Seeded, is_soak};
use support::{Agent, DEADLINE, Setup, Victim, eventually, is_root, pid_of, rest, signal_to};

use crate::sockets::inode;

/// Under which number a service has its notify socket open.
const NOTIFY: u32 = 900;

const CULPRIT: &str = env!("CARGO_BIN_EXE_culprit");

/// A service that stores what it is told to, and who has the other ends.
struct Scene {
    dir: tempfile::TempDir,
    listener: UnixListener,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        Self { dir, listener }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn service(&self, keys: &str) -> String {
        let dir = self.dir.path().display().to_string();
        format!("command = [{CULPRIT:?}, \"keeper\", {dir:?}]\n{keys}\n")
    }

    /// Has the service send this, and waits until it has. A line "@" has it send a descriptor along, whose other
    /// end is returned.
    fn say(&self, text: &str) -> Option<UnixStream> {
        let connect = format!("@connect {}", self.path("socket").display());
        let lines = text
            .lines()
            .map(|it| if it == "@" { &*connect } else { it });
        let text = lines.collect::<Vec<_>>().join("\n");
        self.say_plainly(&text);
        text.contains("@connect").then(|| self.accept())
    }

    fn say_plainly(&self, text: &str) {
        let (draft, file) = (self.path("draft"), self.path("text.say"));
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, &file).unwrap();
        eventually("it has said so", || (!file.exists()).then_some(()));
    }

    fn accept(&self) -> UnixStream {
        let (other, _) = self.listener.accept().unwrap();
        other.set_read_timeout(Some(DEADLINE)).unwrap();
        other
    }

    /// What the instance has got: a name and a file each.
    fn got(&self, pid: u32) -> Vec<(String, String)> {
        let text = eventually("it has started", || {
            let text = fs::read_to_string(self.path("got")).unwrap_or_default();
            text.starts_with(&format!("{pid} ")).then_some(text)
        });
        let lines = text.lines().skip(1);
        let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
        pairs
            .map(|(name, file)| (name.to_owned(), file.to_owned()))
            .collect()
    }

    fn names(&self, pid: u32) -> Vec<String> {
        self.got(pid).into_iter().map(|(name, _)| name).collect()
    }
}

/// What the next instance writes to what it has got.
fn heard(other: &UnixStream) -> String {
    let mut text = String::new();
    BufReader::with_capacity(1, other)
        .read_line(&mut text)
        .unwrap();
    text
}

/// Nobody has it open any more.
fn assert_closed(mut other: &UnixStream) {
    assert_eq!(other.read_to_end(&mut Vec::new()).unwrap(), 0);
}

fn assert_open(mut other: &UnixStream) {
    other.set_nonblocking(true).unwrap();
    let error = other.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    other.set_nonblocking(false).unwrap();
}

fn stored(agent: &Agent, names: &[&str]) {
    eventually("it is stored", || {
        (agent.status("web")["stored"] == json!(names)).then_some(())
    });
}

fn kill(agent: &Agent, pid: u32) -> u32 {
    signal_to(pid, Signal::SIGKILL);
    agent.replaced("web", pid)
}

/// Whether a process has a file open.
fn holds(pid: u32, file: &str) {
    let is_it = |path: PathBuf| fs::read_link(path).is_ok_and(|it| it == Path::new(file));
    eventually("it holds the descriptor", || {
        let mut entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        entries.any(|entry| is_it(entry.path())).then_some(())
    });
}

#[test]
fn the_next_instance_gets_what_the_last_one_has_stored() {
    let scene = Scene::new();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let keys = format!(
        "fd_store = 5\nready = {{ notify = true }}\nlisten = [{{ tcp = \"{}\", name = \"http\" }}]",
        address.unwrap()
    );
    let agent = Agent::start(&[("web", &scene.service(&keys))]);
    let pid = pid_of(&agent.wait_state("web", "starting"));
    scene.say("READY=1");
    assert_eq!(scene.names(pid), ["http"]);
    let one = scene.say("FDSTORE=1\nFDNAME=one two\n@").unwrap();
    let two = scene.say("FDSTORE=1\n@").unwrap();
    let log = scene.path("log");
    scene.say_plainly(&format!("FDSTORE=1\nFDNAME=log\n@open {}", log.display()));
    stored(&agent, &["one two", "stored", "log"]);
    assert_open(&one);
    let mut pid = pid;
    for _ in 0..3 {
        signal_to(pid, Signal::SIGKILL);
        pid = eventually("the next one", || {
            let status = agent.status("web");
            let other = status["pid"].as_u64().filter(|it| *it != u64::from(pid))?;
            (status["state"] == "starting").then(|| u32::try_from(other).unwrap())
        });
        scene.say("READY=1");
        assert_eq!(scene.names(pid), ["http", "one two", "stored", "log"]);
        assert_eq!(heard(&one), format!("{pid} one two\n"));
        assert_eq!(heard(&two), format!("{pid} stored\n"));
        let text = fs::read_to_string(scene.path("got")).unwrap();
        assert!(text.starts_with(&format!("{pid} 5 {pid}\n")), "{text}");
        rest();
    }
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().last(), Some(&*format!("{pid} log")));
    let text = agent.run(&["show", "web"]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        text.contains("  stored      one two, stored, log\n"),
        "{text}"
    );
    // By its own wish.
    scene.say("FDSTOREREMOVE=1\nFDNAME=stored");
    stored(&agent, &["one two", "log"]);
    agent.must("stop", "web");
    assert_closed(&two);
}

#[test]
fn what_is_removed_or_hangs_up_is_closed() {
    let scene = Scene::new();
    let agent = Agent::start(&[("web", &scene.service("fd_store = 9\nwatchdog = \"1h\""))]);
    agent.running("web");
    let a = scene.say("FDSTORE=1\nFDNAME=a\n@").unwrap();
    let b = scene.say("FDSTORE=1\nFDNAME=b\n@").unwrap();
    let c = scene.say("FDSTORE=1\nFDNAME=c\nFDPOLL=0\n@").unwrap();
    stored(&agent, &["a", "b", "c"]);
    scene.say("FDSTOREREMOVE=1\nFDNAME=a");
    assert_closed(&a);
    drop((b, c));
    stored(&agent, &["c"]);
    let pid = kill(&agent, agent.running("web"));
    assert_eq!(scene.names(pid), ["c"]);
}

#[test]
fn what_has_no_room_is_closed_and_said_once() {
    let scene = Scene::new();
    let agent = Agent::start(&[("web", &scene.service("fd_store = 2"))]);
    let pid = agent.running("web");
    let others = ["a", "b", "c", "d", "e"]
        .map(|name| scene.say(&format!("FDSTORE=1\nFDNAME={name}\n@")).unwrap());
    for other in &others[2..] {
        assert_closed(other);
    }
    stored(&agent, &["a", "b"]);
    let said = |text: &str| agent.log().matches(text).count();
    assert_eq!(said("fd_store = 2 is full"), 1, "{}", agent.log());
    let pid = kill(&agent, pid);
    assert_eq!(scene.names(pid), ["a", "b"]);
    // What it may have less of from now on is closed when it restarts, and its name is checked.
    agent.write_service("web", &scene.service("fd_store = 1"));
    assert!(agent.run(&["reload"]).status.success());
    let pid = agent.replaced("web", pid);
    assert_eq!(scene.names(pid), ["a"]);
    heard(&others[1]);
    assert_closed(&others[1]);
    agent.write_service("web", &scene.service("watchdog = \"1h\""));
    assert!(agent.run(&["reload"]).status.success());
    agent.replaced("web", pid);
    stored(&agent, &[]);
    let other = scene.say("FDSTORE=1\n@").unwrap();
    assert_closed(&other);
    eventually("it is said", || (said("fd_store is 0") == 1).then_some(()));
}

#[test]
fn a_name_that_cannot_be_used_is_not_used() {
    let scene = Scene::new();
    let agent = Agent::start(&[("web", &scene.service("fd_store = 9"))]);
    let pid = agent.running("web");
    let others = ["a:b", "", "\u{e4}", &"x".repeat(256)]
        .map(|name| scene.say(&format!("FDSTORE=1\nFDNAME={name}\n@")).unwrap());
    stored(&agent, &["stored"; 4]);
    let pid = kill(&agent, pid);
    assert_eq!(scene.names(pid), ["stored"; 4]);
    drop(others);
    stored(&agent, &[]);
}

#[test]
fn a_stop_closes_it_and_a_restart_does_not() {
    let scene = Scene::new();
    let keys = "fd_store = 9\nrestart = \"on-failure\"";
    let agent = Agent::start(&[("web", &scene.service(keys))]);
    agent.running("web");
    let a = scene.say("FDSTORE=1\nFDNAME=a\n@").unwrap();
    stored(&agent, &["a"]);
    agent.must("restart", "web");
    let pid = agent.running("web");
    assert_eq!(scene.names(pid), ["a"]);
    heard(&a);
    agent.must("stop", "web");
    assert_closed(&a);
    stored(&agent, &[]);
    agent.must("start", "web");
    assert_eq!(scene.names(agent.running("web")), [""; 0]);
    // One that is not started again.
    agent.write_service("web", &scene.service("fd_store = 9\nrestart = \"no\""));
    assert!(agent.run(&["reload"]).status.success());
    let b = scene.say("FDSTORE=1\nFDNAME=b\n@").unwrap();
    stored(&agent, &["b"]);
    signal_to(agent.running("web"), Signal::SIGKILL);
    agent.wait_state("web", "failed");
    assert_closed(&b);
    // One that is gone from the config.
    agent.must("start", "web");
    let c = scene.say("FDSTORE=1\nFDNAME=c\n@").unwrap();
    stored(&agent, &["c"]);
    fs::remove_file(agent.service_file("web")).unwrap();
    agent.write_service("other", "command = [\"sleep\", \"1000\"]");
    assert!(agent.run(&["reload"]).status.success());
    assert_closed(&c);
}

/// A service that stores something and ends at once: its end may be known before its message is read.
#[test]
fn what_it_stores_with_its_last_words_is_kept() {
    let scene = Scene::new();
    let agent = Agent::start(&[(
        "web",
        &scene.service("fd_store = 99\nrestart_max_delay = \"100ms\""),
    )]);
    let mut others = Vec::new();
    for round in 0..20 {
        let pid = agent.running("web");
        assert_eq!(scene.names(pid).len(), round);
        others.push(scene.say("FDSTORE=1\n@\n@exit").unwrap());
        agent.replaced("web", pid);
        rest();
    }
    stored(&agent, &["stored"; 20]);
    agent.must("stop", "web");
    for mut other in others {
        // Each instance has written to it.
        other.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn a_strangers_descriptor_is_not_stored() {
    if !is_root("a_strangers_descriptor_is_not_stored") {
        return;
    }
    let scene = Scene::new();
    let agent = Agent::start(&[("web", &scene.service("fd_store = 9"))]);
    agent.running("web");
    let text = format!(
        "FDSTORE=1\\nFDNAME=forged\\n@connect {}",
        scene.path("socket").display()
    );
    let mut command = Command::new(CULPRIT);
    command.args(["say", &text, "stay"]);
    let socket = agent.runtime_dir().join("notify/web");
    let _stranger = Victim::from_command(command.env("NOTIFY_SOCKET", &socket));
    assert_closed(&scene.accept());
    let own = scene.say("FDSTORE=1\nFDNAME=own\n@").unwrap();
    stored(&agent, &["own"]);
    // Nor may it remove anything.
    let mut command = Command::new(CULPRIT);
    command.args(["say", "FDSTOREREMOVE=1\\nFDNAME=own", "stay"]);
    let _other = Victim::from_command(command.env("NOTIFY_SOCKET", &socket));
    eventually("it was not heard", || {
        let log = agent.log();
        let refused = log.matches("not of the service was dropped").count();
        (refused == 2).then_some(())
    });
    stored(&agent, &["own"]);
    assert_open(&own);
}

/// A service that is killed under a stopped agent, which is then killed itself: only the spare has it.
#[test]
fn it_outlives_agent_and_service_together_where_there_is_a_spare() {
    if !is_root("it_outlives_agent_and_service_together_where_there_is_a_spare") {
        return;
    }
    let scene = Scene::new();
    let mut agent = Agent::start(&[("web", &scene.service("fd_store = 9"))]);
    let pid = agent.running("web");
    let a = scene.say("FDSTORE=1\nFDNAME=a\n@").unwrap();
    stored(&agent, &["a"]);
    let mut pid = kill(&agent, pid);
    let got = scene.got(pid);
    heard(&a);
    let mut spare = agent.another();
    for _ in 0..4 {
        holds(spare.id(), &got[0].1);
        agent.dies_with(pid, spare);
        spare = agent.another();
        pid = agent.replaced("web", pid);
        assert_eq!(scene.got(pid), got);
        assert_eq!(heard(&a), format!("{pid} a\n"));
        rest();
    }
    // The spare lets go of it, too.
    agent.must("stop", "web");
    assert_closed(&a);
    spare.kill().unwrap();
    spare.wait().unwrap();
}

/// The message is in a queue that only the spare has open when both are dead.
#[test]
fn what_nobody_has_read_outlives_agent_and_service_together() {
    if !is_root("what_nobody_has_read_outlives_agent_and_service_together") {
        return;
    }
    let scene = Scene::new();
    let mut agent = Agent::start(&[("web", &scene.service("fd_store = 9"))]);
    let mut pid = agent.running("web");
    let mut spare = agent.another();
    let names = ["a", "b", "c"];
    let mut others = Vec::new();
    for round in 1..=names.len() {
        holds(spare.id(), &inode(pid, NOTIFY));
        agent.signal(Signal::SIGSTOP);
        let text = format!("FDSTORE=1\nFDNAME={}\n@", names[round - 1]);
        others.push(scene.say(&text).unwrap());
        agent.dies_with(pid, spare);
        spare = agent.another();
        pid = agent.replaced("web", pid);
        assert_eq!(scene.names(pid), names[..round]);
        rest();
    }
    assert_eq!(heard(&others[2]), format!("{pid} c\n"));
    spare.kill().unwrap();
    spare.wait().unwrap();
}

#[test]
fn the_next_one_of_a_rolling_restart_has_it_too() {
    let scene = Scene::new();
    let address = crate::sockets::free();
    let script = format!(
        "(sleep 0.1; {CULPRIT} say READY=1) & exec {CULPRIT} keeper {}",
        scene.dir.path().display()
    );
    let web = format!(
        "command = {}\nlisten = [{{ tcp = \"{address}\", name = \"http\" }}]\nready = {{ notify = true }}\n\
         restart_mode = \"rolling\"\nfd_store = 4\n",
        json!(["/bin/sh", "-c", script])
    );
    let agent = Agent::start(&[("web", &web)]);
    let mut pid = agent.running("web");
    let a = scene.say("FDSTORE=1\nFDNAME=a\n@").unwrap();
    stored(&agent, &["a"]);
    for _ in 0..3 {
        let socket = inode(pid, 3);
        agent.must("restart", "web");
        let next = agent.running("web");
        assert_ne!(next, pid);
        pid = next;
        assert_eq!(scene.names(pid), ["http", "a"]);
        assert_eq!(heard(&a), format!("{pid} a\n"));
        assert_eq!(inode(pid, 3), socket);
        eventually("nothing is left of the one before", || {
            let main = |it: &u32| support::proc_status(*it, "Name").trim() == "culprit";
            (agent.live("web").into_iter().filter(main).count() == 1).then_some(())
        });
    }
    assert_eq!(agent.count("web", "replaced"), 3);
    agent.must("stop", "web");
    assert_closed(&a);
}

/// The same, with a spare that goes on as the new program.
#[test]
fn it_outlives_an_upgrade() {
    if !is_root("it_outlives_an_upgrade") {
        return;
    }
    let scene = Scene::new();
    let (binary, new) = (scene.path("respawn"), scene.path("new"));
    support::copy_program(support::respawn().get_program(), &binary);
    let setup = Setup::of_binary(&binary);
    let mut agent = Agent::with(&setup, &[("web", &scene.service("fd_store = 9"))]);
    let pid = agent.running("web");
    let a = scene.say("FDSTORE=1\nFDNAME=a\n@").unwrap();
    stored(&agent, &["a"]);
    let pid = kill(&agent, pid);
    let got = scene.got(pid);
    heard(&a);
    let spare = agent.another();
    holds(spare.id(), &got[0].1);
    fs::copy(&binary, &new).unwrap();
    fs::rename(&new, &binary).unwrap();
    agent.dies_with(pid, spare);
    let pid = agent.replaced("web", pid);
    assert_eq!(scene.got(pid), got);
    assert_eq!(heard(&a), format!("{pid} a\n"));
    let log = agent.log();
    assert!(
        log.contains("was replaced: going on as the new one"),
        "{log}"
    );
    assert!(!support::environment(pid).contains_key("RESPAWN_FD_STORE"));
    agent.must("stop", "web");
    assert_closed(&a);
}

#[test]
fn without_a_spare_the_next_agent_takes_back_what_the_service_still_has() {
    if !is_root("without_a_spare_the_next_agent_takes_back_what_the_service_still_has") {
        return;
    }
    let scene = Scene::new();
    let mut agent = Agent::start(&[("web", &scene.service("fd_store = 9"))]);
    let pid = agent.running("web");
    let a = scene.say("FDSTORE=1\nFDNAME=a\n@keep\n@").unwrap();
    let b = scene.say("FDSTORE=1\nFDNAME=b\n@").unwrap();
    stored(&agent, &["a", "b"]);
    agent.kill();
    assert_closed(&b);
    agent.start_again();
    assert_eq!(agent.running("web"), pid);
    stored(&agent, &["a"]);
    let log = agent.log();
    assert!(log.contains("stored descriptors are lost (b)"), "{log}");
    let pid = kill(&agent, pid);
    assert_eq!(scene.names(pid), ["a"]);
    assert_eq!(heard(&a), format!("{pid} a\n"));
    // Agent and service together, and nobody else.
    agent.signal(Signal::SIGSTOP);
    signal_to(pid, Signal::SIGKILL);
    agent.kill();
    assert_closed(&a);
    agent.start_again();
    let pid = agent.replaced("web", pid);
    assert_eq!(scene.names(pid), [""; 0]);
}

#[test]
fn what_it_stores_while_no_agent_lives_is_kept() {
    if !is_root("what_it_stores_while_no_agent_lives_is_kept") {
        return;
    }
    let scene = Scene::new();
    let mut agent = Agent::start(&[("web", &scene.service("fd_store = 9"))]);
    let pid = agent.running("web");
    agent.kill();
    let a = scene.say("FDSTORE=1\nFDNAME=a\n@").unwrap();
    agent.start_again();
    stored(&agent, &["a"]);
    assert_eq!(agent.running("web"), pid);
    let pid = kill(&agent, pid);
    assert_eq!(scene.names(pid), ["a"]);
    assert_eq!(heard(&a), format!("{pid} a\n"));
}

/// Agent, spare and service are killed at random and at any moment, but never all that have it open: 12
/// times, or 500 with `RESPAWN_SOAK=1`.
#[test]
fn it_is_kept_while_one_of_them_lives() {
    if !is_root("it_is_kept_while_one_of_them_lives") {
        return;
    }
    let mut random = Seeded(14);
    let scene = Scene::new();
    let mut agent = Agent::start(&[("web", &scene.service("fd_store = 9"))]);
    let pid = agent.running("web");
    let a = scene.say("FDSTORE=1\nFDNAME=a\n@").unwrap();
    stored(&agent, &["a"]);
    let got = scene.got(kill(&agent, pid));
    let file = &got[0].1;
    heard(&a);
    let mut spare = agent.another();
    for round in 0..if is_soak() { 500 } else { 12 } {
        let pid = agent.running("web");
        for pid in [spare.id(), agent.pid(), pid] {
            holds(pid, file);
        }
        let was_killed;
        (spare, was_killed) = agent.kill_some(spare, pid, &mut random);
        if was_killed {
            let pid = agent.replaced("web", pid);
            assert_eq!(scene.got(pid), got, "{round}");
            assert_eq!(heard(&a), format!("{pid} a\n"), "{round}");
            rest();
        }
        stored(&agent, &["a"]);
    }
    agent.must("stop", "web");
    assert_closed(&a);
    spare.kill().unwrap();
    spare.wait().unwrap();
}

#[test]
fn as_many_as_there_may_be_are_handed_on() {
    let scene = Scene::new();
    let keys = "fd_store = 512\nready = { notify = true }";
    let agent = Agent::start(&[("web", &scene.service(keys))]);
    let pid = pid_of(&agent.wait_state("web", "starting"));
    // A message carries 253 of them.
    for message in 0..2 {
        let lines = (0..250).map(|file| {
            let path = scene.path(&format!("{message}-{file}"));
            format!("@open {}\n", path.display())
        });
        let lines: String = lines.collect();
        scene.say_plainly(&format!("FDSTORE=1\nFDNAME={message}\n{lines}READY=1"));
    }
    eventually("they are stored", || {
        let names = agent.status("web")["stored"].clone();
        (names.as_array().unwrap().len() == 500).then_some(())
    });
    signal_to(agent.running("web"), Signal::SIGKILL);
    let pid = eventually("the next one", || {
        let other = agent.status("web")["pid"].as_u64()?;
        (other != u64::from(pid)).then(|| u32::try_from(other).unwrap())
    });
    let got = scene.got(pid);
    assert_eq!(got.len(), 500);
    for (name, number) in [("0", 0), ("1", 250)] {
        let path = scene.path(&format!("{name}-0")).display().to_string();
        assert_eq!(got[number], (name.to_owned(), path));
    }
    scene.say("READY=1\nSTATUS=heard");
    eventually("it is heard", || {
        (agent.status("web")["says"] == "heard").then_some(())
    });
}

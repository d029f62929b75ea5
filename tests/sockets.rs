//! Sockets that are held for services: what a service gets, and that nobody who connects is refused,
//! whoever dies meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use support::rig::{Seeded, is_soak, report};
use support::{Agent, DEADLINE, Setup, eventually, is_root, now, pid_of, rest, signal_to};

const SERVER: &str = env!("CARGO_BIN_EXE_server");

/// An address that nobody listens at.
pub(crate) fn free() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap()
}

/// A service that serves its sockets.
fn serving(how: &str, listen: &str, keys: &str) -> String {
    format!("command = [{SERVER:?}, {how:?}]\nlisten = [{listen}]\n{keys}\n")
}

fn tcp(address: SocketAddr) -> String {
    format!("{{ tcp = \"{address}\" }}")
}

/// What the server says of itself, in words.
fn said(stream: &mut (impl Read + Write)) -> Option<Vec<String>> {
    stream.write_all(b"x").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

/// What the server there says of itself.
pub(crate) fn ask(address: SocketAddr) -> Option<Vec<String>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    said(&mut stream)
}

/// Who answers there, once somebody does.
fn served_by(address: SocketAddr) -> u32 {
    let words = eventually("an answer", || ask(address));
    words[0].parse().unwrap()
}

/// What a socket is among all of this boot.
pub(crate) fn inode(pid: u32, descriptor: u32) -> String {
    let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
    target.to_str().unwrap().to_owned()
}

/// Whether a process has a file open.
fn has(pid: u32, inode: &str) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    entries
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == inode))
}

pub(crate) fn holds(pid: u32, inode: &str) {
    eventually("it holds the socket", || has(pid, inode).then_some(()));
}

/// Sends HTTP requests, each on a connection of its own, again and again.
pub(crate) struct Clients {
    end: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 3]>,
    threads: Vec<JoinHandle<Duration>>,
}

/// What has come of their requests.
#[derive(Debug)]
pub(crate) struct Load {
    /// So many could not connect.
    pub(crate) refused: usize,
    /// So many had no answer: what is in flight in a process that is killed.
    pub(crate) failed: usize,
    pub(crate) served: usize,
    /// The longest time that one client went unserved.
    pub(crate) longest: Duration,
}

impl Load {
    pub(crate) fn words(&self) -> String {
        let Self {
            refused,
            failed,
            served,
            longest,
        } = self;
        format!("{served} served, {refused} refused, {failed} failed, longest gap {longest:.2?}")
    }

    /// Fails if anybody was refused, or if more was lost than what was in flight in killed processes.
    pub(crate) fn assert_held(&self, clients: usize, kills: usize) {
        assert_eq!(self.refused, 0, "{self:?}");
        assert!(self.failed <= clients * kills, "{kills} kills: {self:?}");
    }
}

impl Clients {
    pub(crate) fn of(address: SocketAddr, count: usize) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let counts: Arc<[AtomicUsize; 3]> = Arc::default();
        let threads = (0..count).map(|_| {
            let (end, counts) = (Arc::clone(&end), Arc::clone(&counts));
            thread::spawn(move || {
                let mut last = now();
                let mut longest = Duration::ZERO;
                while !end.load(Ordering::Relaxed) {
                    let which = match TcpStream::connect(address) {
                        Err(_) => 0,
                        Ok(stream) => 1 + usize::from(answers(stream)),
                    };
                    counts[which].fetch_add(1, Ordering::Relaxed);
                    if which == 2 {
                        longest = longest.max(last.elapsed());
                        last = now();
                    }
                }
                longest
            })
        });
        let threads = threads.collect();
        Self {
            end,
            counts,
            threads,
        }
    }

    /// What has come of them.
    pub(crate) fn end(self) -> Load {
        self.end.store(true, Ordering::Relaxed);
        let longest = self.threads.into_iter().map(|it| it.join().unwrap()).max();
        let [refused, failed, served] = [0, 1, 2].map(|at| self.counts[at].load(Ordering::Relaxed));
        Load {
            refused,
            failed,
            served,
            longest: longest.unwrap(),
        }
    }

    /// Waits until some more were served.
    pub(crate) fn go_on(&self) {
        let before = self.counts[2].load(Ordering::Relaxed);
        eventually("clients are served", || {
            (self.counts[2].load(Ordering::Relaxed) > before + 5).then_some(())
        });
    }
}

/// Whether a request is answered, to its end.
fn answers(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.")
        && answer.split(' ').nth(1) == Some("200")
}

fn reload(agent: &Agent) {
    let output = agent.run(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_service_gets_its_sockets_as_sd_listen_fds_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let [stream, datagram, packet, answer] = ["s", "d", "p", "a"].map(|it| dir.path().join(it));
    let (one, udp) = (free(), free());
    let listen = format!(
        "{{ tcp = \"{one}\", name = \"http\", backlog = 5 }}, {{ udp = \"{udp}\" }}, \
         {{ unix = {stream:?}, mode = \"0640\", name = \"x y\" }}, {{ unix_datagram = {datagram:?} }}, \
         {{ unix_seqpacket = {packet:?} }}"
    );
    let keys = "environment.LISTEN_PID = \"1\"\nready = { fd = 8 }\nlog = { stdout = true }";
    let agent = Agent::start(&[("web", &serving("", &listen, keys))]);
    let pid = pid_of(&agent.wait_state("web", "starting"));
    let words = |descriptor: u32| {
        let text = format!("{pid} {pid} 5 http:web:x y:web:web {descriptor}");
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(eventually("an answer", || ask(one)), words(3));
    let sockets = agent.status("web")["sockets"].clone();
    let shown = |family: &str, address: &str, name: &str| json!({"family": family, "address": address, "name": name, "held": true});
    assert_eq!(sockets[0], shown("tcp", &one.to_string(), "http"));
    assert_eq!(sockets[2], shown("unix", stream.to_str().unwrap(), "x y"));
    let text = agent.run(&["show", "web"]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    let line =
        format!("  sockets     {one} (tcp, http), held\n              {udp} (udp, web), held\n");
    assert!(text.contains(&line), "{text}");
    let unix = said(&mut UnixStream::connect(&stream).unwrap());
    assert_eq!(unix.unwrap(), words(5));
    assert_eq!(fs::metadata(&stream).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(&packet).unwrap().mode() & 0o7777, 0o666);
    let text = answer.to_str().unwrap().as_bytes();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(text, udp).unwrap();
    let answered = |descriptor: u32| {
        eventually("an answer", || {
            let text = fs::read_to_string(&answer).unwrap_or_default();
            let said: Vec<&str> = text.split_whitespace().collect();
            (said == words(descriptor)).then_some(())
        });
    };
    answered(4);
    UnixDatagram::unbound()
        .unwrap()
        .send_to(text, &datagram)
        .unwrap();
    answered(6);
    // Nothing else of the agent's is there.
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let number: u32 = descriptor
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(number <= 8, "{number}");
    }
    agent.must("stop", "web");
    assert_eq!(agent.status("web")["sockets"][0]["held"], false);
    for path in [&stream, &datagram, &packet] {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn nobody_is_refused_while_the_service_is_killed() {
    let address = free();
    let agent = Agent::start(&[("web", &serving("nonblock", &tcp(address), ""))]);
    let clients = Clients::of(address, 3);
    for _ in 0..15 {
        let pid = agent.running("web");
        clients.go_on();
        signal_to(pid, Signal::SIGKILL);
        rest();
        agent.replaced("web", pid);
    }
    clients.go_on();
    let load = clients.end();
    load.assert_held(3, 15);
    assert!(load.served > 50, "{load:?}");
}

#[test]
fn who_connects_during_backoff_waits_and_after_a_stop_is_refused() {
    let (one, two, three) = (free(), free(), free());
    let dir = tempfile::tempdir().unwrap();
    let off = dir.path().join("off");
    let unless_off = format!("conditions = {{ path_exists = \"!{}\" }}", off.display());
    let agent = Agent::start(&[
        ("web", &serving("", &tcp(one), "restart_delay = \"1s\"")),
        ("once", &serving("", &tcp(two), "restart = \"no\"")),
        ("maybe", &serving("", &tcp(three), &unless_off)),
    ]);
    let pid = agent.running("web");
    TcpStream::connect(one).unwrap().write_all(b"die").unwrap();
    agent.wait_state("web", "backoff");
    let next = served_by(one);
    assert_ne!(next, pid);
    agent.must("stop", "web");
    TcpStream::connect(one).unwrap_err();
    // One that is not started again is down too.
    signal_to(agent.running("once"), Signal::SIGKILL);
    agent.wait_state("once", "failed");
    TcpStream::connect(two).unwrap_err();
    served_by(three);
    fs::write(&off, "").unwrap();
    signal_to(agent.running("maybe"), Signal::SIGKILL);
    agent.wait_state("maybe", "skipped");
    TcpStream::connect(three).unwrap_err();
    fs::remove_file(&off).unwrap();
    agent.must("start", "maybe");
    served_by(three);
    for service in ["web", "once"] {
        agent.must("start", service);
    }
    assert_eq!(served_by(one), agent.running("web"));
    let before = inode(pid_of(&agent.status("web")), 3);
    agent.must("restart", "web");
    assert_eq!(inode(agent.running("web"), 3), before);
    served_by(two);
}

/// A service that is killed under a stopped agent, which is then killed itself: only the spare has the
/// socket.
#[test]
fn nobody_is_refused_when_agent_and_service_are_killed_together() {
    let address = free();
    let mut agent = Agent::start(&[("web", &serving("", &tcp(address), ""))]);
    let pid = agent.running("web");
    let socket = inode(pid, 3);
    let clients = Clients::of(address, 3);
    let mut spare = agent.another();
    let mut pid = pid;
    for _ in 0..5 {
        holds(spare.id(), &socket);
        clients.go_on();
        agent.dies_with(pid, spare);
        spare = agent.another();
        pid = agent.replaced("web", pid);
        assert_eq!(inode(pid, 3), socket);
    }
    clients.go_on();
    clients.end().assert_held(3, 5);
    spare.kill().unwrap();
    spare.wait().unwrap();
}

/// The same, with a spare that goes on as the new program.
#[test]
fn nobody_is_refused_when_the_spare_takes_over_as_a_new_binary() {
    let dir = tempfile::tempdir().unwrap();
    let (binary, new) = (dir.path().join("respawn"), dir.path().join("new"));
    support::copy_program(support::respawn().get_program(), &binary);
    let setup = Setup::of_binary(&binary);
    let address = free();
    let mut agent = Agent::with(&setup, &[("web", &serving("", &tcp(address), ""))]);
    let pid = agent.running("web");
    let socket = inode(pid, 3);
    let clients = Clients::of(address, 3);
    let spare = agent.another();
    holds(spare.id(), &socket);
    clients.go_on();
    fs::copy(&binary, &new).unwrap();
    fs::rename(&new, &binary).unwrap();
    agent.dies_with(pid, spare);
    let pid = agent.replaced("web", pid);
    assert_eq!(inode(pid, 3), socket);
    clients.go_on();
    clients.end().assert_held(3, 1);
    let log = agent.log();
    assert!(
        log.contains("was replaced: going on as the new one"),
        "{log}"
    );
    // It goes to nobody else.
    assert!(!support::environment(pid).contains_key("RESPAWN_SOCKETS"));
    agent.must("stop", "web");
    TcpStream::connect(address).unwrap_err();
}

/// Whoever is left has it.
#[test]
fn the_next_agent_takes_the_socket_from_the_living_instance() {
    if !is_root("the_next_agent_takes_the_socket_from_the_living_instance") {
        return;
    }
    let [plain, moved, child, swapped, closed] = [free(), free(), free(), free(), free()];
    let mut agent = Agent::start(&[
        ("plain", &serving("", &tcp(plain), "")),
        ("moved", &serving("move", &tcp(moved), "")),
        ("child", &serving("child", &tcp(child), "")),
        ("swapped", &serving("swap", &tcp(swapped), "")),
        ("closed", &serving("close", &tcp(closed), "")),
    ]);
    let names = ["plain", "moved", "child", "swapped"];
    let pids = names.map(|name| agent.running(name));
    agent.running("closed");
    for address in [plain, moved, child, swapped] {
        served_by(address);
    }
    let socket = inode(pids[0], 3);
    let [real, other] = [50, 3].map(|number| inode(pids[3], number));
    agent.kill();
    TcpStream::connect(closed).unwrap_err();
    agent.start_again();
    holds(agent.pid(), &socket);
    // By its number in the kernel.
    holds(agent.pid(), &real);
    assert!(!has(agent.pid(), &other));
    let clients = Clients::of(plain, 2);
    for (name, pid) in names.into_iter().zip(pids) {
        assert_eq!(agent.running(name), pid);
        signal_to(pid, Signal::SIGKILL);
        let pid = agent.replaced(name, pid);
        if name == "plain" {
            assert_eq!(inode(pid, 3), socket);
        }
    }
    for address in [plain, moved, child, swapped] {
        served_by(address);
    }
    clients.end().assert_held(2, 1);
    // What nobody has any more is bound again at the next start.
    let log = agent.log();
    let words = format!("cannot take over its socket {closed}: no process of the service has it");
    assert!(log.contains(&words), "{log}");
    agent.must("restart", "closed");
    TcpStream::connect(closed).unwrap();
}

/// Agent, spare and service are killed at random and at any moment, but never all that hold the socket:
/// 12 times, or 500 with `RESPAWN_SOAK=1`.
#[test]
fn nobody_is_refused_while_one_of_them_lives() {
    if !is_root("nobody_is_refused_while_one_of_them_lives") {
        return;
    }
    let mut random = Seeded(13);
    let address = free();
    let mut agent = Agent::start(&[("web", &serving("", &tcp(address), ""))]);
    let socket = inode(agent.running("web"), 3);
    let clients = Clients::of(address, 3);
    let mut spare = agent.another();
    let mut kills = 0;
    for round in 0..if is_soak() { 500 } else { 12 } {
        let pid = agent.running("web");
        holds(spare.id(), &socket);
        holds(agent.pid(), &socket);
        clients.go_on();
        let was_killed;
        (spare, was_killed) = agent.kill_some(spare, pid, &mut random);
        if was_killed {
            kills += 1;
            agent.replaced("web", pid);
            rest();
        }
        assert_eq!(inode(agent.running("web"), 3), socket, "{round}");
    }
    clients.go_on();
    let load = clients.end();
    report(&load.words());
    load.assert_held(3, kills);
    spare.kill().unwrap();
    spare.wait().unwrap();
}

#[test]
fn a_reload_binds_what_is_new_and_leaves_the_rest() {
    let [one, two, three] = [free(), free(), free()];
    let both = |other: SocketAddr| format!("{}, {}", tcp(one), tcp(other));
    let agent = Agent::start(&[("web", &serving("", &both(two), ""))]);
    let pid = agent.running("web");
    let [stays, goes] = [inode(pid, 3), inode(pid, 4)];
    let clients = Clients::of(one, 2);
    clients.go_on();
    agent.write_service("web", &serving("", &both(three), ""));
    reload(&agent);
    let pid = agent.replaced("web", pid);
    assert_eq!(inode(pid, 3), stays);
    assert_ne!(inode(pid, 4), goes);
    assert_eq!(served_by(three), pid);
    TcpStream::connect(two).unwrap_err();
    // One that is in use changes nothing.
    let _taken = TcpListener::bind(two).unwrap();
    agent.write_service("web", &serving("", &both(two), ""));
    let output = agent.run(&["reload"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    let expected = format!(
        "web.toml:3: listen: cannot listen on {two}: the address is in use by another socket"
    );
    assert!(text.contains(&expected), "{text}");
    assert_eq!(served_by(three), pid);
    assert_eq!(agent.running("web"), pid);
    // A name alone is no other socket.
    let named = format!(
        "{{ tcp = \"{three}\", name = \"x\", backlog = 7 }}, {}",
        tcp(one)
    );
    agent.write_service("web", &serving("", &named, ""));
    reload(&agent);
    let pid = agent.replaced("web", pid);
    assert_eq!(inode(pid, 4), stays);
    assert_eq!(eventually("an answer", || ask(three))[3], "x:web");
    clients.go_on();
    assert_eq!(clients.end().refused, 0);
    // A service that is gone from the config has none.
    fs::remove_file(agent.service_file("web")).unwrap();
    agent.write_service("other", "command = [\"sleep\", \"1000\"]");
    reload(&agent);
    eventually("nobody listens any more", || {
        TcpStream::connect(one).is_err().then_some(())
    });
}

#[test]
fn what_cannot_be_bound_is_told_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "precious").unwrap();
    symlink(path("file"), path("link")).unwrap();
    fs::create_dir(path("open")).unwrap();
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let address = free();
    let taken = TcpListener::bind(address).unwrap();
    let unix = |name: &str| serving("", &format!("{{ unix = {:?} }}", path(name)), "");
    let agent = Agent::start(&[
        (
            "port",
            &serving("", &tcp(address), "restart_max_delay = \"200ms\""),
        ),
        ("file", &unix("file")),
        ("link", &unix("link")),
        ("open", &unix("open/x")),
        ("none", &unix("none/x")),
    ]);
    for (service, expected) in [
        (
            "port",
            format!("cannot listen on {address}: the address is in use"),
        ),
        (
            "file",
            "a regular file exists and is not replaced".to_owned(),
        ),
        (
            "link",
            "a symbolic link exists and is not replaced".to_owned(),
        ),
        ("open", "everyone may write to".to_owned()),
        ("none", "there is no directory".to_owned()),
    ] {
        let status = agent.wait_state(service, "backoff");
        let error = status["error"].as_str().unwrap();
        assert!(error.contains(&expected), "{error}");
    }
    assert_eq!(fs::read_to_string(path("file")).unwrap(), "precious");
    drop(taken);
    assert_eq!(served_by(address), agent.running("port"));
    fs::create_dir(path("none")).unwrap();
    eventually("it listens", || UnixStream::connect(path("none/x")).ok());
}

#[test]
fn a_directory_of_the_services_user_is_refused() {
    if !is_root("a_directory_of_the_services_user_is_refused") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [own, roots] = ["own", "roots"].map(|name| dir.path().join(name));
    for path in [&own, &roots] {
        fs::create_dir(path).unwrap();
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(&own, Some(65_534), None).unwrap();
    let server = dir.path().join("server");
    fs::copy(SERVER, &server).unwrap();
    let service = |path: &Path| {
        format!(
            "command = [{server:?}]\nlisten = [{{ unix = {path:?}, user = 65534, group = 4, mode = \"0600\" }}]\n\
             user = 65534\ngroup = 65534\n"
        )
    };
    let agent = Agent::start(&[
        ("own", &service(&own.join("x"))),
        ("good", &service(&roots.join("x"))),
    ]);
    let status = agent.wait_state("own", "backoff");
    let error = status["error"].as_str().unwrap();
    let expected = format!("{} belongs to uid 65534, and could put", own.display());
    assert!(error.contains(&expected), "{error}");
    agent.running("good");
    let metadata = fs::metadata(roots.join("x")).unwrap();
    let found = (metadata.uid(), metadata.gid(), metadata.mode() & 0o777);
    assert_eq!(found, (65_534, 4, 0o600));
    assert!(said(&mut UnixStream::connect(roots.join("x")).unwrap()).is_some());
}

#[test]
fn with_a_spare_a_stop_is_a_stop_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    let (one, udp) = (free(), free());
    let listen = format!("{}, {{ udp = \"{udp}\" }}, {{ unix = {path:?} }}", tcp(one));
    let mut agent = Agent::start(&[
        (
            "web",
            &serving("", &listen, "restart_max_delay = \"100ms\""),
        ),
        ("other", &support::sleeping("")),
    ]);
    let pid = agent.running("web");
    let sockets = [3, 4, 5].map(|descriptor| inode(pid, descriptor));
    let mut spare = agent.another();
    for socket in &sockets {
        holds(spare.id(), socket);
    }
    agent.must("stop", "web");
    TcpStream::connect(one).unwrap_err();
    assert!(!path.exists());
    for socket in &sockets {
        eventually("the spare has let go of it", || {
            (!has(spare.id(), socket)).then_some(())
        });
        assert!(!has(agent.pid(), socket));
    }
    agent.must("start", "web");
    assert_eq!(served_by(one), agent.running("web"));
    // All who have them are killed.
    spare.kill().unwrap();
    spare.wait().unwrap();
    let pid = agent.running("web");
    agent.signal(Signal::SIGSTOP);
    signal_to(pid, Signal::SIGKILL);
    eventually("the service is dead", || {
        (!support::is_alive(pid)).then_some(())
    });
    agent.kill();
    TcpStream::connect(one).unwrap_err();
    assert!(UnixStream::connect(&path).is_err() && path.exists());
    agent.start_again();
    let pid = agent.running("web");
    assert_eq!(served_by(one), pid);
    assert!(said(&mut UnixStream::connect(&path).unwrap()).is_some());
    // A service that is gone leaves neither a file nor a cgroup.
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = support::cgroup_mount().zip(own.filter(|own| own.contains("web")));
    let own = own.map(|(mount, own)| mount.join(own));
    fs::remove_file(agent.service_file("web")).unwrap();
    reload(&agent);
    eventually("it is gone", || agent.status("web").is_null().then_some(()));
    assert!(!path.exists());
    let records = fs::read_dir(agent.runtime_dir().join("sockets")).unwrap();
    assert_eq!(records.count(), 0);
    if let Some(own) = own {
        eventually("its cgroup is gone", || (!own.exists()).then_some(()));
    }
}

#[test]
fn what_the_next_agent_needs_is_put_back() {
    let address = free();
    let agent = Agent::start(&[("web", &serving("", &tcp(address), ""))]);
    let socket = inode(agent.running("web"), 3);
    let records = agent.runtime_dir().join("sockets");
    let before = fs::read(records.join("web")).unwrap();
    fs::remove_dir_all(&records).unwrap();
    eventually("it is there again", || {
        (fs::read(records.join("web")).ok()? == before).then_some(())
    });
    let mut spare = agent.another();
    holds(spare.id(), &socket);
    spare.kill().unwrap();
    spare.wait().unwrap();
}

#[test]
fn what_listen_says_of_a_socket_is_so() {
    const NAME: &str = "what_listen_says_of_a_socket_is_so";
    let Ok(six) = TcpListener::bind("[::1]:0") else {
        return support::skip(NAME, "this host has no IPv6");
    };
    let ports = [six.local_addr().unwrap().port(), free().port()];
    drop(six);
    let any = |port: u16, alone: bool| {
        let listen = format!("{{ tcp = \"[::]:{port}\", ipv6_only = {alone} }}");
        serving("", &listen, "")
    };
    let few = free();
    let waiting = |backlog: usize| {
        format!(
            "command = [\"sleep\", \"1000\"]\nlisten = [{{ tcp = \"{few}\", backlog = {backlog} }}]\n"
        )
    };
    let agent = Agent::start(&[
        ("alone", &any(ports[0], true)),
        ("both", &any(ports[1], false)),
        ("few", &waiting(3)),
    ]);
    for service in ["alone", "both", "few"] {
        agent.running(service);
    }
    for (port, alone) in ports.into_iter().zip([true, false]) {
        served_by(format!("[::1]:{port}").parse().unwrap());
        let old = TcpStream::connect(("127.0.0.1", port));
        assert_eq!(old.is_err(), alone);
    }
    // The kernel lets one more wait than it is told (`sk_acceptq_is_full`), and answers no others.
    let wait = |backlog: usize| {
        let connect = || TcpStream::connect_timeout(&few, Duration::from_millis(700)).ok();
        let connected: Vec<_> = (0..backlog + 3).map_while(|_| connect()).collect();
        assert_eq!(connected.len(), backlog + 1);
    };
    wait(3);
    agent.must("stop", "few");
    agent.write_service("few", &waiting(6));
    reload(&agent);
    agent.must("start", "few");
    wait(6);
}

/// How many clients there are, and for how long: for two seconds, or ten with `RESPAWN_SOAK=1`, or what
/// `RESPAWN_LOAD_CLIENTS` and `RESPAWN_LOAD_SECONDS` say.
fn load() -> (usize, Duration) {
    let number = |name: &str, default| {
        let said = std::env::var(name).ok().and_then(|text| text.parse().ok());
        said.unwrap_or(default)
    };
    let seconds = number("RESPAWN_LOAD_SECONDS", if is_soak() { 10 } else { 2 });
    let clients = usize::try_from(number("RESPAWN_LOAD_CLIENTS", 4)).unwrap();
    (clients, Duration::from_secs(seconds))
}

/// HTTP requests while the server is killed every 100 ms.
#[test]
fn load_while_the_service_is_killed() {
    let (count, time) = load();
    let address = free();
    let agent = Agent::start(&[("web", &serving("", &tcp(address), ""))]);
    agent.running("web");
    let clients = Clients::of(address, count);
    let begin = now();
    let mut kills = 0;
    while begin.elapsed() < time {
        thread::sleep(Duration::from_millis(100));
        if let Some(pid) = agent.status("web")["pid"].as_u64() {
            signal_to(u32::try_from(pid).unwrap(), Signal::SIGKILL);
            kills += 1;
        }
    }
    agent.running("web");
    clients.go_on();
    let load = clients.end();
    report(&format!("{kills} kills of the service: {}", load.words()));
    load.assert_held(count, kills);
}

/// The same where the agent is killed at the same time, and only its spare has the socket. Each kill comes 100 ms
/// after the one before, or as soon as there is another spare.
#[test]
fn load_while_agent_and_service_are_killed() {
    let (count, time) = load();
    let address = free();
    let mut agent = Agent::start(&[("web", &serving("", &tcp(address), ""))]);
    let mut pid = agent.running("web");
    let socket = inode(pid, 3);
    let mut spare = agent.another();
    let clients = Clients::of(address, count);
    let begin = now();
    let mut kills = 0;
    while begin.elapsed() < time {
        let pause = now();
        holds(spare.id(), &socket);
        thread::sleep(Duration::from_millis(100).saturating_sub(pause.elapsed()));
        // So that it starts no other one before it is dead itself.
        agent.signal(Signal::SIGSTOP);
        signal_to(pid, Signal::SIGKILL);
        agent.replace_by(spare);
        spare = agent.another();
        pid = agent.replaced("web", pid);
        assert_eq!(inode(pid, 3), socket);
        kills += 1;
    }
    clients.go_on();
    let load = clients.end();
    report(&format!(
        "{kills} kills of agent and service: {}",
        load.words()
    ));
    load.assert_held(count, kills);
    spare.kill().unwrap();
    spare.wait().unwrap();
}

const CULPRIT: &str = env!("CARGO_BIN_EXE_culprit");

/// A service that is replaced while it runs. An instance is ready as soon as there is the file "go"; it ends
/// at once if there is the file "bad".
fn rolling(dir: &Path, address: SocketAddr, keys: &str) -> String {
    let dir = dir.display();
    let script = format!(
        "[ -e {dir}/bad ] && exit 3; \
         (while ! [ -e {dir}/go ]; do sleep 0.02; done; {CULPRIT} say READY=1) & exec {SERVER} nonblock"
    );
    format!(
        "command = {}\nlisten = [{}]\nready = {{ notify = true }}\nrestart_mode = \"rolling\"\n{keys}\n",
        json!(["/bin/sh", "-c", script]),
        tcp(address)
    )
}

/// What came of a restart, and what it said.
fn restart(agent: &Agent) -> (bool, String) {
    let output = agent.run(&["restart", "web"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), text)
}

#[test]
fn a_rolling_restart_has_one_serve_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let address = free();
    fs::write(dir.path().join("go"), "").unwrap();
    let mut agent = Agent::start(&[
        ("web", &rolling(dir.path(), address, "")),
        ("app", &support::sleeping("requires = [\"web\"]")),
    ]);
    let first = agent.running("web");
    let app = agent.running("app");
    let clients = Clients::of(address, 3);
    let mut pid = first;
    for round in 1..=8 {
        clients.go_on();
        assert_eq!(restart(&agent), (true, String::new()));
        let status = agent.status("web");
        assert_eq!(
            (&status["state"], &status["restarts"]),
            (&json!("running"), &json!(round))
        );
        assert_ne!(pid_of(&status), pid);
        pid = pid_of(&status);
        eventually("nothing is left of the one before", || {
            (agent.live("web").len() == 1).then_some(())
        });
    }
    // A reload with another command, and one that changes nothing of it.
    let keys = "nice = 1\n";
    agent.write_service("web", &rolling(dir.path(), address, keys));
    reload(&agent);
    assert_ne!(agent.running("web"), pid);
    let pid = agent.running("web");
    let keys = format!("{keys}stop_timeout = \"5s\"");
    agent.write_service("web", &rolling(dir.path(), address, &keys));
    assert!(agent.run(&["reload"]).status.success());
    assert_eq!(agent.running("web"), pid);
    clients.go_on();
    let load = clients.end();
    assert_eq!(load.refused, 0);
    assert!(load.served > 50, "{load:?}");
    // Whoever requires it has noticed nothing.
    assert_eq!(agent.running("app"), app);
    let count = |kind| agent.count("web", kind);
    assert_eq!(count("started"), 1);
    assert_eq!((count("next_started"), count("replaced")), (9, 9));
    eventually("each end is in the journal", || {
        (count("exited") == 9).then_some(())
    });
    agent.must("stop", "web");
    assert_eq!(agent.live("web"), Vec::<u32>::new());
    agent.signal(Signal::SIGTERM);
    agent.wait();
}

#[test]
fn the_old_one_goes_on_if_the_next_one_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (go, bad) = (dir.path().join("go"), dir.path().join("bad"));
    let address = free();
    fs::write(&go, "").unwrap();
    let agent = Agent::start(&[(
        "web",
        &rolling(dir.path(), address, "start_timeout = \"1s\""),
    )]);
    let pid = agent.running("web");
    fs::write(&bad, "").unwrap();
    let (done, text) = restart(&agent);
    assert!(
        !done && text.contains("exited with 3 before it was ready"),
        "{text}"
    );
    fs::remove_file(&bad).unwrap();
    fs::remove_file(&go).unwrap();
    let (done, text) = restart(&agent);
    assert!(
        !done && text.contains("not ready within start_timeout (1s)"),
        "{text}"
    );
    assert_eq!(agent.running("web"), pid);
    assert_eq!(served_by(address), pid);
    assert_eq!(agent.count("web", "not_replaced"), 2);
    let status = agent.status("web");
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("not ready within"),
        "{status}"
    );
    // The old one is killed while the next one is on its way: that is the service then.
    let mut waiting = agent.command(&["restart", "web"]).spawn().unwrap();
    let next = eventually("the next one has started", || {
        let events = agent.events_of("web");
        let started = events.iter().filter(|it| it["event"] == "next_started");
        let pids: Vec<u32> = started.map(pid_of).collect();
        (pids.len() == 3).then(|| pids[2])
    });
    assert_eq!(agent.status("web")["step"], "replacement");
    signal_to(pid, Signal::SIGKILL);
    let status = agent.wait_state("web", "starting");
    assert_eq!(pid_of(&status), next);
    fs::write(&go, "").unwrap();
    assert!(waiting.wait().unwrap().success());
    assert_eq!(agent.running("web"), next);
}

#[test]
fn the_next_agent_goes_on_with_a_rolling_restart() {
    if !is_root("the_next_agent_goes_on_with_a_rolling_restart") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let address = free();
    fs::write(&go, "").unwrap();
    let mut agent = Agent::start(&[("web", &rolling(dir.path(), address, ""))]);
    let pid = agent.running("web");
    fs::remove_file(&go).unwrap();
    let mut waiting = agent.command(&["restart", "web"]).spawn().unwrap();
    eventually("the next one has started", || {
        (agent.count("web", "next_started") == 1).then_some(())
    });
    let clients = Clients::of(address, 2);
    agent.kill();
    assert!(!waiting.wait().unwrap().success());
    fs::write(&go, "").unwrap();
    agent.start_again();
    eventually("it is replaced", || {
        (agent.count("web", "replaced") == 1).then_some(())
    });
    assert_ne!(agent.running("web"), pid);
    eventually("each end is in the journal", || {
        (agent.count("web", "exited") == 1).then_some(())
    });
    // At any moment.
    let mut random = Seeded(29);
    for _ in 0..if is_soak() { 200 } else { 12 } {
        let mut waiting = agent.command(&["restart", "web"]).spawn().unwrap();
        thread::sleep(Duration::from_micros(random.below(120_000)));
        agent.kill();
        waiting.wait().unwrap();
        agent.start_again();
        eventually("one of it is left", || {
            let status = agent.status("web");
            let is_at_rest = status["state"] == "running" && status["step"].is_null();
            let mut live = agent.live("web");
            live.retain(|pid| support::proc_status(*pid, "Name").trim() == "server");
            (is_at_rest && live == [pid_of(&status)]).then_some(())
        });
    }
    clients.go_on();
    assert_eq!(clients.end().refused, 0);
    // Each instance was told of once, and its end as well.
    let pids = |kinds: &[&str]| {
        let events = agent.events_of("web").into_iter();
        let events = events.filter(|it| kinds.iter().any(|kind| it["event"] == *kind));
        let mut pids: Vec<_> = events
            .map(|it| it["start_time_ns"].as_u64().zip(Some(pid_of(&it))))
            .collect();
        pids.sort();
        pids
    };
    let ended = pids(&["exited"]);
    let mut once = ended.clone();
    once.dedup();
    assert_eq!(ended, once);
}

#[test]
fn what_the_old_one_says_of_its_end_is_not_the_new_ones() {
    if !is_root("what_the_old_one_says_of_its_end_is_not_the_new_ones") {
        return;
    }
    // By a process that has ended when the agent reads it.
    let script = format!(
        "trap '{CULPRIT} say STOPPING=1; sleep 0.5; exit 0' TERM; {CULPRIT} say READY=1; \
         while :; do sleep 0.05; done"
    );
    let text = format!(
        "command = {}\nlisten = [{}]\nready = {{ notify = true }}\nrestart_mode = \"rolling\"\n\
         stop_timeout = \"1s\"\n",
        json!(["/bin/sh", "-c", script]),
        tcp(free())
    );
    let agent = Agent::start(&[("web", &text)]);
    agent.running("web");
    for round in 1..=3 {
        assert_eq!(restart(&agent), (true, String::new()));
        let pid = agent.running("web");
        eventually("the old one has ended", || {
            (agent.count("web", "exited") == round).then_some(())
        });
        // Longer than one that has said that it ends is waited for.
        thread::sleep(Duration::from_millis(1200));
        assert_eq!(agent.running("web"), pid);
        assert_eq!(agent.status("web")["step"], json!(null));
    }
    assert_eq!(agent.count("web", "started"), 1);
}

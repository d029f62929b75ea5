//! The server over a real socket, with an agent's loop that only knows a few answers.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::{fs, iter};

use nix::unistd::{Gid, Uid, getegid, geteuid, setgroups, setresgid, setresuid};
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::control::client::{AskError, ask};
use crate::control::protocol::MAX_REQUEST;
use crate::control::{ServiceResult, ServiceStatus, socket};
use crate::model::{Desired, State};

/// How long anything may take before a test gives up: far longer than it ever takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the agent's loop has seen.
#[derive(Debug, PartialEq)]
enum Seen {
    Command(Command),
    /// The peer of a stop that waits has hung up.
    HungUp,
}

/// An agent's loop in a thread of its own. Status is answered with `services` services, a stop
/// with `no_wait: false` only when it is released, and all else at once.
struct TestAgent {
    dir: TempDir,
    seen: Receiver<Seen>,
    release: tokio::sync::mpsc::UnboundedSender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Clone, Copy)]
struct Setup {
    groups: Groups,
    limits: Limits,
    services: usize,
}

const SETUP: Setup = Setup {
    groups: Groups {
        access: None,
        status: None,
    },
    limits: LIMITS,
    services: 1,
};

impl TestAgent {
    fn start(setup: Setup) -> Self {
        Self::start_in(TempDir::new().unwrap(), setup)
    }

    fn start_in(dir: TempDir, setup: Setup) -> Self {
        let path = socket(dir.path());
        let (ready, is_ready) = channel();
        let (tell, seen) = channel();
        let (release, released) = tokio::sync::mpsc::unbounded_channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut server = Server::bind(&path, setup.groups).unwrap();
                server.limits = setup.limits;
                ready.send(()).unwrap();
                run(server, setup.services, &tell, released).await;
            });
        });
        is_ready.recv_timeout(DEADLINE).unwrap();
        Self {
            dir,
            seen,
            release,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> Client {
        Client::connect(&socket(self.dir.path()))
    }

    /// The next thing that the loop sees.
    fn sees(&self) -> Seen {
        self.seen.recv_timeout(DEADLINE).unwrap()
    }

    /// That `status` is answered, and nothing else was asked of the agent before it.
    fn answers(&self) {
        let response = ask(self.dir.path(), &status()).unwrap();
        assert!(matches!(response, Response::Status { .. }), "{response:?}");
        assert_eq!(self.sees(), Seen::Command(status()));
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        let _ = ask(self.dir.path(), &Command::Shutdown);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

async fn run(
    mut server: Server,
    services: usize,
    seen: &Sender<Seen>,
    mut released: tokio::sync::mpsc::UnboundedReceiver<()>,
) {
    let mut waiting: Vec<oneshot::Sender<Response>> = Vec::new();
    loop {
        let hung_up = async {
            match waiting.first_mut() {
                Some(reply) => reply.closed().await,
                None => std::future::pending().await,
            }
        };
        let incoming = tokio::select! {
            incoming = server.next() => incoming,
            () = hung_up => {
                waiting.remove(0);
                let _ = seen.send(Seen::HungUp);
                continue;
            }
            Some(()) = released.recv() => {
                for reply in waiting.drain(..) {
                    let _ = reply.send(done("released"));
                }
                continue;
            }
        };
        let _ = seen.send(Seen::Command(incoming.command.clone()));
        let response = match incoming.command {
            Command::Status { .. } => Response::Status {
                services: iter::repeat_with(web).take(services).collect(),
            },
            Command::Stop { no_wait: false, .. } => {
                waiting.push(incoming.reply);
                continue;
            }
            Command::Reload { .. } => {
                let before = server.access.groups.access;
                server
                    .set_groups(Groups {
                        access: before.is_none().then(|| getegid().as_raw()),
                        status: None,
                    })
                    .unwrap();
                done("reload")
            }
            Command::Shutdown => {
                incoming.reply.send(done("shutdown")).unwrap();
                drop(waiting);
                return server.finish().await;
            }
            // An agent that dies.
            Command::Restart { .. } => return,
            _ => done("other"),
        };
        let _ = incoming.reply.send(response);
    }
}

fn web() -> ServiceStatus {
    ServiceStatus {
        service: "web".to_owned(),
        state: State::Running,
        desired: Desired::Up,
        pid: Some(1),
        start_time_ns: Some(2),
        uptime_ns: Some(3),
        restarts: 4,
        last_exit: None,
        last_exit_time: None,
        next_start_in_ns: None,
        waits_for: Vec::new(),
        error: None,
        hint: None,
        says: None,
        sockets: Vec::new(),
        stored: Vec::new(),
        released_ns: None,
        standby: None,
        autostart: None,
        step: None,
    }
}

fn done(service: &str) -> Response {
    let result = ServiceResult {
        service: service.to_owned(),
        ok: true,
        error: None,
        note: None,
    };
    Response::Done {
        results: vec![result],
    }
}

fn status() -> Command {
    Command::Status { services: vec![] }
}

fn stop(no_wait: bool) -> Command {
    Command::Stop {
        services: vec!["web".to_owned()],
        all: false,
        no_wait,
    }
}

/// A peer that need not behave.
struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// The next answer; `None` at the end.
    fn answer(&mut self) -> Option<Response> {
        let mut line = Vec::new();
        match self.0.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(Response::from_line(&line).unwrap()),
            // It hung up on what it did not want to read.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next answer, which refuses.
    fn refusal(&mut self) -> String {
        match self.answer() {
            Some(Response::Error { message }) => message,
            other => panic!("{other:?}"),
        }
    }

    fn is_closed(&mut self) -> bool {
        self.answer().is_none()
    }
}

#[test]
fn garbage_is_refused_and_ends_the_connection() {
    let agent = TestAgent::start(SETUP);
    let noise: Vec<u8> = (1..10_000u32)
        .map(|i| (i * 7919).to_le_bytes()[1])
        .collect();
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
        b"\0\0\0\n",
        b"\xff\xfe\n",
        b"[1,2,3]\n",
        b"{\"version\":1,\"command\":\"shutdown\"\n",
        &[b"[".repeat(50_000), b"\n".to_vec()].concat(),
        &noise,
    ] {
        let mut client = agent.connect();
        // The server may have had enough before it is all written.
        let _ = client.send(garbage);
        let _ = client.0.get_ref().shutdown(Shutdown::Write);
        let refusal = client.refusal();
        assert!(refusal.contains("expected a JSON object"), "{refusal}");
        assert!(client.is_closed());
    }
    agent.answers();
}

#[test]
fn a_line_without_an_end_is_refused() {
    let agent = TestAgent::start(SETUP);
    let mut client = agent.connect();
    let error = client.send(&b"x".repeat(10 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let refusal = client.refusal();
    assert!(refusal.contains("longer than 1048576 bytes"), "{refusal}");
    assert!(client.is_closed());

    let bare = r#"{"version":1,"command":"status"}"#;
    let blanks = " ".repeat(MAX_REQUEST - bare.len());
    let longest = bare.replace('}', &format!("{blanks}}}"));
    let mut client = agent.connect();
    client
        .send(format!("{longest}\n{longest} \n").as_bytes())
        .unwrap();
    assert_eq!(longest.len(), MAX_REQUEST);
    assert!(matches!(client.answer(), Some(Response::Status { .. })));
    assert!(client.refusal().contains("longer than"));
    assert_eq!(agent.sees(), Seen::Command(status()));
    agent.answers();
}

#[test]
fn idle_connections_hold_nobody_up() {
    let agent = TestAgent::start(SETUP);
    let mut idle: Vec<Client> = (0..200).map(|_| agent.connect()).collect();
    let (tell, answered) = channel();
    let dir = agent.dir.path().to_owned();
    thread::spawn(move || tell.send(ask(&dir, &status())).is_ok());
    let response = answered.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(matches!(response, Ok(Response::Status { .. })));
    assert_eq!(agent.sees(), Seen::Command(status()));
    for client in &mut idle {
        client.send(&stop(true).to_line()).unwrap();
        assert_eq!(client.answer(), Some(done("other")));
    }
}

#[test]
fn the_longest_idle_makes_room() {
    let limits = Limits {
        connections: 8,
        ..LIMITS
    };
    let agent = TestAgent::start(Setup { limits, ..SETUP });
    let mut first = agent.connect();
    first.send(&stop(false).to_line()).unwrap();
    assert_eq!(agent.sees(), Seen::Command(stop(false)));
    let mut idle: Vec<Client> = (0..7).map(|_| agent.connect()).collect();
    // The oldest of them speaks, so that the next one has been idle longest.
    idle[0].send(&stop(true).to_line()).unwrap();
    assert_eq!(idle[0].answer(), Some(done("other")));
    let _new = agent.connect();
    let told = idle[1].refusal();
    assert!(told.contains("too many connections"), "{told}");
    assert!(idle[1].is_closed());
    idle[0].send(&stop(true).to_line()).unwrap();
    assert_eq!(idle[0].answer(), Some(done("other")));
    // What the agent works on stays, whoever comes.
    let crowd: Vec<Client> = (0..50).map(|_| agent.connect()).collect();
    let told = idle[0].refusal();
    assert!(told.contains("too many connections"), "{told}");
    assert!(idle[0].is_closed());
    agent.release.send(()).unwrap();
    assert_eq!(first.answer(), Some(done("released")));
    drop(crowd);
}

#[test]
fn when_all_wait_for_the_agent_another_is_refused() {
    let limits = Limits {
        connections: 4,
        ..LIMITS
    };
    let agent = TestAgent::start(Setup { limits, ..SETUP });
    let mut busy: Vec<Client> = (0..4).map(|_| agent.connect()).collect();
    for client in &mut busy {
        client.send(&stop(false).to_line()).unwrap();
        assert_eq!(agent.sees(), Seen::Command(stop(false)));
    }
    let refusal = agent.connect().refusal();
    assert!(refusal.contains("4 commands"), "{refusal}");
    agent.release.send(()).unwrap();
    for client in &mut busy {
        assert_eq!(client.answer(), Some(done("released")));
    }
}

#[test]
fn a_peer_that_does_not_read_is_cut_off() {
    let limits = Limits {
        patience: Duration::from_millis(200),
        ..LIMITS
    };
    let setup = Setup {
        limits,
        services: 20_000,
        ..SETUP
    };
    let agent = TestAgent::start(setup);
    let mut slow = agent.connect();
    slow.send(&status().to_line()).unwrap();
    assert_eq!(agent.sees(), Seen::Command(status()));
    agent.answers();
    thread::sleep(limits.patience * 2);
    let mut rest = Vec::new();
    slow.0.read_to_end(&mut rest).unwrap();
    assert!(!rest.is_empty() && !rest.ends_with(b"\n"));
    agent.answers();
}

#[test]
fn half_a_line_ends_by_itself_but_silence_may_last() {
    let limits = Limits {
        patience: Duration::from_millis(200),
        ..LIMITS
    };
    let agent = TestAgent::start(Setup { limits, ..SETUP });
    let (mut half, mut silent) = (agent.connect(), agent.connect());
    half.send(b"{\"version\":1,").unwrap();
    let refusal = half.refusal();
    assert!(refusal.contains("did not end"), "{refusal}");
    assert!(half.is_closed());
    for _ in 0..2 {
        thread::sleep(limits.patience * 2);
        silent.send(&status().to_line()).unwrap();
        assert!(matches!(silent.answer(), Some(Response::Status { .. })));
    }
}

#[test]
fn a_bad_command_does_not_end_the_connection() {
    let agent = TestAgent::start(SETUP);
    let mut client = agent.connect();
    for (line, expected) in [
        ("{\"version\":7,\"command\":\"status\"}\n", "version 7"),
        (
            "{\"version\":1,\"command\":\"dance\"}\n",
            "unknown variant `dance`",
        ),
        ("{\"version\":1,\"command\":\"stop\"}\n", "\"all\":true"),
    ] {
        client.send(line.as_bytes()).unwrap();
        let refusal = client.refusal();
        assert!(refusal.contains(expected), "{refusal}");
    }
    client.send(&status().to_line()).unwrap();
    assert!(matches!(client.answer(), Some(Response::Status { .. })));
    assert_eq!(agent.sees(), Seen::Command(status()));
}

#[test]
fn several_lines_are_answered_in_order() {
    let agent = TestAgent::start(SETUP);
    let mut client = agent.connect();
    let lines = [status(), stop(true), stop(false), status()].map(|command| command.to_line());
    let mut bytes = [b"\n \r\n".to_vec(), lines.concat()].concat();
    // The last newline is not needed where nothing follows.
    bytes.pop();
    for byte in bytes {
        client.send(&[byte]).unwrap();
    }
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert!(matches!(client.answer(), Some(Response::Status { .. })));
    assert_eq!(client.answer(), Some(done("other")));
    let seen = [agent.sees(), agent.sees(), agent.sees()];
    assert_eq!(seen, [status(), stop(true), stop(false)].map(Seen::Command));
    // A peer that has no more to say still waits for its answers.
    agent.release.send(()).unwrap();
    assert_eq!(client.answer(), Some(done("released")));
    assert!(matches!(client.answer(), Some(Response::Status { .. })));
    assert!(client.is_closed());
}

#[test]
fn who_hangs_up_loses_the_answer_only() {
    let agent = TestAgent::start(SETUP);
    let mut client = agent.connect();
    client.send(&stop(false).to_line()).unwrap();
    assert_eq!(agent.sees(), Seen::Command(stop(false)));
    client.send(&status().to_line()).unwrap();
    drop(client);
    assert_eq!(agent.sees(), Seen::HungUp);
    agent.answers();
}

#[test]
fn the_last_answers_are_written_before_the_end() {
    let agent = TestAgent::start(SETUP);
    let mut waiting = agent.connect();
    waiting.send(&stop(false).to_line()).unwrap();
    assert_eq!(agent.sees(), Seen::Command(stop(false)));
    let mut idle = agent.connect();
    assert_eq!(
        ask(agent.dir.path(), &Command::Shutdown).unwrap(),
        done("shutdown")
    );
    assert!(waiting.is_closed() && idle.is_closed());
}

#[test]
fn the_next_agent_takes_the_place_of_a_stale_socket() {
    let dir = TempDir::new().unwrap();
    drop(UnixListener::bind(socket(dir.path())).unwrap());
    let error = ask(dir.path(), &status()).unwrap_err();
    assert!(matches!(error, AskError::NoAgent { .. }), "{error}");
    assert!(error.to_string().contains("control.sock"), "{error}");
    TestAgent::start_in(dir, SETUP).answers();
    let nowhere = ask(Path::new("/nonexistent"), &status());
    assert!(matches!(nowhere, Err(AskError::NoAgent { .. })));
}

#[tokio::test]
async fn nothing_but_a_socket_is_replaced() {
    let dir = TempDir::new().unwrap();
    let path = socket(dir.path());
    let refused = || {
        let error = Server::bind(&path, SETUP.groups).err().unwrap();
        format!("{error:#}")
    };
    fs::write(&path, "precious").unwrap();
    assert!(refused().contains("is not a socket"), "{}", refused());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused().contains("is not a socket"));
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    assert!(refused().contains("is not a socket"));
    fs::remove_file(&path).unwrap();
    let unready = path.with_extension("new");
    fs::write(&unready, "precious").unwrap();
    assert!(refused().contains("control.new exists"), "{}", refused());
    fs::remove_file(&unready).unwrap();
    assert!(Server::bind(&path, SETUP.groups).is_ok() && !unready.exists());

    let long = dir.path().join("d".repeat(100));
    fs::create_dir(&long).unwrap();
    let error = Server::bind(&socket(&long), SETUP.groups).err().unwrap();
    assert!(format!("{error:#}").contains("at most 107"), "{error:#}");
    let error = Server::bind(&socket(Path::new("/nonexistent")), SETUP.groups)
        .err()
        .unwrap();
    assert!(format!("{error:#}").contains("No such file"), "{error:#}");
}

/// The socket's mode and group.
fn rights(dir: &Path) -> (u32, u32) {
    let metadata = fs::metadata(socket(dir)).unwrap();
    (metadata.mode() & 0o7777, metadata.gid())
}

#[test]
fn the_socket_is_private_unless_a_group_is_given() {
    let own = getegid().as_raw();
    let agent = TestAgent::start(SETUP);
    assert_eq!(rights(agent.dir.path()), (0o600, own));
    // This agent's reload lets its own group in, and out again.
    assert_eq!(
        ask(agent.dir.path(), &Command::Reload { allow_empty: false }).unwrap(),
        done("reload")
    );
    assert_eq!(rights(agent.dir.path()), (0o660, own));
    assert_eq!(
        ask(agent.dir.path(), &Command::Reload { allow_empty: false }).unwrap(),
        done("reload")
    );
    assert_eq!(rights(agent.dir.path()), (0o600, own));

    let group = if geteuid().is_root() { GROUP } else { own };
    let agent = TestAgent::start(Setup {
        groups: Groups {
            access: Some(group),
            status: None,
        },
        ..SETUP
    });
    assert_eq!(rights(agent.dir.path()), (0o660, group));
}

#[test]
fn a_successor_is_asked_where_that_does_no_harm() {
    let agent = TestAgent::start(SETUP);
    let command = Command::Restart {
        services: vec!["web".to_owned()],
        no_wait: false,
    };
    let error = ask(agent.dir.path(), &command).unwrap_err();
    assert!(matches!(error, AskError::Unanswered { .. }), "{error}");

    // The first agent dies when it is asked to stop, the second one does it.
    let dir = TempDir::new().unwrap();
    let path = socket(dir.path());
    let first = UnixListener::bind(&path).unwrap();
    let (tell, answered) = channel();
    let runtime_dir = dir.path().to_owned();
    thread::spawn(move || tell.send(ask(&runtime_dir, &stop(true))).is_ok());
    let mut line = String::new();
    let (stream, _) = first.accept().unwrap();
    drop(first);
    BufReader::new(stream).read_line(&mut line).unwrap();
    let second = TestAgent::start_in(dir, SETUP);
    assert_eq!(
        answered.recv_timeout(DEADLINE).unwrap().unwrap(),
        done("other")
    );
    assert_eq!(second.sees(), Seen::Command(stop(true)));
}

#[test]
fn an_answer_that_makes_no_sense_is_an_error() {
    let dir = TempDir::new().unwrap();
    let listener = UnixListener::bind(socket(dir.path())).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"220 smtp ready\n");
    });
    let error = ask(dir.path(), &status()).unwrap_err();
    assert!(error.to_string().contains("makes no sense"), "{error}");
}

/// A group that is nobody's, and a user who is nobody.
const GROUP: u32 = 47_115;
const NOBODY: u32 = 65_534;

/// What this variable says is done by the test below, in a process of its own.
const AS_ANOTHER: &str = "RESPAWN_TEST_CONTROL_AS";

/// Asks for the status as another user with these groups, and gives back what came of it.
fn ask_as(dir: &Path, groups: &[u32]) -> String {
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    let name = concat!(module_path!(), "::another_user_asks");
    let (_, name) = name.split_once("::").unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(
            AS_ANOTHER,
            format!("{}:{}", dir.display(), groups.join(",")),
        )
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Not a test, but the process that `ask_as` starts.
#[test]
fn another_user_asks() {
    let Ok(what) = std::env::var(AS_ANOTHER) else {
        return;
    };
    let (dir, groups) = what.split_once(':').unwrap();
    let groups = groups.split(',').filter_map(|gid| gid.parse().ok());
    let groups: Vec<Gid> = groups.map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&groups).unwrap();
    setresgid(gid, gid, gid).unwrap();
    setresuid(uid, uid, uid).unwrap();
    let mut commands = vec![status()];
    // Of a member of the group that may only ask, a stop is refused.
    if groups.contains(&Gid::from_raw(GROUP + 2)) {
        commands.push(stop(true));
    }
    for command in commands {
        match ask(Path::new(dir), &command) {
            Ok(response) => println!("{}", String::from_utf8(response.to_line()).unwrap()),
            Err(error) => println!("{error}"),
        }
    }
}

#[test]
fn another_user_is_refused_unless_of_the_group() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let agent = TestAgent::start(SETUP);
    let dir = agent.dir.path();
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    let told = ask_as(dir, &[]);
    assert!(
        told.contains("control.sock is for root only; you are uid 65534"),
        "{told}"
    );
    // Even where somebody has made the socket everybody's.
    fs::set_permissions(socket(dir), Permissions::from_mode(0o666)).unwrap();
    let told = ask_as(dir, &[GROUP]);
    let expected = "uid 65534 may not command this agent: only root may";
    assert!(told.contains(expected), "{told}");
    agent.answers();

    let agent = TestAgent::start(Setup {
        groups: Groups {
            access: Some(GROUP),
            status: Some(GROUP + 2),
        },
        ..SETUP
    });
    let dir = agent.dir.path();
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    let many: Vec<u32> = (1000..1100).chain([GROUP]).collect();
    for groups in [&[GROUP][..], &many] {
        let told = ask_as(dir, groups);
        assert!(told.contains("\"service\":\"web\""), "{told}");
        assert_eq!(agent.sees(), Seen::Command(status()));
    }
    // Everybody may connect then, and is looked at.
    assert_eq!(rights(dir), (0o666, GROUP));
    let told = ask_as(dir, &[GROUP + 1]);
    let expected =
        "uid 65534 may not command this agent: only root, and members of group 47115, may";
    assert!(told.contains(expected), "{told}");
    // Of the group that may ask and no more.
    let told = ask_as(dir, &[GROUP + 2]);
    assert!(told.contains("\"service\":\"web\""), "{told}");
    assert_eq!(agent.sees(), Seen::Command(status()));
    assert!(told.contains(expected), "{told}");
    agent.answers();
}

#[test]
fn an_answer_says_its_version_and_whether_all_is_well() {
    let agent = TestAgent::start(SETUP);
    let mut client = agent.connect();
    client.send(&stop(true).to_line()).unwrap();
    let mut line = String::new();
    client.0.read_line(&mut line).unwrap();
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&value["version"], &value["ok"]), (&1.into(), &true.into()));
}

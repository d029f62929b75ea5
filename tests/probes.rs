//! Services that are looked at from outside: whether they are ready (`ready = { tcp = … }` and the like),
//! and whether they still work (`check`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::{Agent, eventually, is_alive, is_root, pid_of, shell, signal_to, sleeping};

const CULPRIT: &str = env!("CARGO_BIN_EXE_culprit");

/// A port of this host that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A server that begins to listen when `go` is there.
fn serving(dir: &Path, port: u16, keys: &str) -> String {
    let dir = dir.display();
    let script =
        format!("while ! [ -e {dir}/go ]; do sleep 0.02; done; exec {CULPRIT} serve {port} {dir}");
    shell(&script, keys)
}

fn set(dir: &Path, name: &str, text: &str) {
    let draft = dir.join("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, dir.join(name)).unwrap();
}

/// The processes of an agent's that look at services.
fn lookers(agent: &Agent) -> Vec<u32> {
    let children = format!("/proc/{0}/task/{0}/children", agent.pid());
    let children = fs::read_to_string(children).unwrap_or_default();
    let pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    let looks = |pid: &u32| {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        cmdline == b"respawn\0probe\0"
    };
    pids.filter(looks).collect()
}

fn reason(agent: &Agent, service: &str) -> Option<String> {
    let events = agent.events_of(service).into_iter().rev();
    let mut stops = events.filter(|event| event["event"] == "stopping");
    stops.find_map(|event| event["reason"].as_str().map(str::to_owned))
}

#[test]
fn a_service_is_ready_when_its_port_answers() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let ready = format!("ready = {{ tcp = \"127.0.0.1:{port}\" }}");
    let agent = Agent::start(&[
        ("app", &sleeping("requires = [\"web\"]")),
        ("web", &serving(dir.path(), port, &ready)),
    ]);
    let pid = pid_of(&agent.wait_state("web", "starting"));
    agent.wait_state("app", "waiting");
    eventually("somebody looks", || {
        (lookers(&agent).len() == 1).then_some(())
    });
    set(dir.path(), "go", "");
    assert_eq!(agent.running("web"), pid);
    agent.running("app");
    assert_eq!(agent.count("web", "ready"), 1);
    eventually("nobody looks any more", || {
        lookers(&agent).is_empty().then_some(())
    });
}

#[test]
fn so_it_is_by_url_socket_file_and_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let port = free_port();
    set(path, "status", "503");
    let (socket, file, done) = (path.join("socket"), path.join("file"), path.join("done"));
    let http = format!("ready = {{ http = \"http://localhost:{port}/up\" }}");
    let unix = format!("ready = {{ unix = {socket:?} }}");
    let by_file = format!("ready = {{ file = {file:?} }}");
    let command = format!("ready = {{ command = [\"test\", \"-e\", {done:?}] }}");
    let agent = Agent::start(&[
        ("http", &serving(path, port, &http)),
        ("unix", &sleeping(&unix)),
        ("file", &sleeping(&by_file)),
        ("command", &sleeping(&command)),
    ]);
    set(path, "go", "");
    for service in ["http", "unix", "file", "command"] {
        agent.wait_state(service, "starting");
    }
    eventually("all are looked at", || {
        (lookers(&agent).len() == 4).then_some(())
    });
    let _listener = UnixListener::bind(&socket).unwrap();
    agent.running("unix");
    fs::write(&file, "").unwrap();
    agent.running("file");
    fs::write(&done, "").unwrap();
    agent.running("command");
    assert_eq!(agent.status("http")["state"], "starting");
    set(path, "status", "200");
    agent.running("http");
}

#[test]
fn its_command_has_the_environment_of_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let (variables, looked) = (dir.path().join("variables"), dir.path().join("looked"));
    fs::write(&variables, "WORD=go\n").unwrap();
    let test = |more: &str| {
        let script = format!("test \"$WORD\" = go{more}");
        serde_json::json!(["/bin/sh", "-c", script])
    };
    let keys = format!(
        "environment_file = {variables:?}\n\
         ready = {{ command = {} }}\n\
         check = {{ command = {}, interval = \"50ms\", failures = 1 }}",
        test(""),
        test(&format!(" && echo x >> {}", looked.display()))
    );
    let mut agent = Agent::start(&[("web", &sleeping(&keys))]);
    let pid = agent.running("web");
    let looks = |count: usize| {
        eventually("it is looked at", || {
            let text = fs::read_to_string(&looked).unwrap_or_default();
            (text.lines().count() >= count).then_some(())
        });
    };
    looks(2);
    agent.kill();
    agent.start_again();
    looks(4);
    assert_eq!(agent.running("web"), pid);
}

#[test]
fn one_that_never_answers_is_not_ready_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let keys = format!(
        "ready = {{ tcp = \"127.0.0.1:{port}\" }}\nstart_timeout = \"300ms\"\nrestart = \"no\""
    );
    let agent = Agent::start(&[("web", &serving(dir.path(), port, &keys))]);
    agent.wait_state("web", "failed");
    let reason = reason(&agent, "web").unwrap();
    assert!(
        reason.starts_with("not ready within start_timeout (300ms); tcp 127.0.0.1:"),
        "{reason}"
    );
    assert!(reason.contains("refused"), "{reason}");
    eventually("nobody looks any more", || {
        lookers(&agent).is_empty().then_some(())
    });
}

#[test]
fn one_that_fails_its_check_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    set(dir.path(), "go", "");
    set(dir.path(), "status", "200");
    let url = format!("http://127.0.0.1:{port}/health");
    let keys = format!(
        "check = {{ http = \"{url}\", interval = \"100ms\", timeout = \"300ms\", failures = 2 }}\n\
         restart_delay = \"50ms\"\nready = {{ tcp = \"127.0.0.1:{port}\" }}"
    );
    let agent = Agent::start(&[
        ("app", &sleeping("requires = [\"web\"]")),
        ("web", &serving(dir.path(), port, &keys)),
    ]);
    let pid = agent.running("web");
    let app = agent.running("app");
    set(dir.path(), "status", "500");
    let next = agent.replaced("web", pid);
    let expected = format!("check: {url}: status 500 Internal Server Error (2 times in a row)");
    assert_eq!(reason(&agent, "web").as_ref(), Some(&expected));
    let why = agent.run(&["why", "web"]);
    let text = String::from_utf8_lossy(&why.stdout);
    assert!(text.contains(&expected), "{text}");
    // One that does not answer at all.
    set(dir.path(), "status", "hang");
    let expected = format!("check: {url}: no answer within 300ms (2 times in a row)");
    eventually("it is restarted for that", || {
        (reason(&agent, "web").as_ref() == Some(&expected)).then_some(())
    });
    set(dir.path(), "status", "200");
    eventually("it works again", || {
        let status = agent.status("web");
        (status["state"] == "running" && status["pid"].is_number()).then_some(())
    });
    assert_ne!(agent.running("web"), next);
    // It had nothing to do with that.
    assert_eq!(agent.running("app"), app);
}

#[test]
fn a_check_has_the_rights_of_the_service_and_ends_with_the_agent() {
    if !is_root("a_check_has_the_rights_of_the_service_and_ends_with_the_agent") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let file = dir.path().join("who");
    let script = format!("echo $(id -u) >> {}", file.display());
    let keys = format!(
        "user = \"nobody\"\n\
         check = {{ command = [\"/bin/sh\", \"-c\", {script:?}], interval = \"50ms\" }}"
    );
    let mut agent = Agent::start(&[("web", &sleeping(&keys))]);
    let pid = agent.running("web");
    eventually("it is looked at", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        text.lines().next().map(|line| assert_eq!(line, "65534"))
    });
    let looker = lookers(&agent)[0];
    agent.kill();
    eventually("it has ended with the agent", || {
        (!is_alive(looker)).then_some(())
    });
    agent.start_again();
    let next = eventually("the next agent has it looked at", || {
        lookers(&agent).first().copied()
    });
    // Whoever ends it achieves nothing.
    signal_to(next, Signal::SIGKILL);
    eventually("another one looks", || {
        let lookers = lookers(&agent);
        (lookers.len() == 1 && lookers[0] != next).then_some(())
    });
    assert_eq!(agent.running("web"), pid);
    assert_eq!(reason(&agent, "web"), None);
    // A reload without the check ends it, and restarts nothing.
    agent.write_service("web", &sleeping("user = \"nobody\""));
    assert!(agent.run(&["reload"]).status.success());
    eventually("nobody looks any more", || {
        lookers(&agent).is_empty().then_some(())
    });
    assert_eq!(agent.running("web"), pid);
}

/// Commands that would run for a long time, with one in a session of its own, of which `dir` has the pids.
fn hangs(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "echo $$ >> {dir}/pids; sleep 1000 & echo $! >> {dir}/pids; \
         setsid sh -c 'echo $$ >> {dir}/pids; exec sleep 1000' & wait"
    )
}

fn started(dir: &Path) -> Vec<u32> {
    let text = fs::read_to_string(dir.join("pids")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn nothing_is_left_of_a_probes_command() {
    let dir = tempfile::tempdir().unwrap();
    let script = hangs(dir.path());
    let keys = format!(
        "ready = {{ command = [\"/bin/sh\", \"-c\", {script:?}] }}\n\
         start_timeout = \"600ms\"\nrestart_delay = \"50ms\"\nstart_limit = {{ burst = 3, interval = \"1h\" }}"
    );
    let agent = Agent::start(&[("web", &sleeping(&keys))]);
    agent.wait_state("web", "failed");
    let all = started(dir.path());
    assert!(all.len() >= 9, "{all:?}");
    eventually("nothing is left of them", || {
        all.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

#[test]
fn a_check_that_hangs_ends_with_its_service_and_with_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    let script = hangs(dir.path());
    let keys = format!(
        "check = {{ command = [\"/bin/sh\", \"-c\", {script:?}], interval = \"50ms\", timeout = \"1h\" }}"
    );
    let mut agent = Agent::start(&[("web", &sleeping(&keys))]);
    let hung = |count: usize| {
        eventually("it hangs", || {
            let all = started(dir.path());
            (all.len() == count).then_some(all)
        })
    };
    let gone = |all: &[u32]| {
        eventually("nothing is left", || {
            all.iter().all(|pid| !is_alive(*pid)).then_some(())
        });
    };
    let first = hung(3);
    agent.kill();
    gone(&first);
    agent.start_again();
    let second = hung(6);
    assert!(agent.run(&["stop", "web"]).status.success());
    gone(&second);
}

#[test]
fn a_probe_has_no_more_rights_than_its_service() {
    if !is_root("a_probe_has_no_more_rights_than_its_service") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("status");
    let script = format!(
        "umask; ulimit -n; cat /proc/self/status > {0}.new; mv {0}.new {0}",
        file.display()
    );
    let keys = format!(
        "ready = {{ command = [\"/bin/sh\", \"-c\", {script:?}] }}\n\
         capabilities = [\"CAP_KILL\"]\nno_new_privileges = true\nnice = 7\nlimits = {{ nofile = 128 }}"
    );
    let agent = Agent::start(&[("web", &sleeping(&keys))]);
    agent.running("web");
    let status = fs::read_to_string(&file).unwrap();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().trim().to_owned()
    };
    assert_eq!(of("CapEff:"), format!("{:016x}", 1 << 5), "{status}");
    assert_eq!(of("CapBnd:"), format!("{:016x}", 1 << 5), "{status}");
    assert_eq!(of("NoNewPrivs:"), "1");
}

/// A server for all of them, which accepts and does not answer.
struct Backend {
    port: u16,
    held: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Backend {
    fn start(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (held, is_over) = (Arc::default(), Arc::default());
        let (count, over): (Arc<AtomicUsize>, Arc<AtomicBool>) =
            (Arc::clone(&held), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let mut clients = Vec::new();
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let mut client = client.unwrap();
                match answers {
                    true => {
                        let _ = client.read(&mut [0; 4096]);
                        let _ = client.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n");
                    }
                    false => clients.push(client),
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            port,
            held,
            is_over,
            thread,
        }
    }

    /// It has had so many clients.
    fn had(&self, count: usize) {
        eventually("all were here", || {
            (self.held.load(Ordering::SeqCst) >= count).then_some(())
        });
    }

    /// It ends, and lets go of all its clients in one instant.
    fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _last = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        self.thread.join().unwrap();
    }
}

/// When the services began to be stopped for their checks, on the clock since boot.
fn stopped_at(agent: &Agent, names: &[String]) -> Vec<Duration> {
    let mut times: Vec<Duration> = eventually("all are stopped for their checks", || {
        let mut first = BTreeMap::new();
        for event in agent.events() {
            let is_it = event["event"] == "stopping" && event["reason"].is_string();
            if let Some(name) = event["service"].as_str().filter(|_| is_it) {
                let time = event["since_boot_ns"].as_u64().unwrap();
                first
                    .entry(name.to_owned())
                    .or_insert(Duration::from_nanos(time));
            }
        }
        (first.len() == names.len()).then(|| first.into_values().collect())
    });
    times.sort();
    times
}

#[test]
fn services_that_fail_together_are_not_restarted_in_one_instant() {
    for answers in [true, false] {
        let backend = Backend::start(answers);
        let keys = format!(
            "check = {{ http = \"http://127.0.0.1:{}/\", interval = \"4s\", timeout = \"1h\", failures = 1 }}\n\
             restart_delay = \"1h\"",
            backend.port
        );
        let names: Vec<String> = (0..50).map(|number| format!("s{number:02}")).collect();
        let text = sleeping(&keys);
        let services: Vec<_> = names.iter().map(|name| (&**name, &*text)).collect();
        let agent = Agent::start(&services);
        // Each has been looked at, or is being looked at.
        backend.had(names.len());
        backend.end();
        let times = stopped_at(&agent, &names);
        let half = times[names.len() / 2] - times[0];
        println!("answers: {answers}; half of them within {half:?}");
        assert!(half > Duration::from_millis(500), "{half:?}: {times:?}");
    }
}

/// An answer to whoever asks, as often as it is asked.
fn answering(answer: &'static [u8], is_endless: bool) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 4096]);
            count.fetch_add(1, Ordering::SeqCst);
            let mut written = client.write_all(answer);
            // Until the other end has had enough.
            while is_endless && written.is_ok() {
                written = client.write_all(&[b'x'; 4096]);
            }
        }
    });
    (port, asked)
}

#[test]
fn a_check_follows_no_redirect_and_reads_no_body() {
    let (elsewhere, followed) = answering(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n", false);
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{elsewhere}/\r\ncontent-length: 0\r\n\r\n"
    );
    let redirect: &'static [u8] = redirect.into_bytes().leak();
    let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n";
    let head = b"HTTP/1.1 200 OK\r\nx: ";
    let (redirects, asked) = answering(redirect, false);
    let (endless, asked_endless) = answering(endless, true);
    let (headless, _) = answering(head, true);
    let check = |port: u16| {
        sleeping(&format!(
            "check = {{ http = \"http://127.0.0.1:{port}/\", interval = \"50ms\", timeout = \"5s\", failures = 2 }}"
        ))
    };
    let agent = Agent::start(&[
        ("redirects", &check(redirects)),
        ("endless", &check(endless)),
        ("headless", &check(headless)),
    ]);
    let pids = (agent.running("redirects"), agent.running("endless"));
    // A head without an end is no answer.
    eventually("the headless one is restarted", || {
        reason(&agent, "headless").map(drop)
    });
    for asked in [asked, asked_endless] {
        eventually("it was looked at often", || {
            (asked.load(Ordering::SeqCst) > 10).then_some(())
        });
    }
    assert_eq!(pids, (agent.running("redirects"), agent.running("endless")));
    assert_eq!(followed.load(Ordering::SeqCst), 0);
    for pid in lookers(&agent) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak: u64 = peak.map_or(0, |it| it.trim().trim_end_matches(" kB").parse().unwrap());
        assert!(peak < 64 << 10, "{peak} KiB");
    }
}

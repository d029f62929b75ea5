//! An agent that is stopped or stuck while something is due is replaced by its spare; one that works,
//! or for which nothing is due, is not. A client says that nobody answers, and what it asked for
//! is not done later.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::cgroup::Cgroup;
use support::rig::{AgentProcess, Instance, Ledger, Memory, Rig, is_soak, report, switches};
use support::{
    cgroup_mount, eventually, needs_root, now, proc_status, shell, signal_to, skip, sleeping,
    start_time_ns,
};

const MEMORIES: [Memory; 2] = [Memory::Kernel, Memory::FilesAlone];

/// How long a service may be down under a stopped agent: it is half of that on an idle host.
const BACK_WITHIN: Duration = Duration::from_secs(4);

/// Far longer than a spare is patient.
const LONGER: Duration = Duration::from_millis(2500);

/// A spare, once it watches the agent: by a descriptor of that.
fn watching_spare(rig: &Rig) -> AgentProcess {
    let spare = rig.spare();
    await_watching(&spare);
    spare
}

fn await_watching(spare: &AgentProcess) {
    eventually("the spare watches", || {
        let open = fs::read_dir(format!("/proc/{}/fd", spare.pid())).ok()?;
        let mut open = open
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        open.any(|it| it.as_os_str() == "anon_inode:[eventpoll]")
            .then_some(())
    });
}

fn stop(agent: &AgentProcess) {
    agent.signal(Signal::SIGSTOP);
    eventually("it is stopped", || {
        proc_status(agent.pid(), "State")
            .starts_with('T')
            .then_some(())
    });
}

/// Waits for the next instance of a service, and returns it.
fn next(ledger: &mut Ledger, service: &str, old: Instance) -> Instance {
    ledger.wait("it is back", |ledger| {
        ledger.has_current(service).filter(|now| *now != old)
    })
}

fn has_ended(agent: &AgentProcess) -> bool {
    let state = proc_status(agent.pid(), "State");
    state.starts_with('Z')
}

#[test]
fn a_stopped_agent_is_replaced_when_a_service_dies_and_not_before() {
    needs_root!("a stopped agent");
    for memory in MEMORIES {
        let rig = Rig::with(memory);
        ["a", "b"].into_iter().for_each(|name| rig.sleeper(name));
        let mut ledger = rig.ledger();
        let mut agent = rig.agent();
        let (a, b) = (ledger.current("a"), ledger.current("b"));
        let spare = watching_spare(&rig);
        stop(&agent);
        thread::sleep(LONGER);
        assert!(!has_ended(&agent), "nothing is due");
        signal_to(a.0, Signal::SIGKILL);
        let killed = now();
        let again = next(&mut ledger, "a", a);
        let took = killed.elapsed();
        assert!(took < BACK_WITHIN, "{took:?}\n{}", rig.log());
        assert!(took > Duration::from_secs(1), "{took:?}");
        rig.assert_single("a", again);
        rig.assert_single("b", b);
        agent.wait();
        assert_eq!(ledger.agents, [agent.pid(), spare.pid()]);
        assert_eq!(ledger.told("a", a).exits.len(), 1);
        let said = rig.log();
        assert!(
            said.contains("the agent is stopped while something is due"),
            "{said}"
        );
        report(&format!(
            "a service under a stopped agent is back after {took:.1?} ({memory:?})"
        ));
    }
}

#[test]
fn a_stopped_agent_is_replaced_when_its_timer_is_due() {
    needs_root!("a stopped agent with a timer");
    let rig = Rig::new();
    rig.service(
        "a",
        r#"["/usr/bin/false"]"#,
        "restart_delay = \"1s\"\nrestart_max_delay = \"1s\"",
    );
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    // It has the lock once something has started.
    let first = ledger.wait("it has ended", |ledger| {
        let of_a = ledger
            .instances
            .keys()
            .next_back()
            .filter(|(name, _)| name == "a");
        of_a.map(|(_, instance)| *instance)
    });
    let spare = watching_spare(&rig);
    ledger.wait("its end is told", |ledger| {
        (!ledger.told("a", first).exits.is_empty()).then_some(())
    });
    stop(&agent);
    let stopped = now();
    ledger.wait("it is started by the spare", |ledger| {
        let started = ledger.last.get("a").filter(|(_, agents)| *agents == 2);
        started.filter(|(instance, _)| *instance != first).map(drop)
    });
    let took = stopped.elapsed();
    assert!(took < BACK_WITHIN + Duration::from_secs(1), "{took:?}");
    assert_eq!(ledger.agents.last(), Some(&spare.pid()));
}

/// Whether the agent has said that the kernel does something long for it, and that it is not stuck:
/// the word is its patience, in looks of its spare.
fn asks_for_patience(rig: &Rig) -> bool {
    let words = fs::read(rig.runtime_dir().join("progress")).unwrap_or_default();
    let word = words.get(40..48).and_then(|word| word.try_into().ok());
    word.is_some_and(|word| u64::from_ne_bytes(word) > 100)
}

#[test]
fn an_agent_that_is_stopped_while_it_loads_its_programs_is_replaced() {
    let name = "an_agent_that_is_stopped_while_it_loads_its_programs_is_replaced";
    needs_root!(name);
    for _ in 0..20 {
        let rig = Rig::new();
        rig.sleeper("a");
        let agent = rig.agent();
        let is_loading = eventually("it loads, or works", || {
            let loads = asks_for_patience(&rig);
            (loads || rig.runtime_dir().join("control.sock").exists()).then_some(loads)
        });
        stop(&agent);
        if !is_loading || !asks_for_patience(&rig) {
            continue;
        }
        let stopped = now();
        let _spare = rig.spare();
        rig.ledger().current("a");
        // It used to be a minute.
        assert!(stopped.elapsed() < Duration::from_secs(40), "{}", rig.log());
        return;
    }
    skip(name, "no agent could be stopped while it loaded");
}

/// As an agent is between having the lock and showing its progress.
#[test]
fn an_agent_that_is_stopped_before_it_shows_itself_is_replaced() {
    let name = "an_agent_that_is_stopped_before_it_shows_itself_is_replaced";
    needs_root!(name);
    for has_shown_before in [false, true] {
        let rig = Rig::new();
        rig.sleeper("a");
        if has_shown_before {
            let mut agent = rig.agent();
            rig.ledger().current("a");
            agent.kill();
        }
        fs::create_dir_all(rig.runtime_dir()).unwrap();
        let lock = rig.runtime_dir().join("lock");
        let mut command = Command::new("flock");
        command.args(["--exclusive", "--no-fork"]).arg(&lock);
        command.args(["sleep", "100000"]);
        let Ok(child) = command.spawn() else {
            return skip(name, "there is no flock(1)");
        };
        let mut holder = Killed(child);
        let pid = holder.0.id();
        eventually("it has the lock", || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (name == "sleep\n").then_some(())
        });
        let config = rig.path().join("config").canonicalize().unwrap();
        let said = json!({
            "pid": pid, "start_time_ns": start_time_ns(pid), "config": config, "config_id": null,
        });
        fs::write(&lock, said.to_string()).unwrap();
        let stopped = now();
        signal_to(pid, Signal::SIGSTOP);
        let _spare = rig.agent();
        holder.0.wait().unwrap();
        rig.ledger().current("a");
        assert!(stopped.elapsed() < Duration::from_secs(40), "{}", rig.log());
        let said = rig.log();
        assert!(
            said.contains("the agent is stopped while something is due"),
            "{said}"
        );
    }
}

/// A process that does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_is_due_as_well() {
    needs_root!("a client of a stopped agent");
    let rig = Rig::new();
    rig.sleeper("a");
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let a = ledger.current("a");
    let spare = watching_spare(&rig);
    stop(&agent);
    let asked = now();
    let output = rig.run(&["status", "--json"]);
    let took = asked.elapsed();
    assert!(output.status.success(), "{output:?}");
    assert!(took < BACK_WITHIN, "{took:?}");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status[0]["pid"], a.0);
    ledger.wait("the spare works", |ledger| {
        (ledger.agents.last() == Some(&spare.pid())).then_some(())
    });
}

#[test]
fn without_a_spare_a_client_says_that_the_agent_is_stopped_and_nothing_is_done_later() {
    needs_root!("a stopped agent without a spare");
    let rig = Rig::new();
    rig.sleeper("a");
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let a = ledger.current("a");
    rig.run(&["status"]);
    stop(&agent);
    let clients = [
        &["status"][..],
        &["stop", "a"],
        &["restart", "a"],
        &["reload"],
    ];
    let clients = clients.map(|arguments| {
        let command = rig.command(arguments);
        thread::spawn(move || {
            let mut command = command;
            let asked = now();
            (command.output().unwrap(), asked.elapsed())
        })
    });
    for client in clients {
        let (output, took) = client.join().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("stopped, pid {}", agent.pid())),
            "{said}"
        );
        assert!(took < Duration::from_millis(5500), "{took:?}");
    }
    let doctor = rig.run(&["doctor", "--json"]);
    let doctor: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let checks = doctor["checks"].as_array().unwrap().iter();
    let mut told =
        checks.filter(|check| check["detail"].as_str().unwrap().contains("stopped, pid"));
    let told = told.next().unwrap_or_else(|| panic!("{doctor:#}"));
    assert_eq!(told["verdict"], "missing");
    agent.signal(Signal::SIGCONT);
    assert!(rig.run(&["status"]).status.success());
    // What nobody waits for any more would be done before this.
    assert!(rig.run(&["reload"]).status.success());
    rig.assert_single("a", a);
    ledger.wait("one reload was asked for", |ledger| {
        let asked = ledger
            .others
            .iter()
            .filter(|event| event["event"] == "requested");
        let asked: Vec<&Value> = asked.map(|event| &event["command"]).collect();
        assert!(asked.len() < 2, "{asked:?}");
        (!asked.is_empty()).then_some(())
    });
}

/// The cgroups of a service: that of a process of it, and its twin.
fn cgroups(pid: u32) -> Option<Vec<PathBuf>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let own = mounts.iter().map(|mount| mount.join(path));
    let own = own
        .into_iter()
        .find(|path| path.join("cgroup.freeze").exists())?;
    let name = own.file_name()?.to_str()?.to_owned();
    let service = name.get(..name.len() - 1)?.to_owned();
    let entries = fs::read_dir(own.parent()?).ok()?.flatten();
    let entries = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&service));
    Some(entries.map(|entry| entry.path()).collect())
}

fn freeze(cgroups: &[PathBuf], frozen: &str) {
    for path in cgroups {
        fs::write(path.join("cgroup.freeze"), frozen).unwrap();
    }
}

#[test]
fn a_start_that_hangs_is_no_reason_for_a_takeover() {
    needs_root!("a start that hangs");
    let rig = Rig::new();
    ["a", "b"].into_iter().for_each(|name| rig.sleeper(name));
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let (a, b) = (ledger.current("a"), ledger.current("b"));
    let Some(slots) = cgroups(a.0) else {
        return support::skip("a start that hangs", "no cgroup can be frozen");
    };
    let _spare = watching_spare(&rig);
    // Neither SIGCONT nor anything else gets the next instance out of there, but SIGKILL.
    freeze(&slots, "1");
    signal_to(a.0, Signal::SIGKILL);
    thread::sleep(Duration::from_millis(300));
    signal_to(b.0, Signal::SIGKILL);
    next(&mut ledger, "b", b);
    thread::sleep(Duration::from_secs(4));
    freeze(&slots, "0");
    next(&mut ledger, "a", a);
    assert_eq!(ledger.agents, [agent.pid()], "{}", rig.log());
}

/// The agent looks at a start that takes its time only now and then, and the process may come to its end
/// between two looks.
#[test]
fn the_end_of_a_service_whose_start_took_its_time_is_told_whole() {
    let test = "a start that takes its time";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("stay");
    fs::write(&flag, "").unwrap();
    let script = format!("[ -e {} ] && exec sleep 1000; kill -9 $$", flag.display());
    let brief = shell(
        &script,
        "restart_delay = \"0s\"\nstart_limit = { burst = 5, interval = \"100s\" }",
    );
    let agent = support::Agent::start(&[("brief", &brief), ("other", &sleeping(""))]);
    let first = agent.running("brief");
    let Some(slots) = cgroups(first) else {
        return skip(test, "no cgroup can be frozen");
    };
    fs::remove_file(&flag).unwrap();
    freeze(&slots, "1");
    signal_to(first, Signal::SIGKILL);
    agent.wait_state("brief", "starting");
    let other = agent.running("other");
    signal_to(other, Signal::SIGKILL);
    agent.replaced("other", other);
    freeze(&slots, "0");
    agent.wait_state("brief", "failed");
    let events = agent.events_of("brief");
    let mut ends = events.iter().filter(|event| event["event"] == "exited");
    ends.next();
    let mut count = 0;
    for end in ends {
        assert_eq!(end["cause"]["signal"], "SIGKILL", "{end}");
        assert_eq!(end["cause"]["sender"]["itself"], true, "{end}");
        count += 1;
    }
    assert_ne!(count, 0, "{events:?}");
}

#[test]
fn a_flood_of_connections_is_no_reason_for_a_takeover() {
    needs_root!("a flood of connections");
    let rig = Rig::new();
    rig.sleeper("a");
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let a = ledger.current("a");
    let _spare = watching_spare(&rig);
    let flood = AtomicBool::new(true);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let path = rig.runtime_dir().join("control.sock");
                let mut open = Vec::new();
                while flood.load(Ordering::Relaxed) {
                    open.extend(UnixStream::connect(&path));
                    open.truncate(300);
                }
            });
        }
        thread::sleep(LONGER);
        signal_to(a.0, Signal::SIGKILL);
        let killed = now();
        next(&mut ledger, "a", a);
        let took = killed.elapsed();
        let open = fs::read_dir(format!("/proc/{}/fd", agent.pid()))
            .unwrap()
            .count();
        // It may be told to come back, but not that the agent has ended.
        let asked = now();
        let said = eventually("an answer", || {
            let status = rig.run(&["status"]);
            let said = String::from_utf8(status.stderr).unwrap();
            assert!(
                said.is_empty() || said.contains("ask again later"),
                "{said}"
            );
            status.status.success().then_some(asked.elapsed())
        });
        flood.store(false, Ordering::Relaxed);
        report(&format!(
            "in a flood of connections: back after {took:.1?}, {open} descriptors, an answer after {said:.1?}"
        ));
        assert!(open < 600, "{open}");
    });
    assert_eq!(ledger.agents, [agent.pid()], "{}", rig.log());
}

/// As on a machine that is suspended: the time goes on for both at the same moment, and something is due since
/// long ago.
#[test]
fn agent_and_spare_that_stood_still_together_go_on_as_before() {
    let name = "agent_and_spare_that_stood_still_together_go_on_as_before";
    needs_root!(name);
    let cgroup = cgroup_mount().and_then(|mount| Cgroup::new(&mount));
    let Some(cgroup) = cgroup.filter(|it| it.path().join("cgroup.freeze").exists()) else {
        return skip(name, "no cgroup can be frozen");
    };
    let rig = Rig::new();
    rig.sleeper("a");
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let mut a = ledger.current("a");
    let spare = watching_spare(&rig);
    for pid in [agent.pid(), spare.pid()] {
        cgroup.add(pid);
    }
    let place = [cgroup.path().to_owned()];
    for _ in 0..if is_soak() { 50 } else { 5 } {
        freeze(&place, "1");
        eventually("both stand still", || {
            let events = fs::read_to_string(cgroup.path().join("cgroup.events")).unwrap();
            events.contains("frozen 1").then_some(())
        });
        signal_to(a.0, Signal::SIGKILL);
        thread::sleep(LONGER);
        freeze(&place, "0");
        a = next(&mut ledger, "a", a);
    }
    // It would have happened by then.
    thread::sleep(LONGER);
    ledger.read();
    assert_eq!(ledger.agents, [agent.pid()], "{}", rig.log());
    rig.assert_single("a", a);
}

#[test]
fn agent_and_spare_sleep_while_nothing_is_due() {
    needs_root!("sleeping agents");
    let count = if is_soak() { 1000 } else { 20 };
    let rig = Rig::new();
    for number in 0..count {
        rig.sleeper(&format!("s{number}"));
    }
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    for number in 0..count {
        ledger.current(&format!("s{number}"));
    }
    let spare = watching_spare(&rig);
    let time = Duration::from_secs(if is_soak() { 30 } else { 4 });
    // Until nothing of the start is left to do.
    eventually("both sleep", || {
        let before = [agent.pid(), spare.pid()].map(switches);
        thread::sleep(time);
        (before == [agent.pid(), spare.pid()].map(switches)).then_some(())
    });
}

#[test]
fn an_agent_that_adopts_many_services_is_no_reason_for_a_takeover() {
    needs_root!("many adoptions");
    let count = if is_soak() { 10_000 } else { 300 };
    let rig = Rig::new();
    for number in 0..count {
        rig.service(&format!("s{number}"), r#"["/usr/bin/sleep", "100000"]"#, "");
    }
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    let running = |ledger: &mut Ledger, agents: usize| {
        // Each part has its own deadline.
        for part in (1..=count).filter(|part| part % 300 == 0 || *part == count) {
            ledger.wait("so many run", |ledger| {
                let up = ledger.last.values().filter(|(_, by)| *by == agents);
                (up.count() >= part).then_some(())
            });
        }
    };
    running(&mut ledger, 1);
    let second = watching_spare(&rig);
    let third = rig.spare();
    agent.kill();
    // Something is due while the second one adopts.
    let victims: Vec<Instance> = ledger.last.values().map(|(it, _)| *it).take(20).collect();
    victims
        .iter()
        .for_each(|it| signal_to(it.0, Signal::SIGKILL));
    running(&mut ledger, 2);
    thread::sleep(LONGER);
    ledger.read();
    let working = ledger.agents.clone();
    assert_eq!(working.len(), 2, "{working:?}\n{}", rig.log());
    assert!([second.pid(), third.pid()].contains(&working[1]));
}

#[test]
fn a_service_manager_hears_of_agent_and_spare() {
    needs_root!("a service manager");
    let mut rig = Rig::new();
    rig.sleeper("a");
    let path = rig.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let hear = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    rig.set("NOTIFY_SOCKET", path.to_str().unwrap());
    rig.set("WATCHDOG_USEC", "400000");
    let agent = rig.agent();
    let first = hear();
    assert!(
        first.contains("READY=1") && first.contains("the agent"),
        "{first}"
    );
    assert_eq!(hear(), "WATCHDOG=1");
    stop(&agent);
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 256]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    // A stopped one says nothing, and so this is its spare.
    let _spare = rig.spare();
    eventually("the spare is ready", || {
        hear().contains("READY=1").then_some(())
    });
    eventually("it gets on", || (hear() == "WATCHDOG=1").then_some(()));
}

/// A request whose client is gone when it is read is not done, whether it had waited in the kernel
/// or on a connection that the agent knew.
#[test]
fn a_request_that_nobody_waits_for_any_more_is_not_done() {
    needs_root!("an abandoned request");
    let rig = Rig::new();
    rig.sleeper("a");
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let a = ledger.current("a");
    let known = UnixStream::connect(rig.runtime_dir().join("control.sock")).unwrap();
    let mut known_too = known.try_clone().unwrap();
    let status = format!("{}\n", json!({"version": 1, "command": "status"}));
    known_too.write_all(status.as_bytes()).unwrap();
    known_too.read_exact(&mut [0; 10]).unwrap();
    stop(&agent);
    let request = json!({"version": 1, "command": "restart", "services": ["a"]});
    known_too
        .write_all(format!("{request}\n").as_bytes())
        .unwrap();
    drop((known, known_too));
    drop(rig.send(&request));
    agent.signal(Signal::SIGCONT);
    for _ in 0..3 {
        assert!(rig.run(&["status"]).status.success());
    }
    rig.assert_single("a", a);
}

/// The socket that an agent has put back after a removal is one that its spare sees as well.
#[test]
fn a_client_is_due_after_the_runtime_directory_was_removed() {
    needs_root!("a client after a removal");
    let rig = Rig::new();
    rig.sleeper("a");
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let a = ledger.current("a");
    // The agent may put things back meanwhile.
    eventually("it is removed", || {
        fs::remove_dir_all(rig.runtime_dir()).ok()
    });
    eventually("the agent answers again", || {
        rig.run(&["status"]).status.success().then_some(())
    });
    let _spare = watching_spare(&rig);
    stop(&agent);
    let output = rig.run(&["status", "--json"]);
    assert!(output.status.success(), "{output:?}\n{}", rig.log());
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status[0]["pid"], a.0);
}

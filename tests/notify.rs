//! Services that notify as sd_notify(3) has it: readiness, status and watchdog, who may say so, and that
//! what is said while no agent lives is not lost.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    Agent, Setup, Victim, copy_program, eventually, is_root, pid_of, shell, signal_to, skip,
    sleeping,
};

use crate::sockets::holds;

const CULPRIT: &str = env!("CARGO_BIN_EXE_culprit");

/// A service that says what is put into `dir`.
fn speaking(dir: &Path, keys: &str) -> String {
    format!(
        "command = [{CULPRIT:?}, \"speaker\", {:?}]\n{keys}\n",
        dir.display().to_string()
    )
}

/// Has it say something, and waits until it has.
fn say(dir: &Path, text: &str) {
    let (draft, file) = (dir.join("draft"), dir.join("text.say"));
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, &file).unwrap();
    eventually("it has said so", || (!file.exists()).then_some(()));
}

/// A directory below which each user may get to what is theirs, as `/run` is.
fn open_to_all() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn says(agent: &Agent, service: &str, text: &str) -> Value {
    eventually("its status says so", || {
        let status = agent.status(service);
        (status["says"] == text).then_some(status)
    })
}

fn reasons(agent: &Agent, service: &str) -> Vec<String> {
    let events = agent.events_of(service).into_iter();
    let stops = events.filter(|event| event["event"] == "stopping");
    let reasons = stops.filter_map(|event| event["reason"].as_str().map(str::to_owned));
    reasons.collect()
}

#[test]
fn what_requires_it_starts_when_it_says_that_it_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[
        ("app", &sleeping("requires = [\"db\"]")),
        ("db", &speaking(dir.path(), "ready = { notify = true }")),
    ]);
    let pid = pid_of(&agent.wait_state("db", "starting"));
    say(dir.path(), "STATUS=loading\nMAINPID=1\nnonsense");
    let status = says(&agent, "db", "loading");
    assert_eq!(status["state"], "starting", "{status}");
    agent.wait_state("app", "waiting");
    say(dir.path(), "READY=1\nSTATUS=serves");
    agent.running("app");
    let status = says(&agent, "db", "serves");
    assert_eq!(
        (&status["state"], pid_of(&status)),
        (&json!("running"), pid)
    );
    assert_eq!(agent.count("db", "ready"), 1);
    let output = agent.run(&["status", "db"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("says: serves"), "{text}");
}

#[test]
fn what_it_says_while_no_agent_lives_is_not_lost() {
    if !is_root("what_it_says_while_no_agent_lives_is_not_lost") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&[
        ("app", &sleeping("requires = [\"db\"]")),
        ("db", &speaking(dir.path(), "ready = { notify = true }")),
    ]);
    let pid = pid_of(&agent.wait_state("db", "starting"));
    let mut spare = agent.another();
    agent.kill();
    spare.kill().unwrap();
    spare.wait().unwrap();
    say(dir.path(), "READY=1");
    agent.start_again();
    agent.running("app");
    for _ in 0..2 {
        let status = agent.status("db");
        assert_eq!(
            (&status["state"], pid_of(&status)),
            (&json!("running"), pid)
        );
        agent.kill();
        agent.start_again();
    }
    // It still hears the same instance.
    say(dir.path(), "STATUS=after");
    says(&agent, "db", "after");
    assert_eq!(agent.count("db", "ready"), 1);
}

/// As many as a queue of the kernel's default length holds, ten, and one message for each of fifty.
#[test]
fn fifty_services_say_so_while_no_agent_lives() {
    if !is_root("fifty_services_say_so_while_no_agent_lives") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..50).map(|number| format!("s{number:02}")).collect();
    let mut services = Vec::new();
    for name in &names {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        services.push(speaking(&dir, "ready = { notify = true }"));
    }
    let services = names.iter().zip(&services);
    let services: Vec<_> = services
        .into_iter()
        .map(|(name, text)| (&**name, &**text))
        .collect();
    let mut agent = Agent::start(&services);
    let pids: Vec<u32> = names
        .iter()
        .map(|name| pid_of(&agent.wait_state(name, "starting")))
        .collect();
    agent.kill();
    for name in &names {
        for text in ["STATUS=1", "STATUS=2", "READY=1"] {
            say(&dir.path().join(name), text);
        }
    }
    agent.start_again();
    for (name, pid) in names.iter().zip(pids) {
        assert_eq!(agent.running(name), pid, "{name}");
        says(&agent, name, "2");
    }
}

/// Without the spare that would be lost.
#[test]
fn what_a_service_says_that_has_closed_the_socket_is_with_the_spare() {
    if !is_root("what_a_service_says_that_has_closed_the_socket_is_with_the_spare") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let script = format!(
        "exec 900>&-; touch {dir}/closed; for n in 1 2 3; do while ! [ -e {dir}/$n ]; do sleep 0.02; done; \
         {CULPRIT} say \"STATUS=$n\nREADY=1\" && touch {dir}/$n.done; done; while :; do sleep 1; done",
        dir = dir.path().display()
    );
    let web = format!(
        "command = {}\nready = {{ notify = true }}\n",
        json!(["/bin/bash", "-c", script])
    );
    let mut agent = Agent::start(&[("web", &web)]);
    let pid = pid_of(&agent.wait_state("web", "starting"));
    eventually("it has closed it", || at("closed").exists().then_some(()));
    let socket = agent.runtime_dir().join("notify/web");
    let inode = inode_of(&socket);
    let mut spare = agent.another();
    for round in ["1", "2", "3"] {
        holds(spare.id(), &inode);
        agent.signal(Signal::SIGSTOP);
        fs::write(at(round), "").unwrap();
        let done = at(&format!("{round}.done"));
        eventually("it has said so", || done.exists().then_some(()));
        agent.replace_by(spare);
        spare = agent.another();
        says(&agent, "web", round);
        assert_eq!(agent.running("web"), pid);
    }
    let log = agent.log();
    assert!(!log.contains("cannot take over its notify socket"), "{log}");
    assert_eq!(agent.count("web", "ready"), 1);
    spare.kill().unwrap();
    spare.wait().unwrap();
}

/// The socket of this path, as `/proc/PID/fd` names it.
fn inode_of(path: &Path) -> String {
    let text = fs::read_to_string("/proc/net/unix").unwrap();
    let line = text
        .lines()
        .find(|line| line.ends_with(&format!(" {}", path.display())));
    let inode = line.unwrap().split_whitespace().nth(6).unwrap();
    format!("socket:[{inode}]")
}

/// In a network namespace where a queue holds ten messages unless the agent asks for more. Each message has
/// to be there afterwards.
#[test]
fn more_messages_than_the_kernels_default_queue_holds_block_nobody() {
    const DEFAULT: usize = 10;
    const MESSAGES: usize = 14;
    if !is_root("more_messages_than_the_kernels_default_queue_holds_block_nobody") {
        return;
    }
    let setting = "/proc/sys/net/unix/max_dgram_qlen";
    if let Err(error) = fs::OpenOptions::new().write(true).open(setting) {
        let test = "more_messages_than_the_kernels_default_queue_holds_block_nobody";
        return skip(test, &format!("{setting}: {error}"));
    }
    let script = format!("echo {DEFAULT} > {setting} && exec \"$@\"");
    let wrapper = ["/usr/bin/unshare", "--net", "/bin/sh", "-c", &script, "sh"];
    let setup = Setup {
        wrapper: wrapper.map(str::to_owned).into(),
        ..Setup::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..50).map(|number| format!("s{number:02}")).collect();
    let keys = format!("ready = {{ notify = true }}\nfd_store = {MESSAGES}");
    let services: Vec<String> = names
        .iter()
        .map(|name| {
            fs::create_dir(dir.path().join(name)).unwrap();
            speaking(&dir.path().join(name), &keys)
        })
        .collect();
    let pairs = names.iter().zip(&services);
    let pairs: Vec<_> = pairs.map(|(name, text)| (&**name, &**text)).collect();
    let mut agent = Agent::with(&setup, &pairs);
    let pids: Vec<u32> = names
        .iter()
        .map(|name| pid_of(&agent.wait_state(name, "starting")))
        .collect();
    // It asks for no more than it needs, for no longer.
    let net = format!("--net=/proc/{}/ns/net", agent.pid());
    let read = Command::new("nsenter")
        .args([&*net, "cat", setting])
        .output();
    let read = String::from_utf8(read.unwrap().stdout).unwrap();
    assert_eq!(read.trim(), DEFAULT.to_string());
    agent.kill();
    let stored: Vec<String> = (1..MESSAGES)
        .map(|number| format!("m{number:02}"))
        .collect();
    for name in &names {
        let at = |file: &str| dir.path().join(name).join(file);
        for (number, word) in stored.iter().enumerate() {
            fs::write(
                at("draft"),
                format!("FDSTORE=1\nFDNAME={word}\n@open {}", at(word).display()),
            )
            .unwrap();
            fs::rename(at("draft"), at(&format!("{number:02}.say"))).unwrap();
        }
        fs::write(at("draft"), "READY=1").unwrap();
        fs::rename(at("draft"), at("99.say")).unwrap();
    }
    for name in &names {
        let last = dir.path().join(name).join("99.say");
        eventually("it has sent all", || (!last.exists()).then_some(()));
    }
    agent.start_again();
    for (name, pid) in names.iter().zip(pids) {
        assert_eq!(agent.running(name), pid, "{name}");
        assert_eq!(agent.status(name)["stored"], json!(stored), "{name}");
    }
}

#[test]
fn a_child_of_the_service_may_say_it_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let at_once = format!("{CULPRIT} say READY=1; while :; do sleep 1; done");
    let later = format!(
        "while ! [ -e {0} ]; do sleep 0.02; done; {CULPRIT} say READY=1 && mv {0} {0}ne; \
         while :; do sleep 1; done",
        go.display()
    );
    let mut agent = Agent::start(&[
        ("db", &shell(&at_once, "ready = { notify = true }")),
        ("late", &shell(&later, "ready = { notify = true }")),
    ]);
    agent.running("db");
    // While no agent lives, too.
    let pid = pid_of(&agent.wait_state("late", "starting"));
    agent.kill();
    fs::write(&go, "").unwrap();
    eventually("it has said so", || {
        dir.path().join("gone").exists().then_some(())
    });
    agent.start_again();
    assert_eq!(agent.running("late"), pid);
}

#[test]
fn a_stranger_is_not_heard() {
    if !is_root("a_stranger_is_not_heard") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let services = [
        ("db", &*speaking(dir.path(), "ready = { notify = true }")),
        (
            "own",
            &sleeping("ready = { notify = true }\nuser = \"nobody\""),
        ),
    ];
    let agent = Agent::within(open_to_all(), &Setup::default(), &services);
    agent.wait_state("db", "starting");
    agent.wait_state("own", "starting");
    let socket = agent.runtime_dir().join("notify/db");
    let of_nobody = agent.runtime_dir().join("notify/own");
    let metadata = fs::metadata(&of_nobody).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid()), (0o600, 65_534));
    let mut command = Command::new(CULPRIT);
    command.args(["say", "READY=1\\nSTATUS=forged", "stay"]);
    let _stranger = Victim::from_command(command.env("NOTIFY_SOCKET", &socket));
    let say_as = |user: u32, socket: &Path| {
        let mut command = Command::new(CULPRIT);
        command.args(["say", "READY=1\\nSTATUS=forged"]);
        let command = command.env("NOTIFY_SOCKET", socket).uid(user).gid(user);
        command.output().unwrap().status.success()
    };
    // To a service of root's everybody can send; to that of another user only that one can.
    assert!(say_as(65_534, &socket));
    assert!(!say_as(1, &of_nobody));
    // Messages come in their order: this one was sent after those.
    eventually("the stranger has sent it", || {
        say(dir.path(), "STATUS=own");
        (agent.status("db")["says"] == "own").then_some(())
    });
    assert_eq!(agent.status("db")["state"], "starting");
    say(dir.path(), "READY=1");
    agent.running("db");
}

/// Of children that run, and of those that have ended.
#[test]
fn with_access_main_no_child_is_heard() {
    let (dir, childs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let forged = "READY=1\\nSTATUS=forged\\nSTOPPING=1\\nWATCHDOG=trigger\\nMAINPID=";
    let script = format!(
        "{CULPRIT} say '{forged}'$$; {CULPRIT} speaker {0} & echo $! > {0}/pid; exec {CULPRIT} speaker {1}",
        childs.path().display(),
        dir.path().display()
    );
    let keys = "ready = { notify = true, access = \"main\" }\nwatchdog = \"1h\"";
    let agent = Agent::start(&[("db", &shell(&script, keys))]);
    let pid = pid_of(&agent.wait_state("db", "starting"));
    let child: u32 = eventually("its child runs", || {
        let text = fs::read_to_string(childs.path().join("pid")).ok()?;
        text.trim().parse().ok()
    });
    say(
        childs.path(),
        &format!("{}{child}", forged.replace("\\n", "\n")),
    );
    // Its main process is heard. Messages come in their order: that one comes after all of those.
    say(dir.path(), "STATUS=own");
    let status = says(&agent, "db", "own");
    assert_eq!(
        (&status["state"], pid_of(&status), &status["step"]),
        (&json!("starting"), pid, &Value::Null)
    );
    say(dir.path(), "READY=1");
    assert_eq!(agent.running("db"), pid);
    // It may name the child as its main process, which is heard from then on.
    say(dir.path(), &format!("MAINPID={child}"));
    eventually("the child is the main process", || {
        (agent.running("db") == child).then_some(())
    });
    say(dir.path(), &format!("WATCHDOG=trigger\nMAINPID={pid}"));
    say(childs.path(), "STATUS=child");
    says(&agent, "db", "child");
    assert_eq!(agent.running("db"), child);
    assert_eq!(reasons(&agent, "db"), [""; 0]);
}

/// As mosquitto does.
#[test]
fn a_service_of_roots_may_say_it_as_another_user() {
    if !is_root("a_service_of_roots_may_say_it_as_another_user") {
        return;
    }
    let dir = open_to_all();
    let culprit = dir.path().join("culprit");
    copy_program(CULPRIT, &culprit);
    let command = format!(
        "command = [\"/usr/bin/setpriv\", \"--reuid=65534\", \"--regid=65534\", \"--clear-groups\", {culprit:?}, \
         \"say\", \"READY=1\", \"stay\"]\nready = {{ notify = true }}\n"
    );
    let agent = Agent::within(dir, &Setup::default(), &[("db", &command)]);
    agent.running("db");
}

#[test]
fn what_makes_no_sense_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[("db", &speaking(dir.path(), "ready = { notify = true }"))]);
    let pid = pid_of(&agent.wait_state("db", "starting"));
    let socket = agent.runtime_dir().join("notify/db");
    let sender = UnixDatagram::unbound().unwrap();
    let long = vec![b'x'; 100_000];
    for text in [
        b"".as_slice(),
        b"\xff\xfe",
        b"READY=\nREADY=2\n=1\n\0",
        b"EXTEND_TIMEOUT_USEC=99999999999999999999",
        &long,
    ] {
        // The longest does not fit into every kernel's queue.
        let _ = sender.send_to(text, &socket);
    }
    say(dir.path(), "STATUS=still here");
    assert_eq!(says(&agent, "db", "still here")["state"], "starting");
    say(
        dir.path(),
        "EXTEND_TIMEOUT_USEC=18446744073709551615\nREADY=1",
    );
    assert_eq!(agent.running("db"), pid);
}

#[test]
fn one_that_does_not_say_that_it_lives_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lives"), "").unwrap();
    let keys = "watchdog = \"600ms\"\nrestart_delay = \"50ms\"";
    let agent = Agent::start(&[("db", &speaking(dir.path(), keys))]);
    let pid = agent.running("db");
    say(dir.path(), "STATUS=lives");
    says(&agent, "db", "lives");
    assert_eq!(agent.running("db"), pid);
    fs::remove_file(dir.path().join("lives")).unwrap();
    agent.replaced("db", pid);
    let reason = "no sign of life within watchdog (600ms)";
    assert_eq!(reasons(&agent, "db")[0], reason);
    let output = agent.run(&["why", "db"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains(&format!("had sent SIGTERM: {reason}")),
        "{text}"
    );
    // It may ask for it, too.
    fs::write(dir.path().join("lives"), "").unwrap();
    let running = agent.running("db");
    assert_ne!(running, pid);
    say(dir.path(), "WATCHDOG=trigger");
    agent.replaced("db", running);
    assert!(reasons(&agent, "db").contains(&"it has sent WATCHDOG=trigger".to_owned()));
}

#[test]
fn a_watchdog_is_not_held_against_a_service_while_its_agent_is_stopped_or_dead() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lives"), "").unwrap();
    let mut agent = Agent::start(&[("db", &speaking(dir.path(), "watchdog = \"1s\""))]);
    let pid = agent.running("db");
    // Nobody reads for longer than that.
    signal_to(agent.pid(), Signal::SIGSTOP);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    signal_to(agent.pid(), Signal::SIGCONT);
    say(dir.path(), "STATUS=one");
    says(&agent, "db", "one");
    assert_eq!(agent.running("db"), pid);
    agent.kill();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    agent.start_again();
    say(dir.path(), "STATUS=two");
    says(&agent, "db", "two");
    assert_eq!(agent.running("db"), pid);
    assert_eq!(reasons(&agent, "db"), [""; 0]);
}

/// As `systemd-notify` without `--no-block` waits.
#[test]
fn a_barrier_ends_when_all_before_it_was_heard() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&[("db", &speaking(dir.path(), "ready = { notify = true }"))]);
    agent.wait_state("db", "starting");
    for number in 0..20 {
        say(dir.path(), &format!("STATUS=at {number}"));
        say(dir.path(), "BARRIER=1\n@barrier");
        assert_eq!(agent.status("db")["says"], format!("at {number}"));
    }
    // Without an agent it waits for the next one.
    agent.kill();
    say(dir.path(), "STATUS=later\nREADY=1");
    let barrier = dir.path().join("barrier.say");
    fs::write(dir.path().join("draft"), "BARRIER=1\n@barrier").unwrap();
    fs::rename(dir.path().join("draft"), &barrier).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(barrier.exists());
    agent.start_again();
    eventually("the barrier has ended", || {
        (!barrier.exists()).then_some(())
    });
    let status = agent.status("db");
    assert_eq!(
        (&status["says"], &status["state"]),
        (&json!("later"), &json!("running"))
    );
}

#[test]
fn a_stop_and_a_reload_that_take_longer_may_ask_for_more_time() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let wait = format!("while ! [ -e {} ]; do sleep 0.02; done", go.display());
    let more = "EXTEND_TIMEOUT_USEC=600000000";
    // Longer than its timeouts, and until the test says so.
    let reloads = format!(
        "trap '{CULPRIT} say \"RELOADING=1\nMONOTONIC_USEC=@now\n{more}\"; {wait}; {CULPRIT} say READY=1' HUP"
    );
    let stops = format!("trap '{CULPRIT} say {more}; {wait}; exit 0' TERM");
    let script = format!("{reloads}; {stops}; {CULPRIT} say READY=1; while :; do sleep 0.05; done");
    let keys = "ready = { notify = true }\nreload = { notify = true }\nstart_timeout = \"4s\"\n\
                stop_timeout = \"4s\"\nstop_mode = \"main\"";
    let agent = Agent::start(&[("db", &shell(&script, keys))]);
    let pid = agent.running("db");
    for command in ["reload", "stop"] {
        let _ = fs::remove_file(&go);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| agent.run(&[command, "db"]));
            std::thread::sleep(std::time::Duration::from_millis(5500));
            assert!(support::is_alive(pid), "{command}");
            fs::write(&go, "").unwrap();
            let output = asked.join().unwrap();
            assert!(output.status.success(), "{command}: {output:?}");
        });
    }
    assert_eq!(agent.status("db")["last_exit"]["code"], 0);
}

#[test]
fn a_start_that_takes_longer_may_ask_for_more_time() {
    let dir = tempfile::tempdir().unwrap();
    // Long enough for a busy host to hear what it says.
    let keys = "ready = { notify = true }\nstart_timeout = \"8s\"\nrestart_delay = \"50ms\"";
    let agent = Agent::start(&[("db", &speaking(dir.path(), keys))]);
    let pid = pid_of(&agent.wait_state("db", "starting"));
    say(dir.path(), "EXTEND_TIMEOUT_USEC=600000000");
    std::thread::sleep(std::time::Duration::from_millis(8200));
    say(dir.path(), "READY=1");
    assert_eq!(agent.running("db"), pid);
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Starts another process, has it be the main one, and does what `then` says.
fn handing_over(then: &str, keys: &str) -> String {
    shell(
        &format!("sleep 1000 & {CULPRIT} say \"READY=1\nMAINPID=$!\"; {then}"),
        &format!("ready = {{ notify = true }}\n{keys}"),
    )
}

#[test]
fn another_process_may_become_the_main_one() {
    if !is_root("another_process_may_become_the_main_one") {
        return;
    }
    let agent = Agent::start(&[("web", &handing_over("exec sleep 2000", ""))]);
    let main = agent.running("web");
    let events = agent.events_of("web");
    let changed = events.iter().find(|it| it["event"] == "main_changed");
    let changed = changed.unwrap();
    assert_eq!(pid_of(changed), main);
    let former = u32::try_from(changed["former_pid"].as_u64().unwrap()).unwrap();
    // The one before is a process of the service as any other.
    signal_to(former, Signal::SIGKILL);
    eventually("its end is in the journal", || {
        (agent.count("web", "child_exited") == 1).then_some(())
    });
    assert_eq!(agent.running("web"), main);
    signal_to(main, Signal::SIGKILL);
    let next = agent.replaced("web", main);
    let exits = agent.events_of("web").into_iter();
    let exits: Vec<_> = exits.filter(|it| it["event"] == "exited").collect();
    let [exit] = &exits[..] else {
        panic!("one exit is expected: {exits:?}");
    };
    assert_eq!(pid_of(exit), main);
    assert_eq!(exit["cause"]["signal"], "SIGKILL", "{exit}");
    assert_eq!(exit["cause"]["sender"]["pid"], std::process::id(), "{exit}");
    // A stop reaches all of it.
    agent.must("stop", "web");
    assert!(!support::is_alive(next));
    assert_eq!(agent.live("web"), Vec::<u32>::new());
}

/// As a program does that goes into the background and says so.
#[test]
fn the_one_before_may_end_as_soon_as_it_has_said_so() {
    if !is_root("the_one_before_may_end_as_soon_as_it_has_said_so") {
        return;
    }
    let agent = Agent::start(&[("web", &handing_over("exit 1", "restart = \"no\""))]);
    for round in 1..=30 {
        let main = agent.running("web");
        assert_eq!(agent.count("web", "main_changed"), round);
        assert_eq!(agent.count("web", "exited"), round - 1);
        signal_to(main, Signal::SIGTERM);
        agent.wait_state("web", "failed");
        agent.must("start", "web");
    }
}

#[test]
fn the_next_agent_knows_which_process_is_the_main_one() {
    if !is_root("the_next_agent_knows_which_process_is_the_main_one") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let script = format!(
        "sleep 1000 & {CULPRIT} say READY=1; while ! [ -e {go} ]; do sleep 0.05; done; \
         {CULPRIT} say \"MAINPID=$!\nSTATUS=handed over\"; touch {go}.done; while :; do sleep 1; done",
        go = go.display()
    );
    let mut agent = Agent::start(&[("web", &shell(&script, "ready = { notify = true }"))]);
    let former = agent.running("web");
    let main = *children(former).first().unwrap();
    agent.kill();
    fs::write(&go, "").unwrap();
    let done = dir.path().join("go.done");
    eventually("it has said so", || done.exists().then_some(()));
    agent.start_again();
    says(&agent, "web", "handed over");
    assert_eq!(agent.running("web"), main);
    agent.kill();
    agent.start_again();
    assert_eq!(agent.running("web"), main);
    assert!(support::is_alive(former));
    agent.kill();
    signal_to(former, Signal::SIGKILL);
    agent.start_again();
    assert_eq!(agent.running("web"), main);
    assert_eq!(agent.count("web", "exited"), 0);
    assert_eq!(agent.count("web", "started"), 1);
}

#[test]
fn the_one_before_may_end_while_no_agent_runs() {
    if !is_root("the_one_before_may_end_while_no_agent_runs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let script = |says: &str| {
        format!(
            "sleep 1000 & while ! [ -e {} ]; do sleep 0.05; done; {CULPRIT} say \"{says}\"; exit 1",
            go.display()
        )
    };
    let keys = "ready = { notify = true }\nrestart_delay = \"10m\"";
    let mut agent = Agent::start(&[
        (
            "web",
            &shell(&script("MAINPID=$!\nREADY=1\nSTATUS=handed over"), keys),
        ),
        ("mute", &shell(&script("READY=1"), keys)),
    ]);
    let former = pid_of(&agent.wait_state("web", "starting"));
    let mute = pid_of(&agent.wait_state("mute", "starting"));
    let main = eventually("it has a child", || children(former).first().copied());
    agent.kill();
    fs::write(&go, "").unwrap();
    eventually("both have ended", || {
        (!support::is_alive(former) && !support::is_alive(mute)).then_some(())
    });
    agent.start_again();
    assert_eq!(agent.running("web"), main);
    says(&agent, "web", "handed over");
    assert_eq!(agent.count("web", "exited"), 0);
    assert_eq!(agent.count("web", "started"), 1);
    // One that has named nobody has ended.
    agent.wait_state("mute", "backoff");
    assert_eq!(agent.count("mute", "exited"), 1);
    signal_to(main, Signal::SIGKILL);
    eventually("its end is in the journal", || {
        (agent.count("web", "exited") == 1).then_some(())
    });
}

#[test]
fn only_a_process_of_the_service_may_become_the_main_one() {
    if !is_root("only_a_process_of_the_service_may_become_the_main_one") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stranger = Victim::start("sleep", &["1000"]);
    let agent = Agent::start(&[("db", &speaking(dir.path(), "ready = { notify = true }"))]);
    let pid = pid_of(&agent.wait_state("db", "starting"));
    for other in [0, 1, stranger.pid(), agent.pid(), 4_000_000] {
        say(
            dir.path(),
            &format!("MAINPID={other}\nSTATUS=after {other}"),
        );
        says(&agent, "db", &format!("after {other}"));
        assert_eq!(pid_of(&agent.status("db")), pid);
    }
    assert_eq!(agent.count("db", "main_changed"), 0);
    let log = agent.log();
    assert!(log.contains("that process is not of the service"), "{log}");
    say(dir.path(), &format!("MAINPID={pid}\nREADY=1"));
    agent.running("db");
}

#[test]
fn a_reload_returns_when_the_service_has_said_that_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let script = format!(
        "trap '{CULPRIT} say \"RELOADING=1\nMONOTONIC_USEC=@now\"; while ! [ -e {go} ]; do sleep 0.02; done; \
         {CULPRIT} say READY=1' HUP; {CULPRIT} say READY=1; while :; do sleep 0.05; done",
        go = go.display()
    );
    let keys = "ready = { notify = true }\nreload = { signal = \"SIGHUP\", notify = true }";
    let agent = Agent::start(&[
        ("web", &shell(&script, keys)),
        (
            "mute",
            &shell(
                &format!("trap : HUP; {CULPRIT} say READY=1; while :; do sleep 0.05; done"),
                &format!("{keys}\nstart_timeout = \"1s\""),
            ),
        ),
        (
            "brittle",
            &shell(
                &format!("{CULPRIT} say READY=1; while :; do sleep 0.05; done"),
                keys,
            ),
        ),
    ]);
    let pid = agent.running("web");
    let mut reload = agent.command(&["reload", "web"]).spawn().unwrap();
    eventually("it reads its configuration again", || {
        (agent.status("web")["step"] == "reload").then_some(())
    });
    assert_eq!(agent.status("web")["state"], "running");
    assert!(reload.try_wait().unwrap().is_none());
    fs::write(&go, "").unwrap();
    assert!(reload.wait().unwrap().success());
    assert_eq!(agent.status("web")["step"], Value::Null);
    assert_eq!(agent.running("web"), pid);
    for (service, why) in [
        (
            "mute",
            "it has not sent RELOADING=1 and then READY=1 within start_timeout (1s)",
        ),
        ("brittle", "it has ended, or is being stopped"),
    ] {
        agent.running(service);
        let output = agent.run(&["reload", service]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(why), "{text}");
    }
    agent.running("mute");
}

#[test]
fn one_that_says_that_it_stops_has_the_time_of_a_stop() {
    let script = format!("{CULPRIT} say \"READY=1\nSTOPPING=1\"; exec sleep 1000");
    let keys = "ready = { notify = true }\nstop_timeout = \"2s\"\nrestart = \"no\"";
    let agent = Agent::start(&[("web", &shell(&script, keys))]);
    eventually("its status says so", || {
        (agent.status("web")["step"] == "stop").then_some(())
    });
    agent.wait_state("web", "failed");
    let why = "it has sent STOPPING=1 and not ended within stop_timeout (2s)";
    assert_eq!(reasons(&agent, "web"), [why]);
}

//! Hooks and notices: who wants to know of an event is told of it, once and with all that is known,
//! and no service waits for that.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::rig::Rig;
use support::{eventually, is_alive, now, respawn, signal_to};

/// A shell's command as a TOML array.
fn shell(script: &str) -> String {
    json!(["/bin/sh", "-c", script]).to_string()
}

/// More lines for the agent's file.
fn settings(rig: &Rig, lines: &str) {
    let path = rig.path().join("config/agent.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{lines}\n")).unwrap();
}

/// Where hooks of a test write.
fn out(rig: &Rig) -> PathBuf {
    rig.path().join("out")
}

/// A hook that appends a line of its own to `out`, in one write.
fn telling(rig: &Rig, words: &str) -> String {
    shell(&format!("echo \"{words}\" >> {}", out(rig).display()))
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn wait_for_lines(path: &Path, count: usize) -> Vec<String> {
    let what = format!("{count} lines in {}", path.display());
    eventually(&what, || {
        Some(lines(path)).filter(|lines| lines.len() >= count)
    })
}

/// A service that comes back at once, with these hooks.
fn sleeper(rig: &Rig, name: &str, keys: &str) {
    let keys = format!("restart_max_delay = \"0s\"\n{keys}");
    rig.service(name, r#"["/usr/bin/sleep", "100000"]"#, &keys);
}

#[test]
fn a_hook_has_the_event_on_its_input_and_in_its_variables() {
    let rig = Rig::new();
    let file = out(&rig);
    let script = format!(
        "{{ cat; env; pwd; echo SESSION=$(ps -o sid= -p $$) PID=$$; echo END; }} >> {}",
        file.display()
    );
    sleeper(&rig, "web", &format!("on_exit = {}", shell(&script)));
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    let web = ledger.current("web");
    signal_to(web.0, Signal::SIGKILL);
    let told = eventually("the hook's end", || {
        Some(lines(&file)).filter(|told| told.last().is_some_and(|last| last == "END"))
    });
    let event: Value = serde_json::from_str(&told[0]).unwrap();
    ledger.wait("the exit", |ledger| {
        ledger.has_exited("web", web).then_some(())
    });
    assert_eq!(event, ledger.told("web", web).exits[0]);
    let has = |line: &str| told.iter().any(|told| told == line);
    for line in [
        "RESPAWN_HOOK=on_exit".to_owned(),
        "RESPAWN_EVENT=exited".to_owned(),
        "RESPAWN_SERVICE=web".to_owned(),
        format!("RESPAWN_PID={}", web.0),
        format!("RESPAWN_SEQ={}", event["seq"]),
        format!("RESPAWN_TIME={}", event["time"].as_str().unwrap()),
        "RESPAWN_CAUSE_KIND=signaled".to_owned(),
        "RESPAWN_SIGNAL=SIGKILL".to_owned(),
        "RESPAWN_CORE_DUMPED=false".to_owned(),
        format!("RESPAWN_RUNTIME_DIR={}", rig.runtime_dir().display()),
        "/".to_owned(),
    ] {
        assert!(has(&line), "{line} in {told:?}");
    }
    let cause = told
        .iter()
        .find_map(|line| line.strip_prefix("RESPAWN_CAUSE="));
    assert!(cause.unwrap().starts_with("killed by SIGKILL"), "{told:?}");
    // Nothing of the agent's environment but its PATH and LANG.
    assert!(!told.iter().any(|line| line.starts_with("RESPAWN_CONFIG=")));
    let session = told.iter().find(|line| line.starts_with("SESSION="));
    let (session, pid) = session.unwrap()["SESSION=".len()..]
        .split_once(" PID=")
        .unwrap();
    assert_eq!(session.trim(), pid);
}

#[test]
fn each_event_calls_its_hook_and_a_services_own_comes_first() {
    let rig = Rig::new();
    let general = |hook| telling(&rig, &format!("general {hook} $RESPAWN_SERVICE"));
    settings(
        &rig,
        &format!(
            "on_exit = {}\non_restart = {}\non_failed = {}",
            general("exit"),
            telling(&rig, "general restart $RESPAWN_SERVICE $RESPAWN_RESTARTS"),
            general("failed $RESPAWN_REASON")
        ),
    );
    let own = telling(&rig, "own exit $RESPAWN_CODE");
    rig.service(
        "once",
        r#"["/bin/sh", "-c", "exit 3"]"#,
        &format!("on_exit = {own}\nrestart = \"no\""),
    );
    sleeper(&rig, "web", "");
    sleeper(&rig, "quiet", "on_exit = []\non_restart = []");
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    let quiet = ledger.current("quiet");
    signal_to(quiet.0, Signal::SIGKILL);
    let web = ledger.current("web");
    signal_to(web.0, Signal::SIGKILL);
    let mut told = wait_for_lines(&out(&rig), 4);
    told.sort();
    let expected = [
        "general exit web",
        "general failed exited with 3 once",
        "general restart web 1",
        "own exit 3",
    ];
    // The order of the words is the script's.
    let failed = told
        .iter_mut()
        .find(|line| line.contains("failed"))
        .unwrap();
    assert!(failed.contains("once") && failed.contains("exited with 3"));
    *failed = expected[1].to_owned();
    assert_eq!(told, expected);
    assert!(
        quiet
            != ledger.wait("quiet is back", |it| {
                it.has_current("quiet").filter(|now| *now != quiet)
            })
    );
}

#[test]
fn a_hook_that_hangs_is_killed_whole_and_delays_nobody() {
    let rig = Rig::new();
    let pids = out(&rig);
    let hangs = format!(
        "trap '' TERM; sleep 1000 & echo $$ $! >> {}; wait",
        pids.display()
    );
    sleeper(
        &rig,
        "web",
        &format!("hook_timeout = \"2s\"\non_exit = {}", shell(&hangs)),
    );
    settings(&rig, "max_hooks = 2");
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    let mut web = ledger.current("web");
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = now();
        signal_to(web.0, Signal::SIGKILL);
        web = ledger.wait("web is back", |ledger| {
            ledger.has_current("web").filter(|found| *found != web)
        });
        times.push(start.elapsed());
    }
    times.sort_unstable();
    support::rig::report(&format!("restarts beside hooks that hang: {times:?}"));
    // Had each of them waited for a hook, half of them would have taken longer than a hook may.
    assert!(times[2] < Duration::from_secs(1), "{times:?}");
    for line in wait_for_lines(&pids, 5) {
        for pid in line.split(' ') {
            let pid: u32 = pid.parse().unwrap();
            eventually("a hook's process is gone", || {
                (!is_alive(pid)).then_some(())
            });
        }
    }
    eventually("all five are told of in the log", || {
        let log = rig.log();
        let killed = log.matches("killed after 2s").count();
        (killed == 5 && log.contains("on_exit") && log.contains("web")).then_some(())
    });
}

#[test]
fn what_a_hook_leaves_in_its_group_goes_with_it() {
    let rig = Rig::new();
    let pids = out(&rig);
    let leaves = format!("sleep 1000 & echo $! >> {}", pids.display());
    sleeper(&rig, "web", &format!("on_exit = {}", shell(&leaves)));
    let _agent = rig.agent();
    let web = rig.ledger().current("web");
    signal_to(web.0, Signal::SIGKILL);
    let pid: u32 = wait_for_lines(&pids, 1)[0].parse().unwrap();
    eventually("it is gone", || (!is_alive(pid)).then_some(()));
    assert!(!rig.log().contains("on_exit"), "{}", rig.log());
}

#[test]
fn a_hundred_deaths_at_once_run_two_hooks_at_once() {
    let rig = Rig::new();
    settings(&rig, "max_hooks = 2");
    let running = rig.path().join("running");
    fs::create_dir(&running).unwrap();
    // Each counts who runs beside it.
    let script = format!(
        "cd {}; mkdir $$; echo $(ls | wc -l) $RESPAWN_SERVICE >> {}; rmdir $$",
        running.display(),
        out(&rig).display()
    );
    let names: Vec<String> = (0..100).map(|number| format!("s{number}")).collect();
    for name in &names {
        sleeper(&rig, name, &format!("on_exit = {}", shell(&script)));
    }
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    let before: Vec<_> = names.iter().map(|name| ledger.current(name)).collect();
    for (pid, _) in &before {
        signal_to(*pid, Signal::SIGKILL);
    }
    let told = wait_for_lines(&out(&rig), 100);
    let mut services = Vec::new();
    for line in &told {
        let (beside, service) = line.split_once(' ').unwrap();
        assert!((1..=2).contains(&beside.parse().unwrap()), "{line}");
        services.push(service.to_owned());
    }
    services.sort();
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(services, expected);
    for (name, old) in names.iter().zip(before) {
        ledger.wait("all are back", |ledger| {
            ledger.has_current(name).filter(|found| *found != old)
        });
    }
}

#[test]
fn a_hook_that_fails_is_told_of_in_the_log_and_nothing_follows() {
    let rig = Rig::new();
    let program = rig.path().join("notify");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    sleeper(
        &rig,
        "missing",
        &format!("on_exit = [{:?}]", program.display().to_string()),
    );
    sleeper(&rig, "failing", &format!("on_exit = {}", shell("exit 9")));
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    for name in ["missing", "failing"] {
        let old = ledger.current(name);
        signal_to(old.0, Signal::SIGKILL);
        ledger.wait("it is back", |ledger| {
            ledger.has_current(name).filter(|found| *found != old)
        });
    }
    let log = eventually("both are told of", || {
        Some(rig.log())
            .filter(|log| log.contains("Permission denied (exec)") && log.contains("exited with 9"))
    });
    let line = |words: &str| log.lines().find(|line| line.contains(words)).unwrap();
    assert!(line("exited with 9").contains("failing"), "{log}");
    assert!(line("exited with 9").contains("on_exit"), "{log}");
    assert!(line("(exec)").contains("missing"), "{log}");
    assert!(!ledger.others.iter().any(|event| event["event"] == "failed"));
}

#[test]
fn a_change_of_hooks_restarts_nothing_and_holds_at_once() {
    let rig = Rig::new();
    sleeper(&rig, "web", "");
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    let web = ledger.current("web");
    sleeper(&rig, "web", &format!("on_exit = {}", telling(&rig, "own")));
    let output = rig.run(&["reload"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "changed: web (updated in place)\n");
    rig.assert_single("web", web);
    signal_to(web.0, Signal::SIGKILL);
    assert_eq!(wait_for_lines(&out(&rig), 1), ["own"]);
    // The agent's own stand in for those of a service that names none.
    let back = ledger.wait("it is back", |ledger| {
        ledger.has_current("web").filter(|found| *found != web)
    });
    sleeper(&rig, "web", "");
    settings(&rig, &format!("on_exit = {}", telling(&rig, "general")));
    assert!(rig.run(&["reload"]).status.success());
    signal_to(back.0, Signal::SIGKILL);
    assert_eq!(wait_for_lines(&out(&rig), 2), ["own", "general"]);
}

#[test]
fn over_an_agents_death_a_hook_runs_once_for_each_event_in_the_journal() {
    let rig = Rig::new();
    let hook = telling(&rig, "$RESPAWN_SEQ $RESPAWN_PID");
    for number in 0..5 {
        sleeper(&rig, &format!("s{number}"), &format!("on_exit = {hook}"));
    }
    let mut agent = rig.agent();
    let mut ledger = rig.ledger();
    let mut exits = 0;
    for round in 0..3 {
        let name = |number| format!("s{number}");
        let old: Vec<_> = (0..5).map(|number| ledger.current(&name(number))).collect();
        let agents = ledger.agents.len();
        agent.kill();
        // Two die while nobody looks.
        for (pid, _) in &old[..2] {
            signal_to(*pid, Signal::SIGKILL);
        }
        exits += 2;
        agent = rig.agent();
        ledger.next_agent(agents);
        for (number, old) in old.iter().enumerate().take(2) {
            ledger.wait("it is back", |ledger| {
                ledger
                    .has_current(&name(number))
                    .filter(|found| found != old)
            });
        }
        wait_for_lines(&out(&rig), exits);
        assert_eq!(lines(&out(&rig)).len(), exits, "round {round}");
    }
    let mut told: Vec<u64> = lines(&out(&rig))
        .iter()
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    told.sort_unstable();
    let mut expected: Vec<u64> = ledger
        .instances
        .values()
        .flat_map(|told| &told.exits)
        .map(|exit| exit["seq"].as_u64().unwrap())
        .collect();
    expected.sort_unstable();
    assert_eq!(told, expected);
}

#[test]
fn a_hook_outlives_its_agent_and_is_nobodys_service() {
    let rig = Rig::new();
    let pids = out(&rig);
    let goes_on = format!("echo $$ >> {}; exec sleep 1000", pids.display());
    sleeper(&rig, "web", &format!("on_exit = {}", shell(&goes_on)));
    let mut agent = rig.agent();
    let mut ledger = rig.ledger();
    let web = ledger.current("web");
    signal_to(web.0, Signal::SIGKILL);
    let hook: u32 = wait_for_lines(&pids, 1)[0].parse().unwrap();
    let web = ledger.wait("web is back", |ledger| {
        ledger.has_current("web").filter(|found| *found != web)
    });
    let agents = ledger.agents.len();
    agent.kill();
    let _agent = rig.agent();
    ledger.next_agent(agents);
    assert_eq!(ledger.current("web"), web);
    rig.assert_single("web", web);
    assert!(is_alive(hook));
    assert!(!ledger.instances.keys().any(|(_, (pid, _))| *pid == hook));
    signal_to(hook, Signal::SIGKILL);
}

/// What a datagram socket has got so far.
fn received(socket: &UnixDatagram) -> Vec<String> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 65536];
    std::iter::from_fn(|| {
        socket
            .recv(&mut buffer)
            .ok()
            .map(|length| buffer[..length].to_vec())
    })
    .map(|datagram| String::from_utf8(datagram).unwrap())
    .collect()
}

#[test]
fn syslog_and_journald_are_told_of_every_event() {
    let rig = Rig::new();
    let (log, journal) = (rig.path().join("dev-log"), rig.path().join("journald"));
    let syslogd = UnixDatagram::bind(&log).unwrap();
    let journald = UnixDatagram::bind(&journal).unwrap();
    settings(
        &rig,
        &format!(
            "notices = [\"syslog\", \"journald\"]\nsyslog_socket = {log:?}\njournald_socket = {journal:?}"
        ),
    );
    sleeper(&rig, "web", "");
    let mut agent = rig.agent();
    let mut ledger = rig.ledger();
    let web = ledger.current("web");
    signal_to(web.0, Signal::SIGKILL);
    ledger.wait("web is back", |ledger| {
        ledger.has_current("web").filter(|found| *found != web)
    });
    agent.signal(Signal::SIGTERM);
    agent.ended();
    ledger.read();
    let count = usize::try_from(ledger.seq).unwrap();
    assert_eq!(
        count, 5,
        "agent started, started, exited, started, agent stopped"
    );
    let lines = received(&syslogd);
    assert_eq!(lines.len(), count, "{lines:?}");
    let tag = format!(" respawn[{}]: ", agent.pid());
    assert!(lines.iter().all(|line| line.contains(&tag)), "{lines:?}");
    assert!(lines[0].starts_with("<30>"), "{lines:?}");
    let exit = &lines[2];
    assert!(exit.starts_with("<28>"), "{exit}");
    assert!(exit.contains(": web: killed by SIGKILL"), "{exit}");
    assert!(exit.ends_with(&format!("pid {}", web.0)), "{exit}");
    let fields = received(&journald);
    assert_eq!(fields.len(), count, "{fields:?}");
    let exit = &fields[2];
    for line in [
        "PRIORITY=4\n",
        "SYSLOG_IDENTIFIER=respawn\n",
        "RESPAWN_SERVICE=web\n",
        "RESPAWN_SIGNAL=SIGKILL\n",
        &format!("RESPAWN_PID={}\n", web.0),
    ] {
        assert!(exit.contains(line), "{line} in {exit}");
    }
    assert!(exit.starts_with("MESSAGE=web: killed by SIGKILL"), "{exit}");
}

#[test]
fn a_syslogd_that_does_not_read_or_is_not_there_holds_up_nobody() {
    let rig = Rig::new();
    let log = rig.path().join("dev-log");
    let syslogd = UnixDatagram::bind(&log).unwrap();
    settings(
        &rig,
        &format!("notices = \"syslog\"\nsyslog_socket = {log:?}"),
    );
    // More than any socket takes by itself (net.unix.max_dgram_qlen).
    let limit = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let times = (limit / 2 + 20).min(400);
    // So many that none is killed more than 20 times in a second, which would delay it.
    let names: Vec<String> = (0..times / 15 + 1).map(|n| format!("web{n}")).collect();
    names.iter().for_each(|name| sleeper(&rig, name, ""));
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    let mut web: Vec<_> = names.iter().map(|name| ledger.current(name)).collect();
    let mut kill = |ledger: &mut support::rig::Ledger, times: usize| {
        for number in 0..times {
            let (name, web) = (&names[number % names.len()], &mut web[number % names.len()]);
            signal_to(web.0, Signal::SIGKILL);
            *web = ledger.wait("it is back", |ledger| {
                ledger.has_current(name).filter(|found| found != web)
            });
        }
    };
    kill(&mut ledger, times);
    let mut lines = Vec::new();
    eventually("all of it comes when it reads again", || {
        lines.extend(received(&syslogd));
        ledger.read();
        (lines.len() as u64 == ledger.seq).then_some(())
    });
    assert_eq!(lines.len(), 1 + names.len() + 2 * times);
    // It goes, and comes back.
    drop(syslogd);
    fs::remove_file(&log).unwrap();
    kill(&mut ledger, 3);
    eventually("it is told of, once", || {
        let count = rig.log().matches("events do not reach syslog").count();
        assert!(count <= 1);
        (count == 1).then_some(())
    });
    let syslogd = UnixDatagram::bind(&log).unwrap();
    kill(&mut ledger, 1);
    eventually("it gets events again", || {
        let lines = received(&syslogd);
        lines
            .iter()
            .any(|line| line.contains("killed"))
            .then_some(())
    });
    eventually("that is told of", || {
        let log = rig.log();
        log.contains("syslog takes events again").then_some(())
    });
}

/// The agent's file, the service's beside its command, and a part of what is told.
const BAD: [(&str, &str, &str); 13] = [
    (
        "",
        "on_exit = \"/bin/true\"",
        "web.toml:2:11: on_exit: expected an array of words",
    ),
    (
        "",
        "on_restart = [\"no-such-program\"]",
        "web.toml:2:15: on_restart[0]: no program",
    ),
    (
        "",
        "on_failed = [\"./x\"]",
        "on_failed[0]: expected an absolute path",
    ),
    ("", "on_exit = [\"\"]", "on_exit[0]: expected a program"),
    (
        "",
        "hook_timeout = \"0s\"",
        "hook_timeout: expected a duration longer than nothing",
    ),
    ("", "hook_timeout = 3", "with a unit, write \"3s\""),
    ("", "max_hooks = 3", "max_hooks: unknown key"),
    ("", "on_exits = [\"true\"]", "did you mean on_exit?"),
    (
        "on_exit = [1]",
        "",
        "agent.toml:1:12: on_exit[0]: expected a string",
    ),
    (
        "max_hooks = 0",
        "",
        "max_hooks: expected a number of hooks from 1 to 1000",
    ),
    (
        "notices = \"mail\"",
        "",
        "expected \"none\" or \"syslog\" or \"journald\"",
    ),
    (
        "notices = [\"syslog\", 1]",
        "",
        "notices[1]: expected \"none\"",
    ),
    (
        "syslog_socket = \"log\"",
        "",
        "syslog_socket: expected an absolute path",
    ),
];

/// What `check` says of these two files, and whether they are good.
fn check(dir: &Path, agent: &str, of_service: &str) -> (String, bool) {
    fs::write(dir.join("agent.toml"), agent).unwrap();
    let service = format!("command = [\"sleep\", \"1\"]\n{of_service}");
    fs::create_dir_all(dir.join("services")).unwrap();
    fs::write(dir.join("services/web.toml"), service).unwrap();
    let output = respawn().arg("check").arg(dir).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (said, output.status.success())
}

#[test]
fn bad_hooks_and_notices_are_refused_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("syslog_socket = \"/{}\"", "x".repeat(107));
    let long = (long.as_str(), "", "at most 107 bytes");
    for (agent, of_service, named) in BAD.into_iter().chain([long]) {
        let (said, is_good) = check(dir.path(), agent, of_service);
        assert!(!is_good, "{agent} {of_service}");
        assert!(said.contains(named), "{named} in {said}");
        assert!(said.ends_with("1 problem\n"), "{said}");
    }
}

#[test]
fn a_hook_that_is_not_there_is_warned_of_only() {
    let dir = tempfile::tempdir().unwrap();
    let (said, is_good) = check(dir.path(), "on_exit = [\"/no/such/program\"]", "");
    assert!(is_good, "{said}");
    assert!(said.starts_with("warning: "), "{said}");
    assert!(said.contains("on_exit[0]"), "{said}");
    assert!(said.ends_with("so that running it fails\n"), "{said}");
}

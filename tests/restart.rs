//! Whatever ends a service: it is started again as its policy says, and the cause is told truly.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::time::ClockId;
use serde_json::{Value, json};
use support::clock::wall_clock;
use support::{
    Agent, SIGHTS, Setup, Sight, copy_program, eventually, is_alive, needs_root, pid_of, shell,
    signal_to, skip, sleeping,
};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

const FATAL: [Signal; 20] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGKILL,
    Signal::SIGUSR1,
    Signal::SIGSEGV,
    Signal::SIGUSR2,
    Signal::SIGPIPE,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGSTKFLT,
    Signal::SIGXCPU,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGSYS,
];

#[test]
fn each_of_twenty_signals_is_told_and_mended() {
    for sight in SIGHTS {
        let keys = "restart_max_delay = \"0s\"\nlimits.core = 0";
        let agent = Agent::seeing(sight, &[("web", &sleeping(keys))]);
        let mut journal = agent.follow();
        for (round, signal) in FATAL.into_iter().enumerate() {
            let started = journal.next_of("web", "started");
            signal_to(pid_of(&started), signal);
            let exited = journal.next_of("web", "exited");
            assert_eq!(exited["pid"], started["pid"]);
            assert_eq!(exited["start_time_ns"], started["start_time_ns"]);
            assert_eq!(exited["comm"], "sleep", "{sight:?}");
            let cause = &exited["cause"];
            assert_eq!(cause["kind"], "signaled", "{exited}");
            assert_eq!(cause["signal"], signal.as_str(), "{exited}");
            assert_eq!(cause["code"], Value::Null, "{exited}");
            agent.replaced("web", pid_of(&started));
            let status = agent.status("web");
            assert_eq!(status["last_exit"], *cause);
            assert_eq!(status["restarts"], json!(round + 1));
        }
        agent.assert_single("web");
    }
}

#[test]
fn a_service_that_ends_after_5_ms_reaches_its_start_limit() {
    let keys = "start_limit = { burst = 5, interval = \"10s\" }";
    for sight in SIGHTS {
        let agent = Agent::seeing(sight, &[("brief", &shell("sleep 0.005; exit 3", keys))]);
        let status = agent.wait_state("brief", "failed");
        assert_eq!(agent.count("brief", "started"), 5);
        assert_eq!(agent.count("brief", "exited"), 5);
        assert_eq!(agent.count("brief", "failed"), 1);
        assert_eq!(status["last_exit"]["code"], 3);
        assert_eq!(status["pid"], Value::Null);
        assert_eq!(status["desired"], "up");
        let error = status["error"].as_str().unwrap();
        assert!(
            error.contains("start limit") && error.contains("exited with 3"),
            "{error}"
        );
        // A person's start counts from the beginning.
        agent.must("start", "brief");
        eventually("it failed again", || {
            (agent.count("brief", "failed") == 2).then_some(())
        });
        assert_eq!(agent.count("brief", "started"), 10);
    }
}

#[test]
fn a_program_that_is_missing_is_told_and_tried_until_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("later");
    let text = format!("command = [{program:?}, \"1000\"]\nrestart_max_delay = \"200ms\"");
    let agent = Agent::start(&[("late", &text)]);
    let status = agent.wait_state("late", "backoff");
    let words = "No such file or directory";
    let error = status["error"].as_str().unwrap();
    assert!(
        error.contains(words) && error.contains(program.to_str().unwrap()),
        "{error}"
    );
    let event = agent.follow().next_of("late", "backoff");
    assert_eq!(event["reason"], "start_failed");
    assert_eq!(event["message"], error);
    assert!(!agent.tell("start", "late"));

    // It appears whole, so that no start meets half of it.
    copy_program("/bin/sleep", dir.path().join("new"));
    std::fs::rename(dir.path().join("new"), &program).unwrap();
    let status = agent.wait_state("late", "running");
    assert_eq!(status["error"], Value::Null, "{status}");
    assert_eq!(status["restarts"], 0);
    agent.assert_single("late");
}

/// What becomes of a service with that policy that ends so.
fn fate(restart: &str, success: &str, script: &str) -> (Agent, Value) {
    let keys = format!("restart = \"{restart}\"\nsuccess_exit_status = {success}");
    let agent = Agent::start(&[("job", &shell(script, &keys))]);
    let status = eventually("the end of it", || {
        let status = agent.status("job");
        let state = status["state"].as_str()?.to_owned();
        let ended = ["stopped", "failed"].contains(&state.as_str());
        (ended || status["restarts"].as_u64()? >= 2).then_some(status)
    });
    (agent, status)
}

#[test]
fn a_policy_decides_what_follows_an_end() {
    for (restart, success, script, state) in [
        ("no", "[0]", "exit 0", Some("stopped")),
        ("no", "[0]", "exit 3", Some("failed")),
        ("no", "[0, 3]", "exit 3", Some("stopped")),
        ("no", "[3]", "exit 0", Some("failed")),
        ("no", "[0]", "kill -KILL $$", Some("failed")),
        ("no", "[0]", "kill -USR1 $$", Some("failed")),
        ("on-failure", "[0]", "exit 0", Some("stopped")),
        ("on-failure", "[7]", "exit 7", Some("stopped")),
        ("on-failure", "[7]", "exit 0", None),
        ("on-failure", "[0]", "exit 1", None),
        ("on-failure", "[0]", "kill -TERM $$", None),
        ("on-failure", "[0]", "kill -USR1 $$", None),
        ("always", "[0]", "exit 0", None),
        ("always", "[0]", "exit 1", None),
    ] {
        let (agent, status) = fate(restart, success, script);
        let case = format!("{restart} {success} {script}: {status}");
        match state {
            None => assert!(status["restarts"].as_u64() >= Some(2), "{case}"),
            Some(state) => {
                assert_eq!(status["state"], state, "{case}");
                assert_eq!(status["desired"], "up", "{case}");
                assert_eq!(agent.count("job", "started"), 1, "{case}");
                assert_eq!(agent.count("job", state), 1, "{case}");
                assert_eq!(agent.live("job"), [0; 0], "{case}");
            }
        }
    }
}

#[test]
fn delays_double_and_a_stable_run_sets_them_back() {
    let keys = "restart_delay = \"20ms\"\nrestart_max_delay = \"300ms\"\nstable_after = \"400ms\"";
    let trigger = Trigger::new();
    let agent = Agent::start(&[("web", &shell(&trigger.script(), keys))]);
    let mut journal = agent.follow();
    let (mut failures, mut resets) = (0, 0);
    for round in 0..8 {
        journal.next_of("web", "started");
        if round == 5 {
            eventually("it is stable", || {
                let uptime = agent.status("web")["uptime_ns"].as_u64()?;
                (uptime > 500_000_000).then_some(())
            });
        }
        trigger.pull();
        let exited = journal.next_of("web", "exited");
        if exited["uptime_ns"].as_u64().unwrap() >= 400_000_000 {
            failures = 0;
            resets += 1;
        }
        let expected = [20, 100, 200, 300].get(failures).copied().unwrap_or(300);
        let backoff = journal.next_of("web", "backoff");
        assert_eq!(backoff["reason"], "exited");
        assert_eq!(backoff["delay_ns"], expected * 1_000_000_u64, "{round}");
        failures += 1;
    }
    assert!(resets > 0);
}

/// When a process has let go of all that it had, in nanoseconds since boot.
fn gone_at(pid: u32) -> thread::JoinHandle<u64> {
    let pidfd = support::pidfd_open(pid).unwrap();
    thread::spawn(move || {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        let time = ClockId::CLOCK_BOOTTIME.now().unwrap();
        u64::try_from(Duration::from(time).as_nanos()).unwrap()
    })
}

#[test]
fn with_overlap_a_start_does_not_wait_for_the_old_ones_memory() {
    needs_root!("with_overlap_a_start_does_not_wait_for_the_old_ones_memory");
    let large = |keys: &str| format!("command = [{VICTIM:?}, \"touch\", \"300\"]\n{keys}");
    for (overlap, adopted) in [(true, false), (true, true), (false, false)] {
        let text = large(&format!("stdout = \"null\"\noverlap = {overlap}"));
        let mut agent = Agent::start(&[("large", &text)]);
        let mut journal = agent.follow();
        let mut beside = false;
        for _ in 0..if overlap { 30 } else { 8 } {
            let old = pid_of(&journal.next_of("large", "started"));
            eventually("its memory is touched", || {
                let resident = support::proc_status(old, "VmRSS");
                let kib: u64 = resident.split(' ').next()?.parse().ok()?;
                (kib > 300 << 10).then_some(())
            });
            if adopted {
                agent.kill();
                agent.start_again();
            }
            let gone = gone_at(old);
            signal_to(old, Signal::SIGKILL);
            let exited = journal.next_of("large", "exited");
            let events_before = exited["seq"].as_u64().unwrap();
            let started = eventually("the next start", || {
                agent.events_of("large").into_iter().find(|event| {
                    event["event"] == "started" && event["seq"].as_u64() > Some(events_before)
                })
            });
            // Still letting go of its memory: caught at it, or by the clock. Where nothing is to be
            // found, the clock of a thread that wakes up late says nothing.
            beside |= is_alive(old);
            let gone_ns = gone.join().unwrap();
            if overlap {
                let started_ns = started["since_boot_ns"].as_u64().unwrap();
                beside |= started_ns + 2_000_000 < gone_ns;
            }
            assert!(started["time"].as_str() >= exited["time"].as_str());
            if beside {
                break;
            }
        }
        assert_eq!(beside, overlap);
        eventually("one is left", || {
            (agent.live("large").len() == 1).then_some(())
        });
    }
}

#[test]
fn a_start_that_fails_beside_its_predecessors_tree_is_tried_when_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, ready) = (dir.path().join("lock"), dir.path().join("ready"));
    // A child holds what the next instance needs, as nginx's old workers hold the port.
    let script = format!(
        "exec 9>{0}; flock -n 9 || exit 1; \
         sh -c 'trap \"sleep 0.5; exit\" TERM; : >{1}; while :; do sleep 0.01 9>&-; done' & \
         wait",
        lock.display(),
        ready.display()
    );
    let keys = "overlap = true\nstart_limit = { burst = 1, interval = \"1h\" }";
    for sight in SIGHTS {
        let _ = fs::remove_file(&ready);
        let agent = Agent::seeing(sight, &[("web", &shell(&script, keys))]);
        let old = agent.running("web");
        eventually("its child is ready", || ready.exists().then_some(()));
        fs::remove_file(&ready).unwrap();
        signal_to(old, Signal::SIGKILL);
        eventually("the next one is ready", || ready.exists().then_some(()));
        let status = agent.status("web");
        assert_eq!(status["state"], "running", "{status}");
        assert_eq!(agent.count("web", "backoff"), 0);
        assert_eq!(agent.count("web", "failed"), 0);
        if sight == Sight::PidfdsAlone {
            continue;
        }
        // And the restart of one is not called a failure, though its first try is one.
        fs::remove_file(&ready).unwrap();
        agent.must("restart", "web");
    }
}

#[test]
fn a_program_that_goes_into_the_background_is_told_of_with_what_to_do() {
    for sight in SIGHTS {
        let keys = "restart_delay = \"1h\"";
        let daemon = shell("setsid sleep 1000 & sleep 0.2", keys);
        let ends = shell("exit 0", keys);
        let agent = Agent::seeing(sight, &[("daemon", &daemon), ("ends", &ends)]);
        if agent.log().contains("without cgroups") {
            return support::skip("a_program_that_goes…", "no cgroup v2 that can be written");
        }
        for service in ["daemon", "ends"] {
            agent.wait_state(service, "backoff");
        }
        let words = "went into the background: it ended with 0 and left others behind";
        eventually("it is told of", || {
            (agent.count("daemon", "went_to_background") == 1).then_some(())
        });
        assert_eq!(agent.count("ends", "went_to_background"), 0);
        for arguments in [&["status"][..], &["why", "daemon"], &["events", "daemon"]] {
            let output = agent.run(arguments);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(words), "{arguments:?}: {text}");
        }
        assert!(agent.log().contains(words));
        let hint = &agent.status("daemon")["hint"];
        assert!(
            hint.as_str().unwrap().contains("in the foreground"),
            "{hint}"
        );
    }
}

#[test]
fn after_a_thousand_kills_there_is_one_instance_and_every_exit_is_told() {
    // So many that none is killed more than 20 times in a second, which would delay it.
    const SERVICES: usize = 50;
    for (sight, rounds) in SIGHTS.into_iter().zip([20, 4]) {
        let names: Vec<String> = (0..SERVICES).map(|n| format!("web{n}")).collect();
        let services: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), sleeping("")))
            .collect();
        let services: Vec<_> = services
            .iter()
            .map(|(name, text)| (*name, &**text))
            .collect();
        let agent = Agent::seeing(sight, &services);
        let mut follows: Vec<_> = names.iter().map(|name| (name, agent.follow())).collect();
        let kills = rounds * SERVICES;
        for _ in 0..rounds {
            for (name, journal) in &mut follows {
                signal_to(pid_of(&journal.next_of(name, "started")), Signal::SIGKILL);
            }
        }
        for (name, journal) in &mut follows {
            journal.next_of(name, "started");
            agent.assert_single(name);
            assert_eq!(agent.status(name)["restarts"], rounds);
        }
        let events = agent.events();
        let numbers = events.iter().map(|event| event["seq"].as_u64().unwrap());
        assert!(numbers.eq(1..=events.len() as u64), "a number is missing");
        let instances = |kind: &str| -> Vec<(u64, u64)> {
            let of_kind = events.iter().filter(|event| event["event"] == kind);
            of_kind
                .map(|event| {
                    (
                        event["pid"].as_u64().unwrap(),
                        event["start_time_ns"].as_u64().unwrap(),
                    )
                })
                .collect()
        };
        let (started, exited) = (instances("started"), instances("exited"));
        assert_eq!((started.len(), exited.len()), (kills + SERVICES, kills));
        let ended = |instance: &&(u64, u64)| exited.contains(instance);
        assert_eq!(started.iter().filter(ended).count(), kills);
        let different: HashSet<_> = started.iter().collect();
        assert_eq!(different.len(), started.len());
    }
}

#[test]
fn who_kills_a_service_in_a_loop_delays_it() {
    let agent = Agent::start(&[("web", &sleeping("")), ("other", &sleeping(""))]);
    let other = agent.running("other");
    let mut journal = agent.follow();
    let mut delays = Vec::new();
    while delays.len() < 4 {
        let event = journal.event();
        if event["service"] != "web" {
            continue;
        }
        match event["event"].as_str() {
            Some("started") => signal_to(pid_of(&event), Signal::SIGKILL),
            Some("backoff") => {
                assert_eq!(event["reason"], "too_often", "{event}");
                delays.push(event["delay_ns"].as_u64().unwrap() / 1_000_000);
            }
            _ => {}
        }
    }
    assert_eq!(delays, [100, 200, 400, 800]);
    // Twenty are free in a second; a slow host needs more than one for them.
    assert!(agent.count("web", "exited") >= 24);
    let said = String::from_utf8(agent.run(&["events", "--service", "web"]).stdout).unwrap();
    let words = "next start in 100ms: it ended more than 20 times within a second";
    assert!(said.contains(words), "{said}");
    // Who asks for it need not wait.
    agent.must("start", "web");
    assert_eq!(agent.running("other"), other);
}

#[test]
fn a_clock_set_back_during_backoff_harms_nothing() {
    let test = "a_clock_set_back_during_backoff_harms_nothing";
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("set-back");
    let Some(library) = wall_clock(dir.path(), &flag) else {
        return skip(test, "no C compiler, with which another wall clock is made");
    };
    let setup = Setup {
        environment: vec![("LD_PRELOAD".to_owned(), library)],
        ..Setup::default()
    };
    let keys = "restart_delay = \"1s\"";
    let trigger = Trigger::new();
    let agent = Agent::with(&setup, &[("web", &shell(&trigger.script(), keys))]);
    let mut journal = agent.follow();
    trigger.pull();
    let before = journal.next_of("web", "backoff");
    std::fs::write(&flag, "").unwrap();
    // In the agent's eyes an hour earlier; on its timers a second later.
    let after = journal.next_of("web", "started");
    let hour = |event: &Value| event["time"].as_str().unwrap()[..13].to_owned();
    if hour(&before) == hour(&after) {
        return skip(
            test,
            "the binary does not take its clock from a shared library",
        );
    }
    assert!(hour(&before) > hour(&after), "{before} {after}");
    trigger.pull();
    journal.next_of("web", "backoff");
    std::fs::remove_file(&flag).unwrap();
    let again = journal.next_of("web", "started");
    assert!(again["time"].as_str() > before["time"].as_str());
    std::thread::sleep(Duration::from_millis(50));
    agent.assert_single("web");
}

/// Has a service fail by itself when it is told to.
struct Trigger(tempfile::TempDir);

impl Trigger {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self(dir)
    }

    fn script(&self) -> String {
        format!("read line < {}/go; exit 3", self.0.path().display())
    }

    /// Waits until the service reads.
    fn pull(&self) {
        std::fs::write(self.0.path().join("go"), "now\n").unwrap();
    }
}

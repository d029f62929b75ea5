//! A stop ends all of a service and a start begins it, whatever goes on at that moment.

use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    Agent, SIGHTS, eventually, is_alive, needs_root, shell, signal_to, skip, sleeping, timed,
};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

/// Stops a service and asserts that nothing of it is left by then.
fn stop_all_of(agent: &Agent, service: &str) {
    let before = agent.live(service);
    assert!(!before.is_empty());
    agent.must("stop", service);
    let left: Vec<&u32> = before.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(left.is_empty(), "{left:?} of {before:?} live on");
    assert_eq!(agent.live(service), [0; 0]);
    let status = agent.status(service);
    assert_eq!(status["state"], "stopped");
    assert_eq!(status["desired"], "down");
    assert_eq!(status["pid"], Value::Null);
}

/// A shell script's sign that it has come so far.
fn wait_for_file(path: &Path) {
    eventually(&format!("{}", path.display()), || {
        path.exists().then_some(())
    });
}

#[test]
fn a_stop_during_backoff_keeps_it_down_and_a_start_begins_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let script = format!("test -e {} || exit 1; exec sleep 1000", ready.display());
    for sight in SIGHTS {
        let _ = std::fs::remove_file(&ready);
        let text = shell(&script, "restart_delay = \"1h\"");
        let agent = Agent::seeing(sight, &[("web", &text)]);
        let status = agent.wait_state("web", "backoff");
        assert!(status["next_start_in_ns"].as_u64() > Some(3_500_000_000_000));
        agent.must("stop", "web");
        assert_eq!(agent.status("web")["state"], "stopped");
        agent.must("stop", "web");

        // A start from there fails by itself: back in backoff, with the limit counted afresh.
        agent.must("start", "web");
        agent.wait_state("web", "backoff");
        assert_eq!(agent.count("web", "started"), 2);
        std::fs::write(&ready, "").unwrap();
        agent.must("start", "web");
        let pid = agent.assert_single("web");
        // Of one that runs, it is done already.
        agent.must("start", "web");
        assert_eq!(agent.assert_single("web"), pid);
        assert_eq!(agent.count("web", "started"), 3);
    }
}

#[test]
fn two_restarts_at_once_end_with_one_instance() {
    for sight in SIGHTS {
        let agent = Agent::seeing(sight, &[("web", &sleeping(""))]);
        let mut pid = agent.running("web");
        for _ in 0..10 {
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| agent.must("restart", "web"));
                }
            });
            let next = agent.assert_single("web");
            assert_ne!(next, pid);
            pid = next;
        }
    }
}

#[test]
fn of_a_stop_and_a_restart_the_later_one_is_done() {
    let script = "trap '' TERM; sleep 1000; sleep 1000";
    for sight in SIGHTS {
        let text = shell(script, "stop_timeout = \"1s\"");
        let agent = Agent::seeing(sight, &[("slow", &text)]);
        let old = agent.stubborn("slow");
        thread::scope(|scope| {
            let stop = scope.spawn(|| agent.ask(&json!({"command": "stop", "services": ["slow"]})));
            agent.wait_state("slow", "stopping");
            agent.must("restart", "slow");
            let answer = stop.join().unwrap();
            assert_eq!(answer["ok"], false, "{answer}");
            let error = answer["results"][0]["error"].as_str().unwrap();
            assert!(error.contains("overtaken by a restart"), "{answer}");
        });
        let next = agent.stubborn("slow");
        assert_ne!(next, old);
        thread::scope(|scope| {
            let restart =
                scope.spawn(|| agent.ask(&json!({"command": "restart", "services": ["slow"]})));
            agent.wait_state("slow", "stopping");
            stop_all_of(&agent, "slow");
            let answer = restart.join().unwrap();
            let error = answer["results"][0]["error"].as_str().unwrap();
            assert!(error.contains("overtaken by a stop"), "{answer}");
        });
        assert!(!is_alive(next));
        assert_eq!(agent.count("slow", "started"), 2);
    }
}

#[test]
fn what_ignores_sigterm_is_killed_after_the_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    // The service, and a child that holds on as well.
    let script = format!(
        "trap '' TERM; sleep 1000 & : >{}; while :; do sleep 1000; done",
        ready.display()
    );
    for sight in SIGHTS {
        let _ = std::fs::remove_file(&ready);
        let text = shell(&script, "stop_timeout = \"300ms\"");
        let agent = Agent::seeing(sight, &[("slow", &text)]);
        wait_for_file(&ready);
        let mut journal = agent.follow();
        let started = journal.next_of("slow", "started");
        eventually("its children run", || {
            (agent.live("slow").len() == 3).then_some(())
        });
        let ((), time) = timed(|| stop_all_of(&agent, "slow"));
        assert!(time >= Duration::from_millis(300), "{time:?}");
        let stopping = journal.next_of("slow", "stopping");
        assert_eq!(stopping["signal"], "SIGTERM");
        assert_eq!(stopping["pid"], started["pid"]);
        assert_eq!(
            journal.next_of("slow", "exited")["cause"]["signal"],
            "SIGKILL"
        );
        journal.next_of("slow", "stopped");
    }
}

#[test]
fn children_that_ignore_sigterm_go_with_their_service() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let script = format!(
        "trap '' TERM; sleep 1000 & sleep 1000 & trap - TERM; : >{}; wait",
        ready.display()
    );
    for sight in SIGHTS {
        let _ = std::fs::remove_file(&ready);
        let text = shell(&script, "stop_timeout = \"200ms\"");
        let agent = Agent::seeing(sight, &[("parent", &text)]);
        wait_for_file(&ready);
        let pid = agent.running("parent");
        eventually("all run", || {
            (agent.live("parent").len() == 3).then_some(())
        });
        // After a death that nobody asked for they go as well, before the next start.
        let _ = std::fs::remove_file(&ready);
        let old = agent.live("parent");
        signal_to(pid, Signal::SIGKILL);
        agent.replaced("parent", pid);
        assert!(!old.into_iter().any(is_alive));
        wait_for_file(&ready);
        stop_all_of(&agent, "parent");
    }
}

#[test]
fn a_grandchild_with_its_own_session_that_holds_the_output_goes_too() {
    let test = "a_grandchild_with_its_own_session_that_holds_the_output_goes_too";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let (ready, output) = (dir.path().join("ready"), dir.path().join("output"));
    // It is no child of the service any more either.
    let script = format!(
        "(setsid sh -c 'trap \"\" TERM HUP; : >{}; echo held; exec sleep 1000' &) ; exec sleep 1000",
        ready.display()
    );
    // For a moment of its exec a process is not seen to be of the service.
    let both = |agent: &Agent| {
        eventually("both run", || {
            Some(agent.live("daemon")).filter(|live| live.len() == 2)
        })
    };
    for sight in SIGHTS {
        let _ = std::fs::remove_file(&ready);
        let keys = format!("stdout = {output:?}\nstop_timeout = \"200ms\"");
        let text = shell(&script, &keys);
        let mut agent = Agent::seeing(sight, &[("daemon", &text)]);
        if agent.log().contains("without cgroups") {
            return skip(test, "no cgroup v2 that can be written");
        }
        let pid = agent.running("daemon");
        wait_for_file(&ready);
        let old = both(&agent);
        let _ = std::fs::remove_file(&ready);
        signal_to(pid, Signal::SIGKILL);
        agent.replaced("daemon", pid);
        assert!(!old.into_iter().any(is_alive));
        wait_for_file(&ready);
        both(&agent);
        // An adopted one's tree goes as well, at its death and at a stop.
        let _ = std::fs::remove_file(&ready);
        agent.kill();
        agent.start_again();
        let (pid, old) = (agent.running("daemon"), both(&agent));
        signal_to(pid, Signal::SIGKILL);
        agent.replaced("daemon", pid);
        assert!(!old.into_iter().any(is_alive));
        wait_for_file(&ready);
        both(&agent);
        agent.kill();
        agent.start_again();
        agent.running("daemon");
        stop_all_of(&agent, "daemon");
    }
    assert!(
        std::fs::read_to_string(output)
            .unwrap()
            .starts_with("held\nheld\nheld\n")
    );
}

#[test]
fn a_stop_returns_when_the_last_child_has_let_go() {
    // Its main process is gone at once; 300 MiB take tens of milliseconds to be given back.
    let script = format!("{VICTIM} touch 300 & wait");
    for sight in SIGHTS {
        let agent = Agent::seeing(sight, &[("large", &shell(&script, "stdout = \"null\""))]);
        eventually("its memory is touched", || {
            let pids = agent.live("large");
            let large = |pid: &u32| {
                std::fs::read_to_string(format!("/proc/{pid}/statm")).is_ok_and(|text| {
                    let pages = text.split(' ').nth(1).and_then(|text| text.parse().ok());
                    pages.is_some_and(|pages: u64| pages > 300 << 8)
                })
            };
            (pids.len() == 2 && pids.iter().any(large)).then_some(())
        });
        stop_all_of(&agent, "large");
    }
}

#[test]
fn a_stop_signal_and_a_signal_of_a_person_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let script = format!(
        "trap ': >{}' HUP; trap 'exit 7' USR2; : >{}; while :; do sleep 0.01; done",
        path("told").display(),
        path("ready").display()
    );
    let agent = Agent::start(&[("web", &shell(&script, "stop_signal = \"SIGUSR2\""))]);
    wait_for_file(&path("ready"));
    let pid = agent.running("web");
    let signal = |name| agent.ask(&json!({"command": "signal", "service": "web", "signal": name}));
    assert_eq!(signal("HUP")["ok"], true);
    wait_for_file(&path("told"));
    assert_eq!(agent.running("web"), pid);
    stop_all_of(&agent, "web");
    let status = agent.status("web");
    assert_eq!(status["last_exit"]["code"], 7, "{status}");
    let answer = signal("HUP");
    assert_eq!(answer["ok"], false);
    assert_eq!(answer["results"][0]["error"], "it is not running");
}

/// A main process that dies of SIGTERM, with a child that takes a while to save its data on it.
fn saver(dir: &Path) -> String {
    let path = |name: &str| dir.join(name).display().to_string();
    format!(
        "sh -c 'trap \"echo asked >>{}; sleep 0.3; echo saved >>{}; exit\" TERM; \
         : >{}; while :; do sleep 0.01; done' & wait",
        path("asked"),
        path("saved"),
        path("ready")
    )
}

fn lines(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().count()
}

fn clear(dir: &Path) {
    for name in ["asked", "saved", "ready"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

#[test]
fn a_child_that_saves_its_data_on_sigterm_has_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for sight in SIGHTS {
        clear(dir.path());
        let agent = Agent::seeing(sight, &[("parent", &shell(&saver(dir.path()), ""))]);
        let is_ready = || {
            wait_for_file(&path("ready"));
            std::fs::remove_file(path("ready")).unwrap();
        };
        is_ready();
        agent.must("restart", "parent");
        assert_eq!(lines(&path("saved")), 1);
        // The next one has the same, when its main process is killed by somebody else.
        is_ready();
        let pid = agent.running("parent");
        signal_to(pid, Signal::SIGKILL);
        agent.replaced("parent", pid);
        assert_eq!(lines(&path("saved")), 2);
        is_ready();
        stop_all_of(&agent, "parent");
        assert_eq!((lines(&path("asked")), lines(&path("saved"))), (3, 3));
    }
}

#[test]
fn in_mixed_mode_the_rest_is_killed_when_the_main_process_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    for sight in SIGHTS {
        clear(dir.path());
        let text = shell(&saver(dir.path()), "stop_mode = \"mixed\"");
        let agent = Agent::seeing(sight, &[("parent", &text)]);
        wait_for_file(&dir.path().join("ready"));
        stop_all_of(&agent, "parent");
        assert_eq!(lines(&dir.path().join("asked")), 0);
        let status = agent.status("parent");
        assert_eq!(status["last_exit"]["signal"], "SIGTERM", "{status}");
    }
}

#[test]
fn a_stopped_process_sees_the_stop_signal() {
    for sight in SIGHTS {
        for mode in ["group", "mixed", "main"] {
            let keys = format!("stop_mode = {mode:?}");
            let agent = Agent::seeing(sight, &[("web", &sleeping(&keys))]);
            signal_to(agent.running("web"), Signal::SIGSTOP);
            let ((), time) = timed(|| agent.must("stop", "web"));
            assert!(time < Duration::from_secs(5), "{time:?}");
            let status = agent.status("web");
            assert_eq!(status["last_exit"]["signal"], "SIGTERM", "{status}");
        }
    }
}

#[test]
fn in_main_mode_children_live_on_whatever_happens() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    // One in the service's session, and one with a session of its own.
    let script = format!(
        "sleep 1000 & setsid sleep 1000 & sleep 0.1; : >{}; wait",
        ready.display()
    );
    let text = shell(&script, "stop_mode = \"main\"");
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("daemon", &text), ("other", &sleeping(""))]);
        let mut children: Vec<u32> = Vec::new();
        let mut check = |agent: &Agent, is_up: bool| {
            let main = is_up.then(|| {
                wait_for_file(&ready);
                agent.running("daemon")
            });
            let live = agent.live("daemon");
            let lost: Vec<&u32> = children.iter().filter(|it| !live.contains(it)).collect();
            assert!(lost.is_empty(), "{lost:?} of {children:?} are gone");
            children = live.into_iter().filter(|it| Some(*it) != main).collect();
            let _ = std::fs::remove_file(&ready);
            children.len()
        };
        assert_eq!(check(&agent, true), 2);
        agent.must("restart", "daemon");
        assert_eq!(check(&agent, true), 4);
        let pid = agent.running("daemon");
        signal_to(pid, Signal::SIGKILL);
        agent.replaced("daemon", pid);
        assert_eq!(check(&agent, true), 6);
        // It dies while no agent lives.
        agent.kill();
        signal_to(agent_pid_of(&agent, "daemon"), Signal::SIGKILL);
        agent.start_again();
        assert_eq!(check(&agent, true), 8);
        agent.kill();
        agent.start_again();
        agent.must("stop", "daemon");
        assert_eq!(check(&agent, false), 8);
        // Nor do they go with their file.
        agent.must("start", "daemon");
        assert_eq!(check(&agent, true), 10);
        std::fs::remove_file(agent.service_file("daemon")).unwrap();
        assert!(agent.run(&["reload"]).status.success());
        eventually("it is forgotten", || {
            (agent.status("daemon") == Value::Null).then_some(())
        });
        assert_eq!(check(&agent, false), 10);
        agent.kill();
        agent.start_again();
        agent.running("other");
        assert_eq!(check(&agent, false), 10);
        for pid in agent.live("daemon") {
            signal_to(pid, Signal::SIGKILL);
        }
    }
}

/// Its main process, while no agent lives that could tell: the one shell.
fn agent_pid_of(agent: &Agent, service: &str) -> u32 {
    eventually("a main process", || {
        agent.live(service).into_iter().find(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm.trim() != "sleep")
        })
    })
}

#[test]
fn the_next_agent_goes_on_with_a_stop_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let asked = dir.path().join("asked");
    let ready = dir.path().join("ready");
    // It counts how often it is asked, and goes on; or it ends, and its child does so.
    let counts = format!(
        "trap 'echo asked >>{}' TERM; : >{}; while :; do sleep 0.01; done",
        asked.display(),
        ready.display()
    );
    let leaves = format!("sh -c {counts:?} & wait");
    for sight in SIGHTS {
        for script in [&counts, &leaves] {
            for name in [&asked, &ready] {
                let _ = std::fs::remove_file(name);
            }
            let text = shell(script, "stop_timeout = \"3s\"");
            let mut agent = Agent::seeing(sight, &[("slow", &text)]);
            wait_for_file(&ready);
            let ((), time) = timed(|| {
                agent.ask(&json!({"command": "stop", "services": ["slow"], "no_wait": true}));
                wait_for_file(&asked);
                thread::sleep(Duration::from_secs(1));
                agent.kill();
                agent.start_again();
                agent.wait_state("slow", "stopped");
            });
            assert!(agent.live("slow").is_empty());
            assert_eq!(lines(&asked), 1);
            let expected = Duration::from_millis(2_900)..Duration::from_millis(3_900);
            assert!(expected.contains(&time), "{time:?}");
        }
    }
}

/// Asks for something, and returns whether it was done, what was said, and how long it took.
fn ask_for(agent: &Agent, arguments: &[&str]) -> (Option<i32>, String, Duration) {
    let (output, time) = timed(|| agent.run(arguments));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said, time)
}

#[test]
fn a_start_of_what_ends_at_once_fails_and_says_how_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad");
    let keys = "start_check = \"1s\"\nrestart_delay = \"1h\"";
    let turns = format!("test -e {} && exit 3; exec sleep 1000", bad.display());
    for sight in SIGHTS {
        let _ = std::fs::remove_file(&bad);
        let agent = Agent::seeing(
            sight,
            &[
                ("exits", &shell("exit 7", keys)),
                ("dies", &shell("sleep 0.2; kill -SEGV $$", keys)),
                ("turns", &shell(&turns, keys)),
                (
                    "unchecked",
                    &shell("sleep 0.2; exit 1", "start_check = \"0s\""),
                ),
            ],
        );
        agent.wait_state("exits", "backoff");
        agent.wait_state("dies", "backoff");
        let (status, said, _) = ask_for(&agent, &["start", "exits"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("exits: exited with 7"), "{said}");
        let (status, said, _) = ask_for(&agent, &["restart", "dies"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("dies: killed by SIGSEGV"), "{said}");
        agent.must("restart", "turns");
        std::fs::write(&bad, "").unwrap();
        let (status, said, _) = ask_for(&agent, &["restart", "turns"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("turns: exited with 3"), "{said}");
        agent.must("restart", "unchecked");
    }
}

#[test]
fn several_starts_are_checked_at_once() {
    let names = ["a", "b", "c", "d"];
    let text = sleeping("start_check = \"1s\"");
    let agent = Agent::start(&names.map(|name| (name, text.as_str())));
    for name in names {
        agent.running(name);
    }
    let (status, said, time) = ask_for(&agent, &["restart", "a", "b", "c", "d"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(time >= Duration::from_secs(1), "{time:?}");
    assert!(time < Duration::from_secs(3), "{time:?}");
    // They have passed their check.
    let (status, _, time) = ask_for(&agent, &["start", "--all"]);
    assert_eq!(status, Some(0));
    assert!(time < Duration::from_secs(1), "{time:?}");
}

#[test]
fn whether_services_are_up_is_an_exit_status() {
    let bad = shell("exit 1", "restart = \"no\"");
    let agent = Agent::start(&[("web", &sleeping("")), ("bad", &bad)]);
    agent.running("web");
    agent.wait_state("bad", "failed");
    for (arguments, expected, line) in [
        (&["web"][..], 0, ""),
        (&["web", "bad"], 1, "bad: failed; given up: exited with 1\n"),
        (&["w*"], 0, ""),
        (&["--all"], 1, "bad: failed; given up: exited with 1\n"),
        (&["nobody"], 1, "nobody: no service has this name\n"),
        (&["--all", "--quiet"], 1, ""),
        (&["nobody", "-q"], 1, ""),
        (&["x*", "-q"], 1, ""),
    ] {
        let output = agent.run(&[&["is-up"], arguments].concat());
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            line,
            "{arguments:?}"
        );
    }
    let output = agent.run(&["is-up", "web", "bad", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    assert_eq!(answer["services"][0]["up"], true, "{answer}");
    assert_eq!(answer["services"][1]["state"], "failed", "{answer}");
    agent.must("stop", "web");
    assert_eq!(agent.run(&["is-up", "web"]).status.code(), Some(1));
}

#[test]
fn services_stop_side_by_side() {
    let text = shell(
        "trap '' TERM; sleep 1000; sleep 1000",
        "stop_timeout = \"1s\"",
    );
    let names: Vec<String> = (0..8).map(|n| format!("slow{n}")).collect();
    let services: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), text.as_str()))
        .collect();
    let agent = Agent::start(&services);
    let pids: Vec<u32> = names.iter().map(|name| agent.stubborn(name)).collect();
    let (answer, time) = timed(|| agent.ask(&json!({"command": "stop", "all": true})));
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["results"].as_array().unwrap().len(), 8);
    assert!(!pids.iter().copied().any(is_alive));
    // One after the other it were eight seconds.
    assert!(time < Duration::from_secs(6), "{time:?}");
    for status in agent.statuses() {
        assert_eq!(status["state"], "stopped");
    }
}

//! The agent as PID 1 of a container: reaps what it is given, and ends its services in order.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;

use nix::sys::signal::Signal;
use support::{Agent, SIGHTS, Setup, Sight, eventually, needs_root, shell, signal_to, sleeping};

/// An agent that is PID 1 of a PID namespace, and its pid outside.
fn first(sight: Sight, services: &[(&str, &str)]) -> (Agent, u32) {
    let setup = Setup {
        sight,
        ..Setup::as_pid_1()
    };
    let agent = Agent::with(&setup, services);
    let children = children(agent.pid());
    let [(pid, _)] = children.as_slice() else {
        panic!("{children:?}");
    };
    (agent, *pid)
}

/// The children of a process, and their states.
fn children(parent: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        if fields[1] == parent.to_string() {
            found.push((pid, fields[0].to_owned()));
        }
    }
    found
}

#[test]
fn orphans_are_reaped() {
    needs_root!("orphans_are_reaped");
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    // 300 orphans, with sessions of their own and without.
    let script = format!(
        "n=0; while [ $n -lt 150 ]; do (sleep 0.01 &); (setsid true &); n=$((n + 1)); done; : >{}; exec sleep 1000",
        done.display()
    );
    for sight in SIGHTS {
        let _ = fs::remove_file(&done);
        let (agent, pid) = first(
            sight,
            &[("forks", &shell(&script, "")), ("idle", &sleeping(""))],
        );
        eventually("all orphans were made", || done.exists().then_some(()));
        eventually("only the services are left", || {
            let children = children(pid);
            (children.len() == 2).then_some(())
        });
        assert_eq!(agent.count("forks", "exited"), 0);
        // A service's own death is still told right.
        let inside = agent.running("idle");
        let outside = agent.live("idle");
        signal_to(outside[0], Signal::SIGSEGV);
        agent.replaced("idle", inside);
        let exited = agent.follow().next_of("idle", "exited");
        assert_eq!(exited["pid"], inside, "{exited}");
        assert_eq!(exited["cause"]["signal"], "SIGSEGV", "{exited}");
        eventually("no zombie is left", || {
            (children(pid).len() == 2).then_some(())
        });
    }
}

#[test]
fn sigterm_stops_the_services_and_then_ends_it() {
    needs_root!("sigterm_stops_the_services_and_then_ends_it");
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    let script = format!(
        "trap 'echo bye >>{0}; exit 0' TERM; echo hello >>{0}; while :; do sleep 0.01; done",
        said.display()
    );
    for sight in SIGHTS {
        let _ = fs::remove_file(&said);
        let stubborn = shell(
            "trap '' TERM; sleep 1000; sleep 1000",
            "stop_timeout = \"300ms\"",
        );
        let (mut agent, pid) = first(
            sight,
            &[("polite", &shell(&script, "")), ("stubborn", &stubborn)],
        );
        eventually("it has said hello", || said.exists().then_some(()));
        agent.running("stubborn");
        signal_to(pid, Signal::SIGTERM);
        assert!(agent.wait().success());
        assert_eq!(fs::read_to_string(&said).unwrap(), "hello\nbye\n");
        let events = agent.events();
        assert_eq!(events.last().unwrap()["event"], "agent_stopped");
        for service in ["polite", "stubborn"] {
            for kind in ["stopping", "exited", "stopped"] {
                assert_eq!(agent.count(service, kind), 1, "{service} {kind}");
            }
        }
        assert_eq!(agent.live_all(), [0; 0]);
    }
}

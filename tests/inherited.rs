//! What a parent has blocked or ignored keeps no command from its end, and is not passed on to services.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::{
    Agent, Setup, Watch, eventually, needs_root, proc_status, respawn, signal_to, sleeping,
};

/// Runs its arguments with signals blocked that respawn is steered by.
const BLOCKING: [&str; 2] = ["env", "--block-signal=TERM,HUP,INT,CHLD,USR1"];

fn blocked(pid: u32) -> u64 {
    u64::from_str_radix(&proc_status(pid, "SigBlk"), 16).unwrap()
}

/// The same command, run with signals blocked.
fn blocking(command: &Command) -> Command {
    let mut blocking = Command::new(BLOCKING[0]);
    blocking.arg(BLOCKING[1]).arg(command.get_program());
    blocking.args(command.get_args());
    for (key, value) in command.get_envs() {
        blocking.env(key, value.unwrap());
    }
    blocking
}

#[test]
fn an_agent_whose_parent_has_blocked_its_signals_is_steered_by_them() {
    let setup = Setup {
        wrapper: BLOCKING.map(str::to_owned).into(),
        ..Setup::default()
    };
    let mut agent = Agent::with(&setup, &[("a", &sleeping(""))]);
    let service = agent.assert_single("a");
    assert_eq!(blocked(service), 0);
    agent.write_service("b", &sleeping(""));
    agent.signal(Signal::SIGHUP);
    agent.running("b");
    // The spare is only a process that waits.
    let mut spare = agent.another();
    eventually("the spare waits", || {
        agent.log().contains("another agent works").then_some(())
    });
    // For moments of its start it blocks them itself.
    eventually("no signal is blocked", || {
        (blocked(spare.id()) == 0).then_some(())
    });
    signal_to(spare.id(), Signal::SIGTERM);
    eventually("the spare ends", || spare.try_wait().unwrap());
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success());
}

#[test]
fn what_follows_events_ends_on_a_signal_that_its_parent_has_blocked() {
    let agent = Agent::start(&[("a", &sleeping(""))]);
    for arguments in [&["events", "--follow"][..], &["events", "-f", "--json"]] {
        let mut command = blocking(&agent.command(arguments));
        let mut follow = command.stdout(Stdio::null()).spawn().unwrap();
        eventually("it is respawn", || {
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", follow.id())).ok()?;
            comm.starts_with("respawn").then_some(())
        });
        eventually("no signal is blocked", || {
            (blocked(follow.id()) == 0).then_some(())
        });
        signal_to(follow.id(), Signal::SIGTERM);
        eventually("it ends", || follow.try_wait().unwrap());
    }
}

#[test]
fn a_watch_ends_on_a_signal_that_its_parent_has_blocked() {
    needs_root!("a watch with blocked signals");
    let pid = std::process::id().to_string();
    let mut command = respawn();
    command.args(["watch", "--json", "--pid", &pid]);
    let ended = Watch::from_command(&mut blocking(&command)).stop();
    assert!(ended.status.success());
    assert_eq!(ended.summary["event"], "summary");
}

/// With SIGCHLD ignored the kernel reaps children itself, and tells nobody how they ended.
#[test]
fn an_ignored_sigchld_changes_nothing() {
    let run = |program: &mut Command| {
        let output = program.args(["doctor", "--json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().iter();
        // Other tests' agents come and go meanwhile.
        let checks = checks.filter(|check| check["name"] != "pins");
        let verdicts = checks.map(|check| (check["name"].clone(), check["verdict"].clone()));
        verdicts.collect::<Vec<_>>()
    };
    let mut ignoring = Command::new("env");
    ignoring
        .arg("--ignore-signal=CHLD")
        .arg(respawn().get_program());
    assert_eq!(run(&mut ignoring), run(&mut respawn()));
}

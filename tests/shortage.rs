//! An agent that runs out of descriptors while it takes over loses and doubles nothing, and neither
//! does one whose kernel programs have no room for all of its services.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use support::rig::{Instance, Memory, Rig};
use support::{eventually, needs_root, respawn, signal_to};

/// Has the agents have at most so many files open.
fn limit_files(rig: &mut Rig, most: usize) {
    let script = format!(
        "#!/bin/sh\nulimit -n {most}\nexec {:?} \"$@\"\n",
        respawn().get_program()
    );
    let path = rig.path().join("with-few-files");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    rig.run_by(&path, 0);
}

fn what_cannot_be_taken_over_yet(memory: Memory) {
    let mut rig = Rig::with(memory);
    let names =
        |prefix: &str| -> Vec<String> { (10..30).map(|n| format!("{prefix}{n}")).collect() };
    // These make room for those, which are taken over after them.
    let (passing, lasting) = (names("a"), names("b"));
    for name in &passing {
        rig.service(name, r#"["/usr/bin/sleep", "100000"]"#, "restart = \"no\"");
    }
    lasting.iter().for_each(|name| rig.sleeper(name));
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    let mut now_of = |names: &[String]| -> Vec<Instance> {
        names.iter().map(|name| ledger.current(name)).collect()
    };
    let (passing_now, lasting_now) = (now_of(&passing), now_of(&lasting));
    let open = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap();
    // Room for all of the lasting ones, which take two descriptors each, and for those that a start takes for a
    // moment, whichever numbers are free by then.
    limit_files(&mut rig, open.count() - 40);
    agent.kill();
    let _agent = rig.agent();
    let said = |words: &str| {
        rig.log()
            .lines()
            .filter(|line| line.contains(words))
            .count()
    };
    eventually("there are too few descriptors", || {
        (said("cannot take it over yet") > 0).then_some(())
    });
    // The last one is not held. It dies, and nothing can tell of it yet.
    let (last, name) = (*lasting_now.last().unwrap(), lasting.last().unwrap());
    signal_to(last.0, Signal::SIGKILL);
    for instance in passing_now {
        signal_to(instance.0, Signal::SIGKILL);
    }
    let next = ledger.wait("the dead one is back", |ledger| {
        ledger.has_current(name).filter(|now| *now != last)
    });
    rig.assert_single(name, next);
    let others = || lasting.iter().zip(&lasting_now).take(lasting.len() - 1);
    for (name, instance) in others() {
        rig.assert_single(name, *instance);
        assert!(ledger.told(name, *instance).exits.is_empty(), "{name}");
    }
    // Each is cared for as ever.
    for (name, instance) in others() {
        signal_to(instance.0, Signal::SIGKILL);
        let next = ledger.wait("it is back", |ledger| {
            ledger.has_current(name).filter(|now| now != instance)
        });
        rig.assert_single(name, next);
    }
    for (name, instance) in lasting.iter().zip(&lasting_now) {
        assert_eq!(ledger.told(name, *instance).exits.len(), 1, "{name}");
    }
    assert!(said("taken over now") > 0, "{}", rig.log());
}

#[test]
fn what_cannot_be_taken_over_yet_is_neither_doubled_nor_lost() {
    needs_root!("too few descriptors");
    what_cannot_be_taken_over_yet(Memory::Kernel);
}

#[test]
fn without_ebpf_what_cannot_be_taken_over_yet_is_neither_doubled_nor_lost() {
    needs_root!("too few descriptors without eBPF");
    what_cannot_be_taken_over_yet(Memory::FilesAlone);
}

/// An agent without services has so many descriptors.
fn base() -> usize {
    let rig = Rig::new();
    let agent = rig.agent();
    eventually("the agent answers", || {
        rig.run(&["status"]).status.success().then_some(())
    });
    fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .unwrap()
        .count()
}

#[test]
fn an_agent_that_has_no_descriptors_for_more_services_can_be_steered() {
    needs_root!("steered without descriptors");
    let mut rig = Rig::new();
    for number in 10..90 {
        rig.service(
            &format!("s{number}"),
            r#"["/usr/bin/sleep", "100000"]"#,
            "restart_delay = \"10ms\"\nrestart_max_delay = \"100ms\"",
        );
    }
    limit_files(&mut rig, base() + 50);
    let _agent = rig.agent();
    let statuses = || -> Vec<serde_json::Value> {
        let output = rig.run(&["status", "--json"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() || said.contains("no agent"),
            "{said}"
        );
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    let of_state = |state: &str| -> Vec<String> {
        let statuses = statuses();
        let found = statuses.iter().filter(|it| it["state"] == state);
        found
            .map(|it| it["service"].as_str().unwrap().to_owned())
            .collect()
    };
    let waiting = eventually("some have no room", || {
        let statuses = statuses();
        let of = |it: &&serde_json::Value| {
            let error = it["error"].as_str().unwrap_or_default();
            error.contains("out of file descriptors")
        };
        Some(statuses.iter().filter(of).count()).filter(|count| *count > 20)
    });
    let running = of_state("running");
    // One descriptor a service.
    assert!(running.len() >= 35, "{} run, {waiting} wait", running.len());
    let stopped: Vec<&str> = running.iter().take(8).map(String::as_str).collect();
    let stopped = rig.run(&[&["stop"], &stopped[..]].concat());
    assert!(stopped.status.success(), "{stopped:?}");
    eventually("others run", || {
        let now = of_state("running");
        let new = now.iter().filter(|name| !running.contains(name));
        (new.count() > 2).then_some(())
    });
    let reloaded = rig.run(&["reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    let all = rig.run(&["stop", "--all"]);
    assert!(all.status.success(), "{all:?}");
}

#[test]
fn what_the_kernel_has_no_room_for_is_kept_in_files_and_spoken_of() {
    const ROOM: usize = 2;
    needs_root!("what the kernel has no room for");
    let mut rig = Rig::new();
    rig.set("RESPAWN_MOST_WATCHED", ROOM.to_string());
    let names: Vec<String> = (0..6).map(|n| format!("web-{n}")).collect();
    names.iter().for_each(|name| rig.sleeper(name));
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    for name in &names {
        ledger.current(name);
    }
    let status = rig.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let hints = status.as_array().unwrap().iter();
    let hints: Vec<&str> = hints.filter_map(|it| it["hint"].as_str()).collect();
    assert_eq!(hints.len(), names.len() - ROOM, "{status}");
    let words = "the kernel watches 2 processes, and no more";
    assert!(hints.iter().all(|hint| hint.contains(words)), "{status}");
    assert_eq!(rig.log().matches(words).count(), 1, "{}", rig.log());
    let doctor = rig.run(&["doctor"]);
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    let line = doctor.lines().find(|line| line.starts_with("watch_map "));
    let line = line.unwrap();
    assert!(line.contains("limited") && line.contains(words), "{line}");

    // Wherever in the starts the agent ends, the next one knows of all that has begun.
    for round in 0..12 {
        let before: Vec<Instance> = names.iter().map(|name| ledger.current(name)).collect();
        let starts = ledger.starts + round % names.len();
        for instance in &before {
            signal_to(instance.0, Signal::SIGKILL);
        }
        ledger.wait("some are back", |ledger| {
            (ledger.starts >= starts).then_some(())
        });
        let agents = ledger.agents.len();
        agent.kill();
        agent = rig.agent();
        ledger.next_agent(agents);
        for (name, before) in names.iter().zip(&before) {
            let now = ledger.wait("it is back", |ledger| {
                ledger.has_current(name).filter(|now| now != before)
            });
            rig.assert_single(name, now);
            assert_eq!(ledger.told(name, *before).exits.len(), 1, "{name}");
        }
    }
    let others = ledger.others.iter();
    let unrecorded = others
        .filter(|event| event["event"] == "unrecorded")
        .count();
    assert_eq!(unrecorded, 0);

    // The next agent has room for all of them.
    let agents = ledger.agents.len();
    let now: Vec<Instance> = names.iter().map(|name| ledger.current(name)).collect();
    agent.kill();
    rig.unset("RESPAWN_MOST_WATCHED");
    let _agent = rig.agent();
    ledger.next_agent(agents);
    for (name, instance) in names.iter().zip(now) {
        assert_eq!(ledger.current(name), instance);
    }
    let status = rig.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status[0]["hint"].is_null(), "{status}");
    let last = ledger.current(&names[5]);
    signal_to(last.0, Signal::SIGTERM);
    ledger.wait("its exit is told", |ledger| {
        ledger.has_exited(&names[5], last).then_some(())
    });
    let exit = &ledger.told(&names[5], last).exits[0];
    assert_eq!(exit["cause"]["sender"]["pid"], std::process::id(), "{exit}");
}

//! Agents on a machine where nobody has mounted bpffs, or where nothing can be pinned.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::rig::Memory;
use support::scene::Scene;
use support::signal_to;

use crate::{doctor, is_machine};

/// The type of what is mounted at a path.
fn mounted(path: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let of = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[1] == path).then(|| words[2].to_owned())
    };
    mounts.lines().filter_map(of).next_back()
}

/// Kills the service while no agent lives; returns what is told of its exit.
fn dies_unseen(scene: &mut Scene) -> Value {
    let web = scene.web;
    scene.between_agents(|_| signal_to(web.0, Signal::SIGTERM));
    let next = scene.ledger.current("web");
    assert_ne!(next, web);
    scene.rig.assert_single("web", next);
    let exits = &scene.ledger.told("web", web).exits;
    assert_eq!(exits.len(), 1, "{exits:?}");
    exits[0].clone()
}

#[test]
fn an_agent_mounts_bpffs_and_loses_no_cause() {
    if !is_machine("an_agent_mounts_bpffs", "no_bpffs") {
        return;
    }
    assert_eq!(mounted("/sys/fs/bpf"), None);
    let scene = Scene::new(Memory::Kernel);
    assert_eq!(mounted("/sys/fs/bpf").as_deref(), Some("bpf"));
    let mut scene = scene;
    let exit = dies_unseen(&mut scene);
    assert_eq!(exit["cause"]["signal"], "SIGTERM", "{exit}");
    assert!(exit["cause"]["sender"].is_object(), "{exit}");
    assert_eq!(doctor(&scene.rig, "bpffs").0, "works");
}

#[test]
fn doctor_says_of_a_bpffs_that_is_not_mounted_what_an_agent_makes_of_it() {
    if !is_machine("doctor_says_of_a_bpffs", "no_bpffs_doctor") {
        return;
    }
    assert_eq!(mounted("/sys/fs/bpf"), None);
    let rig = support::rig::Rig::new();
    let (verdict, detail) = doctor(&rig, "bpffs");
    assert_eq!(mounted("/sys/fs/bpf"), None, "doctor changes nothing");
    // An agent mounts it and loses nothing, as `an_agent_mounts_bpffs_and_loses_no_cause` shows.
    assert_eq!(verdict, "works", "{detail}");
}

#[test]
fn where_nothing_can_be_pinned_services_are_kept_all_the_same() {
    if !is_machine("where_nothing_can_be_pinned", "bpffs_denied") {
        return;
    }
    assert_eq!(mounted("/sys/fs/bpf").as_deref(), Some("tmpfs"));
    let mut scene = Scene::new(Memory::Kernel);
    let (verdict, detail) = doctor(&scene.rig, "bpffs");
    assert_eq!(verdict, "missing", "{detail}");
    scene.assert_watched();
    // Its cause may be unknown; it is never a wrong one.
    let exit = dies_unseen(&mut scene);
    let cause = &exit["cause"];
    let honest = cause["kind"] == "unknown" || cause["signal"] == "SIGTERM";
    assert!(honest, "{exit}");
}

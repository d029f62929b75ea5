//! Agents on a machine where nobody has mounted bpffs, and where they may not either.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use support::respawn;
use support::rig::{Memory, Rig};
use support::scene::Scene;

use super::{doctor, is_machine};

/// The type of what is mounted at a path.
fn mounted(path: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let of = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[1] == path).then(|| words[2].to_owned())
    };
    mounts.lines().filter_map(of).next_back()
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
    let exit = scene.dies_unseen(Signal::SIGTERM);
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
    let rig = Rig::new();
    let (verdict, detail) = doctor(&rig, "bpffs");
    assert_eq!(mounted("/sys/fs/bpf"), None, "doctor changes nothing");
    // An agent mounts it and loses nothing, as `an_agent_mounts_bpffs_and_loses_no_cause` shows.
    assert_eq!(verdict, "works", "{detail}");
}

#[test]
fn where_nothing_can_be_mounted_services_are_kept_all_the_same() {
    if !is_machine("where_nothing_can_be_mounted", "bpffs_denied") {
        return;
    }
    let mut rig = Rig::new();
    may_not_mount(&mut rig);
    let (verdict, detail) = doctor(&rig, "bpffs");
    assert_eq!(verdict, "missing", "{detail}");
    let mut scene = Scene::with(rig);
    scene.assert_watched();
    assert_eq!(mounted("/sys/fs/bpf"), None);
    // Its cause may be unknown; it is never a wrong one.
    let exit = scene.dies_unseen(Signal::SIGTERM);
    let cause = &exit["cause"];
    let honest = cause["kind"] == "unknown" || cause["signal"] == "SIGTERM";
    assert!(honest, "{exit}");
}

/// Takes from the agents the capability to mount.
fn may_not_mount(rig: &mut Rig) {
    let path = rig.path().join("may-not-mount");
    let binary = respawn().get_program().to_owned();
    let script = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin {binary:?} \"$@\"\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    rig.run_by(&path, 0);
}

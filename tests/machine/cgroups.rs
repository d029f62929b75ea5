//! Services on a machine without cgroup v2.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use support::eventually;
use support::rig::{Memory, Rig};
use support::scene::Scene;

use super::{doctor, is_machine};

#[test]
fn with_no_cgroup_mounted_services_are_kept_and_stop_whole() {
    if is_machine("with_no_cgroup_mounted", "no_cgroup") {
        assert!(!Path::new("/sys/fs/cgroup/cgroup.procs").exists());
        services_are_kept();
    }
}

#[test]
fn with_cgroup_v1_alone_services_are_kept_and_stop_whole() {
    if is_machine("with_cgroup_v1_alone", "cgroup1") {
        assert!(Path::new("/sys/fs/cgroup/pids/cgroup.procs").exists());
        services_are_kept();
    }
}

fn services_are_kept() {
    let rig = Rig::new();
    let (verdict, detail) = doctor(&rig, "cgroup");
    assert_ne!(verdict, "works", "{detail}");
    // Agents that die with and without their service.
    let mut scene = Scene::new(Memory::Kernel);
    scene.assert_watched();
    scene.between_agents(|_| {});
    scene.assert_kept();
    let exit = scene.dies_unseen(Signal::SIGTERM);
    assert_eq!(exit["cause"]["signal"], "SIGTERM", "{exit}");
    // A stop ends what a service has started in its session.
    let rig = Rig::new();
    rig.service("pair", r#"["sh", "-c", "sleep 1000 & sleep 1000"]"#, "");
    let _agent = rig.agent();
    eventually("all three run", || {
        (rig.live("pair").len() == 3).then_some(())
    });
    assert!(rig.run(&["stop", "pair"]).status.success());
    assert_eq!(rig.live("pair"), [0; 0]);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(!own.contains("respawn"), "{own}");
}

//! The kernel's memory runs out, or it allows less.

use std::fs;

use nix::sys::signal::Signal;
use support::rig::{Memory, Rig};
use support::scene::Scene;
use support::{Victim, Watch, respawn};

use super::{doctor, is_machine};

const CULPRIT: &str = env!("CARGO_BIN_EXE_culprit");

#[test]
fn when_the_hosts_memory_runs_out_agents_live_and_the_eater_is_told() {
    if !is_machine("when_the_hosts_memory_runs_out", "oom") {
        return;
    }
    let rig = Rig::new();
    rig.sleeper("web");
    let eat = format!("echo 1000 > /proc/self/oom_score_adj; exec {CULPRIT} eat");
    let keys = "restart_delay = \"1s\"";
    rig.service("eater", &format!("[\"sh\", \"-c\", {eat:?}]"), keys);
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let web = ledger.current("web");
    let spare = rig.spare();
    let (first, exit) = ledger.wait("the eater is killed", |ledger| {
        ledger
            .instances_of("eater")
            .find_map(|(instance, told)| told.exits.first().map(|exit| (instance, exit.clone())))
    });
    let cause = &exit["cause"];
    assert_eq!(cause["kind"], "oom_killed", "{exit}");
    assert_eq!(cause["oom"]["scope"], "global", "{exit}");
    assert_eq!(cause["oom"]["oom_score_adj"], 1000, "{exit}");
    assert!(
        cause["oom"]["anon_rss_bytes"].as_u64().unwrap() > 50 << 20,
        "{exit}"
    );
    ledger.wait("it is back", |ledger| {
        ledger
            .instances_of("eater")
            .any(|(instance, _)| instance != first)
            .then_some(())
    });
    assert!(rig.run(&["stop", "eater"]).status.success());
    ledger.read();
    assert_eq!(ledger.agents, [agent.pid()], "another agent has taken over");
    assert!(fs::metadata(format!("/proc/{}", spare.pid())).is_ok());
    assert_eq!(ledger.current("web"), web);
    rig.assert_single("web", web);
}

#[test]
fn under_confidentiality_lockdown_services_are_kept_and_what_is_missing_is_said() {
    if !is_machine("under_confidentiality_lockdown", "lockdown") {
        return;
    }
    let active = fs::read_to_string("/sys/kernel/security/lockdown").unwrap();
    assert!(active.contains("[confidentiality]"), "{active}");
    let rig = Rig::new();
    for name in ["exit_program", "lockdown"] {
        let (verdict, detail) = doctor(&rig, name);
        assert_eq!(verdict, "missing", "{name}: {detail}");
    }
    let output = respawn().args(["watch", "--all"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("respawn doctor"), "{said}");
    // What is left is what there is without a kernel program.
    let mut scene = Scene::new(Memory::FilesAlone);
    scene.assert_mended();
    scene.dies_unseen(Signal::SIGKILL);
}

#[test]
fn without_bpf_among_the_lsms_all_else_is_there() {
    if !is_machine("without_bpf_among_the_lsms", "no_bpf_lsm") {
        return;
    }
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap();
    assert!(
        !active.split(',').any(|name| name.trim() == "bpf"),
        "{active}"
    );
    let rig = Rig::new();
    let (verdict, detail) = doctor(&rig, "bpf_lsm");
    assert_ne!(verdict, "works", "{detail}");
    let mut victim = Victim::start("sleep", &["1000"]);
    let mut watch = Watch::start(&["--pid", &victim.pid().to_string()]);
    // From another process, so that it has a sender of its own.
    let status = std::process::Command::new("bash")
        .args(["-c", "kill -USR1 $0; :", &victim.pid().to_string()])
        .status();
    assert!(status.unwrap().success());
    let event = watch.exit_of(victim.pid());
    victim.wait();
    assert_eq!(event["cause"]["signal"], "SIGUSR1", "{event}");
    assert_eq!(event["cause"]["sender"]["comm"], "bash", "{event}");
    let mut scene = Scene::new(Memory::Kernel);
    scene.assert_watched();
}

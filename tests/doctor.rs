//! `doctor` says of everything whether it works, whoever asks and whatever is missing.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::rig::Rig;
use support::{in_pid_namespace, needs_root, readable_by_all, respawn, skip, unprivileged};

/// What every host is asked.
const CHECKS: [&str; 40] = [
    "kernel",
    "pidfd",
    "runtime_dir",
    "btf",
    "tracepoint",
    "exit_program",
    "early_exits",
    "ring_buffer_map",
    "hash_map",
    "lru_hash_map",
    "array_map",
    "delivery",
    "senders",
    "birth_program",
    "oom_program",
    "bpffs",
    "lockdown",
    "cap_bpf",
    "cap_perfmon",
    "cap_sys_admin",
    "cap_kill",
    "cap_setuid",
    "cap_setgid",
    "cap_sys_resource",
    "cap_sys_nice",
    "bpf_lsm",
    "cgroup",
    "cgroup_ids",
    "pid_namespace",
    "pidfd_exit_info",
    "pidfd_getfd",
    "notify_queue",
    "landlock",
    "clone3",
    "init",
    "running",
    "recorder",
    "logger",
    "watch_map",
    "pins",
];

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    output
}

/// What `doctor --json` says; its exit status agrees with it.
fn diagnosis(command: &mut Command) -> Value {
    let output = run(command);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let expected = if report["full"] == true { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(expected), "{report:#}");
    report
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

fn assert_complete(report: &Value) {
    let names: Vec<&Value> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| &check["name"])
        .collect();
    assert_eq!(names, CHECKS);
    for name in CHECKS {
        let check = check(report, name);
        let verdict = check["verdict"].as_str().unwrap();
        assert!(
            ["works", "limited", "missing", "unknown"].contains(&verdict),
            "{check}"
        );
        assert!(!check["detail"].as_str().unwrap().is_empty(), "{check}");
        assert!(verdict != "works" || check["advice"].is_null(), "{check}");
        assert!(
            verdict != "missing" || check["advice"].is_string(),
            "{check}"
        );
    }
    assert!(report["kernel"].is_string());
}

#[test]
fn agent_and_spare_are_told() {
    needs_root!("agent_and_spare_are_told");
    let rig = Rig::new();
    let running = || {
        let output = rig.run(&["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let check = check(&report, "running");
        let text = |key: &str| check[key].as_str().unwrap().to_owned();
        (text("verdict"), text("detail"))
    };
    assert_eq!(running().0, "missing");
    let agent = rig.agent();
    rig.ledger().next_agent(0);
    let (verdict, detail) = running();
    let without = format!("the agent is pid {}, and has no spare", agent.pid());
    assert_eq!((verdict.as_str(), detail), ("limited", without));
    let spare = rig.spare();
    let (verdict, detail) = running();
    let with = format!(
        "the agent is pid {}, its spare pid {}",
        agent.pid(),
        spare.pid()
    );
    assert_eq!((verdict.as_str(), detail), ("works", with));
}

#[test]
fn root_is_told_of_everything() {
    needs_root!("root_is_told_of_everything");
    let folder = tempfile::tempdir().unwrap();
    let runtime_dir = folder.path().join("run");
    let report = diagnosis(
        respawn()
            .args(["doctor", "--json", "--runtime-dir"])
            .arg(&runtime_dir),
    );
    assert_complete(&report);
    assert_eq!(check(&report, "pidfd")["verdict"], "works");
    assert_eq!(report["agent"], true);
    assert_eq!(
        report["ebpf"],
        check(&report, "delivery")["verdict"] == "works",
        "{report:#}"
    );
    assert!(!runtime_dir.exists(), "doctor makes nothing");
}

#[test]
fn where_the_agent_mounts_a_bpf_file_system_nothing_is_lost() {
    needs_root!("where_the_agent_mounts_a_bpf_file_system_nothing_is_lost");
    let folder = tempfile::tempdir().unwrap();
    let pins = folder.path().join("pins");
    let doctor = |program: &mut Command| {
        let report = diagnosis(program.args(["doctor", "--json", "--pin-dir"]).arg(&pins));
        let bpffs = check(&report, "bpffs").clone();
        let lost = report["lost"].as_array().unwrap();
        let lost = lost.iter().any(|lost| {
            let lost = lost.as_str().unwrap();
            lost == "the causes of exits while no agent is running"
        });
        (bpffs, lost)
    };
    let (bpffs, lost) = doctor(&mut respawn());
    assert_eq!(bpffs["verdict"], "works", "{bpffs}");
    let detail = bpffs["detail"].as_str().unwrap();
    assert!(detail.contains("the agent mounts one"), "{detail}");
    assert!(!lost);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        !mounts.contains(folder.path().to_str().unwrap()),
        "{mounts}"
    );

    // Without the right to mount it is lost, and the kernel's reason is shown.
    let mut bounded = Command::new("setpriv");
    bounded.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    let (bpffs, lost) = doctor(bounded.arg(respawn().get_program()));
    assert_eq!(bpffs["verdict"], "missing", "{bpffs}");
    let detail = bpffs["detail"].as_str().unwrap();
    assert!(detail.contains("cannot mount one"), "{detail}");
    assert!(lost);
}

#[test]
fn people_are_told_in_a_table_with_a_last_word() {
    needs_root!("people_are_told_in_a_table_with_a_last_word");
    let output = run(respawn().arg("doctor"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\u{1b}'), "{text}");
    for name in CHECKS {
        let told = text
            .lines()
            .any(|line| line.starts_with(&format!("{name} ")));
        assert!(told, "{name}: {text}");
    }
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("respawn works here with"), "{last}");
}

#[test]
fn without_rights_it_says_what_is_missing() {
    let test = "without_rights_it_says_what_is_missing";
    needs_root!(test);
    let Some((_folder, copy)) = readable_by_all(&respawn()) else {
        return skip(
            test,
            "no folder that an unprivileged user may run programs from",
        );
    };
    let report = diagnosis(unprivileged(Command::new(copy).args([
        "doctor",
        "--json",
        "--runtime-dir",
        "/run/respawn-of-nobody",
    ])));
    assert_complete(&report);
    for name in ["exit_program", "ring_buffer_map", "runtime_dir", "cap_kill"] {
        assert_eq!(
            check(&report, name)["verdict"],
            "missing",
            "{name}: {report:#}"
        );
    }
    let advice = check(&report, "exit_program")["advice"].as_str().unwrap();
    assert!(advice.contains("CAP_BPF"), "{advice}");
    assert_eq!(
        (&report["agent"], &report["ebpf"]),
        (&false.into(), &false.into())
    );
}

#[test]
fn a_truncated_btf_is_named() {
    needs_root!("a_truncated_btf_is_named");
    let folder = tempfile::tempdir().unwrap();
    let btf = folder.path().join("btf");
    let whole = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    for length in [0, 24, whole.len() / 2] {
        std::fs::write(&btf, &whole[..length.min(whole.len())]).unwrap();
        let report = diagnosis(
            respawn()
                .env("RESPAWN_BTF", &btf)
                .args(["doctor", "--json"]),
        );
        assert_complete(&report);
        let found = check(&report, "btf");
        assert_eq!(found["verdict"], "missing", "{report:#}");
        assert!(
            found["detail"]
                .as_str()
                .unwrap()
                .contains(btf.to_str().unwrap()),
            "{found}"
        );
        assert_eq!(check(&report, "exit_program")["verdict"], "unknown");
        assert_eq!(
            (&report["ebpf"], &report["full"]),
            (&false.into(), &false.into())
        );
        let lost = report["lost"].as_array().unwrap();
        assert!(
            lost.iter()
                .any(|lost| lost.as_str().unwrap().contains("who ended a service"))
        );
    }
}

#[test]
fn a_damaged_object_is_told() {
    needs_root!("a_damaged_object_is_told");
    let object = tempfile::NamedTempFile::new().unwrap();
    let report = diagnosis(
        respawn()
            .env("RESPAWN_BPF_OBJECT", object.path())
            .args(["doctor", "--json"]),
    );
    assert_complete(&report);
    assert_ne!(check(&report, "exit_program")["verdict"], "works");
    assert_eq!(report["ebpf"], false);
}

#[test]
fn it_works_without_proc_and_in_a_namespace() {
    needs_root!("it_works_without_proc_and_in_a_namespace");
    let script = "exec \"$0\" doctor --json";
    let program = respawn().get_program().to_owned();
    let report = diagnosis(in_pid_namespace(script).arg(&program));
    assert_complete(&report);
    let detail = check(&report, "pid_namespace")["detail"].as_str().unwrap();
    assert!(detail.contains("nested"), "{detail}");

    let script = "umount -l /proc /sys; exec \"$0\" doctor --json";
    let mut command = Command::new("unshare");
    let report = diagnosis(command.args(["--mount", "sh", "-c", script]).arg(&program));
    assert_complete(&report);
    assert_eq!(check(&report, "pid_namespace")["verdict"], "unknown");
}

#[test]
fn wrong_usage_is_status_2_and_a_closed_output_no_error() {
    assert_eq!(
        run(respawn().args(["doctor", "surplus"])).status.code(),
        Some(2)
    );
    let mut child = respawn()
        .arg("doctor")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
}

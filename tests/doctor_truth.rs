//! What `doctor` says of this host is what happens here: each line is checked against what the
//! kernel says, or against what `watch` and an agent then show.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::Value;
use support::bpf::Object;
use support::rig::{Memory, Rig, report};
use support::scene::Scene;
use support::{Victim, Watch, needs_root, pidfd_open, respawn};

/// The lines of `doctor`: verdict and detail by name.
struct Diagnosis(BTreeMap<String, (String, String)>);

impl Diagnosis {
    fn of(rig: &Rig) -> Self {
        let output = rig.run(&["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().iter();
        let text = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
        Self(
            checks
                .map(|check| {
                    let said = (text(check, "verdict"), text(check, "detail"));
                    (text(check, "name"), said)
                })
                .collect(),
        )
    }

    fn detail(&self, name: &str) -> &str {
        &self.0[name].1
    }

    fn works(&self, name: &str) -> bool {
        self.0[name].0 == "works"
    }

    /// Asserts that a line says what is the case.
    fn assert(&self, name: &str, is_the_case: bool) {
        let (verdict, detail) = &self.0[name];
        assert_eq!(self.works(name), is_the_case, "{name} {verdict}: {detail}");
    }
}

#[test]
fn what_it_says_of_the_kernel_is_so() {
    needs_root!("what_it_says_of_the_kernel_is_so");
    let rig = Rig::new();
    let said = Diagnosis::of(&rig);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    assert!(said.detail("kernel").contains(release.trim()));
    said.assert("btf", Path::new("/sys/kernel/btf/vmlinux").exists());
    said.assert("pidfd", pidfd_open(std::process::id()).is_ok());
    said.assert("clone3", knows_clone3());
    said.assert("pidfd_exit_info", knows_exits_by_pidfd());
    let in_memory = statfs(rig.path()).unwrap().filesystem_type() == TMPFS_MAGIC;
    said.assert("runtime_dir", in_memory);
    let format = read("/sys/kernel/tracing/events/sched/sched_process_exit/format");
    if !format.is_empty() {
        let has_argument = format.contains("group_dead");
        let said = said.detail("tracepoint");
        assert_eq!(said.contains("group_dead"), has_argument, "{said}");
    }
    for (name, bit) in [
        ("cap_bpf", 39),
        ("cap_perfmon", 38),
        ("cap_sys_admin", 21),
        ("cap_kill", 5),
        ("cap_setuid", 7),
        ("cap_setgid", 6),
        ("cap_sys_resource", 24),
        ("cap_sys_nice", 23),
        ("pidfd_getfd", 19),
    ] {
        let held = support::proc_status(std::process::id(), "CapEff");
        let held = u64::from_str_radix(held.trim(), 16).unwrap();
        said.assert(name, held & 1 << bit != 0);
    }
    let lsms = read("/sys/kernel/security/lsm");
    said.assert("bpf_lsm", lsms.trim().split(',').any(|name| name == "bpf"));
    let lockdown = read("/sys/kernel/security/lockdown");
    if let Some((_, rest)) = lockdown.split_once('[') {
        let active = rest.split(']').next().unwrap();
        assert!(said.detail("lockdown").contains(active), "{active}");
    }
    let init = read("/proc/1/comm");
    assert!(said.detail("init").contains(init.trim()), "{init}");
    said.assert("running", false);
}

#[test]
fn what_it_says_of_exits_is_what_a_watch_shows() {
    needs_root!("what_it_says_of_exits_is_what_a_watch_shows");
    let rig = Rig::new();
    let said = Diagnosis::of(&rig);
    if !said.works("exit_program") {
        let output = respawn().args(["watch", "--all"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        return report(&format!("no exits: {}", said.detail("exit_program")));
    }
    for name in [
        "delivery",
        "ring_buffer_map",
        "hash_map",
        "lru_hash_map",
        "array_map",
    ] {
        said.assert(name, true);
    }
    let mut watch = Watch::start(&["--all"]);
    let mut victim = Victim::start("sleep", &["1000"]);
    victim.signal(Signal::SIGTERM);
    victim.wait();
    let event = watch.exit_of(victim.pid());
    said.assert(
        "senders",
        event["cause"]["sender"]["pid"] == std::process::id(),
    );
    let cgroup_id = &event["cgroup_id"];
    match said.works("cgroup_ids") {
        true => assert!(cgroup_id.is_number(), "{event}"),
        false => assert!(cgroup_id.is_null(), "{event}"),
    }
    let is_initial = event["host_pid"] == event["pid"];
    let told = said.detail("pid_namespace");
    assert_eq!(told.contains("the initial one"), is_initial, "{told}");
}

#[test]
fn what_it_says_of_agents_is_what_an_agent_does() {
    needs_root!("what_it_says_of_agents_is_what_an_agent_does");
    let mut scene = Scene::new(Memory::Kernel);
    // A process of its own: what an agent does is no part of this.
    let said = Diagnosis::of(&Rig::new());
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", scene.web.0)).unwrap();
    let in_its_own = cgroup
        .lines()
        .any(|line| line.starts_with("0::") && line.contains("respawn"));
    // A service has a cgroup of its own before Linux 5.14 too, where `cgroup.kill` is missing.
    let (verdict, detail) = &said.0["cgroup"];
    let has_one = verdict == "works" || detail.starts_with("v2, without cgroup.kill");
    assert_eq!(has_one, in_its_own, "{verdict}: {detail}");
    let exit = scene.dies_unseen(Signal::SIGTERM);
    let cause = &exit["cause"];
    let is_known = cause["signal"] == "SIGTERM";
    let remembers = ["bpffs", "exit_program", "birth_program"];
    let expected = remembers.iter().all(|name| said.works(name));
    assert_eq!(is_known, expected, "{cause}");
}

#[test]
fn what_it_says_of_pins_is_what_is_pinned() {
    needs_root!("what_it_says_of_pins_is_what_is_pinned");
    let mut scene = Scene::new(Memory::Kernel);
    let rig = &scene.rig;
    let set_of = || {
        let output = rig.run(&["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let own = rig.pin_dir().display().to_string();
        let mut sets = report["pins"].as_array().unwrap().iter();
        let own = sets.find(|set| set["path"].as_str().unwrap().starts_with(&own));
        own.cloned()
    };
    let set = set_of().unwrap();
    assert_eq!(set["state"], "held", "{set}");
    assert_eq!(set["holder"], scene.agent.pid(), "{set}");
    let folder = rig.pin("EVENTS").parent().unwrap().to_owned();
    assert_eq!(set["path"], folder.display().to_string());
    // The links, as the kernel knows them: the programs are pinned beside them.
    let pinned = fs::read_dir(&folder).unwrap().flatten().filter(|entry| {
        let object = Object::pinned(&entry.path()).unwrap();
        object.figure("link_id").is_some()
    });
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut pinned: Vec<String> = pinned.map(name).collect();
    pinned.sort();
    let programs = set["programs"].as_array().unwrap().iter();
    let told: Vec<&str> = programs.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(told, pinned);

    scene.agent.kill();
    scene.kill_web();
    fs::remove_dir_all(rig.runtime_dir()).unwrap();
    assert_eq!(set_of().unwrap()["state"], "dead");
    let text = rig.run(&["doctor"]);
    let text = String::from_utf8(text.stdout).unwrap();
    let check = text.lines().find(|line| line.starts_with("pins ")).unwrap();
    assert!(check.contains("limited"), "{check}");
    assert!(text.contains("do: respawn unpin --all-dead"), "{text}");
    let path = folder.display().to_string();
    assert!(text.contains(&format!("{path}: the agent of ")), "{text}");
    assert!(rig.run(&["unpin", &path]).status.success());
    assert_eq!(set_of(), None);
}

fn knows_clone3() -> bool {
    // SAFETY: without arguments the kernel refuses it, if it knows the call.
    unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0) };
    io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Asks for the exit of a process that has been reaped.
fn knows_exits_by_pidfd() -> bool {
    /// `PIDFD_GET_INFO`, include/uapi/linux/pidfd.h, with a structure of 64 bytes that begins with
    /// the mask of what is asked for and told.
    const GET_INFO: libc::c_ulong = 0xc040_ff0b;
    const EXIT: u64 = 1 << 3;
    let mut victim = Victim::start("true", &[]);
    let pidfd = pidfd_open(victim.pid()).unwrap();
    victim.wait();
    let mut info = [0_u64; 8];
    info[0] = EXIT;
    // SAFETY: the structure is as long as the request says, and outlives the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, info.as_mut_ptr()) };
    result == 0 && info[0] & EXIT != 0
}

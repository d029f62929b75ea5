//! Without eBPF an agent remembers by files, and in the last resort by what its services have in
//! their environment: no instance is lost, and no other process is taken for one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use support::rig::{Instance, Memory, Rig};
use support::scene::Scene;
use support::{Victim, eventually, needs_root, respawn, signal_to, skip, unprivileged};

fn new_scene() -> Scene {
    Scene::new(Memory::FilesAlone)
}

fn birth_file(rig: &Rig) -> PathBuf {
    rig.state_dir().join("web.birth")
}

/// The variable that the service's main process is marked with, without its name.
fn marker(scene: &Scene) -> String {
    // For a moment of its exec a process has no environment.
    eventually("the environment of the process is there", || {
        let environment = fs::read(format!("/proc/{}/environ", scene.web.0)).unwrap();
        let text = String::from_utf8(environment).unwrap();
        let mut variables = text.split('\0');
        let value = variables.find_map(|variable| variable.strip_prefix("RESPAWN_INSTANCE="));
        value.map(str::to_owned)
    })
}

#[test]
fn a_birth_that_no_memory_knows_of_is_adopted() {
    let mut scene = new_scene();
    // As if the agent had died between the two files.
    let said = scene.between_agents(|rig| fs::remove_file(rig.memory_file("web")).unwrap());
    assert!(!said.contains("unrecorded"), "{said}");
    scene.assert_same();
    // The next agent's memory knows of it.
    scene.between_agents(|_| {});
    scene.assert_same();
}

#[test]
fn a_birth_whose_end_was_told_is_not_told_again() {
    let mut scene = new_scene();
    let (birth, first) = (fs::read(birth_file(&scene.rig)).unwrap(), scene.web);
    scene.kill_web();
    scene.web = scene.ledger.wait("it is back", |ledger| {
        ledger.has_current("web").filter(|new| *new != first)
    });
    // With and without a memory of the one that runs.
    scene.between_agents(|rig| fs::write(birth_file(rig), &birth).unwrap());
    scene.assert_same();
    scene.ledger.assert_each_exited_once("web", "SIGKILL");
}

#[test]
fn a_damaged_birth_is_set_aside_with_a_word() {
    let mut scene = new_scene();
    let whole = fs::read(birth_file(&scene.rig)).unwrap();
    for damage in [&whole[..20], b"null", &[0xff; 256]] {
        let said = scene.between_agents(|rig| {
            fs::write(birth_file(rig), damage).unwrap();
        });
        assert!(said.contains("web.birth: damaged, not used"), "{said}");
        scene.assert_same();
    }
    // That of an agent that died before it wrote a byte is no damage.
    let said = scene.between_agents(|rig| {
        fs::write(birth_file(rig), "").unwrap();
    });
    assert!(!said.contains("web.birth"), "{said}");
    scene.assert_same();
}

#[test]
fn a_start_that_fails_leaves_no_birth() {
    let rig = Rig::with(Memory::FilesAlone);
    rig.service("bad", r#"["/nonexistent"]"#, "restart_delay = \"1h\"");
    let scene = Scene::with(rig);
    let status = || {
        let output = scene.rig.run(&["status", "bad"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.contains("backoff").then_some(())
    };
    eventually("the start has failed", status);
    assert!(!scene.rig.state_dir().join("bad.birth").exists());
    assert!(birth_file(&scene.rig).exists());
}

#[test]
fn what_is_killed_because_nobody_recorded_it_is_told() {
    needs_root!("an unrecorded instance");
    let mut scene = new_scene();
    if scene.rig.log().contains("without cgroups") {
        return skip("an unrecorded instance", "no cgroup v2 that can be written");
    }
    let old = scene.web;
    scene.between_agents(|rig| fs::remove_dir_all(rig.state_dir()).unwrap());
    scene.web = scene.ledger.current("web");
    assert_ne!(scene.web, old);
    scene.rig.assert_single("web", scene.web);
    let mut told = scene.ledger.others.iter();
    let told = told.find(|event| event["event"] == "unrecorded").unwrap();
    assert_eq!(
        (&told["service"], &told["pid"]),
        (&"web".into(), &old.0.into())
    );
    // And no more than that.
    assert!(scene.ledger.told("web", old).exits.is_empty());
}

/// Has the agents run where no cgroup hierarchy is mounted.
fn without_cgroups(rig: &mut Rig) {
    let script = format!(
        "#!/bin/sh\n\
         exec unshare --mount sh -c '\n\
         for mount in $(grep -w cgroup2 /proc/self/mounts | cut -d\" \" -f2); do\n\
         umount -l \"$mount\"; done\n\
         exec \"$0\" \"$@\"' {:?} \"$@\"\n",
        respawn().get_program()
    );
    let path = rig.path().join("without-cgroups");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    rig.run_by(&path, 0);
}

#[test]
fn with_nothing_else_left_a_service_is_known_by_its_environment() {
    needs_root!("known by its environment");
    let mut rig = Rig::with(Memory::FilesAlone);
    without_cgroups(&mut rig);
    let mut scene = Scene::with(rig);
    assert!(scene.rig.log().contains("without cgroups"));
    for _ in 0..3 {
        let said = scene.between_agents(|rig| fs::remove_dir_all(rig.state_dir()).unwrap());
        assert!(said.contains("by the marker in its environment"), "{said}");
        scene.assert_same();
    }
    // It is as good as any other instance.
    let old = scene.web;
    scene.kill_web();
    scene.web = scene.ledger.wait("it is back", |ledger| {
        ledger.has_current("web").filter(|new| *new != old)
    });
    scene.between_agents(|_| {});
    scene.assert_same();
    scene.ledger.assert_each_exited_once("web", "SIGKILL");
}

#[test]
fn no_process_is_adopted_that_merely_has_a_services_environment() {
    needs_root!("a process with a service's environment");
    let mut rig = Rig::with(Memory::FilesAlone);
    without_cgroups(&mut rig);
    let mut scene = Scene::with(rig);
    let inherited = marker(&scene);
    let parts: Vec<&str> = inherited.splitn(5, '.').collect();
    // What names the process itself, in a shell's words.
    let start = "$(printf %016x $(($(cut -d' ' -f22 /proc/$$/stat) * 10000000)))";
    let named = |place: &str| {
        let pid = "$(printf %08x $$)";
        format!("{place}.{}.{pid}.{start}.web", parts[1])
    };
    let sleeper = |marker: &str, own_session: bool| {
        let script = format!("export RESPAWN_INSTANCE={marker}; echo x; exec sleep 100000");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env_clear();
        if own_session {
            // SAFETY: the call is safe between fork and exec: it touches no memory.
            unsafe {
                command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
            }
        }
        command
    };
    let mut commands = [
        // A child of the service's that has made a session of its own.
        sleeper(&inherited, true),
        // Another agent's.
        sleeper(&named("0123456789abcdef"), true),
        // No leader of a session.
        sleeper(&named(parts[0]), false),
        // Another user's.
        sleeper(&named(parts[0]), true),
    ];
    unprivileged(&mut commands[3]);
    let mut strangers: Vec<Victim> = commands.iter_mut().map(Victim::from_command).collect();
    for stranger in &mut strangers {
        stranger.line();
    }
    let said = scene.between_agents(|rig| {
        signal_to(scene_web(rig).0, Signal::SIGKILL);
        fs::remove_dir_all(rig.state_dir()).unwrap();
    });
    assert!(said.contains("is another user's"), "{said}");
    let web = scene.ledger.current("web");
    assert!(strangers.iter().all(|stranger| stranger.pid() != web.0));
    scene.rig.assert_single("web", web);
    // The same, and this time the right one: the test's own words are those that count.
    let mut right = Victim::from_command(&mut sleeper(&named(parts[0]), true));
    right.line();
    let said = scene.between_agents(|rig| {
        signal_to(scene_web(rig).0, Signal::SIGKILL);
        fs::remove_dir_all(rig.state_dir()).unwrap();
    });
    assert!(said.contains("by the marker in its environment"), "{said}");
    assert_eq!(scene.ledger.current("web").0, right.pid());
}

/// The one that runs, while no agent lives.
fn scene_web(rig: &Rig) -> Instance {
    let live = rig.live("web");
    assert_eq!(live.len(), 1);
    (live[0], support::start_time_ns(live[0]))
}

//! Agents beside each other: those of different runtime directories never touch each other's services,
//! and of one runtime directory never two are at work, even if somebody removes it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::rig::{AgentProcess, Memory, Rig};
use support::{eventually, needs_root, skip};

/// One of several agents with one config, each with directories of its own.
struct Side<'r> {
    rig: &'r Rig,
    runtime_dir: PathBuf,
    pin_dir: PathBuf,
    /// In the mount namespace of this process.
    namespace: Option<u32>,
}

impl Side<'_> {
    fn command(&self, of_rig: &Command) -> Command {
        let words: Vec<_> = std::iter::once(of_rig.get_program())
            .chain(of_rig.get_args())
            .collect();
        let mut command = match self.namespace {
            None => Command::new(words[0]),
            Some(pid) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--mount=/proc/{pid}/ns/mnt"));
                command.arg(words[0]);
                command
            }
        };
        let variables = of_rig.get_envs();
        let variables = variables.filter_map(|(key, value)| Some((key, value?)));
        command
            .args(&words[1..])
            .envs(variables)
            .env("RESPAWN_RUNTIME_DIR", &self.runtime_dir)
            .env("RESPAWN_PIN_DIR", &self.pin_dir)
            .stdin(Stdio::null());
        command
    }

    fn agent(&self) -> AgentProcess {
        let mut command = self.command(&self.rig.command(&["agent", "--log=info"]));
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.rig.path().join("log"))
            .unwrap();
        AgentProcess::from_command(command.stdout(Stdio::null()).stderr(log))
    }

    /// The pid of its service, once it runs.
    fn web(&self) -> u32 {
        eventually("web runs", || {
            running(self.command(&self.rig.command(&["status", "--json"])))
        })
    }
}

/// The pid of the service `web`, if it runs.
fn running(mut status: Command) -> Option<u32> {
    let output = status.output().unwrap();
    let services: Value = serde_json::from_slice(&output.stdout).ok()?;
    let web = services
        .as_array()?
        .iter()
        .find(|it| it["service"] == "web")?;
    let pid = u32::try_from(web["pid"].as_u64()?).ok()?;
    (web["state"] == "running").then_some(pid)
}

fn web_of(rig: &Rig) -> u32 {
    eventually("web runs", || running(rig.command(&["status", "--json"])))
}

fn kill_9(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

/// Each agent dies and comes back, and each has its service as before.
fn assert_apart(sides: &[Side<'_>]) {
    let mut agents: Vec<AgentProcess> = Vec::new();
    let mut pids: Vec<u32> = Vec::new();
    for side in sides {
        agents.push(side.agent());
        pids.push(side.web());
        let all: Vec<u32> = sides[..pids.len()].iter().map(Side::web).collect();
        assert_eq!(all, pids);
    }
    for (index, side) in sides.iter().enumerate() {
        agents[index].kill();
        agents[index] = side.agent();
        let all: Vec<u32> = sides.iter().map(Side::web).collect();
        assert_eq!(all, pids);
    }
    let live = sides[0].rig.live("web");
    assert_eq!(live.len(), sides.len());
    // A stop of one ends, and stops nobody else's.
    for (index, side) in sides.iter().enumerate() {
        let mut stop = side.command(&side.rig.command(&["shutdown"]));
        assert!(stop.status().unwrap().success());
        agents[index].ended();
        assert_eq!(side.rig.live("web").len(), sides.len() - index - 1);
    }
}

#[test]
fn runtime_directories_with_like_names_share_nothing() {
    let rig = Rig::new();
    rig.sleeper("web");
    let names = ["x.y", "x-y", "x/y", "x_y"];
    fs::create_dir_all(rig.path().join("x")).unwrap();
    let sides: Vec<Side<'_>> = names
        .iter()
        .map(|name| Side {
            rig: &rig,
            runtime_dir: rig.path().join(name),
            pin_dir: rig.pin_dir().join(name.replace(['.', '/'], "_and_")),
            namespace: None,
        })
        .collect();
    assert_apart(&sides);
}

/// A mount namespace in which the path has a file system of its own.
struct Elsewhere(Child);

impl Elsewhere {
    fn new(path: &Path) -> Option<Self> {
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg("mount -t tmpfs tmpfs \"$0\" && touch \"$0/ready\" && exec sleep 100000")
            .arg(path)
            .spawn()
            .ok()?;
        let ready = format!("/proc/{}/root{}/ready", child.id(), path.display());
        let is_ready = eventually("the mount is there", || {
            let ended = child.try_wait().unwrap().is_some();
            (ended || Path::new(&ready).exists()).then_some(!ended)
        });
        is_ready.then_some(Self(child))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_path_in_two_mount_namespaces_is_two_runtime_directories() {
    const NAME: &str = "one_path_in_two_mount_namespaces_is_two_runtime_directories";
    needs_root!(NAME);
    let rig = Rig::new();
    rig.sleeper("web");
    let place = rig.path().join("place");
    fs::create_dir(&place).unwrap();
    let Some(elsewhere) = Elsewhere::new(&place) else {
        return skip(NAME, "no mount namespace can be made");
    };
    let side = |number, namespace| Side {
        rig: &rig,
        runtime_dir: place.join("run"),
        pin_dir: rig.pin_dir().join(number),
        namespace,
    };
    assert_apart(&[side("1", None), side("2", Some(elsewhere.0.id()))]);
}

/// What somebody may do to the runtime directory of a living agent.
const REMOVALS: [fn(&Path); 3] = [
    // The agent may put things back meanwhile.
    |run| {
        for entry in fs::read_dir(run).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                let _ = fs::remove_dir_all(entry.path());
            } else {
                let _ = fs::remove_file(entry.path());
            }
        }
    },
    |run| {
        while run.join("state/web.json").exists() && fs::remove_dir_all(run).is_err() {}
    },
    |run| fs::rename(run, run.with_extension("old")).unwrap(),
];

#[test]
fn a_removed_runtime_directory_is_put_back_and_the_agent_stays_alone() {
    for memory in [Memory::Kernel, Memory::FilesAlone] {
        for remove in REMOVALS {
            removed_under_agent_and_spare(memory, remove);
        }
    }
}

fn removed_under_agent_and_spare(memory: Memory, remove: fn(&Path)) {
    let rig = Rig::with(memory);
    rig.sleeper("web");
    let mut agent = rig.agent();
    let pid = web_of(&rig);
    let mut spare = rig.spare();
    remove(&rig.runtime_dir());
    let file_of_web = rig.memory_file("web");
    eventually("all is put back", || {
        let is_back = file_of_web.exists() && rig.state_dir().join("last-good-config").exists();
        (is_back && rig.runtime_dir().join("journal").exists()).then_some(())
    });
    assert_eq!(web_of(&rig), pid);
    // The spare has come to the new lock; one that comes later finds it too.
    let says = format!("spare of pid {}: ", agent.pid());
    eventually("the spare waits again", || {
        (rig.log().matches(&says).count() >= 2).then_some(())
    });
    let before = rig.log().matches(&says).count();
    let mut third = rig.agent();
    eventually("the third one waits", || {
        (rig.log().matches(&says).count() > before).then_some(())
    });
    assert_eq!(rig.live("web"), [pid]);
    kill_9(pid);
    let next = eventually("web is back", || {
        let next = running(rig.command(&["status", "--json"]))?;
        (next != pid).then_some(next)
    });
    // For a moment of its exec a process has no environment.
    eventually("it runs once", || (rig.live("web") == [next]).then_some(()));
    agent.kill();
    eventually("a spare works", || {
        running(rig.command(&["status", "--json"]))
    });
    assert_eq!(web_of(&rig), next);
    assert_eq!(rig.live("web"), [next]);
    assert!(rig.run(&["shutdown"]).status.success());
    spare.ended();
    third.ended();
    assert_eq!(rig.live("web"), [0; 0]);
}

#[test]
fn an_agent_that_starts_as_the_runtime_directory_goes_finds_the_one_at_work() {
    for memory in [Memory::Kernel, Memory::FilesAlone] {
        let rig = Rig::with(memory);
        rig.sleeper("web");
        let agent = rig.agent();
        let pid = web_of(&rig);
        if rig.log().contains("without cgroups") && memory == Memory::FilesAlone {
            return skip("an agent that starts then", "nothing shows the one at work");
        }
        // It cannot put anything back before the next one has started.
        agent.signal(Signal::SIGSTOP);
        fs::remove_dir_all(rig.runtime_dir()).unwrap();
        let mut second = rig.agent();
        eventually("it sees the other one", || {
            rig.log().contains("its lock was removed").then_some(())
        });
        thread::sleep(Duration::from_millis(300));
        assert_eq!(rig.live("web"), [pid]);
        agent.signal(Signal::SIGCONT);
        let says = format!("spare of pid {}: ", agent.pid());
        eventually("it waits as the spare", || {
            rig.log().contains(&says).then_some(())
        });
        assert_eq!(web_of(&rig), pid);
        assert_eq!(rig.live("web"), [pid]);
        assert!(rig.run(&["shutdown"]).status.success());
        second.ended();
    }
}

#[test]
fn an_agent_that_never_gets_the_lock_back_is_named() {
    let rig = Rig::new();
    rig.sleeper("web");
    let agent = rig.agent();
    let pid = web_of(&rig);
    if rig.log().contains("without cgroups") {
        return skip(
            "an agent that never gets the lock",
            "nothing shows the one at work",
        );
    }
    agent.signal(Signal::SIGSTOP);
    fs::remove_dir_all(rig.runtime_dir()).unwrap();
    let mut second = rig.agent();
    assert_eq!(second.ended().code(), Some(1));
    let log = rig.log();
    assert!(log.contains("end that agent first"), "{log}");
    assert_eq!(rig.live("web"), [pid]);
    agent.signal(Signal::SIGCONT);
    assert_eq!(web_of(&rig), pid);
}

#[test]
fn a_stop_ends_though_somebody_removes_the_cgroups_that_it_waits_for() {
    const ROUNDS: u32 = 30;
    needs_root!("a stop whose cgroups somebody removes");
    let rig = Rig::new();
    // A child in a session of its own, and a short life: the kernel tells late of two changes at once.
    let script = "setsid sleep 100000 & exec sleep 100000";
    let command = format!("[\"/bin/sh\", \"-c\", {script:?}]");
    rig.service("web", &command, "");
    let mut agent = rig.agent();
    eventually("the agent answers", || {
        rig.run(&["status"]).status.success().then_some(())
    });
    let unique = rig.path().file_name().unwrap().to_str().unwrap().to_owned();
    let common = ["/sys/fs/cgroup/unified/respawn", "/sys/fs/cgroup/respawn"];
    let Some(base) = common.iter().find_map(|common| {
        let mut entries = fs::read_dir(common).ok()?.flatten();
        entries.find(|entry| entry.path().to_string_lossy().contains(&unique))
    }) else {
        return skip("a stop whose cgroups somebody removes", "no cgroup v2");
    };
    let base = base.path();
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for slot in ["web.0", "web.1"] {
                    let _ = fs::remove_dir(base.join(slot));
                }
            }
        });
        for _ in 0..ROUNDS {
            let _ = rig.run(&["start", "web"]);
            let output = rig.run(&["stop", "web"]);
            if !output.status.success() {
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(rig.run(&["shutdown"]).status.success());
    agent.ended();
}

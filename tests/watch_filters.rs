//! The filters of `watch`: what is shown, and what the kernel program leaves out by itself, by the
//! number of records that it hands over.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::cgroup::{Cgroup, hierarchy};
use support::{Watch, copy_program, needs_root, respawn, skip};
use tempfile::TempDir;

/// A shell of a name that no other process has.
struct Shell {
    _dir: TempDir,
    path: PathBuf,
    name: String,
}

impl Shell {
    fn new(letter: char) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("wf{letter}{}", std::process::id());
        let path = dir.path().join(&name);
        copy_program(fs::canonicalize("/bin/sh").unwrap(), &path);
        Self {
            _dir: dir,
            path,
            name,
        }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    /// Runs scripts one after the other, each in a process of its own.
    fn run(&self, scripts: &[&str]) {
        for script in scripts {
            self.command(script).status().unwrap();
        }
    }

    /// A watch of its processes with these filters.
    fn watch(&self, filters: &[&str]) -> Watch {
        Watch::start(&[&["--name", &self.name], filters].concat())
    }
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// How many were shown, and how many the kernel handed over.
fn counts(watch: Watch) -> (usize, u64) {
    let ended = watch.stop();
    assert_eq!(ended.summary["lost"], 0, "{}", ended.summary);
    (
        ended.exits.len(),
        ended.summary["records"].as_u64().unwrap(),
    )
}

#[test]
fn causes_are_chosen_in_the_kernel() {
    needs_root!("causes_are_chosen_in_the_kernel");
    let shell = Shell::new('c');
    let scripts = [
        "exit 0",
        "exit 3",
        "exit 0",
        "kill -USR1 $$",
        "exit 64",
        "kill -9 $$",
        "exit 255",
    ];
    for (filters, expected) in [
        (&["--details"][..], 7),
        (&["--failed"], 5),
        (&["--signal", "USR1"], 1),
        (&["--signal", "9", "--signal", "SIGUSR1"], 2),
        (&["--exit-code", "3", "--exit-code", "255"], 2),
        (&["--exit-code", "64"], 1),
        (&["--exit-code", "0"], 2),
        (&["--failed", "--exit-code", "0"], 0),
        (&["--signal", "TERM"], 0),
    ] {
        let watch = shell.watch(filters);
        shell.run(&scripts);
        let counted = counts(watch);
        assert_eq!(counted, (expected, expected as u64), "{filters:?}");
    }
}

#[test]
fn users_are_chosen_in_the_kernel() {
    needs_root!("users_are_chosen_in_the_kernel");
    let shell = Shell::new('u');
    let watch = shell.watch(&["--uid", "12345", "--uid", "12346"]);
    for uid in [0, 12345, 12346, 12347] {
        let mut command = shell.command("exit 0");
        fs::set_permissions(
            shell.path.parent().unwrap(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        assert!(command.uid(uid).status().unwrap().success());
    }
    assert_eq!(counts(watch), (2, 2));
    // More than the kernel has room for are left out here.
    let many: Vec<String> = (12345..12355).map(|uid| format!("--uid={uid}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let watch = shell.watch(&many);
    shell.run(&["exit 0", "exit 1"]);
    assert_eq!(counts(watch), (0, 2));
}

#[test]
fn cgroups_are_chosen_in_the_kernel_with_those_below_them() {
    const NAME: &str = "cgroups_are_chosen_in_the_kernel_with_those_below_them";
    needs_root!(NAME);
    let Some(mount) = hierarchy("cgroup2", "") else {
        return skip(NAME, "no cgroup2 is mounted");
    };
    let Some(cgroup) = Cgroup::new(&mount) else {
        return skip(NAME, "cgroups cannot be made");
    };
    let path = |cgroup: &Path| format!("/{}", cgroup.strip_prefix(&mount).unwrap().display());
    let shell = Shell::new('g');
    let below = Cgroup::new(cgroup.path()).unwrap();
    let watch = shell.watch(&["--cgroup", &path(cgroup.path())]);
    for place in [None, Some(&cgroup), Some(&below)] {
        let mut child = shell
            .command("read x")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(cgroup) = place {
            cgroup.add(child.id());
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    // Linux 5.10 does not have what this takes.
    let in_kernel = if kernel_is_at_least(5, 15) { 2 } else { 3 };
    assert_eq!(counts(watch), (2, in_kernel));
    // One that is made only now is found by its name.
    let late = format!("{}/late", path(cgroup.path()));
    let mut watch = shell.watch(&["--cgroup", &late]);
    fs::create_dir(cgroup.path().join("late")).unwrap();
    let mut child = shell
        .command("read x")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let procs = cgroup.path().join("late/cgroup.procs");
    fs::write(procs, child.id().to_string()).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(watch.exit_of(child.id())["cgroup"], late);
    assert_eq!(counts(watch).1, 1);
    support::eventually("an empty cgroup", || {
        fs::remove_dir(cgroup.path().join("late")).ok()
    });
}

#[test]
fn programs_and_trees_are_chosen_among_what_the_kernel_reports() {
    needs_root!("programs_and_trees_are_chosen_among_what_the_kernel_reports");
    let shell = Shell::new('p');
    let name = shell.name.clone();
    for (pattern, expected) in [(&name[..], 2), ("wfp*", 2), ("sleep", 0), ("/bin/sh", 0)] {
        let watch = shell.watch(&["--exe", pattern]);
        shell.run(&["exit 0", "exit 1"]);
        assert_eq!(counts(watch), (expected, 2), "{pattern}");
    }
    // Of two shells one is the tree's.
    let start = || -> Child {
        let script = "read x; sh -c 'exit 7'; exit 0";
        shell.command(script).stdin(Stdio::piped()).spawn().unwrap()
    };
    let mut trees = [start(), start()];
    let pid = trees[0].id().to_string();
    let watch = Watch::start(&["--all", "--tree", &pid, "--exit-code", "7"]);
    for tree in &mut trees {
        drop(tree.stdin.take());
        tree.wait().unwrap();
    }
    let ended = watch.stop();
    let [exit] = &ended.exits[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(exit["ancestors"][0]["pid"], trees[0].id(), "{exit}");
}

#[test]
fn a_process_that_is_asked_for_ends_the_watch_though_its_death_is_not_wanted() {
    needs_root!("a_process_that_is_asked_for_ends_the_watch_though_its_death_is_not_wanted");
    let shell = Shell::new('w');
    for (script, expected) in [("read x; exit 0", 0), ("read x; exit 1", 1)] {
        let mut child = shell.command(script).stdin(Stdio::piped()).spawn().unwrap();
        let watch = Watch::start(&["--pid", &child.id().to_string(), "--failed"]);
        drop(child.stdin.take());
        child.wait().unwrap();
        let ended = watch.wait();
        assert_eq!(ended.exits.len(), expected, "{ended:?}");
        assert_eq!(ended.summary["records"], 1, "{ended:?}");
    }
}

#[test]
fn details_are_those_that_the_recorder_keeps() {
    needs_root!("details_are_those_that_the_recorder_keeps");
    let shell = Shell::new('d');
    let mut watch = shell.watch(&["--details"]);
    let mut victim = shell
        .command("read x; exit 0 # --password=hunter2")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = victim.id().to_string();
    let kill = ["-c", "kill -9 $0; true", &pid];
    assert!(Command::new("sh").args(kill).status().unwrap().success());
    victim.wait().unwrap();
    let exit = watch.exit_of(victim.id());
    assert_eq!(exit["ancestors"][0]["pid"], std::process::id(), "{exit}");
    for key in ["unit", "container", "pod", "login_uid", "tty"] {
        assert!(exit.get(key).is_some(), "{key}: {exit}");
    }
    let argv = json!(["sh", "-c", "kill -9 $0; true", pid]);
    assert_eq!(exit["cause"]["sender"]["argv"], argv, "{exit}");
    if exit["exe"] != Value::Null {
        assert_eq!(exit["exe"], shell.path.to_str().unwrap());
        assert!(!exit["argv"].to_string().contains("hunter2"), "{exit}");
    }
    watch.stop();
    // For a person: a column with the unit or container.
    let mut text = respawn();
    text.args([
        "watch",
        "--pid",
        &std::process::id().to_string(),
        "--failed",
    ]);
    text.args(["--unit", "no-such-unit"]);
    let mut child = text.stdout(Stdio::piped()).spawn().unwrap();
    let header = support::Lines::of(child.stdout.take().unwrap()).next();
    assert!(header.unwrap().contains("UNIT OR CONTAINER"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn bad_filters_are_refused() {
    for (filter, named) in [
        (["--signal", "NONE"], "--signal"),
        (["--exit-code", "256"], "--exit-code"),
        (["--unit", ""], "--unit"),
        (["--cgroup", "relative"], "--cgroup"),
        (["--tree", "x"], "--tree"),
    ] {
        let output = respawn().args(["watch", "--all"]).args(filter).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{filter:?}: {said}");
        assert!(said.contains(named), "{said}");
    }
    let mut command = respawn();
    command.args(["watch", "--all", "--uid", "nobody-has-this"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("there is no such user"), "{said}");
}

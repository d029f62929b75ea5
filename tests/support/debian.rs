//! A root of real Debian packages, with daemons installed in it as on a host: made once, kept next to
//! the build, and shared by the tests, which each lay a file system of their own over it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use crate::{cgroup_mount, skip};

/// Makes it, step by step.
const SCRIPT: &str = include_str!("debian_root.sh");

/// Makes a layer over it, with systemd and rpm.
const SYSTEMD_SCRIPT: &str = include_str!("debian_systemd.sh");

/// The root, made first if it is not there yet; `None` if it cannot be made, and the test is skipped.
///
/// # Panics
/// When a package cannot be installed.
pub fn root(test: &str) -> Option<PathBuf> {
    told(test, try_root())
}

/// The layers of a root that has systemd and rpm too, the upper one first; else as [`root`].
///
/// # Panics
/// As [`root`].
pub fn with_systemd(test: &str) -> Option<[PathBuf; 2]> {
    told(test, try_systemd())
}

fn told<T>(test: &str, made: Result<T, String>) -> Option<T> {
    made.inspect_err(|reason| skip(test, reason)).ok()
}

/// The directory that all of it is in, and what has it alone.
fn place() -> Result<(PathBuf, Flock<File>), String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-packages/debian");
    fs::create_dir_all(&dir).expect("a directory beside the build");
    let dir = dir.canonicalize().expect("a directory beside the build");
    let lock = File::create(dir.join("lock")).expect("a lock file");
    let lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
    Ok((dir, lock))
}

fn try_root() -> Result<PathBuf, String> {
    if cgroup_mount().is_none() {
        return Err("no cgroup2 is mounted".to_owned());
    }
    // Held until the root is there: another test may want it at the same time.
    let (dir, _lock) = place()?;
    let root = dir.join("root");
    let stamp = dir.join("made-by");
    if fs::read_to_string(&stamp).is_ok_and(|made_by| made_by == SCRIPT) {
        return Ok(root);
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == "ID=debian") {
        return Err("Debian's packages are for Debian: this is another system".to_owned());
    }
    remove(&dir, &["root", "cache", "lists", "made-by"]);
    make(SCRIPT, "debian_root.sh", &dir)?;
    fs::write(stamp, SCRIPT).expect("a stamp");
    Ok(root)
}

fn try_systemd() -> Result<[PathBuf; 2], String> {
    let root = try_root()?;
    let (dir, _lock) = place()?;
    let layers = [dir.join("systemd"), root];
    let stamp = dir.join("systemd-made-by");
    let made_by = [SCRIPT, SYSTEMD_SCRIPT].concat();
    if fs::read_to_string(&stamp).is_ok_and(|text| text == made_by) {
        return Ok(layers);
    }
    remove(
        &dir,
        &["systemd", "systemd-work", "systemd-root", "systemd-made-by"],
    );
    make(SYSTEMD_SCRIPT, "debian_systemd.sh", &dir)?;
    remove(&dir, &["systemd-work", "systemd-root"]);
    fs::write(stamp, made_by).expect("a stamp");
    Ok(layers)
}

/// Removes files and directories, as far as they are there.
fn remove(dir: &Path, names: &[&str]) {
    for path in names.iter().map(|name| dir.join(name)) {
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
    }
}

/// Runs both steps of a script.
fn make(script: &str, name: &str, dir: &Path) -> Result<(), String> {
    step((script, name), "fetch", dir, &[]).map_err(|_| {
        let log = dir.join("fetch.log");
        format!("Debian's archive cannot be reached; see {}", log.display())
    })?;
    let namespaces = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount",
        "--uts",
        "--ipc",
        "--net",
    ];
    if let Err(log) = step((script, name), "build", dir, &namespaces) {
        panic!("Debian's packages cannot be installed in a root:\n{log}");
    }
    for old in ["cache", "lists"] {
        fs::remove_dir_all(dir.join(old)).expect("the downloads");
    }
    Ok(())
}

/// Runs a step of a script; an error is the end of what it has said.
fn step(
    (script, script_name): (&str, &str),
    name: &str,
    dir: &Path,
    wrapper: &[&str],
) -> Result<(), String> {
    let log = dir.join(format!("{name}.log"));
    let output = File::create(&log).expect("a log");
    let mut words = wrapper.to_vec();
    words.extend(["sh", "-c", script, script_name, name]);
    let mut command = Command::new(words[0]);
    let status = command
        .args(&words[1..])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a log"))
        .stderr(output)
        .process_group(0)
        .status()
        .expect("a shell");
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    Err(lines[lines.len().saturating_sub(30)..].join("\n"))
}

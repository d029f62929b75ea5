//! Where peers run: in a PID namespace of their own, with which all of it ends, whoever ends first. In it, the
//! arena's `told.proc` is the host's /proc, so that services tell their pids on the host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    peer::{Running, Stage},
    tree::KEEPER,
};
use crate::bench::process::Started;

/// Where an init sees the arena.
pub(super) const ARENA: &str = "/arena";
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

const MOUNTS: &str = r#"
mount --make-rprivate /
mount --bind /proc "$ARENA/told.proc"
mount -t proc proc /proc
"#;

/// A package over the host's /usr, for some have the places of their programs built in.
const LAYER: &str = r#"
[ -z "$LAYER" ] || mount -t overlay -o "lowerdir=$LAYER:/usr" overlay /usr
"#;

/// The supervisor is no PID 1: this shell is, which starts it once, or whenever it ends.
const ONCE: &str = r#""$@" > /dev/null 2>&1; exit"#;
const KEPT: &str = r#"while :; do "$@" > /dev/null 2>&1; done"#;
/// A spare beside it.
const KEPT_TWICE: &str = r#"(while :; do "$@" > /dev/null 2>&1; done) & sleep 0.3; while :; do "$@" > /dev/null 2>&1; done"#;

/// A root for an init: the host's /usr, and all else its own. $1 is the directory of the peer.
const ROOT: &str = r#"
set -e
mount --make-rprivate /
mkdir "$1/root"
cd "$1/root"
mount -t tmpfs -o mode=755 root .
cd "$1/root"
mkdir usr proc sys dev run tmp var root arena package
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$dir"; done
mount --bind /usr usr
cp -a "$1/etc" etc
mount --bind "$ARENA" arena
mount --bind /proc arena/told.proc
[ -z "$PACKAGE" ] || mount --bind "$PACKAGE" package
mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
: > dev/console
mount --bind /dev/null dev/console
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
shift
exec chroot . "$@" < /dev/null > /dev/null 2>&1
"#;

/// How a supervisor is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Once,
    Always,
    WithSpare,
}

/// Starts a supervisor by this command in a namespace, its package over /usr.
pub(super) fn supervised(
    stage: &Stage<'_>,
    kept: Kept,
    words: &[String],
    package: Option<&str>,
) -> Result<Running> {
    let script = match kept {
        Kept::Once => ONCE,
        Kept::Always => KEPT,
        Kept::WithSpare => KEPT_TWICE,
    };
    let mut command = stage.bench.command(Path::new("unshare"))?;
    command
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "sh",
            "-c",
        ])
        .arg([MOUNTS, LAYER, script].concat())
        .arg(KEEPER)
        .args(words)
        .env("ARENA", stage.arena.path())
        .env("LAYER", layer(stage, package))
        .env("PATH", PATH);
    let process = Started::start(&mut command)?;
    let first = child(&process, "sh")?;
    Ok(Running::within(process, first))
}

/// A command of a package, in a mount namespace with the package over /usr.
pub(super) fn layered(stage: &Stage<'_>, package: &str, program: &str) -> Result<Command> {
    let script = [LAYER, "exec \"$0\" \"$@\""].concat();
    let mut command = stage.bench.command(Path::new("unshare"))?;
    command
        .args(["--mount", "sh", "-c", &script, program])
        .env("LAYER", layer(stage, Some(package)))
        .env("PATH", PATH);
    Ok(command)
}

fn layer(stage: &Stage<'_>, package: Option<&str>) -> PathBuf {
    package.map_or_else(PathBuf::new, |name| stage.package(name).join("usr"))
}

/// Starts an init as PID 1 of a namespace, with the peer's `etc`.
pub(super) fn booted(stage: &Stage<'_>, package: Option<&Path>, init: &[&str]) -> Result<Running> {
    let name = stage.directory.file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let cgroup = make_cgroup(&format!("respawn-bench-{}-{name}", std::process::id()))?;
    // Into the cgroup first, so that the cgroup namespace begins there.
    let script = "echo $$ > \"$CGROUP/cgroup.procs\" && exec unshare --pid --fork --kill-child=KILL --mount \
                  --uts --ipc --cgroup sh -c \"$ROOT\" boot \"$@\"";
    let mut command = stage.bench.command(Path::new("sh"))?;
    command
        .args(["-c", script, "sh"])
        .arg(&stage.directory)
        .args(init)
        .env_clear()
        .env("PATH", PATH)
        .env("container", "respawn-bench")
        .env("ROOT", ROOT)
        .env("CGROUP", &cgroup)
        .env("ARENA", stage.arena.path())
        .env("PACKAGE", package.unwrap_or(Path::new("")));
    let process = Started::start(&mut command)?;
    let first = child(&process, init[0])?;
    let running = Running::within(process, first).ending(move |process| {
        let pid = i32::try_from(process.pid()).unwrap_or(0);
        // Its end takes all of the namespace with it, and is not at once.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
        for _ in 0..100 {
            crate::bench::scratch::remove_empty(&cgroup);
            if !cgroup.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    Ok(running)
}

/// The one child of `unshare`, once it is there.
fn child(process: &Started, what: &str) -> Result<u32> {
    let pid = process.pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    for _ in 0..2000 {
        let children =
            fs::read_to_string(&path).with_context(|| format!("{what} has not started"))?;
        if let Some(child) = children.split_whitespace().next() {
            return Ok(child.parse()?);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    bail!("{what} has not started")
}

fn make_cgroup(name: &str) -> Result<PathBuf> {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let mount = mounts
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists());
    let cgroup = mount.context("no cgroup2 is mounted")?.join(name);
    fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
    Ok(cgroup)
}

//! Where the demo's agent lives: a temporary folder, pins and cgroups of its own, and an init
//! process that starts the agent again when it dies. What is made here is taken away again,
//! whichever way the demo ends.
//!
//! The init process holds a pipe to the demo. When that closes, by the demo's end or its death, it
//! stops services and agent and clears the place. Should the init process be killed instead, the
//! demo itself does so. Both adopt what is orphaned below them, so that nothing gets away.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::{
        prctl,
        signal::{Signal, kill},
        statfs::{BPF_FS_MAGIC, statfs},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, geteuid},
};
use signal_hook::{consts::SIGCHLD, iterator::Signals};
use tempfile::TempDir;

use super::process::{Started, own_command, tethered_command};
use crate::{
    Verdict,
    report::{note, now},
};

const BPFFS: &str = "/sys/fs/bpf";
/// How long stopping everything in order may take, before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The place, as the demo has it.
pub(super) struct Stage {
    /// Removed by whoever comes first.
    _folder: TempDir,
    place: Place,
    init: Option<Started>,
}

/// What there is to clear away.
#[derive(Clone, clap::Args)]
pub(crate) struct Place {
    /// With config and runtime directory
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    pin_dir: PathBuf,
    #[arg(long)]
    respawn: PathBuf,
    /// The bpf file system was not mounted before
    #[arg(long)]
    unmount: bool,
}

impl Stage {
    /// Writes the services' files and starts the init process, which starts the agent.
    pub(super) fn set_up(respawn: &Path, services: &[(&str, &str)]) -> Result<Self> {
        let folder = TempDir::with_prefix("respawn-demo-").context("make a temporary folder")?;
        let name = folder.path().file_name().context("a folder has a name")?;
        let place = Place {
            pin_dir: Path::new(BPFFS).join(name),
            folder: folder.path().to_path_buf(),
            respawn: respawn.to_path_buf(),
            unmount: geteuid().is_root() && !is_bpffs(),
        };
        let directory = place.config().join("services");
        fs::create_dir_all(&directory).context("make the demo's config directory")?;
        for (name, text) in services {
            let path = directory.join(format!("{name}.toml"));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        prctl::set_child_subreaper(true).context("become the reaper of orphans")?;
        let mut command = own_command();
        command.arg("demo-init").arg("--folder").arg(&place.folder);
        command.arg("--pin-dir").arg(&place.pin_dir);
        command.arg("--respawn").arg(&place.respawn);
        if place.unmount {
            command.arg("--unmount");
        }
        let init = Started::start(command.stdin(Stdio::piped()).stdout(Stdio::null()))?;
        Ok(Self {
            _folder: folder,
            place,
            init: Some(init),
        })
    }

    /// A `respawn` command that talks to the demo's agent, and does not outlive the demo.
    pub(super) fn respawn(&self, words: &[&str]) -> Result<Command> {
        let mut command = tethered_command(&self.place.respawn)?;
        command
            .args(words)
            .arg("--runtime-dir")
            .arg(self.place.runtime())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Whether the init process lives.
    pub(super) fn is_up(&mut self) -> Result<bool> {
        let init = self.init.as_mut();
        init.map_or(Ok(false), |init| Ok(init.ended()?.is_none()))
    }

    /// Waits until the agent answers.
    pub(super) fn wait_for_agent(&mut self) -> Result<()> {
        let deadline = now() + PATIENCE;
        while now() < deadline {
            let mut status = self.respawn(&["status"])?;
            status.stdout(Stdio::null()).stderr(Stdio::null());
            if status.status().context("run respawn status")?.success() {
                return Ok(());
            }
            if !self.is_up()? {
                bail!("the agent did not start");
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("the agent did not answer within {PATIENCE:?}")
    }

    /// Clears the place, and makes sure that nothing is left.
    pub(super) fn clear(mut self) -> Result<()> {
        self.end();
        let left: Vec<_> = [&self.place.folder, &self.place.pin_dir]
            .into_iter()
            .filter(|path| path.exists())
            .collect();
        if !left.is_empty() {
            bail!("the demo could not remove {left:?}");
        }
        Ok(())
    }

    fn end(&mut self) {
        let Some(mut init) = self.init.take() else {
            return;
        };
        drop(init.stdin());
        let deadline = now() + PATIENCE + Duration::from_secs(5);
        while now() < deadline && matches!(init.ended(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        drop(init);
        // Usually there is nothing left to do.
        self.place.clear();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end();
    }
}

impl Place {
    fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    fn runtime(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Kills every child, then those that thereby become children; takes files, pins, cgroups and
    /// the mount away. Whatever fails is gone already, or left for the one who looks at the end.
    fn clear(&self) {
        kill_children();
        for path in [&self.pin_dir, &self.folder] {
            let _ = fs::remove_dir_all(path);
        }
        self.remove_cgroups();
        if self.unmount && is_bpffs() {
            let _ = umount2(BPFFS, MntFlags::UMOUNT_NOFOLLOW);
        }
    }

    /// The agent names its cgroup after its runtime directory.
    fn remove_cgroups(&self) {
        let Some(name) = self.folder.file_name().and_then(|name| name.to_str()) else {
            return;
        };
        for common in common_cgroups() {
            for agent in directories(&common) {
                if agent.to_string_lossy().contains(name) {
                    for slot in directories(&agent) {
                        let _ = fs::remove_dir(slot);
                    }
                    let _ = fs::remove_dir(agent);
                }
            }
            // Other agents' are in it, or it is nobody's.
            let _ = fs::remove_dir(common);
        }
    }
}

fn is_bpffs() -> bool {
    statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Where agents may have their cgroups: at the root of the v2 hierarchy or below this process's.
fn common_cgroups() -> Vec<PathBuf> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (mounts, own) = (read("/proc/self/mounts"), read("/proc/self/cgroup"));
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|words| words.get(2) == Some(&"cgroup2"))
        .filter_map(|words| words.get(1).map(PathBuf::from))
        .flat_map(|mount| {
            [
                mount.join("respawn"),
                mount.join(own.unwrap_or("")).join("respawn"),
            ]
        })
        .filter(|path| path.is_dir())
        .collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// A child that is not waited for keeps its pid, so that nobody else's process is killed.
fn kill_children() {
    loop {
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
    }
}

fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (_, rest) = stat.rsplit_once(") ")?;
            (rest.split(' ').nth(1)? == own).then(|| Pid::from_raw(pid))
        })
        .collect()
}

/// What the init process waits for.
enum Fact {
    ChildEnded,
    DemoGone,
}

/// The demo's PID 1: keeps the agent running until the demo is gone, and then ends everything.
///
/// # Errors
/// When the agent ends by itself, or cannot be started.
pub(crate) fn init(place: &Place) -> Result<Verdict> {
    let kept = keep_agent(place);
    place.clear();
    kept.map(|()| Verdict::Pass)
}

fn keep_agent(place: &Place) -> Result<()> {
    prctl::set_child_subreaper(true).context("become the reaper of orphans")?;
    let mut signals = Signals::new([SIGCHLD])?;
    let (sender, facts) = channel();
    let of_children = sender.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            let _ = of_children.send(Fact::ChildEnded);
        }
    });
    thread::spawn(move || {
        // Nothing is ever written: it ends with the demo.
        let _ = std::io::stdin().read(&mut [0]);
        let _ = sender.send(Fact::DemoGone);
    });
    let mut agent = start_agent(place, "warn")?;
    for fact in facts {
        match fact {
            Fact::DemoGone => break,
            Fact::ChildEnded => match reap_until(&agent) {
                None => {}
                Some(WaitStatus::Signaled(..)) => agent = start_agent(place, "error")?,
                Some(status) => bail!("the agent ended by itself: {status:?}"),
            },
        }
    }
    shut_down(place, &agent)
}

/// The level is lower after the first time: what the host lacks has been said by then.
fn start_agent(place: &Place, log: &str) -> Result<Child> {
    let mut command = tethered_command(&place.respawn)?;
    command.arg("agent").arg("--config").arg(place.config());
    command.arg("--runtime-dir").arg(place.runtime());
    command.arg("--pin-dir").arg(&place.pin_dir);
    command.args(["--log", log]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().context("start the agent")
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Reaps whoever has ended; how the agent has, if it is among them.
fn reap_until(agent: &Child) -> Option<WaitStatus> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return None,
            Ok(status) if status.pid() == Some(pid_of(agent)) => return Some(status),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

fn shut_down(place: &Place, agent: &Child) -> Result<()> {
    let mut command = tethered_command(&place.respawn)?;
    command.arg("shutdown").arg("--runtime-dir");
    command.arg(place.runtime()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let _request = command.spawn().context("run respawn shutdown")?;
    let deadline: Instant = now() + PATIENCE;
    while now() < deadline {
        if reap_until(agent).is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
    note!("demo: the agent did not end within {PATIENCE:?}, and is killed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_own_children_and_no_others() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let found = children();
        assert!(found.contains(&pid_of(&child)));
        assert!(!found.contains(&Pid::from_raw(1)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children().contains(&pid_of(&child)));
    }
}

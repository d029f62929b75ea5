//! A real journald of a test's own, and a unit whose deaths it is told of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{cgroup_mount, eventually};

/// A real journald with directories of its own, and a cgroup with the name of a unit.
pub struct Journal {
    journald: Child,
    unit: String,
    slice: PathBuf,
}

impl Journal {
    /// Starts one.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn start() -> Result<Self, &'static str> {
        const PROGRAM: &str = "/usr/lib/systemd/systemd-journald";
        if !Path::new(PROGRAM).exists() || !Path::new("/usr/bin/journalctl").exists() {
            return Err("there is no journald");
        }
        let cgroups = cgroup_mount().ok_or("no cgroup2 is mounted")?;
        let script = format!(
            "mount -t tmpfs none /run && mkdir -p /run/systemd /run/log/journal && exec {PROGRAM}"
        );
        let journald = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stderr(Stdio::null())
            .spawn()
            .map_err(|_| "no mount namespace can be made")?;
        let unit = format!("respawn-test-{}.service", journald.id());
        let journal = Self {
            slice: cgroups.join(format!("respawn-test-{}.slice", journald.id())),
            journald,
            unit,
        };
        fs::create_dir_all(journal.slice.join(&journal.unit))
            .map_err(|_| "no cgroup can be made")?;
        eventually("journald listens", || {
            journal
                .path("systemd/journal/socket")
                .exists()
                .then_some(())
        });
        Ok(journal)
    }

    /// Of the daemon.
    pub fn pid(&self) -> u32 {
        self.journald.id()
    }

    /// A file of its own `/run`.
    pub fn path(&self, below_run: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/{below_run}", self.journald.id()))
    }

    /// The unit that the cgroup is named after.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Moves a process to the unit's cgroup.
    pub fn take(&self, pid: u32) {
        let procs = self.slice.join(&self.unit).join("cgroup.procs");
        fs::write(procs, pid.to_string()).expect("a process moves to a cgroup");
    }

    /// The entries that `journalctl` shows of the unit.
    pub fn entries(&self) -> Vec<Value> {
        self.entries_in(&self.path("log/journal"))
    }

    /// The same, in another directory with files of a journal.
    pub fn entries_in(&self, dir: &Path) -> Vec<Value> {
        let output = Command::new("journalctl")
            .arg("--directory")
            .arg(dir)
            .args(["--unit", &self.unit, "--output=json", "--no-pager"])
            .output()
            .expect("journalctl");
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.journald.kill();
        let _ = self.journald.wait();
        let _ = fs::remove_dir(self.slice.join(&self.unit));
        let _ = fs::remove_dir(&self.slice);
    }
}

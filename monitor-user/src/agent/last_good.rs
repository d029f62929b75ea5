//! The last good config, for an agent that starts while the config directory cannot be loaded: it
//! goes on with this one, rather than with nothing.
//!
//! One file in the state directory, replaced whole when the config has changed: a line that tells who
//! wrote it, and one of the config as it was resolved, which needs no other file. That of another boot is not used: its users, groups
//! and programs were looked up long ago.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::memory;
use crate::clock;
use crate::config::{Config, Invalid};
use crate::os::proc;

const DAMAGED: &str = "damaged, not used";

/// To be counted up whenever a config is written in a form that an older version would misread.
const VERSION: u32 = 2;

/// The oldest version that is read: all that it says is said in the same form since.
const OLDEST: u32 = 1;

/// Where the last good config is.
pub(super) struct LastGood {
    path: PathBuf,
    /// It could not be written, and that was told.
    failed: bool,
}

/// The first line; the same in every version.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    boot_id: String,
    written_at: Timestamp,
}

impl LastGood {
    pub(super) fn of(runtime_dir: &Path) -> Self {
        Self {
            path: runtime_dir.join("state").join(memory::LAST_GOOD),
            failed: false,
        }
    }

    /// What to work with while the config is invalid, which is told here.
    ///
    /// # Errors
    /// There is nothing else to work with: what was given.
    pub(super) fn instead_of(&self, invalid: Invalid) -> Result<Config, Invalid> {
        let (written_at, config) = match self.load() {
            Ok(Some(kept)) => kept,
            Ok(None) => return Err(invalid),
            Err(error) => {
                tracing::warn!("{}: {error:#}", self.path.display());
                return Err(invalid);
            }
        };
        super::log_problems(&invalid);
        tracing::warn!(
            "the config cannot be used as a whole: going on with the last good config of {}",
            written_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        );
        Ok(config)
    }

    /// Keeps a config that is in use. If that fails, it is told once, and all else goes on.
    pub(super) fn keep(&mut self, config: &Config) {
        match self.write(config) {
            Ok(()) => self.failed = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::error!("cannot keep the last good config: {error:#}");
                }
            }
        }
    }

    /// Whether a config is kept.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// `None`: there is none.
    fn load(&self) -> Result<Option<(Timestamp, Config)>> {
        let Some((written_at, line)) = self.read()? else {
            return Ok(None);
        };
        let config = serde_json::from_slice(&line).context(DAMAGED)?;
        Ok(Some((written_at, config)))
    }

    /// When it was written, and the config's line. `None`: there is none.
    fn read(&self) -> Result<Option<(Timestamp, Vec<u8>)>> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let mut lines = bytes.splitn(2, |&byte| byte == b'\n');
        let (Some(head), Some(line)) = (lines.next(), lines.next()) else {
            bail!(DAMAGED);
        };
        let head: Head = serde_json::from_slice(head).context(DAMAGED)?;
        ensure!(
            (OLDEST..=VERSION).contains(&head.version),
            "of another version of respawn, not used"
        );
        ensure!(head.boot_id == boot_id()?, "of another boot, not used");
        Ok(Some((head.written_at, line.to_vec())))
    }

    fn write(&self, config: &Config) -> Result<()> {
        let line = serde_json::to_vec(config)?;
        // What cannot be read is replaced.
        if let Ok(Some((_, kept))) = self.read()
            && kept == line
        {
            return Ok(());
        }
        let head = Head {
            version: VERSION,
            boot_id: boot_id()?,
            written_at: clock::now(),
        };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        bytes.extend(line);
        let temporary = self.path.with_extension("new");
        let replaced = memory::replace(&temporary, &self.path, &bytes);
        if replaced.is_err() {
            // On a full disk others need the room.
            let _ = fs::remove_file(&temporary);
        }
        replaced.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn boot_id() -> Result<String> {
    proc::boot_id().context("cannot read the kernel's boot ID")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::config::{self, Problem, Surroundings};

    /// What version 1 wrote of a config in which everything was set.
    const VERSION_1: &str = r#"{
        "agent": {
            "control_group": 7,
            "journal_max_size": 65536,
            "hooks": {
                "on_exit": [{
                    "program": "/bin/true",
                    "arguments": ["true"],
                    "timeout": {"secs": 10, "nanos": 0}
                }],
                "on_restart": [],
                "on_failed": null,
                "timeout": {"secs": 3, "nanos": 0}
            },
            "max_hooks": 2,
            "notices": {"syslog": "/dev/log", "journald": null}
        },
        "services": {
            "web": {
                "policy": {
                    "restart": "OnFailure",
                    "restart_delay": {"secs": 0, "nanos": 100000000},
                    "restart_max_delay": {"secs": 90, "nanos": 0},
                    "stable_after": {"secs": 3600, "nanos": 0},
                    "start_limit": {"burst": 5, "interval": {"secs": 10, "nanos": 0}},
                    "success_exit_status": [0, 3],
                    "stop_signal": "SIGHUP",
                    "stop_timeout": {"secs": 0, "nanos": 0},
                    "overlap": true,
                    "last_output": 8192
                },
                "exec": {
                    "program": "/usr/bin/sh",
                    "arguments": ["sh", "-c", "exit 3", ""],
                    "environment": {"KEY": "value", "PATH": "/bin"},
                    "identity": {"uid": 1, "gid": 2, "groups": [2, 3]},
                    "working_directory": "/tmp",
                    "umask": 23,
                    "nice": -5,
                    "limits": [{"resource": 3, "soft": 8388608, "hard": null}],
                    "stdout": {"File": "/tmp/web.log"},
                    "stderr": "Null"
                },
                "hooks": {
                    "on_exit": {
                        "program": "/bin/true",
                        "arguments": ["true"],
                        "timeout": {"secs": 3, "nanos": 0}
                    },
                    "on_restart": null,
                    "on_failed": null
                }
            }
        }
    }"#;

    fn full() -> Config {
        serde_json::from_str(VERSION_1).unwrap()
    }

    fn place() -> (TempDir, LastGood) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let last_good = LastGood::of(dir.path());
        (dir, last_good)
    }

    fn invalid() -> Invalid {
        let nowhere = Path::new("/no/such/config");
        config::load(nowhere, &Surroundings::default()).unwrap_err()
    }

    /// What the present version adds to that.
    const SINCE_1: &str = r#"{
        "files": {"web": "/etc/respawn/services/web.toml"},
        "lines": {"web": {"command": 1, "nice": 7}},
        "drop_ins": {"web": {"files": ["/etc/respawn/services/web.toml.d/a.toml"], "keys": {"nice": 1}}},
        "agent_lines": {"on_exit": 2},
        "is_partial": true,
        "services": {
            "web": {
                "exec": {
                    "environment_file": {"path": "/etc/default/web", "beneath": ["KEY"]}
                },
                "policy": {"essential": true, "start_check": {"nanos": 0, "secs": 1}, "stop_mode": "main"},
                "unusable": {"why": "no user is named \"web\"", "may_end": true}
            }
        }
    }"#;

    /// Adds the keys of one object to another's, and so on below.
    fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }

    #[test]
    fn a_config_has_the_form_of_its_version() {
        let mut text: Value = serde_json::from_str(VERSION_1).unwrap();
        merge(&mut text, &serde_json::from_str(SINCE_1).unwrap());
        let config: Config = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(config).unwrap(), text);
        assert_eq!((OLDEST, VERSION), (1, 2));
    }

    #[test]
    fn what_was_kept_is_gone_on_with() {
        let (_dir, mut last_good) = place();
        assert_eq!(last_good.instead_of(invalid()), Err(invalid()));
        for config in [full(), config_of("command = [\"/bin/true\"]")] {
            last_good.keep(&config);
            assert_eq!(last_good.instead_of(invalid()), Ok(config));
        }
    }

    fn config_of(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.toml");
        fs::write(&file, text).unwrap();
        config::load_file(&file, &Surroundings::default()).unwrap()
    }

    #[test]
    fn it_is_written_only_when_it_has_changed() {
        let (_dir, mut last_good) = place();
        let mut config = full();
        last_good.keep(&config);
        let file = |last_good: &LastGood| {
            let metadata = fs::metadata(&last_good.path).unwrap();
            (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
        };
        let first = file(&last_good);
        // Warnings are of the files, not of what they mean.
        config.warnings = invalid().problems;
        assert!(matches!(config.warnings[..], [Problem { .. }]));
        last_good.keep(&config);
        assert_eq!(file(&last_good), first);
        config.agent.max_hooks += 1;
        last_good.keep(&config);
        assert_ne!(file(&last_good), first);
        config.warnings.clear();
        assert_eq!(last_good.instead_of(invalid()), Ok(config));
    }

    #[test]
    fn what_cannot_be_written_is_written_when_it_can() {
        let (dir, mut last_good) = place();
        let state = dir.path().join("state");
        fs::remove_dir(&state).unwrap();
        for _ in 0..2 {
            last_good.keep(&full());
            assert!(last_good.failed);
        }
        fs::create_dir(&state).unwrap();
        // Where a directory is, nothing can be put.
        fs::create_dir(&last_good.path).unwrap();
        last_good.keep(&full());
        assert!(last_good.failed);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        fs::remove_dir(&last_good.path).unwrap();
        last_good.keep(&full());
        assert!(!last_good.failed);
        assert_eq!(last_good.instead_of(invalid()), Ok(full()));
    }
}

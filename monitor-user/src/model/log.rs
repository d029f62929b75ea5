//! Where the logger writes the output of a service, and when it begins a new file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a service file says by `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Log {
    pub(crate) target: Target,
    /// A file does not grow beyond this many bytes, unless by a single line.
    pub(crate) max_size: u64,
    /// So many rotated files stay.
    pub(crate) keep: u32,
    /// Each line begins with the moment at which the logger read it.
    pub(crate) timestamps: bool,
    /// The first line after this time begins a new file; `None`: size alone counts.
    pub(crate) max_age: Option<Duration>,
    /// Rotated files are compressed.
    pub(crate) compress: bool,
    pub(crate) on_full: OnFull,
}

/// Who gets the lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// A file, whose rotated ones are beside it.
    File(PathBuf),
    /// syslogd, at this socket.
    Syslog(PathBuf),
    /// journald, at this socket.
    Journald(PathBuf),
    /// The agent's standard output, after the service's name.
    Stdout,
}

/// What becomes of lines that cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFull {
    /// They wait, and so does the service once its FIFO is full.
    Wait,
    /// They are counted, and the log says how many there were.
    Drop,
}

impl Log {
    /// The defaults for a target.
    pub(crate) fn to(target: Target) -> Self {
        Self {
            // Whoever gets lines elsewhere has a clock.
            timestamps: matches!(target, Target::File(_)),
            target,
            max_size: 10 << 20,
            keep: 5,
            max_age: None,
            compress: false,
            on_full: OnFull::Wait,
        }
    }

    /// The file, if it is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.target {
            Target::File(path) => Some(path),
            _ => None,
        }
    }

    /// The rotated file of this age, if there is a file: 1 is the youngest.
    pub(crate) fn rotated(&self, age: u32) -> PathBuf {
        let mut name = self.path().unwrap_or(Path::new("")).as_os_str().to_owned();
        name.push(format!(".{age}"));
        name.into()
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        match &self.target {
            Target::File(path) => path.display().to_string(),
            Target::Syslog(path) => format!("to syslog at {}", path.display()),
            Target::Journald(path) => format!("to journald at {}", path.display()),
            Target::Stdout => "to standard output".to_owned(),
        }
    }
}

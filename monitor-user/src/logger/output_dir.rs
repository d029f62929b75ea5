//! The files through which agent and logger know of each other's work, in `output` in the runtime
//! directory. A name in a directory is a service's.
//!
//! ```text
//! output/lock        who is the logger
//! output/fifo/       what services write to
//! output/settings/   what the agent says of them: see [`Settings`]
//! output/record/     how far the logger has come: `record`
//! output/even/ odd/  what it has taken out of the FIFO, and not written yet: `sink`
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lines;
use super::record::{Record, RecordFile};
use crate::model::{Identity, Instance, Log};
use crate::os::{self, pipe};

/// The directory's name in the runtime directory.
pub(crate) const OUTPUT: &str = "output";

/// How often what moves is looked at, to see all of it once.
const LOOKS: u32 = 8;

/// What the logger has to know of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) log: Log,
    /// The service's user, if that is another than the logger's.
    pub(crate) owner: Option<Identity>,
}

/// Where all of that is.
#[derive(Debug, Clone)]
pub(crate) struct OutputDir {
    dir: PathBuf,
}

/// How far a service's output has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// So long its log file is; `None`: the logger has not written to it yet.
    pub(crate) length: Option<u64>,
    /// What will follow there.
    pub(crate) pending: Vec<u8>,
}

impl OutputDir {
    pub(crate) fn of(runtime_dir: &Path) -> Self {
        Self {
            dir: runtime_dir.join(OUTPUT),
        }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    pub(crate) fn fifo(&self, service: &str) -> PathBuf {
        self.dir.join("fifo").join(service)
    }

    pub(super) fn settings_dir(&self) -> PathBuf {
        self.dir.join("settings")
    }

    pub(super) fn record(&self, service: &str) -> PathBuf {
        self.dir.join("record").join(service)
    }

    /// What is taken out of the FIFO in this turn.
    pub(super) fn spool(&self, service: &str, turn: u64) -> PathBuf {
        let dir = if turn.is_multiple_of(2) {
            "even"
        } else {
            "odd"
        };
        self.dir.join(dir).join(service)
    }

    /// Whether something was taken out of the FIFO and is not written yet.
    pub(crate) fn has_rest(&self, service: &str) -> bool {
        [0, 1].into_iter().any(|turn| {
            let spool = fs::metadata(self.spool(service, turn));
            spool.is_ok_and(|spool| spool.len() > 0)
        })
    }

    /// Makes the directories, which are the caller's alone.
    ///
    /// # Errors
    /// One cannot be made.
    pub(crate) fn make(&self) -> io::Result<()> {
        let dirs = ["fifo", "settings", "record", "even", "odd"].map(|name| self.dir.join(name));
        for dir in [&self.dir].into_iter().chain(&dirs) {
            os::make_dir(dir, 0o700)?;
        }
        Ok(())
    }

    /// Has the logger read a service's FIFO, or go on with other settings.
    ///
    /// # Errors
    /// They cannot be written.
    pub(crate) fn write_settings(&self, service: &str, settings: &Settings) -> io::Result<()> {
        let text = serde_json::to_vec(settings)?;
        // Whoever sees the name sees all of it.
        let new = self.dir.join("new");
        fs::write(&new, text)?;
        fs::rename(new, self.settings_dir().join(service))
    }

    /// What was written; `None`: nothing that can be read.
    pub(crate) fn read_settings(&self, service: &str) -> Option<Settings> {
        let text = fs::read(self.settings_dir().join(service)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Has the logger read the rest, and then no more.
    pub(crate) fn remove_settings(&self, service: &str) {
        // Nothing is amiss if there are none.
        let _ = fs::remove_file(self.settings_dir().join(service));
    }

    /// The services that the logger is to read.
    pub(crate) fn known(&self) -> Vec<String> {
        let entries = fs::read_dir(self.settings_dir()).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.collect()
    }

    /// The logger has read the rest.
    pub(super) fn forget(&self, service: &str) {
        for path in [
            self.fifo(service),
            self.record(service),
            self.spool(service, 0),
            self.spool(service, 1),
        ] {
            // Nothing is amiss if it stays.
            let _ = fs::remove_file(path);
        }
    }

    /// The logger that the lock names, dead or alive.
    pub(crate) fn logger(&self) -> Option<Instance> {
        let text = fs::read(self.lock()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Where a service's output is at this moment: in the log, and on its way there.
    ///
    /// # Errors
    /// The FIFO or the logger's files cannot be read.
    pub(crate) fn progress(&self, service: &str, fifo: &File) -> io::Result<Progress> {
        let mut progress = Progress::default();
        for _ in 0..LOOKS {
            let before = self.look(service)?;
            let waiting = pipe::peek(fifo)?;
            let after = self.look(service)?;
            let is_still = (&before.0, before.1.len()) == (&after.0, after.1.len());
            let (record, spool) = before;
            progress.length = record.as_ref().map(|record| record.length);
            let record = record.unwrap_or_default();
            let done = usize::try_from(record.done).unwrap_or(usize::MAX);
            let spool = spool.get(done..).unwrap_or_default();
            progress.pending = lines::plain(&[&record.carry, spool, &waiting].concat());
            if is_still {
                break;
            }
        }
        Ok(progress)
    }

    fn look(&self, service: &str) -> io::Result<(Option<Record>, Vec<u8>)> {
        let record = RecordFile::peek(&self.record(service))?;
        let turn = record.as_ref().map_or(0, |record| record.turn);
        match fs::read(self.spool(service, turn)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((record, Vec::new())),
            read => Ok((record, read?)),
        }
    }
}

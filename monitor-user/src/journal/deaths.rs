//! What a recorder keeps: deaths of the whole host, in files of the journal's form, `deaths` and
//! `deaths.1`.
//!
//! A line that cannot be written is not given up: the caller tries it again.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::writer::{Log, put_aside_if_foreign};
use crate::decode::ProcessExit;
use crate::os::proc;
use crate::text;

/// Of the file that is written to.
const NAME: &str = "deaths";

/// The files of the one recorder that writes them.
#[derive(Debug)]
pub(crate) struct Deaths {
    log: Log,
    /// The number of the last line.
    seq: u64,
    buffer: Vec<u8>,
    boot_id: Option<String>,
    host: Option<String>,
}

/// Tells of deaths that the kernel had no room for.
#[derive(Debug, Serialize)]
pub(crate) struct Lost {
    event: &'static str,
    time: Timestamp,
    count: u64,
}

impl Lost {
    /// So many, until now.
    pub(crate) fn new(time: Timestamp, count: u64) -> Self {
        let event = "deaths_lost";
        Self { event, time, count }
    }
}

#[derive(Serialize)]
struct Line<'a, T> {
    seq: u64,
    #[serde(flatten)]
    entry: &'a T,
    since_boot_ns: u64,
    boot_id: Option<&'a str>,
    host: Option<&'a str>,
    cursor: String,
}

/// What the last line says of its death.
#[derive(Debug, Deserialize)]
struct Last {
    host_pid: Option<u32>,
    since_boot_ns: u64,
    boot_id: Option<String>,
}

impl Deaths {
    /// Opens the files in `dir`, or begins them there; together they take at most `max_size` bytes.
    /// They have mode 0600, or 0640 with `group`. What is in their place and is not theirs is put
    /// aside.
    ///
    /// # Errors
    /// No such directory; something that is not a file is in their place; no right to it.
    pub(crate) fn open(dir: &Path, max_size: u64, group: Option<u32>) -> Result<Self> {
        let paths = super::paths_of(NAME, dir);
        for path in &paths {
            put_aside_if_foreign(path)?;
        }
        let (log, last) = Log::open(paths, max_size / 2, group, true)?;
        Ok(Self {
            log,
            seq: last.unwrap_or(0),
            buffer: Vec::new(),
            boot_id: proc::boot_id().ok(),
            host: proc::host_name().ok(),
        })
    }

    /// Whether the last line tells of that death.
    pub(crate) fn last_is(&self, exit: &ProcessExit) -> bool {
        let Some(last) = self.log.last_line::<Last>() else {
            return false;
        };
        last.host_pid == Some(exit.host_pid)
            && Duration::from_nanos(last.since_boot_ns) == exit.exited_at
            && last.boot_id == self.boot_id
    }

    /// Appends one line, of something that happened `since_boot_ns` nanoseconds after the boot.
    ///
    /// # Errors
    /// It is not written, or a part of it only. The next try begins a line of its own.
    pub(crate) fn append(&mut self, entry: &impl Serialize, since_boot_ns: u64) -> io::Result<()> {
        let seq = self.seq.saturating_add(1);
        let line = text::json(&Line {
            seq,
            entry,
            since_boot_ns,
            boot_id: self.boot_id.as_deref(),
            host: self.host.as_deref(),
            cursor: cursor(self.boot_id.as_deref(), seq, since_boot_ns),
        })?;
        self.buffer.clear();
        // Ends a torn line, where there is one.
        self.buffer.push(b'\n');
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
        self.log.make_room(self.buffer.len())?;
        let (is_used, written) = self.log.write(&self.buffer);
        if is_used {
            self.seq = seq;
        }
        written
    }
}

/// Names a line, also among those of files that were removed before: by its number, and by the moment
/// that it is about.
fn cursor(boot_id: Option<&str>, seq: u64, since_boot_ns: u64) -> String {
    let boot = boot_id.and_then(|id| id.get(..8)).unwrap_or("0");
    format!("{seq}-{boot}-{since_boot_ns:x}")
}

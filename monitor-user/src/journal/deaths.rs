//! What a recorder keeps: deaths of the whole host, in files of the journal's form, `deaths` and
//! `deaths.1`.
//!
//! A line that cannot be written is not given up: the caller tries it again.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use super::writer::{Log, Numbering, frame, put_aside_if_foreign};
use crate::decode::ProcessExit;
use crate::model::{Described, Event, Profile};

/// Of the file that is written to.
const NAME: &str = "deaths";

/// The files of the one recorder that writes them.
#[derive(Debug)]
pub(crate) struct Deaths {
    log: Log,
    /// The number of the last line.
    seq: u64,
    buffer: Vec<u8>,
    numbering: Numbering,
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
            seq: last.as_ref().map_or(0, |last| last.seq),
            buffer: Vec::new(),
            numbering: Numbering::after(last.as_ref()),
        })
    }

    /// Whether the last line tells of that death.
    pub(crate) fn last_is(&self, exit: &ProcessExit) -> bool {
        let Some(last) = self.log.last_line::<Last>() else {
            return false;
        };
        last.host_pid == Some(exit.host_pid)
            && Duration::from_nanos(last.since_boot_ns) == exit.exited_at
            && last.boot_id == self.numbering.boot_id
    }

    /// Appends an event that happened `since_boot_ns` nanoseconds after the boot, and gives it its
    /// number.
    ///
    /// # Errors
    /// It is not written, or a part of it only. The next try begins a line of its own.
    pub(crate) fn append(
        &mut self,
        event: &mut Event,
        profile: Option<&Profile>,
        since_boot_ns: u64,
    ) -> io::Result<()> {
        let seq = self.seq.saturating_add(1);
        event.stamp = Some(self.numbering.stamp(seq, since_boot_ns));
        frame(&mut self.buffer, &Described { event, profile })?;
        self.log.make_room(self.buffer.len())?;
        let (is_used, written) = self.log.write(&self.buffer);
        if is_used {
            self.seq = seq;
        }
        written
    }
}

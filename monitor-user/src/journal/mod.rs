//! The journal: what happened to every service, kept in a file that outlives the agent.
//!
//! Newline-delimited JSON in the runtime directory. `journal` is appended to; where it has grown
//! to a quarter of the allowed size it becomes `journal.1`, in place of the older one. Decides nothing,
//! and never rewrites a line. Each line has two times: that of the wall clock, which somebody may
//! set, and that since boot.
//!
//! A service that has filled a quarter of `journal` has its next events in `journal.busy`, until a new
//! `journal` begins; `journal.busy` is turned over likewise. So one service that ends in a loop leaves
//! the history of all others alone: of it, the first events are kept, and the newest.
//!
//! ```text
//! event ─┬─▶ journal ──────▶ journal.1          read back as one, in the order of `seq`
//!        └─▶ journal.busy ─▶ journal.busy.1
//! ```
//!
//! Invariants:
//! - an event is one line, written by one `write(2)`; a line without its newline is no line;
//! - `seq` grows by one from line to line, across files and agents; a hole is a line that is lost;
//! - a line is written after all those with a lower `seq`, in whichever file;
//! - a line's cursor is no other line's, also after a reboot, and where the journal was removed and began again;
//! - only one agent writes: the one that holds the lock.

mod changes;
mod cursor;
mod deaths;
mod reader;
mod resume;
mod shares;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub(crate) use changes::Changes;
pub(crate) use cursor::{Cursor, NoCursor};
pub(crate) use deaths::Deaths;
pub(crate) use reader::{JournalLine, Reader};
pub(crate) use resume::{Found, Resumed, resume};
pub(crate) use writer::Journal;

/// All files.
pub(crate) fn paths(runtime_dir: &Path) -> [PathBuf; 4] {
    let [[journal, older], [busy, older_busy]] =
        [JournalPart::Journal, JournalPart::Busy].map(|place| place.paths(runtime_dir));
    [journal, older, busy, older_busy]
}

/// Where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JournalPart {
    Journal,
    /// What is of services that have used up their share of the other.
    Busy,
}

impl JournalPart {
    const fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Busy => "journal.busy",
        }
    }

    /// The file that is written to, and the one before it.
    fn paths(self, runtime_dir: &Path) -> [PathBuf; 2] {
        paths_of(self.name(), runtime_dir)
    }
}

/// A file that is written to, and the one before it.
fn paths_of(name: &str, dir: &Path) -> [PathBuf; 2] {
    [dir.join(name), dir.join(format!("{name}.1"))]
}

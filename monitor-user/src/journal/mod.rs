//! The journal: what happened to every service, kept in a file that outlives the agent.
//!
//! Newline-delimited JSON in the runtime directory. `journal` is appended to; where it has grown
//! to half of the allowed size it becomes `journal.1`, in place of the older one. Decides nothing,
//! and never rewrites a line. Each line has two times: that of the wall clock, which somebody may
//! set, and that since boot.
//!
//! Invariants:
//! - an event is one line, written by one `write(2)`; a line without its newline is no line;
//! - `seq` grows by one from line to line, across files and agents; a hole is a line that is lost;
//! - only one agent writes: the one that holds the lock.

mod changes;
mod entry;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub(crate) use changes::Changes;
pub(crate) use entry::{By, Entry, ExtraFacts};
pub(crate) use reader::{Line, Reader, time_of};
pub(crate) use writer::Journal;

/// Both files.
pub(crate) fn paths(runtime_dir: &Path) -> [PathBuf; 2] {
    [current_path(runtime_dir), older_path(runtime_dir)]
}

/// The file that is written to.
fn current_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("journal")
}

/// The file before it.
fn older_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("journal.1")
}

//! Waits for the journal to grow or to be turned over. Reads nothing of it.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use anyhow::Result;
use nix::sys::inotify::AddWatchFlags;

use super::{JournalPart, reader};
use crate::os::inotify::Watch;

/// Changes of a journal since this was made. To be made before the journal is opened.
pub(crate) struct Changes {
    watch: Watch,
    /// The files that may change.
    names: &'static [&'static str],
}

impl Changes {
    /// Begins to look at `runtime_dir`.
    ///
    /// # Errors
    /// No such directory; no right to it; too many inotify instances of this user.
    pub(crate) fn of(runtime_dir: &Path) -> io::Result<Self> {
        const NAMES: [&str; 2] = [JournalPart::Journal.name(), JournalPart::Busy.name()];
        Self::of_files(runtime_dir, &NAMES)
    }

    /// The same of the deaths that a recorder keeps in `dir`.
    ///
    /// # Errors
    /// As [`Changes::of`].
    pub(crate) fn of_deaths(dir: &Path) -> io::Result<Self> {
        Self::of_files(dir, &[reader::DEATHS])
    }

    fn of_files(dir: &Path, names: &'static [&'static str]) -> io::Result<Self> {
        let watch = Watch::new()?;
        let what = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        watch.add(dir, what)?;
        Ok(Self { watch, names })
    }

    /// Waits until there may be something new. `false`: nothing comes any more, since the
    /// directory is gone. Cancellation loses nothing.
    pub(crate) async fn next(&self) -> Result<bool> {
        loop {
            let events = self.watch.next().await?;
            let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
            if events.iter().any(|event| event.mask.intersects(gone)) {
                return Ok(false);
            }
            // An event without a name says that others were too many to be told.
            let is_it = |name: &Option<OsString>| {
                name.as_ref()
                    .is_none_or(|name| self.names.iter().any(|file| name == file))
            };
            if events.iter().any(|event| is_it(&event.name)) {
                return Ok(true);
            }
        }
    }
}

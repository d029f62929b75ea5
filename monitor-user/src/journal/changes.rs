//! Waits for the journal to grow or to be turned over. Reads nothing of it.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use anyhow::Result;
use nix::sys::inotify::AddWatchFlags;

use super::Place;
use crate::os::inotify::Watch;

/// Changes of a journal since this was made. To be made before the journal is opened.
pub(crate) struct Changes(Watch);

impl Changes {
    /// Begins to look at `runtime_dir`.
    ///
    /// # Errors
    /// No such directory; no right to it; too many inotify instances of this user.
    pub(crate) fn of(runtime_dir: &Path) -> io::Result<Self> {
        let watch = Watch::new()?;
        let what = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        watch.add(runtime_dir, what)?;
        Ok(Self(watch))
    }

    /// Waits until there may be something new. `false`: nothing comes any more, since the
    /// directory is gone. Cancellation loses nothing.
    pub(crate) async fn next(&self) -> Result<bool> {
        let files = [Place::Journal, Place::Busy].map(Place::name);
        loop {
            let events = self.0.next().await?;
            let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
            if events.iter().any(|event| event.mask.intersects(gone)) {
                return Ok(false);
            }
            // An event without a name says that others were too many to be told.
            let is_it = |name: &Option<OsString>| {
                name.as_ref()
                    .is_none_or(|name| files.iter().any(|file| name == file))
            };
            if events.iter().any(|event| is_it(&event.name)) {
                return Ok(true);
            }
        }
    }
}

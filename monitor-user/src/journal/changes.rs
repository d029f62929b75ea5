//! Waits for the journal to grow or to be turned over. Reads nothing of it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::current_path;
use crate::os;

/// Changes of a journal since this was made. To be made before the journal is opened.
pub(crate) struct Changes(AsyncFd<Watch>);

struct Watch(Inotify);

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Changes {
    /// Begins to look at `runtime_dir`.
    ///
    /// # Errors
    /// No such directory; no right to it; too many inotify instances of this user.
    pub(crate) fn of(runtime_dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let what = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(runtime_dir, what)?;
        os::async_fd(Watch(inotify), Interest::READABLE).map(Self)
    }

    /// Waits until there may be something new. `false`: nothing comes any more, since the
    /// directory is gone. Cancellation loses nothing.
    pub(crate) async fn next(&self) -> Result<bool> {
        let journal = current_path(Path::new(""));
        loop {
            let mut ready = self.0.readable().await?;
            let events = match ready.get_inner().0.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
            if events.iter().any(|event| event.mask.intersects(gone)) {
                return Ok(false);
            }
            // An event without a name says that others were too many to be told.
            let is_it = |name: &Option<OsString>| name.as_ref().is_none_or(|name| journal == *name);
            if events.iter().any(|event| is_it(&event.name)) {
                return Ok(true);
            }
        }
    }
}

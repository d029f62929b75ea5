//! Waits for what the kernel reports of files and directories: inotify(7). Looks at none itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An inotify instance of this process.
pub(crate) struct Watch(AsyncFd<Owner>);

struct Owner(Inotify);

impl AsFd for Owner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Owner {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// Too many inotify instances of this user, or no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        super::async_fd(Owner(inotify), Interest::READABLE).map(Self)
    }

    /// Watches a path too, for these events.
    ///
    /// # Errors
    /// No such path, or no right to it; too many watches of this user.
    pub(crate) fn add(&self, path: &Path, what: AddWatchFlags) -> io::Result<WatchDescriptor> {
        Ok(self.0.get_ref().0.add_watch(path, what)?)
    }

    /// Ends one of them. Of a file that is gone it has ended by itself.
    pub(crate) fn remove(&self, watched: WatchDescriptor) {
        let _ = self.0.get_ref().0.rm_watch(watched);
    }

    /// The next events, in their order. Cancellation loses none.
    ///
    /// # Errors
    /// They cannot be read, now or later.
    pub(crate) async fn next(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => return Ok(events),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

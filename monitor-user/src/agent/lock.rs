//! One agent works at a time: whoever holds the lock file. The next one waits for it.
//!
//! A shutdown ends the agents that wait as well: it removes the lock file, and who gets the lock
//! of a file that is gone has nothing to take over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The lock, held until the value goes, or the process does.
pub(super) struct Lock {
    path: PathBuf,
    /// Held, and read by nobody.
    _file: Flock<File>,
}

impl Lock {
    /// Ends the agents that wait for it too.
    pub(super) fn retire(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::error!(
                "a spare takes over: cannot remove {}: {error}",
                self.path.display()
            );
        }
    }
}

/// Takes the lock in `runtime_dir`, waiting for as long as another agent has it; `waiting` is
/// called once if it has to wait. `None`: a shutdown has ended this agent while it waited.
///
/// # Errors
/// The lock file cannot be opened or locked.
pub(super) fn take(runtime_dir: &Path, waiting: impl FnOnce()) -> Result<Option<Lock>> {
    let path = runtime_dir.join("lock");
    let context = || format!("cannot lock {}", path.display());
    loop {
        let file = open(&path).with_context(context)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) if is_there(&file).with_context(context)? => {
                return Ok(Some(Lock { path, _file: file }));
            }
            // Removed between the two calls: the next agent's file is another.
            Ok(_) => {}
            Err((file, Errno::EWOULDBLOCK)) => {
                waiting();
                let file = Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, errno)| io::Error::from(errno))
                    .with_context(context)?;
                let lasts = is_there(&file).with_context(context)?;
                return Ok(lasts.then_some(Lock { path, _file: file }));
            }
            Err((_, errno)) => return Err(io::Error::from(errno)).with_context(context),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
        .open(path)
}

/// Whether a file still has a name.
fn is_there(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 0)
}

//! One agent works at a time: whoever holds the lock file. The next one waits for it.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

/// The lock, held until the value goes, or the process does.
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<std::fs::File>);

/// Makes the runtime directory where it is missing.
///
/// # Errors
/// It can be neither found nor made, or is no directory.
pub(super) fn make_runtime_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.with_context(|| format!("cannot make the runtime directory {}", path.display()))
}

/// Takes the lock in `runtime_dir`, waiting for as long as another agent has it; `waiting` is
/// called once if it has to wait.
///
/// # Errors
/// The lock file cannot be opened or locked.
pub(super) fn take(runtime_dir: &Path, waiting: impl FnOnce()) -> Result<Lock> {
    let path = runtime_dir.join("lock");
    let context = || format!("cannot lock {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
        .open(&path)
        .with_context(context)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((file, errno)) if errno == nix::errno::Errno::EWOULDBLOCK => {
            waiting();
            Flock::lock(file, FlockArg::LockExclusive)
                .map(Lock)
                .map_err(|(_, errno)| anyhow!(io::Error::from(errno)))
                .with_context(context)
        }
        Err((_, errno)) => Err(io::Error::from(errno)).with_context(context),
    }
}

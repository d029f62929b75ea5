//! A spare that has waited while `respawn` was replaced goes on as the new one: it would work as
//! the old one for as long as it lives otherwise, and init starts none beside it.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::fd_store;
use super::pool::{INHERITED, Pool};
use crate::os;

/// What the kernel adds to the name of a file that has none any more: `d_path`, fs/d_path.c.
const DELETED: &[u8] = b" (deleted)";

/// Runs what has taken the place of this process's file, in this process, with the same words.
/// Returns if nothing has, or if that cannot be run. The lock goes meanwhile, and is taken again
/// by this agent or another. The sockets that are held go along.
pub(super) fn become_the_new_one(pool: &Pool) {
    let Some(path) = replacement(Path::new("/proc/self/exe")) else {
        return;
    };
    tracing::info!("{} was replaced: going on as the new one", path.display());
    let mut words = std::env::args_os();
    let mut command = Command::new(&path);
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command.env(INHERITED, pool.hand_on(true));
    command.env(fd_store::INHERITED, pool.stored.hand_on(true));
    let error = command.args(words).exec();
    pool.hand_on(false);
    pool.stored.hand_on(false);
    tracing::error!("cannot run {}: {error}", path.display());
}

/// What is now where this program's file was, if that is a program, and another one.
fn replacement(running: &Path) -> Option<PathBuf> {
    let name = fs::read_link(running).ok()?.into_os_string().into_vec();
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.strip_suffix(DELETED)?));
    let is_another = || -> io::Result<bool> {
        let (old, new) = (fs::metadata(running)?, fs::metadata(&path)?);
        Ok(new.is_file() && new.mode() & 0o111 != 0 && os::identity(&old) != os::identity(&new))
    };
    is_another().unwrap_or(false).then_some(path)
}

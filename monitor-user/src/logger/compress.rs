//! Compresses rotated files, in a thread of its own, so that the others' output does not wait for it.
//!
//! A compressed file has its name once it is complete, and then the other one goes. A kill leaves the
//! one, both, or a new file that has no name yet, and the next round begins again. What a compressed
//! file was made of is written in it, for readers who had begun with that.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use flate2::{Compression, GzBuilder};
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat};

use super::file::{remove, rotated};
use super::output_dir::Settings;
use crate::os;
use crate::os::open;

/// The thread, and what it and rotation have in common.
#[derive(Debug)]
pub(super) struct Compressor {
    /// Whoever renames has it.
    names: Arc<Mutex<()>>,
    jobs: Sender<Settings>,
}

/// Which file one is, or was while it had a name: device, inode and birth. Without a birth, that is not
/// known of one that is gone, as inodes are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    born: u128,
}

impl FileId {
    /// Of a file that is there.
    pub(crate) fn of(found: &fs::Metadata) -> Self {
        let born = found.created().ok();
        let born = born.and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
        Self {
            device: found.dev(),
            inode: found.ino(),
            born: born.map_or(0, |born| born.as_nanos()),
        }
    }

    fn to_text(self) -> String {
        format!("respawn {} {} {}", self.device, self.inode, self.born)
    }

    /// What the header of a compressed file says it was made of, if that can be told.
    pub(crate) fn from_text(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.strip_prefix("respawn ")?;
        let mut words = text.split(' ');
        let id = Self {
            device: words.next()?.parse().ok()?,
            inode: words.next()?.parse().ok()?,
            born: words.next()?.parse().ok()?,
        };
        (id.born > 0).then_some(id)
    }
}

impl Compressor {
    /// Starts the thread.
    pub(super) fn start() -> Self {
        let (jobs, todo) = channel();
        let names = Arc::new(Mutex::new(()));
        let shared = Arc::clone(&names);
        let started = thread::Builder::new()
            .name("compress".to_owned())
            .spawn(move || work(&todo, &shared));
        if let Err(error) = started {
            tracing::error!("rotated files are not compressed: {error}");
        }
        Self { names, jobs }
    }

    /// Nobody else renames as long as that is held.
    pub(super) fn names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the rotated files of a log compressed.
    pub(super) fn compress(&self, settings: &Settings) {
        // Without the thread nobody takes it, which was told.
        let _ = self.jobs.send(settings.clone());
    }
}

fn work(jobs: &Receiver<Settings>, names: &Mutex<()>) {
    while let Ok(settings) = jobs.recv() {
        for age in (1..=settings.log.keep).rev() {
            if let Err(error) = compress(&settings, age, names) {
                let path = settings.log.rotated(age);
                tracing::warn!("cannot compress {}: {error}", path.display());
            }
        }
    }
}

fn compress(settings: &Settings, age: u32, names: &Mutex<()>) -> io::Result<()> {
    let path = settings.log.rotated(age);
    let owner = settings.owner.as_ref();
    let held = names.lock().unwrap_or_else(PoisonError::into_inner);
    if fs::symlink_metadata(&path).is_err() {
        return Ok(());
    }
    let mut from = open::to_read(&path, owner)?;
    let place = open::log_of(&path, owner)?;
    let found = from.metadata()?;
    if os::identity(&found) != os::identity(&place.file.metadata()?) {
        return Err(io::Error::other("something else has renamed it"));
    }
    drop(held);
    let file_name = settings
        .log
        .path()
        .and_then(Path::file_name)
        .unwrap_or_default();
    let name = CString::new(file_name.as_bytes())?;
    let new = CString::new([name.as_bytes(), b".gz.new"].concat())?;
    let to = place.in_directory(|dir, _| create(dir, &new))??;
    // Where that is not allowed, it is the user's already, or nobody's.
    let _ = fchown(&to, Some(found.uid()), Some(found.gid()));
    let builder = GzBuilder::new().comment(FileId::of(&found).to_text());
    let mut encoder = builder.write(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish()?;
    let _held = names.lock().unwrap_or_else(PoisonError::into_inner);
    let keep = settings.log.keep;
    place.in_directory(|dir, _| put(dir, &name, &new, keep, os::identity(&found)))?
}

fn create(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    remove(dir, name)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::from_bits_truncate(0o640))?.into())
}

/// Gives it the name of what it was made of, which may be older by now.
fn put(dir: BorrowedFd<'_>, name: &CStr, new: &CStr, keep: u32, id: (u64, u64)) -> io::Result<()> {
    for age in 1..=keep {
        let [plain, compressed] = rotated(name, age)?;
        let found = fstatat(dir, plain.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == id) {
            renameat(dir, new, dir, compressed.as_c_str())?;
            return remove(dir, &plain);
        }
    }
    // It was removed meanwhile.
    remove(dir, new)
}

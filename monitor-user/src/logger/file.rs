//! A log file and its rotated ones: `web.log`, `web.log.1` (the youngest), … `web.log.5`.
//!
//! Rotation renames from the oldest on, into the first gap. Each name is therefore free before a file
//! gets it, and a kill between two renames leaves a gap that the next rotation fills: no file is lost
//! but the oldest. A new file is in the record before the first byte is in it. A rotated file may be
//! compressed: `web.log.2.gz`.

use std::ffi::{CStr, CString};
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use jiff::{SignedDuration, Timestamp};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::compress::Compressor;
use super::output_dir::Settings;
use super::record::{Record, RecordFile};
use crate::os;
use crate::os::open::{self, OpenLog};

/// The file that is written to.
#[derive(Debug, Default)]
pub(super) struct FileLog {
    open: Option<OpenLog>,
    /// One was open before: then nothing of an earlier logger is left to put right.
    is_settled: bool,
    /// When the file was begun.
    born: Option<Timestamp>,
    /// It was told that it cannot be rotated.
    is_stuck: bool,
}

impl FileLog {
    /// Opens the file that is at the path now. From then on the record is true of it: what a killed
    /// logger had written beyond the record is cut off.
    ///
    /// # Errors
    /// It can be neither opened nor made, or the record not be written.
    pub(super) fn ready(
        &mut self,
        settings: &Settings,
        file: &RecordFile,
        record: &mut Record,
    ) -> io::Result<()> {
        let Some(path) = settings.log.path() else {
            return Err(io::Error::other("the log is not a file"));
        };
        if let Some(open) = &self.open {
            // Somebody may have moved or emptied it.
            let own = os::identity(&open.file.metadata()?);
            if let Ok(found) = fs::metadata(path)
                && os::identity(&found) == own
            {
                if found.len() == record.length {
                    return Ok(());
                }
                record.length = found.len();
                return file.commit(record);
            }
            self.open = None;
        }
        if !self.is_settled {
            cut_moved(settings, record)?;
        }
        let open = open::log_of(path, settings.owner.as_ref())?;
        let found = open.file.metadata()?;
        let (id, mut length) = (os::identity(&found), found.len());
        if record.log == Some(id) && !self.is_settled && length > record.length {
            open.file.set_len(record.length)?;
            length = record.length;
        }
        if (record.log, record.length) != (Some(id), length) {
            (record.log, record.length) = (Some(id), length);
            file.commit(record)?;
        }
        self.open = Some(open);
        self.born = born(&found);
        self.is_settled = true;
        Ok(())
    }

    /// Writes to the end of the file that is ready, which is so long.
    ///
    /// # Errors
    /// Not all of it could be written: the file is to be made ready by a new value.
    pub(super) fn write(&mut self, bytes: &[u8], length: u64) -> io::Result<()> {
        match &self.open {
            Some(open) => (&open.file).write_all(bytes).inspect_err(|_| {
                // A reader shall not see half of it for long. The next try does it if this fails.
                let _ = open.file.set_len(length);
            }),
            None => Err(io::Error::other("no log is open")),
        }
    }

    /// Whether the file that is ready has been written for long enough.
    pub(super) fn is_old(&self, settings: &Settings, now: Timestamp) -> bool {
        let age = settings
            .log
            .max_age
            .and_then(|age| SignedDuration::try_from(age).ok());
        let age = age.zip(self.born);
        age.is_some_and(|(age, born)| now.duration_since(born) >= age)
    }

    /// Puts the file that is ready aside. `false`: that cannot be done, which was told.
    pub(super) fn rotate(&mut self, settings: &Settings, compressor: &Compressor) -> bool {
        let Some(open) = &self.open else {
            return false;
        };
        let keep = settings.log.keep;
        let names = compressor.names();
        let renamed = open.in_directory(|dir, name| match keep {
            // Those of a time when some were kept would seem to be what comes before this one.
            0 => remove_older(dir, name, 1)
                .and_then(|()| Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?)),
            _ => shift(dir, name, keep),
        });
        drop(names);
        match renamed.and_then(|renamed| renamed) {
            Ok(()) => {
                if settings.log.compress && keep > 0 {
                    compressor.compress(settings);
                }
                self.open = None;
                self.is_stuck = false;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_stuck, true) {
                    let path = settings.log.name();
                    tracing::warn!("cannot rotate {path}, which grows on: {error}");
                }
                false
            }
        }
    }
}

/// The file that the record is of may have been put aside by a logger that was killed after that, or by
/// somebody else.
fn cut_moved(settings: &Settings, record: &Record) -> io::Result<()> {
    let path = settings.log.rotated(1);
    let is_it = |found: &fs::Metadata| record.log == Some(os::identity(found));
    if !fs::symlink_metadata(&path).is_ok_and(|found| is_it(&found)) {
        return Ok(());
    }
    let moved = open::log_of(&path, settings.owner.as_ref())?;
    let found = moved.file.metadata()?;
    if is_it(&found) && found.len() > record.length {
        moved.file.set_len(record.length)?;
    }
    Ok(())
}

/// Some file systems do not know, and then it is the last change.
fn born(found: &Metadata) -> Option<Timestamp> {
    let born = found.created().or_else(|_| found.modified()).ok()?;
    Timestamp::try_from(born).ok()
}

/// The names that a rotated file may have.
pub(super) fn rotated(name: &CStr, age: u32) -> io::Result<[CString; 2]> {
    let plain = [name.to_bytes(), format!(".{age}").as_bytes()].concat();
    let compressed = [&plain, b".gz".as_slice()].concat();
    Ok([CString::new(plain)?, CString::new(compressed)?])
}

/// Whether there is one of an age.
fn is_there(dir: BorrowedFd<'_>, name: &CStr, age: u32) -> io::Result<bool> {
    for name in rotated(name, age)? {
        match fstatat(dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(true),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Removes one, if it is there.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(error) if error != Errno::ENOENT => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes those of this age and more, as far as there is no gap.
fn remove_older(dir: BorrowedFd<'_>, name: &CStr, mut age: u32) -> io::Result<()> {
    while is_there(dir, name, age)? {
        for name in rotated(name, age)? {
            remove(dir, &name)?;
        }
        age += 1;
    }
    Ok(())
}

/// Makes each file one older, as far as there is no gap.
fn shift(dir: BorrowedFd<'_>, name: &CStr, keep: u32) -> io::Result<()> {
    let mut gap = 1;
    while gap < keep && is_there(dir, name, gap)? {
        gap += 1;
    }
    // The oldest goes, and with it what is left of a time when more were kept.
    if gap == keep {
        remove_older(dir, name, keep)?;
    }
    for age in (1..gap).rev() {
        for (from, to) in rotated(name, age)?.iter().zip(&rotated(name, age + 1)?) {
            match renameat(dir, from.as_c_str(), dir, to.as_c_str()) {
                Err(error) if error != Errno::ENOENT => return Err(error.into()),
                _ => {}
            }
        }
    }
    let [first, _] = rotated(name, 1)?;
    Ok(renameat(dir, name, dir, first.as_c_str())?)
}

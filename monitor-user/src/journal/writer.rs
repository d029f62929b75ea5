//! The writing side: whole lines at the end of the file, and a new file in time.
//!
//! Holds up nobody: one `write(2)` for each event, no `fsync`. What cannot be written is counted,
//! and told in the journal itself as soon as that can be written again.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Entry, current_path, older_path};
use crate::os::proc;
use crate::text;

/// How much is read at first of the end of a file, to find its last good line.
const TAIL: u64 = 16 * 1024;

/// The journal of the one agent that writes it.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    /// A file that would grow beyond this is put aside first.
    max_file_size: u64,
    /// Who may read it beside its owner.
    group: Option<u32>,
    file: File,
    /// The number of the last line.
    seq: u64,
    /// The file does not end with a newline.
    torn: bool,
    /// Events that could not be written, and have not been told of.
    unwritten: u64,
    buffer: Vec<u8>,
    /// Of this boot, if it can be read.
    boot_id: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    #[serde(flatten)]
    entry: &'a Entry,
    /// When it happened, on a clock that nobody sets, ...
    since_boot_ns: u64,
    /// ... which begins at each boot.
    boot_id: Option<&'a str>,
}

impl Journal {
    /// Opens the journal in `runtime_dir`, or begins one there, of at most `max_size` bytes.
    /// Its files have mode 0600, or 0640 with `group`. A file in its place that is no journal, or
    /// nothing but damage, is put aside.
    ///
    /// # Errors
    /// No such directory; something that is not a file is in the journal's place; no right to it.
    pub(crate) fn open(runtime_dir: &Path, max_size: u64, group: Option<u32>) -> Result<Self> {
        let path = current_path(runtime_dir);
        for path in super::paths(runtime_dir) {
            put_aside_if_foreign(&path)?;
        }
        let (file, end) = open_file(&path, true, group)
            .and_then(|mut file| read_end(&mut file).map(|end| (file, end)))
            .with_context(|| format!("cannot open the journal {}", path.display()))?;
        // Without the older file, only its lines are missing.
        let older = open_file(&older_path(runtime_dir), false, group);
        let seq = end
            .seq
            .or_else(|| read_end(&mut older.ok()?).ok()?.seq)
            .unwrap_or(0);
        Ok(Self {
            dir: runtime_dir.to_owned(),
            max_file_size: max_size / 2,
            group,
            file,
            seq,
            torn: end.torn,
            unwritten: 0,
            buffer: Vec::new(),
            boot_id: proc::boot_id().ok(),
        })
    }

    /// So much of an instance's output may go with its exit: written out, a byte may take six, and an
    /// event should not be what a file is full of.
    pub(crate) fn most_output(&self) -> u64 {
        self.max_file_size / 16
    }

    /// Keeps to another size from the next event on, and lets another group read at once.
    pub(crate) fn reconfigure(&mut self, max_size: u64, group: Option<u32>) {
        self.max_file_size = max_size / 2;
        self.group = group;
        let_read(&self.file, &current_path(&self.dir), group);
        let older = older_path(&self.dir);
        match open_file(&older, false, group) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => warn(&older, group, &error),
            _ => {}
        }
    }

    /// Appends one event.
    ///
    /// # Errors
    /// It is not written, and counted: the next one that is comes after a `journal_gap`.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let appended = self.tell_gap(entry).and_then(|()| self.append_one(entry));
        if appended.is_err() {
            self.unwritten += 1;
        }
        appended
    }

    /// Begins the file again, if somebody has removed it or taken it away; its lines are lost.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn make_again(&mut self) -> io::Result<()> {
        let path = current_path(&self.dir);
        let own = self.file.metadata()?;
        let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == (own.dev(), own.ino());
        if fs::symlink_metadata(&path).is_ok_and(is_it) {
            return Ok(());
        }
        self.begin(&path)
    }

    /// The line of the event that was appended last, without its newlines.
    pub(crate) fn last_line(&self) -> &str {
        let line = std::str::from_utf8(&self.buffer);
        line.map_or("", str::trim_ascii)
    }

    fn tell_gap(&mut self, before: &Entry) -> io::Result<()> {
        if self.unwritten > 0 {
            self.append_one(&Entry::gap(before.time(), self.unwritten))?;
            self.unwritten = 0;
        }
        Ok(())
    }

    fn append_one(&mut self, entry: &Entry) -> io::Result<()> {
        let seq = self.seq.saturating_add(1);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        // Ends a torn line, where there is one.
        buffer.push(b'\n');
        buffer.extend_from_slice(
            text::json(&Line {
                seq,
                entry,
                since_boot_ns: entry.since_boot_ns().unwrap_or_else(proc::since_boot_ns),
                boot_id: self.boot_id.as_deref(),
            })?
            .as_bytes(),
        );
        buffer.push(b'\n');
        let appended = self
            .make_room(buffer.len())
            .and_then(|()| self.write(seq, &buffer));
        self.buffer = buffer;
        appended
    }

    /// Sees to it that so many bytes fit in the file: puts it aside and begins a new one if not.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let file = self.file.metadata()?;
        let is_full = file.len() > 0
            && file
                .len()
                .saturating_add(bytes.try_into().unwrap_or(u64::MAX))
                > self.max_file_size;
        let is_removed = file.nlink() == 0;
        if !is_full && !is_removed {
            return Ok(());
        }
        let path = current_path(&self.dir);
        if is_full && !is_removed {
            match fs::rename(&path, older_path(&self.dir)) {
                // It was put aside before, and no new one could be begun then.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        self.begin(&path)
    }

    fn begin(&mut self, path: &Path) -> io::Result<()> {
        let mut file = open_file(path, true, self.group)?;
        self.torn = read_end(&mut file)?.torn;
        self.file = file;
        Ok(())
    }

    /// Writes the line with number `seq`, which in `buffer` comes after one newline.
    fn write(&mut self, seq: u64, buffer: &[u8]) -> io::Result<()> {
        let skipped = usize::from(!self.torn);
        let written = loop {
            match (&self.file).write(&buffer[skipped..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written?,
            }
        };
        let end = skipped + written;
        if let Some(last) = buffer[skipped..end].last() {
            self.torn = *last != b'\n';
        }
        // A part of a line may be all of it but the newline: its number is used up.
        if end > 1 {
            self.seq = seq;
        }
        if end < buffer.len() {
            let message = "the disk took a part of the line only";
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        Ok(())
    }
}

/// Puts a file out of the way, under a name that is free, in which not a single line is a journal's.
fn put_aside_if_foreign(path: &Path) -> Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0);
    if !is_file || read_end(&mut File::open(path)?)?.seq.is_some() {
        return Ok(());
    }
    let aside = (1..=u32::MAX)
        .map(|number| path.with_file_name(format!("not-a-journal.{number}")))
        .find(|aside| fs::symlink_metadata(aside).is_err())
        .unwrap_or_else(|| path.to_owned());
    fs::rename(path, &aside)
        .with_context(|| format!("cannot move {} out of the way", path.display()))?;
    tracing::warn!(
        "{} was no journal of respawn's: it is {} now",
        path.display(),
        aside.display()
    );
    Ok(())
}

/// Opens a file of the journal, and sets who may read it.
fn open_file(path: &Path, create: bool, group: Option<u32>) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(create)
        .mode(0o600)
        // A FIFO is an error, and not waited for.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        let message = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let_read(&file, path, group);
    Ok(file)
}

/// Lets the group read, and nobody else but the owner; where that fails, it is told.
fn let_read(file: &File, path: &Path, group: Option<u32>) {
    if let Err(error) = set_readers(file, group) {
        warn(path, group, &error);
    }
}

fn warn(path: &Path, group: Option<u32>, error: &io::Error) {
    tracing::warn!(path = %path.display(), group, %error, "cannot set who may read the journal");
}

fn set_readers(file: &File, group: Option<u32>) -> io::Result<()> {
    if group.is_some() {
        // First, so that the mode never opens it to the group that it had before.
        fchown(file, None, group)?;
    }
    let mode = if group.is_some() { 0o640 } else { 0o600 };
    file.set_permissions(Permissions::from_mode(mode))
}

/// How a file ends.
#[derive(Debug, Default, PartialEq, Eq)]
struct End {
    /// The number of its last good line.
    seq: Option<u64>,
    /// Whether its last byte is something else than a newline.
    torn: bool,
}

/// Reads as much of the file's end as it takes to find a good line.
fn read_end(file: &mut File) -> io::Result<End> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
        #[serde(rename = "event")]
        _event: String,
    }
    let length = file.metadata()?.len();
    let mut wanted = TAIL;
    loop {
        let start = length.saturating_sub(wanted);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.take(wanted).read_to_end(&mut bytes)?;
        let mut lines = bytes.split(|&byte| byte == b'\n');
        if start > 0 {
            // It may have begun before.
            lines.next();
        }
        // A torn line that lacks nothing but its newline gets that, and counts.
        let seq = lines
            .rev()
            .find_map(|line| serde_json::from_slice::<Numbered>(line).ok())
            .map(|line| line.seq);
        if seq.is_some() || start == 0 {
            let torn = bytes.last().is_some_and(|&last| last != b'\n');
            return Ok(End { seq, torn });
        }
        wanted = wanted.saturating_mul(4);
    }
}

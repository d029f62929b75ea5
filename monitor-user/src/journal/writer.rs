//! The writing side: whole lines at the end of a file, and a new file in time.
//!
//! Holds up nobody: one `write(2)` for each event, no `fsync`. What cannot be written is counted,
//! and told in the journal itself as soon as that can be written again.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::JournalPart;
use super::cursor::{Cursor, new_series};
use super::shares::Shares;
use crate::model::{Event, Source, Stamp, What, or_default};
use crate::os::{self, proc};
use crate::text;

/// How much is read at first of the end of a file, to find its last good line.
const TAIL: u64 = 16 * 1024;

/// A service that has filled so much of the journal's file has its next events elsewhere.
const SHARE: u64 = 4;

/// The journal of the one agent that writes it.
#[derive(Debug)]
pub(crate) struct Journal {
    /// What most events go to.
    journal: Log,
    /// What is of services that have used their share of that.
    busy: Log,
    /// How much of the journal's file is whose; known as soon as that is large enough to matter.
    shares: Option<Shares>,
    /// The number of the last line.
    seq: u64,
    /// Events that could not be written, and have not been told of.
    unwritten: u64,
    buffer: Vec<u8>,
    numbering: Numbering,
}

/// What the lines of one writer have in common.
#[derive(Debug)]
pub(super) struct Numbering {
    /// Of this boot, if it can be read.
    pub(super) boot_id: Option<String>,
    /// The host's name, if it can be read.
    host: Option<String>,
    /// For cursors.
    series: u32,
}

/// A file that is put aside when it is full.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    older: PathBuf,
    /// A file that would grow beyond this is put aside first.
    max_size: u64,
    /// Who may read it beside its owner.
    group: Option<u32>,
    /// `None`: nothing was to be written so far.
    file: Option<File>,
    /// The file does not end with a newline.
    torn: bool,
}

impl Journal {
    /// Opens the journal in `runtime_dir`, or begins one there, of at most `max_size` bytes.
    /// Its files have mode 0600, or 0640 with `group`. A file in its place that is no journal, or
    /// nothing but damage, is put aside.
    ///
    /// # Errors
    /// No such directory; something that is not a file is in the journal's place; no right to it.
    pub(crate) fn open(runtime_dir: &Path, max_size: u64, group: Option<u32>) -> Result<Self> {
        for path in super::paths(runtime_dir) {
            put_aside_if_foreign(&path)?;
        }
        let open = |place: JournalPart, create| {
            Log::open(place.paths(runtime_dir), of_all(max_size), group, create)
        };
        let (journal, last) = open(JournalPart::Journal, true)?;
        let (busy, last_of_busy) = open(JournalPart::Busy, false)?;
        let last = last.into_iter().chain(last_of_busy);
        let last = last.max_by_key(|last| last.seq);
        Ok(Self {
            numbering: Numbering::after(last.as_ref()),
            journal,
            busy,
            shares: None,
            seq: last.map_or(0, |last| last.seq),
            unwritten: 0,
            buffer: Vec::new(),
        })
    }

    /// So much of an instance's output may go with its exit: written out, a byte may take six, and an
    /// event should not be what a file is full of.
    pub(crate) fn most_output(&self) -> u64 {
        self.journal.max_size / 16
    }

    /// Keeps to another size from the next event on, and lets another group read at once.
    pub(crate) fn reconfigure(&mut self, max_size: u64, group: Option<u32>) {
        self.journal.reconfigure(of_all(max_size), group);
        self.busy.reconfigure(of_all(max_size), group);
    }

    /// Appends one event, and gives it its number.
    ///
    /// # Errors
    /// It is not written, has no number, and is counted: the next one that is written comes after a
    /// `journal_gap`.
    pub(crate) fn append(&mut self, event: &mut Event) -> io::Result<()> {
        let appended = self.tell_gap(event).and_then(|()| self.append_one(event));
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
        if !self.journal.is_in_place()? {
            self.journal.begin()?;
            self.shares = None;
        }
        Ok(())
    }

    /// The line of the event that was appended last, without its newlines.
    pub(crate) fn last_line(&self) -> &str {
        let line = std::str::from_utf8(&self.buffer);
        line.map_or("", str::trim_ascii)
    }

    fn tell_gap(&mut self, before: &Event) -> io::Result<()> {
        if self.unwritten > 0 {
            let count = self.unwritten;
            let mut gap = Event {
                service: None,
                ..beside(before, What::JournalGap { count })
            };
            self.append_to(JournalPart::Journal, &mut gap)?;
            self.unwritten = 0;
        }
        Ok(())
    }

    fn append_one(&mut self, event: &mut Event) -> io::Result<()> {
        let Some(service) = &event.service else {
            return self.append_to(JournalPart::Journal, event);
        };
        let Some(is_told) = self.has_used_its_share(service) else {
            return self.append_to(JournalPart::Journal, event);
        };
        if !is_told {
            let service = service.clone();
            self.append_to(JournalPart::Journal, &mut beside(event, What::JournalShare))?;
            if let Some(shares) = &mut self.shares {
                shares.tell(&service);
            }
        }
        self.append_to(JournalPart::Busy, event)
    }

    /// Whether the journal tells that a service has used its share of the file, if it has.
    fn has_used_its_share(&mut self, service: &str) -> Option<bool> {
        let share = self.journal.max_size / SHARE;
        let shares = match &mut self.shares {
            Some(shares) => shares,
            none => {
                let file = self.journal.file.as_ref()?;
                if file.metadata().ok()?.len() < share {
                    return None;
                }
                // What cannot be counted has not been used.
                none.insert(Shares::of(file).ok()?)
            }
        };
        let has_used = shares.has_used(service, share);
        has_used.then(|| shares.is_told(service))
    }

    fn append_to(&mut self, place: JournalPart, event: &mut Event) -> io::Result<()> {
        let seq = self.seq.saturating_add(1);
        let since_boot_ns = event
            .exit_since_boot_ns()
            .unwrap_or_else(proc::since_boot_ns);
        event.stamp = Some(self.numbering.stamp(seq, since_boot_ns));
        let appended = self.append_numbered(place, seq, event);
        if appended.is_err() {
            event.stamp = None;
        }
        appended
    }

    fn append_numbered(&mut self, place: JournalPart, seq: u64, event: &Event) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        frame(&mut buffer, event)?;
        let appended = self.write(place, seq, &buffer);
        if place == JournalPart::Journal
            && let (Some(shares), Some(service)) = (&mut self.shares, &event.service)
        {
            shares.add(service, buffer.len() - 1);
        }
        self.buffer = buffer;
        appended
    }

    fn write(&mut self, place: JournalPart, seq: u64, buffer: &[u8]) -> io::Result<()> {
        let log = match place {
            JournalPart::Journal => &mut self.journal,
            JournalPart::Busy => &mut self.busy,
        };
        if log.make_room(buffer.len())? && place == JournalPart::Journal {
            self.shares = None;
        }
        let (is_used, written) = log.write(buffer);
        // A part of a line may be all of it but the newline: its number is used up.
        if is_used {
            self.seq = seq;
        }
        written
    }
}

impl Log {
    /// With it, its last line. `max_size` is that of one file.
    pub(super) fn open(
        [path, older]: [PathBuf; 2],
        max_size: u64,
        group: Option<u32>,
        create: bool,
    ) -> Result<(Self, Option<Numbered>)> {
        let opened = match open_file(&path, create, group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => None,
            opened => Some(
                opened
                    .and_then(|mut file| read_end(&mut file).map(|end| (file, end)))
                    .with_context(|| format!("cannot open the journal {}", path.display()))?,
            ),
        };
        let (file, end) = opened.map_or((None, End::default()), |(file, end)| (Some(file), end));
        // Without the older file, only its lines are missing.
        let of_older = open_file(&older, false, group);
        let last = end
            .last
            .or_else(|| read_end(&mut of_older.ok()?).ok()?.last);
        let log = Self {
            path,
            older,
            max_size,
            group,
            file,
            torn: end.torn,
        };
        Ok((log, last))
    }

    fn reconfigure(&mut self, max_size: u64, group: Option<u32>) {
        self.max_size = max_size;
        self.group = group;
        if let Some(file) = &self.file {
            let_read(file, &self.path, group);
        }
        match open_file(&self.older, false, group) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn(&self.older, group, &error);
            }
            _ => {}
        }
    }

    /// The last good line, if it can be read as that.
    pub(super) fn last_line<T: DeserializeOwned>(&self) -> Option<T> {
        let current = self
            .file
            .as_ref()
            .and_then(|mut file| find_last(&mut file).ok()?.0);
        let of_older = || {
            find_last(&mut &open_file(&self.older, false, self.group).ok()?)
                .ok()?
                .0
        };
        current.or_else(of_older)
    }

    /// Whether its name leads to the file that is written to.
    fn is_in_place(&self) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let own = os::identity(&file.metadata()?);
        Ok(fs::symlink_metadata(&self.path).is_ok_and(|found| os::identity(&found) == own))
    }

    /// Sees to it that so many bytes fit in the file: puts it aside and begins a new one if not.
    /// `true`: it did.
    pub(super) fn make_room(&mut self, bytes: usize) -> io::Result<bool> {
        let Some(file) = &self.file else {
            self.begin()?;
            return Ok(true);
        };
        let file = file.metadata()?;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let is_full = file.len() > 0 && file.len().saturating_add(bytes) > self.max_size;
        let is_removed = file.nlink() == 0;
        if !is_full && !is_removed {
            return Ok(false);
        }
        if is_full && !is_removed {
            match fs::rename(&self.path, &self.older) {
                // It was put aside before, and no new one could be begun then.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        self.begin()?;
        Ok(true)
    }

    fn begin(&mut self) -> io::Result<()> {
        let mut file = open_file(&self.path, true, self.group)?;
        self.torn = read_end(&mut file)?.torn;
        self.file = Some(file);
        Ok(())
    }

    /// Writes a line, which in `buffer` comes after one newline; whether its number is used.
    pub(super) fn write(&mut self, buffer: &[u8]) -> (bool, io::Result<()>) {
        let Some(mut file) = self.file.as_ref() else {
            return (false, Err(io::ErrorKind::NotFound.into()));
        };
        let skipped = usize::from(!self.torn);
        let written = loop {
            match file.write(&buffer[skipped..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (false, Err(error)),
                Ok(written) => break written,
            }
        };
        let end = skipped + written;
        if let Some(last) = buffer[skipped..end].last() {
            self.torn = *last != b'\n';
        }
        let message = "the disk took a part of the line only";
        let is_whole = end == buffer.len();
        let error = || io::Error::new(io::ErrorKind::StorageFull, message);
        (end > 1, is_whole.then_some(()).ok_or_else(error))
    }
}

/// An event of the journal's own, at the time of another one and about the same service.
fn beside(event: &Event, what: What) -> Event {
    Event {
        stamp: None,
        time: event.time,
        service: event.service.clone(),
        what,
    }
}

/// Writes a line into the buffer, after a newline that ends a torn line, where there is one.
pub(super) fn frame(buffer: &mut Vec<u8>, line: &impl Serialize) -> io::Result<()> {
    buffer.clear();
    buffer.push(b'\n');
    buffer.extend_from_slice(text::json(line)?.as_bytes());
    buffer.push(b'\n');
    Ok(())
}

/// The size of one file, of four.
fn of_all(max_size: u64) -> u64 {
    max_size / 4
}

/// Puts a file out of the way, under a name that is free, in which not a single line is a journal's.
pub(super) fn put_aside_if_foreign(path: &Path) -> Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0);
    if !is_file || read_end(&mut File::open(path)?)?.last.is_some() {
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
#[derive(Debug, Default)]
struct End {
    /// Its last good line.
    last: Option<Numbered>,
    /// Whether its last byte is something else than a newline.
    torn: bool,
}

/// What the next line needs to know of the one before it.
#[derive(Debug, Deserialize)]
pub(super) struct Numbered {
    pub(super) seq: u64,
    #[serde(rename = "event")]
    _event: String,
    #[serde(default, deserialize_with = "or_default")]
    boot_id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    cursor: Option<String>,
}

impl Numbering {
    /// That of a writer that goes on after that line.
    pub(super) fn after(last: Option<&Numbered>) -> Self {
        let boot_id = proc::boot_id().ok();
        Self {
            series: series_after(last, boot_id.as_deref()),
            boot_id,
            host: proc::host_name().ok(),
        }
    }

    /// For a line with that number, about that moment.
    pub(super) fn stamp(&self, seq: u64, since_boot_ns: u64) -> Stamp {
        let cursor = Cursor {
            seq,
            series: self.series,
            at_ns: since_boot_ns,
        };
        let source = Source {
            since_boot_ns: Some(since_boot_ns),
            boot_id: self.boot_id.clone(),
            host: self.host.clone(),
            cursor: Some(cursor.to_string()),
        };
        Stamp { seq, source }
    }
}

/// The numbering of what follows on that line in that boot. After a reboot it is another one: the last lines
/// may not have reached the disk, so that their numbers come again.
fn series_after(last: Option<&Numbered>, boot_id: Option<&str>) -> u32 {
    let is_same_boot = |last: &&Numbered| boot_id.is_some() && last.boot_id.as_deref() == boot_id;
    let cursor = last.filter(is_same_boot).and_then(|last| {
        let cursor = last.cursor.as_ref()?;
        cursor.parse::<Cursor>().ok()
    });
    cursor.map_or_else(new_series, |cursor| cursor.series)
}

/// Reads as much of the file's end as it takes to find a good line.
fn read_end(file: &mut File) -> io::Result<End> {
    let (last, torn) = find_last(&mut &*file)?;
    Ok(End { last, torn })
}

/// The last line of a file that can be read as that, and whether its last byte is no newline.
fn find_last<T: DeserializeOwned>(file: &mut &File) -> io::Result<(Option<T>, bool)> {
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
        let line = lines
            .rev()
            .find_map(|line| serde_json::from_slice(line).ok());
        if line.is_some() || start == 0 {
            let torn = bytes.last().is_some_and(|&last| last != b'\n');
            return Ok((line, torn));
        }
        wanted = wanted.saturating_mul(4);
    }
}

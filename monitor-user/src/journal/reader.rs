//! The reading side: every event once, oldest first, from all files and what becomes of them.
//!
//! Needs no agent, and never writes. Which file follows on which is told by the files' identity
//! while they are held open, so that nothing is read twice whatever is renamed meanwhile.
//!
//! ```text
//! held: [journal.1] journal     read to the end, then let go of
//!                   ▲
//!                   └── its name leads to another file: that one, or the two that are new, follow
//! ```
//!
//! The same of `journal.busy`; of both the line with the lower number comes first. And the same of the
//! deaths that a recorder keeps, in `deaths` and `deaths.1`.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::Value;

use super::{Cursor, JournalPart};
use crate::clock::WallClock;
use crate::control::rights::{self, Access};
use crate::model::{Event, Source};
use crate::os::{self, proc, progress};

/// Longer lines are damage: the writer's are far shorter.
const LONGEST_LINE: usize = 1 << 20;

/// The file that a recorder writes to.
pub(super) const DEATHS: &str = "deaths";

/// What is read, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Journal,
    Deaths,
}

impl Content {
    fn words(self) -> &'static str {
        match self {
            Self::Journal => "the journal",
            Self::Deaths => "the recorded deaths",
        }
    }

    /// Who lets others read it.
    fn access(self) -> &'static Access {
        match self {
            Self::Journal => &rights::READ,
            Self::Deaths => &rights::READ_DEATHS,
        }
    }
}

/// The journal from its oldest line on. New lines may come at any time.
pub(crate) struct Reader {
    journal: Stream,
    /// Of an agent only.
    busy: Option<Stream>,
    last_seq: Option<u64>,
    /// Damaged lines since the last good one.
    damaged_since: u64,
    damaged: u64,
    missed: u64,
}

/// One event, and how it was written: unknown keys and all.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JournalLine {
    /// The line without its newline.
    pub(crate) text: String,
    /// The same, read.
    pub(crate) event: Event,
}

impl JournalLine {
    /// Reads a line; `None` if it is no event.
    pub(crate) fn parse(text: String) -> Option<Self> {
        let event = text.parse().ok()?;
        Some(Self { text, event })
    }

    /// When it happened, by the clock as it is set now: so it is right how long ago that was,
    /// whatever the clock was then.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        static BOOT_ID: LazyLock<Option<String>> = LazyLock::new(|| proc::boot_id().ok());
        let boot = self.event.stamp.as_ref().map(|stamp| &stamp.source);
        let is_this_boot = |boot: &&Source| boot.boot_id.is_some() && boot.boot_id == *BOOT_ID;
        let since_boot = boot
            .filter(is_this_boot)
            .and_then(|boot| boot.since_boot_ns);
        let since_boot = since_boot.map(Duration::from_nanos);
        Some(WallClock::read().corrected(self.event.time?, since_boot))
    }

    /// All its keys, as they were written.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Its place among all, if it has one.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        let source = &self.event.stamp.as_ref()?.source;
        source.cursor.as_ref()?.parse().ok()
    }

    /// Which service it is about.
    pub(crate) fn service(&self) -> Option<&str> {
        self.event.service.as_deref()
    }
}

impl Reader {
    /// Opens what there is of a journal in `runtime_dir`: maybe nothing, yet.
    ///
    /// # Errors
    /// No right to read it; something that is not a file is in its place.
    pub(crate) fn open(runtime_dir: &Path) -> Result<Self> {
        let open = |place: JournalPart| Stream::open(place.paths(runtime_dir), Content::Journal);
        Ok(Self::of(
            open(JournalPart::Journal)?,
            Some(open(JournalPart::Busy)?),
        ))
    }

    /// Opens what there is of the deaths that a recorder has kept in `dir`.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub(crate) fn of_deaths(dir: &Path) -> Result<Self> {
        let deaths = Stream::open(super::paths_of(DEATHS, dir), Content::Deaths)?;
        Ok(Self::of(deaths, None))
    }

    fn of(journal: Stream, busy: Option<Stream>) -> Self {
        Self {
            journal,
            busy,
            last_seq: None,
            damaged_since: 0,
            damaged: 0,
            missed: 0,
        }
    }

    /// Whether there is no journal so far.
    pub(crate) fn is_missing(&self) -> bool {
        let is_empty = |stream: &Stream| stream.files.is_empty();
        is_empty(&self.journal) && self.busy.as_ref().is_none_or(is_empty)
    }

    /// The next event; `None` if there is none at the moment.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<JournalLine>> {
        // An agent reads all of it at its start.
        progress::count();
        let Self { journal, busy, .. } = self;
        let mut damaged = journal.look_ahead()?;
        let mut earlier = None;
        if let Some(busy) = busy {
            damaged += busy.look_ahead()?;
            // What was written before the line that is there now can be read by now.
            if busy.ahead.is_some() {
                damaged += journal.look_ahead()?;
            }
            earlier = match (journal.number(), busy.number()) {
                (Some(first), Some(second)) if second < first => busy.ahead.take(),
                (None, Some(_)) => busy.ahead.take(),
                _ => None,
            };
        }
        let next = earlier.or_else(|| journal.ahead.take());
        self.damaged += damaged;
        self.damaged_since += damaged;
        if let Some(line) = &next {
            self.count(line);
        }
        Ok(next)
    }

    /// Lines that were no events, so far. A torn last line is not among them.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Events missed since this was asked last: their file was gone before it could be read.
    pub(crate) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// What was read so far counts as read before, up to the line with that number.
    pub(super) fn begin_after(&mut self, seq: u64) {
        self.last_seq = Some(seq);
        self.missed = 0;
        self.damaged = 0;
        self.damaged_since = 0;
    }

    fn count(&mut self, line: &JournalLine) {
        let damaged = std::mem::take(&mut self.damaged_since);
        let Some(seq) = line.event.seq() else {
            return;
        };
        if let Some(last) = self.last_seq.replace(seq) {
            let hole = seq.saturating_sub(last).saturating_sub(1);
            self.missed += hole.saturating_sub(damaged);
        }
    }
}

/// One file, and the one before it, and those that come after.
struct Stream {
    kind: Content,
    current: PathBuf,
    older: PathBuf,
    /// Oldest first; at the last one's end it is looked whether another one follows.
    files: VecDeque<OpenFile>,
    /// The next line, once it is read.
    ahead: Option<JournalLine>,
}

impl Stream {
    fn open([current, older]: [PathBuf; 2], kind: Content) -> Result<Self> {
        let files = open_both(&current, &older, kind)?;
        Ok(Self {
            kind,
            files: files.into_iter().flatten().collect(),
            current,
            older,
            ahead: None,
        })
    }

    /// The number of the line ahead; the lowest for one that has none.
    fn number(&self) -> Option<u64> {
        let line = self.ahead.as_ref()?;
        Some(line.event.seq().unwrap_or(0))
    }

    /// Reads the next line, unless that is done or there is none; returns how many damaged ones it
    /// came by.
    fn look_ahead(&mut self) -> Result<u64> {
        let mut damaged = 0;
        while self.ahead.is_none() {
            let path = &self.current;
            let what = self.kind.words();
            let cannot_read = || format!("cannot read {what} {}", path.display());
            let line = match self.files.front_mut() {
                Some(file) => file.next_line().with_context(cannot_read)?,
                None => None,
            };
            match line {
                Some(line) => {
                    self.ahead = String::from_utf8(line).ok().and_then(JournalLine::parse);
                    damaged += u64::from(self.ahead.is_none());
                }
                None if self.files.len() > 1 => damaged += self.finish_file(),
                None if self.find_newer()? => {}
                None => break,
            }
        }
        Ok(damaged)
    }

    /// Lets go of the oldest file: all of it is read, and no more comes. 1 if it ends with a part
    /// of a line.
    fn finish_file(&mut self) -> u64 {
        let file = self.files.pop_front();
        u64::from(file.is_some_and(|file| !file.unfinished.is_empty()))
    }

    /// Takes up the files that came after the last one that is held, if any did.
    fn find_newer(&mut self) -> Result<bool> {
        let held = self.files.back().map(|file| file.identity);
        let current = identity(&self.current)?;
        if current.is_none() || current == held {
            return Ok(false);
        }
        let [older, current] = open_both(&self.current, &self.older, self.kind)?;
        let newer = |file: &OpenFile| Some(file.identity) != held;
        let before = self.files.len();
        self.files.extend(older.filter(newer));
        self.files.extend(current.filter(newer));
        Ok(self.files.len() > before)
    }
}

fn identity(path: &Path) -> Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Ok(file) => Ok(Some(os::identity(&file))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}

/// Opens the older file and the current one that came right after it.
fn open_both(path: &Path, older: &Path, kind: Content) -> Result<[Option<OpenFile>; 2]> {
    loop {
        let current = OpenFile::open(path, kind)?;
        let older = OpenFile::open(older, kind)?;
        let [current_id, older_id] = [&current, &older].map(|file| Some(file.as_ref()?.identity));
        // Otherwise the files took their next names meanwhile.
        let is_settled = identity(path)? == current_id;
        if is_settled && (current_id.is_none() || current_id != older_id) {
            return Ok([older, current]);
        }
    }
}

struct OpenFile {
    identity: (u64, u64),
    reader: BufReader<File>,
    /// The begin of a line whose end has not come.
    unfinished: Vec<u8>,
    /// The line's begin was thrown away.
    too_long: bool,
}

impl OpenFile {
    fn open(path: &Path, kind: Content) -> Result<Option<Self>> {
        let what = kind.words();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let file = match opened {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let may = rights::who_may(path, kind.access());
                bail!(
                    "not allowed to read {what}: {} is for {may}",
                    path.display()
                )
            }
            opened => opened,
        };
        let (file, metadata) = file
            .and_then(|file| file.metadata().map(|metadata| (file, metadata)))
            .with_context(|| format!("cannot open {what} {}", path.display()))?;
        anyhow::ensure!(
            metadata.is_file(),
            "{}: expected {what}, found something that is not a regular file",
            path.display()
        );
        Ok(Some(Self {
            identity: os::identity(&metadata),
            reader: BufReader::with_capacity(64 * 1024, file),
            unfinished: Vec::new(),
            too_long: false,
        }))
    }

    /// The next line without its newline; `None` if it has not come to its end.
    /// Of a line that is too long for an event, nothing is left.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let room = LONGEST_LINE - self.unfinished.len();
            let room = u64::try_from(room).unwrap_or(u64::MAX);
            let reader = &mut self.reader;
            reader.take(room).read_until(b'\n', &mut self.unfinished)?;
            if self.unfinished.last() == Some(&b'\n') {
                self.unfinished.pop();
                let line = std::mem::take(&mut self.unfinished);
                let too_long = std::mem::take(&mut self.too_long);
                return Ok(Some(if too_long { Vec::new() } else { line }));
            }
            if self.unfinished.len() >= LONGEST_LINE {
                self.unfinished.clear();
                self.too_long = true;
            } else if !self.was_truncated()? {
                return Ok(None);
            }
        }
    }

    /// Begins again where someone has emptied the file in its place.
    fn was_truncated(&mut self) -> io::Result<bool> {
        let truncated = self.reader.get_ref().metadata()?.len() < self.reader.stream_position()?;
        if truncated {
            self.reader.rewind()?;
            self.unfinished.clear();
            self.too_long = false;
        }
        Ok(truncated)
    }
}

//! One service's output on its way from the FIFO to the log, such that a kill at any instruction neither
//! loses nor doubles a byte of it.
//!
//! ```text
//!   FIFO ──splice──▶ spool (even, odd, even, …) ──stamp──▶ log
//!                                                   │
//!                              record: turn, done, length of the log, carry
//! ```
//!
//! A turn takes what is in the FIFO, writes it to the log, and says so in the record:
//!
//! 1. It moves bytes into this turn's spool, which is empty. The kernel leaves each byte in one of the
//!    two: [`pipe::move_into`].
//! 2. It appends whole lines to the log. The rest, a line without end, is the carry.
//! 3. It commits a record with the next turn, the new length of the log, and the carry. From then on
//!    the spool counts for nothing, since the next turn has the other one.
//! 4. It empties the spool, which the turn after the next one needs.
//!
//! Where a file gets full, 2 and 3 come in pieces: then the record says how much of the spool is done.
//! Whoever begins, after a kill or an error, finds the record of the last piece. The log is cut to its
//! length, which undoes a 2 without its 3; the other spool is emptied, which makes up for a 4 that is
//! missing; then this turn's spool is written again from where the record says. The log has the order
//! of the FIFO, so a service's lines are in the order in which they were written.
//!
//! Against the host's own crash it does nothing: there is no fsync. What goes to no file is sent line by
//! line: see `message`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::compress::Compressor;
use super::file::FileLog;
use super::lines;
use super::message::Messages;
use super::output_dir::{OutputDir, Settings};
use super::record::{Record, RecordFile};
use crate::clock;
use crate::model::OnFull;
use crate::os::{self, pipe};

/// So much of one service is read before the next one has its turn.
const TURN: usize = 256 << 10;

/// So many turns are made at most for one that is no more: what leaves them over writes without end.
const MOST_TURNS: u32 = 256;

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// Something was written.
    Wrote,
    /// There was nothing.
    Empty,
    /// It was counted instead. The count is to be written when that is possible.
    Dropped,
}

/// One service.
#[derive(Debug)]
pub(super) struct Sink {
    place: OutputDir,
    service: String,
    settings: Settings,
    fifo: File,
    compressor: Arc<Compressor>,
    /// What it takes to write; `None`: it was silent so far, or there was an error.
    work: Option<Work>,
    /// The last error, if there was one since it was last well.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Work {
    file: RecordFile,
    record: Record,
    spools: [File; 2],
    /// So much is in the spool of this turn.
    spooled: u64,
    log: FileLog,
    messages: Messages,
    bytes: Vec<u8>,
    out: Vec<u8>,
}

impl Sink {
    /// Reads a service's FIFO from now on.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(
        place: &OutputDir,
        service: &str,
        settings: Settings,
        compressor: &Arc<Compressor>,
    ) -> io::Result<Self> {
        Ok(Self {
            place: place.clone(),
            service: service.to_owned(),
            settings,
            fifo: pipe::open(&place.fifo(service))?,
            compressor: Arc::clone(compressor),
            work: None,
            trouble: None,
        })
    }

    pub(super) fn fifo(&self) -> &File {
        &self.fifo
    }

    /// Whether the FIFO at the path is the one that is read.
    pub(super) fn has_current_fifo(&self) -> bool {
        let found = std::fs::symlink_metadata(self.place.fifo(&self.service));
        let own = self.fifo.metadata();
        matches!((found, own), (Ok(found), Ok(own)) if os::identity(&found) == os::identity(&own))
    }

    /// Goes on with other settings.
    pub(super) fn set(&mut self, settings: Settings) {
        if self.settings != settings {
            self.settings = settings;
            self.work = None;
        }
    }

    /// Whether an earlier logger has left something to be written.
    pub(super) fn has_rest(&self) -> bool {
        self.place.has_rest(&self.service)
    }

    /// Writes what there is, but not more than is fair. What cannot be written stays where it is, or is
    /// counted.
    ///
    /// # Errors
    /// It is to be tried again.
    pub(super) fn turn(&mut self) -> io::Result<Turned> {
        let turned = self.try_turn();
        match &turned {
            Ok(Turned::Dropped) => {}
            Ok(_) => {
                if let Some(trouble) = self.trouble.take() {
                    let path = self.settings.log.name();
                    tracing::info!(service = %self.service, "{path} is written again, after: {trouble}");
                }
            }
            Err(error) => {
                // What was begun is put right before the next try.
                self.work = None;
                let waits = "the output waits in the FIFO, and the service once that is full";
                self.tell(error, waits);
            }
        }
        turned
    }

    fn tell(&mut self, error: &io::Error, what_follows: &str) {
        let words = error.to_string();
        if self.trouble.as_ref() != Some(&words) {
            let path = self.settings.log.name();
            tracing::error!(service = %self.service, "cannot write {path}: {words}; {what_follows}");
            self.trouble = Some(words);
        }
    }

    fn try_turn(&mut self) -> io::Result<Turned> {
        let work = match &mut self.work {
            Some(work) => work,
            none => none.insert(Work::begin(&self.place, &self.service)?),
        };
        if work.spooled == 0 {
            let moved = pipe::move_into(work.spool(), 0, &self.fifo, TURN)?;
            work.spooled = u64::try_from(moved).unwrap_or(0);
        }
        if work.spooled == 0 && work.record.dropped == 0 {
            return Ok(Turned::Empty);
        }
        let written = match self.settings.log.path() {
            Some(_) => work.write(&self.settings, &self.compressor),
            None => work.send(&self.settings, &self.service),
        };
        match written {
            Err(error) if self.settings.log.on_full == OnFull::Drop => {
                self.tell(
                    &error,
                    "lines are dropped and counted until it can be written",
                );
                // Where the record cannot be written either, nothing is dropped.
                let mut work = Work::begin(&self.place, &self.service)?;
                work.drop_all()?;
                self.work = Some(work);
                Ok(Turned::Dropped)
            }
            written => {
                written?;
                work.give_back_memory();
                Ok(Turned::Wrote)
            }
        }
    }

    /// Writes all that there is, for the end of the logger.
    pub(super) fn drain(&mut self) {
        for _ in 0..MOST_TURNS {
            if !matches!(self.turn(), Ok(Turned::Wrote | Turned::Dropped)) {
                return;
            }
        }
    }

    /// Writes all that there is, for the end of the FIFO.
    pub(super) fn finish(&mut self) {
        self.drain();
        let has_carry = |work: &Work| !work.record.carry.is_empty();
        if self.work.as_ref().is_some_and(has_carry) {
            // There is room for it: the FIFO is empty.
            let _ = io::Write::write_all(&mut &self.fifo, lines::END);
            self.drain();
        }
    }

    /// Gives up what could not be written of a service that is no more. Returns how many lines that were.
    pub(super) fn give_up(&mut self) -> u64 {
        self.work = None;
        let path = self.settings.log.name();
        match self.count_rest() {
            Ok(0) => 0,
            Ok(lost) => {
                let lines = if lost == 1 { "line" } else { "lines" };
                tracing::error!(service = %self.service, "it is gone, and {lost} {lines} of its output are lost: {path} cannot be written");
                lost
            }
            Err(error) => {
                tracing::error!(service = %self.service, "it is gone, and it is not known whether some of its output is lost: {error}");
                0
            }
        }
    }

    /// Counts the lines that are not written, and lets them go.
    fn count_rest(&self) -> io::Result<u64> {
        let mut work = Work::begin(&self.place, &self.service)?;
        for _ in 0..MOST_TURNS {
            if work.spooled == 0 {
                let moved = pipe::move_into(work.spool(), 0, &self.fifo, TURN)?;
                work.spooled = u64::try_from(moved).unwrap_or(0);
            }
            if work.spooled == 0 {
                break;
            }
            work.drop_all()?;
        }
        // The last one may have no end.
        let half = u64::from(!work.record.carry.is_empty());
        Ok(work.record.dropped + half)
    }
}

impl Work {
    /// Finds out how far the last one has come.
    fn begin(place: &OutputDir, service: &str) -> io::Result<Self> {
        let (file, record) = RecordFile::open(&place.record(service))?;
        let spools = [
            open_spool(&place.spool(service, 0))?,
            open_spool(&place.spool(service, 1))?,
        ];
        let mut work = Self {
            file,
            record,
            spools,
            spooled: 0,
            log: FileLog::default(),
            messages: Messages::default(),
            bytes: Vec::new(),
            out: Vec::new(),
        };
        work.other_spool().set_len(0)?;
        work.spooled = work.spool().metadata()?.len();
        Ok(work)
    }

    fn spool(&self) -> &File {
        self.spool_of(self.record.turn)
    }

    fn other_spool(&self) -> &File {
        self.spool_of(self.record.turn + 1)
    }

    fn spool_of(&self, turn: u64) -> &File {
        let [even, odd] = &self.spools;
        if turn.is_multiple_of(2) { even } else { odd }
    }

    /// What of the spool is not done yet.
    fn rest(&mut self) -> io::Result<Vec<u8>> {
        let done = self.record.done;
        let rest = usize::try_from(self.spooled.saturating_sub(done)).unwrap_or(0);
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(rest, 0);
        self.spool().read_exact_at(&mut bytes, done)?;
        Ok(bytes)
    }

    /// Writes what is in the spool.
    fn write(&mut self, settings: &Settings, compressor: &Compressor) -> io::Result<()> {
        let bytes = self.rest()?;
        let now = clock::now();
        let stamp = match settings.log.timestamps {
            true => lines::stamp(now),
            false => String::new(),
        };
        self.log.ready(settings, &self.file, &mut self.record)?;
        if self.record.length > 0 && self.log.is_old(settings, now) {
            self.log.rotate(settings, compressor);
        }
        self.tell_dropped(settings, &stamp)?;
        let mut at = 0;
        let mut may_rotate = true;
        loop {
            self.log.ready(settings, &self.file, &mut self.record)?;
            let (length, max_size) = (self.record.length, settings.log.max_size);
            let (room, must) = match may_rotate {
                true => (max_size.saturating_sub(length), length == 0),
                false => (u64::MAX, true),
            };
            self.out.clear();
            let rest = bytes.get(at..).unwrap_or_default();
            let carry = &self.record.carry;
            let taken = lines::take(carry, rest, &stamp, room, must, &mut self.out);
            self.log.write(&self.out, length)?;
            at += taken.bytes;
            let left = bytes.get(at..).unwrap_or_default();
            self.commit(taken.bytes, taken.is_all, left)?;
            if taken.is_all {
                self.bytes = bytes;
                return Ok(());
            }
            may_rotate = self.log.rotate(settings, compressor);
        }
    }

    /// Sends what is in the spool.
    fn send(&mut self, settings: &Settings, service: &str) -> io::Result<()> {
        let bytes = self.rest()?;
        let now = clock::now();
        let target = &settings.log.target;
        let stamp = match settings.log.timestamps {
            true => lines::stamp(now),
            false => String::new(),
        };
        if self.record.dropped > 0 {
            let words = dropped_words(self.record.dropped);
            self.messages.send(target, service, words.as_bytes(), now)?;
            self.record.dropped = 0;
            self.file.commit(&mut self.record)?;
        }
        let mut at = 0;
        loop {
            self.out.clear();
            let rest = bytes.get(at..).unwrap_or_default();
            let carry = &self.record.carry;
            // There is room for one line alone.
            let taken = lines::take(carry, rest, &stamp, 0, true, &mut self.out);
            if !self.out.is_empty() {
                self.messages.send(target, service, &self.out, now)?;
                self.out.clear();
            }
            at += taken.bytes;
            let left = bytes.get(at..).unwrap_or_default();
            self.commit(taken.bytes, taken.is_all, left)?;
            if taken.is_all {
                self.bytes = bytes;
                return Ok(());
            }
        }
    }

    /// A service that writes a little needs little.
    fn give_back_memory(&mut self) {
        const LITTLE: usize = 16 << 10;
        if self.bytes.len() < LITTLE {
            self.bytes.shrink_to(LITTLE);
            self.out.shrink_to(LITTLE);
        }
    }

    /// Writes how many lines could not be written.
    fn tell_dropped(&mut self, settings: &Settings, stamp: &str) -> io::Result<()> {
        let dropped = self.record.dropped;
        if dropped == 0 {
            return Ok(());
        }
        self.log.ready(settings, &self.file, &mut self.record)?;
        let line = format!("{stamp}{}", dropped_words(dropped));
        self.log.write(line.as_bytes(), self.record.length)?;
        self.record.length += line.len() as u64;
        self.record.dropped = 0;
        self.file.commit(&mut self.record)
    }

    /// Counts the lines in the spool, and lets them go.
    fn drop_all(&mut self) -> io::Result<()> {
        let bytes = self.rest()?;
        self.out.clear();
        let taken = lines::take(
            &self.record.carry,
            &bytes,
            "",
            u64::MAX,
            true,
            &mut self.out,
        );
        self.record.dropped += memchr::memchr_iter(b'\n', &self.out).count() as u64;
        self.out.clear();
        self.commit(
            taken.bytes,
            true,
            bytes.get(taken.bytes..).unwrap_or_default(),
        )
    }

    /// So many bytes more are in the log; `is_all`: what is left is the beginning of a line.
    fn commit(&mut self, bytes: usize, is_all: bool, left: &[u8]) -> io::Result<()> {
        let record = &mut self.record;
        record.length += self.out.len() as u64;
        record.done += bytes as u64;
        if bytes > 0 {
            record.carry.clear();
        }
        if is_all {
            record.carry.extend_from_slice(left);
            record.turn += 1;
            record.done = 0;
        }
        self.file.commit(record)?;
        if is_all {
            self.spooled = 0;
            self.other_spool().set_len(0)?;
        }
        Ok(())
    }
}

fn dropped_words(dropped: u64) -> String {
    let lines = if dropped == 1 { "line" } else { "lines" };
    format!("respawn: {dropped} {lines} dropped\n")
}

fn open_spool(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::model::{Log, Target};

    struct Scene {
        dir: tempfile::TempDir,
        place: OutputDir,
        settings: Settings,
        writer: File,
    }

    impl Scene {
        fn new(max_size: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let place = OutputDir::of(dir.path());
            place.make().unwrap();
            let writer = pipe::make(&place.fifo("web"), None).unwrap();
            let log = Log {
                max_size,
                timestamps: false,
                ..Log::to(Target::File(dir.path().join("log")))
            };
            let settings = Settings { log, owner: None };
            Self {
                dir,
                place,
                settings,
                writer,
            }
        }

        /// A logger that begins, after whatever became of the one before.
        fn sink(&self) -> Sink {
            let compressor = Arc::new(Compressor::start());
            Sink::open(&self.place, "web", self.settings.clone(), &compressor).unwrap()
        }

        fn write(&self, text: &str) {
            (&self.writer).write_all(text.as_bytes()).unwrap();
        }

        fn log(&self) -> String {
            fs::read_to_string(self.dir.path().join("log")).unwrap()
        }
    }

    #[test]
    fn killed_between_any_two_steps_it_loses_and_doubles_nothing() {
        let scene = Scene::new(1 << 20);
        scene.write("one\ntwo\nth");
        assert_eq!(scene.sink().turn().unwrap(), Turned::Wrote);
        assert_eq!(scene.log(), "one\ntwo\n");
        // After the splice.
        scene.write("ree\nfour\nfi");
        let work = Work::begin(&scene.place, "web").unwrap();
        assert_eq!(
            pipe::move_into(work.spool(), 0, &scene.writer, TURN).unwrap(),
            11
        );
        drop(work);
        assert!(scene.sink().has_rest());
        // In the middle of the write, and after it.
        for half in ["thr", "three\nfour\n"] {
            let log = File::options()
                .append(true)
                .open(scene.dir.path().join("log"));
            log.unwrap().write_all(half.as_bytes()).unwrap();
            let mut work = Work::begin(&scene.place, "web").unwrap();
            work.log
                .ready(&scene.settings, &work.file, &mut work.record)
                .unwrap();
            assert_eq!(scene.log(), "one\ntwo\n");
        }
        // After the commit, before the spool is empty.
        let spool = scene.place.spool("web", 1);
        let left = fs::read(&spool).unwrap();
        assert_eq!(scene.sink().turn().unwrap(), Turned::Wrote);
        fs::write(&spool, left).unwrap();
        assert_eq!(scene.sink().turn().unwrap(), Turned::Empty);
        scene.write("ve\n");
        scene.sink().drain();
        assert_eq!(scene.log(), "one\ntwo\nthree\nfour\nfive\n");
        assert!(!scene.sink().has_rest());
    }

    #[test]
    fn killed_in_a_rotation_it_loses_no_file() {
        let scene = Scene::new(8);
        for line in ["one\n", "two\n", "six\n", "ten\n"] {
            scene.write(line);
            scene.sink().drain();
        }
        let read = |name: &str| fs::read_to_string(scene.dir.path().join(name)).unwrap_or_default();
        assert_eq!(
            (read("log"), read("log.1")),
            ("six\nten\n".into(), "one\ntwo\n".into())
        );
        // After the first of two renames; and with half a line in the file that was put aside.
        fs::rename(
            scene.dir.path().join("log.1"),
            scene.dir.path().join("log.2"),
        )
        .unwrap();
        scene.write("end\n");
        scene.sink().drain();
        assert_eq!(
            (read("log"), read("log.1")),
            ("end\n".into(), "six\nten\n".into())
        );
        assert_eq!(read("log.2"), "one\ntwo\n");
        fs::write(scene.dir.path().join("log"), "end\nhal").unwrap();
        fs::rename(scene.dir.path().join("log"), scene.dir.path().join("log.0")).unwrap();
        for (from, to) in [("log.2", "log.3"), ("log.1", "log.2"), ("log.0", "log.1")] {
            fs::rename(scene.dir.path().join(from), scene.dir.path().join(to)).unwrap();
        }
        scene.write("half\n");
        scene.sink().drain();
        assert_eq!(
            (read("log"), read("log.1")),
            ("half\n".into(), "end\n".into())
        );
    }

    #[test]
    fn what_cannot_be_written_waits_and_a_closed_service_ends_its_line() {
        let scene = Scene::new(1 << 20);
        let log = scene.dir.path().join("log");
        fs::create_dir(&log).unwrap();
        scene.write("one\ntw");
        let mut sink = scene.sink();
        for _ in 0..2 {
            assert!(sink.turn().is_err());
        }
        fs::remove_dir(&log).unwrap();
        sink.finish();
        assert_eq!(sink.give_up(), 0);
        assert_eq!(scene.log(), "one\ntw\n");
    }

    #[test]
    fn what_is_left_of_a_service_that_is_no_more_is_counted() {
        for on_full in [OnFull::Wait, OnFull::Drop] {
            let mut scene = Scene::new(1 << 20);
            scene.settings.log.on_full = on_full;
            fs::create_dir(scene.dir.path().join("log")).unwrap();
            scene.write("one\ntwo\nth");
            let mut sink = scene.sink();
            assert_eq!(sink.turn().is_err(), on_full == OnFull::Wait);
            // In the spool, in the carry, and in the FIFO.
            scene.write("ree\nfour\nfi");
            sink.finish();
            assert_eq!(sink.give_up(), 5, "{on_full:?}");
            assert!(!sink.has_rest());
        }
    }
}

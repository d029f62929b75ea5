//! The files of one service's output, as one text from the oldest line on, which goes on as they do.
//!
//! Files are opened from the youngest to the oldest. A rotation meanwhile makes files older, so that one
//! may be met again, by its next name, and none is missed.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::GzHeader;
use flate2::bufread::GzDecoder;

use crate::logger::{FileId, split_stamp};

/// A longer line is shown in pieces.
const LONGEST: usize = 1 << 20;

/// As many rotated files as a config may have.
const MOST: u32 = 1000;

/// So much is read at once, from the end.
const BLOCK: u64 = 64 << 10;

/// Where a service's output is.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) path: PathBuf,
    /// Rotated files may be beside it.
    pub(super) is_rotated: bool,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogLine {
    /// When it was read, if the log has timestamps.
    pub(super) stamp: Option<String>,
    /// Without that, and without its end.
    pub(super) text: Vec<u8>,
}

/// A file that is read, or is to be.
struct Open {
    id: FileId,
    /// `None`: it is compressed.
    plain: Option<File>,
    file: Box<dyn BufRead>,
    /// So much of it was read.
    at: u64,
    /// What has no end yet.
    begun: Vec<u8>,
}

/// What is read of a service.
pub(super) struct Text {
    files: Files,
    /// The oldest first.
    open: VecDeque<Open>,
    next: Option<LogLine>,
    /// The stamp of the last line that has one.
    pub(super) last: String,
}

impl Text {
    /// From the oldest line on.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub(super) fn open(files: Files) -> io::Result<Self> {
        let open = files.open_down_to(None)?;
        Ok(Self {
            files,
            open,
            next: None,
            last: String::new(),
        })
    }

    /// Where its files come and go.
    pub(super) fn directory(&self) -> &Path {
        self.files.path.parent().unwrap_or(Path::new("/"))
    }

    /// Passes over all but the last lines.
    ///
    /// # Errors
    /// The files cannot be read.
    pub(super) fn skip_to_last(&mut self, lines: usize) -> io::Result<()> {
        let mut wanted = lines;
        let mut keep = self.open.len();
        for open in self.open.iter_mut().rev() {
            keep -= 1;
            let found = open.skip_to_last(wanted)?;
            wanted = wanted.saturating_sub(found);
            if wanted == 0 {
                break;
            }
        }
        self.open.drain(..keep);
        Ok(())
    }

    /// The next line, without taking it. `None`: there is none yet.
    ///
    /// # Errors
    /// The files cannot be read.
    pub(super) fn peek(&mut self) -> io::Result<Option<&LogLine>> {
        if self.next.is_none() {
            self.next = self.read()?;
        }
        Ok(self.next.as_ref())
    }

    pub(super) fn take(&mut self) -> Option<LogLine> {
        let line = self.next.take()?;
        if let Some(stamp) = &line.stamp {
            self.last.clone_from(stamp);
        }
        Some(line)
    }

    /// What has no end, at the end of all.
    pub(super) fn take_rest(&mut self) -> Option<LogLine> {
        let rest = std::mem::take(&mut self.open.back_mut()?.begun);
        (!rest.is_empty()).then(|| line_of(rest))
    }

    fn read(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            let is_last = self.open.len() == 1;
            let Some(open) = self.open.front_mut() else {
                self.open = self.files.open_down_to(None)?;
                if self.open.is_empty() {
                    return Ok(None);
                }
                continue;
            };
            if let Some(line) = open.read_line()? {
                return Ok(Some(line));
            }
            if is_last {
                // Somebody may have put it aside, and then read to its end: nothing more comes there.
                if !self.files.has_moved(open.id) {
                    open.see_cut()?;
                    return Ok(None);
                }
                if let Some(line) = open.read_line()? {
                    return Ok(Some(line));
                }
                let id = open.id;
                let younger = self.files.open_down_to(Some(id))?;
                self.open.extend(younger);
            }
            let rest = self.open.pop_front().map(|open| open.begun);
            if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                return Ok(Some(line_of(rest)));
            }
        }
    }
}

impl Open {
    fn read_line(&mut self) -> io::Result<Option<LogLine>> {
        let room = LONGEST.saturating_sub(self.begun.len()) as u64;
        let mut file = (&mut self.file).take(room);
        let read = file.read_until(b'\n', &mut self.begun)?;
        self.at += read as u64;
        let is_whole = self.begun.ends_with(b"\n") || self.begun.len() >= LONGEST;
        Ok(is_whole.then(|| line_of(std::mem::take(&mut self.begun))))
    }

    /// A file that is shorter than what was read of it was emptied, or cut by a logger that began.
    fn see_cut(&mut self) -> io::Result<()> {
        let Some(plain) = &mut self.plain else {
            return Ok(());
        };
        let length = plain.metadata()?.len();
        if length < self.at {
            // Nothing is in its buffer: it was read to its end.
            self.begun.clear();
            plain.seek(SeekFrom::Start(length))?;
            self.at = length;
        }
        Ok(())
    }

    /// Passes over all but the last lines; how many there are.
    fn skip_to_last(&mut self, lines: usize) -> io::Result<usize> {
        if let Some(plain) = &mut self.plain {
            let found = seek_to_last(plain, lines)?;
            self.at = plain.stream_position()?;
            return Ok(found);
        }
        // There is no way from the end: at most what is wanted is kept.
        let mut last: VecDeque<Vec<u8>> = VecDeque::new();
        loop {
            let mut line = Vec::new();
            if self.file.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            last.push_back(line);
            if last.len() > lines {
                last.pop_front();
            }
        }
        let found = last.len();
        let last: Vec<u8> = last.into_iter().flatten().collect();
        self.file = Box::new(Cursor::new(last));
        Ok(found)
    }
}

fn line_of(mut text: Vec<u8>) -> LogLine {
    if text.ends_with(b"\n") {
        text.pop();
    }
    match split_stamp(&text) {
        Some((stamp, rest)) => LogLine {
            stamp: Some(stamp.to_owned()),
            text: rest.to_vec(),
        },
        None => LogLine { stamp: None, text },
    }
}

impl Files {
    fn has_moved(&self, id: FileId) -> bool {
        let found = std::fs::metadata(&self.path);
        found.is_ok_and(|found| FileId::of(&found) != id)
    }

    /// Those that are younger than that one, or all; the oldest first.
    fn open_down_to(&self, last: Option<FileId>) -> io::Result<VecDeque<Open>> {
        let mut all: VecDeque<Open> = VecDeque::new();
        let most = if self.is_rotated { MOST } else { 0 };
        let mut is_gap = false;
        for age in 0..=most {
            let path = self.aged(age);
            let found = match open(&path)? {
                None if age > 0 => open_compressed(&path)?,
                plain => plain,
            };
            let Some(open) = found else {
                // The first of all may be about to be made. Among the others a rotation under way, or one
                // whose logger was killed, leaves one gap: that file has the next name already.
                if is_gap {
                    break;
                }
                is_gap = age > 0;
                continue;
            };
            is_gap = false;
            if last == Some(open.id) {
                break;
            }
            if all.iter().all(|known| known.id != open.id) {
                all.push_front(open);
            }
        }
        Ok(all)
    }

    fn aged(&self, age: u32) -> PathBuf {
        if age == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{age}"));
        name.into()
    }
}

/// `None`: there is none.
fn open(path: &Path) -> io::Result<Option<Open>> {
    let mut options = OpenOptions::new();
    // A FIFO must not hold it up.
    options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(Some(Open {
        id: FileId::of(&found),
        // With one offset for both.
        plain: Some(file.try_clone()?),
        file: Box::new(BufReader::with_capacity(64 << 10, file)),
        at: 0,
        begun: Vec::new(),
    }))
}

/// The same of what it was compressed to.
fn open_compressed(path: &Path) -> io::Result<Option<Open>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let Some(Open { id, file, .. }) = open(Path::new(&name))? else {
        return Ok(None);
    };
    let file = GzDecoder::new(file);
    let comment = file.header().and_then(GzHeader::comment);
    let made_of = comment.and_then(FileId::from_text);
    Ok(Some(Open {
        id: made_of.unwrap_or(id),
        plain: None,
        file: Box::new(BufReader::new(file)),
        at: 0,
        begun: Vec::new(),
    }))
}

/// Goes to where so many lines before the end begin; how many there are from there on.
fn seek_to_last(file: &mut File, lines: usize) -> io::Result<usize> {
    let length = file.metadata()?.len();
    if lines == 0 {
        file.seek(SeekFrom::End(0))?;
        return Ok(0);
    }
    let (mut start, mut found) = (length, 0);
    let mut block = Vec::new();
    while start > 0 {
        let from = start.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(from))?;
        block.clear();
        file.by_ref().take(start - from).read_to_end(&mut block)?;
        for (at, _) in block
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            let place = from + at as u64 + 1;
            // The end of the last line begins none.
            if place < length {
                found += 1;
            }
            if found == lines {
                file.seek(SeekFrom::Start(place))?;
                return Ok(found);
            }
        }
        start = from;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(found + usize::from(length > 0))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn all(text: &mut Text) -> Vec<String> {
        let mut lines = Vec::new();
        while text.peek().unwrap().is_some() {
            lines.push(String::from_utf8(text.take().unwrap().text).unwrap());
        }
        lines
    }

    fn files(dir: &Path) -> Files {
        Files {
            path: dir.join("log"),
            is_rotated: true,
        }
    }

    #[test]
    fn a_rotation_under_way_hides_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, text) in [
            ("log.4", "a\n"),
            ("log.2", "b\n"),
            ("log.1", "c\n"),
            ("log", "d\n"),
        ] {
            fs::write(at(name), text).unwrap();
        }
        let mut text = Text::open(files(dir.path())).unwrap();
        assert_eq!(all(&mut text), ["a", "b", "c", "d"]);
    }

    #[test]
    fn rotated_files_come_first_and_new_lines_as_they_come() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut text = Text::open(files(dir.path())).unwrap();
        assert_eq!(all(&mut text), [""; 0]);
        fs::write(at("log.2"), "a\nb\n").unwrap();
        fs::write(at("log.1"), "c\n").unwrap();
        fs::write(at("log"), "d\nha").unwrap();
        assert_eq!(all(&mut text), ["a", "b", "c", "d"]);
        let mut log = File::options().append(true).open(at("log")).unwrap();
        log.write_all(b"lf\nlast").unwrap();
        assert_eq!(all(&mut text), ["half"]);
        // Two rotations at once.
        log.write_all(b" words\n").unwrap();
        for (from, to) in [("log.2", "log.4"), ("log.1", "log.3"), ("log", "log.2")] {
            fs::rename(at(from), at(to)).unwrap();
        }
        fs::write(at("log.1"), "e\n").unwrap();
        fs::write(at("log"), "f\n").unwrap();
        assert_eq!(all(&mut text), ["last words", "e", "f"]);
        // Cut, and written on.
        fs::write(at("log"), "").unwrap();
        assert_eq!(all(&mut text), [""; 0]);
        fs::write(at("log"), "g\n").unwrap();
        assert_eq!(all(&mut text), ["g"]);
        fs::write(at("log"), "g\nrest").unwrap();
        assert_eq!(all(&mut text), [""; 0]);
        assert_eq!(text.take_rest().unwrap().text, b"rest");
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.1"), "a\nb\n").unwrap();
        let long = "x".repeat(100_000);
        fs::write(dir.path().join("log"), format!("{long}\nc\n")).unwrap();
        for (count, expected) in [
            (0, vec![]),
            (1, vec!["c"]),
            (2, vec![long.as_str(), "c"]),
            (3, vec!["b", &long, "c"]),
            (9, vec!["a", "b", &long, "c"]),
        ] {
            let mut text = Text::open(files(dir.path())).unwrap();
            text.skip_to_last(count).unwrap();
            assert_eq!(all(&mut text), expected, "{count}");
        }
    }
}

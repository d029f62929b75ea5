//! Reads a config file's text, whatever the path leads to, and tells lines and columns in it.
//!
//! Never blocks and never opens what is not a regular file: a FIFO would wait for a writer, and
//! opening a device can act on it. Understands nothing of the text.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::problem::{Diagnostics, Ends, Problem, printable};

/// No service needs more; what is larger is a mistake, such as a log file.
const MAX_SIZE: u64 = 1024 * 1024;

/// A file, and what is to be merged into it. Offsets go on from one to the next.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    /// At least one, each with the offset of its beginning.
    files: Vec<(Source, usize)>,
}

impl Sources {
    pub(super) fn of(source: Source) -> Self {
        Self {
            files: vec![(source, 0)],
        }
    }

    /// The file, and these beside it. All that cannot be read is reported.
    pub(super) fn read(path: &Path, beside: &[PathBuf], report: &Diagnostics) -> Option<Self> {
        let main = Source::read(path, report);
        let beside = beside.iter().map(|path| Source::read(path, report));
        let beside: Vec<_> = beside.collect();
        let mut sources = Self::of(main?);
        for source in beside {
            sources.push(source?);
        }
        Some(sources)
    }

    pub(super) fn push(&mut self, source: Source) {
        // A problem may be behind the last byte.
        let base = self
            .files
            .last()
            .map_or(0, |(last, base)| base + last.text.len() + 1);
        self.files.push((source, base));
    }

    /// Where the file is into which the others are merged.
    pub(super) fn path(&self) -> &Path {
        self.files
            .first()
            .map_or(Path::new(""), |(source, _)| &source.path)
    }

    /// Each with the offset of its beginning.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Source, usize)> {
        self.files.iter().map(|(source, base)| (source, *base))
    }

    /// The paths of those that are merged into it.
    pub(super) fn beside(&self) -> Vec<PathBuf> {
        let beside = self.files.iter().skip(1);
        beside.map(|(source, _)| source.path.clone()).collect()
    }

    /// Which file an offset is in, from 0.
    pub(super) fn index(&self, offset: usize) -> usize {
        let after = self.files.partition_point(|(_, base)| *base <= offset);
        after.saturating_sub(1)
    }

    /// The file that an offset is in.
    pub(super) fn file(&self, offset: usize) -> &Path {
        self.at(offset)
            .map_or(self.path(), |(source, _)| &source.path)
    }

    /// The line of an offset in its file, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.at(offset)
            .map_or(1, |(source, local)| source.position(local).0)
    }

    /// A problem at an offset.
    pub(super) fn problem(&self, offset: usize, key: Option<String>, message: String) -> Problem {
        match self.at(offset) {
            Some((source, local)) => source.problem(local, key, message),
            None => Problem::of_file(self.path(), message),
        }
    }

    fn at(&self, offset: usize) -> Option<(&Source, usize)> {
        let (source, base) = self.files.get(self.index(offset))?;
        Some((source, offset - base))
    }
}

/// A file's text, with its place.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Offsets at which lines begin; the first is 0.
    line_starts: Vec<usize>,
}

impl Source {
    /// Reads a regular file of UTF-8 text; a file that is none is reported by name.
    pub(super) fn read(path: &Path, report: &Diagnostics) -> Option<Self> {
        match read_text(path) {
            Ok(text) => Some(Self::new(path, text)),
            Err((problem, ends)) => {
                report.problem_until(ends, problem);
                None
            }
        }
    }

    /// A text that is in memory already.
    pub(super) fn new(path: &Path, text: String) -> Self {
        let after_newlines = text.match_indices('\n').map(|(index, _)| index + 1);
        Self {
            path: path.to_owned(),
            line_starts: std::iter::once(0).chain(after_newlines).collect(),
            text,
        }
    }

    /// Line and column of a byte offset, both from 1, the column in characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset);
        let column = before.map_or(offset - start, |text| text.chars().count());
        (line, column + 1)
    }

    /// The line that the offset is on, without its end.
    pub(super) fn line_at(&self, offset: usize) -> &str {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or("");
        rest.lines().next().unwrap_or("")
    }

    /// A problem at a byte offset.
    pub(super) fn problem(&self, offset: usize, key: Option<String>, message: String) -> Problem {
        let (line, column) = self.position(offset);
        Problem {
            file: self.path.clone(),
            line: Some(line),
            column: Some(column),
            key,
            message,
        }
    }
}

/// What is in a file, as it is now; `None` if it is no regular file, or cannot be read.
pub(crate) fn content(path: &Path) -> Option<Vec<u8>> {
    read_bytes(path).ok()
}

fn read_text(path: &Path) -> Result<String, (Problem, Ends)> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|error| (not_utf8(path, &error), Ends::WithTheConfig))
}

/// A file that cannot be read may be one day: it may be on a mount that is not there yet.
fn read_bytes(path: &Path) -> Result<Vec<u8>, (Problem, Ends)> {
    let refuse = |message: String| (Problem::of_file(path, message), Ends::WithTheConfig);
    let unreadable = |error: io::Error| {
        let problem = Problem::of_file(path, unreadable(path, &error));
        (problem, Ends::WithTheHost)
    };

    // Looked at before it is opened, and again after, for it may have been exchanged.
    let check = |metadata: &Metadata| match irregular(metadata.file_type()) {
        Some(kind) => Err(refuse(format!("expected a regular file, found {kind}"))),
        None => Ok(()),
    };
    check(&fs::metadata(path).map_err(unreadable)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(unreadable)?;
    check(&file.metadata().map_err(unreadable)?)?;

    let bytes = read_bounded(&file).map_err(unreadable)?;
    bytes.ok_or_else(|| refuse("is larger than 1 MiB, which no config file needs".to_owned()))
}

/// The content, or `None` if it is too large. The size that the file tells is not asked: it may
/// still grow.
fn read_bounded(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_SIZE);
    Ok(fits.then_some(bytes))
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let is_link = || fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink());
    match error.kind() {
        io::ErrorKind::NotFound if is_link() => match fs::read_link(path) {
            Ok(target) => format!("is a dangling symbolic link to {}", printable(&target)),
            Err(_) => "is a dangling symbolic link".to_owned(),
        },
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Problem {
    let valid = error.utf8_error().valid_up_to();
    let before = error.as_bytes().get(..valid).unwrap_or_default();
    let source = Source::new(path, String::from_utf8_lossy(before).into_owned());
    let byte = error.as_bytes().get(valid).copied().unwrap_or_default();
    let message = format!("expected UTF-8 text, found the byte 0x{byte:02x}");
    source.problem(valid, None, message)
}

/// What else than a regular file it is.
fn irregular(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let source = Source::new(Path::new("x"), "a\näb\n\nc".to_owned());
        for (offset, position) in [(0, (1, 1)), (1, (1, 2)), (2, (2, 1)), (4, (2, 2))] {
            assert_eq!(source.position(offset), position, "{offset}");
        }
        assert_eq!(source.position(7), (4, 1));
        assert_eq!(source.position(1000), (4, 2));
        assert_eq!(source.line_at(4), "äb");
    }
}

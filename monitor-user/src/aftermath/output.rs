//! The end of a service's output.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::logger::{Progress, plain, without_stamp};
use crate::model::Identity;
use crate::os::open;

/// How far a service's output had come when an instance of it was started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OutputStart {
    /// So long its file was.
    pub(crate) length: u64,
    /// So many bytes were still on their way there, where a logger writes it.
    pub(crate) pending: usize,
}

/// A log may have so much more than a service has written: stamps, mostly.
const STAMPS: u64 = 256 << 10;

/// What was written to a file since it was so long: the last bytes, at most so many, from the begin
/// of a line where there is one; bytes that are not UTF-8 replaced.
///
/// # Errors
/// It cannot be read, or is not a regular file, which could hold up the reader. A symbolic link that
/// somebody else could have put there is not followed: they would choose what root reads.
pub(crate) fn tail(
    path: &Path,
    bytes: u64,
    since: u64,
    owner: Option<&Identity>,
) -> io::Result<String> {
    let mut file = open::to_read(path, owner)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let length = metadata.len();
    // A shorter file is another one, or was emptied.
    let since = if since <= length { since } else { 0 };
    let start = length.saturating_sub(bytes).max(since);
    // One byte before, to see whether a line begins there.
    let before = if start == since { 0 } else { 1 };
    file.seek(SeekFrom::Start(start.saturating_sub(before)))?;
    let mut read = Vec::new();
    file.take(bytes + before).read_to_end(&mut read)?;
    Ok(lines_from(&read, usize::from(before == 1)))
}

/// What begins at that place, or with the first whole line after it, if there is one.
fn lines_from(bytes: &[u8], start: usize) -> String {
    let (before, kept) = bytes.split_at(start.min(bytes.len()));
    let is_begin = before.is_empty() || before.ends_with(b"\n");
    let newline = kept.iter().position(|byte| *byte == b'\n');
    let from = newline.map_or(0, |newline| newline + 1);
    let from = if is_begin || from == kept.len() {
        0
    } else {
        from
    };
    String::from_utf8_lossy(kept.get(from..).unwrap_or_default()).into_owned()
}

/// The same of what a logger writes, which may not have come to it yet. Stamps are left out.
///
/// # Errors
/// As of [`tail`].
pub(crate) fn tail_of_log(
    path: &Path,
    bytes: u64,
    since: OutputStart,
    progress: &Progress,
    owner: Option<&Identity>,
) -> io::Result<String> {
    let mut written = match progress.length {
        Some(length) => read_log(path, bytes, since.length, length, owner)?,
        None => Vec::new(),
    };
    written.extend_from_slice(&progress.pending);
    // What was on its way then was the instance's before.
    let since_then = progress.length.unwrap_or(0).checked_sub(since.length);
    let is_whole = since_then.is_some_and(|length| length <= STAMPS);
    let from = if is_whole { since.pending } else { 0 };
    let written = written.get(from..).unwrap_or_default();
    let most = usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(lines_from(written, written.len().saturating_sub(most)))
}

/// The lines of a log from `since` on, or the last ones of them, without their stamps.
fn read_log(
    path: &Path,
    bytes: u64,
    since: u64,
    length: u64,
    owner: Option<&Identity>,
) -> io::Result<Vec<u8>> {
    let mut file = open::to_read(path, owner)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    // A shorter file is the next one.
    let since = if since <= length { since } else { 0 };
    let start = length.saturating_sub(bytes + STAMPS).max(since);
    file.seek(SeekFrom::Start(start))?;
    let mut read = Vec::new();
    file.take(length - start).read_to_end(&mut read)?;
    let mut lines = read.split_inclusive(|byte| *byte == b'\n');
    if start > since {
        // It is not whole.
        lines.next();
    }
    Ok(plain(
        &lines.map(without_stamp).collect::<Vec<_>>().concat(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_from_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let told = |text: &str, bytes| {
            std::fs::write(path, text).unwrap();
            tail(path, bytes, 0, None).unwrap()
        };
        assert_eq!(told("", 10), "");
        assert_eq!(told("one\ntwo\n", 10), "one\ntwo\n");
        assert_eq!(told("one\ntwo\n", 8), "one\ntwo\n");
        assert_eq!(told("one\ntwo\n", 7), "two\n");
        assert_eq!(told("one\ntwo\n", 4), "two\n");
        assert_eq!(told("one\ntwo\n", 3), "wo\n");
        assert_eq!(told("no line at all", 4), " all");
        std::fs::write(path, b"\xff\xfe").unwrap();
        assert_eq!(tail(path, 10, 0, None).unwrap(), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_was_there_before_is_not_its() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old\nnew\nnewer\n").unwrap();
        let told = |bytes, since| tail(file.path(), bytes, since, None).unwrap();
        assert_eq!(told(100, 4), "new\nnewer\n");
        assert_eq!(told(8, 4), "newer\n");
        assert_eq!(told(100, 14), "");
        // Emptied meanwhile.
        assert_eq!(told(100, 15), "old\nnew\nnewer\n");
    }

    #[test]
    fn of_a_log_the_stamps_are_left_out_and_what_is_on_its_way_is_added() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = "2026-11-26T21:45:38.123456Z ";
        let text = format!("{stamp}old\n{stamp}new\n{stamp}newer\n");
        std::fs::write(file.path(), &text).unwrap();
        let told = |bytes, length, pending| {
            let progress = Progress {
                length: Some(text.len() as u64),
                pending: b"newest\nlast".to_vec(),
            };
            let since = OutputStart { length, pending };
            tail_of_log(file.path(), bytes, since, &progress, None).unwrap()
        };
        assert_eq!(told(100, 0, 0), "old\nnew\nnewer\nnewest\nlast");
        assert_eq!(told(100, 32, 0), "new\nnewer\nnewest\nlast");
        // The instance before had written that, and the logger not yet.
        assert_eq!(told(100, 32, 4), "newer\nnewest\nlast");
        assert_eq!(told(12, 0, 0), "newest\nlast");
        assert_eq!(told(3, 0, 0), "ast");
        let progress = Progress::default();
        let none = tail_of_log(
            Path::new("/nowhere"),
            9,
            OutputStart::default(),
            &progress,
            None,
        );
        assert_eq!(none.unwrap(), "");
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(tail(dir.path(), 10, 0, None).is_err());
        assert!(tail(Path::new("/dev/null"), 10, 0, None).is_err());
        assert!(tail(&dir.path().join("none"), 10, 0, None).is_err());
        // Opening it would wait for a writer.
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(tail(&fifo, 10, 0, None).is_err());
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "secret\n").unwrap();
        // Who may write to the directory could have put it there.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir.path(), all).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let error = tail(&link, 10, 0, None).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }
}

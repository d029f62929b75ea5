//! The end of a service's output.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::model::Identity;
use crate::os::open;

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
    if start == since {
        file.seek(SeekFrom::Start(since))?;
        let mut read = Vec::new();
        file.take(bytes).read_to_end(&mut read)?;
        return Ok(String::from_utf8_lossy(&read).into_owned());
    }
    // One byte before, to see whether a line begins here.
    file.seek(SeekFrom::Start(start.saturating_sub(1)))?;
    let mut read = Vec::new();
    file.take(bytes + 1).read_to_end(&mut read)?;
    let from = match read.iter().position(|&byte| byte == b'\n') {
        Some(newline) if newline + 1 < read.len() => newline + 1,
        _ => 1.min(read.len()),
    };
    let kept = read.get(from..).unwrap_or_default();
    Ok(String::from_utf8_lossy(kept).into_owned())
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

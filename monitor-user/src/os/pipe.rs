//! FIFOs between a service and the logger: makes them, looks into them, and moves what is in one into a
//! file. What is in them is the logger's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{
    FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown,
};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};

use crate::model::Identity;

/// So much a FIFO holds, where that is allowed; else 64 KiB.
pub(crate) const CAPACITY: usize = 1 << 20;

/// Nobody but this user opens it.
const MODE: u32 = 0o600;

/// Makes a FIFO where there is none, gives it to a user (`None`: whoever calls), and opens it. The
/// directory has to be the caller's alone.
///
/// # Errors
/// It can be neither made nor given away nor opened.
pub(crate) fn make(path: &Path, owner: Option<&Identity>) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_fifo() => {}
        Ok(_) => {
            fs::remove_file(path)?;
            mkfifo(path, Mode::from_bits_truncate(MODE))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            mkfifo(path, Mode::from_bits_truncate(MODE))?;
        }
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(path)?;
    if found.mode() & 0o777 != MODE {
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    }
    let (uid, gid) = match owner {
        Some(owner) => (owner.uid, owner.gid),
        None => (nix::unistd::geteuid().as_raw(), found.gid()),
    };
    if (found.uid(), found.gid()) != (uid, gid) {
        lchown(path, Some(uid), Some(gid))?;
    }
    open(path)
}

/// Opens a FIFO for both ends, so that it neither waits for somebody nor sees an end, and enlarges it.
///
/// # Errors
/// There is none, or the kernel's.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let file = options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("not a FIFO"));
    }
    let has = fcntl(&file, FcntlArg::F_GETPIPE_SZ).map_or(0, i64::from);
    if has < i64::try_from(CAPACITY).unwrap_or(0) {
        // Users have a limit; a smaller one does too.
        let _ = fcntl(
            &file,
            FcntlArg::F_SETPIPE_SZ(libc::c_int::try_from(CAPACITY).unwrap_or(0)),
        );
    }
    Ok(file)
}

/// What is in a FIFO, which stays there.
///
/// # Errors
/// No descriptor is left, or the kernel's.
pub(crate) fn peek(fifo: &File) -> io::Result<Vec<u8>> {
    let mut fds = [PollFd::new(fifo.as_fd(), PollFlags::POLLIN)];
    let is_empty = super::poll_now(&mut fds)? == 0;
    let mut bytes = Vec::new();
    if is_empty {
        return Ok(bytes);
    }
    let (from, to) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let _ = fcntl(
        &to,
        FcntlArg::F_SETPIPE_SZ(libc::c_int::try_from(CAPACITY).unwrap_or(0)),
    );
    match tee(fifo, &to, CAPACITY, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(_) => {}
        Err(Errno::EAGAIN) => return Ok(bytes),
        Err(error) => return Err(error.into()),
    }
    drop(to);
    File::from(from).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Moves at most so much of what is in a FIFO into a file, from `offset` on. Where the file can take
/// pages, a kill at any instant leaves each byte in exactly one of the two. `Ok(0)`: it is empty.
///
/// `iter_file_splice_write` writes what it holds of the pipe, and takes out as much as was written,
/// without looking for signals in between.
/// <https://github.com/torvalds/linux/blob/v5.10/fs/splice.c>
///
/// # Errors
/// The file takes nothing: then the rest stays in the FIFO.
pub(crate) fn move_into(file: &File, offset: u64, fifo: &File, most: usize) -> io::Result<usize> {
    let mut at = i64::try_from(offset).map_err(io::Error::other)?;
    loop {
        let moved = splice(
            fifo,
            None,
            file,
            Some(&mut at),
            most,
            SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE,
        );
        return match moved {
            Ok(length) => Ok(length),
            Err(Errno::EAGAIN) => Ok(0),
            Err(Errno::EINTR) => continue,
            Err(Errno::EINVAL) => copy_into(file, offset, fifo, most),
            Err(error) => Err(error.into()),
        };
    }
}

/// The same on a file system that takes no pages: a kill between the two steps loses what was read.
fn copy_into(file: &File, offset: u64, mut fifo: &File, most: usize) -> io::Result<usize> {
    let mut bytes = vec![0; most.min(64 << 10)];
    let length = match fifo.read(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        read => read?,
    };
    file.write_all_at(bytes.get(..length).unwrap_or_default(), offset)?;
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_looked_at_stays_and_what_is_moved_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        let fifo = make(&path, None).unwrap();
        let again = make(&path, None).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(peek(&fifo).unwrap(), b"");
        (&again).write_all(b"some words").unwrap();
        assert_eq!(peek(&fifo).unwrap(), b"some words");
        assert_eq!(peek(&fifo).unwrap(), b"some words");
        let file = tempfile::tempfile().unwrap();
        assert_eq!(move_into(&file, 0, &fifo, 4).unwrap(), 4);
        assert_eq!(peek(&again).unwrap(), b" words");
        assert_eq!(move_into(&file, 4, &fifo, 100).unwrap(), 6);
        assert_eq!(move_into(&file, 10, &fifo, 100).unwrap(), 0);
        let mut read = vec![0; 10];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, b"some words");
    }

    #[test]
    fn what_is_there_and_is_no_fifo_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        fs::write(&path, "").unwrap();
        assert!(open(&path).is_err());
        make(&path, None).unwrap();
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    }
}

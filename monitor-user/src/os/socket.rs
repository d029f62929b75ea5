//! Sockets by what the kernel names them by, and how another process's socket is taken over: for
//! sockets that outlive an agent. Binds none.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use super::pidfd;

/// So many descriptors of another process are looked at, to find one that it has moved.
const MOST_LOOKED_AT: usize = 4096;

/// What the kernel names a socket by, as long as it is booted (`SO_COOKIE`).
///
/// # Errors
/// It is no socket.
pub(crate) fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(cookie)
}

/// Its number as a file, as `/proc/PID/fd` has it.
///
/// # Errors
/// None that is known.
pub(crate) fn inode(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(socket)?.st_ino)
}

/// The socket that another process has open as that number, if it has this cookie.
///
/// # Errors
/// It has another one or none there, or this process may not take it: that needs the right to trace
/// the other.
pub(crate) fn taken_from(
    process: BorrowedFd<'_>,
    number: RawFd,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let socket = pidfd::descriptor_of(process, number)?;
    match self::cookie(socket.as_fd()) {
        Ok(found) if found == cookie => Ok(socket),
        _ => Err(io::Error::other("it has another socket there")),
    }
}

/// The number under which a process has the socket open that is this file.
pub(crate) fn number_in(pid: u32, inode: u64) -> Option<RawFd> {
    let wanted = format!("socket:[{inode}]");
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    entries.flatten().take(MOST_LOOKED_AT).find_map(|entry| {
        let is_it = fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == &*wanted);
        entry.file_name().to_str()?.parse().ok().filter(|_| is_it)
    })
}

/// Has reads, writes and accepts wait, or not: whoever has the socket open shares this.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_waiting(socket: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        fcntl(socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Whether it stays open when this process becomes another program.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_inherited(socket: BorrowedFd<'_>, is_inherited: bool) -> io::Result<()> {
    let flags = match is_inherited {
        true => FdFlag::empty(),
        false => FdFlag::FD_CLOEXEC,
    };
    fcntl(socket, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// A socket that this process has had open since before it became this program, and that nothing else
/// in it knows of. `None`: there is no socket of that number.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    use std::os::fd::{FromRawFd, IntoRawFd};
    if number <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: the caller says that nothing else in this process has it; if it is not open, or no
    // socket, it is let go below without being closed.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    if cookie(socket.as_fd()).is_err() {
        let _ = socket.into_raw_fd();
        return None;
    }
    set_inherited(socket.as_fd(), false).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_socket_is_known_again_wherever_it_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let cookie = cookie(listener.as_fd()).unwrap();
        assert_ne!(cookie, self::cookie(other.as_fd()).unwrap());
        let own = pidfd::open(std::process::id()).unwrap();
        let number = number_in(std::process::id(), inode(listener.as_fd()).unwrap()).unwrap();
        assert_eq!(number, listener.as_raw_fd());
        let taken = taken_from(own.as_fd(), number, cookie).unwrap();
        assert_eq!(self::cookie(taken.as_fd()).unwrap(), cookie);
        assert!(taken_from(own.as_fd(), other.as_raw_fd(), cookie).is_err());
        assert!(taken_from(own.as_fd(), 0, cookie).is_err());
        assert_eq!(number_in(std::process::id(), 1), None);
    }

    #[test]
    fn a_socket_waits_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        set_waiting(listener.as_fd()).unwrap();
        let flags = fcntl(&listener, FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    }
}

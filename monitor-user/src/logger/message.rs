//! Lines that go to syslogd, to journald or to standard output, each as it is read.
//!
//! A line is sent, and then the record says so. A logger that is killed in between sends it once more:
//! unlike a file, nobody there can take it back.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::Target;

/// How long a reader may take until the others have their turn.
const PATIENCE_MS: u16 = 20;

/// What syslogds take at least. A longer line goes in pieces.
const SYSLOG_LONGEST: usize = 8000;

/// So much a pipe takes at once that is ready.
const PIPE_BUF: usize = 4096;

/// The severity for information, from a daemon.
const SYSLOG_PRIORITY: u8 = (3 << 3) | 6;

/// The way to one who gets lines.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// `None`: nobody was there at the last try.
    socket: Option<UnixDatagram>,
}

impl Messages {
    /// Sends a line of a service.
    ///
    /// # Errors
    /// Nobody is there, or he takes nothing now.
    pub(super) fn send(
        &mut self,
        target: &Target,
        service: &str,
        line: &[u8],
        now: Timestamp,
    ) -> io::Result<()> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match target {
            Target::Syslog(path) => {
                let time = now.to_zoned_datetime(TimeZone::system());
                let time = time.strftime("%b %e %H:%M:%S");
                let head = format!("<{SYSLOG_PRIORITY}>{time} {service}: ");
                let mut pieces: Vec<&[u8]> = line.chunks(SYSLOG_LONGEST).collect();
                if pieces.is_empty() {
                    pieces.push(line);
                }
                for piece in pieces {
                    self.datagram(path, &[head.as_bytes(), piece].concat())?;
                }
                Ok(())
            }
            // <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>
            Target::Journald(path) => {
                let head = format!("PRIORITY=6\nSYSLOG_IDENTIFIER={service}\nMESSAGE=");
                self.datagram(path, &[head.as_bytes(), line, b"\n"].concat())
            }
            Target::Stdout => stdout(&[service.as_bytes(), b": ", line, b"\n"].concat()),
            Target::File(_) => Err(io::Error::other("a file gets no messages")),
        }
    }

    fn datagram(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(bytes) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if is_writable(socket)? {
                        return socket.send(bytes).map(drop);
                    }
                    return Err(error);
                }
                // Another one may be there by now.
                Err(_) => self.socket = None,
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        let sent = socket.send(bytes).map(drop);
        self.socket = Some(socket);
        sent
    }
}

fn is_writable(fd: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    loop {
        match poll(&mut fds, PollTimeout::from(PATIENCE_MS)) {
            Err(Errno::EINTR) => {}
            looked => return Ok(looked? > 0),
        }
    }
}

/// What is left of a line that the reader of standard output has the beginning of. Whoever writes there
/// next writes this first, whichever service it is of.
static BEGUN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Whether there is such a line.
pub(super) fn has_begun_line() -> bool {
    !BEGUN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_empty()
}

/// Writes as much of its rest as the reader takes.
pub(super) fn go_on_with_line() {
    let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    // An error is told of the next line.
    let taken = pieces_to(&io::stdout(), &begun).unwrap_or(0);
    drop(begun.drain(..taken));
}

/// Writes a line to standard output, and waits for nobody: what a slow reader does not take of a line that
/// is begun goes before the next one.
fn stdout(bytes: &[u8]) -> io::Result<()> {
    let stdout = io::stdout();
    let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    line_to(&stdout, &mut begun, bytes)
}

/// The same, to anybody.
///
/// # Errors
/// Nothing of this line was written.
fn line_to<T: AsFd>(to: &T, begun: &mut Vec<u8>, line: &[u8]) -> io::Result<()> {
    let taken = pieces_to(to, begun)?;
    drop(begun.drain(..taken));
    if !begun.is_empty() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let taken = pieces_to(to, line)?;
    if taken == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    begun.extend_from_slice(line.get(taken..).unwrap_or_default());
    Ok(())
}

/// Writes as much at a time as a pipe takes that is ready; returns how much it has taken.
fn pieces_to<T: AsFd>(to: &T, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
        let piece = rest.get(..PIPE_BUF).unwrap_or(rest);
        let written = match is_writable(to) {
            Ok(true) => nix::unistd::write(to, piece).map_err(io::Error::from),
            Ok(false) => return Ok(taken),
            Err(error) => Err(error),
        };
        match written {
            Ok(written) => taken += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
            // The next line finds out why.
            Err(_) if taken > 0 => return Ok(taken),
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_a_line_in_its_own_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let now: Timestamp = "2026-11-26T21:45:38Z".parse().unwrap();
        let mut messages = Messages::default();
        let (syslog, journald) = (Target::Syslog(path.clone()), Target::Journald(path.clone()));
        assert!(messages.send(&syslog, "web", b"words\n", now).is_err());
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut buffer = [0; 10_000];
        let mut received = |socket: &UnixDatagram| {
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        messages.send(&syslog, "web", b"words\n", now).unwrap();
        let text = received(&socket);
        assert!(
            text.starts_with("<30>Nov ") && text.ends_with(" web: words"),
            "{text}"
        );
        messages.send(&journald, "web", b"words", now).unwrap();
        let expected = "PRIORITY=6\nSYSLOG_IDENTIFIER=web\nMESSAGE=words\n";
        assert_eq!(received(&socket), expected);
        // A long one comes in pieces; a new socket is found.
        std::fs::remove_file(&path).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        messages.socket = None;
        messages.send(&syslog, "web", &[b'x'; 9000], now).unwrap();
        assert!(received(&socket).ends_with(&"x".repeat(8000)));
        assert!(received(&socket).ends_with(&"x".repeat(1000)));
    }

    #[test]
    fn a_reader_that_stops_in_a_line_holds_nobody_up_and_gets_the_rest_first() {
        use std::io::Read;
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut begun = Vec::new();
        let long = [vec![b'x'; 10_000], b"\n".to_vec()].concat();
        let mut sent = 0;
        let error = loop {
            match line_to(&writer, &mut begun, &long) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(!begun.is_empty(), "it has stopped between two lines");
        let mut text = vec![0; 20_000];
        reader.read_exact(&mut text).unwrap();
        line_to(&writer, &mut begun, b"next\n").unwrap();
        assert!(begun.is_empty());
        drop(writer);
        reader.read_to_end(&mut text).unwrap();
        let expected = [long.repeat(sent), b"next\n".to_vec()].concat();
        assert!(text == expected, "{} of {}", text.len(), expected.len());
    }

    #[test]
    fn one_that_takes_nothing_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::Journald(dir.path().join("socket"));
        let _socket = UnixDatagram::bind(dir.path().join("socket")).unwrap();
        let mut messages = Messages::default();
        let sent = (0..100_000).find_map(|_| {
            let now = Timestamp::UNIX_EPOCH;
            messages.send(&target, "web", b"words", now).err()
        });
        assert_eq!(sent.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}

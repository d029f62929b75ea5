//! Waiting without polling, for at most so long, ended by Ctrl-C. No other code of the benchmarks
//! blocks, so that an interrupted one cleans up as a failed one does.

use std::{
    io::{ErrorKind, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::report::now;

/// How long anything may take before a benchmark gives up: far longer than it ever takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// `CLOCK_MONOTONIC`, which other processes read as well.
pub(super) fn monotonic_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    let seconds = u64::try_from(time.tv_sec())?;
    Ok(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

/// Whether a pidfd's process ends within so long; not ended by Ctrl-C, so that it serves cleaning
/// up.
pub(super) fn ends_within(pidfd: BorrowedFd<'_>, patience: Duration) -> Result<bool> {
    poll_within([pidfd], patience).map(|ready| ready.is_some())
}

/// Becomes readable when a signal asks for the end.
pub(super) struct Interrupt(UnixStream);

impl Interrupt {
    pub(super) fn listen() -> Result<Self> {
        let (reader, writer) = UnixStream::pair().context("make a pair of sockets")?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)
                .context("listen for signals")?;
        }
        Ok(Self(reader))
    }

    /// Waits until at least one of these is readable or closed, and tells which are.
    ///
    /// # Errors
    /// When interrupted, or after [`PATIENCE`].
    pub(super) fn readable<const N: usize>(&self, fds: [BorrowedFd<'_>; N]) -> Result<[bool; N]> {
        match self.wait(fds, PATIENCE)? {
            Some(ready) => Ok(ready),
            None => bail!("what was waited for did not come within {PATIENCE:?}"),
        }
    }

    /// Waits for a time.
    pub(super) fn pause(&self, length: Duration) -> Result<()> {
        self.wait([], length).map(drop)
    }

    fn wait<const N: usize>(
        &self,
        fds: [BorrowedFd<'_>; N],
        patience: Duration,
    ) -> Result<Option<[bool; N]>> {
        let all = fds.into_iter().chain([self.0.as_fd()]);
        let Some(ready) = poll_within(all, patience)? else {
            return Ok(None);
        };
        if ready[N] {
            bail!("interrupted");
        }
        Ok(Some(std::array::from_fn(|index| ready[index])))
    }
}

/// Waits until at least one of these is readable or closed, and tells which are; `None`: not
/// within `patience`.
fn poll_within<'a>(
    fds: impl IntoIterator<Item = BorrowedFd<'a>>,
    patience: Duration,
) -> Result<Option<Vec<bool>>> {
    let polled = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut polled: Vec<PollFd<'_>> = fds.into_iter().map(polled).collect();
    let deadline = now() + patience;
    loop {
        let left = deadline.saturating_duration_since(now());
        // Rounded up, for a poll that returns too early would be repeated at once.
        let milliseconds = left.as_nanos().div_ceil(1_000_000);
        match poll(&mut polled, PollTimeout::try_from(milliseconds)?) {
            Ok(0) if milliseconds == 0 => return Ok(None),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => break,
            Err(error) => return Err(error).context("poll"),
        }
    }
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    Ok(Some(polled.iter().map(ready).collect()))
}

/// Lines from a pipe, read as they come.
pub(super) struct Lines {
    pipe: std::fs::File,
    buffer: Vec<u8>,
    /// The writers have closed it.
    ended: bool,
}

impl Lines {
    pub(super) fn of(pipe: impl Into<OwnedFd>) -> Result<Self> {
        let pipe = pipe.into();
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("set O_NONBLOCK")?;
        Ok(Self {
            pipe: pipe.into(),
            buffer: Vec::new(),
            ended: false,
        })
    }

    /// Takes the next line out of what has been read.
    pub(super) fn take(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line = self.buffer.drain(..=end).collect::<Vec<u8>>();
        Some(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    /// Reads what is there.
    pub(super) fn fill(&mut self) -> Result<()> {
        let mut chunk = [0; 65_536];
        loop {
            match self.pipe.read(&mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read a process's output"),
            }
        }
    }

    /// Whether nothing more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Forgets all lines but the last.
    pub(super) fn keep_last(&mut self) {
        let complete = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        if let Some(end) = complete.iter().rposition(|byte| *byte == b'\n') {
            self.buffer.drain(..=end);
        }
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self, interrupt: &Interrupt) -> Result<Option<String>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            interrupt.readable([self.as_fd()])?;
            self.fill()?;
        }
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn reads_lines_and_the_end() {
        let interrupt = Interrupt::listen().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut lines = Lines::of(reader).unwrap();
        writer.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(lines.next(&interrupt).unwrap().as_deref(), Some("one"));
        lines.keep_last();
        assert_eq!(lines.take(), None);
        writer.write_all(b"ee\n").unwrap();
        drop(writer);
        assert_eq!(lines.next(&interrupt).unwrap().as_deref(), Some("three"));
        assert_eq!(lines.next(&interrupt).unwrap(), None);
        assert!(lines.has_ended());
    }

    #[test]
    fn keeps_the_last_line_whole() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut lines = Lines::of(reader).unwrap();
        writer.write_all(b"one\ntwo\n").unwrap();
        lines.fill().unwrap();
        lines.keep_last();
        assert_eq!(lines.take().as_deref(), Some("two"));
    }

    #[test]
    fn a_pause_lasts_as_long_as_it_should() {
        let interrupt = Interrupt::listen().unwrap();
        let began = now();
        interrupt.pause(Duration::from_millis(5)).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(5));
    }
}

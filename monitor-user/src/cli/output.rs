//! Standard output of the commands that stream: never blocked by a reader that is slow or gone.
//!
//! A pipe that has room and a file are written to at once. Everything else takes the way through a
//! thread, which costs several times as much.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::{SFlag, fstat, makedev};
use serde::Serialize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest, Stdout};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::os;
use crate::text;

/// How long the last lines may take once the end is wanted.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);

/// From this many bytes on, what is formatted is written before more is taken.
const CHUNK: usize = 32 * 1024;

/// So much goes into a page.
const PIPE_BUF: usize = 4096;

/// Whether writing may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// All is written.
    Done,
    /// All is written, and a signal has asked for the end.
    Interrupted,
    /// The reader is gone, or does not read although a signal has asked for the end.
    Closed,
}

/// Standard output, and what is to go there.
pub(crate) struct Output {
    stdout: Stdout,
    /// Becomes ready when the reader of a pipe goes; `None` for a file.
    hangup: Option<AsyncFd<OwnedFd>>,
    /// A pipe, a regular file or /dev/null.
    is_plain: bool,
    colour: bool,
    is_terminal: bool,
    buffer: Vec<u8>,
    /// Full from this many bytes on.
    chunk: usize,
}

impl Output {
    /// To be made within the runtime.
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let hangup = stdout
            .as_fd()
            .try_clone_to_owned()
            .and_then(|fd| os::async_fd(fd, Interest::ERROR));
        Self {
            // A regular file cannot be waited for, and needs no waiting.
            hangup: hangup.ok(),
            is_plain: is_plain(&stdout),
            colour: anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
            is_terminal: stdout.is_terminal(),
            stdout: tokio::io::stdout(),
            buffer: Vec::new(),
            chunk: CHUNK,
        }
    }

    /// Whether a person reads it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Whether it is time to write.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= self.chunk
    }

    /// Takes more before it is full again: until the next write.
    pub(crate) fn make_room(&mut self) {
        self.chunk += CHUNK;
    }

    /// A line for a program.
    pub(crate) fn json(&mut self, object: &impl Serialize) -> Result<()> {
        self.verbatim(&text::json(object)?);
        Ok(())
    }

    /// A line for a program that is JSON already.
    pub(crate) fn json_line(&mut self, line: &str) {
        self.verbatim(&text::visible_json(line));
    }

    /// A line as it is.
    pub(crate) fn verbatim(&mut self, line: &str) {
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
    }

    /// A line for a person; its colours are shown on terminals only.
    pub(crate) fn line(&mut self, line: &str) {
        if self.colour {
            self.verbatim(line);
        } else {
            self.verbatim(&anstream::adapter::strip_str(line).to_string());
        }
    }

    /// Writes what is buffered.
    pub(crate) async fn flush(&mut self, interrupts: &mut Interrupts) -> Result<Flushed> {
        if self.buffer.is_empty() {
            return Ok(Flushed::Done);
        }
        let mut flushed = Flushed::Done;
        let written = match self.write_at_once() {
            Ok(length) if length < self.buffer.len() => {
                let rest = self.buffer.get(length..).unwrap_or_default();
                let mut writing = pin!(write(&mut self.stdout, rest));
                tokio::select! {
                    written = &mut writing => written,
                    () = interrupts.next() => {
                        flushed = Flushed::Interrupted;
                        match tokio::time::timeout(LAST_WORDS, writing).await {
                            Ok(written) => written,
                            Err(_) => return Ok(Flushed::Closed),
                        }
                    }
                }
            }
            written => written.map(drop),
        };
        match written {
            Ok(()) => {
                self.buffer.clear();
                self.chunk = CHUNK;
                Ok(flushed)
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Flushed::Closed),
            Err(error) => Err(error).context("cannot write to standard output"),
        }
    }

    /// Writes as much as certainly does not block; returns how much.
    fn write_at_once(&self) -> io::Result<usize> {
        let stdout = io::stdout();
        let mut written = 0;
        while self.is_plain && written < self.buffer.len() {
            // A pipe that is ready has a page free (`pipe_poll`, fs/pipe.c), and this is no more.
            let end = self.buffer.len().min(written + PIPE_BUF);
            let chunk = self.buffer.get(written..end).unwrap_or_default();
            if !is_ready(&stdout) {
                break;
            }
            match nix::unistd::write(&stdout, chunk) {
                Ok(length) => written += length,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(written)
    }

    /// Resolves when nobody reads any more.
    pub(crate) async fn closed(&mut self) {
        match &self.hangup {
            Some(hangup) => drop(hangup.ready(Interest::ERROR).await),
            None => std::future::pending().await,
        }
    }

    /// One last line, if what came before is written and the reader takes it soon.
    pub(crate) async fn last_line(&mut self, line: &str) {
        if self.buffer.is_empty() {
            let line = format!("{line}\n");
            let writing = write(&mut self.stdout, line.as_bytes());
            let _ = tokio::time::timeout(LAST_WORDS, writing).await;
        }
    }
}

/// Whether a write of at most a page goes through without waiting for a reader. A terminal may be
/// stopped in between, and what else is ready promises less.
fn is_plain(stdout: &impl AsFd) -> bool {
    fstat(stdout).is_ok_and(|stat| {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let is_null = kind == SFlag::S_IFCHR && stat.st_rdev == makedev(1, 3);
        kind == SFlag::S_IFIFO || kind == SFlag::S_IFREG || is_null
    })
}

fn is_ready(stdout: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    let count = os::poll_now(&mut polled);
    let events = polled[0].revents();
    count.is_ok_and(|count| count > 0) && events.is_some_and(|it| it.contains(PollFlags::POLLOUT))
}

async fn write(stdout: &mut Stdout, bytes: &[u8]) -> io::Result<()> {
    stdout.write_all(bytes).await?;
    stdout.flush().await
}

/// SIGINT, SIGTERM or SIGHUP.
pub(crate) struct Interrupts([Signal; 3]);

impl Interrupts {
    /// From now on these signals end nothing by themselves.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind);
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hangup.recv() => (),
        }
    }
}

/// Says something on standard error, if it is open.
pub(crate) fn eprint_line(text: &str) {
    let text = text::printable_lines(text);
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("respawn: {text}\n"));
}

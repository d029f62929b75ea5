//! What `watch` writes to standard output: never blocked by a reader that is slow or gone.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;

use anyhow::{Context, Result};
use jiff::tz::TimeZone;
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest, Stdout};

use super::{Interrupts, LAST_WORDS, Summary};
use crate::clock;
use crate::os;
use crate::report::{Exited, HEADER};
use crate::supervisor::Cause;

/// From this many bytes on, what is formatted is written before more is read from the ring.
const CHUNK: usize = 32 * 1024;

/// Whether writing may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All is written.
    Done,
    /// All is written, and a signal has asked for the end.
    Interrupted,
    /// The reader is gone, or does not read although a signal has asked for the end.
    Closed,
}

/// Standard output, and what is to go there.
pub(super) struct Output {
    stdout: Stdout,
    /// Becomes ready when the reader of a pipe goes; `None` for a file.
    hangup: Option<AsyncFd<OwnedFd>>,
    json: bool,
    colour: bool,
    zone: TimeZone,
    buffer: Vec<u8>,
    /// Full from this many bytes on.
    chunk: usize,
    buffered: u64,
    shown: u64,
}

impl Output {
    pub(super) fn new(json: bool) -> Result<Self> {
        let stdout = io::stdout();
        let hangup = stdout
            .as_fd()
            .try_clone_to_owned()
            .and_then(|fd| os::async_fd(fd, Interest::ERROR));
        let mut output = Self {
            // A regular file cannot be waited for, and needs no waiting.
            hangup: hangup.ok(),
            json,
            colour: anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
            zone: TimeZone::system(),
            stdout: tokio::io::stdout(),
            buffer: Vec::new(),
            chunk: CHUNK,
            buffered: 0,
            shown: 0,
        };
        if !json && stdout.is_terminal() {
            output.line(&format!("\u{1b}[1m{HEADER}\u{1b}[0m"));
        }
        Ok(output)
    }

    /// Exits that have been written.
    pub(super) fn shown(&self) -> u64 {
        self.shown
    }

    /// Whether it is time to write.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= self.chunk
    }

    /// Takes more before it is full again: until the next write.
    pub(super) fn make_room(&mut self) {
        self.chunk += CHUNK;
    }

    /// Shows an exit.
    pub(super) fn exited(&mut self, exited: &Exited) -> Result<()> {
        self.buffered += 1;
        if self.json {
            serde_json::to_writer(&mut self.buffer, exited)?;
            self.buffer.push(b'\n');
        } else {
            let line = exited.line(&self.zone);
            self.line(&line);
        }
        Ok(())
    }

    /// Shows a process that was gone before it could be watched.
    pub(super) fn gone(&mut self, pid: u32) -> Result<()> {
        self.exited(&Exited {
            event: "exited",
            time: clock::now(),
            service: None,
            pid,
            host_pid: None,
            start_time_ns: None,
            comm: None,
            uptime_ns: None,
            cause: Cause::Unknown,
            parent_pid: None,
            uid: None,
            cgroup_id: None,
        })
    }

    /// Says that the kernel could not report so many exits.
    pub(super) fn lost(&mut self, count: u64) {
        if self.json {
            let line = json!({ "event": "events_lost", "time": clock::now(), "count": count });
            self.line(&line.to_string());
        } else {
            self.line(&format!(
                "\u{1b}[31m{count} exits lost: the ring was full\u{1b}[0m"
            ));
        }
    }

    fn line(&mut self, line: &str) {
        if self.colour || self.json {
            self.buffer.extend_from_slice(line.as_bytes());
        } else {
            self.buffer
                .extend_from_slice(anstream::adapter::strip_str(line).to_string().as_bytes());
        }
        self.buffer.push(b'\n');
    }

    /// Writes what is buffered.
    pub(super) async fn flush(&mut self, interrupts: &mut Interrupts) -> Result<Flushed> {
        if self.buffer.is_empty() {
            return Ok(Flushed::Done);
        }
        let mut flushed = Flushed::Done;
        let written = {
            let mut writing = pin!(write(&mut self.stdout, &self.buffer));
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
        };
        match written {
            Ok(()) => {
                self.shown += std::mem::take(&mut self.buffered);
                self.buffer.clear();
                self.chunk = CHUNK;
                Ok(flushed)
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Flushed::Closed),
            Err(error) => Err(error).context("cannot write to standard output"),
        }
    }

    /// Resolves when nobody reads any more.
    pub(super) async fn closed(&mut self) {
        match &self.hangup {
            Some(hangup) => drop(hangup.ready(Interest::ERROR).await),
            None => std::future::pending().await,
        }
    }

    /// The summary, as the last line of `--json`.
    pub(super) async fn finish(&mut self, summary: &Summary) {
        if !self.json || !self.buffer.is_empty() {
            return;
        }
        let mut line = json!({
            "event": "summary",
            "time": clock::now(),
            "shown": summary.shown,
            "lost": summary.lost,
            "wakeups": summary.wakeups,
        });
        if let Some(hook) = summary.hook {
            line["hook_runs"] = hook.runs.into();
            line["hook_run_time_ns"] = hook.run_time_ns.into();
        }
        let line = format!("{line}\n");
        // The reader may be gone or not reading: the summary goes to standard error as well.
        let _ = tokio::time::timeout(LAST_WORDS, write(&mut self.stdout, line.as_bytes())).await;
    }
}

async fn write(stdout: &mut Stdout, bytes: &[u8]) -> io::Result<()> {
    stdout.write_all(bytes).await?;
    stdout.flush().await
}

//! One connection: lines in, commands to the agent, answers out, one after the other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Activity, Incoming, Peer};
use crate::control::protocol::{BadRequest, Command, MAX_REQUEST, Response};
use crate::os;

/// How much is read at once.
const CHUNK: usize = 4096;

/// The task of one peer that may ask the agent, or command it.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) peer: Peer,
    /// Of who may only ask: what is said to a command.
    pub(super) refusal: Option<String>,
    /// How long a started line may take to end, and an answer to be read.
    pub(super) patience: Duration,
    pub(super) activity: Arc<Activity>,
    pub(super) commands: mpsc::Sender<Incoming>,
    /// Counts the connections that there are.
    pub(super) _open: Arc<()>,
    /// What was read and not yet used.
    pub(super) buffer: Vec<u8>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.activity.evicted.load(Relaxed) {
            let message = "too many connections: closed to make room for others; ask again later";
            super::refuse(&self.stream, message.to_owned());
        }
    }
}

/// Why there is no further answer.
enum End {
    /// The peer is gone, or does not read.
    Silent,
    /// This is to be said first.
    Told(String),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

impl Connection {
    /// Answers until the peer hangs up, or misbehaves, or the agent goes.
    pub(super) async fn serve(mut self) {
        if let Err(End::Told(message)) = self.converse().await {
            tracing::debug!(?self.peer, message, "closed a control connection");
            // It ends anyway.
            let _ = self.write(&Response::Error { message }).await;
        }
    }

    async fn converse(&mut self) -> Result<(), End> {
        while let Some(line) = self.next_line().await? {
            self.activity.answering.store(true, Relaxed);
            let response = match Command::from_line(&line) {
                Ok(command) => match &self.refusal {
                    Some(message) if !command.only_asks() => Response::Error {
                        message: message.clone(),
                    },
                    _ => self.ask(command).await?,
                },
                Err(BadRequest::Refused(message)) => Response::Error { message },
                Err(BadRequest::NotAnObject(message)) => return Err(End::Told(message)),
            };
            self.activity.acts();
            self.write(&response).await?;
            self.activity.answering.store(false, Relaxed);
            if self.activity.ending.load(Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// The next line that is not blank; `None` at the end. The last one may lack its newline.
    async fn next_line(&mut self) -> Result<Option<Vec<u8>>, End> {
        let mut deadline = None;
        let mut searched = 0;
        loop {
            let newline = self.buffer[searched..].iter().position(|&b| b == b'\n');
            let end = newline.map(|at| searched + at);
            if end.unwrap_or(self.buffer.len()) > MAX_REQUEST {
                return Err(End::Told(format!(
                    "the line is longer than {MAX_REQUEST} bytes, the most that a request may have"
                )));
            }
            if let Some(end) = end {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                searched = 0;
                deadline = None;
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            searched = self.buffer.len();
            if self.read(&mut deadline).await? == 0 {
                let rest = std::mem::take(&mut self.buffer);
                return Ok(Some(rest).filter(|rest| !rest.trim_ascii().is_empty()));
            }
        }
    }

    /// Reads some more; a line that has begun has to end by `deadline`, which is set here.
    async fn read(&mut self, deadline: &mut Option<Instant>) -> Result<usize, End> {
        if self.buffer.is_empty() {
            // An idle connection has all the time, and keeps no memory of its long lines.
            self.buffer = Vec::with_capacity(CHUNK);
            return Ok(self.stream.read_buf(&mut self.buffer).await?);
        }
        self.buffer.reserve(CHUNK);
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.patience);
        match timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
            Ok(read) => Ok(read?),
            Err(_) => Err(End::Told(format!(
                "the line did not end within {} s",
                self.patience.as_secs()
            ))),
        }
    }

    /// Has the agent do it, and waits for what it says; gives up when the peer hangs up.
    async fn ask(&self, command: Command) -> Result<Response, End> {
        // It may have come while this process was stopped, from someone who gave up since.
        if has_hung_up(&self.stream) {
            return Err(End::Silent);
        }
        self.activity.waits_for_agent();
        let (reply, answer) = oneshot::channel();
        let incoming = Incoming {
            command,
            reply,
            peer: self.peer,
        };
        let answered = async {
            // The agent ends: to its client that is the same as if it had been killed.
            self.commands
                .send(incoming)
                .await
                .map_err(|_| End::Silent)?;
            answer.await.map_err(|_| End::Silent)
        };
        tokio::select! {
            biased;
            response = answered => response,
            () = hung_up(&self.stream) => Err(End::Silent),
        }
    }

    async fn write(&mut self, response: &Response) -> Result<(), End> {
        let line = response.to_line();
        match timeout(self.patience, self.stream.write_all(&line)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(End::Silent),
        }
    }
}

/// Whether the peer has closed its end, past the runtime, which may not know that yet.
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let looked = os::poll_now(&mut fds);
    let [fd] = fds;
    let events = fd.revents().filter(|_| looked.is_ok());
    events.is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Resolves when the peer has closed its end. One that only has no more to say still listens.
async fn hung_up(stream: &UnixStream) {
    // Through a descriptor of its own: to wait for the next change, the readiness that is known
    // of it has to be forgotten, and the stream's own is needed to write the answer.
    let watched = stream
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd: OwnedFd| os::async_fd(fd, Interest::WRITABLE));
    let Ok(watched) = watched else {
        return std::future::pending().await;
    };
    while let Ok(mut guard) = watched.ready(Interest::WRITABLE).await {
        if guard.ready().is_write_closed() {
            return;
        }
        guard.clear_ready();
    }
}

//! The other end of the socket: asks an agent one thing, and waits for its answer.
//!
//! Blocking, and made for a command that does nothing else.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::protocol::{Command, Response};
use super::rights;

/// How long an agent may take for what needs no waiting.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks for an agent that is on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks for an agent where a socket says that there was one: a spare takes over in less.
const LOOKS: u32 = 50;

/// Looks for an agent after one has died before its answer: init may take a second for the next.
const LOOKS_FOR_NEXT: u32 = 500;

/// How many agents may die under one command.
const MOST_DEATHS: u32 = 3;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// Nobody listens on the socket.
    NoAgent { socket: PathBuf, error: io::Error },
    /// The socket's rights are against it.
    NotAllowed { socket: PathBuf, may: String },
    /// The agent died first, and asking again could do the same thing twice.
    Unanswered { pid: i32 },
    /// The agent, or what listens in its place, does not answer in time.
    Late { pid: i32 },
    /// Anything else.
    Failed { socket: PathBuf, error: io::Error },
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAgent { socket, error } => {
                let socket = socket.display();
                write!(
                    f,
                    "no agent to talk to: {socket}: {error}; is `respawn agent` running, with this --runtime-dir?"
                )
            }
            Self::NotAllowed { socket, may } => {
                let socket = socket.display();
                write!(f, "not allowed to command the agent: {socket} is for {may}")
            }
            Self::Unanswered { pid } => write!(
                f,
                "the agent (pid {pid}) ended before it answered, so whether it was done is not \
                 known; `respawn status` shows how the services are, `respawn events` what was done"
            ),
            Self::Late { pid } => {
                let within = ANSWER_WITHIN.as_secs();
                write!(
                    f,
                    "the agent (pid {pid}) has not answered within {within} s"
                )
            }
            Self::Failed { socket, error } => {
                write!(f, "cannot ask the agent: {}: {error}", socket.display())
            }
        }
    }
}

impl std::error::Error for AskError {}

/// Asks the agent with this runtime directory, and waits until it is done.
///
/// If the agent dies meanwhile, its spare or its successor is asked again, where that does no
/// harm.
pub(crate) fn ask(runtime_dir: &Path, command: &Command) -> Result<Response, AskError> {
    let socket = super::socket(runtime_dir);
    let mut deaths = 0;
    let mut last = 0;
    loop {
        let stream = match connect(&socket, deaths > 0) {
            // The one that was asked may have done it.
            Err(AskError::NoAgent { .. }) if deaths > 0 => {
                return Err(AskError::Unanswered { pid: last });
            }
            connected => connected?,
        };
        let pid = getsockopt(&stream, PeerCredentials).map_or(0, |peer| peer.pid());
        let failed = |error| AskError::Failed {
            socket: socket.clone(),
            error,
        };
        match exchange(&stream, command).map_err(failed)? {
            Answer::Line(line) => {
                return Response::from_line(&line).map_err(|error| {
                    failed(io::Error::other(format!(
                        "its answer makes no sense: {error}"
                    )))
                });
            }
            Answer::Late => return Err(AskError::Late { pid }),
            Answer::None => deaths += 1,
        }
        last = pid;
        if !may_repeat(command) || deaths >= MOST_DEATHS {
            return Err(AskError::Unanswered { pid });
        }
    }
}

/// Connects to the agent that listens at this moment; also its pid, 0 if it is in another PID
/// namespace.
///
/// # Errors
/// Nobody listens; the socket's rights are against it.
pub(crate) fn reach(runtime_dir: &Path) -> io::Result<(UnixStream, u32)> {
    let stream = UnixStream::connect(super::socket(runtime_dir))?;
    let pid = getsockopt(&stream, PeerCredentials)?.pid();
    Ok((stream, u32::try_from(pid).unwrap_or(0)))
}

/// Whether asking twice comes to the same as asking once.
fn may_repeat(command: &Command) -> bool {
    match command {
        Command::Restart { .. } | Command::Signal { .. } => false,
        Command::Status { .. }
        | Command::Start { .. }
        | Command::Stop { .. }
        | Command::Reload
        | Command::Shutdown => true,
    }
}

/// Whether the answer depends on how long services take.
fn takes_time(command: &Command) -> bool {
    match command {
        Command::Start { no_wait, .. }
        | Command::Stop { no_wait, .. }
        | Command::Restart { no_wait, .. } => !no_wait,
        Command::Status { .. } | Command::Signal { .. } => false,
        Command::Reload | Command::Shutdown => true,
    }
}

/// Connects; waits a little for an agent of which there are signs.
fn connect(socket: &Path, died: bool) -> Result<UnixStream, AskError> {
    let mut looks = if died { LOOKS_FOR_NEXT } else { LOOKS };
    loop {
        let error = match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let socket = socket.to_owned();
        looks -= 1;
        match error.kind() {
            io::ErrorKind::ConnectionRefused if looks > 0 => thread::sleep(LOOK_AGAIN),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                return Err(AskError::NoAgent { socket, error });
            }
            io::ErrorKind::PermissionDenied => {
                let may = rights::who_may(&socket, rights::WRITE);
                return Err(AskError::NotAllowed { socket, may });
            }
            _ => return Err(AskError::Failed { socket, error }),
        }
    }
}

/// What came back.
enum Answer {
    Line(Vec<u8>),
    /// The connection ended first.
    None,
    Late,
}

fn exchange(mut stream: &UnixStream, command: &Command) -> io::Result<Answer> {
    let limit = (!takes_time(command)).then_some(ANSWER_WITHIN);
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    // An agent that refuses has answered and hung up already, and its answer is to be read.
    let written = stream.write_all(&command.to_line());
    let mut line = Vec::new();
    let read = BufReader::new(stream).read_until(b'\n', &mut line);
    if line.ends_with(b"\n") {
        return Ok(Answer::Line(line));
    }
    for error in [written.err(), read.err()].into_iter().flatten() {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(Answer::Late),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {}
            _ => return Err(error),
        }
    }
    Ok(Answer::None)
}

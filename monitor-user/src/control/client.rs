//! The other end of the socket: asks an agent one thing, and waits for its answer.
//!
//! Blocking, and made for a command that does nothing else. Waits for as long as a command takes, but
//! never for an agent that answers nobody: after 5 s it says so.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::protocol::{Command, Response};
use super::rights;
use crate::os::proc;

/// How long an agent may take for what needs no waiting. Its spare takes half of that for one that is
/// stopped or stuck.
const ANSWER_WITHIN: Duration = Duration::from_millis(4500);

/// For what may take any time, whether the agent answers at all is asked so often, ...
const LOOK_AFTER: Duration = Duration::from_secs(2);

/// ... and this is waited for that.
const SIGN_WITHIN: Duration = Duration::from_millis(2500);

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
    Late { pid: i32, state: Option<char> },
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
            Self::Late { pid, state } => write_late(f, *pid, *state),
            Self::Failed { socket, error } => {
                write!(f, "cannot ask the agent: {}: {error}", socket.display())
            }
        }
    }
}

impl std::error::Error for AskError {}

fn write_late(f: &mut fmt::Formatter<'_>, pid: i32, state: Option<char>) -> fmt::Result {
    f.write_str("the agent does not answer")?;
    match state {
        Some('T') => write!(
            f,
            ": it is stopped, pid {pid}; `kill -CONT {pid}` continues it"
        ),
        Some('t') => write!(
            f,
            ": it is stopped, pid {pid}, by a tracer such as a debugger"
        ),
        Some('D') => write!(f, ": it waits in the kernel, pid {pid} (state D)"),
        Some(state) => write!(f, ": it is stuck or overloaded, pid {pid} (state {state})"),
        None if pid > 0 => write!(f, ", pid {pid}"),
        None => Ok(()),
    }
}

/// An agent that does not answer, and what it does instead as far as that can be seen from here.
fn late(pid: i32) -> AskError {
    let state = u32::try_from(pid).ok().filter(|pid| *pid != 0);
    let state = state.and_then(|pid| Some(proc::stat(pid).ok()?.state));
    AskError::Late { pid, state }
}

/// Asks the agent with this runtime directory, and waits until it is done.
///
/// If the agent dies meanwhile, its spare or its successor is asked again, where that does no
/// harm.
pub(crate) fn ask(runtime_dir: &Path, command: &Command) -> Result<Response, AskError> {
    let socket = super::socket(runtime_dir);
    let mut command = Cow::Borrowed(command);
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
        let lives = || shows_life(&socket);
        match exchange(&stream, &command, lives).map_err(failed)? {
            Answer::Line(line) => {
                return Response::from_line(&line).map_err(|error| {
                    failed(io::Error::other(format!(
                        "its answer makes no sense: {error}"
                    )))
                });
            }
            Answer::Late => return Err(late(pid)),
            Answer::None => deaths += 1,
        }
        last = pid;
        if !may_repeat(&command) || deaths >= MOST_DEATHS {
            return Err(AskError::Unanswered { pid });
        }
        if let Command::Start { again, .. } = command.to_mut() {
            *again = true;
        }
    }
}

/// Connects to the agent that listens at this moment; also its pid, 0 if it is in another PID
/// namespace.
///
/// # Errors
/// Nobody listens, or nobody takes connections up; the socket's rights are against it.
pub(crate) fn reach(runtime_dir: &Path) -> io::Result<(UnixStream, u32)> {
    let stream = connect_within(&super::socket(runtime_dir), SIGN_WITHIN)?;
    let pid = getsockopt(&stream, PeerCredentials)?.pid();
    Ok((stream, u32::try_from(pid).unwrap_or(0)))
}

/// Whether the agent answers anything at all: `Err` says why it does not.
///
/// # Errors
/// As [`ask`].
pub(crate) fn look(runtime_dir: &Path) -> Result<(), AskError> {
    ask(runtime_dir, &sign_of_life()).map(drop)
}

/// A question that is answered at once, and in short.
fn sign_of_life() -> Command {
    Command::Status {
        services: vec![String::new()],
    }
}

/// Asks on a connection of its own, as the other one waits for its answer. A connection that ends
/// is life as well: the other one tells what follows from that.
fn shows_life(socket: &Path) -> bool {
    let is_late = |error: io::Error| is_late(&error);
    let asked = connect_within(socket, SIGN_WITHIN).and_then(|mut stream| {
        stream.set_read_timeout(Some(SIGN_WITHIN))?;
        stream.write_all(&sign_of_life().to_line())?;
        stream.read(&mut [0])
    });
    !asked.is_err_and(is_late)
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Connects; a socket that takes up no more connections is given up in time.
fn connect_within(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let time = limit.as_micros().try_into().map_err(io::Error::other)?;
    setsockopt(&socket, SendTimeout, &TimeVal::microseconds(time))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

/// Whether asking twice comes to the same as asking once.
fn may_repeat(command: &Command) -> bool {
    match command {
        Command::Restart { .. } | Command::Signal { .. } | Command::ReloadServices { .. } => false,
        Command::Status { .. }
        | Command::Show { .. }
        | Command::Start { .. }
        | Command::Stop { .. }
        | Command::Reload { .. }
        | Command::Shutdown => true,
    }
}

/// Whether the answer depends on how long services take.
fn takes_time(command: &Command) -> bool {
    match command {
        Command::Start { no_wait, .. }
        | Command::Stop { no_wait, .. }
        | Command::Restart { no_wait, .. } => !no_wait,
        Command::Status { .. } | Command::Show { .. } | Command::Signal { .. } => false,
        Command::Reload { .. } | Command::ReloadServices { .. } | Command::Shutdown => true,
    }
}

/// Connects; waits a little for an agent of which there are signs.
fn connect(socket: &Path, died: bool) -> Result<UnixStream, AskError> {
    let mut looks = if died { LOOKS_FOR_NEXT } else { LOOKS };
    loop {
        let error = match connect_within(socket, ANSWER_WITHIN) {
            Ok(stream) => return Ok(stream),
            // Too many wait already.
            Err(error) if is_late(&error) => return Err(late(0)),
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
                let may = rights::who_may(&socket, &rights::WRITE);
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

/// `lives`: whether the agent answers others, where its answer may take any time.
fn exchange(
    mut stream: &UnixStream,
    command: &Command,
    lives: impl Fn() -> bool,
) -> io::Result<Answer> {
    let takes_time = takes_time(command);
    stream.set_read_timeout(Some(if takes_time {
        LOOK_AFTER
    } else {
        ANSWER_WITHIN
    }))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    // An agent that refuses has answered and hung up already, and its answer is to be read.
    let written = stream.write_all(&command.to_line());
    let mut line = Vec::new();
    let mut answer = BufReader::new(stream);
    let read = loop {
        match answer.read_until(b'\n', &mut line) {
            Err(error) if takes_time && is_late(&error) && lives() => {}
            read => break read,
        }
    };
    if line.ends_with(b"\n") {
        return Ok(Answer::Line(line));
    }
    for error in [written.err(), read.err()].into_iter().flatten() {
        match error.kind() {
            _ if is_late(&error) => return Ok(Answer::Late),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {}
            _ => return Err(error),
        }
    }
    Ok(Answer::None)
}

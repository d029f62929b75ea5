//! The agent's end of the socket: listens, checks who calls, and hands on whole commands.
//!
//! Decides nothing and waits for nobody: each connection is a task of its own, and the agent's
//! loop takes a command from [`Server::next`] as it takes any other fact.
//!
//! A connection's line, and what ends it:
//! - what is no JSON object, or is longer than `MAX_REQUEST`: an error, then the end;
//! - an object that is no command: an error, and on with the next line;
//! - half a line, or an answer that is not read, for `patience`: the end;
//! - more than `connections` of them: of the user who has most, the one that has been idle longest
//!   makes room, and is told so;
//! - many at once: a few are accepted, then the loop has its turn.
//!
//! Several lines at once are answered one after the other, in their order. An idle connection
//! costs no timer. One whose command the agent works on is never closed to make room; when its
//! peer hangs up, the command goes on, and its answer is lost. If the peer has hung up before the
//! command is taken up, as under a stopped agent, it is not taken up at all.

mod access;
mod connection;
mod listen;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{MsgFlags, send};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

pub(crate) use self::access::Groups;
use self::access::{Access, Caller, Right};
use self::connection::Connection;
pub(crate) use self::listen::listen_private;
use super::protocol::{Command, Response};
use crate::os::progress;

/// How many commands wait for the agent's loop; more wait on their connections.
const MOST_WAITING: usize = 64;

/// What the connections may cost.
#[derive(Clone, Copy)]
struct Limits {
    /// How many there are at once.
    connections: usize,
    /// How long a started line may take to end, and an answer to be read.
    patience: Duration,
}

const LIMITS: Limits = Limits {
    connections: 256,
    patience: Duration::from_secs(10),
};

/// How long the last answers may take once the agent goes.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// So many connections are accepted in one go ...
const BURST: usize = 32;

/// ... and then none for so long: who connects in a loop costs the services little.
const BURST_PAUSE: Duration = Duration::from_millis(5);

/// After a connection could not be accepted, for lack of descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A command, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) command: Command,
    /// To be used once. The send fails if the peer has hung up meanwhile: nobody minds.
    pub(crate) reply: oneshot::Sender<Response>,
    /// Who asks, for the log.
    pub(crate) peer: Peer,
}

/// Who is at the other end, as it was when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// 0 for a process of another PID namespace.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// The listening socket and its connections; dropped, it closes them all.
pub(crate) struct Server {
    path: PathBuf,
    listener: UnixListener,
    access: Access,
    limits: Limits,
    connections: Vec<OpenConnection>,
    /// Counts the connections' acts, so that their order is known without a clock.
    acts: Arc<AtomicU64>,
    commands: mpsc::Sender<Incoming>,
    incoming: mpsc::Receiver<Incoming>,
    /// Accepting fails, and that was logged.
    is_failing: bool,
    /// Nobody is accepted before.
    paused_until: Option<Instant>,
    /// Accepted since the last pause.
    burst: usize,
    /// Cloned by each connection: those that were closed to make room, but hold their descriptors
    /// still, are known by it.
    open: Arc<()>,
}

/// A connection, seen from the server.
struct OpenConnection {
    caller: Caller,
    right: Right,
    activity: Arc<Activity>,
    task: JoinHandle<()>,
}

/// What a connection does, as far as the server needs to know.
struct Activity {
    acts: Arc<AtomicU64>,
    /// The number of its last act, or `WITH_AGENT`.
    last_act: AtomicU64,
    /// Between a request's end and its answer's.
    answering: AtomicBool,
    /// It is closed to make room for another one.
    evicted: AtomicBool,
    /// The answer under way is its last.
    ending: AtomicBool,
}

/// The agent works on the connection's command.
const WITH_AGENT: u64 = u64::MAX;

impl Activity {
    fn acts(&self) {
        self.last_act
            .store(self.acts.fetch_add(1, Relaxed), Relaxed);
    }

    fn waits_for_agent(&self) {
        self.last_act.store(WITH_AGENT, Relaxed);
    }
}

impl Server {
    /// Listens at `path`, for root, the agent's own user and the members of `groups`.
    ///
    /// A socket that an earlier agent left there is replaced: the caller holds the agent's lock.
    /// To be called in the runtime.
    ///
    /// # Errors
    /// Something else is at `path`, which is left as it is, or the directory or group does not
    /// permit it.
    pub(crate) fn bind(path: &Path, groups: Groups) -> Result<Self> {
        let listener = listen::listen(path, groups)
            .with_context(|| format!("cannot listen on the control socket {}", path.display()))?;
        listener.set_nonblocking(true)?;
        let (commands, incoming) = mpsc::channel(MOST_WAITING);
        Ok(Self {
            path: path.to_owned(),
            listener: UnixListener::from_std(listener)?,
            access: Access {
                own_uid: nix::unistd::geteuid().as_raw(),
                groups,
            },
            limits: LIMITS,
            connections: Vec::new(),
            acts: Arc::default(),
            commands,
            incoming,
            is_failing: false,
            paused_until: None,
            burst: 0,
            open: Arc::default(),
        })
    }

    /// Listens again, at a path that somebody has removed. The connections stay.
    ///
    /// # Errors
    /// As of [`Server::bind`].
    pub(crate) fn bind_again(&mut self) -> Result<()> {
        let listener = listen::listen(&self.path, self.access.groups).with_context(|| {
            format!(
                "cannot listen on the control socket {}",
                self.path.display()
            )
        })?;
        listener.set_nonblocking(true)?;
        self.listener = UnixListener::from_std(listener)?;
        Ok(())
    }

    /// The next command; accepts connections meanwhile. Cancel-safe: nothing is lost.
    pub(crate) async fn next(&mut self) -> Incoming {
        loop {
            tokio::select! {
                // Never `None`: a sender is kept.
                Some(incoming) = self.incoming.recv() => return incoming,
                accepted = accept(&self.listener, self.paused_until) => self.admit(accepted),
            }
        }
    }

    /// Lets the members of other groups in; whose right is another one now is cut off.
    ///
    /// # Errors
    /// The socket's group cannot be changed. The old one's members are out nevertheless.
    pub(crate) fn set_groups(&mut self, groups: Groups) -> Result<()> {
        if groups == self.access.groups {
            return Ok(());
        }
        self.access.groups = groups;
        let access = &self.access;
        self.connections.retain(|held| {
            let stays = access.right(&held.caller) == Some(held.right);
            if !stays {
                held.task.abort();
            }
            stays
        });
        listen::set_rights(&self.path, groups)
            .with_context(|| format!("cannot set the group of {}", self.path.display()))
    }

    /// Gives the last answers the time to be written, and ends.
    ///
    /// Commands without an answer by now are told that the agent goes, if their `reply` was
    /// dropped. The socket stays where it is: the next agent replaces it.
    pub(crate) async fn finish(mut self) {
        self.incoming.close();
        // Commands that nobody will take any more: dropping them tells their connections.
        while self.incoming.try_recv().is_ok() {}
        let mut last = Vec::new();
        for held in &mut self.connections {
            held.activity.ending.store(true, Relaxed);
            if held.activity.answering.load(Relaxed) {
                last.push(&mut held.task);
            }
        }
        let written = async {
            for task in last {
                // A connection's panic would have been logged; its end is all that matters.
                let _ = task.await;
            }
        };
        let _ = timeout(LAST_WORDS, written).await;
    }

    fn admit(&mut self, accepted: io::Result<UnixStream>) {
        progress::count();
        match accepted {
            Ok(stream) => {
                self.paused_until = None;
                self.is_failing = false;
                self.welcome(stream);
                self.burst += 1;
                let open = Arc::strong_count(&self.open);
                if self.burst >= BURST || open > self.limits.connections + BURST {
                    self.burst = 0;
                    self.paused_until = Some(Instant::now() + BURST_PAUSE);
                }
            }
            // The peer was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "cannot accept a connection on the control socket");
                }
                self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                self.make_room();
            }
        }
    }

    fn welcome(&mut self, stream: UnixStream) {
        let caller = match Caller::of(&stream) {
            Ok(caller) => caller,
            Err(error) => {
                tracing::warn!(%error, "cannot tell who connects to the control socket");
                return;
            }
        };
        let Some(right) = self.access.right(&caller) else {
            tracing::info!(?caller.peer, "refused a connection to the control socket");
            return refuse(&stream, self.access.refusal(&caller));
        };
        self.connections.retain(|held| !held.task.is_finished());
        let most = self.limits.connections;
        if self.connections.len() >= most && !self.make_room() {
            let message = format!("{most} commands are being worked on; ask again later");
            return refuse(&stream, message);
        }
        let activity = Arc::new(Activity {
            acts: self.acts.clone(),
            last_act: AtomicU64::default(),
            answering: AtomicBool::default(),
            evicted: AtomicBool::default(),
            ending: AtomicBool::default(),
        });
        activity.acts();
        let connection = Connection {
            stream,
            peer: caller.peer,
            refusal: (right == Right::Ask).then(|| self.access.refusal(&caller)),
            patience: self.limits.patience,
            activity: activity.clone(),
            commands: self.commands.clone(),
            _open: self.open.clone(),
            buffer: Vec::new(),
        };
        self.connections.push(OpenConnection {
            caller,
            right,
            activity,
            task: tokio::spawn(connection.serve()),
        });
    }

    /// Closes the connection that has been idle longest, of the user who has most of the idle ones;
    /// `false` if there is none.
    fn make_room(&mut self) -> bool {
        let last_act = |held: &OpenConnection| held.activity.last_act.load(Relaxed);
        let is_idle = |held: &&OpenConnection| last_act(held) != WITH_AGENT;
        let mut of_users: HashMap<u32, usize> = HashMap::new();
        for held in self.connections.iter().filter(is_idle) {
            *of_users.entry(held.caller.peer.uid).or_default() += 1;
        }
        let most = of_users.into_iter().max_by_key(|(_, count)| *count);
        let most = most.map(|(uid, _)| uid);
        let idle = self.connections.iter().enumerate();
        let longest = idle
            .filter(|(_, held)| is_idle(held) && Some(held.caller.peer.uid) == most)
            .min_by_key(|(_, held)| last_act(held))
            .map(|(index, _)| index);
        if let Some(index) = longest {
            let held = self.connections.swap_remove(index);
            tracing::debug!(?held.caller.peer, "closed an idle connection to make room");
            held.activity.evicted.store(true, Relaxed);
            held.task.abort();
        }
        longest.is_some()
    }
}

/// Readable while somebody waits to be let in.
impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for held in &self.connections {
            held.task.abort();
        }
    }
}

/// Accepts a connection, not before `paused_until`.
async fn accept(listener: &UnixListener, paused_until: Option<Instant>) -> io::Result<UnixStream> {
    if let Some(until) = paused_until {
        sleep_until(until).await;
    }
    listener.accept().await.map(|(stream, _)| stream)
}

/// Says why a connection is closed, as far as its socket takes that without waiting.
fn refuse(stream: &UnixStream, message: String) {
    let line = Response::Error { message }.to_line();
    // Past the runtime, which does not know yet that a new socket is writable.
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    // A peer that has gone already needs no answer.
    let _ = send(stream.as_raw_fd(), &line, flags);
}

//! Where the view has its facts from: the agent, the journal, the kernel, the keyboard. Waits for
//! each without holding up the others, and begins anew with what has gone away.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Result;
use ratatui::crossterm::event::{self, Event};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::model::{Absence, HostExit, Input, Order};
use crate::control::client::{self, AskError};
use crate::control::{self, Command, Response};
use crate::deaths::{self, Filter};
use crate::host_exits::{HostExits, Loss, Sink};
use crate::journal::{Changes, Reader};
use crate::model::{Exited, Profile};
use crate::os;
use crate::probe;

/// Lines of the journal that are taken at once.
const LINES: usize = 500;

/// Exits that are taken at once.
const EXITS: usize = 500;

/// What a thread brings.
pub(super) enum Brought {
    /// How the services are; and a connection that ends with the agent, if there is an agent.
    Look(Input, Option<UnixStream>),
    /// What came of an order.
    Done(Input),
    /// The host's exits, or why they cannot be seen.
    Exits(Result<Box<HostExits>>),
    /// A key, or another size.
    Terminal(Event),
    /// The keyboard cannot be read.
    NoKeyboard(io::Error),
}

/// The agent: asked in threads, for it may be slow, or gone.
pub(super) struct AgentFeed {
    runtime_dir: PathBuf,
    bring: mpsc::UnboundedSender<Brought>,
    /// Idle; the agent's end is the end of it.
    connection: Option<AsyncFd<UnixStream>>,
    is_asked: bool,
}

impl AgentFeed {
    pub(super) fn new(runtime_dir: &Path, bring: mpsc::UnboundedSender<Brought>) -> Self {
        Self {
            runtime_dir: runtime_dir.to_owned(),
            bring,
            connection: None,
            is_asked: false,
        }
    }

    /// Whether an answer is on its way.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// Whether the agent's end would be noticed.
    pub(super) fn is_held(&self) -> bool {
        self.connection.is_some()
    }

    /// Asks how the services are. With `patience`, an agent that has just gone is waited for.
    pub(super) fn look(&mut self, patience: bool) {
        self.is_asked = true;
        let (dir, bring) = (self.runtime_dir.clone(), self.bring.clone());
        spawn_blocking(move || {
            let (input, connection) = look(&dir, patience);
            let _ = bring.send(Brought::Look(input, connection));
        });
    }

    /// Takes what a look has brought.
    pub(super) fn looked(&mut self, connection: Option<UnixStream>) {
        self.is_asked = false;
        let watched = |stream: UnixStream| {
            stream.set_nonblocking(true)?;
            os::async_fd(stream, Interest::READABLE)
        };
        self.connection = connection.and_then(|stream| watched(stream).ok());
    }

    /// Has something done.
    pub(super) fn order(&self, order: Order) {
        let (dir, bring) = (self.runtime_dir.clone(), self.bring.clone());
        spawn_blocking(move || {
            let result = obey(&dir, &order.command());
            let _ = bring.send(Brought::Done(Input::Done(order, result)));
        });
    }

    /// Waits for the agent to hang up.
    pub(super) async fn hung_up(&mut self) {
        match &self.connection {
            // It sends nothing unasked.
            Some(connection) => drop(connection.readable().await),
            None => std::future::pending().await,
        }
        self.connection = None;
    }
}

fn look(dir: &Path, patience: bool) -> (Input, Option<UnixStream>) {
    let connect = || UnixStream::connect(control::socket(dir));
    // Before the question, so that no agent ends unnoticed after its answer.
    let connection = connect();
    let nobody = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
    let is_nobody = |error: &io::Error| nobody.contains(&error.kind());
    if !patience && connection.as_ref().is_err_and(is_nobody) {
        return (Input::Unanswered(Absence::NoAgent), None);
    }
    let absence = match client::ask(dir, &Command::Status { services: vec![] }) {
        Ok(Response::Status { services }) => {
            return (
                Input::Statuses(services),
                connection.or_else(|_| connect()).ok(),
            );
        }
        Ok(other) => Absence::Other(beside_the_point(&other)),
        Err(AskError::NoAgent { .. } | AskError::Unanswered { .. }) => Absence::NoAgent,
        Err(error) => Absence::Other(error.to_string()),
    };
    (Input::Unanswered(absence), None)
}

fn obey(dir: &Path, command: &Command) -> Result<(), String> {
    match client::ask(dir, command) {
        Ok(Response::Done { results }) => match results.into_iter().find(|result| !result.ok) {
            None => Ok(()),
            Some(result) => Err(result.error.unwrap_or_else(|| "failed".to_owned())),
        },
        Ok(other) => Err(beside_the_point(&other)),
        Err(error) => Err(error.to_string()),
    }
}

fn beside_the_point(response: &Response) -> String {
    match response {
        Response::Error { message } => message.clone(),
        _ => "the agent answered something else than it was asked".to_owned(),
    }
}

/// The journal: its past, and what comes.
pub(super) struct JournalFeed {
    runtime_dir: PathBuf,
    open: Option<(Changes, Reader)>,
    /// There is more than was taken.
    more: bool,
}

impl JournalFeed {
    pub(super) fn new(runtime_dir: &Path) -> Self {
        Self {
            runtime_dir: runtime_dir.to_owned(),
            open: None,
            more: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether there is more than was taken so far.
    pub(super) fn is_behind(&self) -> bool {
        self.open.is_some() && self.more
    }

    /// Opens it, if that can be done by now.
    pub(super) fn open(&mut self) -> Input {
        let opened = Changes::of(&self.runtime_dir)
            .map_err(anyhow::Error::new)
            .and_then(|changes| Ok((changes, Reader::open(&self.runtime_dir)?)));
        match opened {
            Ok(open) => {
                self.open = Some(open);
                self.more = true;
                Input::JournalOpened
            }
            Err(error) => self.closed(&error),
        }
    }

    /// Waits until there may be something to take.
    pub(super) async fn ready(&mut self) {
        match &self.open {
            None => std::future::pending().await,
            Some(_) if self.more => {}
            Some((changes, _)) => match changes.next().await {
                Ok(true) => self.more = true,
                Ok(false) | Err(_) => self.open = None,
            },
        }
    }

    /// Takes some of what there is.
    pub(super) fn take(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        let Some((_, reader)) = &mut self.open else {
            return inputs;
        };
        while inputs.len() < LINES {
            match reader.next() {
                Ok(Some(line)) => inputs.push(Input::Happened(Box::new(line))),
                Ok(None) => {
                    self.more = false;
                    break;
                }
                Err(error) => {
                    inputs.push(self.closed(&error));
                    break;
                }
            }
        }
        inputs
    }

    fn closed(&mut self, error: &anyhow::Error) -> Input {
        self.open = None;
        Input::JournalClosed(format!("the journal cannot be read: {error:#}"))
    }
}

/// The exits of the host, if they can be seen.
pub(super) struct ExitFeed(Option<Box<HostExits>>);

/// What one take has brought.
#[derive(Default)]
struct Taken {
    exits: Vec<HostExit>,
    lost: u64,
    room: usize,
}

impl Sink for Taken {
    fn exited(&mut self, exited: Exited, profile: Option<Profile>) -> Result<()> {
        let owner = profile.and_then(|profile| deaths::owner(&profile.owner));
        self.exits.push(HostExit { exited, owner });
        Ok(())
    }

    fn lost(&mut self, loss: Loss) {
        let (Loss::NoRoom(count) | Loss::Skipped(count)) = loss;
        self.lost += count;
    }

    fn is_full(&self) -> bool {
        self.exits.len() >= EXITS + self.room
    }

    fn make_room(&mut self) {
        self.room += EXITS;
    }
}

impl ExitFeed {
    /// Brings nothing.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Has the kernel program loaded by a thread, which may take a while.
    pub(super) fn open(
        options: probe::Options,
        filter: Filter,
        bring: mpsc::UnboundedSender<Brought>,
    ) {
        spawn_blocking(move || {
            let exits = HostExits::open(&options, false, Some(filter)).map(Box::new);
            let _ = bring.send(Brought::Exits(exits));
        });
    }

    /// Takes what was loaded.
    pub(super) fn opened(&mut self, exits: Result<Box<HostExits>>) -> Vec<Input> {
        match exits {
            Ok(exits) => {
                self.0 = Some(exits);
                Vec::new()
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Waits until there is something to take.
    pub(super) async fn ready(&mut self) -> Vec<Input> {
        let ready = match &mut self.0 {
            Some(exits) => exits.ready().await,
            None => std::future::pending().await,
        };
        ready.map_or_else(|error| self.failed(&error), |()| Vec::new())
    }

    /// Takes all there is.
    pub(super) fn take(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        let mut taken = Taken::default();
        while let Some(exits) = &mut self.0 {
            let more = exits.take(&mut taken);
            inputs.extend(
                taken
                    .exits
                    .drain(..)
                    .map(|exited| Input::Exited(Box::new(exited))),
            );
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => inputs.extend(self.failed(&error)),
            }
        }
        if taken.lost > 0 {
            inputs.push(Input::Lost(taken.lost));
        }
        inputs
    }

    fn failed(&mut self, error: &anyhow::Error) -> Vec<Input> {
        self.0 = None;
        vec![Input::Blind(format!("{error:#}"))]
    }
}

/// Reads keys and sizes in a thread, until nobody takes them.
pub(super) fn read_keyboard(bring: mpsc::UnboundedSender<Brought>) {
    thread::spawn(move || {
        loop {
            let (brought, is_last) = match event::read() {
                Ok(event) => (Brought::Terminal(event), false),
                Err(error) => (Brought::NoKeyboard(error), true),
            };
            if bring.send(brought).is_err() || is_last {
                return;
            }
        }
    });
}

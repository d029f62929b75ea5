//! What the demo waits for: a signal, a line that a process prints, or the time.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Instant,
};

use anyhow::{Result, bail};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::report::now;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// Someone wants the demo to end.
    Interrupted,
    /// Some child of the demo has ended.
    ChildEnded,
    /// A line of what is read, without its newline.
    Line(String),
    /// What is read has ended.
    End,
    /// Nothing, within the time.
    Nothing,
}

/// Everything that comes, in its order.
pub(super) struct Facts {
    receiver: Receiver<Fact>,
    sender: Sender<Fact>,
}

impl Facts {
    /// Collects from now on the signals that end the demo, and those of its processes' ends.
    pub(super) fn listen() -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
        let (sender, receiver) = channel();
        let facts = sender.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                let fact = match signal {
                    SIGCHLD => Fact::ChildEnded,
                    _ => Fact::Interrupted,
                };
                if facts.send(fact).is_err() {
                    return;
                }
            }
        });
        Ok(Self { receiver, sender })
    }

    /// Collects the lines of this, too.
    pub(super) fn read(&self, from: impl Read + Send + 'static) {
        let facts = self.sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                let Ok(line) = line else { break };
                if facts.send(Fact::Line(line)).is_err() {
                    return;
                }
            }
            let _ = facts.send(Fact::End);
        });
    }

    /// Waits, without polling, for the next one or for that time.
    pub(super) fn next(&self, until: Instant) -> Result<Fact> {
        let left = until.saturating_duration_since(now());
        match self.receiver.recv_timeout(left) {
            Ok(fact) => Ok(fact),
            Err(RecvTimeoutError::Timeout) => Ok(Fact::Nothing),
            Err(RecvTimeoutError::Disconnected) => bail!("the thread for signals is gone"),
        }
    }
}

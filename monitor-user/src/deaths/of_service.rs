//! The deaths of a service by the journal of its agent: what led to each, and what came of it.

use anyhow::Result;

use crate::journal::JournalLine;
use crate::model::{Exit, Request, Sender, What};

/// The last deaths of a service, oldest first.
#[derive(Default)]
pub(crate) struct ServiceDeaths {
    pub(crate) is_known: bool,
    pub(crate) deaths: Vec<ServiceDeath>,
    /// Why it could not be started, or was given up, if it has not run since.
    pub(crate) trouble: Option<JournalLine>,
}

/// A death, and what came of it.
pub(crate) struct ServiceDeath {
    pub(crate) service: String,
    pub(crate) exited: JournalLine,
    /// The same, as an exit.
    pub(crate) exit: Exit,
    /// What the agent did to end it before, if it did.
    pub(crate) stopping: Option<JournalLine>,
    /// What somebody had asked of the agent that led to it.
    pub(crate) requested: Option<JournalLine>,
    /// The last of its other processes that a signal had ended before.
    pub(crate) child: Option<JournalLine>,
    /// What the journal tells of the service from there to the next death.
    pub(crate) then: Vec<JournalLine>,
    /// The death that ended what came of it.
    pub(crate) next: Option<JournalLine>,
}

/// What may lead to the next death.
#[derive(Default)]
struct Before {
    /// Pid of the agent that works.
    agent: Option<u32>,
    /// The last request that may have the agent stop the service; none is older than the agent.
    request: Option<JournalLine>,
    /// The last request for a signal to it.
    signal_request: Option<JournalLine>,
    /// The last stop, and what had led to that.
    stopping: Option<(JournalLine, Option<JournalLine>)>,
    /// The last end of another process of the instance that runs.
    child: Option<JournalLine>,
}

impl ServiceDeaths {
    /// From the lines of a journal, until there is none.
    ///
    /// # Errors
    /// Those of `next`.
    pub(crate) fn read(
        service: &str,
        count: usize,
        mut next: impl FnMut() -> Result<Option<JournalLine>>,
    ) -> Result<Self> {
        let mut told = Self::default();
        let mut before = Before::default();
        while let Some(line) = next()? {
            told.take(line, service, count, &mut before);
        }
        Ok(told)
    }

    fn take(&mut self, line: JournalLine, service: &str, count: usize, before: &mut Before) {
        let is_of_it = line.service() == Some(service);
        if !is_of_it && line.service().is_some() {
            return;
        }
        before.take(&line);
        if !is_of_it {
            return;
        }
        self.is_known = true;
        let last = self.deaths.last_mut();
        match &line.event.what {
            What::Exited(exit) => {
                let exit = (**exit).clone();
                if let Some(death) = last {
                    death.next = Some(line.clone());
                }
                if self.deaths.len() == count {
                    self.deaths.remove(0);
                }
                self.deaths.push(before.led_to(line, exit, service));
                return;
            }
            What::ChildExited(_) => return,
            What::Backoff {
                message: Some(_), ..
            }
            | What::Failed { .. } => self.trouble = Some(line.clone()),
            What::Started { .. } | What::Replaced { .. } => self.trouble = None,
            _ => {}
        }
        if let Some(death) = last {
            death.then.push(line);
        }
    }
}

impl Before {
    fn take(&mut self, line: &JournalLine) {
        match &line.event.what {
            What::AgentStarted { pid, .. } => {
                self.agent = Some(*pid);
                self.request = None;
            }
            What::Requested { command, .. } => match command {
                Request::Signal => self.signal_request = Some(line.clone()),
                Request::Start => {}
                _ => self.request = Some(line.clone()),
            },
            // The agent stops what it was asked to stop at once, so this is what led to it.
            What::Stopping { .. } => self.stopping = Some((line.clone(), self.request.take())),
            What::Started { .. } | What::Replaced { .. } => self.child = None,
            What::ChildExited(_) => self.child = Some(line.clone()),
            _ => {}
        }
    }

    fn led_to(&mut self, exited: JournalLine, exit: Exit, service: &str) -> ServiceDeath {
        let by_agent =
            self.agent.is_some() && exit.cause.sender().map(|sender| sender.pid) == self.agent;
        let signal_request = self.signal_request.take().filter(|request| {
            let What::Requested { signal, .. } = request.event.what else {
                return false;
            };
            by_agent && signal == exit.cause.signal()
        });
        let instance = exited.event.what.instance();
        let stop = self.stopping.take();
        let stop = stop.filter(|(stopping, _)| stopping.event.what.instance() == instance);
        let (stopping, requested) = match stop {
            Some((stopping, request)) => (Some(stopping), request),
            None => (None, signal_request),
        };
        ServiceDeath {
            service: service.to_owned(),
            child: self.child.take(),
            exited,
            exit,
            stopping,
            requested,
            then: Vec::new(),
            next: None,
        }
    }
}

impl ServiceDeath {
    /// Who sent the signal that ended it, or asked it to end.
    pub(crate) fn sender(&self) -> Option<&Sender> {
        let last = self.exit.circumstances.last_signal.as_ref();
        let asked = last.and_then(|last| last.sender.as_ref());
        self.exit.cause.sender().or(asked)
    }
}

//! The state of the live view: what came in, and what is wanted because of it. Pure: no clock, no
//! terminal, no socket.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::history::History;
use crate::control::{Command, ServiceStatus};
use crate::journal::JournalLine;
use crate::model::{Exited, What};

/// How many exits are kept: more than any screen shows.
const EXITS: usize = 500;

/// One reading of the clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Never goes back.
    pub(super) since_boot: Duration,
    pub(super) wall: Timestamp,
}

/// What came in.
#[derive(Debug)]
pub(super) enum Input {
    /// The agent told of all services.
    Statuses(Vec<ServiceStatus>),
    /// It did not, and why.
    Unanswered(Absence),
    /// The journal is read from its beginning.
    JournalOpened,
    /// The journal cannot be read, and why.
    JournalClosed(String),
    /// A line of the journal.
    Happened(Box<JournalLine>),
    /// A process of the host ended.
    Exited(Box<HostExit>),
    /// So many exits of the host could not be told.
    Lost(u64),
    /// The exits of the host cannot be seen, and why.
    Blind(String),
    /// What was asked for is done, or why not.
    Done(Order, Result<(), String>),
    /// A key was pressed.
    Key(KeyEvent),
}

/// The exit of a process of the host.
#[derive(Debug)]
pub(super) struct HostExit {
    pub(super) exited: Exited,
    /// The unit or container that it was of.
    pub(super) owner: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Absence {
    /// There is no agent.
    NoAgent,
    /// There is one, or something in its place.
    Other(String),
}

/// What the keyboard can have done to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

/// Something to be done to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) verb: Verb,
    pub(super) service: String,
}

impl Order {
    /// The agent's command for it, which is answered when it is done.
    pub(super) fn command(&self) -> Command {
        let services = vec![self.service.clone()];
        let no_wait = false;
        match self.verb {
            Verb::Start => Command::Start {
                services,
                no_wait,
                again: false,
            },
            Verb::Restart => Command::Restart { services, no_wait },
            Verb::Stop => Command::Stop {
                services,
                all: false,
                no_wait,
            },
        }
    }
}

/// What is wanted because of what came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// To ask the agent how its services are.
    Look,
    /// To have it do something.
    Do(Order),
    /// To draw all of the screen again.
    Repaint,
    /// To make room for the shell, until it brings this back.
    Suspend,
    /// The end.
    Quit,
}

/// What is known of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AgentState {
    /// It has not answered yet.
    Unknown,
    /// It answered the last time.
    Here,
    /// It did not.
    Away(Absence),
}

/// What is below the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Exits,
    /// Why the selected service ended, the last times.
    Why,
    Keys,
}

/// What the last line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// The agent works on it.
    Pending(Order),
    Done(Order),
    Failed(Order, String),
}

/// All that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) agent: AgentState,
    /// Of the agent that took up work last, as the journal tells.
    pub(super) agent_pid: Option<u64>,
    /// As last told; `None` before that.
    pub(super) services: Option<Vec<ServiceStatus>>,
    /// When they were told.
    pub(super) told_at: Duration,
    pub(super) histories: HashMap<String, History>,
    pub(super) no_journal: Option<String>,
    selected: Option<String>,
    /// The latest last.
    pub(super) host_exits: VecDeque<HostExit>,
    /// The same of services alone, from the journal.
    pub(super) service_exits: VecDeque<Exited>,
    pub(super) lost: u64,
    pub(super) blind: Option<String>,
    pub(super) pane: Pane,
    pub(super) only_services: bool,
    /// To be answered with y or n.
    pub(super) question: Option<Order>,
    pub(super) message: Option<Message>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            agent: AgentState::Unknown,
            agent_pid: None,
            services: None,
            told_at: Duration::ZERO,
            histories: HashMap::new(),
            no_journal: None,
            selected: None,
            host_exits: VecDeque::new(),
            service_exits: VecDeque::new(),
            lost: 0,
            blind: None,
            pane: Pane::Exits,
            only_services: false,
            question: None,
            message: None,
        }
    }

    /// Takes what came in at `now`.
    pub(super) fn take(&mut self, input: Input, now: Moment) -> Option<Wish> {
        match input {
            Input::Statuses(services) => {
                self.agent = AgentState::Here;
                self.services = Some(services);
                self.told_at = now.since_boot;
            }
            Input::Unanswered(absence) => self.agent = AgentState::Away(absence),
            Input::JournalOpened => {
                self.histories.clear();
                self.service_exits.clear();
                self.no_journal = None;
            }
            Input::JournalClosed(why) => self.no_journal = Some(why),
            Input::Happened(line) => {
                self.happened(&line);
                return Some(Wish::Look);
            }
            Input::Exited(exited) => push(&mut self.host_exits, *exited),
            Input::Lost(count) => self.lost += count,
            Input::Blind(why) => self.blind = Some(why),
            Input::Done(order, result) => {
                self.message = Some(match result {
                    Ok(()) => Message::Done(order),
                    Err(why) => Message::Failed(order, why),
                });
                return Some(Wish::Look);
            }
            Input::Key(key) if key.kind == KeyEventKind::Release => {}
            Input::Key(key) => return self.key(key),
        }
        None
    }

    /// The services as far as they are known.
    pub(super) fn services(&self) -> &[ServiceStatus] {
        self.services.as_deref().unwrap_or_default()
    }

    /// Which of them is selected: the first one, if the one that was is gone.
    pub(super) fn selected(&self) -> usize {
        let is_it = |status: &ServiceStatus| Some(&status.service) == self.selected.as_ref();
        self.services().iter().position(is_it).unwrap_or(0)
    }

    /// Whether something that is shown changes with time alone.
    pub(super) fn ages(&self) -> bool {
        let ages = |status: &ServiceStatus| {
            status.uptime_ns.is_some()
                || status.next_start_in_ns.is_some()
                || status.last_exit.is_some()
        };
        self.agent == AgentState::Here && self.services().iter().any(ages)
    }

    fn happened(&mut self, line: &JournalLine) {
        if let What::AgentStarted { pid, .. } = line.event.what {
            self.agent_pid = Some(pid.into());
        }
        let Some(service) = line.service() else {
            return;
        };
        if let Some(exited) = exit_of(line) {
            push(&mut self.service_exits, exited);
        }
        let history = self.histories.entry(service.to_owned()).or_default();
        history.take(line);
    }

    fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Wish::Quit),
                KeyCode::Char('z') => Some(Wish::Suspend),
                KeyCode::Char('l') => Some(Wish::Repaint),
                _ => None,
            };
        }
        // A terminal sends the same for Escape and soon a key as for that key with Alt.
        if key.modifiers.contains(KeyModifiers::ALT) {
            self.question = None;
            self.pane = Pane::Exits;
        }
        if let Some(order) = self.question.take() {
            let yes = matches!(key.code, KeyCode::Char('y' | 'Y'));
            return yes.then(|| self.order(order));
        }
        if !matches!(self.message, Some(Message::Pending(_))) {
            self.message = None;
        }
        match key.code {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Up | KeyCode::Char('k') => self.select(self.selected().saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(self.selected() + 1),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('s') => {
                let order = self.order_for_selected(Verb::Start)?;
                return Some(self.order(order));
            }
            KeyCode::Char('x') => self.question = self.order_for_selected(Verb::Stop),
            KeyCode::Char('r') => self.question = self.order_for_selected(Verb::Restart),
            KeyCode::Enter | KeyCode::Char('w') => self.show_or_hide(Pane::Why),
            KeyCode::Char('?') => self.show_or_hide(Pane::Keys),
            KeyCode::Esc => self.pane = Pane::Exits,
            // From another pane it leads back first.
            KeyCode::Tab | KeyCode::Char('e') if self.pane != Pane::Exits => {
                self.pane = Pane::Exits;
            }
            KeyCode::Tab | KeyCode::Char('e') => self.only_services = !self.only_services,
            _ => {}
        }
        None
    }

    fn order_for_selected(&self, verb: Verb) -> Option<Order> {
        let service = self.services().get(self.selected())?.service.clone();
        Some(Order { verb, service })
    }

    fn order(&mut self, order: Order) -> Wish {
        self.message = Some(Message::Pending(order.clone()));
        Wish::Do(order)
    }

    fn select(&mut self, index: usize) {
        let index = index.min(self.services().len().saturating_sub(1));
        let name = self.services().get(index);
        self.selected = name.map(|status| status.service.clone());
    }

    fn show_or_hide(&mut self, pane: Pane) {
        self.pane = if self.pane == pane { Pane::Exits } else { pane };
    }
}

fn push<T>(exits: &mut VecDeque<T>, exited: T) {
    if exits.len() == EXITS {
        exits.pop_front();
    }
    exits.push_back(exited);
}

/// The exit that a line of the journal tells of, if it does.
fn exit_of(line: &JournalLine) -> Option<Exited> {
    let What::Exited(exit) = &line.event.what else {
        return None;
    };
    let mut exit = (**exit).clone();
    // It may be long, and is not shown here.
    exit.circumstances.last_output = None;
    Some(Exited {
        time: line.time()?,
        service: line.event.service.clone(),
        exit,
    })
}

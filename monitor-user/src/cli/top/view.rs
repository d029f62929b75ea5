//! Draws the model, for any size of the terminal. Knows no terminal.
//!
//! ```text
//! head            the agent, and how many services do what
//! services        a line each; what is selected is marked, and stays in sight
//! about           the selected one in more words
//! ── pane ──      exits, or why the selected service ended, or the keys
//! foot            a question, what came of an order, or the keys in short
//! ```

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use ratatui::buffer::Buffer;

use super::canvas::Canvas;
use super::look::Look;
use super::model::{Absence, AgentState, Message, Model, Moment};
use crate::control::ServiceStatus;
use crate::model::State;

/// What is drawn, and how.
pub(super) struct View<'a> {
    pub(super) model: &'a Model,
    pub(super) look: Look,
    pub(super) zone: &'a TimeZone,
    pub(super) now: Moment,
}

/// The lines that are neither services nor pane: head, columns, about, the pane's title, foot.
const FRAME: u16 = 5;

const KEYS_IN_SHORT: &str =
    "q quit  j/k select  s start  x stop  r restart  w why  e exits  ? keys";

impl View<'_> {
    /// Draws all of it.
    pub(super) fn draw(&self, buffer: &mut Buffer) {
        let height = buffer.area.height;
        let room = height.saturating_sub(FRAME);
        let count = u16::try_from(self.model.services().len()).unwrap_or(u16::MAX);
        let rows = count.clamp(1, (room * 2 / 3).max(1));
        let mut canvas = Canvas {
            buffer,
            look: self.look,
            end: height.saturating_sub(1),
        };
        self.head(&mut canvas);
        self.services(&mut canvas, rows);
        let y = 2 + rows;
        let about = self.about();
        canvas.put(2, y, u16::MAX, &about, Style::new());
        self.pane(&mut canvas, y + 1);
        canvas.end = height;
        if height > 1 {
            let (style, text) = self.foot();
            canvas.put(0, height - 1, u16::MAX, &text, style);
        }
    }

    fn head(&self, canvas: &mut Canvas<'_>) {
        let model = self.model;
        let red = AnsiColor::Red.on_default().bold();
        let (style, agent) = match (&model.agent, model.agent_pid) {
            (AgentState::Unknown, _) => (Style::new(), "asking the agent".to_owned()),
            (AgentState::Here, Some(pid)) => (Style::new(), format!("agent {pid}")),
            (AgentState::Here, None) => (Style::new(), "agent".to_owned()),
            (AgentState::Away(Absence::NoAgent), _) => (red, "no agent (waiting)".to_owned()),
            (AgentState::Away(Absence::Other(why)), _) => (red, why.clone()),
        };
        let x = canvas.put(0, 0, u16::MAX, "respawn top", Style::new().bold());
        let x = canvas.put(x + 3, 0, u16::MAX, &agent, style);
        let counts = match &model.services {
            None => return,
            Some(services) => counts(services),
        };
        let told = if model.agent == AgentState::Here {
            ""
        } else {
            "last told: "
        };
        canvas.put(x + 3, 0, u16::MAX, &format!("{told}{counts}"), Style::new());
    }

    fn foot(&self) -> (Style, String) {
        let red = AnsiColor::Red.on_default();
        if let Some(order) = &self.model.question {
            let (verb, service) = (order.verb.as_str(), &order.service);
            return (Style::new().bold(), format!("{verb} {service}? y/n"));
        }
        match &self.model.message {
            None => (Style::new().dimmed(), KEYS_IN_SHORT.to_owned()),
            Some(Message::Pending(order)) => (
                Style::new(),
                format!("{} {}: under way", order.verb.as_str(), order.service),
            ),
            Some(Message::Done(order)) => (
                AnsiColor::Green.on_default(),
                format!("{} {}: done", order.verb.as_str(), order.service),
            ),
            Some(Message::Failed(order, why)) => (
                red,
                format!("{} {}: {why}", order.verb.as_str(), order.service),
            ),
        }
    }
}

/// "3 services: 2 running, 1 failed"
fn counts(services: &[ServiceStatus]) -> String {
    let states = [
        State::Running,
        State::Waiting,
        State::Starting,
        State::Stopping,
        State::Backoff,
        State::Failed,
        State::Done,
        State::Skipped,
        State::Stopped,
    ];
    let parts: Vec<String> = states
        .into_iter()
        .map(|state| {
            (
                state,
                services
                    .iter()
                    .filter(|status| status.state == state)
                    .count(),
            )
        })
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let plural = if services.len() == 1 { "" } else { "s" };
    let of = if parts.is_empty() { "" } else { ": " };
    format!("{} service{plural}{of}{}", services.len(), parts.join(", "))
}

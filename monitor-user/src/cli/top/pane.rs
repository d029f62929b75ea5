//! What is below the services: exits, or why the selected one ended, or the keys.

use std::time::Duration;

use anstyle::{AnsiColor, Style};

use super::canvas::Canvas;
use super::model::{HostExit, Pane};
use super::view::View;
use crate::model::Exited;
use crate::report::{Age, Times, cause_style};
use crate::text::columns;

const KEYS: [(&str, &str); 8] = [
    ("up down j k", "select a service"),
    ("s", "start it"),
    ("x", "stop it"),
    ("r", "restart it"),
    ("w Enter", "why it ended, the last times"),
    ("e Tab", "exits of all processes, or of services only"),
    ("? Esc", "show these keys, hide them"),
    ("q Ctrl-C", "quit; Ctrl-Z suspends, Ctrl-L draws again"),
];

impl View<'_> {
    pub(super) fn pane(&self, canvas: &mut Canvas<'_>, y: u16) {
        let model = self.model;
        let selected = model.services().get(model.selected());
        let (title, lines) = match (model.pane, selected) {
            (Pane::Keys, _) => ("keys".to_owned(), keys()),
            (Pane::Why, Some(status)) => (
                format!("why {} ended", status.service),
                self.why(&status.service),
            ),
            (Pane::Why, None) => ("why".to_owned(), Vec::new()),
            (Pane::Exits, _) => return self.exits(canvas, y),
        };
        canvas.rule(y, &title);
        for (line, y) in lines.iter().zip(y + 1..) {
            canvas.put(2, y, u16::MAX, line, Style::new());
        }
    }

    fn why(&self, service: &str) -> Vec<String> {
        let history = self.model.histories.get(service);
        let deaths = history.map(|history| history.lines_of_deaths(self.zone, self.now.wall));
        match (deaths, &self.model.no_journal) {
            (Some(deaths), _) if !deaths.is_empty() => deaths,
            (_, Some(why)) => vec![why.clone()],
            (_, None) => vec![format!("the journal has no death of {service}")],
        }
    }

    fn exits(&self, canvas: &mut Canvas<'_>, mut y: u16) {
        let model = self.model;
        let only_services = model.only_services || model.blind.is_some();
        let title = match only_services {
            true => "exits of services",
            false => "exits of this host",
        };
        let lost = match model.lost {
            0 => String::new(),
            lost => format!(", {lost} lost"),
        };
        canvas.rule(y, &format!("{title}{lost}"));
        let trouble = match (&model.blind, &model.no_journal) {
            (Some(why), _) if !model.only_services => Some(format!("without eBPF: {why}")),
            (_, Some(why)) if only_services => Some(why.clone()),
            _ => None,
        };
        if let Some(why) = trouble {
            y += 1;
            canvas.put(2, y, u16::MAX, &why, AnsiColor::Yellow.on_default());
        }
        y += 1;
        let header = self.times().header();
        canvas.put(2, y, u16::MAX, &header, Style::new().dimmed());
        let room = usize::from(canvas.end.saturating_sub(y + 1));
        if only_services {
            let first = model.service_exits.len().saturating_sub(room);
            for (exited, y) in model.service_exits.iter().skip(first).zip(y + 1..) {
                self.exit(canvas, y, exited, None);
            }
        } else {
            let first = model.host_exits.len().saturating_sub(room);
            for (HostExit { exited, owner }, y) in model.host_exits.iter().skip(first).zip(y + 1..)
            {
                self.exit(canvas, y, exited, owner.as_deref());
            }
        }
    }

    fn times(&self) -> Times {
        Times::of_day(self.zone.clone())
    }

    /// A line under [`Times::header`], and whose exit it was: a service's of the agent, or else the owner's
    /// that its cgroup names.
    fn exit(&self, canvas: &mut Canvas<'_>, y: u16, exited: &Exited, owner: Option<&str>) {
        let plain = Style::new();
        let exit = &exited.exit;
        let time = self.times().of(exited.time);
        let lived = exit.uptime_ns.map_or_else(
            || "?".to_owned(),
            |ns| Age(Duration::from_nanos(ns)).to_string(),
        );
        canvas.put(2, y, 12, &time, plain.dimmed());
        canvas.right(16, y, 7, &exit.pid.to_string(), plain);
        canvas.put(25, y, 16, exit.comm.as_deref().unwrap_or("?"), plain);
        canvas.right(43, y, 7, &lived, plain);
        let cause = exit.why();
        let service = self.service_of(exited).or(owner);
        let service = service.map(|name| format!("[{name}]"));
        // A cause may be long, by its sender: whose exit it was has its room first.
        let reserved = service.as_ref().map_or(0, |name| columns(name) + 1);
        let reserved = u16::try_from(reserved).unwrap_or(u16::MAX);
        let room = canvas.buffer.area.width.saturating_sub(52);
        let room = room.saturating_sub(reserved).max(room.min(17));
        let x = canvas.put(52, y, room, &cause, cause_style(&exit.cause));
        if let Some(service) = service {
            canvas.put(x + 1, y, u16::MAX, &service, plain.bold());
        }
    }

    fn service_of<'a>(&'a self, exited: &'a Exited) -> Option<&'a str> {
        let is_it = |of_service: &&Exited| {
            let [one, other] = [of_service, exited].map(|it| (it.exit.pid, it.exit.start_time_ns));
            one == other
        };
        match &exited.service {
            Some(service) => Some(service),
            None => self
                .model
                .service_exits
                .iter()
                .rev()
                .find(is_it)?
                .service
                .as_deref(),
        }
    }
}

fn keys() -> Vec<String> {
    KEYS.map(|(keys, what)| format!("{keys:<12}  {what}"))
        .to_vec()
}

//! `respawn events`: the agent's journal, the past and what comes. Reads the file itself, so that
//! it needs no agent and outlives it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::Style;
use anyhow::{Context, Result};
use clap_complete::engine::ArgValueCompleter;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::lines::{self, Extent, Selection, View};
use super::output::{Interrupts, eprint_line};
use super::{Global, complete, services};
use crate::clock;
use crate::control;
use crate::journal::{Changes, Cursor, JournalLine, Reader};
use crate::report::{Times, happening};
use crate::text::{padded, printable};

/// The exit status that says that there is no agent.
const NO_AGENT: u8 = 3;

/// Show what happened to the services
///
/// Shows starts, exits and their causes, restarts and stops, oldest first. Reads the agent's journal; the
/// agent does not have to run. If the runtime directory is in memory, a reboot clears the journal. Times
/// include date and zone unless they go to a terminal. Exits with 1 if neither the journal nor the agent
/// knows one of the services, and with 3 if there is no journal and no agent.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only events of this service, or of those that match a pattern such as 'web*'
    #[arg(
        value_name = "SERVICE",
        value_parser = services::name_or_pattern,
        add = ArgValueCompleter::new(complete::services)
    )]
    services: Vec<String>,
    /// Continue with new events as they come, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only events within this time before now, such as "10m", "1h30m" or "2 days"
    #[arg(long, value_name = "DURATION", value_parser = lines::past)]
    since: Option<Span>,
    /// Only the last N of these events; --follow also shows new ones
    #[arg(long, short = 'n', value_name = "N")]
    lines: Option<usize>,
    /// Begin after the line with this cursor, which --json shows
    ///
    /// Each later event is shown exactly once, even if agents or readers are restarted in between. If
    /// that line has been removed to make room, begins at the oldest one.
    #[arg(long, value_name = "CURSOR", value_parser = lines::cursor)]
    after: Option<Cursor>,
    /// The same as SERVICE; can be given several times
    #[arg(
        long,
        value_name = "SERVICE",
        value_parser = services::name_or_pattern,
        add = ArgValueCompleter::new(complete::services)
    )]
    service: Vec<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs to the journal's end; with `--follow` until a signal or a closed standard output.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(events(&global.runtime_dir, arguments));
    // A write to a reader that does not read may still hang in its thread.
    runtime.shutdown_background();
    result
}

async fn events(dir: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    // Before the journal is read, so that nothing falls between the past and what comes.
    let changes = match arguments.follow.then(|| Changes::of(dir)) {
        Some(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(no_agent(dir)),
        Some(changes) => Some(changes.with_context(|| format!("cannot watch {}", dir.display()))?),
        None => None,
    };
    let mut selection = OfServices::new(dir, arguments);
    let mut reader = match &arguments.after {
        Some(cursor) => lines::after(
            *cursor,
            || Reader::open(dir),
            |line| selection.has_come_by(line),
        )?,
        None => Reader::open(dir)?,
    };
    if reader.is_missing() && !control::socket(dir).exists() {
        return Ok(no_agent(dir));
    }
    let extent = Extent {
        json: arguments.json,
        last: arguments.lines,
    };
    let mut view = View::new(selection, &extent);
    let gone = "the runtime directory is gone, and the journal with it";
    let shown = view.show_all(&mut reader, changes.as_ref(), gone, &mut interrupts);
    let shown = shown.await;
    lines::tell_damaged(&reader, "the journal");
    shown?;
    Ok(match view.selection.unknown.as_slice() {
        [] => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Which events are shown.
struct OfServices {
    runtime_dir: PathBuf,
    /// Names and patterns; none for all.
    services: Vec<String>,
    /// Those of which no event has come by, of whatever time.
    unseen: Vec<String>,
    /// Those of them that no agent knows either.
    unknown: Vec<String>,
    since: Option<Timestamp>,
    zone: TimeZone,
}

impl OfServices {
    fn new(runtime_dir: &Path, arguments: &Arguments) -> Self {
        let zone = TimeZone::system();
        let given = [&arguments.services[..], &arguments.service].concat();
        let services = services::once_each(&given);
        Self {
            runtime_dir: runtime_dir.to_owned(),
            unseen: services.clone(),
            services,
            unknown: Vec::new(),
            since: arguments.since.map(|span| lines::since(span, &zone)),
            zone,
        }
    }

    /// Of its service there is an event, whether it is shown or not.
    fn has_come_by(&mut self, line: &JournalLine) {
        if let Some(service) = line.service() {
            self.unseen
                .retain(|wanted| !services::matches(wanted, service));
        }
    }

    fn is_of_service(&self, line: &JournalLine) -> bool {
        let is_it = |name: &str| {
            let wanted = self.services.iter();
            wanted
                .into_iter()
                .any(|wanted| services::matches(wanted, name))
        };
        self.services.is_empty() || line.service().is_some_and(is_it)
    }
}

impl Selection for OfServices {
    fn wants(&mut self, line: &JournalLine) -> bool {
        self.has_come_by(line);
        lines::is_recent(line, self.since) && self.is_of_service(line)
    }

    fn wants_missed(&mut self, _count: u64, before: &JournalLine) -> bool {
        lines::is_recent(before, self.since)
    }

    /// With today's date on a terminal; what goes elsewhere is read on another day.
    fn words(&mut self, line: &JournalLine, is_terminal: bool) -> String {
        let today = || clock::now().to_zoned_datetime(self.zone.clone()).date();
        human(line, &self.zone, is_terminal.then(today))
    }

    /// Says of which services the journal has nothing. One that the agent knows may have had no
    /// event yet.
    fn at_end(&mut self) {
        let unseen = std::mem::take(&mut self.unseen);
        if unseen.is_empty() {
            return;
        }
        let known = complete::of_agent(&self.runtime_dir).unwrap_or_default();
        for service in unseen {
            let is_known = known.iter().any(|name| services::matches(&service, name));
            let shown = printable(&service);
            if is_known {
                eprint_line(&format!("the journal has no event of {shown}"));
            } else {
                eprint_line(&format!(
                    "the journal has no event of {shown}, and no agent knows such a service"
                ));
                self.unknown.push(service);
            }
        }
    }
}

/// A line for a person; with date and zone unless today's date is known, and with the date where
/// that is not the line's.
fn human(line: &JournalLine, zone: &TimeZone, today: Option<Date>) -> String {
    let time = line
        .time()
        .map(|time| (time, time.to_zoned_datetime(zone.clone())));
    let time = match (time, today) {
        (None, _) => "?".to_owned(),
        (Some((time, _)), None) => Times::in_full(zone.clone()).of(time),
        (Some((_, time)), Some(today)) if time.date() == today => {
            time.strftime("%H:%M:%S%.3f").to_string()
        }
        (Some((_, time)), Some(_)) => time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
    };
    let dim = Style::new().dimmed();
    let bold = Style::new().bold();
    format!(
        "{dim}{time}{dim:#}  {bold}{}{bold:#}  {}",
        padded(&printable(line.service().unwrap_or("-")), 12),
        happening(&line.event)
    )
}

/// Says that there is no journal, and no agent that might begin one.
pub(super) fn no_agent(dir: &Path) -> ExitCode {
    eprint_line(&format!(
        "no agent has kept a journal in {}; is --runtime-dir the agent's?",
        dir.display()
    ));
    ExitCode::from(NO_AGENT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(time: &str, service: Option<&str>) -> JournalLine {
        let event =
            json!({"event": "started", "time": time, "service": service, "pid": 7, "restarts": 0});
        JournalLine::parse(event.to_string()).unwrap()
    }

    #[test]
    fn a_line_tells_the_date_unless_it_is_todays() {
        let today = Date::constant(2026, 7, 24);
        let told = |time, service| {
            let line = human(&line(time, service), &TimeZone::UTC, Some(today));
            anstream::adapter::strip_str(&line).to_string()
        };
        assert_eq!(
            told("2026-07-24T12:03:04.5678Z", Some("web")),
            "12:03:04.567  web           started pid 7"
        );
        assert_eq!(
            told("2026-07-23T12:03:04Z", None),
            "2026-07-23 12:03:04.000  -             started pid 7"
        );
        assert_eq!(told("nonsense", None), "?  -             started pid 7");
        let kept = human(&line("2026-07-24T12:03:04Z", None), &TimeZone::UTC, None);
        let kept = anstream::adapter::strip_str(&kept).to_string();
        assert!(
            kept.starts_with("2026-07-24 12:03:04.000+00:00  - "),
            "{kept}"
        );
    }
}

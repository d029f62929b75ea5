//! `respawn status`: the services as they are now.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use clap_complete::engine::ArgValueCompleter;

use super::ask::{Refusal, end, write_json};
use super::{Global, complete, services};
use crate::clock;
use crate::control::ServiceStatus;
use crate::model::State;
use crate::report::{Age, cause_style};
use crate::text::{self, printable};

/// Show the services and their state
///
/// Shows state, pid, uptime, restarts and the last exit of each service, and why it is not running.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show only these services
    #[arg(
        value_name = "SERVICE",
        value_parser = services::name_or_pattern,
        add = ArgValueCompleter::new(complete::services)
    )]
    services: Vec<String>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// Shows the services on stdout; one that does not exist is told of on stderr, with exit status 1.
///
/// # Errors
/// Output that cannot be written.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (asked, statuses) = match statuses(global, &arguments.services) {
        Ok(found) => found,
        Err(refusal) => return refusal.tell(false),
    };
    let written = if arguments.json {
        write_json(&statuses, &mut io::stdout())
    } else if asked.is_empty() && statuses.is_empty() {
        writeln!(io::stdout(), "no services are configured")
    } else if statuses.is_empty() {
        Ok(())
    } else {
        anstream::stdout().write_all(table(&statuses, clock::now()).as_bytes())
    };
    let known: HashSet<&str> = statuses.iter().map(|it| it.service.as_str()).collect();
    let unknown = asked.iter().filter(|name| !known.contains(name.as_str()));
    end(written, services::tell_unknown(unknown, ExitCode::SUCCESS))
}

/// The names that are asked about, and what the agent knows of them.
fn statuses(
    global: &Global,
    wanted: &[String],
) -> Result<(Vec<String>, Vec<ServiceStatus>), Refusal> {
    if !wanted.iter().any(|wanted| services::is_pattern(wanted)) {
        let asked = services::once_each(wanted);
        let statuses = services::statuses(global, asked.clone())?;
        return Ok((asked, statuses));
    }
    let all = services::statuses(global, Vec::new())?;
    let known: Vec<String> = all.iter().map(|status| status.service.clone()).collect();
    let asked = services::matching(wanted, &known)?;
    let by_name = all
        .into_iter()
        .map(|status| (status.service.clone(), status));
    let mut by_name: HashMap<String, ServiceStatus> = by_name.collect();
    let statuses = asked.iter().filter_map(|name| by_name.remove(name));
    let statuses = statuses.collect();
    Ok((asked, statuses))
}

const HEADER: [&str; 6] = ["SERVICE", "STATE", "PID", "UPTIME", "RESTARTS", "LAST EXIT"];

/// Whether a column's text stands at its right edge, as numbers do.
const RIGHT: [bool; 6] = [false, false, true, true, true, false];

/// A line a service, with colours, and under it why it does not run.
fn table(statuses: &[ServiceStatus], now: Timestamp) -> String {
    let rows: Vec<_> = statuses.iter().map(|status| row(status, now)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].0.as_str());
        let widths = cells.chain([HEADER[column]]).map(text::columns);
        widths.max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let bold = Style::new().bold();
    let mut text = line(&HEADER.map(|name| (name.to_owned(), bold)), &widths);
    for (row, status) in rows.iter().zip(statuses) {
        text.push_str(&line(row, &widths));
        if let Some(note) = note(status) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {}", printable(&note));
        }
        if let Some(hint) = &status.hint {
            let _ = writeln!(text, "  {}", printable(hint));
        }
        if let Some(why) = status.standby.as_ref().and_then(|it| it.why.as_ref()) {
            let _ = writeln!(text, "  no standby: {}", printable(why));
        }
        if let Some(says) = &status.says {
            let _ = writeln!(text, "  says: {}", printable(says));
        }
    }
    text
}

fn line(cells: &[(String, Style); 6], widths: &[usize; 6]) -> String {
    let mut text = String::new();
    for (column, (cell, style)) in cells.iter().enumerate() {
        let is_last = column + 1 == cells.len();
        let gap = " ".repeat(widths[column].saturating_sub(text::columns(cell)));
        let (before, after) = match (RIGHT[column], is_last) {
            (true, _) => (gap.as_str(), ""),
            (false, true) => ("", ""),
            (false, false) => ("", gap.as_str()),
        };
        let end = if is_last { "\n" } else { "  " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{before}{style}{cell}{style:#}{after}{end}");
    }
    text
}

fn row(status: &ServiceStatus, now: Timestamp) -> [(String, Style); 6] {
    let plain = Style::new();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let pid = status.pid.map(|pid| pid.to_string());
    let uptime = status
        .uptime_ns
        .map(|ns| Age(Duration::from_nanos(ns)).to_string());
    let exit_style = status.last_exit.as_ref().map_or(plain, cause_style);
    [
        (printable(&status.service), plain),
        (status.state.to_string(), state_style(status.state)),
        (or_dash(pid), plain),
        (or_dash(uptime), plain),
        (status.restarts.to_string(), plain),
        (or_dash(last_exit(status, now)), exit_style),
    ]
}

/// "exited with 1, 3.20s ago"
pub(super) fn last_exit(status: &ServiceStatus, now: Timestamp) -> Option<String> {
    let cause = printable(&status.last_exit.as_ref()?.to_string());
    // A clock that was set back makes it now, not later.
    let ago = |time| Duration::try_from(now.duration_since(time)).unwrap_or_default();
    Some(match status.last_exit_time {
        Some(time) => format!("{cause}, {} ago", Age(ago(time))),
        None => cause,
    })
}

/// Why it does not run, or what is ahead of it.
pub(super) fn note(status: &ServiceStatus) -> Option<String> {
    let error = status.error.as_deref();
    let next = status
        .next_start_in_ns
        .map(|ns| format!("next start in {}", Age(Duration::from_nanos(ns))));
    match status.step.as_deref() {
        Some("replacement") => return Some("its next instance is starting".to_owned()),
        Some("reload") => return Some("reads its configuration again".to_owned()),
        Some("stop") => return Some("is ending by itself".to_owned()),
        Some(step) => return Some(format!("runs its {step}")),
        None => {}
    }
    match (status.state, error, next) {
        (State::Failed, Some(reason), _) => Some(format!("given up: {reason}")),
        (State::Skipped, Some(reason), _) => Some(format!("not started: {reason}")),
        (_, Some(error), Some(next)) => Some(format!("{next}; last failure: {error}")),
        (_, Some(error), None) => Some(format!("last failure: {error}")),
        (_, None, next) => next,
    }
}

pub(super) fn state_style(state: State) -> Style {
    let colour = match state {
        State::Running | State::Done => AnsiColor::Green,
        State::Failed => AnsiColor::Red,
        State::Waiting | State::Starting | State::Stopping | State::Backoff => AnsiColor::Yellow,
        State::Stopped | State::Skipped => return Style::new().dimmed(),
    };
    Style::new().fg_color(Some(colour.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cause, Desired};

    fn status(service: &str, state: State) -> ServiceStatus {
        ServiceStatus {
            service: service.to_owned(),
            state,
            desired: Desired::Up,
            pid: None,
            start_time_ns: None,
            uptime_ns: None,
            restarts: 0,
            last_exit: None,
            last_exit_time: None,
            next_start_in_ns: None,
            waits_for: Vec::new(),
            error: None,
            hint: None,
            says: None,
            sockets: Vec::new(),
            stored: Vec::new(),
            released_ns: None,
            standby: None,
            autostart: None,
            step: None,
        }
    }

    fn plain(statuses: &[ServiceStatus], now: &str) -> String {
        let table = table(statuses, now.parse().unwrap());
        anstream::adapter::strip_str(&table).to_string()
    }

    #[test]
    fn a_table_is_aligned_and_tells_why() {
        let statuses = [
            ServiceStatus {
                pid: Some(1234),
                start_time_ns: Some(10_000_000),
                uptime_ns: Some(192_000_000_000),
                restarts: 12,
                last_exit: Some(Cause::from_wait_status(9)),
                last_exit_time: Some("2026-01-01T00:00:00Z".parse().unwrap()),
                ..status("frontend", State::Running)
            },
            ServiceStatus {
                restarts: 1,
                last_exit: Some(Cause::from_wait_status(256)),
                next_start_in_ns: Some(3_200_000_000),
                ..status("db", State::Backoff)
            },
            ServiceStatus {
                next_start_in_ns: Some(200_000_000),
                error: Some("cannot run /x: No such file or directory (exec)".to_owned()),
                ..status("gone", State::Backoff)
            },
            ServiceStatus {
                error: Some("5 starts\u{1b}[2J within 10s".to_owned()),
                ..status("flappy", State::Failed)
            },
            status("off", State::Stopped),
        ];
        assert_eq!(
            plain(&statuses, "2026-01-01T00:03:12Z"),
            "\
SERVICE   STATE     PID  UPTIME  RESTARTS  LAST EXIT
frontend  running  1234   3m12s        12  killed by SIGKILL, 3m12s ago
db        backoff     -       -         1  exited with 1
  next start in 3.20s
gone      backoff     -       -         0  -
  next start in 200ms; last failure: cannot run /x: No such file or directory (exec)
flappy    failed      -       -         0  -
  given up: 5 starts\\u{1b}[2J within 10s
off       stopped     -       -         0  -
"
        );
    }

    #[test]
    fn a_clock_set_back_does_no_harm() {
        let status = ServiceStatus {
            last_exit: Some(Cause::from_wait_status(0)),
            last_exit_time: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            ..status("web", State::Stopped)
        };
        assert!(plain(&[status], "2025-01-01T00:00:00Z").contains("exited with 0, 0us ago"));
    }
}

//! `respawn reload`: has the agent read its config again, and tells what came of it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap_complete::engine::ArgValueCompleter;
use serde_json::json;

use super::ask::{self, Refusal, end};
use super::services::name_or_pattern;
use super::{Global, complete, steer};
use crate::config::Problem;
use crate::control::{Command, Response};
use crate::model::{FailedStart, ReloadSummary};
use crate::text::printable;

/// Reload the agent's config, or that of services
///
/// With services: runs what each service's file has for `reload`, a signal or a command, and waits until
/// it is done.
///
/// Without services: the agent reads its config again. It stops removed services, then starts new ones
/// and restarts those whose changed settings need it, waits until that is done, and prints the changes.
/// Exits with 1 if a service that it started is not running. A config with a problem changes nothing; its
/// problems and warnings are shown as by `respawn check`. Ctrl-C only ends the waiting.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Reload the configuration of these services, given as names or patterns such as 'web*'
    #[arg(
        value_name = "SERVICE",
        value_parser = name_or_pattern,
        conflicts_with = "allow_empty",
        add = ArgValueCompleter::new(complete::services)
    )]
    services: Vec<String>,
    /// Stop every service if the directory of service files is gone
    #[arg(long)]
    allow_empty: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Reloads, and tells the differences on stdout or the problems on stderr; with `--json` either
/// goes to stdout.
///
/// # Errors
/// Output that cannot be written.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json;
    if !arguments.services.is_empty() {
        return steer::reload_services(global, &arguments.services, json);
    }
    let allow_empty = arguments.allow_empty;
    let (written, exit_code) = match ask::ask(global, &Command::Reload { allow_empty }) {
        Ok(Response::Reloaded { summary, warnings }) => {
            let out = &mut io::stdout().lock();
            let written = match json {
                true => write_summary_json(&summary, &warnings, out),
                false => write_warnings(&warnings, &mut io::stderr().lock())
                    .and_then(|()| write_summary(&summary, out))
                    .and_then(|()| write_failures(&summary, &mut io::stderr().lock())),
            };
            let exit_code = match summary.failed.as_slice() {
                [] => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            };
            (written, exit_code)
        }
        Ok(Response::Invalid { problems, warnings }) => {
            let written = match json {
                true => {
                    let object = json!({ "ok": false, "problems": problems, "warnings": warnings });
                    ask::write_json(&object, &mut io::stdout())
                }
                false => {
                    let err = &mut io::stderr().lock();
                    write_warnings(&warnings, err).and_then(|()| write_problems(&problems, err))
                }
            };
            (written, ExitCode::FAILURE)
        }
        Ok(_) => return Refusal::beside_the_point().tell(json),
        Err(refusal) => return refusal.tell(json),
    };
    end(written, exit_code)
}

fn write_summary(summary: &ReloadSummary, out: &mut impl Write) -> io::Result<()> {
    let changed: Vec<String> = summary
        .changed
        .iter()
        .map(|name| of(summary, name))
        .collect();
    let parts = [
        ("added", &summary.added),
        ("changed", &changed),
        ("removed", &summary.removed),
    ];
    if parts.iter().all(|(_, names)| names.is_empty()) {
        return writeln!(out, "no service has changed");
    }
    for (what, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
        writeln!(out, "{what}: {}", names.join(", "))?;
    }
    Ok(())
}

fn write_failures(summary: &ReloadSummary, err: &mut impl Write) -> io::Result<()> {
    for FailedStart { service, error } in &summary.failed {
        writeln!(err, "{}: {}", printable(service), printable(error))?;
    }
    Ok(())
}

/// What became of a service that has changed.
fn of(summary: &ReloadSummary, name: &String) -> String {
    match summary.restarted.contains(name) {
        true => format!("{name} (restarted)"),
        false => format!("{name} (updated in place)"),
    }
}

fn write_summary_json(
    summary: &ReloadSummary,
    warnings: &[Problem],
    out: &mut impl Write,
) -> io::Result<()> {
    let ReloadSummary {
        added,
        changed,
        restarted,
        removed,
        failed,
    } = summary;
    let object = json!({
        "ok": failed.is_empty(),
        "added": added,
        "changed": changed,
        "restarted": restarted,
        "removed": removed,
        "failed": failed,
        "warnings": warnings,
    });
    ask::write_json(&object, out)
}

fn write_warnings(warnings: &[Problem], err: &mut impl Write) -> io::Result<()> {
    for warning in warnings {
        writeln!(err, "warning: {warning}")?;
    }
    Ok(())
}

fn write_problems(problems: &[Problem], err: &mut impl Write) -> io::Result<()> {
    for problem in problems {
        writeln!(err, "{problem}")?;
    }
    match problems.len() {
        1 => writeln!(err, "1 problem; nothing was changed"),
        count => writeln!(err, "{count} problems; nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn differences_are_named() {
        let summary = ReloadSummary {
            added: vec!["db".to_owned(), "web".to_owned()],
            changed: vec!["mail".to_owned(), "www".to_owned()],
            restarted: vec!["www".to_owned()],
            removed: vec!["old".to_owned()],
            failed: Vec::new(),
        };
        assert_eq!(
            text(|out| write_summary(&summary, out)),
            "added: db, web\nchanged: mail (updated in place), www (restarted)\nremoved: old\n"
        );
        assert_eq!(
            text(|out| write_summary_json(&summary, &[], out)),
            "{\"added\":[\"db\",\"web\"],\"changed\":[\"mail\",\"www\"],\"failed\":[],\"ok\":true,\
             \"removed\":[\"old\"],\"restarted\":[\"www\"],\"warnings\":[]}\n"
        );
        assert_eq!(
            text(|out| write_summary(&ReloadSummary::default(), out)),
            "no service has changed\n"
        );
    }

    #[test]
    fn problems_are_told_as_check_tells_them() {
        let problem = Problem {
            file: "/etc/respawn/services/web.toml".into(),
            line: Some(2),
            column: Some(8),
            key: Some("nice".to_owned()),
            message: "expected an integer from -20 to 19, found the integer 99".to_owned(),
        };
        assert_eq!(
            text(|err| write_problems(&[problem], err)),
            "/etc/respawn/services/web.toml:2:8: nice: expected an integer from -20 to 19, found \
             the integer 99\n1 problem; nothing was changed\n"
        );
    }
}

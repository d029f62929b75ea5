//! `respawn is-up`: whether services run, as an exit status for scripts.

use std::collections::HashMap;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use super::ask::{Refusal, end, write_json};
use super::output::eprint_line;
use super::services::{self, Services};
use super::{Global, status};
use crate::control::ServiceStatus;
use crate::model::{Desired, State};
use crate::text::printable;

/// Check whether services are up
///
/// Exits with 0 if all of them are running and ready, or are oneshot services that have finished; with 1
/// if one is not or does not exist. Prints a line for each that is not up. `--all` leaves out services
/// with `autostart = false` that nobody has started. Use this in scripts: the exit status of `status`
/// does not depend on the services.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    services: Services,
    /// Print nothing: the exit status is the answer
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Tells which services do not run.
///
/// # Errors
/// Output that cannot be written.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (names, statuses) = match asked(global, &arguments.services) {
        Ok(asked) => asked,
        Err(refusal) if arguments.quiet => return Ok(refusal.exit_code()),
        Err(refusal) => return refusal.tell(arguments.json),
    };
    let statuses: HashMap<&str, &ServiceStatus> = statuses
        .iter()
        .map(|status| (status.service.as_str(), status))
        .collect();
    let status_of = |name: &String| statuses.get(name.as_str()).copied();
    let down: Vec<(String, String)> = names
        .iter()
        .filter_map(|name| Some((name.clone(), why_not_up(status_of(name))?)))
        .collect();
    let exit_code = match down.as_slice() {
        [] => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    };
    let mut written = Ok(());
    if arguments.json {
        let results: Vec<_> = names
            .iter()
            .map(|name| {
                let state = status_of(name).map(|status| status.state);
                let why = why_not_up(status_of(name));
                json!({ "service": name, "up": why.is_none(), "state": state, "why": why })
            })
            .collect();
        let object = json!({ "ok": down.is_empty(), "services": results });
        written = write_json(&object, &mut io::stdout());
    } else if !arguments.quiet {
        let mut out = io::stdout().lock();
        written = down.iter().try_for_each(|(name, why)| {
            let (name, why) = (printable(name), printable(why));
            writeln!(out, "{name}: {why}")
        });
    }
    if names.is_empty() && !arguments.quiet {
        eprint_line("no services are configured");
    }
    end(written, exit_code)
}

/// The names that are asked about, and what the agent knows of them.
fn asked(
    global: &Global,
    services: &Services,
) -> Result<(Vec<String>, Vec<ServiceStatus>), Refusal> {
    if services.all {
        let statuses = services::statuses(global, Vec::new())?;
        // One that nobody has asked for is not meant to run.
        let is_idle =
            |it: &&ServiceStatus| it.autostart == Some(false) && it.desired == Desired::Down;
        let meant = statuses.iter().filter(|it| !is_idle(it));
        let names = meant.map(|status| status.service.clone());
        return Ok((names.collect(), statuses));
    }
    let names = services.names(global)?;
    let statuses = services::statuses(global, names.clone())?;
    Ok((names, statuses))
}

/// `None`: it is up.
fn why_not_up(status: Option<&ServiceStatus>) -> Option<String> {
    let Some(status) = status else {
        return Some("no service has this name".to_owned());
    };
    if matches!(status.state, State::Running | State::Done) {
        return None;
    }
    let state = status.state.to_string();
    Some(match status::note(status) {
        Some(note) => format!("{state}; {note}"),
        None => state,
    })
}

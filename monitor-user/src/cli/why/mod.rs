//! `respawn why`: the last deaths of a service, or of anything else on the host, in a few plain lines
//! each. Reads the files of agent and recorder itself, so that it needs neither to run; only whether
//! somebody still lives is asked of the host.

mod kept;
mod service;
mod words;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;
use jiff::tz::TimeZone;

use super::deaths::{RecorderDir, nothing_kept};
use super::events::no_agent;
use super::lines::tell_damaged;
use super::output::{Interrupts, Output, eprint_line};
use super::{Global, complete};
use crate::accounts::Accounts;
use crate::control;
use crate::deaths::{self, ServiceDeaths};
use crate::journal::Reader;
use crate::report::happening;
use crate::text::printable;

/// Show why a service, a unit, a container or a process died
///
/// NAME is a service of the agent. If the agent has no such service, NAME is looked for in what `respawn
/// recorder` has recorded: a systemd unit ("nginx" means nginx.service too), an OpenRC service, a
/// container's ID or its first characters, a pod's uid, a pid, or the name of a process.
///
/// Shows the last death, or with `-n` the last few, newest first: the cause, the time, who sent the
/// signal and who started that process, whether the sender is still running, how long the dead process
/// had run, and the resources it used. For a service, it also shows what the agent did about it. For a
/// unit or container, it includes processes that died within ten seconds of the main process.
///
/// Neither the agent nor the recorder has to run. Exits with 1 if nothing is known of NAME, and with 3 if
/// there is no agent and nothing was recorded.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A service, unit, container, pid or process name
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::services_and_units))]
    name: String,
    /// How many deaths to show
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Print one JSON object for each death
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: RecorderDir,
}

/// Tells, and ends.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(why(&global.runtime_dir, arguments));
    runtime.shutdown_background();
    result
}

async fn why(dir: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    let mut output = Output::new();
    let exit_code = tell(dir, arguments, &mut output)?;
    output.flush(&mut interrupts).await?;
    Ok(exit_code)
}

fn tell(dir: &Path, arguments: &Arguments, output: &mut Output) -> Result<ExitCode> {
    let mut reader = match Reader::open(dir) {
        Ok(reader) => reader,
        // Who may not read the journal may be one who may read the recorded deaths.
        Err(error) => {
            return match tell_kept(arguments, output) {
                Ok(Found::Deaths) => Ok(ExitCode::SUCCESS),
                _ => Err(error),
            };
        }
    };
    let is_no_agent = reader.is_missing() && !control::socket(dir).exists();
    if !is_no_agent && tell_service(&mut reader, arguments, output)? {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(match tell_kept(arguments, output)? {
        Found::Deaths => ExitCode::SUCCESS,
        found => nothing_found(dir, is_no_agent, found, arguments),
    })
}

/// Tells of a service's deaths. `false`: the journal does not know it.
fn tell_service(reader: &mut Reader, arguments: &Arguments, output: &mut Output) -> Result<bool> {
    let told = ServiceDeaths::read(&arguments.name, arguments.most(), || reader.next())?;
    if !told.is_known {
        return Ok(false);
    }
    if told.deaths.is_empty() && !arguments.json {
        let name = printable(&arguments.name);
        output.line(&format!("{name} has not died, as far as the journal goes"));
        if let Some(trouble) = &told.trouble {
            output.line(&format!("  but     {}", happening(&trouble.event)));
        }
    }
    let zone = TimeZone::system();
    let accounts = Accounts::of_this_host();
    for (index, death) in told.deaths.iter().rev().enumerate() {
        match arguments.json {
            true => output.json(&death.json())?,
            false => paragraph(index, death.lines(&zone, &accounts), output),
        }
    }
    Ok(true)
}

/// What a recorder has of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Deaths,
    /// Deaths of others.
    Nothing,
    NoRecorder,
}

/// Tells of the deaths that a recorder has kept of whatever has that name.
fn tell_kept(arguments: &Arguments, output: &mut Output) -> Result<Found> {
    let mut reader = Reader::of_deaths(&arguments.place.dir)?;
    let incidents = deaths::look_up(&arguments.name, arguments.most(), || reader.next())?;
    tell_damaged(&reader, "the recorded deaths");
    if reader.is_missing() {
        return Ok(Found::NoRecorder);
    }
    if incidents.is_empty() {
        return Ok(Found::Nothing);
    }
    let zone = TimeZone::system();
    let accounts = Accounts::of_this_host();
    for (index, incident) in incidents.iter().rev().enumerate() {
        match arguments.json {
            true => output.json(&incident.json())?,
            false => paragraph(index, incident.lines(&zone, &accounts), output),
        }
    }
    Ok(Found::Deaths)
}

/// What is told of a name by the deaths in a directory, as a line each.
#[cfg(test)]
pub(crate) fn why_words(dir: &Path, name: &str, accounts: &Accounts) -> Result<Vec<String>> {
    let mut reader = Reader::of_deaths(dir)?;
    let incidents = deaths::look_up(name, 9, || reader.next())?;
    let lines = incidents.iter();
    Ok(lines
        .flat_map(|incident| incident.lines(&TimeZone::UTC, accounts))
        .collect())
}

fn paragraph(index: usize, lines: Vec<String>, output: &mut Output) {
    if index > 0 {
        output.line("");
    }
    for line in lines {
        output.line(&line);
    }
}

/// Says what was looked through; the exit status for that.
fn nothing_found(dir: &Path, is_no_agent: bool, found: Found, arguments: &Arguments) -> ExitCode {
    let name = &arguments.name;
    let exit_code = match (is_no_agent, found) {
        (true, Found::NoRecorder) => no_agent(dir),
        (true, _) => ExitCode::FAILURE,
        (false, _) => {
            eprint_line(&format!(
                "the journal has nothing of a service {name:?}; `respawn status` lists the services"
            ));
            ExitCode::FAILURE
        }
    };
    match found {
        Found::NoRecorder => eprint_line(&format!("{:#}", nothing_kept(&arguments.place.dir))),
        _ => eprint_line(&format!(
            "no death of a unit, service, container, pod, pid or process {name:?} is recorded in {}; \
             `respawn deaths` lists those that are",
            arguments.place.dir.display()
        )),
    }
    exit_code
}

impl Arguments {
    fn most(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }
}

//! `respawn enable` and `disable`: whether services start with the agent.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap_complete::engine::ArgValueCompleter;
use serde_json::json;

use super::{ConfigDir, ask, complete};
use crate::config::{self, Config, Surroundings};
use crate::text::printable;

/// Start services at boot
///
/// Stores in the config directory that they start with the agent, whatever `autostart` in their files
/// says. This takes effect at the next boot; to start them now, use `respawn start`.
#[derive(Debug, clap::Args)]
pub(crate) struct Enable {
    #[command(flatten)]
    which: Which,
}

/// Do not start services at boot
///
/// Stores in the config directory that they do not start with the agent, whatever `autostart` in their
/// files says. They then start on request, or when a service that requires or wants them starts. This
/// takes effect at the next boot; to stop them now, use `respawn stop`.
#[derive(Debug, clap::Args)]
pub(crate) struct Disable {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Which services
    #[arg(required = true, value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
    services: Vec<String>,
    #[command(flatten)]
    config: ConfigDir,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// # Errors
/// No such service; a file that cannot be written.
pub(crate) fn enable(arguments: &Enable) -> Result<ExitCode> {
    set(&arguments.which, true)
}

/// # Errors
/// No such service; a file that cannot be written.
pub(crate) fn disable(arguments: &Disable) -> Result<ExitCode> {
    set(&arguments.which, false)
}

fn set(which: &Which, starts: bool) -> Result<ExitCode> {
    let dir = &which.config.config;
    let known = match config::load(dir, &Surroundings::of_this_process()) {
        Ok(config) => Some(config),
        Err(invalid) => invalid.usable.map(|config| *config),
    };
    let is_known = |config: &Config, name: &str| config.services.contains_key(name);
    for name in &which.services {
        if !known.as_ref().is_some_and(|config| is_known(config, name)) {
            bail!(
                "no service in {} is named {:?}",
                dir.display(),
                printable(name)
            );
        }
    }
    let path = config::set_autostart(dir, &which.services, starts)?;
    let mut out = io::stdout().lock();
    if which.json {
        let services = which.services.iter();
        let services: Vec<_> = services
            .map(|name| json!({ "service": name, "autostart": starts }))
            .collect();
        let object = json!({ "ok": true, "services": services, "file": path });
        ask::write_json(&object, &mut out)?;
    } else {
        let words = match starts {
            true => "starts at boot",
            false => "does not start at boot",
        };
        for name in &which.services {
            writeln!(out, "{}: {words}", printable(name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

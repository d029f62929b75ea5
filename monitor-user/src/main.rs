//! `respawn` keeps services alive on a Linux host whatever dies, the watcher included.

mod accounts;
mod aftermath;
mod agent;
mod cli;
mod clock;
mod config;
mod control;
mod deaths;
mod decode;
#[cfg(test)]
mod fuzz;
mod host_exits;
mod import;
mod init;
mod journal;
mod logger;
mod manager;
mod metrics;
mod model;
mod os;
mod probe;
mod prober;
#[cfg(test)]
mod random;
mod recorder;
mod report;
mod supervisor;
mod text;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    // Before anything else: what a parent has blocked or ignored must not keep us from an end.
    os::signal::forget_inherited();
    cli::complete::answer();
    let cli = cli::parse();
    let result = start_log(&cli.global.log).and_then(|()| cli::run(cli));
    result.unwrap_or_else(|error| {
        // Standard error may be closed: then nobody is left to tell.
        cli::eprint_line(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Sends `tracing`, and through it the kernel programs' own diagnostics, to standard error.
fn start_log(filter: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter:?}: expected a level such as \"debug\""))?;
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_log::LogTracer::init()?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .finish();
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
}

//! `respawn probe`: what the agent starts to look at a service. Not for people.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::{config, prober};

/// Look whether a service works, as standard input says
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Look whether this is a program instead, which may take for ever
    #[arg(long, value_name = "PATH")]
    is_program: Option<PathBuf>,
}

/// Looks until that is known.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.is_program {
        Some(path) => Ok(match config::not_runnable(path) {
            None => ExitCode::SUCCESS,
            Some(_) => ExitCode::FAILURE,
        }),
        None => prober::run(),
    }
}

//! `respawn logger`: writes the output of services. The agent starts it.

use std::process::ExitCode;

use anyhow::Result;

use super::Global;
use crate::logger;

/// Write the output of services to their logs
///
/// The agent starts this, and starts it again when it ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write what there is, and end
    #[arg(long)]
    drain: bool,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    logger::run(&global.runtime_dir, arguments.drain)
}

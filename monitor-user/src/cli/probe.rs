//! `respawn probe`: what the agent starts to look at a service. Not for people.

use std::process::ExitCode;

use anyhow::Result;

use crate::prober;

/// Look whether a service works, as standard input says
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// Looks until that is known.
pub(crate) fn run(_: &Arguments) -> Result<ExitCode> {
    prober::run()
}

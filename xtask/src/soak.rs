//! `cargo xtask soak`: the tests of deaths in their long form, one after the other so that their
//! figures are of what they do and not of what runs beside it.

use anyhow::Result;

use crate::{Verdict, report::note, test, workspace::Workspace};

/// What has a long form. `inits` needs what `cargo xtask setup` unpacks, and is skipped without.
const LONG: [&str; 3] = ["race", "crash_points", "inits"];

/// Kill agents and services for an hour or so: 10,000 rounds of each race, at every system call,
/// and under every init
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which of these, if not all
    #[arg(value_parser = LONG)]
    tests: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let mut command = workspace.cargo();
    command.args(["test", "--no-fail-fast", "--package", "respawn-tests"]);
    for name in LONG {
        if args.tests.is_empty() || args.tests.iter().any(|wanted| wanted == name) {
            command.args(["--test", name]);
        }
    }
    command.args(["--", "--test-threads=1", "--nocapture"]);
    command.env("RESPAWN_SOAK", "1");
    note!("soak: this takes an hour or so");
    test::run_tests(workspace, command)
}

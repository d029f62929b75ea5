//! `cargo xtask fuzz`: everything that the agent reads from others, in inputs that no run has seen.
//!
//! The targets and their engine are tests of the binary, in `monitor-user/src/fuzz/`, which `cargo
//! xtask test` runs for a second each with the same inputs every time; the seeds are in `fuzz/`.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    Verdict,
    report::note,
    soak::{build_unit_tests, seed_of_the_clock},
    workspace::Workspace,
};

/// The names of the targets, as their seeds' folders have them.
pub(crate) const TARGETS: [&str; 10] = [
    "ring",
    "protocol",
    "journal",
    "deaths",
    "state",
    "config",
    "environment",
    "inittab",
    "units",
    "cgroup",
];

/// Feed made-up input to all that the agent reads: the kernel's records, requests, the journal, recorded deaths, its own
/// files, configs, environment files, inittabs, units and cgroups' paths
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which of these, if not all
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long for each target, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The seed of a run that is to be repeated
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let wanted =
        |target: &&str| args.targets.is_empty() || args.targets.iter().any(|it| it == target);
    let targets: Vec<&str> = TARGETS.into_iter().filter(wanted).collect();
    fuzz(
        workspace,
        &targets,
        Duration::from_secs(args.seconds),
        args.seed,
    )
}

/// Runs each target for so long.
///
/// # Errors
/// When the tests cannot be built or run; an input that breaks something is a verdict.
pub(crate) fn fuzz(
    workspace: &Workspace,
    targets: &[&str],
    each: Duration,
    seed: Option<u64>,
) -> Result<Verdict> {
    let test = build_unit_tests(workspace)?;
    let seed = match seed {
        Some(seed) => seed,
        None => seed_of_the_clock()?,
    };
    let mut verdict = Verdict::Pass;
    for target in targets {
        if !holds(&test, target, each, seed)? {
            note!(
                "fuzz: again: cargo xtask fuzz {target} --seed {seed}; its input belongs in fuzz/{target}"
            );
            verdict = Verdict::Fail;
        }
    }
    Ok(verdict)
}

fn holds(test: &Path, target: &str, each: Duration, seed: u64) -> Result<bool> {
    let module = if target == "config" {
        "config"
    } else {
        "targets"
    };
    let mut command = Command::new(test);
    command
        .args([
            "--exact",
            &format!("fuzz::{module}::{target}"),
            "--nocapture",
        ])
        .env("RESPAWN_FUZZ_SECONDS", each.as_secs().to_string())
        .env("RESPAWN_FUZZ_SEED", seed.to_string());
    let output = command.output().context("run the tests")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().find(|line| line.starts_with("fuzz: "));
    // A test of another name would be none.
    let passed = output.status.success() && text.contains("1 passed");
    match said.filter(|_| passed) {
        Some(said) => note!("{said}"),
        None => note!("{text}{}", String::from_utf8_lossy(&output.stderr)),
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let mut found: Vec<String> = root
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut expected = TARGETS.map(str::to_owned).to_vec();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_target_that_is_not_there_does_not_hold() {
        assert!(!holds(Path::new("true"), "ring", Duration::ZERO, 1).unwrap());
    }
}

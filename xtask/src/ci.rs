//! `cargo xtask ci`: every check, the cheapest first, up to the first that fails. `.ci/run` runs
//! this and nothing else.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{
    Verdict, deny, ebpf,
    report::{note, now, readable},
    setup, test, vm,
    workspace::{Workspace, run_to_end},
};

/// Run every check that a change has to pass
#[derive(clap::Args)]
pub(crate) struct Args {}

/// A check: its name, and what it runs.
type Step = (&'static str, fn(&Workspace) -> Result<Outcome>);

enum Outcome {
    Ran(Verdict),
    Skipped(&'static str),
}

const STEPS: [Step; 9] = [
    ("format", format),
    ("clippy", clippy),
    ("docs", docs),
    ("setup", |workspace| {
        setup::run(
            workspace,
            &setup::Args {
                yes: true,
                arch: None,
            },
        )
        .map(Outcome::Ran)
    }),
    ("dependencies", dependencies),
    ("demo", demo),
    (
        "kernel object from source, and the tests on it where it differs from the committed one",
        |workspace| ebpf::run(workspace, &ebpf::Args { check: true }).map(Outcome::Ran),
    ),
    ("tests, on the committed kernel object", |workspace| {
        test::run(workspace, &test::Args::default()).map(Outcome::Ran)
    }),
    ("other kernels, in emulated machines", other_kernels),
];

pub(crate) fn run(workspace: &Workspace, _: &Args) -> Result<Verdict> {
    let mut report = Vec::new();
    let started = now();
    let mut verdict = Verdict::Pass;
    for (number, (name, step)) in STEPS.iter().enumerate() {
        note!("\n== {}/{} {name}", number + 1, STEPS.len());
        let began = now();
        let outcome = step(workspace).unwrap_or_else(|error| {
            note!("error: {error:#}");
            Outcome::Ran(Verdict::Fail)
        });
        report.push(line(name, &outcome, began.elapsed()));
        if matches!(outcome, Outcome::Ran(Verdict::Fail)) {
            verdict = Verdict::Fail;
            break;
        }
    }
    note!(
        "\n== {}",
        if verdict == Verdict::Pass {
            "passed"
        } else {
            "FAILED"
        }
    );
    let skipped = report.iter().filter(|line| line.contains("  skipped "));
    let skipped = skipped.count();
    for line in report {
        note!("{line}");
    }
    if skipped > 0 {
        note!("steps skipped: {skipped}");
    }
    note!("{:>8}  in all", readable(started.elapsed()));
    Ok(verdict)
}

fn line(name: &str, outcome: &Outcome, took: Duration) -> String {
    let took = readable(took);
    match outcome {
        Outcome::Ran(Verdict::Pass) => format!("{took:>8}  ok      {name}"),
        Outcome::Ran(Verdict::Fail) => format!("{took:>8}  FAILED  {name}"),
        Outcome::Skipped(reason) => format!("{took:>8}  skipped {name}: {reason}"),
    }
}

fn passed(command: &mut Command) -> Result<Outcome> {
    run_to_end(command)?;
    Ok(Outcome::Ran(Verdict::Pass))
}

fn format(workspace: &Workspace) -> Result<Outcome> {
    passed(workspace.cargo().args(["fmt", "--all", "--", "--check"]))
}

fn dependencies(workspace: &Workspace) -> Result<Outcome> {
    deny::check(workspace)?;
    Ok(Outcome::Ran(Verdict::Pass))
}

/// The first to read `Cargo.lock`, hence the one that insists on it.
fn clippy(workspace: &Workspace) -> Result<Outcome> {
    let mut command = workspace.cargo();
    command.args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    passed(&mut command)
}

fn docs(workspace: &Workspace) -> Result<Outcome> {
    let mut command = workspace.cargo();
    command.args([
        "doc",
        "--no-deps",
        "--workspace",
        "--document-private-items",
    ]);
    passed(command.env("RUSTDOCFLAGS", "-D warnings"))
}

fn other_kernels(workspace: &Workspace) -> Result<Outcome> {
    match vm::missing(workspace) {
        Some(reason) => Ok(Outcome::Skipped(reason)),
        None => vm::run_in_ci(workspace).map(Outcome::Ran),
    }
}

/// In a process of its own, as it ends all that is below it. It fails if no service comes back.
fn demo(workspace: &Workspace) -> Result<Outcome> {
    passed(
        workspace
            .command("/proc/self/exe".as_ref())
            .args(["demo", "--for", "2s"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_a_step_ended_and_how_long_it_took() {
        let took = Duration::from_millis(83_500);
        assert_eq!(
            line("x", &Outcome::Ran(Verdict::Pass), took),
            "   1m23s  ok      x"
        );
        assert_eq!(
            line("x", &Outcome::Ran(Verdict::Fail), took),
            "   1m23s  FAILED  x"
        );
        assert_eq!(
            line("x", &Outcome::Skipped("why"), took),
            "   1m23s  skipped x: why"
        );
    }
}

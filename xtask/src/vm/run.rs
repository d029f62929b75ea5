//! Runs a script or the tests on each kernel, and says what came of it.

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use super::{
    Args, job,
    kernels::Kernel,
    machine::{End, Ended, Machine},
    results::{self, Outcome, Tested},
    scenarios::{self, Scenario},
    stock::Stock,
};
use crate::{
    Verdict,
    report::{note, now, readable},
};

/// Runs a script on each kernel.
///
/// # Errors
/// When a machine cannot be started.
pub(super) fn script(stock: &Stock, script: &str, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::Pass;
    for kernel in &stock.kernels {
        let Booted { ended, .. } = boot(kernel, stock, script, &scenarios::PLAIN, &[], args)?;
        if ended.end != End::Job(0) {
            verdict = Verdict::Fail;
        }
    }
    Ok(verdict)
}

/// What the tests on one kernel came to.
pub(super) struct OnKernel {
    pub(super) release: String,
    pub(super) tests: Vec<Tested>,
    /// Figures that tests that passed have reported.
    pub(super) figures: Vec<String>,
    pub(super) took: Duration,
}

impl OnKernel {
    pub(super) fn failed(&self) -> impl Iterator<Item = &Tested> {
        let tests = self.tests.iter();
        tests.filter(|test| test.outcome == Outcome::Failed)
    }
}

/// Runs the tests on each kernel, in all the machines that they need.
///
/// # Errors
/// When a machine cannot be started, or no test has the name that was asked for.
pub(super) fn tests(stock: &Stock, args: &Args) -> Result<Vec<OnKernel>> {
    let wanted: Vec<&Scenario> = scenarios::ALL
        .iter()
        .filter(|scenario| scenario.is_wanted(&args.tests))
        .filter(|scenario| !scenario.reboots || args.init.keeps_entries())
        .collect();
    if wanted.is_empty() {
        bail!("no test has a name like {}", args.tests.join(" or "));
    }
    let kernels = stock.kernels.iter();
    kernels
        .map(|kernel| tests_on(kernel, stock, &wanted, args))
        .collect()
}

/// Says how it went on each kernel.
pub(super) fn summarize(results: &[OnKernel]) -> Verdict {
    note!();
    let mut verdict = Verdict::Pass;
    for result in results {
        let counted = results::counted(&result.tests);
        note!(
            "{}: {counted}, in {}",
            result.release,
            readable(result.took)
        );
        for failed in result.failed() {
            verdict = Verdict::Fail;
            note!("  {failed}");
        }
    }
    verdict
}

/// Runs them on one kernel; a machine that does not come to its end is one more that failed.
fn tests_on(
    kernel: &Kernel,
    stock: &Stock,
    scenarios: &[&Scenario],
    args: &Args,
) -> Result<OnKernel> {
    let started = now();
    let mut tests = Vec::new();
    let mut figures = Vec::new();
    let mut disk = None;
    for scenario in scenarios {
        let more: Vec<PathBuf> = match (scenario.reboots, &disk) {
            (true, Some((_, archive))) => vec![PathBuf::clone(archive)],
            _ => Vec::new(),
        };
        let script = format!(
            "export RESPAWN_INIT={} RESPAWN_KILLS={}\n{}",
            args.init.name(),
            args.kills,
            scenario.script(&args.tests, args.test_limit)
        );
        let booted = boot(kernel, stock, &script, scenario, &more, args)?;
        let ran = booted
            .tests
            .iter()
            .any(|test| test.outcome != Outcome::Skipped);
        let reason = match &booted.ended.end {
            End::Job(_) if ran => None,
            End::Job(_) => Some("no test ran".to_owned()),
            other => Some(said(other, args)),
        };
        tests.extend(booted.tests);
        figures.extend(booted.figures);
        tests.extend(reason.map(|reason| Tested {
            outcome: Outcome::Failed,
            seconds: "0".into(),
            name: format!("the machine {}", scenario.name),
            reason,
        }));
        disk = None;
        if !scenario.disk.is_empty() {
            let folder = tempfile::Builder::new().prefix("respawn-vm-").tempdir()?;
            let archive = folder.path().join("disk.cpio");
            job::write_disk(&archive, &booted.ended.disk, folder.path())?;
            disk = Some((folder, archive));
        }
    }
    Ok(OnKernel {
        release: kernel.release.clone(),
        tests,
        figures,
        took: started.elapsed(),
    })
}

/// What a line begins with that a test that passed has reported.
const FIGURE: &str = "    ";

struct Booted {
    ended: Ended,
    tests: Vec<Tested>,
    figures: Vec<String>,
}

/// Runs a script on one kernel, and shows what comes out of it.
fn boot(
    kernel: &Kernel,
    stock: &Stock,
    script: &str,
    scenario: &Scenario,
    more: &[PathBuf],
    args: &Args,
) -> Result<Booted> {
    let folder = tempfile::Builder::new().prefix("respawn-vm-").tempdir()?;
    let own = folder.path().join("job.cpio");
    job::write_archive(&own, script, args.init, &stock.files)?;
    let mut archives = stock.archives.clone();
    archives.push(own);
    archives.extend_from_slice(more);
    let port = args.arch.ports().1;
    let machine = Machine {
        arch: args.arch,
        emulator: &stock.emulator,
        kernel: &kernel.image,
        archives,
        processors: args.cpus.unwrap_or(scenario.processors),
        memory_mib: args.memory.unwrap_or(scenario.memory_mib),
        append: format!("vm.port={port} {} {}", scenario.append, args.append),
        limit: Duration::from_secs(args.limit),
    };
    let title = format!(
        "{}, {}, {}",
        kernel.release,
        args.init.name(),
        scenario.name
    );
    note!("== {title}");
    let started = now();
    let mut tests = Vec::new();
    let mut figures = Vec::new();
    let ended = machine.run(folder.path(), |line| {
        let _ = match Tested::parse(line) {
            Some(test) => {
                let shown = writeln!(std::io::stdout(), "{test}");
                tests.push(test);
                shown
            }
            None => {
                figures.extend(line.strip_prefix(FIGURE).map(str::to_owned));
                writeln!(std::io::stdout(), "{line}")
            }
        };
    })?;
    let took = readable(started.elapsed());
    note!("== {title}: {}, after {took}", said(&ended.end, args));
    if args.keep {
        note!("== the machine's files: {}", folder.keep().display());
    } else if ended.end != End::Job(0) {
        keep_console(folder)?;
    }
    Ok(Booted {
        ended,
        tests,
        figures,
    })
}

fn said(end: &End, args: &Args) -> String {
    match end {
        End::Job(status) => format!("exit status {status}"),
        End::Crashed => "the machine ended before the job did".to_owned(),
        End::TimedOut => format!("not at its end after {} s", args.limit),
    }
}

/// Keeps what the machine wrote, and leaves out what can be made again.
fn keep_console(folder: tempfile::TempDir) -> Result<()> {
    let folder = folder.keep();
    for name in ["initrd", "job.cpio"] {
        std::fs::remove_file(folder.join(name))?;
    }
    note!(
        "== the machine's console: {}",
        folder.join("console").display()
    );
    Ok(())
}

//! Runs a script or the tests on each kernel, and says what came of it.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    static_build::Arch,
};

/// How often the tests of inits kill something.
const KILLS: u32 = 500;

/// How often 1,000 processes are started and killed by four others: a process takes some 40 ms to start
/// in an emulated machine.
const STORMS: u32 = 2;

/// How often an agent and a service are killed in the same instant: a round takes a second or more there.
const RACES: u32 = 50;

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct OnKernel {
    pub(super) release: String,
    pub(super) tests: Vec<Tested>,
    /// Figures that tests that passed have reported.
    pub(super) figures: Vec<String>,
    /// What `doctor` said there of each check, if it was asked.
    pub(super) doctor: BTreeMap<String, String>,
    /// Machines that were started again, as their kernel had not come to its user space.
    pub(super) restarted: Vec<String>,
    pub(super) seconds: u64,
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
        .filter(|scenario| !scenario.reboots || args.init().keeps_entries())
        .collect();
    if wanted.is_empty() {
        bail!("no test has a name like {}", args.tests.join(" or "));
    }
    let queue = Mutex::new(stock.kernels.iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((number, kernel)) = next() {
            done.push((number, tests_on(kernel, stock, &wanted, args)));
        }
        done
    };
    let mut done = thread::scope(|scope| -> Result<Vec<_>> {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut done = Vec::new();
        for worker in workers {
            let ended = worker.join().ok();
            done.extend(ended.context("a thread that ran machines has panicked")?);
        }
        Ok(done)
    })?;
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
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
            readable(Duration::from_secs(result.seconds))
        );
        for machine in &result.restarted {
            note!("  the machine {machine} was {RESTARTED}");
        }
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
    let mut doctor = BTreeMap::new();
    let mut restarted = Vec::new();
    let mut disk = None;
    for scenario in scenarios {
        let more: Vec<PathBuf> = match (scenario.reboots, &disk) {
            (true, Some((_, archive))) => vec![PathBuf::clone(archive)],
            _ => Vec::new(),
        };
        let ask_doctor = match args.all && scenario.name == scenarios::PLAIN.name {
            // For the page of kernels, whatever the tests come to.
            true => "echo \"@@doctor $(respawn doctor --json | tr -d '\\n')\"\n",
            false => "",
        };
        let script = format!(
            "export RESPAWN_INIT={} RESPAWN_BURSTS={} RESPAWN_STORMS={STORMS} RESPAWN_RACES={RACES} \
             RESPAWN_KILLS={}\n{ask_doctor}{}",
            args.init().name(),
            args.bursts,
            args.kills.unwrap_or(KILLS),
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
        doctor.extend(booted.doctor);
        restarted.extend(booted.is_second.then(|| scenario.name.to_owned()));
        tests.extend(reason.map(|reason| Tested {
            outcome: Outcome::Failed,
            seconds: "0".into(),
            name: format!("{A_MACHINE}{}", scenario.name),
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
        doctor,
        restarted,
        seconds: started.elapsed().as_secs(),
    })
}

/// What a line begins with that a test that passed has reported.
const FIGURE: &str = "@@figure ";

/// What a line begins with that has what `doctor` said.
const DOCTOR: &str = "@@doctor ";

/// What is said of a machine that was started twice.
pub(super) const RESTARTED: &str = "started again: its kernel had not come to its user space";

/// What the name of a failure begins with that is a machine's and no test's.
pub(super) const A_MACHINE: &str = "the machine ";

struct Booted {
    ended: Ended,
    tests: Vec<Tested>,
    figures: Vec<String>,
    doctor: BTreeMap<String, String>,
    /// Whether there was one before, which did not come to its user space.
    is_second: bool,
}

impl Booted {
    fn new(ended: Ended) -> Self {
        Self {
            ended,
            tests: Vec::new(),
            figures: Vec::new(),
            doctor: BTreeMap::new(),
            is_second: false,
        }
    }
}

/// Runs a script on one kernel, and shows what comes out of it. A kernel that crashes or hangs before
/// its user space, as emulated ones sometimes do, has said nothing of what is tested: it is started a
/// second time.
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
    job::write_archive(&own, script, args.init(), &stock.files)?;
    let mut archives = stock.archives.clone();
    archives.push(own);
    archives.extend_from_slice(more);
    let port = args.arch().ports().1;
    let machine = Machine {
        arch: args.arch(),
        emulator: &stock.emulator,
        kernel: &kernel.image,
        archives,
        processors: args.cpus.unwrap_or(scenario.processors),
        // Several machines keep this one's processors busy without.
        is_parallel: args.jobs <= 1 && args.arch() != Arch::X86_64,
        memory_mib: args.memory.unwrap_or(scenario.memory_mib),
        append: format!("vm.port={port} {} {}", scenario.append, args.append),
        limit: Duration::from_secs(args.limit),
    };
    let title = format!(
        "{}, {}, {}",
        kernel.release,
        args.init().name(),
        scenario.name
    );
    note!("== {title}");
    // Of several machines at a time, each line says whose it is.
    let prefix = match args.jobs {
        0 | 1 => String::new(),
        _ => format!("{}: ", kernel.release),
    };
    let started = now();
    let mut booted = watch(&machine, folder.path(), &prefix)?;
    let took = readable(started.elapsed());
    note!(
        "== {title}: {}, after {took}",
        said(&booted.ended.end, args)
    );
    if !booted.ended.is_up {
        let console = folder.path().join("console");
        note!("{}", std::fs::read_to_string(console).unwrap_or_default());
        note!("== {title}: {RESTARTED}");
        booted = watch(&machine, folder.path(), &prefix)?;
        booted.is_second = true;
        note!("== {title}: {}", said(&booted.ended.end, args));
    }
    if args.keep {
        note!("== the machine's files: {}", folder.keep().display());
    } else if booted.ended.end != End::Job(0) {
        keep_console(folder)?;
    }
    Ok(booted)
}

/// Runs a machine, and shows and reads what comes out of it.
fn watch(machine: &Machine<'_>, folder: &Path, prefix: &str) -> Result<Booted> {
    let (mut tests, mut figures, mut doctor) = (Vec::new(), Vec::new(), BTreeMap::new());
    let ended = machine.run(folder, |line| {
        let mut shown = line.to_owned();
        if let Some(test) = Tested::parse(line) {
            shown = test.to_string();
            tests.push(test);
        } else if let Some(report) = line.strip_prefix(DOCTOR) {
            doctor = verdicts(report);
            return;
        } else if let Some(figure) = line.strip_prefix(FIGURE) {
            shown = format!("    {figure}");
            figures.push(figure.to_owned());
        }
        let _ = writeln!(std::io::stdout(), "{prefix}{shown}");
    })?;
    Ok(Booted {
        tests,
        figures,
        doctor,
        ..Booted::new(ended)
    })
}

/// Each check's name and verdict in what `doctor --json` says.
fn verdicts(report: &str) -> BTreeMap<String, String> {
    let report: Value = serde_json::from_str(report).unwrap_or_default();
    let checks = report["checks"].as_array().into_iter().flatten();
    let verdicts = checks.filter_map(|check| {
        let text = |key: &str| Some(check[key].as_str()?.to_owned());
        Some((text("name")?, text("verdict")?))
    });
    verdicts.collect()
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

//! All kernels, inits and processors, and what is to be run on each.
//!
//! A cell that fails, or whose kernel Debian no longer has, does not stop the others. What a cell came
//! to is kept in a file beside the page, so that the whole may be run in parts, cells of one run beside
//! those of an earlier one.

use std::{
    fs, io,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use super::{
    Args,
    init::Init,
    kernels, page,
    run::{self, OnKernel},
    sets::Set,
    stock::Stock,
};
use crate::{
    Verdict,
    report::note,
    static_build::Arch,
    workspace::{Workspace, output_of},
};

/// From the oldest that the README promises to the newest.
pub(super) const KERNELS: [&str; 7] = [
    "5.10",
    "6.1",
    "6.12",
    "6.16",
    "6.18",
    "7.0",
    kernels::NEWEST,
];

/// The tests in which PID 1 matters.
const OF_INITS: &str = "machine::init::*";

/// How often the tests of inits kill something.
const KILLS: u32 = 100;

/// Where the page is, below the workspace's root, and what it is written from.
const PAGE: &str = "docs/kernels.md";
const RECORD: &str = "docs/kernels.json";

/// How many runs of one cell are kept: the last ones.
const RUNS: usize = 2;

/// One kernel for one processor under one init, and its tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) arch: Arch,
    pub(super) kernel: String,
    pub(super) init: Init,
    pub(super) tests: Vec<String>,
}

/// A cell that was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) cell: Cell,
    /// Of the run's end, in UTC.
    pub(super) date: String,
    /// Of what was tested; see [`commit`].
    pub(super) commit: String,
    /// What its tests came to, or why there are none.
    pub(super) result: Result<OnKernel, String>,
}

/// Runs it all and writes the page.
///
/// # Errors
/// When the page cannot be written.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let record = workspace.root.join(RECORD);
    if args.page {
        write_page(workspace, &read(&record)?)?;
        return Ok(Verdict::Pass);
    }
    let mut cells = cells(args);
    if args.missing {
        let done = read(&record)?;
        cells.retain(|cell| !done.iter().any(|done| done.cell == *cell && done.is_good()));
    }
    anyhow::ensure!(!cells.is_empty(), "nothing is to be run");
    let queue = Mutex::new(cells.into_iter());
    let done = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<()> {
        while let Some(cell) = next() {
            // Each is built when its turn comes, from what the workspace then is.
            let commit = commit(workspace)?;
            let result = run_cell(workspace, &cell, args).map_err(|error| format!("{error:#}"));
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            let ran = Done {
                cell,
                date: date()?,
                commit,
                result,
            };
            done.push(ran.clone());
            // What there is so far outlives a run that is ended.
            let kept = add(read(&record)?, ran);
            fs::create_dir_all(workspace.root.join("docs"))?;
            fs::write(&record, serde_json::to_string_pretty(&kept)? + "\n")?;
            write_page(workspace, &kept)?;
        }
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let ended = worker.join().ok();
            ended.context("a thread that ran machines has panicked")??;
        }
        Ok(())
    })?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut verdict = Verdict::Pass;
    for Done { cell, result, .. } in &done {
        match result {
            Ok(result) if run::summarize(std::slice::from_ref(result)) == Verdict::Pass => {}
            Ok(_) => verdict = Verdict::Fail,
            Err(error) => note!("{} on {}: {error}", cell.kernel, cell.arch.name()),
        }
    }
    Ok(verdict)
}

fn write_page(workspace: &Workspace, done: &[Done]) -> Result<()> {
    fs::write(workspace.root.join(PAGE), page::write(done))?;
    note!("wrote {PAGE}");
    Ok(())
}

/// All cells, those first that say most.
fn cells(args: &Args) -> Vec<Cell> {
    let strings = |tests: &[&str]| tests.iter().map(ToString::to_string).collect();
    let wanted = |set: Set| match args.tests.is_empty() {
        true => strings(args.set.unwrap_or(set).tests()),
        false => args.tests.clone(),
    };
    let ends = [KERNELS[0], kernels::NEWEST];
    let between = KERNELS.iter().filter(|kernel| !ends.contains(kernel));
    let in_order: Vec<&'static str> = ends.iter().chain(between).copied().collect();
    let cell = |arch, kernel: &str, init, tests| Cell {
        arch,
        kernel: kernel.to_owned(),
        init,
        tests,
    };
    let mut cells = Vec::new();
    for kernel in &in_order {
        let tests = wanted(Set::Matrix);
        cells.push(cell(Arch::X86_64, kernel, Init::Busybox, tests));
    }
    let others = Init::value_variants().iter();
    for init in others.filter(|init| **init != Init::Busybox) {
        for kernel in ends {
            let tests = vec![OF_INITS.to_owned()];
            cells.push(cell(Arch::X86_64, kernel, *init, tests));
        }
    }
    for kernel in in_order {
        cells.push(cell(Arch::Aarch64, kernel, Init::Busybox, wanted(Set::Ci)));
    }
    cells.retain(|cell| {
        args.arch.is_none_or(|arch| arch == cell.arch)
            && args.init.is_none_or(|init| init == cell.init)
            && (args.kernels.is_empty() || args.kernels.contains(&cell.kernel))
    });
    cells
}

fn run_cell(workspace: &Workspace, cell: &Cell, args: &Args) -> Result<OnKernel> {
    let args = Args {
        kernels: vec![cell.kernel.clone()],
        init: Some(cell.init),
        arch: Some(cell.arch),
        tests: cell.tests.clone(),
        kills: Some(args.kills.unwrap_or(KILLS)),
        ..args.clone()
    };
    let mut stock = Stock::prepare(workspace, &args)?;
    stock.add_tests(workspace, &args)?;
    run::tests(&stock, &args)?
        .pop()
        .context("no kernel was found")
}

impl Done {
    /// Whether there is nothing in it to be run again.
    fn is_good(&self) -> bool {
        let result = self.result.as_ref();
        result.is_ok_and(|result| result.failed().next().is_none())
    }
}

/// The cells that were run before.
fn read(record: &Path) -> Result<Vec<Done>> {
    let text = match fs::read_to_string(record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    serde_json::from_str(&text).with_context(|| format!("read {}", record.display()))
}

/// Adds one, in place of the oldest of the same tests at the same place if there are enough.
fn add(mut kept: Vec<Done>, new: Done) -> Vec<Done> {
    let is_same = |done: &Done| done.cell == new.cell;
    if kept.iter().filter(|done| is_same(done)).count() >= RUNS
        && let Some(oldest) = kept.iter().position(is_same)
    {
        kept.remove(oldest);
    }
    kept.push(new);
    kept
}

/// Today's, in UTC.
fn date() -> Result<String> {
    said(Command::new("date").args(["-u", "+%Y-%m-%d"]))
}

/// What is tested, and the tests: the page's commit is the last one that changed any of it, so that it
/// stays true when all else changes, as the page itself does by a run.
const TESTED: [&str; 5] = [
    "monitor-ebpf",
    "monitor-user",
    "tests",
    "Cargo.toml",
    "Cargo.lock",
];

/// The commit of what is tested; with `+` if that has changes since.
fn commit(workspace: &Workspace) -> Result<String> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&workspace.root).args(arguments);
        said(git.arg("--").args(TESTED))
    };
    let mut commit = git(&["log", "-1", "--format=%h", "--abbrev=7"])?;
    if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
        commit += "+";
    }
    Ok(commit)
}

fn said(command: &mut Command) -> Result<String> {
    let output = output_of(command)?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    fn cells_of(more: &[&str]) -> Vec<Cell> {
        let line = ["vm", "--all"].iter().chain(more);
        cells(&CommandLine::try_parse_from(line).unwrap().args)
    }

    #[test]
    fn every_kernel_and_processor_is_tried_and_every_init_on_the_oldest_and_the_newest() {
        let cells = cells_of(&[]);
        for arch in [Arch::X86_64, Arch::Aarch64] {
            for kernel in KERNELS {
                let is_it = |cell: &&Cell| (cell.arch, &*cell.kernel) == (arch, kernel);
                assert!(cells.iter().any(|cell| is_it(&cell)), "{kernel}");
            }
        }
        for init in Init::value_variants() {
            for kernel in ["5.10", kernels::NEWEST] {
                let is_it = |cell: &Cell| (cell.init, &*cell.kernel) == (*init, kernel);
                assert!(cells.iter().any(is_it), "{init:?}");
            }
        }
        assert_eq!(cells[1].kernel, kernels::NEWEST);
    }

    #[test]
    fn one_processor_kernel_or_init_or_other_tests_can_be_asked_for() {
        let cells = cells_of(&["--arch", "aarch64", "--test", "pins::*"]);
        assert_eq!(cells.len(), KERNELS.len());
        assert!(cells.iter().all(|cell| cell.tests == ["pins::*"]));
        let cells = cells_of(&["6.1", "6.12", "--arch", "x86_64"]);
        let kernels: Vec<&str> = cells.iter().map(|cell| &*cell.kernel).collect();
        assert_eq!(kernels, ["6.1", "6.12"]);
        let cells = cells_of(&["--init", "runit"]);
        assert_eq!(cells.len(), 2);
        assert!(cells.iter().all(|cell| cell.init == Init::Runit));
    }

    #[test]
    fn the_tests_of_another_set_can_be_asked_for() {
        let kernels =
            |cells: Vec<Cell>| cells.into_iter().filter(|cell| cell.init == Init::Busybox);
        let matrix = kernels(cells_of(&["6.1", "--arch", "x86_64"]))
            .next()
            .unwrap();
        assert_eq!(Set::of(&matrix.tests), Some(Set::Matrix));
        let most = kernels(cells_of(&["6.1", "--arch", "x86_64", "--set", "ci"])).next();
        assert_eq!(Set::of(&most.unwrap().tests), Some(Set::Ci));
        let mut all = kernels(cells_of(&["--set", "matrix"]));
        assert!(all.all(|cell| Set::of(&cell.tests) == Some(Set::Matrix)));
    }

    #[test]
    fn the_last_runs_of_each_cell_are_kept() {
        let run = |init: &str, commit: &str| Done {
            cell: cells_of(&["5.10", "--init", init, "--arch", "x86_64"]).remove(0),
            date: "2026-11-26".into(),
            commit: commit.into(),
            result: Err("no kernel".into()),
        };
        let mut kept = Vec::new();
        for (init, commit) in [("s6", "a"), ("runit", "b"), ("s6", "c"), ("s6", "d")] {
            kept = add(kept, run(init, commit));
        }
        let commits: Vec<&str> = kept.iter().map(|done| &*done.commit).collect();
        assert_eq!(commits, ["b", "c", "d"]);
        // One test that was run again does not push out the run of all of them.
        let mut one = run("s6", "e");
        one.cell.tests = vec!["machine::init::after_a_reboot_*".into()];
        kept = add(kept, one);
        let commits: Vec<&str> = kept.iter().map(|done| &*done.commit).collect();
        assert_eq!(commits, ["b", "c", "d", "e"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        assert_eq!(read(&path).unwrap(), []);
        fs::write(&path, serde_json::to_string(&kept).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), kept);
    }
}

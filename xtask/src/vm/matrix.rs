//! All kernels, inits and processors, and what is to be run on each.
//!
//! A cell that fails, or whose kernel Debian no longer has, does not stop the others.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use super::{
    Args,
    init::Init,
    kernels, page,
    run::{self, OnKernel},
    sets,
    stock::Stock,
};
use crate::{Verdict, report::note, static_build::Arch, workspace::Workspace};

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

/// Where the page is, below the workspace's root.
const PAGE: &str = "docs/kernels.md";

/// One kernel for one processor under one init, and its tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) arch: Arch,
    pub(super) kernel: &'static str,
    pub(super) init: Init,
    pub(super) tests: Vec<String>,
}

/// A cell that was run.
pub(super) struct Done {
    pub(super) cell: Cell,
    /// What its tests came to, or why there are none.
    pub(super) result: Result<OnKernel, String>,
}

/// Runs it all and writes the page.
///
/// # Errors
/// When the page cannot be written.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let queue = Mutex::new(cells(args).into_iter());
    let done = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<()> {
        while let Some(cell) = next() {
            let result = run_cell(workspace, &cell, args).map_err(|error| format!("{error:#}"));
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push(Done { cell, result });
            // What there is so far outlives a run that is ended.
            fs::create_dir_all(workspace.root.join("docs"))?;
            fs::write(workspace.root.join(PAGE), page::write(&done)?)?;
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
    for Done { cell, result } in &done {
        match result {
            Ok(result) if run::summarize(std::slice::from_ref(result)) == Verdict::Pass => {}
            Ok(_) => verdict = Verdict::Fail,
            Err(error) => note!("{} on {}: {error}", cell.kernel, cell.arch.name()),
        }
    }
    note!("wrote {PAGE}");
    Ok(verdict)
}

/// All cells, those first that say most.
fn cells(args: &Args) -> Vec<Cell> {
    let wanted = |set: &[&str]| match args.tests.is_empty() {
        true => set.iter().map(ToString::to_string).collect(),
        false => args.tests.clone(),
    };
    let ends = [KERNELS[0], kernels::NEWEST];
    let between = KERNELS.iter().filter(|kernel| !ends.contains(kernel));
    let in_order: Vec<&'static str> = ends.iter().chain(between).copied().collect();
    let cell = |arch, kernel, init, tests| Cell {
        arch,
        kernel,
        init,
        tests,
    };
    let mut cells = Vec::new();
    for kernel in &in_order {
        let tests = wanted(&sets::MATRIX);
        cells.push(cell(Arch::X86_64, *kernel, Init::Busybox, tests));
    }
    let others = Init::value_variants().iter();
    for init in others.filter(|init| **init != Init::Busybox) {
        for kernel in ends {
            let tests = vec![OF_INITS.to_owned()];
            cells.push(cell(Arch::X86_64, kernel, *init, tests));
        }
    }
    for kernel in in_order {
        cells.push(cell(
            Arch::Aarch64,
            kernel,
            Init::Busybox,
            wanted(&sets::CI),
        ));
    }
    cells.retain(|cell| args.arch.is_none_or(|arch| arch == cell.arch));
    cells
}

fn run_cell(workspace: &Workspace, cell: &Cell, args: &Args) -> Result<OnKernel> {
    let args = Args {
        kernels: vec![cell.kernel.to_owned()],
        init: cell.init,
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
                let is_it = |cell: &&Cell| (cell.arch, cell.kernel) == (arch, kernel);
                assert!(cells.iter().any(|cell| is_it(&cell)), "{kernel}");
            }
        }
        for init in Init::value_variants() {
            for kernel in ["5.10", kernels::NEWEST] {
                let is_it = |cell: &Cell| (cell.init, cell.kernel) == (*init, kernel);
                assert!(cells.iter().any(is_it), "{init:?}");
            }
        }
        assert_eq!(cells[1].kernel, kernels::NEWEST);
    }

    #[test]
    fn one_processor_or_other_tests_can_be_asked_for() {
        let cells = cells_of(&["--arch", "aarch64", "--test", "pins::*"]);
        assert_eq!(cells.len(), KERNELS.len());
        assert!(cells.iter().all(|cell| cell.tests == ["pins::*"]));
    }
}

//! All kernels and inits, and the page that says what was shown on each.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use super::{
    Args, glob,
    init::Init,
    kernels,
    results::{self, Outcome},
    run::{self, OnKernel},
    stock::Stock,
};
use crate::{
    Verdict,
    report::note,
    workspace::{Workspace, output_of},
};

/// From the oldest that the README promises to the newest.
const KERNELS: [&str; 7] = [
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

/// Where the page is, below the workspace's root.
const PAGE: &str = "docs/kernels.md";

/// One kernel under one init.
struct Cell {
    kernel: &'static str,
    init: Init,
    /// What its tests came to, or why there are none.
    result: Result<OnKernel, String>,
}

/// Runs it all and writes the page.
///
/// # Errors
/// When something does not build, or the page cannot be written.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let mut cells = Vec::new();
    for kernel in KERNELS {
        for init in Init::value_variants() {
            let Some(tests) = tests_for(kernel, *init, &args.tests) else {
                continue;
            };
            let args = Args {
                kernels: vec![kernel.to_owned()],
                init: *init,
                tests,
                ..args.clone()
            };
            let result = run_cell(workspace, &args).map_err(|error| format!("{error:#}"));
            cells.push(Cell {
                kernel,
                init: *init,
                result,
            });
            // What there is so far outlives a run that is ended.
            fs::create_dir_all(workspace.root.join("docs"))?;
            fs::write(
                workspace.root.join(PAGE),
                page(&cells, &args.tests, args.arch.debian())?,
            )?;
        }
    }
    let mut verdict = Verdict::Pass;
    for cell in &cells {
        match &cell.result {
            Ok(result) if run::summarize(std::slice::from_ref(result)) == Verdict::Pass => {}
            Ok(_) => verdict = Verdict::Fail,
            Err(error) => note!("{}: {error}", cell.kernel),
        }
    }
    note!("wrote {PAGE}");
    Ok(verdict)
}

/// All tests under busybox; under sysvinit those of inits on every kernel, and under the others on
/// the oldest and the newest. `None` if none of them is asked for.
fn tests_for(kernel: &str, init: Init, wanted: &[String]) -> Option<Vec<String>> {
    let is_end = kernel == KERNELS[0] || kernel == kernels::NEWEST;
    if init == Init::Busybox {
        return Some(wanted.to_vec());
    }
    let are_wanted = wanted.iter().any(|pattern| glob::fits(pattern, OF_INITS));
    (are_wanted && (is_end || init == Init::Sysvinit)).then(|| vec![OF_INITS.to_owned()])
}

fn run_cell(workspace: &Workspace, args: &Args) -> Result<OnKernel> {
    let mut stock = Stock::prepare(workspace, args)?;
    stock.add_tests(workspace, args)?;
    run::tests(&stock, args)?
        .pop()
        .context("no kernel was found")
}

fn page(cells: &[Cell], tests: &[String], arch: &str) -> Result<String> {
    let date = output_of(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let date = String::from_utf8_lossy(&date);
    let mut page = format!(
        "# Kernels and inits\n\nWritten by `cargo xtask vm --all` on {}, for {arch}. Each kernel is \
         Debian's cloud kernel, in an\nemulated machine. The tests that were run: `{}`.\n\n\
         | kernel | PID 1 | passed | failed | skipped | minutes |\n|---|---|--:|--:|--:|--:|\n",
        date.trim(),
        tests.join("`, `")
    );
    for cell in cells {
        match &cell.result {
            Ok(result) => writeln!(page, "{}", row(cell.init, result))?,
            Err(error) => writeln!(
                page,
                "| {} | {} | {error} | | | |",
                cell.kernel,
                cell.init.name()
            )?,
        }
    }
    page += "\n## What failed\n\n";
    let before = page.len();
    for (cell, result) in ran(cells) {
        for test in result.failed() {
            let reason = match test.reason.as_str() {
                "" => String::new(),
                reason => format!(": {reason}"),
            };
            let (kernel, init) = (&result.release, cell.init.name());
            writeln!(page, "- {kernel}, {init}: `{}`{reason}", test.name)?;
        }
    }
    if page.len() == before {
        page += "Nothing.\n";
    }
    page += "\n## Instructions that the verifier processed\n\nAt most 30,000 a program.\n\n";
    for (_, result) in ran(cells) {
        let costs: Vec<&str> = figures(result, "verifier: ").collect();
        if !costs.is_empty() {
            writeln!(page, "- {}: {}", result.release, costs.join(", "))?;
        }
    }
    page += "\n## Figures\n\n";
    for (cell, result) in ran(cells) {
        let others = result
            .figures
            .iter()
            .filter(|line| !line.starts_with("verifier: "));
        for line in others {
            writeln!(
                page,
                "- {}, {}: {}",
                result.release,
                cell.init.name(),
                line.trim()
            )?;
        }
    }
    Ok(page)
}

fn ran(cells: &[Cell]) -> impl Iterator<Item = (&Cell, &OnKernel)> {
    cells
        .iter()
        .filter_map(|cell| Some((cell, cell.result.as_ref().ok()?)))
}

fn figures<'a>(result: &'a OnKernel, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = result.figures.iter();
    lines.filter_map(move |line| line.strip_prefix(prefix))
}

fn row(init: Init, result: &OnKernel) -> String {
    let [passed, failed, skipped] = [Outcome::Passed, Outcome::Failed, Outcome::Skipped]
        .map(|outcome| results::count(&result.tests, outcome));
    let minutes = result.took.as_secs_f64() / 60.0;
    format!(
        "| {} | {} | {passed} | {failed} | {skipped} | {minutes:.1} |",
        result.release,
        init.name()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::results::Tested, *};

    #[test]
    fn the_page_says_what_failed_and_what_was_not_there() {
        let tests = [
            "@@test ok 1.0 a::b\t",
            "@@test FAILED 2.0 a::c\tnot at its end",
        ]
        .map(|line| Tested::parse(line).unwrap());
        let result = OnKernel {
            release: "5.10.0".into(),
            tests: tests.into(),
            figures: vec!["verifier: exit 12".into(), "8000 exits".into()],
            took: Duration::from_secs(90),
        };
        let cells = [
            Cell {
                kernel: "5.10",
                init: Init::Busybox,
                result: Ok(result),
            },
            Cell {
                kernel: "6.16",
                init: Init::Busybox,
                result: Err("Debian has no cloud kernel 6.16 any more".into()),
            },
        ];
        let page = page(&cells, &["*".to_owned()], "amd64").unwrap();
        for expected in [
            "| 5.10.0 | busybox | 1 | 1 | 0 | 1.5 |",
            "| 6.16 | busybox | Debian has no cloud kernel 6.16 any more |",
            "- 5.10.0, busybox: `a::c`: not at its end",
            "- 5.10.0: exit 12",
            "- 5.10.0, busybox: 8000 exits",
        ] {
            assert!(page.contains(expected), "{page}");
        }
    }

    #[test]
    fn every_init_is_tried_on_the_oldest_and_the_newest() {
        let all = ["*".to_owned()];
        for init in Init::value_variants() {
            assert!(tests_for("5.10", *init, &all).is_some());
            assert!(tests_for(kernels::NEWEST, *init, &all).is_some());
        }
        let of_sysvinit = tests_for("6.12", Init::Sysvinit, &all);
        assert_eq!(of_sysvinit, Some(vec![OF_INITS.to_owned()]));
        assert_eq!(tests_for("6.12", Init::S6, &all), None);
        let others = ["verifier::*".to_owned()];
        assert_eq!(tests_for("5.10", Init::S6, &others), None);
    }
}

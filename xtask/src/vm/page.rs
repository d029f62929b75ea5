//! The page that says what was shown on each kernel: tables of what a run came to.
//!
//! Says nothing that no cell has shown.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    init::Init,
    matrix::{Done, KERNELS},
    results::{self, Outcome},
    run::{OnKernel, RESTARTED},
    sets::Set,
};
use crate::static_build::Arch;

/// Why a test fails on a kernel: the beginning of the kernel's release, the test, the reason.
const REASONS: [(&str, &str, &str); 0] = [];

/// The instructions that `tests/verifier.rs` allows.
const BUDGET: &str = "30,000";

/// The page of these cells, of which those that were run more than once stand in the order of time.
pub(super) fn write(done: &[Done]) -> String {
    let mut ordered: Vec<&Done> = done.iter().collect();
    ordered.sort_by_key(|done| {
        let cell = &done.cell;
        let place = |arch| usize::from(arch != Arch::X86_64);
        let kernel = KERNELS.iter().position(|kernel| **kernel == cell.kernel);
        (place(cell.arch), kernel, cell.init.name())
    });
    let done = ordered;
    let mut page = "# Kernels and inits\n\nWritten by `cargo xtask vm --all`. Each kernel is Debian's \
        cloud kernel in an emulated machine, and the\ntests are the black-box tests of `tests/`, run \
        there as root. What is not listed has not been run.\n"
        .to_owned();
    page += &kernels(&done);
    page += &what_works(&done);
    page += &verifier(&done);
    page += &inits(&done);
    page += &failures(&done);
    page += &figures(&done);
    page += &tests(&done);
    page
}

/// Which tests were run on what.
fn tests(done: &[&Done]) -> String {
    let mut sets: Vec<(&[String], Vec<String>)> = Vec::new();
    for done in done.iter().filter(is_of_kernels) {
        let place = format!(
            "{} {} ({})",
            done.cell.kernel,
            done.cell.arch.name(),
            done.commit
        );
        match sets.iter_mut().find(|(tests, _)| *tests == done.cell.tests) {
            Some((_, places)) => places.push(place),
            None => sets.push((&done.cell.tests, vec![place])),
        }
    }
    let mut text = "\n## The tests\n\n".to_owned();
    for (tests, places) in sets {
        let places = places.join(", ");
        let set = match Set::of(tests) {
            Some(Set::Ci) => "those that matter most: ",
            Some(Set::Matrix) => "all that a kernel can change: ",
            None => "",
        };
        text += &format!("- {places}: {set}`{}`\n", tests.join("`, `"));
    }
    text
}

fn is_of_kernels(done: &&&Done) -> bool {
    done.cell.init == Init::Busybox
}

/// A line of a table.
fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// The heads of a table, the first column's to the left.
fn heads(cells: &[String]) -> String {
    let mut line = row(cells);
    line += "|---|";
    line += &"---|".repeat(cells.len() - 1);
    line + "\n"
}

fn strings(cells: &[&str]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}

fn counts(done: &Done) -> Vec<String> {
    match &done.result {
        Ok(result) => {
            let count = |outcome| results::count(&result.tests, outcome).to_string();
            let mut cells = vec![
                count(Outcome::Passed),
                count(Outcome::Failed),
                count(Outcome::Skipped),
            ];
            cells.push(result.seconds.div_ceil(60).to_string());
            cells
        }
        Err(error) => strings(&[error.lines().next().unwrap_or_default(), "", "", ""]),
    }
}

fn when(done: &Done) -> [String; 2] {
    [done.date.clone(), done.commit.clone()]
}

fn kernel_name(done: &Done) -> String {
    match &done.result {
        Ok(result) => result.release.clone(),
        Err(_) => done.cell.kernel.clone(),
    }
}

fn kernels(done: &[&Done]) -> String {
    let mut table = "\n## Kernels\n\n".to_owned();
    table += &heads(&strings(&[
        "kernel",
        "processor",
        "passed",
        "failed",
        "skipped",
        "minutes",
        "run on",
        "commit",
    ]));
    for done in done.iter().filter(is_of_kernels) {
        let mut cells = vec![kernel_name(done), done.cell.arch.name().to_owned()];
        cells.extend(counts(done));
        cells.extend(when(done));
        table += &row(&cells);
    }
    table
}

/// Each column of a table of kernels: its head, and what ran there last.
fn columns<'a>(done: &[&'a Done]) -> Vec<(String, &'a OnKernel)> {
    let of_kernels = done.iter().filter(is_of_kernels);
    let columns = of_kernels.filter_map(|done| {
        let result = done.result.as_ref().ok()?;
        let version: Vec<&str> = result.release.split('.').take(2).collect();
        let version = version.join(".");
        let head = match done.cell.arch {
            Arch::X86_64 => version,
            arch => format!("{version} {}", arch.name()),
        };
        Some((head, result))
    });
    let mut columns: Vec<(String, &OnKernel)> = columns.collect();
    columns.reverse();
    let mut heads = BTreeSet::new();
    columns.retain(|(head, _)| heads.insert(head.clone()));
    columns.reverse();
    columns
}

/// A table with a row for each key that any kernel has something for.
fn table_of(
    done: &[&Done],
    first: &str,
    of: impl Fn(&OnKernel) -> Vec<(String, String)>,
) -> String {
    let columns: Vec<(String, BTreeMap<String, String>)> = columns(done)
        .into_iter()
        .map(|(head, result)| (head, of(result).into_iter().collect()))
        .filter(|(_, said): &(_, BTreeMap<_, _>)| !said.is_empty())
        .collect();
    let keys: BTreeSet<&String> = columns.iter().flat_map(|(_, said)| said.keys()).collect();
    let mut names = vec![first.to_owned()];
    names.extend(columns.iter().map(|(head, _)| head.clone()));
    let mut table = heads(&names);
    for key in keys {
        let mut cells = vec![key.clone()];
        let said = columns.iter().map(|(_, said)| said.get(key));
        cells.extend(said.map(|said| said.cloned().unwrap_or_default()));
        table += &row(&cells);
    }
    table
}

fn what_works(done: &[&Done]) -> String {
    let table = table_of(done, "check", |result| {
        result.doctor.clone().into_iter().collect()
    });
    format!(
        "\n## What works\n\nWhat `respawn doctor` says there. The tests `doctor_truth` check its lines \
         against the kernel.\n\n{table}"
    )
}

fn verifier(done: &[&Done]) -> String {
    let table = table_of(done, "program", |result| {
        let lines = result.figures.iter();
        let costs = lines.filter_map(|line| line.strip_prefix(VERIFIER)?.split_once(' '));
        costs
            .map(|(program, cost)| (format!("`{program}`"), cost.to_owned()))
            .collect()
    });
    format!(
        "\n## Instructions that the verifier processes\n\nAt most {BUDGET} for a program.\n\n{table}"
    )
}

/// What a line begins with that has such a figure.
const VERIFIER: &str = "verifier: ";

fn inits(done: &[&Done]) -> String {
    let mut table = "\n## Inits\n\n".to_owned();
    table += &heads(&strings(&[
        "PID 1",
        "kernel",
        "processor",
        "shown",
        "run on",
        "commit",
    ]));
    for done in done {
        let init = done.cell.init.name();
        let prefix = format!("{init}: ");
        let shown = match &done.result {
            Ok(result) => {
                let lines = result.figures.iter();
                let lines: Vec<&str> = lines
                    .filter_map(|line| line.trim().strip_prefix(&prefix))
                    .collect();
                lines.join("; after a reboot: ")
            }
            Err(error) => error.lines().next().unwrap_or_default().to_owned(),
        };
        if !shown.is_empty() || done.cell.init != Init::Busybox {
            let processor = done.cell.arch.name();
            let mut cells = strings(&[init, &kernel_name(done), processor, &shown]);
            cells.extend(when(done));
            table += &row(&cells);
        }
    }
    table
}

fn failures(done: &[&Done]) -> String {
    let mut text = "\n## What failed\n\n".to_owned();
    let before = text.len();
    for done in done {
        let Ok(result) = &done.result else { continue };
        let place = format!(
            "{}, {}, {}",
            result.release,
            done.cell.arch.name(),
            done.cell.init.name()
        );
        for test in result.failed() {
            let mut reasons = REASONS.iter();
            let explained = reasons.find(|(release, name, _)| {
                result.release.starts_with(release) && test.name == *name
            });
            let reason = match (explained, test.reason.as_str()) {
                (Some((_, _, why)), _) => format!(": {why}"),
                (None, "") => String::new(),
                (None, reason) => format!(": {reason}"),
            };
            text += &format!("- {place}: `{}`{reason}\n", test.name);
        }
        for machine in &result.restarted {
            text += &format!("- {place}: the machine `{machine}` was {RESTARTED}\n");
        }
    }
    if text.len() == before {
        text += "Nothing.\n";
    }
    text
}

fn figures(done: &[&Done]) -> String {
    let mut text = "\n## Figures\n\n".to_owned();
    for (head, result) in columns(done) {
        let lines = result.figures.iter();
        for line in lines.filter(|line| !line.starts_with(VERIFIER)) {
            text += &format!("- {head}: {}\n", line.trim());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::{matrix::Cell, results::Tested},
        *,
    };

    fn done(kernel: &str, init: Init, result: Result<OnKernel, String>) -> Done {
        Done {
            cell: Cell {
                arch: Arch::X86_64,
                kernel: kernel.into(),
                init,
                tests: strings(&["verifier::*"]),
            },
            date: "2026-11-26".into(),
            commit: "cd15330".into(),
            result,
        }
    }

    fn ran(release: &str, figures: &[&str]) -> OnKernel {
        let tests = [
            "@@test ok 1.0 a::b\t",
            "@@test FAILED 2.0 a::c\tnot at its end",
        ];
        OnKernel {
            release: release.into(),
            tests: tests.map(|line| Tested::parse(line).unwrap()).into(),
            figures: strings(figures),
            doctor: [("exit_program".to_owned(), "works".to_owned())].into(),
            restarted: strings(&["plain"]),
            seconds: 90,
        }
    }

    #[test]
    fn the_page_says_what_failed_and_what_was_not_there() {
        let done = [
            done(
                "6.16",
                Init::Busybox,
                Err("Debian has no cloud kernel 6.16 any more".into()),
            ),
            done(
                "5.10",
                Init::Busybox,
                Ok(ran("5.10.0", &["verifier: exit 11"])),
            ),
            done(
                "5.10",
                Init::Busybox,
                Ok(ran("5.10.0", &["verifier: exit 12", "8000 exits"])),
            ),
            done(
                "5.10",
                Init::Runit,
                Ok(ran("5.10.0", &["runit: 3 agents killed"])),
            ),
        ];
        let page = write(&done);
        for expected in [
            "| 5.10.0 | x86_64 | 1 | 1 | 0 | 2 | 2026-11-26 | cd15330 |\n| 6.16 | x86_64 | Debian has no \
             cloud kernel 6.16 any more |",
            "| exit_program | works |",
            "| `exit` | 12 |",
            "| runit | 5.10.0 | x86_64 | 3 agents killed | 2026-11-26 |",
            "- 5.10.0, x86_64, busybox: `a::c`: not at its end",
            "- 5.10.0, x86_64, busybox: the machine `plain` was started again",
            "- 5.10: 8000 exits",
            "- 5.10 x86_64 (cd15330), 5.10 x86_64 (cd15330), 6.16 x86_64 (cd15330): `verifier::*`",
        ] {
            assert!(page.contains(expected), "{expected}\n{page}");
        }
    }
}

//! The page that says what was shown on each kernel: tables of what the runs came to, and in words why
//! kernels differ.
//!
//! Says nothing of a place that no run there has shown.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum as _;

use super::{
    init::Init,
    matrix::{Done, KERNELS},
    place::{self, Place},
    results::{Outcome, Tested},
    run::RESTARTED,
    sets::Set,
};
use crate::static_build::Arch;

/// Why a test fails on a kernel: the beginning of the kernel's release, the test, the reason.
const REASONS: [(&str, &str, &str); 0] = [];

/// The instructions that `tests/verifier.rs` allows.
const BUDGET: &str = "30,000";

/// What stands before the tables.
const HEAD: &str = "# Kernels and inits

What was tried where, and what came of it. Each kernel is Debian's cloud kernel, booted in an emulated machine,
and the tests are the black-box tests of `tests/`, run there as root under a real init as PID 1.

`cargo xtask vm --all` runs the tests and writes this page; do not edit it by hand. The runs are kept in
[kernels.json](kernels.json), so that one kernel can be run by itself, and a part of its tests: `cargo xtask vm --all
6.1 --arch x86_64 --test 'pins::*'`. All tests run on one more kernel, that of the host of `cargo xtask ci`, which is
not in these tables.

`commit` is the last one that changed `respawn` or a test before the run; with a `+`, it had further
changes.
";

/// Why kernels differ, written by hand.
const DIFFERENCES: &str = include_str!("differences.md");

/// The page of these runs, which are in the order of time.
pub(super) fn write(done: &[Done]) -> String {
    let places = place::places(done);
    let of_kernels: Vec<&Place<'_>> = places
        .iter()
        .filter(|place| place.init == Init::Busybox)
        .collect();
    [
        HEAD.to_owned(),
        kernels(&of_kernels),
        failures(&places),
        format!("\n{DIFFERENCES}"),
        what_works(&of_kernels),
        verifier(&of_kernels),
        bursts(&of_kernels),
        inits(&places),
        skipped(&places),
        tests(&of_kernels),
    ]
    .concat()
}

/// A line of a table.
fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// The heads of a table, the first column's to the left.
fn heads(cells: &[&str]) -> String {
    row(&strings(cells)) + "|" + &"---|".repeat(cells.len()) + "\n"
}

fn strings(cells: &[&str]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}

fn kernels(places: &[&Place<'_>]) -> String {
    let mut table = "\n## Kernels\n\n[The tests](#the-tests) are named at the end.\n\n".to_owned();
    table += &heads(&[
        "kernel",
        "processor",
        "tests",
        "passed",
        "failed",
        "skipped",
        "minutes",
        "last run",
        "commit",
    ]);
    for place in places {
        let mut cells = strings(&[place.release(), place.arch.name()]);
        match place.error() {
            Some(error) => {
                let error = error.lines().next().unwrap_or_default();
                cells.extend(strings(&[error, "", "", "", ""]));
            }
            None => {
                cells.push(names_of_tests(place).join(", "));
                let outcomes = [Outcome::Passed, Outcome::Failed, Outcome::Skipped];
                cells.extend(outcomes.map(|outcome| place.count(outcome).to_string()));
                cells.push(place.seconds().div_ceil(60).to_string());
            }
        }
        cells.extend([place.date().to_owned(), place.commits()]);
        table += &row(&cells);
    }
    table + &not_tried(places)
}

/// The names of what was run, as [`tests`] explains them.
fn names_of_tests(place: &Place<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let is_full = place.has_run(Set::Matrix);
    names.extend(is_full.then(|| set_name(Set::Matrix).to_owned()));
    for tests in beyond_sets(place) {
        match Set::of(tests) {
            Some(set) => names.push(set_name(set).to_owned()),
            None if is_short(tests) => names.extend(tests.iter().map(|test| format!("`{test}`"))),
            None => names.push("others".to_owned()),
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The tests of each run, but for those that say nothing more once the full set has been run.
fn beyond_sets<'a>(place: &'a Place<'_>) -> impl Iterator<Item = &'a [String]> {
    let is_full = place.has_run(Set::Matrix);
    let runs = place.runs.iter().map(|run| &*run.done.cell.tests);
    runs.filter(move |tests| !is_full || !tests.iter().all(|test| Set::Matrix.covers(test)))
}

/// Whether there are so few patterns that they can stand in a table.
fn is_short(tests: &[String]) -> bool {
    tests.len() <= 2
}

fn set_name(set: Set) -> &'static str {
    match set {
        Set::Ci => "most important",
        Set::Matrix => "full",
    }
}

/// The kernels of the matrix that are in no row.
fn not_tried(places: &[&Place<'_>]) -> String {
    let mut missing = Vec::new();
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let is_there = |kernel: &&&str| {
            let mut places = places.iter();
            places.any(|place| (place.arch, place.kernel) == (arch, **kernel))
        };
        let kernels = KERNELS.iter().filter(|kernel| !is_there(kernel));
        missing.extend(kernels.map(|kernel| format!("{kernel} on {}", arch.name())));
    }
    let mut text = match missing.is_empty() {
        true => String::new(),
        false => format!("\nNot tried: {}.\n", missing.join(", ")),
    };
    let in_part = places.iter().filter(|place| !place.has_run(Set::Matrix));
    let in_part: Vec<String> = in_part.map(|place| place.label()).collect();
    if !in_part.is_empty() {
        let labels = in_part.join(", ");
        text +=
            &format!("\nThe full set of tests (`--set matrix`) has not been run on: {labels}.\n");
    }
    text
}

/// A table with a row for each key that any kernel has something for.
fn table_of<'a>(
    places: &'a [&'a Place<'a>],
    first: &str,
    of: impl Fn(&'a Place<'a>) -> BTreeMap<String, String>,
) -> String {
    let columns: Vec<(String, BTreeMap<String, String>)> = places
        .iter()
        .map(|place| (place.label(), of(place)))
        .filter(|(_, said)| !said.is_empty())
        .collect();
    let keys: BTreeSet<&String> = columns.iter().flat_map(|(_, said)| said.keys()).collect();
    let mut names = vec![first];
    names.extend(columns.iter().map(|(head, _)| &**head));
    let mut table = heads(&names);
    for key in keys {
        let mut cells = vec![key.clone()];
        let said = columns.iter().map(|(_, said)| said.get(key));
        cells.extend(said.map(|said| said.cloned().unwrap_or_default()));
        table += &row(&cells);
    }
    table
}

/// What `doctor` says where it works.
const WORKS: &str = "works";

/// The checks of what runs on a host: nothing does while `doctor` is asked.
const OF_WHAT_RUNS: [&str; 2] = ["running", "recorder"];

fn what_works(places: &[&Place<'_>]) -> String {
    let said: Vec<BTreeMap<String, String>> = places.iter().map(|place| place.doctor()).collect();
    let all: BTreeSet<&String> = said.iter().flat_map(BTreeMap::keys).collect();
    let everywhere: BTreeSet<&str> = all
        .into_iter()
        .filter(|check| {
            let asked = said.iter().filter(|said| !said.is_empty());
            asked
                .map(|said| said.get(*check))
                .all(|verdict| verdict.is_some_and(|it| it == WORKS))
        })
        .map(|check| &**check)
        .collect();
    let differs = |check: &str| !OF_WHAT_RUNS.contains(&check) && !everywhere.contains(check);
    let table = table_of(places, "check", |place| {
        let mut doctor = place.doctor();
        doctor.retain(|check, _| differs(check));
        doctor
    });
    let names: Vec<&str> = everywhere.iter().copied().collect();
    format!(
        "\n## What works\n\nWhat `respawn doctor` reports. The tests `doctor_truth` check its lines against what \
         the kernel,\n`watch` and an agent then do.\n\nOn all of these kernels work: `{}`.\n\nThe other \
         checks:\n\n{table}",
        names.join("`, `")
    )
}

fn verifier(places: &[&Place<'_>]) -> String {
    let table = table_of(places, "program", |place| {
        let lines = place
            .figures()
            .filter_map(|line| line.strip_prefix("verifier: "));
        let costs = lines.filter_map(|line| line.split_once(' '));
        costs
            .map(|(program, cost)| (format!("`{program}`"), cost.to_owned()))
            .collect()
    });
    format!(
        "\n## Instructions that the verifier processes\n\nBefore a kernel runs a program it simulates it, \
         and the cost differs by kernel. `tests/verifier.rs` allows\n{BUDGET} instructions for a \
         program. Empty: this kernel gets another program.\n\n{table}"
    )
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<String> {
    let words = line.split(|letter: char| !letter.is_ascii_digit());
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn bursts(places: &[&Place<'_>]) -> String {
    let mut text = "\n## Bursts\n\n1,000 processes end in the same instant, several times, under `respawn watch`. Each \
                    exit has to be shown, or counted\nas lost.\n\n"
        .to_owned();
    text += &heads(&[
        "kernel",
        "watch",
        "exits",
        "bursts",
        "shown",
        "counted as lost",
    ]);
    for place in places {
        for option in ["--all", "--name"] {
            let of = |line: &&str| line.contains(" exits in ") && line.contains(option);
            let Some((_, said)) = place.figures().rfind(of).and_then(|it| it.split_once(": "))
            else {
                continue;
            };
            let mut cells = strings(&[&place.label(), &format!("`{option}`")]);
            cells.extend(numbers(said));
            text += &row(&cells);
        }
    }
    let is_of_kills = |line: &&str| line.contains(" kills among ");
    let killed = places
        .iter()
        .filter_map(|place| Some((place, place.figures().rfind(is_of_kills)?)));
    let killed: Vec<_> = killed.collect();
    if killed.is_empty() {
        return text;
    }
    text += "\nA service is killed while other processes end in a burst. It has to be back each time, and its cause \
             right or unknown.\n\n";
    text += &heads(&[
        "kernel",
        "kills",
        "other exits each time",
        "restarts",
        "unknown causes",
    ]);
    for (place, said) in killed {
        let mut cells = vec![place.label()];
        let mut of = numbers(said);
        // As many restarts as kills: the third column of four.
        let kills = of.first().cloned().unwrap_or_default();
        of.insert(2.min(of.len()), kills);
        cells.extend(of);
        text += &row(&cells);
    }
    text
}

fn inits(places: &[Place<'_>]) -> String {
    let mut table = "\n## Inits\n\nAgents, spares and services are killed at random, under a real init that keeps agent and \
                     spare. The table has what\npassed: each death was reported once, each service was back, and none \
                     ran twice. After a reboot the same goes on: agents\nand spares killed / deaths of services / of \
                     unknown cause.\n\n"
        .to_owned();
    table += &heads(&[
        "PID 1",
        "kernel",
        "processor",
        "agents and spares killed",
        "deaths of services",
        "of unknown cause",
        "after a reboot",
        "last run",
        "commit",
    ]);
    for place in places {
        let init = place.init.name();
        let shown = place.last_figures(&format!("{init}: "));
        let (done, said) = match shown {
            Some(shown) => shown,
            None if place.init == Init::Busybox => continue,
            None => (place.last(), Vec::new()),
        };
        let mut cells = strings(&[init, place.release(), place.arch.name()]);
        let mut counts = said.iter().map(|line| numbers(line));
        let before = counts.next().unwrap_or_default();
        cells.extend((0..3).map(|number| before.get(number).cloned().unwrap_or_default()));
        cells.push(counts.next().unwrap_or_default().join(" / "));
        cells.extend([done.date.clone(), done.commit.clone()]);
        table += &row(&cells);
    }
    table
}

/// A line of a list: where, which test, and when.
fn item(place: &Place<'_>, test: &Tested, done: &Done, reason: &str) -> String {
    let reason = match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!(
        "- {}, {}: `{}` ({}, {}){reason}\n",
        place.label(),
        place.init.name(),
        test.name,
        done.date,
        done.commit
    )
}

fn failures(places: &[Place<'_>]) -> String {
    let mut text = "\n## What failed\n\n".to_owned();
    let before = text.len();
    for place in places {
        let failed = place
            .tests()
            .filter(|(test, _)| test.outcome == Outcome::Failed);
        for (test, done) in failed {
            let mut reasons = REASONS.iter();
            let explained = reasons.find(|(release, name, _)| {
                place.release().starts_with(release) && test.name == *name
            });
            let reason = explained.map_or(&*test.reason, |(_, _, why)| *why);
            text += &item(place, test, done, reason);
        }
        for machine in place.restarted() {
            let (label, init) = (place.label(), place.init.name());
            text += &format!("- {label}, {init}: the machine `{machine}` was {RESTARTED}\n");
        }
    }
    if text.len() == before {
        text += "Nothing.\n";
    }
    text
}

fn skipped(places: &[Place<'_>]) -> String {
    let mut text = "\n## What was skipped\n\n".to_owned();
    let before = text.len();
    for place in places {
        let skipped = place
            .tests()
            .filter(|(test, _)| test.outcome == Outcome::Skipped);
        for (test, done) in skipped {
            text += &item(place, test, done, &test.reason);
        }
    }
    if text.len() == before {
        text += "Nothing.\n";
    }
    text
}

/// What the names of sets mean.
fn tests(places: &[&Place<'_>]) -> String {
    let mut text = "\n## The tests\n\nA pattern such as `burst::*` stands for the tests of one file in `tests/`.\n\n"
        .to_owned();
    for set in Set::value_variants() {
        let name = set_name(*set);
        let of = |place: &&&Place<'_>| names_of_tests(place).iter().any(|it| it == name);
        if places.iter().any(|place| of(&place)) {
            text += &format!("- {name}: `{}`\n", set.tests().join("`, `"));
        }
    }
    for place in places {
        for tests in beyond_sets(place).filter(|tests| Set::of(tests).is_none() && !is_short(tests))
        {
            let (label, tests) = (place.label(), tests.join("`, `"));
            text += &format!("- others, on {label}: `{tests}`\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::{matrix::Cell, run::OnKernel},
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
                Ok(ran(
                    "5.10.0",
                    &[
                        "verifier: exit 12",
                        "[\"--all\"]: 8000 exits in 8 bursts, 7998 shown, 2 told as lost",
                        "200 kills among 250 exits each: as many restarts, 3 of unknown cause",
                    ],
                )),
            ),
            done(
                "5.10",
                Init::Runit,
                Ok(ran(
                    "5.10.0",
                    &[
                        "runit: 57 agents and spares killed, 43 deaths of services, 1 with unknown",
                        "runit: 5 agents and spares killed, 9 deaths of services, 0 with unknown",
                    ],
                )),
            ),
        ];
        let page = write(&done);
        for expected in [
            "| 5.10.0 | x86_64 | `verifier::*` | 1 | 1 | 0 | 2 | 2026-11-26 | cd15330 |\n| 6.16 | x86_64 \
             | Debian has no cloud kernel 6.16 any more |",
            "Not tried: 6.1 on x86_64, 6.12 on x86_64, 6.18 on x86_64, 7.0 on x86_64, newest on x86_64, 5.10 on \
             aarch64,",
            "On all of these kernels work: `exit_program`.",
            "| `exit` | 12 |",
            "| 5.10 | `--all` | 8000 | 8 | 7998 | 2 |",
            "| 5.10 | 200 | 250 | 200 | 3 |",
            "| runit | 5.10.0 | x86_64 | 57 | 43 | 1 | 5 / 9 / 0 | 2026-11-26 |",
            "- 5.10, busybox: `a::c` (2026-11-26, cd15330): not at its end",
            "- 5.10, busybox: the machine `plain` was started again",
        ] {
            assert!(page.contains(expected), "{expected}\n{page}");
        }
    }

    #[test]
    fn the_full_set_may_be_run_in_parts() {
        let done = |tests: &[&str]| {
            let mut ran = ran("6.1.0", &[]);
            for test in &mut ran.tests {
                test.name = format!("{} of {}", test.name, tests.len());
            }
            let mut done = done("6.1", Init::Busybox, Ok(ran));
            done.cell.tests = strings(tests);
            done
        };
        let (first, second) = Set::Matrix.tests().split_at(7);
        let mut runs = vec![done(first), done(&["a::*", "b::*", "c::*"])];
        let not_yet = "The full set of tests (`--set matrix`) has not been run on: 6.1.";
        let page = write(&runs);
        assert!(page.contains(not_yet), "{page}");
        assert!(page.contains("| x86_64 | others |"), "{page}");
        runs.extend([done(second), done(Set::Ci.tests()), done(&["deaths::*"])]);
        let page = write(&runs);
        assert!(!page.contains(not_yet), "{page}");
        for expected in [
            "| 6.1.0 | x86_64 | full, others, `deaths::*` |",
            "- full: `verifier::*`, `doctor::*`",
            "- others, on 6.1: `a::*`, `b::*`, `c::*`\n",
        ] {
            assert!(page.contains(expected), "{expected}\n{page}");
        }
        assert_eq!(page.matches("- others").count(), 1, "{page}");
        assert!(!page.contains("most important"), "{page}");
    }
}

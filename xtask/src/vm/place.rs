//! What all runs on one kernel, processor and init come to: of each test, check and figure, what was
//! said of it last.
//!
//! Says nothing in words: that is the page's.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    init::Init,
    matrix::{Done, KERNELS},
    results::{Outcome, Tested},
    run::{A_MACHINE, OnKernel},
    scenarios,
    sets::Set,
};
use crate::static_build::Arch;

/// See the module's text.
pub(super) struct Place<'a> {
    pub(super) arch: Arch,
    pub(super) init: Init,
    /// As the cell has it, such as `5.10` or `newest`.
    pub(super) kernel: &'a str,
    /// The runs that still say something, in the order of time; never empty.
    pub(super) runs: Vec<Run<'a>>,
}

/// One run, and those of its tests that were not run again since.
pub(super) struct Run<'a> {
    pub(super) done: &'a Done,
    pub(super) tests: Vec<&'a Tested>,
}

impl Run<'_> {
    fn result(&self) -> Option<&OnKernel> {
        self.done.result.as_ref().ok()
    }

    /// Whether it was to run this pattern, and all tests that fit it have come to their end.
    fn has_done(&self, pattern: &str) -> bool {
        let is_its_own = self.done.cell.tests.iter().any(|own| own == pattern);
        let Some(result) = self.result().filter(|_| is_its_own) else {
            return false;
        };
        let mut down = self.tests.iter().filter_map(|test| machine_of(test));
        match file_of(pattern) == SPECIAL {
            true => !down.any(|machine| machine != scenarios::PLAIN.name),
            // A machine runs tests in the order of their names.
            false => {
                let tests = result
                    .tests
                    .iter()
                    .filter(|test| machine_of(test).is_none());
                let mut plain = tests.filter(|test| file_of(&test.name) != SPECIAL);
                !down.any(|machine| machine == scenarios::PLAIN.name)
                    || plain.any(|test| file_of(&test.name) > file_of(pattern))
            }
        }
    }
}

/// The file of the tests that get a machine each.
const SPECIAL: &str = "machine::";

/// The machine that did not come to its end, if this is such a failure.
fn machine_of(test: &Tested) -> Option<&str> {
    test.name.strip_prefix(A_MACHINE)
}

/// What the names of the tests of one file begin with.
fn file_of(test: &str) -> &str {
    test.find("::").map_or(test, |at| &test[..at + 2])
}

/// Whether a failure is that of a machine for one test alone, which has run since.
fn has_come_up(failure: &str, tests: &BTreeSet<&str>) -> bool {
    let machine = failure.strip_prefix(A_MACHINE);
    let mut scenarios = scenarios::ALL.iter();
    let scenario = scenarios.find(|scenario| Some(scenario.name) == machine);
    scenario.is_some_and(|scenario| tests.iter().any(|test| scenario.is_for(test)))
}

/// One place for each kernel, processor and init that was tried: x86-64 first, the oldest kernel first.
pub(super) fn places(done: &[Done]) -> Vec<Place<'_>> {
    let mut places: Vec<Place<'_>> = Vec::new();
    for done in done {
        let cell = &done.cell;
        let is_it = |place: &&mut Place<'_>| {
            (place.arch, place.kernel, place.init) == (cell.arch, &*cell.kernel, cell.init)
        };
        match places.iter_mut().find(is_it) {
            Some(place) => place.add(done),
            None => {
                let mut place = Place {
                    arch: cell.arch,
                    init: cell.init,
                    kernel: &cell.kernel,
                    runs: Vec::new(),
                };
                place.add(done);
                places.push(place);
            }
        }
    }
    places.sort_by_key(|place| {
        let kernel = KERNELS.iter().position(|kernel| *kernel == place.kernel);
        (place.arch != Arch::X86_64, kernel, place.init.name())
    });
    places
}

impl<'a> Place<'a> {
    /// Adds a later run. An earlier one is left out once all of its tests have been run again.
    fn add(&mut self, done: &'a Done) {
        let tests: Vec<&Tested> = done.result.iter().flat_map(|done| &done.tests).collect();
        let names: BTreeSet<&str> = tests.iter().map(|test| &*test.name).collect();
        for run in &mut self.runs {
            run.tests
                .retain(|test| !names.contains(&*test.name) && !has_come_up(&test.name, &names));
        }
        let says = |run: &Run<'_>| {
            let is_of_a_test = |test: &&Tested| !test.name.starts_with(A_MACHINE);
            run.tests.iter().any(is_of_a_test)
        };
        // A run without any test, such as that of a kernel that is not to be had, says something until
        // the next one.
        self.runs.retain(says);
        self.runs.push(Run { done, tests });
    }

    /// Whether all tests of a set were run here, in one run or in several.
    pub(super) fn has_run(&self, set: Set) -> bool {
        set.tests().iter().all(|pattern| self.has_done(pattern))
    }

    fn has_done(&self, pattern: &str) -> bool {
        self.runs.iter().any(|run| run.has_done(pattern))
    }

    /// Whether it is the failure of a machine for many tests, all of which have been run all the same.
    fn is_made_good(&self, failure: &Tested, run: &Run<'_>) -> bool {
        let mut patterns = run.done.cell.tests.iter();
        machine_of(failure) == Some(scenarios::PLAIN.name)
            && patterns.all(|pattern| self.has_done(pattern))
    }

    pub(super) fn last(&self) -> &'a Done {
        self.runs[self.runs.len() - 1].done
    }

    /// The kernel's own name if it was booted, else that of the cell.
    pub(super) fn release(&self) -> &'a str {
        let booted = self.runs.iter().rev();
        let mut releases = booted.filter_map(|run| Some(&*run.done.result.as_ref().ok()?.release));
        releases.next().unwrap_or(self.kernel)
    }

    /// The kernel's version, and its processor unless that is x86-64: `6.12`, `6.12 aarch64`.
    pub(super) fn label(&self) -> String {
        let version: Vec<&str> = self.release().split('.').take(2).collect();
        let version = version.join(".");
        match self.arch {
            Arch::X86_64 => version,
            arch => format!("{version} {}", arch.name()),
        }
    }

    /// Why no test ran here, if so.
    pub(super) fn error(&self) -> Option<&'a str> {
        let mut runs = self.runs.iter();
        match runs.any(|run| run.result().is_some()) {
            true => None,
            false => self
                .runs
                .last()?
                .done
                .result
                .as_ref()
                .err()
                .map(|error| &**error),
        }
    }

    pub(super) fn tests(&self) -> impl Iterator<Item = (&'a Tested, &'a Done)> {
        self.runs.iter().flat_map(|run| {
            let tests = run.tests.iter();
            let tests = tests.filter(|test| !self.is_made_good(test, run));
            tests.map(|test| (*test, run.done))
        })
    }

    /// How many tests ended so.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.tests()
            .filter(|(test, _)| test.outcome == outcome)
            .count()
    }

    /// How long its runs took, in seconds.
    pub(super) fn seconds(&self) -> u64 {
        let results = self.runs.iter().filter_map(Run::result);
        results.map(|result| result.seconds).sum()
    }

    /// Of the last run, in UTC.
    pub(super) fn date(&self) -> &str {
        &self.last().date
    }

    /// Of all its runs, the oldest first.
    pub(super) fn commits(&self) -> String {
        let mut commits: Vec<&str> = self.runs.iter().map(|run| &*run.done.commit).collect();
        commits.dedup();
        commits.join(", ")
    }

    /// What `doctor` said last of each check.
    pub(super) fn doctor(&self) -> BTreeMap<String, String> {
        let results = self.runs.iter().filter_map(Run::result);
        results.flat_map(|result| result.doctor.clone()).collect()
    }

    /// What tests that passed have reported, in the order of time.
    pub(super) fn figures(&self) -> impl DoubleEndedIterator<Item = &'a str> {
        let results = self
            .runs
            .iter()
            .filter_map(|run| run.done.result.as_ref().ok());
        results.flat_map(|result| result.figures.iter().map(|line| line.trim()))
    }

    /// The last run that reported anything of this beginning, and what.
    pub(super) fn last_figures(&self, beginning: &str) -> Option<(&'a Done, Vec<&'a str>)> {
        let of = |run: &Run<'a>| {
            let figures = run.done.result.iter().flat_map(|result| &result.figures);
            let figures = figures.map(|line| line.trim());
            let figures: Vec<&str> = figures
                .filter_map(|line| line.strip_prefix(beginning))
                .collect();
            (!figures.is_empty()).then_some((run.done, figures))
        };
        self.runs.iter().rev().find_map(of)
    }

    /// Machines that were started twice.
    pub(super) fn restarted(&self) -> impl Iterator<Item = &'a str> {
        let results = self
            .runs
            .iter()
            .filter_map(|run| run.done.result.as_ref().ok());
        results.flat_map(|result| result.restarted.iter().map(|name| &**name))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::matrix::Cell, *};

    /// A run of tests, each with whether it passed.
    fn run(commit: &str, tests: &[(&str, bool)]) -> Done {
        let lines = tests.iter().map(|(name, passed)| {
            let word = if *passed { "ok" } else { "FAILED" };
            Tested::parse(&format!("@@test {word} 1.0 {name}\t")).unwrap()
        });
        let mut tests: Vec<Tested> = lines.collect();
        for test in &mut tests {
            test.name = test.name.replace('_', " ");
        }
        Done {
            cell: Cell {
                arch: Arch::X86_64,
                kernel: "6.1".into(),
                init: Init::Busybox,
                tests: Vec::new(),
            },
            date: "2026-11-26".into(),
            commit: commit.into(),
            result: Ok(OnKernel {
                release: "6.1.0-57".into(),
                tests,
                figures: vec![format!("of {commit}")],
                doctor: BTreeMap::new(),
                restarted: Vec::new(),
                seconds: 60,
            }),
        }
    }

    fn outcomes<'a>(place: &Place<'a>) -> Vec<(&'a str, &'a str, Outcome)> {
        let tests = place.tests();
        tests
            .map(|(test, done)| (&*test.name, &*done.commit, test.outcome))
            .collect()
    }

    #[test]
    fn a_test_that_was_run_again_is_what_it_came_to_last() {
        let all = run("a", &[("x", true), ("y", false), ("the_machine_z", false)]);
        let one = run("b", &[("y", true)]);
        let rest = run("c", &[("x", false)]);
        let two = [all, one];
        let places = places(&two);
        let [place] = &places[..] else { panic!() };
        let expected = [
            ("x", "a", Outcome::Passed),
            ("the machine z", "a", Outcome::Failed),
            ("y", "b", Outcome::Passed),
        ];
        assert_eq!(outcomes(place), expected);
        assert_eq!((place.seconds(), &*place.commits()), (120, "a, b"));
        let (last, figures) = place.last_figures("of ").unwrap();
        assert_eq!((&*last.commit, figures), ("b", vec!["b"]));
        // Of the first run nothing is left then, what was a machine's failure neither.
        let [all, one] = two;
        let three = [all, one, rest];
        let places = super::places(&three);
        let expected = [("y", "b", Outcome::Passed), ("x", "c", Outcome::Failed)];
        assert_eq!(outcomes(&places[0]), expected);
        assert_eq!(places[0].commits(), "b, c");
    }

    #[test]
    fn a_set_was_run_once_each_of_its_patterns_was_in_runs_that_came_to_their_end() {
        let (first, second) = Set::Matrix.tests().split_at(20);
        let part = |commit, tests: &[&str], ran: &[(&str, bool)]| {
            let mut done = run(commit, ran);
            done.cell.tests = tests.iter().map(ToString::to_string).collect();
            done
        };
        let has_run = |runs: &[Done]| places(runs)[0].has_run(Set::Matrix);
        let one = part("a", first, &[("x", true)]);
        assert!(!has_run(std::slice::from_ref(&one)));
        // A test that failed has been run.
        let two = part("b", second, &[("y", false)]);
        assert!(has_run(&[one.clone(), two]));
        // Of one that was ended, what comes before the file of its last test.
        let ended = part(
            "c",
            second,
            &[("sandbox::y", true), ("the_machine_plain", false)],
        );
        let runs = [one.clone(), ended];
        let before = &places(&runs)[0];
        assert!(before.has_done("ownership::*") && before.has_done("machine::*"));
        assert!(!before.has_done("sandbox::*") && !before.has_done("watch_exits::*"));
        let failed = |place: &Place<'_>| place.count(Outcome::Failed);
        assert_eq!((before.has_run(Set::Matrix), failed(before)), (false, 1));
        let rest: Vec<&str> = second.iter().copied().filter(|it| *it >= "sa").collect();
        let [one, ended] = runs;
        let runs = [
            one.clone(),
            ended,
            part("d", &rest, &[("sandbox::z", true)]),
        ];
        let after = &places(&runs)[0];
        assert_eq!((after.has_run(Set::Matrix), failed(after)), (true, 0));
        // The machine of one test did not come up, and then it did.
        let mut down = part("c", second, &[("y", true)]);
        let result = down.result.as_mut().unwrap();
        let mut failure = result.tests[0].clone();
        failure.outcome = Outcome::Failed;
        failure.name = format!("{A_MACHINE}suspend");
        result.tests.push(failure);
        assert!(!has_run(&[one.clone(), down.clone()]));
        let mut up = part("d", &["machine::suspend::*"], &[("y", true)]);
        let test = "machine::suspend::a_machine_that_was_asleep_has_the_same_agent";
        up.result.as_mut().unwrap().tests[0].name = test.into();
        assert!(has_run(&[one.clone(), down, up]));
        let mut gone = part("d", second, &[]);
        gone.result = Err("Debian has no cloud kernel 6.1 any more".into());
        assert!(!has_run(&[one, gone]));
    }

    #[test]
    fn a_kernel_that_is_not_to_be_had_later_keeps_what_it_has_shown() {
        let mut gone = run("b", &[]);
        gone.result = Err("Debian has no cloud kernel 6.1 any more".into());
        let runs = [gone.clone()];
        assert_eq!(
            places(&runs)[0].error(),
            Some("Debian has no cloud kernel 6.1 any more")
        );
        assert_eq!(places(&runs)[0].label(), "6.1");
        let runs = [run("a", &[("x", true)]), gone];
        assert_eq!(places(&runs)[0].error(), None);
        assert_eq!(places(&runs)[0].release(), "6.1.0-57");
    }
}

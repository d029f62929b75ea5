//! Counts tests from what `cargo test` prints, and tells which were skipped and why.
//!
//! libtest has no "skipped": a test that cannot run here returns early, counts as passed, and
//! leaves a line `name<TAB>reason` in the file that `RESPAWN_SKIPS` names.

use std::fmt;

/// Sums over the `test result:` lines of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// By `#[ignore]`.
    pub(crate) ignored: usize,
}

impl Counts {
    /// Adds up what this line says, if it is a `test result:` line.
    pub(crate) fn add_line(&mut self, line: &str) {
        let Some(result) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<usize>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// A test that did not run, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// Reads what the tests left in the file `RESPAWN_SKIPS`: sorted, each once.
pub(crate) fn read_skips(text: &str) -> Vec<Skip> {
    let mut skips: Vec<Skip> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (name, reason) = line.split_once('\t').unwrap_or((line, "no reason given"));
            Skip {
                name: name.to_string(),
                reason: reason.to_string(),
            }
        })
        .collect();
    skips.sort();
    skips.dedup();
    skips
}

/// What a test run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) counts: Counts,
    pub(crate) skips: Vec<Skip>,
    /// Whether cargo itself ended well.
    pub(crate) cargo_passed: bool,
}

impl Summary {
    /// Tests that failed. A run that fails without naming a test (a test program that does not
    /// compile, or dies) counts as one.
    pub(crate) fn failed(&self) -> usize {
        if self.cargo_passed {
            self.counts.failed
        } else {
            self.counts.failed.max(1)
        }
    }

    fn skipped(&self) -> usize {
        self.skips.len() + self.counts.ignored
    }
}

/// The skipped tests and their reasons, then the sums as the last line.
impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.skipped() {
            0 => writeln!(formatter, "0 skipped")?,
            number => writeln!(formatter, "{number} skipped:")?,
        }
        for Skip { name, reason } in &self.skips {
            writeln!(formatter, "  {name}: {reason}")?;
        }
        if self.counts.ignored > 0 {
            writeln!(formatter, "  {} marked #[ignore]", self.counts.ignored)?;
        }
        if !self.cargo_passed && self.counts.failed == 0 {
            writeln!(
                formatter,
                "a test program did not build or did not end as it should"
            )?;
        }
        let passed = self.counts.passed.saturating_sub(self.skips.len());
        write!(
            formatter,
            "{passed} passed, {} failed, {} skipped",
            self.failed(),
            self.skipped()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a ... ok
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1.2s
the test result: ok. 100 passed; is no such line
";

    fn counted(output: &str) -> Counts {
        let mut counts = Counts::default();
        output.lines().for_each(|line| counts.add_line(line));
        counts
    }

    #[test]
    fn adds_up_the_result_lines_only() {
        assert_eq!(
            counted(OUTPUT),
            Counts {
                passed: 13,
                failed: 2,
                ignored: 1
            }
        );
        assert_eq!(counted("error: could not compile"), Counts::default());
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one() {
        let skips = read_skips("exit::core_dump\tneeds root\nexit::core_dump\tneeds root\nb\n\n");
        let summary = Summary {
            counts: counted(OUTPUT),
            skips,
            cargo_passed: false,
        };
        assert_eq!(
            summary.to_string(),
            "3 skipped:\n  b: no reason given\n  exit::core_dump: needs root\n  \
             1 marked #[ignore]\n11 passed, 2 failed, 3 skipped"
        );
    }

    #[test]
    fn nothing_skipped_is_said_too() {
        let counts = Counts {
            passed: 4,
            ..Counts::default()
        };
        let summary = Summary {
            counts,
            skips: Vec::new(),
            cargo_passed: true,
        };
        assert_eq!(
            summary.to_string(),
            "0 skipped\n4 passed, 0 failed, 0 skipped"
        );
    }

    #[test]
    fn a_run_that_fails_without_a_failed_test_does_not_count_zero() {
        let summary = Summary {
            counts: Counts::default(),
            skips: Vec::new(),
            cargo_passed: false,
        };
        assert_eq!(summary.failed(), 1);
        assert!(
            summary
                .to_string()
                .ends_with("\n0 passed, 1 failed, 0 skipped")
        );
    }
}

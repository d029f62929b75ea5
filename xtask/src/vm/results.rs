//! What the tests in a machine came to, line by line.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// One test's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tested {
    pub(super) outcome: Outcome,
    pub(super) seconds: String,
    pub(super) name: String,
    /// Why it was skipped, or how it failed if its output does not show it.
    pub(super) reason: String,
}

/// What a line of a test begins with.
const TEST_LINE: &str = "@@test ";

impl Tested {
    /// Reads such a line; `None` if it is another one.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let line = line.strip_prefix(TEST_LINE)?;
        let (front, reason) = line.split_once('\t').unwrap_or((line, ""));
        let mut words = front.split_whitespace();
        let outcome = match words.next()? {
            "ok" => Outcome::Passed,
            "skipped" => Outcome::Skipped,
            _ => Outcome::Failed,
        };
        Some(Self {
            outcome,
            seconds: words.next()?.to_owned(),
            name: words.next()?.to_owned(),
            reason: reason.trim().to_owned(),
        })
    }
}

impl fmt::Display for Tested {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        write!(formatter, "{word:<8}{:>6}s  {}", self.seconds, self.name)?;
        if !self.reason.is_empty() {
            write!(formatter, ": {}", self.reason)?;
        }
        Ok(())
    }
}

/// How many tests ended so.
pub(super) fn count(tests: &[Tested], outcome: Outcome) -> usize {
    tests.iter().filter(|test| test.outcome == outcome).count()
}

/// How many tests ended how.
pub(super) fn counted(tests: &[Tested]) -> String {
    format!(
        "{} passed, {} failed, {} skipped",
        count(tests, Outcome::Passed),
        count(tests, Outcome::Failed),
        count(tests, Outcome::Skipped)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_of_a_test() {
        let test = Tested::parse("@@test skipped 1.2 pins::a\tno cc").unwrap();
        assert_eq!(test.outcome, Outcome::Skipped);
        assert_eq!(test.to_string(), "skipped    1.2s  pins::a: no cc");
        let test = Tested::parse("@@test ok 0.1 pins::b\t").unwrap();
        assert_eq!(test.to_string(), "ok         0.1s  pins::b");
        assert_eq!(counted(&[test]), "1 passed, 0 failed, 0 skipped");
        // What is cut off is no test that passed.
        assert_eq!(Tested::parse("@@test ok"), None);
        assert_eq!(
            Tested::parse("@@test o 1 x").map(|test| test.outcome),
            Some(Outcome::Failed)
        );
        assert_eq!(Tested::parse("test ok"), None);
    }
}

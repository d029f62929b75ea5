//! What is wrong with a config, for people and for programs. Finds nothing itself.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::Config;
use crate::text;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// The file or directory, as it was named.
    #[serde(serialize_with = "lossy")]
    pub(crate) file: PathBuf,
    /// From 1; `None` where the file as a whole is meant.
    pub(crate) line: Option<usize>,
    /// From 1, in characters.
    pub(crate) column: Option<usize>,
    /// The key's full path, such as `limits.nofile` or `service.web.command[0]`.
    pub(crate) key: Option<String>,
    /// What was found and what was expected, in one line.
    pub(crate) message: String,
}

impl Problem {
    /// A problem with the file as a whole.
    pub(super) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            key: None,
            message: message.into(),
        }
    }
}

/// `/etc/respawn/services/web.toml:7:16: stop_timeout: expected …`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.file))?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {}", text::printable(key))?;
        }
        write!(f, ": {}", text::printable(&self.message))
    }
}

/// A path for a terminal: what cannot be seen in a file name is escaped.
pub(super) fn printable(path: &Path) -> String {
    text::printable(&path.to_string_lossy())
}

/// JSON has no bytes: a path that is not UTF-8 gets U+FFFD for what is wrong.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// A config that is not valid as a whole: all that is wrong with it, sorted by place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Invalid {
    /// At least one.
    pub(crate) problems: Vec<Problem>,
    /// What would work, but probably not what was meant.
    pub(crate) warnings: Vec<Problem>,
    /// What an agent can work with all the same: the services without a problem, and the others
    /// as unusable ones. `None` where it cannot even be told which services there are.
    pub(crate) usable: Option<Box<Config>>,
}

/// The problems, each on a line of its own.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// How many problems are told at most.
const MAX_PROBLEMS: usize = 1000;

/// What ends a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ends {
    /// A change of the host, and each start of the service looks for itself: a file that is read
    /// at every start is missing, for instance.
    AtStart,
    /// A change of the host: a user is not known yet, a file is on a mount that is not there yet.
    WithTheHost,
    /// Nothing but a change of the config.
    WithTheConfig,
}

/// Collects problems while a config is read, so that one mistake does not hide the next.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    problems: RefCell<Vec<(Problem, Ends)>>,
    warnings: RefCell<Vec<Problem>>,
    /// How many problems were reported elsewhere before.
    before: usize,
}

impl Diagnostics {
    /// One for a part of what is read, to be given to [`Diagnostics::absorb`].
    pub(super) fn part(&self) -> Self {
        Self {
            before: self.before + self.count(),
            ..Self::default()
        }
    }

    /// Takes in what was reported of a part.
    pub(super) fn absorb(&self, part: Self) {
        let mut problems = part.problems.into_inner();
        self.problems.borrow_mut().append(&mut problems);
        let mut warnings = part.warnings.into_inner();
        self.warnings.borrow_mut().append(&mut warnings);
    }

    /// The same of what does not end with the host, and without the warnings: of what is not used.
    pub(super) fn absorb_lasting(&self, part: Self) {
        let problems = part.problems.into_inner().into_iter();
        let lasting = problems.filter(|(_, ends)| *ends == Ends::WithTheConfig);
        self.problems.borrow_mut().extend(lasting);
    }

    pub(super) fn problem(&self, problem: Problem) {
        self.problem_until(Ends::WithTheConfig, problem);
    }

    /// A problem that something else than a change of the config may end.
    pub(super) fn problem_until(&self, ends: Ends, problem: Problem) {
        if !self.is_full() {
            self.problems.borrow_mut().push((problem, ends));
        }
    }

    /// Whether further problems are not told: nobody reads them, and finding their places in a
    /// file of nothing else takes long.
    pub(super) fn is_full(&self) -> bool {
        self.before + self.count() > MAX_PROBLEMS
    }

    pub(super) fn warn(&self, warning: Problem) {
        self.warnings.borrow_mut().push(warning);
    }

    /// How many problems there are so far that keep a service from being used. Unchanged means
    /// that what was read since can be used.
    pub(super) fn obstacles(&self) -> usize {
        let problems = self.problems.borrow();
        let obstacles = problems.iter().filter(|(_, ends)| *ends > Ends::AtStart);
        obstacles.count()
    }

    /// The first obstacle in the file, how many others there are, and what ends them all;
    /// `None`: there is none.
    pub(super) fn first_obstacle(&self) -> Option<(Problem, usize, Ends)> {
        let problems = self.problems.borrow();
        let obstacles = problems.iter().filter(|(_, ends)| *ends > Ends::AtStart);
        let first = obstacles.clone().map(|(problem, _)| problem).min()?.clone();
        let ends = obstacles.clone().map(|(_, ends)| *ends).max()?;
        Some((first, obstacles.count() - 1, ends))
    }

    fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Problems and warnings, each sorted by place, none twice.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        let sorted = |mut problems: Vec<Problem>| {
            problems.sort();
            problems.dedup();
            if problems.len() > MAX_PROBLEMS
                && let Some(last) = problems.last_mut()
            {
                *last = Problem::of_file(&last.file, "there are more problems than these");
            }
            problems
        };
        let problems = self.problems.into_inner().into_iter();
        let problems = problems.map(|(problem, _)| problem).collect();
        (sorted(problems), sorted(self.warnings.into_inner()))
    }
}

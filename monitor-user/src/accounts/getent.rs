//! Asks the host's name service by its own program, `getent`: see getent(1).

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{LookupError, NO_ID};
use crate::os::answer::{Answer, Bounds, NoAnswer, answer, ending};

/// The groups of a user in as many as the kernel allows (65,536) are shorter.
const LONGEST_ANSWER: usize = 1 << 20;

/// Longer than name services that work take, and shorter than a client waits for its agent.
const PATIENCE: Duration = Duration::from_secs(3);

/// What `getent` ends with where there is no such entry.
const NO_ENTRY: i32 = 2;

/// The program, and what it has answered.
#[derive(Debug)]
pub(super) struct Getent {
    program: PathBuf,
    patience: Duration,
    answers: RefCell<HashMap<Question, Found>>,
    /// Whether an answer did not come in time: then no other is waited for.
    is_late: RefCell<bool>,
}

/// A database and a key.
type Question = (String, String);

/// What it printed; `None` if it knows no such entry.
type Found = Result<Option<Vec<u8>>, LookupError>;

impl Getent {
    /// That of this host.
    pub(super) fn of_this_host() -> Self {
        Self::new("getent".into(), PATIENCE)
    }

    pub(super) fn new(program: PathBuf, patience: Duration) -> Self {
        Self {
            program,
            patience,
            answers: RefCell::default(),
            is_late: RefCell::default(),
        }
    }

    /// The entry of this key, read by `read`.
    pub(super) fn entry<T>(
        &self,
        database: &str,
        key: &str,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, LookupError> {
        let Some(answer) = self.ask(database, key)? else {
            return Ok(None);
        };
        let line = answer.split(|byte| *byte == b'\n').next();
        match line.and_then(read) {
            Some(entry) => Ok(Some(entry)),
            None => Err(no_answer(
                database,
                key,
                "printed something else than its entry",
            )),
        }
    }

    /// The groups that name this user.
    pub(super) fn groups_of(&self, user: &str) -> Result<Vec<u32>, LookupError> {
        let Some(answer) = self.ask("initgroups", user)? else {
            return Ok(Vec::new());
        };
        let answer = String::from_utf8_lossy(&answer);
        let numbers = answer
            .strip_prefix(user)
            .map(|rest| rest.split_whitespace().map(str::parse::<u32>));
        let groups: Option<Vec<u32>> =
            numbers.and_then(|numbers| numbers.map(Result::ok).collect());
        match groups {
            Some(groups) => Ok(groups.into_iter().filter(|gid| *gid != NO_ID).collect()),
            None => Err(no_answer(
                "initgroups",
                user,
                "printed something else than groups",
            )),
        }
    }

    fn ask(&self, database: &str, key: &str) -> Found {
        // No entry has such a key, and the program would take the last one for an option.
        if key.is_empty() || key.contains([':', '\n', '\0']) || key.starts_with('-') {
            return Ok(None);
        }
        let question = (database.to_owned(), key.to_owned());
        if let Some(known) = self.answers.borrow().get(&question) {
            return known.clone();
        }
        let found = self.run(database, key);
        self.answers.borrow_mut().insert(question, found.clone());
        found
    }

    fn run(&self, database: &str, key: &str) -> Found {
        if *self.is_late.borrow() {
            let reason = "was not asked, as it did not answer the last question in time";
            return Err(no_answer(database, key, reason));
        }
        let bounds = Bounds {
            time: self.patience,
            size: LONGEST_ANSWER,
        };
        match answer(&self.program, &[database, key], bounds) {
            Ok(Answer { status, stdout }) => match status.code() {
                Some(0) => Ok(Some(stdout)),
                Some(NO_ENTRY) => Ok(None),
                _ => Err(no_answer(database, key, &ending(status))),
            },
            // Then the files are all that can be known.
            Err(NoAnswer::NoProgram) => Ok(None),
            Err(reason) => {
                *self.is_late.borrow_mut() |= matches!(reason, NoAnswer::Late(_));
                Err(no_answer(database, key, &reason.to_string()))
            }
        }
    }
}

/// "getent passwd app was killed by SIGSEGV"
fn no_answer(database: &str, key: &str, reason: &str) -> LookupError {
    LookupError(format!("getent {database} {} {reason}", key.escape_debug()))
}

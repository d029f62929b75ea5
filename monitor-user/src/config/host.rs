//! What is known of the host while a config is read: its accounts, and which programs are in `PATH`.
//! Remembers what it has met, and is to be used for a short time.
//!
//! A directory of `PATH`, or what a link in it leads to, may be where nobody answers. There a process of its own
//! looks, for so long at most. A place that gives it no answer is left out of this and all further look-ups.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::printable;
use crate::accounts::Accounts;
use crate::os::answer::{Bounds, NoAnswer, answer};
use crate::os::mounts::may_hang;

/// How long a directory of `PATH` may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The host, for the reading of one config.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) accounts: Accounts,
    /// Directories of `PATH`, and whether somebody may have to answer for what is in them.
    directories: RefCell<BTreeMap<PathBuf, bool>>,
    /// What was found by a process of its own.
    found: RefCell<BTreeMap<PathBuf, bool>>,
    /// Places that nobody answers for.
    silent: RefCell<BTreeSet<PathBuf>>,
}

/// What became of a look-up in `PATH`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LookUp {
    pub(super) program: Option<PathBuf>,
    /// Places that were left out on the way.
    pub(super) left_out: Vec<PathBuf>,
    /// Those of them that no look-up has left out before.
    pub(super) newly: Vec<PathBuf>,
}

impl Host {
    /// This one.
    pub(super) fn this() -> Self {
        Self {
            accounts: Accounts::of_this_host(),
            directories: RefCell::default(),
            found: RefCell::default(),
            silent: RefCell::default(),
        }
    }

    /// Looks a program up in the directories of `search`, as `PATH` has them.
    pub(super) fn find(&self, word: &str, search: &str) -> LookUp {
        let mut found = LookUp {
            program: None,
            left_out: Vec::new(),
            newly: Vec::new(),
        };
        for directory in search.split(':').map(Path::new) {
            if !directory.is_absolute() {
                continue;
            }
            let path = directory.join(word);
            let place = self.asks_for(directory, &path);
            let is_program = match place {
                None => Ok(not_runnable(&path).is_none()),
                Some(place) => self.look(place, &path),
            };
            match is_program {
                Ok(true) => {
                    found.program = Some(path);
                    return found;
                }
                Ok(false) => {}
                Err(Silent { place, is_new }) => {
                    found.newly.extend(is_new.then(|| place.clone()));
                    found.left_out.push(place);
                }
            }
        }
        found
    }

    /// For what somebody may have to answer: the directory, or a link in it that leads elsewhere.
    fn asks_for<'p>(&self, directory: &'p Path, path: &'p Path) -> Option<&'p Path> {
        let mut directories = self.directories.borrow_mut();
        let entry = directories.entry(directory.to_owned());
        if *entry.or_insert_with(|| may_hang(directory)) {
            return Some(directory);
        }
        let is_link = fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink());
        (is_link && may_hang(path)).then_some(path)
    }

    /// Has it looked whether this is a program, unless nobody answers for that place.
    fn look(&self, place: &Path, path: &Path) -> Result<bool, Silent> {
        let silent = |is_new| Silent {
            place: place.to_owned(),
            is_new,
        };
        if self.silent.borrow().contains(place) {
            return Err(silent(false));
        }
        if let Some(known) = self.found.borrow().get(path) {
            return Ok(*known);
        }
        let Some(is_program) = ask(path) else {
            self.silent.borrow_mut().insert(place.to_owned());
            return Err(silent(true));
        };
        self.found.borrow_mut().insert(path.to_owned(), is_program);
        Ok(is_program)
    }
}

/// Nobody answers for that place.
struct Silent {
    place: PathBuf,
    /// It was not known.
    is_new: bool,
}

/// Has a process of its own look whether this is a program; `None`: it gets no answer.
fn ask(path: &Path) -> Option<bool> {
    let bounds = Bounds {
        time: PATIENCE,
        size: 0,
    };
    let path = path.to_str()?;
    // Also when its file has been replaced.
    let own = Path::new("/proc/self/exe");
    match answer(own, &["probe", "--is-program", path], bounds) {
        Ok(answer) => Some(answer.status.success()),
        Err(NoAnswer::Late(_)) => None,
        Err(why) => {
            tracing::warn!("cannot look for {path}: the process that looks {why}");
            Some(false)
        }
    }
}

/// Why a start cannot run this.
pub(crate) fn not_runnable(path: &Path) -> Option<String> {
    let name = printable(path);
    match fs::metadata(path) {
        Err(error) => Some(format!("cannot find {name}: {error}")),
        Ok(metadata) if !metadata.is_file() => Some(format!("{name} is not a regular file")),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            Some(format!("{name} is not executable"))
        }
        Ok(_) => None,
    }
}

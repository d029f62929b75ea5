//! Counts that outlive the process that counts: one file, replaced as a whole, and one process at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::totals::Totals;
use crate::cli::eprint_line;
use crate::journal::Cursor;

/// Counts, and where they are kept.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) kept: Kept,
    file: Option<StateFile>,
}

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Since when is counted.
    pub(super) since: Timestamp,
    /// Up to which line of the journal.
    #[serde(with = "as_text")]
    pub(super) journal: Option<Cursor>,
    /// The same of the deaths.
    #[serde(with = "as_text")]
    pub(super) deaths: Option<Cursor>,
    pub(super) totals: Totals,
}

#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    /// As it is in the file.
    saved: Option<Kept>,
    /// Held as long as this process counts.
    _lock: Flock<File>,
}

impl State {
    /// Counts that end with this process.
    pub(crate) fn in_memory() -> Self {
        Self {
            kept: Kept::new(),
            file: None,
        }
    }

    /// The counts of that file, or new ones that are kept there. The directory is made if it is missing.
    ///
    /// # Errors
    /// Another process has them; the file cannot be read or written.
    pub(crate) fn in_file(path: &Path) -> Result<Self> {
        let lock = lock(path)?;
        let saved = read(path)?;
        let mut state = Self {
            kept: saved.clone().unwrap_or_else(Kept::new),
            file: Some(StateFile {
                path: path.to_owned(),
                saved,
                _lock: lock,
            }),
        };
        // What cannot be written is better known at once.
        state.save()?;
        Ok(state)
    }

    /// Replaces the file, if there is one and something has changed.
    pub(super) fn save(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if file.saved.as_ref() == Some(&self.kept) {
            return Ok(());
        }
        write(&file.path, &self.kept)
            .with_context(|| format!("cannot keep the counters in {}", file.path.display()))?;
        file.saved = Some(self.kept.clone());
        Ok(())
    }
}

impl Kept {
    fn new() -> Self {
        Self {
            since: super::begin(),
            journal: None,
            deaths: None,
            totals: Totals::default(),
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let lock = beside(path, ".lock");
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&lock)
        .with_context(|| {
            format!(
                "cannot keep the counters: cannot open {}; choose another file with --state",
                lock.display()
            )
        })?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => bail!(
            "another process keeps its counters in {}; choose another file with --state",
            path.display()
        ),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", lock.display())),
    }
}

/// Reads the file, if there is one. What is in it and cannot be understood is put aside.
fn read(path: &Path) -> Result<Option<Kept>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    match serde_json::from_slice(&text) {
        Ok(kept) => Ok(Some(kept)),
        Err(error) => {
            let aside = beside(path, ".damaged");
            fs::rename(path, &aside)
                .with_context(|| format!("cannot move {} out of the way", path.display()))?;
            eprint_line(&format!(
                "{}: {error}; it is {} now, and the counters begin again",
                path.display(),
                aside.display()
            ));
            Ok(None)
        }
    }
}

fn write(path: &Path, kept: &Kept) -> Result<()> {
    let new = beside(path, ".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&new)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_data()?;
    fs::rename(&new, path)?;
    Ok(())
}

/// A cursor as it is in a line.
mod as_text {
    use super::{Cursor, Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(
        cursor: &Option<Cursor>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = cursor.map(|cursor| cursor.to_string());
        text.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Cursor>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.and_then(|text| text.parse().ok()))
    }
}

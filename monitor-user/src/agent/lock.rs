//! One agent works at a time: whoever holds the lock file. The next one waits for it.
//!
//! A shutdown ends the agents that wait as well: it removes the lock file, and who gets the lock
//! of a file that is gone has nothing to take over.
//!
//! The file says who holds it, and with which config: an agent with another config must not wait,
//! since it would stop at the first one's death all services that its own config does not have.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::pool::Pool;
use super::{runtime_dir, spare};
use crate::manager::Manager;
use crate::model::Instance;
use crate::os::{self, descriptor, proc, progress};

/// The lock's name in the runtime directory.
pub(super) const NAME: &str = "lock";

/// How often, and after how long each time, a holder is looked for that has not written yet who it
/// is.
const LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// How often the lock file is made in a directory that somebody removes meanwhile.
const MOST_TRIES: u32 = 100;

/// Who holds the lock, as the file says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) pid: u32,
    start_time_ns: u64,
    /// The config directory, without links.
    config: String,
    /// Device and inode of it, if it was there.
    config_id: Option<(u64, u64)>,
    /// A shutdown has ended it, and is to end the spares.
    #[serde(default)]
    is_retired: bool,
}

/// What has become of a lock that an agent holds.
pub(super) enum Kept {
    /// Its file is where it was.
    There,
    /// Its file was gone, and this agent has taken a new one.
    Again,
    /// Its file was gone, and another agent holds a new one.
    ByAnother(Option<u32>),
}

impl Holder {
    /// This process, with that config directory.
    fn myself(config: &Path) -> Result<Self> {
        let pid = std::process::id();
        let config = config
            .canonicalize()
            .or_else(|_| std::path::absolute(config))
            .with_context(|| format!("cannot find {}", config.display()))?;
        Ok(Self {
            pid,
            start_time_ns: proc::start_time_ns(pid).context("cannot read /proc/self/stat")?,
            config_id: fs::metadata(&config).ok().map(|found| os::identity(&found)),
            config: config.to_string_lossy().into_owned(),
            is_retired: false,
        })
    }

    /// The one that a lock file names, dead or alive.
    fn named_in(file: &File) -> Option<Self> {
        let mut text = vec![0; usize::try_from(file.metadata().ok()?.len()).ok()?];
        file.read_exact_at(&mut text, 0).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The living one. One of an older version, or of another PID namespace, is not known.
    fn living(file: &File) -> Option<Self> {
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            let named = Self::named_in(file);
            if let Some(named) = named.filter(Self::is_living) {
                return Some(named);
            }
        }
        None
    }

    fn is_living(&self) -> bool {
        proc::start_time_ns(self.pid).is_ok_and(|time| time == self.start_time_ns)
    }

    /// The path may lead to a new directory by now, and a directory may have two paths.
    fn has_config_of(&self, other: &Self) -> bool {
        self.config == other.config
            || (self.config_id.is_some() && self.config_id == other.config_id)
    }

    fn write(&self, file: &File) -> Result<()> {
        let text = serde_json::to_vec(self)?;
        file.set_len(0)?;
        file.write_all_at(&text, 0)?;
        Ok(())
    }
}

/// The lock, held until the value goes, or the process does.
pub(super) struct Lock {
    path: PathBuf,
    file: Flock<File>,
    myself: Holder,
}

impl Lock {
    /// Ends the agents that wait for it too.
    pub(super) fn retire(mut self) {
        // Nobody needs that any more, and nothing is amiss if it stays.
        let _ = fs::remove_file(self.path.with_file_name(progress::FILE));
        self.myself.is_retired = true;
        self.say_who();
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::error!(
                "a spare takes over: cannot remove {}: {error}",
                self.path.display()
            );
        }
    }

    /// For an agent that may have to give the lock back.
    pub(super) fn look(&self) -> Option<Look> {
        File::open(&self.path).ok().map(Look)
    }

    fn say_who(&self) {
        if let Err(error) = self.myself.write(&self.file) {
            tracing::warn!(
                "cannot write to {}: {error:#}; a second agent does not know who this one is",
                self.path.display()
            );
        }
    }

    /// Removes its file, so that [`Lock::keep`] takes a new one, and spares come to that.
    pub(super) fn give_up_file(&self) {
        if self.is_in_place().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn is_in_place(&self) -> io::Result<bool> {
        let own = os::identity(&self.file.metadata()?);
        Ok(fs::symlink_metadata(&self.path).is_ok_and(|found| os::identity(&found) == own))
    }

    /// Takes the lock again if somebody has removed its file. Spares that wait at the removed one
    /// then come to the new one.
    ///
    /// # Errors
    /// The new file cannot be made or locked.
    pub(super) fn keep(&mut self) -> Result<Kept> {
        let context = || format!("cannot lock {}", self.path.display());
        if self.is_in_place().with_context(context)? {
            return Ok(Kept::There);
        }
        let file = open(&self.path).with_context(context)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => {
                self.file = file;
                self.say_who();
                Ok(Kept::Again)
            }
            Err((file, Errno::EWOULDBLOCK)) => Ok(Kept::ByAnother(
                Holder::named_in(&file).map(|other| other.pid),
            )),
            Err((_, errno)) => Err(io::Error::from(errno)).with_context(context),
        }
    }
}

/// A look at a lock that this agent holds no longer.
pub(super) struct Look(File);

impl Look {
    /// Whether a shutdown has ended the agent that took it, and is to end this one.
    pub(super) fn was_shut_down(&self) -> bool {
        is_there(&self.0).is_ok_and(|is_there| !is_there)
            && Holder::named_in(&self.0).is_some_and(|last| last.is_retired)
    }
}

/// Takes the lock in `runtime_dir`, waiting for as long as another agent has it that uses the same
/// `config`; `waiting` is called each time that it has to wait, with the other one if that is known.
/// Meanwhile `pool` holds what that one holds.
/// `None`: a shutdown has ended this agent while it waited.
///
/// # Errors
/// The lock file cannot be opened or locked, or the other agent uses another config.
pub(super) fn take(
    runtime_dir: &Path,
    config: &Path,
    manager: &Manager,
    pool: &mut Pool,
    mut waiting: impl FnMut(Option<&Holder>),
) -> Result<Option<Lock>> {
    let path = runtime_dir.join(NAME);
    let context = || format!("cannot lock {}", path.display());
    let myself = Holder::myself(config)?;
    loop {
        // Somebody may have removed it while this agent waited.
        let file = make(runtime_dir, &path)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((file, Errno::EWOULDBLOCK)) => {
                let holder = Holder::living(&file);
                if let Some(holder) = &holder {
                    refuse_another_config(runtime_dir, holder, &myself, "works")?;
                }
                waiting(holder.as_ref());
                let before = Holder::named_in(&file);
                let wait = || Flock::lock(file, FlockArg::LockExclusive);
                let file = spare::beside(runtime_dir, manager, pool, wait)
                    .map_err(|(_, errno)| io::Error::from(errno))
                    .with_context(context)?;
                let last = Holder::named_in(&file);
                // One of an older version says nothing, so that the file names nobody, or somebody who
                // held it before. It removes the file only to end its spares.
                let is_older = holder.is_none() && last == before;
                if !is_there(&file).with_context(context)?
                    && (is_older || last.as_ref().is_none_or(|last| last.is_retired))
                {
                    return Ok(None);
                }
                // Another one may have been faster, when the one that was waited for ended.
                if let Some(last) = last.filter(|last| before.as_ref() != Some(last)) {
                    refuse_another_config(runtime_dir, &last, &myself, "worked last")?;
                }
                file
            }
            Err((_, errno)) => return Err(io::Error::from(errno)).with_context(context),
        };
        // Else it was removed meanwhile: the next agent's file is another.
        if is_there(&file).with_context(context)? {
            let lock = Lock { path, file, myself };
            lock.say_who();
            return Ok(Some(lock));
        }
    }
}

/// Whether an agent holds the lock in a runtime directory.
pub(crate) fn is_locked(runtime_dir: &Path) -> bool {
    File::open(runtime_dir.join(NAME)).is_ok_and(os::is_locked)
}

/// The living agent that the lock file in a runtime directory names, if it does.
pub(super) fn holder_in(runtime_dir: &Path) -> Option<Instance> {
    let named = Holder::named_in(&File::open(runtime_dir.join(NAME)).ok()?)?;
    named.is_living().then_some(Instance {
        pid: named.pid,
        start_time_ns: named.start_time_ns,
    })
}

fn refuse_another_config(
    runtime_dir: &Path,
    other: &Holder,
    myself: &Holder,
    does: &str,
) -> Result<()> {
    if other.has_config_of(myself) {
        return Ok(());
    }
    bail!(
        "the agent with pid {} {does} in {} with the config {}, and this one has the config {}, so it \
         cannot be its spare; give it the same --config, or a --runtime-dir and a --pin-dir of its own",
        other.pid,
        runtime_dir.display(),
        other.config,
        myself.config
    )
}

/// Opens the lock file, and makes it and its directory where they are missing. Who removes a
/// directory with all that is in it may still be at that.
fn make(runtime_dir: &Path, path: &Path) -> Result<File> {
    for _ in 1..MOST_TRIES {
        match try_make(runtime_dir, path) {
            Err(error) if is_missing(&error) => std::thread::sleep(BETWEEN_LOOKS),
            made => return made,
        }
    }
    try_make(runtime_dir, path)
}

fn try_make(runtime_dir: &Path, path: &Path) -> Result<File> {
    runtime_dir::prepare(runtime_dir)?;
    open(path).with_context(|| format!("cannot lock {}", path.display()))
}

fn is_missing(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound)
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
        .open(path)?;
    Ok(descriptor::first_to_close(file))
}

/// Whether a file still has a name.
fn is_there(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn it_is_made_though_somebody_removes_its_directory_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("run");
        let path = runtime_dir.join(NAME);
        for _ in 0..20 {
            let is_made = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        while !runtime_dir.exists() {
                            if is_made.load(Ordering::Relaxed) {
                                return;
                            }
                        }
                        let _ = fs::remove_dir_all(&runtime_dir);
                    }
                });
                let made = make(&runtime_dir, &path);
                is_made.store(true, Ordering::Relaxed);
                made.unwrap();
            });
        }
    }

    #[test]
    fn of_a_directory_that_cannot_be_made_it_is_told_why() {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("file/run");
        fs::write(dir.path().join("file"), "").unwrap();
        let error = make(&runtime_dir, &runtime_dir.join(NAME)).unwrap_err();
        assert!(
            format!("{error:#}").contains("Not a directory"),
            "{error:#}"
        );
    }
}

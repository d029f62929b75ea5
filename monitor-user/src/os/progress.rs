//! What an agent shows of itself in a file of the runtime directory: who it is, what its spare may
//! watch, and a count that moves as long as it works. Judges nothing: that is the spare's.
//!
//! The file's pages are the shared memory. They are written and read by system calls, not mapped: a
//! file that somebody cuts short then costs a takeover, and no agent its life.
//!
//! Whoever does something long in small steps calls [`count`] at each. What takes long in one
//! step, with the kernel at work for us, is done within [`unhurried`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use crate::model::Instance;

/// The file's name.
pub(crate) const FILE: &str = "progress";

/// "respawn" and the version of what follows.
const MAGIC: u64 = u64::from_be_bytes(*b"respawn1");

/// For how many looks an agent may show no progress while something is due.
pub(crate) const PATIENCE: u64 = 6;
/// The same while the kernel works for it.
const LONG_PATIENCE: u64 = 240;

/// The places of the words.
const PATIENCE_AT: u64 = 5 * WORD;
const COUNT_AT: u64 = 6 * WORD;
const TAKEOVERS_AT: u64 = 7 * WORD;
const DUE_AT: u64 = 4 * WORD;
const WORD: u64 = 8;
const WORDS: usize = 9;

/// Where this process counts, if it is an agent at work.
static SHOWN: OnceLock<Shown> = OnceLock::new();

struct Shown {
    /// Another one once somebody has removed it.
    file: RwLock<File>,
    count: AtomicU64,
    /// The word that stands at `DUE_AT`.
    due: AtomicU64,
}

/// What the file shows of the agent that holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sign {
    pub(crate) agent: Instance,
    /// The number of its descriptor that is readable while something is due; `None`: it starts.
    pub(crate) due: Option<RawFd>,
    /// For how many looks it may show no progress.
    pub(crate) patience: u64,
    pub(crate) count: u64,
}

impl Sign {
    /// Of an agent that has the lock and has not come to [`begin`]: it may take its time.
    pub(crate) fn before_it_shows(agent: Instance) -> Self {
        Self {
            agent,
            due: None,
            patience: LONG_PATIENCE,
            count: 0,
        }
    }
}

/// How often spares have ended a stuck agent, one soon after the other, and when last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Takeovers {
    pub(crate) in_a_row: u64,
    /// On the clock that stands still in suspend.
    pub(crate) last: Duration,
}

/// Opens the file, to look at it or to write to it.
///
/// # Errors
/// It is not there, or is a link.
pub(crate) fn open(runtime_dir: &Path) -> io::Result<File> {
    options().open(runtime_dir.join(FILE))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW;
    options.read(true).write(true).custom_flags(flags);
    options
}

/// This process, which holds the lock, shows itself as an agent that starts.
///
/// # Errors
/// The file cannot be made or written.
pub(crate) fn begin(runtime_dir: &Path, myself: Instance) -> io::Result<()> {
    let shown = Shown {
        file: RwLock::new(make(runtime_dir, myself)?),
        count: AtomicU64::new(0),
        due: AtomicU64::new(0),
    };
    // A process becomes an agent once.
    let _ = SHOWN.set(shown);
    Ok(())
}

fn make(runtime_dir: &Path, myself: Instance) -> io::Result<File> {
    let mut options = options();
    options.create(true).truncate(false).mode(0o600);
    let file = options.open(runtime_dir.join(FILE))?;
    introduce(&file, myself)?;
    Ok(file)
}

/// Whether somebody has removed the file in which this process shows itself.
pub(crate) fn is_removed(runtime_dir: &Path) -> bool {
    let Some(own) = SHOWN.get().and_then(|shown| shown.file().metadata().ok()) else {
        return false;
    };
    let there = fs::symlink_metadata(runtime_dir.join(FILE));
    there.map_or(true, |there| {
        super::identity(&there) != super::identity(&own)
    })
}

/// Makes the file again, which somebody has removed. A spare that watches the removed one sees no
/// progress any more: it has to be woken first.
///
/// # Errors
/// As of [`begin`].
pub(crate) fn show_again(runtime_dir: &Path, myself: Instance) -> io::Result<()> {
    let Some(shown) = SHOWN.get() else {
        return begin(runtime_dir, myself);
    };
    let file = make(runtime_dir, myself)?;
    *shown.file.write().unwrap_or_else(PoisonError::into_inner) = file;
    put(DUE_AT, shown.due.load(Ordering::Relaxed));
    Ok(())
}

impl Shown {
    fn file(&self) -> RwLockReadGuard<'_, File> {
        self.file.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn introduce(file: &File, myself: Instance) -> io::Result<()> {
    let pid = myself.pid.into();
    let words = [
        MAGIC,
        pid,
        myself.start_time_ns,
        namespace()?,
        0,
        PATIENCE,
        0,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    file.write_all_at(&bytes, 0)
}

/// It has started; `due` stays open as long as it lives.
pub(crate) fn started(due: BorrowedFd<'_>) {
    let word = u64::try_from(due.as_raw_fd()).map_or(0, |fd| fd + 1);
    if let Some(shown) = SHOWN.get() {
        shown.due.store(word, Ordering::Relaxed);
    }
    put(DUE_AT, word);
}

/// The agent gets on. In any other process this does nothing.
pub(crate) fn count() {
    if let Some(shown) = SHOWN.get() {
        put(COUNT_AT, shown.count.fetch_add(1, Ordering::Relaxed) + 1);
    }
}

/// Does what may take long in one system call.
pub(crate) fn unhurried<T>(work: impl FnOnce() -> T) -> T {
    put(PATIENCE_AT, LONG_PATIENCE);
    let result = work();
    count();
    put(PATIENCE_AT, PATIENCE);
    result
}

fn put(at: u64, word: u64) {
    if let Some(shown) = SHOWN.get() {
        // Nobody can be told: the journal is in the same directory, and says so.
        let _ = shown.file().write_all_at(&word.to_ne_bytes(), at);
    }
}

/// What the file shows; `None` if that is nothing that can be judged here: an agent of an earlier
/// version, or of another PID namespace.
pub(crate) fn read(file: &File) -> Option<Sign> {
    let [
        magic,
        pid,
        start_time_ns,
        namespace,
        due,
        patience,
        count,
        ..,
    ] = words(file);
    if magic != MAGIC || namespace != self::namespace().ok()? {
        return None;
    }
    let agent = Instance {
        pid: pid.try_into().ok()?,
        start_time_ns,
    };
    let due = due.checked_sub(1).and_then(|fd| RawFd::try_from(fd).ok());
    Some(Sign {
        agent,
        due,
        patience,
        count,
    })
}

/// What spares have noted.
pub(crate) fn takeovers(file: &File) -> Takeovers {
    let [.., in_a_row, last] = words(file);
    Takeovers {
        in_a_row,
        last: Duration::from_nanos(last),
    }
}

/// Leaves that for the next spare.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn note_takeovers(file: &File, takeovers: Takeovers) -> io::Result<()> {
    let last = u64::try_from(takeovers.last.as_nanos()).unwrap_or(u64::MAX);
    let words = [takeovers.in_a_row, last].map(u64::to_ne_bytes);
    file.write_all_at(&words.concat(), TAKEOVERS_AT)
}

/// What is not there is zero.
fn words(file: &File) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let mut bytes = [0; WORDS * 8];
    let length = file.read_at(&mut bytes, 0).unwrap_or(0);
    let read = bytes.get(..length).unwrap_or_default();
    for (word, bytes) in words.iter_mut().zip(read.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// Pids mean nothing in another one.
fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(read(&file), None);
        let agent = Instance {
            pid: 7,
            start_time_ns: 9,
        };
        introduce(&file, agent).unwrap();
        let sign = read(&file).unwrap();
        assert_eq!((sign.agent, sign.due, sign.count), (agent, None, 0));
        assert_eq!(sign.patience, PATIENCE);
        let noted = Takeovers {
            in_a_row: 3,
            last: Duration::from_secs(5),
        };
        note_takeovers(&file, noted).unwrap();
        introduce(&file, agent).unwrap();
        assert_eq!(takeovers(&file), noted);
        // An agent of another namespace, and one of a later version.
        for (at, word) in [(3 * WORD, 1), (0, MAGIC + 1)] {
            file.write_all_at(&u64::to_ne_bytes(word), at).unwrap();
            assert_eq!(read(&file), None);
        }
    }
}

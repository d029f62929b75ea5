//! What the next agent needs to know, kept in the runtime directory: one small file a service. Its
//! last whole line counts. A line is one `write(2)`, and so is there or is not whenever the agent
//! dies; where the file has become long, and where a write has failed, it is replaced whole.
//!
//! Where the kernel records no births, a second file has the service's last one, written before the
//! new process may go on. It is left there and written over by the next: the first file says which
//! birth it knows of, so one that it knows counts no more, and one that it does not is what an agent
//! left that died at once. No birth is known from the first file before the supervisor has it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::runtime_dir::STATE;
use crate::clock;
use crate::config;
use crate::model::{Attempt, Instance, Memory, ServiceName};
use crate::os::{self, proc, progress};

/// The directory of these files.
pub(super) struct MemoryDir {
    path: PathBuf,
    boot_id: String,
    /// The births in files that memories know of.
    known_births: HashMap<String, Instance>,
    /// When the instances of services were let go on, since boot, that had stood by.
    released: HashMap<String, (Instance, u64)>,
    /// How long the files are that this agent may append to.
    lengths: HashMap<String, usize>,
}

/// What else is in the directory, and not read here: see `last_good`. No service's file is named so:
/// each of those has an ending.
pub(super) const LAST_GOOD: &str = "last-good-config";

/// A file that is longer is replaced.
const LONGEST: usize = 16 << 10;

#[derive(Serialize, Deserialize)]
struct File {
    /// Pids, start times and delays mean nothing after another boot.
    boot_id: String,
    /// When it was written, since boot.
    written_at: Duration,
    memory: Memory,
    /// Instances whose exit is in `memory`; whether it is in the journal, only that tells.
    #[serde(default)]
    untold: Vec<Instance>,
    /// The last birth in a file that `memory` knows of.
    #[serde(default)]
    birth: Option<Instance>,
    /// When an instance was let go on, since boot, if it had stood by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released: Option<(Instance, u64)>,
}

/// The last birth of a service.
#[derive(Serialize, Deserialize)]
struct BirthFile {
    boot_id: String,
    attempt: Attempt,
    instance: Instance,
    /// It stood by until then: its agent may have died before it was let go on, and it with its agent.
    #[serde(default)]
    stood_by: bool,
}

/// So many bytes has a birth's file: each write covers the one before, in one page, and so is there
/// whole or not at all whenever the agent dies.
const BIRTH_BYTES: usize = 256;

/// What is remembered of a service.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub(super) memory: Memory,
    /// Instances whose exit is in `memory`, and perhaps not in the journal.
    pub(super) untold: Vec<Instance>,
}

/// What the files tell.
#[derive(Default)]
pub(super) struct Recalled {
    pub(super) memories: Vec<(ServiceName, Remembered)>,
    /// Births that no memory knows of.
    pub(super) births: Vec<RecordedBirth>,
}

/// A birth in a file.
pub(super) struct RecordedBirth {
    pub(super) service: ServiceName,
    pub(super) attempt: Attempt,
    pub(super) instance: Instance,
    /// It stood by until then.
    pub(super) stood_by: bool,
}

/// What a file in the directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named<'n> {
    Memory(&'n str),
    Birth(&'n str),
    LastGood,
    /// Left behind by an agent that died while it wrote.
    Unfinished,
    /// Not what an agent calls its files.
    Foreign,
}

impl<'n> Named<'n> {
    fn of(path: &'n Path) -> Self {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Self::Foreign;
        };
        if name == LAST_GOOD {
            return Self::LastGood;
        }
        match name.rsplit_once('.') {
            Some((LAST_GOOD, "new")) => Self::Unfinished,
            Some((service, ending)) if config::is_service_name(service) => match ending {
                "json" => Self::Memory(service),
                "birth" => Self::Birth(service),
                "new" => Self::Unfinished,
                _ => Self::Foreign,
            },
            _ => Self::Foreign,
        }
    }
}

/// What every file of an agent has, in every version.
#[derive(Deserialize)]
struct Ours {
    #[serde(rename = "boot_id")]
    _boot_id: IgnoredAny,
}

/// Whether a file's content is an agent's; `None`: it is no JSON, so nobody knows.
fn is_ours(path: &Path) -> Option<bool> {
    let bytes = fs::read(path).ok()?;
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())?;
    Some(serde_json::from_value::<Ours>(value).is_ok())
}

/// Refuses a directory in which there is something, and nothing of it is an agent's.
fn refuse_foreign(state: &Path) -> Result<()> {
    if is_ours(&state.join(LAST_GOOD)) == Some(true) {
        return Ok(());
    }
    let mut foreign = None;
    let entries =
        fs::read_dir(state).with_context(|| format!("cannot read {}", state.display()))?;
    for entry in entries {
        let path = entry?.path();
        let verdict = match Named::of(&path) {
            Named::Unfinished => None,
            Named::Foreign => Some(false),
            Named::Memory(_) | Named::Birth(_) | Named::LastGood => is_ours(&path),
        };
        match verdict {
            Some(true) => return Ok(()),
            Some(false) => foreign = foreign.or(Some(path)),
            None => {}
        }
    }
    if let Some(path) = foreign {
        bail!(
            "{} is not respawn's, nor is anything else beside it; move the directory out of the way, or choose another --runtime-dir",
            path.display()
        );
    }
    Ok(())
}

impl MemoryDir {
    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// It cannot be made, or is somebody else's.
    pub(super) fn open(runtime_dir: &Path) -> Result<Self> {
        let path = runtime_dir.join(STATE);
        make_dir(&path)?;
        refuse_foreign(&path)?;
        let boot_id = proc::boot_id().context("cannot read the kernel's boot ID")?;
        Ok(Self {
            path,
            boot_id,
            known_births: HashMap::new(),
            released: HashMap::new(),
            lengths: HashMap::new(),
        })
    }

    /// Makes the directory again, if somebody has removed it.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make_dir(&self) -> Result<()> {
        make_dir(&self.path)
    }

    /// Whether a service's file is there.
    pub(super) fn has(&self, service: &str) -> bool {
        self.path.join(format!("{service}.json")).exists()
    }

    /// What earlier agents of this boot remembered, aged to now. What is damaged, or of another
    /// boot, is cleared away with a word; what no agent calls its files is left alone.
    pub(super) fn read(&mut self) -> Result<Recalled> {
        let mut recalled = Recalled::default();
        let entries = fs::read_dir(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        for entry in entries {
            progress::count();
            let path = entry?.path();
            let kept = match Named::of(&path) {
                Named::Memory(service) => self.read_memory(&path, service.into(), &mut recalled),
                Named::Birth(service) => self.read_birth(&path, service.into(), &mut recalled),
                Named::Unfinished => Ok(false),
                Named::LastGood => Ok(true),
                Named::Foreign => {
                    tracing::warn!("{}: not respawn's, left alone", path.display());
                    Ok(true)
                }
            };
            let is_kept = kept.unwrap_or_else(|error| {
                tracing::warn!("{}: {error:#}", path.display());
                false
            });
            if !is_kept && let Err(error) = fs::remove_file(&path) {
                tracing::error!("cannot remove {}: {error}", path.display());
            }
        }
        let known = &self.known_births;
        let births = &mut recalled.births;
        births.retain(|birth| known.get(&*birth.service) != Some(&birth.instance));
        // The supervisor will know of all of them before anything is written.
        for birth in births {
            let service = birth.service.to_string();
            self.known_births.insert(service, birth.instance);
        }
        Ok(recalled)
    }

    /// `false`: it is of no use.
    fn read_memory(
        &mut self,
        path: &Path,
        service: ServiceName,
        recalled: &mut Recalled,
    ) -> Result<bool> {
        let file: File = read(path)?;
        if !self.is_of_this_boot(path, &file.boot_id) {
            return Ok(false);
        }
        if let Some(birth) = file.birth {
            self.known_births.insert(service.to_string(), birth);
        }
        if let Some(released) = file.released {
            self.released.insert(service.to_string(), released);
        }
        let age = clock::since_boot().saturating_sub(file.written_at);
        let remembered = Remembered {
            memory: file.memory.aged(age),
            untold: file.untold,
        };
        recalled.memories.push((service, remembered));
        Ok(true)
    }

    /// As above.
    fn read_birth(
        &self,
        path: &Path,
        service: ServiceName,
        recalled: &mut Recalled,
    ) -> Result<bool> {
        // Its agent died before it wrote.
        if fs::metadata(path)?.len() == 0 {
            return Ok(false);
        }
        let file: BirthFile = read(path)?;
        let is_ours = self.is_of_this_boot(path, &file.boot_id);
        if is_ours {
            recalled.births.push(RecordedBirth {
                service,
                attempt: file.attempt,
                instance: file.instance,
                stood_by: file.stood_by,
            });
        }
        Ok(is_ours)
    }

    fn is_of_this_boot(&self, path: &Path, boot_id: &str) -> bool {
        let is_so = boot_id == self.boot_id;
        if !is_so {
            tracing::info!("{}: of another boot", path.display());
        }
        is_so
    }

    /// Notes down a process that is about to become a service's instance; `stood_by`: by being let go on.
    fn record_birth(
        &self,
        service: &str,
        attempt: Attempt,
        instance: Instance,
        stood_by: bool,
    ) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(&BirthFile {
            boot_id: self.boot_id.clone(),
            attempt,
            instance,
            stood_by,
        })?;
        bytes.resize(BIRTH_BYTES.max(bytes.len()), b' ');
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(self.birth_file(service))?;
        file.write_all(&bytes)
    }

    /// The same where it cannot be recorded: on a full disk a service that nobody may know of is better than
    /// none.
    pub(super) fn record_birth_if_possible(
        &self,
        service: &ServiceName,
        attempt: Attempt,
        instance: Instance,
        stood_by: bool,
    ) {
        if let Err(error) = self.record_birth(service, attempt, instance, stood_by) {
            tracing::error!(%service, "its birth cannot be recorded: {error}");
            self.drop_birth(service);
        }
    }

    /// From now on the memory that is written knows of the recorded birth.
    pub(super) fn knows_birth(&mut self, service: &str, instance: Instance) {
        self.known_births.insert(service.to_owned(), instance);
    }

    /// An instance stood by, and was let go on then, in nanoseconds since boot.
    pub(super) fn released(&mut self, service: &str, instance: Instance, at_ns: u64) {
        self.released.insert(service.to_owned(), (instance, at_ns));
    }

    /// Which instances stood by, and when they were let go on, in nanoseconds since boot.
    pub(super) fn all_released(&self) -> impl Iterator<Item = (Instance, u64)> {
        self.released.values().copied()
    }

    /// Nothing has come of the recorded birth, or its service is no more.
    pub(super) fn drop_birth(&self, service: &str) {
        let path = self.birth_file(service);
        if let Err(error) = os::remove_file(&path) {
            tracing::error!("cannot remove {}: {error}", path.display());
        }
    }

    fn birth_file(&self, service: &str) -> PathBuf {
        self.path.join(format!("{service}.birth"))
    }

    /// Remembers a service, or forgets it. `untold`: as in [`Remembered`].
    pub(super) fn write(
        &mut self,
        service: &str,
        memory: Option<Memory>,
        untold: &[Instance],
    ) -> io::Result<()> {
        let path = self.path.join(format!("{service}.json"));
        let Some(memory) = memory else {
            // First: a birth without a memory would be taken for one that is not known.
            self.drop_birth(service);
            self.known_births.remove(service);
            self.released.remove(service);
            self.lengths.remove(service);
            return os::remove_file(&path);
        };
        let written_at = clock::since_boot();
        let file = File {
            boot_id: self.boot_id.clone(),
            written_at,
            memory,
            untold: untold.to_vec(),
            birth: self.known_births.get(service).copied(),
            released: self.released.get(service).copied(),
        };
        let mut line = serde_json::to_vec(&file)?;
        line.push(b'\n');
        // Until it is known how this ends, nothing may be appended to what may be half a line.
        let length = match self.lengths.remove(service) {
            Some(length) if length < LONGEST && append(&path, &line).is_ok() => length,
            _ => {
                let temporary = self.path.join(format!("{service}.new"));
                replace(&temporary, &path, &line)?;
                0
            }
        };
        self.lengths.insert(service.to_owned(), length + line.len());
        Ok(())
    }
}

fn make_dir(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.with_context(|| format!("cannot make {}", path.display()))
}

/// Puts a file of these bytes in another's place, by way of a temporary one.
pub(super) fn replace(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(temporary)?.write_all(bytes)?;
    fs::rename(temporary, path)
}

/// Adds a line to a file that is there, by one write.
fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().append(true).open(path)?;
    if file.write(line)? == line.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// The last whole line.
fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path)?;
    let mut lines = bytes.rsplit(|&byte| byte == b'\n');
    lines
        .find_map(|line| serde_json::from_slice(line).ok())
        .context("damaged, not used")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(starts: u64) -> Option<Memory> {
        Some(Memory {
            starts,
            ..Memory::default()
        })
    }

    /// How many starts the next agent knows of.
    fn recalled(runtime_dir: &Path) -> Option<u64> {
        let recalled = MemoryDir::open(runtime_dir).unwrap().read().unwrap();
        let memory = recalled.memories.into_iter().next();
        memory.map(|(_, remembered)| remembered.memory.starts)
    }

    #[test]
    fn the_last_write_counts_however_many_there_were() {
        let dir = tempfile::tempdir().unwrap();
        let mut memories = MemoryDir::open(dir.path()).unwrap();
        let path = dir.path().join("state/web.json");
        let mut longest = 0;
        for starts in 0..500 {
            memories.write("web", memory(starts), &[]).unwrap();
            assert_eq!(recalled(dir.path()), Some(starts));
            longest = longest.max(fs::metadata(&path).unwrap().len());
        }
        let bound = u64::try_from(2 * LONGEST).unwrap();
        assert!((1000..bound).contains(&longest), "{longest} bytes");
        memories.write("web", None, &[]).unwrap();
        assert_eq!(recalled(dir.path()), None);
    }

    /// What is in the state directory after an agent has read it.
    fn left(runtime_dir: &Path) -> Vec<String> {
        let mut memories = MemoryDir::open(runtime_dir).unwrap();
        memories.read().unwrap();
        let entries = fs::read_dir(runtime_dir.join(STATE)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_an_agent_has_made_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut memories = MemoryDir::open(dir.path()).unwrap();
        memories.write("web", memory(1), &[]).unwrap();
        let state = dir.path().join(STATE);
        for name in [
            "web.new",
            "last-good-config.new",
            "torn.json",
            "empty.birth",
        ] {
            fs::write(state.join(name), "{\"boot").unwrap();
        }
        let foreign = [
            "-x.json",
            ".hidden.new",
            "a b.json",
            "notes",
            "notes.txt",
            "x.json~",
        ];
        for name in foreign {
            fs::write(state.join(name), "").unwrap();
        }
        fs::create_dir(state.join("folder")).unwrap();
        let mut expected: Vec<_> = foreign.into_iter().chain(["folder", "web.json"]).collect();
        expected.sort_unstable();
        assert_eq!(left(dir.path()), expected);
    }

    #[test]
    fn a_directory_of_somebody_elses_is_refused_and_stays_as_it_is() {
        for (name, text) in [
            ("notes.txt", ""),
            ("users.json", "{\"users\": []}"),
            ("users.json", "[1, 2]\n"),
            ("folder.birth", "null"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path().join(STATE);
            fs::create_dir(&state).unwrap();
            fs::write(state.join(name), text).unwrap();
            let Err(error) = MemoryDir::open(dir.path()) else {
                panic!("{name} was taken for an agent's");
            };
            let said = format!("{error:#}");
            assert!(
                said.contains(name) && said.contains("not respawn's"),
                "{said}"
            );
            assert_eq!(fs::read_to_string(state.join(name)).unwrap(), text);
        }
        // What an agent may have left that died early, or lost on a disk.
        for (name, text) in [
            ("web.new", ""),
            ("web.json", ""),
            ("web.json", "{\"boot"),
            ("web.birth", "\0\0"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path().join(STATE);
            fs::create_dir(&state).unwrap();
            fs::write(state.join(name), text).unwrap();
            assert_eq!(left(dir.path()), [""; 0], "{name}");
        }
    }

    #[test]
    fn a_torn_line_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut memories = MemoryDir::open(dir.path()).unwrap();
        memories.write("web", memory(1), &[]).unwrap();
        memories.write("web", memory(2), &[]).unwrap();
        let path = dir.path().join("state/web.json");
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for length in [first, first + 1, whole.len() - 10] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(recalled(dir.path()), Some(1), "{length} bytes");
        }
        // An agent never appends to what another one has left.
        let mut next = MemoryDir::open(dir.path()).unwrap();
        next.write("web", memory(3), &[]).unwrap();
        assert_eq!(recalled(dir.path()), Some(3));
    }

    #[test]
    fn a_file_that_somebody_took_away_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut memories = MemoryDir::open(dir.path()).unwrap();
        let path = dir.path().join("state/web.json");
        memories.write("web", memory(1), &[]).unwrap();
        fs::remove_file(&path).unwrap();
        memories.write("web", memory(2), &[]).unwrap();
        assert_eq!(recalled(dir.path()), Some(2));
    }
}

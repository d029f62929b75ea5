//! The sets of pins of all agents, on whichever bpf file system and in whichever directory: finds
//! them by what is pinned, says whose each is and what it costs, and removes one that no agent holds.
//!
//! A set is a directory `v<ABI version>` in a pin directory. Takes up none of them: an agent does.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData, MapType};
use monitor_ebpf::{maps, programs};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::holder::{self, LastHolder};
use super::{namespace, pins};
use crate::os::{self, bpf, mounts, proc};

/// The directory of a recorder's pins, below the pin directory of an agent.
pub(crate) const RECORDER: &str = "recorder";

/// So deep below a mount point sets are looked for.
const MOST_DEPTH: usize = 8;
/// So many directories are looked at.
const MOST_DIRECTORIES: usize = 10_000;

/// The pins of one agent, of one ABI version.
#[derive(Debug)]
pub(crate) struct PinSet {
    /// Its directory.
    pub(crate) path: PathBuf,
    /// Of the ABI.
    pub(crate) version: u32,
    /// The number of its agent's runtime directory.
    pub(crate) owner: Option<u64>,
    /// What its last agent has said of itself; nothing before version 0.2.
    pub(crate) held: Option<LastHolder>,
    /// The programs that it keeps attached.
    pub(crate) programs: Vec<bpf::Program>,
    /// Whether a living agent has it.
    pub(crate) is_held: bool,
}

/// What there is of the runtime directory of a set's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuntimeDir {
    /// It is there.
    There,
    /// It is gone, or the mount namespace that it was in.
    Gone,
    /// Nobody knows which it was, or it cannot be looked for from here.
    Unknown,
}

/// Why a set is still there.
#[derive(Debug)]
pub(crate) enum NotRemoved {
    /// A living agent has it.
    Held,
    /// It could not be removed, or not all of it.
    Failed(anyhow::Error),
}

impl PinSet {
    /// The set in a directory, if there is one.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let version = pins::version(path.file_name()?)?;
        let notes = has_notes(path);
        let programs = programs_in(path);
        if !notes && !programs.iter().any(is_ours) {
            return None;
        }
        Some(Self {
            version,
            owner: pins::owner(path).ok().filter(|_| notes),
            held: holder::read(&path.join(holder::NAME)).ok(),
            programs,
            is_held: is_held(path.parent()?),
            path: path.to_owned(),
        })
    }

    /// The pin directory that it is in.
    pub(crate) fn pin_dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Whether it is a recorder's, not an agent's.
    pub(crate) fn is_recorders(&self) -> bool {
        self.pin_dir().file_name() == Some(OsStr::new(RECORDER))
    }

    /// How many processes the kernel watches for it, and how many it could.
    ///
    /// # Errors
    /// The map is of a version that cannot be read.
    pub(crate) fn watched(&self) -> Result<(usize, u32)> {
        let map = MapData::from_pin(self.path.join(maps::WATCHED))?;
        let room = map.info()?.max_entries();
        let map = HashMap::<MapData, u32, [u64; 5]>::try_from(Map::HashMap(map))?;
        Ok((map.keys().filter_map(Result::ok).count(), room))
    }

    /// What there is of its agent's runtime directory.
    pub(crate) fn runtime_dir(&self) -> RuntimeDir {
        self.held.as_ref().map_or(RuntimeDir::Unknown, look_for)
    }

    /// Whether it is the set of an agent with this runtime directory, which has this number, and
    /// this pin directory. In another pin directory it has to say so itself: a runtime directory of
    /// another mount namespace may have the same number.
    pub(crate) fn is_of(&self, runtime_dir: &Path, owner: u64, pin_dir: &Path) -> bool {
        match &self.held {
            Some(held) => {
                let mounts = namespace::mounts_of("self").ok();
                held.runtime_dir == runtime_dir && Some(held.mounts) == mounts
            }
            None => self.owner == Some(owner) && self.pin_dir() == pin_dir,
        }
    }

    /// Removes it, which ends its programs, and its pin directory if nothing else is in it.
    ///
    /// # Errors
    /// A living agent has it, or it cannot be removed.
    pub(crate) fn remove(&self) -> Result<(), NotRemoved> {
        let pin_dir = self.pin_dir();
        let failed = |error: anyhow::Error| {
            let path = self.path.display();
            NotRemoved::Failed(error.context(format!("cannot remove {path}")))
        };
        let directory = File::open(pin_dir).map_err(|error| failed(error.into()))?;
        let _lock =
            Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
                match errno {
                    Errno::EWOULDBLOCK => NotRemoved::Held,
                    errno => failed(errno.into()),
                }
            })?;
        pins::clear(&self.path)
            .and_then(|()| Ok(fs::remove_dir(&self.path)?))
            .map_err(failed)?;
        // A mount point stays, and so does a directory with other versions' pins.
        let _ = fs::remove_dir(pin_dir);
        Ok(())
    }
}

/// Every set that there is.
///
/// # Errors
/// A bpf file system cannot be looked through: no right to do so.
pub(crate) fn find() -> Result<Vec<PinSet>> {
    let mut sets = Vec::new();
    let mut seen = HashSet::new();
    for mount in bpf_mounts()? {
        look_through(&mount, 0, &mut seen, &mut sets)
            .with_context(|| format!("cannot look through {}", mount.display()))?;
    }
    sets.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sets)
}

/// The sets in a directory or below it, or the one that it is.
///
/// # Errors
/// It is not there, or cannot be looked through.
pub(crate) fn at(path: &Path) -> Result<Vec<PinSet>> {
    if let Some(set) = PinSet::at(path) {
        return Ok(vec![set]);
    }
    let mut sets = Vec::new();
    look_through(path, 0, &mut HashSet::new(), &mut sets)
        .with_context(|| format!("cannot look through {}", path.display()))?;
    sets.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sets)
}

fn bpf_mounts() -> Result<Vec<PathBuf>> {
    let mounts = mounts::mounts().with_context(|| format!("cannot read {}", mounts::TABLE))?;
    let of_bpf = mounts.into_iter().filter(|mount| mount.kind == "bpf");
    Ok(of_bpf.map(|mount| mount.point).collect())
}

/// A directory is looked at once, by however many mounts it is seen.
fn look_through(
    directory: &Path,
    depth: usize,
    seen: &mut HashSet<(u64, u64)>,
    sets: &mut Vec<PinSet>,
) -> io::Result<()> {
    let is_new = seen.len() < MOST_DIRECTORIES && seen.insert(os::identity(&directory.metadata()?));
    if depth > MOST_DEPTH || !is_new {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        match PinSet::at(&entry.path()) {
            Some(set) => sets.push(set),
            // It may be removed at this moment, and others' directories are not ours to read.
            None => drop(look_through(&entry.path(), depth + 1, seen, sets)),
        }
    }
    Ok(())
}

/// Whether the map of an agent's notes is pinned there.
fn has_notes(path: &Path) -> bool {
    let map = MapData::from_pin(path.join(maps::NOTES));
    map.and_then(|map| map.info()).is_ok_and(|info| {
        info.map_type().ok() == Some(MapType::Array)
            && (info.key_size(), info.value_size()) == (4, 8)
            && info.name_as_str() == Some(maps::NOTES)
    })
}

fn programs_in(path: &Path) -> Vec<bpf::Program> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let program = |path: PathBuf| {
        let link = bpf::open_link(&path).ok()?;
        bpf::program_of_link(link.as_fd()).ok()
    };
    let mut found: Vec<_> = files.filter_map(|it| program(it.path())).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn is_ours(program: &bpf::Program) -> bool {
    let ours = [
        programs::EXIT_GROUP_DEAD,
        programs::EXIT_LIVE_ZERO,
        programs::EXIT_EARLY,
        programs::EXIT_EVENT,
    ];
    ours.contains(&program.name.as_str())
}

/// Whether a living agent has the pins in a pin directory. Where that cannot be found out, it may.
fn is_held(pin_dir: &Path) -> bool {
    File::open(pin_dir).map_or(true, os::is_locked)
}

fn look_for(held: &LastHolder) -> RuntimeDir {
    let Ok(own) = namespace::mounts_of("self") else {
        return RuntimeDir::Unknown;
    };
    if held.mounts == own {
        return is_there(&held.runtime_dir);
    }
    // All processes are seen from the first PID namespace alone.
    if namespace::observer().ok() != Some(0) {
        return RuntimeDir::Unknown;
    }
    let Ok(pids) = proc::pids() else {
        return RuntimeDir::Unknown;
    };
    let lives_there =
        |pid: &u32| namespace::mounts_of(&pid.to_string()).is_ok_and(|it| it == held.mounts);
    match pids.into_iter().find(lives_there) {
        None => RuntimeDir::Gone,
        Some(pid) => {
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            let below = held.runtime_dir.strip_prefix("/");
            is_there(&root.join(below.unwrap_or(&held.runtime_dir)))
        }
    }
}

fn is_there(path: &Path) -> RuntimeDir {
    match fs::symlink_metadata(path) {
        Ok(_) => RuntimeDir::There,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            RuntimeDir::Gone
        }
        Err(_) => RuntimeDir::Unknown,
    }
}

/// All sets of the agent with this runtime directory, which has this number.
///
/// # Errors
/// As [`find`].
pub(crate) fn of_agent(runtime_dir: &Path, owner: u64, pin_dir: &Path) -> Result<Vec<PinSet>> {
    let mut sets = find()?;
    sets.retain(|set| set.is_of(runtime_dir, owner, pin_dir));
    Ok(sets)
}

/// All sets of the recorder whose pins are in that directory.
///
/// # Errors
/// It cannot be looked through.
pub(crate) fn of_recorder(pin_dir: &Path) -> Result<Vec<PinSet>> {
    if !pin_dir.exists() {
        return Ok(Vec::new());
    }
    at(pin_dir)
}

/// Removes those that nobody holds, as far as there is a right to it; returns their directories, and
/// whether others are held.
///
/// # Errors
/// What kept one from being removed.
pub(crate) fn remove_all(sets: Vec<PinSet>) -> Result<(Vec<PathBuf>, bool)> {
    let mut removed = Vec::new();
    let mut are_held = false;
    for set in sets {
        match set.remove() {
            Ok(()) => removed.push(set.path),
            Err(NotRemoved::Held) => are_held = true,
            Err(NotRemoved::Failed(error)) => bail!(error),
        }
    }
    Ok((removed, are_held))
}

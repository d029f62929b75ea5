//! The kernel side's pins: what keeps programs and maps at work while no agent lives.
//!
//! One folder for each ABI version below the pin directory, with a file for each map and link.
//! Trusts none of them before it has looked at what it really is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use monitor_ebpf::{
    ABI_VERSION, Details, ExitRecord, SentSignals, hints, losses, maps, notes, programs,
};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::holder::{self, Holder};
use super::object::Attached;
use super::previous::Previous;
use super::sets::RECORDER;
use crate::os::{self, bpf, descriptor};

/// Where the kernel's own mount point for bpffs is.
const SYS_FS_BPF: &str = "/sys/fs/bpf";

/// The ring of the kernel programs' own diagnostics, as aya-log-ebpf makes it.
const LOGS: &str = "AYA_LOGS";
const LOGS_BYTES: u32 = 1 << 17;

/// Of a value of the signals map.
const SIGNALS_BYTES: u32 = 416;
const _: () = assert!(size_of::<SentSignals>() == SIGNALS_BYTES as usize);
/// Of a value of the spilled map.
const RECORD_BYTES: u32 = 352;
const _: () = assert!(size_of::<ExitRecord>() == RECORD_BYTES as usize);
/// Of a value of the senders map.
const DETAILS_BYTES: u32 = 1152;
const _: () = assert!(size_of::<Details>() == DETAILS_BYTES as usize);

/// How often the lock is tried, and after how long each time: who looks whether an agent holds it has
/// it for a moment, and so has an agent that ends.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// The folder of this build's ABI, held by this agent alone.
pub(crate) struct PinDir {
    /// All versions' folders are in it.
    parent: PathBuf,
    path: PathBuf,
    /// For who finds the pins when there is no agent any more.
    holder: Option<Holder>,
    _lock: Flock<File>,
}

/// The pinned maps' IDs in the kernel, by name.
pub(super) type MapIds = BTreeMap<&'static str, u32>;

/// What a pinned map has to be.
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
    /// It may have more entries as well.
    or_more: bool,
}

/// How large the maps are that do not always have one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) ring_bytes: u32,
    /// How many processes can be watched.
    pub(super) watched: u32,
    /// Of how many processes signals can be kept.
    pub(super) signals: u32,
    /// How many senders of signals are remembered, for a recorder.
    pub(super) senders: u32,
}

impl Sizes {
    /// The entries of each map that does not always have the same size.
    pub(super) fn entries(self) -> [(&'static str, u32); 5] {
        [
            (maps::WATCHED, self.watched),
            (maps::SIGNALS, self.signals),
            (maps::SPILLED, self.watched),
            // An instance may start while another one of its service ends.
            (maps::TREES, self.watched.saturating_mul(2)),
            (maps::SENDERS, self.senders),
        ]
    }
}

/// All maps of the object but its read-only data.
fn shapes(sizes: Sizes) -> [Shape; 12] {
    let shape = |name, kind, key, value, entries| Shape {
        name,
        kind,
        key,
        value,
        entries,
        or_more: false,
    };
    let growing = |index: usize, key, value| {
        let (name, entries) = sizes.entries()[index];
        Shape {
            or_more: true,
            ..shape(name, MapType::Hash, key, value, entries)
        }
    };
    [
        shape(maps::EVENTS, MapType::RingBuf, 0, 0, sizes.ring_bytes),
        growing(0, 4, 40),
        growing(1, 4, SIGNALS_BYTES),
        growing(2, 4, RECORD_BYTES),
        growing(3, 8, 40),
        shape(
            maps::SENDERS,
            MapType::LruHash,
            16,
            DETAILS_BYTES,
            sizes.senders,
        ),
        shape(maps::LOST, MapType::Array, 4, 8, losses::COUNT),
        shape(maps::HINTS, MapType::Array, 4, 8, hints::WORDS),
        shape(maps::MARK, MapType::Array, 4, 32, 1),
        shape(maps::NOTES, MapType::Array, 4, 8, notes::COUNT),
        shape(
            maps::CLAIMED,
            MapType::LruHash,
            16,
            1,
            maps::CLAIMED_ENTRIES,
        ),
        shape(LOGS, MapType::RingBuf, 0, 0, LOGS_BYTES),
    ]
}

impl Shape {
    /// Whether a map has its kind, and keys and values of its sizes.
    fn is_like(&self, found: &MapInfo) -> bool {
        (found.map_type().ok(), found.key_size(), found.value_size())
            == (Some(self.kind), self.key, self.value)
    }

    /// Whether a map with so many entries will do.
    fn has(&self, entries: u32) -> bool {
        entries == self.entries || self.or_more && entries > self.entries
    }
}

/// The maps by which each program has its effect.
const USED: [(&str, &[&str]); 6] = [
    (programs::EXIT_EVENT, &EXIT_MAPS),
    (programs::EXIT_EARLY, &EXIT_MAPS),
    (programs::EXIT_GROUP_DEAD, &EXIT_MAPS),
    (programs::EXIT_LIVE_ZERO, &EXIT_MAPS),
    (programs::BIRTH, &[maps::WATCHED, maps::HINTS, maps::MARK]),
    (
        programs::SIGNAL,
        &[maps::WATCHED, maps::HINTS, maps::SIGNALS],
    ),
];
const EXIT_MAPS: [&str; 7] = [
    maps::EVENTS,
    maps::WATCHED,
    maps::HINTS,
    maps::LOST,
    maps::SIGNALS,
    maps::SPILLED,
    maps::TREES,
];

impl PinDir {
    /// Finds or makes the folder, mounting a bpf file system where there is none.
    ///
    /// # Errors
    /// No bpf file system, no right to mount one, or another living agent uses the directory.
    pub(crate) fn open(pin_dir: &Path) -> Result<Self> {
        ensure_bpffs(pin_dir)?;
        let lock = lock(pin_dir)?;
        let path = pin_dir.join(format!("v{ABI_VERSION}"));
        make(&path)?;
        Ok(Self {
            parent: pin_dir.to_owned(),
            path,
            holder: None,
            _lock: lock,
        })
    }

    /// Writes down beside the pins which agent has them. Without it they work all the same.
    pub(crate) fn name_holder(&mut self, runtime_dir: &Path) {
        match Holder::take(&self.pin(holder::NAME), runtime_dir) {
            Ok(holder) => self.holder = Some(holder),
            Err(error) => tracing::warn!(
                "{error:#}; `respawn doctor` will not know whose the pins in {} are",
                self.path.display()
            ),
        }
    }

    /// Notes that the agent is at work.
    pub(crate) fn is_at_work(&mut self) {
        if let Some(holder) = &mut self.holder {
            holder.is_at_work();
        }
    }

    /// Whether a living agent uses the directory, which has this owner's number.
    pub(crate) fn is_in_use_by(pin_dir: &Path, owner: u64) -> bool {
        File::open(pin_dir).is_ok_and(os::is_locked) && owners(pin_dir).contains(&owner)
    }

    /// Where a map or link is pinned.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where a map of the object is pinned; `None` for its read-only data, which is not.
    pub(super) fn of_map(&self, name: &str) -> Option<PathBuf> {
        let any = Sizes {
            ring_bytes: 0,
            watched: 0,
            signals: 0,
            senders: 0,
        };
        let mut shapes = shapes(any).into_iter();
        let is_pinned = shapes.any(|shape| shape.name == name);
        is_pinned.then(|| self.pin(name))
    }

    /// Whether nothing is pinned yet.
    pub(super) fn is_empty(&self) -> Result<bool> {
        Ok(fs::read_dir(&self.path)?.next().is_none())
    }

    /// Whether every pinned map is what this build would make; their IDs.
    ///
    /// # Errors
    /// The first one that is not, by name, with what was found and expected.
    pub(super) fn check_maps(&self, sizes: Sizes) -> Result<MapIds> {
        let shapes = shapes(sizes).into_iter();
        shapes
            .map(|shape| Ok((shape.name, self.check_map(&shape)?)))
            .collect()
    }

    /// Whether the pinned maps are what this build would make, but for the size of one at least.
    pub(super) fn has_other_sizes(&self, sizes: Sizes) -> bool {
        let found = |shape: &Shape| {
            let map = MapData::from_pin(self.pin(shape.name)).ok()?;
            let info = map.info().ok()?;
            let is_alike = shape.is_like(&info) && info.name_as_str() == Some(shape.name);
            is_alike.then(|| shape.has(info.max_entries()))
        };
        let found: Option<Vec<bool>> = shapes(sizes).iter().map(found).collect();
        found.is_some_and(|right| right.contains(&false))
    }

    /// Puts all pins of this version aside, as if they were another version's.
    ///
    /// # Errors
    /// They cannot be moved, or are another agent's.
    pub(super) fn put_aside(&self, owner: u64) -> Result<()> {
        ensure!(
            self::owner(&self.path)? == owner,
            "they are those of an agent with another runtime directory"
        );
        let aside = (1_u32..).map(|number| self.parent.join(format!("v{ABI_VERSION}-{number}")));
        let aside = aside.into_iter().find(|path| !path.exists());
        let aside = aside.context("there is no name left")?;
        fs::rename(&self.path, &aside)
            .with_context(|| format!("cannot rename to {}", aside.display()))?;
        make(&self.path)
    }

    fn check_map(&self, shape: &Shape) -> Result<u32> {
        let path = self.pin(shape.name);
        let owner = fs::metadata(&path)
            .with_context(|| format!("no pinned map {}", path.display()))?
            .uid();
        ensure!(
            owner == nix::unistd::geteuid().as_raw(),
            "{} is uid {owner}'s",
            path.display()
        );
        let info = MapData::from_pin(&path)
            .and_then(|map| map.info())
            .with_context(|| format!("{} is no map", path.display()))?;
        let found = (
            info.map_type().ok(),
            info.key_size(),
            info.value_size(),
            info.max_entries(),
        );
        let expected = (Some(shape.kind), shape.key, shape.value, shape.entries);
        ensure!(
            shape.is_like(&info) && shape.has(info.max_entries()),
            "{}: found a map with type, key, value and size {found:?}, expected {expected:?}",
            path.display()
        );
        Ok(info.id())
    }

    /// Opens a pinned map, checked before.
    pub(super) fn open_map(&self, name: &str) -> Result<Map> {
        let path = self.pin(name);
        let data = MapData::from_pin(&path)
            .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
        Ok(Map::from_map_data(data)?)
    }

    /// Opens the pinned link of a program, and the program, if they are that, and it uses the maps that
    /// are pinned.
    pub(super) fn open_link(&self, name: &'static str, pinned: &MapIds) -> Result<Attached> {
        let path = self.pin(name);
        let cannot_open = || format!("cannot open the pinned link {}", path.display());
        let link = bpf::open_link(&path).with_context(cannot_open)?;
        let id = bpf::program_id_of_link(link.as_fd()).with_context(cannot_open)?;
        let path = self.program_pin(name);
        let cannot_open = || format!("cannot open the pinned program {}", path.display());
        let program = bpf::open_program_pin(&path).with_context(cannot_open)?;
        let found = bpf::program(program.as_fd()).with_context(cannot_open)?;
        ensure!(
            found.name == name && found.id == id,
            "{}: the program {:?} with the number {}, expected {name:?} with {id}, as the link has it",
            path.display(),
            found.name,
            found.id
        );
        let used = USED.iter().find(|(used, _)| *used == name);
        for map in used.into_iter().flat_map(|(_, maps)| *maps) {
            ensure!(
                pinned.get(map).is_some_and(|id| found.maps.contains(id)),
                "{}: the program uses another map than the pinned {map}",
                path.display()
            );
        }
        Ok(Attached {
            name,
            link,
            program,
            instructions: None,
        })
    }

    /// Pins a program and its link in place of what is there, which ends with that.
    pub(super) fn replace_link(&self, attached: &Attached) -> Result<()> {
        let program = self.program_pin(attached.name);
        self.replace(&program, attached.program.as_fd())?;
        self.replace(&self.pin(attached.name), attached.link.as_fd())
    }

    fn replace(&self, path: &Path, object: BorrowedFd<'_>) -> Result<()> {
        let new = self.pin("new");
        os::remove_file(&new)?;
        bpf::pin(object, &new).with_context(|| format!("cannot pin {}", new.display()))?;
        fs::rename(&new, path).with_context(|| format!("cannot rename to {}", path.display()))
    }

    /// Where a program is pinned, beside its link.
    fn program_pin(&self, name: &str) -> PathBuf {
        self.pin(&format!("{name}_program"))
    }

    /// Takes a program's pins away, if there are any: it ends, if nothing else holds it.
    pub(super) fn remove_link(&self, name: &str) -> Result<()> {
        os::remove_file(&self.pin(name))?;
        Ok(os::remove_file(&self.program_pin(name))?)
    }

    /// Takes all pins of this version away; programs that nothing else holds end. The directories go
    /// too.
    pub(crate) fn clear(&self) -> Result<()> {
        self.empty()?;
        self.remove_if_empty();
        Ok(())
    }

    /// The same, but leaves the directories for new pins.
    pub(super) fn empty(&self) -> Result<()> {
        clear(&self.path)
    }

    /// Removes the directories that `open` may have made, as far as nothing is in them.
    pub(crate) fn remove_if_empty(&self) {
        // What is in use, or is a mount point, stays.
        let _ = fs::remove_dir(&self.path).and_then(|()| fs::remove_dir(&self.parent));
    }

    /// What other versions have left pinned.
    pub(super) fn other_versions(&self) -> Vec<Previous> {
        let entries = fs::read_dir(&self.parent).into_iter().flatten().flatten();
        let others = entries.filter(|entry| entry.path() != self.path);
        others
            .filter_map(|entry| Some(Previous::new(version(&entry.file_name())?, entry.path())))
            .collect()
    }
}

/// Makes the pin directory and locks it.
fn lock(pin_dir: &Path) -> Result<Flock<File>> {
    for _ in 0..TRIES {
        make(pin_dir)?;
        let directory = descriptor::first_to_close(File::open(pin_dir)?);
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            // Else it was removed meanwhile.
            Ok(lock) if is_in_place(&lock, pin_dir) => return Ok(lock),
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) => std::thread::sleep(BETWEEN_TRIES),
            Err((_, errno)) => bail!("cannot lock {}: {errno}", pin_dir.display()),
        }
    }
    let place = pin_dir.display();
    if pin_dir.file_name() == Some(OsStr::new(RECORDER)) {
        bail!("another recorder uses the pin directory {place}; one is enough for a host");
    }
    bail!("another agent uses the pin directory {place}; give each one its own --pin-dir")
}

fn make(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

fn is_in_place(directory: &File, path: &Path) -> bool {
    let identity = |of: fs::Metadata| os::identity(&of);
    let own = directory.metadata().map(identity).ok();
    own.is_some() && fs::metadata(path).map(identity).ok() == own
}

/// Whose the pins of each version are.
fn owners(pin_dir: &Path) -> Vec<u64> {
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            version(&entry.file_name())?;
            owner(&entry.path()).ok()
        })
        .collect()
}

/// Whose the pins in a version's folder are.
pub(super) fn owner(path: &Path) -> Result<u64> {
    let map = MapData::from_pin(path.join(maps::NOTES))?;
    let notes = Array::<MapData, u64>::try_from(Map::Array(map))?;
    Ok(notes.get(&notes::OWNER, 0)?)
}

/// The version of a folder's name: `v7`, or `v7-1` of pins that were put aside. A bpf file system
/// takes no name with a dot.
pub(super) fn version(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?.strip_prefix('v')?;
    let Some((version, aside)) = name.split_once('-') else {
        return name.parse().ok();
    };
    aside.parse::<u32>().ok()?;
    version.parse().ok()
}

/// Removes all pins in a folder.
pub(super) fn clear(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Mounts a bpf file system, for root alone, if `pin_dir` is on none.
fn ensure_bpffs(pin_dir: &Path) -> Result<()> {
    let existing = pin_dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    if statfs(existing)?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    let target = bpffs_target(pin_dir);
    if target == pin_dir {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(pin_dir);
        made.with_context(|| format!("cannot make {}", pin_dir.display()))?;
    }
    mount_bpffs(target).with_context(|| {
        format!(
            "{} is on no bpf file system, and none can be mounted there",
            pin_dir.display()
        )
    })?;
    tracing::info!("mounted a bpf file system at {}", target.display());
    Ok(())
}

/// Where a bpf file system is mounted for a pin directory that is on none.
pub(crate) fn bpffs_target(pin_dir: &Path) -> &Path {
    if pin_dir.starts_with(SYS_FS_BPF) {
        Path::new(SYS_FS_BPF)
    } else {
        pin_dir
    }
}

/// Mounts a bpf file system, for its owner alone.
pub(crate) fn mount_bpffs(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), target, Some("bpf"), flags, Some("mode=0700"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::room_for;

    #[test]
    fn folders_of_versions_are_told_from_others() {
        for (name, expected) in [
            ("v7", Some(7)),
            ("v7-1", Some(7)),
            ("v12-34", Some(12)),
            ("v7-", None),
            ("v7-x", None),
            ("v-1", None),
            ("7", None),
            ("v", None),
        ] {
            assert_eq!(version(OsStr::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn the_watch_map_follows_need_between_its_limits() {
        let most = crate::probe::MOST_WATCHED;
        for (processes, room) in [
            (0, 16_384),
            (16_384, 16_384),
            (16_385, 32_768),
            (18_000, 32_768),
            (most as usize, most),
            (usize::MAX, most),
        ] {
            assert_eq!(room_for(processes, most), room, "{processes}");
        }
        assert_eq!(room_for(3, 5), 5);
    }
}

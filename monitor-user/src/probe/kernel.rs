//! The kernel side, loaded and attached: its ring, its watch map, its loss counter.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya_log::EbpfLogger;
use monitor_ebpf::{
    ExitRecord, Filter, KEEP_ABNORMAL, KEEP_ALL, KEEP_WANTED, Mark, NameMatcher, SentSignals,
    TICK_NS, Tree, Wanted, WatchEntry, globals, hints, losses, maps, notes, programs,
};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyMutGuard};
use tracing_log::log::Log;

use super::btf::{KERNEL_BTF, KernelTypes};
use super::exits::{self, Choice, ExitProgram};
use super::known::{Known, KnownIn};
use super::memlock;
use super::namespace;
use super::object::{Attached, Hook, Object, Settings};
use super::pins::{PinDir, Sizes};
use super::previous::Previous;
use crate::decode::Birth;
use crate::model::Instance;
use crate::os::ring::{Counters, Ring};
use crate::os::{self, bpf, progress};

/// The object that the binary carries.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/respawn.bpf.o"));

/// What to load, and what the kernel programs report beside watched pids.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Every process of the caller's PID namespace.
    pub(crate) all: bool,
    /// Processes that have one of these names.
    pub(crate) names: Option<Box<NameMatcher>>,
    /// Size of the ring in bytes, a power of two and a multiple of the page size; 1 MiB if `None`.
    pub(crate) ring_bytes: Option<u32>,
    /// How many processes can be watched at once; as many as the object says if `None`. See
    /// [`room_for`].
    pub(crate) watched: Option<u32>,
    /// BTF to read instead of the running kernel's own.
    pub(crate) btf: Option<PathBuf>,
    /// Object to load instead of the one in the binary.
    pub(crate) object: Option<PathBuf>,
    /// Load the program for kernels before 6.16 whatever the kernel.
    pub(crate) live_zero: bool,
    /// For an agent: keep what finds the ring full, and report the deaths by signals in trees.
    pub(crate) agent: bool,
    /// For a recorder: which deaths of the host are kept. Nothing else is reported then.
    pub(crate) keep: Option<Keep>,
    /// Which deaths are reported, with all that is known of the dead: of those that `all` and `names`
    /// say, and those of watched processes.
    pub(crate) wanted: Option<Box<Wanted>>,
    /// Load the program of births too, to see whether the kernel takes it.
    pub(crate) births: bool,
    /// Where to look for what is known of the kernel, and to keep it.
    pub(crate) known: KnownIn,
}

/// Which deaths a recorder keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Keep {
    /// By a signal, and exits with another code than 0 of PID 1's children and the like
    Abnormal,
    /// Every death
    All,
}

/// What has come of loading one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProgramReport {
    pub(crate) name: &'static str,
    /// How many instructions the verifier looked at, if it said so; or why it is not attached.
    pub(crate) outcome: Result<Option<u32>, String>,
}

/// The most processes that can be watched at once, unless less is asked for: the kernel takes about
/// 100 bytes for each, used or not.
pub(crate) const MOST_WATCHED: u32 = 1 << 20;

/// So many entries of the watch map are kept free of births that the kernel records: of processes
/// that have ended and are not told yet, and of starts that are under way.
const FREE_ENTRIES: usize = 16;

/// The watch map is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom(pub(crate) usize);

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel watches {} processes, and no more", self.0)
    }
}

/// How large the watch map has to be for so many processes, where at most `most` can be watched.
pub(crate) fn room_for(processes: usize, most: u32) -> u32 {
    let needed = u32::try_from(processes).ok();
    let needed = needed.and_then(u32::checked_next_power_of_two);
    needed.unwrap_or(most).max(maps::WATCHED_ENTRIES).min(most)
}

const RECORD_WORDS: usize = size_of::<ExitRecord>() / 8;
const SIGNALS_WORDS: usize = size_of::<SentSignals>() / 8;

/// After so many births the hints of the dead are cleared: less than one in eight is stale then.
const BIRTHS_PER_RENEWAL: u32 = hints::PIDS / 8;

/// Flag of a map's update: leave what is there.
const BPF_NOEXIST: u64 = 1;

fn is_there(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AlreadyExists
}

/// As the kernel says it of a map.
fn is_full(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::E2BIG)
}

/// The kernel programs at work. They end with this value, unless they are pinned.
pub(crate) struct KernelProbe {
    events: AsyncFd<Ring>,
    watched: HashMap<MapData, u32, [u64; 5]>,
    /// So many can be in it.
    room: usize,
    losses: Counters,
    spilled: HashMap<MapData, u32, [u64; RECORD_WORDS]>,
    signals: HashMap<MapData, u32, [u64; SIGNALS_WORDS]>,
    trees: HashMap<MapData, u64, [u64; 5]>,
    mark: Array<MapData, [u64; 4]>,
    hints: Array<MapData, u64>,
    /// Births since the hints were last made anew.
    births: u32,
    notes: Array<MapData, u64>,
    logger: Logger,
    records_births: bool,
    /// Whether the kernel may skip a program for a thread.
    may_skip: bool,
    attached: Vec<Attached>,
    /// What other ABI versions have left pinned.
    previous: Vec<Previous>,
    /// Whose the pins are.
    owner: u64,
    /// Of the programs that were loaded, or were not.
    programs: Vec<ProgramReport>,
}

/// What passes the kernel programs' diagnostics on. To find their map takes a look at every
/// program of the host: that must not hold up a takeover.
enum Logger {
    Unopened,
    Open(Box<AsyncFd<EbpfLogger<&'static dyn Log>>>),
    None,
}

impl Logger {
    async fn readable(
        &mut self,
        attached: &[Attached],
    ) -> io::Result<AsyncFdReadyMutGuard<'_, EbpfLogger<&'static dyn Log>>> {
        if let Self::Unopened = self {
            let logger = attached.iter().find(|it| it.is_exit()).and_then(kernel_log);
            *self = logger.map_or(Self::None, |logger| Self::Open(Box::new(logger)));
        }
        match self {
            Self::Open(logger) => logger.readable_mut().await,
            Self::Unopened | Self::None => std::future::pending().await,
        }
    }
}

/// A process in the watch map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watched {
    /// Who it is, or was.
    pub(crate) instance: Instance,
    /// Whose start it was; service 0: nobody's.
    pub(crate) birth: Birth,
}

/// What the kernel's BPF statistics say of one program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HookStatistics {
    /// Times it ran.
    pub(crate) runs: u64,
    /// Nanoseconds it ran for, all told.
    pub(crate) run_time_ns: u64,
}

impl KernelProbe {
    /// Loads the object and attaches its exit program, for as long as this value lives.
    ///
    /// # Errors
    /// No BTF, a field that the kernel lacks, a damaged object, no right to load programs, and
    /// [`Refused`](super::object::Refused).
    pub(crate) fn load(options: &Options) -> Result<Self> {
        let mut known = options.recall()?;
        let loaded = progress::unhurried(|| Self::load_unpinned(options, &mut known));
        known.keep();
        loaded
    }

    fn load_unpinned(options: &Options, known: &mut Known) -> Result<Self> {
        let mut loaded = Loaded::new(options, known, None)?;
        let extra = loaded.attach_extra();
        let mut programs: Vec<Attached> = extra.into_iter().map(|(_, it)| it).collect();
        if options.births {
            programs.extend(loaded.attach_birth().ok());
        }
        let exits = loaded.attach_exits()?;
        let attached = exits.iter().fold(0, |all, (exit, _)| all | exit.note);
        programs.extend(exits.into_iter().map(|(_, attached)| attached));
        let map = |name: &str| loaded.object.take_map(name);
        let mut probe = Self::new(map, options.sizes(), programs, false)?;
        probe.set_note(notes::PROGRAMS, attached)?;
        probe.programs = loaded.programs;
        Ok(probe)
    }

    /// Takes up what an earlier agent of the same build has pinned, loading nothing. Where there
    /// is no such thing, loads the object, attaches its programs and pins all of it; one that is
    /// of the same ABI is taken over without a moment in which no program is attached. What another
    /// ABI version has left is there until [`KernelProbe::forget_previous`].
    ///
    /// # Errors
    /// As [`KernelProbe::load`], and what keeps pins from being made.
    pub(crate) fn resume(options: &mut Options, pins: &PinDir, owner: u64) -> Result<Self> {
        let mut probe = Self::resume_this_version(options, pins, owner)?;
        probe.owner = owner;
        probe.previous = pins.other_versions();
        probe.watch_for_previous();
        Ok(probe)
    }

    /// Watches all that another version's programs watch.
    fn watch_for_previous(&mut self) {
        for previous in std::mem::take(&mut self.previous) {
            let entered = previous.watched(self.owner).and_then(|watched| {
                let entered = watched.iter().map(|it| self.watch(it.instance, it.birth));
                // One that cannot be entered keeps no other from it.
                entered.fold(Ok(()), Result::and)
            });
            if let Err(error) = entered {
                let version = previous.version;
                tracing::warn!("cannot take over from ABI version {version}: {error:#}");
            }
            self.previous.push(previous);
        }
    }

    /// Looks at all records that other ABI versions have left, each with its version.
    pub(crate) fn peek_previous<T>(&self, mut read: impl FnMut(u32, &[u8]) -> T) -> Vec<T> {
        let mut records = Vec::new();
        for previous in &self.previous {
            match previous.records(self.owner) {
                Ok(of) => records.extend(of.iter().map(|bytes| read(previous.version, bytes))),
                Err(error) => {
                    let version = previous.version;
                    tracing::warn!("cannot read what ABI version {version} recorded: {error:#}");
                }
            }
        }
        records
    }

    /// Removes what other ABI versions have left, once all of it is told.
    pub(crate) fn forget_previous(&mut self) {
        self.previous
            .drain(..)
            .for_each(|previous| previous.clear());
    }

    fn resume_this_version(options: &mut Options, pins: &PinDir, owner: u64) -> Result<Self> {
        let object = read_object(options)?;
        let build = fingerprint(&object, options)?;
        let reusable = match Self::open_pinned(options, pins, owner) {
            Ok(probe) if probe.note(notes::BUILD)? == build => return Ok(probe),
            Ok(_) => {
                tracing::info!("the kernel programs are another build's: taking over from them");
                true
            }
            Err(error) => {
                make_way(options, pins, owner, &error)?;
                // All that was watched is to be watched.
                let others = pins.other_versions();
                let before = others.iter().filter_map(|previous| previous.room().ok());
                let room = before.chain([options.sizes().watched]).max();
                options.watched = room;
                false
            }
        };
        let mut known = options.recall()?;
        let probe = progress::unhurried(|| Self::load_pinned(options, &mut known, pins));
        known.keep();
        if probe.is_err() && !reusable {
            // Half of it would only be in the way of the next try.
            let _ = pins.clear();
        }
        let mut probe = probe?;
        probe.set_note(notes::OWNER, owner)?;
        probe.set_note(notes::BUILD, build)?;
        Ok(probe)
    }

    /// Everything that is pinned, if all of it is what it should be.
    fn open_pinned(options: &Options, pins: &PinDir, owner: u64) -> Result<Self> {
        let ids = pins.check_maps(options.sizes())?;
        let birth = match options.keep {
            Some(_) => None,
            None => Some(pins.open_link(programs::BIRTH, &ids)?),
        };
        let there = exits::ALL.iter().filter(|it| pins.pin(it.name).exists());
        let exits = there.map(|exit| pins.open_link(exit.name, &ids));
        let mut programs = exits.collect::<Result<Vec<Attached>>>()?;
        anyhow::ensure!(!programs.is_empty(), "no exit program is pinned");
        programs.extend(birth);
        let map = |name: &str| pins.open_map(name);
        let mut probe = Self::new(map, options.sizes(), programs, true)?;
        let attached = probe.note(notes::PROGRAMS)?;
        // Of two programs that see exits, one alone would see them late, or not all of them.
        let mut needed = exits::ALL.iter().filter(|it| attached & it.note != 0);
        if let Some(exit) = needed.find(|it| !pins.pin(it.name).exists()) {
            anyhow::bail!("no pinned link {}", pins.pin(exit.name).display());
        }
        for extra in EXTRA.iter().filter(|extra| attached & extra.note != 0) {
            probe.attached.push(pins.open_link(extra.program, &ids)?);
        }
        let found = probe.note(notes::OWNER)?;
        anyhow::ensure!(
            found == owner,
            "they are those of an agent with another runtime directory"
        );
        Ok(probe)
    }

    fn load_pinned(options: &Options, known: &mut Known, pins: &PinDir) -> Result<Self> {
        let mut loaded = Loaded::new(options, known, Some(pins))?;
        let birth = match options.keep {
            Some(_) => None,
            None => Some(loaded.attach_birth()?),
        };
        let extra = loaded.attach_extra();
        let exits = loaded.attach_exits()?;
        let mut attached = 0;
        let mut programs: Vec<Attached> = birth.into_iter().collect();
        for (extra, program) in extra {
            attached |= extra.note;
            programs.push(program);
        }
        for (exit, program) in exits {
            attached |= exit.note;
            programs.push(program);
        }
        for program in &programs {
            pins.replace_link(program)?;
        }
        for exit in exits::ALL.iter().filter(|exit| attached & exit.note == 0) {
            pins.remove_link(exit.name)?;
        }
        let map = |name: &str| loaded.object.take_map(name);
        let mut probe = Self::new(map, options.sizes(), programs, true)?;
        probe.set_note(notes::PROGRAMS, attached)?;
        Ok(probe)
    }

    fn new(
        mut map: impl FnMut(&str) -> Result<Map>,
        sizes: Sizes,
        attached: Vec<Attached>,
        records_births: bool,
    ) -> Result<Self> {
        let events = ring(&map(maps::EVENTS)?, sizes.ring_bytes)?;
        let watched = map(maps::WATCHED)?;
        Ok(Self {
            room: entries_of(&watched)?,
            events: os::async_fd(events, Interest::READABLE)?,
            watched: HashMap::try_from(watched)?,
            losses: counters(&map(maps::LOST)?)?,
            spilled: HashMap::try_from(map(maps::SPILLED)?)?,
            signals: HashMap::try_from(map(maps::SIGNALS)?)?,
            trees: HashMap::try_from(map(maps::TREES)?)?,
            mark: Array::try_from(map(maps::MARK)?)?,
            hints: Array::try_from(map(maps::HINTS)?)?,
            births: 0,
            notes: Array::try_from(map(maps::NOTES)?)?,
            logger: Logger::Unopened,
            attached,
            records_births,
            may_skip: exits::may_be_skipped(os::kernel_version()),
            previous: Vec::new(),
            owner: 0,
            programs: Vec::new(),
        })
    }

    /// What has come of loading each program; nothing of those that were pinned before.
    pub(crate) fn programs(&self) -> &[ProgramReport] {
        &self.programs
    }

    /// Whether births are recorded: only where the programs are pinned.
    pub(crate) fn records_births(&self) -> bool {
        self.records_births
    }

    /// Whether there may be no room for the birth of one more process beside so many that are
    /// watched. [`watch`](Self::watch) then says whether there is.
    pub(crate) fn is_nearly_full(&self, watched: usize) -> bool {
        let free = FREE_ENTRIES.max(self.room / 8);
        watched.saturating_add(free) >= self.room
    }

    /// Has the forks of the caller, which `agent` names, recorded as births of a service's
    /// instance, until [`KernelProbe::unmark`].
    pub(crate) fn mark(&mut self, agent: Instance, birth: Birth) -> Result<()> {
        let mark = Mark {
            agent_pid: agent.pid.into(),
            agent_start_ticks: agent.start_time_ns / TICK_NS,
            service: birth.service,
            attempt: birth.attempt,
        };
        self.births += 1;
        if self.births > BIRTHS_PER_RENEWAL {
            self.renew_hints()?;
        }
        self.mark
            .set(0, mark.words(), 0)
            .context("cannot mark the agent's forks")
    }

    /// Clears the hints of pids that are not in the watch map any more. None can be added
    /// meanwhile: that is done by this thread alone.
    pub(crate) fn renew_hints(&mut self) -> Result<()> {
        let mut words = vec![0_u64; hints::WORDS as usize];
        for watched in self.watched()? {
            let (word, bit) = hints::place(watched.instance.pid);
            if let Some(word) = words.get_mut(word as usize) {
                *word |= bit;
            }
        }
        for (index, word) in (0..).zip(words) {
            self.hints
                .set(index, word, 0)
                .context("cannot write the hints map")?;
        }
        self.births = 0;
        Ok(())
    }

    /// Ends [`KernelProbe::mark`].
    pub(crate) fn unmark(&mut self) -> Result<()> {
        self.mark
            .set(0, Mark::NONE.words(), 0)
            .context("cannot unmark the agent's forks")
    }

    /// Every process in the watch map.
    pub(crate) fn watched(&self) -> Result<Vec<Watched>> {
        self.watched
            .iter()
            .map(|entry| {
                let (pid, words) = entry.context("cannot read the watch map")?;
                let entry = WatchEntry::from_words(words);
                let start_time_ns = entry.start_ticks * TICK_NS;
                let birth = Birth {
                    service: entry.service,
                    attempt: entry.attempt,
                };
                Ok(Watched {
                    instance: Instance { pid, start_time_ns },
                    birth,
                })
            })
            .collect()
    }

    /// Takes a process out of the watch map. It may be gone from it already, and another one have
    /// its pid by now.
    pub(crate) fn unwatch(&mut self, instance: Instance) {
        let start_ticks = instance.start_time_ns / TICK_NS;
        if let Ok(words) = self.watched.get(&instance.pid, 0)
            && WatchEntry::from_words(words).start_ticks == start_ticks
        {
            let _ = self.watched.remove(&instance.pid);
        }
    }

    /// Lost records that an agent has told of.
    pub(crate) fn lost_told(&self) -> Result<u64> {
        self.note(notes::LOST_TOLD)
    }

    /// Leaves a note for the next agent: so many lost records have been told of.
    pub(crate) fn set_lost_told(&mut self, count: u64) -> Result<()> {
        self.set_note(notes::LOST_TOLD, count)
    }

    fn note(&self, index: u32) -> Result<u64> {
        self.notes
            .get(&index, 0)
            .context("cannot read the notes map")
    }

    fn set_note(&mut self, index: u32, value: u64) -> Result<()> {
        self.notes
            .set(index, value, 0)
            .context("cannot write the notes map")
    }

    /// Has a process's exit reported. One that is in the watch map already stays as it is.
    /// [`unwatch`](Self::unwatch) it when it is gone: it may have ended before.
    ///
    /// # Errors
    /// [`NoRoom`], or the map cannot be written.
    pub(crate) fn watch(&mut self, process: Instance, birth: Birth) -> Result<()> {
        let entry = WatchEntry {
            service: birth.service,
            attempt: birth.attempt,
            ..WatchEntry::watching(process.start_time_ns / TICK_NS)
        };
        let pid = process.pid;
        let (word, bit) = hints::place(pid);
        let hinted = self
            .hints
            .get(&word, 0)
            .context("cannot read the hints map")?;
        self.hints
            .set(word, hinted | bit, 0)
            .context("cannot write the hints map")?;
        match self.watched.insert(pid, entry.words(), BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if is_there(&error.io_error) => {
                let there = self.watched.get(&pid, 0).map(WatchEntry::from_words);
                match there {
                    // Of a process that had the pid before.
                    Ok(there) if there.start_ticks != entry.start_ticks => {
                        let replaced = self.watched.insert(pid, entry.words(), 0);
                        replaced.with_context(|| format!("cannot watch process {pid}"))
                    }
                    _ => Ok(()),
                }
            }
            Err(MapError::SyscallError(error)) if is_full(&error.io_error) => {
                Err(anyhow::Error::from(error).context(NoRoom(self.room)))
            }
            inserted => inserted.with_context(|| format!("cannot watch process {pid}")),
        }
    }

    /// Waits until the ring has something to read. Cancellation loses nothing.
    /// The kernel programs' own diagnostics are passed on to the log meanwhile.
    pub(crate) async fn readable(&mut self) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                guard = self.events.readable_mut() => {
                    guard?.clear_ready();
                    return Ok(());
                }
                guard = self.logger.readable(&self.attached) => {
                    let mut guard = guard?;
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
            }
        }
    }

    /// Takes the next record out of the ring. After `None` it is time to wait for
    /// [`readable`](Self::readable), and not before.
    pub(crate) fn next<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.events.get_mut().next(read)
    }

    /// Takes out what was looked at.
    pub(crate) fn forget_next(&mut self) {
        let _ = self.events.get_mut().next(|_| ());
    }

    /// Looks at the records that are in the ring, oldest first, and at no more than so many; call
    /// [`KernelProbe::forget_next`] for each.
    pub(crate) fn peek<T>(&self, most: usize, read: impl FnMut(&[u8]) -> T) -> Result<Vec<T>> {
        let ring = self.events.get_ref();
        let records = ring.waiting(most).context("cannot read the ring")?;
        Ok(records.iter().map(Vec::as_slice).map(read).collect())
    }

    /// Records that found the ring full, since loading.
    pub(crate) fn lost(&self) -> u64 {
        self.losses.get(losses::LOST)
    }

    /// Records that found the ring full and were kept beside it, since loading.
    pub(crate) fn spilled(&self) -> u64 {
        self.losses.get(losses::SPILLED)
    }

    /// Looks at the records that are kept beside the ring, each with the key to forget it by. One
    /// that is still being written is not there yet: it is counted when it is.
    pub(crate) fn peek_spilled<T>(&self, mut read: impl FnMut(&[u8]) -> T) -> Vec<(u32, T)> {
        let keys = self.spilled.keys().filter_map(|pid| {
            pid.inspect_err(|error| tracing::error!("cannot read the spilled map: {error}"))
                .ok()
        });
        let keys: Vec<u32> = keys.collect();
        let record = |pid: u32| {
            if self.is_being_written(pid) {
                return None;
            }
            let words = self.spilled.get(&pid, 0).ok()?;
            let bytes = words.map(u64::to_ne_bytes);
            Some((pid, read(bytes.as_flattened())))
        };
        keys.into_iter().filter_map(record).collect()
    }

    /// A process leaves the watch map when its record is whole; it may be another one's pid by now.
    fn is_being_written(&self, pid: u32) -> bool {
        let Ok(watched) = self.watched.get(&pid, 0) else {
            return false;
        };
        let record = self.spilled.get(&pid, 0).ok();
        let start_time_ns = record.and_then(|words| words.first().copied());
        let ticks = WatchEntry::from_words(watched).start_ticks;
        start_time_ns.is_none_or(|start| start == 0 || start / TICK_NS == ticks)
    }

    /// Forgets a record that was kept beside the ring.
    pub(crate) fn forget_spilled(&mut self, pid: u32) {
        let _ = self.spilled.remove(&pid);
    }

    /// Forgets the signals that are still kept of processes that have ended: of those whose bit in
    /// `SIGNALLED` got lost, the exit program has not. `lives` is asked of each pid in the initial PID
    /// namespace.
    pub(crate) fn forget_signals_of_dead(&mut self, lives: impl Fn(u32) -> bool) {
        let pids = self.signals.keys().filter_map(Result::ok);
        let dead: Vec<u32> = pids.filter(|pid| !lives(*pid)).collect();
        for pid in dead {
            let _ = self.signals.remove(&pid);
        }
    }

    /// Has deaths by signals reported of the processes in a cgroup.
    pub(crate) fn watch_tree(&mut self, cgroup_id: u64, birth: Birth) -> Result<()> {
        let tree = Tree::new(birth.service, birth.attempt);
        let inserted = self.trees.insert(cgroup_id, tree.words(), 0);
        inserted.with_context(|| format!("cannot watch the cgroup with ID {cgroup_id}"))
    }

    /// Ends [`KernelProbe::watch_tree`]; returns how many deaths were left out since the last one
    /// that was reported.
    pub(crate) fn unwatch_tree(&mut self, cgroup_id: u64) -> u64 {
        let tree = self.trees.get(&cgroup_id, 0).map(Tree::from_words);
        let _ = self.trees.remove(&cgroup_id);
        tree.map_or(0, |tree| tree.left_out)
    }

    /// Whether that one is watched so.
    pub(crate) fn has_tree(&self, cgroup_id: u64) -> bool {
        self.trees.get(&cgroup_id, 0).is_ok()
    }

    /// Every cgroup that is watched so.
    pub(crate) fn trees(&self) -> Vec<u64> {
        self.trees.keys().filter_map(Result::ok).collect()
    }

    /// How often the kernel has skipped every exit program for a thread that ended, since loading:
    /// so many exits at most are neither reported nor counted by [`lost`](Self::lost).
    pub(crate) fn skipped(&self) -> Result<u64> {
        if !self.may_skip {
            return Ok(0);
        }
        let of = |exit: &Attached| Ok(bpf::program(exit.program.as_fd())?.skipped);
        let skipped = self.exits().map(of).collect::<Result<Vec<u64>>>();
        let skipped = skipped.context("cannot look at the exit programs")?;
        Ok(skipped.into_iter().min().unwrap_or(0))
    }

    /// Whether the kernel may skip the birth program, so that a birth has to be looked for.
    pub(crate) fn may_skip_births(&self) -> bool {
        self.may_skip
    }

    /// Whether exits are seen while the process still has its memory.
    pub(crate) fn sees_exits_early(&self) -> Result<bool> {
        Ok(exits::are_early(self.note(notes::PROGRAMS)?))
    }

    /// Figures of the exit programs, together, and of the signal program, which may not be
    /// attached; zero unless the kernel's BPF statistics are on.
    pub(crate) fn statistics(&self) -> Result<(HookStatistics, HookStatistics)> {
        let (mut exit, mut signal): (HookStatistics, _) = Default::default();
        for attached in &self.attached {
            let program = bpf::program(attached.program.as_fd())?;
            if attached.is_exit() {
                // Each of them runs at each exit.
                exit.runs = exit.runs.max(program.runs);
                exit.run_time_ns += program.run_time_ns;
            } else if attached.name == programs::SIGNAL {
                signal = HookStatistics {
                    runs: program.runs,
                    run_time_ns: program.run_time_ns,
                };
            }
        }
        Ok((exit, signal))
    }
}

impl KernelProbe {
    fn exits(&self) -> impl Iterator<Item = &Attached> {
        self.attached.iter().filter(|it| it.is_exit())
    }
}

impl Attached {
    fn is_exit(&self) -> bool {
        exits::ALL.iter().any(|exit| exit.name == self.name)
    }
}

/// Readable while the ring holds a record.
impl AsFd for KernelProbe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.get_ref().as_fd()
    }
}

impl Options {
    fn sizes(&self) -> Sizes {
        let watched = self.watched.unwrap_or(maps::WATCHED_ENTRIES);
        Sizes {
            ring_bytes: self.ring_bytes.unwrap_or(1 << 20),
            watched,
            signals: match self.keep_number() {
                0 => watched,
                _ => maps::SIGNALS_ENTRIES,
            },
            senders: match self.keep_number() {
                0 => 1,
                _ => maps::SENDERS_ENTRIES,
            },
        }
    }

    fn keep_number(&self) -> u32 {
        if self.wanted.is_some() {
            return KEEP_WANTED;
        }
        match self.keep {
            None => 0,
            Some(Keep::Abnormal) => KEEP_ABNORMAL,
            Some(Keep::All) => KEEP_ALL,
        }
    }

    /// What is known of the kernel. Of types that are read elsewhere nothing is.
    fn recall(&self) -> Result<Known> {
        let place = match self.btf {
            None => self.known.clone(),
            Some(_) => KnownIn::Nowhere,
        };
        Known::recall(place, hash(&read_object(self)?))
    }
}

fn read_object(options: &Options) -> Result<Cow<'static, [u8]>> {
    Ok(match &options.object {
        Some(path) => fs::read(path)
            .with_context(|| format!("cannot read the kernel object {}", path.display()))?
            .into(),
        None => OBJECT.into(),
    })
}

/// FNV-1a over 8 bytes at a time.
fn hash(object: &[u8]) -> u64 {
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    object.chunks(8).map(word).fold(0xcbf2_9ce4_8422_2325, step)
}

fn step(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0100_0000_01b3)
}

/// Has no pins of this version in the way of new ones. Those of another size have what is needed
/// to take over from them, as from another version's.
fn make_way(options: &Options, pins: &PinDir, owner: u64, error: &anyhow::Error) -> Result<()> {
    if pins.is_empty()? {
        return Ok(());
    }
    if pins.has_other_sizes(options.sizes()) {
        match pins.put_aside(owner) {
            Ok(()) => {
                tracing::info!("the pins are of another size: taking over from them: {error:#}");
                return Ok(());
            }
            Err(error) => tracing::warn!("cannot take over from the pins: {error:#}"),
        }
    }
    tracing::warn!("the pins are cleared away: {error:#}");
    pins.empty()
}

/// Tells one build, and what it was set to, from another.
fn fingerprint(object: &[u8], options: &Options) -> Result<u64> {
    let hash = hash(object);
    let settings = [
        namespace::observer()?,
        options.sizes().ring_bytes,
        options.live_zero.into(),
        options.agent.into(),
        options.keep_number(),
    ];
    Ok(settings.into_iter().map(u64::from).fold(hash, step).max(1))
}

/// The object in the kernel, its programs not attached yet.
struct Loaded<'a> {
    object: Object,
    types: KernelTypes,
    known: &'a mut Known,
    /// The exit programs that this kernel gets.
    exits: Choice,
    programs: Vec<ProgramReport>,
    limit: memlock::Raised,
}

/// A program that not every kernel takes, and without which the others work all the same.
struct Extra {
    program: &'static str,
    tracepoint: &'static str,
    /// Its bit in the notes.
    note: u64,
    /// What is not known without it.
    tells: &'static str,
}

const EXTRA: [Extra; 2] = [
    Extra {
        program: programs::SIGNAL,
        tracepoint: "signal_generate",
        note: 1,
        tells: "who sent a signal",
    },
    Extra {
        program: programs::OOM,
        tracepoint: "mark_victim",
        note: 2,
        tells: "the figures of out-of-memory kills",
    },
];

impl<'a> Loaded<'a> {
    /// With `pins`, maps are made there, and those that are there already are used.
    fn new(options: &Options, known: &'a mut Known, pins: Option<&PinDir>) -> Result<Self> {
        let path = options.btf.as_deref().unwrap_or(Path::new(KERNEL_BTF));
        let types = known.types(path)?.clone();
        let exits = Choice::of(&types, options.live_zero, os::kernel_version())?;
        // Without it all the rest would be loaded for nothing.
        known.check(exits.needed.name, exits.needed.hook)?;
        let limit = memlock::Raised::raise();
        let object = make_object(options, &types, exits, pins);
        let object = object.map_err(|error| explained(error, &limit))?;
        Ok(Self {
            object,
            types,
            known,
            exits,
            programs: Vec::new(),
            limit,
        })
    }

    /// Attaches what this kernel takes of [`EXTRA`], and says what it does not take.
    fn attach_extra(&mut self) -> Vec<(&'static Extra, Attached)> {
        let mut programs = Vec::new();
        for extra in &EXTRA {
            if extra.program == programs::OOM && !self.types.shows_oom_victims() {
                self.programs.push(ProgramReport {
                    name: extra.program,
                    outcome: Err("the tracepoint mark_victim does not show the victim".to_owned()),
                });
                continue;
            }
            match self.attach(extra.program, Hook::RawTracepoint(extra.tracepoint)) {
                Ok(attached) => programs.push((extra, attached)),
                Err(error) => tracing::warn!("{error:#}; {} will be unknown", extra.tells),
            }
        }
        programs
    }

    /// Attaches the exit programs that this kernel takes, at least the one that is needed.
    fn attach_exits(&mut self) -> Result<Vec<(&'static ExitProgram, Attached)>> {
        let Choice { first, needed } = self.exits;
        let mut attached = Vec::new();
        if let Some(first) = first {
            match self.attach(first.name, first.hook) {
                Ok(of) => attached.push((first, of)),
                Err(error) => tracing::info!("{} does its work alone: {error:#}", needed.name),
            }
        }
        attached.push((needed, self.attach(needed.name, needed.hook)?));
        Ok(attached)
    }

    fn attach_birth(&mut self) -> Result<Attached> {
        let hook = Hook::RawTracepoint("sched_process_fork");
        self.attach(programs::BIRTH, hook)
    }

    fn attach(&mut self, name: &'static str, hook: Hook) -> Result<Attached> {
        let is_in_namespace = namespace::observer()? != 0;
        let danger = exits::danger(hook, os::kernel_version(), is_in_namespace);
        let attached = match danger {
            Some(danger) => Err(anyhow::anyhow!("{danger}")),
            None => self
                .known
                .check(name, hook)
                .and_then(|()| self.object.attach(name, hook, &self.types))
                .map_err(|error| explained(error, &self.limit)),
        };
        // A matter of the namespace is none of the kernel's.
        if let Err(error) = &attached
            && danger.is_none()
        {
            self.known.note(name, hook, error);
        }
        let outcome = match &attached {
            Ok(attached) => Ok(attached.instructions),
            Err(error) => Err(format!("{error:#}")),
        };
        self.programs.push(ProgramReport { name, outcome });
        attached
    }
}

/// Reads the object, set as is wanted, and makes its maps.
fn make_object(
    options: &Options,
    types: &KernelTypes,
    exits: Choice,
    pins: Option<&PinDir>,
) -> Result<Object> {
    let filter = Filter {
        pid_namespace: namespace::observer()?,
        all: options.all.into(),
        names: options.names.is_some().into(),
        claim: exits.must_claim().into(),
        agent: options.agent.into(),
        keep: options.keep_number(),
    };
    let names = options
        .names
        .as_deref()
        .unwrap_or(&NameMatcher::NONE)
        .rows();
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let names = names.iter().flatten().flat_map(|word| word.to_ne_bytes());
    let wanted = options.wanted.as_deref().copied().unwrap_or_default();
    let wanted = wanted.words().flat_map(u64::to_ne_bytes);
    let sizes = options.sizes();
    let [watched, signals, spilled, trees, senders] = sizes.entries();
    let ring = (maps::EVENTS, sizes.ring_bytes);
    let sizes = [ring, watched, signals, spilled, trees, senders];
    let settings = Settings {
        globals: &[
            (globals::OFFSETS, words(types.offsets())),
            (globals::FILTER, words(&filter.words())),
            (globals::NAMES, names.collect()),
            (globals::WANTED, wanted.collect()),
        ],
        sizes: &sizes,
    };
    Object::new(&read_object(options)?, &settings, pins)
}

fn ring(map: &Map, bytes: u32) -> Result<Ring> {
    let Map::RingBuf(data) = map else {
        anyhow::bail!("the map {} is not a ring buffer", maps::EVENTS);
    };
    let bytes = usize::try_from(bytes)?;
    Ring::of(data.fd().as_fd(), bytes).with_context(|| format!("cannot map {}", maps::EVENTS))
}

fn entries_of(map: &Map) -> Result<usize> {
    let Map::HashMap(data) = map else {
        anyhow::bail!("the map {} is not a hash map", maps::WATCHED);
    };
    Ok(usize::try_from(data.info()?.max_entries())?)
}

fn counters(map: &Map) -> Result<Counters> {
    let Map::Array(data) = map else {
        anyhow::bail!("the map {} is not an array", maps::LOST);
    };
    Counters::of(data.fd().as_fd()).with_context(|| format!("cannot map {}", maps::LOST))
}

fn explained(error: anyhow::Error, limit: &memlock::Raised) -> anyhow::Error {
    match limit.hint() {
        Some(hint) => error.context(hint),
        None => error,
    }
}

/// Switches the kernel's BPF statistics on, for as long as the descriptor is open.
pub(crate) fn enable_statistics() -> Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .context("cannot switch the kernel's BPF statistics on (needs CAP_SYS_ADMIN)")
}

/// The programs' own diagnostics. Without them the programs work all the same.
fn kernel_log(exit: &Attached) -> Option<AsyncFd<EbpfLogger<&'static dyn Log>>> {
    let program = bpf::program(exit.program.as_fd()).map_err(anyhow::Error::from);
    let logger = program.and_then(|program| Ok(EbpfLogger::init_from_id(program.id)?));
    match logger.and_then(|logger| Ok(os::async_fd(logger, Interest::READABLE)?)) {
        Ok(logger) => Some(logger),
        Err(error) => {
            tracing::warn!("the kernel programs' diagnostics cannot be read: {error:#}");
            None
        }
    }
}

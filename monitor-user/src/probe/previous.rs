//! What the programs of another ABI version have left pinned, or those of this one with maps of
//! another size: the instances that they watched, and the exits that they recorded and nobody has
//! read.
//!
//! ```text
//! attach this version's programs ─▶ enter here what the other version watches ─▶ read its ring
//!     ─▶ journal and memory have it ─▶ remove its pins, which detaches its programs
//! ```
//! At no moment is an instance watched by neither. While both watch it, both record its exit, and
//! the agent counts it once. If the agent dies on the way, the pins are there for the next one.
//!
//! Reads no record: `decode` does, which also knows the versions that it can read.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use monitor_ebpf::{ExitRecord, TICK_NS, maps, notes};

use super::kernel::Watched;
use super::pins;
use crate::decode::{Birth, READABLE_FROM};
use crate::model::Instance;
use crate::os::ring::Ring;

const RECORD_WORDS: usize = size_of::<ExitRecord>() / 8;

/// The pins of another version.
#[derive(Debug)]
pub(super) struct Previous {
    pub(super) version: u32,
    path: PathBuf,
}

impl Previous {
    pub(super) fn new(version: u32, path: PathBuf) -> Self {
        Self { version, path }
    }

    /// Who is in its watch map.
    ///
    /// # Errors
    /// The map is missing, or has an unknown layout; the pins are another agent's.
    pub(super) fn watched(&self, owner: u64) -> Result<Vec<Watched>> {
        ensure!(self.version >= READABLE_FROM, "its records cannot be read");
        self.check_owner(owner)?;
        let map = self.open(maps::WATCHED)?;
        // A version with a longer entry adds a line here.
        match map.info()?.value_size() {
            40 => entries::<5>(Map::HashMap(map)),
            size => bail!("unknown layout of the watch map: {size} bytes an entry"),
        }
    }

    /// How many processes its programs could watch.
    ///
    /// # Errors
    /// The map is missing.
    pub(super) fn room(&self) -> Result<u32> {
        Ok(self.open(maps::WATCHED)?.info()?.max_entries())
    }

    /// All records in its ring, which stay there.
    ///
    /// # Errors
    /// There is no such ring, or it cannot be read; the pins are another agent's.
    pub(super) fn records(&self, owner: u64) -> Result<Vec<Vec<u8>>> {
        self.check_owner(owner)?;
        let ring = self.open(maps::EVENTS)?;
        let bytes = usize::try_from(ring.info()?.max_entries())?;
        let mut records = Ring::of(ring.fd().as_fd(), bytes)
            .and_then(|ring| ring.waiting(usize::MAX))
            .context("cannot read the ring")?;
        records.extend(self.spilled()?);
        Ok(records)
    }

    /// The records that found the ring full. Versions that kept none have no such map.
    fn spilled(&self) -> Result<Vec<Vec<u8>>> {
        if !self.path.join(maps::SPILLED).exists() {
            return Ok(Vec::new());
        }
        let map = self.open(maps::SPILLED)?;
        // A version with a longer record adds a line here.
        if usize::try_from(map.info()?.value_size())? != size_of::<ExitRecord>() {
            tracing::warn!(
                "unknown layout of the spilled map of version {}",
                self.version
            );
            return Ok(Vec::new());
        }
        let map = Map::HashMap(map);
        let map = HashMap::<MapData, u32, [u64; RECORD_WORDS]>::try_from(map)?;
        let bytes =
            |words: [u64; RECORD_WORDS]| words.map(u64::to_ne_bytes).as_flattened().to_vec();
        let entries = map.iter().map(|entry| Ok(bytes(entry?.1)));
        entries
            .collect::<Result<_>>()
            .context("cannot read the spilled map")
    }

    /// Removes the pins, which ends its programs.
    pub(super) fn clear(&self) {
        let cleared = pins::clear(&self.path).and_then(|()| Ok(fs::remove_dir(&self.path)?));
        let path = self.path.display();
        match cleared {
            Ok(()) => tracing::info!("cleared the pins of another version at {path}"),
            Err(error) => tracing::warn!("cannot clear {path}: {error:#}"),
        }
    }

    fn check_owner(&self, owner: u64) -> Result<()> {
        let notes = Array::<MapData, u64>::try_from(Map::Array(self.open(maps::NOTES)?))?;
        ensure!(
            notes.get(&notes::OWNER, 0)? == owner,
            "they are those of an agent with another runtime directory"
        );
        Ok(())
    }

    fn open(&self, name: &str) -> Result<MapData> {
        let path = self.path.join(name);
        MapData::from_pin(&path)
            .with_context(|| format!("cannot open the pinned map {}", path.display()))
    }
}

/// The entries of a watch map whose values have so many words. The words that are read here have
/// had their places from version 6 on.
fn entries<const WORDS: usize>(map: Map) -> Result<Vec<Watched>> {
    let map = HashMap::<MapData, u32, [u64; WORDS]>::try_from(map)?;
    let read = |entry| {
        let (pid, words): (u32, [u64; WORDS]) = entry?;
        let [start_ticks, _state, service, attempt, ..] = words[..] else {
            bail!("an entry of {WORDS} words");
        };
        let start_time_ns = start_ticks * TICK_NS;
        Ok(Watched {
            instance: Instance { pid, start_time_ns },
            birth: Birth { service, attempt },
        })
    };
    let entries = map
        .iter()
        .map(|entry| read(entry.context("cannot read the watch map")));
    entries.collect()
}

//! Which agent holds a set of pins: a map beside the kernel programs' own that only user space
//! writes, so that who finds the set later can name the agent's runtime directory and say when it
//! was last at work.
//!
//! Decides nothing: whether an agent holds the pins now, the lock of the pin directory says.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{memlock, namespace};
use crate::clock;
use crate::os::{self, bpf};

/// The map's name, and that of its pin.
pub(super) const NAME: &str = "HOLDER";

/// Two words, and then the runtime directory, as long as a path may be (`PATH_MAX`).
const WORDS: usize = 16;
const BYTES: usize = WORDS + 4096;

/// The time is written no more often than this, so that it costs nothing.
const EVERY: Duration = Duration::from_secs(1);

/// What the map says of the last agent that held the pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastHolder {
    /// Without links, in the agent's mount namespace.
    pub(crate) runtime_dir: PathBuf,
    /// Inode number of that mount namespace.
    pub(crate) mounts: u32,
    /// When the agent was at work last, as a time since boot; it may have been longer at work by
    /// as long as nothing happened.
    pub(crate) at: Duration,
}

/// The map of an agent at work.
pub(super) struct Holder {
    map: OwnedFd,
    held: LastHolder,
}

impl Holder {
    /// Writes down who holds the pins from now on. `pin` is where the map is, or will be.
    ///
    /// # Errors
    /// The map cannot be made, pinned or written.
    pub(super) fn take(pin: &Path, runtime_dir: &Path) -> Result<Self> {
        let held = LastHolder {
            runtime_dir: runtime_dir.to_owned(),
            mounts: namespace::mounts_of("self")?,
            at: clock::since_boot(),
        };
        let found = bpf::open_pin(pin).and_then(|map| write(&map, &held).map(|()| map));
        let map = match found {
            Ok(map) => map,
            Err(_) => make(pin, &held).with_context(|| format!("cannot pin {}", pin.display()))?,
        };
        Ok(Self { map, held })
    }

    /// The agent is at work now.
    pub(super) fn is_at_work(&mut self) {
        let now = clock::since_boot();
        if now.saturating_sub(self.held.at) < EVERY {
            return;
        }
        self.held.at = now;
        if let Err(error) = write(&self.map, &self.held) {
            tracing::debug!("cannot write to the map {NAME}: {error}");
        }
    }
}

/// In place of what is there, which is no such map.
fn make(pin: &Path, held: &LastHolder) -> io::Result<OwnedFd> {
    os::remove_file(pin)?;
    let limit = memlock::Raised::raise();
    let map = bpf::make_array(NAME, BYTES)?;
    drop(limit);
    write(&map, held)?;
    bpf::pin(map.as_fd(), pin)?;
    Ok(map)
}

fn write(map: &OwnedFd, held: &LastHolder) -> io::Result<()> {
    bpf::write_value(map.as_fd(), &encode(held))
}

/// Reads the map that is pinned there.
///
/// # Errors
/// There is none, or it is another one's.
pub(super) fn read(pin: &Path) -> io::Result<LastHolder> {
    let map = bpf::open_pin(pin)?;
    let mut value = vec![0; BYTES];
    bpf::read_value(map.as_fd(), &mut value)?;
    decode(&value).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn encode(held: &LastHolder) -> Vec<u8> {
    let at = u64::try_from(held.at.as_nanos()).unwrap_or(u64::MAX);
    let mut value = at.to_ne_bytes().to_vec();
    value.extend(u64::from(held.mounts).to_ne_bytes());
    value.extend(held.runtime_dir.as_os_str().as_bytes());
    // The path ends with a zero.
    value.truncate(BYTES - 1);
    value.resize(BYTES, 0);
    value
}

fn decode(value: &[u8]) -> Option<LastHolder> {
    let (at, rest) = value.split_first_chunk()?;
    let (mounts, path) = rest.split_first_chunk()?;
    let path = path.split(|byte| *byte == 0).next()?;
    let runtime_dir = PathBuf::from(OsStr::from_bytes(path));
    runtime_dir.is_absolute().then_some(LastHolder {
        runtime_dir,
        mounts: u32::try_from(u64::from_ne_bytes(*mounts)).ok()?,
        at: Duration::from_nanos(u64::from_ne_bytes(*at)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut held = LastHolder {
            runtime_dir: PathBuf::from(OsStr::from_bytes(b"/run/a \xff b")),
            mounts: 4_026_531_841,
            at: Duration::from_nanos(1_234_567_890_123),
        };
        let value = encode(&held);
        assert_eq!((value.len(), decode(&value)), (BYTES, Some(held.clone())));
        // Nothing was written yet.
        assert_eq!(decode(&vec![0; BYTES]), None);
        assert_eq!(decode(&[]), None);
        held.runtime_dir = PathBuf::from(format!("/{}", "x".repeat(5000)));
        assert_eq!(encode(&held).len(), BYTES);
    }
}

//! Whether the kernel has the kinds of map that the kernel object uses: asked by making one.

use anyhow::{Context, Result};
use aya::maps::MapType;

/// A kind of map in the kernel object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapKind {
    /// Carries the events.
    RingBuffer,
    /// Holds the watched processes.
    Hash,
    /// Holds who has been reported, where two programs see an exit.
    LruHash,
    /// Holds the read-only globals, and counts lost events.
    Array,
}

/// Makes a map of that kind, and lets go of it. `false`: the kernel does not have it.
///
/// # Errors
/// The kernel refuses for another reason, EPERM for instance.
pub(crate) fn has_map_kind(kind: MapKind) -> Result<bool> {
    let kind = match kind {
        MapKind::RingBuffer => MapType::RingBuf,
        MapKind::Hash => MapType::Hash,
        MapKind::LruHash => MapType::LruHash,
        MapKind::Array => MapType::Array,
    };
    aya::sys::is_map_supported(kind).context("cannot make such a map")
}

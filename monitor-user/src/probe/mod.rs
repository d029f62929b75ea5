//! The kernel side as user space sees it; the only user of aya. Reads no record: `decode` does.

pub(crate) mod btf;
mod exits;
mod holder;
mod kernel;
mod kinds;
mod known;
mod memlock;
mod names;
pub(crate) mod namespace;
mod object;
mod pins;
mod previous;
pub(crate) mod sets;

pub(crate) use kernel::{
    HookStatistics, Keep, KernelProbe, MOST_WATCHED, NoRoom, Options, ProgramReport,
    enable_statistics, room_for,
};
pub(crate) use kinds::{MapKind, has_map_kind};
pub(crate) use known::KnownIn;
pub(crate) use names::compile as compile_names;
pub(crate) use object::Refused;
pub(crate) use pins::{PinDir, bpffs_target, mount_bpffs};

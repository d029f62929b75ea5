//! The kernel side as user space sees it; the only user of aya. Reads no record: `decode` does.

pub(crate) mod btf;
mod kernel;
mod kinds;
mod names;
pub(crate) mod namespace;
mod object;
mod pins;
mod previous;

pub(crate) use kernel::{HookStatistics, KernelProbe, Options, enable_statistics};
pub(crate) use kinds::{MapKind, has_map_kind};
pub(crate) use names::compile as compile_names;
pub(crate) use pins::PinDir;

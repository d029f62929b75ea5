//! The nouns that everyone shares: what a service is, what runs of it, how that ended.
//!
//! Decides nothing and does nothing: no clock, no file, no system call. `supervisor` is built on
//! this module and on std alone.

mod cause;
mod confinement;
mod event;
mod exit;
mod hash;
mod instance;
mod listen;
mod log;
mod memory;
mod notice;
mod owner;
mod profile;
mod reach;
mod relations;
mod reply;
mod signal;
mod spec;
mod status;
mod steps;

pub(crate) use cause::*;
pub(crate) use confinement::*;
pub(crate) use event::{By, Event, Request, Source, Stamp, What, or_default};
pub(crate) use exit::*;
pub(crate) use hash::fnv1a;
pub(crate) use instance::*;
pub(crate) use listen::*;
pub(crate) use log::*;
pub(crate) use memory::*;
pub(crate) use notice::*;
pub(crate) use owner::*;
pub(crate) use profile::*;
pub(crate) use reach::*;
pub(crate) use relations::*;
pub(crate) use reply::*;
pub(crate) use signal::*;
pub(crate) use spec::*;
pub(crate) use status::*;
pub(crate) use steps::*;

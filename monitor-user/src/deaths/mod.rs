//! Deaths of the whole host, live or as a recorder has kept them: read, chosen, and told in words;
//! `masking` hides secrets in arguments.
//!
//! Reads no file and no clock: the lines come from `journal::Reader`, records from the probe.

mod filter;
mod kept;
mod masking;
mod told;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use filter::{Facts, Filter, is_container, is_unit};
pub(crate) use kept::Kept;
pub(crate) use told::told;
pub(crate) use words::{ancestry, command_line, descent, header, line, login, owner, within};

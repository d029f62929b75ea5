//! Deaths of the whole host, as a recorder has kept them: read, chosen, and told in words.
//!
//! Reads no file and no clock: the lines come from `journal::Reader`.

mod filter;
mod kept;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use filter::{Facts, Filter, is_container, is_unit};
pub(crate) use kept::Kept;
pub(crate) use words::{ancestry, command_line, descent, header, line, login, owner, within};

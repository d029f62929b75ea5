//! Deaths of the whole host, as a recorder has kept them: read, chosen, and told in words.
//!
//! Reads no file and no clock: the lines come from `journal::Reader`.

mod filter;
mod kept;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use filter::{Facts, Filter};
pub(crate) use kept::Kept;
use kept::Process;
pub(crate) use words::{header, line};

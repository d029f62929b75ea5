//! Tests of the core: the state table cell by cell, then each promise by its own script.

mod imports;
mod promises;
mod script;
mod table;

pub(super) use script::default_spec;

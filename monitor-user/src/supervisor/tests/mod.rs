//! Tests of the core: the state table cell by cell, then each promise by its own script.

mod essential;
mod imports;
mod oneshot;
mod order;
mod promises;
mod readiness;
mod rolling;
mod script;
mod standby;
mod steps;
mod table;

pub(super) use script::{default_spec, some_step};

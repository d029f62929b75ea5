//! Deaths of the whole host, live or as a recorder has kept them: read, chosen, joined to incidents, and told
//! in words; `masking` hides secrets in arguments. And those of a service, by the journal of its agent.
//!
//! Opens no file and reads no clock: the lines come from `journal::Reader`, records from the probe.

mod filter;
mod incident;
mod kept;
mod masking;
mod of_service;
mod told;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use filter::{Facts, Filter, is_container, is_unit};
pub(crate) use incident::{FoundBy, Incident, KeptDeath, look_up};
pub(crate) use kept::Kept;
pub(crate) use of_service::{ServiceDeath, ServiceDeaths};
pub(crate) use told::told;
pub(crate) use words::{
    ancestry, brief, command_line, descent, header, line, login, login_in_file, owner, within,
};

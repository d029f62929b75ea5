//! `agent.toml`: what concerns the agent itself, not one service. All of it is optional.

use super::cursor::{Context, Item, Keys, Table, keep};
use super::problem::Report;
use super::source::Source;
use super::{accounts, document, value};

/// The agent's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentConfig {
    /// The ID of the group whose members may use the control socket; `None`: the agent's own
    /// user alone may.
    pub(crate) control_group: Option<u32>,
    /// In bytes.
    pub(crate) journal_max_size: u64,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            control_group: None,
            journal_max_size: 8 << 20,
        }
    }
}

/// Every key of `agent.toml`, each with its reader, a line each.
#[rustfmt::skip]
const KEYS: &Keys<AgentConfig> = &[
    ("control_group", |c, i| keep(&mut c.control_group, accounts::group(i))),
    ("journal_max_size", |c, i| keep(&mut c.journal_max_size, journal_max_size(i))),
];

/// Reads `agent.toml`; what is invalid stays at its default.
pub(super) fn read(source: &Source, report: &Report) -> AgentConfig {
    let mut config = AgentConfig::default();
    if let Some(document) = document::parse(source, report) {
        Table::root(Context { source, report }, &document).read(KEYS, &mut config);
    }
    config
}

fn journal_max_size(item: &Item<'_>) -> Option<u64> {
    let size = value::size(item)?;
    if !(64 << 10..=1 << 40).contains(&size) {
        item.expected("a size from \"64KiB\" to \"1TiB\"", None);
        return None;
    }
    Some(size)
}

//! `agent.toml`: what concerns the agent itself, not one service. All of it is optional.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cursor::{Context, Item, Keys, Table, keep};
use super::describe::Lines;
use super::hooks::{self, Said};
use super::{Surroundings, accounts, merge, value};

/// The agent's own settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentConfig {
    /// The ID of the group whose members may use the control socket; `None`: the agent's own
    /// user alone may.
    // Files of last good configs have it under this name.
    #[serde(rename = "control_group")]
    pub(crate) access_group: Option<u32>,
    /// The same of the group whose members may only ask how services are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status_group: Option<u32>,
    /// In bytes.
    pub(crate) journal_max_size: u64,
    /// For services that do not say otherwise; they have them in their specs.
    pub(super) hooks: Said,
    /// How many hooks run at once, at least 1.
    pub(crate) max_hooks: usize,
    /// Who else is told of every event.
    pub(crate) notices: Notices,
    /// Where the services of packages are.
    #[serde(default, skip_serializing_if = "Packages::is_default")]
    pub(super) package_services: Packages,
}

/// Where the services of packages are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Packages {
    /// Where packages put them, beneath the config directory that is the default.
    #[default]
    Default,
    Nowhere,
    At(PathBuf),
}

impl Packages {
    fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

/// The sockets of those who are told of every event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notices {
    /// syslogd's.
    pub(crate) syslog: Option<PathBuf>,
    /// journald's.
    pub(crate) journald: Option<PathBuf>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            access_group: None,
            status_group: None,
            journal_max_size: 8 << 20,
            hooks: Said::default(),
            max_hooks: 16,
            notices: Notices::default(),
            package_services: Packages::Default,
        }
    }
}

/// What was read so far.
struct AgentDraft {
    config: AgentConfig,
    hooks: hooks::HooksDraft,
    notices: Vec<Target>,
    syslog_socket: PathBuf,
    journald_socket: PathBuf,
}

/// One of those who can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Nobody,
    Syslog,
    Journald,
}

const TARGETS: &[(&str, Target)] = &[
    ("none", Target::Nobody),
    ("syslog", Target::Syslog),
    ("journald", Target::Journald),
];

/// Every key of `agent.toml`, each with its reader, a line each.
#[rustfmt::skip]
const KEYS: &Keys<AgentDraft> = &[
    ("access_group", |d, i| keep(&mut d.config.access_group, accounts::group(i))),
    ("status_group", |d, i| keep(&mut d.config.status_group, accounts::group(i))),
    ("control_group", old_access_group),
    ("journal_max_size", |d, i| keep(&mut d.config.journal_max_size, journal_max_size(i))),
    ("on_exit", |d, i| keep(&mut d.hooks.on_exit, hooks::words(i))),
    ("on_restart", |d, i| keep(&mut d.hooks.on_restart, hooks::words(i))),
    ("on_failed", |d, i| keep(&mut d.hooks.on_failed, hooks::words(i))),
    ("hook_timeout", |d, i| keep(&mut d.hooks.timeout, hooks::timeout(i))),
    ("max_hooks", |d, i| keep(&mut d.config.max_hooks, i.integer::<usize>("a number of hooks", 1..=1000))),
    ("package_services", |d, i| keep(&mut d.config.package_services, package_services(i))),
    ("notices", |d, i| keep(&mut d.notices, notices(i))),
    ("syslog_socket", |d, i| keep(&mut d.syslog_socket, socket(i))),
    ("journald_socket", |d, i| keep(&mut d.journald_socket, socket(i))),
];

/// Its name up to 0.1.0.
fn old_access_group(draft: &mut AgentDraft, item: &Item<'_>) {
    item.warn("is called access_group now; this name works as well");
    if draft.config.access_group.is_none() {
        keep(&mut draft.config.access_group, accounts::group(item));
    }
}

/// The names of them all, for input that is made up.
#[cfg(test)]
pub(super) fn key_names() -> Vec<&'static str> {
    KEYS.iter().map(|(name, _)| *name).collect()
}

/// Reads `agent.toml`, and where its keys are; what is invalid stays at its default.
pub(super) fn read(context: Context<'_>, surroundings: &Surroundings) -> (AgentConfig, Lines) {
    let mut draft = AgentDraft {
        config: AgentConfig::default(),
        hooks: hooks::HooksDraft::default(),
        notices: Vec::new(),
        syslog_socket: "/dev/log".into(),
        journald_socket: "/run/systemd/journal/socket".into(),
    };
    let Some(document) = merge::parse(context.source, context.report) else {
        return (draft.config, Lines::new());
    };
    let table = Table::root(context, &document);
    table.read(KEYS, &mut draft);
    let wants = |target| draft.notices.contains(&target);
    let config = AgentConfig {
        notices: Notices {
            syslog: wants(Target::Syslog).then_some(draft.syslog_socket),
            journald: wants(Target::Journald).then_some(draft.journald_socket),
        },
        hooks: draft.hooks.finish(&table, surroundings),
        ..draft.config
    };
    (config, table.lines())
}

/// One word, or an array of them.
fn notices(item: &Item<'_>) -> Option<Vec<Target>> {
    match item.as_array() {
        Some(items) => items
            .iter()
            .map(|item| value::word(item, TARGETS))
            .collect(),
        None => Some(vec![value::word(item, TARGETS)?]),
    }
}

/// A directory, or none.
fn package_services(item: &Item<'_>) -> Option<Packages> {
    const WHAT: &str = "the absolute path of a directory, or \"none\"";
    match item.string(WHAT)? {
        "none" => Some(Packages::Nowhere),
        path if Path::new(path).is_absolute() => Some(Packages::At(path.into())),
        _ => {
            item.expected(WHAT, None);
            None
        }
    }
}

/// A path that fits in a socket's address.
fn socket(item: &Item<'_>) -> Option<PathBuf> {
    const LONGEST: usize = 107;
    let path = value::absolute_path(item)?;
    if path.as_os_str().as_bytes().len() > LONGEST {
        item.problem(format!("expected a path of at most {LONGEST} bytes"));
        return None;
    }
    Some(path)
}

fn journal_max_size(item: &Item<'_>) -> Option<u64> {
    value::size_within(
        item,
        64 << 10..=1 << 40,
        "a size from \"64KiB\" to \"1TiB\"",
    )
}

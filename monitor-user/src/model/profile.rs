//! Which program a process was running, for whom, and where it belonged: what its pid no longer tells
//! once it is gone.

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::owner::Owner;

/// What a recorder keeps of a dead process, and of a sender of signals. `None` is what the kernel did
/// not have at that moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// Path of the executable file in the process's mount namespace.
    pub(crate) exe: Option<String>,
    /// The arguments, as they were in the process's memory, which the process may have changed.
    pub(crate) argv: Option<Vec<String>>,
    /// The arguments were longer than what is kept of them (256 bytes).
    pub(crate) argv_cut: bool,
    /// The user who logged in, whatever user the process runs as now; `None` for daemons.
    pub(crate) login_uid: Option<u32>,
    /// The session of that login, as the audit system counts.
    pub(crate) login_session: Option<u32>,
    /// The terminal, such as "pts/1".
    pub(crate) tty: Option<String>,
    /// Path of the cgroup in the v2 hierarchy. It begins with "…/" where it was too long.
    pub(crate) cgroup: Option<String>,
    /// What that says of it.
    #[serde(flatten)]
    pub(crate) owner: Owner,
    /// The parent, its parent and so on, four at most.
    pub(crate) ancestors: Vec<Ancestor>,
}

/// An event of a death, and who it was: one object in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Described<'a> {
    #[serde(flatten)]
    pub(crate) event: &'a Event,
    #[serde(flatten)]
    pub(crate) profile: Option<&'a Profile>,
}

/// One of those.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ancestor {
    /// Process ID in the initial PID namespace.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) comm: String,
}

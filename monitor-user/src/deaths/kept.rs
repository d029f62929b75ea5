//! One death, in the shape in which a recorder writes it.

use serde::Deserialize;
use serde_json::Value;

use super::Facts;
use crate::aftermath::CoreDump;
use crate::decode::{LastSignal, Usage};
use crate::model::Owner;
use crate::model::{Cause, Parent, Sender};

/// A line with the event "exited". What the recorder did not know is `None`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Kept {
    pub(crate) pid: u32,
    /// Since boot, at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: Option<u64>,
    pub(crate) comm: Option<String>,
    pub(crate) uptime_ns: Option<u64>,
    pub(crate) cause: Cause,
    /// The last signal before, by which another process had asked it to end.
    pub(crate) last_signal: Option<LastSignal>,
    /// Real user ID.
    pub(crate) uid: Option<u32>,
    pub(crate) usage: Option<Usage>,
    pub(crate) core: Option<CoreDump>,
    pub(crate) since_boot_ns: Option<u64>,
    pub(crate) boot_id: Option<String>,
    /// What it ran, and where it belonged.
    #[serde(flatten)]
    pub(crate) process: Process,
    /// The same of the process that sent the fatal signal.
    #[serde(skip)]
    pub(crate) sender: Process,
    /// The same of the process that sent `last_signal`.
    #[serde(skip)]
    pub(crate) asker: Process,
}

/// What the pid of a process does not tell any more once it is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Process {
    /// Path of the program.
    pub(crate) exe: Option<String>,
    /// As it was in the process's memory, which the process may have changed.
    pub(crate) argv: Option<Vec<String>>,
    /// There was more of `argv`.
    pub(crate) argv_cut: Option<bool>,
    /// The user who had logged in, whatever user it ran as.
    pub(crate) login_uid: Option<u32>,
    /// The session of that login, as the audit system counts them.
    #[serde(alias = "login_session")]
    pub(crate) session: Option<u32>,
    /// The terminal, such as "pts/1".
    pub(crate) tty: Option<String>,
    /// Path of the cgroup.
    pub(crate) cgroup: Option<String>,
    /// Its parent, that one's parent and so on.
    pub(crate) ancestors: Option<Vec<Parent>>,
    /// What the cgroup's path says.
    #[serde(flatten)]
    pub(crate) owner: Owner,
}

impl Kept {
    /// Reads a line; `None` if it is of something else than a death, or in a shape of its own.
    pub(crate) fn of(event: &Value) -> Option<Self> {
        if event["event"] != "exited" {
            return None;
        }
        let mut kept = Self::deserialize(event).ok()?;
        let process = |of: &str| Process::deserialize(&event[of]["sender"]).unwrap_or_default();
        kept.sender = process("cause");
        kept.asker = process("last_signal");
        Some(kept)
    }

    /// What a filter asks of it.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            pid: self.pid,
            comm: self.comm.as_deref(),
            uid: self.uid,
            cause: &self.cause,
            owner: &self.process.owner,
            cgroup: self.process.cgroup.as_deref(),
            exe: self.process.exe.as_deref(),
            ancestors: self.process.ancestors(),
        }
    }

    /// Who sent the signal that ended it.
    pub(crate) fn sent_by(&self) -> Option<&Sender> {
        match &self.cause {
            Cause::Signaled { origin, .. } => origin.sender.as_ref(),
            _ => None,
        }
    }

    /// Who sent the last signal before.
    pub(crate) fn asked_by(&self) -> Option<&Sender> {
        self.last_signal.as_ref()?.sender.as_ref()
    }
}

impl Process {
    /// Its ancestors, the parent first.
    pub(crate) fn ancestors(&self) -> &[Parent] {
        self.ancestors.as_deref().unwrap_or_default()
    }
}

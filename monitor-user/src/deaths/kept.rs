//! One death, as a recorder has written it.

use super::Facts;
use crate::journal::JournalLine;
use crate::model::{Cause, Exit, Profile, What};

/// A line with the event "exited". What the recorder did not know is `None`.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) exit: Exit,
    /// What it ran, and where it belonged.
    pub(crate) profile: Profile,
    pub(crate) since_boot_ns: Option<u64>,
    pub(crate) boot_id: Option<String>,
}

impl Kept {
    /// Reads a line; `None` if it is of something else than a death, or tells no cause.
    pub(crate) fn of(line: &JournalLine) -> Option<Self> {
        let What::Exited(exit) = &line.event.what else {
            return None;
        };
        if exit.cause == Cause::Unknown {
            return None;
        }
        let source = line.event.stamp.as_ref().map(|stamp| &stamp.source);
        Some(Self {
            exit: (**exit).clone(),
            profile: serde_json::from_str(&line.text).unwrap_or_default(),
            since_boot_ns: source.and_then(|source| source.since_boot_ns),
            boot_id: source.and_then(|source| source.boot_id.clone()),
        })
    }

    /// What a filter asks of it.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Self::facts_of(&self.exit, &self.profile)
    }

    /// The same of one that is not kept.
    pub(crate) fn facts_of<'a>(exit: &'a Exit, profile: &'a Profile) -> Facts<'a> {
        Facts {
            pid: exit.pid,
            comm: exit.comm.as_deref(),
            uid: exit.circumstances.uid,
            cause: &exit.cause,
            owner: &profile.owner,
            cgroup: profile.cgroup.as_deref(),
            exe: profile.exe.as_deref(),
            ancestors: &profile.ancestors,
        }
    }
}

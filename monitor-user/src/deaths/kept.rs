//! One death, in the shape in which a recorder writes it.

use serde::Deserialize;
use serde_json::Value;

use super::Facts;
use crate::model::{Cause, CoreDump, LastSignal, Profile, Sender, Usage};

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
    #[serde(skip)]
    pub(crate) profile: Profile,
    /// The same of the process that sent the fatal signal.
    #[serde(skip)]
    pub(crate) sender: Profile,
    /// The same of the process that sent `last_signal`.
    #[serde(skip)]
    pub(crate) asker: Profile,
}

impl Kept {
    /// Reads a line; `None` if it is of something else than a death, or in a shape of its own.
    pub(crate) fn of(event: &Value) -> Option<Self> {
        if event["event"] != "exited" {
            return None;
        }
        let mut kept = Self::deserialize(event).ok()?;
        kept.profile = Profile::deserialize(event).unwrap_or_default();
        let profile = |of: Option<&Sender>| {
            let profile = of.and_then(|sender| sender.profile.as_deref());
            profile.cloned().unwrap_or_default()
        };
        kept.sender = profile(kept.sent_by());
        kept.asker = profile(kept.asked_by());
        Some(kept)
    }

    /// What a filter asks of it.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            pid: self.pid,
            comm: self.comm.as_deref(),
            uid: self.uid,
            cause: &self.cause,
            owner: &self.profile.owner,
            cgroup: self.profile.cgroup.as_deref(),
            exe: self.profile.exe.as_deref(),
            ancestors: &self.profile.ancestors,
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

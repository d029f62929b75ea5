//! Who may command the agent, by the credentials that the kernel vouches for.

use std::io;

use tokio::net::UnixStream;

use super::Peer;
use crate::os;

/// Groups whose members may do what root and the agent's own user may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// All of it.
    pub(crate) access: Option<u32>,
    /// Ask how services are, and no more.
    pub(crate) status: Option<u32>,
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// Ask how services are.
    Ask,
    /// Command the agent, too.
    Command,
}

/// Who may command the agent.
pub(super) struct Access {
    pub(super) own_uid: u32,
    pub(super) groups: Groups,
}

/// A peer with all that access depends on.
pub(super) struct Caller {
    pub(super) peer: Peer,
    gid: u32,
    groups: Vec<u32>,
}

impl Caller {
    /// Reads them, as they were when it connected.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        Ok(Self {
            peer: Peer {
                pid: pid.unwrap_or(0),
                uid: credentials.uid(),
            },
            gid: credentials.gid(),
            // Before Linux 4.13 only the primary group counts.
            groups: os::peer::groups(stream).unwrap_or_default(),
        })
    }
}

impl Access {
    /// Root, the agent's own user, and members of the access group may do all; `None`: nothing.
    pub(super) fn right(&self, caller: &Caller) -> Option<Right> {
        let is_member = |group| caller.gid == group || caller.groups.contains(&group);
        let is_own = [0, self.own_uid].contains(&caller.peer.uid);
        if is_own || self.groups.access.is_some_and(is_member) {
            return Some(Right::Command);
        }
        self.groups
            .status
            .is_some_and(is_member)
            .then_some(Right::Ask)
    }

    /// In one line, for a caller who may not.
    pub(super) fn refusal(&self, caller: &Caller) -> String {
        let own = match self.own_uid {
            0 => "root".to_owned(),
            uid => format!("root and uid {uid}"),
        };
        let may = match self.groups.access {
            None => own,
            Some(group) => format!("{own}, and members of group {group},"),
        };
        let uid = caller.peer.uid;
        format!("uid {uid} may not command this agent: only {may} may")
    }
}

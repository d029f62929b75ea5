//! Who may use a file of the agent's, and how somebody else becomes one of them: for those who may
//! not. Grants nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{getegid, geteuid, getgroups};

use crate::accounts::Accounts;

/// A right to a file, and where others get it.
#[derive(Debug)]
pub(crate) struct Access {
    /// The group's bit in the file's mode.
    right: u32,
    /// Whom it is for, where the file cannot be looked at.
    members: &'static str,
    /// How one becomes one of these.
    join: &'static str,
    /// How a group gets the right.
    grant: &'static str,
}

/// To read what an agent has written.
pub(crate) const READ: Access = Access {
    right: 0o040,
    members: "the agent's own user and the members of its access_group",
    join: "join that group, which agent.toml names",
    grant: "have access_group in agent.toml name a group that you are in",
};

/// To write to the agent's socket: the right to connect.
pub(crate) const WRITE: Access = Access {
    right: 0o020,
    ..READ
};

/// To read what a recorder has kept.
pub(crate) const READ_DEATHS: Access = Access {
    members: "the members of the recorder's group",
    join: "join that group, which `respawn recorder --group` names",
    grant: "have `respawn recorder --group` name a group that you are in",
    ..READ
};

/// Whom the file's rights let in, who asks, and what to do: "root and the members of group ops; you
/// are uid 1000: join that group (usermod -aG ops NAME) and log in again, or run this as root".
pub(crate) fn who_may(path: &Path, access: &Access) -> String {
    let you = geteuid();
    let Ok(metadata) = fs::metadata(path) else {
        return format!(
            "root, {}; you are uid {you}: {}, and log in again, or run this as root",
            access.members, access.join
        );
    };
    let owner = match metadata.uid() {
        0 => "root".to_owned(),
        uid => format!("root and uid {uid}"),
    };
    if metadata.mode() & access.right == 0 {
        return format!(
            "{owner} only; you are uid {you}: run this as root, or {}",
            access.grant
        );
    }
    let gid = metadata.gid();
    let group = Accounts::of_this_host().group_of(gid).ok().flatten();
    let group = group.map_or_else(|| gid.to_string(), |group| group.name);
    format!(
        "{owner} and the members of group {group}; you are uid {you}: {}",
        joining(&group, gid)
    )
}

fn joining(group: &str, gid: u32) -> String {
    let is_of_process = getegid().as_raw() == gid
        || getgroups().is_ok_and(|groups| groups.iter().any(|one| one.as_raw() == gid));
    if is_of_process {
        // It is the directory above that keeps the group out.
        return "you are in that group, and the directory does not let you in; run this as root"
            .to_owned();
    }
    format!("join that group (usermod -aG {group} NAME) and log in again, or run this as root")
}

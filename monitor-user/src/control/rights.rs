//! Who may use a file of the agent's, and how somebody else becomes one of them: for those who may
//! not. Grants nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{getegid, geteuid, getgroups};

use crate::accounts::Accounts;

/// The group's right to read.
pub(crate) const READ: u32 = 0o040;

/// The group's right to write, which on a socket is the right to connect.
pub(crate) const WRITE: u32 = 0o020;

/// Whom the file's rights let in, who asks, and what to do: "root and the members of group ops; you
/// are uid 1000: join that group (usermod -aG ops NAME) and log in again, or run this as root".
pub(crate) fn who_may(path: &Path, right: u32) -> String {
    let you = geteuid();
    let Ok(metadata) = fs::metadata(path) else {
        return format!(
            "root, the agent's own user and the members of its control_group; you are uid {you}: \
             join that group, which agent.toml names, and log in again, or run this as root"
        );
    };
    let owner = match metadata.uid() {
        0 => "root".to_owned(),
        uid => format!("root and uid {uid}"),
    };
    if metadata.mode() & right == 0 {
        return format!(
            "{owner} alone; you are uid {you}: run this as root, or have control_group in \
             agent.toml name a group that you are in"
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

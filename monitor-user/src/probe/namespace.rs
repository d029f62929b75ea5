//! Which PID namespace and which mount namespace the caller lives in.

use std::fs;

use anyhow::{Context, Result};

/// Inode number of the initial PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL: u32 = 0xEFFF_FFFC;

/// Inode number of the caller's PID namespace, 0 for the initial one, where no pid is translated.
pub(crate) fn observer() -> Result<u32> {
    let inode = inode_of("self", "pid")?;
    Ok(if inode == INITIAL { 0 } else { inode })
}

/// Inode number of the mount namespace of a process, a pid or "self".
pub(crate) fn mounts_of(process: &str) -> Result<u32> {
    inode_of(process, "mnt")
}

/// Whether paths of cgroups begin at the root of the hierarchy: `PROC_CGROUP_INIT_INO` of
/// include/linux/proc_ns.h.
pub(crate) fn sees_all_cgroups() -> bool {
    inode_of("self", "cgroup").is_ok_and(|inode| inode == 0xEFFF_FFFB)
}

fn inode_of(process: &str, kind: &str) -> Result<u32> {
    let path = format!("/proc/{process}/ns/{kind}");
    let link =
        fs::read_link(&path).with_context(|| format!("cannot read {path}: is /proc mounted?"))?;
    link.to_str()
        .and_then(|text| {
            let number = text.strip_prefix(kind)?.strip_prefix(":[")?;
            number.strip_suffix(']')?.parse().ok()
        })
        .with_context(|| format!("{path}: expected {kind}:[NUMBER], found {}", link.display()))
}

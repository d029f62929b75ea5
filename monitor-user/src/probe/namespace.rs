//! Which PID namespace the caller lives in.

use std::fs;

use anyhow::{Context, Result};

/// Inode number of the initial PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL: u32 = 0xEFFF_FFFC;

/// Inode number of the caller's PID namespace, 0 for the initial one, where no pid is translated.
pub(crate) fn observer() -> Result<u32> {
    let path = "/proc/self/ns/pid";
    let link =
        fs::read_link(path).with_context(|| format!("cannot read {path}: is /proc mounted?"))?;
    let inode = link
        .to_str()
        .and_then(|text| text.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok())
        .with_context(|| format!("{path}: expected pid:[NUMBER], found {}", link.display()))?;
    Ok(if inode == INITIAL { 0 } else { inode })
}

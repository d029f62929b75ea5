//! Whether the ID of a cgroup says where a process belongs. Looks at no process.

use std::path::Path;
use std::sync::OnceLock;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// The ID of the root of the v2 hierarchy.
const ROOT: u64 = 1;

/// The ID, if it says something. A host with cgroup v1, alone or beside v2, leaves processes in the
/// root of v2: there every process may have that ID.
pub(crate) fn meaningful(id: u64) -> Option<u64> {
    (id > ROOT || id == ROOT && is_unified()).then_some(id)
}

/// Whether v2 is the only hierarchy, as its place says: on a host with both, the v1 hierarchies are
/// mounted below a file system in memory.
pub(crate) fn is_unified() -> bool {
    static UNIFIED: OnceLock<bool> = OnceLock::new();
    *UNIFIED.get_or_init(|| is_v2(Path::new("/sys/fs/cgroup")))
}

fn is_v2(mount: &Path) -> bool {
    statfs(mount).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_says_nothing_where_there_are_other_hierarchies() {
        assert_eq!(meaningful(0), None);
        assert_eq!(meaningful(1), is_unified().then_some(1));
        assert_eq!(meaningful(2), Some(2));
        assert!(!is_v2(Path::new("/")));
        assert!(!is_v2(Path::new("/nonexistent")));
    }
}

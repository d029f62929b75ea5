//! A directory for what a run of the benchmarks needs, and the cgroups that are named after it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

use crate::report::note;

/// Removed when the value goes, with the agents' empty cgroups.
pub(super) struct Scratch(TempDir);

impl Scratch {
    /// Makes one in memory, as `/run` is on most hosts, where the agent keeps its state.
    pub(super) fn make() -> Result<Self> {
        let in_memory =
            |path: &&str| statfs(*path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
        let parent = ["/run", "/dev/shm"].into_iter().find(in_memory);
        if parent.is_none() {
            note!(
                "bench: no tmpfs on /run or /dev/shm: the agent's state is on a disk, and slower"
            );
        }
        let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
        let directory = TempDir::with_prefix_in("respawn-bench-", parent);
        directory.map(Self).context("make a temporary directory")
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An agent names its cgroups after its runtime directory, which is in here.
        let own = self.path().file_name().unwrap_or_default();
        let own = own.to_string_lossy().into_owned();
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            for agent in directories(&Path::new(root).join("respawn")) {
                let name = agent.file_name().unwrap_or_default().to_string_lossy();
                if name.contains(&own) {
                    remove_empty(&agent);
                }
            }
        }
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries
        .filter(directory)
        .map(|entry| entry.path())
        .collect()
}

/// `rmdir`, children first; the kernel refuses it for a cgroup with processes.
pub(super) fn remove_empty(path: &Path) {
    for child in directories(path) {
        remove_empty(&child);
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_what_is_empty_and_nothing_else() {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::create_dir_all(path.join("c/d")).unwrap();
        fs::write(path.join("c/file"), "").unwrap();
        for child in directories(path) {
            remove_empty(&child);
        }
        assert_eq!(directories(path), [path.join("c")]);
        assert!(path.join("c/file").exists());
    }
}

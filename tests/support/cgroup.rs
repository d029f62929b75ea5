//! A cgroup of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder in a cgroup hierarchy, with everything in it gone at its end.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// One below `parent`; `None` where there can be none.
    pub fn new(parent: &Path) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::named(
            parent,
            &format!("respawn-test-{}-{number}", std::process::id()),
        )
    }

    /// The same, with that name.
    pub fn named(parent: &Path, name: &str) -> Option<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a process there.
    pub fn add(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("the process moves");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The dead leave it a moment after they are reaped.
        let removed = || fs::remove_dir(&self.0).ok();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            crate::eventually("an empty cgroup", removed);
        }));
    }
}

/// Where a hierarchy is mounted: by its type, and for version 1 a controller.
pub fn hierarchy(kind: &str, controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let fits = fields.get(2) == Some(&kind)
            && (controller.is_empty() || fields.get(3)?.split(',').any(|word| word == controller));
        fits.then(|| PathBuf::from(fields[1]))
    })
}

/// A cgroup with 32 MiB of memory.
pub fn small_cgroup() -> Option<Cgroup> {
    let limit = [
        (hierarchy("cgroup", "memory"), "memory.limit_in_bytes"),
        (hierarchy("cgroup2", ""), "memory.max"),
    ];
    limit.into_iter().find_map(|(path, file)| {
        let cgroup = Cgroup::new(&path?)?;
        fs::write(cgroup.0.join(file), "33554432").ok()?;
        // Where there is a limit on swap as well, it must not be the way out.
        let _ = fs::write(cgroup.0.join("memory.swap.max"), "0");
        Some(cgroup)
    })
}

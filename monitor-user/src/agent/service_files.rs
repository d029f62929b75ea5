//! Whether the service files are still what they were when they were loaded. Looks only when somebody
//! asks, and decides nothing: a change is taken up by a reload alone.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{self, Config};
use crate::model::ServiceName;

/// The files of the config in use.
#[derive(Default)]
pub(super) struct ServiceFiles {
    of_service: BTreeMap<ServiceName, PathBuf>,
    stamps: BTreeMap<PathBuf, Stamp>,
}

/// What tells one content of a file from another.
struct Stamp {
    /// Inode, size and time of the last change: as long as these are the same, nobody need read it.
    outside: Option<(u64, u64, i64, i64)>,
    content: Option<u64>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        // In this order: what changes in between is read again.
        let outside = outside(path);
        Self {
            outside,
            content: content(path),
        }
    }
}

impl ServiceFiles {
    /// Those of a config that was just loaded.
    pub(super) fn of(config: &Config) -> Self {
        let paths = config.files.values();
        let stamps = paths.map(|path| (path.clone(), Stamp::of(path)));
        Self {
            stamps: stamps.collect(),
            of_service: config.files.clone(),
        }
    }

    /// What is to be said of a service whose file is not what was loaded.
    pub(super) fn hint(&self, service: &str) -> Option<String> {
        let path = self.of_service.get(service)?;
        let known = self.stamps.get(path)?;
        let now = outside(path);
        if now.is_some() && now == known.outside {
            return None;
        }
        let what = match content(path) {
            None if known.content.is_none() => return None,
            None => "is gone or cannot be read",
            content if content == known.content => return None,
            Some(_) => "has changed",
        };
        Some(format!(
            "{} {what} since it was loaded; `respawn reload` takes that up",
            path.display()
        ))
    }
}

/// The file that a service of this name would have, if that is there and was not loaded.
pub(super) fn not_loaded(config_dir: &Path, service: &str) -> Option<PathBuf> {
    if !config::is_service_name(service) {
        return None;
    }
    let file = format!("{service}.toml");
    let path = config_dir.join(config::SERVICES).join(file);
    path.exists().then_some(path)
}

fn outside(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

fn content(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    config::content(path)?.hash(&mut hasher);
    Some(hasher.finish())
}

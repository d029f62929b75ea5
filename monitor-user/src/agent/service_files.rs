//! Whether the service files are still what they were when they were loaded. Looks only when somebody
//! asks, and decides nothing: a change is taken up by a reload alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{self, AgentConfig, Config};
use crate::model::{ServiceName, fnv1a};

/// The files of the config in use.
#[derive(Default)]
pub(super) struct ServiceFiles {
    config_dir: PathBuf,
    agent: AgentConfig,
    /// The service's file, and what is merged into that.
    of_service: BTreeMap<ServiceName, (PathBuf, Vec<PathBuf>)>,
    stamps: BTreeMap<PathBuf, Stamp>,
    /// The directories that services are read from, each with the time of its last change, ...
    dirs: Vec<(PathBuf, Changed)>,
    /// ... and the stems of the files for which there are directories of drop-ins in them.
    folders: BTreeSet<String>,
}

/// Inode, size and time of the last change.
type Changed = Option<(u64, u64, i64, i64)>;

/// What tells one content of a file from another.
struct Stamp {
    /// Inode, size and time of the last change: as long as these are the same, nobody need read it.
    outside: Changed,
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
    /// Those of a config that was just loaded from below that directory.
    pub(super) fn of(config: &Config, config_dir: &Path) -> Self {
        let of = |service: &ServiceName| {
            let drop_ins = config.drop_ins.get(service);
            drop_ins.map_or_else(Vec::new, |it| it.files.clone())
        };
        let files = config.files.iter();
        let of_service: BTreeMap<_, _> = files
            .map(|(service, file)| (service.clone(), (file.clone(), of(service))))
            .collect();
        let paths = of_service.values();
        let paths: BTreeSet<&PathBuf> = paths
            .flat_map(|(file, drop_ins)| [file].into_iter().chain(drop_ins))
            .collect();
        let stamps = paths
            .into_iter()
            .map(|path| (path.clone(), Stamp::of(path)));
        let (dirs, folders) = config::places_of_drop_ins(config_dir, &config.agent);
        let dirs = dirs.into_iter().map(|dir| {
            let changed = outside(&dir);
            (dir, changed)
        });
        Self {
            stamps: stamps.collect(),
            dirs: dirs.collect(),
            folders,
            of_service,
            config_dir: config_dir.to_owned(),
            agent: config.agent.clone(),
        }
    }

    /// What is to be said of a service whose files are not what was loaded.
    pub(super) fn hint(&self, service: &str) -> Option<String> {
        let (file, drop_ins) = self.of_service.get(service)?;
        let files = [file].into_iter().chain(drop_ins);
        let (path, what) = files
            .filter_map(|path| Some((path.clone(), self.change(path)?)))
            .next()
            .or_else(|| {
                if !self.may_have_more(file, service) {
                    return None;
                }
                let now = config::drop_ins_of(&self.config_dir, &self.agent, file, service);
                let new = now.into_iter().find(|path| !drop_ins.contains(path));
                Some((new?, "was added"))
            })?;
        Some(format!(
            "{} {what} since it was loaded; `respawn reload` takes that up",
            path.display()
        ))
    }

    /// Whether there may be drop-ins that were not loaded. To look for each service each time would take
    /// long where there are thousands.
    fn may_have_more(&self, file: &Path, service: &str) -> bool {
        let stem = file.file_stem().and_then(|stem| stem.to_str());
        let has_folder = |stem: &str| self.folders.contains(stem);
        let has_changed = |(dir, known): &(PathBuf, Changed)| outside(dir) != *known;
        stem.is_some_and(has_folder) || has_folder(service) || self.dirs.iter().any(has_changed)
    }

    /// What has become of a file since it was loaded, if anything has.
    fn change(&self, path: &Path) -> Option<&'static str> {
        let known = self.stamps.get(path)?;
        let now = outside(path);
        if now.is_some() && now == known.outside {
            return None;
        }
        match content(path) {
            None if known.content.is_none() => None,
            None => Some("is gone or cannot be read"),
            content if content == known.content => None,
            Some(_) => Some("has changed"),
        }
    }
}

fn outside(path: &Path) -> Changed {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

fn content(path: &Path) -> Option<u64> {
    config::content(path).map(fnv1a)
}

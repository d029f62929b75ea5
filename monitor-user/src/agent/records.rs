//! What is known of descriptors that are held for services, in a directory with a file a service: for the
//! spare, which follows the directory, and for the next agent.
//! What holds the descriptors is elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::memory;
use crate::model::ServiceName;
use crate::os;

/// The records of all services, as this agent has written them.
pub(super) struct Records<T> {
    dir: PathBuf,
    written: BTreeMap<ServiceName, Vec<T>>,
}

impl<T: PartialEq + Serialize> Records<T> {
    pub(super) fn of(dir: PathBuf) -> Self {
        Self {
            dir,
            written: BTreeMap::new(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which services an earlier agent has records of.
    pub(super) fn services(&self) -> Vec<ServiceName> {
        let names = names(&self.dir).into_iter();
        names.map(|it| (*it).into()).collect()
    }

    /// Puts these in the place of those that are there. `what`: what they are records of, for people.
    pub(super) fn write(&mut self, service: &ServiceName, records: Vec<T>, what: &str) {
        if self.written.get(service) == Some(&records) {
            return;
        }
        let path = self.dir.join(&**service);
        let written = match records.is_empty() {
            true => os::remove_file(&path),
            false => {
                let temporary = self.dir.join(format!(".{service}"));
                make_dir(&self.dir)
                    .and_then(|()| Ok(serde_json::to_vec(&records)?))
                    .and_then(|bytes| memory::replace(&temporary, &path, &bytes))
            }
        };
        match written {
            Ok(()) if !records.is_empty() => drop(self.written.insert(service.clone(), records)),
            Ok(()) => drop(self.written.remove(service)),
            Err(error) => {
                self.written.remove(service);
                tracing::error!(%service, "its {what} do not outlive this agent: cannot write {}: {error}", path.display());
            }
        }
    }

    /// Somebody has removed them: each is written again when it is said the next time.
    pub(super) fn forget_written(&mut self) {
        self.written.clear();
    }
}

pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    os::make_dir(dir, 0o700)
}

/// The services that have a file.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_service(name)).collect()
}

/// Whether it is the name of a file of a service, and not that of a temporary one.
pub(super) fn is_service(name: &str) -> bool {
    !name.starts_with('.')
}

/// What is recorded of a service; what cannot be read is nothing.
pub(super) fn read<T: DeserializeOwned>(dir: &Path, service: &str) -> Vec<T> {
    let bytes = fs::read(dir.join(service)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

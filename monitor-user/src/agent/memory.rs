//! What the next agent needs to know, kept in the runtime directory: one small file a service,
//! replaced whole, so that it is the old one or the new one whenever the agent dies.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::os::proc;
use crate::supervisor::{Instance, Memory, ServiceName};

/// The directory of these files.
pub(super) struct MemoryDir {
    path: PathBuf,
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    /// Pids, start times and delays mean nothing after another boot.
    boot_id: String,
    /// When it was written, since boot.
    written_at: Duration,
    memory: Memory,
    /// Instances whose exit is in `memory`; whether it is in the journal, only that tells.
    #[serde(default)]
    untold: Vec<Instance>,
}

/// What is remembered of a service.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub(super) memory: Memory,
    /// Instances whose exit is in `memory`, and perhaps not in the journal.
    pub(super) untold: Vec<Instance>,
}

impl MemoryDir {
    /// Makes the directory where it is missing.
    pub(super) fn open(runtime_dir: &Path) -> Result<Self> {
        let path = runtime_dir.join("state");
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        let boot_id = proc::boot_id().context("cannot read the kernel's boot ID")?;
        Ok(Self { path, boot_id })
    }

    /// What earlier agents of this boot remembered, aged to now. What is damaged, or of another
    /// boot, is cleared away with a word.
    pub(super) fn read(&self) -> Result<Vec<(ServiceName, Remembered)>> {
        let mut memories = Vec::new();
        let entries = fs::read_dir(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        for entry in entries {
            let path = entry?.path();
            let service = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_suffix(".json"));
            match (service, read(&path)) {
                (Some(service), Ok(file)) if file.boot_id == self.boot_id => {
                    let age = clock::since_boot().saturating_sub(file.written_at);
                    let remembered = Remembered {
                        memory: file.memory.aged(age),
                        untold: file.untold,
                    };
                    memories.push((ServiceName::from(service), remembered));
                    continue;
                }
                (Some(_), Ok(_)) => tracing::info!("{}: of another boot", path.display()),
                (Some(_), Err(error)) => tracing::warn!("{}: {error:#}", path.display()),
                // Left behind by an agent that died while it wrote.
                (None, _) => {}
            }
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(memories)
    }

    /// Remembers a service, or forgets it. `untold`: as in [`Remembered`].
    pub(super) fn write(
        &self,
        service: &str,
        memory: Option<Memory>,
        untold: &[Instance],
    ) -> io::Result<()> {
        let path = self.path.join(format!("{service}.json"));
        let Some(memory) = memory else {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let written_at = clock::since_boot();
        let file = File {
            boot_id: self.boot_id.clone(),
            written_at,
            memory,
            untold: untold.to_vec(),
        };
        let bytes = serde_json::to_vec(&file)?;
        let temporary = self.path.join(format!("{service}.new"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&temporary)?.write_all(&bytes)?;
        fs::rename(&temporary, &path)
    }
}

fn read(path: &Path) -> Result<File> {
    let bytes = fs::read(path)?;
    serde_json::from_slice(&bytes).context("damaged, not used")
}

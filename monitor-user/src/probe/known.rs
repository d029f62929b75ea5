//! What has been found out about the running kernel, for the next one who starts in this boot: its
//! types, and which programs it refuses. Reading the types and having a program refused take time.
//!
//! A file in the runtime directory, replaced whole. It is believed only if nobody else than root
//! and its reader can have written it, and if it is of this boot, this kernel and this build;
//! damaged or of others, it is as if it were not there.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::btf::{self, KernelTypes};
use super::object::{Hook, Refused};
use crate::os::proc;

const FILE: &str = "kernel.json";
/// It has a few kilobytes.
const MOST_BYTES: u64 = 1 << 18;

/// Where to look for what is known, and whether to write there.
#[derive(Debug, Clone, Default)]
pub(crate) enum KnownIn {
    /// Nothing is known, nothing is kept.
    #[default]
    Nowhere,
    /// In this directory, which is left as it is.
    ReadOnly(PathBuf),
    /// In this directory, if it is there.
    At(PathBuf),
}

/// Whom it holds for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Subject {
    boot_id: String,
    /// Release, version and machine.
    kernel: String,
    /// This build's fingerprint.
    build: u64,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    subject: Subject,
    types: Option<KernelTypes>,
    /// Why, by program and hook.
    refused: BTreeMap<String, String>,
}

/// What is known of this kernel.
pub(crate) struct Known {
    place: KnownIn,
    file: File,
    changed: bool,
}

impl Known {
    /// Reads what is known, if it is for this boot, this kernel, and a build with this object.
    ///
    /// # Errors
    /// The kernel does not say which it is.
    pub(super) fn recall(place: KnownIn, object: u64) -> Result<Self> {
        let subject = Subject::here(object)?;
        let path = match &place {
            KnownIn::Nowhere => None,
            KnownIn::ReadOnly(directory) | KnownIn::At(directory) => Some(directory.join(FILE)),
        };
        let file = path.and_then(|path| match read(&path) {
            Ok(file) => file.filter(|file| file.subject == subject),
            Err(error) => {
                tracing::debug!("{}: not used: {error:#}", path.display());
                None
            }
        });
        let empty = File {
            subject,
            types: None,
            refused: BTreeMap::new(),
        };
        Ok(Self {
            place,
            file: file.unwrap_or(empty),
            changed: false,
        })
    }

    /// The kernel's types, from its BTF if they are not known.
    pub(super) fn types(&mut self, btf: &Path) -> Result<&KernelTypes> {
        if self.file.types.is_none() {
            self.file.types = Some(KernelTypes::read(btf)?);
            self.changed = true;
        }
        self.file.types.as_ref().context("no types")
    }

    /// Whether to try a program at all.
    ///
    /// # Errors
    /// [`Refused`], if the kernel refuses it at this hook as far as is known.
    pub(super) fn check(&self, program: &str, hook: Hook) -> Result<()> {
        match self.file.refused.get(&name_of(program, hook)) {
            Some(reason) => Err(Refused::earlier(program, reason).into()),
            None => Ok(()),
        }
    }

    /// Notes what keeps a program from being loaded, if that stays so as long as the kernel runs.
    pub(super) fn note(&mut self, program: &str, hook: Hook, error: &anyhow::Error) {
        if let Some(refused) = error.downcast_ref::<Refused>()
            && refused.lasts
        {
            let name = name_of(program, hook);
            self.file.refused.entry(name).or_insert_with(|| {
                self.changed = true;
                refused.reason.clone()
            });
        }
    }

    /// Keeps what is new. If that fails, it is found out again by the next one.
    pub(super) fn keep(&mut self) {
        let KnownIn::At(directory) = &self.place else {
            return;
        };
        if !std::mem::take(&mut self.changed) || !directory.is_dir() {
            return;
        }
        if let Err(error) = write(directory, &self.file) {
            let path = directory.join(FILE);
            tracing::debug!("{}: cannot be stored: {error:#}", path.display());
        }
    }
}

fn name_of(program: &str, hook: Hook) -> String {
    format!("{program} on {hook}")
}

impl Subject {
    fn here(object: u64) -> Result<Self> {
        let kernel = nix::sys::utsname::uname()?;
        let kernel = [kernel.release(), kernel.version(), kernel.machine()];
        let kernel = kernel.map(|part| part.to_string_lossy().into_owned());
        Ok(Self {
            boot_id: proc::boot_id().context("cannot read the kernel's boot ID")?,
            kernel: kernel.join(" "),
            build: btf::fingerprint(object),
        })
    }
}

/// `None`: there is none.
fn read(path: &Path) -> Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let found = file.metadata()?;
    ensure!(found.is_file(), "no regular file");
    ensure!(
        [0, geteuid().as_raw()].contains(&found.uid()),
        "uid {}'s",
        found.uid()
    );
    ensure!(found.mode() & 0o022 == 0, "others may write it");
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    let file: File = serde_json::from_str(&text).context("damaged")?;
    let fits = file.types.as_ref().is_none_or(KernelTypes::is_whole);
    ensure!(fits, "damaged: offsets are missing");
    Ok(Some(file))
}

fn write(directory: &Path, file: &File) -> Result<()> {
    let temporary = directory.join(format!("{FILE}.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut to| to.write_all(&serde_json::to_vec(file)?))
        .and_then(|()| fs::rename(&temporary, directory.join(FILE)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    Ok(written?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const HOOK: Hook = Hook::RawTracepoint("signal_generate");

    impl Known {
        fn refusal(&self) -> Option<String> {
            self.check("signal", HOOK)
                .err()
                .map(|error| error.to_string())
        }

        fn note_refusal(&mut self, reason: &str) {
            let refused = Refused::earlier("signal", reason);
            self.note("signal", HOOK, &refused.into());
        }
    }

    fn recall(directory: &Path, object: u64) -> Known {
        Known::recall(KnownIn::At(directory.to_owned()), object).unwrap()
    }

    /// With one refusal kept.
    fn kept() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut known = recall(directory.path(), 1);
        assert_eq!(known.refusal(), None);
        known.note_refusal("too large");
        known.keep();
        directory
    }

    #[test]
    fn a_refusal_is_known_to_the_same_build_in_this_boot() {
        let directory = kept();
        let path = directory.path();
        let refusal = recall(path, 1).refusal().unwrap();
        let expected = "the kernel refused the program signal earlier in this boot, and is not \
                        asked again: too large";
        assert_eq!(refusal, expected);
        let another = Hook::RawTracepoint("another");
        assert!(recall(path, 1).check("signal", another).is_ok());
        assert_eq!(recall(path, 2).refusal(), None);
        let text = fs::read_to_string(path.join(FILE)).unwrap();
        let boot_id = proc::boot_id().unwrap();
        fs::write(path.join(FILE), text.replace(&boot_id, "another")).unwrap();
        assert_eq!(recall(path, 1).refusal(), None);
        // No other file is left behind.
        assert_eq!(fs::read_dir(path).unwrap().count(), 1);
    }

    #[test]
    fn what_others_may_have_written_is_not_believed() {
        let directory = kept();
        let path = directory.path().join(FILE);
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(recall(directory.path(), 1).refusal(), None, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(recall(directory.path(), 1).refusal().is_some());
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(recall(directory.path(), 1).refusal(), None);
        fs::remove_file(&path).unwrap();
        // Nobody writes to it: it would be waited for forever.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(recall(directory.path(), 1).refusal(), None);
    }

    #[test]
    fn damaged_files_are_as_if_they_were_not_there_and_are_replaced() {
        let directory = kept();
        let path = directory.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(recall(directory.path(), 1).refusal(), None, "{length}");
        }
        let mut known = recall(directory.path(), 1);
        known.note_refusal("once more");
        known.keep();
        let refusal = recall(directory.path(), 1).refusal().unwrap();
        assert!(refusal.ends_with("once more"), "{refusal}");
    }

    #[test]
    fn offsets_are_known_or_read_again() {
        if !Path::new(btf::KERNEL_BTF).exists() {
            eprintln!("SKIPPED: no {} on this host", btf::KERNEL_BTF);
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let kernel = Path::new(btf::KERNEL_BTF);
        let mut known = recall(directory.path(), 1);
        let types = known.types(kernel).unwrap().clone();
        known.keep();
        let nowhere = Path::new("/nonexistent");
        assert_eq!(recall(directory.path(), 1).types(nowhere).unwrap(), &types);
        assert!(recall(directory.path(), 2).types(nowhere).is_err());
        // One offset less.
        let path = directory.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let (before, after) = text.split_once("\"offsets\":[").unwrap();
        let (_, after) = after.split_once(',').unwrap();
        fs::write(&path, format!("{before}\"offsets\":[{after}")).unwrap();
        assert!(recall(directory.path(), 1).types(nowhere).is_err());
    }

    #[test]
    fn who_only_reads_leaves_all_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        for place in [
            KnownIn::ReadOnly(directory.path().to_owned()),
            KnownIn::Nowhere,
            KnownIn::At(directory.path().join("missing")),
        ] {
            let mut known = Known::recall(place, 1).unwrap();
            known.note_refusal("too large");
            known.keep();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

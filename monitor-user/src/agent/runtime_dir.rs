//! The runtime directory, which has to be the agent's alone: who may write to it could have the agent
//! run what they like, by a forged last good config. Makes it where it is missing, and refuses
//! one, with the reason, that somebody else may change, or in which there is what is not respawn's.
//! Reads and removes nothing.

use std::fs::{self, DirBuilder, FileType, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::control;
use crate::journal;
use crate::logger::OUTPUT;
use crate::os::progress;
use crate::os::trust::{Stranger, Trusted, Weakness, stranger_on_way};

/// What an agent makes in it, beside the socket, and what that has to be.
const ENTRIES: [(&str, EntryKind); 10] = [
    ("lock", EntryKind::File),
    (progress::FILE, EntryKind::File),
    ("starts-under-init", EntryKind::File),
    (STATE, EntryKind::Directory),
    (READY, EntryKind::Directory),
    (OUTPUT, EntryKind::Directory),
    (NOTIFY, EntryKind::Directory),
    (COOKIES, EntryKind::Directory),
    (SOCKETS, EntryKind::Directory),
    (FD_STORE, EntryKind::Directory),
];

/// The directory of what the next agent needs to know.
pub(super) const STATE: &str = "state";
/// Where services say that they are ready.
pub(super) const READY: &str = "ready";
/// The sockets that they send notifications to, and the numbers of those in the kernel.
pub(super) const NOTIFY: &str = "notify";
pub(super) const COOKIES: &str = "notify.cookies";
/// What is known of the sockets that are held for services.
pub(super) const SOCKETS: &str = "sockets";
/// What is known of the descriptors that services have left with the agent.
pub(super) const FD_STORE: &str = "fd-store";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    File,
    Directory,
    Socket,
}

impl EntryKind {
    fn is(self, found: FileType) -> bool {
        match self {
            Self::File => found.is_file(),
            Self::Directory => found.is_dir(),
            Self::Socket => found.is_socket(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::File => "regular file",
            Self::Directory => "directory",
            Self::Socket => "socket",
        }
    }
}

/// Makes the runtime directory where it is missing, and looks at all of it.
///
/// # Errors
/// It can be neither found nor made, is no directory, or somebody else may change it.
pub(super) fn prepare(path: &Path) -> Result<()> {
    let context = || format!("cannot use the runtime directory {}", path.display());
    // First, so that nothing is made where somebody else says what that leads to.
    check_way(path).with_context(context)?;
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.with_context(|| format!("cannot make the runtime directory {}", path.display()))?;
    check_way(path).with_context(context)?;
    check_content(path).with_context(context)
}

/// The user that the agent runs as.
pub(super) fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn check_way(path: &Path) -> Result<()> {
    match stranger_on_way(path)? {
        Some(weakness) => refuse(&weakness),
        None => Ok(()),
    }
}

fn refuse(weakness: &Weakness) -> Result<()> {
    let (whom, remedy) = (in_words(own_uid()), weakness.stranger.remedy());
    bail!(
        "{weakness}, and could run commands as {whom}; fix that ({remedy}), or choose another --runtime-dir"
    )
}

fn in_words(uid: u32) -> String {
    match uid {
        0 => "root".to_owned(),
        uid => format!("uid {uid}"),
    }
}

fn check_content(runtime_dir: &Path) -> Result<()> {
    for (name, kind) in ENTRIES {
        check_entry(&runtime_dir.join(name), kind)?;
    }
    for path in journal::paths(runtime_dir) {
        check_entry(&path, EntryKind::File)?;
    }
    check_entry(&control::socket(runtime_dir), EntryKind::Socket)?;
    let state = runtime_dir.join(STATE);
    let entries = match fs::read_dir(&state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", state.display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        if let Some(metadata) = look(&path)?
            && metadata.is_file()
        {
            check_owner(&path, &metadata)?;
        }
    }
    Ok(())
}

/// What is not there may be made.
fn check_entry(path: &Path, kind: EntryKind) -> Result<()> {
    let Some(metadata) = look(path)? else {
        return Ok(());
    };
    if !kind.is(metadata.file_type()) {
        bail!(
            "{} exists and is not a {}; move it out of the way, or choose another --runtime-dir",
            path.display(),
            kind.name()
        );
    }
    check_owner(path, &metadata)
}

fn look(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => {
            Ok(Some(found.with_context(|| {
                format!("cannot look at {}", path.display())
            })?))
        }
    }
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<()> {
    // A group may be let in by the socket, and write to nothing by that.
    let trusted = Trusted::root_and(&[own_uid()]);
    match trusted.stranger(path, metadata) {
        Some(Stranger::Group(_) | Stranger::Listed) if metadata.file_type().is_socket() => Ok(()),
        Some(stranger) => refuse(&Weakness {
            path: PathBuf::from(path),
            stranger,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path) -> String {
        format!("{:#}", prepare(path).unwrap_err())
    }

    #[test]
    fn it_is_made_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        prepare(&path).unwrap();
        prepare(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0);
        // A link that nobody else can have put there is as good.
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        prepare(&link).unwrap();
    }

    #[test]
    fn a_place_that_others_may_write_to_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("parent");
        fs::create_dir(&parent).unwrap();
        set(&parent, 0o777);
        let path = parent.join("run");
        let said = refused(&path);
        assert!(said.contains("everyone may write to"), "{said}");
        assert!(said.contains("choose another --runtime-dir"), "{said}");
        assert!(!path.exists());
        set(&parent, 0o1777);
        prepare(&path).unwrap();
        for mode in [0o757, 0o1757] {
            set(&path, mode);
            assert!(refused(&path).contains("everyone may write to"));
        }
    }

    #[test]
    fn what_is_in_it_has_to_be_what_the_agent_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        prepare(&path).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        for name in [
            "lock",
            "journal",
            "journal.1",
            "journal.busy",
            "control.sock",
            STATE,
        ] {
            let entry = path.join(name);
            symlink(&elsewhere, &entry).unwrap();
            let said = refused(&path);
            assert!(said.contains(&*entry.to_string_lossy()), "{said}");
            assert!(said.contains("exists and is not a"), "{said}");
            fs::remove_file(&entry).unwrap();
        }
        for name in ["lock", "journal", "journal.1", "journal.busy"] {
            let entry = path.join(name);
            fs::write(&entry, "").unwrap();
            set(&entry, 0o646);
            assert!(refused(&path).contains("everyone may write to"), "{name}");
            set(&entry, 0o644);
            prepare(&path).unwrap();
        }
        fs::create_dir(path.join(STATE)).unwrap();
        let file = path.join("state/web.json");
        fs::write(&file, "").unwrap();
        set(&file, 0o666);
        assert!(refused(&path).contains("state/web.json"));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        prepare(&path).unwrap();
        fs::create_dir(path.join(STATE)).unwrap();
        for name in ["", "lock", STATE, "state/last-good-config"] {
            let entry = path.join(name);
            if !entry.exists() {
                fs::write(&entry, "").unwrap();
            }
            chown(&entry, Some(12_345), None).unwrap();
            let said = refused(&path);
            assert!(said.contains("belongs to uid 12345"), "{name}: {said}");
            chown(&entry, Some(0), None).unwrap();
            prepare(&path).unwrap();
        }
    }
}

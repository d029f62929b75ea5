//! What an install or uninstall does, laid out before any of it is done: changes to files, and
//! what init is asked. A dry run prints it, the real one does it.
//!
//! Never leaves half a file: what is written appears whole, under its name, or not at all.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Program;
use super::diff::unified;
use super::root::Root;

/// In every file that is ours alone: whoever finds it there knows who may remove it.
const MARK: &str = "written by respawn install";

/// The line in which it stands.
pub(super) fn header(program: Program) -> &'static str {
    match program {
        Program::Agent => {
            "This file was written by respawn install; `respawn uninstall` removes it."
        }
        Program::Recorder => {
            "This file was written by respawn install; `respawn uninstall --recorder` removes it."
        }
    }
}

/// All that is to be done, in this order: `before`, `changes`, `after`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What init is asked while all is as it was.
    pub(crate) before: Vec<Ask>,
    pub(crate) changes: Vec<Change>,
    /// What init is asked then.
    pub(crate) after: Vec<Ask>,
    /// What someone should know.
    pub(crate) notes: Vec<String>,
    /// Where to look if the agent does not come up.
    pub(crate) look_at: Vec<String>,
}

/// One change to the file system; paths are those within the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A file's new content; that of a link is written to what it points to. Mode and owner stay;
    /// `mode` is a new file's.
    Write {
        path: PathBuf,
        before: Option<Vec<u8>>,
        after: Vec<u8>,
        mode: u32,
    },
    /// A symbolic link.
    Link {
        path: PathBuf,
        to: PathBuf,
    },
    /// A copy of a file as it is before the first edit. It holds `content`, and comes back into
    /// that file's place by hand.
    Backup {
        path: PathBuf,
        of: PathBuf,
        content: Vec<u8>,
    },
    Remove {
        path: PathBuf,
        before: Vec<u8>,
    },
    /// Gives a file another name, which nothing has yet.
    Move {
        path: PathBuf,
        to: PathBuf,
    },
    /// Removes a backup that says nothing more than the file it is of.
    RemoveBackup {
        path: PathBuf,
    },
    Unlink {
        path: PathBuf,
        to: PathBuf,
    },
    /// Removes a directory and what its init has put there.
    RemoveDir {
        path: PathBuf,
    },
}

/// What init is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// SIGHUP to PID 1: read inittab again.
    Hangup,
    /// A program, which must end with status 0.
    Run(Vec<String>),
    /// A program that may fail: there may be nothing to do for it.
    Try(Vec<String>),
}

impl Ask {
    pub(crate) fn run(words: &[&str]) -> Self {
        Self::Run(words.iter().map(ToString::to_string).collect())
    }

    pub(crate) fn attempt(words: &[&str]) -> Self {
        Self::Try(words.iter().map(ToString::to_string).collect())
    }

    /// Does it, and tells what was done.
    ///
    /// # Errors
    /// The program cannot be started, or fails.
    pub(crate) fn perform(&self) -> Result<String> {
        let done = match self {
            Self::Hangup => kill(Pid::from_raw(1), Signal::SIGHUP)
                .context("cannot send SIGHUP to PID 1: are you root?"),
            Self::Run(words) | Self::Try(words) => run(words),
        };
        match done {
            Err(error) if matches!(self, Self::Try(_)) => Ok(format!("tried {error:#}")),
            Err(error) => Err(error),
            Ok(()) => Ok(format!("ran {self}")),
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let [program, arguments @ ..] = words else {
        return Ok(());
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    bail!("`{}`: {}: {said}", words.join(" "), output.status)
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hangup => f.write_str("kill -HUP 1"),
            Self::Run(words) | Self::Try(words) => f.write_str(&words.join(" ")),
        }
    }
}

impl Plan {
    /// Asks once more what init may have missed. sysvinit forgets each SIGHUP that comes while it
    /// ends the processes of removed lines: `process_signals` in its `src/init.c` reads the file,
    /// waits for them, and then takes the signal for answered.
    pub(crate) fn ask_again(&self) {
        if self.after.contains(&Ask::Hangup) {
            // That the first one could be sent was seen.
            let _ = Ask::Hangup.perform();
        }
    }

    /// A file of ours, written whole.
    ///
    /// # Errors
    /// There is one already, and it is not ours.
    pub(crate) fn write(&mut self, root: &Root, path: &str, after: &str, mode: u32) -> Result<()> {
        let before = root.read(path)?;
        if let Some(before) = &before
            && !is_ours(before)
        {
            bail!(
                "{} is there and was not written by respawn install; move it out of the way first",
                root.shown(path)
            );
        }
        self.edit(path, before, after.as_bytes().to_vec(), mode);
        Ok(())
    }

    /// A file that was read as `before`.
    pub(crate) fn edit(&mut self, path: &str, before: Option<Vec<u8>>, after: Vec<u8>, mode: u32) {
        if before.as_ref() != Some(&after) {
            self.changes.push(Change::Write {
                path: path.into(),
                before,
                after,
                mode,
            });
        }
    }

    /// A link.
    ///
    /// # Errors
    /// There is something else under this name.
    pub(crate) fn link(&mut self, root: &Root, path: &str, to: &str) -> Result<()> {
        match root.link(path) {
            Some(found) if found == Path::new(to) => {}
            None if !root.exists(path) => self.changes.push(Change::Link {
                path: path.into(),
                to: to.into(),
            }),
            _ => bail!(
                "{} is there and was not written by respawn install; move it out of the way first",
                root.shown(path)
            ),
        }
        Ok(())
    }

    /// Removes a file if it is ours. Tells whether it is there.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn remove(&mut self, root: &Root, path: &str) -> Result<bool> {
        let Some(before) = root.read(path)?.filter(|bytes| is_ours(bytes)) else {
            return Ok(false);
        };
        self.changes.push(Change::Remove {
            path: path.into(),
            before,
        });
        Ok(true)
    }

    /// Removes a link if it points to `to`, once if several paths lead to it.
    pub(crate) fn unlink(&mut self, root: &Root, path: &str, to: &str) {
        let place = |path: &Path| root.locate(path, false).ok();
        let here = place(Path::new(path));
        let is_known = self
            .changes
            .iter()
            .any(|change| matches!(change, Change::Unlink { path, .. } if place(path) == here));
        if !is_known && root.link(path).as_deref() == Some(Path::new(to)) {
            self.changes.push(Change::Unlink {
                path: path.into(),
                to: to.into(),
            });
        }
    }

    /// Does the changes.
    ///
    /// # Errors
    /// The first that cannot be done; those before it are.
    pub(crate) fn apply(&self, root: &Root) -> Result<()> {
        self.changes
            .iter()
            .try_for_each(|change| change.apply(root))
    }
}

fn is_ours(bytes: &[u8]) -> bool {
    bytes
        .windows(MARK.len())
        .any(|window| window == MARK.as_bytes())
}

impl Change {
    /// What would be different, as a unified diff or in words.
    pub(crate) fn shown(&self, root: &Root) -> String {
        match self {
            Self::Write {
                path,
                before,
                after,
                mode,
            } => {
                let name = root.shown(path);
                let mut diff = unified(&name, before.as_deref(), Some(after));
                if before.is_none() {
                    diff.insert_str(0, &format!("new file {name}, mode {mode:04o}\n"));
                }
                diff
            }
            Self::Link { path, to } => {
                format!("link {} -> {}\n", root.shown(path), to.display())
            }
            Self::Backup { path, of, .. } => {
                format!("copy {} to {}\n", root.shown(of), root.shown(path))
            }
            Self::Remove { path, before } => unified(&root.shown(path), Some(before), None),
            Self::Move { path, to } => {
                format!("move {} to {}\n", root.shown(path), root.shown(to))
            }
            Self::RemoveBackup { path } => {
                format!("remove {}, which is the same then\n", root.shown(path))
            }
            Self::Unlink { path, to } => {
                format!("remove link {} -> {}\n", root.shown(path), to.display())
            }
            Self::RemoveDir { path } => format!("remove directory {}\n", root.shown(path)),
        }
    }

    /// In one line, after the fact.
    pub(crate) fn told(&self, root: &Root) -> String {
        let verb = match self {
            Self::Write { before: None, .. } => "wrote",
            Self::Write { .. } => "changed",
            Self::Link { .. } => "linked",
            Self::Backup { .. } => "kept a copy in",
            Self::Move { .. } => "moved",
            Self::Remove { .. }
            | Self::RemoveBackup { .. }
            | Self::Unlink { .. }
            | Self::RemoveDir { .. } => "removed",
        };
        format!("{verb} {}", root.shown(self.path()))
    }

    /// What sort of change it is, for a program.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Link { .. } => "link",
            Self::Backup { .. } => "backup",
            Self::Move { .. } => "move",
            Self::Remove { .. } | Self::RemoveBackup { .. } => "remove",
            Self::Unlink { .. } => "unlink",
            Self::RemoveDir { .. } => "remove_dir",
        }
    }

    /// What is written, made or removed.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Write { path, .. }
            | Self::Link { path, .. }
            | Self::Backup { path, .. }
            | Self::Remove { path, .. }
            | Self::Move { path, .. }
            | Self::RemoveBackup { path }
            | Self::Unlink { path, .. }
            | Self::RemoveDir { path } => path,
        }
    }

    fn apply(&self, root: &Root) -> Result<()> {
        match self {
            Self::Write {
                path,
                before,
                after,
                mode,
            } => replace(root, path, before.as_deref(), after, *mode),
            // Nobody but root needs it, whoever may read the file.
            Self::Backup { path, content, .. } => replace(root, path, None, content, 0o600),
            Self::Link { path, to } => {
                let place = root.locate(path, false)?;
                make_parent(&place)?;
                symlink(to, &place).and_then(|()| sync_parent(&place))
            }
            Self::Remove { path, .. } | Self::RemoveBackup { path } | Self::Unlink { path, .. } => {
                let place = root.locate(path, false)?;
                fs::remove_file(&place).and_then(|()| sync_parent(&place))
            }
            Self::Move { path, to } => root
                .locate(path, false)
                .and_then(|from| Ok((from, root.locate(to, false)?)))
                .and_then(|(from, to)| rename(&from, &to)),
            Self::RemoveDir { path } => root.locate(path, false).and_then(fs::remove_dir_all),
        }
        .with_context(|| format!("not done: {}", self.shown(root).trim_end()))
    }
}

/// Writes beside the file and renames, once the new content is on the disk.
fn replace(
    root: &Root,
    path: &Path,
    before: Option<&[u8]>,
    after: &[u8],
    mode: u32,
) -> io::Result<()> {
    let place = root.locate(path, true)?;
    make_parent(&place)?;
    // Hidden, so that no init takes it for a service.
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(format!(".respawn-{}", std::process::id()));
    let temporary = place.with_file_name(name);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let written = fill(&file, &place, before, after, mode)
        .and_then(|()| fs::rename(&temporary, &place))
        .and_then(|()| sync_parent(&place));
    if written.is_err() {
        // What failed is told; this is only tidied up.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn fill(
    mut file: &File,
    place: &Path,
    before: Option<&[u8]>,
    after: &[u8],
    mode: u32,
) -> io::Result<()> {
    file.write_all(after)?;
    let mode = match fs::metadata(place) {
        Ok(old) => {
            fchown(file, Some(old.uid()), Some(old.gid()))?;
            old.permissions().mode() & 0o7777
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => mode,
        Err(error) => return Err(error),
    };
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    let now = match fs::read(place) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if now.as_deref() != before {
        return Err(io::Error::other(
            "something else has changed it in the meantime; try again",
        ));
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    make_parent(to)?;
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)?;
    sync_parent(to)?;
    sync_parent(from)
}

fn make_parent(place: &Path) -> io::Result<()> {
    place.parent().map_or(Ok(()), fs::create_dir_all)
}

fn sync_parent(place: &Path) -> io::Result<()> {
    match place.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_keeps_mode_owner_and_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        fs::write(dir.path().join("real"), "old\n").unwrap();
        fs::set_permissions(dir.path().join("real"), Permissions::from_mode(0o640)).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path().join("real"), Some(7), Some(8)).unwrap();
        }
        symlink("/real", dir.path().join("inittab")).unwrap();
        let mut plan = Plan::default();
        plan.edit(
            "/inittab",
            Some(b"old\n".to_vec()),
            b"new\n".to_vec(),
            0o644,
        );
        plan.apply(&root).unwrap();
        let real = fs::metadata(dir.path().join("real")).unwrap();
        assert_eq!(real.mode() & 0o7777, 0o640);
        if nix::unistd::geteuid().is_root() {
            assert_eq!((real.uid(), real.gid()), (7, 8));
        }
        assert!(root.link("/inittab").is_some());
        assert_eq!(root.read("/inittab").unwrap().unwrap(), b"new\n");
        assert_eq!(root.names("/"), ["inittab", "real"]);
    }

    #[test]
    fn what_somebody_else_changed_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        fs::write(dir.path().join("file"), "theirs\n").unwrap();
        let mut plan = Plan::default();
        plan.edit("/file", Some(b"old\n".to_vec()), b"new\n".to_vec(), 0o644);
        let error = plan.apply(&root).unwrap_err();
        assert!(format!("{error:#}").contains("something else"), "{error:#}");
        assert_eq!(root.read("/file").unwrap().unwrap(), b"theirs\n");
        assert_eq!(root.names("/"), ["file"]);
    }

    #[test]
    fn a_file_or_link_of_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        fs::write(dir.path().join("unit"), "[Unit]\n").unwrap();
        symlink("elsewhere", dir.path().join("link")).unwrap();
        let mut plan = Plan::default();
        assert!(plan.write(&root, "/unit", "x", 0o644).is_err());
        assert!(plan.link(&root, "/link", "/unit").is_err());
        assert!(plan.link(&root, "/unit", "/link").is_err());
        assert!(!plan.remove(&root, "/unit").unwrap());
        plan.unlink(&root, "/link", "/unit");
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn done_twice_is_done_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        for expected in [2, 0] {
            let mut plan = Plan::default();
            let text = format!("# {}\n", header(Program::Agent));
            plan.write(&root, "/a/b/run", &text, 0o755).unwrap();
            plan.link(&root, "/s/b", "/a/b").unwrap();
            assert_eq!(plan.changes.len(), expected);
            plan.apply(&root).unwrap();
        }
        let mode = fs::metadata(dir.path().join("a/b/run")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
}

//! A folder that becomes a package: written file by file, then given the same modes and times wherever it
//! was made.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};

/// A folder with what is to be below `/`.
pub(super) struct Tree(PathBuf);

impl Tree {
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        super::empty(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.place(name)?;
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    /// Writes a program.
    pub(super) fn write_program(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.write(name, content)?;
        let executable = Permissions::from_mode(0o755);
        fs::set_permissions(self.at(name), executable).with_context(|| format!("chmod {name}"))
    }

    /// Copies a file, with its mode.
    pub(super) fn copy(&self, from: &Path, name: &str) -> Result<()> {
        fs::copy(from, self.place(name)?).with_context(|| format!("copy {}", from.display()))?;
        Ok(())
    }

    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.at(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// All files, by their names below the folder, in order.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        visit(&self.0, &mut |path, is_folder| {
            if !is_folder {
                let name = path.strip_prefix(&self.0)?;
                files.push(name.to_string_lossy().into_owned());
            }
            Ok(())
        })?;
        files.sort();
        Ok(files)
    }

    /// Gives everything the release's time, and the mode that it has whatever this user's umask is.
    pub(super) fn settle(&self, epoch: u64) -> Result<()> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
        visit(&self.0, &mut |path, is_folder| {
            let is_program = fs::metadata(path)?.permissions().mode() & 0o100 != 0;
            let mode = if is_folder || is_program {
                0o755
            } else {
                0o644
            };
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            File::open(path)?.set_modified(time)?;
            Ok(())
        })
        .with_context(|| format!("modes and times in {}", self.0.display()))
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let path = self.at(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(path)
    }
}

/// Calls `seen` for what is in a folder, then for the folder. There are no links in our trees.
fn visit(folder: &Path, seen: &mut impl FnMut(&Path, bool) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => visit(&path, seen)?,
            false => seen(&path, false)?,
        }
    }
    seen(folder, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_times_are_the_same_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path().join("tree")).unwrap();
        tree.write("usr/a", "x").unwrap();
        tree.write_program("usr/b", "x").unwrap();
        fs::set_permissions(tree.at("usr/a"), Permissions::from_mode(0o600)).unwrap();
        tree.settle(86_400).unwrap();
        let mode = |name| fs::metadata(tree.at(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            (mode("usr/a"), mode("usr/b"), mode("usr")),
            (0o644, 0o755, 0o755)
        );
        let time = fs::metadata(tree.at("usr")).unwrap().modified().unwrap();
        assert_eq!(time, SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
        assert_eq!(tree.files().unwrap(), ["usr/a", "usr/b"]);
    }
}

//! The file system that an entry is written to: this host's, or that of an image.
//!
//! Reads and resolves; what is written goes through `plan`.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

/// As many symbolic links as the kernel follows in one path (`MAXSYMLINKS`).
const MOST_LINKS: u32 = 40;

/// Where `/` is.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
}

impl Root {
    /// The host's own `/`.
    pub(crate) fn of_this_host() -> Self {
        Self::at(Path::new("/"))
    }

    /// The root below a directory.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Whether this is the running system's.
    pub(crate) fn is_live(&self) -> bool {
        self.path == Path::new("/")
    }

    /// The directory that is this root.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a path of this root is on the host, the links on the way to it resolved within the
    /// root, and with `follow` the last one too.
    ///
    /// # Errors
    /// A loop of links, or a directory that cannot be read.
    pub(crate) fn locate(&self, inside: &Path, follow: bool) -> io::Result<PathBuf> {
        let mut links = 0;
        let mut resolved = PathBuf::from("/");
        let mut rest: Vec<PathBuf> = parts(inside);
        while let Some(part) = rest.pop() {
            if part == Path::new("..") {
                resolved.pop();
                continue;
            }
            let next = resolved.join(&part);
            let is_last = rest.is_empty();
            match fs::read_link(self.on_host(&next)) {
                Ok(target) if follow || !is_last => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(io::Error::from_raw_os_error(libc::ELOOP));
                    }
                    if target.is_absolute() {
                        resolved = PathBuf::from("/");
                    }
                    rest.extend(parts(&target));
                }
                // No link, or nothing there: then it is to be made under this name.
                _ => resolved = next,
            }
        }
        Ok(self.on_host(&resolved))
    }

    fn on_host(&self, inside: &Path) -> PathBuf {
        self.path.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A file's content; `None` if there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(crate) fn read(&self, inside: &str) -> Result<Option<Vec<u8>>> {
        let path = self.locate(Path::new(inside), true);
        match path.and_then(fs::read) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.shown(inside))),
        }
    }

    /// Whether there is something, links followed.
    pub(crate) fn exists(&self, inside: &str) -> bool {
        self.locate(Path::new(inside), true)
            .is_ok_and(|path| path.exists())
    }

    /// Whether there is a directory.
    pub(crate) fn is_dir(&self, inside: &str) -> bool {
        self.locate(Path::new(inside), true)
            .is_ok_and(|path| path.is_dir())
    }

    /// Where a link points to; `None` if there is no link.
    pub(crate) fn link(&self, inside: &str) -> Option<PathBuf> {
        let path = self.locate(Path::new(inside), false).ok()?;
        fs::read_link(path).ok()
    }

    /// The names in a directory, sorted; none if it is not there.
    pub(crate) fn names(&self, inside: &str) -> Vec<String> {
        let Ok(path) = self.locate(Path::new(inside), true) else {
            return Vec::new();
        };
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The first of these directories that is there.
    ///
    /// # Errors
    /// None is; `what` says what they would be.
    pub(crate) fn first_dir<'a>(&self, candidates: &[&'a str], what: &str) -> Result<&'a str> {
        match candidates.iter().find(|path| self.is_dir(path)) {
            Some(path) => Ok(path),
            None => bail!(
                "no {what} is at {}: is this init installed there?",
                candidates
                    .iter()
                    .map(|path| self.shown(path))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }

    /// A path for people.
    pub(crate) fn shown(&self, inside: impl AsRef<Path>) -> String {
        self.on_host(inside.as_ref()).display().to_string()
    }
}

/// A path's names, the first one last.
fn parts(path: &Path) -> Vec<PathBuf> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(PathBuf::from(part.as_os_str())),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        fs::create_dir_all(dir.path().join("real/etc")).unwrap();
        fs::write(dir.path().join("real/etc/inittab"), "x").unwrap();
        symlink("/real/etc", dir.path().join("etc")).unwrap();
        symlink("../../../real/etc/inittab", dir.path().join("real/up")).unwrap();
        symlink("/loop", dir.path().join("loop")).unwrap();
        let at = |path: &str| root.locate(Path::new(path), true);
        let file = dir.path().join("real/etc/inittab");
        assert_eq!(at("/etc/inittab").unwrap(), file);
        assert_eq!(at("/real/up").unwrap(), file);
        assert_eq!(at("/etc/new").unwrap(), dir.path().join("real/etc/new"));
        assert!(at("/loop").is_err());
        assert_eq!(root.read("/etc/inittab").unwrap().unwrap(), b"x");
        assert_eq!(root.read("/etc/none").unwrap(), None);
        assert_eq!(root.link("/etc"), Some(PathBuf::from("/real/etc")));
        assert_eq!(root.names("/etc"), ["inittab"]);
    }
}

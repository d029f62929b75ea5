//! Where a directory really is: on which file system, and where on that. Two paths of two mount
//! namespaces may be one word for word and lead to two directories, and a directory that was removed
//! and made again is in the same place. Changes nothing.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::mounts::{self, Mount};

/// A directory's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file system's number: "0:25".
    device: String,
    /// From the file system's own root.
    path: PathBuf,
}

impl Place {
    /// Of a directory that is there. Where the kernel does not say how it is mounted, its path in this
    /// mount namespace counts.
    ///
    /// # Errors
    /// It is not there, or cannot be looked at.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let path = directory.canonicalize()?;
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(&path)?;
        if let Some(place) = mounted(&opened, &path) {
            return Ok(place);
        }
        let device = opened.metadata()?.dev();
        Ok(Self {
            device: format!("{}:{}", libc::major(device), libc::minor(device)),
            path,
        })
    }

    /// As one word, another one for each place.
    pub(crate) fn word(&self) -> String {
        // Each byte a character, so that a path that is not UTF-8 loses nothing.
        let path = self.path.as_os_str().as_bytes();
        let path: String = path.iter().copied().map(char::from).collect();
        format!("{}@{}", path.trim_matches('/'), self.device)
    }
}

/// By the mount that the kernel names.
fn mounted(directory: &File, path: &Path) -> Option<Place> {
    let of_file =
        fs::read_to_string(format!("/proc/self/fdinfo/{}", directory.as_raw_fd())).ok()?;
    let mount = of_file
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?
        .trim();
    place_of(path, mount.parse().ok()?, &mounts::mounts().ok()?)
}

fn place_of(path: &Path, mount: u64, mounts: &[Mount]) -> Option<Place> {
    let Mount {
        device,
        root,
        point,
        ..
    } = mounts.iter().find(|it| it.id == mount)?;
    // Of a mount namespace's own directory in the kernel, "net:[…]", nothing follows.
    let inside = path
        .strip_prefix(point)
        .ok()
        .filter(|_| root.is_absolute())?;
    Some(Place {
        device: device.clone(),
        path: root.join(inside),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_a_word_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            Place::of(&path).unwrap().word()
        };
        let names = ["x.y", "x-y", "x/y", "x_y", "x@y", "x\u{f6}", "x\\x2fy"];
        let mut words: Vec<String> = names.iter().map(|name| made(name)).collect();
        // Removed and made again it is in the same place.
        fs::remove_dir(dir.path().join("x.y")).unwrap();
        assert_eq!(made("x.y"), words[0]);
        // By another name too.
        std::os::unix::fs::symlink(dir.path().join("x-y"), dir.path().join("link")).unwrap();
        assert_eq!(
            Place::of(&dir.path().join("link")).unwrap().word(),
            words[1]
        );
        words.sort();
        words.dedup();
        assert_eq!(words.len(), names.len(), "{words:?}");
    }

    #[test]
    fn one_path_in_two_mount_namespaces_is_two_places() {
        let mounts = mounts::parse(
            b"25 1 0:23 / /run rw - tmpfs tmpfs rw\n\
                       26 1 0:24 / /run rw - tmpfs tmpfs rw\n\
                       27 1 0:23 /x\\040y /run rw - tmpfs tmpfs rw\n\
                       28 1 0:4 net:[4026531840] /run rw - nsfs nsfs rw\n",
        );
        let word = |mount| Some(place_of(Path::new("/run/respawn"), mount, &mounts)?.word());
        assert_eq!(word(25).unwrap(), "respawn@0:23");
        assert_eq!(word(26).unwrap(), "respawn@0:24");
        assert_eq!(word(27).unwrap(), "x y/respawn@0:23");
        assert_eq!(word(28), None);
        assert_eq!(word(29), None);
    }
}

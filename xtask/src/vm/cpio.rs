//! Writes the "newc" archives that the kernel unpacks as its first root.
//!
//! Everything in it belongs to root, whoever builds it; no program and no rights are needed.

use std::{
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result};

/// An archive that is being written. [`Archive::finish`] makes it whole.
pub(super) struct Archive<W> {
    to: W,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, entries: 0 }
    }

    /// A directory; its parents must have been written before.
    pub(super) fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | mode, (0, 0), &[])
    }

    /// A directory and all that lead to it. The kernel takes a directory that is there already.
    pub(super) fn directories(&mut self, path: &str) -> io::Result<()> {
        for (end, _) in path.match_indices('/').skip(1) {
            self.directory(&path[..end], 0o755)?;
        }
        self.directory(path, 0o755)
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | mode, (0, 0), content)
    }

    pub(super) fn link(&mut self, path: &str, target: &[u8]) -> io::Result<()> {
        self.entry(path, LINK | 0o777, (0, 0), target)
    }

    pub(super) fn character_device(&mut self, path: &str, number: (u32, u32)) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | 0o600, number, &[])
    }

    /// A file of this machine with its mode, and the directories that lead to it.
    ///
    /// # Errors
    /// When it cannot be read, or the archive cannot be written.
    pub(super) fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o7777;
        if let Some((parent, _)) = to.rsplit_once('/')
            && !parent.is_empty()
        {
            self.directories(parent)?;
        }
        self.file(to, mode, &content)?;
        Ok(())
    }

    /// All below a directory of this machine, below `to`, which `""` makes the root. `wanted` is
    /// asked with the path in the archive; what is below a directory that is not wanted is left
    /// out too.
    ///
    /// # Errors
    /// As [`Archive::copy`].
    pub(super) fn tree(
        &mut self,
        root: &Path,
        to: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let mut folders = vec![to.to_owned()];
        while let Some(folder) = folders.pop() {
            let path = root.join(folder[to.len()..].trim_start_matches('/'));
            let mut entries: Vec<_> = fs::read_dir(&path)
                .and_then(Iterator::collect)
                .with_context(|| format!("read {}", path.display()))?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let name = entry.file_name();
                let name = name.to_str().context("a file name is not UTF-8")?;
                let path = format!("{folder}/{name}");
                if !wanted(&path) {
                    continue;
                }
                let metadata = entry.metadata()?;
                let mode = metadata.permissions().mode() & 0o7777;
                if metadata.is_symlink() {
                    let target = fs::read_link(entry.path())?;
                    self.link(&path, target.as_os_str().as_bytes())?;
                } else if metadata.is_dir() {
                    self.directory(&path, mode)?;
                    folders.push(path);
                } else if metadata.is_file() {
                    self.file(&path, mode, &fs::read(entry.path())?)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("/TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::other(format!("{path} is too large for an initramfs")))?;
        self.entries += 1;
        let name_size = path.len() + 1;
        write!(
            self.to,
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}\
             {name_size:08x}{:08x}{path}\0",
            self.entries, 0, 0, 1, 0, 0, 0, device.0, device.1, 0,
        )?;
        self.pad(110 + name_size)?;
        self.to.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..length.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_format_asks_for() {
        let mut archive = Archive::new(Vec::new());
        archive.directories("/a/b").unwrap();
        archive.file("/a/b/c", 0o755, b"12345").unwrap();
        archive.link("/l", b"a").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let entries: Vec<&str> = text.split("070701").skip(1).collect();
        assert_eq!(entries.len(), 5);
        assert!(entries[0].contains("000041ed") && entries[0].contains("a\0"));
        assert!(entries[2].contains("000081ed") && entries[2].contains("00000005"));
        assert!(entries[2].ends_with("12345\0\0\0"));
        assert!(entries[3].contains("0000a1ff"));
        assert!(entries[4].contains("TRAILER!!!"));
    }
}

//! Directories below `/run` that systemd-tmpfiles makes at each boot for a package, from the files of the
//! unit's name in `tmpfiles.d`. Without systemd nobody makes them, so the service does, before its start.
//!
//! What is on a disk is there already: the package's own scripts have made it. Other lines than those that
//! make a directory have no counterpart. See tmpfiles.d(5).

use std::path::{Path, PathBuf};

use super::words;

/// One directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) path: String,
    mode: String,
    user: String,
    group: String,
    /// For the comment beside what came of it.
    pub(super) origin: String,
}

impl Directory {
    /// The command that makes it, and leaves what is in it alone.
    pub(super) fn command(&self) -> Vec<String> {
        let (mode, user, group) = (&*self.mode, &*self.user, &*self.group);
        let words = [
            "/usr/bin/install",
            "-d",
            "-m",
            mode,
            "-o",
            user,
            "-g",
            group,
            &self.path,
        ];
        words.map(str::to_owned).into()
    }
}

/// The directories of these files.
pub(super) fn directories(files: &[(PathBuf, String)]) -> Vec<Directory> {
    let lines = files.iter().flat_map(|(file, text)| {
        let lines = text.lines().enumerate();
        lines.map(move |(index, line)| (file.as_path(), index + 1, line.trim()))
    });
    let found = lines.filter_map(|(file, number, line)| directory(file, number, line));
    found.collect()
}

fn directory(file: &Path, number: usize, line: &str) -> Option<Directory> {
    let fields = words::split(line).ok()?;
    let mut fields = fields.iter().map(String::as_str);
    let kind = fields.next()?.trim_end_matches(['!', '-', '=']);
    let path = fields.next()?.trim_end_matches('/');
    // Older names of the same place.
    let path = path
        .strip_prefix("/var")
        .filter(is_volatile)
        .unwrap_or(path);
    if !["d", "D"].contains(&kind) || !is_volatile(&path) || path.contains('%') {
        return None;
    }
    let mut field = |default: &str| match fields.next() {
        None | Some("-") => default.to_owned(),
        // `:` and `~` say when it counts.
        Some(given) => given.trim_start_matches([':', '~']).to_owned(),
    };
    Some(Directory {
        path: path.to_owned(),
        mode: field("0755"),
        user: field("root"),
        group: field("root"),
        origin: format!(
            "{}:{number}: {line}",
            file.file_name().unwrap_or_default().to_string_lossy()
        ),
    })
}

/// Whether it is gone after a boot.
fn is_volatile(path: &&str) -> bool {
    path.starts_with("/run/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_a_boot_are_found() {
        let text = "#Type Path Mode\n d /run/php 0755 www-data www-data - -\n\
                    D! /var/run/a/ - - - -\nd /run/b :2775 b\nd /var/log/c 1775 root c - -\n\
                    f /run/d 0644 - - -\nL /run/e - - - - /x\nd /run/%u\nd\n";
        let found = directories(&[(PathBuf::from("/x/php.conf"), text.to_owned())]);
        let commands: Vec<_> = found.iter().map(|it| it.command().join(" ")).collect();
        assert_eq!(
            commands,
            [
                "/usr/bin/install -d -m 0755 -o www-data -g www-data /run/php",
                "/usr/bin/install -d -m 0755 -o root -g root /run/a",
                "/usr/bin/install -d -m 2775 -o b -g root /run/b",
            ]
        );
        assert_eq!(
            found[0].origin,
            "php.conf:2: d /run/php 0755 www-data www-data - -"
        );
    }
}

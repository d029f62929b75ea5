//! Users and groups of the host: its files first, then whatever else its name service knows.
//!
//! Never by libc's functions for it (`getpwnam_r`, `getgrouplist` and their like): those load
//! modules that the host names in `/etc/nsswitch.conf` into this process. In a static binary they
//! crash it, as they are made for another copy of libc; in a dynamic one a module that hangs would
//! hang the agent. So this reads `/etc/passwd` and `/etc/group` itself, and where the host has
//! further sources, it asks by `getent`, the host's own program, and only for so long.
//!
//! What an item of a config means is not known here: that is `config::accounts`.

mod files;
mod getent;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use getent::Getent;

/// A line of the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    /// Of the primary group.
    pub(crate) gid: u32,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// A line of the group database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
}

/// Why a question could not be answered. That is no "no": what was asked for may exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LookupError(String);

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kernel takes it for "leave it as it is", so it is nobody's.
pub(crate) const NO_ID: u32 = u32::MAX;

/// The accounts of this host, for the time of one task: an answer of `getent` is remembered.
#[derive(Debug)]
pub(crate) struct Accounts {
    etc: PathBuf,
    getent: Getent,
}

impl Accounts {
    /// Those of this host.
    pub(crate) fn of_this_host() -> Self {
        Self {
            etc: "/etc".into(),
            getent: Getent::of_this_host(),
        }
    }

    /// The user of this name; `None` if there is none.
    ///
    /// # Errors
    /// When neither "yes" nor "no" is certain.
    pub(crate) fn user_named(&self, name: &str) -> Result<Option<User>, LookupError> {
        let found = self.in_file("passwd", |line| {
            User::from_line(line).filter(|user| user.name == name)
        })?;
        if found.is_some() || !self.has_further_sources(&["passwd"]) {
            return Ok(found);
        }
        self.getent.entry("passwd", name, User::from_line)
    }

    /// The user of this number; `None` if there is none.
    ///
    /// # Errors
    /// When neither "yes" nor "no" is certain.
    pub(crate) fn user_of(&self, uid: u32) -> Result<Option<User>, LookupError> {
        let is_it = |line: &[u8]| User::from_line(line).filter(|user| user.uid == uid);
        let found = self.in_file("passwd", is_it)?;
        if found.is_some() || !self.has_further_sources(&["passwd"]) {
            return Ok(found);
        }
        self.getent.entry("passwd", &uid.to_string(), is_it)
    }

    /// The name of the user of this number, by the host's file alone: for who must not wait for others.
    pub(crate) fn name_in_file(&self, uid: u32) -> Option<String> {
        let is_it = |line: &[u8]| User::from_line(line).filter(|user| user.uid == uid);
        Some(self.in_file("passwd", is_it).ok()??.name)
    }

    /// The group of this name; `None` if there is none.
    ///
    /// # Errors
    /// When neither "yes" nor "no" is certain.
    pub(crate) fn group_named(&self, name: &str) -> Result<Option<Group>, LookupError> {
        let found = self.in_file("group", |line| {
            Group::from_line(line).filter(|group| group.name == name)
        })?;
        if found.is_some() || !self.has_further_sources(&["group"]) {
            return Ok(found);
        }
        self.getent.entry("group", name, Group::from_line)
    }

    /// The group of this number; `None` if there is none.
    ///
    /// # Errors
    /// When neither "yes" nor "no" is certain.
    pub(crate) fn group_of(&self, gid: u32) -> Result<Option<Group>, LookupError> {
        let is_it = |line: &[u8]| Group::from_line(line).filter(|group| group.gid == gid);
        let found = self.in_file("group", is_it)?;
        if found.is_some() || !self.has_further_sources(&["group"]) {
            return Ok(found);
        }
        self.getent.entry("group", &gid.to_string(), is_it)
    }

    /// The groups that a login of this user has: `gid`, and those that name the user. Sorted, so
    /// that two answers are equal where they mean the same.
    ///
    /// # Errors
    /// When it is not certain that these are all.
    pub(crate) fn groups_of(&self, name: &str, gid: u32) -> Result<Vec<u32>, LookupError> {
        let mut groups = vec![gid];
        self.in_file("group", |line| {
            groups.extend(files::gid_if_member(line, name));
            None::<Group>
        })?;
        if self.has_further_sources(&["initgroups", "group"]) {
            groups.extend(self.getent.groups_of(name)?);
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }

    /// The first line of a file of which `pick` makes something. No file is an empty one.
    fn in_file<T>(
        &self,
        name: &str,
        pick: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, LookupError> {
        let path = self.etc.join(name);
        let found = match File::open(&path) {
            Ok(file) => files::pick(BufReader::new(file), pick),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        found.map_err(|error| unreadable(&path, &error))
    }

    /// Whether the host's name service has more than the file for the first of these databases
    /// that it has anything for. Without a word about it, it has the file alone.
    fn has_further_sources(&self, databases: &[&str]) -> bool {
        match std::fs::read(self.etc.join("nsswitch.conf")) {
            Ok(text) => files::has_further_sources(&String::from_utf8_lossy(&text), databases),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> LookupError {
    LookupError(format!("cannot read {}: {error}", path.display()))
}

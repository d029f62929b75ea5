//! The lines of `/etc/passwd` and `/etc/group`, as passwd(5) and group(5) have them, and of
//! `/etc/nsswitch.conf`. A line that makes no sense is skipped, as libc does.

use std::io::{self, BufRead};
use std::str;

use super::{Group, NO_ID, User};

/// The first line of which `pick` makes something; of the file, only one line is held at a time.
pub(super) fn pick<T>(
    mut file: impl BufRead,
    mut pick: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if let Some(found) = pick(line.strip_suffix(b"\n").unwrap_or(&line)) {
            return Ok(Some(found));
        }
    }
}

impl User {
    /// `name:password:uid:gid:comment:home:shell`; what is missing after the gid is empty.
    pub(super) fn from_line(line: &[u8]) -> Option<Self> {
        let mut fields = fields(line)?;
        let name = fields.next()?;
        let _password = fields.next()?;
        let uid = number(fields.next()?)?;
        let gid = number(fields.next()?)?;
        let _comment = fields.next();
        let home = fields.next().unwrap_or_default();
        let shell = fields.next().unwrap_or_default();
        Some(Self {
            name: text(name),
            uid,
            gid,
            home: text(home),
            shell: text(shell),
        })
    }
}

impl Group {
    /// `name:password:gid:member,member`
    pub(super) fn from_line(line: &[u8]) -> Option<Self> {
        let (name, gid, _) = group(line)?;
        Some(Self {
            name: text(name),
            gid,
        })
    }
}

/// The number of this line's group, if the user is a member by this line.
pub(super) fn gid_if_member(line: &[u8], user: &str) -> Option<u32> {
    let (_, gid, members) = group(line)?;
    let is_member = members
        .split(|byte| *byte == b',')
        .any(|member| member.trim_ascii() == user.as_bytes());
    (is_member && !user.is_empty()).then_some(gid)
}

fn group(line: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let mut fields = fields(line)?;
    let name = fields.next()?;
    let _password = fields.next()?;
    let gid = number(fields.next()?)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

/// The fields of a line that is an entry: no comment, and none of the lines with + and - by which
/// NIS entries were once taken in and left out.
fn fields(line: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let line = line.trim_ascii_start();
    match line.first() {
        None | Some(b'#' | b'+' | b'-' | b':') => None,
        Some(_) => Some(line.split(|byte| *byte == b':')),
    }
}

fn number(field: &[u8]) -> Option<u32> {
    // `parse` would take a sign, too.
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = str::from_utf8(field).ok()?.parse().ok()?;
    (number != NO_ID).then_some(number)
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Whether nsswitch.conf(5) has more than the file for the first of these databases that it has a
/// line for.
pub(super) fn has_further_sources(text: &str, databases: &[&str]) -> bool {
    let lines_of = |database: &str| -> Vec<&str> {
        text.lines()
            .filter_map(|line| line.split('#').next()?.split_once(':'))
            .filter(|(name, _)| name.trim() == database)
            .map(|(_, sources)| sources)
            .collect()
    };
    databases
        .iter()
        .map(|database| lines_of(database))
        .find(|lines| !lines.is_empty())
        .is_some_and(|lines| {
            lines
                .into_iter()
                .flat_map(sources)
                .any(|name| name != "files")
        })
}

/// The names of sources, without the actions in brackets between them.
fn sources(line: &str) -> Vec<&str> {
    line.split('[')
        .enumerate()
        .flat_map(|(number, part)| {
            let names = match (number, part.split_once(']')) {
                (0, _) => part,
                (_, Some((_action, rest))) => rest,
                (_, None) => "",
            };
            names.split_whitespace()
        })
        .collect()
}

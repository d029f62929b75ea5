//! Edits an inittab between two marked lines, and leaves every other byte as it is.
//!
//! A file that an init would not read as it is meant (a malformed line, an id used twice) is
//! refused: no line of ours could be trusted in it.
//!
//! Facts about sysvinit are from its `src/init.c` (`read_inittab`, `spawn`) and inittab(5), those
//! about busybox from its `init/init.c` (`parse_inittab`, `new_init_action`, `init_exec`).

use std::collections::HashMap;

use anyhow::{Result, bail};

use super::Program;

/// The two lines between which ours are: each program has a block of its own.
struct Marks {
    begin: &'static str,
    end: &'static str,
}

impl Program {
    fn marks(self) -> Marks {
        match self {
            Self::Agent => Marks {
                begin: "# respawn: begin (written by respawn install)",
                end: "# respawn: end (written by respawn install)",
            },
            Self::Recorder => Marks {
                begin: "# respawn recorder: begin (written by respawn install)",
                end: "# respawn recorder: end (written by respawn install)",
            },
        }
    }
}

/// Whose inittab it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `id:runlevels:action:process`
    Sysvinit,
    /// `tty:ignored:action:process`
    Busybox,
}

/// Where our lines are in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    before: &'a [u8],
    /// With the marks.
    block: Option<&'a [u8]>,
    after: &'a [u8],
}

/// A file that its init takes as it is meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inittab<'a> {
    place: Block<'a>,
    program: Program,
    entries: Vec<ForeignEntry<'a>>,
    dialect: Dialect,
}

/// A line that is not ours.
#[derive(Debug, PartialEq, Eq)]
struct ForeignEntry<'a> {
    line: usize,
    id: &'a [u8],
}

const SYSVINIT_ACTIONS: [&str; 15] = [
    "respawn",
    "wait",
    "once",
    "boot",
    "bootwait",
    "off",
    "ondemand",
    "initdefault",
    "sysinit",
    "powerwait",
    "powerfail",
    "powerokwait",
    "powerfailnow",
    "ctrlaltdel",
    "kbrequest",
];
const BUSYBOX_ACTIONS: [&str; 8] = [
    "sysinit",
    "wait",
    "once",
    "respawn",
    "askfirst",
    "ctrlaltdel",
    "shutdown",
    "restart",
];

/// sysvinit reads lines into a buffer of 256 bytes, newline and end included.
const SYSVINIT_LINE: usize = 254;
/// "The length of this field is limited to 127 characters", inittab(5).
pub(crate) const SYSVINIT_PROCESS: usize = 127;
/// Older releases copy commands into a buffer of 256 bytes (`COMMAND_SIZE`).
pub(crate) const BUSYBOX_PROCESS: usize = 255;
/// That of `ut_id` in utmp(5).
const LONGEST_ID: usize = 4;

impl<'a> Inittab<'a> {
    /// Reads it, to change the lines of a program in it. Those of another one of ours are lines as any.
    ///
    /// # Errors
    /// The first line, by number, that its init would not take, and what was expected.
    pub(crate) fn parse(text: &'a [u8], dialect: Dialect, program: Program) -> Result<Self> {
        let place = Block::find(text, program)?;
        let mut entries = Vec::new();
        let after = 1 + count_lines(place.before) + place.block.map_or(0, count_lines);
        for (first, part) in [(1, place.before), (after, place.after)] {
            for (index, line) in lines(part).enumerate() {
                let number = first + index;
                if let Some(id) = check(line, dialect, number)? {
                    entries.push(ForeignEntry { line: number, id });
                }
            }
        }
        if dialect == Dialect::Sysvinit {
            refuse_twins(&entries)?;
        }
        Ok(Self {
            place,
            program,
            entries,
            dialect,
        })
    }

    /// Whether our block is in it.
    pub(crate) fn is_installed(&self) -> bool {
        self.place.block.is_some()
    }

    /// `count` ids: those that our block has, where nobody else has them, or else free ones.
    /// `taken` are those of other files. An id that stays keeps its process.
    pub(crate) fn ids(&self, count: usize, taken: &[String]) -> Vec<String> {
        let is_free = |id: &String| {
            !taken.contains(id) && !self.entries.iter().any(|entry| entry.id == id.as_bytes())
        };
        let ours = lines(self.place.block.unwrap_or_default())
            .filter_map(|line| check(line, self.dialect, 0).ok().flatten())
            .filter_map(|id| String::from_utf8(id.to_vec()).ok());
        let digits = ('1'..='9').chain('a'..='z');
        let new = ["rs", "rsp", "re"]
            .iter()
            .flat_map(|prefix| digits.clone().map(move |digit| format!("{prefix}{digit}")));
        let mut ids = Vec::new();
        for id in ours.chain(new).filter(is_free) {
            if ids.len() < count && !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// The file with these lines as our block: in its old place, or at the end.
    pub(crate) fn with_block(&self, lines: &[String]) -> Vec<u8> {
        let Block {
            before,
            block,
            after,
        } = self.place;
        let mut out = before.to_vec();
        let was_open = match block {
            Some(block) => !block.ends_with(b"\n"),
            None => !before.is_empty() && !before.ends_with(b"\n"),
        };
        if was_open && block.is_none() {
            out.push(b'\n');
        }
        let lines = lines.iter().map(String::as_str);
        let marks = self.program.marks();
        for line in [marks.begin].into_iter().chain(lines).chain([marks.end]) {
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
        }
        // A file whose last line was open stays one, so that it can be given back as it was.
        if was_open {
            out.pop();
        }
        out.extend_from_slice(after);
        out
    }
}

impl<'a> Block<'a> {
    /// Finds it by its marks, whatever else is in the file.
    ///
    /// # Errors
    /// One mark without the other, or two blocks.
    pub(crate) fn find(text: &'a [u8], program: Program) -> Result<Self> {
        let marks = program.marks();
        let (mut begin, mut end) = (None, None);
        let mut offset = 0;
        for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let (content, number) = (line.trim_ascii(), index + 1);
            if content == marks.begin.as_bytes() {
                if begin.is_some() {
                    bail!(
                        "line {number}: a second {:?}; remove one of the two blocks",
                        marks.begin
                    );
                }
                begin = Some(offset);
            }
            offset += line.len();
            if content == marks.end.as_bytes() {
                if begin.is_none() || end.is_some() {
                    bail!(
                        "line {number}: {:?} ends nothing; remove what is left of the block",
                        marks.end
                    );
                }
                end = Some(offset);
            }
        }
        let (before, block, after) = match (begin, end) {
            (None, _) => (text, None, b"".as_slice()),
            (Some(begin), Some(end)) => (&text[..begin], Some(&text[begin..end]), &text[end..]),
            (Some(_), None) => {
                bail!(
                    "{:?} without {:?}; remove what is left of the block",
                    marks.begin,
                    marks.end
                )
            }
        };
        Ok(Self {
            before,
            block,
            after,
        })
    }

    /// The file without it.
    pub(crate) fn taken_out(&self) -> Vec<u8> {
        let mut out = self.before.to_vec();
        if self.block.is_some_and(|block| !block.ends_with(b"\n")) && out.ends_with(b"\n") {
            out.pop();
        }
        out.extend_from_slice(self.after);
        out
    }

    fn lines(&self) -> impl Iterator<Item = &'a [u8]> {
        lines(self.block.unwrap_or_default()).filter(|line| !line.starts_with(b"#"))
    }

    /// Whose lines it holds; `None` without a block.
    pub(crate) fn dialect(&self) -> Option<Dialect> {
        self.block?;
        Some(match self.lines().next() {
            Some(line) if line.starts_with(b":") => Dialect::Busybox,
            _ => Dialect::Sysvinit,
        })
    }

    /// What its lines run.
    pub(crate) fn commands(&self) -> Vec<String> {
        let process = |line: &[u8]| {
            let process = line.splitn(4, |byte| *byte == b':').nth(3)?;
            Some(String::from_utf8_lossy(process).into_owned())
        };
        self.lines().filter_map(process).collect()
    }
}

/// The ids in another file that sysvinit reads, malformed lines left out as it does.
pub(crate) fn ids_in(text: &[u8]) -> Vec<String> {
    lines(text)
        .filter_map(|line| check(line, Dialect::Sysvinit, 0).ok().flatten())
        .map(|id| String::from_utf8_lossy(id).into_owned())
        .collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn count_lines(text: &[u8]) -> usize {
    text.split_inclusive(|byte| *byte == b'\n').count()
}

/// The id of a line, or the tty; `None` if the line says nothing.
fn check(line: &[u8], dialect: Dialect, number: usize) -> Result<Option<&[u8]>> {
    match dialect {
        Dialect::Sysvinit => check_sysvinit(line, number),
        Dialect::Busybox => check_busybox(line, number),
    }
}

fn check_sysvinit(line: &[u8], number: usize) -> Result<Option<&[u8]>> {
    let content = line.trim_ascii_start();
    if content.is_empty() || content.starts_with(b"#") {
        return Ok(None);
    }
    let fields: Vec<&[u8]> = content.splitn(4, |byte| *byte == b':').collect();
    let [id, runlevels, action, process] = fields[..] else {
        bail!(malformed(
            line,
            number,
            "expected id:runlevels:action:process"
        ));
    };
    let problem = if id.is_empty() {
        "it has no id, as busybox's lines have none; is this --init busybox?"
    } else if id.len() > LONGEST_ID {
        "an id has at most 4 characters"
    } else if runlevels.len() > 11 {
        "there are at most 11 runlevels in a line"
    } else if process.len() > SYSVINIT_PROCESS {
        "a command has at most 127 characters"
    } else if line.len() > SYSVINIT_LINE {
        "a line has at most 254 characters"
    } else if !is_one_of(action, &SYSVINIT_ACTIONS) {
        "sysvinit has no such action"
    } else {
        return Ok(Some(id));
    };
    bail!(malformed(line, number, problem))
}

fn check_busybox(line: &[u8], number: usize) -> Result<Option<&[u8]>> {
    // A comment begins anywhere: measured with 1.35.
    let end = line.iter().position(|byte| *byte == b'#');
    let content = &line[..end.unwrap_or(line.len())];
    if content.trim_ascii().is_empty() {
        return Ok(None);
    }
    let fields: Vec<&[u8]> = content.splitn(4, |byte| *byte == b':').collect();
    let [tty, _, action, process] = fields[..] else {
        bail!(malformed(line, number, "expected tty::action:command"));
    };
    let problem = if process.is_empty() {
        "it has no command; is this --init sysvinit?"
    } else if !is_one_of(action, &BUSYBOX_ACTIONS) {
        "busybox has no such action"
    } else {
        return Ok(Some(tty));
    };
    bail!(malformed(line, number, problem))
}

fn malformed(line: &[u8], number: usize, problem: &str) -> String {
    let line = String::from_utf8_lossy(line);
    format!("line {number}: {problem}: {line:?}; correct it first, nothing was changed")
}

fn is_one_of(action: &[u8], actions: &[&str]) -> bool {
    actions.iter().any(|known| action == known.as_bytes())
}

/// sysvinit ignores the second of two lines with the same id.
fn refuse_twins(entries: &[ForeignEntry<'_>]) -> Result<()> {
    let mut seen = HashMap::new();
    for entry in entries {
        if let Some(first) = seen.insert(entry.id, entry.line) {
            bail!(
                "lines {first} and {} have the same id {:?}, and sysvinit ignores the second; correct it first, nothing was changed",
                entry.line,
                String::from_utf8_lossy(entry.id)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "inittab_tests.rs"]
mod tests;

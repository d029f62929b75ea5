//! The complete environment of a service, and the files that parts of it are kept in.
//!
//! A service gets, each overriding the ones before: `PATH` and `LANG` of the agent (a default
//! `PATH` if it has none); what of the agent's environment `pass_environment` names; `HOME`, `USER`,
//! `LOGNAME` and `SHELL` where `user` is set; its `environment_file`s in their order, which are read at each
//! start; its `environment`. Nothing else of the agent's environment is inherited: a service runs
//! the same whether init or a person's shell started the agent.
//!
//! Values may be secrets and never appear in a message.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::model::{EnvironmentFile, Identity};
use crate::os::open;

use super::Surroundings;
use super::cursor::{Item, quoted};
use super::problem::{Diagnostics, Ends};
use super::source::Source;

/// What a file says, in its order.
pub(crate) type Variables = Vec<(String, String)>;

/// What the agent's own environment gives to services.
const INHERITED: [&str; 2] = ["PATH", "LANG"];

/// Where programs are looked up when nobody says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every service begins with.
pub(super) fn base(surroundings: &Surroundings) -> BTreeMap<String, String> {
    let mut base = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
    for key in INHERITED {
        let value = surroundings.environment.get(key);
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            base.insert(key.to_owned(), value.clone());
        }
    }
    base
}

/// The `environment` table.
pub(super) fn table(item: &Item<'_>) -> Option<BTreeMap<String, String>> {
    const TABLE: &str = "a table such as { KEY = \"value\" }";
    if item.as_str().is_some() {
        item.problem(format!("expected {TABLE}, found a string"));
        return None;
    }
    let table = item.table(TABLE)?;
    let mut environment = BTreeMap::new();
    for (key, item) in table.items() {
        if key.is_empty() || key.contains(['=', '\0']) {
            item.problem_at_key("expected a name that is not empty and has no '=' and no NUL byte");
            continue;
        }
        // Not by `Item::string`, whose message tells what was found.
        match item.as_str() {
            Some(value) if !value.contains('\0') => {
                environment.insert(key.to_owned(), value.to_owned());
            }
            Some(_) => item.problem("expected a string without NUL bytes"),
            None => item.problem("expected a string: put the value in quotes"),
        }
    }
    Some(environment)
}

/// `environment_file`: a path or several, each with whether the file may be missing.
pub(super) fn files(item: &Item<'_>) -> Option<Vec<(PathBuf, bool)>> {
    let items = item.as_array().unwrap_or_else(|| vec![item.clone()]);
    let files = items.iter().map(file_path).collect::<Vec<_>>();
    files.into_iter().collect()
}

fn file_path(item: &Item<'_>) -> Option<(PathBuf, bool)> {
    const WHAT: &str = "an absolute path, with \"-\" before it if the file may be missing";
    let text = item.string(WHAT)?;
    let (path, optional) = match text.strip_prefix('-') {
        Some(path) => (Path::new(path), true),
        None => (Path::new(text), false),
    };
    if !path.is_absolute() {
        item.expected(WHAT, None);
        return None;
    }
    Some((path.to_owned(), optional))
}

/// The files as the service has them, beneath the variables of its own table.
pub(super) fn lay_out(files: Vec<(PathBuf, bool)>, own: &BTreeSet<String>) -> Vec<EnvironmentFile> {
    let file = |(path, optional)| EnvironmentFile {
        path,
        optional,
        beneath: own.clone(),
    };
    files.into_iter().map(file).collect()
}

/// The value of `environment_file` that comes to these.
pub(super) fn describe_files(files: &[EnvironmentFile]) -> Value {
    let text = |file: &EnvironmentFile| {
        let dash = if file.optional { "-" } else { "" };
        format!("{dash}{}", file.path.to_string_lossy())
    };
    match files {
        [] => Value::Null,
        [file] => json!(text(file)),
        files => json!(files.iter().map(text).collect::<Vec<_>>()),
    }
}

/// `pass_environment`: names, in which `*` stands for any text.
pub(super) fn patterns(item: &Item<'_>) -> Option<Vec<String>> {
    const WHAT: &str = "a name of letters, digits, '_' and '*'";
    let items = item.array("an array of names such as [\"TZ\", \"APP_*\"]")?;
    let pattern = |item: &Item<'_>| {
        let text = item.string(WHAT)?;
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '*';
        if text.is_empty() || !text.chars().all(valid) {
            item.expected(WHAT, None);
            return None;
        }
        Some(text.to_owned())
    };
    items
        .iter()
        .map(pattern)
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

/// What was meant for the agent alone, by whoever has started it. A `*` does not pass it on.
pub(crate) const OF_THE_AGENT: &[&str] = &[
    "FDSTORE",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAINPID",
    "MANAGERPID",
    "NOTIFY_SOCKET",
    "RESPAWN_FD_STORE",
    "RESPAWN_SOCKETS",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
/// It marks a process as an instance, so it is never anybody else's.
const MARKER: &str = "RESPAWN_INSTANCE";

/// The variables of the agent that these name.
pub(super) fn passed(patterns: &[String], surroundings: &Surroundings) -> BTreeMap<String, String> {
    let is_meant = |key: &str| {
        let by = |pattern: &String| {
            key == pattern || (!OF_THE_AGENT.contains(&key) && is_like(key, pattern))
        };
        key != MARKER && patterns.iter().any(by)
    };
    let variables = surroundings.environment.iter();
    let passed = variables.filter(|(key, _)| is_meant(key));
    passed
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Whether a name matches a pattern in which `*` stands for any text.
fn is_like(name: &str, pattern: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else {
        return name == pattern;
    };
    let Some(name) = name.strip_prefix(begin) else {
        return false;
    };
    let ends = (0..=name.len()).filter_map(|at| name.get(at..));
    ends.into_iter().any(|end| is_like(end, rest))
}

/// What each of these files says now: those of a service of this user, read with the agent's rights.
///
/// # Errors
/// What is wrong with the first that cannot be used, in one line.
pub(crate) fn read_files(
    files: &[EnvironmentFile],
    identity: Option<&Identity>,
) -> Result<Vec<Variables>, String> {
    let read = |file| variables_of(file, identity);
    files.iter().map(read).collect()
}

fn variables_of(file: &EnvironmentFile, identity: Option<&Identity>) -> Result<Variables, String> {
    let failure = |why: &dyn std::fmt::Display| format!("cannot read its environment_file: {why}");
    let shown = file.path.display().to_string();
    // Anything else that is wrong with it is told with its place.
    let opened = match open::to_read(&file.path, identity) {
        Err(error) if file.optional && error.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(error) if error.raw_os_error().is_none() => {
            return Err(failure(&format_args!("{shown}: {error}")));
        }
        opened => opened.ok(),
    };
    let Some(opened) = opened else {
        return read_file(&file.path).map_err(|why| failure(&why));
    };
    // What was looked at, and not what is there now.
    let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
    read_file(Path::new(&path)).map_err(|why| failure(&why.replace(&path, &shown)))
}

/// Reads a service's `environment_file` as it is now.
///
/// # Errors
/// What is wrong with it, in one line.
pub(crate) fn read_file(path: &Path) -> Result<Vec<(String, String)>, String> {
    let report = Diagnostics::default();
    let source = Source::read(path, &report);
    let variables = source.map(|source| file(&source, "environment_file", &report));
    let (problems, _) = report.finish();
    match (problems.first(), variables) {
        (None, Some(variables)) => Ok(variables),
        (Some(problem), _) => Err(problem.to_string()),
        (None, None) => Err(format!("{} cannot be read", path.display())),
    }
}

/// Reads a file of `KEY=VALUE` lines; bad lines are reported with their own file and line.
pub(super) fn file(source: &Source, key: &str, report: &Diagnostics) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut line_start = 0;
    for line in source.text.split_inclusive('\n') {
        match parse_line(line.trim_end_matches(['\n', '\r'])) {
            Ok(variable) => variables.extend(variable),
            Err(bad) => {
                let offset = line_start + bad.offset;
                let problem = source.problem(offset, Some(key.to_owned()), bad.message);
                report.problem_until(Ends::AtStart, problem);
            }
        }
        line_start += line.len();
    }
    variables
}

#[derive(Debug, PartialEq)]
struct BadLine {
    offset: usize,
    message: String,
}

/// One line, in systemd's syntax without its continued lines: comments begin with `#` or `;`.
fn parse_line(line: &str) -> Result<Option<(String, String)>, BadLine> {
    let indent = line.len() - line.trim_start().len();
    let bad = |offset: usize, message: String| BadLine { offset, message };
    let text = line.trim_start();
    if text.is_empty() || text.starts_with(['#', ';']) {
        return Ok(None);
    }
    let Some((key, value)) = text.split_once('=') else {
        return Err(bad(indent, "expected KEY=VALUE, found no '='".to_owned()));
    };
    let key = key.trim_end();
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if key.is_empty() || !key.chars().all(valid) || key.starts_with(|c: char| c.is_ascii_digit()) {
        let hint = match key.strip_prefix("export ") {
            Some(_) => "; leave out export",
            None => "",
        };
        let message = format!(
            "expected a name of letters, digits and '_', found {}{hint}",
            quoted(key)
        );
        return Err(bad(indent, message));
    }
    if value.contains('\0') {
        return Err(bad(indent, "expected no NUL byte".to_owned()));
    }
    let value_offset = line.len() - value.len();
    let value = unquote(value)
        .map_err(|(offset, message)| bad(value_offset + offset, message.to_owned()))?;
    Ok(Some((key.to_owned(), value)))
}

/// Where in a value the reader is.
#[derive(Clone, Copy)]
enum Position {
    /// Before the first character, or after a closing quote: only here a quote opens.
    Between,
    Plain,
    Single {
        opened: usize,
    },
    Double {
        opened: usize,
    },
}

/// Takes quotes and backslashes away as systemd does; an error is an offset and a message.
fn unquote(text: &str) -> Result<String, (usize, &'static str)> {
    const CONTINUED: &str = "expected a whole value: a line is not continued on the next";
    let mut value = String::new();
    // White space at the end is kept only within quotes.
    let mut kept = 0;
    let mut place = Position::Between;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match (place, c) {
            (Position::Between, '\'') => place = Position::Single { opened: at },
            (Position::Between, '"') => place = Position::Double { opened: at },
            (Position::Between, c) if c.is_whitespace() => {}
            (Position::Between | Position::Plain, '\\') => {
                let (_, escaped) = characters.next().ok_or((at, CONTINUED))?;
                value.push(escaped);
                kept = value.len();
                place = Position::Plain;
            }
            (Position::Between | Position::Plain, c) => {
                value.push(c);
                if !c.is_whitespace() {
                    kept = value.len();
                }
                place = Position::Plain;
            }
            (Position::Single { .. }, '\'') | (Position::Double { .. }, '"') => {
                kept = value.len();
                place = Position::Between;
            }
            (Position::Double { .. }, '\\') => match characters.next() {
                Some((_, escaped @ ('"' | '\\' | '$' | '`'))) => value.push(escaped),
                Some((_, other)) => value.extend(['\\', other]),
                None => return Err((at, CONTINUED)),
            },
            (Position::Single { .. } | Position::Double { .. }, c) => value.push(c),
        }
    }
    if let Position::Single { opened } | Position::Double { opened } = place {
        return Err((opened, "expected the quote to be closed on its line"));
    }
    value.truncate(kept);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_in_systemd() {
        for (line, expected) in [
            ("", None),
            ("  # comment", None),
            ("; comment", None),
            ("A=1", Some(("A", "1"))),
            ("  A = 1  ", Some(("A", "1"))),
            ("A=", Some(("A", ""))),
            ("A=b c # d", Some(("A", "b c # d"))),
            ("A=b=c", Some(("A", "b=c"))),
            ("A=' b '", Some(("A", " b "))),
            ("A=\" b \"", Some(("A", " b "))),
            (r#"A="a\"b\\c\$d\n""#, Some(("A", "a\"b\\c$d\\n"))),
            (r"A='a\b'", Some(("A", r"a\b"))),
            (r"A=a\ b\ ", Some(("A", "a b "))),
            ("A=it's", Some(("A", "it's"))),
            ("A='b' \"c\"", Some(("A", "bc"))),
            ("_a1=ä", Some(("_a1", "ä"))),
        ] {
            let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(parse_line(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn bad_lines_are_refused_where_they_are_bad() {
        for (line, offset, message) in [
            ("  nothing", 2, "found no '='"),
            ("=1", 0, "expected a name"),
            ("1A=1", 0, "expected a name"),
            ("export A=1", 0, "leave out export"),
            ("A B=1", 0, "expected a name"),
            ("A='b", 2, "to be closed"),
            ("A=b\\", 3, "not continued"),
            ("A=\"b\\", 4, "not continued"),
            ("A=\0", 0, "NUL"),
        ] {
            let bad = parse_line(line).unwrap_err();
            assert_eq!(bad.offset, offset, "{line}");
            assert!(bad.message.contains(message), "{line}: {}", bad.message);
        }
    }
}

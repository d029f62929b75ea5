//! Parses TOML, and says where it is none.

use toml::de::{DeTable, Error};

use super::cursor::quoted;
use super::problem::Diagnostics;
use super::source::Source;

const DUPLICATE: &str = "duplicate key";

/// The document, or `None` if nothing sensible can be said of its values.
///
/// A key that is there twice is reported, and the rest is still worth reading; after any other
/// error, what follows may mean something else than it seems, so that only the first is told.
pub(super) fn parse<'a>(source: &'a Source, report: &Diagnostics) -> Option<DeTable<'a>> {
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    let is_header = |error: &&Error| source.line_at(start(error)).trim_start().starts_with('[');
    let fatal = errors
        .iter()
        .find(|error| error.message() != DUPLICATE)
        .or_else(|| errors.iter().find(is_header));
    if let Some(error) = fatal {
        tell(error, source, report);
        return None;
    }
    for error in errors.iter().take_while(|_| !report.is_full()) {
        tell(error, source, report);
    }
    Some(document.into_inner())
}

fn tell(error: &Error, source: &Source, report: &Diagnostics) {
    let key = key_at(start(error), source);
    report.problem(source.problem(start(error), key, message(error, source)));
}

fn start(error: &Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

fn message(error: &Error, source: &Source) -> String {
    if error.message() != DUPLICATE {
        let message = error.message().replace('\n', "; ");
        let message = message.trim_end_matches(", expected nothing");
        let hint = if message.contains("leading zero") {
            "; put an octal number in quotes"
        } else {
            ""
        };
        return format!("not valid TOML: {message}{hint}");
    }
    let span = error.span().unwrap_or_default();
    let key = source.text.get(span.clone()).unwrap_or_default();
    match first_line_with(key, span.start, source) {
        Some(line) => format!("{} is defined twice, first at line {line}", quoted(key)),
        None => format!("{} is defined twice", quoted(key)),
    }
}

/// The path of the key on the line, as far as lines tell without a parser.
fn key_at(offset: usize, source: &Source) -> Option<String> {
    let bare = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        !text.is_empty() && text.chars().all(allowed)
    };
    let header = |line: &str| {
        let name = line.trim().strip_prefix('[')?.strip_suffix(']')?;
        bare(name).then(|| name.to_owned())
    };
    let line = source.line_at(offset);
    if line.trim_start().starts_with('[') {
        return header(line);
    }
    let key = line.split_once('=')?.0.trim();
    let (number, _) = source.position(offset);
    let before: Vec<_> = source.text.lines().take(number - 1).collect();
    let table = before.into_iter().rev().find_map(header);
    bare(key).then(|| match table {
        Some(table) => format!("{table}.{key}"),
        None => key.to_owned(),
    })
}

/// The line of the first of two definitions, for a header or a key on a line of its own.
fn first_line_with(key: &str, offset: usize, source: &Source) -> Option<usize> {
    let (line, _) = source.position(offset);
    let second = source.line_at(offset).trim();
    let mut before: Vec<_> = source.text.lines().enumerate().take(line - 1).collect();
    let found = if second.starts_with('[') {
        before.into_iter().find(|(_, text)| text.trim() == second)
    } else {
        before.reverse();
        before
            .into_iter()
            .take_while(|(_, text)| !text.trim_start().starts_with('['))
            .find(|(_, text)| text.split('=').next().is_some_and(|k| k.trim() == key))
    };
    found.map(|(index, _)| index + 1)
}

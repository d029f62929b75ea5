//! Makes one document of a service's file and its drop-ins, and one of an instance of a template.
//!
//! Tables are merged key by key; of anything else, an array too, that of the later file holds. Each value
//! keeps its place, so that what is wrong with it is told of the file that it is from.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::cursor::{key_path, quoted};
use super::document;
use super::problem::Diagnostics;
use super::source::Sources;

/// Tables whose keys exclude each other: a later file that has one of these takes out the others.
const ALTERNATIVES: &[(&str, &[&str])] = &[
    (
        "ready",
        &["notify", "fd", "tcp", "unix", "http", "file", "command"],
    ),
    ("check", &["tcp", "unix", "http", "command"]),
    ("log", &["path", "syslog", "journald", "stdout"]),
];

/// All of the files as one; `None`, if nothing sensible can be said of one of them.
pub(super) fn parse<'a>(sources: &'a Sources, report: &Diagnostics) -> Option<DeTable<'a>> {
    let mut merged = DeTable::new();
    for (source, base) in sources.files() {
        let mut document = document::parse(source, report)?;
        if base > 0 {
            document = shifted(document, base);
        }
        merge(&mut merged, document);
    }
    Some(merged)
}

fn shifted(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    let entries = table.into_iter();
    entries
        .map(|(key, value)| (moved(key, by), shifted_value(value, by)))
        .collect()
}

fn shifted_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let shifted = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shifted(table, by)),
        DeValue::Array(items) => {
            let items = items.into_iter();
            DeValue::Array(items.map(|item| shifted_value(item, by)).collect())
        }
        simple => simple,
    };
    moved(Spanned::new(span, shifted), by)
}

fn moved<T>(value: Spanned<T>, by: usize) -> Spanned<T> {
    let span = value.span();
    Spanned::new(span.start + by..span.end + by, value.into_inner())
}

fn merge<'a>(into: &mut DeTable<'a>, from: DeTable<'a>) {
    for (key, value) in from {
        // Out first, for a map keeps the key that it has, and its place.
        let known = into.remove(key.get_ref().as_ref());
        let span = value.span();
        let value = match (known.map(Spanned::into_inner), value.into_inner()) {
            (Some(DeValue::Table(mut known)), DeValue::Table(new)) => {
                take_out_alternatives(key.get_ref(), &mut known, &new);
                merge(&mut known, new);
                DeValue::Table(known)
            }
            (_, new) => new,
        };
        into.insert(key, Spanned::new(span, value));
    }
}

fn take_out_alternatives(key: &str, known: &mut DeTable<'_>, new: &DeTable<'_>) {
    let alternatives = ALTERNATIVES.iter().find(|(table, _)| *table == key);
    let alternatives = alternatives.map_or(&[][..], |(_, keys)| *keys);
    if alternatives.iter().any(|key| new.contains_key(*key)) {
        for key in alternatives {
            known.remove(*key);
        }
    }
}

/// Puts an instance's name in the place of `%i` in all strings, and a percent sign in that of `%%`.
pub(super) fn instantiate(
    table: &mut DeTable<'_>,
    instance: &str,
    sources: &Sources,
    report: &Diagnostics,
) {
    Instance {
        instance,
        sources,
        report,
    }
    .table(table, "");
}

struct Instance<'s> {
    instance: &'s str,
    sources: &'s Sources,
    report: &'s Diagnostics,
}

impl Instance<'_> {
    fn table(&self, table: &mut DeTable<'_>, path: &str) {
        for (key, value) in table.iter_mut() {
            self.value(value, &key_path(path, key.get_ref()));
        }
    }

    fn value(&self, value: &mut Spanned<DeValue<'_>>, path: &str) {
        let offset = value.span().start;
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, path),
            DeValue::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.value(item, &format!("{path}[{index}]"));
                }
            }
            DeValue::String(text) if text.contains('%') => match filled(text, self.instance) {
                Ok(filled) => *text = Cow::Owned(filled),
                Err(message) => {
                    let problem = self.sources.problem(offset, Some(path.to_owned()), message);
                    self.report.problem(problem);
                }
            },
            _ => {}
        }
    }
}

/// # Errors
/// A percent sign that stands for nothing.
fn filled(text: &str, instance: &str) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        filled += before;
        let mut after = after.chars();
        match after.next() {
            Some('i') => filled += instance,
            Some('%') => filled.push('%'),
            other => {
                let found = other.map(String::from).unwrap_or_default();
                return Err(format!(
                    "expected %i (the instance's name) or %% (a percent sign), found {}; this is a \
                     template",
                    quoted(&format!("%{found}"))
                ));
            }
        }
        rest = after.as_str();
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instances_name_is_put_in_and_a_lone_percent_sign_refused() {
        assert_eq!(filled("/x/%i.%i-%%i 100%%", "a").unwrap(), "/x/a.a-%i 100%");
        assert_eq!(filled("", "a").unwrap(), "");
        for (text, found) in [("150%", "\"%\""), ("%I", "\"%I\""), ("a%ä", "\"%ä\"")] {
            assert!(filled(text, "a").unwrap_err().contains(found), "{text}");
        }
    }
}

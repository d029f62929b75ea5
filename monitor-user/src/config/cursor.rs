//! Walks a parsed TOML document with the place of each value at hand.
//!
//! A reader asks an [`Item`] for what it expects; where something else is found, the item reports
//! it and the reader gets `None`. So every problem is found in one go, unlike with serde's
//! derive, which ends at the first. Knows no key of any config: those are in tables of [`Keys`].

use std::ops::RangeInclusive;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::describe::Lines;
use super::host::Host;
use super::problem::{Diagnostics, Ends};
use super::source::Sources;

/// The keys of a table, each with what reads it into a draft.
pub(super) type Keys<D> = [(&'static str, fn(&mut D, &Item<'_>))];

/// Puts a value in its place, if it was valid.
pub(super) fn keep<T, S: From<T>>(slot: &mut S, value: Option<T>) {
    if let Some(value) = value {
        *slot = value.into();
    }
}

/// Which file is read, who hears of problems, and whom it may name.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) source: &'a Sources,
    pub(super) report: &'a Diagnostics,
    pub(super) host: &'a Host,
}

/// A value and its key.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub(super) context: Context<'a>,
    /// The key's full path.
    pub(super) path: String,
    key_offset: usize,
    offset: usize,
    value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    /// The same, with what is wrong with it told to another report.
    pub(super) fn reporting_to<'b>(&self, report: &'b Diagnostics) -> Item<'b>
    where
        'a: 'b,
    {
        Item {
            context: Context {
                report,
                ..self.context
            },
            ..self.clone()
        }
    }

    /// The line of the key, from 1.
    pub(super) fn key_line(&self) -> usize {
        self.context.source.line(self.key_offset)
    }

    /// The file that its key is in.
    pub(super) fn file(&self) -> &'a Path {
        self.context.source.file(self.key_offset)
    }

    /// Which of the files its key is in, from 0.
    pub(super) fn file_index(&self) -> usize {
        self.context.source.index(self.key_offset)
    }

    /// Reports a problem at the value.
    pub(super) fn problem(&self, message: impl Into<String>) {
        self.report_at(self.offset, message.into(), Ends::WithTheConfig);
    }

    /// The same of one that something else than a change of the config may end.
    pub(super) fn problem_until(&self, ends: Ends, message: impl Into<String>) {
        self.report_at(self.offset, message.into(), ends);
    }

    /// Reports a problem at the key.
    pub(super) fn problem_at_key(&self, message: impl Into<String>) {
        self.report_at(self.key_offset, message.into(), Ends::WithTheConfig);
    }

    fn report_at(&self, offset: usize, message: String, ends: Ends) {
        if self.context.report.is_full() {
            return;
        }
        let key = Some(self.path.clone());
        let problem = self.context.source.problem(offset, key, message);
        self.context.report.problem_until(ends, problem);
    }

    /// Reports what is allowed but hardly meant.
    pub(super) fn warn(&self, message: impl Into<String>) {
        let key = Some(self.path.clone());
        let warning = self
            .context
            .source
            .problem(self.offset, key, message.into());
        self.context.report.warn(warning);
    }

    /// Reports "expected `what`, found …", with a hint where one is given.
    pub(super) fn expected(&self, what: &str, hint: Option<&str>) {
        let found = describe(self.value);
        match hint {
            Some(hint) => self.problem(format!("expected {what}, found {found}; {hint}")),
            None => self.problem(format!("expected {what}, found {found}")),
        }
    }

    /// A string without NUL bytes, which no system call takes.
    pub(super) fn string(&self, what: &str) -> Option<&'a str> {
        let Some(text) = self.value.as_str() else {
            self.expected(what, self.quoting_hint().as_deref());
            return None;
        };
        if text.contains('\0') {
            self.problem(format!("expected {what}, found a string with a NUL byte"));
            return None;
        }
        Some(text)
    }

    /// For a number or truth value where a string was expected.
    fn quoting_hint(&self) -> Option<String> {
        match self.value {
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
                Some(format!("write \"{}\"", plain(self.value)))
            }
            _ => None,
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        if self.value.as_bool().is_none() {
            self.expected("true or false, without quotes", None);
        }
        self.value.as_bool()
    }

    /// Whether it is `true`; reports nothing.
    pub(super) fn is_true(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    /// The integer as written, if it is one; reports nothing. With it, its base.
    pub(super) fn as_integer(&self) -> Option<(i64, u32)> {
        let integer = self.value.as_integer()?;
        let value = i64::from_str_radix(integer.as_str(), integer.radix()).ok()?;
        Some((value, integer.radix()))
    }

    /// The string as written, if it is one; reports nothing.
    pub(super) fn as_str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// An integer within the range.
    pub(super) fn integer<T: TryFrom<i64>>(
        &self,
        what: &str,
        range: RangeInclusive<i64>,
    ) -> Option<T> {
        let value = self
            .as_integer()
            .map(|(value, _)| value)
            .filter(|value| range.contains(value))
            .and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            let (low, high) = (range.start(), range.end());
            self.expected(&format!("{what} from {low} to {high}"), None);
        }
        value
    }

    /// The items of an array, if it is one; reports nothing.
    pub(super) fn as_array(&self) -> Option<Vec<Self>> {
        let items = self.value.as_array()?.iter().enumerate();
        Some(
            items
                .map(|(index, value)| Self {
                    context: self.context,
                    path: format!("{}[{index}]", self.path),
                    key_offset: value.span().start,
                    offset: value.span().start,
                    value: value.get_ref(),
                })
                .collect(),
        )
    }

    /// The items of an array.
    pub(super) fn array(&self, what: &str) -> Option<Vec<Self>> {
        let items = self.as_array();
        if items.is_none() {
            self.expected(what, None);
        }
        items
    }

    /// A table.
    pub(super) fn table(&self, what: &str) -> Option<Table<'a>> {
        let table = self.as_table();
        if table.is_none() {
            self.expected(what, None);
        }
        table
    }

    /// The table, if it is one; reports nothing.
    pub(super) fn as_table(&self) -> Option<Table<'a>> {
        let DeValue::Table(entries) = self.value else {
            return None;
        };
        Some(Table {
            context: self.context,
            path: self.path.clone(),
            offset: self.offset,
            entries,
        })
    }
}

/// Keys and values.
pub(super) struct Table<'a> {
    context: Context<'a>,
    path: String,
    offset: usize,
    entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// The whole document.
    pub(super) fn root(context: Context<'a>, entries: &'a DeTable<'a>) -> Self {
        Self {
            context,
            path: String::new(),
            offset: 0,
            entries,
        }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        let (key, value) = self.entries.get_key_value(key)?;
        Some(self.item(key, value))
    }

    /// All keys and values, as long as further problems would be told.
    pub(super) fn items(&self) -> impl Iterator<Item = (&'a str, Item<'a>)> {
        let report = self.context.report;
        let entries = self.entries.iter().take_while(|_| !report.is_full());
        entries.map(|(key, value)| (key.get_ref().as_ref(), self.item(key, value)))
    }

    /// Where its keys are, and those of the tables in it, such as `limits.nofile`.
    pub(super) fn lines(&self) -> Lines {
        let mut lines = Lines::new();
        for (key, item) in self.items() {
            lines.insert(key.to_owned(), item.key_line());
            let below = item.as_table();
            let below = below.iter().flat_map(Table::items);
            lines.extend(below.map(|(name, item)| (format!("{key}.{name}"), item.key_line())));
        }
        lines
    }

    /// Of its keys those that are in other files than the first, and in which.
    pub(super) fn keys_beside(&self) -> Lines {
        let mut beside = Lines::new();
        for (key, item) in self.items() {
            beside.insert(key.to_owned(), item.file_index());
            let below = item.as_table();
            let below = below.iter().flat_map(Table::items);
            beside.extend(below.map(|(name, item)| (format!("{key}.{name}"), item.file_index())));
        }
        beside.retain(|_, index| *index > 0);
        beside
    }

    fn item(&self, key: &'a Spanned<DeString<'a>>, value: &'a Spanned<DeValue<'a>>) -> Item<'a> {
        Item {
            context: self.context,
            path: self.path_of(key.get_ref()),
            key_offset: key.span().start,
            offset: value.span().start,
            value: value.get_ref(),
        }
    }

    fn path_of(&self, key: &str) -> String {
        key_path(&self.path, key)
    }

    /// Reads every key by its reader and reports those that have none.
    pub(super) fn read<D>(&self, keys: &Keys<D>, draft: &mut D) {
        for (key, item) in self.items() {
            match keys.iter().find(|(known, _)| *known == key) {
                Some((_, read)) => read(draft, &item),
                None => item.problem_at_key(unknown_key(key, keys.iter().map(|(known, _)| *known))),
            }
        }
    }

    /// Reports a key that is not there, where its table begins.
    pub(super) fn missing(&self, key: &str, expected: &str) {
        let message = format!("is missing; expected {expected}");
        let path = Some(self.path_of(key));
        let problem = self.context.source.problem(self.offset, path, message);
        self.context.report.problem(problem);
    }
}

/// The full path of a key in a table.
pub(super) fn key_path(table: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        quoted(key)
    };
    match table {
        "" => key,
        table => format!("{table}.{key}"),
    }
}

/// "unknown key; did you mean …?", or the keys there are.
fn unknown_key(key: &str, known: impl Iterator<Item = &'static str> + Clone) -> String {
    match nearest(key, known.clone()) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => {
            let known: Vec<_> = known.collect();
            format!("unknown key; expected one of {}", known.join(", "))
        }
    }
}

/// The word that was probably meant: at most a third of it mistyped.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    known
        .map(|known| (strsim::damerau_levenshtein(&word, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// A text in quotes, controls escaped, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(_) => format!("the integer {}", plain(value)),
        DeValue::Float(_) => format!("the number {}", plain(value)),
        DeValue::Boolean(_) => plain(value),
        DeValue::Datetime(_) => format!("the date {}", plain(value)),
        DeValue::Array(items) if items.is_empty() => "an empty array".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A simple value as it is written.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_recognised_and_others_left_alone() {
        let known = ["restart", "restart_delay", "user", "nice", "overlap"];
        for (word, expected) in [
            ("restart_dealy", Some("restart_delay")),
            ("restart-delay", Some("restart_delay")),
            ("Restart", Some("restart")),
            ("usr", Some("user")),
            ("nide", Some("nice")),
            ("after", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
        }
    }

    #[test]
    fn long_and_wild_texts_are_cut_and_escaped() {
        assert_eq!(quoted("a\u{1b}[31m"), r#""a\u{1b}[31m""#);
        assert!(quoted(&"ä".repeat(1000)).chars().count() < 70);
    }
}

//! Command lines and lists: quotes, escapes, specifiers, variables.

use std::fmt::Write;

use super::systemd::Prefixed;
use crate::config;

/// Splits a line into words as systemd does: quotes of both kinds, C's escapes.
///
/// `extract_first_word` in <https://github.com/systemd/systemd/blob/v257/src/basic/extract-word.c>
pub(super) fn split(line: &str) -> Result<Vec<String>, String> {
    let words = words(line)?.into_iter();
    Ok(words.map(|(word, _)| word).collect())
}

/// The command lines in one line, with a `;` of its own between them.
pub(super) fn split_commands(line: &str) -> Result<Vec<Vec<String>>, String> {
    let mut commands = vec![Vec::new()];
    for (word, is_plain) in words(line)? {
        match commands.last_mut() {
            Some(command) if !(is_plain && word == ";") => command.push(word),
            _ => commands.push(Vec::new()),
        }
    }
    commands.retain(|command| !command.is_empty());
    Ok(commands)
}

/// Each word with whether it is without quotes and escapes.
fn words(line: &str) -> Result<Vec<(String, bool)>, String> {
    let mut words = Vec::new();
    let mut word: Option<(String, bool)> = None;
    let mut quote = None;
    let mut rest = line.chars();
    let put = |word: &mut Option<(String, bool)>, c: Option<char>, is_plain: bool| {
        let (text, was_plain) = word.get_or_insert_with(|| (String::new(), true));
        text.extend(c);
        *was_plain &= is_plain;
    };
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                put(&mut word, None, false);
            }
            (_, '\\') => put(&mut word, Some(unescape(&mut rest)?), false),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => put(&mut word, Some(c), true),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

fn unescape(rest: &mut std::str::Chars<'_>) -> Result<char, String> {
    let Some(c) = rest.next() else {
        return Err("a backslash is at the end".to_owned());
    };
    let mut number = |digits: usize, radix: u32, first: Option<char>| {
        let text: String = first
            .into_iter()
            .chain(rest.by_ref().take(digits))
            .collect();
        let code = u32::from_str_radix(&text, radix).ok();
        let found = code.and_then(char::from_u32).filter(|c| *c != '\0');
        found.ok_or_else(|| format!("the escape \\{text} is not a character"))
    };
    match c {
        'a' => Ok('\u{7}'),
        'b' => Ok('\u{8}'),
        'f' => Ok('\u{c}'),
        'n' => Ok('\n'),
        'r' => Ok('\r'),
        't' => Ok('\t'),
        'v' => Ok('\u{b}'),
        's' => Ok(' '),
        'x' => number(2, 16, None),
        'u' => number(4, 16, None),
        'U' => number(8, 16, None),
        '0'..='7' => number(2, 8, Some(c)),
        // As they are: `\;`, `\"`, `\\` and the like.
        other => Ok(other),
    }
}

/// Stands for the name of an instance while a template is converted: no unit has it, and nothing takes
/// it apart.
pub(super) const INSTANCE: char = '\u{e000}';

/// What the specifiers of a unit stand for.
#[derive(Debug, Clone, Default)]
pub(super) struct Specifiers {
    /// `web@a.service`
    pub(super) unit: String,
    pub(super) host: String,
}

impl Specifiers {
    fn stem(&self) -> &str {
        let stem = self.unit.rsplit_once('.');
        stem.map_or(self.unit.as_str(), |(stem, _)| stem)
    }

    fn prefix(&self) -> &str {
        let stem = self.stem();
        stem.split_once('@').map_or(stem, |(prefix, _)| prefix)
    }

    fn instance(&self) -> &str {
        self.stem()
            .split_once('@')
            .map_or("", |(_, instance)| instance)
    }

    /// A value with its specifiers replaced; an error is one that has no fixed meaning.
    pub(super) fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                expanded.push(c);
                continue;
            }
            let Some(specifier) = rest.next() else {
                expanded.push('%');
                break;
            };
            let last = |text: &str| {
                let part = text.rsplit('-').next().unwrap_or_default();
                part.to_owned()
            };
            let value = match specifier {
                '%' => "%".to_owned(),
                'n' => self.unit.clone(),
                'N' => self.stem().to_owned(),
                'p' => self.prefix().to_owned(),
                'P' => unescaped(self.prefix()),
                'i' => self.instance().to_owned(),
                'I' => unescaped(self.instance()),
                'j' => last(self.prefix()),
                'J' => unescaped(&last(self.prefix())),
                'f' => format!(
                    "/{}",
                    unescaped(match self.instance() {
                        "" => self.prefix(),
                        instance => instance,
                    })
                ),
                'H' => self.host.clone(),
                'l' => self.host.split('.').next().unwrap_or_default().to_owned(),
                'u' | 'g' => "root".to_owned(),
                'U' | 'G' => "0".to_owned(),
                'h' => "/root".to_owned(),
                's' => "/bin/sh".to_owned(),
                't' => "/run".to_owned(),
                'S' => "/var/lib".to_owned(),
                'C' => "/var/cache".to_owned(),
                'L' => "/var/log".to_owned(),
                'E' => "/etc".to_owned(),
                'T' => "/tmp".to_owned(),
                'V' => "/var/tmp".to_owned(),
                other => return Err(format!("%{other}")),
            };
            expanded.push_str(&value);
        }
        Ok(expanded)
    }
}

/// `unit_name_unescape`: `-` is `/`, `\xNN` a byte.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        let code = after.strip_prefix('x').and_then(|hex| hex.get(..2));
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = match (c, code) {
            ('\\', Some(byte)) if byte != 0 => {
                bytes.push(byte);
                after.get(3..).unwrap_or_default()
            }
            ('-', _) => {
                bytes.push(b'/');
                after
            }
            (c, _) => {
                let mut buffer = [0; 4];
                bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A command line on its way from systemd's variables to respawn's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) words: Vec<String>,
    /// A shell splits `$NAME` into words, as systemd does.
    pub(super) has_shell: bool,
}

/// Words of `ExecStart=`, with `$NAME` as a word of its own, `${NAME}` anywhere and `$$`.
/// `literal`: without variables.
pub(super) fn command(words: &[String], literal: bool) -> Command {
    if literal {
        let words = words.iter().map(|word| escape(word)).collect();
        return Command {
            words,
            has_shell: false,
        };
    }
    if !words.iter().skip(1).any(|word| variable(word).is_some()) {
        let convert = |(index, word): (usize, &String)| match config::is_script(words, index) {
            true => convert_script(word),
            false => convert_word(word),
        };
        let words = words.iter().enumerate().map(convert).collect();
        return Command {
            words,
            has_shell: false,
        };
    }
    // Without file names for patterns.
    let script = format!("set -f; exec {}", line(words));
    Command {
        words: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
        has_shell: true,
    }
}

/// The name of a word that is a variable and nothing else, which may be several words.
fn variable(word: &str) -> Option<&str> {
    word.strip_prefix('$').filter(|name| is_variable_name(name))
}

/// As a shell reads it.
fn line(words: &[String]) -> String {
    let words = words.iter().map(|word| match variable(word) {
        Some(name) => format!("${name}"),
        None => quote_with_variables(word),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Several commands for a shell, of which the first that fails ends it.
pub(super) fn script(commands: &[Prefixed]) -> Vec<String> {
    let mut script = "set -ef".to_owned();
    for command in commands {
        let line = match command.is_literal {
            true => command
                .words
                .iter()
                .map(|it| quote(it))
                .collect::<Vec<_>>()
                .join(" "),
            false => line(&command.words),
        };
        let ignored = if command.is_ignored { " || :" } else { "" };
        let _ = write!(script, "; {line}{ignored}");
    }
    ["/bin/sh", "-c", &script].map(str::to_owned).into()
}

fn is_variable_name(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(valid) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// A word for respawn that means itself.
pub(super) fn escape(word: &str) -> String {
    match word.contains("${") {
        true => word.replace('$', "$$"),
        false => word.to_owned(),
    }
}

/// The parts of a word of systemd's: a text, or the name in `${NAME}`.
fn parts(word: &str) -> Vec<Result<String, String>> {
    let mut parts: Vec<Result<String, String>> = Vec::new();
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            text.push('$');
            rest = after;
            continue;
        }
        let braces = after.strip_prefix('{').and_then(|it| it.split_once('}'));
        match braces.filter(|(name, _)| is_variable_name(name)) {
            Some((name, after)) => {
                parts.push(Ok(std::mem::take(&mut text)));
                parts.push(Err(name.to_owned()));
                rest = after;
            }
            None => {
                text.push('$');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    parts.push(Ok(text));
    parts
}

/// A shell replaces the variables in its script itself, and reads `$$` as its pid.
fn convert_script(script: &str) -> String {
    let parts = parts(script).into_iter().map(|part| match part {
        Ok(text) => text,
        Err(name) => format!("${{{name}-}}"),
    });
    parts.collect()
}

/// For systemd a variable that is not set is empty.
fn convert_word(word: &str) -> String {
    let parts = parts(word);
    if parts.iter().all(Result::is_ok) {
        let text: String = parts.into_iter().flatten().collect();
        return escape(&text);
    }
    let mut converted = String::new();
    for part in parts {
        match part {
            Ok(text) => converted.push_str(&text.replace('$', "$$")),
            Err(name) => {
                let _ = write!(converted, "${{{name}-}}");
            }
        }
    }
    converted
}

/// One word for a shell, that means itself.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The same with the variables in it.
pub(super) fn quote_with_variables(word: &str) -> String {
    let mut quoted = String::new();
    for part in parts(word) {
        match part {
            Ok(text) if text.is_empty() => {}
            Ok(text) => quoted.push_str(&quote(&text)),
            Err(name) => {
                let _ = write!(quoted, "\"${{{name}-}}\"");
            }
        }
    }
    match quoted.is_empty() {
        true => "''".to_owned(),
        false => quoted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn lines_are_split_as_in_systemd() {
        for (line, expected) in [
            ("", &[][..]),
            (" a  b ", &["a", "b"]),
            ("'a b' \"c d\" ''", &["a b", "c d", ""]),
            (r#"a"b c"d 'it"s'"#, &["ab cd", "it\"s"]),
            (r"a\x20b \; \\ \t \101", &["a b", ";", "\\", "\t", "A"]),
        ] {
            assert_eq!(split(line), Ok(words(expected)), "{line}");
        }
        for bad in ["'a", "a\\", r"\x0", r"\xzz", r"\x00"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn commands_have_a_semicolon_between_them() {
        let line = r"/bin/a 'x ; y' \; ; /bin/b ;";
        let expected = [words(&["/bin/a", "x ; y", ";"]), words(&["/bin/b"])];
        assert_eq!(split_commands(line).unwrap(), expected);
    }

    #[test]
    fn specifiers_are_replaced() {
        let specifiers = Specifiers {
            unit: "a-b@c-d\\x2de.service".to_owned(),
            host: "h.example".to_owned(),
        };
        for (text, expected) in [
            ("%n", "a-b@c-d\\x2de.service"),
            ("%N/%p/%i", "a-b@c-d\\x2de/a-b/c-d\\x2de"),
            ("%P %I %j %f", "a/b c/d-e b /c/d-e"),
            ("%H %l 100%% %", "h.example h 100% %"),
            ("%t%S", "/run/var/lib"),
        ] {
            assert_eq!(specifiers.expand(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(specifiers.expand("%b"), Err("%b".to_owned()));
    }

    #[test]
    fn variables_become_respawns_or_a_shells() {
        for (from, to) in [
            (&["/x", "a"][..], &["/x", "a"][..]),
            (
                &["/x", "--a=${A}", "$$", "p$x"],
                &["/x", "--a=${A-}", "$", "p$x"],
            ),
            (&["/x", "$${A}", "$$${A}"], &["/x", "$${A}", "$$${A-}"]),
            (
                &["/x", "$A", "${B}c", "it's"],
                &["/bin/sh", "-c", "set -f; exec /x $A \"${B-}\"c 'it'\\''s'"],
            ),
        ] {
            assert_eq!(command(&words(from), false).words, words(to), "{from:?}");
        }
        let literal = command(&words(&["/x", "$A", "${B}"]), true);
        assert_eq!(literal.words, words(&["/x", "$A", "$${B}"]));
    }
}

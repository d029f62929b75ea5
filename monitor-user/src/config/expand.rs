//! `${NAME}` in the arguments of a command: a variable of the environment that it runs with, always
//! within one word. Reads no environment of its own.
//!
//! ```text
//! ${NAME}          its value; not set: an error
//! ${NAME-text}     … or the text, if it is not set
//! ${NAME:-text}    … or if it is empty
//! $$               one dollar, in a word with a ${ in it
//! ```
//! All else stays: `$NAME`, and words without `${`. The program, which is looked up when the config is
//! read, is left as it is, and so is a script that a shell reads: `sh -c` replaces variables itself,
//! and what it gets as its text must not depend on what is in them.

use std::collections::BTreeMap;
use std::fmt;

use super::cursor::{Item, quoted};

/// Those that take a script after `-c`.
const SHELLS: &[&str] = &[
    "sh", "ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "runuser", "su", "zsh",
];

/// A variable that is not set where a command names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unset(String);

impl fmt::Display for Unset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.0;
        write!(
            f,
            "${{{name}}} is not set; set {name} in its environment, or write ${{{name}-}} if it may be missing"
        )
    }
}

impl std::error::Error for Unset {}

/// A part of a word.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Variable {
        name: &'a str,
        /// What stands in for it, ...
        fallback: Option<&'a str>,
        /// ... also if it is empty.
        or_empty: bool,
    },
}

/// The words with their variables replaced.
///
/// # Errors
/// The first variable that is not set.
pub(crate) fn expand(
    words: &[String],
    environment: &BTreeMap<String, String>,
) -> Result<Vec<String>, Unset> {
    let expanded = words.iter().enumerate().map(|(index, word)| {
        match parse(word) {
            Ok(pieces) if is_expanded(words, index) => fill(&pieces, environment),
            // What is wrong with a word was told when the config was read.
            _ => Ok(word.clone()),
        }
    });
    expanded.collect()
}

fn fill(pieces: &[Piece<'_>], environment: &BTreeMap<String, String>) -> Result<String, Unset> {
    let mut filled = String::new();
    for piece in pieces {
        filled.push_str(match piece {
            Piece::Text(text) => text,
            Piece::Variable {
                name,
                fallback,
                or_empty,
            } => {
                let value = environment.get(*name).map(String::as_str);
                let value = value.filter(|value| !(*or_empty && value.is_empty()));
                value
                    .or(*fallback)
                    .ok_or_else(|| Unset((*name).to_owned()))?
            }
        });
    }
    Ok(filled)
}

/// Reports what is wrong with the words of a command, and warns of variables that are not set now.
pub(super) fn check(words: &[String], command: &Item<'_>, environment: &BTreeMap<String, String>) {
    if check_words(words, command)
        && let Err(unset) = expand(words, environment)
    {
        command.warn(format!("{unset}; else starting the service fails"));
    }
}

/// Reports what is wrong with the words of a command; whether nothing is.
pub(super) fn check_words(words: &[String], command: &Item<'_>) -> bool {
    let mut is_good = true;
    let items = command.as_array().unwrap_or_default();
    for (index, (word, item)) in words.iter().zip(&items).enumerate() {
        if is_expanded(words, index)
            && let Err(found) = parse(word)
        {
            is_good = false;
            item.problem(format!(
                "expected ${{NAME}}, ${{NAME-text}} or ${{NAME:-text}}, found {}; \
                 a $ that is meant so before a {{ is written $$",
                quoted(found)
            ));
        }
    }
    is_good
}

fn is_expanded(words: &[String], index: usize) -> bool {
    index > 0 && !is_script(words, index)
}

/// Whether a word is what a shell reads as its script: what follows its `-c`.
pub(crate) fn is_script(words: &[String], index: usize) -> bool {
    let (before, _) = words.split_at(index);
    let Some((option, before)) = before.split_last() else {
        return false;
    };
    let letters = option.strip_prefix('-').unwrap_or_default();
    let is_shell = |word: &String| {
        let name = word.rsplit('/').next().unwrap_or_default();
        SHELLS.contains(&name)
    };
    (option == "--command"
        || letters.ends_with('c') && letters.bytes().all(|b| b.is_ascii_alphabetic()))
        && before.iter().any(is_shell)
}

/// The parts of a word; an error is the text that is none.
fn parse(word: &str) -> Result<Vec<Piece<'_>>, &str> {
    if !word.contains("${") {
        return Ok(vec![Piece::Text(word)]);
    }
    let mut pieces = Vec::new();
    let mut rest = word;
    while let Some((text, after)) = rest.split_once('$') {
        pieces.push(Piece::Text(text));
        rest = after;
        if let Some(after) = after.strip_prefix('$') {
            pieces.push(Piece::Text("$"));
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (inside, after) = after.split_once('}').ok_or(word)?;
            pieces.push(variable(inside).ok_or(word)?);
            rest = after;
        } else {
            pieces.push(Piece::Text("$"));
        }
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// What is between the braces.
fn variable(inside: &str) -> Option<Piece<'_>> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = inside.find(|c| !is_of_name(c)).unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (fallback, or_empty) = match rest {
        "" => (None, false),
        rest => match rest.strip_prefix(":-") {
            Some(text) => (Some(text), true),
            None => (Some(rest.strip_prefix('-')?), false),
        },
    };
    Some(Piece::Variable {
        name,
        fallback,
        or_empty,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn environment() -> BTreeMap<String, String> {
        let set = [("A", "one two"), ("EMPTY", ""), ("HOME", "/home/x")];
        set.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn variables_are_replaced_within_their_word() {
        for (word, expected) in [
            ("--x=${A}", "--x=one two"),
            ("${A}${HOME}", "one two/home/x"),
            ("${EMPTY}", ""),
            ("${EMPTY-x}", ""),
            ("${EMPTY:-x}", "x"),
            ("${NONE-}", ""),
            ("${NONE-a b:c}", "a b:c"),
            ("${NONE:-x}y", "xy"),
            ("$${A}", "${A}"),
            ("$$$${A}", "$${A}"),
            ("$$${A}", "$one two"),
            ("$A ${A}$", "$A one two$"),
            ("$$", "$$"),
            ("$A", "$A"),
            ("ä${A}ä", "äone twoä"),
        ] {
            let expanded = expand(&words(&["p", word]), &environment());
            assert_eq!(expanded, Ok(words(&["p", expected])), "{word}");
        }
        let unset = expand(&words(&["p", "a", "${NONE}"]), &environment());
        assert_eq!(unset, Err(Unset("NONE".to_owned())));
    }

    #[test]
    fn what_is_no_variable_is_bad() {
        for word in [
            "${", "${}", "${A", "${1}", "${A%x}", "${A:+x}", "${#A}", "${a b}",
        ] {
            assert_eq!(parse(word), Err(word));
        }
    }

    #[test]
    fn programs_and_scripts_are_left_alone() {
        let script = "for x in 1; do echo ${x} ${A}; done";
        for command in [
            &["sh", "-c", script, "${A}"][..],
            &["/bin/bash", "-euc", script, "${A}"],
            &["env", "X=1", "/bin/busybox", "sh", "-c", script, "${A}"],
            &["su", "daemon", "-c", script, "${A}"],
        ] {
            let command = words(command);
            let expanded = expand(&command, &environment()).unwrap();
            let (last, others) = expanded.split_last().unwrap();
            assert_eq!(last, "one two");
            assert_eq!(others, &command[..command.len() - 1]);
        }
        // Of other programs `-c` is anything.
        assert!(expand(&words(&["nginx", "-c", "${NONE}"]), &environment()).is_err());
        let program = words(&["/${NONE}"]);
        assert_eq!(expand(&program, &environment()), Ok(program.clone()));
    }
}

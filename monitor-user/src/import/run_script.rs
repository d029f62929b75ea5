//! Scripts of run directories: `run`, `finish` and the like. Takes the words of those that only lay out
//! how a program is run; runs nothing, and leaves the others to their interpreter.

/// A script whose words are known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// What it does before it becomes the program, in that order.
    pub(super) lines: Vec<ScriptLine>,
    /// The words that it becomes.
    pub(super) words: Vec<String>,
    /// The number of the line that they begin at.
    pub(super) number: usize,
    /// Standard error goes where standard output goes.
    pub(super) is_joined: bool,
    /// Each of its words may be a program of execline's that changes something for the rest.
    pub(super) is_execline: bool,
}

/// A simple command, with its line's number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ScriptLine {
    pub(super) number: usize,
    pub(super) words: Vec<String>,
    /// If it fails, the script ends.
    pub(super) is_needed: bool,
}

/// Why a script is left to its interpreter: the line, and what stands there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opaque {
    pub(super) number: usize,
    pub(super) line: String,
}

/// What a shell does itself, and what is more than one command.
const OF_SHELL: &[&str] = &[
    ".", ":", "[", "alias", "break", "case", "command", "continue", "do", "done", "elif", "else",
    "esac", "eval", "exit", "false", "fi", "for", "function", "getopts", "if", "local", "read",
    "return", "select", "shift", "source", "test", "then", "time", "trap", "true", "type",
    "typeset", "unset", "until", "wait", "while", "{", "}", "!",
];

/// Reads a script of a shell or of execline.
pub(super) fn read(text: &str) -> Result<Script, Opaque> {
    let first = text.lines().next().unwrap_or_default();
    let interpreter = first.strip_prefix("#!").unwrap_or_default();
    let mut words = interpreter.split_ascii_whitespace();
    let base = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let mut name = words.next().map(base).unwrap_or_default();
    if name == "env" {
        name = words.next().map(base).unwrap_or_default();
    }
    match name.as_str() {
        "sh" | "ash" | "bash" | "dash" | "ksh" | "mksh" => {
            let ends = words.any(|option| option.starts_with('-') && option.contains('e'));
            shell(text, ends)
        }
        "execlineb" => execline(text),
        _ => Err(Opaque {
            number: 1,
            line: first.to_owned(),
        }),
    }
}

/// `up` and `down` of s6-rc, which are execline without a first line.
pub(super) fn execline(text: &str) -> Result<Script, Opaque> {
    let mut words = Vec::new();
    let mut number = 0;
    for (index, line) in text.lines().enumerate() {
        let opaque = || Opaque {
            number: index + 1,
            line: line.to_owned(),
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if number == 0 {
            number = index + 1;
        }
        let of_line = words_of(line, Quotes::Double).ok_or_else(opaque)?;
        if of_line
            .iter()
            .any(|word| ["{", "}"].contains(&word.as_str()))
        {
            return Err(opaque());
        }
        words.extend(of_line);
    }
    match words.is_empty() {
        true => Err(Opaque {
            number: 1,
            line: text.lines().next().unwrap_or_default().to_owned(),
        }),
        false => Ok(Script {
            words,
            number,
            is_execline: true,
            ..Script::default()
        }),
    }
}

/// Simple commands, one a line, of which the last is `exec`.
fn shell(text: &str, mut ends_on_failure: bool) -> Result<Script, Opaque> {
    let mut script = Script::default();
    for (number, line) in joined(text) {
        let opaque = || Opaque {
            number,
            line: line.clone(),
        };
        if !script.words.is_empty() {
            // Behind `exec` nothing is run.
            break;
        }
        let (line, joins) = match line.strip_suffix("2>&1") {
            Some(line) => (line.trim_end(), true),
            None => (line.as_str(), false),
        };
        // It ends if that fails, as a step that fails ends the start.
        let (line, is_needed) = match line.split_once("||") {
            Some((line, exit)) if is_exit(exit) => (line.trim_end(), true),
            _ => (line, false),
        };
        let words = words_of(line, Quotes::Both).ok_or_else(opaque)?;
        let Some(first) = words.first() else {
            continue;
        };
        match (first.as_str(), words.as_slice()) {
            ("exec", [_]) if joins => script.is_joined = true,
            ("exec", [_, program, ..]) if !program.starts_with('-') => {
                script.is_joined |= joins;
                script.number = number;
                script.words = words.iter().skip(1).cloned().collect();
            }
            ("exec", _) => return Err(opaque()),
            ("set", [_, options @ ..]) => {
                let is_option = |it: &String| it.starts_with(['-', '+']) || it == "pipefail";
                if !options.iter().all(is_option) {
                    return Err(opaque());
                }
                let mut options = options.iter();
                ends_on_failure |= options.any(|it| it.starts_with('-') && it.contains('e'));
            }
            (first, _) if OF_SHELL.contains(&first) || first.contains('=') || joins => {
                return Err(opaque());
            }
            _ => script.lines.push(ScriptLine {
                number,
                words,
                is_needed: is_needed || ends_on_failure,
            }),
        }
    }
    match script.words.is_empty() {
        true => {
            let last = joined(text).pop();
            let (number, line) = last.unwrap_or((1, String::new()));
            Err(Opaque { number, line })
        }
        false => Ok(script),
    }
}

fn is_exit(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    words.next() == Some("exit") && words.next().is_none_or(is_number) && words.next().is_none()
}

/// Lines with those joined that a backslash continues; no empty ones and no comments.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut begun: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let (number, mut whole) = begun.take().unwrap_or((index + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(line) => {
                whole.push_str(line);
                whole.push(' ');
                begun = Some((number, whole));
            }
            None => {
                whole.push_str(line);
                let whole = whole.trim();
                if !whole.is_empty() && !whole.starts_with('#') {
                    lines.push((number, whole.to_owned()));
                }
            }
        }
    }
    if let Some((number, whole)) = begun {
        lines.push((number, whole.trim().to_owned()));
    }
    lines
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// Of a shell.
    Both,
    /// Of execline, for which `'` means itself.
    Double,
}

/// The words of a simple command; `None`: there is something in them that only an interpreter knows.
fn words_of(line: &str, quotes: Quotes) -> Option<Vec<String>> {
    // What a shell replaces or is led by; for execline `$` alone, where variables are substituted.
    let special = match quotes {
        Quotes::Both => "$`;|&<>()*?[]{}~!",
        Quotes::Double => "$",
    };
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' if quotes == Quotes::Both => {
                let text: String = rest.by_ref().take_while(|c| *c != '\'').collect();
                // Whether it was closed shows in what is left of the line.
                if !line
                    .get(..line.len() - rest.as_str().len())?
                    .ends_with('\'')
                {
                    return None;
                }
                word.get_or_insert_default().push_str(&text);
            }
            '"' => quoted(&mut rest, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(rest.next()?),
            '#' if word.is_none() => break,
            c if c.is_whitespace() => words.extend(word.take()),
            c if special.contains(c) => return None,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Up to the closing quote.
fn quoted(rest: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match rest.next()? {
            '"' => return Some(()),
            '$' | '`' => return None,
            '\\' => match rest.next()? {
                c @ ('"' | '\\') => word.push(c),
                _ => return None,
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        words_of(text, Quotes::Both)
    }

    #[test]
    fn words_are_those_of_a_shell() {
        let same = |text: &str, expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(words(text), Some(expected), "{text}");
        };
        same("a  b\tc", &["a", "b", "c"]);
        same("a 'b  c' \"d e\"f # g", &["a", "b  c", "d ef"]);
        same("a '' \"x\\\"y\" b\\ c#d", &["a", "", "x\"y", "b c#d"]);
        for bad in [
            "a $B",
            "a \"$B\"",
            "a `b`",
            "a; b",
            "a | b",
            "a > b",
            "a *",
            "a 'b",
            "a \"b",
            "a \\",
            "a \"\\n\"",
        ] {
            assert_eq!(words(bad), None, "{bad}");
        }
        assert_eq!(
            words_of("a 'b ;", Quotes::Double).unwrap(),
            ["a", "'b", ";"]
        );
    }

    #[test]
    fn a_script_that_only_lays_out_a_program_is_known() {
        let text = "#!/bin/sh\n# a comment\nexec 2>&1\ncd /srv || exit 1\nmkdir -p /run/x\n\nexec chpst -u web \\\n  nginx -g 'daemon off;'\nexit 1\n";
        let script = read(text).unwrap();
        assert_eq!(
            script.words,
            ["chpst", "-u", "web", "nginx", "-g", "daemon off;"]
        );
        assert!(script.is_joined && !script.is_execline);
        assert_eq!(script.number, 7);
        let lines: Vec<_> = script
            .lines
            .iter()
            .map(|it| (it.words.join(" "), it.is_needed))
            .collect();
        assert_eq!(
            lines,
            [
                ("cd /srv".to_owned(), true),
                ("mkdir -p /run/x".to_owned(), false)
            ]
        );
        let script =
            read("#!/bin/execlineb -P\nfdmove -c 2 1\ns6-setuidgid web\n/bin/x \"y z\"\n").unwrap();
        let expected = [
            "fdmove",
            "-c",
            "2",
            "1",
            "s6-setuidgid",
            "web",
            "/bin/x",
            "y z",
        ];
        assert_eq!(script.words, expected);
        assert!(script.is_execline);
    }

    #[test]
    fn another_one_names_the_line_that_is_more() {
        for (text, number) in [
            ("#!/bin/sh\nexec 2>&1\n[ -r conf ] && . ./conf\nexec x\n", 3),
            ("#!/bin/sh\nexec x $OPTS\n", 2),
            ("#!/usr/bin/perl\nexec 'x';\n", 1),
            ("#!/bin/sh\nx -f\n", 2),
            ("exec x\n", 1),
            ("", 1),
            ("#!/bin/execlineb -P\nif { test -e /x }\n/bin/x\n", 2),
            ("#!/bin/execlineb -P\n", 1),
        ] {
            assert_eq!(read(text).unwrap_err().number, number, "{text}");
        }
    }
}

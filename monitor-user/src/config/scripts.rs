//! Which files beside its program a command runs: the script that an interpreter is given, and the interpreter that
//! a script names. Looks at no owner, and runs nothing.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What one of them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// An interpreter runs it.
    Script,
    /// It runs a script.
    Interpreter,
}

/// What the arguments of an interpreter mean.
struct Interpreter {
    /// What its name begins with; a version may follow.
    name: &'static str,
    /// Options whose value is the next argument.
    with_value: &'static [&'static str],
    /// Options after which there is no script, since there is one in the argument, or none.
    with_code: &'static [&'static str],
}

const SHELL_VALUES: &[&str] = &["-o", "+o", "-O", "+O", "--rcfile", "--init-file"];

const INTERPRETERS: &[Interpreter] = &[
    Interpreter::shell("sh"),
    Interpreter::shell("bash"),
    Interpreter::shell("dash"),
    Interpreter::shell("ash"),
    Interpreter::shell("ksh"),
    Interpreter::shell("zsh"),
    Interpreter {
        name: "python",
        with_value: &["-W", "-X", "--check-hash-based-pycs"],
        with_code: &["-c", "-m"],
    },
    Interpreter {
        name: "perl",
        with_value: &["-I"],
        with_code: &["-e", "-E"],
    },
    Interpreter {
        name: "ruby",
        with_value: &["-I", "-r", "-C", "-E"],
        with_code: &["-e"],
    },
    Interpreter {
        name: "node",
        with_value: &["-r", "--require", "--import", "--loader", "--env-file"],
        with_code: &["-e", "-p", "--eval", "--print"],
    },
    Interpreter {
        name: "php",
        with_value: &["-c", "-d", "-z", "-f"],
        with_code: &["-r"],
    },
];

impl Interpreter {
    const fn shell(name: &'static str) -> Self {
        Self {
            name,
            with_value: SHELL_VALUES,
            with_code: &["-c"],
        }
    }

    /// The one that a program's name says it is: "python3.11" is Python.
    fn of(program: &Path) -> Option<&'static Self> {
        let name = program.file_name()?.to_str()?;
        let is_version = |rest: &str| rest.chars().all(|it| it.is_ascii_digit() || it == '.');
        INTERPRETERS
            .iter()
            .find(|it| name.strip_prefix(it.name).is_some_and(is_version))
    }

    /// Whether an option is followed by code instead of a script: `-c`, and of a shell `-ec`, too.
    fn takes_code(&self, option: &str) -> bool {
        let is_short = !option.starts_with("--");
        let ends_in = |code: &str| {
            let letter = code.strip_prefix('-').unwrap_or(code);
            is_short && letter.len() == 1 && option.ends_with(letter)
        };
        self.with_code.contains(&option)
            || !self.with_value.contains(&option) && self.with_code.iter().any(|it| ends_in(it))
    }

    /// The files that it is told to run: by its arguments up to the first that is neither an option nor the
    /// value of one.
    fn scripts(&self, arguments: &[String]) -> Vec<PathBuf> {
        let mut scripts = Vec::new();
        let mut arguments = arguments.iter().map(String::as_str);
        let mut are_options = true;
        while let Some(argument) = arguments.next() {
            let is_option = are_options && argument.starts_with(['-', '+']) && argument.len() > 1;
            if !is_option {
                scripts.push(argument);
                break;
            }
            if argument == "--" {
                are_options = false;
            } else if self.takes_code(argument) {
                break;
            } else if self.with_value.contains(&argument) {
                scripts.extend(arguments.next());
            }
        }
        let scripts = scripts.into_iter().map(PathBuf::from);
        scripts.filter(|it| it.is_absolute()).collect()
    }
}

/// What a command runs beside its program, which was looked up already. `find` looks a program up by its name.
pub(super) fn run_by(
    program: &Path,
    arguments: &[String],
    find: &dyn Fn(&str) -> Option<PathBuf>,
) -> Vec<(PathBuf, Role)> {
    let mut files = Vec::new();
    let mut arguments = arguments.get(1..).unwrap_or_default();
    let mut interpreter = program.to_owned();
    while let Some((word, behind)) = behind_a_wrapper(&interpreter, arguments) {
        arguments = behind;
        let Some(found) = named(word, find) else {
            break;
        };
        files.push((found.clone(), Role::Interpreter));
        interpreter = found;
    }
    let known = Interpreter::of(&interpreter);
    let scripts = known.map_or_else(Vec::new, |it| it.scripts(arguments));
    files.extend(scripts.into_iter().map(|it| (it, Role::Script)));
    files.extend(named_by_script(program, find));
    files
}

/// The program that another one is told to run, and its arguments: by `env`.
fn behind_a_wrapper<'a>(
    program: &Path,
    arguments: &'a [String],
) -> Option<(&'a str, &'a [String])> {
    let is_own = |word: &String| word.starts_with('-') || word.contains('=');
    if program.file_name()? != "env" {
        return None;
    }
    let index = arguments.iter().position(|word| !is_own(word))?;
    let (word, behind) = arguments.get(index..)?.split_first()?;
    Some((word, behind))
}

fn named(word: &str, find: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    match word.contains('/') {
        true => Some(PathBuf::from(word)).filter(|it| it.is_absolute()),
        false => find(word),
    }
}

/// The interpreters in the line `#!…` of a script: the one that the kernel runs, and what `env` runs then.
fn named_by_script(program: &Path, find: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<(PathBuf, Role)> {
    let mut text = Vec::new();
    let read = fs::File::open(program).and_then(|file| file.take(256).read_to_end(&mut text));
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!").filter(|_| read.is_ok()) else {
        return Vec::new();
    };
    let line = String::from_utf8_lossy(line);
    let words: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
    let Some((interpreter, arguments)) = words.split_first() else {
        return Vec::new();
    };
    let interpreter = PathBuf::from(interpreter);
    let wrapped = behind_a_wrapper(&interpreter, arguments);
    let wrapped = wrapped.and_then(|(word, _)| named(word, find));
    let own = Some(interpreter).filter(|it| it.is_absolute());
    let both = own.into_iter().chain(wrapped);
    both.map(|it| (it, Role::Interpreter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(command: &str) -> Vec<String> {
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let find = |word: &str| Some(Path::new("/found").join(word));
        let files = run_by(Path::new(&words[0]), &words, &find);
        let files = files.into_iter().filter(|(_, role)| *role == Role::Script);
        files.map(|(it, _)| it.display().to_string()).collect()
    }

    #[test]
    fn the_script_is_the_first_argument_that_is_neither_an_option_nor_a_value() {
        for (command, expected) in [
            ("/bin/sh /opt/x.sh /data", &["/opt/x.sh"][..]),
            ("/bin/bash -eu -o pipefail /opt/x.sh", &["/opt/x.sh"]),
            (
                "/bin/bash --rcfile /opt/rc -- /opt/x.sh",
                &["/opt/rc", "/opt/x.sh"],
            ),
            ("/bin/sh -c /opt/x.sh", &[]),
            ("/bin/sh -ec /opt/x.sh", &[]),
            (
                "/usr/bin/python3.11 -u -W ignore /opt/app.py /data",
                &["/opt/app.py"],
            ),
            ("/usr/bin/python3 -m app /data", &[]),
            (
                "/usr/bin/perl -w -I /opt/lib /opt/x.pl",
                &["/opt/lib", "/opt/x.pl"],
            ),
            (
                "/usr/bin/node --require /opt/a.js /opt/b.js",
                &["/opt/a.js", "/opt/b.js"],
            ),
            ("/usr/bin/php8.2 -d x=y -f /opt/x.php", &["/opt/x.php"]),
            ("/usr/bin/ruby x.rb /data", &[]),
            ("/usr/bin/env -i A=b python3 /opt/app.py", &["/opt/app.py"]),
            ("/usr/bin/shred /data", &[]),
            ("/usr/bin/nodemon /data", &[]),
        ] {
            assert_eq!(scripts(command), expected, "{command}");
        }
    }

    #[test]
    fn a_script_names_its_interpreter_and_env_names_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let find = |word: &str| Some(Path::new("/found").join(word));
        for (line, expected) in [
            ("#!/opt/perl -w", &["/opt/perl"][..]),
            (
                "#! /usr/bin/env -S python3 -u",
                &["/usr/bin/env", "/found/python3"],
            ),
            ("#!/usr/bin/env /opt/ruby", &["/usr/bin/env", "/opt/ruby"]),
            ("#!", &[]),
            ("ELF", &[]),
        ] {
            fs::write(&program, format!("{line}\nmore")).unwrap();
            let words = [program.display().to_string()];
            let files = run_by(&program, &words, &find);
            let files: Vec<String> = files.iter().map(|it| it.0.display().to_string()).collect();
            assert_eq!(files, expected, "{line}");
        }
    }
}

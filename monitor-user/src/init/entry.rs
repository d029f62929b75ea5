//! The command that init runs for the agent and its spare, or for the recorder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Program;
use super::plan::header;
use super::root::Root;

/// Paths that need no mention, being the agent's own defaults.
const DEFAULT_CONFIG: &str = "/etc/respawn";
const DEFAULT_RUNTIME_DIR: &str = "/run/respawn";
const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/respawn";

/// What the agents are to be run with.
#[derive(Debug, Clone)]
pub(crate) struct Options<'a> {
    /// The binary's path within the root; `None`: that of the running one.
    pub(crate) binary: Option<&'a Path>,
    pub(crate) config: &'a Path,
    pub(crate) runtime_dir: &'a Path,
    pub(crate) pin_dir: &'a Path,
}

/// What the recorder is to be run with.
#[derive(Debug, Clone)]
pub(crate) struct RecorderOptions<'a> {
    /// The binary's path within the root; `None`: that of the running one.
    pub(crate) binary: Option<&'a Path>,
    pub(crate) pin_dir: &'a Path,
    /// Its own options, a word or two each.
    pub(crate) options: Vec<(&'static str, Option<String>)>,
}

/// The command of what init keeps. Its words need no quotes in any init's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InitEntry {
    program: Program,
    binary: String,
    /// (option, value) beyond the defaults.
    options: Vec<(&'static str, Option<String>)>,
    /// Of an agent.
    runtime_dir: String,
}

impl InitEntry {
    /// Checks what was given.
    ///
    /// # Errors
    /// The binary is gone or not in the root; a path that some init's file could not name.
    pub(crate) fn new(root: &Root, options: &Options<'_>) -> Result<Self> {
        let binary = binary(root, options.binary)?;
        let runtime_dir = word(options.runtime_dir)?;
        let mut beyond = Vec::new();
        for (option, given, default) in [
            ("--runtime-dir", runtime_dir.clone(), DEFAULT_RUNTIME_DIR),
            ("--pin-dir", word(options.pin_dir)?, DEFAULT_PIN_DIR),
            ("--config", word(options.config)?, DEFAULT_CONFIG),
        ] {
            if given != default {
                beyond.push((option, Some(given)));
            }
        }
        Ok(Self {
            program: Program::Agent,
            binary,
            options: beyond,
            runtime_dir,
        })
    }

    /// Checks what was given for a recorder.
    ///
    /// # Errors
    /// As [`InitEntry::new`].
    pub(crate) fn of_recorder(root: &Root, options: RecorderOptions<'_>) -> Result<Self> {
        let binary = binary(root, options.binary)?;
        let pin_dir = word(options.pin_dir)?;
        let mut beyond = Vec::new();
        if pin_dir != DEFAULT_PIN_DIR {
            beyond.push(("--pin-dir", Some(pin_dir)));
        }
        for (option, value) in options.options {
            if let Some(value) = &value {
                check_word(value)?;
            }
            beyond.push((option, value));
        }
        Ok(Self {
            program: Program::Recorder,
            binary,
            options: beyond,
            runtime_dir: DEFAULT_RUNTIME_DIR.to_owned(),
        })
    }

    /// What it is for.
    pub(super) fn program(&self) -> Program {
        self.program
    }

    /// The binary.
    pub(crate) fn binary(&self) -> &str {
        &self.binary
    }

    /// What follows the binary.
    pub(crate) fn arguments(&self) -> String {
        let subcommand = match self.program {
            Program::Agent => "agent",
            Program::Recorder => "recorder",
        };
        let options = self.options.iter().map(shown);
        format!("{subcommand}{}", options.collect::<String>())
    }

    /// The command, words separated by one space.
    pub(crate) fn command(&self) -> String {
        format!("{} {}", self.binary, self.arguments())
    }

    /// The `run` script of a directory that runit or s6 supervises.
    pub(crate) fn run_script(&self) -> String {
        format!(
            "\
#!/bin/sh
# {header}
exec 2>&1
exec {command}
",
            header = header(self.program),
            command = self.command()
        )
    }

    /// The same command in other words, for an init that keeps one of two equal lines: with the
    /// runtime directory before the subcommand.
    pub(crate) fn command_in_other_words(&self) -> String {
        let mut command = format!("{} --runtime-dir {} agent", self.binary, self.runtime_dir);
        for option in &self.options {
            if option.0 != "--runtime-dir" {
                command += &shown(option);
            }
        }
        command
    }

    /// The command, if init takes that many characters.
    ///
    /// # Errors
    /// It is too long; says what to do.
    pub(crate) fn check_length(command: &str, most: usize, init: &str) -> Result<()> {
        let length = command.len();
        if length > most {
            bail!(
                "the command is {length} characters long, and {init} takes at most {most}: {command}\n\
                 use shorter paths; a symbolic link to a long one will do"
            );
        }
        Ok(())
    }
}

/// An option, with a space before each of its words.
fn shown((option, value): &(&'static str, Option<String>)) -> String {
    match value {
        Some(value) => format!(" {option} {value}"),
        None => format!(" {option}"),
    }
}

/// How the agents of a runtime directory are asked, in words that need no quotes.
///
/// # Errors
/// As [`InitEntry::new`].
pub(crate) fn client(root: &Root, given: Option<&Path>, runtime_dir: &Path) -> Result<String> {
    let binary = binary(root, given)?;
    Ok(match word(runtime_dir)? {
        dir if dir == DEFAULT_RUNTIME_DIR => binary,
        dir => format!("{binary} --runtime-dir {dir}"),
    })
}

/// The path of respawn within the root.
fn binary(root: &Root, given: Option<&Path>) -> Result<String> {
    let binary = match given {
        Some(path) => path.to_owned(),
        None => running_binary(root)?,
    };
    let binary = word(&binary)?;
    if !root.exists(&binary) {
        bail!(
            "{} is not there; --binary PATH says where respawn is in {}",
            root.shown(&binary),
            root.path().display()
        );
    }
    Ok(binary)
}

/// The runtime directory that an agent's command names.
pub(crate) fn runtime_dir_of(command: &str) -> &str {
    let mut words = command.split_ascii_whitespace();
    words
        .by_ref()
        .find(|word| *word == "--runtime-dir")
        .and_then(|_| words.next())
        .unwrap_or(DEFAULT_RUNTIME_DIR)
}

/// The path of this process's binary, as it is named within the root.
fn running_binary(root: &Root) -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot tell the path of this binary")?;
    if !path.exists() {
        bail!(
            "the binary that is running has been deleted or replaced ({}); run the one that is to stay",
            path.display()
        );
    }
    match path.strip_prefix(root.path()) {
        Ok(inside) => Ok(Path::new("/").join(inside)),
        Err(_) => Ok(path),
    }
}

/// A path that is one word in every init's file and in a shell, without quotes.
fn word(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path)
        .with_context(|| format!("cannot make {} absolute", path.display()))?;
    let text = absolute.to_str().unwrap_or_default();
    check_word(text).with_context(|| format!("{}: a symbolic link will do", path.display()))?;
    Ok(text.to_owned())
}

/// Refuses what some init's file or a shell would not take as one word.
fn check_word(text: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@:".contains(c);
    if text.is_empty() || !text.chars().all(is_plain) {
        bail!(
            "{text:?} cannot stand in every init's file; use letters, digits and / . _ - + , @ :"
        );
    }
    Ok(())
}

#[cfg(test)]
impl InitEntry {
    /// As `new` makes it, without a look at files.
    pub(crate) fn for_test(options: &[(&'static str, &str)]) -> Self {
        let runtime_dir = options
            .iter()
            .find(|(option, _)| *option == "--runtime-dir")
            .map_or(DEFAULT_RUNTIME_DIR, |(_, directory)| directory);
        let options = options.iter();
        Self {
            program: Program::Agent,
            binary: "/usr/sbin/respawn".to_owned(),
            runtime_dir: runtime_dir.to_owned(),
            options: options
                .map(|(option, directory)| (*option, Some((*directory).to_owned())))
                .collect(),
        }
    }

    /// As `of_recorder` makes it, without a look at files.
    pub(crate) fn of_recorder_for_test() -> Self {
        Self {
            program: Program::Recorder,
            options: vec![("--group", Some("adm".to_owned())), ("--no-argv", None)],
            ..Self::for_test(&[])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options<'static> {
        Options {
            binary: None,
            config: Path::new(DEFAULT_CONFIG),
            runtime_dir: Path::new(DEFAULT_RUNTIME_DIR),
            pin_dir: Path::new(DEFAULT_PIN_DIR),
        }
    }

    #[test]
    fn names_what_is_not_default() {
        let root = Root::of_this_host();
        let entry = InitEntry::new(&root, &options()).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(entry.command(), format!("{} agent", exe.display()));
        let entry = InitEntry::new(
            &root,
            &Options {
                binary: Some(Path::new("/bin/sh")),
                config: Path::new("/c"),
                runtime_dir: Path::new("/r"),
                ..options()
            },
        )
        .unwrap();
        assert_eq!(
            entry.command(),
            "/bin/sh agent --runtime-dir /r --config /c"
        );
        assert_eq!(
            entry.command_in_other_words(),
            "/bin/sh --runtime-dir /r agent --config /c"
        );
        assert_eq!(runtime_dir_of(&entry.command()), "/r");
        assert_eq!(runtime_dir_of("/bin/sh agent"), DEFAULT_RUNTIME_DIR);
    }

    #[test]
    fn refuses_what_would_need_quotes() {
        let root = Root::of_this_host();
        for bad in ["/a b", "/a'", "/a#b", "/a$b", "/a%b", "/\u{e9}", "/a\n"] {
            let config = Path::new(bad);
            let entry = InitEntry::new(
                &root,
                &Options {
                    config,
                    ..options()
                },
            );
            assert!(entry.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_image_must_hold_the_binary() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let error = InitEntry::new(&root, &options()).unwrap_err();
        assert!(error.to_string().contains("--binary"), "{error}");
        std::fs::create_dir_all(dir.path().join("usr/sbin")).unwrap();
        std::fs::write(dir.path().join("usr/sbin/respawn"), "").unwrap();
        let binary = Some(Path::new("/usr/sbin/respawn"));
        let entry = InitEntry::new(
            &root,
            &Options {
                binary,
                ..options()
            },
        )
        .unwrap();
        assert_eq!(entry.command(), "/usr/sbin/respawn agent");
    }

    #[test]
    fn too_long_is_told_with_the_limit() {
        assert!(InitEntry::check_length(&"x".repeat(127), 127, "sysvinit").is_ok());
        let error = InitEntry::check_length(&"x".repeat(128), 127, "sysvinit").unwrap_err();
        let error = error.to_string();
        assert!(error.contains("128") && error.contains("at most 127"));
    }
}

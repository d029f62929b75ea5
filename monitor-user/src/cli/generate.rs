//! `respawn completions`, `man`, `help` and `version`: made from the same definitions as `--help`.
//! Installs nothing.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap::error::ErrorKind;
use clap_complete::Shell;
use clap_complete::engine::ArgValueCompleter;
use clap_complete::env::Shells;
use clap_mangen::Man;
use roff::{Inline, Roff, bold, roman};
use serde_json::json;

use super::ask::{end, write_json};
use super::{Cli, complete};
use crate::config::reference::{AGENT, File as ConfigFile, SERVICE, plain};

/// Commands for system administration: `man 8 respawn`.
const SECTION: &str = "8";

/// Files: `man 5 respawn-service`.
const FILES: &str = "5";

/// Print a shell's completion script
///
/// The script asks `respawn` at each Tab, which knows the services, the signals, and the commands
/// and options of its version. Print it again after an upgrade. For example, for one session of
/// bash: source <(respawn completions bash)
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print a manual page
///
/// Prints the page of a command, of respawn itself, or of a file of its config, in roff; to read it:
/// respawn man service | man -l -
#[derive(Debug, clap::Args)]
pub(crate) struct ManPages {
    /// The command, such as "watch"; respawn itself by default. Or a file: "service", "agent.toml"
    #[arg(
        value_name = "COMMAND",
        conflicts_with = "dir",
        add = ArgValueCompleter::new(complete::commands)
    )]
    command: Option<String>,
    /// Write all pages into this directory, which is made if it is missing. If it is called man8, those
    /// of files go into man5 beside it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Print the help of a command
///
/// Prints what `--help` prints: of a command, or of respawn itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Help {
    /// The command, such as "watch"; respawn itself by default
    #[arg(value_name = "COMMAND", add = ArgValueCompleter::new(complete::commands))]
    command: Option<String>,
}

/// Print the version
///
/// Prints the version of this program. `respawn doctor` shows what it can do on this host, and the
/// journal the version of each agent (agent_started).
#[derive(Debug, clap::Args)]
pub(crate) struct Version {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the script.
///
/// # Errors
/// Output that cannot be written.
pub(crate) fn completions(arguments: &Completions) -> Result<ExitCode> {
    print(&script(arguments.shell)?)
}

fn script(shell: Shell) -> Result<Vec<u8>> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let shell = shells
        .completer(&name)
        .with_context(|| format!("there are no completions for {name}"))?;
    let mut script = Vec::new();
    shell.write_registration(
        complete::VARIABLE,
        "respawn",
        "respawn",
        "respawn",
        &mut script,
    )?;
    Ok(script)
}

/// Prints the help. A command that does not exist is wrong usage.
///
/// # Errors
/// Output that cannot be written.
pub(crate) fn help(arguments: &Help) -> Result<ExitCode> {
    let mut respawn = Cli::command();
    respawn.build();
    let help = match &arguments.command {
        None => respawn.render_long_help(),
        Some(name) => match respawn.find_subcommand_mut(name) {
            Some(command) => command.render_long_help(),
            None => no_command(name),
        },
    };
    let written = write!(anstream::stdout(), "{}", help.ansi());
    end(written, ExitCode::SUCCESS)
}

/// Prints the version.
///
/// # Errors
/// Output that cannot be written.
pub(crate) fn version(arguments: &Version) -> Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let out = &mut io::stdout();
    let written = match arguments.json {
        true => write_json(&json!({ "version": version }), out),
        false => writeln!(out, "respawn {version}"),
    };
    end(written, ExitCode::SUCCESS)
}

fn no_command(name: &str) -> ! {
    let message = format!("respawn has no command {name:?}; `respawn help` lists them");
    Cli::command()
        .error(ErrorKind::InvalidSubcommand, message)
        .exit()
}

/// Prints one page, or writes all. A command that does not exist is wrong usage.
///
/// # Errors
/// What cannot be written.
pub(crate) fn man(arguments: &ManPages) -> Result<ExitCode> {
    if let Some(dir) = &arguments.dir {
        write_all(dir).with_context(|| format!("cannot write into {}", dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = arguments.command.as_deref();
    let Some(page) = pages()?
        .into_iter()
        .find(|page| page.of.as_deref() == wanted)
    else {
        no_command(wanted.unwrap_or_default())
    };
    print(&page.roff)
}

/// A manual page.
struct Page {
    /// The command, or the file; respawn's own has none.
    of: Option<String>,
    /// "respawn-watch.8"
    file: String,
    roff: Vec<u8>,
}

/// Every page.
fn pages() -> io::Result<Vec<Page>> {
    let mut respawn = Cli::command();
    respawn.build();
    let source = source();
    let page = |of: Option<String>, command: &clap::Command| {
        let page = Man::new(command.clone());
        let page = page.section(SECTION).source(&source).manual("respawn");
        let mut roff = Vec::new();
        page.render(&mut roff)?;
        let file = page.get_filename();
        Ok(Page { of, file, roff })
    };
    let commands = respawn.get_subcommands();
    let commands = commands
        .filter(|command| !command.is_hide_set())
        .map(|command| page(Some(command.get_name().to_owned()), command));
    let files = [SERVICE, AGENT].into_iter().map(|file| Ok(page_of(&file)));
    [page(None, &respawn)]
        .into_iter()
        .chain(commands)
        .chain(files)
        .collect()
}

fn source() -> String {
    format!("respawn {}", env!("CARGO_PKG_VERSION"))
}

/// The page of a file of the config.
fn page_of(file: &ConfigFile) -> Page {
    let ConfigFile {
        page,
        title,
        synopsis,
        keys,
        ..
    } = file;
    let mut roff = Roff::new();
    roff.control("TH", [*page, FILES, "", &source(), "respawn"])
        .control("SH", ["NAME"])
        .text([roman(format!("{page} - {title}"))])
        .control("SH", ["SYNOPSIS"]);
    for path in *synopsis {
        roff.text([roman(*path)]).control("br", []);
    }
    roff.control("SH", ["DESCRIPTION"])
        .text([roman("A file in TOML. A duration is a string with units, such as ")])
        .text(words("`\"500ms\"`, `\"1m 30s\"`; a size is one such as `\"64MiB\"`, or a number of bytes."))
        .text(words(
            "`respawn check` reports all that is wrong with it. `respawn reload` has the agent read it again.",
        ))
        .control("SH", ["KEYS"]);
    for key in *keys {
        roff.control("TP", [])
            .text([bold(key.name), roman(format!(" ({})", key.form()))])
            .text(words(&plain(key.text)));
        if !key.default.is_empty() {
            let default = format!("Default: {}", plain(key.default));
            roff.control("br", []).text(words(&default));
        }
    }
    let others = [SERVICE.page, AGENT.page].into_iter();
    let other = others.filter(|other| other != page);
    let other = other.map(|it| format!("{it}({FILES})")).collect::<String>();
    roff.control("SH", ["SEE ALSO"]).text([roman(format!(
        "respawn({SECTION}), respawn-check({SECTION}), {other}"
    ))]);
    Page {
        of: page.strip_prefix("respawn-").map(str::to_owned),
        file: format!("{page}.{FILES}"),
        roff: roff.render().into_bytes(),
    }
}

/// What stands in backticks is bold.
fn words(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    let parts = parts.filter(|(_, part)| !part.is_empty());
    parts
        .map(|(number, part)| match number % 2 {
            0 => roman(part),
            _ => bold(part),
        })
        .collect()
}

fn write_all(dir: &Path) -> io::Result<()> {
    let is_man8 = dir.file_name().is_some_and(|name| name == "man8");
    let of_files = match dir.parent().filter(|_| is_man8) {
        Some(parent) => parent.join("man5"),
        None => dir.to_owned(),
    };
    for page in pages()? {
        let dir = match page.file.ends_with(FILES) {
            true => &of_files,
            false => dir,
        };
        fs::create_dir_all(dir)?;
        fs::write(dir.join(&page.file), &page.roff)?;
    }
    Ok(())
}

/// A reader that has gone had enough.
fn print(bytes: &[u8]) -> Result<ExitCode> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use tempfile::TempDir;

    use super::*;

    /// The commands that `respawn --help` lists.
    fn commands() -> Vec<String> {
        let cli = Cli::command();
        let commands = cli.get_subcommands();
        commands
            .filter(|command| !command.is_hide_set())
            .map(|command| command.get_name().to_owned())
            .collect()
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = TempDir::new().unwrap();
        write_all(dir.path()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let names = commands();
        let own = read("respawn.8");
        for name in &names {
            let page = read(&format!("respawn-{name}.8"));
            assert!(page.contains(&format!(".TH respawn-{name} 8")), "{page}");
            for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] {
                assert!(
                    page.contains(&format!(".SH {heading}")),
                    "{name}: {heading}"
                );
            }
            let name = name.replace('-', "\\-");
            assert!(own.contains(&format!("respawn\\-{name}(8)")), "{name}");
        }
        let written = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(written, names.len() + 3);
    }

    #[test]
    fn each_file_of_the_config_has_a_page() {
        let dir = TempDir::new().unwrap();
        write_all(&dir.path().join("man8")).unwrap();
        for file in [SERVICE, AGENT] {
            let path = format!("man5/{}.5", file.page);
            let page = fs::read_to_string(dir.path().join(path)).unwrap();
            let of_name = file.page.replace('-', "\\-");
            assert!(
                page.contains(&format!("{of_name} \\- {}", file.title)),
                "{page}"
            );
            for key in file.keys {
                assert!(page.contains(&format!("\\fB{}\\fR", key.name)), "{page}");
            }
            for mark in ["](", "`"] {
                assert!(!page.contains(mark), "{mark} in {page}");
            }
        }
    }

    #[test]
    fn the_readme_tells_of_every_command() {
        let readme = include_str!("../../../README.md");
        for name in commands() {
            assert!(readme.contains(&format!("`respawn {name}")), "{name}");
        }
    }

    #[test]
    fn every_command_that_tells_a_program_something_takes_json() {
        let all = Cli::command();
        for command in all.get_subcommands().filter(|it| !it.is_hide_set()) {
            let takes = command.get_arguments().any(|one| one.get_id() == "json");
            let none = [
                "agent",
                "recorder",
                "logger",
                "metrics",
                "top",
                "completions",
                "man",
                "help",
            ]
            .contains(&command.get_name());
            assert_ne!(takes, none, "{}", command.get_name());
        }
    }

    #[test]
    fn every_shell_has_a_script_that_asks() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell).unwrap()).unwrap();
            assert!(script.contains(complete::VARIABLE), "{shell}: {script}");
        }
    }

    /// A first line that is an imperative without a full stop, and more below it.
    #[test]
    fn every_command_has_a_short_and_a_long_help() {
        let all = Cli::command();
        for command in all.get_subcommands().filter(|it| !it.is_hide_set()) {
            let name = command.get_name();
            let about = command.get_about().unwrap().to_string();
            let first = about.split(' ').next().unwrap();
            assert!(
                !about.ends_with('.') && !about.contains('\n'),
                "{name}: {about}"
            );
            assert!(first.starts_with(char::is_uppercase), "{name}: {about}");
            assert!(!first.ends_with('s'), "{name}: {about}");
            assert!(command.get_long_about().is_some(), "{name}");
            for argument in command
                .get_arguments()
                .filter(|argument| !argument.is_hide_set())
            {
                let help = argument.get_help().unwrap().to_string();
                assert!(!help.ends_with('.'), "{name}: {help}");
            }
        }
    }
}

//! `respawn completions`, `man`, `help` and `version`: made from the same definitions as `--help`.
//! Installs nothing.

use std::fs::{self, File};
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
use serde_json::json;

use super::ask::{end, write_json};
use super::{Cli, complete};

/// Commands for system administration: `man 8 respawn`.
const SECTION: &str = "8";

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
/// Prints the page of a command, or of respawn itself, in roff; to read it: respawn man | man -l -
#[derive(Debug, clap::Args)]
pub(crate) struct ManPages {
    /// The command, such as "watch"; respawn itself by default
    #[arg(
        value_name = "COMMAND",
        conflicts_with = "dir",
        add = ArgValueCompleter::new(complete::commands)
    )]
    command: Option<String>,
    /// Write all pages into this directory, which is made if it is missing
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
    let Some((_, page)) = pages()
        .into_iter()
        .find(|(name, _)| name.as_deref() == wanted)
    else {
        no_command(wanted.unwrap_or_default())
    };
    let mut roff = Vec::new();
    page.render(&mut roff)?;
    print(&roff)
}

/// Every page, each with its command's name; respawn's own has none.
fn pages() -> Vec<(Option<String>, Man)> {
    let mut respawn = Cli::command();
    respawn.build();
    let source = format!("respawn {}", env!("CARGO_PKG_VERSION"));
    let page = |command: &clap::Command| {
        let page = Man::new(command.clone());
        page.section(SECTION).source(&source).manual("respawn")
    };
    let commands = respawn.get_subcommands();
    let commands = commands
        .filter(|command| !command.is_hide_set())
        .map(|command| (Some(command.get_name().to_owned()), page(command)));
    [(None, page(&respawn))]
        .into_iter()
        .chain(commands)
        .collect()
}

fn write_all(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (_, page) in pages() {
        let mut file = File::create(dir.join(page.get_filename()))?;
        page.render(&mut file)?;
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
        assert_eq!(written, names.len() + 1);
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

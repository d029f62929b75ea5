//! The command line: one file a subcommand. Parses, and hands on what was meant.

pub(crate) mod agent;
mod ask;
pub(crate) mod check;
pub(crate) mod complete;
pub(crate) mod deaths;
pub(crate) mod doctor;
pub(crate) mod enable;
mod events;
mod filters;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod install;
pub(crate) mod is_up;
mod lines;
pub(crate) mod logger;
pub(crate) mod logs;
pub(crate) mod metrics;
mod output;
mod probe;
pub(crate) mod recorder;
pub(crate) mod reload;
mod services;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod steer;
mod top;
pub(crate) mod unpin;
pub(crate) mod watch;
pub(crate) mod why;

pub(crate) use output::eprint_line;
#[cfg(test)]
pub(crate) use why::why_words;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::text;

/// Keep services alive on a Linux host, whatever dies, the watcher included
///
/// `respawn agent` runs the services in /etc/respawn/services/*.toml, one file for each, and init keeps
/// the agent running. `watch`, `check` and `doctor` need no agent, `events` and `why` read its journal,
/// `logs` reads the output of services, and the other commands talk to the agent. `deaths` and `why` read
/// what `respawn recorder` has recorded of the whole host.
#[derive(Debug, Parser)]
#[command(
    name = "respawn",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 no agent to talk to.",
    propagate_version = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the agent keeps its socket, lock, journal and state
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "RESPAWN_RUNTIME_DIR",
        hide_env_values = true,
        default_value = "/run/respawn"
    )]
    pub(crate) runtime_dir: PathBuf,
    /// Where the agent pins its kernel programs and maps, on a bpf file system
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "RESPAWN_PIN_DIR",
        hide_env_values = true,
        default_value = "/sys/fs/bpf/respawn"
    )]
    pub(crate) pin_dir: PathBuf,
    /// File with the kernel's BTF, if it is not /sys/kernel/btf/vmlinux
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "RESPAWN_BTF",
        hide_env_values = true
    )]
    pub(crate) btf: Option<PathBuf>,
    /// A kernel object to load instead of the one in this binary, to test it
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "RESPAWN_BPF_OBJECT",
        hide = true
    )]
    pub(crate) bpf_object: Option<PathBuf>,
    /// What to log on standard error: error, warn, info, debug, trace, or a filter such as "respawn=debug"
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "RESPAWN_LOG",
        hide_env_values = true,
        default_value = "warn"
    )]
    pub(crate) log: String,
}

/// Where the config is, for the subcommands that read it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigDir {
    /// The config directory, with services/*.toml and agent.toml
    #[arg(
        long,
        value_name = "DIR",
        env = "RESPAWN_CONFIG",
        hide_env_values = true,
        default_value = "/etc/respawn"
    )]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::Arguments),
    Recorder(recorder::Arguments),
    #[command(hide = true)]
    Logger(logger::Arguments),
    Watch(watch::Arguments),
    Status(status::Arguments),
    IsUp(is_up::Arguments),
    Show(show::Arguments),
    Start(steer::Start),
    Stop(steer::Stop),
    Restart(steer::Restart),
    Signal(steer::SignalArguments),
    Enable(enable::Enable),
    Disable(enable::Disable),
    Reload(reload::Arguments),
    Shutdown(steer::Shutdown),
    Check(check::Arguments),
    Events(events::Arguments),
    Logs(logs::Arguments),
    Deaths(Box<deaths::Arguments>),
    Why(why::Arguments),
    Metrics(Box<metrics::Arguments>),
    Top(top::Arguments),
    Doctor(doctor::Arguments),
    Import(import::Arguments),
    Install(install::Arguments),
    Uninstall(install::UninstallArguments),
    Unpin(unpin::Arguments),
    Completions(generate::Completions),
    Man(generate::ManPages),
    Help(generate::Help),
    #[command(hide = true)]
    Probe(probe::Arguments),
    Version(generate::Version),
}

/// Reads the command line; ends the process if that asks for help, or is wrong.
pub(crate) fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        if !error.use_stderr() {
            // The help that was asked for, which names the variables.
            error.exit();
        }
        // A usage line names what is on the command line. For clap that is what the environment
        // sets, too: the same error without it has the line that is meant.
        match without_environment(Cli::command()).try_get_matches() {
            Err(same) if same.kind() == error.kind() => exit(&same),
            _ => exit(&error),
        }
    })
}

fn without_environment(command: clap::Command) -> clap::Command {
    let unset = clap::builder::Resettable::<clap::builder::OsStr>::Reset;
    let command = command.mut_args(|arg| arg.env(unset.clone()));
    command.mut_subcommands(without_environment)
}

/// As clap ends a process, unless it would quote what should not reach a terminal.
fn exit(error: &clap::Error) -> ! {
    let words = error.render().to_string();
    let shown = text::printable_lines(&words);
    if shown == words {
        error.exit();
    }
    // Standard error may be closed: then nobody is left to tell.
    let _ = io::Write::write_all(&mut io::stderr(), shown.as_bytes());
    std::process::exit(error.exit_code());
}

/// Runs what was asked for.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Agent(arguments) => agent::run(&cli.global, arguments),
        Command::Recorder(arguments) => recorder::run(&cli.global, &arguments),
        Command::Logger(arguments) => logger::run(&cli.global, &arguments),
        Command::Watch(arguments) => watch::run(&cli.global, &arguments),
        Command::Status(arguments) => status::run(&cli.global, &arguments),
        Command::IsUp(arguments) => is_up::run(&cli.global, &arguments),
        Command::Show(arguments) => show::run(&cli.global, &arguments),
        Command::Start(arguments) => steer::start(&cli.global, &arguments),
        Command::Stop(arguments) => steer::stop(&cli.global, &arguments),
        Command::Restart(arguments) => steer::restart(&cli.global, &arguments),
        Command::Signal(arguments) => steer::signal(&cli.global, &arguments),
        Command::Enable(arguments) => enable::enable(&arguments),
        Command::Disable(arguments) => enable::disable(&arguments),
        Command::Reload(arguments) => reload::run(&cli.global, &arguments),
        Command::Shutdown(arguments) => steer::shutdown(&cli.global, &arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Events(arguments) => events::run(&cli.global, &arguments),
        Command::Logs(arguments) => logs::run(&cli.global, &arguments),
        Command::Deaths(arguments) => deaths::run(&arguments),
        Command::Why(arguments) => why::run(&cli.global, &arguments),
        Command::Metrics(arguments) => metrics::run(&cli.global, &arguments),
        Command::Top(arguments) => top::run(&cli.global, &arguments),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&cli.global, &arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Install(arguments) => install::install(&cli.global, &arguments),
        Command::Uninstall(arguments) => install::uninstall(&cli.global, &arguments),
        Command::Unpin(arguments) => unpin::run(&cli.global, &arguments),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Man(arguments) => generate::man(&arguments),
        Command::Help(arguments) => generate::help(&arguments),
        Command::Version(arguments) => generate::version(&arguments),
    }
}

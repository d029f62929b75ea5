//! What a shell completes: commands and options by themselves, services, units and signals by asking.
//!
//! Runs at each Tab: waits for no agent that does not answer at once, and prints no error.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::engine::CompletionCandidate;

use super::Cli;
use crate::config::{self, Surroundings};
use crate::control::{Command, Response, client};
use crate::model::Signal;
use crate::os::mounts::{Mount, mounts};

/// The variable by which a completion script asks for candidates.
pub(super) const VARIABLE: &str = "RESPAWN_COMPLETE";

/// How long an agent may take to name its services.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// How deep units are looked for, and how many are offered: on a node of a cluster there are thousands.
const DEEPEST: u32 = 6;
const MOST_UNITS: usize = 2_000;

/// Answers a completion script, if it is one that has started this process, and ends then.
pub(crate) fn answer() {
    clap_complete::CompleteEnv::with_factory(command)
        .var(VARIABLE)
        .complete();
}

/// The command line without the options that are hidden: a candidate that is hidden is offered
/// where it is the only one.
pub(super) fn command() -> clap::Command {
    without_hidden(Cli::command())
}

fn without_hidden(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.is_hide_set() {
        // No word can begin so.
        true => {
            let name = format!("\0{}", arg.get_id());
            arg.long(name)
        }
        false => arg,
    });
    command.mut_subcommands(without_hidden)
}

/// The services that there are.
pub(super) fn services(current: &OsStr) -> Vec<CompletionCandidate> {
    let runtime_dir = option("--runtime-dir", "RESPAWN_RUNTIME_DIR", "/run/respawn");
    let names = of_agent(&runtime_dir).unwrap_or_else(|| {
        let dir = option("--config", "RESPAWN_CONFIG", "/etc/respawn");
        of_config(&dir)
    });
    beginning_with(current, names)
}

/// The services, and the units of systemd's that have processes.
pub(super) fn services_and_units(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = services(current);
    candidates.extend(units(current));
    candidates
}

/// The units of systemd's that have processes.
pub(super) fn units(current: &OsStr) -> Vec<CompletionCandidate> {
    let mounts = mounts().unwrap_or_default();
    // The hierarchy of version 2, or systemd's own of version 1.
    let is_named = |mount: &&Mount| mount.kind == "cgroup" && mount.point.ends_with("systemd");
    let of_kind = |mount: &&Mount| mount.kind == "cgroup2";
    let named = mounts.iter().filter(is_named);
    let places = named.chain(mounts.iter().filter(of_kind));
    let mut names = BTreeSet::new();
    for mount in places {
        add_units(&mount.point, DEEPEST, &mut names);
    }
    beginning_with(current, names.into_iter().collect())
}

/// Adds those of the cgroups below this one, down to so many levels.
fn add_units(cgroup: &Path, levels: u32, names: &mut BTreeSet<String>) {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in directories {
        if names.len() == MOST_UNITS {
            return;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.rsplit_once('.') {
            Some((_, "service" | "scope")) => {
                // What would be taken for a file of the kernel's has one character more.
                let unit = name.strip_prefix('_').unwrap_or(&name).to_owned();
                names.insert(unit);
            }
            Some((_, "slice")) if levels > 0 => add_units(&entry.path(), levels - 1, names),
            _ => {}
        }
    }
}

/// The signals, by the names that `respawn signal` takes.
pub(super) fn signals(current: &OsStr) -> Vec<CompletionCandidate> {
    let names: Vec<String> = Signal::all().map(|signal| signal.to_string()).collect();
    let typed = current.to_string_lossy();
    let is_short = !typed.is_empty() && !"SIG".starts_with(&*typed) && !typed.starts_with("SIG");
    let shown = names.iter().map(|name| match is_short {
        true => name.trim_start_matches("SIG").to_owned(),
        false => name.clone(),
    });
    beginning_with(current, shown.collect())
}

/// The commands that have help and a page.
pub(super) fn commands(current: &OsStr) -> Vec<CompletionCandidate> {
    let cli = Cli::command();
    let names = cli.get_subcommands().map(|command| command.get_name());
    beginning_with(current, names.map(str::to_owned).collect())
}

pub(super) fn beginning_with(current: &OsStr, names: Vec<String>) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy();
    let names = names.into_iter().filter(|name| name.starts_with(&*typed));
    names.map(CompletionCandidate::new).collect()
}

/// An option as it stands on the line that is completed, or in the environment.
fn option(name: &str, variable: &str, default: &str) -> PathBuf {
    let words: Vec<_> = std::env::args_os().collect();
    let after = |word: &OsStr| {
        let text = word.to_str()?;
        text.strip_prefix(name)?
            .strip_prefix('=')
            .map(PathBuf::from)
    };
    let apart = words.windows(2).rev().find_map(|pair| match pair {
        [word, value] if word == name => Some(PathBuf::from(value)),
        _ => None,
    });
    let joined = || words.iter().rev().find_map(|word| after(word));
    let of_environment = || std::env::var_os(variable).map(PathBuf::from);
    apart
        .or_else(joined)
        .or_else(of_environment)
        .unwrap_or_else(|| PathBuf::from(default))
}

/// What the agent names, if it does at once.
pub(super) fn of_agent(runtime_dir: &Path) -> Option<Vec<String>> {
    let (mut stream, _) = client::reach(runtime_dir).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).ok()?;
    let services = Vec::new();
    let request = Command::Status { services }.to_line();
    stream.write_all(&request).ok()?;
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line).ok()?;
    match Response::from_line(&line).ok()? {
        Response::Status { services } => {
            Some(services.into_iter().map(|status| status.service).collect())
        }
        _ => None,
    }
}

/// The services of a config; of one with a problem, what is known of them.
fn of_config(dir: &Path) -> Vec<String> {
    let config = match config::load(dir, &Surroundings::of_this_process()) {
        Ok(config) => Some(config),
        Err(invalid) => invalid.usable.map(|config| *config),
    };
    let services = config.into_iter().flat_map(|config| config.services);
    services.map(|(name, _)| name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    /// What a shell would offer after these words, of which the last is incomplete.
    fn offered(words: &[&str]) -> Vec<String> {
        let words: Vec<OsString> = ["respawn"].iter().chain(words).map(Into::into).collect();
        let index = words.len() - 1;
        let mut command = command();
        command.build();
        let candidates = clap_complete::engine::complete(&mut command, words, index, None).unwrap();
        let name =
            |candidate: CompletionCandidate| candidate.get_value().to_string_lossy().into_owned();
        candidates.into_iter().map(name).collect()
    }

    #[test]
    fn what_is_hidden_is_not_offered() {
        let mut hidden = 0;
        let cli = Cli::command();
        let of = |command: &clap::Command| {
            let hidden = command.get_arguments().filter(|arg| arg.is_hide_set());
            let names = hidden.filter_map(|arg| arg.get_long().map(str::to_owned));
            names.collect::<Vec<_>>()
        };
        for (command, options) in cli
            .get_subcommands()
            .map(|command| (Some(command.get_name()), of(command)))
            .chain([(None, of(&cli))])
        {
            let before: Vec<&str> = command.into_iter().collect();
            for option in options {
                hidden += 1;
                for typed in ["--", &format!("--{option}"), &format!("--{}", &option[..3])] {
                    let offered = offered(&[&before[..], &[typed]].concat());
                    let word = format!("--{option}");
                    assert!(!offered.contains(&word), "{command:?} {typed}: {offered:?}");
                }
            }
        }
        assert!(hidden >= 3);
        assert!(offered(&["watch", "--"]).contains(&"--name".to_owned()));
    }

    #[test]
    fn signals_are_offered_as_they_are_typed() {
        assert_eq!(offered(&["signal", "SIGH"]), ["SIGHUP"]);
        assert_eq!(offered(&["signal", "HU"]), ["HUP"]);
        assert!(offered(&["signal", ""]).contains(&"SIGRTMIN+1".to_owned()));
        assert!(offered(&["help", "wat"]).contains(&"watch".to_owned()));
    }

    #[test]
    fn units_are_those_that_have_a_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        for cgroup in [
            "system.slice/nginx.service",
            "system.slice/_cpu.service",
            "system.slice/run-x.mount",
            "user.slice/user-1.slice/session-1.scope",
            "respawn/web.0",
            "system.slice/postgresql@15-main.service/deeper.service",
        ] {
            fs::create_dir_all(dir.path().join(cgroup)).unwrap();
        }
        fs::write(dir.path().join("cgroup.service"), "").unwrap();
        let mut names = BTreeSet::new();
        add_units(dir.path(), DEEPEST, &mut names);
        let expected = [
            "cpu.service",
            "nginx.service",
            "postgresql@15-main.service",
            "session-1.scope",
        ];
        assert_eq!(names, expected.map(str::to_owned).into());
    }

    #[test]
    fn without_an_agent_the_config_names_the_services() {
        let dir = tempfile::tempdir().unwrap();
        let services = dir.path().join(config::SERVICES);
        std::fs::create_dir(&services).unwrap();
        let write = |name: &str, text: &str| std::fs::write(services.join(name), text).unwrap();
        write("web.toml", "command = [\"/bin/true\"]");
        write("more.toml", "[service.db]\ncommand = [\"/bin/true\"]");
        assert_eq!(of_config(dir.path()), ["db", "web"]);
        write("bad.toml", "nonsense");
        assert_eq!(of_config(dir.path()), ["bad", "db", "web"]);
    }
}

//! `respawn unpin`: removes what an agent that never comes back has left pinned in the kernel. Needs
//! no agent, and leaves alone what a living one has.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Value, json};

use super::ask::{self, Refusal, end};
use super::output::eprint_line;
use super::{Global, complete};
use crate::agent;
use crate::clock::{self, WallClock};
use crate::init::locks;
use crate::probe::sets::{self, NotRemoved, PinSet, RuntimeDir};
use crate::report::{Age, Times};
use crate::text::{printable, printable_lines};

/// Where agents work that are not told otherwise.
const DEFAULT_RUNTIME_DIR: &str = "/run/respawn";

/// Remove the pinned kernel programs of agents that are gone
///
/// An agent pins its kernel programs and maps, so that they record what happens until the next agent
/// starts. If no agent starts again, they stay attached until the next boot and slow down every exit on
/// the host. `respawn shutdown` and `respawn uninstall` remove them.
///
/// Without arguments, lists every set of pins on the host and how to remove it. With a PATH, removes the
/// sets there whose agents are gone. The next agent with that runtime directory then recognises its
/// services by its files alone, and who ended a service in the meantime stays unknown. The programs of
/// `respawn recorder` are listed and removed in the same way, with the deaths that are not written yet.
/// The set of a running agent is never removed; the exit status is 1 if it was named.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A set to remove, as the list shows it, or a directory with sets below it
    #[arg(value_name = "PATH", add = ArgValueCompleter::new(candidates))]
    paths: Vec<PathBuf>,
    /// Remove only sets whose agent is gone, and whose runtime directory is gone too
    ///
    /// Without a PATH, all of them on the host.
    #[arg(long)]
    all_dead: bool,
    /// Print one JSON object
    ///
    /// Its keys: `ok`, and `sets`, each with `path`, `abi_version`, `state` ("held", "waiting" for the
    /// next agent, "dead" or "unknown"), the `holder`'s pid, `runtime_dir`, `last_held`, `programs`
    /// (`name`, `runs`, `ns_per_run`), whether it was `removed`, and the `error` otherwise.
    #[arg(long)]
    json: bool,
}

/// What is known of the agent of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It lives.
    Held,
    /// It is gone, and its runtime directory is there: the next one takes the set up.
    Waiting,
    /// It is gone, and so is its runtime directory.
    Dead,
    /// It is gone, and its runtime directory is not known.
    Unknown,
}

/// A set, and what is known of it.
pub(super) struct Known {
    pub(super) set: PinSet,
    pub(super) state: State,
    /// The agent that has it, if it is seen from here.
    pub(super) holder: Option<u32>,
    /// Of its agent.
    runtime_dir: Option<PathBuf>,
}

/// What has come of a set.
enum Outcome {
    Removed,
    /// Nobody has asked for that, or it may not be.
    Kept,
    Failed(String),
}

/// Runs `respawn unpin`.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let sets = match wanted(arguments) {
        Ok(sets) => sets,
        Err(refusal) => return refusal.tell(arguments.json),
    };
    let outcomes = sets.into_iter().map(|set| {
        let known = Known::of(set, global);
        let is_wanted = match arguments.all_dead {
            true => known.state == State::Dead,
            false => !arguments.paths.is_empty(),
        };
        let outcome = match is_wanted {
            true => known.remove(),
            false => Outcome::Kept,
        };
        (known, outcome)
    });
    let outcomes: Vec<_> = outcomes.collect();
    let has_failed = |(_, outcome): &(Known, Outcome)| matches!(outcome, Outcome::Failed(_));
    let exit_code = match outcomes.iter().any(has_failed) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    };
    for (known, outcome) in &outcomes {
        if let Outcome::Failed(error) = outcome {
            eprint_line(&format!("{}: {error}", known.set.path.display()));
        }
    }
    let written = match arguments.json {
        true => {
            let sets: Vec<Value> = outcomes.iter().map(|(known, it)| known.json(it)).collect();
            let ok = exit_code == ExitCode::SUCCESS;
            ask::write_json(&json!({ "ok": ok, "sets": sets }), &mut io::stdout())
        }
        false => io::stdout().write_all(text(&outcomes, arguments).as_bytes()),
    };
    end(written, exit_code)
}

/// The sets that are asked for; all of them without a path.
fn wanted(arguments: &Arguments) -> Result<Vec<PinSet>, Refusal> {
    if arguments.paths.is_empty() {
        return sets::find().map_err(|error| refusal(&error));
    }
    let mut wanted: Vec<PinSet> = Vec::new();
    for path in &arguments.paths {
        let found = sets::at(path).map_err(|error| refusal(&error))?;
        if found.is_empty() && !arguments.all_dead {
            return Err(Refusal::new(format!(
                "{}: no pins of an agent; `respawn unpin` lists those that there are",
                path.display()
            )));
        }
        for set in found {
            if wanted.iter().all(|other| other.path != set.path) {
                wanted.push(set);
            }
        }
    }
    Ok(wanted)
}

fn refusal(error: &anyhow::Error) -> Refusal {
    let hint = match nix::unistd::geteuid().is_root() {
        true => "",
        false => "; run as root",
    };
    Refusal::new(format!("{error:#}{hint}"))
}

fn text(outcomes: &[(Known, Outcome)], arguments: &Arguments) -> String {
    let now = WallClock::read();
    let mut text = String::new();
    for (known, outcome) in outcomes {
        let path = known.set.path.display();
        // A String takes all that is written to it.
        let _ = match outcome {
            Outcome::Removed => writeln!(text, "{path}: removed"),
            Outcome::Kept if arguments.all_dead => {
                writeln!(text, "{path}: not removed: {}", known.agent(&now))
            }
            Outcome::Kept => writeln!(text, "{path}\n{}", known.description(&now)),
            Outcome::Failed(_) => Ok(()),
        };
    }
    if outcomes.is_empty() {
        text += "no agent has left anything pinned\n";
    } else if arguments.all_dead && !outcomes.iter().any(|(known, _)| known.state == State::Dead) {
        text += "nothing to remove\n";
    }
    printable_lines(&text)
}

impl Known {
    /// Looks for the agent of a set and its runtime directory.
    pub(super) fn of(set: PinSet, global: &Global) -> Self {
        let runtime_dir = set.held.as_ref().map(|held| held.runtime_dir.clone());
        let state = match set.runtime_dir() {
            _ if set.is_held => State::Held,
            RuntimeDir::There => State::Waiting,
            RuntimeDir::Gone => State::Dead,
            RuntimeDir::Unknown => State::Unknown,
        };
        let holder = set
            .is_held
            .then(|| locks::holder_of_directory(set.pin_dir()))
            .flatten();
        let mut known = Self {
            state,
            holder,
            runtime_dir,
            set,
        };
        // An older version's says only the number of its directory.
        if known.set.held.is_none() {
            known.runtime_dir = known.guess(&[&global.runtime_dir, Path::new(DEFAULT_RUNTIME_DIR)]);
            if known.runtime_dir.is_some() && state != State::Held {
                known.state = State::Waiting;
            }
        }
        known
    }

    /// The directory with its number, if that is there.
    fn guess(&self, among: &[&Path]) -> Option<PathBuf> {
        let owner = self.set.owner?;
        let mut found = among
            .iter()
            .filter(|dir| dir.exists() && agent::place(dir) == owner);
        found.next().map(|dir| agent::canonical(dir))
    }

    /// Whether nothing but a person's decision keeps it.
    pub(super) fn is_left(&self) -> bool {
        self.state != State::Held
    }

    fn remove(&self) -> Outcome {
        let held = || {
            Outcome::Failed(match self.holder {
                Some(pid) => format!(
                    "the agent with pid {pid} has it; `respawn shutdown` ends an agent and removes its pins"
                ),
                None if self.set.is_recorders() => "a recorder has it; end that first".to_owned(),
                None => "an agent has it; `respawn shutdown` ends an agent and removes its pins"
                    .to_owned(),
            })
        };
        if self.state == State::Held {
            return held();
        }
        match self.set.remove() {
            Ok(()) => Outcome::Removed,
            Err(NotRemoved::Held) => held(),
            Err(NotRemoved::Failed(error)) => Outcome::Failed(format!("{error:#}")),
        }
    }

    /// A line for `doctor`.
    pub(super) fn line(&self, now: &WallClock) -> String {
        let path = self.set.path.display();
        printable(&format!("{path}: {}; {}", self.agent(now), self.cost()))
    }

    /// Lines for a person, below the path.
    fn description(&self, now: &WallClock) -> String {
        let path = self.set.path.display();
        let then = match self.state {
            State::Held => format!(
                "it stays: a set that {} has is never removed",
                self.an_owner()
            ),
            State::Dead => "`respawn unpin --all-dead` removes it".to_owned(),
            State::Waiting => format!(
                "it stays for the next {} in that directory; if there is to be none, `respawn unpin {path}` \
                 removes it",
                self.kind()
            ),
            State::Unknown => format!("`respawn unpin {path}` removes it"),
        };
        format!(
            "  owner  {}\n  costs  {}\n  then   {then}",
            self.agent(now),
            self.cost()
        )
    }

    /// Whose it is, and when it was at work last.
    fn agent(&self, now: &WallClock) -> String {
        let dir = self.runtime_dir.as_ref().map(|dir| dir.display());
        let of = dir.map_or_else(String::new, |dir| format!(" of {dir}"));
        let last = self.set.held.as_ref().map_or_else(String::new, |held| {
            let time = Times::in_full(TimeZone::system()).of(now.at(held.at));
            let ago = Age(clock::since_boot().saturating_sub(held.at));
            format!(", last at work {time}, {ago} ago")
        });
        let (kind, directory) = (self.kind(), self.directory());
        match self.state {
            State::Held => match self.holder {
                Some(pid) => format!("held by the {kind}{of}, pid {pid}"),
                None => format!("held by the {kind}{of}"),
            },
            State::Waiting => format!("the {kind}{of} is gone{last}; its {directory} is there"),
            State::Dead => format!("the {kind}{of} is gone{last}, and so is its {directory}"),
            State::Unknown if self.runtime_dir.is_some() => {
                format!(
                    "the {kind}{of} is gone{last}; that directory cannot be looked for from here"
                )
            }
            State::Unknown => {
                "its agent is gone; that version did not record its runtime directory".to_owned()
            }
        }
    }

    /// Who makes such a set.
    fn kind(&self) -> &'static str {
        match self.set.is_recorders() {
            true => "recorder",
            false => "agent",
        }
    }

    fn an_owner(&self) -> &'static str {
        match self.set.is_recorders() {
            true => "a recorder",
            false => "an agent",
        }
    }

    /// Where that works.
    fn directory(&self) -> &'static str {
        match self.set.is_recorders() {
            true => "directory",
            false => "runtime directory",
        }
    }

    /// What the host pays for it.
    fn cost(&self) -> String {
        let programs = &self.set.programs;
        let count = match programs.len() {
            0 => return "no program attached, only memory".to_owned(),
            1 => "1 program attached".to_owned(),
            count => format!("{count} programs attached"),
        };
        let measured = programs.iter().filter(|program| program.runs > 0);
        let figures: Vec<String> = measured
            .map(|it| format!("{} {} ns a run", it.name, it.run_time_ns / it.runs))
            .collect();
        match figures[..] {
            [] => format!(
                "{count}, at every exit, fork and signal of the host; sysctl kernel.bpf_stats_enabled=1 has the \
                 kernel measure them"
            ),
            _ => format!("{count}: {}", figures.join(", ")),
        }
    }

    /// For a program.
    pub(super) fn facts(&self) -> Value {
        let now = WallClock::read();
        let held = self.set.held.as_ref();
        let programs = self.set.programs.iter().map(|program| {
            json!({
                "name": program.name,
                "runs": program.runs,
                "ns_per_run": program.run_time_ns.checked_div(program.runs),
            })
        });
        json!({
            "path": self.set.path.to_string_lossy(),
            "abi_version": self.set.version,
            "state": self.state,
            "holder": self.holder,
            "runtime_dir": self.runtime_dir.as_ref().map(|dir| dir.to_string_lossy()),
            "last_held": held.map(|held| now.at(held.at)),
            "programs": programs.collect::<Vec<_>>(),
        })
    }

    fn json(&self, outcome: &Outcome) -> Value {
        let mut facts = self.facts();
        facts["removed"] = matches!(outcome, Outcome::Removed).into();
        facts["error"] = match outcome {
            Outcome::Failed(error) => error.as_str().into(),
            _ => Value::Null,
        };
        facts
    }
}

/// For a shell: the sets that may be removed.
fn candidates(current: &OsStr) -> Vec<CompletionCandidate> {
    let sets = sets::find().unwrap_or_default();
    let left = sets.into_iter().filter(|set| !set.is_held);
    let paths = left.map(|set| set.path.to_string_lossy().into_owned());
    complete::beginning_with(current, paths.collect())
}

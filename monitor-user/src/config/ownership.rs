//! Warns where somebody else could have commands run by what a config leads to: by the owners and
//! modes of its files, its directories, the programs that it names, the scripts and interpreters that run along
//! with them, and what is on the way to each.
//! Refuses nothing: the files may be meant so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::host::Host;
use super::problem::{Diagnostics, Problem, printable};
use super::scripts::{self, Role};
use crate::model::{Probe, Ready, Reload, Spec};
use crate::os::mounts::may_hang;
use crate::os::trust::{Stranger, Survey, Trusted, Weakness};

/// One look at all that a config leads to.
#[derive(Debug)]
pub(super) struct Ownership {
    /// The agent's user.
    uid: u32,
    /// By the user as whom commands could be run.
    surveys: BTreeMap<u32, Survey>,
    /// Each place is told of once, whatever it leads to; twice if first for another user than the
    /// agent's.
    told: BTreeSet<(u32, Weakness)>,
}

impl Ownership {
    pub(super) fn new(uid: u32) -> Self {
        Self {
            uid,
            surveys: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    /// Looks at the way to what the agent reads; `what` it is, as in "a service file".
    pub(super) fn look(&mut self, path: &Path, what: &str, report: &Diagnostics) {
        self.look_for(self.uid, path, what, report);
    }

    /// Looks at what a service has run, as far as that runs as the agent's user or as root, and at what the
    /// agent reads for it.
    pub(super) fn look_at_service(
        &mut self,
        name: &str,
        spec: &Spec,
        host: &Host,
        report: &Diagnostics,
    ) {
        let identity = spec.exec.identity.as_ref();
        let uid = identity.map_or(self.uid, |identity| identity.uid);
        let search = spec.exec.environment.get("PATH").map_or("", String::as_str);
        let find = |word: &str| host.find(word, search).program;
        for command in commands_of(name, spec, self.uid) {
            self.look_at_command(&command, &find, report);
        }
        for file in &spec.exec.environment_file {
            // What it says is for that user alone, who may have written it.
            let what = format!("the environment file of {name}");
            self.look_unless_it_hangs(uid, &file.path, &what, report);
        }
    }

    /// Looks at a program, and at what runs along with it: a script, an interpreter.
    fn look_at_command(
        &mut self,
        command: &Command<'_>,
        find: &dyn Fn(&str) -> Option<PathBuf>,
        report: &Diagnostics,
    ) {
        let Command {
            whom,
            program,
            arguments,
            what,
        } = command;
        if may_hang(program) {
            return;
        }
        self.look_for(*whom, program, what, report);
        for (path, role) in scripts::run_by(program, arguments, find) {
            let what = match role {
                Role::Script => format!("a script that {what} runs"),
                Role::Interpreter => format!("the interpreter of {what}"),
            };
            self.look_unless_it_hangs(*whom, &path, &what, report);
        }
    }

    /// At what the agent itself does not read.
    fn look_unless_it_hangs(&mut self, whom: u32, path: &Path, what: &str, report: &Diagnostics) {
        if !may_hang(path) {
            self.look_for(whom, path, what, report);
        }
    }

    fn look_for(&mut self, whom: u32, path: &Path, what: &str, report: &Diagnostics) {
        let Ok(path) = std::path::absolute(path) else {
            return;
        };
        let uid = self.uid;
        let survey = self.surveys.entry(whom);
        let survey = survey.or_insert_with(|| Survey::new(Trusted::root_and(&[uid, whom])));
        for weakness in survey.way(&path).weaknesses {
            let of_agent = (uid, weakness);
            let is_told = self.told.contains(&of_agent);
            let (_, weakness) = of_agent;
            let message = message(&weakness, whom, &path, what);
            let warning = Problem::of_file(&weakness.path, message);
            if self.told.insert((whom, weakness)) && !is_told {
                report.warn(warning);
            }
        }
    }
}

/// A command that a service has run.
struct Command<'s> {
    /// As this user.
    whom: u32,
    program: &'s Path,
    /// `argv`
    arguments: &'s [String],
    /// "the program of web"
    what: String,
}

/// The commands of a service that run as the agent's user `own`, or as root.
fn commands_of<'s>(name: &str, spec: &'s Spec, own: u32) -> Vec<Command<'s>> {
    let identity = spec.exec.identity.as_ref();
    let uid = identity.map_or(own, |identity| identity.uid);
    let command = |whom, program: &'s Path, arguments: &'s [String], what: String| Command {
        whom,
        program,
        arguments,
        what,
    };
    let mut commands = Vec::new();
    if uid == own {
        let what = format!("the program of {name}");
        commands.push(command(uid, &spec.exec.program, &spec.exec.arguments, what));
        for (key, program, arguments) in asked_by(spec) {
            let what = format!("the program of {name}'s {key}");
            commands.push(command(uid, program, arguments, what));
        }
    }
    let steps = spec.steps.all();
    let steps = steps.map(|(phase, step)| (phase.to_string(), step));
    let conditions = spec.steps.conditions.iter();
    let conditions = conditions.filter_map(|it| Some(("conditions".to_owned(), it.command()?)));
    let reload = match &spec.reload {
        Some(Reload::Command(step)) => Some(("reload".to_owned(), step)),
        _ => None,
    };
    for (key, step) in steps.chain(conditions).chain(reload) {
        let as_service = step.identity.is_none();
        let whom = step.identity.as_ref().map_or(uid, |identity| identity.uid);
        if whom == 0 || as_service && whom == own {
            // There is one of `reload`, and any number of the others.
            let article = if key == "reload" { "the" } else { "a" };
            let what = format!("{article} program of {name}'s {key}");
            commands.push(command(whom, &step.program, &step.arguments, what));
        }
    }
    let hooks = &spec.hooks;
    for (key, hook) in [
        ("on_exit", &hooks.on_exit),
        ("on_restart", &hooks.on_restart),
        ("on_failed", &hooks.on_failed),
    ] {
        if let Some(hook) = hook {
            let what = format!("the program of {key}");
            commands.push(command(own, &hook.program, &hook.arguments, what));
        }
    }
    commands
}

/// By which commands a service is looked at, by their keys.
fn asked_by(spec: &Spec) -> impl Iterator<Item = (&'static str, &Path, &[String])> {
    let ready = match &spec.exec.ready {
        Some(Ready::Probe(probe)) => Some(("ready", probe)),
        _ => None,
    };
    let check = spec.check.as_ref().map(|check| ("check", &check.probe));
    let probes = ready.into_iter().chain(check);
    probes.filter_map(|(key, probe)| match probe {
        Probe::Command { program, arguments } => {
            Some((key, program.as_path(), arguments.as_slice()))
        }
        _ => None,
    })
}

/// "group 27 may write to it (mode 0775), and could run commands as root: it leads to
/// /srv/x, the program of web; expected only root; remedy: chmod g-w"
fn message(weakness: &Weakness, whom: u32, path: &Path, what: &str) -> String {
    let Weakness {
        path: place,
        stranger,
    } = weakness;
    let who = match stranger {
        Stranger::User(_) => format!("belongs to {stranger}"),
        Stranger::Group(_) | Stranger::Listed | Stranger::Everyone => {
            format!("{stranger} may write to it")
        }
    };
    let mode = fs::symlink_metadata(place).map_or(0, |found| found.mode() & 0o7777);
    let to = match place == path {
        true => format!("it is {what}"),
        false => format!("it leads to {}, {what}", printable(path)),
    };
    let (user, expected) = match whom {
        0 => ("root".to_owned(), "only root".to_owned()),
        uid => (format!("uid {uid}"), format!("only root and uid {uid}")),
    };
    let remedy = stranger.remedy();
    format!(
        "{who} (mode {mode:04o}), and could run commands as {user}: {to}; expected {expected}; \
         remedy: {remedy}"
    )
}

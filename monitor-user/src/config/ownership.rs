//! Warns where somebody else could have commands run by what a config leads to: by the owners and
//! modes of its files, its directories, the programs that it names, and what is on the way to each.
//! Refuses nothing: the files may be meant so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::problem::{Problem, Report, printable};
use crate::model::{Hook, Probe, Ready, Reload, Spec};
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
    pub(super) fn look(&mut self, path: &Path, what: &str, report: &Report) {
        self.look_for(self.uid, path, what, report);
    }

    /// Looks at what a service has run, as far as that runs as the agent's user, and at what the
    /// agent reads for it.
    pub(super) fn look_at_service(&mut self, name: &str, spec: &Spec, report: &Report) {
        let identity = spec.exec.identity.as_ref();
        let uid = identity.map_or(self.uid, |identity| identity.uid);
        if uid == self.uid {
            let what = format!("the program of {name}");
            self.look_unless_it_hangs(uid, &spec.exec.program, &what, report);
        }
        let commands = match uid == self.uid {
            true => commands_of(spec),
            false => Vec::new(),
        };
        for (key, program) in commands {
            let what = format!("the program of {name}'s {key}");
            self.look_unless_it_hangs(uid, program, &what, report);
        }
        let steps = spec.steps.all();
        let steps = steps.map(|(phase, step)| (phase.to_string(), step));
        let conditions = spec.steps.conditions.iter();
        let conditions = conditions.filter_map(|it| Some(("conditions".to_owned(), it.command()?)));
        for (key, step) in steps.chain(conditions) {
            let as_service = step.identity.is_none();
            let whom = step.identity.as_ref().map_or(uid, |identity| identity.uid);
            if whom == 0 || as_service && whom == self.uid {
                let what = format!("a program of {name}'s {key}");
                self.look_unless_it_hangs(whom, &step.program, &what, report);
            }
        }
        for file in &spec.exec.environment_file {
            // What it says is for that user alone, who may have written it.
            let what = format!("the environment file of {name}");
            self.look_unless_it_hangs(uid, &file.path, &what, report);
        }
        let hooks = &spec.hooks;
        for (key, hook) in [
            ("on_exit", &hooks.on_exit),
            ("on_restart", &hooks.on_restart),
            ("on_failed", &hooks.on_failed),
        ] {
            if let Some(Hook { program, .. }) = hook {
                let what = format!("the program of {key}");
                self.look_unless_it_hangs(self.uid, program, &what, report);
            }
        }
    }

    /// At what the agent itself does not read.
    fn look_unless_it_hangs(&mut self, whom: u32, path: &Path, what: &str, report: &Report) {
        if !may_hang(path) {
            self.look_for(whom, path, what, report);
        }
    }

    fn look_for(&mut self, whom: u32, path: &Path, what: &str, report: &Report) {
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

/// What else is run as the service's user, by its key.
fn commands_of(spec: &Spec) -> Vec<(&'static str, &Path)> {
    fn of_probe<'s>((key, probe): (&'static str, &'s Probe)) -> Option<(&'static str, &'s Path)> {
        match probe {
            Probe::Command { program, .. } => Some((key, program.as_path())),
            _ => None,
        }
    }
    let reload = match &spec.reload {
        Some(Reload::Command { program, .. }) => Some(("reload", program.as_path())),
        _ => None,
    };
    let ready = match &spec.exec.ready {
        Some(Ready::Probe(probe)) => Some(("ready", probe)),
        _ => None,
    };
    let check = spec.check.as_ref().map(|check| ("check", &check.probe));
    let probes = ready.into_iter().chain(check).filter_map(of_probe);
    reload.into_iter().chain(probes).collect()
}

/// "group 27 may write to it (mode 0775), and so could have commands run as root: it leads to
/// /srv/x, the program of web; expected root alone; remedy: chmod g-w"
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
        0 => ("root".to_owned(), "root alone".to_owned()),
        uid => (format!("uid {uid}"), format!("root and uid {uid} alone")),
    };
    let remedy = stranger.remedy();
    format!(
        "{who} (mode {mode:04o}), and so could have commands run as {user}: {to}; expected {expected}; \
         remedy: {remedy}"
    )
}

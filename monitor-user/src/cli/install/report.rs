//! What `install` and `uninstall` do, said while it is done.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::Common;
use crate::agent;
use crate::init::presence::{self, AnsweringAgent, COMES_UP_WITHIN, ENDS_WITHIN};
use crate::init::{Init, Plan, Program, Site};
use crate::probe::sets::{self, PinSet};
use crate::text;

/// What is told: to a person line by line as it happens, to a program in one object at the end.
#[derive(Debug, Serialize)]
pub(super) struct InstallReport {
    #[serde(skip)]
    json: bool,
    init: Option<&'static str>,
    pub(super) why: Option<String>,
    pub(super) dry_run: bool,
    changes: Vec<Changed>,
    asked: Vec<String>,
    notes: Vec<String>,
    agent: Option<AnsweringAgent>,
    spare: Option<u32>,
    recorder: Option<u32>,
}

/// Where to look for what init keeps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// Agents, by their runtime directory and their pin directory.
    Agent {
        runtime_dir: &'a Path,
        pin_dir: &'a Path,
    },
    /// A recorder, by its own pin directory.
    Recorder { pin_dir: &'a Path },
}

impl Target<'_> {
    pub(super) fn program(self) -> Program {
        match self {
            Self::Agent { .. } => Program::Agent,
            Self::Recorder { .. } => Program::Recorder,
        }
    }

    fn pins(self) -> Result<Vec<PinSet>> {
        match self {
            Self::Agent {
                runtime_dir,
                pin_dir,
            } => {
                let dir = agent::canonical(runtime_dir);
                sets::of_agent(&dir, agent::place(&dir), pin_dir)
            }
            Self::Recorder { pin_dir } => sets::of_recorder(pin_dir),
        }
    }

    /// Whether one that answers no longer may be at work still.
    fn may_be_at_work(self) -> bool {
        match self {
            Self::Agent { runtime_dir, .. } => agent::is_locked(&agent::canonical(runtime_dir)),
            Self::Recorder { .. } => false,
        }
    }
}

#[derive(Debug, Serialize)]
struct Changed {
    kind: &'static str,
    path: String,
    diff: String,
}

impl Changed {
    fn pins(path: &Path) -> Self {
        Self {
            kind: "unpin",
            path: path.to_string_lossy().into_owned(),
            diff: String::new(),
        }
    }
}

impl InstallReport {
    pub(super) fn new(init: Option<Init>, json: bool, common: &Common) -> Self {
        Self {
            json,
            init: init.map(Init::name),
            why: None,
            dry_run: common.dry_run,
            changes: Vec::new(),
            asked: Vec::new(),
            notes: Vec::new(),
            agent: None,
            spare: None,
            recorder: None,
        }
    }

    /// Tells what would be done.
    pub(super) fn lay_out(&mut self, plan: &Plan, site: &Site) -> Result<()> {
        let mut text = String::new();
        for ask in &plan.before {
            writeln!(text, "would run: {ask}")?;
            self.asked.push(ask.to_string());
        }
        for change in &plan.changes {
            text += &change.shown(&site.root);
        }
        self.changed(plan, site);
        for ask in &plan.after {
            writeln!(text, "would run: {ask}")?;
            self.asked.push(ask.to_string());
        }
        for note in &plan.notes {
            writeln!(text, "note: {note}")?;
            self.notes.push(note.clone());
        }
        if text.is_empty() {
            text += "nothing to do\n";
        }
        self.show(&text)
    }

    pub(super) fn install(&mut self, plan: &Plan, site: &Site, target: Target<'_>) -> Result<()> {
        if site.root.is_live() && !site.is_running {
            let init = self.init.unwrap_or_default();
            let line = format!(
                "{init} is not what runs here: nothing is asked, the entry counts once {init} does"
            );
            self.say(&line)?;
            self.notes.push(line);
        }
        self.perform(plan, site)?;
        if plan.changes.is_empty() {
            self.say("the entry exists already, unchanged")?;
        }
        if site.is_running {
            self.await_start(target, plan)?;
        }
        Ok(())
    }

    pub(super) fn perform(&mut self, plan: &Plan, site: &Site) -> Result<()> {
        for ask in &plan.before {
            self.asked(ask.to_string(), ask.perform()?)?;
        }
        plan.apply(&site.root)?;
        self.changed(plan, site);
        for change in &plan.changes {
            self.say(&change.told(&site.root))?;
        }
        for ask in &plan.after {
            self.asked(ask.to_string(), ask.perform()?)?;
        }
        for note in &plan.notes {
            self.say(&format!("note: {note}"))?;
            self.notes.push(note.clone());
        }
        Ok(())
    }

    fn changed(&mut self, plan: &Plan, site: &Site) {
        let changes = plan.changes.iter().map(|change| Changed {
            kind: change.kind(),
            path: site.root.shown(change.path()),
            diff: change.shown(&site.root),
        });
        self.changes.extend(changes);
    }

    fn asked(&mut self, ask: String, outcome: String) -> Result<()> {
        self.say(&outcome)?;
        // One that may fail has.
        if outcome != format!("ran {ask}") {
            self.notes.push(outcome);
        }
        self.asked.push(ask);
        Ok(())
    }

    /// Waits until it is there.
    fn await_start(&mut self, target: Target<'_>, plan: &Plan) -> Result<()> {
        let came_up = match target {
            Target::Agent { runtime_dir, .. } => {
                presence::await_agents(runtime_dir, plan).map(|(agent, spare)| {
                    (self.agent, self.spare) = (Some(agent), Some(spare));
                    let count = match agent.services {
                        1 => "1 service".to_owned(),
                        count => format!("{count} services"),
                    };
                    let pid = agent.pid;
                    format!("the agent is up: pid {pid}, {count}; its spare: pid {spare}")
                })
            }
            Target::Recorder { pin_dir } => presence::await_recorder(pin_dir, plan).map(|pid| {
                self.recorder = Some(pid);
                format!("the recorder is up: pid {pid}")
            }),
        };
        let missing = match came_up {
            Ok(words) => return self.say(&words),
            Err(missing) => missing,
        };
        let mut complaint = format!(
            "the entry is written, but after {} s {missing:#}\nlook at:",
            COMES_UP_WITHIN.as_secs()
        );
        for place in &plan.look_at {
            write!(complaint, "\n  {place}")?;
        }
        bail!(complaint)
    }

    /// Waits until it has ended. False: it has not.
    pub(super) fn await_end(&mut self, target: Target<'_>, plan: &Plan) -> Result<bool> {
        let (pid, words) = match target {
            Target::Agent { runtime_dir, .. } => {
                self.agent = presence::await_end(runtime_dir, plan);
                (self.agent.map(|agent| agent.pid), "agent")
            }
            Target::Recorder { pin_dir } => {
                self.recorder = presence::await_end_of_recorder(pin_dir, plan);
                (self.recorder, "recorder")
            }
        };
        let services = match target {
            Target::Agent { .. } => "; services keep running",
            Target::Recorder { .. } => "",
        };
        match pid {
            None => self.say(&format!("no {words} runs any more{services}"))?,
            Some(pid) => self.say(&format!(
                "the {words} still runs: `kill {pid}` ends it, and init does not start it again{services}"
            ))?,
        }
        Ok(pid.is_none())
    }

    /// Removes what they have pinned, which costs every exit of the host. One that is ending has it
    /// for a moment still, although it answers no longer.
    pub(super) fn unpin(&mut self, target: Target<'_>, is_ending: bool) -> Result<()> {
        if self.dry_run {
            for set in target.pins().unwrap_or_default() {
                self.say(&format!("would remove the pins in {}", set.path.display()))?;
                self.changes.push(Changed::pins(&set.path));
            }
            return Ok(());
        }
        let mut removed = Vec::new();
        let mut left = Ok(false);
        presence::wait_until(ENDS_WITHIN, None, || {
            // A spare that is about to end too may have taken over for a moment.
            if is_ending && target.may_be_at_work() {
                left = Ok(true);
                return false;
            }
            left = target
                .pins()
                .and_then(sets::remove_all)
                .map(|(now, are_held)| {
                    removed.extend(now);
                    are_held
                });
            !is_ending || !matches!(left, Ok(true))
        });
        for path in removed {
            self.say(&format!("removed the pins in {}", path.display()))?;
            self.changes.push(Changed::pins(&path));
        }
        let note = match (left, target) {
            (Ok(false), _) => return Ok(()),
            (Ok(true), Target::Agent { .. }) => {
                "an agent still has pins; `respawn shutdown` ends it and removes them".to_owned()
            }
            (Ok(true), Target::Recorder { pin_dir }) => format!(
                "a recorder still has pins; end it, then `respawn unpin {}` removes them",
                pin_dir.display()
            ),
            (Err(error), _) => format!("pins are left: {error:#}; `respawn unpin` shows them"),
        };
        self.note(note)
    }

    /// Something that someone should know.
    pub(super) fn note(&mut self, note: String) -> Result<()> {
        self.say(&note)?;
        self.notes.push(note);
        Ok(())
    }

    pub(super) fn say(&self, line: &str) -> Result<()> {
        self.show(&format!("{line}\n"))
    }

    fn show(&self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        print(&text::printable_lines(text))
    }
}

pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(text::json(value)? + "\n"))
}

pub(super) fn print(text: &str) -> Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use std::path::PathBuf;

    use super::super::site;
    use super::*;
    use crate::init::{InitEntry, Root, entry};

    /// What is told of these plans, on a file system with an inittab.
    fn told(dry_run: bool, init: Init) -> (Value, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/inittab"), "id:2:initdefault:\n").unwrap();
        let options = entry::Options {
            binary: Some(Path::new("/etc/inittab")),
            config: Path::new("/etc/respawn"),
            runtime_dir: Path::new("/run/respawn"),
            pin_dir: Path::new("/sys/fs/bpf/respawn"),
        };
        let entry = InitEntry::new(&root, &options).unwrap();
        let site = site(root, init, None);
        let plan = init.system().install(&site, &entry).unwrap();
        let common = Common {
            dry_run,
            root: None,
        };
        let mut report = InstallReport::new(Some(init), true, &common);
        match dry_run {
            true => report.lay_out(&plan, &site).unwrap(),
            false => report.perform(&plan, &site).unwrap(),
        }
        (serde_json::to_value(report).unwrap(), dir.path().to_owned())
    }

    #[test]
    fn a_program_is_told_of_each_change() {
        for dry_run in [true, false] {
            let (report, root) = told(dry_run, Init::Sysvinit);
            assert_eq!(
                (&report["init"], &report["why"], &report["dry_run"]),
                (&json!("sysvinit"), &Value::Null, &json!(dry_run))
            );
            let changes = report["changes"].as_array().unwrap();
            let kinds: Vec<_> = changes.iter().map(|change| &change["kind"]).collect();
            assert_eq!(kinds, ["backup", "write"]);
            assert_eq!(changes[1]["path"], json!(root.join("etc/inittab")));
            let diff = changes[1]["diff"].as_str().unwrap();
            assert!(
                diff.contains("\n+rs1:2345:respawn:/etc/inittab agent\n"),
                "{diff}"
            );
            assert_eq!(
                (&report["asked"], &report["agent"], &report["spare"]),
                (&json!([]), &Value::Null, &Value::Null)
            );
        }
    }

    #[test]
    fn what_failed_of_what_may_fail_is_a_note() {
        let common = Common {
            dry_run: false,
            root: None,
        };
        let mut report = InstallReport::new(Some(Init::Openrc), true, &common);
        report
            .asked("rc-update".into(), "ran rc-update".into())
            .unwrap();
        report.asked("x".into(), "tried x".into()).unwrap();
        assert_eq!(report.asked, ["rc-update", "x"]);
        assert_eq!(report.notes, ["tried x"]);
    }
}

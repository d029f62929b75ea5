//! `respawn install`, `respawn uninstall`: puts the agent and its spare under the host's init.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use super::{ConfigDir, Global};
use crate::agent;
use crate::control::{self, Command, Response, client};
use crate::init::{Entry, Init, Plan, Root, Site, detect, entry, locks};
use crate::probe::sets;
use crate::text;

/// How long agent and spare may take to come up: runsvdir looks for new services every 5 s.
const COMES_UP_WITHIN: Duration = Duration::from_secs(20);

/// How long agents may take to end after an uninstall: init waits 3 s or 5 s before it kills.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// After so long, init is asked again what it may have missed.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long an agent may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Have the host's init keep the agent and its spare running
///
/// Writes an entry for each that init honours however often they die, asks init to look at it,
/// and waits until the agent answers. Installing again changes nothing, or replaces the entry if
/// the options are others; agents that run keep theirs until they are started again. Edits
/// /etc/inittab between two marked lines, and keeps a copy from before the first edit in
/// /etc/inittab.respawn-backup.
///
/// Agent and spare are the same command. The first to take the lock works, the other one takes
/// over when it dies.
///
/// What ends services, and what does not: the agents' own death, an upgrade, SIGTERM to them and
/// `respawn uninstall` leave services running. `respawn stop --all` stops them; they stay down
/// until they are started, or until the next boot. `respawn shutdown` stops them and then ends
/// the agents, which init starts again, and with them the services: to be rid of both, run
/// `respawn uninstall` after `respawn stop --all`. A shutdown of the host ends services as it ends
/// all processes, and the agents before or with them, so that nothing is started again.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which init keeps it: sysvinit, busybox, systemd, openrc, runit, s6, dinit or procd; "auto" looks at PID 1
    #[arg(long, value_name = "NAME", value_parser = parse_choice)]
    init: Choice,
    #[command(flatten)]
    config: ConfigDir,
    /// The path of respawn that init is to run, if not that of this binary
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Print one JSON object at the end
    ///
    /// Its keys: `init`; `why` it was taken for the host's, by "auto"; `dry_run`; `changes`, each
    /// with `kind` ("write", "link", "backup", "remove", "unlink", "remove_dir"), `path` and
    /// `diff`; what init was `asked`; `notes`; the `agent` (`pid`, `services`) and the pid of its
    /// `spare`, null if they are not waited for. With --dry-run, changes and what is asked are
    /// what would be. An error leaves it out.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

/// Take the agent and its spare from init again
///
/// Removes what `respawn install` has written, nothing else, has init end the agents, and removes
/// what they have pinned in the kernel. The services keep running, with nobody to start them again:
/// `respawn stop --all` stops them first.
#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArguments {
    /// Only from this init; by default from every one that has an entry
    #[arg(long, value_name = "NAME")]
    init: Option<Init>,
    /// Print a JSON array at the end, with an object for each init that had an entry
    ///
    /// The objects are those of `respawn install --json`; `agent` is one that still answers. The last
    /// one's `changes` have the pins that were removed, of kind "unpin".
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Show what would be changed, as a diff, and what init would be asked; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Write to the file system below DIR, an image for instance; no init is asked then
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Auto,
    Named(Init),
}

fn parse_choice(text: &str) -> Result<Choice, String> {
    if text == "auto" {
        return Ok(Choice::Auto);
    }
    Init::from_str(text, false)
        .map(Choice::Named)
        .map_err(|_| format!("expected auto or one of {}", Init::names()))
}

/// What is told: to a person line by line as it happens, to a program in one object at the end.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(skip)]
    json: bool,
    init: &'static str,
    why: Option<String>,
    dry_run: bool,
    changes: Vec<Changed>,
    asked: Vec<String>,
    notes: Vec<String>,
    agent: Option<Agent>,
    spare: Option<u32>,
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

/// An agent that answers.
#[derive(Debug, Clone, Copy, Serialize)]
struct Agent {
    pid: u32,
    services: usize,
}

/// Runs `respawn install`.
pub(crate) fn install(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let root = root(arguments.common.root.as_deref())?;
    let found = detect::decide(&detect::Facts::of(&root));
    let (init, why) = match arguments.init {
        Choice::Named(init) => (init, None),
        Choice::Auto => {
            let found = found.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            (found.init, Some(found.why.clone()))
        }
    };
    let mut report = Report::new(init, arguments.json, &arguments.common);
    if let Some(why) = why {
        report.say(&format!("init is {init}: {why}"))?;
        report.why = Some(why);
    }
    let entry = Entry::new(
        &root,
        &entry::Options {
            binary: arguments.binary.as_deref(),
            config: &arguments.config.config,
            runtime_dir: &global.runtime_dir,
            pin_dir: &global.pin_dir,
        },
    )?;
    let site = site(root, init, found.ok().map(|found| found.init));
    let plan = init.system().install(&site, &entry)?;
    if report.dry_run {
        report.lay_out(&plan, &site)?;
    } else {
        report.install(&plan, &site, &global.runtime_dir)?;
    }
    if arguments.json {
        print_json(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `respawn uninstall`.
pub(crate) fn uninstall(global: &Global, arguments: &UninstallArguments) -> Result<ExitCode> {
    let root = root(arguments.common.root.as_deref())?;
    let running = detect::decide(&detect::Facts::of(&root))
        .ok()
        .map(|found| found.init);
    let mut reports = Vec::new();
    let mut is_ending = false;
    for init in Init::ALL {
        if arguments.init.is_some_and(|only| only != init) {
            continue;
        }
        let site = site(root.clone(), init, running);
        let plan = init.system().uninstall(&site)?;
        if plan.changes.is_empty() {
            continue;
        }
        let mut report = Report::new(init, arguments.json, &arguments.common);
        if report.dry_run {
            report.lay_out(&plan, &site)?;
        } else {
            report.perform(&plan, &site)?;
            if site.is_running {
                report.await_end(&global.runtime_dir, &plan)?;
                is_ending |= report.agent.is_none();
            }
        }
        reports.push(report);
    }
    // Once no entry is left that has init start an agent.
    if let Some(report) = reports.last_mut()
        && root.is_live()
    {
        report.unpin(global, is_ending)?;
    }
    if arguments.json {
        print_json(&reports)?;
    } else if reports.is_empty() {
        print("nothing to remove: no init has an entry of respawn's\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn root(given: Option<&Path>) -> Result<Root> {
    let Some(path) = given else {
        return Ok(Root::of_this_host());
    };
    let path = path
        .canonicalize()
        .with_context(|| format!("--root {}", path.display()))?;
    if !path.is_dir() {
        bail!("--root {}: not a directory", path.display());
    }
    Ok(Root::at(&path))
}

/// A supervisor that is not PID 1 can be asked as well, if it runs.
fn site(root: Root, init: Init, running: Option<Init>) -> Site {
    let is_live = root.is_live();
    let scan_dir = match init {
        Init::Runit if is_live => detect::scan_dir("runsvdir"),
        Init::S6 if is_live => detect::scan_dir("s6-svscan"),
        _ => None,
    };
    let is_running = match init {
        // Or it will, once the host has booted.
        Init::Runit | Init::S6 => scan_dir.is_some() || running == Some(init),
        Init::Openrc => root.is_dir("/run/openrc"),
        _ => running == Some(init),
    };
    Site {
        is_running: is_live && is_running,
        root,
        scan_dir,
    }
}

impl Report {
    fn new(init: Init, json: bool, common: &Common) -> Self {
        Self {
            json,
            init: init.name(),
            why: None,
            dry_run: common.dry_run,
            changes: Vec::new(),
            asked: Vec::new(),
            notes: Vec::new(),
            agent: None,
            spare: None,
        }
    }

    /// Tells what would be done.
    fn lay_out(&mut self, plan: &Plan, site: &Site) -> Result<()> {
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

    fn install(&mut self, plan: &Plan, site: &Site, runtime_dir: &Path) -> Result<()> {
        if site.root.is_live() && !site.is_running {
            let init = self.init;
            let line = format!(
                "{init} is not what runs here: nothing is asked, the entry counts once {init} does"
            );
            self.say(&line)?;
            self.notes.push(line);
        }
        self.perform(plan, site)?;
        if plan.changes.is_empty() {
            self.say("the entry is there already, unchanged")?;
        }
        if site.is_running {
            self.await_agents(runtime_dir, plan)?;
        }
        Ok(())
    }

    fn perform(&mut self, plan: &Plan, site: &Site) -> Result<()> {
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

    /// Waits for an agent that answers, and for one that waits for its lock.
    fn await_agents(&mut self, runtime_dir: &Path, plan: &Plan) -> Result<()> {
        let mut last = String::new();
        let mut agent = None;
        let mut spare = None;
        wait_until(COMES_UP_WITHIN, Some(plan), || {
            match ask(runtime_dir) {
                Ok(answering) => {
                    agent = Some(answering);
                    last = "no spare waits for its lock".to_owned();
                    let waiters = locks::waiters(answering.pid).unwrap_or_default();
                    spare = waiters.first().copied();
                }
                Err(error) => {
                    agent = None;
                    last = format!("{error:#}");
                }
            }
            agent.is_some() && spare.is_some()
        });
        if let (Some(Agent { pid, services }), Some(spare)) = (agent, spare) {
            let count = match services {
                1 => "1 service".to_owned(),
                count => format!("{count} services"),
            };
            self.say(&format!(
                "the agent is up: pid {pid}, {count}; its spare: pid {spare}"
            ))?;
            (self.agent, self.spare) = (agent, Some(spare));
            return Ok(());
        }
        let missing = if agent.is_some() { "spare" } else { "agent" };
        let mut complaint = format!(
            "the entry is written, but no {missing} came up within {} s: {last}\nlook at:",
            COMES_UP_WITHIN.as_secs()
        );
        for place in &plan.look_at {
            write!(complaint, "\n  {place}")?;
        }
        bail!(complaint)
    }

    fn await_end(&mut self, runtime_dir: &Path, plan: &Plan) -> Result<()> {
        let mut agent = None;
        wait_until(ENDS_WITHIN, Some(plan), || {
            agent = ask(runtime_dir).ok();
            agent.is_none()
        });
        self.agent = agent;
        match agent {
            None => self.say("no agent runs any more; services keep running"),
            Some(Agent { pid, .. }) => self.say(&format!(
                "an agent still answers: `kill {pid}` ends it, and init does not start it again; services keep running"
            )),
        }
    }

    /// Removes what the agents have pinned, which costs every exit of the host. An agent that is
    /// ending has it for a moment still, although it answers no longer.
    fn unpin(&mut self, global: &Global, is_ending: bool) -> Result<()> {
        let dir = agent::canonical(&global.runtime_dir);
        let owner = agent::place(&dir);
        if self.dry_run {
            for set in sets::find().unwrap_or_default() {
                if set.is_of(&dir, owner, &global.pin_dir) {
                    self.say(&format!("would remove the pins in {}", set.path.display()))?;
                    self.changes.push(Changed::pins(&set.path));
                }
            }
            return Ok(());
        }
        let mut removed = Vec::new();
        let mut left = Ok(false);
        wait_until(ENDS_WITHIN, None, || {
            // A spare that is about to end too may have taken over for a moment.
            if is_ending && agent::is_locked(&dir) {
                left = Ok(true);
                return false;
            }
            left = sets::remove_all_of(&dir, owner, &global.pin_dir).map(|(now, are_held)| {
                removed.extend(now);
                are_held
            });
            !is_ending || !matches!(left, Ok(true))
        });
        for path in removed {
            self.say(&format!("removed the pins in {}", path.display()))?;
            self.changes.push(Changed::pins(&path));
        }
        let note = match left {
            Ok(false) => return Ok(()),
            Ok(true) => {
                "an agent has pins still; `respawn shutdown` ends it and removes them".to_owned()
            }
            Err(error) => format!("pins are left: {error:#}; `respawn unpin` shows them"),
        };
        self.say(&note)?;
        self.notes.push(note);
        Ok(())
    }

    fn say(&self, line: &str) -> Result<()> {
        self.show(&format!("{line}\n"))
    }

    fn show(&self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        print(&text::printable_lines(text))
    }
}

/// Asks whether there is an agent.
fn ask(runtime_dir: &Path) -> Result<Agent> {
    let (mut stream, pid) = client::reach(runtime_dir)
        .with_context(|| control::socket(runtime_dir).display().to_string())?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    let services = Vec::new();
    stream.write_all(&Command::Status { services }.to_line())?;
    let mut line = Vec::new();
    BufReader::new(stream)
        .read_until(b'\n', &mut line)
        .context("the agent does not answer")?;
    match Response::from_line(&line) {
        Ok(Response::Status { services }) => Ok(Agent {
            pid,
            services: services.len(),
        }),
        other => bail!("the agent's answer makes no sense: {other:?}"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the command line may read a clock: here for its own patience"
)]
fn wait_until(within: Duration, plan: Option<&Plan>, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    let mut ask_at = Instant::now() + ASK_AGAIN;
    loop {
        if is_so() {
            return;
        }
        let now = Instant::now();
        if now >= deadline {
            return;
        }
        if let Some(plan) = plan.filter(|_| now >= ask_at) {
            plan.ask_again();
            ask_at = now + ASK_AGAIN;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(text::json(value)? + "\n"))
}

fn print(text: &str) -> Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

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
        let entry = Entry::new(&root, &options).unwrap();
        let site = site(root, init, None);
        let plan = init.system().install(&site, &entry).unwrap();
        let common = Common {
            dry_run,
            root: None,
        };
        let mut report = Report::new(init, true, &common);
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
        let mut report = Report::new(Init::Openrc, true, &common);
        report
            .asked("rc-update".into(), "ran rc-update".into())
            .unwrap();
        report.asked("x".into(), "tried x".into()).unwrap();
        assert_eq!(report.asked, ["rc-update", "x"]);
        assert_eq!(report.notes, ["tried x"]);
    }
}

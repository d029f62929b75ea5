//! `respawn install`, `respawn uninstall`: puts the agent and its spare under the host's init.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{ConfigDir, Global};
use crate::control::{self, Command, Response};
use crate::init::{Entry, Init, Plan, Root, Site, detect, entry, locks};

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
    #[command(flatten)]
    common: Common,
}

/// Take the agent and its spare from init again
///
/// Removes what `respawn install` has written, nothing else, and has init end the agents. The
/// services keep running, with nobody to start them again: `respawn stop --all` stops them first.
#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArguments {
    /// Only from this init; by default from every one that has an entry
    #[arg(long, value_name = "NAME")]
    init: Option<Init>,
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

/// Runs `respawn install`.
pub(crate) fn install(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let root = root(arguments.common.root.as_deref())?;
    let found = detect::decide(&detect::Facts::of(&root));
    let init = match arguments.init {
        Choice::Named(init) => init,
        Choice::Auto => {
            let found = found.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            say(&format!("init is {}: {}", found.init, found.why))?;
            found.init
        }
    };
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
    if arguments.common.dry_run {
        return show(&plan, &site);
    }
    if site.root.is_live() && !site.is_running {
        say(&format!(
            "{init} is not what runs here: nothing is asked, the entry counts once {init} does"
        ))?;
    }
    perform(&plan, &site)?;
    if plan.changes.is_empty() {
        say("the entry is there already, unchanged")?;
    }
    if !site.is_running {
        return Ok(ExitCode::SUCCESS);
    }
    await_agents(&global.runtime_dir, &plan)
}

/// Runs `respawn uninstall`.
pub(crate) fn uninstall(global: &Global, arguments: &UninstallArguments) -> Result<ExitCode> {
    let root = root(arguments.common.root.as_deref())?;
    let running = detect::decide(&detect::Facts::of(&root))
        .ok()
        .map(|found| found.init);
    let mut found = false;
    for init in Init::ALL {
        if arguments.init.is_some_and(|only| only != init) {
            continue;
        }
        let site = site(root.clone(), init, running);
        let plan = init.system().uninstall(&site)?;
        if plan.changes.is_empty() {
            continue;
        }
        found = true;
        if arguments.common.dry_run {
            show(&plan, &site)?;
            continue;
        }
        perform(&plan, &site)?;
        if site.is_running {
            await_end(&global.runtime_dir, &plan)?;
        }
    }
    if !found {
        say("nothing to remove: no init has an entry of respawn's")?;
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

fn show(plan: &Plan, site: &Site) -> Result<ExitCode> {
    let mut text = String::new();
    for ask in &plan.before {
        writeln!(text, "would run: {ask}")?;
    }
    for change in &plan.changes {
        text += &change.shown(&site.root);
    }
    for ask in &plan.after {
        writeln!(text, "would run: {ask}")?;
    }
    for note in &plan.notes {
        writeln!(text, "note: {note}")?;
    }
    if text.is_empty() {
        text += "nothing to do\n";
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn perform(plan: &Plan, site: &Site) -> Result<()> {
    for ask in &plan.before {
        say(&ask.perform()?)?;
    }
    plan.apply(&site.root)?;
    for change in &plan.changes {
        say(&change.told(&site.root))?;
    }
    for ask in &plan.after {
        say(&ask.perform()?)?;
    }
    for note in &plan.notes {
        say(&format!("note: {note}"))?;
    }
    Ok(())
}

/// Waits for an agent that answers, and for one that waits for its lock.
fn await_agents(runtime_dir: &Path, plan: &Plan) -> Result<ExitCode> {
    let mut last = String::new();
    let mut agent = None;
    let came_up = wait_until(COMES_UP_WITHIN, plan, || match ask(runtime_dir) {
        Ok((pid, services)) => {
            agent = Some((pid, services));
            last = "no spare waits for its lock".to_owned();
            locks::waiters(pid).is_ok_and(|waiters| !waiters.is_empty())
        }
        Err(error) => {
            agent = None;
            last = format!("{error:#}");
            false
        }
    });
    if let (true, Some((pid, services))) = (came_up, agent) {
        let spare = locks::waiters(pid).unwrap_or_default();
        let spare = spare.first().map_or_else(String::new, ToString::to_string);
        let count = match services {
            1 => "1 service".to_owned(),
            count => format!("{count} services"),
        };
        say(&format!(
            "the agent is up: pid {pid}, {count}; its spare: pid {spare}"
        ))?;
        return Ok(ExitCode::SUCCESS);
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

fn await_end(runtime_dir: &Path, plan: &Plan) -> Result<()> {
    let mut pid = 0;
    let ended = wait_until(ENDS_WITHIN, plan, || match ask(runtime_dir) {
        Ok((agent, _)) => {
            pid = agent;
            false
        }
        Err(_) => true,
    });
    if ended {
        say("no agent runs any more; services keep running")
    } else {
        say(&format!(
            "an agent still answers: `kill {pid}` ends it, and init does not start it again; services keep running"
        ))
    }
}

/// The agent's pid and how many services it has.
fn ask(runtime_dir: &Path) -> Result<(u32, usize)> {
    let socket = control::socket(runtime_dir);
    let mut stream =
        UnixStream::connect(&socket).with_context(|| format!("{}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    let pid = getsockopt(&stream, PeerCredentials)?.pid();
    let services = Vec::new();
    stream.write_all(&Command::Status { services }.to_line())?;
    let mut line = Vec::new();
    BufReader::new(stream)
        .read_until(b'\n', &mut line)
        .context("the agent does not answer")?;
    match Response::from_line(&line) {
        Ok(Response::Status { services }) => Ok((u32::try_from(pid)?, services.len())),
        other => bail!("the agent's answer makes no sense: {other:?}"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the command line may read a clock: here for its own patience"
)]
fn wait_until(within: Duration, plan: &Plan, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    let mut ask_at = Instant::now() + ASK_AGAIN;
    loop {
        if is_so() {
            return true;
        }
        let now = Instant::now();
        if now >= deadline {
            return false;
        }
        if now >= ask_at {
            plan.ask_again();
            ask_at = now + ASK_AGAIN;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn say(line: &str) -> Result<()> {
    print(&format!("{line}\n"))
}

fn print(text: &str) -> Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}

//! `respawn install`, `respawn uninstall`: puts the agent and its spare, or the recorder, under the
//! host's init.

mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use clap::builder::Resettable;

use self::report::{InstallReport, Target, print, print_json};
use super::{ConfigDir, Global, recorder, services};
use crate::config::{self, Surroundings};
use crate::init::{Init, InitEntry, Plan, Program, Root, Site, Takeover, detect, entry, takeover};
use crate::probe::sets;

/// Have the host's init keep the agent and its spare running, or the recorder
///
/// With --recorder it is `respawn recorder` that init keeps running, and nothing is said or done about
/// the agent: both can be installed, one after the other. With --takeover a package's init script
/// reaches a service of respawn, and nothing else is done.
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
#[command(mut_args(for_recorder_alone))]
pub(crate) struct Arguments {
    /// Which init keeps it: sysvinit, busybox, systemd, openrc, runit, s6, dinit or procd; "auto" looks at PID 1
    #[arg(
        long,
        value_name = "NAME",
        value_parser = parse_choice,
        required_unless_present = "takeover"
    )]
    init: Option<Choice>,
    /// Install the recorder instead of the agent
    #[arg(long)]
    recorder: bool,
    /// Have /etc/init.d/SCRIPT reach a service of respawn, of the same name unless another one is given
    ///
    /// `service SCRIPT restart`, logrotate's scripts and upgrades of the package ask the agent then. The
    /// package's own script is moved to /etc/respawn/takeover, by dpkg-divert where there is dpkg. Starts
    /// and stops nothing. SERVICE may be a pattern, such as 'postgresql@*'.
    #[arg(
        long,
        value_name = "SCRIPT[=SERVICE]",
        value_parser = Takeover::parse,
        conflicts_with_all = ["init", "recorder"]
    )]
    takeover: Option<Takeover>,
    #[command(flatten)]
    config: ConfigDir,
    /// The path of respawn that init is to run, if not that of this binary
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Print one JSON object at the end
    ///
    /// Its keys: `init` (null with --takeover); `why` it was taken for the host's, by "auto"; `dry_run`; `changes`, each
    /// with `kind` ("write", "link", "backup", "remove", "move", "unlink", "remove_dir"), `path` and
    /// `diff`; what init was `asked`; `notes`; the `agent` (`pid`, `services`) and the pid of its
    /// `spare`, or the pid of the `recorder`, null if they are not waited for. With --dry-run, changes and what is asked are
    /// what would be. An error leaves it out.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    settings: recorder::Settings,
}

/// Take the agent and its spare from init again, or the recorder
///
/// Removes what `respawn install` has written, nothing else, has init end the agents, and removes
/// what they have pinned in the kernel. The services keep running, with nobody to start them again:
/// `respawn stop --all` stops them first.
///
/// With --recorder it takes the recorder from init, and nothing else. What it has recorded stays. With
/// --takeover it puts a package's init script back, and nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArguments {
    /// Only from this init; by default from every one that has an entry
    #[arg(long, value_name = "NAME")]
    init: Option<Init>,
    /// Remove the recorder instead of the agent
    #[arg(long)]
    recorder: bool,
    /// Put the package's own /etc/init.d/SCRIPT back, and remove nothing else
    #[arg(
        long,
        value_name = "SCRIPT",
        value_parser = Takeover::parse,
        conflicts_with_all = ["init", "recorder"]
    )]
    takeover: Option<Takeover>,
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

/// Runs `respawn install`.
pub(crate) fn install(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let root = root(arguments.common.root.as_deref())?;
    if let Some(takeover) = &arguments.takeover {
        return take_over(global, arguments, takeover, &root);
    }
    let found = detect::decide(&detect::Facts::of(&root));
    let (init, why) = match arguments.init {
        Some(Choice::Named(init)) => (init, None),
        // Without a takeover there is a choice.
        Some(Choice::Auto) | None => {
            let found = found.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            (found.init, Some(found.why.clone()))
        }
    };
    let mut report = InstallReport::new(Some(init), arguments.json, &arguments.common);
    if let Some(why) = why {
        report.say(&format!("init is {init}: {why}"))?;
        report.why = Some(why);
    }
    let pin_dir = global.pin_dir.join(sets::RECORDER);
    let target = target(global, arguments.recorder, &pin_dir);
    let entry = entry(global, arguments, &root)?;
    let site = site(root, init, found.ok().map(|found| found.init));
    let plan = init.system().install(&site, &entry)?;
    if report.dry_run {
        report.lay_out(&plan, &site)?;
    } else {
        report.install(&plan, &site, target)?;
    }
    if arguments.json {
        print_json(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `respawn uninstall`.
pub(crate) fn uninstall(global: &Global, arguments: &UninstallArguments) -> Result<ExitCode> {
    let root = root(arguments.common.root.as_deref())?;
    if let Some(takeover) = &arguments.takeover {
        return give_back(arguments, takeover, root);
    }
    let running = detect::decide(&detect::Facts::of(&root))
        .ok()
        .map(|found| found.init);
    let pin_dir = global.pin_dir.join(sets::RECORDER);
    let target = target(global, arguments.recorder, &pin_dir);
    let mut reports = Vec::new();
    let mut is_ending = false;
    for init in Init::ALL {
        if arguments.init.is_some_and(|only| only != init) {
            continue;
        }
        let site = site(root.clone(), init, running);
        let plan = init.system().uninstall(&site, target.program())?;
        if plan.changes.is_empty() {
            continue;
        }
        let mut report = InstallReport::new(Some(init), arguments.json, &arguments.common);
        if report.dry_run {
            report.lay_out(&plan, &site)?;
        } else {
            report.perform(&plan, &site)?;
            if site.is_running {
                is_ending |= report.await_end(target, &plan)?;
            }
        }
        reports.push(report);
    }
    // Once no entry is left that has init start an agent.
    if let Some(report) = reports.last_mut()
        && root.is_live()
    {
        report.unpin(target, is_ending)?;
    }
    if let Some(report) = reports.last_mut()
        && target.program() == Program::Agent
    {
        for script in takeover::all(&root) {
            report.note(format!(
                "/etc/init.d/{script} still asks the agent; `respawn uninstall --takeover {script}` puts the package's own script back"
            ))?;
        }
    }
    if arguments.json {
        print_json(&reports)?;
    } else if reports.is_empty() {
        let what = match target.program() {
            Program::Agent => "of respawn's agents",
            Program::Recorder => "of respawn's recorder",
        };
        print(&format!("nothing to remove: no init has an entry {what}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Has a package's init script reach the agent.
fn take_over(
    global: &Global,
    arguments: &Arguments,
    takeover: &Takeover,
    root: &Root,
) -> Result<ExitCode> {
    if root.is_live() && root.is_dir("/run/systemd/system") {
        bail!(
            "systemd runs here, and does not use {}; `systemctl disable --now` of its unit leaves the service to \
             respawn",
            takeover.path()
        );
    }
    let config = &arguments.config.config;
    let inside = config.strip_prefix("/").unwrap_or(config);
    let names = service_names(&root.path().join(inside));
    let wanted = takeover.service();
    if !names.iter().any(|name| services::matches(wanted, name)) {
        bail!(
            "cannot take over {}: respawn has no service {}; `respawn import` makes one of a unit, and \
             --takeover SCRIPT=SERVICE names another",
            takeover.path(),
            takeover.service()
        );
    }
    let respawn = entry::client(root, arguments.binary.as_deref(), &global.runtime_dir)?;
    let plan = takeover.install(root, &respawn)?;
    let mut report = InstallReport::new(None, arguments.json, &arguments.common);
    let site = no_init(root.clone());
    if report.dry_run {
        report.lay_out(&plan, &site)?;
    } else {
        report.perform(&plan, &site)?;
        if plan.changes.is_empty() {
            report.say("it is taken over already, unchanged")?;
        }
    }
    if arguments.json {
        print_json(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts a package's init script back.
fn give_back(arguments: &UninstallArguments, takeover: &Takeover, root: Root) -> Result<ExitCode> {
    let plan = takeover.uninstall(&root)?;
    let mut report = InstallReport::new(None, arguments.json, &arguments.common);
    let site = no_init(root);
    if plan == Plan::default() {
        report.note(format!(
            "nothing to remove: {} is not taken over",
            takeover.path()
        ))?;
    } else if report.dry_run {
        report.lay_out(&plan, &site)?;
    } else {
        report.perform(&plan, &site)?;
    }
    if arguments.json {
        print_json(&[report])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The names in a config; what is wrong with it is another matter.
fn service_names(config: &Path) -> Vec<String> {
    let config = match config::load(config, &Surroundings::of_this_process()) {
        Ok(config) => Some(config),
        Err(invalid) => invalid.usable.map(|config| *config),
    };
    let names = config.map(|config| config.services.into_keys());
    names
        .into_iter()
        .flatten()
        .map(|name| name.to_string())
        .collect()
}

/// Where no init is asked.
fn no_init(root: Root) -> Site {
    Site {
        root,
        is_running: false,
        scan_dir: None,
    }
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

fn target<'a>(global: &'a Global, is_recorder: bool, pin_dir: &'a Path) -> Target<'a> {
    match is_recorder {
        true => Target::Recorder { pin_dir },
        false => Target::Agent {
            runtime_dir: &global.runtime_dir,
            pin_dir: &global.pin_dir,
        },
    }
}

/// What init is to run.
fn entry(global: &Global, arguments: &Arguments, root: &Root) -> Result<InitEntry> {
    let binary = arguments.binary.as_deref();
    if arguments.recorder {
        let options = entry::RecorderOptions {
            binary,
            pin_dir: &global.pin_dir,
            options: arguments
                .settings
                .words(std::env::var_os("RESPAWN_RECORDER_DIR"))?,
        };
        return InitEntry::of_recorder(root, options);
    }
    let options = entry::Options {
        binary,
        config: &arguments.config.config,
        runtime_dir: &global.runtime_dir,
        pin_dir: &global.pin_dir,
    };
    InitEntry::new(root, &options)
}

/// The recorder's settings are refused without --recorder. A variable for `deaths` and `why` does not
/// count as one.
fn for_recorder_alone(arg: clap::Arg) -> clap::Arg {
    match recorder::SETTINGS.contains(&arg.get_id().as_str()) {
        true => arg.requires("recorder").env(Resettable::Reset),
        false => arg,
    }
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

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

/// Make the host's init keep the agent and its spare running, or the recorder
///
/// Writes init entries that restart the agent and its spare however often they die, makes init read them,
/// and waits until the agent answers. Installing again changes nothing, or replaces the entries if the
/// options differ; running agents keep their options until they are restarted. In /etc/inittab, the
/// entries stand between two marked lines, and a copy of the file from before the first change is kept in
/// /etc/inittab.respawn-backup.
///
/// With --recorder, init keeps `respawn recorder` running, and nothing is done about the agent; both can
/// be installed, one after the other. With --takeover, a package's init script controls a service of
/// respawn, and nothing else is done.
///
/// Agent and spare are the same command. The first one to take the lock is the agent, and the other takes
/// over when it dies.
///
/// Services keep running when the agents die, are upgraded, get SIGTERM, or are removed by `respawn
/// uninstall`. `respawn stop --all` stops the services until they are started again or the host boots.
/// `respawn shutdown` stops them and then ends the agents; init then restarts the agents, and they start
/// the services. To remove both, run `respawn stop --all` and then `respawn uninstall`. When the host
/// shuts down, init ends the agents before or with all other processes, so that nothing is restarted.
#[derive(Debug, clap::Args)]
#[command(mut_args(for_recorder_alone))]
pub(crate) struct Arguments {
    /// The init: sysvinit, busybox, systemd, openrc, runit, s6, dinit or procd; "auto" looks at PID 1
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
    /// Make /etc/init.d/SCRIPT control a service of respawn, by default the one of the same name
    ///
    /// `service SCRIPT restart`, logrotate's scripts and upgrades of the package then reach the agent.
    /// The package's own script is moved to /etc/respawn/takeover, by dpkg-divert where there is dpkg.
    /// Starts and stops nothing. SERVICE may be a pattern, such as 'postgresql@*'.
    #[arg(
        long,
        value_name = "SCRIPT[=SERVICE]",
        value_parser = Takeover::parse,
        conflicts_with_all = ["init", "recorder"]
    )]
    takeover: Option<Takeover>,
    #[command(flatten)]
    config: ConfigDir,
    /// The path of the respawn binary for init to run, if it is not this one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Print one JSON object at the end
    ///
    /// Its keys: `init` (null with --takeover); `why` "auto" chose it; `dry_run`; `changes`, each with
    /// `kind` ("write", "link", "backup", "remove", "move", "unlink", "remove_dir"), `path` and `diff`;
    /// what init was `asked`; `notes`; the `agent` (`pid`, `services`) and the pid of its `spare`, or the
    /// pid of the `recorder`, null if they were not waited for. With --dry-run, `changes` and `asked` are
    /// what would be done. If there is an error, no object is printed.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    settings: recorder::Settings,
}

/// Remove the agent and its spare, or the recorder, from init
///
/// Removes what `respawn install` has written and nothing else, makes init end the agents, and removes
/// their pins from the kernel. The services keep running, but nothing restarts them; run `respawn stop
/// --all` first to stop them.
///
/// With --recorder, removes only the recorder; what it has recorded stays. With --takeover, only puts a
/// package's init script back.
#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArguments {
    /// Only from this init [default: from all that have an entry]
    #[arg(long, value_name = "NAME")]
    init: Option<Init>,
    /// Remove the recorder instead of the agent
    #[arg(long)]
    recorder: bool,
    /// Only put the package's own /etc/init.d/SCRIPT back
    #[arg(
        long,
        value_name = "SCRIPT",
        value_parser = Takeover::parse,
        conflicts_with_all = ["init", "recorder"]
    )]
    takeover: Option<Takeover>,
    /// Print a JSON array at the end, with an object for each init that had an entry
    ///
    /// The objects are those of `respawn install --json`; `agent` is one that still answers. `changes` of
    /// the last object include the removed pins, of kind "unpin".
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Show what would be changed, as a diff, and what init would be asked, and change nothing
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

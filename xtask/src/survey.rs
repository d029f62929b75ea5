//! `cargo xtask import-survey`: how much of what real packages' units say `respawn import` carries over.
//!
//! Downloads Debian packages (nothing is installed), imports each service unit in them, and says of each
//! what became of it. That is decided here, by a table of directives and of the keys that a service file
//! must then have, and not by what the importer says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    Verdict, apt,
    report::note,
    workspace::{Profile, Workspace, output_of},
};

/// Well-known packages with services, of Debian 12 and 13.
const PACKAGES: &str = include_str!("survey.txt");

/// Of the units that are no oneshot this share, in percent, is to be without loss, or without protections
/// alone.
const WANTED: usize = 85;

/// Import the units of well-known Debian packages, and print how many convert without loss
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file with the names of other packages, one a line
    #[arg(long)]
    list: Option<PathBuf>,
    /// Print what stands in the way for each unit
    #[arg(long)]
    details: bool,
}

/// What a directive of a unit has to become.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// One of these keys.
    Key(&'static [&'static str]),
    /// Nothing is lost if it is left out.
    Nothing,
    /// A protection, which the service has not.
    Protection,
    /// The service runs, and something is different.
    Different,
    /// It matters.
    Loss,
}
use Fate::{Different, Key, Loss, Nothing, Protection};

/// Every directive that is not here is a loss.
#[rustfmt::skip]
const FATES: &[(&str, Fate)] = &[
    ("Description", Nothing), ("Documentation", Nothing), ("SourcePath", Nothing), ("DefaultDependencies", Nothing),
    ("RefuseManualStart", Nothing), ("RefuseManualStop", Nothing), ("StopWhenUnneeded", Nothing), ("AllowIsolate", Nothing),
    ("IgnoreOnIsolate", Nothing), ("CollectMode", Nothing), ("StartLimitBurst", Nothing), ("StartLimitIntervalSec", Nothing),
    ("StartLimitInterval", Nothing), ("After", Nothing), ("Before", Nothing), ("Wants", Nothing), ("Conflicts", Nothing),
    ("ConditionPathExists", Key(&["conditions"])), ("ConditionPathExistsGlob", Key(&["conditions"])),
    ("ConditionPathIsDirectory", Key(&["conditions"])), ("ConditionPathIsMountPoint", Key(&["conditions"])),
    ("ConditionFileIsExecutable", Key(&["conditions"])), ("ConditionFileNotEmpty", Key(&["conditions"])),
    ("ConditionDirectoryNotEmpty", Key(&["conditions"])), ("AssertPathExists", Key(&["conditions"])),
    ("AssertFileIsExecutable", Key(&["conditions"])), ("AssertFileNotEmpty", Key(&["conditions"])),
    ("AssertPathIsDirectory", Key(&["conditions"])),
    ("ConditionCapability", Key(&["conditions"])), ("ConditionKernelCommandLine", Key(&["conditions"])),
    ("ConditionPathIsReadWrite", Different), ("ConditionACPower", Key(&["conditions"])), ("ConditionFirstBoot", Different),
    ("ConditionNeedsUpdate", Different), ("ConditionUser", Different), ("ConditionHost", Different),
    ("ConditionSecurity", Different), ("ConditionKernelModuleLoaded", Different), ("ConditionControlGroupController", Different),
    ("PartOf", Key(&["part_of"])), ("PropagatesReloadTo", Different), ("ReloadPropagatedFrom", Key(&["part_of"])), ("JoinsNamespaceOf", Different),
    ("RequiresMountsFor", Nothing), ("WantsMountsFor", Nothing), ("OnFailure", Key(&["on_failed"])), ("Upholds", Different),
    ("JobTimeoutSec", Different), ("FailureAction", Different), ("SuccessAction", Different),
    ("ExecStart", Key(&["command"])), ("ExecStartPre", Key(&["before_start"])), ("ExecStartPost", Key(&["after_start", "before_start"])),
    ("ExecStop", Key(&["before_stop", "stop_command", "stop_signal"])), ("ExecStopPost", Key(&["after_stop"])),
    ("ExecReload", Key(&["reload"])), ("ExecCondition", Key(&["conditions"])), ("Restart", Key(&["restart"])),
    ("RestartSec", Key(&["restart_delay"])), ("RestartPreventExitStatus", Key(&["restart_prevent_exit_status"])),
    ("SuccessExitStatus", Key(&["success_exit_status"])), ("RestartForceExitStatus", Different), ("RestartSteps", Different),
    ("RestartMaxDelaySec", Key(&["restart_max_delay"])), ("RestartMode", Different),
    ("TimeoutSec", Key(&["stop_timeout"])), ("TimeoutStopSec", Key(&["stop_timeout"])), ("TimeoutStartSec", Nothing),
    ("TimeoutAbortSec", Nothing), ("RuntimeMaxSec", Different), ("WatchdogSec", Key(&["watchdog"])), ("NotifyAccess", Nothing),
    ("KillMode", Key(&["stop_mode"])), ("KillSignal", Key(&["stop_signal"])), ("SendSIGKILL", Key(&["stop_timeout"])),
    ("SendSIGHUP", Different), ("FinalKillSignal", Different), ("PIDFile", Nothing), ("BusName", Nothing), ("GuessMainPID", Nothing),
    ("RemainAfterExit", Nothing), ("User", Key(&["user"])), ("Group", Key(&["group"])), ("SupplementaryGroups", Different),
    ("WorkingDirectory", Key(&["working_directory"])), ("Environment", Key(&["environment", "environment_file"])),
    ("EnvironmentFile", Key(&["environment_file"])), ("PassEnvironment", Key(&["pass_environment"])), ("UnsetEnvironment", Different),
    ("UMask", Key(&["umask"])), ("Nice", Key(&["nice"])), ("OOMScoreAdjust", Key(&["oom_score_adj"])), ("OOMPolicy", Different),
    ("RuntimeDirectory", Key(&["directories"])), ("StateDirectory", Key(&["directories"])), ("LogsDirectory", Key(&["directories"])),
    ("CacheDirectory", Key(&["directories"])), ("RuntimeDirectoryMode", Nothing), ("StateDirectoryMode", Nothing),
    ("LogsDirectoryMode", Nothing), ("CacheDirectoryMode", Nothing), ("RuntimeDirectoryPreserve", Nothing),
    ("ConfigurationDirectory", Key(&["before_start"])), ("ConfigurationDirectoryMode", Nothing),
    ("LimitNOFILE", Key(&["limits"])), ("LimitNPROC", Key(&["limits"])), ("LimitCORE", Key(&["limits"])), ("LimitMEMLOCK", Key(&["limits"])),
    ("LimitSTACK", Key(&["limits"])), ("LimitAS", Key(&["limits"])), ("LimitRTPRIO", Key(&["limits"])), ("LimitDATA", Key(&["limits"])),
    ("LimitFSIZE", Key(&["limits"])), ("LimitNICE", Key(&["limits"])), ("LimitRTTIME", Key(&["limits"])), ("LimitSIGPENDING", Key(&["limits"])),
    ("MemoryMax", Key(&["memory_max"])), ("MemoryLimit", Key(&["memory_max"])), ("MemoryHigh", Key(&["memory_high"])),
    ("CPUQuota", Key(&["cpu_max"])), ("IOWeight", Key(&["io_weight"])), ("CPUAffinity", Key(&["cpu_affinity"])),
    ("TasksMax", Nothing), ("Slice", Different), ("Delegate", Different), ("CPUWeight", Different), ("CPUShares", Different),
    ("CPUAccounting", Nothing), ("MemoryAccounting", Nothing), ("TasksAccounting", Nothing), ("IOAccounting", Nothing),
    ("StandardOutput", Nothing), ("StandardError", Nothing), ("StandardInput", Nothing), ("SyslogIdentifier", Nothing),
    ("SyslogFacility", Nothing), ("SyslogLevel", Nothing), ("SyslogLevelPrefix", Nothing), ("LogRateLimitIntervalSec", Nothing),
    ("LogRateLimitBurst", Nothing), ("LogLevelMax", Nothing), ("KeyringMode", Nothing), ("UtmpIdentifier", Nothing),
    ("PermissionsStartOnly", Nothing), ("NonBlocking", Nothing), ("IgnoreSIGPIPE", Different), ("FileDescriptorStoreMax", Key(&["fd_store"])),
    ("CPUSchedulingPolicy", Different), ("CPUSchedulingPriority", Different), ("IOSchedulingClass", Different),
    ("IOSchedulingPriority", Different), ("NoNewPrivileges", Key(&["no_new_privileges"])), ("Sockets", Key(&["listen"])),
    ("CapabilityBoundingSet", Protection), ("AmbientCapabilities", Key(&["capabilities"])), ("SecureBits", Protection),
    ("PrivateTmp", Protection), ("PrivateDevices", Protection), ("PrivateNetwork", Protection), ("PrivateUsers", Protection),
    ("PrivateMounts", Protection), ("PrivateIPC", Protection), ("ProtectSystem", Protection), ("ProtectHome", Protection),
    ("ProtectKernelTunables", Protection), ("ProtectKernelModules", Protection), ("ProtectKernelLogs", Protection),
    ("ProtectControlGroups", Protection), ("ProtectClock", Protection), ("ProtectHostname", Protection), ("ProtectProc", Protection),
    ("ProcSubset", Protection), ("RestrictAddressFamilies", Protection), ("RestrictNamespaces", Protection),
    ("RestrictRealtime", Protection), ("RestrictSUIDSGID", Protection), ("LockPersonality", Protection), ("RemoveIPC", Protection),
    ("MemoryDenyWriteExecute", Protection), ("SystemCallFilter", Protection), ("SystemCallArchitectures", Protection),
    ("SystemCallErrorNumber", Protection), ("ReadOnlyPaths", Protection), ("ReadWritePaths", Protection), ("InaccessiblePaths", Protection),
    ("ReadOnlyDirectories", Protection), ("ReadWriteDirectories", Protection), ("InaccessibleDirectories", Protection),
    ("TemporaryFileSystem", Protection), ("BindReadOnlyPaths", Protection), ("IPAddressAllow", Protection), ("IPAddressDeny", Protection),
    ("DeviceAllow", Protection), ("DevicePolicy", Protection), ("MountFlags", Protection), ("AppArmorProfile", Protection),
    ("NoExecPaths", Protection), ("ExecPaths", Protection),
];

/// How a unit has come over; a later one is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    #[default]
    Whole,
    Unprotected,
    Different,
    Lossy,
}

/// One unit.
struct Found {
    package: String,
    unit: String,
    is_oneshot: bool,
    class: Class,
    /// What stands in the way of a better class.
    why: BTreeSet<String>,
}

/// # Errors
/// When nothing can be downloaded, or respawn cannot be built.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    if !apt::is_here() {
        bail!("the survey reads Debian's packages: it needs Debian");
    }
    let list = match &args.list {
        Some(path) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => PACKAGES.to_owned(),
    };
    let respawn = workspace.build_respawn(Profile::Dev, None)?;
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for package in list.split_whitespace() {
        match units_of(package) {
            Ok(root) => found.extend(survey(&respawn, package, root.path())?),
            Err(error) => missing.push(format!("{package}: {error:#}")),
        }
    }
    for line in &missing {
        note!("left out: {line}");
    }
    if found.is_empty() {
        bail!("no unit was found");
    }
    Ok(report(&found, args.details))
}

/// A folder with the units and defaults of a package.
fn units_of(package: &str) -> Result<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let mut command = Command::new("apt-get");
    command
        .args(["download", "--quiet=2", package])
        .current_dir(root.path());
    output_of(&mut command)?;
    let entries = fs::read_dir(root.path())?.flatten();
    let mut archives = entries.map(|entry| entry.path());
    let archive = archives
        .find(|path| path.extension().is_some_and(|it| it == "deb"))
        .context("nothing was downloaded")?;
    apt::unpack(&archive, root.path(), &["./*"])?;
    Ok(root)
}

/// Imports all units of a package together, as they name each other.
fn survey(respawn: &Path, package: &str, root: &Path) -> Result<Vec<Found>> {
    let mut units = Vec::new();
    for folder in ["lib/systemd/system", "usr/lib/systemd/system"] {
        let entries = fs::read_dir(root.join(folder)).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_file = fs::symlink_metadata(&path).is_ok_and(|it| it.is_file());
            if is_file && name.ends_with(".service") {
                units.push(path);
            }
        }
    }
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let config = tempfile::tempdir()?;
    lay_out_others(&units, config.path())?;
    let output = Command::new(respawn)
        .args(["import", "--from", "systemd", "--dry-run", "--json"])
        .args(&units)
        .env("RESPAWN_CONFIG", config.path())
        .output()?;
    let imported: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{package}: import prints no JSON"))?;
    let services = imported["services"].as_array().cloned().unwrap_or_default();
    if services.len() != units.len() {
        bail!(
            "{package}: {} units became {} services",
            units.len(),
            services.len()
        );
    }
    let judged = units.iter().zip(&services);
    judged
        .map(|(path, service)| judge(package, path, service))
        .collect()
}

/// What a unit requires of other packages is there where it is installed, and is imported with it: here a
/// service of that name stands in for it.
fn lay_out_others(units: &[PathBuf], config: &Path) -> Result<()> {
    let services = config.join("services");
    fs::create_dir(&services)?;
    let is_own = |name: &str| {
        let mut names = units.iter().filter_map(|path| path.file_name());
        names.any(|own| own.to_string_lossy() == name)
    };
    for unit in units {
        for (key, value) in assignments(&fs::read_to_string(unit)?) {
            if !["Requires", "Requisite", "BindsTo", "OnFailure"].contains(&key.as_str()) {
                continue;
            }
            for other in value.split_whitespace().filter(|other| !is_own(other)) {
                let name = other.strip_suffix(".service").unwrap_or_default();
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
                if !name.is_empty() && name.chars().all(is_plain) && !name.ends_with('@') {
                    let file = services.join(format!("{name}.toml"));
                    fs::write(file, "command = [\"/bin/true\"]\n")?;
                }
            }
        }
    }
    Ok(())
}

/// What the host lacks as long as the package is not installed.
const OF_INSTALLED: [&str; 4] = [
    "no user is named",
    "no group is named",
    "does not exist",
    "no program",
];

fn judge(package: &str, path: &Path, service: &Value) -> Result<Found> {
    let text = fs::read_to_string(path)?;
    let assignments = assignments(&text);
    let last = |key: &str| {
        let mut of_key = assignments.iter().rev().filter(|(name, _)| name == key);
        of_key.next().map(|(_, value)| value.as_str())
    };
    let is_oneshot = last("Type") == Some("oneshot");
    let mut class = Class::Whole;
    let mut why = BTreeSet::new();
    let mut note = |of: Class, words: String| {
        if of > class {
            class = of;
        }
        if of > Class::Unprotected {
            why.insert(words);
        }
    };
    let toml = service["toml"].as_str().unwrap_or_default();
    let refused = service["refused"].as_str().unwrap_or_default();
    let is_of_host = OF_INSTALLED.iter().any(|it| refused.contains(it));
    if toml.is_empty() || !refused.is_empty() && !is_of_host {
        note(Class::Lossy, format!("refused: {refused}"));
    }
    let keys = keys_of(toml);
    for (key, value) in &assignments {
        let (of, words) = fate_of(key, value, &keys, &assignments);
        note(of, words);
    }
    if last("Type") == Some("forking")
        && !keys.contains("type")
        && !stays_in_foreground(toml, last("ExecStart").unwrap_or_default())
    {
        note(Class::Lossy, "Type=forking".to_owned());
    }
    Ok(Found {
        package: package.to_owned(),
        unit: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        is_oneshot,
        class,
        why,
    })
}

/// What becomes of one directive, where the service file has these keys.
fn fate_of(
    key: &str,
    value: &str,
    keys: &BTreeSet<String>,
    all: &[(String, String)],
) -> (Class, String) {
    let words = format!("{key}={value}");
    let found = FATES.iter().find(|(name, _)| *name == key);
    let fate = found.map_or(Loss, |(_, fate)| *fate);
    let is_off = ["no", "false", "off", "0", ""].contains(&value);
    let is_there = |names: &[&str]| names.iter().any(|name| keys.contains(*name));
    let class = match (key, fate) {
        _ if key.starts_with("X-") => Class::Whole,
        // They may stand in any unit, and say what is so without them.
        ("Type", _) => match value {
            "dbus" if is_there(&["ready"]) => Class::Whole,
            "dbus" | "idle" => Class::Different,
            "oneshot" | "notify" | "notify-reload" | "simple" | "exec" | "forking" | "" => {
                Class::Whole
            }
            _ => Class::Lossy,
        },
        ("WatchdogSec", _) if is_off => Class::Whole,
        ("Restart", _) if value == "on-success" || value == "on-watchdog" => Class::Different,
        ("RestartSec", _) if !all.iter().any(|(name, _)| name == "Restart") => Class::Whole,
        ("SendSIGKILL" | "NoNewPrivileges", _) if (key == "SendSIGKILL") != is_off => Class::Whole,
        ("KillMode", _) if value == "none" => Class::Different,
        ("DynamicUser" | "Delegate" | "IgnoreSIGPIPE" | "SendSIGHUP", _) if is_off => Class::Whole,
        ("ConditionVirtualization", _) => {
            match ["container", "vm", "no"].contains(&value.trim_start_matches('!')) {
                true if is_there(&["conditions"]) => Class::Whole,
                _ => Class::Different,
            }
        }
        ("OOMPolicy", _) if value == "continue" => Class::Whole,
        ("StandardInput", _) if value != "null" => Class::Lossy,
        ("Requires" | "Requisite" | "BindsTo", _) => {
            let mut others = value.split_whitespace();
            // Of services, the unit's own package alone may be imported; sockets are for listen.
            match others.all(|other| !other.ends_with(".service")) {
                true if value.contains(".socket")
                    && value != "syslog.socket"
                    && !is_there(&["listen"]) =>
                {
                    Class::Lossy
                }
                true => Class::Whole,
                false if is_there(&["requires", "binds"]) => Class::Whole,
                false => Class::Different,
            }
        }
        ("PartOf", _) if value.split_whitespace().all(|it| it.ends_with(".target")) => Class::Whole,
        // A stop and a restart are followed then.
        ("PartOf", _) if is_there(&["requires", "binds"]) => Class::Whole,
        (_, _) if value.is_empty() => Class::Whole,
        (_, Nothing) => Class::Whole,
        (_, Protection) if is_off => Class::Whole,
        (
            "ProtectSystem"
            | "ProtectHome"
            | "PrivateTmp"
            | "PrivateDevices"
            | "PrivateNetwork"
            | "ReadOnlyPaths"
            | "ReadWritePaths"
            | "ReadOnlyDirectories"
            | "ReadWriteDirectories",
            Protection,
        ) if is_there(&["sandbox"]) => Class::Whole,
        (_, Protection) => Class::Unprotected,
        (_, Different) => Class::Different,
        (_, Loss) => Class::Lossy,
        (_, Key(names)) => match is_there(names) {
            true => Class::Whole,
            false => Class::Lossy,
        },
    };
    (class, words)
}

/// `KEY=VALUE` of `[Unit]` and `[Service]`, with continued lines joined.
fn assignments(text: &str) -> Vec<(String, String)> {
    let mut joined = String::new();
    for line in text.lines() {
        let is_comment = line.trim_start().starts_with(['#', ';']);
        match line.trim_end().strip_suffix('\\') {
            _ if is_comment => {}
            Some(begun) => {
                joined.push_str(begun);
                joined.push(' ');
            }
            None => {
                joined.push_str(line);
                joined.push('\n');
            }
        }
    }
    let mut section = String::new();
    let mut all = Vec::new();
    for line in joined.lines().map(str::trim) {
        if line.starts_with('[') {
            line.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=')
            && ["[Unit]", "[Service]"].contains(&section.as_str())
        {
            all.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all
}

/// The keys of a service file.
fn keys_of(toml: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for line in toml.lines() {
        let word = line
            .trim_start_matches('[')
            .split([' ', '=', ']', '.'])
            .next();
        let is_key = |c: char| c.is_ascii_lowercase() || c == '_';
        if let Some(word) = word.filter(|it| !it.is_empty() && it.chars().all(is_key)) {
            keys.insert(word.to_owned());
        }
    }
    keys
}

/// Whether a daemon was given an option for it, or another one taken away.
fn stays_in_foreground(toml: &str, start: &str) -> bool {
    let command = toml.lines().find(|line| line.starts_with("command = "));
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| c.is_whitespace() || "\"',[]".contains(c));
        let words = words.filter(|word| !word.is_empty() && *word != "=");
        words
            .map(|word| word.trim_start_matches('-').to_owned())
            .collect()
    };
    let mut ours = command.map(words).unwrap_or_default();
    for shell in ["command", "/bin/sh", "c", "set", "f;", "exec"] {
        ours.remove(shell);
    }
    !ours.is_empty() && ours != words(start)
}

fn report(found: &[Found], details: bool) -> Verdict {
    let of = |is_oneshot: bool| found.iter().filter(move |it| it.is_oneshot == is_oneshot);
    if details {
        for it in found.iter().filter(|it| !it.why.is_empty()) {
            let why: Vec<&str> = it.why.iter().map(String::as_str).collect();
            println!(
                "{}/{}: {:?}: {}",
                it.package,
                it.unit,
                it.class,
                why.join("; ")
            );
        }
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for why in of(false).chain(of(true)).flat_map(|it| &it.why) {
        *reasons
            .entry(why.split('=').next().unwrap_or_default())
            .or_default() += 1;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    println!("units              all   whole   without protections   different   lossy");
    for (name, is_oneshot) in [("services", false), ("oneshots", true)] {
        let count = |class: Class| of(is_oneshot).filter(|it| it.class == class).count();
        println!(
            "{name:<14} {:>7} {:>7} {:>21} {:>11} {:>7}",
            of(is_oneshot).count(),
            count(Class::Whole),
            count(Class::Unprotected),
            count(Class::Different),
            count(Class::Lossy)
        );
    }
    let good = of(false)
        .filter(|it| it.class <= Class::Unprotected)
        .count();
    let all = of(false).count().max(1);
    println!(
        "services without loss, or without protections alone: {} %",
        good * 100 / all
    );
    let most: Vec<_> = reasons
        .iter()
        .take(12)
        .map(|(key, count)| format!("{key} {count}"))
        .collect();
    println!("in the way: {}", most.join(", "));
    match good * 100 >= all * WANTED {
        true => Verdict::Pass,
        false => Verdict::Fail,
    }
}

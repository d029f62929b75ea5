//! `cargo xtask import-survey`: how much of what real packages' units say `respawn import` carries over.
//!
//! Downloads packages of this host's release of Debian (nothing is installed), imports each service unit in them,
//! and says of each what became of it. That is decided here, by a table of directives (`fates`) and of what the service
//! file must then have (`judge`), and not by what the importer says of itself.

mod fates;
mod judge;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::fates::EXOTIC;
use self::judge::{Case, Class};
use crate::{
    Verdict, apt,
    report::note,
    workspace::{Profile, Workspace, output_of},
};

/// Well-known packages with services. Those that this release does not have are left out.
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

/// One unit.
struct Found {
    package: String,
    unit: String,
    is_oneshot: bool,
    class: Class,
    /// A directive in the way that no key is for.
    exotic: Option<&'static str>,
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
    let mut made = Vec::new();
    for (path, service) in units.iter().zip(&services) {
        let toml = service["toml"].as_str().unwrap_or_default();
        let value = toml::from_str::<Value>(toml).unwrap_or(Value::Null);
        made.push((unit_name(path), value));
    }
    let mut known: BTreeSet<String> = made.iter().map(|(name, _)| name.clone()).collect();
    let entries = fs::read_dir(config.path().join("services"))?.flatten();
    known.extend(entries.filter_map(|entry| {
        let stem = entry.path().file_stem()?.to_string_lossy().into_owned();
        Some(format!("{stem}.service"))
    }));
    let refused = |service: &Value| !service["refused"].as_str().unwrap_or_default().is_empty();
    let absent = services
        .iter()
        .zip(&made)
        .filter(|(service, _)| refused(service));
    let absent: BTreeSet<String> = absent.map(|(_, (unit, _))| unit.clone()).collect();
    let mut found = Vec::new();
    for ((path, service), (unit, value)) in units.iter().zip(&services).zip(&made) {
        let assignments = assignments(&fs::read_to_string(path)?);
        let case = Case {
            assignments: &assignments,
            made: value,
            unit,
            others: &made,
            known: &known,
            absent: &absent,
        };
        let refused = service["refused"].as_str().unwrap_or_default();
        found.push(judge(package, &case, refused));
    }
    Ok(found)
}

fn unit_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
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
                let name = other
                    .strip_suffix(".service")
                    .or(other.strip_suffix(".socket"));
                let name = name.unwrap_or_default();
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
                let is_beside = unit.with_file_name(other).exists();
                let is_of_package = is_beside || is_own(&format!("{name}.service"));
                if !name.is_empty()
                    && name.chars().all(is_plain)
                    && !name.ends_with('@')
                    && !is_of_package
                {
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

fn judge(package: &str, case: &Case<'_>, refused: &str) -> Found {
    let mut class = Class::Whole;
    let mut why = BTreeSet::new();
    let mut exotic = None;
    let is_of_host = OF_INSTALLED.iter().any(|it| refused.contains(it));
    if case.made.is_null() || !refused.is_empty() && !is_of_host {
        class = Class::Lossy;
        why.insert(format!("refused: {refused}"));
    }
    for (key, value) in case.assignments {
        let of = case.fate_of(key, value);
        class = class.max(of);
        if of > Class::Unprotected {
            why.insert(format!("{key}={value}"));
            let found = EXOTIC.iter().find(|(name, _)| name == key);
            exotic = exotic.or(found.map(|(name, _)| *name));
            if case.is_circle(key, value) {
                exotic = exotic.or(Some("a circle"));
            }
        }
    }
    Found {
        package: package.to_owned(),
        unit: case.unit.to_owned(),
        is_oneshot: case.is_oneshot(),
        class,
        exotic,
        why,
    }
}

/// `KEY=VALUE` of `[Unit]` and `[Service]`, with continued lines joined. An empty value undoes those before it.
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
            let (key, value) = (key.trim(), value.trim());
            if value.is_empty() {
                all.retain(|(name, _): &(String, String)| name != key);
            } else {
                all.push((key.to_owned(), value.to_owned()));
            }
        }
    }
    all
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
    let is_plain = |it: &&Found| it.exotic.is_none();
    let plain = of(true).filter(is_plain).count();
    let lost: Vec<_> = of(true)
        .filter(is_plain)
        .filter(|it| it.class > Class::Unprotected)
        .collect();
    println!(
        "oneshots without an exotic key: {plain}, of them without loss, or without protections alone: {}",
        plain - lost.len()
    );
    for it in &lost {
        let why: Vec<&str> = it.why.iter().map(String::as_str).collect();
        println!("{}/{}: {}", it.package, it.unit, why.join("; "));
    }
    match good * 100 >= all * WANTED && lost.is_empty() {
        true => Verdict::Pass,
        false => Verdict::Fail,
    }
}

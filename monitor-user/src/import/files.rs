//! Reads what is imported, and writes service files: all of them or none, and never over another file.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail};

use super::{Service, Text, run_directory, unit};
use crate::config::SERVICES;

/// No unit is larger.
const MAX_SIZE: u64 = 1 << 20;

/// Where systemd looks for units and what is added to them, the first first.
const UNIT_DIRS: &[&str] = &[
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Where systemd-tmpfiles looks, the first first.
const TMPFILES_DIRS: &[&str] = &["/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/lib/tmpfiles.d"];

/// Files that are there already.
#[derive(Debug)]
pub(crate) struct Refused(Vec<PathBuf>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .0
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        write!(
            f,
            "nothing was written: there is a service already where {} would be; move it away, or leave \
             that service out",
            names.join(", ")
        )
    }
}

impl std::error::Error for Refused {}

/// Reads a file, a run directory, or the service units or run directories of a directory.
///
/// # Errors
/// What cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<Text>> {
    if !path.is_dir() {
        return match path.parent() {
            Some(of) if path.ends_with("run") => Ok(vec![read_run_directory(of)?]),
            _ => Ok(vec![read_one(path)?]),
        };
    }
    if is_run_directory(path) {
        return Ok(vec![read_run_directory(path)?]);
    }
    let directories = run_directories(path)?;
    if !directories.is_empty() {
        return directories
            .iter()
            .map(|it| read_run_directory(it))
            .collect();
    }
    let mut paths = Vec::new();
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", path.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_unit =
            name.ends_with(".service") || name.ends_with(".conf") || name.ends_with(".ini");
        // A template says nothing without an instance, and a link to /dev/null is switched off.
        if is_unit && !name.contains("@.") && fs::metadata(&path).is_ok_and(|found| found.is_file())
        {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        bail!(
            "{} has no units (*.service), no programs (*.conf, *.ini) and no run directories",
            path.display()
        );
    }
    paths.sort();
    paths.iter().map(|path| read_one(path)).collect()
}

/// Whether runit, s6 or s6-rc has a service there.
fn is_run_directory(path: &Path) -> bool {
    ["run", "type"].iter().any(|name| path.join(name).is_file())
}

/// Those in a directory, by their names. Hidden ones are no services.
fn run_directories(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", path.display()))?;
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !is_hidden && is_run_directory(&entry.path()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Its script, and as what is added to it the files of the directory, and those that the script names.
fn read_run_directory(directory: &Path) -> Result<Text> {
    let directory = std::path::absolute(directory)?;
    let mut added = Vec::new();
    let mut is_secret = false;
    for name in run_directory::FILES {
        let path = directory.join(name);
        if !path.is_file() {
            continue;
        }
        // What may be a program: that it is there is enough.
        let text = match *name {
            "finish" | "check" => String::new(),
            _ => {
                let (text, is_also_secret) = read_text(&path)?;
                is_secret |= is_also_secret && *name == "run";
                text
            }
        };
        added.push((path, text));
    }
    for name in run_directory::DIRECTORIES {
        let entries = fs::read_dir(directory.join(name)).into_iter().flatten();
        added.extend(entries.flatten().map(|entry| (entry.path(), String::new())));
    }
    let text_of = |name: &str| {
        let mut files = added.iter();
        let found = files.find(|(path, _)| *path == directory.join(name));
        found.map_or_else(String::new, |(_, text)| text.clone())
    };
    let main = ["type", "run"]
        .into_iter()
        .find(|name| directory.join(name).is_file());
    let main = main.unwrap_or("run");
    let (run, log, text) = (text_of("run"), text_of("log/run"), text_of(main));
    for place in run_directory::environment_directories(&run, &directory) {
        let entries = fs::read_dir(&place).into_iter().flatten().flatten();
        for path in entries
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
        {
            let (text, is_also_secret) = read_text(&path)?;
            is_secret |= is_also_secret;
            added.push((path, text));
        }
    }
    let log = run_directory::log_directory(&log, &directory.join("log"));
    let config = log.map(|place| place.join("config"));
    if let Some(path) = config.filter(|path| path.is_file()) {
        let (text, _) = read_text(&path)?;
        added.push((path, text));
    }
    added.sort();
    let name = directory.file_name().unwrap_or_default();
    Ok(Text {
        path: directory.join(main),
        name: name.to_string_lossy().into_owned(),
        text,
        is_secret,
        added,
        variables: BTreeSet::new(),
        sockets: Vec::new(),
        tmpfiles: Vec::new(),
    })
}

fn read_one(path: &Path) -> Result<Text> {
    let path = std::path::absolute(path)?;
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let is_service = name.ends_with(".service");
    let is_unit = is_service || name.ends_with(".socket");
    let place = match is_unit && !path.exists() {
        // `x@a.service`, of which there is `x@.service` alone.
        true => {
            template(&name).map_or_else(|| path.clone(), |template| path.with_file_name(template))
        }
        false => path.clone(),
    };
    let (text, mut is_secret) = read_text(&place)?;
    let mut added = Vec::new();
    if is_unit {
        for path in drop_ins(&place, &name) {
            let (text, is_also_secret) = read_text(&path)?;
            is_secret |= is_also_secret;
            added.push((path, text));
        }
    }
    let variables = match is_unit {
        true => variables(&place, &text, &added),
        false => BTreeSet::new(),
    };
    let (sockets, tmpfiles) = match is_service {
        true => (sockets(&place, &text, &added)?, tmpfiles(&place, &name)),
        false => (Vec::new(), Vec::new()),
    };
    Ok(Text {
        path: place,
        name,
        text,
        is_secret,
        added,
        variables,
        sockets,
        tmpfiles,
    })
}

/// `x@.service` for `x@a.service`.
fn template(name: &str) -> Option<String> {
    let (prefix, rest) = name.split_once('@')?;
    let (_, kind) = rest.rsplit_once('.')?;
    Some(format!("{prefix}@.{kind}"))
}

/// Only a regular file, and never one that waits for a writer.
fn read_text(path: &Path) -> Result<(String, bool)> {
    let what = || format!("cannot read {}", path.display());
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let before = fs::metadata(path).with_context(what)?;
    if !before.is_file() {
        bail!("cannot read {}: expected a regular file", path.display());
    }
    let file = options.open(path).with_context(what)?;
    let found = file.metadata().with_context(what)?;
    if !found.is_file() || found.len() > MAX_SIZE {
        bail!(
            "cannot read {}: expected a regular file of at most 1 MiB",
            path.display()
        );
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .with_context(what)?;
    let text = String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
        .with_context(|| format!("cannot read {}: it is not UTF-8 text", path.display()))?;
    Ok((text, found.mode() & 0o004 == 0))
}

/// `x.service.d/*.conf`, of instances also those of their template; by their names, and of one name the
/// first directory's.
fn drop_ins(unit: &Path, name: &str) -> Vec<PathBuf> {
    let own = unit.parent().unwrap_or(Path::new("/"));
    let mut places: Vec<&Path> = vec![own];
    if UNIT_DIRS.iter().any(|dir| Path::new(dir) == own) {
        places = UNIT_DIRS.iter().map(Path::new).collect();
    }
    let names = template(name).into_iter().chain([name.to_owned()]);
    let names: Vec<_> = names.collect();
    let mut found: Vec<PathBuf> = Vec::new();
    for place in places {
        for name in &names {
            let Ok(entries) = fs::read_dir(place.join(format!("{name}.d"))) else {
                continue;
            };
            for path in entries.flatten().map(|entry| entry.path()) {
                let is_conf = path.extension() == Some(OsStr::new("conf"));
                let is_known = found
                    .iter()
                    .any(|known| known.file_name() == path.file_name());
                if is_conf && !is_known && path.is_file() {
                    found.push(path);
                }
            }
        }
    }
    found.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
    found
}

/// The socket units that a unit needs, as far as they are beside it. One that is merely there may be
/// switched off: then the service binds for itself.
fn sockets(path: &Path, text: &str, added: &[(PathBuf, String)]) -> Result<Vec<Text>> {
    let (mut assignments, _) = unit::parse(path, text);
    for (path, text) in added {
        assignments.extend(unit::parse(path, text).0);
    }
    let mut paths = BTreeSet::new();
    for from in assignments {
        if ["Sockets", "Requires", "BindsTo"].contains(&from.key.as_str()) {
            let names = from.value.split_ascii_whitespace();
            let names =
                names.filter(|name| name.ends_with(".socket") && !name.contains(['/', '%']));
            paths.extend(names.map(|name| path.with_file_name(name)));
        }
    }
    let paths = paths.iter().filter(|path| path.is_file());
    paths.map(|path| read_one(path)).collect()
}

/// What systemd-tmpfiles makes for the package of a unit: packages call those files as their unit, or its
/// template, or themselves where several units share one (`postgresql-common.conf`).
fn tmpfiles(unit: &Path, name: &str) -> Vec<(PathBuf, String)> {
    let own = unit.parent().unwrap_or(Path::new("/"));
    let beside = own
        .ancestors()
        .nth(2)
        .map(|it| it.join("tmpfiles.d"))
        .filter(|_| own.ends_with("systemd/system"));
    let mut dirs: Vec<PathBuf> = beside.into_iter().collect();
    if UNIT_DIRS.iter().any(|dir| Path::new(dir) == own) {
        dirs = TMPFILES_DIRS.iter().map(PathBuf::from).collect();
    }
    let stem = name.strip_suffix(".service").unwrap_or(name);
    let package = stem.split('@').next().unwrap_or(stem);
    let mut names = vec![
        stem.to_owned(),
        package.to_owned(),
        format!("{package}-common"),
    ];
    names.dedup();
    let read = |name: &String| {
        let paths = dirs.iter().map(|dir| dir.join(format!("{name}.conf")));
        let path = paths.into_iter().find(|path| path.is_file())?;
        let (text, _) = read_text(&path).ok()?;
        Some((path, text))
    };
    names.iter().filter_map(read).collect()
}

/// What the environment files of a unit set now.
fn variables(path: &Path, text: &str, added: &[(PathBuf, String)]) -> BTreeSet<String> {
    let (mut assignments, _) = unit::parse(path, text);
    for (path, text) in added {
        assignments.extend(unit::parse(path, text).0);
    }
    let files = assignments.iter().filter(|it| it.key == "EnvironmentFile");
    let mut variables = BTreeSet::new();
    for file in files {
        let path = file.value.strip_prefix('-').unwrap_or(&file.value);
        if let Ok(found) = crate::config::read_environment_file(Path::new(path)) {
            variables.extend(found.into_iter().map(|(name, _)| name));
        }
    }
    variables
}

/// Writes all that can be used to the config directory, or none; returns their files.
///
/// # Errors
/// [`Refused`] if one is there already; the kernel's.
pub(crate) fn write(
    services: &[Service],
    existing: &BTreeSet<String>,
    config: &Path,
) -> Result<Vec<PathBuf>> {
    let dir = config.join(SERVICES);
    let services: Vec<&Service> = services.iter().filter(|it| it.refused.is_none()).collect();
    let path = |service: &Service| dir.join(format!("{}.toml", service.name));
    // Another file may have a service of this name.
    let is_there = |service: &&&Service| {
        existing.contains(&service.name) || fs::symlink_metadata(path(service)).is_ok()
    };
    let there: Vec<_> = services
        .iter()
        .filter(is_there)
        .map(|it| path(it))
        .collect();
    if !there.is_empty() {
        return Err(Refused(there).into());
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut written: Vec<PathBuf> = Vec::new();
    for service in services {
        let path = path(service);
        if let Err(error) = put(service, &dir, &path) {
            for path in &written {
                let _ = fs::remove_file(path);
            }
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => Refused(vec![path]).into(),
                _ => anyhow::Error::new(error).context(format!(
                    "nothing was written: cannot write {}",
                    path.display()
                )),
            });
        }
        written.push(path);
    }
    Ok(written)
}

/// Under another name first, which the agent does not read; a link of its name never replaces anything.
fn put(service: &Service, dir: &Path, path: &Path) -> io::Result<()> {
    let temporary = dir.join(format!(".{}.import-{}", service.name, process::id()));
    let mode = if service.is_secret { 0o600 } else { 0o644 };
    let result = create(&temporary, service, mode).and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    result
}

fn create(path: &Path, service: &Service, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file: File = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(service.to_toml().as_bytes())?;
    file.sync_all()
}

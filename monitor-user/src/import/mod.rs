//! Service files from what other supervisors read: systemd's units, inittabs, supervisord's config, run
//! directories of runit and s6.
//!
//! ```text
//! text ─▶ unit, ini: lines with their places ─▶ systemd, inittab, supervisord ─▶ Service (TOML), Finding
//!      └▶ run_script: words ─▶ run_directory ──────────────────────────────────▶
//! ```
//! The converters are pure: they get texts and a [`Host`], and run, write and look up nothing. What a
//! setting that is not carried over costs is in one table for each format. Reading and writing files
//! is `files`.

mod daemons;
mod directives;
mod files;
mod ini;
mod inittab;
mod run_directory;
mod run_script;
mod sockets;
mod supervisord;
mod systemd;
#[cfg(test)]
mod tests;
mod tmpfiles;
mod unit;
mod values;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use self::words::INSTANCE;
use crate::config::{self, Surroundings};
use crate::text::printable;

pub(crate) use files::{read, write};

/// What a text is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Systemd,
    Inittab,
    Supervisord,
    Runit,
    S6,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The service does less than before, or will not run.
    Lost,
    /// It runs, and something is a little different.
    Approximated,
    /// It runs, and may do more than before.
    Hardening,
    /// Nothing is lost.
    Harmless,
}

impl Severity {
    /// From the worst on.
    pub(crate) const ALL: [Self; 4] = [
        Self::Lost,
        Self::Approximated,
        Self::Hardening,
        Self::Harmless,
    ];
}

/// What was not carried over as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// `None`: of the whole file.
    pub(crate) service: Option<String>,
    pub(crate) file: String,
    pub(crate) line: Option<usize>,
    /// As it stands there.
    pub(crate) setting: String,
    /// What became of it, and why.
    pub(crate) message: String,
}

/// One key of a service file.
#[derive(Debug, Clone, PartialEq)]
struct ServiceKey {
    key: String,
    value: Value,
    /// The lines that it is from, with their places.
    origins: Vec<String>,
}

/// A service file on its way.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// Comments at its head.
    head: Vec<String>,
    entries: Vec<ServiceKey>,
    /// Whether somebody else may read what it is from.
    pub(crate) is_secret: bool,
    /// Why `respawn check` would refuse it, if it would: then it is not written.
    pub(crate) refused: Option<String>,
    /// The file that it is from.
    source: PathBuf,
}

impl Service {
    fn new(name: &str, source: &Path) -> Self {
        Self {
            name: name.to_owned(),
            source: source.to_owned(),
            ..Self::default()
        }
    }

    /// Sets a key, in place of what it was before.
    fn set(&mut self, key: &str, value: impl Into<Value>, origins: &[String]) {
        let entry = ServiceKey {
            key: key.to_owned(),
            value: value.into(),
            origins: origins.to_vec(),
        };
        match self.entries.iter_mut().find(|entry| entry.key == key) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let found = self.entries.iter().find(|entry| entry.key == key);
        found.map(|entry| &entry.value)
    }

    fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| entry.key != key);
    }

    /// Adds a name to a list of services.
    fn add_name(&mut self, key: &str, name: &str, origin: &str) {
        if !self.entries.iter().any(|entry| entry.key == key) {
            self.set(key, Value::Array(Vec::new()), &[]);
        }
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) else {
            return;
        };
        let name = Value::from(name);
        if let Value::Array(names) = &mut entry.value
            && !names.contains(&name)
        {
            names.push(name);
        }
        if !origin.is_empty() && !entry.origins.iter().any(|old| old == origin) {
            entry.origins.push(origin.to_owned());
        }
    }

    /// Puts these before what a list of commands has.
    fn prepend(&mut self, key: &str, commands: Vec<Value>, origins: Vec<String>) {
        if !self.entries.iter().any(|entry| entry.key == key) {
            self.set(key, Value::Array(Vec::new()), &[]);
        }
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) else {
            return;
        };
        if let Value::Array(items) = &mut entry.value {
            items.splice(0..0, commands);
        }
        entry.origins.splice(0..0, origins);
    }

    /// Writes the values as a template has them: `%i` is the instance's name, and `%%` a percent sign.
    fn make_template(&mut self) {
        fn rewrite(value: &mut Value) {
            match value {
                Value::String(text) => *text = text.replace('%', "%%").replace(INSTANCE, "%i"),
                Value::Array(items) => items.iter_mut().for_each(rewrite),
                Value::Object(table) => table.values_mut().for_each(rewrite),
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
        let comments = self.entries.iter_mut().flat_map(|entry| &mut entry.origins);
        for comment in comments.chain(&mut self.head) {
            *comment = comment.replace(INSTANCE, "%i");
        }
        self.entries
            .iter_mut()
            .for_each(|entry| rewrite(&mut entry.value));
    }

    /// The file's text.
    pub(crate) fn to_toml(&self) -> String {
        let mut text = String::new();
        let comment = |text: &mut String, line: &str| {
            text.push_str("# ");
            text.push_str(&printable(line));
            text.push('\n');
        };
        if let Some(why) = &self.refused {
            comment(&mut text, &format!("NOT WRITTEN: {why}"));
        }
        for line in &self.head {
            comment(&mut text, line);
        }
        for entry in &self.entries {
            text.push('\n');
            for origin in &entry.origins {
                comment(&mut text, origin);
            }
            match &entry.value {
                Value::Object(table) if entry.key == "environment" => {
                    for (name, value) in table {
                        let key = config::toml_key(name);
                        text.push_str(&format!("environment.{key} = {}\n", config::toml(value)));
                    }
                }
                value => text.push_str(&format!("{} = {}\n", entry.key, config::toml(value))),
            }
        }
        text
    }
}

/// What a conversion has come to.
#[derive(Debug, Default)]
pub(crate) struct Imported {
    pub(crate) services: Vec<Service>,
    pub(crate) findings: Vec<Finding>,
}

impl Imported {
    fn find(
        &mut self,
        severity: Severity,
        service: Option<&str>,
        place: (&Path, Option<usize>),
        setting: &str,
        message: impl Into<String>,
    ) {
        let (file, line) = place;
        let finding = Finding {
            severity,
            service: service.map(str::to_owned),
            file: file.to_string_lossy().into_owned(),
            line,
            setting: setting.replace(INSTANCE, "%i"),
            message: message.into().replace(INSTANCE, "%i"),
        };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// How many findings there are of this kind.
    pub(crate) fn count(&self, severity: Severity) -> usize {
        let found = self.findings.iter();
        found.filter(|finding| finding.severity == severity).count()
    }
}

/// What a conversion depends on beside the texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Services that there are already.
    pub(crate) existing: BTreeSet<String>,
    /// Their environment, for the check of what is written.
    pub(crate) surroundings: Surroundings,
}

impl Host {
    /// Whether this version has a key, tried with a good value.
    fn knows(&self, keys: &str) -> bool {
        let text = format!("command = [\"/bin/true\"]\n{keys}\n");
        config::check_text(Path::new("x.toml"), text, &self.surroundings)
            .0
            .is_empty()
    }
}

/// A file that was read, with the files that add to it.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) path: PathBuf,
    /// Units: its name with the instance.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Whether only its owner may read it.
    pub(crate) is_secret: bool,
    /// Drop-ins, in their order.
    pub(crate) added: Vec<(PathBuf, String)>,
    /// What its environment files set now, by name; what cannot be read is not here.
    pub(crate) variables: BTreeSet<String>,
    /// Services: the socket units that it names, and that are beside it.
    pub(crate) sockets: Vec<Text>,
    /// Services: what is made for their package at each boot.
    pub(crate) tmpfiles: Vec<(PathBuf, String)>,
}

/// Converts them all; `format`: as what, else by name and content of each.
pub(crate) fn convert(texts: &[Text], format: Option<Format>, host: &Host) -> Imported {
    let mut imported = Imported::default();
    let (mut units, mut others, mut directories) = (Vec::new(), Vec::new(), Vec::new());
    for text in texts {
        match format.or_else(|| guess(text)) {
            Some(Format::Systemd) => units.push(text),
            Some(Format::Runit) => directories.push((run_directory::Kind::Runit, text)),
            Some(Format::S6) => directories.push((run_directory::Kind::S6, text)),
            Some(format) => others.push((format, text)),
            None => imported.find(
                Severity::Lost,
                None,
                (&text.path, None),
                "",
                "it is not known what this is; say it with --from systemd, inittab, supervisord, runit or s6",
            ),
        }
    }
    systemd::convert(&units, host, &mut imported);
    run_directory::convert(&directories, host, &mut imported);
    for (format, text) in others {
        match format {
            Format::Inittab => inittab::convert(text, host, &mut imported),
            _ => supervisord::convert(text, host, &mut imported),
        }
    }
    unique_names(&mut imported);
    break_cycles(&mut imported);
    share_no_log(&mut imported);
    check(host, &mut imported);
    let severity = |finding: &Finding| finding.severity;
    imported.findings.sort_by_key(severity);
    imported
}

/// A log is one service's. Several may append to one file.
fn share_no_log(imported: &mut Imported) {
    let path_of = |service: &Service| {
        let path = service.get("log")?.get("path")?.as_str()?;
        Some(path.to_owned())
    };
    let mut users: BTreeMap<String, usize> = BTreeMap::new();
    for path in imported.services.iter().filter_map(path_of) {
        *users.entry(path).or_default() += 1;
    }
    let mut changed = Vec::new();
    for service in &mut imported.services {
        let path = path_of(service).filter(|path| users.get(path).is_some_and(|count| *count > 1));
        if let Some(path) = path {
            service.remove("log");
            service.set("stdout", path, &[]);
            changed.push((service.name.clone(), service.source.clone()));
        }
    }
    for (name, source) in changed {
        let message = "others write to that file, too: it is not rotated; logrotate can do it, with copytruncate";
        let place = (source.as_path(), None);
        imported.find(Severity::Approximated, Some(&name), place, "log", message);
    }
}

/// By its name, or else by what is in it.
fn guess(text: &Text) -> Option<Format> {
    let name = text.path.file_name()?.to_string_lossy().into_owned();
    if name.ends_with(".service") || name.ends_with(".socket") {
        return Some(Format::Systemd);
    }
    if run_directory::FILES.contains(&name.as_str()) {
        return Some(match run_directory::kind(text) {
            run_directory::Kind::Runit => Format::Runit,
            run_directory::Kind::S6 => Format::S6,
        });
    }
    if name.contains("inittab") {
        return Some(Format::Inittab);
    }
    let lines = || text.text.lines().map(str::trim);
    if lines().any(|line| line.starts_with("[program:") || line == "[supervisord]") {
        return Some(Format::Supervisord);
    }
    if lines().any(|line| line == "[Service]") {
        return Some(Format::Systemd);
    }
    let mut lines = lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_inittab = |line: &str| line.split(':').count() >= 4;
    (lines.clone().next().is_some() && lines.all(is_inittab)).then_some(Format::Inittab)
}

/// The agent refuses a cycle; systemd leaves out one of its starts.
fn break_cycles(imported: &mut Imported) {
    let mut comes_after: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut services = std::mem::take(&mut imported.services);
    // What is only ordered gives way to what is required.
    for key in ["binds", "requires", "part_of", "after"] {
        for service in &mut services {
            let Some(Value::Array(names)) = service.get(key).cloned() else {
                continue;
            };
            let mut kept = Vec::new();
            for other in names {
                let name = other.as_str().unwrap_or_default();
                if name == service.name || leads_to(&comes_after, name, &service.name) {
                    let message = format!("{name} comes after {} already: left out", service.name);
                    let place = (service.source.as_path(), None);
                    let own = Some(service.name.as_str());
                    imported.find(Severity::Approximated, own, place, key, message);
                    continue;
                }
                let of = comes_after.entry(service.name.clone()).or_default();
                of.insert(name.to_owned());
                kept.push(other);
            }
            if kept.is_empty() {
                service.remove(key);
            } else if let Some(entry) = service.entries.iter_mut().find(|it| it.key == key) {
                entry.value = Value::Array(kept);
            }
        }
    }
    imported.services = services;
}

/// Whether one comes after another, by however many in between.
fn leads_to(comes_after: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![from];
    while let Some(name) = waiting.pop() {
        for next in comes_after.get(name).into_iter().flatten() {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                waiting.push(next);
            }
        }
    }
    false
}

/// Two files of one name would be one service.
fn unique_names(imported: &mut Imported) {
    let mut taken = BTreeSet::new();
    let services = std::mem::take(&mut imported.services);
    for service in services {
        if taken.insert(service.name.clone()) {
            imported.services.push(service);
            continue;
        }
        imported.find(
            Severity::Lost,
            Some(&service.name),
            (&service.source, None),
            "",
            "another service of this name is imported too; import this one by itself, and rename it",
        );
    }
}

/// What `respawn check` would refuse would keep the agent from taking up any of them: it is not written.
fn check(host: &Host, imported: &mut Imported) {
    let mut services = std::mem::take(&mut imported.services);
    for service in &mut services {
        let path = PathBuf::from(format!("{}.toml", service.name));
        let (problems, _) = config::check_text(&path, service.to_toml(), &host.surroundings);
        for problem in problems {
            let key = problem.key.unwrap_or_default();
            let message = format!(
                "not written, as respawn check refuses it: {}",
                problem.message
            );
            let place = (service.source.as_path(), None);
            imported.find(Severity::Lost, Some(&service.name), place, &key, message);
            service
                .refused
                .get_or_insert_with(|| format!("{key}: {}", problem.message));
        }
    }
    let refused = services.iter().filter(|service| service.refused.is_some());
    let refused: BTreeSet<String> = refused.map(|service| service.name.clone()).collect();
    for service in &mut services {
        for key in ["requires", "binds"] {
            leave_out(service, key, &refused, imported);
        }
    }
    imported.services = services;
}

/// Takes names out of a list of services that have to be there.
fn leave_out(service: &mut Service, key: &str, names: &BTreeSet<String>, imported: &mut Imported) {
    let Some(entry) = service.entries.iter_mut().find(|entry| entry.key == key) else {
        return;
    };
    let Value::Array(list) = &mut entry.value else {
        return;
    };
    let is_gone = |name: &Value| name.as_str().is_some_and(|name| names.contains(name));
    for name in list.iter().filter(|name| is_gone(name)) {
        let place = (service.source.as_path(), None);
        let message = format!("{name} is not written, and is left out");
        imported.find(Severity::Lost, Some(&service.name), place, key, message);
    }
    list.retain(|name| !is_gone(name));
    if list.is_empty() {
        service.remove(key);
    }
}

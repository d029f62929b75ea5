//! The config: TOML files to validated [`Spec`]s, all of their problems told in one go.
//!
//! Reads files and looks users, groups and programs up, and that is all: it starts nothing,
//! watches nothing, and leaves the comparison of an old config with a new one to the supervisor.
//!
//! ```text
//! source (text, positions) ─▶ document (TOML) ─▶ cursor (items with places) ─▶ service ─▶ Spec
//!                                                                         └─▶ agent ─▶ AgentConfig
//! ```
//!
//! A new key of a service is a line in `service::KEYS`, one of the agent a line in `agent::KEYS`.

mod access;
mod accounts;
mod agent;
mod cursor;
mod describe;
mod document;
mod environment;
mod hooks;
mod limits;
mod ownership;
mod problem;
mod service;
mod source;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::accounts::Accounts;
use crate::model::{ServiceName, Spec, Unusable};
use crate::os::progress;

pub(crate) use agent::{AgentConfig, Notices};
pub(crate) use describe::{Description, Lines, Setting};
pub(crate) use environment::read_file as read_environment_file;
pub(crate) use problem::{Invalid, Problem};
pub(crate) use source::content;

use cursor::{Context, Item, Table, quoted};
use ownership::Ownership;
use problem::{Ends, Report, printable};
use source::Source;

/// A config that can be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) agent: AgentConfig,
    pub(crate) services: BTreeMap<ServiceName, Arc<Spec>>,
    /// The file that each service is described in.
    #[serde(default)]
    pub(crate) files: BTreeMap<ServiceName, PathBuf>,
    /// Where in that file each of its keys is, as far as that is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) lines: BTreeMap<ServiceName, Lines>,
    /// The same of `agent.toml`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) agent_lines: Lines,
    /// Whether there may be more services: in files that cannot be read as what they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_partial: bool,
    /// What works, but hardly as meant. It was told when this was loaded, and is not kept.
    #[serde(skip)]
    pub(crate) warnings: Vec<Problem>,
}

/// What the meaning of a config depends on beside its files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Services get a few variables of it: see `environment`.
    pub(crate) environment: BTreeMap<String, String>,
    /// The user that services run as who name none.
    pub(crate) uid: u32,
}

impl Surroundings {
    /// Those of this process. Variables that are not UTF-8 are left out.
    pub(crate) fn of_this_process() -> Self {
        let variables = std::env::vars_os();
        let utf8 =
            variables.filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self {
            environment: utf8.collect(),
            uid: nix::unistd::geteuid().as_raw(),
        }
    }

    /// What of the environment every service gets, and every hook.
    pub(crate) fn for_services(&self) -> BTreeMap<String, String> {
        environment::base(self)
    }
}

/// The keys of a service and those of `agent.toml`, for input that is made up.
#[cfg(test)]
pub(crate) fn key_names() -> (Vec<&'static str>, Vec<&'static str>) {
    (service::key_names(), agent::key_names())
}

const AGENT_FILE: &str = "agent.toml";

/// The directory, in a config directory, whose `*.toml` files are the services.
pub(crate) const SERVICES: &str = "services";

/// Reads a config directory: `services/*.toml` and `agent.toml`, neither of which must be there.
///
/// # Errors
/// All that is wrong in any of the files, and what can be used of them. A directory that does not
/// exist is wrong; one without services is not.
pub(crate) fn load(dir: &Path, surroundings: &Surroundings) -> Result<Config, Invalid> {
    let mut loader = Loader::new(surroundings);
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => loader.directory(dir),
        Ok(_) => loader.refuse(dir, "expected a directory"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => loader.refuse(
            dir,
            "does not exist; expected a directory with a service in each services/NAME.toml",
        ),
        Err(error) => loader.refuse(dir, format!("cannot be read: {error}")),
    }
    loader.finish()
}

/// Reads the service files of a directory that is no config directory: that of the services of one.
///
/// # Errors
/// All that is wrong in any of them.
pub(crate) fn load_services(dir: &Path, surroundings: &Surroundings) -> Result<Config, Invalid> {
    let mut loader = Loader::new(surroundings);
    loader.services(dir);
    loader.finish()
}

/// Whether the files of services are right in a directory, and not in its `services`.
pub(crate) fn has_service_files(dir: &Path) -> bool {
    let is_config = is_there(&dir.join(SERVICES)) || is_there(&dir.join(AGENT_FILE));
    let has_files = || service_files(dir).is_ok_and(|files| !files.is_empty());
    !is_config && (dir.file_name() == Some(OsStr::new(SERVICES)) || has_files())
}

/// Reads a single file: services, or `agent.toml`.
///
/// # Errors
/// All that is wrong in it.
pub(crate) fn load_file(path: &Path, surroundings: &Surroundings) -> Result<Config, Invalid> {
    let mut loader = Loader::new(surroundings);
    let of_services = path.parent().and_then(Path::file_name) == Some(OsStr::new(SERVICES));
    if path.file_name() == Some(OsStr::new(AGENT_FILE)) && !of_services {
        loader.agent_file(path);
    } else {
        loader.service_file(path);
    }
    loader.finish()
}

/// Reads one service's file again, whose service could not be used before; with it, where its keys
/// are. `None`: the file has other services.
///
/// # Errors
/// Why it still cannot.
pub(crate) fn load_again(
    dir: &Path,
    file: &Path,
    name: &str,
    surroundings: &Surroundings,
) -> Result<Option<(Arc<Spec>, Lines)>, Unusable> {
    let mut loader = Loader::new(surroundings);
    let agent = dir.join(AGENT_FILE);
    if is_there(&agent) {
        loader.agent_file(&agent);
    }
    loader.service_file(file);
    match loader.unusable.remove(name) {
        Some(unusable) => Err(unusable),
        None => {
            let lines = loader.lines.remove(name).unwrap_or_default();
            Ok(loader.services.remove(name).map(|spec| (spec, lines)))
        }
    }
}

/// A config on its way in.
struct Loader<'s> {
    surroundings: &'s Surroundings,
    accounts: Rc<Accounts>,
    ownership: Ownership,
    report: Report,
    agent: AgentConfig,
    services: BTreeMap<ServiceName, Arc<Spec>>,
    /// Services with an obstacle to their use.
    unusable: BTreeMap<ServiceName, Unusable>,
    /// Where each service is defined, the invalid ones too.
    places: BTreeMap<ServiceName, String>,
    files: BTreeMap<ServiceName, PathBuf>,
    lines: BTreeMap<ServiceName, Lines>,
    agent_lines: Lines,
    /// It is not known which services there are.
    is_lost: bool,
    is_partial: bool,
}

impl<'s> Loader<'s> {
    fn new(surroundings: &'s Surroundings) -> Self {
        Self {
            surroundings,
            accounts: Rc::new(Accounts::of_this_host()),
            ownership: Ownership::new(surroundings.uid),
            report: Report::default(),
            agent: AgentConfig::default(),
            services: BTreeMap::new(),
            unusable: BTreeMap::new(),
            places: BTreeMap::new(),
            files: BTreeMap::new(),
            lines: BTreeMap::new(),
            agent_lines: Lines::new(),
            is_lost: false,
            is_partial: false,
        }
    }

    fn finish(self) -> Result<Config, Invalid> {
        let (problems, warnings) = self.report.finish();
        let mut config = Config {
            agent: self.agent,
            services: self.services,
            files: self.files,
            lines: self.lines,
            agent_lines: self.agent_lines,
            is_partial: self.is_partial,
            warnings,
        };
        if problems.is_empty() {
            return Ok(config);
        }
        for (name, unusable) in self.unusable {
            let hooks = hooks::Said::default().or(&config.agent.hooks);
            // One that is described elsewhere too is not lost.
            let services = config.services.entry(name);
            services.or_insert_with(|| Arc::new(Spec::unusable(unusable, hooks)));
        }
        let warnings = std::mem::take(&mut config.warnings);
        Err(Invalid {
            problems,
            warnings,
            usable: (!self.is_lost).then(|| Box::new(config)),
        })
    }

    /// Nothing can be read of a directory.
    fn refuse(&mut self, path: &Path, message: impl Into<String>) {
        self.is_lost = true;
        self.report.problem(Problem::of_file(path, message));
    }

    fn directory(&mut self, dir: &Path) {
        self.ownership
            .look(dir, "the config directory", &self.report);
        let agent = dir.join(AGENT_FILE);
        if is_there(&agent) {
            self.agent_file(&agent);
        }
        let services = dir.join(SERVICES);
        self.warn_of_misplaced(dir);
        if is_there(&services) {
            self.services(&services);
        }
    }

    fn services(&mut self, dir: &Path) {
        let what = "the directory of the service files";
        self.ownership.look(dir, what, &self.report);
        match service_files(dir) {
            Ok(files) => files.iter().for_each(|file| self.service_file(file)),
            Err(error) => self.refuse(dir, format!("cannot be listed: {error}")),
        }
    }

    /// Files beside `agent.toml` that were meant as services, perhaps.
    fn warn_of_misplaced(&self, dir: &Path) {
        for file in service_files(dir).unwrap_or_default() {
            if file.file_name() != Some(OsStr::new(AGENT_FILE)) {
                let message = format!("is not read: services are in {SERVICES}/");
                self.report.warn(Problem::of_file(&file, message));
            }
        }
    }

    fn agent_file(&mut self, path: &Path) {
        self.ownership.look(path, "the agent's file", &self.report);
        if let Some(source) = Source::read(path, &self.report) {
            let context = Context {
                source: &source,
                report: &self.report,
                accounts: &self.accounts,
            };
            (self.agent, self.agent_lines) = agent::read(context, self.surroundings);
        }
    }

    /// A file that cannot be read as what it is counts as the service that is named as it is.
    fn service_file(&mut self, path: &Path) {
        progress::count();
        self.ownership.look(path, "a service file", &self.report);
        let report = self.report.part();
        let source = Source::read(path, &report);
        if let Some(source) = &source
            && self.service_source(source, &report)
        {
            return self.report.absorb(report);
        }
        self.is_partial = true;
        if let Some(name) = stem(path)
            && check_name(name).is_ok()
        {
            self.note_unusable(name, path, &report);
        }
        self.report.absorb(report);
    }

    /// A file with a `service` table has several services, any other is one. `false`: it is not
    /// even TOML.
    fn service_source(&mut self, source: &Source, report: &Report) -> bool {
        let Some(document) = document::parse(source, report) else {
            return false;
        };
        // Of a key that is there twice nobody knows which is meant, nor in which service.
        let is_ambiguous = report.obstacles() > 0;
        let accounts = Rc::clone(&self.accounts);
        let context = Context {
            source,
            report,
            accounts: &accounts,
        };
        let root = Table::root(context, &document);
        match root.get("service") {
            Some(services) => self.several(source, &root, &services, report),
            None => self.single(source, &root, report),
        }
        if is_ambiguous {
            self.withdraw(&source.path, report);
        }
        true
    }

    /// Has none of a file's services used.
    fn withdraw(&mut self, file: &Path, report: &Report) {
        let of_file = self.files.iter().filter(|(_, path)| *path == file);
        let names: Vec<ServiceName> = of_file.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.services.remove(&name);
            self.note_unusable(&name, file, report);
        }
    }

    fn single(&mut self, source: &Source, root: &Table<'_>, report: &Report) {
        let name = stem(&source.path).unwrap_or("");
        let defined = self.define(name, printable(&source.path));
        if let Err(message) = &defined {
            report.problem(Problem::of_file(&source.path, message));
        }
        let spec = service::read(root, report, self.surroundings, &self.agent.hooks);
        if defined.is_ok() {
            self.lines.insert(name.into(), root.lines());
            self.add(name, &source.path, spec, report);
        }
    }

    fn several(&mut self, source: &Source, root: &Table<'_>, services: &Item<'_>, report: &Report) {
        for (_, item) in root.items().filter(|(key, _)| *key != "service") {
            item.problem_at_key(
                "unknown key; a file with [service.NAME] tables has nothing beside them",
            );
        }
        let Some(table) = services.table("tables such as [service.web]") else {
            return;
        };
        for (name, item) in table.items() {
            let part = report.part();
            let item = item.reporting_to(&part);
            let place = format!("{}:{}", printable(&source.path), item.key_line());
            let defined = self.define(name, place);
            if let Err(message) = &defined {
                item.problem_at_key(message);
            }
            let table = item.table("a table of the service's keys");
            let lines = table.as_ref().map(Table::lines).unwrap_or_default();
            let spec = table.and_then(|table| {
                service::read(&table, &part, self.surroundings, &self.agent.hooks)
            });
            if defined.is_ok() {
                self.lines.insert(name.into(), lines);
                self.add(name, &source.path, spec, &part);
            }
            report.absorb(part);
        }
    }

    /// Notes where a service is defined; an error if it cannot be named so, or is defined
    /// elsewhere already.
    fn define(&mut self, name: &str, place: String) -> Result<(), String> {
        check_name(name)?;
        match self.places.get(name) {
            Some(first) => Err(format!(
                "service {} is defined twice, first in {first}",
                quoted(name)
            )),
            None => {
                self.places.insert(name.into(), place);
                Ok(())
            }
        }
    }

    /// Adds a service; without a spec the report of it tells why it cannot be used.
    fn add(&mut self, name: &str, file: &Path, spec: Option<Spec>, report: &Report) {
        match spec {
            Some(spec) => {
                self.ownership.look_at_service(name, &spec, report);
                self.services.insert(name.into(), Arc::new(spec));
                self.files.insert(name.into(), file.to_owned());
            }
            None => self.note_unusable(name, file, report),
        }
    }

    fn note_unusable(&mut self, name: &str, file: &Path, report: &Report) {
        let why = match report.first_obstacle() {
            Some((first, 0, _)) => first.to_string(),
            Some((first, 1, _)) => format!("{first}; and 1 more problem"),
            Some((first, others, _)) => format!("{first}; and {others} more problems"),
            None => format!("{} cannot be used", printable(file)),
        };
        let obstacle = report.first_obstacle();
        let may_end = obstacle.is_some_and(|(_, _, ends)| ends == Ends::WithTheHost);
        self.unusable.insert(name.into(), Unusable { why, may_end });
        let files = self.files.entry(name.into());
        files.or_insert_with(|| file.to_owned());
    }
}

fn stem(path: &Path) -> Option<&str> {
    path.file_stem().and_then(OsStr::to_str)
}

/// A dangling link is there: it was put there to lead somewhere.
fn is_there(path: &Path) -> bool {
    let found = fs::symlink_metadata(path);
    !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The `*.toml` entries that are not hidden, sorted by name.
fn service_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension() == Some(OsStr::new("toml")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Names go into paths, cgroup names and command lines.
pub(crate) fn is_service_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with(['.', '-'])
}

fn check_name(name: &str) -> Result<(), String> {
    if is_service_name(name) {
        return Ok(());
    }
    Err(format!(
        "expected a service name of at most 64 letters, digits and _ . @ - that begins with none \
         of . and -, found {}",
        quoted(name)
    ))
}

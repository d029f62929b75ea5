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
mod document;
mod environment;
mod hooks;
mod limits;
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
use crate::supervisor::{ServiceName, Spec};

pub(crate) use agent::{AgentConfig, Notices};
pub(crate) use problem::{Invalid, Problem};

use cursor::{Context, Item, Table, quoted};
use problem::{Report, printable};
use source::Source;

/// A config that can be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) agent: AgentConfig,
    pub(crate) services: BTreeMap<ServiceName, Arc<Spec>>,
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

const AGENT_FILE: &str = "agent.toml";

/// The directory, in a config directory, whose `*.toml` files are the services.
pub(crate) const SERVICES: &str = "services";

/// Reads a config directory: `services/*.toml` and `agent.toml`, neither of which must be there.
///
/// # Errors
/// All that is wrong in any of the files. A directory that does not exist is wrong; one without
/// services is not.
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

/// A config on its way in.
struct Loader<'s> {
    surroundings: &'s Surroundings,
    accounts: Rc<Accounts>,
    report: Report,
    agent: AgentConfig,
    services: BTreeMap<ServiceName, Arc<Spec>>,
    /// Where each service is defined, the invalid ones too.
    places: BTreeMap<ServiceName, String>,
}

impl<'s> Loader<'s> {
    fn new(surroundings: &'s Surroundings) -> Self {
        Self {
            surroundings,
            accounts: Rc::new(Accounts::of_this_host()),
            report: Report::default(),
            agent: AgentConfig::default(),
            services: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    fn finish(self) -> Result<Config, Invalid> {
        let (problems, warnings) = self.report.finish();
        if problems.is_empty() {
            Ok(Config {
                agent: self.agent,
                services: self.services,
                warnings,
            })
        } else {
            Err(Invalid { problems, warnings })
        }
    }

    fn refuse(&self, path: &Path, message: impl Into<String>) {
        self.report.problem(Problem::of_file(path, message));
    }

    fn directory(&mut self, dir: &Path) {
        let agent = dir.join(AGENT_FILE);
        if is_there(&agent) {
            self.agent_file(&agent);
        }
        let services = dir.join(SERVICES);
        if !is_there(&services) {
            return;
        }
        match service_files(&services) {
            Ok(files) => files.iter().for_each(|file| self.service_file(file)),
            Err(error) => self.refuse(&services, format!("cannot be listed: {error}")),
        }
        if let Ok(metadata) = fs::metadata(&services) {
            source::warn_if_writable(&services, &metadata, &self.report, self.surroundings);
        }
    }

    fn agent_file(&mut self, path: &Path) {
        if let Some(source) = Source::read(path, &self.report, self.surroundings) {
            let context = Context {
                source: &source,
                report: &self.report,
                accounts: &self.accounts,
            };
            self.agent = agent::read(context, self.surroundings);
        }
    }

    fn service_file(&mut self, path: &Path) {
        if let Some(source) = Source::read(path, &self.report, self.surroundings) {
            self.service_source(&source);
        }
    }

    /// A file with a `service` table has several services, any other is one.
    fn service_source(&mut self, source: &Source) {
        let Some(document) = document::parse(source, &self.report) else {
            return;
        };
        let report = std::mem::take(&mut self.report);
        let accounts = Rc::clone(&self.accounts);
        let context = Context {
            source,
            report: &report,
            accounts: &accounts,
        };
        let root = Table::root(context, &document);
        match root.get("service") {
            Some(services) => self.several(source, &root, &services, &report),
            None => self.single(source, &root, &report),
        }
        self.report = report;
    }

    fn single(&mut self, source: &Source, root: &Table<'_>, report: &Report) {
        let stem = source
            .path
            .file_stem()
            .and_then(OsStr::to_str)
            .unwrap_or("");
        let place = printable(&source.path);
        if let Err(message) = self.define(stem, place) {
            report.problem(Problem::of_file(&source.path, message));
        }
        let spec = service::read(root, report, self.surroundings, &self.agent.hooks);
        self.add(stem, spec);
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
            let place = format!("{}:{}", printable(&source.path), item.key_line());
            if let Err(message) = self.define(name, place) {
                item.problem_at_key(message);
            }
            let Some(table) = item.table("a table of the service's keys") else {
                continue;
            };
            let spec = service::read(&table, report, self.surroundings, &self.agent.hooks);
            self.add(name, spec);
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

    fn add(&mut self, name: &str, spec: Option<Spec>) {
        if let Some(spec) = spec {
            self.services.insert(name.into(), Arc::new(spec));
        }
    }
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
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@' | '-');
    let valid = (1..=64).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with(['.', '-']);
    if valid {
        return Ok(());
    }
    Err(format!(
        "expected a service name of at most 64 letters, digits and _ . @ - that begins with none \
         of . and -, found {}",
        quoted(name)
    ))
}

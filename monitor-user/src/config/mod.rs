//! The config: TOML files to validated [`Spec`]s, all of their problems told in one go.
//!
//! Reads files and looks users, groups and programs up, and that is all: it starts nothing,
//! watches nothing, and leaves the comparison of an old config with a new one to the supervisor.
//!
//! ```text
//! layout (which files) ─▶ source (text, positions) ─▶ document (TOML) ─▶ merge (drop-ins, instances)
//!    ─▶ cursor (items with places) ─▶ service ─▶ Spec
//!                                └─▶ agent ─▶ AgentConfig
//! ```
//!
//! A new key of a service is a line in `service::KEYS`, one of the agent a line in `agent::KEYS`; what it means
//! is in `reference`.

mod access;
mod accounts;
mod agent;
mod autostart;
mod confinement;
mod cursor;
mod describe;
mod document;
mod environment;
mod expand;
mod hooks;
mod host;
mod instances;
mod layout;
mod limits;
mod listen;
mod log;
mod merge;
mod ownership;
pub(crate) mod probes;
mod problem;
pub(crate) mod reference;
mod relations;
mod scripts;
mod service;
mod source;
mod steps;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{ServiceName, Spec, Unusable};
use crate::os::progress;

pub(crate) use agent::{AgentConfig, Notices};
pub(crate) use describe::{Description, Lines, Setting, toml, toml_key};
pub(crate) use environment::read_file as read_environment_file;
pub(crate) use environment::{Variables, read_files as read_environment_files};
pub(crate) use expand::{expand, is_script};
pub(crate) use problem::{Invalid, Problem};
pub(crate) use source::content;
pub(crate) use value::parse_size;

pub(crate) use autostart::set as set_autostart;
use cursor::{Context, Item, Table, quoted};
pub(crate) use environment::OF_THE_AGENT;
use host::Host;
pub(crate) use host::not_runnable;
use layout::Layout;
use ownership::Ownership;
use problem::{Diagnostics, Ends, printable};
use source::{Source, Sources};

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
    /// What is merged into that file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) drop_ins: BTreeMap<ServiceName, DropIns>,
    /// The same of `agent.toml`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) agent_lines: Lines,
    /// Where `autostart.toml` says of a service whether it starts with the agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) enabled: BTreeMap<ServiceName, usize>,
    /// Whether there may be more services: in files that cannot be read as what they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_partial: bool,
    /// What works, but probably not what was meant. It was told when this was loaded, and is not kept.
    #[serde(skip)]
    pub(crate) warnings: Vec<Problem>,
}

impl Config {
    /// Something that is wrong with a service, found by whoever uses the config.
    pub(crate) fn problem_of(&self, service: &str, key: &str, message: String) -> Problem {
        let drop_in = self.drop_ins.get(service).and_then(|it| it.file_of(key));
        let file = drop_in.or_else(|| self.files.get(service));
        let file = file.cloned().unwrap_or_default();
        let lines = self.lines.get(service);
        Problem {
            line: lines.and_then(|lines| lines.get(key).copied()),
            key: Some(key.to_owned()),
            ..Problem::of_file(&file, message)
        }
    }
}

/// What is merged into a service's file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DropIns {
    /// In the order in which they are merged.
    pub(crate) files: Vec<PathBuf>,
    /// Which keys are from which of them, from 1.
    keys: Lines,
}

impl DropIns {
    /// The drop-in that has a key; of one in a table, `table.key`.
    pub(crate) fn file_of(&self, key: &str) -> Option<&PathBuf> {
        self.files.get(self.keys.get(key)?.checked_sub(1)?)
    }
}

/// What the meaning of a config depends on beside its files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Services get a few variables of it: see `environment`.
    pub(crate) environment: BTreeMap<String, String>,
    /// The user that services run as who name none.
    pub(crate) uid: u32,
    /// What becomes of services with `essential`.
    pub(crate) essential: Essential,
}

/// Whether an agent ends with an essential service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Essential {
    /// It depends on how the agent is started.
    #[default]
    Unknown,
    /// This one does.
    Heeded,
    /// This one does not, and so there may be none.
    Refused,
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
            essential: Essential::default(),
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
        Ok(metadata) if metadata.is_dir() => {
            loader.directory(dir);
            autostart::apply(&mut loader, dir);
            relations::check(&mut loader);
            listen::check(&mut loader);
        }
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
    loader.services(&[dir.to_owned()]);
    relations::check(&mut loader);
    listen::check(&mut loader);
    loader.finish()
}

/// Whether the files of services are right in a directory, and not in its `services`.
pub(crate) fn has_service_files(dir: &Path) -> bool {
    let is_config = is_there(&dir.join(SERVICES)) || is_there(&dir.join(AGENT_FILE));
    let has_files = || service_files(dir).is_ok_and(|files| !files.is_empty());
    !is_config && (dir.file_name() == Some(OsStr::new(SERVICES)) || has_files())
}

/// Reads a single file, with its drop-ins: services, or `agent.toml`. A drop-in is read with its file.
///
/// # Errors
/// All that is wrong in it.
pub(crate) fn load_file(path: &Path, surroundings: &Surroundings) -> Result<Config, Invalid> {
    let mut loader = Loader::new(surroundings);
    let dir = path
        .parent()
        .filter(|dir| dir.file_name() == Some(OsStr::new(SERVICES)));
    if path.file_name() == Some(OsStr::new(AGENT_FILE)) && dir.is_none() {
        loader.agent_file(path);
        return loader.finish();
    }
    let file = layout::of_drop_in(path);
    let file = file.as_deref().unwrap_or(path);
    let dir = file.parent().unwrap_or(Path::new("."));
    let config_dir = dir
        .parent()
        .filter(|_| dir.file_name() == Some(OsStr::new(SERVICES)));
    let dirs = match config_dir {
        Some(config_dir) => layout::directories(config_dir, &agent_of(config_dir, surroundings)),
        None => vec![dir.to_owned()],
    };
    // Where nothing can be listed, the file alone may still be read.
    let layout = Layout::of(&dirs).unwrap_or_default();
    loader.one_of(file, layout);
    loader.finish()
}

/// What the agent's file says, whatever else is wrong with it.
fn agent_of(config_dir: &Path, surroundings: &Surroundings) -> AgentConfig {
    let mut loader = Loader::new(surroundings);
    let agent = config_dir.join(AGENT_FILE);
    if is_there(&agent) {
        loader.agent_file(&agent);
    }
    loader.agent
}

/// The drop-ins that there are now of a service that was read from this file.
pub(crate) fn drop_ins_of(
    config_dir: &Path,
    agent: &AgentConfig,
    file: &Path,
    service: &str,
) -> Vec<PathBuf> {
    let mut dirs = layout::directories(config_dir, agent);
    if let Some(dir) = file.parent().filter(|dir| !dirs.iter().any(|it| it == dir)) {
        dirs.insert(0, dir.to_owned());
    }
    drop_ins(
        &Layout::within(dirs),
        stem(file).unwrap_or(service),
        service,
    )
}

/// The directories that services are read from, and the stems of the files that have drop-ins.
pub(crate) fn places_of_drop_ins(
    config_dir: &Path,
    agent: &AgentConfig,
) -> (Vec<PathBuf>, BTreeSet<String>) {
    let dirs = layout::directories(config_dir, agent);
    let folders = Layout::within(dirs.clone()).folders();
    (dirs, folders.into_iter().map(|(_, stem)| stem).collect())
}

/// Those of its file, then those of the instance.
fn drop_ins(layout: &Layout, file: &str, service: &str) -> Vec<PathBuf> {
    let mut files = layout.drop_ins(file);
    if service
        .split_once('@')
        .is_some_and(|(prefix, _)| is_template_of(file, prefix))
    {
        files.extend(layout.drop_ins(service));
    }
    files
}

/// Whether the file of that stem may make instances of that prefix.
fn is_template_of(file: &str, prefix: &str) -> bool {
    file.strip_suffix('@').unwrap_or(file) == prefix
}

/// The file that a service of this name would have, if it is there and none that masks one.
pub(crate) fn file_of(config_dir: &Path, agent: &AgentConfig, service: &str) -> Option<PathBuf> {
    let dirs = layout::directories(config_dir, agent);
    layout::find_in(&dirs, service)
}

/// What is wrong with the text of a service's file, and what is warned of. `path`: where it would be.
pub(crate) fn check_text(
    path: &Path,
    text: String,
    surroundings: &Surroundings,
) -> (Vec<Problem>, Vec<Problem>) {
    let mut loader = Loader::new(surroundings);
    let report = Diagnostics::default();
    let sources = Sources::of(Source::new(path, text));
    loader.service_sources(&sources, &Layout::default(), &report);
    report.finish()
}

/// Reads one service's file again, whose service could not be used before; with it, where its keys
/// are. `None`: the file has other services. `config`: what the others are.
///
/// # Errors
/// Why it still cannot.
pub(crate) fn load_again(
    dir: &Path,
    file: &Path,
    name: &str,
    config: &Config,
    surroundings: &Surroundings,
) -> Result<Option<Again>, Unusable> {
    let mut loader = Loader::new(surroundings);
    loader.others = config.services.keys().cloned().collect();
    let agent = dir.join(AGENT_FILE);
    if is_there(&agent) {
        loader.agent_file(&agent);
    }
    let dirs = layout::directories(dir, &loader.agent);
    loader.one_of(file, Layout::of(&dirs).unwrap_or_default());
    autostart::apply(&mut loader, dir);
    relations::check(&mut loader);
    listen::check(&mut loader);
    match loader.unusable.remove(name) {
        Some(unusable) => Err(unusable),
        None => {
            let lines = loader.lines.remove(name).unwrap_or_default();
            let drop_ins = loader.drop_ins.remove(name);
            let spec = loader.services.remove(name);
            Ok(spec.map(|spec| Again {
                spec,
                lines,
                drop_ins,
            }))
        }
    }
}

/// A service that was read again.
#[derive(Debug, PartialEq)]
pub(crate) struct Again {
    pub(crate) spec: Arc<Spec>,
    pub(crate) lines: Lines,
    pub(crate) drop_ins: Option<DropIns>,
}

/// A config on its way in.
struct Loader<'s> {
    surroundings: &'s Surroundings,
    host: Rc<Host>,
    ownership: Ownership,
    report: Diagnostics,
    agent: AgentConfig,
    services: BTreeMap<ServiceName, Arc<Spec>>,
    /// Services with an obstacle to their use.
    unusable: BTreeMap<ServiceName, Unusable>,
    /// Services that are essential by their files, the unusable ones too.
    essential: BTreeSet<ServiceName>,
    /// Where each service is defined, the invalid ones too.
    places: BTreeMap<ServiceName, String>,
    files: BTreeMap<ServiceName, PathBuf>,
    lines: BTreeMap<ServiceName, Lines>,
    drop_ins: BTreeMap<ServiceName, DropIns>,
    agent_lines: Lines,
    enabled: BTreeMap<ServiceName, usize>,
    /// Services that there are beside those that are read.
    others: BTreeSet<ServiceName>,
    /// It is not known which services there are.
    is_lost: bool,
    is_partial: bool,
}

impl<'s> Loader<'s> {
    fn new(surroundings: &'s Surroundings) -> Self {
        Self {
            surroundings,
            host: Rc::new(Host::this()),
            ownership: Ownership::new(surroundings.uid),
            report: Diagnostics::default(),
            agent: AgentConfig::default(),
            services: BTreeMap::new(),
            unusable: BTreeMap::new(),
            essential: BTreeSet::new(),
            places: BTreeMap::new(),
            files: BTreeMap::new(),
            lines: BTreeMap::new(),
            drop_ins: BTreeMap::new(),
            agent_lines: Lines::new(),
            enabled: BTreeMap::new(),
            others: BTreeSet::new(),
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
            drop_ins: self.drop_ins,
            agent_lines: self.agent_lines,
            enabled: self.enabled,
            is_partial: self.is_partial,
            warnings,
        };
        if problems.is_empty() {
            return Ok(config);
        }
        for (name, unusable) in self.unusable {
            let hooks = hooks::Said::default().or(&config.agent.hooks);
            // One that is described elsewhere too is not lost.
            let mut spec = Spec::unusable(unusable, hooks);
            spec.policy.essential = self.essential.contains(&name);
            let services = config.services.entry(name);
            services.or_insert_with(|| Arc::new(spec));
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
        self.warn_of_misplaced(dir);
        self.services(&layout::directories(dir, &self.agent));
    }

    /// The services of directories, of which later ones stand in for earlier ones.
    fn services(&mut self, dirs: &[PathBuf]) {
        for dir in dirs {
            let what = "the directory of the service files";
            self.ownership.look(dir, what, &self.report);
        }
        let layout = match Layout::of(dirs) {
            Ok(layout) => layout,
            Err((dir, error)) if Some(&dir) == dirs.last() => {
                return self.refuse(&dir, format!("cannot be listed: {error}"));
            }
            // The config's own services are known all the same.
            Err((dir, error)) => {
                self.is_partial = true;
                let problem = Problem::of_file(&dir, format!("cannot be listed: {error}"));
                self.report.problem_until(Ends::WithTheHost, problem);
                let others: Vec<PathBuf> = dirs.iter().filter(|it| **it != dir).cloned().collect();
                return self.services(&others);
            }
        };
        for file in layout.files() {
            self.service_file(file, &layout);
        }
        for (link, template) in layout.misnamed() {
            let message = format!(
                "is a link to the template {template}.toml; an instance of that is named {template}NAME.toml"
            );
            self.report.problem(Problem::of_file(&link, message));
        }
        for (prefix, link) in layout.orphans() {
            let message = format!("no template {prefix}@.toml is beside it");
            self.report.problem(Problem::of_file(link, message));
        }
        for (folder, stem) in layout.folders() {
            self.check_folder(&folder, &stem, &layout);
        }
    }

    /// Warns of drop-ins that are not read.
    fn check_folder(&self, folder: &Path, stem: &str, layout: &Layout) {
        let is_of_template = stem
            .split_once('@')
            .is_some_and(|(prefix, _)| layout.has(prefix) || layout.has(&format!("{prefix}@")));
        let file = self.files.get(stem);
        let is_read = layout.has(stem) || file.is_some() && is_of_template;
        if !is_read && !layout.is_masked(stem) {
            let message = match file.and_then(|file| file.file_name()) {
                Some(file) => {
                    let file = printable(Path::new(file));
                    format!(
                        "is not read: {stem} is in {file}, whose drop-ins are in {file}.d, in a table \
                         [service.{stem}]"
                    )
                }
                None => format!("is not read: there is no {stem}.toml for these drop-ins"),
            };
            return self.report.warn(Problem::of_file(folder, message));
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|it| it == "conf") {
                let message = "is not read: the names of drop-ins end with .toml".to_owned();
                self.report.warn(Problem::of_file(&path, message));
            }
        }
    }

    /// One of the files of a layout, or one beside them. That of an instance is its template's.
    fn one_of(&mut self, file: &Path, layout: Layout) {
        let name = stem(file).unwrap_or("");
        if let Some(found) = layout.find(name).cloned() {
            // By the path that was asked for, where that is the same file.
            let is_same = found.file_name() == file.file_name() && found.parent() == file.parent();
            let found = if is_same { file.to_owned() } else { found };
            self.service_file(&found, &layout);
        } else if !layout.is_masked(name) {
            let layout = layout.with(file);
            self.service_file(file, &layout);
        }
    }

    /// Files beside `agent.toml` that were meant as services, perhaps.
    fn warn_of_misplaced(&self, dir: &Path) {
        for file in service_files(dir).unwrap_or_default() {
            let own = [AGENT_FILE, autostart::FILE].map(OsStr::new);
            if !file.file_name().is_some_and(|name| own.contains(&name)) {
                let message = format!("is not read: services are in {SERVICES}/");
                self.report.warn(Problem::of_file(&file, message));
            }
        }
    }

    fn agent_file(&mut self, path: &Path) {
        self.ownership.look(path, "the agent's file", &self.report);
        if let Some(sources) = Sources::read(path, &[], &self.report) {
            let context = Context {
                source: &sources,
                report: &self.report,
                host: &self.host,
            };
            (self.agent, self.agent_lines) = agent::read(context, self.surroundings);
        }
    }

    /// A file that cannot be read as what it is counts as the service that is named as it is.
    fn service_file(&mut self, path: &Path, layout: &Layout) {
        progress::count();
        self.ownership.look(path, "a service file", &self.report);
        let report = self.report.part();
        let drop_ins = layout.drop_ins(stem(path).unwrap_or(""));
        for drop_in in &drop_ins {
            self.ownership.look(drop_in, "a drop-in", &self.report);
        }
        let sources = Sources::read(path, &drop_ins, &report);
        if let Some(sources) = &sources
            && self.service_sources(sources, layout, &report)
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

    /// A file with a `service` table has several services, a template makes some, any other is one.
    /// `false`: it is not even TOML.
    fn service_sources(
        &mut self,
        sources: &Sources,
        layout: &Layout,
        report: &Diagnostics,
    ) -> bool {
        let Some(document) = merge::parse(sources, report) else {
            return false;
        };
        // Of a key that is there twice nobody knows which is meant, nor in which service.
        let is_ambiguous = report.obstacles() > 0;
        let host = Rc::clone(&self.host);
        let context = Context {
            source: sources,
            report,
            host: &host,
        };
        let root = Table::root(context, &document);
        let name = stem(sources.path()).unwrap_or("");
        match (root.get(service::INSTANCES), root.get("service")) {
            (instances, _) if instances.is_some() || name.ends_with('@') => {
                self.template(sources, instances.as_ref(), layout, report);
            }
            (_, Some(services)) => self.several(sources, &root, &services, report),
            _ => self.single(name, sources, &root, report),
        }
        if is_ambiguous {
            self.withdraw(sources.path(), report);
        }
        true
    }

    /// The instances of a template: those that it names itself, and those that links name.
    fn template(
        &mut self,
        sources: &Sources,
        instances: Option<&Item<'_>>,
        layout: &Layout,
        report: &Diagnostics,
    ) {
        let name = stem(sources.path()).unwrap_or("");
        let prefix = name.strip_suffix('@').unwrap_or(name);
        let listed = instances.and_then(|item| instances::names(item, prefix));
        let mut names: BTreeSet<String> = listed.into_iter().flatten().collect();
        for (instance, link) in layout.linked(prefix) {
            self.ownership.look(link, "a service file", &self.report);
            names.insert(instance.clone());
        }
        if names.is_empty() {
            return self.try_template(sources, prefix, report);
        }
        for instance in names {
            let service = format!("{prefix}@{instance}");
            // A file of its own says all of it.
            if !layout.is_masked(&service) && !layout.has(&service) {
                self.instance(sources, &service, &instance, layout, report);
            }
        }
    }

    fn instance(
        &mut self,
        sources: &Sources,
        service: &str,
        instance: &str,
        layout: &Layout,
        report: &Diagnostics,
    ) {
        progress::count();
        let part = report.part();
        let of_template = sources.files().count();
        let mut sources = sources.clone();
        for drop_in in layout.drop_ins(service) {
            self.ownership.look(&drop_in, "a drop-in", &self.report);
            if let Some(source) = Source::read(&drop_in, &part) {
                sources.push(source);
            }
        }
        match merge::parse(&sources, &part) {
            Some(mut document) => {
                merge::instantiate(&mut document, instance, &sources, &part);
                if let Some((key, _)) = document.remove_entry(service::INSTANCES)
                    && sources.index(key.span().start) >= of_template
                {
                    let message = "expected only in the template's file and drop-ins".to_owned();
                    let key_path = Some(service::INSTANCES.to_owned());
                    part.problem(sources.problem(key.span().start, key_path, message));
                }
                let is_unclear = part.obstacles() > 0;
                let host = Rc::clone(&self.host);
                let context = Context {
                    source: &sources,
                    report: &part,
                    host: &host,
                };
                let root = Table::root(context, &document);
                self.single(service, &sources, &root, &part);
                if is_unclear && self.services.remove(service).is_some() {
                    self.note_unusable(service, sources.path(), &part);
                }
            }
            None => self.note_unusable(service, sources.path(), &part),
        }
        report.absorb(part);
    }

    /// A template without instances is looked at all the same, for what is wrong with any of them.
    fn try_template(&self, sources: &Sources, prefix: &str, report: &Diagnostics) {
        let part = report.part();
        if let Some(mut document) = merge::parse(sources, &part) {
            merge::instantiate(&mut document, "1", sources, &part);
            document.remove(service::INSTANCES);
            let context = Context {
                source: sources,
                report: &part,
                host: &self.host,
            };
            let root = Table::root(context, &document);
            service::read(&root, &part, self.surroundings, &self.agent.hooks);
        }
        if let Err(message) = check_name(&format!("{prefix}@1")) {
            part.problem(Problem::of_file(sources.path(), message));
        }
        report.absorb_lasting(part);
    }

    /// Has none of a file's services used.
    fn withdraw(&mut self, file: &Path, report: &Diagnostics) {
        let of_file = self.files.iter().filter(|(_, path)| *path == file);
        let names: Vec<ServiceName> = of_file.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.services.remove(&name);
            self.note_unusable(&name, file, report);
        }
    }

    fn single(&mut self, name: &str, sources: &Sources, root: &Table<'_>, report: &Diagnostics) {
        let path = sources.path();
        let defined = self.define(name, printable(path));
        if let Err(message) = &defined {
            report.problem(Problem::of_file(path, message));
        }
        let spec = service::read(root, report, self.surroundings, &self.agent.hooks);
        if defined.is_ok() {
            self.note_essential(name, root);
            self.note_places(name, sources, root);
            self.add(name, path, spec, report);
        }
    }

    fn several(
        &mut self,
        sources: &Sources,
        root: &Table<'_>,
        services: &Item<'_>,
        report: &Diagnostics,
    ) {
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
            let place = format!("{}:{}", printable(item.file()), item.key_line());
            let defined = self.define(name, place);
            if let Err(message) = &defined {
                item.problem_at_key(message);
            }
            let table = item.table("a table of the service's keys");
            if let Some(table) = table.as_ref().filter(|_| defined.is_ok()) {
                self.note_essential(name, table);
                self.note_places(name, sources, table);
                if let Some(item) = table.get(service::INSTANCES) {
                    item.problem_at_key(
                        "expected a file of the service's own, for a template is one",
                    );
                }
            }
            let spec = table.and_then(|table| {
                service::read(&table, &part, self.surroundings, &self.agent.hooks)
            });
            if defined.is_ok() {
                self.add(name, sources.path(), spec, &part);
            }
            report.absorb(part);
        }
    }

    /// Where its keys are.
    fn note_places(&mut self, name: &str, sources: &Sources, table: &Table<'_>) {
        self.lines.insert(name.into(), table.lines());
        let (files, keys) = (sources.beside(), table.keys_beside());
        if !files.is_empty() {
            self.drop_ins.insert(name.into(), DropIns { files, keys });
        }
    }

    /// What is of no use otherwise may say this.
    fn note_essential(&mut self, name: &str, table: &Table<'_>) {
        if table.get("essential").is_some_and(|item| item.is_true()) {
            self.essential.insert(name.into());
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
    fn add(&mut self, name: &str, file: &Path, spec: Option<Spec>, report: &Diagnostics) {
        match spec {
            Some(spec) => {
                let host = Rc::clone(&self.host);
                self.ownership.look_at_service(name, &spec, &host, report);
                self.services.insert(name.into(), Arc::new(spec));
                self.files.insert(name.into(), file.to_owned());
            }
            None => self.note_unusable(name, file, report),
        }
    }

    fn note_unusable(&mut self, name: &str, file: &Path, report: &Diagnostics) {
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

/// The `*.toml` entries of a directory that are not hidden, sorted by name.
///
/// # Errors
/// The kernel's.
pub(crate) fn service_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
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

//! Run directories of runit and s6, and source directories of s6-rc: a script beside files that say the rest.
//!
//! Where a script only lays out how a program is run, its words become keys (`run_script`). Else the script
//! itself is the command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Severity::{Approximated, Harmless, Lost};
use super::run_script::{self, Script};
use super::supervisord::SMALLEST_LOG;
use super::{Host, Imported, Service, Severity, Text, values};

/// Whose directories they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Runit,
    S6,
}

/// Files of a run directory that are read.
pub(super) const FILES: &[&str] = &[
    "run",
    "type",
    "up",
    "down",
    "finish",
    "check",
    "log/run",
    "notification-fd",
    "timeout-kill",
    "timeout-finish",
    "timeout-up",
    "timeout-down",
    "down-signal",
    "max-death-tally",
    "flag-essential",
    "dependencies",
    "contents",
    "producer-for",
    "consumer-for",
    "pipeline-name",
];

/// Directories in it of which the names of the files matter.
pub(super) const DIRECTORIES: &[&str] = &["dependencies.d", "contents.d", "control"];

/// Which kind it is, by its files.
pub(super) fn kind(text: &Text) -> Kind {
    let marks = [
        "type",
        "notification-fd",
        "timeout-kill",
        "timeout-finish",
        "down-signal",
        "max-death-tally",
    ];
    let has_mark = marks.iter().any(|mark| file(text, mark).is_some());
    let first = text.text.lines().next().unwrap_or_default();
    match has_mark || first.contains("execlineb") {
        true => Kind::S6,
        false => Kind::Runit,
    }
}

/// The text of one of its files.
fn file<'t>(text: &'t Text, name: &str) -> Option<&'t str> {
    let path = directory(text).join(name);
    let mut files = text.added.iter();
    let found = files.find(|(file, _)| *file == path);
    found.map(|(_, content)| content.as_str())
}

/// The names of the files in one of its directories.
fn names_in<'t>(text: &'t Text, directory_name: &str) -> impl Iterator<Item = String> + use<'t> {
    let place = directory(text).join(directory_name);
    let files = text.added.iter().map(|(path, _)| path);
    let within = files.filter(move |path| path.parent() == Some(&place));
    within.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
}

fn directory(text: &Text) -> &Path {
    text.path.parent().unwrap_or(Path::new("/"))
}

/// The directories with variables that a script's words name, which are to be read with it.
pub(super) fn environment_directories(script: &str, directory: &Path) -> Vec<PathBuf> {
    let Ok(script) = run_script::read(script) else {
        return Vec::new();
    };
    let mut chain = Chain::new(directory);
    chain.take(&script);
    chain.environment_directories
}

/// Where a logger keeps its files, as its words name it.
pub(super) fn log_directory(script: &str, directory: &Path) -> Option<PathBuf> {
    let script = run_script::read(script).ok()?;
    let mut chain = Chain::new(directory);
    Logger::of(chain.take(&script), directory).map(|logger| logger.directory)
}

/// Converts them all together, as those of s6-rc name each other.
pub(super) fn convert(texts: &[(Kind, &Text)], host: &Host, imported: &mut Imported) {
    let names = |text: &Text| values::service_name(&text.name);
    // A bundle stands for what is in it.
    let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in &host.existing {
        known.insert(name.clone(), vec![name.clone()]);
    }
    for (_, text) in texts {
        let all = match file(text, "type").map(str::trim) {
            Some("bundle") => listed(text, "contents"),
            _ => vec![names(text)],
        };
        known.insert(text.name.clone(), all);
    }
    // The logger of a pipeline is the log of what produces for it.
    let loggers: BTreeMap<String, &Text> = texts
        .iter()
        .filter(|(_, text)| file(text, "consumer-for").is_some())
        .map(|(_, text)| (text.name.clone(), *text))
        .collect();
    for (kind, text) in texts {
        let mut directory = Directory {
            kind: *kind,
            text,
            known: &known,
            loggers: &loggers,
            service: Service::new(&names(text), &text.path),
            imported,
            user: None,
            is_joined: false,
        };
        directory.convert();
    }
}

/// The lines of a file, or the names in the directory that newer versions have instead.
fn listed(text: &Text, name: &str) -> Vec<String> {
    let lines = file(text, name).unwrap_or_default().lines();
    let lines = lines
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines = lines.map(str::to_owned);
    lines.chain(names_in(text, &format!("{name}.d"))).collect()
}

/// One of them on its way.
struct Directory<'a> {
    kind: Kind,
    text: &'a Text,
    known: &'a BTreeMap<String, Vec<String>>,
    loggers: &'a BTreeMap<String, &'a Text>,
    service: Service,
    imported: &'a mut Imported,
    user: Option<String>,
    /// Its standard error goes where its standard output goes.
    is_joined: bool,
}

impl Directory<'_> {
    fn convert(&mut self) {
        let path = directory(self.text).display();
        let name = self.service.name.clone();
        self.service.is_secret = self.text.is_secret;
        let head = format!("{name}, imported by respawn from {path}");
        self.service.head.push(head);
        match file(self.text, "type").map(str::trim) {
            Some("bundle") => {
                return self.find(
                    Harmless,
                    "type",
                    "bundle",
                    "services that require it require what is in it",
                );
            }
            Some("oneshot") => self.oneshot(),
            Some("longrun") | None if file(self.text, "consumer-for").is_some() => {
                let message = "it is the log of what produces for it, and no service";
                return self.find(Harmless, "consumer-for", "", message);
            }
            Some("longrun") | None => self.long_run(),
            Some(other) => {
                let other = other.to_owned();
                return self.find(Lost, "type", &other, "this type is not known");
            }
        }
        self.relations();
        self.timeouts();
        self.rest();
        let service = std::mem::take(&mut self.service);
        self.imported.services.push(service);
    }

    fn find(&mut self, severity: Severity, file: &str, setting: &str, message: impl Into<String>) {
        self.find_at(severity, (file, None), setting, message);
    }

    fn find_at(
        &mut self,
        severity: Severity,
        (file, line): (&str, Option<usize>),
        setting: &str,
        message: impl Into<String>,
    ) {
        let path = directory(self.text).join(file);
        let name = self.service.name.clone();
        self.imported
            .find(severity, Some(&name), (&path, line), setting, message);
    }

    fn set(&mut self, key: &str, value: impl Into<Value>, origin: &str) {
        self.service.set(key, value, &[origin.to_owned()]);
    }

    /// `run`, which stays in the foreground.
    fn long_run(&mut self) {
        let place = directory(self.text).to_string_lossy().into_owned();
        self.set(
            "working_directory",
            place.as_str(),
            "the script is run in its directory",
        );
        let text = file(self.text, "run").unwrap_or(&self.text.text);
        match run_script::read(text) {
            Ok(script) => self.words(&script),
            Err(opaque) => {
                self.is_joined = text.contains("2>&1") || text.contains("fdmove -c 2 1");
                let path = format!("{place}/run");
                self.set("command", json!([path]), "run");
                let message = "its script does more than to lay out a program, and is run as it is; what it calls of runit or s6 has to stay installed";
                self.find_at(
                    Approximated,
                    ("run", Some(opaque.number)),
                    &opaque.line,
                    message,
                );
            }
        }
        self.stop();
        self.log();
    }

    /// `up` and `down` of s6-rc, each one command line.
    fn oneshot(&mut self) {
        self.set("type", "oneshot", "type: oneshot");
        for (name, key) in [("up", "command"), ("down", "before_stop")] {
            let Some(text) = file(self.text, name).filter(|it| !it.trim().is_empty()) else {
                continue;
            };
            let words = match run_script::execline(text) {
                Ok(script) => json!(script.words),
                Err(_) => json!(["execlineb", "-Pc", text.trim()]),
            };
            match key {
                "command" => self.set(key, words, name),
                _ => self.set(key, json!([words]), name),
            }
        }
        if self.service.get("command").is_none() {
            self.set(
                "command",
                json!(["/bin/true"]),
                "up: there is nothing to do",
            );
        }
    }

    /// What a script's words say.
    fn words(&mut self, script: &Script) {
        let place = directory(self.text).to_owned();
        let mut chain = Chain::new(&place);
        let words = chain.take(script);
        let origin = format!("run:{}", script.number);
        for (line, setting, message) in std::mem::take(&mut chain.lost) {
            self.find_at(Approximated, ("run", Some(line)), &setting, message);
        }
        for (line, name) in std::mem::take(&mut chain.asks_for) {
            let name = name.rsplit('/').next().unwrap_or_default();
            self.require(name, "run", &format!("run:{line}: sv {name}"));
        }
        self.is_joined = script.is_joined || chain.is_joined;
        self.user = chain
            .keys
            .get("user")
            .and_then(Value::as_str)
            .map(str::to_owned);
        for (key, value) in std::mem::take(&mut chain.keys) {
            self.set(&key, value, &origin);
        }
        if !chain.limits.is_empty() {
            let limits = std::mem::take(&mut chain.limits);
            self.set("limits", Value::Object(limits), &origin);
        }
        self.environment(&chain, &origin);
        let steps: Vec<Value> = chain.steps.iter().map(|step| self.step(step)).collect();
        if !steps.is_empty() {
            self.set(
                "before_start",
                Value::Array(steps),
                "run: what comes before its `exec`",
            );
        }
        self.set("command", json!(words), &origin);
    }

    /// A command of the script's, which runs as root.
    fn step(&self, step: &Step) -> Value {
        if step.is_needed && self.user.is_none() {
            return json!(step.words);
        }
        let mut table = Map::new();
        table.insert("run".to_owned(), json!(step.words));
        if self.user.is_some() {
            table.insert("user".to_owned(), json!("root"));
        }
        if !step.is_needed {
            table.insert("ignore_failure".to_owned(), json!(true));
        }
        Value::Object(table)
    }

    /// Variables that it exports, and those of directories with a file for each.
    fn environment(&mut self, chain: &Chain, origin: &str) {
        let mut variables = Map::new();
        for place in &chain.environment_directories {
            let files = self.text.added.iter();
            for (path, content) in files.filter(|(path, _)| path.parent() == Some(place)) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                // An empty one removes the variable.
                if !content.is_empty() {
                    let value = content.lines().next().unwrap_or_default();
                    let value = value.trim_end_matches([' ', '\t']);
                    variables.insert(name.into_owned(), json!(value));
                }
            }
        }
        variables.extend(chain.variables.clone());
        if !variables.is_empty() {
            self.set("environment", Value::Object(variables), origin);
        }
        for place in &chain.environment_directories {
            let message = "its files were read now, and are not read again at a start";
            let setting = place.to_string_lossy().into_owned();
            self.find_at(Approximated, ("run", None), &setting, message);
        }
    }

    /// How it is stopped, and what is run behind it.
    fn stop(&mut self) {
        self.set(
            "stop_mode",
            "mixed",
            "the stop signal is for the main process, as its supervisor has it",
        );
        if let Some(text) = file(self.text, "down-signal") {
            match values::signal(text) {
                Some(signal) => self.set("stop_signal", signal, "down-signal"),
                None => self.find(Lost, "down-signal", text.trim(), "this signal is not known"),
            }
        }
        if file(self.text, "finish").is_none() {
            return;
        }
        let path = directory(self.text)
            .join("finish")
            .to_string_lossy()
            .into_owned();
        let code = match self.kind {
            Kind::Runit => "${RESPAWN_CODE:--1}",
            Kind::S6 => "${RESPAWN_CODE:-256}",
        };
        let mut step = Map::new();
        let mut words = vec![path, code.to_owned(), "${RESPAWN_SIGNAL:-0}".to_owned()];
        if self.kind == Kind::S6 {
            words.push(self.text.name.clone());
        }
        step.insert("run".to_owned(), json!(words));
        if self.user.is_some() {
            step.insert("user".to_owned(), json!("root"));
        }
        if self.kind == Kind::S6 {
            let time = self.milliseconds("timeout-finish");
            step.insert("timeout".to_owned(), time.unwrap_or(json!("5s")));
        }
        step.insert("ignore_failure".to_owned(), json!(true));
        self.set("after_stop", json!([step]), "finish");
        let message =
            "its second argument is the name of the signal, and what it exits with does not matter";
        self.find(Approximated, "finish", "", message);
    }

    /// A time in milliseconds, of which 0 is none.
    fn milliseconds(&mut self, name: &str) -> Option<Value> {
        let text = file(self.text, name)?.trim().to_owned();
        match text.parse::<u64>() {
            Ok(0) => Some(json!("infinity")),
            Ok(number) => Some(values::duration(std::time::Duration::from_millis(number))),
            Err(_) => {
                self.find(Lost, name, &text, "this is not a number of milliseconds");
                None
            }
        }
    }

    fn timeouts(&mut self) {
        for (name, key) in [
            ("timeout-up", "start_timeout"),
            ("timeout-down", "stop_timeout"),
            ("timeout-kill", "stop_timeout"),
        ] {
            if let Some(time) = self.milliseconds(name) {
                self.set(key, time, name);
            }
        }
        let is_oneshot = self.service.get("type").is_some();
        if self.service.get("stop_timeout").is_none() && !is_oneshot {
            let message = "it gets SIGKILL when it has not ended within stop_timeout; before, nobody sent that";
            self.find(Approximated, "run", "", message);
        }
    }

    /// What it comes after.
    fn relations(&mut self) {
        for name in listed(self.text, "dependencies") {
            self.require(&name, "dependencies", &format!("dependencies: {name}"));
        }
    }

    fn require(&mut self, name: &str, file: &str, origin: &str) {
        let known = self.known;
        let names = known.get(name).map_or(&[][..], Vec::as_slice);
        let mut is_known = false;
        for name in names {
            // What is in a bundle has another name there than here.
            let name = match known.get(name).map(Vec::as_slice) {
                Some([only]) => only,
                Some(_) => continue,
                None => name,
            };
            is_known |= true;
            self.service.add_name("requires", name, origin);
        }
        if !is_known {
            let message = format!("{name} is neither imported nor there, and is left out");
            self.find(Approximated, file, origin, message);
        }
    }

    fn rest(&mut self) {
        let is_s6_rc = file(self.text, "type").is_some();
        // Of s6-rc, `down` is a command.
        if file(self.text, "down").is_some() && !is_s6_rc {
            self.set("autostart", false, "down");
        }
        if let Some(text) = file(self.text, "notification-fd") {
            let text = text.trim().to_owned();
            match text.parse::<u8>().ok().filter(|fd| *fd >= 3) {
                Some(fd) => self.set("ready", json!({ "fd": fd }), "notification-fd"),
                None => self.find(
                    Lost,
                    "notification-fd",
                    &text,
                    "expected a number from 3 to 255",
                ),
            }
        } else if file(self.text, "check").is_some() {
            let path = directory(self.text).join("check");
            let path = path.to_string_lossy().into_owned();
            self.set("ready", json!({ "command": [path] }), "check");
        }
        if file(self.text, "max-death-tally").is_some() {
            let message = "it is given up by start_limit, if you set one";
            self.find(Approximated, "max-death-tally", "", message);
        }
        if file(self.text, "flag-essential").is_some() {
            self.find(
                Harmless,
                "flag-essential",
                "",
                "an explicit stop stops it all the same",
            );
        }
        for name in names_in(self.text, "control").collect::<Vec<_>>() {
            let message = "it is not run when somebody signals the service";
            self.find(Lost, &format!("control/{name}"), "", message);
        }
    }

    /// Where its output goes, by the logger beside it or the one that it produces for.
    fn log(&mut self) {
        let consumer = file(self.text, "producer-for").map(|name| name.trim().to_owned());
        let (place, script, which) = match (&consumer, file(self.text, "log/run")) {
            (Some(name), _) => {
                let Some(logger) = self.loggers.get(name) else {
                    let message =
                        "it is not imported with it: its output goes where the agent's goes";
                    return self.find(Lost, "producer-for", name, message);
                };
                let script = file(logger, "run").unwrap_or_default();
                (
                    directory(logger).to_owned(),
                    script,
                    "producer-for".to_owned(),
                )
            }
            (None, Some(script)) => (
                directory(self.text).join("log"),
                script,
                "log/run".to_owned(),
            ),
            (None, None) => return,
        };
        let logger = run_script::read(script).ok().and_then(|script| {
            let mut chain = Chain::new(&place);
            Logger::of(chain.take(&script), &place)
        });
        let Some(mut logger) = logger else {
            let message =
                "its logger is not known: its output goes where the agent's goes; see log";
            return self.find(Lost, &which, "", message);
        };
        let config = logger.directory.join("config");
        let mut files = self.text.added.iter();
        if let Some((_, text)) = files.find(|(path, _)| *path == config) {
            text.lines().for_each(|line| logger.directive(line.trim()));
        }
        let path = logger.directory.join("current");
        let log = json!({
            "path": path.to_string_lossy(),
            "max_size": values::size_value(logger.max_size),
            "keep": logger.keep,
            "timestamps": logger.has_timestamps,
        });
        self.set("log", log, &which);
        let message =
            "a logger of respawn's writes and rotates the file; older ones are named otherwise";
        self.find(Approximated, &which, "", message);
        if !self.is_joined {
            let message = "its standard error goes there, too";
            self.find(Harmless, &which, "", message);
        }
        for left in logger.left_out {
            self.find(
                Lost,
                &which,
                &left,
                "its logger did that; respawn's does not",
            );
        }
    }
}

/// svlogd, s6-log or multilog.
struct Logger {
    directory: PathBuf,
    max_size: u64,
    keep: u32,
    has_timestamps: bool,
    left_out: Vec<String>,
}

impl Logger {
    fn of(words: Vec<String>, place: &Path) -> Option<Self> {
        let mut words = words.into_iter();
        let program = words.next()?;
        let name = program.rsplit('/').next().unwrap_or_default();
        let (max_size, keep) = match name {
            "svlogd" => (1_000_000, 10),
            "s6-log" | "multilog" => (99_999, 10),
            _ => return None,
        };
        let mut logger = Self {
            directory: PathBuf::new(),
            max_size,
            keep,
            has_timestamps: false,
            left_out: Vec::new(),
        };
        for word in words {
            match word.as_str() {
                "-t" | "-tt" | "-ttt" => logger.has_timestamps = true,
                // How it reads, and who may read it.
                "-b" | "-bp" | "-p" | "-v" => {}
                word if word.starts_with(['/', '.']) && logger.directory.as_os_str().is_empty() => {
                    logger.directory = joined(place, word);
                }
                word => logger.directive(word),
            }
        }
        (!logger.directory.as_os_str().is_empty()).then_some(logger)
    }

    /// "s1000000", "n20", "t"
    fn directive(&mut self, word: &str) {
        let number = |rest: &str| rest.parse::<u64>().ok();
        match (word.get(..1), word.get(1..)) {
            (Some("s"), Some(rest)) if number(rest).is_some() => {
                self.max_size = number(rest).unwrap_or_default().max(SMALLEST_LOG);
            }
            (Some("n"), Some(rest)) if number(rest).is_some() => {
                let keep = number(rest).unwrap_or_default().min(1000);
                self.keep = u32::try_from(keep).unwrap_or(1000);
            }
            (Some("t" | "T"), Some("")) => self.has_timestamps = true,
            // All lines; how much is reported; how many at least are kept; a comment.
            (Some("1" | "e" | "N" | "#"), Some(_)) | (None, _) => {}
            (Some("S"), Some(_)) => {}
            _ => self.left_out.push(word.to_owned()),
        }
    }
}

/// A command that a script runs before it becomes its program.
struct Step {
    words: Vec<String>,
    is_needed: bool,
}

/// What the programs say that run each other, up to the one that stays.
struct Chain {
    /// Where relative paths are.
    place: PathBuf,
    keys: BTreeMap<String, Value>,
    limits: Map<String, Value>,
    variables: Map<String, Value>,
    environment_directories: Vec<PathBuf>,
    /// Standard error goes where standard output goes.
    is_joined: bool,
    steps: Vec<Step>,
    /// Services that it asks its supervisor for, with the line.
    asks_for: Vec<(usize, String)>,
    /// What has no key: a line, what stands there, and what follows from it.
    lost: Vec<(usize, String, &'static str)>,
}

impl Chain {
    fn new(place: &Path) -> Self {
        Self {
            place: place.to_owned(),
            keys: BTreeMap::new(),
            limits: Map::new(),
            variables: Map::new(),
            environment_directories: Vec::new(),
            is_joined: false,
            steps: Vec::new(),
            asks_for: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// Takes in what a script says; returns the words of the program that stays.
    fn take(&mut self, script: &Script) -> Vec<String> {
        for line in &script.lines {
            self.line(line.number, &line.words, line.is_needed);
        }
        let mut words = script.words.as_slice();
        while let Some(rest) = self.program(script.number, words, script.is_execline) {
            words = rest;
        }
        let mut words: Vec<String> = words.iter().map(|it| super::words::escape(it)).collect();
        if let Some(program) = words.first_mut()
            && program.contains('/')
        {
            *program = joined(&self.place, program).to_string_lossy().into_owned();
        }
        words
    }

    /// A simple command before the last one.
    fn line(&mut self, number: usize, words: &[String], is_needed: bool) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["cd", place] => self.change_directory(place),
            ["umask", mask] => self.umask(number, mask),
            ["export", rest @ ..] if rest.iter().all(|it| it.contains('=')) => {
                for (name, value) in rest.iter().filter_map(|it| it.split_once('=')) {
                    self.variables.insert(name.to_owned(), json!(value));
                }
            }
            ["ulimit", option, value] => {
                let which = match *option {
                    "-n" | "-Sn" | "-Hn" => "nofile",
                    "-u" => "nproc",
                    "-c" => "core",
                    _ => {
                        let message = "this limit is left out; see limits";
                        return self.lost.push((number, words.join(" "), message));
                    }
                };
                self.limit(which, value);
            }
            ["sv", "start" | "check" | "up", names @ ..] => {
                let names = names.iter().map(|name| (number, (*name).to_owned()));
                self.asks_for.extend(names);
            }
            words => {
                let mut words: Vec<String> =
                    words.iter().map(|it| super::words::escape(it)).collect();
                if let Some(program) = words.first_mut()
                    && program.contains('/')
                {
                    *program = joined(&self.place, program).to_string_lossy().into_owned();
                }
                self.steps.push(Step { words, is_needed });
            }
        }
    }

    /// Takes in the first program of a chain and its options; returns the words of the next one, or `None` if
    /// this one stays.
    fn program<'w>(
        &mut self,
        number: usize,
        words: &'w [String],
        is_execline: bool,
    ) -> Option<&'w [String]> {
        let (program, rest) = words.split_first()?;
        let name = program.rsplit('/').next().unwrap_or_default();
        let next = match name {
            "chpst" => self.chpst(number, rest)?,
            "s6-softlimit" | "softlimit" => self.softlimit(number, rest)?,
            "setuidgid" | "s6-setuidgid" => {
                let (user, next) = rest.split_first()?;
                if user.starts_with('-') {
                    return None;
                }
                self.user(number, user);
                next
            }
            "envdir" | "s6-envdir" => {
                let options = rest.iter().take_while(|it| it.starts_with('-')).count();
                let (place, next) = rest.get(options..)?.split_first()?;
                self.environment_directories
                    .push(joined(&self.place, place));
                next
            }
            "cd" if is_execline => {
                let (place, next) = rest.split_first()?;
                self.change_directory(place);
                next
            }
            "umask" if is_execline => {
                let (mask, next) = rest.split_first()?;
                self.umask(number, mask);
                next
            }
            "export" if is_execline => {
                let ([name, value], next) = rest.split_first_chunk()?;
                self.variables.insert(name.clone(), json!(value));
                next
            }
            "fdmove" if is_execline => {
                let ([option, to, from], next) = rest.split_first_chunk()?;
                if (option.as_str(), to.as_str(), from.as_str()) != ("-c", "2", "1") {
                    return None;
                }
                self.is_joined = true;
                next
            }
            _ => return None,
        };
        (!next.is_empty()).then_some(next)
    }

    /// runit's options before a program.
    fn chpst<'w>(&mut self, number: usize, mut words: &'w [String]) -> Option<&'w [String]> {
        while let Some((word, rest)) = words.split_first() {
            let Some(letters) = word.strip_prefix('-').filter(|it| !it.is_empty()) else {
                return Some(words);
            };
            words = rest;
            if letters == "-" {
                return Some(words);
            }
            for (at, letter) in letters.char_indices() {
                let with_value = "uUbe/Cnlmdopfcrt".contains(letter) || letter == 'L';
                if !with_value {
                    self.flag(number, letter);
                    continue;
                }
                let attached = letters.get(at + letter.len_utf8()..).unwrap_or_default();
                let value = match attached {
                    "" => {
                        let (value, rest) = words.split_first()?;
                        words = rest;
                        value.as_str()
                    }
                    attached => attached,
                };
                self.option(number, letter, value);
                break;
            }
        }
        Some(words)
    }

    fn flag(&mut self, number: usize, letter: char) {
        if "012".contains(letter) {
            let message = "that descriptor stays open";
            self.lost.push((number, format!("-{letter}"), message));
        }
    }

    fn option(&mut self, number: usize, letter: char, value: &str) {
        match letter {
            'u' => self.user(number, value),
            'e' => self
                .environment_directories
                .push(joined(&self.place, value)),
            'C' => self.change_directory(value),
            'n' => match value.parse::<i32>() {
                Ok(nice) => _ = self.keys.insert("nice".to_owned(), json!(nice)),
                Err(_) => self
                    .lost
                    .push((number, format!("-n {value}"), "this is not a number")),
            },
            'm' => {
                for which in ["data", "stack", "memlock", "as"] {
                    self.limit(which, value);
                }
            }
            'd' => self.limit("data", value),
            'o' => self.limit("nofile", value),
            'p' => self.limit("nproc", value),
            'f' => self.limit("fsize", value),
            'c' => self.limit("core", value),
            'r' => self.limit("rss", value),
            _ => {
                let message = "there is no key for this option of chpst";
                self.lost
                    .push((number, format!("-{letter} {value}"), message));
            }
        }
    }

    fn softlimit<'w>(&mut self, number: usize, mut words: &'w [String]) -> Option<&'w [String]> {
        while let Some((word, rest)) = words.split_first() {
            let Some(letters) = word.strip_prefix('-') else {
                return Some(words);
            };
            let letter = letters.chars().next()?;
            let attached = letters.get(letter.len_utf8()..).unwrap_or_default();
            let (value, rest) = match attached {
                "" => rest
                    .split_first()
                    .map(|(value, rest)| (value.as_str(), rest))?,
                attached => (attached, rest),
            };
            words = rest;
            let which = match letter {
                'a' => "as",
                'c' => "core",
                'd' => "data",
                'f' => "fsize",
                'l' => "memlock",
                'o' => "nofile",
                'p' => "nproc",
                'r' => "rss",
                's' => "stack",
                't' => "cpu",
                'm' => {
                    for which in ["data", "stack", "memlock", "as"] {
                        self.limit(which, value);
                    }
                    continue;
                }
                _ => {
                    let message = "there is no key for this limit";
                    self.lost
                        .push((number, format!("-{letter} {value}"), message));
                    continue;
                }
            };
            self.limit(which, value);
        }
        Some(words)
    }

    fn limit(&mut self, which: &str, value: &str) {
        let value = match (value, value.parse::<u64>()) {
            ("unlimited" | "=", _) => json!("unlimited"),
            (_, Ok(number)) => match which {
                "cpu" => json!(format!("{number}s")),
                _ => json!(number),
            },
            (_, Err(_)) => return,
        };
        self.limits.insert(which.to_owned(), value);
    }

    /// "user", "user:group", ":uid:gid"
    fn user(&mut self, number: usize, text: &str) {
        let mut parts = text.trim_start_matches(':').split(':');
        let as_value = |text: &str| {
            text.parse::<u32>()
                .map_or_else(|_| json!(text), |id| json!(id))
        };
        if let Some(user) = parts.next().filter(|it| !it.is_empty()) {
            self.keys.insert("user".to_owned(), as_value(user));
        }
        if let Some(group) = parts.next().filter(|it| !it.is_empty()) {
            self.keys.insert("group".to_owned(), as_value(group));
        }
        if parts.next().is_some() {
            let message = "it has its user's groups, and no others";
            self.lost.push((number, text.to_owned(), message));
        }
    }

    fn change_directory(&mut self, place: &str) {
        self.place = joined(&self.place, place);
        let place = self.place.to_string_lossy().into_owned();
        self.keys
            .insert("working_directory".to_owned(), json!(place));
    }

    fn umask(&mut self, number: usize, text: &str) {
        let mask = u32::from_str_radix(text, 8).ok();
        match mask.filter(|mask| *mask <= 0o777) {
            Some(mask) => {
                _ = self
                    .keys
                    .insert("umask".to_owned(), json!(format!("{mask:04o}")))
            }
            None => self
                .lost
                .push((number, format!("umask {text}"), "this is not a mask")),
        }
    }
}

/// A path as seen from there, without `.`.
fn joined(place: &Path, path: &str) -> PathBuf {
    place.join(path).components().collect()
}

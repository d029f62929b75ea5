//! supervisord's programs. Groups become nothing: a pattern of names does what they do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};

use super::Severity::{self, Approximated, Harmless, Lost};
use super::ini::{self, Pair};
use super::{Host, Imported, Service, Text, values, words};

/// The order of programs that do not say.
const DEFAULT_PRIORITY: i64 = 999;

/// No log is rotated at a smaller size.
pub(super) const SMALLEST_LOG: u64 = 64 << 10;

/// Keys of a program that are read below.
const KNOWN: &[&str] = &[
    "command",
    "process_name",
    "numprocs",
    "numprocs_start",
    "priority",
    "autostart",
    "autorestart",
    "startsecs",
    "startretries",
    "exitcodes",
    "stopsignal",
    "stopwaitsecs",
    "stopasgroup",
    "killasgroup",
    "user",
    "redirect_stderr",
    "directory",
    "umask",
    "environment",
    "stdout_logfile",
    "stdout_logfile_maxbytes",
    "stdout_logfile_backups",
    "stderr_logfile",
    "stderr_logfile_maxbytes",
    "stderr_logfile_backups",
];

pub(super) fn convert(text: &Text, host: &Host, imported: &mut Imported) {
    let (pairs, bad) = ini::parse(&text.text);
    for (line, bad) in bad {
        let message = "it is neither a section nor a key with a value, and is left out";
        imported.find(Approximated, None, (&text.path, Some(line)), &bad, message);
    }
    let mut sections: BTreeMap<&str, Vec<&Pair>> = BTreeMap::new();
    for pair in &pairs {
        sections.entry(&pair.section).or_default().push(pair);
    }
    let mut priorities = BTreeMap::new();
    let mut has_program = false;
    for (name, pairs) in &sections {
        match name.split_once(':') {
            Some(("program", program)) => {
                has_program = true;
                let conversion = Program {
                    text,
                    host,
                    imported,
                    name: program.trim().to_owned(),
                    pairs,
                    number: 0,
                };
                let (priority, names) = conversion.run();
                priorities
                    .entry(priority)
                    .or_insert_with(Vec::new)
                    .extend(names);
            }
            _ => other_section(text, name, pairs, imported),
        }
    }
    if has_program {
        let message = "programs had supervisord's environment; services have PATH, LANG and what pass_environment names";
        imported.find(Harmless, None, (&text.path, None), "", message);
    }
    order(&priorities, imported);
}

/// Each comes after those of the next lower priority.
fn order(priorities: &BTreeMap<i64, Vec<String>>, imported: &mut Imported) {
    for ((_, before), (priority, names)) in priorities.iter().zip(priorities.iter().skip(1)) {
        for service in &mut imported.services {
            if names.contains(&service.name) {
                for name in before {
                    service.add_name("after", name, &format!("priority = {priority}"));
                }
            }
        }
    }
}

fn other_section(text: &Text, name: &str, pairs: &[&Pair], imported: &mut Imported) {
    let kind = name.split(':').next().unwrap_or_default();
    let (severity, message) = match kind {
        "unix_http_server" | "inet_http_server" | "supervisorctl" | "rpcinterface" => {
            (Harmless, "it is for supervisord itself")
        }
        "supervisord" => {
            for pair in pairs {
                let (severity, message) = match pair.key.as_str() {
                    "environment" => (Lost, "name these variables in each service"),
                    "user" if pair.value != "root" => (Lost, "name the user in each service"),
                    "umask" => (Approximated, "name the umask in each service"),
                    _ => (Harmless, "it is for supervisord itself"),
                };
                let setting = format!("{}={}", pair.key, shown(pair));
                imported.find(
                    severity,
                    None,
                    (&text.path, Some(pair.line)),
                    &setting,
                    message,
                );
            }
            return;
        }
        "group" => (
            Harmless,
            "there are no groups; name several services, or a pattern such as 'web*'",
        ),
        "include" => (Lost, "name these files too"),
        "eventlistener" => (
            Lost,
            "there are no event listeners; see on_exit and respawn events --json",
        ),
        "fcgi-program" => (Lost, "no socket is passed to it"),
        _ => (Lost, "this section is not known"),
    };
    let line = pairs.first().map(|pair| pair.line);
    imported.find(
        severity,
        None,
        (&text.path, line),
        &format!("[{name}]"),
        message,
    );
}

/// Without what may be secret.
fn shown(pair: &Pair) -> String {
    match pair.key.as_str() {
        "environment" => "...".to_owned(),
        _ => pair.value.replace('\n', " "),
    }
}

struct Program<'a> {
    text: &'a Text,
    host: &'a Host,
    imported: &'a mut Imported,
    name: String,
    pairs: &'a [&'a Pair],
    /// Of several that are alike.
    number: i64,
}

/// Why `%(…)s` cannot be replaced.
enum Unreplaced {
    /// A variable of supervisord's environment.
    Variable(String),
    Other(String),
}

impl Program<'_> {
    fn run(mut self) -> (i64, Vec<String>) {
        let number = |pair: Option<&Pair>, default: i64| {
            pair.map_or(Some(default), |pair| pair.value.parse().ok())
        };
        let priority = number(self.pair("priority"), DEFAULT_PRIORITY).unwrap_or(DEFAULT_PRIORITY);
        let start = number(self.pair("numprocs_start"), 0).unwrap_or(0);
        let count = number(self.pair("numprocs"), 1).filter(|count| (1..=1000).contains(count));
        if count.is_none()
            && let Some(pair) = self.pair("numprocs").cloned()
        {
            self.find(Lost, &pair, "expected a number from 1 to 1000");
        }
        let count = count.unwrap_or(1);
        let mut names = Vec::new();
        for number in start..start.saturating_add(count) {
            self.number = number;
            let name = self.service_name(count);
            names.push(name.clone());
            let mut service = Service::new(&name, &self.text.path);
            service.is_secret = self.text.is_secret;
            let path = self.text.path.display();
            service
                .head
                .push(format!("{name}, imported by respawn from {path}"));
            self.service(&mut service);
            self.imported.services.push(service);
        }
        for pair in self.pairs.iter().copied().cloned().collect::<Vec<_>>() {
            if KNOWN.contains(&pair.key.as_str()) {
                continue;
            }
            let is_log = pair.key.starts_with("stdout_") || pair.key.starts_with("stderr_");
            let is_off =
                ["0", "false", "no", "off"].contains(&pair.value.to_ascii_lowercase().as_str());
            match (is_log, is_off) {
                (true, true) => {}
                (true, false) => self.find(Approximated, &pair, "output only goes to its file"),
                (false, _) if pair.key == "serverurl" => {
                    self.find(Harmless, &pair, "there is none")
                }
                (false, _) => self.find(Lost, &pair, "this key is not known"),
            }
        }
        (priority, names)
    }

    fn pair(&self, key: &str) -> Option<&Pair> {
        self.pairs
            .iter()
            .rev()
            .find(|pair| pair.key == key)
            .copied()
    }

    fn find(&mut self, severity: Severity, pair: &Pair, message: impl Into<String>) {
        let setting = format!("{}={}", pair.key, shown(pair));
        let place = (self.text.path.as_path(), Some(pair.line));
        self.imported
            .find(severity, Some(&self.name), place, &setting, message);
    }

    fn origin(&self, pair: &Pair) -> [String; 1] {
        let file = self
            .text
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        [format!(
            "{file}:{}: {} = {}",
            pair.line,
            pair.key,
            shown(pair)
        )]
    }

    /// `process_name`, or with a number where there are several.
    fn service_name(&mut self, count: i64) -> String {
        let Some(pair) = self.pair("process_name").cloned() else {
            return values::service_name(&match count {
                1 => self.name.clone(),
                _ => format!("{}_{:02}", self.name, self.number),
            });
        };
        let name = match self.replace(&pair.value) {
            Ok(name) => name,
            Err(Unreplaced::Variable(what) | Unreplaced::Other(what)) => {
                self.find(Lost, &pair, format!("{what} cannot be replaced"));
                format!("{}_{:02}", self.name, self.number)
            }
        };
        // A process of two programs may have one name.
        match name == self.name || name.contains(&self.name) {
            true => values::service_name(&name),
            false => values::service_name(&format!("{}-{name}", self.name)),
        }
    }

    /// A value with `%(…)s` replaced by what does not change.
    fn replace(&self, value: &str) -> Result<String, Unreplaced> {
        let mut replaced = String::new();
        let mut rest = value;
        while let Some((before, after)) = rest.split_once('%') {
            replaced.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                replaced.push('%');
                rest = after;
                continue;
            }
            let Some((name, after)) = after.strip_prefix('(').and_then(|it| it.split_once(')'))
            else {
                return Err(Unreplaced::Other("%".to_owned()));
            };
            let end = after.find(|c: char| c.is_ascii_alphabetic());
            let Some((format, after)) = end.and_then(|end| after.split_at_checked(end + 1)) else {
                return Err(Unreplaced::Other(format!("%({name})")));
            };
            let here = self.text.path.parent().unwrap_or(std::path::Path::new("/"));
            let number = || {
                let width = format.trim_end_matches('d').trim_start_matches('0');
                let width: usize = width.parse().unwrap_or(0).min(20);
                format!("{:0width$}", self.number)
            };
            let value = match name {
                "program_name" | "group_name" => self.name.clone(),
                "process_num" => number(),
                "numprocs" => self
                    .pair("numprocs")
                    .map_or("1".to_owned(), |it| it.value.clone()),
                "host_node_name" => self.host.name.clone(),
                "here" => here.to_string_lossy().into_owned(),
                name => match name.strip_prefix("ENV_") {
                    Some(variable) => return Err(Unreplaced::Variable(variable.to_owned())),
                    None => return Err(Unreplaced::Other(format!("%({name}){format}"))),
                },
            };
            replaced.push_str(&value);
            rest = after;
        }
        replaced.push_str(rest);
        Ok(replaced)
    }

    /// A value that cannot have variables here.
    fn plain(&mut self, key: &str) -> Option<(String, Pair)> {
        let pair = self.pair(key)?.clone();
        match self.replace(&pair.value) {
            Ok(value) => Some((value, pair)),
            Err(Unreplaced::Variable(what) | Unreplaced::Other(what)) => {
                self.find(
                    Lost,
                    &pair,
                    format!("{what} cannot be replaced here; write the value"),
                );
                None
            }
        }
    }

    fn service(&mut self, service: &mut Service) {
        let mut passed = BTreeSet::new();
        self.command(service, &mut passed);
        self.environment(service, &mut passed);
        if !passed.is_empty() {
            let passed: Vec<_> = passed.into_iter().collect();
            service.set("pass_environment", json!(passed), &[]);
        }
        for (key, into) in [("user", "user"), ("directory", "working_directory")] {
            if let Some((value, pair)) = self.plain(key) {
                if into == "working_directory" && !value.starts_with('/') {
                    self.find(Lost, &pair, "expected an absolute path");
                } else {
                    service.set(into, value, &self.origin(&pair));
                }
            }
        }
        if let Some((value, pair)) = self.plain("umask") {
            match u32::from_str_radix(&value, 8)
                .ok()
                .filter(|mask| *mask <= 0o777)
            {
                Some(mask) => service.set("umask", format!("{mask:04o}"), &self.origin(&pair)),
                None => self.find(Lost, &pair, "this is not a mask"),
            }
        }
        self.start(service);
        self.stop(service);
        self.output(service);
    }

    fn command(&mut self, service: &mut Service, passed: &mut BTreeSet<String>) {
        let Some(pair) = self.pair("command").cloned() else {
            let place = (self.text.path.as_path(), None);
            let name = self.name.clone();
            let message = "there is no command to run";
            self.imported
                .find(Lost, Some(&name), place, "command", message);
            return;
        };
        let split = words::split(&pair.value.replace('\n', " "));
        let Ok(given) = split else {
            return self.find(Lost, &pair, "it cannot be read: a quote is not closed");
        };
        let mut command = Vec::new();
        for (index, word) in given.iter().enumerate() {
            match self.word(word, passed) {
                Ok(word) if index == 0 && word.contains("${") => {
                    return self.find(Lost, &pair, "the program itself cannot have variables");
                }
                Ok(word) => command.push(word),
                Err(what) => {
                    self.find(Lost, &pair, format!("{what} cannot be replaced"));
                    command.push(words::escape(word));
                }
            }
        }
        service.set("command", json!(command), &self.origin(&pair));
    }

    /// A word with `%(ENV_X)s` as `${X}`.
    fn word(&self, word: &str, passed: &mut BTreeSet<String>) -> Result<String, String> {
        let mut marked = word.to_owned();
        let mut names = Vec::new();
        loop {
            match self.replace(&marked) {
                Ok(replaced) => {
                    let mut replaced = words::escape(&replaced);
                    if !names.is_empty() {
                        replaced = match replaced.contains("${") {
                            true => replaced,
                            false => replaced.replace('$', "$$"),
                        };
                    }
                    for (index, name) in names.iter().enumerate() {
                        replaced = replaced.replace(&mark(index), &format!("${{{name}}}"));
                    }
                    return Ok(replaced);
                }
                Err(Unreplaced::Other(what)) => return Err(what),
                Err(Unreplaced::Variable(name)) => {
                    let token = format!("%(ENV_{name})s");
                    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                    if !marked.contains(&token) || !is_name || name.is_empty() {
                        return Err(token);
                    }
                    marked = marked.replace(&token, &mark(names.len()));
                    passed.insert(name.clone());
                    names.push(name);
                }
            }
        }
    }

    /// `KEY="value",KEY2=value`
    fn environment(&mut self, service: &mut Service, passed: &mut BTreeSet<String>) {
        let Some(pair) = self.pair("environment").cloned() else {
            return;
        };
        let Some(variables) = variables(&pair.value) else {
            return self.find(
                Lost,
                &pair,
                "it is not a list of KEY=value with commas between",
            );
        };
        let mut table = Map::new();
        for (key, value) in variables {
            match self.replace(&value) {
                Ok(value) => _ = table.insert(key, json!(value)),
                Err(Unreplaced::Variable(name))
                    if name == key && value == format!("%(ENV_{name})s") =>
                {
                    passed.insert(name);
                }
                Err(Unreplaced::Variable(name)) => {
                    let message = format!("{key} cannot be made of {name}; write its value");
                    self.find(Lost, &pair, message);
                }
                Err(Unreplaced::Other(what)) => {
                    self.find(Lost, &pair, format!("{key}: {what} cannot be replaced"));
                }
            }
        }
        if !table.is_empty() {
            service.set(
                "environment",
                serde_json::Value::Object(table),
                &self.origin(&pair),
            );
        }
    }

    fn seconds(&mut self, key: &str) -> Option<(u32, Pair)> {
        let pair = self.pair(key)?.clone();
        match pair.value.parse() {
            Ok(seconds) => Some((seconds, pair)),
            Err(_) => {
                self.find(Lost, &pair, "this is not a number of seconds");
                None
            }
        }
    }

    fn start(&mut self, service: &mut Service) {
        if let Some(pair) = self.pair("autostart").cloned()
            && !values::boolean(&pair.value)
        {
            service.set("autostart", false, &self.origin(&pair));
        }
        let pair = self.pair("autorestart").cloned();
        let value = pair
            .as_ref()
            .map_or("unexpected", |pair| pair.value.as_str());
        let value = value.to_ascii_lowercase();
        let restart = match value.as_str() {
            "unexpected" => "on-failure",
            value if values::boolean(value) => "always",
            _ => "no",
        };
        match &pair {
            Some(pair) => service.set("restart", restart, &self.origin(pair)),
            None => service.set("restart", restart, &["supervisord's default".to_owned()]),
        }
        if let Some(pair) = self.pair("exitcodes").cloned() {
            let codes = pair.value.split(',').map(|code| code.trim().parse::<u8>());
            match codes.collect::<Result<BTreeSet<_>, _>>() {
                Ok(codes) => service.set("success_exit_status", json!(codes), &self.origin(&pair)),
                Err(_) => self.find(Lost, &pair, "these are not exit statuses"),
            }
        }
        if let Some((seconds, pair)) = self.seconds("startsecs") {
            service.set("start_check", format!("{seconds}s"), &self.origin(&pair));
        }
        if let Some(pair) = self.pair("startretries").cloned() {
            let message =
                "it is never given up; the delay between its starts grows. See start_limit";
            self.find(Approximated, &pair, message);
        }
    }

    fn stop(&mut self, service: &mut Service) {
        if let Some(pair) = self.pair("stopsignal").cloned() {
            match values::signal(&pair.value) {
                Some(signal) => service.set("stop_signal", signal, &self.origin(&pair)),
                None => self.find(Lost, &pair, "this signal is not known"),
            }
        }
        if let Some((seconds, pair)) = self.seconds("stopwaitsecs") {
            service.set(
                "stop_timeout",
                format!("{}s", seconds.max(1)),
                &self.origin(&pair),
            );
        }
        let is_set = |pair: Option<&Pair>| pair.is_some_and(|pair| values::boolean(&pair.value));
        if is_set(self.pair("stopasgroup")) {
            return;
        }
        // Its children never get the stop signal; what is left of them is no orphan here.
        let origin = "the stop signal is for the main process, as supervisord has it".to_owned();
        service.set("stop_mode", "mixed", &[origin]);
    }

    fn output(&mut self, service: &mut Service) {
        let redirect = self.pair("redirect_stderr");
        let is_one = redirect.is_some_and(|pair| values::boolean(&pair.value));
        let stdout = self.stream(service, "stdout", is_one);
        if is_one {
            return;
        }
        let stderr = self.stream(service, "stderr", false);
        if !stderr && stdout {
            service.set("stderr", "inherit", &[]);
        }
    }

    /// Whether it has a value of its own.
    fn stream(&mut self, service: &mut Service, stream: &str, is_one: bool) -> bool {
        let Some((value, pair)) = self.plain(&format!("{stream}_logfile")) else {
            return false;
        };
        let origin = self.origin(&pair);
        match value.as_str() {
            "NONE" => service.set(stream, "null", &origin),
            "AUTO" | "syslog" => {
                self.find(
                    Approximated,
                    &pair,
                    "it goes where the agent's own output goes",
                );
                return false;
            }
            "/dev/stdout" | "/dev/stderr" | "/dev/fd/1" | "/dev/fd/2" => {
                service.set(stream, "inherit", &origin);
            }
            path if path.starts_with('/') => {
                let size = self.plain(&format!("{stream}_logfile_maxbytes"));
                let keep = self.plain(&format!("{stream}_logfile_backups"));
                let size = size.map_or(Some(50 << 20), |(value, _)| values::size(&value));
                let keep = keep.map_or(Some(10), |(value, _)| value.parse::<u32>().ok());
                let size = self.large_enough(size, &pair);
                let log = json!({
                    "path": path,
                    "max_size": values::size_value(size.unwrap_or(0)),
                    "keep": keep.unwrap_or(10),
                });
                let is_rotated = size.is_some_and(|size| size > 0);
                if is_one
                    && is_rotated
                    && self
                        .host
                        .knows(&format!("log = {}", crate::config::toml(&log)))
                {
                    service.set("log", log, &origin);
                    return true;
                }
                if is_rotated {
                    self.find(
                        Approximated,
                        &pair,
                        "the file is not rotated; logrotate can do it, with copytruncate",
                    );
                }
                service.set(stream, path, &origin);
            }
            _ => {
                self.find(Lost, &pair, "expected an absolute path");
                return false;
            }
        }
        true
    }
}

impl Program<'_> {
    /// The size at which a log is rotated, which is at least the smallest one that there is.
    fn large_enough(&mut self, size: Option<u64>, pair: &Pair) -> Option<u64> {
        let is_small = size.is_some_and(|size| (1..SMALLEST_LOG).contains(&size));
        if is_small {
            self.find(
                Approximated,
                pair,
                "it is rotated at 64 KiB, the smallest size",
            );
        }
        if is_small { Some(SMALLEST_LOG) } else { size }
    }
}

/// What no word has in it.
fn mark(index: usize) -> String {
    format!("\u{1}{index}\u{1}")
}

fn variables(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| ['"', '\''].contains(c));
        let (value, after) = match quote {
            Some(quote) => after.get(1..)?.split_once(quote)?,
            None => {
                let end = after.find([',', '\n']).unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                (value.trim_end(), after)
            }
        };
        let key = key.trim();
        if key.is_empty() || value.contains('\0') {
            return None;
        }
        found.push((key.to_owned(), value.to_owned()));
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    Some(found)
}

//! systemd's service units.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Severity::{self, Approximated, Hardening, Harmless, Lost};
use super::directives::is_condition;
use super::sockets::{self, Sockets};
use super::unit::{self, Assignment};
use super::words::{self, INSTANCE, Specifiers};
use super::{Host, Imported, Service, Text, daemons, directives, tmpfiles, values};
use crate::model::{CAPABILITIES, MOST_STORED};
pub(super) use steps::Prefixed;

/// How long systemd waits before SIGKILL if a unit says nothing.
const DEFAULT_STOP_TIMEOUT: &str = "90s";

/// Converts all units together, as they name each other.
pub(super) fn convert(texts: &[&Text], host: &Host, imported: &mut Imported) {
    let mut names = host.existing.clone();
    let mut units = Vec::new();
    let (named, texts): (Vec<&Text>, Vec<&Text>) = texts.iter().partition(|it| is_socket(it));
    for text in texts {
        let stem = text.name.strip_suffix(".service").unwrap_or(&text.name);
        let refusal = match text.name.rsplit_once('.') {
            Some((_, kind))
                if text.name.ends_with(&format!(".{kind}")) && OTHER_KINDS.contains(&kind) =>
            {
                Some(format!(
                    "it is a {kind} unit; only services can be imported"
                ))
            }
            _ => None,
        };
        if let Some(refusal) = refusal {
            imported.find(Lost, None, (&text.path, None), "", refusal);
            continue;
        }
        let name = values::service_name(stem);
        names.insert(name.clone());
        units.push((text, name));
    }
    for socket in &named {
        let service = sockets::service_of(socket);
        if !units.iter().any(|(text, _)| text.name == service) {
            let message = format!("it is for {service}; import it together with that");
            imported.find(Lost, None, (&socket.path, None), "", message);
        }
    }
    let mut before = Vec::new();
    for (text, name) in units {
        let mut unit = Unit::read(text, &name, host, imported);
        unit.sockets = text.sockets.iter().collect();
        for socket in &named {
            let is_there = unit.sockets.iter().any(|it| it.path == socket.path);
            if !is_there && sockets::service_of(socket) == text.name {
                unit.sockets.push(socket);
            }
        }
        unit.convert(&names, &mut before);
        let service = unit.service;
        imported.services.push(service);
    }
    // The other way round than it stands there.
    for (service, after, origin) in before {
        let mut services = imported.services.iter_mut();
        if let Some(service) = services.find(|it| it.name == service) {
            service.add_name("after", &after, &origin.replace(INSTANCE, "%i"));
        }
    }
}

/// Whether it is a socket unit, and no template of which each connection has an instance.
fn is_socket(text: &Text) -> bool {
    text.name.ends_with(".socket") && !text.name.ends_with("@.socket")
}

const OTHER_KINDS: &[&str] = &[
    "socket",
    "timer",
    "target",
    "path",
    "mount",
    "automount",
    "swap",
    "slice",
    "scope",
    "device",
];

/// A unit on its way.
struct Unit<'a> {
    text: &'a Text,
    host: &'a Host,
    imported: &'a mut Imported,
    specifiers: Specifiers,
    assignments: Vec<Assignment>,
    service: Service,
    /// Those that are for it.
    sockets: Vec<&'a Text>,
    /// What has become something, or was told of.
    done: BTreeSet<(String, String)>,
    /// Its command is root's, whatever `User=` says: it changes to that user itself.
    starts_as_root: bool,
}

impl<'a> Unit<'a> {
    fn read(text: &'a Text, name: &str, host: &'a Host, imported: &'a mut Imported) -> Self {
        let mut service = Service::new(name, &text.path);
        service.is_secret = text.is_secret;
        let (mut assignments, bad) = unit::parse(&text.path, &text.text);
        let mut bad: Vec<_> = bad
            .into_iter()
            .map(|bad| (text.path.clone(), bad))
            .collect();
        for (path, added) in &text.added {
            let (more, worse) = unit::parse(path, added);
            assignments.extend(more);
            bad.extend(worse.into_iter().map(|bad| (path.clone(), bad)));
        }
        for (path, bad) in bad {
            let message = "it is no section, no KEY=VALUE and no comment, and is left out";
            imported.find(
                Approximated,
                Some(name),
                (&path, Some(bad.line)),
                &bad.text,
                message,
            );
        }
        Self {
            text,
            host,
            imported,
            specifiers: Specifiers {
                // Of a template, the instance's name is not known yet.
                unit: text.name.replace("@.", &format!("@{INSTANCE}.")),
                host: host.name.clone(),
            },
            assignments,
            service,
            sockets: Vec::new(),
            done: BTreeSet::new(),
            starts_as_root: false,
        }
    }

    fn convert(&mut self, names: &BTreeSet<String>, before: &mut Vec<(String, String, String)>) {
        self.expand_specifiers();
        self.head();
        let kind = self.kind();
        let earlier = self.command(&kind);
        self.steps(&kind, &earlier);
        self.made_at_boot();
        self.listen(&kind);
        self.fd_store(&kind);
        self.relations(names, before);
        self.consequences(names);
        self.restart(&kind);
        self.stop(&kind);
        self.timeouts(&kind);
        self.identity();
        self.environment();
        self.limits();
        self.rights();
        self.directories();
        self.sandbox();
        self.cgroup();
        self.output();
        self.instances();
        self.rest();
        if self.is_template() {
            self.service.make_template();
        }
    }

    fn is_template(&self) -> bool {
        self.service.name.ends_with('@')
    }

    /// A template makes no service until somebody names one.
    fn instances(&mut self) {
        let given = self.last("Install", "DefaultInstance");
        let mut needed = ["requires", "binds"]
            .into_iter()
            .filter_map(|key| self.service.get(key));
        // Of what it requires then, nobody has made an instance.
        let needs_another = needed.any(|names| names.to_string().contains(INSTANCE));
        match given.filter(|_| self.is_template() && !needs_another) {
            Some(given) => self.set("instances", json!([given.value]), &[given]),
            None if self.is_template() => {
                let place = (self.text.path.as_path(), None);
                let name = self.service.name.clone();
                let message =
                    "it is a template: name its instances with the key `instances`, or by links";
                self.imported
                    .find(Harmless, Some(&name), place, "", message);
            }
            None => {}
        }
    }

    /// All values of a key since it was last emptied.
    fn all(&mut self, section: &str, key: &str) -> Vec<Assignment> {
        self.done.insert((section.to_owned(), key.to_owned()));
        let of_key = |it: &&Assignment| it.section == section && it.key == key;
        let found: Vec<_> = self.assignments.iter().filter(of_key).cloned().collect();
        let emptied = found.iter().rposition(|it| it.value.is_empty());
        found
            .into_iter()
            .skip(emptied.map_or(0, |at| at + 1))
            .collect()
    }

    fn last(&mut self, section: &str, key: &str) -> Option<Assignment> {
        self.all(section, key).pop()
    }

    fn find(&mut self, severity: Severity, from: &Assignment, message: impl Into<String>) {
        let place = (from.file.as_path(), Some(from.line));
        let setting = match from.key.as_str() {
            // Its values may be secret.
            "Environment" => "Environment".to_owned(),
            key => format!("{key}={}", from.value),
        };
        let name = self.service.name.clone();
        self.imported
            .find(severity, Some(&name), place, &setting, message);
    }

    fn set(&mut self, key: &str, value: impl Into<Value>, from: &[Assignment]) {
        let origins: Vec<_> = from.iter().map(Assignment::origin).collect();
        self.service.set(key, value, &origins);
    }

    fn head(&mut self) {
        let path = self.text.path.display();
        let head = format!("{}, imported by respawn from {path}", self.service.name);
        self.service.head.push(head);
        for (path, _) in &self.text.added {
            self.service.head.push(format!("with {}", path.display()));
        }
        if let Some(description) = self.last("Unit", "Description") {
            self.service.head.push(description.value);
        }
    }

    fn expand_specifiers(&mut self) {
        let mut unknown = Vec::new();
        let mut escaped = Vec::new();
        let is_template = self.is_template();
        for assignment in &mut self.assignments {
            let is_unescaped = ["%I", "%J", "%f"]
                .iter()
                .any(|it| assignment.value.contains(it));
            if is_template && is_unescaped && assignment.section == "Service" {
                escaped.push(assignment.clone());
            }
            match self.specifiers.expand(&assignment.value) {
                Ok(value) => assignment.value = value,
                // It is left out anyway.
                Err(_) if is_condition(&assignment.section, &assignment.key) => {}
                Err(specifier) => unknown.push((assignment.clone(), specifier)),
            }
        }
        for (assignment, specifier) in unknown {
            let message = format!("{specifier} has no fixed meaning, and is left as it is");
            self.find(Lost, &assignment, message);
        }
        for assignment in escaped {
            let message =
                "%i stands for it, the name as it is; systemd has - as / and \\x2d as - there";
            self.find(Approximated, &assignment, message);
        }
    }

    /// `Type=`, and what follows from it.
    fn kind(&mut self) -> String {
        let given = self.last("Service", "Type");
        let kind = given
            .as_ref()
            .map_or("simple", |it| it.value.as_str())
            .to_owned();
        let Some(given) = given else {
            return kind;
        };
        match kind.as_str() {
            "simple" | "exec" | "forking" => {}
            "oneshot" => self.set("type", "oneshot", &[given]),
            "notify" | "notify-reload" => {
                let ready = json!({"notify": true});
                if self.host.knows("ready = { notify = true }") {
                    self.set("ready", ready, &[given]);
                } else {
                    let message = "it counts as ready as soon as it runs: others start sooner";
                    self.find(Approximated, &given, message);
                }
            }
            "dbus" => self.bus_name(&given),
            "idle" => self.find(Harmless, &given, "it does not wait for others' output"),
            _ => self.find(Lost, &given, "this type is not known"),
        }
        kind
    }

    /// Ready when it has its name on the system's bus.
    fn bus_name(&mut self, kind: &Assignment) {
        let Some(name) = self.last("Service", "BusName") else {
            let message = "it counts as ready as soon as it runs, and not when it has its name";
            return self.find(Approximated, kind, message);
        };
        let asks = [
            "/usr/bin/dbus-send",
            "--system",
            "--print-reply",
            "--dest=org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.GetNameOwner",
        ];
        let mut words: Vec<String> = asks.map(str::to_owned).into();
        words.push(format!("string:{}", name.value));
        self.set("ready", json!({ "command": words }), &[kind.clone(), name]);
    }

    /// The command. Of a oneshot with several of them it is the last one; the others are returned.
    fn command(&mut self, kind: &str) -> Vec<(Assignment, Vec<String>)> {
        let mut given = self.all("Service", "ExecStart");
        if kind == "oneshot" {
            given.extend(self.all("Service", "ExecStartPost"));
        }
        let pid_file = self.last("Service", "PIDFile");
        let mut before = self.commands(&given);
        let last = before.pop().and_then(|(from, words)| {
            let words = self.words(&from, words)?;
            Some((from, words))
        });
        let Some((from, (mut words, literal))) = last else {
            let place = (self.text.path.as_path(), None);
            let name = self.service.name.clone();
            let message = "there is no command to run";
            self.imported
                .find(Lost, Some(&name), place, "ExecStart", message);
            return Vec::new();
        };
        if !before.is_empty() && kind == "oneshot" {
            let message = "the commands before the last one are in before_start";
            self.find(Harmless, &from, message);
        } else if !before.is_empty() {
            let message =
                "systemd takes several commands of a oneshot alone; only this one is kept";
            self.find(Lost, &from, message);
            before.clear();
        }
        let forking = self.last("Service", "Type").filter(|_| kind == "forking");
        match (forking, daemons::in_foreground(&words), pid_file) {
            (Some(from), None, pid_file) => self.stays_in_background(from, pid_file),
            (forking, foreground, pid_file) => {
                if let (Some(from), Some(foreground)) = (forking, foreground) {
                    words = foreground;
                    let message = "it is kept in the foreground by its own option; see command";
                    self.find(Approximated, &from, message);
                }
                if let Some(from) = pid_file {
                    self.find(Harmless, &from, "the process is known without it");
                }
            }
        }
        let command = words::command(&words, literal);
        if command.has_shell {
            let message =
                "a shell splits its variables into words; quotes within them have no meaning";
            self.find(Approximated, &from, message);
        }
        self.set("command", json!(command.words), &[from]);
        before
    }

    /// A program that is not known to have an option to stay in the foreground.
    fn stays_in_background(&mut self, kind: Assignment, pid_file: Option<Assignment>) {
        self.set("type", "forking", &[kind]);
        if let Some(from) = pid_file {
            // Relative ones are below /run (systemd.service(5)).
            let path = Path::new("/run").join(&from.value);
            self.set("pid_file", json!(path.to_string_lossy()), &[from]);
        }
    }

    /// The words of a command line, and whether `:` says that `$` means itself.
    fn words(&mut self, from: &Assignment, words: Vec<String>) -> Option<(Vec<String>, bool)> {
        let prefixed = steps::prefixed(words)?;
        if prefixed.is_ignored {
            let message = "an exit with failure counts as one; see success_exit_status";
            self.find(Approximated, from, message);
        }
        if prefixed.is_privileged {
            self.starts_as_root = self.user().is_some();
            let message = match self.starts_as_root {
                true => "it runs as root, and changes to its user itself",
                false => "it runs as root, as it does anyway",
            };
            self.find(Harmless, from, message);
        }
        if prefixed.had_name {
            self.find(Harmless, from, "its argv[0] is its program");
        }
        Some((prefixed.words, prefixed.is_literal))
    }

    /// The sockets that systemd holds for it.
    fn listen(&mut self, kind: &str) {
        let (mut listen, mut origins) = (Vec::new(), Vec::new());
        for from in self.all("Service", "Sockets") {
            let is_known = |name| self.sockets.iter().any(|it| it.name == name);
            if !from.value.split_ascii_whitespace().all(is_known) {
                let message = "not all of these are imported: their sockets are not passed to it";
                self.find(Lost, &from, message);
            }
        }
        for text in self.sockets.clone() {
            let head = format!("with {}", text.path.display());
            self.service.head.push(head);
            let sockets = Sockets::read(text, &self.host.name);
            for (severity, from, message) in &sockets.findings {
                self.find(*severity, from, message);
            }
            listen.extend(sockets.listen);
            origins.extend(sockets.origins);
        }
        match origins.first() {
            Some(from) if kind == "oneshot" => {
                self.find(Lost, from, "a oneshot service has no sockets");
            }
            Some(from) if self.service.get("type").is_some_and(|it| it == "forking") => {
                let message = "a service that goes into the background is passed no sockets";
                self.find(Lost, from, message);
            }
            Some(_) => self.set("listen", listen, &origins),
            None => {}
        }
    }

    /// What it leaves with systemd for its next start.
    fn fd_store(&mut self, kind: &str) {
        let Some(from) = self.last("Service", "FileDescriptorStoreMax") else {
            return;
        };
        let is_forking = self.service.get("type").is_some_and(|it| it == "forking");
        match from.value.parse::<u32>() {
            Ok(0) => {}
            Ok(_) if kind == "oneshot" || is_forking => {
                let message = "only a service that stays in the foreground can store descriptors";
                self.find(Lost, &from, message);
            }
            Ok(number) if number > MOST_STORED.into() => {
                let message = format!("it can store {MOST_STORED} at most");
                self.find(Approximated, &from, message);
                self.set("fd_store", MOST_STORED, &[from]);
            }
            Ok(number) => self.set("fd_store", number, &[from]),
            Err(_) => self.find(Lost, &from, "this is no such number"),
        }
    }

    /// The user that it names, unless that is root.
    fn user(&self) -> Option<String> {
        let mut users = self.assignments.iter().rev();
        let last = users.find(|it| it.section == "Service" && it.key == "User")?;
        let is_root = ["", "root", "0"].contains(&last.value.as_str());
        (!is_root).then(|| last.value.clone())
    }

    /// Whether the service runs as another user than root.
    fn has_user(&self) -> bool {
        self.user().is_some() && !self.starts_as_root
    }

    /// Directories below /run that systemd-tmpfiles makes for its package.
    fn made_at_boot(&mut self) {
        let mut found = tmpfiles::directories(&self.text.tmpfiles);
        let own: Vec<String> = self
            .all("Service", "RuntimeDirectory")
            .iter()
            .flat_map(|from| from.value.split_ascii_whitespace())
            .map(|name| format!("/run/{}", name.trim_end_matches('/')))
            .collect();
        found.retain(|it| !own.contains(&it.path));
        if found.is_empty() {
            return;
        }
        let steps = found.iter().map(|it| self.as_root(it.command())).collect();
        let origins = found.into_iter().map(|it| it.origin).collect();
        self.service.prepend("before_start", steps, origins);
    }

    /// Other units by their names.
    fn relations(&mut self, names: &BTreeSet<String>, before: &mut Vec<(String, String, String)>) {
        for (key, into, cost) in [
            ("After", "after", Harmless),
            ("Wants", "wants", Approximated),
            ("Requires", "requires", Lost),
            ("Requisite", "requires", Lost),
            ("BindsTo", "binds", Lost),
            ("PartOf", "part_of", Approximated),
            ("Before", "", Harmless),
        ] {
            for from in self.all("Unit", key) {
                for other in from.value.split_ascii_whitespace() {
                    let stem = other.strip_suffix(".service");
                    let name = stem
                        .map(|stem| values::service_name(&stem.replace(INSTANCE, "")))
                        // It need not be there.
                        .filter(|it| names.contains(it) || key == "PartOf");
                    let instance = if other.contains(INSTANCE) { "%i" } else { "" };
                    let own = self.service.name.clone();
                    match (name, stem) {
                        (Some(name), _) if name == own => {}
                        (Some(_), _)
                            if into.is_empty() && own.ends_with('@') && instance.is_empty() =>
                        {
                            let message =
                                format!("{other} does not wait for instances of a template");
                            self.find(Harmless, &from, message);
                        }
                        (Some(name), _) if into.is_empty() => {
                            before.push((name, own + instance, from.origin()));
                        }
                        (Some(name), _) => {
                            let name = name + &instance.replace("%i", &INSTANCE.to_string());
                            self.service.add_name(into, &name, &from.origin());
                        }
                        (None, Some(_)) => {
                            let message = format!("{other} is not imported, and is left out");
                            self.find(cost, &from, message);
                        }
                        (None, None) if self.sockets.iter().any(|it| it.name == other) => {}
                        (None, None) if other == "syslog.socket" => {
                            let message = "it opens /dev/log itself";
                            self.find(Harmless, &from, message);
                        }
                        (None, None) if other.ends_with(".socket") && cost == Lost => {
                            let message =
                                format!("{other} is not imported: no sockets are passed to it");
                            self.find(Lost, &from, message);
                        }
                        (None, None) => {
                            let message = format!("{other} is no service, and is left out");
                            self.find(Harmless, &from, message);
                        }
                    }
                }
            }
        }
    }

    /// What is started when it has failed, by a hook; and what else it is reloaded with.
    fn consequences(&mut self, names: &BTreeSet<String>) {
        let failed = self.all("Unit", "OnFailure");
        let mut started = Vec::new();
        for from in &failed {
            for other in from.value.split_ascii_whitespace() {
                let name = imported_name(other);
                match name.filter(|name| names.contains(name)) {
                    Some(name) => started.push(name),
                    None => {
                        let message = format!("{other} is not imported, and is left out");
                        self.find(Approximated, from, message);
                    }
                }
            }
        }
        if !started.is_empty() {
            // The agent's PATH may not lead to it.
            let respawn = std::env::current_exe().ok();
            let respawn = respawn.and_then(|path| path.into_os_string().into_string().ok());
            let respawn = respawn.unwrap_or_else(|| "respawn".to_owned());
            let command = [respawn.as_str(), "start", "--no-wait"].map(str::to_owned);
            let words: Vec<String> = command.into_iter().chain(started).collect();
            self.set("on_failed", json!(words), &failed);
        }
        for from in self.all("Unit", "ReloadPropagatedFrom") {
            let part_of = self.service.get("part_of").and_then(Value::as_array);
            let is_part = |other: &str| {
                let name = imported_name(other);
                part_of.is_some_and(|of| name.is_some_and(|name| of.contains(&json!(name))))
            };
            let is_all = from.value.split_ascii_whitespace().all(is_part);
            match is_all {
                true => self.find(Harmless, &from, "a part of a service is reloaded with it"),
                false => self.find(Approximated, &from, "it is not reloaded with another one"),
            }
        }
    }

    fn restart(&mut self, kind: &str) {
        let is_oneshot = kind == "oneshot";
        let given = self.last("Service", "Restart");
        match given.as_ref().map(|it| it.value.as_str()) {
            None if is_oneshot => {}
            None => {
                self.set("restart", "on-failure", &[]);
                let place = (self.text.path.as_path(), None);
                let name = self.service.name.clone();
                let message =
                    "systemd would leave it dead after a failure; write restart = \"no\" for that";
                self.imported
                    .find(Approximated, Some(&name), place, "Restart", message);
            }
            Some(value) => {
                let (restart, severity) = match value {
                    "no" => ("no", None),
                    "always" if is_oneshot => ("on-failure", Some(Approximated)),
                    "always" => ("always", None),
                    "on-failure" => ("on-failure", None),
                    "on-abnormal" => ("on-abnormal", None),
                    "on-abort" => ("on-abort", None),
                    "on-success" => ("no", Some(Lost)),
                    _ => ("on-failure", Some(Approximated)),
                };
                let given = given.clone().into_iter().collect::<Vec<_>>();
                self.set("restart", restart, &given);
                if let (Some(severity), Some(from)) = (severity, given.first()) {
                    self.find(severity, from, format!("it is restart = \"{restart}\""));
                }
            }
        }
        self.span("RestartSec", "restart_delay");
        self.span("RestartMaxDelaySec", "restart_max_delay");
        self.restart_delays();
        self.start_limit();
        self.success();
    }

    /// The longest delay is at least the first.
    fn restart_delays(&mut self) {
        let length = |value: Option<&Value>| {
            let span = value.and_then(Value::as_str).map(values::time_span);
            span.flatten().flatten()
        };
        let delay = length(self.service.get("restart_delay"));
        let longest = length(self.service.get("restart_max_delay"));
        if longest.is_some_and(|longest| delay.is_some_and(|delay| longest < delay)) {
            self.service.remove("restart_max_delay");
        }
    }

    /// A time span that is one here too.
    fn span(&mut self, key: &str, into: &str) {
        let Some(from) = self.last("Service", key) else {
            return;
        };
        match values::time_span(&from.value) {
            Some(Some(span)) => self.set(into, values::duration(span), &[from]),
            Some(None) => self.find(Approximated, &from, "it is not without an end here"),
            None => self.find(Lost, &from, "this is no time span"),
        }
    }

    fn start_limit(&mut self) {
        let mut from = Vec::new();
        let mut values = [None, None];
        let names = [
            ["StartLimitBurst", "StartLimitBurst"],
            ["StartLimitIntervalSec", "StartLimitInterval"],
        ];
        for (slot, keys) in values.iter_mut().zip(names) {
            for (section, key) in ["Unit", "Service"]
                .into_iter()
                .flat_map(|section| keys.map(|key| (section, key)))
            {
                if let Some(found) = self.last(section, key) {
                    *slot = Some(found.value.clone());
                    from.push(found);
                }
            }
        }
        from.dedup();
        let [burst, interval] = values;
        if burst.is_none() && interval.is_none() {
            return;
        }
        let interval = values::time_span(interval.as_deref().unwrap_or("10s"));
        let burst: Option<u32> = burst.as_deref().unwrap_or("5").parse().ok();
        match (burst, interval) {
            // For systemd, 0 is no limit.
            (Some(0), _) => {}
            (_, Some(Some(interval))) if interval.is_zero() => {}
            (Some(burst), Some(Some(interval))) => {
                let limit = json!({
                    "burst": burst.min(1000),
                    "interval": values::duration(interval),
                });
                self.set("start_limit", limit, &from);
            }
            _ => {
                if let Some(last) = from.last().cloned() {
                    self.find(Lost, &last, "this is no number or time span");
                }
            }
        }
    }

    fn success(&mut self) {
        let mut statuses = BTreeSet::from([0_u8]);
        let given = self.exit_statuses("SuccessExitStatus", &mut statuses, "counts as a failure");
        if statuses.len() > 1 {
            self.set("success_exit_status", json!(statuses), &given);
        }
        let mut statuses = BTreeSet::new();
        let goes_on = "does not keep it from being restarted";
        let given = self.exit_statuses("RestartPreventExitStatus", &mut statuses, goes_on);
        if !statuses.is_empty() {
            self.set("restart_prevent_exit_status", json!(statuses), &given);
        }
    }

    /// Adds the exit statuses that a directive names. `of_signals`: what is lost of signals there.
    fn exit_statuses(
        &mut self,
        directive: &str,
        statuses: &mut BTreeSet<u8>,
        of_signals: &str,
    ) -> Vec<Assignment> {
        let given = self.all("Service", directive);
        for from in &given {
            for word in from.value.split_ascii_whitespace() {
                match word.parse() {
                    Ok(status) => _ = statuses.insert(status),
                    Err(_) if values::signal(word).is_some() => {
                        let message = format!("an end by {word} {of_signals}");
                        self.find(Approximated, from, message);
                    }
                    Err(_) => match EXIT_NAMES.iter().find(|(name, _)| *name == word) {
                        Some((_, status)) => _ = statuses.insert(*status),
                        None => self.find(Lost, from, format!("{word} is no exit status")),
                    },
                }
            }
        }
        given
    }

    fn stop(&mut self, kind: &str) {
        if let Some(from) = self.last("Service", "KillMode") {
            let (mode, severity) = match from.value.as_str() {
                "mixed" => ("mixed", None),
                "process" => ("main", None),
                "none" => ("main", Some(Approximated)),
                _ => ("group", None),
            };
            if let Some(severity) = severity {
                self.find(severity, &from, "the main process is stopped");
            }
            self.set("stop_mode", mode, &[from]);
        }
        if let Some(from) = self.last("Service", "KillSignal") {
            match values::signal(&from.value) {
                Some(signal) => self.set("stop_signal", signal, &[from]),
                None => self.find(Lost, &from, "this signal is not known"),
            }
        }
        self.reload(kind);
    }

    /// Several commands run one after the other, and the first one that fails is the last one: what comes
    /// before a signal checks the config.
    fn reload(&mut self, kind: &str) {
        let all = self.all("Service", "ExecReload");
        if kind == "notify-reload" && all.is_empty() {
            return self.notifying_reload();
        }
        let Some(last) = all.last().cloned() else {
            return;
        };
        let mut commands = Vec::new();
        for (from, words) in self.commands(&all) {
            match steps::prefixed(words) {
                Some(prefixed) => commands.push(prefixed),
                None => self.find(Lost, &from, "it cannot be read"),
            }
        }
        let Some(only) = commands.pop() else {
            return;
        };
        let signal = kill_signal(&only.words);
        if signal.is_some() && kind == "oneshot" {
            let message = "a oneshot that is done has no process to send a signal to";
            return self.find(Harmless, &last, message);
        }
        if let (Some(signal), []) = (&signal, commands.as_slice()) {
            return self.set("reload", signal.clone(), &all);
        }
        commands.push(only);
        let is_path = |it: &steps::Prefixed| it.words.first().is_some_and(|it| it.starts_with('/'));
        if !commands.iter().all(is_path) {
            let message = "it has no reload of its own; run the command, or restart it";
            return self.find(Approximated, &last, message);
        }
        let words = match commands.len() {
            1 => commands
                .pop()
                .map(|only| steps::with_pid(only).words)
                .unwrap_or_default(),
            _ => words::script(&commands),
        };
        self.set("reload", json!(words), &all);
    }

    /// `Type=notify-reload`: a signal, after which it says when it is done.
    fn notifying_reload(&mut self) {
        let mut from: Vec<_> = self.last("Service", "Type").into_iter().collect();
        let mut signal = "SIGHUP".to_owned();
        if let Some(given) = self.last("Service", "ReloadSignal") {
            match values::signal(&given.value) {
                Some(known) => signal = known,
                None => self.find(Lost, &given, "this signal is not known"),
            }
            from.push(given);
        }
        self.set("reload", json!({"signal": signal, "notify": true}), &from);
    }

    fn timeouts(&mut self, kind: &str) {
        let both = self.last("Service", "TimeoutSec");
        let stop = self
            .last("Service", "TimeoutStopSec")
            .or_else(|| both.clone());
        let never = self.last("Service", "SendSIGKILL");
        match stop {
            Some(from) => match values::time_span(&from.value) {
                // For systemd, 0 is no limit.
                Some(span) => {
                    let span = span.filter(|span| !span.is_zero());
                    self.set("stop_timeout", values::timeout(span), &[from]);
                }
                None => self.find(Lost, &from, "this is no time span"),
            },
            None => {
                let origin = "systemd's default".to_owned();
                self.service
                    .set("stop_timeout", DEFAULT_STOP_TIMEOUT, &[origin]);
            }
        }
        if let Some(from) = never.filter(|from| !values::boolean(&from.value)) {
            self.set("stop_timeout", "infinity", &[from]);
        }
        let start = self.last("Service", "TimeoutStartSec").or(both);
        let keys = ["ready", "before_start", "after_start"];
        let is_forking = self.service.get("type").is_some_and(|it| it == "forking");
        let takes_time = keys.iter().any(|key| self.service.get(key).is_some()) || is_forking;
        if let Some(from) = start {
            match values::time_span(&from.value) {
                Some(span) if takes_time => {
                    let span = span.filter(|span| !span.is_zero());
                    self.set("start_timeout", values::timeout(span), &[from]);
                }
                Some(_) if kind == "oneshot" => {
                    self.find(Approximated, &from, "it may run for as long as it takes");
                }
                Some(_) => self.find(Harmless, &from, "it is up as soon as it runs"),
                None => self.find(Lost, &from, "this is no time span"),
            }
        }
        if let Some(from) = self.last("Service", "WatchdogSec") {
            match values::time_span(&from.value) {
                Some(Some(span)) if span.is_zero() => {}
                Some(Some(span)) if !is_forking && self.host.knows("watchdog = \"30s\"") => {
                    self.set("watchdog", values::duration(span), &[from]);
                }
                _ => self.find(Lost, &from, "nobody watches whether it still works"),
            }
        }
    }

    fn identity(&mut self) {
        for (key, into) in [("User", "user"), ("Group", "group")] {
            if let Some(from) = self.last("Service", key)
                && !self.starts_as_root
            {
                self.set(into, from.value.clone(), &[from]);
            }
        }
        if let Some(from) = self.last("Service", "WorkingDirectory") {
            let path = from
                .value
                .strip_prefix('-')
                .unwrap_or(&from.value)
                .to_owned();
            if path != from.value {
                let message = "a start fails if the directory is missing";
                self.find(Approximated, &from, message);
            }
            match path.starts_with('/') {
                true => self.set("working_directory", path, &[from]),
                false => self.find(Lost, &from, "write the path of the home directory"),
            }
        }
        if let Some(from) = self.last("Service", "UMask") {
            let mask = u32::from_str_radix(&from.value, 8).ok();
            match mask.filter(|mask| *mask <= 0o777) {
                Some(mask) => self.set("umask", format!("{mask:04o}"), &[from]),
                None => self.find(Lost, &from, "this is no mask"),
            }
        }
        self.number("Nice", "nice", -20..=19);
        self.number("OOMScoreAdjust", "oom_score_adj", -1000..=1000);
        self.number("IOWeight", "io_weight", 1..=10_000);
    }

    fn number(&mut self, key: &str, into: &str, range: std::ops::RangeInclusive<i64>) {
        let Some(from) = self.last("Service", key) else {
            return;
        };
        match from.value.parse().ok().filter(|it| range.contains(it)) {
            Some(number) => self.set(into, number, &[from]),
            None => self.find(Lost, &from, "this is no such number"),
        }
    }

    fn environment(&mut self) {
        let files = self.all("Service", "EnvironmentFile");
        let mut paths = Vec::new();
        let mut kept = Vec::new();
        for from in &files {
            let path = from.value.strip_prefix('-').unwrap_or(&from.value);
            if !path.starts_with('/') || path.contains(['*', '?', '[']) {
                self.find(Lost, from, "name each file by its absolute path");
                continue;
            }
            paths.push(from.value.clone());
            kept.push(from.clone());
        }
        match &*paths {
            [] => {}
            [path] => self.set("environment_file", path.clone(), &kept),
            _ => self.set("environment_file", json!(paths), &kept),
        }
        let given = self.all("Service", "Environment");
        let mut table = BTreeMap::new();
        for from in &given {
            for word in words::split(&from.value).unwrap_or_else(|why| {
                self.find(Lost, from, format!("it cannot be read: {why}"));
                Vec::new()
            }) {
                match word.split_once('=') {
                    Some((name, _)) if self.text.variables.contains(name) => {
                        let message = format!(
                            "an environment file sets {name} now, and wins for systemd: left out"
                        );
                        self.find(Approximated, from, message);
                    }
                    Some((name, value)) if !name.is_empty() => {
                        table.insert(name.to_owned(), value.to_owned());
                    }
                    _ => self.find(Lost, from, "a word of it is no NAME=VALUE"),
                }
            }
        }
        if !paths.is_empty()
            && !table.is_empty()
            && let Some(from) = given.first()
        {
            let message =
                "here these win over an environment file that sets the same, and not the file";
            self.find(Harmless, from, message);
        }
        if !table.is_empty() {
            let table: Map<_, _> = table.into_iter().map(|(k, v)| (k, json!(v))).collect();
            // A value may be secret: the comments have the names alone.
            let origin = |from: &Assignment| {
                let file = from.file.file_name().unwrap_or_default().to_string_lossy();
                format!("{file}:{}: Environment", from.line)
            };
            let origins: Vec<_> = given.iter().map(origin).collect();
            self.service
                .set("environment", Value::Object(table), &origins);
        }
        let passed = self.all("Service", "PassEnvironment");
        let names: Vec<_> = passed
            .iter()
            .flat_map(|from| from.value.split_ascii_whitespace())
            .map(str::to_owned)
            .collect();
        if !names.is_empty() {
            self.set("pass_environment", json!(names), &passed);
        }
    }

    fn limits(&mut self) {
        let mut table = Map::new();
        let mut origins = Vec::new();
        for (key, into, unit) in LIMITS {
            let Some(from) = self.last("Service", key) else {
                continue;
            };
            match limit(&from.value, into, *unit) {
                Some(value) => {
                    table.insert((*into).to_owned(), value);
                    origins.push(from);
                }
                None => self.find(Lost, &from, "this limit cannot be read"),
            }
        }
        if !table.is_empty() {
            self.set("limits", Value::Object(table), &origins);
        }
    }

    fn rights(&mut self) {
        if let Some(from) = self.last("Service", "NoNewPrivileges")
            && values::boolean(&from.value)
        {
            self.set("no_new_privileges", true, &[from]);
        }
        let ambient = self.all("Service", "AmbientCapabilities");
        let bounding = self.all("Service", "CapabilityBoundingSet");
        let has_user = self.has_user();
        // What a user other than root has is what is ambient; of root it is the bounding set.
        let (meant, other) = match has_user {
            true => (ambient, bounding),
            false => (bounding, ambient),
        };
        if !meant.is_empty() {
            match capabilities(&meant) {
                Ok(names) => self.set("capabilities", json!(names), &meant),
                Err(name) => {
                    if let Some(from) = meant.last() {
                        self.find(Lost, from, format!("{name} is no capability"));
                    }
                }
            }
        }
        if let Some(from) = other.last() {
            let (severity, message) = match (has_user, meant.is_empty()) {
                (true, false) => (Harmless, "capabilities limits it to these anyway"),
                (true, true) => (
                    Hardening,
                    "a setuid program of its may have more than these",
                ),
                (false, _) => (Harmless, "a service of root has them anyway"),
            };
            self.find(severity, from, message);
        }
        let cpus = self.all("Service", "CPUAffinity");
        let words: Vec<_> = cpus
            .iter()
            .flat_map(|from| from.value.split([' ', ',']))
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        if !words.is_empty() {
            self.set("cpu_affinity", json!(words), &cpus);
        }
    }

    /// Unless it is switched off.
    fn find_unprotected(&mut self, from: &Assignment, is_unprotected: bool) {
        let is_off = ["no", "false", "off", "0", ""].contains(&from.value.as_str());
        if is_unprotected && !is_off {
            self.find(Hardening, from, "it runs without this protection");
        }
    }

    /// What these directives name.
    fn paths(&mut self, keys: [&str; 2], origins: &mut Vec<Assignment>) -> Vec<Value> {
        let mut found = Vec::new();
        let given = keys.map(|key| self.all("Service", key));
        for from in given.into_iter().flatten() {
            let paths = words::split(&from.value).unwrap_or_default().into_iter();
            // `+`: below a root of its own, which no service has here.
            let paths = paths.map(|path| path.replacen('+', "", 1));
            let is_path = |path: &String| path.trim_start_matches('-').starts_with('/');
            let (paths, others): (Vec<_>, Vec<_>) = paths.partition(is_path);
            self.find_unprotected(&from, paths.is_empty() || !others.is_empty());
            found.extend(paths.into_iter().map(Value::from));
            origins.push(from);
        }
        found
    }

    /// Protections that have a counterpart. What systemd leaves out where a path is not there has a `-`.
    fn sandbox(&mut self) {
        let mut table = Map::new();
        let mut origins = Vec::new();
        let mut read_only = Vec::new();
        if let Some(from) = self.last("Service", "ProtectSystem") {
            let paths: &[&str] = match from.value.as_str() {
                "strict" => &["/"],
                "full" => &["-/usr", "-/boot", "-/efi", "-/etc"],
                value if values::boolean(value) => &["-/usr", "-/boot", "-/efi"],
                _ => &[],
            };
            self.find_unprotected(&from, paths.is_empty());
            read_only.extend(paths.iter().map(|path| json!(path)));
            origins.push(from);
        }
        if let Some(from) = self.last("Service", "ProtectHome") {
            match from.value.as_str() {
                "read-only" => {
                    let homes = ["-/home", "-/root", "-/run/user"];
                    read_only.extend(homes.map(|path| json!(path)));
                }
                value if value == "tmpfs" || values::boolean(value) => {
                    table.insert("protect_home".to_owned(), json!(true));
                }
                _ => self.find_unprotected(&from, true),
            }
            origins.push(from);
        }
        read_only.extend(self.paths(["ReadOnlyPaths", "ReadOnlyDirectories"], &mut origins));
        let writable = self.paths(["ReadWritePaths", "ReadWriteDirectories"], &mut origins);
        for (key, into, value) in [
            ("PrivateTmp", "private_tmp", true),
            ("PrivateDevices", "private_devices", true),
            ("PrivateNetwork", "network", false),
        ] {
            if let Some(from) = self.last("Service", key) {
                if values::boolean(&from.value) || from.value == "disconnected" {
                    table.insert(into.to_owned(), json!(value));
                } else {
                    self.find_unprotected(&from, true);
                }
                origins.push(from);
            }
        }
        // What is both is writable for systemd.
        let bare = |path: &Value| {
            let path = path.as_str().unwrap_or_default();
            path.trim_start_matches('-').to_owned()
        };
        let opened: BTreeSet<String> = writable.iter().map(bare).collect();
        read_only.retain(|path| !opened.contains(&bare(path)));
        // Without a read-only part all is writable.
        if !read_only.is_empty() {
            table.insert("read_only".to_owned(), Value::Array(read_only));
            if !writable.is_empty() {
                table.insert("writable".to_owned(), Value::Array(writable));
            }
        }
        // As it does without a lower score.
        let score = self.service.get("oom_score_adj").and_then(Value::as_i64);
        let is_lower = score.is_some_and(|score| score < 0);
        // Nor are its capabilities more than what a container has.
        let is_bounded = !self.has_user() && self.service.get("capabilities").is_some();
        if !table.is_empty() || is_lower || is_bounded {
            // In a container that does not allow it, systemd goes on without it, too.
            table.insert("optional".to_owned(), json!(true));
            self.set("sandbox", Value::Object(table), &origins);
        }
    }

    fn directories(&mut self) {
        let mut table = Map::new();
        let mut origins = Vec::new();
        let mut modes = BTreeSet::new();
        for (key, into) in [
            ("RuntimeDirectory", "runtime"),
            ("StateDirectory", "state"),
            ("LogsDirectory", "logs"),
            ("CacheDirectory", "cache"),
        ] {
            let given = self.all("Service", key);
            let mode = self.last("Service", &format!("{key}Mode"));
            let mut names = Vec::new();
            for from in &given {
                for word in from.value.split_ascii_whitespace() {
                    let name = word.split(':').next().unwrap_or_default();
                    if name != word {
                        self.find(Approximated, from, "no link is made to it");
                    }
                    names.push(name.trim_end_matches('/').to_owned());
                }
            }
            if names.is_empty() {
                continue;
            }
            table.insert(into.to_owned(), json!(names));
            let value = mode.as_ref().map_or("0755", |it| it.value.as_str());
            let bits = u32::from_str_radix(value, 8).unwrap_or(0o755);
            if bits > 0o777
                && let Some(from) = &mode
            {
                self.find(
                    Approximated,
                    from,
                    "only the rights of owner, group and others are set",
                );
            }
            modes.insert(bits & 0o777);
            origins.extend(given);
            origins.extend(mode);
        }
        let Some(mode) = modes.first().copied() else {
            return;
        };
        if modes.len() > 1
            && let Some(from) = origins.last().cloned()
        {
            let message = format!("all directories of a service have one mode, {mode:04o}");
            self.find(Approximated, &from, message);
        }
        if mode != 0o755 {
            table.insert("mode".to_owned(), json!(format!("{mode:04o}")));
        }
        match self.user().filter(|_| self.starts_as_root) {
            Some(user) => self.directories_of(&user, &table, mode, &origins),
            None => self.set("directories", Value::Object(table), &origins),
        }
    }

    /// What `directories` has belongs to the user that the service starts as: these belong to another.
    fn directories_of(
        &mut self,
        user: &str,
        table: &Map<String, Value>,
        mode: u32,
        origins: &[Assignment],
    ) {
        let group = self.last("Service", "Group").map(|it| it.value);
        let owner = format!("{user}:{}", group.unwrap_or_default());
        let mode = format!("{mode:04o}");
        let mut steps = Vec::new();
        for (key, parent) in [
            ("runtime", "/run"),
            ("state", "/var/lib"),
            ("logs", "/var/log"),
            ("cache", "/var/cache"),
        ] {
            let names = table.get(key).and_then(Value::as_array);
            for name in names.into_iter().flatten().filter_map(Value::as_str) {
                let path = format!("{parent}/{name}");
                steps.push(json!(["/usr/bin/install", "-d", "-m", mode, path]));
                steps.push(json!(["/bin/chown", owner, path]));
            }
        }
        let origins = origins.iter().map(Assignment::origin).collect();
        self.service.prepend("before_start", steps, origins);
    }

    fn cgroup(&mut self) {
        for (key, into) in [
            ("MemoryLimit", "memory_max"),
            ("MemoryMax", "memory_max"),
            ("MemoryHigh", "memory_high"),
        ] {
            let Some(from) = self.last("Service", key) else {
                continue;
            };
            if from.value == "infinity" {
                self.service.remove(into);
                continue;
            }
            match values::size(&from.value).filter(|bytes| *bytes >= 4096) {
                Some(bytes) => self.set(into, values::size_value(bytes), &[from]),
                None => self.find(Approximated, &from, "write it as a size"),
            }
        }
        if let Some(from) = self.last("Service", "TasksMax")
            && from.value != "infinity"
        {
            match from.value.parse::<u32>().ok().filter(|tasks| *tasks > 0) {
                Some(tasks) => self.set("pids_max", tasks, &[from]),
                None => self.find(Approximated, &from, "write it as a number"),
            }
        }
        if let Some(from) = self.last("Service", "CPUQuota") {
            let percent = from
                .value
                .strip_suffix('%')
                .and_then(|it| it.parse::<u32>().ok());
            match percent.filter(|percent| (1..=100_000).contains(percent)) {
                Some(percent) => self.set("cpu_max", format!("{percent}%"), &[from]),
                None => self.find(Approximated, &from, "write it in whole percent"),
            }
        }
    }

    fn output(&mut self) {
        for (key, into) in [("StandardOutput", "stdout"), ("StandardError", "stderr")] {
            let Some(from) = self.last("Service", key) else {
                continue;
            };
            let (kind, path) = from.value.split_once(':').unwrap_or((&from.value, ""));
            let (kind, path) = (kind.to_owned(), path.to_owned());
            match kind.as_str() {
                "null" => self.set(into, "null", &[from]),
                "append" if path.starts_with('/') => self.set(into, path, &[from]),
                "file" | "truncate" if path.starts_with('/') => {
                    self.find(Approximated, &from, "it is appended to");
                    self.set(into, path, &[from]);
                }
                "inherit" if into == "stdout" => self.set(into, "null", &[from]),
                "inherit" => {}
                "tty" | "socket" | "fd" => self.find(Lost, &from, "it has no such output"),
                _ => {
                    let message = "it goes where the agent's own output goes";
                    self.find(Harmless, &from, message);
                    if into == "stderr" && self.service.get("stdout").is_some() {
                        self.set(into, "inherit", &[from]);
                    }
                }
            }
        }
        if let Some(from) = self.last("Service", "StandardInput")
            && from.value != "null"
        {
            self.find(Lost, &from, "its input is /dev/null");
        }
    }

    /// What nothing has become of.
    fn rest(&mut self) {
        for from in self.assignments.clone() {
            let is_done = self
                .done
                .contains(&(from.section.clone(), from.key.clone()));
            if is_done || from.value.is_empty() {
                continue;
            }
            let (mut severity, message) = directives::cost(&from.section, &from.key);
            let is_off = ["no", "false", "off", "0"].contains(&from.value.as_str());
            let mut message = message.to_owned();
            match from.key.as_str() {
                "OOMPolicy" if from.value == "continue" => severity = Harmless,
                "Conflicts" if from.value == "shutdown.target" => severity = Harmless,
                "PartOf" if are_targets(&from.value) => severity = Harmless,
                "IgnoreSIGPIPE" | "Delegate" | "DynamicUser" | "SendSIGHUP" if is_off => {
                    severity = Harmless;
                }
                _ if severity == Hardening && is_off => severity = Harmless,
                _ => {}
            }
            if severity == Harmless && is_off && from.section == "Service" {
                "it is off here, too".clone_into(&mut message);
            }
            self.find(severity, &from, message);
        }
    }
}

/// What the service of a unit is called; `None`: it is a unit of another kind.
fn imported_name(unit: &str) -> Option<String> {
    unit.strip_suffix(".service").map(values::service_name)
}

/// Targets neither stop nor restart here.
fn are_targets(names: &str) -> bool {
    let mut names = names.split_ascii_whitespace();
    names.all(|name| name.ends_with(".target"))
}

/// systemd's names of exit statuses that are used for this: sysexits.h.
const EXIT_NAMES: &[(&str, u8)] = &[
    ("SUCCESS", 0),
    ("FAILURE", 1),
    ("USAGE", 64),
    ("DATAERR", 65),
    ("NOINPUT", 66),
    ("NOUSER", 67),
    ("NOHOST", 68),
    ("UNAVAILABLE", 69),
    ("SOFTWARE", 70),
    ("OSERR", 71),
    ("OSFILE", 72),
    ("CANTCREAT", 73),
    ("IOERR", 74),
    ("TEMPFAIL", 75),
    ("PROTOCOL", 76),
    ("NOPERM", 77),
    ("CONFIG", 78),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Measure {
    Bytes,
    Count,
    Seconds,
    Microseconds,
}

#[rustfmt::skip]
const LIMITS: &[(&str, &str, Measure)] = &[
    ("LimitCPU", "cpu", Measure::Seconds),
    ("LimitFSIZE", "fsize", Measure::Bytes),
    ("LimitDATA", "data", Measure::Bytes),
    ("LimitSTACK", "stack", Measure::Bytes),
    ("LimitCORE", "core", Measure::Bytes),
    ("LimitRSS", "rss", Measure::Bytes),
    ("LimitNOFILE", "nofile", Measure::Count),
    ("LimitAS", "as", Measure::Bytes),
    ("LimitNPROC", "nproc", Measure::Count),
    ("LimitMEMLOCK", "memlock", Measure::Bytes),
    ("LimitLOCKS", "locks", Measure::Count),
    ("LimitSIGPENDING", "sigpending", Measure::Count),
    ("LimitMSGQUEUE", "msgqueue", Measure::Bytes),
    ("LimitNICE", "nice", Measure::Count),
    ("LimitRTPRIO", "rtprio", Measure::Count),
    ("LimitRTTIME", "rttime", Measure::Microseconds),
];

/// `4096`, `1024:infinity`, `64M`, `10min`.
fn limit(text: &str, name: &str, unit: Measure) -> Option<Value> {
    let one = |text: &str| -> Option<Value> {
        let text = text.trim();
        if text == "infinity" {
            // The kernel has no unlimited number of files; systemd takes the most that it has.
            return Some(match name {
                "nofile" => json!(1_048_576),
                _ => json!("unlimited"),
            });
        }
        Some(match unit {
            Measure::Bytes => values::size_value(values::size(text)?),
            Measure::Count => json!(text.parse::<u32>().ok()?),
            Measure::Seconds => {
                let span = values::time_span(text)??;
                json!(format!("{}s", span.as_secs()))
            }
            Measure::Microseconds => match text.parse::<u64>() {
                Ok(micros) => json!(format!("{micros}us")),
                Err(_) => values::duration(values::time_span(text)??),
            },
        })
    };
    match text.split_once(':') {
        Some((soft, hard)) => Some(json!([one(soft)?, one(hard)?])),
        None => one(text),
    }
}

/// `CAP_A CAP_B`, or all but these: `~CAP_A`. An error is a name that is none.
fn capabilities(given: &[Assignment]) -> Result<Vec<&'static str>, String> {
    let mut set = BTreeSet::new();
    for (index, from) in given.iter().enumerate() {
        let (names, inverted) = match from.value.strip_prefix('~') {
            Some(names) => (names, true),
            None => (from.value.as_str(), false),
        };
        let mut named = BTreeSet::new();
        for name in names.split_ascii_whitespace() {
            let known = CAPABILITIES
                .iter()
                .position(|it| it.eq_ignore_ascii_case(name));
            named.insert(known.ok_or_else(|| name.to_owned())?);
        }
        match (inverted, index) {
            (true, 0) => {
                set = (0..CAPABILITIES.len())
                    .filter(|it| !named.contains(it))
                    .collect()
            }
            (true, _) => set.retain(|it| !named.contains(it)),
            (false, _) => set.extend(named),
        }
    }
    let name = |number: &usize| CAPABILITIES.get(*number).copied();
    Ok(set.iter().filter_map(name).collect())
}

/// The signal of a plain `kill` of the main process.
fn kill_signal(words: &[String]) -> Option<String> {
    let [program, options @ .., pid] = words else {
        return None;
    };
    let program = program.trim_start_matches(['-', '+', '!', ':', '@']);
    let name = Path::new(program).file_name().map(PathBuf::from);
    if name != Some("kill".into()) || !["$MAINPID", "${MAINPID}"].contains(&pid.as_str()) {
        return None;
    }
    match options {
        [] => Some("SIGTERM".to_owned()),
        [option] => values::signal(option.trim_start_matches('-').trim_start_matches("s=")),
        [option, signal] if ["-s", "--signal", "-n"].contains(&option.as_str()) => {
            values::signal(signal)
        }
        _ => None,
    }
}

/// The same, and that of `start-stop-daemon --stop --retry QUIT/5`.
fn stop_signal(words: &[String]) -> Option<String> {
    if let Some(signal) = kill_signal(words) {
        return Some(signal);
    }
    let program = words.first()?.trim_start_matches(['-', '+', '!', ':', '@']);
    let is_it = Path::new(program).file_name() == Some("start-stop-daemon".as_ref());
    if !is_it || !words.iter().any(|word| word == "--stop" || word == "-K") {
        return None;
    }
    let retry = words
        .iter()
        .position(|word| word == "--retry" || word == "-R")?;
    let schedule = words.get(retry + 1)?;
    values::signal(schedule.split('/').next()?)
}

//! systemd's service units: reads each, has its parts converted by the files below `systemd/`, and reports
//! what nothing has become of.

mod command;
mod confinement;
mod held;
mod relations;
mod restart;
mod steps;
mod stop;
mod surroundings;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Severity::{self, Approximated, Hardening, Harmless, Lost};
use super::directives::is_condition;
use super::sockets;
use super::unit::{self, Assignment};
use super::words::{INSTANCE, Specifiers};
use super::{Host, Imported, Service, Text, directives, values};
pub(super) use steps::Prefixed;

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
        // One that it needs may be another service's, which is imported with it.
        let is_own = |socket: &&Text| {
            let of = sockets::service_of(socket);
            let is_there = |name: &str| names.contains(&values::service_name(name));
            of == text.name || !of.strip_suffix(".service").is_some_and(is_there)
        };
        unit.sockets = text.sockets.iter().filter(is_own).collect();
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
            let message = "it is not a section, a KEY=VALUE or a comment, and is left out";
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
        self.conflicts(names);
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

/// Targets neither stop nor restart here.
fn are_targets(names: &str) -> bool {
    let mut names = names.split_ascii_whitespace();
    names.all(|name| name.ends_with(".target"))
}

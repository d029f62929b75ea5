//! Other units that a unit names.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Unit;
use crate::import::Severity::{Approximated, Harmless, Lost};
use crate::import::values;
use crate::import::words::INSTANCE;

impl Unit<'_> {
    /// Other units by their names.
    pub(super) fn relations(
        &mut self,
        names: &BTreeSet<String>,
        before: &mut Vec<(String, String, String)>,
    ) {
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
                    let stem = other
                        .strip_suffix(".service")
                        .or_else(|| self.stands_for(other, names));
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
                            let message = format!("{other} is not a service, and is left out");
                            self.find(Harmless, &from, message);
                        }
                    }
                }
            }
        }
    }

    /// The name of the service that another one's socket stands for: what needs that socket needs who
    /// answers there.
    fn stands_for<'o>(&self, other: &'o str, names: &BTreeSet<String>) -> Option<&'o str> {
        let stem = other.strip_suffix(".socket")?;
        let name = values::service_name(stem);
        let is_passed = self.sockets.iter().any(|it| it.name == other);
        (!is_passed && name != self.service.name && names.contains(&name)).then_some(stem)
    }

    /// Services that it must not run beside, where they are.
    pub(super) fn conflicts(&mut self, names: &BTreeSet<String>) {
        for from in self.all("Unit", "Conflicts") {
            let mut others = from
                .value
                .split_ascii_whitespace()
                .filter_map(imported_name);
            let (severity, message) = match others.find(|name| names.contains(name)) {
                Some(name) => (
                    Approximated,
                    format!("services do not exclude each other: {name} is not stopped for it"),
                ),
                None => (Harmless, "none of these is here".to_owned()),
            };
            self.find(severity, &from, message);
        }
    }

    /// What is started when it has failed, by a hook; and what else it is reloaded with.
    pub(super) fn consequences(&mut self, names: &BTreeSet<String>) {
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
}

/// What the service of a unit is called; `None`: it is a unit of another kind.
fn imported_name(unit: &str) -> Option<String> {
    unit.strip_suffix(".service").map(values::service_name)
}

//! What a unit of systemd runs: `Type=` and `ExecStart=`.

use std::path::Path;

use serde_json::json;

use super::{Unit, steps};
use crate::import::Severity::{Approximated, Harmless, Lost};
use crate::import::unit::Assignment;
use crate::import::{daemons, words};

impl Unit<'_> {
    /// `Type=`, and what follows from it.
    pub(super) fn kind(&mut self) -> String {
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
            "notify" | "notify-reload" => self.notifies(given),
            "dbus" => self.bus_name(&given),
            "idle" => self.find(Harmless, &given, "it does not wait for others' output"),
            _ => self.find(Lost, &given, "this type is not known"),
        }
        kind
    }

    /// Ready when it says so. Unless `NotifyAccess=all`, its main process has to.
    fn notifies(&mut self, kind: Assignment) {
        let given = self.last("Service", "NotifyAccess");
        let ready = match given.as_ref().map(|it| it.value.as_str()) {
            Some("all") => json!({"notify": true}),
            _ => json!({"notify": true, "access": "main"}),
        };
        match &given {
            Some(from) if from.value == "exec" => {
                let message = "its main process alone may notify, and its other commands may not";
                self.find(Approximated, from, message);
            }
            Some(from) if from.value == "none" => {
                let message = "its main process may notify, as with systemd: it is of that type";
                self.find(Harmless, from, message);
            }
            _ => {}
        }
        let from: Vec<_> = [kind].into_iter().chain(given).collect();
        self.set("ready", ready, &from);
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
    pub(super) fn command(&mut self, kind: &str) -> Vec<(Assignment, Vec<String>)> {
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
            let message = "systemd takes several commands only of a oneshot; only this one is kept";
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
}

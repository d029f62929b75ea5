//! How a unit's service is stopped and reloaded, and its timeouts.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Unit, steps};
use crate::import::Severity::{Approximated, Harmless, Lost};
use crate::import::unit::Assignment;
use crate::import::{values, words};

/// How long systemd waits before SIGKILL if a unit says nothing.
const DEFAULT_STOP_TIMEOUT: &str = "90s";

impl Unit<'_> {
    pub(super) fn stop(&mut self, kind: &str) {
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
        let lines = self.commands(&all);
        let mut commands = Vec::new();
        for (from, words) in &lines {
            match steps::prefixed(words.clone()) {
                Some(prefixed) => commands.push(prefixed),
                None => self.find(Lost, from, "it cannot be read"),
            }
        }
        let Some(only) = commands.last() else {
            return;
        };
        let signal = kill_signal(&only.words);
        if signal.is_some() && kind == "oneshot" {
            let message = "a oneshot that is done has no process to send a signal to";
            return self.find(Harmless, &last, message);
        }
        if let (Some(signal), [_]) = (&signal, commands.as_slice()) {
            return self.set("reload", signal.clone(), &all);
        }
        let is_path = |it: &steps::Prefixed| it.words.first().is_some_and(|it| it.starts_with('/'));
        if !commands.iter().all(is_path) {
            let message = "it has no reload of its own; run the command, or restart it";
            return self.find(Approximated, &last, message);
        }
        let as_root = self.steps_are_roots();
        let reload = match lines.as_slice() {
            [(from, words)] => self.step(from, words.clone(), as_root),
            _ => Some(self.reload_script(&last, &commands)),
        };
        if let Some(reload) = reload {
            self.set("reload", reload, &all);
        }
    }

    /// Several commands as one.
    fn reload_script(&mut self, last: &Assignment, commands: &[steps::Prefixed]) -> Value {
        let script = words::script(commands);
        let privileged = commands.iter().filter(|it| it.is_privileged).count();
        if self.steps_are_roots() || privileged == commands.len() {
            return self.as_root(script);
        }
        if privileged > 0 && self.has_user() {
            let message = "all its commands run as its user, for one shell runs them";
            self.find(Approximated, last, message);
        }
        json!(script)
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

    pub(super) fn timeouts(&mut self, kind: &str) {
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
                None => self.find(Lost, &from, "this is not a time span"),
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
        // All but a signal.
        let reload = self.service.get("reload");
        let takes_time = keys.iter().any(|key| self.service.get(key).is_some())
            || is_forking
            || reload.is_some_and(|it| !it.is_string());
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
                None => self.find(Lost, &from, "this is not a time span"),
            }
        }
        if let Some(from) = self.last("Service", "WatchdogSec") {
            match values::time_span(&from.value) {
                Some(Some(span)) if span.is_zero() => {}
                Some(Some(span)) if !is_forking && self.host.knows("watchdog = \"30s\"") => {
                    self.set("watchdog", values::duration(span), &[from]);
                }
                _ => self.find(Lost, &from, "nothing checks whether it still works"),
            }
        }
    }
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
pub(super) fn stop_signal(words: &[String]) -> Option<String> {
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

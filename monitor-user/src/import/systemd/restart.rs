//! When a unit's service is restarted: `Restart=`, the start limit, and what counts as success.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Unit;
use crate::import::Severity::{Approximated, Lost};
use crate::import::unit::Assignment;
use crate::import::values;

impl Unit<'_> {
    pub(super) fn restart(&mut self, kind: &str) {
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
            None => self.find(Lost, &from, "this is not a time span"),
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
                    self.find(Lost, &last, "this is not a number or time span");
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
                        None => self.find(Lost, from, format!("{word} is not an exit status")),
                    },
                }
            }
        }
        given
    }
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

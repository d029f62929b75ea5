//! What a unit's service runs in: user, environment, limits, directories and output.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Unit;
use crate::import::Severity::{Approximated, Harmless, Lost};
use crate::import::unit::Assignment;
use crate::import::{tmpfiles, values, words};

impl Unit<'_> {
    /// The user that it names, unless that is root.
    pub(super) fn user(&self) -> Option<String> {
        let mut users = self.assignments.iter().rev();
        let last = users.find(|it| it.section == "Service" && it.key == "User")?;
        let is_root = ["", "root", "0"].contains(&last.value.as_str());
        (!is_root).then(|| last.value.clone())
    }

    /// Whether the service runs as another user than root.
    pub(super) fn has_user(&self) -> bool {
        self.user().is_some() && !self.starts_as_root
    }

    /// Directories below /run that systemd-tmpfiles makes for its package.
    pub(super) fn made_at_boot(&mut self) {
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

    pub(super) fn identity(&mut self) {
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
                None => self.find(Lost, &from, "this is not a mask"),
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
            None => self.find(Lost, &from, "this is not such a number"),
        }
    }

    pub(super) fn environment(&mut self) {
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
                    _ => self.find(Lost, from, "a word of it is not NAME=VALUE"),
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

    pub(super) fn limits(&mut self) {
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

    pub(super) fn directories(&mut self) {
        let mut table = Map::new();
        let mut origins = Vec::new();
        // The modes that they all have, and those of single ones.
        let mut mode = None;
        let mut own_modes = Vec::new();
        for (key, into) in [
            ("RuntimeDirectory", "runtime"),
            ("StateDirectory", "state"),
            ("LogsDirectory", "logs"),
            ("CacheDirectory", "cache"),
        ] {
            let given = self.all("Service", key);
            let given_mode = self.last("Service", &format!("{key}Mode"));
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
            let value = given_mode.as_ref().map_or("0755", |it| it.value.as_str());
            let bits = u32::from_str_radix(value, 8).unwrap_or(0o755);
            let common = *mode.get_or_insert(bits & 0o777);
            if bits != common {
                let parent = parent_of(into);
                let paths = names.iter().map(|name| format!("{parent}/{name}"));
                own_modes.extend(paths.map(|path| (format!("{bits:04o}"), path)));
            }
            origins.extend(given);
            origins.extend(given_mode);
        }
        let Some(mode) = mode else {
            return;
        };
        if mode != 0o755 {
            table.insert("mode".to_owned(), json!(format!("{mode:04o}")));
        }
        match self.user().filter(|_| self.starts_as_root) {
            Some(user) => self.directories_of(&user, &table, mode, &origins),
            None => self.set("directories", Value::Object(table), &origins),
        }
        if !own_modes.is_empty() {
            self.set_modes(own_modes, &origins);
        }
    }

    /// Directories of which each has a mode of its own, by what runs behind the steps that make them.
    fn set_modes(&mut self, modes: Vec<(String, String)>, origins: &[Assignment]) {
        let before = self.service.get("before_start").and_then(Value::as_array);
        let before = before.cloned().unwrap_or_default();
        let (mut steps, others): (Vec<Value>, Vec<Value>) = before.into_iter().partition(is_making);
        for (mode, path) in modes {
            steps.push(self.as_root(vec!["/bin/chmod".to_owned(), mode, path]));
        }
        steps.extend(others);
        let entries = self.service.entries.iter();
        let mut entries = entries.filter(|entry| entry.key == "before_start");
        let kept = entries
            .next()
            .map_or(Vec::new(), |entry| entry.origins.clone());
        let origins = origins.iter().map(Assignment::origin);
        let origins: Vec<String> = origins.chain(kept).collect();
        self.service
            .set("before_start", Value::Array(steps), &origins);
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

    pub(super) fn output(&mut self) {
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
}

/// Whether it makes a directory, or gives it away.
fn is_making(step: &Value) -> bool {
    let text = step.to_string();
    text.contains("/usr/bin/install\"") || text.contains("/bin/chown\"")
}

/// Where the directories of that kind are.
fn parent_of(kind: &str) -> &'static str {
    match kind {
        "runtime" => "/run",
        "state" => "/var/lib",
        "logs" => "/var/log",
        _ => "/var/cache",
    }
}

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

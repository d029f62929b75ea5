//! What is kept from a unit's service: capabilities, processors, paths, and more than its share of resources.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Unit;
use crate::import::Severity::{Approximated, Hardening, Harmless, Lost};
use crate::import::unit::Assignment;
use crate::import::{values, words};
use crate::model::CAPABILITIES;

impl Unit<'_> {
    pub(super) fn rights(&mut self) {
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
                        self.find(Lost, from, format!("{name} is not a capability"));
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
        let is_number = |text: &str| text.parse::<u16>().is_ok_and(|number| number < 8192);
        let is_range = |word: &String| word.split('-').all(is_number);
        match cpus.last() {
            Some(from) if !words.iter().all(is_range) => {
                // "numa", for instance.
                let message = "only processors by their numbers can be named: it runs on all";
                self.find(Approximated, from, message);
            }
            _ if !words.is_empty() => self.set("cpu_affinity", json!(words), &cpus),
            _ => {}
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
    pub(super) fn sandbox(&mut self) {
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

    pub(super) fn cgroup(&mut self) {
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
                None if ["99%", "100%"].contains(&from.value.as_str()) => {
                    self.find(Harmless, &from, "the host has no more than that");
                }
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

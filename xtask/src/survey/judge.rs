//! What became of a directive, by the service file that was made of its unit. Knows nothing of how the
//! importer works: only what a key of a service file means.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fates::{FATES, Fate};

/// How a unit has come over; a later one is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    #[default]
    Whole,
    Unprotected,
    Different,
    Lossy,
}

/// A unit, and what was made of it.
pub(super) struct Case<'a> {
    pub(super) assignments: &'a [(String, String)],
    /// Its service file.
    pub(super) made: &'a Value,
    /// Its own name, `x.service`.
    pub(super) unit: &'a str,
    /// The service files of the others that were imported with it, by their units' names.
    pub(super) others: &'a [(String, Value)],
    /// Units that are there as services, `x.service`.
    pub(super) known: &'a BTreeSet<String>,
    /// Those that this host cannot have as long as the package is not installed, for lack of a user: what
    /// names them is left out.
    pub(super) absent: &'a BTreeSet<String>,
}

impl Case<'_> {
    /// What became of one directive.
    pub(super) fn fate_of(&self, key: &str, value: &str) -> Class {
        let found = FATES.iter().find(|(name, _)| *name == key);
        let fate = found.map_or(Fate::Loss, |(_, fate)| *fate);
        let is_off = ["no", "false", "off", "0", ""].contains(&value);
        let carried = |holds: bool, else_: Class| if holds { Class::Whole } else { else_ };
        match fate {
            _ if key.starts_with("X-") || value.is_empty() => Class::Whole,
            Fate::Nothing => Class::Whole,
            Fate::OffOnly if is_off => Class::Whole,
            Fate::Protection if is_off => Class::Whole,
            Fate::Protection => carried(self.protects(key, value), Class::Unprotected),
            Fate::Different | Fate::OffOnly => Class::Different,
            Fate::Loss => Class::Lossy,
            Fate::Looked => self.look(key, value),
            Fate::Key(name) => carried(self.has_value(name, value), Class::Lossy),
        }
    }

    fn get(&self, name: &str) -> &Value {
        &self.made[name]
    }

    fn text(&self, name: &str) -> &str {
        self.get(name).as_str().unwrap_or_default()
    }

    fn last(&self, key: &str) -> Option<&str> {
        let mut of_key = self
            .assignments
            .iter()
            .rev()
            .filter(|(name, _)| name == key);
        of_key.next().map(|(_, value)| value.as_str())
    }

    pub(super) fn is_oneshot(&self) -> bool {
        self.last("Type") == Some("oneshot")
    }

    /// Whether its command is one of root's, which changes to its user itself.
    fn starts_as_root(&self) -> bool {
        let start = self.last("ExecStart").unwrap_or_default();
        let signs = start.split('/').next().unwrap_or_default();
        signs.contains(['+', '!']) && !signs.contains("!!")
    }

    /// A key with that value, whatever its form: the text, the number, the time, the size.
    fn has_value(&self, name: &str, value: &str) -> bool {
        let found = self.get(name);
        let text = match found {
            Value::String(text) => text.clone(),
            Value::Null => return false,
            other => other.to_string(),
        };
        if text == value || signal(value).is_some() && signal(&text) == signal(value) {
            return true;
        }
        if let (Some(ours), Some(theirs)) = (seconds(&text), seconds(value)) {
            return same_time(ours, theirs);
        }
        if let (Some(ours), Some(theirs)) = (size(&text), size(value)) {
            return ours == theirs;
        }
        // A mode or a mask.
        let octal = |text: &str| u32::from_str_radix(text, 8).ok();
        octal(&text).is_some() && octal(&text) == octal(value)
    }

    /// The words of an array, or a text as the only one.
    fn words(&self, name: &str) -> Vec<String> {
        words_in(self.get(name))
    }

    #[expect(clippy::too_many_lines, reason = "a line a directive")]
    fn look(&self, key: &str, value: &str) -> Class {
        let carried = |holds: bool, else_: Class| if holds { Class::Whole } else { else_ };
        match key {
            "Type" => self.kind(value),
            "After"
            | "Before"
            | "Wants"
            | "Requires"
            | "Requisite"
            | "BindsTo"
            | "PartOf"
            | "ReloadPropagatedFrom"
            | "OnFailure"
            | "Conflicts" => self.relation(key, value),
            "StartLimitBurst" | "StartLimitIntervalSec" | "StartLimitInterval" => {
                carried(self.start_limit(key, value), Class::Lossy)
            }
            "ExecStart" | "ExecStartPre" | "ExecStartPost" | "ExecStop" | "ExecStopPost"
            | "ExecReload" | "ExecCondition" => carried(self.command(key, value), Class::Lossy),
            "Restart" => self.restart(value),
            "RestartSec" if self.last("Restart").is_none() => Class::Whole,
            "RestartSec" => carried(self.has_value("restart_delay", value), Class::Lossy),
            "TimeoutSec" | "TimeoutStopSec" => {
                let time = if seconds(value) == Some(0.0) {
                    "infinity"
                } else {
                    value
                };
                let never = self.last("SendSIGKILL") == Some("no");
                carried(never || self.has_value("stop_timeout", time), Class::Lossy)
            }
            "TimeoutStartSec" => self.start_timeout(value),
            "NotifyAccess" => self.notify_access(value),
            "KillMode" => match value {
                "control-group" => carried(
                    ["", "group"].contains(&self.text("stop_mode")),
                    Class::Lossy,
                ),
                "mixed" => carried(self.text("stop_mode") == "mixed", Class::Lossy),
                "process" => carried(self.text("stop_mode") == "main", Class::Lossy),
                _ => Class::Different,
            },
            "SendSIGKILL" => carried(
                value != "no" || self.text("stop_timeout") == "infinity",
                Class::Lossy,
            ),
            "PIDFile" => {
                let is_forking = self.text("type") == "forking";
                let path = self.text("pid_file");
                let is_same = path == value || path.strip_prefix("/run/") == Some(value);
                carried(
                    !is_forking
                        || is_same
                        || path.ends_with(value.rsplit('/').next().unwrap_or(value)),
                    Class::Lossy,
                )
            }
            "RemainAfterExit" => {
                let is_on = ["yes", "true", "on", "1"].contains(&value);
                carried(!is_on || self.is_oneshot(), Class::Different)
            }
            "User" | "Group" => {
                let name = key.to_ascii_lowercase();
                carried(
                    self.starts_as_root() || self.has_value(&name, value),
                    Class::Lossy,
                )
            }
            "WorkingDirectory" => {
                let path = value.trim_start_matches('-');
                carried(self.text("working_directory") == path, Class::Lossy)
            }
            "Environment" => self.environment(value),
            "EnvironmentFile" => {
                let files = self.words("environment_file");
                let has = |it: &String| it == value || value.contains('%');
                carried(files.iter().any(has), Class::Lossy)
            }
            "PassEnvironment" => self.all_words_in("pass_environment", value),
            "SuccessExitStatus" => self.statuses("success_exit_status", value),
            "RestartPreventExitStatus" => self.statuses("restart_prevent_exit_status", value),
            "StandardOutput" | "StandardError" => self.output(key, value),
            "StandardInput" => carried(value == "null", Class::Lossy),
            "TasksMax" if value == "infinity" => Class::Whole,
            // Of all that the host can have.
            "TasksMax" if ["99%", "100%"].contains(&value) => Class::Whole,
            "TasksMax" => carried(self.has_value("pids_max", value), Class::Different),
            "MemoryMax" | "MemoryLimit" | "MemoryHigh" if value == "infinity" => Class::Whole,
            "MemoryMax" | "MemoryLimit" => {
                carried(self.has_value("memory_max", value), Class::Different)
            }
            "MemoryHigh" => carried(self.has_value("memory_high", value), Class::Different),
            "AmbientCapabilities" => self.all_words_in("capabilities", value),
            "CPUAffinity" => self.all_words_in("cpu_affinity", value),
            "NoNewPrivileges" => carried(
                value == "no" || self.get("no_new_privileges") == true,
                Class::Unprotected,
            ),
            "WatchdogSec" if ["0", "infinity"].contains(&value) => Class::Whole,
            "WatchdogSec" => carried(self.has_value("watchdog", value), Class::Lossy),
            "OOMPolicy" => carried(value == "continue", Class::Different),
            "FileDescriptorStoreMax" => {
                let most = value.parse::<u64>().unwrap_or(0).min(512);
                let is_there = self.get("fd_store").as_u64() == Some(most);
                carried(most == 0 || self.is_oneshot() || is_there, Class::Different)
            }
            _ => self.look_at_group(key, value),
        }
    }

    /// Directives of which there are several of a kind.
    fn look_at_group(&self, key: &str, value: &str) -> Class {
        let carried = |holds: bool, else_: Class| if holds { Class::Whole } else { else_ };
        if key == "ConditionVirtualization" {
            let conditions = self.get("conditions");
            let is_there = conditions.get("container").is_some()
                || conditions.get("virtual_machine").is_some();
            return carried(is_there, Class::Different);
        }
        if key.starts_with("Condition") || key.starts_with("Assert") {
            let text = self.get("conditions").to_string().to_ascii_lowercase();
            let subject = value.trim_start_matches(['|', '!']).to_ascii_lowercase();
            let subject = match key {
                "ConditionACPower" => "ac_power".to_owned(),
                _ => subject,
            };
            let negated = [format!("!{subject}"), format!("! -e {subject}")];
            let signed = !value.contains('!') || negated.iter().any(|it| text.contains(it));
            let is_there = subject.contains('%') || text.contains(&subject) && signed;
            return carried(
                is_there && !self.get("conditions").is_null(),
                Class::Different,
            );
        }
        if let Some(limit) = key.strip_prefix("Limit") {
            let is_there = !self.get("limits")[limit.to_ascii_lowercase()].is_null();
            return carried(is_there, Class::Lossy);
        }
        if let Some(kind) = key.strip_suffix("DirectoryMode") {
            let mode = self.get("directories")["mode"].as_str().unwrap_or("0755");
            let octal = |text: &str| u32::from_str_radix(text, 8).ok();
            let text = self.get("before_start").to_string();
            let has_own = text.contains(&format!("{:04o}", octal(value).unwrap_or(0)));
            let is_used = self.last(&format!("{kind}Directory")).is_some();
            return carried(
                !is_used || octal(mode) == octal(value) || has_own,
                Class::Different,
            );
        }
        if let Some(kind) = key.strip_suffix("Directory") {
            let names = words_in(&self.get("directories")[kind.to_ascii_lowercase()]);
            let steps = self.get("before_start").to_string();
            let has = |name: &str| {
                let name = name
                    .split(':')
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches('/');
                names.iter().any(|it| it == name) || steps.contains(&format!("/{name}\""))
            };
            return carried(
                value
                    .split_whitespace()
                    .all(|it| it.contains('%') || has(it)),
                Class::Lossy,
            );
        }
        Class::Lossy
    }

    fn kind(&self, value: &str) -> Class {
        let ready = self.get("ready");
        let carried = |holds: bool, else_: Class| if holds { Class::Whole } else { else_ };
        match value {
            "simple" | "exec" => Class::Whole,
            "oneshot" => carried(self.text("type") == "oneshot", Class::Lossy),
            "notify" | "notify-reload" => carried(ready["notify"] == true, Class::Lossy),
            "dbus" => carried(!ready.is_null(), Class::Different),
            "forking" => carried(
                self.text("type") == "forking" || self.stays_in_foreground(),
                Class::Lossy,
            ),
            "idle" => Class::Different,
            _ => Class::Lossy,
        }
    }

    /// Whether a daemon was given an option for it, or another one taken away.
    fn stays_in_foreground(&self) -> bool {
        let words = |text: &str| -> BTreeSet<String> {
            let words = text.split(|c: char| c.is_whitespace() || "\"',[]".contains(c));
            let words = words.filter(|word| !word.is_empty());
            words
                .map(|word| word.trim_start_matches('-').to_owned())
                .collect()
        };
        let mut ours = words(&self.words("command").join(" "));
        for shell in ["/bin/sh", "c", "set", "f;", "exec"] {
            ours.remove(shell);
        }
        !ours.is_empty() && ours != words(self.last("ExecStart").unwrap_or_default())
    }

    /// Units that are services here have to be named; of others nothing is there to wait for.
    fn relation(&self, key: &str, value: &str) -> Class {
        let mut class = Class::Whole;
        for other in value.split_whitespace() {
            let Some(name) = other.strip_suffix(".service") else {
                if ["Requires", "Requisite", "BindsTo"].contains(&key) {
                    class = class.max(self.socket(other));
                }
                continue;
            };
            let named = |made: &Value, keys: &[&str], name: &str| {
                keys.iter()
                    .any(|key| words_in(&made[*key]).iter().any(|it| it == name))
            };
            let is_known = self.known.contains(other);
            let orders = ["after", "requires", "binds", "part_of"];
            let own = self.unit.strip_suffix(".service").unwrap_or(self.unit);
            class = class.max(match key {
                _ if other == self.unit || self.absent.contains(other) => Class::Whole,
                // What is not there does not run beside it.
                "Conflicts" if is_known => Class::Different,
                "After" if is_known && !named(self.made, &orders, name) => {
                    // The other one comes after this one already.
                    let mut theirs = self.others.iter().filter(|(unit, _)| unit == other);
                    match theirs.any(|(_, made)| named(made, &orders, own)) {
                        true => Class::Different,
                        false => Class::Lossy,
                    }
                }
                "Before" if is_known => {
                    let mut theirs = self.others.iter().filter(|(unit, _)| unit == other);
                    match theirs.all(|(_, made)| named(made, &orders, own)) {
                        true => Class::Whole,
                        false => Class::Different,
                    }
                }
                "Wants" if is_known && !named(self.made, &["wants", "requires", "binds"], name) => {
                    Class::Lossy
                }
                "Requires" | "Requisite" if !named(self.made, &["requires", "binds"], name) => {
                    Class::Different
                }
                "BindsTo" if !named(self.made, &["binds"], name) => Class::Different,
                "PartOf" | "ReloadPropagatedFrom"
                    if !named(self.made, &["part_of", "requires", "binds"], name) =>
                {
                    match key {
                        "PartOf" => Class::Lossy,
                        _ => Class::Different,
                    }
                }
                "OnFailure" if !named(self.made, &["on_failed"], name) => Class::Different,
                _ => Class::Whole,
            });
        }
        class
    }

    /// A socket unit that it needs: its own one is passed to it, and another one stands for its service.
    fn socket(&self, other: &str) -> Class {
        let Some(name) = other
            .strip_suffix(".socket")
            .filter(|_| other != "syslog.socket")
        else {
            return Class::Whole;
        };
        let service = format!("{name}.service");
        let named = ["requires", "binds"]
            .iter()
            .any(|key| self.words(key).iter().any(|it| it == name));
        match () {
            () if named || !self.get("listen").is_null() => Class::Whole,
            () if self.absent.contains(&service) => Class::Whole,
            () => Class::Lossy,
        }
    }

    /// Whether two units need each other in a circle, which no order can have.
    pub(super) fn is_circle(&self, key: &str, value: &str) -> bool {
        let needs = ["Requires", "BindsTo", "After"].contains(&key);
        let own = self.unit.strip_suffix(".service").unwrap_or(self.unit);
        needs
            && value.split_whitespace().any(|other| {
                let mut theirs = self.others.iter().filter(|(unit, _)| unit == other);
                theirs.any(|(_, made)| {
                    let keys = ["requires", "binds", "part_of", "after"];
                    keys.iter()
                        .any(|key| words_in(&made[*key]).iter().any(|it| it == own))
                })
            })
    }

    fn start_limit(&self, key: &str, value: &str) -> bool {
        let limit = self.get("start_limit");
        let interval = self
            .last("StartLimitIntervalSec")
            .or(self.last("StartLimitInterval"));
        let is_none =
            interval.and_then(seconds) == Some(0.0) || self.last("StartLimitBurst") == Some("0");
        if is_none {
            return limit.is_null();
        }
        match key {
            "StartLimitBurst" => limit["burst"].as_u64() == value.parse().ok(),
            _ => {
                let ours = limit["interval"].as_str().and_then(seconds);
                ours.zip(seconds(value))
                    .is_some_and(|(ours, theirs)| same_time(ours, theirs))
            }
        }
    }

    fn restart(&self, value: &str) -> Class {
        let restart = self.text("restart");
        match value {
            "on-success" | "on-watchdog" => Class::Different,
            // What is done does not start again by itself.
            "always" if self.is_oneshot() => Class::Different,
            "no" if self.is_oneshot() && restart.is_empty() => Class::Whole,
            value if restart == value => Class::Whole,
            _ => Class::Lossy,
        }
    }

    /// It limits what may take its time before a service is up.
    fn start_timeout(&self, value: &str) -> Class {
        let time = if seconds(value) == Some(0.0) {
            "infinity"
        } else {
            value
        };
        let reload = self.get("reload");
        let takes_time = ["ready", "before_start", "after_start"]
            .iter()
            .any(|key| !self.get(key).is_null())
            || self.text("type") == "forking"
            || !(reload.is_null() || reload.is_string());
        match (takes_time, self.is_oneshot()) {
            _ if self.has_value("start_timeout", time) => Class::Whole,
            (_, true) if time == "infinity" => Class::Whole,
            (_, true) => Class::Different,
            (true, false) => Class::Lossy,
            (false, false) => Class::Whole,
        }
    }

    fn notify_access(&self, value: &str) -> Class {
        let notifies = ["notify", "notify-reload"].contains(&self.last("Type").unwrap_or_default());
        let access = self.get("ready")["access"].as_str().unwrap_or("all");
        match (notifies, value) {
            (true, "all") if access == "all" => Class::Whole,
            (true, "main" | "none") if access == "main" => Class::Whole,
            (true, "exec") => Class::Different,
            (true, _) => Class::Lossy,
            // Nothing waits for it, but a watchdog.
            (false, "all") => Class::Whole,
            (false, _) if self.get("watchdog").is_null() => Class::Whole,
            (false, _) => Class::Different,
        }
    }

    /// Each program of a command line is in what has become of it, and none is missing.
    fn command(&self, key: &str, value: &str) -> bool {
        let places: &[&str] = match key {
            "ExecStart" | "ExecStartPre" | "ExecStartPost" if self.is_oneshot() => {
                &["command", "before_start"]
            }
            "ExecStart" => &["command"],
            "ExecStartPre" => &["before_start"],
            "ExecStartPost" => &["after_start"],
            "ExecStop" => &["before_stop", "stop_signal"],
            "ExecStopPost" => &["after_stop"],
            "ExecReload" => &["reload"],
            _ => &["conditions"],
        };
        let line = value.trim_start_matches(['-', '@', ':', '+', '!', '|']);
        let program = line.split_whitespace().next().unwrap_or_default();
        let program = program.trim_matches(['"', '\'']);
        if program.contains('%') {
            return places.iter().any(|place| !self.get(place).is_null());
        }
        // A signal to the main process, by whatever program.
        let is_signal = !self
            .text(if key == "ExecStop" {
                "stop_signal"
            } else {
                "reload"
            })
            .is_empty()
            && (line.contains("kill") || line.contains("start-stop-daemon"));
        if ["ExecStop", "ExecReload"].contains(&key) && is_signal {
            return true;
        }
        // systemd has nothing to tell of what a oneshot's process gets that has none.
        if key == "ExecReload" && self.is_oneshot() && line.contains("kill") {
            return true;
        }
        let text: String = places
            .iter()
            .map(|place| self.get(place).to_string())
            .collect();
        let ours = text.matches(program).count();
        let of_kind = |name: &str| {
            name == key
                || self.is_oneshot()
                    && key.starts_with("ExecStart")
                    && name.starts_with("ExecStart")
        };
        let theirs = self.assignments.iter().filter(|(name, value)| {
            let line = value.trim_start_matches(['-', '@', ':', '+', '!', '|']);
            of_kind(name) && line.split_whitespace().next() == Some(program)
        });
        ours >= theirs.count()
    }

    fn environment(&self, value: &str) -> Class {
        let table = self.get("environment");
        let mut class = Class::Whole;
        for word in split(value) {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            let ours = table[name].as_str();
            let is_plain = !value.contains(['%', '\\']);
            class = class.max(match ours {
                Some(ours) if ours == value || !is_plain => Class::Whole,
                // A later line sets it otherwise.
                Some(ours) if self.sets(name, ours) => Class::Whole,
                Some(_) => Class::Lossy,
                // For systemd, the file that sets it wins.
                None if !self.get("environment_file").is_null() => Class::Different,
                None => Class::Lossy,
            });
        }
        class
    }

    /// Whether one of its lines sets that variable so.
    fn sets(&self, name: &str, value: &str) -> bool {
        let lines = self.assignments.iter();
        let mut lines = lines.filter(|(key, _)| key == "Environment");
        let word = format!("{name}={value}");
        lines.any(|(_, line)| split(line).contains(&word))
    }

    fn all_words_in(&self, name: &str, value: &str) -> Class {
        let ours = self.words(name);
        let has = |word: &str| ours.iter().any(|it| it.eq_ignore_ascii_case(word));
        match value
            .split([' ', '\t', ','])
            .filter(|it| !it.is_empty())
            .all(has)
        {
            true => Class::Whole,
            false => Class::Lossy,
        }
    }

    fn statuses(&self, name: &str, value: &str) -> Class {
        let ours = self.words(name);
        let mut class = Class::Whole;
        for word in value.split_whitespace() {
            let is_there = match word.parse::<u8>() {
                Ok(_) => ours.iter().any(|it| it == word),
                Err(_) if signal(word).is_some() => {
                    // An end by a signal has no status of its own here.
                    class = class.max(Class::Different);
                    true
                }
                // One of the names of sysexits.h.
                Err(_) => !ours.is_empty(),
            };
            class = class.max(if is_there { Class::Whole } else { Class::Lossy });
        }
        class
    }

    fn output(&self, key: &str, value: &str) -> Class {
        let own = match key {
            "StandardOutput" => "stdout",
            _ => "stderr",
        };
        let ours = self.text(own);
        let (kind, path) = value.split_once(':').unwrap_or((value, ""));
        let is_so = match kind {
            "null" => {
                ours == "null"
                    || own == "stderr" && ours.is_empty() && self.text("stdout") == "null"
            }
            "append" => {
                ours == path || own == "stderr" && ours.is_empty() && self.text("stdout") == path
            }
            "file" | "truncate" => return Class::Different,
            // systemd's standard input is /dev/null.
            "inherit" if own == "stdout" => ours == "null",
            "inherit" => ours.is_empty(),
            "journal" | "syslog" | "kmsg" => {
                ["", "inherit"].contains(&ours)
                    && (own == "stdout" || !ours.is_empty() || self.text("stdout").is_empty())
            }
            "journal+console" | "syslog+console" | "kmsg+console" => return Class::Different,
            _ => return Class::Lossy,
        };
        match is_so {
            true => Class::Whole,
            false => Class::Lossy,
        }
    }

    /// Whether the service has that protection of systemd's.
    fn protects(&self, key: &str, value: &str) -> bool {
        let sandbox = self.get("sandbox");
        let (read_only, writable) = (
            words_in(&sandbox["read_only"]),
            words_in(&sandbox["writable"]),
        );
        let bare = |path: &str| path.trim_start_matches(['-', '+']).to_owned();
        let has = |of: &[String], path: &str| of.iter().any(|it| bare(it) == bare(path));
        let paths = || {
            value
                .split_whitespace()
                .map(|path| path.trim_matches(['"', '\'']))
        };
        match key {
            "ProtectSystem" => match value {
                "strict" => has(&read_only, "/"),
                "full" => ["/usr", "/boot", "/efi", "/etc"]
                    .iter()
                    .all(|path| has(&read_only, path)),
                _ => ["/usr", "/boot", "/efi"]
                    .iter()
                    .all(|path| has(&read_only, path)),
            },
            "ProtectHome" if value == "read-only" => has(&read_only, "/home"),
            "ProtectHome" => sandbox["protect_home"] == true,
            "PrivateTmp" => sandbox["private_tmp"] == true,
            "PrivateDevices" => sandbox["private_devices"] == true,
            "PrivateNetwork" => sandbox["network"] == false,
            "ReadOnlyPaths" | "ReadOnlyDirectories" => paths()
                .all(|path| path.contains('%') || has(&read_only, path) || has(&writable, path)),
            // Where nothing is read-only, all is writable.
            "ReadWritePaths" | "ReadWriteDirectories" => {
                read_only.is_empty()
                    || paths().all(|path| path.contains('%') || has(&writable, path))
            }
            "CapabilityBoundingSet" => {
                self.get("user").is_null() && !self.get("capabilities").is_null()
            }
            _ => false,
        }
    }
}

/// The texts and numbers in a value, at whatever depth.
fn words_in(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(words_in).collect(),
        Value::Object(table) => table.values().flat_map(words_in).collect(),
        other => vec![other.to_string()],
    }
}

/// Words, with quotes of both kinds around them or within.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn signal(text: &str) -> Option<String> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "+-".contains(c));
    let is_known =
        is_name && name.starts_with(|c: char| c.is_ascii_uppercase()) && name != "SUCCESS";
    let names = [
        "HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "ABRT", "WINCH", "PIPE", "CONT",
        "STOP", "SEGV", "ALRM", "IO", "TRAP",
    ];
    (is_known && (names.contains(&name) || name.starts_with("RTM"))).then(|| name.to_owned())
}

/// "1min 30s", "500ms", "90": seconds.
fn seconds(text: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() || !rest.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let after = after.trim_start();
        let end = after
            .find(|c: char| c.is_ascii_digit() || c.is_whitespace())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let factor = match unit {
            "us" | "usec" => 1e-6,
            "ms" | "msec" => 1e-3,
            "" | "s" | "sec" | "second" | "seconds" => 1.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 604_800.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = after.trim_start();
    }
    Some(total)
}

fn same_time(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-6
}

/// "512M", "512MiB": bytes.
fn size(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim_end_matches("iB") {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class_of(unit: &[(&str, &str)], made: &Value, key: &str) -> Class {
        let assignments: Vec<_> = unit
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let known = BTreeSet::from(["db.service".to_owned(), "app.service".to_owned()]);
        let others = [("app.service".to_owned(), json!({"after": ["web"]}))];
        let case = Case {
            assignments: &assignments,
            made,
            unit: "web.service",
            others: &others,
            known: &known,
            absent: &BTreeSet::new(),
        };
        let (_, value) = unit.iter().find(|(name, _)| *name == key).unwrap();
        case.fate_of(key, value)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a line a case")]
    fn a_key_with_another_value_does_not_count() {
        let cases = [
            (
                "RestartSec",
                "5s",
                json!({"restart_delay": "5s"}),
                json!({"restart_delay": "6s"}),
            ),
            (
                "TimeoutStopSec",
                "1min 30s",
                json!({"stop_timeout": "90s"}),
                json!({"stop_timeout": "10s"}),
            ),
            (
                "KillSignal",
                "QUIT",
                json!({"stop_signal": "SIGQUIT"}),
                json!({"stop_signal": "SIGTERM"}),
            ),
            (
                "User",
                "www",
                json!({"user": "www"}),
                json!({"user": "root"}),
            ),
            (
                "UMask",
                "077",
                json!({"umask": "0077"}),
                json!({"umask": "0022"}),
            ),
            (
                "MemoryMax",
                "1G",
                json!({"memory_max": "1024MiB"}),
                json!({"memory_max": "1MiB"}),
            ),
            ("After", "db.service", json!({"after": ["db"]}), json!({})),
            ("Before", "app.service", json!({}), Value::Null),
            (
                "TasksMax",
                "5",
                json!({"pids_max": 5}),
                json!({"pids_max": 6}),
            ),
            (
                "StandardOutput",
                "null",
                json!({"stdout": "null"}),
                json!({}),
            ),
            (
                "ExecStartPre",
                "/bin/a -x",
                json!({"before_start": [["/bin/a", "-x"]]}),
                json!({"before_start": [["/bin/b"]]}),
            ),
            (
                "Environment",
                "A=1 \"B=x y\"",
                json!({"environment": {"A": "1", "B": "x y"}}),
                json!({"environment": {"A": "1"}}),
            ),
            (
                "ProtectSystem",
                "strict",
                json!({"sandbox": {"read_only": ["/"]}}),
                json!({"sandbox": {"private_tmp": true}}),
            ),
            (
                "StartLimitBurst",
                "3",
                json!({"start_limit": {"burst": 3}}),
                json!({}),
            ),
            (
                "PIDFile",
                "/run/x.pid",
                json!({"type": "forking", "pid_file": "/run/x.pid"}),
                json!({"type": "forking"}),
            ),
        ];
        for (key, value, good, bad) in cases {
            let unit = [("Restart", "always"), (key, value)];
            assert_eq!(class_of(&unit, &good, key), Class::Whole, "{key}");
            if !bad.is_null() {
                assert!(class_of(&unit, &bad, key) > Class::Whole, "{key}");
            }
        }
    }

    #[test]
    fn commands_are_counted() {
        let unit = [("ExecStartPre", "/bin/a 1"), ("ExecStartPre", "-/bin/a 2")];
        let one = json!({"before_start": [["/bin/a", "1"]]});
        let both = json!({"before_start": [["/bin/a", "1"], ["/bin/a", "2"]]});
        assert_eq!(class_of(&unit, &one, "ExecStartPre"), Class::Lossy);
        assert_eq!(class_of(&unit, &both, "ExecStartPre"), Class::Whole);
    }
}

//! Commands around the run of a unit's service, and its conditions.

use serde_json::{Map, Value, json};

use super::Unit;
use super::stop::stop_signal;
use crate::import::Severity::{Approximated, Harmless, Lost};
use crate::import::unit::Assignment;
use crate::import::{values, words};
use crate::model::CAPABILITIES;

/// Directives whose commands become those of a key.
const STEPS: &[(&str, &str)] = &[
    ("ExecStartPre", "before_start"),
    ("ExecStartPost", "after_start"),
    ("ExecStop", "before_stop"),
    ("ExecStopPost", "after_stop"),
];

/// Conditions, without the `Condition` or `Assert` before them, and the keys that look at the same.
const CONDITIONS: &[(&str, &str)] = &[
    ("PathExists", "path_exists"),
    ("PathExistsGlob", "path_matches"),
    ("PathIsDirectory", "path_is_directory"),
    ("PathIsMountPoint", "path_is_mount_point"),
    ("FileIsExecutable", "file_is_executable"),
    ("FileNotEmpty", "file_not_empty"),
    ("DirectoryNotEmpty", "directory_not_empty"),
];

/// A command line, and what the signs before it say.
pub(crate) struct Prefixed {
    pub(crate) words: Vec<String>,
    /// Its failure does not matter.
    pub(crate) is_ignored: bool,
    /// It runs with all rights.
    pub(crate) is_privileged: bool,
    /// `$` means itself.
    pub(crate) is_literal: bool,
    /// It had another name for itself, which is left out.
    pub(crate) had_name: bool,
}

/// Takes the signs off; `None`: nothing is behind them.
pub(super) fn prefixed(mut words: Vec<String>) -> Option<Prefixed> {
    let first = words.first_mut()?;
    // It would matter on kernels alone that have no ambient capabilities.
    let line = first.strip_prefix("!!").unwrap_or(first).to_owned();
    let program = line.trim_start_matches(['-', '@', ':', '+', '!', '|']);
    let signs = line.strip_suffix(program).unwrap_or_default();
    *first = program.to_owned();
    let had_name = signs.contains('@') && words.len() > 1;
    if had_name {
        words.remove(1);
    }
    let is_there = words.first().is_some_and(|first| !first.is_empty());
    is_there.then(|| Prefixed {
        words,
        is_ignored: signs.contains('-'),
        is_privileged: signs.contains(['+', '!']),
        is_literal: signs.contains(':'),
        had_name,
    })
}

/// With the variables of respawn's, the pid of the main process among them.
pub(super) fn with_pid(mut prefixed: Prefixed) -> words::Command {
    for word in &mut prefixed.words {
        if word == "$MAINPID" {
            "${MAINPID}".clone_into(word);
        }
    }
    words::command(&prefixed.words, prefixed.is_literal)
}

impl Unit<'_> {
    /// Commands before and after start and stop. `earlier`: those of a oneshot that come before its last.
    pub(super) fn steps(&mut self, kind: &str, earlier: &[(Assignment, Vec<String>)]) {
        let as_root = self.steps_are_roots();
        for (directive, key) in STEPS {
            // Those are among the commands of a oneshot.
            if kind == "oneshot" && *directive == "ExecStartPost" {
                continue;
            }
            let given = self.all("Service", directive);
            let mut commands = self.commands(&given);
            let mut steps = Vec::new();
            let mut origins: Vec<Assignment> = Vec::new();
            if *key == "before_start" {
                self.configuration(&mut steps, &mut origins);
            }
            if *key == "before_start" {
                commands.extend(earlier.iter().cloned());
            }
            if *directive == "ExecStop"
                && kind != "oneshot"
                && let [(from, words)] = commands.as_slice()
                && let Some(signal) = stop_signal(words)
            {
                let from = from.clone();
                self.set("stop_signal", signal, &[from]);
                continue;
            }
            for (from, words) in commands {
                steps.extend(self.step(&from, words, as_root));
                if !origins.contains(&from) {
                    origins.push(from);
                }
            }
            if !steps.is_empty() {
                self.set(key, Value::Array(steps), &origins);
            }
        }
        self.conditions(as_root);
    }

    /// Whether its user is that of its main command alone.
    pub(super) fn steps_are_roots(&mut self) -> bool {
        let as_root = self.last("Service", "PermissionsStartOnly");
        as_root.is_some_and(|it| values::boolean(&it.value))
    }

    /// Directories below /etc are made by a command: `directories` has none there.
    fn configuration(&mut self, steps: &mut Vec<Value>, origins: &mut Vec<Assignment>) {
        let mode = self.last("Service", "ConfigurationDirectoryMode");
        let mode = mode.map_or_else(|| "0755".to_owned(), |it| it.value);
        for from in self.all("Service", "ConfigurationDirectory") {
            for name in from.value.split_ascii_whitespace() {
                let path = format!("/etc/{name}");
                let words = ["/usr/bin/install", "-d", "-m", &mode, &path];
                steps.push(self.as_root(words.map(str::to_owned).into()));
            }
            origins.push(from);
        }
    }

    /// A command that needs all rights.
    pub(super) fn as_root(&self, words: Vec<String>) -> Value {
        match self.has_user() {
            true => json!({ "run": words, "user": "root" }),
            false => json!(words),
        }
    }

    /// All commands of these lines, each with its line.
    pub(super) fn commands(&mut self, given: &[Assignment]) -> Vec<(Assignment, Vec<String>)> {
        let mut all = Vec::new();
        for from in given {
            match words::split_commands(&from.value) {
                Ok(commands) => {
                    all.extend(commands.into_iter().map(|words| (from.clone(), words)));
                }
                Err(why) => self.find(Lost, from, format!("it cannot be read: {why}")),
            }
        }
        all
    }

    /// One command, as the keys have it.
    pub(super) fn step(
        &mut self,
        from: &Assignment,
        words: Vec<String>,
        as_root: bool,
    ) -> Option<Value> {
        let prefixed = prefixed(words)?;
        if prefixed.had_name {
            self.find(Harmless, from, "its argv[0] is its program");
        }
        let (is_ignored, is_privileged) = (prefixed.is_ignored, prefixed.is_privileged);
        let command = with_pid(prefixed);
        if command.has_shell {
            let message =
                "a shell splits its variables into words; quotes within them have no meaning";
            self.find(Approximated, from, message);
        }
        let has_all_rights = is_privileged || as_root;
        let user = match self.user() {
            // Those of a service that starts as root are its user's all the same.
            Some(user) if self.starts_as_root => Some(user).filter(|_| !has_all_rights),
            Some(_) => has_all_rights.then(|| "root".to_owned()),
            None => None,
        };
        if !is_ignored && user.is_none() {
            return Some(json!(command.words));
        }
        let mut step = Map::new();
        step.insert("run".to_owned(), json!(command.words));
        if let Some(user) = user {
            step.insert("user".to_owned(), json!(user));
        }
        if is_ignored {
            step.insert("ignore_failure".to_owned(), json!(true));
        }
        Some(Value::Object(step))
    }

    fn conditions(&mut self, as_root: bool) {
        let mut table = Map::new();
        let mut origins = Vec::new();
        let choices = self.choices();
        for (name, key) in CONDITIONS {
            let mut paths = Vec::new();
            for kind in ["Condition", "Assert"] {
                let given = self.all("Unit", &format!("{kind}{name}"));
                if kind == "Assert"
                    && let Some(from) = given.first()
                {
                    let message = "if that does not hold, it is skipped, and has not failed";
                    self.find(Approximated, from, message);
                }
                for from in given {
                    // `|`: one of these is enough.
                    let is_choice = from.value.starts_with('|') && self.has_choice(&from);
                    let path = from.value.trim_start_matches('|');
                    let is_path = path.trim_start_matches('!').starts_with('/');
                    match (is_choice, is_path) {
                        (true, true) if choices.is_some() => origins.push(from),
                        (true, _) => {
                            let message = "all conditions have to hold, and this one is left out";
                            self.find(Approximated, &from, message);
                        }
                        (false, false) => {
                            self.find(Lost, &from, "this is not an absolute path");
                        }
                        (false, true) => {
                            paths.push(json!(path));
                            origins.push(from);
                        }
                    }
                }
            }
            match paths.as_slice() {
                [] => {}
                [path] => _ = table.insert((*key).to_owned(), path.clone()),
                _ => _ = table.insert((*key).to_owned(), Value::Array(paths)),
            }
        }
        self.conditions_of_the_host(&mut table, &mut origins);
        if let Some(script) = choices {
            let words = ["/bin/sh", "-c", &script].map(str::to_owned);
            table.insert("command".to_owned(), self.as_root(words.into()));
        }
        let given = self.all("Service", "ExecCondition");
        for (from, words) in self.commands(&given) {
            if table.contains_key("command") {
                self.find(Lost, &from, "only the first such command is run");
                continue;
            }
            if let Some(step) = self.step(&from, words, as_root) {
                table.insert("command".to_owned(), step);
                origins.push(from);
            }
        }
        if !table.is_empty() {
            self.set("conditions", Value::Object(table), &origins);
        }
    }

    /// What the host is, and how its kernel was started.
    fn conditions_of_the_host(
        &mut self,
        table: &mut Map<String, Value>,
        origins: &mut Vec<Assignment>,
    ) {
        for from in self.all("Unit", "ConditionVirtualization") {
            let (key, holds) = match from.value.as_str() {
                "container" => ("container", true),
                "!container" => ("container", false),
                "vm" => ("virtual_machine", true),
                "!vm" => ("virtual_machine", false),
                "no" | "false" | "0" => {
                    table.insert("virtual_machine".to_owned(), json!(false));
                    ("container", false)
                }
                _ => {
                    let message = "only container and vm are told apart; it starts even if that does not hold";
                    self.find(Approximated, &from, message);
                    continue;
                }
            };
            table.insert(key.to_owned(), json!(holds));
            origins.push(from);
        }
        for (key, into) in [
            ("ConditionACPower", "ac_power"),
            ("ConditionCapability", "capability"),
        ] {
            let Some(from) = self.last("Unit", key) else {
                continue;
            };
            let value = match into {
                "ac_power" => json!(values::boolean(&from.value)),
                _ => match CAPABILITIES
                    .iter()
                    .find(|name| name.eq_ignore_ascii_case(&from.value))
                {
                    Some(name) => json!(name),
                    // With a `!`, or one that is not known.
                    None => {
                        self.find(Approximated, &from, "it starts even if that does not hold");
                        continue;
                    }
                },
            };
            table.insert(into.to_owned(), value);
            origins.push(from);
        }
        let given = self.all("Unit", "ConditionKernelCommandLine");
        let words: Vec<_> = given.iter().map(|from| json!(from.value)).collect();
        if !words.is_empty() {
            table.insert("kernel_command_line".to_owned(), Value::Array(words));
            origins.extend(given);
        }
    }

    /// Conditions of which one is enough, as one command of a shell; `None`: it has none, or none that a shell
    /// could look at, or has a command already.
    fn choices(&self) -> Option<String> {
        let of_unit = self.assignments.iter();
        let of_unit = of_unit.filter(|it| super::is_condition(&it.section, &it.key));
        let choices: Vec<&Assignment> = of_unit.filter(|it| it.value.starts_with('|')).collect();
        let has_command = self.assignments.iter().any(|it| it.key == "ExecCondition");
        if choices.len() < 2 || has_command {
            return None;
        }
        let test = |from: &Assignment| {
            let kind = from.key.strip_prefix("Condition").unwrap_or(&from.key);
            let option = match kind {
                "PathExists" => "-e",
                "PathIsDirectory" => "-d",
                "FileNotEmpty" => "-s",
                "FileIsExecutable" => "-x",
                "DirectoryNotEmpty" => "",
                _ => return None,
            };
            let path = from.value.trim_start_matches('|');
            let (sign, path) = match path.strip_prefix('!') {
                Some(path) => ("! ", path),
                None => ("", path),
            };
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
            if !path.starts_with('/') || !path.chars().all(is_plain) {
                return None;
            }
            Some(match option {
                "" => format!("{sign}[ -n \"$(ls -A {path} 2>/dev/null)\" ]"),
                option => format!("[ {sign}{option} {path} ]"),
            })
        };
        let tests: Option<Vec<String>> = choices.into_iter().map(test).collect();
        Some(tests?.join(" || "))
    }

    /// Whether there is another condition of which one is enough.
    fn has_choice(&self, condition: &Assignment) -> bool {
        let others = self.assignments.iter().filter(|it| *it != condition);
        let mut choices = others.filter(|it| super::is_condition(&it.section, &it.key));
        choices.any(|it| it.value.starts_with('|'))
    }
}

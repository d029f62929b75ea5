//! A service as it is in effect, key by key: each value, and where it is from. The other direction
//! of `service`: what this says of a spec, put into a file, comes to the same spec.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::listen;
use super::log;
use super::service::{KINDS, RESTART_MODES, RESTARTS, STOP_MODES};
use super::value::INFINITY;
use super::{AGENT_FILE, Config, DropIns};
use super::{autostart, confinement, environment, limits, steps};
use crate::model::{Check, Hook, NotifyAccess, Output, Probe, Ready, Reload, Spec};
use crate::text;

/// The lines of the keys that a file has for one service, or for the agent; of a key in a table that
/// of `table.key`.
pub(crate) type Lines = BTreeMap<String, usize>;

/// What is known of a service from its file and the agent's; nothing of one that is in neither.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// The service's file; of an instance, its template's.
    pub(crate) file: Option<String>,
    /// What is merged into that, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) drop_ins: Vec<String>,
    /// Its program's absolute path, as `command` led to it.
    pub(crate) program: Option<String>,
    /// Why its file cannot be used, if it cannot: then there are no settings.
    pub(crate) unusable: Option<String>,
    /// Every key that there is.
    pub(crate) settings: Vec<Setting>,
}

/// One key of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) key: String,
    /// As it could stand in the file; null where there is none, and where it is hidden.
    pub(crate) value: Value,
    /// No file has it.
    pub(crate) default: bool,
    /// The file that has it, ...
    pub(crate) file: Option<String>,
    /// ... and the key's line, from 1, as it was when the file was loaded.
    pub(crate) line: Option<usize>,
    /// The same of the entries of a table that the file has; it may have others by default.
    #[serde(default, skip_serializing_if = "Lines::is_empty")]
    pub(crate) entries: Lines,
    /// The files of those entries that are in another one than `file`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) entry_files: BTreeMap<String, String>,
    /// Its value is not for whoever asked.
    pub(crate) hidden: bool,
}

/// What is said of a key.
type Reading = fn(&Spec) -> Value;

/// Every key of a service, in the order in which they are read.
#[rustfmt::skip]
const READINGS: &[(&str, Reading)] = &[
    ("command", |s| json!(s.exec.arguments)),
    ("user", |s| json!(s.exec.identity.as_ref().map(|identity| identity.uid))),
    ("group", |s| json!(s.exec.identity.as_ref().map(|identity| identity.gid))),
    ("working_directory", |s| path(&s.exec.working_directory)),
    (ENVIRONMENT, |s| json!(s.exec.environment)),
    ("environment_file", |s| environment::describe_files(&s.exec.environment_file)),
    ("pass_environment", |s| json!(s.exec.pass_environment)),
    ("umask", |s| json!(format!("{:04o}", s.exec.umask.unwrap_or(0o022)))),
    ("nice", |s| json!(s.exec.nice)),
    ("limits", |s| limits::describe(&s.exec.limits)),
    ("oom_score_adj", |s| json!(s.exec.confinement.oom_score_adj)),
    ("no_new_privileges", |s| json!(s.exec.confinement.no_new_privileges)),
    ("capabilities", |s| confinement::describe_capabilities(&s.exec.confinement)),
    ("cpu_affinity", |s| confinement::describe_cpus(&s.exec.confinement)),
    ("directories", |s| confinement::describe_directories(&s.exec.confinement)),
    ("sandbox", |s| confinement::describe_sandbox(&s.exec.confinement)),
    ("memory_max", |s| json!(s.exec.confinement.cgroup.memory_max)),
    ("memory_high", |s| json!(s.exec.confinement.cgroup.memory_high)),
    ("cpu_max", |s| confinement::describe_percent(s.exec.confinement.cgroup.cpu_max)),
    ("pids_max", |s| json!(s.exec.confinement.cgroup.pids_max)),
    ("io_weight", |s| json!(s.exec.confinement.cgroup.io_weight)),
    ("type", |s| word(KINDS, s.policy.kind)),
    ("pid_file", |s| s.policy.pid_file.as_deref().map_or(Value::Null, path)),
    ("autostart", |s| json!(s.relations.autostart)),
    ("after", |s| json!(s.relations.after)),
    ("part_of", |s| json!(s.relations.part_of)),
    ("requires", |s| json!(s.relations.requires)),
    ("binds", |s| json!(s.relations.binds)),
    ("wants", |s| json!(s.relations.wants)),
    ("restart", |s| word(RESTARTS, s.policy.restart)),
    ("restart_delay", |s| duration(s.policy.restart_delay)),
    ("restart_max_delay", |s| duration(s.policy.restart_max_delay)),
    ("stable_after", |s| duration(s.policy.stable_after)),
    ("start_limit", |s| start_limit(s)),
    ("success_exit_status", |s| json!(s.policy.success_exit_status)),
    ("restart_prevent_exit_status", |s| json!(s.policy.restart_prevent_exit_status)),
    ("stop_signal", |s| json!(s.policy.stop_signal)),
    ("stop_timeout", |s| duration(s.policy.stop_timeout)),
    ("stop_mode", |s| word(STOP_MODES, s.policy.stop_mode)),
    ("ready", |s| ready(s)),
    ("start_timeout", |s| duration(s.policy.start_timeout)),
    ("listen", listen::describe),
    ("fd_store", |s| json!(s.exec.fd_store)),
    ("watchdog", |s| s.exec.watchdog.map_or(Value::Null, duration)),
    ("check", |s| s.check.as_ref().map_or(Value::Null, check)),
    ("reload", |s| s.reload.as_ref().map_or(Value::Null, reload)),
    ("conditions", |s| steps::describe_conditions(&s.steps.conditions)),
    ("before_start", |s| steps::describe(&s.steps.before_start)),
    ("after_start", |s| steps::describe(&s.steps.after_start)),
    ("before_stop", |s| steps::describe(&s.steps.before_stop)),
    ("stop_command", |s| steps::describe_single(&s.steps.stop_command)),
    ("after_stop", |s| steps::describe(&s.steps.after_stop)),
    ("start_check", |s| duration(s.policy.start_check)),
    ("restart_mode", |s| word(RESTART_MODES, s.policy.restart_mode)),
    ("overlap", |s| json!(s.policy.overlap)),
    ("standby", |s| json!(s.policy.standby)),
    ("essential", |s| json!(s.policy.essential)),
    ("stdout", |s| output(&s.exec.stdout)),
    ("stderr", |s| output(&s.exec.stderr)),
    ("log", log::describe),
    ("last_output", |s| json!(s.policy.last_output)),
    ("on_exit", |s| hook(s.hooks.on_exit.as_ref())),
    ("on_restart", |s| hook(s.hooks.on_restart.as_ref())),
    ("on_failed", |s| hook(s.hooks.on_failed.as_ref())),
    ("hook_timeout", |s| hook_timeout(s)),
];

/// It may hold what is not for everybody.
const ENVIRONMENT: &str = "environment";

impl Config {
    /// One of the services, which were read from below `config_dir`; `None`: there is none of this
    /// name.
    pub(crate) fn describe(&self, service: &str, config_dir: &Path) -> Option<Description> {
        let spec = self.services.get(service)?;
        let file = self.files.get(service);
        let file = file.map(|file| file.to_string_lossy().into_owned());
        let unusable = spec.unusable.as_ref();
        let readings = READINGS.iter().filter(|_| unusable.is_none());
        let agent_file = config_dir.join(AGENT_FILE).to_string_lossy().into_owned();
        let none = Lines::new();
        let lines = self.lines.get(service).unwrap_or(&none);
        let no_drop_ins = DropIns::default();
        let drop_ins = self.drop_ins.get(service).unwrap_or(&no_drop_ins);
        let enabled = self.enabled.get(service);
        let enabled_in = config_dir.join(autostart::FILE);
        let settings = readings.map(|(key, reading)| {
            if let Some(line) = enabled.filter(|_| *key == "autostart") {
                return Setting {
                    key: (*key).to_owned(),
                    value: reading(spec),
                    default: false,
                    file: Some(enabled_in.to_string_lossy().into_owned()),
                    line: Some(*line),
                    entries: BTreeMap::new(),
                    entry_files: BTreeMap::new(),
                    hidden: false,
                };
            }
            let (own, general) = (lines.get(*key), self.agent_lines.get(*key));
            let below = lines.iter().filter_map(|(path, line)| {
                let (table, entry) = path.split_once('.')?;
                (table == *key).then(|| (entry.to_owned(), *line))
            });
            let own_file = |path: &str| match drop_ins.file_of(path) {
                Some(drop_in) => Some(drop_in.to_string_lossy().into_owned()),
                None => file.clone(),
            };
            let of_key = match (own, general) {
                (Some(_), _) => own_file(key),
                (None, Some(_)) => Some(agent_file.clone()),
                (None, None) => None,
            };
            let entries: Lines = below.collect();
            let of_entries = entries.keys().filter_map(|entry| {
                let file = own_file(&format!("{key}.{entry}"));
                let file = file.filter(|_| own_file(&format!("{key}.{entry}")) != of_key);
                Some((entry.clone(), file?))
            });
            Setting {
                key: (*key).to_owned(),
                value: reading(spec),
                default: own.or(general).is_none(),
                entry_files: of_entries.collect(),
                file: of_key,
                line: own.or(general).copied(),
                entries,
                hidden: false,
            }
        });
        let program = &spec.exec.program;
        Some(Description {
            settings: settings.collect(),
            program: unusable
                .is_none()
                .then(|| program.to_string_lossy().into_owned()),
            unusable: unusable.map(|unusable| unusable.why.clone()),
            drop_ins: drop_ins
                .files
                .iter()
                .map(|file| file.to_string_lossy().into_owned())
                .collect(),
            file,
        })
    }
}

impl Description {
    /// For somebody who may steer services, and not read their files.
    pub(crate) fn hide_secrets(&mut self) {
        for setting in &mut self.settings {
            if setting.key == ENVIRONMENT {
                setting.value = Value::Null;
                setting.entries.clear();
                setting.entry_files.clear();
                setting.hidden = true;
            }
        }
    }
}

impl Setting {
    /// The setting as it could stand in the file: a line, or for a table one for each of its entries.
    /// With each, its file and its line in that, unless it is a default. Nothing where there is no value.
    pub(crate) fn to_toml(&self) -> Vec<(String, Option<(&str, usize)>)> {
        let own = self.file.as_deref();
        match &self.value {
            Value::Null => Vec::new(),
            Value::Object(table) if !table.is_empty() => {
                let entry = |(key, value): (&String, &Value)| {
                    let text = format!("{}.{} = {}", self.key, toml_key(key), toml(value));
                    let file = self.entry_files.get(key).map(String::as_str).or(own);
                    (text, file.zip(self.entries.get(key).copied()))
                };
                table.iter().map(entry).collect()
            }
            value => vec![(
                format!("{} = {}", self.key, toml(value)),
                own.zip(self.line),
            )],
        }
    }
}

/// A string of JSON is one of TOML too.
pub(crate) fn toml(value: &Value) -> String {
    let joined = |items: Vec<String>| items.join(", ");
    match value {
        Value::Array(items) => format!("[{}]", joined(items.iter().map(toml).collect())),
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let entry =
                |(key, value): (&String, &Value)| format!("{} = {}", toml_key(key), toml(value));
            format!("{{ {} }}", joined(table.iter().map(entry).collect()))
        }
        simple => text::json(simple).unwrap_or_default(),
    }
}

/// A key of TOML.
pub(crate) fn toml_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !key.is_empty() && key.chars().all(bare) {
        true => key.to_owned(),
        false => toml(&json!(key)),
    }
}

fn path(path: &Path) -> Value {
    json!(path.to_string_lossy())
}

pub(super) fn word<T: PartialEq>(words: &[(&str, T)], value: T) -> Value {
    let found = words.iter().find(|(_, one)| *one == value);
    json!(found.map(|(word, _)| word))
}

pub(super) fn duration(duration: Duration) -> Value {
    if duration == INFINITY {
        return json!("infinity");
    }
    let signed = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    json!(format!("{signed:#}"))
}

fn start_limit(spec: &Spec) -> Value {
    let Some(limit) = spec.policy.start_limit else {
        return Value::Null;
    };
    json!({ "burst": limit.burst, "interval": duration(limit.interval) })
}

fn ready(spec: &Spec) -> Value {
    match &spec.exec.ready {
        Some(Ready::Fd(fd)) => json!({ "fd": fd }),
        Some(Ready::Notify) => match spec.policy.notify_access {
            NotifyAccess::All => json!({ "notify": true }),
            NotifyAccess::Main => json!({ "notify": true, "access": "main" }),
        },
        Some(Ready::Probe(it)) => {
            let (key, value) = probe(it);
            json!({ key: value })
        }
        None => Value::Null,
    }
}

fn probe(probe: &Probe) -> (&'static str, Value) {
    match probe {
        Probe::Tcp(address) => ("tcp", json!(address)),
        Probe::Unix(socket) => ("unix", path(socket)),
        Probe::Http(url) => ("http", json!(url)),
        Probe::File(file) => ("file", path(file)),
        Probe::Command { arguments, .. } => ("command", json!(arguments)),
    }
}

fn reload(reload: &Reload) -> Value {
    match reload {
        Reload::Signal(signal) => json!(signal),
        Reload::Notify(signal) => json!({"signal": signal, "notify": true}),
        Reload::Command(step) => steps::describe_one(step),
    }
}

fn check(check: &Check) -> Value {
    let (key, value) = probe(&check.probe);
    json!({
        key: value,
        "interval": duration(check.interval),
        "timeout": duration(check.timeout),
        "failures": check.failures,
    })
}

fn output(output: &Output) -> Value {
    match output {
        Output::Null => json!("null"),
        Output::Inherit => json!("inherit"),
        Output::File(file) => path(file),
        Output::Log => Value::Null,
    }
}

/// An empty array is none, whatever the agent's file says.
fn hook(hook: Option<&Hook>) -> Value {
    json!(hook.map_or(&[][..], |hook| &hook.arguments))
}

/// Null where there is no hook that could take long.
fn hook_timeout(spec: &Spec) -> Value {
    let hooks = &spec.hooks;
    let hooks = [&hooks.on_exit, &hooks.on_restart, &hooks.on_failed];
    let hook = hooks.into_iter().flatten().next();
    hook.map_or(Value::Null, |hook| duration(hook.timeout))
}

/// A table of what is not to be said in one word.
pub(super) fn table(entries: impl Iterator<Item = (&'static str, Value)>) -> Value {
    let entries = entries.map(|(key, value)| (key.to_owned(), value));
    Value::Object(entries.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::service::INSTANCES;
    use crate::config::{Surroundings, key_names, load};

    fn surroundings() -> Surroundings {
        let environment = [("PATH", "/usr/bin:/bin")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        Surroundings {
            environment: environment.into(),
            uid: nix::unistd::geteuid().as_raw(),
            ..Surroundings::default()
        }
    }

    fn config(agent: &str, web: &str) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("services")).unwrap();
        fs::write(dir.path().join("agent.toml"), agent).unwrap();
        fs::write(dir.path().join("services/web.toml"), web).unwrap();
        let config = load(dir.path(), &surroundings()).unwrap();
        (dir, config)
    }

    const FULL: &str = r#"command = ["sh", "-c", "echo \"$A\"\n", "ä"]
user = 65534
group = 4
working_directory = "/tmp"
environment = { A = "b\\\t\"", "x.y" = "" }
environment_file = "/etc/default/web"
pass_environment = ["TZ", "APP_*"]
umask = "0077"
nice = -5
limits = { nofile = [1024, 4096], core = "unlimited", cpu = "5s", rttime = "10us", stack = "8MiB" }
oom_score_adj = -500
no_new_privileges = true
capabilities = ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"]
cpu_affinity = [0, "2-3", 5]
directories = { runtime = ["web"], state = ["web", "web/x"], logs = ["web"], cache = ["a.b"], mode = "0750" }
memory_max = "512MiB"
memory_high = "400MiB"
cpu_max = "150%"
pids_max = 512
io_weight = 50
type = "oneshot"
autostart = false
after = ["a.b", "c"]
requires = []
binds = []
wants = ["c", "d"]
restart = "on-failure"
restart_delay = "1s 500ms"
restart_max_delay = "1h 3s"
stable_after = "0s"
start_limit = { burst = 5, interval = "1m" }
success_exit_status = [0, 3]
stop_signal = "SIGRTMIN+3"
stop_timeout = "infinity"
stop_mode = "main"
start_timeout = "1m 5s"
conditions = { path_exists = ["/a", "!/b"], path_matches = "/c*", container = false, kernel_command_line = "!x", command = ["true", "x"] }
before_start = [["true", "a b"], { run = ["/bin/true"], user = 0, timeout = "infinity", ignore_failure = true }]
before_stop = [["true"]]
stop_command = { run = ["true"], timeout = "3s" }
after_stop = [["true"], ["true"]]
start_check = "250us"
overlap = true
stdout = "/dev/null"
stderr = "null"
last_output = "4KiB"
on_exit = ["true", "x"]
on_restart = []
on_failed = ["/bin/true"]
hook_timeout = "3s"
"#;

    #[test]
    fn every_key_is_described() {
        let described = READINGS.iter().map(|(key, _)| *key);
        let described: Vec<&str> = described.chain([INSTANCES]).collect();
        assert_eq!(described, key_names().0);
    }

    /// A service with its default umask written out; what the environment file may not replace is
    /// not told apart from the rest of the environment.
    fn normal(config: &Config) -> Spec {
        let mut spec = Spec::clone(&config.services["web"]);
        spec.exec.umask.get_or_insert(0o022);
        for file in &mut spec.exec.environment_file {
            file.beneath.clear();
        }
        spec
    }

    /// Each value can be read, and means what it is the description of.
    #[test]
    fn what_is_described_comes_to_the_same_service() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let full = FULL.replace("/etc/default/web", file.path().to_str().unwrap());
        let ready = "command = [\"/bin/true\"]\nready = { fd = 7 }\nafter_start = [[\"true\"]]";
        let log = "command = [\"/bin/true\"]\nlog = { path = \"/tmp/x\", max_size = \"1MiB\", keep = 0, timestamps = false, max_age = \"24h\", compress = true, on_full = \"drop\" }";
        let others = ["syslog = true", "journald = \"/x\"", "stdout = true"];
        let others = others.map(|log| format!("command = [\"/bin/true\"]\nlog = {{ {log} }}"));
        let [syslog, journald, stdout] = &others;
        let listen = "command = [\"/bin/true\"]\nfd_store = 7\nlisten = [{ tcp = \"[::1]:80\", name = \"a\", backlog = 5, reuse_port = true, ipv6_only = false, freebind = true }, { udp = \"127.0.0.1:53\" }, { unix = \"/run/x\", mode = \"0660\", user = 7, group = 8 }, { unix_datagram = \"/run/y\" }, { unix_seqpacket = \"/run/z\" }]";
        for text in [
            &full,
            "command = [\"/bin/true\"]",
            ready,
            log,
            syslog,
            journald,
            stdout,
            listen,
        ] {
            let (dir, config) = config("", text);
            let description = config.describe("web", dir.path()).unwrap();
            let lines = description.settings.iter().flat_map(Setting::to_toml);
            let text: String = lines.map(|(line, _)| line + "\n").collect();
            let (_dir, again) = self::config("", &text);
            assert_eq!(normal(&again), normal(&config), "{text}");
        }
    }

    #[test]
    fn each_setting_says_where_it_is_from() {
        let agent = "max_hooks = 3\non_exit = [\"true\"]\nhook_timeout = \"7s\"\n";
        let (dir, config) = config(
            agent,
            "# web\ncommand = [\n\"true\"]\non_restart = [\"true\"]\n[environment]\nA = \"b\"",
        );
        let description = config.describe("web", dir.path()).unwrap();
        let of = |key: &str| {
            let mut settings = description.settings.iter();
            let setting = settings.find(|setting| setting.key == key).unwrap();
            let file = setting.file.as_ref();
            let file = file.map(|file| file.replace(dir.path().to_str().unwrap(), "DIR"));
            (setting.default, file, setting.line)
        };
        let in_file = |file: &str, line| (false, Some(format!("DIR/{file}")), Some(line));
        assert_eq!(of("command"), in_file("services/web.toml", 2));
        assert_eq!(of("on_restart"), in_file("services/web.toml", 4));
        assert_eq!(of("on_exit"), in_file("agent.toml", 2));
        assert_eq!(of("hook_timeout"), in_file("agent.toml", 3));
        assert_eq!(of("nice"), (true, None, None));
        let environment = description.settings.iter().flat_map(Setting::to_toml);
        let of = |name: &str| environment.clone().find(|(line, _)| line.starts_with(name));
        let (text, place) = of("environment.A ").unwrap();
        assert_eq!(
            (text.as_str(), place.unwrap().1),
            ("environment.A = \"b\"", 6)
        );
        assert_eq!(of("environment.PATH ").unwrap().1, None);
        assert_eq!(description.program.as_deref(), Some("/usr/bin/true"));
        assert_eq!(config.describe("db", dir.path()), None);
    }

    #[test]
    fn the_environment_can_be_kept_back() {
        let (dir, config) = config(
            "",
            "command = [\"true\"]\nenvironment = { KEY = \"secret\" }",
        );
        let mut description = config.describe("web", dir.path()).unwrap();
        assert!(json!(description).to_string().contains("secret"));
        description.hide_secrets();
        assert!(!json!(description).to_string().contains("secret"));
        let mut settings = description.settings.iter();
        let hidden = settings.find(|setting| setting.hidden).unwrap();
        assert_eq!((hidden.line, hidden.to_toml()), (Some(2), Vec::new()));
    }
}

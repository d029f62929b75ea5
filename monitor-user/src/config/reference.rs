//! What each key of a config file means, for people and for their editors: the tables in
//! `docs/service-files.md`, the manual pages of section 5, and the JSON schemas in `docs/`.
//!
//! Knows nothing of how a key is read; that its keys are those that are read is tested.

#[cfg(test)]
use serde_json::{Map, Value, json};

/// A file of the config.
pub(crate) struct File {
    /// Of its manual page, in section 5.
    pub(crate) page: &'static str,
    /// What it is, in a few words.
    pub(crate) title: &'static str,
    /// Where it is, and an example.
    pub(crate) synopsis: &'static [&'static str],
    /// In the order in which they are read.
    pub(crate) keys: &'static [Key],
    /// The keys without which the file says nothing.
    #[cfg(test)]
    required: &'static [&'static str],
}

/// A key.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    form: Form,
    /// In Markdown, as the next.
    pub(crate) default: &'static str,
    /// Links are relative to `docs/`.
    pub(crate) text: &'static str,
}

/// Which TOML values it takes, as far as an editor can check.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    /// One, or several.
    TextOrTexts,
    Number,
    Numbers,
    Boolean,
    Table,
    Tables,
    /// Of a user or group, or a signal.
    NameOrNumber,
    /// With a unit, or in bytes.
    Size,
    Choice(&'static [&'static str]),
    /// Of numbers and words.
    Mixed,
    /// A command, or a table with one.
    Step,
    Steps,
    SignalOrCommandOrTable,
    NumberOrTexts,
}

impl Key {
    /// Which values it takes, in words.
    pub(crate) fn form(&self) -> String {
        let words = match self.form {
            Form::Text => "a string",
            Form::Texts => "an array of strings",
            Form::TextOrTexts => "a string, or an array of them",
            Form::Number => "an integer",
            Form::Numbers => "an array of integers",
            Form::Boolean => "true or false",
            Form::Table => "a table",
            Form::Tables => "an array of tables",
            Form::NameOrNumber => "a name or a number",
            Form::Size => "a size",
            Form::Choice(words) => return format!("\"{}\"", words.join("\", \"")),
            Form::Mixed => "an array of integers and strings",
            Form::Step => "a command",
            Form::Steps => "an array of commands",
            Form::SignalOrCommandOrTable => "a signal, a command, or a table",
            Form::NumberOrTexts => "an integer, or an array of strings",
        };
        words.to_owned()
    }
}

#[cfg(test)]
impl Form {
    /// As JSON Schema has it.
    fn schema(self) -> Value {
        let texts = json!({"type": "array", "items": {"type": "string"}});
        let table = json!({"type": "object"});
        match self {
            Self::Text => json!({"type": "string"}),
            Self::Texts => texts,
            Self::TextOrTexts => json!({"anyOf": [{"type": "string"}, texts]}),
            Self::Number => json!({"type": "integer"}),
            Self::Numbers => json!({"type": "array", "items": {"type": "integer"}}),
            Self::Boolean => json!({"type": "boolean"}),
            Self::Table => table,
            Self::Tables => json!({"type": "array", "items": table}),
            Self::NameOrNumber | Self::Size => json!({"type": ["string", "integer"]}),
            Self::Choice(words) => json!({"enum": words}),
            Self::Mixed => json!({"type": "array", "items": {"type": ["string", "integer"]}}),
            Self::Step => json!({"anyOf": [texts, table]}),
            Self::Steps => json!({"type": "array", "items": {"anyOf": [texts, table]}}),
            Self::SignalOrCommandOrTable => {
                json!({"anyOf": [{"type": ["string", "integer"]}, texts, table]})
            }
            Self::NumberOrTexts => json!({"anyOf": [{"type": "integer"}, texts]}),
        }
    }
}

#[cfg(test)]
impl File {
    /// The table of its keys, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from("| key | default | meaning |\n|---|---|---|\n");
        for key in self.keys {
            let Key {
                name,
                default,
                text,
                ..
            } = key;
            let cell = |text: &str| text.replace('|', "\\|");
            table += &format!("| `{name}` | {} | {} |\n", cell(default), cell(text));
        }
        table
    }

    /// Its JSON Schema, by which editors complete and check it.
    pub(crate) fn schema(&self) -> Value {
        let properties: Map<String, Value> = self
            .keys
            .iter()
            .map(|key| {
                let mut schema = key.form.schema();
                let text = plain(key.text);
                let text = match key.default {
                    "" => text,
                    default => format!("{text}\n\nDefault: {}", plain(default)),
                };
                schema["description"] = Value::from(text);
                (key.name.to_owned(), schema)
            })
            .collect();
        json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": self.title,
            "type": "object",
            "properties": properties,
            "required": self.required,
            "additionalProperties": false,
        })
    }
}

/// Without links.
pub(crate) fn plain(markdown: &str) -> String {
    let mut plain = String::new();
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once('[') {
        let found = link
            .split_once("](")
            .and_then(|(text, after)| Some((text, after.split_once(')')?.1)))
            .filter(|(text, _)| !text.contains([']', '`']));
        plain.push_str(before);
        rest = match found {
            Some((text, after)) => {
                plain.push_str(text);
                after
            }
            None => {
                plain.push('[');
                link
            }
        };
    }
    plain + rest
}

/// A service's file.
pub(crate) const SERVICE: File = File {
    page: "respawn-service",
    title: "a service file of respawn",
    synopsis: &[
        "/etc/respawn/services/NAME.toml",
        "/etc/respawn/services/NAME@.toml",
        "/etc/respawn/services/NAME.toml.d/*.toml",
        "/usr/lib/respawn/services/NAME.toml",
    ],
    keys: SERVICE_KEYS,
    #[cfg(test)]
    required: &["command"],
};

/// The agent's own settings.
pub(crate) const AGENT: File = File {
    page: "respawn-agent.toml",
    title: "settings of the agent of respawn",
    synopsis: &["/etc/respawn/agent.toml"],
    keys: AGENT_KEYS,
    #[cfg(test)]
    required: &[],
};

/// In the order of the table.
#[rustfmt::skip]
const SERVICE_KEYS: &[Key] = &[
    Key {
        name: "command",
        form: Form::Texts,
        default: "",
        text: "The program and its arguments, as an array. No shell is involved. The first word is an absolute path, or a name that is looked up in the service's `PATH` when the config is read. In the other words, `${NAME}` stands for a variable of the service's environment. See [Variables in commands](environment.md#variables-in-commands)",
    },
    Key {
        name: "user",
        form: Form::NameOrNumber,
        default: "the agent's",
        text: "The user to run as, by name or number. The service gets the supplementary groups that the user has after a login. Users are looked up in `/etc/passwd` and `/etc/group`, and with `getent` if `/etc/nsswitch.conf` names other sources",
    },
    Key {
        name: "group",
        form: Form::NameOrNumber,
        default: "the user's",
        text: "The group to run as, by name or number",
    },
    Key {
        name: "working_directory",
        form: Form::Text,
        default: r#"`"/"`"#,
        text: "An absolute path",
    },
    Key {
        name: "environment",
        form: Form::Table,
        default: "the agent's `PATH` and `LANG`",
        text: r#"Variables, as a table `{ KEY = "value" }`"#,
    },
    Key {
        name: "environment_file",
        form: Form::TextOrTexts,
        default: "none",
        text: "The absolute path of a file with `KEY=VALUE` lines, with comments and quotes as in systemd but without continuation lines, or an array of several files. A later file overrides an earlier one. With `-` before its path, a file may be missing. The files are read at every start, so a change needs no reload. In a directory where others may write, a symbolic link is followed only to a file that `user` may read",
    },
    Key {
        name: "pass_environment",
        form: Form::Texts,
        default: "`[]`",
        text: r#"Names of variables that the service gets from the agent's own environment, such as `["TZ", "APP_*"]`. See [The environment of a service](environment.md)"#,
    },
    Key {
        name: "umask",
        form: Form::Text,
        default: r#"`"0022"`"#,
        text: "Octal, as a string",
    },
    Key {
        name: "nice",
        form: Form::Number,
        default: "the agent's",
        text: "−20 to 19",
    },
    Key {
        name: "limits",
        form: Form::Table,
        default: "the agent's",
        text: r#"A table of resource limits, with the names of `limits.conf`. Sizes such as `"64MiB"` for `as core data fsize memlock msgqueue rss stack`, durations for `cpu` (whole seconds) and `rttime`, integers for `locks nice nofile nproc rtprio sigpending`. One value, or `[soft, hard]`; `"unlimited"` for no limit"#,
    },
    Key {
        name: "oom_score_adj",
        form: Form::Number,
        default: "the agent's",
        text: "−1000 to 1000: which processes the kernel kills first when memory is short. See [Rights](environment.md#rights)",
    },
    Key {
        name: "no_new_privileges",
        form: Form::Boolean,
        default: "`false`",
        text: "`true`: no program that the service runs gains rights from its file (setuid, file capabilities). See [Rights](environment.md#rights)",
    },
    Key {
        name: "capabilities",
        form: Form::Texts,
        default: "the user's",
        text: r#"An array such as `["CAP_NET_BIND_SERVICE"]`: the service and all that it runs have these capabilities and no others. `[]` for none. See [Rights](environment.md#rights)"#,
    },
    Key {
        name: "cpu_affinity",
        form: Form::Mixed,
        default: "the agent's",
        text: r#"The processors that the service may run on, as an array of numbers and ranges: `[0, "2-3"]`"#,
    },
    Key {
        name: "directories",
        form: Form::Table,
        default: "none",
        text: r#"`{ runtime = ["x"], state = ["x"], logs = ["x"], cache = ["x"], mode = "0755" }`: directories below `/run`, `/var/lib`, `/var/log` and `/var/cache` that are made for the service's user before each start. See [Directories](environment.md#directories)"#,
    },
    Key {
        name: "sandbox",
        form: Form::Table,
        default: "none",
        text: r#"A view of the host of its own: `{ read_only = ["/"], writable = ["/var/lib/x"], private_tmp = true, private_devices = true, protect_home = true, network = false, optional = false }`. See [Sandbox](environment.md#sandbox)"#,
    },
    Key {
        name: "memory_max",
        form: Form::Size,
        default: "none",
        text: "A size: the service cannot use more memory. If it tries, the kernel kills one of its processes. See [Limits for the whole service](environment.md#limits)",
    },
    Key {
        name: "memory_high",
        form: Form::Size,
        default: "none",
        text: "A size: above it, the kernel slows the service down and reclaims its memory. See [Limits for the whole service](environment.md#limits)",
    },
    Key {
        name: "cpu_max",
        form: Form::Text,
        default: "none",
        text: r#"Processor time, in percent of one processor: `"150%"`"#,
    },
    Key {
        name: "pids_max",
        form: Form::Number,
        default: "none",
        text: "How many processes and threads the service may have",
    },
    Key {
        name: "io_weight",
        form: Form::Number,
        default: "none",
        text: "1 to 10000: the service's share of the disks, compared with others, which have 100",
    },
    Key {
        name: "type",
        form: Form::Choice(&["simple", "oneshot", "forking"]),
        default: r#"`"simple"`"#,
        text: r#"`"simple"`: the service is up while it runs. `"oneshot"`: it is up, and `done`, when it has exited with success; see [Oneshot](services.md#oneshot). `"forking"`: its command goes into the background, and the process that it leaves there is the service; see [Programs that go into the background](services.md#programs-that-go-into-the-background)"#,
    },
    Key {
        name: "pid_file",
        form: Form::Text,
        default: "none",
        text: r#"With `type = "forking"`: the file in which the program writes the pid of its main process"#,
    },
    Key {
        name: "autostart",
        form: Form::Boolean,
        default: "`true`",
        text: "Whether the agent starts the service. `false`: it starts only when somebody starts it, or when a service that requires or wants it starts",
    },
    Key {
        name: "after",
        form: Form::Texts,
        default: "`[]`",
        text: "Services that come before this one. It starts when their start has succeeded or failed, and stops before they do. A name that does not exist does no harm. See [Services that depend on each other](services.md)",
    },
    Key {
        name: "part_of",
        form: Form::Texts,
        default: "`[]`",
        text: "Like `after`. Also, when somebody stops, restarts or reloads one of these services, this one is stopped, restarted or reloaded with it. It does not start them. See [Requirements](services.md#requirements-requires)",
    },
    Key {
        name: "requires",
        form: Form::Texts,
        default: "`[]`",
        text: "As `after`, and more: starting this service starts them, and it waits until they are ready (or have failed for good: then it starts without them). When somebody stops or restarts one of them, this service stops or restarts with it. If one of them crashes and is restarted, this service keeps running",
    },
    Key {
        name: "binds",
        form: Form::Texts,
        default: "`[]`",
        text: "As `requires`, and this service also restarts when one of them ends by itself",
    },
    Key {
        name: "wants",
        form: Form::Texts,
        default: "`[]`",
        text: "Services that are started with this one. It does not wait for them",
    },
    Key {
        name: "restart",
        form: Form::Choice(&["always", "on-failure", "on-abnormal", "on-abort", "no"]),
        default: r#"`"always"`; of a oneshot `"no"`"#,
        text: r#"`"always"` (not for a oneshot): it is always restarted. `"on-failure"`: after success it stays `stopped`. `"on-abnormal"`: it is restarted after an end by a signal, a failed watchdog or check, or `start_timeout`; after an exit of its own it is `stopped` or `failed`. `"on-abort"`: after an end by a signal alone. `"no"`: after success it is `stopped` (a oneshot: `done`), else `failed`"#,
    },
    Key {
        name: "restart_delay",
        form: Form::Text,
        default: r#"`"0s"`"#,
        text: "The delay before the first restart after a failure of the service's own. See [A service dies](behaviour.md#a-service-dies)",
    },
    Key {
        name: "restart_max_delay",
        form: Form::Text,
        default: r#"`"30s"`"#,
        text: "While the service keeps failing, the delay doubles from 100 ms, or from `restart_delay` if that is longer, up to this",
    },
    Key {
        name: "stable_after",
        form: Form::Text,
        default: r#"`"10s"`"#,
        text: "After a run this long, the delay and the start limit are reset",
    },
    Key {
        name: "start_limit",
        form: Form::Table,
        default: "none",
        text: r#"`{ burst = 5, interval = "10s" }`, with a `burst` of at most 1000: after `burst` starts within `interval`, no further start is made, and the service is `failed` until someone starts it. By default, the agent never gives up"#,
    },
    Key {
        name: "success_exit_status",
        form: Form::Numbers,
        default: "`[0]`",
        text: "Exit statuses that count as success",
    },
    Key {
        name: "restart_prevent_exit_status",
        form: Form::Numbers,
        default: "`[]`",
        text: "Exit statuses after which the service is not restarted, whatever `restart` says and whoever asked it to end. It is `failed`, or `stopped` if the status also counts as success. For example `[255]` for sshd, which exits with that if its config is wrong",
    },
    Key {
        name: "stop_signal",
        form: Form::NameOrNumber,
        default: r#"`"SIGTERM"`"#,
        text: "A signal's name or number",
    },
    Key {
        name: "stop_timeout",
        form: Form::Text,
        default: r#"`"10s"`"#,
        text: r#"The time from the stop signal, or from the start of `stop_command`, to SIGKILL; or `"infinity"`"#,
    },
    Key {
        name: "stop_mode",
        form: Form::Choice(&["group", "mixed", "main"]),
        default: r#"`"group"`"#,
        text: r#"Which processes a stop reaches. `"group"`: all of the service, so that a child that saves its data on SIGTERM has time to do so. `"mixed"`: the stop signal goes to the main process, and SIGKILL to the others when it has ended. `"main"`: only the main process; its children are left alone, as sshd, cron and docker need it"#,
    },
    Key {
        name: "ready",
        form: Form::Table,
        default: "none",
        text: r#"How the agent learns that the service is ready. The service reports it: `{ notify = true }` (`READY=1` of sd_notify; with `access = "main"`, of its main process alone), `{ fd = 3 }` (a line on this file descriptor, as with s6). Or a probe succeeds: `{ tcp = "127.0.0.1:80" }`, `{ unix = PATH }`, `{ http = URL }`, `{ file = PATH }`, `{ command = […] }`. Until then the service is `starting`, and services that come after it wait. See [Readiness](services.md#readiness)"#,
    },
    Key {
        name: "start_timeout",
        form: Form::Text,
        default: r#"`"90s"`"#,
        text: r#"With `ready`, `after_start` or `type = "forking"`: a service that is not ready in this time is stopped, and that counts as a failure of its own. Each command of `before_start` has this time, too. `"infinity"` for no limit"#,
    },
    Key {
        name: "listen",
        form: Form::Tables,
        default: "`[]`",
        text: r#"Sockets that the agent binds and holds, so that no client is refused while the service restarts: `[{ tcp = "0.0.0.0:80", name = "http" }, { unix = "/run/x.sock", mode = "0660" }]`, also `udp`, `unix_datagram` and `unix_seqpacket`. The service gets them as file descriptors from 3 on (`$LISTEN_FDS`, as with systemd). They outlive crashes of the service and of the agent; `stop` closes them. See [Sockets that outlive a service](sockets.md)"#,
    },
    Key {
        name: "fd_store",
        form: Form::Number,
        default: "`0`",
        text: r#"How many file descriptors the service may leave with the agent (`FDSTORE=1` of sd_notify). The next instance gets them back behind those of `listen`. They outlive crashes of the service and of the agent; `stop` closes them. At most 512. See [Stored descriptors](sockets.md#stored-descriptors)"#,
    },
    Key {
        name: "watchdog",
        form: Form::Text,
        default: "none",
        text: "How often the service has to send `WATCHDOG=1` (sd_notify). If it does not, it is restarted, and that is a failure of its own. See [Liveness](services.md#liveness)",
    },
    Key {
        name: "check",
        form: Form::Table,
        default: "none",
        text: r#"A probe that is repeated while the service runs: `{ http = URL, interval = "10s", timeout = "2s", failures = 3 }`, or `tcp`, `unix` or `command` instead of `http`. When it has failed that often in a row, the service is restarted, and that is a failure of its own. See [Liveness](services.md#liveness)"#,
    },
    Key {
        name: "reload",
        form: Form::SignalOrCommandOrTable,
        default: "none",
        text: r#"What `respawn reload SERVICE` does. It sends a signal, `"SIGHUP"`, or runs a command, `["/usr/sbin/nginx", "-s", "reload"]`, as the service's user, with the service's environment and the pid of its main process in `$MAINPID`. The command may take `start_timeout`. In the long form it is `{ run = […], user = "root", timeout = "5s", ignore_failure = true }`. With `{ signal = "SIGHUP", notify = true }` it also waits until the service has sent `RELOADING=1` and then `READY=1`, which may take `start_timeout`"#,
    },
    Key {
        name: "conditions",
        form: Form::Table,
        default: "none",
        text: r#"Conditions for a start. If one does not hold, the service is `skipped`, which is no failure: `{ path_exists = "/etc/web.conf" }`, with `!` before a path for the opposite; `path_matches`, `path_is_directory`, `path_is_mount_point`, `file_is_executable`, `file_not_empty`, `directory_not_empty`, `kernel_command_line`, `capability`, `ac_power`, `container`, `virtual_machine`, `command`. See [Commands around a run](services.md#commands-around-a-run)"#,
    },
    Key {
        name: "before_start",
        form: Form::Steps,
        default: "none",
        text: r#"Commands that must succeed before each start: `[["/usr/sbin/nginx", "-t"]]`, or in the long form `{ run = […], user = "root", timeout = "5s", ignore_failure = true }`. See [Commands around a run](services.md#commands-around-a-run)"#,
    },
    Key {
        name: "after_start",
        form: Form::Steps,
        default: "none",
        text: "Commands that must succeed when the service runs, and is ready if it has `ready`. Only then is it up",
    },
    Key {
        name: "before_stop",
        form: Form::Steps,
        default: "none",
        text: "Commands that run before the service is stopped",
    },
    Key {
        name: "stop_command",
        form: Form::Step,
        default: "none",
        text: "A command that runs instead of `stop_signal`, with the pid of the main process in `$MAINPID`. If it fails, the signal is sent",
    },
    Key {
        name: "after_stop",
        form: Form::Steps,
        default: "none",
        text: "Commands that run when nothing is left of an instance, however it ended, and after a `before_start` that has failed",
    },
    Key {
        name: "start_check",
        form: Form::Text,
        default: r#"`"1s"`"#,
        text: r#"How long a service must have run before `start` and `restart` report success. If it ends sooner, they fail and report how it ended. `"0s"`: they do not wait. With `ready` or `type = "forking"` they wait for that instead"#,
    },
    Key {
        name: "restart_mode",
        form: Form::Choice(&["stop-first", "rolling"]),
        default: r#"`"stop-first"`"#,
        text: r#"`"rolling"`: `respawn restart`, and a reload with another command, start the next instance beside the one that runs, and stop that one once the next is ready. If the next one is not ready within `start_timeout`, the old one goes on. Needs `listen` and `ready = { notify = true }` or `{ fd = N }`. See [Replaced while it runs](sockets.md#replaced-while-it-runs)"#,
    },
    Key {
        name: "overlap",
        form: Form::Boolean,
        default: "`false`",
        text: "`true`: the next instance starts when the exit of the old one is final, and does not wait until the old one has released its memory, files and ports. See [A service has much memory to release](behaviour.md#a-service-has-much-memory-to-release)",
    },
    Key {
        name: "standby",
        form: Form::Boolean,
        default: "`false`",
        text: "`true`: while the service runs, its next instance is started too, with its libraries linked, and is stopped before its `main` function; a restart then only lets it go on. It takes memory of its own, and the start functions of its libraries have run. See [Standby](standby.md)",
    },
    Key {
        name: "stdout",
        form: Form::Text,
        default: r#"`"inherit"`"#,
        text: r#"An absolute path, `"null"`, or `"inherit"`: where the agent's own output goes. A file is appended to. A new file has mode 0640 and belongs to `user`, so that the service's processes can open `/dev/stdout`. See [Logs where others may write](#logs-where-others-may-write)"#,
    },
    Key {
        name: "stderr",
        form: Form::Text,
        default: "as `stdout`",
        text: "As `stdout`, for standard error",
    },
    Key {
        name: "essential",
        form: Form::Boolean,
        default: "`false`",
        text: "`true`: when this service has ended for good (its restart policy does not restart it, or it was given up or skipped), the agent stops all others in order and exits with the exit status of this one, 128 + n for signal n. Only for an agent that is PID 1 of a container, or has `--exit-with-essential`; any other agent refuses the service. See [As PID 1 of a container](containers.md)",
    },
    Key {
        name: "instances",
        form: Form::NumberOrTexts,
        default: "none",
        text: r#"Makes this file a template: a number of instances, `4`, or their names, `["a", "b"]`. See [Templates and instances](services.md#templates-and-instances)"#,
    },
    Key {
        name: "log",
        form: Form::Table,
        default: "none",
        text: r#"`{ path = "/var/log/web.log", max_size = "10MiB", keep = 5, timestamps = true }`: a logger writes both streams to this file and rotates it. Or `{ syslog = true }`, `{ journald = true }`, `{ stdout = true }`. No line is lost when the service, the agent or the logger is killed. Not together with `stdout` or `stderr`. See [The output of services](output.md)"#,
    },
    Key {
        name: "last_output",
        form: Form::Size,
        default: "none",
        text: r#"A size, at most `"64KiB"`: how much of the end of an instance's output (the file of `stdout`, or `log`) is kept with its exit for `respawn why`. Never more than a 64th of `journal_max_size`. For an instance that was adopted, it may contain output of earlier ones. Symbolic links are treated as for `stdout`"#,
    },
    Key {
        name: "on_exit",
        form: Form::Texts,
        default: "the agent's",
        text: "A [hook](hooks.md) that runs at each end of an instance; `[]` for none",
    },
    Key {
        name: "on_restart",
        form: Form::Texts,
        default: "the agent's",
        text: "A [hook](hooks.md) that runs at each start except the first",
    },
    Key {
        name: "on_failed",
        form: Form::Texts,
        default: "the agent's",
        text: "A [hook](hooks.md) that runs when the service is given up",
    },
    Key {
        name: "hook_timeout",
        form: Form::Text,
        default: "the agent's",
        text: "A hook that takes longer is killed",
    },
];

/// Likewise.
#[rustfmt::skip]
const AGENT_KEYS: &[Key] = &[
    Key {
        name: "access_group",
        form: Form::NameOrNumber,
        default: "none",
        text: "A group whose members may control the agent and read its journal, as root and the agent's own user may",
    },
    Key {
        name: "status_group",
        form: Form::NameOrNumber,
        default: "none",
        text: "A group whose members may use `respawn status`, `is-up` and `show`, and nothing that changes anything. The journal and what services write stay closed to them",
    },
    Key {
        name: "journal_max_size",
        form: Form::Size,
        default: r#"`"8MiB"`"#,
        text: "How large the journal may grow, all of its four files together. See [The journal](behaviour.md#the-journal)",
    },
    Key {
        name: "on_exit",
        form: Form::Texts,
        default: "none",
        text: "The [hook](hooks.md) for each service that has no `on_exit` of its own",
    },
    Key {
        name: "on_restart",
        form: Form::Texts,
        default: "none",
        text: "The [hook](hooks.md) for each service that has no `on_restart` of its own",
    },
    Key {
        name: "on_failed",
        form: Form::Texts,
        default: "none",
        text: "The [hook](hooks.md) for each service that has no `on_failed` of its own",
    },
    Key {
        name: "hook_timeout",
        form: Form::Text,
        default: r#"`"10s"`"#,
        text: "The time limit for hooks of each service that has no `hook_timeout` of its own",
    },
    Key {
        name: "max_hooks",
        form: Form::Number,
        default: "`16`",
        text: "How many hooks run at once, 1 to 1000",
    },
    Key {
        name: "package_services",
        form: Form::Text,
        default: r#"`"/usr/lib/respawn/services"` with the config directory `/etc/respawn`, else `"none"`"#,
        text: "The directory with the service files of packages. A file of the same name in `services` replaces one of them. See [Files of packages and drop-ins](services.md#files-of-packages-and-drop-ins)",
    },
    Key {
        name: "notices",
        form: Form::TextOrTexts,
        default: r#"`"none"`"#,
        text: r#"Where else every event is sent: `"syslog"`, `"journald"`, or an array of both. See [Notices](hooks.md#notices)"#,
    },
    Key {
        name: "syslog_socket",
        form: Form::Text,
        default: r#"`"/dev/log"`"#,
        text: "The socket of syslogd",
    },
    Key {
        name: "journald_socket",
        form: Form::Text,
        default: r#"`"/run/systemd/journal/socket"`"#,
        text: "The socket of journald",
    },
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use tempfile::TempDir;

    use super::*;
    use crate::config::{self, Config, Invalid, Surroundings, agent, service};

    /// With this in the environment the files are written, not compared.
    const UPDATE: &str = "RESPAWN_UPDATE_DOCS";

    fn docs(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../docs")
            .join(name)
    }

    fn assert_written(path: &Path, expected: &str) {
        if std::env::var_os(UPDATE).is_some() {
            return fs::write(path, expected).unwrap();
        }
        let written = fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == expected,
            "{} is not what config/reference.rs says; run this test with {UPDATE}=1",
            path.display()
        );
    }

    #[test]
    fn the_documented_keys_are_those_that_are_read() {
        let sorted = |names: Vec<&str>| {
            let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            names.sort();
            names
        };
        let of = |file: &File| sorted(file.keys.iter().map(|key| key.name).collect());
        assert_eq!(of(&SERVICE), sorted(service::key_names()));
        let mut read = agent::key_names();
        // Its old name.
        read.retain(|name| *name != "control_group");
        assert_eq!(of(&AGENT), sorted(read));
    }

    #[test]
    fn the_tables_are_in_the_docs() {
        let path = docs("service-files.md");
        let mut page = fs::read_to_string(&path).unwrap();
        for (file, name) in [(SERVICE, "a service file"), (AGENT, "agent.toml")] {
            let begin = format!("<!-- begin: keys of {name} -->\n");
            let end = format!("<!-- end: keys of {name} -->");
            let (before, rest) = page.split_once(&begin).unwrap();
            let (_, after) = rest.split_once(&end).unwrap();
            page = format!("{before}{begin}{}{end}{after}", file.table());
        }
        assert_written(&path, &page);
    }

    #[test]
    fn the_schemas_are_in_the_docs() {
        for (file, name) in [(SERVICE, "service"), (AGENT, "agent")] {
            let schema = serde_json::to_string_pretty(&file.schema()).unwrap() + "\n";
            assert_written(&docs(&format!("{name}.schema.json")), &schema);
        }
    }

    /// A config with one service, whose file has `command` and these lines.
    fn loaded(lines: &str) -> Result<(TempDir, Config), Invalid> {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("services")).unwrap();
        let text = format!("command = [\"/bin/true\"]\n{lines}\n");
        fs::write(dir.path().join("services/web.toml"), text).unwrap();
        let config = config::load(dir.path(), &Surroundings::default())?;
        Ok((dir, config))
    }

    #[test]
    fn the_documented_defaults_are_those_in_effect() {
        let (dir, config) = loaded("").unwrap();
        let description = config.describe("web", dir.path()).unwrap();
        let mut compared = 0;
        for setting in &description.settings {
            let mut keys = SERVICE.keys.iter();
            let key = keys.find(|key| key.name == setting.key).unwrap();
            let value = &setting.value;
            if key.default == "none" {
                let is_none = [Value::Null, json!([]), json!({}), json!(0)].contains(value);
                assert!(is_none, "{}: {value}", key.name);
                compared += 1;
            } else if let Some(rest) = key.default.strip_prefix('`') {
                let line = format!("{} = {}", key.name, rest.split('`').next().unwrap());
                let (dir, config) = loaded(&line).unwrap_or_else(|it| panic!("{line}: {it}"));
                let written = config.describe("web", dir.path()).unwrap();
                let mut settings = written.settings.iter();
                let written = settings.find(|it| it.key == key.name).unwrap();
                assert!(!written.default, "{line}");
                assert_eq!(*value, written.value, "{line}");
                compared += 1;
            }
        }
        assert!(compared > 45, "{compared}");
    }

    /// Which of [`VALUES`] are of the types of a form.
    fn values_of(form: Form) -> &'static [&'static str] {
        match form {
            Form::Text | Form::Choice(_) => &["text"],
            Form::Texts => &["texts"],
            Form::TextOrTexts => &["text", "texts"],
            Form::Number => &["number"],
            Form::Numbers => &["numbers"],
            Form::Boolean => &["boolean"],
            Form::Table => &["table"],
            Form::Tables => &["tables"],
            Form::NameOrNumber | Form::Size => &["text", "number"],
            Form::Mixed => &["texts", "numbers"],
            Form::Step => &["texts", "table"],
            Form::Steps => &["arrays", "tables"],
            Form::SignalOrCommandOrTable => &["text", "number", "texts", "table"],
            Form::NumberOrTexts => &["number", "texts"],
        }
    }

    const VALUES: [(&str, &str); 8] = [
        ("text", "\"x\""),
        ("number", "7"),
        ("boolean", "true"),
        ("texts", "[\"x\"]"),
        ("numbers", "[7]"),
        ("table", "{ x = 1 }"),
        ("tables", "[{ x = 1 }]"),
        ("arrays", "[[\"x\"]]"),
    ];

    #[test]
    fn a_value_of_another_type_than_the_documented_ones_is_refused() {
        for key in SERVICE.keys.iter().filter(|key| key.name != "command") {
            for (kind, value) in VALUES {
                if values_of(key.form).contains(&kind) {
                    continue;
                }
                let line = format!("{} = {value}", key.name);
                let Err(invalid) = loaded(&line) else {
                    panic!("{line} is accepted, and is documented as {}", key.form());
                };
                let mut keys = invalid
                    .problems
                    .iter()
                    .map(|problem| problem.key.as_deref());
                let is_of_key = keys.any(|it| it.is_some_and(|it| it.starts_with(key.name)));
                assert!(is_of_key, "{line}: {invalid}");
            }
        }
    }

    #[test]
    fn links_are_left_out_of_plain_text() {
        for (markdown, expected) in [
            ("a [b](c.md#d) e", "a b e"),
            ("`[]`, see [b](c.md)", "`[]`, see b"),
            ("[a", "[a"),
            ("x", "x"),
        ] {
            assert_eq!(plain(markdown), expected);
        }
    }
}

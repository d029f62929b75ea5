//! What goes over the control socket: a request is one JSON object on a line, and so is its answer.
//!
//! Knows the shapes, and what is wrong with a line; reads and writes no socket.
//!
//! ```text
//! {"version":1,"command":"stop","services":["web"],"no_wait":false}
//! {"version":1,"ok":true,"kind":"done","results":[{"service":"web","ok":true,"error":null}]}
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Description, Problem};
use crate::model::{Cause, DeniedReason, Desired, ReloadSummary, Reply, Signal, State};

/// The version of the protocol. It grows only when an older side would misread a newer one.
pub(crate) const VERSION: u32 = 1;

/// How long a request's line may be, in bytes, its newline not counted: enough for the names of 10,000 services.
pub(crate) const MAX_REQUEST: usize = 1 << 20;

/// What someone wants of the agent. A key that a command does not have is refused, not ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Command {
    /// Answered by [`Response::Status`].
    Status {
        /// Empty: all.
        #[serde(default)]
        services: Vec<String>,
    },
    /// Answered by [`Response::Shown`].
    Show {
        /// Its name.
        service: String,
    },
    /// Answered by [`Response::Done`], as `Stop`, `Restart`, `Signal` and `Shutdown` are.
    Start {
        /// At least one.
        services: Vec<String>,
        /// Answer as soon as it is under way.
        #[serde(default)]
        no_wait: bool,
        /// An agent that has died was asked for it before: a oneshot service that has failed since
        /// then has had its run.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// Desires the services down, which outlives the agent.
    Stop {
        /// At least one, or `all`.
        #[serde(default)]
        services: Vec<String>,
        /// Every service that there is.
        #[serde(default)]
        all: bool,
        /// Answer as soon as it is under way.
        #[serde(default)]
        no_wait: bool,
    },
    /// Starts what is down, too.
    Restart {
        /// At least one.
        services: Vec<String>,
        /// Answer as soon as it is under way.
        #[serde(default)]
        no_wait: bool,
    },
    /// Sends a signal to a service's main process.
    Signal {
        /// Its name.
        service: String,
        /// In JSON a name or a number in a string, such as "SIGHUP", "hup" or "1".
        signal: Signal,
    },
    /// Answered by [`Response::Reloaded`] once all that it stops and starts is so, or by
    /// [`Response::Invalid`].
    Reload {
        /// Even if no service is left.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        allow_empty: bool,
    },
    /// Has services read their own configuration again.
    ReloadServices {
        /// At least one.
        services: Vec<String>,
    },
    /// Stops all services and then the agents; what is desired stays as it is.
    Shutdown,
}

/// The agent's answer to one command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Response {
    /// What came of it, for each service asked about.
    Done {
        /// In the order of the request.
        results: Vec<ServiceResult>,
    },
    /// The services asked about as they are now; one that does not exist is left out.
    Status {
        /// In the order of the request, or sorted if all were asked for.
        services: Vec<ServiceStatus>,
    },
    /// All that is known of one service.
    Shown {
        /// `None`: no service has that name.
        service: Option<Box<Shown>>,
    },
    /// The config was read again.
    Reloaded {
        /// What has changed.
        #[serde(flatten)]
        summary: ReloadSummary,
        /// What works, but probably not what was meant.
        #[serde(default)]
        warnings: Vec<Problem>,
    },
    /// The config is bad: nothing was changed.
    Invalid {
        /// All that is wrong with it.
        problems: Vec<Problem>,
        /// What would work, but probably not what was meant.
        #[serde(default)]
        warnings: Vec<Problem>,
    },
    /// The request as a whole was not done.
    Error {
        /// What was found and what was expected, in one line.
        message: String,
    },
}

/// What came of a command for one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceResult {
    pub(crate) service: String,
    pub(crate) ok: bool,
    /// Why it is not done, in one line that does not repeat the service's name.
    pub(crate) error: Option<String>,
    /// What else is to be said, whether it is done or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// One service as it is now, in the words of docs/stability.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    pub(crate) service: String,
    pub(crate) state: State,
    pub(crate) desired: Desired,
    /// Whether it starts with the agent; null from an agent that does not say it.
    #[serde(default)]
    pub(crate) autostart: Option<bool>,
    /// Of the instance that has not exited, as are the next two.
    pub(crate) pid: Option<u32>,
    /// Since boot, at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: Option<u64>,
    pub(crate) uptime_ns: Option<u64>,
    pub(crate) restarts: u64,
    pub(crate) last_exit: Option<Cause>,
    /// When the last exit became final, if that is known.
    pub(crate) last_exit_time: Option<Timestamp>,
    /// In backoff: how long until the next start.
    pub(crate) next_start_in_ns: Option<u64>,
    /// The services that its start or its stop waits for.
    #[serde(default)]
    pub(crate) waits_for: Vec<String>,
    /// Why the last start failed, or why the service was given up.
    pub(crate) error: Option<String>,
    /// What is not as it should be, though it may run, and what to do.
    #[serde(default)]
    pub(crate) hint: Option<String>,
    /// What the instance says of itself: `STATUS=`, as sd_notify(3) has it.
    #[serde(default)]
    pub(crate) says: Option<String>,
    /// Which commands around its run are under way: "before_start", "after_start", …
    #[serde(default)]
    pub(crate) step: Option<String>,
    /// Those that its file has by `listen`.
    #[serde(default)]
    pub(crate) sockets: Vec<Socket>,
    /// The names of the descriptors that it has left with the agent, each as often as it is there.
    #[serde(default)]
    pub(crate) stored: Vec<String>,
    /// Of an instance that stood by: when it was let go on, since boot. Its uptime counts from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) released_ns: Option<u64>,
    /// Of a service with `standby = true`: its next instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standby: Option<Standby>,
}

/// The next instance of a service, as far as it is loaded already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standby {
    pub(crate) state: StandbyState,
    pub(crate) pid: Option<u32>,
    /// Its memory, that which it shares with others included.
    pub(crate) memory_bytes: Option<u64>,
    /// Why there is none.
    pub(crate) why: Option<String>,
}

/// How far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StandbyState {
    /// There is none.
    None,
    /// It is being loaded.
    Loading,
    /// It need only be let go on.
    Ready,
}

/// A socket of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Socket {
    /// The key that says where it listens: "tcp", "unix" …
    pub(crate) family: String,
    /// As that key has it.
    pub(crate) address: String,
    /// As `LISTEN_FDNAMES` has it.
    pub(crate) name: String,
    /// Whether the agent holds it, so that nobody is refused while the service restarts.
    pub(crate) held: bool,
}

/// One service: how it is now, and how it is described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    pub(crate) status: ServiceStatus,
    /// Since when it has been in its state.
    pub(crate) since: Timestamp,
    /// The directory of the cgroup that the instance is in, if it has one.
    pub(crate) cgroup: Option<String>,
    /// All that runs of it, by pid.
    pub(crate) processes: Vec<Process>,
    /// What earlier instances have left alone, and no stop reaches.
    pub(crate) left_alone: Vec<Process>,
    /// So many processes are in neither list, for want of room.
    pub(crate) left_out: usize,
    /// The file on disk is not the one that was loaded.
    pub(crate) file_differs: bool,
    #[serde(flatten)]
    pub(crate) description: Description,
}

/// One process of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) comm: String,
    /// Since boot, at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: u64,
    pub(crate) start_time: Timestamp,
}

impl ServiceResult {
    /// The supervisor's reply about one service, for people.
    pub(crate) fn new(service: &str, reply: &Reply) -> Self {
        let error = match reply {
            Reply::Done | Reply::Skipped { .. } | Reply::Reloaded(_) => None,
            Reply::Denied(reason) => Some(words(reason)),
        };
        Self {
            service: service.to_owned(),
            ok: error.is_none(),
            error,
            note: match reply {
                Reply::Skipped { reason } => Some(format!("not started: {reason}")),
                _ => None,
            },
        }
    }
}

fn words(reason: &DeniedReason) -> String {
    match reason {
        DeniedReason::UnknownService(_) => "no service has this name".to_owned(),
        DeniedReason::NotLoaded { file } => format!(
            "{} exists, but was not loaded; run `respawn reload`",
            file.display()
        ),
        DeniedReason::NoInstance { template } => format!(
            "{} has no such instance; name it there in `instances`, or make a link of its name to that file, \
             and run `respawn reload`",
            template.display()
        ),
        DeniedReason::NotRunning(_) => "it is not running".to_owned(),
        DeniedReason::NotSent { why, .. } => format!("the signal could not be sent: {why}"),
        DeniedReason::NotReloaded { why, .. } => why.clone(),
        DeniedReason::NotRemembered(_) => {
            "done, but it could not be written down: an agent that starts after this one would not know of it"
                .to_owned()
        }
        DeniedReason::StartFailed { failure, .. } => failure.to_string(),
        DeniedReason::Overtaken { by, .. } => format!("overtaken by a {by}"),
    }
}

/// Why a line is no request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadRequest {
    /// Not a JSON object: the peer speaks something else, and there is no use in listening on.
    NotAnObject(String),
    /// An object that asks for nothing that there is.
    Refused(String),
}

/// A line on the socket.
#[derive(Serialize)]
struct Envelope<'a, T> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(flatten)]
    body: &'a T,
}

impl Command {
    /// Whether it changes nothing.
    pub(crate) fn only_asks(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Show { .. })
    }

    /// The line that asks for it, newline included.
    pub(crate) fn to_line(&self) -> Vec<u8> {
        to_line(None, self)
    }

    /// Reads a request's line.
    ///
    /// # Errors
    /// What was found, and what was expected instead.
    pub(crate) fn from_line(line: &[u8]) -> Result<Self, BadRequest> {
        let Value::Object(mut object) =
            serde_json::from_slice(line).map_err(|error| not_an_object(&error.to_string()))?
        else {
            return Err(not_an_object("this is JSON, but no object"));
        };
        check_version(object.remove("version").as_ref()).map_err(BadRequest::Refused)?;
        let keys = object.len();
        let command: Self = serde_json::from_value(Value::Object(object))
            .map_err(|error| BadRequest::Refused(shortened(&format!("bad command: {error}"))))?;
        match command.missing(keys) {
            None => Ok(command),
            Some(missing) => Err(BadRequest::Refused(format!("bad command: {missing}"))),
        }
    }

    /// What the command lacks, or has too much, beyond its shape.
    fn missing(&self, keys: usize) -> Option<&'static str> {
        match self {
            Self::Start { services, .. } | Self::Restart { services, .. }
                if services.is_empty() =>
            {
                Some(r#"no service is named, expected "services":["NAME"]"#)
            }
            Self::Stop { services, all, .. } if services.is_empty() != *all => {
                Some(r#"expected either "services":["NAME"] or "all":true"#)
            }
            Self::Shutdown if keys > 1 => Some("expected no other key than version and command"),
            _ => None,
        }
    }
}

impl Response {
    /// Whether all that was asked for is so.
    pub(crate) fn is_ok(&self) -> bool {
        match self {
            Self::Done { results } => results.iter().all(|result| result.ok),
            Self::Status { .. } => true,
            Self::Shown { service } => service.is_some(),
            Self::Reloaded { summary, .. } => summary.failed.is_empty(),
            Self::Invalid { .. } | Self::Error { .. } => false,
        }
    }

    /// The line that answers with it, newline included.
    pub(crate) fn to_line(&self) -> Vec<u8> {
        to_line(Some(self.is_ok()), self)
    }

    /// Reads an answer's line.
    ///
    /// # Errors
    /// What was found, and what was expected instead.
    pub(crate) fn from_line(line: &[u8]) -> Result<Self, String> {
        let mut value: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let version = value.as_object_mut().and_then(|o| o.remove("version"));
        check_version(version.as_ref())?;
        serde_json::from_value(value).map_err(|error| shortened(&error.to_string()))
    }
}

fn to_line(ok: Option<bool>, body: &impl Serialize) -> Vec<u8> {
    let line = Envelope {
        version: VERSION,
        ok,
        body,
    };
    // Everything above has string keys and writes to memory: nothing in it can fail.
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn check_version(version: Option<&Value>) -> Result<(), String> {
    match version {
        Some(version) if version.as_u64() == Some(VERSION.into()) => Ok(()),
        Some(other) => Err(shortened(&format!(
            "version {other} of the protocol is not spoken here, expected {VERSION}"
        ))),
        None => Err(format!(
            "no version is given, expected \"version\":{VERSION}"
        )),
    }
}

fn not_an_object(found: &str) -> BadRequest {
    BadRequest::NotAnObject(format!(
        "expected a JSON object on a line, such as {{\"version\":{VERSION},\"command\":\"status\"}}; {found}"
    ))
}

/// A message may quote what it complains about, whose length is anybody's.
fn shortened(message: &str) -> String {
    const MOST: usize = 500;
    match message.char_indices().nth(MOST) {
        None => message.to_owned(),
        Some((end, _)) => format!("{}…", &message[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Setting;

    fn command(value: &Value) -> Result<Command, BadRequest> {
        Command::from_line(value.to_string().as_bytes())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn every_command_reads_back() {
        for command in [
            Command::Status { services: vec![] },
            Command::Show {
                service: "web".to_owned(),
            },
            Command::Start {
                services: names(&["web", "db"]),
                no_wait: true,
                again: false,
            },
            Command::Stop {
                services: vec![],
                all: true,
                no_wait: false,
            },
            Command::Restart {
                services: names(&["web"]),
                no_wait: false,
            },
            Command::Signal {
                service: "web".to_owned(),
                signal: Signal::HUP,
            },
            Command::Reload { allow_empty: false },
            Command::Reload { allow_empty: true },
            Command::Shutdown,
        ] {
            let line = command.to_line();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert_eq!(Command::from_line(&line), Ok(command));
        }
    }

    #[test]
    fn a_request_is_as_the_documentation_has_it() {
        let line = Command::Signal {
            service: "web".to_owned(),
            signal: Signal::HUP,
        }
        .to_line();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"version\":1,\"command\":\"signal\",\"service\":\"web\",\"signal\":\"SIGHUP\"}\n"
        );
        assert_eq!(
            command(&json!({"command": "stop", "services": ["web"], "version": 1})),
            Ok(Command::Stop {
                services: names(&["web"]),
                all: false,
                no_wait: false
            })
        );
    }

    #[test]
    fn a_bad_command_is_told_what_was_expected() {
        for (request, expected) in [
            (json!({"command": "status"}), "\"version\":1"),
            (json!({"version": 2, "command": "status"}), "version 2 of"),
            (json!({"version": "1", "command": "status"}), "expected 1"),
            (json!({"version": 1}), "missing field `command`"),
            (
                json!({"version": 1, "command": "dance"}),
                "expected one of `status`",
            ),
            (
                json!({"version": 1, "command": "start"}),
                "missing field `services`",
            ),
            (
                json!({"version": 1, "command": "start", "services": []}),
                "no service is named",
            ),
            (
                json!({"version": 1, "command": "start", "services": "web"}),
                "expected a sequence",
            ),
            (json!({"version": 1, "command": "stop"}), "\"all\":true"),
            (
                json!({"version": 1, "command": "stop", "services": ["a"], "all": true}),
                "either",
            ),
            (
                json!({"version": 1, "command": "status", "service": "a"}),
                "unknown field `service`",
            ),
            (
                json!({"version": 1, "command": "reload", "now": true}),
                "unknown field `now`",
            ),
            (
                json!({"version": 1, "command": "signal", "service": "a", "signal": "SIGFOO"}),
                "unknown signal \"SIGFOO\"",
            ),
        ] {
            match command(&request) {
                Err(BadRequest::Refused(message)) => {
                    assert!(message.contains(expected), "{request}: {message}");
                }
                other => panic!("{request}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_object_is_told_apart() {
        for line in [
            "",
            "GET / HTTP/1.1",
            "[]",
            "null",
            "{\"version\":1",
            "\u{0}",
        ] {
            let result = Command::from_line(line.as_bytes());
            assert!(
                matches!(result, Err(BadRequest::NotAnObject(_))),
                "{line:?}"
            );
        }
        let deep = "[".repeat(MAX_REQUEST);
        assert!(Command::from_line(deep.as_bytes()).is_err());
        assert!(Command::from_line(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_request_may_name_ten_thousand_services() {
        let names = (0..10_000).map(|number| format!("{number:064}"));
        let services = names.collect();
        let line = Command::Status { services }.to_line();
        assert!(line.len() <= MAX_REQUEST, "{} bytes", line.len());
    }

    #[test]
    fn a_long_complaint_is_cut() {
        let long = "x".repeat(60_000);
        let Err(BadRequest::Refused(message)) = command(&json!({"version": 1, "command": long}))
        else {
            panic!("accepted");
        };
        assert!(message.chars().count() <= 501);
    }

    fn shown(status: ServiceStatus) -> Shown {
        let process = Process {
            pid: 7,
            comm: "web".to_owned(),
            start_time_ns: 10_000_000,
            start_time: Timestamp::UNIX_EPOCH,
        };
        let setting = Setting {
            key: "nice".to_owned(),
            value: json!(3),
            default: false,
            file: Some("/etc/respawn/services/web.toml".to_owned()),
            line: Some(7),
            entries: [("a".to_owned(), 8)].into(),
            entry_files: [("a".to_owned(), "/x.toml".to_owned())].into(),
            hidden: false,
        };
        Shown {
            status,
            since: Timestamp::UNIX_EPOCH,
            cgroup: None,
            processes: vec![process],
            left_alone: vec![],
            left_out: 0,
            file_differs: true,
            description: Description {
                file: setting.file.clone(),
                drop_ins: vec!["/x.toml".to_owned()],
                program: None,
                unusable: None,
                settings: vec![setting],
            },
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a list of every kind")]
    fn every_response_reads_back() {
        let result = |ok| ServiceResult {
            service: "web".to_owned(),
            ok,
            error: (!ok).then(|| "it is not running".to_owned()),
            note: None,
        };
        let status = ServiceStatus {
            service: "web".to_owned(),
            state: State::Backoff,
            desired: Desired::Up,
            pid: None,
            start_time_ns: None,
            uptime_ns: None,
            restarts: 3,
            last_exit: Some(Cause::from_wait_status(9)),
            last_exit_time: Some("2026-01-02T03:04:05.678Z".parse().unwrap()),
            next_start_in_ns: Some(1_500_000_000),
            waits_for: vec!["db".to_owned()],
            error: None,
            hint: None,
            says: None,
            sockets: Vec::new(),
            stored: Vec::new(),
            released_ns: None,
            standby: None,
            autostart: None,
            step: None,
        };
        let problem = Problem {
            file: "/etc/respawn/services/web.toml".into(),
            line: Some(7),
            column: None,
            key: Some("nice".to_owned()),
            message: "expected an integer".to_owned(),
        };
        for (response, ok) in [
            (
                Response::Done {
                    results: vec![result(true)],
                },
                true,
            ),
            (
                Response::Done {
                    results: vec![result(true), result(false)],
                },
                false,
            ),
            (
                Response::Status {
                    services: vec![status.clone()],
                },
                true,
            ),
            (
                Response::Shown {
                    service: Some(Box::new(shown(status))),
                },
                true,
            ),
            (Response::Shown { service: None }, false),
            (
                Response::Reloaded {
                    summary: ReloadSummary::default(),
                    warnings: vec![problem.clone()],
                },
                true,
            ),
            (
                Response::Invalid {
                    problems: vec![problem],
                    warnings: vec![],
                },
                false,
            ),
            (
                Response::Error {
                    message: "no".to_owned(),
                },
                false,
            ),
        ] {
            let line = response.to_line();
            let value: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!((&value["version"], &value["ok"]), (&json!(1), &json!(ok)));
            assert_eq!(Response::from_line(&line), Ok(response));
        }
    }

    #[test]
    fn a_denial_is_told_in_words() {
        let denied = Reply::Denied(DeniedReason::Overtaken {
            service: "web".into(),
            by: "stop",
        });
        let result = ServiceResult::new("web", &denied);
        assert_eq!(result.error.as_deref(), Some("overtaken by a stop"));
        assert!(!result.ok && ServiceResult::new("web", &Reply::Done).ok);
    }
}

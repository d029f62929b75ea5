//! What happened, as the journal, `watch` and hooks have it: one JSON object for each event.
//!
//! One type for who writes events and who reads them, so that a key has its name in one place. What
//! another version of respawn wrote stays readable: a missing key has its default, an unknown key is
//! passed over, and an event of an unknown kind keeps all its keys as they are.

use std::borrow::Cow;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::exit::{Exit, Exited};
use super::instance::Instance;
use super::signal::Signal;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// Of an event in the journal.
    pub(crate) stamp: Option<Stamp>,
    /// When it happened, by the wall clock; always there in what this version writes.
    pub(crate) time: Option<Timestamp>,
    /// The service that it is about; `None`: no one, or all.
    pub(crate) service: Option<String>,
    pub(crate) what: What,
}

/// What the journal adds to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Its number.
    pub(crate) seq: u64,
    pub(crate) source: Source,
}

/// When an event happened, on a clock that nobody sets, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Source {
    /// Since the begin of the boot.
    pub(crate) since_boot_ns: Option<u64>,
    /// Of which boot; `None` if that is not known.
    pub(crate) boot_id: Option<String>,
    /// The host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// The line's place among all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

/// The kinds of events, with the keys of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum What {
    /// An instance ended.
    Exited(Box<Exit>),
    /// A signal ended a process in a service's tree that is not its main one.
    ChildExited(Box<Exit>),
    Started {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
        #[serde(default)]
        restarts: u64,
    },
    Adopted {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
    },
    /// An instance has said that it is ready, or was found to be.
    Ready {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
    },
    /// The next instance runs, beside the present one.
    NextStarted {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
    },
    /// The next instance has replaced the one that ran.
    Replaced {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
        /// The instance before.
        #[serde(default)]
        former_pid: u32,
        #[serde(default)]
        restarts: u64,
    },
    /// The next instance has failed, and the present one goes on.
    NotReplaced {
        #[serde(default)]
        message: String,
    },
    /// Another process of an instance is its main process from now on.
    MainChanged {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
        /// The main process before.
        #[serde(default)]
        former_pid: u32,
    },
    Stopping {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
        /// `None`: `stop_command` is run instead.
        #[serde(default, deserialize_with = "or_default")]
        signal: Option<Signal>,
        /// Why, if nobody asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    Stopped,
    /// A oneshot service has done its work.
    Done,
    /// Somebody asked the agent for something.
    Requested {
        #[serde(default)]
        command: Request,
        #[serde(default, deserialize_with = "or_default")]
        signal: Option<Signal>,
        /// `None`: by a signal to the agent.
        by: Option<By>,
    },
    Backoff {
        #[serde(default)]
        delay_ns: u64,
        /// "exited", "start_failed" or "too_often"
        #[serde(default)]
        reason: Cow<'static, str>,
        /// Why the start failed, in words.
        message: Option<String>,
    },
    Failed {
        #[serde(default)]
        reason: String,
    },
    /// It was not started, as a condition does not hold.
    Skipped {
        #[serde(default)]
        reason: String,
    },
    /// A command around its run has failed, and things go on.
    StepFailed {
        /// The key that names it: "before_stop", "stop_command" or "after_stop".
        #[serde(default)]
        step: Cow<'static, str>,
        #[serde(default)]
        message: String,
    },
    /// Its main process has put the rest into the background.
    WentToBackground {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
        /// What to do.
        #[serde(default)]
        message: String,
    },
    /// The agent has killed what it found in the service's cgroup, and nobody had recorded.
    Unrecorded {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        start_time_ns: u64,
    },
    EventsLost {
        #[serde(default)]
        count: u64,
    },
    /// So many deaths are in no line of a recorder.
    DeathsLost {
        #[serde(default)]
        count: u64,
    },
    /// So many deaths of units that a recorder has kept are not in journald, which took no more.
    JournaldMissed {
        #[serde(default)]
        count: u64,
    },
    AgentStarted {
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        version: Cow<'static, str>,
    },
    AgentStopped {
        #[serde(default)]
        pid: u32,
    },
    /// Of the service's next events only the newest are kept: it has had its share.
    JournalShare,
    /// So many events could not be written here.
    JournalGap {
        #[serde(default)]
        count: u64,
    },
    /// So many events cannot be shown: their file was gone before it could be read. No journal has
    /// this.
    EventsMissed {
        #[serde(default)]
        count: u64,
    },
    /// What another version wrote, and this one does not know.
    #[serde(skip)]
    Unknown {
        kind: String,
        /// All keys of its own, as they were written.
        keys: Map<String, Value>,
    },
}

/// The keys that events of all kinds may have.
const HEADER: [&str; 8] = [
    "seq",
    "event",
    "time",
    "service",
    "since_boot_ns",
    "boot_id",
    "host",
    "cursor",
];

/// What somebody asked the agent for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Stop,
    Restart,
    Signal,
    Reload,
    Shutdown,
    /// In the words of another version.
    Other(String),
}

/// Who asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct By {
    /// 0 for a process of another PID namespace.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

impl Event {
    /// An event that is in no journal yet.
    pub(crate) fn new(time: Timestamp, service: Option<&str>, what: What) -> Self {
        Self {
            stamp: None,
            time: Some(time),
            service: service.map(str::to_owned),
            what,
        }
    }

    /// Its number in the journal.
    pub(crate) fn seq(&self) -> Option<u64> {
        Some(self.stamp.as_ref()?.seq)
    }

    /// In which boot it happened.
    pub(crate) fn boot_id(&self) -> Option<&str> {
        self.stamp.as_ref()?.source.boot_id.as_deref()
    }

    /// When an exit was, since boot, as far as that is known.
    pub(crate) fn exit_since_boot_ns(&self) -> Option<u64> {
        let (What::Exited(exit) | What::ChildExited(exit)) = &self.what else {
            return None;
        };
        let at_ns = || exit.start_time_ns?.checked_add(exit.uptime_ns?);
        exit.at_ns.or_else(at_ns)
    }
}

impl From<Exited> for Event {
    fn from(exited: Exited) -> Self {
        let Exited {
            time,
            service,
            exit,
        } = exited;
        Self {
            stamp: None,
            time: Some(time),
            service,
            what: What::Exited(Box::new(exit)),
        }
    }
}

impl What {
    /// The value of the key `event`.
    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Exited(_) => "exited",
            Self::ChildExited(_) => "child_exited",
            Self::Started { .. } => "started",
            Self::Adopted { .. } => "adopted",
            Self::Ready { .. } => "ready",
            Self::NextStarted { .. } => "next_started",
            Self::Replaced { .. } => "replaced",
            Self::NotReplaced { .. } => "not_replaced",
            Self::MainChanged { .. } => "main_changed",
            Self::Stopping { .. } => "stopping",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::Requested { .. } => "requested",
            Self::Backoff { .. } => "backoff",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
            Self::StepFailed { .. } => "step_failed",
            Self::WentToBackground { .. } => "went_to_background",
            Self::Unrecorded { .. } => "unrecorded",
            Self::EventsLost { .. } => "events_lost",
            Self::DeathsLost { .. } => "deaths_lost",
            Self::JournaldMissed { .. } => "journald_missed",
            Self::AgentStarted { .. } => "agent_started",
            Self::AgentStopped { .. } => "agent_stopped",
            Self::JournalShare => "journal_share",
            Self::JournalGap { .. } => "journal_gap",
            Self::EventsMissed { .. } => "events_missed",
            Self::Unknown { kind, .. } => kind,
        }
    }

    /// The instance that it is about, if it names one.
    pub(crate) fn instance(&self) -> Option<Instance> {
        let (pid, start_time_ns) = match self {
            Self::Exited(exit) | Self::ChildExited(exit) => (exit.pid, exit.start_time_ns?),
            Self::Started {
                pid, start_time_ns, ..
            }
            | Self::Adopted { pid, start_time_ns }
            | Self::Ready { pid, start_time_ns }
            | Self::MainChanged {
                pid, start_time_ns, ..
            }
            | Self::Replaced {
                pid, start_time_ns, ..
            }
            | Self::NextStarted { pid, start_time_ns }
            | Self::Stopping {
                pid, start_time_ns, ..
            }
            | Self::WentToBackground {
                pid, start_time_ns, ..
            }
            | Self::Unrecorded { pid, start_time_ns } => (*pid, *start_time_ns),
            _ => return None,
        };
        Some(Instance { pid, start_time_ns })
    }

    fn unknown(kind: String, mut keys: Map<String, Value>) -> Self {
        keys.retain(|key, _| !HEADER.contains(&key.as_str()));
        Self::Unknown { kind, keys }
    }
}

impl Request {
    const ALL: [Self; 6] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Signal,
        Self::Reload,
        Self::Shutdown,
    ];

    /// "start", "stop", …
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Signal => "signal",
            Self::Reload => "reload",
            Self::Shutdown => "shutdown",
            Self::Other(name) => name,
        }
    }
}

impl Default for Request {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl Serialize for Request {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Self::ALL.into_iter().find(|it| it.as_str() == name);
        Ok(known.unwrap_or(Self::Other(name)))
    }
}

/// An exit has its kind in front; any other event has it after its service.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct ExitLine<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            seq: Option<u64>,
            event: &'a str,
            time: Option<Timestamp>,
            service: Option<&'a str>,
            #[serde(flatten)]
            exit: &'a Exit,
            #[serde(flatten)]
            source: Option<&'a Source>,
        }
        #[derive(Serialize)]
        struct OtherLine<'a, T> {
            #[serde(skip_serializing_if = "Option::is_none")]
            seq: Option<u64>,
            time: Option<Timestamp>,
            service: Option<&'a str>,
            #[serde(flatten)]
            what: T,
            #[serde(flatten)]
            source: Option<&'a Source>,
        }
        #[derive(Serialize)]
        struct Unknown<'a> {
            event: &'a str,
            #[serde(flatten)]
            keys: &'a Map<String, Value>,
        }
        let (seq, time, service) = (self.seq(), self.time, self.service.as_deref());
        let source = self.stamp.as_ref().map(|stamp| &stamp.source);
        match &self.what {
            what @ (What::Exited(exit) | What::ChildExited(exit)) => ExitLine {
                seq,
                event: what.kind(),
                time,
                service,
                exit,
                source,
            }
            .serialize(serializer),
            What::Unknown { kind, keys } => OtherLine {
                seq,
                time,
                service,
                what: Unknown { event: kind, keys },
                source,
            }
            .serialize(serializer),
            what => OtherLine {
                seq,
                time,
                service,
                what,
                source,
            }
            .serialize(serializer),
        }
    }
}

/// Any JSON object with a text for `event` is an event.
impl FromStr for Event {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        #[derive(Deserialize)]
        struct Header {
            event: String,
            #[serde(default, deserialize_with = "or_default")]
            seq: Option<u64>,
            #[serde(default, deserialize_with = "or_default")]
            time: Option<Timestamp>,
            #[serde(default, deserialize_with = "or_default")]
            service: Option<String>,
            #[serde(default, deserialize_with = "or_default")]
            since_boot_ns: Option<u64>,
            #[serde(default, deserialize_with = "or_default")]
            boot_id: Option<String>,
            #[serde(default, deserialize_with = "or_default")]
            host: Option<String>,
            #[serde(default, deserialize_with = "or_default")]
            cursor: Option<String>,
        }
        if !text.trim_start().starts_with('{') {
            return Err(serde_json::Error::custom("expected an object"));
        }
        let header: Header = serde_json::from_str(text)?;
        let what = match serde_json::from_str(text) {
            Ok(what) => what,
            Err(_) => What::unknown(header.event, serde_json::from_str(text)?),
        };
        let source = Source {
            since_boot_ns: header.since_boot_ns,
            boot_id: header.boot_id,
            host: header.host,
            cursor: header.cursor,
        };
        Ok(Self {
            stamp: header.seq.map(|seq| Stamp { seq, source }),
            time: header.time,
            service: header.service,
            what,
        })
    }
}

/// Reads a key; what another version wrote there, and this one cannot read, counts as missing.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Cause, Circumstances, LastSignal, Usage};

    fn read(event: &Value) -> Event {
        event.to_string().parse().unwrap()
    }

    fn exit() -> Box<Exit> {
        let circumstances = Circumstances {
            uid: Some(33),
            last_signal: Some(LastSignal {
                signal: Signal::TERM,
                before_exit_ns: 1,
                how: None,
                sender: None,
            }),
            usage: Some(Usage {
                user_ns: 1,
                system_ns: 2,
                max_rss_bytes: 3,
                threads: Some(1),
                read_bytes: None,
                written_bytes: None,
            }),
            ..Circumstances::default()
        };
        Box::new(Exit {
            pid: 7,
            start_time_ns: Some(10),
            comm: Some("nginx".to_owned()),
            uptime_ns: Some(5),
            cause: Cause::from_wait_status(9),
            circumstances,
            at_ns: None,
            left_out: None,
        })
    }

    /// One of each kind.
    fn kinds() -> Vec<What> {
        let (pid, start_time_ns, count) = (7, 10, 2);
        vec![
            What::Exited(exit()),
            What::ChildExited(Box::new(Exit {
                left_out: Some(3),
                ..*exit()
            })),
            What::Started {
                pid,
                start_time_ns,
                restarts: 1,
            },
            What::Adopted { pid, start_time_ns },
            What::Stopping {
                pid,
                start_time_ns,
                signal: Some(Signal::TERM),
                reason: Some("not ready within start_timeout (5s)".to_owned()),
            },
            What::Stopped,
            What::Requested {
                command: Request::Signal,
                signal: Some(Signal::HUP),
                by: Some(By { pid: 3, uid: 0 }),
            },
            What::Backoff {
                delay_ns: 1,
                reason: "start_failed".into(),
                message: Some("cannot run".to_owned()),
            },
            What::Failed {
                reason: "start limit".to_owned(),
            },
            What::WentToBackground {
                pid,
                start_time_ns,
                message: "run it in the foreground".to_owned(),
            },
            What::Unrecorded { pid, start_time_ns },
            What::EventsLost { count },
            What::DeathsLost { count },
            What::JournaldMissed { count },
            What::AgentStarted {
                pid,
                version: "0.1.0".into(),
            },
            What::AgentStopped { pid },
            What::JournalShare,
            What::JournalGap { count },
            What::EventsMissed { count },
        ]
    }

    fn stamped(what: What) -> Event {
        Event {
            stamp: Some(Stamp {
                seq: 9,
                source: Source {
                    since_boot_ns: Some(15),
                    boot_id: Some("b".to_owned()),
                    ..Source::default()
                },
            }),
            ..Event::new(Timestamp::UNIX_EPOCH, Some("web"), what)
        }
    }

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        for what in kinds() {
            let kind = what.kind().to_owned();
            for event in [
                Event::new(Timestamp::UNIX_EPOCH, None, what.clone()),
                stamped(what),
            ] {
                let text = serde_json::to_string(&event).unwrap();
                let value: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(value["event"], kind);
                assert_eq!(text.parse::<Event>().unwrap(), event, "{text}");
            }
        }
    }

    #[test]
    fn keys_have_their_order() {
        for (what, text) in [
            (
                What::Exited(exit()),
                r#"{"seq":9,"event":"exited","time":"1970-01-01T00:00:00Z","service":"web","pid":7,"start_time_ns":10,"comm":"nginx","uptime_ns":5,"cause":{"kind":"signaled","code":null,"signal":"SIGKILL","core_dumped":false,"how":null,"sender":null,"fault":null,"oom":null},"host_pid":null,"parent_pid":null,"uid":33,"cgroup_id":null,"last_signal":{"signal":"SIGTERM","before_exit_ns":1,"how":null,"sender":null},"usage":{"user_ns":1,"system_ns":2,"max_rss_bytes":3,"threads":1,"read_bytes":null,"written_bytes":null},"core":null,"last_output":null,"children_left_out":null,"since_boot_ns":15,"boot_id":"b"}"#,
            ),
            (
                What::Started {
                    pid: 7,
                    start_time_ns: 10,
                    restarts: 2,
                },
                r#"{"seq":9,"time":"1970-01-01T00:00:00Z","service":"web","event":"started","pid":7,"start_time_ns":10,"restarts":2,"since_boot_ns":15,"boot_id":"b"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&stamped(what)).unwrap(), text);
        }
        // Nothing of the journal's in what has no number.
        let event = Event::new(Timestamp::UNIX_EPOCH, None, What::Stopped);
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"time":"1970-01-01T00:00:00Z","service":null,"event":"stopped"}"#
        );
    }

    #[test]
    fn what_other_versions_write_is_readable() {
        // Without keys that came later, and with keys that are not known yet.
        let event = read(&json!({"event": "started", "pid": 7, "newer": {"a": [1]}}));
        assert_eq!(
            event.what,
            What::Started {
                pid: 7,
                start_time_ns: 0,
                restarts: 0
            }
        );
        assert_eq!((event.time, event.service), (None, None));
        // With values that are not known.
        let what = |event: Value| read(&event).what;
        let of_cause =
            |cause: Value| match what(json!({"event": "exited", "pid": 7, "cause": cause})) {
                What::Exited(exit) => (exit.pid, exit.cause),
                other => panic!("{other:?}"),
            };
        let newer =
            json!({"kind": "signaled", "signal": "SIGKILL", "core_dumped": false, "how": "newer"});
        assert_eq!(of_cause(newer), (7, Cause::Unknown));
        assert_eq!(of_cause(Value::Null), (7, Cause::Unknown));
        let requested = what(json!({"event": "requested", "command": "freeze", "by": null}));
        let What::Requested { command, .. } = requested else {
            panic!("{requested:?}");
        };
        assert_eq!(command, Request::Other("freeze".to_owned()));
    }

    #[test]
    fn an_unknown_kind_keeps_its_keys() {
        let newer = json!({"seq": 4, "event": "newer", "time": "1970-01-01T00:00:00Z",
            "service": "web", "key": [1], "since_boot_ns": 15, "boot_id": "b", "host": "h",
            "cursor": "c"});
        let event = read(&newer);
        assert_eq!(
            (event.seq(), event.service.as_deref()),
            (Some(4), Some("web"))
        );
        let What::Unknown { kind, keys } = &event.what else {
            panic!("{event:?}");
        };
        assert_eq!(kind, "newer");
        assert_eq!(Value::Object(keys.clone()), json!({"key": [1]}));
        assert_eq!(serde_json::to_value(&event).unwrap(), newer);
        // As does one of a known kind with a key that cannot be read.
        let odd = json!({"event": "stopped", "service": null, "time": null});
        assert_eq!(read(&odd).what, What::Stopped);
        let odd = read(&json!({"event": "adopted", "pid": "seven"}));
        assert_eq!(odd.what.kind(), "adopted");
        assert!(matches!(odd.what, What::Unknown { .. }));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for text in [
            "{}",
            r#"{"event":7}"#,
            r#"["stopped"]"#,
            "[]",
            "null",
            "7",
            "",
        ] {
            assert!(text.parse::<Event>().is_err(), "{text}");
        }
    }
}

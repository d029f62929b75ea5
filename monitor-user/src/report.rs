//! Events in the words of the contract: one JSON object a line, or a line for a person.

use std::fmt;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::aftermath::{self, Circumstances};
use crate::clock::WallClock;
use crate::decode::ProcessExit;
use crate::model::{Cause, How, Origin, Sender, Signal};
use crate::text::{padded, printable};

/// An exit, as `watch` and `events` show it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Exited {
    /// "exited", or "child_exited" of a process in a service's tree that is not its main one.
    pub(crate) event: &'static str,
    /// When its exit became final.
    pub(crate) time: Timestamp,
    /// The service whose instance it was.
    pub(crate) service: Option<String>,
    pub(crate) pid: u32,
    /// Since boot, at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: Option<u64>,
    pub(crate) comm: Option<String>,
    pub(crate) uptime_ns: Option<u64>,
    pub(crate) cause: Cause,
    #[serde(flatten)]
    pub(crate) circumstances: Circumstances,
    /// Of "child_exited": so many of the tree before it are not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_out: Option<u64>,
}

/// The columns' names beside the time, in the widths of [`Exited::line`].
pub(crate) const COLUMNS: &str = "    PID  COMM                LIVED  CAUSE";

/// How times are shown, all in the same width.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    zone: TimeZone,
    format: &'static str,
}

impl Times {
    /// Of the day: for a person who looks on.
    pub(crate) fn of_day(zone: TimeZone) -> Self {
        let format = "%H:%M:%S%.3f";
        Self { zone, format }
    }

    /// With the date: for a person who looks at what was.
    pub(crate) fn with_date(zone: TimeZone) -> Self {
        let format = "%Y-%m-%d %H:%M:%S%.3f";
        Self { zone, format }
    }

    /// With date and offset from UTC: for lines that are read later, or elsewhere.
    pub(crate) fn in_full(zone: TimeZone) -> Self {
        let format = "%Y-%m-%d %H:%M:%S%.3f%:z";
        Self { zone, format }
    }

    /// "12:03:04.567", or "2026-07-24 12:03:04.567+02:00".
    pub(crate) fn of(&self, time: Timestamp) -> String {
        let time = time.to_zoned(self.zone.clone());
        time.strftime(self.format).to_string()
    }

    /// How many columns of a terminal each takes.
    pub(crate) fn width(&self) -> usize {
        self.of(Timestamp::UNIX_EPOCH).len()
    }

    /// The columns' names over lines of [`Exited::line`].
    pub(crate) fn header(&self) -> String {
        format!("{}  {COLUMNS}", padded("TIME", self.width()))
    }
}

impl Exited {
    /// As the kernel recorded it.
    pub(crate) fn with_record(mut exit: ProcessExit, wall: &WallClock) -> Self {
        aftermath::complete(&mut exit);
        let circumstances = Circumstances::of(&exit);
        Self {
            event: "exited",
            time: wall.at(exit.exited_at),
            service: None,
            pid: exit.instance.pid,
            start_time_ns: Some(exit.instance.start_time_ns),
            comm: Some(exit.comm),
            uptime_ns: u64::try_from(exit.uptime.as_nanos()).ok(),
            cause: exit.cause,
            circumstances,
            left_out: None,
        }
    }

    /// Of which nothing else is known.
    pub(crate) fn unknown(time: Timestamp, pid: u32) -> Self {
        Self {
            event: "exited",
            time,
            service: None,
            pid,
            start_time_ns: None,
            comm: None,
            uptime_ns: None,
            cause: Cause::Unknown,
            circumstances: Circumstances::default(),
            left_out: None,
        }
    }

    /// A line for a person, aligned under [`Times::header`], with colours.
    pub(crate) fn line(&self, times: &Times) -> String {
        let dim = Style::new().dimmed();
        let cause = cause_style(&self.cause);
        let time = times.of(self.time);
        let lived = self.uptime_ns.map_or_else(
            || "?".to_owned(),
            |ns| Age(Duration::from_nanos(ns)).to_string(),
        );
        format!(
            "{dim}{time}{dim:#}  {:>7}  {}  {lived:>7}  {cause}{}{cause:#}",
            self.pid,
            padded(&printable(self.comm.as_deref().unwrap_or("?")), 16),
            printable(&self.why())
        )
    }

    /// The cause, and who had asked for the end before.
    pub(crate) fn why(&self) -> String {
        let mut why = self.cause.to_string();
        if let Some(last) = &self.circumstances.last_signal {
            let (how, sender) = (last.how, last.sender.clone());
            why += &asked(last.signal, how, sender, None);
        }
        why
    }
}

/// What an event of the journal says, for a person, with colours: "started pid 123", "killed by
/// SIGKILL after 3m12s, pid 123", "next start in 200ms". An event of a newer agent is told as it
/// stands there.
pub(crate) fn happening(event: &Value) -> String {
    let number = |key: &str| event[key].as_u64().unwrap_or_default();
    let text = |key: &str| printable(event[key].as_str().unwrap_or("?"));
    let pid = || format!("pid {}", number("pid"));
    let red = AnsiColor::Red.on_default();
    let (style, words) = match event["event"].as_str().unwrap_or_default() {
        "started" => (AnsiColor::Green.on_default(), started(event)),
        "exited" => return ended(event),
        "child_exited" => return child_ended(event),
        "adopted" => (AnsiColor::Green.on_default(), format!("adopted, {}", pid())),
        "ready" => (AnsiColor::Green.on_default(), "ready".to_owned()),
        "stopping" => (
            Style::new(),
            format!("stopping with {}, {}", text("signal"), pid()),
        ),
        "stopped" => (Style::new(), "stopped".to_owned()),
        "requested" => (Style::new(), requested(event)),
        "backoff" => (AnsiColor::Yellow.on_default(), backoff(event)),
        "failed" => (red, format!("failed: {}", text("reason"))),
        "went_to_background" => (AnsiColor::Yellow.on_default(), text("message")),
        "agent_started" => {
            let version = text("version");
            (
                Style::new(),
                format!("agent started {}, version {version}", pid()),
            )
        }
        "agent_stopped" => (Style::new(), format!("agent stopped, {}", pid())),
        "unrecorded" => (
            red,
            format!("killed, left unrecorded by an agent, {}", pid()),
        ),
        "events_lost" | "deaths_lost" => {
            let noun = if event["event"] == "deaths_lost" {
                "death"
            } else {
                "exit"
            };
            let exits = counted(number("count"), noun);
            (red, format!("{exits} lost: the kernel's ring was full"))
        }
        "journal_share" => (
            AnsiColor::Yellow.on_default(),
            "has used its share of the journal: of what follows only the newest is kept".to_owned(),
        ),
        "journal_gap" => {
            let events = counted(number("count"), "event");
            (red, format!("{events} could not be written here"))
        }
        "events_missed" => {
            let events = counted(number("count"), "event");
            (red, format!("{events} missing here"))
        }
        other => (Style::new(), unknown(other, event)),
    };
    format!("{style}{words}{style:#}")
}

/// "stop asked for by uid 0, pid 123"
pub(crate) fn requested(event: &Value) -> String {
    let word = |key: &str| printable(event[key].as_str().unwrap_or_default());
    let number = |key: &str| event["by"][key].as_u64().unwrap_or_default();
    let signal = match event["signal"] {
        Value::Null => String::new(),
        _ => format!(" {}", word("signal")),
    };
    if event["by"].is_null() {
        return format!(
            "{}{signal} asked for by a signal to the agent",
            word("command")
        );
    }
    let pid = match number("pid") {
        0 => "of another PID namespace".to_owned(),
        pid => format!("pid {pid}"),
    };
    let uid = number("uid");
    format!("{}{signal} asked for by uid {uid}, {pid}", word("command"))
}

fn started(event: &Value) -> String {
    let pid = event["pid"].as_u64().unwrap_or_default();
    match event["restarts"].as_u64() {
        None | Some(0) => format!("started pid {pid}"),
        Some(restarts) => format!("started pid {pid}, restart {restarts}"),
    }
}

fn ended(event: &Value) -> String {
    let cause = Cause::deserialize(&event["cause"]).unwrap_or(Cause::Unknown);
    let style = cause_style(&cause);
    let after = event["uptime_ns"]
        .as_u64()
        .map(|ns| format!(" after {}", Age(Duration::from_nanos(ns))));
    let left_out = match event["children_left_out"].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => format!(
            "; {} of its other processes left out",
            counted(count, "death")
        ),
    };
    format!(
        "{style}{}{style:#}{}, pid {}{}{left_out}",
        printable(&cause.to_string()),
        after.unwrap_or_default(),
        event["pid"].as_u64().unwrap_or_default(),
        asked_by(&event["last_signal"])
    )
}

/// "its process php-fpm killed by SIGSEGV after 3m12s, pid 7"
fn child_ended(event: &Value) -> String {
    let name = printable(event["comm"].as_str().unwrap_or("?"));
    let before = match event["left_out"].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => format!("; {} of others before it left out", counted(count, "death")),
    };
    format!("its process {name} {}{before}", ended(event))
}

/// By whom it had been asked to end: ", asked to by SIGTERM from bash (pid 3, uid 0)"; with these words
/// for the sender, if there is one.
pub(crate) fn asked(
    signal: Signal,
    how: Option<How>,
    sender: Option<Sender>,
    words: Option<&dyn fmt::Display>,
) -> String {
    let fault = None;
    let origin = Origin { how, sender, fault };
    format!(", asked to by {signal}{}", origin.after(signal, words))
}

/// The same by an event's `last_signal`, if there is one.
fn asked_by(last_signal: &Value) -> String {
    let Ok(signal) = Signal::deserialize(&last_signal["signal"]) else {
        return String::new();
    };
    let how = How::deserialize(&last_signal["how"]).ok();
    let sender = Sender::deserialize(&last_signal["sender"]).ok();
    printable(&asked(signal, how, sender, None))
}

fn backoff(event: &Value) -> String {
    let delay = Duration::from_nanos(event["delay_ns"].as_u64().unwrap_or_default());
    let when = format!("next start in {}", Age(delay));
    match event["message"].as_str() {
        Some(message) => format!("{when}: {}", printable(message)),
        None => when,
    }
}

fn unknown(name: &str, event: &Value) -> String {
    let told = [
        "seq",
        "event",
        "time",
        "service",
        "since_boot_ns",
        "boot_id",
        "host",
        "cursor",
    ];
    let mut words = printable(name);
    for (key, value) in event.as_object().into_iter().flatten() {
        if !told.contains(&key.as_str()) {
            words += &printable(&format!(" {key}={value}"));
        }
    }
    words
}

/// "1 exit", "2 exits".
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Green for success, yellow for a failing exit, red for a violent death.
pub(crate) fn cause_style(cause: &Cause) -> Style {
    let colour = match cause {
        Cause::Exited { code: 0 } => AnsiColor::Green,
        Cause::Exited { .. } | Cause::Unknown => AnsiColor::Yellow,
        Cause::Signaled { .. } | Cause::OomKilled(_) => AnsiColor::Red,
    };
    Style::new().fg_color(Some(colour.into()))
}

/// A length of time in at most seven characters: "340us", "12.3ms", "4.20s", "3m12s", "5d03h".
pub(crate) struct Age(pub(crate) Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (micros, secs) = (self.0.as_micros(), self.0.as_secs());
        let text = match (micros, secs) {
            (0..1000, _) => format!("{micros}us"),
            (1000..100_000, _) => format!("{}.{}ms", micros / 1000, micros / 100 % 10),
            (100_000..1_000_000, _) => format!("{}ms", micros / 1000),
            (_, 0..60) => format!("{secs}.{:02}s", micros / 10_000 % 100),
            (_, 60..3600) => format!("{}m{:02}s", secs / 60, secs % 60),
            (_, 3600..86400) => format!("{}h{:02}m", secs / 3600, secs / 60 % 60),
            _ => format!("{}d{:02}h", secs / 86400, secs / 3600 % 24),
        };
        f.pad(&text)
    }
}

/// A number of bytes: "512 B", "4.0 KiB", "1.5 GiB".
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest < 1024 {
            return write!(f, "{rest} B");
        }
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut index = 0;
        while rest >= 1024 * 1024 && index + 1 < units.len() {
            rest /= 1024;
            index += 1;
        }
        let unit = units.get(index).unwrap_or(&"");
        write!(f, "{}.{} {unit}", rest / 1024, rest % 1024 * 10 / 1024)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::LastSignal;

    #[test]
    fn ages_stay_short() {
        for (micros, text) in [
            (0, "0us"),
            (999, "999us"),
            (12_345, "12.3ms"),
            (123_456, "123ms"),
            (4_200_000, "4.20s"),
            (59_999_999, "59.99s"),
            (192_000_000, "3m12s"),
            (3_600_000_000, "1h00m"),
            (442_800_000_000, "5d03h"),
        ] {
            assert_eq!(Age(Duration::from_micros(micros)).to_string(), text);
        }
    }

    #[test]
    fn bytes_stay_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_line_stands_under_its_header() {
        let exited = Exited {
            comm: Some("evil\u{1b}[2J".to_owned()),
            uptime_ns: Some(2_000_000_000),
            cause: Cause::from_wait_status(9),
            ..Exited::unknown(Timestamp::from_second(0).unwrap(), 123)
        };
        let times = Times::of_day(TimeZone::UTC);
        let line = anstream::adapter::strip_str(&exited.line(&times)).to_string();
        assert_eq!(
            line,
            "00:00:00.000      123  evil\\u{1b}[2J       2.00s  killed by SIGKILL"
        );
        assert_eq!(line.find("killed"), times.header().find("CAUSE"));
        assert_eq!(line.find("evil"), times.header().find("COMM"));
    }

    #[test]
    fn a_line_that_is_kept_has_date_and_zone() {
        let east = TimeZone::fixed(jiff::tz::offset(2));
        for (zone, time) in [
            (TimeZone::UTC, "1970-01-01 00:00:00.000+00:00"),
            (east, "1970-01-01 02:00:00.000+02:00"),
        ] {
            let times = Times::in_full(zone);
            let exited = Exited {
                comm: Some("日本".to_owned()),
                ..Exited::unknown(Timestamp::UNIX_EPOCH, 123)
            };
            let line = anstream::adapter::strip_str(&exited.line(&times)).to_string();
            assert_eq!(line.split("  ").next(), Some(time));
            let cause = line.find("gone").unwrap();
            assert_eq!(
                Some(crate::text::columns(&line[..cause])),
                times.header().find("CAUSE")
            );
        }
    }

    #[test]
    fn a_line_tells_who_asked_for_the_end() {
        let sender: Sender = serde_json::from_value(json!({"pid": 3, "start_time_ns": 0,
            "uid": 0, "comm": "bash"}))
        .unwrap();
        let asked = |how, sender: Option<&Sender>| {
            let mut exited = Exited::unknown(Timestamp::UNIX_EPOCH, 7);
            exited.cause = Cause::Exited { code: 130 };
            exited.circumstances.last_signal = Some(LastSignal {
                signal: Signal::INT,
                before_exit_ns: 1,
                how: Some(how),
                sender: sender.cloned(),
            });
            exited.why()
        };
        assert_eq!(
            asked(How::Kill, Some(&sender)),
            "exited with 130, asked to by SIGINT from bash (pid 3, uid 0)"
        );
        assert_eq!(
            asked(How::Terminal, None),
            "exited with 130, asked to by SIGINT from its terminal (Ctrl-C)"
        );
    }

    #[test]
    fn happenings_are_told_in_words() {
        let exited = |cause: Value| json!({"event": "exited", "pid": 7, "uptime_ns": 192_000_000_000_u64, "cause": cause});
        let killed = json!({"kind": "signaled", "signal": "SIGKILL", "core_dumped": false,
            "sender": {"pid": 3, "start_time_ns": 0, "uid": 0, "comm": "ba\u{7}sh"}});
        for (event, words) in [
            (
                json!({"event": "started", "pid": 7, "restarts": 0}),
                "started pid 7",
            ),
            (
                json!({"event": "started", "pid": 7, "restarts": 3}),
                "started pid 7, restart 3",
            ),
            (
                exited(killed),
                "killed by SIGKILL from ba\\u{7}sh (pid 3, uid 0) after 3m12s, pid 7",
            ),
            (
                exited(json!(null)),
                "gone, cause unknown after 3m12s, pid 7",
            ),
            (json!({"event": "adopted", "pid": 7}), "adopted, pid 7"),
            (
                json!({"event": "stopping", "pid": 7, "signal": "SIGTERM"}),
                "stopping with SIGTERM, pid 7",
            ),
            (json!({"event": "stopped"}), "stopped"),
            (
                json!({"event": "backoff", "delay_ns": 200_000_000, "reason": "exited"}),
                "next start in 200ms",
            ),
            (
                json!({"event": "backoff", "delay_ns": 200_000_000, "message": "cannot run"}),
                "next start in 200ms: cannot run",
            ),
            (
                json!({"event": "failed", "reason": "a\u{1b}[2Jb"}),
                "failed: a\\u{1b}[2Jb",
            ),
            (
                json!({"event": "agent_started", "pid": 1, "version": "0.1.0"}),
                "agent started pid 1, version 0.1.0",
            ),
            (
                json!({"event": "unrecorded", "pid": 7}),
                "killed, left unrecorded by an agent, pid 7",
            ),
            (
                json!({"event": "events_lost", "count": 1}),
                "1 exit lost: the kernel's ring was full",
            ),
            (
                json!({"event": "journal_gap", "count": 2}),
                "2 events could not be written here",
            ),
            (
                json!({"event": "newer", "seq": 1, "time": "t", "service": "s", "key": [1]}),
                "newer key=[1]",
            ),
            (json!({"event": "started"}), "started pid 0"),
        ] {
            let told = anstream::adapter::strip_str(&happening(&event)).to_string();
            assert_eq!(told, words, "{event}");
        }
    }

    #[test]
    fn ends_of_other_processes_are_told_in_words() {
        for (event, words) in [
            (
                json!({"event": "child_exited", "pid": 8, "comm": "php-fpm", "left_out": 2,
                    "uptime_ns": 3_000_000_000_u64, "cause": {"kind": "signaled",
                    "signal": "SIGSEGV", "core_dumped": false}}),
                "its process php-fpm killed by SIGSEGV after 3.00s, pid 8; 2 deaths of others before \
                 it left out",
            ),
            (
                json!({"event": "exited", "pid": 7, "children_left_out": 1, "cause": {"kind": "exited",
                    "code": 0, "core_dumped": false}}),
                "exited with 0, pid 7; 1 death of its other processes left out",
            ),
        ] {
            let told = anstream::adapter::strip_str(&happening(&event)).to_string();
            assert_eq!(told, words, "{event}");
        }
    }

    #[test]
    fn requests_are_told_with_who_asked() {
        for (event, words) in [
            (
                json!({"event": "exited", "pid": 7, "cause": {"kind": "exited", "code": 0,
                    "core_dumped": false}, "last_signal": {"signal": "SIGTERM",
                    "sender": {"pid": 3, "start_time_ns": 0, "uid": 0, "comm": "sh"}}}),
                "exited with 0, pid 7, asked to by SIGTERM from sh (pid 3, uid 0)",
            ),
            (
                json!({"event": "requested", "command": "stop", "signal": null,
                    "by": {"pid": 3, "uid": 0}}),
                "stop asked for by uid 0, pid 3",
            ),
            (
                json!({"event": "requested", "command": "signal", "signal": "SIGHUP",
                    "by": {"pid": 0, "uid": 1000}}),
                "signal SIGHUP asked for by uid 1000, of another PID namespace",
            ),
            (
                json!({"event": "requested", "command": "reload", "signal": null, "by": null}),
                "reload asked for by a signal to the agent",
            ),
            (
                json!({"event": "journal_share", "service": "web"}),
                "has used its share of the journal: of what follows only the newest is kept",
            ),
        ] {
            let told = anstream::adapter::strip_str(&happening(&event)).to_string();
            assert_eq!(told, words, "{event}");
        }
    }
}

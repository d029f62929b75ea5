//! Events in words: a line for a person.

use std::fmt;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use crate::aftermath;
use crate::clock::WallClock;
use crate::decode::ProcessExit;
use crate::model::{
    By, Cause, Circumstances, Event, Exit, Exited, LastSignal, Origin, Request, Signal, What,
};
use crate::text::{padded, printable};

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
        let time = time.to_zoned_datetime(self.zone.clone());
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
            time: wall.at(exit.exited_at),
            service: None,
            exit: Exit {
                pid: exit.instance.pid,
                start_time_ns: Some(exit.instance.start_time_ns),
                comm: Some(exit.comm),
                uptime_ns: u64::try_from(exit.uptime.as_nanos()).ok(),
                cause: exit.cause,
                circumstances,
                at_ns: None,
                left_out: None,
            },
        }
    }

    /// A line for a person, aligned under [`Times::header`], with colours.
    pub(crate) fn line(&self, times: &Times) -> String {
        let Self { time, exit, .. } = self;
        let dim = Style::new().dimmed();
        let cause = cause_style(&exit.cause);
        let time = times.of(*time);
        let lived = exit.uptime_ns.map_or_else(
            || "?".to_owned(),
            |ns| Age(Duration::from_nanos(ns)).to_string(),
        );
        format!(
            "{dim}{time}{dim:#}  {:>7}  {}  {lived:>7}  {cause}{}{cause:#}",
            exit.pid,
            padded(&printable(exit.comm.as_deref().unwrap_or("?")), 16),
            printable(&exit.why())
        )
    }
}

impl Exit {
    /// The cause, and who had asked for the end before.
    pub(crate) fn why(&self) -> String {
        let last = self.circumstances.last_signal.as_ref();
        let asked = last.map(|last| asked(last, None));
        format!("{}{}", self.cause, asked.unwrap_or_default())
    }
}

fn stopping(pid: u32, signal: Option<Signal>, reason: Option<&str>) -> String {
    let signal = signal.map_or_else(|| "stop_command".to_owned(), |signal| signal.to_string());
    let why = reason.map_or_else(String::new, |reason| format!(": {}", printable(reason)));
    format!("stopping with {signal}, pid {pid}{why}")
}

/// What an event of the journal says, for a person, with colours: "started pid 123", "killed by
/// SIGKILL after 3m12s, pid 123", "next start in 200ms". An event of a newer agent is told as it
/// stands there.
pub(crate) fn happening(event: &Event) -> String {
    let plain = Style::new();
    let red = AnsiColor::Red.on_default();
    let green = AnsiColor::Green.on_default();
    let yellow = AnsiColor::Yellow.on_default();
    let (style, words) = match &event.what {
        What::Exited(exit) => return ended(exit),
        What::ChildExited(exit) => return child_ended(exit),
        What::Started { pid, restarts, .. } => (green, started(*pid, *restarts)),
        What::Adopted { pid, .. } => (green, format!("adopted, pid {pid}")),
        What::Ready { pid, .. } => (green, format!("ready, pid {pid}")),
        What::NextStarted { pid, .. } => (plain, format!("the next instance starts, pid {pid}")),
        What::Replaced {
            pid, former_pid, ..
        } => (green, format!("replaced: pid {pid}, before {former_pid}")),
        What::NotReplaced { message } => (red, format!("not replaced: {}", printable(message))),
        What::MainChanged {
            pid, former_pid, ..
        } => (plain, format!("main pid is now {pid}, before {former_pid}")),
        What::Stopping {
            pid,
            signal,
            reason,
            ..
        } => (plain, stopping(*pid, *signal, reason.as_deref())),
        What::Stopped => (plain, "stopped".to_owned()),
        What::Done => (green, "done".to_owned()),
        What::Requested {
            command,
            signal,
            by,
        } => (plain, requested(command, *signal, *by)),
        What::Backoff {
            delay_ns, message, ..
        } => (yellow, backoff(*delay_ns, message.as_deref())),
        What::Failed { reason } => (red, format!("failed: {}", printable(reason))),
        What::Skipped { reason } => (yellow, format!("skipped: {}", printable(reason))),
        What::StepFailed { message, .. } => (yellow, printable(message)),
        What::WentToBackground { message, .. } => (yellow, printable(message)),
        What::AgentStarted { pid, version } => {
            let version = printable(version);
            (plain, format!("agent started pid {pid}, version {version}"))
        }
        What::AgentStopped { pid } => (plain, format!("agent stopped, pid {pid}")),
        What::Unrecorded { pid, .. } => {
            let words = format!("killed, left unrecorded by an agent, pid {pid}");
            (red, words)
        }
        What::EventsLost { count } => (red, absent(*count, "exit", RING_FULL)),
        What::DeathsLost { count } => (red, absent(*count, "death", RING_FULL)),
        What::JournaldMissed { count } => {
            let words = "not in journald, which took no more";
            (yellow, absent(*count, "death", words))
        }
        What::JournalShare => (
            yellow,
            "exceeded its share of the journal: from now on only its newest events are kept"
                .to_owned(),
        ),
        What::JournalGap { count } => (red, absent(*count, "event", "could not be written here")),
        What::EventsMissed { count } => (red, absent(*count, "event", "missing here")),
        What::Unknown { kind, keys } => (plain, unknown(kind, keys)),
    };
    format!("{style}{words}{style:#}")
}

/// Why what the kernel has seen is not here.
const RING_FULL: &str = "lost: the kernel's ring was full";

/// "3 deaths lost: the kernel's ring was full"
fn absent(count: u64, what: &str, why: &str) -> String {
    format!("{} {why}", counted(count, what))
}

/// "stop asked for by uid 0, pid 123"
pub(crate) fn requested(command: &Request, signal: Option<Signal>, by: Option<By>) -> String {
    let command = printable(command.as_str());
    let signal = signal.map_or_else(String::new, |signal| format!(" {signal}"));
    let who = match by {
        None => "a signal to the agent".to_owned(),
        Some(By { pid: 0, uid }) => format!("uid {uid}, of another PID namespace"),
        Some(By { pid, uid }) => format!("uid {uid}, pid {pid}"),
    };
    format!("{command}{signal} asked for by {who}")
}

fn started(pid: u32, restarts: u64) -> String {
    match restarts {
        0 => format!("started pid {pid}"),
        restarts => format!("started pid {pid}, restart {restarts}"),
    }
}

fn ended(exit: &Exit) -> String {
    let style = cause_style(&exit.cause);
    let after = exit
        .uptime_ns
        .map(|ns| format!(" after {}", Age(Duration::from_nanos(ns))));
    let left_out = match exit.circumstances.children_left_out {
        None | Some(0) => String::new(),
        Some(count) => format!(
            "; {} of its other processes left out",
            counted(count, "death")
        ),
    };
    let last = exit.circumstances.last_signal.as_ref();
    let asked = last.map(|last| asked(last, None));
    format!(
        "{style}{}{style:#}{}, pid {}{}{left_out}",
        printable(&exit.cause.to_string()),
        after.unwrap_or_default(),
        exit.pid,
        printable(&asked.unwrap_or_default())
    )
}

/// "its process php-fpm killed by SIGSEGV after 3m12s, pid 7"
fn child_ended(exit: &Exit) -> String {
    let name = printable(exit.comm.as_deref().unwrap_or("?"));
    let before = match exit.left_out {
        None | Some(0) => String::new(),
        Some(count) => format!("; {} of others before it left out", counted(count, "death")),
    };
    format!("its process {name} {}{before}", ended(exit))
}

/// By whom it had been asked to end: ", asked to by SIGTERM from bash (pid 3, uid 0)"; with these words
/// for the sender, if there is one.
pub(crate) fn asked(last: &LastSignal, words: Option<&dyn fmt::Display>) -> String {
    let origin = Origin {
        how: last.how,
        sender: last.sender.clone(),
        fault: None,
    };
    let signal = last.signal;
    format!(", asked to by {signal}{}", origin.after(signal, words))
}

fn backoff(delay_ns: u64, message: Option<&str>) -> String {
    let when = match delay_ns {
        0 => "next start at once".to_owned(),
        _ => format!("next start in {}", Age(Duration::from_nanos(delay_ns))),
    };
    match message {
        Some(message) => format!("{when}: {}", printable(message)),
        None => when,
    }
}

fn unknown(kind: &str, keys: &Map<String, Value>) -> String {
    let mut words = printable(kind);
    for (key, value) in keys {
        words += &printable(&format!(" {key}={value}"));
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
    use crate::model::{How, Sender};

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
        let mut exited = Exited::unknown(Timestamp::UNIX_EPOCH, 123);
        exited.exit.comm = Some("evil\u{1b}[2J".to_owned());
        exited.exit.uptime_ns = Some(2_000_000_000);
        exited.exit.cause = Cause::from_wait_status(9);
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
            let mut exited = Exited::unknown(Timestamp::UNIX_EPOCH, 123);
            exited.exit.comm = Some("日本".to_owned());
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
            let mut exit = Exit {
                cause: Cause::Exited { code: 130 },
                ..Exit::default()
            };
            exit.circumstances.last_signal = Some(LastSignal {
                signal: Signal::INT,
                before_exit_ns: 1,
                how: Some(how),
                sender: sender.cloned(),
            });
            exit.why()
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

    fn told(event: &Value) -> String {
        let event = event.to_string().parse().unwrap();
        anstream::adapter::strip_str(&happening(&event)).to_string()
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
                json!({"event": "journald_missed", "count": 2}),
                "2 deaths not in journald, which took no more",
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
            assert_eq!(told(&event), words, "{event}");
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
            assert_eq!(told(&event), words, "{event}");
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
                "exceeded its share of the journal: from now on only its newest events are kept",
            ),
        ] {
            assert_eq!(told(&event), words, "{event}");
        }
    }
}

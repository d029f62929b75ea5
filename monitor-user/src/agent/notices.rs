//! Tells syslogd and journald of every event, as far as they listen. Waits for neither.
//!
//! Both take a datagram for each event. One that does not read is written to again when there is
//! room; one that is not there is tried again with the next event. What is lost meanwhile is
//! counted, and told in the log.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::net::UnixDatagram;

use super::hooks::variables;
use crate::config;
use crate::model::{Cause, Event, What};
use crate::report;
use crate::text::printable;

/// How many events wait for one that does not read.
const MAX_WAITING: usize = 1024;

/// What a datagram of syslog has at most, in bytes.
/// <https://www.rfc-editor.org/rfc/rfc3164#section-4.1>
const SYSLOG_LONGEST: usize = 1024;

/// What one field of journald's has at most, in bytes: all of them fit in a datagram.
const FIELD_LONGEST: usize = 4096;

/// How long the last events may take.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// All who are told.
#[derive(Default)]
pub(super) struct Notices {
    targets: [Option<Target>; 2],
    /// Events that nobody was told yet.
    untold: Vec<Event>,
}

/// One who is told.
struct Target {
    name: &'static str,
    path: PathBuf,
    form: fn(&Event) -> Vec<u8>,
    /// `None`: it was not there.
    socket: Option<UnixDatagram>,
    waiting: VecDeque<Vec<u8>>,
    /// Events that it will not get; not 0 after it was complained about.
    lost: u64,
}

impl Notices {
    /// Tells these from now on. Whoever was told before keeps what waits for it.
    pub(super) fn set(&mut self, wanted: &config::Notices) {
        let config::Notices { syslog, journald } = wanted;
        let [old_syslog, old_journald] = std::mem::take(&mut self.targets);
        self.targets = [
            Target::next(old_syslog, "syslog", syslog.as_deref(), syslog_line),
            Target::next(
                old_journald,
                "journald",
                journald.as_deref(),
                journald_fields,
            ),
        ];
    }

    /// Has the next `flush` tell of an event, as it is in the journal: what follows from the event
    /// comes first.
    pub(super) fn tell(&mut self, event: &Event) {
        if self.targets.iter().any(Option::is_some) {
            self.untold.push(event.clone());
        }
    }

    /// Waits until someone reads again who did not. Cancellation loses nothing.
    pub(super) async fn writable(&self) {
        let [syslog, journald] = &self.targets;
        tokio::select! {
            () = writable(syslog.as_ref()) => (),
            () = writable(journald.as_ref()) => (),
        }
    }

    /// Writes all that can be written now.
    pub(super) fn flush(&mut self) {
        let events = std::mem::take(&mut self.untold);
        for target in self.targets.iter_mut().flatten() {
            events.iter().for_each(|event| target.tell(event));
            target.flush();
        }
    }

    /// The agent ends: gives those a moment who have not read everything.
    pub(super) async fn finish(mut self) {
        self.flush();
        let waits = |notices: &Self| {
            let targets = notices.targets.iter().flatten();
            targets.map(|target| target.waiting.len()).sum::<usize>() > 0
        };
        let writing = async {
            while waits(&self) {
                self.writable().await;
                self.flush();
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, writing).await;
    }
}

async fn writable(target: Option<&Target>) {
    match target {
        Some(Target {
            socket: Some(socket),
            waiting,
            ..
        }) if !waiting.is_empty() => drop(socket.writable().await),
        _ => std::future::pending().await,
    }
}

impl Target {
    fn next(
        old: Option<Self>,
        name: &'static str,
        path: Option<&Path>,
        form: fn(&Event) -> Vec<u8>,
    ) -> Option<Self> {
        let path = path?;
        old.filter(|old| old.path == path).or_else(|| {
            Some(Self {
                name,
                path: path.to_owned(),
                form,
                socket: None,
                waiting: VecDeque::new(),
                lost: 0,
            })
        })
    }

    fn tell(&mut self, event: &Event) {
        if self.waiting.len() >= MAX_WAITING {
            return self.lose(1, &"it does not read");
        }
        self.waiting.push_back((self.form)(event));
    }

    fn flush(&mut self) {
        while let Some(datagram) = self.waiting.front() {
            match send(&mut self.socket, &self.path, datagram) {
                Ok(()) => {
                    self.waiting.pop_front();
                    let lost = std::mem::take(&mut self.lost);
                    if lost > 0 {
                        tracing::info!(lost, "{} takes events again", self.name);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    let lost = std::mem::take(&mut self.waiting).len();
                    self.socket = None;
                    self.lose(u64::try_from(lost).unwrap_or(u64::MAX), &error);
                }
            }
        }
    }

    fn lose(&mut self, count: u64, why: &dyn std::fmt::Display) {
        if self.lost == 0 {
            let (name, path) = (self.name, self.path.display());
            tracing::warn!("events do not reach {name} at {path}: {why}");
        }
        self.lost += count;
    }
}

/// Sends a datagram; once more, on a new socket, if who was there before has gone.
fn send(socket: &mut Option<UnixDatagram>, path: &Path, datagram: &[u8]) -> io::Result<()> {
    if let Some(connected) = socket {
        match connected.try_send(datagram) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(_) => {}
        }
    }
    let connected = UnixDatagram::unbound()?;
    connected.connect(path)?;
    let connected = socket.insert(connected);
    connected.try_send(datagram).map(drop)
}

/// What syslog has for daemons, and the severity.
fn syslog_line(event: &Event) -> Vec<u8> {
    const DAEMON: u8 = 3 << 3;
    let time = event.time.unwrap_or(Timestamp::UNIX_EPOCH);
    let time = time.to_zoned_datetime(TimeZone::system());
    let line = format!(
        "<{}>{} respawn[{}]: {}",
        DAEMON | severity(event),
        time.strftime("%b %e %H:%M:%S"),
        std::process::id(),
        message(event)
    );
    cut(&line, SYSLOG_LONGEST).as_bytes().to_vec()
}

/// journald's own protocol, a `KEY=value` a line: no value has a newline in it.
/// <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>
fn journald_fields(event: &Event) -> Vec<u8> {
    let mut text = String::new();
    let mut add = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}={}", cut(value, FIELD_LONGEST));
    };
    add("MESSAGE", &message(event));
    add("PRIORITY", &severity(event).to_string());
    add("SYSLOG_IDENTIFIER", "respawn");
    for (key, value) in variables(event) {
        add(&key, &value);
    }
    text.into_bytes()
}

/// "web: killed by SIGKILL after 3.20s, pid 7"
fn message(event: &Event) -> String {
    let happening = report::happening(event);
    let words = anstream::adapter::strip_str(&happening);
    match &event.service {
        Some(service) => format!("{}: {words}", printable(service)),
        None => words.to_string(),
    }
}

/// As in syslog: 3 is an error, 4 a warning, 6 for information.
fn severity(event: &Event) -> u8 {
    match &event.what {
        What::Failed { .. } => 3,
        What::Exited(exit) if exit.cause == (Cause::Exited { code: 0 }) => 6,
        What::Exited(_)
        | What::Backoff { .. }
        | What::WentToBackground { .. }
        | What::StepFailed { .. }
        | What::EventsLost { .. }
        | What::JournalGap { .. } => 4,
        _ => 6,
    }
}

/// The text's beginning, of at most so many bytes.
fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(event: &Value) -> Event {
        event.to_string().parse().unwrap()
    }

    fn exited(cause: Value) -> Event {
        event(
            &json!({"event": "exited", "time": "2026-01-02T03:04:05Z", "service": "web", "pid": 7,
            "uptime_ns": 3_200_000_000_u64, "cause": cause}),
        )
    }

    #[test]
    fn a_line_is_as_syslog_wants_it() {
        let killed = exited(json!({"kind": "signaled", "signal": "SIGKILL", "core_dumped": false}));
        let line = String::from_utf8(syslog_line(&killed)).unwrap();
        let pid = std::process::id();
        assert!(line.starts_with("<28>Jan  "), "{line}");
        let end = format!(" respawn[{pid}]: web: killed by SIGKILL after 3.20s, pid 7");
        assert!(line.ends_with(&end), "{line}");
        // "<28>Jan  2 03:04:05"
        assert_eq!(line.find(" respawn"), Some(19), "{line}");
    }

    #[test]
    fn journald_gets_fields() {
        let event = event(&json!({"event": "failed", "service": "web", "reason": "a\nb"}));
        assert_eq!(
            String::from_utf8(journald_fields(&event)).unwrap(),
            "MESSAGE=web: failed: a\\nb\nPRIORITY=3\nSYSLOG_IDENTIFIER=respawn\n\
             RESPAWN_EVENT=failed\nRESPAWN_SERVICE=web\nRESPAWN_REASON=a\\nb\n"
        );
    }

    #[test]
    fn long_ones_are_cut_between_characters() {
        let reason = "ä".repeat(100_000);
        let event = event(&json!({"event": "failed", "service": "web", "reason": reason}));
        let line = syslog_line(&event);
        assert!((SYSLOG_LONGEST - 1..=SYSLOG_LONGEST).contains(&line.len()));
        assert!(String::from_utf8(line).is_ok());
        let fields = String::from_utf8(journald_fields(&event)).unwrap();
        assert!(fields.len() < 3 * FIELD_LONGEST);
    }

    #[test]
    fn success_is_no_warning() {
        let code = |code: u8| exited(json!({"kind": "exited", "code": code, "core_dumped": false}));
        assert_eq!(severity(&code(0)), 6);
        assert_eq!(severity(&code(1)), 4);
        assert_eq!(severity(&event(&json!({"event": "started"}))), 6);
    }
}

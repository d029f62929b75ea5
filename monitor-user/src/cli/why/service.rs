//! Why a service of the agent died, by its journal, in words.

use std::time::Duration;

use anstyle::Style;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::words::{self, Whereabouts, no_sender, of_sender, since, whereabouts};
use crate::accounts::Accounts;
use crate::deaths::ServiceDeath;
use crate::journal::JournalLine;
use crate::model::{Cause, What};
use crate::os::proc;
use crate::report::{Age, cause_style, happening};
use crate::text::printable;

/// How long before a main process is ended by a signal the end of another process is told with it. One
/// that ends by itself may have waited longer.
const RELATED: Duration = Duration::from_secs(10);

/// What is told of it.
impl ServiceDeath {
    pub(super) fn json(&self) -> Value {
        let whereabouts = self.sender().and_then(whereabouts);
        let (lives, command) = match whereabouts {
            Some(Whereabouts::Lives(command)) => (Some(true), Some(command)),
            Some(Whereabouts::Ended) => (Some(false), None),
            None => (None, None),
        };
        let all = |lines: &[JournalLine]| lines.iter().map(JournalLine::value).collect::<Vec<_>>();
        json!({
            "service": self.service,
            "requested": self.requested.as_ref().map(JournalLine::value),
            "stopping": self.stopping.as_ref().map(JournalLine::value),
            "child": self.child.as_ref().map(JournalLine::value),
            "exited": self.exited.value(),
            "sender_lives": lives,
            "sender_command": command,
            "then": all(&self.then),
            "next_exit": self.next.as_ref().map(JournalLine::value),
        })
    }

    /// In words, a line each, with colours.
    pub(super) fn lines(&self, zone: &TimeZone, accounts: &Accounts) -> Vec<String> {
        let cause = &self.exit.cause;
        let style = cause_style(cause);
        let bold = Style::new().bold();
        let name = printable(&self.service);
        let what = printable(&cause.to_string());
        let mut lines = vec![format!("{bold}{name}{bold:#} {style}{what}{style:#}")];
        let mut say = |topic: &str, words: Option<String>| {
            if let Some(words) = words {
                lines.push(format!("  {topic:<8}{}", printable(&words)));
            }
        };
        say("when", Some(words::when(&self.exited, &self.exit, zone)));
        say("stopped", self.stopped());
        say("sender", self.sender_words(accounts));
        say("asked", self.asked(accounts));
        say("before", self.child());
        say("memory", words::memory(cause));
        let of = &self.exit.circumstances;
        say("used", of.usage.as_ref().map(words::used));
        say("core", of.core.as_ref().map(words::core));
        for (index, line) in self.last_output().lines().enumerate() {
            say(
                if index == 0 { "output" } else { "" },
                Some(line.to_owned()),
            );
        }
        for (index, line) in self.then.iter().enumerate() {
            let words = in_words(line);
            let after = self.after(line);
            say(
                if index == 0 { "then" } else { "" },
                Some(format!("{words}{after}")),
            );
        }
        say("now", self.outcome());
        lines
    }

    /// What of the agent's doing it was.
    fn stopped(&self) -> Option<String> {
        let what = self.stopping.as_ref().map(|line| &line.event.what);
        let (signal, reason) = match what {
            Some(What::Stopping { signal, reason, .. }) => (
                Some(signal.map_or_else(|| "no signal".to_owned(), |signal| signal.to_string())),
                reason.clone(),
            ),
            _ => (None, None),
        };
        let request = self.requested.as_ref().map(in_words);
        match (signal, reason.or(request)) {
            (Some(signal), Some(request)) => {
                Some(format!("by the agent, which had sent {signal}: {request}"))
            }
            (Some(signal), None) => Some(format!("by the agent, which had sent {signal}")),
            (None, Some(request)) => Some(format!("by the agent: {request}")),
            (None, None) => None,
        }
    }

    fn sender_words(&self, accounts: &Accounts) -> Option<String> {
        let Cause::Signaled { origin, .. } = &self.exit.cause else {
            return None;
        };
        let Some(sender) = &origin.sender else {
            return Some(match origin.how {
                Some(how) => match no_sender(how) {
                    Some(words) => format!("none: {words}"),
                    None => "unknown".to_owned(),
                },
                None => "unknown".to_owned(),
            });
        };
        Some(of_sender(sender, origin.how, accounts))
    }

    /// What had asked it to end, if it then ended by itself.
    fn asked(&self, accounts: &Accounts) -> Option<String> {
        let last = self.exit.circumstances.last_signal.as_ref()?;
        let signal = last.signal;
        let before = Age(Duration::from_nanos(last.before_exit_ns));
        let sender = match (&last.sender, last.how.and_then(no_sender)) {
            (Some(sender), _) => format!("from {}", of_sender(sender, last.how, accounts)),
            (None, Some(words)) => format!("without a sender: {words}"),
            (None, None) => "from an unknown sender".to_owned(),
        };
        Some(format!("to end by {signal} {before} before, {sender}"))
    }

    /// Which of its other processes had ended last, if that may have led to the end.
    fn child(&self) -> Option<String> {
        let child = self.child.as_ref()?;
        let before = since(child.time()?, self.exited.time()?);
        let is_own = matches!(self.exit.cause, Cause::Exited { .. });
        if !is_own && before > RELATED {
            return None;
        }
        Some(format!("{}, {} earlier", in_words(child), Age(before)))
    }

    fn last_output(&self) -> &str {
        let output = self.exit.circumstances.last_output.as_deref();
        output.unwrap_or_default()
    }

    /// How long after the death an event came.
    fn after(&self, line: &JournalLine) -> String {
        match (self.exited.time(), line.time()) {
            (Some(exited), Some(time)) => format!(", {} later", Age(since(exited, time))),
            _ => String::new(),
        }
    }

    /// What became of what was started again.
    fn outcome(&self) -> Option<String> {
        if let Some(next) = &self.next {
            return Some(format!("that one is dead too: {}", in_words(next)));
        }
        let started = |line: &JournalLine| match &line.event.what {
            what @ (What::Started { .. }
            | What::Adopted { .. }
            | What::Replaced { .. }
            | What::MainChanged { .. }) => what.instance(),
            _ => None,
        };
        let instance = self.then.iter().rev().find_map(started)?;
        let runs = proc::stat(instance.pid)
            .is_ok_and(|stat| stat.start_time_ns == instance.start_time_ns && !stat.is_zombie());
        let pid = instance.pid;
        if !runs {
            return Some(format!(
                "pid {pid} has ended as well, and no agent has reported it yet"
            ));
        }
        let uptime = proc::since_boot_ns().saturating_sub(instance.start_time_ns);
        let uptime = Age(Duration::from_nanos(uptime));
        Some(format!("pid {pid}, running for {uptime}"))
    }
}

/// An event in plain words.
fn in_words(line: &JournalLine) -> String {
    anstream::adapter::strip_str(&happening(&line.event)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deaths::ServiceDeaths;

    fn line(event: &Value) -> JournalLine {
        JournalLine::parse(event.to_string()).unwrap()
    }

    fn death(exited: Value, then: Vec<Value>, next: Option<Value>) -> Vec<String> {
        let exited = line(&exited);
        let What::Exited(exit) = exited.event.what.clone() else {
            panic!("{exited:?}");
        };
        let death = ServiceDeath {
            service: "web".to_owned(),
            stopping: None,
            requested: None,
            child: None,
            exited,
            exit: *exit,
            then: then.iter().map(line).collect(),
            next: next.as_ref().map(line),
        };
        let lines = death.lines(&TimeZone::UTC, &Accounts::of_this_host());
        let plain = |line: &String| anstream::adapter::strip_str(line).to_string();
        lines.iter().map(plain).collect()
    }

    #[test]
    fn a_kill_is_told_with_its_sender() {
        let lines = death(
            json!({"event": "exited", "time": "2026-07-24T12:00:00Z", "service": "web", "pid": 7,
                "comm": "nginx", "uptime_ns": 192_000_000_000_u64,
                "cause": {"kind": "signaled", "signal": "SIGKILL", "code": null,
                    "core_dumped": false, "how": "pidfd",
                    "sender": {"pid": 4_194_304, "start_time_ns": 0, "uid": 0, "comm": "evil\u{1b}[2J",
                        "parent": {"pid": 1, "comm": "init"}}},
                "usage": {"user_ns": 1_500_000, "system_ns": 0, "max_rss_bytes": 3_145_728,
                    "threads": 2, "read_bytes": 0, "written_bytes": 4096}}),
            vec![
                json!({"event": "backoff", "time": "2026-07-24T12:00:00.001Z", "delay_ns": 0}),
                json!({"event": "started", "time": "2026-07-24T12:00:00.002Z", "pid": 8, "restarts": 1}),
            ],
            Some(
                json!({"event": "exited", "pid": 8, "cause": {"kind": "exited", "code": 3,
                "signal": null, "core_dumped": false}}),
            ),
        );
        assert_eq!(
            lines[0],
            "web killed by SIGKILL from evil\\u{1b}[2J (pid 4194304, uid 0)"
        );
        assert!(
            lines[1].starts_with("  when    2026-07-24 12:00:00.000, "),
            "{lines:?}"
        );
        assert!(
            lines[1].ends_with(" ago, after 3m12s, pid 7 (nginx)"),
            "{lines:?}"
        );
        assert_eq!(
            lines[2..],
            [
                "  sender  evil\\u{1b}[2J, pid 4194304, uid 0 (root), child of init (pid 1), by \
                 pidfd_send_signal(2); it has ended",
                "  used    at most 3.0 MiB of memory, 1.5ms of CPU in user mode, 0us in the kernel, \
                 2 threads, 0 B read, 4.0 KiB written",
                "  then    next start at once, 1.0ms later",
                "          started pid 8, restart 1, 2.0ms later",
                "  now     that one is dead too: exited with 3, pid 8",
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let lines = death(
            json!({"event": "exited", "pid": 7, "cause": null}),
            vec![],
            None,
        );
        assert_eq!(
            lines,
            [
                "web gone, cause unknown",
                "  when    at an unknown time, pid 7"
            ]
        );
        let unknown = json!({"kind": "signaled", "signal": "SIGKILL", "code": null,
            "core_dumped": false});
        let lines = death(
            json!({"event": "exited", "pid": 7, "cause": unknown}),
            vec![],
            None,
        );
        assert_eq!(lines[2], "  sender  unknown");
    }

    #[test]
    fn a_request_is_told_beside_the_exit() {
        let lines = death(
            json!({"event": "exited", "pid": 7,
                "cause": {"kind": "exited", "code": 0, "signal": null, "core_dumped": false},
                "last_signal": {"signal": "SIGTERM", "before_exit_ns": 2_000_000, "how": "kill",
                    "sender": {"pid": 4_194_304, "start_time_ns": 0, "uid": 12345, "comm": "bash"}},
                "core": null, "last_output": "one\ntwo\n"}),
            vec![json!({"event": "stopped"})],
            None,
        );
        assert_eq!(
            lines[2..],
            [
                "  asked   to end by SIGTERM 2.0ms before, from bash, pid 4194304, uid 12345, by \
                 kill(2); it has ended",
                "  output  one",
                "          two",
                "  then    stopped",
            ]
        );
    }

    fn last_death(events: &[Value]) -> ServiceDeath {
        let mut lines = events.iter().map(line);
        let mut told = ServiceDeaths::read("web", 1, || Ok(lines.next())).unwrap();
        told.deaths.pop().unwrap()
    }

    /// What was told to have stopped the last one to die.
    fn stopped(events: &[Value]) -> Option<String> {
        last_death(events).stopped()
    }

    #[test]
    fn the_last_other_process_to_end_is_told_with_the_main_one() {
        let child = |pid: u64, time: &str| {
            json!({"event": "child_exited", "service": "web", "pid": pid, "comm": "beam.smp",
                "time": time, "left_out": 0, "cause": {"kind": "signaled", "signal": "SIGKILL",
                "core_dumped": false}})
        };
        let exited = |cause: Value| {
            json!({"event": "exited", "service": "web", "pid": 7, "time": "2026-07-24T12:00:30Z",
                "cause": cause})
        };
        let own = json!({"kind": "exited", "code": 0, "core_dumped": false});
        let killed = json!({"kind": "signaled", "signal": "SIGKILL", "core_dumped": false});
        let told = |events: &[Value]| last_death(events).child();
        let (first, last) = (
            child(8, "2026-07-24T12:00:00Z"),
            child(9, "2026-07-24T12:00:10Z"),
        );
        let words = "its process beam.smp killed by SIGKILL, pid 9, 20.00s earlier";
        assert_eq!(
            told(&[first.clone(), last.clone(), exited(own.clone())]).as_deref(),
            Some(words)
        );
        // Too long before, of an earlier instance, and none.
        assert_eq!(told(&[first.clone(), exited(killed)]), None);
        let started = json!({"event": "started", "service": "web", "pid": 7});
        assert_eq!(told(&[first, started, exited(own.clone())]), None);
        assert_eq!(told(&[exited(own)]), None);
    }

    #[test]
    fn a_stop_is_told_by_what_led_to_it_alone() {
        let agent = json!({"event": "agent_started", "service": null, "pid": 50});
        let request = |command: &str, service: Value, signal: Value| {
            json!({"event": "requested", "service": service, "command": command, "signal": signal,
                "by": {"pid": 3, "uid": 0}})
        };
        let stopping = json!({"event": "stopping", "service": "web", "pid": 7, "start_time_ns": 1, "signal": "SIGTERM"});
        let exited = |pid: u64| {
            json!({"event": "exited", "service": "web", "pid": 7, "start_time_ns": 1,
                "cause": {"kind": "signaled", "signal": "SIGHUP", "core_dumped": false,
                    "sender": {"pid": pid, "start_time_ns": 0, "uid": 0, "comm": "respawn"}}})
        };
        let hup = request("signal", json!("web"), json!("SIGHUP"));
        let reload = request("reload", Value::Null, Value::Null);
        let all = request("stop", Value::Null, Value::Null);
        let others = request("stop", json!("db"), Value::Null);
        let by_agent = |what: &str| Some(format!("by the agent{what} asked for by uid 0, pid 3"));

        let told = stopped(&[agent.clone(), all, stopping.clone(), exited(50)]);
        assert_eq!(told, by_agent(", which had sent SIGTERM: stop"));
        let told = stopped(&[
            reload.clone(),
            others.clone(),
            hup.clone(),
            stopping.clone(),
            exited(50),
        ]);
        assert_eq!(told, by_agent(", which had sent SIGTERM: reload"));
        // An earlier agent's reload has led to nothing.
        let told = stopped(&[reload, agent.clone(), stopping, exited(50)]);
        assert_eq!(
            told,
            Some("by the agent, which had sent SIGTERM".to_owned())
        );
        let told = stopped(&[agent.clone(), hup.clone(), exited(50)]);
        assert_eq!(told, by_agent(": signal SIGHUP"));
        // Handled, and then somebody else sent the same.
        assert_eq!(stopped(&[agent.clone(), hup, exited(51)]), None);
        assert_eq!(stopped(&[agent, others, exited(51)]), None);
    }
}

//! `respawn why`: a service's last deaths in a few plain lines each. Reads the journal itself, so
//! that it needs no agent; only whether somebody still lives is asked of the host.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anstyle::Style;
use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};

use super::events::no_agent;
use super::output::{Interrupts, Output, eprint_line};
use super::{Global, complete};
use crate::accounts::Accounts;
use crate::clock;
use crate::control;
use crate::journal::{Reader, time_of};
use crate::model::{Cause, How, Instance, Sender};
use crate::os::proc;
use crate::report::{Age, Bytes, cause_style, happening, requested};
use crate::text::printable;

/// How long before a main process is ended by a signal the end of another process is told with it. One
/// that ends by itself may have waited longer.
const RELATED: Duration = Duration::from_secs(10);

/// Tell why a service died
///
/// Tells the last death, or with `-n` the last few, newest first: what ended it, when, who sent the
/// signal and whether that process still lives, how long the service had lived and what it had
/// used, what was done about it and what came of it. Reads the agent's journal, which needs no
/// living agent. Exits with 1 if the journal does not know the service.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The service
    #[arg(value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
    service: String,
    /// How many deaths to tell
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Print one JSON object for each death
    #[arg(long)]
    json: bool,
}

/// Tells, and ends.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(why(&global.runtime_dir, arguments));
    runtime.shutdown_background();
    result
}

async fn why(dir: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    let mut reader = Reader::open(dir)?;
    if reader.is_missing() && !control::socket(dir).exists() {
        return Ok(no_agent(dir));
    }
    let count = usize::try_from(arguments.count).unwrap_or(usize::MAX);
    let told = Deaths::read(&mut reader, &arguments.service, count)?;
    if !told.is_known {
        eprint_line(&format!(
            "the journal has nothing of a service {:?}; `respawn status` lists the services",
            arguments.service
        ));
        return Ok(ExitCode::FAILURE);
    }
    let mut output = Output::new();
    if told.deaths.is_empty() && !arguments.json {
        let name = printable(&arguments.service);
        output.line(&format!("{name} has not died, as far as the journal goes"));
        if let Some(trouble) = &told.trouble {
            output.line(&format!("  but     {}", happening(trouble)));
        }
    }
    let zone = TimeZone::system();
    let accounts = Accounts::of_this_host();
    for (index, death) in told.deaths.iter().rev().enumerate() {
        if arguments.json {
            output.json(&death.json())?;
            continue;
        }
        if index > 0 {
            output.line("");
        }
        for line in death.lines(&zone, &accounts) {
            output.line(&line);
        }
    }
    output.flush(&mut interrupts).await?;
    Ok(ExitCode::SUCCESS)
}

/// The last deaths of a service, oldest first.
#[derive(Default)]
struct Deaths {
    is_known: bool,
    deaths: Vec<Death>,
    /// Why it could not be started, or was given up, if it has not run since.
    trouble: Option<Value>,
}

/// A death, and what came of it.
struct Death {
    service: String,
    exited: Value,
    /// What the agent did to end it before, if it did.
    stopping: Option<Value>,
    /// What somebody had asked of the agent that led to it.
    requested: Option<Value>,
    /// The last of its other processes that a signal had ended before.
    child: Option<Value>,
    /// What the journal tells of the service from there to the next death.
    then: Vec<Value>,
    /// The death that ended what came of it.
    next: Option<Value>,
}

/// What may lead to the next death.
#[derive(Default)]
struct Before {
    /// Pid of the agent that works.
    agent: Option<u64>,
    /// The last request that may have the agent stop the service; none is older than the agent.
    request: Option<Value>,
    /// The last request for a signal to it.
    signal_request: Option<Value>,
    /// The last stop, and what had led to that.
    stopping: Option<(Value, Option<Value>)>,
    /// The last end of another process of the instance that runs.
    child: Option<Value>,
}

impl Deaths {
    /// Reads a journal to its end.
    fn read(reader: &mut Reader, service: &str, count: usize) -> Result<Self> {
        let mut told = Self::default();
        let mut before = Before::default();
        while let Some(line) = reader.next()? {
            told.take(line.event, service, count, &mut before);
        }
        Ok(told)
    }

    fn take(&mut self, event: Value, service: &str, count: usize, before: &mut Before) {
        let is_of_it = event["service"] == *service;
        if !is_of_it && !event["service"].is_null() {
            return;
        }
        before.take(&event);
        if !is_of_it {
            return;
        }
        self.is_known = true;
        match event["event"].as_str() {
            Some("backoff") if event["message"].is_string() => self.trouble = Some(event.clone()),
            Some("failed") => self.trouble = Some(event.clone()),
            Some("started") => self.trouble = None,
            _ => {}
        }
        let last = self.deaths.last_mut();
        if event["event"] != "exited" {
            if event["event"] != "child_exited"
                && let Some(death) = last
            {
                death.then.push(event);
            }
            return;
        }
        if let Some(death) = last {
            death.next = Some(event.clone());
        }
        if self.deaths.len() == count {
            self.deaths.remove(0);
        }
        self.deaths.push(before.led_to(event, service));
    }
}

impl Before {
    fn take(&mut self, event: &Value) {
        match event["event"].as_str() {
            Some("agent_started") => {
                self.agent = event["pid"].as_u64();
                self.request = None;
            }
            Some("requested") if event["command"] == "signal" => {
                self.signal_request = Some(event.clone());
            }
            Some("requested") if event["command"] != "start" => self.request = Some(event.clone()),
            // The agent stops what it was asked to stop at once, so this is what led to it.
            Some("stopping") => self.stopping = Some((event.clone(), self.request.take())),
            Some("started") => self.child = None,
            Some("child_exited") => self.child = Some(event.clone()),
            _ => {}
        }
    }

    fn led_to(&mut self, exited: Value, service: &str) -> Death {
        let signal_request = self.signal_request.take().filter(|request| {
            let cause = &exited["cause"];
            let by_agent = self.agent.is_some() && cause["sender"]["pid"].as_u64() == self.agent;
            by_agent && request["signal"] == cause["signal"]
        });
        let stop = self.stopping.take();
        let stop = stop.filter(|(stopping, _)| is_same_instance(stopping, &exited));
        let (stopping, requested) = match stop {
            Some((stopping, request)) => (Some(stopping), request),
            None => (None, signal_request),
        };
        Death {
            service: service.to_owned(),
            child: self.child.take(),
            exited,
            stopping,
            requested,
            then: Vec::new(),
            next: None,
        }
    }
}

/// What the host knows of a sender now.
enum Whereabouts {
    /// It lives; its command line.
    Lives(Vec<String>),
    Ended,
}

impl Death {
    fn cause(&self) -> Cause {
        Cause::deserialize(&self.exited["cause"]).unwrap_or(Cause::Unknown)
    }

    /// Who sent the signal that ended it, or asked it to end.
    fn sender(&self) -> Option<Sender> {
        let of = |value: &Value| Sender::deserialize(&value["sender"]).ok();
        of(&self.exited["cause"]).or_else(|| of(&self.exited["last_signal"]))
    }

    fn json(&self) -> Value {
        let whereabouts = self.sender().as_ref().and_then(whereabouts);
        let (lives, command) = match whereabouts {
            Some(Whereabouts::Lives(command)) => (Some(true), Some(command)),
            Some(Whereabouts::Ended) => (Some(false), None),
            None => (None, None),
        };
        json!({
            "service": self.service,
            "requested": self.requested,
            "stopping": self.stopping,
            "child": self.child,
            "exited": self.exited,
            "sender_lives": lives,
            "sender_command": command,
            "then": self.then,
            "next_exit": self.next,
        })
    }

    /// In words, a line each, with colours.
    fn lines(&self, zone: &TimeZone, accounts: &Accounts) -> Vec<String> {
        let cause = self.cause();
        let style = cause_style(&cause);
        let bold = Style::new().bold();
        let name = printable(&self.service);
        let what = printable(&cause.to_string());
        let mut lines = vec![format!("{bold}{name}{bold:#} {style}{what}{style:#}")];
        let mut say = |topic: &str, words: Option<String>| {
            if let Some(words) = words {
                lines.push(format!("  {topic:<8}{}", printable(&words)));
            }
        };
        say("when", Some(self.when(zone)));
        say("stopped", self.stopped());
        say("sender", self.sender_words(&cause, accounts));
        say("asked", self.asked(accounts));
        say("before", self.child());
        say("memory", self.memory(&cause));
        say("used", self.used());
        say("core", self.core());
        for (index, line) in self.last_output().lines().enumerate() {
            say(
                if index == 0 { "output" } else { "" },
                Some(line.to_owned()),
            );
        }
        for (index, event) in self.then.iter().enumerate() {
            let words = anstream::adapter::strip_str(&happening(event)).to_string();
            let after = self.after(event);
            say(
                if index == 0 { "then" } else { "" },
                Some(format!("{words}{after}")),
            );
        }
        say("now", self.outcome());
        lines
    }

    fn when(&self, zone: &TimeZone) -> String {
        let event = &self.exited;
        let pid = event["pid"].as_u64().unwrap_or_default();
        let time = time_of(event).map_or_else(
            || "at an unknown time".to_owned(),
            |time| {
                let ago = Age(since(time, clock::now()));
                let local = time.to_zoned(zone.clone());
                format!("{}, {ago} ago", local.strftime("%Y-%m-%d %H:%M:%S%.3f"))
            },
        );
        let lived = event["uptime_ns"].as_u64().map_or_else(String::new, |ns| {
            format!(", after {}", Age(Duration::from_nanos(ns)))
        });
        let comm = event["comm"]
            .as_str()
            .map_or_else(String::new, |comm| format!(" ({comm})"));
        format!("{time}{lived}, pid {pid}{comm}")
    }

    /// What of the agent's doing it was.
    fn stopped(&self) -> Option<String> {
        let stopping = self.stopping.as_ref();
        let signal = stopping.map(|stopping| stopping["signal"].as_str().unwrap_or("?"));
        let request = self.requested.as_ref().map(requested);
        match (signal, request) {
            (Some(signal), Some(request)) => {
                Some(format!("by the agent, which had sent {signal}: {request}"))
            }
            (Some(signal), None) => Some(format!("by the agent, which had sent {signal}")),
            (None, Some(request)) => Some(format!("by the agent: {request}")),
            (None, None) => None,
        }
    }

    fn sender_words(&self, cause: &Cause, accounts: &Accounts) -> Option<String> {
        let Cause::Signaled { origin, .. } = cause else {
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
        let last = &self.exited["last_signal"];
        let signal = last["signal"].as_str()?;
        let before = last["before_exit_ns"]
            .as_u64()
            .map_or_else(String::new, |ns| {
                format!(" {} before", Age(Duration::from_nanos(ns)))
            });
        let how = How::deserialize(&last["how"]).ok();
        let sender = match Sender::deserialize(&last["sender"]) {
            Ok(sender) => format!("from {}", of_sender(&sender, how, accounts)),
            Err(_) => match how.and_then(no_sender) {
                Some(words) => format!("from nobody: {words}"),
                None => "from an unknown sender".to_owned(),
            },
        };
        Some(format!("to end by {signal}{before}, {sender}"))
    }

    /// Which of its other processes had ended last, if that may have led to the end.
    fn child(&self) -> Option<String> {
        let child = self.child.as_ref()?;
        let before = since(time_of(child)?, time_of(&self.exited)?);
        let is_own = self.exited["cause"]["kind"] == "exited";
        if !is_own && before > RELATED {
            return None;
        }
        let words = anstream::adapter::strip_str(&happening(child)).to_string();
        Some(format!("{words}, {} earlier", Age(before)))
    }

    fn memory(&self, cause: &Cause) -> Option<String> {
        let Cause::OomKilled(kill) = cause else {
            return None;
        };
        let anon = kill.anon_rss_bytes?;
        let total = kill.total_vm_bytes.unwrap_or_default();
        let score = kill.oom_score_adj.unwrap_or_default();
        Some(format!(
            "{} resident and its own, {} of address space, oom_score_adj {score}",
            Bytes(anon),
            Bytes(total)
        ))
    }

    fn used(&self) -> Option<String> {
        let usage = &self.exited["usage"];
        let number = |key: &str| usage[key].as_u64();
        let time = |key: &str| Age(Duration::from_nanos(number(key).unwrap_or_default()));
        let mut words = format!(
            "at most {} of memory, {} of CPU in user mode, {} in the kernel",
            Bytes(number("max_rss_bytes")?),
            time("user_ns"),
            time("system_ns")
        );
        if let Some(threads) = number("threads") {
            words += &format!(", {threads} thread{}", if threads == 1 { "" } else { "s" });
        }
        if let (Some(read), Some(written)) = (number("read_bytes"), number("written_bytes")) {
            words += &format!(", {} read, {} written", Bytes(read), Bytes(written));
        }
        Some(words)
    }

    fn core(&self) -> Option<String> {
        let core = &self.exited["core"];
        let pattern = core["pattern"].as_str()?;
        Some(match (core["piped_to"].as_str(), core["file"].as_str()) {
            (Some(program), _) => format!("dumped to the program {program}"),
            (_, Some(file)) if file.starts_with('/') => format!("dumped to {file}"),
            (_, Some(file)) => format!("dumped to {file} in its working directory"),
            _ => format!("dumped by the pattern {pattern}"),
        })
    }

    fn last_output(&self) -> &str {
        self.exited["last_output"].as_str().unwrap_or_default()
    }

    /// How long after the death an event came.
    fn after(&self, event: &Value) -> String {
        match (time_of(&self.exited), time_of(event)) {
            (Some(exited), Some(time)) => format!(", {} later", Age(since(exited, time))),
            _ => String::new(),
        }
    }

    /// What became of what was started again.
    fn outcome(&self) -> Option<String> {
        if let Some(next) = &self.next {
            let words = anstream::adapter::strip_str(&happening(next)).to_string();
            return Some(format!("that one is dead too: {words}"));
        }
        let last = self.then.iter().rev();
        let started = last
            .into_iter()
            .find(|event| event["event"] == "started" || event["event"] == "adopted")?;
        let instance = Instance {
            pid: u32::try_from(started["pid"].as_u64()?).ok()?,
            start_time_ns: started["start_time_ns"].as_u64()?,
        };
        let runs = proc::stat(instance.pid)
            .is_ok_and(|stat| stat.start_time_ns == instance.start_time_ns && !stat.is_zombie());
        let pid = instance.pid;
        if !runs {
            return Some(format!(
                "pid {pid} is gone as well, and no agent has told of it yet"
            ));
        }
        let uptime = proc::since_boot_ns().saturating_sub(instance.start_time_ns);
        let uptime = Age(Duration::from_nanos(uptime));
        Some(format!("pid {pid} runs, for {uptime} by now"))
    }
}

/// "sh, pid 12, uid 0 (root), child of init (pid 1)"
fn of_sender(sender: &Sender, how: Option<How>, accounts: &Accounts) -> String {
    let way = how.and_then(way).unwrap_or_default();
    if sender.itself {
        return format!("the process itself{way}");
    }
    let user = accounts.user_of(sender.uid).ok().flatten();
    let user = user.map_or_else(String::new, |user| format!(" ({})", user.name));
    let pid = match sender.pid {
        0 => format!("pid {} of the host", sender.host_pid),
        pid => format!("pid {pid}"),
    };
    let parent = sender.parent.as_ref().map_or_else(String::new, |parent| {
        format!(", child of {} (pid {})", parent.comm, parent.pid)
    });
    let own = if sender.own { ", of the service" } else { "" };
    let now = match whereabouts(sender) {
        Some(Whereabouts::Lives(command)) => format!("; it lives: {}", command.join(" ")),
        Some(Whereabouts::Ended) => "; it has ended".to_owned(),
        None => String::new(),
    };
    format!(
        "{}, {pid}, uid {}{user}{own}{parent}{way}{now}",
        sender.comm, sender.uid
    )
}

fn is_same_instance(one: &Value, other: &Value) -> bool {
    one["pid"] == other["pid"] && one["start_time_ns"] == other["start_time_ns"]
}

/// By which call, in words that follow the sender's.
fn way(how: How) -> Option<&'static str> {
    Some(match how {
        How::Kill => ", by kill(2)",
        How::Tkill => ", by tkill(2)",
        How::Tgkill => ", by tgkill(2)",
        How::Sigqueue => ", by rt_sigqueueinfo(2)",
        How::Pidfd => ", by pidfd_send_signal(2)",
        How::CgroupKill => ", by a write to cgroup.kill",
        How::ParentDeath => ", its parent, by dying (PR_SET_PDEATHSIG)",
        How::ParentThreadDeath => {
            ", its parent, by the end of the thread that had forked it (PR_SET_PDEATHSIG)"
        }
        How::NamespaceEnd => ", init of its PID namespace, by ending",
        How::TracerEnd => ", its tracer, by ending (PTRACE_O_EXITKILL)",
        How::Fault => ", by a fault",
        How::CpuLimit
        | How::Seccomp
        | How::Terminal
        | How::Hangup
        | How::Timer
        | How::BrokenPipe
        | How::FileSizeLimit
        | How::Notification
        | How::Kernel => return None,
    })
}

/// What had the kernel send a signal that no process has sent.
fn no_sender(how: How) -> Option<&'static str> {
    Some(match how {
        How::Kernel => "the kernel sent it",
        How::Seccomp => "seccomp ended it",
        How::CpuLimit => "its CPU time was used up (RLIMIT_CPU)",
        How::Terminal => "somebody pressed the key for it at its terminal",
        How::Hangup => "its terminal was closed, or its session's leader ended",
        How::Timer => "a timer that it had set ran out (alarm, setitimer or timer_create)",
        How::BrokenPipe => "it wrote to a pipe or socket that nobody reads",
        How::FileSizeLimit => "it wrote past its limit on the size of files (RLIMIT_FSIZE)",
        How::Notification => "it had asked to be notified by it (O_ASYNC or mq_notify)",
        _ => return None,
    })
}

/// `None`: it cannot be looked at from here.
fn whereabouts(sender: &Sender) -> Option<Whereabouts> {
    if sender.pid == 0 || sender.itself {
        return None;
    }
    let lives = proc::stat(sender.pid)
        .is_ok_and(|stat| stat.start_time_ns == sender.start_time_ns && !stat.is_zombie());
    if !lives {
        return Some(Whereabouts::Ended);
    }
    let command = proc::command_line(sender.pid).unwrap_or_default();
    Some(Whereabouts::Lives(command))
}

fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    later.duration_since(earlier).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(exited: Value, then: Vec<Value>, next: Option<Value>) -> Vec<String> {
        let death = Death {
            service: "web".to_owned(),
            stopping: None,
            requested: None,
            child: None,
            exited,
            then,
            next,
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
                "  then    next start in 0us, 1.0ms later",
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

    /// What was told to have stopped the last one to die.
    fn stopped(events: &[Value]) -> Option<String> {
        let mut told = Deaths::default();
        let mut before = Before::default();
        for event in events {
            told.take(event.clone(), "web", 1, &mut before);
        }
        told.deaths.last().unwrap().stopped()
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
        let told = |events: &[Value]| {
            let mut told = Deaths::default();
            let mut before = Before::default();
            for event in events {
                told.take(event.clone(), "web", 1, &mut before);
            }
            told.deaths.last().unwrap().child()
        };
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
        let stopping =
            json!({"event": "stopping", "service": "web", "pid": 7, "signal": "SIGTERM"});
        let exited = |pid: u64| {
            json!({"event": "exited", "service": "web", "pid": 7, "cause": {"kind": "signaled",
                "signal": "SIGHUP", "core_dumped": false, "sender": {"pid": pid}}})
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

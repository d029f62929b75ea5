//! Runs hooks: commands that are told of a service's events. Decides nothing else.
//!
//! ```text
//! event in the journal ─▶ waiting ─▶ running ─▶ ended: reaped, a failure logged
//!                         at most    at most      ▲
//!                         MAX_WAITING `limit`     └ at its timeout: SIGKILL to its group
//! ```
//!
//! Services come first. A hook is started by the agent's loop when nobody waits to be started
//! again, and that of a service which is on its way back only when it is back, or [`HOLD`] has
//! passed. A start that hangs, as on a dead network mount, holds up nothing (`children.rs`). What does not
//! fit in the queue is dropped, counted and told in the log.
//!
//! Hooks are the agent's children, and no services: the kernel records births around the starts of
//! services alone, so no agent adopts a hook. The hooks of an agent that dies run on, untimed; those
//! that wait are lost with it. So for each event a hook runs once at most.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;

use super::children::{Child, ChildEnd};
use crate::config;
use crate::journal::JournalLine;
use crate::model::{Cause, Event, Exec, Hook, Hooks, Notice, Output, ServiceName, What};
use crate::os::spawn::{FdLimit, Spawner};
use crate::text::printable;

/// How many may wait.
const MAX_WAITING: usize = 1024;

/// How long a hook waits for its service to be back.
const HOLD: Duration = Duration::from_secs(1);

/// Hooks that wait, and hooks that run.
pub(super) struct HookRunner {
    spawner: Spawner,
    /// What a hook's environment has beside the event.
    environment: BTreeMap<String, String>,
    /// How many run at once.
    limit: usize,
    waiting: VecDeque<Waiting>,
    /// By pid.
    running: HashMap<u32, Running>,
    /// Those that did not fit in, and have not been told of.
    dropped: u64,
}

/// Whose hook it is, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    service: ServiceName,
    /// "on_exit", …
    hook: &'static str,
}

struct Waiting {
    name: Name,
    hook: Hook,
    /// Of the journal.
    line: JournalLine,
    hold_until: Instant,
}

struct Running {
    name: Name,
    child: Child,
    timeout: Duration,
}

/// The hook that a notice calls for, with its name.
pub(super) fn called_by<'a>(notice: &Notice, hooks: &'a Hooks) -> Option<(&'static str, &'a Hook)> {
    let (name, hook) = match notice {
        Notice::Exited { .. } => ("on_exit", &hooks.on_exit),
        Notice::Started { restarts: 1.., .. } | Notice::Replaced { .. } => {
            ("on_restart", &hooks.on_restart)
        }
        Notice::Failed { .. } => ("on_failed", &hooks.on_failed),
        _ => return None,
    };
    Some((name, hook.as_ref()?))
}

impl HookRunner {
    /// `base`: what a hook's environment begins with. `fd_limit`: as for services.
    pub(super) fn new(
        base: BTreeMap<String, String>,
        runtime_dir: &Path,
        limit: usize,
        fd_limit: Option<FdLimit>,
    ) -> io::Result<Self> {
        let mut environment = base;
        if let Some(path) = runtime_dir.to_str() {
            // So that `respawn status` asks this agent.
            environment.insert("RESPAWN_RUNTIME_DIR".to_owned(), path.to_owned());
        }
        Ok(Self {
            spawner: Spawner::new(fd_limit)?.impatient(),
            environment,
            limit,
            waiting: VecDeque::new(),
            running: HashMap::new(),
            dropped: 0,
        })
    }

    /// How many run at once from now on.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Has a hook run when there is time for it, for an event of the journal.
    pub(super) fn call(
        &mut self,
        service: &ServiceName,
        (name, hook): (&'static str, &Hook),
        line: JournalLine,
        now: Instant,
    ) {
        let name = Name {
            service: service.clone(),
            hook: name,
        };
        if self.waiting.len() >= MAX_WAITING {
            if self.dropped == 0 {
                name.warn(&format!("not run: {MAX_WAITING} hooks wait already"));
            }
            self.dropped += 1;
            return;
        }
        self.tell_dropped();
        self.waiting.push_back(Waiting {
            name,
            hook: hook.clone(),
            line,
            hold_until: now + HOLD,
        });
    }

    fn tell_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            tracing::warn!(dropped, "hooks were not run: too many waited");
        }
    }

    /// Whether one waits that need not wait for the end of another.
    pub(super) fn has_room(&self) -> bool {
        !self.waiting.is_empty() && self.running.len() < self.limit
    }

    /// Starts one, if one may be started: not those of services that are about to come back.
    pub(super) fn start_next(
        &mut self,
        now: Instant,
        is_coming_back: impl Fn(&ServiceName) -> bool,
    ) -> bool {
        if !self.has_room() {
            return false;
        }
        let may_start =
            |waiting: &Waiting| waiting.hold_until <= now || !is_coming_back(&waiting.name.service);
        let found = self.waiting.iter().position(may_start);
        let Some(next) = found.and_then(|index| self.waiting.remove(index)) else {
            return false;
        };
        match self.start(&next, now) {
            Ok(child) => {
                let timeout = next.hook.timeout;
                self.running.insert(
                    child.pid(),
                    Running {
                        name: next.name,
                        child,
                        timeout,
                    },
                );
            }
            Err(error) => next.name.warn(&error.to_string()),
        }
        true
    }

    fn start(&mut self, waiting: &Waiting, now: Instant) -> anyhow::Result<Child> {
        let mut environment = self.environment.clone();
        environment.insert("RESPAWN_HOOK".to_owned(), waiting.name.hook.to_owned());
        environment.extend(variables(&waiting.line.event));
        let exec = Exec {
            program: waiting.hook.program.clone(),
            arguments: config::expand(&waiting.hook.arguments, &environment)?,
            environment,
            stderr: Output::Inherit,
            ..Exec::nothing()
        };
        let prepared = self.spawner.prepare(&exec)?;
        let prepared = Arc::new(prepared.with_stdin(readable(&waiting.line.text)?));
        let timeout = Some(waiting.hook.timeout);
        let child = Child::start(&mut self.spawner, prepared, None, timeout, now)?;
        Ok(child)
    }

    /// When `handle_timeout` or `start_next` is to be called next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let held = self.waiting.front().filter(|_| self.has_room());
        let kills = self
            .running
            .values()
            .filter_map(|it| it.child.poll_timeout());
        kills.chain(held.map(|waiting| waiting.hold_until)).min()
    }

    /// Kills those that take too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for running in self.running.values_mut() {
            running.child.handle_timeout(&mut self.spawner, now);
        }
    }

    /// Whether this process is a hook that has not been reaped.
    pub(super) fn is_hook(&self, pid: u32) -> bool {
        self.running.contains_key(&pid)
    }

    /// Reaps a hook that has ended, and ends what it has left.
    pub(super) fn reap(&mut self, pid: u32) {
        let Some(running) = self.running.remove(&pid) else {
            return;
        };
        let was_killed = running.child.was_killed();
        let status = match running.child.reap(&mut self.spawner) {
            ChildEnd::Status(status) => status,
            ChildEnd::NotStarted(error) => return running.name.warn(&error.to_string()),
            ChildEnd::Unknown(error) => {
                return running.name.warn(&format!("cannot be reaped: {error}"));
            }
        };
        if was_killed {
            let timeout = running.timeout;
            running.name.warn(&format!("killed after {timeout:?}"));
        } else if status != 0 {
            let cause = Cause::from_wait_status(status);
            running.name.warn(&cause.to_string());
        }
    }

    /// The agent ends: starts those that there is room for, and says how many there is none for.
    pub(super) fn finish(&mut self, now: Instant) {
        while self.start_next(now, |_| false) {}
        self.dropped += u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        self.waiting.clear();
        self.tell_dropped();
    }
}

impl Name {
    /// Says what went wrong with it.
    fn warn(&self, what: &str) {
        let Self { service, hook } = self;
        tracing::warn!(%service, hook, "{what}");
    }
}

/// A file in memory with this line in it, to be read from its beginning.
pub(super) fn readable(line: &str) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"respawn-event", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(line.as_bytes())?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file.into())
}

/// An event as variables: `RESPAWN_EVENT`, `RESPAWN_CAUSE` in words, `RESPAWN_SENDER_PID`. What is
/// not known is left out.
pub(super) fn variables(event: &Event) -> Vec<(String, String)> {
    let what = &event.what;
    let exit = match what {
        What::Exited(exit) | What::ChildExited(exit) => Some(&**exit),
        _ => None,
    };
    let instance = what.instance();
    let pid = match what {
        What::AgentStarted { pid, .. } | What::AgentStopped { pid } => Some(*pid),
        _ => exit.map(|exit| exit.pid).or(instance.map(|it| it.pid)),
    };
    let restarts = match what {
        What::Started { restarts, .. } => Some(*restarts),
        _ => None,
    };
    let reason = match what {
        What::Backoff { reason, .. } => Some(&**reason),
        What::Failed { reason } | What::Skipped { reason } => Some(reason.as_str()),
        _ => None,
    };
    let mut variables = Variables::default();
    variables.add("EVENT", Some(what.kind()));
    variables.add("TIME", event.time);
    variables.add("SEQ", event.seq());
    variables.add("SERVICE", event.service.as_deref());
    variables.add("PID", pid);
    variables.add("START_TIME_NS", instance.map(|it| it.start_time_ns));
    variables.add("COMM", exit.and_then(|exit| exit.comm.as_deref()));
    variables.add("UID", exit.and_then(|exit| exit.circumstances.uid));
    variables.add("UPTIME_NS", exit.and_then(|exit| exit.uptime_ns));
    variables.add("RESTARTS", restarts);
    variables.add("REASON", reason);
    if let Some(exit) = exit {
        variables.add_cause(&exit.cause);
    }
    variables.0
}

#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn add(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            let name = format!("RESPAWN_{name}");
            self.0.push((name, printable(&value.to_string())));
        }
    }

    fn add_cause(&mut self, cause: &Cause) {
        self.add("CAUSE", Some(cause));
        self.add("CAUSE_KIND", Some(cause.kind()));
        self.add("CODE", cause.code());
        self.add("SIGNAL", cause.signal());
        self.add("CORE_DUMPED", Some(cause.core_dumped()));
        // All that is known of the sender, by the keys of the event.
        let sender = cause.sender().map(serde_json::to_value);
        let Some(Ok(Value::Object(sender))) = sender else {
            return;
        };
        for (key, value) in sender {
            let name = format!("SENDER_{}", key.to_uppercase());
            match value {
                Value::String(text) => self.add(&name, Some(text)),
                Value::Number(_) | Value::Bool(_) => self.add(&name, Some(value)),
                Value::Null | Value::Array(_) | Value::Object(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(variables: Vec<(String, String)>) -> String {
        let lines = variables
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"));
        lines.collect()
    }

    #[test]
    fn an_exit_is_told_in_variables() {
        let event = json!({
            "seq": 3, "event": "exited", "time": "2026-01-01T00:00:00Z", "service": "web",
            "pid": 7, "host_pid": null, "start_time_ns": 10, "comm": "a\u{0}\nb", "uid": null,
            "uptime_ns": 5, "cause": {"kind": "signaled", "code": null, "signal": "SIGKILL",
            "core_dumped": false, "sender": {"pid": 3, "host_pid": 5, "start_time_ns": 0, "uid": 0,
            "comm": "sh", "parent": {"pid": 1, "comm": "init"}}},
        });
        assert_eq!(
            text(variables(&event.to_string().parse().unwrap())),
            "RESPAWN_EVENT=exited\nRESPAWN_TIME=2026-01-01T00:00:00Z\nRESPAWN_SEQ=3\n\
             RESPAWN_SERVICE=web\nRESPAWN_PID=7\nRESPAWN_START_TIME_NS=10\nRESPAWN_COMM=a\\0\\nb\n\
             RESPAWN_UPTIME_NS=5\nRESPAWN_CAUSE=killed by SIGKILL from sh (pid 3, uid 0)\n\
             RESPAWN_CAUSE_KIND=signaled\nRESPAWN_SIGNAL=SIGKILL\nRESPAWN_CORE_DUMPED=false\n\
             RESPAWN_SENDER_COMM=sh\nRESPAWN_SENDER_HOST_PID=5\nRESPAWN_SENDER_ITSELF=false\n\
             RESPAWN_SENDER_OWN=false\nRESPAWN_SENDER_PID=3\nRESPAWN_SENDER_START_TIME_NS=0\n\
             RESPAWN_SENDER_UID=0\n"
        );
        let event = json!({"event": "failed", "service": "web", "reason": "start limit"});
        assert_eq!(
            text(variables(&event.to_string().parse().unwrap())),
            "RESPAWN_EVENT=failed\nRESPAWN_SERVICE=web\nRESPAWN_REASON=start limit\n"
        );
    }

    fn line() -> JournalLine {
        JournalLine::parse(r#"{"event":"stopped"}"#.to_owned()).unwrap()
    }

    fn hook(script: &str, timeout: Duration) -> Hook {
        let arguments = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        Hook {
            program: "/bin/sh".into(),
            arguments,
            timeout,
        }
    }

    fn runner(limit: usize) -> HookRunner {
        let path = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        HookRunner::new(path, Path::new("/run/x"), limit, None).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn now() -> Instant {
        Instant::now()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn hooks_wait_for_their_services_and_for_each_other() {
        let now = now();
        let mut runner = runner(2);
        let sleeps = hook("exec sleep 60", MINUTE);
        let [back, other]: [ServiceName; 2] = ["back".into(), "other".into()];
        runner.call(&back, ("on_exit", &sleeps), line(), now);
        assert!(!runner.start_next(now, |_| true));
        assert_eq!(runner.poll_timeout(), Some(now + HOLD));
        for _ in 0..2 {
            runner.call(&other, ("on_exit", &sleeps), line(), now);
        }
        // The one that need not wait overtakes the one that must.
        assert!(runner.start_next(now, |service| *service == back));
        assert!(runner.start_next(now + HOLD, |_| true));
        assert!(!runner.start_next(now + HOLD, |_| false), "two run");
        assert_eq!(runner.poll_timeout(), Some(now + MINUTE));
        let pids: Vec<u32> = runner.running.keys().copied().collect();
        runner.handle_timeout(now + HOLD + MINUTE);
        assert_eq!(runner.poll_timeout(), None);
        for pid in pids {
            assert!(runner.is_hook(pid));
            while !runner.running[&pid].child.has_exited() {
                std::thread::sleep(Duration::from_millis(1));
            }
            runner.reap(pid);
            assert!(!runner.is_hook(pid));
        }
        assert!(runner.has_room());
        runner.waiting.clear();
    }

    #[test]
    fn a_full_queue_takes_no_more_and_counts() {
        let now = now();
        let mut runner = runner(1);
        let none = hook("", MINUTE);
        for _ in 0..MAX_WAITING + 7 {
            runner.call(&"s".into(), ("on_exit", &none), line(), now);
        }
        assert_eq!((runner.waiting.len(), runner.dropped), (MAX_WAITING, 7));
        runner.waiting.pop_front();
        runner.call(&"s".into(), ("on_exit", &none), line(), now);
        assert_eq!((runner.waiting.len(), runner.dropped), (MAX_WAITING, 0));
    }

    #[test]
    fn each_hook_has_its_event() {
        let name = |notice: Notice| {
            let one = || Some(hook("", MINUTE));
            let hooks = Hooks {
                on_exit: one(),
                on_restart: one(),
                on_failed: one(),
            };
            assert_eq!(called_by(&notice, &Hooks::default()), None);
            called_by(&notice, &hooks).map(|(name, _)| name)
        };
        let (service, reason): (ServiceName, _) = ("s".into(), String::new());
        let instance = crate::model::Instance {
            pid: 7,
            start_time_ns: 0,
        };
        let started = |restarts| Notice::Started {
            service: "s".into(),
            instance,
            restarts,
        };
        assert_eq!(name(started(0)), None);
        assert_eq!(name(started(1)), Some("on_restart"));
        let adopted = Notice::Adopted {
            service: "s".into(),
            instance,
        };
        assert_eq!(name(adopted), None);
        assert_eq!(name(Notice::EventsLost { count: 1 }), None);
        assert_eq!(name(Notice::Failed { service, reason }), Some("on_failed"));
    }
}

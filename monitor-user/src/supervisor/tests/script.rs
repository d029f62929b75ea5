//! Tests as text: a fact on the left, the actions that follow from it on the right.
//!
//! ```text
//! set restart_delay=1s    ->
//! config                  -> spawn 1
//! spawned 1               -> started 1
//! exit 1 code=3           -> exited 1; backoff 1s
//! ```
//! The service is `s` where none is named with `@name`. The instance of attempt N is called N
//! everywhere; a request is a letter. `+1s` lets time pass and handles what is due by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::*;
use crate::model::*;

/// A supervisor with the world's side of its conversation.
pub(super) struct Bench {
    pub(super) supervisor: Supervisor,
    pub(super) now: Instant,
    /// What the next `config` says.
    specs: BTreeMap<ServiceName, Spec>,
    /// What a dead agent left: `remember` tells it to the next one.
    memories: BTreeMap<ServiceName, Memory>,
}

/// The spec that a `Bench` starts from: the defaults of docs/service-files.md.
pub(in crate::supervisor) fn default_spec() -> Spec {
    Spec {
        policy: Policy {
            start_check: Duration::ZERO,
            ..Policy::default()
        },
        exec: Exec {
            program: "/bin/s".into(),
            arguments: vec!["s".into()],
            ..Exec::nothing()
        },
        ..Spec::nothing()
    }
}

/// Runs a script and shows every line that came out otherwise.
#[track_caller]
pub(super) fn check(script: &str) -> Bench {
    let mut bench = Bench::new();
    let mut wrong = String::new();
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let (fact, expected) = line.split_once("->").unwrap_or((line, ""));
        let actual = bench.tell(fact.trim());
        if actual != expected.trim() {
            wrong += &format!(
                "{fact}\n  expected: {}\n  actual:   {actual}\n",
                expected.trim()
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    bench
}

impl Bench {
    pub(super) fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "any Instant will do to begin with"
        )]
        let now = Instant::now();
        Self {
            supervisor: Supervisor::new(),
            now,
            specs: BTreeMap::from([("s".into(), default_spec())]),
            memories: BTreeMap::new(),
        }
    }

    /// Tells one line's fact; returns the actions that follow, as text.
    #[allow(clippy::too_many_lines, reason = "a line a fact")]
    pub(super) fn tell(&mut self, fact: &str) -> String {
        let (fact, service) = fact.split_once(" @").unwrap_or((fact, "s"));
        let service: ServiceName = service.into();
        let words: Vec<&str> = fact.split_whitespace().collect();
        let number = || words[1].parse::<u64>().unwrap();
        match words[0] {
            "set" => words[1..].iter().for_each(|word| self.set(&service, word)),
            "add" => drop(self.specs.insert(service, default_spec())),
            "drop" => drop(self.specs.remove(&service)),
            "config" => {
                let request = words.get(1).map(|word| request(word));
                let specs = self.specs.iter();
                let services = specs
                    .map(|(name, spec)| (name.clone(), Arc::new(spec.clone())))
                    .collect();
                self.fact(Fact::Configured { services, request });
            }
            "storm" => self.storm(),
            "agent-dies" => self.agent_dies(),
            // What is told to an agent of one comes after this.
            "container" => self.supervisor = Supervisor::new().ending_with_essential(),
            "remember" => {
                let memory = Box::new(self.memories.get(&service).cloned().unwrap_or_default());
                let instance = words
                    .get(1)
                    .map(|_| (Attempt(number()), instance(number())));
                self.fact(Fact::Remembered {
                    service,
                    memory,
                    instance,
                });
            }
            "spawned" => self.fact(Fact::Spawned {
                service,
                attempt: Attempt(number()),
                instance: instance(number()),
            }),
            "described" => {
                let spec = Arc::new(default_spec());
                let attempt = Attempt(number());
                self.fact(Fact::Described {
                    service,
                    attempt,
                    spec,
                });
            }
            "nospawn" => self.fact(Fact::SpawnFailed {
                service,
                attempt: Attempt(number()),
                failure: SpawnFailure {
                    message: "no such file".into(),
                },
            }),
            "skipped" => self.fact(Fact::Skipped {
                service,
                attempt: Attempt(number()),
                reason: "no such path".into(),
            }),
            "abandoned" => self.fact(Fact::StartAbandoned {
                service,
                attempt: Attempt(number()),
            }),
            // `did after_start 1`, `failed after_start 1`
            "did" | "failed" => self.fact(Fact::StepsDone {
                service,
                instance: match words[2] {
                    "-1000" => Instance::NONE,
                    number => instance(number.parse().unwrap()),
                },
                phase: phase(words[1]),
                failure: (words[0] == "failed").then(|| format!("{} failed", words[1])),
            }),
            "ready" => self.fact(Fact::BecameReady {
                service,
                instance: instance(number()),
            }),
            // `reloading 1 5s`: since that time.
            "reloading" => self.fact(Fact::Reloading {
                service,
                instance: instance(number()),
                at: words.get(2).map(|time| duration(time)),
            }),
            "ending" => self.fact(Fact::Ending {
                service,
                instance: instance(number()),
            }),
            "main" => self.fact(Fact::MainChanged {
                service,
                instance: instance(number()),
                main: instance(words[2].parse().unwrap()),
            }),
            "met" => self.fact(Fact::NotReadyYet {
                service,
                instance: instance(number()),
                reason: words[2..].join(" "),
            }),
            "lives" => self.fact(Fact::Lives {
                service,
                instance: instance(number()),
            }),
            "needs" => self.fact(Fact::NeedsTime {
                service,
                instance: instance(number()),
                time: duration(words[2]),
            }),
            "broken" => self.fact(Fact::DoesNotWork {
                service,
                instance: instance(number()),
                reason: words[2..].join(" "),
            }),
            "remains" => self.fact(Fact::TreeRemains {
                service,
                instance: instance(number()),
            }),
            "sent" => self.fact(Fact::StopSent {
                service,
                instance: instance(number()),
            }),
            "exit" | "release" | "gone" | "ends" => {
                self.death(words[0], service, instance(number()), death(&words[2..]));
            }
            "child" => self.fact(child_exited(service, number())),
            "lost" => self.fact(Fact::EventsLost { count: number() }),
            "all" => self.ask_of_all(&words[1..]),
            verb => match verb.strip_prefix('+') {
                Some(time) => {
                    self.now += duration(time);
                    self.supervisor.handle_timeout(self.now);
                }
                None => self.ask(verb, service, &words[1..]),
            },
        }
        self.drain().join("; ")
    }

    /// Somebody kills instances 1 to 21, each as soon as it runs.
    fn storm(&mut self) {
        for attempt in 1..=21 {
            self.tell(&format!("spawned {attempt}"));
            self.tell(&format!("ends {attempt} SIGKILL else"));
        }
    }

    /// `all stop db app`: one request of several services, answered to a, b and so on.
    fn ask_of_all(&mut self, words: &[&str]) {
        let services = words[1..].iter().zip(u64::from(b'a')..);
        let facts = services.map(|(service, letter)| {
            requested(words[0], (*service).into(), RequestId(letter), words)
        });
        self.supervisor.handle_facts(facts.collect(), self.now);
    }

    fn ask(&mut self, verb: &str, service: ServiceName, words: &[&str]) {
        let request = request(words.last().unwrap());
        self.fact(requested(verb, service, request, words));
    }

    fn death(&mut self, kind: &str, service: ServiceName, instance: Instance, death: Death) {
        let all = kind == "ends";
        if all || kind == "exit" {
            let (service, death) = (service.clone(), death.clone());
            self.fact(Fact::ProcessExited {
                service,
                instance,
                death,
                circumstances: None,
            });
        }
        if all || kind == "release" {
            let service = service.clone();
            self.fact(Fact::ProcessReleased {
                service,
                instance,
                death,
            });
        }
        if all || kind == "gone" {
            self.fact(Fact::TreeGone { service, instance });
        }
    }

    fn agent_dies(&mut self) {
        let supervisor = std::mem::take(&mut self.supervisor);
        self.memories = supervisor
            .statuses()
            .map(|status| status.service.clone())
            .filter_map(|name| Some((name.clone(), supervisor.memory(&name, self.now)?)))
            .collect();
    }

    pub(super) fn fact(&mut self, fact: Fact) {
        self.supervisor.handle_fact(fact, self.now);
    }

    fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.supervisor.next_action())
            .map(|action| render(&action))
            .collect()
    }

    fn set(&mut self, service: &ServiceName, word: &str) {
        let (key, value) = word.split_once('=').unwrap();
        let spec = self.specs.get_mut(service).unwrap();
        let policy = &mut spec.policy;
        match key {
            "exec" => spec.exec.arguments = vec![value.into()],
            "unusable" => {
                let unusable = Unusable {
                    why: "no such user".into(),
                    may_end: value == "for-now",
                };
                *spec = Spec::unusable(unusable, Hooks::default());
            }
            "restart" => {
                policy.restart = match value {
                    "always" => RestartPolicy::Always,
                    "on-failure" => RestartPolicy::OnFailure,
                    "on-abnormal" => RestartPolicy::OnAbnormal,
                    "on-abort" => RestartPolicy::OnAbort,
                    _ => RestartPolicy::No,
                }
            }
            "type" => policy.kind = ServiceType::Oneshot,
            "before_start" => spec.steps.before_start = vec![some_step()],
            "after_start" => spec.steps.after_start = vec![some_step()],
            "before_stop" => spec.steps.before_stop = vec![some_step()],
            "stop_command" => spec.steps.stop_command = vec![some_step()],
            "after_stop" => spec.steps.after_stop = vec![some_step()],
            "restart_delay" => policy.restart_delay = duration(value),
            "restart_max_delay" => policy.restart_max_delay = duration(value),
            "stable_after" => policy.stable_after = duration(value),
            "start_limit" => {
                policy.start_limit = value.split_once('/').map(|(burst, interval)| StartLimit {
                    burst: burst.parse().unwrap(),
                    interval: duration(interval),
                });
            }
            "prevent" => policy.restart_prevent_exit_status = vec![value.parse().unwrap()],
            "success" => policy.success_exit_status = vec![value.parse().unwrap()],
            "stop_signal" => policy.stop_signal = value.parse().unwrap(),
            "stop_timeout" => policy.stop_timeout = duration(value),
            "stop_mode" => {
                policy.stop_mode = match value {
                    "group" => StopMode::Group,
                    "mixed" => StopMode::Mixed,
                    _ => StopMode::Main,
                }
            }
            "start_check" => policy.start_check = duration(value),
            "restart_mode" => policy.restart_mode = RestartMode::Rolling,
            "overlap" => policy.overlap = value == "true",
            "standby" => policy.standby = value == "true",
            "essential" => policy.essential = value == "true",
            "ready" => spec.exec.ready = Some(Ready::Fd(3)),
            "start_timeout" => policy.start_timeout = duration(value),
            "watchdog" => spec.exec.watchdog = Some(duration(value)),
            "autostart" => spec.relations.autostart = value == "true",
            "after" => spec.relations.after = names(value),
            "requires" => spec.relations.requires = names(value),
            "part_of" => spec.relations.part_of = names(value),
            "binds" => spec.relations.binds = names(value),
            "wants" => spec.relations.wants = names(value),
            other => panic!("unknown key {other:?}"),
        }
    }
}

fn phase(key: &str) -> Phase {
    let phases = [
        Phase::AfterStart,
        Phase::BeforeStop,
        Phase::Stop,
        Phase::AfterStop,
    ];
    let mut phases = phases.into_iter();
    phases.find(|phase| phase.key() == key).unwrap()
}

/// Which one does not matter to the supervisor.
pub(in crate::supervisor) fn some_step() -> crate::model::Step {
    crate::model::Step {
        program: "/bin/true".into(),
        arguments: vec!["true".into()],
        identity: None,
        timeout: None,
        ignore_failure: false,
    }
}

/// Somebody asks for it.
fn requested(verb: &str, service: ServiceName, request: RequestId, words: &[&str]) -> Fact {
    match verb {
        "start" => Fact::StartRequested { service, request },
        "stop" => Fact::StopRequested { service, request },
        "restart" => Fact::RestartRequested { service, request },
        "shutdown" => Fact::ShutdownRequested { request },
        "signal" => Fact::SignalRequested {
            service,
            signal: words[0].parse().unwrap(),
            request,
        },
        // `reread 5s a`: at that time.
        "reread" => Fact::ReloadRequested {
            service,
            signal: Signal::HUP,
            at: duration(words[0]),
            request,
        },
        other => panic!("unknown fact {other:?}"),
    }
}

/// "a,b"
fn names(text: &str) -> BTreeSet<ServiceName> {
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(Into::into).collect()
}

/// Process 90 of that start's tree has ended.
fn child_exited(service: ServiceName, attempt: u64) -> Fact {
    Fact::ChildExited {
        service,
        attempt: Attempt(attempt),
        child: Box::new(Child {
            process: instance(90),
            death: death(&["SIGSEGV"]),
            circumstances: Circumstances::default(),
            left_out: 0,
        }),
    }
}

pub(super) fn instance(number: u64) -> Instance {
    Instance {
        pid: 1000 + u32::try_from(number).unwrap(),
        start_time_ns: number * 10_000_000,
    }
}

fn request(letter: &str) -> RequestId {
    RequestId(u64::from(letter.as_bytes()[0]))
}

fn letter(request: RequestId) -> char {
    char::from(u8::try_from(request.0).unwrap())
}

fn duration(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(number) => Duration::from_millis(number.parse().unwrap()),
        None if text == "max" => Duration::MAX,
        None => Duration::from_secs(text.strip_suffix('s').unwrap().parse().unwrap()),
    }
}

/// "code=3", "SIGKILL", "oom", "unknown"; "else" for someone else's doing; "up=5s".
fn death(words: &[&str]) -> Death {
    let mut death = Death {
        cause: Cause::Exited { code: 1 },
        blame: Blame::Itself,
        comm: None,
        uptime: None,
        time: None,
        since_boot: None,
    };
    for word in words {
        if let Some(code) = word.strip_prefix("code=") {
            let code = code.parse().unwrap();
            death.cause = Cause::Exited { code };
        } else if let Some(time) = word.strip_prefix("up=") {
            death.uptime = Some(duration(time));
        } else if let Ok(signal) = word.parse() {
            death.cause = Cause::Signaled {
                signal,
                core_dumped: false,
                origin: Origin::default(),
            };
        } else {
            match *word {
                "else" => death.blame = Blame::SomeoneElse,
                "oom" => death.cause = Cause::OomKilled(OomKill::default()),
                "unknown" => death.cause = Cause::Unknown,
                other => panic!("unknown word {other:?}"),
            }
        }
    }
    death
}

fn render(action: &Action) -> String {
    let number = |instance: &Instance| i64::from(instance.pid) - 1000;
    let (text, service) = match action {
        Action::Spawn { service, attempt } => (format!("spawn {}", attempt.0), service),
        Action::Signal {
            service,
            instance,
            signal,
            request,
        } => {
            let asked = request.map(|request| format!(" for {}", letter(request)));
            let asked = asked.unwrap_or_default();
            (format!("{signal} {}{asked}", number(instance)), service)
        }
        Action::Stop {
            service,
            instance,
            signal,
            reach,
        } => {
            let whom = render_reach(*reach);
            (format!("{signal} {whom}{}", number(instance)), service)
        }
        Action::AbandonStart {
            service,
            attempt,
            with_prelude,
        } => {
            let what = if *with_prelude { "" } else { "hung " };
            (format!("abandon {what}{}", attempt.0), service)
        }
        Action::RunSteps {
            service,
            instance,
            phase,
        } => (format!("{phase} {}", number(instance)), service),
        Action::EndSteps {
            service,
            instance,
            phase,
        } => (format!("end {phase} {}", number(instance)), service),
        Action::AwaitReady { service, instance } => {
            (format!("await-ready {}", number(instance)), service)
        }
        Action::Kill {
            service,
            instance,
            reach,
        } => {
            let whom = render_reach(*reach);
            (format!("kill {whom}{}", number(instance)), service)
        }
        Action::ClearTree {
            service,
            instance,
            how,
        } => (
            format!("{} {}", render_clear(how), number(instance)),
            service,
        ),
        Action::Reply { request, reply } => return render_reply(letter(*request), reply),
        Action::End { service, status } => (format!("end {status}"), service),
        Action::Publish(Notice::EventsLost { count }) => return format!("lost {count}"),
        Action::Publish(notice) => render_notice(notice),
    };
    if &**service == "s" {
        text
    } else {
        format!("{text} @{service}")
    }
}

fn render_clear(how: &Clear) -> &'static str {
    match how {
        Clear::Stop(_) => "clear",
        Clear::Await => "await",
        Clear::Kill => "kill-rest",
        Clear::Leave => "leave",
    }
}

fn render_reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Tree => "",
        Reach::Main => "main ",
    }
}

fn render_reply(request: char, reply: &Reply) -> String {
    match reply {
        Reply::Done => format!("done {request}"),
        Reply::Skipped { .. } => format!("not-started {request}"),
        Reply::Reloaded(summary) => {
            let mut text = format!("reloaded {request}");
            for (mark, names) in [
                ('+', &summary.added),
                ('~', &summary.changed),
                ('-', &summary.removed),
            ] {
                for name in names {
                    let anew = if summary.restarted.contains(name) {
                        "!"
                    } else {
                        ""
                    };
                    text += &format!(" {mark}{name}{anew}");
                }
            }
            for failed in &summary.failed {
                text += &format!(" ({}: {})", failed.service, failed.error);
            }
            text
        }
        Reply::Denied(DeniedReason::UnknownService(_)) => format!("unknown {request}"),
        Reply::Denied(
            DeniedReason::NotLoaded { .. }
            | DeniedReason::NoInstance { .. }
            | DeniedReason::NotSent { .. }
            | DeniedReason::NotRemembered(_),
        ) => {
            panic!("{reply:?} is the agent's")
        }
        Reply::Denied(DeniedReason::NotReloaded { .. }) => format!("not reloaded {request}"),
        Reply::Denied(DeniedReason::NotRunning(_)) => format!("not running {request}"),
        Reply::Denied(DeniedReason::StartFailed { .. }) => format!("start failed {request}"),
        Reply::Denied(DeniedReason::Overtaken { by, .. }) => {
            format!("overtaken {request} by {by}")
        }
    }
}

fn render_notice(notice: &Notice) -> (String, &ServiceName) {
    let number = |instance: &Instance| instance.pid - 1000;
    match notice {
        Notice::Started {
            service, instance, ..
        } => (format!("started {}", number(instance)), service),
        Notice::Adopted { service, instance } => (format!("adopted {}", number(instance)), service),
        Notice::Ready { service, instance } => (format!("is-ready {}", number(instance)), service),
        Notice::NextStarted { service, instance } => {
            (format!("next-started {}", number(instance)), service)
        }
        Notice::Replaced {
            service,
            instance,
            former,
            ..
        } => (
            format!("replaced {} -> {}", number(former), number(instance)),
            service,
        ),
        Notice::NotReplaced { service, failure } => (format!("not-replaced ({failure})"), service),
        Notice::MainChanged {
            service,
            instance,
            former,
        } => (
            format!("main {} -> {}", number(former), number(instance)),
            service,
        ),
        Notice::Done { service } => ("oneshot-done".into(), service),
        Notice::Exited {
            service, instance, ..
        } => (format!("exited {}", number(instance)), service),
        Notice::ChildExited { service, child } => {
            (format!("child {} exited", number(&child.process)), service)
        }
        Notice::Stopping {
            service,
            instance,
            reason,
            ..
        } => {
            let why = reason.as_ref().map(|reason| format!(" ({reason})"));
            let words = format!("stopping {}", number(instance));
            (words + &why.unwrap_or_default(), service)
        }
        Notice::Stopped { service } => ("stopped".into(), service),
        Notice::Backoff { service, delay, .. } => (format!("backoff {delay:?}"), service),
        Notice::WentToBackground {
            service, instance, ..
        } => (format!("background {}", number(instance)), service),
        Notice::Skipped { service, .. } => ("skipped".into(), service),
        Notice::StepFailed {
            service, message, ..
        } => (message.clone(), service),
        Notice::Failed { service, reason } => (format!("failed ({reason})"), service),
        Notice::EventsLost { .. } => panic!("has no service"),
    }
}

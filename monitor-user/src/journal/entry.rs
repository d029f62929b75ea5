//! What the journal can hold, in the words of the contract.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::aftermath::Circumstances;
use crate::model::{BackoffReason, Child, Death, Instance, Notice, Signal};
use crate::report::Exited;

/// One event, not yet numbered.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Entry {
    /// The end of an instance, or of another process of a service, in the shape that `watch` shows too.
    Exited(Box<Exited>),
    /// Anything else.
    Other(Happened),
}

/// An event that is not an exit.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Happened {
    time: Timestamp,
    service: Option<String>,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum What {
    Started {
        pid: u32,
        start_time_ns: u64,
        restarts: u64,
    },
    Adopted {
        pid: u32,
        start_time_ns: u64,
    },
    Stopping {
        pid: u32,
        start_time_ns: u64,
        signal: Signal,
    },
    Stopped,
    /// Somebody asked the agent for something.
    Requested {
        command: &'static str,
        signal: Option<Signal>,
        /// `None`: by a signal to the agent.
        by: Option<By>,
    },
    Backoff {
        delay_ns: u64,
        /// "exited", "start_failed" or "too_often"
        reason: &'static str,
        /// Why the start failed, in words.
        message: Option<String>,
    },
    Failed {
        reason: String,
    },
    /// Its main process has put the rest into the background.
    WentToBackground {
        pid: u32,
        start_time_ns: u64,
        /// What to do.
        message: String,
    },
    /// The agent has killed what it found in the service's cgroup, and nobody had recorded.
    Unrecorded {
        pid: u32,
        start_time_ns: u64,
    },
    EventsLost {
        count: u64,
    },
    AgentStarted {
        pid: u32,
        version: &'static str,
    },
    AgentStopped {
        pid: u32,
    },
    /// Of the service's next events only the newest are kept: it has had its share.
    JournalShare,
    /// So many events could not be written here.
    JournalGap {
        count: u64,
    },
}

/// Who asked.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct By {
    /// 0 for a process of another PID namespace.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// What a [`Notice`] does not tell.
#[derive(Debug, Clone)]
pub(crate) struct ExtraFacts {
    /// When it became known.
    pub(crate) time: Timestamp,
    /// Of an exit.
    pub(crate) circumstances: Circumstances,
}

impl ExtraFacts {
    /// Nothing but when it became known.
    pub(crate) fn at(time: Timestamp) -> Self {
        Self {
            time,
            circumstances: Circumstances::default(),
        }
    }
}

impl Entry {
    /// When an exit was, since boot, as far as that is known.
    pub(super) fn since_boot_ns(&self) -> Option<u64> {
        match self {
            Self::Exited(exited) => exited.start_time_ns?.checked_add(exited.uptime_ns?),
            Self::Other(_) => None,
        }
    }

    /// What the supervisor tells, with what else is known of it.
    #[allow(clippy::too_many_lines, reason = "a case for each kind")]
    pub(crate) fn from_notice(notice: &Notice, facts: ExtraFacts) -> Self {
        let (service, what) = match notice {
            Notice::Exited {
                service,
                instance,
                death,
            } => return Self::Exited(Box::new(exited(service, *instance, death, facts))),
            Notice::ChildExited { service, child } => {
                let Child {
                    process,
                    death,
                    left_out,
                } = &**child;
                return Self::Exited(Box::new(Exited {
                    event: "child_exited",
                    left_out: Some(*left_out),
                    ..exited(service, *process, death, facts)
                }));
            }
            Notice::Started {
                service,
                instance: Instance { pid, start_time_ns },
                restarts,
            } => {
                let (pid, start_time_ns, restarts) = (*pid, *start_time_ns, *restarts);
                (
                    Some(service),
                    What::Started {
                        pid,
                        start_time_ns,
                        restarts,
                    },
                )
            }
            Notice::Adopted {
                service,
                instance: Instance { pid, start_time_ns },
            } => {
                let (pid, start_time_ns) = (*pid, *start_time_ns);
                (Some(service), What::Adopted { pid, start_time_ns })
            }
            Notice::Stopping {
                service,
                instance: Instance { pid, start_time_ns },
                signal,
            } => {
                let (pid, start_time_ns, signal) = (*pid, *start_time_ns, *signal);
                (
                    Some(service),
                    What::Stopping {
                        pid,
                        start_time_ns,
                        signal,
                    },
                )
            }
            Notice::Stopped { service } => (Some(service), What::Stopped),
            Notice::WentToBackground {
                service,
                instance,
                advice,
            } => (Some(service), went_to_background(*instance, advice)),
            Notice::Backoff {
                service,
                delay,
                reason,
            } => (Some(service), backoff(*delay, reason)),
            Notice::Failed { service, reason } => {
                let reason = reason.clone();
                (Some(service), What::Failed { reason })
            }
            Notice::EventsLost { count } => (None, What::EventsLost { count: *count }),
        };
        Self::other(facts.time, service.map(|name| name.as_ref()), what)
    }

    /// Somebody asked for that, of this service or of all; `by`: `None` for a signal to the agent.
    pub(crate) fn requested(
        time: Timestamp,
        service: Option<&str>,
        command: &'static str,
        signal: Option<Signal>,
        by: Option<By>,
    ) -> Self {
        let what = What::Requested {
            command,
            signal,
            by,
        };
        Self::other(time, service, what)
    }

    /// An agent has taken up work; a spare that waits has not.
    pub(crate) fn agent_started(time: Timestamp, pid: u32) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self::other(time, None, What::AgentStarted { pid, version })
    }

    /// An agent ends because it was asked to.
    pub(crate) fn agent_stopped(time: Timestamp, pid: u32) -> Self {
        Self::other(time, None, What::AgentStopped { pid })
    }

    /// What an agent left unrecorded was killed with all its tree; the instance is one of it.
    pub(crate) fn unrecorded(time: Timestamp, service: &str, instance: Instance) -> Self {
        let Instance { pid, start_time_ns } = instance;
        Self::other(time, Some(service), What::Unrecorded { pid, start_time_ns })
    }

    /// The service has used its share of the journal.
    pub(super) fn share(time: Timestamp, service: &str) -> Self {
        Self::other(time, Some(service), What::JournalShare)
    }

    /// Which service it is about, if any.
    pub(super) fn service(&self) -> Option<&str> {
        match self {
            Self::Exited(exited) => exited.service.as_deref(),
            Self::Other(happened) => happened.service.as_deref(),
        }
    }

    /// So many events could not be written before this one.
    pub(super) fn gap(time: Timestamp, count: u64) -> Self {
        Self::other(time, None, What::JournalGap { count })
    }

    /// When it happened.
    pub(super) fn time(&self) -> Timestamp {
        match self {
            Self::Exited(exited) => exited.time,
            Self::Other(happened) => happened.time,
        }
    }

    fn other(time: Timestamp, service: Option<&str>, what: What) -> Self {
        Self::Other(Happened {
            time,
            service: service.map(str::to_owned),
            what,
        })
    }
}

fn exited(service: &str, instance: Instance, death: &Death, facts: ExtraFacts) -> Exited {
    Exited {
        event: "exited",
        time: death.time.unwrap_or(facts.time),
        service: Some(service.to_owned()),
        pid: instance.pid,
        start_time_ns: Some(instance.start_time_ns),
        comm: death.comm.clone(),
        uptime_ns: death.uptime.map(nanoseconds),
        cause: death.cause.clone(),
        circumstances: facts.circumstances,
        left_out: None,
    }
}

fn went_to_background(instance: Instance, advice: &str) -> What {
    let Instance { pid, start_time_ns } = instance;
    What::WentToBackground {
        pid,
        start_time_ns,
        message: advice.to_owned(),
    }
}

fn backoff(delay: Duration, reason: &BackoffReason) -> What {
    let (reason, message) = match reason {
        BackoffReason::Exited => ("exited", None),
        BackoffReason::SpawnFailed(failure) => ("start_failed", Some(failure.message.clone())),
        BackoffReason::TooOften => (
            "too_often",
            Some("it ended more than 20 times within a second".to_owned()),
        ),
    };
    What::Backoff {
        delay_ns: nanoseconds(delay),
        reason,
        message,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

//! What the supervisor tells the journal, and the event that it becomes there.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;

use super::cause::Death;
use super::event::{Event, What};
use super::exit::{Circumstances, Exit};
use super::instance::{Child, Instance, ServiceName, SpawnFailure};
use super::signal::Signal;
use super::steps::Phase;

/// What happened to a service, for people and programs that follow along.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "where many are held, they are exits; a box for each would cost more"
)]
pub(crate) enum Notice {
    /// An instance runs. `restarts` counts the starts since the agent's first, less one.
    Started {
        service: ServiceName,
        instance: Instance,
        restarts: u64,
    },
    /// An instance of an earlier agent was taken over. One that died in between is told of so
    /// only if its start never was.
    Adopted {
        service: ServiceName,
        instance: Instance,
    },
    /// An instance has said that it is ready, or was found to be.
    Ready {
        service: ServiceName,
        instance: Instance,
    },
    /// Another process of an instance's tree is its main process from now on.
    MainChanged {
        service: ServiceName,
        instance: Instance,
        /// The one before.
        former: Instance,
    },
    /// The next instance runs, beside the present one, which it is to replace.
    NextStarted {
        service: ServiceName,
        instance: Instance,
    },
    /// The next instance has replaced the one that ran.
    Replaced {
        service: ServiceName,
        instance: Instance,
        /// The one before.
        former: Instance,
        /// As in `Started`.
        restarts: u64,
    },
    /// The next instance has failed, and the present one goes on.
    NotReplaced {
        service: ServiceName,
        failure: SpawnFailure,
    },
    /// An instance ended.
    Exited {
        service: ServiceName,
        instance: Instance,
        death: Death,
        /// What else the kernel's record tells of it, for whoever reads the journal.
        circumstances: Option<Box<Circumstances>>,
    },
    /// A signal ended another process of a service that runs.
    ChildExited {
        service: ServiceName,
        child: Box<Child>,
    },
    /// A stop began.
    Stopping {
        service: ServiceName,
        instance: Instance,
        /// What it is sent; `None`: a command is run instead.
        signal: Option<Signal>,
        /// Why, if nobody asked for it: it does not work.
        reason: Option<String>,
    },
    /// The service is down and stays down.
    Stopped { service: ServiceName },
    /// A oneshot service has done its work.
    Done { service: ServiceName },
    /// The next start waits.
    Backoff {
        service: ServiceName,
        delay: Duration,
        reason: BackoffReason,
    },
    /// The service is given up until someone starts it.
    Failed {
        service: ServiceName,
        reason: String,
    },
    /// It is not started, as a condition does not hold.
    Skipped {
        service: ServiceName,
        reason: String,
    },
    /// A command around the run of the service has failed, and things go on.
    StepFailed {
        service: ServiceName,
        phase: Phase,
        message: String,
    },
    /// An instance's main process has put the rest into the background, where nobody supervises it.
    WentToBackground {
        service: ServiceName,
        instance: Instance,
        /// What to do.
        advice: String,
    },
    /// The kernel could not report this many exits.
    EventsLost { count: u64 },
}

impl Notice {
    /// Whose event it is.
    pub(crate) fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Started { service, .. }
            | Self::Adopted { service, .. }
            | Self::Ready { service, .. }
            | Self::MainChanged { service, .. }
            | Self::NextStarted { service, .. }
            | Self::Replaced { service, .. }
            | Self::NotReplaced { service, .. }
            | Self::Done { service }
            | Self::Exited { service, .. }
            | Self::ChildExited { service, .. }
            | Self::Stopping { service, .. }
            | Self::Stopped { service }
            | Self::Backoff { service, .. }
            | Self::WentToBackground { service, .. }
            | Self::Skipped { service, .. }
            | Self::StepFailed { service, .. }
            | Self::Failed { service, .. } => Some(service),
            Self::EventsLost { .. } => None,
        }
    }
}

/// Why a start waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackoffReason {
    /// The service keeps ending by itself, or wants a delay.
    Exited,
    /// The start itself failed.
    SpawnFailed(SpawnFailure),
    /// It ended more than 20 times within a second, by itself or not.
    TooOften,
}

impl Event {
    /// What the supervisor tells, which became known `now`.
    pub(crate) fn from_notice(notice: Notice, now: Timestamp) -> Self {
        let time = match &notice {
            Notice::Exited { death, .. } => death.time,
            Notice::ChildExited { child, .. } => child.death.time,
            _ => None,
        };
        let service = notice.service().cloned();
        Self::new(time.unwrap_or(now), service.as_deref(), what(notice))
    }
}

#[expect(clippy::too_many_lines, reason = "an arm a notice")]
fn what(notice: Notice) -> What {
    match notice {
        Notice::Exited {
            instance,
            death,
            circumstances,
            ..
        } => {
            let circumstances = circumstances.map_or_else(Circumstances::default, |it| *it);
            What::Exited(Box::new(exit(instance, death, circumstances)))
        }
        Notice::ChildExited { child, .. } => {
            let Child {
                process,
                death,
                circumstances,
                left_out,
            } = *child;
            What::ChildExited(Box::new(Exit {
                left_out: Some(left_out),
                ..exit(process, death, circumstances)
            }))
        }
        Notice::Started {
            instance, restarts, ..
        } => What::Started {
            pid: instance.pid,
            start_time_ns: instance.start_time_ns,
            restarts,
        },
        Notice::Adopted { instance, .. } => What::Adopted {
            pid: instance.pid,
            start_time_ns: instance.start_time_ns,
        },
        Notice::Ready { instance, .. } => What::Ready {
            pid: instance.pid,
            start_time_ns: instance.start_time_ns,
        },
        Notice::NextStarted { instance, .. } => What::NextStarted {
            pid: instance.pid,
            start_time_ns: instance.start_time_ns,
        },
        Notice::Replaced {
            instance,
            former,
            restarts,
            ..
        } => What::Replaced {
            pid: instance.pid,
            start_time_ns: instance.start_time_ns,
            former_pid: former.pid,
            restarts,
        },
        Notice::NotReplaced { failure, .. } => What::NotReplaced {
            message: failure.message,
        },
        Notice::MainChanged {
            instance, former, ..
        } => What::MainChanged {
            pid: instance.pid,
            start_time_ns: instance.start_time_ns,
            former_pid: former.pid,
        },
        Notice::Stopping {
            instance,
            signal,
            reason,
            ..
        } => What::Stopping {
            pid: instance.pid,
            start_time_ns: instance.start_time_ns,
            signal,
            reason,
        },
        Notice::Done { .. } => What::Done,
        Notice::Stopped { .. } => What::Stopped,
        Notice::WentToBackground {
            instance, advice, ..
        } => What::WentToBackground {
            pid: instance.pid,
            start_time_ns: instance.start_time_ns,
            message: advice,
        },
        Notice::Backoff { delay, reason, .. } => backoff(delay, reason),
        Notice::Failed { reason, .. } => What::Failed { reason },
        Notice::Skipped { reason, .. } => What::Skipped { reason },
        Notice::StepFailed { phase, message, .. } => What::StepFailed {
            step: Cow::Borrowed(phase.key()),
            message,
        },
        Notice::EventsLost { count } => What::EventsLost { count },
    }
}

fn exit(instance: Instance, death: Death, circumstances: Circumstances) -> Exit {
    Exit {
        pid: instance.pid,
        start_time_ns: Some(instance.start_time_ns),
        comm: death.comm,
        uptime_ns: death.uptime.map(nanoseconds),
        cause: death.cause,
        circumstances,
        at_ns: death.since_boot.map(nanoseconds),
        left_out: None,
    }
}

fn backoff(delay: Duration, reason: BackoffReason) -> What {
    let (reason, message) = match reason {
        BackoffReason::Exited => ("exited", None),
        BackoffReason::SpawnFailed(failure) => ("start_failed", Some(failure.message)),
        BackoffReason::TooOften => (
            "too_often",
            Some("it ended more than 20 times within a second".to_owned()),
        ),
    };
    What::Backoff {
        delay_ns: nanoseconds(delay),
        reason: Cow::Borrowed(reason),
        message,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

//! The facts that the supervisor is told: past tense, complete, never a request to look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Attempt, Child, Circumstances, Death, Instance, Memory, Phase, ServiceName, Signal,
    SpawnFailure, Spec,
};

/// Who waits for an answer: a control connection's pending command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub u64);

/// A fact.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    /// A valid config was read: at the start, or for a reload that `request` waits for.
    /// It is the whole set: a service that is not in it was removed.
    Configured {
        services: BTreeMap<ServiceName, Arc<Spec>>,
        request: Option<RequestId>,
    },
    /// An earlier agent left this. Told before the first `Configured`, ignored after it: once
    /// for each instance whose end the earlier agent did not see through (tree and all), alive
    /// or not, and with `None` for a service that had none. A death since then is told by its
    /// `ProcessReleased`, best before `Configured`, so that nobody is told of an adoption.
    /// Of several instances that should live, the latest attempt's is kept, the others killed.
    Remembered {
        service: ServiceName,
        memory: Box<Memory>,
        instance: Option<(Attempt, Instance)>,
    },
    /// A start succeeded: the new program runs. Told before its `ProcessReleased`.
    Spawned {
        service: ServiceName,
        attempt: Attempt,
        instance: Instance,
    },
    /// A start failed before or in `exec`; no process is left of it.
    SpawnFailed {
        service: ServiceName,
        attempt: Attempt,
        failure: SpawnFailure,
    },
    /// A start was not even tried: the service's spec had been unusable, and this is the one to start
    /// it by. Answers `Action::Spawn`, too.
    Described {
        service: ServiceName,
        attempt: Attempt,
        spec: Arc<Spec>,
    },
    /// A start was not tried, as a condition does not hold. Answers `Action::Spawn`, too.
    Skipped {
        service: ServiceName,
        attempt: Attempt,
        reason: String,
    },
    /// A start was ended before its process was its program. Answers `Action::Spawn`, after an
    /// `AbandonStart`.
    StartAbandoned {
        service: ServiceName,
        attempt: Attempt,
    },
    /// The commands of that phase have ended, all with success, or this has gone wrong. Answers
    /// `Action::RunSteps`.
    StepsDone {
        service: ServiceName,
        instance: Instance,
        phase: Phase,
        failure: Option<String>,
    },
    /// An instance has said that it is ready, or that was seen. Answers `Action::AwaitReady`; told at
    /// any time after `Spawned`.
    BecameReady {
        service: ServiceName,
        instance: Instance,
    },
    /// A probe has found that an instance is not ready yet: what it met.
    NotReadyYet {
        service: ServiceName,
        instance: Instance,
        reason: String,
    },
    /// An instance has said that it is alive.
    Lives {
        service: ServiceName,
        instance: Instance,
    },
    /// An instance has said that it reads its configuration again, since `at` on the clock that stands
    /// still in suspend, if it has said when. `BecameReady` follows once it is done.
    Reloading {
        service: ServiceName,
        instance: Instance,
        at: Option<Duration>,
    },
    /// An instance has said that it ends.
    Ending {
        service: ServiceName,
        instance: Instance,
    },
    /// Another process of an instance's tree is its main process from now on, and all that is known of
    /// the instance holds for that one. Of the process before it nothing more is told.
    MainChanged {
        service: ServiceName,
        instance: Instance,
        main: Instance,
    },
    /// An instance has asked for this much time from now on, for its start or its stop.
    NeedsTime {
        service: ServiceName,
        instance: Instance,
        time: Duration,
    },
    /// An instance has said that it does not work, or a check has found that.
    DoesNotWork {
        service: ServiceName,
        instance: Instance,
        reason: String,
    },
    /// An instance's exit became final; it may still hold memory, files and ports.
    ProcessExited {
        service: ServiceName,
        instance: Instance,
        death: Death,
        /// Decides nothing.
        circumstances: Option<Box<Circumstances>>,
    },
    /// A signal has ended another process of the tree of that start.
    ChildExited {
        service: ServiceName,
        attempt: Attempt,
        child: Box<Child>,
    },
    /// An instance has let go of everything (its pidfd is readable).
    /// `death` is what `wait` told, or the best that is known.
    ProcessReleased {
        service: ServiceName,
        instance: Instance,
        death: Death,
    },
    /// The stop signal was sent. Answers `Action::Stop` and `Clear::Stop`, if anything was left.
    StopSent {
        service: ServiceName,
        instance: Instance,
    },
    /// Its main process is gone, and something of its tree still lived. Told with the answer to
    /// `Action::ClearTree`, or before it.
    TreeRemains {
        service: ServiceName,
        instance: Instance,
    },
    /// Nothing is left of an instance's process tree. Answers `Action::ClearTree`.
    TreeGone {
        service: ServiceName,
        instance: Instance,
    },
    /// A person asked for it; `request` gets exactly one `Action::Reply`.
    StartRequested {
        service: ServiceName,
        request: RequestId,
    },
    StopRequested {
        service: ServiceName,
        request: RequestId,
    },
    RestartRequested {
        service: ServiceName,
        request: RequestId,
    },
    SignalRequested {
        service: ServiceName,
        signal: Signal,
        request: RequestId,
    },
    /// A service is to read its configuration again at that signal, and to say when it is done;
    /// `at`: now, on the clock that `Reloading` has.
    ReloadRequested {
        service: ServiceName,
        signal: Signal,
        at: Duration,
        request: RequestId,
    },
    /// The agent wants to go and leave nothing running. Every service goes down, but what is
    /// desired stays as it is: a later agent starts them again. Nothing starts any more.
    /// Answered when all is gone.
    ShutdownRequested { request: RequestId },
    /// The kernel could not report some exits; the agent has compared every instance with
    /// its pidfd and reports the dead ones by the facts above.
    EventsLost { count: u64 },
}

impl Fact {
    /// The service that it is about; `None`: all.
    pub(crate) fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Remembered { service, .. }
            | Self::Spawned { service, .. }
            | Self::SpawnFailed { service, .. }
            | Self::Described { service, .. }
            | Self::Skipped { service, .. }
            | Self::StartAbandoned { service, .. }
            | Self::StepsDone { service, .. }
            | Self::BecameReady { service, .. }
            | Self::NotReadyYet { service, .. }
            | Self::Lives { service, .. }
            | Self::Reloading { service, .. }
            | Self::Ending { service, .. }
            | Self::MainChanged { service, .. }
            | Self::NeedsTime { service, .. }
            | Self::DoesNotWork { service, .. }
            | Self::ProcessExited { service, .. }
            | Self::ChildExited { service, .. }
            | Self::ProcessReleased { service, .. }
            | Self::StopSent { service, .. }
            | Self::TreeRemains { service, .. }
            | Self::TreeGone { service, .. }
            | Self::StartRequested { service, .. }
            | Self::StopRequested { service, .. }
            | Self::RestartRequested { service, .. }
            | Self::SignalRequested { service, .. }
            | Self::ReloadRequested { service, .. } => Some(service),
            Self::Configured { .. } | Self::ShutdownRequested { .. } | Self::EventsLost { .. } => {
                None
            }
        }
    }
}

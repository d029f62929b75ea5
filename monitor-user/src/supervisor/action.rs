//! What the supervisor wants done: verbs, performed one at a time by `os` and the agent.

use super::fact::RequestId;
use crate::model::{Attempt, Clear, Instance, Notice, Phase, Reach, Reply, ServiceName, Signal};

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Start the service. Answered by `Spawned`, `SpawnFailed`, `Described`, `Skipped` or
    /// `StartAbandoned` with the same attempt.
    Spawn {
        service: ServiceName,
        attempt: Attempt,
    },
    /// End the start of that attempt, if its process hangs on its way to its program. `Spawn` is then answered
    /// by `StartAbandoned`. Where it is too late, nothing happens.
    AbandonStart {
        service: ServiceName,
        attempt: Attempt,
        /// What precedes its process is ended, too.
        with_prelude: bool,
    },
    /// Run the commands of that phase, one after the other. Answered by `StepsDone`.
    RunSteps {
        service: ServiceName,
        instance: Instance,
        phase: Phase,
    },
    /// End those of that phase at once. Answered by the `StepsDone` that is still to come.
    EndSteps {
        service: ServiceName,
        instance: Instance,
        phase: Phase,
    },
    /// Find out when the instance is ready. Answered by `BecameReady`.
    AwaitReady {
        service: ServiceName,
        instance: Instance,
    },
    /// Send a signal to the instance's main process, if it still is that process. Who asked for it,
    /// if that is to be answered now, is answered by whether it was sent.
    Signal {
        service: ServiceName,
        instance: Instance,
        signal: Signal,
        request: Option<RequestId>,
    },
    /// Send the stop signal, and have who is stopped go on to see it. Answered by `StopSent` once
    /// that is done.
    Stop {
        service: ServiceName,
        instance: Instance,
        signal: Signal,
        reach: Reach,
    },
    /// SIGKILL to what lives of the instance. Said once.
    Kill {
        service: ServiceName,
        instance: Instance,
        reach: Reach,
    },
    /// The main process has been released: see to what is left of its tree, and of no other: with
    /// `overlap`, the service's next instance may live already. Answered by `TreeGone` once nothing
    /// is left, which may take a `Kill`.
    ClearTree {
        service: ServiceName,
        instance: Instance,
        how: Clear,
    },
    /// Answer a request. Exactly one for each, unless a `Signal` names it.
    Reply { request: RequestId, reply: Reply },
    /// End, with this exit status: the essential service has ended for good, and all services are down.
    End { service: ServiceName, status: u8 },
    /// Tell the journal and whoever follows it.
    Publish(Notice),
}

impl Action {
    /// Whether it is an answer to the supervisor itself.
    pub(super) fn is_own_reply(&self) -> bool {
        matches!(self, Self::Reply { request, .. } if request.is_own())
    }
}

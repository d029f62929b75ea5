//! What the supervisor wants done: verbs, performed one at a time by `os` and the agent.

use super::fact::RequestId;
use crate::model::{Attempt, Clear, Instance, Notice, Reach, Reply, ServiceName, Signal};

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Start the service. Answered by `Spawned` or `SpawnFailed` with the same attempt.
    Spawn {
        service: ServiceName,
        attempt: Attempt,
    },
    /// Send a signal to the instance's main process, if it still is that process. Who asked for it
    /// is answered by whether it was sent.
    Signal {
        service: ServiceName,
        instance: Instance,
        signal: Signal,
        request: RequestId,
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
    /// Tell the journal and whoever follows it.
    Publish(Notice),
}

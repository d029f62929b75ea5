//! What of a process tree a stop or a kill is for.

use super::signal::Signal;

/// Which processes of an instance something is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of its tree, the main process too, if it lives.
    Tree,
    /// The main process alone.
    Main,
}

/// What becomes of those that outlive their main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clear {
    /// Send them the stop signal, answered by `StopSent`, and wait for their end.
    Stop(Signal),
    /// They have had the stop signal: wait for their end.
    Await,
    /// SIGKILL.
    Kill,
    /// Leave them alone, where nothing of the service's next instances will be: then they count as
    /// gone.
    Leave,
}

//! What outlives an agent: the part of a service's state that its next agent goes on from.
//!
//! Only the shape and its ageing: the agent keeps it, the supervisor fills and reads it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cause::Death;
use super::instance::{Attempt, Instance, SpawnFailure};
use super::spec::StopMode;

/// What people and config want of a service, whatever it does at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Desired {
    /// To run.
    #[default]
    Up,
    /// To be stopped.
    Down,
}

/// Why a service that is down is down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DownReason {
    /// It was asked for: a stop, a removal, a shutdown.
    Stopped,
    /// It ended with success, and its restart policy leaves it there.
    Finished,
    /// It was given up.
    Failed {
        /// In words, for people.
        reason: String,
    },
    /// It was not started, as a condition does not hold.
    Skipped {
        /// Which, in words.
        reason: String,
    },
}

/// One service's memory. Times are durations before or after the moment of the export, so that
/// it can be read where no `Instant` of the writer has a meaning.
///
/// Every field may be missing when it is read: a newer agent reads an older one's memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// What is desired; a shutdown does not change it.
    pub(crate) desired: Desired,
    /// The last attempt that was made.
    pub(crate) last_attempt: Attempt,
    /// The fingerprint of what that ran.
    pub(crate) exec: Option<u64>,
    /// The instance that had not exited, as far as was known.
    pub(crate) instance: Option<Instance>,
    /// Its main process before that one, which had made it the main process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) former_main: Option<Instance>,
    /// The instance that is to replace the one that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<NextMemory>,
    /// Those of `leaving` that were replaced while they ran, and whose end has not been told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) replaced: Vec<Instance>,
    /// The instance that runs and has not said that it is ready, where it is to say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unready: Option<Instance>,
    /// The instance that runs, is ready or need not say so, and is up after its `after_start`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finishing: Option<Instance>,
    /// It had done its work, is stopped, and its `before_stop` has not ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) undoing: bool,
    /// Why the instance on its way down counts as failed: it was not ready in time, or does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overdue: Option<String>,
    /// How many instances were started so far.
    pub(crate) starts: u64,
    /// Ends by itself in a row: how far the delay has grown.
    pub(crate) failures: u32,
    /// Ends in a storm so far: how far the delay has grown that is everybody's.
    pub(crate) storm: u32,
    /// How long ago the starts were that count towards the start limit, oldest first.
    pub(crate) starts_ago: Vec<Duration>,
    /// How long ago the ends were that may be part of a storm, oldest first.
    pub(crate) ends_ago: Vec<Duration>,
    /// In backoff: how long until the next start.
    pub(crate) next_start_in: Option<Duration>,
    /// Whether the next start counts towards no limit: it mends what someone else broke, or was
    /// counted when it was tried.
    pub(crate) next_start_is_free: bool,
    /// Whether its instance is on its way down, to stay there or to be started again.
    pub(crate) stopping: bool,
    /// Why it is to stay down although it is desired up; never `DownReason::Stopped`.
    pub(crate) rest: Option<DownReason>,
    /// Whether it is essential and has ended for good, and the agent has not ended for that.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) has_ended: bool,
    /// Whether it is down, and that has been told.
    pub(crate) at_rest: bool,
    /// The last death.
    pub(crate) last_exit: Option<Death>,
    /// Instances whose death has been counted, but that had not let go of everything.
    pub(crate) leaving: Vec<Instance>,
    /// How far the stops of those have come, and of the instance that is on its way down.
    pub(crate) stops: Vec<StopMemory>,
    /// Whom a stop was for by the last spec that said it.
    pub(crate) stop_mode: StopMode,
    /// Why the last start failed, until one succeeds.
    pub(crate) last_failure: Option<SpawnFailure>,
    /// How long it has been in its state.
    pub(crate) state_age: Duration,
}

/// An instance that is to replace the one that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NextMemory {
    pub(crate) attempt: Attempt,
    /// `None`: it was not there yet.
    pub(crate) instance: Option<Instance>,
    /// The fingerprint of what it runs.
    pub(crate) exec: u64,
}

/// A stop that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StopMemory {
    /// Whose.
    pub(crate) instance: Instance,
    /// How long until SIGKILL; `None`: that was sent.
    pub(crate) kill_in: Option<Duration>,
    /// Whether the stop signal went to the whole tree.
    pub(crate) whole_tree: bool,
}

impl Memory {
    /// The same memory after some more time, for a reader who knows how old it is.
    #[must_use]
    pub(crate) fn aged(mut self, by: Duration) -> Self {
        self.state_age = self.state_age.saturating_add(by);
        self.next_start_in = self.next_start_in.map(|left| left.saturating_sub(by));
        for stop in &mut self.stops {
            stop.kill_in = stop.kill_in.map(|left| left.saturating_sub(by));
        }
        for ago in self.starts_ago.iter_mut().chain(&mut self.ends_ago) {
            *ago = ago.saturating_add(by);
        }
        self
    }

    /// The next agent finds that `to` has become the main process, which nobody had time to remember.
    pub(crate) fn change_main(&mut self, to: Instance) {
        self.former_main = self.instance.replace(to);
        for of in [&mut self.unready, &mut self.finishing]
            .into_iter()
            .flatten()
        {
            *of = to;
        }
    }

    /// That of an essential service which has ended for good, for an agent that has no memory of it.
    pub(crate) fn forget_end(&mut self) {
        if std::mem::take(&mut self.has_ended) {
            self.rest = None;
            (self.failures, self.storm) = (0, 0);
            self.starts_ago.clear();
            self.ends_ago.clear();
        }
    }

    /// Since when it has been in its state, on the reader's clock.
    pub(crate) fn since(&self, now: Instant) -> Instant {
        // An Instant before the clock's own beginning does not exist.
        now.checked_sub(self.state_age).unwrap_or(now)
    }
}

//! How long a service waits before its next start, and how often it may start.
//!
//! Only counts and answers: what follows from an answer is the service's to decide.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::{Memory, Policy, StartLimit};

/// The least delay of a service that keeps failing, even if its `restart_delay` is zero.
const LEAST_GROWING_DELAY: Duration = Duration::from_millis(100);

/// More ends than this within [`STORM_WINDOW`] are a storm, whoever causes them: a user that kills
/// its own service in a loop must not keep the agent and the journal busy.
const STORM_ENDS: usize = 20;
const STORM_WINDOW: Duration = Duration::from_secs(1);

/// A storm's first delay is the least growing one; this is its longest, whatever the policy says.
const LONGEST_STORM_DELAY: Duration = Duration::from_secs(30);

/// A point in time that stands for "never" where a sum would overflow: 30 years on.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `now + delay`, for any delay.
pub(super) fn after(now: Instant, delay: Duration) -> Instant {
    now.checked_add(delay.min(NEVER)).unwrap_or(now)
}

/// What one service's ends have cost it so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Backoff {
    /// Ends by itself in a row, none of them after a stable run.
    failures: u32,
    /// The starts that count towards the limit, oldest first, at most `burst` of them.
    starts: VecDeque<Instant>,
    /// The last ends, by itself or not, oldest first, at most one more than make no storm.
    ends: VecDeque<Instant>,
    /// Ends in a storm so far, none of them after a stable run.
    storm: u32,
}

impl Backoff {
    /// Takes up what an earlier agent had counted.
    pub(super) fn restore(memory: &Memory, now: Instant) -> Self {
        let times = |ago: &[Duration]| {
            let times = ago.iter().filter_map(|ago| now.checked_sub(*ago));
            times.collect()
        };
        Self {
            failures: memory.failures,
            storm: memory.storm,
            starts: times(&memory.starts_ago),
            ends: times(&memory.ends_ago),
        }
    }

    /// Ends by itself in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Ends in a storm so far.
    pub(super) fn storm(&self) -> u32 {
        self.storm
    }

    /// How long ago the starts were that count towards the limit, oldest first.
    pub(super) fn starts_ago(&self, now: Instant) -> Vec<Duration> {
        self.starts
            .iter()
            .map(|start| now.saturating_duration_since(*start))
            .collect()
    }

    /// How long ago the ends were that may be part of a storm, oldest first.
    pub(super) fn ends_ago(&self, now: Instant) -> Vec<Duration> {
        let ends = self.ends.iter();
        ends.map(|end| now.saturating_duration_since(*end))
            .filter(|ago| *ago < STORM_WINDOW)
            .collect()
    }

    /// Somebody asked for a start: nothing that was counted holds any more.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// It was up for so long: delay and limit are reset if that was stable. A storm is over
    /// only after a second without an end, however soon a service counts as stable.
    pub(super) fn ran_for(&mut self, uptime: Duration, policy: &Policy) {
        if uptime >= policy.stable_after {
            self.failures = 0;
            self.starts.clear();
        }
        if uptime >= policy.stable_after.max(STORM_WINDOW) {
            self.storm = 0;
        }
    }

    /// Counts an end that nobody asked the agent for. Returns the delay that a storm of them
    /// costs: 100 ms, then its doubles.
    pub(super) fn count_end(&mut self, now: Instant) -> Option<Duration> {
        self.ends.push_back(now);
        if self.ends.len() > STORM_ENDS + 1 {
            self.ends.pop_front();
        }
        let is_storm = self.ends.len() > STORM_ENDS
            && self
                .ends
                .front()
                .is_some_and(|first| now.saturating_duration_since(*first) < STORM_WINDOW);
        if !is_storm && self.storm == 0 {
            return None;
        }
        let delay = doubled(LEAST_GROWING_DELAY, self.storm).min(LONGEST_STORM_DELAY);
        self.storm = self.storm.saturating_add(1);
        Some(delay)
    }

    /// The delay before the next start, after one more failure.
    pub(super) fn fail(&mut self, policy: &Policy) -> Duration {
        let delay = delay_after(self.failures, policy);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Whether one more start stays within the limit. A start is out of the window once it is
    /// `interval` old.
    pub(super) fn admits(&mut self, limit: Option<StartLimit>, now: Instant) -> bool {
        let Some(StartLimit { burst, interval }) = limit else {
            return true;
        };
        while let Some(first) = self.starts.front()
            && now.saturating_duration_since(*first) >= interval
        {
            self.starts.pop_front();
        }
        self.starts.len() < usize::try_from(burst).unwrap_or(usize::MAX)
    }

    /// Counts a start.
    pub(super) fn record_start(&mut self, limit: Option<StartLimit>, now: Instant) {
        if limit.is_some() {
            self.starts.push_back(now);
        }
    }
}

/// The delay after `failures` earlier ones in a row: `restart_delay`, then
/// `max(restart_delay, 100 ms)` and its doubles up to `restart_max_delay`.
fn delay_after(failures: u32, policy: &Policy) -> Duration {
    let longest = policy.restart_max_delay.max(policy.restart_delay);
    let Some(doublings) = failures.checked_sub(1) else {
        return policy.restart_delay;
    };
    doubled(policy.restart_delay.max(LEAST_GROWING_DELAY), doublings).min(longest)
}

fn doubled(delay: Duration, times: u32) -> Duration {
    delay.saturating_mul(2_u32.checked_pow(times).unwrap_or(u32::MAX))
}

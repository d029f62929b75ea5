//! The clocks: the only reader of them beside the agent's loop.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// Time since boot, suspension included; the clock of a process's start time.
pub(crate) fn since_boot() -> Duration {
    // The clock is there on every kernel that respawn runs on; zero would only blur an age.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Time since boot without suspension: the clock of what may take only so long.
pub(crate) fn awake() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// So long has the host been suspended since boot.
pub(crate) fn suspended() -> Duration {
    since_boot().saturating_sub(awake())
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub(crate) fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// By more than this a clock is set, not adjusted.
const ADJUSTED: SignedDuration = SignedDuration::from_secs(1);

/// The wall clock's time for moments given since boot, by one reading of both clocks.
pub(crate) struct WallClock {
    boot: Timestamp,
}

impl WallClock {
    /// Reads both clocks.
    pub(crate) fn read() -> Self {
        Self {
            boot: now()
                .checked_sub(since_boot())
                .unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// The time of something that was told with the time by the clock of then, by the clock as it is
    /// set now, if it is known when that was since boot: the clock may have been set in between. That
    /// it is merely adjusted does not count.
    pub(crate) fn corrected(&self, told: Timestamp, since_boot: Option<Duration>) -> Timestamp {
        let now = since_boot.map(|since_boot| self.at(since_boot));
        let is_set = |now: &Timestamp| now.duration_since(told).abs() > ADJUSTED;
        now.filter(is_set).unwrap_or(told)
    }

    /// When the moment `since_boot` was.
    pub(crate) fn at(&self, since_boot: Duration) -> Timestamp {
        self.boot.checked_add(since_boot).unwrap_or(self.boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_does_not_change_how_long_ago_something_was() {
        let boot: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = WallClock { boot };
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let minute = Some(Duration::from_secs(60));
        // The clock was five hours fast, or slow, and was set right since.
        for told in ["2026-01-01T05:01:00Z", "2025-12-31T19:01:00Z"] {
            let corrected = clock.corrected(at(told), minute);
            assert_eq!(corrected, at("2026-01-01T00:01:00Z"));
        }
        // It was not set, or nobody knows.
        let told = at("2026-01-01T00:01:00.2Z");
        assert_eq!(clock.corrected(told, minute), told);
        assert_eq!(
            clock.corrected(at("2026-01-01T05:01:00Z"), None),
            at("2026-01-01T05:01:00Z")
        );
    }
}

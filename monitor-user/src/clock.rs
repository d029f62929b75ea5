//! The clocks: the only reader of them beside the agent's loop.

use std::time::Duration;

use jiff::Timestamp;
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

    /// When the moment `since_boot` was.
    pub(crate) fn at(&self, since_boot: Duration) -> Timestamp {
        self.boot.checked_add(since_boot).unwrap_or(self.boot)
    }
}

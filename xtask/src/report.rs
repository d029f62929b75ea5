//! What the commands say beside their result: on stderr, so that stdout holds results only.
//! A closed stderr is no reason to fail.

use std::time::{Duration, Instant};

/// Says one line on stderr.
macro_rules! note {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
pub(crate) use note;

/// The time, for measuring how long a step took and when a demo ends.
#[expect(
    clippy::disallowed_methods,
    reason = "a command line tool times its own steps"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A duration as a person reads it: `0.4s`, `12.0s`, `3m05s`.
pub(crate) fn readable(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1}s", duration.as_secs_f64())
    } else {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    }
}

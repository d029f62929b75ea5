//! Starts whose process takes its time between fork and exec, as one does that opens an output file, enters a
//! directory or runs a program on a mount whose server is gone: looked at again until they have come to their
//! end, while the agent goes on with all else.
//!
//! ```text
//! begun ── PATIENCE ──▶ late ── landed ──────────────────────▶ Spawned, SpawnFailed
//!                        │  every LOOK_AFTER: SIGCONT             ▲
//!                        └─ TIME, or abandoned ─▶ killed ─ landed ┤ or StartAbandoned
//!                                                   └─ LAST_TIME ─┘ (never to end: its stack is left to it)
//! ```
//!
//! That a process has left the agent's memory cannot be waited for together with all else, so it is looked for by
//! time, and before anything that may be about an instance is taken from the kernel: so an instance is known
//! before its end is.

use std::time::{Duration, Instant};

use super::Agent;
use super::starts::Start;
use crate::model::{Attempt, ServiceName};
use crate::os::{proc, progress};
use crate::supervisor::Fact;

/// How long the loop waits for the starts that it has begun together: an exec takes a millisecond.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// How much longer for one that is ready to run, and has no CPU.
const STARVED: Duration = Duration::from_secs(1);

/// Until the next look.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// Until the first look at one that was killed: it ends at once, if it can.
const SOON: Duration = Duration::from_millis(1);

/// How long a start may take.
const TIME: Duration = Duration::from_secs(10);

/// How long a process may take to end that was killed.
const LAST_TIME: Duration = Duration::from_secs(1);

/// Those that are under way.
#[derive(Default)]
pub(super) struct LateStarts {
    starts: Vec<Late>,
}

struct Late {
    start: Start,
    look_at: Instant,
    /// It is killed then, or given up if it was.
    until: Instant,
    was_killed: bool,
    /// The supervisor has no use for it any more.
    is_abandoned: bool,
}

impl Late {
    fn kill(&mut self, now: Instant) {
        self.start.flight.give_up();
        self.was_killed = true;
        self.until = now + LAST_TIME;
    }

    /// Whether it is known what has become of it.
    fn is_over(&mut self, now: Instant) -> bool {
        if self.start.flight.has_landed(Duration::ZERO) {
            return true;
        }
        if self.look_at <= now {
            self.look_at = now + LOOK_AFTER;
            self.start.flight.prod();
        }
        match (self.until <= now, self.was_killed) {
            (true, true) => return true,
            (true, false) => self.kill(now),
            (false, _) => {}
        }
        false
    }
}

impl LateStarts {
    /// When `take_over` is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.starts.iter().map(|late| late.look_at).min()
    }

    /// Whether this is the process of one of them.
    pub(super) fn has(&self, pid: u32) -> bool {
        let mut starts = self.starts.iter();
        starts.any(|late| late.start.flight.pid() == Some(pid))
    }

    /// Ends one that has lost its sense; what has become of it is still to come. One that has just come to its
    /// program is left to be stopped like any other instance.
    pub(super) fn abandon(&mut self, service: &ServiceName, attempt: Attempt, now: Instant) {
        for late in &mut self.starts {
            let start = &late.start;
            let is_it = start.service == *service && Attempt(start.birth.attempt) == attempt;
            if is_it && !start.flight.has_landed(Duration::ZERO) {
                late.is_abandoned = true;
                late.kill(now);
                late.look_at = now + SOON;
            }
        }
    }

    fn add(&mut self, start: Start, now: Instant) {
        self.starts.push(Late {
            start,
            look_at: now + LOOK_AFTER,
            until: now + TIME,
            was_killed: false,
            is_abandoned: false,
        });
    }

    fn take_over(&mut self, now: Instant) -> Vec<Late> {
        let over = self.starts.extract_if(.., |late| late.is_over(now));
        over.collect()
    }
}

impl Agent {
    /// What has become of a start, if that is known in time; else it is told later. One that waits for a CPU
    /// gets more time: on a busy host that is no reason to call it late.
    pub(super) fn finish_in_time(&mut self, start: Start, patient_until: Instant) -> Option<Fact> {
        let longest = patient_until + STARVED;
        let mut until = patient_until;
        loop {
            let time = until.saturating_duration_since(Self::now());
            if start.flight.has_landed(time) {
                return Some(self.finish_start(start));
            }
            progress::count();
            let now = Self::now();
            let state = start.flight.pid().map(proc::stat);
            let waits_for_cpu = state.is_some_and(|it| it.is_ok_and(|it| it.state == 'R'));
            if !waits_for_cpu || now >= longest {
                tracing::debug!(service = %start.service, "its start takes its time");
                self.late.add(start, now);
                return None;
            }
            until = now + PATIENCE / 5;
        }
    }

    /// Tells what has become of the starts that took their time; whether there was one.
    pub(super) fn finish_late(&mut self) -> bool {
        let over = self.late.take_over(Self::now());
        let is_any = !over.is_empty();
        for Late {
            start,
            is_abandoned,
            ..
        } in over
        {
            progress::count();
            let (service, attempt) = (start.service.clone(), Attempt(start.birth.attempt));
            let fact = match self.finish_start(start) {
                Fact::SpawnFailed { .. } if is_abandoned => {
                    Fact::StartAbandoned { service, attempt }
                }
                fact => fact,
            };
            self.tell(fact);
        }
        is_any
    }
}

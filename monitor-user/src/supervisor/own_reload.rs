//! A service that reads its own configuration again while it runs, and says when it is done.
//!
//! It is sent a signal, says `RELOADING=1` with the time, and `READY=1` when it is done. It may also do so
//! unasked, perhaps at the very moment when somebody asks: what it had begun before is no answer.

use std::mem;
use std::time::{Duration, Instant};

use super::fact::RequestId;

/// How far that is.
#[derive(Debug, Default)]
pub(super) struct Reload {
    /// It has said that it does, and not that it is done.
    pub(super) is_under_way: bool,
    /// That was an answer to the last signal.
    is_answer: bool,
    /// When the last signal was sent.
    asked_at: Duration,
    /// Who waits for its end.
    pub(super) waiting: Vec<RequestId>,
    /// Until when they do.
    pub(super) by: Option<Instant>,
}

impl Reload {
    /// Somebody has asked for it, and the signal is sent at that time.
    pub(super) fn begin(&mut self, request: RequestId, at: Duration) {
        self.waiting.push(request);
        self.asked_at = at;
        self.is_answer = false;
    }

    /// It has said that it does so, since that time; `None`: since now.
    pub(super) fn heard(&mut self, at: Option<Duration>) {
        self.is_under_way = true;
        self.is_answer = at.is_none_or(|at| at >= self.asked_at);
    }

    /// It has said that it is done: who has waited for that.
    pub(super) fn end(&mut self) -> Vec<RequestId> {
        let is_done = mem::take(&mut self.is_under_way) && mem::take(&mut self.is_answer);
        if !is_done {
            return Vec::new();
        }
        self.by = None;
        mem::take(&mut self.waiting)
    }
}

//! A reload that goes on until it is done: what was removed or has changed stops, then what was added
//! or has changed starts, so that a new service finds free what an old one held.
//!
//! Keeps the books alone: what a service does is its own to decide, and whoever has nothing to do with
//! the reload is not touched by it.

use std::collections::{BTreeMap, BTreeSet};

use super::fact::RequestId;
use crate::model::{DeniedReason, FailedStart, ReloadSummary, Reply, ServiceName};

/// Requests of the supervisor's own have this bit, those of people have not.
const OWN: u64 = 1 << 63;

/// One reload under way.
#[derive(Debug, Default)]
pub(super) struct Reload {
    /// Who waits for it.
    pub(super) request: Option<RequestId>,
    pub(super) summary: ReloadSummary,
    /// Services that have something to stop for it.
    pub(super) stops: BTreeSet<ServiceName>,
    /// Services that are held back until nothing of those is left.
    pub(super) held: BTreeSet<ServiceName>,
    /// The starts that are waited for.
    pub(super) starts: BTreeMap<RequestId, ServiceName>,
}

impl Reload {
    /// Whether nothing is waited for any more.
    pub(super) fn is_done(&self) -> bool {
        self.stops.is_empty() && self.held.is_empty() && self.starts.is_empty()
    }

    /// Takes the answer to one of its starts.
    pub(super) fn answer(&mut self, request: RequestId, reply: &Reply) {
        let Some(service) = self.starts.remove(&request) else {
            return;
        };
        if let Reply::Denied(DeniedReason::StartFailed { failure, .. }) = reply {
            self.summary.failed.push(FailedStart {
                service: service.to_string(),
                error: failure.to_string(),
            });
        }
    }
}

impl RequestId {
    /// The supervisor's own request of that number.
    pub(super) fn own(number: u64) -> Self {
        Self(number | OWN)
    }

    /// Whether it is the supervisor's own.
    pub(super) fn is_own(self) -> bool {
        self.0 & OWN != 0
    }
}

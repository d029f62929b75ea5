//! `standby = true`: whether the next instance of a service is to be loaded already, and wait for its start.
//!
//! A standby is no instance: this machine does not know whether there is one. It asks for one while the
//! service is up and nothing is left of an earlier instance, so that there is a cgroup free for it; a start
//! then goes on with it, or does without.

use super::{Service, ServiceState};
use crate::model::StandbyWish;

impl Service {
    /// Whether the next instance is to be loaded.
    pub(super) fn standby(&self) -> StandbyWish {
        if !self.spec.policy.standby || self.spec.unusable.is_some() || !self.is_wanted() {
            return StandbyWish::Unwanted;
        }
        let is_settled = self.leaving.is_empty() && self.next.is_none() && !self.roll_due;
        match &self.state {
            ServiceState::Down(_) | ServiceState::Ending(_) => StandbyWish::Unwanted,
            ServiceState::Running { .. } if self.is_up() && is_settled => StandbyWish::Wanted,
            _ => StandbyWish::Kept,
        }
    }
}

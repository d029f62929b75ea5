//! The order of services: who comes before whom, and who has to be told when one of them gets on.
//!
//! Keeps the books alone. What a service does while it waits is its own to decide (`service.rs`), and
//! when the books are looked at is `mod.rs`'s.
//!
//! ```text
//!   ahead: the services that come before one     behind: the services that come after one
//!          app ─requires▶ db                            db ─▶ app (requires)
//! ```
//!
//! - A start looks ahead: a service starts when no service ahead of it stands in the way
//!   ([`Standing::blocks`]).
//! - A stop looks behind: a service stops when none behind it is on its way down and still there.
//!
//! Invariants, by the names under which `simulation.rs` checks them:
//! - `no_cycle`: no service comes before itself, whatever the config says. Services that would are
//!   loose: they have no order.
//! - `waits_agree`: what each service waits for is what the books and the services' standings say.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Link, ServiceName, Tie, Ties, cycles};

/// How far a service is, for those behind it that are to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is ready, or done, or nobody wants it up.
    Clear,
    /// It is on its way up.
    Coming,
    /// It is on its way down, to stay there.
    Going,
    /// It has failed, and its next start waits for its time.
    Failing,
    /// It has failed for good.
    Failed,
}

impl Standing {
    /// Whether a service that is tied so waits for it.
    pub(super) fn blocks(self, tie: Tie) -> bool {
        match self {
            Self::Clear => false,
            Self::Coming => true,
            Self::Going | Self::Failing => tie >= Tie::Requires,
            // Nobody waits for what does not come.
            Self::Failed => false,
        }
    }
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Order {
    ahead: BTreeMap<ServiceName, Ties>,
    behind: BTreeMap<ServiceName, Ties>,
    /// Services that were part of a cycle in the last config.
    loose: BTreeSet<ServiceName>,
}

impl Order {
    /// The services that come before this one.
    pub(super) fn ahead(&self, name: &str) -> impl Iterator<Item = (&ServiceName, Tie)> {
        let ties = self.ahead.get(name).into_iter().flatten();
        ties.map(|(name, tie)| (name, *tie))
    }

    /// The services that come after this one.
    pub(super) fn behind(&self, name: &str) -> impl Iterator<Item = (&ServiceName, Tie)> {
        let ties = self.behind.get(name).into_iter().flatten();
        ties.map(|(name, tie)| (name, *tie))
    }

    /// The services that follow this one's stops, one after the other.
    pub(super) fn followers(&self, name: &str) -> Vec<ServiceName> {
        let followers = self.behind(name);
        let followers = followers.filter(|(_, tie)| *tie >= Tie::PartOf);
        followers.map(|(name, _)| name.clone()).collect()
    }

    /// A whole config was read: whoever is part of a cycle in it has no order.
    pub(super) fn loosen(&mut self, ties: &BTreeMap<ServiceName, Ties>) {
        let cycles = cycles(ties);
        self.loose = cycles.into_iter().flatten().map(|(name, _)| name).collect();
    }

    /// Whether its order is not kept, for it is part of a cycle.
    pub(super) fn is_loose(&self, name: &str) -> bool {
        self.loose.contains(name)
    }

    /// A service has these ties now. Returns the services ahead of it before or now.
    pub(super) fn relate(&mut self, name: &ServiceName, mut ties: Ties) -> BTreeSet<ServiceName> {
        if self.is_loose(name) {
            ties.clear();
        }
        let new = ties.clone();
        let old = match ties.is_empty() {
            true => self.ahead.remove(name),
            false => self.ahead.insert(name.clone(), ties),
        };
        let old = old.unwrap_or_default();
        for target in old.keys() {
            if !new.contains_key(target)
                && let Some(behind) = self.behind.get_mut(target)
            {
                behind.remove(name);
                if behind.is_empty() {
                    self.behind.remove(target);
                }
            }
        }
        for (target, tie) in &new {
            let behind = self.behind.entry(target.clone()).or_default();
            behind.insert(name.clone(), *tie);
        }
        old.into_keys().chain(new.into_keys()).collect()
    }

    /// The cycle that a service would be part of with these ties, if it would.
    pub(super) fn cycle_with(&self, name: &ServiceName, ties: Ties) -> Option<Vec<Link>> {
        let mut reached = BTreeMap::from([(name.clone(), ties.clone())]);
        let mut rest: Vec<ServiceName> = ties.into_keys().collect();
        while let Some(next) = rest.pop() {
            if reached.contains_key(&next) {
                continue;
            }
            let ahead = self.ahead.get(&next).cloned().unwrap_or_default();
            rest.extend(ahead.keys().cloned());
            reached.insert(next, ahead);
        }
        cycles(&reached).into_iter().next()
    }

    /// `no_cycle`
    #[cfg(test)]
    pub(super) fn has_cycle(&self) -> bool {
        !cycles(&self.ahead).is_empty()
    }
}

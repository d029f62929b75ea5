//! What services have to do with each other: who hears how far another one is, and whom a request for
//! one service carries to.
//!
//! The books are in `order.rs`, what a service does is in `service.rs`; this joins the two.
//!
//! A service's waits change only here, and only a service that they were the last obstacle for is
//! visited: so a service that has ten thousand others behind it costs each of them one entry in a set.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::Supervisor;
use super::fact::Fact;
use super::order::Standing;
use super::reload::Reload;
use super::service::{Legacy, Service};
use crate::model::{
    Attempt, Desired, ServiceName, SpawnFailure, Spec, State, Tie, Ties, cycle_words,
};

/// A service that is up, or is to be, and those that it has started: by name, those that it started
/// before the config that is taken up.
pub(super) type Begun = Vec<(ServiceName, BTreeSet<ServiceName>)>;

impl Supervisor {
    /// Tells several services something: nobody acts before all have heard.
    pub(super) fn together(&mut self, tell: impl FnOnce(&mut Self)) {
        let was_held = mem::replace(&mut self.is_held, true);
        tell(self);
        self.is_held = was_held;
    }

    /// Has everybody hear how far the others are, and then do what they permit.
    pub(super) fn spread(&mut self, now: Instant) {
        self.heed_end(now);
        while !self.moved.is_empty() || !self.pending.is_empty() {
            while let Some(name) = self.moved.pop_first() {
                self.tell_those_behind(&name, now);
                self.tell_those_ahead(&name);
                if !self.services.contains_key(&name) {
                    self.order.relate(&name, Ties::new());
                }
            }
            for name in mem::take(&mut self.pending) {
                self.visit(&name, now, Service::settle);
                self.heed_end(now);
            }
        }
    }

    fn standing(&self, name: &str) -> Standing {
        let service = self.services.get(name);
        service.map_or(Standing::Clear, |it| it.standing())
    }

    fn is_closing(&self, name: &str) -> bool {
        self.services.get(name).is_some_and(|it| it.is_closing())
    }

    fn tell_those_behind(&mut self, name: &ServiceName, now: Instant) {
        let standing = self.standing(name);
        let behind: Vec<(ServiceName, Tie)> = self
            .order
            .behind(name)
            .map(|(behind, tie)| (behind.clone(), tie))
            .collect();
        for (behind, tie) in &behind {
            let blocks = standing.blocks(*tie);
            if let Some(service) = self.services.get_mut(behind)
                && service.wait_to_start(name, blocks)
                && service.is_pending()
            {
                self.pending.insert(behind.clone());
            }
        }
        if standing == Standing::Failing {
            self.deny_for(name, now);
        }
        if matches!(standing, Standing::Coming | Standing::Failing) {
            self.restart_the_bound(&behind, now);
        }
    }

    fn tell_those_ahead(&mut self, name: &ServiceName) {
        let is_closing = self.is_closing(name);
        let ahead: Vec<ServiceName> = self.order.ahead(name).map(|(it, _)| it.clone()).collect();
        for ahead in ahead {
            if let Some(service) = self.services.get_mut(&ahead)
                && service.wait_to_stop(name, is_closing)
                && service.is_pending()
            {
                self.pending.insert(ahead);
            }
        }
    }

    /// Whoever waits for a service that waits for this one is told that its start has failed.
    fn deny_for(&mut self, name: &ServiceName, now: Instant) {
        let trouble = self.services.get(name).and_then(|it| it.trouble());
        let trouble = trouble.unwrap_or_else(|| "it does not run".to_owned());
        let mut seen = BTreeSet::from([name.clone()]);
        let mut rest = vec![(
            name.clone(),
            format!("it waits for {name}, which failed: {trouble}"),
        )];
        while let Some((failed, message)) = rest.pop() {
            for behind in self.order.followers(&failed) {
                let service = self.services.get(&behind);
                let waits = service.is_some_and(|it| it.waits_for(&failed));
                if !waits || !seen.insert(behind.clone()) {
                    continue;
                }
                if service.is_some_and(|it| it.is_awaited()) {
                    let message = message.clone();
                    self.visit(&behind, now, |it, step| {
                        it.deny_for_requirement(message, step);
                    });
                }
                let chain = message.replacen("it waits for ", "which waits for ", 1);
                rest.push((behind.clone(), format!("it waits for {behind}, {chain}")));
            }
        }
    }

    /// Those that are bound to a service that is not up any more restart with it.
    fn restart_the_bound(&mut self, behind: &[(ServiceName, Tie)], now: Instant) {
        let bound = behind.iter().filter(|(_, tie)| *tie == Tie::Binds);
        for (bound, _) in bound {
            self.together(|it| {
                it.visit(bound, now, Service::restart_too);
                it.carry_restart(bound, now);
            });
        }
    }
}

// ---- requests ----

impl Supervisor {
    /// What somebody has asked of one service is asked of others, too.
    pub(super) fn carry(&mut self, name: &ServiceName, fact: &Fact, now: Instant) {
        match fact {
            Fact::StartRequested { .. } => self.pull(name, now),
            Fact::RestartRequested { .. } => {
                self.pull(name, now);
                // One that is replaced while it runs is never away.
                if !self.services.get(name).is_some_and(|it| it.is_rolling()) {
                    self.carry_restart(name, now);
                }
            }
            Fact::StopRequested { .. } => self.carry_stop(name, now),
            _ => {}
        }
    }

    /// Starts what a service requires or wants, and what that does.
    fn pull(&mut self, name: &ServiceName, now: Instant) {
        let needs = self.needs(name);
        for name in &needs {
            self.visit(name, now, Service::pull);
        }
        // One whose stop goes on, and who is started after it, restarts.
        for name in needs.iter().chain([name]) {
            if self.services.get(name).is_some_and(|it| it.is_to_restart()) {
                self.carry_restart(name, now);
            }
        }
    }

    /// What is started for a service, directly or not, without itself.
    fn needs(&self, name: &ServiceName) -> Vec<ServiceName> {
        let mut seen = BTreeSet::from([name.clone()]);
        let mut found = Vec::new();
        let mut rest = vec![name.clone()];
        while let Some(next) = rest.pop() {
            let Some(service) = self.services.get(&next) else {
                continue;
            };
            for start in service.spec().relations.starts() {
                let is_there = self.services.get(start).is_some_and(|it| !it.is_removed());
                if is_there && seen.insert(start.clone()) {
                    found.push(start.clone());
                    rest.push(start.clone());
                }
            }
        }
        found
    }

    fn carry_stop(&mut self, name: &ServiceName, now: Instant) {
        let mut seen = BTreeSet::from([name.clone()]);
        let mut rest = vec![name.clone()];
        while let Some(next) = rest.pop() {
            for follower in self.order.followers(&next) {
                if seen.insert(follower.clone()) {
                    self.visit(&follower, now, Service::stop_too);
                    rest.push(follower);
                }
            }
        }
    }

    /// Those that require a service restart with it, if they are up: these.
    pub(super) fn carry_restart(&mut self, name: &str, now: Instant) -> BTreeSet<ServiceName> {
        let mut seen = BTreeSet::new();
        let mut carried = BTreeSet::new();
        let mut rest = self.order.followers(name);
        while let Some(follower) = rest.pop() {
            if !seen.insert(follower.clone()) {
                continue;
            }
            self.visit(&follower, now, Service::restart_too);
            if self
                .services
                .get(&follower)
                .is_some_and(|it| it.is_restarting())
            {
                rest.extend(self.order.followers(&follower));
                carried.insert(follower);
            }
        }
        carried
    }
}

// ---- the config ----

impl Supervisor {
    /// Whoever is part of a cycle has no order. A service that is on its way out has none either, if it
    /// would make one.
    pub(super) fn loosen(&mut self, specs: &BTreeMap<ServiceName, Arc<Spec>>) {
        let ties = specs.iter();
        let mut ties: BTreeMap<ServiceName, Ties> = ties
            .map(|(name, spec)| (name.clone(), spec.relations.ties()))
            .collect();
        self.order.loosen(&ties);
        ties.retain(|name, _| !self.order.is_loose(name));
        let leaving: Vec<ServiceName> = self
            .services
            .keys()
            .filter(|name| !specs.contains_key(*name))
            .cloned()
            .collect();
        for name in &leaving {
            let ahead = self.order.ahead(name);
            let ahead = ahead.map(|(name, tie)| (name.clone(), tie)).collect();
            ties.insert(name.clone(), ahead);
        }
        if !leaving.is_empty() && !crate::model::cycles(&ties).is_empty() {
            for name in leaving {
                self.untie(&name);
            }
        }
    }

    fn untie(&mut self, name: &ServiceName) {
        for ahead in self.order.relate(name, Ties::new()) {
            if let Some(service) = self.services.get_mut(&ahead) {
                service.wait_to_stop(name, false);
                self.pending.insert(ahead);
            }
        }
        self.refresh(name);
    }

    /// All have the ties of the config that was read. Returns those who may have others to wait for.
    pub(super) fn relate_all(
        &mut self,
        specs: &BTreeMap<ServiceName, Arc<Spec>>,
    ) -> BTreeSet<ServiceName> {
        let mut touched: BTreeSet<ServiceName> = specs.keys().cloned().collect();
        for (name, spec) in specs {
            touched.extend(self.order.relate(name, spec.relations.ties()));
        }
        touched
    }

    /// Finds out anew for whom a service has to wait.
    pub(super) fn refresh(&mut self, name: &ServiceName) {
        let ahead = self.order.ahead(name);
        let ahead = ahead.filter(|(ahead, tie)| self.standing(ahead).blocks(*tie));
        let start = ahead.map(|(ahead, _)| ahead.clone()).collect();
        let behind = self.order.behind(name);
        let behind = behind.filter(|(behind, _)| self.is_closing(behind));
        let stop = behind.map(|(behind, _)| behind.clone()).collect();
        if let Some(service) = self.services.get_mut(name) {
            service.set_waits(start, stop);
            self.pending.insert(name.clone());
        }
    }

    /// What each service that is up, or is to be, has started so far.
    pub(super) fn begun(
        &self,
        specs: &BTreeMap<ServiceName, Arc<Spec>>,
        legacies: &BTreeMap<ServiceName, Legacy>,
    ) -> Begun {
        let mut begun = Begun::new();
        for (name, spec) in specs {
            if spec.relations.starts().next().is_none() {
                continue;
            }
            let known = self.services.get(name).filter(|it| !it.is_removed());
            let so_far = match (known, legacies.contains_key(name)) {
                (Some(service), _) => service.spec().relations.starts().cloned().collect(),
                (None, true) => spec.relations.starts().cloned().collect(),
                (None, false) => BTreeSet::new(),
            };
            begun.push((name.clone(), so_far));
        }
        begun
    }

    /// Services that require one which a reload restarts or removes restart with it, and the reload
    /// waits for them.
    pub(super) fn restart_for(&mut self, reload: &mut Reload, now: Instant) {
        let summary = &reload.summary;
        let stopping = summary.restarted.iter().chain(&summary.removed);
        let mut stopping: BTreeSet<ServiceName> =
            stopping.map(|name| name.as_str().into()).collect();
        stopping.retain(|name| !self.services.get(name).is_some_and(|it| it.is_rolling()));
        // An earlier agent's may have changed since, and others may require them now.
        let due = self.services.iter().filter(|(_, it)| it.is_stop_due());
        stopping.extend(due.map(|(name, _)| name.clone()));
        for name in stopping {
            for carried in self.carry_restart(&name, now) {
                if !reload.held.contains(&carried) {
                    self.hold(&carried, reload, now);
                }
            }
        }
    }

    /// Starts what services that are up require or want for the first time. `old`: the services that
    /// there were before.
    pub(super) fn pull_for(
        &mut self,
        begun: Begun,
        old: &BTreeSet<ServiceName>,
        reload: &mut Reload,
        now: Instant,
    ) {
        let mut rest: Vec<(ServiceName, BTreeSet<ServiceName>)> = begun;
        let mut seen = BTreeSet::new();
        while let Some((name, so_far)) = rest.pop() {
            let service = self.services.get(&name).filter(|it| it.is_wanted());
            let Some(service) = service else {
                continue;
            };
            let starts: Vec<ServiceName> = service.spec().relations.starts().cloned().collect();
            for start in starts {
                let is_new = !so_far.contains(&start) || !old.contains(&start);
                let target = self.services.get(&start);
                let is_down = target.is_some_and(|it| !it.is_removed() && !it.is_wanted());
                if !is_new || !is_down || !seen.insert(start.clone()) {
                    continue;
                }
                self.hold(&start, reload, now);
                self.visit(&start, now, Service::pull);
                rest.push((start, BTreeSet::new()));
            }
        }
    }

    /// A service's file can be used now. One that would close a cycle cannot.
    pub(super) fn describe(
        &mut self,
        name: &ServiceName,
        attempt: Attempt,
        spec: Arc<Spec>,
        now: Instant,
    ) {
        let ties = spec.relations.ties();
        let new = Arc::clone(&spec);
        if let Some(cycle) = self.order.cycle_with(name, ties.clone()) {
            let failure = SpawnFailure {
                message: format!("its order is a cycle: {}", cycle_words(&cycle)),
            };
            return self.visit(name, now, |it, step| {
                it.spawn_failed(attempt, failure, step);
            });
        }
        self.together(|it| {
            it.visit(name, now, |service, step| {
                service.described(attempt, spec, step)
            });
            let service = it.services.get(name);
            let is_taken = service.filter(|it| Arc::ptr_eq(it.spec(), &new));
            let Some(is_wanted) = is_taken.map(|it| it.is_wanted()) else {
                return;
            };
            let touched = it.order.relate(name, ties);
            for name in touched.iter().chain([name]) {
                it.refresh(name);
            }
            if is_wanted {
                it.pull(name, now);
            }
        });
    }
}

// ---- what people are told ----

impl Supervisor {
    /// What is to be said of a service's order: whom it waits for and what that does, and which of those
    /// that it requires is not up.
    pub(crate) fn remarks(&self, name: &str) -> Vec<String> {
        let Some(service) = self.services.get(name) else {
            return Vec::new();
        };
        let mut remarks = Vec::new();
        if self.order.is_loose(name) {
            remarks.push("it is part of a cycle, so its order is ignored".to_owned());
        }
        let status = service.status();
        if let Some(first) = status.waits_for.and_then(BTreeSet::first) {
            remarks.push(self.waiting(first, status.waits_for.map_or(0, BTreeSet::len)));
        }
        if status.desired == Desired::Down || status.state == State::Waiting {
            return remarks;
        }
        let required = self.order.ahead(name);
        for (required, _) in required.filter(|(_, tie)| *tie >= Tie::Requires) {
            let service = self.services.get(required);
            let trouble = match service.map(|service| (service, service.status().state)) {
                None => "does not exist".to_owned(),
                Some((service, State::Failed)) => match service.trouble() {
                    Some(trouble) => format!("has failed: {trouble}"),
                    None => "has failed".to_owned(),
                },
                Some((_, State::Stopped)) => "is stopped".to_owned(),
                Some(_) => continue,
            };
            remarks.push(format!("{required}, which it requires, {trouble}"));
        }
        remarks
    }

    /// "waits for b (and 2 others), which waits for c, which is in backoff: exited with 1"
    fn waiting(&self, first: &ServiceName, count: usize) -> String {
        let mut text = format!("waits for {first}");
        match count {
            0 | 1 => {}
            2 => text += " and 1 other",
            more => text += &format!(" and {} others", more - 1),
        }
        let mut name = first;
        // There is no cycle, and nobody reads more than that.
        for _ in 0..8 {
            let Some(service) = self.services.get(name) else {
                break;
            };
            let status = service.status();
            if status.state == State::Waiting
                && let Some(next) = status.waits_for.and_then(BTreeSet::first)
            {
                text += &format!(", which waits for {next}");
                name = next;
                continue;
            }
            text += &format!(", which is {}", in_words(status.state));
            if status.state == State::Backoff
                && let Some(trouble) = service.trouble()
            {
                text += &format!(": {trouble}");
            }
            break;
        }
        text
    }

    /// The ties that count at the moment.
    #[cfg(test)]
    pub(super) fn ties(&self, name: &str) -> Ties {
        let ahead = self.order.ahead(name);
        ahead.map(|(name, tie)| (name.clone(), tie)).collect()
    }

    /// The invariants of `order.rs`.
    #[cfg(test)]
    pub(super) fn check_order(&self) -> Result<(), String> {
        if self.order.has_cycle() {
            return Err("no_cycle: the order has one".to_owned());
        }
        for (name, service) in &self.services {
            let ahead = self.order.ahead(name);
            let ahead = ahead.filter(|(ahead, tie)| self.standing(ahead).blocks(*tie));
            let start: BTreeSet<&ServiceName> = ahead.map(|(ahead, _)| ahead).collect();
            let behind = self.order.behind(name);
            let behind = behind.filter(|(behind, _)| self.is_closing(behind));
            let stop: BTreeSet<&ServiceName> = behind.map(|(behind, _)| behind).collect();
            let (start_waits, stop_waits) = service.all_waits();
            if !start.iter().copied().eq(start_waits) || !stop.iter().copied().eq(stop_waits) {
                return Err(format!(
                    "waits_agree: {name} waits for {start_waits:?} and {stop_waits:?}, not {start:?} and {stop:?}"
                ));
            }
        }
        Ok(())
    }
}

fn in_words(state: State) -> &'static str {
    match state {
        State::Backoff => "in backoff",
        other => other.as_str(),
    }
}

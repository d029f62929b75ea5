//! The supervisor: decides when services start, stop and start again.
//!
//! Pure: no clock, no tokio, no aya, no syscalls. Inputs are facts ([`Fact`]) with the time at
//! which they became known, outputs are verbs ([`Action`]).
//!
//! The loop around it:
//! 1. `handle_fact` for each fact, `handle_timeout` when [`Supervisor::poll_timeout`] is due;
//! 2. after each of them, where memory is kept, write that of every
//!    [`Supervisor::next_changed`], so that what is then answered outlives the agent;
//! 3. perform every [`Supervisor::next_action`];
//! 4. sleep until the next fact or `poll_timeout`.
//!
//! Services wait for each other by `order.rs`. What several services are told together (a config, a
//! request and what it carries to others, a shutdown) all of them hear first; then each does what the
//! others permit.
//!
//! What it counts on: each `Spawn` is answered once, before that instance's `ProcessReleased`;
//! each instance is released at some time, and each `ClearTree` answered. All else may be lost,
//! told twice or late, or be about something that never was.

mod action;
mod background;
mod backoff;
mod essential;
mod fact;
mod order;
mod own_reload;
mod reload;
mod service;
mod ties;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use action::*;
pub(crate) use fact::*;

use crate::model::{
    Attempt, DeniedReason, Memory, Notice, ReloadSummary, Reply, ServiceName, Spec, Status,
};
use order::Order;
use reload::Reload;
use service::{Change, Dead, Legacy, Service, Step};

/// All services of one agent.
#[derive(Default)]
pub(crate) struct Supervisor {
    /// Each on its own: a node of the map has room for eleven, and is half empty where they come in order.
    services: BTreeMap<ServiceName, Box<Service>>,
    /// Each service's next deadline, if it has one.
    deadlines: BTreeSet<(Instant, ServiceName)>,
    actions: VecDeque<Action>,
    last_attempt: Attempt,
    /// Services whose memory may differ from what was last read of it.
    changed: BTreeSet<ServiceName>,
    /// How many services are not down.
    active: usize,
    startup: Option<Startup>,
    is_configured: bool,
    is_shutting_down: bool,
    shutdown_requests: Vec<RequestId>,
    /// Whether the agent ends with an essential service.
    ends_with_essential: bool,
    /// The essential service that has ended for good, and with which exit status the agent is to end.
    ended: Option<(ServiceName, u8)>,
    /// Those that are not done, oldest first.
    reloads: Vec<Reload>,
    last_own_request: u64,
    order: Order,
    /// Services of which those ahead of them or behind them have not heard how far they are.
    moved: BTreeSet<ServiceName>,
    /// Services that may have something to do once all have heard.
    pending: BTreeSet<ServiceName>,
    /// Several services are told something together.
    is_held: bool,
}

/// What was told before the first config.
#[derive(Default)]
struct Startup {
    legacies: BTreeMap<ServiceName, Legacy>,
    /// Facts about the legacies' instances, told again once the services are known.
    facts: Vec<Fact>,
}

impl Supervisor {
    /// A supervisor that knows nothing yet. `Remembered` facts may follow, then `Configured`.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Takes a fact, known at `now`. What is to be done about it is left in `next_action`.
    pub(crate) fn handle_fact(&mut self, fact: Fact, now: Instant) {
        if let Some(fact) = self.hold_until_configured(fact) {
            self.dispatch(fact, now);
        }
        self.conclude(now);
    }

    /// Does what is due at `now`. To be called when `poll_timeout` has come; harmless earlier.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, _)) = self.deadlines.first()
            && *deadline <= now
        {
            // The service sets its next deadline itself, and `visit` enters it here.
            let Some((_, name)) = self.deadlines.pop_first() else {
                break;
            };
            self.visit(&name, now, Service::timeout);
            // The next one may be at the same instant, which `visit` takes for no change.
            if let Some(deadline) = self.services.get(&name).and_then(|it| it.deadline()) {
                self.deadlines.insert((deadline, name));
            }
            self.spread(now);
        }
        self.conclude(now);
    }

    /// Takes facts of several services that became known together, such as a request for all of them.
    pub(crate) fn handle_facts(&mut self, facts: Vec<Fact>, now: Instant) {
        self.is_held = true;
        for fact in facts {
            if let Some(fact) = self.hold_until_configured(fact) {
                self.dispatch(fact, now);
            }
        }
        self.is_held = false;
        self.conclude(now);
    }

    /// Has all services do what follows from what some were told.
    fn conclude(&mut self, now: Instant) {
        self.spread(now);
        loop {
            self.go_on_with_reloads(now);
            self.spread(now);
            // What a reload has started may have been answered by now, and the reload waits for it.
            if !self.actions.iter().any(Action::is_own_reply) {
                break;
            }
        }
        self.reply_to_shutdown(now);
    }

    /// When `handle_timeout` is to be called next; `None`: not before another fact.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The next thing to do, in order. To be drained after every fact and timeout.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next service whose memory may have changed, or that is forgotten (then it has none).
    pub(crate) fn next_changed(&mut self) -> Option<ServiceName> {
        self.changed.pop_first()
    }

    /// One service as it is now; `None` if there is none of that name.
    pub(crate) fn status(&self, service: &str) -> Option<Status<'_>> {
        self.services.get(service).map(|it| it.status())
    }

    /// All services as they are now, by name.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = Status<'_>> {
        self.services.values().map(|it| it.status())
    }

    /// What the next agent needs to know of a service; `None` if there is none of that name.
    pub(crate) fn memory(&self, service: &str, now: Instant) -> Option<Memory> {
        self.services
            .get(service)
            .map(|service| service.memory(now))
    }

    /// The attempt that a service's instance is of; `None` if there is none of that name.
    pub(crate) fn attempt(&self, service: &str) -> Option<Attempt> {
        self.services.get(service).map(|it| it.attempt())
    }

    /// The spec that a `Spawn` for this service means, at the time when it is drained.
    pub(crate) fn spec(&self, service: &str) -> Option<&Arc<Spec>> {
        self.services.get(service).map(|it| it.spec())
    }

    /// Keeps what cannot be used before the first config; gives back the rest.
    fn hold_until_configured(&mut self, fact: Fact) -> Option<Fact> {
        if self.is_configured {
            return Some(fact);
        }
        let startup = self.startup.get_or_insert_default();
        match fact {
            Fact::Remembered {
                service,
                memory,
                instance,
            } => {
                let legacy = startup.legacies.entry(service).or_default();
                legacy.memory = *memory;
                legacy.instances.extend(instance);
            }
            Fact::ProcessExited { .. }
            | Fact::ProcessReleased { .. }
            | Fact::BecameReady { .. }
            | Fact::DoesNotWork { .. }
            | Fact::StopSent { .. }
            | Fact::TreeRemains { .. }
            | Fact::TreeGone { .. } => startup.facts.push(fact),
            other => return Some(other),
        }
        None
    }

    /// What is known of how an instance is.
    fn hear(&mut self, fact: Fact, now: Instant) {
        match fact {
            Fact::BecameReady { service, instance } => {
                self.visit(&service, now, |it, step| it.became_ready(instance, step));
            }
            Fact::NotReadyYet {
                service,
                instance,
                reason,
            } => {
                self.visit_in_passing(&service, now, |it, _| it.not_ready_yet(instance, reason));
            }
            Fact::Lives { service, instance } => {
                self.visit_in_passing(&service, now, |it, step| it.lives(instance, step.now));
            }
            Fact::Reloading {
                service,
                instance,
                at,
            } => {
                self.visit_in_passing(&service, now, |it, _| it.reloading(instance, at));
            }
            Fact::Ending { service, instance } => {
                self.visit(&service, now, |it, step| it.ending(instance, step.now));
            }
            Fact::MainChanged {
                service,
                instance,
                main,
            } => self.visit(&service, now, |it, step| {
                it.main_changed(instance, main, step);
            }),
            Fact::NeedsTime {
                service,
                instance,
                time,
            } => self.visit(&service, now, |it, step| {
                it.extend(instance, time, step.now)
            }),
            Fact::DoesNotWork {
                service,
                instance,
                reason,
            } => self.visit(&service, now, |it, step| it.fail(instance, reason, step)),
            _ => {}
        }
    }

    /// What has become of conditions and of commands around a run.
    fn hear_of_steps(&mut self, fact: Fact, now: Instant) {
        match fact {
            Fact::Skipped {
                service,
                attempt,
                reason,
            } => self.visit(&service, now, |it, step| it.skipped(attempt, reason, step)),
            Fact::StartAbandoned { service, attempt } => {
                self.visit(&service, now, |it, step| it.start_abandoned(attempt, step));
            }
            Fact::StepsDone {
                service,
                instance,
                phase,
                failure,
            } => self.visit(&service, now, |it, step| {
                it.steps_done(instance, phase, failure, step);
            }),
            _ => {}
        }
    }

    /// What has ended.
    fn hear_of_ends(&mut self, fact: Fact, now: Instant) {
        match fact {
            Fact::ProcessExited {
                service,
                instance,
                death,
                circumstances,
            } => self.visit(&service, now, |it, step| {
                it.exited(instance, death, circumstances, step);
            }),
            Fact::ChildExited {
                service,
                attempt,
                child,
            } => self.visit(&service, now, |it, step| {
                it.child_exited(attempt, child, step);
            }),
            Fact::ProcessReleased {
                service,
                instance,
                death,
            } => self.visit(&service, now, |it, step| it.released(instance, death, step)),
            _ => {}
        }
    }

    fn dispatch(&mut self, fact: Fact, now: Instant) {
        match fact {
            Fact::Configured { services, request } => {
                self.together(|it| it.configure(services, request, now));
            }
            // Too late: what is in the config is known by now, and may have been started.
            Fact::Remembered { .. } => {}
            Fact::Spawned {
                service,
                attempt,
                instance,
            } => self.visit(&service, now, |it, step| {
                it.spawned(attempt, instance, step)
            }),
            Fact::SpawnFailed {
                service,
                attempt,
                failure,
            } => self.visit(&service, now, |it, step| {
                it.spawn_failed(attempt, failure, step);
            }),
            Fact::Described {
                service,
                attempt,
                spec,
            } => self.describe(&service, attempt, spec, now),
            Fact::Skipped { .. } | Fact::StartAbandoned { .. } | Fact::StepsDone { .. } => {
                self.hear_of_steps(fact, now);
            }
            Fact::BecameReady { .. }
            | Fact::NotReadyYet { .. }
            | Fact::Lives { .. }
            | Fact::Reloading { .. }
            | Fact::Ending { .. }
            | Fact::MainChanged { .. }
            | Fact::NeedsTime { .. }
            | Fact::DoesNotWork { .. } => self.hear(fact, now),
            Fact::ProcessExited { .. }
            | Fact::ChildExited { .. }
            | Fact::ProcessReleased { .. } => {
                self.hear_of_ends(fact, now);
            }
            Fact::StopSent { service, instance } => {
                self.visit(&service, now, |it, _| it.stop_sent(instance));
            }
            Fact::TreeRemains { service, instance } => {
                self.visit(&service, now, |it, step| it.tree_remains(instance, step));
            }
            Fact::TreeGone { service, instance } => {
                self.visit(&service, now, |it, step| it.tree_gone(instance, step));
            }
            Fact::EventsLost { count } => self
                .actions
                .push_back(Action::Publish(Notice::EventsLost { count })),
            Fact::ShutdownRequested { request } => self.together(|it| it.shut_down(request, now)),
            Fact::StartRequested { .. }
            | Fact::StopRequested { .. }
            | Fact::RestartRequested { .. }
            | Fact::SignalRequested { .. }
            | Fact::ReloadRequested { .. } => self.together(|it| it.request(fact, now)),
        }
    }

    /// A person asked for something of one service.
    fn request(&mut self, fact: Fact, now: Instant) {
        let (service, request, brings_up) = match &fact {
            Fact::StartRequested { service, request }
            | Fact::RestartRequested { service, request } => (service.clone(), *request, true),
            Fact::StopRequested { service, request }
            | Fact::SignalRequested {
                service, request, ..
            }
            | Fact::ReloadRequested {
                service, request, ..
            } => (service.clone(), *request, false),
            _ => return,
        };
        let denied = match self.services.get(&service) {
            None => Some(DeniedReason::UnknownService(service.clone())),
            Some(known) if brings_up && known.is_removed() => {
                Some(DeniedReason::UnknownService(service.clone()))
            }
            Some(_) if brings_up && self.is_shutting_down => Some(DeniedReason::Overtaken {
                service: service.clone(),
                by: "shutdown",
            }),
            Some(_) => None,
        };
        if let Some(reason) = denied {
            return self.reply(request, Reply::Denied(reason));
        }
        self.visit(&service, now, |it, step| match &fact {
            Fact::StartRequested { .. } => it.start(request, step),
            Fact::RestartRequested { .. } => it.restart(request, step),
            Fact::SignalRequested { signal, .. } => it.signal(*signal, request, step),
            Fact::ReloadRequested { signal, at, .. } => it.reload(*signal, *at, request, step),
            _ => it.stop(request, step),
        });
        self.carry(&service, &fact, now);
    }

    /// A config was read: the whole set.
    fn configure(
        &mut self,
        specs: BTreeMap<ServiceName, Arc<Spec>>,
        request: Option<RequestId>,
        now: Instant,
    ) {
        self.is_configured = true;
        let Startup {
            mut legacies,
            facts,
        } = self.startup.take().unwrap_or_default();
        for legacy in legacies.values() {
            let born = legacy.instances.iter().map(|(attempt, _)| *attempt);
            self.last_attempt = born
                .chain([legacy.memory.last_attempt])
                .fold(self.last_attempt, Attempt::max);
        }
        self.go_on_with_end(&legacies);
        let dead = told_dead(&facts);
        let mut reload = Reload {
            request,
            ..Reload::default()
        };
        let old = self.services.keys().chain(legacies.keys());
        let old: BTreeSet<ServiceName> = old.cloned().collect();
        self.loosen(&specs);
        let touched = self.relate_all(&specs);
        self.remove_unlisted(&specs, &mut reload.summary, now);
        let begun = self.begun(&specs, &legacies);
        for (name, spec) in specs {
            let legacy = legacies.remove(&name);
            self.configure_one(name, spec, legacy, &dead, &mut reload, now);
        }
        for (name, legacy) in legacies {
            self.resume_unlisted(name, legacy, &dead, &mut reload.summary, now);
        }
        for name in touched {
            self.refresh(&name);
        }
        self.pull_for(begun, &old, &mut reload, now);
        self.restart_for(&mut reload, now);
        let summary = &reload.summary;
        let stopping = summary.removed.iter().chain(&summary.restarted);
        reload.stops = stopping.map(|name| name.as_str().into()).collect();
        self.reloads.push(reload);
        for fact in facts {
            self.dispatch(fact, now);
        }
    }

    /// Has a service that a reload starts wait for what that stops, and somebody wait for the start.
    fn hold(&mut self, name: &ServiceName, reload: &mut Reload, now: Instant) {
        reload.held.insert(name.clone());
        let request = reload.request.map(|_| {
            self.last_own_request += 1;
            RequestId::own(self.last_own_request)
        });
        if let Some(request) = request {
            reload.starts.insert(request, name.clone());
        }
        self.visit(name, now, |it, step| it.hold(request, step));
    }

    /// Starts what was held back once nothing is left of what had to stop, and answers who waits for
    /// a reload that is done.
    fn go_on_with_reloads(&mut self, now: Instant) {
        let mut reloads = mem::take(&mut self.reloads);
        for reload in &mut reloads {
            let services = &self.services;
            let is_left = |name: &ServiceName| services.get(name).is_some_and(|it| it.is_left());
            reload.stops.retain(is_left);
            if reload.stops.is_empty() {
                for name in mem::take(&mut reload.held) {
                    self.visit(&name, now, Service::release);
                }
            }
        }
        self.take_own_replies(&mut reloads);
        for reload in reloads {
            if !reload.is_done() {
                self.reloads.push(reload);
            } else if let Some(request) = reload.request {
                self.reply(request, Reply::Reloaded(reload.summary));
            }
        }
    }

    fn take_own_replies(&mut self, reloads: &mut [Reload]) {
        self.actions.retain(|action| match action {
            Action::Reply { request, reply } if request.is_own() => {
                for reload in &mut *reloads {
                    reload.answer(*request, reply);
                }
                false
            }
            _ => true,
        });
    }

    fn configure_one(
        &mut self,
        name: ServiceName,
        spec: Arc<Spec>,
        legacy: Option<Legacy>,
        dead: &Dead,
        reload: &mut Reload,
        now: Instant,
    ) {
        match self.services.get(&name).map(|it| it.is_removed()) {
            Some(true) => {
                reload.summary.added.push(name.to_string());
                if spec.relations.autostart {
                    self.hold(&name, reload, now);
                }
                self.visit(&name, now, |it, step| it.add_again(spec, step));
            }
            Some(false) => {
                let (mut change, known) = (Change::None, spec.clone());
                self.visit(&name, now, |it, _| change = it.change(&known));
                if change != Change::None {
                    reload.summary.changed.push(name.to_string());
                }
                if change == Change::Restart {
                    reload.summary.restarted.push(name.to_string());
                    self.hold(&name, reload, now);
                }
                self.visit(&name, now, |it, step| it.reconfigure(spec, change, step));
            }
            None => {
                reload.summary.added.push(name.to_string());
                let starts = spec.relations.autostart;
                let service = Service::new(name.clone(), spec, self.is_shutting_down, now);
                self.services.insert(name.clone(), Box::new(service));
                if legacy.is_none() && starts {
                    self.hold(&name, reload, now);
                }
                self.visit(&name, now, |it, step| match legacy {
                    Some(legacy) => it.resume(legacy, dead, step),
                    None => it.begin(step),
                });
            }
        }
    }

    /// Stops every service that the config no longer has.
    fn remove_unlisted(
        &mut self,
        specs: &BTreeMap<ServiceName, Arc<Spec>>,
        summary: &mut ReloadSummary,
        now: Instant,
    ) {
        let unlisted: Vec<ServiceName> = self
            .services
            .iter()
            .filter(|(name, service)| !service.is_removed() && !specs.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in unlisted {
            summary.removed.push(name.to_string());
            self.visit(&name, now, Service::remove);
        }
    }

    /// Stops what an earlier agent left of a service that the config does not have.
    fn resume_unlisted(
        &mut self,
        name: ServiceName,
        legacy: Legacy,
        dead: &Dead,
        summary: &mut ReloadSummary,
        now: Instant,
    ) {
        summary.removed.push(name.to_string());
        let service = Service::unlisted(name.clone(), self.is_shutting_down, now);
        self.services.insert(name.clone(), Box::new(service));
        self.visit(&name, now, |it, step| it.resume(legacy, dead, step));
    }

    fn shut_down(&mut self, request: RequestId, now: Instant) {
        self.shutdown_requests.push(request);
        self.bring_all_down(now);
    }

    fn bring_all_down(&mut self, now: Instant) {
        self.is_shutting_down = true;
        let names: Vec<ServiceName> = self.services.keys().cloned().collect();
        for name in names {
            self.visit(&name, now, Service::shut_down);
        }
    }

    fn reply_to_shutdown(&mut self, now: Instant) {
        // What an earlier agent left can be stopped only once the first config is known.
        if self.active == 0 && self.startup.as_ref().is_none_or(Startup::is_empty) {
            for request in mem::take(&mut self.shutdown_requests) {
                self.reply(request, Reply::Done);
            }
            self.end_agent(now);
        }
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        self.actions.push_back(Action::Reply { request, reply });
    }

    /// Tells one service something and keeps the books: its deadline, whether it is down,
    /// whether it can be forgotten. A service that is not known is not told.
    /// Tells a service something of which its memory may have to know.
    fn visit(&mut self, name: &str, now: Instant, tell: impl FnOnce(&mut Service, &mut Step<'_>)) {
        let visited = self.visit_in_passing(name, now, tell);
        self.changed.extend(visited);
    }

    /// Tells a service something that no later agent has to know. Its name, if there is one.
    fn visit_in_passing(
        &mut self,
        name: &str,
        now: Instant,
        tell: impl FnOnce(&mut Service, &mut Step<'_>),
    ) -> Option<ServiceName> {
        let service = self.services.get_mut(name)?;
        let (old_deadline, was_down) = (service.deadline(), service.is_down());
        let was_so = (service.standing(), service.is_closing());
        let mut step = Step {
            now,
            actions: &mut self.actions,
            last_attempt: &mut self.last_attempt,
            is_held: self.is_held,
        };
        tell(service, &mut step);
        let (new_deadline, is_down) = (service.deadline(), service.is_down());
        let name = service.name().clone();
        // The next agent would not know of an end that nothing has followed from yet.
        let ends_agent = self.ends_with_essential && service.has_ended_for_good();
        let is_forgotten = service.is_removed() && is_down && !ends_agent;
        if was_so != (service.standing(), service.is_closing()) || is_forgotten {
            self.moved.insert(name.clone());
        }
        if self.is_held && service.is_pending() {
            self.pending.insert(name.clone());
        }
        if old_deadline != new_deadline {
            if let Some(deadline) = old_deadline {
                self.deadlines.remove(&(deadline, name.clone()));
            }
            if let Some(deadline) = new_deadline {
                self.deadlines.insert((deadline, name.clone()));
            }
        }
        match (was_down, is_down) {
            (true, false) => self.active += 1,
            (false, true) => self.active = self.active.saturating_sub(1),
            _ => {}
        }
        if ends_agent {
            let end = || (name.clone(), service.exit_status());
            self.ended.get_or_insert_with(end);
        }
        if is_forgotten {
            self.services.remove(&name);
        }
        Some(name)
    }
}

impl Startup {
    fn is_empty(&self) -> bool {
        self.legacies.is_empty()
    }
}

/// Every instance that is dead by these facts.
fn told_dead(facts: &[Fact]) -> Dead {
    let dead = facts.iter().filter_map(|fact| match fact {
        Fact::ProcessExited {
            service, instance, ..
        }
        | Fact::ProcessReleased {
            service, instance, ..
        } => Some((service.clone(), *instance)),
        _ => None,
    });
    dead.collect()
}

//! The starts of services: from the supervisor's `Spawn` to a process that the agent holds, and that the next
//! agent would know of.
//!
//! Several are under way at a time, so that an exec on one processor overlaps the making of the next process on
//! another. One that takes its time is finished later (`late.rs`). Whether and when a service starts is the
//! supervisor's to decide.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::instances::{Instances, Places};
use super::service_files::ServiceFiles;
use super::steps::Purpose;
use super::{Agent, instances, late};
use crate::aftermath::OutputStart;
use crate::config::{self, Variables};
use crate::decode::Birth;
use crate::model::{
    Attempt, Instance, Ready, ServiceName, ServiceType, SpawnFailure, Spec, Unusable,
};
use crate::os::progress;
use crate::os::spawn::Flight;
use crate::probe::KernelProbe;
use crate::supervisor::{Action, Fact};

/// How many starts are under way at a time: enough to keep a few processors busy.
const STARTS_AT_ONCE: usize = 8;

/// A start that has begun.
pub(super) struct Start {
    pub(super) service: ServiceName,
    pub(super) birth: Birth,
    /// The kernel records its birth.
    marked: bool,
    /// How long its output was before.
    output_start: Option<OutputStart>,
    pub(super) flight: Flight,
}

impl Agent {
    /// Starts a service, and beside it those that are to be started next: while one is in its exec,
    /// on another processor, the next one is made.
    pub(super) fn start_next(&mut self, service: ServiceName, attempt: Attempt) {
        let mut begun = vec![self.begin_start(service, attempt)];
        while begun.len() < STARTS_AT_ONCE
            && let Some(Action::Spawn { .. }) = self.actions.front()
            && let Some(Action::Spawn { service, attempt }) = self.actions.pop_front()
        {
            progress::count();
            begun.push(self.begin_start(service, attempt));
        }
        let patient_until = Self::now() + late::PATIENCE;
        for begun in begun {
            let fact = match begun {
                Ok(start) => self.finish_in_time(start, patient_until),
                Err(fact) => fact.map(|fact| *fact),
            };
            if let Some(fact) = fact {
                self.supervisor.handle_fact(fact, Self::now());
            }
        }
    }

    /// `Err`: what has become of it without a process; `None` if that is not known yet.
    fn begin_start(
        &mut self,
        service: ServiceName,
        attempt: Attempt,
    ) -> Result<Start, Option<Box<Fact>>> {
        if let Some(fact) = self.read_again(&service, attempt) {
            return Err(Some(Box::new(fact)));
        }
        let spec = self.supervisor.spec(&service);
        let is_preceded = |spec: &Arc<Spec>| {
            spec.steps.precede_a_start() || instances::may_hang(&spec.exec).is_some()
        };
        if spec.is_some_and(is_preceded) {
            let outcome = self.run_steps(&service, Purpose::Start(attempt));
            return Err(outcome
                .and_then(|outcome| self.steps_ended(outcome))
                .map(Box::new));
        }
        self.launch(service, attempt, None)
    }

    /// Makes the process of a start, once all that precedes it is done. `Err`: what has become of it
    /// without one; `None` if that is not known yet.
    pub(super) fn launch(
        &mut self,
        service: ServiceName,
        attempt: Attempt,
        files: Option<Vec<Variables>>,
    ) -> Result<Start, Option<Box<Fact>>> {
        let birth = Birth::of(&service, attempt);
        let failure = self.prepare_output(&service);
        let places = match failure.map_or_else(|| self.prepare_places(&service), Err) {
            Ok(places) => Places { files, ..places },
            Err(failure) => {
                return Err(Some(Box::new(Fact::SpawnFailed {
                    service,
                    attempt,
                    failure,
                })));
            }
        };
        let spec = self.supervisor.spec(&service).cloned();
        if let Some(spec) = spec.filter(|spec| spec.policy.kind == ServiceType::Forking) {
            let fact = self.launch_forking(&service, attempt, &spec, &places);
            return Err(fact.map(Box::new));
        }
        if let Some(fact) = self.release_standby(&service, birth, &places) {
            return Err(Some(Box::new(fact)));
        }
        let output_start = self.output_length(&service);
        let marked = self.mark(birth);
        let flight = match self.supervisor.spec(&service).cloned() {
            Some(spec) => self.recording(&service, birth, marked, |instances, record| {
                instances.begin(&service, &spec, attempt, &places, record)
            }),
            None => Err(SpawnFailure {
                message: format!("{service} is gone from the config"),
            }),
        };
        if marked {
            // The next fork may be of something else.
            self.unmark();
        }
        match flight {
            Ok(flight) => Ok(Start {
                service,
                birth,
                marked,
                output_start,
                flight,
            }),
            Err(failure) => {
                let fact = self.start_failed(service, birth, marked, failure);
                Err(Some(Box::new(fact)))
            }
        }
    }

    /// Has it found out when the instance is ready.
    pub(super) fn await_ready(&mut self, service: ServiceName, instance: Instance) -> Option<Fact> {
        match self.supervisor.spec(&service)?.exec.ready.clone()? {
            Ready::Fd(_) => self.readiness.wait(service, instance),
            // It is heard, or looked at, anyway.
            Ready::Notify | Ready::Probe(_) => None,
        }
    }

    /// Has a place where the next instance says how it is, if it does.
    pub(super) fn prepare_places(&mut self, service: &ServiceName) -> Result<Places, SpawnFailure> {
        let cannot = |path: &Path, error: io::Error| SpawnFailure {
            message: format!("cannot prepare {}: {error} (ready)", path.display()),
        };
        let mut places = Places {
            fifo: self.outputs.fifo(service),
            ready: self.readiness.file(service),
            notify: None,
            notify_path: self.notify.path(service),
            sockets: Vec::new(),
            files: None,
            stored: Vec::new(),
        };
        let status = self.supervisor.status(service);
        if status.is_none_or(|status| status.instance.is_none()) {
            // Before what the last instance has sent is dropped.
            self.store_last(service);
        }
        let Some(spec) = self.supervisor.spec(service) else {
            return Ok(places);
        };
        if let Some(Ready::Fd(_)) = spec.exec.ready {
            let begun = self.readiness.begin(service);
            begun.map_err(|error| cannot(&places.ready, error))?;
        }
        if spec.exec.notifies() {
            let status = self.supervisor.status(service);
            let is_beside = status.is_some_and(|status| status.instance.is_some());
            let identity = spec.exec.identity.as_ref();
            let socket = self.notify.begin(service, identity, is_beside);
            let socket = socket.map_err(|error| cannot(&places.notify_path, error))?;
            places.notify = Some(socket);
        }
        if !spec.exec.listen.is_empty() || self.sockets.has(service) {
            let sockets = self.sockets.begin(service, &spec.exec.listen);
            places.sockets = sockets.map_err(|message| SpawnFailure { message })?;
        }
        places.stored = self.fd_store.begin(service, spec.exec.fd_store);
        Ok(places)
    }

    /// Has a place where the next instance's output goes, if it has a log.
    pub(super) fn prepare_output(&mut self, service: &ServiceName) -> Option<SpawnFailure> {
        let spec = self.supervisor.spec(service)?.clone();
        if spec.log.is_none() {
            // The instance before may have had one.
            self.outputs.forget(service);
            return None;
        }
        let error = self.outputs.set(service, &spec, Self::now()).err()?;
        let fifo = self.outputs.fifo(service);
        let message = format!("cannot prepare {}: {error} (log)", fifo.display());
        Some(SpawnFailure { message })
    }

    /// Before services are known, or described in another way.
    pub(super) fn set_outputs(&mut self, services: &BTreeMap<ServiceName, Arc<Spec>>) {
        for (service, spec) in services {
            progress::count();
            if let Err(error) = self.outputs.set(service, spec, Self::now()) {
                // Its start tries it again, and fails if that fails.
                tracing::error!(%service, "cannot prepare for its output: {error}");
            }
        }
    }

    pub(super) fn finish_start(&mut self, start: Start) -> Fact {
        progress::count();
        let Start {
            service,
            birth,
            mut marked,
            output_start,
            flight,
        } = start;
        let landed = match self.instances.finish(flight) {
            Err(aborted) if aborted.is_of_cgroup() => {
                marked = self.mark(birth);
                let attempt = Attempt(birth.attempt);
                let landed = self.recording(&service, birth, marked, |instances, record| {
                    instances.retry(aborted, attempt, record)
                });
                if marked {
                    self.unmark();
                }
                landed
            }
            landed => landed.map_err(|aborted| aborted.error.into()),
        };
        let started = landed.and_then(|landed| self.instances.hold_started(&service, landed));
        let instance = match started {
            Ok(instance) => instance,
            Err(failure) => return self.start_failed(service, birth, marked, failure),
        };
        if !marked {
            self.memory.knows_birth(&service, instance);
            self.watch(instance, birth);
        }
        self.notify.listen(&service, instance);
        self.spawned(service, birth, instance, output_start)
    }

    /// The rest of what every new instance needs; `output_start`: where its output begins.
    pub(super) fn spawned(
        &mut self,
        service: ServiceName,
        birth: Birth,
        instance: Instance,
        output_start: Option<OutputStart>,
    ) -> Fact {
        if let Some(start) = output_start {
            self.instances.note_output_start(&instance, start);
        }
        self.watch_tree(instance, birth);
        Fact::Spawned {
            service,
            attempt: Attempt(birth.attempt),
            instance,
        }
    }

    pub(super) fn start_failed(
        &self,
        service: ServiceName,
        birth: Birth,
        marked: bool,
        failure: SpawnFailure,
    ) -> Fact {
        if !marked {
            self.memory.drop_birth(&service);
        }
        Fact::SpawnFailed {
            service,
            attempt: Attempt(birth.attempt),
            failure,
        }
    }

    /// Before a service is started whose file could not be used: reads that again. `None`: it is
    /// no such service.
    fn read_again(&mut self, service: &ServiceName, attempt: Attempt) -> Option<Fact> {
        let unusable = self.supervisor.spec(service)?.unusable.clone()?;
        let read = match self.config.files.get(service) {
            Some(file) => {
                let dir = &self.options.config;
                config::load_again(dir, file, service, &self.config, &self.surroundings)
            }
            None => Ok(None),
        };
        let read = read.and_then(|spec| {
            // A file of several services could not be told from one of a single one.
            self.config_has_grown |= spec.is_none() && self.config.is_partial;
            let again = spec.ok_or(unusable)?;
            self.config.lines.insert(service.clone(), again.lines);
            match again.drop_ins {
                Some(drop_ins) => drop(self.config.drop_ins.insert(service.clone(), drop_ins)),
                None => drop(self.config.drop_ins.remove(service)),
            }
            Ok(again.spec)
        });
        let service = service.clone();
        let failed = |Unusable { why, .. }| SpawnFailure { message: why };
        Some(match read.map_err(failed) {
            Ok(spec) => {
                tracing::info!(%service, "its file can be used now");
                let services = &mut self.config.services;
                services.insert(service.clone(), Arc::clone(&spec));
                self.service_files = ServiceFiles::of(&self.config, &self.options.config);
                self.last_good.keep(&self.config);
                Fact::Described {
                    service,
                    attempt,
                    spec,
                }
            }
            Err(failure) => Fact::SpawnFailed {
                service,
                attempt,
                failure,
            },
        })
    }

    /// Makes a process, by `start`, in a way that its birth is recorded: by the kernel, if that was
    /// `marked`, else in a file. Where the kernel may skip a birth, the process waits until it is seen
    /// to be in the watch map, or is entered there.
    fn recording<T>(
        &mut self,
        service: &ServiceName,
        birth: Birth,
        marked: bool,
        start: impl FnOnce(&mut Instances, Option<instances::Record<'_>>) -> T,
    ) -> T {
        if !marked {
            let memory = &self.memory;
            return start(
                &mut self.instances,
                Some(&mut |instance| {
                    let attempt = Attempt(birth.attempt);
                    memory.record_birth_if_possible(service, attempt, instance, false);
                    Ok(())
                }),
            );
        }
        let probe = self.probe.as_mut().filter(|probe| probe.may_skip_births());
        let Some(probe) = probe else {
            return start(&mut self.instances, None);
        };
        start(
            &mut self.instances,
            Some(&mut |instance| {
                // A service of which only this agent knows is better than none.
                if let Err(error) = probe.watch(instance, birth) {
                    tracing::error!(%service, "its birth cannot be recorded: {error:#}");
                }
                Ok(())
            }),
        )
    }

    /// Has the kernel record the next forks as births; `false` where it cannot, or may have no room.
    fn mark(&mut self, birth: Birth) -> bool {
        let is_marked = self.has_room_for_births();
        let Some(probe) = self.probe.as_mut().filter(|it| it.records_births()) else {
            return false;
        };
        let marked = match is_marked {
            true => probe.mark(self.myself, birth),
            // This fork must not be taken for that of another service, whose mark may be there.
            false => probe.unmark(),
        };
        match marked {
            Ok(()) => is_marked,
            Err(error) => {
                tracing::error!("{error:#}");
                false
            }
        }
    }

    /// Whether the kernel records births, and surely has room for one more.
    pub(super) fn has_room_for_births(&self) -> bool {
        let probe = self.probe.as_ref().filter(|it| it.records_births());
        probe.is_some_and(|probe| !probe.is_nearly_full(self.instances.count()))
    }

    /// Ends what `mark` has begun.
    fn unmark(&mut self) {
        if let Some(Err(error)) = self.probe.as_mut().map(KernelProbe::unmark) {
            tracing::error!("{error:#}");
        }
    }
}

//! What an agent takes up when it starts: what its predecessors of this boot remembered, and what
//! the kernel has recorded since.
//!
//! An instance is known from a memory file, from its birth in the watch map, or from its birth
//! named by the record of its exit. Whichever it is, the supervisor is told of it once, and of its
//! death if it is dead. The watch map is read before the ring: who is not in the one any more has
//! its record in the other.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;

use super::Agent;
use crate::config::Config;
use crate::decode::{self, Birth, ProcessExit};
use crate::supervisor::{Attempt, Cause, Death, Event, Instance, Memory, ServiceName};

/// What is known of one service.
#[derive(Default)]
struct Known {
    memory: Memory,
    instances: BTreeMap<Instance, Attempt>,
}

impl Agent {
    /// Tells the supervisor all of it, before the first config.
    pub(super) fn recover(&mut self, config: &Config) -> Result<()> {
        let mut known: BTreeMap<ServiceName, Known> = BTreeMap::new();
        for (service, memory) in self.memory.read()? {
            let instances = memory
                .instance
                .into_iter()
                .chain(memory.leaving.iter().copied());
            let instances = instances
                .map(|instance| (instance, memory.last_attempt))
                .collect();
            known.insert(service, Known { memory, instances });
        }
        let exits = self.recorded(config, &mut known);
        for (service, known) in known {
            self.recover_service(&service, known, &exits);
        }
        self.kill_unrecorded(config);
        Ok(())
    }

    /// Adds what the kernel recorded; returns the records of exits by instance.
    fn recorded(
        &mut self,
        config: &Config,
        known: &mut BTreeMap<ServiceName, Known>,
    ) -> HashMap<Instance, ProcessExit> {
        let Some(probe) = &mut self.probe else {
            return HashMap::new();
        };
        if let Err(error) = probe.unmark() {
            tracing::error!("{error:#}");
        }
        let watched = probe.watched().unwrap_or_else(|error| {
            tracing::error!("{error:#}");
            Vec::new()
        });
        let mut exits = HashMap::new();
        while let Some(exit) = probe.next(decode::exit) {
            match exit {
                Some(exit) => drop(exits.insert(exit.instance, exit)),
                None => tracing::error!("the ring holds a record that is not of this build"),
            }
        }
        let names: HashMap<u64, ServiceName> = config
            .services
            .keys()
            .chain(known.keys())
            .map(|name| (decode::service_number(name), name.clone()))
            .collect();
        let births = watched
            .into_iter()
            .map(|watched| (watched.instance, watched.birth))
            .chain(
                exits
                    .values()
                    .filter_map(|exit| Some((exit.instance, exit.birth?))),
            );
        for (instance, birth) in births {
            let Some(service) = names.get(&birth.service) else {
                probe.unwatch(instance.pid);
                continue;
            };
            let of = &mut known.entry(service.clone()).or_default().instances;
            of.entry(instance).or_insert(Attempt(birth.attempt));
        }
        exits
    }

    fn recover_service(
        &mut self,
        service: &ServiceName,
        Known { memory, instances }: Known,
        exits: &HashMap<Instance, ProcessExit>,
    ) {
        let remembered = |instance| Event::Remembered {
            service: service.clone(),
            memory: Box::new(memory.clone()),
            instance,
        };
        if instances.is_empty() {
            self.tell(remembered(None));
        }
        for (instance, attempt) in instances {
            self.tell(remembered(Some((attempt, instance))));
            match exits.get(&instance).cloned() {
                Some(exit) => {
                    self.hold_dead(service, instance);
                    self.tell_exit(service.clone(), exit.clone());
                    self.tell_released(service, instance, death_of(Some(&exit)));
                }
                None => self.take_over(service, attempt, instance),
            }
        }
    }

    /// Holds an instance that no record says is dead.
    fn take_over(&mut self, service: &ServiceName, attempt: Attempt, instance: Instance) {
        let alive = self
            .instances
            .adopt(service, instance)
            .unwrap_or_else(|error| {
                tracing::error!(%service, pid = instance.pid, "cannot take it over: {error}");
                false
            });
        if alive {
            let service = decode::service_number(service);
            self.watch(
                instance,
                Birth {
                    service,
                    attempt: attempt.0,
                },
            );
            return;
        }
        if let Some(probe) = &mut self.probe {
            probe.unwatch(instance.pid);
        }
        self.tell_released(service, instance, death_of(None));
    }

    /// Holds what may be left of the tree of an instance whose exit is recorded. Its main process
    /// may not have let go of everything yet: then its pidfd tells when.
    fn hold_dead(&mut self, service: &ServiceName, instance: Instance) {
        if let Err(error) = self.instances.adopt(service, instance) {
            tracing::error!(%service, pid = instance.pid, "cannot look at its tree: {error}");
        }
    }

    fn tell_released(&mut self, service: &ServiceName, instance: Instance, death: Death) {
        // One that is still letting go is told by its pidfd.
        if !self.instances.is_main(instance) {
            self.tell(Event::ProcessReleased {
                service: service.clone(),
                instance,
                death,
            });
        }
    }

    /// Without births in the kernel, a child may live that its agent had no time to record; its
    /// service's cgroup gives it away.
    fn kill_unrecorded(&mut self, config: &Config) {
        for service in config.services.keys() {
            match self.instances.kill_unknown(service) {
                Ok(false) => {}
                Ok(true) => tracing::warn!(%service, "killed what an agent left unrecorded"),
                Err(error) => tracing::error!(%service, "cannot look at its cgroups: {error}"),
            }
        }
    }
}

fn death_of(exit: Option<&ProcessExit>) -> Death {
    let cause = exit.map_or(Cause::Unknown, |exit| exit.cause.clone());
    Death {
        blame: decode::blame(&cause),
        cause,
        comm: exit.map(|exit| exit.comm.clone()),
        uptime: exit.map(|exit| exit.uptime),
    }
}

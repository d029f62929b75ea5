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
        for service in config.services.keys() {
            known.entry(service.clone()).or_default();
        }
        for (service, known) in known {
            self.recover_service(&service, known, &exits);
        }
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
        known: Known,
        exits: &HashMap<Instance, ProcessExit>,
    ) {
        let remembered = |memory: &Memory, instance| Event::Remembered {
            service: service.clone(),
            memory: Box::new(memory.clone()),
            instance,
        };
        let mut memory = known.memory;
        if known.instances.is_empty() && memory != Memory::default() {
            self.tell(remembered(&memory, None));
        }
        for (instance, attempt) in known.instances {
            self.tell(remembered(&memory, Some((attempt, instance))));
            match exits.get(&instance).cloned() {
                Some(exit) => {
                    self.hold_dead(service, instance);
                    self.tell_exit(service.clone(), exit.clone());
                    self.tell_released(service, instance, death_of(Some(&exit)));
                }
                None => self.take_over(service, attempt, instance),
            }
        }
        // Without births in the kernel, a child may live that its agent had no time to record;
        // its service's cgroup gives it away. It must be gone before the next one starts.
        for instance in self.instances.kill_unknown(service) {
            tracing::warn!(%service, pid = instance.pid, "killed what an agent left unrecorded");
            memory.leaving.push(instance);
            let attempt = memory.last_attempt;
            self.tell(remembered(&memory, Some((attempt, instance))));
            self.take_over(service, attempt, instance);
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
        // A zombie will write no record any more: in the watch map the next agent would take it
        // for a service's instance.
        if alive && !self.instances.has_ended(instance) {
            let birth = Birth {
                service: decode::service_number(service),
                attempt: attempt.0,
            };
            self.watch(instance, birth);
        }
        if alive && !self.instances.has_ended(instance) {
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

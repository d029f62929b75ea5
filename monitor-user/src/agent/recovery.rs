//! What an agent takes up when it starts: what its predecessors of this boot remembered, and what
//! the kernel has recorded since.
//!
//! An instance is known from a memory file, from its birth in the watch map, from its birth named by
//! the record of its exit, or, without these, from its birth in a file. The last resort is a marker in
//! its environment. Whichever it is, the supervisor is told of it once, and of its death if it is
//! dead.
//!
//! The order matters, for services go on dying meanwhile. The watch map is read before the ring:
//! who is not in the one any more has its record in the other. Whether an instance lives is found
//! out before the ring is read: who is dead by then has its record there. The ring and the watch
//! map keep what they have until memory and journal have it; so does the map of what found the ring
//! full, which is read after the ring.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::Result;

use super::ends::{Forgettable, child_of};
use super::memory::{RecordedBirth, Remembered};
use super::{Agent, instances, runtime_dir};
use crate::aftermath;
use crate::clock;
use crate::config::Config;
use crate::decode::{self, Birth, OfTree, ProcessExit};
use crate::journal::Reader;
use crate::model::{
    Attempt, Cause, Circumstances, Death, Event, Hooks, How, Instance, Memory, Notice,
    NotifyAccess, ServiceName, Signal, Spec, Unusable, What,
};
use crate::os::process::{self, Orphan};
use crate::os::{pidfd, proc, spawn};
use crate::probe::KernelProbe;
use crate::supervisor::Fact;

/// What is known of one service.
#[derive(Default)]
struct Known {
    memory: Memory,
    instances: BTreeMap<Instance, Attempt>,
    /// Those whose exit and release `memory` knows, and perhaps not the journal.
    gone: BTreeSet<Instance>,
}

/// An exit that an agent counted, and perhaps had no time to write to the journal.
struct Untold {
    service: ServiceName,
    instance: Instance,
    death: Option<Death>,
}

/// What is known of all, by service.
type AllKnown = BTreeMap<ServiceName, Known>;

/// The records of exits in the ring and beside it, and in those of other ABI versions.
#[derive(Default)]
struct Recorded {
    /// How many records are in the ring, of whatever.
    count: usize,
    /// Those beside it, by their keys.
    spilled: Vec<u32>,
    exits: HashMap<Instance, ProcessExit>,
    /// Of other processes in services' trees.
    children: Vec<(ServiceName, OfTree, ProcessExit)>,
}

impl Agent {
    /// Tells the supervisor all of it, before the first config; returns what the kernel may forget
    /// after that.
    pub(super) fn recover(&mut self) -> Result<Forgettable> {
        let mut known = AllKnown::new();
        let mut untold = Vec::new();
        let recalled = self.memory.read()?;
        for (service, remembered) in recalled.memories {
            let Remembered {
                mut memory,
                untold: of,
            } = remembered;
            if std::process::id() == 1 {
                // The container that was to end has ended with its PID 1: this is the next one.
                memory.forget_end();
            }
            let last_exit = memory.last_exit.clone();
            untold.extend(of.iter().map(|instance| Untold {
                service: service.clone(),
                instance: *instance,
                death: last_exit.clone(),
            }));
            let instances = memory.instance.iter().chain(&memory.leaving);
            let instances = instances.map(|instance| (*instance, memory.last_attempt));
            let next = memory.next.and_then(|it| Some((it.instance?, it.attempt)));
            let instances: BTreeMap<_, _> = instances.chain(next).collect();
            let is_gone = |instance: &Instance| !instances.contains_key(instance);
            let gone = of.into_iter().filter(is_gone).collect();
            let known_of_it = Known {
                memory,
                instances,
                gone,
            };
            known.insert(service, known_of_it);
        }
        for (instance, at_ns) in self.memory.all_released() {
            self.instances.released(instance, at_ns);
        }
        self.keep_undescribed(known.keys());
        let config = self.config.clone();
        let config = &config;
        let names: HashMap<u64, ServiceName> = config
            .services
            .keys()
            .chain(known.keys())
            .map(|name| (decode::service_number(name), name.clone()))
            .collect();
        self.add_recorded_births(recalled.births, &mut known);
        self.add_births(&names, &mut known);
        self.add_marked(config, &mut known);
        self.settle_main_processes(&mut known);
        self.hear_of_main_processes(&mut known, config);
        self.hold_last_words(&known, config);
        for (service, known) in &known {
            let instances = known.instances.keys().copied();
            self.instances.adopt(service, instances);
        }
        let recorded = self.read_records(&names, &mut known);
        self.tell_children(&recorded, &known, config);
        self.tell_untold(untold, &recorded, config);
        let mut told = Forgettable {
            records: recorded.count,
            spilled: recorded.spilled.clone(),
            instances: Vec::new(),
            previous: true,
        };
        for service in config.services.keys() {
            known.entry(service.clone()).or_default();
        }
        for (service, known) in known {
            self.recover_service(&service, known, &recorded, &mut told);
        }
        self.forget_trees();
        Ok(told)
    }

    /// Ends the kernel's watch over trees of instances that are gone.
    fn forget_trees(&mut self) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        let of_living: HashSet<u64> = self.trees.values().copied().collect();
        for tree in probe.trees() {
            if !of_living.contains(&tree) {
                probe.unwatch_tree(tree);
            }
        }
    }

    /// Writes to the journal which other processes of services have ended while their main process
    /// lived and was not being stopped.
    fn tell_children(&mut self, recorded: &Recorded, known: &AllKnown, config: &Config) {
        if recorded.children.is_empty() {
            return;
        }
        let told = self
            .told_ends(|what| matches!(what, What::ChildExited(_)))
            .unwrap_or_default();
        for (service, tree, exit) in &recorded.children {
            let attempt = Attempt(tree.birth.attempt);
            let Some(of_service) = known.get(service) else {
                continue;
            };
            let mut mains = of_service.instances.iter();
            let main = mains.find(|(_, of)| **of == attempt).map(|(main, _)| main);
            let end = main.and_then(|main| recorded.exits.get(main));
            let was_first = end.is_none_or(|end| exit.exited_at < end.exited_at);
            let is_news = !of_service.memory.stopping && !told.contains(&exit.instance);
            if main.is_none() || !was_first || !is_news {
                continue;
            }
            let notice = Notice::ChildExited {
                service: service.clone(),
                child: Box::new(child_of(*tree, exit)),
            };
            let spec = config.services.get(service);
            self.tell_all(notice, spec.map(AsRef::as_ref));
        }
    }

    /// What an earlier agent ran, and may be in a file that cannot be read, is left as it is.
    fn keep_undescribed<'a>(&mut self, known: impl Iterator<Item = &'a ServiceName>) {
        if !self.config.is_partial {
            return;
        }
        for service in known {
            let services = self.config.services.entry(service.clone());
            services.or_insert_with(|| {
                tracing::warn!(%service, "no file that can be read describes it; it is left as it is");
                let why = "no file that can be read describes it".to_owned();
                let unusable = Unusable {
                    why,
                    may_end: false,
                };
                Arc::new(Spec::unusable(unusable, Hooks::default()))
            });
        }
    }

    /// Of a service whose main process has changed, an agent that died meanwhile may have left both.
    fn settle_main_processes(&mut self, known: &mut AllKnown) {
        for of in known.values_mut() {
            let Known {
                memory, instances, ..
            } = of;
            let is_later = |(other, attempt): &(&Instance, &Attempt)| {
                **attempt == memory.last_attempt
                    && memory.instance.is_some_and(|main| main != **other)
                    && memory.former_main != Some(**other)
                    && !memory.leaving.contains(other)
            };
            let later = instances.iter().find(is_later);
            if let Some(main) = later.map(|(main, _)| *main) {
                memory.change_main(main);
            }
            if let Some(former) = memory.former_main
                && instances.remove(&former).is_some()
                && let Some(probe) = &mut self.probe
            {
                probe.unwatch(former);
            }
        }
    }

    /// A main process that has ended while no agent ran may have named another one before.
    fn hear_of_main_processes(&mut self, known: &mut AllKnown, config: &Config) {
        for (service, of) in known {
            let spec = config.services.get(service);
            let Some(spec) = spec.filter(|spec| spec.exec.notifies()) else {
                continue;
            };
            let Some(main) = of.memory.instance else {
                continue;
            };
            if lives(main) {
                continue;
            }
            let [processes, _] = self.instances.processes(service).unwrap_or_default();
            let Some(to) = self.main_process_named(service, spec, main, &processes) else {
                continue;
            };
            if let Some(attempt) = of.instances.remove(&main) {
                of.instances.insert(to, attempt);
                of.memory.change_main(to);
                tracing::info!(%service, pid = to.pid, "continues with the main process that the previous one, {}, has named", main.pid);
            }
            if let Some(probe) = &mut self.probe {
                probe.unwatch(main);
            }
        }
    }

    /// What instances have sent that have ended while no agent ran: the spare that this agent was has it.
    fn hold_last_words(&mut self, known: &AllKnown, config: &Config) {
        for (service, of) in known {
            let spec = config.services.get(service);
            let Some(spec) = spec.filter(|spec| spec.exec.notifies()) else {
                continue;
            };
            let last = of
                .memory
                .instance
                .or(of.instances.keys().next_back().copied());
            if let Some(last) = last
                && !of.instances.keys().copied().any(lives)
            {
                let identity = spec.exec.identity.as_ref();
                self.notify.adopt_rest(service, identity, last);
            }
        }
    }

    /// Which of its processes a service has named last as its main one, which was `main`, while no agent
    /// heard it.
    fn main_process_named(
        &mut self,
        service: &ServiceName,
        spec: &Spec,
        main: Instance,
        processes: &BTreeSet<u32>,
    ) -> Option<Instance> {
        let identity = spec.exec.identity.as_ref();
        let own = identity.map_or_else(runtime_dir::own_uid, |identity| identity.uid);
        let named = processes.iter().find_map(|pid| {
            let process = pidfd::open(*pid).ok()?;
            let named = self
                .notify
                .take_over_early(service, identity, process.as_fd());
            named.ok()
        });
        let mut named = named?.into_iter();
        let counts = |(pid, uid): (u32, u32)| match spec.policy.notify_access {
            NotifyAccess::Main => pid == main.pid,
            NotifyAccess::All => processes.contains(&pid) || uid == own,
        };
        let (pid, _) = named.find(|(pid, sender)| processes.contains(pid) && counts(*sender))?;
        let start_time_ns = proc::start_time_ns(pid).ok()?;
        Some(Instance { pid, start_time_ns })
    }

    /// Adds what an agent without births in the kernel has written down, and had no time to
    /// remember. Where the memory that knows of it is gone, the journal tells whether it was told.
    /// One that was not let go on, and is about to end for that, was never an instance.
    fn add_recorded_births(&self, births: Vec<RecordedBirth>, known: &mut AllKnown) {
        if births.is_empty() {
            return;
        }
        let told = self
            .told_ends(|what| matches!(what, What::Exited(_)))
            .unwrap_or_else(|error| {
                tracing::error!("{error:#}");
                HashSet::new()
            });
        for birth in births {
            let instance = birth.instance;
            if birth.stood_by {
                wait_for_end_of(instance);
            }
            // It was killed with its agent, as far as anybody can know.
            let never_ran = birth.stood_by && !lives(instance);
            let is_news = !never_ran && !told.contains(&instance);
            let of = known.get(&birth.service);
            let is_news = is_news && !of.is_some_and(|of| of.gone.contains(&instance));
            if is_news && process::orphan(instance) != Orphan::Nothing {
                let of = &mut known.entry(birth.service).or_default().instances;
                of.entry(instance).or_insert(birth.attempt);
            }
        }
    }

    /// Adds who lives and is marked, where nothing else may tell of it: no birth is recorded in
    /// the kernel, and no cgroup shows what is left.
    fn add_marked(&self, config: &Config, known: &mut AllKnown) {
        let births = self.probe.as_ref().is_some_and(KernelProbe::records_births);
        if births || self.instances.has_cgroups() {
            return;
        }
        let marked = self.instances.marked().unwrap_or_else(|error| {
            tracing::error!("cannot look for marked processes: {error}");
            Vec::new()
        });
        for process in marked {
            let (service, pid) = (process.service.as_str(), process.instance.pid);
            let Some((service, spec)) = config.services.get_key_value(service) else {
                tracing::warn!(%service, pid, "is marked as a service that is not configured");
                continue;
            };
            let of = known.entry(service.clone()).or_default();
            if of.instances.contains_key(&process.instance) {
                continue;
            }
            let uid = spec.exec.identity.as_ref().map(|identity| identity.uid);
            if process.uid != uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()) {
                tracing::warn!(%service, pid, uid = process.uid, "is marked, but is another user's");
                continue;
            }
            tracing::info!(%service, pid, "known only by the marker in its environment");
            of.instances.insert(process.instance, process.attempt);
        }
    }

    /// The name that children have while they wait for their agent, if they do.
    fn name_of_held(&self) -> Option<String> {
        self.probe
            .as_ref()
            .filter(|probe| probe.may_skip_births())?;
        Some(proc::stat(std::process::id()).ok()?.comm)
    }

    /// Adds who is in the watch map.
    fn add_births(&mut self, names: &HashMap<u64, ServiceName>, known: &mut AllKnown) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        if let Err(error) = probe.unmark() {
            tracing::error!("{error:#}");
        }
        let watched = probe.watched().unwrap_or_else(|error| {
            tracing::error!("{error:#}");
            Vec::new()
        });
        let may_wait = probe.may_skip_births();
        for watched in watched {
            let instance = watched.instance;
            if !is_known(instance, watched.birth, names, known) {
                // Its record says whether it has ever run.
                wait_for_end_of(instance);
            }
            // A child that waits for its agent, and ends with it, was never an instance.
            let is_unborn = may_wait
                && !is_known(instance, watched.birth, names, known)
                && process::orphan(instance) == Orphan::Nothing;
            if is_unborn || !add_birth(instance, watched.birth, names, known) {
                probe.unwatch(instance);
            }
        }
    }

    /// Reads the rings, and adds and holds who is known from there alone.
    /// Those of other versions come first: whose exit is there may be in this version's ring too,
    /// but the signal that ended it, perhaps, was sent before this version's programs watched it.
    fn read_records(
        &mut self,
        names: &HashMap<u64, ServiceName>,
        known: &mut AllKnown,
    ) -> Recorded {
        let Some(probe) = &self.probe else {
            return Recorded::default();
        };
        let agent = self.name_of_held();
        let records = probe
            .peek(usize::MAX, decode::exit)
            .unwrap_or_else(|error| {
                tracing::error!("{error:#}");
                Vec::new()
            });
        let spilled = probe.peek_spilled(decode::exit);
        let mut recorded = Recorded {
            count: records.len(),
            spilled: spilled.iter().map(|(key, _)| *key).collect(),
            ..Recorded::default()
        };
        let records = records.into_iter();
        let records: Vec<_> = records.chain(spilled.into_iter().map(|it| it.1)).collect();
        let previous = probe.peek_previous(decode::exit_of_version);
        let unread = previous.iter().filter(|exit| exit.is_none()).count();
        if unread > 0 {
            tracing::warn!(
                "records of exits left by another version: {unread}; who ended those processes is \
                 not known"
            );
        }
        if records.iter().any(Option::is_none) {
            tracing::error!("the ring holds a record that is not of this build");
        }
        for mut exit in previous.into_iter().chain(records).flatten() {
            if let Some(tree) = exit.tree {
                if let Some(service) = names.get(&tree.birth.service) {
                    aftermath::complete(&mut exit);
                    recorded.children.push((service.clone(), tree, exit));
                }
                continue;
            }
            if let Some(birth) = exit.birth {
                let held = agent.as_ref().is_some_and(|agent| was_held(&exit, agent));
                let held = held || stood_by(&exit);
                if held && !is_known(exit.instance, birth, names, known) {
                    continue;
                }
                add_birth(exit.instance, birth, names, known);
            }
            recorded.exits.entry(exit.instance).or_insert(exit);
        }
        for (service, known) in known {
            let new = known.instances.keys();
            let new = new.filter(|instance| self.instances.service_of(instance).is_none());
            let new: Vec<Instance> = new.copied().collect();
            self.instances.adopt(service, new);
        }
        for exit in recorded.exits.values_mut() {
            self.complete(exit);
        }
        recorded
    }

    /// Writes to the journal what an agent remembered, and died before it could write.
    fn tell_untold(&mut self, mut untold: Vec<Untold>, recorded: &Recorded, config: &Config) {
        if untold.is_empty() {
            return;
        }
        match self.told_ends(|what| matches!(what, What::Exited(_))) {
            Ok(told) => untold.retain(|exit| !told.contains(&exit.instance)),
            Err(error) => return tracing::error!("{error:#}"),
        }
        for exit in untold {
            let record = recorded.exits.get(&exit.instance);
            let spec = config.services.get(&exit.service);
            let notice = Notice::Exited {
                service: exit.service,
                instance: exit.instance,
                death: exit.death.unwrap_or_else(|| self.death_of_instance(record)),
                circumstances: record.map(|record| Box::new(Circumstances::of(record))),
            };
            self.tell_all(notice, spec.map(AsRef::as_ref));
        }
    }

    /// The processes whose ends are in the journal, of those events that `is_wanted`.
    fn told_ends(&self, is_wanted: fn(&What) -> bool) -> Result<HashSet<Instance>> {
        let mut reader = Reader::open(&self.options.runtime_dir)?;
        let mut told = HashSet::new();
        while let Some(line) = reader.next()? {
            if is_wanted(&line.event.what) {
                told.extend(line.event.what.instance());
            }
        }
        Ok(told)
    }

    fn recover_service(
        &mut self,
        service: &ServiceName,
        known: Known,
        recorded: &Recorded,
        told: &mut Forgettable,
    ) {
        let remembered = |memory: &Memory, instance| Fact::Remembered {
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
            let exit = recorded.exits.get(&instance);
            self.take_over(service, attempt, instance, exit, told);
        }
        // Without births in the kernel, a child may live that its agent had no time to record;
        // its service's cgroup gives it away. It must be gone before the next one starts.
        for instance in self.instances.kill_unknown(service) {
            tracing::warn!(%service, pid = instance.pid, "killed what an agent left unrecorded");
            let Instance { pid, start_time_ns } = instance;
            let what = What::Unrecorded { pid, start_time_ns };
            self.record(Event::new(clock::now(), Some(service), what));
            memory.leaving.push(instance);
            let attempt = memory.last_attempt;
            self.tell(remembered(&memory, Some((attempt, instance))));
            self.instances.adopt(service, [instance]);
            self.take_over(service, attempt, instance, None, told);
        }
    }

    /// Tells what has become of an instance that is held, and watches it if it lives.
    fn take_over(
        &mut self,
        service: &ServiceName,
        attempt: Attempt,
        instance: Instance,
        exit: Option<&ProcessExit>,
        told: &mut Forgettable,
    ) {
        if let Some(exit) = exit {
            let exited = self.fact_of_exit(service.clone(), exit);
            self.tell(exited);
        }
        if !self.instances.is_main(instance) {
            self.tell(Fact::ProcessReleased {
                service: service.clone(),
                instance,
                death: self.death_of_instance(exit),
            });
            told.instances.push(instance);
        } else if exit.is_none() && !self.instances.has_ended(instance) {
            let birth = Birth::of(service, attempt);
            self.watch(instance, birth);
            self.watch_adopted_tree(instance, birth);
        }
        // Its pidfd tells of one that is still letting go.
    }
}

fn is_known(
    instance: Instance,
    birth: Birth,
    names: &HashMap<u64, ServiceName>,
    known: &AllKnown,
) -> bool {
    let service = names.get(&birth.service);
    let known = service.and_then(|service| known.get(service));
    known.is_some_and(|known| {
        known.instances.contains_key(&instance) || known.gone.contains(&instance)
    })
}

/// Whether it ended as a child of an agent of this name does that has not become its program: by the
/// signal that it asks for while it waits for its agent, or of itself if it finds another parent. Of the
/// signal nothing more is known where the kernel has skipped the program for signals.
fn was_held(exit: &ProcessExit, agent: &str) -> bool {
    exit.comm == agent
        && match &exit.cause {
            Cause::Exited { code } => *code == spawn::NOT_BECOME,
            Cause::Signaled { signal, origin, .. } => {
                *signal == Signal::KILL && matches!(origin.how, None | Some(How::ParentDeath))
            }
            _ => false,
        }
}

/// Whether a process has not ended; what cannot be told counts as living.
fn lives(instance: Instance) -> bool {
    let found = pidfd::identify(instance.pid, instance.start_time_ns);
    let has_ended = |fd: OwnedFd| pidfd::has_exited(fd.as_fd()).unwrap_or(false);
    !found.is_ok_and(|found| found.is_none_or(has_ended))
}

/// What stood by is killed with its agent, which takes a moment.
fn wait_for_end_of(instance: Instance) {
    instances::wait_for_end(|| proc::is_dying(instance.pid) && lives(instance));
}

/// Whether it ended because its tracer did: it stood by, and its agent died as it let it go on.
fn stood_by(exit: &ProcessExit) -> bool {
    let origin = match &exit.cause {
        Cause::Signaled { origin, .. } => origin,
        _ => return false,
    };
    origin.how == Some(How::TracerEnd)
}

/// Adds an instance to what is known, if its service is known.
fn add_birth(
    instance: Instance,
    birth: Birth,
    names: &HashMap<u64, ServiceName>,
    known: &mut AllKnown,
) -> bool {
    let Some(service) = names.get(&birth.service) else {
        return false;
    };
    let of = known.entry(service.clone()).or_default();
    if of.memory.former_main == Some(instance) || of.gone.contains(&instance) {
        return false;
    }
    let attempt = Attempt(birth.attempt);
    of.instances.entry(instance).or_insert(attempt);
    true
}

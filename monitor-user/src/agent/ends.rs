//! The ends of processes, as the kernel's ring and pidfds report them: each is told to the supervisor once, with
//! all that is known of it, and the kernel keeps it until memory and journal have it.

use std::time::Duration;

use anyhow::Result;

use super::Agent;
use super::children::Children;
use crate::aftermath;
use crate::clock::WallClock;
use crate::decode::{self, Birth, OfTree, ProcessExit};
use crate::model::{Attempt, Cause, Child, Circumstances, Death, Instance, ServiceName};
use crate::probe::KernelProbe;
use crate::supervisor::Fact;

/// How many deaths are told before anything is done about them: more would delay the first start.
pub(super) const DEATHS_AT_ONCE: usize = 16;

/// What the kernel need not keep any longer, once memory and journal have it.
#[derive(Debug, Default)]
pub(super) struct Forgettable {
    /// So many records at the ring's beginning.
    pub(super) records: usize,
    /// Records beside the ring, by their keys.
    pub(super) spilled: Vec<u32>,
    /// Entries of the watch map.
    pub(super) instances: Vec<Instance>,
    /// All that other ABI versions have left.
    pub(super) previous: bool,
}

impl Forgettable {
    const RECORD: Self = Self {
        records: 1,
        spilled: Vec::new(),
        instances: Vec::new(),
        previous: false,
    };

    fn spilled(key: u32) -> Self {
        Self {
            spilled: vec![key],
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.spilled.extend(other.spilled);
        self.instances.extend(other.instances);
        self.previous |= other.previous;
    }
}

impl Agent {
    pub(super) fn read_ring(&mut self, ready: Result<()>) {
        if let Err(error) = ready {
            return self.lose_sight(&error);
        }
        self.drain_ring();
        self.check_loss();
    }

    pub(super) fn drain_ring(&mut self) {
        while let Some(probe) = &self.probe {
            let records = match probe.peek(DEATHS_AT_ONCE, decode::exit) {
                Ok(records) if records.is_empty() => break,
                Ok(records) => records,
                Err(error) => return self.lose_sight(&error),
            };
            // Whose end that is has become its program before.
            self.finish_late();
            // Who has ended has said before that another process is the main one.
            self.hear_first();
            let records = records
                .into_iter()
                .map(|record| (record, Forgettable::RECORD));
            self.take_records(records.collect());
        }
        self.take_spilled();
    }

    /// The kernel tells no more: the pidfds do.
    fn lose_sight(&mut self, error: &anyhow::Error) {
        tracing::error!("the kernel's ring cannot be read any more: {error:#}");
        self.probe = None;
    }

    /// Takes the records that found the ring full, if there are new ones.
    fn take_spilled(&mut self) {
        let Some(probe) = self.probe.as_ref() else {
            return;
        };
        let count = probe.spilled();
        if count == self.spilled {
            return;
        }
        self.spilled = count;
        let spilled = probe.peek_spilled(decode::exit).into_iter();
        let spilled = spilled.map(|(key, record)| (record, Forgettable::spilled(key)));
        let spilled = spilled.collect();
        self.finish_late();
        self.take_records(spilled);
    }

    fn take_records(&mut self, records: Vec<(Option<ProcessExit>, Forgettable)>) {
        let mut facts = Vec::new();
        for (exit, told) in records {
            facts.push((self.fact_of(exit), told));
        }
        self.tell_together(facts);
    }

    /// What a record says to the supervisor, along with what it tells the journal alone.
    fn fact_of(&mut self, exit: Option<ProcessExit>) -> Option<Fact> {
        let Some(mut exit) = exit else {
            tracing::error!("the ring holds a record that is not of this build");
            return None;
        };
        if let Some(service) = self.instances.service_of(&exit.instance).cloned() {
            self.complete(&mut exit);
            return Some(self.fact_of_exit(service, &exit));
        }
        let tree = exit.tree?;
        let service = self.families.get(&tree.birth.service).cloned()?;
        aftermath::complete(&mut exit);
        Some(Fact::ChildExited {
            service,
            attempt: Attempt(tree.birth.attempt),
            child: Box::new(child_of(tree, &exit)),
        })
    }

    /// Adds to the record of an instance's exit what the kernel program does not know.
    pub(super) fn complete(&self, exit: &mut ProcessExit) {
        aftermath::complete(exit);
        if self.instances.has_own_cgroup(&exit.instance) {
            exit.cgroup_is_its_own();
        }
    }

    /// What the kernel's record of an exit says to the supervisor, along with what it tells the journal alone.
    pub(super) fn fact_of_exit(&mut self, service: ServiceName, exit: &ProcessExit) -> Fact {
        let instance = exit.instance;
        self.instances.told(&instance);
        let circumstances = Circumstances {
            children_left_out: self.unwatch_tree(instance),
            ..Circumstances::of(exit)
        };
        Fact::ProcessExited {
            service,
            instance,
            death: self.death_of_instance(Some(exit)),
            circumstances: Some(Box::new(circumstances)),
        }
    }

    /// The death of an instance that a record tells of, or nobody. One that stood by ran from its release on.
    pub(super) fn death_of_instance(&self, exit: Option<&ProcessExit>) -> Death {
        let uptime = exit.and_then(|exit| {
            let released = self.instances.released_ns(&exit.instance)?;
            Some(
                exit.exited_at
                    .saturating_sub(Duration::from_nanos(released)),
            )
        });
        let death = death_of(exit);
        Death {
            uptime: uptime.or(death.uptime),
            ..death
        }
    }

    /// Has the kernel report the ends by signals of what runs beside a main process.
    pub(super) fn watch_tree(&mut self, instance: Instance, birth: Birth) {
        let (Some(probe), Some(id)) = (&mut self.probe, self.instances.cgroup_id(&instance)) else {
            return;
        };
        match probe.watch_tree(id, birth) {
            Ok(()) => self.keep_tree(instance, id, birth),
            Err(error) => tracing::warn!(pid = instance.pid, "{error:#}"),
        }
    }

    /// The same of one that was taken over: what an earlier agent has set, with its counts, stays.
    pub(super) fn watch_adopted_tree(&mut self, instance: Instance, birth: Birth) {
        let id = self.instances.cgroup_id(&instance);
        let is_watched = |probe: &KernelProbe| id.is_some_and(|id| probe.has_tree(id));
        match (self.probe.as_ref().is_some_and(is_watched), id) {
            (true, Some(id)) => self.keep_tree(instance, id, birth),
            _ => self.watch_tree(instance, birth),
        }
    }

    fn keep_tree(&mut self, instance: Instance, id: u64, birth: Birth) {
        self.trees.insert(instance, id);
        if let Some(service) = self.instances.service_of(&instance) {
            self.families.insert(birth.service, service.clone());
        }
    }

    /// The main process is gone: the rest of its tree is about to be. So many of it have ended that
    /// are not told.
    fn unwatch_tree(&mut self, instance: Instance) -> Option<u64> {
        let id = self.trees.remove(&instance)?;
        Some(self.probe.as_mut()?.unwatch_tree(id))
    }

    /// Most processes have let go of everything when their exit is known: then both are told in one go. Where a
    /// start does not wait for that, it comes first.
    pub(super) fn look_for_release(&mut self, instance: Instance) {
        let service = self.instances.service_of(&instance);
        let spec = service.and_then(|service| self.supervisor.spec(service));
        if spec.is_none_or(|spec| spec.policy.overlap) || !self.instances.is_main(instance) {
            return;
        }
        if let Some(released) = self.instances.look(instance) {
            self.told.instances.push(instance);
            self.supervisor.handle_fact(released, Self::now());
        }
    }

    /// Tells of a release, or of a tree that is gone.
    fn tell_ends(&mut self, ends: Vec<Fact>) {
        let mut facts = Vec::new();
        for fact in ends {
            let mut told = Forgettable::default();
            if let Fact::ProcessReleased { instance, .. } = &fact {
                self.unwatch_tree(*instance);
                // It is still in the watch map if the ring had no room for its exit, or if it ended
                // before it was put there.
                told.instances.push(*instance);
            }
            facts.push((Some(fact), told));
        }
        self.tell_together(facts);
    }

    /// Takes out of ring and watch map what is in memory and journal by now.
    pub(super) fn let_kernel_forget(&mut self) {
        let told = std::mem::take(&mut self.told);
        let Some(probe) = &mut self.probe else {
            return;
        };
        if told.previous {
            probe.forget_previous();
        }
        let Forgettable {
            records,
            spilled,
            instances,
            ..
        } = told;
        for _ in 0..records {
            probe.forget_next();
        }
        for key in spilled {
            probe.forget_spilled(key);
        }
        for instance in instances {
            self.unwatched.remove(&instance);
            probe.unwatch(instance);
        }
    }

    /// After a loss every instance is compared with its pidfd; and when the kernel has skipped the
    /// exit programs, for whatever process that was.
    pub(super) fn check_loss(&mut self) {
        let figures = self
            .probe
            .as_ref()
            .map(|probe| (probe.lost(), probe.skipped()));
        let Some((lost, Ok(skipped))) = figures else {
            return;
        };
        let count = lost.saturating_sub(self.lost);
        if count == 0 && skipped == self.skipped {
            return;
        }
        (self.lost, self.skipped) = (lost.max(self.lost), skipped);
        let ends = self.instances.look_at_all();
        self.tell_ends(ends);
        if count == 0 {
            tracing::debug!("the kernel has skipped the exit programs {skipped} times");
            return;
        }
        self.tell(Fact::EventsLost { count });
        if let Some(Err(error)) = self.probe.as_mut().map(|probe| probe.set_lost_told(lost)) {
            tracing::error!("{error:#}");
        }
    }

    pub(super) fn read_pidfds(&mut self, ready: std::io::Result<()>) {
        if let Err(error) = ready {
            tracing::error!("cannot wait for pidfds: {error}");
        }
        let ready = self.instances.take_ready();
        // The ring's record comes before the pidfd's end, and tells more.
        self.drain_ring();
        if !ready.is_empty() {
            self.hear_first();
        }
        let ends = self.instances.look_at(ready);
        self.tell_ends(ends);
    }

    pub(super) fn reap(&mut self) {
        match self.notify.is_used() {
            // A main process that has ended may have named another one.
            true => self.read_pidfds(Ok(())),
            false => self.drain_ring(),
        }
        self.reap_once();
        // One of them may be among those that have ended, and no other is seen before it is taken.
        while self.finish_late() {
            self.reap_once();
        }
    }

    fn reap_once(&mut self) {
        let mut children = Children {
            hooks: &mut self.hooks,
            probes: &mut self.probes,
            reloads: &mut self.reloads,
            steps: &mut self.steps,
            standbys: &mut self.standbys,
            answers: Vec::new(),
            outcomes: Vec::new(),
        };
        let late = &self.late;
        let is_starting = |pid| late.has(pid);
        let ends = self.instances.reap(&mut children, is_starting, Self::now());
        let outcomes = children.outcomes;
        for (request, reply) in children.answers {
            self.requests.answer(request, reply);
        }
        self.tell_ends(ends);
        for outcome in outcomes {
            if let Some(fact) = self.steps_ended(outcome) {
                self.tell(fact);
            }
        }
    }
}

/// The death that a record tells of, or nobody.
pub(super) fn death_of(exit: Option<&ProcessExit>) -> Death {
    let cause = exit.map_or(Cause::Unknown, |exit| exit.cause.clone());
    let asked = exit.and_then(|exit| exit.last_signal.as_ref());
    Death {
        blame: decode::blame(&cause, asked),
        cause,
        comm: exit.map(|exit| exit.comm.clone()),
        uptime: exit.map(|exit| exit.uptime),
        time: exit.map(|exit| WallClock::read().at(exit.exited_at)),
        since_boot: exit.map(|exit| exit.exited_at),
    }
}

/// What a record tells of a process in a service's tree.
pub(super) fn child_of(tree: OfTree, exit: &ProcessExit) -> Child {
    Child {
        process: exit.instance,
        death: death_of(Some(exit)),
        circumstances: Circumstances::of(exit),
        left_out: tree.left_out,
    }
}

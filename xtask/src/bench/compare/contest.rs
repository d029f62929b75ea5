//! Peers that take part in one measure, all at the same time.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::peer::{Peer, Running, Service, Stage, Work};
use crate::{
    bench::{
        Bench,
        arena::Arena,
        sample::{Sample, Unit, ratio, readable},
        table::Table,
        wait::monotonic_ns,
    },
    report::note,
};

/// No instance is killed before it has run so long: some supervisors wait after shorter runs, and a crash loop
/// is not what is measured.
const AGE_NS: u64 = 1_100_000_000;

/// Before a kill, for all to fall asleep.
const REST: Duration = Duration::from_millis(15);

/// What peers that take no part in something are, and why.
pub(super) type Skipped = BTreeMap<&'static str, String>;

/// One that takes part.
pub(super) struct Contestant<'a> {
    pub(super) peer: &'a dyn Peer,
    pub(super) ids: Vec<String>,
    pub(super) running: Running,
    /// Which of its services is killed next.
    next: usize,
    /// How long after the kill the last of what was killed ran again.
    pub(super) times_ns: Vec<u64>,
}

/// The IDs of a peer's services: letters, digits and `-`.
pub(super) fn ids(peer: &dyn Peer, count: usize) -> Vec<String> {
    let name: String = peer
        .name()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    (0..count)
        .map(|number| format!("{name}-{number}"))
        .collect()
}

/// Starts all of these peers that can with so many services each, and waits until they run.
pub(super) fn gather<'a>(
    bench: &Bench,
    arena: &mut Arena,
    peers: &[&'a dyn Peer],
    count: usize,
    work: Work,
    skipped: &mut Skipped,
) -> Result<Vec<Contestant<'a>>> {
    let mut contestants = Vec::new();
    for peer in peers.iter().copied() {
        if peer.most() < count {
            continue;
        }
        match enter(bench, arena, peer, count, work) {
            Ok(contestant) => contestants.push(contestant),
            Err(error) => {
                bench.interrupt.pause(Duration::ZERO)?;
                note!("bench: {} is left out: {error:#}", peer.name());
                skipped.insert(peer.name(), format!("{error:#}"));
            }
        }
    }
    Ok(contestants)
}

fn enter<'a>(
    bench: &Bench,
    arena: &mut Arena,
    peer: &'a dyn Peer,
    count: usize,
    work: Work,
) -> Result<Contestant<'a>> {
    let ids = ids(peer, count);
    let services = services(&ids, work);
    let stage = Stage::make(bench, arena, peer.name())?;
    let running = peer.start(&stage, &services)?;
    arena.wait_until_ready(&ids, &bench.interrupt)?;
    Ok(Contestant {
        peer,
        ids,
        running,
        next: 0,
        times_ns: Vec::new(),
    })
}

pub(super) fn services(ids: &[String], work: Work) -> Vec<Service> {
    let service = |id: &String| Service::new(id.clone(), work);
    ids.iter().map(service).collect()
}

impl Contestant<'_> {
    /// Kills the next one of its services, and takes the time until it runs again.
    pub(super) fn kill_one(
        &mut self,
        bench: &Bench,
        arena: &mut Arena,
        counts: bool,
    ) -> Result<()> {
        let id = self.ids[self.next % self.ids.len()].clone();
        self.next += 1;
        self.kill(bench, arena, &[id], counts)
    }

    /// Kills all of them at once.
    pub(super) fn kill_all(
        &mut self,
        bench: &Bench,
        arena: &mut Arena,
        counts: bool,
    ) -> Result<()> {
        let ids = self.ids.clone();
        self.kill(bench, arena, &ids, counts)
    }

    fn kill(
        &mut self,
        bench: &Bench,
        arena: &mut Arena,
        ids: &[String],
        counts: bool,
    ) -> Result<()> {
        bench.interrupt.pause(REST)?;
        let mut youngest = 0;
        for id in ids {
            let instance = arena.instance(id)?.context("an unknown service")?;
            youngest = youngest.max(instance.1);
        }
        let age = monotonic_ns()?.saturating_sub(youngest);
        bench
            .interrupt
            .pause(Duration::from_nanos(AGE_NS.saturating_sub(age)))?;
        let killed_ns = arena.kill(ids)?;
        let told = || format!("{} does not restart", self.peer.name());
        let time = arena
            .wait_until_back(ids, killed_ns, &bench.interrupt)
            .with_context(told)?;
        arena.wait_until_ready(ids, &bench.interrupt)?;
        if counts {
            self.times_ns.push(time);
        }
        Ok(())
    }
}

/// The times of several peers, the first of which is the floor if it takes part.
pub(super) struct Times(Vec<(&'static str, Sample)>);

impl Times {
    pub(super) fn of(contestants: &[Contestant<'_>]) -> Self {
        let times = contestants.iter();
        let times = times.map(|it| (it.peer.name(), Sample::of(it.times_ns.clone())));
        Self(times.collect())
    }

    pub(super) fn floor_us(&self) -> f64 {
        self.0.first().map_or(0.0, |(_, sample)| sample.median_us())
    }

    pub(super) fn medians(&self) -> Vec<(String, f64)> {
        let medians = self.0.iter();
        medians
            .map(|(name, sample)| ((*name).into(), sample.median_us()))
            .collect()
    }

    pub(super) fn table(&self, unit: Unit) -> Table {
        let header = [
            "",
            "kills",
            "median",
            "p90",
            "p99",
            "max",
            "× floor",
            "p99 × floor's",
        ];
        let mut table = Table::new("", &header);
        let divisor = unit.microseconds();
        let floor_p99 = self.0.first().map_or(0.0, |(_, sample)| sample.p99_us());
        for (name, sample) in &self.0 {
            let [median, p90, max] = sample.cells(unit);
            table.row([
                (*name).into(),
                sample.count().to_string(),
                median,
                p90,
                readable(sample.p99_us() / divisor),
                max,
                format!("{:.2}", ratio(sample.median_us(), self.floor_us())),
                format!("{:.2}", ratio(sample.p99_us(), floor_p99)),
            ]);
        }
        table
    }

    pub(super) fn json(&self) -> Value {
        let mut json = json!({});
        for (name, sample) in &self.0 {
            json[*name] = sample.json();
            json[*name]["times_the_floor"] = ratio(sample.median_us(), self.floor_us()).into();
        }
        json
    }
}

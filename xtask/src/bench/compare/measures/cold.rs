//! A peer's own start with 1, 100 and 1,000 services, and its memory then.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::{
    bench::{
        Bench,
        arena::Arena,
        compare::{
            contest::{Skipped, ids, services},
            page::Section,
            peer::{Peer, Stage, Work},
            plot::Plot,
            tree::pss_kib,
        },
        sample::{Sample, ratio, readable},
        table::Table,
        wait::monotonic_ns,
    },
    report::note,
};

const COUNTS: [usize; 3] = [1, 100, 1000];

/// One peer with one number of services.
struct Cold {
    name: &'static str,
    count: usize,
    /// From the peer's exec to the first main, and from there to the last.
    first_ns: Vec<u64>,
    rest_ns: Vec<u64>,
    pss_kib: Vec<u64>,
}

pub(in crate::bench::compare) fn run(bench: &Bench, peers: &[&dyn Peer]) -> Result<Section> {
    let mut section = Section::new("cold", "Cold start, and memory");
    let mut skipped = Skipped::new();
    let mut all = Vec::new();
    for (count, rounds) in COUNTS.into_iter().zip([5, 5, 3]) {
        let rounds = if bench.quick { 1 } else { rounds };
        note!("bench: cold start of {count}: {rounds} rounds");
        let mut colds: Vec<Cold> = Vec::new();
        for peer in peers.iter().filter(|peer| peer.most() >= count) {
            colds.push(Cold::new(peer.name(), count));
        }
        for _ in 0..rounds {
            for cold in &mut colds {
                let peer = peers.iter().find(|peer| peer.name() == cold.name);
                if let Some(peer) = peer
                    && !skipped.contains_key(cold.name)
                    && let Err(error) = cold.start(bench, *peer)
                {
                    bench.interrupt.pause(Duration::ZERO)?;
                    skipped.insert(cold.name, format!("{error:#}"));
                }
            }
        }
        all.extend(colds);
    }
    tell(&mut section, &all);
    section.skipped(skipped);
    Ok(section)
}

impl Cold {
    fn new(name: &'static str, count: usize) -> Self {
        Self {
            name,
            count,
            first_ns: Vec::new(),
            rest_ns: Vec::new(),
            pss_kib: Vec::new(),
        }
    }

    fn start(&mut self, bench: &Bench, peer: &dyn Peer) -> Result<()> {
        let mut arena = Arena::open(bench)?;
        let ids = ids(peer, self.count);
        let services = services(&ids, Work::Memory(0));
        let stage = Stage::make(bench, &arena, peer.name())?;
        let before = monotonic_ns()?;
        let running = peer.start(&stage, &services)?;
        let all = arena.wait_until_back(&ids, before, &bench.interrupt)?;
        let first = arena
            .first_start_ns(&ids)
            .map_or(0, |first| first.saturating_sub(before));
        self.first_ns.push(first);
        self.rest_ns.push(all.saturating_sub(first));
        bench.interrupt.pause(Duration::from_millis(500))?;
        self.pss_kib.push(pss_kib(&running.processes()?));
        Ok(())
    }

    fn median(numbers: &[u64]) -> f64 {
        Sample::of(numbers.to_vec()).median_us() * 1000.0
    }
}

fn tell(section: &mut Section, all: &[Cold]) {
    section.say(
        "From the peer's own exec to the first main, which is its own start, and from there to the last main, in ms; \
         medians. Memory is the PSS of all of its own processes half a second later, in MiB."
            .into(),
    );
    let rest = |name: &str, count: usize| {
        let found = all.iter().find(|it| it.name == name && it.count == count);
        found.map_or(0.0, |it| Cold::median(&it.rest_ns))
    };
    for count in COUNTS {
        let header = [
            "",
            "own start",
            "first to last",
            "× floor",
            "both",
            "memory",
        ];
        let plural = if count == 1 { "service" } else { "services" };
        let mut table = Table::new(format!("{count} {plural}"), &header);
        let mut both_us = Vec::new();
        for cold in all
            .iter()
            .filter(|it| it.count == count && !it.first_ns.is_empty())
        {
            let (first, last) = (Cold::median(&cold.first_ns), rest(cold.name, count));
            let memory = Cold::median(&cold.pss_kib) / 1024.0;
            let times = ratio(last, rest("C floor", count));
            table.row([
                cold.name.into(),
                readable(first / 1e6),
                readable(last / 1e6),
                if count == 1 {
                    "".into()
                } else {
                    format!("{times:.2}")
                },
                readable((first + last) / 1e6),
                readable(memory),
            ]);
            both_us.push((cold.name.to_string(), (first + last) / 1e3));
            section.json[cold.name][count.to_string()] = json!({ "first_ns": cold.first_ns, "rest_ns": cold.rest_ns, "pss_kib": cold.pss_kib });
        }
        section.table(table);
        if count == 1000 {
            section.plot(Plot::of_times("Cold start of 1000 services", &both_us));
        }
    }
}

//! How soon a killed service runs again, under the agent and under the least that a supervisor can
//! do: a loop of `waitpid` and `posix_spawn` in C. Both start the same program.

mod arena;
mod contestant;
pub(super) mod start;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use self::{
    arena::Arena,
    contestant::{Agent, Service, floor_id, start_floor},
};
use super::{
    Aim, Bench, Figures,
    sample::{Sample, Unit, ratio},
    table::Table,
};
use crate::report::note;

const ROUNDS: usize = 200;
/// Not counted: caches fill.
const WARM_UP_ROUNDS: usize = 5;
/// Of services with much memory: a round of all three takes two to four seconds.
const LARGE_ROUNDS: usize = 60;
/// Of many services.
const MANY_ROUNDS: usize = 60;
const LARGE_MIB: u32 = 1024;
/// Three services, and the one just killed whose memory goes while the next one fills its own.
const LARGE_NEEDS_MIB: u64 = 5 * 1024;
const MANY: usize = 100;
/// Before a kill, for all to fall asleep. Long enough that none of three contestants' services is
/// killed more than 20 times in a second, which an agent would answer with delays.
const REST: Duration = Duration::from_millis(20);

/// One who restarts services.
struct Contestant {
    kind: Kind,
    /// Of its services, which are killed at once.
    ids: Vec<String>,
    /// How long after the kill the last of them ran again, in each round.
    times_ns: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Floor,
    Agent,
    AgentOverlap,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Floor => "C floor",
            Self::Agent => "respawn",
            Self::AgentOverlap => "respawn, overlap = true",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Agent => "respawn",
            Self::AgentOverlap => "respawn_overlap",
        }
    }
}

/// The times of each kind of contestant.
struct Measured(Vec<(Kind, Sample)>);

pub(super) fn run(bench: &Bench) -> Result<Figures> {
    let rounds = bench.rounds(ROUNDS);
    note!("bench respawn: {rounds} kills of a small service under each");
    let small = one_service(bench, rounds, 0)?;
    let rounds = bench.rounds(LARGE_ROUNDS);
    let large = if memory_available_mib()? < LARGE_NEEDS_MIB {
        note!("bench respawn: large services are left out: they need {LARGE_NEEDS_MIB} MiB");
        None
    } else {
        note!("bench respawn: {rounds} kills of a service with {LARGE_MIB} MiB touched under each");
        Some(one_service(bench, rounds, LARGE_MIB)?)
    };
    let rounds = bench.rounds(MANY_ROUNDS);
    note!("bench respawn: {rounds} times {MANY} services at once under each");
    let many = many_services(bench, rounds)?;
    Ok(figures(&small, large.as_ref(), &many))
}

/// A service under each, killed in turns.
fn one_service(bench: &Bench, rounds: usize, mebibytes: u32) -> Result<Measured> {
    let mut arena = Arena::open(bench)?;
    let service = |id: &str, overlap| Service {
        id: id.into(),
        overlap,
    };
    let services = [service("released", false), service("overlapping", true)];
    let _agent = Agent::start(bench, &arena, &services, mebibytes)?;
    let _floor = start_floor(bench, &arena, 1, mebibytes)?;
    let contestants = vec![
        Contestant::new(Kind::Floor, vec![floor_id(0)]),
        Contestant::new(Kind::Agent, vec![services[0].id.clone()]),
        Contestant::new(Kind::AgentOverlap, vec![services[1].id.clone()]),
    ];
    let warm_up = if mebibytes == 0 { WARM_UP_ROUNDS } else { 0 };
    measure(bench, &mut arena, contestants, rounds, warm_up)
}

/// Many services under each, all of one killed at once.
fn many_services(bench: &Bench, rounds: usize) -> Result<Measured> {
    let mut arena = Arena::open(bench)?;
    let service = |number| Service {
        id: format!("many-{number}"),
        overlap: false,
    };
    let services: Vec<Service> = (0..MANY).map(service).collect();
    let _agent = Agent::start(bench, &arena, &services, 0)?;
    let _floor = start_floor(bench, &arena, MANY, 0)?;
    let ids = services.iter().map(|service| service.id.clone());
    let contestants = vec![
        Contestant::new(Kind::Floor, (0..MANY).map(floor_id).collect()),
        Contestant::new(Kind::Agent, ids.collect()),
    ];
    measure(bench, &mut arena, contestants, rounds, 1)
}

/// Kills each contestant's services in each round, and takes the time until they run again.
fn measure(
    bench: &Bench,
    arena: &mut Arena,
    mut contestants: Vec<Contestant>,
    rounds: usize,
    warm_up: usize,
) -> Result<Measured> {
    let interrupt = &bench.interrupt;
    for contestant in &contestants {
        arena.wait_until_ready(&contestant.ids, interrupt)?;
    }
    for round in 0..warm_up + rounds {
        for contestant in &mut contestants {
            interrupt.pause(REST)?;
            let killed_ns = arena.kill(&contestant.ids)?;
            let time_ns = arena.wait_until_back(&contestant.ids, killed_ns, interrupt)?;
            arena.wait_until_ready(&contestant.ids, interrupt)?;
            if round >= warm_up {
                contestant.times_ns.push(time_ns);
            }
        }
        // What one leaves to be cleaned up is not always in the way of the same other one.
        contestants.rotate_left(1);
    }
    arena.check_starts()?;
    contestants.sort_by_key(|contestant| contestant.kind.words());
    let measured = contestants.into_iter();
    let measured = measured.map(|one| (one.kind, Sample::of(one.times_ns)));
    Ok(Measured(measured.collect()))
}

impl Contestant {
    fn new(kind: Kind, ids: Vec<String>) -> Self {
        Self {
            kind,
            ids,
            times_ns: Vec::new(),
        }
    }
}

impl Measured {
    fn median_us(&self, kind: Kind) -> f64 {
        let found = self.0.iter().find(|(measured, _)| *measured == kind);
        found.map_or(0.0, |(_, times)| times.median_us())
    }

    /// How many times longer one takes than another, by their medians.
    fn ratio(&self, kind: Kind, base: Kind) -> f64 {
        ratio(self.median_us(kind), self.median_us(base))
    }

    /// With so many services that are killed at once.
    fn table(&self, title: String, unit: Unit, at_once: usize) -> Table {
        let mut table = Table::new(title, &["", "kills", "median", "p90", "max", "× floor"]);
        for (kind, times) in &self.0 {
            let [median, p90, max] = times.cells(unit);
            table.row([
                kind.words().into(),
                match at_once {
                    1 => times.count().to_string(),
                    _ => format!("{} × {at_once}", times.count()),
                },
                median,
                p90,
                max,
                format!("{:.2}", self.ratio(*kind, Kind::Floor)),
            ]);
        }
        table
    }

    fn json(&self) -> Value {
        let mut json = json!({});
        for (kind, times) in &self.0 {
            json[kind.key()] = times.json();
            json[kind.key()]["times_the_floor"] = self.ratio(*kind, Kind::Floor).into();
        }
        json
    }
}

fn figures(small: &Measured, large: Option<&Measured>, many: &Measured) -> Figures {
    let mut tables = vec![small.table(
        "From SIGKILL to the first line of main of a small service, in µs".into(),
        Unit::Microseconds,
        1,
    )];
    tables.extend(large.map(|large| {
        let title = format!("The same of a service with {LARGE_MIB} MiB touched, in ms");
        large.table(title, Unit::Milliseconds, 1)
    }));
    tables.push(many.table(
        format!("{MANY} services killed at once, until all of them run again, in ms"),
        Unit::Milliseconds,
        MANY,
    ));
    let mut aims = vec![Aim {
        what: "a small service under the agent",
        wanted: "at most 1.3 times the floor's median",
        got: format!("{:.2} times", small.ratio(Kind::Agent, Kind::Floor)),
        met: small.ratio(Kind::Agent, Kind::Floor) <= 1.3,
    }];
    aims.extend(large.map(|large| {
        let sooner = large.ratio(Kind::Agent, Kind::AgentOverlap);
        Aim {
            what: "a large service with overlap",
            wanted: "at least 50 times sooner than without",
            got: format!("{sooner:.0} times"),
            met: sooner >= 50.0,
        }
    }));
    let mut notes = vec![
        "The floor is one thread in a loop of waitpid and posix_spawn, in C. It and the agent \
         ran at the same time, with the same service, and were killed in turns."
            .to_string(),
    ];
    if large.is_none() {
        notes.push(format!(
            "Large services are left out: {LARGE_NEEDS_MIB} MiB of free memory are needed."
        ));
    }
    Figures {
        json: json!({
            "small": small.json(),
            "large": large.map(Measured::json),
            "large_mib": LARGE_MIB,
            "many": many.json(),
            "many_services": MANY,
        }),
        tables,
        notes,
        aims,
    }
}

fn memory_available_mib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(number.context("no MemAvailable in /proc/meminfo")? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(floor: u64, agent: u64, overlap: u64) -> Measured {
        let sample = |time| Sample::of(vec![time]);
        Measured(vec![
            (Kind::Floor, sample(floor)),
            (Kind::Agent, sample(agent)),
            (Kind::AgentOverlap, sample(overlap)),
        ])
    }

    #[test]
    fn compares_with_the_floor_and_with_overlap() {
        let small = measured(1000, 1300, 1200);
        let large = measured(100_000, 100_000, 1000);
        let figures = figures(&small, Some(&large), &small);
        let met: Vec<bool> = figures.aims.iter().map(|aim| aim.met).collect();
        assert_eq!(met, [true, true]);
        assert_eq!(figures.json["small"]["respawn"]["times_the_floor"], 1.3);
        let table = small
            .table(String::new(), Unit::Microseconds, 1)
            .to_string();
        assert!(table.contains("1.30") && table.contains(" 1 |"), "{table}");
        let table = small
            .table(String::new(), Unit::Milliseconds, 100)
            .to_string();
        assert!(table.contains("1 × 100"), "{table}");
    }

    #[test]
    fn says_that_large_services_were_left_out() {
        let small = measured(1000, 1400, 1200);
        let figures = figures(&small, None, &small);
        assert_eq!(figures.aims.len(), 1);
        assert!(!figures.aims[0].met);
        assert!(figures.notes[1].contains("left out"));
    }

    #[test]
    fn knows_how_much_memory_there_is() {
        assert!(memory_available_mib().unwrap() > 0);
    }
}

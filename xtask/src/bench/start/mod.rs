//! How soon the first service of a new agent runs, and how much memory the agent takes at most:
//! with nothing known, with what an earlier one has found out about the kernel, and with its pins.

mod agent;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use self::agent::{MeasuredAgent, Service};
use super::{
    Aim, Bench, Figures,
    arena::Arena,
    sample::{Sample, Unit},
    table::Table,
    wait::monotonic_ns,
};
use crate::report::note;

const ROUNDS: usize = 40;
/// For a killed service to be gone.
const REST: Duration = Duration::from_millis(50);

/// What the agent finds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Kernel,
    Pins,
}

impl Found {
    const ALL: [Self; 3] = [Self::Nothing, Self::Kernel, Self::Pins];

    fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Kernel => "what is known of the kernel",
            Self::Pins => "pins",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Kernel => "kernel",
            Self::Pins => "pins",
        }
    }

    /// What the median should be at most, in milliseconds.
    fn aim_ms(self) -> f64 {
        match self {
            Self::Nothing => 60.0,
            Self::Kernel | Self::Pins => 20.0,
        }
    }
}

/// Of all rounds of one kind.
struct Measured {
    found: Found,
    times_ns: Vec<u64>,
    peak_kib: u64,
}

pub(super) fn run(bench: &Bench) -> Result<Figures> {
    let rounds = bench.rounds(ROUNDS);
    note!("bench start: {rounds} starts of an agent of each kind");
    let mut arena = Arena::open(bench)?;
    let services = [Service {
        id: "first".into(),
        overlap: false,
    }];
    let ids = ["first".to_string()];
    let mut all = Found::ALL.map(|found| Measured {
        found,
        times_ns: Vec::new(),
        peak_kib: 0,
    });
    for _ in 0..rounds {
        for measured in &mut all {
            match measured.found {
                Found::Nothing => {
                    let _ = fs::remove_dir_all(arena.path().join("run"));
                }
                Found::Kernel => {}
                Found::Pins => {
                    let agent = MeasuredAgent::start(bench, &arena, &services, 0)?;
                    arena.wait_until_back(&ids, monotonic_ns()?, &bench.interrupt)?;
                    agent.kill()?;
                    arena.kill(&ids)?;
                    bench.interrupt.pause(REST)?;
                }
            }
            let started_at = monotonic_ns()?;
            let agent = MeasuredAgent::start(bench, &arena, &services, 0)?;
            let took = arena.wait_until_back(&ids, started_at, &bench.interrupt)?;
            measured.times_ns.push(took);
            measured.peak_kib = measured.peak_kib.max(peak_kib(agent.pid())?);
        }
    }
    Ok(figures(all))
}

/// The most memory that a process has had.
fn peak_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    let peak = peak.with_context(|| format!("{path}: no VmHWM"))?;
    Ok(peak.trim().parse()?)
}

fn figures(all: [Measured; 3]) -> Figures {
    let mut table = Table::new(
        "From the agent's exec to its first service's main, in ms, and its memory at most, in MiB",
        &[
            "the agent finds",
            "starts",
            "median",
            "p90",
            "max",
            "memory",
        ],
    );
    let mut json = Map::new();
    let mut aims = Vec::new();
    for Measured {
        found,
        times_ns,
        peak_kib,
    } in all
    {
        let sample = Sample::of(times_ns);
        let [median, p90, max] = sample.cells(Unit::Milliseconds);
        let memory = format!(
            "{:.1}",
            Value::from(peak_kib).as_f64().unwrap_or(0.0) / 1024.0
        );
        let count = sample.count().to_string();
        table.row([found.words().into(), count, median, p90, max, memory]);
        let entry = json!({ "time": sample.json(), "peak_kib": peak_kib });
        json.insert(found.key().into(), entry);
        let median_ms = sample.median_us() / 1000.0;
        aims.push(Aim {
            what: match found {
                Found::Nothing => "a start with nothing known",
                Found::Kernel => "a start with the kernel known",
                Found::Pins => "a start with pins",
            },
            wanted: match found {
                Found::Nothing => "a median of at most 60 ms on an idle machine, and 16 MiB",
                Found::Kernel | Found::Pins => "a median of at most 20 ms, and 16 MiB",
            },
            got: format!("{median_ms:.1} ms, {} KiB", peak_kib),
            met: median_ms <= found.aim_ms() && peak_kib <= 16 << 10,
        });
    }
    Figures {
        json: json.into(),
        tables: vec![table],
        notes: Vec::new(),
        aims,
    }
}

//! A supervisor and one of its services are killed together, and the supervisor is started again at once.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::{
    bench::{
        Bench,
        arena::Arena,
        compare::{
            contest::{Skipped, ids, services},
            page::Section,
            peer::{Peer, Stage, Work},
            peers::Respawn,
            tree::parent,
        },
        sample::{Sample, Unit},
        table::Table,
        wait::monotonic_ns,
    },
    report::note,
};

const SERVICES: usize = 10;
const ROUNDS: usize = 4;
/// For what is started twice to be there.
const SETTLING: Duration = Duration::from_millis(1200);

pub(in crate::bench::compare) fn run(bench: &Bench, peers: &[&dyn Peer]) -> Result<Section> {
    let rounds = if bench.quick { 1 } else { ROUNDS };
    note!("bench: peers are killed with one of their services: {rounds} rounds");
    let mut section = Section::new("both", "Supervisor and service are killed together");
    section.say(format!(
        "All processes of the supervisor and one of its {SERVICES} services are killed; a shell starts the supervisor \
         again at once. From the kills to the first line of that service's main, in ms; how many services then run \
         twice. In the row with a spare, the agent is killed, and the spare lives."
    ));
    let mut table = Table::new("", &["", "kills", "median", "max", "run twice"]);
    let spare: &dyn Peer = &Respawn::SPARE;
    let mut skipped = Skipped::new();
    let inits = ["sysvinit", "systemd", "busybox init"];
    for peer in peers.iter().copied().chain([spare]) {
        let name = peer.name();
        if inits.contains(&name) {
            skipped.insert(name, "as PID 1 it cannot be killed".into());
            continue;
        }
        if peer.waits() && bench.quick {
            skipped.insert(name, "it waits, and the run is a quick one".into());
            continue;
        }
        let mut times = Vec::new();
        let mut doubled = Vec::new();
        for _ in 0..rounds {
            match round(bench, peer, name == spare.name()) {
                Ok((time, count)) => {
                    times.push(time);
                    doubled.push(count);
                }
                Err(error) => {
                    bench.interrupt.pause(Duration::ZERO)?;
                    skipped.insert(name, format!("{error:#}"));
                    break;
                }
            }
        }
        if times.is_empty() {
            continue;
        }
        section.json[name] = json!({ "times_ns": times, "run_twice": doubled });
        let sample = Sample::of(times);
        let [median, _, max] = sample.cells(Unit::Milliseconds);
        let most = doubled.iter().max().copied().unwrap_or(0);
        table.row([
            name.into(),
            sample.count().to_string(),
            median,
            max,
            most.to_string(),
        ]);
    }
    section.table(table);
    section.skipped(skipped);
    Ok(section)
}

/// How long it took, and how many services ran twice.
fn round(bench: &Bench, peer: &dyn Peer, with_spare: bool) -> Result<(u64, usize)> {
    let mut arena = Arena::open(bench)?;
    let ids = ids(peer, SERVICES);
    let mut stage = Stage::make(bench, &arena, peer.name())?;
    stage.kept = true;
    let running = peer.start(&stage, &services(&ids, Work::Memory(0)))?;
    arena.wait_until_ready(&ids, &bench.interrupt)?;
    bench.interrupt.pause(SETTLING)?;
    let victim = ids[SERVICES / 2..=SERVICES / 2].to_vec();
    let (pid, _) = arena.instance(&victim[0])?.context("an unknown service")?;
    let supervisors = match with_spare {
        true => vec![parent(u32::try_from(pid.as_raw())?).context("the service has no parent")?],
        false => running.processes()?,
    };
    // Before the first kill: a supervisor that is back at once may start the service before it is killed.
    let began_ns = monotonic_ns()?;
    for pid in supervisors {
        // One that has ended with another is gone already.
        let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
    }
    arena.kill(&victim)?;
    let time = arena.wait_until_back(&victim, began_ns, &bench.interrupt)?;
    bench.interrupt.pause(SETTLING)?;
    let doubled = arena.doubled(&ids)?;
    Ok((time, doubled))
}

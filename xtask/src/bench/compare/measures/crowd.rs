//! Many services killed at once; and what peers take while nothing happens, or nothing of theirs.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    bench::{
        Bench,
        arena::Arena,
        compare::{
            contest::{Contestant, Skipped, Times, gather},
            page::Section,
            peer::{Peer, Work},
            plot::Plot,
            tree::{Taken, taken},
        },
        process::Started,
        sample::{Unit, ratio, readable},
        table::Table,
    },
    report::note,
};

const EXITS_A_SECOND: usize = 2000;

pub(in crate::bench::compare) fn run(
    bench: &Bench,
    peers: &[&dyn Peer],
    count: usize,
    rounds: usize,
) -> Result<Vec<Section>> {
    let rounds = if bench.quick {
        rounds.div_ceil(3)
    } else {
        rounds
    };
    let title = format!("{count} services are killed at once");
    note!("bench: {title}: {rounds} rounds");
    let mut section = Section::new(&format!("crowd_{count}"), &title);
    let mut arena = Arena::open(bench)?;
    let mut skipped = Skipped::new();
    let mut all = gather(
        bench,
        &mut arena,
        peers,
        count,
        Work::Memory(0),
        &mut skipped,
    )?;
    let length = all.len();
    for round in 0..=rounds {
        for index in 0..length {
            let contestant = &mut all[(index + round) % length];
            contestant.kill_all(bench, &mut arena, round > 0)?;
        }
    }
    let times = Times::of(&all);
    section.say("From the first SIGKILL to the first line of main of the last one, in ms.".into());
    section.table(times.table(Unit::Milliseconds));
    section.plot(Plot::of_times(&title, &times.medians()));
    section.json = times.json();
    for contestant in &all {
        let doubled = arena.starts_too_many(&contestant.ids)?;
        section.json[contestant.peer.name()]["starts_too_many"] = doubled.into();
        if doubled > 0 {
            section.say(format!(
                "{}: {doubled} starts too many.",
                contestant.peer.name()
            ));
        }
    }
    section.skipped(skipped);
    let mut sections = vec![section];
    if count == 100 {
        sections.push(idle(bench, &all)?);
    }
    Ok(sections)
}

/// What they take with nothing to do, and beside exits that are none of theirs.
fn idle(bench: &Bench, all: &[Contestant<'_>]) -> Result<Section> {
    let seconds = if bench.quick { 3 } else { 10 };
    note!("bench: nothing happens for {seconds} s, then {EXITS_A_SECOND} other exits a second");
    let mut section = Section::new("idle", "Nothing happens");
    bench.interrupt.pause(Duration::from_secs(2))?;
    let quiet = measured(all, || {
        bench.interrupt.pause(Duration::from_secs(seconds as u64))
    })?;
    let busy = measured(all, || {
        let mut command = bench.command(&bench.actor)?;
        let exits = EXITS_A_SECOND * seconds;
        command.args(["exits", &exits.to_string(), &EXITS_A_SECOND.to_string()]);
        let actor = Started::start(&mut command)?;
        ensure!(actor.wait(&bench.interrupt)?.success(), "the actor failed");
        Ok(())
    })?;
    section.say(format!(
        "All of a peer's own processes with 100 services: how often they were switched away from in {seconds} s, and \
         their processor time, with nothing to do and beside {EXITS_A_SECOND} exits a second of other processes."
    ));
    let header = [
        "",
        "processes",
        "wakeups",
        "µs",
        "wakeups beside exits",
        "µs beside exits",
    ];
    let mut table = Table::new("", &header);
    for ((contestant, quiet), busy) in all.iter().zip(quiet).zip(busy) {
        let name = contestant.peer.name();
        table.row([
            name.into(),
            contestant.running.processes()?.len().to_string(),
            quiet.switches.to_string(),
            readable(ratio(quiet.cpu_ns as f64, 1000.0)),
            busy.switches.to_string(),
            readable(ratio(busy.cpu_ns as f64, 1000.0)),
        ]);
        section.json[name] = json!({ "idle": json_of(quiet), "beside_exits": json_of(busy) });
    }
    section.json["seconds"] = seconds.into();
    section.table(table);
    Ok(section)
}

fn json_of(taken: Taken) -> Value {
    json!({ "switches": taken.switches, "cpu_ns": taken.cpu_ns })
}

/// What each of them takes while something goes on.
fn measured(all: &[Contestant<'_>], go_on: impl FnOnce() -> Result<()>) -> Result<Vec<Taken>> {
    let processes: Vec<Vec<u32>> = all
        .iter()
        .map(|it| it.running.processes())
        .collect::<Result<_>>()?;
    let before: Vec<Taken> = processes.iter().map(|pids| taken(pids)).collect();
    go_on()?;
    let after = processes.iter().map(|pids| taken(pids));
    let spent = after.zip(before).map(|(after, before)| Taken {
        switches: after.switches.saturating_sub(before.switches),
        cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns),
    });
    Ok(spent.collect())
}

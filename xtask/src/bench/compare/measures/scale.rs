//! Thousands of services under one agent: what is done with all of them at once, beside the floor that spawns as many.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    bench::{
        Bench,
        arena::Arena,
        compare::{
            contest::{ids, services},
            page::Section,
            peer::{Peer, Running, Stage, Work},
            peers::{Floor, Respawn, runtime_dir},
            tree::pss_kib,
        },
        sample::{ratio, readable},
        table::Table,
        wait::monotonic_ns,
    },
    report::note,
    workspace::output_of,
};

/// For the supervisor and its services to fall asleep.
const REST: Duration = Duration::from_secs(2);
/// Between two questions to an agent that is starting.
const PAUSE: Duration = Duration::from_millis(5);

/// How long each step took, in nanoseconds.
struct Steps {
    name: &'static str,
    /// From the peer's exec to the first main, and from there to the last.
    own_start: u64,
    all_started: u64,
    some_killed: u64,
    all_killed: u64,
    pss_kib: u64,
}

/// What only an agent does.
struct OfAgent {
    status: u64,
    /// Some had ended while no agent ran: from the next one's exec to the last main.
    some_ended: u64,
    /// From the exec of an agent that adopts all of them to its first answer.
    adopted: u64,
    shut_down: u64,
}

pub(in crate::bench::compare) fn run(bench: &Bench) -> Result<Section> {
    let (all, some) = if bench.quick {
        (2000, 400)
    } else {
        (10_000, 2000)
    };
    let title = format!("{all} services");
    note!("bench: {title}");
    let mut section = Section::new("scale", &title);
    let (floor, _) = run_one(bench, &Floor, all, some, |_| Ok(()))?;
    let (respawn, of_agent) = run_one(bench, &Respawn::PLAIN, all, some, |run| run.agent_alone())?;
    section.say(format!(
        "One run. Cold start is from the first main to the last; at once are killed {some} and all {all}, until the last \
         main; in ms."
    ));
    let header = [
        "",
        "own start",
        "cold start",
        "some killed",
        "all killed",
        "memory, MiB",
    ];
    let mut table = Table::new("", &header);
    for steps in [&floor, &respawn] {
        let ms = |time: u64| readable(time as f64 / 1e6);
        table.row([
            steps.name.to_string(),
            ms(steps.own_start),
            ms(steps.all_started),
            ms(steps.some_killed),
            ms(steps.all_killed),
            readable(steps.pss_kib as f64 / 1024.0),
        ]);
    }
    let times_floor =
        |of: fn(&Steps) -> u64| format!("{:.2}", ratio(of(&respawn) as f64, of(&floor) as f64));
    table.row([
        "× floor".to_string(),
        String::new(),
        times_floor(|it| it.all_started),
        times_floor(|it| it.some_killed),
        times_floor(|it| it.all_killed),
        String::new(),
    ]);
    section.table(table);
    section.table(of_agent.table(&floor, some));
    section.json =
        json!({ "floor": floor.json(), "respawn": respawn.json(), "agent": of_agent.json() });
    Ok(section)
}

/// A peer with its services.
struct Run<'a> {
    bench: &'a Bench,
    peer: &'a dyn Peer,
    arena: &'a mut Arena,
    ids: &'a [String],
    /// Those of which only some are killed.
    some: &'a [String],
    directory: &'a Path,
    running: Option<Running>,
}

fn run_one<T>(
    bench: &Bench,
    peer: &dyn Peer,
    count: usize,
    some: usize,
    rest: impl FnOnce(&mut Run<'_>) -> Result<T>,
) -> Result<(Steps, T)> {
    let mut arena = Arena::open(bench)?;
    let ids = ids(peer, count);
    let stage = Stage::make(bench, &arena, peer.name())?;
    let directory = stage.directory.clone();
    let before = monotonic_ns()?;
    let running = peer.start(&stage, &services(&ids, Work::Memory(0)))?;
    let started = arena.wait_until_back(&ids, before, &bench.interrupt)?;
    let first = arena
        .first_start_ns(&ids)
        .map_or(0, |first| first.saturating_sub(before));
    let mut run = Run {
        bench,
        peer,
        arena: &mut arena,
        ids: &ids,
        some: &ids[..some],
        directory: &directory,
        running: Some(running),
    };
    bench.interrupt.pause(REST)?;
    let processes = run.running.as_ref().context("not running")?.processes()?;
    let steps = Steps {
        name: peer.name(),
        own_start: first,
        all_started: started.saturating_sub(first),
        pss_kib: pss_kib(&processes),
        some_killed: run.kill(run.some)?,
        all_killed: run.kill(run.ids)?,
    };
    let rest = rest(&mut run)?;
    Ok((steps, rest))
}

impl Run<'_> {
    /// Kills these at once; how long it took until the last of them ran again.
    fn kill(&mut self, ids: &[String]) -> Result<u64> {
        let killed = self.arena.kill(ids)?;
        let time = self
            .arena
            .wait_until_back(ids, killed, &self.bench.interrupt)?;
        self.bench.interrupt.pause(REST)?;
        Ok(time)
    }

    fn agent_alone(&mut self) -> Result<OfAgent> {
        let status = self.time_of(&["status"])?;
        self.kill_agent()?;
        self.arena.kill(self.some)?;
        let before = monotonic_ns()?;
        self.start_agent()?;
        let some_ended = self
            .arena
            .wait_until_back(self.some, before, &self.bench.interrupt)?;
        self.bench.interrupt.pause(REST)?;
        self.kill_agent()?;
        let before = monotonic_ns()?;
        self.start_agent()?;
        while self.time_of(&["is-up", &self.ids[0]]).is_err() {
            self.bench.interrupt.pause(PAUSE)?;
        }
        let adopted = monotonic_ns()?.saturating_sub(before);
        self.bench.interrupt.pause(REST)?;
        let shut_down = self.time_of(&["shutdown"])?;
        Ok(OfAgent {
            status,
            some_ended,
            adopted,
            shut_down,
        })
    }

    fn kill_agent(&mut self) -> Result<()> {
        self.running.take().context("not running")?.kill()
    }

    fn start_agent(&mut self) -> Result<()> {
        let stage = Stage::again(self.bench, self.arena, self.directory);
        let running = self
            .peer
            .start(&stage, &services(self.ids, Work::Memory(0)))?;
        self.running = Some(running);
        Ok(())
    }

    /// How long a command takes.
    fn time_of(&self, words: &[&str]) -> Result<u64> {
        let mut command = Command::new(&self.bench.respawn);
        command
            .args(words)
            .arg("--runtime-dir")
            .arg(runtime_dir(self.directory));
        let before = monotonic_ns()?;
        output_of(&mut command)?;
        Ok(monotonic_ns()?.saturating_sub(before))
    }
}

impl Steps {
    fn json(&self) -> serde_json::Value {
        json!({
            "own_start_ns": self.own_start,
            "all_started_ns": self.all_started,
            "some_killed_ns": self.some_killed,
            "all_killed_ns": self.all_killed,
            "pss_kib": self.pss_kib,
        })
    }
}

impl OfAgent {
    fn table(&self, floor: &Steps, some: usize) -> Table {
        let mut table = Table::new("What only an agent does", &["", "ms", "× floor"]);
        let times = |time: u64, floor: u64| format!("{:.2}", ratio(time as f64, floor as f64));
        let rows = [
            (
                "`respawn status` of all".to_string(),
                self.status,
                String::new(),
            ),
            (
                format!(
                    "{some} have ended while no agent ran: from the next agent's exec to their last main"
                ),
                self.some_ended,
                times(self.some_ended, floor.some_killed),
            ),
            (
                "all are adopted: from an agent's exec to its first answer".to_string(),
                self.adopted,
                times(self.adopted, floor.all_started),
            ),
            (
                "`respawn shutdown`".to_string(),
                self.shut_down,
                String::new(),
            ),
        ];
        for (what, time, times) in rows {
            table.row([what, readable(time as f64 / 1e6), times]);
        }
        table
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "status_ns": self.status,
            "some_ended_ns": self.some_ended,
            "adopted_ns": self.adopted,
            "shut_down_ns": self.shut_down,
        })
    }
}

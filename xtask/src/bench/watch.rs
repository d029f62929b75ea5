//! What `respawn watch --all --json` takes in user space: processor time for each exit, and memory; and whether it
//! loses any of a burst. Beside it, at the same time, libbpf's exitsnoop, where it is.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

use super::{Aim, Bench, Figures, process::Started, sample::ratio, table::Table};
use crate::{
    report::note,
    unpacked::{Program, on_this_host, unpacked},
};

const EXITS_A_SECOND: usize = 2_000;
const SECONDS: usize = 10;
const AIM_US: f64 = 12.0;

/// Made on each of two processors, as fast as they go.
const BURST: usize = 10_000;
const ACTORS: usize = 2;

/// Beside the pages of the ring.
const AIM_KIB: u64 = 16 << 10;

/// For what is on its way when the last process has ended.
const REST: Duration = Duration::from_millis(500);

pub(crate) const EXITSNOOP: Program = Program {
    name: "exitsnoop",
    package: "libbpf-tools",
};

/// A program that writes a line for each exit, to a file.
struct Watcher {
    process: Started,
    lines: PathBuf,
}

/// What one has taken.
#[derive(Clone, Copy)]
struct Taken {
    exits: usize,
    us_an_exit: f64,
    /// At most, without pages of the ring.
    kib: u64,
    ring_kib: u64,
}

pub(super) fn run(bench: &Bench) -> Result<Figures> {
    let mut watchers = vec![("respawn watch --all --json", Watcher::respawn(bench)?)];
    let mut notes = Vec::new();
    match Watcher::exitsnoop(bench) {
        Ok(exitsnoop) => watchers.push(("exitsnoop", exitsnoop)),
        Err(why) => notes.push(format!("No exitsnoop beside it: {why:#}")),
    }
    let (burst, count) = measured(bench, &watchers, || {
        note!("bench watch: a burst of {} exits", BURST * ACTORS);
        let actors: Vec<Started> = (0..ACTORS)
            .map(|_| actor(bench, "storm", &[BURST]))
            .collect::<Result<_>>()?;
        for actor in actors {
            ensure!(actor.wait(&bench.interrupt)?.success(), "the burst failed");
        }
        Ok(BURST * ACTORS)
    })?;
    let (steady, rate) = measured(bench, &watchers, || {
        let count = EXITS_A_SECOND * bench.rounds(SECONDS);
        note!("bench watch: {count} exits, {EXITS_A_SECOND} a second");
        let actor = actor(bench, "exits", &[count, EXITS_A_SECOND])?;
        ensure!(actor.wait(&bench.interrupt)?.success(), "the actor failed");
        Ok(count)
    })?;
    let summary = watchers.remove(0).1.end(bench)?;
    for (_, other) in watchers {
        other.process.signal(Signal::SIGINT)?;
    }
    let summary: Value = serde_json::from_str(&summary).context("the summary")?;
    let lost = summary["lost"].as_u64().context("no lost in the summary")?;
    Ok(figures(&burst, &steady, (count, rate, lost), notes))
}

/// What each watcher takes while something goes on that makes so many exits.
fn measured(
    bench: &Bench,
    watchers: &[(&'static str, Watcher)],
    go_on: impl FnOnce() -> Result<usize>,
) -> Result<(Vec<(&'static str, Taken)>, usize)> {
    let before: Vec<(u64, usize)> = watchers
        .iter()
        .map(|(_, it)| Ok((it.cpu_ns()?, it.shown()?)))
        .collect::<Result<_>>()?;
    let made = go_on()?;
    bench.interrupt.pause(REST)?;
    let taken = watchers.iter().zip(before).map(|((name, it), before)| {
        let exits = it.shown()? - before.1;
        let (kib, ring_kib) = it.memory_kib()?;
        let ns = it.cpu_ns()? - before.0;
        let taken = Taken {
            exits,
            us_an_exit: ratio(ns as f64 / 1000.0, exits as f64),
            kib,
            ring_kib,
        };
        Ok((*name, taken))
    });
    Ok((taken.collect::<Result<_>>()?, made))
}

impl Watcher {
    fn respawn(bench: &Bench) -> Result<Self> {
        let mut command = bench.command(&bench.respawn)?;
        command.args(["watch", "--all", "--json"]);
        Self::start(bench, command, "respawn")
    }

    fn exitsnoop(bench: &Bench) -> Result<Self> {
        let program = match on_this_host(EXITSNOOP.name) {
            Some(program) => program,
            None => unpacked(&bench.root, &EXITSNOOP).context("run `cargo xtask setup`")?,
        };
        // It wants tracefs, which need not be mounted on the host.
        let script = "mount -t tracefs tracefs /sys/kernel/tracing && exec \"$0\"";
        let mut command = bench.command(Path::new("unshare"))?;
        command.args(["--mount", "sh", "-c", script]).arg(program);
        Self::start(bench, command, "exitsnoop")
    }

    /// Starts it, and waits until it has written a line.
    fn start(bench: &Bench, mut command: Command, name: &str) -> Result<Self> {
        let lines = bench.scratch.path().join(format!("{name}.lines"));
        command.stdout(File::create(&lines)?).stderr(Stdio::null());
        let it = Self {
            process: Started::start(&mut command)?,
            lines,
        };
        for _ in 0..100 {
            bench.interrupt.pause(Duration::from_millis(100))?;
            // Something that it can show.
            Command::new("true").status()?;
            if it.shown()? > 2 {
                return Ok(it);
            }
        }
        anyhow::bail!("{name} shows nothing")
    }

    fn shown(&self) -> Result<usize> {
        let text = fs::read(&self.lines)?;
        Ok(text.iter().filter(|byte| **byte == b'\n').count())
    }

    /// Of its threads that live: it has no others in between.
    fn cpu_ns(&self) -> Result<u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.pid()))?;
        let mut sum = 0;
        for task in tasks {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().context("schedstat")?;
            sum += first.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// The most that was resident, without the ring's pages, which are the kernel's; and those.
    fn memory_kib(&self) -> Result<(u64, u64)> {
        let proc = format!("/proc/{}", self.process.pid());
        let status = fs::read_to_string(format!("{proc}/status"))?;
        let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
        let peak = peak.and_then(number).context("no VmHWM")?;
        let ring = ring_kib(&fs::read_to_string(format!("{proc}/smaps"))?);
        Ok((peak.saturating_sub(ring), ring))
    }

    /// Ends it as Ctrl-C does; its last line.
    fn end(self, bench: &Bench) -> Result<String> {
        self.process.signal(Signal::SIGINT)?;
        ensure!(self.process.wait(&bench.interrupt)?.success(), "it failed");
        let text = fs::read_to_string(&self.lines)?;
        Ok(text.lines().next_back().unwrap_or_default().to_owned())
    }
}

/// `Rss:    16644 kB`
fn number(line: &str) -> Option<u64> {
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What is resident of maps of BPF, of all that proc_pid_smaps(5) has.
fn ring_kib(smaps: &str) -> u64 {
    let mut sum = 0;
    let mut is_ring = false;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if !first.ends_with(':') {
            is_ring = line.contains("bpf-map");
        } else if first == "Rss:" && is_ring {
            sum += number(line).unwrap_or(0);
        }
    }
    sum
}

fn actor(bench: &Bench, kind: &str, numbers: &[usize]) -> Result<Started> {
    let mut command = bench.command(&bench.actor)?;
    command.arg(kind);
    command.args(numbers.iter().map(ToString::to_string));
    Started::start(&mut command)
}

fn figures(
    burst: &[(&'static str, Taken)],
    steady: &[(&'static str, Taken)],
    (count, rate, lost): (usize, usize, u64),
    notes: Vec<String>,
) -> Figures {
    let mut table = Table::new(
        "What watching every exit of the host takes in user space, each line written to a file",
        &[
            "program",
            "while",
            "exits shown",
            "µs CPU an exit",
            "MiB at most",
            "MiB of the ring",
        ],
    );
    let mut json = Map::new();
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    let whiles = [
        (format!("a burst of {count}"), "burst", burst),
        (format!("{EXITS_A_SECOND} a second"), "steady", steady),
    ];
    for (words, key, all) in whiles {
        for (name, taken) in all {
            table.row([
                (*name).to_owned(),
                words.clone(),
                taken.exits.to_string(),
                format!("{:.1}", taken.us_an_exit),
                mib(taken.kib),
                mib(taken.ring_kib),
            ]);
            let of = json!({
                "exits": taken.exits,
                "us_an_exit": taken.us_an_exit,
                "peak_kib": taken.kib,
                "ring_kib": taken.ring_kib,
            });
            json.insert(format!("{name}, {key}"), of);
        }
    }
    let (first, own) = (burst[0].1, steady[0].1);
    Figures {
        json: Value::from(json),
        tables: vec![table],
        notes,
        aims: vec![
            Aim {
                what: "lost of the burst and of the rest",
                wanted: "0, and each shown",
                got: format!(
                    "{lost}, and {} and {} shown of {count} and {rate} or more",
                    first.exits, own.exits
                ),
                met: lost == 0 && first.exits >= count && own.exits >= rate,
            },
            Aim {
                what: "processor time of an exit",
                wanted: "at most 12 µs",
                got: format!("{:.1} µs", own.us_an_exit),
                met: own.us_an_exit <= AIM_US,
            },
            Aim {
                what: "memory at most, without the ring",
                wanted: "at most 16 MiB",
                got: format!("{} MiB", mib(own.kib)),
                met: own.kib <= AIM_KIB,
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_pages_of_the_ring_apart() {
        let smaps = "\
7f00-7f10 rw-s 00001000 00:0f 9   anon_inode:bpf-map
Size:               1024 kB
Rss:                  64 kB
7f10-7f20 r-xp 00000000 08:01 17  /usr/sbin/respawn
Rss:                4096 kB
7f20-7f30 r--s 00002000 00:0f 9   anon_inode:bpf-map
Rss:                 100 kB
VmFlags: rd mr
";
        assert_eq!(ring_kib(smaps), 164);
    }
}

//! What the exit hook costs: the kernel's own BPF statistics over exits of each kind.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use serde_json::{Value, json};

use super::{
    Aim, Bench, Figures,
    process::{Started, Summary, Watch},
    sample::ratio,
    table::Table,
};
use crate::report::note;

/// Of each kind of exit; 100,000 in all.
const ROUNDS: usize = 10;
const EXITS_A_ROUND: usize = 10_000;
/// How many processes one watch is given by pid: each holds a descriptor.
const CROWD: usize = 2_000;
/// What the hook should cost at most where nothing is reported, in nanoseconds.
const AIM_NS: f64 = 100.0;

/// What there is to do for an exit, or for a signal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Events {
    /// Not of a process, and of none that is watched: nearly all of it is what it costs to call the
    /// program and to read the clock.
    Threads,
    /// A watch is on, for another process.
    Unwatched,
    /// Watched as the agent watches its services.
    ByPid,
    ByName,
    All,
    /// Signals to a process that is not watched.
    UnwatchedSignals,
    /// Signals to a watched process that may end it: their sender is kept.
    KeptSignals,
}

impl Events {
    const KINDS: [Self; 7] = [
        Self::Threads,
        Self::Unwatched,
        Self::ByPid,
        Self::ByName,
        Self::All,
        Self::UnwatchedSignals,
        Self::KeptSignals,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::Threads => "a thread's end only",
            Self::Unwatched => "unwatched",
            Self::ByPid => "reported, watched by pid",
            Self::ByName => "reported, by name",
            Self::All => "reported, all are",
            Self::UnwatchedSignals => "signals, unwatched",
            Self::KeptSignals => "signals, kept",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Unwatched => "unwatched",
            Self::ByPid => "by_pid",
            Self::ByName => "by_name",
            Self::All => "all",
            Self::UnwatchedSignals => "unwatched_signals",
            Self::KeptSignals => "kept_signals",
        }
    }
}

/// Which of the two kernel programs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    /// The one for this kernel.
    Own,
    /// The one for kernels before 6.16.
    LiveZero,
}

impl Program {
    fn arguments(self) -> Vec<String> {
        let mut arguments = vec!["--stats".to_string()];
        if self == Self::LiveZero {
            arguments.push("--live-zero".into());
        }
        arguments
    }
}

/// Sums over the rounds of one kind.
struct Tally {
    program: Program,
    exits: Events,
    caused: usize,
    sum: Summary,
    /// The lowest mean of a round, in nanoseconds.
    best_ns: f64,
}

impl Tally {
    fn new(program: Program, exits: Events) -> Self {
        Self {
            program,
            exits,
            caused: 0,
            sum: Summary::default(),
            best_ns: f64::INFINITY,
        }
    }

    fn add(&mut self, caused: usize, summary: Summary) {
        let sum = &mut self.sum;
        self.caused += caused;
        sum.shown += summary.shown;
        sum.lost += summary.lost;
        sum.wakeups += summary.wakeups;
        sum.hook_runs += summary.hook_runs;
        sum.hook_run_time_ns += summary.hook_run_time_ns;
        self.best_ns = self.best_ns.min(mean_ns(&summary));
    }

    fn mean_ns(&self) -> f64 {
        mean_ns(&self.sum)
    }
}

fn mean_ns(summary: &Summary) -> f64 {
    ratio(summary.hook_run_time_ns as f64, summary.hook_runs as f64)
}

pub(super) fn run(bench: &Bench) -> Result<Figures> {
    raise_descriptor_limit()?;
    let programs = [Program::Own, Program::LiveZero];
    let kinds = programs.iter().flat_map(|program| {
        let tally = |exits: &Events| Tally::new(*program, *exits);
        Events::KINDS.iter().map(tally).collect::<Vec<_>>()
    });
    let mut tallies: Vec<Tally> = kinds.collect();
    let rounds = bench.rounds(ROUNDS);
    for round in 1..=rounds {
        note!("bench hook: round {round} of {rounds}, {EXITS_A_ROUND} exits of each kind");
        for tally in &mut tallies {
            measure(bench, tally)?;
        }
    }
    Ok(figures(&tallies))
}

/// One round of one kind.
fn measure(bench: &Bench, tally: &mut Tally) -> Result<()> {
    let mut arguments = tally.program.arguments();
    let (_, name) = bench.actor_named("storm")?;
    match tally.exits {
        Events::Threads => tally.add(EXITS_A_ROUND, unwatched(bench, arguments, "threads")?),
        Events::Unwatched => tally.add(EXITS_A_ROUND, unwatched(bench, arguments, "storm")?),
        Events::ByPid => {
            for _ in 0..EXITS_A_ROUND / CROWD {
                tally.add(CROWD, by_pid(bench, arguments.clone())?);
            }
        }
        Events::ByName => {
            arguments.extend(["--name".into(), name]);
            tally.add(EXITS_A_ROUND, reported(bench, &arguments)?);
        }
        Events::All => {
            arguments.push("--all".into());
            tally.add(EXITS_A_ROUND, reported(bench, &arguments)?);
        }
        Events::UnwatchedSignals => {
            let summary = unwatched(bench, arguments, "signals")?;
            tally.add(EXITS_A_ROUND, of_signals(summary));
        }
        Events::KeptSignals => {
            tally.add(EXITS_A_ROUND, of_signals(kept_signals(bench, arguments)?));
        }
    }
    Ok(())
}

/// Watches a sleeping process while others end. The wakeup for its own end is not counted.
fn unwatched(bench: &Bench, mut arguments: Vec<String>, others: &str) -> Result<Summary> {
    let mut command = bench.command(&bench.actor)?;
    command.args(["linger", "0"]).stdout(Stdio::piped());
    let mut sleeper = Started::start(&mut command)?;
    let ready = sleeper.stdout()?.next(&bench.interrupt)?;
    ready.context("the process to watch ended")?;
    arguments.extend(["--pid".into(), sleeper.pid().to_string()]);
    let mut watch = Watch::start(bench, &arguments)?;
    watch.read_until_end_of(&storm(bench, others)?, &bench.interrupt)?;
    sleeper.signal(Signal::SIGKILL)?;
    let mut summary = watch.finish(&bench.interrupt)?;
    let own = summary.wakeups.checked_sub(1);
    summary.wakeups = own.context("the watched process's end woke nobody")?;
    Ok(summary)
}

/// Watches processes by their pids while all of them end.
fn by_pid(bench: &Bench, mut arguments: Vec<String>) -> Result<Summary> {
    let mut command = bench.command(&bench.actor)?;
    command
        .args(["crowd", &CROWD.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut crowd = Started::start(&mut command)?;
    let pids = crowd.stdout()?.next(&bench.interrupt)?;
    for pid in pids.context("the crowd ended")?.split_whitespace() {
        arguments.extend(["--pid".into(), pid.into()]);
    }
    let watch = Watch::start(bench, &arguments)?;
    drop(crowd.stdin());
    watch.finish(&bench.interrupt)
}

/// Watches a process that signals itself. The wakeup for its own end is not counted.
fn kept_signals(bench: &Bench, mut arguments: Vec<String>) -> Result<Summary> {
    let mut command = bench.command(&bench.actor)?;
    command
        .args(["signals", &EXITS_A_ROUND.to_string()])
        .stdin(Stdio::piped());
    let mut actor = Started::start(&mut command)?;
    arguments.extend(["--pid".into(), actor.pid().to_string()]);
    let watch = Watch::start(bench, &arguments)?;
    drop(actor.stdin());
    let mut summary = watch.finish(&bench.interrupt)?;
    summary.wakeups = summary.wakeups.saturating_sub(1);
    Ok(summary)
}

/// With the figures of the signal hook in place of the exit hook's.
fn of_signals(summary: Summary) -> Summary {
    Summary {
        hook_runs: summary.signal_hook_runs,
        hook_run_time_ns: summary.signal_hook_run_time_ns,
        ..summary
    }
}

/// Watches so that each exit of a storm is reported.
fn reported(bench: &Bench, arguments: &[String]) -> Result<Summary> {
    let mut watch = Watch::start(bench, arguments)?;
    watch.read_until_end_of(&storm(bench, "storm")?, &bench.interrupt)?;
    watch.stop(&bench.interrupt)
}

/// Starts an actor that has processes or threads end.
fn storm(bench: &Bench, kind: &str) -> Result<Started> {
    let (program, _) = bench.actor_named("storm")?;
    let mut command = bench.command(&program)?;
    command.stdin(Stdio::null());
    Started::start(command.args([kind, &EXITS_A_ROUND.to_string()]))
}

/// For a descriptor a watched process, here and in what is started.
fn raise_descriptor_limit() -> Result<()> {
    let limit = Resource::RLIMIT_NOFILE;
    let (soft, hard) = getrlimit(limit).context("read the limit on open files")?;
    let wanted = hard.min(CROWD as u64 + 100);
    if soft < wanted {
        setrlimit(limit, wanted, hard).context("raise the limit on open files")?;
    }
    Ok(())
}

fn figures(tallies: &[Tally]) -> Figures {
    let header = [
        "exits, signals",
        "caused",
        "hook runs",
        "reported",
        "lost",
        "mean ns",
        "best round",
        "wakeups",
    ];
    let mut own = Table::new(
        "The exit hook as this kernel runs it, and the signal hook",
        &header,
    );
    let mut live_zero = Table::new(
        "The exit hook for kernels before 6.16, and the signal hook",
        &header,
    );
    let mut json = json!({ "own": {}, "live_zero": {} });
    for tally in tallies {
        let (table, key) = match tally.program {
            Program::Own => (&mut own, "own"),
            Program::LiveZero => (&mut live_zero, "live_zero"),
        };
        json[key][tally.exits.key()] = tally_json(tally);
        let reported = match tally.exits {
            Events::ByPid | Events::ByName | Events::All => tally.sum.shown,
            _ => 0,
        };
        table.row([
            tally.exits.words().into(),
            tally.caused.to_string(),
            tally.sum.hook_runs.to_string(),
            reported.to_string(),
            tally.sum.lost.to_string(),
            format!("{:.0}", tally.mean_ns()),
            format!("{:.0}", tally.best_ns),
            tally.sum.wakeups.to_string(),
        ]);
    }
    Figures {
        json,
        tables: vec![own, live_zero],
        notes: vec![
            "The mean includes the kernel's BPF statistics themselves (two reads of the clock), \
             which are off in normal use: the first row, where there is next to nothing to do, tells \
             how much that is. Hook runs beyond those caused are ends of threads and other \
             processes of the host, and signals to them. Wakeups leave out the one for the end of \
             the process that is watched."
                .into(),
        ],
        aims: aims(tallies),
    }
}

fn tally_json(tally: &Tally) -> Value {
    json!({
        "caused": tally.caused,
        "hook_runs": tally.sum.hook_runs,
        "hook_run_time_ns": tally.sum.hook_run_time_ns,
        "mean_ns": tally.mean_ns(),
        "best_round_mean_ns": tally.best_ns,
        "shown": tally.sum.shown,
        "lost": tally.sum.lost,
        "wakeups": tally.sum.wakeups,
    })
}

fn aims(tallies: &[Tally]) -> Vec<Aim> {
    let of = |kind: Events| tallies.iter().find(move |tally| tally.exits == kind);
    let (Some(tally), Some(signals)) = (of(Events::Unwatched), of(Events::UnwatchedSignals)) else {
        return Vec::new();
    };
    vec![
        Aim {
            what: "an unwatched exit",
            wanted: "at most 100 ns",
            got: format!("{:.0} ns", tally.mean_ns()),
            met: tally.mean_ns() <= AIM_NS,
        },
        Aim {
            what: "wakeups for unwatched exits",
            wanted: "0",
            got: tally.sum.wakeups.to_string(),
            met: tally.sum.wakeups == 0,
        },
        Aim {
            what: "wakeups for unrelated signals",
            wanted: "0",
            got: signals.sum.wakeups.to_string(),
            met: signals.sum.wakeups == 0,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_rounds_and_keeps_the_best() {
        let summary = |runs, time| Summary {
            hook_runs: runs,
            hook_run_time_ns: time,
            wakeups: 2,
            ..Summary::default()
        };
        let mut tally = Tally::new(Program::Own, Events::Unwatched);
        tally.add(10, summary(10, 1000));
        tally.add(10, summary(30, 1500));
        assert_eq!(tally.caused, 20);
        assert_eq!(tally.sum.wakeups, 4);
        assert_eq!(tally.mean_ns(), 62.5);
        assert_eq!(tally.best_ns, 50.0);
        let signals = Tally::new(Program::Own, Events::UnwatchedSignals);
        let aims = aims(&[tally, signals]);
        assert_eq!(
            aims[0].line(),
            "Aim, an unwatched exit: at most 100 ns; it is 62 ns: met"
        );
        assert!(!aims[1].met);
    }
}

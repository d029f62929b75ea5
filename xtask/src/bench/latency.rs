//! How soon `respawn watch` has told an exit, beside the moment when the process's pidfd becomes
//! readable: the early warning and the release.

use std::{os::fd::AsFd as _, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    Aim, Bench, Figures,
    process::{Started, Watch},
    sample::{Sample, Unit, ratio},
    table::Table,
    wait::monotonic_ns,
};
use crate::report::note;

const ROUNDS: usize = 200;
/// Of a process with much memory.
const LARGE_ROUNDS: usize = 10;
const LARGE_MIB: u32 = 1024;
/// Not counted: caches fill, and pages of the watch are touched for the first time.
const WARM_UP_ROUNDS: usize = 5;
/// Between a victim's readiness and its end, for all to fall asleep.
const REST: Duration = Duration::from_millis(3);

/// How long after the kill, in nanoseconds.
struct Round {
    line_ns: u64,
    pidfd_ns: u64,
}

/// Rounds of one size of process.
struct Rounds {
    line: Sample,
    pidfd: Sample,
}

pub(super) fn run(bench: &Bench) -> Result<Figures> {
    let (_, name) = bench.actor_named("victim")?;
    let mut watch = Watch::start(bench, &["--name".into(), name])?;
    for _ in 0..WARM_UP_ROUNDS {
        measure(bench, &mut watch, 0)?;
    }
    let small = rounds(bench, &mut watch, bench.rounds(ROUNDS), 0)?;
    let large = rounds(bench, &mut watch, bench.rounds(LARGE_ROUNDS), LARGE_MIB)?;
    watch.stop(&bench.interrupt)?;
    Ok(figures(&small, &large))
}

fn rounds(bench: &Bench, watch: &mut Watch, count: usize, mebibytes: u32) -> Result<Rounds> {
    note!("bench latency: {count} processes with {mebibytes} MiB touched are killed");
    let (mut line, mut pidfd) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let round = measure(bench, watch, mebibytes)?;
        line.push(round.line_ns);
        pidfd.push(round.pidfd_ns);
    }
    Ok(Rounds {
        line: Sample::of(line),
        pidfd: Sample::of(pidfd),
    })
}

/// Kills a process, and takes the time of its line and of its pidfd.
fn measure(bench: &Bench, watch: &mut Watch, mebibytes: u32) -> Result<Round> {
    let (program, _) = bench.actor_named("victim")?;
    let mut command = bench.command(&program)?;
    command
        .args(["linger", &mebibytes.to_string()])
        .stdout(Stdio::piped());
    let mut victim = Started::start(&mut command)?;
    let ready = victim.stdout()?.next(&bench.interrupt)?;
    ready.context("the victim ended too early")?;
    bench.interrupt.pause(REST)?;

    let killed_at = monotonic_ns()?;
    victim.signal(Signal::SIGKILL)?;
    let (mut line_at, mut pidfd_at) = (None, None);
    loop {
        let [line, pidfd] = match (line_at, pidfd_at) {
            (Some(line_at), Some(pidfd_at)) => {
                return Ok(Round {
                    line_ns: line_at - killed_at,
                    pidfd_ns: pidfd_at - killed_at,
                });
            }
            (_, None) => bench
                .interrupt
                .readable([watch.lines.as_fd(), victim.as_fd()])?,
            (None, Some(_)) => [bench.interrupt.readable([watch.lines.as_fd()])?[0], false],
        };
        if pidfd {
            pidfd_at = Some(monotonic_ns()?);
        }
        if line {
            watch.lines.fill()?;
            let read_at = monotonic_ns()?;
            while let Some(line) = watch.lines.take() {
                if is_exit_of(&line, victim.pid()) {
                    line_at = Some(read_at);
                }
            }
            if watch.lines.has_ended() {
                bail!("respawn watch ended too early");
            }
        }
    }
}

fn is_exit_of(line: &str, pid: u32) -> bool {
    serde_json::from_str::<Value>(line)
        .is_ok_and(|event| event["event"] == "exited" && event["pid"] == pid)
}

fn figures(small: &Rounds, large: &Rounds) -> Figures {
    let mut table = Table::new(
        "From SIGKILL to what tells of it, in µs: `respawn watch`'s line on stdout, and the \
         process's pidfd in the same rounds",
        &[
            "process",
            "kills",
            "line: median",
            "p90",
            "max",
            "pidfd: median",
            "p90",
            "max",
            "pidfd ÷ line",
        ],
    );
    let large_name = format!("with {LARGE_MIB} MiB touched");
    for (name, rounds) in [("small", small), (&large_name, large)] {
        let [line_median, line_p90, line_max] = rounds.line.cells(Unit::Microseconds);
        let [pidfd_median, pidfd_p90, pidfd_max] = rounds.pidfd.cells(Unit::Microseconds);
        table.row([
            name.into(),
            rounds.line.count().to_string(),
            line_median,
            line_p90,
            line_max,
            pidfd_median,
            pidfd_p90,
            pidfd_max,
            format!("{:.1}", rounds.ratio()),
        ]);
    }
    Figures {
        json: json!({ "small": small.json(), "large": large.json(), "large_mib": LARGE_MIB }),
        tables: vec![table],
        notes: Vec::new(),
        aims: vec![
            Aim {
                what: "kill to line of a small process",
                wanted: "a median under 1 ms on an idle machine",
                got: format!("{:.0} µs", small.line.median_us()),
                met: small.line.median_us() < 1000.0,
            },
            Aim {
                what: "the line of a process with 1 GiB touched",
                wanted: "at least 100 times earlier than its pidfd",
                got: format!("{:.0} times", large.ratio()),
                met: large.ratio() >= 100.0,
            },
        ],
    }
}

impl Rounds {
    /// Of the medians: how many times later the pidfd is.
    fn ratio(&self) -> f64 {
        ratio(self.pidfd.median_us(), self.line.median_us())
    }

    fn json(&self) -> Value {
        json!({ "line": self.line.json(), "pidfd": self.pidfd.json(), "ratio": self.ratio() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_victims_line() {
        let line = r#"{"event":"exited","pid":12,"comm":"victim"}"#;
        assert!(is_exit_of(line, 12));
        assert!(!is_exit_of(line, 1));
        assert!(!is_exit_of(r#"{"event":"events_lost","pid":12}"#, 12));
        assert!(!is_exit_of("12", 12));
    }
}

//! The first part: `respawn watch` on this host's exits, some of which the demo causes.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::{sys::signal::Signal, unistd::geteuid};

use super::{
    Flow,
    facts::{Fact, Facts},
    process::{Started, tethered_command},
};
use crate::report::{note, now};

/// Between two processes that end.
const PACE: Duration = Duration::from_millis(500);
/// What `respawn watch` may take from SIGINT to its last line.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process of the demo, which leaves no core file. It waits until its turn, so that it can also be watched by its pid.
struct Actor {
    does: &'static str,
    command: &'static [&'static str],
    cue: Cue,
}

/// What makes a process end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cue {
    /// Its stdin is closed.
    EndOfInput,
    /// The demo kills it.
    Kill,
}

const ACTORS: [Actor; 5] = [
    Actor {
        does: "exits with 3",
        command: &["sh", "-c", "read x; exit 3"],
        cue: Cue::EndOfInput,
    },
    Actor {
        does: "becomes `true` and exits with 0",
        command: &["sh", "-c", "read x; exec true"],
        cue: Cue::EndOfInput,
    },
    Actor {
        does: "gets SIGKILL from the demo",
        command: &["sleep", "600"],
        cue: Cue::Kill,
    },
    Actor {
        does: "sends itself SIGSEGV",
        command: &["sh", "-c", "read x; ulimit -c 0; kill -SEGV $$"],
        cue: Cue::EndOfInput,
    },
    Actor {
        does: "sends itself SIGABRT",
        command: &["sh", "-c", "read x; ulimit -c 0; kill -ABRT $$"],
        cue: Cue::EndOfInput,
    },
];

/// Shows it, for about three seconds.
pub(super) fn show(respawn: &Path, facts: &Facts) -> Result<Flow> {
    let mut cast = Vec::new();
    for actor in &ACTORS {
        let mut command = tethered_command(Path::new(actor.command[0]))?;
        command
            .args(&actor.command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        cast.push((actor, Started::start(&mut command)?));
    }
    let mut part = Part {
        watch: start_watch(respawn, &cast)?,
        facts,
    };
    let woken = part.play(&mut cast)?;
    part.finish(woken)
}

fn start_watch(respawn: &Path, cast: &[(&Actor, Started)]) -> Result<Started> {
    let mut command = tethered_command(respawn)?;
    command.arg("watch").stdin(Stdio::null());
    if geteuid().is_root() {
        command.arg("--all");
        note!("demo: 1. `respawn watch --all` shows every exit on this host; five are the demo's");
    } else {
        for (_, process) in cast {
            command.arg("--pid").arg(process.pid().to_string());
        }
        note!(
            "demo: 1. not root, so without the kernel program: `respawn watch --pid` shows the \
             exits of five processes of the demo"
        );
    }
    Started::start(&mut command)
}

struct Part<'a> {
    watch: Started,
    facts: &'a Facts,
}

/// Why a pause is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    InTime,
    Interrupted,
    WatchEnded(ExitStatus),
}

impl Part<'_> {
    /// Gives each process its cue.
    fn play(&mut self, cast: &mut [(&Actor, Started)]) -> Result<Woken> {
        for (actor, process) in cast {
            let woken = self.pause(now() + PACE)?;
            if woken != Woken::InTime {
                return Ok(woken);
            }
            note!("demo: now pid {} {}", process.pid(), actor.does);
            match actor.cue {
                Cue::EndOfInput => drop(process.stdin()),
                Cue::Kill => process.signal(Signal::SIGKILL)?,
            }
        }
        self.pause(now() + PACE)
    }

    /// Waits for the time or whatever comes before it.
    fn pause(&mut self, until: Instant) -> Result<Woken> {
        loop {
            if let Some(status) = self.watch.ended()? {
                return Ok(Woken::WatchEnded(status));
            }
            match self.facts.next(until)? {
                Fact::Interrupted => return Ok(Woken::Interrupted),
                Fact::Nothing => return Ok(Woken::InTime),
                Fact::ChildEnded | Fact::Line(_) | Fact::End => {}
            }
        }
    }

    /// Ends `respawn watch` the way Ctrl-C does, and lets it say its last line.
    fn finish(mut self, woken: Woken) -> Result<Flow> {
        let status = match woken {
            Woken::WatchEnded(status) => status,
            Woken::InTime | Woken::Interrupted => {
                self.watch.signal(Signal::SIGINT)?;
                match self.pause(now() + PATIENCE)? {
                    Woken::WatchEnded(status) => status,
                    Woken::Interrupted => bail!("interrupted again: respawn watch is killed"),
                    Woken::InTime => bail!("respawn watch did not end within {PATIENCE:?}"),
                }
            }
        };
        // `… | head -1`: the reader had enough, and respawn watch ends well.
        let of_sigpipe = status.signal() == Some(Signal::SIGPIPE as i32);
        if !status.success() && !of_sigpipe {
            bail!("respawn watch ended with {status}");
        }
        let all_gone = matches!(woken, Woken::WatchEnded(_)) && !geteuid().is_root();
        Ok(match woken {
            Woken::InTime => Flow::GoOn,
            // Each `--pid` is gone.
            Woken::WatchEnded(_) if all_gone => Flow::GoOn,
            Woken::WatchEnded(_) | Woken::Interrupted => Flow::End,
        })
    }
}

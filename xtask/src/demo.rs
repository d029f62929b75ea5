//! `cargo xtask demo`: `respawn watch` on this host's exits, some of which the demo causes.
//!
//! It ends what it started and nothing else: each process by its handle, and should the demo
//! itself be killed, by the parent-death signal that each has set before it began.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, geteuid, getppid},
};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    Verdict,
    report::{note, now},
    workspace::{Profile, Workspace, shown},
};

/// Watch this host's exits live for a few seconds, and cause some
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to watch: `10s`, `500ms`, `1m`; Ctrl-C ends it sooner
    #[arg(long = "for", value_name = "DURATION", default_value = "6s", value_parser = duration)]
    length: Duration,
}

/// Run a program that is killed when the demo ends
#[derive(clap::Args)]
pub(crate) struct TetheredArgs {
    /// The demo's pid
    #[arg(long)]
    to: i32,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

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

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let respawn = workspace.build_respawn(Profile::Release, None)?;
    let signals = signals()?;
    let mut cast = Vec::new();
    for actor in &ACTORS {
        let mut command = tethered_command(Path::new(actor.command[0]))?;
        command
            .args(&actor.command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        cast.push((actor, Started::start(&mut command)?));
    }
    let watch = start_watch(&respawn, &cast)?;
    let mut demo = Demo {
        watch,
        signals,
        end: now() + args.length,
    };
    let woken = demo.play(&mut cast)?;
    demo.finish(woken)
}

fn start_watch(respawn: &Path, cast: &[(&Actor, Started)]) -> Result<Started> {
    let mut command = tethered_command(respawn)?;
    command.arg("watch").stdin(Stdio::null());
    if geteuid().is_root() {
        command.arg("--all");
        note!("demo: respawn watch --all");
    } else {
        for (_, process) in cast {
            command.arg("--pid").arg(process.pid().to_string());
        }
        note!(
            "demo: not root, so without the kernel program: it watches the demo's own processes \
             only, by `respawn watch --pid`"
        );
    }
    Started::start(&mut command)
}

/// A running demo.
struct Demo {
    watch: Started,
    /// The signals that came, SIGCHLD among them.
    signals: Receiver<i32>,
    end: Instant,
}

/// Why a pause is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    InTime,
    Interrupted,
    WatchEnded(ExitStatus),
}

impl Demo {
    /// Gives each process its cue, then watches for the rest of the time.
    fn play(&mut self, cast: &mut [(&Actor, Started)]) -> Result<Woken> {
        for (actor, process) in cast {
            let woken = self.pause(self.end.min(now() + PACE))?;
            if woken != Woken::InTime || now() >= self.end {
                return Ok(woken);
            }
            note!("demo: now pid {} {}", process.pid(), actor.does);
            process.cue(actor.cue)?;
        }
        self.pause(self.end)
    }

    /// Waits, without polling, for the time or whatever comes before it.
    fn pause(&mut self, until: Instant) -> Result<Woken> {
        loop {
            if let Some(status) = self.watch.0.try_wait().context("wait for respawn watch")? {
                return Ok(Woken::WatchEnded(status));
            }
            match self
                .signals
                .recv_timeout(until.saturating_duration_since(now()))
            {
                Ok(SIGCHLD) => {}
                Ok(_) => return Ok(Woken::Interrupted),
                Err(RecvTimeoutError::Timeout) => return Ok(Woken::InTime),
                Err(RecvTimeoutError::Disconnected) => bail!("the thread for signals is gone"),
            }
        }
    }

    /// Ends `respawn watch` the way Ctrl-C does, and lets it say its last line.
    fn finish(mut self, woken: Woken) -> Result<Verdict> {
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
        // `watch … | head -1`: the reader had enough.
        if status.success() || status.signal() == Some(Signal::SIGPIPE as i32) {
            return Ok(Verdict::Pass);
        }
        bail!("respawn watch ended with {status}")
    }
}

/// A process that the demo started. It does not outlive this value.
struct Started(Child);

impl Started {
    fn start(command: &mut Command) -> Result<Self> {
        // A group of its own: Ctrl-C reaches the demo alone, which ends things in order.
        let child = command.process_group(0).spawn();
        child
            .map(Self)
            .with_context(|| format!("start {}", shown(command)))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn cue(&mut self, cue: Cue) -> Result<()> {
        match cue {
            Cue::EndOfInput => drop(self.0.stdin.take()),
            Cue::Kill => self.0.kill().context("kill a process of the demo")?,
        }
        Ok(())
    }

    /// Not yet waited for, so the pid is still its own.
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Both fail only for one that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Collects from now on the signals that end the demo, and those of its processes' ends.
fn signals() -> Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// A command that begins as `cargo xtask tethered`.
pub(crate) fn tethered_command(program: &Path) -> Result<Command> {
    // Not by its path: cargo may have put a newer one there.
    let mut command = Command::new("/proc/self/exe");
    let own = std::process::id().to_string();
    command.args(["tethered", "--to", &own, "--"]).arg(program);
    Ok(command)
}

/// Becomes the program, which the kernel kills when the demo dies: a parent-death signal outlives
/// `exec`, and to set it here takes no unsafe code between fork and exec.
///
/// # Errors
/// When the demo is gone already, or the program cannot be run. It returns in no other case.
pub(crate) fn tethered(args: &TetheredArgs) -> Result<Verdict> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("set the parent-death signal")?;
    if getppid().as_raw() != args.to {
        bail!("the demo is gone");
    }
    let mut command = Command::new(&args.command[0]);
    let error = command.args(&args.command[1..]).exec();
    Err(error).with_context(|| format!("run {}", shown(&command)))
}

/// Reads `10s`, `1.5s`, `500ms`, `1m`; a bare number is seconds.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("unknown unit {unit:?}: expected ms, s or m")),
    };
    let number: f64 = text[..text.len() - unit.len()]
        .parse()
        .map_err(|_| "expected a number and a unit, such as 6s or 500ms".to_string())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        assert_eq!(duration("6s"), Ok(Duration::from_secs(6)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        for wrong in ["", "s", "1h", "-1s", "1..2s", "99999999999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_process_does_not_outlive_its_handle() {
        let mut command = Command::new("sleep");
        let process = Started::start(command.arg("600")).unwrap();
        let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap());
        assert_eq!(kill(pid, None), Ok(()));
        drop(process);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}

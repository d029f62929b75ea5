//! The second and third part: services that are killed, then one of them together with the agent,
//! and how soon they are back.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use super::{
    Flow,
    facts::{Fact, Facts},
    process::Started,
    stage::Stage,
};
use crate::report::{note, now};

/// Between two kills.
const PACE: Duration = Duration::from_secs(1);
/// How long to kill services before the agent is killed, if nobody says.
pub(super) const TURN: Duration = Duration::from_secs(10);
/// What a service may take to come back.
const PATIENCE: Duration = Duration::from_secs(20);
/// How the agent calls itself in its own events.
const AGENT: &str = "agent";

/// Names and files.
const SERVICES: [(&str, &str); 3] = [
    ("db", "command = [\"sleep\", \"3600\"]\n"),
    ("mail", "command = [\"sleep\", \"3600\"]\n"),
    ("web", "command = [\"sleep\", \"3600\"]\noverlap = true\n"),
];

/// Shows it, killing for that long, or until someone has seen enough. Returns how often a service
/// came back.
pub(super) fn show(respawn: &Path, facts: &Facts, length: Option<Duration>) -> Result<usize> {
    note!("demo: 2. `respawn agent` keeps three services running; `respawn events --follow` tells");
    if !geteuid().is_root() {
        note!(
            "demo: not root, so without the kernel program: the agent sees deaths by pidfds alone"
        );
    }
    let mut stage = Stage::set_up(respawn, &SERVICES)?;
    stage.wait_for_agent()?;
    let mut part = Part::start(stage, facts)?;
    part.play(length)?;
    let summary = part.summary();
    let returns = part.returns.len() + usize::from(part.together.is_some());
    let Part { stage, events, .. } = part;
    drop(events);
    stage.clear()?;
    note!("demo: {summary}; no process, file or pin of it is left");
    Ok(returns)
}

/// Something that runs, as the events tell.
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    /// When it was told.
    since: Instant,
}

struct Part<'a> {
    stage: Stage,
    events: Started,
    facts: &'a Facts,
    running: BTreeMap<String, Running>,
    /// How long each of those that were killed alone took to be back.
    returns: Vec<Duration>,
    /// The agent, and the service that was killed with it, at the last time.
    together: Option<(Duration, Duration)>,
}

impl<'a> Part<'a> {
    fn start(stage: Stage, facts: &'a Facts) -> Result<Self> {
        let mut command = stage.respawn(&["events", "--follow"])?;
        if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            command.env("CLICOLOR_FORCE", "1");
        }
        let mut events = Started::start(command.stdout(Stdio::piped()))?;
        facts.read(events.stdout().context("no piped output")?);
        Ok(Self {
            stage,
            events,
            facts,
            running: BTreeMap::new(),
            returns: Vec::new(),
            together: None,
        })
    }

    fn play(&mut self, length: Option<Duration>) -> Result<()> {
        for (name, _) in SERVICES {
            if self.wait_for(name, None)? == Flow::End {
                return Ok(());
            }
        }
        loop {
            let mut flow = self.kill_for(length.unwrap_or(TURN))?;
            if flow == Flow::GoOn {
                flow = self.kill_together("mail")?;
            }
            if flow == Flow::End || length.is_some() {
                return Ok(());
            }
        }
    }

    /// Kills one after the other.
    fn kill_for(&mut self, length: Duration) -> Result<Flow> {
        let end = now() + length;
        for (name, _) in SERVICES.iter().rev().cycle() {
            let next = end.min(now() + PACE);
            if self.watch_until(next)? == Flow::End {
                break;
            }
            if now() >= end {
                return Ok(Flow::GoOn);
            }
            if self.kill_one(name)? == Flow::End {
                break;
            }
        }
        Ok(Flow::End)
    }

    fn kill_one(&mut self, name: &str) -> Result<Flow> {
        let pid = self.running(name)?.pid;
        note!("demo: now SIGKILL to {name}, pid {pid}");
        let killed = now();
        self.kill(name)?;
        let flow = self.wait_for(name, Some(killed))?;
        if flow == Flow::GoOn {
            let took = self.running(name)?.since - killed;
            self.returns.push(took);
            note!("demo: {name} is back, {} after the kill", readable(took));
        }
        Ok(flow)
    }

    fn kill_together(&mut self, name: &str) -> Result<Flow> {
        let (agent, service) = (self.running(AGENT)?.pid, self.running(name)?.pid);
        let others: Vec<i32> = self.others(name);
        note!(
            "demo: 3. now SIGKILL to the agent, pid {agent}, and to {name}, pid {service}, at the \
             same instant; the demo, in the place of init, starts the agent again"
        );
        let killed = now();
        self.kill(AGENT)?;
        self.kill(name)?;
        for who in [AGENT, name] {
            if self.wait_for(who, Some(killed))? == Flow::End {
                return Ok(Flow::End);
            }
        }
        let since = |part: &Self, who| part.running(who).map(|running| running.since - killed);
        let (agent, service) = (since(self, AGENT)?, since(self, name)?);
        self.together = Some((agent, service));
        note!(
            "demo: the agent is back after {}, {name} after {}",
            readable(agent),
            readable(service)
        );
        // A second start of anything would be told by now.
        if self.watch_until(now() + PACE)? == Flow::End {
            return Ok(Flow::End);
        }
        if self.others(name) != others {
            bail!("a service that was not killed was started again");
        }
        self.check_status()
    }

    /// Shows what `respawn status` says, and compares it with what the events told.
    fn check_status(&self) -> Result<Flow> {
        note!("demo: `respawn status` now: the same pids, but for what was killed");
        let shown = self.stage.respawn(&["status"])?.status();
        if !shown.context("run respawn status")?.success() {
            bail!("respawn status failed");
        }
        let output = self.stage.respawn(&["status", "--json"])?.output();
        let output = output.context("run respawn status --json")?;
        let status: Value = serde_json::from_slice(&output.stdout)
            .context("respawn status --json printed no JSON")?;
        for service in status.as_array().into_iter().flatten() {
            let name = service["service"].as_str().unwrap_or_default();
            let pid = self.running(name)?.pid;
            if service["state"] != "running" || service["pid"] != pid {
                bail!("{name} should be running as pid {pid}: {service}");
            }
        }
        Ok(Flow::GoOn)
    }

    fn running(&self, name: &str) -> Result<&Running> {
        let running = self.running.get(name);
        running.with_context(|| format!("{name} was never started"))
    }

    /// The pids of the services that are not this one.
    fn others(&self, name: &str) -> Vec<i32> {
        let others = self.running.iter();
        others
            .filter(|(other, _)| *other != AGENT && *other != name)
            .map(|(_, running)| running.pid)
            .collect()
    }

    fn kill(&self, name: &str) -> Result<()> {
        pidfd_send_signal(&self.running(name)?.pidfd, Signal::KILL)
            .with_context(|| format!("kill {name}"))
    }

    /// Shows events until that service, or the agent, has been started after `killed`.
    fn wait_for(&mut self, name: &str, killed: Option<Instant>) -> Result<Flow> {
        let deadline = now() + PATIENCE;
        loop {
            let since = self.running.get(name).map(|running| running.since);
            if since.is_some_and(|since| killed.is_none_or(|killed| since > killed)) {
                return Ok(Flow::GoOn);
            }
            match self.take(deadline)? {
                Fact::Interrupted => return Ok(Flow::End),
                Fact::Nothing if killed.is_some() => {
                    bail!("{name} did not come back within {PATIENCE:?}")
                }
                Fact::Nothing => bail!("{name} was not started within {PATIENCE:?}"),
                _ => {}
            }
        }
    }

    /// Shows events for a time.
    fn watch_until(&mut self, until: Instant) -> Result<Flow> {
        loop {
            match self.take(until)? {
                Fact::Interrupted => return Ok(Flow::End),
                Fact::Nothing => return Ok(Flow::GoOn),
                _ => {}
            }
        }
    }

    /// Takes one fact, shows it if it is an event, and learns from it.
    fn take(&mut self, until: Instant) -> Result<Fact> {
        let fact = self.facts.next(until)?;
        match &fact {
            Fact::Line(line) => {
                let mut stdout = io::stdout();
                if writeln!(stdout, "{line}")
                    .and_then(|()| stdout.flush())
                    .is_err()
                {
                    // The reader had enough.
                    return Ok(Fact::Interrupted);
                }
                if let Some((name, pid)) = started(line) {
                    self.note_start(name, pid)?;
                }
            }
            Fact::End => bail!("respawn events ended"),
            Fact::ChildEnded if !self.stage.is_up()? => bail!("the agent is gone for good"),
            _ => {}
        }
        Ok(fact)
    }

    fn note_start(&mut self, name: &str, pid: i32) -> Result<()> {
        let handle = Pid::from_raw(pid).context("no pid")?;
        let pidfd = pidfd_open(handle, PidfdFlags::empty())
            .with_context(|| format!("{name}, pid {pid}, is gone at once"))?;
        let since = now();
        let running = Running { pid, pidfd, since };
        self.running.insert(name.to_string(), running);
        Ok(())
    }

    fn summary(&self) -> String {
        let mut sorted = self.returns.clone();
        sorted.sort_unstable();
        let mut text = match sorted.as_slice() {
            [] => "no kill".to_string(),
            [time] => format!("1 kill, the service back once, after {}", readable(*time)),
            [first, .., last] => format!(
                "{} kills, each service back once, after {} in the median ({} to {})",
                sorted.len(),
                readable(sorted[sorted.len() / 2]),
                readable(*first),
                readable(*last)
            ),
        };
        if let Some((agent, service)) = self.together {
            text += &format!(
                "; killed together, the agent back after {}, its service after {}",
                readable(agent),
                readable(service)
            );
        }
        text
    }
}

/// Who was started, and its pid: "12:03:04.567  web           started pid 123, restart 1".
fn started(line: &str) -> Option<(&str, i32)> {
    let (before, after) = line.split_once("started pid ")?;
    // Colours, if there are any, stand around each of the words.
    let word = |word: &str| -> Option<usize> { Some(before.rfind(word)? + word.len()) };
    let name = SERVICES
        .iter()
        .map(|(name, _)| *name)
        .chain([AGENT])
        .filter_map(|name| Some((word(name)?, name)))
        .max()?;
    let digits = after.find(|c: char| !c.is_ascii_digit());
    let pid = after[..digits.unwrap_or(after.len())].parse().ok()?;
    Some((name.1, pid))
}

/// "1.9 ms", "12 ms", "1.3 s".
fn readable(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.1} ms"),
        ..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.1} s", milliseconds / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_who_was_started() {
        for (line, expected) in [
            (
                "12:03:04.567  web           started pid 123",
                Some(("web", 123)),
            ),
            (
                "2026-07-24 12:03:04.567  db            started pid 9, restart 1",
                Some(("db", 9)),
            ),
            (
                "12:03:04.567  -             agent started pid 7, version 0.1.0",
                Some(("agent", 7)),
            ),
            (
                "\u{1b}[2m12:03:04.567\u{1b}[0m  \u{1b}[1mmail        \u{1b}[0m  \u{1b}[32mstarted pid 8\u{1b}[0m",
                Some(("mail", 8)),
            ),
            ("12:03:04.567  web           adopted, pid 123", None),
        ] {
            assert_eq!(started(line), expected, "{line}");
        }
    }

    #[test]
    fn times_are_short() {
        for (micros, text) in [(1_940, "1.9 ms"), (12_300, "12 ms"), (1_340_000, "1.3 s")] {
            assert_eq!(readable(Duration::from_micros(micros)), text);
        }
    }
}

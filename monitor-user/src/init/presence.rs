//! Waits until what init keeps is there or has ended, and asks init again meanwhile.
//!
//! Whether it is there, the agent's answer and the locks say, not init.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Plan, locks};
use crate::control::{self, Command, Response, client};
use crate::os::proc;
use crate::probe::sets::{self, PinSet};

/// How long it may take to come up: runsvdir looks for new services every 5 s.
pub(crate) const COMES_UP_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take to end after an uninstall: init waits 3 s or 5 s before it kills.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// After so long, init is asked again what it may have missed.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long an agent may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// An agent that answers.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct AnsweringAgent {
    pub(crate) pid: u32,
    /// How many it has.
    pub(crate) services: usize,
}

/// Waits for an agent that answers, and for one that waits for its lock.
///
/// # Errors
/// What is missing, and why as far as that is known.
pub(crate) fn await_agents(runtime_dir: &Path, plan: &Plan) -> Result<(AnsweringAgent, u32)> {
    let mut found = Err(anyhow::anyhow!("no agent came up"));
    wait_until(COMES_UP_WITHIN, Some(plan), || {
        found = ask(runtime_dir)
            .context("no agent came up")
            .and_then(|agent| {
                let waiters = locks::waiters(agent.pid).unwrap_or_default();
                let spare = waiters.first().copied();
                Ok((
                    agent,
                    spare.context("no spare came up to wait for the agent's lock")?,
                ))
            });
        found.is_ok()
    });
    found
}

/// Waits for the end of all agents; returns one that still answers.
pub(crate) fn await_end(runtime_dir: &Path, plan: &Plan) -> Option<AnsweringAgent> {
    let mut agent = None;
    wait_until(ENDS_WITHIN, Some(plan), || {
        agent = ask(runtime_dir).ok();
        agent.is_none()
    });
    agent
}

/// Waits for a recorder with these pins that records; returns its pid.
///
/// # Errors
/// There is none.
pub(crate) fn await_recorder(pin_dir: &Path, plan: &Plan) -> Result<u32> {
    let mut recorder = None;
    wait_until(COMES_UP_WITHIN, Some(plan), || {
        recorder = find_recorder(pin_dir);
        recorder.is_some()
    });
    recorder.context("no recorder came up")
}

/// Waits for the end of a recorder with these pins; returns its pid if it does not end.
pub(crate) fn await_end_of_recorder(pin_dir: &Path, plan: &Plan) -> Option<u32> {
    let mut recorder = None;
    wait_until(ENDS_WITHIN, Some(plan), || {
        recorder = locks::holder_of_directory(pin_dir);
        recorder.is_none()
    });
    recorder
}

/// A recorder says that it has the pins when it has loaded its programs.
fn find_recorder(pin_dir: &Path) -> Option<u32> {
    let pid = locks::holder_of_directory(pin_dir)?;
    let began = Duration::from_nanos(proc::start_time_ns(pid).ok()?);
    let sets: Vec<PinSet> = sets::at(pin_dir).ok()?;
    let mut held = sets.iter().filter_map(|set| set.held.as_ref());
    held.any(|held| held.at >= began).then_some(pid)
}

/// Asks whether there is an agent.
fn ask(runtime_dir: &Path) -> Result<AnsweringAgent> {
    let (mut stream, pid) = client::reach(runtime_dir)
        .with_context(|| control::socket(runtime_dir).display().to_string())?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    let services = Vec::new();
    stream.write_all(&Command::Status { services }.to_line())?;
    let mut line = Vec::new();
    BufReader::new(stream)
        .read_until(b'\n', &mut line)
        .context("the agent does not answer")?;
    match Response::from_line(&line) {
        Ok(Response::Status { services }) => Ok(AnsweringAgent {
            pid,
            services: services.len(),
        }),
        other => bail!("the agent's answer makes no sense: {other:?}"),
    }
}

/// Looks again and again until it is so, or the time is over. With a plan, init is asked again now and
/// then.
#[expect(
    clippy::disallowed_methods,
    reason = "the command line may read a clock: here for its own patience"
)]
pub(crate) fn wait_until(within: Duration, plan: Option<&Plan>, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    let mut ask_at = Instant::now() + ASK_AGAIN;
    loop {
        if is_so() {
            return;
        }
        let now = Instant::now();
        if now >= deadline {
            return;
        }
        if let Some(plan) = plan.filter(|_| now >= ask_at) {
            plan.ask_again();
            ask_at = now + ASK_AGAIN;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

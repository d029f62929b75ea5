//! Looks from outside whether a service works, or runs a command around its run: what `respawn probe` does,
//! a process of the agent's with the service's user and environment, so that neither a look that hangs nor
//! what answers it can do the agent any harm.
//!
//! ```text
//! standard input: the order, one JSON object ─▶ look ─▶ look ─▶ … ─▶ exit status 0: it is ready
//!                 └ what was met last, in its place                                 1: it does not work
//!                                            ─▶ command ───────────▶ exit status 0: success, 1: failure
//!                                            ─▶ conditions ────────▶ exit status 0: all hold, 3: not all
//!                                            ─▶ launch ────────────▶ exit status 0: the main process, by
//!                                                                    its pid, is in the order's place
//!                                            ─▶ read files ────────▶ exit status 0: what they say is in the
//!                                                                    order's place, as JSON; 1: failure
//! ```
//!
//! It ends with the agent, who finds out and starts another one, if it lives.

mod launch;
mod look;
mod step;

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::clock;
use crate::config;
use crate::model::{Check, Condition, EnvironmentFile, Identity, Probe, Step};

pub(crate) use launch::Launch;

/// How long one look for readiness may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks for readiness: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a process is to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Until that succeeds once.
    Ready(Probe),
    /// Until it fails too often.
    Check(Check),
    /// Once, in so long if it names no other time.
    Run(Step, Duration),
    /// All of them, each in so long if it names no other time.
    Conditions(Vec<Condition>, Duration),
    /// Once: the main process is to outlive this one.
    Launch(Launch),
    /// Once: the environment files of a service of that user, which may be where nobody answers.
    Files(Vec<EnvironmentFile>, Option<Identity>),
}

/// The order, and whose it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub(crate) order: Order,
    /// The agent's pid.
    pub(crate) agent: u32,
}

/// Does what standard input says.
///
/// # Errors
/// It is no order, or the agent has gone.
pub(crate) fn run() -> Result<ExitCode> {
    let mut sheet = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut text = String::new();
    sheet.read_to_string(&mut text)?;
    let letter: Letter = serde_json::from_str(&text).context("standard input is no order")?;
    set_pdeathsig(Signal::SIGTERM)?;
    set_child_subreaper(true)?;
    if nix::unistd::getppid().as_raw().cast_unsigned() != letter.agent {
        bail!("the agent has gone");
    }
    if let Order::Files(files, identity) = &letter.order {
        // Before anything handles SIGTERM: what waits for a file system can then be ended by it.
        return read_files(files, identity.as_ref(), &sheet);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let look = async {
            match &letter.order {
                Order::Ready(probe) => until_ready(probe, &sheet).await,
                Order::Check(check) => {
                    write(&sheet, &until_broken(check).await).map(|()| ExitCode::FAILURE)
                }
                Order::Run(step, timeout) => match step::failure(step, *timeout).await {
                    None => Ok(ExitCode::SUCCESS),
                    Some(failure) => write(&sheet, &failure).map(|()| ExitCode::FAILURE),
                },
                Order::Conditions(conditions, timeout) => {
                    look_at_conditions(conditions, *timeout, &sheet).await
                }
                Order::Launch(launch) => match launch::run(launch).await {
                    Ok(pid) => write(&sheet, &pid.to_string()).map(|()| ExitCode::SUCCESS),
                    Err(error) => write(&sheet, &format!("{error:#}")).map(|()| ExitCode::FAILURE),
                },
                // Done above.
                Order::Files(..) => Ok(ExitCode::FAILURE),
            }
        };
        // What a command has started goes with the look.
        let exit_code = tokio::select! {
            exit_code = look => exit_code?,
            _ = terminate.recv() => ENDED.into(),
        };
        Ok(exit_code)
    })
}

/// The exit status of one that was asked to end.
const ENDED: u8 = 2;

/// The exit status where a condition does not hold.
pub(crate) const DOES_NOT_HOLD: u8 = 3;

/// Leaves on the sheet what each of the files says, or why that is not known.
fn read_files(
    files: &[EnvironmentFile],
    identity: Option<&Identity>,
    sheet: &File,
) -> Result<ExitCode> {
    let (words, code) = match config::read_environment_files(files, identity) {
        Ok(variables) => (serde_json::to_string(&variables)?, ExitCode::SUCCESS),
        Err(why) => (why, ExitCode::FAILURE),
    };
    write(sheet, &words)?;
    Ok(code)
}

/// Leaves the first one on the sheet that does not hold.
async fn look_at_conditions(
    conditions: &[Condition],
    timeout: Duration,
    sheet: &File,
) -> io::Result<ExitCode> {
    for condition in conditions {
        let (words, code) = match step::holds(condition, timeout).await {
            Ok(true) => continue,
            Ok(false) => (format!("{condition} does not hold"), DOES_NOT_HOLD),
            Err(error) => (format!("{condition}: {error:#}"), 1),
        };
        return write(sheet, &words).map(|()| code.into());
    }
    Ok(ExitCode::SUCCESS)
}

/// What the agent reads, in place of what was there.
fn write(sheet: &File, words: &str) -> io::Result<()> {
    sheet.set_len(0)?;
    // The agent reads the same open file.
    sheet.write_all_at(words.as_bytes(), 0)
}

/// Leaves what was met last on the sheet.
async fn until_ready(probe: &Probe, sheet: &File) -> io::Result<ExitCode> {
    let mut pause = FIRST_PAUSE;
    while let Err(error) = look::at(probe, PATIENCE).await {
        write(sheet, &format!("{}: {error:#}", look::name(probe)))?;
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns why, in words.
async fn until_broken(check: &Check) -> String {
    // Services that fail together, for what all of them need, are not restarted together.
    sleep(part_of(check.interval)).await;
    let mut ticks = interval(check.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        ticks.tick().await;
        let begun = clock::awake();
        let looked = look::at(&check.probe, check.timeout).await;
        if is_let_go(check, looked.is_ok(), clock::awake().saturating_sub(begun)) {
            sleep(part_of(check.interval)).await;
        }
        match looked {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                if failures >= check.failures {
                    let times = match failures {
                        1 => String::new(),
                        _ => format!(" ({failures} times in a row)"),
                    };
                    return format!("check: {}: {error:#}{times}", look::name(&check.probe));
                }
            }
        }
    }
}

/// Whether others may have come to the end of a look at the same moment: it was kept waiting, and not by its own
/// `timeout` alone. The looks of services are at moments of their own, but what answers to none of them for
/// a while may let go of all at once.
fn is_let_go(check: &Check, works: bool, waited: Duration) -> bool {
    let long = match works {
        // From now on the looks would be together.
        true => check.interval,
        false => check.interval / 10,
    };
    (long..check.timeout).contains(&waited)
}

/// Some random part of it.
fn part_of(whole: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    whole.mul_f64(f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX))
}

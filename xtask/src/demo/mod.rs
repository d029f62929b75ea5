//! `cargo xtask demo`: what respawn does, on this host and in a few seconds.
//!
//! It ends what it started and nothing else, whichever way it ends itself: processes by their
//! handles or by the parent-death signal that each has set before it began; what the agent starts,
//! and its files, by the `stage`.

mod facts;
mod process;
mod services;
mod stage;
mod watch;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Result, bail};

use self::facts::Facts;
pub(crate) use self::{
    process::{TetheredArgs, tethered, tethered_command},
    stage::{Place, init},
};
use crate::{
    Verdict,
    workspace::{Profile, Workspace},
};

/// Show what respawn does: watch exits live, kill services, kill the agent with one of them
///
/// Watches this host's exits for three seconds. Then starts an agent of its own with three example
/// services, kills one of them every second, and after ten seconds one together with the agent,
/// again and again until Ctrl-C. With `--for` the kill of the agent comes once, at the end. Leaves
/// no process, file, mount or pin behind.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to kill services: `10s`, `500ms`, `1m`. By default until Ctrl-C, or for 10s where
    /// standard output is no terminal. It fails if no service has come back by its end
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    length: Option<Duration>,
}

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    GoOn,
    /// Someone has seen enough.
    End,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let respawn = workspace.build_respawn(Profile::Release, None)?;
    let facts = Facts::listen()?;
    // Where no terminal is, nobody presses Ctrl-C.
    let length = args
        .length
        .or_else(|| (!std::io::stdout().is_terminal()).then_some(services::TURN));
    let mut returns = 0;
    if watch::show(&respawn, &facts)? == Flow::GoOn {
        returns = services::show(&respawn, &facts, length)?;
    }
    // Who says for how long wants to have seen it, whoever has ended it sooner.
    if length.is_some() && returns == 0 {
        bail!("the demo has ended before a service was killed and came back");
    }
    Ok(Verdict::Pass)
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
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err("expected at most a day".to_string()),
        Err(error) => Err(error.to_string()),
    }
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
        for wrong in [
            "",
            "s",
            "1h",
            "-1s",
            "1..2s",
            "1441m",
            "99999999999999999999999999s",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}

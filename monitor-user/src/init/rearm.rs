//! Keeps sysvinit from putting the agents aside: asks it to look again before it does, and when
//! it has.
//!
//! sysvinit starts a line nine more times within 120 s, and then not for 300 s. SIGHUP to PID 1
//! counts afresh, for lines put aside and for others (measured with 3.06: 21 kills with a SIGHUP
//! after every seventh). So the agent at work asks
//! - after every [`STARTS`] deaths of agents, its own predecessor's and its spares', before the
//!   limit is near: two lines share those, so that it holds even if one has them all;
//! - when nobody waits on its lock for [`GRACE`], and then ever more rarely: a spare that does not
//!   come after that is not kept away by the limit.
//!
//! Other inits have no limit, or the entry turns it off: nothing is done under them. Nothing is
//! polled: the spare's end is seen by its pidfd. Where inittab has one of the two
//! lines alone, no spare is missed.
//!
//! ```text
//!            took up work
//!                 │                 spare waits
//!                 ▼      ┌───────────────────────────────┐
//!          Missing since t ◀──────── spare ended ─── Waiting
//!              │    ▲
//!              └────┘ nobody after GRACE: ask; after 2, 4 … 300 s: ask again
//! ```

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::detect::{self, Facts};
use super::inittab::{Block, Dialect};
use super::{Init, Program, Root, entry, locks, sysvinit};
use crate::os::{self, pidfd};

/// Deaths of agents between two requests. Each is one start of one line, or one of both lines if
/// both agents die at once: twice four, and those that nobody lived to count, stay below ten.
const STARTS: u32 = 4;

/// How long a spare may be missing: init needs milliseconds to start one.
const GRACE: Duration = Duration::from_secs(1);

/// sysvinit itself tries again after that.
const LONGEST: Duration = Duration::from_secs(300);

/// What is to be done now, and when to look for the spare again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Ask init to read its entries again.
    pub(crate) ask: bool,
    /// `None`: not before the spare ends.
    pub(crate) look_at: Option<Instant>,
}

/// Decides when to ask; does nothing.
#[derive(Debug)]
pub(crate) struct Rearm {
    /// Starts of agents since init was last asked.
    starts: u32,
    /// How long to wait after the next request that brings no spare.
    patience: Duration,
}

impl Rearm {
    /// An agent has taken up work; `starts` is what its predecessors have counted.
    pub(crate) fn took_up(starts: u32, now: Instant) -> (Self, Step) {
        let mut rearm = Self {
            starts,
            patience: GRACE,
        };
        let step = rearm.agent_ended(now);
        (rearm, step)
    }

    /// To be known by the next agent.
    pub(crate) fn starts(&self) -> u32 {
        self.starts
    }

    /// An agent has ended: the one before this, or a spare.
    pub(crate) fn agent_ended(&mut self, now: Instant) -> Step {
        self.starts = self.starts.saturating_add(1);
        let ask = self.starts >= STARTS;
        if ask {
            self.starts = 0;
        }
        Step {
            ask,
            look_at: Some(now + GRACE),
        }
    }

    /// Whether somebody waits on the lock was looked at, when that was due.
    pub(crate) fn looked(&mut self, spare: bool, now: Instant) -> Step {
        if spare {
            self.patience = GRACE;
            return Step {
                ask: false,
                look_at: None,
            };
        }
        self.starts = 0;
        self.patience = (self.patience * 2).min(LONGEST);
        Step {
            ask: true,
            look_at: Some(now + self.patience),
        }
    }
}

/// The agent's side of it: looks, asks, and tells the next agent.
pub(crate) struct SpareKeeper {
    rearm: Rearm,
    /// Whether init keeps one.
    has_spare: bool,
    look_at: Option<Instant>,
    spare: Option<AsyncFd<OwnedFd>>,
    /// Where the count is kept.
    count: PathBuf,
}

impl SpareKeeper {
    /// Begins with the work of an agent that holds the lock. `None` where nothing needs to be done:
    /// PID 1 is not sysvinit, or keeps no agent with this runtime directory.
    pub(crate) fn new(runtime_dir: &Path, now: Instant) -> Option<Self> {
        let root = Root::of_this_host();
        let init = detect::decide(&Facts::of(&root)).ok()?.init;
        let entered = match init {
            Init::Sysvinit => entered(&root, runtime_dir),
            _ => 0,
        };
        if entered == 0 {
            return None;
        }
        let count = runtime_dir.join("starts-under-init");
        // What cannot be read is taken for too many: one request more does no harm.
        let starts = match fs::read_to_string(&count) {
            Ok(text) => text.trim().parse().unwrap_or(STARTS),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(_) => STARTS,
        };
        let (rearm, step) = Rearm::took_up(starts, now);
        let mut keeper = Self {
            rearm,
            has_spare: entered > 1,
            look_at: None,
            spare: None,
            count,
        };
        keeper.perform(step);
        Some(keeper)
    }

    /// Waits for the next thing to do and does it. Cancellation loses nothing.
    pub(crate) async fn work(&mut self, now: impl Fn() -> Instant) {
        let deadline = self.look_at;
        let timer = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match &self.spare {
                Some(pidfd) => drop(pidfd.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => {
                self.spare = find_spare();
                let step = self.rearm.looked(self.spare.is_some(), now());
                self.perform(step);
            }
            () = ended => {
                self.spare = None;
                let step = self.rearm.agent_ended(now());
                self.perform(step);
            }
        }
    }

    fn perform(&mut self, step: Step) {
        self.look_at = step.look_at.filter(|_| self.has_spare);
        // Before it is asked: who dies between leaves a count that is too high at worst.
        if let Err(error) = fs::write(&self.count, self.rearm.starts().to_string()) {
            tracing::warn!("{}: {error}", self.count.display());
        }
        if step.ask {
            tracing::info!("asking init to look at its inittab again");
            if let Err(errno) = kill(Pid::from_raw(1), Signal::SIGHUP) {
                tracing::warn!("cannot send SIGHUP to PID 1: {errno}");
            }
        }
    }
}

/// How many of our lines inittab has, with this runtime directory.
fn entered(root: &Root, runtime_dir: &Path) -> usize {
    let Ok(Some(text)) = root.read(sysvinit::INITTAB) else {
        return 0;
    };
    let commands = match Block::find(&text, Program::Agent) {
        Ok(block) if block.dialect() == Some(Dialect::Sysvinit) => block.commands(),
        _ => return 0,
    };
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let ours = canonical(runtime_dir);
    commands
        .iter()
        .filter(|command| canonical(Path::new(entry::runtime_dir_of(command))) == ours)
        .count()
}

/// Somebody who waits for the lock that this process holds.
fn find_spare() -> Option<AsyncFd<OwnedFd>> {
    let own = std::process::id();
    let waiters = locks::waiters(own)
        .map_err(|error| tracing::warn!("/proc/locks: {error}"))
        .ok()?;
    waiters.into_iter().find_map(|pid| {
        let pidfd = pidfd::open(pid).ok()?;
        // Still the same process if it still waits.
        let still = locks::waiters(own).is_ok_and(|waiters| waiters.contains(&pid));
        let watched = os::async_fd(pidfd, Interest::READABLE).ok()?;
        still.then_some(watched)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "some moment to count from")]
        Instant::now()
    }

    fn ask_and_look(now: Instant, after: Duration) -> Step {
        Step {
            ask: true,
            look_at: Some(now + after),
        }
    }

    #[test]
    fn asks_before_init_has_started_a_line_ten_times() {
        let now = start();
        // (agents that take over one from the other, the spare killed n times under each)
        for spares in 0..12 {
            let (mut starts, mut since_asked) = (0, 0);
            for _ in 0..50 {
                let (mut rearm, step) = Rearm::took_up(starts, now);
                since_asked += 1;
                let mut steps = vec![step];
                for _ in 0..spares {
                    rearm.looked(true, now);
                    steps.push(rearm.agent_ended(now));
                }
                for (index, step) in steps.iter().enumerate() {
                    since_asked += u32::from(index > 0);
                    if step.ask {
                        since_asked = 0;
                    }
                    assert!(since_asked < STARTS);
                }
                starts = rearm.starts();
            }
        }
    }

    #[test]
    fn both_at_once_stay_below_the_limit() {
        // Each death of both is one start of each line and one that is counted.
        const { assert!(STARTS * 2 < 10) };
    }

    #[test]
    fn asks_ever_more_rarely_for_a_spare_that_does_not_come() {
        let now = start();
        let (mut rearm, step) = Rearm::took_up(0, now);
        assert_eq!((step.ask, step.look_at), (false, Some(now + GRACE)));
        for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let step = rearm.looked(false, now);
            assert_eq!(step, ask_and_look(now, Duration::from_secs(seconds)));
        }
        let step = rearm.looked(true, now);
        assert_eq!((step.ask, step.look_at), (false, None));
        // The next one that is missing is asked for soon.
        let step = rearm.agent_ended(now);
        assert_eq!((step.ask, step.look_at), (false, Some(now + GRACE)));
        assert_eq!(rearm.looked(false, now), ask_and_look(now, GRACE * 2));
    }

    #[test]
    fn a_spare_that_waits_needs_no_look() {
        let now = start();
        let (mut rearm, _) = Rearm::took_up(0, now);
        assert_eq!(rearm.looked(true, now).look_at, None);
        assert_eq!(rearm.starts(), 1);
    }

    #[test]
    fn knows_how_many_of_this_agent_inittab_keeps() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        let block = |options: &str| {
            format!(
                "id:2:initdefault:\n\
                 # respawn: begin (written by respawn install)\n\
                 rs1:2345:respawn:/usr/sbin/respawn agent{options}\n\
                 # respawn: end (written by respawn install)\n"
            )
        };
        let entered = |text: &str, runtime_dir: &str| {
            fs::write(dir.path().join("etc/inittab"), text).unwrap();
            super::entered(&root, Path::new(runtime_dir))
        };
        assert_eq!(entered(&block(""), "/run/respawn"), 1);
        assert_eq!(entered(&block(""), "/run/other"), 0);
        assert_eq!(
            entered(&block(" --runtime-dir /run/other"), "/run/other"),
            1
        );
        assert_eq!(entered("id:2:initdefault:\n", "/run/respawn"), 0);
        let both = block("").replace("rs1:", "rs2:2345:respawn:/usr/sbin/respawn agent\nrs1:");
        assert_eq!(entered(&both, "/run/respawn"), 2);
    }
}

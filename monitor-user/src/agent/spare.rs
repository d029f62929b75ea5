//! What a spare does beside waiting for the lock: it ends an agent that is stopped or stuck while
//! something is due. Then the lock is free, and the spare takes over as after any other death.
//!
//! ```text
//!            ┌──────────────── something else works, or nothing is due any more ───┐
//!            ▼                                                                      │
//!  asleep, until something is due ─▶ look every 250 ms ─▶ no progress for 1.5 s ─▶ SIGKILL, wait
//!                                                         (1 s, if it is stopped)
//!            ▲                            │
//!            └──── nothing is due ────────┘
//! ```
//!
//! - It sleeps on the agent's own descriptor ([`due`](super::due)), taken by `pidfd_getfd`: nothing
//!   wakes it while nothing is due, and no other thread or process need work for that.
//! - It counts looks, and reads no clock: where both are frozen, or the host is suspended, none
//!   passes. One during which the agent waited for a CPU does not count.
//! - It holds the sockets of services too, taken from the agent in the same way: it sees in the files
//!   of [`records`] that there are others, so that a stopped agent need do nothing for
//!   a spare that comes later.
//! - Who is stopped is not slow at anything, and is waited for as long as a debugger's quick look may take.
//! - An agent that starts always has something due: what its predecessor left.
//! - After three agents that were stuck within a minute of each other, patience doubles each time:
//!   what sticks may be a host on which everything is slow. Who is stopped was stopped by somebody.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::pool::Pool;
use super::{lock, records};
use crate::clock;
use crate::manager::Manager;
use crate::model::{Instance, Signal};
use crate::os::progress::{self, Sign, Takeovers};
use crate::os::{self, pidfd, proc, signal};

/// Between two looks at an agent for which something is due.
const LOOK: u16 = 250;

/// For how many looks an agent may be stopped while something is due: whatever the load of the host, which
/// stretches each of them, its services are to be back within three seconds.
const PATIENCE_WITH_STOPPED: u64 = 4;

/// How much of that it may have waited for a CPU, if the look is to count.
const STARVED: Duration = Duration::from_millis(100);

/// How many looks in a row are not counted for that.
const MOST_STARVED: u32 = 40;

/// Between two looks for an agent that can be watched, at most.
const LONGEST_PAUSE: u16 = 60_000;

/// Stuck agents so close to each other make the next spare more patient.
const CLOSE: Duration = Duration::from_secs(60);

/// How many of them do not.
const FREE: u64 = 3;

/// How often patience doubles: to six minutes.
const MOST_DOUBLINGS: u64 = 8;

/// How long an agent may take to die.
const DYING: u16 = 5_000;

/// Does what blocks until the lock is free, and watches who has it meanwhile.
pub(super) fn beside<T>(
    runtime_dir: &Path,
    manager: &Manager,
    pool: &mut Pool,
    wait: impl FnOnce() -> T,
) -> T {
    let end = match EventFd::from_flags(EfdFlags::EFD_CLOEXEC) {
        Ok(end) => end,
        Err(error) => {
            blind(&error.into());
            return wait();
        }
    };
    let changes = changes();
    let result = thread::scope(|scope| {
        let spare = Spare {
            runtime_dir,
            end: &end,
            manager,
            pool: RefCell::new(pool),
            changes: changes.as_ref(),
        };
        let watch = move || spare.watch();
        if let Err(error) = thread::Builder::new().spawn_scoped(scope, watch) {
            blind(&error);
        }
        let result = wait();
        // It cannot overflow.
        let _ = end.write(1);
        result
    });
    close_apart(changes);
    result
}

/// In a thread of its own: the kernel makes who closes an inotify instance wait until nobody looks at its watches any
/// more, which takes tens of milliseconds (`fsnotify_destroy_group`, fs/notify/group.c). The services cannot.
fn close_apart(changes: Option<Inotify>) {
    // Without a thread, the closure is dropped here.
    let _ = thread::Builder::new().spawn(move || drop(changes));
}

fn blind(error: &io::Error) {
    tracing::warn!("the spare sees an agent's death, but not that it is stopped or stuck: {error}");
}

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// The lock is this process's now.
    End,
    /// The agent has ended.
    Ended,
    Due,
    /// The time is over.
    Time,
}

struct Spare<'a> {
    runtime_dir: &'a Path,
    end: &'a EventFd,
    manager: &'a Manager,
    /// The sockets of services.
    pool: RefCell<&'a mut Pool>,
    /// Tells when there are others; `None`: it cannot.
    changes: Option<&'a Inotify>,
}

/// The agent that is watched.
struct Watched {
    agent: Instance,
    pidfd: OwnedFd,
    /// Where it shows its progress; `None` while it does not.
    file: Option<File>,
    /// `None` while it starts.
    due: Option<OwnedFd>,
}

impl Spare<'_> {
    /// Watches one agent after the other, until the lock is free for this process.
    fn watch(&self) {
        let mut pause = LOOK;
        loop {
            let woken = match self.find() {
                Some(watched) => {
                    pause = LOOK;
                    self.watch_one(&watched)
                }
                // One takes up work, or cannot be watched.
                None => {
                    let woken = self.wait(None, None, Some(pause));
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                    woken
                }
            };
            if woken == Woken::End {
                return;
            }
        }
    }

    /// Who holds the lock, if it lives.
    fn find(&self) -> Option<Watched> {
        let Some((Sign { agent, due, .. }, file)) = self.shown() else {
            return self.find_in_lock();
        };
        let Some(pidfd) = living(agent) else {
            return self.find_in_lock();
        };
        let due = match due.map(|number| pidfd::descriptor_of(pidfd.as_fd(), number)) {
            None => None,
            Some(Ok(due)) => Some(due),
            Some(Err(error)) => {
                // Before it says it: it may just have ended.
                if !pidfd::has_exited(pidfd.as_fd()).unwrap_or(true) {
                    blind(&error);
                    self.wait(None, Some(pidfd.as_fd()), None);
                }
                return None;
            }
        };
        Some(Watched {
            agent,
            pidfd,
            file: Some(file),
            due,
        })
    }

    /// What an agent shows now, and where.
    fn shown(&self) -> Option<(Sign, File)> {
        let file = progress::open(self.runtime_dir).ok()?;
        Some((progress::read(&file)?, file))
    }

    /// One that has the lock, and does not show its progress yet.
    fn find_in_lock(&self) -> Option<Watched> {
        let agent = lock::holder_in(self.runtime_dir)?;
        Some(Watched {
            agent,
            pidfd: living(agent)?,
            file: None,
            due: None,
        })
    }

    /// What the agent shows, if it still does, or does not yet.
    fn sign(&self, watched: &Watched) -> Option<Sign> {
        let is_of_it = |sign: &Sign| sign.agent == watched.agent;
        match &watched.file {
            Some(file) => progress::read(file).filter(is_of_it),
            None => match self.shown() {
                Some((sign, _)) if is_of_it(&sign) => None,
                _ => Some(Sign::before_it_shows(watched.agent)),
            },
        }
    }

    /// Watches one agent to its end, or until it has started.
    fn watch_one(&self, watched: &Watched) -> Woken {
        self.hold_sockets(watched.pidfd.as_fd());
        let pidfd = Some(watched.pidfd.as_fd());
        loop {
            if let Some(due) = &watched.due {
                let woken = self.wait(Some(due.as_fd()), pidfd, None);
                if woken != Woken::Due {
                    return woken;
                }
            }
            match self.judge(watched) {
                // Nothing is due any more.
                Woken::Due => {}
                Woken::Time => return self.end(watched),
                woken => return woken,
            }
            if watched.due.is_none() {
                // It has started.
                return Woken::Due;
            }
        }
    }

    /// Looks until nothing is due any more (`Due`), or there was no progress for too long (`Time`).
    fn judge(&self, watched: &Watched) -> Woken {
        let factor = watched.file.as_ref().map_or(1, patience_with);
        let (mut still, mut starved, mut stopped) = (0, 0, 0);
        let (mut count, mut waited) = (None, waited_for_cpu(watched.agent.pid));
        loop {
            let Some(sign) = self.sign(watched) else {
                return Woken::Ended;
            };
            if watched.due.is_none() && sign.due.is_some() {
                return Woken::Due;
            }
            let now_waited = waited_for_cpu(watched.agent.pid);
            if count != Some(sign.count) {
                count = Some(sign.count);
                (still, starved) = (0, 0);
            } else if now_waited.saturating_sub(waited) > STARVED && starved < MOST_STARVED {
                starved += 1;
            } else {
                still += 1;
            }
            waited = now_waited;
            // Whatever a stopped agent was doing, it is not slow at that.
            let is_stopped = proc::stat(watched.agent.pid).is_ok_and(|it| is_stopped(it.state));
            stopped = if is_stopped { stopped + 1 } else { 0 };
            let patience = sign.patience.saturating_mul(factor.into());
            if still >= patience || still.min(stopped) >= PATIENCE_WITH_STOPPED {
                return Woken::Time;
            }
            match self.wait(None, Some(watched.pidfd.as_fd()), Some(LOOK)) {
                Woken::Time => {}
                woken => return woken,
            }
            if watched.due.as_ref().is_some_and(|due| !is_readable(due)) {
                return Woken::Due;
            }
        }
    }

    /// Holds what the agent holds for services, now and from now on.
    fn hold_sockets(&self, agent: BorrowedFd<'_>) {
        let Some(changes) = &self.changes else {
            return;
        };
        let mut pool = self.pool.borrow_mut();
        let watched = pool.dirs().and_then(|dirs| {
            // Somebody may have removed the last ones.
            let what = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
            for dir in dirs {
                changes.add_watch(dir, what)?;
            }
            Ok(())
        });
        if let Err(error) = watched {
            tracing::warn!(
                "the spare does not see which sockets and stored descriptors services have: {error}"
            );
        }
        pool.follow_all(agent);
    }

    /// The same of those that have changed.
    fn hold_changed(&self, changes: &Inotify, agent: Option<BorrowedFd<'_>>) {
        let events = changes.read_events().unwrap_or_default();
        let Some(agent) = agent else {
            return;
        };
        let mut pool = self.pool.borrow_mut();
        let mut names = BTreeSet::new();
        for event in events {
            match event.name {
                Some(name) => drop(names.insert(name)),
                // There were too many, or the directory is gone.
                None => return pool.follow_all(agent),
            }
        }
        for name in names.iter().filter_map(|name| name.to_str()) {
            if records::is_service(name) {
                pool.follow(agent, name);
            }
        }
    }

    /// Kills an agent that does not get on, and waits for its end.
    fn end(&self, watched: &Watched) -> Woken {
        let Instance { pid, .. } = watched.agent;
        let state = proc::stat(pid).map_or('?', |stat| stat.state);
        let pidfd = Some(watched.pidfd.as_fd());
        let what = in_words(state);
        if pid == 1 {
            tracing::error!(
                "the agent is PID 1 and {what} while something is due: it cannot be ended, so the spare does not start"
            );
            return self.wait(None, pidfd, None);
        }
        tracing::warn!(
            pid,
            "the agent {what} while something is due: the spare ends it"
        );
        if let Some(file) = &watched.file {
            note(file, state);
        }
        if let Err(error) = signal::send(watched.pidfd.as_fd(), Signal::KILL) {
            tracing::error!(pid, "cannot end the agent: {error}");
        }
        match self.wait(None, pidfd, Some(DYING)) {
            Woken::Time => {
                let state = proc::stat(pid).map_or('?', |stat| stat.state);
                tracing::error!(pid, %state, "the agent does not die, so the spare does not start");
                self.wait(None, pidfd, None)
            }
            woken => woken,
        }
    }

    /// Waits for the first of these; without a time for as long as it takes.
    fn wait(
        &self,
        due: Option<BorrowedFd<'_>>,
        pidfd: Option<BorrowedFd<'_>>,
        milliseconds: Option<u16>,
    ) -> Woken {
        let changes = self.changes.as_ref().map(AsFd::as_fd);
        let sources = [
            (Some(self.end.as_fd()), Some(Woken::End)),
            (pidfd, Some(Woken::Ended)),
            (due, Some(Woken::Due)),
            (changes, None),
        ];
        let sources: Vec<_> = sources
            .into_iter()
            .filter_map(|(fd, woken)| Some((PollFd::new(fd?, PollFlags::POLLIN), woken)))
            .collect();
        let (mut fds, woken): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
        // Its own service manager may want to hear of it; nobody else wakes it.
        let ping = self.manager.interval().map(|it| it.as_millis().max(1));
        let ping = ping.map(|ms| u16::try_from(ms).unwrap_or(u16::MAX));
        let time = milliseconds.into_iter().chain(ping).min();
        let timeout = time.map_or(PollTimeout::NONE, PollTimeout::from);
        loop {
            self.manager.ping();
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                Ok(0) if milliseconds.is_none() => {}
                Err(error) => {
                    // Without memory in the kernel, say: as if it had slept.
                    tracing::warn!("the spare cannot wait: {error}");
                    thread::sleep(Duration::from_millis(LOOK.into()));
                    return Woken::Time;
                }
                Ok(0) => return Woken::Time,
                Ok(_) => {
                    let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
                    let first = fds.iter().position(is_ready);
                    let first = first.and_then(|at| woken.get(at)).copied().flatten();
                    match (first, &self.changes) {
                        (None, Some(changes)) => self.hold_changed(changes, pidfd),
                        (first, _) => return first.unwrap_or(Woken::Time),
                    }
                }
            }
        }
    }
}

/// Waits for changes of a directory, which is named later.
fn changes() -> Option<Inotify> {
    let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
    Inotify::init(flags)
        .map_err(|error| {
            tracing::warn!("the spare does not hold the sockets of services: {error}");
        })
        .ok()
}

/// A living process, held.
fn living(agent: Instance) -> Option<OwnedFd> {
    let pidfd = pidfd::identify(agent.pid, agent.start_time_ns).ok()??;
    let has_exited = pidfd::has_exited(pidfd.as_fd()).unwrap_or(true);
    (!has_exited).then_some(pidfd)
}

/// By how much patience is stretched.
fn patience_with(file: &File) -> u32 {
    let takeovers = progress::takeovers(file);
    match is_close(takeovers, clock::awake()) {
        true => factor(takeovers.in_a_row),
        false => 1,
    }
}

/// Notes down the end of an agent that was in this state.
fn note(file: &File, state: char) {
    if is_stopped(state) {
        return;
    }
    let takeovers = after(progress::takeovers(file), clock::awake());
    if let Err(error) = progress::note_takeovers(file, takeovers) {
        tracing::warn!("cannot write to the file of progress: {error}");
    }
}

/// So many stuck agents in a row stretch the patience with the next one.
fn factor(in_a_row: u64) -> u32 {
    let doublings = (in_a_row + 1).saturating_sub(FREE).min(MOST_DOUBLINGS);
    u32::try_from(1_u64 << doublings).unwrap_or(u32::MAX)
}

/// Whether the last one was so little ago that the next one is one of its row.
fn is_close(Takeovers { in_a_row, last }: Takeovers, now: Duration) -> bool {
    let age = now.checked_sub(last);
    in_a_row > 0 && age.is_some_and(|age| age < CLOSE * factor(in_a_row))
}

/// One more.
fn after(last: Takeovers, now: Duration) -> Takeovers {
    let in_a_row = match is_close(last, now) {
        true => last.in_a_row + 1,
        false => 1,
    };
    Takeovers {
        in_a_row,
        last: now,
    }
}

fn is_readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    os::poll_now(&mut fds).is_ok_and(|count| count > 0)
}

fn is_stopped(state: char) -> bool {
    matches!(state, 'T' | 't')
}

fn in_words(state: char) -> String {
    match state {
        state if is_stopped(state) => "is stopped".to_owned(),
        state => format!("does not get on (state {state})"),
    }
}

/// For how long its main thread has been ready to run and had no CPU, as far as the kernel counts it.
fn waited_for_cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let waited = text.split_ascii_whitespace().nth(1);
    let waited = waited.and_then(|text| text.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_three_stuck_agents_patience_doubles_each_time() {
        let mut takeovers = Takeovers {
            in_a_row: 0,
            last: Duration::ZERO,
        };
        let mut now = Duration::from_secs(1000);
        let mut factors = Vec::new();
        for _ in 0..13 {
            let is_close = is_close(takeovers, now);
            let factor = if is_close {
                factor(takeovers.in_a_row)
            } else {
                1
            };
            factors.push(factor);
            // Each is stuck for as long as it is waited for.
            now += Duration::from_millis(1500) * factor;
            takeovers = after(takeovers, now);
        }
        assert_eq!(factors, [1, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
        // A quiet time ends the row, and so does another boot's clock.
        now += CLOSE * 256;
        assert!(!is_close(takeovers, now));
        assert_eq!(after(takeovers, now).in_a_row, 1);
        assert!(!is_close(takeovers, Duration::from_secs(1)));
    }
}

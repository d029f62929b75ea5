//! All that descends from a service's main process: killing it, and knowing when it is gone.
//! Does not decide when, nor whether what is left is to be stopped or left alone.
//!
//! The tree is the process group and the session that the main process leads, and its cgroup
//! where there is one. Without a cgroup, a descendant that makes a session of its own is out of
//! reach; with one, nothing is.
//!
//! # When the main process's pidfd is readable
//! [`Tree::release`] reaps it, which gives the wait status and frees the pid, and looks whether
//! anything is left. The cgroup tells at once. Of group and session the kernel tells at once whether
//! the number is still in use (`F_SETOWN` finds it or not, and does nothing else). In the common
//! case nothing is left, and that is known after a few system calls.
//!
//! Else [`Tree::clear`] sees to what is left. Without a cgroup it searches `/proc` for the members
//! of group and session, whose number stays taken as long as one of them lives. [`Leftover::Some`]
//! is one descriptor to wait for.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::cgroup::{Slot, is_removed, says_populated};
use super::pidfd::{self, Reaped};
use super::spawn::are_plenty;
use super::waiter::{Interest, Waiter};
use super::{proc, signal};
use crate::model::{Clear, Signal};

/// The most rounds of looking for members of a session that keeps forking.
const SEARCH_ROUNDS: u32 = 16;

/// A service's main process with all that it has started.
#[derive(Debug)]
pub(crate) struct Tree {
    session: Session,
    cgroup: Option<Cgroup>,
    /// Whether [`Tree::kill_all`] was called: the cgroup has to be made anew (see `spawn`).
    killed: Cell<bool>,
}

/// The session and process group of a main process, which have its pid as their number.
#[derive(Debug, Clone, Copy)]
struct Session {
    main: u32,
    start_time_ns: u64,
}

#[derive(Debug)]
struct Cgroup {
    slot: Slot,
    /// Its `cgroup.events`, so that a death is not held up by opening it; `None` where descriptors
    /// are scarce: a service then takes one, its pidfd.
    events: Option<File>,
}

/// What [`Tree::release`] came to.
#[derive(Debug)]
pub(crate) struct Released {
    /// The main process's end, unless it is another's child.
    pub(crate) main: Reaped,
    /// Whether anything of its tree still lives, or may.
    pub(crate) remains: bool,
    /// What kept it from being sure: something may be left that is not told of. For the log.
    pub(crate) problem: Option<io::Error>,
}

/// What still lives of a tree.
#[derive(Debug)]
pub(crate) enum Leftover {
    /// Nothing.
    None,
    /// Something: wait for it.
    Some(RemainingTree),
    /// Something, which is left alone.
    Alone,
}

impl Tree {
    /// The tree of an instance, started in `cgroup` if there is one.
    pub(crate) fn new(main: u32, start_time_ns: u64, cgroup: Option<Slot>) -> Self {
        let cgroup = cgroup.map(|slot| Cgroup {
            events: slot.open_events().ok().filter(|it| are_plenty(it.as_fd())),
            slot,
        });
        Self {
            session: Session {
                main,
                start_time_ns,
            },
            cgroup,
            killed: Cell::new(false),
        }
    }

    /// Its cgroup.
    pub(crate) fn cgroup(&self) -> Option<&Slot> {
        self.cgroup.as_ref().map(|cgroup| &cgroup.slot)
    }

    /// SIGKILL to all of it, the main process too. `main` is the main process's pidfd, not
    /// reaped yet (or reaped by its own parent, if it is not our child).
    ///
    /// # Errors
    /// The first, after all has been tried.
    pub(crate) fn kill_all(&self, main: BorrowedFd<'_>) -> io::Result<()> {
        self.killed.set(true);
        // First of all, before it can wonder at its children's deaths and end in another way.
        let killed = signal::send(main, Signal::KILL).map(drop);
        let group = signal::send_to_group(main, self.session.main, Signal::KILL).map(drop);
        let rest = match &self.cgroup {
            Some(cgroup) => cgroup.slot.kill(),
            None => {
                let now = proc::since_boot_ns();
                self.session.kill_members(now).map(drop)
            }
        };
        killed.and(group).and(rest)
    }

    /// The stop signal to all of it, the main process too; `main` as for [`Tree::kill_all`]. Who is
    /// stopped goes on, and sees it.
    ///
    /// # Errors
    /// The first, after all has been tried.
    pub(crate) fn stop_all(&self, main: BorrowedFd<'_>, stop: Signal) -> io::Result<()> {
        if let Some(cgroup) = &self.cgroup {
            let sent = stop_main(main, stop);
            return sent.and(cgroup.slot.stop(stop, Some(self.session.main)));
        }
        let mut sent = Ok(());
        for signal in stop_signals(stop) {
            let group = signal::send_to_group(main, self.session.main, signal);
            sent = sent.and(group.map(drop));
        }
        let others = self.session.members(proc::since_boot_ns(), |stat| {
            stat.group != self.session.main
        });
        sent.and(others.and_then(|others| stop_each(&others, stop)))
    }

    /// Reaps the main process and tells whether anything is left. Call it when the main process's
    /// pidfd is readable; before that it reaps nothing.
    ///
    /// It does not fail: the main process has ended, and that has to be told in any case.
    pub(crate) fn release(&self, main: BorrowedFd<'_>) -> Released {
        let populated = self.cgroup.as_ref().map(Cgroup::is_populated);
        let reaped = pidfd::reap(main);
        let remains = match (&self.cgroup, populated) {
            (_, Some(Err(error))) => Err(error),
            (Some(cgroup), Some(Ok(false))) => {
                if self.killed.get() {
                    let _ = cgroup.slot.reset();
                }
                Ok(false)
            }
            (Some(_), Some(Ok(true))) => Ok(true),
            (_, None) | (None, _) => Ok(number_in_use(main, self.session.main)),
        };
        let (main, unreaped) = apart(reaped, Reaped::NotOurChild);
        let (remains, unsure) = apart(remains, true);
        Released {
            main,
            remains,
            problem: unreaped.or(unsure),
        }
    }

    /// Sees to what is left of an instance whose main process is gone and reaped.
    ///
    /// # Errors
    /// The kernel's: the cgroup cannot be read, no descriptor is left.
    pub(crate) fn clear(&self, how: Clear) -> io::Result<Leftover> {
        let Some(cgroup) = &self.cgroup else {
            return match how {
                Clear::Leave => Ok(Leftover::Alone),
                _ => RemainingTree::of_session(self.session, how),
            };
        };
        if !cgroup.is_populated()? {
            return Ok(Leftover::None);
        }
        match how {
            Clear::Stop(signal) => cgroup.slot.stop(signal, None)?,
            Clear::Await => {}
            Clear::Kill => cgroup.slot.kill()?,
            Clear::Leave => {
                cgroup.slot.set_aside()?;
                return Ok(Leftover::Alone);
            }
        }
        RemainingTree::of_cgroup(&cgroup.slot, how == Clear::Kill)
    }
}

impl Cgroup {
    fn is_populated(&self) -> io::Result<bool> {
        match &self.events {
            Some(events) => read_populated(events),
            None => self.slot.is_populated(),
        }
    }
}

/// The stop signal, and what has a stopped process see it.
pub(super) fn stop_signals(stop: Signal) -> impl Iterator<Item = Signal> {
    let stays_stopped = [Signal::KILL, Signal::CONT, Signal::STOP].contains(&stop);
    [stop]
        .into_iter()
        .chain((!stays_stopped).then_some(Signal::CONT))
}

/// Sends the stop signal to one process.
///
/// # Errors
/// The kernel's: it is another user's, and the agent is not root.
pub(crate) fn stop_main(main: BorrowedFd<'_>, stop: Signal) -> io::Result<()> {
    stop_signals(stop).try_for_each(|signal| signal::send(main, signal).map(drop))
}

/// The first error, after all has been tried.
fn stop_each(members: &[OwnedFd], stop: Signal) -> io::Result<()> {
    let sent = members.iter().map(|pidfd| stop_main(pidfd.as_fd(), stop));
    sent.fold(Ok(()), io::Result::and)
}

fn apart<T>(result: io::Result<T>, otherwise: T) -> (T, Option<io::Error>) {
    match result {
        Ok(value) => (value, None),
        Err(error) => (otherwise, Some(error)),
    }
}

impl Session {
    /// Kills the members of session and group that started up to then, the main process left
    /// out, and returns their pidfds.
    fn kill_members(self, until_ns: u64) -> io::Result<Vec<OwnedFd>> {
        let mut killed = Vec::new();
        for pidfd in self.members(until_ns, |_| true)? {
            if signal::send(pidfd.as_fd(), Signal::KILL)? {
                killed.push(pidfd);
            }
        }
        Ok(killed)
    }

    /// The living members of session and group that started up to then, the main process left out.
    fn members(
        self,
        until_ns: u64,
        is_meant: impl Fn(&proc::Stat) -> bool,
    ) -> io::Result<Vec<OwnedFd>> {
        let mut found = Vec::new();
        match proc::start_time_ns(self.main) {
            // The number is someone else's by now, so nobody of ours holds it.
            Ok(start_time_ns) if start_time_ns != self.start_time_ns => return Ok(found),
            _ => {}
        }
        for pid in proc::pids()? {
            if pid == self.main {
                continue;
            }
            let Ok(stat) = proc::stat(pid) else {
                continue;
            };
            let member = stat.session == self.main || stat.group == self.main;
            let of_its_time = (self.start_time_ns..=until_ns).contains(&stat.start_time_ns);
            if !member || !of_its_time || stat.is_zombie() || !is_meant(&stat) {
                continue;
            }
            found.extend(pidfd::identify(pid, stat.start_time_ns)?);
        }
        Ok(found)
    }
}

/// These processes, and those of the sessions and groups that have their numbers.
pub(crate) fn members_of_sessions(mains: &BTreeSet<u32>) -> io::Result<BTreeSet<u32>> {
    let mut members = mains.clone();
    if mains.is_empty() {
        return Ok(members);
    }
    for pid in proc::pids()? {
        let is_member =
            |stat: proc::Stat| mains.contains(&stat.session) || mains.contains(&stat.group);
        if proc::stat(pid).is_ok_and(is_member) {
            members.insert(pid);
        }
    }
    Ok(members)
}

/// Whether any process, group or session has this number.
///
/// F_SETOWN refuses a number that the kernel does not know in any of these roles. The owner that
/// it sets gets signals only of files opened with O_ASYNC, and is cleared again.
/// `f_setown` in <https://github.com/torvalds/linux/blob/v5.10/fs/fcntl.c>
fn number_in_use(any: BorrowedFd<'_>, number: u32) -> bool {
    let set_owner = |number: libc::pid_t| {
        // SAFETY: touches no memory.
        unsafe { libc::fcntl(any.as_raw_fd(), libc::F_SETOWN, number) }
    };
    let Ok(number) = libc::pid_t::try_from(number) else {
        return false;
    };
    let found = set_owner(number) == 0;
    if found {
        set_owner(0);
        return true;
    }
    // Any other answer than "no such" leaves it open.
    io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// What is left of a tree and not gone yet. Its descriptor is readable when something has changed:
/// then ask [`RemainingTree::is_gone`].
#[derive(Debug)]
pub(crate) struct RemainingTree {
    waiter: Waiter,
    kind: TreeKind,
    /// Whether it was killed; else it may live on for a while.
    killed: bool,
}

#[derive(Debug)]
enum TreeKind {
    Cgroup {
        slot: Slot,
        events: File,
    },
    Session {
        session: Session,
        /// When the last of the known members was killed, or found to live. Whatever it had forked
        /// started before that, and what starts later with this number has got it anew.
        until_ns: u64,
        members: Vec<OwnedFd>,
    },
}

impl RemainingTree {
    fn of_cgroup(slot: &Slot, killed: bool) -> io::Result<Leftover> {
        let events = match slot.open_events() {
            Ok(events) => events,
            Err(error) if is_removed(&error) => return Ok(Leftover::None),
            Err(error) => return Err(error),
        };
        let waiter = Waiter::new()?;
        waiter.add(&events, Interest::Priority, 0)?;
        let slot = slot.clone();
        Self {
            waiter,
            kind: TreeKind::Cgroup { slot, events },
            killed,
        }
        .settle()
    }

    fn of_session(session: Session, how: Clear) -> io::Result<Leftover> {
        let waiter = Waiter::new()?;
        let until_ns = proc::since_boot_ns();
        let mut members = Vec::new();
        if let Clear::Stop(signal) = how {
            members = session.members(until_ns, |_| true)?;
            for pidfd in &members {
                waiter.add(pidfd, Interest::Readable, 0)?;
            }
            stop_each(&members, signal)?;
        }
        Self {
            waiter,
            kind: TreeKind::Session {
                session,
                until_ns,
                members,
            },
            killed: how == Clear::Kill,
        }
        .settle()
    }

    /// SIGKILL to all that is left.
    ///
    /// # Errors
    /// The kernel's: `/proc` or the cgroup cannot be read, no descriptor is left.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.killed = true;
        match &mut self.kind {
            TreeKind::Cgroup { slot, .. } => slot.kill(),
            TreeKind::Session {
                session,
                until_ns,
                members,
            } => {
                for pidfd in members.iter() {
                    signal::send(pidfd.as_fd(), Signal::KILL)?;
                }
                *until_ns = proc::since_boot_ns();
                for pidfd in session.kill_members(*until_ns)? {
                    self.waiter.add(&pidfd, Interest::Readable, 0)?;
                    members.push(pidfd);
                }
                Ok(())
            }
        }
    }

    fn settle(mut self) -> io::Result<Leftover> {
        Ok(if self.is_gone()? {
            Leftover::None
        } else {
            Leftover::Some(self)
        })
    }

    /// Whether nothing is left. Of what was killed, what has come to life meanwhile is killed too.
    ///
    /// # Errors
    /// The kernel's: `/proc` or the cgroup cannot be read, no descriptor is left.
    pub(crate) fn is_gone(&mut self) -> io::Result<bool> {
        self.waiter.drain(&mut Vec::new())?;
        match &mut self.kind {
            TreeKind::Cgroup { slot, events } => {
                let populated = read_populated(events)?;
                if !populated {
                    // Not now on the way to a start, but for the one after the next.
                    let _ = slot.reset();
                } else if self.killed && !slot.kills_at_once() {
                    // A new one may have been forked by one that was not dead yet.
                    slot.kill()?;
                }
                Ok(!populated)
            }
            TreeKind::Session {
                session,
                until_ns,
                members,
            } => {
                retain_living(members)?;
                for _ in 0..SEARCH_ROUNDS {
                    if !members.is_empty() {
                        return Ok(false);
                    }
                    let found = if self.killed {
                        session.kill_members(*until_ns)?
                    } else {
                        // Of those that lived until just now.
                        *until_ns = proc::since_boot_ns();
                        session.members(*until_ns, |_| true)?
                    };
                    if found.is_empty() {
                        return Ok(true);
                    }
                    for pidfd in &found {
                        self.waiter.add(pidfd, Interest::Readable, 0)?;
                    }
                    *until_ns = proc::since_boot_ns();
                    *members = found;
                    retain_living(members)?;
                }
                Ok(false)
            }
        }
    }
}

impl AsFd for RemainingTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiter.as_fd()
    }
}

fn retain_living(members: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut living = Vec::with_capacity(members.len());
    for pidfd in members.drain(..) {
        if !pidfd::has_exited(pidfd.as_fd())? {
            living.push(pidfd);
        }
    }
    *members = living;
    Ok(())
}

/// Reads `cgroup.events` from its start, which also makes its next change known.
fn read_populated(events: &File) -> io::Result<bool> {
    let mut text = [0; 128];
    match events.read_at(&mut text, 0) {
        Ok(length) => Ok(says_populated(text.get(..length).unwrap_or_default())),
        Err(error) if is_removed(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{Exec, Output};
    use crate::os::cgroup::ServiceCgroup;
    use crate::os::spawn::Spawner;
    use crate::os::testing::{Running, TestCgroups, alone, exec, readable_within, shell, until};

    /// With cgroups where there are any, and without.
    fn with_and_without_cgroups(test: &str, body: impl Fn(Option<&ServiceCgroup>)) {
        body(None);
        if let Some(cgroups) = TestCgroups::open(test) {
            body(Some(&cgroups.for_service("web").unwrap()));
        }
    }

    fn start(exec: &Exec, cgroup: Option<&ServiceCgroup>) -> (Running, Tree) {
        let slot = cgroup.map(|cgroup| cgroup.slot(0));
        let mut spawner = Spawner::new(None).unwrap();
        let main = Running::start_with(&mut spawner, exec, slot).unwrap();
        let tree = Tree::new(main.pid, main.start_time_ns, slot.cloned());
        (main, tree)
    }

    fn release(tree: &Tree, main: &Running) -> Released {
        let released = tree.release(main.pidfd.as_fd());
        assert!(released.problem.is_none(), "{released:?}");
        released
    }

    /// Releases it, and kills what is left.
    fn end(tree: &Tree, main: &Running) -> Reaped {
        let released = release(tree, main);
        if released.remains {
            wait_for(tree.clear(Clear::Kill).unwrap());
        }
        released.main
    }

    fn wait_for(leftover: Leftover) {
        let Leftover::Some(mut rest) = leftover else {
            return;
        };
        let mut rounds = 0;
        while !rest.is_gone().unwrap() {
            assert!(readable_within(&rest, 10_000), "not gone");
            rounds += 1;
            assert!(rounds < 1000, "woken for nothing");
        }
    }

    /// The pids that the script has written, one a line, as it got ready.
    fn written_pids(path: &Path, count: usize) -> Vec<u32> {
        let read = || std::fs::read_to_string(path).unwrap_or_default();
        until("all started", || read().lines().count() == count);
        read()
            .lines()
            .map(|line| line.trim().parse().unwrap())
            .collect()
    }

    fn is_alive(pid: u32) -> bool {
        proc::stat(pid).is_ok_and(|stat| !stat.is_zombie())
    }

    #[test]
    fn nothing_left_is_known_at_once() {
        with_and_without_cgroups("nothing", |cgroup| {
            let (main, tree) = start(&shell("exit 5"), cgroup);
            main.wait_readable();
            let released = release(&tree, &main);
            assert_eq!(released.main, Reaped::Status(5 << 8));
            if cgroup.is_none() {
                assert!(!released.remains);
            }
            for how in [Clear::Stop(Signal::TERM), Clear::Await] {
                wait_for(tree.clear(how).unwrap());
            }
            assert!(matches!(tree.clear(Clear::Kill).unwrap(), Leftover::None));
        });
    }

    #[test]
    fn children_that_ignore_sigterm_go_when_their_parent_has_gone() {
        with_and_without_cgroups("ignore", |cgroup| {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("log");
            let mut service = shell(
                "trap '' TERM; for i in 1 2 3; do sh -c 'echo $$; sleep 60; sleep 60' & done; wait",
            );
            service.stdout = Output::File(log.clone());
            let (main, tree) = start(&service, cgroup);
            let pids = written_pids(&log, 3);
            signal::send_to_group(main.pidfd.as_fd(), main.pid, Signal::TERM).unwrap();
            assert!(pids.iter().all(|pid| is_alive(*pid)));
            main.signal(Signal::KILL);
            main.wait_readable();
            assert_eq!(end(&tree, &main), Reaped::Status(libc::SIGKILL));
            assert!(!pids.iter().any(|pid| is_alive(*pid)));
        });
    }

    #[test]
    fn the_stop_signal_reaches_all_once_and_the_rest_has_its_time() {
        with_and_without_cgroups("stop", |cgroup| {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("log");
            // Each says how often it was asked; the child ends only when it is killed.
            let script = "trap 'echo main; exit 3' TERM; \
                sh -c 'trap \"echo child\" TERM; echo up; while :; do sleep 0.01; done' & \
                while :; do sleep 0.01; done";
            let mut service = shell(script);
            service.stdout = Output::File(log.clone());
            let (main, tree) = start(&service, cgroup);
            let read = || std::fs::read_to_string(&log).unwrap_or_default();
            until("a child", || read().contains("up"));
            // A stopped process sees it, too.
            main.signal(Signal::STOP);
            tree.stop_all(main.pidfd.as_fd(), Signal::TERM).unwrap();
            main.wait_readable();
            let released = release(&tree, &main);
            assert_eq!(released.main, Reaped::Status(3 << 8));
            assert!(released.remains);
            let Leftover::Some(mut rest) = tree.clear(Clear::Await).unwrap() else {
                panic!("the child is gone");
            };
            until("both were asked", || {
                read().contains("main") && read().contains("child")
            });
            assert!(!readable_within(&rest, 100) || !rest.is_gone().unwrap());
            rest.kill().unwrap();
            wait_for(Leftover::Some(rest));
            for word in ["main", "child"] {
                assert_eq!(read().matches(word).count(), 1, "{}", read());
            }
        });
    }

    #[test]
    fn what_is_left_by_an_end_of_its_own_is_stopped_or_left_alone() {
        with_and_without_cgroups("left", |cgroup| {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("log");
            let script = "sh -c 'trap \"echo told; exit\" TERM; echo $$; \
                while :; do sleep 0.01; done' & wait";
            for how in [Clear::Stop(Signal::TERM), Clear::Leave] {
                let _ = std::fs::remove_file(&log);
                let mut service = shell(script);
                service.stdout = Output::File(log.clone());
                let (main, tree) = start(&service, cgroup);
                let child = written_pids(&log, 1)[0];
                main.signal(Signal::KILL);
                main.wait_readable();
                assert!(release(&tree, &main).remains);
                wait_for(tree.clear(how).unwrap());
                if how == Clear::Leave {
                    assert!(is_alive(child));
                    if let Some(cgroup) = cgroup {
                        assert!(!cgroup.slot(0).is_populated().unwrap());
                        assert!(proc::cgroup_path(child).unwrap().ends_with(".left"));
                    }
                    let child = pidfd::open(child).unwrap();
                    signal::send(child.as_fd(), Signal::TERM).unwrap();
                    until("its end", || pidfd::has_exited(child.as_fd()).unwrap());
                }
                assert!(!is_alive(child));
                assert!(std::fs::read_to_string(&log).unwrap().contains("told"));
            }
        });
    }

    /// A shell with job control gives each job a group of its own, in the same session.
    #[test]
    fn other_groups_of_the_session_go_too() {
        if !Path::new("/bin/bash").exists() {
            eprintln!("SKIPPED: needs bash");
            return;
        }
        with_and_without_cgroups("groups", |cgroup| {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("log");
            let script = "set -m; sh -c 'echo $$; sleep 60; sleep 60' & wait";
            let mut service = exec(&["/bin/bash", "-c", script]);
            service.stdout = Output::File(log.clone());
            for kill_all in [false, true] {
                let _ = std::fs::remove_file(&log);
                let (main, tree) = start(&service, cgroup);
                let job = written_pids(&log, 1)[0];
                let stat = proc::stat(job).unwrap();
                assert_eq!((stat.group, stat.session), (job, main.pid));
                if kill_all {
                    tree.kill_all(main.pidfd.as_fd()).unwrap();
                } else {
                    main.signal(Signal::KILL);
                }
                main.wait_readable();
                end(&tree, &main);
                assert!(!is_alive(job));
            }
        });
    }

    #[test]
    fn a_daemon_with_a_session_of_its_own_goes_where_there_are_cgroups() {
        let Some(cgroups) = TestCgroups::open("daemon") else {
            return;
        };
        let cgroup = cgroups.for_service("web").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        // Forked twice, holding stdout, and orphaned.
        let mut service = shell("(setsid sh -c 'trap \"\" TERM; echo $$; sleep 60; sleep 60' &)");
        service.stdout = Output::File(log.clone());
        let (main, tree) = start(&service, Some(&cgroup));
        let daemon = written_pids(&log, 1)[0];
        main.wait_readable();
        assert!(is_alive(daemon));
        assert_eq!(end(&tree, &main), Reaped::Status(0));
        assert!(!is_alive(daemon));
    }

    #[test]
    fn a_living_tree_is_killed_whole() {
        with_and_without_cgroups("whole", |cgroup| {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("log");
            let mut service = shell("trap '' TERM; sh -c 'echo $$; sleep 60; sleep 60' & wait");
            service.stdout = Output::File(log.clone());
            let (main, tree) = start(&service, cgroup);
            let child = written_pids(&log, 1)[0];
            tree.kill_all(main.pidfd.as_fd()).unwrap();
            main.wait_readable();
            assert_eq!(end(&tree, &main), Reaped::Status(libc::SIGKILL));
            assert!(!is_alive(child));
        });
    }

    #[test]
    fn what_an_earlier_agent_left_is_cleared() {
        with_and_without_cgroups("earlier", |cgroup| {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("log");
            let mut service = shell("sh -c 'echo $$; sleep 60; sleep 60' & wait");
            service.stdout = Output::File(log.clone());
            let (main, tree) = start(&service, cgroup);
            let child = written_pids(&log, 1)[0];
            main.signal(Signal::KILL);
            main.status();
            assert!(is_alive(child));
            wait_for(tree.clear(Clear::Kill).unwrap());
            assert!(!is_alive(child));
        });
    }

    #[test]
    fn a_number_that_is_someone_elses_is_left_alone() {
        let (other, _) = start(&shell("sleep 60 & wait"), None);
        until("a child", || {
            let children = format!("/proc/{0}/task/{0}/children", other.pid);
            std::fs::read_to_string(children).is_ok_and(|text| !text.is_empty())
        });
        // An instance of ours had this pid once.
        let start_time_ns = other.start_time_ns - proc::TICK_NS;
        let tree = Tree::new(other.pid, start_time_ns, None);
        assert!(matches!(tree.clear(Clear::Kill).unwrap(), Leftover::None));
        assert!(!pidfd::has_exited(other.pidfd.as_fd()).unwrap());
    }

    #[test]
    fn a_fork_storm_ends() {
        let Some(cgroups) = TestCgroups::open("storm") else {
            return;
        };
        let cgroup = cgroups.for_service("web").unwrap();
        let storm = "while :; do (setsid sleep 60 &) ; done";
        for kill_file in [true, false] {
            let (main, _) = start(&shell(storm), Some(&cgroup));
            let slot = cgroup.slot(0);
            until("a storm", || slot.pids().unwrap().len() > 20);
            let slot = &slot.with_kill_file(kill_file);
            let tree = Tree::new(main.pid, main.start_time_ns, Some(slot.clone()));
            tree.kill_all(main.pidfd.as_fd()).unwrap();
            main.wait_readable();
            end(&tree, &main);
            assert_eq!(slot.pids().unwrap(), [0; 0]);
        }
    }

    #[test]
    fn a_number_in_use_is_known_in_each_role() {
        let main = Running::start(&shell("sleep 60 & sleep 60"));
        let any = main.pidfd.as_fd();
        assert!(number_in_use(any, main.pid));
        assert!(!number_in_use(any, u32::MAX));
        let children = format!("/proc/{0}/task/{0}/children", main.pid);
        let read = || std::fs::read_to_string(&children).unwrap_or_default();
        until("two children", || read().split_whitespace().count() == 2);
        let members: Vec<_> = read()
            .split_whitespace()
            .map(|pid| pidfd::open(pid.parse().unwrap()).unwrap())
            .collect();
        main.signal(Signal::KILL);
        main.status();
        assert!(number_in_use(any, main.pid));
        for member in &members {
            signal::send(member.as_fd(), Signal::KILL).unwrap();
        }
        // Orphans now: PID 1 reaps them, sooner or later.
        until("free", || !number_in_use(any, main.pid));
    }

    /// `cargo test --release -p monitor-user os::tree -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::disallowed_methods, reason = "it measures time")]
    fn measure_release_with_nothing_left() {
        use std::time::Instant;

        if !alone("os::tree::tests::measure_release_with_nothing_left") {
            return;
        }
        with_and_without_cgroups("measure", |cgroup| {
            let mut times: Vec<_> = (0..500)
                .map(|_| {
                    let (main, tree) = start(&exec(&["/bin/true"]), cgroup);
                    main.wait_readable();
                    let before = Instant::now();
                    let released = release(&tree, &main);
                    let took = before.elapsed();
                    assert!(!released.remains);
                    took
                })
                .collect();
            times.sort();
            let (median, last) = (times[250], times[494]);
            let kind = if cgroup.is_some() { "with" } else { "without" };
            eprintln!("{kind} a cgroup: median {median:?}, 99 % {last:?}");
            let Some(slot) = cgroup.map(|cgroup| cgroup.slot(0)) else {
                return;
            };
            let before = Instant::now();
            (0..10_000).for_each(|_| drop(slot.is_populated()));
            eprintln!("is_populated: {:?}", before.elapsed() / 10_000);
            let before = Instant::now();
            (0..10_000).for_each(|_| drop(slot.open()));
            eprintln!("open: {:?}", before.elapsed() / 10_000);
        });
    }
}

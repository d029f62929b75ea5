//! All that descends from a service's main process: killing it, and knowing when it is gone.
//! Does not decide when.
//!
//! The tree is the process group and the session that the main process leads, and its cgroup
//! where there is one. Without a cgroup, a descendant that makes a session of its own is out of
//! reach; with one, nothing is.
//!
//! # When the main process's pidfd is readable
//! [`Tree::release`] does this, in this order, for reasons of identity: a pid stays taken as long
//! as its zombie is not reaped, and a group's or session's number as long as it has a member.
//! 1. SIGKILL to the group, while the zombie leader still holds the number; and to the cgroup,
//!    if anything lives in it.
//! 2. Reap: this gives the wait status, and frees the pid.
//! 3. Look at what is left. The cgroup tells at once. Of group and session the kernel tells at
//!    once whether the number is still in use (`F_SETOWN` finds it or not, and does nothing
//!    else); only if it is, `/proc` is searched for the members.
//!
//! In the common case nothing is left, and [`Leftover::None`] is known after a few system calls.
//! Else [`Leftover::Some`] is one descriptor to wait for.

use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::cgroup::{Slot, is_removed, says_populated};
use super::pidfd::{self, Reaped};
use super::waiter::{Interest, Waiter};
use super::{proc, signal};
use crate::supervisor::Signal;

/// The most rounds of looking for members of a session that keeps forking.
const SEARCH_ROUNDS: u32 = 16;

/// A service's main process with all that it has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The main process, and so the number of its group and session.
    main: u32,
    start_time_ns: u64,
    cgroup: Option<Slot>,
}

/// What [`Tree::release`] came to.
#[derive(Debug)]
pub(crate) struct Released {
    /// The main process's end, unless it is another's child.
    pub(crate) main: Reaped,
    /// What of its tree still lives.
    pub(crate) leftover: Leftover,
}

/// What still lives of a tree, all of it killed already.
#[derive(Debug)]
pub(crate) enum Leftover {
    /// Nothing.
    None,
    /// Something: wait for it.
    Some(Rest),
}

impl Tree {
    /// The tree of an instance, started in `cgroup` if there is one.
    pub(crate) fn new(main: u32, start_time_ns: u64, cgroup: Option<Slot>) -> Self {
        Self {
            main,
            start_time_ns,
            cgroup,
        }
    }

    /// Its cgroup.
    pub(crate) fn cgroup(&self) -> Option<&Slot> {
        self.cgroup.as_ref()
    }

    /// SIGKILL to all of it, the main process too. `main` is the main process's pidfd, not
    /// reaped yet (or reaped by its own parent, if it is not our child).
    ///
    /// # Errors
    /// The first, after all has been tried.
    pub(crate) fn kill_all(&self, main: BorrowedFd<'_>) -> io::Result<()> {
        let cgroup = match &self.cgroup {
            Some(slot) => slot.kill(),
            None => Ok(()),
        };
        // Members in other groups of the session: found as long as their leader lives.
        let others = match &self.cgroup {
            Some(_) => Ok(()),
            None => self.kill_members(u64::MAX).map(drop),
        };
        let group = signal::send_to_group(main, self.main, Signal::KILL);
        let main = signal::send(main, Signal::KILL);
        cgroup.and(others).and(group.map(drop)).and(main.map(drop))
    }

    /// Kills what is left, reaps the main process and tells what is still there. Call it when the
    /// main process's pidfd is readable; before that it kills the group but reaps nothing.
    ///
    /// # Errors
    /// The kernel's: the cgroup cannot be read, no descriptor is left. What could be done is.
    pub(crate) fn release(&self, main: BorrowedFd<'_>) -> io::Result<Released> {
        let killed = signal::send_to_group(main, self.main, Signal::KILL).map(drop);
        let populated = match &self.cgroup {
            Some(slot) if slot.is_populated()? => slot.kill().map(|()| true)?,
            _ => false,
        };
        let reaped = pidfd::reap(main)?;
        // EPERM: every member has another user, which only an agent without root meets.
        if self.cgroup.is_none() {
            killed?;
        }
        let leftover = match &self.cgroup {
            Some(slot) if populated => Rest::of_cgroup(slot)?,
            Some(_) => Leftover::None,
            None if !number_in_use(main, self.main) => Leftover::None,
            None => Rest::of_session(self)?,
        };
        Ok(Released {
            main: reaped,
            leftover,
        })
    }

    /// Kills and tells what is left of an instance that ended while no agent ran: its main
    /// process is gone, and was reaped by others.
    ///
    /// # Errors
    /// As [`Tree::release`].
    pub(crate) fn clear(&self) -> io::Result<Leftover> {
        match &self.cgroup {
            Some(slot) if slot.is_populated()? => {
                slot.kill()?;
                Rest::of_cgroup(slot)
            }
            Some(_) => Ok(Leftover::None),
            None => Rest::of_session(self),
        }
    }

    /// Kills the members of session and group that started up to then, the main process left
    /// out, and returns their pidfds.
    fn kill_members(&self, until_ns: u64) -> io::Result<Vec<OwnedFd>> {
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
            if !member || !of_its_time || stat.is_zombie() {
                continue;
            }
            if let Some(pidfd) = pidfd::identify(pid, stat.start_time_ns)?
                && signal::send(pidfd.as_fd(), Signal::KILL)?
            {
                found.push(pidfd);
            }
        }
        Ok(found)
    }
}

/// Whether any process, group or session has this number.
///
/// F_SETOWN refuses a number that the kernel does not know in any of these roles. The owner that
/// it sets gets signals only of files opened with O_ASYNC, and is cleared again.
/// <https://github.com/torvalds/linux/blob/v5.10/fs/fcntl.c#L111>
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

/// What is left of a tree, killed, and not gone yet. Its descriptor is readable when something
/// has changed: then ask [`Rest::is_gone`].
#[derive(Debug)]
pub(crate) struct Rest {
    waiter: Waiter,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Cgroup {
        slot: Slot,
        events: std::fs::File,
    },
    Session {
        tree: Tree,
        /// When the last of the known members was killed. Whatever it had forked started before
        /// that, and what starts later with this number has got it anew.
        until_ns: u64,
        members: Vec<OwnedFd>,
    },
}

impl Rest {
    fn of_cgroup(slot: &Slot) -> io::Result<Leftover> {
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
            kind: Kind::Cgroup { slot, events },
        }
        .settle()
    }

    fn of_session(tree: &Tree) -> io::Result<Leftover> {
        Self {
            waiter: Waiter::new()?,
            kind: Kind::Session {
                tree: tree.clone(),
                until_ns: proc::since_boot_ns(),
                members: Vec::new(),
            },
        }
        .settle()
    }

    fn settle(mut self) -> io::Result<Leftover> {
        Ok(if self.is_gone()? {
            Leftover::None
        } else {
            Leftover::Some(self)
        })
    }

    /// Whether nothing is left. What has come to life meanwhile is killed.
    ///
    /// # Errors
    /// The kernel's: `/proc` or the cgroup cannot be read, no descriptor is left.
    pub(crate) fn is_gone(&mut self) -> io::Result<bool> {
        self.waiter.drain(&mut Vec::new())?;
        match &mut self.kind {
            Kind::Cgroup { slot, events } => {
                let populated = read_populated(events)?;
                if populated {
                    // A new one may have been forked by one that was not dead yet.
                    slot.kill()?;
                }
                Ok(!populated)
            }
            Kind::Session {
                tree,
                until_ns,
                members,
            } => {
                retain_living(members)?;
                for _ in 0..SEARCH_ROUNDS {
                    if !members.is_empty() {
                        return Ok(false);
                    }
                    let found = tree.kill_members(*until_ns)?;
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

impl AsFd for Rest {
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

fn read_populated(events: &mut std::fs::File) -> io::Result<bool> {
    let mut text = Vec::with_capacity(64);
    let read = events.rewind().and_then(|()| events.read_to_end(&mut text));
    match read {
        Ok(_) => Ok(says_populated(&text)),
        Err(error) if is_removed(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

//! Notices that somebody has removed the runtime directory or what the agent has in it, and puts it
//! back: first the lock, without which another agent may be at work, then the socket and what is
//! remembered. Reads nothing of it, and polls nothing: the kernel tells of each removal.

use std::ffi::OsStr;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};

use super::lock::{self, Kept};
use super::memory::LAST_GOOD;
use super::runtime_dir::{self, FD_STORE, SOCKETS, STATE};
use super::{Agent, ServiceName};
use crate::control;
use crate::os::inotify::Watch;
use crate::os::progress;

/// After so many looks, a second apart, at a lock that another agent holds, this one gives way.
const MOST_LOOKS: u32 = 15;

/// The runtime directory, watched for removals, and what is to be put back.
pub(super) struct Restoring {
    path: PathBuf,
    /// `None`: it cannot be watched.
    watch: Option<Watch>,
    state: Option<WatchDescriptor>,
    /// Something could not be put back yet.
    pub(super) again: bool,
    /// That was told.
    has_failed: bool,
    /// How often another agent was found to hold the lock.
    looks: u32,
    /// Another agent has taken over, unasked.
    pub(super) gives_way: bool,
}

impl Restoring {
    /// From now on.
    pub(super) fn of(runtime_dir: &Path) -> Self {
        let mut restoring = Self {
            path: runtime_dir.to_owned(),
            watch: None,
            state: None,
            again: false,
            has_failed: false,
            looks: 0,
            gives_way: false,
        };
        match Watch::new().and_then(|watch| {
            restoring.watch = Some(watch);
            restoring.arm()
        }) {
            Ok(()) => {}
            Err(error) => tracing::warn!(
                "cannot watch {}: {error}; if its content is removed, it will not be restored",
                runtime_dir.display()
            ),
        }
        restoring
    }

    /// Watches what is there now, which may be another directory than before.
    fn arm(&mut self) -> io::Result<()> {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        let what =
            AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR;
        let moved = AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVE_SELF;
        watch.add(&self.path, what | moved)?;
        self.state = Some(watch.add(&self.path.join(STATE), what)?);
        Ok(())
    }

    /// Waits until something may have been removed. Cancellation loses nothing.
    pub(super) async fn needed(&self) {
        let Some(watch) = &self.watch else {
            return pending().await;
        };
        loop {
            match watch.next().await {
                Ok(events) if events.iter().any(|event| self.matters(event)) => return,
                Ok(_) => {}
                Err(_) => return pending().await,
            }
        }
    }

    fn matters(&self, event: &InotifyEvent) -> bool {
        let Some(name) = &event.name else {
            // Of a directory itself, or too many to be told.
            return true;
        };
        match Some(event.wd) == self.state {
            true => is_remembered(name),
            false => is_needed(name),
        }
    }
}

/// Whether it has to be in the state directory. What a write that fails removes must not count: it
/// would be tried again for ever.
fn is_remembered(name: &OsStr) -> bool {
    name == LAST_GOOD || Path::new(name).extension() == Some(OsStr::new("json"))
}

/// Whether it has to be in the runtime directory as long as an agent works. Files that come and go,
/// or that their writer makes again, need not.
fn is_needed(name: &OsStr) -> bool {
    let socket = control::socket(Path::new(""));
    let kept = [lock::NAME, STATE, SOCKETS, FD_STORE];
    kept.map(OsStr::new).contains(&name) || name == progress::FILE || name == socket.as_os_str()
}

impl Agent {
    /// Puts back what is gone. What cannot be put back now is tried again.
    pub(super) fn restore(&mut self) {
        let was_tried = std::mem::take(&mut self.restoring.again);
        match self.try_restore() {
            Ok(()) => self.restoring.has_failed = false,
            Err(error) => {
                self.restoring.again = true;
                // Somebody may still be removing it.
                if was_tried && !std::mem::replace(&mut self.restoring.has_failed, true) {
                    tracing::error!(
                        "the runtime directory was removed: {error:#}; it is tried again"
                    );
                }
            }
        }
    }

    fn try_restore(&mut self) -> Result<()> {
        let runtime_dir = self.options.runtime_dir.clone();
        runtime_dir::prepare(&runtime_dir)?;
        if progress::is_removed(&runtime_dir) {
            // So that the spare looks for the new one.
            self.lock.give_up_file();
        }
        match self.lock.keep()? {
            Kept::There => {}
            Kept::Again => {
                tracing::warn!(
                    "{} or its content was removed: restored; earlier journal entries are lost",
                    runtime_dir.display()
                );
                progress::show_again(&runtime_dir, self.myself)?;
            }
            Kept::ByAnother(pid) => {
                self.wait_for_lock(pid);
                return Ok(());
            }
        }
        self.restoring.looks = 0;
        self.memory.make_dir()?;
        self.restoring.arm()?;
        if !control::socket(&runtime_dir).exists() {
            self.server.bind_again()?;
            // The old one is not waited for any more, as it is closed.
            self.due.add(&self.server)?;
        }
        self.journal.make_again()?;
        let all: Vec<ServiceName> = self
            .supervisor
            .statuses()
            .map(|it| it.service.clone())
            .collect();
        for service in all {
            let is_remembered = self.supervisor.memory(&service, Self::now()).is_some();
            if is_remembered && !self.memory.has(&service) {
                self.remember(&service, &[]);
            }
        }
        self.notify.restore();
        self.sockets.restore();
        self.fd_store.restore();
        if !self.last_good.is_there() {
            self.last_good.keep(&self.config);
        }
        Ok(())
    }

    /// Another agent has found no lock, and made one. It finds out that this one works, and lets go
    /// of it; if it does not, this one gives way, so that there are never two for long.
    fn wait_for_lock(&mut self, pid: Option<u32>) {
        self.restoring.again = true;
        self.restoring.looks += 1;
        let pid = pid.map_or_else(
            || "another agent".to_owned(),
            |pid| format!("the agent with pid {pid}"),
        );
        let is_known_here = self.instances.has_cgroups() || self.pins.is_some();
        if self.restoring.looks == 1 && is_known_here {
            tracing::warn!(
                "the lock was removed, and {pid} has taken it: waiting for that agent to give it back"
            );
        } else if self.restoring.looks > MOST_LOOKS || !is_known_here {
            tracing::error!(
                "the lock was removed, and {pid} has taken it: leaving the services to that agent"
            );
            self.restoring.gives_way = true;
        }
    }
}

//! What a spare holds for services, taken from the agent, for the time when it is the agent: the sockets
//! that they serve (`listen`), those that they notify, and what they have stored.
//! Reads nothing from them. What the agent records of them, and when, is elsewhere.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::fd_store;
use super::records::{make_dir, names, read};
use super::runtime_dir::{COOKIES, SOCKETS};
use crate::os::{socket, spawn};

/// Names the sockets that this process has from the program that it was before: `PID:FD,FD`.
pub(super) const INHERITED: &str = "RESPAWN_SOCKETS";

/// So many of each kind fit into one variable.
const MOST_INHERITED: usize = 8000;

/// All that a spare holds.
#[derive(Default)]
pub(super) struct Pool {
    /// What services listen on.
    pub(super) sockets: SocketPool,
    /// What services send notifications to, with all that nobody has read.
    pub(super) notify: SocketPool,
    /// What services have stored.
    pub(super) stored: fd_store::Pool,
}

impl Pool {
    /// Of this process, with what it has from the program that it was before. To be called once.
    pub(super) fn of(runtime_dir: &Path) -> Self {
        let said = std::env::var(INHERITED).unwrap_or_default();
        let mut inherited: HashMap<u64, OwnedFd> = named(&said, std::process::id())
            .into_iter()
            .filter_map(socket::inherited)
            .filter_map(|socket| Some((socket::cookie(socket.as_fd()).ok()?, socket)))
            .collect();
        let mut sockets = |name: &str, what| {
            SocketPool {
                dir: runtime_dir.join(name),
                what,
                ..SocketPool::default()
            }
            .with(&mut inherited)
        };
        Self {
            sockets: sockets(SOCKETS, "sockets"),
            notify: sockets(COOKIES, "notify sockets"),
            stored: fd_store::Pool::of(runtime_dir),
        }
    }

    /// The directories to watch; they are there.
    ///
    /// # Errors
    /// One cannot be made.
    pub(super) fn dirs(&self) -> io::Result<[&Path; 3]> {
        Ok([self.sockets.dir()?, self.notify.dir()?, self.stored.dir()?])
    }

    /// Holds what an agent holds now.
    pub(super) fn follow_all(&mut self, agent: BorrowedFd<'_>) {
        self.stored.follow_all(agent);
        self.sockets.follow_all(agent);
        self.notify.follow_all(agent);
    }

    /// The same of one service, of which something may have changed.
    pub(super) fn follow(&mut self, agent: BorrowedFd<'_>, service: &str) {
        self.sockets.follow(agent, service);
        self.notify.follow(agent, service);
        self.stored.follow(agent, service);
    }

    /// Has all sockets go along, or not, when this process becomes another program; returns what that
    /// one's environment has to say.
    pub(super) fn hand_on(&self, is_handed: bool) -> String {
        let sockets = self.sockets.all().chain(self.notify.all());
        let handed = sockets.filter(|socket| {
            // One that does not go along is taken from the instance.
            socket::set_inherited(socket.as_fd(), is_handed).is_ok()
        });
        let numbers: Vec<String> = handed.map(|it| it.as_raw_fd().to_string()).collect();
        format!("{}:{}", std::process::id(), numbers.join(","))
    }
}

/// Sockets that a spare holds, of those that records in one directory name.
#[derive(Default)]
pub(super) struct SocketPool {
    dir: PathBuf,
    /// For people.
    what: &'static str,
    sockets: HashMap<String, Vec<(u64, OwnedFd)>>,
    has_failed: bool,
}

/// What a record says of a socket, beside what only its agent needs.
#[derive(Deserialize)]
struct Recorded {
    cookie: u64,
    /// Which descriptor of the agent it is.
    descriptor: RawFd,
}

impl SocketPool {
    /// Takes those out of `sockets`, each with its cookie, that are recorded.
    fn with(mut self, sockets: &mut HashMap<u64, OwnedFd>) -> Self {
        if sockets.is_empty() {
            return self;
        }
        for service in names(&self.dir) {
            for record in read::<Recorded>(&self.dir, &service) {
                if let Some(socket) = sockets.remove(&record.cookie) {
                    let of = self.sockets.entry(service.clone()).or_default();
                    of.push((record.cookie, socket));
                }
            }
        }
        self
    }

    fn dir(&self) -> io::Result<&Path> {
        make_dir(&self.dir)?;
        Ok(&self.dir)
    }

    fn follow_all(&mut self, agent: BorrowedFd<'_>) {
        let names = names(&self.dir);
        self.sockets.retain(|service, _| names.contains(service));
        for service in names {
            self.follow(agent, &service);
        }
    }

    fn follow(&mut self, agent: BorrowedFd<'_>, service: &str) {
        let records: Vec<Recorded> = read(&self.dir, service);
        let mut held = self.sockets.remove(service).unwrap_or_default();
        held.retain(|(cookie, _)| records.iter().any(|record| record.cookie == *cookie));
        for record in records {
            if held.iter().any(|(cookie, _)| *cookie == record.cookie) {
                continue;
            }
            let taken = socket::taken_from(agent, record.descriptor, record.cookie);
            let taken = taken.and_then(|socket| match spawn::leaves_reserve(&socket) {
                true => Ok(socket),
                // It needs some to take over.
                false => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            });
            match taken {
                Ok(socket) => held.push((record.cookie, socket)),
                // Without the right to it, or a descriptor; else it has just been closed.
                Err(error) if error.raw_os_error().is_some_and(|it| it != libc::EBADF) => {
                    if !std::mem::replace(&mut self.has_failed, true) {
                        tracing::warn!(
                            service,
                            "the spare cannot hold all {} of services: {error}; it takes the others from their instances",
                            self.what
                        );
                    }
                }
                Err(_) => {}
            }
        }
        if !held.is_empty() {
            self.sockets.insert(service.to_owned(), held);
        }
    }

    /// The socket of a service with this cookie.
    pub(super) fn take(&mut self, service: &str, cookie: u64) -> Option<OwnedFd> {
        let held = self.sockets.get_mut(service)?;
        let index = held.iter().position(|(other, _)| *other == cookie)?;
        Some(held.swap_remove(index).1)
    }

    /// All services are known: nobody wants the rest.
    pub(super) fn clear(&mut self) {
        self.sockets.clear();
    }

    /// Those that can go along to another program.
    fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        let sockets = self.sockets.values().flatten().map(|(_, socket)| socket);
        sockets.take(MOST_INHERITED)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

/// The descriptors that a text names for this process.
fn named(text: &str, pid: u32) -> Vec<RawFd> {
    let Some((of, numbers)) = text.split_once(':') else {
        return Vec::new();
    };
    if of.parse() != Ok(pid) {
        return Vec::new();
    }
    let mut numbers: Vec<RawFd> = numbers
        .split(',')
        .filter_map(|it| it.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_named_for_one_process() {
        assert_eq!(named("7:3,5,3,x", 7), [3, 5]);
        for text in ["8:3", "", "7", ":3", "7:"] {
            assert!(named(text, 7).is_empty(), "{text}");
        }
    }
}

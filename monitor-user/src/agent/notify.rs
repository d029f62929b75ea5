//! What services say of themselves to the socket in their `NOTIFY_SOCKET`, as `sd_notify(3)` has it: one
//! socket a service, in the runtime directory, which nobody but the service's user and root can send to; if
//! the service has no user of its own, everybody can.
//!
//! ```text
//! NOTIFY_DIR/SERVICE         the socket, made before the first start and kept from then on
//! NOTIFY_DIR.cookies/SERVICE its numbers in the kernel and in the agent, for the spare and the next agent
//! ```
//!
//! An instance has its service's socket open, and so has the spare, so what it says while no agent lives
//! waits in the queue. The next agent has the socket from the spare that it was, or takes it from the
//! instance; where it may not, or the instance has closed it, it makes another one at the same path, and
//! what was said in between is lost.
//!
//! Polls nothing, and decides nothing: says who has sent what. A message counts if its sender is in the
//! cgroup of the instance, or has ended and was of its user.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::fd_store::Order;
use super::pool::SocketPool;
use super::records::{Records, read};
use super::runtime_dir::{COOKIES, NOTIFY};
use crate::model::{Identity, Instance, ServiceName};
use crate::os;
use crate::os::notify::{Datagram, NotifySocket};
use crate::os::waiter::{Interest, Waiter};

/// So many messages of one service are read in a row, before others have their turn.
const AT_ONCE: usize = 64;

/// So many messages of an instance that has ended are read.
const MOST_LEFT: usize = 1024;

/// What the records are of, for people.
const WHAT: &str = "notifications";

/// One line of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Ready,
    /// It reads its configuration again, since that time on the clock that stands still in suspend.
    Reloading(Option<Duration>),
    /// It ends.
    Stopping,
    /// In words, for people.
    Status(String),
    /// It is alive.
    Watchdog,
    /// It asks to be treated as one that is not.
    WatchdogTrigger,
    /// It needs so much time from now on.
    Extend(Duration),
    /// This process is its main process from now on.
    MainPid(u32),
}

/// A message that may count.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) service: ServiceName,
    pub(super) instance: Instance,
    /// Pid and user ID.
    pub(super) sender: (u32, u32),
    pub(super) said: Vec<Said>,
    /// What it asks of the store of descriptors.
    pub(super) order: Option<Order>,
}

/// The sockets of all services that have one.
pub(super) struct Notify {
    sockets_dir: PathBuf,
    records: Records<Record>,
    /// What this process held as the spare.
    pool: SocketPool,
    /// Ready when one of them has something to read.
    waiter: AsyncFd<Waiter>,
    services: BTreeMap<ServiceName, Ears>,
    tokens: HashMap<u64, ServiceName>,
    last_token: u64,
}

/// What is known of a socket in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    cookie: u64,
    /// Which descriptor of the agent it is.
    descriptor: RawFd,
}

struct Ears {
    socket: Arc<NotifySocket>,
    /// Whom it may send to.
    owner: Owner,
    /// What the waiter names it by.
    token: u64,
    /// Whose messages it has; `None` while none runs: they stay in the queue.
    instance: Option<Instance>,
    /// What was in the queue when the socket was taken over early.
    backlog: Vec<Datagram>,
}

impl Notify {
    /// Of the agent of a runtime directory. `pool`: what it held before.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn of(runtime_dir: &Path, pool: SocketPool) -> io::Result<Self> {
        let waiter = os::async_fd(Waiter::new()?, tokio::io::Interest::READABLE)?;
        Ok(Self {
            sockets_dir: runtime_dir.join(NOTIFY),
            records: Records::of(runtime_dir.join(COOKIES)),
            pool,
            waiter,
            services: BTreeMap::new(),
            tokens: HashMap::new(),
            last_token: 0,
        })
    }

    /// Whether any service has a socket.
    pub(super) fn is_used(&self) -> bool {
        !self.services.is_empty()
    }

    /// Where a service sends its notifications to.
    pub(super) fn path(&self, service: &str) -> PathBuf {
        self.sockets_dir.join(service)
    }

    /// The socket for the next instance of a service, which runs as `identity`: with nothing in it of the
    /// one before, unless that is to run on beside it.
    ///
    /// # Errors
    /// It can be neither found nor made.
    pub(super) fn begin(
        &mut self,
        service: &ServiceName,
        identity: Option<&Identity>,
        is_beside: bool,
    ) -> io::Result<Arc<NotifySocket>> {
        let owner = owner(identity);
        let is_there = fs::symlink_metadata(self.path(service)).is_ok();
        match self.services.get_mut(service) {
            Some(ears) if ears.owner == owner && is_there && is_beside => {
                Ok(Arc::clone(&ears.socket))
            }
            Some(ears) if ears.owner == owner && is_there => {
                ears.instance = None;
                ears.backlog.clear();
                while ears.socket.receive()?.is_some() {}
                Ok(Arc::clone(&ears.socket))
            }
            _ => {
                let socket = self.bind(service, owner)?;
                Ok(self.insert(service, owner, socket))
            }
        }
    }

    /// From now on what this instance says is told, and what it has said since its start.
    pub(super) fn listen(&mut self, service: &ServiceName, instance: Instance) {
        let Some(ears) = self.services.get_mut(service) else {
            return;
        };
        ears.instance = Some(instance);
        let waiter = self.waiter.get_ref();
        // Added again it is told again, if there is something in it.
        let _ = waiter.remove(ears.socket.as_fd());
        if let Err(error) = waiter.add(ears.socket.as_fd(), Interest::Readable, ears.token) {
            tracing::error!(%service, "cannot hear what it notifies: {error}");
        }
    }

    /// Goes on with the instance of an earlier agent, which runs as `identity`.
    pub(super) fn adopt(
        &mut self,
        service: &ServiceName,
        identity: Option<&Identity>,
        instance: Instance,
        process: Option<BorrowedFd<'_>>,
    ) {
        if self.services.contains_key(service) {
            // This agent has started it, or has its socket already.
            return self.listen(service, instance);
        }
        let owner = owner(identity);
        let taken = self.take_over(service, process);
        let taken = taken.or_else(|error| {
            tracing::warn!(
                %service,
                "cannot take over its notify socket: {error}; what it has sent while no agent ran is lost"
            );
            self.bind(service, owner)
        });
        match taken {
            Ok(socket) => {
                self.insert(service, owner, socket);
                self.listen(service, instance);
            }
            Err(error) => tracing::error!(%service, "cannot hear what it notifies: {error}"),
        }
    }

    /// Takes a socket over from a process of a service whose main process has ended while no agent ran.
    /// Returns which processes were named as the main one meanwhile, and by whom, the last one first.
    ///
    /// # Errors
    /// That process does not have it, or may not be asked.
    pub(super) fn take_over_early(
        &mut self,
        service: &ServiceName,
        identity: Option<&Identity>,
        process: BorrowedFd<'_>,
    ) -> io::Result<Vec<(u32, (u32, u32))>> {
        let socket = self.take_over(service, Some(process))?;
        let socket = self.insert(service, owner(identity), socket);
        let mut named = Vec::new();
        let mut backlog = Vec::new();
        while let Some(datagram) = socket.receive()? {
            if let (Some(text), Some(sender)) = (&datagram.text, datagram.sender) {
                let said = text.lines().filter_map(said);
                named.extend(said.filter_map(|said| match said {
                    Said::MainPid(pid) => Some((pid, sender)),
                    _ => None,
                }));
            }
            backlog.push(datagram);
        }
        if let Some(ears) = self.services.get_mut(service) {
            ears.backlog = backlog;
        }
        named.reverse();
        Ok(named)
    }

    /// Holds what an instance has sent that has ended while no agent ran, as far as this process has it:
    /// it is read before the next instance starts.
    pub(super) fn adopt_rest(
        &mut self,
        service: &ServiceName,
        identity: Option<&Identity>,
        instance: Instance,
    ) {
        if !self.services.contains_key(service) {
            let Ok(socket) = self.take_over(service, None) else {
                return;
            };
            self.insert(service, owner(identity), socket);
        }
        if let Some(ears) = self.services.get_mut(service) {
            ears.instance.get_or_insert(instance);
        }
    }

    /// All services are known: nobody wants the rest.
    pub(super) fn forget_pool(&mut self) {
        self.pool.clear();
    }

    /// From the spare that this process was, or else from a process of the service.
    fn take_over(
        &mut self,
        service: &ServiceName,
        process: Option<BorrowedFd<'_>>,
    ) -> io::Result<NotifySocket> {
        let path = self.path(service);
        let records: Vec<Record> = read(self.records.dir(), service);
        let record = records.first().ok_or(io::ErrorKind::NotFound)?;
        if let Some(socket) = self.pool.take(service, record.cookie) {
            return NotifySocket::known(socket, &path);
        }
        let process = process.ok_or(io::ErrorKind::NotFound)?;
        NotifySocket::of(process, &path, record.cookie)
    }

    fn bind(&mut self, service: &ServiceName, owner: Owner) -> io::Result<NotifySocket> {
        // Services may pass through it.
        os::make_dir(&self.sockets_dir, 0o711)?;
        // Nobody is to take the old one for this one.
        self.records.write(service, Vec::new(), WHAT);
        NotifySocket::bind(&self.path(service), owner)
    }

    fn insert(
        &mut self,
        service: &ServiceName,
        owner: Owner,
        socket: NotifySocket,
    ) -> Arc<NotifySocket> {
        let socket = Arc::new(socket);
        self.last_token += 1;
        let ears = Ears {
            socket: Arc::clone(&socket),
            owner,
            token: self.last_token,
            instance: None,
            backlog: Vec::new(),
        };
        self.tokens.insert(ears.token, service.clone());
        if let Some(old) = self.services.insert(service.clone(), ears) {
            self.tokens.remove(&old.token);
        }
        self.write(service);
        socket
    }

    /// For the spare, and for the next agent.
    fn write(&mut self, service: &ServiceName) {
        let socket = self.services.get(service).map(|ears| &ears.socket);
        let record = socket.and_then(|socket| {
            let cookie = socket.cookie().ok()?;
            let descriptor = socket.as_fd().as_raw_fd();
            Some(Record { cookie, descriptor })
        });
        self.records
            .write(service, record.into_iter().collect(), WHAT);
    }

    /// Somebody has removed what is in the runtime directory: puts the sockets back. What the instances
    /// have open is reached by nobody any more.
    pub(super) fn restore(&mut self) {
        self.records.forget_written();
        for service in self.services.keys().cloned().collect::<Vec<_>>() {
            self.write(&service);
        }
        let services = self.services.iter();
        let gone: Vec<_> = services
            .filter(|(service, _)| fs::symlink_metadata(self.path(service)).is_err())
            .map(|(service, ears)| (service.clone(), ears.owner, ears.instance))
            .collect();
        for (service, owner, instance) in gone {
            match self.bind(&service, owner) {
                Ok(socket) => {
                    self.insert(&service, owner, socket);
                    instance
                        .into_iter()
                        .for_each(|it| self.listen(&service, it));
                }
                Err(error) => tracing::error!(%service, "cannot hear what it notifies: {error}"),
            }
        }
    }

    /// The service is no more.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        if let Some(old) = self.services.remove(service) {
            self.tokens.remove(&old.token);
        }
        // The next agent finds nothing that it could mistake for its own.
        let _ = os::remove_file(&self.path(service));
        self.records.write(service, Vec::new(), WHAT);
    }

    /// What an instance that has ended has sent, and nobody has read.
    pub(super) fn rest(&mut self, service: &ServiceName) -> Vec<Message> {
        let Some(ears) = self.services.get_mut(service) else {
            return Vec::new();
        };
        let Some(instance) = ears.instance else {
            return Vec::new();
        };
        let backlog = std::mem::take(&mut ears.backlog).into_iter();
        let rest = (0..MOST_LEFT).map_while(|_| ears.socket.receive().ok().flatten());
        backlog
            .chain(rest)
            .filter_map(|datagram| message(service, instance, datagram))
            .collect()
    }

    /// Waits until there may be something to read. Cancellation loses nothing.
    pub(super) async fn needed(&mut self) -> io::Result<()> {
        self.waiter.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// What has been sent, in the order of each service; without waiting.
    pub(super) fn take(&mut self) -> Vec<Message> {
        let mut ready = Vec::new();
        if let Err(error) = self.waiter.get_mut().drain(&mut ready) {
            tracing::error!("cannot wait for notifications: {error}");
        }
        let mut messages = self.take_backlogs();
        let mut unfinished = Vec::new();
        for (token, _) in ready {
            let Some(service) = self.tokens.get(&token) else {
                continue;
            };
            let Some(ears) = self.services.get(service) else {
                continue;
            };
            let Some(instance) = ears.instance else {
                continue;
            };
            for _ in 0..AT_ONCE {
                match ears.socket.receive() {
                    Ok(Some(datagram)) => messages.extend(message(service, instance, datagram)),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%service, "cannot read a notification: {error}");
                        break;
                    }
                }
            }
            unfinished.push((service.clone(), instance));
        }
        // One that sends all the time waits for the next turn of the loop.
        for (service, instance) in unfinished {
            self.listen(&service, instance);
        }
        messages
    }
}

impl Notify {
    /// What was in the queues of those that were taken over early.
    fn take_backlogs(&mut self) -> Vec<Message> {
        let services = self.services.iter_mut();
        let heard =
            services.filter(|(_, ears)| ears.instance.is_some() && !ears.backlog.is_empty());
        let messages = heard.flat_map(|(service, ears)| {
            let (instance, backlog) = (ears.instance, std::mem::take(&mut ears.backlog));
            let datagrams = backlog.into_iter();
            datagrams.filter_map(move |datagram| message(service, instance?, datagram))
        });
        messages.collect()
    }
}

fn message(service: &ServiceName, instance: Instance, datagram: Datagram) -> Option<Message> {
    let (Some(text), Some(sender)) = (datagram.text, datagram.sender) else {
        tracing::warn!(%service, "dropped a notification that is too long, not UTF-8, or without a sender");
        return None;
    };
    let mut said: Vec<_> = text.lines().filter_map(said).collect();
    if let Some(time) = text
        .lines()
        .find_map(|it| it.strip_prefix("MONOTONIC_USEC="))
    {
        let at = time.parse().ok().map(Duration::from_micros);
        let reloading = said.iter_mut().find(|it| **it == Said::Reloading(None));
        reloading
            .into_iter()
            .for_each(|it| *it = Said::Reloading(at));
    }
    // The rest is said of that process, in whichever order it stands.
    said.sort_by_key(|it| !matches!(it, Said::MainPid(_)));
    Some(Message {
        service: service.clone(),
        instance,
        sender,
        said,
        order: Order::of(&text, datagram.descriptors, datagram.lacks_descriptors),
    })
}

/// What a line says; `None`: nothing that changes anything here.
fn said(line: &str) -> Option<Said> {
    Some(match line.split_once('=')? {
        ("READY", "1") => Said::Ready,
        ("RELOADING", "1") => Said::Reloading(None),
        ("STOPPING", "1") => Said::Stopping,
        ("STATUS", text) => Said::Status(text.to_owned()),
        ("WATCHDOG", "1") => Said::Watchdog,
        ("WATCHDOG", "trigger") => Said::WatchdogTrigger,
        ("EXTEND_TIMEOUT_USEC", time) => Said::Extend(Duration::from_micros(time.parse().ok()?)),
        ("MAINPID", pid) => Said::MainPid(pid.parse().ok()?),
        _ => return None,
    })
}

/// User and group; `None`: the agent's own.
type Owner = Option<(u32, u32)>;

fn owner(identity: Option<&Identity>) -> Owner {
    identity.map(|identity| (identity.uid, identity.gid))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const FIRST: Instance = Instance {
        pid: 7,
        start_time_ns: 10_000_000,
    };

    const SECOND: Instance = Instance {
        pid: 8,
        start_time_ns: 20_000_000,
    };

    fn told(notify: &mut Notify) -> Vec<(Instance, Vec<Said>)> {
        let messages = notify.take().into_iter();
        messages.map(|it| (it.instance, it.said)).collect()
    }

    #[tokio::test]
    async fn what_an_instance_says_is_told_and_not_as_that_of_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut notify = Notify::of(dir.path(), SocketPool::default()).unwrap();
        notify.begin(&web, None, false).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(notify.path("web")).unwrap();
        // Before it is known which instance that is.
        sender.send(b"READY=1\nSTATUS=up").unwrap();
        assert_eq!(told(&mut notify), []);
        notify.listen(&web, FIRST);
        notify.needed().await.unwrap();
        let said = vec![Said::Ready, Said::Status("up".into())];
        assert_eq!(told(&mut notify), [(FIRST, said)]);
        sender.send(b"WATCHDOG=1").unwrap();
        notify.needed().await.unwrap();
        assert_eq!(told(&mut notify), [(FIRST, vec![Said::Watchdog])]);
        sender.send(b"READY=1").unwrap();
        notify.begin(&web, None, false).unwrap();
        notify.listen(&web, SECOND);
        assert_eq!(told(&mut notify), []);
        sender.send(b"EXTEND_TIMEOUT_USEC=5").unwrap();
        let extend = vec![Said::Extend(Duration::from_micros(5))];
        assert_eq!(told(&mut notify), [(SECOND, extend)]);
        notify.forget(&web);
        assert!(!notify.path("web").exists());
    }

    #[tokio::test]
    async fn more_than_one_turn_takes_is_told_in_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut notify = Notify::of(dir.path(), SocketPool::default()).unwrap();
        notify.begin(&web, None, false).unwrap();
        notify.listen(&web, FIRST);
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(notify.path("web")).unwrap();
        sender.set_nonblocking(true).unwrap();
        let sent = (0..AT_ONCE + 10).take_while(|_| sender.send(b"WATCHDOG=1").is_ok());
        let sent = sent.count();
        let mut told = 0;
        while told < sent {
            notify.needed().await.unwrap();
            told += notify.take().len();
        }
        assert_eq!(told, sent);
    }

    #[test]
    fn lines_that_mean_nothing_here_are_passed_over() {
        let known = [
            ("READY=1", Some(Said::Ready)),
            ("READY=0", None),
            ("RELOADING=1", Some(Said::Reloading(None))),
            ("STOPPING=1", Some(Said::Stopping)),
            ("STOPPING=0", None),
            ("READY", None),
            ("WATCHDOG=trigger", Some(Said::WatchdogTrigger)),
            ("WATCHDOG=2", None),
            ("EXTEND_TIMEOUT_USEC=", None),
            ("EXTEND_TIMEOUT_USEC=-1", None),
            ("STATUS=", Some(Said::Status(String::new()))),
            ("MAINPID=17", Some(Said::MainPid(17))),
            ("MAINPID=-1", None),
            ("", None),
        ];
        for (line, expected) in known {
            assert_eq!(said(line), expected, "{line}");
        }
    }
}

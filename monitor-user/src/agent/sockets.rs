//! The sockets that are held for services (`listen`): bound before the first start, and open until the
//! service is stopped, whoever dies meanwhile.
//!
//! ```text
//! SOCKETS/SERVICE   what its sockets are, their numbers in the kernel, and those in the agent
//! ```
//!
//! An instance has its sockets open, and so do the agent and its spare, which follows the directory and
//! takes what is new from the agent. The next agent has them from the spare that it was, or takes them
//! from a living instance, and knows them by their numbers in the kernel. Where nobody has them any more
//! it binds them again.
//!
//! Accepts and reads nothing, and decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::instances::Instances;
use super::pool::SocketPool;
use super::records::{Records, read};
use super::runtime_dir::SOCKETS;
use crate::control::Socket;
use crate::model::{FIRST_DESCRIPTOR, Listen, ServiceName};
use crate::os::{listen, pidfd, progress, socket, spawn};

/// So many processes of a service are looked at for its sockets.
const MOST_PROCESSES: usize = 64;

/// The sockets of all services that have some.
pub(super) struct Sockets {
    records: Records<Record>,
    services: BTreeMap<ServiceName, Vec<HeldSocket>>,
    /// What this process held as the spare.
    pool: SocketPool,
}

/// One socket.
struct HeldSocket {
    record: Record,
    socket: Arc<OwnedFd>,
}

/// What is known of a socket in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    listen: Listen,
    cookie: u64,
    /// As `/proc/PID/fd` names it.
    inode: u64,
    /// Device and inode of its path.
    file: Option<(u64, u64)>,
    /// Which descriptor of the agent it is.
    descriptor: RawFd,
}

/// From whom sockets may be taken.
pub(super) struct Donors<'a> {
    /// The living instances, of which there is more than one for a moment.
    pub(super) instances: Vec<(u32, BorrowedFd<'a>)>,
    /// All processes of the service.
    pub(super) others: Box<dyn Fn() -> Vec<u32> + 'a>,
}

impl<'a> Donors<'a> {
    /// The processes of a service that live.
    pub(super) fn of(instances: &'a Instances, service: &'a ServiceName) -> Self {
        let others = || {
            let processes = instances.processes(service).unwrap_or_default();
            processes.into_iter().flatten().collect()
        };
        Self {
            instances: instances.living(service),
            others: Box::new(others),
        }
    }
}

impl HeldSocket {
    fn of(record: Record, socket: OwnedFd) -> Self {
        let descriptor = socket.as_raw_fd();
        Self {
            record: Record {
                descriptor,
                ..record
            },
            socket: Arc::new(socket),
        }
    }

    fn bind(listen: &Listen, file: Option<(u64, u64)>) -> io::Result<Self> {
        let bound = listen::bound(listen, file)?;
        if !spawn::leaves_reserve(&bound.socket) {
            listen::close(listen, &bound.socket, bound.file);
            return Err(io::Error::other(spawn::out_of_descriptors()));
        }
        let record = Record {
            listen: listen.clone(),
            cookie: socket::cookie(bound.socket.as_fd())?,
            inode: socket::inode(bound.socket.as_fd())?,
            file: bound.file,
            descriptor: -1,
        };
        Ok(Self::of(record, bound.socket))
    }

    /// Whether it serves for what is wanted.
    fn is_for(&self, wanted: &Listen) -> bool {
        self.record.listen.is_same_socket(wanted)
    }

    /// Whether clients find it.
    fn is_in_place(&self) -> bool {
        listen::is_in_place(&self.record.listen, self.record.file)
    }

    fn close(&self) {
        listen::close(&self.record.listen, &self.socket, self.record.file);
    }
}

impl Sockets {
    /// Of the agent of a runtime directory. `pool`: what it held before.
    pub(super) fn of(runtime_dir: &Path, pool: SocketPool) -> Self {
        Self {
            records: Records::of(runtime_dir.join(SOCKETS)),
            services: BTreeMap::new(),
            pool,
        }
    }

    /// Which services an earlier agent has held sockets for.
    pub(super) fn recorded(&self) -> Vec<ServiceName> {
        self.records.services()
    }

    /// Goes on holding what an earlier agent has held for a service, as far as this process or a
    /// living instance has it.
    pub(super) fn adopt(&mut self, service: &ServiceName, donors: &Donors<'_>) {
        let mut held = Vec::new();
        for (index, record) in read::<Record>(self.records.dir(), service)
            .into_iter()
            .enumerate()
        {
            let socket = match self.pool.take(service, record.cookie) {
                Some(socket) => Ok(socket),
                None => take(&record, index, donors),
            };
            match socket {
                Ok(socket) => held.push(HeldSocket::of(record, socket)),
                Err(error) if !donors.instances.is_empty() => tracing::warn!(
                    %service,
                    "cannot take over its socket {}: {error}; it is bound again at the next start",
                    record.listen.address
                ),
                Err(_) => {}
            }
        }
        if !held.is_empty() {
            self.services.insert(service.clone(), held);
        }
        self.write(service);
    }

    /// The sockets for the next instance of a service, in the order of `wanted`: those that are held,
    /// and the others bound now. What else was held for it is closed.
    ///
    /// # Errors
    /// In words: which one cannot be bound, and why.
    pub(super) fn begin(
        &mut self,
        service: &ServiceName,
        wanted: &[Listen],
    ) -> Result<Vec<Arc<OwnedFd>>, String> {
        let mut old = self.services.remove(service).unwrap_or_default();
        let mut found: Vec<Option<HeldSocket>> = Vec::new();
        for listen in wanted {
            let index = old
                .iter()
                .position(|held| held.is_for(listen) && held.is_in_place());
            let held = index.map(|index| old.swap_remove(index));
            found.push(held.or_else(|| self.take_from_another(listen)));
        }
        // First, as what is bound now may be at the same address.
        old.iter().for_each(HeldSocket::close);
        drop(old);
        let mut sockets = Vec::new();
        let mut failure = None;
        for (listen, held) in wanted.iter().zip(found) {
            progress::count();
            match held.map_or_else(
                || HeldSocket::bind(listen, None),
                |held| held.made_ready(listen),
            ) {
                Ok(held) => sockets.push(held),
                Err(error) => {
                    failure.get_or_insert_with(|| cannot(listen, &error));
                }
            }
        }
        let handed = sockets.iter().map(|held| Arc::clone(&held.socket));
        let handed = handed.collect();
        if !sockets.is_empty() {
            self.services.insert(service.clone(), sockets);
        }
        self.write(service);
        failure.map_or(Ok(handed), Err)
    }

    /// A socket of a service that does not have it any more, by the config.
    fn take_from_another(&mut self, wanted: &Listen) -> Option<HeldSocket> {
        if wanted.reuse_port {
            // Both may have it.
            return None;
        }
        let mut others = self.services.iter_mut();
        let (service, held) = others.find_map(|(service, held)| {
            let index = held.iter().position(|held| held.is_for(wanted))?;
            Some((service.clone(), held.swap_remove(index)))
        })?;
        self.write(&service);
        Some(held)
    }

    /// Before a service is restarted with other sockets: binds those that are new, if its sockets are
    /// held. What it has stays until it is restarted.
    ///
    /// # Errors
    /// In words: which one cannot be bound, and why; then nothing was changed.
    pub(super) fn prepare(
        &mut self,
        service: &ServiceName,
        wanted: &[Listen],
    ) -> Result<(), String> {
        if !self.services.contains_key(service) {
            return Ok(());
        }
        let mut new = Vec::new();
        for listen in wanted {
            let mut all = self.services.values().flatten();
            // Of one that is at an address of ours already it shows when that one is closed.
            if all.any(|held| held.record.listen.conflicts_with(listen) || held.is_for(listen)) {
                continue;
            }
            progress::count();
            match HeldSocket::bind(listen, None) {
                Ok(held) => new.push(held),
                Err(error) => {
                    new.iter().for_each(HeldSocket::close);
                    return Err(cannot(listen, &error));
                }
            }
        }
        if !new.is_empty() {
            self.services
                .entry(service.clone())
                .or_default()
                .extend(new);
            self.write(service);
        }
        Ok(())
    }

    /// Closes what was bound for a reload that does not come.
    pub(super) fn take_back(&mut self, service: &ServiceName, wanted: &[Listen]) {
        let Some(held) = self.services.get_mut(service) else {
            return;
        };
        held.retain(|held| {
            let stays = wanted.iter().any(|listen| held.is_for(listen));
            if !stays {
                held.close();
            }
            stays
        });
        self.write(service);
    }

    /// Whether sockets are held for a service.
    pub(super) fn has(&self, service: &str) -> bool {
        self.services.contains_key(service)
    }

    /// For people and programs.
    pub(super) fn shown(&self, service: &str, wanted: &[Listen]) -> Vec<Socket> {
        let held = self.services.get(service).map_or(&[][..], Vec::as_slice);
        let shown = wanted.iter().map(|listen| Socket {
            family: listen.address.key().to_owned(),
            address: listen.address.plain(),
            name: listen.name.clone().unwrap_or_else(|| service.to_owned()),
            held: held.iter().any(|held| held.is_for(listen)),
        });
        shown.collect()
    }

    /// The service is down, or goes down: nobody is to connect any more. An instance that still `lives`
    /// may finish what it does.
    pub(super) fn release(&mut self, service: &ServiceName, lives: bool) {
        for held in self.services.remove(service).into_iter().flatten() {
            match lives {
                true => listen::remove_path(&held.record.listen, held.record.file),
                false => held.close(),
            }
        }
        self.write(service);
    }

    /// The services that sockets are held for.
    pub(super) fn services(&self) -> Vec<ServiceName> {
        self.services.keys().cloned().collect()
    }

    /// All services are known: nobody wants the rest.
    pub(super) fn forget_pool(&mut self) {
        self.pool.clear();
    }

    /// Somebody has removed what is in the runtime directory: puts it back.
    pub(super) fn restore(&mut self) {
        self.records.forget_written();
        for service in self.services() {
            self.write(&service);
        }
    }

    /// For the spare, and for the next agent.
    fn write(&mut self, service: &ServiceName) {
        let held = self.services.get(service).into_iter().flatten();
        let records: Vec<Record> = held.map(|held| held.record.clone()).collect();
        self.records.write(service, records, "sockets");
    }
}

impl HeldSocket {
    /// As the next instance expects it.
    fn made_ready(mut self, wanted: &Listen) -> io::Result<Self> {
        // The last instance may have changed that.
        socket::set_waiting(self.socket.as_fd())?;
        listen::set_backlog(&self.socket, wanted)?;
        self.record.listen = wanted.clone();
        Ok(self)
    }
}

fn cannot(listen: &Listen, error: &io::Error) -> String {
    format!("cannot listen on {}: {error} (listen)", listen.address)
}

/// Takes a socket from a living instance. It may have moved it, or have given it to another of its
/// processes.
fn take(record: &Record, index: usize, from: &Donors<'_>) -> io::Result<OwnedFd> {
    let usual =
        RawFd::from(FIRST_DESCRIPTOR).saturating_add(index.try_into().unwrap_or(RawFd::MAX));
    let mut failed = None;
    for (pid, process) in &from.instances {
        match socket::taken_from(*process, usual, record.cookie) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = Some(error),
        }
        if let Some(number) = socket::number_in(*pid, record.inode) {
            return socket::taken_from(*process, number, record.cookie);
        }
    }
    let Some(failed) = failed else {
        return Err(io::ErrorKind::NotFound.into());
    };
    for pid in (from.others)().into_iter().take(MOST_PROCESSES) {
        progress::count();
        if let Some(number) = socket::number_in(pid, record.inode) {
            return socket::taken_from(pidfd::open(pid)?.as_fd(), number, record.cookie);
        }
    }
    match failed.raw_os_error() {
        Some(libc::EPERM) => Err(failed),
        _ => Err(io::Error::other("no process of the service has it open")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::slice;

    use super::super::pool::Pool;
    use super::*;
    use crate::model::Address;

    fn free() -> Listen {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Listen::at(Address::Tcp(free.local_addr().unwrap()))
    }

    fn address(listen: &Listen) -> SocketAddr {
        listen.address.ip().unwrap()
    }

    fn cookies(sockets: &[Arc<OwnedFd>]) -> Vec<u64> {
        let cookies = sockets.iter().map(|it| socket::cookie(it.as_fd()).unwrap());
        cookies.collect()
    }

    #[test]
    fn what_stays_is_the_same_socket_and_what_goes_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut sockets = Sockets::of(dir.path(), SocketPool::default());
        let [one, two, three] = [free(), free(), free()];
        let first = sockets.begin(&web, &[one.clone(), two.clone()]).unwrap();
        let before = cookies(&first);
        assert_eq!(
            cookies(&sockets.begin(&web, &[one.clone(), two.clone()]).unwrap()),
            before
        );
        // In the new order.
        let changed = [three.clone(), two.clone()];
        sockets.prepare(&web, &changed).unwrap();
        for listen in [&one, &two, &three] {
            TcpStream::connect(address(listen)).unwrap();
        }
        let after = cookies(&sockets.begin(&web, &changed).unwrap());
        assert_eq!(after[1], before[1]);
        TcpStream::connect(address(&one)).unwrap_err();
        let shown = sockets.shown("web", &[three.clone(), one.clone()]);
        assert!(shown[0].held && !shown[1].held, "{shown:?}");
        sockets.release(&web, false);
        for listen in [&one, &two, &three] {
            TcpStream::connect(address(listen)).unwrap_err();
        }
        assert!(sockets.recorded().is_empty());
        drop(first);
    }

    #[test]
    fn a_port_in_use_changes_nothing_before_a_restart_and_is_told_at_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut sockets = Sockets::of(dir.path(), SocketPool::default());
        let one = free();
        let taker = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = Listen::at(Address::Tcp(taker.local_addr().unwrap()));
        let expected = format!(
            "cannot listen on {}: the address is in use by another socket (listen)",
            taken.address
        );
        sockets.begin(&web, slice::from_ref(&one)).unwrap();
        let both = [free(), taken.clone()];
        assert_eq!(sockets.prepare(&web, &both).unwrap_err(), expected);
        TcpStream::connect(address(&both[0])).unwrap_err();
        TcpStream::connect(address(&one)).unwrap();
        assert_eq!(sockets.begin(&web, &[taken]).unwrap_err(), expected);
    }

    #[test]
    fn a_socket_moves_from_one_service_to_another_unless_both_may_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let [web, app]: [ServiceName; 2] = ["web".into(), "app".into()];
        let mut sockets = Sockets::of(dir.path(), SocketPool::default());
        let plain = free();
        let shared = Listen {
            reuse_port: true,
            ..free()
        };
        let both = [plain, shared];
        let before = cookies(&sockets.begin(&web, &both).unwrap());
        let after = cookies(&sockets.begin(&app, &both).unwrap());
        assert_eq!(after[0], before[0]);
        assert_ne!(after[1], before[1]);
        let shown = sockets.shown("web", &both);
        assert!(!shown[0].held && shown[1].held, "{shown:?}");
        assert_eq!(read::<Record>(&dir.path().join(SOCKETS), "web").len(), 1);
    }

    #[test]
    fn a_spare_holds_what_the_agent_holds_and_the_next_agent_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut sockets = Sockets::of(dir.path(), SocketPool::default());
        let [one, two] = [free(), free()];
        let before = cookies(&sockets.begin(&web, slice::from_ref(&one)).unwrap());
        let mut pool = Pool::of(dir.path());
        let agent = pidfd::open(std::process::id()).unwrap();
        pool.follow_all(agent.as_fd());
        sockets.begin(&web, &[one.clone(), two.clone()]).unwrap();
        pool.follow(agent.as_fd(), "web");
        // The agent dies.
        drop(sockets);
        TcpStream::connect(address(&two)).unwrap();
        let mut next = Sockets::of(dir.path(), pool.sockets);
        assert_eq!(next.recorded(), slice::from_ref(&web));
        let nobody = Donors {
            instances: Vec::new(),
            others: Box::new(Vec::new),
        };
        next.adopt(&web, &nobody);
        next.forget_pool();
        let after = cookies(&next.begin(&web, &[one.clone(), two.clone()]).unwrap());
        assert_eq!(after[0], before[0]);
        let mut pool = Pool::of(dir.path());
        pool.follow_all(agent.as_fd());
        next.release(&web, false);
        pool.follow(agent.as_fd(), "web");
        assert!(pool.sockets.is_empty());
    }
}

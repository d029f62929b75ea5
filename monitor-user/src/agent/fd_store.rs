//! The descriptors that services leave with the agent (`FDSTORE=1` of `sd_notify(3)`): their next
//! instance gets them, behind the sockets that are held for it.
//!
//! ```text
//! FD_STORE/SERVICE   what it has left: name, file, and the number in the agent
//! ```
//!
//! They are open until the service removes them, is stopped or fails for good, or until the other end
//! hangs up. The spare takes what is new from the agent, as it does with sockets; the next agent has
//! them from the spare that it was, or takes them from a living instance that still has them open. What
//! neither has is lost.
//!
//! Each has a number of its own for as long as the host is booted, and its record is removed before it is
//! closed. So whoever takes the descriptor of a record from the agent, and finds the record there
//! afterwards, has taken the right one.
//!
//! Reads and writes nothing through them. Who may send them is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::Agent;
use super::notify::Message;
use super::records::{Records, make_dir, names, read};
use super::runtime_dir::FD_STORE;
use super::sockets::Donors;
use crate::model::ServiceName;
use crate::os::descriptor::{self, Identity, OpenFiles};
use crate::os::waiter::{Interest, Waiter};
use crate::os::{self, pidfd, proc, progress, socket, spawn};

/// Names the descriptors that this process has from the program that it was before, each with its
/// number of the records: `PID:FD=ID,FD=ID`.
pub(super) const INHERITED: &str = "RESPAWN_FD_STORE";

/// So many fit into one variable.
const MOST_INHERITED: usize = 4000;

/// So many processes of a service are looked at for what it has left.
const MOST_PROCESSES: usize = 64;

/// So many different complaints are logged for an instance.
const MOST_COMPLAINTS: usize = 16;

/// What one is called that has no name, as with systemd.
const NO_NAME: &str = "stored";

/// The longest name, in bytes.
const LONGEST_NAME: usize = 255;

/// What a message asks of the store.
#[derive(Debug)]
pub(super) struct Order {
    /// `FDSTORE=1`
    keeps: bool,
    /// `FDSTOREREMOVE=1`, which comes first.
    removes: bool,
    /// `None`: the message has none that can be used.
    name: Option<String>,
    has_bad_name: bool,
    /// Whether those are dropped whose other end hangs up.
    is_watched: bool,
    descriptors: Vec<OwnedFd>,
    /// There was no room for all that were sent.
    lacks_descriptors: bool,
}

impl Order {
    /// What a text asks for; `None`: nothing, and the descriptors are closed.
    pub(super) fn of(
        text: &str,
        descriptors: Vec<OwnedFd>,
        lacks_descriptors: bool,
    ) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|it| it.strip_prefix(key));
        let keeps = value("FDSTORE=") == Some("1");
        let removes = value("FDSTOREREMOVE=") == Some("1");
        if !keeps && !removes {
            return None;
        }
        let name = value("FDNAME=");
        let usable = name.filter(|name| is_name(name));
        Some(Self {
            keeps,
            removes,
            name: usable.map(str::to_owned),
            has_bad_name: name.is_some() && usable.is_none(),
            is_watched: value("FDPOLL=") != Some("0"),
            descriptors,
            lacks_descriptors,
        })
    }
}

/// Whether it can stand in `LISTEN_FDNAMES`.
fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b' '..=b'~') && byte != b':';
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// What all services have left.
pub(super) struct FdStore {
    records: Records<Record>,
    services: BTreeMap<ServiceName, Vec<HeldDescriptor>>,
    /// What was wrong with the messages of each service's instance: each is logged once.
    complaints: BTreeMap<ServiceName, BTreeSet<String>>,
    last_id: u64,
    /// Ready when the other end of one has hung up.
    waiter: AsyncFd<Waiter>,
    /// What this process held as the spare.
    pool: Pool,
}

struct HeldDescriptor {
    record: Record,
    file: Arc<OwnedFd>,
}

/// What is known of a descriptor in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    name: String,
    id: u64,
    is_watched: bool,
    identity: Identity,
    /// Which descriptor of the agent it is.
    descriptor: RawFd,
}

impl FdStore {
    /// Of the agent of a runtime directory. `pool`: what it held before.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn of(runtime_dir: &Path, pool: Pool) -> io::Result<Self> {
        let waiter = os::async_fd(Waiter::new()?, tokio::io::Interest::READABLE)?;
        Ok(Self {
            records: Records::of(runtime_dir.join(FD_STORE)),
            services: BTreeMap::new(),
            complaints: BTreeMap::new(),
            last_id: 0,
            waiter,
            pool,
        })
    }

    /// Keeps what an order has, up to `most` altogether.
    fn keep(&mut self, service: &ServiceName, most: u16, order: Order) {
        let name = order.name.unwrap_or_else(|| NO_NAME.to_owned());
        let mut refusal = order
            .lacks_descriptors
            .then(|| "the agent has no room for more descriptors".to_owned());
        for file in order.descriptors {
            progress::count();
            match self.add(service, most, &name, order.is_watched, file) {
                Ok(()) => {}
                Err(why) => refusal = Some(why),
            }
        }
        self.write(service);
        if let Some(why) = refusal {
            let what =
                format!("it has sent descriptors that are not stored, and are closed: {why}");
            self.complain(service, what);
        }
    }

    /// Warns of what is wrong, once for each instance: it may be so in every message.
    fn complain(&mut self, service: &ServiceName, what: String) {
        let complaints = self.complaints.entry(service.clone()).or_default();
        if complaints.len() < MOST_COMPLAINTS && !complaints.contains(&what) {
            tracing::warn!(%service, "{what}; this is not logged again before its next start");
            complaints.insert(what);
        }
    }

    fn add(
        &mut self,
        service: &ServiceName,
        most: u16,
        name: &str,
        is_watched: bool,
        file: OwnedFd,
    ) -> Result<(), String> {
        let identity = Identity::of(file.as_fd()).map_err(|error| error.to_string())?;
        let stored = self.services.get(service).map_or(&[][..], Vec::as_slice);
        let is_stored = stored.iter().any(|held| {
            held.record.identity.is(&identity)
                && descriptor::is_same(held.file.as_fd(), file.as_fd())
        });
        if is_stored {
            return Ok(());
        }
        if stored.len() >= usize::from(most) {
            return Err(match most {
                0 => "fd_store is 0".to_owned(),
                most => format!("fd_store = {most} is full"),
            });
        }
        if !spawn::leaves_reserve(&file) || !spawn::can_hand(&file, stored.len()) {
            return Err(spawn::out_of_descriptors());
        }
        self.last_id = (self.last_id + 1).max(proc::since_boot_ns());
        let record = Record {
            name: name.to_owned(),
            id: self.last_id,
            is_watched,
            identity,
            descriptor: file.as_raw_fd(),
        };
        self.hold(service, record, file);
        Ok(())
    }

    fn hold(&mut self, service: &ServiceName, record: Record, file: OwnedFd) {
        if record.is_watched {
            let waiter = self.waiter.get_ref();
            match waiter.add(&file, Interest::HangUp, record.id) {
                // Nothing hangs up there: a file on a disk.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                Err(error) => tracing::debug!(
                    %service,
                    "its stored descriptor {} is kept even if its other end hangs up: {error}",
                    record.name
                ),
                Ok(()) => {}
            }
        }
        let held = HeldDescriptor {
            record: Record {
                descriptor: file.as_raw_fd(),
                ..record
            },
            file: Arc::new(file),
        };
        self.services.entry(service.clone()).or_default().push(held);
    }

    /// Closes those of which `goes` is true; returns whether there were any.
    fn let_go(&mut self, service: &ServiceName, mut goes: impl FnMut(&Record) -> bool) -> bool {
        let Some(held) = self.services.get_mut(service) else {
            return false;
        };
        let gone: Vec<HeldDescriptor> = held.extract_if(.., |held| goes(&held.record)).collect();
        if held.is_empty() {
            self.services.remove(service);
        }
        // Before they are closed, so that the spare takes nothing else for them.
        self.write(service);
        for held in &gone {
            // Others may have the file open too, and then the kernel would go on waiting.
            let _ = self.waiter.get_ref().remove(&*held.file);
        }
        !gone.is_empty()
    }

    /// What the next instance of a service gets, which may have as many as `most`: each with its name.
    pub(super) fn begin(
        &mut self,
        service: &ServiceName,
        most: u16,
    ) -> Vec<(String, Arc<OwnedFd>)> {
        self.complaints.remove(service);
        let mut count = 0;
        let is_over = |_: &Record| {
            count += 1;
            count > usize::from(most)
        };
        if self.let_go(service, is_over) {
            tracing::info!(%service, "closed what it has stored beyond fd_store = {most}");
        }
        let held = self.services.get(service).into_iter().flatten();
        held.map(|held| (held.record.name.clone(), Arc::clone(&held.file)))
            .collect()
    }

    /// Goes on holding what a service has left with an earlier agent, as far as this process or a living
    /// instance has it.
    fn adopt(&mut self, service: &ServiceName, donors: &Donors<'_>) {
        let records: Vec<Record> = read(self.records.dir(), service);
        let mut files: Vec<Option<OwnedFd>> = records
            .iter()
            .map(|record| self.pool.take(service, record.id))
            .collect();
        let failed = take_missing(&records, &mut files, donors);
        let mut lost = Vec::new();
        for (record, file) in records.into_iter().zip(files) {
            match file {
                Some(file) => self.hold(service, record, file),
                None => lost.push(record.name),
            }
        }
        self.write(service);
        if !lost.is_empty() {
            let why = match failed {
                Some(error) => format!("this agent may not take them from the service: {error}"),
                None => "neither a spare nor the service has them open".to_owned(),
            };
            tracing::warn!(%service, "stored descriptors are lost ({}): {why}", lost.join(", "));
        }
    }

    /// Closes what a service has left.
    fn release(&mut self, service: &ServiceName) {
        self.complaints.remove(service);
        self.let_go(service, |_| true);
    }

    pub(super) fn has(&self, service: &str) -> bool {
        self.services.contains_key(service)
    }

    /// The services that have left something.
    pub(super) fn services(&self) -> Vec<ServiceName> {
        self.services.keys().cloned().collect()
    }

    /// What they are called, in the order in which the next instance gets them.
    pub(super) fn names(&self, service: &str) -> Vec<String> {
        let held = self.services.get(service).into_iter().flatten();
        held.map(|held| held.record.name.clone()).collect()
    }

    /// Somebody has removed what is in the runtime directory: puts it back.
    pub(super) fn restore(&mut self) {
        self.records.forget_written();
        for service in self.services() {
            self.write(&service);
        }
    }

    /// Waits until the other end of one may have hung up. Cancellation loses nothing.
    pub(super) async fn needed(&mut self) -> io::Result<()> {
        self.waiter.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// Closes those whose other end has hung up; returns whose they were.
    fn drop_hung_up(&mut self) -> BTreeSet<ServiceName> {
        let mut ready = Vec::new();
        if let Err(error) = self.waiter.get_mut().drain(&mut ready) {
            tracing::error!("cannot wait for stored descriptors: {error}");
        }
        let ids: BTreeSet<u64> = ready.into_iter().map(|(id, _)| id).collect();
        let has_some =
            |held: &Vec<HeldDescriptor>| held.iter().any(|it| ids.contains(&it.record.id));
        let services = self.services.iter().filter(|(_, held)| has_some(held));
        let services: BTreeSet<_> = services.map(|(service, _)| service.clone()).collect();
        for service in &services {
            self.let_go(service, |record| {
                let goes = ids.contains(&record.id);
                if goes {
                    tracing::debug!(%service, name = record.name, "the other end of a stored descriptor has hung up");
                }
                goes
            });
        }
        services
    }

    /// For the spare, and for the next agent.
    fn write(&mut self, service: &ServiceName) {
        let held = self.services.get(service).into_iter().flatten();
        let records = held.map(|held| held.record.clone()).collect();
        self.records.write(service, records, "stored descriptors");
    }
}

/// Takes from living processes of the service what is missing. Returns why that could not be done, if it
/// could not.
fn take_missing(
    records: &[Record],
    files: &mut [Option<OwnedFd>],
    donors: &Donors<'_>,
) -> Option<io::Error> {
    if donors.instances.is_empty() {
        return None;
    }
    let mut failed = None;
    let take = |pid: u32, process: BorrowedFd<'_>, files: &mut [Option<OwnedFd>]| {
        progress::count();
        let open = OpenFiles::of(pid)?;
        let missing = records.iter().zip(files).filter(|(_, file)| file.is_none());
        for (record, file) in missing {
            *file = record.identity.take_from(process, &open)?;
        }
        io::Result::Ok(())
    };
    for (pid, process) in &donors.instances {
        failed = take(*pid, *process, files).err().or(failed);
    }
    if files.iter().any(Option::is_none) {
        for pid in (donors.others)().into_iter().take(MOST_PROCESSES) {
            // It may have ended since.
            if let Ok(process) = pidfd::open(pid) {
                let _ = take(pid, process.as_fd(), files);
            }
        }
    }
    failed
}

impl Agent {
    /// Does what a message of a service asks of the store.
    pub(super) fn store(&mut self, service: &ServiceName, order: Order) {
        if order.has_bad_name {
            let what = format!(
                "the name of a descriptor (FDNAME) is not used: it has to be 1 to {LONGEST_NAME} printable ASCII characters without colons"
            );
            self.fd_store.complain(service, what);
        }
        if let Some(name) = order.name.as_ref().filter(|_| order.removes) {
            if self.fd_store.let_go(service, |record| record.name == *name) {
                self.laid_out_has_more(service);
            }
        } else if order.removes {
            let what = "FDSTOREREMOVE=1 needs FDNAME, and nothing is removed".to_owned();
            self.fd_store.complain(service, what);
        }
        let spec = self.supervisor.spec(service);
        let most = spec.map_or(0, |spec| spec.exec.fd_store);
        // One that is being stopped, and does not come back, has nobody to leave anything to.
        if order.keeps && self.is_up(service) {
            self.fd_store.keep(service, most, order);
            // The next instance is to have it.
            self.outdate_standby(service);
        }
    }

    /// What is laid out for the next start, and what stands by for it, has descriptors open that the service
    /// has no more.
    fn laid_out_has_more(&mut self, service: &ServiceName) {
        self.instances.lay_out_again(service);
        self.outdate_standby(service);
    }

    /// Does what messages ask for that an instance has sent before its end, and that were not read before
    /// that was known. Whatever else they say is of no use any more.
    pub(super) fn store_last(&mut self, service: &ServiceName) {
        let spec = self.supervisor.spec(service);
        if spec.is_none_or(|spec| spec.exec.fd_store == 0) {
            return;
        }
        for message in self.notify.rest(service) {
            let Message {
                instance,
                sender,
                order,
                ..
            } = message;
            if let Some(order) = order
                && self.may_notify(service, &instance, sender)
            {
                self.store(service, order);
            }
        }
    }

    /// Goes on holding what services have left with an earlier agent.
    pub(super) fn adopt_stored(&mut self) {
        for service in self.fd_store.records.services() {
            progress::count();
            let donors = Donors::of(&self.instances, &service);
            self.fd_store.adopt(&service, &donors);
        }
        self.fd_store.pool.files.clear();
    }

    /// Closes what a service has left that is to be down, or will not be started again.
    pub(super) fn tend_stored(&mut self, service: &ServiceName) {
        let status = self.supervisor.status(service);
        if status.is_none_or(|status| status.instance.is_none()) {
            self.store_last(service);
        }
        if self.fd_store.has(service) && !self.is_up(service) {
            self.release_stored(service);
        }
    }

    pub(super) fn release_stored(&mut self, service: &ServiceName) {
        if self.fd_store.has(service) {
            self.instances.lay_out_again(service);
            self.fd_store.release(service);
        }
    }

    /// Closes stored descriptors whose other end has hung up.
    pub(super) fn drop_hung_up(&mut self, ready: io::Result<()>) {
        if let Err(error) = ready {
            tracing::error!("cannot wait for stored descriptors: {error}");
        }
        for service in self.fd_store.drop_hung_up() {
            self.laid_out_has_more(&service);
        }
    }
}

/// What a spare holds, for the time when it is the agent.
#[derive(Default)]
pub(super) struct Pool {
    dir: PathBuf,
    files: HashMap<String, Vec<(u64, OwnedFd)>>,
    has_failed: bool,
}

impl Pool {
    /// Of this process, with what it has from the program that it was before. To be called once.
    pub(super) fn of(runtime_dir: &Path) -> Self {
        let mut pool = Self {
            dir: runtime_dir.join(FD_STORE),
            ..Self::default()
        };
        let said = std::env::var(INHERITED).unwrap_or_default();
        let mut files: HashMap<u64, OwnedFd> = named(&said, std::process::id())
            .into_iter()
            .filter_map(|(number, id)| Some((id, descriptor::inherited(number)?)))
            .collect();
        if files.is_empty() {
            return pool;
        }
        for service in names(&pool.dir) {
            let records: Vec<Record> = read(&pool.dir, &service);
            let own = records.into_iter();
            let own = own.filter_map(|record| Some((record.id, files.remove(&record.id)?)));
            pool.files.insert(service, own.collect());
        }
        pool
    }

    /// The directory to watch; it is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn dir(&self) -> io::Result<&Path> {
        make_dir(&self.dir)?;
        Ok(&self.dir)
    }

    /// Holds what an agent holds now.
    pub(super) fn follow_all(&mut self, agent: BorrowedFd<'_>) {
        let names = names(&self.dir);
        self.files.retain(|service, _| names.contains(service));
        for service in names {
            self.follow(agent, &service);
        }
    }

    /// The same of one service, which may have left others.
    pub(super) fn follow(&mut self, agent: BorrowedFd<'_>, service: &str) {
        let records: Vec<Record> = read(&self.dir, service);
        let mut held = self.files.remove(service).unwrap_or_default();
        for record in records {
            if held.iter().any(|(id, _)| *id == record.id) {
                continue;
            }
            match taken(agent, &record) {
                Ok(file) => held.push((record.id, file)),
                // Without the right to it, or a descriptor; else it has just been closed.
                Err(error) if error.raw_os_error().is_some_and(|it| it != libc::EBADF) => {
                    if !std::mem::replace(&mut self.has_failed, true) {
                        tracing::warn!(
                            service,
                            "the spare cannot hold all descriptors that services have stored: {error}; if the agent dies, those that their services have closed are lost"
                        );
                    }
                }
                Err(_) => {}
            }
        }
        // What is still recorded was not closed when it was taken.
        let records: Vec<Record> = read(&self.dir, service);
        held.retain(|(id, _)| records.iter().any(|record| record.id == *id));
        if !held.is_empty() {
            self.files.insert(service.to_owned(), held);
        }
    }

    fn take(&mut self, service: &str, id: u64) -> Option<OwnedFd> {
        let held = self.files.get_mut(service)?;
        let index = held.iter().position(|(other, _)| *other == id)?;
        Some(held.swap_remove(index).1)
    }

    /// Has all of them go along, or not, when this process becomes another program; returns what that
    /// one's environment has to say.
    pub(super) fn hand_on(&self, is_handed: bool) -> String {
        let files = self.files.values().flatten().take(MOST_INHERITED);
        let handed = files.filter(|(_, file)| {
            // One that does not go along may be taken from the instance.
            socket::set_inherited(file.as_fd(), is_handed).is_ok()
        });
        let numbers = handed.map(|(id, file)| format!("{}={id}", file.as_raw_fd()));
        let numbers: Vec<String> = numbers.collect();
        format!("{}:{}", std::process::id(), numbers.join(","))
    }
}

fn taken(agent: BorrowedFd<'_>, record: &Record) -> io::Result<OwnedFd> {
    let file = descriptor::taken_from(agent, record.descriptor, &record.identity)?;
    match spawn::leaves_reserve(&file) {
        true => Ok(file),
        // It needs some to take over.
        false => Err(io::Error::from_raw_os_error(libc::EMFILE)),
    }
}

/// The descriptors that a text names for this process, each once, with their numbers of the records.
fn named(text: &str, pid: u32) -> BTreeMap<RawFd, u64> {
    let Some((of, pairs)) = text.split_once(':') else {
        return BTreeMap::new();
    };
    if of.parse() != Ok(pid) {
        return BTreeMap::new();
    }
    let pairs = pairs.split(',').filter_map(|pair| {
        let (number, id) = pair.split_once('=')?;
        Some((number.parse().ok()?, id.parse().ok()?))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn store(dir: &Path, pool: Pool) -> FdStore {
        FdStore::of(dir, pool).unwrap()
    }

    /// A message with these descriptors.
    fn order(text: &str, files: Vec<OwnedFd>) -> Order {
        Order::of(text, files, false).unwrap()
    }

    /// The end that is stored, and the other one.
    fn pair() -> (OwnedFd, UnixStream) {
        let (stored, other) = UnixStream::pair().unwrap();
        (stored.into(), other)
    }

    fn is_open(mut other: &UnixStream) -> bool {
        other.set_nonblocking(true).unwrap();
        other.read(&mut [0]).is_err()
    }

    fn agent() -> OwnedFd {
        pidfd::open(std::process::id()).unwrap()
    }

    fn nobody() -> Donors<'static> {
        Donors {
            instances: Vec::new(),
            others: Box::new(Vec::new),
        }
    }

    fn names_of(given: &[(String, Arc<OwnedFd>)]) -> Vec<&str> {
        given.iter().map(|(name, _)| &**name).collect()
    }

    #[test]
    fn what_a_message_asks_for() {
        let long = "x".repeat(LONGEST_NAME);
        for (text, keeps, removes, name, is_watched) in [
            ("FDSTORE=1", true, false, None, true),
            (
                "STATUS=x\nFDNAME=a b\nFDSTORE=1",
                true,
                false,
                Some("a b"),
                true,
            ),
            (
                "FDSTORE=1\nFDPOLL=0\nFDNAME=a",
                true,
                false,
                Some("a"),
                false,
            ),
            ("FDSTORE=1\nFDPOLL=1", true, false, None, true),
            ("FDSTOREREMOVE=1\nFDNAME=a", false, true, Some("a"), true),
            (
                "FDSTOREREMOVE=1\nFDSTORE=1\nFDNAME=a",
                true,
                true,
                Some("a"),
                true,
            ),
            (
                &format!("FDSTORE=1\nFDNAME={long}"),
                true,
                false,
                Some(&*long),
                true,
            ),
        ] {
            let order = order(text, Vec::new());
            assert_eq!((order.keeps, order.removes), (keeps, removes), "{text}");
            assert_eq!(order.name.as_deref(), name, "{text}");
            assert_eq!((order.is_watched, order.has_bad_name), (is_watched, false));
        }
        for name in ["", "a:b", "\u{e4}", "a\tb", &format!("{long}x")] {
            let order = order(&format!("FDSTORE=1\nFDNAME={name}"), Vec::new());
            assert!(order.has_bad_name && order.name.is_none(), "{name}");
        }
        for text in [
            "",
            "FDSTORE=0",
            "FDSTORE",
            "READY=1\nFDNAME=a",
            "XFDSTORE=1",
        ] {
            assert!(Order::of(text, Vec::new(), false).is_none(), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_given_to_each_instance_and_removed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut store = store(dir.path(), Pool::default());
        let (one, other) = pair();
        let again = one.try_clone().unwrap();
        store.keep(&web, 9, order("FDSTORE=1\nFDNAME=a", vec![one, again]));
        let (two, second) = pair();
        store.keep(&web, 9, order("FDSTORE=1", vec![two]));
        for _ in 0..2 {
            let given = store.begin(&web, 9);
            assert_eq!(names_of(&given), ["a", "stored"]);
            let mut stream = UnixStream::from(given[0].1.try_clone().unwrap());
            stream.write_all(b"x").unwrap();
            (&other).read_exact(&mut [0]).unwrap();
        }
        assert!(store.let_go(&web, |record| record.name == "a"));
        assert!(!is_open(&other) && is_open(&second));
        assert_eq!(store.names("web"), ["stored"]);
        assert!(!store.let_go(&web, |record| record.name == "a"));
        store.release(&web);
        assert!(!is_open(&second) && !store.has("web"));
        assert!(store.records.services().is_empty());
    }

    #[tokio::test]
    async fn what_is_beyond_the_limit_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut store = store(dir.path(), Pool::default());
        let pairs: Vec<_> = (0..5).map(|_| pair()).collect();
        let (files, others): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        store.keep(&web, 3, order("FDSTORE=1", files));
        let open = |others: &[UnixStream]| others.iter().map(is_open).collect::<Vec<_>>();
        assert_eq!(open(&others), [true, true, true, false, false]);
        assert_eq!(store.complaints[&web].len(), 1);
        // With another config.
        assert_eq!(store.begin(&web, 1).len(), 1);
        assert_eq!(open(&others), [true, false, false, false, false]);
        assert!(store.complaints.is_empty());
        assert!(store.begin(&web, 0).is_empty());
        let (one, other) = pair();
        store.keep(&web, 0, order("FDSTORE=1", vec![one]));
        assert!(!is_open(&other) && !store.has("web"));
    }

    #[tokio::test]
    async fn what_hangs_up_is_closed_unless_it_is_not_to_be_watched() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut store = store(dir.path(), Pool::default());
        let (one, first) = pair();
        let (two, second) = pair();
        let (three, third) = pair();
        let file = tempfile::tempfile().unwrap();
        store.keep(&web, 9, order("FDSTORE=1\nFDNAME=a", vec![one]));
        store.keep(&web, 9, order("FDSTORE=1\nFDNAME=b\nFDPOLL=0", vec![two]));
        store.keep(
            &web,
            9,
            order("FDSTORE=1\nFDNAME=c", vec![three, file.into()]),
        );
        (&third).write_all(b"x").unwrap();
        assert!(store.drop_hung_up().is_empty());
        drop((first, second));
        store.needed().await.unwrap();
        assert!(store.drop_hung_up().contains(&web));
        assert_eq!(store.names("web"), ["b", "c", "c"]);
        assert!(store.drop_hung_up().is_empty());
        drop(third);
        store.needed().await.unwrap();
        store.drop_hung_up();
        assert_eq!(store.names("web"), ["b", "c"]);
    }

    #[tokio::test]
    async fn a_spare_holds_what_the_agent_holds_and_the_next_agent_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut first = store(dir.path(), Pool::default());
        let (one, other) = pair();
        first.keep(&web, 9, order("FDSTORE=1\nFDNAME=a", vec![one]));
        let mut pool = Pool::of(dir.path());
        let agent = agent();
        pool.follow_all(agent.as_fd());
        let (two, gone) = pair();
        let event = nix::sys::eventfd::EventFd::new().unwrap();
        first.keep(&web, 9, order("FDSTORE=1\nFDNAME=b", vec![two]));
        first.keep(&web, 9, order("FDSTORE=1\nFDNAME=c", vec![event.into()]));
        pool.follow(agent.as_fd(), "web");
        first.let_go(&web, |record| record.name == "b");
        pool.follow(agent.as_fd(), "web");
        assert!(!is_open(&gone));
        let pid = std::process::id();
        let text = pool.hand_on(false);
        let ids: Vec<u64> = pool.files["web"].iter().map(|(id, _)| *id).collect();
        assert_eq!(
            named(&text, pid).into_values().collect::<BTreeSet<_>>(),
            ids.into_iter().collect()
        );
        // The agent dies.
        drop(first);
        assert!(is_open(&other));
        let mut next = store(dir.path(), pool);
        next.adopt(&web, &nobody());
        next.pool.files.clear();
        assert_eq!(names_of(&next.begin(&web, 9)), ["a", "c"]);
        assert!(is_open(&other));
        // It still sees that it hangs up.
        drop(other);
        next.needed().await.unwrap();
        next.drop_hung_up();
        assert_eq!(next.names("web"), ["c"]);
        let mut pool = Pool::of(dir.path());
        pool.follow_all(agent.as_fd());
        next.release(&web);
        pool.follow(agent.as_fd(), "web");
        assert!(pool.files.is_empty());
    }

    #[tokio::test]
    async fn without_a_spare_it_is_taken_from_whoever_still_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut first = store(dir.path(), Pool::default());
        let (one, other) = pair();
        let (two, gone) = pair();
        let (reader, writer) = io::pipe().unwrap();
        let own = [one.try_clone().unwrap(), writer.try_clone().unwrap().into()];
        first.keep(&web, 9, order("FDSTORE=1\nFDNAME=a", vec![one]));
        first.keep(&web, 9, order("FDSTORE=1\nFDNAME=b", vec![two]));
        first.keep(&web, 9, order("FDSTORE=1\nFDNAME=c", vec![writer.into()]));
        drop(first);
        assert!(!is_open(&gone));
        // This process is the service now.
        let process = agent();
        let donors = Donors {
            instances: vec![(std::process::id(), process.as_fd())],
            others: Box::new(Vec::new),
        };
        let mut next = store(dir.path(), Pool::default());
        next.adopt(&web, &donors);
        let given = next.begin(&web, 9);
        assert_eq!(names_of(&given), ["a", "c"]);
        for ((_, file), own) in given.iter().zip(&own) {
            assert!(descriptor::is_same(file.as_fd(), own.as_fd()));
        }
        assert!(is_open(&other));
        drop(reader);
        // Nobody has any of it.
        drop((next, given));
        let mut last = store(dir.path(), Pool::default());
        last.adopt(&web, &nobody());
        assert!(!last.has("web") && last.records.services().is_empty());
    }

    #[test]
    fn descriptors_are_named_for_one_process() {
        let expected = BTreeMap::from([(3, 30), (5, 50)]);
        assert_eq!(named("7:3=30,5=50,x=1,4,6=", 7), expected);
        for text in ["8:3=30", "", "7", ":3=30", "7:"] {
            assert!(named(text, 7).is_empty(), "{text}");
        }
    }
}

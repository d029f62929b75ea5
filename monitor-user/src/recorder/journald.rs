//! Tells journald of the deaths of units, in journald's own protocol, so that `journalctl -u` shows
//! them among the unit's own lines. Never holds up the recorder: what journald does not take now waits
//! here, and is sent once journald reads again. Beyond that deaths are counted, and are in the files alone.
//!
//! ```text
//! death ─▶ entry ─▶ queue ─▶ socket ─▶ journald
//!                     └─ full, or too long ─▶ missed, a line in the recorder's files
//! ```
//!
//! Invariant: each death of a unit is sent once, or waits, or is counted as missed, as long as the recorder
//! lives and there is a journald.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

mod entry;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::accounts::Accounts;
use crate::model::{Event, Profile};
use crate::os;

/// Where journald listens.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// What may wait for journald, in bytes: about 1,000 deaths.
const ROOM: usize = 2 << 20;

/// Between two tries to reach a journald that refuses.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket, and what waits for it.
pub(super) struct Journald {
    path: PathBuf,
    /// `None`: it could not be connected at the last try.
    socket: Option<AsyncFd<UnixDatagram>>,
    waiting: VecDeque<Vec<u8>>,
    /// Of all that waits.
    waiting_bytes: usize,
    /// Deaths that it was never told of, and that no line tells of yet.
    missed: u64,
    /// It was said that it takes nothing.
    has_complained: bool,
    accounts: Accounts,
}

impl Journald {
    pub(super) fn at(path: PathBuf) -> Self {
        Self {
            path,
            socket: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            missed: 0,
            has_complained: false,
            accounts: Accounts::of_this_host(),
        }
    }

    /// Tells of a death, if it is of a unit.
    pub(super) fn tell(&mut self, exited: &Event, profile: &Profile) {
        let Some(entry) = entry::of(exited, profile, &self.accounts) else {
            return;
        };
        // In the order of the deaths: nothing overtakes what waits.
        self.flush();
        if self.waiting_bytes + entry.len() > ROOM {
            self.missed += 1;
            return;
        }
        self.waiting_bytes += entry.len();
        self.waiting.push_back(entry.into_bytes());
        self.flush();
    }

    /// Waits until journald may take something; for ever if nothing waits for it.
    pub(super) async fn ready(&mut self) {
        match &self.socket {
            _ if self.waiting.is_empty() => std::future::pending().await,
            Some(socket) => {
                if let Ok(mut ready) = socket.writable().await {
                    // What is told from here on comes after the next try to send.
                    ready.clear_ready();
                }
            }
            None => tokio::time::sleep(PAUSE).await,
        }
    }

    /// Sends what waits, as far as journald takes it.
    pub(super) fn flush(&mut self) {
        while let Some(entry) = self.waiting.front() {
            match send(&mut self.socket, &self.path, entry) {
                Ok(()) => self.has_complained = false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.complain("it does not read");
                }
                // There is no journald on this host, or not now.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => self.missed += 1,
                Err(error) => return self.complain(&error.to_string()),
            }
            self.drop_first();
        }
    }

    /// How many deaths journald was never told of, once it goes on with others; 0 as long as there is
    /// nothing new to say.
    pub(super) fn missed(&self) -> u64 {
        if self.waiting.is_empty() {
            self.missed
        } else {
            0
        }
    }

    /// Gives up what waits.
    pub(super) fn give_up(&mut self) {
        self.flush();
        self.missed += u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    /// So many of those missed are in a line.
    pub(super) fn told_missed(&mut self, count: u64) {
        self.missed -= count;
        tracing::warn!(
            "journald has taken no entry for {count} deaths of units; `respawn deaths` shows them"
        );
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.waiting.pop_front() {
            self.waiting_bytes -= entry.len();
        }
    }

    fn complain(&mut self, why: &str) {
        if !std::mem::replace(&mut self.has_complained, true) {
            let path = self.path.display();
            tracing::warn!("journald at {path} takes no death: {why}; deaths of units wait for it");
        }
    }
}

/// Once more, on a new socket, if the one of before has gone.
fn send(
    socket: &mut Option<AsyncFd<UnixDatagram>>,
    path: &Path,
    datagram: &[u8],
) -> io::Result<()> {
    if let Some(open) = socket {
        match open.get_ref().send(datagram) {
            Err(error) if is_gone(&error) => *socket = None,
            sent => return sent.map(drop),
        }
    }
    let new = UnixDatagram::unbound()?;
    new.set_nonblocking(true)?;
    new.connect(path)?;
    let new = os::async_fd(new, Interest::WRITABLE)?;
    socket.insert(new).get_ref().send(datagram).map(drop)
}

/// Whether a new socket may help.
fn is_gone(error: &io::Error) -> bool {
    error.kind() != ErrorKind::WouldBlock && error.raw_os_error() != Some(libc::EMSGSIZE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram as Receiver;

    use serde_json::json;

    use super::*;
    use crate::deaths::Kept;
    use crate::journal::JournalLine;

    /// The death of a unit's process with that pid.
    fn death(pid: u32) -> (Event, Profile) {
        let text = json!({"seq": 1, "event": "exited", "pid": pid, "comm": "nginx", "unit": "nginx.service",
            "argv": null, "argv_cut": false, "ancestors": [],
            "cause": {"kind": "exited", "code": 3, "signal": null, "core_dumped": false}})
        .to_string();
        let event: Event = text.parse().unwrap();
        let line = JournalLine { text, event };
        let profile = Kept::of(&line).unwrap().profile;
        (line.event, profile)
    }

    fn tell(journald: &mut Journald, pids: std::ops::Range<u32>) {
        for pid in pids {
            let (event, profile) = death(pid);
            journald.tell(&event, &profile);
        }
    }

    /// The pids of the entries that are there to be read.
    fn received(receiver: &Receiver) -> Vec<u32> {
        receiver.set_nonblocking(true).unwrap();
        let mut buffer = [0; 8192];
        let mut pids = Vec::new();
        while let Ok(length) = receiver.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let pid = text
                .lines()
                .find_map(|line| line.strip_prefix("OBJECT_PID="));
            pids.push(pid.unwrap().parse().unwrap());
        }
        pids
    }

    /// Reads until nothing waits any more.
    async fn read_all(journald: &mut Journald, receiver: &Receiver) -> Vec<u32> {
        let mut pids = Vec::new();
        loop {
            pids.extend(received(receiver));
            if journald.waiting.is_empty() {
                return pids;
            }
            let ready = tokio::time::timeout(Duration::from_secs(60), journald.ready());
            ready.await.unwrap();
            journald.flush();
        }
    }

    #[tokio::test]
    async fn what_journald_does_not_read_at_once_waits_and_keeps_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = Receiver::bind(&path).unwrap();
        let mut journald = Journald::at(path);
        // More than any socket's queue has room for by default.
        tell(&mut journald, 0..1000);
        assert!(!journald.waiting.is_empty());
        let pids = read_all(&mut journald, &receiver).await;
        assert_eq!(pids, (0..1000).collect::<Vec<_>>());
        assert_eq!((journald.missed(), journald.waiting_bytes), (0, 0));
    }

    #[tokio::test]
    async fn what_has_no_room_is_counted_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = Receiver::bind(&path).unwrap();
        let mut journald = Journald::at(path);
        tell(&mut journald, 0..20_000);
        assert!(journald.waiting_bytes <= ROOM);
        // Told once it goes on.
        assert_eq!(journald.missed(), 0);
        let pids = read_all(&mut journald, &receiver).await;
        let missed = journald.missed();
        assert!(missed > 0);
        assert_eq!(
            u32::try_from(pids.len()).unwrap() + u32::try_from(missed).unwrap(),
            20_000
        );
        journald.told_missed(missed);
        assert_eq!(journald.missed(), 0);
        // What waits at the end is counted too.
        tell(&mut journald, 0..1000);
        let waiting = u64::try_from(journald.waiting.len()).unwrap();
        journald.give_up();
        assert_eq!(journald.missed(), waiting);
        assert!(waiting > 0);
    }

    #[tokio::test]
    async fn a_journald_that_is_not_there_costs_nothing_and_the_next_one_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut journald = Journald::at(path.clone());
        tell(&mut journald, 0..3);
        assert_eq!((journald.waiting.len(), journald.missed()), (0, 0));
        let first = Receiver::bind(&path).unwrap();
        tell(&mut journald, 3..4);
        assert_eq!(received(&first), [3]);
        // Its socket is there, and nobody has it open: it is being started again.
        drop(first);
        tell(&mut journald, 4..6);
        assert_eq!((journald.waiting.len(), journald.missed()), (2, 0));
        std::fs::remove_file(&path).unwrap();
        let second = Receiver::bind(&path).unwrap();
        tell(&mut journald, 6..7);
        assert_eq!(received(&second), [4, 5, 6]);
    }
}

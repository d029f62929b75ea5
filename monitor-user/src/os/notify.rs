//! Sockets to which services send notifications, as `sd_notify(3)` has it: datagrams with lines such as
//! `READY=1`, each with the sender's credentials. What a message means is said elsewhere.
//!
//! A service has its socket open too, so that messages are kept while no agent lives. It shares what is
//! set on the socket, and its queue: whatever it does with them, a read here neither blocks nor fails for
//! good.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockname, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, chown};

/// The number under which a service has its socket open. The kernel's default limit is 1,024, and the
/// numbers from 3 on are for `LISTEN_FDS`.
pub(crate) const DESCRIPTOR: i32 = 900;

/// Longer messages are refused, as systemd does.
const MOST_BYTES: usize = 4096;

/// Room for credentials, for as many descriptors as a message can carry (`SCM_MAX_FD`, 253), and for what
/// else a service may have switched on.
const CONTROL_BYTES: usize = 4096;

/// How many messages a queue holds at least, if the kernel lets this process say so: what systemd sets for
/// the whole host when it boots.
const QUEUE: u32 = 512;

/// How many it holds otherwise. A socket has what this says when it is made (`unix_create1`,
/// net/unix/af_unix.c); nothing changes it later.
const QUEUE_SETTING: &str = "/proc/sys/net/unix/max_dgram_qlen";

/// While it lives, sockets that are made in this network namespace have queues of [`QUEUE`] messages or more.
/// The setting is as it was afterwards; it stays at [`QUEUE`] if this process is killed meanwhile, which
/// takes nothing from anybody.
struct LongerQueues {
    before: u32,
}

impl LongerQueues {
    /// `None`: they have them already, or this process may not change that.
    fn begin() -> Option<Self> {
        let before = queue_setting().filter(|length| *length < QUEUE)?;
        std::fs::write(QUEUE_SETTING, QUEUE.to_string()).ok()?;
        Some(Self { before })
    }
}

impl Drop for LongerQueues {
    fn drop(&mut self) {
        // Unless somebody else has set it meanwhile.
        if queue_setting() == Some(QUEUE)
            && let Err(error) = std::fs::write(QUEUE_SETTING, self.before.to_string())
        {
            tracing::warn!("{QUEUE_SETTING} stays at {QUEUE}: {error}");
        }
    }
}

/// How many messages the queue of a notify socket holds that this process makes, if the kernel says so. Makes
/// none.
pub(crate) fn queue_length() -> Option<u32> {
    let setting = queue_setting()?;
    let mut options = std::fs::File::options();
    // Whoever may not change it may not open it either.
    let may_change = options.write(true).open(QUEUE_SETTING).is_ok();
    Some(if may_change {
        setting.max(QUEUE)
    } else {
        setting
    })
}

/// Whether that is as long as it should be.
pub(crate) fn is_long(queue: u32) -> bool {
    queue >= QUEUE
}

/// How many messages the queue of a socket holds that is made now.
fn queue_setting() -> Option<u32> {
    std::fs::read_to_string(QUEUE_SETTING)
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A socket to which one service sends notifications.
#[derive(Debug)]
pub(crate) struct NotifySocket(OwnedFd);

/// One datagram. Whoever drops it closes the descriptors, which is what the sender of `BARRIER=1` waits
/// for.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// `None`: it was longer than what is taken, or not UTF-8.
    pub(crate) text: Option<String>,
    /// Who sent it: pid and user ID; `None` if the kernel does not say.
    pub(crate) sender: Option<(u32, u32)>,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// This process has no room for all that were sent.
    pub(crate) lacks_descriptors: bool,
}

impl NotifySocket {
    /// Makes one at `path`, in place of what is there, which only `owner` (user, group) and root can send
    /// to. `None`: it is for a service of whoever calls. One of root's may change to another user before it
    /// says anything, as mosquitto does: then everybody can send, and who has sent it decides what counts.
    /// Its directory has to be one that nobody else can write to.
    ///
    /// # Errors
    /// The path is too long for a socket, and the kernel's.
    pub(crate) fn bind(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let longer = LongerQueues::begin();
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        drop(longer);
        setsockopt(&socket, sockopt::PassCred, &true)?;
        // The mode of a socket's file is that of the socket before it is bound (`unix_bind_bsd`,
        // net/unix/af_unix.c).
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        super::remove_file(path)?;
        bind(socket.as_raw_fd(), &address(path)?)?;
        if let Some((user, group)) = owner {
            chown(path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        } else if Uid::effective().is_root() {
            // Whatever the mask says.
            std::fs::set_permissions(path, Permissions::from_mode(0o666))?;
        }
        Ok(Self(socket))
    }

    /// The one that a service has open, if it is that of this path and has this cookie.
    ///
    /// # Errors
    /// It has another one or none there, or this process may not take it: that needs the right to trace
    /// the service.
    pub(crate) fn of(process: BorrowedFd<'_>, path: &Path, cookie: u64) -> io::Result<Self> {
        Self::known(
            super::socket::taken_from(process, DESCRIPTOR, cookie)?,
            path,
        )
    }

    /// One that this process has, if it is that of this path.
    ///
    /// # Errors
    /// It is another one.
    pub(crate) fn known(socket: OwnedFd, path: &Path) -> io::Result<Self> {
        let socket = Self(socket);
        let name: UnixAddr = getsockname(socket.0.as_raw_fd())?;
        if name.path() == Some(path) {
            Ok(socket)
        } else {
            Err(io::Error::other("it is another socket"))
        }
    }

    /// What the kernel names it by, as long as it is booted (`SO_COOKIE`).
    ///
    /// # Errors
    /// None that is known.
    pub(crate) fn cookie(&self) -> io::Result<u64> {
        super::socket::cookie(self.0.as_fd())
    }

    /// The oldest message that has not been read; `None`: there is none now.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn receive(&self) -> io::Result<Option<Datagram>> {
        let mut bytes = [0; MOST_BYTES];
        let received = loop {
            match receive(self.0.as_fd(), &mut bytes) {
                Ok(received) => break received,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        let is_cut = received.flags & libc::MSG_TRUNC != 0;
        let text = bytes.get(..received.length).filter(|_| !is_cut);
        let text = text.and_then(|bytes| std::str::from_utf8(bytes).ok());
        Ok(Some(Datagram {
            text: text.map(str::to_owned),
            sender: received.sender,
            descriptors: received.descriptors,
            lacks_descriptors: received.flags & libc::MSG_CTRUNC != 0,
        }))
    }
}

/// What `recvmsg(2)` returns beside the bytes.
struct Received {
    length: usize,
    flags: libc::c_int,
    sender: Option<(u32, u32)>,
    descriptors: Vec<OwnedFd>,
}

/// A place for control messages, aligned as their heads have to be.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Without waiting. (What `nix` has for it names none of the descriptors where the kernel could not pass
/// all, so that nobody could close the others.)
fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Received, Errno> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeros are a `msghdr`.
    let mut head: libc::msghdr = unsafe { std::mem::zeroed() };
    head.msg_iov = &raw mut part;
    head.msg_iovlen = 1;
    head.msg_control = (&raw mut control).cast();
    head.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the head names two places, with their true sizes, which live as long as the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut head, flags) };
    let length = usize::try_from(length).map_err(|_| Errno::last())?;
    let mut received = Received {
        length,
        flags: head.msg_flags,
        sender: None,
        descriptors: Vec::new(),
    };
    // SAFETY: the kernel has filled in the head, and the place for control messages up to the length there.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const head) };
    while !message.is_null() {
        // SAFETY: it lies within that place, as the two macros see to.
        unsafe { received.add(message) };
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(&raw const head, message) };
    }
    Ok(received)
}

impl Received {
    /// Takes what a control message has.
    ///
    /// # Safety
    /// It is one that the kernel has just written, and that nobody has taken.
    unsafe fn add(&mut self, message: *const libc::cmsghdr) {
        // SAFETY: the caller says that it is one.
        let head = unsafe { &*message };
        // SAFETY: as above; the data follow the head.
        let data = unsafe { libc::CMSG_DATA(message) };
        let bytes = head
            .cmsg_len
            .saturating_sub(data.addr().saturating_sub(message.addr()));
        match (head.cmsg_level, head.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if bytes >= size_of::<libc::ucred>() => {
                // SAFETY: there are as many bytes, which are credentials.
                let who = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                let pid = u32::try_from(who.pid).ok();
                self.sender = pid.map(|pid| (pid, who.uid));
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let numbers = data.cast::<libc::c_int>();
                for index in 0..bytes / size_of::<libc::c_int>() {
                    // SAFETY: so many numbers are there.
                    let number = unsafe { numbers.add(index).read_unaligned() };
                    // SAFETY: the kernel has just made it for us, and nobody else knows it.
                    self.descriptors
                        .push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
            _ => {}
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn address(path: &Path) -> io::Result<UnixAddr> {
    UnixAddr::new(path).map_err(|_| {
        let length = path.as_os_str().len();
        let message = format!("the path is {length} bytes long, and that of a socket at most 107");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn messages_come_in_their_order_with_their_sender() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        let socket = NotifySocket::bind(&path, None).unwrap();
        let expected = if Uid::effective().is_root() {
            0o666
        } else {
            0o600
        };
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, expected);
        assert!(socket.receive().unwrap().is_none());
        let sender = UnixDatagram::unbound().unwrap();
        let long = "x".repeat(MOST_BYTES + 1);
        for text in [b"READY=1".as_slice(), b"\xff", long.as_bytes(), b""] {
            sender.send_to(text, &path).unwrap();
        }
        for text in [Some("READY=1"), None, None, Some("")] {
            let datagram = socket.receive().unwrap().unwrap();
            assert_eq!(datagram.text.as_deref(), text);
            assert_eq!(
                datagram.sender,
                Some((std::process::id(), nix::unistd::geteuid().as_raw()))
            );
        }
        assert!(socket.receive().unwrap().is_none());
    }

    #[test]
    fn a_socket_takes_the_place_of_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        let first = NotifySocket::bind(&path, None).unwrap();
        let second = NotifySocket::bind(&path, None).unwrap();
        assert_ne!(first.cookie().unwrap(), second.cookie().unwrap());
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1", &path).unwrap();
        assert!(first.receive().unwrap().is_none());
        assert!(second.receive().unwrap().is_some());
        let long = dir.path().join("x".repeat(120));
        let error = NotifySocket::bind(&long, None).unwrap_err();
        assert!(error.to_string().contains("at most 107"), "{error}");
    }

    /// Sends these descriptors along.
    fn send(path: &Path, text: &[u8], fds: &[i32]) {
        let sender = UnixDatagram::unbound().unwrap();
        let to = UnixAddr::new(path).unwrap();
        let rights = nix::sys::socket::ControlMessage::ScmRights(fds);
        let parts = [io::IoSlice::new(text)];
        let none = nix::sys::socket::MsgFlags::empty();
        let sent =
            nix::sys::socket::sendmsg(sender.as_raw_fd(), &parts, &[rights], none, Some(&to));
        assert_eq!(sent.unwrap(), text.len());
    }

    #[test]
    fn descriptors_come_with_their_message_and_are_closed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        let socket = NotifySocket::bind(&path, None).unwrap();
        let (barrier, other) = std::io::pipe().unwrap();
        send(&path, b"BARRIER=1", &[other.as_raw_fd(); 253]);
        drop(other);
        let datagram = socket.receive().unwrap().unwrap();
        assert_eq!(datagram.text.as_deref(), Some("BARRIER=1"));
        assert_eq!(datagram.sender.unwrap().0, std::process::id());
        assert_eq!(datagram.descriptors.len(), 253);
        assert!(!datagram.lacks_descriptors);
        drop(datagram);
        // Nobody has the other end open any more.
        assert_eq!(io::read_to_string(barrier).unwrap(), "");
    }

    /// What cannot be passed is lost, and the rest is not left open.
    #[test]
    fn what_there_is_no_room_for_is_told() {
        use crate::os::testing::alone;
        use nix::sys::resource::{Resource, setrlimit};
        if !alone("os::notify::tests::what_there_is_no_room_for_is_told") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        let socket = NotifySocket::bind(&path, None).unwrap();
        let (barrier, other) = std::io::pipe().unwrap();
        send(&path, b"FDSTORE=1", &[other.as_raw_fd(); 5]);
        let next = u64::try_from(nix::unistd::dup(&other).unwrap().as_raw_fd()).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, next + 2, next + 2).unwrap();
        let datagram = socket.receive().unwrap().unwrap();
        assert!(datagram.lacks_descriptors);
        assert_eq!(datagram.descriptors.len(), 2);
        assert_eq!(datagram.sender.unwrap().0, std::process::id());
        drop((datagram, other));
        assert_eq!(io::read_to_string(barrier).unwrap(), "");
    }
}

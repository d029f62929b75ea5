//! Binds the sockets that are held for a service, and lets them go. Keeps none.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect,
    setsockopt, shutdown, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};

use super::mounts;
use super::trust::stranger_on_way;
use crate::model::{Address, Listen, SOCKET_MODE};

/// A socket that has been bound, and listens if it has connections.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: OwnedFd,
    /// Device and inode of its file, if it has one.
    pub(crate) file: Option<(u64, u64)>,
}

/// Binds a socket. One that is left of `file`, of whom nobody else can be, is replaced.
///
/// # Errors
/// In words: somebody else has the address, the host does not have it, or its path is not one where a
/// socket may be put.
pub(crate) fn bound(listen: &Listen, file: Option<(u64, u64)>) -> io::Result<Bound> {
    let kind = match listen.address {
        Address::Tcp(_) | Address::Unix(_) => SockType::Stream,
        Address::Udp(_) | Address::UnixDatagram(_) => SockType::Datagram,
        Address::UnixSeqpacket(_) => SockType::SeqPacket,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let family = match listen.address.ip() {
        Some(ip) if ip.is_ipv6() => AddressFamily::Inet6,
        Some(_) => AddressFamily::Inet,
        None => AddressFamily::Unix,
    };
    let socket = socket(family, kind, flags, None)?;
    let file = match (&listen.address, listen.address.path()) {
        (_, Some(path)) => Some(bind_to_path(&socket, listen, path, file)?),
        (Address::Tcp(ip) | Address::Udp(ip), None) => {
            set_options(&socket, listen)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(*ip)).map_err(in_words)?;
            None
        }
        (_, None) => None,
    };
    set_backlog(&socket, listen)?;
    Ok(Bound { socket, file })
}

fn set_options(socket: &OwnedFd, listen: &Listen) -> io::Result<()> {
    if matches!(listen.address, Address::Tcp(_)) {
        // Connections of the last socket at this address may not have ended yet.
        setsockopt(socket, sockopt::ReuseAddr, &true)?;
    }
    if listen.reuse_port {
        setsockopt(socket, sockopt::ReusePort, &true)?;
    }
    if listen.freebind {
        setsockopt(socket, sockopt::IpFreebind, &true)?;
    }
    if let Some(only) = listen.ipv6_only {
        setsockopt(socket, sockopt::Ipv6V6Only, &only)?;
    }
    Ok(())
}

/// Has it listen, if it has connections, with the backlog that is wanted now.
///
/// # Errors
/// Somebody else listens at its address.
pub(crate) fn set_backlog(socket: &OwnedFd, listen: &Listen) -> io::Result<()> {
    if !listen.address.is_accepting() {
        return Ok(());
    }
    let most = listen
        .backlog
        .and_then(|backlog| i32::try_from(backlog).ok())
        .unwrap_or(i32::MAX);
    // SAFETY: touches no memory.
    let result = unsafe { libc::listen(socket.as_raw_fd(), most) };
    Errno::result(result).map_err(in_words)?;
    Ok(())
}

fn in_words(errno: Errno) -> io::Error {
    match errno {
        Errno::EADDRINUSE => io::Error::other("the address is in use by another socket"),
        Errno::EADDRNOTAVAIL => io::Error::other(
            "this host does not have the address; with freebind = true it need not be there yet",
        ),
        Errno::EACCES => io::Error::other(
            "permission denied; a port below 1024 needs root or CAP_NET_BIND_SERVICE",
        ),
        other => other.into(),
    }
}

/// Binds it to a path on whose way nobody can change anything but root and the agent's user: so what
/// is looked at is what is changed.
fn bind_to_path(
    socket: &OwnedFd,
    listen: &Listen,
    path: &Path,
    own: Option<(u64, u64)>,
) -> io::Result<(u64, u64)> {
    if mounts::may_hang(path) {
        return Err(io::Error::other(
            "it is on a mount whose server may be gone; use a file system of this host",
        ));
    }
    make_room(path, own)?;
    // Nobody can connect before it listens; and nobody to a socket of datagrams before it has its
    // mode. The mode of a socket's file is that of the socket before it is bound, less the umask
    // (`unix_bind_bsd`, net/unix/af_unix.c).
    fchmod(socket, Mode::empty())?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let placed = || {
        chown(path, listen.uid, listen.gid)?;
        let mode = listen.mode.unwrap_or(SOCKET_MODE);
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(super::identity(&fs::symlink_metadata(path)?))
    };
    placed().inspect_err(|_: &io::Error| {
        // Best effort: the next try replaces it, as nobody listens there.
        let _ = fs::remove_file(path);
    })
}

/// Removes a socket that nobody listens on, or that is known as the caller's `own`.
fn make_room(path: &Path, own: Option<(u64, u64)>) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        let directory = directory.display();
        return Err(io::Error::other(format!(
            "there is no directory {directory}"
        )));
    }
    let found = match fs::symlink_metadata(path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(what) = found.as_ref().and_then(|found| foreign(found)) {
        return Err(io::Error::other(format!(
            "{what} exists and is not replaced"
        )));
    }
    if let Some(weakness) = stranger_on_way(path)? {
        let (directory, remedy) = (directory.display(), weakness.stranger.remedy());
        return Err(io::Error::other(format!(
            "{weakness}, and could put another socket there, or make the agent remove what is not its \
             own; mend that ({remedy} {directory}), or choose a directory that only root can write to, such \
             as /run"
        )));
    }
    match found {
        None => Ok(()),
        Some(found) if own == Some(super::identity(&found)) || !is_open(path)? => {
            super::remove_file(path)
        }
        Some(_) => Err(io::Error::other("another process has a socket there")),
    }
}

/// What is there, if it is no socket.
fn foreign(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_socket() {
        None
    } else if kind.is_file() {
        Some("a regular file")
    } else if kind.is_symlink() {
        Some("a symbolic link")
    } else if kind.is_dir() {
        Some("a directory")
    } else {
        Some("something that is not a socket")
    }
}

/// Whether some process has this socket open. A socket of datagrams makes no connection: of a socket
/// of another type the kernel tells that, if there is one (`unix_find_bsd`, net/unix/af_unix.c).
fn is_open(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        _ => Ok(true),
    }
}

/// Lets nobody connect to a socket any more, whoever else still has it open, and removes its file.
pub(crate) fn close(listen: &Listen, socket: &OwnedFd, file: Option<(u64, u64)>) {
    // One of datagrams has nothing to shut, and says so.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
    remove_path(listen, file);
}

/// Removes its file, if that is still the one.
pub(crate) fn remove_path(listen: &Listen, file: Option<(u64, u64)>) {
    let Some(path) = listen.address.path() else {
        return;
    };
    let found = fs::symlink_metadata(path).ok();
    if file.is_some() && found.map(|found| super::identity(&found)) == file {
        // A directory that somebody may write to by now is no longer trusted.
        if matches!(stranger_on_way(path), Ok(None)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether its file is still where it was put.
pub(crate) fn is_in_place(listen: &Listen, file: Option<(u64, u64)>) -> bool {
    listen.address.path().is_none_or(|path| {
        let found = fs::symlink_metadata(path).ok();
        found.map(|found| super::identity(&found)) == file
    })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn tcp() -> Listen {
        // Some port that is free now.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Listen::at(Address::Tcp(free.local_addr().unwrap()))
    }

    fn address(listen: &Listen) -> SocketAddr {
        listen.address.ip().unwrap()
    }

    #[test]
    fn a_closed_one_is_refused_whoever_has_it_open_and_can_be_bound_again() {
        let listen = tcp();
        let first = bound(&listen, None).unwrap();
        let kept = first.socket.try_clone().unwrap();
        TcpStream::connect(address(&listen)).unwrap();
        let error = bound(&listen, None).unwrap_err().to_string();
        assert_eq!(error, "the address is in use by another socket");
        close(&listen, &first.socket, None);
        TcpStream::connect(address(&listen)).unwrap_err();
        let second = bound(&listen, None).unwrap();
        TcpStream::connect(address(&listen)).unwrap();
        drop((kept, second));
    }

    #[test]
    fn options_are_set() {
        let shared = Listen {
            reuse_port: true,
            backlog: Some(1),
            ..tcp()
        };
        let (_one, _other) = (bound(&shared, None).unwrap(), bound(&shared, None).unwrap());
        let missing = Listen::at(Address::Tcp("192.0.2.1:9".parse().unwrap()));
        let error = bound(&missing, None).unwrap_err().to_string();
        assert!(error.contains("freebind = true"), "{error}");
        let free = |address: &str| Listen {
            freebind: true,
            ..Listen::at(Address::Udp(address.parse().unwrap()))
        };
        bound(&free("192.0.2.1:9"), None).unwrap();
        if Path::new("/proc/net/if_inet6").exists() {
            bound(&free("[2001:db8::1]:9"), None).unwrap();
        }
    }

    #[test]
    fn a_path_gets_its_mode_and_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let listen = Listen {
            mode: Some(0o606),
            ..Listen::at(Address::Unix(path.clone()))
        };
        let first = bound(&listen, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o606);
        UnixStream::connect(&path).unwrap();
        let error = bound(&listen, None).unwrap_err().to_string();
        assert_eq!(error, "another process has a socket there");
        // It makes no connection to find that out.
        let listener = UnixListener::from(first.socket.try_clone().unwrap());
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_ok());
        assert!(listener.accept().is_err());
        // Its own is replaced while it lives.
        let second = bound(&listen, first.file).unwrap();
        drop((first, listener));
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(path.exists());
        let third = bound(&listen, None).unwrap();
        close(&listen, &third.socket, third.file);
        assert!(!path.exists());
    }

    #[test]
    fn datagrams_and_packets_are_bound_too() {
        let dir = tempfile::tempdir().unwrap();
        let [datagram, packet] = ["d", "p"].map(|name| dir.path().join(name));
        let bound = |address| super::bound(&Listen::at(address), None);
        let _held = bound(Address::UnixDatagram(datagram.clone())).unwrap();
        let _other = bound(Address::UnixSeqpacket(packet.clone())).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"x", &datagram).unwrap();
        for path in [datagram, packet] {
            let error = bound(Address::Unix(path)).unwrap_err().to_string();
            assert_eq!(error, "another process has a socket there");
        }
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let error = |path: &Path| {
            let listen = Listen::at(Address::Unix(path.to_owned()));
            bound(&listen, None).unwrap_err().to_string()
        };
        fs::write(&path, "precious").unwrap();
        assert_eq!(error(&path), "a regular file exists and is not replaced");
        let link = dir.path().join("link");
        symlink(dir.path().join("nowhere"), &link).unwrap();
        assert_eq!(error(&link), "a symbolic link exists and is not replaced");
        assert!(error(&dir.path().join("a/b")).starts_with("there is no directory"));
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let error = error(&open.join("x"));
        assert!(error.contains("everyone may write to"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}

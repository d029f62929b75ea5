//! The sockets that are held for a service: what a service file says by `listen`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::spec::Fingerprint;

/// The first descriptor that a service gets its sockets as: `SD_LISTEN_FDS_START`, sd_listen_fds(3).
pub(crate) const FIRST_DESCRIPTOR: u8 = 3;

/// So many sockets a service may have: all are below the descriptor of its notify socket.
pub(crate) const MOST_SOCKETS: usize = 64;

/// Who may connect to a Unix socket where nothing is said, as in systemd's `SocketMode=`.
pub(crate) const SOCKET_MODE: u32 = 0o666;

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listen {
    pub(crate) address: Address,
    /// In `LISTEN_FDNAMES`; `None`: the service's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// How many connections may wait to be accepted; `None`: as many as the kernel allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backlog: Option<u32>,
    /// `SO_REUSEPORT`
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reuse_port: bool,
    /// `IPV6_V6ONLY`; `None`: as the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ipv6_only: Option<bool>,
    /// `IP_FREEBIND`: the address need not be there yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) freebind: bool,
    /// Of the socket's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<u32>,
    /// Whose the file is; `None`: the agent's user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    /// `None`: the agent's group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gid: Option<u32>,
}

/// Where it listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// A stream.
    Unix(PathBuf),
    UnixDatagram(PathBuf),
    UnixSeqpacket(PathBuf),
}

impl Address {
    /// The key that says it.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Unix(_) => "unix",
            Self::UnixDatagram(_) => "unix_datagram",
            Self::UnixSeqpacket(_) => "unix_seqpacket",
        }
    }

    /// Its path, if it has one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) | Self::Udp(_) => None,
            Self::Unix(path) | Self::UnixDatagram(path) | Self::UnixSeqpacket(path) => Some(path),
        }
    }

    /// As the key has it.
    pub(crate) fn plain(&self) -> String {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.to_string(),
            Self::Unix(path) | Self::UnixDatagram(path) | Self::UnixSeqpacket(path) => {
                path.display().to_string()
            }
        }
    }

    /// Its IP address and port, if it has any.
    pub(crate) fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(*address),
            Self::Unix(_) | Self::UnixDatagram(_) | Self::UnixSeqpacket(_) => None,
        }
    }

    /// Whether it has connections.
    pub(crate) fn is_accepting(&self) -> bool {
        !matches!(self, Self::Udp(_) | Self::UnixDatagram(_))
    }
}

/// "127.0.0.1:80", "/run/x.sock"; of UDP "127.0.0.1:53 (udp)".
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plain())?;
        match self {
            Self::Udp(_) => f.write_str(" (udp)"),
            _ => Ok(()),
        }
    }
}

impl Listen {
    /// The defaults for an address.
    #[cfg(test)]
    pub(crate) fn at(address: Address) -> Self {
        Self {
            address,
            name: None,
            backlog: None,
            reuse_port: false,
            ipv6_only: None,
            freebind: false,
            mode: None,
            uid: None,
            gid: None,
        }
    }

    /// Whether a socket that was bound for the other one serves for this one too. A name is no part of
    /// a socket, and a backlog can be changed.
    pub(crate) fn is_same_socket(&self, other: &Self) -> bool {
        let bare = |listen: &Self| Self {
            name: None,
            backlog: None,
            ..listen.clone()
        };
        bare(self) == bare(other)
    }

    /// Whether the kernel lets only one of the two have its address.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        if let (Some(path), Some(others)) = (self.address.path(), other.address.path()) {
            return path == others;
        }
        let (Some(ip), Some(others)) = (self.address.ip(), other.address.ip()) else {
            return false;
        };
        self.address.key() == other.address.key()
            && ip.port() == others.port()
            && !(self.reuse_port && other.reuse_port)
            && (ip.ip() == others.ip() || self.takes(others.ip()) || other.takes(ip.ip()))
    }

    /// Whether it is bound to all addresses, and this is one of them.
    fn takes(&self, ip: IpAddr) -> bool {
        let own = self.address.ip().map(|address| address.ip());
        own.is_some_and(|own| {
            own.is_unspecified()
                && (own.is_ipv4() == ip.is_ipv4()
                    || (own.is_ipv6() && self.ipv6_only != Some(true)))
        })
    }

    /// For [`super::Exec::fingerprint`].
    pub(super) fn add_to(&self, hash: &mut Fingerprint) {
        let address = format!("{} {}", self.address.key(), self.address);
        hash.add("listen", address.as_bytes());
        if let Some(name) = &self.name {
            hash.add("name", name.as_bytes());
        }
        for (name, number) in [
            ("backlog", self.backlog),
            ("reuse port", self.reuse_port.then_some(1)),
            ("ipv6 only", self.ipv6_only.map(u32::from)),
            ("freebind", self.freebind.then_some(1)),
            ("mode", self.mode),
            ("socket uid", self.uid),
            ("socket gid", self.gid),
        ] {
            if let Some(number) = number {
                hash.add(name, &number.to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Listen {
        Listen::at(Address::Tcp(address.parse().unwrap()))
    }

    #[test]
    fn addresses_conflict_as_the_kernel_has_it() {
        for (one, other, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.2:80", true),
            ("[::]:80", "127.0.0.2:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
        ] {
            let (one, other) = (tcp(one), tcp(other));
            assert_eq!(one.conflicts_with(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.conflicts_with(&one), expected, "{one:?} {other:?}");
        }
        let udp = Listen::at(Address::Udp("127.0.0.1:80".parse().unwrap()));
        assert!(!udp.conflicts_with(&tcp("127.0.0.1:80")));
        let only = Listen {
            ipv6_only: Some(true),
            ..tcp("[::]:80")
        };
        assert!(!only.conflicts_with(&tcp("0.0.0.0:80")));
        let shared = Listen {
            reuse_port: true,
            ..tcp("0.0.0.0:80")
        };
        assert!(!shared.conflicts_with(&shared));
        assert!(shared.conflicts_with(&tcp("0.0.0.0:80")));
        let stream = Listen::at(Address::Unix("/x".into()));
        let datagram = Listen::at(Address::UnixDatagram("/x".into()));
        assert!(stream.conflicts_with(&datagram));
    }

    #[test]
    fn a_name_and_a_backlog_need_no_other_socket() {
        let plain = tcp("127.0.0.1:80");
        let named = Listen {
            name: Some("http".to_owned()),
            backlog: Some(5),
            ..plain.clone()
        };
        assert!(plain.is_same_socket(&named));
        assert!(!plain.is_same_socket(&tcp("127.0.0.2:80")));
        let free = Listen {
            freebind: true,
            ..plain.clone()
        };
        assert!(!plain.is_same_socket(&free));
    }
}

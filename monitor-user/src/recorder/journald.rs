//! Tells journald of the deaths of units, in journald's own protocol, so that `journalctl -u` shows
//! them among the unit's own lines. Waits for nothing: what journald does not take is in the files.
//!
//! Arguments of programs are never told: others than root may read the journal.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use crate::model::{Event, Profile, Sender, What};
use crate::report;
use crate::text::printable;

/// Where journald listens.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// Names this kind of entry for ever; the catalogue explains it.
const MESSAGE_ID: &str = "5d0e2a2f1f6c4f0e9a5b7c1d3e8f4a60";

/// A warning, as in syslog.
const PRIORITY: &str = "4";

/// What one field has at most, in bytes.
const LONGEST: usize = 4096;

/// The socket, and what became of it.
pub(super) struct Journald {
    path: PathBuf,
    /// `None`: it was not there at the last try.
    socket: Option<UnixDatagram>,
    /// It was said that it takes nothing.
    has_complained: bool,
}

impl Journald {
    pub(super) fn at(path: PathBuf) -> Self {
        Self {
            path,
            socket: None,
            has_complained: false,
        }
    }

    /// Tells of a death, if it is of a unit.
    pub(super) fn tell(&mut self, exited: &Event, profile: &Profile) {
        let Some(fields) = fields(exited, profile) else {
            return;
        };
        match self.send(fields.as_bytes()) {
            Ok(()) => self.has_complained = false,
            // There is no journald on this host, or not now.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                if !std::mem::replace(&mut self.has_complained, true) {
                    tracing::warn!(
                        "journald at {} takes no death: {error}",
                        self.path.display()
                    );
                }
            }
        }
    }

    /// Once more, on a new socket, if the one of before has gone.
    fn send(&mut self, datagram: &[u8]) -> std::io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(datagram) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => {}
                sent => return sent.map(drop),
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        self.socket.insert(socket).send(datagram).map(drop)
    }
}

/// A `KEY=value` a line: no value has a newline in it. `None`: it was no unit's.
fn fields(exited: &Event, profile: &Profile) -> Option<String> {
    let What::Exited(exit) = &exited.what else {
        return None;
    };
    let owner = &profile.owner;
    let unit = owner.unit.as_deref()?;
    let mut text = String::new();
    let mut add = |key: &str, value: &str| {
        let value = printable(value);
        let value = &value[..value.floor_char_boundary(LONGEST)];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}={value}");
    };
    let words = report::happening(exited);
    let comm = exit.comm.as_deref().unwrap_or("?");
    let words = anstream::adapter::strip_str(&words);
    let login = exit.cause.sender().and_then(login);
    add(
        "MESSAGE",
        &format!("{comm} {words}{}", login.unwrap_or_default()),
    );
    add("MESSAGE_ID", MESSAGE_ID);
    add("PRIORITY", PRIORITY);
    add("SYSLOG_IDENTIFIER", "respawn");
    add("OBJECT_PID", &exit.pid.to_string());
    add("OBJECT_SYSTEMD_UNIT", unit);
    if let Some(unit) = &owner.user_unit {
        add("OBJECT_SYSTEMD_USER_UNIT", unit);
    }
    let mut optional = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            add(key, value);
        }
    };
    optional("RESPAWN_COMM", exit.comm.as_deref());
    optional("RESPAWN_EXE", profile.exe.as_deref());
    optional("RESPAWN_CGROUP", profile.cgroup.as_deref());
    optional("RESPAWN_CONTAINER", owner.container.as_deref());
    optional("RESPAWN_POD", owner.pod.as_deref());
    optional("RESPAWN_CAUSE", Some(&exit.cause.to_string()));
    if let Some(sender) = exit.cause.sender() {
        optional("RESPAWN_SENDER_PID", Some(&sender.pid.to_string()));
        optional("RESPAWN_SENDER_COMM", Some(&sender.comm));
        optional("RESPAWN_SENDER_UID", Some(&sender.uid.to_string()));
        let profile = sender.profile();
        optional("RESPAWN_SENDER_EXE", profile.exe.as_deref());
        let login_uid = profile.login_uid;
        optional(
            "RESPAWN_SENDER_LOGIN_UID",
            login_uid.map(|uid| uid.to_string()).as_deref(),
        );
    }
    Some(text)
}

/// ", who had logged in as uid 1000"
fn login(sender: &Sender) -> Option<String> {
    let uid = sender.profile().login_uid?;
    Some(format!(", for the login of uid {uid}"))
}

//! The listening socket's file: never one that somebody else could use in between.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, chown, getegid};

use super::access::Groups;
use crate::os;

/// How many connections the kernel keeps for the agent while it does something else.
const BACKLOG: i32 = 1024;

/// A listening socket at `path` that nobody could ever reach with more rights than it shall have:
/// it gets them under another name, and its own at last, in place of a stale socket.
pub(super) fn listen(path: &Path, groups: Groups) -> Result<UnixListener> {
    check_replaceable(path)?;
    let unready = path.with_extension("new");
    check_replaceable(&unready)?;
    os::remove_file(&unready).with_context(|| unready.display().to_string())?;
    let listener = bind_private(&unready)?;
    let ready = set_rights(&unready, groups)
        .and_then(|()| fs::rename(&unready, path).context("cannot rename it"));
    if ready.is_err() {
        // What failed is told; what is left of it is replaced by the next agent at the latest.
        let _ = fs::remove_file(&unready);
    }
    ready.map(|()| listener.into())
}

/// A listening socket at `path` that its user alone can ever reach, in place of a stale one.
///
/// # Errors
/// Something else than a socket is in its place; no right to that directory.
pub(crate) fn listen_private(path: &Path) -> Result<UnixListener> {
    listen(path, Groups::default())
}

/// Nothing but a socket is ever deleted.
fn check_replaceable(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(_) => bail!(
            "{} exists and is not a socket; move it out of the way, or choose another place",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Binds with mode 0600 from the first moment on, whatever the umask: the mode of a socket's file
/// is that of the socket before it is bound (`unix_bind_bsd` in net/unix/af_unix.c).
fn bind_private(path: &Path) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).context("no socket")?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).context("cannot set a socket's mode")?;
    let address = UnixAddr::new(path).with_context(|| {
        let length = path.as_os_str().len();
        format!("the path is {length} bytes long, and that of a socket at most 107")
    })?;
    bind(socket.as_raw_fd(), &address)?;
    nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// 0600, 0660 with a group, or 0666 with one that may only ask: then the server looks who connects. Never
/// more than one of these in between.
pub(super) fn set_rights(path: &Path, groups: Groups) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o600)).context("cannot set its mode")?;
    let gid = groups.access.map_or_else(getegid, Gid::from_raw);
    chown(path, None, Some(gid)).with_context(|| format!("cannot give it to group {gid}"))?;
    let mode = match groups {
        Groups {
            status: Some(_), ..
        } => 0o666,
        Groups {
            access: Some(_), ..
        } => 0o660,
        _ => return Ok(()),
    };
    fs::set_permissions(path, Permissions::from_mode(mode)).context("cannot set its mode")
}

//! Who is at the other end of a Unix socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The most groups that a process can be in (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65536;

/// The supplementary groups that the peer had when it connected (`SO_PEERGROUPS`, Linux 4.13).
///
/// # Errors
/// The socket is not a connected Unix socket, or the kernel is too old.
pub(crate) fn groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    // Nearly everybody is in fewer than these; else the kernel tells how many it needs.
    let mut groups = vec![0u32; 64];
    match read_groups(&socket, &mut groups) {
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {
            groups = vec![0; MOST_GROUPS];
            read_groups(&socket, &mut groups)?;
        }
        result => result?,
    }
    Ok(groups)
}

fn read_groups(socket: &impl AsFd, groups: &mut Vec<u32>) -> io::Result<()> {
    let bytes = size_of_val(groups.as_slice());
    let mut length = libc::socklen_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the vector's
    // elements, and `gid_t` is `u32`; the descriptor is borrowed for the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(length as usize / size_of::<u32>());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn this_process_has_its_own_groups() {
        let (here, _there) = UnixStream::pair().unwrap();
        let mut found = groups(&here).unwrap();
        let own = nix::unistd::getgroups().unwrap();
        let mut own: Vec<u32> = own.into_iter().map(nix::unistd::Gid::as_raw).collect();
        found.sort_unstable();
        own.sort_unstable();
        assert_eq!(found, own);
        assert!(groups(std::fs::File::open("/").unwrap()).is_err());
    }
}

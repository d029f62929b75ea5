//! What of a sandbox holds for an agent that may make no namespaces: a read-only root, by Landlock.
//!
//! Landlock takes rights away and gives parts of them back below some paths, so it can leave a root read-only but for a
//! few places, and not the other way round. Before its version 3 (Linux 6.2) it lets a process truncate files.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use ::landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};

use super::sandbox::{KERNEL_PLACES, real};
use super::{SpawnError, Stage};
use crate::model::{Exec, Sandbox};
use crate::os::sys::{self, Errno};

/// The version that has all that a read-only file system needs.
const VERSION: ABI = ABI::V3;

/// What the file system allows a service from its last moment before exec on.
#[derive(Debug)]
pub(super) struct Landlocked(OwnedFd);

impl Landlocked {
    /// `None`: there is no read-only root in this sandbox, something read-only is below what is writable, or this kernel
    /// cannot do it. Own directories are made later, and cannot be named here.
    ///
    /// # Errors
    /// A path that is not there.
    pub(super) fn new(exec: &Exec) -> Result<Option<Self>, SpawnError> {
        let confinement = &exec.confinement;
        let sandbox = &confinement.sandbox;
        let is_root = |path: &PathBuf| path == Path::new("/");
        if !sandbox.read_only.iter().any(is_root) || !confinement.directories.names.is_empty() {
            return Ok(None);
        }
        let reals = |paths: &[PathBuf]| -> Result<Vec<PathBuf>, SpawnError> {
            let found = paths.iter().filter_map(|path| real(path, &[]).transpose());
            found.collect()
        };
        let read_only = reals(&sandbox.read_only)?;
        let mut writable = reals(&sandbox.writable)?;
        let kernel_places = KERNEL_PLACES.iter().map(PathBuf::from);
        writable.extend(kernel_places.filter(|path| path.exists()));
        writable.retain(|path| !read_only.contains(path));
        let is_in_writable =
            |path: &PathBuf| writable.iter().any(|writable| path.starts_with(writable));
        if read_only.iter().any(is_in_writable) {
            return Ok(None);
        }
        Ok(ruleset(&writable).ok().flatten().map(Self))
    }

    /// Whether it does all that this sandbox asks for.
    pub(super) fn is_all_of(sandbox: &Sandbox) -> bool {
        let Sandbox {
            read_only: _,
            writable: _,
            private_tmp,
            private_devices,
            protect_home,
            network,
            optional: _,
        } = sandbox;
        !private_tmp && !private_devices && !protect_home && *network
    }

    pub(super) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Whether this kernel has it.
    pub(super) fn is_supported() -> bool {
        ruleset(&[]).is_ok_and(|ruleset| ruleset.is_some())
    }
}

/// Restricts the caller by the ruleset with this number, for good. It can gain no rights any more: without that the kernel
/// wants CAP_SYS_ADMIN.
pub(super) fn enter(ruleset: i32, reach: impl Fn(Stage, u32)) -> Result<(), Errno> {
    reach(Stage::Sandbox, LANDLOCK);
    sys::set_no_new_privileges()?;
    sys::restrict_self(ruleset)
}

/// The part of [`Stage::Sandbox`] that this is.
pub(super) const LANDLOCK: u32 = u32::MAX;

/// Nothing can be written but below these paths.
fn ruleset(writable: &[PathBuf]) -> anyhow::Result<Option<OwnedFd>> {
    let all = AccessFs::from_write(VERSION);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)?
        .create()?;
    let ruleset = writable.iter().try_fold(ruleset, |ruleset, path| {
        anyhow::Ok(ruleset.add_rule(rule(path, all)?)?)
    })?;
    Ok(ruleset.into())
}

fn rule(path: &Path, all: ::landlock::BitFlags<AccessFs>) -> io::Result<PathBeneath<PathFd>> {
    let access = match fs::metadata(path)?.is_dir() {
        true => all,
        false => all & AccessFs::from_file(VERSION),
    };
    let place = PathFd::new(path).map_err(io::Error::other)?;
    Ok(PathBeneath::new(place, access))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landlocked(read_only: &[&str], writable: &[&str]) -> bool {
        let mut exec = Exec::nothing();
        let sandbox = &mut exec.confinement.sandbox;
        sandbox.read_only = read_only.iter().map(PathBuf::from).collect();
        sandbox.writable = writable.iter().map(PathBuf::from).collect();
        Landlocked::new(&exec).unwrap().is_some()
    }

    #[test]
    fn nothing_read_only_is_left_writable() {
        if !Landlocked::is_supported() {
            eprintln!("SKIPPED nothing_read_only_is_left_writable: no Landlock");
            return;
        }
        assert!(landlocked(&["/"], &["/var"]));
        assert!(landlocked(&["/", "/var"], &["/var/tmp"]));
        // The same path as both is read-only, and so may be a place of the kernel's.
        assert!(landlocked(&["/", "/var"], &["/var"]));
        assert!(landlocked(&["/", "/sys"], &[]));
        // It cannot take back what it gives.
        assert!(!landlocked(&["/", "/var/tmp"], &["/var"]));
        assert!(!landlocked(&["/", "/proc/sys"], &[]));
        assert!(!landlocked(&["/usr"], &[]));
    }
}

//! A file system that never answers, as one of a network whose server is gone: every look at it waits, until
//! whoever looks is killed.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// One of FUSE that nobody serves.
pub struct DeadMount {
    point: PathBuf,
    _device: File,
}

impl DeadMount {
    /// Mounts it in a mount namespace of this thread's own, in which all is that the thread starts from now on.
    /// `None`: that cannot be done here.
    pub fn over(point: &Path) -> Option<Self> {
        own_namespace()?;
        Self::here(point)
    }

    /// Mounts it in this thread's mount namespace, which is its own already.
    pub fn here(point: &Path) -> Option<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .ok()?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        mount(
            Some("dead"),
            point,
            Some("fuse"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .ok()?;
        Some(Self {
            point: point.to_owned(),
            _device: device,
        })
    }
}

/// Gives this thread a mount namespace of its own. `None`: that cannot be done here.
pub fn own_namespace() -> Option<()> {
    unshare(CloneFlags::CLONE_NEWNS).ok()?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).ok()
}

/// What it was mounted over is there again, and those who wait for it get an error.
impl Drop for DeadMount {
    fn drop(&mut self) {
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}

//! Opens a file by a path on which somebody else may have put a link, or the file itself.
//!
//! ```text
//! a directory in which only root and the agent's user can put anything      links are followed
//! … or the service's user too                                               as that user
//! … or anybody else                                                         links are not followed
//! ```
//! What a directory counts as is never better than what leads to it. From the first that is not the
//! agent's alone, the file is opened with the rights of the service's user, who then reaches nothing
//! that he could not reach anyway. What he cannot open is opened with the agent's rights if it is
//! a file of his or the agent's own, under its only name.
//!
//! Runs in a child between clone and exec too: no allocation, no lock, no libc, no panic.

use std::ffi::{CStr, CString, OsStr, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::sys::{self, Errno, Status};
use super::trust;
use crate::model::Identity;

const PATH_MAX: usize = 4096;
/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;
/// How often the end is looked at again, when it has changed meanwhile.
const TRIES: u32 = 4;
/// New log files: the owner writes, the group reads.
const LOG_MODE: u32 = 0o640;
/// Opened without waiting for the reader of a FIFO; writes wait as usual afterwards.
const LOG_FLAGS: c_int =
    libc::O_WRONLY | libc::O_APPEND | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
const READ_FLAGS: c_int = libc::O_RDONLY | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
const DIRECTORY: c_int = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;

/// In a place where somebody else could have put it there is a link.
pub(super) const PLANTED_LINK: Errno = libc::ELOOP;
/// … a file with a second name.
pub(super) const SECOND_NAME: Errno = libc::EMLINK;
/// … a file of somebody else's.
pub(super) const NOT_OURS: Errno = libc::EPERM;

/// Whom the agent trusts with a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trust<'i> {
    /// With all: see [`trusted_uids`].
    pub(super) uids: [u32; 3],
    /// With what is its own: the service's user, if that is another than the agent's.
    pub(super) owner: Option<&'i Identity>,
}

/// Root, the agent's user, and who is not known in this user namespace and can do nothing in it.
pub(super) fn trusted_uids() -> [u32; 3] {
    [
        0,
        nix::unistd::geteuid().as_raw(),
        trust::unmapped_uid().unwrap_or(0),
    ]
}

/// Who beside root and the agent's user can put something into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Nobody.
    Agent,
    /// The service's user.
    Owner,
    /// Others.
    Anybody,
}

/// With whose rights a path is walked from where it is not the agent's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    Agent,
    Owner,
}

impl Trust<'_> {
    fn has(&self, uid: u32) -> bool {
        self.uids.contains(&uid)
    }

    fn is_owner(&self, uid: u32) -> bool {
        self.owner.is_some_and(|owner| owner.uid == uid)
    }

    /// By a directory's own owner and mode. An access control list shows in the group's bits.
    fn reach(&self, of: &Status) -> Reach {
        let group_writes = of.mode & 0o020 != 0 && of.gid != 0;
        let group_is_owner = self.owner.is_some_and(|owner| owner.gid == of.gid);
        let others_write = of.mode & 0o002 != 0 || (group_writes && !group_is_owner);
        if others_write || !(self.has(of.uid) || self.is_owner(of.uid)) {
            Reach::Anybody
        } else if group_writes || !self.has(of.uid) {
            Reach::Owner
        } else {
            Reach::Agent
        }
    }
}

/// A directory on the way.
struct WayDirectory {
    fd: c_int,
    reach: Reach,
    /// What it would be if the directory itself were the agent's alone.
    reach_before: Reach,
    is_sticky: bool,
}

impl WayDirectory {
    fn root(trust: &Trust<'_>, before: Reach) -> Result<Self, Errno> {
        let fd = sys::open(c"/", DIRECTORY, 0)?;
        Self::of(fd, trust, before)
    }

    fn of(fd: c_int, trust: &Trust<'_>, before: Reach) -> Result<Self, Errno> {
        let status = sys::status(fd, c"")?;
        Ok(Self {
            fd,
            reach: trust.reach(&status).max(before),
            reach_before: before,
            is_sticky: status.mode & 0o1000 != 0 && trust.has(status.uid),
        })
    }

    /// One level further: into a directory, opened and looked at.
    fn enter(&mut self, fd: c_int, inner: &Status, trust: &Trust<'_>) {
        // With a sticky bit nobody else can have put it there, or can take it away.
        let before = match self.is_sticky && (trust.has(inner.uid) || trust.is_owner(inner.uid)) {
            true => self.reach_before,
            false => self.reach,
        };
        sys::close(self.fd);
        *self = Self {
            fd,
            reach: trust.reach(inner).max(before),
            reach_before: before,
            is_sticky: inner.mode & 0o1000 != 0 && trust.has(inner.uid),
        };
    }
}

/// What of a path is still to be walked.
struct RemainingPath {
    bytes: [u8; PATH_MAX],
    start: usize,
    end: usize,
}

/// A component: where it begins in the bytes.
struct Component {
    at: usize,
    is_last: bool,
}

impl RemainingPath {
    fn of(path: &CStr) -> Result<Self, Errno> {
        let mut rest = Self {
            bytes: [0; PATH_MAX],
            start: 0,
            end: 0,
        };
        rest.put(path.to_bytes())?;
        Ok(rest)
    }

    /// Puts a path before what is left.
    fn put(&mut self, path: &[u8]) -> Result<(), Errno> {
        let left = self.end - self.start;
        let between = usize::from(left > 0);
        let end = path.len() + between + left;
        if end >= PATH_MAX {
            return Err(libc::ENAMETOOLONG);
        }
        self.bytes
            .copy_within(self.start..self.end, path.len() + between);
        if let Some(place) = self.bytes.get_mut(..path.len()) {
            place.copy_from_slice(path);
        }
        if between > 0
            && let Some(place) = self.bytes.get_mut(path.len())
        {
            *place = b'/';
        }
        (self.start, self.end) = (0, end);
        if let Some(place) = self.bytes.get_mut(end) {
            *place = 0;
        }
        Ok(())
    }

    fn skip_slashes(&mut self) {
        while self.start < self.end && self.bytes.get(self.start) == Some(&b'/') {
            self.start += 1;
        }
    }

    /// The next component, with a NUL at its end; EISDIR if none is left, or a slash ends it.
    fn next(&mut self) -> Result<Component, Errno> {
        self.skip_slashes();
        let at = self.start;
        while self.start < self.end && self.bytes.get(self.start) != Some(&b'/') {
            self.start += 1;
        }
        if self.start == at {
            return Err(libc::EISDIR);
        }
        let is_last = self.start == self.end;
        if let Some(place) = self.bytes.get_mut(self.start) {
            *place = 0;
        }
        if !is_last {
            self.start += 1;
        }
        self.skip_slashes();
        if !is_last && self.start == self.end {
            return Err(libc::EISDIR);
        }
        Ok(Component { at, is_last })
    }

    fn name(&self, component: &Component) -> Result<&CStr, Errno> {
        let from = self.bytes.get(component.at..).ok_or(libc::EINVAL)?;
        CStr::from_bytes_until_nul(from).map_err(|_| libc::ENAMETOOLONG)
    }
}

/// The directory that a path ends in, and how it ends.
struct End {
    place: WayDirectory,
    rest: RemainingPath,
    name: Component,
    /// A link of `/proc`, which leads to no path.
    is_magic: bool,
    /// With whose it was opened.
    rights: Rights,
}

impl End {
    fn name(&self) -> Result<&CStr, Errno> {
        self.rest.name(&self.name)
    }

    fn open(&self, flags: c_int) -> Result<c_int, Errno> {
        let follow = if self.is_magic { 0 } else { libc::O_NOFOLLOW };
        sys::open_at(self.place.fd, self.name()?, flags | follow, 0)
    }

    fn create(&self) -> Result<c_int, Errno> {
        let flags = LOG_FLAGS | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        sys::open_at(self.place.fd, self.name()?, flags, LOG_MODE)
    }

    /// Whether what was opened is what it may be, where somebody else could have put it.
    fn check(&self, fd: c_int, trust: &Trust<'_>, rights: Rights) -> Result<(), Errno> {
        if self.place.reach == Reach::Agent
            || (self.place.reach == Reach::Owner && rights == Rights::Owner)
        {
            return Ok(());
        }
        let opened = sys::status(fd, c"")?;
        let directory = sys::status(self.place.fd, c"")?;
        // Whoever alone may write to a directory may read what is in it sooner or later.
        let is_its = directory.mode & 0o022 == 0 && opened.uid == directory.uid;
        if !(trust.has(opened.uid) || trust.is_owner(opened.uid) || is_its) {
            return Err(NOT_OURS);
        }
        if rights == Rights::Agent && opened.mode & libc::S_IFMT == libc::S_IFREG {
            let named = sys::status(self.place.fd, self.name()?)?;
            if (named.device, named.inode) != (opened.device, opened.inode)
                || opened.links != 1
                || named.links != 1
            {
                return Err(SECOND_NAME);
            }
        }
        Ok(())
    }
}

fn act_as_owner(trust: &Trust<'_>) -> Result<(), Errno> {
    let Some(owner) = trust.owner else {
        return Ok(());
    };
    sys::set_groups(&owner.groups)?;
    sys::set_file_ids(owner.uid, owner.gid);
    match sys::has_file_ids(owner.uid, owner.gid) {
        true => Ok(()),
        false => Err(libc::EPERM),
    }
}

/// Walks a path to its last component, following what may be followed.
fn walk(path: &CStr, trust: &Trust<'_>, rights: Rights) -> Result<End, Errno> {
    let mut rest = RemainingPath::of(path)?;
    let mut place = WayDirectory::root(trust, Reach::Agent)?;
    let mut links = 0;
    loop {
        if rights == Rights::Owner && place.reach != Reach::Agent {
            act_as_owner(trust)?;
        }
        let component = rest.next()?;
        let name = rest.name(&component)?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let entry = match sys::open_at(place.fd, name, flags, 0) {
            Err(libc::ENOENT) if component.is_last => -1,
            entry => entry?,
        };
        let found = if entry < 0 {
            None
        } else {
            Some(sys::status(entry, c"")?)
        };
        let kind = found.as_ref().map(|found| found.mode & libc::S_IFMT);
        let is_link = kind == Some(libc::S_IFLNK);
        let is_magic = is_link && sys::is_on_proc(place.fd);
        if component.is_last && (!is_link || is_magic) {
            sys::close(entry);
            return Ok(End {
                place,
                rest,
                name: component,
                is_magic,
                rights,
            });
        }
        let Some(found) = found else {
            return Err(libc::ENOENT);
        };
        if !is_link {
            place.enter(entry, &found, trust);
            continue;
        }
        links += 1;
        let may_follow = match place.reach {
            Reach::Agent => true,
            Reach::Owner => rights == Rights::Owner,
            Reach::Anybody => false,
        };
        if links > MAX_LINKS || !may_follow {
            return Err(PLANTED_LINK);
        }
        if is_magic {
            let next = sys::open_at(place.fd, name, DIRECTORY, 0)?;
            let status = sys::status(next, c"")?;
            sys::close(entry);
            place.enter(next, &status, trust);
            continue;
        }
        let mut target = [0; PATH_MAX];
        let length = sys::read_link(entry, &mut target)?;
        let target = target.get(..length).ok_or(libc::ENAMETOOLONG)?;
        sys::close(entry);
        if target.first() == Some(&b'/') {
            let before = place.reach;
            sys::close(place.fd);
            place = WayDirectory::root(trust, before)?;
        }
        rest.put(target)?;
    }
}

/// Opens a log, and makes one that is not there: for the service's user, whose processes may open
/// it again by `/dev/stdout`. One that is there keeps its owner. Leaves the caller with the groups of
/// the service, perhaps; for a child that takes them anyway.
pub(super) fn log(path: &CStr, trust: &Trust<'_>) -> Result<c_int, Errno> {
    let (fd, end) = log_and_place(path, trust)?;
    sys::close(end.place.fd);
    Ok(fd)
}

/// The same with its directory, which stays open.
fn log_and_place(path: &CStr, trust: &Trust<'_>) -> Result<(c_int, End), Errno> {
    if trust.owner.is_some() {
        let opened = log_with(path, trust, Rights::Owner);
        sys::reset_file_ids();
        if !matches!(opened, Err(libc::EACCES | libc::EPERM)) {
            return opened;
        }
    }
    log_with(path, trust, Rights::Agent)
}

fn log_with(path: &CStr, trust: &Trust<'_>, rights: Rights) -> Result<(c_int, End), Errno> {
    let mut result = Err(libc::EAGAIN);
    for _ in 0..TRIES {
        let end = walk(path, trust, rights)?;
        let opened = match end.open(LOG_FLAGS) {
            Err(libc::ENOENT) => match end.create() {
                Ok(fd) => {
                    if let Some(owner) = trust.owner {
                        // Where the file system has no owners, it is anybody's or nobody's anyway.
                        let _ = sys::change_owner(fd, owner.uid, owner.gid);
                    }
                    Ok(fd)
                }
                Err(errno) => Err(errno),
            },
            Ok(fd) => end.check(fd, trust, rights).map(|()| fd),
            Err(errno) => Err(errno),
        };
        match opened {
            Ok(fd) => return Ok((fd, end)),
            Err(errno) => {
                sys::close(end.place.fd);
                result = Err(errno);
                // It has come meanwhile.
                if errno != libc::EEXIST {
                    break;
                }
            }
        }
    }
    result
}

/// A log, open for appending, and where it is.
#[derive(Debug)]
pub(crate) struct OpenLog {
    pub(crate) file: File,
    /// Its directory, by which it can be renamed whatever becomes of the path.
    directory: OwnedFd,
    name: CString,
    /// Who has the rights by which it was reached; `None`: this process.
    owner: Option<Identity>,
}

/// Opens a log for a service of this user (`None`: the caller's own), as a start of the service does.
///
/// # Errors
/// ELOOP, EMLINK and EPERM as in [`in_words`]; the kernel's; it is not a regular file.
pub(crate) fn log_of(path: &Path, owner: Option<&Identity>) -> io::Result<OpenLog> {
    let trust = Trust {
        uids: trusted_uids(),
        owner,
    };
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (fd, end) =
        keeping_groups(owner, || log_and_place(&path, &trust))?.map_err(|errno| match in_words(
            errno,
        ) {
            Some(words) => io::Error::other(words),
            None => io::Error::from_raw_os_error(errno),
        })?;
    // SAFETY: new descriptors, which nobody else has.
    let (file, directory): (File, OwnedFd) = unsafe {
        (
            OwnedFd::from_raw_fd(fd).into(),
            OwnedFd::from_raw_fd(end.place.fd),
        )
    };
    let name = end.name().map_err(io::Error::from_raw_os_error)?.to_owned();
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let is_owners = end.rights == Rights::Owner && end.place.reach != Reach::Agent;
    Ok(OpenLog {
        file,
        directory,
        name,
        owner: owner.filter(|_| is_owners).cloned(),
    })
}

impl OpenLog {
    /// Does something in its directory with the rights by which it was reached.
    ///
    /// # Errors
    /// These rights cannot be had.
    pub(crate) fn in_directory<T>(
        &self,
        work: impl FnOnce(BorrowedFd<'_>, &CStr) -> T,
    ) -> io::Result<T> {
        let owner = self.owner.as_ref();
        keeping_groups(owner, || {
            let trust = Trust {
                uids: trusted_uids(),
                owner,
            };
            let acted = act_as_owner(&trust).map(|()| work(self.directory.as_fd(), &self.name));
            sys::reset_file_ids();
            acted.map_err(io::Error::from_raw_os_error)
        })?
    }
}

/// Undoes what work in a service's name does to the groups of this thread.
fn keeping_groups<T>(owner: Option<&Identity>, work: impl FnOnce() -> T) -> io::Result<T> {
    if owner.is_none() {
        return Ok(work());
    }
    let groups: Vec<u32> = nix::unistd::getgroups()?
        .into_iter()
        .map(nix::unistd::Gid::as_raw)
        .collect();
    let result = work();
    // Who could change them can change them back.
    sys::set_groups(&groups).map_err(io::Error::from_raw_os_error)?;
    Ok(result)
}

/// Opens a file to read it for a service of this user (`None`: the agent's own), with the agent's
/// rights: by no link that somebody else could have put there, and no second name of a file that is
/// not the user's.
///
/// # Errors
/// ELOOP, EMLINK and EPERM as in [`in_words`]; the kernel's.
pub(crate) fn to_read(path: &Path, owner: Option<&Identity>) -> io::Result<File> {
    let trust = Trust {
        uids: trusted_uids(),
        owner,
    };
    let path = CString::new(path.as_os_str().as_bytes())?;
    let opened = walk(&path, &trust, Rights::Agent).and_then(|end| {
        let opened = end.open(READ_FLAGS).and_then(|fd| {
            let checked = end.check(fd, &trust, Rights::Agent);
            checked.map(|()| fd).inspect_err(|_| sys::close(fd))
        });
        sys::close(end.place.fd);
        opened
    });
    let words = match opened {
        // SAFETY: a new descriptor, which nobody else has.
        Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into()),
        Err(errno) => in_words(errno).ok_or_else(|| io::Error::from_raw_os_error(errno))?,
    };
    // What its user may read himself, he may also have read.
    let mut options = File::options();
    let options = options.read(true).custom_flags(READ_FLAGS);
    match options.open(OsStr::from_bytes(path.to_bytes())) {
        Ok(file) if owner.is_some_and(|owner| may_read(owner, &file)) => Ok(file),
        _ => Err(io::Error::other(words)),
    }
}

fn may_read(user: &Identity, file: &File) -> bool {
    let Ok(found) = file.metadata() else {
        return false;
    };
    let right = if found.uid() == user.uid {
        0o400
    } else if found.gid() == user.gid || user.groups.contains(&found.gid()) {
        0o040
    } else {
        0o004
    };
    found.is_file() && found.mode() & right != 0
}

/// What an error of this module means, if it may be of this module.
pub(super) fn in_words(errno: Errno) -> Option<&'static str> {
    match errno {
        PLANTED_LINK => Some(
            "a symbolic link on its way is in a directory that others may write to, and is not followed",
        ),
        SECOND_NAME => Some("it has a second name, and is in a directory that others may write to"),
        NOT_OURS => Some("it belongs to another user, in a directory that others may write to"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const OWNER: u32 = 12_345;
    const OTHER: u32 = 12_346;

    fn opened(path: &Path, owner: Option<u32>) -> Result<File, Errno> {
        let owner = owner.map(|uid| Identity {
            uid,
            gid: uid,
            groups: vec![uid],
        });
        let trust = Trust {
            uids: trusted_uids(),
            owner: owner.as_ref(),
        };
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // The groups of one thread alone change, and those of the test's other threads do not.
        let fd = log(&path, &trust)?;
        // SAFETY: a new descriptor, which nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    }

    struct Places {
        dir: tempfile::TempDir,
        secret: std::path::PathBuf,
    }

    /// Directories of root, of the service's user and of somebody else, and root's own file.
    fn places() -> Option<Places> {
        if !crate::os::testing::is_root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, uid) in [("root", 0), ("owner", OWNER), ("other", OTHER)] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            chown(&path, Some(uid), Some(uid)).unwrap();
        }
        let secret = dir.path().join("root/secret");
        fs::write(&secret, "root's\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        Some(Places { dir, secret })
    }

    #[test]
    fn nobody_can_have_roots_files_written_to() {
        let Some(places) = places() else { return };
        for (place, owner) in [
            ("owner", Some(OWNER)),
            ("other", Some(OWNER)),
            ("owner", None),
            ("other", None),
        ] {
            let place = places.dir.path().join(place);
            let log = place.join("log");
            symlink(&places.secret, &log).unwrap();
            assert_eq!(opened(&log, owner).unwrap_err(), PLANTED_LINK);
            fs::remove_file(&log).unwrap();
            // The same by a directory on the way.
            let way = place.join("way");
            symlink(places.dir.path().join("root"), &way).unwrap();
            assert_eq!(
                opened(&way.join("secret"), owner).unwrap_err(),
                PLANTED_LINK
            );
            fs::remove_file(&way).unwrap();
            fs::hard_link(&places.secret, &log).unwrap();
            assert_eq!(opened(&log, owner).unwrap_err(), SECOND_NAME);
            fs::remove_file(&log).unwrap();
        }
    }

    #[test]
    fn a_log_is_the_services_users_wherever_it_may_be() {
        let Some(places) = places() else { return };
        for place in ["root", "owner", "other"] {
            let log = places.dir.path().join(place).join("log");
            for _ in 0..2 {
                let file = opened(&log, Some(OWNER)).unwrap();
                let found = file.metadata().unwrap();
                let mode = found.mode() & 0o777;
                assert_eq!((found.uid(), found.gid(), mode), (OWNER, OWNER, 0o640));
            }
            // One that an earlier version made keeps its owner.
            fs::remove_file(&log).unwrap();
            fs::write(&log, "").unwrap();
            fs::set_permissions(&log, fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(
                opened(&log, Some(OWNER)).unwrap().metadata().unwrap().uid(),
                0
            );
            fs::remove_file(&log).unwrap();
        }
        let theirs = places.dir.path().join("other/theirs");
        fs::write(&theirs, "").unwrap();
        chown(&theirs, Some(OTHER + 1), None).unwrap();
        assert_eq!(opened(&theirs, Some(OWNER)).unwrap_err(), NOT_OURS);
    }

    #[test]
    fn links_that_only_root_or_the_user_could_make_are_followed() {
        let Some(places) = places() else { return };
        let (root, owner) = (
            places.dir.path().join("root"),
            places.dir.path().join("owner"),
        );
        fs::create_dir(root.join("data")).unwrap();
        symlink("data", root.join("logs")).unwrap();
        symlink(root.join("logs/real"), root.join("log")).unwrap();
        opened(&root.join("log"), Some(OWNER)).unwrap();
        assert!(root.join("data/real").exists());
        // The user's own leads where he may write.
        fs::create_dir(owner.join("release")).unwrap();
        chown(owner.join("release"), Some(OWNER), None).unwrap();
        symlink("release", owner.join("current")).unwrap();
        std::os::unix::fs::lchown(owner.join("current"), Some(OWNER), None).unwrap();
        opened(&owner.join("current/log"), Some(OWNER)).unwrap();
        assert!(owner.join("release/log").exists());
    }

    #[test]
    fn what_is_read_for_a_user_is_what_he_may_read() {
        let Some(places) = places() else { return };
        let user = Identity {
            uid: OWNER,
            gid: OWNER,
            groups: Vec::new(),
        };
        let link = places.dir.path().join("owner/environment");
        symlink(&places.secret, &link).unwrap();
        let error = to_read(&link, Some(&user)).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        fs::set_permissions(&places.secret, fs::Permissions::from_mode(0o644)).unwrap();
        to_read(&link, Some(&user)).unwrap();
        fs::set_permissions(&places.secret, fs::Permissions::from_mode(0o600)).unwrap();
        // Root has said so himself.
        to_read(&places.secret, Some(&user)).unwrap();
    }
}

//! Who else may change what a path leads to: by owners and modes of the file, of every directory on
//! the way, and of every symbolic link and its target. Changes nothing, and decides nothing.
//!
//! An access control list shows in a mode: its mask stands where the group's bits are, so a list
//! that lets anybody write sets the group's write bit (acl(5)). Only then is it read.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

/// As many links as the kernel follows: `MAXSYMLINKS` in include/linux/namei.h.
const MAX_LINKS: u32 = 40;

/// What has the owner of a process's magic links, which lead to no path that could be read.
const PROC: &str = "/proc";

/// Who beside root and this process's user may change what a path leads to; the first one found.
///
/// # Errors
/// The path is relative, and there is no current directory.
pub(crate) fn stranger_on_way(path: &Path) -> io::Result<Option<Weakness>> {
    let path = std::path::absolute(path)?;
    let own = nix::unistd::geteuid().as_raw();
    let mut survey = Survey::new(Trusted::root_and(&[own]));
    Ok(survey.way(&path).weaknesses.pop_first())
}

/// Who may change things without a word.
#[derive(Debug, Clone)]
pub(crate) struct Trusted {
    uids: Vec<u32>,
    /// Groups of which nobody else is a member.
    gids: Vec<u32>,
}

impl Trusted {
    /// Root, and these users. A group counts as a user's own if it has the user's number, as groups
    /// that are made with their user do.
    pub(crate) fn root_and(uids: &[u32]) -> Self {
        let mut uids: Vec<u32> = uids.iter().copied().chain([0]).collect();
        let gids = uids.clone();
        // Users that this user namespace does not know cannot do anything in it.
        uids.extend(unmapped_uid());
        Self { uids, gids }
    }

    /// Who beside these may write to a file or directory.
    pub(crate) fn stranger(&self, path: &Path, metadata: &Metadata) -> Option<Stranger> {
        let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
        if !self.uids.contains(&uid) {
            Some(Stranger::User(uid))
        } else if mode & 0o002 != 0 {
            Some(Stranger::Everyone)
        } else if mode & 0o020 != 0 && !self.gids.contains(&gid) {
            Some(Stranger::Group(gid))
        } else if mode & 0o020 != 0 && self.list_names_others(path) {
            Some(Stranger::Listed)
        } else {
            None
        }
    }

    /// Whether an access control list lets a user or a group write who is not trusted. One that
    /// cannot be understood is taken for one that does.
    fn list_names_others(&self, path: &Path) -> bool {
        let Some(list) = access_list(path) else {
            return false;
        };
        let Some((_version, entries)) = list.split_first_chunk::<4>() else {
            return true;
        };
        let (entries, rest) = entries.as_chunks::<8>();
        let lets = |[tag, _, right, _, id @ ..]: &[u8; 8]| {
            let id = u32::from_le_bytes(*id);
            let others = match tag {
                0x02 => !self.uids.contains(&id),
                0x08 => !self.gids.contains(&id),
                _ => false,
            };
            others && right & 2 != 0
        };
        !rest.is_empty() || entries.iter().any(lets)
    }
}

/// A file's access control list as the kernel stores it: a version, then entries of a tag, rights
/// and an ID. <https://github.com/torvalds/linux/blob/v5.10/include/uapi/linux/posix_acl_xattr.h>
fn access_list(path: &Path) -> Option<Vec<u8>> {
    attribute(path, c"system.posix_acl_access")
}

/// Whether the kernel gives a program rights that who runs it does not have: set-uid, set-gid, or capabilities of
/// the file.
pub(crate) fn gives_rights(program: &Path) -> bool {
    let is_set = |metadata: fs::Metadata| metadata.mode() & 0o6000 != 0;
    fs::metadata(program).is_ok_and(is_set) || attribute(program, c"security.capability").is_some()
}

/// An extended attribute of a file; `None`: it has none, or one of more than eight KiB.
fn attribute(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut value = vec![0_u8; 4 + 8 * 1024];
    // SAFETY: both strings end in a NUL, and no more is written than `value` has room for.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

/// The number that users have who are not in this user namespace.
pub(super) fn unmapped_uid() -> Option<u32> {
    // Neither changes while a process is in its namespace.
    static UNMAPPED: OnceLock<Option<u32>> = OnceLock::new();
    *UNMAPPED.get_or_init(|| {
        let map = fs::read_to_string("/proc/self/uid_map").ok()?;
        let whole = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
        if whole {
            return None;
        }
        overflow.trim().parse().ok()
    })
}

/// Somebody who may change what they should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stranger {
    /// The owner.
    User(u32),
    /// The members of a group, or who an access control list names.
    Group(u32),
    /// Who an access control list names.
    Listed,
    Everyone,
}

/// "uid 1000"
impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Group(gid) => write!(f, "group {gid}"),
            Self::Listed => f.write_str("an access control list names who"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

impl Stranger {
    /// What takes the right away.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::User(_) => "chown",
            Self::Group(_) => "chmod g-w",
            Self::Listed => "setfacl -b",
            Self::Everyone => "chmod o-w",
        }
    }
}

/// A place where somebody else may change what a path leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Weakness {
    /// The directory or file.
    pub(crate) path: PathBuf,
    /// Who may write to it.
    pub(crate) stranger: Stranger,
}

/// "/a/b belongs to uid 1000", "group 4 may write to /a/b"
impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, stranger) = (self.path.display(), self.stranger);
        match stranger {
            Stranger::User(_) => write!(f, "{path} belongs to {stranger}"),
            Stranger::Group(_) | Stranger::Listed | Stranger::Everyone => {
                write!(f, "{stranger} may write to {path}")
            }
        }
    }
}

/// What was found on the way of a path.
#[derive(Debug)]
pub(crate) struct Way {
    /// Each once, by path.
    pub(crate) weaknesses: BTreeSet<Weakness>,
    /// Where the path leads to, without links; why it leads nowhere.
    pub(crate) end: io::Result<PathBuf>,
}

/// Looks at paths, and at each directory once. To be used for a short time: it does not see what
/// changes meanwhile.
#[derive(Debug)]
pub(crate) struct Survey {
    trusted: Trusted,
    /// Directories by the path that was asked for: where they are, and what was found on the way.
    /// Only what is there.
    directories: HashMap<PathBuf, (PathBuf, BTreeSet<Weakness>)>,
}

impl Survey {
    pub(crate) fn new(trusted: Trusted) -> Self {
        Self {
            trusted,
            directories: HashMap::new(),
        }
    }

    /// Follows an absolute path to its end. Of one that leads nowhere, what is there is looked at.
    pub(crate) fn way(&mut self, path: &Path) -> Way {
        let mut way = self.directory_of(path);
        let Some(name) = path.file_name() else {
            self.look_at_end(&mut way);
            return way;
        };
        let mut walk = Walk {
            trusted: &self.trusted,
            links: 0,
            weaknesses: std::mem::take(&mut way.weaknesses),
        };
        if let Ok(directory) = &way.end {
            way.end = walk.follow(directory.clone(), [name.to_owned()].into());
        }
        way.weaknesses = walk.weaknesses;
        self.look_at_end(&mut way);
        way
    }

    /// The way to the directory that a path's last component is in.
    fn directory_of(&mut self, path: &Path) -> Way {
        let parent = match path.file_name() {
            Some(_) => path.parent().unwrap_or(Path::new("/")),
            None => path,
        };
        if let Some((end, weaknesses)) = self.directories.get(parent) {
            return Way {
                weaknesses: weaknesses.clone(),
                end: Ok(end.clone()),
            };
        }
        let mut walk = Walk {
            trusted: &self.trusted,
            links: 0,
            weaknesses: BTreeSet::new(),
        };
        let end = walk.follow(PathBuf::from("/"), components(parent));
        if let Ok(end) = &end {
            let known = (end.clone(), walk.weaknesses.clone());
            self.directories.insert(parent.to_owned(), known);
        }
        Way {
            weaknesses: walk.weaknesses,
            end,
        }
    }

    /// The thing itself: nothing excuses that others may write to it, not even a sticky bit, since
    /// they could add something to a directory.
    fn look_at_end(&self, way: &mut Way) {
        if let Ok(path) = &way.end
            && let Ok(metadata) = fs::metadata(path)
            && let Some(stranger) = self.trusted.stranger(path, &metadata)
            && (metadata.is_file() || metadata.is_dir())
        {
            let path = path.clone();
            way.weaknesses.insert(Weakness { path, stranger });
        }
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.map(OsStr::to_owned).collect()
}

/// One path on its way.
struct Walk<'t> {
    trusted: &'t Trusted,
    links: u32,
    weaknesses: BTreeSet<Weakness>,
}

impl Walk<'_> {
    /// From a directory on; `at` has no links in it.
    fn follow(&mut self, mut at: PathBuf, mut left: VecDeque<OsString>) -> io::Result<PathBuf> {
        while let Some(name) = left.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let directory = fs::symlink_metadata(&at)?;
            let entry = at.join(&name);
            let found = fs::symlink_metadata(&entry);
            self.look_at_entry(&at, &directory, &entry, found.as_ref().ok());
            if !found?.is_symlink() {
                at = entry;
                continue;
            }
            self.links += 1;
            if self.links > MAX_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            if entry.starts_with(PROC) && left.is_empty() {
                return Ok(entry);
            }
            let target = fs::read_link(&entry)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in components(&target).into_iter().rev() {
                left.push_front(name);
            }
        }
        Ok(at)
    }

    /// In a directory that others may write to they may put what they like; with a sticky bit they
    /// cannot change what belongs to somebody else. Where nothing is there they may put it.
    fn look_at_entry(
        &mut self,
        directory: &Path,
        its: &Metadata,
        entry: &Path,
        found: Option<&Metadata>,
    ) {
        let Some(stranger) = self.trusted.stranger(directory, its) else {
            return;
        };
        let is_sticky = its.mode() & 0o1000 != 0 && self.trusted.uids.contains(&its.uid());
        let weakness = match found {
            None if is_sticky => return,
            Some(found) if is_sticky && self.trusted.uids.contains(&found.uid()) => return,
            Some(found) if is_sticky => (entry, Stranger::User(found.uid())),
            _ => (directory, stranger),
        };
        self.weaknesses.insert(Weakness {
            path: weakness.0.to_owned(),
            stranger: weakness.1,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const OTHER: u32 = 12_345;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What a path's way says, with the test's directory as DIR.
    fn told(dir: &Path, path: &Path) -> Vec<String> {
        let own = nix::unistd::geteuid().as_raw();
        let mut survey = Survey::new(Trusted::root_and(&[own]));
        let way = survey.way(path);
        let again = survey.way(path);
        assert_eq!(way.weaknesses, again.weaknesses);
        let text = |weakness: &Weakness| {
            let text = weakness.to_string();
            text.replace(dir.to_str().unwrap(), "DIR")
        };
        way.weaknesses.iter().map(text).collect()
    }

    #[test]
    fn each_right_to_write_is_found_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (a, b) = (dir.join("a"), dir.join("a/b"));
        fs::create_dir(&a).unwrap();
        fs::write(&b, "").unwrap();
        let gid = fs::metadata(&b).unwrap().gid();
        for path in [&a, &b] {
            let name = if path == &a { "DIR/a" } else { "DIR/a/b" };
            let plain = if path == &a { 0o755 } else { 0o644 };
            set(path, plain | 0o002);
            assert_eq!(told(&dir, &b), [format!("everyone may write to {name}")]);
            set(path, plain | 0o020);
            let expected = match gid {
                0 => Vec::new(),
                gid if gid == nix::unistd::geteuid().as_raw() => Vec::new(),
                gid => vec![format!("group {gid} may write to {name}")],
            };
            assert_eq!(told(&dir, &b), expected);
            set(path, plain);
            assert_eq!(told(&dir, &b), [""; 0]);
        }
        // A sticky bit protects what is there, but not a directory that is meant itself.
        set(&a, 0o1777);
        assert_eq!(told(&dir, &b), [""; 0]);
        assert_eq!(told(&dir, &a), ["everyone may write to DIR/a"]);
        assert_eq!(told(&dir, &a.join("none")), [""; 0]);
        set(&a, 0o777);
        assert_eq!(told(&dir, &a.join("none")), ["everyone may write to DIR/a"]);
    }

    #[test]
    fn links_and_their_targets_count() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for name in ["from", "to"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::write(dir.join("to/file"), "").unwrap();
        symlink("../to/file", dir.join("from/link")).unwrap();
        symlink(dir.join("from"), dir.join("through")).unwrap();
        let link = dir.join("through/link");
        assert_eq!(told(&dir, &link), [""; 0]);
        for name in ["from", "to"] {
            set(&dir.join(name), 0o777);
            assert_eq!(
                told(&dir, &link),
                [format!("everyone may write to DIR/{name}")]
            );
            set(&dir.join(name), 0o755);
        }
        symlink("itself", dir.join("itself")).unwrap();
        let way = Survey::new(Trusted::root_and(&[])).way(&dir.join("itself"));
        assert_eq!(way.end.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(
            Survey::new(Trusted::root_and(&[]))
                .way(Path::new("/"))
                .end
                .is_ok()
        );
    }

    #[test]
    fn an_owner_counts_and_so_does_who_put_it_into_a_sticky_directory() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (a, b) = (dir.join("a"), dir.join("a/b"));
        fs::create_dir(&a).unwrap();
        fs::write(&b, "").unwrap();
        chown(&a, Some(OTHER), None).unwrap();
        assert_eq!(told(&dir, &b), ["DIR/a belongs to uid 12345"]);
        let mut survey = Survey::new(Trusted::root_and(&[OTHER]));
        assert_eq!(survey.way(&b).weaknesses.len(), 0);
        chown(&a, Some(0), None).unwrap();
        set(&a, 0o1777);
        chown(&b, Some(OTHER), None).unwrap();
        assert_eq!(told(&dir, &b), ["DIR/a/b belongs to uid 12345"]);
        symlink(&dir, a.join("link")).unwrap();
        std::os::unix::fs::lchown(a.join("link"), Some(OTHER), None).unwrap();
        assert_eq!(
            told(&dir, &a.join("link")),
            ["DIR/a/link belongs to uid 12345"]
        );
    }

    #[test]
    fn an_access_control_list_shows_in_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let file = dir.join("file");
        fs::write(&file, "").unwrap();
        // Version 2; owner rw-, uid 12345 rw-, group r--, mask rw-, others r--.
        let entries: [(u16, u16, u32); 5] = [
            (0x01, 6, u32::MAX),
            (0x02, 6, OTHER),
            (0x04, 4, u32::MAX),
            (0x10, 6, u32::MAX),
            (0x20, 4, u32::MAX),
        ];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, right, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(right.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let path = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
        let name = c"system.posix_acl_access";
        // SAFETY: both strings end in a NUL, and the value is as long as is said.
        let set = unsafe {
            libc::setxattr(
                path.as_ptr(),
                name.as_ptr(),
                list.as_ptr().cast(),
                list.len(),
                0,
            )
        };
        if set != 0 {
            eprintln!("SKIPPED: no access control lists here");
            return;
        }
        let metadata = fs::metadata(&file).unwrap();
        let stranger = |uids: &[u32], gids: &[u32]| {
            let trusted = Trusted {
                uids: uids.to_vec(),
                gids: gids.to_vec(),
            };
            trusted.stranger(&file, &metadata)
        };
        let (uid, gid) = (metadata.uid(), metadata.gid());
        assert_eq!(stranger(&[uid], &[]), Some(Stranger::Group(gid)));
        assert_eq!(stranger(&[uid], &[gid]), Some(Stranger::Listed));
        assert_eq!(stranger(&[uid, OTHER], &[gid]), None);
    }
}

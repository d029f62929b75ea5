//! Whether another user than the agent's may run a program: a guess by owners and modes, good for
//! a warning. Access control lists, capabilities and mount options are not looked at.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::model::Identity;

use super::problem::printable;

/// Why `identity` cannot run the program at this absolute path; `None` if nothing speaks against
/// it. What cannot be looked at is not complained about.
pub(super) fn cannot_run(program: &Path, identity: &Identity) -> Option<String> {
    // What a link leads to counts as well as the way to the link.
    let target = fs::canonicalize(program).ok()?;
    let ways = [program, &target];
    let mut directories = ways.iter().flat_map(|way| way.ancestors().skip(1));
    if let Some(closed) = directories.find(|path| !may_execute(path, identity)) {
        return Some(format!(
            "user {} may not enter {}",
            identity.uid,
            printable(closed)
        ));
    }
    let denied = !may_execute(&target, identity);
    denied.then(|| format!("user {} may not run {}", identity.uid, printable(&target)))
}

fn may_execute(path: &Path, identity: &Identity) -> bool {
    fs::metadata(path).is_ok_and(|metadata| has_right(&metadata, identity))
}

/// The first class that fits decides: an owner without the right is not helped by the others'.
fn has_right(metadata: &Metadata, identity: &Identity) -> bool {
    let gid = metadata.gid();
    let bit = match identity.uid {
        0 if metadata.is_dir() => return true,
        0 => 0o111,
        uid if uid == metadata.uid() => 0o100,
        _ if gid == identity.gid || identity.groups.contains(&gid) => 0o010,
        _ => 0o001,
    };
    metadata.mode() & bit != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// `has_right` goes by the class, so an owner's own file does for all three.
    fn identity(uid: u32, gid: u32, groups: &[u32]) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program");
        fs::write(&file, "").unwrap();
        let metadata = fs::metadata(&file).unwrap();
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let owner = identity(uid, gid, &[]);
        let member = identity(uid + 1, gid, &[]);
        let supplementary = identity(uid + 1, gid + 1, &[gid]);
        let other = identity(uid + 1, gid + 1, &[]);
        // Root is held up by nothing but a file without any such bit.
        let owner_may = |mode: u32| mode & if uid == 0 { 0o111 } else { 0o100 } != 0;
        for mode in [0o100, 0o010, 0o001, 0o677, 0o767, 0o776, 0o755, 0o644] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let metadata = fs::metadata(&file).unwrap();
            assert_eq!(has_right(&metadata, &owner), owner_may(mode), "{mode:o}");
            for of_group in [&member, &supplementary] {
                let expected = mode & 0o010 != 0;
                assert_eq!(has_right(&metadata, of_group), expected, "{mode:o}");
            }
            assert_eq!(has_right(&metadata, &other), mode & 1 != 0, "{mode:o}");
        }
    }

    #[test]
    fn directories_on_the_way_and_behind_a_link_count() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        let program = closed.join("program");
        fs::write(&program, "").unwrap();
        let link = dir.path().join("link");
        symlink(&program, &link).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let owner = fs::metadata(dir.path()).unwrap().uid();
        let other = identity(owner + 12, 34_567, &[]);
        set(dir.path(), 0o755);
        set(&closed, 0o700);
        set(&program, 0o755);
        let uid = other.uid;
        let enter = format!("user {uid} may not enter {}", closed.display());
        assert_eq!(cannot_run(&program, &other), Some(enter.clone()));
        assert_eq!(cannot_run(&link, &other), Some(enter));
        set(&closed, 0o755);
        assert_eq!(cannot_run(&link, &other), None);
        set(&program, 0o744);
        let run = format!("user {uid} may not run {}", program.display());
        assert_eq!(cannot_run(&link, &other), Some(run));
        assert_eq!(cannot_run(&dir.path().join("none"), &other), None);
    }
}

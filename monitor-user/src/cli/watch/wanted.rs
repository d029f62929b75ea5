//! What of the filters of `watch` the kernel program applies, so that a death that is not wanted costs
//! no room in the ring and no wakeup.
//!
//! `deaths::Filter` is applied to what is reported all the same: to what only names say, such as a unit,
//! and to more values than the kernel program has room for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use monitor_ebpf::{MOST_WANTED, Wanted};

use crate::deaths::Filter;
use crate::os;
use crate::probe::namespace;

/// What the kernel program can choose by.
pub(in crate::cli) fn of(filter: &Filter) -> Wanted {
    let mut wanted = Wanted {
        failed: filter.failed.into(),
        by_signal: (!filter.signals.is_empty()).into(),
        by_code: (!filter.exit_codes.is_empty()).into(),
        ..Wanted::default()
    };
    for signal in &filter.signals {
        // The kernel program has no 0, and takes 64 for it.
        wanted.signals |= 1 << (signal.number() & 63);
    }
    for code in &filter.exit_codes {
        wanted.codes[usize::from(code >> 6)] |= 1 << (code & 63);
    }
    if filter.uids.len() <= MOST_WANTED {
        wanted.uids = number(filter.uids.len());
        for (to, uid) in wanted.uid.iter_mut().zip(&filter.uids) {
            *to = (*uid).into();
        }
    }
    let cgroups = filter.cgroups.iter().map(|path| cgroup(path));
    if let Some(cgroups) = cgroups.collect::<Option<Vec<_>>>()
        && cgroups.len() <= MOST_WANTED
    {
        wanted.cgroups = number(cgroups.len());
        for (at, (id, level)) in cgroups.into_iter().enumerate() {
            (wanted.cgroup[at], wanted.level[at]) = (id, level);
        }
    }
    wanted
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The ID of a cgroup, which is its inode number, and how far below the root it is. `None`: it is not
/// there yet, or cannot be seen from here.
fn cgroup(path: &str) -> Option<(u64, u64)> {
    if !namespace::sees_all_cgroups() || !has_ancestors() {
        return None;
    }
    let names = path.split('/').filter(|name| !name.is_empty());
    let level = number(names.clone().count());
    if names.clone().any(|name| name == "." || name == "..") {
        return None;
    }
    let directory = names.fold(mount()?, |directory, name| directory.join(name));
    Some((fs::metadata(directory).ok()?.ino(), level))
}

/// Whether a program of this kind may ask for the cgroups above that of the current process: not yet on
/// 5.10; looked for from 5.15 on.
fn has_ancestors() -> bool {
    os::kernel_version().is_some_and(|version| version >= (5, 15))
}

/// Where version 2 of the hierarchy is.
fn mount() -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists() && path.join("cgroup.controllers").exists())
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Signal;

    fn wanted(filter: Filter) -> Wanted {
        of(&filter)
    }

    #[test]
    fn nothing_given_wants_all() {
        assert_eq!(wanted(Filter::default()), Wanted::default());
    }

    #[test]
    fn causes_are_bits() {
        let signal = |number| Signal::from_number(number).unwrap();
        let of = wanted(Filter {
            failed: true,
            signals: vec![signal(9), signal(64)],
            exit_codes: vec![0, 64, 255],
            ..Filter::default()
        });
        assert_eq!((of.failed, of.by_signal, of.by_code), (1, 1, 1));
        assert_eq!(of.signals, 1 << 9 | 1);
        assert_eq!(of.codes, [1, 1, 0, 1 << 63]);
    }

    #[test]
    fn more_than_there_is_room_for_is_left_to_the_filter() {
        let uids = |count: u32| {
            wanted(Filter {
                uids: (0..count).collect(),
                ..Filter::default()
            })
        };
        assert_eq!((uids(8).uids, uids(8).uid[7]), (8, 7));
        assert_eq!(uids(9).uids, 0);
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_left_to_the_filter() {
        for path in ["/no-such-cgroup", "/a/../b"] {
            let of = wanted(Filter {
                cgroups: vec!["/".to_owned(), path.to_owned()],
                ..Filter::default()
            });
            assert_eq!(of.cgroups, 0, "{path}");
        }
    }
}

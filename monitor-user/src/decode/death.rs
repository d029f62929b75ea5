//! The records of a recorder: an exit, and who the dead process and the senders of its signals were.

use std::mem::offset_of;

use monitor_ebpf::{
    ANCESTORS, ARGV_BYTES, CGROUP_BYTES, COMM_LEN, CUT_CGROUP, CUT_EXE, DeathRecord, Details,
    EXE_BYTES, ExitRecord, SignalledDeathRecord, TTY_BYTES,
};

use super::{ProcessExit, text_of};
use crate::model::{Ancestor, Owner, Profile};

/// A death as a recorder keeps it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Death {
    /// The exit. Its senders have their profiles.
    pub(crate) exit: ProcessExit,
    /// Who it was.
    pub(crate) profile: Profile,
}

/// Reads a recorder's record; `None` if the bytes are not one.
pub(crate) fn death(bytes: &[u8]) -> Option<Death> {
    let is_signalled = bytes.len() == size_of::<SignalledDeathRecord>();
    if !is_signalled && bytes.len() != size_of::<DeathRecord>() {
        return None;
    }
    let mut exit = super::exit(bytes.get(..size_of::<ExitRecord>())?)?;
    let profile = |offset| profile(bytes.get(offset..)?.first_chunk()?);
    if is_signalled {
        if let Some(sender) = exit.cause.sender_mut() {
            sender.profile = profile(offset_of!(SignalledDeathRecord, sender)).map(Box::new);
        }
        if let Some(last) = &mut exit.last_signal
            && let Some(sender) = &mut last.sender
        {
            sender.profile = profile(offset_of!(SignalledDeathRecord, asker)).map(Box::new);
        }
    }
    let profile = profile(offset_of!(DeathRecord, details)).unwrap_or_default();
    Some(Death { exit, profile })
}

/// `None`: nothing is known of that process.
fn profile(bytes: &[u8; size_of::<Details>()]) -> Option<Profile> {
    let at = |offset: usize, length: usize| bytes.get(offset..offset + length).unwrap_or_default();
    let number = |offset| {
        let word = at(offset, 4).first_chunk().copied();
        u32::from_ne_bytes(word.unwrap_or_default())
    };
    let length = |offset| usize::try_from(number(offset)).unwrap_or(usize::MAX);
    let cut = number(offset_of!(Details, cut));
    let cgroup_len = length(offset_of!(Details, cgroup_len)).min(CGROUP_BYTES);
    let exe_len = length(offset_of!(Details, exe_len)).min(EXE_BYTES);
    let argv_len = length(offset_of!(Details, argv_len));
    let set = |number: u32| (number != u32::MAX).then_some(number);
    let argv = at(offset_of!(Details, argv), argv_len.min(ARGV_BYTES));
    let tty = text_of(at(offset_of!(Details, tty), TTY_BYTES));
    let ancestors = (0..ANCESTORS).map_while(|index| {
        let pid = number(offset_of!(Details, ancestor_pids) + index * 4);
        let comm = offset_of!(Details, ancestor_comms) + index * COMM_LEN;
        let comm = text_of(at(comm, COMM_LEN));
        (pid != 0).then_some(Ancestor { pid, comm })
    });
    let cgroup = path(
        at(offset_of!(Details, cgroup), cgroup_len),
        cut & CUT_CGROUP != 0,
    );
    let profile = Profile {
        exe: path(at(offset_of!(Details, exe), exe_len), cut & CUT_EXE != 0)
            // No program is a directory: its file is in no directory, as that of a memfd is not.
            .filter(|path| path != "/"),
        argv: (argv_len > 0).then(|| arguments(argv)),
        argv_cut: argv_len > ARGV_BYTES,
        login_uid: set(number(offset_of!(Details, login_uid))),
        login_session: set(number(offset_of!(Details, login_session))),
        tty: (!tty.is_empty()).then(|| terminal(&tty)),
        owner: cgroup.as_deref().map(Owner::of_cgroup).unwrap_or_default(),
        cgroup,
        ancestors: ancestors.collect(),
    };
    (profile != Profile::default()).then_some(profile)
}

/// A path of names that are written from the innermost outwards, each with a NUL. One that was cut
/// begins with "…/"; one of which nothing is there is not known.
fn path(names: &[u8], is_cut: bool) -> Option<String> {
    let mut names: Vec<&[u8]> = names.split(|&byte| byte == 0).collect();
    // After the last NUL: nothing, or a name that was cut.
    names.pop();
    if names.is_empty() && is_cut {
        return None;
    }
    let mut path = String::new();
    if is_cut {
        path.push('…');
    }
    for name in names.iter().rev() {
        path.push('/');
        path.push_str(&String::from_utf8_lossy(name));
    }
    if path.is_empty() {
        path.push('/');
    }
    Some(path)
}

/// A terminal's name below `/dev`. The kernel's own name of a pseudo-terminal has no slash: `pts3` is
/// `/dev/pts/3` (`tty_line_name`, drivers/tty/tty_io.c).
fn terminal(name: &str) -> String {
    match name.strip_prefix("pts") {
        Some(number) if number.starts_with(|digit: char| digit.is_ascii_digit()) => {
            format!("pts/{number}")
        }
        _ => name.to_owned(),
    }
}

/// Arguments, each with a NUL but for one that was cut.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let arguments = bytes.split(|&byte| byte == 0);
    arguments
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_turned_round() {
        for (names, is_cut, expected) in [
            (&b"nginx\0sbin\0usr\0"[..], false, Some("/usr/sbin/nginx")),
            (
                b"nginx.service\0system.slice\0",
                false,
                Some("/system.slice/nginx.service"),
            ),
            (b"c\0b\0a-long-on", true, Some("…/b/c")),
            (b"", false, Some("/")),
            (b"", true, None),
        ] {
            assert_eq!(path(names, is_cut).as_deref(), expected, "{names:?}");
        }
    }

    #[test]
    fn terminals_have_their_names_below_dev() {
        for (name, expected) in [
            ("pts0", "pts/0"),
            ("pts12", "pts/12"),
            ("tty1", "tty1"),
            ("ttyS0", "ttyS0"),
            ("pts/3", "pts/3"),
            ("pts", "pts"),
        ] {
            assert_eq!(terminal(name), expected);
        }
    }

    #[test]
    fn arguments_may_be_empty_and_cut() {
        for (bytes, expected) in [
            (&b"nginx\0-g\0\0"[..], &["nginx", "-g", ""][..]),
            (b"sh\0-c\0sleep 1", &["sh", "-c", "sleep 1"]),
            (
                b"a title that a process gave itself\0\0\0",
                &["a title that a process gave itself", "", ""],
            ),
            (b"\xff\0", &["\u{fffd}"]),
        ] {
            assert_eq!(arguments(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn bytes_of_another_length_are_no_record() {
        for length in [0, size_of::<ExitRecord>(), size_of::<DeathRecord>() - 8] {
            assert_eq!(death(&vec![0xff; length]), None);
        }
        // Whatever is in it, it is read.
        for byte in [0, 1, 0xff] {
            assert!(death(&vec![byte; size_of::<DeathRecord>()]).is_some());
            assert!(death(&vec![byte; size_of::<SignalledDeathRecord>()]).is_some());
        }
    }
}

//! Which init this is. Collects what can be seen of it, and says what it decided and why.
//!
//! PID 1 counts, not what is installed: an entry that the running init does not read is none.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use super::{Init, Root};

/// What can be seen of an init.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What PID 1 calls itself; empty for an image.
    pub(crate) comm: String,
    /// The program of PID 1, or that of `/sbin/init` in an image, links followed.
    pub(crate) program: Option<PathBuf>,
    /// What sd_booted(3) looks for: `/run/systemd/system`.
    pub(crate) has_systemd_dir: bool,
    /// sysvinit makes this FIFO: `/run/initctl`, or `/dev/initctl` before.
    pub(crate) has_initctl: bool,
    /// `/run/openrc`, of a running OpenRC.
    pub(crate) has_openrc_dir: bool,
    /// `/etc/openwrt_release`.
    pub(crate) is_openwrt: bool,
    /// `/etc/inittab`.
    pub(crate) has_inittab: bool,
    /// It is not running: an image.
    pub(crate) is_image: bool,
}

/// Which it is, and what tells so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) init: Init,
    pub(crate) why: String,
}

impl Facts {
    /// Of the running system, or of an image.
    pub(crate) fn of(root: &Root) -> Self {
        let is_fifo = |path: &str| {
            let metadata = root.locate(Path::new(path), true).and_then(fs::metadata);
            metadata.is_ok_and(|metadata| metadata.file_type().is_fifo())
        };
        let is_image = !root.is_live();
        let (comm, program) = if is_image {
            let path = ["/sbin/init", "/init"]
                .into_iter()
                .find(|path| root.exists(path) || root.link(path).is_some());
            let located = path.and_then(|path| root.locate(Path::new(path), true).ok());
            (String::new(), located)
        } else {
            let comm = fs::read_to_string("/proc/1/comm").unwrap_or_default();
            (
                comm.trim_end().to_owned(),
                fs::read_link("/proc/1/exe").ok(),
            )
        };
        Self {
            comm,
            program,
            has_systemd_dir: root.is_dir("/run/systemd/system"),
            has_initctl: is_fifo("/run/initctl") || is_fifo("/dev/initctl"),
            has_openrc_dir: root.is_dir("/run/openrc"),
            is_openwrt: root.exists("/etc/openwrt_release"),
            has_inittab: root.exists("/etc/inittab"),
            is_image,
        }
    }

    fn program_name(&self) -> &str {
        self.program
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
            .map_or("", |name| name.trim_end_matches(" (deleted)"))
    }
}

/// Which init it is.
///
/// # Errors
/// None that is known, or not for certain; lists what can be chosen.
pub(crate) fn decide(facts: &Facts) -> Result<Found> {
    let name = facts.program_name();
    let by_name = match name {
        "systemd" => Some(Init::Systemd),
        "procd" => Some(Init::Procd),
        "runit" | "runit-init" => Some(Init::Runit),
        "s6-svscan" | "s6-linux-init" => Some(Init::S6),
        "dinit" => Some(Init::Dinit),
        "openrc-init" => Some(Init::Openrc),
        "busybox" | "busybox.static" | "busybox.nosuid" => Some(Init::Busybox),
        "init" if facts.has_inittab && (facts.has_initctl || facts.is_image) => {
            Some(Init::Sysvinit)
        }
        _ => by_comm(facts),
    };
    let Some(init) = by_name else {
        return Err(undecided(facts, "it is not a known one"));
    };
    if facts.has_systemd_dir && init != Init::Systemd && !facts.is_image {
        return Err(undecided(
            facts,
            "it does not look like systemd, but /run/systemd/system says that it is",
        ));
    }
    Ok(Found {
        init,
        why: why(facts, init),
    })
}

/// Where the program cannot be read, its name for itself is left.
fn by_comm(facts: &Facts) -> Option<Init> {
    if facts.program.is_some() && facts.comm != "s6-svscan" {
        return None;
    }
    match facts.comm.as_str() {
        "systemd" => Some(Init::Systemd),
        "procd" => Some(Init::Procd),
        "runit" => Some(Init::Runit),
        "s6-svscan" => Some(Init::S6),
        "dinit" => Some(Init::Dinit),
        "openrc-init" => Some(Init::Openrc),
        "init" if facts.has_systemd_dir => Some(Init::Systemd),
        "init" if facts.has_initctl && facts.has_inittab => Some(Init::Sysvinit),
        _ => None,
    }
}

fn subject(facts: &Facts) -> String {
    let program = facts.program.as_deref().map_or_else(
        || "its program cannot be read".to_owned(),
        |program| format!("its program is {}", program.display()),
    );
    if facts.is_image {
        format!("/sbin/init in the image: {program}")
    } else {
        format!("PID 1 is called {:?}, {program}", facts.comm)
    }
}

fn why(facts: &Facts, init: Init) -> String {
    let mut why = subject(facts);
    if init == Init::Sysvinit && facts.has_initctl {
        why += ", it listens on initctl";
    }
    if matches!(init, Init::Sysvinit | Init::Busybox) && facts.has_inittab {
        why += ", and there is /etc/inittab";
    }
    if facts.has_openrc_dir && init != Init::Openrc {
        why += "; OpenRC runs above it (--init openrc has its supervise-daemon keep the agents, \
                which can be killed itself)";
    }
    why
}

fn undecided(facts: &Facts, problem: &str) -> anyhow::Error {
    anyhow!(
        "cannot tell which init this is: {}; {problem}\nname it with --init: {}",
        subject(facts),
        Init::names()
    )
}

/// The directory that a running scanner (runsvdir, s6-svscan) looks at, from its command line.
pub(crate) fn scan_dir(comm: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids: Vec<u32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // The one that PID 1 has started comes before those of users.
    pids.sort_unstable();
    let is_it = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == comm)
    };
    let pid = pids.into_iter().find(is_it)?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    scan_dir_of(&String::from_utf8_lossy(&line))
}

/// The first word that is a path, of words that end with NUL. What follows runsvdir's directory
/// is its log.
fn scan_dir_of(cmdline: &str) -> Option<String> {
    let mut words = cmdline.split('\0').skip(1);
    words
        .find(|word| word.starts_with('/'))
        .map(|word| word.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn running(comm: &str, program: &str) -> Facts {
        Facts {
            comm: comm.to_owned(),
            program: (!program.is_empty()).then(|| program.into()),
            ..Facts::default()
        }
    }

    #[test]
    fn knows_them_by_pid_1() {
        for (facts, expected) in [
            (
                running("systemd", "/usr/lib/systemd/systemd"),
                Init::Systemd,
            ),
            (running("systemd", ""), Init::Systemd),
            (running("procd", "/sbin/procd"), Init::Procd),
            (running("init", "/bin/busybox"), Init::Busybox),
            (running("runit", "/usr/sbin/runit"), Init::Runit),
            (running("s6-svscan", "/usr/bin/s6-svscan"), Init::S6),
            (running("init", "/usr/sbin/dinit"), Init::Dinit),
            (running("init", "/sbin/openrc-init"), Init::Openrc),
        ] {
            let found = decide(&facts).unwrap();
            assert_eq!(found.init, expected, "{facts:?}");
            assert!(found.why.contains(&facts.comm), "{}", found.why);
        }
    }

    #[test]
    fn sysvinit_shows_by_its_fifo_and_its_file() {
        let facts = Facts {
            has_initctl: true,
            has_inittab: true,
            ..running("init", "/usr/sbin/init")
        };
        let found = decide(&facts).unwrap();
        assert_eq!(found.init, Init::Sysvinit);
        assert!(found.why.contains("initctl") && found.why.contains("inittab"));
        let without_fifo = Facts {
            has_initctl: false,
            ..facts.clone()
        };
        assert!(decide(&without_fifo).is_err());
        let with_openrc = Facts {
            has_openrc_dir: true,
            ..facts
        };
        let found = decide(&with_openrc).unwrap();
        assert_eq!(found.init, Init::Sysvinit);
        assert!(found.why.contains("--init openrc"), "{}", found.why);
    }

    #[test]
    fn what_is_unknown_or_contradicts_itself_is_left_to_the_user() {
        let contradiction = Facts {
            has_systemd_dir: true,
            ..running("init", "/bin/busybox")
        };
        for facts in [
            running("tini", "/usr/bin/tini"),
            running("process_api", "/process_api"),
            running("", ""),
            running("init", "/sbin/init"),
            contradiction,
        ] {
            let error = decide(&facts).unwrap_err().to_string();
            for init in Init::ALL {
                assert!(error.contains(init.name()), "{error}");
            }
        }
    }

    #[test]
    fn an_image_shows_by_its_init() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        fs::create_dir_all(dir.path().join("sbin")).unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        assert!(decide(&Facts::of(&root)).is_err());
        fs::write(dir.path().join("bin/busybox"), "").unwrap();
        symlink("/bin/busybox", dir.path().join("sbin/init")).unwrap();
        assert_eq!(decide(&Facts::of(&root)).unwrap().init, Init::Busybox);
        fs::remove_file(dir.path().join("sbin/init")).unwrap();
        fs::write(dir.path().join("sbin/init"), "").unwrap();
        assert!(decide(&Facts::of(&root)).is_err());
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/inittab"), "").unwrap();
        assert_eq!(decide(&Facts::of(&root)).unwrap().init, Init::Sysvinit);
    }

    #[test]
    fn the_scanned_directory_is_the_first_path() {
        for (cmdline, expected) in [
            ("runsvdir\0-P\0/etc/service\0log: ....\0", "/etc/service"),
            ("s6-svscan\0-t0\0--\0/run/service/\0", "/run/service"),
            ("/bin/s6-svscan\0/service", "/service"),
        ] {
            assert_eq!(scan_dir_of(cmdline).as_deref(), Some(expected));
        }
        assert_eq!(scan_dir_of("runsvdir\0service\0"), None);
    }
}

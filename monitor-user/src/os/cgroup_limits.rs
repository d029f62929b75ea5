//! Writes a service's limits into its cgroup, where the hierarchy has the controllers. A controller that
//! is missing is no error: what has no effect is returned in words.

use std::fs;
use std::io;
use std::path::Path;

use crate::model::CgroupLimits;

/// The period that `cpu.max` counts in, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// One file of a cgroup.
struct Setting {
    /// In the service's file.
    key: &'static str,
    controller: &'static str,
    file: &'static str,
    /// What it is without a limit.
    default: &'static str,
    wanted: Option<String>,
}

fn settings(limits: &CgroupLimits) -> [Setting; 5] {
    let cpu = limits.cpu_max.map(u64::from);
    let cpu = cpu.map(|percent| format!("{} {PERIOD_US}", percent * PERIOD_US / 100));
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let weight = limits.io_weight.map(|weight| format!("default {weight}"));
    let setting = |key, file: &'static str, default, wanted| Setting {
        key,
        controller: file.split('.').next().unwrap_or_default(),
        file,
        default,
        wanted,
    };
    [
        setting("memory_max", "memory.max", "max", number(limits.memory_max)),
        setting(
            "memory_high",
            "memory.high",
            "max",
            number(limits.memory_high),
        ),
        setting("cpu_max", "cpu.max", "max 100000", cpu),
        setting("pids_max", "pids.max", "max", number(limits.pids_max)),
        setting("io_weight", "io.weight", "default 100", weight),
    ]
}

/// The keys that are set.
pub(crate) fn keys(limits: &CgroupLimits) -> Vec<&'static str> {
    let settings = settings(limits).into_iter();
    let set = settings.filter(|setting| setting.wanted.is_some());
    set.map(|setting| setting.key).collect()
}

/// Gives a cgroup these limits and no others; its controllers are enabled in `ways`, the directories
/// that lead to it, from the first on. Returns what has no effect, and why.
pub(super) fn apply(limits: &CgroupLimits, cgroup: &Path, ways: &[&Path]) -> Vec<String> {
    let mut without_effect = Vec::new();
    for setting in settings(limits) {
        let file = cgroup.join(setting.file);
        let Some(wanted) = &setting.wanted else {
            // Of an earlier start. Where there is no such file, there is no limit.
            if file.exists() {
                let _ = fs::write(&file, setting.default);
            }
            continue;
        };
        let written = match write(&file, wanted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                enable(setting.controller, ways).and_then(|()| write(&file, wanted))
            }
            written => written,
        };
        if let Err(error) = written {
            let key = setting.key;
            without_effect.push(format!("{key} has no effect: {error}"));
        }
    }
    without_effect
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    // Never makes a file, which `fs::write` would try.
    let mut file = fs::File::options().write(true).open(file)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// Has the cgroups below each of the directories take part in a controller.
fn enable(controller: &str, ways: &[&Path]) -> io::Result<()> {
    for way in ways {
        let available = fs::read_to_string(way.join("cgroup.controllers"))?;
        let is_there = available
            .split_ascii_whitespace()
            .any(|it| it == controller);
        if !is_there {
            return Err(io::Error::other(format!(
                "the cgroup controller {controller} is not available in {}",
                way.display()
            )));
        }
        let file = way.join("cgroup.subtree_control");
        write(&file, &format!("+{controller}")).map_err(|error| {
            let path = file.display();
            io::Error::other(format!("cannot enable {controller} in {path}: {error}"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: CgroupLimits = CgroupLimits {
        memory_max: Some(1 << 30),
        memory_high: Some(4096),
        cpu_max: Some(150),
        pids_max: Some(512),
        io_weight: Some(50),
    };

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn each_limit_is_in_its_file_and_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "memory.max",
            "memory.high",
            "cpu.max",
            "pids.max",
            "io.weight",
        ];
        for file in files {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let now = || {
            files.map(|file| {
                let text = text(&dir.path().join(file));
                // A file of the kernel's takes each write as a whole.
                fs::write(dir.path().join(file), "").unwrap();
                text
            })
        };
        assert_eq!(apply(&ALL, dir.path(), &[]), Vec::<String>::new());
        let expected = ["1073741824", "4096", "150000 100000", "512", "default 50"];
        assert_eq!(now(), expected);
        assert!(apply(&CgroupLimits::default(), dir.path(), &[]).is_empty());
        assert_eq!(now(), ["max", "max", "max 100000", "max", "default 100"]);
    }

    #[test]
    fn a_controller_that_is_not_there_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let slot = dir.path().join("slot");
        fs::create_dir(&slot).unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
        let limits = CgroupLimits {
            memory_max: Some(1 << 30),
            ..CgroupLimits::default()
        };
        let told = apply(&limits, &slot, &[dir.path()]);
        let expected = "memory_max has no effect: the cgroup controller memory is not available in";
        assert!(told[0].starts_with(expected), "{told:?}");
        assert_eq!(keys(&limits), ["memory_max"]);
        let limits = CgroupLimits {
            pids_max: Some(5),
            ..CgroupLimits::default()
        };
        // It is enabled, and the kernel would make the file.
        assert_eq!(apply(&limits, &slot, &[dir.path()]).len(), 1);
        assert_eq!(text(&dir.path().join("cgroup.subtree_control")), "+pids");
    }
}

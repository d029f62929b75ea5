//! What is written for each init, word for word; and what twice, others' files and limits do.

use std::fs;
use std::path::Path;

use super::plan::{Ask, Change};
use super::*;

fn site(dir: &Path, is_running: bool) -> Site {
    Site {
        root: Root::at(dir),
        is_running,
        scan_dir: None,
    }
}

/// A root with what each init's own packages bring.
fn image(init: Init) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let make = |path: &str| fs::create_dir_all(dir.path().join(path)).unwrap();
    make("etc");
    let write = |path: &str, text: &str| fs::write(dir.path().join(path), text).unwrap();
    match init {
        Init::Sysvinit => write("etc/inittab", "id:2:initdefault:\n"),
        Init::Busybox => write("etc/inittab", "::sysinit:/etc/init.d/rcS\n"),
        Init::Systemd => {}
        Init::Openrc => make("etc/runlevels/default"),
        Init::Runit => make("etc/service"),
        Init::S6 => make("run/service"),
        Init::Dinit => {
            make("etc/dinit.d/boot.d");
            write(
                "etc/dinit.d/boot",
                "type = internal\nwaits-for.d = boot.d\n",
            );
        }
        Init::Procd => make("etc/rc.d"),
    }
    dir
}

/// All files and links below a directory: path, mode and content or target.
fn files(dir: &Path) -> Vec<(String, String)> {
    fn walk(dir: &Path, top: &Path, found: &mut Vec<(String, String)>) {
        use std::os::unix::fs::PermissionsExt;
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                walk(&path, top, found);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                found.push((name, format!("-> {}", target.display())));
            } else {
                let mode = metadata.permissions().mode() & 0o7777;
                let text = fs::read_to_string(&path).unwrap();
                found.push((name, format!("{mode:04o}\n{text}")));
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

/// The entries of both programs.
fn entries() -> [InitEntry; 2] {
    [InitEntry::for_test(&[]), InitEntry::of_recorder_for_test()]
}

fn snapshot(init: Init, entry: &InitEntry) -> String {
    let dir = image(init);
    let before = files(dir.path());
    let site = site(dir.path(), false);
    let plan = init.system().install(&site, entry).unwrap();
    plan.apply(&site.root).unwrap();
    let new = files(dir.path());
    let new = new.into_iter().filter(|file| !before.contains(file));
    new.map(|(name, content)| format!("== {name} {}\n", content.trim_end()))
        .collect()
}

#[test]
fn what_is_written_word_for_word() {
    let mut text = String::new();
    for entry in entries() {
        for init in Init::ALL {
            text += &format!("#### {init}\n{}", snapshot(init, &entry));
        }
    }
    let expected = include_str!("snapshots.txt");
    assert_eq!(
        text, expected,
        "if that is meant, copy it to src/init/snapshots.txt:\n{text}"
    );
}

#[test]
fn twice_is_once_and_uninstall_leaves_what_there_was() {
    for init in Init::ALL {
        let dir = image(init);
        let before = files(dir.path());
        let site = site(dir.path(), false);
        let entry = InitEntry::for_test(&[("--runtime-dir", "/run/other"), ("--config", "/c")]);
        let system = init.system();
        let plan = system.install(&site, &entry).unwrap();
        assert!(plan.after.is_empty() && plan.before.is_empty(), "{init}");
        plan.apply(&site.root).unwrap();
        let installed = files(dir.path());
        let named = installed
            .iter()
            .filter(|(_, text)| text.contains("--runtime-dir /run/other --config /c"));
        let words_differ = usize::from(init == Init::Busybox);
        assert!(named.count() + words_differ >= 1, "{init}: {installed:#?}");
        assert_eq!(system.install(&site, &entry).unwrap().changes, [], "{init}");
        // Other options replace the entry.
        let plan = system.install(&site, &InitEntry::for_test(&[])).unwrap();
        plan.apply(&site.root).unwrap();
        let changed = files(dir.path());
        assert!(!changed.iter().any(|(_, text)| text.contains("/run/other")));
        assert_eq!(changed.len(), installed.len(), "{init}");
        system
            .uninstall(&site, Program::Agent)
            .unwrap()
            .apply(&site.root)
            .unwrap();
        assert_eq!(files(dir.path()), before, "{init}");
        assert_eq!(
            system.uninstall(&site, Program::Agent).unwrap(),
            Plan::default(),
            "{init}"
        );
    }
}

#[test]
fn agent_and_recorder_come_and_go_without_each_other() {
    for init in Init::ALL {
        let system = init.system();
        let [agent, recorder] = entries();
        for (first, second) in [(&agent, &recorder), (&recorder, &agent)] {
            let dir = image(init);
            let site = site(dir.path(), false);
            let before = files(dir.path());
            let install = |entry: &InitEntry| {
                let plan = system.install(&site, entry).unwrap();
                plan.apply(&site.root).unwrap();
                files(dir.path())
            };
            let uninstall = |entry: &InitEntry| {
                let plan = system.uninstall(&site, entry.program()).unwrap();
                assert_eq!(plan.notes, [""; 0], "{init}");
                plan.apply(&site.root).unwrap();
                files(dir.path())
            };
            install(first);
            let both = install(second);
            assert_eq!(install(first), both, "{init}");
            assert_eq!(system.install(&site, second).unwrap().changes, [], "{init}");
            let left = uninstall(first);
            assert!(left.len() < both.len() || init == Init::Sysvinit || init == Init::Busybox);
            assert_eq!(system.install(&site, second).unwrap().changes, [], "{init}");
            assert_ne!(left, before, "{init}");
            assert_eq!(uninstall(second), before, "{init}");
        }
    }
}

#[test]
fn dinit_starts_at_boot_what_its_boot_service_waits_for() {
    let dir = image(Init::Dinit);
    let site = site(dir.path(), false);
    let install = |boot: &str| {
        fs::write(dir.path().join("etc/dinit.d/boot"), boot).unwrap();
        let plan = Init::Dinit
            .system()
            .install(&site, &InitEntry::for_test(&[]));
        plan.map(|plan| {
            let links = plan.changes.into_iter().filter_map(|change| match change {
                Change::Link { path, .. } => Some(path.display().to_string()),
                _ => None,
            });
            links.collect::<Vec<_>>()
        })
    };
    for (boot, expected) in [
        ("waits-for.d = boot.d\n", "boot.d"),
        ("waits-for.d: /etc/dinit.d/mine/\n", "mine"),
        (
            "waits-for.d = /usr/lib/dinit.d/boot.d\nwaits-for.d += more\n",
            "more",
        ),
    ] {
        let links = install(boot).unwrap();
        assert_eq!(
            links,
            [
                format!("/etc/dinit.d/{expected}/respawn"),
                format!("/etc/dinit.d/{expected}/respawn-spare")
            ]
        );
    }
    for boot in [
        "",
        "type = internal\n",
        "waits-for.d = /usr/lib/dinit.d/boot.d\n",
    ] {
        let error = install(boot).unwrap_err().to_string();
        assert!(error.contains("waits-for.d = boot.d"), "{error}");
    }
}

#[test]
fn a_running_init_is_asked() {
    for (init, install, uninstall) in [
        (Init::Sysvinit, "kill -HUP 1", "kill -HUP 1"),
        (Init::Busybox, "kill -HUP 1", "kill -HUP 1"),
        (
            Init::Systemd,
            "systemctl daemon-reload; systemctl --no-block start respawn.service respawn-spare.service",
            "systemctl stop respawn-spare.service; systemctl stop respawn.service; systemctl daemon-reload",
        ),
        (
            Init::Openrc,
            "rc-service respawn start; rc-service respawn-spare start",
            "rc-service respawn-spare stop; rc-service respawn stop",
        ),
        (
            Init::Runit,
            "",
            "sv exit /etc/sv/respawn-spare; sv exit /etc/sv/respawn",
        ),
        (
            Init::S6,
            "s6-svscanctl -a /run/service",
            "s6-svscanctl -an /run/service",
        ),
        (
            Init::Dinit,
            "dinitctl start respawn; dinitctl start respawn-spare",
            "dinitctl stop respawn-spare; dinitctl stop respawn; dinitctl unload respawn-spare; dinitctl unload respawn",
        ),
        (
            Init::Procd,
            "/etc/init.d/respawn start",
            "/etc/init.d/respawn stop",
        ),
    ] {
        let dir = image(init);
        let site = site(dir.path(), true);
        let asked = |plan: &Plan| {
            let all: Vec<String> = plan
                .before
                .iter()
                .chain(&plan.after)
                .map(Ask::to_string)
                .collect();
            all.join("; ")
        };
        let plan = init
            .system()
            .install(&site, &InitEntry::for_test(&[]))
            .unwrap();
        assert_eq!(asked(&plan), install, "{init}");
        assert!(!plan.look_at.is_empty(), "{init}");
        plan.apply(&site.root).unwrap();
        let plan = init.system().uninstall(&site, Program::Agent).unwrap();
        assert_eq!(asked(&plan), uninstall, "{init}");
    }
}

#[test]
fn somebody_elses_file_is_left_alone() {
    for (init, path) in [
        (Init::Systemd, "etc/systemd/system/respawn.service"),
        (Init::Openrc, "etc/init.d/respawn"),
        (Init::Runit, "etc/sv/respawn/run"),
        (Init::Runit, "etc/service/respawn"),
        (Init::S6, "run/service/respawn-spare/run"),
        (Init::Dinit, "etc/dinit.d/respawn"),
        (Init::Procd, "etc/init.d/respawn"),
    ] {
        let dir = image(init);
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "theirs\n").unwrap();
        let site = site(dir.path(), false);
        let error = init
            .system()
            .install(&site, &InitEntry::for_test(&[]))
            .unwrap_err();
        assert!(
            error.to_string().contains("move it out of the way"),
            "{error}"
        );
        assert_eq!(
            init.system().uninstall(&site, Program::Agent).unwrap(),
            Plan::default()
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs\n");
    }
}

#[test]
fn a_command_beyond_the_limits_is_refused() {
    for (init, most) in [(Init::Sysvinit, 127), (Init::Busybox, 255)] {
        let dir = image(init);
        let site = site(dir.path(), false);
        let install = |length: usize| {
            let used = "/usr/sbin/respawn --runtime-dir /run/respawn agent --config ".len();
            let used = if init == Init::Sysvinit {
                "/usr/sbin/respawn agent --config ".len()
            } else {
                used
            };
            let config = format!("/{}", "x".repeat(length - used - 1));
            init.system()
                .install(&site, &InitEntry::for_test(&[("--config", &config)]))
        };
        assert!(install(most).is_ok(), "{init}");
        let error = install(most + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("at most {most}")), "{error}");
    }
}

#[test]
fn the_backup_is_made_once_and_goes_when_it_says_nothing_more() {
    let dir = image(Init::Sysvinit);
    let site = site(dir.path(), false);
    let system = Init::Sysvinit.system();
    let backup = dir.path().join("etc/inittab.respawn-backup");
    let inittab = dir.path().join("etc/inittab");
    for config in ["/one", "/two"] {
        let entry = InitEntry::for_test(&[("--config", config)]);
        system
            .install(&site, &entry)
            .unwrap()
            .apply(&site.root)
            .unwrap();
        assert_eq!(fs::read_to_string(&backup).unwrap(), "id:2:initdefault:\n");
    }
    let text = fs::read_to_string(&inittab).unwrap();
    fs::write(&inittab, format!("{text}x:2:once:/x\n")).unwrap();
    let plan = system.uninstall(&site, Program::Agent).unwrap();
    plan.apply(&site.root).unwrap();
    assert_eq!(
        fs::read_to_string(&inittab).unwrap(),
        "id:2:initdefault:\nx:2:once:/x\n"
    );
    assert!(backup.exists() && plan.notes[0].contains("stays"));
}

#[test]
fn ids_in_other_files_of_sysvinit_are_taken() {
    let dir = image(Init::Sysvinit);
    fs::create_dir(dir.path().join("etc/inittab.d")).unwrap();
    fs::write(dir.path().join("etc/inittab.d/a.tab"), "rs1:2:once:/x\n").unwrap();
    fs::write(dir.path().join("etc/inittab.d/b"), "rs2:2:once:/x\n").unwrap();
    let site = site(dir.path(), false);
    let plan = Init::Sysvinit
        .system()
        .install(&site, &InitEntry::for_test(&[]))
        .unwrap();
    let Some(Change::Write { after, .. }) = plan.changes.last() else {
        panic!("{plan:?}");
    };
    let text = String::from_utf8(after.clone()).unwrap();
    assert!(text.contains("\nrs2:") && text.contains("\nrs3:"), "{text}");
}

#[test]
fn without_its_inittab_no_init_is_given_one() {
    for init in [Init::Sysvinit, Init::Busybox] {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path(), false);
        let error = init
            .system()
            .install(&site, &InitEntry::for_test(&[]))
            .unwrap_err();
        assert!(error.to_string().contains("is not there"), "{error}");
        assert_eq!(
            init.system().uninstall(&site, Program::Agent).unwrap(),
            Plan::default()
        );
    }
}

#[test]
fn runit_as_debian_has_it() {
    // /etc/service -> runit/runsvdir/current -> default: two names of one directory.
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("etc/runit/runsvdir/default")).unwrap();
    let link = |to: &str, path: &str| std::os::unix::fs::symlink(to, dir.path().join(path));
    link("default", "etc/runit/runsvdir/current").unwrap();
    link("runit/runsvdir/current", "etc/service").unwrap();
    let before = files(dir.path());
    let site = site(dir.path(), false);
    let system = Init::Runit.system();
    let plan = system.install(&site, &InitEntry::for_test(&[])).unwrap();
    plan.apply(&site.root).unwrap();
    let default = dir.path().join("etc/runit/runsvdir/default");
    assert!(fs::read_link(default.join("respawn")).is_ok());
    system
        .uninstall(&site, Program::Agent)
        .unwrap()
        .apply(&site.root)
        .unwrap();
    assert_eq!(files(dir.path()), before);
}

#[test]
fn s6_under_its_own_init_is_entered_for_the_next_boot_too() {
    let dir = image(Init::S6);
    let image = "etc/s6-linux-init/current/run-image/service";
    fs::create_dir_all(dir.path().join(image)).unwrap();
    let site = site(dir.path(), true);
    let plan = Init::S6
        .system()
        .install(&site, &InitEntry::for_test(&[]))
        .unwrap();
    plan.apply(&site.root).unwrap();
    for directory in [image, "run/service"] {
        assert!(dir.path().join(directory).join("respawn/run").exists());
    }
    assert_eq!(
        plan.after,
        [Ask::run(&["s6-svscanctl", "-a", "/run/service"])]
    );
    assert!(plan.notes.is_empty());
}

//! The recorder under a real systemd, as it is installed there: with the rights that its unit gives it,
//! it says who killed a unit's main process, in `why` and among the unit's own lines in journald.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/init_root.rs"]
#[allow(dead_code, reason = "it serves other tests too")]
mod init_root;

use std::fs;
use std::path::Path;

use init_root::{Namespace, Plan, kill_9, pid_inside};
use serde_json::Value;
use support::{cgroup_mount, eventually_or, needs_root, skip};
use tempfile::TempDir;

const SYSTEMD: &str = "/usr/lib/systemd/systemd";
const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";

/// A unit whose name systemd escapes.
const UNIT: &str = r"some-app@a\x2db.service";

/// The packages' part of `/usr`: the explanation for `journalctl -x`.
fn catalog() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("usr/lib/systemd/catalog");
    fs::create_dir_all(&place).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd/respawn.catalog");
    fs::copy(from, place.join("respawn.catalog")).unwrap();
    dir
}

/// A systemd with a journald and a service, and without the units that a host needs beside these.
fn boot(catalog: &TempDir) -> Namespace {
    let target = "[Unit]\nDescription=the test's units\nAllowIsolate=yes\n\
                  Wants=multi-user.target systemd-journald.service\nAfter=multi-user.target\n";
    let multi_user = "[Unit]\nDescription=services\nAllowIsolate=yes\n";
    let app = "[Service]\nExecStart=/bin/sleep 4242\nRestart=always\nRestartSec=0\n";
    Namespace::boot(&Plan {
        packages: vec![catalog.path().to_owned()],
        init: vec![SYSTEMD, "--log-target=console", "--show-status=0"],
        installed: None,
        etc: vec![
            ("systemd/system/default.target", target.to_owned()),
            ("systemd/system/multi-user.target", multi_user.to_owned()),
            ("systemd/system/some-app@.service", app.to_owned()),
            ("machine-id", format!("{:032x}\n", 0x7e57)),
        ],
    })
}

struct Host(Namespace);

impl Host {
    /// What a command inside says, which succeeds.
    fn run(&self, words: &[&str]) -> String {
        let output = self.0.run(words);
        assert!(output.status.success(), "{words:?}\n{}", self.describe());
        String::from_utf8(output.stdout).unwrap()
    }

    fn describe(&self) -> String {
        self.0
            .run(&["journalctl", "--no-pager", "-u", "respawn-recorder"]);
        self.0.describe()
    }

    fn respawn(&self, arguments: &[&str]) -> String {
        self.run(&[&["/usr/sbin/respawn"], arguments].concat())
    }

    fn main_pid(&self, unit: &str) -> String {
        let shown = self.run(&["systemctl", "show", "-P", "MainPID", unit]);
        shown.trim().to_owned()
    }

    /// The death with this pid, once it is recorded.
    fn death(&self, pid: &str) -> Value {
        let deaths = ["deaths", "--json", "--pid", pid];
        let find = || serde_json::from_str(self.respawn(&deaths).lines().next()?).ok();
        eventually_or("the death is recorded", find, || self.describe())
    }
}

#[test]
fn who_killed_a_unit_is_known_and_journald_shows_it() {
    let test = "who_killed_a_unit_is_known_and_journald_shows_it";
    needs_root!(test);
    if cgroup_mount().is_none() {
        skip(test, "no cgroup2 is mounted");
        return;
    }
    if !(Path::new(SYSTEMD).exists() && Path::new(JOURNALD).exists()) {
        skip(test, "no systemd is installed");
        return;
    }
    let catalog = catalog();
    let host = Host(boot(&catalog));
    eventually_or(
        "systemd has booted",
        || {
            let there = |path| host.0.path(path).exists();
            (there("/run/systemd/private") && there("/run/systemd/journal/socket")).then_some(())
        },
        || host.describe(),
    );
    host.run(&["systemctl", "start", UNIT]);
    let said = host.respawn(&["install", "--recorder", "--init", "auto"]);
    assert!(said.contains("the recorder is up"), "{said}");

    // By a shell that has ended since.
    let victim = host.main_pid(UNIT);
    host.run(&["/bin/sh", "-c", &format!("kill -9 {victim}; exit 0")]);
    let death = host.death(&victim);
    assert_eq!(death["unit"], UNIT);
    assert_eq!(death["cause"]["sender"]["comm"], "sh", "{death}");
    let told = host.respawn(&["why", UNIT]);
    assert!(told.contains("SIGKILL") && told.contains("sh"), "{told}");
    let journal = eventually_or(
        "journald shows it",
        || {
            let lines = host.run(&["journalctl", "--no-pager", "-u", UNIT]);
            lines.contains("killed by SIGKILL").then_some(lines)
        },
        || host.describe(),
    );
    assert!(journal.contains("from sh"), "{journal}");
    host.run(&["journalctl", "--update-catalog"]);
    let explained = host.run(&["journalctl", "--no-pager", "-x", "-u", UNIT]);
    let advice = format!("`respawn why {UNIT}`");
    assert!(explained.contains(&advice), "{explained}");
    let doctor = String::from_utf8(host.0.run(&["respawn", "doctor"]).stdout).unwrap();
    let recorder = host.0.recorders()[0];
    let works = format!("pid {} records", pid_inside(recorder).unwrap());
    assert!(doctor.contains(&works), "{doctor}");

    // While no recorder runs: systemd starts the next one, which records it.
    host.0.recorders().into_iter().for_each(kill_9);
    let victim = host.main_pid(UNIT);
    host.run(&["/bin/sh", "-c", &format!("kill -TERM {victim}; exit 0")]);
    assert_eq!(host.death(&victim)["cause"]["signal"], "SIGTERM");

    let said = host.respawn(&["uninstall", "--recorder"]);
    assert!(said.contains("no recorder runs any more"), "{said}");
    assert!(host.0.recorders().is_empty());
}

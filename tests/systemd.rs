//! The recorder under a real systemd, as it is installed there: with the rights that its unit gives it,
//! it says who killed a unit's main process, in `why` and among the unit's own lines in journald. And the agent
//! there: systemd hears that it is ready, and restarts one that does not get on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use crate::init_root::{Namespace, Plan, SERVICES, kill_9, pid_inside};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{cgroup_mount, eventually_or, needs_root, signal_to, skip};
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

/// The host, once its systemd is there; `None`: there is none to boot.
fn booted(test: &str, catalog: &TempDir) -> Option<Host> {
    if cgroup_mount().is_none() {
        skip(test, "no cgroup2 is mounted");
        return None;
    }
    if !(Path::new(SYSTEMD).exists() && Path::new(JOURNALD).exists()) {
        skip(test, "no systemd is installed");
        return None;
    }
    let host = Host(boot(catalog));
    eventually_or(
        "systemd has booted",
        || {
            let there = |path| host.0.path(path).exists();
            (there("/run/systemd/private") && there("/run/systemd/journal/socket")).then_some(())
        },
        || host.describe(),
    );
    Some(host)
}

#[test]
fn who_killed_a_unit_is_known_and_journald_shows_it() {
    let test = "who_killed_a_unit_is_known_and_journald_shows_it";
    needs_root!(test);
    let catalog = catalog();
    let Some(host) = booted(test, &catalog) else {
        return;
    };
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

const UNITS: [&str; 2] = ["respawn.service", "respawn-spare.service"];

/// The watchdog that these set, with less patience.
const IMPATIENT: &str = "[Service]\nWatchdogSec=2s\n";

#[test]
fn a_stopped_agent_without_a_spare_is_restarted_by_systemd_and_services_survive() {
    let test = "a_stopped_agent_without_a_spare_is_restarted_by_systemd_and_services_survive";
    needs_root!(test);
    let catalog = catalog();
    let Some(host) = booted(test, &catalog) else {
        return;
    };
    for unit in UNITS {
        let drop_in = host.0.path(&format!("/etc/systemd/system/{unit}.d"));
        fs::create_dir_all(&drop_in).unwrap();
        fs::write(drop_in.join("test.conf"), IMPATIENT).unwrap();
    }
    let said = host.respawn(&["install", "--init", "auto"]);
    assert!(said.contains("the agent is up"), "{said}");
    let shown = |unit: &str, property: &str| {
        let words = ["systemctl", "show", "-P", property, unit];
        host.run(&words).trim().to_owned()
    };
    for unit in UNITS {
        assert_eq!(shown(unit, "Type"), "notify");
        assert_eq!(shown(unit, "ActiveState"), "active");
    }
    // Whichever was first has the lock.
    let is_agent = |unit: &&str| shown(unit, "StatusText").contains("the agent");
    let (agents, spares): (Vec<&str>, Vec<&str>) = UNITS.into_iter().partition(is_agent);
    let ([unit], [spare]) = (&agents[..], &spares[..]) else {
        panic!("agents: {agents:?}, spares: {spares:?}");
    };
    host.run(&["systemctl", "stop", spare]);
    eventually_or(
        "the spare has ended",
        || (host.0.agents().len() == 1).then_some(()),
        || host.describe(),
    );
    let services = host.0.services();
    let agent = host.0.holder().unwrap();
    signal_to(agent, Signal::SIGSTOP);
    eventually_or(
        "the next agent is at work",
        || host.0.holder().filter(|next| *next != agent),
        || host.describe(),
    );
    assert_eq!(host.0.services(), services);
    // Nothing but its watchdog ends a process that is stopped.
    assert_eq!(shown(unit, "NRestarts"), "1");
    // It keeps them as before.
    kill_9(host.0.instances(&services[0].name)[0]);
    let again = eventually_or(
        "a service that is killed is back",
        || {
            let now = host.0.services();
            (now[0].pid != services[0].pid).then_some(now)
        },
        || host.describe(),
    );
    assert_eq!(again[1..], services[1..]);
}

#[test]
fn an_install_whose_agent_does_not_come_up_says_so() {
    let test = "an_install_whose_agent_does_not_come_up_says_so";
    needs_root!(test);
    let catalog = catalog();
    let Some(host) = booted(test, &catalog) else {
        return;
    };
    // The agent refuses a directory of somebody else's.
    let place = host.0.path("/run/respawn");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(65534), None).unwrap();
    let output = host
        .0
        .run(&["/usr/sbin/respawn", "install", "--init", "auto"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no agent came up"), "{said}");
    assert!(said.contains("systemctl status respawn.service"), "{said}");
    let why = host.run(&["journalctl", "--no-pager", "-u", "respawn.service"]);
    assert!(why.contains("/run/respawn"), "{why}");
    // Once that is mended, the entry that is there serves.
    chown(&place, Some(0), None).unwrap();
    let said = host.respawn(&["install", "--init", "auto"]);
    assert!(said.contains("the agent is up"), "{said}");
    assert_eq!(host.0.services().len(), SERVICES.len());
}

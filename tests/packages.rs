//! Debian's package under the inits that it is for, in a root of its own: installing it starts nothing, an
//! upgrade restarts no service and doubles none, a removal ends all, and a purge leaves nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::init_root::{Namespace, Plan, SERVICES, package};
use support::rig::report;
use support::{cgroup_mount, eventually_or, needs_root, now, skip};

const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Makes of the test's root one that packages can be installed in: without `respawn`, with a database of
/// packages, and with no policy that keeps services from starting.
const PREPARE: &str = "
set -e
rm -f /usr/sbin/respawn /usr/sbin/policy-rc.d
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /etc/init.d
for level in 0 1 2 3 4 5 6 S; do mkdir -p /etc/rc$level.d; done
: > /var/lib/dpkg/status
printf '[Service]\\nExecStart=/bin/sleep 4243\\n' > /root/imported.service
";

/// What is on disk and in memory by the name of the package, or names it: nothing before the package
/// comes and after it has gone. The configuration of the test is there before.
const TRACES: &str = "
find / /usr /run -xdev -path /.usr -prune -o -path /var/lib/dpkg -prune -o -name '*respawn*' -print
grep -rls respawn /etc /var/lib/systemd || true
";

/// A way to have init run the agent, its spare and the recorder.
struct Case {
    test: &'static str,
    plan: Plan,
    /// There once it has booted.
    booted: &'static str,
    turn_on: &'static [&'static str],
}

fn systemd() -> Plan {
    let target = "[Unit]\nDescription=the test's units\nAllowIsolate=yes\nWants=multi-user.target\n\
                  After=multi-user.target\n";
    let multi_user = "[Unit]\nDescription=services\nAllowIsolate=yes\n";
    Plan {
        packages: Vec::new(),
        init: vec![SYSTEMD, "--log-target=console", "--show-status=0"],
        installed: None,
        etc: vec![
            ("systemd/system/default.target", target.to_owned()),
            ("systemd/system/multi-user.target", multi_user.to_owned()),
            ("machine-id", format!("{:032x}\n", 0x7e57)),
        ],
    }
}

fn sysvinit(packages: PathBuf) -> Plan {
    let inittab = "id:2:initdefault:\nsi::sysinit:/bin/sh -c 'ln -s /run /var/run; : > /run/utmp'\nl2:2:wait:/bin/true\n";
    Plan {
        packages: vec![packages],
        init: vec!["/sbin/init"],
        installed: None,
        etc: vec![("inittab", inittab.to_owned())],
    }
}

/// The two versions of the package, or the end of the test as skipped.
fn debs(test: &str) -> Option<[PathBuf; 2]> {
    let Some(folder) = std::env::var_os("RESPAWN_PACKAGES") else {
        let reason = std::env::var("RESPAWN_NO_PACKAGES");
        let reason =
            reason.unwrap_or_else(|_| "no packages: `cargo xtask test` builds them".into());
        skip(test, &reason);
        return None;
    };
    if cgroup_mount().is_none() {
        skip(test, "no cgroup2 is mounted");
        return None;
    }
    let files = fs::read_dir(folder).unwrap().flatten();
    let files = files.map(|entry| entry.path());
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "deb");
    let mut debs: Vec<_> = files.filter(is_deb).collect();
    debs.sort();
    Some(debs.try_into().unwrap())
}

#[test]
fn under_systemd_by_its_units() {
    let test = "under_systemd_by_its_units";
    needs_root!(test);
    let Some(debs) = debs(test) else { return };
    if !Path::new(SYSTEMD).exists() {
        return skip(test, "no systemd is installed");
    }
    let case = Case {
        test,
        plan: systemd(),
        booted: "/run/systemd/private",
        turn_on: &["systemctl enable --now respawn-recorder respawn respawn-spare"],
    };
    put_through(&case, &debs);
}

#[test]
fn under_sysvinit_by_its_scripts() {
    under_sysvinit(
        "under_sysvinit_by_its_scripts",
        &[
            "update-rc.d respawn enable",
            "update-rc.d respawn-recorder enable",
            "invoke-rc.d respawn-recorder start",
            "invoke-rc.d respawn start",
        ],
    );
}

#[test]
fn under_sysvinit_by_its_inittab() {
    under_sysvinit(
        "under_sysvinit_by_its_inittab",
        &[
            "respawn install --recorder --init auto",
            "respawn install --init auto",
        ],
    );
}

fn under_sysvinit(test: &'static str, turn_on: &'static [&'static str]) {
    needs_root!(test);
    let Some(debs) = debs(test) else { return };
    let Some(package) = package("sysvinit-core") else {
        return skip(test, "no sysvinit-core: run `cargo xtask setup`");
    };
    let case = Case {
        test,
        plan: sysvinit(package),
        booted: "/run/initctl",
        turn_on,
    };
    put_through(&case, &debs);
}

/// How to talk to an agent that is not the package's.
const OTHER: &str = "agent=/root/other/agent; export RESPAWN_CONFIG=/root/other \
    RESPAWN_RUNTIME_DIR=/root/other/run RESPAWN_PIN_DIR=/sys/fs/bpf/other";

/// Starts it.
const OTHER_AGENT: &str = "mkdir -p /root/other/services /root/other/run
    cp /usr/sbin/respawn /root/other/agent
    printf 'command = [\"/bin/sleep\", \"4244\"]\\nautostart = false\\n' > /root/other/services/late.toml
    export RESPAWN_CONFIG=/root/other RESPAWN_RUNTIME_DIR=/root/other/run RESPAWN_PIN_DIR=/sys/fs/bpf/other
    setsid /root/other/agent agent > /root/other/log 2>&1 < /dev/null &
    for try in $(seq 600); do
        /root/other/agent status > /dev/null 2>&1 && exit 0
        sleep 0.1
    done
    cat /root/other/log
    exit 1";

struct Host(Namespace);

impl Host {
    fn run(&self, line: &str) -> String {
        let output = self.0.run(&["/bin/sh", "-c", &format!("cd /; {line}")]);
        assert!(output.status.success(), "{line}\n{}", self.0.describe());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Copies a package into the root, and installs it.
    fn install(&self, deb: &Path) {
        let name = Path::new("/tmp").join(deb.file_name().unwrap());
        fs::copy(deb, self.0.path(name.to_str().unwrap())).unwrap();
        self.run(&format!("dpkg --install {}", name.display()));
    }

    /// Processes of the package's binary, with what each of them runs.
    fn processes(&self) -> Vec<(u32, String)> {
        let program = |pid: u32| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            let exe = exe.to_string_lossy().into_owned();
            exe.contains("/sbin/respawn").then_some((pid, exe))
        };
        self.0.pids().into_iter().filter_map(program).collect()
    }
}

fn put_through(case: &Case, debs: &[PathBuf; 2]) {
    let began = now();
    let host = Host(Namespace::boot(&case.plan));
    eventually_or(
        "init has booted",
        || host.0.path(case.booted).exists().then_some(()),
        || host.0.describe(),
    );
    host.run(PREPARE);
    let before = host.run(TRACES);

    host.install(&debs[0]);
    assert_eq!(before, "/etc/respawn\n");
    assert_eq!(host.processes(), [], "installing starts nothing");
    let links = host.run("find /etc -type l -name '*respawn*'");
    let is_start = |link: &str| link.contains(".wants/") || link.contains("/S");
    assert!(!links.lines().any(is_start), "{links}");
    host.run("respawn doctor || true");
    for line in case.turn_on {
        host.run(line);
    }
    let services = host.0.services();
    imports_a_service(&host);
    let killed = knows_a_killer(&host);
    let services: Vec<_> = services
        .into_iter()
        .filter(|service| service.name != killed)
        .collect();
    upgrade(&host, &debs[1]);
    let after = host.0.services();
    for service in services {
        assert!(after.contains(&service), "{service:?} is not in {after:?}");
    }

    host.run(OTHER_AGENT);
    host.run("dpkg --remove respawn");
    // Somebody else's agent, which had no service's cgroup yet, is left alone.
    let left =
        host.run("ls -d /sys/fs/cgroup/respawn/*/ /sys/fs/cgroup/unified/respawn/*/ || true");
    assert_eq!(left.lines().count(), 1, "{left}");
    host.run(&format!("{OTHER} && $agent start late && $agent shutdown"));
    let is_left = || host.processes().is_empty() && no_service_runs(&host);
    eventually_or("all ends", || is_left().then_some(()), || host.0.describe());
    assert_eq!(
        host.run("find /sys/fs/bpf /sys/fs/cgroup -name 'respawn*'"),
        ""
    );
    host.run("dpkg --purge respawn");
    assert_eq!(host.run(TRACES), "", "a purge leaves nothing");
    report(&format!("{}: {:?}", case.test, began.elapsed()));
}

fn no_service_runs(host: &Host) -> bool {
    let is_imported = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\x004243\0"))
    };
    SERVICES
        .iter()
        .all(|name| host.0.instances(name).is_empty())
        && !host.0.pids().iter().any(is_imported)
}

fn imports_a_service(host: &Host) {
    host.run("respawn import --from systemd /root/imported.service");
    host.run("respawn reload && respawn is-up imported");
}

/// Kills a service: its name.
fn knows_a_killer(host: &Host) -> &'static str {
    let [name, ..] = SERVICES;
    let services = host.0.services();
    let pid = services
        .iter()
        .find(|service| service.name == name)
        .unwrap()
        .pid;
    host.run(&format!("kill -9 {pid}; exit 0"));
    for asked in [name.to_owned(), pid.to_string()] {
        let is_told = || {
            let told = host.0.run(&["respawn", "why", &asked]).stdout;
            let told = String::from_utf8(told).unwrap();
            told.contains("killed by SIGKILL from sh").then_some(())
        };
        eventually_or("its killer is known", is_told, || host.0.describe());
    }
    host.0.services();
    name
}

/// Upgrades, and waits until agent, spare and recorder run the new version.
fn upgrade(host: &Host, deb: &Path) {
    host.install(deb);
    let is_new = || {
        let processes = host.processes();
        let is_old = |(_, exe): &(u32, String)| exe.ends_with(" (deleted)");
        let are_there = host.0.agents().len() == 2 && host.0.recorders().len() == 1;
        (are_there && !processes.iter().any(is_old)).then_some(())
    };
    eventually_or("all go on as the new version", is_new, || {
        format!("{:?}\n{}", host.processes(), host.0.describe())
    });
}

//! The packages under the inits that they are for, in a root of Debian's packages: installing one starts
//! nothing, an upgrade restarts no service and doubles none, a removal ends all, and a purge leaves nothing.
//!
//! What is installed is what users get, with the static binary. It is an upgrade from the last release, 0.1.0, where
//! that can be built, and is upgraded to a later version. That one has the same binary, as there is none yet. 0.1.0
//! had no packages: its binary is packaged as this one is, with the units that it writes itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::init_root::{Namespace, Root, SERVICES, Service, package};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::rig::report;
use support::{cgroup_mount, debian, eventually_or, needs_root, now, signal_to, skip};

const SYSTEMD: [&str; 3] = [
    "/lib/systemd/systemd",
    "--log-target=console",
    "--show-status=0",
];

/// What is on disk and in memory by the name of the package, or has the word: when it has gone, the same as
/// before it came. The configuration of the test, which is there before, goes with a purge.
const TRACES: &str = "
find / /run -xdev -path /var/lib/dpkg -prune -o -path /var/cache -prune -o -name '*respawn*' -print
grep -rls respawn /etc /var/lib/systemd || true
";

/// All files, but those that other programs write while the host runs, and no directories: an rpm leaves such as
/// it shares with other packages.
const FILES: &str = "find / -xdev -path /var/lib/dpkg -prune -o -path /var/lib/rpm -prune -o \
    -path /var/log -prune -o -path /var/cache -prune -o -path /var/lib/systemd -prune -o \
    -path /root/other -prune -o -path /root/.rpmdb -prune -o -path /var/lib/nginx -prune -o \
    -path '/etc/init.d/.depend*' -prune -o ! -type d -print";

/// Which package manager installs it.
#[derive(Clone, Copy)]
enum Packager {
    Dpkg,
    /// Debian's rpm, whose database of packages has none of Debian's.
    Rpm,
    /// None: the archive, by tar.
    Archive,
}

impl Packager {
    fn ending(self) -> &'static str {
        match self {
            Self::Dpkg => "deb",
            Self::Rpm => "rpm",
            Self::Archive => "gz",
        }
    }

    fn install(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg --install",
            Self::Rpm => "rpm --upgrade --nodeps",
            Self::Archive => "tar -C / -xzf",
        }
    }

    /// As docs/install.md has it, as is what follows.
    fn remove(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg --remove respawn",
            Self::Rpm => "rpm --erase respawn",
            Self::Archive => {
                "respawn stop --all; respawn uninstall; respawn uninstall --recorder; \
                 rmdir /sys/fs/bpf/respawn"
            }
        }
    }

    fn purge(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg --purge respawn",
            Self::Rpm => "rm -r /etc/respawn /var/lib/respawn /run/respawn",
            Self::Archive => {
                "for archive in /var/cache/*.tar.gz; do \
                 tar -tzf $archive | grep -v '/$' | (cd / && xargs rm -f); done; \
                 rm -r /etc/respawn /var/lib/respawn /run/respawn /usr/share/doc/respawn"
            }
        }
    }
}

/// A way to have init run the agent, its spare and the recorder.
struct Case {
    test: &'static str,
    packager: Packager,
    root: Root,
    init: &'static [&'static str],
    etc: Vec<(&'static str, String)>,
    /// There once it has booted.
    booted: &'static str,
    turn_on: &'static str,
    turn_on_recorder: &'static str,
}

fn under_systemd(test: &'static str, packager: Packager, layers: [PathBuf; 2]) -> Case {
    // The daemons of the root stay down until a test starts one.
    let target = "[Unit]\nDescription=the test's units\nAllowIsolate=yes\nRequires=basic.target\n\
                  After=basic.target\n";
    Case {
        test,
        packager,
        root: Root::Debian(layers.into()),
        init: &SYSTEMD,
        etc: vec![
            ("systemd/system/default.target", target.to_owned()),
            ("machine-id", format!("{:032x}\n", 0x7e57)),
        ],
        booted: "/run/systemd/private",
        turn_on: "systemctl enable --now respawn respawn-spare",
        turn_on_recorder: "systemctl enable --now respawn-recorder",
    }
}

fn under_sysvinit(test: &'static str, root: PathBuf, turn_on: [&'static str; 2]) -> Case {
    let [turn_on, turn_on_recorder] = turn_on;
    Case {
        test,
        packager: Packager::Dpkg,
        root: Root::Debian(vec![root]),
        init: &["/sbin/init"],
        etc: vec![(
            "inittab",
            "id:2:initdefault:\nl2:2:wait:/bin/true\n".to_owned(),
        )],
        booted: "/run/initctl",
        turn_on,
        turn_on_recorder,
    }
}

/// The package of the last release, if it is here, of this one, and of the next.
struct Packages {
    previous: Option<PathBuf>,
    this: PathBuf,
    next: PathBuf,
}

/// The packages, or the end of the test as skipped.
fn packages(test: &str, packager: Packager) -> Option<Packages> {
    let Some(folder) = std::env::var_os("RESPAWN_PACKAGES") else {
        let reason = std::env::var("RESPAWN_NO_PACKAGES");
        let reason =
            reason.unwrap_or_else(|_| "no packages: `cargo xtask test` builds them".into());
        skip(test, &reason);
        return None;
    };
    let find = |step: &str| {
        let files = fs::read_dir(Path::new(&folder).join(step)).ok()?.flatten();
        let mut files = files.map(|entry| entry.path());
        files.find(|path| path.extension().is_some_and(|it| it == packager.ending()))
    };
    let (Some(this), Some(next)) = (find("this"), find("next")) else {
        skip(
            test,
            "no rpmbuild: run `cargo xtask setup`, then `cargo xtask test` builds the packages",
        );
        return None;
    };
    // 0.1.0's binary needs a C library, which the archive is there to do without.
    let previous = match packager {
        Packager::Archive => None,
        Packager::Dpkg | Packager::Rpm => find("previous"),
    };
    Some(Packages {
        previous,
        this,
        next,
    })
}

#[test]
fn under_systemd_by_its_units() {
    let test = "under_systemd_by_its_units";
    needs_root!(test);
    let Some(packages) = packages(test, Packager::Dpkg) else {
        return;
    };
    let Some(layers) = debian::with_systemd(test) else {
        return;
    };
    put_through(&under_systemd(test, Packager::Dpkg, layers), &packages);
}

#[test]
fn the_rpm_under_systemd() {
    let test = "the_rpm_under_systemd";
    needs_root!(test);
    let Some(packages) = packages(test, Packager::Rpm) else {
        return;
    };
    let Some(layers) = debian::with_systemd(test) else {
        return;
    };
    put_through(&under_systemd(test, Packager::Rpm, layers), &packages);
}

#[test]
fn under_sysvinit_by_its_scripts() {
    let test = "under_sysvinit_by_its_scripts";
    needs_root!(test);
    let Some(packages) = packages(test, Packager::Dpkg) else {
        return;
    };
    let Some(root) = debian::root(test) else {
        return;
    };
    let turn_on = [
        "update-rc.d respawn enable && invoke-rc.d respawn start",
        "update-rc.d respawn-recorder enable && invoke-rc.d respawn-recorder start",
    ];
    put_through(&under_sysvinit(test, root, turn_on), &packages);
}

#[test]
fn under_sysvinit_by_its_inittab() {
    let test = "under_sysvinit_by_its_inittab";
    needs_root!(test);
    let Some(packages) = packages(test, Packager::Dpkg) else {
        return;
    };
    let Some(root) = debian::root(test) else {
        return;
    };
    let turn_on = [
        "respawn install --init auto",
        "respawn install --recorder --init auto",
    ];
    put_through(&under_sysvinit(test, root, turn_on), &packages);
}

#[test]
fn the_archive_where_there_is_no_c_library() {
    let test = "the_archive_where_there_is_no_c_library";
    needs_root!(test);
    let Some(packages) = packages(test, Packager::Archive) else {
        return;
    };
    let busybox = package("busybox-static").map(|folder| folder.join("usr/bin/busybox"));
    let Some(busybox) = busybox.filter(|busybox| busybox.exists()) else {
        return skip(test, "no busybox-static: run `cargo xtask setup`");
    };
    if cgroup_mount().is_none() {
        return skip(test, "no cgroup2 is mounted");
    }
    let files = [
        ("inittab", "::sysinit:/bin/true\n"),
        ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("group", "root:x:0:\n"),
    ];
    let case = Case {
        test,
        packager: Packager::Archive,
        root: Root::Bare(busybox),
        init: &["/sbin/init"],
        etc: files.map(|(path, text)| (path, text.to_owned())).into(),
        booted: "/proc/1",
        turn_on: "respawn install --init auto",
        turn_on_recorder: "respawn install --recorder --init auto",
    };
    put_through(&case, &packages);
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

struct Host {
    namespace: Namespace,
    packager: Packager,
}

impl Host {
    /// Boots it.
    fn boot(case: &Case) -> Self {
        let host = Self {
            namespace: Namespace::boot_fresh(&case.root, case.init, case.etc.clone()),
            packager: case.packager,
        };
        eventually_or(
            "init has booted",
            || host.namespace.path(case.booted).exists().then_some(()),
            || host.namespace.describe(),
        );
        host
    }

    fn run(&self, line: &str) -> String {
        let output = self.script(line);
        assert!(
            output.status.success(),
            "{line}\n{}",
            self.namespace.describe()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn script(&self, line: &str) -> std::process::Output {
        self.namespace
            .run(&["/bin/sh", "-c", &format!("cd /; {line}")])
    }

    /// Copies a package into the root, and installs it.
    fn install(&self, package: &Path) {
        // Where systemd's first look at temporary files removes none.
        let name = Path::new("/var/cache").join(package.file_name().unwrap());
        fs::copy(package, self.namespace.path(name.to_str().unwrap())).unwrap();
        self.run(&format!("{} {}", self.packager.install(), name.display()));
    }

    /// Processes of a program whose path has this in it, with what each of them runs.
    fn processes(&self, part: &str) -> Vec<(u32, String)> {
        let program = |pid: u32| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            let exe = exe.to_string_lossy().into_owned();
            exe.contains(part).then_some((pid, exe))
        };
        self.namespace
            .pids()
            .into_iter()
            .filter_map(program)
            .collect()
    }

    /// Of the package's binary.
    fn respawns(&self) -> Vec<(u32, String)> {
        self.processes("/sbin/respawn")
    }

    fn files(&self) -> Vec<String> {
        self.run(FILES).lines().map(str::to_owned).collect()
    }

    /// What `respawn doctor` says in JSON, and its exit status.
    fn doctor(&self) -> (Value, Option<i32>) {
        let output = self.script("respawn doctor --json");
        (
            serde_json::from_slice(&output.stdout).unwrap(),
            output.status.code(),
        )
    }

    /// Upgrades, and waits until agent, spare and as many recorders run the new version: no service is
    /// started again or doubled.
    fn upgrade(&self, package: &Path, recorders: usize, services: &[Service]) {
        self.install(package);
        if let Packager::Archive = self.packager {
            // Under an init that nobody tells of the upgrade.
            let running = [self.namespace.agents(), self.namespace.recorders()];
            running
                .concat()
                .iter()
                .for_each(|pid| signal_to(*pid, Signal::SIGTERM));
        }
        let is_new = || {
            let is_old = |(_, exe): &(u32, String)| exe.ends_with(" (deleted)");
            let are_there =
                self.namespace.agents().len() == 2 && self.namespace.recorders().len() == recorders;
            (are_there && !self.respawns().iter().any(is_old)).then_some(())
        };
        eventually_or("all go on as the new version", is_new, || {
            format!("{:?}\n{}", self.respawns(), self.namespace.describe())
        });
        let after = self.namespace.services();
        for service in services {
            assert!(after.contains(service), "{service:?} is not in {after:?}");
        }
    }
}

/// What there was before the package came.
struct Before {
    traces: String,
    files: Vec<String>,
}

fn put_through(case: &Case, packages: &Packages) {
    let began = now();
    let host = Host::boot(case);
    let before = Before {
        traces: host.run(TRACES),
        files: host.files(),
    };
    host.install(packages.previous.as_ref().unwrap_or(&packages.this));
    assert_eq!(host.respawns(), [], "installing starts nothing");
    let links = host.run("find /etc -type l -name '*respawn*'");
    let is_start = |link: &str| link.contains(".wants/") || link.contains("/S");
    assert!(!links.lines().any(is_start), "{links}");
    host.run(case.turn_on);
    let services = host.namespace.services();
    if packages.previous.is_some() {
        host.upgrade(&packages.this, 0, &services);
    }
    host.run(case.turn_on_recorder);
    works_as_doctor_says(&host);
    let has_nginx = host
        .namespace
        .path("/lib/systemd/system/nginx.service")
        .exists();
    if has_nginx {
        imports_nginx(&host);
    }
    let killed = knows_a_killer(&host);
    let mut services = host.namespace.services();
    services.retain(|service| service.name != killed);
    let nginx = || has_nginx.then(|| nginx(&host));
    let old_nginx = nginx();
    host.upgrade(&packages.next, 1, &services);
    assert_eq!(nginx(), old_nginx, "nginx was not started again");
    leaves_nothing(&host, &before);
    let from = match packages.previous {
        Some(_) => "from 0.1.0 to this version and on",
        None => "from this version on",
    };
    report(&format!("{}, {from}: {:?}", case.test, began.elapsed()));
}

/// The host is one on which all works, and the recorder and agent of the package are at work.
fn works_as_doctor_says(host: &Host) {
    let works = || {
        let (said, status) = host.doctor();
        let is_so = |key: &str| said[key] == true;
        (is_so("agent") && is_so("ebpf") && is_so("full") && status == Some(0)).then_some(())
    };
    eventually_or("doctor says that all works", works, || {
        host.script("respawn doctor");
        host.namespace.describe()
    });
}

/// Has the agent run nginx by the unit of Debian's package.
fn imports_nginx(host: &Host) {
    let said = host.run("respawn import /lib/systemd/system/nginx.service 2>&1");
    assert!(said.contains(" 0 lost"), "{said}");
    host.run("respawn reload");
    let is_up = || {
        host.script("respawn is-up --quiet nginx")
            .status
            .success()
            .then_some(())
    };
    eventually_or("nginx is up", is_up, || host.namespace.describe());
}

/// nginx's main process, which answers.
fn nginx(host: &Host) -> Value {
    let answer = host.run("curl --silent --head http://127.0.0.1/");
    assert!(answer.contains("Server: nginx"), "{answer}");
    let services = host.namespace.status().unwrap();
    let nginx = services.iter().find(|it| it["service"] == "nginx").unwrap();
    assert_eq!(nginx["state"], "running", "{nginx}");
    nginx["pid"].clone()
}

/// Kills a service: its name.
fn knows_a_killer(host: &Host) -> &'static str {
    let [name, ..] = SERVICES;
    let services = host.namespace.services();
    let pid = services
        .iter()
        .find(|service| service.name == name)
        .unwrap()
        .pid;
    host.run(&format!("kill -9 {pid}; exit 0"));
    for asked in [name.to_owned(), pid.to_string()] {
        let is_told = || {
            let told = host.namespace.run(&["respawn", "why", &asked]).stdout;
            let told = String::from_utf8(told).unwrap();
            told.contains("killed by SIGKILL from sh").then_some(())
        };
        eventually_or("its killer is known", is_told, || host.namespace.describe());
    }
    host.namespace.services();
    name
}

/// Removes it beside an agent of somebody else, which is left alone, and purges it.
fn leaves_nothing(host: &Host, before: &Before) {
    host.run(OTHER_AGENT);
    host.run(host.packager.remove());
    // The other agent's cgroup stays, though no service of it has one yet. Without a package's script, so does
    // the empty one of the agent that has gone.
    let left =
        host.run("ls -d /sys/fs/cgroup/respawn/*/ /sys/fs/cgroup/unified/respawn/*/ || true");
    let has_script = !matches!(host.packager, Packager::Archive);
    assert_eq!(left.lines().count(), 2 - usize::from(has_script), "{left}");
    host.run(&format!("{OTHER} && $agent start late && $agent shutdown"));
    let no_service = || {
        let mut names = SERVICES.iter();
        names.all(|name| host.namespace.instances(name).is_empty())
            && host.processes("/sbin/nginx").is_empty()
    };
    let is_left = || (host.respawns().is_empty() && no_service()).then_some(());
    eventually_or("all ends", is_left, || host.namespace.describe());
    assert_eq!(host.run("find /sys/fs/bpf -name 'respawn*'"), "");
    if has_script {
        assert_eq!(host.run("find /sys/fs/cgroup -name 'respawn*'"), "");
    }
    host.run(host.packager.purge());
    let expected = before.traces.replace("/etc/respawn\n", "");
    assert_eq!(host.run(TRACES), expected, "a purge leaves nothing");
    let mut left = host.files();
    left.retain(|file| !before.files.contains(file));
    assert_eq!(left, [""; 0], "a purge leaves no file");
}

#[test]
fn on_a_fresh_machine_four_commands_name_who_killed_nginx() {
    let test = "on_a_fresh_machine_four_commands_name_who_killed_nginx";
    needs_root!(test);
    let Some(packages) = packages(test, Packager::Dpkg) else {
        return;
    };
    let Some(layers) = debian::with_systemd(test) else {
        return;
    };
    let host = Host::boot(&under_systemd(test, Packager::Dpkg, layers));
    host.run("systemctl start nginx");
    let began = now();
    let mut times = Vec::new();
    let mut step = |name: &'static str, began: std::time::Instant| {
        times.push(format!("{name} {:.2} s", began.elapsed().as_secs_f64()));
        now()
    };
    host.install(&packages.this);
    let since = step("dpkg --install", began);
    host.run("systemctl enable --now respawn-recorder");
    let since = step("systemctl enable --now respawn-recorder", since);
    host.run("kill -KILL $(systemctl show --property MainPID --value nginx); exit 0");
    let since = step("kill", since);
    // No second try: what is asked for after a death has it.
    let told = host.run("respawn why nginx.service");
    step("respawn why nginx.service", since);
    assert!(
        told.starts_with("nginx") && told.contains("killed by SIGKILL from sh"),
        "{told}"
    );
    let took = began.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
    report(&format!(
        "from the .deb to who killed nginx.service: {:.2} s ({})",
        took.as_secs_f64(),
        times.join(", ")
    ));
}

/// Runs a program that looks for faults in a package; `None`: it is not installed.
fn looks_at(test: &str, program: &str, arguments: &[&str], package: &Path) -> Option<String> {
    let mut command = Command::new(program);
    match command.args(arguments).arg(package).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some(String::from_utf8(said).unwrap())
        }
        Err(error) => {
            skip(
                test,
                &format!("{program}: {error}; run `cargo xtask setup`"),
            );
            None
        }
    }
}

#[test]
fn lintian_reports_nothing_that_is_not_explained() {
    let test = "lintian_reports_nothing_that_is_not_explained";
    let Some(packages) = packages(test, Packager::Dpkg) else {
        return;
    };
    let options = [
        "--allow-root",
        "--display-info",
        "--display-experimental",
        "--pedantic",
        "--tag-display-limit=0",
    ];
    if let Some(said) = looks_at(test, "lintian", &options, &packages.this) {
        let faults = said.lines().filter(|line| !line.starts_with("N: "));
        assert_eq!(faults.collect::<Vec<_>>(), [""; 0]);
    }
}

#[test]
fn rpmlint_reports_nothing_that_is_not_explained() {
    let test = "rpmlint_reports_nothing_that_is_not_explained";
    let Some(packages) = packages(test, Packager::Rpm) else {
        return;
    };
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/rpm/rpmlint.toml");
    let options = ["--config", config];
    if let Some(said) = looks_at(test, "rpmlint", &options, &packages.this) {
        assert!(said.contains(" 0 errors, 0 warnings"), "{said}");
    }
}

//! Under real inits nothing is lost and nothing is doubled: each init of Debian boots as PID 1 of
//! a PID namespace, `respawn install` puts its entry there, and then agents and services are
//! killed in every company, and all at once.
//!
//! With `RESPAWN_SOAK=1` the rounds are many times as many.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::chown;
use std::time::Duration;

use crate::init_root::{Namespace, Plan, SERVICES, Service, kill_9, package, pid_inside};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::rig::{is_soak, report};
use support::{cgroup_mount, eventually_or, needs_root, now, respawn, skip};

/// A line of sysvinit's, of a process that only SIGKILL ends.
const STUBBORN: &str = "xx:2:respawn:/bin/sh -c 'trap \"\" TERM; exec sleep 4242'\n";

/// An init, and how much it is put through.
struct Case {
    test: &'static str,
    /// For `install --init`, and for `uninstall`.
    name: &'static str,
    plan: Plan,
    /// How often the agent is killed.
    kills: usize,
    /// Between two kills there is a random time of at most so much.
    at_most: Duration,
    /// How often the agent is stopped.
    stops: usize,
    /// How often more than the agent is killed.
    rounds: usize,
    /// Whether it puts aside what dies too often.
    puts_aside: bool,
    /// Whether an entry written to an image is there at boot.
    boots_with_it: bool,
    /// What is there once it has booted, if it takes its time.
    is_booted: Option<&'static str>,
    /// Whether it lives through `kill -9 -1`: it keeps its entries by processes that PID 1 keeps.
    survives_kill_all: bool,
}

fn rounds(in_ci: usize, in_soak: usize) -> usize {
    if is_soak() { in_soak } else { in_ci }
}

/// Skips what cannot run here.
fn packages(test: &str, names: &[&str]) -> Option<Vec<std::path::PathBuf>> {
    if cgroup_mount().is_none() {
        skip(test, "no cgroup2 is mounted");
        return None;
    }
    let found: Option<Vec<_>> = names.iter().map(|name| package(name)).collect();
    if found.is_none() {
        skip(
            test,
            &format!(
                "no {} in target/test-packages: run `cargo xtask setup`",
                names.join(" ")
            ),
        );
    }
    found
}

fn sysvinit(packages: Vec<std::path::PathBuf>) -> Plan {
    let inittab = "# /etc/inittab\nid:2:initdefault:\nsi::sysinit:/bin/true\nl2:2:wait:/bin/true\n";
    Plan {
        packages,
        init: vec!["/sbin/init"],
        installed: None,
        etc: vec![("inittab", format!("{inittab}{STUBBORN}"))],
    }
}

fn busybox(packages: Vec<std::path::PathBuf>) -> Plan {
    Plan {
        packages,
        init: vec!["/bin/busybox", "init"],
        installed: None,
        etc: vec![("inittab", "::sysinit:/bin/true\n".to_owned())],
    }
}

#[test]
fn sysvinit_keeps_the_agent_beyond_its_limit() {
    let test = "sysvinit_keeps_the_agent_beyond_its_limit";
    needs_root!(test);
    let Some(packages) = packages(test, &["sysvinit-core"]) else {
        return;
    };
    put_through(&Case {
        test,
        name: "sysvinit",
        plan: sysvinit(packages),
        // Its limit is 10 in 2 minutes.
        kills: rounds(200, 2000),
        at_most: Duration::from_millis(150),
        stops: rounds(6, 200),
        rounds: rounds(10, 100),
        puts_aside: true,
        boots_with_it: true,
        is_booted: None,
        survives_kill_all: true,
    });
}

#[test]
fn busybox_keeps_the_agent() {
    let test = "busybox_keeps_the_agent";
    needs_root!(test);
    let Some(packages) = packages(test, &["busybox-static"]) else {
        return;
    };
    put_through(&Case {
        test,
        name: "busybox",
        plan: busybox(packages),
        kills: 200,
        at_most: Duration::from_millis(1500),
        stops: rounds(6, 200),
        rounds: rounds(3, 20),
        puts_aside: false,
        boots_with_it: true,
        is_booted: None,
        survives_kill_all: true,
    });
}

#[test]
fn runit_keeps_the_agent() {
    let test = "runit_keeps_the_agent";
    needs_root!(test);
    let Some(packages) = packages(test, &["runit"]) else {
        return;
    };
    let scan =
        "#!/bin/sh\nexec env - PATH=/usr/sbin:/usr/bin runsvdir -P /etc/service 'log: ....'\n";
    put_through(&Case {
        test,
        name: "runit",
        plan: Plan {
            packages,
            init: vec!["/sbin/runit"],
            installed: None,
            etc: vec![
                ("runit/1", "#!/bin/sh\n".to_owned()),
                ("runit/2", scan.to_owned()),
                ("runit/3", "#!/bin/sh\n".to_owned()),
                // What Debian's boot scripts make.
                ("runit/runsvdir/current", "-> default".to_owned()),
            ],
        },
        kills: 200,
        at_most: Duration::from_millis(1500),
        stops: 0,
        rounds: rounds(3, 20),
        puts_aside: false,
        boots_with_it: true,
        is_booted: None,
        // With runsvdir killed, runit takes its second stage for finished and powers off.
        survives_kill_all: false,
    });
}

#[test]
fn s6_keeps_the_agent() {
    let test = "s6_keeps_the_agent";
    needs_root!(test);
    let Some(packages) = packages(test, &["s6"]) else {
        return;
    };
    put_through(&Case {
        test,
        name: "s6",
        plan: Plan {
            packages,
            init: vec!["/usr/bin/s6-svscan", "/run/service"],
            installed: None,
            etc: vec![],
        },
        kills: 200,
        at_most: Duration::from_millis(1500),
        stops: 0,
        rounds: rounds(3, 20),
        puts_aside: false,
        // Its directory is in /run.
        boots_with_it: false,
        is_booted: None,
        survives_kill_all: true,
    });
}

#[test]
fn openrc_keeps_the_agent() {
    let test = "openrc_keeps_the_agent";
    needs_root!(test);
    let Some(packages) = packages(test, &["openrc"]) else {
        return;
    };
    put_through(&Case {
        test,
        name: "openrc",
        plan: Plan {
            packages,
            init: vec!["/sbin/openrc-init"],
            installed: None,
            etc: vec![
                ("insserv.conf", String::new()),
                ("insserv.conf.d/.keep", String::new()),
            ],
        },
        kills: rounds(200, 2000),
        at_most: Duration::from_millis(300),
        stops: 0,
        rounds: rounds(3, 20),
        puts_aside: false,
        boots_with_it: true,
        is_booted: Some("/run/openrc/softlevel"),
        // Nobody keeps supervise-daemon.
        survives_kill_all: false,
    });
}

#[test]
fn systemd_keeps_the_agent() {
    let test = "systemd_keeps_the_agent";
    needs_root!(test);
    let Some(packages) = packages(test, &[]) else {
        return;
    };
    let program = "/usr/lib/systemd/systemd";
    if !std::path::Path::new(program).exists() {
        skip(test, "no systemd is installed");
        return;
    }
    put_through(&Case {
        test,
        name: "systemd",
        plan: Plan {
            packages,
            init: vec![program, "--log-target=console", "--show-status=0"],
            installed: None,
            etc: systemd_etc(),
        },
        kills: rounds(200, 2000),
        at_most: Duration::from_millis(300),
        stops: 0,
        rounds: rounds(3, 20),
        puts_aside: false,
        boots_with_it: true,
        is_booted: Some("/run/systemd/private"),
        survives_kill_all: true,
    });
}

/// Of the units that a host needs, a namespace needs none.
fn systemd_etc() -> Vec<(&'static str, String)> {
    let target = "[Unit]\nDescription=nothing but what is installed\n\
                  Wants=multi-user.target\nAfter=multi-user.target\nAllowIsolate=yes\n";
    let multi_user = "[Unit]\nDescription=services\nAllowIsolate=yes\n";
    vec![
        ("systemd/system/default.target", target.to_owned()),
        ("systemd/system/multi-user.target", multi_user.to_owned()),
        ("machine-id", format!("{:032x}\n", 0x7e57)),
    ]
}

/// All of it, under one init.
fn put_through(case: &Case) {
    let mut trial = Trial::begin(case, &case.plan);
    await_init(&trial.namespace, case.name, case.is_booted);
    if case.puts_aside {
        trial.install_with_a_bad_file();
        trial.install_while_init_is_busy();
    }
    trial.install();
    trial.keep_the_recorder();
    trial.kill_the_agent();
    trial.kill_the_spare();
    trial.kill_both_agents();
    trial.kill_agents_and_services();
    trial.stop_the_agent();
    if case.survives_kill_all {
        trial.kill_everything();
    }
    trial.check_journal();
    trial.report();
    trial.uninstall();
    drop(trial);
    if case.boots_with_it {
        let mut plan = case.plan.clone();
        plan.installed = Some(case.name);
        let mut trial = Trial::begin(case, &plan);
        trial.await_both();
        trial.kill_agents_and_services();
    }
}

/// Until PID 1 can be told to be what it is, and to read its entries.
fn await_init(namespace: &Namespace, name: &str, is_booted: Option<&str>) {
    eventually_or(
        "init that is ready",
        || {
            let dry = namespace.run(&["respawn", "install", "--init", "auto", "--dry-run"]);
            let text = String::from_utf8_lossy(&dry.stdout).into_owned();
            let is_there = |sign| namespace.path(sign).exists();
            let ready = is_booted.is_none_or(is_there);
            (ready && text.contains(&format!("init is {name}"))).then_some(())
        },
        || namespace.describe(),
    );
}

struct Trial<'a> {
    case: &'a Case,
    namespace: Namespace,
    /// Instances that were killed, by (service, pid, start time).
    deaths: Vec<Service>,
    /// From a kill to the lock being another agent's, where a spare waited for it.
    takeovers: Vec<Duration>,
    /// The same, where init had not started the next spare yet.
    starts: Vec<Duration>,
}

impl<'a> Trial<'a> {
    fn begin(case: &'a Case, plan: &Plan) -> Self {
        Self {
            case,
            namespace: Namespace::boot(plan),
            deaths: Vec::new(),
            takeovers: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// While sysvinit ends the processes of removed lines it forgets each SIGHUP that comes: it is
    /// kept at that by one that takes no SIGTERM.
    fn install_while_init_is_busy(&self) {
        let namespace = &self.namespace;
        let inittab = namespace.path("/etc/inittab");
        let before = std::fs::read_to_string(&inittab).unwrap();
        assert!(before.contains(STUBBORN));
        std::fs::write(&inittab, before.replace(STUBBORN, "")).unwrap();
        namespace.clear_console();
        eventually_or(
            "init that ends the stubborn one",
            || {
                let look_again = namespace.run(&["/bin/sh", "-c", "kill -HUP 1"]);
                assert!(look_again.status.success());
                // It may be at the end of the agents still, and forget this one too.
                std::thread::sleep(Duration::from_millis(100));
                namespace.console().contains("TERM signal").then_some(())
            },
            || namespace.describe(),
        );
        self.respawn(&["install", "--init", self.case.name]);
        self.respawn(&["uninstall"]);
        self.await_end();
    }

    fn await_end(&self) {
        eventually_or(
            "end of both agents",
            || self.namespace.agents().is_empty().then_some(()),
            || self.namespace.describe(),
        );
    }

    /// A bad file costs its service alone: the agents come up, and the next install finds them.
    fn install_with_a_bad_file(&self) {
        let bad = self.namespace.path("/etc/respawn/services/bad.toml");
        std::fs::write(&bad, "comand = 1\n").unwrap();
        self.respawn(&["install", "--init", self.case.name]);
        let services = self.respawn(&["status", "bad"]);
        assert!(services.contains("failed"), "{services}");
        std::fs::remove_file(bad).unwrap();
        self.respawn(&["install", "--init", self.case.name]);
        self.respawn(&["uninstall"]);
        self.await_end();
    }

    fn respawn(&self, arguments: &[&str]) -> String {
        let words = [&["/usr/sbin/respawn"], arguments].concat();
        let output = self.namespace.run(&words);
        assert!(
            output.status.success(),
            "{words:?}\n{}",
            self.namespace.describe()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The entry, by the command itself; it says when agent and spare are there.
    fn install(&self) {
        let namespace = &self.namespace;
        assert!(namespace.agents().is_empty());
        let said = self.respawn(&["install", "--init", "auto"]);
        assert!(said.contains("the agent is up"), "{said}");
        self.await_both();
        // Twice is once.
        let before = namespace.agents();
        let said = self.respawn(&["install", "--init", self.case.name]);
        assert!(said.contains("unchanged"), "{said}");
        let said = self.respawn(&["install", "--init", "auto", "--json"]);
        let told: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(told["init"], self.case.name);
        assert_eq!(told["changes"], json!([]));
        assert_eq!(told["agent"]["services"], SERVICES.len());
        assert!(told["spare"].is_u64(), "{told}");
        assert_eq!(before, namespace.agents());
    }

    /// Beside the agents, which do not notice; what dies while it is dead is recorded.
    fn keep_the_recorder(&self) {
        let namespace = &self.namespace;
        let agents = namespace.agents();
        let install = [
            "install",
            "--recorder",
            "--init",
            self.case.name,
            "--no-journald",
        ];
        let said = self.respawn(&install);
        assert!(said.contains("the recorder is up"), "{said}");
        let said = self.respawn(&install);
        assert!(said.contains("unchanged"), "{said}");
        let recorder = || {
            let found = namespace.recorders();
            assert!(found.len() < 2, "{}", namespace.describe());
            found.first().copied()
        };
        for _ in 0..3 {
            let old = eventually_or("recorder", recorder, || namespace.describe());
            kill_9(old);
            let script = "sleep 4242 & kill -9 $!; wait $!; echo $!";
            let said = namespace.run(&["/bin/sh", "-c", script]).stdout;
            let victim = String::from_utf8(said).unwrap();
            let deaths = ["deaths", "--json", "--pid", victim.trim()];
            let death: Value = eventually_or(
                "the death is recorded",
                || {
                    let line = self.respawn(&deaths);
                    serde_json::from_str(line.lines().next()?).ok()
                },
                || namespace.describe(),
            );
            assert_eq!(death["cause"]["sender"]["comm"], "sh", "{death}");
            assert_ne!(recorder(), Some(old));
        }
        let said = self.respawn(&["uninstall", "--recorder"]);
        assert!(said.contains("no recorder runs any more"), "{said}");
        assert!(namespace.recorders().is_empty());
        assert!(!namespace.path("/sys/fs/bpf/respawn/recorder").exists());
        let again = self.respawn(&["uninstall", "--recorder"]);
        assert!(again.contains("nothing to remove"), "{again}");
        assert_eq!(agents, namespace.agents());
    }

    /// One agent at work, and one that waits for its lock.
    fn await_both(&self) -> Vec<Service> {
        let services = self.namespace.services();
        eventually_or(
            "agent and its spare",
            || {
                let agents = self.namespace.agents();
                assert!(agents.len() <= 2, "{}", self.namespace.describe());
                let both = agents.len() == 2 && self.namespace.holder().is_some();
                both.then_some(())
            },
            || self.namespace.describe(),
        );
        services
    }

    /// At random instants of its life: while it starts, adopts, works.
    fn kill_the_agent(&mut self) {
        let services = self.await_both();
        let mut random = Random::new(self.case.test);
        for _ in 0..self.case.kills {
            std::thread::sleep(random.up_to(self.case.at_most));
            let holder = eventually_or(
                "agent with the lock",
                || self.namespace.holder(),
                || self.namespace.describe(),
            );
            let spare = self.namespace.spare();
            let killed = now();
            kill_9(holder);
            // The spare, or the next one if it comes between the two.
            eventually_or(
                "next agent with the lock",
                || self.namespace.holder().filter(|next| *next != holder),
                || self.namespace.describe(),
            );
            let took = killed.elapsed();
            if spare.is_some() {
                self.takeovers.push(took);
            } else {
                self.starts.push(took);
            }
            for name in SERVICES {
                let instances = self.namespace.instances(name);
                assert_eq!(instances.len(), 1, "{name}: {}", self.namespace.describe());
            }
        }
        assert_eq!(self.await_both(), services, "services were started again");
    }

    /// While the agent lives: it must not let init put the other one aside.
    fn kill_the_spare(&mut self) {
        let services = self.await_both();
        let holder = self.namespace.holder();
        // Beyond sysvinit's limit, where that is.
        let times = if self.case.puts_aside { 25 } else { 2 };
        for _ in 0..times {
            eventually_or(
                "spare",
                || self.namespace.spare(),
                || self.namespace.describe(),
            );
            let agents = self.namespace.agents();
            let spares = agents.into_iter().filter(|pid| Some(*pid) != holder);
            spares.for_each(kill_9);
        }
        assert_eq!(self.await_both(), services, "services were started again");
        assert_eq!(self.namespace.holder(), holder);
    }

    fn kill_both_agents(&mut self) {
        let services = self.await_both();
        for _ in 0..self.case.rounds {
            self.namespace.agents().into_iter().for_each(kill_9);
            assert_eq!(self.await_both(), services, "services were started again");
        }
    }

    fn kill_agents_and_services(&mut self) {
        for _ in 0..self.case.rounds {
            let services = self.await_both();
            let of_services: Vec<u32> = SERVICES
                .iter()
                .flat_map(|name| self.namespace.instances(name))
                .collect();
            let agents = self.namespace.agents();
            agents.into_iter().chain(of_services).for_each(kill_9);
            self.await_others(services);
        }
    }

    /// At random instants around the death of a service, which has to come back all the same.
    fn stop_the_agent(&mut self) {
        let mut random = Random::new(self.case.test);
        let mut took = Vec::new();
        for round in 0..self.case.stops {
            let services = self.await_both();
            let old = services[round % services.len()].clone();
            let on_host = self.namespace.instances(&old.name)[0];
            let holder = self.namespace.holder().unwrap();
            std::thread::sleep(random.up_to(Duration::from_millis(100)));
            let between = random.up_to(Duration::from_millis(20));
            let killed = if round % 3 == 0 {
                kill_9(on_host);
                let killed = now();
                std::thread::sleep(between);
                stop(holder);
                killed
            } else {
                stop(holder);
                std::thread::sleep(between);
                kill_9(on_host);
                now()
            };
            eventually_or(
                "the service is back",
                || {
                    let instances = self.namespace.instances(&old.name);
                    assert!(instances.len() < 2, "{}", self.namespace.describe());
                    instances.iter().find(|pid| **pid != on_host).map(drop)
                },
                || self.namespace.describe(),
            );
            took.push(killed.elapsed());
            // Stopped after it had done its work, it has nothing due.
            signal_to_any(holder, Signal::SIGCONT);
            let others = self.await_both();
            let others = others.iter().filter(|service| service.name != old.name);
            let before = services.iter().filter(|service| service.name != old.name);
            assert!(others.eq(before), "services were started again");
            self.deaths.push(old);
        }
        took.sort();
        if let [.., longest] = took[..] {
            let median = took[took.len() / 2];
            let (name, stops) = (self.case.name, self.case.stops);
            report(&format!(
                "{name}: agent stopped {stops} times; the service is back after {median:.1?}, at most {longest:.1?}"
            ));
            assert!(median < Duration::from_secs(3), "{took:?}");
            // A busy host may be slower.
            let limit = if is_soak() { 3 } else { 10 };
            assert!(longest < Duration::from_secs(limit), "{took:?}");
        }
    }

    /// From within: PID 1 is the only one to survive.
    fn kill_everything(&mut self) {
        for _ in 0..self.case.rounds {
            let services = self.await_both();
            let status = self
                .namespace
                .command(&["/bin/sh", "-c", "cd /; kill -9 -1"])
                .status();
            status.unwrap();
            self.await_others(services);
        }
    }

    /// Waits until other instances of all services run, one each.
    fn await_others(&mut self, old: Vec<Service>) {
        eventually_or(
            "next instances",
            || {
                let new = self.namespace.services();
                old.iter()
                    .all(|service| !new.contains(service))
                    .then_some(())
            },
            || self.namespace.describe(),
        );
        self.await_both();
        self.deaths.extend(old);
    }

    /// Each death that was caused here is told once, and no other is told.
    fn check_journal(&self) {
        let mut told: HashMap<(String, u64, u64), usize> = HashMap::new();
        for event in self.namespace.journal() {
            if event["event"] == "exited" {
                let key = (
                    event["service"].as_str().unwrap().to_owned(),
                    event["pid"].as_u64().unwrap(),
                    event["start_time_ns"].as_u64().unwrap(),
                );
                *told.entry(key).or_default() += 1;
            }
        }
        let caused: HashSet<_> = self
            .deaths
            .iter()
            .map(|death| {
                (
                    death.name.clone(),
                    u64::from(death.pid),
                    death.start_time_ns,
                )
            })
            .collect();
        let mut wrong: Vec<String> = Vec::new();
        for death in &caused {
            match told.get(death) {
                Some(1) => {}
                other => wrong.push(format!("{death:?}: told {} times", other.unwrap_or(&0))),
            }
        }
        let others = told.keys().filter(|death| !caused.contains(*death));
        wrong.extend(others.map(|death| format!("{death:?}: nobody killed it")));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(caused.len(), self.deaths.len());
    }

    fn report(&self) {
        let shown = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort();
            let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100);
            let milliseconds =
                |percent| at(percent).map_or(0.0, |time: &Duration| time.as_secs_f64() * 1000.0);
            format!(
                "{} (median {:.1} ms, 90 % {:.1} ms, longest {:.1} ms)",
                times.len(),
                milliseconds(50),
                milliseconds(90),
                milliseconds(100)
            )
        };
        report(&format!(
            "{}: agent killed {} times; the spare took over {}, init had none ready {}; {} deaths of services told once each",
            self.case.name,
            self.case.kills,
            shown(&self.takeovers),
            shown(&self.starts),
            self.deaths.len()
        ));
    }

    /// The agents end, the services stay, and nothing of the entry is left.
    fn uninstall(&self) {
        let services = self.await_both();
        let instances = |name| self.namespace.instances(name);
        let before: Vec<_> = SERVICES.map(instances).into();
        let pins = self.namespace.path("/sys/fs/bpf/respawn");
        assert!(pins.exists());
        let said = self.respawn(&["uninstall"]);
        assert!(said.contains("no agent runs any more"), "{said}");
        self.await_end();
        assert_eq!(before, SERVICES.map(instances).to_vec());
        assert!(!pins.exists(), "{said}");
        for (service, instances) in services.iter().zip(before) {
            assert_eq!(pid_inside(instances[0]), Some(service.pid));
        }
        let again = self.respawn(&["uninstall"]);
        assert!(again.contains("nothing to remove"), "{again}");
    }
}

#[test]
fn an_install_whose_agent_does_not_come_up_under_sysvinit_says_so() {
    let test = "an_install_whose_agent_does_not_come_up_under_sysvinit_says_so";
    needs_root!(test);
    if let Some(packages) = packages(test, &["sysvinit-core"]) {
        install_in_vain(&sysvinit(packages), "sysvinit");
    }
}

#[test]
fn an_install_whose_agent_does_not_come_up_under_busybox_says_so() {
    let test = "an_install_whose_agent_does_not_come_up_under_busybox_says_so";
    needs_root!(test);
    if let Some(packages) = packages(test, &["busybox-static"]) {
        install_in_vain(&busybox(packages), "busybox");
    }
}

/// The agent refuses a directory of somebody else's, as often as init starts it; once that is mended, the same
/// command has it up, whatever init thinks of it by then.
fn install_in_vain(plan: &Plan, init: &str) {
    let namespace = Namespace::boot(plan);
    await_init(&namespace, init, None);
    let install = || namespace.run(&["/usr/sbin/respawn", "install", "--init", init]);
    let place = namespace.path("/run/respawn");
    std::fs::create_dir_all(&place).unwrap();
    chown(&place, Some(65534), None).unwrap();
    let output = install();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no agent came up"), "{said}");
    assert!(said.contains("the console"), "{said}");
    let why = namespace.console();
    assert!(why.contains("/run/respawn"), "{why}");
    chown(&place, Some(0), None).unwrap();
    let output = install();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", namespace.describe());
    assert!(said.contains("the agent is up"), "{said}");
    assert_eq!(namespace.services().len(), SERVICES.len());
}

#[test]
fn a_dry_run_shows_all_and_writes_nothing() {
    let image = tempfile::tempdir().unwrap();
    let inittab = image.path().join("etc/inittab");
    std::fs::create_dir_all(inittab.parent().unwrap()).unwrap();
    std::fs::write(&inittab, "id:2:initdefault:\n").unwrap();
    let install = |init: &str, more: &[&str]| {
        let mut install = respawn();
        install.args([
            "--runtime-dir",
            "/run/other",
            "install",
            "--init",
            init,
            "--root",
        ]);
        let install = install.arg(image.path()).args(["--binary", "/etc/inittab"]);
        install.args(more).output().unwrap()
    };
    let output = install("sysvinit", &["--dry-run"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "\n@@ -1,1 +1,5 @@\n",
        "\n+rs1:2345:respawn:/etc/inittab agent --runtime-dir /run/other\n",
        "/etc/inittab.respawn-backup\n",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert!(
        !text.contains("kill"),
        "an image's init is not asked: {text}"
    );
    assert_eq!(
        std::fs::read_dir(image.path().join("etc")).unwrap().count(),
        1
    );
    assert_eq!(
        std::fs::read_to_string(&inittab).unwrap(),
        "id:2:initdefault:\n"
    );
    // The same for a program.
    let output = install("sysvinit", &["--dry-run", "--json"]);
    assert!(output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["init"], &told["dry_run"], &told["asked"]),
        (&json!("sysvinit"), &json!(true), &json!([]))
    );
    assert_eq!(
        [&told["why"], &told["agent"], &told["spare"]],
        [&Value::Null; 3]
    );
    let changes = told["changes"].as_array().unwrap();
    assert_eq!(changes[1]["path"], inittab.to_str().unwrap());
    for change in changes {
        let diff = change["diff"].as_str().unwrap();
        assert!(text.contains(diff), "{text}\n{diff}");
    }
    assert_eq!(
        std::fs::read_dir(image.path().join("etc")).unwrap().count(),
        1
    );
    // A file that init would not take as it is meant is not touched.
    std::fs::write(&inittab, "nonsense\n").unwrap();
    let output = install("sysvinit", &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("line 1") && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&inittab).unwrap(), "nonsense\n");
}

#[test]
fn what_is_written_and_removed_is_told_to_a_program() {
    let image = tempfile::tempdir().unwrap();
    let unit = image.path().join("etc/systemd/system/respawn.service");
    std::fs::create_dir_all(image.path().join("bin")).unwrap();
    std::fs::copy(respawn().get_program(), image.path().join("bin/respawn")).unwrap();
    let run = |arguments: &[&str]| -> Value {
        let mut command = respawn();
        command.args(arguments).arg("--json");
        let output = command.arg("--root").arg(image.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let sorts = |told: &Value| -> Vec<String> {
        let changes = told["changes"].as_array().unwrap().iter();
        changes
            .map(|change| change["kind"].as_str().unwrap().to_owned())
            .collect()
    };
    let install = ["install", "--init", "systemd", "--binary", "/bin/respawn"];
    let told = run(&install);
    assert!(sorts(&told).contains(&"write".to_owned()), "{told}");
    assert!(unit.exists());
    assert_eq!(run(&install)["changes"], json!([]));
    for dry_run in [true, false] {
        let arguments: &[&str] = match dry_run {
            true => &["uninstall", "--dry-run"],
            false => &["uninstall"],
        };
        let told = run(arguments);
        assert_eq!(told.as_array().unwrap().len(), 1, "{told}");
        assert_eq!(
            (&told[0]["init"], &told[0]["dry_run"]),
            (&json!("systemd"), &json!(dry_run))
        );
        assert!(sorts(&told[0]).contains(&"remove".to_owned()), "{told}");
        assert_eq!(unit.exists(), dry_run);
    }
    assert_eq!(run(&["uninstall"]), json!([]));
}

#[test]
fn an_init_that_is_not_known_is_asked_for() {
    let image = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = respawn();
        command.args(arguments).arg("--root").arg(image.path());
        command.output().unwrap()
    };
    let output = run(&["install", "--init", "auto"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("sysvinit, busybox, systemd, openrc, runit, s6, dinit, procd"),
        "{said}"
    );
    assert_eq!(
        run(&["install", "--init", "upstart"]).status.code(),
        Some(2)
    );
    assert_eq!(run(&["install"]).status.code(), Some(2));
    let output = run(&["uninstall"]);
    assert!(output.status.success());
    assert_eq!(std::fs::read_dir(image.path()).unwrap().count(), 0);
}

/// Sends a signal to a process of the host's view, if it is still there.
fn signal_to_any(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

fn stop(pid: u32) {
    signal_to_any(pid, Signal::SIGSTOP);
}

/// A stream of numbers that is the same in each run of a test.
struct Random(u64);

impl Random {
    fn new(seed: &str) -> Self {
        Self(seed.bytes().fold(88_172_645_463_325_252, |seed, byte| {
            seed.rotate_left(7) ^ u64::from(byte)
        }))
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        most.mul_f64((self.0 % 1000) as f64 / 1000.0)
    }
}

#[test]
fn the_recorder_is_installed_with_its_options() {
    let image = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(image.path().join("etc")).unwrap();
    let install = |more: &[&str]| {
        let mut install = respawn();
        install.args(["install", "--init", "systemd", "--dry-run", "--root"]);
        let install = install.arg(image.path()).args(["--binary", "/etc"]);
        install.env("RESPAWN_RECORDER_DIR", "/data/from-environment");
        install.args(more).output().unwrap()
    };
    let output = install(&["--recorder", "--keep", "all", "--no-argv"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "ExecStart=/etc recorder --keep all --dir /data/from-environment --no-argv\n";
    assert!(text.contains(expected), "{text}");
    let output = install(&["--recorder", "--dir", "/data/given", "--max-size", "1MiB"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "ExecStart=/etc recorder --dir /data/given --max-size 1048576\n";
    assert!(text.contains(expected), "{text}");
    for (wrong, named) in [
        (&["--keep", "all"][..], "--recorder"),
        (&["--dir", "/data"], "--recorder"),
        (&["--recorder", "--keep", "some"], "--keep"),
        (&["--recorder", "--max-size", "1"], "--max-size"),
    ] {
        let output = install(wrong);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {said}");
        assert!(said.contains(named), "{wrong:?}: {said}");
    }
}

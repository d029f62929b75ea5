//! A real init as PID 1 of a machine, its agents and its services, killed at random, and over a
//! reboot.
//!
//! What outlives the reboot is on the machine's disk: its `/etc`, and the runtime directory, where
//! the journal and the list of deaths are.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::rig::{Seeded, report};
use support::{eventually_or, now};

use super::is_machine;
use crate::init_root::{Namespace, SERVICES, kill_9, pid_inside, service_file};

const RUNTIME_DIR: &str = "/var/lib/respawn";
const DEATHS: &str = "/var/lib/respawn-deaths.json";
/// Where the recorder keeps deaths, and whose death is among them.
const RECORDS: &str = "/var/lib/respawn-recorder";
const KILLED: &str = "/var/lib/respawn-killed";
/// A shell that kills its child, once that is its program.
const KILL_ONE: &str =
    "sleep 4242 & until [ \"$(tr '\\0' ' ' < /proc/$!/cmdline)\" = 'sleep 4242 ' ]; do :; done
                        kill -9 $!; wait $!; echo $!";
const MARK: &str = "machine";

/// Which init this machine has, for `install --init`.
fn init() -> String {
    std::env::var("RESPAWN_INIT").unwrap_or_else(|_| "busybox".to_owned())
}

/// How often something is killed.
fn kills() -> u64 {
    let text = std::env::var("RESPAWN_KILLS").unwrap_or_default();
    text.parse().unwrap_or(500)
}

/// A service's instance: name, pid, start time.
type Instance = (String, u64, u64);

struct Trial {
    machine: Namespace,
    random: Seeded,
    /// Whom we have killed.
    deaths: Vec<Instance>,
    killed_agents: usize,
}

#[test]
fn under_its_init_agents_and_services_survive_kills_at_random() {
    let test = "under_its_init_agents_and_services_survive_kills_at_random";
    if !is_machine(test, "init") {
        return;
    }
    fs::create_dir_all("/etc/respawn/services").unwrap();
    for name in SERVICES {
        let file = format!("/etc/respawn/services/{name}.toml");
        fs::write(file, service_file(MARK, name)).unwrap();
    }
    let mut trial = Trial::begin(Vec::new());
    let mut install = vec!["respawn", "--runtime-dir", RUNTIME_DIR, "install", "--init"];
    install.push("auto");
    let dry = trial.machine.run(&[&install[..], &["--dry-run"]].concat());
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(said.contains(&format!("init is {}", init())), "{said}");
    let output = trial.machine.run(&install);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        trial.machine.describe()
    );
    assert!(said.contains("the agent is up"), "{said}");
    trial.kill_at_random(kills());
    trial.check();
    let deaths = serde_json::to_string(&trial.deaths).unwrap();
    fs::write(DEATHS, deaths).unwrap();
    trial.record_a_death();
}

#[test]
fn after_a_reboot_services_run_once_and_the_journal_goes_on() {
    let test = "after_a_reboot_services_run_once_and_the_journal_goes_on";
    if !is_machine(test, "init_rebooted") {
        return;
    }
    assert!(
        Path::new(DEATHS).exists(),
        "nothing is left of before the reboot"
    );
    let deaths = serde_json::from_str(&fs::read_to_string(DEATHS).unwrap()).unwrap();
    let mut trial = Trial::begin(deaths);
    trial.await_all();
    trial.check_reboot();
    trial.check_recorded();
    trial.kill_at_random(kills() / 10);
    trial.check();
}

impl Trial {
    fn begin(deaths: Vec<Instance>) -> Self {
        Self {
            machine: Namespace::of_this_machine(MARK, RUNTIME_DIR),
            random: Seeded(u64::from(std::process::id())),
            deaths,
            killed_agents: 0,
        }
    }

    /// Waits until agent and spare are there, and one instance of each service.
    fn await_all(&self) {
        self.machine.services();
        eventually_or(
            "agent and its spare",
            || {
                let machine = &self.machine;
                (machine.holder().is_some() && machine.spare().is_some()).then_some(())
            },
            || self.machine.describe(),
        );
    }

    /// An init that takes its time leaves nothing to kill for a while, which does not count.
    fn kill_at_random(&mut self, kills: u64) {
        self.await_all();
        let kills = self.killed() + usize::try_from(kills).unwrap();
        let started = now();
        while self.killed() < kills {
            let limit = Duration::from_secs(3) * u32::try_from(kills).unwrap();
            assert!(
                started.elapsed() < limit,
                "{} kills: {}",
                self.killed(),
                self.machine.describe()
            );
            match self.random.below(10) {
                0..4 => self.kill_a_service(),
                4..6 => self.kill_agent(self.machine.holder()),
                6..8 => self.kill_agent(self.machine.spare()),
                8 => {
                    self.kill_agent(self.machine.holder());
                    self.kill_a_service();
                }
                _ => {
                    self.kill_agent(self.machine.holder());
                    self.kill_agent(self.machine.spare());
                    self.kill_a_service();
                }
            }
            std::thread::sleep(Duration::from_millis(self.random.below(150)));
            for name in SERVICES {
                let instances = self.machine.instances(name);
                assert!(instances.len() < 2, "{name}: {}", self.machine.describe());
            }
        }
        self.await_all();
    }

    fn killed(&self) -> usize {
        self.killed_agents + self.deaths.len()
    }

    fn kill_agent(&mut self, agent: Option<u32>) {
        if let Some(pid) = agent {
            kill_9(pid);
            self.killed_agents += 1;
        }
    }

    fn kill_a_service(&mut self) {
        let index = usize::try_from(self.random.below(3)).unwrap();
        let name = SERVICES[index];
        let Some(&pid) = self.machine.instances(name).first() else {
            return;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return;
        };
        let words: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        if matches!(words[0], "Z" | "X") {
            return;
        }
        let ticks: u64 = words[19].parse().unwrap();
        assert_eq!(pid_inside(pid), Some(pid));
        kill_9(pid);
        self.deaths
            .push((name.to_owned(), u64::from(pid), ticks * 10_000_000));
    }

    /// Each death that was caused here is told once, no other is told, and no instance is told to
    /// have started twice.
    fn check(&self) {
        let journal = self.machine.journal();
        let mut exits: HashMap<Instance, usize> = HashMap::new();
        let mut starts: HashMap<Instance, usize> = HashMap::new();
        for event in &journal {
            let told = match event["event"].as_str() {
                Some("exited") => &mut exits,
                Some("started") => &mut starts,
                _ => continue,
            };
            *told.entry(instance(event)).or_default() += 1;
        }
        let mut wrong = Vec::new();
        for death in &self.deaths {
            let told = exits.remove(death).unwrap_or(0);
            if told != 1 {
                wrong.push(format!("{death:?}: told {told} times"));
            }
        }
        let around = |exit: &Instance| {
            let of_exit = |event: &Value| event["event"] == "exited" && instance(event) == *exit;
            let at = journal.iter().position(of_exit).unwrap_or(0);
            let lines = journal[at.saturating_sub(8)..].iter().take(12);
            lines
                .map(|event| format!("  {event}\n"))
                .collect::<String>()
        };
        let untold = exits.keys();
        wrong.extend(untold.map(|exit| format!("{exit:?}: nobody killed it\n{}", around(exit))));
        let doubled = starts.iter().filter(|(_, times)| **times != 1);
        wrong.extend(doubled.map(|(start, times)| format!("{start:?}: started {times} times")));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let unknown = journal
            .iter()
            .filter(|event| event["event"] == "exited" && event["cause"]["signal"] != "SIGKILL");
        report(&format!(
            "{}: {} agents and spares killed, {} deaths of services told once each, {} with unknown \
             cause; none doubled, none lost",
            init(),
            self.killed_agents,
            self.deaths.len(),
            unknown.count(),
        ));
    }

    /// Has init keep a recorder, and what it records on the machine's disk.
    fn record_a_death(&self) {
        let init = init();
        let install = ["respawn", "install", "--recorder", "--init", &init];
        let output = self
            .machine
            .run(&[&install[..], &["--dir", RECORDS]].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("the recorder is up"), "{said}");
        let pid = self.kill_one();
        self.await_recorded(&pid, "0");
        fs::write(KILLED, pid).unwrap();
    }

    /// What was recorded before the reboot is there, and the recorder has started with the machine.
    fn check_recorded(&self) {
        let before = fs::read_to_string(KILLED).unwrap();
        self.await_recorded(&before, "-1");
        let pid = self.kill_one();
        self.await_recorded(&pid, "0");
    }

    /// A process that a shell kills, which has ended then.
    fn kill_one(&self) -> String {
        let said = self.machine.run(&["/bin/sh", "-c", KILL_ONE]).stdout;
        String::from_utf8(said).unwrap().trim().to_owned()
    }

    fn await_recorded(&self, pid: &str, boot: &str) {
        let deaths = ["respawn", "deaths", "--dir", RECORDS, "--json"];
        let which = ["--pid", pid, "--boot", boot];
        let death: Value = eventually_or(
            "the death is recorded",
            || {
                let output = self.machine.run(&[&deaths[..], &which[..]].concat());
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                serde_json::from_str(text.lines().next()?).ok()
            },
            || self.machine.describe(),
        );
        assert_eq!(death["cause"]["sender"]["comm"], "sh", "{death}");
        self.check_why(&death, pid);
    }

    /// What `why` tells of a recorded death. Another process may have had its pid since.
    fn check_why(&self, death: &Value, pid: &str) {
        let why = [
            "respawn", "why", pid, "-n", "50", "--json", "--dir", RECORDS,
        ];
        let output = self.machine.run(&why);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut told = told.map(|told| told["exited"].clone());
        let told = told.find(|told| told["cursor"] == death["cursor"]);
        assert!(told.is_some(), "{death}\n{text}");
        let told = told.unwrap();
        let sender = &told["cause"]["sender"];
        assert_eq!(sender["argv"], json!(["/bin/sh", "-c", KILL_ONE]), "{told}");
        // A kernel that has let go of the memory by then knows neither.
        if told["exe"].is_string() {
            assert_eq!(told["argv"], json!(["sleep", "4242"]), "{told}");
        }
        for of in [&told, sender] {
            let ancestors = of["ancestors"].as_array().unwrap();
            let is_known = |it: &Value| it["pid"].as_u64() > Some(0) && it["comm"].is_string();
            assert!(
                !ancestors.is_empty() && ancestors.iter().all(is_known),
                "{told}"
            );
            let cgroup = of["cgroup"].as_str();
            assert!(cgroup.is_some_and(|path| path.starts_with('/')), "{told}");
        }
        assert_eq!(told["ancestors"][0]["comm"], "sh", "{told}");
    }

    /// The journal has both boots, without a gap in its numbers.
    fn check_reboot(&self) {
        let journal = self.machine.journal();
        let numbers: Vec<u64> = journal
            .iter()
            .filter_map(|event| event["seq"].as_u64())
            .collect();
        let first = numbers[0];
        let expected: Vec<u64> = (first..).take(numbers.len()).collect();
        assert_eq!(numbers, expected);
        assert!(!self.deaths.is_empty());
    }
}

fn instance(event: &Value) -> Instance {
    (
        event["service"].as_str().unwrap().to_owned(),
        event["pid"].as_u64().unwrap(),
        event["start_time_ns"].as_u64().unwrap(),
    )
}

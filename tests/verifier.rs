//! How much work the kernel's verifier has with each program: at most so much on every kernel.
//!
//! Kernels before 6.9 compare fewer states than later ones do, and what costs a later one little may
//! cost them minutes, or be refused. `cargo xtask vm` runs this on the oldest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::process::{Command, Stdio};

use support::recorder::RecorderDirs;
use support::rig::{AgentProcess, Rig, report};
use support::{IN_PID_NAMESPACE, Lines, needs_root, respawn};

/// Instructions that the verifier may process for one program.
const BUDGET: u64 = 30_000;

/// What has to be loaded, by the beginning of its name.
const PROGRAMS: [&str; 4] = ["exit", "signal", "birth", "oom"];

const LOG: &str = "respawn=debug";

/// What a watch says until it watches.
fn of_a_watch(more: &[&str]) -> Vec<String> {
    let mut command = respawn();
    command.args(["watch", "--all", "--log", LOG]).args(more);
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = Lines::of(process.stderr.take().unwrap());
    let mut said = Vec::new();
    while let Some(line) = lines.next() {
        let is_last = line.contains("Ctrl-C");
        said.push(line);
        if is_last {
            break;
        }
    }
    process.kill().unwrap();
    process.wait().unwrap();
    said
}

/// What an agent says until it works, whatever it is started by.
fn of_an_agent(wrapper: &[&str]) -> Vec<String> {
    let rig = Rig::new();
    let path = rig.path().join("said");
    let log = File::create(&path).unwrap();
    let agent = rig.command(&["agent", "--log", LOG]);
    let mut words = wrapper.iter().map(OsStr::new).chain([agent.get_program()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(agent.get_args()).stderr(log);
    command.envs(
        agent
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    let _agent = AgentProcess::from_command(&mut command);
    rig.ledger().next_agent(0);
    let said = fs::read_to_string(path).unwrap();
    said.lines().map(str::to_owned).collect()
}

/// What a recorder says until it records.
fn of_a_recorder(more: &[&str]) -> Vec<String> {
    let place = RecorderDirs::new();
    let arguments = [more, &["--log", LOG]].concat();
    place.start(&arguments).kill();
    place.log().lines().map(str::to_owned).collect()
}

/// From "… loaded program="exit" instructions=12".
fn loaded(line: &str) -> Option<(String, u64)> {
    let (_, fields) = line.split_once(": loaded program=\"")?;
    let (program, rest) = fields.split_once('"')?;
    let (_, count) = rest.split_once("instructions=")?;
    Some((program.to_owned(), count.trim().parse().ok()?))
}

#[test]
fn no_program_costs_the_verifier_more_than_its_budget() {
    needs_root!("no_program_costs_the_verifier_more_than_its_budget");
    let refused = |said: &[String]| {
        let lines = said.iter().filter(|line| line.contains("refused"));
        assert_eq!(lines.count(), 0, "{said:#?}");
    };
    // All conditions that a watch can have at once.
    let filtered = ["--name=a*", "--failed", "--uid=1", "--cgroup=/"];
    let filtered_live_zero = [&filtered[..], &["--live-zero"]].concat();
    let watches = [&[][..], &["--live-zero"], &filtered, &filtered_live_zero];
    let watches = watches.map(of_a_watch);
    let recorders = [of_a_recorder(&[]), of_a_recorder(&["--live-zero"])];
    let mut said: Vec<String> = watches.into_iter().chain(recorders).flatten().collect();
    // An agent goes on with less: that is said here at once.
    refused(&said);
    said.extend(of_an_agent(&[]));
    // There the programs have to find pids that are not the kernel's own.
    said.extend(of_an_agent(&IN_PID_NAMESPACE));
    refused(&said);
    // One program in several settings: the dearest counts.
    let mut costs: BTreeMap<String, u64> = BTreeMap::new();
    for (program, cost) in said.iter().filter_map(|line| loaded(line)) {
        let dearest = costs.entry(program).or_default();
        *dearest = cost.max(*dearest);
    }
    for (program, cost) in &costs {
        report(&format!("verifier: {program} {cost}"));
    }
    for program in PROGRAMS {
        let found = costs.keys().any(|name| name.starts_with(program));
        assert!(found, "no {program} in {costs:?}\n{said:#?}");
    }
    for (program, cost) in costs {
        assert!(cost <= BUDGET, "{program}: {cost} of {BUDGET}");
    }
}

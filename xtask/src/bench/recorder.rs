//! What a recorder costs: each exit of the host, by the kernel's BPF statistics, beside what an agent's
//! program costs in the same run; and a storm of deaths, beside which an agent restarts a service.
//!
//! The storm and its recorder have a PID namespace, where nobody else dies: so each death is accounted for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{
    Aim, Bench, Figures,
    process::Started,
    sample::{Sample, Unit, ratio},
    table::Table,
};
use crate::{report::note, workspace::output_of};

const ROUNDS: usize = 20;
const EXITS_A_ROUND: usize = 1_500;
/// What an exit that is not kept may cost beyond what it costs the agent, in nanoseconds.
const AIM_NS: f64 = 60.0;

const DEATHS_A_SECOND: usize = 10_000;
const SECONDS: usize = 10;
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// An agent with one service, and a recorder, in directories and pins of their own.
struct Host<'a> {
    bench: &'a Bench,
    dir: PathBuf,
    pin_dir: PathBuf,
    // These two end in this order.
    _agent: Started,
    _pins: Pins,
}

/// What is left pinned, removed when the value goes.
struct Pins {
    respawn: PathBuf,
    dir: PathBuf,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut unpin = Command::new(&self.respawn);
        unpin.arg("unpin").arg(&self.dir);
        let _ = unpin.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// The kernel's BPF statistics, on for as long as this value lives.
struct Statistics(String);

/// Runs and nanoseconds of a program.
#[derive(Clone, Copy, Default)]
struct Cost {
    runs: f64,
    ns: f64,
}

pub(super) fn run(bench: &Bench) -> Result<Figures> {
    let host = Host::start(bench)?;
    let mut figures = costs(bench, &host)?;
    let storm = storms(bench, &host)?;
    figures.tables.extend(storm.tables);
    figures.notes.extend(storm.notes);
    figures.json["storm"] = storm.json;
    figures.aims.extend(storm.aims);
    host.stop()?;
    Ok(figures)
}

impl<'a> Host<'a> {
    fn start(bench: &'a Bench) -> Result<Self> {
        let dir = bench.scratch.path().join("recorder");
        fs::create_dir_all(dir.join("config/services"))?;
        fs::write(
            dir.join("config/services/service.toml"),
            "command = [\"/bin/sleep\", \"100000\"]\n",
        )?;
        let name = format!("/sys/fs/bpf/respawn-bench-{}", std::process::id());
        let pin_dir = PathBuf::from(name);
        let mut agent = bench.command(&bench.respawn)?;
        arrange(agent.arg("agent"), &dir, &pin_dir);
        let agent = Started::start(agent.stderr(Stdio::null()))?;
        let host = Self {
            bench,
            dir,
            _pins: Pins {
                respawn: bench.respawn.clone(),
                dir: pin_dir.clone(),
            },
            pin_dir,
            _agent: agent,
        };
        host.until("an agent at work", || host.service_pid().is_ok())?;
        Ok(host)
    }

    /// Starts a recorder, and waits until it records.
    fn recorder(&self, more: &[&str]) -> Result<Started> {
        self.recorder_by(self.bench.command(&self.bench.respawn)?, more)
    }

    /// The same as PID 1 of a PID namespace, whose deaths alone it records; and its pid here.
    fn recorder_apart(&self, more: &[&str]) -> Result<(Started, u32)> {
        let mut command = self.bench.command(Path::new("unshare"))?;
        command
            .args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
            .arg(&self.bench.respawn);
        let unshare = self.recorder_by(command, more)?;
        let pid = unshare.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let recorder = children.split_whitespace().next();
        let recorder = recorder.context("no recorder runs")?.parse()?;
        Ok((unshare, recorder))
    }

    fn recorder_by(&self, mut command: Command, more: &[&str]) -> Result<Started> {
        command.args(["recorder", "--no-journald"]).args(more);
        arrange(&mut command, &self.dir, &self.pin_dir);
        let recorder = Started::start(command.stderr(Stdio::null()))?;
        // Programs are pinned when they are attached.
        let pins = self.pin_dir.join("recorder");
        self.until("a recorder at work", || has_exit_program(&pins))?;
        Ok(recorder)
    }

    fn respawn(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut command = Command::new(&self.bench.respawn);
        arrange(command.args(arguments), &self.dir, &self.pin_dir);
        let text = output_of(&mut command)?;
        let lines = text.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).context("a line of JSON"))
            .collect()
    }

    /// How many deaths are recorded in that directory, and how many counted as lost.
    fn deaths(&self, dir: &str) -> Result<(u64, u64)> {
        let mut command = Command::new(&self.bench.respawn);
        let command = command.args(["deaths", "--json", "--dir", dir]);
        let text = output_of(command)?;
        let text = String::from_utf8_lossy(&text);
        let (mut recorded, mut lost) = (0, 0);
        for line in text.lines() {
            let line: Value = serde_json::from_str(line)?;
            match line["event"].as_str() {
                Some("exited") => recorded += 1,
                Some("deaths_lost") => lost += line["count"].as_u64().unwrap_or(0),
                _ => {}
            }
        }
        Ok((recorded, lost))
    }

    fn service_pid(&self) -> Result<u64> {
        let status = self.respawn(&["status", "--json"])?;
        let pid = status
            .first()
            .and_then(|services| services[0]["pid"].as_u64());
        pid.context("no service runs")
    }

    /// Of the exit programs of agent and recorder.
    fn costs(&self) -> Result<(Cost, Cost)> {
        let (mut agent, mut recorder) = (Cost::default(), Cost::default());
        for set in self.respawn(&["unpin", "--json"])? {
            for set in set["sets"].as_array().into_iter().flatten() {
                let path = Path::new(set["path"].as_str().unwrap_or_default());
                let of = match path.strip_prefix(&self.pin_dir) {
                    Ok(below) if below.starts_with("recorder") => &mut recorder,
                    Ok(_) => &mut agent,
                    Err(_) => continue,
                };
                for program in set["programs"].as_array().into_iter().flatten() {
                    if program["name"]
                        .as_str()
                        .unwrap_or_default()
                        .starts_with("exit")
                    {
                        let runs = program["runs"].as_f64().unwrap_or(0.0);
                        of.runs = of.runs.max(runs);
                        of.ns += runs * program["ns_per_run"].as_f64().unwrap_or(0.0);
                    }
                }
            }
        }
        Ok((agent, recorder))
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
        for _ in 0..600 {
            if is_so() {
                return Ok(());
            }
            self.bench.interrupt.pause(Duration::from_millis(100))?;
        }
        anyhow::bail!("waited in vain for {what}")
    }

    /// Ends the agent and its service.
    fn stop(self) -> Result<()> {
        self.respawn(&["shutdown", "--json"]).map(drop)
    }
}

fn has_exit_program(pins: &Path) -> bool {
    let sets = fs::read_dir(pins).into_iter().flatten().flatten();
    let files = sets.flat_map(|set| fs::read_dir(set.path()).into_iter().flatten().flatten());
    let names = files.map(|file| file.file_name());
    names
        .into_iter()
        .any(|name| name.to_string_lossy().starts_with("exit"))
}

fn arrange(command: &mut Command, dir: &Path, pin_dir: &Path) {
    command
        .env("RESPAWN_CONFIG", dir.join("config"))
        .env("RESPAWN_RUNTIME_DIR", dir.join("run"))
        .env("RESPAWN_RECORDER_DIR", dir.join("deaths"))
        .env("RESPAWN_PIN_DIR", pin_dir);
}

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).context("read the sysctl of statistics")?;
        fs::write(STATISTICS, "1").context("switch the kernel's BPF statistics on")?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, self.0.trim());
    }
}

impl Cost {
    fn since(self, before: Self) -> f64 {
        ratio(self.ns - before.ns, self.runs - before.runs)
    }
}

/// The best and the median round of each program, in nanoseconds an exit.
struct Rounds(Vec<f64>);

impl Rounds {
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        Self(rounds)
    }

    fn best(&self) -> f64 {
        self.0.first().copied().unwrap_or(0.0)
    }

    fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(0.0)
    }
}

/// Exits that are not kept, and such that are.
fn costs(bench: &Bench, host: &Host<'_>) -> Result<Figures> {
    let _statistics = Statistics::on()?;
    let (mut agent, mut unkept) = (Vec::new(), Vec::new());
    let recorder = host.recorder(&[])?;
    for round in 1..=bench.rounds(ROUNDS) {
        note!("bench recorder: round {round}, {EXITS_A_ROUND} exits that are not kept");
        let before = host.costs()?;
        actor(bench, "storm", &[EXITS_A_ROUND])?;
        let after = host.costs()?;
        agent.push(after.0.since(before.0));
        unkept.push(after.1.since(before.1));
    }
    end(recorder, host)?;
    let mut kept = Vec::new();
    let recorder = host.recorder(&["--keep", "all"])?;
    for _ in 0..bench.rounds(ROUNDS) {
        let before = host.costs()?.1;
        actor(bench, "storm", &[EXITS_A_ROUND])?;
        kept.push(host.costs()?.1.since(before));
    }
    end(recorder, host)?;
    let rows = [
        ("agent's, of no service", Rounds::of(agent)),
        ("recorder's, not kept", Rounds::of(unkept)),
        ("recorder's, kept with all details", Rounds::of(kept)),
    ];
    let mut table = Table::new(
        "What an exit costs in the exit program, by BPF statistics, in ns (their own cost is in it)",
        &["program", "best round", "median round"],
    );
    let mut of = json!({});
    for (name, rounds) in &rows {
        let (best, median) = (rounds.best(), rounds.median());
        table.row([(*name).into(), format!("{best:.0}"), format!("{median:.0}")]);
        of[name] = json!({ "best_ns": best, "median_ns": median });
    }
    let beyond = rows[1].1.best() - rows[0].1.best();
    Ok(Figures {
        json: json!({ "cost": of }),
        tables: vec![table],
        notes: vec![],
        aims: vec![Aim {
            what: "an exit that is not kept, beyond what the agent's program costs",
            wanted: "at most 60 ns",
            got: format!("{beyond:.0} ns"),
            met: beyond <= AIM_NS,
        }],
    })
}

/// How soon a service is started again.
struct Restarts {
    words: &'static str,
    times: Sample,
}

fn storms(bench: &Bench, host: &Host<'_>) -> Result<Figures> {
    let count = DEATHS_A_SECOND * bench.rounds(SECONDS);
    note!("bench recorder: storms of {count} deaths");
    let quiet = restarts(bench, host, "nothing", || Ok(None))?;
    let storm = || actor_of(bench, "deaths", &[count, DEATHS_A_SECOND]).map(Some);
    let alone = restarts(bench, host, "a storm", storm)?;
    let dir = host.dir.join("storm").display().to_string();
    let (recorder, pid) = host.recorder_apart(&["--max-size", "2GiB", "--dir", &dir])?;
    let storm = || storm_within(bench, pid, count).map(Some);
    let recorded = restarts(bench, host, "a storm that is recorded", storm)?;
    end_of(pid, recorder, host)?;
    let (shown, lost) = host.deaths(&dir)?;
    let told = shown + lost;
    let mut table = Table::new(
        format!(
            "A service is killed beside a storm of {DEATHS_A_SECOND} deaths a second: from its exit to its start, in ms"
        ),
        &["beside", "kills", "median", "p90", "max"],
    );
    let mut json = json!({ "caused": count, "recorded": shown, "lost": lost });
    for Restarts { words, times } in [&quiet, &alone, &recorded] {
        let [median, p90, max] = times.cells(Unit::Milliseconds);
        table.row([(*words).into(), times.count().to_string(), median, p90, max]);
        json[words] = times.json();
    }
    let slower = ratio(recorded.times.median_us(), alone.times.median_us());
    Ok(Figures {
        json,
        tables: vec![table],
        notes: vec![format!(
            "Of the storm's {count} deaths {shown} are recorded, and {lost} are counted as lost."
        )],
        aims: vec![
            Aim {
                what: "deaths of the storm, recorded or counted as lost",
                wanted: "each once",
                got: format!("{told} of {count}"),
                met: told == count as u64,
            },
            Aim {
                what: "a restart beside the storm, recorded against not recorded",
                wanted: "at most 1.1 times",
                got: format!("{slower:.2} times"),
                met: slower <= 1.1,
            },
        ],
    })
}

/// Kills the service again and again while something else goes on.
fn restarts(
    bench: &Bench,
    host: &Host<'_>,
    words: &'static str,
    beside: impl Fn() -> Result<Option<Started>>,
) -> Result<Restarts> {
    let beside = beside()?;
    let seen = host.respawn(&["events", "--json"])?.len();
    for _ in 0..bench.rounds(50) {
        // One that ends more than 20 times within a second is delayed.
        bench.interrupt.pause(Duration::from_millis(60))?;
        let pid = host.service_pid()?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        host.until("the next instance", || {
            host.service_pid().is_ok_and(|next| next != pid)
        })?;
    }
    if let Some(beside) = beside {
        ensure!(beside.wait(&bench.interrupt)?.success(), "the storm failed");
    }
    let events = host.respawn(&["events", "--json"])?;
    let mut times = Vec::new();
    let mut exited = None;
    for event in events.get(seen..).unwrap_or_default() {
        let at = event["since_boot_ns"].as_u64();
        match event["event"].as_str() {
            Some("exited") => exited = at,
            Some("started") => times.extend(at.zip(exited.take()).map(|(at, of)| at - of)),
            _ => {}
        }
    }
    ensure!(!times.is_empty(), "no restart is in the journal");
    let times = Sample::of(times);
    Ok(Restarts { words, times })
}

fn actor_of(bench: &Bench, kind: &str, numbers: &[usize]) -> Result<Started> {
    let (program, _) = bench.actor_named(kind)?;
    let mut command = bench.command(&program)?;
    command.arg(kind);
    command.args(numbers.iter().map(ToString::to_string));
    Started::start(&mut command)
}

/// A storm of deaths in the PID namespace of that process.
fn storm_within(bench: &Bench, pid: u32, count: usize) -> Result<Started> {
    let (program, _) = bench.actor_named("deaths")?;
    let mut command = bench.command(Path::new("nsenter"))?;
    command
        .arg(format!("--pid=/proc/{pid}/ns/pid"))
        .arg(program)
        .args(["deaths", &count.to_string(), &DEATHS_A_SECOND.to_string()]);
    Started::start(&mut command)
}

fn actor(bench: &Bench, kind: &str, numbers: &[usize]) -> Result<()> {
    let ended = actor_of(bench, kind, numbers)?.wait(&bench.interrupt)?;
    ensure!(ended.success(), "the actor failed");
    Ok(())
}

/// Ends a recorder, which records what is in the ring first, and its programs.
fn end(recorder: Started, host: &Host<'_>) -> Result<()> {
    end_of(recorder.pid(), recorder, host)
}

/// The same of a recorder with that pid, which ends with `recorder`.
fn end_of(pid: u32, recorder: Started, host: &Host<'_>) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
    recorder.wait(&host.bench.interrupt)?;
    let pins = host.pin_dir.join("recorder").display().to_string();
    host.respawn(&["unpin", "--json", &pins]).map(drop)
}

//! `cargo xtask bench`: figures about this build on this machine.
//!
//! A figure is no verdict: an aim that is not met is said, and the command ends well.
//! What is compared is run in turns, so that a noisy machine is noisy for both.

mod arena;
mod compare;
mod hook;
mod latency;
mod process;
mod recorder;
mod sample;
mod scratch;
mod start;
mod static_binary;
mod table;
mod wait;
mod watch;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::utsname::uname;
use serde_json::{Map, Value, json};

pub(crate) use self::watch::EXITSNOOP;
use self::{scratch::Scratch, table::Table, wait::Interrupt};
use crate::{
    Verdict,
    demo::tethered_command,
    report::note,
    unpacked,
    workspace::{Profile, Workspace, output_of, run_to_end},
};

/// Measure respawn beside other supervisors, and write docs/benchmarks.md; or one thing alone
///
/// Without a name it compares: all supervisors that `cargo xtask setup` has unpacked, and the least that one can do
/// in C, take part in the same run, which takes 23 minutes, or 4 with `--quick`. `RESPAWN_BENCH_DINIT` names a dinit,
/// which Debian does not package. `RESPAWN_BIN` names a binary to measure in place of this checkout's release build, and
/// `RESPAWN_BPF_OBJECT` a kernel object to measure in place of the committed one.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; the comparison by default
    #[arg(value_enum)]
    name: Option<Name>,
    /// Only this part of the comparison; may be given several times. The page is not written
    #[arg(long = "only", value_enum)]
    measures: Vec<compare::Measure>,
    /// Only this peer in the comparison, by its name there; may be given several times. The page is not written
    #[arg(long = "peer")]
    peers: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Take a tenth of the rounds, to see that it runs
    #[arg(long)]
    quick: bool,
    /// Run all that is measured before anything else of the host (SCHED_FIFO): for a machine that
    /// is not idle
    #[arg(long)]
    real_time: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// The mean cost of the exit hook, and the wakeups that it causes
    Hook,
    /// From the kill to the line on stdout, beside the process's pidfd
    Latency,
    /// respawn beside other supervisors, in all that matters
    Compare,
    /// What a recorder costs each exit, and a storm of deaths beside an agent
    Recorder,
    /// What `watch --all --json` takes of processor and memory, and what it loses of a burst
    Watch,
    /// From the agent's exec to the first line of its first service's main, and its memory
    Start,
    /// The static binary beside the dynamic one: size, start, memory, look-ups of users
    Static,
}

impl Name {
    fn word(self) -> &'static str {
        match self {
            Self::Compare => "compare",
            Self::Hook => "hook",
            Self::Latency => "latency",
            Self::Recorder => "recorder",
            Self::Watch => "watch",
            Self::Start => "start",
            Self::Static => "static",
        }
    }

    /// What it says, and its figures.
    fn run(self, bench: &Bench, machine: &Machine, args: &Args) -> Result<(String, Value)> {
        let figures = match self {
            Self::Compare => {
                return compare::run(bench, machine, &args.measures, &args.peers);
            }
            Self::Hook => hook::run(bench)?,
            Self::Latency => latency::run(bench)?,
            Self::Recorder => recorder::run(bench)?,
            Self::Watch => watch::run(bench)?,
            Self::Start => start::run(bench)?,
            Self::Static => static_binary::run(bench)?,
        };
        Ok((
            format!("{}\n\n{}", machine.line(), figures.text()),
            figures.into_json(),
        ))
    }
}

/// What every benchmark works with.
struct Bench {
    /// The release build, or the binary in `RESPAWN_BIN`.
    respawn: PathBuf,
    /// `actor.c`, built.
    actor: PathBuf,
    /// `floor.c`, built.
    floor: PathBuf,
    /// Of the workspace.
    root: PathBuf,
    /// For links, FIFOs and the agent's state.
    scratch: Scratch,
    interrupt: Interrupt,
    quick: bool,
}

/// What a benchmark found.
struct Figures {
    json: Value,
    tables: Vec<Table>,
    notes: Vec<String>,
    aims: Vec<Aim>,
}

/// What a figure should be, and is.
struct Aim {
    what: &'static str,
    wanted: &'static str,
    got: String,
    met: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the benchmarks load a kernel program: run them as root");
    }
    let bench = Bench {
        respawn: match std::env::var_os("RESPAWN_BIN") {
            Some(binary) => binary.into(),
            None => workspace.build_respawn(Profile::Release, None)?,
        },
        actor: build_c(workspace, "actor")?,
        floor: build_c(workspace, "floor")?,
        root: workspace.root.clone(),
        scratch: Scratch::make()?,
        interrupt: Interrupt::listen()?,
        quick: args.quick,
    };
    if args.real_time {
        become_real_time()?;
    }
    let machine = Machine::read(workspace, args.real_time)?;
    let name = args.name.unwrap_or(Name::Compare);
    if name == Name::Compare
        && let Err(error) = unpacked::have_supervisors(workspace)
    {
        note!("bench: some peers will be missing: {error:#}");
    }
    let run = name.run(&bench, &machine, args);
    let (text, figures) = run.with_context(|| format!("bench {}", name.word()))?;
    let mut stdout = io::stdout();
    match args.json {
        true => {
            let mut all = Map::new();
            all.insert("machine".into(), machine.json());
            all.insert(name.word().into(), figures);
            writeln!(stdout, "{}", Value::from(all))?;
        }
        false => writeln!(stdout, "{}", text.trim_end())?,
    }
    Ok(Verdict::Pass)
}

impl Bench {
    /// A command that does not outlive the benchmark, its input empty.
    fn command(&self, program: &Path) -> Result<Command> {
        let mut command = tethered_command(program)?;
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Puts `actor-libraries` in a directory: the actor, linked with shared libraries.
    ///
    /// # Errors
    /// When too few of them are installed.
    fn add_libraries_actor(&self, directory: &Path) -> Result<()> {
        let is_installed = |name: &&&str| {
            let mut ask = Command::new("cc");
            let path = output_of(ask.arg(format!("-print-file-name={name}")));
            path.is_ok_and(|path| path.contains(&b'/'))
        };
        let names = LIBRARY_NAMES.iter().filter(is_installed).take(LIBRARIES);
        let libraries: Vec<String> = names.map(|name| format!("-l:{name}")).collect();
        if libraries.len() < LIBRARIES {
            bail!(
                "only {} of the shared libraries that it would be linked with are installed",
                libraries.len()
            );
        }
        let mut command = Command::new("cc");
        command.args(["-O2", "-Wl,--no-as-needed", "-o"]);
        command.arg(directory.join("actor-libraries"));
        command.arg(self.root.join("xtask/src/bench/actor.c"));
        output_of(command.args(&libraries)).context("the benchmarks need a C compiler")?;
        Ok(())
    }

    /// The actor under a name (comm) that no other process of the host has.
    fn actor_named(&self, name: &str) -> Result<(PathBuf, String)> {
        // A comm has 15 bytes, a pid at most 7.
        let name = format!("{name}{}", std::process::id());
        let path = self.scratch.path().join(&name);
        if !path.exists() {
            std::os::unix::fs::symlink(&self.actor, &path)
                .with_context(|| format!("make the link {}", path.display()))?;
        }
        Ok((path, name))
    }

    /// So many rounds, or a tenth of them.
    fn rounds(&self, all: usize) -> usize {
        if self.quick { all.div_ceil(10) } else { all }
    }
}

impl Figures {
    fn text(&self) -> String {
        let tables = self.tables.iter().map(|table| table.to_string());
        let notes = self.notes.iter().map(|line| format!("{line}\n"));
        let aims = self.aims.iter().map(|aim| format!("{}\n", aim.line()));
        let mut parts: Vec<String> = tables.collect();
        parts.extend([notes.collect(), aims.collect()]);
        parts.retain(|part| !part.is_empty());
        parts.join("\n").trim_end().to_string()
    }

    fn into_json(mut self) -> Value {
        let aims: Vec<Value> = self.aims.iter().map(Aim::json).collect();
        self.json["aims"] = aims.into();
        self.json
    }
}

impl Aim {
    fn line(&self) -> String {
        let verdict = if self.met { "met" } else { "NOT met" };
        format!(
            "Aim, {}: {}; it is {}: {verdict}",
            self.what, self.wanted, self.got
        )
    }

    fn json(&self) -> Value {
        json!({ "what": self.what, "wanted": self.wanted, "got": self.got, "met": self.met })
    }
}

/// Where the figures are from.
struct Machine {
    kernel: String,
    cores: usize,
    processor: String,
    /// Of the last minute, at the start.
    load: f64,
    commit: String,
    real_time: bool,
    /// The day, by the host's clock.
    date: String,
}

impl Machine {
    fn read(workspace: &Workspace, real_time: bool) -> Result<Self> {
        let kernel = uname().context("read the kernel's version")?;
        let date = output_of(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?;
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_string())
        });
        let mut describe = workspace.command("git".as_ref());
        let commit = output_of(describe.args(["describe", "--always", "--dirty"]));
        let commit = commit.map(|text| String::from_utf8_lossy(&text).trim().to_string());
        Ok(Self {
            kernel: kernel.release().to_string_lossy().into_owned(),
            cores: std::thread::available_parallelism()?.get(),
            processor: model.unwrap_or_else(|| kernel.machine().to_string_lossy().into_owned()),
            load: load()?,
            commit: commit.unwrap_or_else(|_| "unknown".into()),
            real_time,
            date: String::from_utf8_lossy(&date).trim().into(),
        })
    }

    /// Whether it had other things to do before the start.
    fn is_busy(&self) -> bool {
        self.load > self.cores as f64 / 2.0
    }

    fn line(&self) -> String {
        let plural = if self.cores == 1 { "core" } else { "cores" };
        let priority = match self.real_time {
            true => ", all that is measured at real-time priority",
            false => "",
        };
        format!(
            "Linux {}, {} {plural} ({}), {}, load {:.2} before the start{priority}; respawn {}",
            self.kernel, self.cores, self.processor, self.date, self.load, self.commit
        )
    }

    fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "cores": self.cores,
            "processor": self.processor,
            "date": self.date,
            "load": self.load,
            "commit": self.commit,
            "real_time": self.real_time,
        })
    }
}

/// Of the last minute.
fn load() -> Result<f64> {
    let load = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or_default();
    load.parse().context("read /proc/loadavg")
}

fn memory_available_mib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(number.context("no MemAvailable in /proc/meminfo")? / 1024)
}

/// Of this process, and of all that it starts from now on. Priority 1 is for actors with much
/// memory.
fn become_real_time() -> Result<()> {
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", "2", &std::process::id().to_string()]);
    output_of(&mut command).context("set the real-time priority")?;
    Ok(())
}

/// So many shared libraries has a service that is linked with some.
pub(in crate::bench) const LIBRARIES: usize = 10;

/// Of which these are taken, as far as they are installed: the first that are, as programs have them.
const LIBRARY_NAMES: [&str; 20] = [
    "libcrypto.so.3",
    "libssl.so.3",
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
    "libz.so.1",
    "libzstd.so.1",
    "liblzma.so.5",
    "libbz2.so.1.0",
    "libsqlite3.so.0",
    "libexpat.so.1",
    "libpcre2-8.so.0",
    "libselinux.so.1",
    "libtinfo.so.6",
    "libncursesw.so.6",
    "libcap.so.2",
    "libcrypt.so.1",
    "libuuid.so.1",
    "libblkid.so.1",
    "libelf.so.1",
];

/// Builds one of the C programs beside this file: statically, so that its own start is short,
/// where the C library allows it.
fn build_c(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let directory = workspace.target.join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let binary = directory.join(name);
    let compile = |options: &[&str]| {
        let mut command = workspace.command("cc".as_ref());
        command.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&binary);
        command
            .arg(format!("xtask/src/bench/{name}.c"))
            .args(options);
        command
    };
    if output_of(&mut compile(&["-static"])).is_err() {
        note!("bench: no static C library, so {name} is linked dynamically");
        run_to_end(&mut compile(&[])).context("the benchmarks need a C compiler")?;
    }
    Ok(binary)
}

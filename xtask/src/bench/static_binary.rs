//! What a static binary costs and gains beside the dynamic one of the same sources: size, start, memory, and
//! how long it takes to look up a user in the host's files and by a module of its name service.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::{
    Bench, Figures,
    process::Started,
    sample::{Sample, Unit, readable},
    table::Table,
    wait::monotonic_ns,
};
use crate::{
    report::note,
    static_build::{self, Arch},
    unpacked::on_this_host,
    workspace::{Profile, Workspace, output_of},
};

const STARTS: usize = 60;
const LOOKUPS: usize = 40;
const AGENTS: usize = 5;

/// The module that one user is known by: a package that `cargo xtask setup` unpacks.
const MODULE: &str = "libnss-extrausers";

/// Mounts an `/etc` and a `/var/lib` of the benchmark's own, and stays until its input ends. $1 is where they are.
const HOST: &str =
    "mount --bind \"$1/etc\" /etc && mount --bind \"$1/var-lib\" /var/lib && echo && exec cat";

/// One of the two binaries, and what was found of it.
struct Measured {
    name: &'static str,
    binary: PathBuf,
    size: u64,
    version: Vec<u64>,
    /// Of agents with one service: resident, and its share (PSS), in KiB.
    memory: Vec<(u64, u64)>,
    of_files: Vec<u64>,
    of_module: Vec<u64>,
}

pub(super) fn run(bench: &Bench) -> Result<Figures> {
    let workspace = Workspace::find()?;
    let built =
        static_build::respawn(&workspace, Arch::of_this_machine()?, Profile::Release, None)?;
    let mut both = [
        Measured::of(bench, "static", &built)?,
        Measured::of(bench, "dynamic", &bench.respawn)?,
    ];
    note!("bench static: starts, agents and look-ups of both binaries in turns");
    for _ in 0..bench.rounds(STARTS) {
        for one in &mut both {
            one.version
                .push(timed(Command::new(&one.binary).arg("version"))?);
        }
    }
    for _ in 0..bench.rounds(AGENTS) {
        for one in &mut both {
            one.memory.push(memory_of_agent(bench, &one.binary)?);
        }
    }
    let host = Host::make(bench, &workspace)?;
    for _ in 0..bench.rounds(LOOKUPS) {
        for one in &mut both {
            one.of_files.push(host.check(&one.binary, "of-files")?);
            if host.has_module {
                one.of_module.push(host.check(&one.binary, "of-module")?);
            }
        }
    }
    Ok(figures(both))
}

impl Measured {
    /// Of a copy of this binary, stripped as packages have it.
    fn of(bench: &Bench, name: &'static str, built: &Path) -> Result<Self> {
        let binary = bench.scratch.path().join(format!("respawn-{name}"));
        let mut strip = Command::new("strip");
        output_of(strip.arg("-o").arg(&binary).arg(built))?;
        Ok(Self {
            name,
            size: fs::metadata(&binary)?.len(),
            binary,
            version: Vec::new(),
            memory: Vec::new(),
            of_files: Vec::new(),
            of_module: Vec::new(),
        })
    }
}

/// How long a command takes that succeeds, in nanoseconds.
fn timed(command: &mut Command) -> Result<u64> {
    let began = monotonic_ns()?;
    output_of(command)?;
    Ok(monotonic_ns()? - began)
}

/// Starts an agent with one service, and ends both: its resident memory and its share, in KiB.
fn memory_of_agent(bench: &Bench, binary: &Path) -> Result<(u64, u64)> {
    let dir = bench.scratch.path().join("agent");
    fs::create_dir_all(dir.join("config/services"))?;
    let service = "command = [\"/bin/sleep\", \"100000\"]\n";
    fs::write(dir.join("config/services/service.toml"), service)?;
    let pins = format!("/sys/fs/bpf/respawn-bench-{}", std::process::id());
    let with_places = |command: &mut Command, words: &[&str]| {
        command
            .args(words)
            .env("RESPAWN_CONFIG", dir.join("config"))
            .env("RESPAWN_RUNTIME_DIR", dir.join("run"))
            .env("RESPAWN_PIN_DIR", &pins);
    };
    let ask = |words: &[&str]| {
        let mut command = Command::new(binary);
        with_places(&mut command, words);
        output_of(&mut command)
    };
    let mut agent = bench.command(binary)?;
    with_places(&mut agent, &["agent"]);
    let agent = Started::start(agent.stderr(Stdio::null()))?;
    let mut tries = 0..600;
    while ask(&["is-up", "service"]).is_err() {
        ensure!(
            tries.next().is_some(),
            "the service of {} does not come up",
            binary.display()
        );
        bench.interrupt.pause(Duration::from_millis(50))?;
    }
    let rollup = format!("/proc/{}/smaps_rollup", agent.pid());
    let text = fs::read_to_string(&rollup).with_context(|| format!("read {rollup}"))?;
    let memory = (kib(&text, "Rss:")?, kib(&text, "Pss:")?);
    // Which removes the pins, too.
    ask(&["shutdown"])?;
    agent.wait(&bench.interrupt)?;
    fs::remove_dir_all(&dir)?;
    Ok(memory)
}

/// A field of `smaps_rollup`.
fn kib(text: &str, field: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("no {field}"))?.parse()?)
}

/// A mount namespace whose `/etc` knows one user, and whose name service knows another one.
struct Host {
    dir: PathBuf,
    /// Whether the module that knows the other one is here: a `getent` of the benchmark's own finds it.
    has_module: bool,
    /// Has the namespace.
    holder: Started,
}

impl Host {
    fn make(bench: &Bench, workspace: &Workspace) -> Result<Self> {
        let dir = bench.scratch.path().join("host");
        for folder in ["bin", "etc", "var-lib/extrausers"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let has_module = add_getent(workspace, &dir.join("bin/getent"))?;
        let root = "root:x:0:0:root:/root:/bin/sh\n";
        for (file, text) in [
            (
                "etc/passwd",
                &*format!("{root}local:x:70000:70000:Local:/:/bin/sh\n"),
            ),
            ("etc/group", "root:x:0:\nlocal:x:70000:\n"),
            (
                "etc/nsswitch.conf",
                "passwd: files extrausers\ngroup: files extrausers\n",
            ),
            (
                "var-lib/extrausers/passwd",
                "extra:x:70100:70101:Extra:/:/bin/sh\n",
            ),
            ("var-lib/extrausers/group", "extra:x:70101:\n"),
            (
                "of-files.toml",
                "command = [\"/bin/sleep\", \"1\"]\nuser = \"local\"\n",
            ),
            (
                "of-module.toml",
                "command = [\"/bin/sleep\", \"1\"]\nuser = \"extra\"\n",
            ),
        ] {
            fs::write(dir.join(file), text)?;
        }
        let mut command = bench.command("unshare".as_ref())?;
        command
            .args(["--mount", "sh", "-c", HOST, "sh"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = Started::start(&mut command)?;
        let mut ready = holder.stdout()?;
        bench
            .interrupt
            .readable([std::os::fd::AsFd::as_fd(&ready)])?;
        ready.fill()?;
        ensure!(ready.take().is_some(), "no mount namespace could be made");
        Ok(Self {
            dir,
            has_module,
            holder,
        })
    }

    /// How long `check` takes for one of the two services.
    fn check(&self, binary: &Path, service: &str) -> Result<u64> {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--target", &self.holder.pid().to_string(), "--"])
            .arg(binary)
            .arg("check")
            .arg(self.dir.join(format!("{service}.toml")));
        if self.has_module {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", self.dir.join("bin").display()));
        }
        timed(&mut command)
    }
}

/// Writes a `getent` that finds the module; `false` if that is not unpacked.
fn add_getent(workspace: &Workspace, path: &Path) -> Result<bool> {
    let module = workspace.root.join("target/test-packages").join(MODULE);
    let folder = module.join("usr/lib");
    let real = on_this_host("getent").filter(|_| folder.is_dir());
    let Some(real) = real else {
        note!("bench static: no getent, or no {MODULE}: `cargo xtask setup` unpacks it");
        return Ok(false);
    };
    let (folder, real) = (folder.display(), real.display());
    let script = format!("#!/bin/sh\nLD_LIBRARY_PATH={folder} exec {real} \"$@\"\n");
    fs::write(path, script)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(true)
}

fn figures(both: [Measured; 2]) -> Figures {
    let mut table = Table::new("", &["", "static", "dynamic"]);
    let mut json = Map::new();
    let mut row = |what: &str, cell: &dyn Fn(&Measured) -> String| {
        table.row([what.to_owned(), cell(&both[0]), cell(&both[1])]);
    };
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    row("the stripped binary", &|one| mb(one.size));
    row("`respawn version`, median, and the fastest", &|one| {
        let fastest = one.version.iter().min().copied().unwrap_or(0) as f64 / 1e6;
        format!("{}, {} ms", median_ms(&one.version), readable(fastest))
    });
    row("an agent with one service, resident", &|one| {
        mb(middle(one.memory.iter().map(|memory| memory.0)) * 1024)
    });
    row("the same, its share (PSS)", &|one| {
        mb(middle(one.memory.iter().map(|memory| memory.1)) * 1024)
    });
    row("`respawn check` with a user of `/etc/passwd`", &|one| {
        format!("{} ms", median_ms(&one.of_files))
    });
    if both.iter().all(|one| !one.of_module.is_empty()) {
        row(
            "`respawn check` with a user of an NSS module, by `getent`",
            &|one| format!("{} ms", median_ms(&one.of_module)),
        );
    }
    for one in &both {
        json.insert(
            one.name.into(),
            json!({
                "size": one.size,
                "version": Sample::of(one.version.clone()).json(),
                "rss_kib": middle(one.memory.iter().map(|memory| memory.0)),
                "pss_kib": middle(one.memory.iter().map(|memory| memory.1)),
                "check_of_files": Sample::of(one.of_files.clone()).json(),
                "check_of_module": Sample::of(one.of_module.clone()).json(),
            }),
        );
    }
    Figures {
        json: Value::from(json),
        tables: vec![table],
        notes: vec![
            "A check has about 1 ms of nsenter in it, which runs it where these users are, and with a module \
             as much of a shell, which has getent find the module."
                .into(),
        ],
        aims: vec![],
    }
}

fn median_ms(times_ns: &[u64]) -> String {
    let [median, ..] = Sample::of(times_ns.to_vec()).cells(Unit::Milliseconds);
    median
}

/// The median; 0 of none.
fn middle(numbers: impl Iterator<Item = u64>) -> u64 {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

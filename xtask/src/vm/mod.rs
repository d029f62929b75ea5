//! `cargo xtask vm`: boots other kernels in emulated machines, and runs the tests there, or a
//! command.
//!
//! Needs no KVM, and no network but Debian's archive: kernels and programs are kept in a cache
//! outside the repository.

mod arch;
mod archive;
mod cpio;
mod glob;
mod init;
mod job;
mod kernels;
mod machine;
mod matrix;
mod page;
mod place;
mod results;
mod root;
mod run;
mod scenarios;
mod sets;
mod stock;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use archive::Archive;
use clap::Parser as _;
use init::Init;
use sets::Set;
use stock::Stock;

use crate::{
    Verdict, apt,
    report::{note, now, readable},
    static_build::Arch,
    unpacked::{self, EMULATOR},
    workspace::{Profile, Workspace},
};

/// Run the tests on other kernels, in emulated machines, or a command
#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// Versions such as `5.10`, `newest`, or the path of a kernel's image; 5.10, 6.1, 6.12 and the
    /// newest if none is named, and with `--all` all
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,

    /// The tests to run, such as `pins::*`, in place of all or of the set that `--all` runs; those of
    /// `machine` get a machine of their own each
    #[arg(long = "test", value_name = "GLOB")]
    tests: Vec<String>,

    /// Run the tests on all kernels, inits and processors, or on those that are named, and write
    /// docs/kernels.md from these and earlier runs
    #[arg(long, conflicts_with_all = ["run", "shell"])]
    all: bool,

    /// With `--all`, leave out what an earlier run has shown
    #[arg(long, requires = "all")]
    missing: bool,

    /// With `--all`, run nothing, and write docs/kernels.md from earlier runs
    #[arg(long, requires = "all")]
    page: bool,

    /// With `--all`, run the tests of this set on each kernel
    #[arg(long, value_enum, requires = "all", conflicts_with = "tests")]
    set: Option<Set>,

    /// Run the tests that matter most on the kernels that CI looks at
    #[arg(long, conflicts_with_all = ["kernels", "tests", "all", "run", "shell"])]
    ci: bool,

    /// How many machines run at a time, each on another kernel
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    jobs: usize,

    /// A shell command to run there in place of tests, as root; `respawn` is on its PATH
    #[arg(long, value_name = "COMMAND", conflicts_with = "tests")]
    run: Option<String>,

    /// A file with a shell script to run there in place of tests
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "tests"])]
    shell: Option<PathBuf>,

    /// A file to have there in `/vm/files`, which is on the PATH, or in another place
    #[arg(long = "file", value_name = "PATH[:DESTINATION]")]
    files: Vec<String>,

    /// The `respawn` to have there, a static binary, in place of a new build
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,

    /// The machine's PID 1: busybox, if none is named
    #[arg(long, value_enum, value_name = "NAME")]
    init: Option<Init>,

    /// The machine's processor: x86_64, or both for `--all`, if none is named
    #[arg(long)]
    arch: Option<Arch>,

    /// How many processors the machine has
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<u32>,

    /// The machine's memory
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,

    /// Parameters for the kernel, such as `lockdown=confidentiality`
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    append: String,

    /// When a machine is ended that has not come to its end
    #[arg(long, value_name = "SECONDS", default_value_t = 5400)]
    limit: u64,

    /// When a test is ended that has not come to its end
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    test_limit: u64,

    /// How often the tests of inits kill something: 500 times, or 100 with `--all`
    #[arg(long, value_name = "NUMBER")]
    kills: Option<u32>,

    /// How many bursts of 1,000 exits the tests of bursts make
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    bursts: u32,

    /// Build `respawn` without optimisation, which takes less time
    #[arg(long)]
    debug: bool,

    /// Keep the machine's files, and say where
    #[arg(long)]
    keep: bool,

    /// Where kernels and programs are kept; by default in the user's cache directory
    #[arg(long, value_name = "FOLDER", env = "RESPAWN_VM_CACHE")]
    cache: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    if args.all {
        return matrix::run(workspace, args);
    }
    if args.ci {
        return ci(workspace, args);
    }
    let mut args = args.clone();
    if args.kernels.is_empty() {
        args.kernels = CI_KERNELS.map(str::to_owned).into();
    }
    if args.tests.is_empty() {
        args.tests.push("*".to_owned());
    }
    let args = &args;
    let mut stock = Stock::prepare(workspace, args)?;
    let script = match (&args.run, &args.shell) {
        (Some(command), _) => command.clone(),
        (_, Some(file)) => {
            fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
        }
        _ => {
            stock.add_tests(workspace, args)?;
            return Ok(run::summarize(&run::tests(&stock, args)?));
        }
    };
    run::script(&stock, &script, args)
}

/// The kernels that CI looks at; that of its host is looked at by all other tests.
const CI_KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", kernels::NEWEST];

/// Enough kills to see that an init brings back agents and spare.
const CI_KILLS: u32 = 20;

/// The run that CI makes, within minutes.
///
/// # Errors
/// As [`run()`].
fn ci(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let started = now();
    let args = Args {
        kernels: CI_KERNELS.map(str::to_owned).into(),
        tests: Set::Ci.tests().iter().map(ToString::to_string).collect(),
        kills: Some(CI_KILLS),
        bursts: 1,
        limit: 900,
        test_limit: 300,
        debug: true,
        ci: false,
        ..args.clone()
    };
    let mut stock = Stock::prepare(workspace, &args)?;
    stock.add_tests(workspace, &args)?;
    note!("built and fetched after {}", readable(started.elapsed()));
    let verdict = run::summarize(&run::tests(&stock, &args)?);
    note!("in all {}", readable(started.elapsed()));
    Ok(verdict)
}

/// Why no machine can be run here, if so.
pub(crate) fn missing(workspace: &Workspace) -> Option<&'static str> {
    if !apt::is_here() {
        Some("this is not Debian, whose kernels and programs the machines run")
    } else if unpacked::on_this_host("apt-get").is_none() {
        Some("apt-get is missing")
    } else if unpacked::emulator(workspace, &EMULATOR).is_err() {
        Some("qemu-system-x86_64 is missing: `cargo xtask setup` gets it")
    } else {
        None
    }
}

/// What CI runs, with two machines at a time, and with the `respawn` of all other tests: in a machine,
/// one without optimisation takes three times as long to start.
///
/// # Errors
/// As [`run()`].
pub(crate) fn run_in_ci(workspace: &Workspace) -> Result<Verdict> {
    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }
    let line = CommandLine::try_parse_from(["vm", "--ci", "--jobs", "2"])?;
    let args = Args {
        // It needs no newer C library than the machines have.
        binary: Some(workspace.build_respawn(Profile::Release, None)?),
        ..line.args
    };
    run(workspace, &args)
}

/// Downloads one version of a package for another processor.
///
/// # Errors
/// When Debian does not have it, or it cannot be fetched.
pub(crate) fn download(arch: Arch, package: &str, version: &str, to: &Path) -> Result<PathBuf> {
    let cache = stock::cache(None)?;
    let _lock = stock::lock(&cache)?;
    Archive::open(&cache, arch)?.download(package, Some(version), to)
}

impl Args {
    fn init(&self) -> Init {
        self.init.unwrap_or(Init::Busybox)
    }

    fn arch(&self) -> Arch {
        self.arch.unwrap_or(Arch::X86_64)
    }

    fn profile(&self) -> Profile {
        match self.debug {
            true => Profile::Dev,
            false => Profile::Release,
        }
    }
}

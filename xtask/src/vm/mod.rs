//! `cargo xtask vm`: boots other kernels in emulated machines, and runs the tests there, or a
//! command.
//!
//! Needs no KVM, and no network but Debian's archive: kernels and programs are kept in a cache
//! outside the repository.

mod arch;
mod archive;
mod build;
mod cpio;
mod job;
mod kernels;
mod machine;
mod results;
mod root;

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use arch::Arch;
use job::Placed;
use kernels::Kernel;
use machine::{End, Machine};
use nix::fcntl::{Flock, FlockArg};
use results::{Outcome, Tested};

use crate::{
    Verdict,
    report::{note, now, readable},
    workspace::Workspace,
};

/// Run the tests on other kernels, in emulated machines, or a command
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Versions such as `5.10`, `newest`, or the path of a kernel's image
    #[arg(value_name = "KERNEL", default_values = ["5.10", "6.1", "6.12", kernels::NEWEST])]
    kernels: Vec<String>,

    /// The tests to run, such as `pins::*`
    #[arg(long, value_name = "GLOB", default_value = "*")]
    test: String,

    /// A shell command to run there in place of tests, as root; `respawn` is on its PATH
    #[arg(long, value_name = "COMMAND", conflicts_with = "test")]
    run: Option<String>,

    /// A file with a shell script to run there in place of tests
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "test"])]
    shell: Option<PathBuf>,

    /// A file to have there in `/vm/files`, which is on the PATH, or in another place
    #[arg(long = "file", value_name = "PATH[:DESTINATION]")]
    files: Vec<String>,

    /// The `respawn` to have there, a static binary, in place of a new build
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,

    /// The machine's processor
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,

    /// How many processors the machine has
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    cpus: u32,

    /// The machine's memory
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u32,

    /// Parameters for the kernel, such as `lockdown=confidentiality`
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    append: String,

    /// When a machine is ended that has not come to its end
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,

    /// Keep the machine's files, and say where
    #[arg(long)]
    keep: bool,

    /// Where kernels and programs are kept; by default in the user's cache directory
    #[arg(long, value_name = "FOLDER", env = "RESPAWN_VM_CACHE")]
    cache: Option<PathBuf>,
}

/// Longer than any test takes in a machine that has its processors to itself.
const TEST_LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let mut stock = Stock::prepare(workspace, args)?;
    let script = match (&args.run, &args.shell) {
        (Some(command), _) => command.clone(),
        (_, Some(file)) => {
            fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
        }
        _ => {
            stock.add_tests(workspace, args.arch)?;
            let limit = TEST_LIMIT.as_secs();
            format!("exec /vm/run-tests '{}' {limit}", args.test)
        }
    };
    let is_tests = args.run.is_none() && args.shell.is_none();
    let mut verdict = Verdict::Pass;
    for kernel in &stock.kernels {
        let (end, tests) = run_on(kernel, &stock, &script, args)?;
        if is_tests {
            note!("== {}: {}", kernel.release, results::counted(&tests));
        }
        let none_ran = is_tests && !tests.iter().any(|test| test.outcome != Outcome::Skipped);
        if end != End::Job(0) || none_ran {
            verdict = Verdict::Fail;
        }
    }
    Ok(verdict)
}

/// What is the same for all machines.
struct Stock {
    kernels: Vec<Kernel>,
    archives: Vec<PathBuf>,
    files: Vec<Placed>,
    /// What goes with the value.
    folder: tempfile::TempDir,
}

impl Stock {
    /// Builds what is to run, and fetches what is not in the cache yet.
    fn prepare(workspace: &Workspace, args: &Args) -> Result<Self> {
        let mut files = args
            .files
            .iter()
            .map(|file| Placed::parse(file))
            .collect::<Result<Vec<_>>>()?;
        files.push(Placed {
            from: match &args.binary {
                Some(binary) => binary.clone(),
                None => build::respawn(workspace, args.arch)?,
            },
            to: "/usr/sbin/respawn".into(),
        });
        let cache = cache(args)?;
        fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
        // One process at a time.
        let lock = File::create(cache.join("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let find = |name: &String| kernels::find(name, &cache, args.arch);
        Ok(Self {
            archives: vec![root::image(&cache, args.arch)?],
            kernels: args.kernels.iter().map(find).collect::<Result<_>>()?,
            files,
            folder: tempfile::Builder::new().prefix("respawn-vm-").tempdir()?,
        })
    }

    fn add_tests(&mut self, workspace: &Workspace, arch: Arch) -> Result<()> {
        let archive = self.folder.path().join("tests.cpio");
        job::write_tests(&archive, workspace, &build::tests(workspace, arch)?)?;
        self.archives.push(archive);
        Ok(())
    }
}

fn cache(args: &Args) -> Result<PathBuf> {
    if let Some(cache) = &args.cache {
        return Ok(std::path::absolute(cache)?);
    }
    let caches = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")));
    Ok(caches
        .context("no cache directory is known: set RESPAWN_VM_CACHE")?
        .join("respawn-vm"))
}

/// Runs the job on one kernel, and shows what comes out of it.
fn run_on(kernel: &Kernel, stock: &Stock, script: &str, args: &Args) -> Result<(End, Vec<Tested>)> {
    let folder = tempfile::Builder::new().prefix("respawn-vm-").tempdir()?;
    let own = folder.path().join("job.cpio");
    job::write_archive(&own, script, &stock.files)?;
    let mut archives = stock.archives.clone();
    archives.push(own);
    let machine = Machine {
        arch: args.arch,
        kernel: &kernel.image,
        archives,
        processors: args.cpus,
        memory_mib: args.memory,
        append: format!("vm.port={} {}", args.arch.ports().1, args.append),
        limit: Duration::from_secs(args.limit),
    };
    note!("== {}", kernel.release);
    let started = now();
    let mut tests = Vec::new();
    let end = machine.run(folder.path(), |line| {
        let _ = match Tested::parse(line) {
            Some(test) => {
                let shown = writeln!(std::io::stdout(), "{test}");
                tests.push(test);
                shown
            }
            None => writeln!(std::io::stdout(), "{line}"),
        };
    })?;
    let took = readable(started.elapsed());
    note!("== {}: {}, after {took}", kernel.release, said(&end, args));
    if args.keep || end != End::Job(0) {
        keep(folder)?;
    }
    Ok((end, tests))
}

fn said(end: &End, args: &Args) -> String {
    match end {
        End::Job(status) => format!("exit status {status}"),
        End::Crashed => "FAILED: the machine ended before the job did".to_owned(),
        End::TimedOut => format!("FAILED: not at its end after {} s", args.limit),
    }
}

/// Keeps what the machine wrote, and leaves out what can be made again.
fn keep(folder: tempfile::TempDir) -> Result<()> {
    let folder = folder.keep();
    for name in ["initrd", "job.cpio"] {
        remove(&folder.join(name))?;
    }
    note!(
        "== the machine's console: {}",
        folder.join("console").display()
    );
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

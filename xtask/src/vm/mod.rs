//! `cargo xtask vm`: boots other kernels in emulated machines, and runs things there.
//!
//! Needs no KVM, and no network but Debian's archive: kernels and programs are kept in a cache
//! outside the repository.

mod arch;
mod archive;
mod cpio;
mod kernels;
mod machine;
mod root;

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use arch::Arch;
use kernels::Kernel;
use machine::{End, Machine};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    Verdict,
    report::{note, now, readable},
    workspace::{Workspace, executable_in, output_of},
};

/// Run a command on another kernel, in an emulated machine
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Versions such as `5.10`, `newest`, or the path of a kernel's image
    #[arg(value_name = "KERNEL", default_value = kernels::NEWEST)]
    kernels: Vec<String>,

    /// A shell command to run there, as root; `respawn` is on its PATH
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,

    /// A file with a shell script to run there
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
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
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,

    /// Keep the machine's files, and say where
    #[arg(long)]
    keep: bool,

    /// Where kernels and programs are kept; by default in the user's cache directory
    #[arg(long, value_name = "FOLDER", env = "RESPAWN_VM_CACHE")]
    cache: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let job = match (&args.run, &args.shell) {
        (Some(command), _) => command.clone(),
        (_, Some(file)) => {
            fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
        }
        _ => bail!("nothing to run: give --run or --shell"),
    };
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => build_static(workspace, args.arch)?,
    };
    let cache = cache(args)?;
    let (base, kernels) = prepare(&cache, args)?;
    let mut verdict = Verdict::Pass;
    for kernel in &kernels {
        if run_on(kernel, &base, &binary, &job, args)? == Verdict::Fail {
            verdict = Verdict::Fail;
        }
    }
    Ok(verdict)
}

/// Fetches what is not in the cache yet; one process at a time.
fn prepare(cache: &Path, args: &Args) -> Result<(PathBuf, Vec<Kernel>)> {
    fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let base = root::image(cache, args.arch)?;
    let kernels = args
        .kernels
        .iter()
        .map(|name| kernels::find(name, cache, args.arch))
        .collect::<Result<_>>()?;
    Ok((base, kernels))
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

fn run_on(kernel: &Kernel, base: &Path, binary: &Path, job: &str, args: &Args) -> Result<Verdict> {
    let folder = tempfile::Builder::new().prefix("respawn-vm-").tempdir()?;
    let own = folder.path().join("own.cpio");
    write_own(&own, binary, job, args)?;
    let machine = Machine {
        arch: args.arch,
        kernel: &kernel.image,
        archives: vec![base.to_owned(), own],
        processors: args.cpus,
        memory_mib: args.memory,
        append: format!("vm.port={} {}", args.arch.ports().1, args.append),
        limit: Duration::from_secs(args.limit),
    };
    note!("== {}", kernel.release);
    let started = now();
    let end = machine.run(folder.path(), |line| {
        let _ = writeln!(std::io::stdout(), "{line}");
    })?;
    let said = match end {
        End::Job(0) => "exit status 0".to_owned(),
        End::Job(status) => format!("exit status {status}"),
        End::Crashed => "FAILED: the machine ended without the job's end".to_owned(),
        End::TimedOut => format!("FAILED: not at its end after {} s", args.limit),
    };
    let took = readable(started.elapsed());
    note!("== {}: {said}, after {took}", kernel.release);
    if args.keep || !matches!(end, End::Job(_)) {
        note!("== the machine's files: {}", folder.keep().display());
    }
    Ok(if end == End::Job(0) {
        Verdict::Pass
    } else {
        Verdict::Fail
    })
}

/// What one machine has beside the programs of all.
fn write_own(path: &Path, binary: &Path, job: &str, args: &Args) -> Result<()> {
    let mut own = cpio::Archive::new(BufWriter::new(File::create(path)?));
    own.directories("/vm/files")?;
    own.file("/vm/boot", 0o755, include_bytes!("boot.sh"))?;
    own.file("/vm/start", 0o755, include_bytes!("start.sh"))?;
    own.file("/vm/job", 0o755, job.as_bytes())?;
    own.link("/usr/sbin/init", b"/usr/bin/busybox")?;
    own.file(
        "/etc/inittab",
        0o644,
        b"::sysinit:/vm/boot\n::once:/vm/start\n",
    )?;
    own.copy(binary, "/usr/sbin/respawn")?;
    for file in &args.files {
        let (from, to) = match file.split_once(':') {
            Some((from, to)) => (Path::new(from), to.to_owned()),
            None => {
                let from = Path::new(file);
                let name = from.file_name().context("--file has no file name")?;
                (from, format!("/vm/files/{}", name.to_string_lossy()))
            }
        };
        own.copy(from, &to)?;
    }
    own.finish()?;
    Ok(())
}

/// Builds a `respawn` that needs no library, as machines have none of this one's.
fn build_static(workspace: &Workspace, arch: Arch) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command
        .args(["build", "--package", "monitor-user", "--bin", "respawn"])
        .args(["--release", "--target", arch.target()])
        .arg("--message-format=json-render-diagnostics")
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .stderr(std::process::Stdio::inherit());
    let messages = output_of(&mut command)?;
    executable_in(&messages, "respawn").context("cargo built respawn, but names no executable")
}

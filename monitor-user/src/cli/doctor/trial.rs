//! The self-tests: kernel programs and pidfds tried on a child of our own.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::cli::Global;
use crate::clock;
use crate::decode::{self, Birth, ProcessExit};
use crate::model::Cause;
use crate::os::pidfd;
use crate::os::process::Process;
use crate::probe::{KernelProbe, KnownIn, Options, ProgramReport, mount_bpffs};

/// How the test's child exits.
const CODE: u8 = 7;
/// How long its event may take: far longer than it ever takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the kernel programs have come to.
pub(super) struct Trial {
    /// Loading and attaching, in the agent's own way.
    pub(super) loaded: Result<()>,
    /// How long after the child's exit became final it was told; `None`: not loaded.
    pub(super) delivered: Option<Result<Duration>>,
    /// Whether the sender of a signal was told; `None`: not loaded.
    pub(super) sender: Option<Result<()>>,
    /// Whether an exit is seen while the process still has its memory; `None`: not loaded.
    pub(super) early: Option<bool>,
    /// Each program that was tried.
    pub(super) programs: Vec<ProgramReport>,
}

/// Loads the kernel programs, and has them tell of an exit and of a kill.
///
/// # Errors
/// No runtime to wait in.
pub(super) fn of_ebpf(global: &Global) -> Result<Trial> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let options = Options {
        btf: global.btf.clone(),
        object: global.bpf_object.clone(),
        known: KnownIn::ReadOnly(global.runtime_dir.clone()),
        births: true,
        ..Options::default()
    };
    Ok(runtime.block_on(async {
        match KernelProbe::load(&options) {
            Ok(mut probe) => Trial {
                loaded: Ok(()),
                delivered: Some(see_an_exit(&mut probe).await),
                sender: Some(see_a_sender(&mut probe).await),
                early: probe.sees_exits_early().ok(),
                programs: probe.programs().to_vec(),
            },
            Err(error) => Trial {
                loaded: Err(error),
                delivered: None,
                sender: None,
                early: None,
                programs: Vec::new(),
            },
        }
    }))
}

async fn see_an_exit(probe: &mut KernelProbe) -> Result<Duration> {
    let exit = see_the_end(probe, TestChild::end).await?;
    if exit.cause != (Cause::Exited { code: CODE }) {
        bail!(
            "the child exited with {CODE}, but was reported to have {}",
            exit.cause
        );
    }
    Ok(clock::since_boot().saturating_sub(exit.exited_at))
}

async fn see_a_sender(probe: &mut KernelProbe) -> Result<()> {
    let exit = see_the_end(probe, TestChild::kill).await?;
    let Cause::Signaled { origin, .. } = &exit.cause else {
        bail!(
            "the child was killed, but was reported to have {}",
            exit.cause
        );
    };
    match &origin.sender {
        Some(sender) if sender.pid == std::process::id() => Ok(()),
        Some(sender) => bail!("this process killed the child, but {sender} was reported"),
        None => bail!(
            "this process killed the child, but who did was not shown: it was {}",
            exit.cause
        ),
    }
}

/// What is told of a child's end.
async fn see_the_end(
    probe: &mut KernelProbe,
    end: impl FnOnce(TestChild) -> Result<()>,
) -> Result<ProcessExit> {
    let child = TestChild::start()?;
    let instance = child.open()?.instance;
    probe.watch(instance, Birth::NONE)?;
    end(child)?;
    loop {
        while let Some(exit) = probe.next(decode::exit) {
            match exit {
                Some(exit) if exit.instance == instance => return Ok(exit),
                Some(_) => {}
                None => bail!("the ring holds a record that is not of this build"),
            }
        }
        tokio::time::timeout(PATIENCE, probe.readable())
            .await
            .map_err(|_| anyhow!("a child's exit was not reported within {PATIENCE:?}"))??;
    }
}

/// Whether a bpf file system can be mounted there: tried where nobody else sees it.
///
/// # Errors
/// Why not.
pub(super) fn of_mount(target: &Path) -> Result<()> {
    let tried = Command::new("/proc/self/exe")
        .args(["doctor", "--test-mount"])
        .arg(target)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .context("cannot start a child to test with")?;
    if tried.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    let said = said.trim();
    bail!("{}", said.strip_prefix("respawn: ").unwrap_or(said))
}

/// Mounts a bpf file system in a mount namespace that ends with this process.
pub(super) fn mount_unseen(target: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare the mounts")?;
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none).context("cannot make the mounts private")?;
    mount_bpffs(target).with_context(|| format!("cannot mount at {}", target.display()))
}

/// Whether a pidfd tells the exit status of a process that someone else has reaped.
///
/// # Errors
/// The test could not be made.
pub(super) fn of_exit_info() -> Result<bool> {
    let child = TestChild::start()?;
    let process = child.open()?;
    child.end()?;
    Ok(process.exit_status() == Some(i32::from(CODE) << 8))
}

/// Whether a descriptor of another process can be taken, as far as that is this process's child.
///
/// # Errors
/// Why not.
pub(super) fn of_taking_descriptors() -> Result<()> {
    let child = TestChild::start()?;
    let pidfd = pidfd::open(child.0.id()).context("cannot open a child's pidfd")?;
    pidfd::descriptor_of(pidfd.as_fd(), 0).context("pidfd_getfd")?;
    Ok(())
}

/// This program again, as a process that exits when it is told to.
struct TestChild(Child);

impl TestChild {
    fn start() -> Result<Self> {
        Command::new("/proc/self/exe")
            .args(["doctor", "--test-child"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
            .context("cannot start a child to test with")
    }

    fn open(&self) -> Result<Process> {
        Process::open(self.0.id())
            .map_err(|error| anyhow!("cannot open a child's pidfd: {error:?}"))
    }

    /// Kills it, and reaps it.
    fn kill(mut self) -> Result<()> {
        self.0.kill().context("cannot kill a child")?;
        self.0.wait().context("cannot wait for a child").map(drop)
    }

    /// Has it exit, and reaps it.
    fn end(mut self) -> Result<()> {
        self.0.wait().context("cannot wait for a child").map(drop)
    }
}

impl Drop for TestChild {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the child does: exits when its standard input ends.
pub(super) fn be_the_child() -> ExitCode {
    let _ = io::stdin().read_to_end(&mut Vec::new());
    ExitCode::from(CODE)
}

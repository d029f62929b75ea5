//! The kernel side, loaded and attached: its ring, its watch map, its loss counter.

use std::borrow::Cow;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use aya_log::EbpfLogger;
use monitor_ebpf::{Filter, NameMatcher, WatchEntry, globals, maps, programs};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing_log::log::Log;

use super::btf::{ExitTracepoint, KERNEL_BTF, KernelTypes};
use super::namespace;
use crate::os;

/// The object that the binary carries.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/respawn.bpf.o"));

/// What to load, and what the kernel programs report beside watched pids.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Every process of the caller's PID namespace.
    pub(crate) all: bool,
    /// Processes that have one of these names.
    pub(crate) names: Option<Box<NameMatcher>>,
    /// Size of the ring in bytes, a power of two and a multiple of the page size; 1 MiB if `None`.
    pub(crate) ring_bytes: Option<u32>,
    /// BTF to read instead of the running kernel's own.
    pub(crate) btf: Option<PathBuf>,
    /// Object to load instead of the one in the binary.
    pub(crate) object: Option<PathBuf>,
    /// Load the program for kernels before 6.16 whatever the kernel.
    pub(crate) live_zero: bool,
}

/// The kernel programs at work; they end with this value.
pub(crate) struct KernelProbe {
    events: AsyncFd<RingBuf<MapData>>,
    watched: HashMap<MapData, u32, [u64; 4]>,
    lost: PerCpuArray<MapData, u64>,
    logger: Option<AsyncFd<EbpfLogger<&'static dyn Log>>>,
    program: &'static str,
    object: Ebpf,
}

/// What the kernel's BPF statistics say of the exit program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HookStatistics {
    /// Times it ran.
    pub(crate) runs: u64,
    /// Nanoseconds it ran for, all told.
    pub(crate) run_time_ns: u64,
}

impl KernelProbe {
    /// Loads the object and attaches its exit program.
    ///
    /// # Errors
    /// No BTF, a field that the kernel lacks, a damaged object, no right to load programs.
    pub(crate) fn load(options: &Options) -> Result<Self> {
        let path = options.btf.as_deref().unwrap_or(Path::new(KERNEL_BTF));
        let types = KernelTypes::read(path)?;
        let offsets = types.offsets()?.words();
        let program = match types.exit_tracepoint()? {
            ExitTracepoint::GroupDead if !options.live_zero => programs::EXIT_GROUP_DEAD,
            _ => programs::EXIT_LIVE_ZERO,
        };
        let btf = Btf::parse_file(path, Endianness::default())
            .with_context(|| format!("{}: damaged BTF", path.display()))?;
        let object: Cow<'static, [u8]> = match &options.object {
            Some(path) => fs::read(path)
                .with_context(|| format!("cannot read the kernel object {}", path.display()))?
                .into(),
            None => OBJECT.into(),
        };
        let filter = Filter {
            pid_namespace: namespace::observer()?,
            all: options.all.into(),
            names: options.names.is_some().into(),
        }
        .words();
        let names = options
            .names
            .as_deref()
            .unwrap_or(&NameMatcher::NONE)
            .rows();
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&btf))
            .override_global(globals::OFFSETS, &offsets[..], true)
            .override_global(globals::FILTER, &filter[..], true)
            .override_global(globals::NAMES, &names[..], true);
        if let Some(bytes) = options.ring_bytes {
            loader.map_max_entries(maps::EVENTS, bytes);
        }
        let mut object = loader
            .load(&object)
            .context("cannot load the kernel object")?;
        attach(&mut object, program, &btf)?;
        Ok(Self {
            events: os::async_fd(
                RingBuf::try_from(take_map(&mut object, maps::EVENTS)?)?,
                Interest::READABLE,
            )?,
            watched: HashMap::try_from(take_map(&mut object, maps::WATCHED)?)?,
            lost: PerCpuArray::try_from(take_map(&mut object, maps::LOST)?)?,
            logger: kernel_log(&mut object),
            program,
            object,
        })
    }

    /// Has the exit of process `pid`, started at `start_ticks`, reported.
    pub(crate) fn watch(&mut self, pid: u32, start_ticks: u64) -> Result<()> {
        self.watched
            .insert(pid, WatchEntry::watching(start_ticks).words(), 0)
            .with_context(|| format!("cannot watch process {pid}"))
    }

    /// Waits until the ring has something to read. Cancellation loses nothing.
    /// The kernel programs' own diagnostics are passed on to the log meanwhile.
    pub(crate) async fn readable(&mut self) -> Result<()> {
        loop {
            tokio::select! {
                guard = self.events.readable_mut() => {
                    guard?.clear_ready();
                    return Ok(());
                }
                guard = async {
                    match &mut self.logger {
                        Some(logger) => logger.readable_mut().await,
                        None => std::future::pending().await,
                    }
                } => {
                    let mut guard = guard?;
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
            }
        }
    }

    /// Takes the next record out of the ring. After `None` it is time to wait for
    /// [`readable`](Self::readable), and not before.
    pub(crate) fn next<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.events.get_mut().next().map(|record| read(&record))
    }

    /// Records that found the ring full, since loading.
    pub(crate) fn lost(&self) -> Result<u64> {
        let counters = self
            .lost
            .get(&0, 0)
            .context("cannot read the kernel's loss counter")?;
        Ok(counters.iter().sum())
    }

    /// Figures of the exit program; zero unless the kernel's BPF statistics are on.
    pub(crate) fn statistics(&self) -> Result<HookStatistics> {
        let program = self
            .object
            .program(self.program)
            .context("the exit program is gone")?;
        let info = program.info()?;
        let run_time_ns = u64::try_from(info.run_time().as_nanos())?;
        Ok(HookStatistics {
            runs: info.run_count(),
            run_time_ns,
        })
    }
}

/// Switches the kernel's BPF statistics on, for as long as the descriptor is open.
pub(crate) fn enable_statistics() -> Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .context("cannot switch the kernel's BPF statistics on (needs CAP_SYS_ADMIN)")
}

fn attach(object: &mut Ebpf, name: &str, btf: &Btf) -> Result<()> {
    let program: &mut BtfTracePoint = object
        .program_mut(name)
        .with_context(|| format!("the kernel object has no program {name}"))?
        .try_into()?;
    program
        .load("sched_process_exit", btf)
        .map_err(|error| match error {
            // The verifier's log is long; its last lines say what is wrong.
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => {
                let log = verifier_log.to_string();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                anyhow!("the kernel refused the exit program {name}: {io_error}\n{tail}")
            }
            other => anyhow!(other).context(format!("cannot load the exit program {name}")),
        })?;
    program
        .attach()
        .with_context(|| format!("cannot attach the exit program {name}"))?;
    Ok(())
}

fn take_map(object: &mut Ebpf, name: &str) -> Result<Map> {
    object
        .take_map(name)
        .with_context(|| format!("the kernel object has no map {name}"))
}

/// The programs' own diagnostics. Without them the programs work all the same.
fn kernel_log(object: &mut Ebpf) -> Option<AsyncFd<EbpfLogger<&'static dyn Log>>> {
    let logger = EbpfLogger::init(object).map_err(anyhow::Error::from);
    match logger.and_then(|logger| Ok(os::async_fd(logger, Interest::READABLE)?)) {
        Ok(logger) => Some(logger),
        Err(error) => {
            tracing::warn!("the kernel programs' diagnostics cannot be read: {error:#}");
            None
        }
    }
}

//! `respawn watch`: exits of the host's processes, live. Needs no agent and no config.

mod output;
pub(super) mod source;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use self::output::View;
use self::source::Source;
use super::Global;
use super::output::{Flushed, Interrupts, LAST_WORDS, eprint_line};
use crate::os::page_size;
use crate::os::process::{OpenError, Process};
use crate::probe;

/// Stream the exits of processes as they happen
///
/// Shows each process once, when its last thread goes: when, who, how long it lived, and why it
/// ended. Needs no agent and no config. Ctrl-C ends it with a summary of exits shown and lost.
///
/// `--all` and `--name` need the kernel program, and so root; `--pid` works without.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["pid", "name", "all"]))]
pub(crate) struct Arguments {
    /// Watch this process, and end when nothing else is watched and all are gone; can be repeated
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pid: Vec<u32>,
    /// Watch the processes whose name (comm) matches, such as "nginx*"; can be repeated
    #[arg(long, value_name = "GLOB", value_parser = name_pattern)]
    name: Vec<String>,
    /// Watch every process
    #[arg(long)]
    all: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Size of the ring between kernel and respawn, in bytes: a power of two, at least a page
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 22, value_parser = ring_bytes)]
    ring_bytes: u32,
    /// Switch the kernel's BPF statistics on, and tell in the summary what the hooks cost
    #[arg(long)]
    stats: bool,
    /// Use the kernel program for kernels before 6.16, to test it
    #[arg(long, hide = true)]
    live_zero: bool,
}

fn name_pattern(text: &str) -> Result<String> {
    let pattern = text.to_owned();
    probe::compile_names(std::slice::from_ref(&pattern)).map(|_| pattern)
}

pub(super) fn ring_bytes(text: &str) -> Result<u32, String> {
    let expected = "expected a power of two from 4096 to 1073741824";
    let bytes: u32 = text.parse().map_err(|_| expected.to_owned())?;
    // The kernel wants whole pages, which may be larger than 4 KiB.
    let smallest = u32::try_from(page_size()).unwrap_or(4096);
    if bytes.is_power_of_two() && (smallest..=1 << 30).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(expected.to_owned())
    }
}

/// Runs until a signal, a closed standard output, or the last watched process's end.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(watch(global, arguments));
    // A write to a reader that does not read may still hang in its thread.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn watch(global: &Global, arguments: &Arguments) -> Result<()> {
    let mut interrupts = Interrupts::listen()?;
    let options = probe::Options {
        all: arguments.all,
        names: match &arguments.name[..] {
            [] => None,
            names => Some(Box::new(probe::compile_names(names)?)),
        },
        ring_bytes: Some(arguments.ring_bytes),
        btf: global.btf.clone(),
        object: global.bpf_object.clone(),
        live_zero: arguments.live_zero,
    };
    let only_pids = !arguments.all && arguments.name.is_empty();
    let statistics = arguments.stats.then(probe::enable_statistics).transpose()?;
    let mut source = Source::open(&options, only_pids).context(
        "--all and --name need eBPF: run as root (or with CAP_BPF and CAP_PERFMON) on a kernel \
         with BTF; `respawn doctor` tells what is missing",
    )?;
    let mut view = View::new(arguments.json);
    for &pid in &arguments.pid {
        match Process::open(pid) {
            Ok(process) => source.add(process)?,
            Err(OpenError::Gone) => {
                eprint_line(&format!(
                    "process {pid} is gone: there is no such process any more"
                ));
                view.gone(pid)?;
            }
            Err(OpenError::NotAProcess) => {
                bail!("--pid {pid}: that is a thread, not a process; give its process's pid")
            }
            Err(OpenError::Other(error)) => bail!("--pid {pid}: {error}"),
        }
    }
    if !(only_pids && source.is_empty()) {
        eprint_line(&source.describe(arguments));
    }
    let followed = follow(&mut source, &mut view, &mut interrupts, only_pids).await;
    let summary = Summary {
        shown: view.shown(),
        lost: source.lost(),
        wakeups: source.wakeups(),
        hooks: statistics.as_ref().and_then(|_| source.statistics()),
    };
    view.finish(&summary).await;
    eprint_line(&summary.to_string());
    followed
}

/// Shows exits as they come. With `only_pids`, ends when all of those have been shown.
async fn follow(
    source: &mut Source,
    view: &mut View,
    interrupts: &mut Interrupts,
    only_pids: bool,
) -> Result<()> {
    loop {
        match show(source, view, interrupts).await? {
            Flushed::Done => {}
            Flushed::Interrupted => break,
            Flushed::Closed => return Ok(()),
        }
        if only_pids && source.is_empty() {
            return Ok(());
        }
        tokio::select! {
            () = interrupts.next() => break,
            () = view.output.closed() => return Ok(()),
            ready = source.ready() => ready?,
        }
    }
    // What is in the ring by now is shown as well, as long as somebody reads it.
    let rest = async {
        while show(source, view, interrupts).await? == Flushed::Interrupted {}
        Ok(())
    };
    tokio::time::timeout(LAST_WORDS, rest)
        .await
        .unwrap_or(Ok(()))
}

/// Shows all that has come.
async fn show(
    source: &mut Source,
    view: &mut View,
    interrupts: &mut Interrupts,
) -> Result<Flushed> {
    loop {
        let more = source.take(view)?;
        match view.flush(interrupts).await? {
            Flushed::Done if more => {}
            flushed => return Ok(flushed),
        }
    }
}

/// What the watch has come to.
struct Summary {
    shown: u64,
    lost: u64,
    wakeups: u64,
    /// Of exit and signal hook.
    hooks: Option<(probe::HookStatistics, probe::HookStatistics)>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.shown == 1 { "exit" } else { "exits" };
        write!(f, "{} {plural} shown, {} lost", self.shown, self.lost)?;
        if let Some((exit, signal)) = self.hooks {
            let mean = |of: probe::HookStatistics| of.run_time_ns.checked_div(of.runs).unwrap_or(0);
            write!(
                f,
                "; the exit hook ran {} times, {} ns each on average, the signal hook {} times, {} \
                 ns; woken {} times",
                exit.runs,
                mean(exit),
                signal.runs,
                mean(signal),
                self.wakeups
            )?;
        }
        Ok(())
    }
}

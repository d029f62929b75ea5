//! `respawn watch`: exits of the host's processes, live. Needs no agent and no config.

mod output;
pub(super) mod wanted;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use self::output::View;
use super::Global;
use super::filters::Filters;
use super::output::{Flushed, Interrupts, LAST_WORDS, eprint_line};
use crate::clock;
use crate::deaths::Filter;
use crate::host_exits::HostExits;
use crate::os::page_size;
use crate::os::process::{OpenError, Process};
use crate::os::spawn::raise_fd_limit;
use crate::probe;

/// Stream the exits of processes as they happen
///
/// Shows each process once, when its last thread ends: when, which process, how long it lived, why
/// it ended, and who had asked it to end. Needs no agent and no config. Ctrl-C ends it with a
/// summary of exits shown and lost. A time has date and zone unless it goes to a terminal.
///
/// Exits with 1 if a process given by `--pid` does not exist.
///
/// `--all` and `--name` need the kernel program, and so root; `--pid` works without.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["pid", "name", "all"]))]
pub(crate) struct Arguments {
    /// Watch this process, and end when nothing else is watched and all are gone; can be repeated
    ///
    /// At most 1,048,576 processes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pid: Vec<u32>,
    /// Watch the processes whose name (comm) matches, such as "nginx*"; can be repeated
    #[arg(long, value_name = "GLOB", value_parser = name_pattern)]
    name: Vec<String>,
    /// Watch every process
    #[arg(long)]
    all: bool,
    /// Show the unit or container of each process too, and in JSON its program, arguments, cgroup and
    /// ancestors, and those of the sender of a signal
    ///
    /// A filter has the same effect. Values of arguments that look like secrets are hidden.
    #[arg(long)]
    details: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Size of the ring between kernel and respawn, in bytes: a power of two, at least a page [default:
    /// 16 MiB with --all, else 4 MiB]
    #[arg(long, value_name = "BYTES", value_parser = ring_bytes)]
    ring_bytes: Option<u32>,
    /// Enable the kernel's BPF statistics, and show the cost of the hooks in the summary
    #[arg(long)]
    stats: bool,
    /// Use the kernel program for kernels before 6.16, to test it
    #[arg(long, hide = true)]
    live_zero: bool,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    filters: Filters,
}

/// Where many exits come one after the other, they are shown together so often: what it takes to be woken, and to
/// write, is shared among them.
const WINDOW: Duration = Duration::from_millis(10);

/// How often in that time exits are shown at once.
const AT_ONCE: u32 = 2;

/// Sizes of the ring: the larger one has room for what 20,000 processes leave that end as fast as two
/// processors let them, while `watch` reads.
const RING: u32 = 4 << 20;
pub(super) const RING_OF_ALL: u32 = 16 << 20;

/// How many processes are watched at most.
#[derive(Debug, clap::Args)]
pub(super) struct Limit {
    /// How many processes the kernel may watch at once, to test it
    #[arg(
        long,
        value_name = "N",
        env = "RESPAWN_MOST_WATCHED",
        hide = true,
        hide_env_values = true,
        default_value_t = probe::MOST_WATCHED,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(probe::MOST_WATCHED))
    )]
    pub(super) most_watched: u32,
}

fn name_pattern(text: &str) -> Result<String> {
    let pattern = text.to_owned();
    match probe::compile_names(std::slice::from_ref(&pattern)) {
        Ok(_) => Ok(pattern),
        Err(error) => match surprise(text) {
            Some(hint) => Err(anyhow::anyhow!("{error:#}; {hint}")),
            None => Err(error),
        },
    }
}

/// What a pattern matches, if that may be something else than was meant.
fn surprise(pattern: &str) -> Option<String> {
    if let Some((_, name)) = pattern.rsplit_once('/')
        && pattern.starts_with('/')
    {
        return Some(format!(
            "a pattern is matched with the process's name (comm), which is no path: for the \
             program of that path, give --name {name:?}"
        ));
    }
    let literal: String = pattern.chars().filter(|c| "{}|()$+".contains(*c)).collect();
    (!literal.is_empty()).then(|| {
        format!(
            "a pattern knows * ? [] and \\ alone, so that each of {literal:?} matches itself; for \
             several names, give --name several times"
        )
    })
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
    result
}

/// The processes to watch by pid. What is told of one that is gone could be of any process that
/// ever had its pid, so nothing is: `false`, and said on standard error.
fn open_all(pids: &[u32]) -> Result<(Vec<Process>, bool)> {
    let mut processes = Vec::new();
    let mut are_all_there = true;
    // Each takes a descriptor. Where there are too few of them, the one that has none is named.
    let _ = raise_fd_limit();
    for &pid in pids {
        match Process::open(pid) {
            Ok(process) => processes.push(process),
            Err(OpenError::Gone) => {
                are_all_there = false;
                eprint_line(&format!("--pid {pid}: there is no such process"));
            }
            Err(OpenError::NotAProcess) => {
                bail!("--pid {pid}: that is a thread, not a process; give its process's pid")
            }
            Err(OpenError::Other(error)) => bail!("--pid {pid}: {error}"),
        }
    }
    Ok((processes, are_all_there))
}

async fn watch(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    // First of all, as one of them may be about to end.
    let (processes, are_all_there) = open_all(&arguments.pid)?;
    let exit_code = match are_all_there {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    let most = arguments.limit.most_watched;
    if u32::try_from(processes.len()).map_or(true, |count| count > most) {
        bail!(
            "--pid: {} processes are given, and at most {most} can be watched at once; give fewer, or \
             --all or --name",
            processes.len()
        );
    }
    let filter = arguments.filters.filter()?;
    let filter = (arguments.details || !filter.wants_all()).then_some(filter);
    let options = probe::Options {
        all: arguments.all,
        wanted: filter.as_ref().map(|filter| Box::new(wanted::of(filter))),
        names: match &arguments.name[..] {
            [] => None,
            names => Some(Box::new(probe::compile_names(names)?)),
        },
        ring_bytes: Some(arguments.ring_bytes.unwrap_or(match arguments.all {
            true => RING_OF_ALL,
            false => RING,
        })),
        watched: Some(probe::room_for(processes.len(), most)),
        btf: global.btf.clone(),
        object: global.bpf_object.clone(),
        known: probe::KnownIn::At(global.runtime_dir.clone()),
        live_zero: arguments.live_zero,
        ..probe::Options::default()
    };
    let only_pids = !arguments.all && arguments.name.is_empty();
    if only_pids && processes.is_empty() {
        return Ok(exit_code);
    }
    let statistics = arguments.stats.then(probe::enable_statistics).transpose()?;
    let has_details = filter.is_some();
    let mut exits = open(&options, only_pids, filter)?;
    let mut view = View::new(arguments.json, has_details);
    let count = processes.len();
    for process in processes {
        exits.add(process)?;
    }
    for pattern in &arguments.name {
        if let Some(hint) = surprise(pattern) {
            eprint_line(&format!("--name {pattern:?}: {hint}"));
        }
    }
    eprint_line(&describe(arguments, count));
    let followed = follow(&mut exits, &mut view, &mut interrupts, only_pids).await;
    let (lost, skipped) = exits.lost();
    let summary = Summary {
        shown: view.shown(),
        lost,
        skipped,
        records: exits.records(),
        wakeups: exits.wakeups(),
        hooks: statistics.as_ref().and_then(|_| exits.statistics()),
    };
    view.finish(&summary).await;
    eprint_line(&summary.to_string());
    followed.map(|()| exit_code)
}

/// Where the kernel programs cannot be loaded and `only_pids` are wanted, says what is missing and goes on
/// without.
fn open(options: &probe::Options, only_pids: bool, filter: Option<Filter>) -> Result<HostExits> {
    match HostExits::open(options, only_pids, filter.clone()) {
        Err(error) if only_pids => {
            eprint_line(&format!(
                "without eBPF: {error:#}\nrespawn: watching pidfds instead: exits come later, \
                 and what the kernel does not tell is unknown; `respawn doctor` tells more"
            ));
            Ok(HostExits::by_pidfds(filter))
        }
        opened => opened.map_err(needs_ebpf),
    }
}

/// What is being watched, in one line.
fn describe(arguments: &Arguments, processes: usize) -> String {
    let mut what = Vec::new();
    if arguments.all {
        what.push("every process".to_owned());
    }
    if !arguments.name.is_empty() {
        what.push(format!("processes named {}", arguments.name.join(", ")));
    }
    match processes {
        0 => {}
        1 => what.push("1 process".to_owned()),
        count => what.push(format!("{count} processes")),
    }
    format!("watching {}; Ctrl-C ends it", what.join(" and "))
}

/// Says what to do about what keeps the kernel programs from being loaded.
fn needs_ebpf(error: anyhow::Error) -> anyhow::Error {
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    let is_denied = error.chain().any(denied);
    error.context(if is_denied {
        "--all and --name need eBPF: run as root (or with CAP_BPF and CAP_PERFMON); `respawn \
         doctor` shows what is missing"
    } else {
        "--all and --name need eBPF (`respawn doctor` shows what this host lacks)"
    })
}

/// Shows exits as they come. With `only_pids`, ends when all of those have been shown.
async fn follow(
    exits: &mut HostExits,
    view: &mut View,
    interrupts: &mut Interrupts,
    only_pids: bool,
) -> Result<()> {
    let (mut window_began, mut shows) = (Duration::ZERO, 0);
    loop {
        match show(exits, view, interrupts).await? {
            Flushed::Done => {}
            Flushed::Interrupted => break,
            Flushed::Closed => return Ok(()),
        }
        if only_pids && exits.is_empty() {
            return Ok(());
        }
        tokio::select! {
            () = interrupts.next() => break,
            () = view.output.closed() => return Ok(()),
            ready = exits.ready() => ready?,
        }
        let passed = clock::since_boot().saturating_sub(window_began);
        shows += 1;
        if passed < WINDOW && shows > AT_ONCE {
            tokio::select! {
                () = interrupts.next() => break,
                () = view.output.closed() => return Ok(()),
                () = tokio::time::sleep(WINDOW - passed) => (),
            }
        }
        if passed >= WINDOW || shows > AT_ONCE {
            (window_began, shows) = (clock::since_boot(), 1);
        }
    }
    // What is in the ring by now is shown as well, as long as somebody reads it.
    let rest = async {
        while show(exits, view, interrupts).await? == Flushed::Interrupted {}
        Ok(())
    };
    tokio::time::timeout(LAST_WORDS, rest)
        .await
        .unwrap_or(Ok(()))
}

/// Shows all that has come.
async fn show(
    exits: &mut HostExits,
    view: &mut View,
    interrupts: &mut Interrupts,
) -> Result<Flushed> {
    loop {
        let more = exits.take(view)?;
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
    /// So many more may be lost.
    skipped: u64,
    /// What the kernel handed over: more than what is shown where the filters of this side left some out.
    records: u64,
    wakeups: u64,
    /// Of exit and signal hook.
    hooks: Option<(probe::HookStatistics, probe::HookStatistics)>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.shown == 1 { "exit" } else { "exits" };
        write!(f, "{} {plural} shown, ", self.shown)?;
        match (self.lost, self.skipped) {
            (lost, 0) => write!(f, "{lost} lost")?,
            (0, skipped) => write!(f, "at most {skipped} lost")?,
            (lost, skipped) => write!(f, "{lost} to {} lost", lost + skipped)?,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_how_many_are_lost_as_exactly_as_it_is_known() {
        for (lost, skipped, expected) in [
            (0, 0, "2 exits shown, 0 lost"),
            (3, 0, "2 exits shown, 3 lost"),
            (0, 4, "2 exits shown, at most 4 lost"),
            (3, 4, "2 exits shown, 3 to 7 lost"),
        ] {
            let summary = Summary {
                shown: 2,
                lost,
                skipped,
                records: 2,
                wakeups: 1,
                hooks: None,
            };
            assert_eq!(summary.to_string(), expected);
        }
    }

    #[test]
    fn a_pattern_that_means_something_else_says_what_it_matches() {
        for (pattern, hint) in [
            ("/usr/sbin/nginx", "--name \"nginx\""),
            ("/opt/a*", "--name \"a*\""),
            ("{nginx,php}*", "each of \"{}\" matches itself"),
            ("nginx|php", "each of \"|\""),
        ] {
            let said = surprise(pattern).unwrap_or_default();
            assert!(said.contains(hint), "{pattern}: {said}");
        }
        for pattern in ["nginx*", "kworker/*", "[!a-z]?", "php-fpm8.2", "a b"] {
            assert_eq!(surprise(pattern), None, "{pattern}");
        }
        let too_long = name_pattern("/usr/libexec/long-path")
            .unwrap_err()
            .to_string();
        assert!(too_long.contains("--name \"long-path\""), "{too_long}");
    }
}

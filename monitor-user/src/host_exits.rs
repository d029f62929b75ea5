//! The host's exits as they happen, for `watch` and `top`: from the kernel program's ring, or only from
//! pidfds. Shows nothing: that is for whoever takes them.

use std::collections::HashMap;

use anyhow::Result;
use tokio::io::Interest;
use tokio::task::JoinSet;

use crate::clock::{self, WallClock};
use crate::deaths::{self, Filter, Kept};
use crate::decode::{self, Birth, Death};
use crate::model::{Cause, Exit, Exited, Profile};
use crate::os;
use crate::os::process::Process;
use crate::probe::{HookStatistics, KernelProbe, Options};

/// Exits that the kernel could not report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// So many: the ring was full.
    NoRoom(u64),
    /// So many at most: it has skipped the exit programs.
    Skipped(u64),
}

/// Where exits go to.
pub(crate) trait Sink {
    /// Takes an exit, with more that is known of it if that was asked for.
    fn exited(&mut self, exited: Exited, profile: Option<Profile>) -> Result<()>;

    /// Takes that exits were lost.
    fn lost(&mut self, loss: Loss);

    /// Whether it is time to show what was taken.
    fn is_full(&self) -> bool;

    /// Takes more before it is full again.
    fn make_room(&mut self);
}

/// See the module's text.
pub(crate) struct HostExits {
    from: From,
    wakeups: u64,
}

enum From {
    Kernel(Box<Kernel>),
    Pidfds {
        waiting: JoinSet<Result<Process>>,
        ended: Vec<Process>,
        filter: Option<Box<Filter>>,
    },
}

struct Kernel {
    probe: KernelProbe,
    /// Watched by pid, and not shown yet.
    processes: HashMap<u32, Process>,
    /// Lost records that have been told of.
    lost: u64,
    /// The same of exits that may have been skipped.
    skipped: u64,
    /// Others than those that were added are not reported.
    only_pids: bool,
    /// With details: what is wanted of the deaths that the kernel reports.
    filter: Option<Filter>,
    /// One of `processes` may have ended without a record.
    unsure: bool,
    /// Taken out of the ring.
    records: u64,
}

impl HostExits {
    /// Loads the kernel programs.
    ///
    /// # Errors
    /// What keeps them from being loaded.
    pub(crate) fn open(options: &Options, only_pids: bool, filter: Option<Filter>) -> Result<Self> {
        let from = From::Kernel(Box::new(Kernel {
            probe: KernelProbe::load(options)?,
            processes: HashMap::new(),
            lost: 0,
            skipped: 0,
            only_pids,
            filter,
            unsure: false,
            records: 0,
        }));
        Ok(Self { from, wakeups: 0 })
    }

    /// Without the kernel's side: has the exits of the processes that are added, later and with less known
    /// of them.
    pub(crate) fn by_pidfds(filter: Option<Filter>) -> Self {
        let from = From::Pidfds {
            waiting: JoinSet::new(),
            ended: Vec::new(),
            filter: filter.map(Box::new),
        };
        Self { from, wakeups: 0 }
    }

    /// Watches one more process.
    pub(crate) fn add(&mut self, process: Process) -> Result<()> {
        match &mut self.from {
            From::Kernel(kernel) => kernel.add(process),
            From::Pidfds { waiting, .. } => {
                let process = os::async_fd(process, Interest::READABLE)?;
                waiting.spawn(async move {
                    process.readable().await?.retain_ready();
                    Ok(process.into_inner())
                });
                Ok(())
            }
        }
    }

    /// Whether every process that was added has been shown.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.from {
            From::Kernel(kernel) => kernel.processes.is_empty(),
            From::Pidfds { waiting, ended, .. } => waiting.is_empty() && ended.is_empty(),
        }
    }

    /// Waits for something to take.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        match &mut self.from {
            From::Kernel(kernel) => kernel.probe.readable().await?,
            From::Pidfds { waiting, ended, .. } => match waiting.join_next().await {
                Some(process) => ended.push(process??),
                None => std::future::pending().await,
            },
        }
        self.wakeups += 1;
        Ok(())
    }

    /// Shows what has come. `true`: there is more, as soon as that is written.
    pub(crate) fn take(&mut self, view: &mut impl Sink) -> Result<bool> {
        match &mut self.from {
            From::Kernel(kernel) => kernel.take(view),
            From::Pidfds { ended, filter, .. } => {
                for process in ended.drain(..) {
                    show_without_record(&process, filter.as_deref(), view)?;
                }
                Ok(false)
            }
        }
    }

    /// Times it was woken.
    pub(crate) fn wakeups(&self) -> u64 {
        self.wakeups
    }

    /// Records that the kernel has handed over.
    pub(crate) fn records(&self) -> u64 {
        match &self.from {
            From::Kernel(kernel) => kernel.records,
            From::Pidfds { .. } => 0,
        }
    }

    /// Exits that could not be reported: so many, and so many more at most.
    pub(crate) fn lost(&self) -> (u64, u64) {
        match &self.from {
            From::Kernel(kernel) => {
                let lost = kernel.probe.lost();
                let skipped = kernel.probe.skipped().unwrap_or(kernel.skipped);
                (lost, if kernel.only_pids { 0 } else { skipped })
            }
            From::Pidfds { .. } => (0, 0),
        }
    }

    /// Figures of the exit hook and of the signal hook.
    pub(crate) fn statistics(&self) -> Option<(HookStatistics, HookStatistics)> {
        match &self.from {
            From::Kernel(kernel) => kernel.probe.statistics().ok(),
            From::Pidfds { .. } => None,
        }
    }
}

impl Kernel {
    fn add(&mut self, process: Process) -> Result<()> {
        let instance = process.instance;
        self.probe.watch(instance, Birth::NONE)?;
        self.processes.insert(instance.pid, process);
        self.unsure = true;
        Ok(())
    }

    fn take(&mut self, view: &mut impl Sink) -> Result<bool> {
        if self.drain(view)? {
            return Ok(true);
        }
        let lost = self.probe.lost();
        if lost > self.lost {
            view.lost(Loss::NoRoom(lost - self.lost));
            self.lost = lost;
            self.unsure = true;
        }
        let skipped = self.probe.skipped()?;
        if skipped > self.skipped {
            // A watched process that was skipped is found by its pidfd.
            if !self.only_pids {
                view.lost(Loss::Skipped(skipped - self.skipped));
            }
            self.skipped = skipped;
            self.unsure = true;
        }
        if std::mem::take(&mut self.unsure) {
            self.resync(view)?;
        }
        Ok(false)
    }

    /// Shows what is in the ring. `true`: there is more, as soon as that is written.
    fn drain(&mut self, view: &mut impl Sink) -> Result<bool> {
        let wall = WallClock::read();
        while !view.is_full() {
            let death = match self.next() {
                None => return Ok(false),
                Some(None) => {
                    tracing::error!("the ring holds a record that is not of this build");
                    continue;
                }
                Some(Some(death)) => death,
            };
            self.records += 1;
            if death.exit.watched {
                self.processes.remove(&death.exit.instance.pid);
            }
            let (exited, profile) = deaths::told(death, true, &wall);
            show_if_wanted(exited, profile, self.filter.as_ref(), view)?;
        }
        Ok(true)
    }

    /// The next record, as [`KernelProbe::next`] has it.
    fn next(&mut self) -> Option<Option<Death>> {
        if self.filter.is_some() {
            return self.probe.next(decode::death);
        }
        let exit = self.probe.next(decode::exit)?;
        Some(exit.map(|exit| Death {
            exit,
            profile: Profile::default(),
        }))
    }

    /// Shows watched processes that ended unreported: between the look and the watch, or while the
    /// ring was full.
    fn resync(&mut self, view: &mut impl Sink) -> Result<()> {
        let ended = |process: &&Process| process.has_ended();
        let ended: Vec<u32> = self
            .processes
            .values()
            .filter(ended)
            .map(|process| process.instance.pid)
            .collect();
        // A record comes before the pidfd's end: whose record is not in the ring now has none.
        while self.drain(view)? {
            view.make_room();
        }
        for pid in ended {
            if let Some(process) = self.processes.remove(&pid) {
                show_without_record(&process, self.filter.as_ref(), view)?;
            }
        }
        Ok(())
    }
}

/// Shows a death if it is wanted.
fn show_if_wanted(
    exited: Exited,
    profile: Profile,
    filter: Option<&Filter>,
    view: &mut impl Sink,
) -> Result<()> {
    let Some(filter) = filter else {
        return view.exited(exited, None);
    };
    match filter.wants(&Kept::facts_of(&exited.exit, &profile)) {
        true => view.exited(exited, Some(profile)),
        false => Ok(()),
    }
}

fn show_without_record(
    process: &Process,
    filter: Option<&Filter>,
    view: &mut impl Sink,
) -> Result<()> {
    show_if_wanted(without_record(process), Profile::default(), filter, view)
}

/// What can be told of a process that ended without a record.
fn without_record(process: &Process) -> Exited {
    let start_time_ns = process.instance.start_time_ns;
    let now = u64::try_from(clock::since_boot().as_nanos()).unwrap_or(u64::MAX);
    Exited {
        time: clock::now(),
        service: None,
        exit: Exit {
            pid: process.instance.pid,
            start_time_ns: Some(start_time_ns),
            comm: process.comm.clone(),
            uptime_ns: Some(now.saturating_sub(start_time_ns)),
            cause: process
                .exit_status()
                .map_or(Cause::Unknown, Cause::from_wait_status),
            ..Exit::default()
        },
    }
}

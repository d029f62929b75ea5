//! Where the services of a benchmark tell that they have begun, and what they live on.
//!
//! Services write to one FIFO, in order of their starts. They end by themselves when the other
//! one, the lifeline, has no writer any more: whoever started them, and however the benchmark
//! ends, none stays. So nothing here is ever killed but a pid that its own process has just told.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use tempfile::TempDir;

use super::{
    Bench,
    wait::{Interrupt, Lines, monotonic_ns},
};

/// How many lines the FIFO has room for at least: more than services are killed at once.
const ROOM: i32 = 1 << 20;

/// With this many services missing, lines are read in gulps: each look would take a core from those who
/// start services.
const MANY: usize = 10;
const GULP: Duration = Duration::from_millis(1);

/// The services of some contestants, by their IDs.
pub(in crate::bench) struct Arena {
    directory: TempDir,
    told: Lines,
    services: HashMap<String, Service>,
    /// What the services live on, as long as it is open.
    _lifeline: File,
}

/// What a service has told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    pid: Pid,
    /// Of the instances before.
    earlier: Vec<Pid>,
    /// The first thing that `main` did, on `CLOCK_MONOTONIC`.
    started_ns: u64,
    /// Its memory is touched, if it has to do that.
    ready: bool,
    starts: usize,
    kills: usize,
}

/// One line of a service.
#[derive(Debug, PartialEq, Eq)]
struct ServiceLine<'a> {
    what: &'a str,
    id: &'a str,
    pid: Pid,
    time_ns: u64,
}

impl Arena {
    pub(in crate::bench) fn open(bench: &Bench) -> Result<Self> {
        let directory = TempDir::with_prefix_in("arena-", bench.scratch.path())
            .context("make a temporary directory")?;
        let fifo = |name: &str| {
            let path = directory.path().join(name);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).context("make a FIFO")?;
            // Both ends are held, so that neither side ever finds the other one missing.
            let both_ends = OpenOptions::new().read(true).write(true).open(&path);
            both_ends.context("open a FIFO")
        };
        let told = fifo("told")?;
        fcntl(&told, FcntlArg::F_SETPIPE_SZ(ROOM)).context("enlarge a FIFO")?;
        // A namespace has the host's /proc there.
        fs::create_dir(directory.path().join("told.proc"))?;
        // The same file for all, and where all can reach it.
        fs::copy(&bench.actor, directory.path().join("actor")).context("copy the actor")?;
        Ok(Self {
            told: Lines::of(told)?,
            _lifeline: fifo("lifeline")?,
            directory,
            services: HashMap::new(),
        })
    }

    pub(in crate::bench) fn told_path(&self) -> PathBuf {
        self.path().join("told")
    }

    pub(in crate::bench) fn lifeline_path(&self) -> PathBuf {
        self.path().join("lifeline")
    }

    /// A directory that goes with the arena.
    pub(in crate::bench) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until each of these services runs, with its memory touched.
    pub(in crate::bench) fn wait_until_ready(
        &mut self,
        ids: &[String],
        interrupt: &Interrupt,
    ) -> Result<()> {
        self.wait_for(interrupt, ids, |service| service.ready)
    }

    /// Waits until each of these services has started after that time, and returns how long after
    /// it the last one did.
    pub(in crate::bench) fn wait_until_back(
        &mut self,
        ids: &[String],
        killed_ns: u64,
        interrupt: &Interrupt,
    ) -> Result<u64> {
        self.wait_for(interrupt, ids, |service| service.started_ns > killed_ns)?;
        let starts = ids.iter().filter_map(|id| self.services.get(id));
        let last = starts.map(|service| service.started_ns).max();
        Ok(last.unwrap_or(killed_ns) - killed_ns)
    }

    /// Kills each of these services as fast as it can, and returns the time before the first.
    pub(in crate::bench) fn kill(&mut self, ids: &[String]) -> Result<u64> {
        let mut pids = Vec::new();
        for id in ids {
            let service = self.services.get_mut(id).context("an unknown service")?;
            service.kills += 1;
            service.ready = false;
            pids.push(service.pid);
        }
        let killed_ns = monotonic_ns()?;
        for pid in pids {
            // Nobody else kills it, so it is the process that told this pid.
            kill(pid, Signal::SIGKILL).with_context(|| format!("kill service {pid}"))?;
        }
        Ok(killed_ns)
    }

    /// How many starts of these services there were beyond one, and one for each kill.
    pub(in crate::bench) fn starts_too_many(&mut self, ids: &[String]) -> Result<usize> {
        self.hear()?;
        let services = ids.iter().filter_map(|id| self.services.get(id));
        let beyond = services.map(|service| service.starts.saturating_sub(service.kills + 1));
        Ok(beyond.sum())
    }

    /// How many of these services run more than once.
    pub(in crate::bench) fn doubled(&mut self, ids: &[String]) -> Result<usize> {
        self.hear()?;
        let lives = |pid: &&Pid| kill(**pid, None) != Err(Errno::ESRCH);
        let services = ids.iter().filter_map(|id| self.services.get(id));
        let doubled = services.filter(|service| {
            let earlier = service.earlier.iter().filter(lives).count();
            earlier + [service.pid].iter().filter(lives).count() > 1
        });
        Ok(doubled.count())
    }

    /// The pid that a service has told last, and when that instance began.
    pub(in crate::bench) fn instance(&mut self, id: &str) -> Result<Option<(Pid, u64)>> {
        self.hear()?;
        let service = self.services.get(id);
        Ok(service.map(|service| (service.pid, service.started_ns)))
    }

    /// When the first of these services began.
    pub(in crate::bench) fn first_start_ns(&self, ids: &[String]) -> Option<u64> {
        let services = ids.iter().filter_map(|id| self.services.get(id));
        services.map(|service| service.started_ns).min()
    }

    fn wait_for(
        &mut self,
        interrupt: &Interrupt,
        ids: &[String],
        is: impl Fn(&Service) -> bool,
    ) -> Result<()> {
        let mut missing: Vec<&String> = ids.iter().collect();
        loop {
            missing.retain(|id| !self.services.get(id.as_str()).is_some_and(&is));
            let Some(id) = missing.first() else {
                return Ok(());
            };
            interrupt
                .readable([self.told.as_fd()])
                .with_context(|| format!("wait for service {id}"))?;
            if missing.len() > MANY {
                interrupt.pause(GULP)?;
            }
            self.hear()?;
        }
    }

    /// Takes in what services have told by now.
    fn hear(&mut self) -> Result<()> {
        self.told.fill()?;
        while let Some(line) = self.told.take() {
            let told =
                ServiceLine::read(&line).with_context(|| format!("a service told {line:?}"))?;
            take_in(&mut self.services, &told);
        }
        Ok(())
    }
}

fn take_in(services: &mut HashMap<String, Service>, told: &ServiceLine<'_>) {
    let known = services.entry(told.id.to_string());
    let service = known.or_insert(Service {
        pid: told.pid,
        earlier: Vec::new(),
        started_ns: told.time_ns,
        ready: false,
        starts: 0,
        kills: 0,
    });
    if told.what == "touched" {
        service.ready |= service.pid == told.pid;
    } else {
        if service.pid != told.pid {
            service.earlier.push(service.pid);
        }
        service.pid = told.pid;
        service.started_ns = told.time_ns;
        service.ready = told.what == "running";
        service.starts += 1;
    }
}

impl<'a> ServiceLine<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let told = Self {
            what: words.next()?,
            id: words.next()?,
            pid: Pid::from_raw(words.next()?.parse().ok()?),
            time_ns: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hears_of_starts_in_order() {
        let mut services = HashMap::new();
        let mut hear = |line| {
            take_in(&mut services, &ServiceLine::read(line).unwrap());
            services["a"].clone()
        };
        assert!(hear("running a 7 100").ready);
        let service = hear("started a 8 200");
        assert_eq!((service.pid, service.starts), (Pid::from_raw(8), 2));
        assert_eq!(service.started_ns, 200);
        assert!(
            !hear("touched a 7 150").ready,
            "that was the instance before"
        );
        assert!(hear("touched a 8 250").ready);
        for wrong in ["", "started a 7", "started a x 1", "started a 7 1 2"] {
            assert_eq!(ServiceLine::read(wrong), None, "{wrong}");
        }
    }
}

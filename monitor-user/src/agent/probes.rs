//! Runs the processes that look at services from outside (`prober`): one for each instance that is not
//! ready yet and is looked at for that, or that has a `check`. Decides nothing else.
//!
//! They are the agent's children, and no services. They end with it; the next agent starts its own.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::children::{Child, ChildEnd};
use super::hooks::readable;
use crate::model::{Exec, Instance, Output, ServiceName};
use crate::os::cgroup::Slot;
use crate::os::progress;
use crate::os::spawn::{FdLimit, Spawner};
use crate::prober::{Letter, Order};
use crate::supervisor::Fact;
use crate::text::printable;

/// Until one is started again that ended for another reason than its order.
const PAUSE: Duration = Duration::from_secs(1);

/// How long one may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// So many are started at a time.
const AT_ONCE: usize = 4;

/// A longer reason is cut.
const LONGEST_REASON: usize = 1024;

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) instance: Instance,
    pub(super) order: Order,
}

/// The processes that look.
pub(super) struct Probes {
    spawner: Spawner,
    /// By service.
    jobs: HashMap<ServiceName, Tended>,
    /// By pid; those too that have been killed.
    running: HashMap<u32, Running>,
}

struct Tended {
    job: Job,
    /// Of the service, for the process that looks.
    exec: Exec,
    /// The process that does it; `None`: when to start one.
    pid: Result<u32, Instant>,
}

struct Running {
    service: ServiceName,
    child: Child,
    sheet: File,
}

impl Probes {
    pub(super) fn new(fd_limit: Option<FdLimit>) -> io::Result<Self> {
        Ok(Self {
            spawner: Spawner::new(fd_limit)?.impatient(),
            jobs: HashMap::new(),
            running: HashMap::new(),
        })
    }

    /// Whether anything of that service is looked at.
    pub(super) fn has(&self, service: &ServiceName) -> bool {
        self.jobs.contains_key(service)
    }

    /// From now on that is looked at, and nothing else of that service. `exec`: the service's, with all its
    /// variables.
    pub(super) fn set(
        &mut self,
        service: &ServiceName,
        job: Option<Job>,
        exec: impl FnOnce() -> Exec,
        now: Instant,
    ) {
        if self.jobs.get(service).map(|tended| &tended.job) == job.as_ref() {
            return;
        }
        if let Some(Tended { pid: Ok(pid), .. }) = self.jobs.remove(service)
            && let Some(running) = self.running.get_mut(&pid)
        {
            // With it all that its command has started goes, whatever group that is in.
            running.child.end(PATIENCE, now);
        }
        let Some(job) = job else {
            return;
        };
        let tended = Tended {
            job,
            exec: exec(),
            pid: Err(now),
        };
        self.jobs.insert(service.clone(), tended);
    }

    /// What was met last of services that are not ready yet.
    pub(super) fn not_ready(&self) -> Vec<Fact> {
        let jobs = &self.jobs;
        let running = self.running.iter().filter_map(|(pid, running)| {
            let tended = jobs.get(&running.service)?;
            let is_it = tended.pid == Ok(*pid) && matches!(tended.job.order, Order::Ready(_));
            let reason = read_sheet(&running.sheet).ok().filter(|_| is_it)?;
            // Before the first look it has its order there.
            (!reason.is_empty() && !reason.starts_with('{')).then(|| Fact::NotReadyYet {
                service: running.service.clone(),
                instance: tended.job.instance,
                reason,
            })
        });
        running.collect()
    }

    /// When `handle_timeout` is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let starts = self.jobs.values().filter_map(|it| it.pid.err());
        let kills = self
            .running
            .values()
            .filter_map(|it| it.child.poll_timeout());
        starts.chain(kills).min()
    }

    /// Starts those that are due, a few at a time: services come first.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for running in self.running.values_mut() {
            running.child.handle_timeout(&mut self.spawner, now);
        }
        let is_due = |it: &Tended| it.pid.is_err_and(|at| at <= now);
        let due = self.jobs.iter_mut().filter(|(_, it)| is_due(it));
        for (service, tended) in due.take(AT_ONCE) {
            progress::count();
            match start(&mut self.spawner, tended, now) {
                Ok((child, sheet)) => {
                    let pid = child.pid();
                    tended.pid = Ok(pid);
                    let running = Running {
                        service: service.clone(),
                        child,
                        sheet,
                    };
                    self.running.insert(pid, running);
                }
                Err(error) => {
                    tracing::warn!(%service, "cannot look at it: {error:#}");
                    tended.pid = Err(now + PAUSE);
                }
            }
        }
    }

    /// Whether this process is one of them, and has not been reaped.
    pub(super) fn is_probe(&self, pid: u32) -> bool {
        self.running.contains_key(&pid)
    }

    /// Reaps one that has ended, and says what it has found.
    pub(super) fn reap(&mut self, pid: u32, now: Instant) -> Option<Fact> {
        let Running {
            service,
            child,
            sheet,
        } = self.running.remove(&pid)?;
        let end = child.reap(&mut self.spawner);
        let code = end.exit_code();
        let tended = self.jobs.get_mut(&service)?;
        if tended.pid != Ok(pid) {
            // It was not needed any more.
            return None;
        }
        let instance = tended.job.instance;
        if let ChildEnd::NotStarted(error) = end {
            tracing::warn!(%service, "cannot look at it: {error}");
            tended.pid = Err(now + PAUSE);
            return None;
        }
        match (&tended.job.order, code) {
            (Order::Ready(_), Some(0)) => {
                self.jobs.remove(&service);
                Some(Fact::BecameReady { service, instance })
            }
            (Order::Check(_), Some(1)) => match read_sheet(&sheet) {
                Ok(reason) if reason.starts_with("check: ") => {
                    self.jobs.remove(&service);
                    Some(Fact::DoesNotWork {
                        service,
                        instance,
                        reason,
                    })
                }
                _ => tended.again(&service, code, now),
            },
            _ => tended.again(&service, code, now),
        }
    }
}

impl Tended {
    /// Somebody else has ended it, or it could not do what it was to.
    fn again(&mut self, service: &ServiceName, code: Option<u8>, now: Instant) -> Option<Fact> {
        tracing::warn!(%service, ?code, "the process that runs its probe ended too early; it is started again");
        self.pid = Err(now + PAUSE);
        None
    }
}

/// Starts a process that does what the order says, with what `exec` has beside its program. `fifo`: where
/// the service's log is read, if its output is to go there. `slot`: a cgroup other than the agent's. It is killed
/// after `timeout`. With it, where it leaves what it finds.
pub(super) fn start_prober(
    spawner: &mut Spawner,
    order: Order,
    exec: Exec,
    fifo: Option<&Path>,
    slot: Option<Slot>,
    (timeout, now): (Option<Duration>, Instant),
) -> anyhow::Result<(Child, File)> {
    let letter = Letter {
        order,
        agent: std::process::id(),
    };
    let sheet = readable(&serde_json::to_string(&letter)?)?;
    let exec = Exec {
        // Also when its file has been replaced.
        program: "/proc/self/exe".into(),
        arguments: vec!["respawn".to_owned(), "probe".to_owned()],
        ..exec
    };
    let mut prepared = spawner.prepare(&exec)?;
    if let Some(fifo) = fifo {
        prepared = prepared.with_log(fifo)?;
    }
    let prepared = prepared.with_stdin(sheet.try_clone()?);
    let child = Child::start(spawner, Arc::new(prepared), slot, timeout, now)?;
    Ok((child, File::from(sheet)))
}

/// What such a process has met last.
pub(super) fn read_sheet(sheet: &File) -> io::Result<String> {
    let mut bytes = [0; LONGEST_REASON];
    // The process writes to the same open file.
    let length = sheet.read_at(&mut bytes, 0)?;
    let words = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default());
    Ok(printable(&words).to_string())
}

/// All that such a process has left, as it is.
pub(super) fn read_whole_sheet(sheet: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(sheet.metadata()?.len()).unwrap_or(0);
    let mut bytes = vec![0; length];
    sheet.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn start(spawner: &mut Spawner, tended: &Tended, now: Instant) -> anyhow::Result<(Child, File)> {
    let exec = Exec {
        environment: tended.exec.environment.clone(),
        stderr: Output::Inherit,
        ..tended.exec.with_its_rights()
    };
    let order = tended.job.order.clone();
    start_prober(spawner, order, exec, None, None, (None, now))
}

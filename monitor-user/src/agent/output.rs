//! The agent's part in the output of services with `log`: it makes the FIFOs, holds them open too, so that
//! last words outlive service and logger together, and keeps the logger alive. It reads and writes no
//! output. A logger that an earlier agent has started goes on.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::future::pending;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::config::OF_THE_AGENT;
use crate::logger::{self, OutputDir, Progress, Settings};
use crate::model::{Exec, Instance, Output, ServiceName, Signal, Spec};
use crate::os::spawn::{self, FdLimit, Spawner};
use crate::os::{self, pidfd, pipe, signal};

/// A logger that has worked for less than that does not work here: the next one is not started at once.
const WORKS: Duration = Duration::from_millis(50);

/// When it is started then.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a logger may take to write the rest, when the agent is shut down.
const REST: Duration = Duration::from_secs(5);

/// FIFOs and the logger.
pub(super) struct Outputs {
    place: OutputDir,
    runtime_dir: PathBuf,
    spawner: Spawner,
    services: HashMap<ServiceName, HeldFifo>,
    logger: Option<Logger>,
    /// When the next logger is to be started.
    start_at: Option<Instant>,
}

/// One service's FIFO.
struct HeldFifo {
    settings: Settings,
    /// Which one it is.
    id: (u64, u64),
    /// `None`: no descriptor was to spare. Then service and logger hold it.
    fifo: Option<File>,
}

struct Logger {
    process: Instance,
    pidfd: AsyncFd<OwnedFd>,
    since: Instant,
}

impl Logger {
    /// Whether it does so in time.
    async fn ends(&self) -> bool {
        let ended = tokio::time::timeout(REST, self.pidfd.readable())
            .await
            .is_ok();
        if !ended {
            tracing::warn!("the logger takes long to write the rest: not waiting for it");
        }
        ended
    }
}

impl Outputs {
    /// Of the agent of a runtime directory.
    pub(super) fn of(runtime_dir: &Path, fd_limit: Option<FdLimit>) -> io::Result<Self> {
        Ok(Self {
            place: OutputDir::of(runtime_dir),
            runtime_dir: runtime_dir.to_owned(),
            spawner: Spawner::new(fd_limit)?.impatient(),
            services: HashMap::new(),
            logger: None,
            start_at: None,
        })
    }

    /// Where a service is to write.
    pub(super) fn fifo(&self, service: &str) -> PathBuf {
        self.place.fifo(service)
    }

    /// Has the logger do as the spec says, and the FIFO ready if it has a log. One that has none any
    /// more keeps its FIFO until [`Self::forget`].
    ///
    /// # Errors
    /// The FIFO can be neither made nor opened.
    pub(super) fn set(
        &mut self,
        service: &ServiceName,
        spec: &Spec,
        now: Instant,
    ) -> io::Result<()> {
        let Some(log) = &spec.log else {
            return Ok(());
        };
        let owner = spec.exec.identity.clone();
        let settings = Settings {
            log: log.clone(),
            owner: owner.filter(|owner| !spawn::is_own(owner)),
        };
        let id = fs::symlink_metadata(self.place.fifo(service)).map(|found| os::identity(&found));
        let held = self.services.get(service);
        let is_held = held.is_some_and(|held| {
            held.settings == settings && id.as_ref().is_ok_and(|id| *id == held.id)
        });
        if !is_held {
            self.place.make()?;
            let fifo = pipe::make(&self.place.fifo(service), settings.owner.as_ref())?;
            let id = os::identity(&fifo.metadata()?);
            self.place.write_settings(service, &settings)?;
            let fifo = OwnedFd::from(fifo);
            let fifo = spawn::leaves_reserve(&fifo).then(|| File::from(fifo));
            let held = HeldFifo { settings, id, fifo };
            self.services.insert(service.clone(), held);
        }
        if self.logger.is_none() && self.start_at.is_none() {
            self.find_or_start(now);
        }
        Ok(())
    }

    /// The service has no log any more. The logger reads the rest.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        if self.services.remove(service).is_some() {
            self.place.remove_settings(service);
        }
    }

    /// Has the logger forget services that it knows of from an earlier agent, and that are no more.
    pub(super) fn forget_others(&self, is_there: impl Fn(&str) -> bool) {
        for service in self.place.known() {
            if !is_there(&service) {
                self.place.remove_settings(&service);
            }
        }
    }

    /// An instance has ended: a line that it has begun is complete.
    pub(super) fn end_line(&self, service: &ServiceName) {
        if let Some(HeldFifo {
            fifo: Some(fifo), ..
        }) = self.services.get(service)
        {
            // In a full FIFO there is no room for it: then the next instance goes on with the line.
            let _ = (&mut &*fifo).write(logger::END);
        }
    }

    /// How far its output has come.
    pub(super) fn progress(&self, service: &ServiceName) -> Option<Progress> {
        let fifo = self.services.get(service)?.fifo.as_ref()?;
        let progress = self.place.progress(service, fifo);
        progress
            .map_err(|error| tracing::warn!(%service, "cannot look at its output: {error}"))
            .ok()
    }

    /// Waits for the logger's end.
    pub(super) async fn logger_ended(&self) {
        let Some(logger) = &self.logger else {
            return pending().await;
        };
        if let Err(error) = logger.pidfd.readable().await {
            tracing::error!("cannot wait for the logger: {error}");
            pending().await
        }
    }

    /// Has another logger take the place of the one that has ended.
    pub(super) fn replace_logger(&mut self, now: Instant) {
        let Some(logger) = self.logger.take() else {
            return;
        };
        let pid = logger.process.pid;
        if self.services.is_empty() {
            return;
        }
        let has_worked = self.place.logger() == Some(logger.process)
            && now.saturating_duration_since(logger.since) >= WORKS;
        if has_worked {
            tracing::warn!(pid, "the logger has ended, and is started again");
            self.find_or_start(now);
        } else {
            self.start_at = Some(now + PAUSE);
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.start_at
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            if self.logger.is_none() && !self.services.is_empty() {
                self.find_or_start(now);
            }
        }
    }

    fn find_or_start(&mut self, now: Instant) {
        let logger = match self.find(now) {
            Some(found) => Ok(found),
            None => self.start(&[], now),
        };
        match logger {
            Ok(logger) => self.logger = Some(logger),
            Err(error) => {
                tracing::error!("cannot start the logger: {error:#}; the output of services waits");
                self.start_at = Some(now + PAUSE);
            }
        }
    }

    /// One that an earlier agent has started. One of another build makes way for a new one.
    fn find(&self, now: Instant) -> Option<Logger> {
        let process = self.place.logger()?;
        let pidfd = pidfd::identify(process.pid, process.start_time_ns).ok()??;
        if pidfd::has_exited(pidfd.as_fd()).unwrap_or(true) {
            return None;
        }
        let build =
            |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).map(|it| os::identity(&it));
        if let (Ok(own), Ok(its)) = (build("self"), build(&process.pid.to_string()))
            && own != its
        {
            // It writes the rest first. Its end is waited for, as any other.
            let _ = signal::send(pidfd.as_fd(), Signal::TERM);
        }
        let pidfd = os::async_fd(pidfd, Interest::READABLE).ok()?;
        Some(Logger {
            process,
            pidfd,
            since: now,
        })
    }

    fn start(&mut self, options: &[&str], now: Instant) -> anyhow::Result<Logger> {
        let own = fs::read_link("/proc/self/exe")
            .ok()
            .filter(|path| path.is_file());
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(key, _)| !OF_THE_AGENT.contains(&key.as_str()))
            .collect();
        let dir = self.runtime_dir.to_string_lossy().into_owned();
        let words = ["respawn", "logger", "--runtime-dir", &dir];
        let exec = Exec {
            program: own.unwrap_or_else(|| "/proc/self/exe".into()),
            arguments: words
                .iter()
                .chain(options)
                .map(|word| (*word).to_owned())
                .collect(),
            environment,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            ..Exec::nothing()
        };
        let prepared = Arc::new(self.spawner.prepare(&exec)?);
        let child = self.spawner.spawn(prepared, None)?;
        Ok(Logger {
            process: Instance {
                pid: child.pid,
                start_time_ns: child.start_time_ns,
            },
            pidfd: os::async_fd(child.pidfd, Interest::READABLE)?,
            since: now,
        })
    }

    /// The services are no more: the logger writes the rest and ends.
    pub(super) async fn finish(mut self, now: Instant) {
        if let Some(logger) = self.logger.take() {
            if let Err(error) = signal::send(logger.pidfd.get_ref().as_fd(), Signal::TERM) {
                tracing::warn!("cannot end the logger: {error}");
            }
            if !logger.ends().await {
                return;
            }
        }
        // Somebody may have killed it, and what nobody reads now is lost.
        if !self.has_rest() {
            return;
        }
        match self.start(&["--drain"], now) {
            Ok(logger) => drop(logger.ends().await),
            Err(error) => tracing::error!("the last output of services is lost: {error:#}"),
        }
    }

    fn has_rest(&self) -> bool {
        let mut services = self.services.iter();
        services.any(|(service, held)| {
            let is_empty = |fifo: &File| pipe::peek(fifo).is_ok_and(|rest| rest.is_empty());
            !held.fifo.as_ref().is_some_and(is_empty) || self.place.has_rest(service)
        })
    }
}

//! Runs the commands by which services read their configuration again (`reload = […]`), and answers who asked.
//! Decides nothing else.
//!
//! Each runs below a process of its own (`prober`), as the commands around a run do (`steps.rs`): as its user, in its
//! time, with its output where the service's goes. They end with the agent, and nobody is answered then.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use super::children::Child;
use super::probes::read_sheet;
use super::steps;
use crate::model::{DeniedReason, Reply, ServiceName, Spec, Step};
use crate::os::spawn::{FdLimit, Spawner};
use crate::supervisor::RequestId;

/// The commands that run.
pub(super) struct Reloads {
    spawner: Spawner,
    /// By pid.
    running: HashMap<u32, Running>,
}

/// What one is run with.
pub(super) struct Setting {
    pub(super) spec: Arc<Spec>,
    /// The service's, with the pid of its main process.
    pub(super) environment: BTreeMap<String, String>,
    /// Where the service's output goes, if it has a log.
    pub(super) fifo: PathBuf,
}

struct Running {
    service: ServiceName,
    request: RequestId,
    child: Child,
    /// Where its process leaves why it has failed.
    sheet: File,
    step: Step,
}

impl Reloads {
    pub(super) fn new(fd_limit: Option<FdLimit>) -> std::io::Result<Self> {
        Ok(Self {
            spawner: Spawner::new(fd_limit)?.impatient(),
            running: HashMap::new(),
        })
    }

    /// Starts the command of a service whose instance runs; the request is answered at its end.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub(super) fn start(
        &mut self,
        service: &ServiceName,
        step: &Step,
        setting: &Setting,
        request: RequestId,
        now: Instant,
    ) -> Result<()> {
        let Setting {
            spec,
            environment,
            fifo,
        } = setting;
        let timeout = spec.policy.start_timeout;
        let exec = steps::exec_of(step, &spec.exec, environment.clone());
        let (child, sheet) = steps::start_one(&mut self.spawner, step, exec, fifo, (timeout, now))?;
        let running = Running {
            service: service.clone(),
            request,
            child,
            sheet,
            step: step.clone(),
        };
        self.running.insert(running.child.pid(), running);
        Ok(())
    }

    /// When `handle_timeout` is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let running = self.running.values();
        running.filter_map(|it| it.child.poll_timeout()).min()
    }

    /// Kills those that take too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for running in self.running.values_mut() {
            running.child.handle_timeout(&mut self.spawner, now);
        }
    }

    /// Whether this process is one of them, and has not been reaped.
    pub(super) fn is_reload(&self, pid: u32) -> bool {
        self.running.contains_key(&pid)
    }

    /// Reaps one that has ended, and says what is to be answered.
    pub(super) fn reap(&mut self, pid: u32) -> Option<(RequestId, Reply)> {
        let Running {
            service,
            request,
            child,
            sheet,
            step,
        } = self.running.remove(&pid)?;
        let was_killed = child.was_killed();
        let ended = child.reap(&mut self.spawner);
        if ended.exit_code() == Some(0) {
            return Some((request, Reply::Done));
        }
        let said = || read_sheet(&sheet).unwrap_or_default();
        let mut why = format!("its command {}", ended.failure(was_killed, said));
        if was_killed {
            // Its start may have hung, as on a mount whose server is gone.
            why += &format!(": {}", step.program.display());
        }
        if step.ignore_failure {
            tracing::warn!(%service, "reload: {why}");
            return Some((request, Reply::Done));
        }
        let denied = DeniedReason::NotReloaded { service, why };
        Some((request, Reply::Denied(denied)))
    }
}

//! Runs the commands by which services read their configuration again (`reload = […]`), as their users, and
//! answers who asked. Decides nothing else.
//!
//! They are the agent's children, and no services. Those of an agent that dies run on, and nobody waits for
//! them any more.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::children::{Child, ChildEnd};
use crate::config;
use crate::model::{Cause, DeniedReason, Exec, Output, Reply, ServiceName, Spec};
use crate::os::spawn::{FdLimit, Spawner};
use crate::supervisor::RequestId;

/// The commands that run.
pub(super) struct Reloads {
    spawner: Spawner,
    /// By pid.
    running: HashMap<u32, Running>,
}

struct Running {
    service: ServiceName,
    request: RequestId,
    child: Child,
    timeout: Duration,
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
        (service, spec, environment): (&ServiceName, &Spec, BTreeMap<String, String>),
        (program, arguments): (&Path, &[String]),
        request: RequestId,
        now: Instant,
    ) -> Result<()> {
        let exec = Exec {
            program: program.to_owned(),
            arguments: config::expand(arguments, &environment)?,
            environment,
            stderr: Output::Inherit,
            ..spec.exec.with_its_rights()
        };
        let prepared = Arc::new(self.spawner.prepare(&exec)?);
        let timeout = spec.policy.start_timeout;
        let child = Child::start(&mut self.spawner, prepared, None, Some(timeout), now)?;
        let pid = child.pid();
        let running = Running {
            service: service.clone(),
            request,
            child,
            timeout,
        };
        self.running.insert(pid, running);
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
        let running = self.running.remove(&pid)?;
        let was_killed = running.child.was_killed();
        let why = match running.child.reap(&mut self.spawner) {
            ChildEnd::NotStarted(error) => Some(error.to_string()),
            _ if was_killed => Some(format!(
                "its command was killed after {:?}",
                running.timeout
            )),
            ChildEnd::Status(0) => None,
            ChildEnd::Status(status) => {
                Some(format!("its command {}", Cause::from_wait_status(status)))
            }
            ChildEnd::Unknown(error) => Some(format!("its command cannot be reaped: {error}")),
        };
        let reply = why.map_or(Reply::Done, |why| {
            Reply::Denied(DeniedReason::NotReloaded {
                service: running.service,
                why,
            })
        });
        Some((running.request, reply))
    }
}

//! How the services are, and who keeps them, as the agent says when it is asked.

use std::path::Path;

use crate::control::client;
use crate::control::{Command, Response, ServiceStatus};
use crate::init::locks;

/// The agent's answer.
#[derive(Debug, Default)]
pub(super) struct Now {
    /// `None`: no answer.
    pub(super) services: Option<Vec<ServiceStatus>>,
    /// How many agents wait for that one's end, if that can be seen.
    pub(super) spares: Option<usize>,
}

impl Now {
    /// Asks the agent of that directory, for five seconds at most.
    pub(super) fn of(runtime_dir: &Path) -> Self {
        let status = Command::Status {
            services: Vec::new(),
        };
        let Ok(Response::Status { services }) = client::ask(runtime_dir, &status) else {
            return Self::default();
        };
        let agent = client::reach(runtime_dir).ok().map(|(_, pid)| pid);
        let waiters = agent.filter(|pid| *pid != 0).map(locks::waiters);
        Self {
            services: Some(services),
            spares: waiters.and_then(|waiters| Some(waiters.ok()?.len())),
        }
    }

    /// Whether the agent answered.
    pub(super) fn is_up(&self) -> bool {
        self.services.is_some()
    }
}

//! What one service is at this moment, for a client that asks: its state, its processes, its
//! settings. Changes nothing.

use std::collections::BTreeSet;
use std::time::Instant;

use jiff::Timestamp;

use super::Agent;
use crate::clock::{self, WallClock};
use crate::control::{Peer, Process, Response, Shown};
use crate::model::{State, Status};
use crate::os::{proc, progress};

/// So many processes are looked at: a service with more is no reason to have others wait.
const MOST_PROCESSES: usize = 1000;

impl Agent {
    /// All that is known of one service. What its environment holds is for those alone who could
    /// read it anyway.
    pub(super) fn show_service(&self, service: &str, peer: Peer) -> Response {
        let service = self.supervisor.status(service).map(|status| {
            let mut shown = self.shown(&status, Self::now());
            if peer.uid != 0 && peer.uid != nix::unistd::geteuid().as_raw() {
                shown.description.hide_secrets();
            }
            Box::new(shown)
        });
        Response::Shown { service }
    }

    fn shown(&self, status: &Status<'_>, now: Instant) -> Shown {
        let service = status.service;
        let [mut tree, aside] = self.instances.processes(service).unwrap_or_else(|error| {
            tracing::error!(%service, "cannot look at its processes: {error}");
            [BTreeSet::new(), BTreeSet::new()]
        });
        if let Some(standby) = self.standbys.pid(service) {
            tree.remove(&standby);
        }
        let began = status.instance.map(|it| self.instances.began_ns(&it));
        let began_ns = began.unwrap_or_default();
        let clock = WallClock::read();
        let (processes, of_tree) = described(&tree, &clock);
        let (left_alone, of_others) = described(&aside, &clock);
        let cgroup = status
            .instance
            .and_then(|instance| self.instances.cgroup_path(&instance));
        let hint = self.service_files.hint(service);
        let config_dir = &self.options.config;
        Shown {
            status: self.status_line(status, now),
            since: since(status, began_ns, now, &clock),
            cgroup: cgroup.map(|path| path.to_string_lossy().into_owned()),
            processes,
            left_alone,
            left_out: of_tree + of_others,
            file_differs: hint.is_some(),
            description: self
                .config
                .describe(service, config_dir)
                .unwrap_or_default(),
        }
    }
}

/// Since when it runs, or is in another state.
fn since(status: &Status<'_>, began_ns: u64, now: Instant, clock: &WallClock) -> Timestamp {
    match status.instance {
        Some(_) if status.state == State::Running => {
            clock.at(std::time::Duration::from_nanos(began_ns))
        }
        _ => {
            let ago = now.saturating_duration_since(status.since);
            clock.at(clock::since_boot().saturating_sub(ago))
        }
    }
}

/// The processes that are still there, and how many were too many.
fn described(pids: &BTreeSet<u32>, clock: &WallClock) -> (Vec<Process>, usize) {
    let processes = pids.iter().take(MOST_PROCESSES).filter_map(|pid| {
        progress::count();
        let stat = proc::stat(*pid).ok()?;
        Some(Process {
            pid: *pid,
            comm: stat.comm,
            start_time_ns: stat.start_time_ns,
            start_time: clock.at(std::time::Duration::from_nanos(stat.start_time_ns)),
        })
    });
    let left_out = pids.len().saturating_sub(MOST_PROCESSES);
    (processes.collect(), left_out)
}

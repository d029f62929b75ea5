//! What clients ask of the agent, turned into facts for the supervisor, and the answers that need
//! nobody else.

use std::time::Instant;

use super::service_files::{self, ServiceFiles};
use super::{Agent, log_warnings, requests, usable_part};
use crate::clock::{self, WallClock};
use crate::config::{self, Config};
use crate::control::{Command, Incoming, Peer, Response, ServiceStatus};
use crate::model::{By, DeniedReason, Event, Reply, Request, ServiceName, Signal, Status, What};
use crate::os::proc;
use crate::supervisor::{Fact, RequestId};

impl Agent {
    /// Does what a client asks for, or has it done; the answer follows.
    pub(super) fn obey(
        &mut self,
        Incoming {
            command,
            reply,
            peer,
        }: Incoming,
    ) {
        if reply.is_closed() {
            tracing::debug!(
                pid = peer.pid,
                uid = peer.uid,
                ?command,
                "asked, and given up"
            );
            return;
        }
        tracing::debug!(pid = peer.pid, uid = peer.uid, ?command, "asked");
        self.record_request(&command, peer);
        match command {
            Command::Status { services } => requests::answer(reply, self.status(&services)),
            Command::Show { service } => requests::answer(reply, self.show_service(&service, peer)),
            Command::Start { services, no_wait } => {
                self.request(&services, no_wait, reply, |service, request| {
                    Fact::StartRequested { service, request }
                });
            }
            Command::Stop {
                mut services,
                all,
                no_wait,
            } => {
                if all {
                    services = self.names();
                }
                self.request(&services, no_wait, reply, |service, request| {
                    Fact::StopRequested { service, request }
                });
            }
            Command::Restart { services, no_wait } => {
                self.request(&services, no_wait, reply, |service, request| {
                    Fact::RestartRequested { service, request }
                });
            }
            Command::Signal { service, signal } => {
                self.request(&[service], false, reply, |service, request| {
                    Fact::SignalRequested {
                        service,
                        signal,
                        request,
                    }
                });
            }
            Command::Reload { allow_empty } => self.reload(allow_empty, Some(reply)),
            Command::Shutdown => {
                let request = self.requests.single(reply);
                self.shut_down(request);
            }
        }
    }

    /// Tells the journal who asked for a change.
    fn record_request(&mut self, command: &Command, peer: Peer) {
        let (request, signal, services) = match command {
            Command::Status { .. } | Command::Show { .. } => return,
            Command::Start { services, .. } => (Request::Start, None, services.as_slice()),
            Command::Stop { services, .. } => (Request::Stop, None, services.as_slice()),
            Command::Restart { services, .. } => (Request::Restart, None, services.as_slice()),
            Command::Signal { service, signal } => (
                Request::Signal,
                Some(*signal),
                std::slice::from_ref(service),
            ),
            Command::Reload { .. } => (Request::Reload, None, [].as_slice()),
            Command::Shutdown => (Request::Shutdown, None, [].as_slice()),
        };
        let Peer { pid, uid } = peer;
        let by = Some(By { pid, uid });
        if services.is_empty() {
            self.record_requested(None, &request, signal, by);
        }
        for service in services {
            if self.supervisor.status(service).is_some() {
                self.record_requested(Some(service), &request, signal, by);
            }
        }
    }

    /// Tells the journal that somebody asked for this, of one service or of all; `by`: `None` for a
    /// signal to the agent.
    pub(super) fn record_requested(
        &mut self,
        service: Option<&str>,
        command: &Request,
        signal: Option<Signal>,
        by: Option<By>,
    ) {
        let what = What::Requested {
            command: command.clone(),
            signal,
            by,
        };
        self.record(Event::new(clock::now(), service, what));
    }

    fn request(
        &mut self,
        services: &[String],
        no_wait: bool,
        reply: tokio::sync::oneshot::Sender<Response>,
        fact: impl Fn(ServiceName, RequestId) -> Fact,
    ) {
        let group = self.requests.group(services, reply);
        for (service, request) in services.iter().zip(&group.requests) {
            let fact = fact(ServiceName::from(service.as_str()), *request);
            let brings_up = matches!(
                fact,
                Fact::StartRequested { .. } | Fact::RestartRequested { .. }
            );
            if brings_up && let Some(hint) = self.service_files.hint(service) {
                self.requests.note(*request, hint);
            }
            match self.not_loaded(service) {
                Some(reason) => self.requests.answer(*request, Reply::Denied(reason)),
                None => self.tell(fact),
            }
        }
        if no_wait {
            self.requests.release(group.id);
        }
    }

    /// Why nobody knows a service whose file is there.
    fn not_loaded(&self, service: &str) -> Option<DeniedReason> {
        if self.supervisor.status(service).is_some() {
            return None;
        }
        let file = service_files::not_loaded(&self.options.config, service)?;
        Some(DeniedReason::NotLoaded { file })
    }

    fn names(&self) -> Vec<String> {
        self.supervisor
            .statuses()
            .map(|status| status.service.to_string())
            .collect()
    }

    fn status(&self, services: &[String]) -> Response {
        let now = Self::now();
        let line = |status: Status<'_>| self.status_line(&status, now);
        let services = match services {
            [] => self.supervisor.statuses().map(line).collect(),
            some => some
                .iter()
                .filter_map(|name| self.supervisor.status(name))
                .map(line)
                .collect(),
        };
        Response::Status { services }
    }

    pub(super) fn status_line(&self, status: &Status<'_>, now: Instant) -> ServiceStatus {
        let mut line = status_line(status, now);
        let unwatched = status.instance.and_then(|it| self.unwatched.hint(&it));
        let hints = [
            line.hint.take(),
            unwatched,
            self.service_files.hint(status.service),
        ];
        let hints: Vec<String> = hints.into_iter().flatten().collect();
        line.hint = (!hints.is_empty()).then(|| hints.join("; "));
        line
    }

    pub(super) fn reload_unasked(&mut self) {
        tracing::info!("SIGHUP: reading the config again");
        self.record_requested(None, &Request::Reload, None, None);
        self.reload(false, None);
    }

    fn reload(&mut self, allow_empty: bool, reply: Option<tokio::sync::oneshot::Sender<Response>>) {
        match config::load(&self.options.config, &self.surroundings) {
            Ok(config) if !allow_empty && self.would_be_lost(&config) => {
                let dir = self.options.config.join(config::SERVICES);
                let message = format!(
                    "nothing was changed: {} is gone, and with it every service; put it back, or use \
                     `respawn reload --allow-empty` to stop them all",
                    dir.display()
                );
                match reply {
                    Some(reply) => requests::answer(reply, Response::Error { message }),
                    None => tracing::error!("{message}"),
                }
            }
            Ok(config) => {
                let warnings = config.warnings.clone();
                let request = reply.map(|reply| self.requests.reload(warnings, reply));
                self.take_up(config, request);
            }
            Err(invalid) => match reply {
                Some(reply) => {
                    requests::answer(
                        reply,
                        Response::Invalid {
                            problems: invalid.problems,
                            warnings: invalid.warnings,
                        },
                    );
                }
                None => tracing::error!("the config stays as it was: {invalid}"),
            },
        }
    }
}

impl Agent {
    /// Whether a config has no service because the directory of them is gone: not mounted, perhaps.
    fn would_be_lost(&self, config: &Config) -> bool {
        let dir = self.options.config.join(config::SERVICES);
        config.services.is_empty() && !self.config.services.is_empty() && !dir.is_dir()
    }

    /// A file can be read that could not be before, and has other services than was thought: takes
    /// up what there is.
    pub(super) fn reload_usable(&mut self) {
        match config::load(&self.options.config, &self.surroundings).or_else(usable_part) {
            Ok(config) => self.take_up(config, None),
            Err(invalid) => tracing::error!("the config stays as it was: {invalid}"),
        }
    }

    fn take_up(&mut self, config: Config, request: Option<RequestId>) {
        log_warnings(&config);
        let group = config.agent.control_group;
        if let Err(error) = self.server.set_group(group) {
            tracing::error!("{error:#}");
        }
        let journal_max_size = config.agent.journal_max_size;
        self.journal.reconfigure(journal_max_size, group);
        self.last_good.keep(&config);
        self.hooks.set_limit(config.agent.max_hooks);
        self.notices.set(&config.agent.notices);
        let services = config.services.clone();
        self.service_files = ServiceFiles::of(&config);
        self.config = config;
        self.tell(Fact::Configured { services, request });
    }
}

fn status_line(status: &Status<'_>, now: Instant) -> ServiceStatus {
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).ok();
    let uptime_ns = status
        .instance
        .map(|instance| proc::since_boot_ns().saturating_sub(instance.start_time_ns));
    ServiceStatus {
        service: status.service.to_string(),
        state: status.state,
        desired: status.desired,
        pid: status.instance.map(|instance| instance.pid),
        start_time_ns: status.instance.map(|instance| instance.start_time_ns),
        uptime_ns,
        restarts: status.restarts,
        last_exit: status.last_exit.map(|death| death.cause.clone()),
        last_exit_time: status
            .last_exit
            .and_then(|death| Some(WallClock::read().corrected(death.time?, death.since_boot))),
        next_start_in_ns: status
            .next_start
            .and_then(|at| nanos(at.saturating_duration_since(now))),
        hint: status.background.map(str::to_owned),
        error: status
            .failed
            .map(str::to_owned)
            .or_else(|| status.last_failure.map(ToString::to_string)),
    }
}

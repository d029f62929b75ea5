//! What clients ask of the agent, turned into facts for the supervisor, and the answers that need
//! nobody else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::service_files::ServiceFiles;
use super::{Agent, groups, log_warnings, reloads, requests, usable_part};
use crate::clock::{self, WallClock};
use crate::config::{self, Config, Problem};
use crate::control::{Command, Incoming, Peer, Response, ServiceStatus};
use crate::model::{
    By, DeniedReason, Event, Instance, Listen, Reload, Reply, Request, ServiceName, ServiceType,
    Signal, SpawnFailure, State, Status, What,
};
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
            Command::Start {
                services,
                no_wait,
                again,
            } => self.request(&services, no_wait, reply, |it, service, request| {
                match it.had_its_run(&service).filter(|_| again) {
                    None => Ok(Some(Fact::StartRequested { service, request })),
                    Some(message) => Err(DeniedReason::StartFailed {
                        service,
                        failure: SpawnFailure { message },
                    }),
                }
            }),
            Command::Stop {
                mut services,
                all,
                no_wait,
            } => {
                if all {
                    services = self.names();
                }
                self.request(&services, no_wait, reply, |_, service, request| {
                    Ok(Some(Fact::StopRequested { service, request }))
                });
            }
            Command::Restart { services, no_wait } => {
                self.request(&services, no_wait, reply, |_, service, request| {
                    Ok(Some(Fact::RestartRequested { service, request }))
                });
            }
            Command::Signal { service, signal } => {
                self.request(&[service], false, reply, |_, service, request| {
                    Ok(Some(Fact::SignalRequested {
                        service,
                        signal,
                        request,
                    }))
                });
            }
            Command::Reload { allow_empty } => self.reload(allow_empty, Some(reply)),
            Command::ReloadServices { services } => {
                let services = self.with_parts(services);
                self.request(&services, false, reply, Self::begin_reload);
            }
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
            Command::ReloadServices { services } => (Request::Reload, None, services.as_slice()),
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

    /// Has something done for each of these services: `ask` says what to tell the supervisor, which answers
    /// the request then.
    fn request(
        &mut self,
        services: &[String],
        no_wait: bool,
        reply: tokio::sync::oneshot::Sender<Response>,
        ask: impl Fn(&mut Self, ServiceName, RequestId) -> Result<Option<Fact>, DeniedReason>,
    ) {
        let group = self.requests.group(services, reply);
        let mut facts = Vec::new();
        for (service, request) in services.iter().zip(&group.requests) {
            let asked = match self.not_loaded(service) {
                Some(reason) => Err(reason),
                None => ask(self, ServiceName::from(service.as_str()), *request),
            };
            match asked {
                Ok(fact) => facts.extend(fact.inspect(|fact| self.hint(service, fact, *request))),
                Err(reason) => self.requests.answer(*request, Reply::Denied(reason)),
            }
        }
        self.supervisor.handle_facts(facts, Self::now());
        self.settle();
        if no_wait {
            self.requests.release(group.id);
        }
    }

    /// Says along with the answer that what is started may not be what its file says now.
    fn hint(&mut self, service: &str, fact: &Fact, request: RequestId) {
        let brings_up = matches!(
            fact,
            Fact::StartRequested { .. } | Fact::RestartRequested { .. }
        );
        if brings_up && let Some(hint) = self.service_files.hint(service) {
            self.requests.note(request, hint);
        }
    }

    /// How a oneshot service has failed, if it has.
    fn had_its_run(&self, service: &str) -> Option<String> {
        let is_oneshot = self.supervisor.spec(service)?.policy.kind == ServiceType::Oneshot;
        let status = self.supervisor.status(service).filter(|_| is_oneshot)?;
        status.failed.map(str::to_owned)
    }

    /// These, and those that run, are part of one of them, and can read their configuration again.
    fn with_parts(&self, mut services: Vec<String>) -> Vec<String> {
        let running = self.supervisor.statuses();
        let running = running.filter(|status| status.instance.is_some());
        let mut parts: HashMap<&str, Vec<&ServiceName>> = HashMap::new();
        for service in running.map(|status| status.service) {
            let spec = self.supervisor.spec(service);
            if let Some(spec) = spec.filter(|spec| spec.reload.is_some()) {
                for whole in &spec.relations.part_of {
                    parts.entry(whole).or_default().push(service);
                }
            }
        }
        let mut seen: HashSet<String> = services.iter().cloned().collect();
        let mut next = 0;
        while let Some(name) = services.get(next) {
            next += 1;
            let new: Vec<String> = parts
                .get(name.as_str())
                .into_iter()
                .flatten()
                .map(|part| part.to_string())
                .filter(|part| seen.insert(part.clone()))
                .collect();
            services.extend(new);
        }
        services
    }

    /// Has a service read its own configuration again: by a signal, or by a command, whose end answers the
    /// request.
    fn begin_reload(
        &mut self,
        service: ServiceName,
        request: RequestId,
    ) -> Result<Option<Fact>, DeniedReason> {
        let unknown = || DeniedReason::UnknownService(service.clone());
        let status = self.supervisor.status(&service).ok_or_else(unknown)?;
        let done = (status.state == State::Done).then_some(Instance::NONE);
        let Some(instance) = status.instance.or(done) else {
            return Err(DeniedReason::NotRunning(service));
        };
        let spec = self.supervisor.spec(&service).cloned();
        let not_reloaded = |service, why: String| DeniedReason::NotReloaded { service, why };
        match spec
            .as_ref()
            .and_then(|spec| Some((spec, spec.reload.as_ref()?)))
        {
            None => Err(not_reloaded(service, "its file has no `reload`".to_owned())),
            Some((_, Reload::Signal(signal))) => Ok(Some(Fact::SignalRequested {
                service,
                signal: *signal,
                request,
            })),
            Some((_, Reload::Notify(signal))) => Ok(Some(Fact::ReloadRequested {
                service,
                signal: *signal,
                at: clock::awake(),
                request,
            })),
            Some((spec, Reload::Command(step))) => {
                let denied = |failure: SpawnFailure| not_reloaded(service.clone(), failure.message);
                let environment = self
                    .instances
                    .environment_now(&service, &spec.exec, instance)
                    .map_err(denied)?;
                self.prepare_output(&service)
                    .map_or(Ok(()), Err)
                    .map_err(denied)?;
                let setting = reloads::Setting {
                    spec: Arc::clone(spec),
                    environment,
                    fifo: self.outputs.fifo(&service),
                };
                let now = Self::now();
                let started = self.reloads.start(&service, step, &setting, request, now);
                started.map_err(|error| not_reloaded(service, format!("{error:#}")))?;
                Ok(None)
            }
        }
    }

    /// Why nobody knows a service whose file is there.
    fn not_loaded(&self, service: &str) -> Option<DeniedReason> {
        if self.supervisor.status(service).is_some() {
            return None;
        }
        if !config::is_service_name(service) {
            return None;
        }
        let file_of = |name: &str| config::file_of(&self.options.config, &self.config.agent, name);
        if let Some(file) = file_of(service) {
            return Some(DeniedReason::NotLoaded { file });
        }
        let (prefix, _) = service.split_once('@')?;
        let template = file_of(&format!("{prefix}@"))?;
        Some(DeniedReason::NoInstance { template })
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
            self.instances.without_effect(status.service),
        ];
        let mut all = self.supervisor.remarks(status.service);
        all.extend(hints.into_iter().flatten());
        let hints = all;
        let spec = self.supervisor.spec(status.service);
        line.autostart = spec.map(|spec| spec.relations.autostart);
        line.hint = (!hints.is_empty()).then(|| hints.join("; "));
        let says = self.says.get(status.service);
        let says = says.filter(|(instance, _)| Some(*instance) == status.instance);
        line.says = says.map(|(_, text)| text.clone());
        // What came before the command of a forking service has ended.
        let launches = self.steps.launches(status.service);
        line.step = line.step.filter(|_| !launches);
        line.sockets = spec.map_or_else(Vec::new, |spec| {
            self.sockets.shown(status.service, &spec.exec.listen)
        });
        line.stored = self.fd_store.names(status.service);
        line.standby = spec.and_then(|spec| self.standbys.shown(status.service, spec));
        if let Some(instance) = &status.instance {
            let began = self.instances.began_ns(instance);
            line.uptime_ns = Some(proc::since_boot_ns().saturating_sub(began));
            line.released_ns = self.instances.released_ns(instance);
        }
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
                let problems = self.prepare_sockets(&config);
                if !problems.is_empty() {
                    return refuse(problems, warnings, reply);
                }
                let request = reply.map(|reply| self.requests.reload(warnings, reply));
                self.take_up(config, request);
            }
            Err(invalid) => refuse(invalid.problems, invalid.warnings, reply),
        }
    }

    /// Binds what services will listen on that are up and have other sockets from now on. If one cannot
    /// be bound, none is.
    fn prepare_sockets(&mut self, config: &Config) -> Vec<Problem> {
        let listen = |config: &Config, service: &str| -> Vec<Listen> {
            let spec = config.services.get(service);
            spec.map_or_else(Vec::new, |spec| spec.exec.listen.clone())
        };
        let services = self.sockets.services();
        let mut problems = Vec::new();
        for service in &services {
            let wanted = listen(config, service);
            if let Err(message) = self.sockets.prepare(service, &wanted) {
                problems.push(config.problem_of(service, "listen", message));
            }
        }
        if !problems.is_empty() {
            for service in &services {
                self.sockets
                    .take_back(service, &listen(&self.config, service));
            }
        }
        problems
    }
}

/// The config stays as it was.
fn refuse(
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    reply: Option<tokio::sync::oneshot::Sender<Response>>,
) {
    match reply {
        Some(reply) => requests::answer(reply, Response::Invalid { problems, warnings }),
        None => {
            for problem in problems {
                tracing::error!("the config stays as it was: {problem}");
            }
        }
    }
}

impl Agent {
    /// Whether a config has no service of its own because the directory of them is gone: not mounted,
    /// perhaps.
    fn would_be_lost(&self, config: &Config) -> bool {
        let dir = self.options.config.join(config::SERVICES);
        let mut files = self.config.files.values();
        let is_own = files.any(|file| file.starts_with(&dir)) || config.services.is_empty();
        is_own && !self.config.services.is_empty() && !dir.is_dir()
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
        let group = config.agent.access_group;
        if let Err(error) = self.server.set_groups(groups(&config.agent)) {
            tracing::error!("{error:#}");
        }
        let journal_max_size = config.agent.journal_max_size;
        self.journal.reconfigure(journal_max_size, group);
        self.last_good.keep(&config);
        self.hooks.set_limit(config.agent.max_hooks);
        self.notices.set(&config.agent.notices);
        let services = config.services.clone();
        self.set_outputs(&services);
        self.service_files = ServiceFiles::of(&config, &self.options.config);
        self.config = config;
        self.tell(Fact::Configured { services, request });
    }
}

fn status_line(status: &Status<'_>, now: Instant) -> ServiceStatus {
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).ok();
    ServiceStatus {
        service: status.service.to_string(),
        state: status.state,
        desired: status.desired,
        pid: status.instance.map(|instance| instance.pid),
        start_time_ns: status.instance.map(|instance| instance.start_time_ns),
        uptime_ns: None,
        restarts: status.restarts,
        last_exit: status.last_exit.map(|death| death.cause.clone()),
        last_exit_time: status
            .last_exit
            .and_then(|death| Some(WallClock::read().corrected(death.time?, death.since_boot))),
        next_start_in_ns: status
            .next_start
            .and_then(|at| nanos(at.saturating_duration_since(now))),
        waits_for: status
            .waits_for
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect(),
        hint: status.background.map(str::to_owned),
        says: None,
        sockets: Vec::new(),
        stored: Vec::new(),
        released_ns: None,
        standby: None,
        autostart: None,
        step: status
            .phase
            .map(|phase| phase.to_string())
            .or_else(|| Some(status.doing?.as_str().to_owned())),
        error: status
            .failed
            .or(status.skipped)
            .map(str::to_owned)
            .or_else(|| status.last_failure.map(ToString::to_string)),
    }
}

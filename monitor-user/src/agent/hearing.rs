//! What services say of themselves: lines in their files, and notifications. Passes it on to the supervisor,
//! after a look at who has said it.

use std::io;

use super::notify::{Message, Said};
use super::{Agent, runtime_dir};
use crate::decode::Birth;
use crate::model::{Instance, NotifyAccess, ServiceName, State};
use crate::supervisor::Fact;

impl Agent {
    pub(super) fn read_readiness(&mut self, written: Vec<Option<String>>) {
        for fact in self.readiness.ready(written) {
            self.tell(fact);
        }
    }

    pub(super) fn read_notifications(&mut self, ready: io::Result<()>) {
        if let Err(error) = ready {
            tracing::error!("cannot wait for notifications: {error}");
        }
        for message in self.notify.take() {
            self.hear(message);
        }
    }

    /// Before the ends of processes are told: what they have said before.
    pub(super) fn hear_first(&mut self) {
        if self.notify.is_used() {
            self.read_notifications(Ok(()));
        }
    }

    /// Tells the supervisor what an instance has said of itself.
    fn hear(&mut self, message: Message) {
        let Message {
            service,
            instance,
            sender,
            said,
            order,
        } = message;
        let (mut instance, is_certain) = self.speaker(&service, instance, sender.0);
        if !self.may_notify(&service, &instance, sender) {
            let (pid, uid) = sender;
            let who = match self.is_of_service(&service, &instance, sender) {
                true => "is not its main one (ready.access)",
                false => "is not of the service",
            };
            tracing::warn!(%service, pid, uid, "a notification of a process that {who} was dropped");
            return;
        }
        if let Some(order) = order {
            self.store(&service, order);
        }
        for said in said {
            let service = service.clone();
            let ends_it = matches!(
                said,
                Said::Stopping | Said::WatchdogTrigger | Said::MainPid(_)
            );
            if ends_it && !is_certain {
                let pid = sender.0;
                tracing::warn!(%service, pid, "{said:?} of a process that has ended was dropped: two instances run, and it may be of either");
                continue;
            }
            self.tell(match said {
                Said::Ready => Fact::BecameReady { service, instance },
                Said::Watchdog => Fact::Lives { service, instance },
                Said::Extend(time) => Fact::NeedsTime {
                    service,
                    instance,
                    time,
                },
                Said::Reloading(at) => Fact::Reloading {
                    service,
                    instance,
                    at,
                },
                Said::Stopping => Fact::Ending { service, instance },
                Said::WatchdogTrigger => Fact::DoesNotWork {
                    service,
                    instance,
                    reason: "it has sent WATCHDOG=trigger".to_owned(),
                },
                Said::Status(text) => {
                    self.says.insert(service, (instance, text));
                    continue;
                }
                Said::MainPid(pid) => {
                    match self.change_main(&service, instance, pid) {
                        Ok(main) => instance = main,
                        Err(why) => tracing::warn!(%service, pid, "MAINPID is ignored: {why}"),
                    }
                    continue;
                }
            });
        }
    }

    /// Which instance a process speaks for, and whether that is certain: of two that run side by side, that
    /// whose tree it is in. One that has ended is taken to be of the newest, `latest`, if that still runs.
    fn speaker(&self, service: &ServiceName, latest: Instance, pid: u32) -> (Instance, bool) {
        let Some(status) = self.supervisor.status(service) else {
            return (latest, true);
        };
        if status.beside.is_empty() {
            return (status.instance.unwrap_or(latest), true);
        }
        let is_in = |it: &&Instance| self.instances.has_in_tree(it, pid) == Some(true);
        let mut running = status.beside.iter().chain(&status.instance);
        if let Some(found) = running.clone().find(is_in) {
            return (*found, true);
        }
        let latest_runs = running.any(|it| *it == latest);
        let fallback = status.instance.filter(|_| !latest_runs);
        (fallback.unwrap_or(latest), false)
    }

    /// Goes on with another process of its tree as the main process of an instance that runs.
    ///
    /// # Errors
    /// Why it cannot be that one.
    fn change_main(
        &mut self,
        service: &ServiceName,
        from: Instance,
        pid: u32,
    ) -> Result<Instance, String> {
        if pid == from.pid {
            return Ok(from);
        }
        let status = self.supervisor.status(service);
        let runs = status.is_some_and(|status| {
            status.instance == Some(from)
                && matches!(status.state, State::Starting | State::Running)
        });
        if !runs {
            return Err("the service does not run, or is being stopped".to_owned());
        }
        let to = self.instances.change_main(service, from, pid)?;
        let attempt = self.supervisor.attempt(service).unwrap_or_default();
        self.watch(to, Birth::of(service, attempt));
        if let Some(tree) = self.trees.remove(&from) {
            self.trees.insert(to, tree);
        }
        if let Some((of, _)) = self.says.get_mut(service) {
            *of = to;
        }
        self.steps.change_main(from, to);
        self.notify.listen(service, to);
        self.told.instances.push(from);
        self.tell(Fact::MainChanged {
            service: service.clone(),
            instance: from,
            main: to,
        });
        Ok(to)
    }

    /// Whether a notification of that process counts.
    pub(super) fn may_notify(
        &self,
        service: &ServiceName,
        of: &Instance,
        sender: (u32, u32),
    ) -> bool {
        let spec = self.supervisor.spec(service);
        let access = spec.map(|spec| spec.policy.notify_access);
        match access.unwrap_or_default() {
            // Until its end is handled, its pid is nobody else's.
            NotifyAccess::Main => sender.0 == of.pid,
            NotifyAccess::All => self.is_of_service(service, of, sender),
        }
    }

    /// Whether a notification is from the tree of the instance; of a sender that has ended, whether it
    /// was of its user.
    fn is_of_service(&self, service: &ServiceName, of: &Instance, (pid, uid): (u32, u32)) -> bool {
        self.instances.has_in_tree(of, pid).unwrap_or_else(|| {
            let spec = self.supervisor.spec(service);
            let identity = spec.and_then(|spec| spec.exec.identity.as_ref());
            uid == identity.map_or_else(runtime_dir::own_uid, |identity| identity.uid)
        })
    }

    /// Goes on hearing what the instances of an earlier agent say.
    pub(super) fn adopt_notify_sockets(&mut self) {
        let instances = self.supervisor.statuses();
        let instances = instances.filter_map(|it| Some((it.service.clone(), it.instance?)));
        for (service, instance) in instances.collect::<Vec<_>>() {
            let Some(spec) = self.supervisor.spec(&service) else {
                continue;
            };
            if spec.exec.notifies() {
                let identity = spec.exec.identity.as_ref();
                let process = self.instances.process(&instance);
                self.notify.adopt(&service, identity, instance, process);
            }
        }
        self.notify.forget_pool();
    }
}

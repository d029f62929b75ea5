//! Runs the commands around the runs of services (`before_start` and its like), one after the other, and
//! looks before a start whether the service's conditions hold. Decides nothing else.
//!
//! ```text
//! Spawn ─▶ files ─▶ conditions ─▶ before_start … ─▶ the process is made, or: the command of a forking service
//!             │        └ skipped      │                └ failed           └ its main process is known
//!             └ failed                └ failed ─▶ after_stop … ─▶ the start has failed
//! RunSteps ─▶ command ─▶ command ─▶ … ─▶ StepsDone
//! ```
//!
//! Each command runs below a process of its own (`prober`), which ends it when its time is over, passes its
//! output on to where the service's goes, and keeps the end of that. These processes are the agent's
//! children, and no services. They end with the agent; the next one begins with the first command again.
//!
//! The service's environment files are read by such a process where they may be on a mount whose server is gone;
//! else the agent reads them itself, which is sooner.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::children::{Child, ChildEnd};
use super::instances::Places;
use super::probes::{read_sheet, read_whole_sheet, start_prober};
use super::{Agent, hooks, instances, late};
use crate::aftermath::OutputStart;
use crate::clock;
use crate::config::Variables;
use crate::decode::Birth;
use crate::model::{
    Attempt, Condition, Confinement, Event, Exec, Identity, Instance, Notice, Output, Phase,
    ServiceName, SpawnFailure, Spec, Step,
};
use crate::os::cgroup::Slot;
use crate::os::spawn::{FdLimit, Spawner};
use crate::prober::{DOES_NOT_HOLD, Launch, Order};
use crate::supervisor::{Action, Fact};

/// How long one may take to end that is not needed any more.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much later than its command's time a process is killed that should have seen to that itself.
const GRACE: Duration = Duration::from_secs(5);

/// What the commands are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The start of that attempt.
    Start(Attempt),
    /// The same, once all that precedes the command of a forking service is done.
    Launch(Attempt),
    /// An instance, in that phase.
    Of(Instance, Phase),
}

/// What has become of them.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) service: ServiceName,
    pub(super) purpose: Purpose,
    /// What the environment files say, if they were read.
    pub(super) files: Option<Vec<Variables>>,
    /// Of a launch: the pid of the main process.
    pub(super) result: Result<Option<u32>, Ended>,
}

/// Why not all were run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// A condition does not hold.
    Skipped(String),
    Failed(String),
    /// They were not needed any more.
    Abandoned,
}

/// What they run with.
pub(super) struct Setting {
    pub(super) spec: Arc<Spec>,
    /// All that the service has, and what is told of the instance.
    pub(super) environment: BTreeMap<String, String>,
    /// What of that is about the instance and its end.
    pub(super) own: Vec<(String, String)>,
    /// What the service's environment files say, if that is read aside.
    pub(super) files: Files,
    /// Where the service's output goes, if it has a log.
    pub(super) fifo: PathBuf,
}

/// The environment files of a service.
pub(super) enum Files {
    /// Their variables are in the environment.
    Known,
    /// A process of their own is to read them, as they may be where nobody answers.
    ToRead,
    /// It has.
    Read(Vec<Variables>),
}

/// The commands that run, and those that follow them.
pub(super) struct Steps {
    spawner: Spawner,
    /// By the pid of the process that runs the present one.
    jobs: HashMap<u32, Job>,
    /// Forking services whose command runs, and how long their output was before.
    launching: HashMap<ServiceName, Option<OutputStart>>,
}

struct Job {
    service: ServiceName,
    purpose: Purpose,
    setting: Setting,
    /// Behind the present one.
    next: VecDeque<Item>,
    present: Item,
    child: Child,
    sheet: File,
    /// The start has failed already: what still runs is `after_stop`.
    failed: Option<String>,
    is_abandoned: bool,
}

enum Item {
    /// The service's environment files are read, for what is done in that phase.
    Files(Phase),
    /// Those that are looked at together: of files and the host, or a single one that asks a command.
    Conditions(Vec<Condition>),
    Step(Phase, Step),
    Launch(Box<Laid>),
}

/// The command of a forking service, laid out.
pub(super) struct Laid {
    /// What it is run with.
    pub(super) exec: Exec,
    /// Where.
    pub(super) slot: Slot,
    pub(super) launch: Launch,
}

impl Steps {
    pub(super) fn new(fd_limit: Option<FdLimit>) -> io::Result<Self> {
        Ok(Self {
            spawner: Spawner::new(fd_limit)?.impatient(),
            jobs: HashMap::new(),
            launching: HashMap::new(),
        })
    }

    /// Begins with them; an outcome is returned at once if nothing can be begun.
    pub(super) fn begin(
        &mut self,
        service: &ServiceName,
        purpose: Purpose,
        setting: Setting,
        now: Instant,
    ) -> Option<Outcome> {
        let steps = &setting.spec.steps;
        let (phase, mut items) = match purpose {
            Purpose::Start(_) | Purpose::Launch(_) => {
                (Phase::BeforeStart, conditions(&steps.conditions))
            }
            Purpose::Of(_, phase) => (phase, VecDeque::new()),
        };
        if let Files::ToRead = setting.files {
            items.push_front(Item::Files(phase));
        }
        let of_phase = steps.of(phase).iter().cloned();
        items.extend(of_phase.map(|step| Item::Step(phase, step)));
        self.go_on(service.clone(), purpose, setting, items, None, now)
    }

    /// Begins with the command of a forking service.
    fn launch(
        &mut self,
        service: &ServiceName,
        attempt: Attempt,
        setting: Setting,
        laid: Laid,
        now: Instant,
    ) -> Option<Outcome> {
        let items = VecDeque::from([Item::Launch(Box::new(laid))]);
        let purpose = Purpose::Launch(attempt);
        self.go_on(service.clone(), purpose, setting, items, None, now)
    }

    /// Starts the next one that can be started.
    fn go_on(
        &mut self,
        service: ServiceName,
        purpose: Purpose,
        setting: Setting,
        mut items: VecDeque<Item>,
        mut failed: Option<String>,
        now: Instant,
    ) -> Option<Outcome> {
        while let Some(item) = items.pop_front() {
            match start(&mut self.spawner, &item, &setting, now) {
                Ok((pid, child, sheet)) => {
                    let job = Job {
                        service,
                        purpose,
                        setting,
                        next: items,
                        present: item,
                        child,
                        sheet,
                        failed,
                        is_abandoned: false,
                    };
                    self.jobs.insert(pid, job);
                    return None;
                }
                Err(error) => {
                    let failure = format!("{}: {error:#}", item.name());
                    note_failure(&service, &item, failure, &setting, &mut items, &mut failed);
                }
            }
        }
        let result = failed.map_or(Ok(None), |failure| Err(Ended::Failed(failure)));
        let files = match setting.files {
            Files::Read(files) => Some(files),
            Files::Known | Files::ToRead => None,
        };
        Some(Outcome {
            service,
            purpose,
            files,
            result,
        })
    }

    /// Whether the command of a forking service runs.
    pub(super) fn launches(&self, service: &str) -> bool {
        self.launching.contains_key(service)
    }

    /// Ends those of that purpose; their outcome is still to come.
    pub(super) fn end(&mut self, service: &ServiceName, purpose: Purpose, now: Instant) {
        for job in self.jobs.values_mut() {
            if job.service == *service && job.purpose == purpose {
                job.is_abandoned = true;
                job.child.end(PATIENCE, now);
            }
        }
    }

    /// When `handle_timeout` is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let jobs = self.jobs.values();
        jobs.filter_map(|job| job.child.poll_timeout()).min()
    }

    /// Kills those that do not end when they should.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for job in self.jobs.values_mut() {
            job.child.handle_timeout(&mut self.spawner, now);
        }
    }

    /// What runs for the instance `from` runs for `to` from now on.
    pub(super) fn change_main(&mut self, from: Instance, to: Instance) {
        for job in self.jobs.values_mut() {
            if let Purpose::Of(of, _) = &mut job.purpose
                && *of == from
            {
                *of = to;
            }
        }
    }

    /// Whether this process is one of them, and has not been reaped.
    pub(super) fn is_step(&self, pid: u32) -> bool {
        self.jobs.contains_key(&pid)
    }

    /// Reaps one that has ended, and starts the next one. An outcome, if there is none.
    pub(super) fn reap(&mut self, pid: u32, now: Instant) -> Option<Outcome> {
        let Job {
            service,
            purpose,
            mut setting,
            mut next,
            present,
            child,
            sheet,
            mut failed,
            is_abandoned,
        } = self.jobs.remove(&pid)?;
        let was_killed = child.was_killed();
        let ended = child.reap(&mut self.spawner);
        let end = |result| {
            Some(Outcome {
                service: service.clone(),
                purpose,
                files: None,
                result,
            })
        };
        if is_abandoned {
            return end(Err(Ended::Abandoned));
        }
        let said = || read_sheet(&sheet).unwrap_or_default();
        let failure = match (ended.exit_code(), &present) {
            (Some(0), Item::Launch(_)) => return end(Ok(said().parse().ok())),
            (Some(0), Item::Files(_)) => setting.take_files(&sheet).err(),
            (Some(0), _) => None,
            (Some(DOES_NOT_HOLD), Item::Conditions(_)) => {
                return end(Err(Ended::Skipped(said())));
            }
            _ => Some(setting.failure_of(&present, &ended, was_killed, said)),
        };
        if let Some(failure) = failure {
            note_failure(
                &service,
                &present,
                failure,
                &setting,
                &mut next,
                &mut failed,
            );
        }
        self.go_on(service, purpose, setting, next, failed, now)
    }
}

/// What follows from a failure: nothing, or the end of what was to be done. After a start that has failed,
/// `after_stop` is run.
fn note_failure(
    service: &ServiceName,
    item: &Item,
    failure: String,
    setting: &Setting,
    next: &mut VecDeque<Item>,
    failed: &mut Option<String>,
) {
    let is_ignored = item.command().is_some_and(|step| step.ignore_failure);
    if is_ignored || failed.is_some() {
        tracing::warn!(%service, "{failure}");
        return;
    }
    *failed = Some(failure);
    match item.phase() {
        // Nothing of the start has been done.
        Phase::BeforeStart if matches!(item, Item::Files(_)) => next.clear(),
        Phase::BeforeStart => {
            let after_stop = setting.spec.steps.of(Phase::AfterStop).iter().cloned();
            *next = after_stop
                .map(|step| Item::Step(Phase::AfterStop, step))
                .collect();
        }
        // What is to be tidied up is tidied up, whatever went wrong before.
        Phase::AfterStop => {}
        Phase::AfterStart | Phase::BeforeStop | Phase::Stop => next.clear(),
    }
}

impl Setting {
    /// Takes over what a process has read of the environment files.
    fn take_files(&mut self, sheet: &File) -> Result<(), String> {
        let wrong =
            |error: &dyn std::fmt::Display| format!("cannot read its environment_file: {error}");
        let bytes = read_whole_sheet(sheet).map_err(|error| wrong(&error))?;
        let files: Vec<Variables> =
            serde_json::from_slice(&bytes).map_err(|error| wrong(&error))?;
        self.environment = instances::environment_with(&self.spec.exec, &files, Instance::NONE);
        self.environment.extend(self.own.clone());
        self.files = Files::Read(files);
        Ok(())
    }

    /// Why a process did not do what it was to. `said`: what it has left of that.
    fn failure_of(
        &self,
        item: &Item,
        ended: &ChildEnd,
        was_killed: bool,
        said: impl FnOnce() -> String,
    ) -> String {
        if let ChildEnd::NotStarted(error) = ended {
            return format!("{}: {error}", item.name());
        }
        if was_killed && matches!(item, Item::Files(_)) {
            return self.no_answer();
        }
        let failure = ended.failure(was_killed, said);
        match item {
            Item::Files(_) => failure,
            Item::Conditions(_) => format!("{}: {failure}", item.name()),
            Item::Step(..) | Item::Launch(_) => format!("{} {failure}", item.name()),
        }
    }

    /// What is wrong where nobody answers.
    fn no_answer(&self) -> String {
        let files = self.spec.exec.environment_file.iter();
        let files: Vec<String> = files.map(|file| file.path.display().to_string()).collect();
        format!(
            "cannot read its environment_file: {} does not answer: is it on a mount whose server is gone?",
            files.join(", ")
        )
    }
}

impl Item {
    fn phase(&self) -> Phase {
        match self {
            Self::Conditions(_) | Self::Launch(_) => Phase::BeforeStart,
            Self::Files(phase) | Self::Step(phase, _) => *phase,
        }
    }

    /// The command that it runs, if it runs one.
    fn command(&self) -> Option<&Step> {
        match self {
            Self::Conditions(conditions) => conditions.iter().find_map(Condition::command),
            Self::Step(_, step) => Some(step),
            Self::Files(_) | Self::Launch(_) => None,
        }
    }

    /// What its process is told, and after how long it has not ended in time.
    fn order(&self, spec: &Spec) -> (Order, Duration) {
        let (policy, exec) = (&spec.policy, &spec.exec);
        let of_phase = match self.phase() {
            Phase::BeforeStart | Phase::AfterStart => policy.start_timeout,
            Phase::BeforeStop | Phase::Stop | Phase::AfterStop => policy.stop_timeout,
        };
        let order = match self {
            Self::Conditions(conditions) => Order::Conditions(conditions.clone(), of_phase),
            Self::Step(_, step) => Order::Run(step.clone(), of_phase),
            Self::Launch(laid) => Order::Launch(laid.launch.clone()),
            Self::Files(_) => Order::Files(exec.environment_file.clone(), exec.identity.clone()),
        };
        let own = self.command().and_then(|step| step.timeout);
        (order, own.unwrap_or(of_phase))
    }

    /// "before_start: /usr/sbin/nginx -t"
    fn name(&self) -> String {
        match self {
            Self::Files(_) => "environment_file".to_owned(),
            Self::Conditions(_) => "conditions".to_owned(),
            Self::Launch(laid) => laid.launch.program.display().to_string(),
            Self::Step(phase, step) => {
                let arguments = step.arguments.iter().skip(1);
                let program = step.program.to_string_lossy().into_owned();
                let words: Vec<String> = [program].into_iter().chain(arguments.cloned()).collect();
                format!("{phase}: {}", words.join(" "))
            }
        }
    }
}

fn start(
    spawner: &mut Spawner,
    item: &Item,
    setting: &Setting,
    now: Instant,
) -> Result<(u32, Child, File)> {
    let (order, timeout) = item.order(&setting.spec);
    let started = |(child, sheet): (Child, File)| (child.pid(), child, sheet);
    let time = (timeout.checked_add(GRACE), now);
    if let Item::Files(_) = item {
        let exec = Exec {
            stderr: Output::Inherit,
            ..Exec::nothing()
        };
        return start_prober(spawner, order, exec, None, None, time).map(started);
    }
    if let Item::Launch(laid) = item {
        let slot = Some(laid.slot.clone());
        let exec = laid.exec.clone();
        return start_prober(spawner, order, exec, Some(&setting.fifo), slot, time).map(started);
    }
    let of_service = &setting.spec.exec;
    let environment = setting.environment.clone();
    let mut exec = match item.command() {
        // The service may not be able to see what they are about.
        None => with_its_output(Exec::nothing(), of_service, environment),
        Some(step) => exec_of(step, of_service, environment),
    };
    if let Item::Step(Phase::BeforeStart, _) = item {
        exec.confinement.directories = of_service.confinement.directories.clone();
    }
    start_prober(spawner, order, exec, Some(&setting.fifo), None, time).map(started)
}

/// Starts a command of a service that belongs to no run, in `timeout` if it names no other time. With it,
/// where its process leaves why it has failed.
pub(super) fn start_one(
    spawner: &mut Spawner,
    step: &Step,
    exec: Exec,
    fifo: &Path,
    (timeout, now): (Duration, Instant),
) -> Result<(Child, File)> {
    let until = step.timeout.unwrap_or(timeout).checked_add(GRACE);
    let order = Order::Run(step.clone(), timeout);
    start_prober(spawner, order, exec, Some(fifo), None, (until, now))
}

/// What a command of that service is run with.
pub(super) fn exec_of(step: &Step, service: &Exec, environment: BTreeMap<String, String>) -> Exec {
    with_its_output(exec(step.identity.as_ref(), service), service, environment)
}

/// The same, with its output where that of the service goes.
fn with_its_output(exec: Exec, service: &Exec, environment: BTreeMap<String, String>) -> Exec {
    Exec {
        environment,
        stdout: service.stdout.clone(),
        stderr: service.stderr.clone(),
        ..exec
    }
}

/// Those that look at files together, and then each command.
fn conditions(conditions: &[Condition]) -> VecDeque<Item> {
    let asks_a_command = |it: &Condition| it.command().is_some();
    let (commands, files): (Vec<_>, Vec<_>) = conditions.iter().cloned().partition(asks_a_command);
    let files = (!files.is_empty()).then_some(Item::Conditions(files));
    let commands = commands.into_iter().map(|it| Item::Conditions(vec![it]));
    files.into_iter().chain(commands).collect()
}

/// The rights of the service, or those of another user.
fn exec(identity: Option<&Identity>, service: &Exec) -> Exec {
    let exec = service.with_its_rights();
    match identity {
        None => exec,
        Some(identity) => Exec {
            identity: Some(identity.clone()),
            confinement: Confinement::default(),
            ..exec
        },
    }
}

impl Agent {
    /// Does what the supervisor wants done with commands around a run.
    pub(super) fn see_to_steps(&mut self, action: Action) -> Option<Fact> {
        let now = Self::now();
        match action {
            Action::RunSteps {
                service,
                instance,
                phase,
            } => {
                let outcome = self.run_steps(&service, Purpose::Of(instance, phase));
                return outcome.and_then(|outcome| self.steps_ended(outcome));
            }
            Action::AbandonStart {
                service,
                attempt,
                with_prelude,
            } => {
                if self.start_queue.remove(&service, attempt) {
                    return Some(Fact::StartAbandoned { service, attempt });
                }
                let prelude = [Purpose::Start(attempt), Purpose::Launch(attempt)];
                for purpose in prelude.into_iter().filter(|_| with_prelude) {
                    self.steps.end(&service, purpose, now);
                }
                self.late.abandon(&service, attempt, now);
            }
            Action::EndSteps {
                service,
                instance,
                phase,
            } => self.steps.end(&service, Purpose::Of(instance, phase), now),
            _ => {}
        }
        None
    }

    /// What follows from the end of commands around a run; `None`: more of them do.
    pub(super) fn steps_ended(&mut self, outcome: Outcome) -> Option<Fact> {
        let Outcome {
            service,
            purpose,
            files,
            result,
        } = outcome;
        let mut result = result;
        let output = match purpose {
            Purpose::Launch(_) => self.steps.launching.remove(&service).flatten(),
            Purpose::Start(_) | Purpose::Of(..) => None,
        };
        if let (Purpose::Launch(_), Err(ended)) = (purpose, &mut result) {
            self.instances.kill_unknown(&service);
            let said = output.and_then(|since| self.last_output(&service, since));
            if let (Ended::Failed(why), Some(said)) = (ended, said.filter(|it| !it.is_empty())) {
                *why = format!("{why}; its last output: {}", said.trim_end());
            }
        }
        Some(match (purpose, result) {
            (Purpose::Of(instance, phase), result) => Fact::StepsDone {
                service,
                instance,
                phase,
                failure: match result {
                    Err(Ended::Failed(why) | Ended::Skipped(why)) => Some(why),
                    Ok(_) | Err(Ended::Abandoned) => None,
                },
            },
            (Purpose::Start(attempt), Ok(_)) => match self.launch(service, attempt, files) {
                Ok(start) => {
                    let patient_until = Self::now() + late::PATIENCE;
                    return self.finish_in_time(start, patient_until);
                }
                Err(fact) => return fact.map(|fact| *fact),
            },
            (Purpose::Launch(attempt), Ok(pid)) => self.launched(service, attempt, pid, output),
            (Purpose::Start(attempt) | Purpose::Launch(attempt), Err(Ended::Skipped(reason))) => {
                Fact::Skipped {
                    service,
                    attempt,
                    reason,
                }
            }
            (Purpose::Start(attempt) | Purpose::Launch(attempt), Err(Ended::Failed(message))) => {
                Fact::SpawnFailed {
                    service,
                    attempt,
                    failure: SpawnFailure { message },
                }
            }
            (Purpose::Start(attempt) | Purpose::Launch(attempt), Err(Ended::Abandoned)) => {
                Fact::StartAbandoned { service, attempt }
            }
        })
    }

    /// Runs the command of a forking service. `Some`: what has become of it already.
    pub(super) fn launch_forking(
        &mut self,
        service: &ServiceName,
        attempt: Attempt,
        spec: &Arc<Spec>,
        places: &Places,
    ) -> Option<Fact> {
        let output = self.output_length(service);
        self.steps.launching.insert(service.clone(), output);
        let laid = self.instances.lay_out(service, spec, places);
        let exec = &spec.exec;
        let environment = self
            .instances
            .environment_now(service, exec, Instance::NONE);
        let outcome = match laid.and_then(|laid| Ok((laid, environment?))) {
            Ok((laid, environment)) => {
                let setting = Setting {
                    spec: Arc::clone(spec),
                    environment,
                    own: Vec::new(),
                    files: Files::Known,
                    fifo: self.outputs.fifo(service),
                };
                let now = Self::now();
                self.steps.launch(service, attempt, setting, laid, now)?
            }
            Err(failure) => Outcome {
                service: service.clone(),
                purpose: Purpose::Launch(attempt),
                files: None,
                result: Err(Ended::Failed(failure.message)),
            },
        };
        self.steps_ended(outcome)
    }

    /// From now on the main process of a forking service is its instance: until then the next agent
    /// kills whatever the command has left.
    fn launched(
        &mut self,
        service: ServiceName,
        attempt: Attempt,
        pid: Option<u32>,
        output: Option<OutputStart>,
    ) -> Fact {
        let held = self.instances.hold_launched(&service, pid);
        let instance = match held {
            Ok(instance) => instance,
            Err(failure) => {
                self.instances.kill_unknown(&service);
                return Fact::SpawnFailed {
                    service,
                    attempt,
                    failure,
                };
            }
        };
        let birth = Birth::of(&service, attempt);
        let memory = &self.memory;
        memory.record_birth_if_possible(&service, attempt, instance, false);
        self.memory.knows_birth(&service, instance);
        self.watch(instance, birth);
        self.spawned(service, birth, instance, output)
    }

    /// Has the commands run that precede a start, or belong to an instance. What has become of them, if that
    /// is known at once.
    pub(super) fn run_steps(&mut self, service: &ServiceName, purpose: Purpose) -> Option<Outcome> {
        let spec = self.supervisor.spec(service).cloned()?;
        let failed = |message| {
            Some(Outcome {
                service: service.clone(),
                purpose,
                files: None,
                result: Err(Ended::Failed(message)),
            })
        };
        if let Some(failure) = self.prepare_output(service) {
            return failed(failure.message);
        }
        let (files, environment) = match self.environment_for(service, &spec.exec, purpose) {
            Ok(environment) => (Files::Known, environment),
            Err(_) if instances::may_hang(&spec.exec).is_some() => {
                (Files::ToRead, spec.exec.environment.clone())
            }
            Err(failure) => return failed(failure.message),
        };
        let own = self.own_variables(service, purpose);
        let environment = environment.into_iter().chain(own.clone()).collect();
        let setting = Setting {
            spec,
            environment,
            own,
            files,
            fifo: self.outputs.fifo(service),
        };
        self.steps.begin(service, purpose, setting, Self::now())
    }

    /// The environment of the commands for that purpose, as far as it is known without waiting for a file
    /// that nobody may answer for.
    fn environment_for(
        &self,
        service: &ServiceName,
        exec: &Exec,
        purpose: Purpose,
    ) -> Result<BTreeMap<String, String>, SpawnFailure> {
        match purpose {
            // Each start reads them again.
            Purpose::Start(_) | Purpose::Launch(_) => {
                instances::environment_now(exec, Instance::NONE)
            }
            Purpose::Of(..) => self
                .instances
                .environment_now(service, exec, Instance::NONE),
        }
    }

    /// What the commands for that purpose are told beside that.
    fn own_variables(&self, service: &ServiceName, purpose: Purpose) -> Vec<(String, String)> {
        let Purpose::Of(instance, phase) = purpose else {
            return Vec::new();
        };
        let mut own = match phase {
            Phase::AfterStop => self.last_exit_in_variables(service, instance),
            _ => Vec::new(),
        };
        if instance != Instance::NONE {
            own.push(("MAINPID".to_owned(), instance.pid.to_string()));
        }
        own
    }

    /// How an instance has ended, as hooks are told it.
    fn last_exit_in_variables(
        &self,
        service: &ServiceName,
        instance: Instance,
    ) -> Vec<(String, String)> {
        let status = self.supervisor.status(service);
        let death = status.and_then(|status| status.last_exit.cloned());
        let Some(death) = death else {
            return Vec::new();
        };
        let notice = Notice::Exited {
            service: service.clone(),
            instance,
            death,
            circumstances: None,
        };
        let event = Event::from_notice(notice, clock::now());
        hooks::variables(&event)
    }
}

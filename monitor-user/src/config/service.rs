//! One service's table to one [`Spec`]: all keys of a service file, and what holds between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind::NotFound;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{
    Address, Check, Confinement, EnvironmentFile, Exec, FIRST_DESCRIPTOR, Hooks, Identity, Limit,
    Listen, Log, MOST_STORED, Output, Policy, Probe, Ready, Relations, Reload, RestartMode,
    RestartPolicy, ServiceName, ServiceType, Signal, Spec, StartLimit, Steps, StopMode,
    UnknownSignal,
};
use crate::os::mounts::may_hang;

use super::access;
use super::accounts::{self, Account};
use super::confinement;
use super::cursor::{Item, Keys, Table, keep, quoted};
use super::environment;
use super::expand;
use super::hooks;
use super::host::not_runnable;
use super::limits::limits;
use super::listen;
use super::log;
use super::probes;
use super::problem::{Diagnostics, Ends, printable};
use super::source::Source;
use super::steps;
use super::value::{self, absolute_path, duration, word};
use super::{Essential, Surroundings, is_service_name};

const COMMAND: &str = r#"an array of words such as ["/usr/bin/example", "--flag"]"#;

/// The one key that is no setting of a service: it makes several.
pub(super) const INSTANCES: &str = "instances";

/// It goes into the journal with every exit.
const LAST_OUTPUT_MAX: u64 = 64 << 10;
/// What comes of a program that cannot be run.
const FAILS: &str = "starting the service fails";

/// Every key of a service, each with its reader, a line each.
#[rustfmt::skip]
const KEYS: &Keys<ServiceDraft> = &[
    ("command", |d, i| keep(&mut d.command, command(i))),
    ("user", |d, i| keep(&mut d.user, accounts::user(i))),
    ("group", |d, i| keep(&mut d.group, accounts::group(i))),
    ("working_directory", |d, i| keep(&mut d.working_directory, absolute_path(i))),
    ("environment", |d, i| keep(&mut d.environment, environment::table(i))),
    ("environment_file", |d, i| keep(&mut d.environment_file, environment::files(i))),
    ("pass_environment", |d, i| keep(&mut d.pass_environment, environment::patterns(i))),
    ("umask", |d, i| keep(&mut d.umask, umask(i))),
    ("nice", |d, i| keep(&mut d.nice, i.integer::<i32>("an integer", -20..=19))),
    ("limits", |d, i| keep(&mut d.limits, limits(i))),
    ("oom_score_adj", |d, i| keep(&mut d.confinement.oom_score_adj, confinement::oom_score_adj(i))),
    ("no_new_privileges", |d, i| keep(&mut d.confinement.no_new_privileges, i.boolean())),
    ("capabilities", |d, i| keep(&mut d.confinement.capabilities, confinement::capabilities(i))),
    ("cpu_affinity", |d, i| keep(&mut d.confinement.cpu_affinity, confinement::cpu_affinity(i))),
    ("directories", |d, i| keep(&mut d.confinement.directories, confinement::directories(i))),
    ("sandbox", |d, i| keep(&mut d.confinement.sandbox, confinement::sandbox(i))),
    ("memory_max", |d, i| keep(&mut d.confinement.cgroup.memory_max, confinement::memory(i))),
    ("memory_high", |d, i| keep(&mut d.confinement.cgroup.memory_high, confinement::memory(i))),
    ("cpu_max", |d, i| keep(&mut d.confinement.cgroup.cpu_max, confinement::cpu_max(i))),
    ("pids_max", |d, i| keep(&mut d.confinement.cgroup.pids_max, confinement::pids_max(i))),
    ("io_weight", |d, i| keep(&mut d.confinement.cgroup.io_weight, confinement::io_weight(i))),
    ("type", |d, i| keep(&mut d.policy.kind, word(i, KINDS))),
    ("pid_file", |d, i| keep(&mut d.policy.pid_file, absolute_path(i).map(Some))),
    ("autostart", |d, i| keep(&mut d.relations.autostart, i.boolean())),
    ("after", |d, i| keep(&mut d.relations.after, names(i))),
    ("part_of", |d, i| keep(&mut d.relations.part_of, names(i))),
    ("requires", |d, i| keep(&mut d.relations.requires, names(i))),
    ("binds", |d, i| keep(&mut d.relations.binds, names(i))),
    ("wants", |d, i| keep(&mut d.relations.wants, names(i))),
    ("restart", |d, i| keep(&mut d.restart, word(i, RESTARTS))),
    ("restart_delay", |d, i| keep(&mut d.policy.restart_delay, duration(i))),
    ("restart_max_delay", |d, i| keep(&mut d.restart_max_delay, duration(i))),
    ("stable_after", |d, i| keep(&mut d.policy.stable_after, duration(i))),
    ("start_limit", |d, i| keep(&mut d.policy.start_limit, start_limit(i))),
    ("success_exit_status", |d, i| keep(&mut d.policy.success_exit_status, exit_status(i))),
    ("restart_prevent_exit_status", |d, i| keep(&mut d.policy.restart_prevent_exit_status, exit_status(i))),
    ("stop_signal", |d, i| keep(&mut d.policy.stop_signal, signal(i))),
    ("stop_timeout", |d, i| keep(&mut d.policy.stop_timeout, stop_timeout(i))),
    ("stop_mode", |d, i| keep(&mut d.policy.stop_mode, word(i, STOP_MODES))),
    ("ready", |d, i| ready(d, i)),
    ("start_timeout", |d, i| keep(&mut d.policy.start_timeout, start_timeout(i))),
    ("listen", |d, i| keep(&mut d.listen, listen::listen(i))),
    ("fd_store", |d, i| keep(&mut d.fd_store, fd_store(i))),
    ("watchdog", |d, i| keep(&mut d.watchdog, interval(i))),
    ("check", |d, i| keep(&mut d.check, probes::check(i))),
    ("reload", |d, i| keep(&mut d.reload, reload(i))),
    ("conditions", |d, i| keep(&mut d.steps.conditions, steps::conditions(i))),
    ("before_start", |d, i| keep(&mut d.steps.before_start, steps::steps(i))),
    ("after_start", |d, i| keep(&mut d.steps.after_start, steps::steps(i))),
    ("before_stop", |d, i| keep(&mut d.steps.before_stop, steps::steps(i))),
    ("stop_command", |d, i| d.steps.stop_command = steps::step(i).into_iter().collect()),
    ("after_stop", |d, i| keep(&mut d.steps.after_stop, steps::steps(i))),
    ("start_check", |d, i| keep(&mut d.policy.start_check, duration(i))),
    ("restart_mode", |d, i| keep(&mut d.policy.restart_mode, word(i, RESTART_MODES))),
    ("overlap", |d, i| keep(&mut d.policy.overlap, i.boolean())),
    ("standby", |d, i| keep(&mut d.policy.standby, i.boolean())),
    ("essential", |d, i| keep(&mut d.policy.essential, i.boolean())),
    ("stdout", |d, i| keep(&mut d.stdout, output(i))),
    ("stderr", |d, i| keep(&mut d.stderr, output(i))),
    ("log", |d, i| keep(&mut d.log, log::log(i))),
    ("last_output", |d, i| keep(&mut d.policy.last_output, last_output(i))),
    ("on_exit", |d, i| keep(&mut d.hooks.on_exit, hooks::words(i))),
    ("on_restart", |d, i| keep(&mut d.hooks.on_restart, hooks::words(i))),
    ("on_failed", |d, i| keep(&mut d.hooks.on_failed, hooks::words(i))),
    ("hook_timeout", |d, i| keep(&mut d.hooks.timeout, hooks::timeout(i))),
    // The loader has made instances of it.
    (INSTANCES, |_, _| {}),
];

/// The names of them all, for input that is made up.
#[cfg(test)]
pub(super) fn key_names() -> Vec<&'static str> {
    KEYS.iter().map(|(name, _)| *name).collect()
}

pub(super) const KINDS: &[(&str, ServiceType)] = &[
    ("simple", ServiceType::Simple),
    ("oneshot", ServiceType::Oneshot),
    ("forking", ServiceType::Forking),
];

pub(super) const RESTARTS: &[(&str, RestartPolicy)] = &[
    ("always", RestartPolicy::Always),
    ("on-failure", RestartPolicy::OnFailure),
    ("on-abnormal", RestartPolicy::OnAbnormal),
    ("on-abort", RestartPolicy::OnAbort),
    ("no", RestartPolicy::No),
];

/// The words of `restart_mode`.
pub(super) const RESTART_MODES: &[(&str, RestartMode)] = &[
    ("stop-first", RestartMode::StopFirst),
    ("rolling", RestartMode::Rolling),
];

pub(super) const STOP_MODES: &[(&str, StopMode)] = &[
    ("group", StopMode::Group),
    ("mixed", StopMode::Mixed),
    ("main", StopMode::Main),
];

/// What was read so far; what a file does not say has its default here.
struct ServiceDraft {
    policy: Policy,
    relations: Relations,
    /// `None`: as its kind has it.
    restart: Option<RestartPolicy>,
    /// `None`: 30 s, or `restart_delay` if that is longer.
    restart_max_delay: Option<Duration>,
    command: Option<Vec<String>>,
    user: Option<Account>,
    group: Option<u32>,
    working_directory: PathBuf,
    environment: BTreeMap<String, String>,
    environment_file: Vec<(PathBuf, bool)>,
    pass_environment: Vec<String>,
    umask: Option<u32>,
    nice: Option<i32>,
    limits: Vec<Limit>,
    confinement: Confinement,
    /// `None`: inherited, or the log.
    stdout: Option<Output>,
    /// `None`: where `stdout` goes.
    stderr: Option<Output>,
    ready: Option<Ready>,
    log: Option<Log>,
    listen: Vec<Listen>,
    fd_store: u16,
    watchdog: Option<Duration>,
    check: Option<Check>,
    reload: Option<Reload>,
    steps: Steps,
    hooks: hooks::HooksDraft,
}

impl Default for ServiceDraft {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            relations: Relations::default(),
            restart: None,
            restart_max_delay: None,
            command: None,
            user: None,
            group: None,
            working_directory: PathBuf::from("/"),
            environment: BTreeMap::new(),
            environment_file: Vec::new(),
            pass_environment: Vec::new(),
            umask: None,
            nice: None,
            limits: Vec::new(),
            confinement: Confinement::default(),
            stdout: None,
            stderr: None,
            ready: None,
            log: None,
            listen: Vec::new(),
            fd_store: 0,
            watchdog: None,
            check: None,
            reload: None,
            steps: Steps::default(),
            hooks: hooks::HooksDraft::default(),
        }
    }
}

/// Reads a service's table; `None` if there is an obstacle to its use. The agent's `general` hooks
/// stand in for those that it does not name.
pub(super) fn read(
    table: &Table<'_>,
    report: &Diagnostics,
    surroundings: &Surroundings,
    general: &hooks::Said,
) -> Option<Spec> {
    let before = report.obstacles();
    let mut draft = ServiceDraft::default();
    table.read(KEYS, &mut draft);
    let hooks = std::mem::take(&mut draft.hooks).finish(table, surroundings);
    let mut spec = finish(draft, table, report, surroundings)?;
    spec.hooks = hooks.or(general);
    Some(spec).filter(|_| report.obstacles() == before)
}

/// Checks what holds between keys, and fills in what follows from others.
fn finish(
    mut draft: ServiceDraft,
    table: &Table<'_>,
    report: &Diagnostics,
    surroundings: &Surroundings,
) -> Option<Spec> {
    draft.policy.restart_max_delay = max_delay(&draft, table);
    draft.policy.restart = restart(&draft, table);
    check_readiness(&draft, table);
    check_forking(&draft, table);
    check_rolling(&draft, table);
    check_standby(&draft, table);
    check_essential(&draft, table, surroundings.essential);
    check_descriptors(&draft, table);
    warn_of_held(&draft, table);
    warn_of_missing_directories(&draft, table);
    let (user_item, group_item) = (table.get("user"), table.get("group"));
    let user = draft.user.as_ref().zip(user_item.as_ref());
    let group = draft.group.zip(group_item.as_ref());
    // An invalid user or group has been reported; without it, the other says nothing.
    let complete = user.is_some() == user_item.is_some() && group.is_some() == group_item.is_some();
    let identity = if complete {
        accounts::identity(user, group, surroundings.uid)
    } else {
        None
    };
    let environment = environment(&draft, surroundings);
    let own = draft.environment.keys().cloned().collect();
    let environment_file = environment::lay_out(std::mem::take(&mut draft.environment_file), &own);
    let (complete, is_known) = with_files(&environment, &environment_file, table, report);
    let passed = environment::passed(&draft.pass_environment, surroundings).into_keys();
    let passed = passed.filter(|key| !own.contains(key)).collect();

    let Some(command_item) = table.get("command") else {
        table.missing("command", COMMAND);
        return None;
    };
    let arguments = draft.command.take()?;
    if is_known {
        expand::check(&arguments, &command_item, &complete);
    }
    let search = complete.get("PATH").map_or("", String::as_str);
    let program = program(arguments.first()?, &command_item, search, FAILS)?;
    find_probes(&mut draft, table, search)?;
    steps::look_up(&mut draft.steps, table, search)?;
    warn_of_access(&program, identity.as_ref(), &command_item);
    let (stdout, stderr) = log::streams(table, draft.log.as_ref(), draft.stdout, draft.stderr);
    Some(Spec {
        policy: draft.policy,
        exec: Exec {
            program,
            arguments,
            environment,
            environment_file,
            pass_environment: draft.pass_environment,
            passed,
            identity,
            working_directory: draft.working_directory,
            umask: draft.umask,
            nice: draft.nice,
            limits: draft.limits,
            stdout,
            stderr,
            ready: draft.ready,
            watchdog: draft.watchdog,
            listen: draft.listen,
            fd_store: draft.fd_store,
            confinement: draft.confinement,
        },
        hooks: Hooks::default(),
        relations: draft.relations,
        log: draft.log,
        check: draft.check,
        reload: draft.reload,
        steps: draft.steps,
        unusable: None,
    })
}

fn warn_of_access(program: &Path, identity: Option<&Identity>, command: &Item<'_>) {
    if let (Some(identity), Some([item, ..])) = (identity, command.as_array().as_deref())
        && !may_hang(program)
        && let Some(why) = access::cannot_run(program, identity)
    {
        item.warn(format!("{why}, so that {FAILS}"));
    }
}

/// Checks what holds between the keys that say how it is known how a service is.
fn check_readiness(draft: &ServiceDraft, table: &Table<'_>) {
    let is_oneshot = draft.policy.kind == ServiceType::Oneshot;
    for (key, why) in [
        ("ready", "is ready when it is done"),
        ("watchdog", "ends by itself"),
        ("check", "ends by itself"),
        ("after_start", "is up when it is done"),
    ] {
        if is_oneshot && let Some(item) = table.get(key) {
            item.problem_at_key(format!("a oneshot service {why}; leave this out"));
        }
    }
    if is_oneshot
        && let (Some(Reload::Signal(_) | Reload::Notify(_)), Some(item)) =
            (&draft.reload, table.get("reload"))
    {
        item.expected(
            "a command",
            Some("a oneshot service that is done has no process to send a signal to"),
        );
    }
    let notifies = draft.ready == Some(Ready::Notify) || draft.watchdog.is_some();
    if !notifies && let (Some(Reload::Notify(_)), Some(item)) = (&draft.reload, table.get("reload"))
    {
        item.problem("notify = true needs a service that notifies: set ready = { notify = true }");
    }
    let Steps {
        conditions,
        before_start,
        after_start,
        ..
    } = &draft.steps;
    let may_take_long = draft.ready.is_some()
        || !before_start.is_empty()
        || !after_start.is_empty()
        || !conditions.is_empty()
        || draft.policy.kind == ServiceType::Forking
        || matches!(draft.reload, Some(Reload::Command(_) | Reload::Notify(_)));
    if !may_take_long && let Some(item) = table.get("start_timeout") {
        item.warn(
            "it limits how long `ready`, `before_start`, `after_start` and a command in `reload` may \
             take, and this service has none",
        );
    }
}

/// A program that goes into the background has nothing passed to it.
fn check_forking(draft: &ServiceDraft, table: &Table<'_>) {
    if draft.policy.kind != ServiceType::Forking {
        if let Some(item) = table.get("pid_file") {
            item.problem_at_key("this only has a meaning for type = \"forking\"; leave it out");
        }
        return;
    }
    let by_itself = matches!(draft.ready, Some(Ready::Fd(_) | Ready::Notify));
    for (key, is_refused) in [
        ("ready", by_itself),
        ("watchdog", true),
        ("listen", true),
        ("fd_store", draft.fd_store > 0),
    ] {
        if is_refused && let Some(item) = table.get(key) {
            item.problem_at_key(
                "this needs a program that stays in the foreground, with type = \"simple\"",
            );
        }
    }
}

/// Two instances run side by side for a while, and it has to be known when the next one serves.
fn check_rolling(draft: &ServiceDraft, table: &Table<'_>) {
    let Some(item) = table
        .get("restart_mode")
        .filter(|_| draft.policy.restart_mode == RestartMode::Rolling)
    else {
        return;
    };
    let says = matches!(draft.ready, Some(Ready::Notify | Ready::Fd(_)));
    let needs = match () {
        () if draft.policy.kind != ServiceType::Simple => "type = \"simple\"",
        () if draft.listen.is_empty() => {
            "held sockets: set listen, so that both instances can serve at one address"
        }
        () if !says => {
            "a service that says when it is ready: set ready = { notify = true } or { fd = N }, for a probe \
             would find the instance that still runs"
        }
        () => return check_rolling_steps(table),
    };
    item.problem(format!("\"rolling\" needs {needs}"));
}

/// These are for a service that is started and stopped as a whole.
fn check_rolling_steps(table: &Table<'_>) {
    for key in ["after_start", "before_stop", "stop_command"] {
        if let Some(item) = table.get(key) {
            item.problem_at_key("this cannot be together with restart_mode = \"rolling\"");
        }
    }
}

/// What waits for its start is the program itself, and runs on.
fn check_standby(draft: &ServiceDraft, table: &Table<'_>) {
    let Some(item) = table.get("standby").filter(|_| draft.policy.standby) else {
        return;
    };
    if draft.policy.kind != ServiceType::Simple {
        item.problem_at_key("this needs type = \"simple\"");
    }
}

/// An agent that goes on without an essential service keeps up what nobody has any use for.
fn check_essential(draft: &ServiceDraft, table: &Table<'_>, agent: Essential) {
    const NEEDS: &str = "PID 1 of a container, or is started with --exit-with-essential";
    let Some(item) = table.get("essential").filter(|_| draft.policy.essential) else {
        return;
    };
    match agent {
        Essential::Heeded => {}
        Essential::Unknown => item.warn(format!(
            "the agent refuses this service, unless it is {NEEDS}"
        )),
        Essential::Refused => item.problem(format!(
            "expected false, for this agent does not end with a service: that takes one that is {NEEDS}"
        )),
    }
}

/// Sockets and stored descriptors are for what stays, and what `ready` names must not be one of them.
fn check_descriptors(draft: &ServiceDraft, table: &Table<'_>) {
    for (key, is_there) in [
        ("listen", !draft.listen.is_empty()),
        ("fd_store", draft.fd_store > 0),
    ] {
        if draft.policy.kind == ServiceType::Oneshot
            && is_there
            && let Some(item) = table.get(key)
        {
            item.problem_at_key("a oneshot service ends by itself; leave this out");
        }
    }
    let sockets = u16::try_from(draft.listen.len()).unwrap_or(u16::MAX);
    let handed = sockets.saturating_add(draft.fd_store);
    let free = u16::from(FIRST_DESCRIPTOR).saturating_add(handed);
    let Some((Ready::Fd(fd), item)) = draft.ready.as_ref().zip(table.get("ready")) else {
        return;
    };
    if u16::from(*fd) >= free {
        return;
    }
    let why = match draft.fd_store {
        0 => "those below are the sockets of `listen`",
        _ => "those below are the sockets of `listen` and the stored descriptors (`fd_store`)",
    };
    match u8::try_from(free) {
        Ok(free) => item.expected(&format!("a descriptor from {free} on"), Some(why)),
        Err(_) => item.problem("no descriptor is left for it: make `fd_store` smaller"),
    }
}

/// The kernel accepts connections to a socket that is held, whether or not the service does.
fn warn_of_held(draft: &ServiceDraft, table: &Table<'_>) {
    let ready = match &draft.ready {
        Some(Ready::Probe(probe)) => Some(probe),
        _ => None,
    };
    let check = draft.check.as_ref().map(|check| &check.probe);
    for (key, probe) in [("ready", ready), ("check", check)] {
        let is_held = probe.is_some_and(|probe| {
            let mut held = draft.listen.iter();
            held.any(|listen| match (probe, &listen.address) {
                (Probe::Tcp(probe), Address::Tcp(held)) => {
                    let is_all = held.ip().is_unspecified();
                    probe.port() == held.port() && (is_all || probe.ip() == held.ip())
                }
                (Probe::Unix(probe), Address::Unix(held)) => probe == held,
                _ => false,
            })
        });
        if is_held && let Some(item) = table.get(key) {
            item.warn(
                "the socket is held, so that a connection succeeds before the service accepts it; have an \
                 http probe, or have the service say it",
            );
        }
    }
}

/// How many descriptors are kept for it.
fn fd_store(item: &Item<'_>) -> Option<u16> {
    item.integer("a number of descriptors", 0..=MOST_STORED.into())
}

/// How it says that it is ready, and who may.
fn ready(draft: &mut ServiceDraft, item: &Item<'_>) {
    if let Some((ready, access)) = probes::ready(item) {
        draft.ready = Some(ready);
        draft.policy.notify_access = access;
    }
}

/// The keys of `reload` as a table, a line each.
#[rustfmt::skip]
const RELOAD: &Keys<NotifyingReload> = &[
    ("signal", |d, i| keep(&mut d.signal, signal(i))),
    ("notify", |d, i| keep(&mut d.notify, i.boolean())),
];

struct NotifyingReload {
    signal: Signal,
    notify: bool,
}

/// A signal, the same with a notification that it is done, or a command.
fn reload(item: &Item<'_>) -> Option<Reload> {
    let is_command = |table: &Table<'_>| table.get("run").is_some();
    if item.as_array().is_some() || item.as_table().as_ref().is_some_and(is_command) {
        return steps::step(item).map(Reload::Command);
    }
    if let Some(table) = item.as_table() {
        let mut draft = NotifyingReload {
            signal: Signal::HUP,
            notify: false,
        };
        table.read(RELOAD, &mut draft);
        return Some(match draft.notify {
            true => Reload::Notify(draft.signal),
            false => Reload::Signal(draft.signal),
        });
    }
    if item.as_str().is_none() && item.as_integer().is_none() {
        item.expected(
            "a signal such as \"SIGHUP\", a command such as [\"/usr/sbin/example\", \"reload\"] or \
             { run = [..], timeout = \"5s\" }, or { signal = \"SIGHUP\", notify = true }",
            None,
        );
        return None;
    }
    signal(item).map(Reload::Signal)
}

/// Looks up the programs of its probes, and of its reload.
fn find_probes(draft: &mut ServiceDraft, table: &Table<'_>, search: &str) -> Option<()> {
    if let (Some(Reload::Command(step)), Some(item)) = (&mut draft.reload, table.get("reload")) {
        steps::look_up_one(step, &item, search, "reloading it fails")?;
    }
    if let (Some(Ready::Probe(probe)), Some(item)) = (&mut draft.ready, table.get("ready")) {
        probes::look_up(probe, &item, search)?;
    }
    if let (Some(check), Some(item)) = (&mut draft.check, table.get("check")) {
        probes::look_up(&mut check.probe, &item, search)?;
    }
    Some(())
}

/// A oneshot service that has done its work has done it.
fn restart(draft: &ServiceDraft, table: &Table<'_>) -> RestartPolicy {
    let is_oneshot = draft.policy.kind == ServiceType::Oneshot;
    let restart = match draft.restart {
        None if is_oneshot => RestartPolicy::No,
        None => RestartPolicy::Always,
        Some(restart) => restart,
    };
    if is_oneshot
        && restart == RestartPolicy::Always
        && let Some(item) = table.get("restart")
    {
        let why = "a oneshot service is done when it exits with success";
        item.expected("\"no\" or \"on-failure\"", Some(why));
    }
    restart
}

fn max_delay(draft: &ServiceDraft, table: &Table<'_>) -> Duration {
    let delay = draft.policy.restart_delay;
    match (draft.restart_max_delay, table.get("restart_max_delay")) {
        (Some(max), Some(item)) => {
            if max < delay {
                item.expected(&format!("at least restart_delay, which is {delay:?}"), None);
            }
            max
        }
        _ => delay.max(draft.policy.restart_max_delay),
    }
}

/// The environment without what `environment_file` adds, in the order that the module's head gives.
fn environment(draft: &ServiceDraft, surroundings: &Surroundings) -> BTreeMap<String, String> {
    let mut environment = environment::base(surroundings);
    environment.extend(environment::passed(&draft.pass_environment, surroundings));
    environment.extend(draft.user.iter().flat_map(Account::environment));
    environment.extend(draft.confinement.directories.environment());
    environment.extend(draft.environment.clone());
    environment
}

/// The environment with what the files add, and whether that is known. The agent's loop may wait for this:
/// what may hang is read at each start alone.
fn with_files(
    environment: &BTreeMap<String, String>,
    files: &[EnvironmentFile],
    table: &Table<'_>,
    report: &Diagnostics,
) -> (BTreeMap<String, String>, bool) {
    let mut complete = environment.clone();
    if files.iter().any(|file| may_hang(&file.path)) {
        return (complete, false);
    }
    if let Some(item) = table.get("environment_file") {
        for file in files {
            file.lay_under(&mut complete, variables(file, &item, report));
        }
    }
    (complete, true)
}

/// What is in the environment file now. Each start reads it again, so that what is wrong with it
/// need not be wrong for long. A file that cannot be read is reported at the key that names it, a
/// bad line at the line.
fn variables(
    file: &EnvironmentFile,
    item: &Item<'_>,
    report: &Diagnostics,
) -> Vec<(String, String)> {
    let path = &file.path;
    if file.optional && fs::metadata(path).is_err_and(|error| error.kind() == NotFound) {
        return Vec::new();
    }
    let of_file = Diagnostics::default();
    let source = Source::read(path, &of_file);
    let (problems, _) = of_file.finish();
    for problem in problems {
        let message = format!("{}: {}", printable(path), problem.message);
        item.problem_until(Ends::AtStart, message);
    }
    source.map_or_else(Vec::new, |source| {
        environment::file(&source, &item.path, report)
    })
}

/// argv: at least one word, and the first not empty.
pub(super) fn command(item: &Item<'_>) -> Option<Vec<String>> {
    let Some(items) = item.as_array() else {
        let hint = item
            .as_str()
            .map(|_| r#"no shell reads it: for one, write ["/bin/sh", "-c", "…"]"#);
        item.expected(COMMAND, hint);
        return None;
    };
    let words: Vec<_> = items.iter().map(|item| item.string("a string")).collect();
    let words: Option<Vec<_>> = words.into_iter().collect();
    let words: Vec<_> = words?.into_iter().map(str::to_owned).collect();
    match (items.first(), words.first()) {
        (Some(item), Some(first)) if first.is_empty() => {
            item.expected("a program", None);
            None
        }
        (_, None) => {
            item.expected(COMMAND, None);
            None
        }
        _ => Some(words),
    }
}

/// The program's absolute path. One that does not exist is only warned about: the start fails
/// and is tried again, and the program may be on a file system that is mounted later.
/// `fails`: what comes of that.
pub(super) fn program(
    word: &str,
    command: &Item<'_>,
    search: &str,
    fails: &str,
) -> Option<PathBuf> {
    let items = command.as_array()?;
    let item = items.first()?;
    let path = Path::new(word);
    if path.is_absolute() {
        if may_hang(path) {
            // Its start will tell.
        } else if let Some(why) = not_runnable(path) {
            item.warn(format!("{why}, so that {fails}"));
        } else if ends_in_carriage_return(path) {
            item.warn(format!(
                "the first line of {} ends in a carriage return (a Windows line end), so that {fails}; \
                 remove it from each line with sed -i 's/\\r$//'",
                printable(path)
            ));
        }
        return Some(path.to_owned());
    }
    if word.contains('/') {
        item.expected("an absolute path, or a name to look up in PATH", None);
        return None;
    }
    let found = item.context.host.find(word, search);
    for place in &found.newly {
        let place = printable(place);
        item.warn(format!("{place} in PATH was left out: {NO_ANSWER}"));
    }
    if found.program.is_none() {
        let (word, search) = (quoted(word), search.escape_debug());
        let mut message = format!("no program {word} is in PATH ({search})");
        if !found.left_out.is_empty() {
            let left_out: Vec<String> = found.left_out.iter().map(|it| printable(it)).collect();
            message += &format!("; left out: {}: {NO_ANSWER}", left_out.join(", "));
        }
        item.problem_until(Ends::WithTheHost, message);
    }
    found.program
}

/// Of a place that may be on a mount.
const NO_ANSWER: &str = "it does not answer, as on a mount whose server is gone";

/// Whether it is a script whose line `#!…` has a Windows line end.
fn ends_in_carriage_return(path: &Path) -> bool {
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(256).read_to_end(&mut text));
    let line = text.split(|byte| *byte == b'\n').next();
    let line = line.filter(|line| read.is_ok() && line.starts_with(b"#!"));
    line.is_some_and(|line| line.ends_with(b"\r"))
}

/// Warns of directories that are not there, unless a start makes them.
fn warn_of_missing_directories(draft: &ServiceDraft, table: &Table<'_>) {
    let directories = &draft.confinement.directories;
    let is_missing =
        |path: &Path| !may_hang(path) && !path.is_dir() && !confinement::makes(directories, path);
    if let Some(item) = table.get("working_directory")
        && is_missing(&draft.working_directory)
    {
        item.warn("is not a directory, so starting the service fails");
    }
    if let (Some(path), Some(item)) = (draft.log.as_ref().and_then(Log::path), table.get("log"))
        && path.parent().is_none_or(is_missing)
    {
        item.warn("its directory does not exist; the output waits until it does");
    }
    for (key, output) in [
        ("stdout", draft.stdout.as_ref()),
        ("stderr", draft.stderr.as_ref()),
    ] {
        if let (Some(Output::File(path)), Some(item)) = (output, table.get(key))
            && path.parent().is_none_or(is_missing)
        {
            item.warn("its directory does not exist, so that starting the service fails");
        }
    }
}

fn umask(item: &Item<'_>) -> Option<u32> {
    octal(item, "a mask in octal such as \"0027\"")
}

/// An octal string, or TOML's own octal integer: 27 could mean both 027 and 033.
pub(super) fn octal(item: &Item<'_>, what: &str) -> Option<u32> {
    let digits = |text: &&str| text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mask = match (item.as_str(), item.as_integer()) {
        (Some(text), _) => Some(text)
            .filter(digits)
            .and_then(|text| u32::from_str_radix(text, 8).ok()),
        (None, Some((mask, 8))) => u32::try_from(mask).ok(),
        (None, Some((mask, _))) => {
            item.expected(
                what,
                Some(&format!("write \"{mask:04}\", if that was meant")),
            );
            return None;
        }
        (None, None) => None,
    };
    let mask = mask.filter(|mask| *mask <= 0o777);
    if mask.is_none() {
        item.expected(what, Some("from \"0000\" to \"0777\""));
    }
    mask
}

/// Names of services. Whether they exist is known only when all files are read.
fn names(item: &Item<'_>) -> Option<BTreeSet<ServiceName>> {
    const WHAT: &str = r#"an array of names of services such as ["db"]"#;
    const NAME: &str = "the name of a service";
    let names = item.array(WHAT)?.into_iter().map(|item| {
        let name = item.string(NAME)?;
        if !is_service_name(name) {
            item.expected(NAME, None);
            return None;
        }
        Some(name.into())
    });
    // All that is wrong with them is told.
    names.collect::<Vec<_>>().into_iter().collect()
}

fn start_timeout(item: &Item<'_>) -> Option<Duration> {
    let timeout = value::timeout(item)?;
    if timeout.is_zero() {
        item.expected("a duration above 0, or \"infinity\" for no limit", None);
        return None;
    }
    Some(timeout)
}

fn stop_timeout(item: &Item<'_>) -> Option<Duration> {
    let timeout = value::timeout(item)?;
    if timeout.is_zero() {
        item.warn(
            "SIGKILL follows the stop signal at once, so that nothing can be saved; write \"infinity\" \
             for no limit",
        );
    }
    Some(timeout)
}

#[derive(Default)]
struct StartLimitDraft {
    burst: Option<u32>,
    interval: Option<Duration>,
}

#[rustfmt::skip]
const START_LIMIT: &Keys<StartLimitDraft> = &[
    ("burst", |d, i| keep(&mut d.burst, i.integer::<u32>("a number of starts", 1..=1000))),
    ("interval", |d, i| keep(&mut d.interval, interval(i))),
];

fn start_limit(item: &Item<'_>) -> Option<StartLimit> {
    let table = item.table(r#"a table such as { burst = 5, interval = "10s" }"#)?;
    let mut draft = StartLimitDraft::default();
    table.read(START_LIMIT, &mut draft);
    if table.get("burst").is_none() {
        table.missing("burst", "a number of starts");
    }
    if table.get("interval").is_none() {
        table.missing("interval", "a duration such as \"10s\"");
    }
    Some(StartLimit {
        burst: draft.burst?,
        interval: draft.interval?,
    })
}

pub(super) fn interval(item: &Item<'_>) -> Option<Duration> {
    let interval = duration(item)?;
    if interval.is_zero() {
        item.expected("a duration longer than nothing", None);
        return None;
    }
    Some(interval)
}

/// Sorted, each once.
fn exit_status(item: &Item<'_>) -> Option<Vec<u8>> {
    let items = item.array("an array of exit statuses such as [0, 3]")?;
    let statuses: Vec<_> = items
        .iter()
        .map(|item| item.integer("an exit status", 0..=255))
        .collect();
    let mut statuses = statuses.into_iter().collect::<Option<Vec<u8>>>()?;
    statuses.sort_unstable();
    statuses.dedup();
    Some(statuses)
}

fn signal(item: &Item<'_>) -> Option<Signal> {
    let text = match item.as_integer() {
        Some((number, _)) => number.to_string(),
        None => item.string("a signal such as \"SIGTERM\"")?.to_owned(),
    };
    text.parse()
        .map_err(|unknown: UnknownSignal| item.problem(unknown.to_string()))
        .ok()
}

fn output(item: &Item<'_>) -> Option<Output> {
    const WHAT: &str = r#"an absolute path, "null" or "inherit""#;
    match item.string(WHAT)? {
        "null" => Some(Output::Null),
        "inherit" => Some(Output::Inherit),
        path if Path::new(path).is_absolute() => Some(Output::File(PathBuf::from(path))),
        _ => {
            item.expected(WHAT, None);
            None
        }
    }
}

fn last_output(item: &Item<'_>) -> Option<u64> {
    value::size_within(item, 0..=LAST_OUTPUT_MAX, "a size of at most \"64KiB\"")
}

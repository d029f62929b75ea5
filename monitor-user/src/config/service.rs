//! One service's table to one [`Spec`]: all keys of a service file, and what holds between them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{
    EnvironmentFile, Exec, Hooks, Limit, Output, Policy, RestartPolicy, Signal, Spec, StartLimit,
    StopMode, UnknownSignal,
};

use super::Surroundings;
use super::access;
use super::accounts::{self, Account};
use super::cursor::{Item, Keys, Table, keep, quoted};
use super::environment;
use super::hooks;
use super::limits::limits;
use super::problem::{Ends, Report, printable};
use super::source::Source;
use super::value::{self, absolute_path, duration, word};

const COMMAND: &str = r#"an array of words such as ["/usr/bin/example", "--flag"]"#;

/// It goes into the journal with every exit.
const LAST_OUTPUT_MAX: u64 = 64 << 10;
/// What comes of a program that cannot be run.
const FAILS: &str = "starting the service fails";

/// Every key of a service, each with its reader, a line each.
#[rustfmt::skip]
const KEYS: &Keys<Draft> = &[
    ("command", |d, i| keep(&mut d.command, command(i))),
    ("user", |d, i| keep(&mut d.user, accounts::user(i))),
    ("group", |d, i| keep(&mut d.group, accounts::group(i))),
    ("working_directory", |d, i| keep(&mut d.working_directory, working_directory(i))),
    ("environment", |d, i| keep(&mut d.environment, environment::table(i))),
    ("environment_file", |d, i| keep(&mut d.environment_file, absolute_path(i))),
    ("umask", |d, i| keep(&mut d.umask, umask(i))),
    ("nice", |d, i| keep(&mut d.nice, i.integer::<i32>("an integer", -20..=19))),
    ("limits", |d, i| keep(&mut d.limits, limits(i))),
    ("restart", |d, i| keep(&mut d.policy.restart, word(i, RESTARTS))),
    ("restart_delay", |d, i| keep(&mut d.policy.restart_delay, duration(i))),
    ("restart_max_delay", |d, i| keep(&mut d.restart_max_delay, duration(i))),
    ("stable_after", |d, i| keep(&mut d.policy.stable_after, duration(i))),
    ("start_limit", |d, i| keep(&mut d.policy.start_limit, start_limit(i))),
    ("success_exit_status", |d, i| keep(&mut d.policy.success_exit_status, exit_status(i))),
    ("stop_signal", |d, i| keep(&mut d.policy.stop_signal, signal(i))),
    ("stop_timeout", |d, i| keep(&mut d.policy.stop_timeout, stop_timeout(i))),
    ("stop_mode", |d, i| keep(&mut d.policy.stop_mode, word(i, STOP_MODES))),
    ("start_check", |d, i| keep(&mut d.policy.start_check, duration(i))),
    ("overlap", |d, i| keep(&mut d.policy.overlap, i.boolean())),
    ("stdout", |d, i| keep(&mut d.stdout, output(i))),
    ("stderr", |d, i| keep(&mut d.stderr, output(i))),
    ("last_output", |d, i| keep(&mut d.policy.last_output, last_output(i))),
    ("on_exit", |d, i| keep(&mut d.hooks.on_exit, hooks::words(i))),
    ("on_restart", |d, i| keep(&mut d.hooks.on_restart, hooks::words(i))),
    ("on_failed", |d, i| keep(&mut d.hooks.on_failed, hooks::words(i))),
    ("hook_timeout", |d, i| keep(&mut d.hooks.timeout, hooks::timeout(i))),
];

/// The names of them all, for input that is made up.
#[cfg(test)]
pub(super) fn key_names() -> Vec<&'static str> {
    KEYS.iter().map(|(name, _)| *name).collect()
}

pub(super) const RESTARTS: &[(&str, RestartPolicy)] = &[
    ("always", RestartPolicy::Always),
    ("on-failure", RestartPolicy::OnFailure),
    ("no", RestartPolicy::No),
];

pub(super) const STOP_MODES: &[(&str, StopMode)] = &[
    ("group", StopMode::Group),
    ("mixed", StopMode::Mixed),
    ("main", StopMode::Main),
];

/// What was read so far; what a file does not say has its default here.
struct Draft {
    policy: Policy,
    /// `None`: 30 s, or `restart_delay` if that is longer.
    restart_max_delay: Option<Duration>,
    command: Option<Vec<String>>,
    user: Option<Account>,
    group: Option<u32>,
    working_directory: PathBuf,
    environment: BTreeMap<String, String>,
    environment_file: Option<PathBuf>,
    umask: Option<u32>,
    nice: Option<i32>,
    limits: Vec<Limit>,
    stdout: Output,
    /// `None`: where `stdout` goes.
    stderr: Option<Output>,
    hooks: hooks::Draft,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            restart_max_delay: None,
            command: None,
            user: None,
            group: None,
            working_directory: PathBuf::from("/"),
            environment: BTreeMap::new(),
            environment_file: None,
            umask: None,
            nice: None,
            limits: Vec::new(),
            stdout: Output::Inherit,
            stderr: None,
            hooks: hooks::Draft::default(),
        }
    }
}

/// Reads a service's table; `None` if there is an obstacle to its use. The agent's `general` hooks
/// stand in for those that it does not name.
pub(super) fn read(
    table: &Table<'_>,
    report: &Report,
    surroundings: &Surroundings,
    general: &hooks::Said,
) -> Option<Spec> {
    let before = report.obstacles();
    let mut draft = Draft::default();
    table.read(KEYS, &mut draft);
    let hooks = std::mem::take(&mut draft.hooks).finish(table, surroundings);
    let mut spec = finish(draft, table, report, surroundings)?;
    spec.hooks = hooks.or(general);
    Some(spec).filter(|_| report.obstacles() == before)
}

/// Checks what holds between keys, and fills in what follows from others.
fn finish(
    mut draft: Draft,
    table: &Table<'_>,
    report: &Report,
    surroundings: &Surroundings,
) -> Option<Spec> {
    draft.policy.restart_max_delay = max_delay(&draft, table);
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
    let environment_file = draft.environment_file.take().map(|path| EnvironmentFile {
        path,
        beneath: draft.environment.keys().cloned().collect(),
    });
    let from_file = environment_file
        .as_ref()
        .zip(table.get("environment_file"))
        .map_or_else(Vec::new, |(file, item)| {
            variables(&file.path, &item, report)
        });

    let Some(command_item) = table.get("command") else {
        table.missing("command", COMMAND);
        return None;
    };
    let arguments = draft.command?;
    let complete = match &environment_file {
        Some(file) => file.lay_under(environment.clone(), from_file),
        None => environment.clone(),
    };
    let search = complete.get("PATH").map_or("", String::as_str);
    let program = program(arguments.first()?, &command_item, search, FAILS)?;
    if let (Some(identity), Some([item, ..])) = (&identity, command_item.as_array().as_deref())
        && let Some(why) = access::cannot_run(&program, identity)
    {
        item.warn(format!("{why}, so that {FAILS}"));
    }
    Some(Spec {
        policy: draft.policy,
        exec: Exec {
            program,
            arguments,
            environment,
            environment_file,
            identity,
            working_directory: draft.working_directory,
            umask: draft.umask,
            nice: draft.nice,
            limits: draft.limits,
            stderr: draft.stderr.unwrap_or_else(|| draft.stdout.clone()),
            stdout: draft.stdout,
        },
        hooks: Hooks::default(),
        unusable: None,
    })
}

fn max_delay(draft: &Draft, table: &Table<'_>) -> Duration {
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
fn environment(draft: &Draft, surroundings: &Surroundings) -> BTreeMap<String, String> {
    let mut environment = environment::base(surroundings);
    environment.extend(draft.user.iter().flat_map(Account::environment));
    environment.extend(draft.environment.clone());
    environment
}

/// What is in the environment file now. Each start reads it again, so that what is wrong with it
/// need not be wrong for long. A file that cannot be read is reported at the key that names it, a
/// bad line at the line.
fn variables(path: &Path, item: &Item<'_>, report: &Report) -> Vec<(String, String)> {
    let of_file = Report::default();
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
        if let Some(why) = not_runnable(path) {
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
    let directories = search.split(':').map(Path::new);
    let found = directories
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(word))
        .find(|path| not_runnable(path).is_none());
    if found.is_none() {
        let (word, search) = (quoted(word), search.escape_debug());
        let message = format!("no program {word} is in PATH ({search})");
        item.problem_until(Ends::WithTheHost, message);
    }
    found
}

fn not_runnable(path: &Path) -> Option<String> {
    let name = printable(path);
    match fs::metadata(path) {
        Err(error) => Some(format!("cannot find {name}: {error}")),
        Ok(metadata) if !metadata.is_file() => Some(format!("{name} is not a regular file")),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            Some(format!("{name} is not executable"))
        }
        Ok(_) => None,
    }
}

/// Whether it is a script whose line `#!…` has a Windows line end.
fn ends_in_carriage_return(path: &Path) -> bool {
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(256).read_to_end(&mut text));
    let line = text.split(|byte| *byte == b'\n').next();
    let line = line.filter(|line| read.is_ok() && line.starts_with(b"#!"));
    line.is_some_and(|line| line.ends_with(b"\r"))
}

fn working_directory(item: &Item<'_>) -> Option<PathBuf> {
    let path = absolute_path(item)?;
    if !path.is_dir() {
        item.warn("is no directory, so that starting the service fails");
    }
    Some(path)
}

/// An octal string, or TOML's own octal integer: 27 could mean both 027 and 033.
fn umask(item: &Item<'_>) -> Option<u32> {
    const WHAT: &str = r#"a mask in octal such as "0027""#;
    let digits = |text: &&str| text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mask = match (item.as_str(), item.as_integer()) {
        (Some(text), _) => Some(text)
            .filter(digits)
            .and_then(|text| u32::from_str_radix(text, 8).ok()),
        (None, Some((mask, 8))) => u32::try_from(mask).ok(),
        (None, Some((mask, _))) => {
            item.expected(
                WHAT,
                Some(&format!("write \"{mask:04}\", if that was meant")),
            );
            return None;
        }
        (None, None) => None,
    };
    let mask = mask.filter(|mask| *mask <= 0o777);
    if mask.is_none() {
        item.expected(WHAT, Some("from \"0000\" to \"0777\""));
    }
    mask
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
        path if Path::new(path).is_absolute() => {
            let path = PathBuf::from(path);
            if path.parent().is_none_or(|parent| !parent.is_dir()) {
                item.warn("its directory does not exist, so that starting the service fails");
            }
            Some(Output::File(path))
        }
        _ => {
            item.expected(WHAT, None);
            None
        }
    }
}

fn last_output(item: &Item<'_>) -> Option<u64> {
    value::size_within(item, 0..=LAST_OUTPUT_MAX, "a size of at most \"64KiB\"")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_tells_of_every_key() {
        crate::config::cursor::assert_in_readme(super::KEYS);
    }
}

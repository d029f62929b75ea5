//! The key `log`: what a service's output goes to by way of the logger.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::cursor::{Item, Keys, Table, keep};
use super::describe;
use super::service::interval;
use super::value::{absolute_path, size_within, word};
use crate::model::{Log, OnFull, Output, Spec, Target};
use crate::recorder::journald;

const WHAT: &str = r#"a table such as { path = "/var/log/x.log", max_size = "10MiB" }"#;

/// Where syslogd listens.
const SYSLOG: &str = "/dev/log";

/// Smaller files would hold less than a line.
const SMALLEST: u64 = 64 << 10;

/// How many rotated files there may be: each rotation renames them.
const MOST_KEPT: i64 = 1000;

const ON_FULL: &[(&str, OnFull)] = &[("wait", OnFull::Wait), ("drop", OnFull::Drop)];

/// The keys that say who gets the lines.
const TARGETS: [&str; 4] = ["path", "syslog", "journald", "stdout"];

/// The keys that have a meaning for a file alone.
const OF_FILES: [&str; 4] = ["max_size", "keep", "max_age", "compress"];

/// What was read so far.
#[derive(Default)]
struct LogDraft {
    target: Option<Target>,
    max_size: Option<u64>,
    keep: Option<u32>,
    timestamps: Option<bool>,
    max_age: Option<Duration>,
    compress: Option<bool>,
    on_full: Option<OnFull>,
}

#[rustfmt::skip]
const KEYS: &Keys<LogDraft> = &[
    ("path", |d, i| keep(&mut d.target, file(i))),
    ("syslog", |d, i| keep(&mut d.target, socket(i, SYSLOG).map(Target::Syslog))),
    ("journald", |d, i| keep(&mut d.target, socket(i, journald::SOCKET).map(Target::Journald))),
    ("stdout", |d, i| keep(&mut d.target, is_wanted(i).then_some(Target::Stdout))),
    ("max_size", |d, i| keep(&mut d.max_size, size_within(i, SMALLEST..=1 << 50, "a size of at least \"64KiB\""))),
    ("keep", |d, i| keep(&mut d.keep, i.integer::<u32>("a number of rotated files", 0..=MOST_KEPT))),
    ("timestamps", |d, i| keep(&mut d.timestamps, i.boolean())),
    ("max_age", |d, i| keep(&mut d.max_age, interval(i))),
    ("compress", |d, i| keep(&mut d.compress, i.boolean())),
    ("on_full", |d, i| keep(&mut d.on_full, word(i, ON_FULL))),
];

fn file(item: &Item<'_>) -> Option<Target> {
    let path = absolute_path(item)?;
    if path.file_name().is_none() {
        item.expected("the absolute path of a file", None);
        return None;
    }
    Some(Target::File(path))
}

/// The usual one, or another one.
fn socket(item: &Item<'_>, usual: &str) -> Option<PathBuf> {
    match item.as_str() {
        Some(_) => absolute_path(item),
        None => is_wanted(item).then(|| usual.into()),
    }
}

fn is_wanted(item: &Item<'_>) -> bool {
    let wanted = item.boolean();
    if wanted == Some(false) {
        item.problem("leave it out, and say where the output goes instead");
    }
    wanted == Some(true)
}

pub(super) fn log(item: &Item<'_>) -> Option<Log> {
    let table = item.table(WHAT)?;
    let mut draft = LogDraft::default();
    table.read(KEYS, &mut draft);
    let targets: Vec<_> = TARGETS.iter().filter_map(|key| table.get(key)).collect();
    match targets.as_slice() {
        [] => table.missing("path", "the absolute path of a file"),
        [_, second, ..] => second.problem_at_key("a log has one target; leave one of them out"),
        [_] => {}
    }
    let mut log = Log::to(draft.target?);
    let mut useless = Vec::new();
    if log.path().is_none() {
        useless.extend(OF_FILES);
    }
    if matches!(log.target, Target::Syslog(_) | Target::Journald(_)) {
        useless.push("timestamps");
    }
    for item in useless.iter().filter_map(|key| table.get(key)) {
        item.problem_at_key("this only has a meaning for a file; leave it out");
    }
    keep(&mut log.max_size, draft.max_size);
    keep(&mut log.keep, draft.keep);
    keep(&mut log.timestamps, draft.timestamps);
    keep(&mut log.compress, draft.compress);
    keep(&mut log.on_full, draft.on_full);
    log.max_age = draft.max_age;
    Some(log)
}

/// Where the streams go: with a log there.
pub(super) fn streams(
    table: &Table<'_>,
    log: Option<&Log>,
    stdout: Option<Output>,
    stderr: Option<Output>,
) -> (Output, Output) {
    let items = ["stdout", "stderr"].map(|key| table.get(key));
    for item in items
        .iter()
        .flatten()
        .filter(|_| table.get("log").is_some())
    {
        item.problem_at_key("the output goes to `log`; leave one of the two out");
    }
    let stdout = stdout.unwrap_or(match log {
        Some(_) => Output::Log,
        None => Output::Inherit,
    });
    let stderr = stderr.unwrap_or_else(|| stdout.clone());
    (stdout, stderr)
}

pub(super) fn describe(spec: &Spec) -> Value {
    let Some(log) = &spec.log else {
        return Value::Null;
    };
    let on_full = describe::word(ON_FULL, log.on_full);
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    match &log.target {
        Target::Syslog(socket) => json!({ "syslog": path(socket), "on_full": on_full }),
        Target::Journald(socket) => json!({ "journald": path(socket), "on_full": on_full }),
        Target::Stdout => {
            json!({ "stdout": true, "timestamps": log.timestamps, "on_full": on_full })
        }
        Target::File(file) => {
            let mut value = json!({
                "path": path(file),
                "max_size": log.max_size,
                "keep": log.keep,
                "timestamps": log.timestamps,
                "compress": log.compress,
                "on_full": on_full,
            });
            if let (Some(table), Some(age)) = (value.as_object_mut(), log.max_age) {
                table.insert("max_age".to_owned(), describe::duration(age));
            }
            value
        }
    }
}

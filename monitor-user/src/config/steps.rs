//! The commands around the run of a service, and what has to hold for it to be started.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::accounts;
use super::confinement;
use super::cursor::{Item, Keys, Table, keep};
use super::describe::duration;
use super::expand;
use super::hooks;
use super::service::{command, program};
use crate::model::{Condition, Identity, Phase, Step, Steps, Test};

const COMMANDS: &str = r#"an array of commands such as [["/usr/sbin/nginx", "-t"]]"#;
const COMMAND: &str = r#"a command such as ["/usr/bin/example", "--flag"], or a table such as { run = [..], timeout = "5s" }"#;
const PATHS: &str = r#"an absolute path, with a ! before it for the opposite, or an array of such"#;

/// What was read of one command.
#[derive(Default)]
struct StepDraft {
    run: Option<Vec<String>>,
    identity: Option<Identity>,
    timeout: Option<std::time::Duration>,
    ignore_failure: bool,
}

/// The keys of a command in its long form, a line each.
#[rustfmt::skip]
const STEP: &Keys<StepDraft> = &[
    ("run", |d, i| keep(&mut d.run, command(i))),
    ("user", |d, i| keep(&mut d.identity, accounts::identity_of_user(i))),
    ("timeout", |d, i| keep(&mut d.timeout, hooks::timeout(i))),
    ("ignore_failure", |d, i| keep(&mut d.ignore_failure, i.boolean())),
];

/// The keys of `conditions`, a line each.
#[rustfmt::skip]
const CONDITIONS: &Keys<Vec<Condition>> = &[
    ("path_exists", |d, i| d.extend(paths(i, |it| it.to_path().map(Test::PathExists)))),
    ("path_matches", |d, i| d.extend(paths(i, |it| it.to_pattern().map(Test::PathMatches)))),
    ("path_is_directory", |d, i| d.extend(paths(i, |it| it.to_path().map(Test::PathIsDirectory)))),
    ("path_is_mount_point", |d, i| d.extend(paths(i, |it| it.to_path().map(Test::PathIsMountPoint)))),
    ("file_is_executable", |d, i| d.extend(paths(i, |it| it.to_path().map(Test::FileIsExecutable)))),
    ("file_not_empty", |d, i| d.extend(paths(i, |it| it.to_path().map(Test::FileNotEmpty)))),
    ("directory_not_empty", |d, i| d.extend(paths(i, |it| it.to_path().map(Test::DirectoryNotEmpty)))),
    ("kernel_command_line", |d, i| d.extend(words(i))),
    ("capability", |d, i| d.extend(confinement::capability(i).map(|it| Condition { test: Test::Capability(it), negated: false }))),
    ("ac_power", |d, i| d.extend(whether(i, Test::AcPower))),
    ("container", |d, i| d.extend(whether(i, Test::Container))),
    ("virtual_machine", |d, i| d.extend(whether(i, Test::VirtualMachine))),
    ("command", |d, i| d.extend(step(i).map(|it| Condition { test: Test::Command(it), negated: false }))),
];

/// A command, in either form.
pub(super) fn step(item: &Item<'_>) -> Option<Step> {
    let mut draft = StepDraft::default();
    if item.as_array().is_some() {
        draft.run = command(item);
    } else {
        let table = item.table(COMMAND)?;
        table.read(STEP, &mut draft);
        if table.get("run").is_none() {
            table.missing(
                "run",
                r#"an array of words such as ["/usr/bin/example", "--flag"]"#,
            );
        }
    }
    let arguments = draft.run?;
    let has_bare = |word: &String| word.contains("$MAINPID");
    if arguments.iter().skip(1).any(has_bare) && !arguments.iter().any(|it| it == "-c") {
        item.warn("no shell reads it: write ${MAINPID} for the pid of the main process");
    }
    expand::check_words(&arguments, &words_of(item)?).then_some(Step {
        program: PathBuf::new(),
        arguments,
        identity: draft.identity,
        timeout: draft.timeout,
        ignore_failure: draft.ignore_failure,
    })
}

/// Where the words of a command are.
fn words_of<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    match item.as_array() {
        Some(_) => Some(item.clone()),
        None => item.table(COMMAND)?.get("run"),
    }
}

/// Several commands.
pub(super) fn steps(item: &Item<'_>) -> Option<Vec<Step>> {
    let items = item.array(COMMANDS)?;
    if items.first().is_some_and(|first| first.as_str().is_some()) {
        item.expected(
            COMMANDS,
            Some("write one more pair of brackets around the command"),
        );
        return None;
    }
    // All that is wrong with them is told.
    let steps: Vec<_> = items.iter().map(step).collect();
    steps.into_iter().collect()
}

/// Reads `conditions`.
pub(super) fn conditions(item: &Item<'_>) -> Option<Vec<Condition>> {
    let table = item.table(r#"a table such as { path_exists = "/etc/example.conf" }"#)?;
    let mut conditions = Vec::new();
    table.read(CONDITIONS, &mut conditions);
    Some(conditions)
}

/// What stands behind a key, without its sign.
struct Word<'a> {
    text: &'a str,
    item: &'a Item<'a>,
}

impl Word<'_> {
    fn to_path(&self) -> Option<PathBuf> {
        if self.text.starts_with('/') {
            return Some(self.text.into());
        }
        self.item.expected(PATHS, None);
        None
    }

    fn to_pattern(&self) -> Option<String> {
        let path = self.to_path()?;
        match glob::Pattern::new(self.text) {
            Ok(_) => Some(path.to_string_lossy().into_owned()),
            Err(error) => {
                self.item.problem(format!(
                    "expected a pattern, found one with an error: {error}"
                ));
                None
            }
        }
    }
}

fn whether(item: &Item<'_>, test: Test) -> Option<Condition> {
    let negated = !item.boolean()?;
    Some(Condition { test, negated })
}

/// One word of the kernel's command line, or several.
fn words(item: &Item<'_>) -> Vec<Condition> {
    const WORD: &str = r#"a word such as "quiet" or "audit=0", with a ! before it for the opposite, or an array of such"#;
    let items = item.as_array().unwrap_or_else(|| vec![item.clone()]);
    let read = items.iter().filter_map(|item| {
        let text = item.string(WORD)?;
        let word = text.strip_prefix('!').unwrap_or(text);
        if word.is_empty() || word.contains(char::is_whitespace) {
            item.expected(WORD, None);
            return None;
        }
        Some(Condition {
            test: Test::KernelCommandLine(word.to_owned()),
            negated: word.len() != text.len(),
        })
    });
    read.collect()
}

/// One path, or several.
fn paths(item: &Item<'_>, test: impl Fn(&Word<'_>) -> Option<Test>) -> Vec<Condition> {
    let items = item.as_array().unwrap_or_else(|| vec![item.clone()]);
    let read = items.iter().filter_map(|item| {
        let text = item.string(PATHS)?;
        let negated = text.starts_with('!');
        let text = text.strip_prefix('!').unwrap_or(text);
        let test = test(&Word { text, item })?;
        Some(Condition { test, negated })
    });
    read.collect()
}

/// Looks the programs up in `search`, the service's `PATH`.
pub(super) fn look_up(steps: &mut Steps, table: &Table<'_>, search: &str) -> Option<()> {
    let Steps {
        conditions,
        before_start,
        after_start,
        before_stop,
        stop_command,
        after_stop,
    } = steps;
    for (phase, of_phase, fails) in [
        (
            Phase::BeforeStart,
            before_start,
            "starting the service fails",
        ),
        (Phase::AfterStart, after_start, "starting the service fails"),
        (Phase::BeforeStop, before_stop, "it fails"),
        (Phase::AfterStop, after_stop, "it fails"),
    ] {
        let items = table.get(phase.key()).and_then(|item| item.as_array());
        for (step, item) in of_phase.iter_mut().zip(items.unwrap_or_default()) {
            look_up_one(step, &item, search, fails)?;
        }
    }
    if let (Some(step), Some(item)) = (stop_command.first_mut(), table.get("stop_command")) {
        look_up_one(step, &item, search, "the stop signal is sent instead")?;
    }
    let item = table.get("conditions").and_then(|it| it.table("a table"));
    let item = item.and_then(|table| table.get("command"));
    let mut commands = conditions.iter_mut().filter_map(|it| match &mut it.test {
        Test::Command(step) => Some(step),
        _ => None,
    });
    if let (Some(step), Some(item)) = (commands.next(), item) {
        look_up_one(step, &item, search, "starting the service fails")?;
    }
    Some(())
}

pub(super) fn look_up_one(
    step: &mut Step,
    item: &Item<'_>,
    search: &str,
    fails: &str,
) -> Option<()> {
    let fails = match step.ignore_failure {
        true => "it fails, which is ignored",
        false => fails,
    };
    step.program = program(step.arguments.first()?, &words_of(item)?, search, fails)?;
    Some(())
}

/// As they could stand in the file; null where there are none.
pub(super) fn describe(steps: &[Step]) -> Value {
    match steps {
        [] => Value::Null,
        steps => steps.iter().map(describe_one).collect(),
    }
}

/// The same of a single one.
pub(super) fn describe_single(steps: &[Step]) -> Value {
    steps.first().map_or(Value::Null, describe_one)
}

pub(super) fn describe_one(step: &Step) -> Value {
    let Step {
        program: _,
        arguments,
        identity,
        timeout,
        ignore_failure,
    } = step;
    if identity.is_none() && timeout.is_none() && !ignore_failure {
        return json!(arguments);
    }
    let mut table = Map::new();
    table.insert("run".to_owned(), json!(arguments));
    if let Some(identity) = identity {
        table.insert("user".to_owned(), json!(identity.uid));
    }
    if let Some(timeout) = timeout {
        table.insert("timeout".to_owned(), duration(*timeout));
    }
    if *ignore_failure {
        table.insert("ignore_failure".to_owned(), json!(true));
    }
    Value::Object(table)
}

/// As they could stand in the file; null where there are none.
pub(super) fn describe_conditions(conditions: &[Condition]) -> Value {
    let mut table = Map::new();
    for Condition { test, negated } in conditions {
        let text = match test {
            Test::Command(step) => {
                table.insert(test.key().to_owned(), describe_one(step));
                continue;
            }
            Test::Container | Test::VirtualMachine | Test::AcPower => {
                table.insert(test.key().to_owned(), json!(!negated));
                continue;
            }
            Test::Capability(_) => {
                table.insert(test.key().to_owned(), json!(test.subject()));
                continue;
            }
            other => other.subject(),
        };
        let sign = if *negated { "!" } else { "" };
        let entry = table.entry(test.key()).or_insert_with(|| json!([]));
        if let Value::Array(texts) = entry {
            texts.push(json!(format!("{sign}{text}")));
        }
    }
    match table.is_empty() {
        true => Value::Null,
        false => Value::Object(table),
    }
}

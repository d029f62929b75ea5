//! The keys for what a service may do and use: capabilities, processors, cgroup limits, directories.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::model::{
    CAPABILITIES, Confinement, Directories, DirectoryKind, Sandbox, capability_name,
};

use super::cursor::{Item, Keys, keep, nearest};
use super::{describe, service, value};

/// The highest number of a processor that a kernel can be built for.
const LAST_CPU: i64 = 8191;
/// A thousand processors.
const MAX_PERCENT: u32 = 100_000;

/// Sorted, each once.
pub(super) fn capabilities(item: &Item<'_>) -> Option<Vec<u8>> {
    let items = item.array("an array of capabilities such as [\"CAP_NET_BIND_SERVICE\"]")?;
    let numbers: Vec<_> = items.iter().map(capability).collect();
    let numbers: Option<BTreeSet<u8>> = numbers.into_iter().collect();
    Some(numbers?.into_iter().collect())
}

/// Its number.
pub(super) fn capability(item: &Item<'_>) -> Option<u8> {
    const WHAT: &str = "a capability such as \"CAP_NET_BIND_SERVICE\"";
    let text = item.string(WHAT)?;
    let known = CAPABILITIES.iter().position(|name| *name == text);
    if known.is_none() {
        let known = CAPABILITIES.map(str::to_ascii_lowercase);
        let near = nearest(text, known.iter().map(String::as_str));
        let hint = near.map(|near| format!("did you mean {}?", near.to_ascii_uppercase()));
        item.expected(WHAT, hint.as_deref());
    }
    u8::try_from(known?).ok()
}

pub(super) fn oom_score_adj(item: &Item<'_>) -> Option<i32> {
    item.integer("an integer", -1000..=1000)
}

/// Sorted, each once.
pub(super) fn cpu_affinity(item: &Item<'_>) -> Option<Vec<u16>> {
    const WHAT: &str = "a processor's number, or a range such as \"0-3\"";
    let items = item.array("an array of processors such as [0, 2] or [\"0-3\"]")?;
    if items.is_empty() {
        item.expected("at least one processor", None);
        return None;
    }
    let range = |item: &Item<'_>| {
        let range = match (item.as_str(), item.as_integer()) {
            (Some(text), _) => {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                let number = |text: &str| {
                    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
                    text.parse::<i64>().ok().filter(|_| is_plain)
                };
                number(first).zip(number(last))
            }
            (None, number) => number.map(|(number, _)| (number, number)),
        };
        let range = range.filter(|(first, last)| {
            (0..=LAST_CPU).contains(first) && (*first..=LAST_CPU).contains(last)
        });
        if range.is_none() {
            item.expected(&format!("{WHAT}, from 0 to {LAST_CPU}"), None);
        }
        range
    };
    let ranges: Vec<_> = items.iter().map(range).collect();
    let ranges: Option<Vec<_>> = ranges.into_iter().collect();
    let numbers = ranges?.into_iter().flat_map(|(first, last)| first..=last);
    let numbers: BTreeSet<u16> = numbers.filter_map(|cpu| u16::try_from(cpu).ok()).collect();
    Some(numbers.into_iter().collect())
}

/// "150%" of one processor.
pub(super) fn cpu_max(item: &Item<'_>) -> Option<u32> {
    const WHAT: &str = "a share of one processor such as \"150%\"";
    let text = item.string(WHAT)?;
    let percent = text.strip_suffix('%');
    let percent = percent.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let percent = percent.and_then(|text| text.parse().ok());
    let percent = percent.filter(|percent| (1..=MAX_PERCENT).contains(percent));
    if percent.is_none() {
        item.expected(WHAT, Some("from \"1%\" to \"100000%\""));
    }
    percent
}

/// At least a page.
pub(super) fn memory(item: &Item<'_>) -> Option<u64> {
    value::size_within(
        item,
        4096..=i64::MAX.unsigned_abs(),
        "a size of at least \"4KiB\"",
    )
}

pub(super) fn pids_max(item: &Item<'_>) -> Option<u64> {
    item.integer("a number of processes and threads", 1..=4_194_304)
}

pub(super) fn io_weight(item: &Item<'_>) -> Option<u32> {
    item.integer("a weight", 1..=10_000)
}

#[derive(Default)]
struct DirectoriesDraft {
    names: [Vec<String>; 4],
    mode: Option<u32>,
}

#[rustfmt::skip]
const DIRECTORIES: &Keys<DirectoriesDraft> = &[
    ("runtime", |d, i| keep(&mut d.names[0], names(i))),
    ("state", |d, i| keep(&mut d.names[1], names(i))),
    ("logs", |d, i| keep(&mut d.names[2], names(i))),
    ("cache", |d, i| keep(&mut d.names[3], names(i))),
    ("mode", |d, i| keep(&mut d.mode, mode(i))),
];

/// Directories of the service's own.
pub(super) fn directories(item: &Item<'_>) -> Option<Directories> {
    let table = item.table(r#"a table such as { state = ["x"], logs = ["x"] }"#)?;
    let mut draft = DirectoriesDraft::default();
    table.read(DIRECTORIES, &mut draft);
    let places = DirectoryKind::ALL.into_iter().zip(draft.names);
    let names = places.flat_map(|(place, names)| names.into_iter().map(move |name| (place, name)));
    Some(Directories {
        names: names.collect(),
        mode: draft.mode.unwrap_or(Directories::default().mode),
    })
}

#[rustfmt::skip]
const SANDBOX: &Keys<Sandbox> = &[
    ("read_only", |d, i| keep(&mut d.read_only, paths(i))),
    ("writable", |d, i| keep(&mut d.writable, paths(i))),
    ("private_tmp", |d, i| keep(&mut d.private_tmp, i.boolean())),
    ("private_devices", |d, i| keep(&mut d.private_devices, i.boolean())),
    ("protect_home", |d, i| keep(&mut d.protect_home, i.boolean())),
    ("network", |d, i| keep(&mut d.network, i.boolean())),
    ("optional", |d, i| keep(&mut d.optional, i.boolean())),
];

/// A view of the host of its own.
pub(super) fn sandbox(item: &Item<'_>) -> Option<Sandbox> {
    let table = item.table(r#"a table such as { read_only = ["/"], private_tmp = true }"#)?;
    let mut sandbox = Sandbox::default();
    table.read(SANDBOX, &mut sandbox);
    if let Some(both) = sandbox
        .writable
        .iter()
        .find(|it| sandbox.read_only.contains(it))
    {
        item.problem(format!("{} is both read_only and writable", both.display()));
    }
    if sandbox.read_only.is_empty()
        && let Some(item) = table.get("writable")
    {
        item.warn("this makes parts of `read_only` writable, and there is none");
    }
    if sandbox.is_nothing() {
        item.warn("this says nothing that is not so without it");
    }
    Some(sandbox)
}

/// With a `-` before those that may be missing.
fn paths(item: &Item<'_>) -> Option<Vec<PathBuf>> {
    const WHAT: &str = "an absolute path such as \"/etc\", with a - before it if it may be missing";
    let items = item.array("an array of absolute paths such as [\"/etc\"]")?;
    let path = |item: &Item<'_>| {
        let text = item.string(WHAT)?;
        if !text.strip_prefix('-').unwrap_or(text).starts_with('/') {
            item.expected(WHAT, None);
            return None;
        }
        Some(PathBuf::from(text))
    };
    let paths: Vec<_> = items.iter().map(path).collect();
    paths.into_iter().collect()
}

pub(super) fn describe_sandbox(confinement: &Confinement) -> Value {
    let sandbox = &confinement.sandbox;
    if *sandbox == Sandbox::default() {
        return Value::Null;
    }
    let paths = |paths: &[PathBuf]| {
        let paths: Vec<_> = paths.iter().map(|it| it.to_string_lossy()).collect();
        json!(paths)
    };
    let entries = [
        ("read_only", paths(&sandbox.read_only)),
        ("writable", paths(&sandbox.writable)),
        ("private_tmp", json!(sandbox.private_tmp)),
        ("private_devices", json!(sandbox.private_devices)),
        ("protect_home", json!(sandbox.protect_home)),
        ("network", json!(sandbox.network)),
        ("optional", json!(sandbox.optional)),
    ];
    describe::table(entries.into_iter())
}

fn names(item: &Item<'_>) -> Option<Vec<String>> {
    const WHAT: &str = "a relative path without \"..\" such as \"x\" or \"x/y\"";
    let items = item.array("an array of names of directories such as [\"x\"]")?;
    let name = |item: &Item<'_>| {
        let text = item.string(WHAT)?;
        let parts: Vec<_> = text.split('/').collect();
        let is_part = |part: &&str| !["", ".", ".."].contains(part) && part.len() <= 255;
        // It ends a path in the variable that names several.
        if !parts.iter().all(is_part) || text.contains(':') || text.len() > 1024 {
            item.expected(WHAT, None);
            return None;
        }
        Some(text.to_owned())
    };
    let names: Vec<_> = items.iter().map(name).collect();
    names.into_iter().collect()
}

fn mode(item: &Item<'_>) -> Option<u32> {
    service::octal(item, "a mode in octal such as \"0750\"")
}

/// Whether making these makes this directory too.
pub(super) fn makes(directories: &Directories, path: &Path) -> bool {
    directories.paths().any(|(_, made)| made.starts_with(path))
}

pub(super) fn describe_cpus(confinement: &Confinement) -> Value {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for cpu in &confinement.cpu_affinity {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    let range = |(first, last): (u16, u16)| match first == last {
        true => json!(first),
        false => json!(format!("{first}-{last}")),
    };
    let ranges: Vec<_> = ranges.into_iter().map(range).collect();
    match ranges.is_empty() {
        true => Value::Null,
        false => json!(ranges),
    }
}

pub(super) fn describe_capabilities(confinement: &Confinement) -> Value {
    let names = |numbers: &Vec<u8>| -> Vec<_> {
        numbers
            .iter()
            .map(|number| capability_name(*number))
            .collect()
    };
    json!(confinement.capabilities.as_ref().map(names))
}

pub(super) fn describe_directories(confinement: &Confinement) -> Value {
    let directories = &confinement.directories;
    if directories.names.is_empty() {
        return Value::Null;
    }
    let keys = DIRECTORIES.iter().map(|(key, _)| *key);
    let of = |(key, wanted): (&'static str, DirectoryKind)| {
        let names = directories.names.iter();
        let names = names.filter(|(place, _)| *place == wanted);
        let names: Vec<_> = names.map(|(_, name)| name).collect();
        (!names.is_empty()).then(|| (key, json!(names)))
    };
    let mode = ("mode", json!(format!("{:04o}", directories.mode)));
    let entries = keys.zip(DirectoryKind::ALL).filter_map(of);
    describe::table(entries.chain([mode]))
}

pub(super) fn describe_percent(percent: Option<u32>) -> Value {
    json!(percent.map(|percent| format!("{percent}%")))
}

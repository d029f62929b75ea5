//! What can be wrong between services: a requirement that does not exist, an order that is a cycle, a log
//! that two of them have.
//!
//! Looks at a whole config. Of a single file it is not known which other services there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::model::{Link, Log, Relations, ServiceName, Ties, Unusable, cycle_words, cycles};

use super::Loader;
use super::cursor::{nearest, quoted};
use super::problem::{Ends, Problem, printable};

/// Reports it, and has no service of that used.
pub(super) fn check(loader: &mut Loader<'_>) {
    for (name, key, missing) in missing(loader, needed) {
        let message = no_service(loader, &name, &missing);
        let problem = problem(loader, &name, key, message);
        refuse(loader, &name, problem);
    }
    for (name, key, missing) in missing(loader, harmless) {
        let message = no_service(loader, &name, &missing);
        let problem = problem(loader, &name, key, message);
        loader.report.warn(problem);
    }
    for (name, path, other) in shared_logs(loader) {
        let path = printable(&path);
        let message = format!("{path} is the log of {other} too; each service needs its own");
        let problem = problem(loader, &name, "log", message);
        refuse(loader, &name, problem);
    }
    loop {
        let of = loader.services.iter();
        let ties: BTreeMap<ServiceName, Ties> = of
            .map(|(name, spec)| (name.clone(), spec.relations.ties()))
            .collect();
        let cycles = cycles(&ties);
        if cycles.is_empty() {
            return;
        }
        for cycle in cycles {
            refuse_cycle(loader, cycle);
        }
    }
}

/// Without the last of its services, by name, the others are no cycle.
fn refuse_cycle(loader: &mut Loader<'_>, mut cycle: Vec<Link>) {
    // The same cycle is told in the same words, whichever service was looked at first.
    let first = cycle.iter().enumerate().min_by_key(|(_, link)| &link.0);
    let first = first.map_or(0, |(index, _)| index);
    cycle.rotate_left(first);
    let Some((name, tie)) = cycle.first() else {
        return;
    };
    let last = cycle.iter().map(|(name, _)| name).max().unwrap_or(name);
    let words = cycle_words(&cycle);
    let message = format!("the order of services is a cycle: {words}; take out one of these");
    let problem = problem(loader, name, &tie.to_string(), message);
    refuse(loader, last, problem);
}

/// Names under a key.
type Named<'a> = (&'static str, &'a BTreeSet<ServiceName>);

fn harmless(of: &Relations) -> Vec<Named<'_>> {
    vec![
        ("after", &of.after),
        ("part_of", &of.part_of),
        ("wants", &of.wants),
    ]
}

fn needed(of: &Relations) -> Vec<Named<'_>> {
    vec![("requires", &of.requires), ("binds", &of.binds)]
}

/// `of`: who names it.
fn no_service(loader: &Loader<'_>, of: &ServiceName, name: &str) -> String {
    let others = loader.places.keys().filter(|other| *other != of);
    let known = others.map(AsRef::as_ref);
    let prefix = format!("{name}@");
    let mut instances = loader.places.keys().filter(|it| it.starts_with(&prefix));
    if let Some(first) = instances.next() {
        return format!(
            "no service is named {}, which is a template; expected one of its instances, such as {first}",
            quoted(name)
        );
    }
    let near = nearest(name, known).map(|near| format!("; did you mean {near}?"));
    format!(
        "no service is named {}{}",
        quoted(name),
        near.unwrap_or_default()
    )
}

/// Services that do not exist, and the key that names them.
fn missing(
    loader: &Loader<'_>,
    keys: impl for<'a> Fn(&'a Relations) -> Vec<Named<'a>>,
) -> Vec<(ServiceName, &'static str, ServiceName)> {
    let mut missing = Vec::new();
    for (name, spec) in &loader.services {
        for (key, names) in keys(&spec.relations) {
            let absent = names.iter().filter(|it| !is_known(loader, it));
            missing.extend(absent.map(|it| (name.clone(), key, it.clone())));
        }
    }
    missing
}

/// Services with a log that an earlier one by name has.
fn shared_logs(loader: &Loader<'_>) -> Vec<(ServiceName, PathBuf, ServiceName)> {
    let mut logs: BTreeMap<&Path, &ServiceName> = BTreeMap::new();
    let mut shared = Vec::new();
    for (name, spec) in &loader.services {
        let Some(path) = spec.log.as_ref().and_then(Log::path) else {
            continue;
        };
        match logs.get(path) {
            Some(other) => shared.push((name.clone(), path.to_owned(), (*other).clone())),
            None => drop(logs.insert(path, name)),
        }
    }
    shared
}

/// A service whose file cannot be used exists.
fn is_known(loader: &Loader<'_>, name: &str) -> bool {
    let is_read = loader.places.contains_key(name) || loader.unusable.contains_key(name);
    is_read || loader.others.contains(name)
}

/// A problem of that service's key.
pub(super) fn problem(
    loader: &Loader<'_>,
    name: &ServiceName,
    key: &str,
    message: String,
) -> Problem {
    let drop_in = loader.drop_ins.get(name).and_then(|it| it.file_of(key));
    let file = drop_in.or_else(|| loader.files.get(name));
    let file = file.cloned().unwrap_or_default();
    let lines = loader.lines.get(name);
    Problem {
        line: lines.and_then(|lines| lines.get(key).copied()),
        key: Some(key.to_owned()),
        ..Problem::of_file(&file, message)
    }
}

/// Has the service not used for that.
pub(super) fn refuse(loader: &mut Loader<'_>, name: &ServiceName, problem: Problem) {
    let why = problem.to_string();
    loader.services.remove(name);
    let unusable = loader.unusable.entry(name.clone());
    unusable.or_insert(Unusable {
        why,
        may_end: false,
    });
    loader.report.problem_until(Ends::WithTheConfig, problem);
}

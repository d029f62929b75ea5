//! What the core may import, and who may import it, read from the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One word of a path before `::`, such as "crate" and "model" in `crate::model::Signal`.
#[derive(Debug, PartialEq, Eq)]
struct Step<'a> {
    /// "" for the first of a path.
    before: &'a str,
    word: &'a str,
}

#[test]
fn the_core_imports_nothing_but_std_and_the_model() {
    let crates = dependencies();
    for file in sources("supervisor") {
        if is_test(&file) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let foreign = foreign_to_the_core(&text, &crates);
        assert!(foreign.is_empty(), "{}: {foreign:?}", file.display());
    }
}

#[test]
fn the_model_imports_nothing_else_of_the_crate() {
    for file in sources("model") {
        let text = fs::read_to_string(&file).unwrap();
        let foreign: Vec<_> = steps(&text)
            .into_iter()
            .filter(|step| step.before == "crate" && step.word != "model")
            .collect();
        assert!(foreign.is_empty(), "{}: {foreign:?}", file.display());
    }
}

#[test]
fn only_the_agent_imports_the_core() {
    for file in sources("") {
        let inside = file.strip_prefix(source_root()).unwrap();
        if inside.starts_with("supervisor") || inside.starts_with("agent") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        assert!(!names_the_core(&text), "{}", file.display());
    }
}

/// The rules above find what breaks them.
#[test]
fn a_foreign_import_is_found() {
    let crates = BTreeSet::from(["tokio".to_owned()]);
    for (text, is_foreign) in [
        ("use crate::model::Signal;", false),
        (
            "use super::fact::RequestId;\nuse std::time::Instant;",
            false,
        ),
        ("// use crate::os::pidfd;", false),
        ("use crate::os::pidfd;", true),
        ("let now = crate::clock::now();", true),
        ("use crate::{clock, model::Signal};", true),
        ("use super::super::clock;", true),
        ("fn f() { tokio::spawn(g()); }", true),
        ("use tokio::spawn;", true),
        ("let text = std::fs::read_to_string(path);", true),
        ("use std::{fs, time::Instant};", true),
        ("use std::time::SystemTime;", true),
    ] {
        let foreign = foreign_to_the_core(text, &crates);
        assert_eq!(!foreign.is_empty(), is_foreign, "{text}: {foreign:?}");
    }
    for text in [
        "use crate::supervisor::Supervisor;",
        "use crate::{os, supervisor};",
        "use super::supervisor;",
    ] {
        assert!(names_the_core(text), "{text}");
    }
    assert!(!names_the_core(
        "mod supervisor;\nuse crate::model::Signal;"
    ));
}

/// What the core may not name: other modules of the crate, other crates, and those parts of std
/// that look at the world.
fn foreign_to_the_core(text: &str, crates: &BTreeSet<String>) -> Vec<String> {
    const WORLD: [&str; 8] = ["env", "fs", "io", "net", "os", "process", "thread", "{"];
    let is_foreign = |step: &Step<'_>| match step.before {
        "crate" => step.word != "model",
        "super" => step.word == "super",
        "std" => WORLD.contains(&step.word),
        _ => crates.contains(step.word) && step.before.is_empty(),
    };
    let mut foreign: Vec<String> = steps(text)
        .iter()
        .filter(|step| is_foreign(step))
        .map(|step| format!("{}::{}", step.before, step.word))
        .collect();
    foreign.extend(text.contains("SystemTime").then(|| "SystemTime".to_owned()));
    foreign
}

fn names_the_core(text: &str) -> bool {
    code(text)
        .filter(|line| !line.starts_with("mod "))
        .any(|line| words(line).any(|word| word == "supervisor") && line.contains("::"))
}

/// Every pair of neighbours in the paths of that text.
fn steps(text: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for line in code(text) {
        let mut rest = line;
        while let Some(at) = rest.find("::") {
            let (head, tail) = (&rest[..at], &rest[at + 2..]);
            let word = words(head).next_back().unwrap_or_default();
            if head.ends_with(word) && !head[..head.len() - word.len()].ends_with("::") {
                steps.push(Step { before: "", word });
            }
            let next = match tail.starts_with('{') {
                true => "{",
                false => words(tail).next().unwrap_or_default(),
            };
            steps.push(Step {
                before: word,
                word: next,
            });
            rest = tail;
        }
    }
    steps
}

/// The lines without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
}

fn words(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// The crates that the package depends on, as code names them.
fn dependencies() -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml::Table = fs::read_to_string(manifest).unwrap().parse().unwrap();
    let names = manifest["dependencies"].as_table().unwrap().keys();
    let names: BTreeSet<String> = names.map(|name| name.replace('-', "_")).collect();
    assert!(names.contains("tokio"), "{names:?}");
    names
}

/// The files of a folder of the sources, and of those below it.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![source_root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty(), "{folder}");
    files
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Whether a file of the core is compiled for tests alone.
fn is_test(file: &Path) -> bool {
    let core = source_root().join("supervisor");
    ["tests", "simulation", "simulation.rs"]
        .iter()
        .any(|test| file.starts_with(core.join(test)))
}

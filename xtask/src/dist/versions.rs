//! Recipes, documentation and examples name the version that `Cargo.toml` has.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// This version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files that name it, and folders with such files.
const PLACES: [&str; 4] = ["README.md", "docs", "examples", "packaging"];

/// These name it at least once: the recipes, and what people copy from.
const NAME_IT: [&str; 6] = [
    "README.md",
    "docs/install.md",
    "examples/fleet/respawn-recorder.daemonset.yml",
    "packaging/alpine/APKBUILD",
    "packaging/aur/PKGBUILD",
    "packaging/void/template",
];

/// What stands before a version of respawn's.
const BEFORE: [&str; 8] = [
    "respawn-",
    "respawn_",
    "respawn:",
    "respawn` is at ",
    "pkgver=",
    "\nversion=",
    "version ",
    "Version ",
];

/// The versions of respawn's that a text names: three numbers after one of [`BEFORE`].
fn versions_in(text: &str) -> Vec<&str> {
    let mut versions = Vec::new();
    for before in BEFORE {
        for (start, _) in text.match_indices(before) {
            let rest = &text[start + before.len()..];
            let is_part = |letter: char| letter.is_ascii_digit() || letter == '.';
            let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
            let version = rest[..end].trim_end_matches('.');
            let numbers: Vec<_> = version.split('.').collect();
            if numbers.len() == 3 && numbers.iter().all(|number| !number.is_empty()) {
                versions.push(version);
            }
        }
    }
    versions
}

fn files_below(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        return files.push(path.to_owned());
    }
    for entry in fs::read_dir(path).unwrap() {
        files_below(&entry.unwrap().path(), files);
    }
}

#[test]
fn recipes_and_documentation_name_this_version() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for place in PLACES {
        files_below(&root.join(place), &mut files);
    }
    let mut naming = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let versions = versions_in(&text);
        let name = file.strip_prefix(root).unwrap().display().to_string();
        let others: Vec<_> = versions.iter().filter(|it| **it != VERSION).collect();
        assert!(
            others.is_empty(),
            "{name} names {others:?}; this is {VERSION}"
        );
        if !versions.is_empty() {
            naming.push(name);
        }
    }
    for name in NAME_IT {
        assert!(
            naming.iter().any(|file| file == name),
            "{name} names no version"
        );
    }
}

/// What is released has its notes: at the head of its own section, below one for what comes next.
#[test]
fn the_changelog_has_a_section_of_this_version() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("CHANGELOG.md")).unwrap();
    let mut sections = text.split("\n## ").skip(1);
    assert!(sections.next().unwrap().starts_with("[Unreleased]\n"));
    let this = sections.next().unwrap();
    let head = format!("[{VERSION}] - 20");
    assert!(this.starts_with(&head), "the second section is no {head}");
    let notes = this.split("\n### ").next().unwrap();
    assert!(notes.contains("Upgrading from "), "no notes: {notes}");
}

#[test]
fn finds_versions_in_names_of_files_and_in_sentences() {
    assert_eq!(
        versions_in("apt install ./respawn_0.3.1-1_amd64.deb, podman load respawn-0.3.2-x86.tar"),
        ["0.3.2", "0.3.1"]
    );
    assert_eq!(versions_in("Version 0.3.1."), ["0.3.1"]);
    assert!(versions_in("Linux 6.1.0, version 2 of cgroups, respawn-recorder").is_empty());
}

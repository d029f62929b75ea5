//! The crates that are in the binary and in the kernel object that it carries, as cargo resolves them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    static_build::Arch,
    workspace::{Workspace, output_of},
};

/// What the kernel object is built for.
const KERNEL: &str = "bpfel-unknown-none";

/// A crate's name and version: no two are equal in one `Cargo.lock` of ours.
pub(super) type Id = (String, String);

/// A crate of a registry, or one of the workspace's.
#[derive(Debug, Default)]
pub(super) struct Crate {
    /// As SPDX has it.
    pub(super) licence: String,
    /// The SHA-256 of its archive; none for a crate of the workspace.
    pub(super) checksum: Option<String>,
    /// Its sources on this machine.
    pub(super) folder: PathBuf,
    pub(super) needs: BTreeSet<Id>,
}

/// All crates whose code is in the binary, without what only builds it.
///
/// # Errors
/// When cargo fails.
pub(super) fn of_binary(workspace: &Workspace, arch: Arch) -> Result<BTreeMap<Id, Crate>> {
    let mut crates = BTreeMap::new();
    for (package, target) in [("monitor-user", arch.target()), ("monitor-ebpf", KERNEL)] {
        let mut command = workspace.cargo();
        command
            .args(["tree", "--locked", "--package", package])
            .args(["--target", target, "--edges", "normal,no-proc-macro"])
            .args(["--prefix", "depth", "--format", "\t{p}"])
            .stderr(Stdio::inherit());
        read_tree(&String::from_utf8(output_of(&mut command)?)?, &mut crates)?;
    }
    describe(workspace, arch, &mut crates)?;
    Ok(crates)
}

/// Reads lines such as "2\tlibc v0.2.1 (*)", each with its depth.
fn read_tree(text: &str, crates: &mut BTreeMap<Id, Crate>) -> Result<()> {
    let mut above: Vec<Id> = Vec::new();
    for line in text.lines() {
        let (depth, package) = line.split_once('\t').context("cargo tree's lines")?;
        let depth: usize = depth.parse()?;
        let mut words = package.split_whitespace();
        let name = words.next().context("a name")?.to_owned();
        let version = words.next().context("a version")?.trim_start_matches('v');
        let id = (name, version.to_owned());
        above.truncate(depth);
        if let Some(parent) = above.last() {
            let needs = &mut crates.entry(parent.clone()).or_default().needs;
            needs.insert(id.clone());
        }
        crates.entry(id.clone()).or_default();
        above.push(id);
    }
    Ok(())
}

/// Adds what cargo knows of each.
fn describe(workspace: &Workspace, arch: Arch, crates: &mut BTreeMap<Id, Crate>) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args(["metadata", "--locked", "--format-version", "1"])
        // Others are not fetched.
        .args(["--filter-platform", arch.target()])
        .args(["--filter-platform", KERNEL])
        .stderr(Stdio::inherit());
    let metadata: Value = serde_json::from_slice(&output_of(&mut command)?)?;
    let lock = workspace.root.join("Cargo.lock");
    let lock: toml::Table = toml::from_str(&fs::read_to_string(&lock)?)?;
    let checksums = checksums(&lock);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let id = (text(&package["name"]), text(&package["version"]));
        let Some(known) = crates.get_mut(&id) else {
            continue;
        };
        known.licence = text(&package["license"]).replace('/', " OR ");
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        known.folder = manifest.parent().context("a manifest's folder")?.into();
        known.checksum = checksums.get(&id).cloned();
    }
    Ok(())
}

fn checksums(lock: &toml::Table) -> HashMap<Id, String> {
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let text = |package: &toml::Value, key: &str| {
        let value = package.get(key).and_then(toml::Value::as_str);
        value.map(str::to_owned)
    };
    let pairs = packages.into_iter().flatten().filter_map(|package| {
        let id = (text(package, "name")?, text(package, "version")?);
        Some((id, text(package, "checksum")?))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_who_needs_whom() {
        let mut crates = BTreeMap::new();
        let tree = "0\ta v1.0.0 (/x/a)\n1\tb v2.0.0\n2\tc v3.0.0\n1\tc v3.0.0 (*)\n";
        read_tree(tree, &mut crates).unwrap();
        let id = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(crates.len(), 3);
        let needs = |of: &Id| crates[of].needs.iter().cloned().collect::<Vec<_>>();
        assert_eq!(
            needs(&id("a", "1.0.0")),
            [id("b", "2.0.0"), id("c", "3.0.0")]
        );
        assert_eq!(needs(&id("b", "2.0.0")), [id("c", "3.0.0")]);
    }
}

//! The binary of the last release, for the tests of upgrades: built once from its own commit, with
//! the crates of its own `Cargo.lock`, and kept below `target/previous`.
//!
//! Where the history of this checkout does not reach back that far, there is none, and the tests
//! that need it are skipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    report::note,
    workspace::{Workspace, output_of, run_to_end},
};

/// The last commit of 0.1.0.
const COMMIT: &str = "25a9a3a4c18f12333b92f14bb139344e45c35d98";
pub(crate) const VERSION: &str = "0.1.0";

/// Settings that make the build cheap: what the binary does is tested, not how fast.
const CHEAP: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_PACKAGE_MONITOR_EBPF_DEBUG", "0"),
];

/// Where the binary of the last release is, or why there is none.
pub(crate) enum Previous {
    Built(PathBuf),
    Missing(String),
}

impl Previous {
    /// Tells the tests, which `command` runs.
    pub(crate) fn tell(&self, command: &mut Command) {
        match self {
            Self::Built(path) => command.env("RESPAWN_PREVIOUS_BIN", path),
            Self::Missing(reason) => command.env("RESPAWN_NO_PREVIOUS", reason),
        };
    }
}

/// Builds it, unless it was built before.
///
/// # Errors
/// When it does not build.
pub(crate) fn build(workspace: &Workspace) -> Result<Previous> {
    let place = workspace.target.join("previous").join(VERSION);
    // Also the tests' own place to look for it.
    let binary = place.join("respawn");
    if binary.exists() {
        return Ok(Previous::Built(binary));
    }
    if let Some(reason) = no_history(&workspace.root) {
        return Ok(Previous::Missing(reason));
    }
    note!("building respawn {VERSION} from {COMMIT:.12}, once, for the tests of upgrades");
    let (source, target) = (place.join("source"), place.join("target"));
    unpack(&workspace.root, &source)?;
    let mut command = workspace.cargo();
    command
        .current_dir(&source)
        .args(["build", "--release", "--locked"])
        .args(["--package", "monitor-user", "--bin", "respawn"])
        .arg("--target-dir")
        .arg(&target)
        .envs(CHEAP);
    run_to_end(&mut command).with_context(|| format!("build respawn {VERSION}"))?;
    let built = target.join("release/respawn");
    fs::rename(&built, &binary).with_context(|| format!("keep {}", built.display()))?;
    for folder in [source, target] {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(Previous::Built(binary))
}

/// Why the commit cannot be had from this checkout, if so.
fn no_history(root: &Path) -> Option<String> {
    let mut command = Command::new("git");
    command
        .current_dir(root)
        .args(["cat-file", "-e", &format!("{COMMIT}^{{commit}}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => None,
        Ok(_) => Some(format!(
            "commit {COMMIT:.12} of {VERSION} is not in the history of this checkout; a shallow \
             clone is completed by `git fetch --unshallow`"
        )),
        Err(error) => Some(format!("git cannot be run: {error}")),
    }
}

/// Writes the commit's files to `source`.
fn unpack(root: &Path, source: &Path) -> Result<()> {
    if source.exists() {
        fs::remove_dir_all(source).with_context(|| format!("remove {}", source.display()))?;
    }
    fs::create_dir_all(source).with_context(|| format!("make {}", source.display()))?;
    let archive = source.with_extension("tar");
    let mut git = Command::new("git");
    git.current_dir(root).args(["archive", "--output"]);
    output_of(git.arg(&archive).arg(COMMIT))?;
    let mut tar = Command::new("tar");
    let status = tar
        .arg("--extract")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(source)
        .status()
        .context("start tar")?;
    if !status.success() {
        bail!("tar ended with {status}");
    }
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}

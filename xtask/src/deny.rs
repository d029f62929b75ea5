//! Checks what the dependencies may be, by cargo-deny and `deny.toml`, and installs cargo-deny for it.
//!
//! Licences, bans and sources change with this repository only. Advisories and yanked versions
//! change on their own, and come from outside the registry: they are for `cargo deny check` by hand,
//! as they would fail changes that have no part in them.

use std::process::Stdio;

use anyhow::{Context as _, Result};

use crate::{
    report::note,
    toolchain::Version,
    workspace::{Workspace, output_of, run_to_end, shown},
};

/// The cargo-deny that `setup` installs, and the oldest that serves.
const TO_INSTALL: Version = Version(0, 20, 2);

/// Whether there is none that is new enough.
pub(crate) fn is_missing(workspace: &Workspace) -> bool {
    let mut command = workspace.cargo();
    command.args(["deny", "--version"]).stderr(Stdio::null());
    let said = output_of(&mut command).unwrap_or_default();
    version_in(&String::from_utf8_lossy(&said)).is_none_or(|version| version < TO_INSTALL)
}

fn version_in(said: &str) -> Option<Version> {
    said.split_whitespace().nth(1).and_then(Version::parse)
}

/// What to type to install it.
pub(crate) fn advice() -> String {
    format!("cargo {}", words().join(" "))
}

/// Not optimised, as that takes more than twice as long to build: a check takes a second even so.
fn words() -> [String; 6] {
    [
        "install",
        "cargo-deny",
        "--version",
        &TO_INSTALL.to_string(),
        "--locked",
        "--debug",
    ]
    .map(str::to_owned)
}

/// Installs it beside cargo's other programs.
///
/// # Errors
/// When it does not build.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(words());
    note!("running: {}", shown(&command));
    run_to_end(&mut command).context("install cargo-deny")
}

/// Checks licences, bans and sources.
///
/// # Errors
/// When one of them is not as `deny.toml` has it, or cargo-deny cannot be run.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    run_to_end(command.args([
        "deny",
        "--all-features",
        "check",
        "licenses",
        "bans",
        "sources",
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_version() {
        assert_eq!(version_in("cargo-deny 0.20.2\n"), Some(TO_INSTALL));
        assert_eq!(version_in(""), None);
    }
}

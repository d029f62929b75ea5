//! The static programs that machines run: `respawn`, the tests of it, and what these start.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::arch::Arch;
use crate::workspace::{Workspace, executable_in, output_of};

/// Builds a `respawn` that needs no library, as machines have none of this one's.
///
/// # Errors
/// When it does not build.
pub(super) fn respawn(workspace: &Workspace, arch: Arch) -> Result<PathBuf> {
    let mut command = cargo(workspace, "build", arch);
    command
        .args(["--package", "monitor-user", "--bin", "respawn"])
        .arg("--release")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let messages = output_of(&mut command)?;
    executable_in(&messages, "respawn").context("cargo built respawn, but names no executable")
}

/// A program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Whether it is a test and not what tests start.
    pub(super) is_test: bool,
}

/// Builds the black-box tests and what they start.
///
/// # Errors
/// When they do not build.
pub(super) fn tests(workspace: &Workspace, arch: Arch) -> Result<Vec<Program>> {
    let mut command = cargo(workspace, "test", arch);
    command
        .args(["--no-run", "--package", "respawn-tests"])
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_DEV_STRIP", "symbols");
    let programs = programs_in(&output_of(&mut command)?);
    if !programs.iter().any(|program| program.is_test) {
        bail!("cargo built the tests, but names no executable");
    }
    Ok(programs)
}

fn cargo(workspace: &Workspace, what: &str, arch: Arch) -> Command {
    let mut command = workspace.cargo();
    command
        .args([what, "--quiet", "--target", arch.target()])
        .arg("--message-format=json-render-diagnostics")
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .stderr(Stdio::inherit());
    command
}

fn programs_in(messages: &[u8]) -> Vec<Program> {
    let mut programs: Vec<Program> = messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter_map(|message| {
            Some(Program {
                path: Path::new(message["executable"].as_str()?).to_owned(),
                name: message["target"]["name"].as_str()?.to_owned(),
                is_test: message["target"]["kind"][0] == "test",
            })
        })
        .collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_tests_and_what_they_start_among_cargos_messages() {
        let messages = br#"{"target":{"name":"support","kind":["lib"]},"executable":null}
{"target":{"name":"victim","kind":["bin"]},"executable":"/t/victim"}
not json
{"target":{"name":"race","kind":["test"]},"executable":"/t/deps/race-1"}"#;
        let program = |name: &str, path: &str, is_test| Program {
            name: name.into(),
            path: path.into(),
            is_test,
        };
        assert_eq!(
            programs_in(messages),
            [
                program("race", "/t/deps/race-1", true),
                program("victim", "/t/victim", false)
            ]
        );
    }
}

//! Where things are in this checkout, and how its cargo is called.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// At run time this names the object to load in place of the embedded one, at build time the
/// object to embed.
pub(crate) const BPF_OBJECT_VARIABLE: &str = "RESPAWN_BPF_OBJECT";

/// The checkout that `cargo xtask` was called in.
pub(crate) struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo builds to.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the checkout that holds this xtask, from whichever folder it was called.
    ///
    /// # Errors
    /// When cargo cannot say where it builds to.
    pub(crate) fn find() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
        let root = Path::new(&package)
            .parent()
            .context("xtask is not in a folder of the workspace")?
            .to_path_buf();
        let mut metadata = Command::new(cargo_program());
        metadata
            .current_dir(&root)
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit());
        let metadata: Value = serde_json::from_slice(&output_of(&mut metadata)?)
            .context("cargo metadata did not print JSON")?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target_directory")?
            .into();
        Ok(Self { root, target })
    }

    /// The cargo that called xtask, in the workspace's root, free of what xtask's own caller
    /// may have set about the kernel object.
    pub(crate) fn cargo(&self) -> Command {
        self.command(cargo_program().as_ref())
    }

    /// The same with another cargo, or another program.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env_remove(BPF_OBJECT_VARIABLE);
        command
    }

    /// Builds `respawn` and returns the binary's path. `object` is the kernel object to embed;
    /// the committed one by default.
    ///
    /// # Errors
    /// When it does not build.
    pub(crate) fn build_respawn(&self, profile: Profile, object: Option<&Path>) -> Result<PathBuf> {
        let mut command = self.cargo();
        command.args(["build", "--package", "monitor-user", "--bin", "respawn"]);
        command
            .arg("--message-format=json-render-diagnostics")
            .stderr(Stdio::inherit());
        profile.choose(&mut command);
        if let Some(object) = object {
            command.env(BPF_OBJECT_VARIABLE, object);
        }
        let messages = output_of(&mut command)?;
        executable_in(&messages, "respawn").context("cargo built respawn, but names no executable")
    }
}

/// How to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Release,
    Dev,
}

impl Profile {
    /// Has cargo build so.
    pub(crate) fn choose(self, command: &mut Command) {
        match self {
            Self::Release => command.arg("--release"),
            Self::Dev => command,
        };
    }
}

/// The cargo that called us.
pub(crate) fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

/// Where cargo installs programs and keeps sources.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

/// Runs a command to its end, all its output shown.
///
/// # Errors
/// When it cannot be started or does not end with status 0.
pub(crate) fn run_to_end(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// What a command prints on stdout.
///
/// # Errors
/// When it cannot be started or does not end with status 0.
pub(crate) fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("start {}", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}\n{}",
            shown(command),
            output.status,
            stderr.trim_end()
        );
    }
    Ok(output.stdout)
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy()),
    );
    words.join(" ")
}

/// The path of the executable `name` in cargo's JSON messages.
pub(crate) fn executable_in(messages: &[u8], name: &str) -> Option<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_executable_among_cargos_messages() {
        let messages =
            br#"{"reason":"compiler-artifact","target":{"name":"respawn"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/target/other"}
{"reason":"compiler-artifact","target":{"name":"respawn"},"executable":"/target/respawn"}"#;
        assert_eq!(
            executable_in(messages, "respawn"),
            Some("/target/respawn".into())
        );
        assert_eq!(executable_in(messages, "absent"), None);
    }
}

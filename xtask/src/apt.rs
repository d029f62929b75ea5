//! Debian's package manager: what it offers, and how it is told to install.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    report::note,
    workspace::{output_of, run_to_end, shown},
};

/// Whether this is Debian, or a system that says it is like it.
pub(crate) fn is_here() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|release| is_debian(&release))
}

/// # Errors
/// When the lists of packages cannot be fetched.
pub(crate) fn update() -> Result<()> {
    run(&["update", "--quiet"]).context("fetch the lists of packages")
}

/// Installs packages, and removes none for them.
///
/// # Errors
/// When apt-get does not.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let mut arguments = vec![
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
        "--no-remove",
    ];
    arguments.extend(packages);
    run(&arguments).context("install Debian packages")
}

/// The version of a package that would be installed.
///
/// # Errors
/// When apt-cache does not run.
pub(crate) fn candidate(package: &str) -> Result<Option<String>> {
    let mut command = Command::new("apt-cache");
    let policy = output_of(command.args(["policy", package]).env("LC_ALL", "C"))?;
    Ok(candidate_in(&String::from_utf8_lossy(&policy)))
}

/// Unpacks a package, or those of its files that fit `only`, over what is in `folder`. `dpkg-deb -x`
/// would replace the links to directories that are there by directories.
///
/// # Errors
/// When dpkg-deb or tar fails.
pub(crate) fn unpack(archive: &Path, folder: &Path, only: &[&str]) -> Result<()> {
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let stdout = files.stdout.take().context("its output is not piped")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--keep-directory-symlink", "--no-same-owner"])
        .arg("--directory")
        .arg(folder)
        .arg("--wildcards")
        .args(only)
        .stdin(stdout);
    let unpacked = run_to_end(&mut tar);
    let status = files.wait().context("wait for dpkg-deb")?;
    unpacked?;
    if !status.success() {
        bail!("dpkg-deb {}: {status}", archive.display());
    }
    Ok(())
}

fn run(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    note!("running: {}", shown(&command));
    run_to_end(&mut command)
}

fn is_debian(release: &str) -> bool {
    let field = |name: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim_matches('"')
    };
    field("ID=") == "debian"
        || field("ID_LIKE=")
            .split_whitespace()
            .any(|id| id == "debian")
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_debian_and_its_kin() {
        assert!(is_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(is_debian("ID=ubuntu\nID_LIKE=\"something debian\"\n"));
        assert!(!is_debian("ID=fedora\nID_LIKE=\"rhel\"\n"));
        assert!(!is_debian(""));
    }

    #[test]
    fn reads_what_would_be_installed() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(
            candidate_in(policy).as_deref(),
            Some("1.96.0+dfsg1-1~deb12u2")
        );
        assert_eq!(candidate_in("x:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
    }
}

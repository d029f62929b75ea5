//! The init systems that tests boot: Debian's own packages, unpacked beside the build.
//!
//! Never installed: some would replace the host's init. Checked as apt checks what it installs.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    apt,
    report::note,
    workspace::{Workspace, output_of, run_to_end, shown},
};

/// Packages with what tests boot; each has its folder, the libraries it needs in it.
const PACKAGES: [&str; 5] = ["sysvinit-core", "busybox-static", "runit", "s6", "openrc"];

/// Written last, into a folder that is whole.
const WHOLE: &str = ".whole";

/// The packages that are not there yet.
pub(crate) fn missing(workspace: &Workspace) -> Vec<&'static str> {
    let is_missing = |package: &&str| !folder(workspace, package).join(WHOLE).exists();
    PACKAGES.into_iter().filter(is_missing).collect()
}

/// Fetches and unpacks packages.
///
/// # Errors
/// When apt-get or dpkg-deb fails.
pub(crate) fn fetch(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    for package in packages {
        let folder = folder(workspace, package);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        lay_out(&folder)?;
        unpack_with_libraries(package, &folder)
            .with_context(|| format!("unpack {package} for the tests"))?;
        fs::write(folder.join(WHOLE), "")?;
        note!("unpacked {package} in {}", folder.display());
    }
    Ok(())
}

/// Where tests look, whatever cargo's target folder is.
fn folder(workspace: &Workspace, package: &str) -> PathBuf {
    workspace.root.join("target/test-inits").join(package)
}

/// All programs below `usr`, wherever a package thinks that they are.
fn lay_out(folder: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib"] {
        fs::create_dir_all(folder.join("usr").join(name))?;
        symlink(format!("usr/{name}"), folder.join(name))?;
    }
    Ok(())
}

fn unpack_with_libraries(package: &str, folder: &Path) -> Result<()> {
    let mut wanted = vec![package.to_owned()];
    let mut seen = HashSet::new();
    while let Some(package) = wanted.pop() {
        if !seen.insert(package.clone()) {
            continue;
        }
        let downloads = tempfile::tempdir()?;
        let archive = download(&package, downloads.path())?;
        apt::unpack(&archive, folder, &[])?;
        for library in depends(&archive)? {
            if !is_installed(&library) && apt::candidate(&library)?.is_some() {
                wanted.push(library);
            }
        }
    }
    Ok(())
}

fn download(package: &str, to: &Path) -> Result<PathBuf> {
    let mut command = Command::new("apt-get");
    command
        .args(["download", "--quiet=2", package])
        // Its own user may not write where we have it write.
        .args(["-o", "APT::Sandbox::User=root"])
        .current_dir(to);
    note!("running: {}", shown(&command));
    run_to_end(&mut command)?;
    let mut files = fs::read_dir(to)?.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get has downloaded no {package}"))
}

/// The libraries that a package needs.
fn depends(archive: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--field").arg(archive).arg("Depends");
    let depends = output_of(&mut command)?;
    Ok(libraries(&String::from_utf8_lossy(&depends)))
}

fn libraries(depends: &str) -> Vec<String> {
    let names = depends.split([',', '|']).filter_map(|dependency| {
        let name = dependency.split_whitespace().next()?;
        name.starts_with("lib").then(|| name.to_owned())
    });
    names.collect()
}

fn is_installed(package: &str) -> bool {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${Status}", package]);
    output_of(command.stderr(Stdio::null()))
        .is_ok_and(|status| String::from_utf8_lossy(&status).ends_with(" installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_libraries_that_a_package_needs() {
        let depends = "libc6 (>= 2.34), libexecline2.9 (>= 2.9.0.0) | libexecline2, mount\n";
        assert_eq!(
            libraries(depends),
            ["libc6", "libexecline2.9", "libexecline2"]
        );
        assert!(libraries("").is_empty());
    }
}

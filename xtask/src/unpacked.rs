//! Debian's packages that tests use, unpacked beside the build: init systems, the emulator, and what
//! collects metrics and logs.
//!
//! Never installed: some would replace the host's init, others start a daemon, and the emulator's package excludes other
//! versions of `qemu-utils`. Checked as apt checks what it installs.

use std::{
    collections::HashSet,
    env,
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt,
    report::note,
    workspace::{Workspace, output_of, run_to_end, shown},
};

/// Packages with inits that tests boot; each has its folder, the libraries it needs in it.
const INITS: [&str; 5] = ["sysvinit-core", "busybox-static", "runit", "s6", "openrc"];

/// Packages with modules by which a C library looks up users.
const MODULES: [&str; 1] = ["libnss-extrausers"];

/// Packages with programs that tests run, of the host where it has them.
const TOOLS: [Program; 4] = [
    Program {
        name: "crun",
        package: "crun",
    },
    Program {
        name: "prometheus",
        package: "prometheus",
    },
    Program {
        name: "rsyslogd",
        package: "rsyslog",
    },
    Program {
        name: "systemd-journal-upload",
        package: "systemd-journal-remote",
    },
];

/// A package with a program that is taken from the host where it is there.
pub(crate) struct Program {
    /// The program's file.
    pub(crate) name: &'static str,
    /// The package that has it.
    pub(crate) package: &'static str,
}

/// The emulator of machines like this one.
pub(crate) const EMULATOR: Program = Program {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
};

/// The emulator of 64-bit Arm machines.
pub(crate) const ARM_EMULATOR: Program = Program {
    name: "qemu-system-aarch64",
    package: "qemu-system-arm",
};

/// Packages with programs that benchmarks run beside ours.
const PEERS: [Program; 1] = [crate::bench::EXITSNOOP];

/// Packages with supervisors that benchmarks run beside ours, and no test; those of tests are among them.
const SUPERVISORS: [&str; 2] = ["monit", "supervisor"];

/// Packages that are needed beside libraries.
const DATA: [&str; 4] = [
    "python3-pkg-resources",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
];

/// Written last, into a folder that is whole.
const WHOLE: &str = ".whole";

/// The packages that are not there yet: the inits, the modules, the tools, and these emulators.
pub(crate) fn missing(workspace: &Workspace, emulators: &[Program]) -> Vec<&'static str> {
    let is_missing = |package: &&str| !folder(workspace, package).join(WHOLE).exists();
    let mut packages = [INITS.as_slice(), &MODULES].concat();
    let programs = TOOLS.iter().chain(&PEERS).chain(emulators);
    packages.extend(
        programs
            .filter(|program| on_this_host(program.name).is_none())
            .map(|program| program.package),
    );
    packages.retain(is_missing);
    packages
}

/// Has what benchmarks compare with: fetches what is not there yet.
///
/// # Errors
/// When this is not Debian, or its archive cannot be reached.
pub(crate) fn have_supervisors(workspace: &Workspace) -> Result<()> {
    let is_missing = |package: &&str| !folder(workspace, package).join(WHOLE).exists();
    let packages = INITS.into_iter().chain(SUPERVISORS);
    let missing: Vec<&str> = packages.filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !apt::is_here() {
        bail!(
            "this is not Debian: {} cannot be unpacked",
            missing.join(", ")
        );
    }
    apt::update()?;
    fetch(workspace, &missing)
}

/// A program that runs here: its file, arguments that come first, and environment variables.
#[derive(Clone)]
pub(crate) struct Runnable {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
}

/// Finds an emulator: the host's own, or the unpacked one.
///
/// # Errors
/// When it is neither installed nor unpacked.
pub(crate) fn emulator(workspace: &Workspace, emulator: &Program) -> Result<Runnable> {
    if let Some(program) = on_this_host(emulator.name) {
        return Ok(Runnable {
            program,
            arguments: Vec::new(),
            variables: Vec::new(),
        });
    }
    let folder = folder(workspace, emulator.package);
    if !folder.join(WHOLE).exists() {
        bail!(
            "no {} here: `cargo xtask setup` unpacks it in {}",
            emulator.name,
            folder.display()
        );
    }
    let libraries = folder.join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH));
    let data = ["usr/share/qemu", "usr/share/seabios"];
    let arguments = data.map(|data| ["-L".into(), folder.join(data).into_os_string()]);
    Ok(Runnable {
        program: folder.join("usr/bin").join(emulator.name),
        arguments: arguments.concat(),
        variables: vec![
            ("QEMU_MODULE_DIR", libraries.join("qemu")),
            ("LD_LIBRARY_PATH", libraries),
        ],
    })
}

/// Where a program is that is unpacked and needs no libraries beside the host's.
pub(crate) fn unpacked(root: &Path, program: &Program) -> Option<PathBuf> {
    let folder = root.join("target/test-packages").join(program.package);
    let places = ["usr/bin", "usr/sbin"].map(|place| folder.join(place).join(program.name));
    places.into_iter().find(|place| place.is_file())
}

/// Where a program is that is installed.
pub(crate) fn on_this_host(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
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
    workspace.root.join("target/test-packages").join(package)
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
        for needed in depends(&archive)? {
            if !is_installed(&needed) && apt::candidate(&needed)?.is_some() {
                wanted.push(needed);
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

/// The libraries and data that a package needs.
fn depends(archive: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--field").arg(archive).arg("Depends");
    let depends = output_of(&mut command)?;
    Ok(unpacked_with(&String::from_utf8_lossy(&depends)))
}

fn unpacked_with(depends: &str) -> Vec<String> {
    let names = depends.split([',', '|']).filter_map(|dependency| {
        let name = dependency.split_whitespace().next()?;
        (name.starts_with("lib") || DATA.contains(&name)).then(|| name.to_owned())
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
    fn finds_the_libraries_and_data_that_a_package_needs() {
        let depends = "libc6 (>= 2.34), libexecline2.9 (>= 2.9.0.0) | libexecline2, mount,\n seabios (>= 1.15)";
        assert_eq!(
            unpacked_with(depends),
            ["libc6", "libexecline2.9", "libexecline2", "seabios"]
        );
        assert!(unpacked_with("").is_empty());
    }
}

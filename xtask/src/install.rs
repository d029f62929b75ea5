//! `cargo xtask install`: `respawn` on this host. As a package where its package manager takes one of those that
//! `cargo xtask dist` makes, else the binary alone.
//!
//! Starts nothing, and puts nothing under init: it names the commands for that.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    Verdict,
    dist::{self, Kind},
    report::note,
    unpacked::on_this_host,
    workspace::{Profile, Workspace, run_to_end, shown},
};

/// Install respawn on this host: as a package where it takes one, which is made first where there is none
#[derive(clap::Args)]
pub(crate) struct Args {}

/// How a host takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Dpkg,
    Rpm,
    /// Its package manager takes none of our packages, or is not here.
    Copy,
}

/// Where the binary goes without a package.
const BINARY: &str = "/usr/local/sbin/respawn";

pub(crate) fn run(workspace: &Workspace, _: &Args) -> Result<Verdict> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let way = Way::on(&release, |program| on_this_host(program).is_some());
    let (steps, binary) = match way {
        Way::Dpkg => (
            way.steps(&dist::package(workspace, Kind::Deb)?),
            "/usr/sbin/respawn",
        ),
        Way::Rpm => (
            way.steps(&dist::package(workspace, Kind::Rpm)?),
            "/usr/sbin/respawn",
        ),
        Way::Copy => {
            note!("no package for this host's package manager: installing the binary alone");
            (
                way.steps(&workspace.build_respawn(Profile::Release, None)?),
                BINARY,
            )
        }
    };
    let is_root = nix::unistd::geteuid().is_root();
    for words in as_root(steps, is_root, on_this_host("sudo").is_some())? {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        note!("running: {}", shown(&command));
        run_to_end(&mut command)?;
    }
    let by_units = way != Way::Copy && Path::new("/run/systemd/system").is_dir();
    note!("{}", next(binary, by_units));
    Ok(Verdict::Pass)
}

impl Way {
    /// What a host with this os-release and these programs takes.
    fn on(os_release: &str, has: impl Fn(&str) -> bool) -> Self {
        let is_like = |names: &[&str]| {
            let fields = os_release.lines().filter_map(|line| {
                line.strip_prefix("ID=")
                    .or_else(|| line.strip_prefix("ID_LIKE="))
            });
            let mut ids = fields.flat_map(|value| value.trim_matches('"').split_whitespace());
            ids.any(|id| names.contains(&id))
        };
        if is_like(&["debian"]) && has("dpkg") && has("dpkg-deb") {
            Self::Dpkg
        } else if is_like(&["fedora", "rhel", "suse"]) && has("rpm") && has("rpmbuild") {
            Self::Rpm
        } else {
            Self::Copy
        }
    }

    /// The commands that install this package, or this binary.
    fn steps(self, file: &Path) -> Vec<Vec<String>> {
        let file = file.to_string_lossy();
        let steps: &[&[&str]] = match self {
            Self::Dpkg => &[&["dpkg", "--install", &file]],
            Self::Rpm => &[&["rpm", "--upgrade", "--replacepkgs", &file]],
            Self::Copy => &[
                &["install", "-D", "-m", "755", &file, BINARY],
                &["install", "-d", "/etc/respawn/services"],
            ],
        };
        let words = |step: &&[&str]| step.iter().map(|word| (*word).to_owned()).collect();
        steps.iter().map(words).collect()
    }
}

/// The same commands as this user can run them.
///
/// # Errors
/// When the user cannot; it names them.
fn as_root(mut steps: Vec<Vec<String>>, is_root: bool, has_sudo: bool) -> Result<Vec<Vec<String>>> {
    if is_root {
        return Ok(steps);
    }
    if !has_sudo {
        let lines: Vec<_> = steps.iter().map(|words| words.join(" ")).collect();
        bail!("installing takes root; as root run: {}", lines.join("; "));
    }
    for words in &mut steps {
        words.insert(0, "sudo".to_owned());
    }
    Ok(steps)
}

/// What somebody does now.
fn next(binary: &str, by_units: bool) -> String {
    let (recorder, agent) = match by_units {
        true => (
            "systemctl enable --now respawn-recorder",
            "systemctl enable --now respawn respawn-spare",
        ),
        false => (
            "respawn install --recorder --init auto",
            "respawn install --init auto",
        ),
    };
    format!(
        "{binary} is installed, and nothing is started. As root:\n  \
         {recorder:<46}# who killed what\n  \
         {agent:<46}# the services in /etc/respawn/services"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "PRETTY_NAME=\"Debian\"\nID=debian\n";
    const UBUNTU: &str = "ID=ubuntu\nID_LIKE=debian\n";
    const SUSE: &str = "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n";
    const ALPINE: &str = "ID=alpine\n";

    #[test]
    fn a_host_gets_the_package_that_its_manager_takes() {
        let all = |_: &str| true;
        assert_eq!(Way::on(DEBIAN, all), Way::Dpkg);
        assert_eq!(Way::on(UBUNTU, all), Way::Dpkg);
        assert_eq!(Way::on("ID=fedora\n", all), Way::Rpm);
        assert_eq!(Way::on(SUSE, all), Way::Rpm);
        assert_eq!(Way::on(ALPINE, all), Way::Copy);
        assert_eq!(Way::on("", all), Way::Copy);
    }

    #[test]
    fn without_the_packager_the_binary_is_copied() {
        assert_eq!(Way::on(SUSE, |program| program == "rpm"), Way::Copy);
        assert_eq!(Way::on(DEBIAN, |_| false), Way::Copy);
        let steps = Way::Copy.steps(Path::new("/t/respawn"));
        assert_eq!(steps[0].last().unwrap(), BINARY);
    }

    #[test]
    fn who_is_not_root_uses_sudo_or_hears_what_to_run() {
        let steps = || Way::Dpkg.steps(Path::new("/t/x.deb"));
        assert_eq!(as_root(steps(), true, true).unwrap()[0][0], "dpkg");
        assert_eq!(
            as_root(steps(), false, true).unwrap()[0][..2],
            ["sudo", "dpkg"]
        );
        let error = as_root(steps(), false, false).unwrap_err().to_string();
        assert!(error.ends_with("run: dpkg --install /t/x.deb"), "{error}");
    }
}

//! A package for Fedora, openSUSE and their kin, by rpmbuild.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    Release, deb,
    stage::{self, DOC},
    tools::{self, fill},
    tree::Tree,
};
use crate::{static_build::Arch, workspace::run_to_end};

/// Builds it.
///
/// # Errors
/// When rpmbuild or another program fails.
pub(super) fn build(release: &Release<'_>) -> Result<PathBuf> {
    let tree = Tree::new(release.work.join("rpm"))?;
    stage::lay_out(release, &tree)?;
    for name in ["LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY"] {
        let from = tree.at(&format!("{DOC}/{name}"));
        tree.copy(&from, &format!("usr/share/licenses/respawn/{name}"))?;
        fs::remove_file(from)?;
    }
    for file in tree.files()? {
        if file.starts_with("usr/share/man/") {
            tools::gzip(&tree.at(&file))?;
        }
    }
    tree.settle(release.epoch)?;
    let top = release.work.join("rpmbuild");
    super::empty(&top)?;
    let values = [
        ("version", release.version.as_str()),
        ("tree", &tree.path().to_string_lossy()),
        ("date", &tools::date(release.epoch, "+%a %b %d %Y")?),
    ];
    let spec = deb::with_parts(release, &release.template("rpm/respawn.spec")?)?;
    let file = top.join("respawn.spec");
    fs::write(&file, fill(&spec, &values))?;
    let mut command = Command::new("rpmbuild");
    command
        .args(["-bb", "--quiet", "--target"])
        .arg(format!("{}-linux", release.arch.name()));
    for (name, value) in [
        ("_topdir", top.to_string_lossy().as_ref()),
        ("_buildhost", "respawn"),
        ("use_source_date_epoch_as_buildtime", "1"),
        ("clamp_mtime_to_source_date_epoch", "1"),
    ] {
        command.args(["--define", &format!("{name} {value}")]);
    }
    command
        .arg(&file)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
        .stdout(Stdio::null());
    run_to_end(&mut command)?;
    let name = file_name(&release.version, release.arch);
    let built = top.join("RPMS").join(release.arch.name()).join(&name);
    let file = release.out.join(name);
    fs::copy(&built, &file).with_context(|| format!("copy {}", built.display()))?;
    Ok(file)
}

/// The name of its file.
pub(super) fn file_name(version: &str, arch: Arch) -> String {
    format!("respawn-{version}-1.{}.rpm", arch.name())
}

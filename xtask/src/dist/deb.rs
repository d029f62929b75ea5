//! Debian's package, by dpkg-deb.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    Release,
    stage::{self, DOC},
    tools::{self, fill},
    tree::Tree,
};
use crate::{
    static_build::Arch,
    workspace::{output_of, run_to_end},
};

/// Of the package; nobody answers there, as the project has no mailing list.
const MAINTAINER: &str = "the respawn contributors <respawn@packages.invalid>";

const INIT_SCRIPTS: [&str; 2] = ["respawn", "respawn-recorder"];

/// Builds it.
///
/// # Errors
/// When dpkg-deb or another program fails.
pub(super) fn build(release: &Release<'_>) -> Result<PathBuf> {
    let tree = Tree::new(release.work.join("deb"))?;
    stage::lay_out(release, &tree)?;
    as_debian_has_it(release, &tree)?;
    let files = tree.files()?;
    control(release, &tree, &files)?;
    tree.settle(release.epoch)?;
    let file = release.out.join(file_name(&release.version, release.arch));
    let mut command = Command::new("dpkg-deb");
    command
        .args(["--build", "--root-owner-group", "-Zxz"])
        .arg(tree.path())
        .arg(&file)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
        // What several threads compress depends on how many there are.
        .env("DPKG_DEB_THREADS_MAX", "1")
        .stdout(std::process::Stdio::null());
    run_to_end(&mut command)?;
    Ok(file)
}

/// The name of its file.
pub(super) fn file_name(version: &str, arch: Arch) -> String {
    format!("respawn_{version}-1_{}.deb", arch.debian())
}

fn package_version(release: &Release<'_>) -> String {
    format!("{}-1", release.version)
}

/// Moves files where Debian's policy wants them.
fn as_debian_has_it(release: &Release<'_>, tree: &Tree) -> Result<()> {
    let maintainer = MAINTAINER;
    let date = tools::date(release.epoch, "+%a, %d %b %Y %H:%M:%S +0000")?;
    let version = package_version(release);
    let values = [
        ("version", version.as_str()),
        ("maintainer", maintainer),
        ("date", &date),
    ];
    let changelog = fill(&release.template("debian/changelog")?, &values);
    tree.write(&format!("{DOC}/changelog.Debian"), changelog)?;
    rename(
        tree,
        &format!("{DOC}/CHANGELOG.md"),
        &format!("{DOC}/changelog"),
    )?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        fs::remove_file(tree.at(&format!("{DOC}/{licence}")))?;
    }
    let mit = fs::read_to_string(release.workspace.root.join("LICENSE-MIT"))?;
    let copyright = fill(
        &release.template("debian/copyright")?,
        &[("mit", &in_a_field(&mit))],
    );
    tree.write(&format!("{DOC}/copyright"), copyright)?;
    rename(
        tree,
        "usr/share/zsh/site-functions/_respawn",
        "usr/share/zsh/vendor-completions/_respawn",
    )?;
    fs::remove_dir(tree.at("usr/share/zsh/site-functions"))?;
    for script in INIT_SCRIPTS {
        let text = release.template(&format!("debian/{script}.init"))?;
        tree.write_program(&format!("etc/init.d/{script}"), text)?;
    }
    let overrides = release.template("debian/lintian-overrides")?;
    tree.write("usr/share/lintian/overrides/respawn", overrides)?;
    for file in tree.files()? {
        let is_compressed = file.starts_with("usr/share/man/")
            || ["changelog", "changelog.Debian", "THIRD-PARTY"]
                .iter()
                .any(|name| file == format!("{DOC}/{name}"));
        if is_compressed {
            tools::gzip(&tree.at(&file))?;
        }
    }
    Ok(())
}

fn rename(tree: &Tree, from: &str, to: &str) -> Result<()> {
    let (from, to) = (tree.at(from), tree.at(to));
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(&from, &to).with_context(|| format!("rename {}", from.display()))
}

/// A text as the value of a field: each line indented, none empty.
fn in_a_field(text: &str) -> String {
    let lines = text.trim_end().lines().map(|line| match line {
        "" => " .".to_owned(),
        line => format!(" {line}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The package's control files.
fn control(release: &Release<'_>, tree: &Tree, files: &[String]) -> Result<()> {
    let version = package_version(release);
    let size = size(tree, files)?.to_string();
    let values = [
        ("version", version.as_str()),
        ("arch", release.arch.debian()),
        ("maintainer", MAINTAINER),
        ("size", &size),
    ];
    let control = fill(&release.template("debian/control")?, &values);
    tree.write("DEBIAN/control", control)?;
    let conffiles = INIT_SCRIPTS.map(|script| format!("/etc/init.d/{script}\n"));
    tree.write("DEBIAN/conffiles", conffiles.concat())?;
    tree.write("DEBIAN/md5sums", md5sums(tree.path(), files)?)?;
    for script in ["postinst", "prerm", "postrm"] {
        let text = with_parts(release, &release.template(&format!("debian/{script}"))?)?;
        tree.write_program(&format!("DEBIAN/{script}"), text)?;
    }
    Ok(())
}

/// Puts the scripts that packages share where a script names them.
pub(super) fn with_parts(release: &Release<'_>, script: &str) -> Result<String> {
    let mut text = script.to_owned();
    for name in ["renew", "remove", "purge"] {
        let part = release.template(&format!("scripts/{name}.sh"))?;
        text = fill(&text, &[(name, part.trim_end())]);
    }
    Ok(text)
}

/// In KiB, each file rounded up, as dpkg-gencontrol counts.
fn size(tree: &Tree, files: &[String]) -> Result<u64> {
    let mut size = 0;
    for file in files {
        size += fs::metadata(tree.at(file))?.len().div_ceil(1024);
    }
    Ok(size)
}

fn md5sums(tree: &Path, files: &[String]) -> Result<Vec<u8>> {
    let is_configuration = |file: &&String| file.starts_with("etc/");
    let mut command = Command::new("md5sum");
    command
        .current_dir(tree)
        .args(files.iter().filter(|file| !is_configuration(file)));
    output_of(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_into_a_field() {
        assert_eq!(in_a_field("a\n\nb\n"), " a\n .\n b");
    }
}

//! What every package has below `/`: the binary, its manual pages, completions and units, and the
//! documentation. The binary itself prints pages, completions and units, so they are of its version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Release, crates, notices, tools, tree::Tree};
use crate::workspace::output_of;

/// Where packages have the binary.
pub(super) const BINARY: &str = "usr/sbin/respawn";
pub(super) const DOC: &str = "usr/share/doc/respawn";
/// In the place of the line by which `respawn uninstall` knows what `respawn install` has written.
const OF_THE_PACKAGE: &str = "# Of the package respawn; `systemctl edit` changes it.";

/// Where shells look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/respawn"),
    ("zsh", "usr/share/zsh/site-functions/_respawn"),
    ("fish", "usr/share/fish/vendor_completions.d/respawn.fish"),
];

/// An archive of it, to be unpacked at `/`.
///
/// # Errors
/// When it cannot be written.
pub(super) fn tar(release: &Release<'_>) -> Result<PathBuf> {
    let tree = Tree::new(release.work.join("tar"))?;
    lay_out(release, &tree)?;
    tree.settle(release.epoch)?;
    let archive = release.file(".tar");
    tools::tar(tree.path(), &archive, release.epoch)?;
    let file = release.file(".tar.gz");
    let _ = fs::remove_file(&file);
    tools::gzip(&archive)?;
    Ok(file)
}

/// Writes it into a tree.
///
/// # Errors
/// When the binary does not print what it should, or a file cannot be written.
pub(super) fn lay_out(release: &Release<'_>, tree: &Tree) -> Result<()> {
    tree.copy(&release.binary, BINARY)?;
    let pages = tree.folder("usr/share/man/man8")?;
    printed(release, &["man", "--dir", &pages.to_string_lossy()])?;
    for (shell, path) in COMPLETIONS {
        tree.write(path, printed(release, &["completions", shell])?)?;
    }
    units(release, tree)?;
    tree.folder("etc/respawn/services")?;
    documentation(release, tree)
}

fn printed(release: &Release<'_>, arguments: &[&str]) -> Result<Vec<u8>> {
    output_of(Command::new(&release.runnable).args(arguments))
}

/// The units that `respawn install` would write, as the package's own.
fn units(release: &Release<'_>, tree: &Tree) -> Result<()> {
    let image = release.work.join("image");
    let root = image.to_string_lossy();
    let install = [
        "install",
        "--init",
        "systemd",
        "--binary",
        "/usr/sbin/respawn",
        "--root",
        &root,
    ];
    let both = [&[][..], &["--recorder"]];
    for more in &both[..1 + usize::from(release.has_recorder)] {
        super::empty(&image)?;
        // It is looked for, and not read.
        fs::create_dir_all(image.join("usr/sbin"))?;
        fs::write(image.join(BINARY), "")?;
        printed(release, &[&install, *more].concat())?;
        let units = image.join("etc/systemd/system");
        for entry in fs::read_dir(&units).with_context(|| format!("read {}", units.display()))? {
            let path = entry?.path();
            if path.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let text = of_the_package(&fs::read_to_string(&path)?);
                tree.write(&format!("usr/lib/systemd/system/{name}"), text)?;
            }
        }
    }
    let catalog = "systemd/respawn.catalog";
    let text = release.template(catalog)?;
    tree.write("usr/lib/systemd/catalog/respawn.catalog", text)
}

fn of_the_package(unit: &str) -> String {
    let lines = unit.lines().map(|line| {
        let line = match line {
            line if line.contains("written by respawn install") => OF_THE_PACKAGE,
            line => line,
        };
        match line.starts_with("Description=") {
            true => format!("{line}\nDocumentation=man:respawn(8)\n"),
            false => format!("{line}\n"),
        }
    });
    lines.collect()
}

fn documentation(release: &Release<'_>, tree: &Tree) -> Result<()> {
    let root = &release.workspace.root;
    for name in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        tree.copy(&root.join(name), &format!("{DOC}/{name}"))?;
    }
    for folder in ["docs", "examples/services", "examples/fleet"] {
        copy_files(&root.join(folder), tree, &format!("{DOC}/{folder}"))?;
    }
    let crates = crates::of_binary(release.workspace, release.arch)?;
    tree.write(&format!("{DOC}/THIRD-PARTY"), notices::of(&crates)?)
}

/// The files of a folder, without those in folders below it.
fn copy_files(from: &Path, tree: &Tree, to: &str) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            tree.copy(&path, &format!("{to}/{name}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_becomes_the_packages() {
        let unit = "# This file was written by respawn install; `respawn uninstall` removes it.\n\
                    [Unit]\nDescription=x\n";
        let text = of_the_package(unit);
        assert!(!text.contains("written by"), "{text}");
        assert!(
            text.contains("\nDescription=x\nDocumentation=man:"),
            "{text}"
        );
    }
}

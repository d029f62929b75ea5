//! Builds for another processor than this machine's: Debian's Rust with the standard library for that
//! processor beside it, and a C compiler that links for it.
//!
//! The library is unpacked below the target folder, and not installed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt,
    report::note,
    static_build::Arch,
    unpacked, vm,
    workspace::{Workspace, output_of},
};

/// Debian's compiler.
pub(crate) const RUSTC: &str = "/usr/bin/rustc";

/// Written last, into a folder that is whole.
const WHOLE: &str = ".whole";

/// What cargo needs to build for another processor.
pub(crate) struct Cross {
    sysroot: PathBuf,
    arch: Arch,
}

impl Cross {
    /// What it takes to build for `arch` on this machine; `None` if that is its own processor.
    ///
    /// # Errors
    /// When a compiler is missing, or the library cannot be fetched.
    pub(crate) fn prepare(workspace: &Workspace, arch: Arch) -> Result<Option<Self>> {
        if std::env::consts::ARCH == arch.name() {
            return Ok(None);
        }
        if unpacked::on_this_host(linker(arch)).is_none() {
            bail!(
                "{} is missing: `cargo xtask setup --arch {}` installs it",
                linker(arch),
                arch.name()
            );
        }
        let (package, version) = compiler_package()?;
        let name = format!("{}-{}", arch.name(), version.replace(['/', ':'], "_"));
        let sysroot = workspace.target.join("cross").join(name);
        if !sysroot.join(WHOLE).exists() {
            unpack_library(arch, &package, &version, &sysroot)?;
        }
        Ok(Some(Self { sysroot, arch }))
    }

    /// Has cargo build by this; returns the flags that rustc needs, too.
    pub(crate) fn choose(&self, command: &mut Command) -> Vec<String> {
        let target = self.arch.target().replace('-', "_");
        command
            .env("RUSTC", RUSTC)
            .env(
                format!("CARGO_TARGET_{}_LINKER", target.to_uppercase()),
                linker(self.arch),
            )
            .env(format!("CC_{target}"), linker(self.arch));
        vec![format!("--sysroot={}", self.sysroot.display())]
    }
}

/// The program that links for it.
fn linker(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64-linux-gnu-gcc",
        Arch::Aarch64 => "aarch64-linux-gnu-gcc",
    }
}

/// Debian's packages that are missing to link for it.
pub(crate) fn missing_packages(arch: Arch) -> &'static [&'static str] {
    let is_here = std::env::consts::ARCH == arch.name();
    match arch {
        _ if is_here || unpacked::on_this_host(linker(arch)).is_some() => &[],
        Arch::X86_64 => &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
        Arch::Aarch64 => &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    }
}

/// The package that has Debian's compiler, and its version.
fn compiler_package() -> Result<(String, String)> {
    let mut owner = Command::new("dpkg-query");
    owner.args(["--search", RUSTC]);
    let owner = output_of(&mut owner).with_context(|| {
        format!("{RUSTC} is of no Debian package: `cargo xtask setup` installs one")
    })?;
    let package = owner_in(&String::from_utf8_lossy(&owner))
        .with_context(|| format!("dpkg-query names no package of {RUSTC}"))?;
    let mut version = Command::new("dpkg-query");
    version.args(["--show", "--showformat=${Version}", &package]);
    let version = String::from_utf8_lossy(&output_of(&mut version)?)
        .trim()
        .to_owned();
    Ok((package, version))
}

/// From "rustc-web: /usr/bin/rustc".
fn owner_in(said: &str) -> Option<String> {
    let (package, _) = said.lines().last()?.split_once(':')?;
    Some(package.to_owned())
}

/// The package of the library that goes with a compiler's.
fn library_package(compiler: &str) -> String {
    format!("lib{}-dev", compiler.replace("rustc", "std-rust"))
}

fn unpack_library(arch: Arch, compiler: &str, version: &str, sysroot: &Path) -> Result<()> {
    let package = library_package(compiler);
    note!(
        "fetching Rust's library for {}: {package} {version}",
        arch.name()
    );
    let unfinished = sysroot.with_extension("new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let root = unfinished.join("root");
    fs::create_dir_all(&root)?;
    let package = vm::download(arch, &package, version, &unfinished)?;
    apt::unpack(&package, &root, &["*/rustlib/*"])?;
    fs::remove_file(package)?;
    // What cargo's build scripts and macros are built with stays this machine's.
    let libraries = unfinished.join("lib/rustlib");
    fs::create_dir_all(&libraries)?;
    let target = arch.target();
    symlink(
        Path::new("../../root/usr/lib/rustlib").join(target),
        libraries.join(target),
    )?;
    fs::write(unfinished.join(WHOLE), "")?;
    if sysroot.exists() {
        fs::remove_dir_all(sysroot)?;
    }
    fs::rename(unfinished, sysroot)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_library_of_a_compiler() {
        let owner = owner_in("rustc-web: /usr/bin/rustc\n");
        assert_eq!(owner.as_deref(), Some("rustc-web"));
        assert_eq!(owner_in(""), None);
        assert_eq!(library_package("rustc-web"), "libstd-rust-web-dev");
        assert_eq!(library_package("rustc"), "libstd-rust-dev");
    }
}

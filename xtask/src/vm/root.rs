//! The programs that every machine has: packages of one Debian release, unpacked and trimmed, in
//! one archive that is kept in the cache.

use std::{
    collections::hash_map::DefaultHasher,
    fs::{self, File},
    hash::{Hash as _, Hasher as _},
    io::BufWriter,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{archive::Archive, cpio};
use crate::{apt, report::note, static_build::Arch};

/// What the scripts and the tests call.
const PACKAGES: [&str; 17] = [
    "busybox-static",
    "bash",
    "coreutils",
    "dash",
    "findutils",
    "gawk",
    "grep",
    "gzip",
    "kmod",
    "libc-bin",
    "mount",
    "procps",
    "python3-minimal",
    "sed",
    "tar",
    "tmux",
    "util-linux",
];

/// What nothing in a machine reads.
const NOT_NEEDED: [&str; 12] = [
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/locale",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/bash-completion",
    "/usr/share/perl5",
    "/usr/share/debconf",
    "/usr/share/i18n",
    "/usr/share/zoneinfo",
    "/usr/share/awk",
    "/var/cache",
];

/// Users, as every Debian has them.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/usr/sbin/nologin\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nadm:x:4:\ntty:x:5:\nnogroup:x:65534:\n";

/// The archive with the programs, made unless it is there.
///
/// # Errors
/// When packages cannot be fetched or unpacked, or the cache cannot be written.
pub(super) fn image(cache: &Path, arch: Arch) -> Result<PathBuf> {
    kept(cache, arch, "root", &PACKAGES, |packages, root| {
        for package in packages {
            apt::unpack(package, root, &[])?;
        }
        finish(root)
    })
}

/// The archive with an init's packages and the libraries that they need, made unless it is there.
///
/// # Errors
/// As [`image`].
pub(super) fn init_image(
    cache: &Path,
    arch: Arch,
    name: &str,
    packages: &[&str],
) -> Result<PathBuf> {
    kept(cache, arch, name, packages, |files, root| {
        let is_needed = |file: &&PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let package = name.split('_').next().unwrap_or_default();
            package.starts_with("lib") || packages.contains(&package)
        };
        for file in files.iter().filter(is_needed) {
            apt::unpack(file, root, &[])?;
        }
        Ok(())
    })
}

fn kept(
    cache: &Path,
    arch: Arch,
    name: &str,
    packages: &[&str],
    unpack: impl FnOnce(&[PathBuf], &Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (packages, NOT_NEEDED, PASSWD, GROUP).hash(&mut hasher);
    let name = format!("{name}-{}-{:016x}.cpio", arch.debian(), hasher.finish());
    let image = cache.join(name);
    if image.exists() {
        return Ok(image);
    }
    let archive = Archive::open(cache, arch)?;
    let files = archive.download_with_dependencies(packages)?;
    let folder = tempfile::tempdir_in(cache)?;
    let root = folder.path().join("root");
    lay_out(&root)?;
    unpack(&files, &root).with_context(|| format!("unpack {}", packages.join(" ")))?;
    let unfinished = folder.path().join("root.cpio");
    let mut cpio = cpio::Archive::new(BufWriter::new(File::create(&unfinished)?));
    cpio.directory("/dev", 0o755)?;
    cpio.character_device("/dev/console", (5, 1))?;
    cpio.tree(&root, "", |path| {
        !NOT_NEEDED.contains(&path) && !path.ends_with("/__pycache__")
    })?;
    cpio.finish()?;
    fs::rename(unfinished, &image)?;
    note!("kept {}", image.display());
    Ok(image)
}

/// All programs below `usr`, wherever a package thinks that they are.
fn lay_out(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for name in [
        "etc", "proc", "sys", "run", "tmp", "var/log", "var/lib", "root", "mnt",
    ] {
        fs::create_dir_all(root.join(name))?;
    }
    Ok(())
}

/// What packages do by their scripts when they are installed.
fn finish(root: &Path) -> Result<()> {
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fs::write(root.join("etc/group"), GROUP)?;
    let nsswitch = "passwd: files\ngroup: files\nshadow: files\n";
    fs::write(root.join("etc/nsswitch.conf"), nsswitch)?;
    fs::write(root.join("etc/hostname"), "respawn-vm\n")?;
    for (link, target) in [("awk", "gawk"), ("sh", "dash"), ("python3", "python3.13")] {
        let link = root.join("usr/bin").join(link);
        if !link.exists() {
            let _ = fs::remove_file(&link);
            symlink(target, link)?;
        }
    }
    Ok(())
}

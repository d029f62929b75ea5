//! The kernels that machines run: Debian's cloud kernels, newest of each version, kept in the
//! cache.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::archive::Archive;
use crate::{apt, report::note, static_build::Arch};

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// What it calls itself, such as `6.12.107+deb13-cloud-amd64`.
    pub(super) release: String,
    pub(super) image: PathBuf,
}

/// The word for the newest kernel that there is.
pub(super) const NEWEST: &str = "newest";

/// Finds a kernel: a version such as `5.10`, `newest`, or the path of an image.
///
/// # Errors
/// When Debian has no such kernel and the cache neither, or it cannot be fetched.
pub(super) fn find(name: &str, cache: &Path, arch: Arch) -> Result<Kernel> {
    if name.contains('/') {
        let image = PathBuf::from(name);
        if !image.is_file() {
            bail!("{name} is no file: expected the image of a kernel");
        }
        return Ok(Kernel {
            release: name.to_owned(),
            image,
        });
    }
    let archive = Archive::open(cache, arch)?;
    let names = archive.names()?;
    let package = newest(&names, name, arch.debian()).with_context(|| {
        let versions = versions(&names, arch.debian()).join(" ");
        format!("Debian has no cloud kernel {name} any more; it has: {versions}")
    })?;
    let release = release_of(package, arch.debian()).unwrap_or_default();
    let folder = cache.join("kernels").join(release);
    let image = folder.join("vmlinuz");
    if !image.exists() {
        fetch(&archive, package, &folder, &image)?;
    }
    Ok(Kernel {
        release: release.to_owned(),
        image,
    })
}

fn fetch(archive: &Archive, package: &str, folder: &Path, image: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let downloads = tempfile::tempdir_in(folder)?;
    let package = archive.download(package, None, downloads.path())?;
    apt::unpack(&package, downloads.path(), &["*/vmlinuz*"])?;
    let unpacked = find_image(downloads.path())?
        .with_context(|| format!("{} has no vmlinuz", package.display()))?;
    fs::rename(unpacked, image)?;
    note!("kept {}", image.display());
    Ok(())
}

fn find_image(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Some(image) = find_image(&path)? {
                return Ok(Some(image));
            }
        } else if entry.file_name().to_string_lossy().starts_with("vmlinuz") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The package of the newest kernel of that version.
fn newest<'a>(names: &'a [String], version: &str, arch: &str) -> Option<&'a str> {
    let fits = |release: &str| {
        version == NEWEST
            || release
                .strip_prefix(version)
                .is_some_and(|rest| rest.starts_with(['.', '-', '+']))
    };
    names
        .iter()
        .filter_map(|name| Some((release_of(name, arch)?, name)))
        .filter(|(release, _)| fits(release))
        // From 7.0 on the image is in a package `linux-binary-…` and `linux-image-…` is empty.
        .max_by(|(a, name), (b, other)| {
            by_number(a, b).then(
                name.starts_with("linux-binary")
                    .cmp(&other.starts_with("linux-binary")),
            )
        })
        .map(|(_, name)| name.as_str())
}

/// The kernel's release, if the package is that of one.
fn release_of<'a>(package: &'a str, arch: &str) -> Option<&'a str> {
    let release = package
        .strip_prefix("linux-binary-")
        .or_else(|| package.strip_prefix("linux-image-"))?;
    let version = release.strip_suffix(arch)?.strip_suffix("-cloud-")?;
    // Not the packages that only depend on the newest one.
    (version.starts_with(|first: char| first.is_ascii_digit()) && version.matches('.').count() >= 2)
        .then_some(release)
}

/// The versions that there are, such as `6.12`.
fn versions(names: &[String], arch: &str) -> Vec<String> {
    let mut versions: Vec<String> = names
        .iter()
        .filter_map(|name| release_of(name, arch))
        .map(|release| release.split('.').take(2).collect::<Vec<_>>().join("."))
        .collect();
    versions.sort_by(|a, b| by_number(a, b));
    versions.dedup();
    versions
}

/// Compares as people count: numbers by their value, all else by its letters.
fn by_number(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let order = match (a.chars().next(), b.chars().next()) {
            (None, None) => return Ordering::Equal,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                number(&mut a).cmp(&number(&mut b))
            }
            (x, y) => {
                a = x.map_or("", |x| &a[x.len_utf8()..]);
                b = y.map_or("", |y| &b[y.len_utf8()..]);
                x.cmp(&y)
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes the number that a text begins with.
fn number(text: &mut &str) -> u64 {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    digits.parse().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finds_the_newest_kernel_of_a_version() {
        let names = names(&[
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-unsigned",
            "linux-image-6.1.0-99-cloud-arm64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.117+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-image-6.18.5+deb13-amd64",
        ]);
        let newest = |version| newest(&names, version, "amd64");
        assert_eq!(newest("6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(
            newest("6.12"),
            Some("linux-image-6.12.117+deb13-cloud-amd64")
        );
        assert_eq!(newest(NEWEST), Some("linux-binary-7.3.4+deb13-cloud-amd64"));
        assert_eq!(newest("7.3.4"), newest(NEWEST));
        assert_eq!(newest("6.18"), None);
        assert_eq!(newest("6"), newest("6.12"));
        assert_eq!(versions(&names, "amd64"), ["6.1", "6.12", "7.3"]);
    }

    #[test]
    fn compares_numbers_by_their_value() {
        assert_eq!(by_number("6.9.1", "6.12"), Ordering::Less);
        assert_eq!(by_number("6.1", "6.1.0"), Ordering::Less);
        assert_eq!(by_number("7.0", "7.0"), Ordering::Equal);
        assert_eq!(by_number("b1", "a2"), Ordering::Greater);
    }
}

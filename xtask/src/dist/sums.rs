//! `SHA256SUMS`, as `sha256sum --check` reads it.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::Release;
use crate::manifest::digest_of;

/// A digest in hexadecimal alone.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest_of(bytes).trim_start_matches("sha256:").to_owned()
}

/// Writes the digests of all files of this version, of other architectures too.
pub(super) fn write(release: &Release<'_>) -> Result<PathBuf> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(&release.out)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && name.contains(&release.version) {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            lines.push(format!("{name}\0{}", sha256(&bytes)));
        }
    }
    lines.sort();
    let lines = lines.iter().filter_map(|line| line.split_once('\0'));
    let text: String = lines
        .map(|(name, digest)| format!("{digest}  {name}\n"))
        .collect();
    let file = release.out.join("SHA256SUMS");
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

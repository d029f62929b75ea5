//! A container image of the binary alone, written as an OCI image layout. It takes no daemon.
//!
//! The archive is for `podman load`, `skopeo copy oci-archive:` and `docker load` (25 and later).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Release, stage::BINARY, tools, tree::Tree};
use crate::{manifest::digest_of, static_build::Arch};

/// Users whom the binary looks up by name.
const PASSWD: &str =
    "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Writes it.
///
/// # Errors
/// When it cannot be written.
pub(super) fn build(release: &Release<'_>) -> Result<PathBuf> {
    let layout = Tree::new(release.work.join("oci"))?;
    let (layer, content) = layer(release)?;
    let created = tools::date(release.epoch, "+%Y-%m-%dT%H:%M:%SZ")?;
    let config = json!({
        "architecture": release.arch.oci(),
        "os": "linux",
        "created": created,
        "config": {
            "Entrypoint": [format!("/{BINARY}")],
            "Cmd": ["recorder"],
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
            "Labels": labels(release),
        },
        "rootfs": { "type": "layers", "diff_ids": [digest_of(&content)] },
        "history": [{ "created": created, "created_by": "cargo xtask dist" }],
    });
    let config = put(&layout, &serde_json::to_vec(&config)?)?;
    let layer = put(&layout, &fs::read(layer)?)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
        "annotations": labels(release),
    });
    let manifest = put(&layout, &serde_json::to_vec(&manifest)?)?;
    let mut entry = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({ "architecture": release.arch.oci(), "os": "linux" });
    let name = format!("respawn:{}", release.version);
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": release.version,
        "io.containerd.image.name": format!("docker.io/library/{name}"),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    layout.write("index.json", serde_json::to_vec(&index)?)?;
    layout.write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    layout.settle(release.epoch)?;
    let file = release.file(".oci.tar");
    tools::tar(layout.path(), &file, release.epoch)?;
    Ok(file)
}

impl Arch {
    /// Go's name of it, which images use.
    fn oci(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

fn labels(release: &Release<'_>) -> Value {
    json!({
        "org.opencontainers.image.title": "respawn",
        "org.opencontainers.image.description":
            "reports who killed a process, and keeps services running",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
    })
}

/// The one layer: its compressed file, and its bytes before that.
fn layer(release: &Release<'_>) -> Result<(PathBuf, Vec<u8>)> {
    let tree = Tree::new(release.work.join("layer"))?;
    tree.copy(&release.binary, BINARY)?;
    tree.write("etc/passwd", PASSWD)?;
    tree.write("etc/group", GROUP)?;
    for folder in [
        "dev",
        "etc/respawn/services",
        "proc",
        "run",
        "sys",
        "tmp",
        "var/lib",
    ] {
        tree.folder(folder)?;
    }
    tree.settle(release.epoch)?;
    let archive = release.work.join("layer.tar");
    tools::tar(tree.path(), &archive, release.epoch)?;
    let content = fs::read(&archive)?;
    tools::gzip(&archive)?;
    Ok((release.work.join("layer.tar.gz"), content))
}

/// A blob's digest and size.
type Blob = (String, usize);

fn put(layout: &Tree, content: &[u8]) -> Result<Blob> {
    let digest = digest_of(content);
    let name = Path::new("blobs").join(digest.replacen(':', "/", 1));
    let name = name.to_str().context("a blob's name")?;
    layout.write(name, content)?;
    Ok((digest, content.len()))
}

fn described(kind: &str, (digest, size): &Blob) -> Value {
    json!({ "mediaType": kind, "digest": digest, "size": size })
}

//! What the binary is made of, as CycloneDX 1.6 has it: crates, the kernel object, and the C library.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    Release,
    crates::{self, Crate, Id},
    sums::sha256,
    tools,
};
use crate::{ebpf, workspace::output_of};

/// Writes it.
///
/// # Errors
/// When cargo cannot say what is in the binary.
pub(super) fn write(release: &Release<'_>) -> Result<PathBuf> {
    let crates = crates::of_binary(release.workspace, release.arch)?;
    let mut components: Vec<Value> = crates.iter().map(|(id, it)| component(id, it)).collect();
    components.push(kernel_object(release)?);
    let binary = fs::read(&release.binary)?;
    components.extend(c_library(&binary));
    components.push(json!({
        "type": "library",
        "bom-ref": "rust-std",
        "name": "rust-std",
        "description": "Rust's standard library",
        "version": rust_version(release)?,
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    }));
    let dependencies = crates.iter().map(|(id, it)| {
        let needs: Vec<String> = it.needs.iter().map(reference).collect();
        json!({ "ref": reference(id), "dependsOn": needs })
    });
    let digest = sha256(&binary);
    let bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": tools::date(release.epoch, "+%Y-%m-%dT%H:%M:%SZ")?,
            "component": {
                "type": "application",
                "bom-ref": "respawn",
                "name": "respawn",
                "version": release.version,
                "licenses": [{ "expression": "MIT OR Apache-2.0" }],
                "hashes": [{ "alg": "SHA-256", "content": digest }],
            },
        },
        "components": components,
        "dependencies": dependencies.collect::<Vec<_>>(),
    });
    let file = release.file(".cdx.json");
    fs::write(&file, serde_json::to_string_pretty(&bom)? + "\n")
        .with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

fn reference((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{version}")
}

fn component(id: &Id, it: &Crate) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(id),
        "purl": reference(id),
        "name": id.0,
        "version": id.1,
        "licenses": [{ "expression": it.licence }],
    });
    if let Some(checksum) = &it.checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// The object with the kernel programs, which the binary carries.
fn kernel_object(release: &Release<'_>) -> Result<Value> {
    let object = ebpf::Prebuilt::of(release.workspace).object;
    let bytes = fs::read(&object).with_context(|| format!("read {}", object.display()))?;
    Ok(json!({
        "type": "file",
        "bom-ref": "respawn.bpf.o",
        "name": "respawn.bpf.o",
        "description": "the kernel programs, built from monitor-ebpf",
        "version": release.version,
        "hashes": [{ "alg": "SHA-256", "content": sha256(&bytes) }],
    }))
}

/// The C library that is linked in, which has its name and version in the binary.
fn c_library(binary: &[u8]) -> Option<Value> {
    const BEGIN: &[u8] = b"GNU C Library (";
    let at = binary
        .windows(BEGIN.len())
        .position(|bytes| bytes == BEGIN)?;
    let rest = &binary[at + BEGIN.len()..];
    let end = rest.iter().position(|byte| *byte == b')')?;
    let said = std::str::from_utf8(&rest[..end]).ok()?;
    let version = said.split_whitespace().last()?;
    let mut library = json!({
        "type": "library",
        "bom-ref": "glibc",
        "name": "glibc",
        "description": format!("the GNU C Library ({said}), statically linked"),
        "version": version,
        "licenses": [{ "license": { "id": "LGPL-2.1-or-later" } }],
    });
    if said.starts_with("Debian") {
        library["purl"] = format!("pkg:deb/debian/glibc@{version}").into();
    }
    Some(library)
}

fn rust_version(release: &Release<'_>) -> Result<String> {
    let rustc = match std::env::consts::ARCH == release.arch.name() {
        true => "rustc",
        false => crate::cross::RUSTC,
    };
    let mut command = release.workspace.command(rustc.as_ref());
    let said = String::from_utf8(output_of(command.arg("--version"))?)?;
    let version = said.split_whitespace().nth(1);
    Ok(version.context("rustc's version")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_c_library_in_a_binary() {
        let binary = b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release\0";
        let library = c_library(binary).unwrap();
        assert_eq!(library["version"], "2.36-9+deb12u14");
        assert_eq!(library["purl"], "pkg:deb/debian/glibc@2.36-9+deb12u14");
        assert_eq!(c_library(b"GNU C Library (x"), None);
    }
}

//! The committed kernel object's manifest: which sources it was built from, and with what.
//!
//! The digest of the sources covers everything in this repository that decides the object:
//! - the files of `monitor-ebpf` (`Cargo.toml`, and `src` whole, the ABI included),
//! - `[profile.release]` and the edition and version in the workspace's `Cargo.toml`,
//! - the packages in `Cargo.lock` that `monitor-ebpf` leads to, with their checksums,
//! - the compiler's flags (`ebpf::RECIPE`).
//!
//! The tools decide it too, but are different on every machine: the manifest names those that
//! were used, and the digest leaves them out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use crate::ebpf::RECIPE;

/// The package that holds the kernel programs, and its folder.
const PACKAGE: &str = "monitor-ebpf";

const HEADER: &str = "# Written by `cargo xtask ebpf`, checked by `cargo xtask ebpf --check`.\n";

/// What `manifest.toml` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Digest of the sources.
    pub(crate) sources: String,
    /// Digest of the object.
    pub(crate) object: String,
    /// The object's size in bytes.
    pub(crate) size: usize,
    pub(crate) tools: Tools,
}

/// The tools that built the object. The same tools build the same bytes, in any folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tools {
    pub(crate) host: String,
    pub(crate) rustc: String,
    pub(crate) llvm: String,
    pub(crate) bpf_linker: String,
    /// The LLVM library that bpf-linker loads.
    pub(crate) bpf_linker_llvm: String,
}

impl Manifest {
    /// Describes an object.
    pub(crate) fn of(object: &[u8], sources: String, tools: Tools) -> Self {
        Self {
            sources,
            object: digest_of(object),
            size: object.len(),
            tools,
        }
    }

    /// # Errors
    /// When there is none, or it is unreadable.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = format!("{HEADER}{}", toml::to_string(self)?);
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// The digest of these bytes, as the manifest writes it.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The digest of the sources in the workspace at `root`.
///
/// # Errors
/// When a source is missing or unreadable.
pub(crate) fn digest_of_sources(root: &Path) -> Result<String> {
    let mut sources = BTreeMap::new();
    let folder = root.join(PACKAGE);
    let mut files = vec![folder.join("Cargo.toml")];
    collect_files(&folder.join("src"), &mut files)?;
    for file in files {
        let contents = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(root)?.to_string_lossy().into_owned();
        sources.insert(name, contents);
    }
    let manifest = read_toml(&root.join("Cargo.toml"))?;
    sources.insert("Cargo.toml".into(), workspace_part(&manifest)?.into_bytes());
    let lock = read_toml(&root.join("Cargo.lock"))?;
    sources.insert(
        "Cargo.lock".into(),
        locked_dependencies(&lock)?.into_bytes(),
    );
    sources.insert("recipe".into(), RECIPE.join("\n").into_bytes());
    Ok(digest_of(&framed(&sources)))
}

/// Names and contents with their lengths before them, so that no two sets give the same bytes.
fn framed(sources: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, contents) in sources {
        for part in [name.as_bytes(), contents] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

/// All files below a folder, but hidden ones, which are an editor's.
fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect_files(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn read_toml(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse()
        .with_context(|| format!("read {}", path.display()))
}

/// What in the workspace's manifest decides the object.
fn workspace_part(manifest: &Table) -> Result<String> {
    let value = |keys: &[&str]| {
        let mut table = manifest;
        let (last, folders) = keys.split_last()?;
        for key in folders {
            table = table.get(*key)?.as_table()?;
        }
        table.get(*last)
    };
    let mut part = Table::new();
    for keys in [
        &["workspace", "package", "edition"][..],
        &["workspace", "package", "version"],
        &["profile", "release"],
    ] {
        if let Some(value) = value(keys) {
            part.insert(keys.join("."), value.clone());
        }
    }
    toml::to_string(&part).context("write the workspace's part of the digest")
}

/// `name version checksum` of each package of a registry that the kernel programs lead to,
/// procedural macros and build scripts included, one a line and sorted.
fn locked_dependencies(lock: &Table) -> Result<String> {
    let packages = lock
        .get("package")
        .and_then(Value::as_array)
        .context("Cargo.lock lists no packages")?;
    let text = |package: &Value, key: &str| {
        package
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string()
    };
    let mut lines = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut pending = vec![PACKAGE.to_string()];
    while let Some(wanted) = pending.pop() {
        // A dependency is `name`, or `name version` where there are several.
        let mut words = wanted.split(' ');
        let (name, version) = (words.next(), words.next());
        let package = packages
            .iter()
            .find(|package| {
                Some(text(package, "name").as_str()) == name
                    && version.is_none_or(|version| text(package, "version") == version)
            })
            .with_context(|| format!("Cargo.lock has no package {wanted}"))?;
        let (name, version) = (text(package, "name"), text(package, "version"));
        if !seen.insert((name.clone(), version.clone())) {
            continue;
        }
        if package.get("source").is_some() {
            lines.insert(format!("{name} {version} {}\n", text(package, "checksum")));
        }
        let dependencies = package.get("dependencies").and_then(Value::as_array);
        let dependencies = dependencies.into_iter().flatten().filter_map(Value::as_str);
        pending.extend(dependencies.map(str::to_string));
    }
    Ok(lines.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "[workspace.package]\nversion = \"0.1.0\"\nedition = \"2024\"\n\
                             authors = []\n[profile.release]\nlto = \"thin\"\n\
                             [profile.dev]\nopt-level = 1\n";
    const LOCK: &str = "
        [[package]]
        name = 'monitor-ebpf'
        version = '0.1.0'
        dependencies = ['aya-ebpf', 'syn 2.0.0']
        [[package]]
        name = 'aya-ebpf'
        version = '0.2.1'
        source = 'registry'
        checksum = 'a1'
        [[package]]
        name = 'syn'
        version = '1.0.0'
        source = 'registry'
        checksum = 'b1'
        [[package]]
        name = 'syn'
        version = '2.0.0'
        source = 'registry'
        checksum = 'b2'
        dependencies = ['aya-ebpf']
        [[package]]
        name = 'unrelated'
        version = '3.0.0'
        source = 'registry'
        checksum = 'c'
        ";

    /// A workspace in a temporary folder.
    struct Checkout(tempfile::TempDir);

    impl Checkout {
        fn new() -> Self {
            let checkout = Self(tempfile::tempdir().unwrap());
            checkout.write("Cargo.toml", WORKSPACE);
            checkout.write("Cargo.lock", LOCK);
            checkout.write("monitor-ebpf/Cargo.toml", "[package]");
            checkout.write("monitor-ebpf/src/lib.rs", "pub struct Record;");
            checkout.write("monitor-ebpf/src/main.rs", "fn main() {}");
            checkout
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn digest(&self) -> String {
            digest_of_sources(self.0.path()).unwrap()
        }
    }

    #[test]
    fn what_decides_the_object_decides_the_digest() {
        let changes = [
            ("monitor-ebpf/src/main.rs", "fn main() { }".to_string()),
            ("monitor-ebpf/src/programs/exit.rs", String::new()),
            (
                "monitor-ebpf/Cargo.toml",
                "[package]\nname = 'x'".to_string(),
            ),
            ("Cargo.toml", WORKSPACE.replace("thin", "fat")),
            ("Cargo.toml", WORKSPACE.replace("2024", "2021")),
            ("Cargo.lock", LOCK.replace("b2", "b3")),
        ];
        let unchanged = Checkout::new().digest();
        for (path, text) in changes {
            let checkout = Checkout::new();
            checkout.write(path, &text);
            assert_ne!(checkout.digest(), unchanged, "{path} {text}");
        }
    }

    #[test]
    fn what_does_not_decide_the_object_leaves_the_digest() {
        let changes = [
            ("README.md", String::new()),
            ("monitor-ebpf/prebuilt/respawn.bpf.o", "object".to_string()),
            ("monitor-ebpf/src/.main.rs.swp", String::new()),
            (
                "Cargo.toml",
                WORKSPACE.replace("opt-level = 1", "opt-level = 2"),
            ),
            (
                "Cargo.lock",
                LOCK.replace("'c'", "'d'").replace("'b1'", "'b9'"),
            ),
        ];
        let unchanged = Checkout::new().digest();
        for (path, text) in changes {
            let checkout = Checkout::new();
            checkout.write(path, &text);
            assert_eq!(checkout.digest(), unchanged, "{path} {text}");
        }
    }

    #[test]
    fn follows_dependencies_to_the_version_they_name() {
        let lines = locked_dependencies(&LOCK.parse().unwrap()).unwrap();
        assert_eq!(lines, "aya-ebpf 0.2.1 a1\nsyn 2.0.0 b2\n");
    }

    #[test]
    fn a_missing_source_is_an_error_that_names_it() {
        let checkout = Checkout::new();
        fs::remove_file(checkout.0.path().join("Cargo.lock")).unwrap();
        let error = digest_of_sources(checkout.0.path()).unwrap_err();
        assert!(format!("{error:#}").contains("Cargo.lock"));
    }

    #[test]
    fn reads_what_it_writes() {
        let tools = Tools {
            host: "x86_64-unknown-linux-gnu".into(),
            rustc: "1.96.0 (abc 2026-01-01)".into(),
            llvm: "22.1.8".into(),
            bpf_linker: "0.10.4".into(),
            bpf_linker_llvm: "libLLVM.so.22.1".into(),
        };
        let manifest = Manifest::of(b"object", digest_of(b""), tools);
        assert_eq!(
            manifest.sources,
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.toml");
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
    }
}

//! `cargo xtask ebpf`: the kernel object from source, into the place where it is committed; and
//! with `--check` the proof that what is committed there is what the sources say.
//!
//! The same sources and tools give the same bytes in whatever folder they are built: every path
//! of the machine is replaced, and the DWARF sections (BTF is made of them) are left out.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStrExt as _, ffi::OsStringExt as _, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    Verdict,
    manifest::{Manifest, Tools, digest_of, digest_of_sources},
    object_file::{texts_within, without_dwarf},
    report::note,
    test,
    toolchain::{Compiler, Places, Survey, Toolchain},
    workspace::{Workspace, cargo_home, run_to_end},
};

/// Build the kernel object from source, into `monitor-ebpf/prebuilt`, where it is committed
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing: prove that manifest, object and sources agree, and that an object built
    /// from source loads and passes the tests
    #[arg(long)]
    pub(crate) check: bool,
}

/// What the compiler is told beside the paths to replace.
///
/// One object serves every host: the programs use no registers of the host, so the architecture
/// that aya-ebpf asks for is only a name, and always the same.
pub(crate) const RECIPE: [&str; 3] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
];

const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "respawn-bpf";
const OBJECT_NAME: &str = "respawn.bpf.o";

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    if args.check {
        return check(workspace);
    }
    let toolchain = toolchain(workspace)?;
    let sources = digest_of_sources(&workspace.root)?;
    let built = build(workspace, &toolchain)?;
    let prebuilt = Prebuilt::of(workspace);
    fs::create_dir_all(&prebuilt.folder)?;
    fs::write(&prebuilt.object, &built.bytes)
        .with_context(|| format!("write {}", prebuilt.object.display()))?;
    Manifest::of(&built.bytes, sources, built.tools).write(&prebuilt.manifest)?;
    note!(
        "wrote {} ({} bytes) and its manifest",
        prebuilt.object.display(),
        built.bytes.len()
    );
    Ok(Verdict::Pass)
}

/// Where the committed object and its manifest are.
pub(crate) struct Prebuilt {
    pub(crate) folder: PathBuf,
    pub(crate) object: PathBuf,
    pub(crate) manifest: PathBuf,
}

impl Prebuilt {
    pub(crate) fn of(workspace: &Workspace) -> Self {
        let folder = workspace.root.join("monitor-ebpf/prebuilt");
        let (object, manifest) = (folder.join(OBJECT_NAME), folder.join("manifest.toml"));
        Self {
            folder,
            object,
            manifest,
        }
    }

    /// Whether the object and its manifest are what the sources say.
    ///
    /// # Errors
    /// When one of them is missing or differs; the error says which, and what to do.
    pub(crate) fn verify(&self, root: &Path) -> Result<Manifest> {
        let remedy = "run `cargo xtask ebpf` and commit what it writes";
        let missing = || format!("the committed kernel object is incomplete: {remedy}");
        let manifest = Manifest::read(&self.manifest).with_context(missing)?;
        let object = fs::read(&self.object)
            .with_context(|| format!("read {}", self.object.display()))
            .with_context(missing)?;
        if manifest.object != digest_of(&object) || manifest.size != object.len() {
            bail!(
                "{} is not the object that its manifest names: {remedy}",
                self.object.display()
            );
        }
        if manifest.sources != digest_of_sources(root)? {
            bail!(
                "the sources of the kernel object have changed since {} was built: {remedy}",
                self.object.display()
            );
        }
        Ok(manifest)
    }
}

/// An object built from source.
pub(crate) struct Built {
    /// A copy under the target folder.
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    pub(crate) tools: Tools,
}

fn check(workspace: &Workspace) -> Result<Verdict> {
    let prebuilt = Prebuilt::of(workspace);
    let manifest = prebuilt.verify(&workspace.root)?;
    note!("manifest, object and sources agree");
    let built = build(workspace, &toolchain(workspace)?)?;
    if digest_of(&built.bytes) == manifest.object {
        note!(
            "built from source: the very bytes of the committed object, so the tests of the \
             committed object are its tests too"
        );
        return Ok(Verdict::Pass);
    }
    if built.tools == manifest.tools {
        bail!(
            "{} differs from {}, though both were built with the same tools: the committed object \
             is not what its sources give",
            built.path.display(),
            prebuilt.object.display()
        );
    }
    note!(
        "built from source: differs from the committed object, as the tools do\n  \
         here: {:?}\n  there: {:?}",
        built.tools,
        manifest.tools
    );
    // Another compiler's object: it has to pass the tests by itself.
    test::black_box_with(workspace, &built.path)
}

/// The toolchain, or an error that says what is missing.
fn toolchain(workspace: &Workspace) -> Result<Toolchain> {
    let survey = Places::of_this_machine(workspace)?.survey();
    survey.toolchain().with_context(|| missing(&survey))
}

fn missing(survey: &Survey) -> String {
    format!(
        "the kernel object cannot be built from source here\n{survey}\n\
         `cargo xtask setup` installs what is missing:\n  {}",
        survey.advice().join("\n  ")
    )
}

/// Builds the object from source, into the target folder.
///
/// # Errors
/// When it does not build, or when a path of this machine is left in it.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<Built> {
    let Toolchain { compiler, linker } = toolchain;
    note!(
        "kernel object: {} with bpf-linker {}",
        compiler.release,
        linker.version
    );
    let target = workspace.target.join("bpf");
    fs::create_dir_all(&target)?;
    let llvm = linkers_llvm(compiler, &target)?;
    let paths = Paths::of(workspace, compiler)?;
    let mut command = build_command(workspace, toolchain, &paths)?;
    command
        .arg("--target-dir")
        .arg(&target)
        .env("LD_LIBRARY_PATH", &llvm.folder);
    run_to_end(&mut command).context("build the kernel object")?;
    let linked = fs::read(target.join(TARGET).join("release").join(BINARY))
        .context("read the object that was linked")?;
    let bytes = without_dwarf(&linked)?;
    let texts = paths.texts();
    let leaked = texts_within(&bytes, &texts);
    if !leaked.is_empty() {
        bail!(
            "paths of this machine are left in the kernel object: {}",
            leaked.join(", ")
        );
    }
    let path = target.join(OBJECT_NAME);
    fs::write(&path, &bytes).with_context(|| format!("write {}", path.display()))?;
    let tools = Tools {
        host: compiler.host.clone(),
        rustc: compiler.release.clone(),
        llvm: compiler.llvm.clone(),
        bpf_linker: linker.version.to_string(),
        bpf_linker_llvm: llvm.name,
    };
    Ok(Built { path, bytes, tools })
}

fn build_command(workspace: &Workspace, toolchain: &Toolchain, paths: &Paths) -> Result<Command> {
    let Toolchain { compiler, linker } = toolchain;
    let mut command = workspace.command(&compiler.cargo);
    for (variable, _) in env::vars_os() {
        if decides_the_build(&variable.to_string_lossy()) {
            command.env_remove(variable);
        }
    }
    let inherited = env::var_os("PATH").unwrap_or_default();
    let programs = linker.path.parent().map(Path::to_path_buf).into_iter();
    let programs = env::join_paths(programs.chain(env::split_paths(&inherited)))?;
    command
        .args([
            "build",
            "--release",
            "--package",
            "monitor-ebpf",
            "--bin",
            BINARY,
        ])
        .args(["--target", TARGET, "-Zbuild-std=core"])
        .env("RUSTC", &compiler.rustc)
        // Allows `-Z` in a compiler of the stable channel.
        .env("RUSTC_BOOTSTRAP", "1")
        // The code depends on it, and a setting of the host must not change the bytes.
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", paths.flags())
        .env("PATH", programs);
    Ok(command)
}

/// Whether an environment variable would change what cargo builds.
fn decides_the_build(variable: &str) -> bool {
    ["CARGO_PROFILE_", "CARGO_TARGET_BPFEL_", "AYA_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || variable == "RUSTC_WORKSPACE_WRAPPER"
}

/// The folders of this machine that may get into the object, and what stands for them there.
struct Paths(Vec<(PathBuf, &'static str)>);

impl Paths {
    /// The workspace is `.`, so that the linker finds its files from where it runs and writes
    /// their lines into BTF: the verifier quotes them.
    fn of(workspace: &Workspace, compiler: &Compiler) -> Result<Self> {
        let mut paths = vec![(workspace.target.clone(), "/target")];
        paths.push((workspace.root.clone(), "."));
        paths.push((compiler.library.clone(), "/rust/library"));
        let library = fs::canonicalize(&compiler.library)?;
        if library != compiler.library {
            paths.push((library, "/rust/library"));
        }
        let sources = cargo_home().unwrap_or_default().join("registry/src");
        // Below it a folder a registry; before the first download there is none.
        for registry in fs::read_dir(&sources).into_iter().flatten() {
            paths.push((registry?.path(), "/crates"));
        }
        // The compiler takes the last that fits.
        paths.sort_by_key(|(path, _)| path.as_os_str().len());
        Ok(Self(paths))
    }

    /// `CARGO_ENCODED_RUSTFLAGS`.
    fn flags(&self) -> OsString {
        let mut flags = RECIPE.join("\u{1f}").into_bytes();
        for (path, name) in &self.0 {
            flags.extend_from_slice(b"\x1f--remap-path-prefix=");
            flags.extend_from_slice(path.as_os_str().as_bytes());
            flags.extend_from_slice(format!("={name}").as_bytes());
        }
        OsString::from_vec(flags)
    }

    /// What must not be found in the object.
    fn texts(&self) -> Vec<String> {
        let home = env::home_dir().filter(|home| home.components().count() > 1);
        let paths = self
            .0
            .iter()
            .map(|(path, _)| path.as_path())
            .chain(home.as_deref());
        paths
            .map(|path| path.to_string_lossy().into_owned())
            .collect()
    }
}

/// The LLVM that bpf-linker is to load.
struct LinkersLlvm {
    folder: PathBuf,
    name: String,
}

/// bpf-linker takes the first `libLLVM*` in the folders of `LD_LIBRARY_PATH`. It has to be no
/// older than the compiler's, whose code it reads: so it gets a folder with the compiler's only.
fn linkers_llvm(compiler: &Compiler, target: &Path) -> Result<LinkersLlvm> {
    let folder = target.join("llvm");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let Some(library) = find_llvm(&compiler.sysroot.join("lib"), &compiler.llvm) else {
        return Ok(LinkersLlvm {
            folder,
            name: "its own".into(),
        });
    };
    let name = library.file_name().unwrap_or_default();
    symlink(&library, folder.join(name)).context("link the compiler's LLVM")?;
    let name = name.to_string_lossy().into_owned();
    Ok(LinkersLlvm { folder, name })
}

/// The shared library of an LLVM of this major and minor version, in a compiler's library folder
/// or, as distributions have it, in one below it that is named after the architecture.
fn find_llvm(folder: &Path, version: &str) -> Option<PathBuf> {
    let release = version
        .rsplit_once('.')
        .map_or(version, |(release, _)| release);
    let prefix = format!("libLLVM.so.{release}");
    let mut folders = vec![folder.to_path_buf()];
    let entries = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()));
    folders.extend(entries.filter(|path| path.to_string_lossy().contains("-linux-")));
    folders
        .iter()
        .flat_map(fs::read_dir)
        .flatten()
        .find_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(&prefix)?;
            (rest.is_empty() || rest.starts_with(['-', '.'])).then(|| entry.path())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_compilers_llvm_among_others() {
        let lib = tempfile::tempdir().unwrap();
        let below = lib.path().join("x86_64-linux-gnu");
        fs::create_dir(&below).unwrap();
        for name in [
            "libLLVM-14.so.1",
            "libLLVM-22.so",
            "libLLVM.so.21.1",
            "libLLVM.so.22.10",
        ] {
            fs::write(below.join(name), "").unwrap();
        }
        assert_eq!(find_llvm(lib.path(), "22.1.8"), None);
        fs::write(below.join("libLLVM.so.22.1"), "").unwrap();
        assert_eq!(
            find_llvm(lib.path(), "22.1.8"),
            Some(below.join("libLLVM.so.22.1"))
        );
        let own = lib.path().join("libLLVM.so.22.1-rust-1.97.0-nightly");
        fs::write(&own, "").unwrap();
        assert_eq!(find_llvm(lib.path(), "22.1.8"), Some(own));
    }

    #[test]
    fn the_longest_path_is_replaced_last() {
        let paths = Paths(vec![
            ("/w".into(), "."),
            ("/w/target dir".into(), "/target"),
        ]);
        let flags = paths.flags().into_string().unwrap();
        assert!(flags.ends_with(
            "\u{1f}--remap-path-prefix=/w=.\u{1f}--remap-path-prefix=/w/target dir=/target"
        ));
    }

    #[test]
    fn the_callers_settings_do_not_reach_the_object() {
        assert!(decides_the_build("CARGO_PROFILE_RELEASE_LTO"));
        assert!(decides_the_build("AYA_BPF_TARGET_ARCH"));
        assert!(!decides_the_build("CARGO_HOME"));
        assert!(!decides_the_build("CARGO_BUILD_JOBS"));
    }
}

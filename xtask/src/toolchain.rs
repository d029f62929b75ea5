//! Looks for what builds the kernel object: a Rust compiler with the sources of its library, and
//! bpf-linker. It looks only; `setup` installs and `ebpf` builds.
//!
//! Any compiler not older than the workspace's `rust-version` serves if the sources of its
//! library lie beside it, as `core` has to be compiled for the BPF target. That is a toolchain of
//! rustup with the component rust-src, or a distribution's compiler with its source package.

use std::{
    collections::BTreeSet,
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::workspace::{Workspace, cargo_home, cargo_program, output_of};

/// The oldest bpf-linker that reads what such a compiler writes.
const OLDEST_LINKER: Version = Version(0, 10, 0);

/// A version's three numbers; what follows them (`-nightly`) is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// Reads `1.95`, `1.95.0` or `1.97.0-nightly`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+', '~']).next()?;
        let mut parts = numbers.split('.').map(str::parse);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let patch = parts.next().unwrap_or(Ok(0)).ok()?;
        Some(Self(major, minor, patch))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A compiler that can build the kernel object.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) sysroot: PathBuf,
    /// The sources of its library.
    pub(crate) library: PathBuf,
    /// As it says itself, such as `1.96.0 (ac68faa20 2026-05-25)`.
    pub(crate) release: String,
    pub(crate) llvm: String,
    pub(crate) host: String,
}

/// bpf-linker, new enough.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
}

/// Why a compiler cannot build the kernel object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Older { found: Version, needed: Version },
    NoLibrarySources { expected: PathBuf },
    DoesNotRun { reason: String },
}

/// A compiler that was looked at.
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) verdict: std::result::Result<Compiler, Unusable>,
}

/// What a look at this machine found.
pub(crate) struct Survey {
    pub(crate) needed: Version,
    /// The best first.
    pub(crate) compilers: Vec<Candidate>,
    pub(crate) linker: Option<Linker>,
    /// bpf-linkers that are too old.
    pub(crate) old_linkers: Vec<Linker>,
}

/// Both parts.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: Linker,
}

/// Where to look.
pub(crate) struct Places {
    /// The folder of rustup's toolchains.
    pub(crate) toolchains: PathBuf,
    /// The folder of the distribution's programs.
    pub(crate) system: PathBuf,
    /// Where bpf-linker may be, the first that is new enough wins.
    pub(crate) programs: Vec<PathBuf>,
    /// The cargo to use with a compiler that has none of its own.
    pub(crate) cargo: PathBuf,
    /// The workspace's `rust-version`.
    pub(crate) needed: Version,
}

impl Places {
    /// Where things are on this machine.
    ///
    /// # Errors
    /// When the workspace's manifest names no `rust-version`.
    pub(crate) fn of_this_machine(workspace: &Workspace) -> Result<Self> {
        let home = env::home_dir().unwrap_or_default();
        let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
        let mut programs: Vec<PathBuf> = env::var_os("PATH")
            .map(|path| env::split_paths(&path).collect())
            .unwrap_or_default();
        programs.extend(cargo_home().map(|home| home.join("bin")));
        let manifest = fs::read_to_string(workspace.root.join("Cargo.toml"))?;
        let manifest: toml::Table = manifest
            .parse()
            .context("read the workspace's Cargo.toml")?;
        let needed = manifest["workspace"]["package"]["rust-version"]
            .as_str()
            .and_then(Version::parse)
            .context("the workspace's Cargo.toml has no rust-version")?;
        Ok(Self {
            toolchains: rustup.join("toolchains"),
            system: "/usr/bin".into(),
            programs,
            cargo: cargo_program().into(),
            needed,
        })
    }

    /// Looks at all of them.
    pub(crate) fn survey(&self) -> Survey {
        let mut compilers: Vec<Candidate> = rustup_toolchains(&self.toolchains)
            .into_iter()
            .map(|name| {
                let bin = self.toolchains.join(&name).join("bin");
                self.look_at(format!("rustup's {name}"), &bin.join("rustc"))
            })
            .collect();
        let system = self.system.join("rustc");
        if system.exists() {
            compilers.push(self.look_at(system.display().to_string(), &system));
        }
        let (linkers, old_linkers): (Vec<_>, Vec<_>) = self
            .linkers()
            .into_iter()
            .partition(|linker| linker.version >= OLDEST_LINKER);
        Survey {
            needed: self.needed,
            compilers,
            linker: linkers.into_iter().next(),
            old_linkers,
        }
    }

    fn look_at(&self, name: String, rustc: &Path) -> Candidate {
        let verdict = self.compiler(rustc).unwrap_or_else(|error| {
            Err(Unusable::DoesNotRun {
                reason: format!("{error:#}"),
            })
        });
        Candidate { name, verdict }
    }

    fn compiler(&self, rustc: &Path) -> Result<std::result::Result<Compiler, Unusable>> {
        let about = String::from_utf8(output_of(Command::new(rustc).arg("-vV"))?)?;
        let field = |name: &str| {
            about
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("{} -vV names no {name}", rustc.display()))
        };
        let version = Version::parse(field("release")?)
            .with_context(|| format!("{} has an unreadable version", rustc.display()))?;
        if version < self.needed {
            return Ok(Err(Unusable::Older {
                found: version,
                needed: self.needed,
            }));
        }
        let sysroot = output_of(Command::new(rustc).args(["--print", "sysroot"]))?;
        let sysroot = PathBuf::from(String::from_utf8(sysroot)?.trim_end());
        let library = sysroot.join("lib/rustlib/src/rust/library");
        if !library.join("core/src/lib.rs").is_file() || !library.join("Cargo.lock").is_file() {
            return Ok(Err(Unusable::NoLibrarySources { expected: library }));
        }
        let release = about.lines().next().unwrap_or_default();
        let release = release.strip_prefix("rustc ").unwrap_or(release);
        Ok(Ok(Compiler {
            rustc: rustc.to_path_buf(),
            cargo: self.cargo_of(&rustc.with_file_name("cargo"), version),
            sysroot,
            library,
            // What a distribution adds ("built from a source tarball") names no other version.
            release: release
                .split_inclusive(')')
                .next()
                .unwrap_or_default()
                .to_string(),
            llvm: field("LLVM version")?.to_string(),
            host: field("host")?.to_string(),
        }))
    }

    /// The cargo beside the compiler if it is of the same release, else the one that runs us.
    fn cargo_of(&self, beside: &Path, compiler: Version) -> PathBuf {
        let about = output_of(Command::new(beside).arg("--version")).unwrap_or_default();
        let version = second_word(&about).and_then(|word| Version::parse(&word));
        match version {
            Some(version) if (version.0, version.1) == (compiler.0, compiler.1) => beside.into(),
            _ => self.cargo.clone(),
        }
    }

    fn linkers(&self) -> Vec<Linker> {
        let mut seen = BTreeSet::new();
        self.programs
            .iter()
            .map(|folder| folder.join("bpf-linker"))
            .filter(|path| path.is_file() && seen.insert(path.clone()))
            .filter_map(|path| {
                let about = output_of(Command::new(&path).arg("--version")).ok()?;
                let version = Version::parse(&second_word(&about)?)?;
                Some(Linker { path, version })
            })
            .collect()
    }
}

impl Survey {
    /// The compiler and linker to build with, if there are both.
    pub(crate) fn toolchain(&self) -> Option<Toolchain> {
        let compiler = self.compiler()?.clone();
        Some(Toolchain {
            compiler,
            linker: self.linker.clone()?,
        })
    }

    /// The compiler to build with.
    pub(crate) fn compiler(&self) -> Option<&Compiler> {
        self.compilers
            .iter()
            .find_map(|candidate| candidate.verdict.as_ref().ok())
    }

    /// What to install, for someone who installs it by hand.
    pub(crate) fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.compiler().is_none() {
            advice.push(format!(
                "a Rust compiler {} or newer with the sources of its library:\n    \
                 rustup toolchain install nightly --profile minimal --component rust-src",
                self.needed
            ));
        }
        if self.linker.is_none() {
            advice.push(format!(
                "bpf-linker {OLDEST_LINKER} or newer:\n    \
                 cargo install bpf-linker --version {LINKER_TO_INSTALL} --locked"
            ));
        }
        advice
    }
}

/// The bpf-linker that `setup` installs: the one the kernel object was tried with.
pub(crate) const LINKER_TO_INSTALL: &str = "0.10.4";

impl fmt::Display for Survey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Candidate { name, verdict } in &self.compilers {
            match verdict {
                Ok(compiler) => writeln!(
                    formatter,
                    "  {name}: {}, LLVM {}, library sources in {}",
                    compiler.release,
                    compiler.llvm,
                    compiler.library.display()
                )?,
                Err(unusable) => writeln!(formatter, "  {name}: not usable: {unusable}")?,
            }
        }
        if self.compilers.is_empty() {
            writeln!(formatter, "  no Rust compiler of rustup or of the system")?;
        }
        for Linker { path, version } in &self.old_linkers {
            writeln!(
                formatter,
                "  {}: {version}, older than {OLDEST_LINKER}",
                path.display()
            )?;
        }
        match &self.linker {
            Some(linker) => write!(formatter, "  {}: {}", linker.path.display(), linker.version),
            None => write!(
                formatter,
                "  bpf-linker: not found in PATH or cargo's bin folder"
            ),
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Older { found, needed } => {
                write!(
                    formatter,
                    "{found} is older than the {needed} that this workspace needs"
                )
            }
            Self::NoLibrarySources { expected } => {
                write!(formatter, "no library sources in {}", expected.display())
            }
            Self::DoesNotRun { reason } => formatter.write_str(reason),
        }
    }
}

/// The toolchains installed with rustup: nightlies first, as build-std is at home there, the
/// undated one before the dated, and the newest of these first.
fn rustup_toolchains(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| folder.join(name).join("bin/rustc").exists())
        .collect();
    names.sort_by(|left, right| right.cmp(left));
    names.sort_by_key(|name| !name.starts_with("nightly"));
    names
}

/// The version in `bpf-linker 0.10.4`.
fn second_word(output: &[u8]) -> Option<String> {
    String::from_utf8_lossy(output)
        .split_whitespace()
        .nth(1)
        .map(str::to_string)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A machine in a temporary folder, its programs shell scripts.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn places(&self) -> Places {
            Places {
                toolchains: self.0.path().join("rustup/toolchains"),
                system: self.0.path().join("usr/bin"),
                programs: vec![self.0.path().join("bin"), self.0.path().join("cargo/bin")],
                cargo: "our-cargo".into(),
                needed: Version(1, 95, 0),
            }
        }

        fn program(&self, path: &str, script: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn rustc(&self, sysroot: &str, release: &str) {
            let folder = self.0.path().join(sysroot);
            self.program(
                &format!("{sysroot}/bin/rustc"),
                &format!(
                    "case $1 in -vV) printf 'rustc {release} (abc 2026-01-01) (built somewhere)\\n\
                     host: x86_64-unknown-linux-gnu\\nrelease: {release}\\n\
                     LLVM version: 22.1.8\\n' ;; *) echo '{}' ;; esac",
                    folder.display()
                ),
            );
        }

        fn library(&self, sysroot: &str) {
            let library = self
                .0
                .path()
                .join(sysroot)
                .join("lib/rustlib/src/rust/library");
            fs::create_dir_all(library.join("core/src")).unwrap();
            fs::write(library.join("core/src/lib.rs"), "").unwrap();
            fs::write(library.join("Cargo.lock"), "").unwrap();
        }
    }

    #[test]
    fn a_nightly_without_library_sources_does_not_serve() {
        let machine = Machine::new();
        machine.rustc("rustup/toolchains/nightly-x", "1.97.0-nightly");
        let survey = machine.places().survey();
        assert!(survey.compiler().is_none());
        assert!(matches!(
            survey.compilers[0].verdict,
            Err(Unusable::NoLibrarySources { .. })
        ));
        assert_eq!(survey.advice().len(), 2);
    }

    #[test]
    fn the_distributions_compiler_serves_where_no_nightly_does() {
        let machine = Machine::new();
        machine.rustc("rustup/toolchains/nightly-x", "1.97.0-nightly");
        machine.rustc("usr", "1.96.0");
        machine.library("usr");
        machine.program("cargo/bin/bpf-linker", "echo bpf-linker 0.10.4");
        let toolchain = machine.places().survey().toolchain().unwrap();
        assert_eq!(
            toolchain.compiler.rustc,
            machine.0.path().join("usr/bin/rustc")
        );
        assert_eq!(toolchain.compiler.cargo, PathBuf::from("our-cargo"));
        assert_eq!(toolchain.compiler.release, "1.96.0 (abc 2026-01-01)");
        assert_eq!(toolchain.linker.version, Version(0, 10, 4));
    }

    #[test]
    fn a_nightly_goes_before_stable_and_the_distribution() {
        let machine = Machine::new();
        for (sysroot, release) in [
            ("rustup/toolchains/stable-x", "1.96.0"),
            ("rustup/toolchains/nightly-2026-01-01-x", "1.95.0-nightly"),
            ("rustup/toolchains/nightly-x", "1.97.0-nightly"),
            ("usr", "1.96.0"),
        ] {
            machine.rustc(sysroot, release);
            machine.library(sysroot);
        }
        machine.program(
            "rustup/toolchains/nightly-x/bin/cargo",
            "echo cargo 1.97.0-nightly",
        );
        let survey = machine.places().survey();
        let order: Vec<PathBuf> = survey
            .compilers
            .iter()
            .map(|candidate| candidate.verdict.as_ref().unwrap().sysroot.clone())
            .collect();
        let expected = [
            "rustup/toolchains/nightly-x",
            "rustup/toolchains/nightly-2026-01-01-x",
            "rustup/toolchains/stable-x",
            "usr",
        ];
        assert_eq!(
            order,
            expected.map(|sysroot| machine.0.path().join(sysroot))
        );
        assert!(
            survey
                .compiler()
                .unwrap()
                .cargo
                .ends_with("nightly-x/bin/cargo")
        );
    }

    #[test]
    fn what_is_too_old_is_named_as_such() {
        let machine = Machine::new();
        machine.rustc("usr", "1.63.0");
        machine.library("usr");
        machine.program("bin/bpf-linker", "echo bpf-linker 0.9.15");
        let survey = machine.places().survey();
        let verdict = survey.compilers[0].verdict.as_ref().unwrap_err();
        assert_eq!(
            *verdict,
            Unusable::Older {
                found: Version(1, 63, 0),
                needed: Version(1, 95, 0)
            }
        );
        assert!(survey.linker.is_none());
        assert!(survey.to_string().contains("0.9.15, older than 0.10.0"));
    }

    #[test]
    fn a_newer_linker_behind_an_old_one_serves() {
        let machine = Machine::new();
        machine.program("bin/bpf-linker", "echo bpf-linker 0.9.15");
        machine.program("cargo/bin/bpf-linker", "echo bpf-linker 0.11.0");
        let linker = machine.places().survey().linker.unwrap();
        assert_eq!(linker.version, Version(0, 11, 0));
    }

    #[test]
    fn a_compiler_that_does_not_run_is_no_error() {
        let machine = Machine::new();
        machine.program("usr/bin/rustc", "exit 1");
        let survey = machine.places().survey();
        assert!(matches!(
            survey.compilers[0].verdict,
            Err(Unusable::DoesNotRun { .. })
        ));
    }

    #[test]
    fn reads_versions() {
        assert_eq!(Version::parse("1.95"), Some(Version(1, 95, 0)));
        assert_eq!(Version::parse("1.97.0-nightly"), Some(Version(1, 97, 0)));
        assert_eq!(
            Version::parse("1.96.0+dfsg1-1~deb12u2"),
            Some(Version(1, 96, 0))
        );
        assert_eq!(Version::parse("nightly"), None);
    }
}

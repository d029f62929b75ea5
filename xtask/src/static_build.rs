//! Static binaries: `respawn` and the black-box tests, for hosts and virtual machines that have no
//! C library, or another one.
//!
//! They are linked with glibc, as every toolchain brings it. A static glibc must not be asked for
//! accounts or addresses: it loads modules of the host for that, which were built for another
//! copy of libc, and crashes. So a `respawn` that could ask is an error here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use object::{
    Object as _, ObjectSymbol as _,
    elf::PT_INTERP,
    read::elf::{ElfFile64, ProgramHeader as _},
};
use serde_json::Value;

use crate::by_file;
use crate::cross::Cross;
use crate::workspace::{
    BPF_OBJECT_VARIABLE, Profile, Workspace, cargo_home, executable_in, output_of,
};

/// An architecture that static binaries are built for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Arch {
    /// 64-bit x86, with x86-64's base instructions
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm
    Aarch64,
}

impl Arch {
    /// # Errors
    /// When this machine's architecture is none of them.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let name = std::env::consts::ARCH;
        <Self as clap::ValueEnum>::from_str(name, false)
            .ok()
            .with_context(|| format!("no static binaries are built for {name}"))
    }

    /// Rust's name of it, with glibc.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The program that strips a binary for it.
    pub(crate) fn strip(self) -> &'static str {
        match (std::env::consts::ARCH == self.name(), self) {
            (true, _) => "strip",
            (false, Self::X86_64) => "x86_64-linux-gnu-strip",
            (false, Self::Aarch64) => "aarch64-linux-gnu-strip",
        }
    }

    /// The kernel's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// The black-box tests, built for another machine.
pub(crate) struct Tests {
    /// All tests; takes the arguments of every Rust test binary, and finds `respawn` by `RESPAWN_BIN`.
    pub(crate) binary: PathBuf,
    /// Programs that the tests start. They expect each at this very path.
    pub(crate) programs: Vec<PathBuf>,
    /// A directory that the tests expect at this very path, for temporary files.
    pub(crate) temporary: PathBuf,
}

/// Builds a static `respawn` and returns its path. `object` is the kernel object to embed; the
/// committed one by default.
///
/// # Errors
/// When it does not build, or is not static, or could ask libc for accounts.
pub(crate) fn respawn(
    workspace: &Workspace,
    arch: Arch,
    profile: Profile,
    object: Option<&Path>,
) -> Result<PathBuf> {
    let mut command = cargo(workspace, arch, "build")?;
    command.args(["--package", "monitor-user", "--bin", "respawn"]);
    profile.choose(&mut command);
    // Without any optimization, each start in an emulated machine takes some seconds more.
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    if let Some(object) = object {
        command.env(BPF_OBJECT_VARIABLE, object);
    }
    let messages = output_of(&mut command)?;
    let binary = executable_in(&messages, "respawn")
        .context("cargo built respawn, but names no executable")?;
    let bytes = read(&binary)?;
    let fault = match dynamic_loader_in(&bytes)? {
        Some(fault) => Some(fault),
        None => module_loader_in(&bytes)?,
    };
    refuse(&binary, fault)?;
    Ok(binary)
}

/// Builds the black-box tests as a static binary, without optimisation.
///
/// Rust's test harness has libc's `getpwuid_r`, for a terminal's description in the home
/// directory. It is called only where `HOME` is not set.
///
/// # Errors
/// When it does not build, or is not static.
pub(crate) fn tests(workspace: &Workspace, arch: Arch) -> Result<Tests> {
    let mut command = cargo(workspace, arch, "test")?;
    command.args(["--no-run", "--package", by_file::PACKAGE]);
    let messages = output_of(&mut command)?;
    let binary = executable_in(&messages, by_file::BLACK_BOX)
        .context("cargo built the black-box tests, but names no executable")?;
    let programs = programs(&messages);
    for executable in programs.iter().chain([&binary]) {
        refuse(executable, dynamic_loader_in(&read(executable)?)?)?;
    }
    let temporary = target_folder(workspace).join(arch.target()).join("tmp");
    // Cargo makes it where it tells the tests that it is.
    anyhow::ensure!(
        temporary.is_dir(),
        "cargo made no {}, where the tests were to have temporary files",
        temporary.display()
    );
    Ok(Tests {
        binary,
        programs,
        temporary,
    })
}

fn target_folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("static")
}

/// A cargo that builds static binaries.
///
/// The target is named also where it is this machine's own: so the flags are for it alone, and not
/// for the macros and build scripts, which cannot be static.
fn cargo(workspace: &Workspace, arch: Arch, subcommand: &str) -> Result<Command> {
    let mut command = workspace.cargo();
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(same_paths_everywhere(workspace)?);
    if let Some(cross) = Cross::prepare(workspace, arch)? {
        flags.extend(cross.choose(&mut command));
    }
    command
        .args([subcommand, "--target", arch.target(), "--target-dir"])
        .arg(target_folder(workspace))
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // Machines read them from their memory.
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_PROFILE_DEV_STRIP", "debuginfo")
        .stderr(Stdio::inherit());
    Ok(command)
}

/// Flags that keep this machine's folders out of a binary, which names source files in its messages:
/// so the same sources give the same bytes in every folder.
fn same_paths_everywhere(workspace: &Workspace) -> Result<Vec<String>> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![remap(&workspace.root, "/respawn")];
    let crates = cargo_home().context("no home for cargo")?;
    // A folder a registry, with the registry's address in its name.
    for registry in fs::read_dir(crates.join("registry/src"))
        .into_iter()
        .flatten()
    {
        flags.push(remap(&registry?.path(), "/crates"));
    }
    Ok(flags)
}

/// The executables in cargo's messages that are no tests.
fn programs(messages: &[u8]) -> Vec<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == false)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

fn read(binary: &Path) -> Result<Vec<u8>> {
    fs::read(binary).with_context(|| format!("read {}", binary.display()))
}

fn refuse(binary: &Path, fault: Option<String>) -> Result<()> {
    fault.map_or(Ok(()), |fault| bail!("{}: {fault}", binary.display()))
}

type Elf<'data> = ElfFile64<'data, object::Endianness>;

/// What makes a binary one that is not static, if it does.
fn dynamic_loader_in(binary: &[u8]) -> Result<Option<String>> {
    let file = Elf::parse(binary).context("read the binary that was linked")?;
    let mut headers = file.elf_program_headers().iter();
    let is_dynamic = headers.any(|header| header.p_type(file.endian()) == PT_INTERP);
    Ok(is_dynamic.then(|| "not static: it names a dynamic loader".to_owned()))
}

/// The function of a static binary that could have libc load modules of the host, if any.
fn module_loader_in(binary: &[u8]) -> Result<Option<String>> {
    let file = Elf::parse(binary).context("read the binary that was linked")?;
    let loader = file
        .symbols()
        .filter(|symbol| symbol.is_definition())
        .filter_map(|symbol| symbol.name().ok())
        .find(|name| is_loader(name));
    Ok(loader.map(|name| {
        format!("it contains libc's {name}, which loads modules of the host and crashes")
    }))
}

/// Functions of libc that load modules of the host, without the `_r` of their reentrant forms.
const LOADERS: [&str; 17] = [
    "getpwnam",
    "getpwuid",
    "getpwent",
    "getgrnam",
    "getgrgid",
    "getgrent",
    "getgrouplist",
    "initgroups",
    "getspnam",
    "getaddrinfo",
    "getnameinfo",
    "gethostbyname",
    "gethostbyname2",
    "gethostbyaddr",
    "getservbyname",
    "getservbyport",
    "getprotobyname",
];

/// Whether a symbol is one of them. Of `getpwuid_r`, libc has more names; under this one,
/// `respawn` has its own, which loads nothing.
fn is_loader(symbol: &str) -> bool {
    if symbol == "getpwuid_r" {
        return false;
    }
    let name = symbol.trim_start_matches('_');
    LOADERS.contains(&name.strip_suffix("_r").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_libcs_functions_that_load_modules() {
        assert!(is_loader("getpwnam_r"));
        assert!(is_loader("__getpwnam_r"));
        assert!(is_loader("__getpwuid_r"));
        assert!(!is_loader("getpwuid_r"));
        assert!(is_loader("getaddrinfo"));
        assert!(!is_loader("getpid"));
        assert!(!is_loader("my_getpwnam_r"));
    }

    #[test]
    fn a_binary_with_a_dynamic_loader_is_not_static() {
        let this = fs::read("/proc/self/exe").unwrap();
        let fault = dynamic_loader_in(&this).unwrap().unwrap();
        assert!(fault.starts_with("not static"), "{fault}");
        assert!(dynamic_loader_in(b"no binary").is_err());
        // Names that it takes from a library are none of its own.
        assert_eq!(module_loader_in(&this).unwrap(), None);
    }

    #[test]
    fn tells_programs_from_tests_in_cargos_messages() {
        let messages = br#"{"target":{"name":"support"},"executable":null,"profile":{"test":false}}
not json
{"target":{"name":"victim"},"executable":"/t/victim","profile":{"test":false}}
{"target":{"name":"black_box"},"executable":"/t/deps/black_box-1","profile":{"test":true}}"#;
        assert_eq!(programs(messages), [PathBuf::from("/t/victim")]);
    }
}

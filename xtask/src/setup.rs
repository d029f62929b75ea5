//! `cargo xtask setup`: makes this machine one that can build the kernel object.
//!
//! On Debian, as root, it installs. Elsewhere it says what to install and changes nothing.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};

use crate::{
    Verdict, apt, cross,
    report::note,
    static_build::Arch,
    toolchain::{LINKER_TO_INSTALL, Places, Survey, Version},
    unpacked::{self, EMULATOR},
    workspace::{Workspace, run_to_end, shown},
};

/// Find the toolchain that builds the kernel object, and install what is missing
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install without asking
    #[arg(long)]
    pub(crate) yes: bool,

    /// Have what builds static binaries for another processor, too, and emulates it
    #[arg(long)]
    pub(crate) arch: Option<Arch>,
}

/// Programs that tests call and a bare Debian lacks: the program, and the package that has it.
const TEST_PROGRAMS: [(&str, &str); 1] = [("tmux", "tmux")];

/// Debian's compilers with their library sources, in the order of trying: the one that is kept
/// up to date for browsers, and the release's own.
const COMPILER_PACKAGES: [[&str; 2]; 2] = [["rustc-web", "rust-web-src"], ["rustc", "rust-src"]];

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let places = Places::of_this_machine(workspace)?;
    let survey = places.survey();
    note!("found:\n{survey}");
    let mut test_packages = missing_test_packages(&places);
    let mut emulators = vec![EMULATOR];
    if let Some(arch) = args.arch {
        test_packages.extend(cross::missing_packages(arch));
        emulators.push(arch.emulator());
    }
    let to_unpack = unpacked::missing(workspace, &emulators);
    if survey.toolchain().is_some() && test_packages.is_empty() && to_unpack.is_empty() {
        note!("nothing to do: the kernel object can be built from source here");
        return Ok(Verdict::Pass);
    }
    if let Some(reason) = why_not_install(args.yes)? {
        note!("nothing was installed ({reason}); what to install:");
        say_what_to_install(&survey, &test_packages);
        if !to_unpack.is_empty() {
            note!(
                "  for the tests, unpacked in target/test-packages and not installed: {}",
                to_unpack.join(" ")
            );
        }
        return Ok(Verdict::Fail);
    }
    install(workspace, &survey, &test_packages, &to_unpack)?;
    let survey = places.survey();
    note!("now found:\n{survey}");
    if survey.toolchain().is_none() {
        note!("what was installed does not serve; still missing:");
        say_what_to_install(&survey, &[]);
        return Ok(Verdict::Fail);
    }
    note!("the kernel object can be built from source here");
    Ok(Verdict::Pass)
}

fn why_not_install(agreed_before: bool) -> Result<Option<&'static str>> {
    Ok(if !apt::is_here() {
        Some("this is not Debian")
    } else if !nix::unistd::geteuid().is_root() {
        Some("installing packages takes root")
    } else if !agreed_before && !agreed()? {
        Some("not agreed to; `--yes` installs without asking")
    } else {
        None
    })
}

fn install(
    workspace: &Workspace,
    survey: &Survey,
    tests: &[&str],
    to_unpack: &[&str],
) -> Result<()> {
    let needs_compiler = survey.compiler().is_none();
    if needs_compiler || !tests.is_empty() || !to_unpack.is_empty() {
        apt::update()?;
    }
    unpacked::fetch(workspace, to_unpack)?;
    let mut packages = tests.to_vec();
    if needs_compiler {
        packages.extend(compiler_packages(survey.needed)?);
    }
    if !packages.is_empty() {
        apt::install(&packages)?;
    }
    if survey.linker.is_none() {
        let mut command = workspace.cargo();
        command.args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_TO_INSTALL,
            "--locked",
        ]);
        note!("running: {}", shown(&command));
        run_to_end(&mut command).context("install bpf-linker")?;
    }
    Ok(())
}

/// The packages of a compiler that is new enough.
fn compiler_packages(needed: Version) -> Result<[&'static str; 2]> {
    let mut offers = Vec::new();
    for packages in COMPILER_PACKAGES {
        let Some(version) = apt::candidate(packages[0])? else {
            continue;
        };
        if Version::parse(&version).is_some_and(|version| version >= needed) {
            return Ok(packages);
        }
        offers.push(format!("{} {version}", packages[0]));
    }
    let offers = if offers.is_empty() {
        "none".into()
    } else {
        offers.join(", ")
    };
    anyhow::bail!(
        "Debian offers no Rust compiler {needed} or newer here (it offers: {offers}); with rustup:\n  \
         rustup toolchain install nightly --profile minimal --component rust-src"
    )
}

fn missing_test_packages(places: &Places) -> Vec<&'static str> {
    let is_missing = |program: &str| {
        !places
            .programs
            .iter()
            .any(|folder| folder.join(program).is_file())
    };
    TEST_PROGRAMS
        .iter()
        .filter(|(program, _)| is_missing(program))
        .map(|(_, package)| *package)
        .collect()
}

fn say_what_to_install(survey: &Survey, test_packages: &[&str]) {
    for advice in survey.advice() {
        note!("  {advice}");
    }
    if !test_packages.is_empty() {
        note!("  for the tests: {}", test_packages.join(" "));
    }
}

/// Asks, if there is someone to ask.
fn agreed() -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    note!("install what is missing, with apt-get and cargo install? [y/N]");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

//! `cargo xtask setup`: makes this machine one that can build the kernel object and run every check.
//!
//! On Debian, as root, it installs. Elsewhere it says what to install and changes nothing.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};

use crate::{
    Verdict, apt, cross, deny,
    report::note,
    static_build::Arch,
    toolchain::{LINKER_TO_INSTALL, Places, Survey, Version},
    unpacked::{self, EMULATOR},
    workspace::{Workspace, run_to_end, shown},
};

/// Find what builds the kernel object and runs the checks, and install what is missing
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
const TEST_PROGRAMS: [(&str, &str); 4] = [
    ("tmux", "tmux"),
    ("rpmbuild", "rpm"),
    ("lintian", "lintian"),
    ("rpmlint", "rpmlint"),
];

/// Debian's compilers with their library sources, in the order of trying: the one that is kept
/// up to date for browsers, and the release's own.
const COMPILER_PACKAGES: [[&str; 2]; 2] = [["rustc-web", "rust-web-src"], ["rustc", "rust-src"]];

/// What the checks need beside the toolchain of the kernel object, and is not here.
struct Missing {
    /// Of Debian.
    packages: Vec<&'static str>,
    /// Packages of Debian that are unpacked for the tests, and not installed.
    to_unpack: Vec<&'static str>,
    cargo_deny: bool,
}

impl Missing {
    fn find(workspace: &Workspace, places: &Places, arch: Option<Arch>) -> Self {
        let mut packages = missing_test_packages(places);
        let mut emulators = vec![EMULATOR];
        if let Some(arch) = arch {
            packages.extend(cross::missing_packages(arch));
            emulators.push(arch.emulator());
        }
        Self {
            packages,
            to_unpack: unpacked::missing(workspace, &emulators),
            cargo_deny: deny::is_missing(workspace),
        }
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.to_unpack.is_empty() && !self.cargo_deny
    }

    /// What to install, for someone who installs it by hand.
    fn say(&self) {
        if !self.packages.is_empty() {
            note!("  for the tests: {}", self.packages.join(" "));
        }
        if !self.to_unpack.is_empty() {
            note!(
                "  for the tests, unpacked in target/test-packages and not installed: {}",
                self.to_unpack.join(" ")
            );
        }
        if self.cargo_deny {
            note!("  for the check of the dependencies: {}", deny::advice());
        }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let places = Places::of_this_machine(workspace)?;
    let survey = places.survey();
    note!("found:\n{survey}");
    let missing = Missing::find(workspace, &places, args.arch);
    if survey.toolchain().is_some() && missing.is_empty() {
        note!("nothing to do: the kernel object can be built from source here");
        return Ok(Verdict::Pass);
    }
    if let Some(reason) = why_not_install(args.yes)? {
        note!("nothing was installed ({reason}); what to install:");
        say_advice(&survey);
        missing.say();
        return Ok(Verdict::Fail);
    }
    install(workspace, &survey, &missing)?;
    let survey = places.survey();
    note!("now found:\n{survey}");
    if survey.toolchain().is_none() {
        note!("what was installed does not serve; still missing:");
        say_advice(&survey);
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

fn install(workspace: &Workspace, survey: &Survey, missing: &Missing) -> Result<()> {
    let needs_compiler = survey.compiler().is_none();
    if needs_compiler || !missing.packages.is_empty() || !missing.to_unpack.is_empty() {
        apt::update()?;
    }
    unpacked::fetch(workspace, &missing.to_unpack)?;
    let mut packages = missing.packages.clone();
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
    if missing.cargo_deny {
        deny::install(workspace)?;
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

fn say_advice(survey: &Survey) {
    for advice in survey.advice() {
        note!("  {advice}");
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

//! `cargo xtask build`: the kernel object and `respawn`.

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    Verdict, ebpf,
    report::note,
    static_build::{self, Arch},
    toolchain::Places,
    workspace::{Profile, Workspace},
};

/// Build `respawn`, with its kernel object from source where the toolchain is there
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build without optimisation
    #[arg(long)]
    debug: bool,
    /// Build a static binary, which needs no C library on the host that it runs on
    #[arg(long = "static")]
    is_static: bool,
    /// The architecture to build a static binary for; this machine's own by default
    #[arg(long, requires = "is_static")]
    arch: Option<Arch>,
    /// Build the black-box tests too, as a static binary
    #[arg(long, requires = "is_static")]
    tests: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let survey = Places::of_this_machine(workspace)?.survey();
    let object = match survey.toolchain() {
        Some(toolchain) => Some(ebpf::build(workspace, &toolchain)?.path),
        None => {
            let prebuilt = ebpf::Prebuilt::of(workspace);
            prebuilt.verify(&workspace.root).context(
                "the kernel object cannot be built from source here (`cargo xtask setup` helps), \
                 and the committed one does not serve",
            )?;
            None
        }
    };
    match &object {
        Some(path) => note!("embedded: the kernel object just built, {}", path.display()),
        None => note!(
            "embedded: the committed kernel object, as this machine lacks the toolchain to build \
             it (`cargo xtask setup` installs it)"
        ),
    }
    let profile = if args.debug {
        Profile::Dev
    } else {
        Profile::Release
    };
    if !args.is_static {
        let binary = workspace.build_respawn(profile, object.as_deref())?;
        return print(&[binary]);
    }
    let arch = args.arch.map_or_else(Arch::of_this_machine, Ok)?;
    let mut paths = vec![static_build::respawn(
        workspace,
        arch,
        profile,
        object.as_deref(),
    )?];
    if args.tests {
        let tests = static_build::tests(workspace, arch)?;
        paths.push(tests.binary);
        note!(
            "the tests start {} from these paths, and keep files in {}",
            file_names(&tests.programs),
            tests.temporary.display()
        );
        paths.extend(tests.programs);
    }
    print(&paths)
}

fn file_names(paths: &[PathBuf]) -> String {
    let names = paths.iter().filter_map(|path| path.file_name());
    let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
    names.join(" and ")
}

fn print(paths: &[PathBuf]) -> Result<Verdict> {
    let mut stdout = std::io::stdout();
    for path in paths {
        writeln!(stdout, "{}", path.display())?;
    }
    Ok(Verdict::Pass)
}

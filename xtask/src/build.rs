//! `cargo xtask build`: the kernel object and `respawn`.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::{
    Verdict, ebpf,
    report::note,
    toolchain::Places,
    workspace::{Profile, Workspace},
};

/// Build `respawn`, with its kernel object from source where the toolchain is there
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build without optimisation
    #[arg(long)]
    debug: bool,
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
    let binary = workspace.build_respawn(profile, object.as_deref())?;
    writeln!(std::io::stdout(), "{}", binary.display())?;
    Ok(Verdict::Pass)
}

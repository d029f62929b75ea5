//! Packages and an image for the tests: what users get, with the static binary, and what they upgrade from and
//! to.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{Kind, Release, VERSION, binaries, deb, empty, epoch, image, rpm, stage};
use crate::{
    by_file::STATIC_BINARY,
    previous::{self, Previous},
    report::note,
    static_build::Arch,
    unpacked::on_this_host,
    workspace::Workspace,
};

/// A folder of packages, in the order of upgrades.
struct Step<'a> {
    folder: &'a str,
    version: String,
    binary: &'a Path,
    /// The last release had none.
    has_recorder: bool,
}

/// Builds them, and names them to the tests that `command` runs, or why there are none.
///
/// # Errors
/// When one does not build.
pub(crate) fn tell(
    workspace: &Workspace,
    previous: &Previous,
    command: &mut Command,
) -> Result<()> {
    let arch = Arch::of_this_machine()?;
    let out = workspace.target.join("test-dist");
    empty(&out)?;
    note!("building the static binary, for the tests of packages and accounts");
    let (binary, _) = binaries(workspace, arch, &out)?;
    command.env(STATIC_BINARY, &binary);
    let packager = Kind::Deb.packager().map_or("", |(program, _)| program);
    if on_this_host(packager).is_none() {
        command.env("RESPAWN_NO_PACKAGES", format!("{packager} is missing"));
        return Ok(());
    }
    let next = format!("{VERSION}+next");
    let mut steps = vec![
        ("this", VERSION.to_owned(), &*binary, true),
        // There is no later release: the same binary, as another version.
        ("next", next, &*binary, true),
    ];
    if let Previous::Built(binary) = previous {
        steps.insert(
            0,
            ("previous", previous::VERSION.to_owned(), &**binary, false),
        );
    }
    for (folder, version, binary, has_recorder) in steps {
        let step = Step {
            folder,
            version,
            binary,
            has_recorder,
        };
        make(workspace, arch, &out, &step)?;
    }
    command.env("RESPAWN_PACKAGES", &out);
    Ok(())
}

fn make(workspace: &Workspace, arch: Arch, out: &Path, step: &Step<'_>) -> Result<()> {
    let work = workspace.target.join("dist-work/tests");
    empty(&work)?;
    let folder: PathBuf = out.join(step.folder);
    empty(&folder)?;
    let mut release = Release {
        workspace,
        arch,
        version: step.version.clone(),
        epoch: epoch(workspace)?,
        binary: step.binary.to_owned(),
        runnable: step.binary.to_owned(),
        has_recorder: step.has_recorder,
        out: folder,
        work,
    };
    deb::build(&release)?;
    stage::tar(&release)?;
    // Its list of files has the recorder's unit.
    let has_rpmbuild = Kind::Rpm
        .packager()
        .is_some_and(|(program, _)| on_this_host(program).is_some());
    if has_rpmbuild && step.has_recorder {
        rpm::build(&release)?;
    }
    if step.folder == "this" {
        release.out = out.to_owned();
        image::build(&release)?;
    }
    Ok(())
}

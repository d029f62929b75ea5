//! Packages and an image for the tests, of the binary under test.
//!
//! It is not static: that takes minutes to build, and what the tests are about is what surrounds it.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{Kind, Release, deb, empty, image};
use crate::{static_build::Arch, unpacked::on_this_host, workspace::Workspace};

/// The versions of the packages: the tests upgrade from one to the other.
const VERSIONS: [&str; 2] = ["0.0.1", "0.0.2"];

/// Builds them, and names them to the tests that `command` runs, or why there are none.
///
/// # Errors
/// When one does not build.
pub(crate) fn tell(workspace: &Workspace, binary: &Path, command: &mut Command) -> Result<()> {
    let packager = Kind::Deb.packager().map_or("", |(program, _)| program);
    if on_this_host(packager).is_none() {
        command.env("RESPAWN_NO_PACKAGES", format!("{packager} is missing"));
        return Ok(());
    }
    let out = workspace.target.join("test-dist");
    empty(&out)?;
    for version in VERSIONS {
        let work = workspace.target.join("dist-work/tests");
        empty(&work)?;
        let release = Release {
            workspace,
            arch: Arch::of_this_machine()?,
            version: version.to_owned(),
            epoch: 0,
            binary: binary.to_owned(),
            runnable: binary.to_owned(),
            out: out.clone(),
            work,
        };
        deb::build(&release)?;
        image::build(&release)?;
    }
    command.env("RESPAWN_PACKAGES", out);
    Ok(())
}

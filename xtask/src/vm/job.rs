//! What a machine is to do, and the archive that it finds it in.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{cpio, init::Init};
use crate::{
    static_build,
    workspace::{Workspace, run_to_end},
};

/// A file of this machine, and where the other one has it.
pub(super) struct Placed {
    pub(super) from: PathBuf,
    pub(super) to: String,
}

impl Placed {
    /// From `PATH` or `PATH:DESTINATION`.
    ///
    /// # Errors
    /// When the path has no file name.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if let Some((from, to)) = text.split_once(':') {
            return Ok(Self {
                from: from.into(),
                to: to.into(),
            });
        }
        let from = PathBuf::from(text);
        let name = from
            .file_name()
            .with_context(|| format!("{text} has no file name"))?;
        let to = format!("/vm/files/{}", name.to_string_lossy());
        Ok(Self { from, to })
    }
}

/// The scripts, what has the init run the job, and the job, in one archive.
///
/// # Errors
/// When a file cannot be read or the archive not be written.
pub(super) fn write_archive(path: &Path, script: &str, init: Init, files: &[Placed]) -> Result<()> {
    let mut archive = cpio::Archive::new(BufWriter::new(File::create(path)?));
    archive.directories("/vm/files")?;
    archive.file("/vm/boot", 0o755, include_bytes!("boot.sh"))?;
    archive.file("/vm/start", 0o755, include_bytes!("start.sh"))?;
    archive.file("/vm/run-tests", 0o755, include_bytes!("tests.sh"))?;
    archive.file("/vm/job", 0o755, script.as_bytes())?;
    init.write(&mut archive)?;
    for Placed { from, to } in files {
        archive.copy(from, to)?;
    }
    archive.finish()?;
    Ok(())
}

/// The tests, what they start and what they read, where each expects it: at the paths of this
/// machine, which are compiled into them.
///
/// # Errors
/// As [`write_archive`].
pub(super) fn write_tests(
    path: &Path,
    workspace: &Workspace,
    built: &static_build::Tests,
) -> Result<()> {
    let mut archive = cpio::Archive::new(BufWriter::new(File::create(path)?));
    archive.copy(&built.binary, "/vm/tests")?;
    for program in &built.programs {
        archive.copy(program, text(program)?)?;
    }
    archive.directories(text(&built.temporary)?)?;
    let fixtures = workspace.root.join("tests/fixtures");
    archive.directories(text(&fixtures)?)?;
    archive.tree(&fixtures, text(&fixtures)?, |_| true)?;
    let object = workspace.root.join("monitor-ebpf/prebuilt/respawn.bpf.o");
    archive.copy(&object, text(&object)?)?;
    archive.finish()?;
    Ok(())
}

/// What was on a machine's disk, as the archive of the machine that boots on it.
///
/// # Errors
/// When it cannot be unpacked, or the archive not be written.
pub(super) fn write_disk(path: &Path, encoded: &str, scratch: &Path) -> Result<()> {
    let root = scratch.join("disk");
    fs::create_dir_all(&root)?;
    let packed = scratch.join("disk.base64");
    fs::write(&packed, encoded)?;
    let mut unpack = Command::new("sh");
    unpack
        .args(["-c", "base64 -d \"$0\" | tar -C \"$1\" -xz"])
        .args([&packed, &root]);
    run_to_end(&mut unpack).context("unpack what was on the machine's disk")?;
    let mut archive = cpio::Archive::new(BufWriter::new(File::create(path)?));
    archive.tree(&root, "", |_| true)?;
    archive.finish()?;
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_where_it_is_said_or_among_the_files() {
        let placed = |text| {
            let placed = Placed::parse(text).unwrap();
            (placed.from.display().to_string(), placed.to)
        };
        assert_eq!(placed("/a/b"), ("/a/b".into(), "/vm/files/b".into()));
        assert_eq!(placed("b:/c"), ("b".into(), "/c".into()));
        assert!(Placed::parse("/").is_err());
    }
}

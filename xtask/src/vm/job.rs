//! What a machine is to do, and the archive that it finds it in.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{build::Program, cpio};
use crate::workspace::Workspace;

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

/// The scripts, the table of the init, and the job, in one archive.
///
/// # Errors
/// When a file cannot be read or the archive not be written.
pub(super) fn write_archive(path: &Path, script: &str, files: &[Placed]) -> Result<()> {
    let mut archive = cpio::Archive::new(BufWriter::new(File::create(path)?));
    archive.directories("/vm/files")?;
    archive.file("/vm/boot", 0o755, include_bytes!("boot.sh"))?;
    archive.file("/vm/start", 0o755, include_bytes!("start.sh"))?;
    archive.file("/vm/run-tests", 0o755, include_bytes!("tests.sh"))?;
    archive.file("/vm/job", 0o755, script.as_bytes())?;
    archive.link("/usr/sbin/init", b"/usr/bin/busybox")?;
    let table = b"::sysinit:/vm/boot\n::once:/vm/start\n";
    archive.file("/etc/inittab", 0o644, table)?;
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
pub(super) fn write_tests(path: &Path, workspace: &Workspace, programs: &[Program]) -> Result<()> {
    let mut archive = cpio::Archive::new(BufWriter::new(File::create(path)?));
    let tests = workspace.root.join("tests");
    for program in programs {
        if program.is_test {
            archive.copy(&program.path, &format!("/vm/tests/{}", program.name))?;
        } else {
            archive.copy(&program.path, text(&program.path)?)?;
        }
    }
    archive.directories(text(&tests.join("fixtures"))?)?;
    let fixtures = tests.join("fixtures");
    archive.tree(&fixtures, text(&fixtures)?, |_| true)?;
    let object = workspace.root.join("monitor-ebpf/prebuilt/respawn.bpf.o");
    archive.copy(&object, text(&object)?)?;
    for folder in temporary_folders(workspace, programs) {
        archive.directories(text(&folder)?)?;
    }
    archive.finish()?;
    Ok(())
}

/// cargo's `CARGO_TARGET_TMPDIR`: `tmp` beside the folder of the profile.
fn temporary_folders(workspace: &Workspace, programs: &[Program]) -> Vec<PathBuf> {
    let mut folders = vec![workspace.target.join("tmp")];
    let helper = programs.iter().find(|program| !program.is_test);
    let target = helper.and_then(|helper| helper.path.parent()?.parent());
    folders.extend(target.map(|target| target.join("tmp")));
    folders
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

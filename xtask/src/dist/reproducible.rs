//! Makes a release twice, in two folders, and compares the bytes.
//!
//! The second one is made from a copy of the files that git knows, with a target folder of its own, so that all
//! is built again. Both have the same compiler and packagers: what other versions of these make is not
//! compared.

use std::{collections::BTreeMap, fs, io::Write as _, path::Path};

use anyhow::{Context as _, Result};

use super::{Kind, empty, epoch, make, sources};
use crate::{Verdict, report::note, static_build::Arch, workspace::Workspace};

/// Makes these files twice; that the bytes differ is a verdict, and names the files.
///
/// # Errors
/// When they cannot be made or compared.
pub(super) fn check(workspace: &Workspace, arch: Arch, kinds: &[Kind]) -> Result<Verdict> {
    let place = workspace.target.join("dist-check");
    empty(&place)?;
    let epoch = epoch(workspace)?;
    let copy = Workspace {
        root: place.join("another/folder"),
        target: place.join("another/folder/target"),
    };
    copy_sources(workspace, &copy)?;
    let outs = ["first", "second"].map(|name| place.join(name));
    note!("making it in {}", workspace.root.display());
    make(workspace, arch, kinds, &outs[0], epoch)?;
    note!("making it in {}", copy.root.display());
    make(&copy, arch, kinds, &outs[1], epoch)?;
    let [first, second] = outs.each_ref().map(|out| sums(out));
    let (first, second) = (first?, second?);
    let mut stdout = std::io::stdout();
    for (name, digest) in &first {
        let word = match second.get(name) == Some(digest) {
            true => "same",
            false => "DIFFERENT",
        };
        writeln!(stdout, "{word:<9}  {digest}  {name}")?;
    }
    if first != second {
        note!("both are in {}", place.display());
        return Ok(Verdict::Fail);
    }
    fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
    Ok(Verdict::Pass)
}

fn copy_sources(from: &Workspace, to: &Workspace) -> Result<()> {
    for name in sources(from)? {
        let (source, copy) = (from.root.join(&name), to.root.join(&name));
        if let Some(folder) = copy.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&source, &copy).with_context(|| format!("copy {}", source.display()))?;
    }
    Ok(())
}

/// The digest of each file.
fn sums(out: &Path) -> Result<BTreeMap<String, String>> {
    let file = out.join("SHA256SUMS");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let pairs = text.lines().filter_map(|line| line.split_once("  "));
    Ok(pairs
        .map(|(digest, name)| (name.to_owned(), digest.to_owned()))
        .collect())
}

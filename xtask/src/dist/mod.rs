//! `cargo xtask dist`: what a release consists of. A static binary, packages and an image of it, a list of
//! what it is made of, and checksums.
//!
//! The same sources give the same bytes in every folder and at any time, by the same compiler and
//! packagers: times are the commit's, and the binary has other names for the folders of this machine.

mod crates;
mod deb;
pub(crate) mod for_tests;
mod image;
mod notices;
mod reproducible;
mod rpm;
mod sbom;
mod stage;
mod sums;
mod tools;
mod tree;
#[cfg(test)]
mod versions;

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    Verdict, ebpf,
    report::note,
    static_build::{self, Arch},
    unpacked::on_this_host,
    workspace::{Profile, Workspace, output_of, run_to_end},
};

/// What this checkout is the source of.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Make what a release consists of: a static binary, packages, an image, an SBOM and checksums
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to make; by default all that this machine has the programs for
    #[arg(value_name = "KIND")]
    kinds: Vec<Kind>,
    /// The architecture; this machine's own by default
    #[arg(long)]
    arch: Option<Arch>,
    /// Where to write it; target/dist by default
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Make it twice, the second time from a copy of this checkout in another folder, and compare the bytes
    #[arg(long, conflicts_with = "out")]
    check_reproducible: bool,
}

/// Make the container image, an archive with an OCI layout: the same as `dist image`
#[derive(clap::Args)]
pub(crate) struct ImageArgs {
    /// The architecture; this machine's own by default
    #[arg(long)]
    arch: Option<Arch>,
    /// Where to write it; target/dist by default
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl From<ImageArgs> for Args {
    fn from(image: ImageArgs) -> Self {
        Self {
            kinds: vec![Kind::Image],
            arch: image.arch,
            out: image.out,
            check_reproducible: false,
        }
    }
}

/// A file of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The static binary alone
    Binary,
    /// The binary with its manual pages, completions and units
    Tar,
    /// Debian's package
    Deb,
    /// A package for Fedora, openSUSE and their kin
    Rpm,
    /// A container image, in a tar archive with an OCI layout
    Image,
    /// What the binary is made of, as CycloneDX has it
    Sbom,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Binary,
        Self::Tar,
        Self::Deb,
        Self::Rpm,
        Self::Image,
        Self::Sbom,
    ];

    /// The program that makes it, beside those of every machine, and Debian's package of it.
    fn packager(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Deb => Some(("dpkg-deb", "dpkg")),
            Self::Rpm => Some(("rpmbuild", "rpm")),
            Self::Binary | Self::Tar | Self::Image | Self::Sbom => None,
        }
    }

    /// Makes it, and returns its file.
    fn make(self, release: &Release<'_>) -> Result<PathBuf> {
        match self {
            Self::Binary => release.copy_binary(),
            Self::Tar => stage::tar(release),
            Self::Deb => deb::build(release),
            Self::Rpm => rpm::build(release),
            Self::Image => image::build(release),
            Self::Sbom => sbom::write(release),
        }
    }
}

/// What all files of a release have in common.
struct Release<'a> {
    workspace: &'a Workspace,
    arch: Arch,
    version: String,
    /// The time of everything in it, in seconds since 1970.
    epoch: u64,
    /// What is packaged.
    binary: PathBuf,
    /// One that runs on this machine, of the same sources: it prints manual pages and completions.
    runnable: PathBuf,
    /// Whether the binary has a recorder, which gets a unit.
    has_recorder: bool,
    /// Where the files go.
    out: PathBuf,
    /// For what is needed on the way. Removed before and after.
    work: PathBuf,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let arch = args.arch.map_or_else(Arch::of_this_machine, Ok)?;
    let kinds = wanted(&args.kinds)?;
    if args.check_reproducible {
        return reproducible::check(workspace, arch, &kinds);
    }
    let out = match &args.out {
        Some(out) => env::current_dir()?.join(out),
        None => workspace.target.join("dist"),
    };
    let mut stdout = std::io::stdout();
    for file in make(workspace, arch, &kinds, &out, epoch(workspace)?)? {
        writeln!(stdout, "{}", file.display())?;
    }
    Ok(Verdict::Pass)
}

/// Makes these files and their checksums, and returns their paths.
fn make(
    workspace: &Workspace,
    arch: Arch,
    kinds: &[Kind],
    out: &Path,
    epoch: u64,
) -> Result<Vec<PathBuf>> {
    let work = workspace.target.join("dist-work").join(arch.name());
    empty(&work)?;
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let (binary, runnable) = binaries(workspace, arch, &work)?;
    let release = Release {
        workspace,
        arch,
        version: VERSION.to_owned(),
        epoch,
        binary,
        runnable,
        has_recorder: true,
        out: out.to_owned(),
        work,
    };
    let made = kinds.iter().map(|kind| kind.make(&release));
    let mut files = made.collect::<Result<Vec<_>>>()?;
    files.push(sums::write(&release)?);
    fs::remove_dir_all(&release.work)?;
    Ok(files)
}

/// A package of this version for this machine: that in target/dist, which is made first where there is none or
/// where a source is newer.
///
/// # Errors
/// When it cannot be made, or is no package.
pub(crate) fn package(workspace: &Workspace, kind: Kind) -> Result<PathBuf> {
    let arch = Arch::of_this_machine()?;
    let name = match kind {
        Kind::Deb => deb::file_name(VERSION, arch),
        Kind::Rpm => rpm::file_name(VERSION, arch),
        kind => bail!("{kind:?} is no package"),
    };
    let out = workspace.target.join("dist");
    let file = out.join(name);
    if file.exists() && newest_source(workspace)? <= fs::metadata(&file)?.modified()? {
        return Ok(file);
    }
    note!("making {}, which takes some minutes", file.display());
    make(workspace, arch, &[kind], &out, epoch(workspace)?)?;
    Ok(file)
}

/// When a file of this checkout was changed last; long ago where git does not know its files.
fn newest_source(workspace: &Workspace) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for file in sources(workspace).unwrap_or_default() {
        let changed = fs::metadata(workspace.root.join(file))?.modified()?;
        newest = newest.max(changed);
    }
    Ok(newest)
}

/// The files of this checkout that git knows and that are there, below its root.
fn sources(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut git = workspace.command("git".as_ref());
    let list = output_of(git.args(["ls-files", "-z"]))?;
    let names = list.split(|byte| *byte == 0);
    let paths = names.map(|name| PathBuf::from(OsStr::from_bytes(name)));
    let is_there = |path: &PathBuf| workspace.root.join(path).is_file();
    Ok(paths.filter(is_there).collect())
}

/// Builds the static binary with the committed kernel object, and strips it. The second one runs here.
fn binaries(workspace: &Workspace, arch: Arch, work: &Path) -> Result<(PathBuf, PathBuf)> {
    ebpf::Prebuilt::of(workspace)
        .verify(&workspace.root)
        .context("a release has the committed kernel object")?;
    let build = |arch: Arch| static_build::respawn(workspace, arch, Profile::Release, None);
    let stripped = work.join("respawn");
    let built = build(arch)?;
    let mut strip = Command::new(arch.strip());
    run_to_end(
        strip
            .args(["--remove-section=.comment", "-o"])
            .arg(&stripped)
            .arg(built),
    )?;
    let here = Arch::of_this_machine()?;
    let runnable = match here == arch {
        true => stripped.clone(),
        false => build(here)?,
    };
    Ok((stripped, runnable))
}

/// What to make. What was asked for by name must be possible.
fn wanted(kinds: &[Kind]) -> Result<Vec<Kind>> {
    let missing = |kind: &Kind| {
        kind.packager()
            .filter(|(program, _)| on_this_host(program).is_none())
    };
    for kind in kinds {
        if let Some((program, package)) = missing(kind) {
            bail!("{program} is missing: Debian's package {package} has it");
        }
    }
    if !kinds.is_empty() {
        return Ok(kinds.to_vec());
    }
    let mut all = Kind::ALL.to_vec();
    all.retain(|kind| match missing(kind) {
        Some((program, package)) => {
            note!("left out: {kind:?}, as {program} is missing (Debian's package {package})");
            false
        }
        None => true,
    });
    Ok(all)
}

/// `SOURCE_DATE_EPOCH`, or the time of the last commit.
fn epoch(workspace: &Workspace) -> Result<u64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let mut git = Command::new("git");
            git.current_dir(&workspace.root)
                .args(["log", "-1", "--format=%ct"]);
            let time = output_of(&mut git)
                .context("the time of the last commit is the release's; set SOURCE_DATE_EPOCH")?;
            String::from_utf8_lossy(&time).into_owned()
        }
    };
    let text = text.trim();
    text.parse()
        .with_context(|| format!("{text:?} is no time in seconds since 1970"))
}

/// Has this be an empty folder.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

impl Release<'_> {
    /// The name of a file of this release.
    fn file(&self, ending: &str) -> PathBuf {
        let (version, arch) = (&self.version, self.arch.name());
        self.out.join(format!("respawn-{version}-{arch}{ending}"))
    }

    /// A file of the packaging.
    fn template(&self, name: &str) -> Result<String> {
        let path = self.workspace.root.join("packaging").join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn copy_binary(&self) -> Result<PathBuf> {
        let file = self.file("");
        fs::copy(&self.binary, &file).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_must_be_possible() {
        assert_eq!(wanted(&[Kind::Sbom]).unwrap(), [Kind::Sbom]);
        assert!(wanted(&[]).unwrap().contains(&Kind::Tar));
    }
}

//! What the machines of one call share: kernels, programs, and the archives they are in.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use super::{
    Args, job,
    job::Placed,
    kernels::{self, Kernel},
    root,
};
use crate::{
    static_build,
    unpacked::{self, Runnable},
    workspace::Workspace,
};

/// See the module's text.
pub(super) struct Stock {
    pub(super) emulator: Runnable,
    pub(super) kernels: Vec<Kernel>,
    /// The programs of all machines, what the init needs, and the tests if they were asked for.
    pub(super) archives: Vec<PathBuf>,
    pub(super) files: Vec<Placed>,
    /// What goes with the value.
    folder: tempfile::TempDir,
}

impl Stock {
    /// Builds what is to run, and fetches what is not in the cache yet.
    ///
    /// # Errors
    /// When something cannot be built or fetched, or the cache not be written.
    pub(super) fn prepare(workspace: &Workspace, args: &Args) -> Result<Self> {
        let emulator = unpacked::emulator(workspace, &args.arch().emulator())?;
        let mut files = args
            .files
            .iter()
            .map(|file| Placed::parse(file))
            .collect::<Result<Vec<_>>>()?;
        files.push(Placed {
            from: match &args.binary {
                Some(binary) => binary.clone(),
                None => static_build::respawn(workspace, args.arch(), args.profile(), None)?,
            },
            to: "/usr/sbin/respawn".into(),
        });
        let cache = cache(args.cache.as_deref())?;
        let _lock = lock(&cache)?;
        let find = |name: &String| kernels::find(name, &cache, args.arch());
        let mut archives = vec![root::image(&cache, args.arch())?];
        let packages = args.init().packages();
        if !packages.is_empty() {
            let name = args.init().name();
            archives.push(root::init_image(&cache, args.arch(), name, packages)?);
        }
        Ok(Self {
            emulator,
            archives,
            kernels: args.kernels.iter().map(find).collect::<Result<_>>()?,
            files,
            folder: tempfile::Builder::new().prefix("respawn-vm-").tempdir()?,
        })
    }

    /// Builds the tests too.
    ///
    /// # Errors
    /// When they do not build.
    pub(super) fn add_tests(&mut self, workspace: &Workspace, args: &Args) -> Result<()> {
        let archive = self.folder.path().join("tests.cpio");
        job::write_tests(
            &archive,
            workspace,
            &static_build::tests(workspace, args.arch())?,
        )?;
        self.archives.push(archive);
        Ok(())
    }
}

/// One process at a time.
pub(super) fn lock(cache: &Path) -> Result<Flock<File>> {
    fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    Ok(Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?)
}

/// Where kernels and programs are kept.
pub(super) fn cache(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(cache) = given {
        return Ok(std::path::absolute(cache)?);
    }
    let caches = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")));
    Ok(caches
        .context("no cache directory is known: set RESPAWN_VM_CACHE")?
        .join("respawn-vm"))
}

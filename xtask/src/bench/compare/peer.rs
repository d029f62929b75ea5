//! Who keeps services running, and what each of them is given to run.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{peers, tree::Tree};
use crate::bench::{Bench, arena::Arena, process::Started, wait::ends_within};

/// A supervisor that is measured.
pub(super) trait Peer {
    /// As the page names it, and its services' IDs begin.
    fn name(&self) -> &'static str;

    /// What it runs as, and what it is told so that it restarts as soon as it can.
    fn settings(&self) -> &'static str;

    /// The most services that it takes part with.
    fn most(&self) -> usize {
        usize::MAX
    }

    /// Whether it waits for a time of its own before it restarts: measured in fewer rounds.
    fn waits(&self) -> bool {
        false
    }

    /// Whether it keeps a service's memory out of the way of the next one's start.
    fn overlaps(&self) -> bool {
        false
    }

    /// # Errors
    /// Why it cannot run here.
    fn check(&self, bench: &Bench) -> Result<()>;

    /// Starts it with these services, its files below the stage.
    ///
    /// # Errors
    /// When it does not start.
    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running>;
}

/// All of them, in the order of the page.
pub(super) fn all() -> Vec<Box<dyn Peer>> {
    peers::all()
}

/// A service for any of them.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) id: String,
    work: Work,
}

/// What a service does.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// Touches so many MiB.
    Memory(u32),
    /// Nothing, but it is linked with [`LIBRARIES`](crate::bench::LIBRARIES) shared libraries.
    Libraries,
    /// Answers HTTP there; whether the supervisor holds the socket.
    Http(u16, bool),
}

impl Service {
    pub(super) fn new(id: String, work: Work) -> Self {
        Self { id, work }
    }

    pub(super) fn http(id: &str, port: u16, held: bool) -> Self {
        let work = Work::Http(port, held);
        Self {
            id: id.into(),
            work,
        }
    }

    /// The port of a socket that the supervisor is to hold.
    pub(super) fn held_port(&self) -> Option<u16> {
        match self.work {
            Work::Http(port, true) => Some(port),
            _ => None,
        }
    }

    /// Its command, where the arena is seen as `arena`.
    pub(super) fn words(&self, arena: &Path) -> Vec<String> {
        let place = |name: &str| arena.join(name).to_string_lossy().into_owned();
        let (program, kind, number) = match self.work {
            Work::Memory(mebibytes) => ("actor", "service", mebibytes.to_string()),
            Work::Libraries => ("actor-libraries", "service", "0".into()),
            Work::Http(port, _) => ("actor", "http", port.to_string()),
        };
        let (told, lifeline) = (place("told"), place("lifeline"));
        let id = self.id.clone();
        vec![place(program), kind.into(), told, lifeline, id, number]
    }

    /// Its command as one line; no word has a blank.
    pub(super) fn line(&self, arena: &Path) -> String {
        self.words(arena).join(" ")
    }

    /// An executable file that is its command, without a shell.
    pub(super) fn script(&self, arena: &Path) -> String {
        let words = self.words(arena);
        format!("#!{} script\n{}\n", words[0], words[1..].join(" "))
    }
}

/// What a peer's files are on.
pub(super) struct Stage<'a> {
    pub(super) bench: &'a Bench,
    pub(super) arena: &'a Arena,
    /// A directory of its own in the arena.
    pub(super) directory: PathBuf,
    /// Whether its first process starts it again whenever it ends, as an init does.
    pub(super) kept: bool,
}

impl<'a> Stage<'a> {
    /// # Errors
    /// When the directory cannot be made.
    pub(super) fn make(bench: &'a Bench, arena: &'a Arena, name: &str) -> Result<Self> {
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let mut number = 0;
        let directory = loop {
            let directory = arena.path().join(format!("{name}{number}"));
            if !directory.exists() {
                break directory;
            }
            number += 1;
        };
        fs::create_dir(&directory).context("make a peer's directory")?;
        Ok(Self {
            bench,
            arena,
            directory,
            kept: false,
        })
    }

    /// Of a peer that has run before.
    pub(super) fn again(bench: &'a Bench, arena: &'a Arena, directory: &Path) -> Self {
        Self {
            bench,
            arena,
            directory: directory.into(),
            kept: false,
        }
    }

    /// Writes a file in its directory.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        let parent = path.parent().context("no parent")?;
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Where a package of `cargo xtask setup` is unpacked.
    pub(super) fn package(&self, name: &str) -> PathBuf {
        package(self.bench, name)
    }
}

pub(super) fn package(bench: &Bench, name: &str) -> PathBuf {
    bench.root.join("target/test-packages").join(name)
}

/// # Errors
/// When a package of `cargo xtask setup` is not there.
pub(super) fn needs_package(bench: &Bench, name: &str) -> Result<()> {
    let folder = package(bench, name).join("usr");
    let problem = || format!("{name} is not unpacked: `cargo xtask setup` does that");
    fs::metadata(folder).with_context(problem)?;
    Ok(())
}

/// What ends a peer in order, before its process is killed.
type End = Box<dyn FnOnce(&Started)>;

/// A running peer; it ends, and all that it has started, when the value goes, or with the arena.
pub(super) struct Running {
    process: Started,
    /// Its first process, by its pid on the host.
    first: u32,
    /// What is done before it is killed.
    end: Option<End>,
}

impl Running {
    /// One whose first process is this one.
    pub(super) fn of(process: Started) -> Self {
        let first = process.pid();
        let end = None;
        Self {
            process,
            first,
            end,
        }
    }

    /// One in namespaces, whose first process is there.
    pub(super) fn within(process: Started, first: u32) -> Self {
        let end = None;
        Self {
            process,
            first,
            end,
        }
    }

    pub(super) fn ending(mut self, end: impl FnOnce(&Started) + 'static) -> Self {
        self.end = Some(Box::new(end));
        self
    }

    /// Kills its process alone, and waits until that is gone.
    pub(super) fn kill(mut self) -> Result<()> {
        self.end = None;
        self.process.signal(Signal::SIGKILL)?;
        ends_within(self.process.as_fd(), Duration::from_secs(20))?;
        Ok(())
    }

    /// The supervisor's own processes.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        Ok(Tree::read()?.supervisors(self.first))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(&self.process);
        }
        // With its parent the first process of a namespace goes, and with that all others, but not at once. The
        // arena is removed after that.
        let _ = self.process.signal(Signal::SIGKILL);
        let first = format!("/proc/{}", self.first);
        for _ in 0..500 {
            if !Path::new(&first).exists() || self.first == self.process.pid() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

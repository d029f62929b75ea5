//! Where services say that they are ready, in a way that no agent's death loses: a file each in the
//! runtime directory, which the service has open for writing from before its first instruction, as
//! the descriptor that its config names. A line in it is what s6 expects of a pipe, and stays there
//! until the next start, whoever lives meanwhile.
//!
//! Polls nothing: the kernel tells of each write. What follows from a line is the supervisor's.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::pending;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::sys::inotify::AddWatchFlags;

use super::runtime_dir::READY;
use crate::model::{Instance, ServiceName};
use crate::os;
use crate::os::inotify::Watch;
use crate::supervisor::Fact;

/// So much of a file is looked at: one line was expected.
const MOST: u64 = 64 << 10;

/// Whose line is waited for.
pub(super) struct Readiness {
    dir: PathBuf,
    /// `None`: the directory cannot be watched.
    watch: Option<Watch>,
    awaited: BTreeMap<ServiceName, Instance>,
}

impl Readiness {
    /// Of the agent of a runtime directory.
    pub(super) fn of(runtime_dir: &Path) -> Self {
        let watch = Watch::new()
            .map_err(|error| {
                tracing::error!("cannot see when services are ready: inotify: {error}");
            })
            .ok();
        let readiness = Self {
            dir: runtime_dir.join(READY),
            watch,
            awaited: BTreeMap::new(),
        };
        // Before anybody is asked about: a line that was written before is read.
        if readiness.dir.is_dir()
            && let Err(error) = readiness.watch_dir()
        {
            tracing::error!("{}: {error}", readiness.dir.display());
        }
        readiness
    }

    fn watch_dir(&self) -> io::Result<()> {
        let Some(watch) = &self.watch else {
            return Err(io::Error::other("inotify does not work here"));
        };
        // Of a directory that is watched already, it changes nothing.
        watch
            .add(
                &self.dir,
                AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONLYDIR,
            )
            .map(drop)
    }

    /// Where a service says so.
    pub(super) fn file(&self, service: &str) -> PathBuf {
        self.dir.join(service)
    }

    /// Makes room for what the next instance says: the file of the one before it is of no account.
    ///
    /// # Errors
    /// The directory can be neither made nor watched, the old file not removed.
    pub(super) fn begin(&mut self, service: &ServiceName) -> io::Result<()> {
        self.awaited.remove(service);
        os::make_dir(&self.dir, 0o700)?;
        self.watch_dir()?;
        os::remove_file(&self.file(service))
    }

    /// From now on a line of this instance is told; at once, if it is there.
    pub(super) fn wait(&mut self, service: ServiceName, instance: Instance) -> Option<Fact> {
        self.awaited.insert(service.clone(), instance);
        self.look(&service)
    }

    /// The service is no more.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        self.awaited.remove(service);
        // Nobody reads it any more.
        let _ = os::remove_file(&self.file(service));
    }

    /// Waits for a write. Cancellation loses none.
    pub(super) async fn needed(&self) -> Vec<Option<String>> {
        let Some(watch) = &self.watch else {
            return pending().await;
        };
        match watch.next().await {
            Ok(events) => {
                let name = |name: std::ffi::OsString| name.into_string().ok();
                events
                    .into_iter()
                    .map(|it| it.name.and_then(name))
                    .collect()
            }
            Err(error) => {
                tracing::error!("cannot see when services are ready: {error}");
                pending().await
            }
        }
    }

    /// Who of these has said that it is ready; `None` among them: the kernel has lost count, anybody.
    pub(super) fn ready(&mut self, written: Vec<Option<String>>) -> Vec<Fact> {
        let names: Vec<ServiceName> = match written.into_iter().collect::<Option<Vec<_>>>() {
            Some(names) => names.into_iter().map(Into::into).collect(),
            None => self.awaited.keys().cloned().collect(),
        };
        names.iter().filter_map(|name| self.look(name)).collect()
    }

    fn look(&mut self, service: &ServiceName) -> Option<Fact> {
        let instance = *self.awaited.get(service)?;
        if !has_line(&self.file(service)) {
            return None;
        }
        self.awaited.remove(service);
        Some(Fact::BecameReady {
            service: service.clone(),
            instance,
        })
    }
}

fn has_line(path: &Path) -> bool {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text));
    read.is_ok() && text.contains(&b'\n')
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const INSTANCE: Instance = Instance {
        pid: 7,
        start_time_ns: 10_000_000,
    };

    #[tokio::test]
    async fn a_line_is_told_once_and_is_there_for_the_next_agent() {
        let dir = tempfile::tempdir().unwrap();
        let web: ServiceName = "web".into();
        let mut readiness = Readiness::of(dir.path());
        readiness.begin(&web).unwrap();
        let mut file = File::create(readiness.file("web")).unwrap();
        assert_eq!(readiness.wait(web.clone(), INSTANCE), None);
        file.write_all(b"half").unwrap();
        let written = readiness.needed().await;
        assert_eq!(readiness.ready(written), []);
        file.write_all(b" a line\n").unwrap();
        let written = readiness.needed().await;
        let told = Fact::BecameReady {
            service: web.clone(),
            instance: INSTANCE,
        };
        assert_eq!(readiness.ready(written), vec![told.clone()]);
        file.write_all(b"again\n").unwrap();
        let written = readiness.needed().await;
        assert_eq!(readiness.ready(written), []);
        // The next agent asks, and is told at once.
        let mut next = Readiness::of(dir.path());
        assert_eq!(next.wait(web.clone(), INSTANCE), Some(told));
        // The next start is another matter.
        next.begin(&web).unwrap();
        assert_eq!(next.wait(web.clone(), INSTANCE), None);
        assert_eq!(next.ready(vec![None]), []);
        next.forget(&web);
        assert!(!next.file("web").exists());
    }
}

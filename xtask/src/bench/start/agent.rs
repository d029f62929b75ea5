//! An agent that a benchmark starts.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::bench::{Bench, arena::Arena, process::Started, wait::ends_within};

/// How long the agent may take to stop its services and itself.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A service for the agent.
pub(super) struct Service {
    pub(super) id: String,
    pub(super) overlap: bool,
}

/// A running `respawn agent` with a config of its own; stopped, with its services, when the value
/// goes.
pub(super) struct MeasuredAgent<'a> {
    bench: &'a Bench,
    process: Started,
    runtime_dir: PathBuf,
    pin_dir: PathBuf,
    is_killed: bool,
}

impl<'a> MeasuredAgent<'a> {
    /// Starts one whose services each touch so much memory.
    pub(super) fn start(
        bench: &'a Bench,
        arena: &Arena,
        services: &[Service],
        mebibytes: u32,
    ) -> Result<Self> {
        let config = arena.path().join("config");
        for service in services {
            write_config(&config, bench, arena, service, mebibytes)?;
        }
        let runtime_dir = arena.path().join("run");
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/respawn-bench-{}", std::process::id()));
        let mut command = bench.command(&bench.respawn)?;
        command.arg("agent").arg("--config").arg(config);
        command.arg("--runtime-dir").arg(&runtime_dir);
        command.arg("--pin-dir").arg(&pin_dir);
        Ok(Self {
            process: Started::start(command.stdout(Stdio::null()))?,
            bench,
            runtime_dir,
            pin_dir,
            is_killed: false,
        })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it: its services live on, and its pins stay for the next one.
    pub(super) fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.is_killed = true;
        ends_within(self.process.as_fd(), STOP_PATIENCE)?;
        Ok(())
    }

    /// Has the agent stop its services and itself.
    fn shut_down(&self) -> Result<bool> {
        let mut command = self.bench.command(&self.bench.respawn)?;
        command.arg("shutdown");
        command.arg("--runtime-dir").arg(&self.runtime_dir);
        let request = Started::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        ends_within(request.as_fd(), STOP_PATIENCE)?;
        ends_within(self.process.as_fd(), Duration::from_secs(1))
    }
}

impl Drop for MeasuredAgent<'_> {
    fn drop(&mut self) {
        if self.is_killed {
            return;
        }
        // As well as it can be done: an agent that does not end in order is killed, and services
        // that it leaves end with the arena.
        if !self.shut_down().unwrap_or(false) {
            let _ = self.process.signal(Signal::SIGTERM);
            let _ = ends_within(self.process.as_fd(), STOP_PATIENCE);
        }
        let _ = fs::remove_dir_all(&self.pin_dir);
    }
}

fn write_config(
    config: &Path,
    bench: &Bench,
    arena: &Arena,
    service: &Service,
    mebibytes: u32,
) -> Result<()> {
    let directory = config.join("services");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let command = [
        bench.actor.to_string_lossy().into_owned(),
        "service".into(),
        arena.told_path().to_string_lossy().into_owned(),
        arena.lifeline_path().to_string_lossy().into_owned(),
        service.id.clone(),
        mebibytes.to_string(),
    ];
    let mut table = toml::Table::new();
    table.insert("command".into(), command.to_vec().into());
    table.insert("overlap".into(), service.overlap.into());
    let path = directory.join(format!("{}.toml", service.id));
    fs::write(&path, table.to_string()).with_context(|| format!("write {}", path.display()))
}

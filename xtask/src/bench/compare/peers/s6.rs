//! s6: `s6-svscan` and an `s6-supervise` for each service.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::bench::{
    Bench,
    compare::{
        namespace::{Kept, layered, supervised},
        peer::{Peer, Running, Service, Stage, needs_package},
    },
    process::Started,
    wait::ends_within,
};

pub(in crate::bench::compare) struct S6;

impl Peer for S6 {
    fn name(&self) -> &'static str {
        "s6"
    }

    fn settings(&self) -> &'static str {
        "it waits for 1 s before each restart, which cannot be set"
    }

    fn waits(&self) -> bool {
        true
    }

    fn check(&self, bench: &Bench) -> Result<()> {
        needs_package(bench, "s6")
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        for service in services {
            let text = match service.held_port() {
                None => service.script(stage.arena.path()),
                Some(_) => retrieving(stage, service),
            };
            let run = stage.write(&format!("scan/{}/run", service.id), &text)?;
            fs::set_permissions(run, Permissions::from_mode(0o755))?;
        }
        let scan = stage.directory.join("scan");
        let mut words = ["s6-svscan", "-c", "2000"].map(str::to_owned).to_vec();
        words.push(scan.to_string_lossy().into_owned());
        let kept = if stage.kept { Kept::Always } else { Kept::Once };
        let holder = match services.iter().find_map(Service::held_port) {
            Some(port) => Some(hold(stage, port)?),
            None => None,
        };
        let running = supervised(stage, kept, &words, Some("s6"))?;
        Ok(match holder {
            Some(holder) => running.ending(move |_| drop(holder)),
            None => running,
        })
    }
}

/// A `run` that gets its socket from the holder, as its standard input.
fn retrieving(stage: &Stage<'_>, service: &Service) -> String {
    format!(
        "#!/bin/sh\nexec s6-fdholder-retrieve {} web {}\n",
        stage.directory.join("holder").display(),
        service.line(stage.arena.path())
    )
}

/// Starts `s6-fdholderd`, and gives it a listening socket.
fn hold(stage: &Stage<'_>, port: u16) -> Result<Started> {
    let all = "^";
    for name in ["STORE", "RETRIEVE"] {
        stage.write(&format!("rules/uid/0/env/S6_FDHOLDER_{name}_REGEX"), all)?;
    }
    stage.write("rules/uid/0/allow", "")?;
    let path = stage.directory.join("holder");
    let mut daemon = layered(stage, "s6", "s6-fdholder-daemon")?;
    daemon
        .arg("-i")
        .arg(stage.directory.join("rules"))
        .arg(&path);
    let daemon = Started::start(&mut daemon)?;
    wait_for(stage, &path)?;
    let socket = TcpListener::bind(("127.0.0.1", port)).context("bind a port")?;
    let mut store = layered(stage, "s6", "s6-fdholder-store")?;
    store.arg(&path).arg("web").stdin(OwnedFd::from(socket));
    let store = Started::start(&mut store)?;
    let stored = ends_within(std::os::fd::AsFd::as_fd(&store), Duration::from_secs(5))?;
    ensure!(
        stored && store.wait(&stage.bench.interrupt)?.success(),
        "s6-fdholder-store has failed"
    );
    Ok(daemon)
}

fn wait_for(stage: &Stage<'_>, path: &Path) -> Result<()> {
    for _ in 0..500 {
        if path.exists() {
            return Ok(());
        }
        stage.bench.interrupt.pause(Duration::from_millis(10))?;
    }
    anyhow::bail!("s6-fdholder-daemon has not made its socket")
}

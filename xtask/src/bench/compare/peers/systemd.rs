//! The host's systemd as PID 1 of a namespace, without the units that a host needs beside the services.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::bench::{
    Bench,
    compare::{
        namespace::{ARENA, booted},
        peer::{Peer, Running, Service, Stage},
    },
};

const PROGRAM: &str = "/usr/lib/systemd/systemd";

pub(in crate::bench::compare) struct Systemd;

impl Peer for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    fn settings(&self) -> &'static str {
        "`Restart=always`, `RestartSec=0`, `StartLimitIntervalSec=0`"
    }

    fn check(&self, _bench: &Bench) -> Result<()> {
        std::fs::metadata(PROGRAM).context("it is not installed")?;
        Ok(())
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        let unit =
            |name: &str, text: &str| stage.write(&format!("etc/systemd/system/{name}"), text);
        let mut wants = String::new();
        for service in services {
            let id = service.id.replace([' ', ','], "-");
            let line = service.line(Path::new(ARENA));
            unit(
                &format!("{id}.service"),
                &format!(
                    "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n\
                     [Service]\nExecStart={line}\nRestart=always\nRestartSec=0\nStandardOutput=null\nStandardError=null\n"
                ),
            )?;
            if let Some(port) = service.held_port() {
                let text = format!(
                    "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=127.0.0.1:{port}\nTriggerLimitIntervalSec=0\n"
                );
                unit(&format!("{id}.socket"), &text)?;
                wants += &format!("Wants={id}.socket\n");
            }
            wants += &format!("Wants={id}.service\n");
        }
        let target =
            format!("[Unit]\nDescription=the benchmark's units\nAllowIsolate=yes\n{wants}");
        unit("default.target", &target)?;
        stage.write("etc/machine-id", &format!("{:032x}\n", 0x7e57))?;
        booted(
            stage,
            None,
            &[PROGRAM, "--log-target=null", "--show-status=0"],
        )
    }
}

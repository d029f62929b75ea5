//! sysvinit as PID 1 of a namespace.

use std::path::Path;

use anyhow::Result;

use crate::bench::{
    Bench,
    compare::{
        namespace::{ARENA, booted},
        peer::{Peer, Running, Service, Stage, needs_package},
    },
};

pub(super) struct Sysvinit;

impl Peer for Sysvinit {
    fn name(&self) -> &'static str {
        "sysvinit"
    }

    fn settings(&self) -> &'static str {
        "`respawn`: no delay, and at most 10 starts of an entry in 2 minutes, which no entry reached"
    }

    fn check(&self, bench: &Bench) -> Result<()> {
        needs_package(bench, "sysvinit-core")
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        let mut text = "id:2:initdefault:\n".to_string();
        for (number, service) in services.iter().enumerate() {
            let line = service.line(Path::new(ARENA));
            text += &format!("s{number:03x}:2:respawn:{line}\n");
        }
        stage.write("etc/inittab", &text)?;
        let package = stage.package("sysvinit-core").join("usr");
        booted(stage, Some(&package), &["/package/sbin/init"])
    }
}

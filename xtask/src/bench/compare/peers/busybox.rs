//! busybox's init as PID 1 of a namespace.

use std::path::Path;

use anyhow::Result;

use crate::bench::{
    Bench,
    compare::{
        namespace::{ARENA, booted},
        peer::{Peer, Running, Service, Stage, needs_package},
    },
};

pub(super) struct Busybox;

impl Peer for Busybox {
    fn name(&self) -> &'static str {
        "busybox init"
    }

    fn settings(&self) -> &'static str {
        "`respawn`: it sleeps for 1 s before each, which cannot be set"
    }

    fn most(&self) -> usize {
        100
    }

    fn waits(&self) -> bool {
        true
    }

    fn check(&self, bench: &Bench) -> Result<()> {
        needs_package(bench, "busybox-static")
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        let line = |service: &Service| format!("::respawn:{}\n", service.line(Path::new(ARENA)));
        let text: String = services.iter().map(line).collect();
        stage.write("etc/inittab", &text)?;
        let package = stage.package("busybox-static").join("usr");
        booted(stage, Some(&package), &["/package/bin/busybox", "init"])
    }
}

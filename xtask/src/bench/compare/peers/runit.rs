//! runit: `runsvdir` and a `runsv` for each service.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use anyhow::Result;

use crate::bench::{
    Bench,
    compare::{
        namespace::{Kept, supervised},
        peer::{Peer, Running, Service, Stage, needs_package},
    },
};

pub(super) struct Runit;

impl Peer for Runit {
    fn name(&self) -> &'static str {
        "runit"
    }

    fn settings(&self) -> &'static str {
        "no delay after an instance that has run for 1 s, as every one had; it cannot be set"
    }

    fn check(&self, bench: &Bench) -> Result<()> {
        needs_package(bench, "runit")
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        for service in services {
            let text = service.script(stage.arena.path());
            let run = stage.write(&format!("services/{}/run", service.id), &text)?;
            fs::set_permissions(run, Permissions::from_mode(0o755))?;
        }
        let directory = stage.directory.join("services");
        let words = ["runsvdir".into(), directory.to_string_lossy().into_owned()];
        let kept = if stage.kept { Kept::Always } else { Kept::Once };
        supervised(stage, kept, &words, Some("runit"))
    }
}

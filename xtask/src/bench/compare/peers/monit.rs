//! monit, which looks at its pid files from time to time.

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

pub(super) struct Monit;

impl Peer for Monit {
    fn name(&self) -> &'static str {
        "monit"
    }

    fn settings(&self) -> &'static str {
        "`set daemon 1`: it looks once a second, the least that can be set"
    }

    fn most(&self) -> usize {
        50
    }

    fn waits(&self) -> bool {
        true
    }

    fn check(&self, bench: &Bench) -> Result<()> {
        needs_package(bench, "monit")
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        let directory = stage.directory.display().to_string();
        let mut text = format!(
            "set daemon 1\nset pidfile {directory}/pid\nset statefile {directory}/state\nset idfile {directory}/id\n"
        );
        for service in services {
            let id = &service.id;
            let line = service.line(stage.arena.path());
            let script = format!("#!/bin/sh\n{line} &\necho $! > {directory}/{id}.pid\n");
            let start = stage.write(&format!("{id}.start"), &script)?;
            fs::set_permissions(start, Permissions::from_mode(0o755))?;
            text += &format!(
                "check process {id} with pidfile {directory}/{id}.pid\nstart program = \"{directory}/{id}.start\"\n"
            );
        }
        let config = stage.write("monitrc", &text)?;
        fs::set_permissions(&config, Permissions::from_mode(0o600))?;
        let words = ["monit", "-I", "-c"].map(str::to_owned).into_iter();
        let words: Vec<String> = words
            .chain([config.to_string_lossy().into_owned()])
            .collect();
        let kept = if stage.kept { Kept::Always } else { Kept::Once };
        supervised(stage, kept, &words, Some("monit"))
    }
}

//! dinit, which Debian does not package: the one that is installed, or built and named by a variable.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    bench::{
        Bench,
        compare::{
            namespace::{Kept, supervised},
            peer::{Peer, Running, Service, Stage},
        },
    },
    unpacked::on_this_host,
};

/// The binary, where none is installed.
const VARIABLE: &str = "RESPAWN_BENCH_DINIT";

pub(super) struct Dinit;

impl Peer for Dinit {
    fn name(&self) -> &'static str {
        "dinit"
    }

    fn settings(&self) -> &'static str {
        "`restart = true`, `smooth-recovery = true`, `restart-delay = 0`, `restart-limit-count = 0`"
    }

    fn check(&self, _bench: &Bench) -> Result<()> {
        program().map(drop)
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        let mut boot = "type = internal\n".to_string();
        for service in services {
            let command = service.line(stage.arena.path());
            let text = format!(
                "type = process\ncommand = {command}\nrestart = true\nsmooth-recovery = true\n\
                 restart-delay = 0\nrestart-limit-count = 0\n"
            );
            stage.write(&format!("services/{}", service.id), &text)?;
            boot += &format!("waits-for = {}\n", service.id);
        }
        stage.write("services/boot", &boot)?;
        let path = |name: &str| stage.directory.join(name).to_string_lossy().into_owned();
        let words = [
            program()?.to_string_lossy().into_owned(),
            "--user".into(),
            "--quiet".into(),
            "--services-dir".into(),
            path("services"),
            "--socket-path".into(),
            path("socket"),
        ];
        let kept = if stage.kept { Kept::Always } else { Kept::Once };
        supervised(stage, kept, &words, None)
    }
}

fn program() -> Result<PathBuf> {
    let named = env::var_os(VARIABLE)
        .map(PathBuf::from)
        .filter(|path| path.is_file());
    let program = named.or_else(|| on_this_host("dinit"));
    program.with_context(|| format!("Debian has no package of it; {VARIABLE} may name a binary"))
}

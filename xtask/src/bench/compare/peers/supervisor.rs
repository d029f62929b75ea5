//! supervisor: `supervisord`, in Python.

use anyhow::Result;

use crate::bench::{
    Bench,
    compare::{
        namespace::{Kept, supervised},
        peer::{Peer, Running, Service, Stage, needs_package},
    },
};

pub(super) struct Supervisor;

impl Peer for Supervisor {
    fn name(&self) -> &'static str {
        "supervisor"
    }

    fn settings(&self) -> &'static str {
        "`autorestart = true`, `startsecs = 0`; it looks once a second, which cannot be set"
    }

    fn most(&self) -> usize {
        100
    }

    fn waits(&self) -> bool {
        true
    }

    fn check(&self, bench: &Bench) -> Result<()> {
        needs_package(bench, "supervisor")
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        let mut text = format!(
            "[supervisord]\nnodaemon = true\nlogfile = /dev/null\nlogfile_maxbytes = 0\nminfds = 4096\n\
             pidfile = {}\n",
            stage.directory.join("pid").display()
        );
        for service in services {
            text += &format!(
                "[program:{}]\ncommand = {}\nautorestart = true\nstartsecs = 0\nstartretries = 1000000\n\
                 stdout_logfile = NONE\nstderr_logfile = NONE\n",
                service.id,
                service.line(stage.arena.path())
            );
        }
        let config = stage.write("supervisord.conf", &text)?;
        let words = [
            "supervisord".into(),
            "-c".into(),
            config.to_string_lossy().into_owned(),
        ];
        let kept = if stage.kept { Kept::Always } else { Kept::Once };
        supervised(stage, kept, &words, Some("supervisor"))
    }
}

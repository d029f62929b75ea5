//! A shell for each service, which starts it whenever it has ended.

use anyhow::Result;

use crate::bench::{
    Bench,
    compare::{
        namespace::{Kept, supervised},
        peer::{Peer, Running, Service, Stage},
    },
};

pub(super) struct ShellLoops;

impl Peer for ShellLoops {
    fn name(&self) -> &'static str {
        "shell loops"
    }

    fn settings(&self) -> &'static str {
        "`while :; do SERVICE; done` in a dash of its own for each service; no delay"
    }

    fn check(&self, _bench: &Bench) -> Result<()> {
        Ok(())
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        let line = |service: &Service| {
            let line = service.line(stage.arena.path());
            format!("(while :; do {line} 2> /dev/null; done) &\n")
        };
        let text: String = services.iter().map(line).collect();
        let script = stage.write("loops", &format!("{text}wait\n"))?;
        let words = ["sh".into(), script.to_string_lossy().into_owned()];
        let kept = if stage.kept { Kept::Always } else { Kept::Once };
        supervised(stage, kept, &words, None)
    }
}

//! The floor: one thread in a loop of `waitpid` and `posix_spawn`, in C (`floor.c`).

use std::process::Stdio;

use anyhow::Result;

use crate::bench::{
    Bench,
    compare::{
        namespace::{Kept, supervised},
        peer::{Peer, Running, Service, Stage},
    },
    process::Started,
};

pub(in crate::bench::compare) struct Floor;

impl Peer for Floor {
    fn name(&self) -> &'static str {
        "C floor"
    }

    fn settings(&self) -> &'static str {
        "one thread in a loop of waitpid and posix_spawn, in C; no delay"
    }

    fn check(&self, _bench: &Bench) -> Result<()> {
        Ok(())
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        let text: Vec<String> = services
            .iter()
            .map(|it| it.line(stage.arena.path()))
            .collect();
        let list = stage.write("services", &(text.join("\n") + "\n"))?;
        if stage.kept {
            let words = [&stage.bench.floor, &list].map(|path| path.to_string_lossy().into_owned());
            return supervised(stage, Kept::Always, &words, None);
        }
        let mut command = stage.bench.command(&stage.bench.floor)?;
        command.arg(list).stdout(Stdio::null());
        Ok(Running::of(Started::start(&mut command)?))
    }
}

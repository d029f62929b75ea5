//! From a SIGKILL to the first line of the next instance's main.

use anyhow::Result;
use serde_json::json;

use crate::{
    bench::{
        Bench,
        arena::Arena,
        compare::{
            contest::{Skipped, Times, gather},
            page::Section,
            peer::{Peer, Work},
            plot::Plot,
        },
        memory_available_mib,
        sample::Unit,
    },
    report::note,
};

/// Those that wait before a restart are killed in one of so many rounds.
const SELDOM: usize = 20;

/// What is killed.
pub(in crate::bench::compare) struct Size {
    pub(in crate::bench::compare) key: &'static str,
    pub(in crate::bench::compare) title: &'static str,
    pub(in crate::bench::compare) work: Work,
    /// Of each peer: sysvinit starts an entry at most 10 times in two minutes.
    pub(in crate::bench::compare) services: usize,
    pub(in crate::bench::compare) rounds: usize,
    /// Only the floor and those that overlap.
    pub(in crate::bench::compare) few: bool,
}

pub(in crate::bench::compare) const SIZES: [Size; 5] = [
    Size {
        key: "restart_small",
        title: "A small service is killed",
        work: Work::Memory(0),
        services: 50,
        rounds: 240,
        few: false,
    },
    Size {
        key: "restart_libraries",
        title: "A small service with ten shared libraries is killed",
        work: Work::Libraries,
        services: 50,
        rounds: 120,
        few: false,
    },
    Size {
        key: "restart_100_mib",
        title: "A service with 100 MiB touched is killed",
        work: Work::Memory(100),
        services: 2,
        rounds: 14,
        few: false,
    },
    Size {
        key: "restart_1_gib",
        title: "A service with 1 GiB touched is killed",
        work: Work::Memory(1024),
        services: 1,
        rounds: 8,
        few: false,
    },
    Size {
        key: "restart_4_gib",
        title: "A service with 4 GiB touched is killed",
        work: Work::Memory(4096),
        services: 1,
        rounds: 5,
        few: true,
    },
];

impl Size {
    fn mebibytes(&self) -> u32 {
        match self.work {
            Work::Memory(mebibytes) => mebibytes,
            Work::Libraries | Work::Http(..) => 0,
        }
    }

    pub(in crate::bench::compare) fn run(
        &self,
        bench: &Bench,
        peers: &[&dyn Peer],
    ) -> Result<Section> {
        let rounds = if bench.quick {
            self.rounds.div_ceil(6)
        } else {
            self.rounds
        };
        let takes_part = |peer: &&&dyn Peer| match self.few {
            true => peer.name() == "C floor" || peer.name() == "respawn" || peer.overlaps(),
            false => self.mebibytes() == 0 || !peer.waits(),
        };
        let peers: Vec<&dyn Peer> = peers.iter().filter(takes_part).copied().collect();
        // One more, for what goes while the next one fills its own.
        let needed =
            u64::from(self.mebibytes()) * (u64::try_from(peers.len() * self.services)? + 1);
        let mut section = Section::new(self.key, self.title);
        if self.few && bench.quick {
            section.say("Left out of a quick run.".into());
            return Ok(section);
        }
        if memory_available_mib()? < needed {
            section.say(format!("Left out: it needs {needed} MiB of free memory."));
            return Ok(section);
        }
        let mut arena = Arena::open(bench)?;
        if matches!(self.work, Work::Libraries)
            && let Err(error) = bench.add_libraries_actor(arena.path())
        {
            section.say(format!("Left out: {error:#}."));
            return Ok(section);
        }
        note!("bench: {}: {rounds} rounds", self.title);
        let mut skipped = Skipped::new();
        let all = gather(
            bench,
            &mut arena,
            &peers,
            self.services,
            self.work,
            &mut skipped,
        );
        let mut all = all?;
        let warm_up = if self.mebibytes() == 0 { 5 } else { 1 };
        let length = all.len();
        for round in 0..warm_up + rounds {
            // What one leaves to be cleaned up is not always in the way of the same other one.
            for index in 0..length {
                let contestant = &mut all[(index + round) % length];
                if contestant.peer.waits() && round % SELDOM != 0 {
                    continue;
                }
                contestant.kill_one(bench, &mut arena, round >= warm_up)?;
            }
        }
        let times = Times::of(&all);
        let unit = if self.mebibytes() == 0 {
            Unit::Microseconds
        } else {
            Unit::Milliseconds
        };
        section.say(format!(
            "From SIGKILL to the first line of main, in {}.",
            if self.mebibytes() == 0 { "µs" } else { "ms" }
        ));
        section.table(times.table(unit));
        section.plot(Plot::of_times(self.title, &times.medians()));
        section.json = json!(times.json());
        section.skipped(skipped);
        drop(all);
        Ok(section)
    }
}

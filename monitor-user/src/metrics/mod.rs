//! What a monitoring system asks a host for again and again: numbers of services and deaths, as
//! OpenMetrics.
//!
//! Reads what other commands read: the agent's socket, its journal, and what a recorder has kept. Needs
//! none of them, and says which are there. Keeps nothing but its own counts.
//!
//! ```text
//! agent's socket ──────────────▶ now ──────┐
//! journal ──▶ follow ─┐                    ├─▶ families ─▶ text ─▶ serve
//! deaths ───▶ follow ─┴─▶ totals ─▶ state ─┘
//! ```
//!
//! Invariants:
//! - a line is counted once: counts and the places up to which they go are in one file, which is replaced
//!   as a whole;
//! - what was shown is in that file before: no counter goes back when this process is killed;
//! - a label has a bounded number of values, and no label has arguments of a program.

mod families;
mod follow;
mod now;
pub(crate) mod serve;
mod state;
mod totals;

use std::path::PathBuf;

use anyhow::Result;

use self::families::Scrape;
use self::follow::{Follow, Source};
use self::now::Now;
pub(crate) use self::state::State;
use crate::cli::eprint_line;
use crate::clock;

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) runtime_dir: PathBuf,
    /// A recorder's directory.
    pub(crate) recorder_dir: PathBuf,
}

/// The two forms of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// OpenMetrics 1.0
    Openmetrics,
    /// Prometheus text format 0.0.4, as `promtool check metrics` reads it
    Prometheus,
}

/// Who reads on, and counts.
pub(crate) struct Collector {
    places: Places,
    state: State,
    journal: Follow,
    deaths: Follow,
    /// Saving failed, and that was told.
    is_failing: bool,
}

impl Collector {
    /// One that goes on where `state` has stopped. With `from_now`, what is kept so far does not count.
    pub(crate) fn new(places: Places, state: State, from_now: bool) -> Self {
        let journal = Follow::new(Source::Journal, &places.runtime_dir);
        let deaths = Follow::new(Source::Deaths, &places.recorder_dir);
        let mut collector = Self {
            places,
            state,
            journal,
            deaths,
            is_failing: false,
        };
        if from_now {
            collector.read_on();
            collector.state.kept.totals.clear();
        }
        collector
    }

    /// Counts what has come, and keeps it. To be called often enough that no file is removed unread.
    pub(crate) fn read_on(&mut self) {
        let kept = &mut self.state.kept;
        self.journal.read_on(&mut kept.journal, &mut kept.totals);
        self.deaths.read_on(&mut kept.deaths, &mut kept.totals);
        kept.totals.settle();
        let saved = self.state.save();
        let failed = saved.is_err();
        if let Err(error) = saved
            && !self.is_failing
        {
            eprint_line(&format!(
                "{error:#}: counters can go back when this process is started again"
            ));
        }
        self.is_failing = failed;
    }

    /// All numbers as they are now.
    ///
    /// # Errors
    /// They cannot be written as text.
    pub(crate) fn scrape(&mut self, format: Format) -> Result<String> {
        self.read_on();
        let now = Now::of(&self.places.runtime_dir);
        let kept = &self.state.kept;
        let is_up = [
            ("agent", now.is_up()),
            ("journal", self.journal.is_up()),
            ("recorder", self.deaths.is_up()),
            ("state", !self.is_failing),
        ];
        let scrape = Scrape {
            is_up,
            since: kept.since,
            totals: kept.totals.clone(),
            now,
        };
        scrape.text(format)
    }
}

/// When counting begins, for a state that has none.
fn begin() -> jiff::Timestamp {
    clock::now()
}

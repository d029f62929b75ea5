//! respawn beside other supervisors, and beside the least that a supervisor can do: all in one run, with one page of
//! figures (`docs/benchmarks.md`).

mod contest;
mod measures;
mod namespace;
mod page;
mod peer;
mod peers;
mod plot;
mod tree;

use anyhow::{Context as _, Result, bail};

use self::{
    contest::Skipped,
    measures::{both, cold, crowd, http, restart, scale},
    page::{Page, Section},
    peer::Peer,
};
use super::{Bench, Machine, latency};
use crate::report::{note, now, readable};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Measure {
    /// kill → first line of main, of services of four sizes
    Restart,
    /// 100 and 1,000 killed at once, and what peers take while nothing happens
    Crowd,
    /// Cold start, and memory
    Cold,
    /// Supervisor and service killed together
    Both,
    /// 10,000 services: started, killed at once, adopted, shut down
    Scale,
    /// An HTTP server killed ten times a second
    Http,
    /// The event beside the pidfd
    Detection,
}

impl Measure {
    const ALL: [Self; 7] = [
        Self::Restart,
        Self::Crowd,
        Self::Cold,
        Self::Both,
        Self::Scale,
        Self::Http,
        Self::Detection,
    ];

    fn run(self, bench: &Bench, peers: &[&dyn Peer]) -> Result<Vec<Section>> {
        match self {
            Self::Restart => restart::SIZES
                .iter()
                .map(|size| size.run(bench, peers))
                .collect(),
            Self::Crowd => {
                let mut sections = crowd::run(bench, peers, 100, 8)?;
                sections.extend(crowd::run(bench, peers, 1000, 5)?);
                Ok(sections)
            }
            Self::Cold => Ok(vec![cold::run(bench, peers)?]),
            Self::Both => Ok(vec![both::run(bench, peers)?]),
            Self::Scale => Ok(vec![scale::run(bench)?]),
            Self::Http => Ok(vec![http::run(bench)?]),
            Self::Detection => Ok(vec![detection(bench)?]),
        }
    }
}

/// Runs what is asked for, all by default; returns the page as text, and its figures. A run of everything writes the
/// page.
pub(super) fn run(
    bench: &Bench,
    machine: &Machine,
    measures: &[Measure],
    names: &[String],
) -> Result<(String, serde_json::Value)> {
    let all = peer::all();
    let known = |name: &&String| !all.iter().any(|peer| peer.name() == name.as_str());
    if let Some(unknown) = names.iter().find(known) {
        bail!("no peer is called {unknown}");
    }
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let mut missing = Skipped::new();
    let mut peers: Vec<&dyn Peer> = Vec::new();
    for peer in all.iter().filter(|peer| is_wanted(peer.name())) {
        match peer.check(bench) {
            Ok(()) => peers.push(peer.as_ref()),
            Err(error) => {
                missing.insert(peer.name(), format!("{error:#}"));
            }
        }
    }
    let began = now();
    let wanted = if measures.is_empty() {
        &Measure::ALL
    } else {
        measures
    };
    let mut sections = Vec::new();
    for measure in wanted {
        let found = measure.run(bench, &peers);
        sections.extend(found.with_context(|| format!("bench {measure:?}"))?);
        note!(
            "bench: {measure:?} done after {}",
            readable(began.elapsed())
        );
    }
    let load = super::load()?;
    let page = Page {
        head: format!(
            "{}; load {load:.2} at its end; it took {}{}.{}",
            machine.line(),
            readable(began.elapsed()),
            if bench.quick {
                ", with few rounds (`--quick`)"
            } else {
                ""
            },
            busy(machine, load)
        ),
        machine: machine.json(),
        sections,
    };
    if measures.is_empty() && names.is_empty() {
        page.write(&bench.root.join("docs"), &peers, &missing)?;
    }
    Ok((page.text(&peers, &missing, false), page.json()))
}

/// What a reader should know of a machine that did more than this. Before the start the benchmark itself may have been
/// built.
fn busy(machine: &Machine, load_at_end: f64) -> &'static str {
    match machine.is_busy() && load_at_end > 1.0 {
        true => " The machine was busy with other things, so little of this can be relied upon.",
        false => "",
    }
}

/// How soon an exit is known, beside the pidfd.
fn detection(bench: &Bench) -> Result<Section> {
    let figures = latency::run(bench)?;
    let mut section = Section::new("detection", "Detection alone");
    for table in figures.tables {
        section.table(table);
    }
    section.json = figures.json;
    Ok(section)
}

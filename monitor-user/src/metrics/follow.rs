//! Reads a journal on from scrape to scrape, and after a restart from where the counts have stopped.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::totals::{By, Totals};
use crate::cli::eprint_line;
use crate::journal::{self, Cursor, JournalLine, Reader, Resumed};

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The agent's.
    Journal,
    /// A recorder's.
    Deaths,
}

/// A journal, and how far it is read.
pub(super) struct Follow {
    source: Source,
    dir: PathBuf,
    /// `None`: to be opened at the next look.
    reader: Option<Reader>,
    /// Why the last look failed, which was told.
    problem: Option<String>,
}

impl Follow {
    pub(super) fn new(source: Source, dir: &Path) -> Self {
        Self {
            source,
            dir: dir.to_owned(),
            reader: None,
            problem: None,
        }
    }

    /// Whether it could be read.
    pub(super) fn is_up(&self) -> bool {
        self.reader.as_ref().is_some_and(|it| !it.is_missing())
    }

    /// Counts all that has come after `place`, which goes along.
    pub(super) fn read_on(&mut self, place: &mut Option<Cursor>, totals: &mut Totals) {
        let read = self.try_read_on(place, totals);
        let problem = read.err().map(|error| format!("{error:#}"));
        if problem.is_some() {
            self.reader = None;
        }
        if let Some(problem) = &problem
            && self.problem.as_ref() != Some(problem)
        {
            eprint_line(problem);
        }
        self.problem = problem;
    }

    fn try_read_on(&mut self, place: &mut Option<Cursor>, totals: &mut Totals) -> Result<()> {
        let by = match self.source {
            Source::Journal => By::Agent,
            Source::Deaths => By::Recorder,
        };
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.open(*place)?,
        };
        while let Some(line) = reader.next()? {
            // What an older version has written could be counted twice.
            let Some(cursor) = line.cursor() else {
                continue;
            };
            totals.missed(by, reader.take_missed());
            self.count(&line, totals);
            *place = Some(cursor);
        }
        self.reader = Some(reader);
        Ok(())
    }

    fn open(&self, place: Option<Cursor>) -> Result<Reader> {
        let open = || match self.source {
            Source::Journal => Reader::open(&self.dir),
            Source::Deaths => Reader::of_deaths(&self.dir),
        };
        match place {
            None => open(),
            Some(place) => {
                let Resumed { reader, .. } = journal::resume(open, place, |_| {})?;
                Ok(reader)
            }
        }
    }

    fn count(&self, line: &JournalLine, totals: &mut Totals) {
        match self.source {
            Source::Journal => totals.event(line),
            Source::Deaths => totals.death(line),
        }
    }
}

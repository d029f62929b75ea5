//! `respawn deaths`: what a recorder has kept of the host's deaths. Reads its files itself, so that it
//! needs no recorder that runs.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::Style;
use anyhow::{Context, Result, anyhow, bail};
use glob::Pattern;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::filters::{self, Filters};
use super::lines::{self, Extent, Selection, View};
use super::output::{Interrupts, eprint_line};
use crate::accounts::Accounts;
use crate::deaths::{self, Filter, Kept};
use crate::journal::{Changes, Cursor, JournalLine, Reader};
use crate::model::What;
use crate::os::proc;
use crate::report::{Times, counted, happening};

/// Show which processes of this host have died, and why
///
/// Reads what `respawn recorder` has recorded, also before the last reboot, and shows it oldest first:
/// when a process died, its name, its systemd unit or container, how long it had run, the cause, and who
/// sent the signal. The recorder does not have to run. Times include the offset from UTC unless they go
/// to a terminal.
///
/// Exits with 1 if the directory has no recorded deaths.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only deaths within this time before now, such as "10m", "1h30m" or "2 days"
    #[arg(long, value_name = "DURATION", value_parser = lines::past)]
    since: Option<Span>,
    /// Only deaths of one boot: 0 is the current one, -1 the one before, 1 the oldest
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    boot: Option<i32>,
    /// Only the last N of these deaths; --follow also shows new ones
    #[arg(long, short = 'n', value_name = "N")]
    lines: Option<usize>,
    /// Continue with new deaths as they come, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Begin after the line with this cursor, which --json shows
    ///
    /// If that line has been removed to make room, begins at the oldest one.
    #[arg(long, value_name = "CURSOR", value_parser = lines::cursor)]
    after: Option<Cursor>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: RecorderDir,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    processes: Processes,
}

/// Where a recorder keeps deaths.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RecorderDir {
    /// The recorder's directory
    #[arg(
        long,
        value_name = "DIR",
        env = "RESPAWN_RECORDER_DIR",
        hide_env_values = true,
        default_value = "/var/lib/respawn"
    )]
    pub(super) dir: PathBuf,
}

/// The filters by name and pid.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters (a repeated one matches any of its values)")]
struct Processes {
    /// Only processes with this name (comm), or that match, such as 'php*'
    #[arg(long, value_name = "GLOB", value_parser = filters::pattern)]
    name: Vec<Pattern>,
    /// Only the process with this pid
    #[arg(long, value_name = "N")]
    pid: Vec<u32>,
}

/// Runs to the end of what is kept; with `--follow` until a signal or a closed standard output.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(show(arguments));
    // A write to a reader that does not read may still hang in its thread.
    runtime.shutdown_background();
    result
}

async fn show(arguments: &Arguments) -> Result<ExitCode> {
    let dir = &arguments.place.dir;
    let mut interrupts = Interrupts::listen()?;
    let selection = Chosen::of(arguments)?;
    // Before anything is read, so that nothing falls between the past and what comes.
    let changes = match arguments.follow.then(|| Changes::of_deaths(dir)) {
        Some(Err(error)) if error.kind() == ErrorKind::NotFound => return Err(nothing_kept(dir)),
        Some(Err(error)) => {
            // Says more, where it is the rights that are missing.
            Reader::of_deaths(dir)?;
            return Err(error).with_context(|| format!("cannot watch {}", dir.display()));
        }
        Some(Ok(changes)) => Some(changes),
        None => None,
    };
    let mut reader = match &arguments.after {
        Some(cursor) => lines::after(*cursor, || Reader::of_deaths(dir), |_| {})?,
        None => Reader::of_deaths(dir)?,
    };
    if reader.is_missing() {
        if !arguments.follow {
            return Err(nothing_kept(dir));
        }
        let dir = dir.display();
        eprint_line(&format!(
            "{dir} has no recorded deaths yet; waiting for some"
        ));
    }
    let extent = Extent {
        json: arguments.json,
        last: arguments.lines,
    };
    let mut view = View::new(selection, &extent);
    let gone = "the recorder's directory is gone";
    let shown = view.show_all(&mut reader, changes.as_ref(), gone, &mut interrupts);
    let shown = shown.await;
    lines::tell_damaged(&reader, "the recorded deaths");
    view.selection.tell_lost();
    shown?;
    Ok(ExitCode::SUCCESS)
}

/// Says that there is nothing to read, and how to get it.
pub(super) fn nothing_kept(dir: &Path) -> anyhow::Error {
    anyhow!(
        "no recorder has kept deaths in {}: start one with `respawn recorder`, or give its directory \
         with --dir",
        dir.display()
    )
}

/// Which lines are shown.
struct Chosen {
    filter: Filter,
    since: Option<Timestamp>,
    boot_id: Option<String>,
    /// Deaths that are in no line, while only some lines are shown.
    lost: u64,
    zone: TimeZone,
    accounts: Accounts,
}

impl Chosen {
    fn of(arguments: &Arguments) -> Result<Self> {
        let zone = TimeZone::system();
        let boot = arguments.boot;
        let filter = Filter {
            names: arguments.processes.name.clone(),
            pids: arguments.processes.pid.clone(),
            ..arguments.filters.filter()?
        };
        Ok(Self {
            filter,
            since: arguments.since.map(|span| lines::since(span, &zone)),
            boot_id: boot.map(|n| boot_id(&arguments.place.dir, n)).transpose()?,
            lost: 0,
            accounts: Accounts::of_this_host(),
            zone,
        })
    }

    fn is_in_time(&self, line: &JournalLine) -> bool {
        let is_boot = |id: &String| line.event.boot_id() == Some(id.as_str());
        lines::is_recent(line, self.since) && self.boot_id.as_ref().is_none_or(is_boot)
    }

    fn times(&self, is_terminal: bool) -> Times {
        match is_terminal {
            true => Times::with_date(self.zone.clone()),
            false => Times::in_full(self.zone.clone()),
        }
    }

    /// Whether a note that so many deaths are in no line is shown in its place; at the end otherwise.
    fn wants_note(&mut self, count: u64, is_in_time: bool) -> bool {
        let in_place = self.filter.wants_all();
        if is_in_time && !in_place {
            self.lost = self.lost.saturating_add(count);
        }
        is_in_time && in_place
    }

    /// Says how many deaths may be among those that were looked for, and are not shown.
    fn tell_lost(&self) {
        if self.lost > 0 {
            let deaths = counted(self.lost, "death");
            eprint_line(&format!(
                "{deaths} of this time could not be recorded, or were removed to make room"
            ));
        }
    }
}

impl Selection for Chosen {
    fn wants(&mut self, line: &JournalLine) -> bool {
        let is_in_time = self.is_in_time(line);
        if let What::DeathsLost { count } = line.event.what {
            return self.wants_note(count, is_in_time);
        }
        is_in_time
            && (self.filter.wants_all()
                || Kept::of(line).is_some_and(|kept| self.filter.wants(&kept.facts())))
    }

    fn wants_missed(&mut self, count: u64, before: &JournalLine) -> bool {
        let is_in_time = self.is_in_time(before);
        self.wants_note(count, is_in_time)
    }

    fn words(&mut self, line: &JournalLine, is_terminal: bool) -> String {
        let times = self.times(is_terminal);
        let time = line.time();
        match Kept::of(line) {
            Some(kept) => deaths::line(&kept.exit, &kept.profile, time, &times, &self.accounts),
            None => {
                let dim = Style::new().dimmed();
                let time = time.map_or_else(|| "?".to_owned(), |time| times.of(time));
                format!("{dim}{time}{dim:#}  {}", happening(&line.event))
            }
        }
    }

    fn header(&self, is_terminal: bool) -> Option<String> {
        let bold = Style::new().bold();
        let header = deaths::header(&self.times(is_terminal));
        Some(format!("{bold}{header}{bold:#}"))
    }
}

/// Which boot is meant: 0 and less counts back from the current one, 1 and more on from the oldest.
fn boot_id(dir: &Path, n: i32) -> Result<String> {
    let current = proc::boot_id().context("cannot find out which boot this is")?;
    if n == 0 {
        return Ok(current);
    }
    let mut boots: Vec<String> = Vec::new();
    let mut reader = Reader::of_deaths(dir)?;
    while let Some(line) = reader.next()? {
        if let Some(id) = line.event.boot_id()
            && boots.last().is_none_or(|last| last != id)
            && !boots.iter().any(|known| known == id)
        {
            boots.push(id.to_owned());
        }
    }
    if reader.is_missing() {
        return Err(nothing_kept(dir));
    }
    boots.retain(|id| *id != current);
    boots.push(current);
    let counted = usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX);
    let index = match n < 0 {
        true => (boots.len() - 1).checked_sub(counted),
        false => Some(counted - 1),
    };
    let Some(id) = index.and_then(|index| boots.get(index)) else {
        bail!(
            "--boot {n}: there is no such boot: deaths of {} are kept before the current one",
            counted_boots(boots.len() - 1)
        );
    };
    Ok(id.clone())
}

fn counted_boots(count: usize) -> String {
    counted(u64::try_from(count).unwrap_or(u64::MAX), "boot")
}

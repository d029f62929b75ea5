//! What `watch` shows of an exit.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use jiff::tz::TimeZone;
use serde_json::json;

use super::Summary;
use crate::accounts::Accounts;
use crate::cli::output::{Flushed, Interrupts, Output};
use crate::clock;
use crate::deaths;
use crate::host_exits::{Loss, Sink};
use crate::model::{Described, Exited, Profile};
use crate::report::Times;

/// Exits on standard output.
pub(super) struct View {
    pub(super) output: Output,
    json: bool,
    times: Times,
    /// Of those whose names are shown with details.
    accounts: Accounts,
    buffered: u64,
    shown: u64,
}

impl View {
    pub(super) fn new(json: bool, has_details: bool) -> Self {
        let mut output = Output::new();
        let zone = TimeZone::system();
        let times = match output.is_terminal() {
            true => Times::of_day(zone),
            false => Times::in_full(zone),
        };
        if !json {
            let bold = Style::new().bold();
            let header = match has_details {
                true => deaths::header(&times),
                false => times.header(),
            };
            output.line(&format!("{bold}{header}{bold:#}"));
        }
        Self {
            output,
            json,
            times,
            accounts: Accounts::of_this_host(),
            buffered: 0,
            shown: 0,
        }
    }

    /// Exits that have been written.
    pub(super) fn shown(&self) -> u64 {
        self.shown
    }

    /// Writes what is buffered.
    pub(super) async fn flush(&mut self, interrupts: &mut Interrupts) -> Result<Flushed> {
        let flushed = self.output.flush(interrupts).await?;
        if flushed != Flushed::Closed {
            self.shown += std::mem::take(&mut self.buffered);
        }
        Ok(flushed)
    }

    /// The summary, as the last line of `--json`. It goes to standard error as well.
    pub(super) async fn finish(&mut self, summary: &Summary) {
        if !self.json {
            return;
        }
        let mut line = json!({
            "event": "summary",
            "time": clock::now(),
            "shown": summary.shown,
            "lost": summary.lost,
            "skipped": summary.skipped,
            "records": summary.records,
            "wakeups": summary.wakeups,
        });
        if let Some((exit, signal)) = summary.hooks {
            line["hook_runs"] = exit.runs.into();
            line["hook_run_time_ns"] = exit.run_time_ns.into();
            line["signal_hook_runs"] = signal.runs.into();
            line["signal_hook_run_time_ns"] = signal.run_time_ns.into();
        }
        self.output.last_line(&line.to_string()).await;
    }
}

impl Sink for View {
    fn exited(&mut self, exited: Exited, profile: Option<Profile>) -> Result<()> {
        self.buffered += 1;
        let profile = profile.as_ref();
        if self.json {
            let event = &exited.into();
            return self.output.json(&Described { event, profile });
        }
        self.output.line(&match profile {
            None => exited.line(&self.times),
            Some(profile) => {
                let (time, exit) = (Some(exited.time), &exited.exit);
                deaths::line(exit, profile, time, &self.times, &self.accounts)
            }
        });
        Ok(())
    }

    fn lost(&mut self, loss: Loss) {
        let (count, at_most, text) = match loss {
            Loss::NoRoom(count) => (
                count,
                false,
                format!("{count} exits lost: the ring was full"),
            ),
            Loss::Skipped(count) => (
                count,
                true,
                format!("at most {count} exits lost: the kernel has skipped the exit programs"),
            ),
        };
        if self.json {
            let line = json!({
                "event": "events_lost",
                "time": clock::now(),
                "count": count,
                "at_most": at_most,
            });
            self.output.verbatim(&line.to_string());
        } else {
            let red = AnsiColor::Red.on_default();
            self.output.line(&format!("{red}{text}{red:#}"));
        }
    }

    fn is_full(&self) -> bool {
        self.output.is_full()
    }

    fn make_room(&mut self) {
        self.output.make_room();
    }
}

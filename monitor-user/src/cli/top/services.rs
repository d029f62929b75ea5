//! The services: a line each, and the selected one in more words.

use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;

use super::canvas::Canvas;
use super::history::{History, MINUTES};
use super::model::AgentState;
use super::view::View;
use crate::cli::status::{note, state_style};
use crate::control::ServiceStatus;
use crate::model::Cause;
use crate::report::{Age, cause_style};
use crate::text;

impl View<'_> {
    pub(super) fn services(&self, canvas: &mut Canvas<'_>, rows: u16) {
        let services = self.model.services();
        if self.model.services.is_some() && services.is_empty() {
            canvas.put(2, 2, u16::MAX, "no services are configured", Style::new());
            return;
        }
        let columns = Columns::new(canvas.buffer.area.width, services);
        columns.header(canvas);
        let bars: Vec<_> = services
            .iter()
            .map(|status| self.bars(status, &columns))
            .collect();
        // One scale for all, on which a single restart is low.
        let most = bars.iter().flatten().copied().max().unwrap_or(0).max(8);
        let selected = self.model.selected();
        let rows = usize::from(rows);
        let first = (selected + 1).saturating_sub(rows);
        let shown = services.iter().zip(&bars).enumerate();
        for ((index, (status, bars)), y) in shown.skip(first).take(rows).zip(2..) {
            let bars: String = bars.iter().map(|&bar| self.look.bar(bar, most)).collect();
            let is_selected = index == selected;
            self.service(canvas, &columns, y, status, &bars, is_selected);
        }
    }

    fn bars(&self, status: &ServiceStatus, columns: &Columns) -> Vec<u64> {
        let parts = usize::from(columns.hour).min(MINUTES);
        match self.model.histories.get(&status.service) {
            Some(history) => history.bars(parts, self.now.wall),
            None => vec![0; parts],
        }
    }

    fn service(
        &self,
        canvas: &mut Canvas<'_>,
        columns: &Columns,
        y: u16,
        status: &ServiceStatus,
        bars: &str,
        is_selected: bool,
    ) {
        let is_known = self.model.agent == AgentState::Here;
        let plain = if is_known {
            Style::new()
        } else {
            Style::new().dimmed()
        };
        let or_plain = |style: Style| if is_known { style } else { plain };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        if is_selected {
            canvas.put(0, y, 1, ">", Style::new().bold());
        }
        let name = if is_selected { plain.bold() } else { plain };
        let exit = status.last_exit.as_ref();
        let pid = or_dash(status.pid.map(|pid| pid.to_string()));
        let uptime = status.uptime_ns.filter(|_| is_known);
        let uptime = uptime.map(|ns| whole(Duration::from_nanos(ns) + self.since_told()));
        canvas.put(2, y, columns.service, &status.service, name);
        let state = or_plain(state_style(status.state));
        canvas.put(columns.state_at(), y, 8, status.state.as_str(), state);
        canvas.right(columns.pid_at(), y, 7, &pid, plain);
        canvas.right(columns.uptime_at(), y, 7, &or_dash(uptime), plain);
        canvas.right(
            columns.restarts_at(),
            y,
            8,
            &status.restarts.to_string(),
            plain,
        );
        canvas.put(columns.hour_at(), y, columns.hour, bars, plain);
        let style = exit.map_or(plain, |cause| or_plain(cause_style(cause)));
        let exit = or_dash(exit.map(|cause| self.exit_within(cause, status, columns.exit)));
        canvas.put(columns.exit_at(), y, columns.exit, &exit, style);
    }

    /// The last exit in as many words as there is room for.
    fn exit_within(&self, cause: &Cause, status: &ServiceStatus, room: u16) -> String {
        let room = usize::from(room);
        let mut words = cause.to_string();
        if let Some(time) = self.last_exit_time(status) {
            let longer = format!("{words}, {} ago", whole(self.ago(time)));
            if text::columns(&longer) <= room {
                return longer;
            }
        }
        if text::columns(&words) > room {
            words = match cause {
                Cause::Exited { code } => format!("exit {code}"),
                Cause::Signaled { signal, .. } => signal.to_string(),
                Cause::OomKilled(_) => "no memory".to_owned(),
                Cause::Unknown => "unknown".to_owned(),
            };
        }
        words
    }

    /// The selected service in more words than its line has room for.
    pub(super) fn about(&self) -> String {
        let Some(status) = self.model.services().get(self.model.selected()) else {
            return String::new();
        };
        let mut status = status.clone();
        let since_told = u64::try_from(self.since_told().as_nanos()).unwrap_or(u64::MAX);
        status.next_start_in_ns = status
            .next_start_in_ns
            .map(|ns| ns.saturating_sub(since_told));
        let last_exit = || {
            let cause = status.last_exit.as_ref()?;
            Some(match self.last_exit_time(&status) {
                Some(time) => format!("last: {cause}, {} ago", whole(self.ago(time))),
                None => format!("last: {cause}"),
            })
        };
        match note(&status).or_else(last_exit) {
            Some(words) => format!("{}: {words}", status.service),
            None => String::new(),
        }
    }

    /// The agent may not know it: then it is what the journal tells.
    fn last_exit_time(&self, status: &ServiceStatus) -> Option<Timestamp> {
        let history = self.model.histories.get(&status.service);
        status
            .last_exit_time
            .or_else(|| history.and_then(History::last_death))
    }

    /// How long ago the statuses were told.
    fn since_told(&self) -> Duration {
        self.now.since_boot.saturating_sub(self.model.told_at)
    }

    /// A clock that was set back makes it now, not later.
    fn ago(&self, time: Timestamp) -> Duration {
        Duration::try_from(self.now.wall.duration_since(time)).unwrap_or_default()
    }
}

/// A length of time that is shown growing: in whole seconds.
fn whole(duration: Duration) -> String {
    match duration.as_secs() {
        secs @ 0..60 => format!("{secs}s"),
        secs => Age(Duration::from_secs(secs)).to_string(),
    }
}

/// Where the columns of the services are; the last one takes what the others leave.
struct Columns {
    service: u16,
    hour: u16,
    exit: u16,
}

impl Columns {
    fn new(width: u16, services: &[ServiceStatus]) -> Self {
        let longest = services.iter().map(|status| status.service.len()).max();
        let longest = u16::try_from(longest.unwrap_or(0)).unwrap_or(u16::MAX);
        let (most, hour) = match width {
            0..100 => (12, 20),
            100..160 => (24, 20),
            _ => (40, 60),
        };
        let mut columns = Self {
            service: longest.clamp(7, most),
            hour,
            exit: 0,
        };
        columns.exit = width.saturating_sub(columns.exit_at());
        columns
    }

    fn state_at(&self) -> u16 {
        2 + self.service + 1
    }

    fn pid_at(&self) -> u16 {
        self.state_at() + 8 + 1
    }

    fn uptime_at(&self) -> u16 {
        self.pid_at() + 7 + 1
    }

    fn restarts_at(&self) -> u16 {
        self.uptime_at() + 7 + 1
    }

    fn hour_at(&self) -> u16 {
        self.restarts_at() + 8 + 1
    }

    fn exit_at(&self) -> u16 {
        self.hour_at() + self.hour + 1
    }

    fn header(&self, canvas: &mut Canvas<'_>) {
        let bold = Style::new().bold();
        canvas.put(2, 1, self.service, "SERVICE", bold);
        canvas.put(self.state_at(), 1, 8, "STATE", bold);
        canvas.right(self.pid_at(), 1, 7, "PID", bold);
        canvas.right(self.uptime_at(), 1, 7, "UPTIME", bold);
        canvas.right(self.restarts_at(), 1, 8, "RESTARTS", bold);
        canvas.put(self.hour_at(), 1, self.hour, "IN THE LAST HOUR", bold);
        canvas.put(self.exit_at(), 1, self.exit, "LAST EXIT", bold);
    }
}

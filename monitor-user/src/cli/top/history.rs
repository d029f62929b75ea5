//! What the journal's past tells of one service: its restarts, minute by minute, and its last
//! deaths. Reads no clock.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::journal::JournalLine;
use crate::model::What;
use crate::report::happening;

/// How far back the restarts are counted.
pub(super) const MINUTES: usize = 60;

/// How many deaths are kept.
const DEATHS: usize = 5;

/// The past of one service.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Restarts by minute since the epoch.
    restarts: BTreeMap<i64, u64>,
    /// The last ones, oldest first.
    deaths: VecDeque<JournalLine>,
}

impl History {
    /// Takes an event of the service.
    pub(super) fn take(&mut self, line: &JournalLine) {
        match line.event.what {
            What::Started { restarts: 1.., .. } | What::Replaced { .. } => {
                let Some(time) = line.time() else { return };
                let minute = minute(time);
                *self.restarts.entry(minute).or_default() += 1;
                // What is older than an hour is never shown again.
                let first = minute - i64::try_from(MINUTES).unwrap_or(i64::MAX);
                self.restarts = self.restarts.split_off(&first);
            }
            What::Exited(_) => {
                if self.deaths.len() == DEATHS {
                    self.deaths.pop_front();
                }
                self.deaths.push_back(line.clone());
            }
            _ => {}
        }
    }

    /// When it died last.
    pub(super) fn last_death(&self) -> Option<Timestamp> {
        self.deaths.back()?.time()
    }

    /// Restarts in the last hour, in so many equal parts of it (a divisor of 60), oldest first.
    pub(super) fn bars(&self, parts: usize, now: Timestamp) -> Vec<u64> {
        let mut bars = vec![0; parts];
        for (then, count) in &self.restarts {
            let ago = usize::try_from(minute(now) - then).unwrap_or(usize::MAX);
            if ago < MINUTES {
                bars[(MINUTES - 1 - ago) * parts / MINUTES] += count;
            }
        }
        bars
    }

    /// The last deaths in words, the latest first.
    pub(super) fn lines_of_deaths(&self, zone: &TimeZone, now: Timestamp) -> Vec<String> {
        let today = now.to_zoned_datetime(zone.clone()).date();
        let line = |line: &JournalLine| {
            let time = line.time().map(|time| time.to_zoned_datetime(zone.clone()));
            let time = match time {
                None => "?".to_owned(),
                Some(time) if time.date() == today => time.strftime("%H:%M:%S%.3f").to_string(),
                Some(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            };
            let words = happening(&line.event);
            format!("{time}  {}", anstream::adapter::strip_str(&words))
        };
        self.deaths.iter().rev().map(line).collect()
    }
}

fn minute(time: Timestamp) -> i64 {
    time.as_second().div_euclid(60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn history(events: &[serde_json::Value]) -> History {
        let mut history = History::default();
        for event in events {
            history.take(&JournalLine::parse(event.to_string()).unwrap());
        }
        history
    }

    fn started(time: &str, restarts: u64) -> serde_json::Value {
        json!({"event": "started", "time": time, "pid": 1, "restarts": restarts})
    }

    #[test]
    fn restarts_are_counted_for_an_hour() {
        let history = history(&[
            started("2026-01-01T10:59:59Z", 1),
            started("2026-01-01T11:01:00Z", 2),
            started("2026-01-01T11:30:00Z", 0),
            started("2026-01-01T12:00:00Z", 3),
            started("2026-01-01T12:00:59Z", 4),
        ]);
        let at = |time: &str, parts| history.bars(parts, time.parse().unwrap());
        let bars = at("2026-01-01T12:00:59Z", 60);
        assert_eq!((bars[0], bars[59]), (1, 2));
        assert_eq!(bars.iter().sum::<u64>(), 3);
        let bars = at("2026-01-01T12:02:00Z", 20);
        assert_eq!((bars[0], bars[19], bars.iter().sum::<u64>()), (0, 2, 2));
        // A clock that was set back shows nothing of what is to come.
        assert_eq!(at("2026-01-01T09:00:00Z", 20), [0; 20]);
    }

    #[test]
    fn the_last_deaths_are_told_latest_first() {
        let exited = |second: u32| {
            json!({"event": "exited", "time": format!("2026-01-01T10:00:{second:02}Z"), "pid": second,
                "uptime_ns": 2_000_000_000_u64, "cause": {"kind": "exited", "code": 3, "signal": null,
                "core_dumped": false, "sender": null}})
        };
        let history = history(&(0..7).map(exited).collect::<Vec<_>>());
        let told = |now: &str| history.lines_of_deaths(&TimeZone::UTC, now.parse().unwrap());
        let lines = told("2026-01-01T11:00:00Z");
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0], "10:00:06.000  exited with 3 after 2.00s, pid 6");
        assert!(told("2026-01-02T11:00:00Z")[4].starts_with("2026-01-01 10:00:02  exited"));
    }
}

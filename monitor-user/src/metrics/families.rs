//! The numbers as metrics: names, helps and labels. Says nothing of where they come from.

use std::fmt::Error;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{self, DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Format;
use super::now::Now;
use super::totals::{By, Lost, Reason, Totals, Why};
use crate::clock::WallClock;
use crate::control::ServiceStatus;
use crate::model::State;

/// One answer.
#[derive(Debug)]
pub(super) struct Scrape {
    /// What could be read.
    pub(super) is_up: [(&'static str, bool); 4],
    pub(super) since: Timestamp,
    pub(super) totals: Totals,
    pub(super) now: Now,
}

/// All reasons, so that each counter is there before there is something to count.
const LOST: [Lost; 5] = [
    lost(By::Agent, Reason::RingFull),
    lost(By::Agent, Reason::Unwritten),
    lost(By::Agent, Reason::Removed),
    lost(By::Recorder, Reason::RingFull),
    lost(By::Recorder, Reason::Removed),
];

const fn lost(of: By, reason: Reason) -> Lost {
    Lost { of, reason }
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl Scrape {
    /// All of it as text.
    pub(super) fn text(self, format: Format) -> Result<String> {
        let mut registry = Registry::with_prefix("respawn");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        match format {
            Format::Openmetrics => encoding::text::encode(&mut text, &registry),
            Format::Prometheus => encoding::prometheus_text::encode(&mut text, &registry),
        }
        .context("cannot write the metrics")?;
        Ok(text)
    }

    fn sources(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "1 if that source could be read: the agent's socket, its journal, a recorder's \
                    files, and the file with the counters";
        let mut up = encoder.encode_descriptor("up", help, None, MetricType::Gauge)?;
        for (source, is_up) in self.is_up {
            gauge(&mut up, [("source", source)], u8::from(is_up).into())?;
        }
        let help = "Version of this program";
        let mut build = encoder.encode_descriptor("build", help, None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let help = "Unix time from which on the counters count";
        let unit = Unit::Seconds;
        let name = "counting_since";
        let mut since = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
        since.encode_gauge(&unix_seconds(self.since))
    }

    fn deaths(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Deaths of processes of the host that a recorder has kept";
        let mut deaths = encoder.encode_descriptor("deaths", help, None, MetricType::Counter)?;
        for (death, count) in &self.totals.deaths.0 {
            let labels = [
                ("unit", death.unit.as_str()),
                ("cause", &death.cause),
                ("signal", &death.signal),
                ("oom", &death.oom),
            ];
            counter(&mut deaths, labels, *count)?;
        }
        let help = "Events and deaths that have no line, or whose line was removed uncounted";
        let name = "events_lost";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for lost in LOST {
            let count = self.totals.lost.0.get(&lost).copied();
            let of = match lost.of {
                By::Agent => "agent",
                By::Recorder => "recorder",
            };
            let reason = match lost.reason {
                Reason::RingFull => "ring_full",
                Reason::Unwritten => "unwritten",
                Reason::Removed => "removed",
            };
            let labels = [("source", of), ("reason", reason)];
            counter(&mut family, labels, count.unwrap_or(0))?;
        }
        let help = "Deaths of units that a recorder has kept, and that journald did not take";
        let name = "journald_missed";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&self.totals.journald_missed, None)
    }

    fn restarts(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Starts of a service but its first, by whose doing the end before was";
        let name = "service_restarts";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (restart, count) in &self.totals.restarts.0 {
            let blame = match restart.blame {
                Why::Itself => "itself",
                Why::SomeoneElse => "someone_else",
                Why::Requested => "requested",
                Why::Unknown => "unknown",
            };
            let labels = [("service", restart.service.as_str()), ("blame", blame)];
            counter(&mut family, labels, *count)?;
        }
        let help =
            "From the exit of a service that nobody had asked the agent to stop, to its next start";
        let unit = Unit::Seconds;
        let name = "exit_to_start";
        let kind = MetricType::Histogram;
        let mut family = encoder.encode_descriptor(name, help, Some(&unit), kind)?;
        let took = &self.totals.exit_to_start;
        family.encode_histogram::<NoLabelSet>(took.sum(), took.count(), &took.buckets(), None)
    }

    fn services(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let services = self.now.services.as_deref().unwrap_or_default();
        let help = "1 for the state that a service is in, 0 for the others";
        let name = "service_state";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for status in services {
            for state in State::ALL {
                let labels = [
                    ("service", status.service.as_str()),
                    ("state", state.as_str()),
                ];
                gauge(&mut family, labels, u8::from(status.state == state).into())?;
            }
        }
        let help = "Unix time at which the instance that runs was started";
        let unit = Unit::Seconds;
        let name = "service_start_time";
        let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
        let clock = WallClock::read();
        for status in services {
            if let Some(started) = start_time(status, &clock) {
                gauge(&mut family, [("service", &status.service)], started)?;
            }
        }
        Ok(())
    }

    fn agents(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help =
            "Agents of this runtime directory: the one at work, and those that wait for its end";
        let name = "agent_role";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let main = u8::from(self.now.is_up());
        gauge(&mut family, [("role", "main")], main.into())?;
        if let Some(spares) = self.now.spares {
            let spares = u32::try_from(spares).unwrap_or(u32::MAX);
            gauge(&mut family, [("role", "spare")], spares.into())?;
        }
        Ok(())
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.sources(&mut encoder)?;
        self.agents(&mut encoder)?;
        self.services(&mut encoder)?;
        self.restarts(&mut encoder)?;
        self.deaths(&mut encoder)
    }
}

fn gauge<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: Labels<'_, N>,
    value: f64,
) -> Result<(), Error> {
    family.encode_family(&labels)?.encode_gauge(&value)
}

fn counter<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: Labels<'_, N>,
    value: u64,
) -> Result<(), Error> {
    let mut family = family.encode_family(&labels)?;
    family.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

/// To whole hundredths, as the kernel tells it: so it stays the same from scrape to scrape.
fn start_time(status: &ServiceStatus, clock: &WallClock) -> Option<f64> {
    let since_boot = Duration::from_nanos(status.released_ns.or(status.start_time_ns)?);
    Some(unix_seconds(clock.at(since_boot)))
}

fn unix_seconds(time: Timestamp) -> f64 {
    (time.as_duration().as_secs_f64() * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_in_one_of_all_states() {
        let names = State::ALL.map(State::as_str);
        for word in [
            "running", "waiting", "starting", "stopping", "stopped", "done", "backoff", "failed",
        ] {
            let state: State = serde_json::from_value(word.into()).unwrap();
            assert!(State::ALL.contains(&state), "{word}");
        }
        let unknown = serde_json::from_value::<State>("another".into());
        let said = unknown.unwrap_err().to_string();
        for quoted in said.split('`').skip(3).step_by(2) {
            assert!(names.contains(&quoted), "{quoted} has no metric");
        }
    }
}

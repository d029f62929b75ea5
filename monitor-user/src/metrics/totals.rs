//! Counts of what has happened, with a bounded number of names. Pure: no file, no clock.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::deaths::Kept;
use crate::decode;
use crate::journal::JournalLine;
use crate::model::{Blame, Cause, Exit, OomScope, Request, What};

/// Units with a name of their own; deaths of further ones are counted together.
pub(super) const MOST_UNITS: usize = 100;

/// Services with a name of their own.
pub(super) const MOST_SERVICES: usize = 1000;

/// Services that are down and whose end is remembered.
const MOST_DOWN: usize = 10_000;

/// So many instances of a service beside the one that runs are remembered.
const MOST_ASIDE: usize = 4;

/// The name of all further ones. No unit and no service has it.
pub(super) const OTHER: &str = "(other)";

/// Upper bounds of the histogram's buckets, in seconds.
pub(super) const BOUNDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// All counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    /// By a recorder.
    pub(super) deaths: Counts<Death>,
    /// By the agent.
    pub(super) restarts: Counts<Restart>,
    pub(super) exit_to_start: Histogram,
    pub(super) lost: Counts<Lost>,
    /// Deaths of units that a recorder could not tell journald of.
    pub(super) journald_missed: u64,
    /// Of each service that is down: how that came.
    down: BTreeMap<String, Down>,
    /// Of each service that is replaced while it runs: the pids of those beside the one that runs.
    aside: BTreeMap<String, Vec<u32>>,
    /// The units are chosen: those with most deaths when counting began, and then as they came.
    is_settled: bool,
}

/// What deaths are counted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Death {
    pub(super) unit: String,
    pub(super) cause: String,
    pub(super) signal: String,
    pub(super) oom: String,
}

/// What restarts are counted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Restart {
    pub(super) service: String,
    pub(super) blame: Why,
}

/// Why there had to be a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Why {
    /// The service failed, or ended, by itself.
    Itself,
    /// Someone else ended it.
    SomeoneElse,
    /// Somebody asked the agent for it.
    Requested,
    /// The journal does not say.
    Unknown,
}

/// What has no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Lost {
    pub(super) of: By,
    pub(super) reason: Reason,
}

/// Who has lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    Agent,
    Recorder,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    /// The kernel's ring was full.
    RingFull,
    /// The line could not be written.
    Unwritten,
    /// The line's file was removed before it could be counted.
    Removed,
}

/// A service whose instance has ended, or is about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Down {
    why: Why,
    /// When it ended, if nobody had asked for it.
    at: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    boot_id: String,
    since_boot_ns: u64,
}

/// A number for each set of labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    from = "Vec<(K, u64)>",
    into = "Vec<(K, u64)>",
    bound = "K: Clone + Ord + Serialize + for<'d> Deserialize<'d>"
)]
pub(super) struct Counts<K: Ord>(pub(super) BTreeMap<K, u64>);

impl<K: Ord> Default for Counts<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> From<Vec<(K, u64)>> for Counts<K> {
    fn from(counts: Vec<(K, u64)>) -> Self {
        Self(counts.into_iter().collect())
    }
}

impl<K: Ord> From<Counts<K>> for Vec<(K, u64)> {
    fn from(counts: Counts<K>) -> Self {
        counts.0.into_iter().collect()
    }
}

impl<K: Ord> Counts<K> {
    fn add(&mut self, key: K, count: u64) {
        let sum = self.0.entry(key).or_default();
        *sum = sum.saturating_add(count);
    }
}

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Histogram {
    /// In nanoseconds.
    sum_ns: u64,
    /// One for each of [`BOUNDS`], and one for what is longer.
    counts: [u64; BOUNDS.len() + 1],
}

impl Histogram {
    fn observe(&mut self, took_ns: u64) {
        self.sum_ns = self.sum_ns.saturating_add(took_ns);
        let seconds = seconds(took_ns);
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        self.counts[bucket.unwrap_or(BOUNDS.len())] += 1;
    }

    pub(super) fn sum(&self) -> f64 {
        seconds(self.sum_ns)
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bucket's upper bound, and how many are in it and in none before it.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.counts).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "what is shown has fewer digits")]
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Totals {
    /// Counts from zero on; who is down is known still.
    pub(super) fn clear(&mut self) {
        *self = Self {
            down: std::mem::take(&mut self.down),
            aside: std::mem::take(&mut self.aside),
            is_settled: true,
            ..Self::default()
        };
    }

    /// So many lines before the next one are gone.
    pub(super) fn missed(&mut self, of: By, count: u64) {
        self.lose(of, Reason::Removed, count);
    }

    fn lose(&mut self, of: By, reason: Reason, count: u64) {
        self.lost.add(Lost { of, reason }, count);
    }

    /// Counts a line of a recorder's.
    pub(super) fn death(&mut self, line: &JournalLine) {
        if let What::DeathsLost { count } = line.event.what {
            return self.lose(By::Recorder, Reason::RingFull, count);
        }
        if let What::JournaldMissed { count } = line.event.what {
            self.journald_missed = self.journald_missed.saturating_add(count);
            return;
        }
        let Some(kept) = Kept::of(line) else {
            return;
        };
        let cause = &kept.exit.cause;
        let oom = match cause {
            Cause::OomKilled(oom) => oom.scope.map_or("unknown", |scope| match scope {
                OomScope::Global => "global",
                OomScope::Cgroup => "cgroup",
            }),
            _ => "",
        };
        let unit = kept.profile.owner.unit.as_deref().map(general);
        self.add_death(Death {
            unit: unit.unwrap_or_default(),
            cause: cause.kind().to_owned(),
            signal: cause.signal().map_or_else(String::new, |it| it.to_string()),
            oom: oom.to_owned(),
        });
    }

    fn add_death(&mut self, mut death: Death) {
        if self.is_settled {
            let is_known = self.units().any(|unit| unit == death.unit);
            let is_full = || self.units().collect::<HashSet<_>>().len() >= MOST_UNITS;
            if !death.unit.is_empty() && !is_known && is_full() {
                OTHER.clone_into(&mut death.unit);
            }
        }
        self.deaths.add(death, 1);
    }

    /// Those that are counted by their name.
    fn units(&self) -> impl Iterator<Item = &str> {
        let units = self.deaths.0.keys().map(|death| death.unit.as_str());
        units.filter(|unit| !unit.is_empty() && *unit != OTHER)
    }

    /// All that was there at the begin is counted: of its units, those with most deaths keep their name.
    pub(super) fn settle(&mut self) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let mut sizes: HashMap<&str, u64> = HashMap::new();
        for (death, count) in &self.deaths.0 {
            *sizes.entry(&death.unit).or_default() += count;
        }
        sizes.remove("");
        let mut largest: Vec<(&str, u64)> = sizes.into_iter().collect();
        largest.sort_by_key(|(unit, size)| (std::cmp::Reverse(*size), *unit));
        let further = largest.split_off(MOST_UNITS.min(largest.len()));
        let further: HashSet<String> = further.iter().map(|(unit, _)| (*unit).to_owned()).collect();
        for (mut death, count) in std::mem::take(&mut self.deaths.0) {
            if further.contains(&death.unit) {
                OTHER.clone_into(&mut death.unit);
            }
            self.deaths.add(death, count);
        }
    }

    /// Counts a line of the journal.
    pub(super) fn event(&mut self, line: &JournalLine) {
        let service = line.service().map(str::to_owned);
        match &line.event.what {
            What::EventsLost { count } => self.lose(By::Agent, Reason::RingFull, *count),
            What::JournalGap { count } => self.lose(By::Agent, Reason::Unwritten, *count),
            What::Exited(exit) if self.is_aside(service.as_deref(), exit.pid) => {
                self.forget_aside(service.as_deref(), exit.pid);
            }
            What::Stopping { pid, .. } if self.is_aside(service.as_deref(), *pid) => {}
            What::NextStarted { pid, .. } => self.put_aside(service, *pid),
            What::Replaced {
                pid,
                former_pid,
                restarts,
                ..
            } => self.replaced(service, *pid, *former_pid, *restarts, line),
            What::Exited(exit) => self.exited(service, exit, line),
            What::Stopping { reason, .. } => self.stopping(service, reason.is_some()),
            What::Requested { command, .. } if *command != Request::Signal => {
                self.requested(service.as_ref());
            }
            What::Started { restarts, .. } => self.started(service, *restarts, line),
            _ => {}
        }
    }

    /// Whether that process is not the one that runs.
    fn is_aside(&self, service: Option<&str>, pid: u32) -> bool {
        let aside = service.and_then(|service| self.aside.get(service));
        aside.is_some_and(|pids| pids.contains(&pid))
    }

    fn put_aside(&mut self, service: Option<String>, pid: u32) {
        if let Some(service) = service
            && (self.aside.len() < MOST_DOWN || self.aside.contains_key(&service))
        {
            let pids = self.aside.entry(service).or_default();
            pids.push(pid);
            // The end of each is told, if its agent lives on.
            let surplus = pids.len().saturating_sub(MOST_ASIDE);
            pids.drain(..surplus);
        }
    }

    fn forget_aside(&mut self, service: Option<&str>, pid: u32) {
        let Some((service, pids)) =
            service.and_then(|service| Some((service, self.aside.get_mut(service)?)))
        else {
            return;
        };
        pids.retain(|other| *other != pid);
        if pids.is_empty() {
            self.aside.remove(service);
        }
    }

    /// Another instance is the service: somebody has asked for that, or the one before has ended.
    fn replaced(
        &mut self,
        service: Option<String>,
        pid: u32,
        former: u32,
        restarts: u64,
        line: &JournalLine,
    ) {
        self.forget_aside(service.as_deref(), pid);
        let was_down = service
            .as_ref()
            .is_some_and(|it| self.down.contains_key(it));
        if !was_down {
            self.put_aside(service.clone(), former);
            let (why, at) = (Why::Requested, None);
            self.goes_down(service.clone(), Down { why, at });
        }
        self.started(service, restarts, line);
    }

    /// `has_failed`: nobody asked for it, but it does not work.
    fn stopping(&mut self, service: Option<String>, has_failed: bool) {
        let why = match has_failed {
            true => Why::Itself,
            false => Why::Requested,
        };
        self.goes_down(service, Down { why, at: None });
    }

    /// A start of one that is down is by request from now on.
    fn requested(&mut self, service: Option<&String>) {
        if let Some(down) = service.and_then(|service| self.down.get_mut(service)) {
            *down = Down {
                why: Why::Requested,
                at: None,
            };
        }
    }

    fn exited(&mut self, service: Option<String>, exit: &Exit, line: &JournalLine) {
        let is_stopping = |service| self.down.get(service).map(|down| down.why);
        let stopping = service.as_ref().and_then(is_stopping);
        if stopping == Some(Why::Requested) {
            return;
        }
        let why = match &exit.cause {
            _ if stopping == Some(Why::Itself) => Why::Itself,
            Cause::Unknown => Why::Unknown,
            cause => match decode::blame(cause, exit.circumstances.last_signal.as_ref()) {
                Blame::Itself => Why::Itself,
                Blame::SomeoneElse => Why::SomeoneElse,
            },
        };
        let at = moment(line);
        self.goes_down(service, Down { why, at });
    }

    fn goes_down(&mut self, service: Option<String>, down: Down) {
        // One of which there is no room counts as unknown.
        if let Some(service) = service
            && (self.down.len() < MOST_DOWN || self.down.contains_key(&service))
        {
            self.down.insert(service, down);
        }
    }

    fn started(&mut self, service: Option<String>, restarts: u64, line: &JournalLine) {
        let Some(service) = service else {
            return;
        };
        let down = self.down.remove(&service);
        if restarts == 0 {
            return;
        }
        let blame = down.as_ref().map_or(Why::Unknown, |down| down.why);
        let ended = down.and_then(|down| down.at);
        if let (Some(ended), Some(started)) = (ended, moment(line))
            && ended.boot_id == started.boot_id
        {
            let took = started.since_boot_ns.saturating_sub(ended.since_boot_ns);
            self.exit_to_start.observe(took);
        }
        let service = self.name_of(service);
        self.restarts.add(Restart { service, blame }, 1);
    }

    /// The service's name, or that of all further ones.
    fn name_of(&self, service: String) -> String {
        let names = self.restarts.0.keys().map(|restart| &restart.service);
        let names: HashSet<&String> = names.collect();
        match names.contains(&service) || names.len() < MOST_SERVICES {
            true => service,
            false => OTHER.to_owned(),
        }
    }
}

fn moment(line: &JournalLine) -> Option<Moment> {
    let source = &line.event.stamp.as_ref()?.source;
    Some(Moment {
        boot_id: source.boot_id.clone()?,
        since_boot_ns: source.since_boot_ns?,
    })
}

/// A unit's name without what is another one each time: `docker-4f79….scope` is `docker-*.scope`,
/// `session-12.scope` is `session-*.scope`, and `sshd@3-10.0.0.1:22-10.0.0.2:4711.service` is
/// `sshd@*.service`.
fn general(unit: &str) -> String {
    let Some((name, kind)) = unit.rsplit_once('.') else {
        return unit.to_owned();
    };
    let begin = match name.split_once('@') {
        Some((template, instance)) => is_passing_instance(instance).then(|| format!("{template}@")),
        None => begin_of_passing(name).map(|begin| format!("{begin}-")),
    };
    begin.map_or_else(|| unit.to_owned(), |begin| format!("{begin}*.{kind}"))
}

/// Whether it is of one connection, or one core dump.
fn is_passing_instance(instance: &str) -> bool {
    let mut parts = instance.split('-');
    let are_numbers = parts.all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    instance.contains(':') || is_id(instance) || instance.contains('-') && are_numbers
}

/// What is before the part that is another one each time.
fn begin_of_passing(name: &str) -> Option<String> {
    let (first, rest) = name.split_once('-')?;
    if ["session", "run"].contains(&first) {
        return Some(first.to_owned());
    }
    let before = rest.split('-').position(is_id)?;
    let parts: Vec<&str> = name.split('-').take(before + 1).collect();
    Some(parts.join("-"))
}

/// Whether it is a container's ID, or a large number.
fn is_id(part: &str) -> bool {
    let is_hex = part.len() >= 12 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex || part.len() >= 5 && part.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn line(event: Value) -> JournalLine {
        JournalLine::parse(event.to_string()).unwrap()
    }

    fn event(totals: &mut Totals, at_ns: u64, service: &str, event: &str, more: &Value) {
        let mut value = json!({"seq": 1, "event": event, "service": service, "pid": 7,
            "start_time_ns": 1, "since_boot_ns": at_ns, "boot_id": "b"});
        for (key, more) in more.as_object().unwrap() {
            value[key] = more.clone();
        }
        totals.event(&line(value));
    }

    fn killed(own: bool) -> Value {
        json!({"cause": {"kind": "signaled", "signal": "SIGKILL", "core_dumped": false,
            "how": "kill", "sender": {"pid": 1, "start_time_ns": 1, "uid": 0, "comm": "x", "own": own}}})
    }

    fn started(restarts: u64) -> Value {
        json!({"restarts": restarts})
    }

    fn restarts(totals: &Totals) -> Vec<(&str, Why, u64)> {
        let counts = totals.restarts.0.iter();
        counts
            .map(|(key, count)| (key.service.as_str(), key.blame, *count))
            .collect()
    }

    #[test]
    fn restarts_are_counted_by_whose_doing_the_end_was() {
        let mut totals = Totals::default();
        let none = json!({});
        let asked = |command: &str| json!({"command": command});
        event(&mut totals, 1, "web", "started", &started(0));
        event(&mut totals, 2_000_000, "web", "exited", &killed(false));
        event(&mut totals, 5_000_000, "web", "started", &started(1));
        event(&mut totals, 6_000_000, "web", "exited", &killed(true));
        event(&mut totals, 1_006_000_000, "web", "started", &started(2));
        // Asked for while it runs: nothing of its next end is anybody's wish.
        event(&mut totals, 7, "web", "requested", &asked("start"));
        event(
            &mut totals,
            1,
            "web",
            "exited",
            &json!({"cause": {"kind": "exited", "code": 1, "core_dumped": false}}),
        );
        event(&mut totals, 301_000_000_001, "web", "started", &started(3));
        event(&mut totals, 8, "web", "requested", &asked("restart"));
        event(&mut totals, 8, "web", "stopping", &none);
        event(&mut totals, 9, "web", "exited", &killed(false));
        event(&mut totals, 9, "web", "started", &started(4));
        // By a signal that the agent was asked to send it is someone else's doing.
        event(&mut totals, 9, "web", "requested", &asked("signal"));
        event(&mut totals, 9, "web", "exited", &killed(false));
        event(&mut totals, 9, "web", "started", &started(5));
        // Given up, and started by hand.
        event(&mut totals, 9, "web", "exited", &killed(true));
        event(
            &mut totals,
            9,
            "web",
            "failed",
            &json!({"reason": "start limit"}),
        );
        event(&mut totals, 9, "web", "requested", &asked("start"));
        event(&mut totals, 9, "web", "started", &started(6));
        event(
            &mut totals,
            9,
            "web",
            "exited",
            &json!({"cause": {"kind": "unknown", "core_dumped": false}}),
        );
        event(&mut totals, 9, "web", "started", &started(7));
        event(&mut totals, 9, "db", "started", &started(1));
        let expected = [
            ("db", Why::Unknown, 1),
            ("web", Why::Itself, 2),
            ("web", Why::SomeoneElse, 2),
            ("web", Why::Requested, 2),
            ("web", Why::Unknown, 1),
        ];
        assert_eq!(restarts(&totals), expected);
        // 3 ms, 1 s, 301 s, and twice nothing.
        let took = &totals.exit_to_start;
        assert_eq!(took.count(), 5);
        assert!((took.sum() - 302.003).abs() < 1e-6, "{}", took.sum());
        let counted: Vec<(f64, u64)> = took.buckets().into_iter().filter(|it| it.1 > 0).collect();
        assert_eq!(
            counted,
            [(0.001, 2), (0.005, 1), (1.0, 1), (f64::INFINITY, 1)]
        );
    }

    #[test]
    fn a_replacement_is_a_restart_that_was_asked_for() {
        let mut totals = Totals::default();
        let of = |pid: u32| json!({"pid": pid});
        let replaced = |pid: u32, former: u32, restarts: u64| json!({"pid": pid, "former_pid": former, "restarts": restarts});
        let dead = |pid: u32| {
            let mut death = killed(false);
            death["pid"] = json!(pid);
            death
        };
        event(&mut totals, 1, "web", "started", &started(0));
        event(&mut totals, 2, "web", "next_started", &of(8));
        event(&mut totals, 3, "web", "replaced", &replaced(8, 7, 1));
        event(&mut totals, 3, "web", "stopping", &of(7));
        event(&mut totals, 4, "web", "exited", &dead(7));
        // One that fails is none, and the next end is whoever's it was.
        event(&mut totals, 5, "web", "next_started", &of(9));
        event(&mut totals, 6, "web", "exited", &dead(9));
        event(&mut totals, 7, "web", "exited", &dead(8));
        event(&mut totals, 8, "web", "started", &started(2));
        // Nor is it asked for if the old one ends first.
        event(&mut totals, 9, "web", "next_started", &of(10));
        event(&mut totals, 9, "web", "exited", &dead(7));
        event(&mut totals, 9, "web", "replaced", &replaced(10, 7, 3));
        let expected = [("web", Why::SomeoneElse, 2), ("web", Why::Requested, 1)];
        assert_eq!(restarts(&totals), expected);
        assert!(totals.aside.is_empty() && totals.down.is_empty());
    }

    #[test]
    fn another_boot_has_another_clock() {
        let mut totals = Totals::default();
        event(&mut totals, 5, "web", "exited", &killed(true));
        let other = json!({"restarts": 1, "boot_id": "another"});
        event(&mut totals, 9, "web", "started", &other);
        assert_eq!(totals.exit_to_start.count(), 0);
        assert_eq!(restarts(&totals), [("web", Why::Itself, 1)]);
    }

    fn death(unit: Option<&str>) -> JournalLine {
        let mut value = json!({"seq": 1, "event": "exited", "pid": 7, "unit": unit, "argv": ["secret"],
            "argv_cut": false, "ancestors": []});
        value["cause"] = killed(false)["cause"].clone();
        line(value)
    }

    fn units(totals: &Totals) -> Vec<(&str, u64)> {
        let counts = totals.deaths.0.iter();
        counts
            .map(|(death, count)| (death.unit.as_str(), *count))
            .collect()
    }

    #[test]
    fn the_units_with_most_deaths_have_names_and_keep_them() {
        let mut totals = Totals::default();
        let name = |number: usize| format!("unit{number:03}.service");
        for number in 0..MOST_UNITS + 20 {
            for _ in 0..=number {
                totals.death(&death(Some(&name(number))));
            }
        }
        totals.death(&death(None));
        totals.settle();
        let named = units(&totals);
        assert_eq!(named.len(), MOST_UNITS + 2);
        assert_eq!(named[0], ("", 1));
        assert_eq!(named[1], (OTHER, (1..=20).sum()));
        assert_eq!(named[2], ("unit020.service", 21));
        // However many they come to be.
        for _ in 0..1000 {
            totals.death(&death(Some("unit000.service")));
        }
        totals.death(&death(Some("unit020.service")));
        totals.settle();
        let named = units(&totals);
        assert_eq!(named.len(), MOST_UNITS + 2);
        assert_eq!(named[1], (OTHER, 1000 + (1..=20).sum::<u64>()));
        assert_eq!(named[2], ("unit020.service", 22));
        // Without a begin of that kind, those that come first.
        let mut totals = Totals::default();
        totals.clear();
        for number in 0..MOST_UNITS + 3 {
            totals.death(&death(Some(&name(number))));
        }
        assert_eq!(units(&totals)[0], (OTHER, 3));
        assert_eq!(units(&totals).len(), MOST_UNITS + 1);
    }

    #[test]
    fn deaths_are_counted_by_cause() {
        let mut totals = Totals::default();
        totals.death(&death(Some("a.service")));
        let oom = json!({"seq": 1, "event": "exited", "pid": 7, "unit": "a.service", "argv": null,
            "argv_cut": false, "ancestors": [],
            "cause": {"kind": "oom_killed", "core_dumped": false, "oom": {"scope": "cgroup"}}});
        totals.death(&line(oom));
        totals.death(&line(json!({"seq": 1, "event": "deaths_lost", "count": 3})));
        for count in [4, 5] {
            totals.death(&line(
                json!({"seq": 1, "event": "journald_missed", "count": count}),
            ));
        }
        assert_eq!(totals.journald_missed, 9);
        totals.missed(By::Recorder, 2);
        let keys: Vec<[&str; 4]> = totals
            .deaths
            .0
            .keys()
            .map(|it| [&*it.unit, &*it.cause, &*it.signal, &*it.oom])
            .collect();
        assert_eq!(
            keys,
            [
                ["a.service", "oom_killed", "SIGKILL", "cgroup"],
                ["a.service", "signaled", "SIGKILL", ""]
            ]
        );
        let lost: Vec<u64> = totals.lost.0.values().copied().collect();
        assert_eq!(lost, [3, 2]);
        let text = serde_json::to_string(&totals).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(serde_json::from_str::<Totals>(&text).unwrap(), totals);
    }

    #[test]
    fn a_name_has_nothing_that_is_another_one_each_time() {
        let id = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";
        for (unit, expected) in [
            ("nginx.service", "nginx.service"),
            ("postgresql-15.service", "postgresql-15.service"),
            ("redis@6379.service", "redis@6379.service"),
            ("user@1000.service", "user@1000.service"),
            ("postgresql@15-main.service", "postgresql@15-main.service"),
            ("session-12.scope", "session-*.scope"),
            ("session-c3.scope", "session-*.scope"),
            ("run-r4f797c539e6c745d.service", "run-*.service"),
            ("run-u7.scope", "run-*.scope"),
            (&format!("docker-{id}.scope"), "docker-*.scope"),
            (
                &format!("cri-containerd-{id}.scope"),
                "cri-containerd-*.scope",
            ),
            ("app-12345.scope", "app-*.scope"),
            ("sshd@3-10.0.0.1:22-10.0.0.2:4711.service", "sshd@*.service"),
            (
                "systemd-coredump@12-345-0.service",
                "systemd-coredump@*.service",
            ),
            (r"my\x2dapp.service", r"my\x2dapp.service"),
            ("nothing", "nothing"),
            ("", ""),
        ] {
            assert_eq!(general(unit), expected, "{unit}");
        }
    }
}

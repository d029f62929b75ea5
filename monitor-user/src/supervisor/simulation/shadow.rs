//! What one service must look like, from what was told, asked and published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Check;
use crate::model::*;

/// The last notice of a service, as far as it tells the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastNotice {
    Started,
    Exited,
    Stopping,
    Stopped,
    Backoff,
    Failed,
    Skipped,
}

/// `no_storm`: twenty ends and the first start are free, and within a second there is room for
/// the delays of 100, 200 and 400 ms.
const STARTS_IN_A_SECOND: usize = 20 + 1 + 3;

pub(super) struct Shadow {
    pub(super) spec: Arc<Spec>,
    /// In the last config.
    pub(super) is_listed: bool,
    pub(super) desired: Desired,
    /// Since when it has not been wanted, with the jumps of the clock up to then.
    pub(super) unwanted_since: Option<(Instant, Duration)>,
    /// The instance that lives by the journal.
    pub(super) live: Option<Instance>,
    pub(super) told: Option<LastNotice>,
    /// By the journal, those that are to replace that one or that it has replaced, and live.
    pub(super) beside: BTreeSet<Instance>,
    starts: u64,
    /// Starts that must stay within the limit: those since the last reason to forget them.
    window: Vec<Instant>,
    /// All starts within a second that nobody asked for.
    second: Vec<Instant>,
    /// What was last to be run.
    tried: Option<Exec>,
    /// The next start mends what someone else broke.
    pub(super) is_free: bool,
    /// Nobody saw the last end: it costs no delay but that of a storm.
    pub(super) is_unseen: bool,
    /// It was up long enough: the next delay is the first one again.
    pub(super) is_fresh: bool,
    /// Whether any policy since the last start allows it to be given up, to end with success.
    may_fail: bool,
    may_finish: bool,
    /// When each stop signal was first asked for, and the time from then is up.
    kill_not_before: BTreeMap<Instance, Instant>,
    /// Those that were stopped as they did not work.
    failing: BTreeSet<Instance>,
    /// The end of one of them has not cost its delay yet.
    owes_delay: bool,
}

impl Shadow {
    pub(super) fn new(spec: Arc<Spec>) -> Self {
        let mut shadow = Self {
            desired: initially(&spec),
            spec: Arc::clone(&spec),
            is_listed: true,
            unwanted_since: None,
            live: None,
            told: None,
            beside: BTreeSet::new(),
            starts: 0,
            window: Vec::new(),
            second: Vec::new(),
            tried: None,
            is_free: false,
            is_unseen: false,
            is_fresh: false,
            may_fail: false,
            may_finish: false,
            kill_not_before: BTreeMap::new(),
            failing: BTreeSet::new(),
            owes_delay: false,
        };
        shadow.take_spec(spec);
        shadow
    }

    /// A spec from a config; what was allowed since the last start stays allowed.
    pub(super) fn take_spec(&mut self, spec: Arc<Spec>) {
        if self.spec.exec != spec.exec {
            self.forget_starts();
        }
        self.allow(&spec.policy);
        self.spec = spec;
    }

    fn allow(&mut self, policy: &Policy) {
        self.may_fail |= policy.restart == RestartPolicy::No || policy.start_limit.is_some();
        let prevents = &policy.restart_prevent_exit_status;
        let is_on_signals = matches!(
            policy.restart,
            RestartPolicy::OnAbnormal | RestartPolicy::OnAbort
        );
        self.may_fail |= is_on_signals || !prevents.is_empty();
        // Its end may be unseen.
        self.may_fail |= policy.kind == ServiceType::Oneshot;
        self.may_finish |= policy.restart != RestartPolicy::Always || !prevents.is_empty();
    }

    /// The next agent goes on with it: a start is free only if it runs what the last one ran.
    pub(super) fn resume(&mut self) {
        self.is_free &= self
            .tried
            .as_ref()
            .is_none_or(|exec| *exec == self.spec.exec);
    }

    /// Delay and limit are reset.
    pub(super) fn forget_starts(&mut self) {
        self.window.clear();
        self.second.clear();
        self.is_free = false;
        self.owes_delay = false;
    }

    /// If it runs, it may be restarted for another service: then delay and limit are reset.
    pub(super) fn may_restart_with_another(&mut self) {
        if self.told == Some(LastNotice::Started) {
            self.forget_starts();
        }
    }

    pub(super) fn is_wanted(&self, is_going: bool) -> bool {
        self.is_listed && self.desired == Desired::Up && !is_going
    }

    /// `Spawn` came out.
    pub(super) fn spawning(&mut self, now: Instant) -> Check {
        self.may_fail = false;
        self.may_finish = false;
        self.is_fresh = false;
        self.is_unseen = false;
        // A file that cannot be used says nothing of what is run.
        if self.spec.unusable.is_none() {
            self.tried = Some(self.spec.exec.clone());
        }
        let last_second = |start: &Instant| now.duration_since(*start) < Duration::from_secs(1);
        self.second.retain(last_second);
        self.second.push(now);
        if self.second.len() > STARTS_IN_A_SECOND {
            return Err(format!("no_storm: {} starts", self.second.len()));
        }
        let policy = self.spec.policy.clone();
        self.allow(&policy);
        if std::mem::take(&mut self.owes_delay) && !policy.restart_delay.is_zero() {
            return Err("checks_count: started without the delay for its failure".to_owned());
        }
        if std::mem::take(&mut self.is_free) {
            return Ok(());
        }
        if let Some(limit) = policy.start_limit {
            self.window
                .retain(|start| now.duration_since(*start) < limit.interval);
            self.window.push(now);
            if self.window.len() > usize::try_from(limit.burst).unwrap() {
                return Err(format!("start_limit: one start too many within {limit:?}"));
            }
        }
        Ok(())
    }

    /// A stop signal came out, for an instance or for what is left of it.
    pub(super) fn stopping(&mut self, instance: Instance, now: Instant) {
        let time = now.checked_add(self.spec.policy.stop_timeout);
        self.kill_not_before
            .entry(instance)
            .or_insert(time.unwrap_or(now));
    }

    /// The delay and limit of whatever is stopped to be restarted are reset.
    fn stop_begins(&mut self, instance: Instance, now: Instant) {
        self.stopping(instance, now);
        self.forget_starts();
    }

    /// `checks_count`: its end is like one of its own, and no agent stops it for that twice.
    fn stops_as_it_fails(&mut self, instance: Instance, now: Instant) -> Check {
        if !self.failing.insert(instance) {
            return Err(format!("checks_count: {instance:?} is stopped twice"));
        }
        self.stopping(instance, now);
        self.owes_delay = true;
        Ok(())
    }

    /// The stop of an instance is of no account any more: the signal was not sent.
    pub(super) fn forget_stop(&mut self, instance: Instance) {
        self.kill_not_before.remove(&instance);
    }

    /// `Kill` came out.
    pub(super) fn killing(&self, instance: Instance, now: Instant) -> Check {
        match self.kill_not_before.get(&instance) {
            Some(time) if now >= *time => Ok(()),
            other => Err(format!(
                "stop_ends: killed at {now:?}, not before {other:?}"
            )),
        }
    }

    /// `journal_agrees`, first half: the notices make sense one after the other.
    #[expect(clippy::too_many_lines, reason = "a line a notice")]
    pub(super) fn read(&mut self, notice: &Notice, now: Instant) -> Check {
        let (told, fits) = match notice {
            Notice::Started {
                instance, restarts, ..
            } => {
                let fits = self.live.is_none() && *restarts == self.starts;
                self.starts += 1;
                self.live = Some(*instance);
                (LastNotice::Started, fits)
            }
            Notice::Adopted { instance, .. } => {
                // A start that the earlier agent had no time to tell.
                let fits = self.live.is_none_or(|live| live == *instance);
                if self.live.is_none() {
                    self.starts += 1;
                }
                // This agent tells of its stop, too, and goes on with it.
                self.failing.remove(instance);
                self.live = Some(*instance);
                (LastNotice::Started, fits)
            }
            Notice::Replaced {
                instance,
                former,
                restarts,
                ..
            } => {
                let was_beside = self.beside.remove(instance);
                let fits = was_beside && *restarts == self.starts;
                if self.live == Some(*former) {
                    self.beside.insert(*former);
                }
                self.starts += 1;
                let fits = fits && self.live.is_none_or(|live| live == *former);
                self.live = Some(*instance);
                (LastNotice::Started, fits)
            }
            Notice::NextStarted { instance, .. } => {
                self.beside.insert(*instance);
                return Ok(());
            }
            Notice::Exited { instance, .. } if self.beside.remove(instance) => return Ok(()),
            Notice::Stopping { instance, .. } if self.beside.contains(instance) => {
                self.stopping(*instance, now);
                return Ok(());
            }
            Notice::Exited { instance, .. } => {
                let fits = self.live == Some(*instance);
                self.live = None;
                (LastNotice::Exited, fits)
            }
            Notice::Stopping {
                instance, reason, ..
            } => {
                match reason {
                    None => self.stop_begins(*instance, now),
                    Some(_) => self.stops_as_it_fails(*instance, now)?,
                }
                (LastNotice::Stopping, self.live == Some(*instance))
            }
            Notice::Stopped { .. } | Notice::Done { .. } => {
                (LastNotice::Stopped, self.live.is_none())
            }
            Notice::Failed { .. } => (LastNotice::Failed, self.live.is_none() && self.may_fail),
            Notice::Skipped { .. } => (LastNotice::Skipped, self.live.is_none()),
            Notice::Backoff {
                delay,
                reason: BackoffReason::TooOften,
                ..
            } => {
                let range = Duration::from_millis(100)..=Duration::from_secs(30);
                (
                    LastNotice::Backoff,
                    self.live.is_none() && range.contains(delay),
                )
            }
            Notice::Backoff { delay, .. } => {
                let policy = &self.spec.policy;
                let longest = policy.restart_max_delay.max(policy.restart_delay);
                let longest = if self.is_fresh {
                    policy.restart_delay
                } else {
                    longest
                };
                let fits = (policy.restart_delay..=longest).contains(delay);
                (LastNotice::Backoff, self.live.is_none() && fits)
            }
            Notice::Ready { instance, .. } => {
                let wrong = || format!("journal_agrees: {instance:?} is ready and does not run");
                let runs = self.live == Some(*instance) && self.told != Some(LastNotice::Stopping);
                return runs.then_some(()).ok_or_else(wrong);
            }
            Notice::MainChanged {
                instance, former, ..
            } => {
                let wrong = || format!("journal_agrees: {former:?} does not run");
                let runs = self.live == Some(*former) && self.told == Some(LastNotice::Started);
                self.live = Some(*instance);
                return runs.then_some(()).ok_or_else(wrong);
            }
            // It changes nothing, and is told of one that runs.
            Notice::ChildExited { .. } => {
                let wrong = || "journal_agrees: a child of no living instance is told".to_owned();
                return self.live.map(drop).ok_or_else(wrong);
            }
            Notice::StepFailed { .. }
            | Notice::NotReplaced { .. }
            | Notice::WentToBackground { .. }
            | Notice::EventsLost { .. } => return Ok(()),
        };
        self.told = Some(told);
        self.owes_delay &= matches!(told, LastNotice::Stopping | LastNotice::Exited);
        let costs = match notice {
            Notice::Failed { reason, .. } => reason.starts_with("start limit"),
            Notice::Backoff {
                reason: BackoffReason::TooOften,
                ..
            } => false,
            _ => told == LastNotice::Backoff,
        };
        if costs && (self.is_free || self.is_unseen && told == LastNotice::Backoff) {
            return Err(format!("start_limit: {notice:?} after no failure"));
        }
        if fits {
            Ok(())
        } else {
            Err(format!("journal_agrees: {notice:?} does not follow"))
        }
    }

    /// `journal_agrees`, second half: the notices tell the state.
    pub(super) fn agree(&self, status: &Status<'_>) -> Check {
        let told = self.told;
        let agrees = match status.state {
            State::Running => told == Some(LastNotice::Started),
            // It may wait for others before the stop begins.
            State::Stopping if status.instance.is_some() => {
                told == Some(LastNotice::Stopping)
                    || told == Some(LastNotice::Started) && status.waits_for.is_some()
            }
            State::Backoff => told == Some(LastNotice::Backoff),
            State::Failed => told == Some(LastNotice::Failed),
            State::Skipped => told == Some(LastNotice::Skipped),
            // Added while the agent goes, it never was anything else.
            State::Stopped => matches!(told, Some(LastNotice::Stopped) | None),
            State::Starting if status.instance.is_some() => told == Some(LastNotice::Started),
            State::Done => told == Some(LastNotice::Stopped) && self.may_finish,
            State::Waiting | State::Starting | State::Stopping => self.live.is_none(),
        };
        if agrees && self.live == status.instance {
            Ok(())
        } else {
            Err(format!(
                "journal_agrees: {status:?}, but the journal says {told:?}, live {:?}",
                self.live
            ))
        }
    }

    /// `up_is_pursued`, where the world is not asked: it was ended by its policy.
    pub(super) fn may_rest(&self, status: &Status<'_>) -> bool {
        match status.state {
            State::Failed => self.may_fail,
            State::Stopped | State::Done => {
                let success = matches!(status.last_exit, Some(death) if is_success(death));
                self.may_finish && success
            }
            _ => true,
        }
    }
}

/// What is desired of a service that nobody has asked for.
pub(super) fn initially(spec: &Spec) -> Desired {
    match spec.relations.autostart {
        true => Desired::Up,
        false => Desired::Down,
    }
}

/// All specs of the simulation count 0 as success and nothing else.
fn is_success(death: &Death) -> bool {
    death.cause == Cause::Exited { code: 0 }
}

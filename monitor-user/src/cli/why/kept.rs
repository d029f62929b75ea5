//! Why something on the host died, by what a recorder has kept, in words.

use std::time::Duration;

use anstyle::Style;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::words::{self, Whereabouts, no_sender};
use crate::accounts::Accounts;
use crate::deaths::{self, FoundBy, Incident, Kept, KeptDeath};
use crate::model::{Cause, How, Profile, Sender};
use crate::os::proc;
use crate::report::{Age, cause_style, counted};
use crate::text::printable;

/// How many others are told with a death, before it and after it.
const OTHERS: usize = 5;

/// What is told of it.
impl Incident {
    /// The same keys as of a service, and by what it was found.
    pub(super) fn json(&self) -> Value {
        let kept = &self.main.kept;
        let last = kept.exit.circumstances.last_signal.as_ref();
        let asker = last.and_then(|last| last.sender.as_ref());
        let sender = kept.exit.cause.sender().or(asker);
        let now = sender.filter(|_| is_this_boot(&self.main));
        let (lives, command) = match now.and_then(words::whereabouts) {
            Some(Whereabouts::Lives(command)) => (Some(true), Some(command)),
            Some(Whereabouts::Ended) => (Some(false), None),
            None => (None, None),
        };
        let others: Vec<Value> = self.others.iter().map(|it| it.line.value()).collect();
        json!({
            "name": self.name,
            "found_by": word(self.found_by),
            "service": kept.profile.owner.service,
            "requested": null,
            "stopping": null,
            "child": null,
            "exited": self.main.line.value(),
            "sender_lives": lives,
            "sender_command": command,
            "then": [],
            "next_exit": null,
            "others": others,
        })
    }

    /// In words, a line each, with colours.
    pub(super) fn lines(&self, zone: &TimeZone, accounts: &Accounts) -> Vec<String> {
        let kept = &self.main.kept;
        let style = cause_style(&kept.exit.cause);
        let bold = Style::new().bold();
        let name = printable(&self.title());
        let what = printable(&kept.exit.cause.to_string());
        let mut lines = vec![format!("{bold}{name}{bold:#} {style}{what}{style:#}")];
        let mut say = |topic: &str, words: Vec<String>| {
            for (index, words) in words.iter().enumerate() {
                let topic = if index == 0 { topic } else { "" };
                lines.push(format!("  {topic:<8}{}", printable(words)));
            }
        };
        say("when", vec![self.when(zone)]);
        say("ran", ran(kept, accounts).into_iter().collect());
        say("in", place(&kept.profile).into_iter().collect());
        let parent = deaths::descent(&kept.profile.ancestors);
        say("parent", parent.into_iter().collect());
        say("sender", self.sender(accounts));
        say("asked", self.asked(accounts));
        say(
            "memory",
            words::memory(&kept.exit.cause).into_iter().collect(),
        );
        say(
            "used",
            kept.exit
                .circumstances
                .usage
                .iter()
                .map(words::used)
                .collect(),
        );
        say(
            "core",
            kept.exit
                .circumstances
                .core
                .iter()
                .map(words::core)
                .collect(),
        );
        let (before, after): (Vec<&KeptDeath>, Vec<&KeptDeath>) =
            self.others.iter().partition(|death| self.is_before(death));
        say("before", self.told_with(&before, "earlier"));
        say("then", self.told_with(&after, "later"));
        lines
    }

    fn title(&self) -> String {
        let owner = &self.main.kept.profile.owner;
        let unit = [&owner.user_unit, &owner.unit].into_iter().flatten();
        let comm = self.main.kept.exit.comm.as_deref().unwrap_or("a process");
        match self.found_by {
            FoundBy::Service => self.name.clone(),
            FoundBy::Unit => {
                let mut unit = unit.filter(|unit| deaths::is_unit(unit, |it| it == self.name));
                unit.next().cloned().unwrap_or_else(|| self.name.clone())
            }
            FoundBy::Container => deaths::within(owner).unwrap_or_else(|| self.name.clone()),
            FoundBy::Pod => format!("{comm} of pod {}", self.name),
            FoundBy::Pid | FoundBy::Process => match deaths::owner(owner) {
                Some(owner) => format!("{comm} of {owner}"),
                None => comm.to_owned(),
            },
        }
    }

    fn when(&self, zone: &TimeZone) -> String {
        let boot = match is_this_boot(&self.main) {
            true => "",
            false => ", in an earlier boot",
        };
        words::when(&self.main.line, &self.main.kept.exit, zone) + boot
    }

    fn sender(&self, accounts: &Accounts) -> Vec<String> {
        let Cause::Signaled { origin, .. } = &self.main.kept.exit.cause else {
            return Vec::new();
        };
        match (&origin.sender, origin.how) {
            (Some(sender), how) => self.sender_lines(sender, how, accounts),
            (None, how) => vec![match how.and_then(no_sender) {
                Some(words) => format!("none: {words}"),
                None => "unknown".to_owned(),
            }],
        }
    }

    /// What had asked it to end, if it then ended by itself.
    fn asked(&self, accounts: &Accounts) -> Vec<String> {
        let Some(last) = &self.main.kept.exit.circumstances.last_signal else {
            return Vec::new();
        };
        let before = Age(Duration::from_nanos(last.before_exit_ns));
        let asked = format!("to end by {} {before} before, ", last.signal);
        let Some(sender) = &last.sender else {
            let from = match last.how.and_then(no_sender) {
                Some(words) => format!("without a sender: {words}"),
                None => "from an unknown sender".to_owned(),
            };
            return vec![asked + &from];
        };
        let mut lines = self.sender_lines(sender, last.how, accounts);
        if let Some(first) = lines.first_mut() {
            *first = format!("{asked}from {first}");
        }
        lines
    }

    fn sender_lines(&self, sender: &Sender, how: Option<How>, accounts: &Accounts) -> Vec<String> {
        let is_this_boot = is_this_boot(&self.main);
        let who = words::of_kept_sender(sender, how, is_this_boot, accounts);
        let mut lines = vec![who];
        if sender.itself {
            return lines;
        }
        let profile = sender.profile();
        lines.extend(deaths::command_line(profile).map(|line| format!("it ran: {line}")));
        lines.extend(deaths::ancestry(sender).map(|from| format!("started by {from}")));
        lines.extend(place(profile).map(|place| format!("in {place}")));
        lines
    }

    fn is_before(&self, other: &KeptDeath) -> bool {
        other.kept.since_boot_ns < self.main.kept.since_boot_ns
    }

    /// The others, shortly: "nginx killed by SIGKILL from systemd (pid 1, uid 0), pid 8, 3.0ms later".
    fn told_with(&self, others: &[&KeptDeath], when: &str) -> Vec<String> {
        let of = |death: &KeptDeath| death.kept.since_boot_ns.unwrap_or_default();
        let words = |death: &&KeptDeath| {
            let apart = of(death).abs_diff(of(&self.main));
            format!(
                "{} {}, pid {}, {} {when}",
                death.kept.exit.comm.as_deref().unwrap_or("?"),
                death.kept.exit.cause,
                death.kept.exit.pid,
                Age(Duration::from_nanos(apart))
            )
        };
        let mut lines: Vec<String> = others.iter().take(OTHERS).map(words).collect();
        let left = others.len().saturating_sub(OTHERS);
        if left > 0 {
            let left = u64::try_from(left).unwrap_or(u64::MAX);
            lines.push(format!("and {} more", counted(left, "process")));
        }
        lines
    }
}

fn word(found_by: FoundBy) -> &'static str {
    match found_by {
        FoundBy::Service => "service",
        FoundBy::Unit => "unit",
        FoundBy::Container => "container",
        FoundBy::Pod => "pod",
        FoundBy::Pid => "pid",
        FoundBy::Process => "process",
    }
}

fn is_this_boot(death: &KeptDeath) -> bool {
    let boot_id = proc::boot_id().ok();
    boot_id.is_some() && death.kept.boot_id == boot_id
}

/// "nginx -g "daemon off;" (/usr/sbin/nginx), uid 33 (www-data)"
fn ran(kept: &Kept, accounts: &Accounts) -> Option<String> {
    let exe = kept.profile.exe.as_deref();
    let program = match (deaths::command_line(&kept.profile), exe) {
        (Some(line), Some(exe)) => Some(format!("{line} ({exe})")),
        (line, exe) => line.or_else(|| exe.map(str::to_owned)),
    };
    let user = kept.exit.circumstances.uid;
    let user = user.map(|uid| format!("uid {uid}{}", words::user_name(uid, accounts)));
    match (program, user) {
        (Some(program), Some(user)) => Some(format!("{program}, {user}")),
        (program, user) => program.or(user),
    }
}

/// "/kubepods/burstable/podUID/ID; container ID, pod UID (burstable)"
fn place(profile: &Profile) -> Option<String> {
    let cgroup = profile.cgroup.as_ref()?;
    let owner = &profile.owner;
    let mut more = Vec::new();
    if let Some(service) = &owner.service {
        more.push(format!("service {service}"));
    }
    if let Some(id) = &owner.container {
        let runtime = owner.runtime.as_ref();
        let runtime = runtime.map_or_else(String::new, |runtime| format!("{runtime} "));
        more.push(format!("{runtime}container {id}"));
    }
    if let Some(pod) = &owner.pod {
        let qos = owner.qos.as_ref();
        let qos = qos.map_or_else(String::new, |qos| format!(" ({qos})"));
        more.push(format!("pod {pod}{qos}"));
    }
    Some(match more.is_empty() {
        true => cgroup.clone(),
        false => format!("{cgroup}; {}", more.join(", ")),
    })
}

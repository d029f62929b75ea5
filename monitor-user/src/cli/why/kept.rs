//! Why something on the host died, by what a recorder has kept.
//!
//! A death may be found by several names: of its unit, its container, its process. Of a unit or a
//! container, whoever kills the main process soon has the init system kill the rest; so the others that
//! die about the same time are told with the process that is older than they are.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anstyle::Style;
use anyhow::Result;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::words::{self, Whereabouts, no_sender};
use crate::accounts::Accounts;
use crate::deaths::{self, Kept};
use crate::journal::{Line, Reader};
use crate::model::{Cause, How, Profile, Sender};
use crate::os::proc;
use crate::report::{Age, cause_style, counted};
use crate::text::printable;

/// The time between deaths that are told together.
const RELATED: Duration = Duration::from_secs(10);

/// How many deaths are looked at beyond those that are wanted, to find which are told together.
const ROOM: usize = 1024;

/// How many others are told with a death, before it and after it.
const OTHERS: usize = 5;

/// The kernel keeps so many bytes of a process's name.
const COMM_BYTES: usize = 15;

/// By what a name was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Service,
    Unit,
    Container,
    Pod,
    Pid,
    Process,
}

impl Kind {
    /// In the order in which they are preferred. A number may also be the beginning of an ID.
    fn preferred(name: &str) -> [Self; 6] {
        use Kind::{Container, Pid, Pod, Process, Service, Unit};
        match name.parse::<u32>() {
            Ok(_) => [Pid, Service, Unit, Container, Pod, Process],
            Err(_) => [Service, Unit, Container, Pod, Pid, Process],
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Unit => "unit",
            Self::Container => "container",
            Self::Pod => "pod",
            Self::Pid => "pid",
            Self::Process => "process",
        }
    }

    fn is_of(self, name: &str, kept: &Kept) -> bool {
        let owner = &kept.profile.owner;
        let is = |it: &Option<String>| it.as_deref() == Some(name);
        match self {
            Self::Service => is(&owner.service),
            Self::Unit => [&owner.unit, &owner.user_unit]
                .into_iter()
                .flatten()
                .any(|unit| deaths::is_unit(unit, |it| it == name)),
            Self::Container => {
                let id = owner.container.as_deref();
                id.is_some_and(|id| deaths::is_container(name, id))
            }
            Self::Pod => is(&owner.pod),
            Self::Pid => name.parse() == Ok(kept.exit.pid),
            Self::Process => is_process(name, kept),
        }
    }

    /// Whether several processes may be of one.
    fn is_of_many(self) -> bool {
        !matches!(self, Self::Pid | Self::Process)
    }
}

fn is_process(name: &str, kept: &Kept) -> bool {
    let comm = kept.exit.comm.as_deref().unwrap_or_default();
    let is_cut = name.len() > COMM_BYTES && name.get(..COMM_BYTES) == Some(comm);
    let exe = kept.profile.exe.as_deref().unwrap_or_default();
    comm == name || is_cut || exe == name || exe.rsplit('/').next() == Some(name)
}

/// A death, as it was kept.
#[derive(Debug, Clone)]
struct Death {
    /// Which line of the file it is.
    order: usize,
    line: Line,
    kept: Kept,
}

impl Death {
    fn of(order: usize, line: Line) -> Option<Self> {
        let kept = Kept::of(&line)?;
        Some(Self { order, line, kept })
    }

    fn is_this_boot(&self) -> bool {
        let boot_id = proc::boot_id().ok();
        boot_id.is_some() && self.kept.boot_id == boot_id
    }

    /// Whether that older process may have had this one as a child, and they died about the same time.
    fn belongs_to(&self, older: &Self) -> bool {
        let (it, older) = (&self.kept, &older.kept);
        let ends = it.since_boot_ns.zip(older.since_boot_ns);
        let starts = it.exit.start_time_ns.zip(older.exit.start_time_ns);
        let (Some((end, older_end)), Some((start, older_start))) = (ends, starts) else {
            return false;
        };
        let apart = Duration::from_nanos(end.abs_diff(older_end));
        it.boot_id == older.boot_id
            && it.profile.owner.container == older.profile.owner.container
            && apart <= RELATED
            && older_start <= start
            && start < older_end
    }

    /// Of two that were started in the same moment, the one with the lower pid is the older one.
    fn age(&self) -> (Option<u64>, u32) {
        (self.kept.exit.start_time_ns, self.kept.exit.pid)
    }
}

/// A death, and the others that are told with it.
#[derive(Debug)]
pub(super) struct Incident {
    kind: Kind,
    name: String,
    main: Death,
    /// In the order in which they died.
    others: Vec<Death>,
}

/// The last `count` incidents of what has that name, oldest first.
///
/// # Errors
/// No right to read the file.
pub(super) fn look_up(reader: &mut Reader, name: &str, count: usize) -> Result<Vec<Incident>> {
    let kinds = Kind::preferred(name);
    let mut found = kinds.map(|_| VecDeque::new());
    let mut order = 0;
    while let Some(line) = reader.next()? {
        order += 1;
        let Some(death) = Death::of(order, line).map(Rc::new) else {
            continue;
        };
        for (kind, deaths) in kinds.iter().zip(&mut found) {
            if !kind.is_of(name, &death.kept) {
                continue;
            }
            if deaths.len() >= count.saturating_add(ROOM) {
                deaths.pop_front();
            }
            deaths.push_back(Rc::clone(&death));
        }
    }
    let mut of_kinds = kinds.into_iter().zip(found);
    let Some((kind, deaths)) = of_kinds.find(|(_, deaths)| !deaths.is_empty()) else {
        return Ok(Vec::new());
    };
    drop(of_kinds);
    let deaths = deaths.into_iter().map(Rc::unwrap_or_clone);
    let mut incidents = join(kind, name, deaths.collect());
    incidents.drain(..incidents.len().saturating_sub(count));
    Ok(incidents)
}

/// Joins the deaths that are told together.
fn join(kind: Kind, name: &str, mut deaths: Vec<Death>) -> Vec<Incident> {
    deaths.sort_by_key(Death::age);
    let mut incidents: Vec<Incident> = Vec::new();
    for death in deaths {
        let older = incidents
            .iter_mut()
            .find(|incident| kind.is_of_many() && death.belongs_to(&incident.main));
        match older {
            Some(incident) => incident.others.push(death),
            None => incidents.push(Incident {
                kind,
                name: name.to_owned(),
                main: death,
                others: Vec::new(),
            }),
        }
    }
    for incident in &mut incidents {
        incident.others.sort_by_key(|death| death.order);
    }
    incidents.sort_by_key(|incident| incident.main.order);
    incidents
}

impl Incident {
    /// The same keys as of a service, and by what it was found.
    pub(super) fn json(&self) -> Value {
        let kept = &self.main.kept;
        let last = kept.exit.circumstances.last_signal.as_ref();
        let asker = last.and_then(|last| last.sender.as_ref());
        let sender = kept.exit.cause.sender().or(asker);
        let now = sender.filter(|_| self.main.is_this_boot());
        let (lives, command) = match now.and_then(words::whereabouts) {
            Some(Whereabouts::Lives(command)) => (Some(true), Some(command)),
            Some(Whereabouts::Ended) => (Some(false), None),
            None => (None, None),
        };
        let others: Vec<Value> = self.others.iter().map(|it| it.line.value()).collect();
        json!({
            "name": self.name,
            "found_by": self.kind.word(),
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
        let (before, after): (Vec<&Death>, Vec<&Death>) =
            self.others.iter().partition(|death| self.is_before(death));
        say("before", self.told_with(&before, "earlier"));
        say("then", self.told_with(&after, "later"));
        lines
    }

    fn title(&self) -> String {
        let owner = &self.main.kept.profile.owner;
        let unit = [&owner.user_unit, &owner.unit].into_iter().flatten();
        let comm = self.main.kept.exit.comm.as_deref().unwrap_or("a process");
        match self.kind {
            Kind::Service => self.name.clone(),
            Kind::Unit => {
                let mut unit = unit.filter(|unit| deaths::is_unit(unit, |it| it == self.name));
                unit.next().cloned().unwrap_or_else(|| self.name.clone())
            }
            Kind::Container => deaths::within(owner).unwrap_or_else(|| self.name.clone()),
            Kind::Pod => format!("{comm} of pod {}", self.name),
            Kind::Pid | Kind::Process => match deaths::owner(owner) {
                Some(owner) => format!("{comm} of {owner}"),
                None => comm.to_owned(),
            },
        }
    }

    fn when(&self, zone: &TimeZone) -> String {
        let boot = match self.main.is_this_boot() {
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
                Some(words) => format!("from nobody: {words}"),
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
        let is_this_boot = self.main.is_this_boot();
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

    fn is_before(&self, other: &Death) -> bool {
        other.kept.since_boot_ns < self.main.kept.since_boot_ns
    }

    /// The others, shortly: "nginx killed by SIGKILL from systemd (pid 1, uid 0), pid 8, 3.0ms later".
    fn told_with(&self, others: &[&Death], when: &str) -> Vec<String> {
        let of = |death: &Death| death.kept.since_boot_ns.unwrap_or_default();
        let words = |death: &&Death| {
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

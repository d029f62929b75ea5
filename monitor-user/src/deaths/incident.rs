//! The deaths that a recorder has kept of what has a name, joined to incidents.
//!
//! A death may be found by several names: of its unit, its container, its process. Of a unit or a
//! container, whoever kills the main process soon has the init system kill the rest; so the others that
//! die about the same time are told with the process that is older than they are.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;

use super::{Kept, is_container, is_unit};
use crate::journal::JournalLine;

/// The time between deaths that are told together.
const RELATED: Duration = Duration::from_secs(10);

/// How many deaths are looked at beyond those that are wanted, to find which are told together.
const ROOM: usize = 1024;

/// The kernel keeps so many bytes of a process's name.
const COMM_BYTES: usize = 15;

/// A death, and the others that are told with it.
#[derive(Debug)]
pub(crate) struct Incident {
    pub(crate) found_by: FoundBy,
    pub(crate) name: String,
    pub(crate) main: KeptDeath,
    /// In the order in which they died.
    pub(crate) others: Vec<KeptDeath>,
}

/// The last `count` incidents of what has that name, oldest first, from the lines that a recorder has written,
/// until there is none.
///
/// # Errors
/// Those of `next`.
pub(crate) fn look_up(
    name: &str,
    count: usize,
    mut next: impl FnMut() -> Result<Option<JournalLine>>,
) -> Result<Vec<Incident>> {
    let kinds = FoundBy::preferred(name);
    let mut found = kinds.map(|_| VecDeque::new());
    let mut order = 0;
    while let Some(line) = next()? {
        order += 1;
        let Some(death) = KeptDeath::of(order, line).map(Rc::new) else {
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
    let Some((found_by, deaths)) = of_kinds.find(|(_, deaths)| !deaths.is_empty()) else {
        return Ok(Vec::new());
    };
    drop(of_kinds);
    let deaths = deaths.into_iter().map(Rc::unwrap_or_clone);
    let mut incidents = join(found_by, name, deaths.collect());
    incidents.drain(..incidents.len().saturating_sub(count));
    Ok(incidents)
}

/// Joins the deaths that are told together.
fn join(found_by: FoundBy, name: &str, mut deaths: Vec<KeptDeath>) -> Vec<Incident> {
    deaths.sort_by_key(KeptDeath::age);
    let mut incidents: Vec<Incident> = Vec::new();
    for death in deaths {
        let older = incidents
            .iter_mut()
            .find(|incident| found_by.is_of_many() && death.belongs_to(&incident.main));
        match older {
            Some(incident) => incident.others.push(death),
            None => incidents.push(Incident {
                found_by,
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

/// By what a name was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoundBy {
    Service,
    Unit,
    Container,
    Pod,
    Pid,
    Process,
}

impl FoundBy {
    /// In the order in which they are preferred. A number may also be the beginning of an ID.
    fn preferred(name: &str) -> [Self; 6] {
        use FoundBy::{Container, Pid, Pod, Process, Service, Unit};
        match name.parse::<u32>() {
            Ok(_) => [Pid, Service, Unit, Container, Pod, Process],
            Err(_) => [Service, Unit, Container, Pod, Pid, Process],
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
                .any(|unit| is_unit(unit, |it| it == name)),
            Self::Container => {
                let id = owner.container.as_deref();
                id.is_some_and(|id| is_container(name, id))
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
pub(crate) struct KeptDeath {
    /// Which line of the file it is.
    order: usize,
    pub(crate) line: JournalLine,
    pub(crate) kept: Kept,
}

impl KeptDeath {
    fn of(order: usize, line: JournalLine) -> Option<Self> {
        let kept = Kept::of(&line)?;
        Some(Self { order, line, kept })
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

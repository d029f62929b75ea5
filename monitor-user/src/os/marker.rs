//! A variable in the environment of a service's main process that names this very process: by it an
//! agent finds one of which nothing else tells. Where forks or cgroups tell, it is not needed.
//!
//! ```text
//! RESPAWN_INSTANCE=<agent's place>.<attempt>.<pid>.<start time>.<service>
//! ```
//! A child inherits it, and is not taken for the service: it has another pid. Nor is what merely
//! says so of itself: the real user must be the service's, and who is that user may end the service
//! anyway. The pid is known only once the process is there, so it is filled in while the process
//! waits to be recorded.

use std::ffi::c_char;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use super::proc;
use crate::model::{Attempt, Instance};

const VARIABLE: &str = "RESPAWN_INSTANCE";

/// The variable of one service, as its processes will read it.
#[derive(Debug)]
pub(crate) struct Marker {
    place: u64,
    service: String,
    /// Ends in a NUL. Atomic, for a child in the same memory has its address.
    bytes: Box<[AtomicU8]>,
}

/// A process that is marked as a service's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marked {
    /// Whose it says it is.
    pub(crate) service: String,
    /// By which start.
    pub(crate) attempt: Attempt,
    /// Who it is.
    pub(crate) instance: Instance,
    /// Its real user ID.
    pub(crate) uid: u32,
}

impl Marker {
    /// `place` tells agents on one host apart; the name of a service has no NUL.
    pub(crate) fn new(place: u64, service: &str) -> Self {
        let nobody = Instance {
            pid: 0,
            start_time_ns: 0,
        };
        let text = format!("{VARIABLE}={}\0", value(place, service, Attempt(0), nobody));
        Self {
            place,
            service: service.to_owned(),
            bytes: text.bytes().map(AtomicU8::new).collect(),
        }
    }

    /// Has it name this process.
    pub(crate) fn name(&self, attempt: Attempt, instance: Instance) {
        let text = value(self.place, &self.service, attempt, instance);
        let places = self.bytes.iter().skip(VARIABLE.len() + 1);
        for (place, byte) in places.zip(text.bytes()) {
            place.store(byte, Ordering::Relaxed);
        }
    }

    /// For an environment that is used no longer than this value lives.
    pub(super) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

/// As long for one process as for another.
fn value(place: u64, service: &str, attempt: Attempt, instance: Instance) -> String {
    let Instance { pid, start_time_ns } = instance;
    let attempt = attempt.0;
    format!("{place:016x}.{attempt:016x}.{pid:08x}.{start_time_ns:016x}.{service}")
}

/// The living processes that an agent of this place has marked, and that still are what it made
/// of them: leaders of sessions of their own.
///
/// # Errors
/// If `/proc` cannot be read.
pub(crate) fn find(place: u64) -> io::Result<Vec<Marked>> {
    let found = proc::pids()?
        .into_iter()
        .filter_map(|pid| marked(place, pid));
    Ok(found.collect())
}

/// Whether a process has the marker of an agent of this place, its own or an ancestor's.
pub(crate) fn has(place: u64, pid: u32) -> bool {
    let marker = format!("{VARIABLE}={place:016x}.");
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(marker.as_bytes()))
    })
}

fn marked(place: u64, pid: u32) -> Option<Marked> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    // There may be one more, that the service's own file sets.
    let (attempt, start_time_ns, service) =
        variables.find_map(|variable| parse(variable, place, pid))?;
    let uid = proc::real_uid(pid)?;
    let stat = proc::stat(pid).ok()?;
    let instance = Instance { pid, start_time_ns };
    let is_it = !stat.is_zombie()
        && stat.start_time_ns == start_time_ns
        && (stat.session, stat.group) == (pid, pid);
    is_it.then_some(Marked {
        service,
        attempt,
        instance,
        uid,
    })
}

/// Attempt, start time and service of a variable that names this process.
fn parse(variable: &[u8], place: u64, pid: u32) -> Option<(Attempt, u64, String)> {
    let text = std::str::from_utf8(variable).ok()?;
    let value = text.strip_prefix(VARIABLE)?.strip_prefix('=')?;
    let mut parts = value.splitn(5, '.');
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let (of, attempt, named, start_time_ns) = (number()?, number()?, number()?, number()?);
    let service = parts.next()?.to_owned();
    (of == place && named == u64::from(pid)).then_some((Attempt(attempt), start_time_ns, service))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn text(marker: &Marker) -> String {
        let bytes = marker.bytes.iter().map(|b| b.load(Ordering::Relaxed));
        let bytes: Vec<u8> = bytes.collect();
        let text = CStr::from_bytes_with_nul(&bytes).unwrap();
        text.to_str().unwrap().to_owned()
    }

    #[test]
    fn names_one_process_after_the_other() {
        let marker = Marker::new(7, "a.b");
        for (attempt, pid, start_time_ns) in [(1, 2, 3), (u64::MAX, u32::MAX, u64::MAX), (0, 1, 0)]
        {
            let instance = Instance { pid, start_time_ns };
            marker.name(Attempt(attempt), instance);
            let expected = (Attempt(attempt), start_time_ns, "a.b".to_owned());
            let text = text(&marker);
            assert_eq!(parse(text.as_bytes(), 7, pid), Some(expected));
            assert_eq!(parse(text.as_bytes(), 8, pid), None);
            assert_eq!(parse(text.as_bytes(), 7, 99), None);
        }
        assert_eq!(parse(b"RESPAWN_INSTANCE=7.1.2", 7, 2), None);
        assert_eq!(parse(b"RESPAWN_INSTANCES=", 7, 2), None);
    }
}

//! The `limits` table: resource limits by the names of `ulimit` and `limits.conf`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::model::Limit;

use super::cursor::{Item, nearest};
use super::{describe, value};

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    Bytes,
    Count,
    Seconds,
    Microseconds,
}

/// Names, the kernel's numbers (`include/uapi/asm-generic/resource.h`, which x86-64 and aarch64
/// share) and units.
const RESOURCES: &[(&str, u32, Unit)] = &[
    ("cpu", 0, Unit::Seconds),
    ("fsize", 1, Unit::Bytes),
    ("data", 2, Unit::Bytes),
    ("stack", 3, Unit::Bytes),
    ("core", 4, Unit::Bytes),
    ("rss", 5, Unit::Bytes),
    ("nproc", 6, Unit::Count),
    ("nofile", NOFILE, Unit::Count),
    ("memlock", 8, Unit::Bytes),
    ("as", 9, Unit::Bytes),
    ("locks", 10, Unit::Count),
    ("sigpending", 11, Unit::Count),
    ("msgqueue", 12, Unit::Bytes),
    ("nice", 13, Unit::Count),
    ("rtprio", 14, Unit::Count),
    ("rttime", 15, Unit::Microseconds),
];

const NOFILE: u32 = 7;

/// Reads the table; `None` only if it is no table.
pub(super) fn limits(item: &Item<'_>) -> Option<Vec<Limit>> {
    let table = item.table("a table such as { nofile = 65536 }")?;
    let names = RESOURCES.iter().map(|(name, ..)| *name);
    let mut limits = Vec::new();
    for (name, item) in table.items() {
        match RESOURCES.iter().find(|(known, ..)| *known == name) {
            Some((_, resource, unit)) => limits.extend(limit(&item, *resource, *unit)),
            None => match nearest(name, names.clone()) {
                Some(near) => item.problem_at_key(format!("unknown limit; did you mean {near}?")),
                None => {
                    let known: Vec<_> = names.clone().collect();
                    let known = known.join(", ");
                    item.problem_at_key(format!("unknown limit; expected one of {known}"));
                }
            },
        }
    }
    Some(limits)
}

/// One value for both, or `[soft, hard]`.
fn limit(item: &Item<'_>, resource: u32, unit: Unit) -> Option<Limit> {
    let (soft, hard) = match item.as_array().as_deref() {
        None => {
            let both = amount(item, unit)?;
            (both, both)
        }
        Some([soft, hard]) => {
            let (soft, hard) = (amount(soft, unit), amount(hard, unit));
            (soft?, hard?)
        }
        Some(_) => {
            item.problem("expected one value, or two as in [soft, hard]");
            return None;
        }
    };
    if resource == NOFILE && hard.is_none() {
        // setrlimit(2): EPERM above /proc/sys/fs/nr_open.
        item.problem("expected a number: the kernel has no unlimited nofile");
        return None;
    }
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        item.problem("expected a soft limit that is at most the hard one");
        return None;
    }
    Some(Limit {
        resource,
        soft,
        hard,
    })
}

/// The kernel's number, or `Some(None)` for "unlimited".
fn amount(item: &Item<'_>, unit: Unit) -> Option<Option<u64>> {
    if item.as_str() == Some("unlimited") {
        return Some(None);
    }
    let amount = match unit {
        Unit::Bytes => value::size(item)?,
        Unit::Count => item.integer("\"unlimited\" or an integer", 0..=i64::MAX)?,
        Unit::Seconds => {
            let duration = value::duration(item)?;
            if duration.subsec_nanos() != 0 {
                item.expected("whole seconds", None);
                return None;
            }
            duration.as_secs()
        }
        Unit::Microseconds => u64::try_from(value::duration(item)?.as_micros()).ok()?,
    };
    Some(Some(amount))
}

/// The table that comes to these limits.
pub(super) fn describe(limits: &[Limit]) -> Value {
    let known = limits.iter().filter_map(|limit| {
        let mut resources = RESOURCES.iter();
        let (name, _, unit) = resources.find(|(_, number, _)| *number == limit.resource)?;
        let (soft, hard) = (described(limit.soft, *unit), described(limit.hard, *unit));
        let value = match soft == hard {
            true => soft,
            false => json!([soft, hard]),
        };
        Some((*name, value))
    });
    describe::table(known)
}

fn described(amount: Option<u64>, unit: Unit) -> Value {
    match (amount, unit) {
        (None, _) => json!("unlimited"),
        (Some(amount), Unit::Bytes | Unit::Count) => json!(amount),
        (Some(seconds), Unit::Seconds) => describe::duration(Duration::from_secs(seconds)),
        (Some(micros), Unit::Microseconds) => describe::duration(Duration::from_micros(micros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_the_c_library() {
        let libc = [
            ("as", libc::RLIMIT_AS),
            ("core", libc::RLIMIT_CORE),
            ("cpu", libc::RLIMIT_CPU),
            ("data", libc::RLIMIT_DATA),
            ("fsize", libc::RLIMIT_FSIZE),
            ("locks", libc::RLIMIT_LOCKS),
            ("memlock", libc::RLIMIT_MEMLOCK),
            ("msgqueue", libc::RLIMIT_MSGQUEUE),
            ("nice", libc::RLIMIT_NICE),
            ("nofile", libc::RLIMIT_NOFILE),
            ("nproc", libc::RLIMIT_NPROC),
            ("rss", libc::RLIMIT_RSS),
            ("rtprio", libc::RLIMIT_RTPRIO),
            ("rttime", libc::RLIMIT_RTTIME),
            ("sigpending", libc::RLIMIT_SIGPENDING),
            ("stack", libc::RLIMIT_STACK),
        ];
        assert_eq!(libc.len(), RESOURCES.len());
        for (name, number) in libc {
            let ours = RESOURCES.iter().find(|(known, ..)| *known == name);
            assert_eq!(i64::from(ours.unwrap().1), i64::from(number), "{name}");
        }
    }
}

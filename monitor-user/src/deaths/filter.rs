//! Which deaths are wanted. Pure, so that a recorder's lines and what `watch` sees are chosen alike.

use glob::Pattern;

use crate::model::{Ancestor, Cause, Owner, Signal};

/// What is wanted. An empty list wants all; of several values in one list, one is enough. What is not
/// known of a death is not what is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Anything but exit 0.
    pub(crate) failed: bool,
    pub(crate) signals: Vec<Signal>,
    pub(crate) exit_codes: Vec<u8>,
    /// Real user IDs.
    pub(crate) uids: Vec<u32>,
    /// Of units, of the system's and of users'; one without a kind means the service too.
    pub(crate) units: Vec<Pattern>,
    /// An ID or name in full, or the first characters of an ID.
    pub(crate) containers: Vec<String>,
    /// Paths of cgroups, which are wanted with all below them.
    pub(crate) cgroups: Vec<String>,
    /// Of the path of the program, or of its last component if it has no `/`.
    pub(crate) exes: Vec<Pattern>,
    /// Of the process's name.
    pub(crate) names: Vec<Pattern>,
    pub(crate) pids: Vec<u32>,
    /// Processes that are wanted with their descendants, as far as the ancestors are known.
    pub(crate) trees: Vec<u32>,
}

/// What is known of one death.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) pid: u32,
    pub(crate) comm: Option<&'a str>,
    pub(crate) uid: Option<u32>,
    pub(crate) cause: &'a Cause,
    pub(crate) owner: &'a Owner,
    pub(crate) cgroup: Option<&'a str>,
    pub(crate) exe: Option<&'a str>,
    pub(crate) ancestors: &'a [Ancestor],
}

/// From so many characters on, the beginning of an ID is taken for it.
pub(crate) const SHORT_ID: usize = 4;

impl Filter {
    /// Whether everything is wanted.
    pub(crate) fn wants_all(&self) -> bool {
        let Self {
            failed,
            signals,
            exit_codes,
            uids,
            units,
            containers,
            cgroups,
            exes,
            names,
            pids,
            trees,
        } = self;
        let are_empty = signals.is_empty()
            && exit_codes.is_empty()
            && uids.is_empty()
            && units.is_empty()
            && containers.is_empty()
            && cgroups.is_empty();
        let others_are = exes.is_empty() && names.is_empty() && pids.is_empty();
        !failed && are_empty && others_are && trees.is_empty()
    }

    /// Whether that death is wanted.
    pub(crate) fn wants(&self, death: &Facts<'_>) -> bool {
        let by_cause = match death.cause {
            Cause::Exited { code } => {
                (!self.failed || *code != 0)
                    && self.signals.is_empty()
                    && is_one(&self.exit_codes, Some(code), PartialEq::eq)
            }
            cause => {
                self.exit_codes.is_empty()
                    && is_one(&self.signals, cause.signal().as_ref(), PartialEq::eq)
            }
        };
        by_cause && self.wants_process(death)
    }

    fn wants_process(&self, death: &Facts<'_>) -> bool {
        let owner = death.owner;
        is_one(&self.uids, death.uid.as_ref(), PartialEq::eq)
            && is_one(&self.pids, Some(&death.pid), PartialEq::eq)
            && is_one(&self.names, death.comm, Pattern::matches)
            && is_one(&self.exes, death.exe, is_exe)
            && is_one(&self.cgroups, death.cgroup, |path, it| is_below(path, it))
            && is_one(&self.containers, owner.container.as_deref(), |id, it| {
                is_container(id, it)
            })
            && is_one(&self.units, Some(owner), is_of_unit)
            && is_one(&self.trees, Some(death), |pid, death| {
                death.pid == *pid || death.ancestors.iter().any(|it| it.pid == *pid)
            })
    }
}

fn is_one<W, T: ?Sized>(wanted: &[W], it: Option<&T>, is_it: impl Fn(&W, &T) -> bool) -> bool {
    wanted.is_empty() || it.is_some_and(|it| wanted.iter().any(|wanted| is_it(wanted, it)))
}

fn is_of_unit(pattern: &Pattern, owner: &Owner) -> bool {
    let units = [&owner.unit, &owner.user_unit];
    units
        .into_iter()
        .flatten()
        .any(|unit| is_unit(unit, |name| pattern.matches(name)))
}

/// Whether a unit is meant by its name, or a service by its name without the kind.
pub(crate) fn is_unit(unit: &str, is_it: impl Fn(&str) -> bool) -> bool {
    is_it(unit) || unit.strip_suffix(".service").is_some_and(is_it)
}

/// Whether a container is meant: by its ID or name, or by the beginning of an ID.
pub(crate) fn is_container(wanted: &str, id: &str) -> bool {
    let is_id = id.len() >= 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    wanted == id || (is_id && wanted.len() >= SHORT_ID && id.starts_with(wanted))
}

fn is_below(path: &str, cgroup: &str) -> bool {
    let path = path.trim_end_matches('/');
    cgroup
        .strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_exe(pattern: &Pattern, exe: &str) -> bool {
    let name = exe.rsplit('/').next().unwrap_or(exe);
    pattern.matches(match pattern.as_str().contains('/') {
        true => exe,
        false => name,
    })
}

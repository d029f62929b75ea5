//! How a service stands to others: which ones come before it, and which ones it has started.
//!
//! Knows names alone. Whether a service of that name exists is the config's to check, what follows is
//! the supervisor's to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::instance::ServiceName;

/// What one service says of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Relations {
    /// Whether it starts with the agent, and not only when somebody or another service asks for it.
    pub(crate) autostart: bool,
    /// It starts after these, and stops before them.
    pub(crate) after: BTreeSet<ServiceName>,
    /// The same; it stops and restarts when somebody stops or restarts one of them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) part_of: BTreeSet<ServiceName>,
    /// The same; they are started for it, it waits until they are ready, and stops and restarts when
    /// somebody stops or restarts one of them.
    pub(crate) requires: BTreeSet<ServiceName>,
    /// The same; it also restarts when one of them ends by itself.
    pub(crate) binds: BTreeSet<ServiceName>,
    /// These are started for it, and it does not wait for them.
    pub(crate) wants: BTreeSet<ServiceName>,
}

/// What holds where a file says nothing.
impl Default for Relations {
    fn default() -> Self {
        Self {
            autostart: true,
            after: BTreeSet::new(),
            part_of: BTreeSet::new(),
            requires: BTreeSet::new(),
            binds: BTreeSet::new(),
            wants: BTreeSet::new(),
        }
    }
}

/// How a service is tied to one that comes before it; a stronger tie includes the weaker ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tie {
    After,
    PartOf,
    Requires,
    Binds,
}

impl fmt::Display for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::After => "after",
            Self::PartOf => "part_of",
            Self::Requires => "requires",
            Self::Binds => "binds",
        })
    }
}

/// The services that come before one, each with its strongest tie.
pub(crate) type Ties = BTreeMap<ServiceName, Tie>;

impl Relations {
    /// Whether it says nothing.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The services that come before this one.
    pub(crate) fn ties(&self) -> Ties {
        let of = |names: &BTreeSet<ServiceName>, tie| {
            let names = names.iter().cloned();
            names.map(move |name| (name, tie)).collect::<Vec<_>>()
        };
        let mut ties: Ties = of(&self.after, Tie::After).into_iter().collect();
        ties.extend(of(&self.part_of, Tie::PartOf));
        ties.extend(of(&self.requires, Tie::Requires));
        ties.extend(of(&self.binds, Tie::Binds));
        ties
    }

    /// The services that are started for this one.
    pub(crate) fn starts(&self) -> impl Iterator<Item = &ServiceName> {
        let starts = self.requires.iter().chain(&self.binds);
        starts.chain(&self.wants)
    }
}

/// One step of a cycle: the service, and its tie to that of the next step.
pub(crate) type Link = (ServiceName, Tie);

/// Cycles in the order of services: each of them, and no service in two. Without those services there
/// is no cycle left. Takes time in proportion to the number of ties.
pub(crate) fn cycles(ties: &BTreeMap<ServiceName, Ties>) -> Vec<Vec<Link>> {
    let mut found = Vec::new();
    let mut marks: BTreeMap<&ServiceName, Mark> = BTreeMap::new();
    for root in ties.keys() {
        let mut path: Vec<Visit<'_>> = Vec::new();
        let mut next = Some(root);
        loop {
            if let Some(name) = next.take() {
                match (marks.get(name), ties.get(name)) {
                    (Some(Mark::OnPath), _) => {
                        let start = path.iter().position(|visit| visit.name == name);
                        let cycle = path.split_off(start.unwrap_or(path.len()));
                        for visit in &cycle {
                            marks.insert(visit.name, Mark::Done);
                        }
                        found.push(cycle.iter().filter_map(Visit::link).collect());
                    }
                    (None, Some(of)) => {
                        marks.insert(name, Mark::OnPath);
                        let rest = of.iter();
                        path.push(Visit {
                            name,
                            rest,
                            tie: None,
                        });
                    }
                    // Seen to its end, or not there.
                    _ => {}
                }
            }
            let Some(visit) = path.last_mut() else {
                break;
            };
            if let Some((name, tie)) = visit.rest.next() {
                visit.tie = Some(*tie);
                next = Some(name);
            } else {
                marks.insert(visit.name, Mark::Done);
                path.pop();
            }
        }
    }
    found
}

/// How far the search for cycles has come with a service.
#[derive(Clone, Copy)]
enum Mark {
    OnPath,
    Done,
}

/// A service on the path of the search.
struct Visit<'a> {
    name: &'a ServiceName,
    rest: std::collections::btree_map::Iter<'a, ServiceName, Tie>,
    /// To the next one on the path.
    tie: Option<Tie>,
}

impl Visit<'_> {
    fn link(&self) -> Option<Link> {
        Some((self.name.clone(), self.tie?))
    }
}

/// A cycle in words: "a requires b, b after c, c requires a".
pub(crate) fn cycle_words(cycle: &[Link]) -> String {
    let next = cycle.iter().cycle().skip(1);
    let steps = cycle.iter().zip(next);
    let steps = steps.map(|((name, tie), (next, _))| format!("{name} {tie} {next}"));
    steps.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "a>b" is a tie of a to b.
    fn of(links: &str) -> BTreeMap<ServiceName, Ties> {
        let mut ties: BTreeMap<ServiceName, Ties> = BTreeMap::new();
        for link in links.split_whitespace() {
            let (from, to) = link.split_once('>').unwrap();
            ties.entry(to.into()).or_default();
            let from = ties.entry(from.into()).or_default();
            from.insert(to.into(), Tie::Requires);
        }
        ties
    }

    fn found(links: &str) -> Vec<String> {
        cycles(&of(links))
            .iter()
            .map(|cycle| cycle_words(cycle))
            .collect()
    }

    #[test]
    fn each_cycle_is_found_and_named() {
        assert_eq!(found("a>b b>c a>c d>a"), [""; 0]);
        assert_eq!(found("a>a"), ["a requires a"]);
        assert_eq!(
            found("x>a a>b b>c c>a c>d"),
            ["a requires b, b requires c, c requires a"]
        );
        assert_eq!(
            found("a>b b>a c>d d>c b>c"),
            ["a requires b, b requires a", "c requires d, d requires c"]
        );
    }

    #[test]
    fn without_the_services_of_cycles_there_is_no_cycle() {
        let mut seed: u64 = 7;
        let mut below = |end: u64| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (seed >> 33) % end
        };
        for _ in 0..5_000 {
            let mut links = String::new();
            for _ in 0..below(14) {
                links += &format!("{}>{} ", below(6), below(6));
            }
            let mut ties = of(&links);
            for cycle in cycles(&ties) {
                for ((name, tie), (next, _)) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
                    assert_eq!(of(&links)[name].get(next), Some(tie), "{links}");
                }
                ties.retain(|name, _| !cycle.iter().any(|(of, _)| of == name));
            }
            assert_eq!(cycles(&ties), Vec::<Vec<Link>>::new(), "{links}");
        }
    }

    #[test]
    fn the_strongest_tie_counts() {
        let both = BTreeSet::from(["db".into()]);
        let relations = Relations {
            after: both.clone(),
            requires: both,
            ..Relations::default()
        };
        assert_eq!(relations.ties().get("db"), Some(&Tie::Requires));
    }

    #[test]
    fn a_long_chain_takes_no_deep_stack_and_little_time() {
        let name = |number: u32| ServiceName::from(format!("{number:06}"));
        let mut ties: BTreeMap<ServiceName, Ties> = (0..100_000)
            .map(|number| (name(number), Ties::from([(name(number + 1), Tie::After)])))
            .collect();
        assert_eq!(cycles(&ties).len(), 0);
        ties.insert(name(100_000), Ties::from([(name(0), Tie::After)]));
        assert_eq!(cycles(&ties).first().map(Vec::len), Some(100_001));
    }
}

//! Every state with every fact: what is done, and what `status` says after it.

use std::collections::BTreeMap;

use super::script::Bench;
use crate::model::State;

/// How to get into each state. `due` and its kin have the old instance still around.
const STATES: &[(&str, &[&str])] = &[
    ("stopped", &["config", "spawned 1", "stop a", "ends 1"]),
    (
        "finished",
        &[
            "set restart=on-failure",
            "config",
            "spawned 1",
            "ends 1 code=0",
        ],
    ),
    (
        "failed",
        &["set restart=no", "config", "spawned 1", "ends 1"],
    ),
    (
        "ending",
        &["config", "spawned 1", "stop a", "exit 1", "release 1"],
    ),
    (
        "ending failed",
        &[
            "set restart=no",
            "config",
            "spawned 1",
            "exit 1",
            "release 1",
        ],
    ),
    ("due", &["config", "spawned 1", "exit 1"]),
    ("due free", &["config", "spawned 1", "exit 1 SIGKILL else"]),
    ("due released", &["config", "spawned 1", "release 1"]),
    (
        "backoff",
        &["set restart_delay=1s", "config", "spawned 1", "ends 1"],
    ),
    (
        "backoff early",
        &["set restart_delay=1s", "config", "spawned 1", "exit 1"],
    ),
    ("storm", &["config", "storm"]),
    ("starting", &["config"]),
    (
        "starting asked",
        &["config", "spawned 1", "stop a", "ends 1", "start b"],
    ),
    ("starting unwanted", &["config", "stop a"]),
    ("starting outdated", &["config", "set exec=x", "config"]),
    ("running", &["config", "spawned 1"]),
    (
        "running in limit",
        &["set start_limit=1/10s", "config", "spawned 1"],
    ),
    (
        "running beside",
        &[
            "set overlap=true",
            "config",
            "spawned 1",
            "exit 1",
            "spawned 2",
        ],
    ),
    (
        "due beside",
        &[
            "set overlap=true",
            "config",
            "spawned 1",
            "exit 1",
            "spawned 2",
            "exit 2 else",
        ],
    ),
    ("stopping", &["config", "spawned 1", "stop a"]),
    (
        "stopping killed",
        &["config", "spawned 1", "stop a", "+10s"],
    ),
    ("restarting", &["config", "spawned 1", "restart a"]),
    ("removing", &["config", "spawned 1", "drop", "config"]),
    ("going", &["config", "spawned 1", "shutdown a"]),
    (
        "waiting",
        &[
            "add @db",
            "set ready=fd @db",
            "set requires=db",
            "config",
            "spawned 1 @db",
        ],
    ),
    ("unready", &["set ready=fd", "config", "spawned 1"]),
    (
        "ready",
        &[
            "set ready=fd",
            "set watchdog=5s",
            "config",
            "spawned 1",
            "ready 1",
        ],
    ),
    (
        "rereading",
        &[
            "set ready=fd",
            "config",
            "spawned 1",
            "ready 1",
            "reread 1s a",
            "reloading 1 2s",
        ],
    ),
    ("skipped", &["config", "skipped 1"]),
    ("starting steps", &["set before_start=x", "config"]),
    ("after_start", &["set after_start=x", "config", "spawned 1"]),
    (
        "before_stop",
        &["set before_stop=x", "config", "spawned 1", "stop a"],
    ),
    (
        "stop_command",
        &["set stop_command=x", "config", "spawned 1", "stop a"],
    ),
    (
        "after_stop",
        &[
            "set after_stop=x",
            "config",
            "spawned 1",
            "stop a",
            "ends 1",
        ],
    ),
    (
        "rolling",
        &[
            "set ready=fd",
            "set restart_mode=rolling",
            "config",
            "spawned 1",
            "ready 1",
            "restart a",
            "spawned 2",
        ],
    ),
    (
        "rolling asked",
        &[
            "set ready=fd",
            "set restart_mode=rolling",
            "config",
            "spawned 1",
            "ready 1",
            "restart a",
        ],
    ),
    (
        "oneshot",
        &["set type=oneshot", "set restart=no", "config", "spawned 1"],
    ),
    (
        "oneshot done",
        &[
            "set type=oneshot",
            "set restart=no",
            "config",
            "spawned 1",
            "ends 1 code=0",
        ],
    ),
];

/// What may happen in each. Requests are answered to `z`.
const FACTS: &[(&str, &[&str])] = &[
    ("start", &["start z"]),
    ("stop", &["stop z"]),
    ("restart", &["restart z"]),
    ("signal", &["signal SIGHUP z"]),
    ("shutdown", &["shutdown z"]),
    ("same config", &["config z"]),
    ("new exec", &["set exec=new", "config z"]),
    ("new policy", &["set stop_timeout=3s", "config z"]),
    ("removed", &["drop", "config z"]),
    ("added again", &["add", "set exec=again", "config z"]),
    ("spawned", &["spawned 1"]),
    ("spawned next", &["spawned 2"]),
    ("spawned never", &["spawned 77"]),
    ("described", &["described 1"]),
    ("nospawn", &["nospawn 1"]),
    ("nospawn next", &["nospawn 2"]),
    ("exit", &["exit 1"]),
    ("exit next", &["exit 2"]),
    ("exit unknown", &["exit 77 SIGKILL else"]),
    ("exit by other", &["exit 1 SIGKILL else"]),
    ("exit success", &["exit 1 code=0"]),
    ("exit unseen", &["exit 1 unknown"]),
    ("child", &["child 1"]),
    ("child next", &["child 2"]),
    ("release", &["release 1"]),
    ("release next", &["release 2"]),
    ("gone", &["gone 1"]),
    ("ends", &["ends 1"]),
    ("timeout early", &["+1ms"]),
    ("timeout", &["+1s"]),
    ("timeout late", &["+60s"]),
    ("lost", &["lost 3"]),
    ("remembered late", &["remember 5"]),
    ("ready", &["ready 1"]),
    ("ready next", &["ready 2"]),
    ("lives", &["lives 1"]),
    // `watchdog` is over, but for that.
    ("lives in time", &["+4s", "lives 1", "+4s"]),
    ("silent", &["+4s", "+4s"]),
    ("broken", &["broken 1 check: no answer"]),
    ("broken next", &["broken 2 check: no answer"]),
    ("skipped", &["skipped 1"]),
    ("skipped next", &["skipped 2"]),
    ("abandoned", &["abandoned 1"]),
    ("started up", &["did after_start 1"]),
    ("start failed", &["failed after_start 1"]),
    ("stops now", &["did before_stop 1"]),
    ("told to stop", &["did stop_command 1"]),
    ("not told", &["failed stop_command 1"]),
    ("tidied", &["did after_stop 1"]),
    ("not tidied", &["failed after_stop 1"]),
    // The stop's time is over, but for that.
    ("needs time", &["needs 1 60s", "+11s"]),
    ("new main", &["main 1 9"]),
    ("reloading", &["reloading 1 5s"]),
    ("reread", &["reread 1s z"]),
    ("says it ends", &["ending 1"]),
    ("stop sent", &["sent 1"]),
    ("remains", &["remains 1"]),
    ("met", &["met 1 refused"]),
    ("db is ready", &["ready 1 @db"]),
    ("db fails", &["ends 1 @db"]),
];

/// `state | fact | actions | state after`. Where a pair has no row, nothing happens.
const TABLE: &str = include_str!("table.txt");

#[test]
fn every_state_meets_every_fact_as_the_table_says() {
    let mut rows = BTreeMap::new();
    for line in TABLE.lines().filter(|line| !line.trim().is_empty()) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [state, fact, actions, after] = cells[..] else {
            panic!("not four cells: {line}");
        };
        let outcome = (actions.to_owned(), after.to_owned());
        assert!(
            rows.insert((state, fact), outcome).is_none(),
            "twice: {line}"
        );
    }
    let mut wrong = String::new();
    for (state, fact) in pairs() {
        let expected = rows
            .remove(&(state, fact))
            .unwrap_or_else(|| (String::new(), word(&bench_in(state))));
        let (actions, after) = meet(state, fact);
        if (&actions, &after) != (&expected.0, &expected.1) {
            wrong += &format!("{state:<17} | {fact:<13} | {actions:<70} | {after}\n");
        }
    }
    assert!(rows.is_empty(), "rows of no known pair: {rows:?}");
    assert!(wrong.is_empty(), "pairs that come out otherwise:\n{wrong}");
}

fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    let states = STATES.iter().map(|(state, _)| *state);
    states.flat_map(|state| FACTS.iter().map(move |(fact, _)| (state, *fact)))
}

/// A service in `state`.
fn bench_in(state: &str) -> Bench {
    let mut bench = Bench::new();
    let (_, way) = STATES.iter().find(|(name, _)| *name == state).unwrap();
    way.iter().for_each(|line| drop(bench.tell(line)));
    bench
}

/// The word that `status` has for it.
fn word(bench: &Bench) -> String {
    let status = bench.supervisor.status("s").map(|status| status.state);
    status.map_or("none", State::as_str).to_owned()
}

/// Tells a service in `state` about `fact`; returns the actions and the state after.
fn meet(state: &str, fact: &str) -> (String, String) {
    let mut bench = bench_in(state);
    if state == "removing" && fact.starts_with("new") {
        // It has no spec that could change: it comes back with a new one.
        bench.tell("add");
    }
    let (_, lines) = FACTS.iter().find(|(name, _)| *name == fact).unwrap();
    let told = lines.iter().map(|line| bench.tell(line)).last();
    (told.unwrap_or_default(), word(&bench))
}

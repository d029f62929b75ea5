//! When the next instance of a service is to be loaded already, by scripts.

use super::script::{Bench, check};
use crate::model::*;

fn wish(bench: &Bench) -> StandbyWish {
    bench.supervisor.status("s").unwrap().standby
}

#[test]
fn it_is_wanted_while_the_service_is_up_and_nothing_earlier_is_left() {
    use StandbyWish::{Kept, Unwanted, Wanted};
    for (script, expected) in [
        ("config -> spawn 1", Kept),
        ("config -> spawn 1 \n spawned 1 -> started 1", Wanted),
        (
            "config -> spawn 1 \n spawned 1 -> started 1 \n stop a -> stopping 1; SIGTERM 1",
            Unwanted,
        ),
    ] {
        let bench = check(&format!("set standby=true ->\n{script}"));
        assert_eq!(wish(&bench), expected, "{script}");
    }
    let bench = check("config -> spawn 1 \n spawned 1 -> started 1");
    assert_eq!(wish(&bench), Unwanted);
}

#[test]
fn it_waits_for_readiness() {
    let begun =
        "set standby=true ready=fd ->\nconfig -> spawn 1\nspawned 1 -> started 1; await-ready 1";
    assert_eq!(wish(&check(begun)), StandbyWish::Kept);
    let bench = check(&format!("{begun}\nready 1 -> is-ready 1"));
    assert_eq!(wish(&bench), StandbyWish::Wanted);
}

//! Services that are done when they have ended with success, by scripts.

use super::script::{Bench, check};
use crate::model::*;

fn state(bench: &Bench) -> State {
    bench.supervisor.status("s").unwrap().state
}

/// `s` is one, and `app` requires it.
const RUNNING: &str = "
    set type=oneshot restart=no ->
    add @app   ->
    set requires=s @app ->
    config     -> spawn 1
    spawned 1  -> started 1
";

#[test]
fn it_is_up_when_it_is_done_and_not_before() {
    let mut bench = check(&format!("{RUNNING}\n +60s ->"));
    assert_eq!(state(&bench), State::Starting);
    assert_eq!(bench.tell("exit 1 code=0"), "exited 1; spawn 2 @app");
    bench.tell("release 1 code=0");
    assert_eq!(bench.tell("gone 1"), "oneshot-done");
    assert_eq!(state(&bench), State::Done);
}

#[test]
fn a_start_returns_at_its_end() {
    check(
        "
        set type=oneshot restart=no autostart=false ->
        config     ->
        start a    -> spawn 1
        spawned 1  -> started 1
        start b    ->
        +60s       ->
        ends 1 code=0 -> exited 1; clear 1; oneshot-done; done a; done b
        start c    -> done c
        restart d  -> spawn 2
        spawned 2  -> started 2
        ends 2 code=3 -> exited 2; start failed d; clear 2; failed (exited with 3)
        start e    -> spawn 3
        ",
    );
}

#[test]
fn what_leaves_others_behind_has_not_gone_into_the_background() {
    check(&format!(
        "{RUNNING}
        exit 1 code=0 -> exited 1; spawn 2 @app
        release 1  -> clear 1
        remains 1  ->
        "
    ));
}

#[test]
fn a_failure_holds_up_nobody_and_is_tried_again_where_that_is_asked_for() {
    check(&format!(
        "{RUNNING}
        ends 1 code=1 -> exited 1; spawn 2 @app; clear 1; failed (exited with 1)
        "
    ));
    check(
        "
        set type=oneshot restart=on-failure restart_delay=1s ->
        add @app   ->
        set requires=s @app ->
        config     -> spawn 1
        spawned 1  -> started 1
        ends 1 code=1 -> exited 1; backoff 1s; clear 1
        +1s        -> spawn 2
        spawned 2  -> started 2
        exit 2 code=0 -> exited 2; spawn 3 @app
        ",
    );
}

#[test]
fn it_does_not_run_again_for_the_agents_death() {
    let bench = check(&format!(
        "{RUNNING}
        ends 1 code=0 -> exited 1; spawn 2 @app; clear 1; oneshot-done
        agent-dies ->
        remember   ->
        remember 2 @app ->
        config     -> adopted 2 @app
        restart a @app -> stopping 2 @app; SIGTERM 2 @app
        "
    ));
    assert_eq!(state(&bench), State::Done);
    // Nor if it ends while no agent lives, and nobody sees how.
    for policy in ["no", "on-failure"] {
        let bench = check(&format!(
            "
            set type=oneshot restart={policy} ->
            config     -> spawn 1
            spawned 1  -> started 1
            agent-dies ->
            remember 1 ->
            exit 1 code=0 ->
            config     -> exited 1
            "
        ));
        assert_eq!(state(&bench), State::Stopping);
        check(&format!(
            "
            set type=oneshot restart={policy} ->
            config     -> spawn 1
            spawned 1  -> started 1
            agent-dies ->
            remember 1 ->
            release 1 unknown ->
            gone 1     ->
            config     -> exited 1; clear 1; failed (gone, cause unknown)
            "
        ));
    }
}

#[test]
fn a_restart_of_one_restarts_those_that_require_it() {
    check(&format!(
        "{RUNNING}
        ends 1 code=0 -> exited 1; spawn 2 @app; clear 1; oneshot-done
        spawned 2 @app -> started 2 @app
        restart a  -> stopping 2 @app; SIGTERM 2 @app
        ends 2 @app -> exited 2 @app; await 2 @app; spawn 3
        spawned 3  -> started 3
        exit 3 code=0 -> exited 3; spawn 4 @app
        ends 3 code=0 -> clear 3; oneshot-done; done a
        "
    ));
}

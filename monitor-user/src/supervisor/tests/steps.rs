//! Commands around the run of a service, by scripts.

use super::script::{Bench, check};
use crate::model::*;

fn state(bench: &Bench) -> State {
    bench.supervisor.status("s").unwrap().state
}

fn phase(bench: &Bench) -> Option<Phase> {
    bench.supervisor.status("s").unwrap().phase
}

#[test]
fn a_start_that_a_condition_forbids_is_skipped_and_holds_up_nobody() {
    let bench = check(
        "
        set before_start=x ->
        add @app   ->
        set requires=s @app ->
        config     -> spawn 1
        start a    ->
        skipped 1  -> not-started a; skipped; spawn 2 @app
        skipped 1  ->
        start b    -> spawn 3
        skipped 3  -> not-started b; skipped
        stop c     -> stopped; done c; abandon 2 @app
        ",
    );
    assert_eq!(state(&bench), State::Stopped);
    let bench = check("set before_start=x ->\nconfig -> spawn 1\nskipped 1 -> skipped");
    assert_eq!(state(&bench), State::Skipped);
}

#[test]
fn a_stop_ends_what_precedes_a_start() {
    let bench = check(
        "
        set before_start=x ->
        config      -> spawn 1
        stop a      -> abandon 1
        abandoned 1 -> stopped; done a
        start b     -> spawn 2
        ",
    );
    assert_eq!(phase(&bench), Some(Phase::BeforeStart));
    // It may be too late for that, and a start may come in between.
    let bench = check(
        "
        set before_start=x ->
        config      -> spawn 1
        stop a      -> abandon 1
        spawned 1   -> started 1; stopping 1; SIGTERM 1
        ends 1      -> exited 1; await 1; stopped; done a
        start b     -> spawn 2
        stop c      -> overtaken b by stop; abandon 2
        start d     -> overtaken c by start
        abandoned 2 -> spawn 3
        spawned 3   -> started 3; done d
        ",
    );
    assert_eq!(state(&bench), State::Running);
}

#[test]
fn a_reload_with_other_commands_tries_again_what_has_failed() {
    let bench = check(
        "
        set before_start=x restart=no ->
        config      -> spawn 1
        nospawn 1   -> failed (no such file)
        set after_stop=x ->
        config a    -> spawn 2
        set after_start=x ->
        config b    -> abandon 2
        abandoned 2 -> spawn 3
        spawned 3   -> started 3; after_start 3
        did after_start 3 -> is-ready 3; reloaded a ~s!; reloaded b ~s!
        set before_stop=x ->
        config c    -> reloaded c ~s
        ",
    );
    assert_eq!(state(&bench), State::Running);
}

/// `s` has them all, and `app` requires it.
const RUNNING: &str = "
    set after_start=x before_stop=x stop_command=x after_stop=x stop_timeout=5s ->
    add @app   ->
    set requires=s @app ->
    config     -> spawn 1
    spawned 1  -> started 1; after_start 1
    did after_start 1 -> is-ready 1; spawn 2 @app
    spawned 2 @app -> started 2 @app
";

#[test]
fn a_service_is_up_after_its_after_start() {
    let bench = check(
        "
        set ready=fd after_start=x start_timeout=5s ->
        add @app   ->
        set requires=s @app ->
        config     -> spawn 1
        start a    ->
        spawned 1  -> started 1; await-ready 1
        ready 1    -> after_start 1
        ready 1    ->
        did after_start 1 -> is-ready 1; done a; spawn 2 @app
        did after_start 1 ->
        ",
    );
    assert_eq!(state(&bench), State::Running);
    check(
        "
        set after_start=x restart=no ->
        config     -> spawn 1
        spawned 1  -> started 1; after_start 1
        start a    ->
        failed after_start 1 -> start failed a; stopping 1 (after_start failed); SIGTERM 1
        ends 1     -> exited 1; await 1; failed (after_start failed)
        ",
    );
    check(
        "
        set after_start=x start_timeout=5s restart_delay=1s ->
        config     -> spawn 1
        spawned 1  -> started 1; after_start 1
        +5s        -> end after_start 1; stopping 1 (after_start did not end within start_timeout (5s)); SIGTERM 1
        did after_start 1 ->
        ends 1     -> exited 1; backoff 1s; await 1
        ",
    );
}

#[test]
fn a_stop_has_its_commands_in_order() {
    let bench = check(&format!(
        "{RUNNING}
        stop a     -> stopping 2 @app; SIGTERM 2 @app
        ends 2 @app -> exited 2 @app; await 2 @app; stopped @app; before_stop 1
        did before_stop 1 -> stopping 1; stop_command 1
        did stop_command 1 ->
        ends 1     -> exited 1; clear 1; after_stop 1
        did after_stop 1 -> stopped; done a
        "
    ));
    assert_eq!(state(&bench), State::Stopped);
}

#[test]
fn a_command_that_fails_is_told_and_a_stop_goes_on() {
    check(&format!(
        "{RUNNING}
        drop @app ->
        config     -> stopping 2 @app; SIGTERM 2 @app
        ends 2 @app -> exited 2 @app; await 2 @app; stopped @app
        stop a     -> before_stop 1
        failed before_stop 1 -> before_stop failed; stopping 1; stop_command 1
        failed stop_command 1 -> stop_command failed; SIGTERM 1
        +5s        -> kill 1
        ends 1     -> exited 1; kill-rest 1; after_stop 1
        failed after_stop 1 -> after_stop failed; stopped; done a
        "
    ));
}

#[test]
fn a_stop_command_has_as_long_as_a_stop() {
    check(
        "
        set stop_command=x stop_timeout=5s ->
        config     -> spawn 1
        spawned 1  -> started 1
        stop a     -> stopping 1; stop_command 1
        +5s        -> end stop_command 1; kill 1
        ends 1     -> exited 1; kill-rest 1
        did stop_command 1 -> stopped; done a
        ",
    );
}

#[test]
fn what_ends_by_itself_has_its_after_stop_before_the_next_start() {
    check(
        "
        set before_stop=x after_stop=x restart_delay=0s ->
        config     -> spawn 1
        spawned 1  -> started 1
        exit 1 code=1 -> exited 1
        release 1  -> clear 1
        gone 1     -> after_stop 1
        gone 1     ->
        did after_stop 1 -> spawn 2
        ",
    );
    // What has begun before its end may be waiting for that.
    check(
        "
        set before_stop=x ->
        config     -> spawn 1
        spawned 1  -> started 1
        restart a  -> before_stop 1
        exit 1 code=1 -> exited 1
        release 1  -> clear 1
        gone 1     ->
        did before_stop 1 -> spawn 2
        ",
    );
}

#[test]
fn what_a_oneshot_has_done_is_undone_when_it_is_stopped() {
    check(
        "
        set type=oneshot restart=no before_stop=x ->
        add @app   ->
        set requires=s @app ->
        config     -> spawn 1
        spawned 1  -> started 1
        ends 1 code=0 -> exited 1; spawn 2 @app; clear 1; oneshot-done
        spawned 2 @app -> started 2 @app
        stop a     -> stopping 2 @app; SIGTERM 2 @app
        ends 2 @app -> exited 2 @app; await 2 @app; stopped @app; before_stop -1000
        agent-dies ->
        remember   ->
        remember @app ->
        config     -> before_stop -1000
        failed before_stop -1000 -> before_stop failed; stopped
        start b    -> spawn 3
        spawned 3  -> started 3
        ends 3 code=0 -> exited 3; clear 3; oneshot-done; done b
        restart c  -> before_stop -1000
        did before_stop -1000 -> spawn 4
        spawned 4  -> started 4
        ends 4 code=0 -> exited 4; clear 4; oneshot-done; done c
        shutdown d -> before_stop -1000
        did before_stop -1000 -> stopped; done d
        ",
    );
}

#[test]
fn the_next_agent_begins_a_phase_again() {
    check(
        "
        set after_start=x ->
        config     -> spawn 1
        spawned 1  -> started 1; after_start 1
        agent-dies ->
        remember 1 ->
        config     -> adopted 1; after_start 1
        did after_start 1 -> is-ready 1
        agent-dies ->
        remember 1 ->
        config     -> adopted 1
        ",
    );
    check(
        "
        set before_stop=x stop_command=x after_stop=x ->
        config     -> spawn 1
        spawned 1  -> started 1
        stop a     -> before_stop 1
        agent-dies ->
        remember 1 ->
        config     -> adopted 1; before_stop 1
        did before_stop 1 -> stopping 1; stop_command 1
        did stop_command 1 ->
        agent-dies ->
        remember 1 ->
        config     -> adopted 1; stopping 1
        ends 1     -> exited 1; clear 1; after_stop 1
        agent-dies ->
        remember 1 ->
        config     ->
        release 1  -> clear 1
        gone 1     -> after_stop 1
        did after_stop 1 -> stopped
        ",
    );
}

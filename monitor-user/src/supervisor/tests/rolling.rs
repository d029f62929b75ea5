//! Services that are replaced while they run, by scripts.

use super::script::{Bench, check};
use crate::model::*;

fn status(bench: &Bench) -> (State, Option<Instance>, Option<Doing>) {
    let status = bench.supervisor.status("s").unwrap();
    (status.state, status.instance, status.doing)
}

/// `app` requires it.
const RUNNING: &str = "
    set ready=fd start_timeout=5s stop_timeout=3s restart_mode=rolling ->
    add @app   ->
    set requires=s @app ->
    config     -> spawn 1
    spawned 1  -> started 1; await-ready 1
    ready 1    -> is-ready 1; spawn 2 @app
    spawned 2 @app -> started 2 @app
    restart a  -> spawn 3
";

#[test]
fn the_old_one_stops_when_the_next_one_is_ready() {
    let bench = check(&format!(
        "{RUNNING} spawned 3 -> next-started 3; await-ready 3"
    ));
    let one = super::script::instance(1);
    assert_eq!(
        status(&bench),
        (State::Running, Some(one), Some(Doing::Rolling))
    );
    let bench = check(&format!(
        "{RUNNING}
        spawned 3  -> next-started 3; await-ready 3
        start b    -> done b
        +4s        ->
        ready 3    -> replaced 1 -> 3; done a; stopping 1; SIGTERM 1
        sent 1     ->
        restart c  ->
        ends 1     -> exited 1; await 1; spawn 4
        spawned 4  -> next-started 4; await-ready 4
        ready 4    -> replaced 3 -> 4; done c; stopping 3; SIGTERM 3
        needs 3 5s ->
        ending 3   ->
        +4s        ->
        +1s        -> kill 3
        ends 3     -> exited 3; kill-rest 3
        +60s       ->
        "
    ));
    let four = super::script::instance(4);
    assert_eq!(status(&bench), (State::Running, Some(four), None));
}

#[test]
fn the_old_one_goes_on_if_the_next_one_fails() {
    let bench = check(&format!(
        "{RUNNING}
        nospawn 3  -> not-replaced (no such file); start failed a
        restart b  -> spawn 4
        spawned 4  -> next-started 4; await-ready 4
        ends 4     -> exited 4; not-replaced (exited with 1 before it was ready); start failed b; clear 4
        restart c  -> spawn 5
        spawned 5  -> next-started 5; await-ready 5
        +4s        ->
        needs 5 3s ->
        +2s        ->
        +1s        -> stopping 5 (not ready within start_timeout (5s)); SIGTERM 5; not-replaced (not ready within start_timeout (5s)); start failed c
        ready 5    ->
        ends 5     -> exited 5; await 5
        +60s       ->
        "
    ));
    let one = super::script::instance(1);
    assert_eq!(status(&bench), (State::Running, Some(one), None));
}

#[test]
fn the_next_one_is_the_service_if_the_old_one_ends_meanwhile() {
    // Before its process is there.
    check(&format!(
        "{RUNNING}
        ends 1     -> exited 1; clear 1
        spawned 3  -> started 3; await-ready 3
        ready 3    -> is-ready 3; done a
        "
    ));
    // Before it is ready.
    let bench = check(&format!(
        "{RUNNING}
        spawned 3  -> next-started 3; await-ready 3
        ends 1     -> exited 1; replaced 1 -> 3; clear 1
        +4s        ->
        "
    ));
    let three = super::script::instance(3);
    assert_eq!(status(&bench), (State::Starting, Some(three), None));
    check(&format!(
        "{RUNNING}
        spawned 3  -> next-started 3; await-ready 3
        ends 1     -> exited 1; replaced 1 -> 3; clear 1
        ends 3     -> exited 3; start failed a; clear 3; spawn 4
        "
    ));
}

#[test]
fn a_stop_ends_both() {
    check(&format!(
        "{RUNNING}
        spawned 3  -> next-started 3; await-ready 3
        stop b     -> overtaken a by stop; stopping 3; SIGTERM 3; stopping 2 @app; SIGTERM 2 @app
        ends 2 @app -> exited 2 @app; await 2 @app; stopped @app; stopping 1; SIGTERM 1
        ready 3    ->
        ends 1     -> exited 1; await 1
        ends 3     -> exited 3; await 3; stopped; done b
        "
    ));
    // One that is on its way is stopped as soon as it is there.
    check(&format!(
        "{RUNNING}
        shutdown b -> overtaken a by shutdown; abandon 3; stopping 2 @app; SIGTERM 2 @app
        ends 2 @app -> exited 2 @app; await 2 @app; stopped @app; stopping 1; SIGTERM 1
        ends 1     -> exited 1; await 1
        spawned 3  -> next-started 3; stopping 3; SIGTERM 3
        ends 3     -> exited 3; await 3; stopped; done b
        "
    ));
}

#[test]
fn a_reload_replaces_it_and_again_if_it_has_changed_meanwhile() {
    let bench = check(
        "
        set ready=fd restart_mode=rolling exec=x ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
        ready 1    -> is-ready 1
        set exec=y ->
        config a   -> spawn 2
        spawned 2  -> next-started 2; await-ready 2
        set exec=z ->
        config b   -> stopping 2; SIGTERM 2
        ends 2     -> exited 2; await 2; spawn 3
        spawned 3  -> next-started 3; await-ready 3
        ready 3    -> replaced 1 -> 3; stopping 1; SIGTERM 1; reloaded a ~s!; reloaded b ~s!
        ",
    );
    assert_eq!(status(&bench).0, State::Running);
}

#[test]
fn the_watchdog_of_the_next_one_is_not_held_against_the_old_one() {
    const CHANGED: &str = "
        set ready=fd restart_mode=rolling watchdog=20s ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
        ready 1    -> is-ready 1
    ";
    check(&format!(
        "{CHANGED}
        set watchdog=5s ->
        config a   -> spawn 2
        nospawn 2  -> not-replaced (no such file); reloaded a ~s! (s: no such file)
        lives 1    ->
        +19s       ->
        +1s        -> stopping 1 (no sign of life within watchdog (20s)); SIGTERM 1
        "
    ));
    // What the old one had is not known to the next agent.
    check(&format!(
        "{CHANGED}
        agent-dies ->
        set watchdog=5s ->
        remember 1 ->
        config     -> adopted 1; spawn 2
        nospawn 2  -> not-replaced (no such file)
        +60s       ->
        "
    ));
}

#[test]
fn the_next_agent_goes_on_with_it() {
    check(&format!(
        "{RUNNING}
        spawned 3  -> next-started 3; await-ready 3
        agent-dies ->
        remember 1 ->
        remember 3 ->
        remember 2 @app ->
        config     -> adopted 2 @app; adopted 1; await-ready 3
        ready 3    -> replaced 1 -> 3; stopping 1; SIGTERM 1
        agent-dies ->
        remember 1 ->
        remember 3 ->
        remember 2 @app ->
        config     -> adopted 2 @app; stopping 1; SIGTERM 1; adopted 3
        sent 1     ->
        ends 1     -> exited 1; await 1
        "
    ));
    // The old one has ended since.
    check(&format!(
        "{RUNNING}
        spawned 3  -> next-started 3; await-ready 3
        agent-dies ->
        remember 1 ->
        remember 3 ->
        remember 2 @app ->
        release 1  ->
        config     -> adopted 2 @app; await-ready 3; exited 1; replaced 1 -> 3; clear 1
        ready 3    -> is-ready 3
        "
    ));
}

#[test]
fn the_next_agent_replaces_one_of_another_config() {
    const UNREADY: &str = "
        set ready=fd restart_mode=rolling exec=x ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
    ";
    check(&format!(
        "{UNREADY}
        ready 1    -> is-ready 1
        agent-dies ->
        set exec=y ->
        remember 1 ->
        config     -> adopted 1; spawn 2
        spawned 2  -> next-started 2; await-ready 2
        ready 2    -> replaced 1 -> 2; stopping 1; SIGTERM 1
        "
    ));
    // Nobody is served by one that is not ready.
    check(&format!(
        "{UNREADY}
        agent-dies ->
        set exec=y ->
        remember 1 ->
        config     -> adopted 1; stopping 1; SIGTERM 1
        ends 1     -> exited 1; await 1; spawn 2
        "
    ));
}

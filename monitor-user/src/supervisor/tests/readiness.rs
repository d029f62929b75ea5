//! Services that say when they are ready, by scripts.

use super::script::{Bench, check};
use crate::model::*;

fn status(bench: &Bench) -> (State, Option<String>) {
    let status = bench.supervisor.status("s").unwrap();
    let failure = status.last_failure.map(|failure| failure.message.clone());
    (status.state, failure)
}

/// `s` is one, and `app` requires it.
const RUNNING: &str = "
    set ready=fd start_timeout=5s restart_delay=1s ->
    add @app   ->
    set requires=s @app ->
    config     -> spawn 1
    spawned 1  -> started 1; await-ready 1
";

#[test]
fn it_is_up_when_it_is_ready() {
    let bench = check(&format!(
        "{RUNNING}
        start a    ->
        ready 7    ->
        +4s        ->
        ready 1    -> is-ready 1; done a; spawn 2 @app
        ready 1    ->
        +60s       ->
        "
    ));
    assert_eq!(status(&bench), (State::Running, None));
}

#[test]
fn a_start_waits_for_readiness_and_for_nothing_else() {
    let bench = check(
        "
        set ready=fd start_check=1s autostart=false ->
        config     ->
        start a    -> spawn 1
        spawned 1  -> started 1; await-ready 1
        +2s        ->
        ready 1    -> is-ready 1; done a
        restart b  -> stopping 1; SIGTERM 1
        ends 1     -> exited 1; await 1; spawn 2
        spawned 2  -> started 2; await-ready 2
        ready 2    -> is-ready 2; done b
        ",
    );
    assert_eq!(status(&bench).0, State::Running);
}

#[test]
fn one_that_is_not_ready_in_time_has_failed() {
    let bench = check(&format!(
        "{RUNNING}
        start a    ->
        +5s        -> start failed a; stopping 1 (not ready within start_timeout (5s)); SIGTERM 1
        ready 1    ->
        ends 1     -> exited 1; backoff 1s; await 1
        +1s        -> spawn 2
        spawned 2  -> started 2; await-ready 2
        ready 2    -> is-ready 2; spawn 3 @app
        "
    ));
    assert_eq!(status(&bench), (State::Running, None));
    let bench = check(
        "
        set ready=fd start_timeout=5s restart=no ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
        +5s        -> stopping 1 (not ready within start_timeout (5s)); SIGTERM 1
        ends 1 code=0 -> exited 1; await 1; failed (not ready within start_timeout (5s))
        ",
    );
    let why = "not ready within start_timeout (5s)".to_owned();
    assert_eq!(status(&bench), (State::Failed, Some(why)));
}

#[test]
fn whoever_asks_in_the_meantime_has_it_start_at_once() {
    check(&format!(
        "{RUNNING}
        +5s        -> stopping 1 (not ready within start_timeout (5s)); SIGTERM 1
        restart a  ->
        ends 1     -> exited 1; await 1; spawn 2
        "
    ));
    check(&format!(
        "{RUNNING}
        +5s        -> stopping 1 (not ready within start_timeout (5s)); SIGTERM 1
        stop a     -> stopped @app
        ends 1     -> exited 1; await 1; stopped; done a
        "
    ));
}

#[test]
fn an_end_before_it_is_ready_fails_the_start() {
    check(&format!(
        "{RUNNING}
        start a    ->
        ends 1     -> exited 1; start failed a; backoff 1s; clear 1
        "
    ));
}

#[test]
fn readiness_is_the_instances_for_all_agents() {
    let bench = check(&format!(
        "{RUNNING}
        ready 1    -> is-ready 1; spawn 2 @app
        spawned 2 @app -> started 2 @app
        agent-dies ->
        remember 1 ->
        remember 2 @app ->
        config     -> adopted 2 @app; adopted 1
        +60s       ->
        "
    ));
    assert_eq!(status(&bench), (State::Running, None));
    // What it says while no agent lives is found when the next one looks; that has all of the time.
    let bench = check(&format!(
        "{RUNNING}
        +4s        ->
        agent-dies ->
        remember 1 ->
        remember @app ->
        config     -> adopted 1; await-ready 1
        +4s        ->
        ready 1    -> is-ready 1; spawn 2 @app
        "
    ));
    assert_eq!(status(&bench), (State::Running, None));
}

#[test]
fn a_reload_is_done_when_it_says_so() {
    const READY: &str = "
        set ready=fd start_timeout=5s watchdog=30s stop_timeout=3s ->
        config     -> spawn 1
        reread 1s z -> not running z
        spawned 1  -> started 1; await-ready 1
        reread 1s z -> not reloaded z
        ready 1    -> is-ready 1
    ";
    // Unasked, it stays up.
    let bench = check(&format!("{READY} reloading 1 1s ->"));
    let status = |bench: &Bench| {
        let status = bench.supervisor.status("s").unwrap();
        (status.state, status.doing)
    };
    assert_eq!(status(&bench), (State::Running, Some(Doing::Reloading)));
    // What it had begun before is no answer.
    let bench = check(&format!(
        "{READY}
        reloading 1 9s ->
        reread 10s a -> SIGHUP 1
        ready 1    ->
        ready 1    ->
        reloading 1 10s ->
        reread 11s b -> SIGHUP 1
        ready 1    ->
        reloading 1 12s ->
        ready 1    -> done a; done b
        +5s        ->
        reread 20s c -> SIGHUP 1
        needs 1 20s ->
        +19s       ->
        lives 1    ->
        +1s        -> not reloaded c
        reread 50s d -> SIGHUP 1
        stop e     -> not reloaded d; stopping 1; SIGTERM 1
        "
    ));
    assert_eq!(status(&bench), (State::Stopping, None));
    check(&format!(
        "{READY}
        reread 10s a -> SIGHUP 1
        ends 1     -> exited 1; not reloaded a; clear 1; spawn 2
        "
    ));
}

#[test]
fn one_that_says_that_it_ends_has_the_time_of_a_stop() {
    check(
        "
        set ready=fd watchdog=1s stop_timeout=3s restart=on-failure ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
        ready 1    -> is-ready 1
        ending 1   ->
        +2s        ->
        broken 1 no answer ->
        lives 1    ->
        ends 1 code=0 -> exited 1; clear 1; stopped
        ",
    );
    check(
        "
        set ready=fd stop_timeout=3s restart_delay=1s ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
        ending 1   ->
        needs 1 4s ->
        +3s        ->
        ending 1   ->
        +1s        -> stopping 1 (it has sent STOPPING=1 and not ended within stop_timeout (3s)); SIGTERM 1
        ends 1     -> exited 1; backoff 1s; await 1
        ",
    );
}

#[test]
fn another_main_process_goes_on_with_the_run() {
    let bench = check(&format!(
        "{RUNNING}
        main 1 7   -> main 1 -> 7
        ready 1    ->
        ends 1     ->
        ready 7    -> is-ready 7; spawn 2 @app
        main 1 8   ->
        main 7 7   ->
        agent-dies ->
        remember 7 ->
        remember @app ->
        config     -> adopted 7; spawn 8 @app
        ends 7     -> exited 7; backoff 1s; clear 7
        main 7 8   ->
        "
    ));
    assert_eq!(status(&bench).0, State::Backoff);
    // The commands that run for it go on.
    check(
        "
        set ready=fd after_start=x before_stop=x stop_timeout=5s ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
        ready 1    -> after_start 1
        main 1 7   -> main 1 -> 7
        did after_start 7 -> is-ready 7
        stop a     -> before_stop 7
        main 7 8   ->
        did before_stop 7 -> stopping 7; SIGTERM 7
        ",
    );
}

#[test]
fn the_next_agent_goes_on_with_a_stop_for_lateness() {
    check(&format!(
        "{RUNNING}
        +5s        -> stopping 1 (not ready within start_timeout (5s)); SIGTERM 1
        sent 1     ->
        agent-dies ->
        remember 1 ->
        remember @app ->
        config     -> adopted 1; stopping 1 (not ready within start_timeout (5s))
        ends 1     -> exited 1; backoff 1s; await 1
        "
    ));
}

#[test]
fn lateness_asks_nobody_and_restarts_nobody_else() {
    check(
        "
        set ready=fd start_timeout=5s ->
        add @app   ->
        set requires=s @app ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
        ready 1    -> is-ready 1; spawn 2 @app
        spawned 2 @app -> started 2 @app
        ends 1     -> exited 1; clear 1; spawn 3
        spawned 3  -> started 3; await-ready 3
        +5s        -> stopping 3 (not ready within start_timeout (5s)); SIGTERM 3
        ",
    );
}

/// `s` has to say that it is alive, and `app` requires it.
const WATCHED: &str = "
    set watchdog=10s restart_delay=1s ->
    add @app   ->
    set requires=s @app ->
    config     -> spawn 1
    spawned 1  -> started 1; spawn 2 @app
";

#[test]
fn one_that_gives_no_sign_of_life_has_failed() {
    let bench = check(&format!(
        "{WATCHED}
        +9s        ->
        lives 1    ->
        +9s        ->
        lives 7    ->
        +1s        -> stopping 1 (no sign of life within watchdog (10s)); SIGTERM 1
        lives 1    ->
        ends 1     -> exited 1; backoff 1s; await 1
        +1s        -> spawn 3
        "
    ));
    let why = "no sign of life within watchdog (10s)".to_owned();
    assert_eq!(status(&bench), (State::Starting, Some(why)));
}

/// It comes often, and what an agent remembers is on a disk.
#[test]
fn a_sign_of_life_is_not_remembered() {
    let mut bench = check(WATCHED);
    while bench.supervisor.next_changed().is_some() {}
    bench.tell("+9s");
    while bench.supervisor.next_changed().is_some() {}
    assert_eq!(bench.tell("lives 1"), "");
    assert_eq!(bench.supervisor.next_changed(), None);
    // It counts all the same.
    assert_eq!(bench.tell("+9s"), "");
}

#[test]
fn the_watchdog_waits_until_it_is_ready() {
    check(
        "
        set ready=fd start_timeout=60s watchdog=10s ->
        config     -> spawn 1
        spawned 1  -> started 1; await-ready 1
        +30s       ->
        lives 1    ->
        +20s       ->
        ready 1    -> is-ready 1
        +9s        ->
        lives 1    ->
        +10s       -> stopping 1 (no sign of life within watchdog (10s)); SIGTERM 1
        ",
    );
}

#[test]
fn time_without_an_agent_is_held_against_nobody() {
    check(&format!(
        "{WATCHED}
        +9s        ->
        agent-dies ->
        +60s       ->
        remember 1 1 ->
        config     -> adopted 1; spawn 2 @app
        +9s        ->
        lives 1    ->
        +9s        ->
        +1s        -> stopping 1 (no sign of life within watchdog (10s)); SIGTERM 1
        "
    ));
}

#[test]
fn one_that_does_not_work_is_restarted_and_those_that_require_it_run_on() {
    check(&format!(
        "{WATCHED}
        spawned 2 @app -> started 2 @app
        broken 7 anything ->
        broken 1 check: no answer -> stopping 1 (check: no answer); SIGTERM 1
        broken 1 check: no answer ->
        ends 1     -> exited 1; backoff 1s; await 1
        +1s        -> spawn 3
        "
    ));
}

#[test]
fn why_it_was_not_ready_is_told() {
    check(
        "
        set ready=probe start_timeout=5s ->
        config     -> spawn 1
        met 1 nothing ->
        spawned 1  -> started 1; await-ready 1
        met 7 of another ->
        met 1 tcp 127.0.0.1:80: refused ->
        +5s        -> stopping 1 (not ready within start_timeout (5s); tcp 127.0.0.1:80: refused); SIGTERM 1
        ",
    );
}

#[test]
fn it_may_ask_for_more_time() {
    check(
        "
        set ready=fd start_timeout=5s stop_timeout=2s restart_delay=1s ->
        config     -> spawn 1
        needs 1 9s ->
        spawned 1  -> started 1; await-ready 1
        +4s        ->
        needs 1 10s ->
        needs 1 1s ->
        +9s        ->
        +1s        -> stopping 1 (not ready within start_timeout (5s)); SIGTERM 1
        sent 1     ->
        +1s        ->
        needs 1 3s ->
        +2s        ->
        +1s        -> kill 1
        needs 1 3s ->
        ends 1     -> exited 1; backoff 1s; kill-rest 1
        ",
    );
}

//! Each promise of docs/behaviour.md and docs/service-files.md by its own script.

use std::time::{Duration, Instant};

use super::super::*;
use super::script::{Bench, check, default_spec, instance};
use crate::model::*;

// ---- going into the background ----

#[test]
fn a_program_that_goes_into_the_background_is_told_of() {
    let bench = check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        exit 1 code=0 -> exited 1
        release 1 -> clear 1
        remains 1 -> background 1
        remains 1 ->
        gone 1    -> spawn 2
        spawned 2 -> started 2
        ",
    );
    let status = bench.supervisor.status("s").unwrap();
    assert!(status.background.unwrap().contains("in the foreground"));
    let bench = check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        exit 1 code=0 up=11s -> exited 1
        release 1 -> clear 1
        remains 1 ->
        gone 1    -> spawn 2
        spawned 2 -> started 2
        exit 2 code=1 -> exited 2; backoff 100ms
        release 2 -> clear 2
        remains 2 ->
        gone 2    ->
        +1s       -> spawn 3
        spawned 3 -> started 3
        stop a    -> stopping 3; SIGTERM 3
        exit 3 code=0 -> exited 3
        release 3 -> await 3
        remains 3 ->
        ",
    );
    assert_eq!(bench.supervisor.status("s").unwrap().background, None);
}

// ---- reloads ----

#[test]
fn a_reload_stops_first_and_starts_then_and_is_done_when_that_is() {
    check(
        "
        add @old   ->
        add @other ->
        set start_check=1s @old ->
        config     -> spawn 1 @old; spawn 2 @other; spawn 3
        spawned 1 @old -> started 1 @old
        spawned 2 @other -> started 2 @other
        spawned 3  -> started 3
        drop @old  ->
        add @new   ->
        set start_check=1s @new ->
        set exec=x ->
        config r   -> stopping 1 @old; SIGTERM 1 @old; stopping 3; SIGTERM 3
        ends 3     -> exited 3; await 3
        ends 2 @other -> exited 2 @other; clear 2 @other; spawn 4 @other
        spawned 4 @other -> started 4 @other
        exit 1 @old -> exited 1 @old
        release 1 @old -> await 1 @old
        gone 1 @old -> stopped @old; spawn 5 @new; spawn 6
        spawned 5 @new -> started 5 @new
        spawned 6  -> started 6
        +1s        -> reloaded r +new ~s! -old
        ",
    );
}

#[test]
fn a_reload_tells_what_does_not_run() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        add @bad   ->
        set start_check=1s @bad ->
        config r   -> spawn 2 @bad
        spawned 2 @bad -> started 2 @bad
        ends 2 code=9 @bad -> exited 2 @bad; reloaded r +bad (bad: exited with 9 within start_check (1s)); clear 2 @bad; spawn 3 @bad
        ",
    );
}

#[test]
fn whoever_asks_for_it_need_not_wait_for_a_reload() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        drop       ->
        add @new   ->
        config r   -> stopping 1; SIGTERM 1
        start a @new -> spawn 2 @new
        spawned 2 @new -> started 2 @new; done a
        ends 1     -> exited 1; await 1; stopped; reloaded r +new -s
        ",
    );
}

// ---- overlap ----

#[test]
fn a_start_that_fails_beside_its_predecessor_waits_for_that_and_costs_nothing() {
    check(
        "
        set overlap=true start_limit=2/60s start_check=1s ->
        config     -> spawn 1
        spawned 1  -> started 1
        restart a  -> stopping 1; SIGTERM 1
        exit 1     -> exited 1; spawn 2
        spawned 2  -> started 2
        exit 2     -> exited 2
        release 2  -> clear 2
        gone 2     ->
        release 1  -> await 1
        gone 1     -> spawn 3
        spawned 3  -> started 3
        ends 3     -> exited 3; start failed a; spawn 4; clear 3
        ",
    );
}

// ---- whom a stop is for ----

#[test]
fn what_outlives_its_main_process_has_the_rest_of_the_stops_time() {
    check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        restart a -> stopping 1; SIGTERM 1
        sent 1    ->
        +4s       ->
        exit 1    -> exited 1
        release 1 -> await 1
        +5999ms   ->
        +1ms      -> kill 1
        gone 1    -> spawn 2
        ",
    );
}

#[test]
fn what_is_left_by_an_end_of_its_own_is_stopped_before_the_next_start() {
    check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        +1s       ->
        exit 1    -> exited 1
        release 1 -> clear 1
        sent 1    ->
        +9999ms   ->
        +1ms      -> kill 1
        +60s      ->
        gone 1    -> spawn 2
        ",
    );
}

#[test]
fn in_mixed_mode_the_rest_is_killed_and_in_main_mode_left_alone() {
    check(
        "
        set stop_mode=mixed ->
        config    -> spawn 1
        spawned 1 -> started 1
        restart a -> stopping 1; SIGTERM main 1
        ends 1    -> exited 1; kill-rest 1; spawn 2
        spawned 2 -> started 2; done a
        stop b    -> stopping 2; SIGTERM main 2
        +10s      -> kill 2
        ends 2    -> exited 2; kill-rest 2; stopped; done b
        set stop_mode=main ->
        config    ->
        start c   -> spawn 3
        spawned 3 -> started 3; done c
        ends 3    -> exited 3; leave 3; spawn 4
        spawned 4 -> started 4
        stop d    -> stopping 4; SIGTERM main 4
        +10s      -> kill main 4
        ends 4    -> exited 4; leave 4; stopped; done d
        ",
    );
}

#[test]
fn who_has_had_the_stop_signal_is_killed_whatever_the_config_says_by_then() {
    check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        exit 1    -> exited 1
        release 1 -> clear 1
        set stop_mode=main ->
        config    ->
        +10s      -> kill 1
        gone 1    -> spawn 2
        ",
    );
}

#[test]
fn the_next_agent_sends_no_second_stop_signal_and_kills_in_time() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        stop a     -> stopping 1; SIGTERM 1
        sent 1     ->
        +4s        ->
        agent-dies ->
        remember 1 ->
        config     -> adopted 1; stopping 1
        +5999ms    ->
        +1ms       -> kill 1
        agent-dies ->
        remember 1 ->
        config     -> adopted 1; stopping 1; kill 1
        ends 1     -> exited 1; kill-rest 1; stopped
        ",
    );
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        exit 1     -> exited 1
        release 1  -> clear 1
        sent 1     ->
        +4s        ->
        agent-dies ->
        remember 1 ->
        release 1  ->
        config     -> await 1
        +5999ms    ->
        +1ms       -> kill 1
        gone 1     -> spawn 2
        ",
    );
}

#[test]
fn a_stop_signal_that_was_not_sent_is_sent_by_the_next_agent() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        stop a     -> stopping 1; SIGTERM 1
        agent-dies ->
        remember 1 ->
        config     -> adopted 1; stopping 1; SIGTERM 1
        +10s       -> kill 1
        ",
    );
}

#[test]
fn whom_the_stop_of_a_removed_service_is_for_is_remembered() {
    check(
        "
        set stop_mode=main ->
        config     -> spawn 1
        spawned 1  -> started 1
        agent-dies ->
        drop       ->
        remember 1 ->
        config     -> adopted 1; stopping 1; SIGTERM main 1
        ends 1     -> exited 1; leave 1; stopped
        ",
    );
}

// ---- the start's check ----

#[test]
fn a_start_is_answered_when_it_has_passed_its_check() {
    check(
        "
        set start_check=1s ->
        config    -> spawn 1
        spawned 1 -> started 1
        start a   ->
        +999ms    ->
        start b   ->
        +1ms      -> done a; done b
        start c   -> done c
        restart d -> stopping 1; SIGTERM 1
        ends 1    -> exited 1; await 1; spawn 2
        spawned 2 -> started 2
        +1s       -> done d
        ",
    );
}

#[test]
fn a_start_whose_instance_ends_within_its_check_has_failed() {
    check(
        "
        set start_check=1s ->
        config    -> spawn 1
        start a   ->
        spawned 1 -> started 1
        +500ms    ->
        ends 1 code=7 -> exited 1; start failed a; clear 1; spawn 2
        start b   ->
        spawned 2 -> started 2
        ends 2 SIGKILL else -> exited 2; start failed b; clear 2; spawn 3
        spawned 3 -> started 3
        start c   ->
        stop d    -> overtaken c by stop; stopping 3; SIGTERM 3
        ends 3    -> exited 3; await 3; stopped; done d
        ",
    );
}

#[test]
fn a_start_of_what_does_its_work_within_its_check_is_done() {
    check(
        "
        set start_check=1s restart=on-failure ->
        config    -> spawn 1
        start a   ->
        spawned 1 -> started 1
        ends 1 code=0 -> exited 1; done a; clear 1; stopped
        ",
    );
}

#[test]
fn who_waits_for_a_start_waits_for_the_one_that_takes_its_place() {
    check(
        "
        set start_check=1s ->
        config    -> spawn 1
        spawned 1 -> started 1
        start a   ->
        restart b -> stopping 1; SIGTERM 1
        +2s       ->
        ends 1    -> exited 1; await 1; spawn 2
        spawned 2 -> started 2
        +1s       -> done a; done b
        ",
    );
}

// ---- delay ----

#[test]
fn the_delay_doubles_from_a_hundred_milliseconds_to_its_maximum() {
    check(
        "
        set restart_max_delay=1s ->
        config    -> spawn 1
        spawned 1 -> started 1
        ends 1    -> exited 1; clear 1; spawn 2
        spawned 2 -> started 2
        ends 2    -> exited 2; backoff 100ms; clear 2
        +99ms     ->
        +1ms      -> spawn 3
        spawned 3 -> started 3
        ends 3    -> exited 3; backoff 200ms; clear 3
        +200ms    -> spawn 4
        nospawn 4 -> backoff 400ms
        +400ms    -> spawn 5
        nospawn 5 -> backoff 800ms
        +800ms    -> spawn 6
        nospawn 6 -> backoff 1s
        +1s       -> spawn 7
        nospawn 7 -> backoff 1s
        ",
    );
}

#[test]
fn the_delay_doubles_from_the_configured_one() {
    check(
        "
        set restart_delay=3s restart_max_delay=10s ->
        config    -> spawn 1
        nospawn 1 -> backoff 3s
        +3s       -> spawn 2
        nospawn 2 -> backoff 3s
        +3s       -> spawn 3
        nospawn 3 -> backoff 6s
        +6s       -> spawn 4
        nospawn 4 -> backoff 10s
        +10s      -> spawn 5
        nospawn 5 -> backoff 10s
        ",
    );
}

#[test]
fn a_small_delay_grows_from_a_hundred_milliseconds() {
    check(
        "
        set restart_delay=10ms ->
        config    -> spawn 1
        nospawn 1 -> backoff 10ms
        +10ms     -> spawn 2
        nospawn 2 -> backoff 100ms
        +100ms    -> spawn 3
        nospawn 3 -> backoff 200ms
        ",
    );
}

#[test]
fn a_maximum_below_the_delay_does_not_shorten_it() {
    check(
        "
        set restart_delay=5s restart_max_delay=1s ->
        config    -> spawn 1
        nospawn 1 -> backoff 5s
        +5s       -> spawn 2
        nospawn 2 -> backoff 5s
        ",
    );
}

#[test]
fn any_duration_is_survived() {
    let bench = check(
        "
        set restart_delay=max restart_max_delay=max stop_timeout=max stable_after=max ->
        set start_limit=9/max ->
        config    -> spawn 1
        spawned 1 -> started 1
        stop a    -> stopping 1; SIGTERM 1
        start b   -> overtaken a by start
        ends 1    -> exited 1; await 1; spawn 2
        nospawn 2 -> start failed b; backoff 18446744073709551615.999999999s
        +3600s    ->
        ",
    );
    assert!(bench.supervisor.poll_timeout() > Some(bench.now));
}

#[test]
fn a_hundred_failures_overflow_nothing() {
    let mut bench = check("config -> spawn 1");
    for attempt in 1..=100 {
        bench.tell(&format!("nospawn {attempt}"));
        bench.tell("+30s");
    }
    assert_eq!(bench.tell("nospawn 101"), "backoff 30s");
}

#[test]
fn a_stable_run_resets_the_delay() {
    check(
        "
        set stable_after=10s ->
        config    -> spawn 1
        nospawn 1 -> backoff 0ns; spawn 2
        nospawn 2 -> backoff 100ms
        +100ms    -> spawn 3
        spawned 3 -> started 3
        +9s       ->
        ends 3    -> exited 3; backoff 200ms; clear 3
        +200ms    -> spawn 4
        spawned 4 -> started 4
        +10s      ->
        ends 4    -> exited 4; clear 4; spawn 5
        spawned 5 -> started 5
        ends 5    -> exited 5; backoff 100ms; clear 5
        ",
    );
}

#[test]
fn the_kernels_uptime_is_believed_before_our_own() {
    check(
        "
        config          -> spawn 1
        spawned 1       -> started 1
        ends 1          -> exited 1; clear 1; spawn 2
        spawned 2       -> started 2
        +60s            ->
        ends 2 up=5s    -> exited 2; backoff 100ms; clear 2
        +100ms          -> spawn 3
        spawned 3       -> started 3
        ends 3 up=10s   -> exited 3; clear 3; spawn 4
        ",
    );
}

#[test]
fn the_delay_runs_beside_the_teardown() {
    check(
        "
        set restart_delay=1s ->
        config    -> spawn 1
        spawned 1 -> started 1
        exit 1    -> exited 1; backoff 1s
        +600ms    ->
        release 1 -> clear 1
        +400ms    ->
        gone 1    -> spawn 2
        ",
    );
}

#[test]
fn clean_exits_under_always_are_a_loop_as_well() {
    check(
        "
        config        -> spawn 1
        spawned 1     -> started 1
        ends 1 code=0 -> exited 1; clear 1; spawn 2
        spawned 2     -> started 2
        ends 2 code=0 -> exited 2; backoff 100ms; clear 2
        ",
    );
}

// ---- whose doing ----

#[test]
fn someone_elses_kill_costs_nothing_and_resets_nothing() {
    check(
        "
        set start_limit=3/10s restart_delay=1s ->
        config              -> spawn 1
        spawned 1           -> started 1
        ends 1 SIGKILL else -> exited 1; clear 1; spawn 2
        spawned 2           -> started 2
        ends 2 SIGKILL else -> exited 2; clear 2; spawn 3
        spawned 3           -> started 3
        ends 3 SIGTERM else -> exited 3; clear 3; spawn 4
        spawned 4           -> started 4
        ends 4              -> exited 4; backoff 1s; clear 4
        +1s                 -> spawn 5
        spawned 5           -> started 5
        ends 5 SIGKILL else -> exited 5; clear 5; spawn 6
        spawned 6           -> started 6
        ends 6              -> exited 6; backoff 1s; clear 6
        +1s                 -> spawn 7
        spawned 7           -> started 7
        ends 7              -> exited 7; backoff 2s; clear 7
        +2s                 -> failed (start limit reached: 3 starts within 10s; last: exited with 1)
        ",
    );
}

#[test]
fn an_end_that_nobody_saw_is_no_failure_and_resets_none() {
    check(
        "
        set restart_delay=1s ->
        config         -> spawn 1
        spawned 1      -> started 1
        ends 1 unknown -> exited 1; clear 1; spawn 2
        spawned 2      -> started 2
        ends 2         -> exited 2; backoff 1s; clear 2
        +1s            -> spawn 3
        spawned 3      -> started 3
        ends 3         -> exited 3; backoff 1s; clear 3
        +1s            -> spawn 4
        spawned 4      -> started 4
        ends 4 unknown -> exited 4; clear 4; spawn 5
        spawned 5      -> started 5
        ends 5         -> exited 5; backoff 2s; clear 5
        ",
    );
}

#[test]
fn a_start_after_an_end_that_nobody_saw_counts_towards_the_limit() {
    check(
        "
        set start_limit=3/10s restart_delay=1s ->
        config         -> spawn 1
        spawned 1      -> started 1
        ends 1 unknown -> exited 1; clear 1; spawn 2
        spawned 2      -> started 2
        agent-dies     ->
        remember 2     ->
        release 2 unknown ->
        config         -> exited 2; clear 2
        gone 2         -> spawn 3
        spawned 3      -> started 3
        ends 3 unknown -> exited 3; clear 3; failed (start limit reached: 3 starts within 10s; last: gone, cause unknown)
        ",
    );
}

#[test]
fn out_of_memory_is_its_own_failure() {
    check(
        "
        set restart_delay=1s ->
        config     -> spawn 1
        spawned 1  -> started 1
        ends 1 oom -> exited 1; backoff 1s; clear 1
        ",
    );
}

#[test]
fn a_kill_after_a_stable_run_resets_the_count() {
    check(
        "
        set start_limit=1/60s ->
        config                     -> spawn 1
        spawned 1                  -> started 1
        ends 1 SIGKILL else up=20s -> exited 1; clear 1; spawn 2
        spawned 2                  -> started 2
        ends 2                     -> exited 2; clear 2; spawn 3
        ",
    );
}

// ---- restart policy ----

#[test]
fn every_policy_with_every_death() {
    let again = "exited 1; clear 1; spawn 2";
    let done = "exited 1; clear 1; stopped";
    let rows = [
        ("always", "code=0", again),
        ("always", "code=1", again),
        ("always", "code=7", again),
        ("always", "SIGSEGV", again),
        ("always", "SIGKILL else", again),
        ("always", "oom", again),
        ("always", "unknown", again),
        ("on-failure", "code=0", again),
        ("on-failure", "code=1", again),
        ("on-failure", "code=7", done),
        ("on-failure", "SIGSEGV", again),
        ("on-failure", "SIGKILL else", again),
        ("on-failure", "code=7 else", again),
        ("on-failure", "oom", again),
        ("on-failure", "unknown", again),
        (
            "on-abnormal",
            "code=0",
            "exited 1; clear 1; failed (exited with 0)",
        ),
        ("on-abnormal", "code=7", done),
        ("on-abnormal", "code=1 else", again),
        ("on-abnormal", "SIGSEGV", again),
        ("on-abnormal", "SIGKILL else", again),
        ("on-abnormal", "oom", again),
        ("on-abnormal", "unknown", again),
        ("on-abort", "code=7", done),
        ("on-abort", "code=1 else", again),
        ("on-abort", "SIGSEGV", again),
        ("no", "code=0", "exited 1; clear 1; failed (exited with 0)"),
        ("no", "code=1", "exited 1; clear 1; failed (exited with 1)"),
        ("no", "code=7", done),
        ("no", "code=7 else", done),
        (
            "no",
            "SIGSEGV",
            "exited 1; clear 1; failed (killed by SIGSEGV)",
        ),
        (
            "no",
            "SIGKILL else",
            "exited 1; clear 1; failed (killed by SIGKILL)",
        ),
        (
            "no",
            "oom",
            "exited 1; clear 1; failed (killed for lack of memory)",
        ),
        (
            "no",
            "unknown",
            "exited 1; clear 1; failed (gone, cause unknown)",
        ),
    ];
    for (policy, death, expected) in rows {
        let mut bench = Bench::new();
        for line in [
            &format!("set restart={policy} success=7"),
            "config",
            "spawned 1",
        ] {
            bench.tell(line);
        }
        let actual = bench.tell(&format!("ends 1 {death}"));
        assert_eq!(actual, expected, "restart = {policy:?} after {death}");
    }
}

/// Whatever the policy, and whoever asked it to end.
#[test]
fn an_exit_status_may_forbid_the_next_start() {
    let failed = "exited 1; clear 1; failed (exited with 5)";
    let rows = [
        ("success=7", "code=5", failed),
        ("success=7", "code=5 else", failed),
        ("success=5", "code=5", "exited 1; clear 1; stopped"),
        ("success=7", "code=6", "exited 1; clear 1; spawn 2"),
        ("success=7", "SIGSEGV", "exited 1; clear 1; spawn 2"),
    ];
    for policy in ["always", "on-failure"] {
        for (success, death, expected) in rows {
            let mut bench = Bench::new();
            bench.tell(&format!("set restart={policy} prevent=5 {success}"));
            bench.tell("config");
            bench.tell("spawned 1");
            let actual = bench.tell(&format!("ends 1 {death}"));
            assert_eq!(actual, expected, "restart = {policy:?}, {success}, {death}");
        }
    }
}

#[test]
fn a_failed_start_is_a_failure_under_every_policy() {
    for (policy, expected) in [
        ("always", "backoff 1s"),
        ("on-failure", "backoff 1s"),
        ("on-abnormal", "backoff 1s"),
        ("on-abort", "backoff 1s"),
        ("no", "failed (no such file)"),
    ] {
        let mut bench = Bench::new();
        bench.tell(&format!("set restart={policy} restart_delay=1s"));
        bench.tell("config");
        assert_eq!(bench.tell("nospawn 1"), expected, "restart = {policy:?}");
        let status = bench.supervisor.status("s").unwrap();
        assert_eq!(status.last_failure.unwrap().message, "no such file");
    }
}

// ---- start limit ----

#[test]
fn the_start_limit_slides() {
    check(
        "
        set start_limit=2/10s stable_after=60s restart_delay=6s restart_max_delay=6s ->
        config    -> spawn 1
        nospawn 1 -> backoff 6s
        +6s       -> spawn 2
        nospawn 2 -> backoff 6s
        +6s       -> spawn 3
        nospawn 3 -> backoff 6s
        set restart_delay=1s restart_max_delay=1s ->
        config    ->
        +6s       -> spawn 4
        nospawn 4 -> backoff 1s
        +1s       -> failed (start limit reached: 2 starts within 10s; last: no such file)
        +60s      ->
        ",
    );
}

#[test]
fn a_start_exactly_one_interval_later_is_within_the_limit() {
    check(
        "
        set start_limit=1/10s restart_delay=10s ->
        config    -> spawn 1
        nospawn 1 -> backoff 10s
        +10s      -> spawn 2
        ",
    );
}

#[test]
fn someone_who_starts_it_again_resets_the_count_and_the_delay() {
    for verb in ["start", "restart"] {
        check(&format!(
            "
            set start_limit=2/60s ->
            config    -> spawn 1
            nospawn 1 -> backoff 0ns; spawn 2
            nospawn 2 -> backoff 100ms
            +100ms    -> failed (start limit reached: 2 starts within 60s; last: no such file)
            {verb} a  -> spawn 3
            spawned 3 -> started 3; done a
            ends 3    -> exited 3; clear 3; spawn 4
            nospawn 4 -> backoff 100ms
            +100ms    -> failed (start limit reached: 2 starts within 60s; last: no such file)
            "
        ));
    }
}

#[test]
fn a_limit_of_nothing_still_answers() {
    check(
        "
        set start_limit=0/60s ->
        config  -> failed (start limit reached: 0 starts within 60s)
        start a -> start failed a; failed (start limit reached: 0 starts within 60s)
        ",
    );
}

// ---- two moments of a death ----

#[test]
fn a_death_counts_once_however_it_is_told() {
    for (told, last) in [
        (
            "exit 1 -> exited 1\nexit 1 ->\nrelease 1 -> clear 1",
            "gone 1 -> spawn 2",
        ),
        (
            "release 1 -> exited 1; clear 1\nexit 1 ->\nrelease 1 ->",
            "gone 1 -> spawn 2",
        ),
        (
            "exit 1 -> exited 1\nrelease 1 -> clear 1\nrelease 1 ->\nexit 1 ->",
            "gone 1 -> spawn 2",
        ),
        (
            "gone 1 ->\nrelease 1 -> exited 1; clear 1",
            "gone 1 -> spawn 2",
        ),
        (
            "exit 1 -> exited 1\ngone 1 ->\nrelease 1 -> clear 1",
            "gone 1 -> spawn 2",
        ),
    ] {
        check(&format!(
            "
            config    -> spawn 1
            spawned 1 -> started 1
            {told}
            {last}
            exit 1    ->
            release 1 ->
            gone 1    ->
            spawned 2 -> started 2
            exit 1    ->
            release 1 ->
            gone 1    ->
            "
        ));
    }
}

#[test]
fn the_first_cause_is_kept() {
    let bench = check(
        "
        config            -> spawn 1
        spawned 1         -> started 1
        exit 1 oom        -> exited 1
        release 1 unknown -> clear 1
        ",
    );
    let status = bench.supervisor.status("s").unwrap();
    assert_eq!(
        status.last_exit.unwrap().cause,
        Cause::OomKilled(OomKill::default())
    );
}

#[test]
fn a_reused_pid_is_somebody_else() {
    let mut bench = check("config -> spawn 1\nspawned 1 -> started 1");
    let other = Instance {
        start_time_ns: 77,
        ..instance(1)
    };
    let death = Death {
        cause: Cause::Unknown,
        blame: Blame::Itself,
        comm: None,
        uptime: None,
        time: None,
        since_boot: None,
    };
    bench.fact(Fact::ProcessReleased {
        service: "s".into(),
        instance: other,
        death,
    });
    assert_eq!(bench.supervisor.next_action(), None);
    assert_eq!(bench.supervisor.status("s").unwrap().state, State::Running);
}

// ---- overlap ----

#[test]
fn with_overlap_the_next_one_starts_beside_the_teardown() {
    check(
        "
        set overlap=true ->
        config              -> spawn 1
        spawned 1           -> started 1
        exit 1 SIGKILL else -> exited 1; spawn 2
        spawned 2           -> started 2
        release 1           -> clear 1
        gone 1              ->
        ends 2 SIGKILL else -> exited 2; spawn 3; clear 2
        ",
    );
}

#[test]
fn with_overlap_and_no_early_event_it_starts_at_release() {
    check(
        "
        set overlap=true ->
        config              -> spawn 1
        spawned 1           -> started 1
        release 1           -> exited 1; clear 1; spawn 2
        ",
    );
}

#[test]
fn with_overlap_a_third_waits_for_the_first_ones_tree() {
    check(
        "
        set overlap=true ->
        config              -> spawn 1
        spawned 1           -> started 1
        exit 1 SIGKILL else -> exited 1; spawn 2
        spawned 2           -> started 2
        exit 2 SIGKILL else -> exited 2
        release 2           -> clear 2
        release 1           -> clear 1
        gone 1              -> spawn 3
        gone 2              ->
        ",
    );
}

#[test]
fn with_overlap_a_delay_is_waited_for() {
    check(
        "
        set overlap=true restart_delay=1s ->
        config    -> spawn 1
        spawned 1 -> started 1
        exit 1    -> exited 1; backoff 1s
        +1s       -> spawn 2
        release 1 -> clear 1
        gone 1    ->
        spawned 2 -> started 2
        ",
    );
}

#[test]
fn with_overlap_a_restart_starts_at_the_exit_and_a_stop_waits_for_both() {
    check(
        "
        set overlap=true ->
        config    -> spawn 1
        spawned 1 -> started 1
        restart a -> stopping 1; SIGTERM 1
        exit 1    -> exited 1; spawn 2
        spawned 2 -> started 2; done a
        stop b    -> stopping 2; SIGTERM 2
        ends 2    -> exited 2; await 2
        release 1 -> await 1
        gone 1    -> stopped; done b
        ",
    );
}

// ---- stop ----

#[test]
fn a_stop_goes_from_signal_to_kill_to_gone() {
    check(
        "
        set stop_signal=SIGQUIT stop_timeout=3s ->
        config    -> spawn 1
        spawned 1 -> started 1
        stop a    -> stopping 1; SIGQUIT 1
        +2s       ->
        stop b    ->
        +1s       -> kill 1
        +3600s    ->
        exit 1    -> exited 1
        release 1 -> kill-rest 1
        gone 1    -> stopped; done a; done b
        stop c    -> done c
        ",
    );
}

#[test]
fn a_stop_timeout_that_runs_is_not_changed_by_a_reload() {
    check(
        "
        set stop_timeout=3s ->
        config    -> spawn 1
        spawned 1 -> started 1
        stop a    -> stopping 1; SIGTERM 1
        set stop_timeout=60s ->
        config b  -> reloaded b ~s
        +3s       -> kill 1
        ",
    );
}

#[test]
fn a_stop_timeout_of_zero_kills_at_the_next_look() {
    check(
        "
        set stop_timeout=0s ->
        config    -> spawn 1
        spawned 1 -> started 1
        stop a    -> stopping 1; SIGTERM 1
        +0s       -> kill 1
        ",
    );
}

#[test]
fn a_stopped_service_does_not_come_back() {
    check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        exit 1    -> exited 1
        stop a    ->
        release 1 -> clear 1
        gone 1    -> stopped; done a
        +3600s    ->
        set exec=new ->
        config b  -> reloaded b ~s
        +3600s    ->
        start c   -> spawn 2
        ",
    );
}

// ---- requests that meet ----

#[test]
fn two_restarts_at_once_end_with_one_instance() {
    check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        restart a -> stopping 1; SIGTERM 1
        restart b ->
        ends 1    -> exited 1; await 1; spawn 2
        restart c -> abandon hung 2
        start d   ->
        spawned 2 -> started 2; done a; done b; done c; done d
        ",
    );
}

#[test]
fn the_later_request_wins() {
    check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        stop a    -> stopping 1; SIGTERM 1
        stop b    ->
        restart c -> overtaken a by restart; overtaken b by restart
        start d   ->
        stop e    -> overtaken c by stop; overtaken d by stop
        start f   -> overtaken e by start
        ends 1    -> exited 1; await 1; spawn 2
        stop g    -> overtaken f by stop; abandon 2
        spawned 2 -> started 2; stopping 2; SIGTERM 2
        start h   -> overtaken g by start
        ends 2    -> exited 2; await 2; spawn 3
        spawned 3 -> started 3; done h
        ",
    );
}

#[test]
fn a_stop_that_is_taken_back_before_the_start_is_answered_costs_nothing() {
    check(
        "
        config    -> spawn 1
        stop a    -> abandon 1
        start b   -> overtaken a by start
        spawned 1 -> started 1; done b
        ",
    );
}

#[test]
fn a_start_that_hangs_is_ended_by_whoever_wants_it_down_or_begun_again() {
    let bench = check(
        "
        config      -> spawn 1
        start a     ->
        restart b   -> abandon hung 1
        abandoned 1 -> spawn 2
        stop c      -> overtaken a by stop; overtaken b by stop; abandon 2
        abandoned 2 -> stopped; done c
        start d     -> spawn 3
        set exec=x  ->
        config e    -> abandon 3
        abandoned 3 -> spawn 4
        shutdown f  -> overtaken d by shutdown; abandon 4; reloaded e ~s!
        abandoned 4 -> stopped; done f
        ",
    );
    assert_eq!(bench.supervisor.status("s").unwrap().last_failure, None);
}

#[test]
fn a_restart_is_no_failure() {
    check(
        "
        set start_limit=1/60s restart_delay=5s ->
        config        -> spawn 1
        spawned 1     -> started 1
        restart a     -> stopping 1; SIGTERM 1
        ends 1 SIGABRT -> exited 1; await 1; spawn 2
        spawned 2     -> started 2; done a
        ",
    );
}

#[test]
fn an_unknown_service_is_denied() {
    check(
        "
        start a @nobody         -> unknown a
        config                  -> spawn 1
        start b @nobody         -> unknown b
        stop c @nobody          -> unknown c
        restart d @nobody       -> unknown d
        signal SIGHUP e @nobody -> unknown e
        spawned 9 @nobody       ->
        ends 9 @nobody          ->
        ",
    );
}

#[test]
fn a_signal_goes_only_to_what_lives() {
    check(
        "
        signal TERM a -> unknown a
        config        -> spawn 1
        signal TERM b -> not running b
        spawned 1     -> started 1
        signal TERM c -> SIGTERM 1 for c
        exit 1        -> exited 1
        signal TERM d -> not running d
        ",
    );
}

// ---- reload ----

#[test]
fn a_reload_restarts_only_what_changed_in_a_way_that_needs_it() {
    check(
        "
        add @b ->
        add @c ->
        add @d ->
        config       -> spawn 1 @b; spawn 2 @c; spawn 3 @d; spawn 4
        spawned 1 @b -> started 1 @b
        spawned 2 @c -> started 2 @c
        spawned 3 @d -> started 3 @d
        spawned 4    -> started 4
        config x     -> reloaded x
        set exec=y @b ->
        set stop_timeout=1s @c ->
        drop @d ->
        add @e ->
        config y     -> stopping 1 @b; SIGTERM 1 @b; stopping 3 @d; SIGTERM 3 @d
        ends 1 @b    -> exited 1 @b; await 1 @b
        ends 3 @d    -> exited 3 @d; await 3 @d; stopped @d; spawn 5 @b; spawn 6 @e
        ",
    );
}

#[test]
fn a_service_that_comes_back_during_its_removal_starts_after_it() {
    check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        drop      ->
        config a  -> stopping 1; SIGTERM 1
        stop b    ->
        add       ->
        config c  -> overtaken b by reload
        start d   ->
        exit 1    -> exited 1
        release 1 -> await 1
        gone 1    -> spawn 2; reloaded a -s
        spawned 2 -> started 2; done d; reloaded c +s
        ",
    );
}

#[test]
fn a_removal_answers_everyone_who_waits() {
    check(
        "
        config    -> spawn 1
        spawned 1 -> started 1
        restart a -> stopping 1; SIGTERM 1
        drop      ->
        config b  -> overtaken a by reload
        stop c    ->
        start d   -> unknown d
        ends 1    -> exited 1; await 1; stopped; done c; reloaded b -s
        stop e    -> unknown e
        ",
    );
}

#[test]
fn a_removed_service_that_was_starting_is_stopped_once_it_runs() {
    check(
        "
        config    -> spawn 1
        drop      ->
        config    -> abandon 1
        spawned 1 -> started 1; stopping 1; SIGTERM 1
        ends 1    -> exited 1; await 1; stopped
        add       ->
        config    -> spawn 2
        spawned 1 ->
        nospawn 1 ->
        spawned 2 -> started 2
        ",
    );
}

#[test]
fn an_exec_that_changes_back_while_it_starts_needs_no_restart() {
    check(
        "
        config    -> spawn 1
        set exec=new ->
        config    -> abandon 1
        set exec=s ->
        config    -> abandon 1
        spawned 1 -> started 1
        ",
    );
}

#[test]
fn a_start_from_an_old_exec_is_replaced_and_its_requests_wait_for_the_new_one() {
    check(
        "
        config    -> spawn 1
        start a   ->
        set exec=new ->
        config b  -> abandon 1
        spawned 1 -> started 1; stopping 1; SIGTERM 1
        ends 1    -> exited 1; await 1; spawn 2
        spawned 2 -> started 2; done a; reloaded b ~s!
        ",
    );
}

#[test]
fn a_new_exec_frees_a_failed_service() {
    check(
        "
        set start_limit=1/60s ->
        config    -> spawn 1
        nospawn 1 -> backoff 0ns; failed (start limit reached: 1 start within 60s; last: no such file)
        set exec=right ->
        config a  -> spawn 2
        spawned 2 -> started 2; reloaded a ~s!
        ",
    );
}

#[test]
fn a_policy_alone_frees_nothing() {
    check(
        "
        set start_limit=1/60s ->
        config    -> spawn 1
        nospawn 1 -> backoff 0ns; failed (start limit reached: 1 start within 60s; last: no such file)
        set start_limit=no ->
        config a  -> reloaded a ~s
        ",
    );
}

// ---- the next agent ----

#[test]
fn what_runs_is_adopted_and_kept() {
    let bench = check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        ends 1     -> exited 1; clear 1; spawn 2
        spawned 2  -> started 2
        agent-dies ->
        remember 2 ->
        config     -> adopted 2
        ends 2     -> exited 2; backoff 100ms; clear 2
        +100ms     -> spawn 3
        spawned 3  -> started 3
        ",
    );
    assert_eq!(bench.supervisor.status("s").unwrap().restarts, 2);
}

#[test]
fn a_death_while_no_agent_was_there_counts_once() {
    check(
        "
        config            -> spawn 1
        spawned 1         -> started 1
        agent-dies        ->
        remember 1        ->
        release 1 unknown ->
        config            -> exited 1; clear 1
        gone 1            -> spawn 2
        ",
    );
}

#[test]
fn a_death_that_the_earlier_agent_counted_is_not_counted_again() {
    check(
        "
        set restart_delay=5s ->
        config     -> spawn 1
        spawned 1  -> started 1
        exit 1     -> exited 1; backoff 5s
        +2s        ->
        agent-dies ->
        remember 1 ->
        config     ->
        exit 1     ->
        release 1  -> clear 1
        +2s        ->
        +1s        ->
        gone 1     -> spawn 2
        ",
    );
}

#[test]
fn what_was_stopped_stays_stopped() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        stop a     -> stopping 1; SIGTERM 1
        ends 1     -> exited 1; await 1; stopped; done a
        agent-dies ->
        remember   ->
        config     ->
        start b    -> spawn 2
        ",
    );
}

#[test]
fn a_stop_is_seen_through_by_the_next_agent() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        stop a     -> stopping 1; SIGTERM 1
        agent-dies ->
        remember 1 ->
        config     -> adopted 1; stopping 1; SIGTERM 1
        ends 1     -> exited 1; await 1; stopped
        ",
    );
}

#[test]
fn a_restart_is_seen_through_by_the_next_agent() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        restart a  -> stopping 1; SIGTERM 1
        agent-dies ->
        remember 1 ->
        config     -> adopted 1; stopping 1; SIGTERM 1
        ends 1     -> exited 1; await 1; spawn 2
        ",
    );
}

#[test]
fn a_stop_whose_instance_died_between_agents_is_over() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        stop a     -> stopping 1; SIGTERM 1
        agent-dies ->
        remember 1 ->
        exit 1     ->
        release 1  ->
        config     -> exited 1; clear 1
        gone 1     -> stopped
        ",
    );
}

#[test]
fn a_stop_of_a_start_that_never_was_is_told_by_the_next_agent() {
    check(
        "
        config     -> spawn 1
        stop a     -> abandon 1
        agent-dies ->
        remember   ->
        config     -> stopped
        ",
    );
}

#[test]
fn a_failed_service_stays_failed() {
    check(
        "
        set restart=no ->
        config     -> spawn 1
        nospawn 1  -> failed (no such file)
        agent-dies ->
        remember   ->
        config     ->
        start a    -> spawn 2
        ",
    );
}

#[test]
fn the_start_limit_holds_across_agents() {
    check(
        "
        set start_limit=2/10s ->
        config     -> spawn 1
        nospawn 1  -> backoff 0ns; spawn 2
        spawned 2  -> started 2
        agent-dies ->
        +1s        ->
        remember 2 ->
        config     -> adopted 2
        ends 2     -> exited 2; backoff 100ms; clear 2
        +100ms     -> failed (start limit reached: 2 starts within 10s; last: exited with 1)
        ",
    );
}

#[test]
fn a_birth_that_the_memory_does_not_know_is_adopted() {
    check(
        "
        config     -> spawn 1
        agent-dies ->
        remember 1 ->
        config     -> adopted 1
        ends 1     -> exited 1; clear 1; spawn 2
        ",
    );
}

#[test]
fn the_age_of_what_went_before_is_not_the_uptime_of_a_birth_nobody_was_told_of() {
    check(
        "
        set restart_delay=60s restart_max_delay=300s stable_after=10s ->
        config     -> spawn 1
        nospawn 1  -> backoff 60s
        +60s       -> spawn 2
        +20s       ->
        agent-dies ->
        remember 2 ->
        config     -> adopted 2
        ends 2     -> exited 2; backoff 60s; clear 2
        +60s       -> spawn 3
        nospawn 3  -> backoff 120s
        ",
    );
}

#[test]
fn attempts_go_on_beyond_the_remembered() {
    check(
        "
        remember 41 ->
        config      -> adopted 41
        ends 41     -> exited 41; clear 41; spawn 42
        ",
    );
}

#[test]
fn a_free_start_stays_free_for_the_next_agent() {
    check(
        "
        set start_limit=1/60s ->
        config             -> spawn 1
        spawned 1          -> started 1
        exit 1 SIGKILL else -> exited 1
        release 1          -> clear 1
        agent-dies         ->
        remember           ->
        config             -> spawn 2
        spawned 2          -> started 2
        ends 2 SIGKILL else -> exited 2; clear 2; spawn 3
        agent-dies         ->
        remember           ->
        config             -> spawn 4
        ",
    );
}

#[test]
fn a_start_that_was_counted_is_not_counted_again_by_the_next_agent() {
    check(
        "
        set start_limit=1/60s ->
        config     -> spawn 1
        agent-dies ->
        remember   ->
        config     -> spawn 2
        agent-dies ->
        remember   ->
        set exec=other ->
        config     -> failed (start limit reached: 1 start within 60s)
        ",
    );
}

#[test]
fn of_two_remembered_instances_the_later_is_kept() {
    check(
        "
        remember 2 ->
        remember 1 ->
        config     -> adopted 2; kill 1
        release 1  -> kill-rest 1
        gone 1     ->
        ",
    );
}

#[test]
fn a_remembered_service_that_the_config_lacks_is_stopped_and_forgotten() {
    check(
        "
        remember 7 @old ->
        remember @older ->
        config          -> adopted 7 @old; stopped @older; stopping 7 @old; SIGTERM 7 @old
        +10s            -> kill 7 @old
        ends 7 @old     -> exited 7 @old; kill-rest 7 @old; stopped @old; spawn 8
        start a @old    -> unknown a
        start b @older  -> unknown b
        ",
    );
}

#[test]
fn a_memory_survives_its_own_writing() {
    let mut bench = check(
        "
        set start_limit=5/60s restart_delay=1s ->
        config     -> spawn 1
        spawned 1  -> started 1
        ends 1 SIGKILL -> exited 1; backoff 1s; clear 1
        ",
    );
    bench.tell("+400ms");
    let memory = bench.supervisor.memory("s", bench.now).unwrap();
    let text = serde_json::to_string(&memory).unwrap();
    assert_eq!(serde_json::from_str::<Memory>(&text).unwrap(), memory);
    assert_eq!(memory.next_start_in, Some(Duration::from_millis(600)));
    let aged = memory.aged(Duration::from_millis(500));
    assert_eq!(aged.next_start_in, Some(Duration::from_millis(100)));
    assert_eq!(aged.starts_ago, [Duration::from_millis(900)]);
    assert_eq!(aged.ends_ago, [Duration::from_millis(900)]);
    assert_eq!(
        serde_json::from_str::<Memory>("{}").unwrap(),
        Memory::default()
    );
}

// ---- shutdown ----

#[test]
fn a_shutdown_stops_everything_and_changes_no_desire() {
    let mut bench = check(
        "
        add @b ->
        config       -> spawn 1 @b; spawn 2
        spawned 1 @b -> started 1 @b
        spawned 2    -> started 2
        restart a    -> stopping 2; SIGTERM 2
        shutdown x   -> overtaken a by shutdown; stopping 1 @b; SIGTERM 1 @b
        start b      -> overtaken b by shutdown
        shutdown y   ->
        add @c       ->
        config z     -> reloaded z +c
        ends 1 @b    -> exited 1 @b; await 1 @b; stopped @b
        ends 2       -> exited 2; await 2; stopped; done x; done y
        shutdown z   -> done z
        ",
    );
    assert_eq!(bench.supervisor.poll_timeout(), None);
    bench.tell("agent-dies");
    bench.tell("remember");
    bench.tell("remember @b");
    assert_eq!(bench.tell("config"), "spawn 3 @b; spawn 4; spawn 5 @c");
}

#[test]
fn a_shutdown_before_the_config_waits_for_what_is_remembered() {
    check(
        "
        remember 1 ->
        shutdown a ->
        config     -> adopted 1; stopping 1; SIGTERM 1
        ends 1     -> exited 1; await 1; stopped; done a
        ",
    );
}

#[test]
fn a_stop_is_not_overtaken_while_the_agent_goes() {
    check(
        "
        config     -> spawn 1
        spawned 1  -> started 1
        drop       ->
        config     -> stopping 1; SIGTERM 1
        stop a     ->
        shutdown b ->
        add        ->
        config c   -> reloaded c +s
        ends 1     -> exited 1; await 1; stopped; done a; done b
        ",
    );
}

#[test]
fn a_shutdown_of_nothing_is_done() {
    check("shutdown a -> done a");
}

// ---- reading ----

#[test]
fn status_tells_all() {
    let mut bench = check(
        "
        set restart_delay=2s ->
        config        -> spawn 1
        spawned 1     -> started 1
        ends 1 code=3 -> exited 1; backoff 2s; clear 1
        ",
    );
    let status = bench.supervisor.status("s").unwrap();
    assert_eq!(status.state, State::Backoff);
    assert_eq!(status.desired, Desired::Up);
    assert_eq!(status.instance, None);
    assert_eq!(status.restarts, 0);
    assert_eq!(status.since, bench.now);
    assert_eq!(status.next_start, Some(bench.now + Duration::from_secs(2)));
    assert_eq!(status.last_exit.unwrap().cause, Cause::Exited { code: 3 });
    bench.tell("+2s");
    bench.tell("spawned 2");
    let status = bench.supervisor.status("s").unwrap();
    assert_eq!((status.instance, status.restarts), (Some(instance(2)), 1));
    assert_eq!(bench.supervisor.statuses().count(), 1);
    assert!(bench.supervisor.status("nobody").is_none());
    assert!(bench.supervisor.spec("s").is_some());
}

#[test]
fn changed_memories_are_named_once_each() {
    let mut bench = check("add @b ->\nconfig -> spawn 1 @b; spawn 2");
    bench.tell("spawned 2");
    let names: Vec<_> = std::iter::from_fn(|| bench.supervisor.next_changed()).collect();
    assert_eq!(
        names.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["b", "s"]
    );
    bench.tell("lost 1");
    assert_eq!(bench.supervisor.next_changed(), None);
}

/// Ten thousand services: every fact costs the same as with one, or this takes minutes.
#[test]
fn ten_thousand_services_are_no_burden() {
    let mut bench = Bench::new();
    let now = bench.now;
    let mut spec = default_spec();
    spec.policy.restart_delay = Duration::from_secs(1);
    let spec = std::sync::Arc::new(spec);
    let names: Vec<ServiceName> = (0..10_000).map(|n| format!("service-{n}").into()).collect();
    let services = names.iter().map(|name| (name.clone(), spec.clone()));
    let fact = Fact::Configured {
        services: services.collect(),
        request: None,
    };
    bench.supervisor.handle_fact(fact, now);
    for _ in 0..10 {
        let mut pending = std::collections::VecDeque::new();
        let mut backing_off = 0;
        bench.now += Duration::from_secs(30);
        bench.supervisor.handle_timeout(bench.now);
        loop {
            while let Some(action) = bench.supervisor.next_action() {
                backing_off +=
                    usize::from(matches!(action, Action::Publish(Notice::Backoff { .. })));
                pending.extend(answer(action));
            }
            let Some(fact) = pending.pop_front() else {
                break;
            };
            bench.supervisor.handle_fact(fact, bench.now);
        }
        assert_eq!(backing_off, 10_000);
    }
}

/// The world's answer: every start succeeds, and the instance ends at once.
fn answer(action: Action) -> Vec<Fact> {
    let death = || Death {
        cause: Cause::Exited { code: 1 },
        blame: Blame::Itself,
        comm: None,
        uptime: None,
        time: None,
        since_boot: None,
    };
    match action {
        Action::Spawn { service, attempt } => vec![
            Fact::Spawned {
                service: service.clone(),
                attempt,
                instance: instance(attempt.0),
            },
            Fact::ProcessReleased {
                service,
                instance: instance(attempt.0),
                death: death(),
            },
        ],
        Action::ClearTree {
            service, instance, ..
        } => vec![Fact::TreeGone { service, instance }],
        _ => Vec::new(),
    }
}

/// The core is asked for its next deadline by a loop that would spin if it were in the past.
#[test]
fn no_deadline_is_left_behind() {
    let mut bench = check("set stop_timeout=0s ->\nconfig -> spawn 1\nspawned 1 -> started 1");
    bench.tell("stop a");
    assert_eq!(bench.supervisor.poll_timeout(), Some(bench.now));
    bench.supervisor.handle_timeout(bench.now);
    let never: Option<Instant> = None;
    assert_eq!(bench.supervisor.poll_timeout(), never);
}

// ---- a storm of ends ----

/// Ends so many instances in a row, each at once after its start, and returns what followed the
/// last end. `attempt` is the one that is being started.
fn end_at_once(bench: &mut Bench, attempt: u64, times: u64, how: &str) -> String {
    let mut followed = String::new();
    for attempt in attempt..attempt + times {
        bench.tell(&format!("spawned {attempt}"));
        bench.tell("+1ms");
        followed = bench.tell(&format!("ends {attempt} {how}"));
    }
    followed
}

#[test]
fn whoever_ends_it_twenty_ends_in_a_second_are_free_and_no_more() {
    let mut bench = check("config -> spawn 1");
    let last = end_at_once(&mut bench, 1, 20, "SIGKILL else");
    assert_eq!(last, "exited 20; clear 20; spawn 21");
    let last = end_at_once(&mut bench, 21, 1, "SIGKILL else");
    assert_eq!(last, "exited 21; backoff 100ms; clear 21");
    assert_eq!(bench.tell("+99ms"), "");
    // From here on each one doubles it, for as long as there is no stable run.
    let mut delay = 100;
    for attempt in 22..40 {
        assert_eq!(
            bench.tell(&format!("+{delay}ms")),
            format!("spawn {attempt}")
        );
        delay = (2 * delay).min(30_000);
        let last = end_at_once(&mut bench, attempt, 1, "SIGKILL else");
        let delay = Duration::from_millis(delay);
        let expected = format!("exited {attempt}; backoff {delay:?}; clear {attempt}");
        assert_eq!(last, expected);
    }
    bench.tell("+30s");
    bench.tell("spawned 40");
    bench.tell("+10s");
    assert_eq!(
        bench.tell("ends 40 SIGKILL else"),
        "exited 40; clear 40; spawn 41"
    );
}

#[test]
fn twenty_one_ends_in_more_than_a_second_cost_nothing() {
    let mut bench = check("config -> spawn 1");
    for attempt in 1..100 {
        bench.tell(&format!("spawned {attempt}"));
        bench.tell("+50ms");
        let last = bench.tell(&format!("ends {attempt} SIGKILL else"));
        let expected = format!("exited {attempt}; clear {attempt}; spawn {}", attempt + 1);
        assert_eq!(last, expected);
    }
}

#[test]
fn a_policy_without_any_delay_does_not_make_it_spin() {
    let policy = "set restart_max_delay=0s stable_after=0s ->";
    let mut bench = check(&format!("{policy}\nconfig -> spawn 1"));
    let last = end_at_once(&mut bench, 1, 21, "");
    assert_eq!(last, "exited 21; backoff 100ms; clear 21");
    let mut bench = check(&format!("{policy}\nconfig -> spawn 1"));
    for attempt in 1..=20 {
        let next = format!("backoff 0ns; spawn {}", attempt + 1);
        assert_eq!(bench.tell(&format!("nospawn {attempt}")), next);
    }
    assert_eq!(bench.tell("nospawn 21"), "backoff 100ms");
    bench.tell("+100ms");
    assert_eq!(bench.tell("nospawn 22"), "backoff 200ms");
}

#[test]
fn a_storm_of_other_peoples_doing_counts_towards_no_start_limit() {
    let mut bench = check("set start_limit=1/3600s ->\nconfig -> spawn 1");
    let last = end_at_once(&mut bench, 1, 21, "SIGKILL else");
    assert_eq!(last, "exited 21; backoff 100ms; clear 21");
    assert_eq!(bench.tell("+100ms"), "spawn 22");
    // Nor for the next agent.
    end_at_once(&mut bench, 22, 1, "SIGKILL else");
    bench.tell("agent-dies");
    bench.tell("remember");
    assert_eq!(bench.tell("config"), "");
    assert_eq!(bench.tell("+200ms"), "spawn 23");
    let last = end_at_once(&mut bench, 23, 1, "SIGKILL else");
    assert_eq!(last, "exited 23; backoff 400ms; clear 23");
}

#[test]
fn a_storm_of_ends_that_nobody_saw_is_one_over_the_death_of_each_agent() {
    let mut bench = check("config -> spawn 1");
    end_at_once(&mut bench, 1, 20, "unknown");
    bench.tell("spawned 21");
    bench.tell("agent-dies");
    bench.tell("remember 21");
    bench.tell("release 21 unknown");
    assert_eq!(bench.tell("config"), "exited 21; backoff 100ms; clear 21");
}

#[test]
fn who_asks_for_a_start_in_a_storm_gets_it_at_once() {
    let mut bench = check("config -> spawn 1");
    end_at_once(&mut bench, 1, 21, "SIGKILL else");
    assert_eq!(bench.tell("start a"), "spawn 22");
    let last = end_at_once(&mut bench, 22, 1, "SIGKILL else");
    assert_eq!(last, "exited 22; clear 22; spawn 23");
}

// ---- a file that cannot be used ----

#[test]
fn what_may_end_is_tried_again_until_the_file_can_be_used() {
    check(
        "
        set unusable=for-now ->
        config      -> spawn 1
        nospawn 1   -> backoff 1s
        +1s         -> spawn 2
        nospawn 2   -> backoff 1s
        +1s         -> spawn 3
        nospawn 3   -> backoff 2s
        +2s         -> spawn 4
        described 4 -> spawn 5
        described 4 ->
        spawned 5   -> started 5
        ends 5      -> exited 5; backoff 400ms; clear 5
        ",
    );
}

#[test]
fn what_does_not_end_is_failed_until_someone_starts_it() {
    check(
        "
        set unusable=for-good ->
        config      -> spawn 1
        nospawn 1   -> failed (no such file)
        +60s        ->
        start a     -> spawn 2
        nospawn 2   -> start failed a; failed (no such file)
        start b     -> spawn 3
        described 3 -> spawn 4
        spawned 4   -> started 4; done b
        ",
    );
}

#[test]
fn a_stop_or_a_newer_config_is_not_undone_by_a_file_that_can_be_used() {
    check(
        "
        set unusable=for-now ->
        config      -> spawn 1
        stop a      -> abandon 1
        described 1 -> stopped; done a
        start b     -> spawn 2
        add         ->
        set exec=x  ->
        config      -> abandon 2
        described 2 -> spawn 3
        spawned 3   -> started 3; done b
        config      ->
        ",
    );
}

#[test]
fn an_instance_whose_file_cannot_be_used_lives_on_and_is_mended_if_it_can() {
    let told = "
        config              -> spawn 1
        spawned 1           -> started 1
        agent-dies          ->
        remember 1          ->
        set unusable=for-good ->
        config              -> adopted 1
        ";
    check(&format!(
        "{told}
        ends 1 SIGKILL else -> exited 1; clear 1; spawn 2
        described 2         -> spawn 3
        spawned 3           -> started 3
        "
    ));
    check(&format!(
        "{told}
        ends 1              -> exited 1; clear 1; spawn 2
        nospawn 2           -> failed (no such file)
        "
    ));
    // What runs is what the file says, or is not.
    check(&format!(
        "{told}
        add                 ->
        config z            -> reloaded z ~s
        "
    ));
    check(&format!(
        "{told}
        add                 ->
        set exec=x          ->
        config z            -> stopping 1; SIGTERM 1
        "
    ));
}

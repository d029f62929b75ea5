//! Services whose own end ends the agent, by scripts.

use super::script::check;

/// An agent that ends with `s`, and has `db` beside it, which `s` requires.
const RUNNING: &str = "
    container  ->
    set essential=true restart=no requires=db ->
    add @db    ->
    config     -> spawn 1 @db
    spawned 1 @db -> started 1 @db; spawn 2
    spawned 2  -> started 2
";

#[test]
fn the_others_stop_and_the_agent_ends_with_its_status() {
    for (end, told, status) in [
        ("code=0", "stopped", 0),
        ("code=3", "failed (exited with 3)", 3),
        ("SIGSEGV", "failed (killed by SIGSEGV)", 139),
        ("SIGTERM else", "failed (killed by SIGTERM)", 143),
        ("oom", "failed (killed for lack of memory)", 137),
        ("unknown", "failed (gone, cause unknown)", 1),
    ] {
        check(&format!(
            "
            {RUNNING}
            exit 2 {end} -> exited 2
            release 2 {end} -> clear 2
            gone 2     -> {told}; stopping 1 @db; SIGTERM 1 @db
            start a    -> overtaken a by shutdown
            exit 1 SIGTERM else @db -> exited 1 @db
            release 1 @db -> await 1 @db
            gone 1 @db -> stopped @db; end {status}
            +60s       ->
            "
        ));
    }
}

#[test]
fn a_success_of_any_status_is_one_and_a_failure_is_none() {
    check(&format!(
        "
        {RUNNING}
        set success=3 ->
        config a   -> reloaded a ~s
        ends 2 code=0 -> exited 2; clear 2; failed (exited with 0); stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; stopped @db; end 1
        "
    ));
}

#[test]
fn as_long_as_it_is_started_again_it_has_not_ended() {
    check(
        "
        container  ->
        set essential=true start_limit=2/60s ->
        add @db    ->
        config     -> spawn 1 @db; spawn 2
        spawned 1 @db -> started 1 @db
        spawned 2  -> started 2
        ends 2 code=7 -> exited 2; clear 2; spawn 3
        spawned 3  -> started 3
        ends 3 code=9 -> exited 3; backoff 100ms; clear 3
        +100ms     -> failed (start limit reached: 2 starts within 60s; last: exited with 9); stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; stopped @db; end 9
        ",
    );
}

#[test]
fn a_start_that_fails_for_good_is_an_end() {
    check(
        "
        container  ->
        set essential=true restart=no ->
        config     -> spawn 1
        nospawn 1  -> failed (no such file); end 1
        ",
    );
}

#[test]
fn a_oneshot_that_is_done_is_an_end() {
    check(
        "
        container  ->
        set essential=true type=oneshot restart=no ->
        config     -> spawn 1
        spawned 1  -> started 1
        ends 1 code=0 -> exited 1; clear 1; oneshot-done; end 0
        ",
    );
}

#[test]
fn what_somebody_asks_for_is_no_end() {
    check(&format!(
        "
        {RUNNING}
        stop a     -> stopping 2; SIGTERM 2
        ends 2 SIGTERM else -> exited 2; await 2; stopped; done a
        start b    -> spawn 3
        spawned 3  -> started 3; done b
        drop       ->
        config c   -> stopping 3; SIGTERM 3
        ends 3 code=1 -> exited 3; await 3; stopped; reloaded c -s
        shutdown d -> stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; stopped @db; done d
        "
    ));
}

#[test]
fn an_end_that_a_shutdown_has_overtaken_counts() {
    check(&format!(
        "
        {RUNNING}
        exit 2 code=5 -> exited 2
        shutdown a ->
        release 2 code=5 -> clear 2
        gone 2     -> failed (exited with 5); stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; stopped @db; done a; end 5
        "
    ));
}

#[test]
fn an_agent_that_does_not_end_with_services_goes_on() {
    let script = RUNNING.replace("container  ->", "");
    check(&format!(
        "
        {script}
        ends 2 code=3 -> exited 2; clear 2; failed (exited with 3)
        start a    -> spawn 3
        "
    ));
}

#[test]
fn the_next_agent_continues_the_end_and_the_one_after_it_has_no_memory_of_it() {
    check(&format!(
        "
        {RUNNING}
        ends 2 code=3 -> exited 2; clear 2; failed (exited with 3); stopping 1 @db; SIGTERM 1 @db
        agent-dies ->
        container  ->
        remember   ->
        remember 1 @db ->
        config     -> adopted 1 @db; stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; stopped @db; end 3
        agent-dies ->
        container  ->
        remember   ->
        remember @db ->
        config     -> spawn 3 @db
        spawned 3 @db -> started 3 @db; spawn 4
        "
    ));
}

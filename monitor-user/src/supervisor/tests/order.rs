//! Services that wait for each other, by scripts.

use std::time::Duration;

use super::super::*;
use super::script::{Bench, check, default_spec};
use crate::model::*;

/// What is said of a service's order.
fn remarks(bench: &Bench, service: &str) -> String {
    bench.supervisor.remarks(service).join("; ")
}

fn state(bench: &Bench, service: &str) -> State {
    bench.supervisor.status(service).unwrap().state
}

/// `s` requires `db`, and both run.
const BOTH_UP: &str = "
    set requires=db ->
    add @db    ->
    config     -> spawn 1 @db
    spawned 1 @db -> started 1 @db; spawn 2
    spawned 2  -> started 2
";

#[test]
fn what_is_required_starts_first_and_stops_last() {
    check(&format!(
        "{BOTH_UP}
        shutdown x -> stopping 2; SIGTERM 2
        exit 2     -> exited 2
        release 2  -> await 2
        gone 2     -> stopped; stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; stopped @db; done x
        "
    ));
}

#[test]
fn who_has_nothing_to_do_with_each_other_starts_and_stops_together() {
    check(
        "
        add @a     ->
        add @b     ->
        set after=a,b ->
        config     -> spawn 1 @a; spawn 2 @b
        spawned 2 @b -> started 2 @b
        spawned 1 @a -> started 1 @a; spawn 3
        spawned 3  -> started 3
        shutdown x -> stopping 3; SIGTERM 3
        ends 3     -> exited 3; await 3; stopped; stopping 1 @a; SIGTERM 1 @a; stopping 2 @b; SIGTERM 2 @b
        ",
    );
}

#[test]
fn after_alone_goes_on_when_the_first_start_has_failed_and_requires_does_not() {
    let bench = check(
        "
        set after=db ->
        add @app   ->
        set requires=db @app ->
        add @db    ->
        set restart_delay=1s @db ->
        config     -> spawn 1 @db
        nospawn 1 @db -> backoff 1s @db; spawn 2
        ",
    );
    assert_eq!(state(&bench, "app"), State::Waiting);
    assert_eq!(
        remarks(&bench, "app"),
        "waits for db, which is in backoff: no such file"
    );
    assert_eq!(remarks(&bench, "s"), "");
}

#[test]
fn a_requirement_that_has_failed_for_good_holds_up_nobody() {
    let bench = check(
        "
        set requires=db ->
        add @db    ->
        set restart=no @db ->
        config     -> spawn 1 @db
        nospawn 1 @db -> failed (no such file) @db; spawn 2
        spawned 2  -> started 2
        ",
    );
    assert_eq!(
        remarks(&bench, "s"),
        "db, which it requires, has failed: no such file"
    );
}

#[test]
fn whoever_waits_for_a_start_hears_of_a_requirement_that_fails() {
    let bench = check(
        "
        set autostart=false requires=app ->
        add @app   ->
        set autostart=false requires=db @app ->
        add @db    ->
        set autostart=false restart_delay=1s @db ->
        config     ->
        start a    -> spawn 1 @db
        nospawn 1 @db -> backoff 1s @db; start failed a
        start b    -> spawn 2 @db
        spawned 2 @db -> started 2 @db; spawn 3 @app
        spawned 3 @app -> started 3 @app; spawn 4
        spawned 4  -> started 4; done b
        ",
    );
    assert_eq!(remarks(&bench, "s"), "");
}

#[test]
fn the_chain_of_waits_is_told() {
    let bench = check(
        "
        set requires=app ->
        add @app   ->
        set requires=db,cache @app ->
        add @db    ->
        add @cache ->
        config     -> spawn 1 @cache; spawn 2 @db
        spawned 1 @cache -> started 1 @cache
        ",
    );
    assert_eq!(
        remarks(&bench, "s"),
        "waits for app, which waits for db, which is starting"
    );
}

#[test]
fn a_stop_and_a_restart_carry_to_those_that_require_it_and_a_crash_does_not() {
    let bench = check(&format!(
        "{BOTH_UP}
        ends 1 SIGKILL else @db -> exited 1 @db; clear 1 @db; spawn 3 @db
        spawned 3 @db -> started 3 @db
        restart a @db -> stopping 2; SIGTERM 2
        ends 2     -> exited 2; await 2; stopping 3 @db; SIGTERM 3 @db
        ends 3 @db -> exited 3 @db; await 3 @db; spawn 4 @db
        spawned 4 @db -> started 4 @db; done a; spawn 5
        spawned 5  -> started 5
        stop b @db -> stopping 5; SIGTERM 5
        ends 5     -> exited 5; await 5; stopped; stopping 4 @db; SIGTERM 4 @db
        ends 4 @db -> exited 4 @db; await 4 @db; stopped @db; done b
        start c @db -> spawn 6 @db
        "
    ));
    assert_eq!(state(&bench, "s"), State::Stopped);
}

#[test]
fn a_part_of_a_service_follows_its_stop_and_restart_and_is_not_started_by_it() {
    check(
        "
        set part_of=db autostart=false ->
        add @db    ->
        config     -> spawn 1 @db
        spawned 1 @db -> started 1 @db
        start a    -> spawn 2
        spawned 2  -> started 2; done a
        ends 1 SIGKILL else @db -> exited 1 @db; clear 1 @db; spawn 3 @db
        spawned 3 @db -> started 3 @db
        restart b @db -> stopping 2; SIGTERM 2
        ends 2     -> exited 2; await 2; stopping 3 @db; SIGTERM 3 @db
        ends 3 @db -> exited 3 @db; await 3 @db; spawn 4 @db
        spawned 4 @db -> started 4 @db; done b; spawn 5
        spawned 5  -> started 5
        stop c @db -> stopping 5; SIGTERM 5
        ends 5     -> exited 5; await 5; stopped; stopping 4 @db; SIGTERM 4 @db
        ends 4 @db -> exited 4 @db; await 4 @db; stopped @db; done c
        start d @db -> spawn 6 @db
        spawned 6 @db -> started 6 @db; done d
        start e    -> spawn 7
        ",
    );
}

#[test]
fn a_service_that_is_bound_follows_a_crash() {
    check(
        "
        set binds=db ->
        add @db    ->
        set restart_delay=1s @db ->
        config     -> spawn 1 @db
        spawned 1 @db -> started 1 @db; spawn 2
        spawned 2  -> started 2
        ends 1 @db -> exited 1 @db; backoff 1s @db; stopping 2; SIGTERM 2; clear 1 @db
        ends 2     -> exited 2; await 2
        +1s        -> spawn 3 @db
        spawned 3 @db -> started 3 @db; spawn 4
        ",
    );
}

#[test]
fn a_start_brings_up_what_is_required_and_wanted() {
    check(
        "
        set autostart=false requires=db wants=cache,none ->
        add @db    ->
        set autostart=false @db ->
        add @cache ->
        set autostart=false requires=disk @cache ->
        add @disk  ->
        set autostart=false @disk ->
        config     ->
        start a    -> spawn 1 @db; spawn 2 @disk
        spawned 1 @db -> started 1 @db; spawn 3
        spawned 3  -> started 3; done a
        spawned 2 @disk -> started 2 @disk; spawn 4 @cache
        stop b @db -> stopping 3; SIGTERM 3
        ",
    );
}

#[test]
fn whatever_starts_with_the_agent_brings_the_others_along() {
    check(
        "
        set wants=cache ->
        add @cache ->
        set autostart=false @cache ->
        add @other ->
        set autostart=false @other ->
        config     -> spawn 1 @cache; spawn 2
        ",
    );
}

#[test]
fn what_somebody_stopped_stays_down_over_the_agents_death() {
    check(
        "
        set wants=cache ->
        add @cache ->
        config     -> spawn 1 @cache; spawn 2
        spawned 1 @cache -> started 1 @cache
        spawned 2  -> started 2
        stop a @cache -> stopping 1 @cache; SIGTERM 1 @cache
        ends 1 @cache -> exited 1 @cache; await 1 @cache; stopped @cache; done a
        agent-dies ->
        remember @cache ->
        remember 2 ->
        config     -> adopted 2
        ",
    );
}

#[test]
fn the_next_agent_goes_on_with_waiting() {
    let bench = check(
        "
        set requires=db ->
        add @db    ->
        config     -> spawn 1 @db
        agent-dies ->
        remember   ->
        remember @db ->
        config     -> spawn 2 @db
        ",
    );
    assert_eq!(state(&bench, "s"), State::Waiting);
}

#[test]
fn the_next_agent_goes_on_with_a_stop_in_order() {
    check(&format!(
        "{BOTH_UP}
        restart a @db -> stopping 2; SIGTERM 2
        sent 2     ->
        agent-dies ->
        remember 2 ->
        remember 1 @db ->
        config     -> adopted 1 @db; adopted 2; stopping 2
        ends 2     -> exited 2; await 2; stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; spawn 3 @db
        spawned 3 @db -> started 3 @db; spawn 4
        "
    ));
}

#[test]
fn one_request_of_several_services_keeps_their_order() {
    check(
        "
        set after=db ->
        add @db    ->
        config     -> spawn 1 @db
        spawned 1 @db -> started 1 @db; spawn 2
        spawned 2  -> started 2
        all stop db s -> stopping 2; SIGTERM 2
        ends 2     -> exited 2; await 2; stopped; done b; stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; stopped @db; done a
        all start s db -> spawn 3 @db
        spawned 3 @db -> started 3 @db; done b; spawn 4
        ",
    );
}

#[test]
fn a_reload_changes_the_order_and_restarts_nothing_for_it() {
    check(
        "
        add @db    ->
        config     -> spawn 1 @db; spawn 2
        spawned 1 @db -> started 1 @db
        spawned 2  -> started 2
        set requires=db ->
        config x   -> reloaded x ~s
        set exec=y @db ->
        config y   -> stopping 2; SIGTERM 2
        ends 2     -> exited 2; await 2; stopping 1 @db; SIGTERM 1 @db
        ends 1 @db -> exited 1 @db; await 1 @db; spawn 3 @db
        spawned 3 @db -> started 3 @db; spawn 4
        spawned 4  -> started 4; reloaded y ~db!
        set requires= ->
        config z   -> reloaded z ~s
        restart b @db -> stopping 3 @db; SIGTERM 3 @db
        ",
    );
}

#[test]
fn a_reload_starts_what_is_required_from_now_on() {
    check(
        "
        add @db    ->
        set autostart=false @db ->
        config     -> spawn 1
        spawned 1  -> started 1
        set requires=db ->
        config x   -> spawn 2 @db
        spawned 2 @db -> started 2 @db; reloaded x ~s
        ",
    );
}

#[test]
fn a_service_whose_wait_is_taken_from_it_starts() {
    check(
        "
        set requires=db ->
        add @db    ->
        set restart_delay=1s @db ->
        config     -> spawn 1 @db
        nospawn 1 @db -> backoff 1s @db
        set requires= ->
        config x   -> spawn 2; reloaded x ~s
        ",
    );
}

#[test]
fn a_cycle_cannot_get_in() {
    let bench = check(
        "
        set requires=b ->
        add @b     ->
        set after=s @b ->
        add @c     ->
        set after=b @c ->
        config     -> spawn 1 @b; spawn 2
        spawned 1 @b -> started 1 @b; spawn 3 @c
        ",
    );
    assert!(remarks(&bench, "s").contains("part of a cycle"));
    assert!(!bench.supervisor.order.has_cycle());
}

#[test]
fn a_file_that_would_close_a_cycle_cannot_be_used() {
    let mut bench = check(
        "
        set after=b ->
        add @b     ->
        set unusable=for-now @b ->
        config     -> spawn 1 @b
        ",
    );
    let mut spec = default_spec();
    spec.relations.requires.insert("s".into());
    bench.fact(Fact::Described {
        service: "b".into(),
        attempt: Attempt(1),
        spec: Arc::new(spec),
    });
    let status = bench.supervisor.status("b").unwrap();
    assert_eq!(
        status.last_failure.unwrap().message,
        "its order is a cycle: b requires s, s after b"
    );
    assert!(!bench.supervisor.order.has_cycle());
}

/// What this thread has had of the processor: what else the host does counts for nothing.
fn processor_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.unwrap().into()
}

/// Ten thousand services after one: none of the steps may look at all of them for each.
#[test]
fn ten_thousand_services_behind_one_take_little_time() {
    const COUNT: u32 = 10_000;
    let mut bench = Bench::new();
    let mut services: BTreeMap<ServiceName, Arc<Spec>> = BTreeMap::new();
    services.insert("base".into(), Arc::new(default_spec()));
    for number in 0..COUNT {
        let mut spec = default_spec();
        spec.relations.requires.insert("base".into());
        services.insert(format!("n{number:05}").into(), Arc::new(spec));
    }
    let begun = processor_time();
    bench.fact(Fact::Configured {
        services,
        request: None,
    });
    let mut living = Vec::new();
    let mut shut_down = false;
    loop {
        let mut facts = Vec::new();
        while let Some(action) = bench.supervisor.next_action() {
            match action {
                Action::Spawn { service, attempt } => {
                    let instance = super::script::instance(attempt.0);
                    living.push((service.clone(), instance));
                    facts.push(Fact::Spawned {
                        service,
                        attempt,
                        instance,
                    });
                }
                Action::Stop {
                    service, instance, ..
                } => facts.push(Fact::ProcessReleased {
                    service,
                    instance,
                    death: Death {
                        cause: Cause::Exited { code: 0 },
                        blame: Blame::Itself,
                        comm: None,
                        uptime: None,
                        time: None,
                        since_boot: None,
                    },
                }),
                Action::ClearTree {
                    service, instance, ..
                } => facts.push(Fact::TreeGone { service, instance }),
                _ => {}
            }
        }
        if facts.is_empty() && shut_down {
            break;
        }
        if facts.is_empty() {
            shut_down = true;
            let request = RequestId(1);
            facts.push(Fact::ShutdownRequested { request });
        }
        for fact in facts {
            bench.fact(fact);
        }
    }
    assert_eq!(living.len(), usize::try_from(COUNT).unwrap() + 1);
    let mut states = bench.supervisor.statuses();
    assert!(states.all(|status| status.state == State::Stopped));
    // A quadratic step takes minutes in this build.
    let took = processor_time() - begun;
    assert!(took < Duration::from_secs(30), "{took:?}");
    println!("{took:?}");
}

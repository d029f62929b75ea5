use glob::Pattern;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::words::owner;
use super::*;
use crate::accounts::Accounts;
use crate::journal::JournalLine;
use crate::model::{Owner, Signal};
use crate::report::Times;

const ID: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";

/// A death as a recorder writes it, killed by `kill`, which bash had started.
fn killed() -> Value {
    json!({
        "seq": 7, "event": "exited", "time": "2026-11-26T12:03:04.567Z", "pid": 700, "start_time_ns": 1,
        "comm": "nginx", "uptime_ns": 192_000_000_000_u64,
        "cause": {"kind": "signaled", "code": null, "signal": "SIGKILL", "core_dumped": false,
            "how": "kill", "fault": null, "oom": null,
            "sender": {"pid": 50, "host_pid": 50, "start_time_ns": 1, "uid": 0, "comm": "kill",
                "parent": {"pid": 3, "comm": "bash"}, "itself": false, "own": false,
                "exe": "/usr/bin/kill", "argv": ["kill", "-9", "700"], "argv_cut": false,
                "login_uid": 4_000_000_000_u32, "login_session": 2, "tty": "pts/0",
                "cgroup": "/user.slice/user-1000.slice/session-2.scope", "unit": "session-2.scope",
                "ancestors": [{"pid": 3, "comm": "bash"}, {"pid": 2, "comm": "sshd"}]}},
        "last_signal": null, "host_pid": 700, "parent_pid": 1, "uid": 33, "cgroup_id": 9,
        "usage": null, "core": null, "last_output": null, "children_left_out": null,
        "exe": "/usr/sbin/nginx", "argv": ["nginx", "-g", "daemon off;", ""], "argv_cut": true,
        "cgroup": "/system.slice/nginx.service", "unit": "nginx.service", "user_unit": null,
        "slice": "system.slice", "container": null, "runtime": null, "pod": null, "qos": null,
        "service": null, "ancestors": [{"pid": 1, "comm": "systemd"}],
        "since_boot_ns": 9, "boot_id": "b", "host": "web1", "cursor": "c",
    })
}

fn line_of(event: &Value) -> JournalLine {
    let text = event.to_string();
    let event = text.parse().unwrap();
    JournalLine { text, event }
}

fn with(changes: Value) -> Kept {
    let mut event = killed();
    for (key, value) in changes.as_object().unwrap() {
        event[key] = value.clone();
    }
    Kept::of(&line_of(&event)).unwrap()
}

fn told(kept: &Kept) -> String {
    let time: Timestamp = "2026-11-26T12:03:04.567Z".parse().unwrap();
    let times = Times::with_date(TimeZone::UTC);
    let line = line(
        &kept.exit,
        &kept.profile,
        Some(time),
        &times,
        &Accounts::of_this_host(),
    );
    anstream::adapter::strip_str(&line).to_string()
}

#[test]
fn a_line_names_the_sender_and_who_started_it() {
    let line = told(&with(json!({})));
    assert_eq!(
        line,
        "2026-11-26 12:03:04.567      700  nginx             nginx.service               3m12s  \
         killed by SIGKILL from /usr/bin/kill (pid 50, uid 0, login user 4000000000) < bash (pid 3) \
         < sshd (pid 2)"
    );
    let header = header(&Times::with_date(TimeZone::UTC));
    for (name, column) in [
        ("UNIT OR", "nginx.service"),
        ("CAUSE", "killed"),
        ("COMM", "nginx "),
    ] {
        assert_eq!(header.find(name), line.find(column), "{name}");
    }
    assert_eq!(
        header.find("PID").map(|at| at + 3),
        line.find("700").map(|at| at + 3)
    );
}

#[test]
fn what_is_not_known_is_left_out() {
    let nothing = json!({"event": "exited", "pid": 7, "cause": null});
    assert!(Kept::of(&line_of(&nothing)).is_none(), "no cause");
    let little = json!({"event": "exited", "pid": 7, "cause": {"kind": "exited", "code": 3,
        "signal": null, "core_dumped": false}});
    let kept = Kept::of(&line_of(&little)).unwrap();
    assert_eq!(
        told(&kept),
        "2026-11-26 12:03:04.567        7  ?                 -                               ?  \
         exited with 3"
    );
    assert!(Kept::of(&line_of(&json!({"event": "deaths_lost", "count": 3}))).is_none());
    // A recorder that knew nothing of the sender but what the agent knows too.
    let kept = with(
        json!({"cause": {"kind": "signaled", "signal": "SIGTERM", "core_dumped": false,
        "sender": {"pid": 0, "host_pid": 9, "start_time_ns": 0, "uid": 7, "comm": "ba\u{7}sh",
            "parent": {"pid": 1, "comm": "init"}}}}),
    );
    let line = told(&kept);
    let words = "killed by SIGTERM from ba\\u{7}sh (pid 9 of the host, uid 7) < init (pid 1)";
    assert!(line.ends_with(words), "{line}");
}

#[test]
fn who_had_asked_is_named_with_its_program() {
    let kept = with(json!({
        "cause": {"kind": "exited", "code": 1, "signal": null, "core_dumped": false},
        "last_signal": {"signal": "SIGTERM", "before_exit_ns": 1, "how": "kill",
            "sender": {"pid": 1, "start_time_ns": 0, "uid": 0, "comm": "systemd",
                "exe": "/usr/lib/systemd/systemd", "argv_cut": false, "ancestors": []}},
    }));
    let line = told(&kept);
    let words = "exited with 1, asked to by SIGTERM from /usr/lib/systemd/systemd (pid 1, uid 0)";
    assert!(line.ends_with(words), "{line}");
}

#[test]
fn owners_have_short_names() {
    let owner_of = |path: &str| owner(&Owner::of_cgroup(&path.replace("ID", ID)));
    for (path, expected) in [
        ("/", None),
        ("/system.slice/nginx.service", Some("nginx.service")),
        (
            "/user.slice/user-1.slice/user@1.service/app.slice/x.service",
            Some("x.service"),
        ),
        ("/system.slice/docker-ID.scope", Some("docker 4f797c539e6c")),
        ("/kubepods/podx/ID", Some("container 4f797c539e6c")),
        ("/lxc/web", Some("lxc web")),
        (
            "/lxc.payload.web/system.slice/nginx.service",
            Some("nginx.service in lxc web"),
        ),
        (
            r"/machine.slice/machine-a\x2db.scope/payload",
            Some("systemd-nspawn a-b"),
        ),
        ("/respawn/x/web.0", Some("web")),
        ("/lxc.payload.a/openrc.sshd", Some("sshd in lxc a")),
    ] {
        assert_eq!(owner_of(path).as_deref(), expected, "{path}");
    }
}

fn patterns(text: &str) -> Vec<Pattern> {
    vec![Pattern::new(text).unwrap()]
}

/// Each filter alone: whether it wants that death.
fn check(rows: &[(Filter, &Kept, bool)]) {
    for (index, (filter, kept, expected)) in rows.iter().enumerate() {
        assert_eq!(
            filter.wants(&kept.facts()),
            *expected,
            "{index}: {filter:?}"
        );
        assert!(!filter.wants_all(), "{filter:?}");
    }
}

#[test]
fn filters_choose_by_the_cause() {
    let killed = with(json!({}));
    let exited = |code: u8| {
        with(
            json!({"cause": {"kind": "exited", "code": code, "signal": null, "core_dumped": false}}),
        )
    };
    let oom = with(
        json!({"cause": {"kind": "oom_killed", "code": null, "signal": "SIGKILL",
        "core_dumped": false, "oom": null}}),
    );
    let none = Filter::default();
    assert!(none.wants_all() && none.wants(&killed.facts()));
    let signal = |signal| Filter {
        signals: vec![signal],
        ..Filter::default()
    };
    let code = |code| Filter {
        exit_codes: vec![code],
        ..Filter::default()
    };
    let failed = Filter {
        failed: true,
        ..Filter::default()
    };
    check(&[
        (failed.clone(), &killed, true),
        (failed.clone(), &exited(1), true),
        (failed, &exited(0), false),
        (signal(Signal::KILL), &killed, true),
        (signal(Signal::KILL), &oom, true),
        (signal(Signal::TERM), &killed, false),
        (signal(Signal::KILL), &exited(9), false),
        (code(9), &exited(9), true),
        (code(9), &exited(1), false),
        (code(9), &killed, false),
    ]);
}

#[test]
fn filters_choose_by_the_unit_and_the_container() {
    let kept = with(json!({}));
    let in_container = with(json!({"unit": null, "container": ID}));
    let user = with(json!({"unit": "user@1000.service", "user_unit": r"a\x2db.service"}));
    let unit = |text| Filter {
        units: patterns(text),
        ..Filter::default()
    };
    let container = |id: &str| Filter {
        containers: vec![id.to_owned()],
        ..Filter::default()
    };
    let cgroup = |path: &str| Filter {
        cgroups: vec![path.to_owned()],
        ..Filter::default()
    };
    check(&[
        (unit("nginx.service"), &kept, true),
        (unit("nginx"), &kept, true),
        (unit("ngin*"), &kept, true),
        (unit("nginx.socket"), &kept, false),
        (unit(r"a\x2db.service"), &user, true),
        (unit("user@*"), &user, true),
        (unit("*"), &in_container, false),
        (container(ID), &in_container, true),
        (container("4f79"), &in_container, true),
        (container("4f7"), &in_container, false),
        (container("f797"), &in_container, false),
        (container("4f79"), &kept, false),
        (cgroup("/system.slice"), &kept, true),
        (cgroup("/system.slice/nginx.service/"), &kept, true),
        (cgroup("/"), &kept, true),
        (cgroup("/system"), &kept, false),
    ]);
}

#[test]
fn filters_choose_by_the_process() {
    let kept = with(json!({}));
    let exe = |text| Filter {
        exes: patterns(text),
        ..Filter::default()
    };
    let name = |text| Filter {
        names: patterns(text),
        ..Filter::default()
    };
    let uid = |uid| Filter {
        uids: vec![uid],
        ..Filter::default()
    };
    let pid = |pid| Filter {
        pids: vec![pid],
        ..Filter::default()
    };
    let tree = |pid| Filter {
        trees: vec![pid],
        ..Filter::default()
    };
    check(&[
        (exe("/usr/sbin/*"), &kept, true),
        (exe("nginx"), &kept, true),
        (exe("sbin/nginx"), &kept, false),
        (name("ng*x"), &kept, true),
        (name("ng"), &kept, false),
        (uid(33), &kept, true),
        (uid(0), &kept, false),
        (pid(700), &kept, true),
        (pid(1), &kept, false),
        (tree(1), &kept, true),
        (tree(700), &kept, true),
        (tree(2), &kept, false),
    ]);
}

#[test]
fn filters_hold_together_and_values_alternate() {
    let kept = with(json!({}));
    let both = |uid| Filter {
        uids: vec![1, uid],
        units: patterns("nginx"),
        ..Filter::default()
    };
    assert!(both(33).wants(&kept.facts()));
    assert!(!both(34).wants(&kept.facts()));
    // What is not known is not what is wanted.
    let unknown = with(json!({"uid": null, "exe": null, "cgroup": null, "comm": null}));
    for filter in [
        Filter {
            uids: vec![33],
            ..Filter::default()
        },
        Filter {
            exes: patterns("*"),
            ..Filter::default()
        },
        Filter {
            cgroups: vec!["/".to_owned()],
            ..Filter::default()
        },
        Filter {
            names: patterns("*"),
            ..Filter::default()
        },
    ] {
        assert!(!filter.wants(&unknown.facts()), "{filter:?}");
    }
}

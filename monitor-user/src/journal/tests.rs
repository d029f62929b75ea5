//! The journal on real files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::supervisor::{
    BackoffReason, Blame, Cause, Death, Instance, Notice, Signal, SpawnFailure,
};

const MAX_SIZE: u64 = 8 << 20;

fn open(dir: &Path) -> Journal {
    Journal::open(dir, MAX_SIZE, None).unwrap()
}

fn at(second: i64) -> ExtraFacts {
    ExtraFacts::at(Timestamp::from_second(second).unwrap())
}

fn started(pid: u32) -> Entry {
    let notice = Notice::Started {
        service: Arc::from("web"),
        instance: Instance {
            pid,
            start_time_ns: 10_000_000,
        },
        restarts: 2,
    };
    Entry::from_notice(&notice, at(0))
}

/// The lines of a file that are JSON.
fn good_lines(path: &Path) -> Vec<Value> {
    let text = fs::read(path).unwrap();
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

fn numbers(path: &Path) -> Vec<u64> {
    good_lines(path)
        .iter()
        .map(|line| line["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn every_notice_is_told_in_the_words_of_the_contract() {
    let service: Arc<str> = Arc::from("web");
    let instance = Instance {
        pid: 7,
        start_time_ns: 30_000_000,
    };
    let head =
        |event: &str| json!({"event": event, "service": "web", "time": "1970-01-01T00:00:05Z"});
    let with = |event: &str, more: Value| {
        let mut object = head(event);
        for (key, value) in more.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    };
    let s = || service.clone();
    let cases = [
        (
            Notice::Started {
                service: s(),
                instance,
                restarts: 3,
            },
            with(
                "started",
                json!({"pid": 7, "start_time_ns": 30_000_000, "restarts": 3}),
            ),
        ),
        (
            Notice::Adopted {
                service: s(),
                instance,
            },
            with("adopted", json!({"pid": 7, "start_time_ns": 30_000_000})),
        ),
        (
            Notice::Stopping {
                service: s(),
                instance,
                signal: Signal::TERM,
            },
            with(
                "stopping",
                json!({"pid": 7, "start_time_ns": 30_000_000, "signal": "SIGTERM"}),
            ),
        ),
        (Notice::Stopped { service: s() }, head("stopped")),
        (
            Notice::Backoff {
                service: s(),
                delay: Duration::from_millis(200),
                reason: BackoffReason::Exited,
            },
            with(
                "backoff",
                json!({"delay_ns": 200_000_000, "reason": "exited", "message": null}),
            ),
        ),
        (
            Notice::Backoff {
                service: s(),
                delay: Duration::MAX,
                reason: BackoffReason::SpawnFailed(SpawnFailure {
                    message: "cannot run".to_owned(),
                }),
            },
            with(
                "backoff",
                json!({"delay_ns": u64::MAX, "reason": "start_failed", "message": "cannot run"}),
            ),
        ),
        (
            Notice::Failed {
                service: s(),
                reason: "why".to_owned(),
            },
            with("failed", json!({"reason": "why"})),
        ),
        (
            Notice::EventsLost { count: 9 },
            json!({"event": "events_lost", "service": null, "time": "1970-01-01T00:00:05Z", "count": 9}),
        ),
    ];
    for (notice, expected) in cases {
        let entry = Entry::from_notice(&notice, at(5));
        assert_eq!(serde_json::to_value(entry).unwrap(), expected);
    }
}

#[test]
fn an_exit_is_told_with_the_time_at_which_it_was_final() {
    let notice = Notice::Exited {
        service: Arc::from("web"),
        instance: Instance {
            pid: 7,
            start_time_ns: 30_000_000,
        },
        death: Death {
            cause: Cause::from_wait_status(9),
            blame: Blame::SomeoneElse,
            comm: Some("nginx".to_owned()),
            uptime: Some(Duration::from_secs(2)),
        },
    };
    let facts = ExtraFacts {
        exited_at: Some(Timestamp::from_second(3).unwrap()),
        uid: Some(33),
        ..at(5)
    };
    let value = serde_json::to_value(Entry::from_notice(&notice, facts)).unwrap();
    assert_eq!(value["time"], "1970-01-01T00:00:03Z");
    assert_eq!(
        (&value["event"], &value["service"]),
        (&json!("exited"), &json!("web"))
    );
    assert_eq!(
        (&value["comm"], &value["uid"]),
        (&json!("nginx"), &json!(33))
    );
    assert_eq!(
        (&value["uptime_ns"], &value["cause"]["signal"]),
        (&json!(2_000_000_000_u64), &json!("SIGKILL"))
    );
    let value = serde_json::to_value(Entry::from_notice(&notice, at(5))).unwrap();
    assert_eq!(value["time"], "1970-01-01T00:00:05Z");
}

#[test]
fn numbers_go_on_across_agents_and_files() {
    let dir = tempfile::tempdir().unwrap();
    for agent in 0..3 {
        let mut journal = open(dir.path());
        journal
            .append(&Entry::agent_started(at(agent).time, 1))
            .unwrap();
        journal.append(&started(2)).unwrap();
    }
    let path = current_path(dir.path());
    assert_eq!(numbers(&path), [1, 2, 3, 4, 5, 6]);
    // An agent that ends between putting the file aside and beginning a new one.
    fs::rename(&path, older_path(dir.path())).unwrap();
    open(dir.path()).append(&started(3)).unwrap();
    assert_eq!(numbers(&path), [7]);
}

#[test]
fn a_torn_last_line_is_ended_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let mut journal = open(dir.path());
    journal.append(&started(1)).unwrap();
    let whole_first = fs::read(&path).unwrap().len();
    journal.append(&started(2)).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in whole_first..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut journal = open(dir.path());
        journal.append(&started(3)).unwrap();
        journal.append(&started(4)).unwrap();
        // What lacks its newline only is whole again.
        let survives = cut + 1 >= whole.len();
        let expected: &[u64] = if survives { &[1, 2, 3, 4] } else { &[1, 2, 3] };
        assert_eq!(numbers(&path), expected, "cut at {cut}");
        let pids: Vec<_> = good_lines(&path)
            .iter()
            .map(|line| line["pid"].as_u64())
            .collect();
        let expected = [1, 2, 3, 4].map(Some);
        let expected = if survives {
            &expected[..]
        } else {
            &[Some(1), Some(3), Some(4)]
        };
        assert_eq!(pids, expected, "cut at {cut}");
    }
}

#[test]
fn damage_at_the_end_is_looked_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    open(dir.path()).append(&started(1)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(std::iter::repeat_n(0, 70_000));
    bytes.extend(b"\n{\"seq\":\"x\"}\n\n[]\nnull\n\xff\n");
    fs::write(&path, &bytes).unwrap();
    open(dir.path()).append(&started(2)).unwrap();
    assert_eq!(good_lines(&path).last().unwrap()["seq"], 2);
}

#[test]
fn two_files_never_hold_more_than_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let (path, older) = (current_path(dir.path()), older_path(dir.path()));
    let mut journal = Journal::open(dir.path(), 4096, None).unwrap();
    for pid in 1..=200 {
        journal.append(&started(pid)).unwrap();
        let sizes = [&path, &older].map(|path| fs::metadata(path).map_or(0, |file| file.len()));
        assert!(sizes.iter().all(|&size| size <= 2048), "{sizes:?}");
    }
    let kept: Vec<u64> = numbers(&older).into_iter().chain(numbers(&path)).collect();
    let expected: Vec<u64> = (201 - kept.len() as u64..=200).collect();
    assert_eq!(kept, expected);
    // A line that alone is larger than a file may be is written all the same.
    let mut journal = Journal::open(dir.path(), 10, None).unwrap();
    journal.append(&started(1)).unwrap();
    journal.append(&started(2)).unwrap();
    assert_eq!((numbers(&older), numbers(&path)), (vec![201], vec![202]));
}

#[test]
fn a_removed_journal_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    journal.append(&started(1)).unwrap();
    fs::remove_file(current_path(dir.path())).unwrap();
    journal.append(&started(2)).unwrap();
    assert_eq!(numbers(&current_path(dir.path())), [2]);
}

#[test]
fn what_could_not_be_written_is_counted_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let mut journal = open(dir.path());
    journal.append(&started(1)).unwrap();
    // The directory is away: no new file can be begun.
    let away = dir.path().with_extension("away");
    fs::remove_file(&path).unwrap();
    fs::rename(dir.path(), &away).unwrap();
    for pid in 2..=4 {
        journal.append(&started(pid)).unwrap_err();
    }
    fs::rename(&away, dir.path()).unwrap();
    journal.append(&started(5)).unwrap();
    journal.append(&started(6)).unwrap();
    let lines = good_lines(&path);
    assert_eq!(
        (&lines[0]["event"], &lines[0]["count"]),
        (&json!("journal_gap"), &json!(3))
    );
    assert_eq!(numbers(&path), [2, 3, 4]);
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let refused = || {
        let error = Journal::open(dir.path(), MAX_SIZE, None).unwrap_err();
        assert!(
            format!("{error:#}").contains(path.to_str().unwrap()),
            "{error:#}"
        );
    };
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused();
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    refused();
    assert!(Journal::open(&path.join("none"), MAX_SIZE, None).is_err());
}

#[test]
fn only_the_owner_and_the_group_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let mut journal = Journal::open(dir.path(), 10, None).unwrap();
    journal.append(&started(1)).unwrap();
    journal.append(&started(2)).unwrap();
    assert_eq!(mode(current_path(dir.path())), 0o600);
    let own = nix::unistd::getegid().as_raw();
    let mut journal = Journal::open(dir.path(), 10, Some(own)).unwrap();
    assert_eq!(mode(older_path(dir.path())), 0o640);
    journal.append(&started(3)).unwrap();
    assert_eq!(mode(current_path(dir.path())), 0o640);
}

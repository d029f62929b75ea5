//! The journal on real files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::model::{
    BackoffReason, Blame, Cause, Circumstances, Death, Event, Instance, Notice, Signal,
    SpawnFailure, What,
};
use crate::os::proc;

const MAX_SIZE: u64 = 8 << 20;

fn open(dir: &Path) -> Journal {
    Journal::open(dir, MAX_SIZE, None).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn current_path(dir: &Path) -> PathBuf {
    dir.join("journal")
}

fn older_path(dir: &Path) -> PathBuf {
    dir.join("journal.1")
}

fn agent_started_at(second: i64, pid: u32) -> Event {
    let version = "0.1.0".into();
    Event::new(at(second), None, What::AgentStarted { pid, version })
}

/// An event of no service, whose share nobody counts.
fn agent_started(pid: u32) -> Event {
    agent_started_at(0, pid)
}

fn started(pid: u32) -> Event {
    started_of("web", pid)
}

fn started_of(service: &str, pid: u32) -> Event {
    let notice = Notice::Started {
        service: Arc::from(service),
        instance: Instance {
            pid,
            start_time_ns: 10_000_000,
        },
        restarts: 2,
    };
    Event::from_notice(notice, at(0))
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
fn every_notice_has_the_documented_words() {
    let service: Arc<str> = Arc::from("web");
    let s = || service.clone();
    let instance = Instance {
        pid: 7,
        start_time_ns: 30_000_000,
    };
    let who = json!({"pid": 7, "start_time_ns": 30_000_000});
    let with = |event: &str, more: &[&Value]| {
        let mut object = json!({"event": event, "service": "web", "time": "1970-01-01T00:00:05Z"});
        for (key, value) in more.iter().filter_map(|more| more.as_object()).flatten() {
            object[key] = value.clone();
        }
        object
    };
    let cases = [
        (
            Notice::Started {
                service: s(),
                instance,
                restarts: 3,
            },
            with("started", &[&who, &json!({"restarts": 3})]),
        ),
        (
            Notice::Adopted {
                service: s(),
                instance,
            },
            with("adopted", &[&who]),
        ),
        (
            Notice::Stopping {
                service: s(),
                instance,
                signal: Some(Signal::TERM),
                reason: None,
            },
            with("stopping", &[&who, &json!({"signal": "SIGTERM"})]),
        ),
        (Notice::Stopped { service: s() }, with("stopped", &[])),
        (
            Notice::Failed {
                service: s(),
                reason: "why".to_owned(),
            },
            with("failed", &[&json!({"reason": "why"})]),
        ),
        (
            Notice::EventsLost { count: 9 },
            with("events_lost", &[&json!({"count": 9, "service": null})]),
        ),
    ];
    for (notice, expected) in cases {
        let entry = Event::from_notice(notice, at(5));
        assert_eq!(serde_json::to_value(entry).unwrap(), expected);
    }
}

#[test]
fn a_backoff_tells_why_and_how_long() {
    let told = |delay, reason| {
        let service = Arc::from("web");
        let notice = Notice::Backoff {
            service,
            delay,
            reason,
        };
        let value = serde_json::to_value(Event::from_notice(notice, at(5))).unwrap();
        assert_eq!(value["event"], "backoff");
        (
            value["delay_ns"].as_u64().unwrap(),
            value["reason"].clone(),
            value["message"].clone(),
        )
    };
    assert_eq!(
        told(Duration::from_millis(200), BackoffReason::Exited),
        (200_000_000, json!("exited"), json!(null))
    );
    let failure = SpawnFailure {
        message: "cannot run".to_owned(),
    };
    assert_eq!(
        told(Duration::MAX, BackoffReason::SpawnFailed(failure)),
        (u64::MAX, json!("start_failed"), json!("cannot run"))
    );
}

#[test]
fn an_exit_is_told_with_the_time_at_which_it_was_final() {
    let mut notice = Notice::Exited {
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
            time: Some(Timestamp::from_second(3).unwrap()),
            since_boot: None,
        },
        circumstances: Some(Box::new(Circumstances {
            uid: Some(33),
            ..Circumstances::default()
        })),
    };
    let value = serde_json::to_value(Event::from_notice(notice.clone(), at(5))).unwrap();
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
    let Notice::Exited { death, .. } = &mut notice else {
        unreachable!()
    };
    death.time = None;
    let value = serde_json::to_value(Event::from_notice(notice, at(5))).unwrap();
    assert_eq!(value["time"], "1970-01-01T00:00:05Z");
}

#[test]
fn numbers_go_on_across_agents_and_files() {
    let dir = tempfile::tempdir().unwrap();
    for agent in 0..3 {
        let mut journal = open(dir.path());
        journal.append(&mut agent_started_at(agent, 1)).unwrap();
        journal.append(&mut started(2)).unwrap();
    }
    let path = current_path(dir.path());
    assert_eq!(numbers(&path), [1, 2, 3, 4, 5, 6]);
    // An agent that ends between putting the file aside and beginning a new one.
    fs::rename(&path, older_path(dir.path())).unwrap();
    open(dir.path()).append(&mut started(3)).unwrap();
    assert_eq!(numbers(&path), [7]);
}

#[test]
fn a_torn_last_line_is_ended_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let mut journal = open(dir.path());
    journal.append(&mut started(1)).unwrap();
    let whole_first = fs::read(&path).unwrap().len();
    journal.append(&mut started(2)).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in whole_first..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut journal = open(dir.path());
        journal.append(&mut started(3)).unwrap();
        journal.append(&mut started(4)).unwrap();
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
fn what_is_no_journal_is_put_aside_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let texts = ["my own notes\n", "{\"seq\": 7}\n", "\0\0\0"];
    for (text, number) in texts.into_iter().zip(1..) {
        for path in super::paths(dir.path()) {
            fs::write(&path, text).unwrap();
        }
        open(dir.path()).append(&mut started(1)).unwrap();
        assert_eq!(numbers(&current_path(dir.path())), [1]);
        assert!(!older_path(dir.path()).exists());
        for number in 4 * number - 3..=4 * number {
            let aside = dir.path().join(format!("not-a-journal.{number}"));
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
        }
    }
}

#[test]
fn damage_at_the_end_is_looked_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    open(dir.path()).append(&mut started(1)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(std::iter::repeat_n(0, 70_000));
    bytes.extend(b"\n{\"seq\":\"x\"}\n\n[]\nnull\n\xff\n");
    fs::write(&path, &bytes).unwrap();
    open(dir.path()).append(&mut started(2)).unwrap();
    assert_eq!(good_lines(&path).last().unwrap()["seq"], 2);
}

#[test]
fn two_files_never_hold_more_than_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let (path, older) = (current_path(dir.path()), older_path(dir.path()));
    let mut journal = Journal::open(dir.path(), 8192, None).unwrap();
    for pid in 1..=200 {
        journal.append(&mut agent_started(pid)).unwrap();
        let sizes = [&path, &older].map(|path| fs::metadata(path).map_or(0, |file| file.len()));
        assert!(sizes.iter().all(|&size| size <= 2048), "{sizes:?}");
    }
    let kept: Vec<u64> = numbers(&older).into_iter().chain(numbers(&path)).collect();
    let expected: Vec<u64> = (201 - kept.len() as u64..=200).collect();
    assert_eq!(kept, expected);
    // A line that alone is larger than a file may be is written all the same.
    let mut journal = Journal::open(dir.path(), 10, None).unwrap();
    journal.append(&mut agent_started(1)).unwrap();
    journal.append(&mut agent_started(2)).unwrap();
    assert_eq!((numbers(&older), numbers(&path)), (vec![201], vec![202]));
}

#[test]
fn one_service_leaves_the_history_of_all_others_alone() {
    const MAX: u64 = 64 << 10;
    for agents_die in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), MAX, None).unwrap();
        for pid in 1..=10 {
            journal.append(&mut started_of("db", pid)).unwrap();
        }
        for pid in 1..=5000 {
            if agents_die && pid % 50 == 0 {
                journal = Journal::open(dir.path(), MAX, None).unwrap();
            }
            journal.append(&mut started(pid)).unwrap();
            if pid % 1000 == 0 {
                journal.append(&mut started_of("db", pid)).unwrap();
            }
        }
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |file| file.len());
        let sizes = super::paths(dir.path()).map(|path| size(&path));
        assert!(sizes.iter().sum::<u64>() <= MAX, "{sizes:?}");
        let mut reader = Reader::open(dir.path()).unwrap();
        let lines: Vec<JournalLine> = std::iter::from_fn(|| reader.next().unwrap()).collect();
        let pids = |service: &str| -> Vec<u64> {
            let of_it = lines.iter().filter(|line| line.service() == Some(service));
            of_it.filter_map(pid_of).collect()
        };
        let expected = (1..=10).chain((1..=5).map(|thousand| thousand * 1000));
        assert_eq!(pids("db"), expected.collect::<Vec<u64>>());
        // The first ones, and the newest without a hole.
        let web = pids("web");
        assert_eq!((web[0], web.last()), (1, Some(&5000)));
        let holes = web.windows(2).filter(|pair| pair[1] != pair[0] + 1);
        assert_eq!(holes.count(), 1, "{web:?}");
        assert!(web.len() > 100, "{web:?}");
        let told = lines
            .iter()
            .filter(|line| line.event.what == What::JournalShare);
        let told: Vec<_> = told.map(|line| line.service()).collect();
        assert_eq!(told, [Some("web")]);
        // Nothing is lost without a word.
        let all = 5000 + 10 + 5 + 1;
        assert_eq!(lines.len() as u64 + reader.take_missed(), all);
        assert_eq!(lines.last().unwrap().event.seq(), Some(all));
    }
}

#[test]
fn a_removed_journal_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    journal.append(&mut started(1)).unwrap();
    fs::remove_file(current_path(dir.path())).unwrap();
    journal.append(&mut started(2)).unwrap();
    assert_eq!(numbers(&current_path(dir.path())), [2]);
}

#[test]
fn what_could_not_be_written_is_counted_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let mut journal = open(dir.path());
    journal.append(&mut started(1)).unwrap();
    // The directory is away: no new file can be begun.
    let away = dir.path().with_extension("away");
    fs::remove_file(&path).unwrap();
    fs::rename(dir.path(), &away).unwrap();
    for pid in 2..=4 {
        journal.append(&mut started(pid)).unwrap_err();
    }
    fs::rename(&away, dir.path()).unwrap();
    journal.append(&mut started(5)).unwrap();
    journal.append(&mut started(6)).unwrap();
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
    journal.append(&mut started(1)).unwrap();
    journal.append(&mut started(2)).unwrap();
    assert_eq!(mode(current_path(dir.path())), 0o600);
    let own = nix::unistd::getegid().as_raw();
    let mut journal = Journal::open(dir.path(), 10, Some(own)).unwrap();
    assert_eq!(mode(older_path(dir.path())), 0o640);
    journal.append(&mut started(3)).unwrap();
    assert_eq!(mode(current_path(dir.path())), 0o640);
}

#[test]
fn another_size_and_group_hold_for_both_files() {
    let dir = tempfile::tempdir().unwrap();
    let [current, older] = [current_path(dir.path()), older_path(dir.path())];
    let group = match nix::unistd::getegid().as_raw() {
        0 => 12_345,
        own => own,
    };
    let rights = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.gid())
    };
    let mut journal = open(dir.path());
    for pid in 1..=3 {
        journal.append(&mut agent_started(pid)).unwrap();
    }
    journal.reconfigure(10, Some(group));
    assert_eq!(rights(&current), (0o640, group));
    assert!(!older.exists());
    journal.append(&mut agent_started(4)).unwrap();
    assert_eq!(
        (numbers(&older), numbers(&current)),
        (vec![1, 2, 3], vec![4])
    );
    for path in [&current, &older] {
        assert_eq!(rights(path), (0o640, group));
    }
    journal.reconfigure(MAX_SIZE, None);
    journal.append(&mut agent_started(5)).unwrap();
    assert_eq!(numbers(&current), [4, 5]);
    for path in [&current, &older] {
        assert_eq!(rights(path).0, 0o600);
    }
    journal.reconfigure(MAX_SIZE, Some(group));
    for path in [&current, &older] {
        assert_eq!(rights(path), (0o640, group));
    }
}

/// The pid of a start, of a service or of an agent.
fn pid_of(line: &JournalLine) -> Option<u64> {
    match line.event.what {
        What::Started { pid, .. } | What::AgentStarted { pid, .. } => Some(pid.into()),
        _ => None,
    }
}

/// Numbers of all lines that a reader tells until there is no more.
fn read_on(reader: &mut Reader) -> Vec<u64> {
    std::iter::from_fn(|| reader.next().unwrap())
        .map(|line| line.event.seq().unwrap())
        .collect()
}

fn read(dir: &Path) -> (Vec<u64>, Reader) {
    let mut reader = Reader::open(dir).unwrap();
    (read_on(&mut reader), reader)
}

/// What is read after that cursor: the numbers, how many lines are missing before or among them, and what
/// was found of the cursor's line.
fn after(dir: &Path, cursor: Cursor) -> (Vec<u64>, u64, Found) {
    let Resumed { mut reader, found } = resume(|| Reader::open(dir), cursor, |_| {}).unwrap();
    let numbers = read_on(&mut reader);
    (numbers, reader.take_missed(), found)
}

fn cursors(dir: &Path) -> Vec<Cursor> {
    let mut reader = Reader::open(dir).unwrap();
    let lines = std::iter::from_fn(|| reader.next().unwrap());
    lines.map(|line| line.cursor().unwrap()).collect()
}

/// In all four files, with agents that end: the cursor of each line that was ever written.
#[test]
fn after_each_cursor_come_the_later_lines_that_are_kept() {
    const MAX: u64 = 16 << 10;
    let dir = tempfile::tempdir().unwrap();
    let mut all: Vec<Cursor> = Vec::new();
    let mut journal = Journal::open(dir.path(), MAX, None).unwrap();
    for pid in 1..=300 {
        if pid % 40 == 0 {
            journal = Journal::open(dir.path(), MAX, None).unwrap();
        }
        match pid % 40 {
            0..30 => journal.append(&mut started_of("loop", pid)),
            _ => journal.append(&mut agent_started(pid)),
        }
        .unwrap();
        let written = cursors(dir.path());
        let last = all.len() as u64;
        all.extend(written.iter().filter(|cursor| cursor.seq > last));
    }
    let written: Vec<u64> = all.iter().map(|cursor| cursor.seq).collect();
    assert_eq!(written, (1..=all.len() as u64).collect::<Vec<_>>());
    let kept: Vec<u64> = cursors(dir.path()).iter().map(|it| it.seq).collect();
    let last = all.len() as u64;
    let mut seen = [false; 3];
    for cursor in all {
        let (numbers, missed, found) = after(dir.path(), cursor);
        let later: Vec<u64> = kept
            .iter()
            .copied()
            .filter(|seq| *seq > cursor.seq)
            .collect();
        assert_eq!(numbers, later, "{cursor}");
        assert_eq!(missed + later.len() as u64, last - cursor.seq, "{cursor}");
        let expected = match kept.contains(&cursor.seq) {
            true => Found::Line,
            false if kept[0] < cursor.seq => Found::Older,
            false => Found::Nothing,
        };
        assert_eq!(found, expected, "{cursor}");
        seen[found as usize] = true;
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn after_the_place_of_missing_lines_nothing_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), 4096, None).unwrap();
    for pid in 1..=50 {
        journal.append(&mut agent_started(pid)).unwrap();
    }
    let first = cursors(dir.path())[0];
    assert!(first.seq > 1);
    let (numbers, missed, found) = after(dir.path(), first.gap_before());
    assert_eq!((numbers[0], missed, found), (first.seq, 0, Found::Line));
    let read: Cursor = first.gap_before().to_string().parse().unwrap();
    assert_eq!(read, first.gap_before());
}

/// Its numbers begin again then, and so do those of a boot after which the disk lacks the last lines.
#[test]
fn a_journal_that_began_again_is_shown_from_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let mut journal = open(dir.path());
    for pid in 1..=5 {
        journal.append(&mut started(pid)).unwrap();
    }
    let old = cursors(dir.path());
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut journal = open(dir.path());
    for pid in 1..=6 {
        journal.append(&mut started(pid)).unwrap();
    }
    let all: Vec<u64> = (1..=6).collect();
    assert_eq!(after(dir.path(), old[4]), (all, 0, Found::Nothing));
    // Another boot, after which the last two are missing.
    let boot_id = proc::boot_id().unwrap();
    let text = text.replace(&boot_id, "00000000-0000-4000-8000-000000000000");
    let kept: Vec<&str> = text.split_inclusive('\n').take(3).collect();
    fs::write(&path, kept.concat()).unwrap();
    let mut journal = open(dir.path());
    for pid in 1..=6 {
        journal.append(&mut started(pid)).unwrap();
    }
    let (numbers, _, found) = after(dir.path(), old[4]);
    assert_eq!((numbers, found), ((4..=9).collect(), Found::Older));
    let (numbers, missed, found) = after(dir.path(), old[1]);
    assert_eq!(
        (numbers, missed, found),
        ((3..=9).collect(), 0, Found::Line)
    );
}

#[test]
fn lines_of_an_older_agent_have_no_cursor_and_are_told_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let line = |seq: u64| format!("{{\"seq\":{seq},\"event\":\"stopped\",\"service\":\"web\"}}\n");
    let mut journal = open(dir.path());
    journal.append(&mut started(1)).unwrap();
    let first = cursors(dir.path())[0];
    append_text(dir.path(), &(line(2) + &line(3)));
    open(dir.path()).append(&mut started(4)).unwrap();
    let (numbers, missed, found) = after(dir.path(), first);
    assert_eq!((numbers, missed, found), (vec![2, 3, 4], 0, Found::Line));
}

fn append_text(dir: &Path, text: &str) {
    let file = fs::OpenOptions::new().append(true).open(current_path(dir));
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_reader_skips_a_torn_last_line_of_every_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let mut journal = open(dir.path());
    journal.append(&mut started(1)).unwrap();
    let whole_first = fs::read(&path).unwrap().len();
    journal.append(&mut started(2)).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in whole_first..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (told, mut reader) = read(dir.path());
        let is_whole = cut == whole.len();
        assert_eq!(
            told,
            if is_whole { vec![1, 2] } else { vec![1] },
            "cut at {cut}"
        );
        assert_eq!(reader.damaged(), 0);
        // The rest of the line comes while it is followed.
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &whole[cut..]))
            .unwrap();
        assert_eq!(
            read_on(&mut reader),
            if is_whole { vec![] } else { vec![2] },
            "cut at {cut}"
        );
    }
}

#[test]
fn damaged_lines_are_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let mut journal = open(dir.path());
    for pid in 1..=5 {
        journal.append(&mut started(pid)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let long = "x".repeat(3 << 20);
    for damage in [
        "",
        "{}",
        "{\"seq\":2}",
        "[1]",
        "{\"seq\":2,\"event\":3}",
        "\u{0}\u{0}",
        &lines[1][..20],
        &long,
    ] {
        let damaged = [lines[0], damage, lines[2], lines[3], lines[4], ""].join("\n");
        fs::write(&path, damaged).unwrap();
        let (told, mut reader) = read(dir.path());
        assert_eq!((told, reader.damaged()), (vec![1, 3, 4, 5], 1));
        assert_eq!(reader.take_missed(), 0);
    }
    // A line that is gone altogether is missed.
    fs::write(&path, [lines[0], lines[2], lines[4], ""].join("\n")).unwrap();
    let (told, mut reader) = read(dir.path());
    assert_eq!(
        (told, reader.damaged(), reader.take_missed()),
        (vec![1, 3, 5], 0, 2)
    );
    assert_eq!(reader.take_missed(), 0);
}

#[test]
fn a_reader_follows_the_files_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), 4096, None).unwrap();
    let mut from_the_start = Reader::open(dir.path()).unwrap();
    let (mut told, mut last_of_older) = (Vec::new(), 0);
    for pid in 1..=200 {
        journal.append(&mut agent_started(pid)).unwrap();
        if pid % 3 == 0 {
            told.extend(read_on(&mut from_the_start));
        }
        // One that comes later begins with the oldest line that is kept.
        let (late, reader) = read(dir.path());
        let expected: Vec<u64> = (late[0]..=pid.into()).collect();
        assert_eq!((late, reader.damaged()), (expected, 0));
        last_of_older = last_of_older.max(numbers(&older_or_current(dir.path()))[0]);
    }
    told.extend(read_on(&mut from_the_start));
    assert_eq!(told, (1..=200).collect::<Vec<u64>>());
    assert_eq!(from_the_start.take_missed(), 0);
    assert!(last_of_older > 100, "the files were turned over");
}

fn older_or_current(dir: &Path) -> PathBuf {
    let older = older_path(dir);
    if older.exists() {
        older
    } else {
        current_path(dir)
    }
}

#[test]
fn who_reads_too_slowly_is_told_how_much_was_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), 4096, None).unwrap();
    journal.append(&mut agent_started(1)).unwrap();
    let (mut told, mut reader) = read(dir.path());
    for pid in 2..=200 {
        journal.append(&mut agent_started(pid)).unwrap();
    }
    told.extend(read_on(&mut reader));
    assert!(
        told.is_sorted_by(|a, b| a < b) && told.last() == Some(&200),
        "{told:?}"
    );
    assert_eq!(reader.take_missed(), 200 - told.len() as u64);
}

#[test]
fn a_journal_that_is_emptied_or_removed_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = current_path(dir.path());
    let mut journal = open(dir.path());
    for pid in 1..=3 {
        journal.append(&mut started(pid)).unwrap();
    }
    let (told, mut reader) = read(dir.path());
    assert_eq!(told, [1, 2, 3]);
    fs::write(&path, "").unwrap();
    journal.append(&mut started(4)).unwrap();
    assert_eq!(read_on(&mut reader), [4]);
    fs::remove_file(&path).unwrap();
    assert_eq!(read_on(&mut reader), Vec::<u64>::new());
    journal.append(&mut started(5)).unwrap();
    assert_eq!(read_on(&mut reader), [5]);
    drop(journal);
    fs::remove_file(&path).unwrap();
    open(dir.path()).append(&mut started(1)).unwrap();
    assert_eq!(read_on(&mut reader), [1]);
}

#[test]
fn a_journal_that_does_not_exist_yet_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::open(dir.path()).unwrap();
    assert!(reader.is_missing());
    assert_eq!(read_on(&mut reader), Vec::<u64>::new());
    open(dir.path()).append(&mut started(1)).unwrap();
    assert_eq!(read_on(&mut reader), [1]);
    assert!(!reader.is_missing());
}

/// Writes `count` events while a follower that starts at any time reads, and gives the numbers
/// that it was told and how many files there were.
fn follow(seed: u64, count: u32) -> (Vec<u64>, u32) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), 49_152, None).unwrap();
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move |below: u32| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        u32::try_from(random % u64::from(below)).unwrap()
    };
    let before = next(20);
    for pid in 0..before {
        journal.append(&mut started(pid)).unwrap();
    }
    let seen = Arc::new(AtomicU64::new(0));
    let path = dir.path().to_owned();
    let seen_by_writer = Arc::clone(&seen);
    let writer = std::thread::spawn(move || {
        let mut files = 1;
        let mut size = 0;
        for pid in before..count {
            // As far ahead as the two files allow, and no farther.
            while u64::from(pid) > seen_by_writer.load(Ordering::Acquire) + 40 {
                std::thread::yield_now();
            }
            if next(30) == 0 {
                std::thread::sleep(Duration::from_micros(next(500).into()));
            }
            // By turns to the one file and the other, once the service has had its share.
            let mut entry = match pid % 2 {
                0 => started(pid),
                _ => agent_started(pid),
            };
            journal.append(&mut entry).unwrap();
            let now = fs::metadata(current_path(&path)).unwrap().len();
            files += u32::from(now < size);
            size = now;
        }
        files
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let told = runtime.block_on(async {
        let changes = Changes::of(dir.path()).unwrap();
        let mut reader = Reader::open(dir.path()).unwrap();
        let mut told: Vec<u64> = Vec::new();
        loop {
            let mut is_last = false;
            while let Some(line) = reader.next().unwrap() {
                is_last = pid_of(&line) == Some(u64::from(count) - 1);
                told.push(line.event.seq().unwrap());
                seen.store(*told.last().unwrap(), Ordering::Release);
            }
            assert_eq!((reader.damaged(), reader.take_missed()), (0, 0));
            if is_last {
                return told;
            }
            let waiting = tokio::time::timeout(Duration::from_secs(30), changes.next());
            assert!(waiting.await.expect("a change is told").unwrap());
        }
    });
    (told, writer.join().unwrap())
}

#[test]
fn a_follower_is_told_each_event_once_while_files_are_turned_over() {
    let mut turned = 0;
    for seed in 1..=20 {
        let (told, files) = follow(seed, 1000);
        let last = *told.last().unwrap();
        assert_eq!(told, (1..=last).collect::<Vec<u64>>(), "seed {seed}");
        assert!(last > 1000, "the service had its share");
        assert!(files > 8, "{files}");
        turned += files;
    }
    println!("{turned} files");
}

#[test]
fn a_removed_directory_ends_the_following() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let changes = Changes::of(dir.path()).unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        drop(dir);
        assert!(!changes.next().await.unwrap());
    });
}

#[test]
fn appending_is_cheap() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let mut entry = started(1);
    let count: u32 = 100_000;
    let begin = crate::clock::since_boot();
    for _ in 0..count {
        journal.append(&mut entry).unwrap();
    }
    let took = crate::clock::since_boot() - begin;
    println!(
        "{:.0} events/s, {:?} each",
        f64::from(count) / took.as_secs_f64(),
        took / count
    );
    let (told, mut reader) = read(dir.path());
    // The service has had its share, which is told once.
    let last = u64::from(count) + 1;
    assert_eq!(told.last(), Some(&last));
    assert_eq!(told.len() as u64 + reader.take_missed(), last);
}

#[test]
fn a_full_disk_loses_events_and_says_how_many() {
    let test = "a_full_disk_loses_events_and_says_how_many";
    let dir = tempfile::tempdir().unwrap();
    let _mount = match SmallDisk::mount(dir.path()) {
        Ok(mount) => mount,
        Err(error) => return eprintln!("SKIPPED {test}: cannot mount a small tmpfs: {error}"),
    };
    let filler = dir.path().join("filler");
    let mut journal = open(dir.path());
    let mut pid = 0;
    let mut append = |journal: &mut Journal| {
        pid += 1;
        journal.append(&mut started(pid))
    };
    let mut lost = 0;
    for _ in 0..3 {
        append(&mut journal).unwrap();
        // All but the page that the journal has begun.
        let _ = fs::write(&filler, vec![0; 1 << 20]);
        let failed = std::iter::repeat_with(|| append(&mut journal)).find_map(Result::err);
        assert_eq!(
            failed.map(|error| error.kind()),
            Some(std::io::ErrorKind::StorageFull)
        );
        append(&mut journal).unwrap_err();
        lost += 2;
        fs::remove_file(&filler).unwrap();
        append(&mut journal).unwrap();
    }
    let mut reader = Reader::open(dir.path()).unwrap();
    let lines: Vec<JournalLine> = std::iter::from_fn(|| reader.next().unwrap()).collect();
    let gaps: Vec<u64> = lines
        .iter()
        .filter_map(|line| match line.event.what {
            What::JournalGap { count } => Some(count),
            _ => None,
        })
        .collect();
    assert_eq!((gaps.len(), gaps.iter().sum()), (3, lost));
    // Each torn line is ended, and nothing else is damaged.
    assert!(reader.damaged() <= 3);
    assert_eq!(lines.len() as u64 - 3 + lost, u64::from(pid));
}

/// A tmpfs of 64 KiB, in a mount namespace of the test's own thread.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> nix::Result<Self> {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=64k"),
        )?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

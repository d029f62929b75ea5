//! `deaths` and `why` show what a recorder has kept, with no recorder and no agent at all.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::recorder::RecorderDirs;
use support::{Lines, Victim, needs_root, readable_by_all, respawn, skip, unprivileged};

const NOW: &str = "2999-01-01T00:00:00Z";
const LONG_AGO: &str = "2001-02-03T04:05:06.789Z";
const ID: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";

fn cursor(seq: u64) -> String {
    format!("{seq}-11111111-9")
}

/// A death as a recorder writes it: nginx, killed by `kill -9` from a shell that alice had logged in to.
fn killed(seq: u64) -> Value {
    json!({
        "seq": seq, "event": "exited", "time": LONG_AGO, "pid": 700 + seq, "start_time_ns": 1000 * seq,
        "comm": "nginx", "uptime_ns": 192_000_000_000_u64,
        "cause": {"kind": "signaled", "code": null, "signal": "SIGKILL", "core_dumped": false,
            "how": "kill", "fault": null, "oom": null,
            "sender": {"pid": 50, "host_pid": 50, "start_time_ns": 1, "uid": 0, "comm": "kill",
                "parent": {"pid": 30, "comm": "bash"}, "itself": false, "own": false,
                "exe": "/usr/bin/kill", "argv": ["kill", "-9", "700"], "argv_cut": false,
                "login_uid": 65534, "login_session": 2, "tty": "pts/0",
                "cgroup": "/user.slice/user-1000.slice/session-2.scope", "unit": "session-2.scope",
                "user_unit": null, "slice": "user-1000.slice", "container": null, "runtime": null,
                "pod": null,
                "ancestors": [{"pid": 30, "comm": "bash"}, {"pid": 20, "comm": "sshd"}]}},
        "last_signal": null, "host_pid": 700 + seq, "parent_pid": 1, "uid": 33, "cgroup_id": 9,
        "usage": {"user_ns": 1_500_000, "system_ns": 0, "max_rss_bytes": 3_145_728, "threads": 2,
            "read_bytes": 0, "written_bytes": 4096},
        "core": null, "last_output": null, "children_left_out": null,
        "exe": "/usr/sbin/nginx", "argv": ["nginx", "-g", "daemon off;"], "argv_cut": false,
        "cgroup": "/system.slice/nginx.service", "unit": "nginx.service", "user_unit": null,
        "slice": "system.slice", "container": null, "runtime": null, "pod": null, "qos": null,
        "service": null, "ancestors": [{"pid": 1, "comm": "systemd"}],
        "since_boot_ns": 9, "boot_id": "11111111-2222-3333-4444-555555555555", "host": "web1",
        "cursor": cursor(seq),
    })
}

fn with(seq: u64, changes: &Value) -> Value {
    let mut event = killed(seq);
    for (key, value) in changes.as_object().unwrap() {
        event[key] = value.clone();
    }
    event
}

fn of_boot(seq: u64, boot: &str) -> Value {
    with(seq, &json!({"boot_id": boot}))
}

fn append(dir: &Path, events: &[Value]) {
    let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
    append_text(dir, &lines.concat());
}

fn append_text(dir: &Path, text: &str) {
    support::append(&dir.join("deaths"), text);
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = respawn();
    command
        .env("TZ", "UTC")
        .env("RESPAWN_RECORDER_DIR", dir)
        .env("RESPAWN_RUNTIME_DIR", dir.join("no-agent"))
        .args(arguments);
    command
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output, stderr)
}

fn shown(dir: &Path, arguments: &[&str]) -> (String, String) {
    let (output, said) = run(&mut command(dir, arguments));
    assert!(output.status.success(), "{arguments:?}: {said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

/// The numbers of the lines that are shown.
fn seqs(dir: &Path, arguments: &[&str]) -> Vec<u64> {
    let arguments = [&["deaths", "--json"], arguments].concat();
    numbers(&shown(dir, &arguments).0)
}

fn numbers(text: &str) -> Vec<u64> {
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[test]
fn without_a_recorder_it_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for (dir, arguments) in [
        (folder.path(), &["deaths"][..]),
        (&missing, &["deaths"]),
        (&missing, &["deaths", "--follow"]),
        (&missing, &["deaths", "--boot", "-1"]),
    ] {
        let (output, stderr) = run(&mut command(dir, arguments));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        for words in ["respawn recorder", dir.to_str().unwrap()] {
            assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        }
    }
}

#[test]
fn nonsense_is_status_2() {
    let folder = tempfile::tempdir().unwrap();
    for (option, value) in [
        ("--since", "yesterday"),
        ("--signal", "SIGNONE"),
        ("--exit-code", "256"),
        ("--unit", "[a"),
        ("--exe", ""),
        ("--cgroup", "system.slice"),
        ("--boot", "last"),
        ("--after", "c7"),
        ("--after", ""),
        ("--pid", "x"),
    ] {
        let (output, stderr) = run(&mut command(
            folder.path(),
            &["deaths", &format!("{option}={value}")],
        ));
        assert_eq!(output.status.code(), Some(2), "{option}: {stderr}");
        assert!(stderr.contains(option), "{stderr}");
    }
    append(folder.path(), &[killed(1)]);
    let (output, stderr) = run(&mut command(
        folder.path(),
        &["deaths", "--uid", "no-such-user"],
    ));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains("--uid no-such-user: there is no such user"),
        "{stderr}"
    );
}

#[test]
fn a_line_has_all_that_matters() {
    let folder = tempfile::tempdir().unwrap();
    append(folder.path(), &[killed(1)]);
    let (text, said) = shown(folder.path(), &["deaths"]);
    assert_eq!(
        text,
        "TIME                               PID  COMM              UNIT OR CONTAINER           LIVED  \
         CAUSE\n\
         2001-02-03 04:05:06.789+00:00      701  nginx             nginx.service               3m12s  \
         killed by SIGKILL from /usr/bin/kill (pid 50, uid 0, login user nobody) < bash (pid 30) < \
         sshd (pid 20)\n"
    );
    assert_eq!(said, "");
}

#[test]
fn both_files_are_read_byte_by_byte_and_damage_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let lines: Vec<String> = (1..=4).map(|seq| format!("{}\n", killed(seq))).collect();
    fs::write(dir.join("deaths.1"), &lines[0]).unwrap();
    let newer = json!({"seq": 3, "event": "of a newer recorder", "time": LONG_AGO, "key": [1]});
    append_text(
        dir,
        &format!(
            "{}{{\"seq\": damage\n{newer}\n{}{{\"seq\":5,\"ti",
            lines[1], lines[3]
        ),
    );
    let (text, said) = shown(dir, &["deaths", "--json"]);
    assert_eq!(
        text,
        format!("{}{}{newer}\n{}", lines[0], lines[1], lines[3])
    );
    assert_eq!(
        said,
        "respawn: 1 damaged line of the recorded deaths was skipped\n"
    );
    let (text, _) = shown(dir, &["deaths"]);
    assert!(text.contains("of a newer recorder key=[1]\n"), "{text}");
    assert_eq!(seqs(dir, &["-n", "2"]), [3, 4]);
    assert_eq!(seqs(dir, &["-n", "0"]), [0_u64; 0]);
}

#[test]
fn what_is_lost_is_said_in_its_place_or_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let lost = json!({"seq": 2, "event": "deaths_lost", "time": LONG_AGO, "count": 3,
        "since_boot_ns": 9, "boot_id": "b", "host": "web1", "cursor": cursor(2)});
    append(dir, &[killed(1), lost, killed(5)]);
    let (text, said) = shown(dir, &["deaths"]);
    let of_line = |index: usize| text.lines().nth(index).unwrap().split("  ").last().unwrap();
    assert_eq!(of_line(2), "3 deaths lost: the kernel's ring was full");
    assert_eq!(of_line(3), "2 events missing here");
    assert_eq!(said, "");
    // Among those that are looked for there may have been some of the five.
    let (text, said) = shown(dir, &["deaths", "--unit", "nginx"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(
        said,
        "respawn: 5 deaths of this time could not be recorded, or were removed to make room\n"
    );
    let (_, said) = shown(dir, &["deaths", "--unit", "nginx", "--since", "1h"]);
    assert_eq!(said, "");
}

#[test]
fn filters_choose() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let exited =
        |code: u8| json!({"kind": "exited", "code": code, "signal": null, "core_dumped": false});
    append(
        dir,
        &[
            killed(1),
            with(2, &json!({"cause": exited(0), "time": NOW})),
            with(3, &json!({"cause": exited(3), "uid": 0})),
            with(
                4,
                &json!({"unit": format!("docker-{ID}.scope"), "container": ID, "runtime": "docker",
                "cgroup": format!("/system.slice/docker-{ID}.scope")}),
            ),
            with(
                5,
                &json!({"unit": r"my\x2dapp.service", "exe": "/opt/my app/run", "comm": "run"}),
            ),
            with(
                6,
                &json!({"exe": null, "argv": null, "cgroup": null, "unit": null, "uid": null,
                "ancestors": [{"pid": 90, "comm": "sh"}, {"pid": 80, "comm": "cron"}]}),
            ),
        ],
    );
    for (arguments, expected) in [
        (&["--failed"][..], &[1, 3, 4, 5, 6][..]),
        (&["--signal", "KILL"], &[1, 4, 5, 6]),
        (&["--signal", "9"], &[1, 4, 5, 6]),
        (&["--signal", "TERM"], &[]),
        (&["--exit-code", "3"], &[3]),
        (&["--exit-code", "3", "--exit-code", "0"], &[2, 3]),
        (&["--uid", "root"], &[3]),
        (&["--uid", "33", "--failed"], &[1, 4, 5]),
        (&["--unit", "nginx"], &[1, 2, 3]),
        (&["--unit", "nginx.service"], &[1, 2, 3]),
        (&["--unit", r"my\x2dapp.service"], &[5]),
        (&["--unit", r"my\x2dapp"], &[5]),
        (&["--unit", "my*"], &[5]),
        (&["--container", "4f79"], &[4]),
        (&["--container", ID], &[4]),
        (&["--container", "4f"], &[]),
        (&["--cgroup", "/system.slice/nginx.service"], &[1, 2, 3, 5]),
        (
            &["--cgroup", "/sys/fs/cgroup/system.slice"],
            &[1, 2, 3, 4, 5],
        ),
        (&["--exe", "/opt/*"], &[5]),
        (&["--exe", "nginx"], &[1, 2, 3, 4]),
        (&["--name", "r?n"], &[5]),
        (&["--pid", "703"], &[3]),
        (&["--tree", "80"], &[6]),
        (&["--since", "1h"], &[2]),
        (&["--failed", "-n", "1"], &[6]),
    ] {
        assert_eq!(seqs(dir, arguments), expected, "{arguments:?}");
    }
}

#[test]
fn boots_are_counted_from_the_current_one_and_from_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let current = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    append(dir, &[of_boot(1, "a"), of_boot(2, "b"), of_boot(3, "b")]);
    // Nothing has died since.
    assert_eq!(seqs(dir, &["--boot", "0"]), [0_u64; 0]);
    assert_eq!(seqs(dir, &["--boot", "-1"]), [2, 3]);
    append(dir, &[of_boot(4, current.trim())]);
    for (boot, expected) in [
        ("0", &[4][..]),
        ("-1", &[2, 3]),
        ("-2", &[1]),
        ("1", &[1]),
        ("3", &[4]),
    ] {
        assert_eq!(seqs(dir, &["--boot", boot]), expected, "{boot}");
    }
    for boot in ["-3", "4"] {
        let (output, said) = run(&mut command(dir, &["deaths", "--boot", boot]));
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said.contains("deaths of 2 boots are kept before the current one"),
            "{said}"
        );
    }
}

#[test]
fn nothing_reaches_a_terminal_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut event = with(
        1,
        &json!({"comm": "a\u{1b}[2J", "unit": "b\u{202e}.service",
        "exe": "/c\u{7}", "argv": ["d\u{1b}]0;x\u{7}", "e\nf", "\u{9b}31m"]}),
    );
    event["cause"]["sender"]["exe"] = json!("/g\u{1b}[1m");
    event["cause"]["sender"]["argv"] = json!(["h\u{1b}", "i\nj"]);
    event["cause"]["sender"]["ancestors"] = json!([{"pid": 2, "comm": "k\u{1b}"}]);
    append(dir, &[event]);
    for arguments in [
        &["deaths"][..],
        &["deaths", "--json"],
        &["why", "701"],
        &["why", "701", "--json"],
    ] {
        let (text, _) = shown(dir, arguments);
        let controls = text.chars().filter(|c| c.is_control() && *c != '\n');
        assert_eq!(controls.count(), 0, "{text:?}");
    }
    let (text, _) = shown(dir, &["why", "701"]);
    for words in [
        r"d\u{1b}]0;x\u{7} e\nf \u{9b}31m (/c\u{7})",
        r"h\u{1b} i\nj",
        r"k\u{1b} (pid 2)",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (text, _) = shown(dir, &["deaths"]);
    assert_eq!(text.lines().count(), 2, "{text}");
    for words in [
        r"a\u{1b}[2J",
        r"b\u{202e}.service",
        r"/g\u{1b}[1m (pid 50",
        r"k\u{1b} (pid 2)",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn who_may_not_read_is_told_who_may() {
    needs_root!("who_may_not_read_is_told_who_may");
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let Some((_folder, copy)) = readable_by_all(&respawn()) else {
        return skip(
            "who_may_not_read_is_told_who_may",
            "no place for a program that any user may run",
        );
    };
    append(dir, &[killed(1)]);
    for (of_dir, of_file, words) in [
        (0o755, 0o600, "for root only; you are uid 65534"),
        (
            0o755,
            0o640,
            "for root and the members of group root; you are uid 65534",
        ),
        (
            0o700,
            0o640,
            "for root, the members of the recorder's group; you are uid 65534",
        ),
    ] {
        fs::set_permissions(dir, Permissions::from_mode(of_dir)).unwrap();
        fs::set_permissions(dir.join("deaths"), Permissions::from_mode(of_file)).unwrap();
        for arguments in [&["deaths"][..], &["deaths", "--follow"], &["why", "nginx"]] {
            let mut command = Command::new(&copy);
            command.env("RESPAWN_RECORDER_DIR", dir).args(arguments);
            command.env("RESPAWN_RUNTIME_DIR", "/nonexistent");
            let (output, said) = run(unprivileged(&mut command));
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
            assert!(
                said.contains("not allowed to read the recorded deaths"),
                "{arguments:?}: {said}"
            );
            assert!(said.contains(words), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn who_may_read_the_deaths_needs_no_right_to_the_journal() {
    const NAME: &str = "who_may_read_the_deaths_needs_no_right_to_the_journal";
    needs_root!(NAME);
    let Some((_folder, copy)) = readable_by_all(&respawn()) else {
        return skip(NAME, "no place for a program that any user may run");
    };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    append(dir, &[killed(1)]);
    let agent = dir.join("agent");
    fs::create_dir(&agent).unwrap();
    fs::write(agent.join("journal"), "").unwrap();
    for (path, mode) in [(dir, 0o755), (&dir.join("deaths"), 0o644), (&agent, 0o700)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    for (name, expected) in [
        ("nginx", "nginx.service killed"),
        ("x", "not allowed to read the journal"),
    ] {
        let mut command = Command::new(&copy);
        command.args(["why", name]).env("RESPAWN_RECORDER_DIR", dir);
        let (output, said) = run(unprivileged(command.env("RESPAWN_RUNTIME_DIR", &agent)));
        let text = String::from_utf8(output.stdout).unwrap() + &said;
        assert!(text.contains(expected), "{text}");
        assert_eq!(output.status.success(), name == "nginx", "{text}");
    }
}

fn follow(dir: &Path, arguments: &[&str]) -> (Child, Lines) {
    let mut child = command(
        dir,
        &[&["deaths", "--follow", "--json"], arguments].concat(),
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let lines = Lines::of(child.stdout.take().unwrap());
    (child, lines)
}

fn end(mut child: Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

fn next_seq(lines: &mut Lines) -> u64 {
    let event: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    event["seq"].as_u64().unwrap()
}

fn turn_over(dir: &Path) {
    fs::rename(dir.join("deaths"), dir.join("deaths.1")).unwrap();
}

#[test]
fn what_comes_follows_across_files() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    append(dir, &[killed(1)]);
    let (child, mut lines) = follow(dir, &["--unit", "nginx"]);
    assert_eq!(next_seq(&mut lines), 1);
    for seq in 2..30 {
        if seq % 7 == 0 {
            turn_over(dir);
        }
        let text = format!("{}\n", killed(seq));
        let (begin, rest) = text.split_at(usize::try_from(seq).unwrap());
        append(dir, &[with(1000 + seq, &json!({"unit": "other.service"}))]);
        append_text(dir, begin);
        append_text(dir, rest);
        assert_eq!(next_seq(&mut lines), seq);
    }
    end(child);
    assert_eq!(lines.next(), None);
}

#[test]
fn a_recorder_that_has_just_begun_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut child = command(dir, &["deaths", "--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Lines::of(child.stderr.take().unwrap());
    assert!(said.next().unwrap().contains("has no recorded deaths yet"));
    let mut lines = Lines::of(child.stdout.take().unwrap());
    append(dir, &[killed(1)]);
    assert_eq!(next_seq(&mut lines), 1);
    end(child);
}

/// A shipper that keeps the last cursor it has seen, and is killed again and again.
#[test]
fn after_a_cursor_nothing_is_lost_and_nothing_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    append(dir, &[killed(1)]);
    let mut seen = Vec::new();
    let mut cursor: Option<String> = None;
    let mut written = 1;
    for round in 0..8 {
        let after = cursor.as_deref().map(|cursor| ["--after", cursor]);
        let (mut child, mut lines) = follow(dir, after.as_ref().map_or(&[][..], |it| it));
        for _ in 0..3 {
            written += 1;
            append(dir, &[killed(written)]);
        }
        for _ in 0..2 {
            let event: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
            cursor = event["cursor"].as_str().map(str::to_owned);
            seen.push(event["seq"].as_u64().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 3 == 2 {
            turn_over(dir);
        }
        written += 1;
        append(dir, &[killed(written)]);
        // The shipper's last line is among those that are kept.
        if round % 3 == 1 {
            let (text, said) = shown(
                dir,
                &["deaths", "--json", "--after", cursor.as_deref().unwrap()],
            );
            assert_eq!(said, "");
            let rest = numbers(&text);
            cursor = Some(self::cursor(*rest.last().unwrap()));
            seen.extend(rest);
        }
    }
    let rest = shown(
        dir,
        &["deaths", "--json", "--after", cursor.as_deref().unwrap()],
    )
    .0;
    seen.extend(numbers(&rest));
    assert_eq!(seen, (1..=written).collect::<Vec<_>>());
}

#[test]
fn a_cursor_whose_line_is_gone_shows_all_that_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    append(dir, &[killed(8), killed(9)]);
    let (text, said) = shown(dir, &["deaths", "--json", "--after", &cursor(3)]);
    let (missed, rest) = text.split_once('\n').unwrap();
    let missed: Value = serde_json::from_str(missed).unwrap();
    assert_eq!(
        (&missed["event"], &missed["count"]),
        (&json!("events_missed"), &json!(4))
    );
    assert_eq!(numbers(rest), [8, 9]);
    assert!(
        said.contains("no line with the cursor \"3-11111111-9\" is kept any more"),
        "{said}"
    );
    let (text, said) = shown(dir, &["deaths", "--json", "--after", &cursor(9)]);
    assert_eq!((text.as_str(), said.as_str()), ("", ""));
}

/// What `why` tells, and on standard error.
fn why(dir: &Path, arguments: &[&str]) -> (String, String) {
    shown(dir, &[&["why"], arguments].concat())
}

fn first_line(dir: &Path, name: &str) -> String {
    let (text, _) = why(dir, &[name]);
    text.lines().next().unwrap().to_owned()
}

#[test]
fn why_tells_of_a_unit_who_killed_it_and_for_whom() {
    let folder = tempfile::tempdir().unwrap();
    append(folder.path(), &[with(1, &json!({"uid": 0}))]);
    for name in ["nginx.service", "nginx"] {
        let (text, said) = why(folder.path(), &[name]);
        let mut lines: Vec<&str> = text.lines().collect();
        let when = lines.remove(1);
        assert!(
            when.starts_with("  when    2001-02-03 04:05:06.789, "),
            "{when}"
        );
        assert!(
            when.ends_with(" ago, after 3m12s, pid 701 (nginx), in an earlier boot"),
            "{when}"
        );
        assert_eq!(
            lines,
            [
                "nginx.service killed by SIGKILL from kill (pid 50, uid 0)",
                "  ran     nginx -g \"daemon off;\" (/usr/sbin/nginx), uid 0 (root)",
                "  in      /system.slice/nginx.service",
                "  parent  systemd (pid 1)",
                "  sender  /usr/bin/kill, pid 50, uid 0 (root), login user nobody in session 2, terminal \
                 pts/0, by kill(2)",
                "          it ran: kill -9 700",
                "          started by bash (pid 30) < sshd (pid 20)",
                "          in /user.slice/user-1000.slice/session-2.scope",
                "  used    at most 3.0 MiB of memory, 1.5ms of CPU in user mode, 0us in the kernel, 2 \
                 threads, 0 B read, 4.0 KiB written",
            ]
        );
        assert_eq!(said, "");
    }
}

#[test]
fn why_finds_a_death_by_each_of_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let pod = "74c13223-5a00-11e9-b385-42010a80018d";
    let numeric = ID.replace("4f797c", "123456");
    let in_pod = |id: &str| {
        json!({"comm": "node", "exe": "/usr/bin/nodejs", "unit": null, "container": id, "pod": pod,
            "qos": "burstable", "runtime": "containerd", "slice": null,
            "cgroup": format!("/kubepods/burstable/pod{pod}/{id}")})
    };
    append(
        dir,
        &[
            killed(1),
            with(2, &in_pod(ID)),
            with(3, &in_pod(&numeric)),
            with(
                4,
                &json!({"unit": r"my\x2dapp.service", "exe": null, "comm": "kube-controller"}),
            ),
            with(
                5,
                &json!({"unit": null, "service": "sshd", "cgroup": "/openrc.sshd"}),
            ),
            with(
                6,
                &json!({"unit": "user@1000.service", "user_unit": "x.service"}),
            ),
        ],
    );
    for (name, expected) in [
        ("nginx", "nginx.service killed"),
        ("x.service", "x.service killed"),
        ("user@1000", "user@1000.service killed"),
        (r"my\x2dapp.service", r"my\x2dapp.service killed"),
        ("sshd", "sshd killed"),
        ("4f79", "containerd 4f797c539e6c killed"),
        (ID, "containerd 4f797c539e6c killed"),
        // A pid before the beginning of an ID.
        ("123456", "containerd 123456539e6c"),
        ("701", "nginx of nginx.service killed"),
        (
            pod,
            "node of pod 74c13223-5a00-11e9-b385-42010a80018d killed",
        ),
        ("node", "node of containerd 123456539e6c killed"),
        ("nodejs", "node of containerd 123456539e6c killed"),
        (
            "kube-controller-manager",
            r"kube-controller of my\x2dapp.service killed",
        ),
        ("/usr/sbin/nginx", "nginx of x.service killed"),
    ] {
        let line = first_line(dir, name);
        assert!(line.starts_with(expected), "{name}: {line}");
    }
    append(dir, &[with(7, &json!({"pid": 123_456}))]);
    assert!(first_line(dir, "123456").starts_with("nginx of nginx.service killed"));
    let (text, _) = why(dir, &["4f79"]);
    let place = format!(
        "  in      /kubepods/burstable/pod{pod}/{ID}; containerd container {ID}, pod {pod} (burstable)\n"
    );
    assert!(text.contains(&place), "{text}");
}

const SECOND: u64 = 1_000_000_000;

fn lived(seq: u64, start: u64, end: u64) -> Value {
    with(
        seq,
        &json!({"start_time_ns": start * SECOND, "since_boot_ns": end * SECOND}),
    )
}

fn ended_by_init(seq: u64, start: u64, end: u64) -> Value {
    let mut event = lived(seq, start, end);
    event["cause"]["sender"]["pid"] = json!(1);
    event["cause"]["sender"]["comm"] = json!("systemd");
    event["comm"] = json!("worker");
    event
}

/// Somebody kills the main process (3), and the init system the rest of its cgroup.
fn append_main_and_workers(dir: &Path) {
    let mut of_other_unit = lived(7, 204, 205);
    of_other_unit["unit"] = json!("b.service");
    append(
        dir,
        &[
            // Alone, long before.
            ended_by_init(1, 101, 150),
            ended_by_init(2, 101, 195),
            lived(3, 100, 200),
            ended_by_init(4, 101, 201),
            ended_by_init(5, 101, 202),
            // Started since, and killed soon.
            lived(6, 203, 205),
            of_other_unit,
        ],
    );
}

#[test]
fn why_tells_with_a_main_process_what_died_because_of_it() {
    let folder = tempfile::tempdir().unwrap();
    append_main_and_workers(folder.path());
    let (text, _) = why(folder.path(), &["nginx", "-n", "5"]);
    let is_of_death = |line: &&str| line.contains(" killed by ");
    let told: Vec<&str> = text.lines().filter(is_of_death).collect();
    assert_eq!(
        told,
        [
            "nginx.service killed by SIGKILL from kill (pid 50, uid 0)",
            "nginx.service killed by SIGKILL from kill (pid 50, uid 0)",
            "  before  worker killed by SIGKILL from systemd (pid 1, uid 0), pid 702, 5.00s earlier",
            "  then    worker killed by SIGKILL from systemd (pid 1, uid 0), pid 704, 1.00s later",
            "          worker killed by SIGKILL from systemd (pid 1, uid 0), pid 705, 2.00s later",
            "nginx.service killed by SIGKILL from systemd (pid 1, uid 0)",
        ]
    );
    // By its name each process is told for itself.
    let line = first_line(folder.path(), "worker");
    assert!(line.starts_with("worker of nginx.service killed"), "{line}");
}

#[test]
fn why_tells_programs_the_same() {
    let folder = tempfile::tempdir().unwrap();
    append_main_and_workers(folder.path());
    let (text, _) = why(folder.path(), &["nginx", "-n", "2", "--json"]);
    let told: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told.len(), 2);
    assert_eq!(told[0]["exited"], lived(6, 203, 205));
    assert_eq!(told[1]["exited"], lived(3, 100, 200));
    assert_eq!(told[1]["found_by"], "unit");
    let others = told[1]["others"].as_array().unwrap().iter();
    let others: Vec<Value> = others.map(|it| it["seq"].clone()).collect();
    assert_eq!(others, [2, 4, 5]);
}

#[test]
fn why_says_whether_the_sender_lives_in_this_boot_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let current = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let own = std::process::id();
    let mut event = of_boot(1, current.trim());
    event["cause"]["sender"]["pid"] = json!(own);
    event["cause"]["sender"]["start_time_ns"] = json!(support::start_time_ns(own));
    append(dir, &[event.clone()]);
    let (text, _) = why(dir, &["nginx"]);
    assert!(
        text.contains(", by kill(2); still running, now as: "),
        "{text}"
    );
    event["cause"]["sender"]["start_time_ns"] = json!(1);
    append(dir, &[event.clone()]);
    let (text, _) = why(dir, &["nginx"]);
    assert!(text.contains(", by kill(2); it has ended\n"), "{text}");
    event["boot_id"] = json!("another");
    append(dir, &[event]);
    let (text, _) = why(dir, &["nginx"]);
    assert!(text.contains(", by kill(2)\n"), "{text}");
}

#[test]
fn why_says_what_it_has_looked_through() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let missing = dir.join("missing");
    // Neither of the two.
    let (output, said) = run(&mut command(&missing, &["why", "x"]));
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("no agent has kept a journal in "), "{said}");
    assert!(said.contains("start one with `respawn recorder`"), "{said}");
    // A recorder alone.
    append(dir, &[killed(1)]);
    let (output, said) = run(&mut command(dir, &["why", "x"]));
    assert_eq!(output.status.code(), Some(1), "{said}");
    let words = "no death of a unit, service, container, pod, pid or process \"x\" is recorded in ";
    assert!(said.contains(words), "{said}");
    assert!(!said.contains("journal"), "{said}");
    // An agent's journal, with and without a recorder.
    let agent = tempfile::tempdir().unwrap();
    let started = json!({"seq": 1, "event": "started", "time": LONG_AGO, "service": "web", "pid": 1,
        "start_time_ns": 0, "restarts": 0});
    fs::write(agent.path().join("journal"), format!("{started}\n")).unwrap();
    for (recorder, words) in [
        (dir, words),
        (&missing, "start one with `respawn recorder`"),
    ] {
        let mut command = command(recorder, &["why", "x"]);
        let (output, said) = run(command.env("RESPAWN_RUNTIME_DIR", agent.path()));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("the journal has nothing of a service \"x\""),
            "{said}"
        );
        assert!(said.contains(words), "{said}");
    }
    // A service of the agent comes first.
    append(dir, &[with(2, &json!({"unit": "web.service"}))]);
    let mut of_agent = command(dir, &["why", "web"]);
    let (output, _) = run(of_agent.env("RESPAWN_RUNTIME_DIR", agent.path()));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "web has not died, as far as the journal goes\n");
}

/// Has a shell that is gone afterwards kill a process; its pid.
fn kill_one() -> u32 {
    let mut victim = Victim::start("/usr/bin/sleep", &["100000"]);
    let pid = victim.pid().to_string();
    let mut shell = Command::new("sh");
    let status = shell.args(["-c", "kill -9 $0; true", &pid]).status();
    assert!(status.unwrap().success());
    victim.wait();
    victim.pid()
}

#[test]
fn what_a_real_recorder_has_kept_is_told() {
    needs_root!("what_a_real_recorder_has_kept_is_told");
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    let pid = kill_one();
    place.death_of(pid);
    let pid = pid.to_string();
    let own = fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap();
    let own = own.trim_end();
    let (output, said) = run(&mut place.command(&["why", &pid]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for words in [
        "killed by SIGKILL from sh (pid ",
        ", by kill(2); it has ended\n",
        &format!("\n          it ran: sh -c \"kill -9 $0; true\" {pid}\n"),
        &format!("\n          started by {own} "),
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (output, _) = run(&mut place.command(&["deaths", "--pid", &pid, "--signal", "KILL"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains(&format!(" < {own}")), "{text}");
}

/// Each time the recorder is killed before the shipper asks, and in some rounds after.
#[test]
fn a_cursor_holds_over_recorders_that_are_killed() {
    needs_root!("a_cursor_holds_over_recorders_that_are_killed");
    let place = RecorderDirs::new();
    let mut cursor: Option<String> = None;
    let mut seen: Vec<Value> = Vec::new();
    for round in 0..4 {
        let recorder = place.start(&[]);
        let pid = kill_one();
        place.death_of(pid);
        let recorder = match round % 2 {
            0 => Some(recorder),
            _ => {
                recorder.kill();
                None
            }
        };
        // With no recorder this one waits in the kernel.
        kill_one();
        let after = cursor.as_deref().map(|cursor| ["--after", cursor]);
        let mut arguments = vec!["deaths", "--json"];
        arguments.extend(after.into_iter().flatten());
        let (output, _) = run(&mut place.command(&arguments));
        let text = String::from_utf8(output.stdout).unwrap();
        seen.extend(
            text.lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()),
        );
        cursor = seen
            .last()
            .and_then(|line| line["cursor"].as_str())
            .map(str::to_owned);
        if let Some(recorder) = recorder {
            recorder.kill();
        }
    }
    let last = place.start(&[]);
    let pid = kill_one();
    place.death_of(pid);
    assert!(last.stop().success());
    let (output, _) = run(&mut place.command(&["deaths", "--json", "--after", &cursor.unwrap()]));
    let text = String::from_utf8(output.stdout).unwrap();
    seen.extend(
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()),
    );
    assert!(seen.len() >= 9, "{}", seen.len());
    assert_eq!(seen, place.lines());
}

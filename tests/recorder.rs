//! The recorder: which deaths of the host it keeps, what it knows of them, and that none is missing
//! or there twice, whatever happens to it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::bpf::Object;
use support::cgroup::small_cgroup;
use support::clock::wall_clock;
use support::journald::Journal;
use support::recorder::RecorderDirs;
use support::rig::{Seeded, report};
use support::shipper::Shipped;
use support::{Victim, eventually, in_pid_namespace, needs_root, signal_to, skip};

fn sleeper() -> Victim {
    Victim::start("/usr/bin/sleep", &["100000"])
}

/// Kills a process with `script`, in which it is `$0`, and waits for both.
fn kill_by(mut victim: Victim, script: &str) -> u32 {
    let pid = victim.pid();
    let status = Command::new("sh")
        .args(["-c", script, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
    victim.wait();
    pid
}

/// A process that ends by itself, in a shell, so that it is no child of PID 1.
fn ended_with(code: i32) -> u32 {
    let mut child = Command::new("sh")
        .args(["-c", &format!("exit {code}")])
        .spawn()
        .unwrap();
    let pid = child.id();
    child.wait().unwrap();
    pid
}

/// Whether the kernel still had the memory of the dead when it was recorded.
fn knows_programs(death: &Value) -> bool {
    death["exe"].is_string()
}

#[test]
fn who_killed_it_is_known_though_the_killer_is_gone() {
    needs_root!("who_killed_it_is_known_though_the_killer_is_gone");
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    // Three shells deep, none of which is left afterwards.
    let pid = kill_by(
        sleeper(),
        "sh -c 'sh -c \"kill -9 $0; true\"; true' $0; true",
    );
    let death = place.death_of(pid);
    let sender = &death["cause"]["sender"];
    assert_eq!(death["cause"]["signal"], "SIGKILL");
    assert_eq!(
        death["argv"],
        json!(["/usr/bin/sleep", "100000"]),
        "{death}"
    );
    assert_eq!(death["argv_cut"], false);
    assert!(death["exe"].as_str().unwrap().starts_with('/'), "{death}");
    assert_eq!(death["ancestors"][0]["pid"], std::process::id());
    let exe = fs::canonicalize("/bin/sh").unwrap();
    assert_eq!(sender["exe"], exe.to_str().unwrap());
    let argv = json!(["sh", "-c", format!("kill -9 {pid}; true")]);
    assert_eq!(sender["argv"], argv, "{sender}");
    let names = |of: &Value| -> Vec<String> {
        let all = of["ancestors"].as_array().unwrap();
        all.iter()
            .map(|it| it["comm"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(sender)[..2], ["sh", "sh"]);
    for key in ["cgroup", "boot_id", "host", "cursor"] {
        assert!(death[key].is_string(), "{key}: {death}");
    }
    // Its own cgroup, as the kernel shows it.
    let shown = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = shown.lines().find_map(|line| line.strip_prefix("0::"));
    if let Some(own) = own {
        assert_eq!(death["cgroup"], own, "{shown}");
    }
}

#[test]
fn what_asked_for_the_end_before_is_known_too() {
    needs_root!("what_asked_for_the_end_before_is_known_too");
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    // It handles SIGTERM, says so, and is killed by another.
    let script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done";
    let mut victim = Victim::start("sh", &["-c", script]);
    assert_eq!(victim.line(), "ready");
    let pid = victim.pid();
    let asked = Command::new("sh")
        .args(["-c", "kill -15 $0; true", &pid.to_string()])
        .status();
    assert!(asked.unwrap().success());
    assert_eq!(victim.line(), "asked");
    victim.signal(Signal::SIGKILL);
    victim.wait();
    let death = place.death_of(pid);
    let asker = &death["last_signal"]["sender"];
    let argv = json!(["sh", "-c", "kill -15 $0; true", pid.to_string()]);
    assert_eq!(asker["argv"], argv, "{death}");
    let killer = &death["cause"]["sender"];
    assert_eq!(killer["pid"], std::process::id(), "{death}");
    let own = std::env::current_exe().unwrap();
    assert_eq!(killer["exe"], own.to_str().unwrap(), "{death}");
}

#[test]
fn a_login_is_known_whatever_the_sender_has_become() {
    let name = "a_login_is_known_whatever_the_sender_has_become";
    needs_root!(name);
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    let victim = sleeper();
    let pid = victim.pid();
    // As sshd and login do.
    let script = "echo 4242 > /proc/self/loginuid || exit 9; kill -9 $0; true";
    let status = Command::new("sh")
        .args(["-c", script, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    if status.code() == Some(9) || fs::read("/proc/self/loginuid").is_err() {
        return skip(name, "no login uid can be set here");
    }
    let death = place.death_of(pid);
    assert_eq!(death["cause"]["sender"]["login_uid"], 4242, "{death}");
    assert_eq!(death["login_uid"], Value::Null);
}

#[test]
fn a_timeout_is_known_for_what_it_is() {
    needs_root!("a_timeout_is_known_for_what_it_is");
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    let mut timeout = Command::new("timeout");
    timeout.args(["-s", "KILL", "0.2", "sh", "-c", "echo $$; exec sleep 4242"]);
    let output = timeout.output().unwrap();
    let pid = String::from_utf8(output.stdout).unwrap();
    let death = place.death_of(pid.trim().parse().unwrap());
    let sender = &death["cause"]["sender"];
    assert_eq!(sender["comm"], "timeout", "{death}");
    let argv = sender["argv"].as_array().unwrap();
    assert_eq!(argv[..4], ["timeout", "-s", "KILL", "0.2"], "{death}");
    assert_eq!(death["comm"], "sleep");
}

#[test]
fn an_out_of_memory_kill_in_a_cgroup_is_known() {
    const NAME: &str = "an_out_of_memory_kill_in_a_cgroup_is_known";
    needs_root!(NAME);
    let Some(cgroup) = small_cgroup() else {
        return skip(NAME, "no cgroup whose memory can be limited");
    };
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    let mut victim = Victim::start(env!("CARGO_BIN_EXE_culprit"), &["eat"]);
    cgroup.add(victim.pid());
    victim.wait();
    let death = place.death_of(victim.pid());
    assert_eq!(death["cause"]["kind"], "oom_killed", "{death}");
    assert!(
        death["cause"]["oom"]["anon_rss_bytes"].as_u64().unwrap() > 8 << 20,
        "{death}"
    );
    let argv = json!([env!("CARGO_BIN_EXE_culprit"), "eat"]);
    assert!(death["argv"] == argv || !knows_programs(&death), "{death}");
    // Of version 1's hierarchies the record names none.
    let name = cgroup.path().file_name().unwrap().to_str().unwrap();
    let told = death["cgroup"].as_str().unwrap();
    assert!(told.ends_with(name) || told == "/", "{death}");
    let why = place.command(&["why", "culprit"]).output().unwrap();
    let why = String::from_utf8(why.stdout).unwrap();
    assert!(why.contains("killed for lack of memory"), "{why}");
}

#[test]
fn normal_ends_are_left_out_unless_all_are_asked_for() {
    needs_root!("normal_ends_are_left_out_unless_all_are_asked_for");
    let place = RecorderDirs::new();
    let recorder = place.start(&[]);
    let [zero, three] = [0, 3].map(ended_with);
    let mut first = in_pid_namespace("exit 7");
    let mut first = first.spawn().unwrap();
    first.wait().unwrap();
    // What comes later is recorded later.
    let last = kill_by(sleeper(), "kill -9 $0");
    place.death_of(last);
    for pid in [zero, three] {
        assert_eq!(place.deaths_of(pid), [] as [Value; 0]);
    }
    // The first process of a container, or whatever else has a PID namespace.
    let of_container: Vec<Value> = place
        .lines()
        .into_iter()
        .filter(|line| line["cause"]["code"] == 7)
        .collect();
    assert_eq!(of_container.len(), 1, "{of_container:?}");
    assert!(recorder.stop().success());
    let _recorder = place.start(&["--keep=all"]);
    let [zero, three] = [0, 3].map(ended_with);
    assert_eq!(place.death_of(zero)["cause"]["code"], 0);
    assert_eq!(place.death_of(three)["cause"]["code"], 3);
}

#[test]
fn what_happens_while_no_recorder_runs_is_recorded_by_the_next() {
    needs_root!("what_happens_while_no_recorder_runs_is_recorded_by_the_next");
    let place = RecorderDirs::new();
    place.start(&[]).kill();
    let pids: Vec<u32> = (0..20)
        .map(|_| kill_by(sleeper(), "kill -9 $0; true"))
        .collect();
    assert_eq!(place.deaths_of(pids[0]), [] as [Value; 0]);
    let _recorder = place.start(&[]);
    for pid in pids {
        let death = place.death_of(pid);
        let argv = json!(["sh", "-c", "kill -9 $0; true", pid.to_string()]);
        assert_eq!(death["cause"]["sender"]["argv"], argv);
    }
}

#[test]
fn a_recorder_that_is_killed_at_any_moment_loses_and_doubles_nothing() {
    needs_root!("a_recorder_that_is_killed_at_any_moment_loses_and_doubles_nothing");
    let place = RecorderDirs::new();
    let mut pids = Vec::new();
    for round in 0..20_u64 {
        let recorder = place.start(&[]);
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(round * 3));
            recorder.kill();
        });
        for _ in 0..20 {
            let mut victim = sleeper();
            victim.signal(Signal::SIGKILL);
            victim.wait();
            pids.push(victim.pid());
        }
        killer.join().unwrap();
    }
    let _recorder = place.start(&[]);
    place.death_of(*pids.last().unwrap());
    let lines = place.lines();
    for pid in &pids {
        let of = lines.iter().filter(|line| line["host_pid"] == *pid);
        assert_eq!(of.count(), 1, "pid {pid}");
    }
    let numbers: Vec<u64> = lines.iter().map(|it| it["seq"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
    report(&format!(
        "{} deaths under 20 killed recorders, each recorded once",
        pids.len()
    ));
}

#[test]
fn while_the_disk_is_full_deaths_wait() {
    let name = "while_the_disk_is_full_deaths_wait";
    needs_root!(name);
    let place = RecorderDirs::new();
    fs::create_dir(place.dir()).unwrap();
    let size = Some("size=8m,mode=0700");
    if mount(
        Some("tmpfs"),
        &place.dir(),
        Some("tmpfs"),
        MsFlags::empty(),
        size,
    )
    .is_err()
    {
        return skip(name, "nothing can be mounted here");
    }
    let recorder = place.start(&[]);
    let ballast = place.dir().join("ballast");
    // All that is free is taken, and there is no room for a line.
    fs::write(&ballast, vec![0; 16 << 20]).unwrap_err();
    let pids: Vec<u32> = (0..10).map(|_| kill_by(sleeper(), "kill -9 $0")).collect();
    eventually("it says that the disk is full", || {
        place
            .log()
            .contains("cannot write down a death")
            .then_some(())
    });
    fs::remove_file(&ballast).unwrap();
    for pid in &pids {
        place.death_of(*pid);
        assert_eq!(place.deaths_of(*pid).len(), 1);
    }
    assert!(recorder.stop().success());
    umount2(&place.dir(), MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn arguments_are_told_as_they_are_and_secrets_are_not() {
    needs_root!("arguments_are_told_as_they_are_and_secrets_are_not");
    let place = RecorderDirs::new();
    let recorder = place.start(&[]);
    let killed = |arguments: &[&str]| {
        // Whatever the arguments, it sleeps.
        let mut command = Command::new("sh");
        command
            .arg0("app")
            .args(["-c", "read line"])
            .args(arguments)
            .stdin(Stdio::piped());
        let mut victim = Victim::from_command(&mut command);
        victim.signal(Signal::SIGKILL);
        victim.wait();
        place.death_of(victim.pid())
    };
    let death = killed(&["--password=hunter2", "--token", "abc", "a\u{1b}[31m\nb"]);
    let argv = [
        "app",
        "-c",
        "read line",
        "--password=***",
        "--token",
        "***",
        "a\u{1b}[31m\nb",
    ];
    assert_eq!(death["argv"], json!(argv));
    let text = fs::read_to_string(place.dir().join("deaths")).unwrap();
    assert!(
        !text.contains("hunter2") && !text.contains('\u{1b}'),
        "{text}"
    );
    let long = "x".repeat(128 * 1024 - 64);
    let death = killed(&[&long]);
    assert_eq!(death["argv_cut"], true);
    let kept: usize = death["argv"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap().len())
        .sum();
    assert!((200..=256).contains(&kept), "{kept}");
    assert!(recorder.stop().success());
    let _recorder = place.start(&["--no-argv"]);
    let death = killed(&["--name"]);
    assert_eq!(death["argv"], Value::Null);
    assert!(knows_programs(&death));
}

/// Where the arguments of a process are in its memory: `arg_start` of proc_pid_stat(5).
fn place_of_arguments(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().nth(45).unwrap().parse().unwrap()
}

#[test]
fn arguments_that_a_process_has_rewritten_are_told_as_they_are_then() {
    let test = "arguments_that_a_process_has_rewritten_are_told_as_they_are_then";
    needs_root!(test);
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    let mut victim = sleeper();
    // As PostgreSQL and others say in `ps` what they do.
    let memory = File::options()
        .write(true)
        .open(format!("/proc/{}/mem", victim.pid()));
    let at = place_of_arguments(victim.pid());
    let written = memory.and_then(|memory| memory.write_all_at(b"worker: idle\x1b!", at));
    if written.is_err() {
        return skip(test, "the memory of another process cannot be written here");
    }
    victim.signal(Signal::SIGKILL);
    victim.wait();
    let death = place.death_of(victim.pid());
    if !knows_programs(&death) {
        return skip(test, "this kernel has let go of the memory by then");
    }
    assert_eq!(death["argv"], json!(["worker: idle\u{1b}!", "100000"]));
    // What it is cannot be rewritten.
    assert_eq!(death["comm"], "sleep");
    let shown = place.command(&["deaths"]).output().unwrap();
    assert!(!shown.stdout.contains(&0x1b));
}

#[test]
fn a_clock_that_is_set_back_changes_neither_order_nor_age() {
    let test = "a_clock_that_is_set_back_changes_neither_order_nor_age";
    needs_root!(test);
    let place = RecorderDirs::new();
    let flag = place.path().join("set-back");
    let Some(library) = wall_clock(place.path(), &flag) else {
        return skip(test, "no C compiler, with which another wall clock is made");
    };
    let _recorder = place.start_with(&[], &[("LD_PRELOAD", &library)]);
    let [first, second] = [(), ()].map(|()| {
        let pid = kill_by(sleeper(), "kill -9 $0");
        let death = place.death_of(pid);
        // In the recorder's eyes an hour earlier from now on.
        fs::write(&flag, "").unwrap();
        death
    });
    let time = |of: &Value| of["time"].as_str().unwrap().to_owned();
    if time(&first)[..13] == time(&second)[..13] {
        return skip(
            test,
            "the binary does not take its clock from a shared library",
        );
    }
    assert!(time(&first) > time(&second), "{first} {second}");
    assert!(first["seq"].as_u64() < second["seq"].as_u64());
    assert!(first["since_boot_ns"].as_u64() < second["since_boot_ns"].as_u64());
    // Both are minutes old at most, whatever the clock has said of them.
    let arguments = ["deaths", "--json", "--since", "30m", "--name", "sleep"];
    let shown = place.command(&arguments).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let shown: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |death: &Value| {
        let is_it = |line: &Value| line["cursor"] == death["cursor"];
        shown.iter().position(is_it).unwrap()
    };
    assert!(of(&first) < of(&second));
}

#[test]
fn a_file_that_ends_in_the_middle_of_a_line_is_gone_on_with() {
    needs_root!("a_file_that_ends_in_the_middle_of_a_line_is_gone_on_with");
    let place = RecorderDirs::new();
    let recorder = place.start(&[]);
    let before = kill_by(sleeper(), "kill -9 $0");
    let seq = place.death_of(before)["seq"].as_u64().unwrap();
    recorder.kill();
    // As a machine leaves it that loses its power, and as a bad disk does.
    let deaths = place.dir().join("deaths");
    let mut file = File::options().append(true).open(&deaths).unwrap();
    file.write_all(b"\0\0\xff\xfe{\"seq\n{\"seq\":77,\"event\":\"exi")
        .unwrap();
    let _recorder = place.start(&[]);
    let after = kill_by(sleeper(), "kill -9 $0");
    assert!(place.death_of(after)["seq"].as_u64().unwrap() > seq);
    let shown = place.command(&["deaths", "--json"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for pid in [before, after] {
        let of = shown
            .lines()
            .filter(|line| line.contains(&format!("\"host_pid\":{pid},")));
        assert_eq!(of.count(), 1, "{shown}");
    }
}

/// The deaths of a PID namespace, which are those of its own processes alone: so each is accounted for.
#[test]
fn what_finds_no_room_in_the_kernel_is_counted_one_by_one() {
    const DEATHS: u64 = 400;
    needs_root!("what_finds_no_room_in_the_kernel_is_counted_one_by_one");
    let place = RecorderDirs::new();
    // The recorder is stopped while they die, and has room for some.
    let script = format!(
        "$RESPAWN recorder --ring-bytes 65536 & recorder=$!; read line
         kill -STOP $recorder; i=0
         while [ $i -lt {DEATHS} ]; do sleep 1000 & kill -9 $!; wait $!; i=$((i+1)); done
         echo done; kill -CONT $recorder; read line; exec kill -9 $recorder"
    );
    let binary = place.command(&[]).get_program().to_owned();
    let mut namespace = in_pid_namespace(&script);
    for (key, value) in place.command(&[]).get_envs() {
        namespace.env(key, value.unwrap());
    }
    let log = File::create(place.path().join("log")).unwrap();
    namespace
        .env("RESPAWN", binary)
        .env("RESPAWN_LOG", "info")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut victim = Victim::from_command(&mut namespace);
    let mut input = victim.stdin().unwrap();
    eventually("the recorder records", || {
        place.log().contains("recording deaths in").then_some(())
    });
    input.write_all(b"\n").unwrap();
    assert_eq!(victim.line(), "done");
    let counted = || {
        let lines = place.lines();
        let kept = lines
            .iter()
            .filter(|line| line["event"] == "exited" && line["cause"]["signal"] == "SIGKILL");
        let lost = lines.iter().filter(|line| line["event"] == "deaths_lost");
        let lost: u64 = lost.map(|line| line["count"].as_u64().unwrap()).sum();
        (u64::try_from(kept.count()).unwrap(), lost)
    };
    let (kept, lost) = eventually("all are accounted for", || {
        let (kept, lost) = counted();
        (kept + lost >= DEATHS).then_some((kept, lost))
    });
    assert_eq!(kept + lost, DEATHS);
    assert!(kept > 0 && lost > 0, "{kept} {lost}");
    report(&format!(
        "{DEATHS} deaths beside a recorder that is stopped: {kept} recorded, {lost} counted as lost"
    ));
    input.write_all(b"\n").unwrap();
    victim.wait();
}

#[test]
fn the_files_stay_within_their_size_and_are_for_root_and_a_group() {
    needs_root!("the_files_stay_within_their_size_and_are_for_root_and_a_group");
    let place = RecorderDirs::new();
    let _recorder = place.start(&["--max-size=64KiB", "--group=0"]);
    for _ in 0..60 {
        let mut victim = sleeper();
        victim.signal(Signal::SIGKILL);
        victim.wait();
    }
    // Those of the whole host are in them, so that none has to be there still.
    eventually("the files have turned over", || {
        place.dir().join("deaths.1").exists().then_some(())
    });
    let mut size = 0;
    for name in ["deaths", "deaths.1"] {
        // For a moment there is no new file yet.
        let file = eventually("the file is there", || {
            fs::metadata(place.dir().join(name)).ok()
        });
        assert_eq!(file.mode() & 0o777, 0o640, "{name}");
        assert_eq!(file.gid(), 0, "{name}");
        size += file.len();
    }
    assert!(size <= 64 * 1024, "{size}");
    assert_eq!(fs::metadata(place.dir()).unwrap().mode() & 0o777, 0o750);
}

#[test]
fn a_directory_that_others_may_change_is_refused() {
    needs_root!("a_directory_that_others_may_change_is_refused");
    let place = RecorderDirs::new();
    let dir = place.dir();
    let refused = || {
        let output = place.command(&["recorder"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(65534), None).unwrap();
    assert!(refused().contains("--dir"), "{}", refused());
    chown(&dir, Some(0), None).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused().contains("everyone may write"), "{}", refused());
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.join("deaths"), "somebody's notes\n").unwrap();
    let _recorder = place.start(&[]);
    let aside = fs::read_to_string(dir.join("not-a-journal.1")).unwrap();
    assert_eq!(aside, "somebody's notes\n");
}

#[test]
fn a_units_death_is_among_its_lines_in_a_real_journald() {
    let name = "a_units_death_is_among_its_lines_in_a_real_journald";
    needs_root!(name);
    let journal = match Journal::start() {
        Ok(journal) => journal,
        Err(reason) => return skip(name, reason),
    };
    let place = RecorderDirs::new();
    let socket = journal.path("systemd/journal/socket");
    let _recorder = place.start(&["--journald-socket", socket.to_str().unwrap()]);
    let victim = Victim::start("/usr/bin/sleep", &["100000"]);
    journal.take(victim.pid());
    let pid = kill_by(victim, "kill -9 $0; true");
    assert_eq!(place.death_of(pid)["unit"], journal.unit());
    let entry = eventually("journald has it", || journal.entries().pop());
    let message = entry["MESSAGE"].as_str().unwrap();
    assert!(
        message.contains("killed by SIGKILL from sh (pid "),
        "{message}"
    );
    assert_eq!(entry["OBJECT_PID"], pid.to_string());
    assert_eq!(entry["RESPAWN_SENDER_COMM"], "sh");
    assert!(entry["MESSAGE_ID"].as_str().unwrap().len() == 32);
    // Others than root may read it.
    assert!(!entry.to_string().contains("100000"), "{entry}");
    // A death of no unit is in the files alone.
    let other = kill_by(sleeper(), "kill -9 $0; true");
    place.death_of(other);
    assert_eq!(journal.entries().len(), 1);
}

/// The name of that user, or the number of one that has none.
fn user(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut users = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let number = uid.to_string();
    let found = users.find(|fields| fields.get(2) == Some(&number.as_str()));
    found.map_or(number.clone(), |fields| fields[0].to_owned())
}

/// An entry of journald beside the line of the same death.
struct Told<'a> {
    entry: &'a Value,
    death: &'a Value,
}

impl Told<'_> {
    fn is(&self, key: &str, value: &Value) {
        let told = &self.entry[key];
        match value {
            Value::Null => assert_eq!(*told, Value::Null, "{key}: {}", self.entry),
            Value::String(text) => assert_eq!(told, text, "{key}: {}", self.entry),
            other => assert_eq!(*told, other.to_string(), "{key}: {}", self.entry),
        }
    }

    fn check(&self) {
        let death = self.death;
        let last = &death["last_signal"];
        for (key, value) in [
            ("RESPAWN_CURSOR", &death["cursor"]),
            ("RESPAWN_COMM", &death["comm"]),
            ("RESPAWN_UID", &death["uid"]),
            ("RESPAWN_HOST_PID", &death["host_pid"]),
            ("RESPAWN_PARENT_PID", &death["parent_pid"]),
            ("RESPAWN_UPTIME_NS", &death["uptime_ns"]),
            ("RESPAWN_CAUSE_KIND", &json!("signaled")),
            ("RESPAWN_SIGNAL", &json!("SIGKILL")),
            ("RESPAWN_SIGNAL_NUMBER", &json!("9")),
            ("RESPAWN_CORE_DUMPED", &json!("0")),
            ("RESPAWN_EXIT_CODE", &Value::Null),
            ("RESPAWN_HOW", &death["cause"]["how"]),
            ("RESPAWN_ASKED_SIGNAL", &json!("SIGTERM")),
            ("RESPAWN_ASKED_SIGNAL_NUMBER", &json!("15")),
            ("RESPAWN_ASKED_BEFORE_NS", &last["before_exit_ns"]),
            ("RESPAWN_ASKED_HOW", &last["how"]),
        ] {
            self.is(key, value);
        }
        self.check_process("RESPAWN", death);
        for (prefix, of) in [
            ("RESPAWN_SENDER", &death["cause"]["sender"]),
            ("RESPAWN_ASKER", &last["sender"]),
        ] {
            self.check_process(prefix, of);
            for key in ["pid", "comm", "uid"] {
                self.is(&format!("{prefix}_{}", key.to_uppercase()), &of[key]);
            }
        }
    }

    fn check_process(&self, prefix: &str, of: &Value) {
        for key in [
            "exe",
            "cgroup",
            "unit",
            "user_unit",
            "slice",
            "container",
            "runtime",
            "pod",
            "qos",
            "tty",
            "login_uid",
            "login_session",
        ] {
            self.is(&format!("{prefix}_{}", key.to_uppercase()), &of[key]);
        }
        let each = of["ancestors"].as_array().unwrap().iter();
        let each = each.map(|it| format!("{} (pid {})", it["comm"].as_str().unwrap(), it["pid"]));
        let all: Vec<String> = each.collect();
        self.is(&format!("{prefix}_ANCESTORS"), &json!(all.join(" < ")));
    }
}

#[test]
fn journald_has_what_is_known_of_a_death_in_fields() {
    let name = "journald_has_what_is_known_of_a_death_in_fields";
    needs_root!(name);
    let journal = match Journal::start() {
        Ok(journal) => journal,
        Err(reason) => return skip(name, reason),
    };
    let place = RecorderDirs::new();
    let socket = journal.path("systemd/journal/socket");
    let _recorder = place.start(&["--journald-socket", socket.to_str().unwrap()]);
    let script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done";
    let mut victim = Victim::start("sh", &["-c", script]);
    assert_eq!(victim.line(), "ready");
    journal.take(victim.pid());
    victim.signal(Signal::SIGTERM);
    assert_eq!(victim.line(), "asked");
    // For a user that most hosts have a name for.
    let script = "{ echo 1 > /proc/self/loginuid; } 2> /dev/null; kill -9 $0; true";
    let pid = kill_by(victim, script);
    let death = place.death_of(pid);
    let shown = pid.to_string();
    let is_it = |entry: &Value| entry["OBJECT_PID"] == shown;
    let entry = eventually("journald has it", || {
        journal.entries().into_iter().find(is_it)
    });
    let told = Told {
        entry: &entry,
        death: &death,
    };
    told.check();
    let sender = &death["cause"]["sender"];
    let by = format!("sh killed by SIGKILL from sh (pid {}, uid 0", sender["pid"]);
    let message = entry["MESSAGE"].as_str().unwrap();
    assert!(message.starts_with(&by), "{message}");
    assert!(message.contains(", asked to by SIGTERM from "), "{message}");
    if sender["login_uid"] == Value::Null {
        return skip(name, "no login uid can be set here");
    }
    let by = format!("{by}, login user {}) after ", user(1));
    assert!(message.starts_with(&by), "{message}");
    told.is("RESPAWN_SENDER_LOGIN_USER", &json!(user(1)));
}

/// One that hangs, or has more to do than it can.
#[test]
fn what_journald_does_not_read_waits_and_what_it_never_gets_is_counted() {
    // More than the kernel holds for a socket.
    const DEATHS: u64 = 150;
    let name = "what_journald_does_not_read_waits_and_what_it_never_gets_is_counted";
    needs_root!(name);
    let journal = match Journal::start() {
        Ok(journal) => journal,
        Err(reason) => return skip(name, reason),
    };
    let place = RecorderDirs::new();
    let socket = journal.path("systemd/journal/socket");
    let socket = ["--journald-socket", socket.to_str().unwrap()];
    let recorder = place.start(&socket);
    let mut killed = Vec::new();
    let mut kill_some = || {
        signal_to(journal.pid(), Signal::SIGSTOP);
        for _ in 0..DEATHS {
            let mut victim = sleeper();
            journal.take(victim.pid());
            victim.signal(Signal::SIGKILL);
            victim.wait();
            killed.push(victim.pid().to_string());
        }
        place.death_of(killed.last().unwrap().parse().unwrap());
        killed.clone()
    };
    let entries = |killed: &[String]| {
        let entries = journal.entries();
        let pids = entries
            .iter()
            .map(|it| it["OBJECT_PID"].as_str().unwrap().to_owned());
        let pids: Vec<String> = pids.filter(|pid| killed.contains(pid)).collect();
        pids
    };
    let missed = || {
        let lines = place.lines();
        let lines = lines
            .iter()
            .filter(|line| line["event"] == "journald_missed");
        lines
            .map(|line| line["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    let all = kill_some();
    signal_to(journal.pid(), Signal::SIGCONT);
    eventually("journald has all", || {
        (entries(&all).len() >= all.len()).then_some(())
    });
    assert_eq!(entries(&all), all);
    assert_eq!(missed(), 0);
    // What waits when the recorder ends never comes.
    let all = kill_some();
    assert!(recorder.stop().success());
    signal_to(journal.pid(), Signal::SIGCONT);
    let missed = missed();
    assert!(0 < missed && missed < DEATHS, "{missed}");
    let expected = all.len() - usize::try_from(missed).unwrap();
    eventually("journald has the rest", || {
        (entries(&all).len() >= expected).then_some(())
    });
    assert_eq!(entries(&all), all[..expected]);
    let shown = place.command(&["deaths"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let words = format!("{missed} deaths not in journald, which took no more");
    assert!(shown.contains(&words), "{shown}");
    let metrics = place.command(&["metrics"]).output().unwrap();
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    let line = format!("respawn_journald_missed_total {missed}\n");
    assert!(metrics.contains(&line), "{metrics}");
}

/// Shipper and recorder are killed again and again while processes die and files are turned over.
#[test]
fn a_shipper_gets_each_death_once_whoever_is_killed() {
    const DEATHS: &str = "30";
    needs_root!("a_shipper_gets_each_death_once_whoever_is_killed");
    let place = RecorderDirs::new();
    let start = || place.start(&["--max-size=2MiB"]);
    let [shipped, undisturbed] =
        ["shipped", "undisturbed"].map(|name| Shipped::new(place.path().join(name)));
    let follow = || place.command(&["deaths", "--follow", "--json"]);
    let last_seq = || place.lines().last()?["seq"].as_u64();
    let mut recorder = start();
    let witness = undisturbed.start(follow());
    let mut random = Seeded(11);
    let mut turned_over = HashSet::new();
    for round in 0..40 {
        let mut shipper = shipped.start(follow());
        // However slow the machine is, no file is removed before it is shipped.
        if round % 3 == 0 {
            shipped.wait_for_all(last_seq);
            undisturbed.wait_for_all(last_seq);
        }
        let mut dying = Command::new(env!("CARGO_BIN_EXE_culprit"));
        let dying = dying
            .args(["die", DEATHS])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut dying = dying.spawn().unwrap();
        thread::sleep(Duration::from_micros(random.below(30_000)));
        let is_killed = round % 2 == 0;
        if is_killed {
            recorder = {
                recorder.kill();
                start()
            };
        }
        thread::sleep(Duration::from_micros(random.below(10_000)));
        shipper.kill().unwrap();
        shipper.wait().unwrap();
        assert!(dying.wait().unwrap().success());
        let older = fs::read_to_string(place.dir().join("deaths.1")).unwrap_or_default();
        turned_over.extend(older.lines().next().map(str::to_owned));
    }
    // What else dies on the host is the next recorder's.
    assert!(recorder.stop().success());
    let shipper = shipped.start(follow());
    let lines = shipped.assert_same(&undisturbed, [shipper, witness], last_seq);
    let all = lines.len();
    let own = lines
        .iter()
        .filter(|line| line["comm"] == "culprit")
        .count();
    assert!(own >= 40 * 30, "{own}");
    assert!(!turned_over.is_empty());
    report(&format!(
        "{all} deaths, 40 killed shippers, 20 killed recorders, {} files turned over: each shipped once",
        turned_over.len()
    ));
}

/// In a PID namespace, whose deaths are those of its own processes alone.
#[test]
fn what_is_not_kept_takes_no_room_in_the_ring_and_wakes_nobody() {
    const UNKEPT: u64 = 1000;
    const KEPT: u64 = 20;
    needs_root!("what_is_not_kept_takes_no_room_in_the_ring_and_wakes_nobody");
    let place = RecorderDirs::new();
    // Each shell ends with 0, and of its three children each with 1: nobody's main process.
    let script = format!(
        "$RESPAWN recorder & recorder=$!
         while read what; do
             i=0
             while [ $what = unkept ] && [ $i -lt {} ]; do
                 sh -c '/bin/false; /bin/false; /bin/false; exit 0'; i=$((i+1)); done
             while [ $what = kept ] && [ $i -lt {KEPT} ]; do
                 sleep 1000 & kill -9 $!; wait $!; i=$((i+1)); done
             echo $(grep ^voluntary /proc/$recorder/status)
         done
         kill $recorder; wait $recorder",
        UNKEPT / 4
    );
    let binary = place.command(&[]).get_program().to_owned();
    let mut namespace = in_pid_namespace(&script);
    for (key, value) in place.command(&[]).get_envs() {
        namespace.env(key, value.unwrap());
    }
    let log = File::create(place.path().join("log")).unwrap();
    namespace
        .env("RESPAWN", binary)
        .env("RESPAWN_LOG", "info")
        .stderr(log);
    let mut victim = Victim::from_command(&mut namespace);
    let mut input = victim.stdin().unwrap();
    eventually("the recorder records", || {
        place.log().contains("recording deaths in").then_some(())
    });
    let ring = Object::pinned(&place.pinned("EVENTS").unwrap()).unwrap();
    let mut count = |what: &str| {
        input.write_all(format!("{what}\n").as_bytes()).unwrap();
        let line = victim.line();
        let switches: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        (switches, ring.produced().unwrap())
    };
    count("kept");
    eventually("all are recorded", || {
        (place.lines().len() as u64 == KEPT).then_some(())
    });
    let (before, produced) = count("nothing");
    let (after, still) = count("unkept");
    assert_eq!(still, produced, "bytes in the ring");
    // It may just have gone to sleep.
    assert!(after - before <= 2, "{before} {after}");
    assert_eq!(place.lines().len() as u64, KEPT);
    let (_, more) = count("kept");
    eventually("all are recorded", || {
        (place.lines().len() as u64 == 2 * KEPT).then_some(())
    });
    assert!(more >= produced + KEPT * 1000, "{produced} {more}");
    let (woken, _) = count("nothing");
    assert!(woken > after, "{after} {woken}");
    report(&format!(
        "{UNKEPT} exits that are not kept: {} bytes in the ring, {} context switches of the recorder; \
         {KEPT} that are: {} bytes, {} switches",
        still - produced,
        after - before,
        more - still,
        woken - after
    ));
    drop(input);
    victim.wait();
}

#[test]
fn there_is_one_recorder_for_a_pin_directory() {
    needs_root!("there_is_one_recorder_for_a_pin_directory");
    let place = RecorderDirs::new();
    let recorder = place.start(&[]);
    let output = place.command(&["recorder"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another"), "{said}");
    let pid = kill_by(sleeper(), "kill -9 $0");
    place.death_of(pid);
    signal_to(recorder.pid(), Signal::SIGHUP);
    assert!(recorder.stop().success());
}

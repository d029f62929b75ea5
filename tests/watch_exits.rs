//! Every process's death is seen once, with the cause that `wait` tells, and no thread's is.
//!
//! Each case runs through both kernel programs: the one for this kernel, and the one for kernels
//! before 6.16, which works on later ones too.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use nix::sys::signal::{SigHandler, Signal, signal as sigaction};
use serde_json::{Value, json};
use support::{Victim, Watch, in_pid_namespace, needs_root, respawn, start_time_ns};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

/// Arguments that choose each of the kernel programs.
const PROGRAMS: [&[&str]; 2] = [&[], &["--live-zero"]];

fn watch_pid(victim: &Victim, program: &[&str]) -> Watch {
    Watch::start(&[&["--pid", &victim.pid().to_string()], program].concat())
}

/// The cause in the words of docs/events-json.md, from what `wait` told the parent.
fn cause(status: ExitStatus) -> Value {
    let signal = status
        .signal()
        .map(|n| Signal::try_from(n).unwrap().as_str());
    json!({
        "kind": if signal.is_some() { "signaled" } else { "exited" },
        "code": status.code(),
        "signal": signal,
        "core_dumped": status.core_dumped(),
    })
}

/// What is told of the same.
fn told(event: &Value) -> Value {
    let cause = &event["cause"];
    json!({
        "kind": cause["kind"],
        "code": cause["code"],
        "signal": cause["signal"],
        "core_dumped": cause["core_dumped"],
    })
}

#[test]
fn a_plain_exit_has_its_code_and_its_identity() {
    needs_root!("a_plain_exit_has_its_code_and_its_identity");
    for program in PROGRAMS {
        let mut victim = Victim::start("sh", &["-c", "read line; exit 3"]);
        let started = start_time_ns(victim.pid());
        let mut watch = watch_pid(&victim, program);
        let status = victim.wait();
        let event = watch.exit_of(victim.pid());
        assert_eq!(told(&event), cause(status));
        assert_eq!(event["cause"]["code"], 3);
        assert_eq!(event["start_time_ns"], started);
        assert_eq!(event["comm"], "sh");
        assert_eq!(event["service"], Value::Null);
        assert_eq!(event["parent_pid"], std::process::id());
        assert_eq!(event["host_pid"], victim.pid());
        assert_eq!(event["uid"], 0);
        assert!(event["uptime_ns"].as_u64().unwrap() > 0, "{event}");
        let time = event["time"].as_str().unwrap();
        assert!(
            time.len() > 20 && time.ends_with('Z') && time.contains('T'),
            "{time}"
        );
        // The only watched process is gone: the watch ends by itself.
        let ended = watch.wait();
        assert!(
            ended.status.success() && ended.exits.is_empty(),
            "{ended:?}"
        );
        assert_eq!(
            (&ended.summary["shown"], &ended.summary["lost"]),
            (&json!(1), &json!(0))
        );
    }
}

#[test]
fn each_fatal_signal_is_named() {
    needs_root!("each_fatal_signal_is_named");
    let ignored = [
        Signal::SIGCHLD,
        Signal::SIGCONT,
        Signal::SIGURG,
        Signal::SIGWINCH,
    ];
    let stops = [
        Signal::SIGSTOP,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ];
    let mut watch = Watch::start(&["--all"]);
    for signal in Signal::iterator().filter(|s| !ignored.contains(s) && !stops.contains(s)) {
        let mut command = Command::new("sleep");
        // SAFETY: sigaction is async-signal-safe.
        unsafe {
            // Under nohup, or behind a shell's `&`, some are ignored.
            command.pre_exec(move || match signal {
                Signal::SIGKILL => Ok(()),
                _ => Ok(sigaction(signal, SigHandler::SigDfl).map(drop)?),
            });
        }
        let mut victim = Victim::from_command(command.arg("1000"));
        victim.signal(signal);
        let status = victim.wait();
        let event = watch.exit_of(victim.pid());
        assert_eq!(told(&event), cause(status), "{signal}");
        assert_eq!(event["cause"]["signal"], signal.as_str());
    }
}

#[test]
fn an_abort_that_dumps_core_says_so() {
    needs_root!("an_abort_that_dumps_core_says_so");
    let folder = tempfile::tempdir().unwrap();
    for program in PROGRAMS {
        for limit in [0, libc::RLIM_INFINITY] {
            let mut command = Command::new("sh");
            command
                .args(["-c", "read line; exec \"$0\" abort", VICTIM])
                .current_dir(folder.path());
            // SAFETY: setrlimit is async-signal-safe.
            unsafe {
                command.pre_exec(move || {
                    let core = nix::sys::resource::Resource::RLIMIT_CORE;
                    Ok(nix::sys::resource::setrlimit(core, limit, limit)?)
                });
            }
            let mut victim = Victim::from_command(&mut command);
            let mut watch = watch_pid(&victim, program);
            let status = victim.wait();
            let event = watch.exit_of(victim.pid());
            assert_eq!(told(&event), cause(status), "limit {limit}");
            assert_eq!(event["cause"]["signal"], "SIGABRT");
        }
    }
}

#[test]
fn a_leader_that_ends_early_is_no_death() {
    needs_root!("a_leader_that_ends_early_is_no_death");
    for program in PROGRAMS {
        let mut victim = Victim::start(VICTIM, &["leader-exits"]);
        let mut watch = watch_pid(&victim, program);
        assert_eq!(victim.line(), "leader gone");
        // A whole other process's exit comes after the leader's: no event came for that one.
        let status = victim.wait();
        let event = watch.next();
        assert_eq!(
            (&event["pid"], told(&event)),
            (&json!(victim.pid()), cause(status))
        );
        assert_eq!(event["cause"]["code"], 9);
        assert!(watch.wait().exits.is_empty());
    }
}

#[test]
fn an_exec_by_another_thread_is_no_death() {
    needs_root!("an_exec_by_another_thread_is_no_death");
    for program in PROGRAMS {
        let mut watch = Watch::start(&[&["--all"], program].concat());
        let mut victim = Victim::start(VICTIM, &["exec-from-thread"]);
        assert_eq!(victim.line(), "ready");
        victim.signal(Signal::SIGKILL);
        let status = victim.wait();
        let event = watch.exit_of(victim.pid());
        assert_eq!(told(&event), cause(status));
        let ended = watch.stop();
        assert!(
            ended.exits.iter().all(|event| event["pid"] != victim.pid()),
            "{ended:?}"
        );
    }
}

#[test]
fn five_thousand_exits_are_each_seen_once() {
    needs_root!("five_thousand_exits_are_each_seen_once");
    for program in PROGRAMS {
        let watch = Watch::start(&[&["--all"], program].concat());
        let expected = storm(VICTIM, 5000);
        let ended = watch.stop();
        assert_eq!(ended.summary["lost"], 0);
        let mut seen: HashMap<u64, Vec<u64>> = HashMap::new();
        for event in ended.exits {
            let code = event["cause"]["code"].as_u64();
            seen.entry(event["pid"].as_u64().unwrap())
                .or_default()
                .extend(code);
        }
        for (pid, code) in expected {
            assert_eq!(seen.get(&pid), Some(&vec![code]), "pid {pid}");
        }
    }
}

/// Runs `victim storm`: pids and exit codes of `count` processes.
fn storm(program: &str, count: usize) -> Vec<(u64, u64)> {
    let mut victim = Victim::start(program, &["storm", &count.to_string()]);
    let children = (0..count)
        .map(|_| {
            let line = victim.line();
            let (pid, code) = line.split_once(' ').unwrap();
            (pid.parse().unwrap(), code.parse().unwrap())
        })
        .collect();
    assert!(victim.wait().success());
    children
}

#[test]
fn what_a_small_ring_loses_is_counted_exactly() {
    needs_root!("what_a_small_ring_loses_is_counted_exactly");
    // Only the storm's processes have this name, so that the count is theirs.
    let folder = tempfile::tempdir().unwrap();
    let link = named_victim(&folder, "small_ring_test");
    for program in PROGRAMS {
        let arguments = ["--name", "small_ring_test", "--ring-bytes", "4096"];
        // Nobody reads its output, so that it stops to read the ring.
        let watch = Watch::start_unread(&[&arguments, program].concat());
        storm(&link, 3000);
        let mut watch = watch;
        watch.read();
        let mut seen = 0;
        let mut lost = 0;
        // 3000 children and the process that forked them.
        while seen + lost < 3001 {
            let event = watch.next();
            match event["event"].as_str() {
                Some("exited") => seen += 1,
                Some("events_lost") => lost += event["count"].as_u64().unwrap(),
                _ => panic!("{event}"),
            }
        }
        let ended = watch.stop();
        assert_eq!((seen + lost, ended.exits.len()), (3001, 0), "{ended:?}");
        assert_eq!(ended.summary["shown"], seen);
        assert_eq!(ended.summary["lost"], lost);
        assert!(lost > 0, "the ring was large enough for all");
    }
}

#[test]
fn a_watched_process_is_shown_even_when_its_record_was_lost() {
    needs_root!("a_watched_process_is_shown_even_when_its_record_was_lost");
    let folder = tempfile::tempdir().unwrap();
    let link = named_victim(&folder, "lost_record_tst");
    let mut victims: Vec<Victim> = (0..20).map(|_| Victim::start("sleep", &["1000"])).collect();
    let pids: Vec<String> = victims
        .iter()
        .map(|victim| victim.pid().to_string())
        .collect();
    let mut arguments = vec!["--name", "lost_record_tst", "--ring-bytes", "4096"];
    for pid in &pids {
        arguments.extend(["--pid", pid]);
    }
    let mut watch = Watch::start_unread(&arguments);
    storm(&link, 3000);
    for victim in &mut victims {
        victim.signal(Signal::SIGKILL);
        victim.wait();
    }
    watch.read();
    let mut missing: Vec<u32> = victims.iter().map(Victim::pid).collect();
    while !missing.is_empty() {
        let event = watch.next();
        if event["event"] == "exited" && event["comm"] == "sleep" {
            let pid = event["pid"].as_u64().unwrap();
            let index = missing
                .iter()
                .position(|&missing| u64::from(missing) == pid)
                .unwrap();
            missing.swap_remove(index);
            let kind = event["cause"]["kind"].as_str().unwrap();
            assert!(["signaled", "unknown"].contains(&kind), "{event}");
        }
    }
    let ended = watch.stop();
    assert!(ended.summary["lost"].as_u64().unwrap() > 0);
    assert!(
        ended.exits.iter().all(|event| event["comm"] != "sleep"),
        "{ended:?}"
    );
}

/// The victim under another name, so that only a test's own processes have it.
fn named_victim(folder: &tempfile::TempDir, name: &str) -> String {
    let link = folder.path().join(name);
    std::os::unix::fs::symlink(VICTIM, &link).unwrap();
    link.to_str().unwrap().to_owned()
}

#[test]
fn a_reused_pid_is_another_process() {
    let test = "a_reused_pid_is_another_process";
    needs_root!(test);
    if std::fs::metadata("/proc/sys/kernel/ns_last_pid").is_err() {
        support::skip(
            test,
            "the kernel has no ns_last_pid (CONFIG_CHECKPOINT_RESTORE)",
        );
        return;
    }
    // In a namespace of its own nobody else takes pids. The shell's $1 is the binary.
    let script = r#"
        sleep 1000 & first=$!
        sleep 1000 & last=$!
        "$0" watch --json --pid $first --pid $last 2>"$1" & watch=$!
        until grep -q watching "$1"; do sleep 0.01; done
        kill -9 $first; wait $first
        # The kernel may keep the number for a moment.
        for try in $(seq 100); do
            echo $((first - 1)) > /proc/sys/kernel/ns_last_pid
            sh -c 'exit 5' & again=$!
            wait $again
            [ $again = $first ] && break
            sleep 0.05
        done
        [ $again = $first ] || { echo "reused $again, wanted $first" >&2; exit 1; }
        kill -9 $last; wait $last
        wait $watch
    "#;
    let log = tempfile::NamedTempFile::new().unwrap();
    let binary = respawn().get_program().to_owned();
    let output = in_pid_namespace(script)
        .arg(binary)
        .arg(log.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let events: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &Value| event["event"] == "exited")
        .collect();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(
        events
            .iter()
            .all(|event| event["cause"]["signal"] == "SIGKILL"),
        "{events:?}"
    );
}

#[test]
fn a_process_in_another_pid_namespace_has_the_hosts_pid() {
    needs_root!("a_process_in_another_pid_namespace_has_the_hosts_pid");
    let mut watch = Watch::start(&["--name", "inside_pidns"]);
    let folder = tempfile::tempdir().unwrap();
    let link = named_victim(&folder, "inside_pidns");
    let status = in_pid_namespace("\"$0\" exit 6")
        .arg(&link)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(6));
    let event = watch.next();
    assert_eq!(event["cause"]["code"], 6);
    assert_eq!(event["pid"], event["host_pid"]);
    assert!(event["pid"].as_u64().unwrap() > 2, "{event}");
}

#[test]
fn from_inside_a_pid_namespace_pids_are_its_own() {
    needs_root!("from_inside_a_pid_namespace_pids_are_its_own");
    for program in ["", "--live-zero"] {
        let script =
            format!("sleep 1000 & echo $!; \"$0\" watch --json --all {program} & cat; wait");
        let mut command = in_pid_namespace("");
        command = {
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            let mut fresh = Command::new(command.get_program());
            fresh.args(&arguments[..arguments.len() - 1]).arg(script);
            fresh
        };
        command.arg(respawn().get_program());
        check_namespaced(Watch::from_command(&mut command));
    }
}

fn check_namespaced(mut watch: Watch) {
    let inside = watch.next().as_u64().unwrap();
    assert!(inside < 100, "pid {inside} is not of a fresh namespace");
    // Find the sleep from out here: the one whose innermost pid is `inside`.
    let outside = host_pid_of(watch.pid(), inside);
    // An exit outside the namespace must not be seen inside.
    let mut stranger = Victim::start("true", &[]);
    stranger.wait();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(outside), Signal::SIGTERM).unwrap();
    let event = watch.next();
    assert_eq!(
        (&event["pid"], &event["host_pid"]),
        (&json!(inside), &json!(outside))
    );
    assert_eq!(event["cause"]["signal"], "SIGTERM");
    // Who sent it is outside, where the namespace has no number for it.
    let sender = &event["cause"]["sender"];
    assert_eq!(
        (&sender["pid"], &sender["host_pid"]),
        (&json!(0), &json!(std::process::id()))
    );
    assert_eq!(sender["start_time_ns"], start_time_ns(std::process::id()));
    assert_eq!(event["parent_pid"], 1);
}

/// The host's pid of the descendant of `ancestor` whose own namespace knows it as `inside`.
fn host_pid_of(ancestor: u32, inside: u64) -> i32 {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim()
        };
        let innermost = field("NSpid:").split_whitespace().nth(1);
        let Some(parent) = field("PPid:").parse::<u32>().ok() else {
            continue;
        };
        let grandparent = std::fs::read_to_string(format!("/proc/{parent}/stat"))
            .ok()
            .and_then(|stat| {
                stat.rsplit_once(')')?
                    .1
                    .split_whitespace()
                    .nth(1)?
                    .parse()
                    .ok()
            });
        if innermost == Some(&inside.to_string()) && grandparent == Some(ancestor) {
            return pid;
        }
    }
    panic!("no descendant of {ancestor} is pid {inside} inside");
}

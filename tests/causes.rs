//! Who killed it: for every way to send a signal and to end by one, the cause that is told is the
//! true one, and the sender the true process, by pid and start time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::cgroup::{Cgroup, hierarchy, small_cgroup};
use support::rig::{Memory, Rig, report, switches};
use support::scene::Scene;
use support::{Lines, Victim, Watch, copy_program, needs_root, skip, start_time_ns};

const CULPRIT: &str = env!("CARGO_BIN_EXE_culprit");

/// Arguments that choose each of the kernel's exit programs.
const PROGRAMS: [&[&str]; 2] = [&[], &["--live-zero"]];

fn culprit(words: &[&str]) -> Victim {
    Victim::start(CULPRIT, words)
}

fn watch(pid: u32, program: &[&str]) -> Watch {
    Watch::start(&[&["--pid", &pid.to_string()], program].concat())
}

/// What a sender is told to be, as long as it lives.
fn identity(process: &Victim) -> Value {
    json!([process.pid(), start_time_ns(process.pid())])
}

fn sender(cause: &Value) -> Value {
    json!([cause["sender"]["pid"], cause["sender"]["start_time_ns"]])
}

fn myself() -> Value {
    json!([std::process::id(), start_time_ns(std::process::id())])
}

/// Has a process send a signal, and end at once.
fn send(how: &str, signal: &str, to: u32) -> (Value, u32) {
    let mut sender = culprit(&["send", how, signal, &to.to_string()]);
    let who = (identity(&sender), sender.pid());
    assert!(sender.wait().success(), "{how}");
    who
}

#[test]
fn every_way_to_send_has_its_sender() {
    needs_root!("every_way_to_send_has_its_sender");
    for program in PROGRAMS {
        for (way, how) in [
            ("kill", "kill"),
            ("tkill", "tkill"),
            ("tgkill", "tgkill"),
            ("sigqueue", "sigqueue"),
            ("forged", "sigqueue"),
            ("pidfd", "pidfd"),
        ] {
            for signal in ["SIGTERM", "SIGKILL", "SIGUSR1"] {
                let mut victim = Victim::start("sleep", &["1000"]);
                let mut watch = watch(victim.pid(), program);
                let (who, _) = send(way, signal, victim.pid());
                victim.wait();
                let cause = &watch.exit_of(victim.pid())["cause"];
                assert_eq!(cause["signal"], signal, "{way}");
                assert_eq!(cause["how"], how, "{way} {signal}");
                assert_eq!(sender(cause), who, "{way} {signal}: {cause}");
                assert_eq!(cause["sender"]["comm"], "culprit");
                assert_eq!(cause["sender"]["parent"]["pid"], std::process::id());
                assert_eq!(cause["sender"]["itself"], false);
            }
        }
    }
}

#[test]
fn all_shows_senders_too() {
    needs_root!("all_shows_senders_too");
    let mut watch = Watch::start(&["--all"]);
    let mut victim = Victim::start("sleep", &["1000"]);
    let (who, _) = send("kill", "SIGTERM", victim.pid());
    victim.wait();
    let cause = &watch.exit_of(victim.pid())["cause"];
    assert_eq!((&cause["how"], sender(cause)), (&json!("kill"), who));
}

#[test]
fn another_user_is_told_by_its_number() {
    needs_root!("another_user_is_told_by_its_number");
    let mut victim = Victim::from_command(Command::new("sleep").arg("1000").uid(65534));
    let mut watch = watch(victim.pid(), &[]);
    let pid = victim.pid().to_string();
    let folder = readable_culprit();
    let mut command = Command::new(folder.path().join("culprit"));
    let mut killer =
        Victim::from_command(command.args(["send", "kill", "SIGTERM", &pid]).uid(65534));
    let who = identity(&killer);
    assert!(killer.wait().success());
    victim.wait();
    let cause = &watch.exit_of(victim.pid())["cause"];
    assert_eq!(sender(cause), who);
    assert_eq!(cause["sender"]["uid"], 65534);
}

/// A copy that every user may run.
fn readable_culprit() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    copy_program(CULPRIT, folder.path().join("culprit"));
    folder
}

#[test]
fn what_a_process_does_to_itself_is_its_own() {
    needs_root!("what_a_process_does_to_itself_is_its_own");
    for (words, signal, how) in [
        (["raise", "SIGTERM"], "SIGTERM", "tgkill"),
        (["fault", "abort"], "SIGABRT", "tgkill"),
        (["fault", "null"], "SIGSEGV", "fault"),
        (["fault", "bus"], "SIGBUS", "fault"),
        (["fault", "division"], "SIGFPE", "fault"),
    ] {
        // A division by zero is no fault on 64-bit Arm: its result is 0 there.
        if words[1] == "division" && cfg!(target_arch = "aarch64") {
            continue;
        }
        let mut victim = culprit(&words);
        let who = identity(&victim);
        let mut watch = watch(victim.pid(), &[]);
        victim.wait();
        let cause = &watch.exit_of(victim.pid())["cause"];
        assert_eq!(
            (&cause["signal"], &cause["how"]),
            (&json!(signal), &json!(how))
        );
        assert_eq!(sender(cause), who, "{words:?}");
        assert_eq!(cause["sender"]["itself"], true);
        let fault = &cause["fault"];
        match words[1] {
            "null" => assert_eq!(
                *fault,
                json!({"code": 1, "name": "SEGV_MAPERR", "address": "0x10"})
            ),
            "bus" => assert_eq!(fault["name"], "BUS_ADRERR"),
            "division" => assert_eq!(fault["name"], "FPE_INTDIV"),
            _ => assert_eq!(*fault, Value::Null),
        }
    }
}

/// The first two numbers of the running kernel's version.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn the_kernels_own_kills_have_no_sender() {
    needs_root!("the_kernels_own_kills_have_no_sender");
    for program in PROGRAMS {
        for (words, signal, how) in [
            (["seccomp", "strict"], "SIGKILL", "seccomp"),
            (["seccomp", "filter"], "SIGSYS", "seccomp"),
            (["spin", "1,2"], "SIGXCPU", "cpu_limit"),
            (["spin", "1,1"], "SIGKILL", "cpu_limit"),
            // There is another limit that it may have come to.
            (["spin", "1,2,100"], "SIGXCPU", "kernel"),
            (["spin", "1,1,100"], "SIGKILL", "kernel"),
            (["pipe", ""], "SIGPIPE", "broken_pipe"),
            (["timer", "real"], "SIGALRM", "timer"),
            (["timer", "virtual"], "SIGVTALRM", "timer"),
            (["timer", "prof"], "SIGPROF", "timer"),
            (["timer", "created"], "SIGTERM", "timer"),
            (["timer", "created-asleep"], "SIGTERM", "timer"),
            (["grow", ""], "SIGXFSZ", "file_size_limit"),
            (["notify", ""], "SIGIO", "notification"),
        ] {
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let end = || {
                let mut victim = culprit(&words);
                let mut watch = watch(victim.pid(), program);
                victim.wait();
                watch.exit_of(victim.pid())["cause"].clone()
            };
            let mut cause = end();
            // A timer may interrupt somebody who is just in a call that lets its caller choose the code of
            // a signal: then nobody can tell which of the two has sent it, and it is not told.
            for _ in 0..5 {
                if words.first() == Some(&"timer") && cause["how"].is_null() {
                    assert_eq!(cause["sender"], Value::Null);
                    cause = end();
                }
            }
            let cause = &cause;
            // Before Linux 5.14 a filter ends its thread without a signal or a mark (kernel/seccomp.c).
            let is_told = signal != "SIGSYS" || kernel() >= (5, 14);
            let how = is_told.then_some(how);
            // Before 5.15 it is not known what an idle processor's own task was doing when the timer
            // interrupted it: its stack is the one that the kernel was booted on.
            let may_be_unknown = words.contains(&"created-asleep") && kernel() < (5, 15);
            let is_unknown = may_be_unknown && cause["how"].is_null();
            let how = how.filter(|_| !is_unknown);
            assert_eq!(
                (&cause["signal"], &cause["how"], &cause["sender"]),
                (&json!(signal), &json!(how), &Value::Null),
                "{words:?}"
            );
        }
    }
}

#[test]
fn what_a_terminal_sends_is_told() {
    needs_root!("what_a_terminal_sends_is_told");
    for (what, signal, how, words) in [
        (
            "interrupt",
            "SIGINT",
            "terminal",
            "SIGINT from its terminal (Ctrl-C)",
        ),
        (
            "quit",
            "SIGQUIT",
            "terminal",
            "SIGQUIT from its terminal (Ctrl-\\)",
        ),
        (
            "close",
            "SIGHUP",
            "hangup",
            "SIGHUP at a hangup of its terminal or session",
        ),
    ] {
        let mut parent = culprit(&["terminal", what]);
        let child: u32 = parent.line().parse().unwrap();
        let mut watch = watch(child, &[]);
        let text = support::respawn()
            .args(["watch", "--pid", &child.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = Watching::of(text);
        parent.wait();
        let cause = &watch.exit_of(child)["cause"];
        assert_eq!(
            (&cause["signal"], &cause["how"], &cause["sender"]),
            (&json!(signal), &json!(how), &Value::Null)
        );
        let said = text.rest();
        assert!(said.contains(&format!("killed by {words}")), "{said}");
    }
}

/// A `respawn watch` in text that ends by itself.
struct Watching {
    child: Child,
    errors: Lines,
}

impl Watching {
    /// Returns when it watches.
    fn of(mut child: Child) -> Self {
        let mut errors = Lines::of(child.stderr.take().unwrap());
        while !errors.next().unwrap().contains("watching ") {}
        Self { child, errors }
    }

    /// What it printed.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut text).unwrap();
        while self.errors.next().is_some() {}
        assert!(self.child.wait().unwrap().success());
        text
    }
}

#[test]
fn a_line_of_watch_tells_who_had_asked() {
    needs_root!("a_line_of_watch_tells_who_had_asked");
    for (words, signal, end) in [
        (["handle", "SIGINT", "130"], "SIGINT", "exited with 130"),
        (["handle", "SIGTERM", "0"], "SIGTERM", "exited with 0"),
        (
            ["again", "SIGTERM", ""],
            "SIGTERM",
            "killed by SIGTERM, its own",
        ),
    ] {
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let mut victim = culprit(&words);
        assert_eq!(victim.line(), "ready");
        let pid = victim.pid();
        let child = support::respawn()
            .args(["watch", "--pid", &pid.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = Watching::of(child);
        let (_, sender) = send("kill", signal, pid);
        victim.wait();
        let said = text.rest();
        let told = format!("{end}, asked to by {signal} from culprit (pid {sender}, uid 0)\n");
        assert!(said.ends_with(&told), "{said}");
    }
}

#[test]
fn a_parents_and_a_tracers_end_are_told() {
    needs_root!("a_parents_and_a_tracers_end_are_told");
    for (words, signal, how) in [
        (vec!["parent", "SIGTERM"], "SIGTERM", "parent_death"),
        (vec!["parent", "SIGKILL"], "SIGKILL", "parent_death"),
        (vec!["trace"], "SIGKILL", "tracer_end"),
    ] {
        let mut parent = culprit(&words);
        let who = identity(&parent);
        let child = parent.line().parse().unwrap();
        let mut watch = watch(child, &[]);
        parent.wait();
        let cause = &watch.exit_of(child)["cause"];
        assert_eq!(
            (&cause["signal"], &cause["how"]),
            (&json!(signal), &json!(how))
        );
        assert_eq!(sender(cause), who, "{words:?}: {cause}");
    }
}

/// Its system call is no write to `cgroup.kill`; and what it puts in place of another signal nobody has sent.
#[test]
fn what_a_tracer_does_is_called_by_no_other_name() {
    needs_root!("what_a_tracer_does_is_called_by_no_other_name");
    let myself = std::process::id();
    for program in PROGRAMS {
        for (is_put_in, signal) in [(false, "SIGKILL"), (true, "SIGTERM")] {
            let mut victim = Victim::start("sleep", &["1000"]);
            let mut watch = watch(victim.pid(), program);
            let pid = Pid::from_raw(victim.pid().cast_signed());
            ptrace::attach(pid).unwrap();
            waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
            match is_put_in {
                true => ptrace::cont(pid, Signal::SIGTERM).unwrap(),
                false => ptrace::kill(pid).unwrap(),
            }
            victim.wait();
            let cause = &watch.exit_of(victim.pid())["cause"];
            assert_eq!(cause["signal"], signal, "{cause}");
            assert_eq!(cause["how"], Value::Null, "{cause}");
            match is_put_in {
                true => assert_eq!(cause["sender"], Value::Null, "{cause}"),
                false => assert_eq!(cause["sender"]["pid"], myself, "{cause}"),
            }
        }
    }
}

#[test]
fn a_parents_thread_that_ends_is_no_parents_death() {
    needs_root!("a_parents_thread_that_ends_is_no_parents_death");
    for program in PROGRAMS {
        for signal in ["SIGTERM", "SIGKILL"] {
            let mut parent = culprit(&["parent", signal, "thread"]);
            let who = identity(&parent);
            let child = parent.line().parse().unwrap();
            let mut watch = watch(child, program);
            drop(parent.stdin());
            let cause = watch.exit_of(child)["cause"].clone();
            assert_eq!(
                (&cause["signal"], &cause["how"]),
                (&json!(signal), &json!("parent_thread_death")),
                "{cause}"
            );
            assert_eq!(sender(&cause), who, "{cause}");
            assert_eq!(identity(&parent), who, "it lives");
        }
    }
}

#[test]
fn the_end_of_a_pid_namespace_is_told() {
    needs_root!("the_end_of_a_pid_namespace_is_told");
    let mut namespace = Victim::from_command(&mut support::in_pid_namespace(
        "sleep 1000 <&- & echo; read line",
    ));
    namespace.line();
    let init = children_of(namespace.pid())[0];
    let sleep = *children_of(init).last().unwrap();
    let who = json!([init, start_time_ns(init)]);
    let mut watch = watch(sleep, &[]);
    namespace.wait();
    let cause = &watch.exit_of(sleep)["cause"];
    assert_eq!(
        (&cause["signal"], &cause["how"]),
        (&json!("SIGKILL"), &json!("namespace_end"))
    );
    assert_eq!(sender(cause), who, "{cause}");
}

fn children_of(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn a_cgroup_kill_has_its_writer() {
    const NAME: &str = "a_cgroup_kill_has_its_writer";
    needs_root!(NAME);
    let Some(cgroup) = hierarchy("cgroup2", "").and_then(|path| Cgroup::new(&path)) else {
        return skip(NAME, "no cgroup v2 hierarchy that can be written");
    };
    let kill_file = cgroup.path().join("cgroup.kill");
    if !kill_file.exists() {
        return skip(NAME, "the kernel has no cgroup.kill");
    }
    let mut victim = culprit(&["threads", "3"]);
    victim.line();
    cgroup.add(victim.pid());
    let mut watch = watch(victim.pid(), &[]);
    let mut writer = culprit(&["write", kill_file.to_str().unwrap(), "1"]);
    let who = identity(&writer);
    assert!(writer.wait().success());
    victim.wait();
    let event = watch.exit_of(victim.pid());
    let cause = &event["cause"];
    assert_eq!(
        (&cause["signal"], &cause["how"]),
        (&json!("SIGKILL"), &json!("cgroup_kill"))
    );
    assert_eq!(sender(cause), who);
    assert_eq!(event["usage"]["threads"], 3);
}

const KERNEL_LOG: &str = "/dev/kmsg";

/// Whether a line of the kernel's log has all of these.
fn log_has(parts: &[&str]) -> bool {
    let log = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(KERNEL_LOG);
    let Ok(mut log) = log else { return false };
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                let line = String::from_utf8_lossy(&record[..length]);
                if parts.iter().all(|part| line.contains(part)) {
                    return true;
                }
            }
            // The oldest lines went while they were read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => return false,
        }
    }
}

#[test]
fn an_out_of_memory_kill_has_its_figures() {
    const NAME: &str = "an_out_of_memory_kill_has_its_figures";
    needs_root!(NAME);
    let Some(cgroup) = small_cgroup() else {
        return skip(NAME, "no cgroup whose memory can be limited");
    };
    let marker = format!("respawn test {}", std::process::id());
    let is_log_readable =
        fs::write(KERNEL_LOG, format!("{marker}\n")).is_ok() && log_has(&[&marker]);
    for program in PROGRAMS {
        let mut victim = culprit(&["eat"]);
        cgroup.add(victim.pid());
        fs::write(format!("/proc/{}/oom_score_adj", victim.pid()), "17").unwrap();
        let mut watch = watch(victim.pid(), program);
        victim.wait();
        let event = watch.exit_of(victim.pid());
        let cause = &event["cause"];
        assert_eq!(cause["kind"], "oom_killed", "{event}");
        assert_eq!(
            (&cause["signal"], &cause["sender"]),
            (&json!("SIGKILL"), &Value::Null)
        );
        let oom = &cause["oom"];
        assert_eq!(oom["oom_score_adj"], 17);
        let anon = oom["anon_rss_bytes"].as_u64().unwrap();
        assert!((8 << 20..=40 << 20).contains(&anon), "{oom}");
        assert!(oom["total_vm_bytes"].as_u64().unwrap() >= anon, "{oom}");
        // Of many kills at once not every one has its line.
        let pid = format!(",pid={},", event["host_pid"]);
        let scope = match is_log_readable && log_has(&["oom-kill:constraint=", &pid]) {
            true => json!("cgroup"),
            false => Value::Null,
        };
        assert_eq!(oom["scope"], scope, "{oom}");
        assert!(
            event["usage"]["max_rss_bytes"].as_u64().unwrap() > 8 << 20,
            "{event}"
        );
    }
}

#[test]
fn who_shares_a_victims_memory_is_told_with_it() {
    const NAME: &str = "who_shares_a_victims_memory_is_told_with_it";
    needs_root!(NAME);
    let Some(cgroup) = small_cgroup() else {
        return skip(NAME, "no cgroup whose memory can be limited");
    };
    for program in PROGRAMS {
        let mut parent = culprit(&["share"]);
        let pids = [parent.pid(), parent.line().parse().unwrap()];
        let mut watches = pids.map(|pid| {
            cgroup.add(pid);
            watch(pid, program)
        });
        parent.wait();
        let exits = [0, 1].map(|index| watches[index].exit_of(pids[index]));
        let of = |key: &str| {
            exits
                .each_ref()
                .map(|exit| exit["cause"]["oom"][key].clone())
        };
        for exit in &exits {
            assert_eq!(exit["cause"]["kind"], "oom_killed", "{exit}");
            assert_eq!(exit["cause"]["signal"], "SIGKILL", "{exit}");
        }
        // One of them was the kernel's choice, and has the figures.
        let victims = of("victim_host_pid");
        let chosen = victims.iter().position(Value::is_null).unwrap();
        assert_eq!(victims[1 - chosen], exits[chosen]["host_pid"], "{exits:?}");
        let figures = of("anon_rss_bytes").map(|bytes| bytes.is_u64());
        assert!(figures[chosen] && !figures[1 - chosen], "{exits:?}");
    }
}

#[test]
fn a_service_without_memory_is_told_and_delayed() {
    without_memory("a_service_without_memory_is_told_and_delayed", "eat");
}

#[test]
fn a_service_that_shares_its_memory_with_a_victim_is_told_and_delayed() {
    let name = "a_service_that_shares_its_memory_with_a_victim_is_told_and_delayed";
    without_memory(name, "share");
}

fn without_memory(name: &str, what: &str) {
    needs_root!(name);
    let Some(cgroup) = small_cgroup() else {
        return skip(name, "no cgroup whose memory can be limited");
    };
    let rig = Rig::new();
    let procs = cgroup.path().join("cgroup.procs");
    let script = format!("echo $$ > {}; exec {CULPRIT} {what}", procs.display());
    let command = format!("[\"sh\", \"-c\", {script:?}]");
    let keys = "restart_delay = \"50ms\"\nstable_after = \"1h\"";
    rig.service("eater", &command, keys);
    let _agent = rig.agent();
    let events = support::eventually("three delays", || {
        let output = rig.run(&["events", "--service", "eater", "--json"]);
        let text = String::from_utf8(output.stdout).ok()?;
        let events: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let delays = events.iter().filter(|event| event["event"] == "backoff");
        (delays.count() >= 3).then_some(events)
    });
    // It is its own failure: the first delay is the one that is asked for, and then they double.
    let delays: Vec<u64> = events
        .iter()
        .filter(|event| event["event"] == "backoff")
        .map(|event| event["delay_ns"].as_u64().unwrap())
        .collect();
    assert_eq!(delays[..3], [50_000_000, 100_000_000, 200_000_000]);
    for exit in events.iter().filter(|event| event["event"] == "exited") {
        let cause = &exit["cause"];
        assert_eq!(cause["kind"], "oom_killed", "{exit}");
        assert_eq!(cause["sender"], Value::Null, "{exit}");
        if cause["oom"]["victim_host_pid"].is_null() {
            let anon = cause["oom"]["anon_rss_bytes"].as_u64().unwrap();
            assert!((8 << 20..=40 << 20).contains(&anon), "{exit}");
        }
    }
    let output = rig.run(&["why", "eater"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("eater killed for lack of memory"), "{text}");
    assert!(rig.run(&["stop", "eater"]).status.success());
}

#[test]
fn a_request_that_is_handled_is_told_beside_the_exit() {
    needs_root!("a_request_that_is_handled_is_told_beside_the_exit");
    for program in PROGRAMS {
        let mut victim = culprit(&["handle", "SIGTERM", "0"]);
        victim.line();
        let mut watch = watch(victim.pid(), program);
        let (who, _) = send("kill", "SIGTERM", victim.pid());
        victim.wait();
        let event = watch.exit_of(victim.pid());
        assert_eq!(event["cause"]["kind"], "exited");
        assert_eq!(
            (&event["cause"]["code"], &event["cause"]["sender"]),
            (&json!(0), &Value::Null)
        );
        let last = &event["last_signal"];
        assert_eq!(
            (&last["signal"], &last["how"]),
            (&json!("SIGTERM"), &json!("kill"))
        );
        assert_eq!(sender(last), who);
        assert!(last["before_exit_ns"].as_u64().unwrap() > 0);
    }
}

#[test]
fn an_exit_that_nobody_asked_for_has_no_last_signal() {
    needs_root!("an_exit_that_nobody_asked_for_has_no_last_signal");
    let mut victim = culprit(&["block", "SIGTERM"]);
    victim.line();
    let mut watch = watch(victim.pid(), &[]);
    // Taken, but no request to end; and one that is ignored.
    victim.signal(Signal::SIGUSR1);
    victim.signal(Signal::SIGWINCH);
    victim.signal(Signal::SIGKILL);
    victim.wait();
    let event = watch.exit_of(victim.pid());
    assert_eq!(event["last_signal"], Value::Null);
    assert_eq!(sender(&event["cause"]), myself());
}

#[test]
fn a_blocked_signal_keeps_its_first_sender() {
    needs_root!("a_blocked_signal_keeps_its_first_sender");
    for program in PROGRAMS {
        let mut victim = culprit(&["block", "SIGTERM"]);
        victim.line();
        let mut watch = watch(victim.pid(), program);
        let (first, _) = send("kill", "SIGTERM", victim.pid());
        // Pending already: the kernel does not take it a second time.
        let (second, _) = send("kill", "SIGTERM", victim.pid());
        // Others come and are handled meanwhile.
        send("kill", "SIGUSR1", victim.pid());
        send("kill", "SIGUSR2", victim.pid());
        victim.wait();
        let cause = &watch.exit_of(victim.pid())["cause"];
        assert_eq!(cause["signal"], "SIGTERM");
        assert_ne!(first, second);
        assert_eq!(sender(cause), first, "{cause}");
    }
}

/// Two signals of one number wait, and which of them ended it is not in the wait status: for the
/// signal, who raises it when, and the ways of two other senders; who may be told, if anybody.
#[test]
fn of_signals_that_wait_no_wrong_sender_is_told() {
    needs_root!("of_signals_that_wait_no_wrong_sender_is_told");
    // Sent to the process, and to its thread.
    let (process, thread) = ("kill", "tkill");
    let real_time = libc::SIGRTMIN().to_string();
    let real_time = real_time.as_str();
    let cases = [
        // The only ones that can be: they are told.
        (real_time, "never", vec![process], Some(0)),
        (real_time, "before", vec![], Some(2)),
        ("SIGTERM", "never", vec![thread], Some(0)),
        // A thread's own come before those of its process.
        ("SIGTERM", "after", vec![process], Some(2)),
        // Those queue, and the first of them ends it.
        (real_time, "never", vec![process, process], None),
        (real_time, "never", vec![thread, thread], None),
        (real_time, "before", vec![process], None),
        (real_time, "after", vec![process], None),
        ("SIGTERM", "never", vec![process, thread], None),
        ("SIGTERM", "never", vec![thread, process], None),
        ("SIGTERM", "before", vec![process], None),
    ];
    for program in PROGRAMS {
        let mut watch = Watch::start(&[&["--name", "culprit"], program].concat());
        for (signal, raised, ways, told) in &cases {
            let case = format!("{signal} raised {raised}, by others {ways:?} {program:?}");
            let mut victim = culprit(&["hold", signal, raised]);
            let itself = identity(&victim);
            victim.line();
            let mut senders: Vec<Value> = ways
                .iter()
                .map(|way| send(way, signal, victim.pid()).0)
                .collect();
            senders.resize(2, Value::Null);
            senders.push(itself);
            victim.wait();
            let cause = &watch.exit_of(victim.pid())["cause"];
            assert_eq!(cause["kind"], "signaled", "{case}: {cause}");
            match told {
                Some(index) => assert_eq!(sender(cause), senders[*index], "{case}: {cause}"),
                None => assert_eq!(
                    (&cause["how"], &cause["sender"]),
                    (&Value::Null, &Value::Null),
                    "{case}: {cause}"
                ),
            }
        }
    }
}

/// With a name to watch for, signals are kept for all: those of strangers go with them.
#[test]
fn more_strangers_than_are_kept_take_no_ones_place() {
    needs_root!("more_strangers_than_are_kept_take_no_ones_place");
    /// Somewhat more than the kernel's side has room for (`SIGNALS_ENTRIES`).
    const STRANGERS: usize = 17_000;
    let mut watch = Watch::start(&["--name", "kept_victim"]);
    let mut strangers = culprit(&["die", &STRANGERS.to_string()]);
    assert_eq!(strangers.line(), "done");
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("kept_victim");
    std::os::unix::fs::symlink("/bin/sleep", &link).unwrap();
    let mut victim = Victim::start(link.to_str().unwrap(), &["1000"]);
    let (who, _) = send("kill", "SIGTERM", victim.pid());
    victim.wait();
    let cause = &watch.exit_of(victim.pid())["cause"];
    assert_eq!((sender(cause), &cause["how"]), (who, &json!("kill")));
    let ended = watch.stop();
    let is_warning = |line: &String| line.contains("cannot keep");
    assert!(!ended.stderr.iter().any(is_warning), "{ended:?}");
}

#[test]
fn of_two_senders_at_once_the_one_whose_signal_it_was_is_told() {
    needs_root!("of_two_senders_at_once_the_one_whose_signal_it_was_is_told");
    let mut watch = Watch::start(&["--name", "sleep"]);
    for round in 0..100 {
        let mut victim = Victim::start("sleep", &["1000"]);
        let pid = victim.pid().to_string();
        let mut senders =
            ["SIGTERM", "SIGKILL"].map(|signal| (signal, culprit(&["send", "kill", signal, &pid])));
        let who = [identity(&senders[0].1), identity(&senders[1].1)];
        // Both are let go at once.
        let inputs = [senders[0].1.stdin(), senders[1].1.stdin()];
        drop(inputs);
        victim.wait();
        for (_, sender) in &mut senders {
            // Whoever was late found nobody.
            sender.wait();
        }
        let cause = &watch.exit_of(victim.pid())["cause"];
        let index = senders
            .iter()
            .position(|(signal, _)| cause["signal"] == *signal)
            .unwrap();
        assert_eq!(sender(cause), who[index], "round {round}: {cause}");
    }
}

#[test]
fn the_last_seconds_are_told() {
    needs_root!("the_last_seconds_are_told");
    for program in PROGRAMS {
        let mut victim = culprit(&["spin", "1,3"]);
        let mut watch = watch(victim.pid(), program);
        victim.wait();
        let usage = &watch.exit_of(victim.pid())["usage"];
        let used = usage["user_ns"].as_u64().unwrap() + usage["system_ns"].as_u64().unwrap();
        // The limit goes by the kernel's samples, this is exact.
        assert!((500_000_000..2_000_000_000).contains(&used), "{usage}");
        // Not that of the test, in whose memory it was before its exec.
        let max_rss = usage["max_rss_bytes"].as_u64().unwrap();
        assert!((1 << 18..20 << 20).contains(&max_rss), "{usage}");
        assert_eq!(usage["threads"], 1);
        let mut victim = culprit(&["threads", "7"]);
        victim.line();
        let mut watch = self::watch(victim.pid(), program);
        victim.wait();
        assert_eq!(watch.exit_of(victim.pid())["usage"]["threads"], 7);
    }
}

#[test]
fn what_it_read_and_wrote_is_what_the_kernel_counted() {
    const NAME: &str = "what_it_read_and_wrote_is_what_the_kernel_counted";
    needs_root!(NAME);
    if !Path::new("/proc/self/io").exists() {
        return skip(NAME, "this kernel counts no bytes");
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for program in PROGRAMS {
        let file = folder.path().join("file");
        // The last one finishes in the shell's place: children that it has reaped count as well.
        let script = "read go; dd if=/dev/zero of=$0 bs=64k count=32 conv=fsync 2>&1; \
                      exec dd if=/dev/zero of=$0 bs=64k count=32 seek=32 conv=notrunc,fsync";
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(&file);
        let mut victim = Victim::from_command(&mut command);
        let mut watch = watch(victim.pid(), program);
        drop(victim.stdin());
        let event = watch.exit_of(victim.pid());
        assert_eq!(event["cause"]["code"], 0, "{event}");
        // It waits to be reaped.
        let counted = fs::read_to_string(format!("/proc/{}/io", victim.pid())).unwrap();
        let of = |key: &str| -> u64 {
            let line = counted.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap().trim().parse().unwrap()
        };
        let usage = &event["usage"];
        assert_eq!(usage["written_bytes"], of("write_bytes:"), "{counted}");
        assert_eq!(usage["read_bytes"], of("read_bytes:"), "{counted}");
        if of("write_bytes:") < 4 << 20 {
            skip(
                NAME,
                "the file system below target does not count what is written",
            );
        }
        victim.wait();
    }
}

#[test]
fn a_core_dump_is_told_with_its_place() {
    const NAME: &str = "a_core_dump_is_told_with_its_place";
    needs_root!(NAME);
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let pattern = pattern.trim_end();
    for limit in [0, libc::RLIM_INFINITY] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(CULPRIT);
        command.args(["fault", "abort"]).current_dir(folder.path());
        // SAFETY: setrlimit is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                let core = nix::sys::resource::Resource::RLIMIT_CORE;
                Ok(nix::sys::resource::setrlimit(core, limit, limit)?)
            });
        }
        let mut victim = Victim::from_command(&mut command);
        let mut watch = watch(victim.pid(), &[]);
        victim.wait();
        let event = watch.exit_of(victim.pid());
        let core = &event["core"];
        if event["cause"]["core_dumped"] == false {
            assert_eq!(*core, Value::Null);
            continue;
        }
        assert_eq!(core["pattern"], pattern);
        match (pattern.strip_prefix('|'), core["file"].as_str()) {
            (Some(program), _) => {
                assert_eq!(core["piped_to"].as_str(), program.split_whitespace().next());
            }
            (None, Some(file)) => {
                let file = folder.path().join(file);
                assert!(file.exists(), "{event}");
                let _ = fs::remove_file(file);
            }
            (None, None) => skip(NAME, "core_pattern asks for what only the kernel knows"),
        }
    }
}

/// Kills in a storm: several senders, each of which kills many, one after the other; ten times, or as
/// often as `RESPAWN_STORMS` has it.
#[test]
fn in_a_storm_every_kill_has_the_right_sender() {
    needs_root!("in_a_storm_every_kill_has_the_right_sender");
    const SENDERS: usize = 4;
    const EACH: usize = 250;
    let storms = std::env::var("RESPAWN_STORMS").map_or(10, |text| text.parse().unwrap());
    let (mut right, mut unknown) = (0, 0);
    for _ in 0..storms {
        let mut watch = Watch::start(&["--name", "storm_victim"]);
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("storm_victim");
        std::os::unix::fs::symlink("/bin/sleep", &link).unwrap();
        let mut victims: Vec<Victim> = (0..SENDERS * EACH)
            .map(|_| Victim::start(link.to_str().unwrap(), &["1000"]))
            .collect();
        let mut shells: Vec<Victim> = victims
            .chunks(EACH)
            .map(|mine| {
                let pids: Vec<String> = mine.iter().map(|one| one.pid().to_string()).collect();
                let script = format!(
                    "read go; for pid in {}; do kill -9 $pid; done",
                    pids.join(" ")
                );
                Victim::start("bash", &["-c", &script])
            })
            .collect();
        let who: Vec<Value> = shells.iter().map(identity).collect();
        let go: Vec<_> = shells.iter_mut().map(Victim::stdin).collect();
        drop(go);
        let pids: Vec<u32> = victims.iter().map(Victim::pid).collect();
        for _ in 0..victims.len() {
            let event = watch.next();
            let index = pids.iter().position(|pid| event["pid"] == *pid).unwrap();
            let cause = &event["cause"];
            match cause["sender"] {
                Value::Null => unknown += 1,
                _ => {
                    assert_eq!(sender(cause), who[index / EACH], "{event}");
                    right += 1;
                }
            }
        }
        for process in victims.iter_mut().chain(&mut shells) {
            process.wait();
        }
    }
    report(&format!(
        "storm: {right} kills attributed to the right sender, 0 to a wrong one, {unknown} unknown"
    ));
    assert!(storms > 0);
    assert_eq!(right, storms * SENDERS * EACH);
}

#[test]
fn signals_to_others_wake_no_agent() {
    needs_root!("signals_to_others_wake_no_agent");
    const SIGNALS: usize = 100_000;
    let rig = Rig::new();
    rig.sleeper("web");
    let agent = rig.agent();
    rig.ledger().current("web");
    // What the start has left to do is done when nothing is done for a while.
    let mut before = switches(agent.pid());
    support::eventually("an idle agent", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = switches(agent.pid());
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
    let mut storm = culprit(&["storm", &SIGNALS.to_string()]);
    assert_eq!(storm.line(), "done");
    assert_eq!(switches(agent.pid()), before, "after {SIGNALS} signals");
}

#[test]
fn a_service_is_told_why_it_died() {
    needs_root!("a_service_is_told_why_it_died");
    let rig = Rig::new();
    let log = rig.path().join("web.log");
    let keys = format!("stdout = {log:?}\nlast_output = \"1KiB\"");
    rig.service(
        "web",
        "[\"sh\", \"-c\", \"echo last words; exec sleep 1000\"]",
        &keys,
    );
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    let first = ledger.current("web");
    support::eventually("the output", || {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.contains("words"))
    });
    let (who, pid) = send("pidfd", "SIGTERM", first.0);
    ledger.wait("a restart", |ledger| {
        ledger.has_current("web").filter(|now| now.0 != first.0)
    });

    let output = rig.run(&["why", "web", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let why: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cause = &why["exited"]["cause"];
    assert_eq!((sender(cause), &cause["how"]), (who, &json!("pidfd")));
    assert_eq!(cause["sender"]["own"], false);
    assert_eq!(why["exited"]["last_output"], "last words\n");
    assert_eq!(why["sender_lives"], false);
    assert!(
        why["then"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["event"] == "started"),
        "{why}"
    );

    let output = rig.run(&["why", "web"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        format!("web killed by SIGTERM from culprit (pid {pid}, uid 0)"),
        "by pidfd_send_signal(2); it has ended".to_owned(),
        "last words".to_owned(),
        "started pid".to_owned(),
        ", running for ".to_owned(),
    ] {
        assert!(text.contains(&part), "no {part:?} in:\n{text}");
    }
    let status = rig.run(&["status", "web"]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("from culprit"), "{status}");

    // The agent's own stop is told as that.
    assert!(rig.run(&["stop", "web"]).status.success());
    let output = rig.run(&["why", "web", "-n", "2"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("stopped by the agent, which had sent SIGTERM: stop asked for by uid 0"),
        "{text}"
    );
    assert!(text.contains("from culprit"), "{text}");

    let nobody = rig.run(&["why", "nobody"]);
    assert_eq!(nobody.status.code(), Some(1));
}

#[test]
fn a_sender_that_lives_is_told_with_its_command_line() {
    needs_root!("a_sender_that_lives_is_told_with_its_command_line");
    let mut scene = Scene::new(Memory::Kernel);
    scene.assert_mended();
    let output = scene.rig.run(&["why", "web", "--json"]);
    let why: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sender(&why["exited"]["cause"]), myself());
    let command: Vec<String> = std::env::args().collect();
    assert_eq!(why["sender_lives"], true);
    assert_eq!(why["sender_command"], json!(command));
    let output = scene.rig.run(&["why", "web"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let part = format!("; still running, now as: {}", command.join(" "));
    assert!(text.contains(&part), "no {part:?} in:\n{text}");
}

#[test]
fn what_is_handled_and_raised_again_keeps_its_sender() {
    needs_root!("what_is_handled_and_raised_again_keeps_its_sender");
    let script = "trap 'trap - TERM; kill -TERM $$' TERM; echo ready; while :; do read x; done";
    for program in PROGRAMS {
        let mut victim = Victim::start("bash", &["-c", script]);
        victim.line();
        let itself = identity(&victim);
        let mut watch = watch(victim.pid(), program);
        let (who, _) = send("kill", "SIGTERM", victim.pid());
        let event = watch.exit_of(victim.pid());
        assert_eq!(event["cause"]["signal"], "SIGTERM");
        assert_eq!(sender(&event["cause"]), itself);
        let last = &event["last_signal"];
        assert_eq!((&last["signal"], sender(last)), (&json!("SIGTERM"), who));
        victim.wait();
    }
}

#[test]
fn whose_fault_it_was_decides_the_delay() {
    needs_root!("whose_fault_it_was_decides_the_delay");
    let rig = Rig::new();
    // One kills itself by a signal that others usually send; the other one is killed by one that
    // processes usually get for their own doing.
    let keys = "restart_delay = \"1h\"\nrestart_max_delay = \"1h\"";
    rig.service("own", "[\"sh\", \"-c\", \"kill -9 $$\"]", keys);
    // The same from a session of its own; it is of the service by its cgroup.
    let in_cgroups = hierarchy("cgroup2", "").is_some();
    if in_cgroups {
        let script = "p=$$; setsid sh -c \\\"kill -9 $p\\\"; sleep 1000";
        rig.service("kin", &format!("[\"sh\", \"-c\", \"{script}\"]"), keys);
    }
    // What handles a request and raises it again has not failed.
    let trap = "trap 'trap - TERM; kill -TERM $$' TERM; while :; do sleep 0.01; done";
    rig.service("polite", &format!("[\"bash\", \"-c\", \"{trap}\"]"), keys);
    rig.sleeper("other");
    let _agent = rig.agent();
    let mut ledger = rig.ledger();
    let other = ledger.current("other");
    for service in ["own", "kin"] {
        if service == "kin" && !in_cgroups {
            continue;
        }
        support::eventually("the delay of what kills itself", || {
            let output = rig.run(&["status", service, "--json"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            (status[0]["state"] == "backoff").then_some(())
        });
    }
    // Its trap is set when it has a child.
    let polite = ledger.current("polite");
    support::eventually("a shell that sleeps", || {
        (!children_of(polite.0).is_empty()).then_some(())
    });
    send("kill", "SIGTERM", polite.0);
    ledger.wait("a restart of the polite one at once", |ledger| {
        ledger.has_current("polite").filter(|now| now.0 != polite.0)
    });
    send("kill", "SIGSEGV", other.0);
    ledger.wait("a restart at once", |ledger| {
        ledger.has_current("other").filter(|now| now.0 != other.0)
    });
}

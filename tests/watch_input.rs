//! Whatever `watch` is given, it ends with a clear error or cleanly, and never by a panic.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Victim, Watch, needs_root, readable_by_all, respawn, unprivileged};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

fn run(command: &mut Command) -> (Output, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output, stderr)
}

#[test]
fn wrong_usage_is_status_2_and_names_the_place() {
    for (arguments, named) in [
        (&["--pid", "0"][..], "--pid"),
        (&["--pid=-1"], "--pid"),
        (&["--pid", "4194305"], "--pid"),
        (&["--pid", "99999999999999999999"], "--pid"),
        (&["--pid", "x"], "--pid"),
        (&["--pid"], "--pid"),
        (&[], "--all"),
        (&["--name", "[a"], "no ] for the ["),
        (&["--name", ""], "empty name pattern"),
        (&["--name", "a_name_longer_than_any"], "15 bytes"),
        (&["--all", "--ring-bytes", "5000"], "power of two"),
        (&["--all", "--ring-bytes", "0"], "power of two"),
        (&["--all", "--ring-bytes=-1"], "--ring-bytes"),
        (&["--everything"], "--everything"),
        (&["--all", "surplus"], "surplus"),
    ] {
        let (output, stderr) = run(respawn().arg("watch").args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(named), "{arguments:?}: {stderr}");
    }
}

#[test]
fn more_processes_than_the_kernel_watches_are_refused_by_a_limit_that_is_named() {
    needs_root!("more processes than the kernel watches");
    let victims: Vec<Victim> = (0..3).map(|_| Victim::start("sleep", &["1000"])).collect();
    let pids = victims.iter().map(|victim| victim.pid().to_string());
    let arguments: Vec<String> = pids.flat_map(|pid| ["--pid".to_owned(), pid]).collect();
    let watch = |most: &str| {
        let mut command = respawn();
        command.env("RESPAWN_MOST_WATCHED", most);
        command.arg("watch").args(&arguments);
        command
    };
    let (output, stderr) = run(&mut watch("2"));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let limit = "3 processes are given, and at most 2 can be watched at once";
    assert!(stderr.contains(limit), "{stderr}");
    // As many as there is room for are.
    let mut watch = watch("3");
    let watch = watch
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn();
    let mut watch = watch.unwrap();
    let mut lines = BufReader::new(watch.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("watching 3 processes"), "{first}");
    drop(victims);
    assert!(watch.wait().unwrap().success());
}

#[test]
fn the_kernels_map_has_room_for_as_many_processes_as_are_given() {
    const MANY: usize = 18_000;
    needs_root!("room for 18,000 processes");
    let victim = Victim::start("sleep", &["1000"]);
    let pid = victim.pid().to_string();
    // One process will do: the map is made for as many as are named.
    let arguments = std::iter::repeat_n(["--pid", &pid], MANY).flatten();
    let script = "ulimit -S -n 64; exec \"$@\"";
    let mut watch = Command::new("sh");
    watch
        .args(["-c", script, "sh"])
        .arg(respawn().get_program());
    watch.arg("watch").args(arguments).stdin(Stdio::null());
    let mut watch = watch.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("watching 18000 processes"), "{first}");
    let files = std::fs::read_dir(format!("/proc/{}/fdinfo", watch.id())).unwrap();
    let sizes = files.flatten().filter_map(|file| {
        let text = std::fs::read_to_string(file.path()).ok()?;
        let size = |line: &str| {
            line.strip_prefix("max_entries:")?
                .trim()
                .parse::<usize>()
                .ok()
        };
        // A hash whose values are the watch map's.
        (text.contains("map_type:\t1\n") && text.contains("value_size:\t40\n"))
            .then(|| text.lines().find_map(size))?
    });
    assert!(sizes.max().unwrap() >= MANY);
    drop(victim);
    assert!(watch.wait().unwrap().success());
}

#[test]
fn of_a_process_that_does_not_exist_no_exit_is_made_up() {
    let mut gone = Victim::start("true", &[]);
    gone.wait();
    for pid in [gone.pid(), 4_194_304] {
        for json in [&["--json"][..], &[]] {
            let pid = pid.to_string();
            let (output, stderr) = run(respawn().args(["watch", "--pid", &pid]).args(json));
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            let said = format!("respawn: --pid {pid}: there is no such process\n");
            assert_eq!(stderr, said);
            assert_eq!(output.stdout, b"");
        }
    }
}

#[test]
fn the_others_are_watched_beside_one_that_does_not_exist() {
    let mut victim = Victim::start("sleep", &["1000"]);
    let pid = victim.pid();
    let mut watch = Watch::start(&["--pid", "4194304", "--pid", &pid.to_string()]);
    victim.signal(Signal::SIGKILL);
    victim.wait();
    assert_eq!(watch.exit_of(pid)["pid"], pid);
    let ended = watch.wait();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.summary["shown"], 1);
}

#[test]
fn a_process_that_ends_while_the_watch_starts_is_never_waited_for() {
    let mut milliseconds = 150;
    let mut watched = 0;
    while watched < 30 {
        let seconds = format!("0.{milliseconds:03}");
        let mut victim = Victim::start("sleep", &[&seconds]);
        let child = respawn()
            .args(["watch", "--json", "--pid", &victim.pid().to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        victim.wait();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("there is no such process") && milliseconds < 900 {
            // This machine is slower.
            milliseconds += 150;
            continue;
        }
        assert!(output.status.success(), "{stderr}");
        watched += 1;
        let text = String::from_utf8(output.stdout).unwrap();
        let exits = text
            .lines()
            .filter(|line| line.contains("\"exited\",\"time\""))
            .count();
        assert_eq!(exits, 1, "{text}");
    }
}

#[test]
fn a_thread_is_told_from_a_process() {
    let mut victim = Victim::start(VICTIM, &["exec-from-thread"]);
    victim.line();
    let (send, receive) = std::sync::mpsc::channel();
    let (keep, kept) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        send.send(nix::unistd::gettid()).unwrap();
        let _ = kept.recv();
    });
    let tid = receive.recv().unwrap();
    let (output, stderr) = run(respawn().args(["watch", "--pid", &tid.to_string()]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("is a thread, not a process"), "{stderr}");
    drop(keep);
    thread.join().unwrap();
}

#[test]
fn a_closed_standard_output_ends_it_cleanly() {
    needs_root!("a_closed_standard_output_ends_it_cleanly");
    for json in [&["--json"][..], &[]] {
        let mut child = respawn()
            .args(["watch", "--all"])
            .args(json)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let noise = Victim::start("sh", &["-c", "while :; do true | true; done"]);
        stdout.read_line(&mut line).unwrap();
        drop(noise);
        drop(stdout);
        // No further exit is needed: the closing itself is seen.
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        assert!(
            stderr.contains(" lost") && !stderr.contains("panicked"),
            "{stderr}"
        );
    }
}

#[test]
fn signals_end_it_with_a_summary_even_when_nobody_reads() {
    needs_root!("signals_end_it_with_a_summary_even_when_nobody_reads");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let watch = Watch::start_unread(&["--all"]);
        let mut storm = Victim::start(VICTIM, &["storm", "3000"]);
        storm.line();
        kill(Pid::from_raw(watch.pid().cast_signed()), signal).unwrap();
        let ended = watch.wait();
        assert!(ended.status.success(), "{ended:?}");
        assert!(
            ended.stderr.iter().any(|line| line.contains("shown, ")),
            "{ended:?}"
        );
    }
}

#[test]
fn without_rights_pids_are_watched_and_more_is_refused() {
    let test = "without_rights_pids_are_watched_and_more_is_refused";
    needs_root!(test);
    let mut victim = Victim::from_command(unprivileged(Command::new("sleep").arg("1000")));
    let mut command = respawn();
    command.args(["watch", "--json", "--pid", &victim.pid().to_string()]);
    let Some(copy) = readable_by_all(&command) else {
        support::skip(
            test,
            "no folder that an unprivileged user may run programs from",
        );
        return;
    };
    let mut watch = Watch::from_command(unprivileged(Command::new(&copy.1).args([
        "watch",
        "--json",
        "--pid",
        &victim.pid().to_string(),
    ])));
    victim.signal(Signal::SIGTERM);
    let event = watch.exit_of(victim.pid());
    victim.wait();
    assert_eq!(event["cause"]["signal"], "SIGTERM", "{event}");
    assert_eq!(event["comm"], "sleep");
    assert!(watch.wait().status.success());

    for what in ["--all", "--name=x"] {
        let (output, stderr) = run(unprivileged(Command::new(&copy.1).args(["watch", what])));
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr.contains("run as root") && stderr.contains("doctor"),
            "{stderr}"
        );
    }
    // It ends at once, and is there until it is waited for.
    let mut ending = Victim::start("true", &[]);
    let pid = ending.pid().to_string();
    let (_, stderr) = run(unprivileged(
        Command::new(&copy.1).args(["watch", "--pid", &pid]),
    ));
    ending.wait();
    assert!(stderr.contains("without eBPF"), "{stderr}");
}

#[test]
fn a_missing_or_damaged_btf_is_an_error_that_names_it() {
    needs_root!("a_missing_or_damaged_btf_is_an_error_that_names_it");
    let folder = tempfile::tempdir().unwrap();
    let btf = folder.path().join("btf");
    let whole = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let mut cases = vec![None];
    cases.extend(
        [
            0,
            10,
            24,
            5000,
            whole.len() / 2,
            whole.len().saturating_sub(1),
        ]
        .map(Some),
    );
    for cut in cases {
        match cut {
            Some(cut) => std::fs::write(&btf, &whole[..cut.min(whole.len())]).unwrap(),
            None => assert!(!btf.exists()),
        }
        let (output, stderr) = run(respawn().env("RESPAWN_BTF", &btf).args(["watch", "--all"]));
        assert_eq!(output.status.code(), Some(1), "{cut:?}: {stderr}");
        assert!(stderr.contains(btf.to_str().unwrap()), "{cut:?}: {stderr}");
    }
}

#[test]
fn a_damaged_object_is_an_error() {
    needs_root!("a_damaged_object_is_an_error");
    let object = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../monitor-ebpf/prebuilt/respawn.bpf.o"
    );
    let whole = std::fs::read(object).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("object");
    for cut in [0, 1, 64, 1000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&damaged, &whole[..cut]).unwrap();
        let (output, stderr) = run(respawn()
            .env("RESPAWN_BPF_OBJECT", &damaged)
            .args(["watch", "--all"]));
        assert_eq!(output.status.code(), Some(1), "cut at {cut}: {stderr}");
    }
    // Bytes flipped all over: an error, or an object that still works, but no panic.
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&damaged, &bytes).unwrap();
        let mut gone = Victim::start("true", &[]);
        gone.wait();
        let (output, stderr) = run(respawn().env("RESPAWN_BPF_OBJECT", &damaged).args([
            "watch",
            "--json",
            "--pid",
            &gone.pid().to_string(),
        ]));
        assert!(
            output.status.code().is_some_and(|code| code <= 1),
            "byte {at}: {stderr}"
        );
    }
}

#[test]
fn no_bpffs_is_needed() {
    needs_root!("no_bpffs_is_needed");
    let mut victim = Victim::start("sleep", &["1000"]);
    let script = "umount -l /sys/fs/bpf 2>/dev/null; exec \"$0\" watch --json --pid \"$1\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(respawn().get_program());
    let mut watch = Watch::from_command(command.arg(victim.pid().to_string()));
    victim.signal(Signal::SIGKILL);
    victim.wait();
    assert_eq!(watch.exit_of(victim.pid())["cause"]["signal"], "SIGKILL");
}

#[test]
fn colours_are_for_terminals_only() {
    needs_root!("colours_are_for_terminals_only");
    for (no_color, coloured) in [(None, true), (Some("1"), false)] {
        // It ends at once, and is there until it is waited for.
        let mut ending = Victim::start("true", &[]);
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut command = respawn();
        command
            .args(["watch", "--pid", &ending.pid().to_string()])
            .env("TERM", "xterm");
        command
            .env_remove("NO_COLOR")
            .envs(no_color.map(|value| ("NO_COLOR", value)));
        let mut child = command
            .stdout(pty.slave)
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        drop(command);
        assert!(child.wait().unwrap().success());
        ending.wait();
        let mut text = vec![0; 4096];
        let length = nix::unistd::read(&pty.master, &mut text).unwrap();
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        assert!(
            text.contains("PID") && text.contains("gone, cause unknown"),
            "{text:?}"
        );
        assert_eq!(text.contains('\u{1b}'), coloured, "{text:?}");
    }
    let mut gone = Victim::start("true", &[]);
    gone.wait();
    let (output, _) = run(respawn().args(["watch", "--pid", &gone.pid().to_string()]));
    assert!(!output.stdout.contains(&0x1b));
}

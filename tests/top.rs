//! `top` in a real terminal: what it shows, what its keys do, and what it leaves behind.
//!
//! The screens are compared with the files in `fixtures/top`, with pids and times replaced;
//! `RESPAWN_BLESS=1` writes what is there now.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use support::cgroup::Cgroup;
use support::rig::{AgentProcess, Ledger, Rig};
use support::tmux::{self, Tmux};
use support::{Victim, cgroup_mount, eventually, is_root, needs_root, proc_status, skip};

/// Ends the test as skipped where there is no tmux.
macro_rules! needs_tmux {
    ($test:expr) => {
        if !tmux::is_here($test) {
            return;
        }
    };
}

/// A shell's words that run `respawn` with these arguments for the rig, and tell its pid.
fn shell_words(rig: &Rig, arguments: &str) -> String {
    let command = rig.command(&[]);
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let variables: Vec<String> = command
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}={}", key.to_str()?, quoted(value?))))
        .collect();
    let program = fs::canonicalize(command.get_program()).unwrap();
    format!(
        "env {} TZ=UTC sh -c 'echo $$ > \"$0\"/new; mv \"$0\"/new \"$0\"/pid; exec \"$@\"' {} {} {arguments}",
        variables.join(" "),
        quoted(rig.path().as_os_str()),
        quoted(program.as_os_str()),
    )
}

/// `top` for the rig in a terminal of that size, with more in its environment.
fn top(rig: &Rig, columns: u16, rows: u16, environment: &str) -> Tmux {
    let script = format!("export {environment}\n{}\ncat", shell_words(rig, "top"));
    Tmux::start(columns, rows, &script)
}

fn usual(rig: &Rig) -> Tmux {
    top(rig, 80, 24, "LC_ALL=C.UTF-8")
}

fn pid_of_top(rig: &Rig) -> Pid {
    eventually("top's pid", || {
        let text = fs::read_to_string(rig.path().join("pid")).ok()?;
        Some(Pid::from_raw(text.trim().parse().ok()?))
    })
}

/// A service that exits with 3 when its fifo is written to.
fn fragile(rig: &Rig, name: &str) {
    let fifo = rig.path().join(name);
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let command = format!(
        r#"["/bin/sh", "-c", "read line < {}; exit 3"]"#,
        fifo.display()
    );
    rig.service(name, &command, "");
}

fn break_it(rig: &Rig, name: &str) {
    let fifo = fs::OpenOptions::new()
        .write(true)
        .open(rig.path().join(name));
    fifo.unwrap().write_all(b"\n").unwrap();
}

/// An agent with services of which one has failed, one has ended, and one just runs.
fn scene(rig: &Rig) -> (AgentProcess, Ledger) {
    rig.sleeper("calm");
    rig.service("done", r#"["/bin/true"]"#, r#"restart = "no""#);
    fragile(rig, "flaky");
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    ledger.current("calm");
    let first = ledger.current("flaky");
    ledger.wait("the end of `done`", |ledger| {
        let mut done = ledger.instances_of("done");
        done.any(|(_, told)| !told.exits.is_empty()).then_some(())
    });
    break_it(rig, "flaky");
    ledger.wait("another instance", |ledger| {
        ledger.has_current("flaky").filter(|now| *now != first)
    });
    (agent, ledger)
}

/// The line of a service.
fn row<'a>(screen: &'a str, service: &str) -> &'a str {
    let is_it = |line: &&str| line.get(2..).is_some_and(|rest| rest.starts_with(service));
    screen.lines().find(is_it).unwrap_or_default()
}

/// Replaces a part of a line, counted in characters, by a word at its right edge.
fn replace(line: &str, from: usize, to: usize, word: &str) -> String {
    let characters: Vec<char> = line.chars().collect();
    let part = |from: usize, to: usize| -> String {
        let end = to.min(characters.len());
        characters
            .get(from.min(end)..end)
            .unwrap_or_default()
            .iter()
            .collect()
    };
    let old = part(from, to);
    if matches!(old.trim(), "" | "-") {
        return line.to_owned();
    }
    let width = to - from;
    let rest = part(to, usize::MAX);
    format!("{}{word:>width$}{rest}", part(0, from))
}

/// Replaces the word before or after `fixed`.
fn replace_word(line: &str, before: &str, after: &str, word: &str) -> String {
    let Some(start) = line.find(before).map(|at| at + before.len()) else {
        return line.to_owned();
    };
    let length = match after {
        "" => line[start..].find(' ').unwrap_or(line.len() - start),
        after => match line[start..].find(after) {
            Some(length) => length,
            None => return line.to_owned(),
        },
    };
    format!("{}{word}{}", &line[..start], &line[start + length..])
}

/// The screen with words in the places of pids and times, of the same width.
fn steady(screen: &str) -> String {
    let header = screen.lines().nth(1).unwrap_or_default();
    let end = |name: &str| header.find(name).map_or(0, |at| at + name.len());
    let (pid, uptime) = (end("PID"), end("UPTIME"));
    let (hour, last) = (end("RESTARTS") + 1, end("LAST EXIT").max(9) - 9);
    let mut text = String::new();
    for (number, line) in screen.lines().enumerate() {
        let is_time = line.get(4..5) == Some(":") && line.get(10..11) == Some(".");
        let is_service = number > 1
            && ["calm", "done", "flaky"].iter().any(|name| {
                line.get(2..)
                    .is_some_and(|rest| rest.starts_with(&format!("{name} ")))
            });
        let mut line = line.to_owned();
        if number == 0 {
            line = replace_word(&line, "agent ", "", "PID");
        } else if is_service && last > hour {
            line = replace(&line, pid - 7, pid, "PID");
            line = replace(&line, uptime - 7, uptime, "TIME");
            line = replace(&line, hour, last - 1, "BARS");
        } else if is_time {
            line = replace(&line, 2, 14, "HH:MM:SS.mmm");
            if line.contains(", pid ") {
                line = replace_word(&line, " after ", ",", "TIME");
                line = replace_word(&line, ", pid ", "", "PID");
            } else {
                line = replace(&line, 16, 23, "PID");
                line = replace(&line, 43, 50, "TIME");
            }
        }
        if line.ends_with(" ago") {
            line = replace_word(&line, ", ", " ago", "TIME");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Waits until the screen is as the fixture has it.
fn expect(tmux: &Tmux, fixture: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/top")
        .join(format!("{fixture}.txt"));
    if std::env::var_os("RESPAWN_BLESS").is_some() {
        // What was asked for is on the screen by then.
        std::thread::sleep(Duration::from_secs(3));
        fs::write(&path, steady(&tmux.screen())).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    tmux.until(&format!("{fixture}:\n{expected}"), |screen| {
        steady(screen) == expected
    });
}

#[test]
fn the_screens_are_as_they_should_be() {
    const TEST: &str = "the_screens_are_as_they_should_be";
    needs_root!(TEST);
    needs_tmux!(TEST);
    let rig = Rig::new();
    let (_agent, _) = scene(&rig);
    let tmux = usual(&rig);
    tmux.shows("3 services: 2 running, 1 stopped");
    // The exits of all of the host are others in each run.
    tmux.press(&["e"]);
    expect(&tmux, "services-80x24");
    tmux.resize(200, 50);
    expect(&tmux, "services-200x50");
    tmux.press(&["End", "w"]);
    expect(&tmux, "why-200x50");
    tmux.resize(80, 24);
    expect(&tmux, "why-80x24");
    tmux.press(&["?"]);
    expect(&tmux, "keys-80x24");
    tmux.press(&["Escape"]);
    tmux.press(&["x"]);
    expect(&tmux, "question-80x24");
}

#[test]
fn ascii_is_enough() {
    const TEST: &str = "ascii_is_enough";
    needs_root!(TEST);
    needs_tmux!(TEST);
    let rig = Rig::new();
    let (_agent, _) = scene(&rig);
    let tmux = top(&rig, 80, 24, "LC_ALL=C TERM=dumb");
    tmux.shows("3 services: 2 running, 1 stopped");
    tmux.press(&["e"]);
    expect(&tmux, "ascii-80x24");
    assert!(tmux.screen().is_ascii());
    let styled = tmux.styled();
    assert!(!styled.contains("\u{1b}["), "{styled:?}");
}

#[test]
fn the_keys_steer_the_services() {
    const TEST: &str = "the_keys_steer_the_services";
    needs_tmux!(TEST);
    let rig = Rig::new();
    rig.sleeper("calm");
    rig.service(
        "wrong",
        r#"["/nonexistent/program"]"#,
        r#"restart_delay = "1h""#,
    );
    let mut ledger = rig.ledger();
    let _agent = rig.agent();
    let first = ledger.current("calm");
    let tmux = usual(&rig);
    tmux.shows(&format!(" {} ", first.0));

    tmux.press(&["r"]);
    tmux.shows("restart calm? y/n");
    tmux.press(&["n"]);
    tmux.shows("q quit");
    tmux.press(&["r"]);
    tmux.shows("restart calm? y/n");
    tmux.press(&["y"]);
    tmux.shows("restart calm: done");
    let second = ledger.current("calm");
    assert_ne!(first, second);
    tmux.shows(&format!(" {} ", second.0));
    rig.assert_single("calm", second);

    tmux.press(&["x"]);
    tmux.shows("stop calm? y/n");
    tmux.press(&["y"]);
    tmux.shows("stop calm: done");
    tmux.until("calm is stopped", |screen| {
        row(screen, "calm").contains("stopped")
    });
    assert!(rig.live("calm").is_empty());

    tmux.press(&["s"]);
    tmux.shows("start calm: done");
    tmux.until("calm runs", |screen| {
        row(screen, "calm").contains("running")
    });
    rig.assert_single("calm", ledger.current("calm"));

    tmux.press(&["Down", "s"]);
    tmux.shows("start wrong: cannot run /nonexistent/program");
    tmux.shows("next start in");
    tmux.press(&["k", "w"]);
    tmux.until("both deaths", |screen| {
        let is_death = |line: &&str| line.contains("killed by SIGTERM") && line.contains(" after ");
        screen.contains("why calm ended") && screen.lines().filter(is_death).count() == 2
    });
}

#[test]
fn a_death_shows_up_at_once() {
    const TEST: &str = "a_death_shows_up_at_once";
    needs_tmux!(TEST);
    let rig = Rig::new();
    rig.sleeper("calm");
    let mut ledger = rig.ledger();
    let _agent = rig.agent();
    let (pid, start) = ledger.current("calm");
    let tmux = usual(&rig);
    tmux.shows(&format!(" {pid} "));
    if is_root(TEST) {
        // Each look is one of its processes.
        tmux.until("exits of the host", |screen| {
            screen.contains("exits of this host") && screen.contains("tmux: client ")
        });
    } else {
        tmux.shows("without eBPF");
    }
    // On a busy host an exit is soon out of sight.
    tmux.press(&["e"]);
    tmux.shows("exits of services");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    let next = ledger.wait("the next instance", |ledger| {
        ledger
            .has_current("calm")
            .filter(|now| *now != (pid, start))
    });
    tmux.until("the next one", |screen| {
        let row = row(screen, "calm");
        let words = [&format!(" {} ", next.0), "▁", "SIGKILL"];
        words.iter().all(|word| row.contains(word))
    });
    tmux.until("its exit, with its name", |screen| {
        let is_it = |line: &str| line.contains(&format!(" {pid} ")) && line.contains("SIGKILL");
        screen
            .lines()
            .any(|line| is_it(line) && line.ends_with("[calm]"))
    });
}

#[test]
fn exits_of_the_host_have_their_unit_and_filters_choose_among_them() {
    const TEST: &str = "exits_of_the_host_have_their_unit_and_filters_choose_among_them";
    needs_root!(TEST);
    needs_tmux!(TEST);
    let unit = format!("respawn-top-{}.service", std::process::id());
    let cgroup = cgroup_mount().and_then(|mount| Cgroup::named(&mount, &unit));
    let Some(cgroup) = cgroup else {
        return skip(TEST, "no cgroup can be made");
    };
    let rig = Rig::new();
    let words = shell_words(&rig, &format!("top --unit '{unit}' --signal KILL"));
    let tmux = Tmux::start(120, 24, &format!("export LC_ALL=C.UTF-8\n{words}\ncat"));
    let tag = format!("[{unit}]");
    // The kernel program is loaded some time after the first picture.
    tmux.until("a death of the unit", |screen| {
        let mut victim = Victim::start("sleep", &["100000"]);
        cgroup.add(victim.pid());
        victim.signal(Signal::SIGKILL);
        victim.wait();
        screen.contains(&tag)
    });
    let screen = tmux.screen();
    let exits = screen.lines().skip_while(|line| !line.contains("COMM"));
    let exits: Vec<&str> = exits.skip(1).take_while(|line| !line.is_empty()).collect();
    let is_of_unit = |line: &&str| line.contains("killed by SIGKILL") && line.ends_with(&tag);
    assert!(
        !exits.is_empty() && exits.iter().all(is_of_unit),
        "{screen}"
    );
}

#[test]
fn it_outlives_agents() {
    const TEST: &str = "it_outlives_agents";
    needs_tmux!(TEST);
    let rig = Rig::new();
    rig.sleeper("calm");
    // Before there has ever been one.
    let tmux = usual(&rig);
    tmux.shows("no agent (waiting)");
    let mut ledger = rig.ledger();
    for _ in 0..2 {
        let mut agent = rig.agent();
        let (pid, _) = ledger.current("calm");
        tmux.shows(&format!("agent {} ", agent.pid()));
        tmux.until("calm runs", |screen| {
            row(screen, "calm").contains(&format!(" {pid} "))
        });
        agent.kill();
        tmux.shows("no agent (waiting)   last told: 1 service: 1 running");
    }
    tmux.press(&["s"]);
    tmux.shows("start calm: no agent to talk to");
}

/// What a shell sees of `top` that is ended by `end`: its status, and the terminal afterwards.
fn leaves_all_as_it_was(arguments: &str, status: &str, end: impl Fn(&Tmux, &Rig)) {
    let rig = Rig::new();
    let words = shell_words(&rig, arguments);
    let dir = rig.path().display();
    let script = format!(
        "export LC_ALL=C.UTF-8 RUST_BACKTRACE=0\necho as it was\nstty -a > {dir}/before\n{words} 2> /dev/tty\n\
         echo status $?\nstty -a > {dir}/after\necho over\ncat"
    );
    let tmux = Tmux::start(80, 24, &script);
    end(&tmux, &rig);
    let screen = tmux.shows("over");
    assert!(screen.starts_with("as it was\n"), "{arguments}: {screen}");
    assert!(
        screen.contains(&format!("status {status}\n")),
        "{arguments}: {screen}"
    );
    assert!(!screen.contains("respawn top  "), "{arguments}: {screen}");
    assert_eq!(tmux.variable("alternate_on"), "0");
    assert_eq!(tmux.variable("cursor_flag"), "1");
    let read = |name: &str| fs::read_to_string(rig.path().join(name)).unwrap();
    assert_eq!(read("before"), read("after"), "{arguments}");
}

#[test]
fn whatever_ends_it_the_terminal_is_as_before() {
    const TEST: &str = "whatever_ends_it_the_terminal_is_as_before";
    needs_tmux!(TEST);
    for keys in ["q", "C-c"] {
        leaves_all_as_it_was("top", "0", |tmux, _| {
            tmux.shows("no agent (waiting)");
            assert_eq!(tmux.variable("alternate_on"), "1");
            tmux.press(&[keys]);
        });
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        leaves_all_as_it_was("top", "0", |tmux, rig| {
            tmux.shows("no agent (waiting)");
            kill(pid_of_top(rig), signal).unwrap();
        });
    }
    leaves_all_as_it_was("top --panic", "101", |tmux, _| {
        // Said on the terminal as it was before, and so legible.
        tmux.shows("panicked at");
    });
}

#[test]
fn the_shell_can_suspend_it() {
    const TEST: &str = "the_shell_can_suspend_it";
    needs_tmux!(TEST);
    let rig = Rig::new();
    let words = shell_words(&rig, "top");
    fs::write(rig.path().join("go"), format!("exec {words}\n")).unwrap();
    let script = "export PS1='% ' LC_ALL=C.UTF-8\nunset ENV\nexec sh -i";
    let tmux = Tmux::start(80, 24, script);
    tmux.until("the shell", |screen| screen.starts_with('%'));
    let go = format!("sh {}/go", rig.path().display());
    tmux.press(&["-l", &go]);
    tmux.press(&["Enter"]);
    let shows_top = |screen: &str| screen.starts_with("respawn top   no agent (waiting)");
    tmux.until("top", shows_top);
    let pid = pid_of_top(&rig).as_raw().cast_unsigned();
    for _ in 0..2 {
        tmux.press(&["C-z"]);
        let shell = tmux.until("the shell", |screen| screen.contains(&go));
        assert!(!shell.contains("no agent"), "{shell}");
        eventually("it is stopped", || {
            proc_status(pid, "State").starts_with('T').then_some(())
        });
        assert_eq!(tmux.variable("alternate_on"), "0");
        // The terminal is the shell's: it echoes, and takes whole lines.
        tmux.press(&["-l", "echo $((41 + 1))"]);
        tmux.press(&["Enter"]);
        tmux.until("an answer", |screen| {
            screen.lines().any(|line| line == "42")
        });
        tmux.press(&["-l", "clear; echo "]);
        tmux.press(&["-l", &format!("'{go}'; fg")]);
        tmux.press(&["Enter"]);
        tmux.until("top again", shows_top);
    }
    tmux.press(&["q"]);
    eventually("its end", || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

/// Whether there is a colour among the escape sequences.
fn is_coloured(styled: &str) -> bool {
    styled.split("\u{1b}[").skip(1).any(|rest| {
        let numbers = rest.split('m').next().unwrap_or_default();
        let colours = |number: &str| number.parse().is_ok_and(|n: u8| (30..39).contains(&n));
        numbers.split(';').any(colours)
    })
}

#[test]
fn colours_are_shown_unless_someone_minds() {
    const TEST: &str = "colours_are_shown_unless_someone_minds";
    needs_tmux!(TEST);
    let rig = Rig::new();
    rig.sleeper("calm");
    let mut ledger = rig.ledger();
    let _agent = rig.agent();
    ledger.current("calm");
    for (environment, expected) in [
        ("LC_ALL=C.UTF-8", true),
        ("LC_ALL=C.UTF-8 NO_COLOR=1", false),
        ("LC_ALL=C.UTF-8 TERM=vt100", false),
        ("LC_ALL=C.UTF-8 TERM=dumb", false),
    ] {
        let tmux = top(&rig, 80, 24, environment);
        tmux.shows("1 running");
        let styled = tmux.styled();
        assert_eq!(is_coloured(&styled), expected, "{environment}: {styled:?}");
    }
}

#[test]
fn what_looks_the_same_is_not_drawn_again() {
    const TEST: &str = "what_looks_the_same_is_not_drawn_again";
    needs_tmux!(TEST);
    let rig = Rig::new();
    for name in ["one", "two", "three"] {
        rig.sleeper(name);
    }
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    for name in ["one", "two", "three"] {
        ledger.current(name);
    }
    let tmux = usual(&rig);
    tmux.shows("3 running");
    // The host's exits are not shown then, but still come: each look of this test is one.
    tmux.press(&["e"]);
    tmux.shows("exits of services");
    let written = rig.path().join("written");
    tmux.run(&["pipe-pane", &format!("cat > {}", written.display())]);
    let bytes = |time: Duration| {
        let before = fs::metadata(&written).map_or(0, |file| file.len());
        std::thread::sleep(time);
        fs::metadata(&written).map_or(0, |file| file.len()) - before
    };
    let aging = bytes(Duration::from_secs(4));
    assert!(
        (1..1000).contains(&aging),
        "{aging} bytes in 4 s for three uptimes"
    );
    agent.kill();
    tmux.shows("no agent (waiting)");
    bytes(Duration::from_secs(1));
    assert_eq!(bytes(Duration::from_secs(3)), 0);
}

#[test]
fn a_terminal_that_nobody_reads_holds_nothing_up() {
    let rig = Rig::new();
    let size = Winsize {
        ws_row: 50,
        ws_col: 200,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None).unwrap();
    let mut keyboard = fs::File::from(pty.master);
    let top = rig.command(&["top"]);
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(top.get_program()).arg("top");
    let variables = top.get_envs();
    command.envs(variables.filter_map(|(key, value)| Some((key, value?))));
    command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    let terminal = || Stdio::from(pty.slave.try_clone().unwrap());
    command
        .stdin(terminal())
        .stdout(terminal())
        .stderr(terminal());
    let mut child = command.spawn().unwrap();
    let written = || {
        let io = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
        let bytes = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        bytes.unwrap().parse::<u64>().unwrap()
    };
    // Each key shows or hides lines, until there is no room for more: then only a few bytes are
    // written, with which its threads wake each other.
    let mut before = 0;
    let mut quiet = 0;
    eventually("the terminal is full", || {
        keyboard.write_all(b"?").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let now = written();
        quiet = if now - before < 64 { quiet + 1 } else { 0 };
        before = now;
        (quiet == 20).then_some(())
    });
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = eventually("its end", || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn without_a_terminal_it_is_wrong_usage() {
    let rig = Rig::new();
    let output = rig.run(&["top"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("needs a terminal") && said.contains("respawn status"),
        "{said}"
    );
    assert!(output.stdout.is_empty());
}

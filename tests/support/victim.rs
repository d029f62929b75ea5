//! What the tests start and kill: a process for each way to live and to end.
//!
//! `victim exit N | abort | linger | as-root | leader-exits | exec-from-thread | storm N | burst N |
//! touch MIB | number DIR | reap-no-orphans COMMAND…`.
//! Those that live on print a line when they are where the test wants them.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::time::TimeValLike;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = || {
        arguments
            .get(2)
            .and_then(|text| text.parse::<usize>().ok())
            .unwrap_or(0)
    };
    match arguments.get(1).map(String::as_str) {
        Some("exit") => std::process::exit(i32::try_from(number()).unwrap_or(0)),
        Some("abort") => std::process::abort(),
        Some("linger") => linger(),
        Some("as-root") => as_root(),
        Some("leader-exits") => leader_exits(),
        Some("exec-from-thread") => exec_from_thread(),
        Some("storm") => storm(number()),
        Some("burst") => burst(number()),
        Some("touch") => touch(number()),
        Some("number") => number_lines(arguments.get(2).map_or(".", String::as_str)),
        Some("reap-no-orphans") => reap_no_orphans(arguments.get(2..).unwrap_or_default()),
        _ => {
            eprintln!("victim: unknown arguments {arguments:?}");
            std::process::exit(2);
        }
    }
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes lines "NAME NUMBER LENGTH xxx…" of up to 4,096 bytes, each at once, for ever; how many were
/// written is in the file `DIR/NAME` after each.
fn number_lines(dir: &str) -> ! {
    let boot = nix::time::ClockId::CLOCK_BOOTTIME;
    let now = nix::time::clock_gettime(boot).map_or(0, |now| now.num_nanoseconds());
    let name = format!("{}-{now}", std::process::id());
    let counted = std::fs::File::create(format!("{dir}/{name}"));
    let mut stdout = std::io::stdout();
    let mut number: usize = 0;
    loop {
        let length = 1 + number * 613 % 4000;
        let line = format!("{name} {number} {length} {}\n", "x".repeat(length));
        let written = stdout.write_all(line.as_bytes());
        number += 1;
        let counted = match &counted {
            Ok(file) => file.write_all_at(&number.to_ne_bytes(), 0),
            Err(error) => Err(std::io::Error::from(error.kind())),
        };
        if written.and(counted).is_err() {
            std::process::exit(1);
        }
        if number.is_multiple_of(8) {
            thread::sleep(Duration::from_millis(8));
        }
    }
}

fn linger() -> ! {
    say("ready");
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// Needs the set-user-ID bit.
fn as_root() -> ! {
    let root = nix::unistd::Uid::from_raw(0);
    if let Err(error) = nix::unistd::setresuid(root, root, root) {
        eprintln!("victim: setresuid: {error}");
    }
    linger()
}

/// The leading thread ends with code 7; another one lives on until standard input ends, and then
/// ends the process with code 9.
fn leader_exits() {
    let leader = nix::unistd::getpid();
    thread::spawn(move || {
        // The leader of a living process that has ended itself is a zombie until the last thread
        // goes.
        while !std::fs::read_to_string(format!("/proc/{leader}/task/{leader}/stat"))
            .is_ok_and(|stat| stat.contains(") Z "))
        {
            thread::sleep(Duration::from_millis(1));
        }
        say("leader gone");
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(9);
    });
    // SAFETY: ends this thread alone; it holds no lock that the other one needs.
    unsafe { libc::syscall(libc::SYS_exit, 7) };
}

/// A thread that is not the leader replaces the program: the old leader goes without a death.
fn exec_from_thread() {
    let thread = thread::spawn(|| {
        let error = Command::new("/proc/self/exe").arg("linger").exec();
        eprintln!("victim: exec: {error}");
        std::process::exit(1);
    });
    let _ = thread.join();
}

/// Forks `count` children that end at once, the n-th with code n % 256, and prints
/// "PID CODE" for each.
fn storm(count: usize) {
    let mut lines = String::new();
    for index in 0..count {
        let code = i32::try_from(index % 256).unwrap_or(0);
        // SAFETY: this process has one thread, so that the child may do anything.
        match unsafe { nix::unistd::fork() } {
            // SAFETY: ends the child without running the parent's exit handlers.
            Ok(nix::unistd::ForkResult::Child) => unsafe { libc::_exit(code) },
            Ok(nix::unistd::ForkResult::Parent { child }) => {
                lines.push_str(&format!("{child} {code}\n"));
                let _ = nix::sys::wait::waitpid(child, None);
            }
            Err(error) => {
                eprintln!("victim: fork: {error}");
                std::process::exit(1);
            }
        }
    }
    say(lines.trim_end());
}

/// At a line of standard input forks `count` children and prints how many they are; at the next
/// line all of them end at once, and when they are reaped it prints a line.
fn burst(count: usize) {
    say("ready");
    let mut lines = std::io::stdin().lines();
    while lines.next().is_some() {
        let Ok((gate, release)) = nix::unistd::pipe() else {
            eprintln!("victim: no pipe");
            std::process::exit(1);
        };
        let mut made = 0;
        for _ in 0..count {
            // SAFETY: this process has one thread, so that the child may do anything.
            match unsafe { nix::unistd::fork() } {
                Ok(nix::unistd::ForkResult::Child) => {
                    // SAFETY: closes the child's own copy, so that it sees the end of the pipe.
                    unsafe { libc::close(release.as_raw_fd()) };
                    let _ = nix::unistd::read(&gate, &mut [0]);
                    // SAFETY: ends the child without running the parent's exit handlers.
                    unsafe { libc::_exit(0) }
                }
                Ok(nix::unistd::ForkResult::Parent { .. }) => made += 1,
                // No more room for processes: these will do.
                Err(_) => break,
            }
        }
        say(&made.to_string());
        lines.next();
        drop(release);
        for _ in 0..made {
            let _ = nix::sys::wait::wait();
        }
        say("gone");
    }
}

/// Touches so many MiB, then lives on.
fn touch(mebibytes: usize) {
    let memory = vec![1_u8; mebibytes << 20];
    std::hint::black_box(&memory);
    linger();
}

/// Runs a command, and takes the orphans that it leaves without ever reaping them.
fn reap_no_orphans(words: &[String]) {
    let ended = nix::sys::prctl::set_child_subreaper(true)
        .map_err(std::io::Error::from)
        .and_then(|()| {
            let (program, arguments) = words.split_first().ok_or(std::io::ErrorKind::NotFound)?;
            Command::new(program).args(arguments).spawn()?.wait()
        });
    if let Err(error) = ended {
        eprintln!("victim: {words:?}: {error}");
        std::process::exit(1);
    }
    linger();
}

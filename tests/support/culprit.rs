//! Who kills whom in the tests: a process for each way to send a signal, and for each way to end
//! by one.
//!
//! `culprit send HOW SIGNAL PID | write FILE TEXT | raise SIGNAL | fault WHAT | spin SECONDS |
//! parent SIGNAL [thread] | trace | handle SIGNAL CODE | again SIGNAL | block SIGNAL | hold SIGNAL RAISED | seccomp WHAT |
//! threads N | as UID PROGRAM … | eat | share | pipe | timer WHAT | grow | notify | terminal WHAT | storm N | die N`.
//! Each does it when its standard input ends, so that a test can look at it before. Those that wait
//! for a signal say `ready`.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["send", how, signal, pid] => send(how, signal, pid),
        ["write", file, text] => go().and_then(|()| Ok(std::fs::write(file, text)?)),
        ["raise", signal] => go().and_then(|()| Ok(raise(signal.parse()?)?)),
        ["fault", what] => fault(what),
        ["spin", seconds] => spin(seconds),
        ["parent", signal] => parent(signal),
        ["parent", signal, "thread"] => thread_of_parent(signal),
        ["trace"] => trace(),
        ["handle", signal, code] => handle(signal, code),
        ["again", signal] => again(signal),
        ["block", signal] => block(signal),
        ["hold", signal, raised] => hold(signal, raised),
        ["seccomp", what] => seccomp(what),
        ["threads", count] => threads(count),
        ["eat"] => eat(),
        ["share"] => share(),
        ["pipe"] => pipe(),
        ["timer", what] => timer(what),
        ["grow"] => grow(),
        ["notify"] => notify(),
        ["say", text] => tell(text),
        ["say", text, "stay"] => tell(text).map(|()| wait_for_ever()),
        ["serve", port, folder] => serve(port, folder.as_ref()),
        ["speaker", folder] => speaker(folder.as_ref()),
        ["keeper", folder] => keeper(folder.as_ref()),
        ["terminal", what] => terminal(what),
        ["storm", count] => storm(count),
        ["die", count] => die(count),
        ["untraced", program, ref rest @ ..] => untraced(program, rest),
        ["as", user, program, ref rest @ ..] => become_user(user, program, rest),
        _ => Err(format!("unknown arguments {words:?}").into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culprit {words:?}: {error}");
            ExitCode::from(2)
        }
    }
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Waits for the end of standard input.
fn go() -> Outcome {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn wait_for_ever() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// A signal's number, also of those that have no name.
fn number(signal: &str) -> Result<i32, Box<dyn std::error::Error>> {
    match signal.parse() {
        Ok(number) => Ok(number),
        Err(_) => Ok(signal.parse::<Signal>()? as i32),
    }
}

/// `siginfo_t` as far as a caller of `rt_sigqueueinfo` fills it in.
#[repr(C)]
struct Info {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    rest: [u64; 14],
}

fn send(how: &str, signal: &str, pid: &str) -> Outcome {
    let signal = number(signal)?;
    let pid: i32 = pid.parse()?;
    go()?;
    let info = |code| Info {
        signo: signal,
        errno: 0,
        code,
        pad: 0,
        rest: [0; 14],
    };
    // SAFETY: system calls with numbers, and the address of a whole `siginfo_t`.
    let result = unsafe {
        match how {
            "kill" => libc::syscall(libc::SYS_kill, pid, signal),
            "tkill" => libc::syscall(libc::SYS_tkill, pid, signal),
            "tgkill" => libc::syscall(libc::SYS_tgkill, pid, pid, signal),
            "sigqueue" => libc::syscall(
                libc::SYS_rt_sigqueueinfo,
                pid,
                signal,
                &info(libc::SI_QUEUE),
            ),
            // A timer's code: whoever looks at that alone is deceived.
            "forged" => libc::syscall(
                libc::SYS_rt_sigqueueinfo,
                pid,
                signal,
                &info(libc::SI_TIMER),
            ),
            "pidfd" => {
                let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
                libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, 0, 0)
            }
            _ => return Err("unknown way".into()),
        }
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

fn fault(what: &str) -> Outcome {
    go()?;
    match what {
        // SAFETY: it is not: that is what is wanted.
        "null" => unsafe {
            std::ptr::dangling_mut::<u8>()
                .with_addr(0x10)
                .write_volatile(1)
        },
        "abort" => std::process::abort(),
        "division" => {
            // SAFETY: ends this process.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                std::arch::asm!("xor ecx, ecx", "xor edx, edx", "mov eax, 1", "div ecx",
                    out("ecx") _, out("edx") _, out("eax") _);
            }
            #[cfg(not(target_arch = "x86_64"))]
            return Err("no fault here".into());
        }
        "bus" => {
            let file = std::fs::File::from(tempfile_of_nothing()?);
            // SAFETY: a new mapping; its page lies behind the file's end, which is the point.
            unsafe {
                let page = libc::mmap(
                    std::ptr::null_mut(),
                    4096,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    file.as_raw_fd(),
                    0,
                );
                page.cast::<u8>().read_volatile();
            }
        }
        _ => return Err("unknown fault".into()),
    }
    Ok(())
}

fn tempfile_of_nothing() -> nix::Result<std::os::fd::OwnedFd> {
    nix::sys::memfd::memfd_create(c"nothing", nix::sys::memfd::MFdFlags::empty())
}

/// SOFT,HARD or SOFT,HARD,REAL_TIME: limits in seconds.
fn spin(seconds: &str) -> Outcome {
    let mut limits = seconds.split(',').map(str::parse::<u64>);
    let mut next = || limits.next().transpose();
    let (soft, hard) = next()?.zip(next()?).ok_or("expected SOFT,HARD")?;
    setrlimit(Resource::RLIMIT_CPU, soft, hard)?;
    if let Some(real_time) = next()? {
        let limit = real_time * 1_000_000;
        setrlimit(Resource::RLIMIT_RTTIME, limit, limit)?;
    }
    go()?;
    loop {
        std::hint::black_box(0);
    }
}

/// Prints the pid of a child that has asked for that signal at this process's death, and dies.
fn parent(signal: &str) -> Outcome {
    let signal = signal.parse::<Signal>()?;
    // SAFETY: no other thread of this process holds a lock.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            nix::sys::prctl::set_pdeathsig(signal)?;
            say(&std::process::id().to_string());
            wait_for_ever()
        }
        nix::unistd::ForkResult::Parent { .. } => go(),
    }
}

/// The same, but only the thread that has forked the child ends then. Stays until its end is asked
/// for by a signal.
fn thread_of_parent(signal: &str) -> Outcome {
    let signal = signal.to_owned();
    let forker = thread::spawn(move || parent(&signal).map_err(|error| error.to_string()));
    forker.join().map_err(|_| "the thread panicked")??;
    wait_for_ever()
}

/// Prints the pid of a child that it traces, which dies with it.
fn trace() -> Outcome {
    use nix::sys::ptrace;
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => wait_for_ever(),
        nix::unistd::ForkResult::Parent { child } => {
            ptrace::seize(child, ptrace::Options::PTRACE_O_EXITKILL)?;
            say(&child.to_string());
            go()
        }
    }
}

/// Ends with a code when the signal comes.
fn handle(signal: &str, code: &str) -> Outcome {
    let mut set = SigSet::empty();
    set.add(signal.parse()?);
    set.thread_block()?;
    say("ready");
    set.wait()?;
    std::process::exit(code.parse()?)
}

/// Takes the signal, and raises it again, as a program does that has cleaned up.
fn again(signal: &str) -> Outcome {
    let signal = signal.parse()?;
    let mut set = SigSet::empty();
    set.add(signal);
    set.thread_block()?;
    say("ready");
    set.wait()?;
    set.thread_unblock()?;
    Ok(raise(signal)?)
}

/// Lets the signal through when its standard input ends.
fn block(signal: &str) -> Outcome {
    let mut set = SigSet::empty();
    set.add(signal.parse()?);
    // Others come and are taken meanwhile.
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        // SAFETY: the handler does nothing.
        unsafe {
            nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::Handler(nothing))
        }?;
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    say("ready");
    go()?;
    sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None)?;
    wait_for_ever()
}

/// Blocks the signal, raises it if RAISED is "before", and when its standard input ends if that is
/// "after"; then lets it through.
fn hold(signal: &str, raised: &str) -> Outcome {
    let signal = number(signal)?;
    // SAFETY: an empty set, and calls with its address and numbers.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        if raised == "before" {
            libc::raise(signal);
        }
        say("ready");
        go()?;
        if raised == "after" {
            libc::raise(signal);
        }
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
    wait_for_ever()
}

extern "C" fn nothing(_: i32) {}

fn seccomp(what: &str) -> Outcome {
    go()?;
    // SAFETY: numbers, and a filter that outlives the call.
    unsafe {
        match what {
            "strict" => {
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT);
            }
            "filter" => {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                // Every call ends the process.
                let mut code = [libc::sock_filter {
                    code: 0x06,
                    jt: 0,
                    jf: 0,
                    k: libc::SECCOMP_RET_KILL_PROCESS,
                }];
                let program = libc::sock_fprog {
                    len: 1,
                    filter: code.as_mut_ptr(),
                };
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program);
            }
            _ => return Err("unknown mode".into()),
        }
        libc::syscall(libc::SYS_getppid);
    }
    Ok(())
}

/// Becomes another program, in which ptrace(2) is refused.
fn untraced(program: &str, arguments: &[&str]) -> Outcome {
    use std::os::unix::process::CommandExt;
    let instruction = |code, k, [jt, jf]: [u8; 2]| libc::sock_filter { code, jt, jf, k };
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM)?;
    // Loads the number of the call, and compares it.
    let mut code = [
        instruction(0x20, 0, [0, 0]),
        instruction(0x15, u32::try_from(libc::SYS_ptrace)?, [0, 1]),
        instruction(0x06, refused, [0, 0]),
        instruction(0x06, libc::SECCOMP_RET_ALLOW, [0, 0]),
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: a number, and a filter that outlives the call.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
    match set {
        0 => Err(std::process::Command::new(program)
            .args(arguments)
            .exec()
            .into()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// So many threads, all of which wait.
fn threads(count: &str) -> Outcome {
    for _ in 1..count.parse()? {
        thread::spawn(|| wait_for_ever());
    }
    say("ready");
    go()
}

/// Takes memory until there is no more.
fn eat() -> Outcome {
    go()?;
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&eaten);
    }
}

/// Set when the process that shares this one's memory may take more of it.
static MAY_EAT: AtomicBool = AtomicBool::new(false);

/// Prints the pid of a process that has its memory in common with this one, and takes more of it
/// until there is no more.
fn share() -> Outcome {
    const STACK_BYTES: usize = 1 << 16;
    let mut stack = vec![0_u64; STACK_BYTES / 8];
    // SAFETY: the end of a stack that lives as long as this process, as the child does at most. The
    // child calls nothing but the kernel, for it has this thread's local storage.
    let pid = unsafe {
        let top = stack.as_mut_ptr().byte_add(STACK_BYTES);
        libc::clone(
            eat_beside,
            top.cast(),
            libc::CLONE_VM | libc::SIGCHLD,
            std::ptr::null_mut(),
        )
    };
    if pid < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    say(&pid.to_string());
    go()?;
    MAY_EAT.store(true, Ordering::SeqCst);
    loop {
        // SAFETY: a call without arguments.
        unsafe { libc::syscall(libc::SYS_sched_yield) };
    }
}

extern "C" fn eat_beside(_: *mut libc::c_void) -> i32 {
    const BYTES: usize = 1 << 20;
    loop {
        if !MAY_EAT.load(Ordering::SeqCst) {
            std::hint::spin_loop();
            continue;
        }
        // SAFETY: a new mapping, written within its bounds.
        unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if page != libc::MAP_FAILED {
                page.cast::<u8>().write_bytes(1, BYTES);
            }
        }
    }
}

/// Sends a notification as sd_notify(3) has it. Literal "\\n" parts lines. Those that begin with "@" are
/// not sent: "@connect PATH" and "@open PATH" add a descriptor, connected to that Unix socket or of that file;
/// with "@keep" this process has them open afterwards, too.
fn tell(text: &str) -> Outcome {
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    let text = text.replace("\\n", "\n");
    let (own, sent): (Vec<&str>, Vec<&str>) = text.lines().partition(|it| it.starts_with('@'));
    let mut files: Vec<std::os::fd::OwnedFd> = Vec::new();
    for line in &own {
        match line.split_once(' ') {
            Some(("@connect", path)) => {
                files.push(std::os::unix::net::UnixStream::connect(path)?.into());
            }
            Some(("@open", path)) => {
                let mut options = std::fs::OpenOptions::new();
                files.push(options.append(true).create(true).open(path)?.into());
            }
            _ => {}
        }
    }
    // It goes on once the other end is closed everywhere.
    let mut barrier = None;
    if own.contains(&"@barrier") {
        let (ours, theirs) = std::io::pipe()?;
        files.push(theirs.into());
        barrier = Some(ours);
    }
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let to = std::env::var_os("NOTIFY_SOCKET").ok_or("no NOTIFY_SOCKET")?;
    socket.set_nonblocking(true)?;
    let now = std::time::Duration::from(nix::time::clock_gettime(
        nix::time::ClockId::CLOCK_MONOTONIC,
    )?);
    let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &[][..] } else { &rights };
    let sent = sent
        .join("\n")
        .replace("@now", &now.as_micros().to_string());
    let parts = [std::io::IoSlice::new(sent.as_bytes())];
    let to = UnixAddr::new(std::path::Path::new(&to))?;
    sendmsg(
        socket.as_raw_fd(),
        &parts,
        rights,
        MsgFlags::empty(),
        Some(&to),
    )?;
    if own.contains(&"@keep") {
        std::mem::forget(files);
    } else {
        drop(files);
    }
    if let Some(mut barrier) = barrier {
        barrier.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

/// A speaker that first writes what it has from `LISTEN_FDS` into the file "got" of its folder: its pid,
/// `FDSTORE` and `LISTEN_PID`, then a line for each descriptor with its name and what it leads to. To each it
/// writes its pid and the name, if it can.
fn keeper(folder: &std::path::Path) -> Outcome {
    use std::fmt::Write;
    let variable = |name| std::env::var(name).unwrap_or_default();
    let pid = std::process::id();
    let mut text = format!("{pid} {} {}\n", variable("FDSTORE"), variable("LISTEN_PID"));
    let names = variable("LISTEN_FDNAMES");
    let count = variable("LISTEN_FDS").parse().unwrap_or(0);
    for (number, name) in (3..3 + count).zip(names.split(':')) {
        let target = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
        writeln!(text, "{name} {}", target.display())?;
        let words = format!("{pid} {name}\n");
        // SAFETY: writes from these bytes to a descriptor that is this process's to use.
        unsafe { nix::libc::write(number, words.as_ptr().cast(), words.len()) };
    }
    std::fs::write(folder.join("draft.got"), text)?;
    std::fs::rename(folder.join("draft.got"), folder.join("got"))?;
    speaker(folder)
}

/// Answers HTTP requests with the status in the file "status" of a folder; "hang": with none.
fn serve(port: &str, folder: &std::path::Path) -> Outcome {
    let listener = std::net::TcpListener::bind(("127.0.0.1", port.parse()?))?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
        if status == "hang" {
            std::mem::forget(stream);
            continue;
        }
        // Whoever only connects has asked for nothing.
        let _ = stream.read(&mut [0; 4096]);
        let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
    }
}

/// Sends what is in the files of a folder whose names end in ".say", each once, and removes it; while
/// there is a file "lives", WATCHDOG=1 too. With a line "@exit" it ends then.
fn speaker(folder: &std::path::Path) -> Outcome {
    loop {
        let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
        let mut files = files.collect::<std::io::Result<Vec<_>>>()?;
        files.retain(|path| path.extension().is_some_and(|it| it == "say"));
        files.sort();
        for path in files {
            let text = std::fs::read_to_string(&path)?;
            tell(&text)?;
            std::fs::remove_file(&path)?;
            if text.lines().any(|line| line == "@exit") {
                std::process::exit(1);
            }
        }
        if folder.join("lives").exists() {
            // Where the queue is full, the next one comes soon.
            let _ = tell("WATCHDOG=1");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Signals itself so often, and says so.
fn storm(count: &str) -> Outcome {
    // SAFETY: the handler does nothing.
    unsafe {
        nix::sys::signal::signal(
            Signal::SIGUSR1,
            nix::sys::signal::SigHandler::Handler(nothing),
        )
    }?;
    for _ in 0..count.parse()? {
        raise(Signal::SIGUSR1)?;
    }
    say("done");
    go()
}

/// So many children, each of which is killed before the next one comes.
fn die(count: &str) -> Outcome {
    for _ in 0..count.parse()? {
        // SAFETY: this process has one thread.
        match unsafe { nix::unistd::fork() }? {
            nix::unistd::ForkResult::Child => {
                raise(Signal::SIGKILL)?;
            }
            nix::unistd::ForkResult::Parent { child } => {
                nix::sys::wait::waitpid(child, None)?;
            }
        }
    }
    say("done");
    go()
}

/// Writes to a pipe that nobody reads.
fn pipe() -> Outcome {
    go()?;
    // Rust ignores it.
    // SAFETY: the default disposition.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) }?;
    let (reader, writer) = nix::unistd::pipe()?;
    drop(reader);
    nix::unistd::write(&writer, b"x")?;
    Ok(())
}

/// Sets a timer of real time, of the process's own, or of that and the kernel's for it; or makes one
/// that sends SIGTERM.
fn timer(what: &str) -> Outcome {
    let which = match what {
        "created" | "created-asleep" => return created_timer(what == "created-asleep"),
        "real" => libc::ITIMER_REAL,
        "virtual" => libc::ITIMER_VIRTUAL,
        "prof" => libc::ITIMER_PROF,
        _ => return Err("unknown timer".into()),
    };
    go()?;
    let moment = libc::timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    let once = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        },
        it_value: moment,
    };
    // SAFETY: the address of a whole `itimerval`, and none to return the old one to.
    if unsafe { libc::setitimer(which, &raw const once, std::ptr::null_mut()) } < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    loop {
        std::hint::black_box(0);
    }
}

/// A timer of `timer_create`, and waits for it, computing or asleep.
fn created_timer(asleep: bool) -> Outcome {
    go()?;
    // SAFETY: an all-zero `sigevent` is one; the addresses are those of whole values.
    let result = unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGTERM;
        let mut id = std::mem::zeroed();
        let mut when: libc::itimerspec = std::mem::zeroed();
        when.it_value.tv_nsec = 20_000_000;
        match libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) {
            0 => libc::timer_settime(id, 0, &raw const when, std::ptr::null_mut()),
            failed => failed,
        }
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    if asleep {
        wait_for_ever();
    }
    loop {
        std::hint::black_box(0);
    }
}

/// Writes more to a file than it may.
fn grow() -> Outcome {
    setrlimit(Resource::RLIMIT_FSIZE, 1, 1)?;
    let file = tempfile_of_nothing()?;
    go()?;
    nix::unistd::write(&file, b"x")?;
    nix::unistd::write(&file, b"y")?;
    Ok(())
}

/// Asks to be notified of what can be read, and writes it.
fn notify() -> Outcome {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (reader, writer) = nix::unistd::pipe()?;
    // SAFETY: a call with numbers.
    unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETOWN, libc::getpid()) };
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_ASYNC))?;
    go()?;
    nix::unistd::write(&writer, b"x")?;
    wait_for_ever()
}

/// Becomes a program of another user, as what sudo runs.
fn become_user(user: &str, program: &str, arguments: &[&str]) -> Outcome {
    use std::os::unix::process::CommandExt;
    let user = user.parse()?;
    let mut command = std::process::Command::new(program);
    Err(command.args(arguments).uid(user).gid(user).exec().into())
}

/// Prints the pid of a child that leads the session of a terminal, and presses a key of that or
/// closes it.
fn terminal(what: &str) -> Outcome {
    let pty = nix::pty::openpty(None, None)?;
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            drop(pty.master);
            nix::unistd::setsid()?;
            // Whoever runs the tests may ignore them, under nohup for instance.
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: no handler is installed.
                unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) }?;
            }
            // SAFETY: a call with numbers.
            if unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            say(&std::process::id().to_string());
            wait_for_ever()
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(pty.slave);
            go()?;
            match what {
                "interrupt" => drop(nix::unistd::write(&pty.master, &[3])?),
                "quit" => drop(nix::unistd::write(&pty.master, &[28])?),
                _ => drop(pty.master),
            }
            nix::sys::wait::waitpid(child, None)?;
            Ok(())
        }
    }
}

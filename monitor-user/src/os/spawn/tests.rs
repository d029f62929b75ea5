use std::ffi::CStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::model::{Identity, Limit, Output};
use crate::os::cgroup::Slot;
use crate::os::pidfd::Reaped;
use crate::os::testing::*;

mod recorded;

/// Both ways to make a process: with clone3 where there is one, and as if there were none.
fn spawners() -> [Spawner; 2] {
    let old = Spawner::new(None).unwrap();
    old.clone3.set(false);
    [Spawner::new(None).unwrap(), old]
}

fn start(spawner: &mut Spawner, exec: &Exec) -> Running {
    Running::start_with(spawner, exec, None).unwrap()
}

fn failure(spawner: &mut Spawner, exec: &Exec) -> SpawnError {
    Running::start_with(spawner, exec, None).unwrap_err()
}

#[test]
fn this_kernel_has_clone3_or_says_so() {
    let [spawner, _] = spawners();
    if !spawner.clone3.get() {
        eprintln!("SKIPPED: no clone3 here, all tests use clone");
    }
    let child = spawner.clone3.get();
    let mut spawner = spawner;
    assert_eq!(start(&mut spawner, &exec(&["/bin/true"])).status(), 0);
    assert_eq!(spawner.clone3.get(), child, "it fell back");
}

#[test]
fn streams_are_appended_to_and_created_with_a_sane_mode() {
    let directory = tempfile::tempdir().unwrap();
    let (out, err) = (directory.path().join("out"), directory.path().join("err"));
    let mut service = shell("read x; echo out $?; echo err >&2; umask");
    service.stdout = Output::File(out.clone());
    service.stderr = Output::File(err.clone());
    for (round, mut spawner) in spawners().into_iter().enumerate() {
        assert_eq!(start(&mut spawner, &service).status(), 0);
        let rounds = round + 1;
        assert_eq!(
            fs::read_to_string(&out).unwrap(),
            "out 1\n0022\n".repeat(rounds)
        );
        assert_eq!(fs::read_to_string(&err).unwrap(), "err\n".repeat(rounds));
    }
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode(), 0o100_640);

    service.umask = Some(0o077);
    service.stdout = Output::File(directory.path().join("both"));
    service.stderr = service.stdout.clone();
    let [mut spawner, _] = spawners();
    assert_eq!(start(&mut spawner, &service).status(), 0);
    let both = directory.path().join("both");
    assert_eq!(fs::read_to_string(&both).unwrap(), "out 1\nerr\n0077\n");
    assert_eq!(fs::metadata(&both).unwrap().permissions().mode(), 0o100_640);
}

#[test]
fn a_fifo_as_log_does_not_block_and_is_blocking_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let mut service = exec(&["/bin/sleep", "60"]);
    service.stdout = Output::File(fifo.clone());
    let [mut spawner, _] = spawners();
    let error = failure(&mut spawner, &service);
    assert_eq!(
        error.message,
        format!(
            "cannot open {}: No such device or address (stdout); this FIFO has no reader",
            fifo.display()
        )
    );
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let _reader = nix::fcntl::open(&fifo, flags, Mode::empty()).unwrap();
    let child = start(&mut spawner, &service);
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/1", child.pid)).unwrap();
    let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap();
    let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
    assert_eq!(flags & libc::O_NONBLOCK, 0, "{info}");
    assert_ne!(flags & libc::O_APPEND, 0, "{info}");
}

#[test]
fn signals_begin_at_their_defaults() {
    // The Rust runtime ignores SIGPIPE; ignore, handle and block others.
    let ignored = u64::from_str_radix(&status_line("self", "SigIgn"), 16).unwrap();
    assert_ne!(ignored & 1 << (libc::SIGPIPE - 1), 0);
    use nix::sys::signal::{SigHandler, SigSet, Signal as NixSignal, signal};
    // SAFETY: sets no handler.
    unsafe { signal(NixSignal::SIGUSR2, SigHandler::SigIgn) }.unwrap();
    let mut set = SigSet::empty();
    set.add(NixSignal::SIGTERM);
    set.thread_block().unwrap();
    for mut spawner in spawners() {
        let child = start(&mut spawner, &exec(&["/bin/sleep", "60"]));
        child.wait_for_name("sleep");
        for line in ["SigBlk", "SigIgn", "SigCgt"] {
            assert_eq!(child.status_line(line), "0000000000000000", "{line}");
        }
        assert!(
            SigSet::thread_get_mask()
                .unwrap()
                .contains(NixSignal::SIGTERM)
        );
        child.signal(Signal::TERM);
        assert_eq!(child.status(), libc::SIGTERM);
    }
    set.thread_unblock().unwrap();
}

#[test]
fn a_session_of_its_own_and_no_descriptor_of_ours() {
    // SAFETY: makes a descriptor that exec would keep; it is ours to close.
    let stray = unsafe { OwnedFd::from_raw_fd(libc::dup(2)) };
    assert!(stray.as_raw_fd() > 2);
    for mut spawner in spawners() {
        let child = start(&mut spawner, &exec(&["/bin/sleep", "60"]));
        child.wait_for_name("sleep");
        let stat = proc::stat(child.pid).unwrap();
        assert_eq!((stat.session, stat.group), (child.pid, child.pid));
        assert_eq!(stat.parent, std::process::id());
        assert_eq!(stat.start_time_ns, child.start_time_ns);
        let null = |fd: &str| (fd.to_owned(), "/dev/null".into());
        let three = [null("0"), null("1"), null("2")];
        // Its loader opens libraries and closes them again.
        until("nothing but three times /dev/null", || {
            open_files(&child) == three
        });
    }
}

/// Descriptors and what they lead to; one that is closed meanwhile leads nowhere.
fn open_files(child: &Running) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{}/fd", child.pid)).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).unwrap_or_default();
            (entry.file_name().into_string().unwrap(), target)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn input_can_be_a_file_and_nothing_else_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let mut service = shell("cat; exec sleep 60");
    service.stdout = Output::File(out.clone());
    for mut spawner in spawners() {
        fs::write(&out, "").unwrap();
        let input = directory.path().join("in");
        fs::write(&input, "a line\n").unwrap();
        let others: Vec<_> = (0..5).map(|_| fs::File::open(&input).unwrap()).collect();
        let file = fs::File::open(&input).unwrap();
        drop(others);
        let prepared = spawner.prepare(&service).unwrap();
        let prepared = Arc::new(prepared.with_stdin(file.into()));
        let child = Running::from(spawner.spawn(prepared, None).unwrap());
        child.wait_for_name("sleep");
        let expected = [
            ("0".to_owned(), input),
            ("1".to_owned(), out.clone()),
            ("2".to_owned(), "/dev/null".into()),
        ];
        until("three files", || open_files(&child) == expected);
        assert_eq!(fs::read_to_string(&out).unwrap(), "a line\n");
    }
}

#[test]
fn output_can_be_the_agents_own() {
    let mut service = exec(&["/bin/sleep", "60"]);
    service.stdout = Output::Inherit;
    service.stderr = Output::Inherit;
    for mut spawner in spawners() {
        let child = start(&mut spawner, &service);
        for fd in 1..=2 {
            assert_eq!(
                fs::read_link(format!("/proc/{}/fd/{fd}", child.pid)).unwrap(),
                fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()
            );
        }
    }
}

#[test]
fn identity_is_dropped_whole_and_only_in_the_child() {
    // Other tests' starts change what is dumpable.
    if !is_root() || !alone("os::spawn::tests::identity_is_dropped_whole_and_only_in_the_child") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut service = shell("echo x; sleep 60 & wait");
    service.identity = Some(Identity {
        uid: 65_534,
        gid: 65_533,
        groups: vec![4, 65_533],
    });
    // Opened with the agent's rights: the directory is root's, mode 0700.
    service.stdout = Output::File(log.clone());
    nix::sys::prctl::set_dumpable(true).unwrap();
    for mut spawner in spawners() {
        let child = start(&mut spawner, &service);
        let ids = |id: &str| [id; 4].join("\t");
        assert_eq!(child.status_line("Uid"), ids("65534"));
        assert_eq!(child.status_line("Gid"), ids("65533"));
        assert_eq!(child.status_line("Groups"), "4 65533");
        assert_eq!(child.status_line("CapEff"), "0000000000000000");
        assert_eq!(status_line("thread-self", "Uid"), ids("0"));
        assert!(is_dumpable(), "the agent's memory was left undumpable");
    }
    // Its processes may open it again by /dev/stdout.
    let owner = fs::metadata(&log).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (65_534, 65_533));
}

#[test]
fn limits_nice_directory_and_environment() {
    let mut service = exec(&["/bin/sleep", "60"]);
    let limit = |resource, soft, hard| Limit {
        resource,
        soft,
        hard,
    };
    service.limits = vec![
        limit(libc::RLIMIT_CORE, Some(0), Some(4096)),
        limit(libc::RLIMIT_CPU, Some(77), None),
    ];
    service.nice = Some(7);
    service.working_directory = "/usr/bin".into();
    service.environment.insert("A".into(), "b c=d".into());
    let own = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let original = FdLimit {
        soft: 123,
        hard: 456,
    };
    for spawner in spawners() {
        let mut spawner = Spawner {
            fd_limit: Some(original),
            ..spawner
        };
        let child = start(&mut spawner, &service);
        child.wait_for_name("sleep");
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.pid)).unwrap();
        let limit = |name: &str| {
            let line = limits.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            let mut words = line.split_ascii_whitespace().map(str::to_owned);
            (words.next().unwrap(), words.next().unwrap())
        };
        assert_eq!(limit("Max core file size"), ("0".into(), "4096".into()));
        assert_eq!(limit("Max cpu time"), ("77".into(), "unlimited".into()));
        assert_eq!(limit("Max open files"), ("123".into(), "456".into()));
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid)).unwrap();
        assert_eq!(stat.split(' ').nth(18), Some("7"));
        let directory = fs::read_link(format!("/proc/{}/cwd", child.pid)).unwrap();
        assert_eq!(directory, fs::canonicalize("/usr/bin").unwrap());
        // Exec lays it out after the name is set.
        let environment = || fs::read(format!("/proc/{}/environ", child.pid)).unwrap();
        until("environment", || !environment().is_empty());
        assert_eq!(environment(), b"A=b c=d\0PATH=/usr/bin:/bin\0");
        assert_eq!(
            fs::read(format!("/proc/{}/cmdline", child.pid)).unwrap(),
            b"/bin/sleep\x0060\0"
        );
    }
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), own);
    assert_ne!(std::env::current_dir().unwrap(), Path::new("/usr/bin"));
}

#[test]
fn the_limit_on_open_files_is_raised_for_the_agent_alone() {
    if !alone("os::spawn::tests::the_limit_on_open_files_is_raised_for_the_agent_alone") {
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
    let original = raise_fd_limit().unwrap();
    assert_eq!(original, FdLimit { soft: 100, hard });
    let (soft, now_hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(soft == now_hard && now_hard >= hard);
    let mut spawner = Spawner::new(Some(original)).unwrap();
    let script = format!("test $(ulimit -Sn) = 100 && test $(ulimit -Hn) = {hard}");
    assert_eq!(start(&mut spawner, &shell(&script)).status(), 0);
}

/// Children that failed starts have left: they keep the name that this gives to the thread.
struct Zombies(&'static CStr);

impl Zombies {
    fn of_this_thread(name: &'static CStr) -> Self {
        nix::sys::prctl::set_name(name).unwrap();
        Self(name)
    }

    fn count(&self) -> usize {
        let name = self.0.to_str().unwrap();
        let is_one = |pid: &u32| proc::stat(*pid).is_ok_and(|stat| stat.comm == name);
        proc::pids()
            .unwrap()
            .iter()
            .filter(|pid| is_one(pid))
            .count()
    }
}

/// A service that cannot be started, with the stage and the message that tell why.
type BadCase = (Exec, Stage, String);

fn bad_programs(directory: &Path) -> Vec<BadCase> {
    let at = |name: &str| directory.join(name).display().to_string();
    let write = |name: &str, text: &[u8], mode| {
        fs::write(at(name), text).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write("script", b"#! /no/such/interpreter -x\n", 0o755);
    write("garbage", b"\x01\x02\x03", 0o755);
    write("plain", b"", 0o644);
    let case = |path: String, reason: &str| {
        let message = format!("cannot run {path}: {reason}");
        (exec(&[&path]), Stage::Exec, message)
    };
    vec![
        case("/no/such/x".into(), "No such file or directory (exec)"),
        case(at("plain"), "Permission denied (exec)"),
        case(
            at("script"),
            "No such file or directory (exec); the file is there, but not its interpreter \
             /no/such/interpreter",
        ),
        case(
            at("garbage"),
            "Exec format error (exec); it is neither a program for this machine nor begins with #!",
        ),
    ]
}

fn bad_settings(directory: &Path) -> Vec<BadCase> {
    let with = |stage, message: &str, change: &dyn Fn(&mut Exec)| {
        let mut service = exec(&["/bin/true"]);
        change(&mut service);
        (service, stage, message.to_owned())
    };
    let is_directory = format!(
        "cannot open {}: Is a directory (stderr)",
        directory.display()
    );
    vec![
        with(
            Stage::Stdout,
            "cannot open /no/such/log: No such file or directory (stdout)",
            &|s| s.stdout = Output::File("/no/such/log".into()),
        ),
        with(Stage::Stderr, &is_directory, &|s| {
            s.stderr = Output::File(directory.into());
        }),
        with(
            Stage::WorkingDirectory,
            "cannot enter /no/such: No such file or directory (working directory)",
            &|s| s.working_directory = "/no/such".into(),
        ),
        with(
            Stage::Limits,
            "cannot set the limit NOFILE to unlimited (hard 5): Invalid argument (limits)",
            &|s| {
                s.limits.push(Limit {
                    resource: libc::RLIMIT_NOFILE,
                    soft: None,
                    hard: Some(5),
                });
            },
        ),
    ]
}

#[test]
fn each_failure_names_its_stage_its_object_and_its_reason() {
    let zombies = Zombies::of_this_thread(c"failing-stages");
    let directory = tempfile::tempdir().unwrap();
    let mut cases = bad_programs(directory.path());
    cases.extend(bad_settings(directory.path()));
    for mut spawner in spawners() {
        for (service, stage, message) in &cases {
            let error = loop {
                // A process that another test has just forked may hold our file open.
                let error = failure(&mut spawner, service);
                if error.errno != libc::ETXTBSY {
                    break error;
                }
            };
            assert_eq!((error.stage, &error.message), (*stage, message));
            assert_eq!(SpawnFailure::from(error).to_string(), *message);
        }
    }
    assert_eq!(zombies.count(), 0);
}

/// Runs in a thread without this capability.
fn without_capability<T: Send + 'static>(
    capability: u32,
    test: impl FnOnce() -> T + Send + 'static,
) -> T {
    thread::spawn(move || {
        // Header: version 3, this thread. Data: effective, permitted, inheritable, twice.
        let header = [0x2008_0522_u32, 0];
        let mut data = [0_u32; 6];
        // SAFETY: the kernel's structures are these words.
        unsafe {
            libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr());
            for set in [0, 1] {
                data[set] &= !(1 << capability);
            }
            assert_eq!(
                libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()),
                0
            );
        }
        test()
    })
    .join()
    .unwrap()
}

#[test]
fn missing_rights_are_named() {
    if !is_root() {
        return;
    }
    let identity = |groups: &[u32]| {
        Some(Identity {
            uid: 12,
            gid: 34,
            groups: groups.to_vec(),
        })
    };
    let denied = "Operation not permitted";
    let (setgid, setuid, nice) = (6, 7, 23);
    let cases = [
        (
            setgid,
            Stage::Groups,
            format!("cannot join the groups [5, 6]: {denied} (groups)"),
        ),
        (
            setuid,
            Stage::User,
            format!("cannot become user 12: {denied} (user)"),
        ),
        (
            nice,
            Stage::Nice,
            "cannot set nice to -5: Permission denied (nice)".into(),
        ),
    ];
    for (capability, stage, message) in cases {
        let mut service = exec(&["/bin/true"]);
        service.identity = identity(&[5, 6]);
        if stage == Stage::Nice {
            service.nice = Some(-5);
        }
        without_capability(capability, move || {
            // Whoever runs the tests may have set a lower one, and up from there is free to all.
            // SAFETY: sets this thread's nice value, and touches no memory.
            unsafe { libc::setpriority(libc::PRIO_PROCESS as libc::__priority_which_t, 0, 0) };
            let zombies = Zombies::of_this_thread(c"failing-rights");
            for mut spawner in spawners() {
                let error = failure(&mut spawner, &service);
                assert_eq!((error.stage, &error.message), (stage, &message));
            }
            assert_eq!(zombies.count(), 0);
        });
    }
}

#[test]
fn no_identity_is_needed_to_stay_oneself() {
    if !is_root() {
        return;
    }
    let own = Identity {
        uid: 0,
        gid: nix::unistd::getgid().as_raw(),
        groups: nix::unistd::getgroups()
            .unwrap()
            .iter()
            .map(|g| g.as_raw())
            .collect(),
    };
    let mut service = exec(&["/bin/true"]);
    service.identity = Some(own.clone());
    let other = service.clone();
    without_capability(6, move || {
        let [mut spawner, _] = spawners();
        assert_eq!(start(&mut spawner, &service).status(), 0);
    });
    let [mut spawner, _] = spawners();
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let mut service = other.clone();
        service.identity = Some(Identity {
            uid,
            gid,
            ..own.clone()
        });
        assert_eq!(failure(&mut spawner, &service).errno, libc::EINVAL);
    }
}

#[test]
fn a_nul_byte_is_refused_before_anything_starts() {
    let [mut spawner, _] = spawners();
    let mut service = exec(&["/bin/true", "a\0b"]);
    let error = failure(&mut spawner, &service);
    assert_eq!(
        error.message,
        "cannot run /bin/true: there is a NUL byte in it (exec)"
    );
    service.arguments.pop();
    service.stdout = Output::File("/tmp/a\0b".into());
    let error = failure(&mut spawner, &service);
    assert_eq!(
        error.message,
        "cannot open /tmp/a\\0b: there is a NUL byte in it (stdout)"
    );
}

#[test]
fn what_is_no_cgroup_fails_in_its_stage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("service.0");
    let slot = Slot::for_test(&path);
    let reasons = ["Bad file descriptor", "No such file or directory"];
    for (mut spawner, reason) in spawners().into_iter().zip(reasons) {
        fs::create_dir_all(&path).unwrap();
        let error =
            Running::start_with(&mut spawner, &exec(&["/bin/true"]), Some(&slot)).unwrap_err();
        let message = format!(
            "cannot start in the cgroup {}: {reason} (cgroup)",
            path.display()
        );
        assert_eq!((error.stage, error.message), (Stage::Cgroup, message));
    }
}

#[test]
fn a_start_is_in_its_cgroup_from_the_first_instruction() {
    let Some(cgroups) = TestCgroups::open("first") else {
        return;
    };
    let service = cgroups.for_service("web").unwrap();
    for (attempt, mut spawner) in (0..).zip(spawners()) {
        let slot = service.slot(attempt);
        let child =
            Running::start_with(&mut spawner, &exec(&["/bin/sleep", "60"]), Some(slot)).unwrap();
        assert_eq!(
            service.holding(child.pid).map(Slot::path),
            Some(slot.path())
        );
        assert!(slot.is_populated().unwrap());
        assert_eq!(slot.pids().unwrap(), [child.pid]);
    }
    for slot in service.slots() {
        until("empty", || !slot.is_populated().unwrap());
    }
}

#[test]
fn a_removed_cgroup_is_made_again() {
    let Some(cgroups) = TestCgroups::open("removed") else {
        return;
    };
    let service = cgroups.for_service("web").unwrap();
    for mut spawner in spawners() {
        service.remove().unwrap();
        let slot = service.slot(1);
        let child =
            Running::start_with(&mut spawner, &exec(&["/bin/sleep", "60"]), Some(slot)).unwrap();
        assert_eq!(
            service.holding(child.pid).map(Slot::path),
            Some(slot.path())
        );
        drop(child);
        until("empty", || !slot.is_populated().unwrap());
    }
}

#[test]
fn a_cgroup_that_was_killed_takes_the_next_start() {
    let Some(cgroups) = TestCgroups::open("killed") else {
        return;
    };
    let service = cgroups.for_service("web").unwrap();
    for mut spawner in spawners() {
        for _ in 0..3 {
            let slot = service.slot(0);
            let child = Running::start_with(&mut spawner, &shell("exit 4"), Some(slot)).unwrap();
            assert_eq!(child.status(), 4 << 8);
            slot.kill().unwrap();
        }
    }
}

#[test]
fn an_agent_whose_own_cgroup_was_killed_once_starts_services() {
    if !alone("os::spawn::tests::an_agent_whose_own_cgroup_was_killed_once_starts_services") {
        return;
    }
    let Some(cgroups) = TestCgroups::open("own") else {
        return;
    };
    let own = cgroups.for_service("agent").unwrap();
    own.slot(0).kill().unwrap();
    fs::write(own.slot(0).path().join("cgroup.procs"), "0").unwrap();
    let service = cgroups.for_service("web").unwrap();
    let [mut spawner, _] = spawners();
    for attempt in 0..3 {
        let slot = service.slot(attempt);
        let sleep = exec(&["/bin/sleep", "60"]);
        let child = Running::start_with(&mut spawner, &sleep, Some(slot)).unwrap();
        assert_eq!(
            service.holding(child.pid).map(Slot::path),
            Some(slot.path())
        );
    }
    let parent = cgroups.path().ancestors().nth(2).unwrap();
    fs::write(parent.join("cgroup.procs"), "0").unwrap();
}

/// Makes these system calls fail for this thread and its children, as an old kernel or a
/// container's filter does.
fn refuse_calls(numbers: &[libc::c_long], errno: i32) {
    let statement = |code: u32, k: u32, jt: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf: 0,
        k,
    };
    let word = |value: i64| u32::try_from(value).unwrap();
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (index, number) in numbers.iter().enumerate() {
        let to_refusal = u8::try_from(numbers.len() - index).unwrap();
        let test = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        program.push(statement(test, word(*number), to_refusal));
    }
    let refusal = libc::SECCOMP_RET_ERRNO | word(i64::from(errno));
    for end in [libc::SECCOMP_RET_ALLOW, refusal] {
        program.push(statement(libc::BPF_RET | libc::BPF_K, end, 0));
    }
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter and its program outlive the call.
    let result = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    };
    assert_eq!(result, 0);
}

fn starts_without_leaks_where_calls_are_refused(errno: i32) {
    // SAFETY: makes a descriptor that exec would keep; it is ours to close.
    let stray = unsafe { OwnedFd::from_raw_fd(libc::dup(2)) };
    refuse_calls(&[libc::SYS_clone3, libc::SYS_close_range], errno);
    let mut spawner = Spawner::new(None).unwrap();
    assert!(!spawner.clone3.get());
    let child = start(&mut spawner, &exec(&["/bin/sleep", "60"]));
    child.wait_for_name("sleep");
    until("three descriptors", || open_files(&child).len() == 3);
    // One that is refused only now is found out by the first start.
    spawner.clone3.set(true);
    assert_eq!(start(&mut spawner, &shell("exit 6")).status(), 6 << 8);
    assert!(!spawner.clone3.get());
    drop(stray);
}

#[test]
fn an_old_kernel_will_do() {
    if alone("os::spawn::tests::an_old_kernel_will_do") {
        starts_without_leaks_where_calls_are_refused(libc::ENOSYS);
    }
}

#[test]
fn a_filtered_kernel_will_do() {
    if alone("os::spawn::tests::a_filtered_kernel_will_do") {
        starts_without_leaks_where_calls_are_refused(libc::EPERM);
    }
}

#[test]
fn hundreds_of_starts_leave_nothing_behind() {
    if !alone("os::spawn::tests::hundreds_of_starts_leave_nothing_behind") {
        return;
    }
    let (good, bad) = (exec(&["/bin/true"]), exec(&["/no/such/x"]));
    nothing_is_left_by(|spawner| {
        assert_eq!(start(spawner, &good).status(), 0);
        failure(spawner, &bad);
    });
}

/// Runs it hundreds of times with each of the spawners, alone in this process.
fn nothing_is_left_by(starts: impl Fn(&mut Spawner)) {
    let lines = |path| fs::read_to_string(path).unwrap().lines().count();
    let fds = || fs::read_dir("/proc/self/fd").unwrap().count();
    let count = || (fds(), lines("/proc/self/maps"));
    let mut spawners = spawners();
    let mut run = |times| {
        for _ in 0..times {
            spawners.iter_mut().for_each(&starts);
        }
    };
    run(20);
    let before = count();
    run(250);
    assert_eq!(count(), before);
    for _ in 0..50 {
        Spawner::new(None).unwrap();
    }
    assert_eq!(count(), before);
    assert_eq!(pidfd::reap_orphans(|_| true).unwrap(), None, "a zombie");
}

#[test]
fn other_threads_allocate_open_and_fork_meanwhile() {
    let done = AtomicBool::new(false);
    let busy = || !done.load(Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept = Vec::new();
            while busy() {
                kept.push(vec![1_u8; 1 + kept.len() * 777 % 100_000]);
                kept.truncate(100);
            }
        });
        scope.spawn(|| {
            while busy() {
                let file = fs::File::open("/proc/self/status").unwrap();
                drop((file.try_clone().unwrap(), file));
            }
        });
        scope.spawn(|| {
            while busy() {
                let status = std::process::Command::new("/bin/true").status().unwrap();
                assert!(status.success());
            }
        });
        let mut statuses = Vec::new();
        for mut spawner in spawners() {
            let service = shell("exit 3");
            for _ in 0..150 {
                let started = Running::start_with(&mut spawner, &service, None);
                statuses.push(started.map(|child| child.status()));
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(statuses.iter().all(|status| *status == Ok(3 << 8)));
    });
}

#[test]
fn a_child_that_is_stopped_on_its_way_is_continued() {
    let done = AtomicBool::new(false);
    let own_children = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    if fs::read(&own_children).is_err() {
        eprintln!("SKIPPED: no list of children in /proc");
        return;
    }
    thread::scope(|scope| {
        // Stops each child once, as soon as it is seen: some before exec, some after.
        scope.spawn(|| {
            let mut seen = String::new();
            while !done.load(Ordering::Relaxed) {
                let children = fs::read_to_string(&own_children).unwrap_or_default();
                if children != seen {
                    for pid in children.split_ascii_whitespace() {
                        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP);
                    }
                    seen = children;
                }
            }
        });
        let mut results = Vec::new();
        for mut spawner in spawners() {
            for _ in 0..15 {
                results.push(Running::start_with(
                    &mut spawner,
                    &exec(&["/bin/sleep", "60"]),
                    None,
                ));
                thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        done.store(true, Ordering::Relaxed);
        for result in results {
            let child = result.unwrap();
            child.signal(Signal::KILL);
            assert_eq!(child.status(), libc::SIGKILL);
        }
    });
}

/// `cargo test --release -p monitor-user os::spawn -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "it measures time")]
fn measure_spawn_by_resident_memory() {
    use std::time::Instant;

    if !alone("os::spawn::tests::measure_spawn_by_resident_memory") {
        return;
    }
    const STARTS: usize = 300;
    let median = |spawner: &mut Spawner, slot: Option<&Slot>, recorded: bool| {
        let prepared = Arc::new(spawner.prepare(&exec(&["/bin/true"])).unwrap());
        let mut times: Vec<_> = (0..STARTS)
            .map(|_| {
                let before = Instant::now();
                let child = if recorded {
                    recorded::spawn_recorded(spawner, &prepared, slot, |_, _| Ok(()))
                } else {
                    spawner.spawn(Arc::clone(&prepared), slot.cloned())
                };
                let child = child.unwrap();
                let took = before.elapsed();
                Running::from(child).status();
                took
            })
            .collect();
        times.sort();
        times[STARTS / 2]
    };
    let fork_and_exec = || {
        let mut times: Vec<_> = (0..STARTS)
            .map(|_| {
                let mut command = std::process::Command::new("/bin/true");
                let before = Instant::now();
                let mut child = command.spawn().unwrap();
                let took = before.elapsed();
                child.wait().unwrap();
                took
            })
            .collect();
        times.sort();
        times[STARTS / 2]
    };
    let cgroups = TestCgroups::open("measure");
    let service = cgroups.as_ref().map(|c| c.for_service("true").unwrap());
    let slot = service.as_ref().map(|service| service.slot(0));
    let report = |what: &str| {
        let [mut new, mut old] = spawners();
        for recorded in [false, true] {
            let with = if recorded { ", recorded" } else { "" };
            let mut show = |how: &str, slot| {
                let new = median(&mut new, slot, recorded);
                let old = median(&mut old, slot, recorded);
                eprintln!("{what}{how}{with}: clone3 {new:?}, clone {old:?}");
            };
            show("", None);
            show(" into a cgroup", slot);
        }
        eprintln!("{what}: posix_spawn of std {:?}", fork_and_exec());
    };
    report("small");
    let memory = vec![1_u8; 1 << 30];
    report("1 GiB");
    let null = fs::File::open("/dev/null").unwrap();
    let files: Vec<_> = (0..15_000).map(|_| null.try_clone()).collect();
    report("1 GiB and 15,000 descriptors");
    drop((memory, files));
}

#[test]
fn a_start_that_was_killed_on_its_way_is_a_start() {
    // Nothing noted, nothing run: told as the process's end, not as a failed start.
    let [mut spawner, _] = spawners();
    let child = start(&mut spawner, &exec(&["/bin/sleep", "60"]));
    child.signal(Signal::KILL);
    child.wait_readable();
    assert_eq!(
        pidfd::reap(child.pidfd.as_fd()).unwrap(),
        Reaped::Status(libc::SIGKILL)
    );
}

#[test]
fn starts_that_are_under_way_together_do_not_touch_each_other() {
    // Other tests' starts change what is dumpable.
    if !alone("os::spawn::tests::starts_that_are_under_way_together_do_not_touch_each_other") {
        return;
    }
    for mut spawner in spawners() {
        let commands: Vec<_> = (0..20)
            .map(|number| {
                let exec = match number % 4 {
                    0 => exec(&["/bin/nothing"]),
                    _ => shell(&format!("exit {number}")),
                };
                Arc::new(spawner.prepare(&exec).unwrap())
            })
            .collect();
        for _ in 0..5 {
            let begin = |(number, command): (usize, &Arc<Prepared>)| {
                let mut refused = |_, _| Err(io::Error::from_raw_os_error(libc::ENOSPC));
                let mut taken = |_, _| Ok(());
                let record: Option<&mut Record<'_>> = match number % 4 {
                    1 => Some(&mut refused),
                    2 => Some(&mut taken),
                    _ => None,
                };
                spawner.begin(Arc::clone(command), None, record)
            };
            let flights: Vec<Flight> = commands.iter().enumerate().map(begin).collect();
            for (number, flight) in flights.into_iter().enumerate() {
                match (number % 4, spawner.finish(flight)) {
                    (0, Err(aborted)) => assert_eq!(aborted.error.stage, Stage::Exec),
                    (1, Err(aborted)) => assert_eq!(aborted.error.stage, Stage::Record),
                    (_, Ok(landed)) => {
                        let status = i32::try_from(number).unwrap() << 8;
                        assert_eq!(Running::from(landed.child).status(), status);
                    }
                    (_, Err(aborted)) => panic!("{number}: {}", aborted.error),
                }
            }
        }
        assert_eq!(spawner.begun, 0);
        assert!(spawner.stacks.len() <= commands.len());
        assert!(is_dumpable());
    }
}

/// Whoever forgets one has a child that goes on, on memory that stays.
#[test]
fn a_start_that_nobody_finishes_comes_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    for (number, mut spawner) in spawners().into_iter().enumerate() {
        let path = directory.path().join(number.to_string());
        let script = shell(&format!("echo done > {}", path.display()));
        let command = Arc::new(spawner.prepare(&script).unwrap());
        drop(spawner.begin(command, None, None));
        until("it has run", || {
            fs::read_to_string(&path).is_ok_and(|text| text == "done\n")
        });
        Running::start_with(&mut spawner, &shell("exit 3"), None).unwrap();
    }
}

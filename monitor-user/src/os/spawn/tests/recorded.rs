//! Starts that wait until they are recorded.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;

/// In a process that acts for one of these tests: where its files are.
const DIRECTORY: &str = "RESPAWN_TEST_RECORDED";
/// Which of [`spawners`] the acting agent takes, and the cgroup for its service.
const SPAWNER: &str = "RESPAWN_TEST_SPAWNER";
const SLOT: &str = "RESPAWN_TEST_SLOT";

fn start_recorded(
    spawner: &mut Spawner,
    exec: &Exec,
    slot: Option<&Slot>,
    record: impl FnMut(u32, u64) -> io::Result<()>,
) -> Result<Running, SpawnError> {
    let prepared = Arc::new(spawner.prepare(exec)?);
    spawn_recorded(spawner, &prepared, slot, record).map(Running::from)
}

pub(super) fn spawn_recorded(
    spawner: &mut Spawner,
    prepared: &Arc<Prepared>,
    slot: Option<&Slot>,
    mut record: impl FnMut(u32, u64) -> io::Result<()>,
) -> Result<Child, SpawnError> {
    let flight = spawner.begin(Arc::clone(prepared), slot.cloned(), Some(&mut record));
    let landed = spawner.finish(flight);
    let landed = landed.or_else(|aborted| spawner.retry(aborted, Some(&mut record)))?;
    Ok(landed.child)
}

fn is_gone(pid: u32) -> bool {
    proc::stat(pid).is_err()
}

/// Until the child waits for the go-ahead: nothing else before that sleeps.
fn until_it_waits(pid: u32) {
    until("it waits", || {
        proc::stat(pid).is_ok_and(|stat| stat.state == 'S')
    });
}

fn freeze(slot: &Slot, frozen: bool) {
    let state = if frozen { "1" } else { "0" };
    fs::write(slot.path().join("cgroup.freeze"), state).unwrap();
}

#[test]
fn the_record_comes_before_the_first_instruction() {
    let directory = tempfile::tempdir().unwrap();
    let cgroups = TestCgroups::open("recorded");
    let service = cgroups.as_ref().map(|c| c.for_service("web").unwrap());
    let slots = [None, service.as_ref().map(|service| service.slot(0))];
    for (round, mut spawner) in spawners().into_iter().enumerate() {
        for (number, slot) in slots.iter().enumerate() {
            for waits in [true, false] {
                let path = directory
                    .path()
                    .join(format!("{round}-{number}-{waits}"))
                    .display()
                    .to_string();
                let mut recorded = Vec::new();
                let child = start_recorded(
                    &mut spawner,
                    &exec(&["/usr/bin/test", "-s", &path]),
                    *slot,
                    |pid, start_time_ns| {
                        if waits {
                            until_it_waits(pid);
                        }
                        recorded.push((pid, start_time_ns));
                        fs::write(&path, "x")
                    },
                )
                .unwrap();
                assert_eq!(child.status(), 0);
                assert_eq!(recorded, [(child.pid, child.start_time_ns)]);
            }
        }
    }
}

#[test]
fn a_start_that_is_tried_again_is_recorded_again() {
    let Some(cgroups) = TestCgroups::open("again") else {
        return;
    };
    let service = cgroups.for_service("web").unwrap();
    for mut spawner in spawners() {
        service.slot(0).kill().unwrap();
        let mut recorded = Vec::new();
        let sleep = exec(&["/bin/sleep", "60"]);
        let child = start_recorded(&mut spawner, &sleep, Some(service.slot(0)), |pid, _| {
            recorded.push(pid);
            Ok(())
        })
        .unwrap();
        let last = recorded.pop();
        assert_eq!(last, Some(child.pid));
        assert!(recorded.into_iter().all(is_gone));
    }
}

#[test]
fn without_a_record_there_is_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let ran = directory.path().join("ran").display().to_string();
    let service = exec(&["/usr/bin/touch", &ran]);
    let full = || io::Error::from_raw_os_error(libc::ENOSPC);
    let custom = || io::Error::other("cannot write /x: gone (os error 7)");
    let cases: [(&dyn Fn() -> io::Error, _, _); 2] = [
        (&full, libc::ENOSPC, "No space left on device"),
        (&custom, libc::EIO, "cannot write /x: gone"),
    ];
    for mut spawner in spawners() {
        for (error, errno, reason) in &cases {
            for waits in [true, false] {
                let mut recorded = 0;
                let failure = start_recorded(&mut spawner, &service, None, |pid, _| {
                    if waits {
                        until_it_waits(pid);
                    }
                    recorded = pid;
                    Err(error())
                })
                .unwrap_err();
                assert!(recorded != 0 && is_gone(recorded));
                let message = format!("cannot record the new process: {reason} (record)");
                let expected = SpawnError {
                    stage: Stage::Record,
                    errno: *errno,
                    message,
                };
                assert_eq!(failure, expected);
            }
        }
        let mut recorded = 0;
        let failure = start_recorded(&mut spawner, &service, None, |pid, _| {
            recorded = pid;
            panic!("as a test")
        })
        .unwrap_err();
        assert_eq!(
            failure.message,
            "cannot record the new process: Operation canceled (record)"
        );
        assert!(is_gone(recorded));
        assert_eq!(start(&mut spawner, &exec(&["/bin/true"])).status(), 0);
    }
    assert!(!Path::new(&ran).exists());
}

#[test]
fn a_recorded_start_that_fails_says_why() {
    for mut spawner in spawners() {
        let mut recorded = 0;
        let error = start_recorded(&mut spawner, &exec(&["/no/such/x"]), None, |pid, _| {
            recorded = pid;
            Ok(())
        })
        .unwrap_err();
        assert_eq!(
            error.message,
            "cannot run /no/such/x: No such file or directory (exec)"
        );
        assert!(is_gone(recorded));
    }
}

#[test]
fn a_child_that_is_stopped_while_it_waits_is_continued() {
    for mut spawner in spawners() {
        let child = start_recorded(&mut spawner, &shell("exit 5"), None, |pid, _| {
            until_it_waits(pid);
            let pidfd = pidfd::open(pid)?;
            signal::send(pidfd.as_fd(), Signal::from_number(libc::SIGSTOP).unwrap())?;
            until("stopped", || proc::stat(pid).unwrap().state == 'T');
            Ok(())
        })
        .unwrap();
        assert_eq!(child.status(), 5 << 8);
    }
}

#[test]
fn a_killed_child_was_started_and_ended() {
    for mut spawner in spawners() {
        let child = start_recorded(&mut spawner, &shell("exit 5"), None, |pid, _| {
            signal::send(pidfd::open(pid)?.as_fd(), Signal::KILL).map(drop)
        })
        .unwrap();
        assert_eq!(child.status(), libc::SIGKILL);
    }
}

#[test]
fn a_start_that_hangs_is_given_up() {
    let Some(cgroups) = TestCgroups::open("hangs") else {
        return;
    };
    let service = cgroups.for_service("web").unwrap();
    for mut spawner in spawners() {
        spawner.wait_steps = 4;
        let mut recorded = Vec::new();
        let mut record = |pid, _| {
            recorded.push(pid);
            Ok(())
        };
        // No SIGCONT gets one out of there, but SIGKILL does.
        freeze(service.slot(0), true);
        let result = start_recorded(
            &mut spawner,
            &exec(&["/bin/sleep", "60"]),
            Some(service.slot(0)),
            &mut record,
        );
        match result {
            Err(error) => {
                assert_eq!(error.errno, libc::ETIMEDOUT);
                assert_eq!(
                    error.message,
                    "cannot make a process for /bin/sleep: timed out (fork)"
                );
            }
            // It hung while it joined, so the cgroup was made anew.
            Ok(child) => {
                assert!(!spawner.clone3.get());
                assert_eq!(recorded.pop(), Some(child.pid));
            }
        }
        assert_eq!(recorded.len(), 1);
        assert!(recorded.into_iter().all(is_gone));
        freeze(service.slot(0), false);
        let next = Running::start_with(&mut spawner, &shell("exit 2"), Some(service.slot(0)));
        assert_eq!(next.unwrap().status(), 2 << 8);
    }
}

#[test]
fn a_start_that_hangs_is_looked_at_and_given_up_without_waiting() {
    let Some(cgroups) = TestCgroups::open("looks") else {
        return;
    };
    let service = cgroups.for_service("web").unwrap();
    let slot = || Some(service.slot(0).clone());
    let mut spawner = Spawner::new(None).unwrap();
    let command = Arc::new(spawner.prepare(&exec(&["/bin/sleep", "60"])).unwrap());
    // One that comes to its program after all.
    freeze(service.slot(0), true);
    let flight = spawner.begin(Arc::clone(&command), slot(), None);
    assert!(!flight.has_landed(Duration::from_millis(1)));
    flight.prod();
    // Another one is not held up by it.
    let other = spawner.spawn(Arc::new(spawner.prepare(&shell("exit 3")).unwrap()), None);
    freeze(service.slot(0), false);
    assert!(flight.has_landed(Duration::from_secs(60)));
    let child = spawner.finish(flight).unwrap().child;
    signal::send(child.pidfd.as_fd(), Signal::KILL).unwrap();
    pidfd::reap_blocking(child.pidfd.as_fd()).unwrap();
    pidfd::reap_blocking(other.unwrap().pidfd.as_fd()).unwrap();
    // And one that does not.
    freeze(service.slot(0), true);
    let mut flight = spawner.begin(command, slot(), None);
    let pid = flight.pid().unwrap();
    assert!(!flight.has_landed(Duration::ZERO));
    flight.give_up();
    assert!(flight.has_landed(Duration::from_secs(60)));
    let error = spawner.finish(flight).unwrap_err().error;
    assert_eq!(error.errno, libc::ETIMEDOUT);
    assert!(is_gone(pid));
    freeze(service.slot(0), false);
}

/// A user's process that shares the agent's memory could be read by that user otherwise.
#[test]
fn while_one_start_hangs_no_other_makes_the_shared_memory_dumpable() {
    // Other tests' starts change what is dumpable.
    if !alone(
        "os::spawn::tests::recorded::while_one_start_hangs_no_other_makes_the_shared_memory_dumpable",
    ) {
        return;
    }
    let Some(cgroups) = TestCgroups::open("shares") else {
        return;
    };
    let service = cgroups.for_service("web").unwrap();
    nix::sys::prctl::set_dumpable(true).unwrap();
    let (mut of_services, mut of_hooks) =
        (Spawner::new(None).unwrap(), Spawner::new(None).unwrap());
    let command = Arc::new(of_hooks.prepare(&exec(&["/bin/true"])).unwrap());
    freeze(service.slot(0), true);
    let hangs = of_hooks.begin(Arc::clone(&command), Some(service.slot(0).clone()), None);
    let other = of_services.begin(command, None, None);
    // As the one that hangs does when it takes its user.
    nix::sys::prctl::set_dumpable(false).unwrap();
    let other = of_services.finish(other).unwrap().child;
    assert!(!is_dumpable());
    assert!(shares_memory());
    freeze(service.slot(0), false);
    let hung = of_hooks.finish(hangs).unwrap().child;
    assert!(is_dumpable());
    assert!(!shares_memory());
    for child in [other, hung] {
        pidfd::reap_blocking(child.pidfd.as_fd()).unwrap();
    }
}

#[test]
fn a_service_has_no_parent_death_signal() {
    for mut spawner in spawners() {
        let start = move || {
            let sleep = exec(&["/bin/sleep", "60"]);
            let child = start_recorded(&mut spawner, &sleep, None, |pid, _| {
                until_it_waits(pid);
                Ok(())
            });
            (child.unwrap(), nix::unistd::gettid())
        };
        // It would be sent at the end of the thread that made the process.
        let (child, thread) = thread::spawn(start).join().unwrap();
        let thread = format!("/proc/self/task/{thread}");
        until("the thread ends", || !Path::new(&thread).exists());
        child.signal(Signal::TERM);
        assert_eq!(child.status(), libc::SIGTERM);
    }
}

#[test]
fn hundreds_of_recorded_starts_leave_nothing_behind() {
    if !alone("os::spawn::tests::recorded::hundreds_of_recorded_starts_leave_nothing_behind") {
        return;
    }
    let (good, bad) = (exec(&["/bin/true"]), exec(&["/no/such/x"]));
    nothing_is_left_by(|spawner| {
        let child = start_recorded(spawner, &good, None, |_, _| Ok(())).unwrap();
        assert_eq!(child.status(), 0);
        start_recorded(spawner, &bad, None, |_, _| Ok(())).unwrap_err();
        let refuse = |_, _| Err(io::ErrorKind::Other.into());
        start_recorded(spawner, &good, None, refuse).unwrap_err();
    });
}

/// Starts a service, and never comes to the end of its record.
#[test]
#[ignore = "the tests below run it"]
fn an_agent_that_records_for_ever() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let spawner = std::env::var(SPAWNER).unwrap().parse().unwrap();
    let spawner: &mut Spawner = &mut spawners()[usize::min(spawner, 1)];
    let slot = std::env::var_os(SLOT).map(|path| Slot::for_test(Path::new(&path)));
    let ran = directory.join("ran").display().to_string();
    let service = exec(&["/usr/bin/touch", &ran]);
    let never = start_recorded(spawner, &service, slot.as_ref(), |_, _| {
        fs::write(directory.join("recording"), "")?;
        loop {
            thread::park();
        }
    });
    panic!("{never:?}");
}

/// What an agent that records for ever runs under, and how its death is met.
#[derive(Clone, Copy)]
struct Case<'a> {
    /// What leads to the test binary; empty: nothing.
    launcher: &'a [&'a str],
    spawner: usize,
    /// The child is in this cgroup, frozen until after the agent's death.
    frozen: Option<&'a Slot>,
    /// The agent is killed when the child certainly waits, or at once.
    waits: bool,
}

impl Case<'_> {
    /// Kills the agent; a pidfd of the child, which has told its end.
    fn run(self) -> OwnedFd {
        let directory = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let mut words = self.launcher.to_vec();
        words.extend([
            program.to_str().unwrap(),
            "os::spawn::tests::recorded::an_agent_that_records_for_ever",
            "--exact",
            "--ignored",
            "--nocapture",
        ]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.env(DIRECTORY, directory.path());
        command.env(SPAWNER, self.spawner.to_string());
        if let Some(slot) = self.frozen {
            freeze(slot, true);
            command.env(SLOT, slot.path());
        }
        command.stdout(Stdio::null());
        if !self.launcher.is_empty() {
            // unshare(1) complains when the agent is killed.
            command.stderr(Stdio::null());
        }
        let mut launched = command.spawn().unwrap();
        until("it records", || directory.path().join("recording").exists());
        let agent = match self.launcher {
            [] => launched.id(),
            _ => only_child(launched.id()),
        };
        let child = only_child(agent);
        if self.waits {
            until_it_waits(child);
        }
        let pidfd = pidfd::open(child).unwrap();
        assert!(!pidfd::has_exited(pidfd.as_fd()).unwrap());
        signal::send(pidfd::open(agent).unwrap().as_fd(), Signal::KILL).unwrap();
        launched.wait().unwrap();
        if let Some(slot) = self.frozen {
            freeze(slot, false);
        }
        let ended = readable_within(&pidfd, 10_000);
        let _ = signal::send(pidfd.as_fd(), Signal::KILL);
        assert!(ended, "the child lives");
        assert!(!directory.path().join("ran").exists());
        pidfd
    }
}

fn only_child(parent: u32) -> u32 {
    let is_child = |pid: &u32| proc::stat(*pid).is_ok_and(|stat| stat.parent == parent);
    let children: Vec<_> = proc::pids().unwrap().into_iter().filter(is_child).collect();
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

/// The agent is killed at each of its moments; `met` is told the child's status if it became ours.
fn kill_agents(launcher: &[&str], test: &str, met: impl Fn(Case<'_>, Reaped)) {
    let cgroups = TestCgroups::open(test);
    let service = cgroups.as_ref().map(|c| c.for_service("web").unwrap());
    let mut moments = vec![(None, true), (None, false), (None, false)];
    moments.extend(
        service
            .as_ref()
            .map(|service| (Some(service.slot(0)), false)),
    );
    for spawner in [0, 1] {
        for (frozen, waits) in &moments {
            let case = Case {
                launcher,
                spawner,
                frozen: *frozen,
                waits: *waits,
            };
            met(case, pidfd::reap(case.run().as_fd()).unwrap());
        }
    }
}

#[test]
fn a_child_dies_with_an_agent_that_has_not_recorded_it() {
    kill_agents(&[], "plain", |_, reaped| {
        assert_eq!(reaped, Reaped::NotOurChild);
    });
}

#[test]
fn nor_is_it_left_to_a_subreaper() {
    if !alone("os::spawn::tests::recorded::nor_is_it_left_to_a_subreaper") {
        return;
    }
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    kill_agents(&[], "subreaper", |case, reaped| match reaped {
        Reaped::Status(libc::SIGKILL) if case.frozen.is_none() => {}
        // It came to ask for the signal when the agent was dead already, and saw that.
        Reaped::Status(0x7f00) if !case.waits => {}
        other => panic!("{other:?}"),
    });
}

#[test]
fn nor_is_it_left_in_a_namespace_of_the_agents() {
    if !is_root() {
        return;
    }
    let launcher = ["unshare", "--pid", "--fork", "--mount-proc", "--"];
    kill_agents(&launcher, "namespace", |_, reaped| {
        assert_eq!(reaped, Reaped::NotOurChild);
    });
}

#[test]
fn an_agent_that_its_children_cannot_see_is_told_so() {
    if !is_root()
        || !alone("os::spawn::tests::recorded::an_agent_that_its_children_cannot_see_is_told_so")
    {
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).unwrap();
    let [mut spawner, _] = spawners();
    let error = start_recorded(&mut spawner, &exec(&["/bin/true"]), None, |pid, _| {
        until("it ended", || proc::stat(pid).unwrap().is_zombie());
        Ok(())
    });
    assert_eq!(
        error.unwrap_err().message,
        "cannot record the new process: No such process (record); it does not see the agent as \
         its parent"
    );
}

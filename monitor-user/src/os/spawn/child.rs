//! What the child does between clone and exec.
//!
//! It runs in the agent's memory, beside the agent's threads: it may read what was prepared, and
//! write to its own stack and to [`Shared`]. No allocation, no lock, no libc, no panic.

use std::convert::Infallible;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::Stage;
use super::descriptors::{Handed, RULESET};
use super::landlock;
use super::prepared::{Prepared, Stream};
use crate::os::open::{self, Trust};
use crate::os::sys::{self, Errno};

/// The exit status of a child that has not become its program.
pub(crate) const NOT_BECOME: u8 = 127;

const NULL_FLAGS: c_int = libc::O_RDWR | libc::O_CLOEXEC;
const READY_FLAGS: c_int = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
const DEV_NULL: &CStr = c"/dev/null";
/// How often a child that waits for the go-ahead looks whether the agent is still there.
const LOOK_MS: u32 = 1000;

/// Why, and at what, the child gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    /// Which of several: the index of a limit; 1 for the gid, 0 for the groups.
    pub(super) detail: u32,
    pub(super) errno: Errno,
}

impl Failure {
    pub(super) fn new(stage: Stage, errno: Errno) -> Self {
        Self {
            stage,
            detail: 0,
            errno,
        }
    }
}

/// The words through which agent and child talk.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// 1 until the kernel clears it, when the child has left the agent's memory.
    running: AtomicU32,
    /// Where the child is, and at which of several.
    stage: AtomicU32,
    detail: AtomicU32,
    /// Set once, when it gives up; 0 until then.
    errno: AtomicI32,
    /// The `cgroup.procs` to join through; -1 if there is none.
    members: AtomicI32,
    /// The agent's pid as long as the child may not go on; 0 when it may.
    awaited: AtomicU32,
    /// Whether it had to wait at all.
    recorded: AtomicBool,
    /// Signals whose dispositions the clone has not made the default ones: bit n - 1 for signal n.
    inherited: AtomicU64,
    /// What to become; null: just end.
    command: AtomicPtr<Prepared>,
}

impl Shared {
    /// Sets the words for the next child.
    pub(super) fn begin(&self, command: Option<&Prepared>, members: i32) {
        let command = command.map_or(ptr::null_mut(), |command| ptr::from_ref(command).cast_mut());
        self.command.store(command, Ordering::Relaxed);
        self.members.store(members, Ordering::Relaxed);
        self.stage.store(Stage::Fork as u32, Ordering::Relaxed);
        self.detail.store(0, Ordering::Relaxed);
        self.errno.store(0, Ordering::Relaxed);
        self.running.store(1, Ordering::Release);
    }

    /// Has the next child make these signals' dispositions the default ones.
    pub(super) fn inherit(&self, signals: u64) {
        self.inherited.store(signals, Ordering::Relaxed);
    }

    /// Has the next child wait for the agent, which has this pid; 0: it need not.
    pub(super) fn hold(&self, agent: u32) {
        self.recorded.store(agent != 0, Ordering::Relaxed);
        self.awaited.store(agent, Ordering::Relaxed);
    }

    /// Lets the child go on.
    pub(super) fn give_go_ahead(&self) {
        self.awaited.store(0, Ordering::Release);
        sys::wake(&self.awaited);
    }

    /// Where the kernel clears `running`.
    pub(super) fn running_address(&self) -> u64 {
        self.running.as_ptr() as u64
    }

    /// Waits until the child has left the memory; `false` after so many milliseconds.
    pub(super) fn wait(&self, milliseconds: u32) -> bool {
        sys::wait_while(&self.running, 1, milliseconds);
        self.running.load(Ordering::Acquire) == 0
    }

    /// What the child noted before it ended; `None` if it became the program.
    pub(super) fn failure(&self) -> Option<Failure> {
        let errno = self.errno.load(Ordering::Acquire);
        (errno != 0).then(|| self.progress(errno))
    }

    /// How far the child has come.
    pub(super) fn progress(&self, errno: Errno) -> Failure {
        Failure {
            stage: Stage::from_code(self.stage.load(Ordering::Relaxed)),
            detail: self.detail.load(Ordering::Relaxed),
            errno,
        }
    }

    /// Whether the child ended before its first instruction.
    pub(super) fn is_unborn(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == Stage::Fork as u32
    }

    fn reach(&self, stage: Stage, detail: u32) {
        self.detail.store(detail, Ordering::Relaxed);
        self.stage.store(stage as u32, Ordering::Relaxed);
    }
}

/// Where the child begins. `argument` is the [`Shared`].
pub(super) extern "C" fn run(argument: *const c_void) -> ! {
    // SAFETY: the spawner passes its stack's shared words, which stay mapped while this runs.
    let shared = unsafe { &*argument.cast::<Shared>() };
    // SAFETY: null, or what was prepared for this start: the spawner borrows it until this
    // process has left its memory, and nobody changes it meanwhile.
    let command = unsafe { shared.command.load(Ordering::Relaxed).as_ref() };
    shared.reach(Stage::Cgroup, 0);
    let failed = join_cgroup(shared).and_then(|()| match command {
        None => {
            shared.reach(Stage::Exec, 0);
            sys::exit(0)
        }
        Some(command) => become_service(shared, command),
    });
    let Err(errno) = failed;
    shared.errno.store(errno, Ordering::Release);
    sys::exit(NOT_BECOME.into())
}

/// Where clone3 could not do it; before the file table goes that `members` is in.
fn join_cgroup(shared: &Shared) -> Result<(), Errno> {
    let members = shared.members.load(Ordering::Relaxed);
    if members < 0 {
        return Ok(());
    }
    sys::write(members, b"0")
}

/// Everything in the order that privileges ask for: the log files are opened, limits raised and
/// the directory entered with the agent's rights, then these are dropped.
fn become_service(shared: &Shared, command: &Prepared) -> Result<Infallible, Errno> {
    shared.reach(Stage::Files, 0);
    let handed = Handed::of(command);
    sys::own_file_table(handed.last())?;
    if handed.has_sockets() {
        shared.reach(Stage::Listen, 0);
    }
    handed.place()?;
    sys::default_dispositions(shared.inherited.load(Ordering::Relaxed));
    let envp = match wait_for_go_ahead(shared)? {
        true => &command.marked_envp,
        false => &command.envp,
    };
    shared.reach(Stage::Session, 0);
    sys::new_session()?;
    let reach = |stage, detail| shared.reach(stage, detail);
    command.confined.make_directories(reach)?;
    open_streams(shared, command)?;
    if let Some((path, target)) = &command.ready {
        shared.reach(Stage::Ready, 0);
        let fd = sys::open(path, READY_FLAGS, 0o600)?;
        sys::duplicate(fd, *target)?;
    }
    for (index, (resource, limit)) in command.limits.iter().enumerate() {
        shared.reach(Stage::Limits, u32::try_from(index).unwrap_or(u32::MAX));
        sys::set_limit(*resource, limit)?;
    }
    if let Some(nice) = command.nice {
        shared.reach(Stage::Nice, 0);
        sys::set_nice(nice)?;
    }
    if let Some(sandbox) = &command.sandbox {
        sandbox.enter(reach)?;
    }
    shared.reach(Stage::WorkingDirectory, 0);
    sys::change_directory(&command.working_directory)?;
    command.confined.with_agents_rights(reach)?;
    if let Some(identity) = &command.identity {
        shared.reach(Stage::Groups, 0);
        sys::set_groups(&identity.groups)?;
        shared.reach(Stage::Groups, 1);
        sys::set_gid(identity.gid)?;
        shared.reach(Stage::User, 0);
        sys::set_uid(identity.uid)?;
    }
    command.confined.with_own_rights(reach)?;
    if command.landlock.is_some() {
        landlock::enter(RULESET, reach)?;
    }
    if let Some(pid) = &command.listen_pid {
        pid.name(sys::process_id());
    }
    shared.reach(Stage::Exec, 0);
    // Now a core dump by a signal that waits in the mask would take the agent with it.
    sys::forbid_dumps();
    sys::set_signal_mask(0);
    // SAFETY: `Prepared` keeps the strings and the null-terminated arrays that lead to them.
    Err(unsafe { sys::execute(&command.program, command.argv.as_ptr(), envp.as_ptr()) })
}

/// If the agent records its children: waits until it has, and ends with it if it ends before.
/// Returns whether it does.
///
/// The signal is asked for first, the parent looked at after: an agent that died in between has
/// left the child to another parent, which has another pid (the dead agent's is not free yet).
/// The look is repeated because store and load may be swapped, here and in the kernel, which has
/// no barrier for them. If the agent is PID 1 of a namespace, all of that dies with it.
/// `forget_original_parent` in <https://github.com/torvalds/linux/blob/v5.10/kernel/exit.c>,
/// `zap_pid_ns_processes` in kernel/pid_namespace.c there.
///
/// The memory that word and code are in stays: the child holds it as much as the agent did. The
/// agent's files do not (from Linux 5.9 on): its locks are free when it is dead, not when the
/// child is, too.
fn wait_for_go_ahead(shared: &Shared) -> Result<bool, Errno> {
    if !shared.recorded.load(Ordering::Relaxed) {
        return Ok(false);
    }
    shared.reach(Stage::Record, 0);
    sys::set_parent_death_signal(libc::SIGKILL)?;
    loop {
        let agent = shared.awaited.load(Ordering::Acquire);
        if agent == 0 {
            // It would outlast exec. Should the agent die just now, its record is there.
            return sys::set_parent_death_signal(0).map(|()| true);
        }
        if sys::parent() != agent {
            return Err(libc::ESRCH);
        }
        sys::wait_while(&shared.awaited, agent, LOOK_MS);
    }
}

fn open_streams(shared: &Shared, command: &Prepared) -> Result<(), Errno> {
    // So that a log has exactly its mode, whatever the agent's umask.
    sys::set_umask(0);
    shared.reach(Stage::Stdin, 0);
    let null = sys::open(DEV_NULL, NULL_FLAGS, 0)?;
    if command.stdin.is_none() {
        sys::duplicate(null, libc::STDIN_FILENO)?;
    }
    shared.reach(Stage::Stdout, 0);
    let trust = Trust {
        uids: command.trusted,
        owner: command.identity.as_ref(),
    };
    open_stream(&command.stdout, &trust, null, libc::STDOUT_FILENO)?;
    shared.reach(Stage::Stderr, 0);
    open_stream(&command.stderr, &trust, null, libc::STDERR_FILENO)?;
    sys::set_umask(command.umask);
    Ok(())
}

fn open_stream(
    stream: &Stream,
    trust: &Trust<'_>,
    null: c_int,
    target: c_int,
) -> Result<(), Errno> {
    match stream {
        Stream::Inherit => Ok(()),
        Stream::Null => sys::duplicate(null, target),
        Stream::AsStdout => sys::duplicate(libc::STDOUT_FILENO, target),
        Stream::File(path) => {
            let fd = open::log(path, trust)?;
            sys::set_status_flags(fd, libc::O_APPEND)?;
            sys::duplicate(fd, target)
        }
        Stream::Fifo(path) => {
            let fd = sys::open(path, NULL_FLAGS | libc::O_NOFOLLOW, 0)?;
            sys::duplicate(fd, target)
        }
    }
}

//! Starts a process at a cost that does not grow with the agent. Watches none.
//!
//! The child is cloned with the agent's memory (CLONE_VM), as vfork does, so no page table is
//! copied; and with the agent's file table (CLONE_FILES), which it leaves at once for a fresh one
//! with just 0, 1 and 2, so that thousands of descriptors are neither copied nor closed.
//!
//! It differs from vfork in one point: the agent is not suspended by the kernel but waits on a
//! word that the kernel clears when the child has left the shared memory (CLONE_CHILD_CLEARTID:
//! the same place in the kernel that ends a vfork). This wait can have an end. Once the child has
//! the service's uid, that user may stop it (SIGSTOP needs no more); a suspended agent would hang
//! until somebody continues it, and so it would on a log file on a dead network mount.
//! `mm_release` in <https://github.com/torvalds/linux/blob/v5.10/kernel/fork.c>
//!
//! ```text
//! agent                                  child (own stack, agent's memory, all signals blocked)
//! begin
//!   block all signals
//!   clone3 ───────────────────────────▶  join cgroup¹, fresh file table, dispositions, session,
//!   restore mask                           directories, stdin, stdout, stderr, umask, limits, nice,
//! finish                                   cwd, processors, bounding set, groups, gid, uid,
//!                                          capabilities, no core dumps, empty mask
//!   wait until `running` is 0
//!     (every 50 ms: SIGCONT)
//!                       ◀─ running = 0 ─  execve, or failure noted and exit
//!   a failure noted? reap, tell it        ¹ only where clone3 cannot do it
//! ```
//!
//! Between the two, others may begin, each on a stack of its own: while one is in its exec, on
//! another processor, the next one is cloned. Who begins a start need not wait for its end at all: it may
//! look now and then whether that has come ([`Flight::has_landed`]), and go on with other work meanwhile.
//!
//! A start that is recorded has one more step, so that no instance is ever unknown to the
//! next agent: between dispositions and session, before anything that others can see, the child
//! waits until the agent has recorded it, and dies with an agent that dies before that.
//!
//! ```text
//! clone3 ─────────────────────────────▶  … dispositions
//! record it                              parent-death signal = SIGKILL
//! awaited = 0                            not the agent's child any more? exit
//!                       ─ awaited = 0 ▶  wait (every second: is the agent still there?)
//! wait until `running` is 0              no parent-death signal; session …
//! ```
//!
//! While they share memory the child can be neither dumped nor traced by its new user
//! (PR_SET_DUMPABLE): before Linux 5.16 a core dump ends everyone who shares the memory. With
//! `fs.suid_dumpable = 1` the kernel undoes that for an instant; its documentation calls that
//! setting insecure.

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use super::cgroup::Slot;
use super::proc::{self, TICK_NS};
use super::sys::{self, CloneArgs, Errno};
use super::{pidfd, progress, signal, trace};
use crate::model::{Exec, MOST_SOCKETS, Signal, SpawnFailure};

mod child;
mod confine;
mod descriptors;
mod landlock;
mod prepared;
mod sandbox;
mod stack;
#[cfg(test)]
mod tests;

use child::Failure;
pub(crate) use child::NOT_BECOME;
pub(crate) use prepared::{Prepared, is_own};
use stack::Stack;

/// Not in every libc crate's target.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How often a child that takes its time is continued, should it have been stopped.
const WAIT_STEP_MS: u32 = 50;
/// How often the agent waits so long before it gives a start up: 10 s in all.
const WAIT_STEPS: u32 = 200;
/// The same where nobody wants to wait: 1 s in all.
const FEW_WAIT_STEPS: u32 = WAIT_STEPS / 10;

/// The child was killed before its first instruction.
///
/// Linux 6.14 to 7.2, and stable kernels with the same change, do this to each child that is cloned
/// into a cgroup whose `cgroup.kill` was written once: they compare that cgroup's count of kills
/// with that of the parent's. Fixed by 8e3599202166 ("cgroup: fix spurious SIGKILL of
/// CLONE_INTO_CGROUP children").
/// `cgroup_css_set_fork` in
/// <https://github.com/gregkh/linux/blob/v6.18.38/kernel/cgroup/cgroup.c#L6716>
pub(super) const UNBORN: Errno = libc::ECANCELED;

/// A service's main process, just started.
#[derive(Debug)]
pub(crate) struct Child {
    /// Process ID, as the agent's PID namespace has it.
    pub(crate) pid: u32,
    /// Readable when it has ended; close-on-exec.
    pub(crate) pidfd: OwnedFd,
    /// Start time since boot, at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: u64,
}

/// What was being done when a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Stage {
    /// Making the process.
    Fork,
    /// Putting it into its cgroup.
    Cgroup,
    /// Giving it a file table of its own.
    Files,
    /// Giving it the sockets that are held for it.
    Listen,
    /// Noting it down, before it may go on.
    Record,
    /// Its session.
    Session,
    Stdin,
    Stdout,
    Stderr,
    /// Where it says that it is ready.
    Ready,
    /// Its own directories.
    Directories,
    Limits,
    Nice,
    /// Its own view of the host.
    Sandbox,
    WorkingDirectory,
    CpuAffinity,
    Capabilities,
    Groups,
    User,
    NoNewPrivileges,
    Exec,
    /// After it.
    OomScoreAdj,
}

impl Stage {
    const ALL: [Self; 22] = [
        Self::Fork,
        Self::Cgroup,
        Self::Files,
        Self::Listen,
        Self::Record,
        Self::Session,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Ready,
        Self::Directories,
        Self::Limits,
        Self::Nice,
        Self::Sandbox,
        Self::WorkingDirectory,
        Self::CpuAffinity,
        Self::Capabilities,
        Self::Groups,
        Self::User,
        Self::NoNewPrivileges,
        Self::Exec,
        Self::OomScoreAdj,
    ];

    fn from_code(code: u32) -> Self {
        let known = |stage: &Self| *stage as u32 == code;
        Self::ALL.into_iter().find(known).unwrap_or(Self::Exec)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fork => "fork",
            Self::Cgroup => "cgroup",
            Self::Files => "files",
            Self::Listen => "listen",
            Self::Record => "record",
            Self::Session => "session",
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Ready => "ready",
            Self::Directories => "directories",
            Self::Limits => "limits",
            Self::Nice => "nice",
            Self::Sandbox => "sandbox",
            Self::WorkingDirectory => "working directory",
            Self::CpuAffinity => "cpu_affinity",
            Self::Capabilities => "capabilities",
            Self::Groups => "groups",
            Self::User => "user",
            Self::NoNewPrivileges => "no_new_privileges",
            Self::Exec => "exec",
            Self::OomScoreAdj => "oom_score_adj",
        })
    }
}

/// Why a start failed. Nothing is left of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpawnError {
    /// Where.
    pub(crate) stage: Stage,
    /// The kernel's error number.
    pub(crate) errno: i32,
    /// "cannot run /usr/bin/x: No such file or directory (exec)"
    pub(crate) message: String,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SpawnError {}

impl From<SpawnError> for SpawnFailure {
    fn from(error: SpawnError) -> Self {
        Self {
            message: error.message,
        }
    }
}

/// The limit on open files, as it was before [`raise_fd_limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FdLimit {
    /// What counts.
    pub(crate) soft: u64,
    /// How far an unprivileged process may raise `soft`.
    pub(crate) hard: u64,
}

/// Raises the agent's own limit on open files: to 1,048,576 where it may (CAP_SYS_RESOURCE), else
/// to its hard limit. Returns the original, which [`Spawner::new`] wants for the services.
///
/// # Errors
/// If the limit can be neither read nor set.
pub(crate) fn raise_fd_limit() -> io::Result<FdLimit> {
    /// The kernel's default for the highest that can be set, `fs.nr_open`.
    const MOST: u64 = 1 << 20;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised =
        hard < MOST && setrlimit(Resource::RLIMIT_NOFILE, MOST, MOST).is_ok() || soft == hard;
    if !raised {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(FdLimit { soft, hard })
}

/// How many descriptors services may not have, so that the agent can be steered when they have taken
/// all others: for clients, the journal, hooks. Less where there are few.
const RESERVE: u64 = 64;

/// Whether the table of descriptors, up to this one, has room for more than the reserve. The kernel
/// gives the lowest number that is free, so `fd` is one that was just made.
pub(crate) fn leaves_reserve(fd: &OwnedFd) -> bool {
    room(fd.as_fd(), |limit| limit - RESERVE.min(limit / 8))
}

/// Whether a child can take along this descriptor and as many others, the sockets that are held for its
/// service among them: for a moment it has each of them twice (`descriptors`).
pub(crate) fn can_hand(fd: &OwnedFd, others: usize) -> bool {
    let highest = fd.as_raw_fd().max(super::notify::DESCRIPTOR);
    let others = others.saturating_add(MOST_SOCKETS);
    let (Ok(highest), Ok(others)) = (u64::try_from(highest), u64::try_from(others)) else {
        return false;
    };
    room(fd.as_fd(), |limit| match highest + others + 2 <= limit {
        true => limit,
        false => 0,
    })
}

/// Whether so few descriptors are in use that one more for each service does no harm.
pub(super) fn are_plenty(fd: BorrowedFd<'_>) -> bool {
    room(fd, |limit| limit / 4)
}

fn room(fd: BorrowedFd<'_>, most: impl FnOnce(u64) -> u64) -> bool {
    let number = u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    number < most(limit)
}

/// Why no service can be started without touching the reserve.
pub(crate) fn out_of_descriptors() -> String {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    format!(
        "out of file descriptors: the agent may have {limit} open, and reserves the last ones for \
         requests; raise its limit (ulimit -n, LimitNOFILE=)"
    )
}

/// How many children share the memory of this process, whoever started them.
struct Sharing {
    children: usize,
    /// Whether that memory may be dumped while none does.
    dumpable: bool,
}

static SHARING: Mutex<Sharing> = Mutex::new(Sharing {
    children: 0,
    dumpable: false,
});

impl Sharing {
    fn of_process() -> MutexGuard<'static, Self> {
        SHARING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&mut self) {
        if self.children == 0 {
            self.dumpable = is_dumpable();
        }
        self.children += 1;
    }

    fn end(&mut self) {
        self.children = self.children.saturating_sub(1);
        if self.children == 0 && self.dumpable {
            // The children have forbidden it for the memory that they shared with us.
            let _ = nix::sys::prctl::set_dumpable(true);
        }
    }
}

/// Whether a child still shares the memory of this process, as one does until its exec. If it has another user by
/// then, only a tracer with `CAP_SYS_PTRACE` may trace what shares that memory.
pub(crate) fn shares_memory() -> bool {
    Sharing::of_process().children > 0
}

/// Whether this kernel has what a sandbox without CAP_SYS_ADMIN needs.
pub(crate) fn has_landlock() -> bool {
    landlock::Landlocked::is_supported()
}

/// Starts processes. Knows what the kernel offers, and holds the stacks that children begin on.
#[derive(Debug)]
pub(crate) struct Spawner {
    /// Those that no child is on.
    stacks: Vec<Stack>,
    /// How many children are on one.
    begun: usize,
    /// Whether `clone3` may be called; found out once, and corrected by its first refusal.
    clone3: Cell<bool>,
    /// Whether `clone3` may put the child into its cgroup: not where that kills it ([`UNBORN`]).
    into_cgroup: Cell<bool>,
    /// How many steps of the wait for exec there are.
    wait_steps: u32,
    /// Signals that the agent ignores, from its start on: CLONE_CLEAR_SIGHAND leaves them so.
    ignored: u64,
    fd_limit: Option<FdLimit>,
}

impl Spawner {
    /// Finds out what the kernel offers. `fd_limit` is what services get as their limit on open
    /// files unless they say otherwise; `None`: the agent's own.
    ///
    /// # Errors
    /// If there is no memory for the stack.
    pub(crate) fn new(fd_limit: Option<FdLimit>) -> io::Result<Self> {
        if !sys::has_close_range() {
            close_stray_fds_on_exec();
        }
        Ok(Self {
            stacks: vec![Stack::new()?],
            begun: 0,
            clone3: Cell::new(sys::has_clone3()),
            into_cgroup: Cell::new(true),
            wait_steps: WAIT_STEPS,
            ignored: proc::ignored_signals().unwrap_or(u64::MAX),
            fd_limit,
        })
    }

    /// Gives a start up after about a second, and not after ten.
    #[must_use]
    pub(crate) fn impatient(mut self) -> Self {
        self.wait_steps = FEW_WAIT_STEPS;
        self
    }

    /// Whether processes are started by `clone3`, and not by `clone`.
    pub(crate) fn has_clone3(&self) -> bool {
        self.clone3.get()
    }

    /// Lays out all that the child needs, once for each change of the service's file.
    ///
    /// # Errors
    /// A NUL in a path, an argument or the environment.
    pub(crate) fn prepare(&self, exec: &Exec) -> Result<Prepared, SpawnError> {
        Prepared::new(exec, self.fd_limit)
    }

    /// Starts the process, in the cgroup if one is given; returns when the new program has
    /// replaced the agent's memory, or the start has failed.
    ///
    /// This takes as long as the kernel takes for exec, and at most about 11 s. When it returns,
    /// exec has passed its point of no return, but `/proc` may show the old name for an instant.
    ///
    /// # Errors
    /// Stage, error number and a message for people. No process is left, except one that hangs
    /// in the kernel beyond the reach of SIGKILL; it is an orphan to reap, should it ever end.
    pub(crate) fn spawn(
        &mut self,
        command: Arc<Prepared>,
        slot: Option<Slot>,
    ) -> Result<Child, SpawnError> {
        let flight = self.begin(command, slot, None);
        self.finish_or_retry(flight)
    }

    /// The second half of that.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub(crate) fn finish_or_retry(&mut self, flight: Flight) -> Result<Child, SpawnError> {
        let landed = self.finish(flight);
        let landed = landed.or_else(|aborted| self.retry(aborted, None))?;
        Ok(landed.child)
    }

    /// The first half of a start: makes the process, and does not wait until it has come to its
    /// exec. Each needs its [`Self::finish`].
    ///
    /// With a `record` the process gets no further than its first instructions, which nobody can
    /// notice, until `record` has noted its pid and start time (as in [`Child`]) and returned. If
    /// the agent dies before that, so does the process, whoever inherits it (in a frozen cgroup:
    /// when it is thawed). So either there is a record, or there is no process.
    ///
    /// There may be a record and no process: of an agent that died right after recording, and of
    /// a start that failed later. A start that is tried again, because of its cgroup, is recorded
    /// again; only the last one counts.
    ///
    /// `record` runs with all signals blocked and may take its time. The process depends on the
    /// calling *thread* (PR_SET_PDEATHSIG goes by threads), but no longer than until `record` has
    /// returned, and has no parent-death signal as a service.
    /// `reparent_leader` and `forget_original_parent` in
    /// <https://github.com/torvalds/linux/blob/v5.10/kernel/exit.c>
    pub(crate) fn begin(
        &mut self,
        command: Arc<Prepared>,
        slot: Option<Slot>,
        record: Option<&mut Record<'_>>,
    ) -> Flight {
        let begun = match slot.as_ref().map(Slot::open) {
            None => self.clone_recorded(Some(&command), None, record),
            Some(Ok(directory)) => {
                self.clone_recorded(Some(&command), Some(directory.as_fd()), record)
            }
            Some(Err(error)) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                Err(Failure::new(Stage::Cgroup, errno).into())
            }
        };
        Flight {
            command,
            slot,
            begun,
            given_up: None,
        }
    }

    /// The second half: waits as [`Self::spawn`] does.
    ///
    /// # Errors
    /// As [`Self::spawn`]; [`Stage::Record`] if `record` failed or panicked, and the process was
    /// killed for that.
    pub(crate) fn finish(&mut self, flight: Flight) -> Result<Landed, Box<Aborted>> {
        self.finish_within(self.wait_steps, flight)
    }

    /// The same, but gives up after about a second.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub(crate) fn finish_soon(&mut self, flight: Flight) -> Result<Landed, Box<Aborted>> {
        self.finish_within(FEW_WAIT_STEPS, flight)
    }

    fn finish_within(&mut self, steps: u32, flight: Flight) -> Result<Landed, Box<Aborted>> {
        let Flight {
            command,
            slot,
            begun,
            given_up,
        } = flight;
        let finished = begun.and_then(|begun| match given_up {
            None => Ok(self.wait_for_exec(begun, slot.is_some(), steps)?),
            Some(why) => {
                self.let_go(begun, 0);
                Err(why.into())
            }
        });
        let finished = finished.and_then(|child| {
            let confined = command.confined.after_exec(&child, slot.as_ref());
            confined.map_err(|errno| Failure::new(Stage::OomScoreAdj, errno))?;
            Ok(child)
        });
        let error = match finished {
            Ok(child) => return Ok(Landed { child, slot }),
            Err(failed) => failed.of(&command, slot.as_ref()),
        };
        Err(Box::new(Aborted {
            command,
            slot,
            error,
        }))
    }

    /// Tries a start again if it has failed in its cgroup: someone has removed that, or the last
    /// instance has left controllers enabled in it, or the kernel has killed the child at birth.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub(crate) fn retry(
        &mut self,
        aborted: Box<Aborted>,
        mut record: Option<&mut Record<'_>>,
    ) -> Result<Landed, SpawnError> {
        if !aborted.is_of_cgroup() {
            return Err(aborted.error);
        }
        let mut start = |spawner: &mut Self, aborted: Aborted| {
            let flight = spawner.begin(aborted.command, aborted.slot, record.as_deref_mut());
            spawner.finish(flight)
        };
        let is_fresh = aborted
            .slot
            .as_ref()
            .is_some_and(|slot| slot.reset().is_ok());
        let aborted = match is_fresh {
            true => match start(self, *aborted) {
                Ok(landed) => return Ok(landed),
                Err(aborted) => aborted,
            },
            false => aborted,
        };
        if aborted.error.errno != UNBORN {
            return Err(aborted.error);
        }
        // Processes are left in it, or it is our own cgroup that was killed once.
        self.into_cgroup.set(false);
        let result = start(self, *aborted);
        self.into_cgroup.set(!(is_fresh && result.is_ok()));
        result.map_err(|aborted| aborted.error)
    }

    /// Whether processes can be started in this cgroup: tries it with one that ends at once.
    ///
    /// # Errors
    /// The kernel's: EACCES, EBUSY, EOPNOTSUPP, ENOENT …; [`UNBORN`].
    pub(crate) fn try_cgroup(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        let begun = self.clone_recorded(None, Some(directory), None);
        let child = begun.and_then(|begun| Ok(self.wait_for_exec(begun, true, self.wait_steps)?));
        let child = child.map_err(|failed| match failed {
            Failed::Start(failure) => io::Error::from_raw_os_error(failure.errno),
            Failed::Record(error) => error,
        })?;
        pidfd::reap_blocking(child.pidfd.as_fd()).map(drop)
    }

    /// Makes a child on a stack of its own; with no command, one that just ends.
    fn clone_recorded(
        &mut self,
        command: Option<&Arc<Prepared>>,
        cgroup: Option<BorrowedFd<'_>>,
        record: Option<&mut Record<'_>>,
    ) -> Result<Begun, Failed> {
        let stack = match self.stacks.pop() {
            Some(stack) => stack,
            None => Stack::new().map_err(|error| {
                Failure::new(Stage::Fork, error.raw_os_error().unwrap_or(libc::ENOMEM))
            })?,
        };
        // The child is in our PID namespace, so it sees us under the pid that we have there.
        let agent = record.as_ref().map_or(0, |_| process::id());
        stack.shared().hold(agent);
        self.begun += 1;
        Sharing::of_process().begin();
        let old_mask = sys::set_signal_mask(u64::MAX);
        let made = self.clone(&stack, command.map(Arc::as_ref), cgroup);
        let result = match made {
            Ok((child, members)) => {
                let begun = Begun {
                    child,
                    stack: ManuallyDrop::new(stack),
                    command: ManuallyDrop::new(command.cloned()),
                    _members: members,
                };
                match record {
                    Some(record) => self.record(begun, record),
                    None => Ok(begun),
                }
            }
            Err(failure) => {
                self.left(Some(stack));
                Err(failure.into())
            }
        };
        sys::set_signal_mask(old_mask);
        result
    }

    /// No child is on this stack any more; `None`: nobody knows when its child will leave it.
    fn left(&mut self, stack: Option<Stack>) {
        self.stacks.extend(stack);
        self.begun = self.begun.saturating_sub(1);
        Sharing::of_process().end();
    }

    /// Makes the child, which begins to run at once.
    fn clone(
        &self,
        stack: &Stack,
        command: Option<&Prepared>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(Child, Option<OwnedFd>), Failure> {
        if cgroup.is_some() && !self.into_cgroup.get() {
            return clone_by_the_older_call(stack, command, cgroup);
        }
        if self.clone3.get() {
            let mut args = CloneArgs {
                flags: CLONE_CLEAR_SIGHAND,
                ..CloneArgs::default()
            };
            if let Some(directory) = cgroup {
                args.flags |= CLONE_INTO_CGROUP;
                args.cgroup = u64::try_from(directory.as_raw_fd()).unwrap_or(u64::MAX);
            }
            stack.shared().inherit(self.ignored);
            let stage = match clone_by(stack, sys::clone3, args, command, -1) {
                Ok(child) => return Ok((child, None)),
                // Flags that this kernel lacks, or a seccomp filter.
                Err(libc::ENOSYS | libc::EINVAL | libc::E2BIG | libc::EPERM) => None,
                Err(errno @ (libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)) => {
                    Some((Stage::Fork, errno))
                }
                Err(errno) if cgroup.is_some() => Some((Stage::Cgroup, errno)),
                Err(errno) => Some((Stage::Fork, errno)),
            };
            if let Some((stage, errno)) = stage {
                return Err(Failure::new(stage, errno));
            }
        }
        let made = clone_by_the_older_call(stack, command, cgroup)?;
        // It works where clone3 did not: no need to ask that again.
        self.clone3.set(false);
        Ok(made)
    }

    /// Has the child recorded and lets it go on, or else ends it.
    fn record(&mut self, begun: Begun, record: &mut Record<'_>) -> Result<Begun, Failed> {
        let child = &begun.child;
        // Unwinding would leave a child on the stack, with all that it reads gone.
        let recorded = AssertUnwindSafe(|| record(child.pid, child.start_time_ns));
        let error = match panic::catch_unwind(recorded) {
            Ok(Ok(())) => {
                begun.stack.shared().give_go_ahead();
                return Ok(begun);
            }
            Ok(Err(error)) => error,
            Err(payload) => {
                // Its drop might unwind as well.
                mem::forget(payload);
                io::Error::from_raw_os_error(libc::ECANCELED)
            }
        };
        self.end(begun);
        Err(Failed::Record(error))
    }

    /// Waits until the child has left the shared memory; reaps it if it has failed.
    fn wait_for_exec(
        &mut self,
        begun: Begun,
        in_cgroup: bool,
        steps: u32,
    ) -> Result<Child, Failure> {
        let old_mask = sys::set_signal_mask(u64::MAX);
        let result = self.wait_unsignalled(begun, in_cgroup, steps);
        sys::set_signal_mask(old_mask);
        result
    }

    fn wait_unsignalled(
        &mut self,
        begun: Begun,
        in_cgroup: bool,
        steps: u32,
    ) -> Result<Child, Failure> {
        for _ in 0..steps {
            progress::count();
            let shared = begun.stack.shared();
            if shared.wait(WAIT_STEP_MS) {
                let failure = match shared.failure() {
                    None if in_cgroup && shared.is_unborn() => {
                        Some(Failure::new(Stage::Cgroup, UNBORN))
                    }
                    failure => failure,
                };
                let child = self.landed(begun);
                return match failure {
                    None => Ok(child),
                    Some(failure) => {
                        let _ = pidfd::reap_blocking(child.pidfd.as_fd());
                        Err(failure)
                    }
                };
            }
            if !trace::let_go_on(begun.child.pid)
                && let Some(cont) = Signal::from_number(libc::SIGCONT)
            {
                let _ = signal::send(begun.child.pidfd.as_fd(), cont);
            }
        }
        let late = begun.stack.shared().progress(libc::ETIMEDOUT);
        self.end(begun);
        Err(late)
    }

    /// The child has left the shared memory: what it was on serves the next one.
    fn landed(&mut self, begun: Begun) -> Child {
        let Begun {
            child,
            stack,
            command,
            ..
        } = begun;
        drop(ManuallyDrop::into_inner(command));
        self.left(Some(ManuallyDrop::into_inner(stack)));
        child
    }

    /// Kills a child that shares our memory, and waits until it does not.
    fn end(&mut self, begun: Begun) {
        let _ = signal::send(begun.child.pidfd.as_fd(), Signal::KILL);
        self.let_go(begun, WAIT_STEP_MS * 20);
    }

    /// Reaps a child that was killed, and waits so many milliseconds at most until it does not share our
    /// memory any more.
    fn let_go(&mut self, begun: Begun, milliseconds: u32) {
        if begun.stack.shared().wait(milliseconds) {
            let child = self.landed(begun);
            let _ = pidfd::reap_blocking(child.pidfd.as_fd());
        } else {
            // It hangs in the kernel, which will clear `running` one day: never free what it is on.
            self.left(None);
        }
    }
}

/// Notes down a child, told by pid and start time.
pub(crate) type Record<'a> = dyn FnMut(u32, u64) -> io::Result<()> + 'a;

/// `sys::clone3` or `sys::clone`.
type CloneCall = unsafe fn(&CloneArgs, sys::EntryPoint, *const c_void) -> Result<usize, Errno>;

/// A start that has begun: see [`Spawner::begin`].
#[derive(Debug)]
#[must_use = "each has to be finished"]
pub(crate) struct Flight {
    command: Arc<Prepared>,
    slot: Option<Slot>,
    begun: Result<Begun, Failed>,
    /// Its process was killed, for having taken too long at this.
    given_up: Option<Failure>,
}

/// A start that has come to its end.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) child: Child,
    /// The cgroup that it is in.
    pub(crate) slot: Option<Slot>,
}

/// A start that has failed.
#[derive(Debug)]
pub(crate) struct Aborted {
    command: Arc<Prepared>,
    slot: Option<Slot>,
    pub(crate) error: SpawnError,
}

impl Aborted {
    /// Whether [`Spawner::retry`] may help.
    pub(crate) fn is_of_cgroup(&self) -> bool {
        self.error.stage == Stage::Cgroup && self.slot.is_some()
    }

    /// What was to be started.
    pub(crate) fn command(&self) -> &Arc<Prepared> {
        &self.command
    }
}

impl Flight {
    /// The process's descriptor, if there is a process.
    pub(crate) fn pidfd(&self) -> Option<&OwnedFd> {
        self.begun.as_ref().ok().map(|begun| &begun.child.pidfd)
    }

    /// Its process ID, if there is a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.begun.as_ref().ok().map(|begun| begun.child.pid)
    }

    /// Whether it has come to its end, so that [`Spawner::finish`] does not wait; `patience`: how long to
    /// wait for that, to the millisecond.
    pub(crate) fn has_landed(&self, patience: Duration) -> bool {
        let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        let begun = self.begun.as_ref();
        begun.map_or(true, |begun| begun.stack.shared().wait(milliseconds))
    }

    /// Whether it has come to its end, and its process is what was to be started.
    pub(crate) fn has_become_its_program(&self) -> bool {
        self.begun.as_ref().is_ok_and(|begun| {
            let shared = begun.stack.shared();
            let was_killed_at_birth = || self.slot.is_some() && shared.is_unborn();
            shared.wait(0) && shared.failure().is_none() && !was_killed_at_birth()
        })
    }

    /// Continues a process that its new user may have stopped on the way.
    pub(crate) fn prod(&self) {
        if let (Some(pidfd), Some(cont)) = (self.pidfd(), Signal::from_number(libc::SIGCONT)) {
            let _ = signal::send(pidfd.as_fd(), cont);
        }
    }

    /// Gives it up: kills its process, and waits for nothing. [`Spawner::finish`] says then what took it too
    /// long, and does not wait either: a process that cannot even be killed now is left as an orphan.
    pub(crate) fn give_up(&mut self) {
        if let Ok(begun) = &self.begun
            && self.given_up.is_none()
        {
            self.given_up = Some(begun.stack.shared().progress(libc::ETIMEDOUT));
            let _ = signal::send(begun.child.pidfd.as_fd(), Signal::KILL);
        }
    }
}

/// A child on its way to exec. If the value goes before that has been waited for, stack and command
/// stay: the child may use them.
#[derive(Debug)]
struct Begun {
    child: Child,
    stack: ManuallyDrop<Stack>,
    command: ManuallyDrop<Option<Arc<Prepared>>>,
    /// The child writes to it by number, in the table that it shares with us for a moment.
    _members: Option<OwnedFd>,
}

/// Why there is no child.
#[derive(Debug)]
enum Failed {
    Start(Failure),
    /// It could not be recorded.
    Record(io::Error),
}

impl Failed {
    /// For people.
    fn of(self, command: &Prepared, slot: Option<&Slot>) -> SpawnError {
        match self {
            Self::Start(failure) => {
                command.error_in(slot, failure.stage, failure.detail, failure.errno)
            }
            Self::Record(error) => SpawnError {
                stage: Stage::Record,
                errno: error.raw_os_error().unwrap_or(libc::EIO),
                message: format!(
                    "cannot record the new process: {} ({})",
                    prepared::in_words(&error),
                    Stage::Record
                ),
            },
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Start(failure)
    }
}

fn clone_by_the_older_call(
    stack: &Stack,
    command: Option<&Prepared>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<(Child, Option<OwnedFd>), Failure> {
    let members = match cgroup.map(open_members) {
        None => None,
        Some(Ok(members)) => Some(members),
        Some(Err(errno)) => return Err(Failure::new(Stage::Cgroup, errno as i32)),
    };
    let number = members.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    stack.shared().inherit(u64::MAX);
    let child = clone_by(stack, sys::clone, CloneArgs::default(), command, number)
        .map_err(|errno| Failure::new(Stage::Fork, errno))?;
    Ok((child, members))
}

/// Fills in what both calls have in common. `members`: the `cgroup.procs` that the child
/// writes itself into, or -1.
fn clone_by(
    stack: &Stack,
    call: CloneCall,
    mut args: CloneArgs,
    command: Option<&Prepared>,
    members: i32,
) -> Result<Child, Errno> {
    let shared = stack.shared();
    shared.begin(command, members);
    let mut pidfd: i32 = -1;
    let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::CLONE_CHILD_CLEARTID;
    args.flags |= u64::from(flags.cast_unsigned());
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    args.pidfd = &raw mut pidfd as u64;
    args.child_tid = shared.running_address();
    (args.stack, args.stack_size) = stack.extent();
    let before = proc::since_boot_ns();
    // SAFETY: no other child is on the stack: it was taken from the spawner's, and comes back when
    // the child has left this memory, or never. Until then the caller keeps stack and command in
    // `ManuallyDrop`, so that neither is freed whatever becomes of the value; nothing that is called
    // before unwinds (`record` catches that). All signals are blocked, so no handler of ours runs
    // in the child.
    let pid = unsafe { call(&args, child::run, ptr::from_ref(shared).cast::<c_void>()) }?;
    let after = proc::since_boot_ns();
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = u32::try_from(pid).map_err(|_| libc::EIO)?;
    Ok(Child {
        pid,
        pidfd,
        start_time_ns: start_time_between(pid, before, after),
    })
}

fn open_members(cgroup: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    nix::fcntl::openat(
        cgroup,
        "cgroup.procs",
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// The start time of a process made between two moments: known without asking `/proc` unless a
/// tick has passed between them.
///
/// The kernel takes it from the same clock, and `/proc` cuts it down to ticks.
/// `copy_process` in <https://github.com/torvalds/linux/blob/v5.10/kernel/fork.c>, `do_task_stat` in fs/proc/array.c.
fn start_time_between(pid: u32, before_ns: u64, after_ns: u64) -> u64 {
    let tick = before_ns / TICK_NS;
    if tick == after_ns / TICK_NS {
        return tick * TICK_NS;
    }
    proc::start_time_ns(pid).unwrap_or(tick * TICK_NS)
}

fn is_dumpable() -> bool {
    nix::sys::prctl::get_dumpable().unwrap_or(false)
}

/// Without `close_range` a child keeps what is not marked close-on-exec. All of the agent's own
/// is marked; what init has handed down may not be.
fn close_stray_fds_on_exec() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    for entry in entries.flatten() {
        let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
        if let Some(fd @ 3..) = number {
            // SAFETY: marks a descriptor, which changes it for nobody in this process; one that
            // is closed meanwhile is an error, and ignored.
            let _ = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

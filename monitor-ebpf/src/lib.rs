//! The ABI: records, map keys and read-only globals shared by the kernel programs and user space.
//!
//! Fixed layouts only: no dependency, no behaviour. Sizes are asserted, so that a change of layout
//! is a change of [`ABI_VERSION`] too.
#![cfg_attr(target_arch = "bpf", no_std)]

use core::mem::size_of;

/// Counted up with every change of a record, a map or a global in this file.
pub const ABI_VERSION: u32 = 7;

/// Size of a process's name in the kernel, its terminating NUL included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// Nanoseconds in one tick of `/proc/PID/stat`'s start time (`USER_HZ` is 100 everywhere).
pub const TICK_NS: u64 = 10_000_000;

/// One process's exit, as the exit program writes it to the ring.
///
/// Times of day are on `CLOCK_BOOTTIME`, all times in nanoseconds. Pids are those of the observer's
/// PID namespace unless named otherwise. What the kernel does not have is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    /// When the process started.
    pub start_time_ns: u64,
    /// When its exit became final.
    pub exit_time_ns: u64,
    /// ID of its cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// [`WatchEntry::service`] of the entry that this record took out, or [`Tree::service`]; else 0.
    pub service: u64,
    /// `attempt` of the same.
    pub attempt: u64,
    /// Time on a CPU in user mode, of all its threads, as sampled.
    pub user_time_ns: u64,
    /// The same in kernel mode.
    pub system_time_ns: u64,
    /// Time on a CPU all told, exact: the sum that the two above are shares of.
    pub run_time_ns: u64,
    /// The most memory that was resident, in pages.
    pub max_rss_pages: u64,
    /// Bytes that were fetched from storage.
    pub read_bytes: u64,
    /// Bytes that were sent to storage.
    pub written_bytes: u64,
    /// Of a victim of the out-of-memory killer: its address space, in pages.
    pub oom_total_vm_pages: u64,
    /// The same: its anonymous memory, in pages.
    pub oom_anon_pages: u64,
    /// The signal that ended it. Its [`signal`](SentSignal::signal) is 0 where none did, or where
    /// the kernel program has not seen it.
    pub sent: SentSignal,
    /// The last signal before that by which another process asked it to end, in the same way.
    pub asked: SentSignal,
    /// Process ID.
    pub pid: u32,
    /// Process ID in the initial PID namespace.
    pub host_pid: u32,
    /// The parent's process ID; 0 if the parent is outside the observer's PID namespace.
    pub parent_pid: u32,
    /// Real user ID, in the initial user namespace.
    pub uid: u32,
    /// As `wait(2)` returns it.
    pub wait_status: u32,
    /// `EXIT_…`
    pub flags: u32,
    /// Threads when the first of them went; 0 if the process was not in the watch map.
    pub threads: u32,
    /// Of a victim of the out-of-memory killer: its `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: i32,
    /// The process's name, NUL-terminated: the name of its leading thread.
    pub comm: [u8; COMM_LEN],
    /// With [`EXIT_CHILD`]: so many of the same tree before it had no record.
    pub left_out: u64,
}

/// Flag of [`ExitRecord`]: the process was in the watch map, and this record took it out.
pub const EXIT_WATCHED: u32 = 1;
/// Flag of [`ExitRecord`]: the out-of-memory killer chose it (`signal->oom_mm`).
pub const EXIT_OOM_VICTIM: u32 = 2;
/// Flag of [`ExitRecord`]: the `oom_…` figures are those of the kill.
pub const EXIT_OOM_FIGURES: u32 = 4;
/// Flag of [`ExitRecord`]: its last thread was in seccomp's strict mode, or ended by seccomp.
pub const EXIT_SECCOMP: u32 = 8;
/// Flag of [`ExitRecord`]: the kernel counts bytes read and written.
pub const EXIT_IO_COUNTED: u32 = 16;
/// Flag of [`ExitRecord`]: it was no service's main process, but in the tree of one, and a signal
/// ended it.
pub const EXIT_CHILD: u32 = 32;

const _: () = assert!(size_of::<ExitRecord>() == 352);

/// A signal as the kernel accepted it for a process, and who sent it.
///
/// Facts only, as `signal_generate` shows them; what they mean is user space's to say.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentSignal {
    /// When, on `CLOCK_BOOTTIME`, in nanoseconds.
    pub time_ns: u64,
    /// When the sender started, on the same clock.
    pub sender_start_time_ns: u64,
    /// ID of the sender's cgroup in the v2 hierarchy.
    pub sender_cgroup_id: u64,
    /// `si_addr`, or whatever else is in its place; 0 without a `siginfo`.
    pub address: u64,
    /// The signal's number.
    pub signal: u32,
    /// `si_code`.
    pub code: i32,
    /// `SENT_…`
    pub flags: u32,
    /// The number of the system call that the sender was in, by the kernel's own table;
    /// [`SYSCALL_UNKNOWN`], or [`SYSCALL_NONE`].
    pub syscall: i32,
    /// The sender's process ID; 0 if it is outside the observer's PID namespace.
    pub sender_pid: u32,
    /// The same in the initial PID namespace.
    pub sender_host_pid: u32,
    /// The sender's real user ID, in the initial user namespace.
    pub sender_uid: u32,
    /// The process ID of the sender's parent, as `sender_pid`.
    pub sender_parent_pid: u32,
    /// The sender's name: that of its leading thread.
    pub sender_comm: [u8; COMM_LEN],
    /// The name of the sender's parent.
    pub sender_parent_comm: [u8; COMM_LEN],
}

/// In place of a system call's number: that is not known.
pub const SYSCALL_UNKNOWN: i32 = -1;
/// In place of a system call's number: the sender was in none, when it was interrupted.
pub const SYSCALL_NONE: i32 = -2;

/// Flag of [`SentSignal`]: sent by the kernel in the name of the sender (`SEND_SIG_NOINFO`).
pub const SENT_WITHOUT_INFO: u32 = 1;
/// Flag of [`SentSignal`]: sent by the kernel itself (`SEND_SIG_PRIV`): the sender is whoever ran.
pub const SENT_BY_KERNEL: u32 = 2;
/// Flag of [`SentSignal`]: to the process, not to one of its threads.
pub const SENT_TO_GROUP: u32 = 4;
/// Flag of [`SentSignal`]: the process sent it itself.
pub const SENT_BY_ITSELF: u32 = 8;
/// Flag of [`SentSignal`]: the sender is in the same session.
pub const SENT_IN_SESSION: u32 = 16;
/// Flag of [`SentSignal`]: the sender was exiting (`PF_EXITING`).
pub const SENT_BY_EXITING: u32 = 32;
/// Flag of [`SentSignal`]: it is the one that the process asked for at its parent's death.
pub const SENT_PARENT_DEATH: u32 = 64;
/// Flag of [`SentSignal`]: the process had a limit on its time on the CPU, and none on that under
/// real-time scheduling, at which it is sent the same.
pub const SENT_CPU_LIMITED: u32 = 128;
/// Flag of [`SentSignal`]: the sender was PID 1 of its own PID namespace, not of the initial one.
pub const SENT_BY_NAMESPACE_INIT: u32 = 256;
/// Flag of [`SentSignal`]: another signal of its number came before, which may have been waiting
/// still, and have been taken in its place.
pub const SENT_AMBIGUOUS: u32 = 512;
/// Flag of [`SentSignal`]: the sender was a thread that ended, and its process lived on.
pub const SENT_BY_ENDED_THREAD: u32 = 1024;
/// Flag of [`SentSignal`]: by the out-of-memory killer, for the process has its memory in common with
/// the one that was chosen, whose process ID in the initial PID namespace is the signal's
/// [`address`](SentSignal::address).
pub const SENT_FOR_SHARED_MEMORY: u32 = 2048;

/// `SIGRTMIN` as the kernel counts: signals from here on queue, and the first is taken first.
pub const FIRST_REAL_TIME: u32 = 32;

const _: () = assert!(size_of::<SentSignal>() == 96);

impl SentSignal {
    /// No signal.
    pub const NONE: Self = Self {
        time_ns: 0,
        sender_start_time_ns: 0,
        sender_cgroup_id: 0,
        address: 0,
        signal: 0,
        code: 0,
        flags: 0,
        syscall: 0,
        sender_pid: 0,
        sender_host_pid: 0,
        sender_uid: 0,
        sender_parent_pid: 0,
        sender_comm: [0; COMM_LEN],
        sender_parent_comm: [0; COMM_LEN],
    };
}

/// Value of the signals map, of a process that has been sent a signal that may end it; the key is
/// its pid in the initial PID namespace, as a `u32`.
///
/// The last one of each signal is kept, of the latest [`SIGNALS_KEPT`] signals, and those that the
/// process sent itself apart: one that is blocked may end the process after others have come, and
/// one that is handled may be raised again.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentSignals {
    /// When the process started, on `CLOCK_BOOTTIME`: whatever else had its pid before.
    pub start_time_ns: u64,
    /// Of a victim of the out-of-memory killer, as in [`ExitRecord`].
    pub oom_total_vm_pages: u64,
    /// The same.
    pub oom_anon_pages: u64,
    /// The same.
    pub oom_score_adj: i32,
    /// 1: the three above are figures.
    pub oom: u32,
    /// In no order; free ones have no time.
    pub sent: [SentSignal; SIGNALS_KEPT],
}

/// So many signals of a process are kept.
pub const SIGNALS_KEPT: usize = 4;

const _: () = assert!(size_of::<SentSignals>() == 32 + SIGNALS_KEPT * 96);

impl ExitRecord {
    /// Of nothing.
    pub const NONE: Self = Self {
        start_time_ns: 0,
        exit_time_ns: 0,
        cgroup_id: 0,
        service: 0,
        attempt: 0,
        user_time_ns: 0,
        system_time_ns: 0,
        run_time_ns: 0,
        max_rss_pages: 0,
        read_bytes: 0,
        written_bytes: 0,
        oom_total_vm_pages: 0,
        oom_anon_pages: 0,
        sent: SentSignal::NONE,
        asked: SentSignal::NONE,
        pid: 0,
        host_pid: 0,
        parent_pid: 0,
        uid: 0,
        wait_status: 0,
        flags: 0,
        threads: 0,
        oom_score_adj: 0,
        comm: [0; COMM_LEN],
        left_out: 0,
    };
}

impl SentSignals {
    /// Of a process that has been sent nothing.
    pub const NONE: Self = Self {
        start_time_ns: 0,
        oom_total_vm_pages: 0,
        oom_anon_pages: 0,
        oom_score_adj: 0,
        oom: 0,
        sent: [SentSignal::NONE; SIGNALS_KEPT],
    };
}

/// Which process it was, beside its numbers: read in the kernel at the moment of the death, or of the
/// signal, as all of it is gone soon after.
///
/// Where the kernel has let go of the process's memory by then, or lacks what is read, the lengths
/// are 0. Bytes beyond the lengths mean nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Details {
    /// Names of its cgroup in the v2 hierarchy and of those above it, the innermost first, each with a
    /// NUL; what did not fit is missing at the end.
    pub cgroup: [u8; CGROUP_BYTES],
    /// Names of its executable file and of the directories above it, likewise.
    pub exe: [u8; EXE_BYTES],
    /// Its arguments, each with a NUL, as they were in its memory.
    pub argv: [u8; ARGV_BYTES],
    /// Its parent, the parent's parent and so on: pids in the initial PID namespace. 0 for none.
    pub ancestor_pids: [u32; ANCESTORS],
    /// Their names.
    pub ancestor_comms: [[u8; COMM_LEN]; ANCESTORS],
    /// Name of its terminal, such as `pts/1`; empty if it has none.
    pub tty: [u8; TTY_BYTES],
    /// Where its memory was, to tell one program from another in one process. Never told.
    pub memory: u64,
    /// The user that logged in (`loginuid` of the audit system); `u32::MAX` if nobody did.
    pub login_uid: u32,
    /// The session of that login; `u32::MAX` if there is none.
    pub login_session: u32,
    /// Bytes in `cgroup`.
    pub cgroup_len: u32,
    /// Bytes in `exe`.
    pub exe_len: u32,
    /// Bytes of all its arguments; at most [`ARGV_BYTES`] of them are in `argv`.
    pub argv_len: u32,
    /// [`CUT_CGROUP`], [`CUT_EXE`]: names are missing, or all of them.
    pub cut: u32,
}

/// Bytes of names of a cgroup and of those above it.
pub const CGROUP_BYTES: usize = 512;
/// Bytes of names of a file and of the directories above it.
pub const EXE_BYTES: usize = 256;
/// Bytes of arguments.
pub const ARGV_BYTES: usize = 256;
/// Ancestors that are named.
pub const ANCESTORS: usize = 4;
/// Bytes of a terminal's name, its NUL included.
pub const TTY_BYTES: usize = 16;
/// Flag of [`Details::cut`]: `cgroup` lacks names.
pub const CUT_CGROUP: u32 = 1;
/// Flag of [`Details::cut`]: `exe` lacks names.
pub const CUT_EXE: u32 = 2;

const _: () = assert!(size_of::<Details>() == 1152);

impl Details {
    /// Of nobody.
    pub const NONE: Self = Self {
        cgroup: [0; CGROUP_BYTES],
        exe: [0; EXE_BYTES],
        argv: [0; ARGV_BYTES],
        ancestor_pids: [0; ANCESTORS],
        ancestor_comms: [[0; COMM_LEN]; ANCESTORS],
        tty: [0; TTY_BYTES],
        memory: 0,
        login_uid: u32::MAX,
        login_session: u32::MAX,
        cgroup_len: 0,
        exe_len: 0,
        argv_len: 0,
        cut: CUT_CGROUP | CUT_EXE,
    };
}

/// A death that a recorder keeps, of a process that had been sent no signal.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeathRecord {
    /// The exit.
    pub exit: ExitRecord,
    /// Of the dead process.
    pub details: Details,
}

/// A death that a recorder keeps, of a process that had been sent signals.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalledDeathRecord {
    /// The exit.
    pub exit: ExitRecord,
    /// Of the dead process.
    pub details: Details,
    /// Of the sender of [`ExitRecord::sent`].
    pub sender: Details,
    /// Of the sender of [`ExitRecord::asked`].
    pub asker: Details,
}

const _: () = assert!(size_of::<DeathRecord>() == 352 + 1152);
const _: () = assert!(size_of::<SignalledDeathRecord>() == 352 + 3 * 1152);

/// Key of the senders map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderKey {
    /// When the process started, on `CLOCK_BOOTTIME`.
    pub start_time_ns: u64,
    /// Process ID in the initial PID namespace.
    pub host_pid: u64,
}

/// Value of the watch map; the key is the pid in the observer's PID namespace, as a `u32`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchEntry {
    /// Start time in ticks since boot, as in `/proc/PID/stat`: tells the process from another one
    /// that has its pid.
    pub start_ticks: u64,
    /// [`WATCHING`] or [`LOST`].
    pub state: u64,
    /// The service that it is an instance of, as the agent numbers them; 0 for none.
    pub service: u64,
    /// Which start of the service it is.
    pub attempt: u64,
    /// Threads when the first of them went, if more than one.
    pub threads: u64,
}

/// State of a [`WatchEntry`]: the process lives.
pub const WATCHING: u64 = 0;
/// State of a [`WatchEntry`]: the process is gone, and the ring had no room for its record.
pub const LOST: u64 = 1;

const _: () = assert!(size_of::<WatchEntry>() == 40);

impl WatchEntry {
    /// An entry for a process that lives and is no service's.
    pub const fn watching(start_ticks: u64) -> Self {
        Self {
            start_ticks,
            state: WATCHING,
            service: 0,
            attempt: 0,
            threads: 0,
        }
    }

    /// The value as the map holds it.
    pub const fn words(self) -> [u64; 5] {
        [
            self.start_ticks,
            self.state,
            self.service,
            self.attempt,
            self.threads,
        ]
    }

    /// The entry that the map holds as these words.
    pub const fn from_words([start_ticks, state, service, attempt, threads]: [u64; 5]) -> Self {
        Self {
            start_ticks,
            state,
            service,
            attempt,
            threads,
        }
    }
}

/// Value of the trees map: whose processes those in a cgroup are. The key is the cgroup's ID in the v2
/// hierarchy.
///
/// Of processes that are not in the watch map, deaths by a signal are reported while there is such a
/// value, [`CHILDREN_TOLD`] within [`CHILDREN_TIME_NS`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// The service, as [`WatchEntry::service`].
    pub service: u64,
    /// Which start of the service it is.
    pub attempt: u64,
    /// When the first of those ended that `told` counts, on `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// So many have been reported since then.
    pub told: u64,
    /// So many have had no record since the last one that had.
    pub left_out: u64,
}

/// So many of a tree's processes are reported at most, in [`CHILDREN_TIME_NS`].
pub const CHILDREN_TOLD: u64 = 10;
/// In nanoseconds: 10 seconds.
pub const CHILDREN_TIME_NS: u64 = 10_000_000_000;

const _: () = assert!(size_of::<Tree>() == 40);

impl Tree {
    /// Of which nothing has been reported yet.
    pub const fn new(service: u64, attempt: u64) -> Self {
        Self {
            service,
            attempt,
            since_ns: 0,
            told: 0,
            left_out: 0,
        }
    }

    /// The value as the map holds it.
    pub const fn words(self) -> [u64; 5] {
        [
            self.service,
            self.attempt,
            self.since_ns,
            self.told,
            self.left_out,
        ]
    }

    /// The value that the map holds as these words.
    pub const fn from_words([service, attempt, since_ns, told, left_out]: [u64; 5]) -> Self {
        Self {
            service,
            attempt,
            since_ns,
            told,
            left_out,
        }
    }
}

/// The one value of the victim map: the last process that the kernel itself killed. Addresses, which
/// are compared, and never told.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// Of the thread that did it, its `task_struct`.
    pub killer: u64,
    /// Of the victim, its `signal_struct`.
    pub process: u64,
    /// The victim's process ID in the initial PID namespace.
    pub host_pid: u64,
}

const _: () = assert!(size_of::<Victim>() == 24);

/// The one value of the mark map: whose forks are births of which service.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The agent's process ID in its own PID namespace; 0: nobody's.
    pub agent_pid: u64,
    /// The agent's start time in ticks since boot.
    pub agent_start_ticks: u64,
    /// For [`WatchEntry::service`].
    pub service: u64,
    /// For [`WatchEntry::attempt`].
    pub attempt: u64,
}

const _: () = assert!(size_of::<Mark>() == 32);

impl Mark {
    /// Nobody's forks.
    pub const NONE: Self = Self {
        agent_pid: 0,
        agent_start_ticks: 0,
        service: 0,
        attempt: 0,
    };

    /// The value as the map holds it.
    pub const fn words(self) -> [u64; 4] {
        [
            self.agent_pid,
            self.agent_start_ticks,
            self.service,
            self.attempt,
        ]
    }
}

/// The hints map: one bit for each pid modulo [`HINTS`](hints::PIDS), set for every pid in the watch
/// map. Most exits of a host end at a clear bit, at a fraction of the cost of a hash lookup; a bit
/// that is set and need not be costs just that lookup.
///
/// Only one thread ever writes it: the agent's (or that of `watch`), by system calls and by the
/// birth program, which runs in its forks.
pub mod hints {
    /// Pids that have a bit of their own.
    pub const PIDS: u32 = 32_768;
    /// Words of 64 bits.
    pub const WORDS: u32 = PIDS / 64;

    /// The word and the bit in it.
    #[inline(always)]
    pub const fn place(pid: u32) -> (u32, u64) {
        (pid % PIDS / 64, 1 << (pid % 64))
    }
}

/// Words of the lost map.
pub mod losses {
    /// Records that found the ring full, and are lost.
    pub const LOST: u32 = 0;
    /// Records that found the ring full, and are in the spilled map.
    pub const SPILLED: u32 = 1;
    /// How many words there are.
    pub const COUNT: u32 = 2;
}

/// Words of the notes map, which the kernel programs do not read: what an agent leaves for the
/// next one beside the records.
pub mod notes {
    /// Fingerprint of the object and of what it was set to; 0 while it is being set up.
    pub const BUILD: u32 = 0;
    /// Whose it is: a hash of the agent's runtime directory.
    pub const OWNER: u32 = 1;
    /// Lost records that have been told of.
    pub const LOST_TOLD: u32 = 2;
    /// Which of the programs that not every kernel takes are attached, a bit each: those of signals
    /// and of out-of-memory kills, and the exit programs.
    pub const PROGRAMS: u32 = 3;
    /// How many words there are.
    pub const COUNT: u32 = 4;
}

/// Key of the claim map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimKey {
    /// When the process started, on `CLOCK_BOOTTIME`.
    pub start_time_ns: u64,
    /// Process ID in the initial PID namespace.
    pub host_pid: u64,
}

/// Read-only global `OFFSETS`: where the running kernel keeps its fields, in bytes, from its BTF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.real_parent`
    pub task_real_parent: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.exit_code`
    pub task_exit_code: u32,
    /// `task_struct.start_boottime`
    pub task_start_boottime: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `signal_struct.flags`
    pub signal_flags: u32,
    /// `signal_struct.group_exit_code`
    pub signal_group_exit_code: u32,
    /// `signal_struct.pids[PIDTYPE_TGID]`
    pub signal_tgid_pid: u32,
    /// `pid.level`
    pub pid_level: u32,
    /// `pid.numbers`
    pub pid_numbers: u32,
    /// Size of `struct upid`
    pub upid_size: u32,
    /// `upid.nr`
    pub upid_nr: u32,
    /// `upid.ns`
    pub upid_ns: u32,
    /// `pid_namespace.ns.inum`
    pub pid_namespace_inum: u32,
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.utime`
    pub task_utime: u32,
    /// `task_struct.stime`
    pub task_stime: u32,
    /// `task_struct.se.sum_exec_runtime`
    pub task_sum_exec_runtime: u32,
    /// `task_struct.ioac.read_bytes`
    pub task_read_bytes: u32,
    /// `task_struct.ioac.write_bytes`
    pub task_write_bytes: u32,
    /// `task_struct.seccomp.mode`
    pub task_seccomp_mode: u32,
    /// `task_struct.pdeath_signal`
    pub task_pdeath_signal: u32,
    /// `signal_struct.pids[PIDTYPE_SID]`
    pub signal_session_pid: u32,
    /// `signal_struct.nr_threads`
    pub signal_nr_threads: u32,
    /// `signal_struct.utime`
    pub signal_utime: u32,
    /// `signal_struct.stime`
    pub signal_stime: u32,
    /// `signal_struct.sum_sched_runtime`
    pub signal_sum_sched_runtime: u32,
    /// `signal_struct.ioac.read_bytes`
    pub signal_read_bytes: u32,
    /// `signal_struct.ioac.write_bytes`
    pub signal_write_bytes: u32,
    /// `signal_struct.maxrss`
    pub signal_maxrss: u32,
    /// `signal_struct.rlim[RLIMIT_CPU].rlim_cur`
    pub signal_cpu_limit: u32,
    /// `signal_struct.rlim[RLIMIT_RTTIME].rlim_cur`
    pub signal_real_time_limit: u32,
    /// `signal_struct.oom_mm`
    pub signal_oom_mm: u32,
    /// `signal_struct.oom_score_adj`
    pub signal_oom_score_adj: u32,
    /// `mm_struct.total_vm`
    pub mm_total_vm: u32,
    /// `mm_struct.hiwater_rss`
    pub mm_hiwater_rss: u32,
    /// `mm_struct.rss_stat[MM_FILEPAGES].count`
    pub mm_file_pages: u32,
    /// `mm_struct.rss_stat[MM_ANONPAGES].count`
    pub mm_anon_pages: u32,
    /// `mm_struct.rss_stat[MM_SHMEMPAGES].count`
    pub mm_shmem_pages: u32,
    /// `pt_regs.orig_ax`, or the like: the number of the system call; only where the kernel hands
    /// out a task's registers (`bpf_task_pt_regs`)
    pub pt_regs_syscall: u32,
    /// The same, so many bytes below the end of the task's stack; only where it does not
    pub stack_syscall: u32,
    /// `task_struct.stack`
    pub task_stack: u32,
    /// `task_struct.stack_vm_area`
    pub task_stack_area: u32,
    /// `vm_struct.nr_pages`
    pub area_pages: u32,
    /// Of memory, in bytes
    pub page_size: u32,
    /// `trace_event_raw_sched_process_exit.group_dead`
    pub event_group_dead: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `css_set.dfl_cgrp`
    pub css_set_cgroup: u32,
    /// `cgroup.kn`
    pub cgroup_node: u32,
    /// `kernfs_node.id`
    pub node_id: u32,
    /// `mm_struct.arg_start`
    pub mm_arg_start: u32,
    /// `mm_struct.arg_end`
    pub mm_arg_end: u32,
    /// `mm_struct.exe_file`
    pub mm_exe_file: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `file.f_path.mnt`
    pub file_mount: u32,
    /// `dentry.d_parent`
    pub dentry_parent: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `vfsmount.mnt_root`
    pub vfsmount_root: u32,
    /// `mount.mnt`
    pub mount_vfsmount: u32,
    /// `mount.mnt_parent`
    pub mount_parent: u32,
    /// `mount.mnt_mountpoint`
    pub mount_point: u32,
    /// `kernfs_node.name`
    pub node_name: u32,
    /// `kernfs_node.parent`
    pub node_parent: u32,
    /// `task_struct.loginuid`
    pub task_login_uid: u32,
    /// `task_struct.sessionid`
    pub task_login_session: u32,
    /// `signal_struct.tty`
    pub signal_tty: u32,
    /// `tty_struct.name`
    pub tty_name: u32,
    /// `task_struct.sighand`
    pub task_sighand: u32,
    /// `sighand_struct.action[0].sa.sa_handler`
    pub sighand_first: u32,
    /// `sighand_struct.action[1].sa.sa_handler`
    pub sighand_second: u32,
}

/// In place of an offset in [`Offsets`]: the kernel has no such field. Only those from `task_flags`
/// on may be missing.
pub const NO_FIELD: u32 = u32::MAX;

/// How many words [`Offsets`] has.
pub const OFFSET_WORDS: usize = 74;

const _: () = assert!(size_of::<Offsets>() == OFFSET_WORDS * 4);

impl Offsets {
    /// The fields in the order of their declaration, as the object holds them.
    #[allow(clippy::too_many_lines, reason = "a line for each field")]
    pub const fn words(&self) -> [u32; OFFSET_WORDS] {
        [
            self.task_group_leader,
            self.task_real_parent,
            self.task_tgid,
            self.task_exit_code,
            self.task_start_boottime,
            self.task_comm,
            self.task_signal,
            self.signal_live,
            self.signal_flags,
            self.signal_group_exit_code,
            self.signal_tgid_pid,
            self.pid_level,
            self.pid_numbers,
            self.upid_size,
            self.upid_nr,
            self.upid_ns,
            self.pid_namespace_inum,
            self.task_flags,
            self.task_mm,
            self.task_utime,
            self.task_stime,
            self.task_sum_exec_runtime,
            self.task_read_bytes,
            self.task_write_bytes,
            self.task_seccomp_mode,
            self.task_pdeath_signal,
            self.signal_session_pid,
            self.signal_nr_threads,
            self.signal_utime,
            self.signal_stime,
            self.signal_sum_sched_runtime,
            self.signal_read_bytes,
            self.signal_write_bytes,
            self.signal_maxrss,
            self.signal_cpu_limit,
            self.signal_real_time_limit,
            self.signal_oom_mm,
            self.signal_oom_score_adj,
            self.mm_total_vm,
            self.mm_hiwater_rss,
            self.mm_file_pages,
            self.mm_anon_pages,
            self.mm_shmem_pages,
            self.pt_regs_syscall,
            self.stack_syscall,
            self.task_stack,
            self.task_stack_area,
            self.area_pages,
            self.page_size,
            self.event_group_dead,
            self.task_cgroups,
            self.css_set_cgroup,
            self.cgroup_node,
            self.node_id,
            self.mm_arg_start,
            self.mm_arg_end,
            self.mm_exe_file,
            self.file_dentry,
            self.file_mount,
            self.dentry_parent,
            self.dentry_name,
            self.vfsmount_root,
            self.mount_vfsmount,
            self.mount_parent,
            self.mount_point,
            self.node_name,
            self.node_parent,
            self.task_login_uid,
            self.task_login_session,
            self.signal_tty,
            self.tty_name,
            self.task_sighand,
            self.sighand_first,
            self.sighand_second,
        ]
    }
}

/// Read-only global `FILTER`: which exits are reported beside those of watched pids.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Inode number of the observer's PID namespace; 0 for the initial one.
    pub pid_namespace: u32,
    /// 1: every process of the namespace is reported.
    pub all: u32,
    /// 1: processes whose name [`NameMatcher`] accepts are reported.
    pub names: u32,
    /// 1: more than one program may see the same exit, or one program twice, so that whoever
    /// reports a process that is not watched claims it first.
    pub claim: u32,
    /// 1: for an agent. Of processes in the cgroups of the trees map, deaths by a signal are reported
    /// too; and the record of a watched process that finds the ring full is kept in the spilled map.
    pub agent: u32,
    /// Which deaths of the host are reported with all that is known of them: [`KEEP_ABNORMAL`] or
    /// [`KEEP_ALL`], for a recorder, or [`KEEP_WANTED`]. Nothing else is reported then. 0: none are.
    pub keep: u32,
}

/// [`Filter::keep`]: deaths by a signal, and exits with another code than 0 of a process that is
/// the first of its PID namespace, or a child of the first.
pub const KEEP_ABNORMAL: u32 = 1;
/// [`Filter::keep`]: every death.
pub const KEEP_ALL: u32 = 2;
/// [`Filter::keep`]: of all processes, or those with certain names, the deaths that [`Wanted`] says;
/// and those of watched processes whatever their cause.
pub const KEEP_WANTED: u32 = 3;

/// Users, or cgroups, that [`Wanted`] has room for.
pub const MOST_WANTED: usize = 8;

/// Read-only global `WANTED`: which deaths are wanted. Each condition that is given must hold; one that
/// is not given holds. The order of the fields is that of [`Wanted::words`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// 1: anything but exits with 0.
    pub failed: u64,
    /// 1: deaths by a signal in `signals` only.
    pub by_signal: u64,
    /// 1: exits with a code in `codes` only.
    pub by_code: u64,
    /// So many of `uid`; 0: all users.
    pub uids: u64,
    /// So many of `cgroup`; 0: all cgroups.
    pub cgroups: u64,
    /// One bit for each signal's number.
    pub signals: u64,
    /// One bit for each code.
    pub codes: [u64; 4],
    /// Real user IDs.
    pub uid: [u64; MOST_WANTED],
    /// The IDs of cgroups of version 2, which are wanted with those below them.
    pub cgroup: [u64; MOST_WANTED],
    /// How far below the root of the hierarchy each is.
    pub level: [u64; MOST_WANTED],
}

impl Wanted {
    /// The fields in the order of their declaration, as the object holds them.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        let first = [
            self.failed,
            self.by_signal,
            self.by_code,
            self.uids,
            self.cgroups,
            self.signals,
        ];
        let lists = [self.uid, self.cgroup, self.level].into_iter().flatten();
        first.into_iter().chain(self.codes).chain(lists)
    }
}

impl Filter {
    /// The fields in the order of their declaration, as the object holds them.
    pub const fn words(&self) -> [u32; 6] {
        [
            self.pid_namespace,
            self.all,
            self.names,
            self.claim,
            self.agent,
            self.keep,
        ]
    }
}

/// Deepest nesting of PID namespaces (`MAX_PID_NS_LEVEL`).
pub const MAX_PID_NAMESPACE_LEVEL: u32 = 32;

/// Words of states in a [`NameMatcher`]. No pattern spans two words.
pub const NAME_WORDS: usize = 4;

/// Read-only global `NAMES`: name patterns as one nondeterministic automaton, run over a name's
/// bytes with a few bit operations for each (the Shift-And algorithm).
///
/// State *i* set means that the pattern atoms before *i* have been matched. On byte *c*, every
/// state whose atom accepts *c* moves on to the next one, and a state with a `*` before its atom
/// stays.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameMatcher {
    /// States before the first byte.
    pub start: [u64; NAME_WORDS],
    /// States that stay set whatever the byte: a `*`.
    pub stay: [u64; NAME_WORDS],
    /// States that mean a match after the last byte.
    pub accept: [u64; NAME_WORDS],
    /// For each byte, the states whose atom accepts it.
    pub atoms: [[u64; NAME_WORDS]; 256],
}

impl NameMatcher {
    /// The matcher that accepts no name.
    pub const NONE: Self = Self {
        start: [0; NAME_WORDS],
        stay: [0; NAME_WORDS],
        accept: [0; NAME_WORDS],
        atoms: [[0; NAME_WORDS]; 256],
    };

    /// The fields in the order of their declaration, as the object holds them.
    pub fn rows(&self) -> [[u64; NAME_WORDS]; 259] {
        let mut rows = [[0; NAME_WORDS]; 259];
        rows[0] = self.start;
        rows[1] = self.stay;
        rows[2] = self.accept;
        rows[3..].copy_from_slice(&self.atoms);
        rows
    }

    /// Whether one of the patterns matches the name up to its NUL.
    #[inline(always)]
    pub fn matches(&self, name: &[u8; COMM_LEN]) -> bool {
        let mut states = self.start;
        for &byte in name {
            if byte == 0 {
                break;
            }
            let atoms = &self.atoms[byte as usize];
            for ((state, atoms), stay) in states.iter_mut().zip(atoms).zip(&self.stay) {
                *state = (*state & atoms) << 1 | *state & stay;
            }
        }
        let mut matched = 0;
        for (state, accept) in states.iter().zip(&self.accept) {
            matched |= state & accept;
        }
        matched != 0
    }
}

/// Names of the maps in the object.
pub mod maps {
    /// Ring buffer of records.
    pub const EVENTS: &str = "EVENTS";
    /// Hash of pid to [`WatchEntry`](super::WatchEntry).
    pub const WATCHED: &str = "WATCHED";
    /// Entries of the watch map.
    pub const WATCHED_ENTRIES: u32 = 16_384;
    /// Array of [`losses`](super::losses), to be mapped.
    pub const LOST: &str = "LOST";
    /// Hash of pid to [`ExitRecord`](super::ExitRecord): those that found the ring full, and are kept
    /// until they are told. A record is whole when its process is in the watch map no more.
    pub const SPILLED: &str = "SPILLED";
    /// Array with one [`Mark`](super::Mark).
    pub const MARK: &str = "MARK";
    /// Hash of cgroup ID to [`Tree`](super::Tree).
    pub const TREES: &str = "TREES";
    /// Entries of the trees map, which takes memory for those that are in use: two for each of the
    /// watch map, as an instance may start while another one ends.
    pub const TREES_ENTRIES: u32 = 2 * WATCHED_ENTRIES;
    /// Array with one [`Victim`](super::Victim), for the signal program alone.
    pub const VICTIM: &str = "VICTIM";
    /// Array of [`hints`](super::hints).
    pub const HINTS: &str = "HINTS";
    /// Array of bits as in [`hints`](super::hints), set for pids in the cgroups of the trees map that
    /// have been sent a signal that may end them. The kernel programs alone use it.
    pub const SIGNALLED: &str = "SIGNALLED";
    /// Array of [`notes`](super::notes).
    pub const NOTES: &str = "NOTES";
    /// Hash of pid to [`SentSignals`](super::SentSignals).
    pub const SIGNALS: &str = "SIGNALS";
    /// Entries of the signals map, which takes memory for those that are in use.
    pub const SIGNALS_ENTRIES: u32 = 16_384;
    /// LRU hash of [`SenderKey`](super::SenderKey) to [`Details`](super::Details): who has sent signals
    /// lately. For recorders alone.
    pub const SENDERS: &str = "SENDERS";
    /// Entries of the senders map, for a recorder.
    pub const SENDERS_ENTRIES: u32 = 1024;
    /// LRU hash of [`ClaimKey`](super::ClaimKey) to a byte.
    pub const CLAIMED: &str = "CLAIMED";
    /// Entries of the claim map.
    pub const CLAIMED_ENTRIES: u32 = 4096;
}

/// Names of the programs in the object.
pub mod programs {
    /// Exit program for kernels whose tracepoint tells the last thread (6.16 and later).
    pub const EXIT_GROUP_DEAD: &str = "exit_group_dead";
    /// Exit program for the kernels before.
    pub const EXIT_LIVE_ZERO: &str = "exit_live_zero";
    /// Exit program for the kernels before 6.16 that let programs be attached to functions: it
    /// runs before the process's memory goes, as the tracepoint does from 6.16 on.
    pub const EXIT_EARLY: &str = "exit_early";
    /// Exit program that no other run of it can be put off by: for 7.0 and later, where the one
    /// on the tracepoint can be.
    pub const EXIT_EVENT: &str = "exit_event";
    /// Records the births of instances.
    pub const BIRTH: &str = "birth";
    /// Keeps the signals that watched processes are sent.
    pub const SIGNAL: &str = "signal";
    /// Keeps the figures of the out-of-memory killer's victims.
    pub const OOM: &str = "oom";
}

/// Names of the read-only globals in the object.
pub mod globals {
    /// [`Offsets`](super::Offsets)
    pub const OFFSETS: &str = "OFFSETS";
    /// [`Filter`](super::Filter)
    pub const FILTER: &str = "FILTER";
    /// [`NameMatcher`](super::NameMatcher)
    pub const NAMES: &str = "NAMES";
    /// [`Wanted`](super::Wanted)
    pub const WANTED: &str = "WANTED";
}

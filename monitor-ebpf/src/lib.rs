//! The ABI: records, map keys and read-only globals shared by the kernel programs and user space.
//!
//! Fixed layouts only: no dependency, no behaviour. Sizes are asserted, so that a change of layout
//! is a change of [`ABI_VERSION`] too.
#![cfg_attr(target_arch = "bpf", no_std)]

use core::mem::size_of;

/// Counted up with every change of a record, a map or a global in this file.
pub const ABI_VERSION: u32 = 3;

/// Size of a process's name in the kernel, its terminating NUL included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// Nanoseconds in one tick of `/proc/PID/stat`'s start time (`USER_HZ` is 100 everywhere).
pub const TICK_NS: u64 = 10_000_000;

/// One process's exit, as the exit program writes it to the ring.
///
/// Times are on `CLOCK_BOOTTIME`, in nanoseconds. Pids are those of the observer's PID namespace
/// unless named otherwise.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    /// When the process started.
    pub start_time_ns: u64,
    /// When its exit became final.
    pub exit_time_ns: u64,
    /// ID of its cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// [`WatchEntry::service`] of the entry that this record took out, else 0.
    pub service: u64,
    /// [`WatchEntry::attempt`] of the same.
    pub attempt: u64,
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
    /// [`EXIT_WATCHED`].
    pub flags: u32,
    /// The process's name, NUL-terminated: the name of its leading thread.
    pub comm: [u8; COMM_LEN],
}

/// Flag of [`ExitRecord`]: the process was in the watch map, and this record took it out.
pub const EXIT_WATCHED: u32 = 1;

const _: () = assert!(size_of::<ExitRecord>() == 80);

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
}

/// State of a [`WatchEntry`]: the process lives.
pub const WATCHING: u64 = 0;
/// State of a [`WatchEntry`]: the process is gone, and the ring had no room for its record.
pub const LOST: u64 = 1;

const _: () = assert!(size_of::<WatchEntry>() == 32);

impl WatchEntry {
    /// An entry for a process that lives and is no service's.
    pub const fn watching(start_ticks: u64) -> Self {
        Self {
            start_ticks,
            state: WATCHING,
            service: 0,
            attempt: 0,
        }
    }

    /// The value as the map holds it.
    pub const fn words(self) -> [u64; 4] {
        [self.start_ticks, self.state, self.service, self.attempt]
    }

    /// The entry that the map holds as these words.
    pub const fn from_words([start_ticks, state, service, attempt]: [u64; 4]) -> Self {
        Self {
            start_ticks,
            state,
            service,
            attempt,
        }
    }
}

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

/// Words of the notes map, which the kernel programs do not read: what an agent leaves for the
/// next one beside the records.
pub mod notes {
    /// Fingerprint of the object and of what it was set to; 0 while it is being set up.
    pub const BUILD: u32 = 0;
    /// Whose it is: a hash of the agent's runtime directory.
    pub const OWNER: u32 = 1;
    /// Lost records that have been told of.
    pub const LOST_TOLD: u32 = 2;
    /// How many words there are.
    pub const COUNT: u32 = 4;
}

/// Key of the claim map of kernels before 6.16.
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
}

const _: () = assert!(size_of::<Offsets>() == 17 * 4);

impl Offsets {
    /// The fields in the order of their declaration, as the object holds them.
    pub const fn words(&self) -> [u32; 17] {
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
}

impl Filter {
    /// The fields in the order of their declaration, as the object holds them.
    pub const fn words(&self) -> [u32; 3] {
        [self.pid_namespace, self.all, self.names]
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
    /// Per-CPU array with one `u64`: records that found the ring full.
    pub const LOST: &str = "LOST";
    /// Array with one [`Mark`](super::Mark).
    pub const MARK: &str = "MARK";
    /// Array of [`hints`](super::hints).
    pub const HINTS: &str = "HINTS";
    /// Array of [`notes`](super::notes).
    pub const NOTES: &str = "NOTES";
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
    /// Records the births of instances.
    pub const BIRTH: &str = "birth";
}

/// Names of the read-only globals in the object.
pub mod globals {
    /// [`Offsets`](super::Offsets)
    pub const OFFSETS: &str = "OFFSETS";
    /// [`Filter`](super::Filter)
    pub const FILTER: &str = "FILTER";
    /// [`NameMatcher`](super::NameMatcher)
    pub const NAMES: &str = "NAMES";
}

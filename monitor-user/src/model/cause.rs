//! Why an instance ended, in the words of docs/events-json.md.
//!
//! Says nothing of what follows from it: that is the supervisor's.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::profile::Profile;
use super::signal::Signal;

/// Why a process ended, as `wait` would tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It called `exit`, or returned from main.
    Exited {
        /// The exit status, 0 to 255.
        code: u8,
    },
    /// A signal ended it.
    Signaled {
        /// The signal of the wait status.
        signal: Signal,
        /// Whether the kernel wrote a core.
        core_dumped: bool,
        /// What is known of where it came from.
        origin: Origin,
    },
    /// The kernel killed it for lack of memory.
    OomKilled(OomKill),
    /// It is gone, and nothing that saw how is left.
    #[default]
    Unknown,
}

/// Where a signal came from, as far as the kernel told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// By which way; `None` if that is not known.
    #[serde(default)]
    pub(crate) how: Option<How>,
    /// Who sent it; `None` if nobody did, or if that is not known.
    #[serde(default)]
    pub(crate) sender: Option<Sender>,
    /// What the process did to get it.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
}

/// The ways of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// `kill(2)`
    Kill,
    /// `tkill(2)`: to a thread.
    Tkill,
    /// `tgkill(2)`: to a thread. `raise` and `abort` do this.
    Tgkill,
    /// `rt_sigqueueinfo(2)` or the like, `sigqueue(3)`.
    Sigqueue,
    /// `pidfd_send_signal(2)`
    Pidfd,
    /// A write to the `cgroup.kill` of its cgroup, or of one above it.
    CgroupKill,
    /// Its parent died, and it had asked for the signal (`PR_SET_PDEATHSIG`).
    ParentDeath,
    /// The same at the end of the thread of its parent that had forked it. The parent lived on.
    ParentThreadDeath,
    /// It used up its time on the CPU (`RLIMIT_CPU`).
    CpuLimit,
    /// It did something that the processor or the kernel does not allow: see [`Fault`].
    Fault,
    /// It made a system call that seccomp does not allow.
    Seccomp,
    /// PID 1 of its PID namespace ended.
    NamespaceEnd,
    /// The tracer that had asked for it (`PTRACE_O_EXITKILL`) ended.
    TracerEnd,
    /// Somebody pressed the interrupt or quit key of its terminal.
    Terminal,
    /// Its terminal was closed, or its session lost the leader that had one.
    Hangup,
    /// A timer that it had set: `alarm`, `setitimer`, `timer_create`.
    Timer,
    /// It wrote to a pipe or socket that nobody reads.
    BrokenPipe,
    /// It wrote past the largest size of a file that it may write (`RLIMIT_FSIZE`).
    FileSizeLimit,
    /// It had asked for it: `O_ASYNC`, `mq_notify`.
    Notification,
    /// The kernel, for another reason.
    Kernel,
}

/// Who sent a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sender {
    /// Process ID, as the agent's PID namespace has it; 0 if it is outside of that.
    pub(crate) pid: u32,
    /// The same in the initial PID namespace.
    #[serde(default)]
    pub(crate) host_pid: u32,
    /// Start time since boot, in nanoseconds at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: u64,
    /// Real user ID.
    pub(crate) uid: u32,
    /// The sender's name.
    pub(crate) comm: String,
    /// ID of its cgroup in the v2 hierarchy, if that says where it belongs.
    #[serde(default)]
    pub(crate) cgroup_id: Option<u64>,
    /// Its parent, when it sent the signal.
    #[serde(default)]
    pub(crate) parent: Option<Parent>,
    /// Whether it is the process itself.
    #[serde(default)]
    pub(crate) itself: bool,
    /// Whether it is of the process's session, or of the cgroup that is a service's alone.
    #[serde(default)]
    pub(crate) own: bool,
    /// Who it was beside that, if a recorder has kept it.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<Box<Profile>>,
}

impl Sender {
    /// What a recorder has kept of it; nothing where none has.
    pub(crate) fn profile(&self) -> &Profile {
        static NOTHING: LazyLock<Profile> = LazyLock::new(Profile::default);
        self.profile.as_deref().unwrap_or(&NOTHING)
    }
}

/// The parent of a sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parent {
    /// Process ID, as [`Sender::pid`].
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) comm: String,
}

/// What the kernel's `siginfo` tells of a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// `si_code`
    pub(crate) code: i32,
    /// Its name, such as "SEGV_MAPERR", if it has one.
    pub(crate) name: Option<String>,
    /// `si_addr`: of the memory, or for SIGILL and SIGFPE of the instruction.
    #[serde(with = "address")]
    pub(crate) address: u64,
}

/// What is known of an out-of-memory kill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OomKill {
    /// Whose memory it was that ran out.
    pub(crate) scope: Option<OomScope>,
    /// The address space of the process.
    pub(crate) total_vm_bytes: Option<u64>,
    /// Its anonymous resident memory.
    pub(crate) anon_rss_bytes: Option<u64>,
    /// Its `oom_score_adj`, -1000 to 1000.
    pub(crate) oom_score_adj: Option<i32>,
    /// The process that the kernel had chosen, in the initial PID namespace, if this one was killed
    /// because it shared that one's memory. The figures are not known then.
    #[serde(default)]
    pub(crate) victim_host_pid: Option<u32>,
}

/// Whose memory ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OomScope {
    /// The host's.
    Global,
    /// That of a cgroup with a limit.
    Cgroup,
}

/// Addresses in JSON, where numbers of 64 bits are not safe: "0x7f…".
mod address {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        address: &u64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{address:#x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        u64::from_str_radix(digits, 16).map_err(D::Error::custom)
    }
}

/// Whose doing a death was, where its cause is known: only the service's own counts towards delay
/// and start limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Blame {
    /// The service failed, or ended, by itself.
    Itself,
    /// Someone else ended it.
    SomeoneElse,
}

/// What is known of one death.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Death {
    /// Why.
    pub(crate) cause: Cause,
    /// Whose doing it was, answered by `decode`.
    pub(crate) blame: Blame,
    /// The process's own name when it died, if the kernel's record tells.
    pub(crate) comm: Option<String>,
    /// From start to death, if known.
    pub(crate) uptime: Option<Duration>,
    /// When it was: by the kernel's record, or when it was noticed. Decides nothing.
    pub(crate) time: Option<Timestamp>,
    /// The same, since boot: the wall clock may be set to another time afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since_boot: Option<Duration>,
}

impl Cause {
    /// "exited", "signaled", "oom_killed" or "unknown".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::Signaled { .. } => "signaled",
            Self::OomKilled(_) => "oom_killed",
            Self::Unknown => "unknown",
        }
    }

    /// The exit status, if it exited.
    pub(crate) fn code(&self) -> Option<u8> {
        match self {
            Self::Exited { code } => Some(*code),
            _ => None,
        }
    }

    /// The signal that ended it.
    pub(crate) fn signal(&self) -> Option<Signal> {
        match self {
            Self::Signaled { signal, .. } => Some(*signal),
            Self::OomKilled(_) => Some(Signal::KILL),
            Self::Exited { .. } | Self::Unknown => None,
        }
    }

    /// Whether the kernel wrote a core.
    pub(crate) fn core_dumped(&self) -> bool {
        matches!(
            self,
            Self::Signaled {
                core_dumped: true,
                ..
            }
        )
    }

    /// Who sent the signal that ended it, if that is known.
    pub(crate) fn sender(&self) -> Option<&Sender> {
        match self {
            Self::Signaled { origin, .. } => origin.sender.as_ref(),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn sender_mut(&mut self) -> Option<&mut Sender> {
        match self {
            Self::Signaled { origin, .. } => origin.sender.as_mut(),
            _ => None,
        }
    }

    /// Reads a wait status as `wait(2)` returns it.
    pub(crate) fn from_wait_status(status: i32) -> Self {
        let signal = status & 0x7f;
        if signal == 0 {
            return Self::Exited {
                code: u8::try_from(status >> 8 & 0xff).unwrap_or(u8::MAX),
            };
        }
        match Signal::from_number(signal) {
            Some(signal) => Self::Signaled {
                signal,
                core_dumped: status & 0x80 != 0,
                origin: Origin::default(),
            },
            None => Self::Unknown,
        }
    }
}

/// "bash (pid 3, uid 0)"
impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, comm, uid, .. } = self;
        match pid {
            0 => write!(f, "{comm} (pid {} of the host, uid {uid})", self.host_pid),
            _ => write!(f, "{comm} (pid {pid}, uid {uid})"),
        }
    }
}

/// "exited with 3", "killed by SIGKILL", "killed by SIGABRT, its own, core dumped".
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(None, f)
    }
}

impl Cause {
    /// The same words, with these for the sender if there is one.
    pub(crate) fn with_sender(&self, sender: Option<&dyn fmt::Display>) -> impl fmt::Display {
        fmt::from_fn(move |f| self.write(sender, f))
    }

    fn write(&self, sender: Option<&dyn fmt::Display>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with {code}"),
            Self::Signaled {
                signal,
                core_dumped,
                origin,
            } => {
                write!(f, "killed by {signal}")?;
                origin.write(*signal, sender, f)?;
                if *core_dumped {
                    f.write_str(", core dumped")
                } else {
                    Ok(())
                }
            }
            Self::OomKilled(kill) => {
                f.write_str(match kill.scope {
                    Some(OomScope::Cgroup) => "killed for lack of memory in its cgroup",
                    Some(OomScope::Global) => "killed for lack of memory on the host",
                    None => "killed for lack of memory",
                })?;
                match kill.victim_host_pid {
                    Some(pid) => write!(f, ", together with pid {pid}, whose memory it shared"),
                    None => Ok(()),
                }
            }
            Self::Unknown => f.write_str("gone, cause unknown"),
        }
    }
}

impl Origin {
    /// What follows the signal's name: " from bash (pid 3, uid 0)"; with these words for the sender,
    /// if there is one.
    pub(crate) fn after(
        &self,
        signal: Signal,
        sender: Option<&dyn fmt::Display>,
    ) -> impl fmt::Display {
        fmt::from_fn(move |f| self.write(signal, sender, f))
    }

    fn write(
        &self,
        signal: Signal,
        words: Option<&dyn fmt::Display>,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let is_itself = self.sender.as_ref().is_some_and(|sender| sender.itself);
        let own_words = |sender| words.unwrap_or(sender as &dyn fmt::Display);
        match (self.how, self.sender.as_ref().map(own_words)) {
            (Some(How::Fault), _) => match &self.fault {
                Some(Fault {
                    name: Some(name),
                    address,
                    ..
                }) => write!(f, " ({name} at {address:#x})"),
                _ => f.write_str(", its own fault"),
            },
            (Some(How::Seccomp), _) => f.write_str(", ended by seccomp"),
            (Some(How::CpuLimit), _) => f.write_str(" at its limit of CPU time"),
            (Some(How::Terminal), _) if signal == Signal::INT => {
                f.write_str(" from its terminal (Ctrl-C)")
            }
            (Some(How::Terminal), _) => f.write_str(" from its terminal (Ctrl-\\)"),
            (Some(How::Hangup), _) => f.write_str(" at a hangup of its terminal or session"),
            (Some(How::Timer), _) => f.write_str(" from its own timer"),
            (Some(How::BrokenPipe), _) => {
                f.write_str(" for writing to a pipe or socket without a reader")
            }
            (Some(How::FileSizeLimit), _) => f.write_str(" at its limit of file size"),
            (Some(How::Notification), _) => f.write_str(", a notification that it asked for"),
            (Some(How::Kernel), _) => f.write_str(" from the kernel"),
            (Some(How::ParentDeath), Some(sender)) => {
                write!(f, " at the death of its parent {sender}")
            }
            (Some(How::ParentThreadDeath), Some(sender)) => {
                write!(
                    f,
                    " at the end of a thread of its parent {sender}, which lives"
                )
            }
            (Some(How::NamespaceEnd), Some(sender)) => {
                write!(f, " at the end of its PID namespace's init {sender}")
            }
            (Some(How::TracerEnd), Some(sender)) => {
                write!(f, " at the end of its tracer {sender}")
            }
            (_, Some(_)) if is_itself => f.write_str(", its own"),
            (Some(How::CgroupKill), Some(sender)) => {
                write!(f, " through cgroup.kill from {sender}")
            }
            (_, Some(sender)) => write!(f, " from {sender}"),
            (_, None) => Ok(()),
        }
    }
}

/// The shape of a cause on the wire; every key is always there.
#[derive(Serialize, Deserialize)]
struct Wire {
    kind: String,
    code: Option<u8>,
    signal: Option<Signal>,
    core_dumped: bool,
    #[serde(flatten)]
    origin: Origin,
    #[serde(default)]
    oom: Option<OomKill>,
}

impl Serialize for Cause {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (origin, oom) = match self {
            Self::Signaled { origin, .. } => (origin.clone(), None),
            Self::OomKilled(kill) => (Origin::default(), Some(*kill)),
            Self::Exited { .. } | Self::Unknown => (Origin::default(), None),
        };
        let wire = Wire {
            kind: self.kind().to_owned(),
            code: self.code(),
            signal: self.signal(),
            core_dumped: self.core_dumped(),
            origin,
            oom,
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        Ok(match (wire.kind.as_str(), wire.code, wire.signal) {
            ("exited", Some(code), _) => Self::Exited { code },
            ("signaled", _, Some(signal)) => Self::Signaled {
                signal,
                core_dumped: wire.core_dumped,
                origin: wire.origin,
            },
            ("oom_killed", ..) => Self::OomKilled(wire.oom.unwrap_or_default()),
            _ => Self::Unknown,
        })
    }
}

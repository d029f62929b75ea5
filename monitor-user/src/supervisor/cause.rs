//! Why an instance ended, in the words of the contract.
//!
//! Says nothing of what follows from it: that is the supervisor's.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::signal::Signal;

/// Why a process ended, as `wait` would tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        /// Who sent it, where that is known.
        sender: Option<Sender>,
    },
    /// The kernel killed it for lack of memory.
    OomKilled,
    /// It is gone, and nothing that saw how is left.
    Unknown,
}

/// Who sent the fatal signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sender {
    /// Process ID, as the agent's PID namespace has it.
    pub(crate) pid: u32,
    /// Start time since boot, in nanoseconds at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: u64,
    /// Real user ID.
    pub(crate) uid: u32,
    /// The sender's name.
    pub(crate) comm: String,
}

/// Whose doing a death was: only the service's own counts towards delay and start limit.
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
}

impl Cause {
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
                sender: None,
            },
            None => Self::Unknown,
        }
    }
}

/// "exited with 3", "killed by SIGKILL", "killed by SIGABRT, core dumped".
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with {code}"),
            Self::Signaled {
                signal,
                core_dumped,
                sender,
            } => {
                write!(f, "killed by {signal}")?;
                if let Some(sender) = sender {
                    write!(
                        f,
                        " from {} (pid {}, uid {})",
                        sender.comm, sender.pid, sender.uid
                    )?;
                }
                if *core_dumped {
                    f.write_str(", core dumped")
                } else {
                    Ok(())
                }
            }
            Self::OomKilled => f.write_str("killed for lack of memory"),
            Self::Unknown => f.write_str("gone, cause unknown"),
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
    sender: Option<Sender>,
}

impl Serialize for Cause {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, code, signal, core_dumped, sender) = match self {
            Self::Exited { code } => ("exited", Some(*code), None, false, None),
            Self::Signaled {
                signal,
                core_dumped,
                sender,
            } => (
                "signaled",
                None,
                Some(*signal),
                *core_dumped,
                sender.clone(),
            ),
            Self::OomKilled => ("oom_killed", None, Some(Signal::KILL), false, None),
            Self::Unknown => ("unknown", None, None, false, None),
        };
        Wire {
            kind: kind.to_owned(),
            code,
            signal,
            core_dumped,
            sender,
        }
        .serialize(serializer)
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
                sender: wire.sender,
            },
            ("oom_killed", ..) => Self::OomKilled,
            _ => Self::Unknown,
        })
    }
}

//! The end of a process, as events have it: why it ended, and what else is known of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cause::{Cause, How, Sender};
use super::event::or_default;
use super::signal::Signal;

/// The end of a process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Exit {
    pub(crate) pid: u32,
    /// Since boot, at the resolution of `/proc` (10 ms).
    pub(crate) start_time_ns: Option<u64>,
    pub(crate) comm: Option<String>,
    pub(crate) uptime_ns: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cause: Cause,
    #[serde(flatten)]
    pub(crate) circumstances: Circumstances,
    /// When it became final, since boot, where that is not `start_time_ns` and `uptime_ns` together.
    #[serde(skip)]
    pub(crate) at_ns: Option<u64>,
    /// Of "child_exited": so many of the tree before it are not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_out: Option<u64>,
}

/// An exit of which it is known when it became final, and whose it was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exited {
    /// When it became final.
    pub(crate) time: Timestamp,
    /// The service whose instance it was.
    pub(crate) service: Option<String>,
    pub(crate) exit: Exit,
}

/// What is told of an exit beside the death; nothing of it is known without the kernel's record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Circumstances {
    /// The pid in the initial PID namespace.
    pub(crate) host_pid: Option<u32>,
    /// The parent's pid.
    pub(crate) parent_pid: Option<u32>,
    /// Real user ID.
    pub(crate) uid: Option<u32>,
    /// ID of its cgroup in the v2 hierarchy, if that says where it belongs.
    pub(crate) cgroup_id: Option<u64>,
    /// The last signal before, by which another process had asked it to end.
    #[serde(deserialize_with = "or_default")]
    pub(crate) last_signal: Option<LastSignal>,
    /// What it had used.
    #[serde(deserialize_with = "or_default")]
    pub(crate) usage: Option<Usage>,
    /// Of a core dump: where it went.
    #[serde(deserialize_with = "or_default")]
    pub(crate) core: Option<CoreDump>,
    /// The end of its output, where the config asks for it.
    pub(crate) last_output: Option<String>,
    /// Of a service's main process: so many others of it that a signal ended are not told.
    pub(crate) children_left_out: Option<u64>,
}

/// A signal that asked a process to end, some time before it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastSignal {
    pub(crate) signal: Signal,
    /// So long before the exit was it sent.
    #[serde(default)]
    pub(crate) before_exit_ns: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) how: Option<How>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) sender: Option<Sender>,
}

/// What a process had used when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Time on a CPU in user mode, of all threads.
    pub(crate) user_ns: u64,
    /// The same in kernel mode.
    pub(crate) system_ns: u64,
    /// The most memory that was resident.
    pub(crate) max_rss_bytes: u64,
    /// Threads when the first of them went; `None` if that was not seen.
    pub(crate) threads: Option<u32>,
    /// Bytes fetched from storage; `None` if the kernel does not count.
    pub(crate) read_bytes: Option<u64>,
    /// Bytes sent to storage; the same.
    pub(crate) written_bytes: Option<u64>,
}

/// Where a core went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CoreDump {
    /// The kernel's pattern when the process ended.
    pub(crate) pattern: String,
    /// The program that the core was piped to.
    pub(crate) piped_to: Option<String>,
    /// The file it was written to, relative to the process's working directory unless it begins
    /// with a `/`; `None` if the pattern asks for what is not known here.
    pub(crate) file: Option<String>,
}

#[cfg(test)]
impl Exited {
    /// Of which nothing else is known.
    pub(crate) fn unknown(time: Timestamp, pid: u32) -> Self {
        Self {
            time,
            service: None,
            exit: Exit {
                pid,
                ..Exit::default()
            },
        }
    }
}

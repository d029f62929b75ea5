//! What a service may do and use, beside what its user gives it: capabilities, processors, its share of the
//! host, and directories of its own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::spec::Fingerprint;

/// The kernel's names, by number.
/// <https://github.com/torvalds/linux/blob/v5.10/include/uapi/linux/capability.h>
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The name of a capability.
pub(crate) fn capability_name(number: u8) -> &'static str {
    let name = CAPABILITIES.get(usize::from(number));
    name.copied().unwrap_or("an unknown capability")
}

/// See the module's head. Each counts only where it is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Confinement {
    /// -1000 to 1000; `None`: the agent's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) oom_score_adj: Option<i32>,
    /// No program that it runs gains rights by its file.
    pub(crate) no_new_privileges: bool,
    /// The kernel's numbers, sorted; `None`: those of its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capabilities: Option<Vec<u8>>,
    /// Numbers of processors, sorted; empty: the agent's own.
    pub(crate) cpu_affinity: Vec<u16>,
    pub(crate) directories: Directories,
    pub(crate) cgroup: CgroupLimits,
    #[serde(skip_serializing_if = "Sandbox::is_nothing")]
    pub(crate) sandbox: Sandbox,
}

/// A view of the host of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Sandbox {
    /// Absolute paths; what is below them too. With a `-` before those that may be missing.
    pub(crate) read_only: Vec<PathBuf>,
    /// Parts of those that are not.
    pub(crate) writable: Vec<PathBuf>,
    /// `/tmp` and `/var/tmp` are its own, and empty at each start.
    pub(crate) private_tmp: bool,
    /// `/dev` has what every program needs, and no disk.
    pub(crate) private_devices: bool,
    /// `/home`, `/root` and `/run/user` are empty.
    pub(crate) protect_home: bool,
    /// It has the host's network, and not one of its own with a loopback interface alone.
    pub(crate) network: bool,
    /// What this host does not allow is left out.
    pub(crate) optional: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            read_only: Vec::new(),
            writable: Vec::new(),
            private_tmp: false,
            private_devices: false,
            protect_home: false,
            network: true,
            optional: false,
        }
    }
}

impl Sandbox {
    fn add_to(&self, hash: &mut Fingerprint) {
        if self.is_nothing() {
            return;
        }
        for (name, paths) in [("read_only", &self.read_only), ("writable", &self.writable)] {
            for path in paths {
                hash.add(name, path.as_os_str().as_encoded_bytes());
            }
        }
        for (name, is_set) in [
            ("private_tmp", self.private_tmp),
            ("private_devices", self.private_devices),
            ("protect_home", self.protect_home),
            ("no network", !self.network),
        ] {
            if is_set {
                hash.add(name, &[]);
            }
        }
    }

    /// Whether the service has the host's view.
    pub(crate) fn is_nothing(&self) -> bool {
        let has_paths = !self.read_only.is_empty();
        let covers = self.private_tmp || self.private_devices || self.protect_home;
        !has_paths && !covers && self.network
    }
}

/// Directories that are made before each start, and are its user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Directories {
    /// Each with where it is, in the order of [`DirectoryKind::ALL`]: relative, without `..`.
    pub(crate) names: Vec<(DirectoryKind, String)>,
    pub(crate) mode: u32,
}

impl Default for Directories {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            mode: 0o755,
        }
    }
}

/// What a directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DirectoryKind {
    Runtime,
    State,
    Logs,
    Cache,
}

impl DirectoryKind {
    pub(crate) const ALL: [Self; 4] = [Self::Runtime, Self::State, Self::Logs, Self::Cache];

    /// Where such directories are.
    pub(crate) fn parent(self) -> &'static str {
        match self {
            Self::Runtime => "/run",
            Self::State => "/var/lib",
            Self::Logs => "/var/log",
            Self::Cache => "/var/cache",
        }
    }

    /// The variable that has their paths, as systemd names it.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Runtime => "RUNTIME_DIRECTORY",
            Self::State => "STATE_DIRECTORY",
            Self::Logs => "LOGS_DIRECTORY",
            Self::Cache => "CACHE_DIRECTORY",
        }
    }
}

impl Directories {
    /// Their paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (DirectoryKind, PathBuf)> {
        let names = self.names.iter();
        names.map(|(place, name)| (*place, Path::new(place.parent()).join(name)))
    }

    /// What tells the service of them.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let of = |wanted: DirectoryKind| {
            let paths = self.paths().filter(|(place, _)| *place == wanted);
            let paths = paths.map(|(_, path)| path.to_string_lossy().into_owned());
            let paths: Vec<_> = paths.collect();
            (!paths.is_empty()).then(|| (wanted.variable().to_owned(), paths.join(":")))
        };
        DirectoryKind::ALL.into_iter().filter_map(of).collect()
    }
}

/// How much of the host all processes of a service have together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CgroupLimits {
    /// Bytes.
    pub(crate) memory_max: Option<u64>,
    pub(crate) memory_high: Option<u64>,
    /// Percent of one processor.
    pub(crate) cpu_max: Option<u32>,
    pub(crate) pids_max: Option<u64>,
    /// 1 to 10000
    pub(crate) io_weight: Option<u32>,
}

impl Confinement {
    /// What holds for a process that is run on behalf of the service.
    pub(crate) fn rights(&self) -> Self {
        Self {
            no_new_privileges: self.no_new_privileges,
            capabilities: self.capabilities.clone(),
            cpu_affinity: self.cpu_affinity.clone(),
            // No sandbox: whether it goes on without what this host does not allow.
            sandbox: Sandbox {
                optional: self.sandbox.optional,
                ..Sandbox::default()
            },
            ..Self::default()
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what is set.
    pub(super) fn add_to(&self, hash: &mut Fingerprint) {
        if let Some(score) = self.oom_score_adj {
            hash.add("oom_score_adj", &score.to_le_bytes());
        }
        if self.no_new_privileges {
            hash.add("no_new_privileges", &[]);
        }
        if let Some(capabilities) = &self.capabilities {
            hash.add("capabilities", capabilities);
        }
        for cpu in &self.cpu_affinity {
            hash.add("cpu", &cpu.to_le_bytes());
        }
        for (place, name) in &self.directories.names {
            hash.add(place.variable(), name.as_bytes());
        }
        if !self.directories.names.is_empty() {
            hash.add("directories' mode", &self.directories.mode.to_le_bytes());
        }
        self.sandbox.add_to(hash);
        let cgroup = &self.cgroup;
        for (name, value) in [
            ("memory_max", cgroup.memory_max),
            ("memory_high", cgroup.memory_high),
            ("cpu_max", cgroup.cpu_max.map(u64::from)),
            ("pids_max", cgroup.pids_max),
            ("io_weight", cgroup.io_weight.map(u64::from)),
        ] {
            if let Some(value) = value {
                hash.add(name, &value.to_le_bytes());
            }
        }
    }
}

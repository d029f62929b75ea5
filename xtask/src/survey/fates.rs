//! What becomes of each of systemd's directives, and which make a oneshot exotic.

/// What a directive of a unit has to become.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// This key, with the same value.
    Key(&'static str),
    /// `judge` looks at what it says.
    Looked,
    /// Nothing is lost if it is left out.
    Nothing,
    /// A protection, which the service may not have.
    Protection,
    /// The service runs, and something is different.
    Different,
    /// The same, unless it is off.
    OffOnly,
    /// It matters.
    Loss,
}
use Fate::{Different, Key, Looked, Nothing, OffOnly, Protection};

/// Every directive that is not here is a loss.
#[rustfmt::skip]
pub(super) const FATES: &[(&str, Fate)] = &[
    ("StartLimitBurst", Looked), ("StartLimitIntervalSec", Looked), ("StartLimitInterval", Looked), ("After", Looked),
    ("Before", Looked), ("Wants", Looked), ("Conflicts", Looked), ("ConditionPathExists", Looked),
    ("ConditionPathExistsGlob", Looked), ("ConditionPathIsDirectory", Looked), ("ConditionPathIsMountPoint", Looked),
    ("ConditionFileIsExecutable", Looked), ("ConditionFileNotEmpty", Looked), ("ConditionDirectoryNotEmpty", Looked),
    ("AssertPathExists", Looked), ("AssertFileIsExecutable", Looked), ("AssertFileNotEmpty", Looked),
    ("AssertPathIsDirectory", Looked), ("ConditionCapability", Looked), ("ConditionKernelCommandLine", Looked),
    ("ConditionACPower", Looked), ("PartOf", Looked), ("ReloadPropagatedFrom", Looked), ("OnFailure", Looked),
    ("ExecStart", Looked), ("ExecStartPre", Looked), ("ExecStartPost", Looked), ("ExecStop", Looked),
    ("ExecStopPost", Looked), ("ExecReload", Looked), ("ExecCondition", Looked), ("Restart", Looked), ("RestartSec", Looked),
    ("RestartPreventExitStatus", Looked), ("SuccessExitStatus", Looked), ("TimeoutSec", Looked), ("TimeoutStopSec", Looked),
    ("TimeoutStartSec", Looked), ("WatchdogSec", Looked), ("NotifyAccess", Looked), ("KillMode", Looked),
    ("SendSIGKILL", Looked), ("PIDFile", Looked), ("RemainAfterExit", Looked), ("User", Looked), ("Group", Looked),
    ("WorkingDirectory", Looked), ("Environment", Looked), ("EnvironmentFile", Looked), ("PassEnvironment", Looked),
    ("OOMPolicy", Looked), ("RuntimeDirectory", Looked), ("StateDirectory", Looked), ("LogsDirectory", Looked),
    ("CacheDirectory", Looked), ("RuntimeDirectoryMode", Looked), ("StateDirectoryMode", Looked),
    ("LogsDirectoryMode", Looked), ("CacheDirectoryMode", Looked), ("ConfigurationDirectory", Looked),
    ("LimitNOFILE", Looked), ("LimitNPROC", Looked), ("LimitCORE", Looked), ("LimitMEMLOCK", Looked), ("LimitSTACK", Looked),
    ("LimitAS", Looked), ("LimitRTPRIO", Looked), ("LimitDATA", Looked), ("LimitFSIZE", Looked), ("LimitNICE", Looked),
    ("LimitRTTIME", Looked), ("LimitSIGPENDING", Looked), ("MemoryMax", Looked), ("MemoryLimit", Looked),
    ("MemoryHigh", Looked), ("CPUAffinity", Looked), ("TasksMax", Looked), ("StandardOutput", Looked),
    ("StandardError", Looked), ("StandardInput", Looked), ("FileDescriptorStoreMax", Looked), ("NoNewPrivileges", Looked),
    ("AmbientCapabilities", Looked), ("BindsTo", Looked), ("ConditionVirtualization", Looked), ("Requires", Looked),
    ("Requisite", Looked), ("Type", Looked),
    ("Description", Nothing), ("Documentation", Nothing), ("SourcePath", Nothing), ("DefaultDependencies", Nothing),
    ("RefuseManualStart", Nothing), ("RefuseManualStop", Nothing), ("StopWhenUnneeded", Nothing), ("AllowIsolate", Nothing),
    ("IgnoreOnIsolate", Nothing), ("CollectMode", Nothing), ("RequiresMountsFor", Nothing), ("WantsMountsFor", Nothing),
    ("TimeoutAbortSec", Nothing), ("BusName", Nothing), ("GuessMainPID", Nothing), ("RuntimeDirectoryPreserve", Nothing),
    ("ConfigurationDirectoryMode", Nothing), ("CPUAccounting", Nothing), ("MemoryAccounting", Nothing),
    ("TasksAccounting", Nothing), ("IOAccounting", Nothing), ("SyslogIdentifier", Nothing), ("SyslogFacility", Nothing),
    ("SyslogLevel", Nothing), ("SyslogLevelPrefix", Nothing), ("LogRateLimitIntervalSec", Nothing),
    ("LogRateLimitBurst", Nothing), ("LogLevelMax", Nothing), ("KeyringMode", Nothing), ("UtmpIdentifier", Nothing),
    ("PermissionsStartOnly", Nothing), ("NonBlocking", Nothing),
    ("CapabilityBoundingSet", Protection), ("SecureBits", Protection), ("PrivateTmp", Protection),
    ("PrivateDevices", Protection), ("PrivateNetwork", Protection), ("PrivateUsers", Protection),
    ("PrivateMounts", Protection), ("PrivateIPC", Protection), ("ProtectSystem", Protection), ("ProtectHome", Protection),
    ("ProtectKernelTunables", Protection), ("ProtectKernelModules", Protection), ("ProtectKernelLogs", Protection),
    ("ProtectControlGroups", Protection), ("ProtectClock", Protection), ("ProtectHostname", Protection),
    ("ProtectProc", Protection), ("ProcSubset", Protection), ("RestrictAddressFamilies", Protection),
    ("RestrictNamespaces", Protection), ("RestrictRealtime", Protection), ("RestrictSUIDSGID", Protection),
    ("LockPersonality", Protection), ("RemoveIPC", Protection), ("MemoryDenyWriteExecute", Protection),
    ("SystemCallFilter", Protection), ("SystemCallArchitectures", Protection), ("SystemCallErrorNumber", Protection),
    ("ReadOnlyPaths", Protection), ("ReadWritePaths", Protection), ("InaccessiblePaths", Protection),
    ("ReadOnlyDirectories", Protection), ("ReadWriteDirectories", Protection), ("InaccessibleDirectories", Protection),
    ("TemporaryFileSystem", Protection), ("BindReadOnlyPaths", Protection), ("IPAddressAllow", Protection),
    ("IPAddressDeny", Protection), ("DeviceAllow", Protection), ("DevicePolicy", Protection), ("MountFlags", Protection),
    ("AppArmorProfile", Protection), ("NoExecPaths", Protection), ("ExecPaths", Protection),
    ("ConditionPathIsReadWrite", Different), ("ConditionCPUs", Different), ("ConditionMemory", Different),
    ("ConditionFirstBoot", Different), ("ConditionNeedsUpdate", Different),
    ("ConditionUser", Different), ("ConditionHost", Different), ("ConditionSecurity", Different),
    ("ConditionKernelModuleLoaded", Different), ("ConditionControlGroupController", Different),
    ("PropagatesReloadTo", Different), ("JoinsNamespaceOf", Different), ("Upholds", Different), ("JobTimeoutSec", Different),
    ("FailureAction", Different), ("SuccessAction", Different), ("RestartForceExitStatus", Different),
    ("RestartSteps", Different), ("RestartMode", Different), ("RuntimeMaxSec", Different), ("FinalKillSignal", Different),
    ("SupplementaryGroups", Different), ("UnsetEnvironment", Different), ("Slice", Different), ("CPUWeight", Different),
    ("CPUShares", Different), ("CPUSchedulingPolicy", Different), ("CPUSchedulingPriority", Different),
    ("IOSchedulingClass", Different), ("IOSchedulingPriority", Different),
    ("SendSIGHUP", OffOnly), ("Delegate", OffOnly), ("IgnoreSIGPIPE", OffOnly), ("DynamicUser", OffOnly),
    ("RestartMaxDelaySec", Key("restart_max_delay")), ("KillSignal", Key("stop_signal")), ("UMask", Key("umask")),
    ("Nice", Key("nice")), ("OOMScoreAdjust", Key("oom_score_adj")), ("CPUQuota", Key("cpu_max")),
    ("IOWeight", Key("io_weight")), ("Sockets", Key("listen")),
];

/// Directives that no key is for, on purpose: a oneshot without them has to come over without loss, or
/// without protections alone.
#[rustfmt::skip]
pub(super) const EXOTIC: &[(&str, &str)] = &[
    ("Conflicts", "services do not exclude each other"),
    ("DynamicUser", "a user that exists while the service runs"),
    ("Delegate", "a part of the tree of cgroups of its own"),
    ("Slice", "a place of its own in the tree of cgroups"),
    ("RootDirectory", "another root"),
    ("BindPaths", "other files than the host's"),
    ("TTYPath", "a terminal"), ("StandardInput", "a terminal, or a file"),
    ("TTYReset", "a terminal"), ("TTYVHangup", "a terminal"), ("TTYVTDisallocate", "a terminal"),
    ("ImportCredential", "systemd's credentials"), ("LoadCredential", "systemd's credentials"),
    ("ConditionFirstBoot", "systemd's own state"), ("ConditionNeedsUpdate", "systemd's own state"),
    ("ConditionSecurity", "which security module runs"), ("ConditionUser", "a user's systemd"),
    ("ConditionHost", "which host it is"), ("ConditionPathIsReadWrite", "how a path is mounted"),
    ("ConditionControlGroupController", "what cgroups can do"), ("ConditionKernelModuleLoaded", "the kernel's modules"),
    ("FailureAction", "the host is restarted"), ("SuccessAction", "the host is restarted"),
    ("JobTimeoutSec", "systemd's jobs"), ("JobTimeoutAction", "systemd's jobs"),
    ("StandardOutput", "the console beside the journal"), ("StandardError", "the console beside the journal"),
    ("ConditionVirtualization", "which virtual machine or container it is"),
    ("TimeoutStartSec", "a oneshot may run for as long as it takes"),
    ("CPUSchedulingPolicy", "how it is scheduled"), ("CPUSchedulingPriority", "how it is scheduled"),
    ("IOSchedulingClass", "how it is scheduled"), ("IOSchedulingPriority", "how it is scheduled"),
    ("CPUWeight", "limits of cgroups beyond the usual ones"), ("MemoryLow", "limits of cgroups beyond the usual ones"),
    ("PropagatesReloadTo", "reloads follow part_of alone"), ("Upholds", "nothing is started again for another service"),
    ("SupplementaryGroups", "a user has the groups of the host's files"),
    ("UnsetEnvironment", "nothing is in an environment that a file does not name"),
    ("RestartForceExitStatus", "a restart in spite of success"),
];

//! What it costs that a directive of systemd's is not carried over: a severity and a word for each.
//! Those that are carried over are in `systemd`.

use super::Severity::{self, Approximated, Hardening, Harmless, Lost};

type Rule = (&'static [&'static str], Severity, &'static str);

/// In `[Unit]`.
#[rustfmt::skip]
const UNIT: &[Rule] = &[
    (&["Documentation", "SourcePath", "DefaultDependencies", "StopWhenUnneeded", "RefuseManualStart", "RefuseManualStop",
       "AllowIsolate", "IgnoreOnIsolate", "CollectMode", "SurviveFinalKillSignal"], Harmless, "has no meaning here"),
    (&["PartOf", "PropagatesStopTo", "StopPropagatedFrom"], Approximated,
     "it does not stop or restart with the other unit"),
    (&["PropagatesReloadTo", "ReloadPropagatedFrom"], Approximated, "the other one is not reloaded with it; see part_of"),
    (&["JoinsNamespaceOf"], Approximated, "there are no namespaces to join"),
    (&["RequiresMountsFor", "WantsMountsFor"], Harmless, "mounts are made before the agent starts; else the start is tried again until it works"),
    (&["OnFailure", "OnSuccess"], Approximated,
     "no other unit is started; see on_failed and on_exit for hooks"),
    (&["OnFailureJobMode", "OnSuccessJobMode"], Harmless, "it says how another unit is started"),
    (&["Upholds"], Approximated, "the other unit is not started again with it"),
    (&["JobTimeoutSec", "JobRunningTimeoutSec", "JobTimeoutAction", "JobTimeoutRebootArgument", "FailureAction", "SuccessAction",
       "FailureActionExitStatus", "SuccessActionExitStatus", "StartLimitAction", "RebootArgument"], Approximated,
     "nothing is done to the host"),
    (&["BindTo"], Approximated, "an old name; write BindsTo"),
];

/// In `[Service]`.
#[rustfmt::skip]
const SERVICE: &[Rule] = &[
    (&["SyslogIdentifier", "SyslogFacility", "SyslogLevel", "SyslogLevelPrefix", "LogLevelMax", "LogExtraFields", "LogFilterPatterns",
       "LogRateLimitIntervalSec", "LogRateLimitBurst", "LogNamespace"], Harmless, "output goes where stdout and stderr say"),
    (&["NotifyAccess"], Harmless, "nothing depends on what it notifies"),
    (&["BusName", "GuessMainPID", "RemainAfterExit", "RootDirectoryStartOnly", "NonBlocking", "TimeoutStartFailureMode",
       "TimeoutStopFailureMode", "TimeoutAbortSec", "RuntimeDirectoryPreserve", "ExitType", "WatchdogSignal",
       "KeyringMode", "TTYVHangup", "TTYReset", "TTYVTDisallocate", "TTYRows", "TTYColumns", "TimeoutCleanSec", "UtmpIdentifier", "UtmpMode", "SetLoginEnvironment", "IPAccounting",
       "CPUAccounting", "MemoryAccounting", "TasksAccounting", "IOAccounting", "BlockIOAccounting"], Harmless, "has no meaning here"),
    (&["ExecReloadPost"], Lost, "nothing is run after a reload"),
    (&["OpenFile", "ImportCredential", "LoadCredential",
       "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted"], Lost, "nothing is passed to it; it has to open that itself"),
    (&["FileDescriptorStorePreserve"], Approximated, "what it has stored is kept until it is stopped"),
    (&["DynamicUser"], Lost, "there are no passing users; create one, and set user"),
    (&["RootDirectory", "RootImage", "RootImageOptions", "RootHash", "RootHashSignature", "RootVerity", "MountImages", "ExtensionImages", "ExtensionDirectories", "BindPaths",
       "MountAPIVFS", "PAMName", "StandardInputText", "StandardInputData", "TTYPath"], Lost, "it would see other files than these"),
    (&["ExecSearchPath"], Approximated, "programs are looked up in PATH"),
    (&["RestartForceExitStatus"], Approximated, "only restart and restart_prevent_exit_status decide"),
    (&["RuntimeMaxSec", "RuntimeRandomizedExtraSec"], Approximated, "it runs on"),
    (&["RestartMode", "RestartSteps", "RestartKillSignal", "FinalKillSignal", "SendSIGHUP", "OOMPolicy", "ManagedOOMSwap",
       "ManagedOOMMemoryPressure", "ManagedOOMMemoryPressureLimit", "ManagedOOMPreference", "UnsetEnvironment",
       "SupplementaryGroups", "USBFunctionDescriptors",
       "USBFunctionStrings", "CoredumpFilter", "TimerSlackNSec", "IgnoreSIGPIPE", "CPUSchedulingPolicy", "CPUSchedulingPriority",
       "CPUSchedulingResetOnFork", "IOSchedulingClass", "IOSchedulingPriority", "NUMAPolicy", "NUMAMask", "Personality", "SecureBits"],
     Approximated, "there is no such setting"),
    (&["Slice", "Delegate", "DelegateSubgroup", "DisableControllers", "CPUWeight", "StartupCPUWeight", "CPUShares", "StartupCPUShares",
       "CPUQuotaPeriodSec", "AllowedCPUs", "StartupAllowedCPUs", "AllowedMemoryNodes", "StartupAllowedMemoryNodes", "MemoryMin",
       "MemoryLow", "StartupMemoryLow", "StartupMemoryHigh", "StartupMemoryMax", "MemorySwapMax", "MemoryZSwapMax", "DefaultMemoryLow",
       "StartupIOWeight", "IODeviceWeight", "IOReadBandwidthMax", "IOWriteBandwidthMax", "IOReadIOPSMax", "IOWriteIOPSMax",
       "IODeviceLatencyTargetSec", "BlockIOWeight", "BlockIODeviceWeight", "BlockIOReadBandwidth", "BlockIOWriteBandwidth"],
     Approximated, "of the cgroup only memory_max, memory_high, cpu_max, pids_max and io_weight can be set"),
    (&["PrivateTmp", "PrivateDevices", "PrivateNetwork", "PrivateUsers", "PrivateMounts", "PrivateIPC", "PrivatePIDs", "ProtectSystem",
       "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock",
       "ProtectHostname", "ProtectProc", "ProcSubset", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime",
       "RestrictSUIDSGID", "RestrictFileSystems", "RestrictNetworkInterfaces", "LockPersonality", "MemoryDenyWriteExecute", "RemoveIPC",
       "SystemCallFilter", "SystemCallArchitectures", "SystemCallErrorNumber", "SystemCallLog", "ReadOnlyPaths", "ReadWritePaths",
       "InaccessiblePaths", "ExecPaths", "NoExecPaths", "ReadOnlyDirectories", "ReadWriteDirectories", "InaccessibleDirectories",
       "TemporaryFileSystem", "BindReadOnlyPaths", "MountFlags", "IPAddressAllow", "IPAddressDeny", "IPIngressFilterPath",
       "IPEgressFilterPath", "BPFProgram", "DeviceAllow", "DevicePolicy", "SocketBindAllow", "SocketBindDeny", "AppArmorProfile",
       "SELinuxContext", "SmackProcessLabel", "NetworkNamespacePath", "IPCNamespacePath", "MemoryKSM", "NFTSet"],
     Hardening, "it runs without this protection"),
];

/// Whether it only says when a unit starts.
pub(super) fn is_condition(section: &str, key: &str) -> bool {
    section == "Unit" && (key.starts_with("Condition") || key.starts_with("Assert"))
}

/// What it costs that a directive is left out; unknown ones may mean anything.
pub(super) fn cost(section: &str, key: &str) -> (Severity, &'static str) {
    if key.starts_with("X-") || section == "Install" || section.starts_with("X-") {
        return (Harmless, "has no meaning here");
    }
    if is_condition(section, key) {
        return (Approximated, "it starts even if that does not hold");
    }
    // Some were in the other section once.
    let mut rules = UNIT.iter().chain(SERVICE);
    let found = rules.find(|(keys, ..)| keys.contains(&key));
    found.map_or(
        (Lost, "this directive is not known"),
        |(_, severity, what)| (*severity, what),
    )
}

/// All that have a rule.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of = |section, rules: &'static [Rule]| {
        let keys = rules.iter().flat_map(|(keys, ..)| keys.iter());
        keys.map(move |key| (section, *key))
    };
    of("Unit", UNIT).chain(of("Service", SERVICE))
}

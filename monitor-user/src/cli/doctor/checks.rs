//! What `doctor` looks at: one table, a line a check. A check looks and changes nothing.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use monitor_ebpf::programs;
use nix::sys::statfs::{BPF_FS_MAGIC, FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{AccessFlags, eaccess};

use super::trial::{self, Trial};
use super::{Check, Finding, Need, Verdict};
use crate::cli::Global;
use crate::cli::unpin::{Known, State};
use crate::clock::WallClock;
use crate::control::client::{self, AskError};
use crate::init::locks;
use crate::logger::OutputDir;
use crate::model::Instance;
use crate::os;
use crate::os::cgroup::{Cgroups, Name};
use crate::os::cgroup_id;
use crate::os::process::Process;
use crate::os::spawn::{self, Spawner};
use crate::os::{mounts, notify, pipe, proc};
use crate::probe::btf::{ExitTracepoint, KERNEL_BTF, KernelTypes};
use crate::probe::{
    MOST_WATCHED, MapKind, ProgramReport, Refused, bpffs_target, has_map_kind, namespace, sets,
};
use crate::report::Age;

const REMEMBER: Need = Need::Part("the causes of exits while no agent is running");
const SENDERS: Need = Need::Part("who sent a signal");
const TREES: Need = Need::Part(
    "stops of processes that have left their service's group, and events of a service's other processes",
);
const USERS: Need = Need::Part("services that run as other users");
const SOCKETS: Need =
    Need::Part("sockets of services (`listen`, sd_notify) that outlive the agent");
const NOTHING: Need = Need::Nothing(());

/// Numbers of capabilities, include/uapi/linux/capability.h.
const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_NICE: u32 = 23;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Every check, a line each.
#[rustfmt::skip]
pub(super) const CHECKS: &[Check] = &[
    check("kernel", Need::Agent, kernel),
    check("pidfd", Need::Agent, pidfd),
    check("runtime_dir", Need::Agent, runtime_dir),
    check("btf", Need::Ebpf, btf),
    check("tracepoint", Need::Ebpf, tracepoint),
    check("exit_program", Need::Ebpf, exit_program),
    check("early_exits", NOTHING, early_exits),
    check("ring_buffer_map", Need::Ebpf, |host| map(host, MapKind::RingBuffer, "carries the events; since 5.8")),
    check("hash_map", Need::Ebpf, |host| map(host, MapKind::Hash, "holds the watched processes")),
    check("lru_hash_map", Need::Ebpf, |host| map(host, MapKind::LruHash, "holds who has been reported, where two programs see an exit")),
    check("array_map", Need::Ebpf, |host| map(host, MapKind::Array, "holds field offsets and filters, and counts lost events")),
    check("delivery", Need::Ebpf, delivery),
    check("senders", SENDERS, senders),
    check("birth_program", REMEMBER, birth_program),
    check("oom_program", NOTHING, oom_program),
    check("bpffs", REMEMBER, bpffs),
    check("lockdown", NOTHING, lockdown),
    check("cap_bpf", NOTHING, |host| capability(host, CAP_BPF, "load kernel programs")),
    check("cap_perfmon", NOTHING, |host| capability(host, CAP_PERFMON, "have kernel programs read the kernel's memory")),
    check("cap_sys_admin", NOTHING, |host| capability(host, CAP_SYS_ADMIN, "do both before 5.8, and see other PID namespaces")),
    check("cap_kill", USERS, |host| capability(host, CAP_KILL, "stop services of other users")),
    check("cap_setuid", USERS, |host| capability(host, CAP_SETUID, "start services as other users")),
    check("cap_setgid", USERS, |host| capability(host, CAP_SETGID, "start services in other groups")),
    check("cap_sys_resource", NOTHING, |host| capability(host, CAP_SYS_RESOURCE, "give services higher limits than the agent's own")),
    check("cap_sys_nice", NOTHING, |host| capability(host, CAP_SYS_NICE, "start services with a nice value below the agent's")),
    check("bpf_lsm", NOTHING, bpf_lsm),
    check("cgroup", TREES, cgroup),
    check("cgroup_ids", NOTHING, cgroup_ids),
    check("pid_namespace", NOTHING, pid_namespace),
    check("pidfd_exit_info", NOTHING, pidfd_exit_info),
    check("pidfd_getfd", SOCKETS, pidfd_getfd),
    check("notify_queue", NOTHING, notify_queue),
    check("landlock", NOTHING, landlock),
    check("clone3", NOTHING, clone3),
    check("init", NOTHING, init),
    check("running", NOTHING, running),
    check("recorder", NOTHING, recorder),
    check("logger", NOTHING, logger),
    check("watch_map", NOTHING, watch_map),
    check("pins", NOTHING, pins),
];

const fn check(name: &'static str, need: Need, look: fn(&Host<'_>) -> Finding) -> Check {
    Check { name, need, look }
}

/// The host, and what has been found out about it for more than one check.
pub(super) struct Host<'a> {
    global: &'a Global,
    kernel: String,
    btf: &'a Path,
    types: Result<KernelTypes>,
    trial: Trial,
    /// The effective capabilities, a bit each.
    capabilities: Option<u64>,
    /// The pins of all agents.
    pins: Result<Vec<Known>>,
}

impl<'a> Host<'a> {
    pub(super) fn look(global: &'a Global) -> Result<Self> {
        let btf = global.btf.as_deref().unwrap_or(Path::new(KERNEL_BTF));
        Ok(Self {
            global,
            kernel: nix::sys::utsname::uname()?
                .release()
                .to_string_lossy()
                .into_owned(),
            btf,
            types: KernelTypes::read(btf),
            trial: trial::of_ebpf(global)?,
            capabilities: effective_capabilities(),
            pins: sets::find()
                .map(|sets| sets.into_iter().map(|set| Known::of(set, global)).collect()),
        })
    }

    /// The pins of all agents, as far as they are seen.
    pub(super) fn pins(&self) -> &[Known] {
        self.pins.as_deref().unwrap_or_default()
    }

    /// The kernel's release.
    pub(super) fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Whether this process has a capability; `None`: it cannot be found out.
    fn has(&self, capability: u32) -> Option<bool> {
        self.capabilities.map(|held| held & 1 << capability != 0)
    }

    /// Whether it may load kernel programs, as far as capabilities go.
    fn may_load(&self) -> bool {
        let has = |capability| self.has(capability).unwrap_or(true);
        has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON)
    }
}

fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// An error in one line.
fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").trim_end().replace('\n', "; ")
}

fn kernel(host: &Host<'_>) -> Finding {
    let release = host.kernel();
    let advice = "run a kernel from 5.10 on";
    match os::kernel_version() {
        Some(version) if version >= (5, 10) => Finding::works(format!("Linux {release}")),
        Some(version) if version < (5, 3) => {
            Finding::missing(format!("Linux {release} has no pidfds: they came with 5.3"))
                .advise(advice)
        }
        _ => Finding::limited(format!(
            "Linux {release}: respawn is made for 5.10 and later"
        ))
        .advise(advice),
    }
}

fn pidfd(_: &Host<'_>) -> Finding {
    match Process::open(std::process::id()) {
        Ok(_) => Finding::works("shows when a process has released everything"),
        Err(error) => Finding::missing(format!("cannot open this process's own: {error:?}"))
            .advise("run a kernel from 5.3 on with /proc mounted, and allow pidfd_open in a container's seccomp filter"),
    }
}

fn runtime_dir(host: &Host<'_>) -> Finding {
    let dir = &host.global.runtime_dir;
    let shown = dir.display();
    let elsewhere = "name another directory with --runtime-dir, or run as root";
    let place = existing(dir);
    if !place.is_dir() {
        let what = place.display();
        return Finding::missing(format!("{what} is not a directory")).advise(elsewhere);
    }
    if let Err(error) = eaccess(&place, AccessFlags::W_OK | AccessFlags::X_OK) {
        let what = place.display();
        return Finding::missing(format!("cannot write in {what}: {}", error.desc()))
            .advise(elsewhere);
    }
    let others_write =
        || fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o022 != 0);
    if place == *dir && others_write() {
        return Finding::limited(format!("{shown} may be written by others than its owner"))
            .advise(format!("chmod go-w {shown}"));
    }
    let state = if place == *dir {
        "is there"
    } else {
        "will be made"
    };
    if is_on(&place, TMPFS_MAGIC) == Some(true) {
        return Finding::works(format!("{shown} {state}, in memory (tmpfs)"));
    }
    Finding::limited(format!(
        "{shown} {state}, but not in memory: each event is written to a disk"
    ))
    .advise("name a directory below /run with --runtime-dir")
}

/// The path, or the nearest directory above it that there is.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|path| path.exists());
    match found {
        // What lies above a relative path's first name is the working directory.
        Some(path) if path.as_os_str().is_empty() => PathBuf::from("."),
        None => PathBuf::from("."),
        Some(path) => path.to_owned(),
    }
}

fn is_on(path: &Path, kind: FsType) -> Option<bool> {
    Some(statfs(path).ok()?.filesystem_type() == kind)
}

fn btf(host: &Host<'_>) -> Finding {
    let advice = if host.global.btf.is_some() {
        "name a whole file with --btf (RESPAWN_BTF), or none for the kernel's own"
    } else {
        "run a kernel with CONFIG_DEBUG_INFO_BTF=y"
    };
    let path = host.btf.display();
    match &host.types {
        Ok(_) => Finding::works(format!("{path}: every field that is read was found")),
        Err(error) => Finding::missing(one_line(error)).advise(advice),
    }
}

fn tracepoint(host: &Host<'_>) -> Finding {
    let Ok(types) = &host.types else {
        return Finding::unknown("not looked for without BTF");
    };
    match types.exit_tracepoint() {
        Ok(ExitTracepoint::GroupDead) => {
            Finding::works("sched_process_exit(task, group_dead): it shows the last thread")
        }
        Ok(ExitTracepoint::TaskOnly) => Finding::works(
            "sched_process_exit(task), as before 6.16: signal->live shows the last thread",
        ),
        Err(error) => {
            Finding::missing(one_line(&error)).advise("run a kernel with CONFIG_TRACEPOINTS=y")
        }
    }
}

fn exit_program(host: &Host<'_>) -> Finding {
    match (&host.trial.loaded, &host.types) {
        (Ok(()), _) => exit_programs(host),
        (Err(_), Err(_)) => Finding::unknown("not tried without BTF"),
        (Err(error), Ok(_)) => Finding::missing(one_line(error)).advise(how_to_load(host, error)),
    }
}

/// Which of them are attached. There may be two, and then the first may have been refused.
fn exit_programs(host: &Host<'_>) -> Finding {
    let programs = host.trial.programs.iter();
    let exits: Vec<&ProgramReport> = programs
        .filter(|program| program.name.starts_with("exit_"))
        .collect();
    let attached: Vec<String> = exits.iter().filter_map(|it| attached(it)).collect();
    let found = format!("loaded and attached: {}", attached.join(", "));
    let refused = |name: &str| {
        let mut exits = exits.iter().filter(|program| program.name == name);
        exits.find_map(|program| program.outcome.as_ref().err())
    };
    match refused(programs::EXIT_EVENT) {
        None => Finding::works(found),
        Some(reason) => Finding::limited(format!(
            "{found}; without {}, which needs tracefs and perf events, the kernel skips exits in \
             bursts: {reason}",
            programs::EXIT_EVENT
        ))
        .advise("allow mounting tracefs and perf_event_open(2); see lockdown"),
    }
}

/// Its name, and what it cost the verifier.
fn attached(program: &ProgramReport) -> Option<String> {
    let instructions = program.outcome.as_ref().ok()?;
    Some(match instructions {
        Some(count) => format!("{} (the kernel checked {count} instructions)", program.name),
        None => program.name.to_owned(),
    })
}

fn early_exits(host: &Host<'_>) -> Finding {
    match host.trial.early {
        None => Finding::unknown("not tried: the exit program is not loaded"),
        Some(true) => Finding::works(
            "an exit is seen while the process still has its memory: `overlap` need not wait for that",
        ),
        Some(false) => {
            let mut programs = host.trial.programs.iter();
            let early = programs.find(|program| program.name == programs::EXIT_EARLY);
            let reason = match early.map(|program| &program.outcome) {
                Some(Err(reason)) => format!(": {reason}"),
                _ => String::new(),
            };
            Finding::limited(format!(
                "an exit is seen only when the process's memory is gone: `overlap` gains nothing, and \
                 the recorder knows no program and no arguments of the dead process{reason}"
            ))
            .advise("run a kernel from 6.16 on")
        }
    }
}

fn birth_program(host: &Host<'_>) -> Finding {
    loaded(host, |name| name == programs::BIRTH)
}

/// Without it only figures are missing.
fn oom_program(host: &Host<'_>) -> Finding {
    let advice = "run a kernel from 6.9 on, if the figures of out-of-memory kills are wanted";
    let found = loaded(host, |name| name == programs::OOM);
    match found.verdict {
        Verdict::Missing => found.advise(advice),
        _ => found,
    }
}

/// What has come of loading a program.
fn loaded(host: &Host<'_>, is_it: impl Fn(&str) -> bool) -> Finding {
    let programs = host.trial.programs.iter();
    let Some(program) = programs.into_iter().find(|program| is_it(program.name)) else {
        return Finding::unknown("not tried: the exit program is not loaded");
    };
    match &program.outcome {
        Ok(instructions) => {
            let work = instructions.map_or(String::new(), |instructions| {
                format!("; the kernel checked {instructions} instructions")
            });
            Finding::works(format!("{} was loaded and attached{work}", program.name))
        }
        Err(reason) => Finding::missing(format!("{}: {reason}", program.name)).advise(REFUSED),
    }
}

/// What to do about a program that the kernel refuses.
const REFUSED: &str = "report this, with what doctor shows, or run another kernel; all else works";

fn how_to_load(host: &Host<'_>, error: &anyhow::Error) -> &'static str {
    if error.is::<Refused>() {
        "report this, with what doctor shows, or run another kernel; without it, deaths are seen by \
         pidfds"
    } else if host.may_load() {
        "see lockdown and the kernel's log; in a container, allow bpf(2) in its seccomp filter and \
         use the initial user namespace"
    } else {
        "run as root, or with CAP_BPF and CAP_PERFMON"
    }
}

fn map(host: &Host<'_>, kind: MapKind, job: &str) -> Finding {
    match has_map_kind(kind) {
        Ok(true) => Finding::works(job),
        Ok(false) => Finding::missing(format!("the kernel does not have this kind; it {job}"))
            .advise("run a kernel from 5.10 on with CONFIG_BPF_SYSCALL=y"),
        Err(error) => {
            let advice = how_to_load(host, &error);
            Finding::missing(one_line(&error)).advise(advice)
        }
    }
}

fn delivery(host: &Host<'_>) -> Finding {
    match &host.trial.delivered {
        Some(Ok(after)) => Finding::works(format!(
            "a child's exit was reported {} after it was final",
            Age(*after)
        )),
        Some(Err(error)) => {
            Finding::missing(one_line(error)).advise("report this, with what doctor says")
        }
        None => Finding::unknown("not tried: the exit program is not loaded"),
    }
}

fn senders(host: &Host<'_>) -> Finding {
    match &host.trial.sender {
        Some(Ok(())) => Finding::works("the sender of a child's signal was reported"),
        Some(Err(error)) => {
            let program = loaded(host, |name| name == programs::SIGNAL);
            if program.verdict == Verdict::Works {
                Finding::missing(one_line(error)).advise("report this, with what doctor shows")
            } else {
                program
            }
        }
        None => Finding::unknown("not tried: the exit program is not loaded"),
    }
}

fn bpffs(host: &Host<'_>) -> Finding {
    let dir = host.global.pin_dir.display();
    let place = existing(&host.global.pin_dir);
    if is_on(&place, BPF_FS_MAGIC) != Some(true) {
        return would_mount(host, &place);
    }
    match eaccess(&place, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Finding::works(format!("{dir} can keep programs and maps")),
        Err(error) => {
            let place = place.display();
            Finding::missing(format!("cannot write in {place}: {}", error.desc()))
                .advise("run as root, or name a directory of yours with --pin-dir")
        }
    }
}

/// Whether the agent can mount a bpf file system for its pin directory, below `place`.
fn would_mount(host: &Host<'_>, place: &Path) -> Finding {
    let dir = &host.global.pin_dir;
    let target = bpffs_target(dir);
    // It is made by the agent if it is missing, which nothing is by looking.
    let target_now = if target == dir { place } else { target };
    match trial::of_mount(target_now) {
        Ok(()) => Finding::works(format!(
            "{} is on no bpf file system yet; the agent mounts one at {}",
            dir.display(),
            target.display()
        )),
        Err(error) => {
            let mut advice = "mount -t bpf bpf /sys/fs/bpf".to_owned();
            if let Some(elsewhere) = mounted("bpf") {
                advice = format!("{advice}, or --pin-dir {}/respawn", elsewhere.display());
            }
            let detail = format!(
                "{} is on no bpf file system, and the agent cannot mount one at {}: {}",
                dir.display(),
                target.display(),
                one_line(&error)
            );
            Finding::missing(detail).advise(advice)
        }
    }
}

/// Where a file system of this type is mounted.
fn mounted(kind: &str) -> Option<PathBuf> {
    let mounts = mounts::mounts().ok()?;
    let mount = mounts.into_iter().find(|mount| mount.kind == kind);
    mount.map(|mount| mount.point)
}

/// How to see what securityfs shows; nothing is mounted by looking.
const SECURITYFS: &str = "mount -t securityfs securityfs /sys/kernel/security, and run this again";

fn lockdown(host: &Host<'_>) -> Finding {
    let text = match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if mounted("securityfs").is_some() {
                Finding::works("this kernel has no lockdown")
            } else {
                Finding::unknown("securityfs is not mounted").advise(SECURITYFS)
            };
        }
        Err(error) => return Finding::unknown(error.to_string()).advise("run as root"),
    };
    let mode = text.split(['[', ']']).nth(1).unwrap_or("?");
    if mode == "confidentiality" {
        let refused = "confidentiality: kernel programs may not read the kernel's memory";
        return if host.trial.loaded.is_ok() {
            Finding::limited(refused)
        } else {
            Finding::missing(refused)
        }
        .advise("boot with lockdown=integrity");
    }
    Finding::works(format!(
        "{mode}: kernel programs may read the kernel's memory"
    ))
}

fn capability(host: &Host<'_>, capability: u32, job: &str) -> Finding {
    let stands_in =
        [CAP_BPF, CAP_PERFMON].contains(&capability) && host.has(CAP_SYS_ADMIN) == Some(true);
    match host.has(capability) {
        Some(true) => Finding::works(format!("to {job}")),
        Some(false) if stands_in => {
            Finding::works(format!("to {job}: CAP_SYS_ADMIN stands for it"))
        }
        Some(false) => {
            let advice = if nix::unistd::geteuid().is_root() {
                "root lacks it here: give it to the container, if that is wanted"
            } else {
                "run the agent as root, or with this capability, if that is wanted"
            };
            Finding::missing(format!("to {job}")).advise(advice)
        }
        None => Finding::unknown("cannot read /proc/self/status").advise("mount /proc"),
    }
}

fn bpf_lsm(_: &Host<'_>) -> Finding {
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(active) if active.trim().split(',').any(|lsm| lsm == "bpf") => {
            Finding::works(format!("among the active: {}", active.trim()))
        }
        Ok(active) => {
            let active = active.trim();
            Finding::missing(format!(
                "not among the active ({active}); nothing uses it yet"
            ))
            .advise(format!("boot with lsm={active},bpf to have it"))
        }
        Err(_) if mounted("securityfs").is_none() => {
            Finding::unknown("securityfs is not mounted; nothing uses it yet").advise(SECURITYFS)
        }
        Err(error) => Finding::unknown(error.to_string()).advise("run as root"),
    }
}

fn cgroup(_: &Host<'_>) -> Finding {
    let advice =
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup, or have the agent's own cgroup delegated";
    let name = Name::passing(format!("doctor-{}", std::process::id()));
    let mut spawner = match Spawner::new(None) {
        Ok(spawner) => spawner,
        Err(error) => return Finding::unknown(format!("cannot start a process: {error}")),
    };
    match Cgroups::open(&name, &mut spawner) {
        Ok(cgroups) => {
            let has_kill = cgroups.path().join("cgroup.kill").exists();
            let place = cgroups.path().parent().unwrap_or(cgroups.path()).display();
            let finding = if has_kill {
                Finding::works(format!("v2: services get cgroups below {place}"))
            } else {
                Finding::limited("v2, without cgroup.kill: trees are killed one by one")
                    .advise("run a kernel from 5.14 on")
            };
            cgroups.remove();
            finding
        }
        Err(error) => Finding::missing(error.to_string()).advise(advice),
    }
}

fn cgroup_ids(_: &Host<'_>) -> Finding {
    if cgroup_id::is_unified() {
        return Finding::works("only cgroup v2: an event has each process's cgroup");
    }
    Finding::limited(
        "cgroup v1 is in use: an event has no cgroup_id of a process that is in the root of v2",
    )
    .advise("boot with systemd.unified_cgroup_hierarchy=1, or have init mount only cgroup2 at /sys/fs/cgroup")
}

fn pid_namespace(_: &Host<'_>) -> Finding {
    match namespace::observer() {
        Ok(0) => Finding::works("the initial one: pids are the host's"),
        Ok(inode) => Finding::works(format!(
            "a nested one ({inode}): only its processes are seen, by the pids that they have in it"
        )),
        Err(error) => Finding::unknown(one_line(&error)).advise("mount /proc"),
    }
}

fn pidfd_exit_info(_: &Host<'_>) -> Finding {
    match trial::of_exit_info() {
        Ok(true) => Finding::works("the cause of a reaped process's exit can be asked for"),
        Ok(false) => Finding::missing("causes of adopted services' exits are known by eBPF only")
            .advise("run a kernel from 6.15 on, where eBPF does not work"),
        Err(error) => Finding::unknown(one_line(&error)),
    }
}

/// Whether an agent may take sockets from the one before it, and from services.
fn pidfd_getfd(host: &Host<'_>) -> Finding {
    const ADVICE: &str =
        "run the agent as root, and give a container CAP_SYS_PTRACE and pidfd_getfd";
    if let Err(error) = trial::of_taking_descriptors() {
        return Finding::missing(one_line(&error)).advise(ADVICE);
    }
    if host.has(CAP_SYS_PTRACE) != Some(false) {
        return Finding::works(
            "a spare holds the sockets of services too, and the next agent takes them from living services",
        );
    }
    // Yama: 0 leaves it to users, 1 allows it for descendants, more does not.
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let found = match scope.trim() {
        "" | "0" => "without CAP_SYS_PTRACE, sockets are only taken from services of the same user",
        _ => {
            "neither a spare nor the next agent takes sockets, without CAP_SYS_PTRACE: kernel.yama.ptrace_scope only allows it for children"
        }
    };
    Finding::limited(found).advise(ADVICE)
}

/// Whether the agent may make the queues of notify sockets longer than the kernel's default.
fn notify_queue(_: &Host<'_>) -> Finding {
    let Some(length) = notify::queue_length() else {
        return Finding::unknown("cannot read net.unix.max_dgram_qlen").advise("mount /proc");
    };
    let found = format!("{length} notifications of a service wait while no agent runs");
    if notify::is_long(length) {
        return Finding::works(found);
    }
    Finding::limited(format!("{found}, and a service that sends more waits"))
        .advise("run the agent as root, or set net.unix.max_dgram_qlen to 512")
}

/// Whether a sandbox's read-only root holds without CAP_SYS_ADMIN.
fn landlock(_: &Host<'_>) -> Finding {
    match spawn::has_landlock() {
        true => Finding::works("a sandbox's read-only root does not need CAP_SYS_ADMIN"),
        false => Finding::limited("missing, or older than its version 3 (Linux 6.2): a sandbox needs CAP_SYS_ADMIN")
            .advise("boot with landlock among those of `lsm=`, and allow it in a container's seccomp filter"),
    }
}

fn clone3(_: &Host<'_>) -> Finding {
    match Spawner::new(None) {
        Ok(spawner) if spawner.has_clone3() => {
            Finding::works("services start in their cgroups, with a pidfd")
        }
        Ok(_) => Finding::missing("refused: services are moved to their cgroups after their start")
            .advise("run a kernel from 5.7 on, and allow clone3 in a container's seccomp filter"),
        Err(error) => Finding::unknown(format!("cannot start a process: {error}")),
    }
}

fn init(_: &Host<'_>) -> Finding {
    let Ok(comm) = fs::read_to_string("/proc/1/comm") else {
        return Finding::unknown("cannot read /proc/1/comm").advise("mount /proc");
    };
    let comm = comm.trim_end();
    let program = fs::read_link("/proc/1/exe").ok();
    let program = program.as_deref().and_then(Path::file_name);
    match program.filter(|program| *program != comm) {
        Some(program) => Finding::works(format!("PID 1 is {comm} ({})", program.to_string_lossy())),
        None => Finding::works(format!("PID 1 is {comm}")),
    }
}

/// Whether an agent is at work, and one that would follow it.
fn running(host: &Host<'_>) -> Finding {
    let dir = &host.global.runtime_dir;
    let install = "`respawn install --init auto` has init keep an agent and its spare";
    if let Err(error @ AskError::Late { .. }) = client::look(dir) {
        return Finding::missing(error.to_string());
    }
    let agent = match client::reach(dir) {
        Ok((_, pid)) if pid != 0 => pid,
        Ok(_) => return Finding::works("an agent of another PID namespace answers"),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Finding::missing(format!("no agent works in {}", dir.display()))
                .advise(install);
        }
        Err(error) => {
            return Finding::unknown(format!("cannot ask in {}: {error}", dir.display()));
        }
    };
    match locks::waiters(agent).as_deref() {
        Ok([spare, ..]) => {
            Finding::works(format!("the agent is pid {agent}, its spare pid {spare}"))
        }
        Ok([]) => {
            Finding::limited(format!("the agent is pid {agent}, and has no spare")).advise(install)
        }
        Err(error) => Finding::works(format!(
            "the agent is pid {agent}; /proc/locks cannot be read: {error}"
        )),
    }
}

/// Whether the deaths of the whole host are recorded.
fn recorder(host: &Host<'_>) -> Finding {
    let pin_dir = host.global.pin_dir.join(sets::RECORDER);
    let mut known = host.pins().iter();
    let Some(known) = known.find(|known| known.set.pin_dir() == pin_dir) else {
        return Finding::missing("no recorder runs: only deaths of services are recorded")
            .advise("`respawn install --recorder --init auto` has init keep one");
    };
    let dir = known.set.held.as_ref().map(|held| &held.runtime_dir);
    let place = dir.map_or_else(String::new, |dir| format!(" in {}", dir.display()));
    match (known.is_left(), known.holder) {
        (false, Some(pid)) => Finding::works(format!("pid {pid} records the host's deaths{place}")),
        (false, None) => Finding::works(format!("a recorder records the host's deaths{place}")),
        (true, _) => Finding::limited(format!(
            "no recorder runs: the kernel keeps deaths for the next one{place}, as far as there is room"
        ))
        .advise("`respawn install --recorder --init auto` has init keep one"),
    }
}

/// Whether somebody reads what services with `log` write.
fn logger(host: &Host<'_>) -> Finding {
    let place = OutputDir::of(&host.global.runtime_dir);
    let services = match place.known().len() {
        0 => return Finding::works("no service has `log`, so that no logger is needed"),
        1 => "1 service has `log`".to_owned(),
        count => format!("{count} services have `log`"),
    };
    let process = place.logger();
    let lives =
        |it: &Instance| matches!(proc::start_time_ns(it.pid), Ok(time) if time == it.start_time_ns);
    match process.filter(lives) {
        Some(logger) => Finding::works(format!(
            "{services}, and the logger is pid {}; a service would wait once {} bytes of its output are unread",
            logger.pid,
            fifo_size()
        )),
        None => Finding::limited(format!(
            "{services}, and no logger runs: a service waits once {} bytes of its output are unread",
            fifo_size()
        ))
        .advise("start the agent, which starts the logger"),
    }
}

/// How much a FIFO of the logger's holds here: users may be limited.
fn fifo_size() -> usize {
    let limit = fs::read_to_string("/proc/sys/fs/pipe-max-size").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    let is_root = nix::unistd::geteuid().is_root();
    limit
        .filter(|_| !is_root)
        .map_or(pipe::CAPACITY, |limit: usize| limit.min(pipe::CAPACITY))
}

/// Whether the kernel has room for more processes to watch.
fn watch_map(host: &Host<'_>) -> Finding {
    let pin_dir = &host.global.pin_dir;
    let mut sets = host.pins().iter().map(|known| &known.set);
    let Some(set) = sets.find(|set| set.is_held && set.pin_dir() == pin_dir) else {
        return Finding::works(format!(
            "the kernel watches four times as many processes as there are services, up to {MOST_WATCHED}"
        ));
    };
    match set.watched() {
        Ok((count, room)) if u32::try_from(count).is_ok_and(|count| count < room) => {
            Finding::works(format!(
                "the kernel watches {count} processes, and has room for {room}"
            ))
        }
        Ok((_, room)) => Finding::limited(format!(
            "the kernel watches {room} processes, and no more: of others that end while no agent \
             lives, the causes stay unknown"
        ))
        .advise("end the agent with SIGTERM: the next one makes room for four times its services"),
        Err(error) => Finding::unknown(one_line(&error)),
    }
}

/// Which pins there are, and whether an agent has them.
fn pins(host: &Host<'_>) -> Finding {
    let sets = match &host.pins {
        Ok(sets) => sets,
        Err(error) => {
            return Finding::unknown(one_line(error)).advise("run as root, with /proc mounted");
        }
    };
    let now = WallClock::read();
    let lines = sets.iter().map(|known| known.line(&now)).collect();
    let left: Vec<&Known> = sets.iter().filter(|known| known.is_left()).collect();
    let count = match sets.len() {
        1 => "1 set of pinned programs".to_owned(),
        count => format!("{count} sets of pinned programs"),
    };
    let finding = match left.first() {
        None if sets.is_empty() => Finding::works("no agent has anything pinned"),
        None => Finding::works(format!("{count}, each held by an agent")),
        Some(first) => {
            let how_many = left.len();
            let found = format!("{count}, {how_many} of them held by no agent");
            let advice = match left.iter().any(|known| known.state == State::Dead) {
                true => "respawn unpin --all-dead".to_owned(),
                false => format!(
                    "start the agent, or, if there is to be none, respawn unpin {}",
                    first.set.path.display()
                ),
            };
            Finding::limited(found).advise(advice)
        }
    };
    finding.list(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_directory_is_found() {
        assert_eq!(existing(Path::new("/no/such/place")), Path::new("/"));
        assert_eq!(existing(Path::new("/proc/self")), Path::new("/proc/self"));
        assert_eq!(existing(Path::new("no/such/place")), Path::new("."));
        assert_eq!(existing(Path::new("")), Path::new("."));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }
}

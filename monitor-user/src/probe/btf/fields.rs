//! The fields of the kernel that its programs read: a table, a line a field.

use monitor_ebpf::Offsets;

/// A field, and where its offset goes.
pub(super) struct Field {
    pub(super) of: &'static str,
    /// What it is called, or was called by other kernels.
    pub(super) paths: &'static [&'static str],
    /// Without it no program works.
    pub(super) needed: bool,
    pub(super) place: fn(&mut Offsets) -> &mut u32,
}

type OffsetSlot = fn(&mut Offsets) -> &mut u32;

const fn needed(of: &'static str, paths: &'static [&'static str], place: OffsetSlot) -> Field {
    Field {
        of,
        paths,
        needed: true,
        place,
    }
}

/// One that not every kernel has.
const fn maybe(of: &'static str, paths: &'static [&'static str], place: OffsetSlot) -> Field {
    Field {
        of,
        paths,
        needed: false,
        place,
    }
}

const TASK: &str = "task_struct";
const SIGNAL: &str = "signal_struct";
const MEMORY: &str = "mm_struct";

/// Every field. The numbers in the paths are the kernel's: PIDTYPE_TGID is 1 and PIDTYPE_SID 3
/// (include/linux/pid_types.h), RLIMIT_CPU 0 and RLIMIT_RTTIME 15
/// (include/uapi/asm-generic/resource.h), MM_FILEPAGES 0, MM_ANONPAGES 1 and MM_SHMEMPAGES 3
/// (include/linux/mm_types_task.h). `rss_stat` has one counter for each kind from 6.2 on; before
/// that it was one struct of counters.
#[rustfmt::skip]
pub(super) const FIELDS: &[Field] = &[
    needed(TASK, &["group_leader"], |to| &mut to.task_group_leader),
    needed(TASK, &["real_parent"], |to| &mut to.task_real_parent),
    needed(TASK, &["tgid"], |to| &mut to.task_tgid),
    needed(TASK, &["exit_code"], |to| &mut to.task_exit_code),
    needed(TASK, &["start_boottime"], |to| &mut to.task_start_boottime),
    needed(TASK, &["comm"], |to| &mut to.task_comm),
    needed(TASK, &["signal"], |to| &mut to.task_signal),
    needed(SIGNAL, &["live"], |to| &mut to.signal_live),
    needed(SIGNAL, &["flags"], |to| &mut to.signal_flags),
    needed(SIGNAL, &["group_exit_code"], |to| &mut to.signal_group_exit_code),
    needed(SIGNAL, &["pids[1]"], |to| &mut to.signal_tgid_pid),
    needed(SIGNAL, &["pids[3]"], |to| &mut to.signal_session_pid),
    needed("pid", &["level"], |to| &mut to.pid_level),
    needed("pid", &["numbers"], |to| &mut to.pid_numbers),
    needed("upid", &["nr"], |to| &mut to.upid_nr),
    needed("upid", &["ns"], |to| &mut to.upid_ns),
    needed("pid_namespace", &["ns.inum"], |to| &mut to.pid_namespace_inum),
    maybe(TASK, &["flags"], |to| &mut to.task_flags),
    maybe(TASK, &["mm"], |to| &mut to.task_mm),
    maybe(TASK, &["utime"], |to| &mut to.task_utime),
    maybe(TASK, &["stime"], |to| &mut to.task_stime),
    maybe(TASK, &["se.sum_exec_runtime"], |to| &mut to.task_sum_exec_runtime),
    maybe(TASK, &["ioac.read_bytes"], |to| &mut to.task_read_bytes),
    maybe(TASK, &["ioac.write_bytes"], |to| &mut to.task_write_bytes),
    maybe(TASK, &["seccomp.mode"], |to| &mut to.task_seccomp_mode),
    maybe(TASK, &["pdeath_signal"], |to| &mut to.task_pdeath_signal),
    maybe(SIGNAL, &["nr_threads"], |to| &mut to.signal_nr_threads),
    maybe(SIGNAL, &["utime"], |to| &mut to.signal_utime),
    maybe(SIGNAL, &["stime"], |to| &mut to.signal_stime),
    maybe(SIGNAL, &["sum_sched_runtime"], |to| &mut to.signal_sum_sched_runtime),
    maybe(SIGNAL, &["ioac.read_bytes"], |to| &mut to.signal_read_bytes),
    maybe(SIGNAL, &["ioac.write_bytes"], |to| &mut to.signal_write_bytes),
    maybe(SIGNAL, &["maxrss"], |to| &mut to.signal_maxrss),
    maybe(SIGNAL, &["rlim[0].rlim_cur"], |to| &mut to.signal_cpu_limit),
    maybe(SIGNAL, &["rlim[15].rlim_cur"], |to| &mut to.signal_real_time_limit),
    maybe(TASK, &["cgroups"], |to| &mut to.task_cgroups),
    maybe("css_set", &["dfl_cgrp"], |to| &mut to.css_set_cgroup),
    maybe("cgroup", &["kn"], |to| &mut to.cgroup_node),
    maybe("kernfs_node", &["id"], |to| &mut to.node_id),
    maybe(SIGNAL, &["oom_mm"], |to| &mut to.signal_oom_mm),
    maybe(SIGNAL, &["oom_score_adj"], |to| &mut to.signal_oom_score_adj),
    maybe(MEMORY, &["total_vm"], |to| &mut to.mm_total_vm),
    maybe(MEMORY, &["hiwater_rss"], |to| &mut to.mm_hiwater_rss),
    maybe(MEMORY, &["rss_stat[0].count", "rss_stat.count[0]"], |to| &mut to.mm_file_pages),
    maybe(MEMORY, &["rss_stat[1].count", "rss_stat.count[1]"], |to| &mut to.mm_anon_pages),
    maybe(MEMORY, &["rss_stat[3].count", "rss_stat.count[3]"], |to| &mut to.mm_shmem_pages),
    maybe(MEMORY, &["arg_start"], |to| &mut to.mm_arg_start),
    maybe(MEMORY, &["arg_end"], |to| &mut to.mm_arg_end),
    maybe(MEMORY, &["exe_file"], |to| &mut to.mm_exe_file),
    maybe("file", &["f_path.dentry"], |to| &mut to.file_dentry),
    maybe("file", &["f_path.mnt"], |to| &mut to.file_mount),
    maybe("dentry", &["d_parent"], |to| &mut to.dentry_parent),
    maybe("dentry", &["d_name.name"], |to| &mut to.dentry_name),
    maybe("vfsmount", &["mnt_root"], |to| &mut to.vfsmount_root),
    maybe("mount", &["mnt"], |to| &mut to.mount_vfsmount),
    maybe("mount", &["mnt_parent"], |to| &mut to.mount_parent),
    maybe("mount", &["mnt_mountpoint"], |to| &mut to.mount_point),
    maybe("kernfs_node", &["name"], |to| &mut to.node_name),
    maybe("kernfs_node", &["parent", "__parent"], |to| &mut to.node_parent),
    maybe(TASK, &["loginuid"], |to| &mut to.task_login_uid),
    maybe(TASK, &["sessionid"], |to| &mut to.task_login_session),
    maybe(SIGNAL, &["tty"], |to| &mut to.signal_tty),
    maybe("tty_struct", &["name"], |to| &mut to.tty_name),
    maybe(TASK, &["sighand"], |to| &mut to.task_sighand),
    maybe("sighand_struct", &["action[0].sa.sa_handler"], |to| &mut to.sighand_first),
    maybe("sighand_struct", &["action[1].sa.sa_handler"], |to| &mut to.sighand_second),
    maybe("pt_regs", &["orig_ax", "syscallno"], |to| &mut to.pt_regs_syscall),
    maybe(TASK, &["stack"], |to| &mut to.task_stack),
    maybe(TASK, &["stack_vm_area"], |to| &mut to.task_stack_area),
    maybe("vm_struct", &["nr_pages"], |to| &mut to.area_pages),
    maybe("trace_event_raw_sched_process_exit", &["group_dead"], |to| &mut to.event_group_dead),
];

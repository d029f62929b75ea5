//! Where a signal came from: what the kernel program saw of it, put into words.
//!
//! Says only what the facts prove. What is left open by them is `None`.

use monitor_ebpf::{
    SENT_AMBIGUOUS, SENT_BY_ENDED_THREAD, SENT_BY_EXITING, SENT_BY_ITSELF, SENT_BY_KERNEL,
    SENT_BY_NAMESPACE_INIT, SENT_CPU_LIMITED, SENT_FOR_SHARED_MEMORY, SENT_IN_SESSION,
    SENT_PARENT_DEATH, SENT_TO_GROUP, SENT_WITHOUT_INFO, SYSCALL_UNKNOWN,
};
use nix::libc;

use super::whole_ticks;
use crate::model::{Fault, How, Origin, Parent, Sender, Signal};
use crate::os::cgroup_id;

/// `si_code` of seccomp's SIGSYS, include/uapi/asm-generic/siginfo.h.
const SYS_SECCOMP: i32 = 1;

/// The least and the most `si_code` of input and output, from the same file.
const POLL_IN: i32 = 1;
const POLL_HUP: i32 = 6;

/// Numbers of `kill` and `ptrace` for programs of 32 bits, on x86 and ARM alike. The calls that have
/// these numbers for others (`alarm` and `msync`, `linkat` and `inotify_init1`) send no signal.
const KILL_32: i32 = 37;
const PTRACE_32: i32 = 26;

/// Numbers of `rt_sigqueueinfo`, `rt_tgsigqueueinfo` and `pidfd_send_signal` for programs of 32 bits,
/// on x86 and ARM.
const SIGQUEUE_32: [i32; 4] = [178, 335, 363, 424];

/// Marks a system call of the x32 ABI (`__X32_SYSCALL_BIT`).
const X32_CALL: i32 = 0x4000_0000;

/// A [`SentSignal`](monitor_ebpf::SentSignal), read from its bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sent {
    pub(super) time_ns: u64,
    pub(super) sender_start_time_ns: u64,
    pub(super) sender_cgroup_id: u64,
    pub(super) address: u64,
    pub(super) signal: Signal,
    pub(super) code: i32,
    pub(super) flags: u32,
    pub(super) syscall: i32,
    pub(super) sender_pid: u32,
    pub(super) sender_host_pid: u32,
    pub(super) sender_uid: u32,
    pub(super) sender_comm: String,
    pub(super) parent: Parent,
}

impl Sent {
    pub(super) fn origin(&self) -> Origin {
        if self.has(SENT_BY_KERNEL) {
            self.by_kernel()
        } else if self.has(SENT_WITHOUT_INFO) {
            self.without_info()
        } else if self.code > 0 {
            self.by_trap()
        } else {
            self.by_system_call()
        }
    }

    /// Whether another signal of its number may have ended the process in its place.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.has(SENT_AMBIGUOUS)
    }

    /// Whether the out-of-memory killer may have sent it (`__oom_kill_process`, mm/oom_kill.c),
    /// whoever ran at that moment.
    pub(super) fn may_be_oom_kill(&self) -> bool {
        self.has(SENT_BY_KERNEL) && self.by_kernel().sender.is_none()
    }

    /// Whose memory the process shared, if the out-of-memory killer sent it for that.
    pub(super) fn oom_victim(&self) -> Option<u32> {
        let for_shared = self.has(SENT_FOR_SHARED_MEMORY) && !self.is_ambiguous();
        for_shared.then(|| u32::try_from(self.address).unwrap_or(0))
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// `SEND_SIG_PRIV`: the kernel's own doing, whoever ran at that moment.
    fn by_kernel(&self) -> Origin {
        let kill = self.signal == Signal::KILL;
        // Of the processes that end, exit_ptrace (kernel/ptrace.c) kills threads, and
        // zap_pid_ns_processes (kernel/pid_namespace.c) whole processes.
        let end_of_other = kill && self.has(SENT_BY_EXITING) && !self.has(SENT_BY_ITSELF);
        let group = self.has(SENT_TO_GROUP);
        if end_of_other && group && self.has(SENT_BY_NAMESPACE_INIT) {
            return self.by_sender(How::NamespaceEnd);
        }
        if end_of_other && !group {
            return self.by_sender(How::TracerEnd);
        }
        // check_process_timers (kernel/time/posix-cpu-timers.c)
        let limit = kill || self.signal.number() == libc::SIGXCPU;
        if limit && self.has(SENT_BY_ITSELF) && self.has(SENT_CPU_LIMITED) {
            return nobody(How::CpuLimit);
        }
        nobody(match self.signal.number() {
            // __isig (drivers/tty/n_tty.c)
            libc::SIGINT | libc::SIGQUIT => How::Terminal,
            // __tty_hangup (drivers/tty/tty_io.c), disassociate_ctty (drivers/tty/tty_jobctrl.c),
            // kill_orphaned_pgrp (kernel/exit.c)
            libc::SIGHUP => How::Hangup,
            // it_real_fn (kernel/time/itimer.c), check_cpu_itimer (kernel/time/posix-cpu-timers.c)
            libc::SIGALRM | libc::SIGVTALRM | libc::SIGPROF => How::Timer,
            // send_sigio_to_task (fs/fcntl.c)
            libc::SIGIO => How::Notification,
            _ => How::Kernel,
        })
    }

    /// `SEND_SIG_NOINFO`: the kernel, in the name of whoever ran.
    fn without_info(&self) -> Origin {
        if self.has(SENT_PARENT_DEATH) && self.has(SENT_BY_EXITING) {
            // It comes at the end of the thread that forked (reparent_leader, kernel/exit.c).
            let lives_on = self.has(SENT_BY_ENDED_THREAD);
            return self.by_sender(match lives_on {
                true => How::ParentThreadDeath,
                false => How::ParentDeath,
            });
        }
        if self.signal == Signal::KILL && !self.has(SENT_TO_GROUP) {
            return self.by_thread_kill();
        }
        // kill(2) does that in Linux 7.3 (kernel/signal.c).
        if self.has(SENT_TO_GROUP) {
            if self.is_in_call(libc::SYS_kill, KILL_32) {
                return self.by_sender(How::Kill);
            }
            if self.syscall < 0 {
                return Origin::default();
            }
        }
        // Sent to the caller itself, from within the call: by pipe_write (fs/pipe.c),
        // sk_stream_error (net/core/stream.c) and the like; by generic_write_check_limits
        // (fs/read_write.c).
        let in_call = self.has(SENT_BY_ITSELF) && i64::from(self.syscall) != libc::SYS_kill;
        nobody(match self.signal.number() {
            libc::SIGPIPE if in_call => How::BrokenPipe,
            libc::SIGXFSZ if in_call => How::FileSizeLimit,
            _ => How::Kernel,
        })
    }

    /// SIGKILL to a thread, without info: `__cgroup_kill` (kernel/cgroup/cgroup.c) sends it to each
    /// thread, and `PTRACE_KILL` (kernel/ptrace.c) to the one that is traced.
    fn by_thread_kill(&self) -> Origin {
        let how = match self.syscall {
            ..0 => None,
            _ if self.is_in_call(libc::SYS_ptrace, PTRACE_32) => None,
            _ => Some(How::CgroupKill),
        };
        Origin {
            how,
            ..self.by_sender(How::CgroupKill)
        }
    }

    /// Whether the sender was in a system call, given by its number for programs of this machine's
    /// word and for those of 32 bits.
    fn is_in_call(&self, number: i64, number_32: i32) -> bool {
        i64::from(self.syscall & !X32_CALL) == number || self.syscall == number_32
    }

    /// A positive `si_code`, which no system call can send to another process.
    fn by_trap(&self) -> Origin {
        let traps = [
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGSEGV,
        ];
        let signal = self.signal.number();
        if signal == libc::SIGSYS && self.code == SYS_SECCOMP {
            return nobody(How::Seccomp);
        }
        // send_sigio_to_task (fs/fcntl.c), for a signal of the process's choice (F_SETSIG). The
        // end of a child may be told by one as well (do_notify_parent, kernel/signal.c).
        let is_input = (POLL_IN..=POLL_HUP).contains(&self.code);
        let has_codes = traps.contains(&signal) || signal == libc::SIGSYS;
        if is_input && !has_codes && !self.has(SENT_BY_EXITING) {
            return nobody(How::Notification);
        }
        if !self.has(SENT_BY_ITSELF) || !traps.contains(&signal) {
            return nobody(How::Kernel);
        }
        Origin {
            fault: Some(Fault {
                code: self.code,
                name: code_name(signal, self.code).map(str::to_owned),
                address: self.address,
            }),
            ..self.by_sender(How::Fault)
        }
    }

    /// `si_code` 0 or less: what system calls send, but what timers and the like send as well.
    fn by_system_call(&self) -> Origin {
        if let Some(how) = self.asked_for()
            && !self.may_choose_code()
        {
            return match self.syscall {
                SYSCALL_UNKNOWN => Origin::default(),
                // One of the calls that let their caller choose, or another one: who knows.
                call if SIGQUEUE_32.contains(&call) => Origin::default(),
                _ => nobody(how),
            };
        }
        // A code of the caller's choice; to another process none that the calls above it give.
        let others = [libc::SI_USER, libc::SI_TKILL];
        let is_free = self.has(SENT_BY_ITSELF) || !others.contains(&self.code);
        let (how, gives_code) = match i64::from(self.syscall) {
            libc::SYS_kill => (Some(How::Kill), self.code == libc::SI_USER),
            libc::SYS_tkill => (Some(How::Tkill), self.code == libc::SI_TKILL),
            libc::SYS_tgkill => (Some(How::Tgkill), self.code == libc::SI_TKILL),
            libc::SYS_rt_sigqueueinfo | libc::SYS_rt_tgsigqueueinfo => {
                (Some(How::Sigqueue), is_free)
            }
            // Without a `siginfo` it makes one as the first two do.
            libc::SYS_pidfd_send_signal => (Some(How::Pidfd), true),
            _ => (None, true),
        };
        // Something else sent it meanwhile: a timer, say.
        if !gives_code {
            return Origin::default();
        }
        // A program for 32 bits has other numbers; then the code tells.
        let how = how.or(match self.code {
            libc::SI_USER => Some(How::Kill),
            libc::SI_TKILL => Some(How::Tgkill),
            libc::SI_QUEUE => Some(How::Sigqueue),
            _ => None,
        });
        match how {
            Some(how) => self.by_sender(how),
            // Not in a call that sends signals: whoever ran is not the sender.
            None if self.syscall == SYSCALL_UNKNOWN => Origin::default(),
            None => nobody(How::Kernel),
        }
    }

    /// What the process had asked for, if the kernel sent it for that, whoever ran.
    fn asked_for(&self) -> Option<How> {
        match self.code {
            // send_sigqueue (kernel/signal.c)
            libc::SI_TIMER => Some(How::Timer),
            // do_mq_notify (ipc/mqueue.c), send_sigio_to_task (fs/fcntl.c), async_completed
            // (drivers/usb/core/devio.c)
            libc::SI_MESGQ | libc::SI_SIGIO | libc::SI_ASYNCIO => Some(How::Notification),
            _ => None,
        }
    }

    /// Whether the sender was in a call that lets it choose `si_code`.
    fn may_choose_code(&self) -> bool {
        let calls = [
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_pidfd_send_signal,
        ];
        calls.contains(&i64::from(self.syscall & !X32_CALL))
    }

    fn by_sender(&self, how: How) -> Origin {
        let itself = self.has(SENT_BY_ITSELF);
        Origin {
            how: Some(how),
            sender: Some(Sender {
                pid: self.sender_pid,
                host_pid: self.sender_host_pid,
                start_time_ns: whole_ticks(self.sender_start_time_ns),
                uid: self.sender_uid,
                comm: self.sender_comm.clone(),
                cgroup_id: cgroup_id::meaningful(self.sender_cgroup_id),
                parent: Some(self.parent.clone()),
                itself,
                own: itself || self.has(SENT_IN_SESSION),
                profile: None,
            }),
            fault: None,
        }
    }
}

fn nobody(how: How) -> Origin {
    Origin {
        how: Some(how),
        ..Origin::default()
    }
}

/// The name of a signal's `si_code` (include/uapi/asm-generic/siginfo.h).
fn code_name(signal: i32, code: i32) -> Option<&'static str> {
    let names: &[&'static str] = match signal {
        libc::SIGILL => &[
            "ILL_ILLOPC",
            "ILL_ILLOPN",
            "ILL_ILLADR",
            "ILL_ILLTRP",
            "ILL_PRVOPC",
            "ILL_PRVREG",
            "ILL_COPROC",
            "ILL_BADSTK",
        ],
        libc::SIGFPE => &[
            "FPE_INTDIV",
            "FPE_INTOVF",
            "FPE_FLTDIV",
            "FPE_FLTOVF",
            "FPE_FLTUND",
            "FPE_FLTRES",
            "FPE_FLTINV",
            "FPE_FLTSUB",
        ],
        libc::SIGSEGV => &["SEGV_MAPERR", "SEGV_ACCERR", "SEGV_BNDERR", "SEGV_PKUERR"],
        libc::SIGBUS => &["BUS_ADRALN", "BUS_ADRERR", "BUS_OBJERR", "BUS_MCEERR_AR"],
        libc::SIGTRAP => &["TRAP_BRKPT", "TRAP_TRACE", "TRAP_BRANCH", "TRAP_HWBKPT"],
        _ => &[],
    };
    let index = usize::try_from(code.checked_sub(1)?).ok()?;
    names.get(index).copied()
}

#[cfg(test)]
mod tests {
    use monitor_ebpf::SYSCALL_NONE;

    use super::*;

    fn sent(signal: i32, code: i32, flags: u32, syscall: i64) -> Origin {
        Sent {
            time_ns: 0,
            sender_start_time_ns: 15_000_001,
            sender_cgroup_id: 1,
            address: 0xbeef,
            signal: Signal::from_number(signal).unwrap(),
            code,
            flags,
            syscall: i32::try_from(syscall).unwrap(),
            sender_pid: 7,
            sender_host_pid: 70,
            sender_uid: 1000,
            sender_comm: "bash".to_owned(),
            parent: Parent {
                pid: 1,
                comm: "init".to_owned(),
            },
        }
        .origin()
    }

    const UNKNOWN: i64 = SYSCALL_UNKNOWN as i64;
    const NO_CALL: i64 = SYSCALL_NONE as i64;
    const GROUP: u32 = SENT_TO_GROUP;
    const ITSELF: u32 = SENT_BY_ITSELF;
    const EXITING: u32 = SENT_BY_EXITING;
    const KERNEL: u32 = SENT_BY_KERNEL;
    const NO_INFO: u32 = SENT_WITHOUT_INFO;
    const LIMITED: u32 = KERNEL | ITSELF | GROUP | SENT_CPU_LIMITED;
    const DYING: u32 = NO_INFO | GROUP | EXITING | SENT_PARENT_DEATH;
    const THREAD: u32 = DYING | SENT_BY_ENDED_THREAD;
    const INIT: u32 = KERNEL | GROUP | EXITING | SENT_BY_NAMESPACE_INIT;

    /// Signal, `si_code`, flags, system call; way, whether a sender is told.
    type Case = (i32, i32, u32, i64, Option<How>, bool);

    #[rustfmt::skip]
    const CASES: &[Case] = &[
        (libc::SIGTERM, 0, GROUP, libc::SYS_kill, Some(How::Kill), true),
        (libc::SIGTERM, 0, GROUP, -1, Some(How::Kill), true),
        (libc::SIGTERM, 0, GROUP, 37, Some(How::Kill), true),
        (libc::SIGTERM, 0, GROUP, libc::SYS_pidfd_send_signal, Some(How::Pidfd), true),
        (libc::SIGABRT, -6, ITSELF, libc::SYS_tgkill, Some(How::Tgkill), true),
        (libc::SIGTERM, -1, GROUP, libc::SYS_rt_sigqueueinfo, Some(How::Sigqueue), true),
        // With a timer's code: sent by a call, and by a timer.
        (libc::SIGTERM, -2, GROUP, libc::SYS_rt_sigqueueinfo, Some(How::Sigqueue), true),
        (libc::SIGTERM, -2, GROUP, libc::SYS_write, Some(How::Timer), false),
        (libc::SIGTERM, -3, GROUP, libc::SYS_mq_timedsend, Some(How::Notification), false),
        (libc::SIGTERM, -60, GROUP, libc::SYS_write, Some(How::Kernel), false),
        (libc::SIGTERM, -2, GROUP, UNKNOWN, None, false),
        // While the process that ran was in a call that sends no such code, or in none.
        (libc::SIGTERM, -2, GROUP, NO_CALL, Some(How::Timer), false),
        (libc::SIGTERM, -2, GROUP, libc::SYS_kill, Some(How::Timer), false),
        (libc::SIGTERM, -2, 0, libc::SYS_tkill, Some(How::Timer), false),
        (libc::SIGTERM, -2, 0, libc::SYS_tgkill, Some(How::Timer), false),
        (libc::SIGTERM, -3, GROUP, NO_CALL, Some(How::Notification), false),
        (libc::SIGSEGV, -5, GROUP, libc::SYS_write, Some(How::Notification), false),
        (libc::SIGTERM, 1, GROUP, libc::SYS_write, Some(How::Notification), false),
        (libc::SIGIO, 1, GROUP | ITSELF, libc::SYS_write, Some(How::Notification), false),
        (libc::SIGTERM, 1, GROUP | EXITING, libc::SYS_exit_group, Some(How::Kernel), false),
        (libc::SIGSYS, 2, ITSELF, -1, Some(How::Kernel), false),
        (libc::SIGTERM, 0, GROUP, NO_CALL, Some(How::Kill), true),
        // Of a program for 32 bits.
        (libc::SIGTERM, -2, GROUP, 178, None, false),
        (libc::SIGTERM, -6, 0, libc::SYS_kill, None, false),
        (libc::SIGTERM, 0, GROUP, libc::SYS_tgkill, None, false),
        (libc::SIGTERM, 0, GROUP, libc::SYS_rt_sigqueueinfo, None, false),
        (libc::SIGTERM, -6, 0, libc::SYS_rt_tgsigqueueinfo, None, false),
        // What they do send.
        (libc::SIGTERM, -6, 0, libc::SYS_tkill, Some(How::Tkill), true),
        (libc::SIGTERM, -3, 0, libc::SYS_rt_tgsigqueueinfo, Some(How::Sigqueue), true),
        (libc::SIGTERM, 0, GROUP | ITSELF, libc::SYS_rt_sigqueueinfo, Some(How::Sigqueue), true),
        (libc::SIGTERM, -6, 0, libc::SYS_pidfd_send_signal, Some(How::Pidfd), true),
        (libc::SIGTERM, -2, GROUP, libc::SYS_pidfd_send_signal, Some(How::Pidfd), true),
        (libc::SIGALRM, libc::SI_KERNEL, KERNEL | GROUP, libc::SYS_kill, Some(How::Timer), false),
        (libc::SIGVTALRM, libc::SI_KERNEL, KERNEL | GROUP | ITSELF, -1, Some(How::Timer), false),
        (libc::SIGPROF, libc::SI_KERNEL, KERNEL | GROUP | ITSELF, -1, Some(How::Timer), false),
        (libc::SIGHUP, libc::SI_KERNEL, KERNEL | GROUP | EXITING, -1, Some(How::Hangup), false),
        (libc::SIGHUP, libc::SI_KERNEL, KERNEL | GROUP, libc::SYS_close, Some(How::Hangup), false),
        (libc::SIGINT, libc::SI_KERNEL, KERNEL | GROUP, -1, Some(How::Terminal), false),
        (libc::SIGQUIT, libc::SI_KERNEL, KERNEL | GROUP, -1, Some(How::Terminal), false),
        (libc::SIGIO, libc::SI_KERNEL, KERNEL | GROUP, -1, Some(How::Notification), false),
        (libc::SIGTERM, libc::SI_KERNEL, KERNEL | GROUP, -1, Some(How::Kernel), false),
        (libc::SIGKILL, 0, NO_INFO, libc::SYS_write, Some(How::CgroupKill), true),
        (libc::SIGKILL, 0, NO_INFO, libc::SYS_ptrace, None, true),
        (libc::SIGKILL, 0, NO_INFO, 26, None, true),
        (libc::SIGKILL, 0, NO_INFO, -1, None, true),
        // kill(2) without a siginfo, by programs of 64 bits, of 32 bits and of x32.
        (libc::SIGKILL, 0, NO_INFO | GROUP, libc::SYS_kill, Some(How::Kill), true),
        (libc::SIGTERM, 0, NO_INFO | GROUP, libc::SYS_kill, Some(How::Kill), true),
        (libc::SIGTERM, 0, NO_INFO | GROUP | ITSELF, libc::SYS_kill, Some(How::Kill), true),
        (libc::SIGTERM, 0, NO_INFO | GROUP, 37, Some(How::Kill), true),
        (libc::SIGTERM, 0, NO_INFO | GROUP, libc::SYS_kill | 0x4000_0000, Some(How::Kill), true),
        (libc::SIGTERM, 0, NO_INFO | GROUP, libc::SYS_write, Some(How::Kernel), false),
        (libc::SIGTERM, 0, NO_INFO | GROUP, -1, None, false),
        // A child that was being forked into a cgroup when that was killed.
        (libc::SIGKILL, 0, NO_INFO | GROUP, libc::SYS_clone, Some(How::Kernel), false),
        (libc::SIGTERM, 0, DYING, -1, Some(How::ParentDeath), true),
        (libc::SIGKILL, 0, DYING, -1, Some(How::ParentDeath), true),
        (libc::SIGTERM, 0, THREAD, libc::SYS_exit, Some(How::ParentThreadDeath), true),
        (libc::SIGKILL, 0, THREAD, -1, Some(How::ParentThreadDeath), true),
        (libc::SIGPIPE, 0, NO_INFO | ITSELF, libc::SYS_write, Some(How::BrokenPipe), false),
        (libc::SIGPIPE, 0, NO_INFO | ITSELF, -1, Some(How::BrokenPipe), false),
        (libc::SIGXFSZ, 0, NO_INFO | ITSELF, libc::SYS_write, Some(How::FileSizeLimit), false),
        // From Linux 7.3 on kill(2) has no siginfo either.
        (libc::SIGPIPE, 0, NO_INFO | ITSELF | GROUP, libc::SYS_kill, Some(How::Kill), true),
        (libc::SIGPIPE, 0, NO_INFO | GROUP, libc::SYS_write, Some(How::Kernel), false),
        (libc::SIGKILL, libc::SI_KERNEL, LIMITED, -1, Some(How::CpuLimit), false),
        (libc::SIGXCPU, libc::SI_KERNEL, LIMITED, -1, Some(How::CpuLimit), false),
        (libc::SIGKILL, libc::SI_KERNEL, KERNEL | ITSELF | GROUP, -1, Some(How::Kernel), false),
        (libc::SIGKILL, libc::SI_KERNEL, KERNEL | EXITING, -1, Some(How::TracerEnd), true),
        (libc::SIGKILL, libc::SI_KERNEL, INIT, -1, Some(How::NamespaceEnd), true),
        (libc::SIGKILL, libc::SI_KERNEL, KERNEL | GROUP | EXITING, -1, Some(How::Kernel), false),
        (libc::SIGSEGV, 1, ITSELF, -1, Some(How::Fault), true),
        (libc::SIGSEGV, libc::SI_KERNEL, ITSELF, -1, Some(How::Fault), true),
        (libc::SIGFPE, 1, ITSELF, -1, Some(How::Fault), true),
        (libc::SIGSYS, 1, ITSELF, -1, Some(How::Seccomp), false),
    ];

    #[test]
    fn the_facts_tell_the_way() {
        for &(signal, code, flags, syscall, how, has_sender) in CASES {
            let origin = sent(signal, code, flags, syscall);
            let case = format!("signal {signal} code {code} flags {flags:#x} call {syscall}");
            assert_eq!(origin.how, how, "{case}");
            assert_eq!(origin.sender.is_some(), has_sender, "{case}");
            assert_eq!(origin.fault.is_some(), how == Some(How::Fault), "{case}");
        }
    }

    #[test]
    fn a_fault_has_its_name_and_address() {
        let fault = sent(libc::SIGSEGV, 2, SENT_BY_ITSELF, -1).fault.unwrap();
        assert_eq!(
            (fault.name.as_deref(), fault.address),
            (Some("SEGV_ACCERR"), 0xbeef)
        );
        let fault = sent(libc::SIGSEGV, libc::SI_KERNEL, SENT_BY_ITSELF, -1).fault;
        assert_eq!(fault.unwrap().name, None);
    }

    #[test]
    fn a_sender_is_of_the_service_if_it_is_in_its_session() {
        let own = |flags| {
            let sender = sent(libc::SIGTERM, 0, flags, libc::SYS_kill)
                .sender
                .unwrap();
            assert_eq!(sender.start_time_ns, 10_000_000);
            (sender.itself, sender.own)
        };
        assert_eq!(own(SENT_TO_GROUP), (false, false));
        assert_eq!(own(SENT_IN_SESSION), (false, true));
        assert_eq!(own(SENT_BY_ITSELF | SENT_IN_SESSION), (true, true));
    }
}

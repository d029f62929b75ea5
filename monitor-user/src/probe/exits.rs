//! The programs that see processes end: which of them a kernel gets.
//!
//! ```text
//! 7.0 and later     exit_event, then exit_group_dead: the one sees what the other was skipped for
//! 6.16 to 6.19      exit_group_dead
//! before 6.16       exit_early, then exit_live_zero, which is late
//! ```
//! From 7.0 on a thread can be preempted within a program on a raw tracepoint, and for as long as
//! it is, the kernel skips that program on that CPU (`__bpf_trace_run`, kernel/trace/bpf_trace.c).
//! An event of perf allows no preemption; its programs are skipped while a thread that was
//! preempted on that CPU is in a map's system call (`bpf_prog_active`). Both at once is rare. A
//! program at a function's beginning (5.11 and later) can be preempted as well.
//!
//! Where two see the same exit, whoever takes the watch entry out, or claims the process, reports.

use super::btf::{EARLY_EXIT, ExitTracepoint, KernelTypes};
use super::object::Hook;
use monitor_ebpf::programs;

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExitProgram {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    /// Its bit in the notes.
    pub(super) note: u64,
}

const TRACEPOINT: &str = "sched_process_exit";

const EVENT: ExitProgram = ExitProgram {
    name: programs::EXIT_EVENT,
    hook: Hook::Event("sched", TRACEPOINT),
    note: 4,
};
const GROUP_DEAD: ExitProgram = ExitProgram {
    name: programs::EXIT_GROUP_DEAD,
    hook: Hook::RawTracepoint(TRACEPOINT),
    note: 8,
};
const EARLY: ExitProgram = ExitProgram {
    name: programs::EXIT_EARLY,
    hook: Hook::Function(EARLY_EXIT),
    note: 16,
};
const LIVE_ZERO: ExitProgram = ExitProgram {
    name: programs::EXIT_LIVE_ZERO,
    hook: Hook::RawTracepoint(TRACEPOINT),
    note: 32,
};

/// Every one that there is.
pub(super) const ALL: [&ExitProgram; 4] = [&EVENT, &GROUP_DEAD, &EARLY, &LIVE_ZERO];

/// From this kernel on `synchronize_rcu_tasks` waits for no process that is ending.
const NO_DEADLOCK_FROM: (u32, u32) = (6, 9);

/// Why a program must not be attached here, if so.
///
/// Detaching one from a function calls `synchronize_rcu_tasks` (`unregister_ftrace_direct`,
/// kernel/trace/ftrace.c), and before 6.9 that waits for each process between `exit_tasks_rcu_start` and
/// `exit_tasks_rcu_finish` (`do_exit`, kernel/exit.c). PID 1 of a PID namespace waits there for its
/// processes (`zap_pid_ns_processes`, kernel/pid_namespace.c). So one that is killed with PID 1, and
/// detaches its program in its own exit, waits for PID 1 and PID 1 for it, for ever; and so does
/// everybody on the host who attaches or detaches such a program from then on.
pub(super) fn danger(
    hook: Hook,
    kernel: Option<(u32, u32)>,
    is_in_namespace: bool,
) -> Option<&'static str> {
    let is_of_a_function = matches!(hook, Hook::Function(_));
    let may_hang = kernel.is_none_or(|version| version < NO_DEADLOCK_FROM);
    (is_of_a_function && may_hang && is_in_namespace).then_some(
        "it is not attached within a PID namespace: before Linux 6.9, the kernel hangs if it is detached \
         while PID 1 of the namespace ends",
    )
}

/// What a kernel gets: the first is tried, and the second has to be taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) first: Option<&'static ExitProgram>,
    pub(super) needed: &'static ExitProgram,
}

/// The first kernel that lets threads be preempted within programs on tracepoints.
const PREEMPTIBLE_FROM: (u32, u32) = (7, 0);

/// Whether a program on a raw tracepoint may be skipped.
pub(super) fn may_be_skipped(kernel: Option<(u32, u32)>) -> bool {
    kernel.is_none_or(|version| version >= PREEMPTIBLE_FROM)
}

impl Choice {
    /// What this kernel gets; `live_zero`: as before 6.16.
    ///
    /// # Errors
    /// It has no such tracepoint.
    pub(super) fn of(
        types: &KernelTypes,
        live_zero: bool,
        kernel: Option<(u32, u32)>,
    ) -> anyhow::Result<Self> {
        Ok(match types.exit_tracepoint()? {
            ExitTracepoint::GroupDead if !live_zero => Self {
                first: (may_be_skipped(kernel) && types.shows_exit_events()).then_some(&EVENT),
                needed: &GROUP_DEAD,
            },
            _ => Self {
                first: types.has_early_exit().then_some(&EARLY),
                needed: &LIVE_ZERO,
            },
        })
    }

    /// Whether a process may be seen to end more than once.
    pub(super) fn must_claim(self) -> bool {
        self.first.is_some() || *self.needed == LIVE_ZERO
    }
}

/// Whether exits are seen while the process still has its memory, with these programs attached.
pub(super) fn are_early(attached: u64) -> bool {
    attached & (EVENT.note | GROUP_DEAD.note | EARLY.note) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_may_be_skipped_from_7_0_on() {
        for (kernel, expected) in [
            (Some((5, 10)), false),
            (Some((6, 19)), false),
            (Some((7, 0)), true),
            (Some((7, 3)), true),
            (None, true),
        ] {
            assert_eq!(may_be_skipped(kernel), expected, "{kernel:?}");
        }
    }

    #[test]
    fn before_6_9_no_program_is_attached_to_a_function_within_a_pid_namespace() {
        for (program, kernel, is_in_namespace, expected) in [
            (&EARLY, Some((6, 1)), true, true),
            (&EARLY, Some((6, 8)), true, true),
            (&EARLY, None, true, true),
            (&EARLY, Some((6, 9)), true, false),
            (&EARLY, Some((6, 1)), false, false),
            (&LIVE_ZERO, Some((6, 1)), true, false),
            (&GROUP_DEAD, None, true, false),
            (&EVENT, None, true, false),
        ] {
            let danger = danger(program.hook, kernel, is_in_namespace);
            assert_eq!(danger.is_some(), expected, "{} {kernel:?}", program.name);
        }
    }

    #[test]
    fn each_program_has_a_note_of_its_own() {
        let notes = ALL.iter().fold(0, |all, program| {
            assert_eq!(all & program.note, 0, "{}", program.name);
            all | program.note
        });
        assert_eq!(notes & 3, 0, "those of signals and of out-of-memory kills");
        assert!(are_early(EARLY.note | LIVE_ZERO.note));
        assert!(!are_early(LIVE_ZERO.note));
    }
}

//! The only reader of the kernel's bytes.

mod death;
mod origin;

pub(crate) use self::death::{Death, death};

use std::mem::offset_of;
use std::time::Duration;

use monitor_ebpf::{
    COMM_LEN, EXIT_CHILD, EXIT_IO_COUNTED, EXIT_OOM_FIGURES, EXIT_OOM_VICTIM, EXIT_SECCOMP,
    EXIT_WATCHED, ExitRecord, SentSignal, TICK_NS,
};

use self::origin::Sent;
use crate::model::{
    Attempt, Blame, Cause, How, Instance, LastSignal, OomKill, Origin, Parent, Sender, Signal,
    Usage, fnv1a,
};
use crate::os::{cgroup_id, page_size};

/// A process's exit, as the kernel program reported it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProcessExit {
    /// The process, in the observer's PID namespace.
    pub(crate) instance: Instance,
    /// Its pid in the initial PID namespace.
    pub(crate) host_pid: u32,
    /// Its parent; 0 if that is outside the observer's PID namespace.
    pub(crate) parent_pid: u32,
    /// Real user ID.
    pub(crate) uid: u32,
    /// ID of its cgroup in the v2 hierarchy, if that says where it belongs.
    pub(crate) cgroup_id: Option<u64>,
    /// Its name at its death; bytes that are not UTF-8 replaced.
    pub(crate) comm: String,
    /// When its exit became final, since boot.
    pub(crate) exited_at: Duration,
    /// From start to exit.
    pub(crate) uptime: Duration,
    /// Why.
    pub(crate) cause: Cause,
    /// The last signal before, by which another process had asked it to end.
    pub(crate) last_signal: Option<LastSignal>,
    /// What it had used.
    pub(crate) usage: Usage,
    /// Whether it was taken out of the watch map by this report.
    pub(crate) watched: bool,
    /// Of whose birth it was the end, if that was recorded: service and attempt.
    pub(crate) birth: Option<Birth>,
    /// In whose tree it was, if it was reported for that.
    pub(crate) tree: Option<OfTree>,
}

/// What the record of a process in a service's tree says of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OfTree {
    /// Whose.
    pub(crate) birth: Birth,
    /// So many of the tree before it had no record.
    pub(crate) left_out: u64,
}

/// What the kernel recorded when an agent forked an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Birth {
    /// The service's number: see [`service_number`].
    pub(crate) service: u64,
    /// Which start of it.
    pub(crate) attempt: u64,
}

impl ProcessExit {
    /// Takes senders for the service's own that are in its cgroup, if that is the service's alone.
    pub(crate) fn cgroup_is_its_own(&mut self) {
        let own = self.cgroup_id;
        for sender in self.senders_mut() {
            sender.own |= own.is_some() && sender.cgroup_id == own;
        }
    }

    /// Who sent the signal that ended it, and who had asked it to end before.
    pub(crate) fn senders_mut(&mut self) -> impl Iterator<Item = &mut Sender> {
        let last = self.last_signal.as_mut();
        let of_request = last.and_then(|last| last.sender.as_mut());
        self.cause.sender_mut().into_iter().chain(of_request)
    }
}

impl Birth {
    /// Of no service.
    pub(crate) const NONE: Self = Self {
        service: 0,
        attempt: 0,
    };

    /// That start of a service.
    pub(crate) fn of(service: &str, attempt: Attempt) -> Self {
        Self {
            service: service_number(service),
            attempt: attempt.0,
        }
    }
}

/// The number by which the kernel's records name a service: the same in every agent, never 0.
pub(crate) fn service_number(name: &str) -> u64 {
    fnv1a(name.bytes()).max(1)
}

/// Start time as `/proc` tells it: whole ticks.
pub(crate) fn whole_ticks(start_time_ns: u64) -> u64 {
    start_time_ns - start_time_ns % TICK_NS
}

/// Reads an exit record; `None` if the bytes are not one.
pub(crate) fn exit(bytes: &[u8]) -> Option<ProcessExit> {
    let field = Fields::of(bytes)?;
    let start = field.u64(offset_of!(ExitRecord, start_time_ns));
    let service = field.u64(offset_of!(ExitRecord, service));
    let exit = field.u64(offset_of!(ExitRecord, exit_time_ns));
    let sent = field.sent(offset_of!(ExitRecord, sent));
    let asked = field.sent(offset_of!(ExitRecord, asked));
    let flags = field.u32(offset_of!(ExitRecord, flags));
    let cause = field.cause(flags, sent.as_ref());
    let birth = (service != 0).then(|| Birth {
        service,
        attempt: field.u64(offset_of!(ExitRecord, attempt)),
    });
    Some(ProcessExit {
        instance: Instance {
            pid: field.u32(offset_of!(ExitRecord, pid)),
            start_time_ns: whole_ticks(start),
        },
        host_pid: field.u32(offset_of!(ExitRecord, host_pid)),
        parent_pid: field.u32(offset_of!(ExitRecord, parent_pid)),
        uid: field.u32(offset_of!(ExitRecord, uid)),
        cgroup_id: cgroup_id::meaningful(field.u64(offset_of!(ExitRecord, cgroup_id))),
        comm: field.comm(offset_of!(ExitRecord, comm)),
        exited_at: Duration::from_nanos(exit),
        uptime: Duration::from_nanos(exit.saturating_sub(start)),
        cause,
        last_signal: asked.map(|asked| {
            let Origin { how, sender, .. } = asked.origin();
            LastSignal {
                signal: asked.signal,
                before_exit_ns: exit.saturating_sub(asked.time_ns),
                how,
                sender,
            }
        }),
        usage: field.usage(flags),
        watched: flags & EXIT_WATCHED != 0,
        birth: birth.filter(|_| flags & EXIT_CHILD == 0),
        tree: birth
            .filter(|_| flags & EXIT_CHILD != 0)
            .map(|birth| OfTree {
                birth,
                left_out: field.u64(offset_of!(ExitRecord, left_out)),
            }),
    })
}

/// The versions whose records this build reads: the fields of version 6 have kept their places, and
/// a record grows at its end. Whoever has to break that counts this up, or translates.
pub(crate) const READABLE_FROM: u32 = 6;
/// How long a record of version 6 is.
const VERSION_6_BYTES: usize = 344;
const _: () = assert!(
    offset_of!(ExitRecord, sent) == 104
        && offset_of!(ExitRecord, asked) == 200
        && offset_of!(ExitRecord, pid) == 296
        && offset_of!(ExitRecord, comm) == 328
        && size_of::<SentSignal>() == 96
);

/// Reads an exit record that the programs of an ABI version wrote; `None` if the bytes are not one,
/// or of a version that cannot be read. What the version did not record is as if nothing was.
pub(crate) fn exit_of_version(version: u32, bytes: &[u8]) -> Option<ProcessExit> {
    if version < READABLE_FROM || bytes.len() < VERSION_6_BYTES {
        return None;
    }
    let mut record = [0; size_of::<ExitRecord>()];
    let length = bytes.len().min(record.len());
    record[..length].copy_from_slice(&bytes[..length]);
    exit(&record)
}

/// Whose doing a death was. Where nobody is known to have sent the signal, those that a person, an
/// init or a script sends count as someone else's.
/// A program that handles such a signal, and then raises it again as it should, has not failed
/// either: `asked` is the last signal by which another process had asked it to end.
pub(crate) fn blame(cause: &Cause, asked: Option<&LastSignal>) -> Blame {
    let Cause::Signaled { signal, origin, .. } = cause else {
        return Blame::Itself;
    };
    let is_own = match (origin.how, &origin.sender) {
        (
            Some(
                How::Fault
                | How::Seccomp
                | How::CpuLimit
                | How::Timer
                | How::BrokenPipe
                | How::FileSizeLimit
                | How::Notification,
            ),
            _,
        ) => true,
        (Some(How::Terminal | How::Hangup), _) => false,
        (_, Some(sender)) if sender.itself => !asked.is_some_and(|asked| {
            let is_own = asked.sender.as_ref().is_none_or(|sender| sender.own);
            asked.signal == *signal && !is_own
        }),
        (_, Some(sender)) => sender.own,
        (_, None) => ![Signal::KILL, Signal::TERM, Signal::HUP, Signal::INT].contains(signal),
    };
    if is_own {
        Blame::Itself
    } else {
        Blame::SomeoneElse
    }
}

/// Splits the exact time on a CPU as the sampled user and system times are to each other, as the
/// kernel does for everybody else (`cputime_adjust`, kernel/sched/cputime.c).
fn shares(user: u64, system: u64, all: u64) -> (u64, u64) {
    match (user, system) {
        (_, 0) => (all, 0),
        (0, _) => (0, all),
        _ => {
            let share =
                u128::from(all) * u128::from(system) / (u128::from(user) + u128::from(system));
            let system = u64::try_from(share).unwrap_or(all);
            (all - system, system)
        }
    }
}

/// Text up to its NUL; bytes that are not UTF-8 replaced.
fn text_of(bytes: &[u8]) -> String {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The bytes of one record, known to be long enough for each of its fields.
struct Fields<'a>(&'a [u8; size_of::<ExitRecord>()]);

impl<'a> Fields<'a> {
    /// The ring hands out a record's bytes with its length rounded up to 8.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Bytes that the record does not have are zero.
    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0
            .get(offset..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or([0; N])
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.array(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.array(offset))
    }

    fn i32(&self, offset: usize) -> i32 {
        i32::from_ne_bytes(self.array(offset))
    }

    /// A name, NUL-terminated; bytes that are not UTF-8 replaced.
    fn comm(&self, offset: usize) -> String {
        let comm: [u8; COMM_LEN] = self.array(offset);
        text_of(&comm)
    }

    /// The signal at that place, if there is one.
    fn sent(&self, place: usize) -> Option<Sent> {
        let at = |offset| place + offset;
        let signal = self.i32(at(offset_of!(SentSignal, signal)));
        Some(Sent {
            time_ns: self.u64(at(offset_of!(SentSignal, time_ns))),
            sender_start_time_ns: self.u64(at(offset_of!(SentSignal, sender_start_time_ns))),
            sender_cgroup_id: self.u64(at(offset_of!(SentSignal, sender_cgroup_id))),
            address: self.u64(at(offset_of!(SentSignal, address))),
            signal: Signal::from_number(signal)?,
            code: self.i32(at(offset_of!(SentSignal, code))),
            flags: self.u32(at(offset_of!(SentSignal, flags))),
            syscall: self.i32(at(offset_of!(SentSignal, syscall))),
            sender_pid: self.u32(at(offset_of!(SentSignal, sender_pid))),
            sender_host_pid: self.u32(at(offset_of!(SentSignal, sender_host_pid))),
            sender_uid: self.u32(at(offset_of!(SentSignal, sender_uid))),
            sender_comm: self.comm(at(offset_of!(SentSignal, sender_comm))),
            parent: Parent {
                pid: self.u32(at(offset_of!(SentSignal, sender_parent_pid))),
                comm: self.comm(at(offset_of!(SentSignal, sender_parent_comm))),
            },
        })
    }

    fn cause(&self, flags: u32, sent: Option<&Sent>) -> Cause {
        let status = self.i32(offset_of!(ExitRecord, wait_status));
        let mut cause = Cause::from_wait_status(status);
        let Cause::Signaled { signal, origin, .. } = &mut cause else {
            return cause;
        };
        // A process that someone has killed is marked too, if memory runs out before it is gone.
        let is_victim = flags & EXIT_OOM_VICTIM != 0 && *signal == Signal::KILL;
        if is_victim && sent.is_none_or(Sent::may_be_oom_kill) {
            return Cause::OomKilled(self.oom_kill(flags));
        }
        if let Some(victim) = sent.and_then(Sent::oom_victim) {
            return Cause::OomKilled(OomKill {
                victim_host_pid: Some(victim),
                ..OomKill::default()
            });
        }
        *origin = match sent {
            // Another one may have ended it. A request was one whether it did or not.
            Some(sent) if sent.is_ambiguous() => Origin::default(),
            Some(sent) => sent.origin(),
            // Strict mode ends its thread without a signal (kernel/seccomp.c).
            None if flags & EXIT_SECCOMP != 0 && *signal == Signal::KILL => Origin {
                how: Some(How::Seccomp),
                ..Origin::default()
            },
            None => Origin::default(),
        };
        cause
    }

    fn oom_kill(&self, flags: u32) -> OomKill {
        if flags & EXIT_OOM_FIGURES == 0 {
            return OomKill::default();
        }
        let bytes = |pages: u64| Some(pages.saturating_mul(page_size()));
        OomKill {
            scope: None,
            total_vm_bytes: bytes(self.u64(offset_of!(ExitRecord, oom_total_vm_pages))),
            anon_rss_bytes: bytes(self.u64(offset_of!(ExitRecord, oom_anon_pages))),
            oom_score_adj: Some(self.i32(offset_of!(ExitRecord, oom_score_adj))),
            victim_host_pid: None,
        }
    }

    fn usage(&self, flags: u32) -> Usage {
        let user = self.u64(offset_of!(ExitRecord, user_time_ns));
        let system = self.u64(offset_of!(ExitRecord, system_time_ns));
        let all = self.u64(offset_of!(ExitRecord, run_time_ns));
        let (user_ns, system_ns) = shares(user, system, all);
        let threads = self.u32(offset_of!(ExitRecord, threads));
        let counted = |bytes| (flags & EXIT_IO_COUNTED != 0).then_some(bytes);
        let max_rss = self.u64(offset_of!(ExitRecord, max_rss_pages));
        Usage {
            user_ns,
            system_ns,
            max_rss_bytes: max_rss.saturating_mul(page_size()),
            threads: (threads != 0).then_some(threads),
            read_bytes: counted(self.u64(offset_of!(ExitRecord, read_bytes))),
            written_bytes: counted(self.u64(offset_of!(ExitRecord, written_bytes))),
        }
    }
}

#[cfg(test)]
mod tests {
    use monitor_ebpf::{
        SENT_AMBIGUOUS, SENT_BY_EXITING, SENT_BY_ITSELF, SENT_BY_KERNEL, SENT_BY_NAMESPACE_INIT,
        SENT_CPU_LIMITED, SENT_FOR_SHARED_MEMORY, SENT_TO_GROUP, SENT_WITHOUT_INFO,
    };

    use super::*;
    use crate::model::Sender;

    fn record() -> ExitRecord {
        ExitRecord {
            start_time_ns: 1_234_567_890,
            exit_time_ns: 2_234_567_891,
            cgroup_id: 77,
            service: 5,
            attempt: 6,
            user_time_ns: 1_000,
            system_time_ns: 3_000,
            run_time_ns: 8_000,
            max_rss_pages: 2,
            read_bytes: 8192,
            written_bytes: 4096,
            oom_total_vm_pages: 3,
            oom_anon_pages: 1,
            sent: SentSignal::NONE,
            asked: SentSignal::NONE,
            pid: 42,
            host_pid: 4242,
            parent_pid: 1,
            uid: 1000,
            wait_status: 0x8b,
            flags: EXIT_WATCHED,
            threads: 9,
            oom_score_adj: -17,
            comm: *b"name\0padding\0\0\0\0",
            left_out: 0,
        }
    }

    fn read(record: ExitRecord) -> ProcessExit {
        exit(&crate::os::bytes_of_record(record)).unwrap()
    }

    #[test]
    fn reads_every_field_at_its_place() {
        let exit = read(record());
        assert_eq!(
            exit.instance,
            Instance {
                pid: 42,
                start_time_ns: 1_230_000_000
            }
        );
        assert_eq!((exit.host_pid, exit.parent_pid, exit.uid), (4242, 1, 1000));
        assert_eq!(
            (exit.cgroup_id, exit.comm.as_str(), exit.watched),
            (Some(77), "name", true)
        );
        assert_eq!(exit.uptime, Duration::from_nanos(1_000_000_001));
        assert_eq!(exit.cause.to_string(), "killed by SIGSEGV, core dumped");
        assert_eq!(
            exit.birth,
            Some(Birth {
                service: 5,
                attempt: 6
            })
        );
        assert_eq!(
            exit.usage,
            Usage {
                user_ns: 2_000,
                system_ns: 6_000,
                max_rss_bytes: 2 * page_size(),
                threads: Some(9),
                read_bytes: None,
                written_bytes: None,
            }
        );
        let counted = read(ExitRecord {
            flags: EXIT_IO_COUNTED,
            ..record()
        });
        assert_eq!(counted.usage.read_bytes, Some(8192));
        assert_eq!(counted.usage.written_bytes, Some(4096));
    }

    #[test]
    fn a_process_of_a_tree_is_no_instance() {
        let exit = read(ExitRecord {
            flags: EXIT_CHILD,
            left_out: 3,
            ..record()
        });
        let birth = Birth {
            service: 5,
            attempt: 6,
        };
        let tree = OfTree { birth, left_out: 3 };
        assert_eq!((exit.birth, exit.tree), (None, Some(tree)));
        assert_eq!(read(record()).tree, None);
    }

    #[test]
    fn the_signal_is_joined_to_the_death() {
        let sent = SentSignal {
            time_ns: 2_234_000_000,
            signal: 15,
            sender_pid: 7,
            sender_comm: *b"bash\0\0\0\0\0\0\0\0\0\0\0\0",
            ..SentSignal::NONE
        };
        let killed = read(ExitRecord {
            sent,
            wait_status: 15,
            ..record()
        });
        assert_eq!(
            killed.cause.to_string(),
            "killed by SIGTERM from bash (pid 7, uid 0)"
        );
        assert_eq!(killed.last_signal, None);
        let ended = read(ExitRecord {
            asked: sent,
            wait_status: 3 << 8,
            ..record()
        });
        assert_eq!(ended.cause, Cause::Exited { code: 3 });
        let last = ended.last_signal.unwrap();
        assert_eq!((last.signal, last.before_exit_ns), (Signal::TERM, 567_891));
        assert_eq!(last.sender.unwrap().comm, "bash");
    }

    #[test]
    fn of_several_that_may_have_ended_it_none_is_told() {
        let sent = SentSignal {
            time_ns: 2_234_000_000,
            signal: 15,
            flags: SENT_TO_GROUP | SENT_AMBIGUOUS,
            sender_pid: 7,
            sender_comm: *b"bash\0\0\0\0\0\0\0\0\0\0\0\0",
            ..SentSignal::NONE
        };
        for wait_status in [15, 34] {
            let killed = read(ExitRecord {
                sent: SentSignal {
                    signal: wait_status,
                    ..sent
                },
                wait_status,
                ..record()
            });
            let Cause::Signaled { origin, .. } = killed.cause else {
                unreachable!("a signal's status")
            };
            assert_eq!(origin, Origin::default());
        }
        // It was the last to ask, whichever ended it.
        let ended = read(ExitRecord {
            asked: sent,
            wait_status: 0,
            ..record()
        });
        assert_eq!(ended.last_signal.unwrap().sender.unwrap().comm, "bash");
    }

    #[test]
    fn kills_without_a_sender_are_told_apart() {
        let killed = |flags| {
            read(ExitRecord {
                wait_status: 9,
                flags,
                ..record()
            })
            .cause
        };
        assert_eq!(killed(0).to_string(), "killed by SIGKILL");
        assert_eq!(
            killed(EXIT_SECCOMP).to_string(),
            "killed by SIGKILL, ended by seccomp"
        );
        assert_eq!(
            killed(EXIT_OOM_VICTIM),
            Cause::OomKilled(OomKill::default())
        );
        let figures = OomKill {
            scope: None,
            total_vm_bytes: Some(3 * page_size()),
            anon_rss_bytes: Some(page_size()),
            oom_score_adj: Some(-17),
            victim_host_pid: None,
        };
        assert_eq!(
            killed(EXIT_OOM_VICTIM | EXIT_OOM_FIGURES),
            Cause::OomKilled(figures)
        );
    }

    /// A process that is dying already is marked as a victim too (`task_will_free_mem` in
    /// mm/oom_kill.c): flags of its SIGKILL, and what is told.
    #[test]
    fn whoever_killed_a_victim_first_is_told() {
        const OOM: &str = "killed for lack of memory";
        const KERNEL: u32 = SENT_BY_KERNEL | SENT_TO_GROUP;
        const INIT: u32 = KERNEL | SENT_BY_EXITING | SENT_BY_NAMESPACE_INIT;
        for (flags, told) in [
            (KERNEL, OOM),
            // By chance in the victim's own context, or while another process ends.
            (KERNEL | SENT_BY_ITSELF, OOM),
            (KERNEL | SENT_BY_ITSELF | SENT_CPU_LIMITED, OOM),
            (KERNEL | SENT_BY_EXITING, OOM),
            (
                SENT_TO_GROUP,
                "killed by SIGKILL from earlyoom (pid 7, uid 0)",
            ),
            (SENT_TO_GROUP | SENT_BY_ITSELF, "killed by SIGKILL, its own"),
            (
                SENT_WITHOUT_INFO,
                "killed by SIGKILL through cgroup.kill from earlyoom (pid 7, uid 0)",
            ),
            (
                SENT_BY_KERNEL | SENT_BY_EXITING,
                "killed by SIGKILL at the end of its tracer earlyoom (pid 7, uid 0)",
            ),
            (
                INIT,
                "killed by SIGKILL at the end of its PID namespace's init earlyoom (pid 7, uid 0)",
            ),
        ] {
            let killed = read(ExitRecord {
                sent: SentSignal {
                    time_ns: 2_234_000_000,
                    signal: 9,
                    flags,
                    sender_pid: 7,
                    sender_comm: *b"earlyoom\0\0\0\0\0\0\0\0",
                    ..SentSignal::NONE
                },
                wait_status: 9,
                flags: EXIT_OOM_VICTIM | EXIT_OOM_FIGURES,
                ..record()
            });
            assert_eq!(killed.cause.to_string(), told, "flags {flags:#x}");
        }
    }

    #[test]
    fn who_is_killed_for_memory_that_it_shares_has_run_out_of_it_too() {
        let killed = read(ExitRecord {
            sent: SentSignal {
                time_ns: 2_234_000_000,
                signal: 9,
                address: 70,
                flags: SENT_BY_KERNEL | SENT_TO_GROUP | SENT_FOR_SHARED_MEMORY,
                ..SentSignal::NONE
            },
            wait_status: 9,
            ..record()
        });
        assert_eq!(
            killed.cause.to_string(),
            "killed for lack of memory, together with pid 70, whose memory it shared"
        );
        assert_eq!(blame(&killed.cause, None), Blame::Itself);
    }

    #[test]
    fn other_lengths_are_no_record() {
        assert_eq!(exit(&[]), None);
        assert_eq!(exit(&[0; size_of::<ExitRecord>() - 1]), None);
        assert_eq!(exit(&[0; size_of::<ExitRecord>() + 8]), None);
    }

    #[test]
    fn records_of_other_versions_are_read_as_far_as_they_go() {
        let bytes = crate::os::bytes_of_record(record());
        let whole = exit(&bytes);
        assert_eq!(exit_of_version(6, &bytes[..VERSION_6_BYTES]), whole);
        let longer = [&bytes[..], &[0xff; 64]].concat();
        assert_eq!(exit_of_version(u32::MAX, &longer), whole);
        assert_eq!(exit_of_version(5, &bytes), None);
        assert_eq!(exit_of_version(6, &bytes[..VERSION_6_BYTES - 8]), None);
    }

    #[test]
    fn known_senders_take_the_blame() {
        let cause = |signal, origin: Origin| Cause::Signaled {
            signal: Signal::from_number(signal).unwrap(),
            core_dumped: false,
            origin,
        };
        let killed = |signal, origin| blame(&cause(signal, origin), None);
        let from = |own| Origin {
            how: Some(How::Kill),
            sender: Some(Sender {
                pid: 1,
                host_pid: 1,
                start_time_ns: 0,
                uid: 0,
                comm: String::new(),
                cgroup_id: Some(5),
                parent: None,
                itself: own,
                own,
                profile: None,
            }),
            fault: None,
        };
        let by = |how| Origin {
            how: Some(how),
            ..Origin::default()
        };
        assert_eq!(killed(11, from(false)), Blame::SomeoneElse);
        assert_eq!(killed(9, from(true)), Blame::Itself);
        for how in [
            How::Fault,
            How::Seccomp,
            How::CpuLimit,
            How::Timer,
            How::BrokenPipe,
            How::FileSizeLimit,
            How::Notification,
        ] {
            assert_eq!(killed(9, by(how)), Blame::Itself, "{how:?}");
        }
        for how in [How::Terminal, How::Hangup] {
            assert_eq!(killed(3, by(how)), Blame::SomeoneElse, "{how:?}");
        }
        assert_eq!(killed(9, by(How::Kernel)), Blame::SomeoneElse);
        assert_eq!(killed(13, by(How::Kernel)), Blame::Itself);

        // Handled, and raised again.
        let asked = |signal, own| LastSignal {
            signal,
            before_exit_ns: 1,
            how: Some(How::Kill),
            sender: from(own).sender,
        };
        let raised = |asked: &LastSignal| blame(&cause(15, from(true)), Some(asked));
        assert_eq!(raised(&asked(Signal::TERM, false)), Blame::SomeoneElse);
        assert_eq!(raised(&asked(Signal::TERM, true)), Blame::Itself);
        assert_eq!(raised(&asked(Signal::INT, false)), Blame::Itself);
    }

    #[test]
    fn who_is_in_the_services_cgroup_is_of_the_service() {
        let sent = SentSignal {
            time_ns: 1,
            signal: 9,
            sender_pid: 7,
            sender_cgroup_id: 77,
            ..SentSignal::NONE
        };
        let own = |cgroup_id| {
            let mut exit = read(ExitRecord {
                sent,
                cgroup_id,
                wait_status: 9,
                ..record()
            });
            exit.cgroup_is_its_own();
            blame(&exit.cause, None)
        };
        assert_eq!(own(77), Blame::Itself);
        assert_eq!(own(78), Blame::SomeoneElse);
    }

    #[test]
    fn signals_that_people_send_are_someone_elses() {
        let killed = |signal| blame(&Cause::from_wait_status(signal), None);
        for signal in 1..=31 {
            let expected = if [1, 2, 9, 15].contains(&signal) {
                Blame::SomeoneElse
            } else {
                Blame::Itself
            };
            assert_eq!(killed(signal), expected, "signal {signal}");
        }
        assert_eq!(
            blame(&Cause::OomKilled(OomKill::default()), None),
            Blame::Itself
        );
        assert_eq!(blame(&Cause::Exited { code: 143 }, None), Blame::Itself);
    }
}

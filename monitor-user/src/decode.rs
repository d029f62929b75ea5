//! The only reader of the kernel's bytes.

use std::mem::offset_of;
use std::time::Duration;

use monitor_ebpf::{COMM_LEN, EXIT_WATCHED, ExitRecord, TICK_NS};

use crate::supervisor::{Blame, Cause, Instance, Signal};

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
    /// ID of its cgroup in the v2 hierarchy.
    pub(crate) cgroup_id: u64,
    /// Its name at its death; bytes that are not UTF-8 replaced.
    pub(crate) comm: String,
    /// When its exit became final, since boot.
    pub(crate) exited_at: Duration,
    /// From start to exit.
    pub(crate) uptime: Duration,
    /// Why.
    pub(crate) cause: Cause,
    /// Whether it was taken out of the watch map by this report.
    pub(crate) watched: bool,
    /// Of whose birth it was the end, if that was recorded: service and attempt.
    pub(crate) birth: Option<Birth>,
}

/// What the kernel recorded when an agent forked an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Birth {
    /// The service's number: see [`service_number`].
    pub(crate) service: u64,
    /// Which start of it.
    pub(crate) attempt: u64,
}

impl Birth {
    /// Of no service.
    pub(crate) const NONE: Self = Self {
        service: 0,
        attempt: 0,
    };
}

/// The number by which the kernel's records name a service: the same in every agent, never 0.
/// (FNV-1a, 64 bits; names are few and short.)
pub(crate) fn service_number(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step).max(1)
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
    let comm: [u8; COMM_LEN] = field.array(offset_of!(ExitRecord, comm));
    let name = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(ProcessExit {
        instance: Instance {
            pid: field.u32(offset_of!(ExitRecord, pid)),
            start_time_ns: whole_ticks(start),
        },
        host_pid: field.u32(offset_of!(ExitRecord, host_pid)),
        parent_pid: field.u32(offset_of!(ExitRecord, parent_pid)),
        uid: field.u32(offset_of!(ExitRecord, uid)),
        cgroup_id: field.u64(offset_of!(ExitRecord, cgroup_id)),
        comm: String::from_utf8_lossy(name).into_owned(),
        exited_at: Duration::from_nanos(exit),
        uptime: Duration::from_nanos(exit.saturating_sub(start)),
        cause: Cause::from_wait_status(
            field.u32(offset_of!(ExitRecord, wait_status)).cast_signed(),
        ),
        watched: field.u32(offset_of!(ExitRecord, flags)) & EXIT_WATCHED != 0,
        birth: (service != 0).then(|| Birth {
            service,
            attempt: field.u64(offset_of!(ExitRecord, attempt)),
        }),
    })
}

/// Whose doing a death was. Until senders are known, the signals that a person, an init or a
/// script sends count as someone else's.
pub(crate) fn blame(cause: &Cause) -> Blame {
    match cause {
        Cause::Signaled { signal, .. }
            if [Signal::KILL, Signal::TERM, Signal::HUP, Signal::INT].contains(signal) =>
        {
            Blame::SomeoneElse
        }
        _ => Blame::Itself,
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_field_at_its_place() {
        let mut bytes = [0_u8; size_of::<ExitRecord>()];
        bytes[0..8].copy_from_slice(&1_234_567_890_u64.to_ne_bytes());
        bytes[8..16].copy_from_slice(&2_234_567_891_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&77_u64.to_ne_bytes());
        for (index, value) in [42_u32, 4242, 1, 1000, 0x8b, 1].into_iter().enumerate() {
            bytes[40 + index * 4..44 + index * 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes[64..69].copy_from_slice(b"name\0");
        bytes[24..32].copy_from_slice(&5_u64.to_ne_bytes());
        bytes[32..40].copy_from_slice(&6_u64.to_ne_bytes());
        let exit = exit(&bytes).unwrap();
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
            (77, "name", true)
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
    }

    #[test]
    fn other_lengths_are_no_record() {
        assert_eq!(exit(&[]), None);
        assert_eq!(exit(&[0; 79]), None);
        assert_eq!(exit(&[0; 88]), None);
    }

    #[test]
    fn signals_that_people_send_are_someone_elses() {
        let killed = |signal| blame(&Cause::from_wait_status(signal));
        for signal in 1..=31 {
            let expected = if [1, 2, 9, 15].contains(&signal) {
                Blame::SomeoneElse
            } else {
                Blame::Itself
            };
            assert_eq!(killed(signal), expected, "signal {signal}");
        }
        assert_eq!(blame(&Cause::OomKilled), Blame::Itself);
        assert_eq!(blame(&Cause::Exited { code: 143 }), Blame::Itself);
    }
}

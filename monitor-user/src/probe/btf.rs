//! The running kernel's types: where its fields are, and which form its tracepoint has.
//!
//! Guesses nothing: what is missing is an error that names it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use btfparse::{Offset, Readable, TypeInformation, TypeVariant};
use monitor_ebpf::{NO_FIELD, Offsets};

/// Where the kernel shows its own BTF.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// A kernel's BTF, read and parsed.
pub(crate) struct KernelTypes {
    path: PathBuf,
    types: TypeInformation,
}

/// Bytes that `btfparse` reads from.
struct Bytes(Vec<u8>);

impl Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match start
            .checked_add(buffer.len())
            .and_then(|end| self.0.get(start..end))
        {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

/// Which program fits the kernel's `sched_process_exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitTracepoint {
    /// `(task, group_dead)`: from 6.16 on.
    GroupDead,
    /// `(task)`.
    TaskOnly,
}

impl KernelTypes {
    /// Reads `path`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| {
            format!(
                "cannot read the kernel's BTF at {} (the kernel needs CONFIG_DEBUG_INFO_BTF)",
                path.display()
            )
        })?;
        let types = TypeInformation::new(&Bytes(bytes))
            .map_err(|error| anyhow!("{}: damaged BTF: {}", path.display(), error.message()))?;
        Ok(Self {
            path: path.to_owned(),
            types,
        })
    }

    /// Where the kernel programs find what they read.
    pub(crate) fn offsets(&self) -> Result<Offsets> {
        let [task, signal, pid, upid, namespace] = self.structs([
            "task_struct",
            "signal_struct",
            "pid",
            "upid",
            "pid_namespace",
        ])?;
        let at = |of: &Struct, member: &str| self.offset(of, member);
        Ok(Offsets {
            task_group_leader: at(&task, "group_leader")?,
            task_real_parent: at(&task, "real_parent")?,
            task_tgid: at(&task, "tgid")?,
            task_exit_code: at(&task, "exit_code")?,
            task_start_boottime: at(&task, "start_boottime")?,
            task_comm: at(&task, "comm")?,
            task_signal: at(&task, "signal")?,
            signal_live: at(&signal, "live")?,
            signal_flags: at(&signal, "flags")?,
            signal_group_exit_code: at(&signal, "group_exit_code")?,
            // PIDTYPE_TGID is 1, include/linux/pid_types.h.
            signal_tgid_pid: at(&signal, "pids[1]")?,
            pid_level: at(&pid, "level")?,
            pid_numbers: at(&pid, "numbers")?,
            upid_size: self
                .types
                .size_of(upid.id)
                .map_err(|error| {
                    anyhow!("{}: struct upid: {}", self.path.display(), error.message())
                })?
                .try_into()?,
            upid_nr: at(&upid, "nr")?,
            upid_ns: at(&upid, "ns")?,
            pid_namespace_inum: at(&namespace, "ns.inum")?,
            // PIDTYPE_SID is 3, include/linux/pid_types.h.
            signal_session_pid: at(&signal, "pids[3]")?,
            ..self.optional_offsets(&task, &signal)?
        })
    }

    /// Of fields that not every kernel has.
    fn optional_offsets(&self, task: &Struct, signal: &Struct) -> Result<Offsets> {
        let [memory, registers] = self.structs(["mm_struct", "pt_regs"])?;
        let maybe = |of: &Struct, member: &str| self.offset(of, member).unwrap_or(NO_FIELD);
        // One counter for each kind from 6.2 on, before that one struct of counters.
        let resident = |kind: u32| {
            let names = [
                format!("rss_stat[{kind}].count"),
                format!("rss_stat.count[{kind}]"),
            ];
            let mut found = names
                .iter()
                .filter_map(|name| self.offset(&memory, name).ok());
            found.next().unwrap_or(NO_FIELD)
        };
        Ok(Offsets {
            task_flags: maybe(task, "flags"),
            task_mm: maybe(task, "mm"),
            task_utime: maybe(task, "utime"),
            task_stime: maybe(task, "stime"),
            task_sum_exec_runtime: maybe(task, "se.sum_exec_runtime"),
            task_read_bytes: maybe(task, "ioac.read_bytes"),
            task_write_bytes: maybe(task, "ioac.write_bytes"),
            task_seccomp_mode: maybe(task, "seccomp.mode"),
            task_pdeath_signal: maybe(task, "pdeath_signal"),
            signal_nr_threads: maybe(signal, "nr_threads"),
            signal_utime: maybe(signal, "utime"),
            signal_stime: maybe(signal, "stime"),
            signal_sum_sched_runtime: maybe(signal, "sum_sched_runtime"),
            signal_read_bytes: maybe(signal, "ioac.read_bytes"),
            signal_write_bytes: maybe(signal, "ioac.write_bytes"),
            signal_maxrss: maybe(signal, "maxrss"),
            // RLIMIT_CPU is 0, RLIMIT_RTTIME 15, include/uapi/asm-generic/resource.h.
            signal_cpu_limit: maybe(signal, "rlim[0].rlim_cur"),
            signal_real_time_limit: maybe(signal, "rlim[15].rlim_cur"),
            signal_oom_mm: maybe(signal, "oom_mm"),
            signal_oom_score_adj: maybe(signal, "oom_score_adj"),
            mm_total_vm: maybe(&memory, "total_vm"),
            mm_hiwater_rss: maybe(&memory, "hiwater_rss"),
            // MM_FILEPAGES and so on, include/linux/mm_types_task.h.
            mm_file_pages: resident(0),
            mm_anon_pages: resident(1),
            mm_shmem_pages: resident(3),
            pt_regs_syscall: self.syscall_number(&registers),
            ..Offsets::default()
        })
    }

    /// Where the number of a task's system call is, if the kernel programs can find its registers.
    fn syscall_number(&self, registers: &Struct) -> u32 {
        // Both are of 5.15 or earlier: https://github.com/torvalds/linux/commit/dd6e10fbd9fb
        if !self.has_function("bpf_task_pt_regs") {
            return NO_FIELD;
        }
        ["orig_ax", "syscallno"]
            .into_iter()
            .find_map(|name| self.offset(registers, name).ok())
            .unwrap_or(NO_FIELD)
    }

    fn has_function(&self, name: &str) -> bool {
        self.types.get().values().any(|kind| match kind {
            TypeVariant::Func(function) => function.name().as_deref() == Some(name),
            _ => false,
        })
    }

    /// Whether `mark_victim` hands out the victim itself: `(task, uid)`, from 6.9 on.
    pub(crate) fn shows_oom_victims(&self) -> bool {
        self.tracepoint_parameters("mark_victim")
            .is_ok_and(|parameters| parameters >= 2)
    }

    /// Which form the kernel's `sched_process_exit` has.
    pub(crate) fn exit_tracepoint(&self) -> Result<ExitTracepoint> {
        let parameters = self.tracepoint_parameters("sched_process_exit")?;
        Ok(if parameters >= 2 {
            ExitTracepoint::GroupDead
        } else {
            ExitTracepoint::TaskOnly
        })
    }

    /// How many arguments a program on that tracepoint gets.
    fn tracepoint_parameters(&self, tracepoint: &str) -> Result<usize> {
        let typedef = format!("btf_trace_{tracepoint}");
        let missing = || {
            anyhow!(
                "{}: the kernel has no tracepoint {tracepoint}",
                self.path.display()
            )
        };
        let pointer = self
            .types
            .get()
            .values()
            .find_map(|kind| match kind {
                TypeVariant::Typedef(found) if found.name().as_deref() == Some(&typedef) => {
                    Some(*found.tid())
                }
                _ => None,
            })
            .ok_or_else(missing)?;
        let Some(TypeVariant::Ptr(pointer)) = self.types.from_id(pointer) else {
            return Err(missing());
        };
        match self.types.from_id(*pointer.tid()) {
            // The first parameter is the tracepoint's own data.
            Some(TypeVariant::FuncProto(prototype)) => {
                Ok(prototype.parameter_list().len().saturating_sub(1))
            }
            _ => Err(missing()),
        }
    }

    fn structs<const N: usize>(&self, names: [&'static str; N]) -> Result<[Struct; N]> {
        let mut found = names.map(|name| Struct { name, id: 0 });
        for (id, kind) in self.types.get() {
            let TypeVariant::Struct(kind) = kind else {
                continue;
            };
            let Some(name) = kind.name() else { continue };
            if let Some(wanted) = found.iter_mut().find(|wanted| wanted.name == name) {
                wanted.id = *id;
            }
        }
        match found.iter().find(|wanted| wanted.id == 0) {
            Some(missing) => {
                bail!(
                    "{}: the kernel has no struct {}",
                    self.path.display(),
                    missing.name
                )
            }
            None => Ok(found),
        }
    }

    fn offset(&self, of: &Struct, member: &str) -> Result<u32> {
        match self.types.offset_of(of.id, member) {
            Ok((_, Offset::ByteOffset(bytes))) => Ok(bytes),
            Ok((_, Offset::BitOffsetAndSize(..))) => {
                bail!(
                    "{}: {}.{member} is a bit field",
                    self.path.display(),
                    of.name
                )
            }
            Err(error) => {
                bail!(
                    "{}: the kernel has no field {}.{member}: {}",
                    self.path.display(),
                    of.name,
                    error.message()
                )
            }
        }
    }
}

struct Struct {
    name: &'static str,
    id: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_running_kernel() {
        let Ok(types) = KernelTypes::read(Path::new(KERNEL_BTF)) else {
            eprintln!("SKIPPED: no {KERNEL_BTF} on this host");
            return;
        };
        let offsets = types.offsets().unwrap();
        assert!(
            offsets.task_comm > 0 && offsets.upid_size >= 16,
            "{offsets:?}"
        );
        types.exit_tracepoint().unwrap();
        // Every kernel from 5.15 on, if it counts what processes read and write.
        let missing = offsets.words().iter().filter(|&&at| at == NO_FIELD).count();
        assert!(missing <= 4, "{offsets:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let Ok(types) = KernelTypes::read(Path::new(KERNEL_BTF)) else {
            eprintln!("SKIPPED: no {KERNEL_BTF} on this host");
            return;
        };
        let [task] = types.structs(["task_struct"]).unwrap();
        let error = types
            .offset(&task, "no_such_field")
            .unwrap_err()
            .to_string();
        assert!(error.contains("task_struct.no_such_field"), "{error}");
        let error = types
            .tracepoint_parameters("no_such_point")
            .unwrap_err()
            .to_string();
        assert!(error.contains("no_such_point"), "{error}");
        assert!(types.structs(["no_such_struct"]).is_err());
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let whole = fs::read(KERNEL_BTF).unwrap_or_default();
        for cut in [0, 3, 24, 1000, whole.len() / 2] {
            fs::write(file.path(), &whole[..cut.min(whole.len())]).unwrap();
            assert!(
                KernelTypes::read(file.path())
                    .and_then(|types| types.offsets())
                    .is_err()
            );
        }
    }
}

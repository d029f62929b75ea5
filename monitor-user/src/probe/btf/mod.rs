//! The running kernel's types: where its fields are, and which form its tracepoints have.
//!
//! Guesses nothing: what is missing is an error that names it. Reads the types once and in pieces,
//! and keeps only what the kernel programs need of them.

mod fields;
mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::mem::offset_of;
use std::path::Path;

use anyhow::{Context, Result, bail};
use monitor_ebpf::{NO_FIELD, OFFSET_WORDS, Offsets};
use serde::{Deserialize, Serialize};

use self::fields::{FIELDS, Field};
use self::types::{Named, NoOffset, Source, Types};
use crate::model::fnv1a;
use crate::os::page_size;

/// Where the kernel shows its own BTF.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Tracepoints that programs may be attached to, by the typedefs of the functions that they call.
const TRACEPOINTS: [&str; 4] = [
    "btf_trace_mark_victim",
    "btf_trace_sched_process_exit",
    "btf_trace_sched_process_fork",
    "btf_trace_signal_generate",
];
const TRACEPOINT_PREFIX: &str = "btf_trace_";

/// Functions that programs call or may be attached to.
const FUNCTIONS: [&str; 2] = [TASK_REGISTERS, EARLY_EXIT];
/// With it the kernel programs find a task's registers: of 5.15 or earlier, see
/// <https://github.com/torvalds/linux/commit/dd6e10fbd9fb>.
const TASK_REGISTERS: &str = "bpf_task_pt_regs";

/// What `do_exit` calls when a thread's status is final and its memory is still there.
pub(super) const EARLY_EXIT: &str = "taskstats_exit";

/// What the kernel programs need to know of a kernel. It does not change while that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KernelTypes {
    /// [`Offsets`], in words.
    offsets: Vec<u32>,
    tracepoints: BTreeMap<String, Prototype>,
    functions: BTreeMap<String, Prototype>,
}

/// A function of the kernel, or what a tracepoint calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prototype {
    /// The number by which the kernel knows it.
    pub(super) id: u32,
    /// How many arguments a program gets.
    pub(super) parameters: usize,
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
    ///
    /// # Errors
    /// It cannot be read, is damaged, or lacks a field without which no program works.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| {
            format!(
                "cannot read the kernel's BTF at {} (the kernel needs CONFIG_DEBUG_INFO_BTF)",
                path.display()
            )
        })?;
        Reader::new(path, file, &wanted_names())?.read()
    }

    /// Where the kernel programs find what they read: [`Offsets`], in words.
    pub(crate) fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Whether there are as many offsets as this build has.
    pub(super) fn is_whole(&self) -> bool {
        self.offsets.len() == OFFSET_WORDS
    }

    /// Whether `mark_victim` hands out the victim itself: `(task, uid)`, from 6.9 on.
    pub(crate) fn shows_oom_victims(&self) -> bool {
        self.tracepoint("mark_victim")
            .is_some_and(|found| found.parameters >= 2)
    }

    /// Whether the event of `sched_process_exit` says which thread is the last, from 6.16 on.
    pub(super) fn shows_exit_events(&self) -> bool {
        let place = offset_of!(Offsets, event_group_dead) / size_of::<u32>();
        let group_dead = self.offsets.get(place);
        group_dead.is_some_and(|&group_dead| group_dead != NO_FIELD)
    }

    /// Whether there is the function that `do_exit` calls before a process's memory goes.
    pub(super) fn has_early_exit(&self) -> bool {
        // (task, group_dead)
        self.function(EARLY_EXIT)
            .is_some_and(|found| found.parameters == 2)
    }

    /// Which form the kernel's `sched_process_exit` has.
    ///
    /// # Errors
    /// The kernel has none.
    pub(crate) fn exit_tracepoint(&self) -> Result<ExitTracepoint> {
        let tracepoint = self
            .tracepoint("sched_process_exit")
            .context("the kernel has no tracepoint sched_process_exit")?;
        Ok(if tracepoint.parameters >= 2 {
            ExitTracepoint::GroupDead
        } else {
            ExitTracepoint::TaskOnly
        })
    }

    /// One of those that are looked for, if the kernel has it.
    pub(super) fn tracepoint(&self, name: &str) -> Option<Prototype> {
        self.tracepoints.get(name).copied()
    }

    /// One of those that are looked for, if the kernel has it.
    pub(super) fn function(&self, name: &str) -> Option<Prototype> {
        self.functions.get(name).copied()
    }
}

/// Tells one build from another by its kernel object, and by what it reads of a kernel's types.
pub(super) fn fingerprint(object: u64) -> u64 {
    let paths = FIELDS.iter().flat_map(|field| field.paths);
    let names = paths.copied().chain(wanted_names());
    fnv1a(names.flat_map(str::bytes).chain(object.to_ne_bytes()))
}

/// Every name that is looked for.
fn wanted_names() -> Vec<&'static str> {
    let paths = FIELDS.iter().flat_map(|field| field.paths);
    let members = paths.flat_map(|path| path.split(['.', '[']));
    let structs = FIELDS.iter().map(|field| field.of);
    let others = TRACEPOINTS.into_iter().chain(FUNCTIONS);
    structs.chain(members).chain(others).collect()
}

/// Reads a kernel's types, and says of what is wrong in which file it is.
struct Reader<'a, S> {
    path: &'a Path,
    types: Types<S>,
}

impl<'a, S: Source> Reader<'a, S> {
    fn new(path: &'a Path, source: S, wanted: &[&'static str]) -> Result<Self> {
        let types = Types::index(source, wanted)
            .with_context(|| format!("{}: damaged BTF", path.display()))?;
        Ok(Self { path, types })
    }

    fn read(&self) -> Result<KernelTypes> {
        let mut tracepoints = BTreeMap::new();
        for typedef in TRACEPOINTS {
            let name = typedef.strip_prefix(TRACEPOINT_PREFIX).unwrap_or(typedef);
            if let Some(found) = self.prototype(Named::Typedef, typedef)? {
                // The first parameter is the tracepoint's own data.
                let parameters = found.parameters.saturating_sub(1);
                tracepoints.insert(
                    name.to_owned(),
                    Prototype {
                        parameters,
                        ..found
                    },
                );
            }
        }
        let mut functions = BTreeMap::new();
        for name in FUNCTIONS {
            if let Some(found) = self.prototype(Named::Function, name)? {
                functions.insert(name.to_owned(), found);
            }
        }
        let mut offsets = self.offsets()?;
        if functions.contains_key(TASK_REGISTERS) {
            offsets.stack_syscall = NO_FIELD;
        } else {
            offsets.stack_syscall = self.syscall_below_the_stacks_end(&offsets);
            offsets.pt_regs_syscall = NO_FIELD;
        }
        Ok(KernelTypes {
            offsets: offsets.words().to_vec(),
            tracepoints,
            functions,
        })
    }

    fn prototype(&self, named: Named, name: &str) -> Result<Option<Prototype>> {
        let Some(id) = self.types.id(named, name) else {
            return Ok(None);
        };
        let parameters = self
            .types
            .parameters(id)
            .with_context(|| self.damaged(name))?;
        Ok(parameters.map(|parameters| Prototype { id, parameters }))
    }

    fn offsets(&self) -> Result<Offsets> {
        let mut offsets = Offsets::default();
        for field in FIELDS {
            *(field.place)(&mut offsets) = self.field(field)?;
        }
        let upid = self.struct_of("upid")?;
        offsets.upid_size = self
            .types
            .size(upid)
            .with_context(|| self.damaged("struct upid"))?;
        offsets.page_size = u32::try_from(page_size())?;
        Ok(offsets)
    }

    /// How far below the end of its stack a task's system call is, where the size of stacks can be
    /// found out (`CONFIG_VMAP_STACK`).
    fn syscall_below_the_stacks_end(&self, offsets: &Offsets) -> u32 {
        let needed = [
            offsets.pt_regs_syscall,
            offsets.task_stack,
            offsets.task_stack_area,
            offsets.area_pages,
        ];
        if needed.contains(&NO_FIELD) {
            return NO_FIELD;
        }
        let registers = self.types.id(Named::Struct, "pt_regs");
        let size = registers.and_then(|id| self.types.size(id).ok());
        size.and_then(|size| size.checked_sub(offsets.pt_regs_syscall))
            .unwrap_or(NO_FIELD)
    }

    /// Where a field is, by the first of its paths that there is.
    fn field(&self, field: &Field) -> Result<u32> {
        let of = match self.struct_of(field.of) {
            Err(_) if !field.needed => return Ok(NO_FIELD),
            of => of?,
        };
        for path in field.paths {
            match self.types.offset(of, path) {
                Ok(offset) => return Ok(offset),
                Err(NoOffset::Damaged(error)) => {
                    let place = format!("{}.{path}", field.of);
                    return Err(error.context(self.damaged(&place)));
                }
                Err(error @ (NoOffset::Missing | NoOffset::BitField)) if field.needed => {
                    let (file, of) = (self.path.display(), field.of);
                    bail!("{file}: the kernel has no field {of}.{path}: {error}")
                }
                Err(NoOffset::Missing | NoOffset::BitField) => {}
            }
        }
        Ok(NO_FIELD)
    }

    fn struct_of(&self, name: &str) -> Result<u32> {
        let id = self.types.id(Named::Struct, name);
        id.with_context(|| format!("{}: the kernel has no struct {name}", self.path.display()))
    }

    fn damaged(&self, place: &str) -> String {
        format!("{}: damaged BTF: {place}", self.path.display())
    }
}

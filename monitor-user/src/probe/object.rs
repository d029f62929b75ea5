//! The kernel object: makes its maps, and loads and attaches its programs one by one.
//!
//! Knows neither what the programs do nor which of them a kernel takes. Does what aya's own loader
//! does, but for reading all of the kernel's types into memory, and for loading programs only to
//! see what a kernel can.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aya::maps::{Map, MapData};
use aya_obj::btf::BtfFeatures;
use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_map_type, bpf_prog_type};
use aya_obj::{EbpfSectionKind, Function};

use super::btf::KernelTypes;
use super::pins::PinDir;
use crate::os::bpf::{self, LOG_INSTRUCTIONS, LOG_STATISTICS, NewProgram, Records};
use crate::os::{effort, tracefs};

/// How much time on a CPU a kernel may take to look at one program. Those of this object take some
/// hundredths of a second; one that a kernel gives up on may take minutes.
const MOST_EFFORT: Duration = Duration::from_secs(10);

/// Room for what the verifier says, which is little unless it is asked for more.
const LOG_BYTES: usize = 1 << 14;
/// Room for what it says of each instruction, of which the last lines are shown.
const LONG_LOG_BYTES: usize = 1 << 20;
/// A program of which the kernel looked at fewer instructions than this may be offered twice.
const WORTH_REPEATING: u32 = 100_000;
/// So many lines say what is wrong; Linux 7.3 adds what to do about it.
const LOG_LINES: usize = 12;
/// The same, with what led there.
const LONG_LOG_LINES: usize = 60;

/// Where in the kernel a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// A tracepoint, for a program that reads its arguments as numbers. The kernel sees to it that
    /// there are so many.
    RawTracepoint(&'static str),
    /// The beginning of a function.
    Function(&'static str),
    /// A tracepoint's event, of this group and name, whose format is in tracefs (Linux 5.15).
    Event(&'static str, &'static str),
}

/// A program at work, for as long as the link is open or pinned.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) name: &'static str,
    pub(super) link: OwnedFd,
    /// The program itself: to open it by the link alone takes CAP_SYS_ADMIN.
    pub(super) program: OwnedFd,
    /// How many instructions the verifier looked at, if it said so.
    pub(super) instructions: Option<u32>,
}

/// A program that the kernel will not have.
#[derive(Debug)]
pub(crate) struct Refused {
    program: String,
    /// What the kernel says, in its last lines.
    pub(super) reason: String,
    /// It will say so as long as it runs.
    pub(super) lasts: bool,
    /// It was not asked now.
    earlier: bool,
}

impl Refused {
    fn new(program: &str, reason: String, lasts: bool) -> Self {
        Self {
            program: program.to_owned(),
            reason,
            lasts,
            earlier: false,
        }
    }

    /// The kernel has said so before.
    pub(super) fn earlier(program: &str, reason: &str) -> Self {
        Self {
            earlier: true,
            ..Self::new(program, reason.to_owned(), true)
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.earlier {
            " earlier in this boot, and is not asked again"
        } else {
            ""
        };
        let Self {
            program, reason, ..
        } = self;
        write!(
            f,
            "the kernel refused the program {program}{when}: {reason}"
        )
    }
}

impl std::error::Error for Refused {}

/// The object, its maps made.
pub(super) struct Object {
    programs: aya_obj::Object,
    maps: BTreeMap<String, MapData>,
    /// The object's own types in the kernel, which show source lines in its messages.
    types: Option<OwnedFd>,
}

/// What to set in an object before it is loaded.
pub(super) struct Settings<'a> {
    /// Read-only globals.
    pub(super) globals: &'a [(&'a str, Vec<u8>)],
    /// Maps that get another size.
    pub(super) sizes: &'a [(&'a str, u32)],
}

impl Object {
    /// Reads an object and makes its maps. With `pins`, they are pinned there, and those that are
    /// pinned already are used.
    pub(super) fn new(
        bytes: &[u8],
        settings: &Settings<'_>,
        pins: Option<&PinDir>,
    ) -> Result<Self> {
        let mut object = guarded(|| parse(bytes, settings))?;
        let mut maps = BTreeMap::new();
        for (name, map) in &object.maps {
            let data = make_map(name, map, settings, pins)
                .with_context(|| format!("cannot make the map {name}"))?;
            maps.insert(name.clone(), data);
        }
        guarded(|| relocate(&mut object, &maps))?;
        let types = load_types(&mut object);
        Ok(Self {
            programs: object,
            maps,
            types,
        })
    }

    /// Hands a map out.
    pub(super) fn take_map(&mut self, name: &str) -> Result<Map> {
        let data = self.maps.remove(name);
        let data = data.with_context(|| format!("the kernel object has no map {name}"))?;
        Ok(Map::from_map_data(data)?)
    }

    /// Loads a program and attaches it.
    ///
    /// # Errors
    /// [`Refused`], or whatever else keeps it from being loaded.
    pub(super) fn attach(
        &self,
        name: &'static str,
        hook: Hook,
        types: &KernelTypes,
    ) -> Result<Attached> {
        let (program, instructions) = self.load(name, hook, types)?;
        let link = match hook {
            Hook::RawTracepoint(tracepoint) => {
                let tracepoint = CString::new(tracepoint)?;
                bpf::attach(program.as_fd(), Some(&tracepoint))
            }
            Hook::Function(_) => bpf::attach(program.as_fd(), None),
            Hook::Event(group, event) => {
                bpf::attach_to_event(program.as_fd(), event_number(group, event)?)
            }
        };
        Ok(Attached {
            link: link.with_context(|| format!("cannot attach the program {name} to {hook}"))?,
            name,
            program,
            instructions,
        })
    }

    fn load(&self, name: &str, hook: Hook, types: &KernelTypes) -> Result<(OwnedFd, Option<u32>)> {
        let (program, function) = self
            .programs
            .programs
            .get(name)
            .and_then(|program| {
                let function = self.programs.functions.get(&program.function_key())?;
                Some((program, function))
            })
            .with_context(|| format!("the kernel object has no program {name}"))?;
        let (kind, attach_type, attach_id) = hook.kind(types)?;
        let instructions: Vec<_> = function.instructions.iter().map(encoded).collect();
        let (functions, lines) = (
            function.func_info.func_info_bytes(),
            function.line_info.line_info_bytes(),
        );
        let program = NewProgram {
            kind,
            attach_type,
            attach_id,
            name,
            instructions: &instructions,
            license: &program.license,
            types: self.types.as_ref().map(|types| {
                let (functions, lines) = records(function, &functions, &lines);
                (types.as_fd(), functions, lines)
            }),
        };
        load(&program)
    }
}

impl Hook {
    /// What the kernel calls such a program, and what it is for: of BTF's types, if any.
    fn kind(self, types: &KernelTypes) -> Result<(u32, u32, u32)> {
        use bpf_attach_type::BPF_TRACE_FENTRY;
        use bpf_prog_type::{
            BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_TRACEPOINT, BPF_PROG_TYPE_TRACING,
        };
        let missing = || anyhow!("the kernel has no {self}");
        Ok(match self {
            Self::RawTracepoint(_) => (BPF_PROG_TYPE_RAW_TRACEPOINT as u32, 0, 0),
            Self::Event(..) => (BPF_PROG_TYPE_TRACEPOINT as u32, 0, 0),
            Self::Function(name) => {
                let found = types.function(name).ok_or_else(missing)?;
                (
                    BPF_PROG_TYPE_TRACING as u32,
                    BPF_TRACE_FENTRY as u32,
                    found.id,
                )
            }
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RawTracepoint(name) => write!(f, "tracepoint {name}"),
            Self::Function(name) => write!(f, "function {name}"),
            Self::Event(group, name) => write!(f, "event {group}:{name}"),
        }
    }
}

/// Loads a program. Where the kernel will not have it, and did not look long, asks it to say more.
fn load(program: &NewProgram<'_>) -> Result<(OwnedFd, Option<u32>)> {
    let mut log = vec![0; LOG_BYTES];
    let mut loaded = try_load(program, LOG_STATISTICS, &mut log);
    if is(&loaded, libc::ENOSPC) {
        loaded = try_load(program, 0, &mut []);
    }
    let work = text(&log).lines().find_map(instructions_in);
    let error = match loaded {
        Ok(fd) => {
            tracing::debug!(program = program.name, instructions = work, "loaded");
            return Ok((fd, work));
        }
        Err(error) => error,
    };
    let name = program.name;
    if error.kind() == io::ErrorKind::TimedOut {
        let reason = format!("it was not done with it after {MOST_EFFORT:?} on a CPU");
        return Err(Refused::new(name, reason, true).into());
    }
    if text(&log).is_empty() {
        return Err(anyhow!(error).context(format!("cannot load the program {name}")));
    }
    if work.is_none_or(|work| work < WORTH_REPEATING) {
        show_the_way(program);
    }
    let reason = format!("{error}\n{}", last_lines(&text(&log), LOG_LINES));
    // The verifier's own verdicts. EPERM, ENOMEM and the like may be others tomorrow.
    let verdicts = [libc::EINVAL, libc::EACCES, libc::E2BIG];
    let lasts = error
        .raw_os_error()
        .is_some_and(|errno| verdicts.contains(&errno));
    Err(Refused::new(name, reason, lasts).into())
}

/// Has the verifier say more of a program that it refuses: what it looked at before.
fn show_the_way(program: &NewProgram<'_>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let mut log = vec![0; LONG_LOG_BYTES];
    if try_load(program, LOG_INSTRUCTIONS, &mut log).is_err() {
        let lines = last_lines(&text(&log), LONG_LOG_LINES);
        tracing::debug!("the verifier's way through {}:\n{lines}", program.name);
    }
}

fn try_load(program: &NewProgram<'_>, level: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    effort::bounded(MOST_EFFORT, || bpf::load_program(program, level, log))
}

fn is<T>(result: &io::Result<T>, errno: i32) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(errno))
}

/// What the verifier has written.
fn text(log: &[u8]) -> Cow<'_, str> {
    let written = log.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(written)
}

/// "processed 11999 insns (limit 1000000) …" is 11999.
fn instructions_in(line: &str) -> Option<u32> {
    let (count, _) = line.strip_prefix("processed ")?.split_once(' ')?;
    count.parse().ok()
}

/// The lines that say what is wrong: the last ones, but for those that say how much it took.
fn last_lines(log: &str, most: usize) -> String {
    let figures = ["verification time ", "stack depth ", "subprog "];
    let told = |line: &&str| {
        !line.trim().is_empty() && !figures.iter().any(|figure| line.starts_with(figure))
    };
    let mut lines: Vec<&str> = log.lines().rev().filter(told).take(most).collect();
    lines.reverse();
    lines.join("\n")
}

fn parse(bytes: &[u8], settings: &Settings<'_>) -> Result<aya_obj::Object> {
    let mut object = aya_obj::Object::parse(bytes).context("the kernel object is damaged")?;
    let globals = settings.globals.iter();
    let globals: HashMap<&str, (&[u8], bool)> = globals
        .map(|(name, value)| (*name, (value.as_slice(), true)))
        .collect();
    object
        .patch_map_data(globals)
        .context("the kernel object does not fit this program")?;
    Ok(object)
}

fn make_map(
    name: &str,
    map: &aya_obj::Map,
    settings: &Settings<'_>,
    pins: Option<&PinDir>,
) -> Result<MapData> {
    let pin = pins.and_then(|pins| pins.of_map(name));
    if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
        return Ok(MapData::from_pin(pin)?);
    }
    let mut map = map.clone();
    if let Some((_, entries)) = settings.sizes.iter().find(|(sized, _)| *sized == name) {
        map.set_max_entries(*entries);
    }
    if map.map_type() == bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32 {
        map.set_value_size(0);
    }
    let value = map.data().to_vec();
    let is_constant = map.section_kind() == EbpfSectionKind::Rodata;
    let data = MapData::create(map, name, None)?;
    if !value.is_empty() {
        bpf::write_value(data.fd().as_fd(), &value)?;
    }
    if is_constant {
        bpf::freeze(data.fd().as_fd())?;
    }
    if let Some(pin) = pin {
        bpf::pin(data.fd().as_fd(), &pin)
            .with_context(|| format!("cannot pin {}", pin.display()))?;
    }
    Ok(data)
}

/// Writes the maps' numbers, and the functions that are called, into the instructions.
fn relocate(object: &mut aya_obj::Object, maps: &BTreeMap<String, MapData>) -> Result<()> {
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let shapes = std::mem::take(&mut object.maps);
    let made = shapes.iter().filter_map(|(name, map)| {
        let data = maps.get(name)?;
        Some((name.as_str(), data.fd().as_fd().as_raw_fd(), map))
    });
    object
        .relocate_maps(made, &sections)
        .and_then(|()| object.relocate_calls(&sections))
        .context("the kernel object is damaged")
}

/// Hands the object's own types to the kernel, which does without them if it does not like them.
fn load_types(object: &mut aya_obj::Object) -> Option<OwnedFd> {
    // What Linux 5.10 knows: functions, global ones too, and sections of data that are not empty.
    let features = BtfFeatures::new(true, true, true, false, false, false, false, false);
    let types = guarded(|| {
        Ok(object
            .fixup_and_sanitize_btf(&features)?
            .map(|it| it.to_bytes()))
    });
    match types.and_then(|types| Ok(types.as_deref().map(bpf::load_types).transpose()?)) {
        Ok(types) => types,
        Err(error) => {
            tracing::debug!("the kernel object's own types are not loaded: {error:#}");
            None
        }
    }
}

/// What the object's types say of a function's instructions.
fn records<'a>(
    function: &Function,
    functions: &'a [u8],
    lines: &'a [u8],
) -> (Records<'a>, Records<'a>) {
    let functions = Records {
        bytes: functions,
        size: function.func_info_rec_size,
    };
    let lines = Records {
        bytes: lines,
        size: function.line_info_rec_size,
    };
    (functions, lines)
}

/// An instruction as the kernel reads it.
fn encoded(instruction: &bpf_insn) -> [u8; 8] {
    let [off_low, off_high] = instruction.off.to_ne_bytes();
    let [a, b, c, d] = instruction.imm.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") {
        instruction.dst_reg() | instruction.src_reg() << 4
    } else {
        instruction.src_reg() | instruction.dst_reg() << 4
    };
    [instruction.code, registers, off_low, off_high, a, b, c, d]
}

/// The number of a tracepoint's event.
fn event_number(group: &str, event: &str) -> Result<u64> {
    // tracefs is mounted in one of these places, if it is.
    let roots = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let read = |root: &str| fs::read_to_string(format!("{root}/events/{group}/{event}/id")).ok();
    let number = roots.into_iter().find_map(read).or_else(|| {
        let mount = tracefs::detached()
            .inspect_err(|error| tracing::debug!("cannot mount tracefs: {error}"))
            .ok()?;
        read(&format!("/proc/self/fd/{}", mount.as_raw_fd()))
    });
    let number = number.and_then(|number| number.trim().parse().ok());
    number.with_context(|| format!("the kernel does not show the event {group}:{event} in tracefs"))
}

/// Makes a panic an error: aya-obj's reader takes some things for granted of an object.
fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    std::panic::set_hook(hook);
    result.unwrap_or_else(|_| Err(anyhow!("the kernel object is damaged: its reader gave up")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found_among_the_figures() {
        let old = "0: (bf) r0 = r5\nR5 !read_ok\nverification time 12 usec\nstack depth 0\n\
                   processed 1 insns (limit 1000000) max_states_per_insn 0\n";
        // Linux 7.3 has a line for each function, after the error.
        let new = "0: (bf) r0 = r5\nR5 !read_ok\nverification time 12 usec\nstack depth 0+0+0\n\
                   subprog 0 (exit) main insns_self 1 insns_total 1 stack 0\n\
                   subprog 1 (a) static insns_self 0 insns_total 0 stack 0\n\
                   subprog 2 (b) static insns_self 0 insns_total 0 stack 0\n\
                   subprog 3 (c) static insns_self 0 insns_total 0 stack 0\n\
                   processed 1 insns (limit 1000000) max_states_per_insn 0\n";
        for log in [old, new] {
            let lines = last_lines(log, 5);
            let expected = "0: (bf) r0 = r5\nR5 !read_ok\nprocessed 1 insns (limit 1000000) \
                            max_states_per_insn 0";
            assert_eq!(lines, expected);
            assert_eq!(log.lines().find_map(instructions_in), Some(1));
        }
        assert_eq!(last_lines("1\n\n2\n3\n4\n", 3), "2\n3\n4");
    }

    #[test]
    fn a_log_ends_with_its_nul() {
        assert_eq!(text(b"some words\0\0\0"), "some words");
        assert_eq!(text(b""), "");
        assert_eq!(text(b"no end \xff"), "no end \u{fffd}");
    }

    #[test]
    fn damaged_objects_are_errors() {
        let settings = Settings {
            globals: &[("OFFSETS", vec![0; 4])],
            sizes: &[],
        };
        let whole = super::super::kernel::OBJECT;
        for length in [0, 63, 64, whole.len() / 2, whole.len() - 1] {
            assert!(Object::new(&whole[..length], &settings, None).is_err());
        }
        // A global of another length is another build's.
        let error = Object::new(whole, &settings, None).err().unwrap();
        assert!(format!("{error:#}").contains("OFFSETS"), "{error:#}");
    }
}

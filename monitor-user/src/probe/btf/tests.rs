use std::fs;
use std::io;

use btfparse::{Offset, Readable, TypeInformation, TypeVariant};
use proptest::prelude::*;

use super::*;

/// BTF in memory.
struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap().min(self.0.len());
        let there = &self.0[from..];
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        Ok(length)
    }
}

impl Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let from = usize::try_from(offset).unwrap();
        match self.0.get(from..from + buffer.len()) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
        Ok(())
    }
}

/// Writes BTF, a type at a time.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
}

const INT: u32 = 1;
const POINTER: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const CONST: u32 = 10;
const FUNCTION: u32 = 12;
const PROTOTYPE: u32 = 13;
const FLAG: u32 = 1 << 31;

impl Writer {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        u32::try_from(at).unwrap()
    }

    fn words(&mut self, words: &[u32]) {
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        self.types.extend(bytes);
    }

    fn add(&mut self, name: &str, kind: u32, size_or_type: u32, rest: &[u32]) {
        let name = self.name(name);
        self.words(&[name, kind << 24, size_or_type]);
        self.words(rest);
    }

    /// A struct or union of members (name, type, offset in bits).
    fn compound(&mut self, name: &str, kind: u32, size: u32, members: &[(&str, u32, u32)]) {
        let name = self.name(name);
        let count = u32::try_from(members.len()).unwrap();
        self.words(&[name, (kind & !FLAG) << 24 | kind & FLAG | count, size]);
        for &(name, id, offset) in members {
            let name = self.name(name);
            self.words(&[name, id, offset]);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len(), self.strings.len());
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let lengths = [24, 0, types, types, strings].map(|length| u32::try_from(length).unwrap());
        bytes.extend(lengths.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

/// A struct with all that a member can be.
fn sample() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.add("int", INT, 4, &[32]); // 1
    writer.compound("inner", STRUCT, 8, &[("first", 1, 0), ("second", 1, 32)]); // 2
    writer.add("inner_t", TYPEDEF, 2, &[]); // 3
    writer.add("", CONST, 3, &[]); // 4
    writer.add("", ARRAY, 0, &[4, 1, 3]); // 5: 3 of `const inner_t`
    writer.compound("", UNION, 8, &[("either", 1, 0), ("or", 4, 0)]); // 6
    writer.compound("", STRUCT, 8, &[("", 6, 0)]); // 7
    let members = [
        ("plain", 1, 0),
        ("many", 5, 64),
        ("", 7, 256),
        ("last", 9, 320),
    ];
    writer.compound("outer", STRUCT, 48, &members); // 8
    writer.add("", POINTER, 2, &[]); // 9
    // Bit fields: 3 bits from bit 5 on, and a member without bits of its own.
    let members = [("bits", 1, 3 << 24 | 5), ("whole", 1, 32)];
    writer.compound("flags", STRUCT | FLAG, 8, &members); // 10
    writer.words(&[0, PROTOTYPE << 24 | 3, 0, 0, 9, 0, 1, 0, 0]); // 11: (pointer, int, ...)
    writer.add("", POINTER, 11, &[]); // 12
    writer.add("btf_trace_it", TYPEDEF, 12, &[]); // 13
    writer.add("a_function", FUNCTION, 11, &[]); // 14
    writer.bytes()
}

const SAMPLE_NAMES: [&str; 18] = [
    "inner",
    "first",
    "second",
    "inner_t",
    "either",
    "or",
    "outer",
    "plain",
    "many",
    "last",
    "flags",
    "bits",
    "whole",
    "btf_trace_it",
    "a_function",
    "int",
    "absent",
    "0]",
];

const SAMPLE_PATHS: [&str; 11] = [
    "plain",
    "many[2].second",
    "many[3].second",
    "many.second",
    "plain[0]",
    "either",
    "or.second",
    "last",
    "last.first",
    "absent",
    "",
];

#[test]
fn members_are_found_wherever_they_are() {
    let types = Types::index(Bytes(sample()), &SAMPLE_NAMES).unwrap();
    let outer = types.id(Named::Struct, "outer").unwrap();
    let found = SAMPLE_PATHS.map(|path| types.offset(outer, path).ok());
    let expected = [
        Some(0),
        Some(8 + 2 * 8 + 4),
        None,
        None,
        None,
        Some(32),
        Some(36),
        Some(40),
        None,
        None,
        None,
    ];
    assert_eq!(found, expected);
    let flags = types.id(Named::Struct, "flags").unwrap();
    let bits = types.offset(flags, "bits");
    assert!(matches!(bits, Err(NoOffset::BitField)), "{bits:?}");
    assert_eq!(types.offset(flags, "whole").unwrap(), 4);
    assert_eq!(types.size(outer).unwrap(), 48);
    assert_eq!(types.size(5).unwrap(), 24);
    // The dots at the end count for nothing.
    let typedef = types.id(Named::Typedef, "btf_trace_it").unwrap();
    assert_eq!(types.parameters(typedef).unwrap(), Some(2));
    let function = types.id(Named::Function, "a_function").unwrap();
    assert_eq!(types.parameters(function).unwrap(), Some(2));
    assert_eq!(types.parameters(1).unwrap(), None);
    // An int is no struct, whatever it is called.
    assert_eq!(types.id(Named::Struct, "int"), None);
}

#[test]
fn rings_are_errors() {
    let mut writer = Writer::default();
    writer.add("a", TYPEDEF, 2, &[]);
    writer.add("b", TYPEDEF, 1, &[]);
    writer.compound("own", STRUCT, 4, &[("", 3, 0), ("", 3, 0)]);
    writer.add("", ARRAY, 0, &[4, 1, 2]);
    let types = Types::index(Bytes(writer.bytes()), &["own", "x"]).unwrap();
    for error in [
        types.size(1).unwrap_err(),
        types.size(4).unwrap_err(),
        types.parameters(1).unwrap_err(),
    ] {
        let error = format!("{error:#}");
        assert!(error.contains("itself") || error.contains("end"), "{error}");
    }
    let own = types.offset(3, "x");
    assert!(matches!(own, Err(NoOffset::Damaged(_))), "{own:?}");
}

#[test]
fn another_byte_order_is_named() {
    let mut bytes = sample();
    bytes.swap(0, 1);
    let Err(error) = Types::index(Bytes(bytes), &[]) else {
        panic!("it was read");
    };
    assert!(error.to_string().contains("byte order"), "{error:#}");
}

/// Asks all there is to ask; whatever comes of it, nothing panics and all of it ends.
fn look_everywhere(bytes: Vec<u8>) {
    let Ok(types) = Types::index(Bytes(bytes), &SAMPLE_NAMES) else {
        return;
    };
    for id in 0..20 {
        for path in SAMPLE_PATHS {
            let _ = types.offset(id, path);
        }
        let _ = types.size(id);
        let _ = types.parameters(id);
    }
}

#[test]
fn cut_bytes_are_errors() {
    let whole = sample();
    for length in 0..whole.len() {
        let cut = whole[..length].to_vec();
        assert!(Types::index(Bytes(cut), &SAMPLE_NAMES).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        look_everywhere(bytes);
    }

    #[test]
    fn damaged_bytes_are_read_without_a_panic(
        changes in proptest::collection::vec((0..500_usize, any::<u8>()), 1..10),
    ) {
        let mut bytes = sample();
        let length = bytes.len();
        for (at, byte) in changes {
            bytes[at % length] = byte;
        }
        look_everywhere(bytes);
    }
}

#[test]
fn reads_the_running_kernel() {
    if !Path::new(KERNEL_BTF).exists() {
        eprintln!("SKIPPED: no {KERNEL_BTF} on this host");
        return;
    }
    let types = KernelTypes::read(Path::new(KERNEL_BTF)).unwrap();
    types.exit_tracepoint().unwrap();
    assert_eq!(
        types.tracepoint("sched_process_fork").unwrap().parameters,
        2
    );
    // Every kernel from 5.15 on, if it counts what processes read and write.
    let offsets = types.offsets();
    let missing = offsets.iter().filter(|&&at| at == NO_FIELD).count();
    assert!(missing <= 4, "{offsets:?}");
}

#[test]
fn finds_what_btfparse_finds_in_the_running_kernel() {
    let Ok(bytes) = fs::read(KERNEL_BTF) else {
        eprintln!("SKIPPED: no {KERNEL_BTF} on this host");
        return;
    };
    let theirs = TypeInformation::new(&Bytes(bytes.clone())).unwrap();
    let ours = Types::index(Bytes(bytes), &wanted_names()).unwrap();
    let id_of = |name: &str| {
        let found = theirs.get().iter().find(|(_, kind)| match kind {
            TypeVariant::Struct(kind) => kind.name().as_deref() == Some(name),
            _ => false,
        });
        *found.unwrap().0
    };
    for field in FIELDS {
        let id = id_of(field.of);
        assert_eq!(ours.id(Named::Struct, field.of), Some(id), "{}", field.of);
        for path in field.paths {
            let expected = match theirs.offset_of(id, path) {
                Ok((_, Offset::ByteOffset(bytes))) => Some(bytes),
                _ => None,
            };
            let found = ours.offset(id, path).ok();
            assert_eq!(found, expected, "{}.{path}", field.of);
        }
    }
    let upid = id_of("upid");
    let size = u64::from(ours.size(upid).unwrap());
    assert_eq!(size, u64::try_from(theirs.size_of(upid).unwrap()).unwrap());
    for function in FUNCTIONS {
        let id = ours.id(Named::Function, function);
        let has = theirs.get().iter().any(|(found, kind)| match kind {
            TypeVariant::Func(kind) => {
                kind.name().as_deref() == Some(function) && id == Some(*found)
            }
            _ => false,
        });
        assert_eq!(has, id.is_some(), "{function}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let read = |bytes| {
        let path = Path::new("a/file");
        let reader = Reader::new(path, Bytes(bytes), &wanted_names())?;
        reader.read()
    };
    let error = read(sample()).unwrap_err().to_string();
    assert_eq!(error, "a/file: the kernel has no struct task_struct");
    let mut writer = Writer::default();
    writer.add("int", INT, 4, &[32]);
    writer.compound(
        "task_struct",
        STRUCT | FLAG,
        4,
        &[("group_leader", 1, 1 << 24)],
    );
    let error = read(writer.bytes()).unwrap_err().to_string();
    assert_eq!(
        error,
        "a/file: the kernel has no field task_struct.group_leader: it is a bit field"
    );
    let mut writer = Writer::default();
    writer.add("int", INT, 4, &[32]);
    writer.compound("task_struct", STRUCT, 4, &[("group_leader", 1, 0)]);
    let error = read(writer.bytes()).unwrap_err().to_string();
    assert_eq!(
        error,
        "a/file: the kernel has no field task_struct.real_parent: it is not there"
    );
    let mut damaged = sample();
    damaged.truncate(60);
    let error = format!("{:#}", read(damaged).unwrap_err());
    assert!(error.starts_with("a/file: damaged BTF: "), "{error}");
}

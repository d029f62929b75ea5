//! A kernel's BTF, read in pieces: which types have which of the wanted names, and where their
//! members are. Keeps an index of the types, and none of them: the whole of it is several megabytes.
//!
//! Bytes of any kind are read without a panic: what is damaged is an error.
//!
//! The format: <https://docs.kernel.org/bpf/btf.html>

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
/// Of a type, before what depends on its kind.
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
const PARAMETER_BYTES: usize = 8;
/// Of a pointer: BTF does not say, and every kernel with BPF that we run on has 64 bits.
const POINTER_BYTES: u32 = 8;

/// A type that leads to another one leads to an end within so many steps, else it is a ring.
const MOST_STEPS: u32 = 32;
/// So many nameless structs are looked into for one member.
const MOST_NAMELESS: u32 = 1000;
/// A kernel has about 150,000 types: a file with more than this is none of a kernel's.
const MOST_TYPES: usize = 1 << 22;

/// `BTF_KIND_…`
mod kind {
    pub(super) const INT: u8 = 1;
    pub(super) const POINTER: u8 = 2;
    pub(super) const ARRAY: u8 = 3;
    pub(super) const STRUCT: u8 = 4;
    pub(super) const UNION: u8 = 5;
    pub(super) const ENUM: u8 = 6;
    pub(super) const FORWARD: u8 = 7;
    pub(super) const TYPEDEF: u8 = 8;
    pub(super) const VOLATILE: u8 = 9;
    pub(super) const CONST: u8 = 10;
    pub(super) const RESTRICT: u8 = 11;
    pub(super) const FUNCTION: u8 = 12;
    pub(super) const PROTOTYPE: u8 = 13;
    pub(super) const VARIABLE: u8 = 14;
    pub(super) const SECTION: u8 = 15;
    pub(super) const FLOAT: u8 = 16;
    pub(super) const DECLARATION_TAG: u8 = 17;
    pub(super) const TYPE_TAG: u8 = 18;
    pub(super) const ENUM64: u8 = 19;
}

/// What a wanted name may be the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Named {
    Struct,
    Typedef,
    Function,
}

/// Why a member has no offset.
#[derive(Debug)]
pub(super) enum NoOffset {
    /// There is none of that name.
    Missing,
    /// It has no byte of its own.
    BitField,
    /// The BTF cannot be read there.
    Damaged(anyhow::Error),
}

impl From<anyhow::Error> for NoOffset {
    fn from(error: anyhow::Error) -> Self {
        Self::Damaged(error)
    }
}

/// Bytes that can be read from anywhere.
pub(super) trait Source {
    /// Reads what is there from `offset` on, at most as much as `buffer` takes; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

/// Some part of the source, read from its beginning to its end.
struct Section<'a, S> {
    source: &'a S,
    from: u64,
    to: u64,
}

impl<S: Source> Read for Section<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.to.saturating_sub(self.from)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let read = match buffer.get_mut(..room) {
            Some(buffer) if room > 0 => self.source.read_at(buffer, self.from)?,
            _ => 0,
        };
        self.from += read as u64;
        Ok(read)
    }
}

/// Which bytes of the file are types, and which strings.
#[derive(Debug, Clone, Copy)]
struct Header {
    types: u64,
    types_len: u64,
    strings: u64,
    strings_len: u64,
}

/// One type, without what depends on its kind.
#[derive(Debug, Clone, Copy, Default)]
struct Type {
    name: u32,
    kind: u8,
    /// Of members, parameters and so on.
    count: u16,
    /// Of a struct with bit fields; and other things for other kinds.
    flag: bool,
    /// Its size, or the type that it leads to.
    size_or_type: u32,
}

/// Somewhere in a type.
#[derive(Debug, Clone, Copy)]
struct MemberPlace {
    /// In bits, from its beginning.
    bits: u64,
    /// What is there.
    id: u32,
    /// If not 0, the length of the bit field.
    bit_field: u32,
}

/// The index of a kernel's BTF.
pub(super) struct Types<S> {
    source: S,
    header: Header,
    /// Where each type is in the types' section, from type 1 on.
    at: Vec<u32>,
    /// The wanted names, by their place among the strings.
    names: HashMap<u32, &'static str>,
    /// The first type of each kind and wanted name.
    found: HashMap<(Named, &'static str), u32>,
}

impl<S: Source> Types<S> {
    /// Looks through all of it for types and members that have one of these names.
    pub(super) fn index(source: S, wanted: &[&'static str]) -> Result<Self> {
        let header = Header::read(&source)?;
        let names = find_strings(&source, header, wanted).context("its strings")?;
        let mut types = Self {
            source,
            header,
            at: Vec::new(),
            names,
            found: HashMap::new(),
        };
        types.find_types().context("its types")?;
        Ok(types)
    }

    fn find_types(&mut self) -> Result<()> {
        let Self {
            source,
            header,
            at,
            names,
            found,
        } = self;
        let mut reader = BufReader::new(Section {
            source,
            from: header.types,
            to: header.types + header.types_len,
        });
        let mut offset = 0;
        while offset < header.types_len {
            ensure!(at.len() < MOST_TYPES, "more than {MOST_TYPES} of them");
            at.push(u32::try_from(offset)?);
            let mut bytes = [0; TYPE_BYTES];
            let id = u32::try_from(at.len())?;
            reader
                .read_exact(&mut bytes)
                .with_context(|| format!("type {id}"))?;
            let type_ = Type::parse(bytes);
            let rest = type_.rest().with_context(|| format!("type {id}"))?;
            skip(&mut reader, rest).with_context(|| format!("type {id}"))?;
            offset += (TYPE_BYTES + rest) as u64;
            if let Some(named) = type_.named()
                && let Some(name) = names.get(&type_.name)
            {
                found.entry((named, *name)).or_insert(id);
            }
        }
        Ok(())
    }

    /// The number of the type of this kind and name.
    pub(super) fn id(&self, named: Named, name: &str) -> Option<u32> {
        self.found
            .iter()
            .find(|((kind, found), _)| *kind == named && *found == name)
            .map(|(_, id)| *id)
    }

    /// Where in a struct a member is, in bytes: `name`, `name.name`, `name[number].name`.
    pub(super) fn offset(&self, of: u32, path: &str) -> Result<u32, NoOffset> {
        let mut place = MemberPlace {
            bits: 0,
            id: of,
            bit_field: 0,
        };
        for step in path.split('.') {
            let mut pieces = step.split('[');
            let name = pieces.next().unwrap_or_default();
            place = self.step_into(place, name)?;
            for index in pieces {
                let index = index.strip_suffix(']').and_then(|text| text.parse().ok());
                place = self.element(place, index.ok_or(NoOffset::Missing)?)?;
            }
        }
        if place.bit_field != 0 || !place.bits.is_multiple_of(8) {
            return Err(NoOffset::BitField);
        }
        u32::try_from(place.bits / 8)
            .map_err(|_| NoOffset::Damaged(anyhow::anyhow!("an offset beyond all memory")))
    }

    /// The member of this name of the struct that is there.
    fn step_into(&self, place: MemberPlace, name: &str) -> Result<MemberPlace, NoOffset> {
        let member = self.member(place.id, name, &mut MOST_NAMELESS.clone())?;
        let member = member.ok_or(NoOffset::Missing)?;
        Ok(MemberPlace {
            bits: place.bits + member.bits,
            ..member
        })
    }

    /// The member of this name of a struct, or of a nameless struct or union in it.
    fn member(&self, of: u32, name: &str, nameless: &mut u32) -> Result<Option<MemberPlace>> {
        let (id, type_) = self.target(of)?;
        if ![kind::STRUCT, kind::UNION].contains(&type_.kind) {
            return Ok(None);
        }
        for (member_name, place) in self.members(id, &type_)? {
            if self.names.get(&member_name).is_some_and(|it| *it == name) {
                return Ok(Some(place));
            }
            if member_name != 0 {
                continue;
            }
            let left = nameless.checked_sub(1);
            *nameless = left.context("nameless structs without an end")?;
            if let Some(within) = self.member(place.id, name, nameless)? {
                let bits = place.bits + within.bits;
                return Ok(Some(MemberPlace { bits, ..within }));
            }
        }
        Ok(None)
    }

    fn members(&self, id: u32, of: &Type) -> Result<Vec<(u32, MemberPlace)>> {
        let bytes = self.rest(id, usize::from(of.count) * MEMBER_BYTES)?;
        let members = bytes.chunks_exact(MEMBER_BYTES).map(|member| {
            let offset = word(member, 8);
            let (bits, bit_field) = if of.flag {
                (offset & 0xff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            let place = MemberPlace {
                bits: bits.into(),
                id: word(member, 4),
                bit_field,
            };
            (word(member, 0), place)
        });
        Ok(members.collect())
    }

    /// An element of the array that is there.
    fn element(&self, place: MemberPlace, index: u32) -> Result<MemberPlace, NoOffset> {
        let (id, array) = self.target(place.id)?;
        if array.kind != kind::ARRAY {
            return Err(NoOffset::Missing);
        }
        let bytes = self.rest(id, 12)?;
        let (element, count) = (word(&bytes, 0), word(&bytes, 8));
        if index >= count {
            return Err(NoOffset::Missing);
        }
        let size = u64::from(self.size(element)?);
        Ok(MemberPlace {
            bits: place.bits + u64::from(index) * size * 8,
            id: element,
            bit_field: 0,
        })
    }

    /// How many bytes a value of the type takes.
    pub(super) fn size(&self, id: u32) -> Result<u32> {
        self.size_within(id, MOST_STEPS)
    }

    fn size_within(&self, id: u32, steps: u32) -> Result<u32> {
        let (id, type_) = self.target(id)?;
        match type_.kind {
            kind::POINTER => Ok(POINTER_BYTES),
            kind::ARRAY => {
                let steps = steps.checked_sub(1).context("arrays without an end")?;
                let bytes = self.rest(id, 12)?;
                let element = self.size_within(word(&bytes, 0), steps)?;
                let size = element.checked_mul(word(&bytes, 8));
                size.context("an array beyond all memory")
            }
            kind::INT
            | kind::STRUCT
            | kind::UNION
            | kind::ENUM
            | kind::ENUM64
            | kind::FLOAT
            | kind::SECTION => Ok(type_.size_or_type),
            _ => bail!("type {id} has no size"),
        }
    }

    /// How many parameters a function has, or the one that a typedef's pointer leads to.
    pub(super) fn parameters(&self, id: u32) -> Result<Option<usize>> {
        let (mut id, mut type_) = self.target(id)?;
        if [kind::POINTER, kind::FUNCTION].contains(&type_.kind) {
            (id, type_) = self.target(type_.size_or_type)?;
        }
        if type_.kind != kind::PROTOTYPE {
            return Ok(None);
        }
        let bytes = self.rest(id, usize::from(type_.count) * PARAMETER_BYTES)?;
        // The last one, without a type, stands for any number of them.
        let named = bytes.chunks_exact(PARAMETER_BYTES);
        Ok(Some(
            named.filter(|parameter| word(parameter, 4) != 0).count(),
        ))
    }

    /// What a type is when it is no other name for one, `const` and the like.
    fn target(&self, mut id: u32) -> Result<(u32, Type)> {
        for _ in 0..MOST_STEPS {
            let type_ = self.type_of(id)?;
            match type_.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = type_.size_or_type;
                }
                _ => return Ok((id, type_)),
            }
        }
        bail!("type {id} leads back to itself");
    }

    fn type_of(&self, id: u32) -> Result<Type> {
        // Type 0 is `void`.
        if id == 0 {
            return Ok(Type::default());
        }
        let mut bytes = [0; TYPE_BYTES];
        read_exactly(&self.source, &mut bytes, self.position(id)?)?;
        Ok(Type::parse(bytes))
    }

    /// What follows on a type, of which `length` bytes belong to it.
    fn rest(&self, id: u32, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let position = self.position(id)? + TYPE_BYTES as u64;
        read_exactly(&self.source, &mut bytes, position)?;
        Ok(bytes)
    }

    fn position(&self, id: u32) -> Result<u64> {
        let index = usize::try_from(id)?.checked_sub(1);
        let at = index.and_then(|index| self.at.get(index));
        let at = at.with_context(|| format!("there is no type {id}"))?;
        Ok(self.header.types + u64::from(*at))
    }
}

impl Header {
    fn read(source: &impl Source) -> Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        read_exactly(source, &mut bytes, 0).context("its header")?;
        let magic = u16::from_ne_bytes([bytes[0], bytes[1]]);
        ensure!(
            magic != MAGIC.swap_bytes(),
            "it is another byte order's than this machine's"
        );
        ensure!(magic == MAGIC, "it does not begin as BTF does");
        let start = u64::from(word(&bytes, 4));
        ensure!(start >= HEADER_BYTES as u64, "its header is too short");
        Ok(Self {
            types: start + u64::from(word(&bytes, 8)),
            types_len: word(&bytes, 12).into(),
            strings: start + u64::from(word(&bytes, 16)),
            strings_len: word(&bytes, 20).into(),
        })
    }
}

impl Type {
    fn parse(bytes: [u8; TYPE_BYTES]) -> Self {
        let info = word(&bytes, 4);
        let [low, high, _, kind_and_flag] = info.to_le_bytes();
        Self {
            name: word(&bytes, 0),
            kind: kind_and_flag & 0x1f,
            count: u16::from_le_bytes([low, high]),
            flag: kind_and_flag & 0x80 != 0,
            size_or_type: word(&bytes, 8),
        }
    }

    /// How many bytes follow that depend on its kind.
    fn rest(&self) -> Result<usize> {
        let count = usize::from(self.count);
        Ok(match self.kind {
            kind::POINTER
            | kind::FORWARD
            | kind::TYPEDEF
            | kind::VOLATILE
            | kind::CONST
            | kind::RESTRICT
            | kind::FUNCTION
            | kind::FLOAT
            | kind::TYPE_TAG => 0,
            kind::INT | kind::VARIABLE | kind::DECLARATION_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::SECTION | kind::ENUM64 => count * MEMBER_BYTES,
            kind::ENUM | kind::PROTOTYPE => count * PARAMETER_BYTES,
            unknown => bail!("kind {unknown} of type is not known"),
        })
    }

    fn named(&self) -> Option<Named> {
        match self.kind {
            kind::STRUCT => Some(Named::Struct),
            kind::TYPEDEF => Some(Named::Typedef),
            kind::FUNCTION => Some(Named::Function),
            _ => None,
        }
    }
}

impl fmt::Display for NoOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it is not there"),
            Self::BitField => f.write_str("it is a bit field"),
            Self::Damaged(error) => write!(f, "damaged BTF: {error:#}"),
        }
    }
}

/// The places of the wanted ones among the strings.
fn find_strings(
    source: &impl Source,
    header: Header,
    wanted: &[&'static str],
) -> Result<HashMap<u32, &'static str>> {
    let wanted: HashMap<&[u8], &'static str> =
        wanted.iter().map(|name| (name.as_bytes(), *name)).collect();
    let longest = wanted.keys().map(|name| name.len()).max().unwrap_or(0);
    let mut reader = BufReader::new(Section {
        source,
        from: header.strings,
        to: header.strings + header.strings_len,
    });
    let mut names = HashMap::new();
    let mut offset = 0;
    let mut string = Vec::new();
    while offset < header.strings_len {
        string.clear();
        // No string of a kernel is as long as this: a file of other bytes is not read whole.
        let length = (&mut reader).take(1 << 16).read_until(0, &mut string)?;
        ensure!(string.pop() == Some(0), "one has no end");
        if string.len() <= longest
            && let Some(name) = wanted.get(string.as_slice())
        {
            names.insert(u32::try_from(offset)?, *name);
        }
        offset += length as u64;
    }
    Ok(names)
}

fn skip(reader: &mut impl BufRead, mut bytes: usize) -> Result<()> {
    while bytes > 0 {
        let there = reader.fill_buf()?.len();
        ensure!(there > 0, "it ends too early");
        let now = there.min(bytes);
        reader.consume(now);
        bytes -= now;
    }
    Ok(())
}

fn read_exactly(source: &impl Source, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
    while !buffer.is_empty() {
        let read = source.read_at(buffer, offset)?;
        ensure!(read > 0, "it ends too early");
        offset += read as u64;
        buffer = buffer.get_mut(read..).unwrap_or_default();
    }
    Ok(())
}

/// The word at `offset`; 0 beyond the end.
fn word(bytes: &[u8], offset: usize) -> u32 {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u32::from_ne_bytes(*word))
}

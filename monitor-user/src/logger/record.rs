//! How far the logger has come with one service, in a file that a kill at any instant leaves readable.
//!
//! Two slots take turns. Each has a number and a checksum, so that one that is half written counts for
//! nothing, and the one before it holds.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::model::fnv1a;
use crate::os::proc;

/// Room for the words and the longest carry.
const SLOT: u64 = 128 << 10;
/// "respawn" and the version of what follows.
const MAGIC: u64 = u64::from_be_bytes(*b"respawnL");
const WORDS: usize = 11;
const HEAD: usize = WORDS * 8;

/// What is true of a service's log once everything before it is on its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Counts the records.
    number: u64,
    /// Counts what was taken out of the FIFO at once.
    pub(super) turn: u64,
    /// So many bytes of this turn are in the log.
    pub(super) done: u64,
    /// Tells boots apart: what was not flushed before a crash of the host is older than the record, or
    /// younger.
    boot: u64,
    /// Device and inode of the log; `None`: none was opened yet.
    pub(super) log: Option<(u64, u64)>,
    /// How long the log is. What is beyond that was written by a logger that was killed at it.
    pub(super) length: u64,
    /// So many lines could not be written, which the log does not say yet.
    pub(super) dropped: u64,
    /// The beginning of a line whose end was not read yet.
    pub(super) carry: Vec<u8>,
}

/// The file.
#[derive(Debug)]
pub(super) struct RecordFile(File);

impl RecordFile {
    /// Opens or makes it, and reads what is in it.
    ///
    /// # Errors
    /// It can be neither opened nor made nor read.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Record)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path)?;
        let mut record = read(&file)?.unwrap_or_default();
        let boot = this_boot()?;
        if record.boot != boot {
            // What it says of the log may be wrong: nothing is cut.
            record.log = None;
            record.done = 0;
            record.boot = boot;
        }
        Ok((Self(file), record))
    }

    /// What is in one; `None`: there is none, or nothing in it.
    pub(super) fn peek(path: &Path) -> io::Result<Option<Record>> {
        match File::open(path) {
            Ok(file) => read(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a record in the place of the last one but one. On an error the last one holds.
    pub(super) fn commit(&self, record: &mut Record) -> io::Result<()> {
        record.number += 1;
        let bytes = encode(record);
        self.0.write_all_at(&bytes, (record.number % 2) * SLOT)
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let (device, inode) = record.log.unwrap_or((u64::MAX, u64::MAX));
    let words = [
        MAGIC,
        0,
        record.number,
        record.turn,
        record.done,
        record.boot,
        device,
        inode,
        record.length,
        record.dropped,
        record.carry.len() as u64,
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend_from_slice(&record.carry);
    let sum = fnv1a(bytes.iter().skip(16).copied());
    if let Some(place) = bytes.get_mut(8..16) {
        place.copy_from_slice(&sum.to_ne_bytes());
    }
    bytes
}

fn read(file: &File) -> io::Result<Option<Record>> {
    let mut newest: Option<Record> = None;
    for at in [0, SLOT] {
        let Some(record) = read_slot(file, at)? else {
            continue;
        };
        if newest.as_ref().is_none_or(|it| it.number < record.number) {
            newest = Some(record);
        }
    }
    Ok(newest)
}

fn read_slot(file: &File, at: u64) -> io::Result<Option<Record>> {
    let mut head = [0; HEAD];
    if file.read_at(&mut head, at)? < HEAD {
        return Ok(None);
    }
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(head.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    let [
        magic,
        sum,
        number,
        turn,
        done,
        boot,
        device,
        inode,
        length,
        dropped,
        carry,
    ] = words;
    let Some(size) = usize::try_from(carry)
        .ok()
        .filter(|_| carry < SLOT - HEAD as u64)
    else {
        return Ok(None);
    };
    let mut bytes = vec![0; size];
    let read = file.read_at(&mut bytes, at + HEAD as u64)?;
    let all = [head.get(16..).unwrap_or_default(), &bytes].concat();
    if magic != MAGIC || read < size || fnv1a(all) != sum {
        return Ok(None);
    }
    Ok(Some(Record {
        number,
        turn,
        done,
        boot,
        log: (device != u64::MAX).then_some((device, inode)),
        length,
        dropped,
        carry: bytes,
    }))
}

fn this_boot() -> io::Result<u64> {
    Ok(fnv1a(proc::boot_id()?.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_written_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        assert_eq!(RecordFile::peek(&path).unwrap(), None);
        let (file, mut record) = RecordFile::open(&path).unwrap();
        let boot = this_boot().unwrap();
        assert_eq!(
            record,
            Record {
                boot,
                ..Record::default()
            }
        );
        record.log = Some((1, 2));
        record.carry = b"begin of a line".to_vec();
        file.commit(&mut record).unwrap();
        let first = record.clone();
        assert_eq!(RecordFile::peek(&path).unwrap().as_ref(), Some(&first));
        record.length = 7;
        record.carry = vec![b'x'; 64 << 10];
        file.commit(&mut record).unwrap();
        assert_eq!(RecordFile::open(&path).unwrap().1, record);
        let mut other = record.clone();
        other.boot += 1;
        other.number += 1;
        std::fs::write(dir.path().join("other"), encode(&other)).unwrap();
        let (_, other) = RecordFile::open(&dir.path().join("other")).unwrap();
        assert_eq!(
            (other.log, other.boot, other.turn),
            (None, boot, record.turn)
        );
        // Each cut and each damaged byte of the newer one leaves the older one.
        let text = std::fs::read(&path).unwrap();
        let bytes = encode(&record);
        let at = usize::try_from((record.number % 2) * SLOT).unwrap();
        for place in (0..bytes.len()).step_by(97).chain([8, 16, bytes.len() - 1]) {
            let mut damaged = text.clone();
            damaged[at + place] ^= 0x55;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(RecordFile::peek(&path).unwrap().as_ref(), Some(&first));
        }
    }
}

//! Reads a kernel ring buffer, also without taking anything out of it, and counters likewise.
//!
//! Waits for nothing.

use std::borrow::Cow;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use nix::libc::off_t;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// In a record's header: it is being written.
const BUSY: u32 = 1 << 31;
/// In a record's header: it was given up.
const DISCARDED: u32 = 1 << 30;
/// The header: length and flags, and where its page is.
const HEADER_BYTES: usize = 8;

/// A ring buffer of the kernel's, and its one reader. Its descriptor is readable when there is
/// something to read, if nothing was left in it before.
pub(crate) struct Ring {
    fd: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
    page: usize,
    bytes: usize,
}

/// What stands at a place of the ring.
struct RingEntry<'a> {
    /// `None`: the kernel has given it up.
    record: Option<Cow<'a, [u8]>>,
    /// Where the next one begins.
    end: usize,
}

impl Ring {
    /// `bytes` is the size of the map.
    ///
    /// # Errors
    /// It is not a ring buffer of that size.
    pub(crate) fn of(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let page = page_bytes()?;
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Ok(Self {
            fd: map.try_clone_to_owned()?,
            consumer: Mapping::new(map, page, 0, writable)?,
            // The data follow on the producer's page, twice; mapped once they take half the memory.
            producer: Mapping::new(map, page + bytes, page, ProtFlags::PROT_READ)?,
            page,
            bytes,
        })
    }

    /// The records that have not been taken out, oldest first, and no more than so many.
    ///
    /// # Errors
    /// What is in it is no such ring's.
    pub(crate) fn waiting(&self, most: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut position = self.position();
        let mut records = Vec::new();
        while records.len() < most
            && let Some(entry) = self.entry(position)?
        {
            records.extend(entry.record.map(Cow::into_owned));
            position = entry.end;
        }
        Ok(records)
    }

    /// Reads the next record and takes it out.
    pub(crate) fn next<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut position = self.position();
        loop {
            let RingEntry { record, end } = self.entry(position).ok()??;
            position = end;
            // The kernel may write there from then on.
            let take_out = || self.consumer.word(0).store(end, Ordering::SeqCst);
            let Some(record) = record else {
                take_out();
                continue;
            };
            let read = read(&record);
            take_out();
            return Some(read);
        }
    }

    fn position(&self) -> usize {
        self.consumer.word(0).load(Ordering::SeqCst)
    }

    /// What stands there, if it has been written.
    ///
    /// The kernel wakes the reader for a record that finds all before it taken out. Hence what was
    /// taken out must be seen by others before anybody looks here whether more has come.
    fn entry(&self, position: usize) -> io::Result<Option<RingEntry<'_>>> {
        if position == self.producer.word(0).load(Ordering::SeqCst) {
            return Ok(None);
        }
        let header = self.page + (position & (self.bytes - 1));
        let header = self.producer.header(header).load(Ordering::SeqCst);
        if header & BUSY != 0 {
            return Ok(None);
        }
        let length = usize::try_from(header & !DISCARDED).unwrap_or(usize::MAX);
        let start = position.wrapping_add(HEADER_BYTES) & (self.bytes - 1);
        let data = &self.producer.bytes()[self.page..];
        // Where the data end a record goes on at their beginning.
        let before_end = length.min(self.bytes - start);
        let (front, rest) = (&data[start..start + before_end], length - before_end);
        let record = match data.get(..rest).ok_or(io::ErrorKind::InvalidData)? {
            [] => Cow::Borrowed(front),
            rest => Cow::Owned([front, rest].concat()),
        };
        Ok(Some(RingEntry {
            record: (header & DISCARDED == 0).then_some(record),
            end: position.wrapping_add((HEADER_BYTES + length).next_multiple_of(8)),
        }))
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The words of an array that can be mapped. They are read without a system call, during which
/// the kernel would skip programs on perf events.
pub(crate) struct Counters(Mapping);

impl Counters {
    /// # Errors
    /// The map cannot be mapped.
    pub(crate) fn of(array: BorrowedFd<'_>) -> io::Result<Self> {
        let page = Mapping::new(array, page_bytes()?, 0, ProtFlags::PROT_READ)?;
        Ok(Self(page))
    }

    /// What one of them is now.
    pub(crate) fn get(&self, index: u32) -> u64 {
        self.0.word(index as usize * 8).load(Ordering::Acquire) as u64
    }
}

fn page_bytes() -> io::Result<usize> {
    usize::try_from(super::page_size()).map_err(io::Error::other)
}

/// A part of the map.
struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory of the whole process, read and written word by word where it may change.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(
        map: BorrowedFd<'_>,
        length: usize,
        offset: usize,
        access: ProtFlags,
    ) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let size = NonZeroUsize::new(length).ok_or_else(invalid)?;
        let offset = off_t::try_from(offset).map_err(|_| invalid())?;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let address = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, map, offset) }?;
        Ok(Self {
            address: address.cast(),
            length,
        })
    }

    /// The word at `at`, which the kernel or the reader may change at any time.
    fn word(&self, at: usize) -> &AtomicUsize {
        assert!(at.is_multiple_of(8) && at + 8 <= self.length);
        // SAFETY: inside of the mapping, which is as old as the borrow, and aligned, by the line
        // above. Others write it as one word.
        unsafe { self.address.add(at).cast().as_ref() }
    }

    fn header(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(8) && at + 4 <= self.length);
        // SAFETY: as above.
        unsafe { self.address.add(at).cast().as_ref() }
    }

    /// All of it. What has been written and not taken out is not written again: only that may be
    /// looked at.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is so long, is readable, and lives as long as the borrow.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, is unmapped once, and nothing borrows it any more.
        let _ = unsafe { munmap(self.address.cast(), self.length) };
    }
}

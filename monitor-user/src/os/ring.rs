//! Looks into a kernel ring buffer without taking anything out of it, and reads a counter likewise.
//!
//! Waits for nothing. One reader, who takes out, is elsewhere; while this looks he must not.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
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

/// Every record that is in the ring and has not been taken out, oldest first. `bytes` is the size
/// of the map.
///
/// # Errors
/// It is not a ring buffer of that size.
pub(crate) fn waiting(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Vec<Vec<u8>>> {
    let page = page_bytes()?;
    let consumer = Mapping::new(map, page, 0)?;
    // The data follow on the producer's page, twice, so that no record is in two parts.
    let producer = Mapping::new(map, page + 2 * bytes, page)?;
    let mut position = consumer.word(0).load(Ordering::Acquire);
    let end = producer.word(0).load(Ordering::Acquire);
    let mut records = Vec::new();
    while position != end {
        let at = page + (position & (bytes - 1));
        let header = producer.header(at).load(Ordering::Acquire);
        if header & BUSY != 0 {
            break;
        }
        let length = usize::try_from(header & !DISCARDED).unwrap_or(usize::MAX);
        let start = at + HEADER_BYTES;
        if header & DISCARDED == 0 {
            let record = producer.bytes().get(start..start.saturating_add(length));
            records.push(record.ok_or(io::ErrorKind::InvalidData)?.to_vec());
        }
        position = position.wrapping_add((HEADER_BYTES + length).next_multiple_of(8));
    }
    Ok(records)
}

/// The words of an array that can be mapped. They are read without a system call, during which
/// the kernel would skip programs on perf events.
pub(crate) struct Counters(Mapping);

impl Counters {
    /// # Errors
    /// The map cannot be mapped.
    pub(crate) fn of(array: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(Mapping::new(array, page_bytes()?, 0)?))
    }

    /// What one of them is now.
    pub(crate) fn get(&self, index: u32) -> u64 {
        self.0.word(index as usize * 8).load(Ordering::Acquire) as u64
    }
}

fn page_bytes() -> io::Result<usize> {
    usize::try_from(super::page_size()).map_err(io::Error::other)
}

/// A part of the map, mapped to be read.
struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory of the whole process, which is only read, word by word where it may change.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, length: usize, offset: usize) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let size = NonZeroUsize::new(length).ok_or_else(invalid)?;
        let offset = off_t::try_from(offset).map_err(|_| invalid())?;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let address = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                map,
                offset,
            )
        }?;
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
